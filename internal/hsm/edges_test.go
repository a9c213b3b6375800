package hsm_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"strongroom/internal/engine"
	"strongroom/internal/engine/software"
	"strongroom/internal/failure"
	"strongroom/internal/hsm"
	"strongroom/internal/keys"
	"strongroom/internal/store"
	"strongroom/internal/store/memory"
	"strongroom/secret"
)

// A handle that was opened before the HSM was deleted does nothing after it.
func TestDeletedHSMTakesNothing(t *testing.T) {
	w := newWorld(t, "fresh", "waiting", "owned")
	d, err := w.open("owned").Download(t.Context(), admin, certificates(3), 2)
	if err != nil {
		t.Fatal(err)
	}
	exchange, err := w.open("waiting").ExchangeKey(t.Context(), admin)
	if err != nil {
		t.Fatal(err)
	}
	blob := transfer(t, d.File, exchange, 1, 2)
	handles := map[string]*hsm.HSM{}
	for _, name := range []string{"fresh", "waiting", "owned"} {
		handles[name] = w.open(name)
		if _, err := w.service.Delete(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	before := w.snapshot()
	for name, h := range handles {
		for what, call := range map[string]func() error{
			"download":     func() error { _, err := h.Download(t.Context(), admin, certificates(3), 2); return err },
			"exchange key": func() error { _, err := h.ExchangeKey(t.Context(), admin); return err },
			"cancel":       func() error { return h.CancelRecovery(t.Context(), admin) },
			"upload":       func() error { _, err := h.Upload(t.Context(), admin, blob); return err },
			"describe":     func() error { _, err := h.Describe(t.Context(), admin); return err },
			"create a key": func() error {
				k, err := h.Keys(t.Context())
				if err == nil {
					_, err = k.Create(t.Context(), admin, "k", keys.CreateParams{Type: "EC"})
				}
				return err
			},
		} {
			if err := call(); !errors.Is(err, failure.NotFound) {
				t.Errorf("%s on %s, which is deleted: %v, want not found", what, name, err)
			}
		}
	}
	if w.snapshot() != before {
		t.Error("a deleted HSM was changed")
	}
}

// After a year the exchange certificate is worth nothing to a careful client, so the next reading gives a new one.
func TestExchangeKeyExpires(t *testing.T) {
	w := newWorld(t, "beta")
	first, err := w.open("beta").ExchangeKey(t.Context(), admin)
	if err != nil {
		t.Fatal(err)
	}
	w.advance(364 * 24 * time.Hour)
	if again, err := w.open("beta").ExchangeKey(t.Context(), admin); err != nil || !bytes.Equal(again.Raw, first.Raw) {
		t.Fatalf("a valid exchange key was replaced (%v)", err)
	}
	w.advance(3 * 24 * time.Hour)
	fresh, err := w.open("beta").ExchangeKey(t.Context(), admin)
	if err != nil || bytes.Equal(fresh.Raw, first.Raw) || fresh.NotAfter.Before(w.clock()) {
		t.Fatalf("an expired exchange key is handed out (%v)", err)
	}
	if w.info("beta").State != hsm.Recovering {
		t.Errorf("the HSM is %s", w.info("beta").State)
	}
}

// One damaged record takes its own HSM down and no other.
func TestOneDamagedRecord(t *testing.T) {
	w := newWorld(t, "alpha", "beta")
	id := w.info("beta").ID
	if err := w.store.Update(t.Context(), func(tx store.Writer) error { tx.Put("hsm/"+id+"/record", []byte("damage")); return nil }); err != nil {
		t.Fatal(err)
	}
	list, err := w.service.List(t.Context(), false)
	if err != nil || len(list) != 1 || list[0].Name != "alpha" {
		t.Fatalf("list: %+v, %v; want alpha alone", list, err)
	}
	if _, _, err := w.service.Create(t.Context(), spec("gamma")); err != nil {
		t.Errorf("another HSM cannot be made: %v", err)
	}
	if _, err := w.open("alpha").Download(t.Context(), admin, certificates(3), 2); err != nil {
		t.Errorf("another HSM cannot be used: %v", err)
	}
	if _, err := w.service.Get(t.Context(), "beta"); !errors.Is(err, failure.Tampered) {
		t.Errorf("the damaged one: %v, want tampered", err)
	}
	if _, _, err := w.service.Create(t.Context(), spec("beta")); !errors.Is(err, failure.Tampered) {
		t.Errorf("a new HSM over the damaged one: %v, want tampered", err)
	}
}

// A port that was reserved for an HSM that could not be written is given back.
func TestFailedCreateGivesThePortBack(t *testing.T) {
	w := &world{t: t, store: memory.New(), seal: newWorld(t).seal, now: time.Now()}
	reserved := 0
	w.config = func(c *hsm.Config) {
		c.ReservePort = func(map[int]bool) (int, error) { reserved++; return 9000, nil }
		c.ReleasePort = func(int) { reserved-- }
	}
	w.begin()
	w.store.Inject(memory.Fault{At: 1})
	if _, _, err := w.service.Create(t.Context(), spec("alpha")); !errors.Is(err, failure.Unavailable) {
		t.Fatalf("on a full disk: %v", err)
	}
	if reserved != 0 {
		t.Errorf("%d ports are kept for an HSM that was not made", reserved)
	}
	if i, _, err := w.service.Create(t.Context(), spec("alpha")); err != nil || i.Port != 9000 || reserved != 1 {
		t.Errorf("with space again: %+v, %v, %d reserved", i, err, reserved)
	}
}

// watched is an engine that lets a test step in, and says whether it was closed.
type watched struct {
	engine.Engine
	generate func()
	closed   *atomic.Int32
}

func (e watched) Generate(ctx context.Context, s engine.Spec, binding []byte) (engine.Made, error) {
	e.generate()
	return e.Engine.Generate(ctx, s, binding)
}

func (e watched) Close() { e.closed.Add(1); e.Engine.Close() }

// The HSM is purged while a key is being made, or while its engine is being opened. Nothing is written under an HSM that
// is gone, and its domain keys do not stay in memory. Covers K11 and K12 as far as HSMs go.
func TestPurgeBesideAKey(t *testing.T) {
	for _, moment := range []string{"while the key is made", "while the engine is opened"} {
		t.Run(moment, func(t *testing.T) {
			w := &world{t: t, store: memory.New(), seal: newWorld(t).seal, now: time.Now()}
			var opened, closed atomic.Int32
			purge := func() {
				if _, err := w.service.Delete(context.Background(), "alpha"); err != nil {
					t.Error(err)
				}
				if _, err := w.service.Purge(context.Background(), "alpha"); err != nil {
					t.Error(err)
				}
			}
			w.config = func(c *hsm.Config) {
				c.OpenEngine = func(wrapping, backup secret.Bytes) (engine.Engine, error) {
					opened.Add(1)
					e, err := software.New(wrapping, backup, rand.Reader)
					hook := func() {}
					if moment == "while the key is made" {
						hook = purge
					} else {
						purge()
					}
					return watched{e, hook, &closed}, err
				}
			}
			w.begin()
			if _, _, err := w.service.Create(t.Context(), spec("alpha")); err != nil {
				t.Fatal(err)
			}
			alpha := w.open("alpha")
			if _, err := alpha.Download(t.Context(), admin, certificates(3), 2); err != nil {
				t.Fatal(err)
			}
			k, err := alpha.Keys(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if key, err := k.Create(t.Context(), admin, "late", keys.CreateParams{Type: "EC"}); err == nil {
				t.Errorf("key %s was made on an HSM that is purged", key.Name)
			}
			if left := w.snapshot(); strings.Contains(left, "hsm/") {
				t.Errorf("the purged HSM left records:\n%s", left)
			}
			w.service.Close()
			if o, c := opened.Load(), closed.Load(); o == 0 || o != c {
				t.Errorf("%d engines were opened and %d closed", o, c)
			}
		})
	}
}
