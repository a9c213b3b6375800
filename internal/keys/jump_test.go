package keys

import (
	"fmt"
	"testing"
	"time"

	"strongroom/internal/engine"
	"strongroom/internal/failure"
	"strongroom/internal/store/memory"
	"strongroom/secret"
)

// Covers K11: the clock jumps ten years ahead and ten years back, and each key is used by every path: the latest
// version and an old one, by name and by version, just used (so that records and opened keys are kept) and not. What is
// expired, not yet valid, disabled or deleted by the clock of that moment is used by none, and comes back into use only
// with the clock.
func TestClockJumps(t *testing.T) {
	b := newBench(t, memory.New(), alphaID, ownDomain)
	years := func(n int) time.Time { return noon.AddDate(n, 0, 0) }
	types := map[string]map[string]func(name, version string) error{} // by type: what begins and what finishes
	iv := make([]byte, engine.CBCIVSize)
	for typ, alg := range map[string]struct{ sign, cipher string }{"RSA": {"PS256", engine.RSAOAEP}, "EC": {"ES256", ""}, "oct": {"HS256", "A256CBC"}} {
		var x Extras
		if typ == "oct" {
			x.IV = iv
		}
		types[typ] = map[string]func(name, version string) error{
			"sign": func(n, v string) error { _, err := b.Sign(t.Context(), alice, n, v, alg.sign, digest()); return err },
			"verify": func(n, v string) error {
				_, err := b.Verify(t.Context(), alice, n, v, alg.sign, digest(), make([]byte, 64))
				return err
			},
		}
		if alg.cipher == "" {
			continue
		}
		block := secret.New(make([]byte, 16))
		types[typ]["encrypt"] = func(n, v string) error {
			_, err := b.Encrypt(t.Context(), alice, n, v, alg.cipher, block, x)
			return err
		}
		types[typ]["wrapKey"] = func(n, v string) error {
			_, err := b.WrapKey(t.Context(), alice, n, v, alg.cipher, block, x)
			return err
		}
	}
	at := func(n int) *time.Time { return ptr(years(n)) }
	states := map[string]struct {
		params  CreateParams
		allowed map[int]bool // by years from noon, for what begins; "verify" does not ask the clock
	}{
		"always":           {CreateParams{}, map[int]bool{0: true, 10: true, -10: true}},
		"expires":          {CreateParams{Expires: at(1)}, map[int]bool{0: true, 10: false, -10: true}},
		"expired":          {CreateParams{Expires: at(-1)}, map[int]bool{0: false, 10: false, -10: true}},
		"not yet":          {CreateParams{NotBefore: at(1)}, map[int]bool{0: false, 10: true, -10: false}},
		"for some time":    {CreateParams{NotBefore: at(-1), Expires: at(1)}, map[int]bool{0: true, 10: false, -10: false}},
		"disabled":         {CreateParams{Enabled: ptr(false)}, map[int]bool{}},
		"disabled, window": {CreateParams{Enabled: ptr(false), NotBefore: at(-1), Expires: at(1)}, map[int]bool{}},
	}
	calls := 0
	for typ, operations := range types {
		for state, row := range states {
			name := fmt.Sprintf("%s-%x", typ, state)
			p := row.params
			p.Type = typ
			old, latest := b.create(t, name, p), b.create(t, name, p)
			// Twice around, so that each jump finds what the one before has left in the caches.
			for _, jump := range []int{0, 10, 0, -10, 10, -10, 0} {
				b.at(years(jump))
				for range 2 {
					for operation, use := range operations {
						for _, version := range []string{"", latest.Version, old.Version} {
							calls++
							err := use(name, version)
							may := row.allowed[jump] || operation == "verify" && (p.Enabled == nil || *p.Enabled)
							if may && err != nil || !may && failure.KindOf(err) != failure.Disabled {
								t.Errorf("%s, %s, %d years from noon, version %q: %s gives %v, allowed: %t", typ, state, jump, version, operation, err, may)
							}
						}
					}
				}
			}
			b.at(noon)
			b.remove(t, name)
			for _, jump := range []int{10, -10, 0} {
				b.at(years(jump))
				b.sweep(t)
				for operation, use := range operations {
					for _, version := range []string{"", latest.Version, old.Version} {
						calls++
						if err := use(name, version); failure.KindOf(err) != failure.NotFound {
							t.Errorf("%s, %s, deleted, %d years from noon, version %q: %s gives %v", typ, state, jump, version, operation, err)
						}
					}
				}
				if _, err := b.GetDeleted(t.Context(), alice, name); err != nil {
					t.Errorf("%s, %s, %d years from noon: purged early: %v", typ, state, jump, err)
				}
			}
			b.at(noon)
		}
	}
	t.Logf("%d calls", calls)
}
