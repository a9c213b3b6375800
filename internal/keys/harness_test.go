package keys

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"strongroom/internal/access"
	"strongroom/internal/engine"
	"strongroom/internal/engine/software"
	"strongroom/internal/failure"
	"strongroom/internal/store"
	"strongroom/internal/store/memory"
	"strongroom/secret"
)

// Two HSMs as the tests know them, and the domains they may have.
const (
	alphaID = "a1fa0000-0000-4000-8000-000000000001"
	betaID  = "be7a0000-0000-4000-8000-000000000002"
)

var (
	ownDomain   = strings.Repeat("0d", 32)
	otherDomain = strings.Repeat("f0", 32)

	alice = access.Caller{ObjectID: "a11ce000-0000-4000-8000-000000000000"}
	noon  = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
)

// asked is one question to Authorize.
type asked struct {
	Caller access.Caller
	Action access.Action
	Scope  string
}

// bench is the keys of one HSM with everything around them in the test's hands.
type bench struct {
	*Keys
	store  *memory.Store
	engine engine.Engine

	mu    sync.Mutex // the fields below
	clock time.Time
	up    time.Duration
	deny  error
	asked []asked
}

// newBench opens an HSM over a store; the domain's keys follow from its ID.
func newBench(t testing.TB, s *memory.Store, hsm, domain string) *bench {
	t.Helper()
	wrapping, backup := sha256.Sum256([]byte("wrapping "+domain)), sha256.Sum256([]byte("backup "+domain))
	eng, err := software.New(secret.New(wrapping[:]), secret.New(backup[:]), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(eng.Close)
	b := &bench{store: s, engine: eng, clock: noon}
	b.Keys = New(Config{
		HSM: hsm, Store: s, Rand: rand.Reader, RetentionDays: 90,
		Now: func() time.Time {
			b.mu.Lock()
			defer b.mu.Unlock()
			return b.clock
		},
		Uptime: func() time.Duration {
			b.mu.Lock()
			defer b.mu.Unlock()
			return b.up
		},
		Authorize: func(_ context.Context, c access.Caller, a access.Action, scope string) error {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.asked = append(b.asked, asked{c, a, scope})
			return b.deny
		},
		DomainID: func() (string, error) { return domain, nil },
		Statement: func(_ context.Context, typ string, payload []byte) ([]byte, []byte, error) {
			return []byte(typ + "." + string(payload)), []byte("certificate of " + domain), nil
		},
		Alive:  func(store.Reader) error { return nil },
		Engine: func() (engine.Engine, error) { return eng, nil },
	})
	t.Cleanup(b.Keys.Close)
	return b
}

// at sets the clock.
func (b *bench) at(now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.clock = now
}

// run lets time pass, as it does: on the clock and in the life of the process.
func (b *bench) run(d time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.clock, b.up = b.clock.Add(d), b.up+d
}

func (b *bench) create(t testing.TB, name string, p CreateParams) Key {
	t.Helper()
	if p.Type == "" {
		p.Type = "EC"
	}
	key, err := b.Create(t.Context(), alice, name, p)
	if err != nil {
		t.Fatalf("create %s: %v", name, err)
	}
	return key
}

// dump is everything in a store.
func dump(t testing.TB, s store.Store) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := s.View(t.Context(), func(r store.Reader) error {
		for key, value := range r.Scan("", "") {
			all[key] = string(value)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// overwrite makes the store hold exactly what a dump says: the pen of somebody who has the database file.
func overwrite(t testing.TB, s store.Store, with map[string]string) {
	t.Helper()
	have := dump(t, s)
	err := s.Update(t.Context(), func(w store.Writer) error {
		for key := range have {
			if _, stays := with[key]; !stays {
				w.Delete(key)
			}
		}
		for key, value := range with {
			if have[key] != value {
				w.Put(key, []byte(value))
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// unchanged runs do and fails if the store is another one afterwards.
func unchanged(t *testing.T, s store.Store, do func()) {
	t.Helper()
	before := dump(t, s)
	do()
	if after := dump(t, s); !maps.Equal(before, after) {
		t.Errorf("the store changed: %d records before, %d after", len(before), len(after))
	}
}

// wantKind fails unless err is of the kind, and says something to the caller.
func wantKind(t testing.TB, err error, kind failure.Kind) *failure.Error {
	t.Helper()
	f, ok := errors.AsType[*failure.Error](err)
	if !ok || f.Kind != kind {
		t.Errorf("got %v (kind %s), want kind %s", err, failure.KindOf(err), kind)
		return &failure.Error{}
	}
	if f.Message == "" {
		t.Errorf("the %s failure has no message", kind)
	}
	return f
}

var sameKeys = cmp.Options{
	cmp.Comparer(func(a, b *big.Int) bool { return (a == nil) == (b == nil) && (a == nil || a.Cmp(b) == 0) }),
}

func digest() []byte { return bytes.Repeat([]byte{0xd1}, 32) }

// names of the items of a page.
func names(items []Item) []string {
	var list []string
	for _, item := range items {
		list = append(list, item.Name)
	}
	return list
}

func versions(items []Item) []string {
	var list []string
	for _, item := range items {
		list = append(list, item.Version)
	}
	return list
}

// everyVersion lists all versions of a key, page by page.
func (b *bench) everyVersion(t testing.TB, name string) ([]Item, error) {
	t.Helper()
	var all []Item
	for token := ""; ; {
		page, err := b.ListVersions(t.Context(), alice, name, token, 7)
		if err != nil {
			return nil, err
		}
		all = append(all, page.Items...)
		if page.Next == "" {
			return all, nil
		}
		token = page.Next
	}
}

// sortedKeys makes loops over a map come in one order.
func sortedKeys(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }

// anyPolicy is a release policy that says something.
func anyPolicy() *ReleasePolicy {
	return &ReleasePolicy{Data: []byte(`{"version":"1.0.0","anyOf":[{"authority":"https://attest.example","allOf":[{"claim":"secure","equals":true}]}]}`)}
}

func ptr[T any](v T) *T { return &v }

func seqName(i int) string { return fmt.Sprintf("key-%03d", i) }
