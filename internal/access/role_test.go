package access

import (
	"strings"
	"testing"

	"pgregory.net/rapid"
)

const (
	alice = "aaaaaaaa-1111-4111-8111-111111111111"
	bob   = "bbbbbbbb-1111-4111-8111-111111111111"
	team  = "cccccccc-1111-4111-8111-111111111111"
)

func roleNamed(t *testing.T, id string) Role {
	t.Helper()
	for _, r := range BuiltInRoles() {
		if r.ID == id {
			return r
		}
	}
	t.Fatalf("no role %s", id)
	return Role{}
}

// Covers A1, A3: default deny, one way to compare names, scopes that cover exactly what they say.
func TestDecide(t *testing.T) {
	user := func(scope string) []Assignment {
		return []Assignment{{Name: "n", PrincipalID: alice, RoleDefinitionID: RoleCryptoUser, Scope: scope}}
	}
	me := Caller{ObjectID: alice}
	cases := map[string]struct {
		assignments []Assignment
		caller      Caller
		action      Action
		scope       string
		want        bool
	}{
		"HSM-wide role, one key":          {user("/"), me, KeySign, ScopeKey("k"), true},
		"HSM-wide role at /keys, one key": {user("/keys"), me, KeySign, ScopeKey("k"), true},
		"HSM-wide role at /keys, the HSM": {user("/keys"), me, KeyRead, ScopeKeys, true},
		"role on the key":                 {user("/keys/k"), me, KeySign, ScopeKey("k"), true},
		"role on the key, other case":     {user("/keys/MyKey"), me, KeySign, ScopeKey("mykey"), true},
		"role on another key":             {user("/keys/k"), me, KeySign, ScopeKey("k2"), false},
		"role on a prefix of the name":    {user("/keys/key"), me, KeySign, ScopeKey("key-1"), false},
		"role on a key, list all keys":    {user("/keys/k"), me, KeyRead, ScopeKeys, false},
		"role on a key, the whole HSM":    {user("/keys/k"), me, KeyRead, ScopeRoot, false},
		"create a key under its own role": {user("/keys/new"), me, KeyCreate, ScopeKey("new"), true},
		"no assignment":                   {nil, me, KeySign, ScopeKey("k"), false},
		"somebody else's assignment":      {user("/"), Caller{ObjectID: bob}, KeySign, ScopeKey("k"), false},
		"object ID in capitals":           {user("/"), Caller{ObjectID: strings.ToUpper(alice)}, KeySign, ScopeKey("k"), true},
		"object ID with a space":          {user("/"), Caller{ObjectID: alice + " "}, KeySign, ScopeKey("k"), false},
		"a group's assignment":            {[]Assignment{{PrincipalID: team, RoleDefinitionID: RoleCryptoUser, Scope: "/"}}, Caller{ObjectID: bob, Groups: []string{"x", team}}, KeySign, ScopeKey("k"), true},
		"groups without a principal":      {[]Assignment{{PrincipalID: team, RoleDefinitionID: RoleCryptoUser, Scope: "/"}}, Caller{Groups: []string{team}}, KeySign, ScopeKey("k"), false},
		"nobody, assignment to nobody":    {[]Assignment{{PrincipalID: "", RoleDefinitionID: RoleCryptoUser, Scope: "/"}}, Caller{}, KeySign, ScopeKey("k"), false},
		"empty group, empty principal":    {[]Assignment{{PrincipalID: "", RoleDefinitionID: RoleCryptoUser, Scope: "/"}}, Caller{ObjectID: bob, Groups: []string{""}}, KeySign, ScopeKey("k"), false},
		"a sub in other case is another":  {[]Assignment{{PrincipalID: "root", RoleDefinitionID: RoleCryptoUser, Scope: "/"}}, Caller{ObjectID: "Root"}, KeySign, ScopeKey("k"), false},
		"a sub with a space is another":   {[]Assignment{{PrincipalID: "root", RoleDefinitionID: RoleCryptoUser, Scope: "/"}}, Caller{ObjectID: "root "}, KeySign, ScopeKey("k"), false},
		"the app ID is no principal":      {user("/"), Caller{ObjectID: bob, AppID: alice}, KeySign, ScopeKey("k"), false},
		"the name is no principal":        {user("/"), Caller{ObjectID: bob, Name: alice}, KeySign, ScopeKey("k"), false},
		"role that is not defined":        {[]Assignment{{PrincipalID: alice, RoleDefinitionID: bob, Scope: "/"}}, me, KeySign, ScopeKey("k"), false},
		"role ID in capitals":             {[]Assignment{{PrincipalID: alice, RoleDefinitionID: strings.ToUpper(RoleCryptoUser), Scope: "/"}}, me, KeySign, ScopeKey("k"), true},
		"user on the security domain":     {user("/"), me, SecurityDomainDownload, ScopeRoot, false},
		"no action":                       {user("/"), me, "", ScopeRoot, false},
		"action in other case":            {user("/"), me, "/Keys/Sign/Action", ScopeKey("k"), false},
		"assignment without scope":        {user(""), me, KeySign, ScopeKey("k"), false},
		"assignment at /keys/":            {user("/keys/"), me, KeySign, ScopeKey("k"), false},
		"assignment with a Kelvin sign":   {user("/keys/\u212a"), me, KeySign, ScopeKey("k"), false},
		"scope with a Kelvin sign":        {user("/keys/k"), me, KeySign, ScopeKey("\u212a"), false},
		"scope with a slash in the name":  {user("/"), me, KeySign, ScopeKey("k/../x"), false},
		"scope of no key":                 {user("/"), me, KeySign, ScopeKey(""), false},
		"scope of another tree":           {user("/"), me, KeySign, "/backup", false},
		"empty scope":                     {user("/"), me, KeySign, "", false},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			d := Decide(BuiltInRoles(), c.assignments, c.caller, c.action, c.scope)
			if d.Allowed != c.want {
				t.Errorf("allowed %v, want %v", d.Allowed, c.want)
			}
			if d.Allowed == (d.By == "") {
				t.Errorf("allowed %v by %q: a permission names its source, a refusal has none", d.Allowed, d.By)
			}
		})
	}
}

