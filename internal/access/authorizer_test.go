package access

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"os"
	"strings"
	"sync"
	"testing"

	"strongroom/internal/failure"
	"strongroom/internal/seal"
	"strongroom/internal/store"
	"strongroom/internal/store/memory"
	"strongroom/secret"
)

const (
	hsmA = "0a0a0a0a-1111-4111-8111-111111111111"
	hsmB = "0b0b0b0b-1111-4111-8111-111111111111"
)

// testSeal is AES-256-GCM under a fresh key: what these tests need of a seal.
type testSeal struct{ aead cipher.AEAD }

var _ seal.Seal = testSeal{}

func newSeal(t testing.TB) seal.Seal {
	t.Helper()
	key := make([]byte, 32)
	_, _ = rand.Read(key)
	block, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		t.Fatal(err)
	}
	return testSeal{aead}
}

func (testSeal) ID() string   { return "00" }
func (testSeal) Kind() string { return "test" }
func (testSeal) Close()       {}
func (s testSeal) Wrap(p secret.Bytes, about string) ([]byte, error) {
	return s.aead.Seal(nil, nil, p.Reveal(), []byte(about)), nil
}
func (s testSeal) Unwrap(sealed []byte, about string) (secret.Bytes, error) {
	p, err := s.aead.Open(nil, nil, sealed, []byte(about))
	if err != nil {
		return secret.Bytes{}, seal.ErrUnwrap
	}
	return secret.Take(p), nil
}

func update(t testing.TB, st store.Store, fn func(store.Writer) error) {
	t.Helper()
	if err := st.Update(t.Context(), fn); err != nil {
		t.Fatal(err)
	}
}

func assignmentKeys(t *testing.T, st store.Store, hsmID string) (keys []string) {
	t.Helper()
	err := st.View(t.Context(), func(r store.Reader) error {
		for key := range r.Scan(assignmentPrefix(hsmID), "") {
			keys = append(keys, key)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

// keyRoles are what a development server's administrator gets besides.
var keyRoles = []string{RoleCryptoUser, RoleCryptoOfficer}

// withAdmin is a store in which Alice owns HSM A and Bob owns HSM B.
func withAdmin(t testing.TB) (store.Store, seal.Seal) {
	t.Helper()
	st, s := memory.New(), newSeal(t)
	update(t, st, func(w store.Writer) error {
		return errors.Join(
			PutInitialAdministrators(w, s, hsmA, []string{alice}, keyRoles, rand.Reader),
			PutInitialAdministrators(w, s, hsmB, []string{bob}, keyRoles, rand.Reader))
	})
	return st, s
}

// Covers S13: an initial administrator owns the HSM, and uses no key of it until somebody says so.
func TestInitialAdministratorsUseNoKeys(t *testing.T) {
	st, s := memory.New(), newSeal(t)
	update(t, st, func(w store.Writer) error {
		return PutInitialAdministrators(w, s, hsmA, []string{alice, bob}, nil, rand.Reader)
	})
	a := NewAuthorizer(st, s)
	defer a.Close()
	for _, who := range []string{alice, bob} {
		for action, allowed := range map[Action]bool{SecurityDomainDownload: true, AssignmentsWrite: true, KeySign: false, KeyRead: false, KeyCreate: false, DeletedKeyPurge: false} {
			if err := a.Check(t.Context(), hsmA, Caller{ObjectID: who}, action, ScopeRoot); (err == nil) != allowed {
				t.Errorf("%s: %s gave %v", who, action, err)
			}
		}
	}
}

// Covers A6, S13: the first administrators own their HSM and no other.
func TestInitialAdministrators(t *testing.T) {
	st, s := withAdmin(t)
	a := NewAuthorizer(st, s)
	defer a.Close()
	cases := map[string]struct {
		hsm, who string
		action   Action
		want     bool
	}{
		"takes ownership":             {hsmA, alice, SecurityDomainDownload, true},
		"uses keys":                   {hsmA, alice, KeySign, true},
		"recovers deleted keys":       {hsmA, alice, DeletedKeyRecover, true},
		"purges deleted keys":         {hsmA, alice, DeletedKeyPurge, true},
		"may not do what no role has": {hsmA, alice, "/keys/deletedKeys/delete/action", false},
		"is nobody on another HSM":    {hsmB, alice, SecurityDomainDownload, false},
		"a stranger is refused":       {hsmA, team, SecurityDomainDownload, false},
		"nobody is refused":           {hsmA, "", SecurityDomainDownload, false},
		"an HSM that does not exist":  {team, alice, SecurityDomainDownload, false},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			for range 2 { // from the store, then from the cache
				err := a.Check(t.Context(), c.hsm, Caller{ObjectID: c.who}, c.action, ScopeRoot)
				if c.want && err != nil {
					t.Fatalf("refused: %v", err)
				}
				if !c.want && !errors.Is(err, failure.Forbidden) {
					t.Fatalf("got %v, want Forbidden", err)
				}
			}
		})
	}
	if n := len(assignmentKeys(t, st, hsmA)); n != 3 {
		t.Errorf("%d assignments for one administrator, want 3", n)
	}
}

func TestRefusalSaysWhatIsMissing(t *testing.T) {
	st, s := withAdmin(t)
	a := NewAuthorizer(st, s)
	defer a.Close()
	err := a.Check(t.Context(), hsmA, Caller{ObjectID: bob}, KeySign, ScopeKey("payroll"))
	for _, want := range []string{"Microsoft.KeyVault/managedHsm/keys/sign/action", "/keys/payroll", "Managed HSM Crypto User", bob} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want a message with %q", err, want)
		}
	}
	if err := a.Check(t.Context(), hsmA, Caller{ObjectID: bob}, KeySign, "/keys/\x1b[31m"); err == nil || strings.Contains(err.Error(), "\x1b") {
		t.Errorf("got %q, which repeats a scope that is not well-formed", err)
	}
}

