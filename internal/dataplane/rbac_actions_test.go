package dataplane_test

import (
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"

	"strongroom/internal/access"
	"strongroom/internal/dataplane"
)

// refusalText is how a refusal names what the caller may not do, and where.
var refusalText = regexp.MustCompile(`may not do Microsoft\.KeyVault/managedHsm(\S+) at scope (\S+);`)

// Covers A1: every route has its data action in the table, and asks for exactly that one, before anything else: a
// caller without roles is told which, and where. The record of the call says the same.
func TestEveryRouteAsksForItsAction(t *testing.T) {
	f := newFixture(t, "alpha")
	f.activate("alpha")
	c := &clerk{}
	f.configure(func(cfg *dataplane.Config) { cfg.Recorder = c })
	table, before := dataplane.Actions(), f.snapshot()
	seen := map[string]bool{}
	for _, r := range f.everyRoute() {
		name := r.method + " " + r.pattern
		seen[name] = true
		action, listed := table[name]
		if !listed {
			t.Errorf("%s has no entry in the table of data actions", name)
			continue
		}
		w := f.do(r.request)
		wantRefusal(t, name, w, action, scopeOf(r.pattern))
		if recorded := c.ended[len(c.ended)-1].Action; recorded != action {
			t.Errorf("%s is recorded as %q, want %q", name, recorded, action)
		}
	}
	for name, action := range table {
		if !seen[name] {
			t.Errorf("the table has %s, which is no route", name)
		}
		if !slices.Contains(access.Actions(), action) {
			t.Errorf("%s: %q is no data action of a built-in role: nobody could do it", name, action)
		}
	}
	if f.snapshot() != before {
		t.Error("a refused call changed the store")
	}
	if len(c.intents) != 0 || len(c.ended) != len(seen) {
		t.Errorf("%d intents and %d outcomes of %d refusals: each is one record", len(c.intents), len(c.ended), len(seen))
	}
}

