package hsm_test

import (
	"testing"
	"time"

	"strongroom/internal/hsm"
	"strongroom/internal/store"
)

// busy is a store in which something happens whenever somebody asks for announcements, as a commit may.
type busy struct {
	store.Store
	happens func()
}

func (b *busy) Announce(before func([]string), settled func()) func() {
	if f := b.happens; f != nil {
		b.happens = nil
		f()
	}
	return b.Store.Announce(before, settled)
}

// A commit that changes an HSM while its keys are opened waits for nobody who waits for it, and what is opened then is of
// the HSM as it is afterwards.
func TestKeysAreOpenedBesideACommit(t *testing.T) {
	w := newWorld(t, "alpha")
	b := &busy{Store: w.store}
	w.config = func(c *hsm.Config) { c.Store = b }
	w.begin()
	h := w.open("alpha")
	b.happens = func() {
		done := make(chan error, 1)
		go func() {
			s := spec("alpha")
			s.Tags = map[string]string{"changed": "meanwhile"}
			_, _, err := w.service.Create(t.Context(), s)
			done <- err
		}()
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(20 * time.Second): // of a machine that is very busy; without the lock it is at once
			t.Error("the commit waits for who waits for the commit")
		}
	}
	first, err := h.Keys(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if b.happens != nil {
		t.Error("nothing happened")
	}
	if again, err := h.Keys(t.Context()); err != nil || again != first {
		t.Errorf("the keys that were opened are not kept: %v", err)
	}
}
