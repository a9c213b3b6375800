package access

import (
	"context"
	"crypto/rand"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"strongroom/internal/failure"
	"strongroom/internal/store"
	"strongroom/secret"
)

const (
	roleGUID  = "c0de0000-0000-4000-8000-000000000001"
	otherGUID = "c0de0000-0000-4000-8000-000000000002"
	nameGUID  = "a5516e00-0000-4000-8000-000000000001"
)

// rolesBench is the management of HSM A, which Alice owns.
func rolesBench(t *testing.T) (*Roles, *Authorizer, store.Store) {
	t.Helper()
	st, s := withAdmin(t)
	a := NewAuthorizer(st, s)
	t.Cleanup(a.Close)
	return a.Roles(hsmA, func(context.Context) error { return nil }, func(store.Reader) error { return nil }), a, st
}

// A custom role is made, assigned at one key, changed, and deleted; each change counts for the next call.
func TestCustomRole(t *testing.T) {
	m, a, _ := rolesBench(t)
	ctx, admin, worker := t.Context(), Caller{ObjectID: alice}, Caller{ObjectID: bob}
	may := func(action Action, scope string) bool { return a.Check(ctx, hsmA, worker, action, scope) == nil }

	made, err := m.PutDefinition(ctx, admin, ScopeRoot, Role{ID: strings.ToUpper(roleGUID), Name: "Signers", Description: "sign and nothing else", DataActions: []Action{KeySign, KeyRead}, NotDataActions: []Action{KeyRead}})
	if err != nil || made.ID != roleGUID || !made.Custom {
		t.Fatalf("made %+v, %v", made, err)
	}
	given, err := m.PutAssignment(ctx, admin, Assignment{Name: strings.ToUpper(nameGUID), PrincipalID: bob, RoleDefinitionID: strings.ToUpper(roleGUID), Scope: "/keys/Payroll"})
	if err != nil || given.Name != nameGUID {
		t.Fatalf("given %+v, %v", given, err)
	}
	if !may(KeySign, "/keys/payroll") || may(KeyRead, "/keys/payroll") || may(KeySign, "/keys/other") || may(KeySign, ScopeKeys) {
		t.Error("the role gives something else than it says")
	}
	again, err := m.PutAssignment(ctx, admin, given)
	if err != nil || !cmp.Equal(again, given) {
		t.Errorf("the same again: %+v, %v", again, err)
	}
	made.DataActions, made.NotDataActions = []Action{KeyVerify}, nil
	if _, err := m.PutDefinition(ctx, admin, ScopeKeys, made); err != nil {
		t.Fatal(err)
	}
	if may(KeySign, "/keys/payroll") || !may(KeyVerify, "/keys/payroll") {
		t.Error("the changed role gives what it gave")
	}
	list, err := m.Definitions(ctx, admin, "/keys/any")
	if err != nil || len(list) != len(BuiltInRoles())+1 || !cmp.Equal(list[len(list)-1], made) {
		t.Errorf("%d definitions, %v; the last is %+v", len(list), err, list[len(list)-1])
	}
	if gone, err := m.DeleteDefinition(ctx, admin, ScopeRoot, roleGUID); err != nil || gone.Name != "Signers" {
		t.Errorf("deleted %+v, %v", gone, err)
	}
	if may(KeyVerify, "/keys/payroll") {
		t.Error("a deleted role still gives something")
	}
	if list, err := m.Assignments(ctx, admin, "/keys/PAYROLL", AssignmentFilter{}); err != nil || len(list) != 1 {
		t.Errorf("the assignments of a deleted role: %v, %v", list, err)
	}
	if gone, err := m.DeleteAssignment(ctx, admin, "/keys/payroll", nameGUID); err != nil || gone.PrincipalID != bob {
		t.Errorf("took away %+v, %v", gone, err)
	}
	_, err = m.Assignment(ctx, admin, "/keys/payroll", nameGUID)
	want(t, err, failure.NotFound)
}

