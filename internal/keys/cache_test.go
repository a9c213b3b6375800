package keys

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"strongroom/internal/engine"
	"strongroom/internal/failure"
	"strongroom/internal/store"
	"strongroom/internal/store/memory"
)

// watchedStore counts views, and lets a test step in between what a view read and what is made of it.
type watchedStore struct {
	store.Store
	views atomic.Int64
	after func()
}

func (w *watchedStore) View(ctx context.Context, fn func(store.Reader) error) error {
	w.views.Add(1)
	err := w.Store.View(ctx, fn)
	if w.after != nil {
		w.after()
	}
	return err
}

// over gives a bench keys anew, over another store and engine.
func (b *bench) over(t testing.TB, s store.Store, eng engine.Engine) {
	t.Helper()
	cfg := b.Keys.cfg
	cfg.Store, cfg.Engine = s, func() (engine.Engine, error) { return eng, nil }
	b.Keys.Close()
	b.Keys = New(cfg)
	t.Cleanup(b.Keys.Close)
}

func (b *bench) sign(t testing.TB, name, version string) error {
	t.Helper()
	_, err := b.Sign(t.Context(), alice, name, version, "ES256", digest())
	return err
}

func TestUsedKeyIsNotReadAgain(t *testing.T) {
	b := newBench(t, memory.New(), alphaID, ownDomain)
	first := b.create(t, "Key", CreateParams{})
	second := b.create(t, "key", CreateParams{})
	s := &watchedStore{Store: b.store}
	b.over(t, s, b.engine)
	for range 3 {
		for _, version := range []string{"", first.Version, second.Version} {
			r, err := b.Sign(t.Context(), alice, "KEY", version, "ES256", digest())
			if err != nil || r.Name != "Key" || version == "" && r.Version != second.Version || version != "" && r.Version != version {
				t.Fatalf("version %q: %+v, %v", version, r, err)
			}
			if _, err := b.Get(t.Context(), alice, "key", version); err != nil {
				t.Fatal(err)
			}
		}
	}
	if n := s.views.Load(); n != 2 {
		t.Errorf("the store was read %d times for two versions", n)
	}
	// What is not there is asked for each time: nothing says when it comes.
	for range 2 {
		wantKind(t, b.sign(t, "missing", ""), failure.NotFound)
		wantKind(t, b.sign(t, "key", strings.Repeat("0", 32)), failure.NotFound)
	}
	if n := s.views.Load(); n != 6 {
		t.Errorf("the store was read %d times, want 6", n)
	}
}