// Covers A8: a role that is taken away, or given, counts with the commit that does it.
func TestChangedRolesCountAtOnce(t *testing.T) {
	st, s := withAdmin(t)
	a := NewAuthorizer(st, s)
	defer a.Close()
	check := func(who string) error {
		return a.Check(t.Context(), hsmA, Caller{ObjectID: who}, SecurityDomainDownload, ScopeRoot)
	}
	if err := check(alice); err != nil {
		t.Fatal(err)
	}
	update(t, st, func(w store.Writer) error {
		for _, key := range assignmentKeys(t, st, hsmA) {
			w.Delete(key)
		}
		return nil
	})
	if err := check(alice); !errors.Is(err, failure.Forbidden) {
		t.Fatalf("after her roles were deleted, Alice got %v", err)
	}
	update(t, st, func(w store.Writer) error {
		return PutInitialAdministrators(w, s, hsmA, []string{bob}, keyRoles, rand.Reader)
	})
	if err := check(bob); err != nil {
		t.Fatalf("after he was given the role, Bob got %v", err)
	}
}

// slowStore lets a test change roles between the read of a list and its use.
type slowStore struct {
	store.Store
	after func()
}

func (s *slowStore) View(ctx context.Context, fn func(store.Reader) error) error {
	err := s.Store.View(ctx, fn)
	if f := s.after; f != nil {
		s.after = nil
		f()
	}
	return err
}

// Covers A8: a list that was read before a change and stored after it must not stay.
func TestListReadDuringAChangeIsNotKept(t *testing.T) {
	st, s := withAdmin(t)
	slow := &slowStore{Store: st}
	a := NewAuthorizer(slow, s)
	defer a.Close()
	keys := assignmentKeys(t, st, hsmA)
	slow.after = func() {
		update(t, st, func(w store.Writer) error {
			for _, key := range keys {
				w.Delete(key)
			}
			return nil
		})
	}
	_ = a.Check(t.Context(), hsmA, Caller{ObjectID: alice}, SecurityDomainDownload, ScopeRoot)
	if err := a.Check(t.Context(), hsmA, Caller{ObjectID: alice}, SecurityDomainDownload, ScopeRoot); !errors.Is(err, failure.Forbidden) {
		t.Errorf("the old list was kept: got %v", err)
	}
}

// The writer to the database: every record that was changed, moved, renamed or made without the seal is noticed.
func TestChangedRecordsAreNoticed(t *testing.T) {
	cases := map[string]func(w store.Writer, keysA, keysB []string){
		"a byte flipped": func(w store.Writer, keysA, _ []string) {
			v, _ := w.Get(keysA[0])
			v[len(v)/2] ^= 1
			w.Put(keysA[0], v)
		},
		"moved from another HSM": func(w store.Writer, _, keysB []string) {
			v, _ := w.Get(keysB[0])
			w.Put(assignmentPrefix(hsmA)+strings.TrimPrefix(keysB[0], assignmentPrefix(hsmB)), v)
		},
		"renamed": func(w store.Writer, keysA, _ []string) {
			v, _ := w.Get(keysA[0])
			w.Put(assignmentPrefix(hsmA)+team, v)
		},
		"two swapped": func(w store.Writer, keysA, _ []string) {
			x, _ := w.Get(keysA[0])
			y, _ := w.Get(keysA[1])
			w.Put(keysA[0], y)
			w.Put(keysA[1], x)
		},
		"written without the seal": func(w store.Writer, _, _ []string) {
			w.Put(assignmentPrefix(hsmA)+team, []byte(`{"v":1,"principal":"`+bob+`","role":"`+RoleAdministrator+`","scope":"/"}`))
		},
		"empty": func(w store.Writer, keysA, _ []string) { w.Put(keysA[0], nil) },
	}
	for name, change := range cases {
		t.Run(name, func(t *testing.T) {
			st, s := withAdmin(t)
			keysA, keysB := assignmentKeys(t, st, hsmA), assignmentKeys(t, st, hsmB)
			update(t, st, func(w store.Writer) error { change(w, keysA, keysB); return nil })
			a := NewAuthorizer(st, s)
			defer a.Close()
			for _, who := range []string{alice, bob} {
				if err := a.Check(t.Context(), hsmA, Caller{ObjectID: who}, KeySign, ScopeRoot); !errors.Is(err, failure.Tampered) {
					t.Errorf("got %v, want Tampered", err)
				}
			}
		})
	}
}