// Covers A7: built-in roles are fixed, and the last administrator stays.
func TestRolesRefuse(t *testing.T) {
	m, _, st := rolesBench(t)
	ctx, admin := t.Context(), Caller{ObjectID: alice}
	good := Role{ID: roleGUID, Name: "Signers", DataActions: []Action{KeySign}}
	with := func(change func(*Role)) Role { r := good; change(&r); return r }
	var last string
	all, err := m.Assignments(ctx, admin, ScopeRoot, AssignmentFilter{})
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range all {
		if a.RoleDefinitionID == RoleAdministrator {
			last = a.Name
		}
	}
	if _, err := m.PutDefinition(ctx, admin, ScopeRoot, Role{ID: otherGUID, Name: "Taken", DataActions: []Action{KeySign}}); err != nil {
		t.Fatal(err)
	}
	put := func(r Role, scope string) error { _, err := m.PutDefinition(ctx, admin, scope, r); return err }
	assign := func(a Assignment) error { _, err := m.PutAssignment(ctx, admin, a); return err }
	for name, row := range map[string]struct {
		err  error
		kind failure.Kind
		code string
	}{
		"a built-in role, changed":   {put(with(func(r *Role) { r.ID = strings.ToUpper(RoleCryptoUser) }), ScopeRoot), failure.BadParameter, ""},
		"a built-in role's name":     {put(with(func(r *Role) { r.Name = "managed hsm CRYPTO user" }), ScopeRoot), failure.BadParameter, ""},
		"a name that is taken":       {put(with(func(r *Role) { r.Name = "TAKEN" }), ScopeRoot), failure.Conflict, "RoleDefinitionWithSameNameExists"},
		"no GUID":                    {put(with(func(r *Role) { r.ID = "role" }), ScopeRoot), failure.BadParameter, ""},
		"a name with a line end":     {put(with(func(r *Role) { r.Name = "a\nb" }), ScopeRoot), failure.BadParameter, ""},
		"a name that is turned":      {put(with(func(r *Role) { r.Name = "srengiS \u202e" }), ScopeRoot), failure.BadParameter, ""},
		"a built-in name, a space":   {put(with(func(r *Role) { r.Name = "Managed HSM Administrator " }), ScopeRoot), failure.BadParameter, ""},
		"a built-in name, spaces":    {put(with(func(r *Role) { r.Name = "Managed  HSM Administrator" }), ScopeRoot), failure.BadParameter, ""},
		"a built-in name, no width":  {put(with(func(r *Role) { r.Name = "Managed HSM Admin\u200bistrator" }), ScopeRoot), failure.BadParameter, ""},
		"a principal with a space":   {assign(Assignment{Name: nameGUID, PrincipalID: bob + " ", RoleDefinitionID: otherGUID, Scope: ScopeRoot}), failure.BadParameter, ""},
		"unknown action":             {put(with(func(r *Role) { r.DataActions = []Action{"/keys/*"} }), ScopeRoot), failure.BadParameter, ""},
		"scopes elsewhere":           {put(with(func(r *Role) { r.Scopes = []string{"/keys/a"} }), ScopeRoot), failure.BadParameter, ""},
		"at a key":                   {put(good, "/keys/a"), failure.BadParameter, ""},
		"at no scope":                {put(good, "/secrets"), failure.BadParameter, ""},
		"a role that is not there":   {assign(Assignment{Name: nameGUID, PrincipalID: bob, RoleDefinitionID: roleGUID, Scope: ScopeRoot}), failure.BadParameter, ""},
		"no principal":               {assign(Assignment{Name: nameGUID, RoleDefinitionID: otherGUID, Scope: ScopeRoot}), failure.BadParameter, ""},
		"an assignment's name":       {assign(Assignment{Name: "x", PrincipalID: bob, RoleDefinitionID: otherGUID, Scope: ScopeRoot}), failure.BadParameter, ""},
		"a name in use":              {assign(Assignment{Name: last, PrincipalID: bob, RoleDefinitionID: otherGUID, Scope: ScopeRoot}), failure.Conflict, "RoleAssignmentUpdateNotPermitted"},
		"the same under two names":   {assign(Assignment{Name: nameGUID, PrincipalID: strings.ToUpper(alice), RoleDefinitionID: RoleAdministrator, Scope: ScopeKeys}), failure.Conflict, "RoleAssignmentExists"},
		"the last administrator":     {errOf(m.DeleteAssignment(ctx, admin, ScopeKeys, last)), failure.Conflict, "LastAdministrator"},
		"an assignment of elsewhere": {errOf(m.DeleteAssignment(ctx, admin, "/keys/a", last)), failure.NotFound, "RoleAssignmentNotFound"},
		"a built-in role, deleted":   {errOf(m.DeleteDefinition(ctx, admin, ScopeRoot, RoleCryptoUser)), failure.BadParameter, ""},
		"a role that is gone":        {errOf(m.DeleteDefinition(ctx, admin, ScopeRoot, roleGUID)), failure.NotFound, "RoleDefinitionNotFound"},
		"nobody":                     {errOf(m.PutDefinition(ctx, Caller{ObjectID: bob}, ScopeRoot, good)), failure.Forbidden, ""},
	} {
		f := row.err
		if failure.KindOf(f) != row.kind {
			t.Errorf("%s: got %v, want %v", name, f, row.kind)
			continue
		}
		if e := f.(*failure.Error); row.code != "" && e.Code != row.code {
			t.Errorf("%s: code %q, want %q", name, e.Code, row.code)
		}
	}
	if n := len(assignmentKeys(t, st, hsmA)); n != len(all) {
		t.Errorf("%d assignments after all that, want %d", n, len(all))
	}

	// With a second one, the first can go.
	if err := assign(Assignment{Name: nameGUID, PrincipalID: bob, RoleDefinitionID: RoleAdministrator, Scope: ScopeRoot}); err != nil {
		t.Fatal(err)
	}
	if _, err := m.DeleteAssignment(ctx, admin, ScopeRoot, last); err != nil {
		t.Errorf("an administrator beside another: %v", err)
	}
}