// Covers K11: what another server does to a key counts for the next request here.
func TestChangesCountForTheNextRequest(t *testing.T) {
	disabled, none := UpdateParams{Enabled: ptr(false)}, UpdateParams{Ops: []string{"verify"}}
	for name, c := range map[string]struct {
		change func(other *bench, version string) error
		kind   failure.Kind
	}{
		"disabled":     {func(o *bench, v string) error { _, err := o.Update(t.Context(), alice, "k", v, disabled); return err }, failure.Disabled},
		"not for that": {func(o *bench, v string) error { _, err := o.Update(t.Context(), alice, "k", v, none); return err }, failure.Disabled},
		"deleted":      {func(o *bench, _ string) error { _, err := o.Delete(t.Context(), alice, "k"); return err }, failure.NotFound},
		"a version was": {func(o *bench, _ string) error {
			_, err := o.Create(t.Context(), alice, "k", CreateParams{Type: "EC", Enabled: ptr(false)})
			return err
		}, failure.Disabled},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, memory.New(), alphaID, ownDomain)
			other := newBench(t, b.store, alphaID, ownDomain)
			key := b.create(t, "k", CreateParams{})
			if err := b.sign(t, "k", ""); err != nil {
				t.Fatal(err)
			}
			if err := c.change(other, key.Version); err != nil {
				t.Fatal(err)
			}
			wantKind(t, b.sign(t, "k", ""), c.kind)
		})
	}
	t.Run("deleted and recovered", func(t *testing.T) {
		b := newBench(t, memory.New(), alphaID, ownDomain)
		other := newBench(t, b.store, alphaID, ownDomain)
		b.create(t, "k", CreateParams{})
		for range 2 {
			if err := b.sign(t, "k", ""); err != nil {
				t.Fatal(err)
			}
			if _, err := other.Delete(t.Context(), alice, "k"); err != nil {
				t.Fatal(err)
			}
			wantKind(t, b.sign(t, "k", ""), failure.NotFound)
			if _, err := other.Recover(t.Context(), alice, "k"); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// Covers K11: a record that was read before a change and used after it is not kept.
func TestWhatWasReadBesideAChangeIsNotKept(t *testing.T) {
	b := newBench(t, memory.New(), alphaID, ownDomain)
	other := newBench(t, b.store, alphaID, ownDomain)
	b.create(t, "k", CreateParams{})
	s := &watchedStore{Store: b.store}
	b.over(t, s, b.engine)
	s.after = func() {
		s.after = nil
		if _, err := other.Update(t.Context(), alice, "k", "", UpdateParams{Enabled: ptr(false)}); err != nil {
			t.Error(err)
		}
	}
	if err := b.sign(t, "k", ""); err != nil { // it began before the change
		t.Fatal(err)
	}
	wantKind(t, b.sign(t, "k", ""), failure.Disabled)
}

// Covers K4: a record that was edited in the store is verified again, also if it was used before.
func TestEditedRecordOfACachedKeyIsNoticed(t *testing.T) {
	for _, kind := range []string{"key", "keyver"} {
		b := newBench(t, memory.New(), alphaID, ownDomain)
		b.create(t, "k", CreateParams{})
		if err := b.sign(t, "k", ""); err != nil {
			t.Fatal(err)
		}
		err := b.store.Update(t.Context(), func(w store.Writer) error {
			for path, raw := range w.Scan(b.path(kind, "k"), "") {
				w.Put(path, []byte(strings.Replace(string(raw), `"`+recordField[kind]+`"`, `"x"`, 1)))
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		wantKind(t, b.sign(t, "k", ""), failure.Tampered)
	}
}

var recordField = map[string]string{"key": "name", "keyver": "enabled"}

// A record is verified by the engine that asks: another one, of another domain perhaps, does not get what this one saw.
func TestCacheIsOfOneEngine(t *testing.T) {
	b := newBench(t, memory.New(), alphaID, ownDomain)
	b.create(t, "k", CreateParams{})
	if err := b.sign(t, "k", ""); err != nil {
		t.Fatal(err)
	}
	foreign := newBench(t, b.store, alphaID, otherDomain).engine
	b.Keys.cfg.Engine = func() (engine.Engine, error) { return foreign, nil }
	_, err := b.Get(t.Context(), alice, "k", "")
	wantKind(t, err, failure.Tampered)
	// Nor once it has verified something itself.
	_, _, seen := b.cache.get(foreign, "its-own", "")
	v := &versionRecord{ID: "1", Type: engine.EC, Curve: engine.P256, Ops: []string{opSign}, Sealed: []byte("sealed")}
	b.cache.put(foreign, "its-own", &keyRecord{Name: "its-own", Versions: []versionRef{{ID: "1"}}}, v, seen)
	if _, v, _ := b.cache.get(foreign, "its-own", ""); v == nil {
		t.Fatal("what it has verified is not kept")
	}
	_, err = b.Get(t.Context(), alice, "k", "")
	wantKind(t, err, failure.Tampered)
}

// What is handed out is the caller's own.
func TestCachedRecordsAreNotHandedOut(t *testing.T) {
	b := newBench(t, memory.New(), alphaID, ownDomain)
	b.create(t, "k", CreateParams{Tags: map[string]string{"a": "b"}, Expires: ptr(noon.AddDate(1, 0, 0))})
	get := func() Key {
		key, err := b.Get(t.Context(), alice, "k", "")
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	get()
	key, want := get(), get()
	key.Ops[0], key.Tags["a"], *key.Expires = "x", "x", noon
	key.Public.X.SetInt64(1)
	if diff := cmp.Diff(want, get(), sameKeys); diff != "" {
		t.Errorf("the cached record was changed: %s", diff)
	}
}

func TestRecordCacheIsBounded(t *testing.T) {
	b := newBench(t, memory.New(), alphaID, ownDomain)
	const room = 64 << 10 // of some 400 records like these
	c := newRecordCache(b.store, "hsm/"+alphaID+"/", NewMemory(room))
	defer c.close()
	put := func(name, id string) {
		_, _, seen := c.get(b.engine, name, id)
		v := &versionRecord{ID: id, Type: engine.EC, Curve: engine.P256, Ops: []string{opSign}, Sealed: []byte("sealed")}
		c.put(b.engine, name, &keyRecord{Name: name, Versions: []versionRef{{ID: "1"}, {ID: "2"}}}, v, seen)
	}
	held := func(name, id string) bool {
		_, v, _ := c.get(b.engine, name, id)
		return v != nil
	}
	for i := range 2000 {
		put(fmt.Sprintf("key-%d", i), "1")
		put(fmt.Sprintf("key-%d", i), "2")
		put("busy", "2")
		if !held("busy", "") {
			t.Fatalf("a key in use is gone after %d others", i)
		}
		if size := c.memory.slab.Size(); size > room {
			t.Fatalf("the cache takes %d bytes, want at most %d", size, room)
		}
	}
	if held("key-0", "") || held("key-0", "1") {
		t.Error("a key that nobody used for long is still there")
	}
	if n := c.memory.slab.Len(); n < 100 {
		t.Errorf("there are %d records where there is room for some hundred", n)
	}
	c.changed([]string{"hsm/" + alphaID + "/keyver/key-1999/00000001", "hsm/" + betaID + "/key/busy", "hsm/" + alphaID + "/keypolicy/busy"})
	if held("key-1999", "") || held("key-1999", "1") || held("key-1999", "2") {
		t.Error("a key that changed is still there")
	}
	if !held("busy", "") {
		t.Error("a key was forgotten because of another HSM's, or of a rotation policy")
	}
	c.changed([]string{"hsm/" + alphaID + "/deletedkey/busy"})
	if held("busy", "") || held("busy", "2") {
		t.Error("a key that was deleted is still there")
	}
}

// HSMs share the memory and nothing that is in it; one that goes takes its own along.
func TestHSMsShareMemory(t *testing.T) {
	shared := NewMemory(1 << 20)
	s := memory.New()
	alpha, beta := newBench(t, s, alphaID, ownDomain), newBench(t, s, betaID, ownDomain)
	for _, b := range []*bench{alpha, beta} {
		cfg := b.Keys.cfg
		cfg.Memory = shared
		b.Keys.Close()
		b.Keys = New(cfg)
		t.Cleanup(b.Keys.Close)
	}
	alpha.create(t, "k", CreateParams{})
	if err := alpha.sign(t, "k", ""); err != nil {
		t.Fatal(err)
	}
	wantKind(t, beta.sign(t, "k", ""), failure.NotFound)
	beta.create(t, "k", CreateParams{Enabled: ptr(false)})
	wantKind(t, beta.sign(t, "k", ""), failure.Disabled)
	if err := alpha.sign(t, "k", ""); err != nil {
		t.Fatal(err)
	}
	if n := shared.slab.Len(); n != 2 {
		t.Errorf("there are %d records in memory, want one of each HSM", n)
	}
	beta.Keys.Close()
	if n := shared.slab.Len(); n != 1 {
		t.Errorf("there are %d records in memory after one HSM has gone, want 1", n)
	}
}

// Closed keys follow no changes any more, so they remember nothing.
func TestClosedKeysReadEverythingAnew(t *testing.T) {
	b := newBench(t, memory.New(), alphaID, ownDomain)
	other := newBench(t, b.store, alphaID, ownDomain)
	b.create(t, "k", CreateParams{})
	for range 2 {
		if err := b.sign(t, "k", ""); err != nil {
			t.Fatal(err)
		}
		b.Keys.Close() // before the first change
	}
	if _, err := other.Delete(t.Context(), alice, "k"); err != nil {
		t.Fatal(err)
	}
	wantKind(t, b.sign(t, "k", ""), failure.NotFound)
}

// Keys used, disabled and enabled at once, by two servers: after a change has returned, nobody sees what was before.
func TestCacheConcurrently(t *testing.T) {
	b := newBench(t, memory.New(), alphaID, ownDomain)
	other := newBench(t, b.store, alphaID, ownDomain)
	b.create(t, "k", CreateParams{})
	b.create(t, "other", CreateParams{})
	done := make(chan struct{})
	var wait sync.WaitGroup
	for _, name := range []string{"k", "k", "other"} {
		wait.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if err := b.sign(t, name, ""); err != nil && (name != "k" || !errors.Is(err, failure.Disabled)) {
					t.Error(err)
				}
			}
		})
	}
	for i := range 200 {
		enabled := i%2 == 1
		if _, err := other.Update(t.Context(), alice, "k", "", UpdateParams{Enabled: ptr(enabled)}); err != nil {
			t.Error(err)
		}
		if err := b.sign(t, "k", ""); (err == nil) != enabled {
			t.Errorf("enabled %t was answered, and then: %v", enabled, err)
		}
	}
	close(done)
	wait.Wait()
	if !slices.Contains(sortedKeys(dump(t, b.store)), b.keyPath("k")) {
		t.Error("the key is gone")
	}
}
