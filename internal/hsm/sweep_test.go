package hsm_test

import (
	"testing"
	"time"

	"strongroom/internal/failure"
	"strongroom/internal/hsm"
	"strongroom/internal/keys"
)

// Covers K11: the sweep purges what is due on every activated HSM of the server, and passes the others over. Keys of
// a deleted HSM wait until it is recovered.
func TestSweep(t *testing.T) {
	w := newWorld(t)
	var up time.Duration
	w.config = func(c *hsm.Config) { c.Uptime = func() time.Duration { return up } }
	w.begin()
	for _, name := range []string{"alpha", "beta", "gamma", "waiting"} {
		if _, _, err := w.service.Create(t.Context(), spec(name)); err != nil {
			t.Fatal(err)
		}
	}
	open := func(name string) *keys.Keys {
		k, err := w.open(name).Keys(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	for _, name := range []string{"alpha", "beta", "gamma"} {
		if _, err := w.open(name).Download(t.Context(), admin, certificates(3), 2); err != nil {
			t.Fatal(err)
		}
		if _, err := open(name).Create(t.Context(), admin, "k", keys.CreateParams{Type: "EC"}); err != nil {
			t.Fatal(err)
		}
		if _, err := open(name).Delete(t.Context(), admin, "k"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.service.Delete(t.Context(), "gamma"); err != nil {
		t.Fatal(err)
	}
	pass := func(clock, uptime time.Duration) {
		w.advance(clock)
		up += uptime
		if err := w.service.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	kept := func(name string) bool {
		_, err := open(name).GetDeleted(t.Context(), admin, "k")
		if err != nil && failure.KindOf(err) != failure.NotFound {
			t.Fatal(err)
		}
		return err == nil
	}
	days := 24 * time.Hour * time.Duration(w.info("alpha").RetentionDays)
	pass(0, 0)
	pass(100*days, days-time.Minute) // the clock is far ahead
	if !kept("alpha") || !kept("beta") {
		t.Error("a key was purged early")
	}
	pass(0, time.Minute)
	if kept("alpha") || kept("beta") {
		t.Error("a key was not purged on time")
	}
	if _, err := w.service.Recover(t.Context(), "gamma"); err != nil {
		t.Fatal(err)
	}
	if !kept("gamma") {
		t.Error("a key of a deleted HSM was purged")
	}
}