func TestNotDataActionsAreOfTheirRoleOnly(t *testing.T) {
	almost := Role{ID: bob, Name: "all but sign", Custom: true, DataActions: []Action{KeySign, KeyVerify}, NotDataActions: []Action{KeySign}}
	roles := append(BuiltInRoles(), almost)
	one := []Assignment{{PrincipalID: alice, RoleDefinitionID: bob, Scope: "/"}}
	if Decide(roles, one, Caller{ObjectID: alice}, KeySign, "/").Allowed {
		t.Error("the role grants what it takes out itself")
	}
	if !Decide(roles, one, Caller{ObjectID: alice}, KeyVerify, "/").Allowed {
		t.Error("the role does not grant the rest")
	}
	two := append(one, Assignment{PrincipalID: alice, RoleDefinitionID: RoleCryptoUser, Scope: "/"})
	if !Decide(roles, two, Caller{ObjectID: alice}, KeySign, "/").Allowed {
		t.Error("excluded is not denied: another role still grants it")
	}
}

// Who may do the things that must not be mixed up. Covers S13 and K3's neighbourhood: exactly these roles.
func TestBuiltInRolesGrant(t *testing.T) {
	cases := map[Action][]string{
		SecurityDomainDownload:            {RoleAdministrator},
		SecurityDomainDownloadRead:        {RoleAdministrator},
		SecurityDomainUpload:              {RoleAdministrator},
		SecurityDomainUploadRead:          {RoleAdministrator},
		TransferKeyRead:                   {RoleAdministrator},
		KeyCreate:                         {RoleCryptoUser},
		KeyWrite:                          {RoleCryptoUser},
		RandomBytes:                       {RoleCryptoUser},
		KeyRotate:                         {RoleCryptoUser},
		KeyDelete:                         {RoleCryptoUser},
		DeletedKeyRecover:                 {RoleCryptoOfficer},
		KeySign:                           {RoleCryptoUser},
		KeyVerify:                         {RoleCryptoUser},
		KeyRead:                           {RoleCryptoUser, RoleCryptoAuditor, RoleServiceEncryption},
		KeyBackup:                         {RoleCryptoUser, RoleBackup},
		KeyRestore:                        {RoleCryptoUser, RoleRestore},
		"/keys/wrap/action":               {RoleCryptoUser, RoleServiceEncryption},
		"/keys/release/action":            {RoleCryptoUser, RoleServiceRelease},
		"/keys/deletedKeys/delete":        {RoleCryptoOfficer},
		"/keys/deletedKeys/read/action":   {RoleCryptoOfficer, RoleCryptoAuditor},
		"/roleAssignments/write/action":   {RoleAdministrator, RoleCryptoOfficer, RolePolicyAdministrator},
		"/roleAssignments/read/action":    {RoleAdministrator, RoleCryptoOfficer, RoleCryptoUser, RolePolicyAdministrator, RoleCryptoAuditor},
		"/roleDefinitions/delete/action":  {RoleAdministrator, RoleCryptoOfficer, RolePolicyAdministrator},
		"/backup/start/action":            {RoleAdministrator, RoleBackup},
		"/restore/start/action":           {RoleAdministrator, RoleRestore},
		"/keys/deletedKeys/delete/action": nil, // not a form that exists
	}
	for action, want := range cases {
		t.Run(string(action), func(t *testing.T) {
			granted := map[string]bool{}
			for _, r := range BuiltInRoles() {
				if r.grants(action) {
					granted[r.ID] = true
				}
			}
			for _, id := range want {
				if !granted[id] {
					t.Errorf("%s lacks it", roleNamed(t, id).Name)
				}
				delete(granted, id)
			}
			for id := range granted {
				t.Errorf("%s has it and should not", roleNamed(t, id).Name)
			}
		})
	}
	seen := map[string]bool{}
	for _, r := range BuiltInRoles() {
		if !IsGUID(r.ID) || seen[r.ID] || r.Custom || !strings.HasPrefix(r.Name, "Managed HSM ") {
			t.Errorf("role %q (%s) is not well-formed or not unique", r.Name, r.ID)
		}
		seen[r.ID] = true
	}
}