// Stock clients change a role to one without a name that gives nothing. Two such roles are no conflict.
func TestRoleWithoutNameOrActions(t *testing.T) {
	m, a, _ := rolesBench(t)
	for _, id := range []string{roleGUID, otherGUID} {
		if _, err := m.PutDefinition(t.Context(), Caller{ObjectID: alice}, ScopeRoot, Role{ID: id, NotDataActions: []Action{KeyRead}}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := m.PutAssignment(t.Context(), Caller{ObjectID: alice}, Assignment{Name: nameGUID, PrincipalID: bob, RoleDefinitionID: roleGUID, Scope: ScopeRoot}); err != nil {
		t.Fatal(err)
	}
	want(t, a.Check(t.Context(), hsmA, Caller{ObjectID: bob}, KeySign, ScopeKeys), failure.Forbidden)
}

// Covers A7: whoever may write definitions, and not assign roles, cannot give rights by a change of a role that is
// assigned, to himself least of all; nor by bringing back a deleted one whose assignments are left.
func TestWriterOfDefinitionsGivesNothing(t *testing.T) {
	m, a, _ := rolesBench(t)
	ctx, admin, writer := t.Context(), Caller{ObjectID: alice}, Caller{ObjectID: bob}
	definer := Role{ID: roleGUID, Name: "Definers", DataActions: []Action{DefinitionsWrite, DefinitionsDelete}}
	all := Role{ID: roleGUID, Name: "Definers", DataActions: Actions()}
	if _, err := m.PutDefinition(ctx, admin, ScopeRoot, definer); err != nil {
		t.Fatal(err)
	}
	if _, err := m.PutAssignment(ctx, admin, Assignment{Name: nameGUID, PrincipalID: bob, RoleDefinitionID: roleGUID, Scope: ScopeRoot}); err != nil {
		t.Fatal(err)
	}
	other := Role{ID: otherGUID, Name: "Others", DataActions: []Action{KeySign}}
	if _, err := m.PutDefinition(ctx, writer, ScopeRoot, other); err != nil {
		t.Errorf("a role of nobody: %v", err)
	}
	want(t, errOf(m.PutDefinition(ctx, writer, ScopeRoot, all)), failure.Forbidden)
	want(t, a.Check(ctx, hsmA, writer, KeySign, ScopeKeys), failure.Forbidden)

	if _, err := m.PutAssignment(ctx, admin, Assignment{Name: otherGUID, PrincipalID: bob, RoleDefinitionID: otherGUID, Scope: "/keys/a"}); err != nil {
		t.Fatal(err)
	}
	if _, err := m.DeleteDefinition(ctx, writer, ScopeRoot, otherGUID); err != nil {
		t.Fatal(err)
	}
	other.DataActions = Actions()
	want(t, errOf(m.PutDefinition(ctx, writer, ScopeRoot, other)), failure.Forbidden)
	want(t, a.Check(ctx, hsmA, writer, KeySign, "/keys/a"), failure.Forbidden)
	if _, err := m.PutDefinition(ctx, admin, ScopeRoot, other); err != nil {
		t.Errorf("the administrator, who may assign roles: %v", err)
	}
}

// However many keys there are, what is written can be read back: beyond the bound on memory nothing is assigned, and
// the operator's way back still works.
func TestAssignmentsOfAllKeysTogether(t *testing.T) {
	m, a, st := rolesBench(t)
	ctx, admin := t.Context(), Caller{ObjectID: alice}
	update(t, st, func(w store.Writer) error {
		for i := range maxAssignments - len(keyRoles) - 1 {
			err := putAssignment(w, a.seal, hsmA, Assignment{Name: fmt.Sprintf("c0de0000-0000-4000-8000-%012d", i), PrincipalID: bob, RoleDefinitionID: RoleCryptoUser, Scope: fmt.Sprintf("/keys/k%d", i)})
			if err != nil {
				return err
			}
		}
		return nil
	})
	want(t, errOf(m.PutAssignment(ctx, admin, Assignment{Name: nameGUID, PrincipalID: bob, RoleDefinitionID: RoleCryptoUser, Scope: "/keys/one-more"})), failure.Conflict)
	if err := a.Check(ctx, hsmA, admin, KeySign, ScopeKeys); err != nil {
		t.Errorf("the HSM is locked: %v", err)
	}
	update(t, st, func(w store.Writer) error {
		already, err := RecoverAdministrator(w, a.seal, hsmA, team, rand.Reader)
		if already {
			t.Error("a stranger is said to be an administrator already")
		}
		return err
	})
	if err := a.Check(ctx, hsmA, Caller{ObjectID: team}, SecurityDomainDownload, ScopeRoot); err != nil {
		t.Errorf("after recovery: %v", err)
	}
	update(t, st, func(w store.Writer) error {
		already, err := RecoverAdministrator(w, a.seal, hsmA, strings.ToUpper(team), rand.Reader)
		if !already {
			t.Error("the second recovery did not see the first")
		}
		return err
	})
}

func TestParseObjectID(t *testing.T) {
	for text, asked := range map[string]string{
		strings.ToUpper(alice): alice, alice: alice, "corp:" + strings.ToUpper(alice): "corp:" + alice, "Corp:" + alice: "Corp:" + alice,
		"": "", "alice": "", " " + alice: "", alice + "\n": "", ":" + alice: "", "a b:" + alice: "", "{" + alice + "}": "", "urn:uuid:" + alice: "", strings.Repeat("p", 33) + ":" + alice: "",
	} {
		got, err := ParseObjectID(text)
		if got != asked || (err == nil) != (asked != "") {
			t.Errorf("%q: got %q, %v; want %q", text, got, err, asked)
		}
	}
}

func FuzzParseObjectID(f *testing.F) {
	f.Add(alice)
	f.Add("corp:" + alice)
	f.Fuzz(func(t *testing.T, text string) {
		id, err := ParseObjectID(text)
		if err == nil && (!SamePrincipal(id, text) || len(id) > maxPrincipal || !printable(id)) {
			t.Errorf("%q is read as %q", text, id)
		}
	})
}

func errOf[T any](_ T, err error) error { return err }

// The published limits: what is beyond them is refused, and what was there stays.
func TestRoleLimits(t *testing.T) {
	m, _, _ := rolesBench(t)
	ctx, admin := t.Context(), Caller{ObjectID: alice}
	guid := func(i int) string { return fmt.Sprintf("c0de0000-0000-4000-8000-%012d", i) }
	for i := range MaxDefinitions {
		if _, err := m.PutDefinition(ctx, admin, ScopeRoot, Role{ID: guid(i), Name: guid(i), DataActions: []Action{KeySign}}); err != nil {
			t.Fatal(err)
		}
	}
	_, err := m.PutDefinition(ctx, admin, ScopeRoot, Role{ID: guid(99), Name: "more", DataActions: []Action{KeySign}})
	want(t, err, failure.Conflict)
	if _, err := m.PutDefinition(ctx, admin, ScopeRoot, Role{ID: guid(7), Name: "changed", DataActions: []Action{KeySign}}); err != nil {
		t.Errorf("a change at the limit: %v", err)
	}
	for scope, limit := range map[string]int{ScopeRoot: MaxAssignments, "/keys/a": MaxKeyAssignments} {
		before, err := m.Assignments(ctx, admin, scope, AssignmentFilter{})
		if err != nil {
			t.Fatal(err)
		}
		for i := range limit - len(before) {
			if _, err := m.PutAssignment(ctx, admin, Assignment{Name: guid(1000*limit + i), PrincipalID: guid(i), RoleDefinitionID: RoleCryptoUser, Scope: scope}); err != nil {
				t.Fatal(err)
			}
		}
		_, err = m.PutAssignment(ctx, admin, Assignment{Name: guid(1000*limit + 999), PrincipalID: guid(999), RoleDefinitionID: RoleCryptoUser, Scope: scope})
		want(t, err, failure.Conflict)
	}
	// The filters, over what is there now.
	count := func(scope string, f AssignmentFilter) int {
		list, err := m.Assignments(ctx, admin, scope, f)
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	for what, row := range map[string][2]int{
		"the HSM's own":                 {count(ScopeRoot, AssignmentFilter{}), MaxAssignments},
		"a key's own":                   {count("/keys/A", AssignmentFilter{}), MaxKeyAssignments},
		"at a key and above":            {count("/keys/a", AssignmentFilter{AtScope: true}), MaxAssignments + MaxKeyAssignments},
		"at the HSM and above":          {count(ScopeKeys, AssignmentFilter{AtScope: true}), MaxAssignments},
		"of one principal":              {count(ScopeRoot, AssignmentFilter{Principal: guid(3)}), 2},
		"of one principal, another key": {count("/keys/b", AssignmentFilter{Principal: guid(3)}), 1},
	} {
		if row[0] != row[1] {
			t.Errorf("%s: %d, want %d", what, row[0], row[1])
		}
	}
}

// A definition's record opens in its own place only, and its form of version 1 is read for ever.
func TestChangedDefinitionsAreNoticed(t *testing.T) {
	m, a, st := rolesBench(t)
	ctx, admin := t.Context(), Caller{ObjectID: alice}
	for _, id := range []string{roleGUID, otherGUID} {
		if _, err := m.PutDefinition(ctx, admin, ScopeRoot, Role{ID: id, Name: id, DataActions: []Action{KeySign}}); err != nil {
			t.Fatal(err)
		}
	}
	update(t, st, func(w store.Writer) error {
		sealed, _ := w.Get(definitionPrefix(hsmA) + roleGUID)
		w.Put(definitionPrefix(hsmA)+otherGUID, sealed)
		return nil
	})
	want(t, a.Check(ctx, hsmA, admin, KeySign, ScopeKeys), failure.Tampered)
}

func TestDefinitionOfVersion1(t *testing.T) {
	_, a, st := rolesBench(t)
	const golden = `{"v":1,"name":"Signers","description":"…","data_actions":["/keys/sign/action"],"not_data_actions":["/keys/read/action"],"assignable_scopes":["/"]}`
	write := func(text string) {
		key := definitionPrefix(hsmA) + roleGUID
		sealed, err := a.seal.Wrap(secret.New([]byte(text)), key)
		if err != nil {
			t.Fatal(err)
		}
		update(t, st, func(w store.Writer) error { w.Put(key, sealed); return nil })
	}
	load := func() (list []Role, err error) {
		err = st.View(t.Context(), func(r store.Reader) (err error) {
			list, err = LoadDefinitions(r, a.seal, hsmA)
			return err
		})
		return list, err
	}
	write(golden)
	list, err := load()
	asked := []Role{{ID: roleGUID, Name: "Signers", Description: "…", Custom: true, DataActions: []Action{KeySign}, NotDataActions: []Action{KeyRead}, Scopes: []string{"/"}}}
	if diff := cmp.Diff(asked, list); err != nil || diff != "" {
		t.Errorf("%v, %s", err, diff)
	}
	write(strings.Replace(golden, `"v":1`, `"v":2`, 1))
	_, err = load()
	want(t, err, failure.Unsupported)
}

func FuzzParseAction(f *testing.F) {
	f.Add("Microsoft.KeyVault/managedHsm/keys/sign/action")
	f.Add("microsoft.keyvault/MANAGEDHSM/keys/*")
	f.Add("")
	f.Fuzz(func(t *testing.T, text string) {
		if a, err := ParseAction(text); err == nil && (!knownActions[a] || !strings.HasSuffix(text, string(a))) {
			t.Errorf("%q is read as %q", text, a)
		}
	})
}
