package access

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"strongroom/internal/store"
)

// identifiers are principals as issuers, people and attackers write them.
var identifiers = []string{
	alice, strings.ToUpper(alice), "", bob, team, "corp:" + alice, "Corp:" + alice, "corp:" + strings.ToUpper(alice), "root", "Root", "corp:root", "corp:Root", "corp:",
	":" + alice, ":" + strings.ToUpper(alice), "a:b:" + alice, "A:b:" + alice, "a:b:" + strings.ToUpper(alice), alice + " ", alice + ":", strings.ReplaceAll(alice, "-", ""), strings.ToUpper(strings.ReplaceAll(alice, "-", "")),
	"{" + alice + "}", "urn:uuid:" + alice, "urn:uuid:" + strings.ToUpper(alice),
}

// Covers A1, A3: the index decides as Decide does, by the same assignment, whatever is assigned and asked. The cases
// are drawn evenly, and the same each time.
func TestIndexAgreesWithDecide(t *testing.T) {
	actions := []Action{KeySign, KeyRead, KeyDelete, SecurityDomainDownload, "/unknown", ""}
	scopes := []string{"/", "/keys", "/keys/a", "/keys/A", "/keys/b", "/keys/", "/keys/a/b", "nonsense", ""}
	r := rand.New(rand.NewPCG(1, 2))
	few := func(list []string) string { return list[r.IntN(min(len(list), 1+r.IntN(len(list))))] } // the first ones more often
	action := func() Action { return actions[r.IntN(len(actions))] }
	allowed := 0
	for range 20_000 {
		roles := BuiltInRoles()[:4:4]
		for range r.IntN(4) {
			custom := Role{ID: few([]string{RoleCryptoUser, strings.ToUpper(RoleCryptoUser), alice, "no-guid", ""}), Name: "custom", Custom: true} // also the ID of another role
			for range r.IntN(5) {
				custom.DataActions = append(custom.DataActions, action())
			}
			for range r.IntN(3) {
				custom.NotDataActions = append(custom.NotDataActions, action())
			}
			roles = append(roles, custom)
		}
		var assignments []Assignment
		for i := range r.IntN(10) {
			assignments = append(assignments, Assignment{Name: fmt.Sprint(i), PrincipalID: few(identifiers), Scope: few(scopes),
				RoleDefinitionID: few([]string{RoleCryptoUser, RoleAdministrator, strings.ToUpper(RoleCryptoUser), RolePolicyAdministrator, alice, "no-guid", "gone", ""})})
		}
		caller := Caller{ObjectID: few(identifiers)}
		for range r.IntN(4) {
			caller.Groups = append(caller.Groups, few(identifiers))
		}
		asked, scope := action(), few(scopes)

		want := Decide(roles, assignments, caller, asked, scope)
		var got Decision
		if g, ok := newIndex(roles, assignments).decide(caller, asked, scope); ok {
			got = Decision{Allowed: true, By: allowedBy(roles[g.role], assignments[g.assignment])}
			allowed++
		}
		if got != want {
			t.Fatalf("%v asks for %q at %q of %+v: the index says %+v, Decide %+v", caller, asked, scope, assignments, got, want)
		}
	}
	if allowed < 1000 {
		t.Errorf("only %d were allowed: the test saw half of what it is for", allowed)
	}
}

// Covers A3.
func TestCanonicalIDAgreesWithSameID(t *testing.T) {
	for _, a := range identifiers {
		for _, b := range identifiers {
			if got, want := canonicalID(a) == canonicalID(b), sameID(a, b); got != want {
				t.Errorf("%q and %q: one spelling %t, the same %t", a, b, got, want)
			}
		}
	}
}

// BenchmarkCheck is one decision among a thousand assignments.
func BenchmarkCheck(b *testing.B) {
	st, s := withAdmin(b)
	a := NewAuthorizer(st, s)
	defer a.Close()
	update(b, st, func(w store.Writer) error {
		for i := range 1000 {
			err := putAssignment(w, s, hsmA, Assignment{Name: fmt.Sprintf("%08d-1111-4111-8111-111111111111", i), PrincipalID: fmt.Sprintf("%08d-2222-4222-8222-222222222222", i%500),
				RoleDefinitionID: RoleCryptoUser, Scope: ScopeKey(fmt.Sprintf("key-%d", i))})
			if err != nil {
				return err
			}
		}
		return nil
	})
	for name, c := range map[string]struct{ principal, scope string }{
		"one key":   {"00000499-2222-4222-8222-222222222222", ScopeKey("key-999")},
		"whole HSM": {alice, ScopeKey("key-5")},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := a.Check(b.Context(), hsmA, Caller{ObjectID: c.principal}, KeySign, c.scope); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