// More assignments never take a right away, and without assignments nobody has one.
func TestDecideIsMonotonic(t *testing.T) {
	roles := BuiltInRoles()
	var actions []Action
	for _, r := range roles {
		actions = append(actions, r.DataActions...)
	}
	rapid.Check(t, func(t *rapid.T) {
		assignment := rapid.Custom(func(t *rapid.T) Assignment {
			return Assignment{
				PrincipalID:      rapid.SampledFrom([]string{alice, bob, team, ""}).Draw(t, "principal"),
				RoleDefinitionID: rapid.SampledFrom(roles).Draw(t, "role").ID,
				Scope:            rapid.SampledFrom([]string{"/", "/keys", "/keys/a", "/keys/B", "/keys/", "nonsense"}).Draw(t, "scope"),
			}
		})
		list := rapid.SliceOfN(assignment, 0, 5).Draw(t, "assignments")
		caller := Caller{ObjectID: rapid.SampledFrom([]string{alice, bob, ""}).Draw(t, "caller"), Groups: rapid.SliceOfN(rapid.SampledFrom([]string{team, ""}), 0, 2).Draw(t, "groups")}
		action := rapid.SampledFrom(actions).Draw(t, "action")
		scope := rapid.SampledFrom([]string{"/", "/keys", "/keys/A", "/keys/b", "/keys/c", "/keys/a/b"}).Draw(t, "scope")
		if Decide(roles, nil, caller, action, scope).Allowed || Decide(nil, list, caller, action, scope).Allowed {
			t.Fatal("allowed out of nothing")
		}
		all := Decide(roles, list, caller, action, scope).Allowed
		some := false
		for i := range list {
			some = some || Decide(roles, list[i:i+1], caller, action, scope).Allowed
		}
		if all != some {
			t.Fatalf("together %v, one by one %v", all, some)
		}
	})
}
