package dataplane_test

import (
	"encoding/json"
	"strings"
	"testing"
)

// The life of a role and an assignment in the forms that stock clients send and read.
func TestRolesOnTheWire(t *testing.T) {
	f := newFixture(t, "alpha")
	f.activate("alpha")
	const (
		definitions = "providers/Microsoft.Authorization/roleDefinitions"
		assignments = "providers/Microsoft.Authorization/roleAssignments"
		guid        = "c0de0000-0000-4000-8000-000000000001"
	)
	type role struct {
		ID, Name, Type string
		Properties     struct {
			RoleName, Type   string
			AssignableScopes []string
			Permissions      []struct{ DataActions, Actions []string }
		}
	}
	call := func(method, path, body string, status int, into any) {
		t.Helper()
		w := f.do(request{method: method, path: path, body: body})
		if w.Code != status {
			t.Fatalf("%s %s: %d %s", method, path, w.Code, w.Body)
		}
		if err := json.Unmarshal(w.Body.Bytes(), into); err != nil {
			t.Fatalf("%s %s: %v", method, path, err)
		}
	}
	for _, scope := range []string{"/", "//", "///", "/keys/", "/keys/payroll/"} {
		var list struct{ Value []role }
		call("GET", scope+definitions, "", 200, &list)
		if len(list.Value) != 10 || list.Value[0].ID != "Microsoft.KeyVault/providers/Microsoft.Authorization/roleDefinitions/"+list.Value[0].Name || list.Value[0].Properties.Type != "AKVBuiltInRole" {
			t.Errorf("definitions at %s: %d, the first %+v", scope, len(list.Value), list.Value[0])
		}
	}
	var made role
	call("PUT", "/"+definitions+"/"+guid, `{"properties":{"roleName":"Signers","description":"d","type":"CustomRole","permissions":[{"actions":[],"notActions":[],"dataActions":["Microsoft.KeyVault/managedHsm/keys/sign/action"],"notDataActions":[]}],"assignableScopes":["/"]}}`, 201, &made)
	if made.Name != guid || made.Type != "Microsoft.Authorization/roleDefinitions" || made.Properties.Type != "CustomRole" || made.Properties.Permissions[0].DataActions[0] != "Microsoft.KeyVault/managedHsm/keys/sign/action" || made.Properties.Permissions[0].Actions == nil {
		t.Errorf("made %+v", made)
	}
	call("GET", "/"+definitions+"/"+strings.ToUpper(guid), "", 200, &made)

	type assignment struct {
		ID, Name, Type string
		Properties     struct{ PrincipalID, RoleDefinitionID, Scope string }
	}
	var given assignment
	low := f.token(map[string]any{"oid": lowID, "sub": lowID})
	sign := func() int {
		w := f.do(request{method: "POST", path: "/keys/payroll/sign", token: low, body: `{"alg":"ES256","value":"` + strings.Repeat("A", 43) + `"}`})
		return w.Code
	}
	call("POST", "/keys/payroll/create", `{"kty":"EC"}`, 200, &struct{}{})
	if code := sign(); code != 403 {
		t.Errorf("sign without a role: %d", code)
	}
	call("PUT", "/keys/payroll/"+assignments+"/"+guid, `{"properties":{"roleDefinitionId":"`+made.ID+`","principalId":"`+lowID+`"}}`, 201, &given)
	if given.ID != "/providers/Microsoft.Authorization/roleAssignments/"+guid || given.Properties.Scope != "/keys/payroll" || given.Properties.RoleDefinitionID != made.ID {
		t.Errorf("given %+v", given)
	}
	if code := sign(); code != 200 {
		t.Errorf("sign with the role: %d", code)
	}
	var list struct{ Value []assignment }
	call("GET", "/keys/payroll/"+assignments, "", 200, &list)
	if len(list.Value) != 1 || list.Value[0] != given {
		t.Errorf("assignments: %+v", list)
	}
	for query, n := range map[string]int{"$filter=atScope()": 4, "$filter=principalId%20eq%20" + lowID: 1, "$filter=principalId+eq+'" + lowID + "'": 1} {
		w := f.do(request{method: "GET", path: "/keys/payroll/" + assignments, query: "api-version=7.4&" + query})
		if err := json.Unmarshal(w.Body.Bytes(), &list); err != nil || len(list.Value) != n {
			t.Errorf("%s: %d assignments, want %d: %s", query, len(list.Value), n, w.Body)
		}
	}
	call("DELETE", "/keys/payroll/"+assignments+"/"+guid, "", 200, &given)
	if code := sign(); code != 403 {
		t.Errorf("sign once the role is gone: %d", code)
	}
	call("DELETE", "/"+definitions+"/"+guid, "", 200, &made)
}
