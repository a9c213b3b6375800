package dataplane_test

import (
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
	nobody := f.token(map[string]any{"oid": lowID, "sub": lowID})
	// What each handler reads before it calls: good requests, so that the refusal is the first thing that can be wrong.
	bodies := map[string]string{
		"create": `{"kty":"EC"}`, "restore": `{"value":"AAAA"}`, "rng": `{"count":16}`, "upload": `{"value":"{}"}`, "download": downloadBody(2, three()...),
		"rotationpolicy": `{"lifetimeActions":[],"attributes":{}}`, "sign": `{"alg":"ES256","value":"AAAA"}`, "verify": `{"alg":"ES256","digest":"AAAA","value":"AAAA"}`,
		"PUT {name}": `{"key":{"kty":"EC","crv":"P-256"}}`, "PATCH {name}": `{"tags":{}}`, "PATCH {version}": `{"tags":{}}`,
		"roleDefinitions": `{"properties":{"roleName":"x"}}`, "roleAssignments": `{"properties":{"roleDefinitionId":"x","principalId":"x"}}`,
		"settings": `{"value":"true"}`, "release": `{"target":"a.b.c"}`,
	}
	for _, crypt := range []string{"encrypt", "decrypt", "wrapkey", "unwrapkey"} {
		bodies[crypt] = `{"alg":"RSA-OAEP-256","value":"AAAA"}`
	}
	fill := strings.NewReplacer("{name}", "k", "{version}", strings.Repeat("0", 32), "{id}", adminID)
	table, before := dataplane.Actions(), f.snapshot()
	seen := map[string]bool{}
	for _, route := range dataplane.Routes() {
		method, pattern := route[0], route[1]
		name := method + " " + pattern
		seen[name] = true
		action, listed := table[name]
		if !listed {
			t.Errorf("%s has no entry in the table of data actions", name)
			continue
		}
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
		w := f.do(request{method: method, path: fill.Replace(pattern), token: nobody, body: body})
		if code := errorOf(t, w); w.Code != 403 || code != "AccessDenied" {
			t.Errorf("%s, by a caller without roles: %d %s, want 403 AccessDenied: %s", name, w.Code, code, w.Body)
			continue
		}
		m := refusalText.FindStringSubmatch(w.Body.String())
		if m == nil {
			t.Errorf("%s: the refusal names no action: %s", name, w.Body)
			continue
		}
		if recorded := c.ended[len(c.ended)-1].Action; recorded != action {
			t.Errorf("%s is recorded as %q, want %q", name, recorded, action)
		}
		if access.Action(m[1]) != action {
			t.Errorf("%s asks for %s, and the table says %s", name, m[1], action)
		}
		if want := scopeOf(pattern); m[2] != want {
			t.Errorf("%s asks at scope %s, want %s", name, m[2], want)
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
