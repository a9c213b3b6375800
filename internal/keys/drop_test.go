package keys

import (
	"slices"
	"sync"
	"testing"

	"strongroom/internal/engine"
	"strongroom/internal/store/memory"
)

// forgetful is an engine that writes down what it was told to forget.
type forgetful struct {
	engine.Engine
	mu      sync.Mutex
	dropped []string // the bindings, each of which is of one version
}

func (f *forgetful) Drop(ref engine.Ref) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dropped = append(f.dropped, string(ref.Binding)+string(ref.Sealed))
	f.Engine.Drop(ref)
}

// taken returns what was dropped since it was last asked, in order.
func (f *forgetful) taken() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	list := f.dropped
	f.dropped = nil
	slices.Sort(list)
	return list
}

// Covers K11, K12: the engine forgets opened keys when they are disabled, deleted or purged, by hand or by
// themselves: all versions of them, and nothing else.
func TestEngineForgetsKeys(t *testing.T) {
	b := newBench(t, memory.New(), alphaID, ownDomain)
	spy := &forgetful{Engine: b.engine}
	b.Keys.cfg.Engine = func() (engine.Engine, error) { return spy, nil }
	b.create(t, "other", CreateParams{})
	first, second := b.create(t, "k", CreateParams{}), b.create(t, "k", CreateParams{})
	ref := func(version string) string {
		_, v, err := b.find(t.Context(), spy, "k", version)
		if err != nil {
			t.Fatal(err)
		}
		r := v.ref(alphaID, "k")
		return string(r.Binding) + string(r.Sealed)
	}
	one, both := []string{ref(first.Version)}, []string{ref(first.Version), ref(second.Version)}
	slices.Sort(both)
	update := func(p UpdateParams) func() error {
		return func() error { _, err := b.Update(t.Context(), alice, "k", first.Version, p); return err }
	}
	remove := func() error { _, err := b.Delete(t.Context(), alice, "K"); return err }
	for _, step := range []struct {
		what string
		do   func() error
		want []string
	}{
		{"a tag", update(UpdateParams{Tags: map[string]string{"a": "b"}}), nil},
		{"disabled", update(UpdateParams{Enabled: ptr(false)}), one},
		{"a refused change", func() error { _ = update(UpdateParams{Ops: []string{"import"}})(); return nil }, nil},
		{"enabled", update(UpdateParams{Enabled: ptr(true)}), nil},
		{"deleted", remove, both},
		{"deleted again", func() error { _ = remove(); return nil }, nil},
		{"recovered", func() error { _, err := b.Recover(t.Context(), alice, "k"); return err }, nil},
		{"deleted once more", remove, both},
		{"swept early", func() error { _, err := b.Sweep(t.Context()); return err }, nil},
		{"swept when due", func() error { b.run(91 * day); _, err := b.Sweep(t.Context()); return err }, both},
	} {
		for _, version := range []string{first.Version, second.Version} { // opens the key, where it can be used
			_, _ = b.Sign(t.Context(), alice, "k", version, "ES256", digest())
		}
		if err := step.do(); err != nil {
			t.Fatalf("%s: %v", step.what, err)
		}
		if got := spy.taken(); !slices.Equal(got, step.want) {
			t.Errorf("%s: %d keys were forgotten, want %d, or they are others", step.what, len(got), len(step.want))
		}
	}
	third := b.create(t, "k", CreateParams{})
	want := []string{ref(third.Version)}
	if err := remove(); err != nil {
		t.Fatal(err)
	}
	spy.taken()
	if err := b.Purge(t.Context(), alice, "k"); err != nil {
		t.Fatal(err)
	}
	if got := spy.taken(); !slices.Equal(got, want) {
		t.Errorf("purged by hand: %d keys were forgotten", len(got))
	}
}
