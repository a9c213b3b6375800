package dataplane_test

import (
	"encoding/json"
	"strings"
	"testing"

	"strongroom/internal/access"
	"strongroom/internal/dataplane"
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

// What a request for a role or an assignment can have wrong, and what it is told. Nothing is kept of any of it.
func TestRolesOnTheWireRefuse(t *testing.T) {
	f := newFixture(t, "alpha", "early")
	f.activate("alpha")
	const (
		definitions = "/providers/Microsoft.Authorization/roleDefinitions"
		assignments = "/providers/Microsoft.Authorization/roleAssignments"
		guid        = "/c0de0000-0000-4000-8000-000000000001"
		user        = "Microsoft.KeyVault/providers/Microsoft.Authorization/roleDefinitions/" + access.RoleCryptoUser
	)
	role := func(properties string) string { return `{"properties":{"roleName":"Signers",` + properties + `}}` }
	before := f.snapshot()
	for name, row := range map[string]struct {
		r      request
		status int
		code   string
	}{
		"a built-in role's type":      {request{method: "PUT", path: definitions + guid, body: role(`"type":"AKVBuiltInRole"`)}, 400, "BadParameter"},
		"actions of the ARM":          {request{method: "PUT", path: definitions + guid, body: role(`"permissions":[{"actions":["*"]}]`)}, 400, "BadParameter"},
		"not actions of the ARM":      {request{method: "PUT", path: definitions + guid, body: role(`"permissions":[{"notActions":["*"]}]`)}, 400, "BadParameter"},
		"a wildcard":                  {request{method: "PUT", path: definitions + guid, body: role(`"permissions":[{"dataActions":["Microsoft.KeyVault/managedHsm/*"]}]`)}, 400, "BadParameter"},
		"an action of a vault":        {request{method: "PUT", path: definitions + guid, body: role(`"permissions":[{"dataActions":["Microsoft.KeyVault/vaults/keys/read"]}]`)}, 400, "BadParameter"},
		"an unknown one to take out":  {request{method: "PUT", path: definitions + guid, body: role(`"permissions":[{"notDataActions":["x"]}]`)}, 400, "BadParameter"},
		"two sets, one takes out":     {request{method: "PUT", path: definitions + guid, body: role(`"permissions":[{},{"notDataActions":["Microsoft.KeyVault/managedHsm/rng/action"]}]`)}, 400, "BadParameter"},
		"a definition at a key":       {request{method: "PUT", path: "/keys/k" + definitions + guid, body: role(`"permissions":[]`)}, 400, "BadParameter"},
		"no GUID":                     {request{method: "PUT", path: definitions + "/signers", body: role(`"permissions":[]`)}, 400, "BadParameter"},
		"no body":                     {request{method: "PUT", path: definitions + guid}, 400, "BadParameter"},
		"properties that are none":    {request{method: "PUT", path: definitions + guid, body: `{"properties":7}`}, 400, "BadParameter"},
		"a filter of definitions":     {request{method: "GET", path: definitions, query: "api-version=7.4&$filter=roleName+eq+'x'"}, 400, "BadParameter"},
		"a role that is not there":    {request{method: "GET", path: definitions + guid}, 404, "RoleDefinitionNotFound"},
		"an assignment's role":        {request{method: "PUT", path: assignments + guid, body: `{"properties":{"roleDefinitionId":"/` + user + `","principalId":"` + lowID + `"}}`}, 400, "BadParameter"},
		"an assignment's principal":   {request{method: "PUT", path: assignments + guid, body: `{"properties":{"roleDefinitionId":"` + user + `"}}`}, 400, "BadParameter"},
		"an assignment's scope":       {request{method: "PUT", path: "/keys/k_1" + assignments + guid, body: `{"properties":{"roleDefinitionId":"` + user + `","principalId":"` + lowID + `"}}`}, 400, "BadParameter"},
		"a scope that is none":        {request{method: "GET", path: "/secrets" + assignments}, 404, "RouteNotFound"},
		"a filter":                    {request{method: "GET", path: assignments, query: "api-version=7.4&$filter=roleName+eq+'x'"}, 400, "BadParameter"},
		"a filter of nobody":          {request{method: "GET", path: assignments, query: "api-version=7.4&$filter=principalId+eq+''"}, 400, "BadParameter"},
		"a filter with half a quote":  {request{method: "GET", path: assignments, query: "api-version=7.4&$filter=principalId+eq+'" + lowID}, 400, "BadParameter"},
		"a filter with more behind":   {request{method: "GET", path: assignments, query: "api-version=7.4&$filter=principalId+eq+'" + lowID + "'+or+true"}, 400, "BadParameter"},
		"an assignment not there":     {request{method: "DELETE", path: assignments + guid}, 404, "RoleAssignmentNotFound"},
		"before activation":           {request{method: "GET", path: definitions, hsm: "early"}, 403, "HsmNotActivated"},
		"assigned before activation":  {request{method: "PUT", path: assignments + guid, hsm: "early", body: `{"properties":{"roleDefinitionId":"` + user + `","principalId":"` + lowID + `"}}`}, 403, "HsmNotActivated"},
		"a method that is not there":  {request{method: "POST", path: definitions + guid}, 405, "MethodNotAllowed"},
		"a role as an assignment has": {request{method: "PUT", path: assignments + guid, body: `{"properties":{"roleDefinitionId":["x"],"principalId":"` + lowID + `"}}`}, 400, "BadParameter"},
	} {
		w := f.do(row.r)
		if code := errorOf(t, w); w.Code != row.status || code != row.code {
			t.Errorf("%s: %d %s, want %d %s: %s", name, w.Code, code, row.status, row.code, w.Body)
		}
	}
	if f.snapshot() != before {
		t.Error("something was kept of what was refused")
	}
}

// Whatever a filter says, it is one of the two that there are, or refused.
func FuzzAssignmentFilter(f *testing.F) {
	f.Add("atScope()")
	f.Add("principalId eq " + lowID)
	f.Add("principalId eq '" + lowID + "'")
	f.Add("principalId eq ''' or true")
	f.Fuzz(func(t *testing.T, text string) {
		filter, err := dataplane.AssignmentFilter(text)
		if err == nil && text != "" && !(filter.AtScope && text == "atScope()" && filter.Principal == "") &&
			!(filter.Principal != "" && !filter.AtScope && strings.Contains(text, filter.Principal) && !strings.ContainsAny(filter.Principal, "' ")) {
			t.Errorf("%q is read as %+v", text, filter)
		}
	})
}
