package dataplane_test

import (
	"encoding/json"
	"strings"
	"testing"

	"strongroom/internal/access"
)

// An administrator reads and changes the setting, a user reads it, and it is this HSM's only.
func TestSettingsOnTheWire(t *testing.T) {
	f := newFixture(t, "alpha", "beta", "gamma")
	f.activate("alpha")
	f.activate("beta")
	const arm = "AllowKeyManagementOperationsThroughARM"
	user := f.token(map[string]any{"oid": lowID, "sub": lowID})
	f.assign("alpha", lowID, access.RoleCryptoUser)
	is := func(r request, status int, body string) {
		t.Helper()
		w := f.do(r)
		got := strings.TrimSpace(w.Body.String())
		if status >= 400 {
			got = errorOf(t, w)
		}
		if w.Code != status || got != body {
			t.Errorf("%s %s: %d %s, want %d %s", r.method, r.path, w.Code, w.Body, status, body)
		}
	}
	show := func(value string) string { return `{"name":"` + arm + `","type":"boolean","value":"` + value + `"}` }
	path := "/settings/" + arm

	is(request{method: "GET", path: "/settings"}, 200, `{"settings":[`+show("false")+`]}`)
	is(request{method: "GET", path: path, token: user}, 200, show("false"))
	is(request{method: "PATCH", path: path, body: `{"value":"true"}`, token: user}, 403, "AccessDenied")
	is(request{method: "GET", path: path}, 200, show("false"))
	is(request{method: "PATCH", path: path, body: `{"value":"True"}`}, 200, show("true"))
	is(request{method: "PATCH", path: path, body: `{"value":"true"}`}, 200, show("true"))
	is(request{method: "GET", path: "/settings", token: user}, 200, `{"settings":[`+show("true")+`]}`)
	is(request{method: "GET", path: path, hsm: "beta"}, 200, show("false"))
	is(request{method: "PATCH", path: "/settings/" + strings.ToLower(arm), body: `{"value":"false"}`}, 200, show("false"))

	is(request{method: "PATCH", path: path, body: `{"value":true}`}, 400, "BadParameter")
	is(request{method: "PATCH", path: path, body: `{"value":"yes"}`}, 400, "BadParameter")
	is(request{method: "PATCH", path: path, body: `{}`}, 400, "BadParameter")
	is(request{method: "PATCH", path: "/settings/Other", body: `{"value":"true"}`}, 404, "SettingNotFound")
	is(request{method: "GET", path: "/settings/Other"}, 404, "SettingNotFound")
	is(request{method: "GET", path: "/settings", hsm: "gamma"}, 403, "HsmNotActivated")
	is(request{method: "PATCH", path: path, hsm: "gamma", body: `{"value":"true"}`}, 403, "HsmNotActivated")
	is(request{method: "DELETE", path: path}, 405, "MethodNotAllowed")
}

// assign gives a principal a role in the whole HSM, as the administrator does.
func (f *fixture) assign(hsm, principal, role string) {
	f.t.Helper()
	body, _ := json.Marshal(map[string]any{"properties": map[string]string{"principalId": principal, "roleDefinitionId": role}})
	if w := f.do(request{method: "PUT", path: "/providers/Microsoft.Authorization/roleAssignments/" + principal[:8] + role[8:], hsm: hsm, body: string(body)}); w.Code != 201 {
		f.t.Fatalf("assign: %d %s", w.Code, w.Body)
	}
}