// What version 1 wrote must open for ever: the record is a file, not made by the code under test.
func TestVersionOneRecordOpens(t *testing.T) {
	text, err := os.ReadFile("testdata/role-assignment-v1.json")
	if err != nil {
		t.Fatal(err)
	}
	st, s := memory.New(), newSeal(t)
	key := "hsm/" + hsmA + "/role-assignment/" + team
	sealed, err := s.Wrap(secret.New(text), key)
	if err != nil {
		t.Fatal(err)
	}
	update(t, st, func(w store.Writer) error { w.Put(key, sealed); return nil })
	var got []Assignment
	err = st.View(t.Context(), func(r store.Reader) (err error) {
		got, err = LoadAssignments(r, s, hsmA)
		return err
	})
	want := Assignment{Name: team, PrincipalID: alice, RoleDefinitionID: RoleCryptoUser, Scope: "/keys/Payroll"}
	if err != nil || len(got) != 1 || got[0] != want {
		t.Errorf("got %v, %v; want %v", got, err, want)
	}
}

func TestNewerFormatIsRefused(t *testing.T) {
	st, s := withAdmin(t)
	key := assignmentKeys(t, st, hsmA)[0]
	sealed, err := s.Wrap(secret.New([]byte(`{"v":2}`)), key)
	if err != nil {
		t.Fatal(err)
	}
	update(t, st, func(w store.Writer) error { w.Put(key, sealed); return nil })
	a := NewAuthorizer(st, s)
	defer a.Close()
	if err := a.Check(t.Context(), hsmA, Caller{ObjectID: alice}, KeySign, ScopeRoot); !errors.Is(err, failure.Unsupported) {
		t.Errorf("got %v, want Unsupported", err)
	}
}

func TestIncompleteAssignmentsAreNotWritten(t *testing.T) {
	for name, a := range map[string]Assignment{
		"no name":      {PrincipalID: alice, RoleDefinitionID: RoleCryptoUser, Scope: "/"},
		"no principal": {Name: team, RoleDefinitionID: RoleCryptoUser, Scope: "/"},
		"no role":      {Name: team, PrincipalID: alice, Scope: "/"},
		"bad scope":    {Name: team, PrincipalID: alice, RoleDefinitionID: RoleCryptoUser, Scope: "/keys/a/b"},
	} {
		t.Run(name, func(t *testing.T) {
			st := memory.New()
			err := st.Update(t.Context(), func(w store.Writer) error { return putAssignment(w, newSeal(t), hsmA, a) })
			if !errors.Is(err, failure.BadParameter) {
				t.Errorf("got %v, want BadParameter", err)
			}
		})
	}
}

func TestClosedStoreIsNoPermission(t *testing.T) {
	st, s := withAdmin(t)
	a := NewAuthorizer(st, s)
	defer a.Close()
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	if err := a.Check(t.Context(), hsmA, Caller{ObjectID: alice}, KeySign, ScopeRoot); !errors.Is(err, failure.Unavailable) {
		t.Errorf("got %v, want Unavailable", err)
	}
}

// Covers R4, under the race detector.
func TestConcurrentChecksAndChanges(t *testing.T) {
	st, s := withAdmin(t)
	a := NewAuthorizer(st, s)
	defer a.Close()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 50 {
				if err := a.Check(t.Context(), hsmA, Caller{ObjectID: alice}, KeySign, ScopeKey("k")); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Go(func() {
		for range 20 {
			err := st.Update(t.Context(), func(w store.Writer) error {
				return PutInitialAdministrators(w, s, hsmB, []string{team}, keyRoles, rand.Reader)
			})
			if err != nil {
				t.Error(err)
				return
			}
		}
	})
	wg.Wait()
}
