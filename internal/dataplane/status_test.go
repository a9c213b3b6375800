package dataplane_test

import (
	"fmt"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"strongroom/internal/access"
)

// Covers A1: who may restore one key only sees how the restore that he began stands, and so does who may ask for that key. Nobody
// else does, and nobody learns which jobs there are.
func TestStatusOfAKeyRestore(t *testing.T) {
	f := newFixture(t, "alpha")
	f.activate("alpha")
	const (
		starterRole = "c0de0000-0000-4000-8000-000000000001"
		beginner    = "3333333a-3333-4333-8333-333333333333" // may begin at /keys/k, and has no right to ask
		asker       = "44444444-4444-4444-8444-444444444444" // Restore at /keys/k
		elsewhere   = "55555555-5555-4555-8555-555555555555" // Restore at /keys/other
		backsUp     = "66666666-6666-4666-8666-666666666666" // Backup in the whole HSM
	)
	token := func(id string) string { return f.token(map[string]any{"oid": id, "sub": id}) }
	must := func(r request, status int) *httptest.ResponseRecorder {
		t.Helper()
		w := f.do(r)
		if w.Code != status {
			t.Fatalf("%s %s: %d %s, want %d", r.method, r.path, w.Code, w.Body, status)
		}
		return w
	}
	const authorization = "/providers/Microsoft.Authorization"
	must(request{method: "PUT", path: authorization + "/roleDefinitions/" + starterRole, body: `{"properties":{"roleName":"Starters","description":"d","type":"CustomRole","permissions":[{"actions":[],"notActions":[],` +
		`"dataActions":["Microsoft.KeyVault/managedHsm/restore/start/action"],"notDataActions":[]}],"assignableScopes":["/"]}}`}, 201)
	for i, a := range []struct{ scope, role, principal string }{
		{"/keys/k", starterRole, beginner}, {"/keys/k", access.RoleRestore, asker}, {"/keys/other", access.RoleRestore, elsewhere}, {"", access.RoleBackup, backsUp},
	} {
		name := fmt.Sprintf("c0de0000-0000-4000-8000-00000000001%d", i)
		must(request{method: "PUT", path: a.scope + authorization + "/roleAssignments/" + name,
			body: `{"properties":{"roleDefinitionId":"Microsoft.KeyVault/providers/Microsoft.Authorization/roleDefinitions/` + a.role + `","principalId":"` + a.principal + `"}}`}, 201)
	}
	const place = `{"sasTokenParameters":{"storageResourceUri":"https://a.example/b","token":"t"},"folderToRestore":"mhsm-a-1","folder":"mhsm-a-1"}`
	begin := func(path, token string) string {
		t.Helper()
		w := must(request{method: "PUT", path: path, token: token, body: place}, 202)
		at, err := url.Parse(w.Header().Get("Azure-AsyncOperation"))
		if err != nil || at.Path == "" {
			t.Fatalf("Azure-AsyncOperation: %q, %v", w.Header().Get("Azure-AsyncOperation"), err)
		}
		return at.Path
	}
	own, whole := begin("/keys/K/restore", token(beginner)), begin("/restore", "")
	const unknown = "/restore/00000000000000000000000000000000/pending"
	strangers := map[string]string{}
	for _, c := range []struct {
		what, caller, path string
		status             int
	}{
		{"his own", beginner, own, 200}, {"his own, spelled otherwise", strings.ToUpper(beginner), own, 200}, {"of the key that he may ask for", asker, own, 200}, {"of any, by an administrator", adminID, own, 200},
		{"of a key that is not his", elsewhere, own, 403}, {"of restores, by who backs up", backsUp, own, 403}, {"of anything, by nobody", lowID, own, 403},
		{"of the whole HSM", beginner, whole, 403}, {"of the whole HSM", asker, whole, 403}, {"that is none", beginner, unknown, 403}, {"that is none", asker, unknown, 403}, {"that is none", lowID, unknown, 403},
		{"that is no backup", beginner, strings.Replace(own, "/restore/", "/backup/", 1), 403}, {"that is none, for an administrator", adminID, unknown, 404},
	} {
		w := f.do(request{method: "GET", path: c.path, token: token(c.caller)})
		if w.Code != c.status {
			t.Errorf("%s asks for a job %s: %d %s, want %d", c.caller, c.what, w.Code, w.Body, c.status)
		}
		if c.status == 403 && strings.HasPrefix(c.path, "/restore/") {
			said, _, _ := strings.Cut(w.Body.String(), "(Activity ID") // which is another each time
			if before, asked := strangers[c.caller]; asked && before != said {
				t.Errorf("%s is refused in two ways: %s and %s", c.caller, before, said)
			}
			strangers[c.caller] = said
		}
	}
	for _, who := range []string{beginner, asker} { // nor what else is on the HSM
		for _, path := range []string{"/backup", "/restore"} {
			must(request{method: "GET", path: path, token: token(who)}, 403)
		}
	}
}