// Covers A1, A8, L1: what changes something asks for its action twice, before the intent is recorded and where it is done. One
// role with that action alone, at that place alone, is enough for the first; when it is taken in between, the second
// refuses, and the intent gets its outcome.
func TestWhatChangesSomethingAsksTwice(t *testing.T) {
	f := newFixture(t, "alpha")
	f.activate("alpha")
	target, err := f.service.Open(t.Context(), "alpha")
	if err != nil {
		t.Fatal(err)
	}
	const role, given = "33333333-3333-4333-8333-333333333333", "44444444-4444-4444-8444-444444444444"
	admin, roles, table, tried := access.Caller{ObjectID: adminID}, target.Roles(), dataplane.Actions(), 0
	for _, r := range f.everyRoute() {
		if !r.changes {
			continue
		}
		tried++
		name, action, scope := r.method+" "+r.pattern, table[r.method+" "+r.pattern], scopeOf(r.pattern)
		if _, err := roles.PutDefinition(t.Context(), admin, access.ScopeRoot, access.Role{ID: role, Name: "one action", DataActions: []access.Action{action}}); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if _, err := roles.PutAssignment(t.Context(), admin, access.Assignment{Name: given, Scope: scope, PrincipalID: lowID, RoleDefinitionID: role}); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		c := &clerk{}
		c.atIntent = func() {
			if _, err := roles.DeleteAssignment(t.Context(), admin, scope, given); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		f.configure(func(cfg *dataplane.Config) { cfg.Recorder = c })
		w := f.do(r.request)
		if len(c.intents) != 1 {
			t.Fatalf("%s, with the right to it: %d intents: %d %s", name, len(c.intents), w.Code, w.Body)
		}
		wantRefusal(t, name+", when the right is taken", w, action, scope)
		if len(c.ended) != 1 || !c.ended[0].Intended || c.ended[0].Code != "AccessDenied" {
			t.Errorf("%s: outcomes %+v", name, c.ended)
		}
	}
	if tried < 20 {
		t.Errorf("only %d routes were tried", tried)
	}
	// A name that is none is refused before anybody is asked about it, to everybody, and also once.
	c := &clerk{}
	f.configure(func(cfg *dataplane.Config) { cfg.Recorder = c })
	for _, token := range []string{"", f.token(map[string]any{"oid": lowID, "sub": lowID})} {
		for _, path := range []string{"/keys/a_b", "/keys/a_b/providers/Microsoft.Authorization/roleAssignments/" + given} {
			if w := f.do(request{method: "DELETE", path: path, token: token}); w.Code != 400 {
				t.Errorf("%s: %d %s", path, w.Code, w.Body)
			}
		}
	}
	if len(c.intents) != 0 || len(c.ended) != 4 {
		t.Errorf("%d intents and %d outcomes for names that are none", len(c.intents), len(c.ended))
	}
}

// routeRequest is a good request to a route, by a caller without roles.
type routeRequest struct {
	request
	pattern string
	changes bool
}

// everyRoute has one for every route.
func (f *fixture) everyRoute() (list []routeRequest) {
	nobody := f.token(map[string]any{"oid": lowID, "sub": lowID})
	// What each handler reads before it calls: good requests, so that the refusal is the first thing that can be wrong.
	bodies := map[string]string{
		"create": `{"kty":"EC"}`, "restore": `{"value":"AAAA"}`, "rng": `{"count":16}`, "upload": `{"value":"{}"}`, "download": downloadBody(2, three()...),
		"rotationpolicy": `{"lifetimeActions":[],"attributes":{}}`, "sign": `{"alg":"ES256","value":"AAAA"}`, "verify": `{"alg":"ES256","digest":"AAAA","value":"AAAA"}`,
		"PUT {name}": `{"key":{"kty":"EC","crv":"P-256"}}`, "PATCH {name}": `{"tags":{}}`, "PATCH {version}": `{"tags":{}}`,
		"roleDefinitions": `{"properties":{"roleName":"x"}}`, "roleAssignments": `{"properties":{"roleDefinitionId":"x","principalId":"x"}}`,
		"settings": `{"value":"true"}`, "release": `{"target":"a.b.c"}`,
		"POST backup": `{"storageResourceUri":"https://a.example/b"}`, "prebackup": `{}`,
		"PUT restore": `{"sasTokenParameters":{"storageResourceUri":"https://a.example/b"},"folderToRestore":"f","folder":"f"}`, "prerestore": `{}`,
	}
	for _, crypt := range []string{"encrypt", "decrypt", "wrapkey", "unwrapkey"} {
		bodies[crypt] = `{"alg":"RSA-OAEP-256","value":"AAAA"}`
	}
	fill := strings.NewReplacer("{name}", "k", "{version}", strings.Repeat("0", 32), "{id}", adminID)
	for _, op := range dataplane.Operations() {
		method, pattern := op.Method, "/"+op.Pattern
		segments := strings.Split(pattern, "/")
		last := segments[len(segments)-1]
		body := bodies[last]
		if b, special := bodies[method+" "+last]; special {
			body = b
		}
		if last == "{id}" {
			body = bodies[segments[len(segments)-2]]
		}
		if strings.HasPrefix(pattern, "/settings/") {
			body = bodies["settings"]
		}
		list = append(list, routeRequest{request{method: method, path: fill.Replace(pattern), token: nobody, body: body}, pattern, op.Changes})
	}
	return list
}

// wantRefusal checks that an answer says that its caller may not do this there.
func wantRefusal(t *testing.T, name string, w *httptest.ResponseRecorder, action access.Action, scope string) {
	t.Helper()
	if code := errorOf(t, w); w.Code != 403 || code != "AccessDenied" {
		t.Errorf("%s: %d %s, want 403 AccessDenied: %s", name, w.Code, code, w.Body)
		return
	}
	m := refusalText.FindStringSubmatch(w.Body.String())
	if m == nil {
		t.Errorf("%s: the refusal names no action: %s", name, w.Body)
		return
	}
	if access.Action(m[1]) != action {
		t.Errorf("%s asks for %s, and the table says %s", name, m[1], action)
	}
	if m[2] != scope {
		t.Errorf("%s asks at scope %s, want %s", name, m[2], scope)
	}
}

// scopeOf is where in the HSM a route asks: at the key that its path names, else in the whole HSM.
func scopeOf(pattern string) string {
	switch {
	case strings.Contains(pattern, "{name}"):
		return access.ScopeKey("k")
	case pattern == "/keys", pattern == "/deletedkeys", pattern == "/keys/restore", strings.HasPrefix(pattern, "/keys/providers"):
		return access.ScopeKeys
	}
	return access.ScopeRoot
}
