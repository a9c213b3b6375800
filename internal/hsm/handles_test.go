package hsm_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"

	"strongroom/internal/failure"
	"strongroom/internal/hsm"
	"strongroom/internal/keys"
	"strongroom/internal/store"
)

// observed is a store that counts views and watchers, and lets a test step in after a view.
type observed struct {
	store.Store
	views, watchers atomic.Int64
	after           atomic.Pointer[func()]
}

func (o *observed) View(ctx context.Context, fn func(store.Reader) error) error {
	o.views.Add(1)
	err := o.Store.View(ctx, fn)
	if after := o.after.Swap(nil); after != nil {
		(*after)()
	}
	return err
}

func (o *observed) Watch(fn func([]string)) func() {
	o.watchers.Add(1)
	cancel := o.Store.Watch(fn)
	return func() { o.watchers.Add(-1); cancel() }
}

// beside is a second server over the store of w.
func (w *world) beside(t *testing.T) (*world, *observed) {
	t.Helper()
	o := &observed{Store: w.store}
	second := &world{t: t, store: w.store, seal: w.seal, now: w.now, config: func(c *hsm.Config) { c.Store = o }}
	second.begin()
	return second, o
}

func TestOpenReadsNothingTheSecondTime(t *testing.T) {
	w := newWorld(t, "alpha", "beta")
	if _, err := w.open("alpha").Download(t.Context(), admin, certificates(3), 2); err != nil {
		t.Fatal(err)
	}
	second, o := w.beside(t)
	use := func(key string) {
		t.Helper()
		k, err := second.open("Alpha").Keys(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := k.Get(t.Context(), admin, key, ""); err != nil {
			t.Fatal(err)
		}
	}
	k, err := w.open("alpha").Keys(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.Create(t.Context(), admin, "k", keys.CreateParams{Type: "EC"}); err != nil {
		t.Fatal(err)
	}
	use("k")
	before := o.views.Load()
	for range 3 {
		use("K")
	}
	if n := o.views.Load(); n != before {
		t.Errorf("three more uses read the store %d times", n-before)
	}
	for range 2 { // what is not there may come
		if _, err := second.service.Open(t.Context(), "gamma"); !errors.Is(err, failure.NotFound) {
			t.Fatalf("no such HSM: %v", err)
		}
	}
	if n := o.views.Load(); n != before+2 {
		t.Errorf("an HSM that is not there was looked for %d times, want 2", n-before)
	}
}

// Covers K11 as far as HSMs go, R2: a deleted HSM stops answering with the commit that deletes it, on every server, and
// one of its name that is made later is another.
func TestDeletedHSMStopsAnsweringAtOnce(t *testing.T) {
	w := newWorld(t, "alpha")
	if _, err := w.open("alpha").Download(t.Context(), admin, certificates(3), 2); err != nil {
		t.Fatal(err)
	}
	second, _ := w.beside(t)
	answers := func() error {
		h, err := second.service.Open(t.Context(), "alpha")
		if err != nil {
			return err
		}
		k, err := h.Keys(t.Context())
		if err != nil {
			return err
		}
		_, err = k.List(t.Context(), admin, "", 1)
		return err
	}
	for range 2 {
		if err := answers(); err != nil {
			t.Fatal(err)
		}
		stale := second.open("alpha")
		if _, err := w.service.Delete(t.Context(), "alpha"); err != nil {
			t.Fatal(err)
		}
		if err := answers(); !errors.Is(err, failure.NotFound) {
			t.Fatalf("deleted, it answers %v", err)
		}
		if k, err := stale.Keys(t.Context()); err == nil { // a request that was on its way
			if _, err := k.List(t.Context(), admin, "", 1); !errors.Is(err, failure.NotFound) {
				t.Errorf("deleted, an older handle answers %v", err)
			}
		}
		if _, err := w.service.Recover(t.Context(), "alpha"); err != nil {
			t.Fatal(err)
		}
	}
	if err := answers(); err != nil {
		t.Fatal(err)
	}
	if _, err := w.service.Delete(t.Context(), "alpha"); err != nil {
		t.Fatal(err)
	}
	if _, err := w.service.Purge(t.Context(), "alpha"); err != nil {
		t.Fatal(err)
	}
	if _, _, err := w.service.Create(t.Context(), spec("Alpha")); err != nil {
		t.Fatal(err)
	}
	if h := second.open("alpha"); h.Name() != "Alpha" {
		t.Errorf("the name leads to the purged HSM, %s", h.Name())
	}
	if err := answers(); !errors.Is(err, failure.NotActivated) {
		t.Errorf("the new HSM answers %v, as the purged one did", err)
	}
}

// A handle that was looked up before a deletion and handed out after it is not kept.
func TestHandleReadBesideADeletionIsNotKept(t *testing.T) {
	w := newWorld(t, "alpha")
	second, o := w.beside(t)
	remove := func() {
		if _, err := w.service.Delete(context.Background(), "alpha"); err != nil {
			t.Error(err)
		}
	}
	o.after.Store(&remove)
	_, _ = second.service.Open(t.Context(), "alpha")
	if _, err := second.service.Open(t.Context(), "alpha"); !errors.Is(err, failure.NotFound) {
		t.Errorf("deleted, it answers %v", err)
	}
}

// What followed the store for an HSM is let go of with the HSM's change, and everything at the end.
func TestNoWatcherIsLeft(t *testing.T) {
	w := newWorld(t, "alpha")
	second, o := w.beside(t)
	begin := o.watchers.Load()
	for range 5 {
		if _, err := second.open("alpha").Keys(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := w.service.Delete(t.Context(), "alpha"); err != nil {
			t.Fatal(err)
		}
		if _, err := w.service.Recover(t.Context(), "alpha"); err != nil {
			t.Fatal(err)
		}
	}
	h := second.open("alpha")
	if _, err := h.Keys(t.Context()); err != nil {
		t.Fatal(err)
	}
	second.service.Close()
	if left := o.watchers.Load(); left != begin-1 { // the service's own is gone too
		t.Errorf("%d watchers are left, want %d", left, begin-1)
	}
	if _, err := h.Keys(t.Context()); !errors.Is(err, failure.Unavailable) {
		t.Errorf("after Close: %v", err)
	}
}

// The operator's limit reaches the keys.
func TestKeyLimitOfTheOperator(t *testing.T) {
	w := newWorld(t, "alpha")
	w.config = func(c *hsm.Config) { c.MaxKeys = 1 }
	w.begin()
	if _, err := w.open("alpha").Download(t.Context(), admin, certificates(3), 2); err != nil {
		t.Fatal(err)
	}
	k, err := w.open("alpha").Keys(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.Create(t.Context(), admin, "a", keys.CreateParams{Type: "EC"}); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Create(t.Context(), admin, "b", keys.CreateParams{Type: "EC"}); !errors.Is(err, failure.Conflict) {
		t.Errorf("the second key: %v", err)
	}
}
