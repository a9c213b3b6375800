package keys

import (
	"context"
	"sync/atomic"
	"testing"

	"strongroom/internal/engine"
	"strongroom/internal/failure"
	"strongroom/internal/store"
	"strongroom/internal/store/memory"
)

// rebinder is an engine beside whose Rebind something else happens.
type rebinder struct {
	engine.Engine
	meanwhile func()
}

func (r *rebinder) Rebind(ctx context.Context, ref engine.Ref, binding []byte) ([]byte, error) {
	sealed, err := r.Engine.Rebind(ctx, ref, binding)
	r.meanwhile()
	return sealed, err
}

func (b *bench) duringRebind(meanwhile func()) {
	eng := &rebinder{b.engine, meanwhile}
	b.Keys.cfg.Engine = func() (engine.Engine, error) { return eng, nil }
}

func immutablePolicy() UpdateParams {
	p := anyPolicy()
	p.Immutable = true
	return UpdateParams{ReleasePolicy: p}
}

// Others write to the store while a key is sealed for its immutable policy, and a change of the same version is kept.
func TestRebindLetsOthersWrite(t *testing.T) {
	s := memory.New()
	b := newBench(t, s, alphaID, ownDomain)
	watched := &writingStore{Store: s}
	b.Keys.cfg.Store = watched
	beta := newBench(t, s, betaID, otherDomain)
	e := newTEE(t, b)
	b.leaver(t, "k", CreateParams{})
	rounds := 0
	b.duringRebind(func() {
		rounds++
		// The store has one writer at a time: inside of a transaction, this one would wait for itself.
		if watched.writing.Load() {
			t.Error("Rebind is called inside a transaction")
			return
		}
		beta.create(t, seqName(rounds), CreateParams{})
		if rounds == 1 {
			if _, err := b.Update(t.Context(), alice, "k", "", UpdateParams{Tags: map[string]string{"by": "another"}}); err != nil {
				t.Error(err)
			}
		}
	})
	key, err := b.Update(t.Context(), alice, "k", "", immutablePolicy())
	if err != nil {
		t.Fatal(err)
	}
	if rounds != 2 || key.Tags["by"] != "another" || !key.ReleasePolicy.Immutable {
		t.Errorf("after %d rounds: tags %v, immutable %t; want 2, the other's tag and true", rounds, key.Tags, key.ReleasePolicy.Immutable)
	}
	if _, err := b.release(t, "k", "", "", e.token(t, nil)); err != nil {
		t.Errorf("the key is of no use afterwards: %v", err)
	}
}

// An Update gives up, and changes nothing, where others change the version each time.
func TestRebindGivesUp(t *testing.T) {
	b := newBench(t, memory.New(), alphaID, ownDomain)
	b.leaver(t, "k", CreateParams{})
	rounds := 0
	b.duringRebind(func() {
		rounds++
		if _, err := b.Update(t.Context(), alice, "k", "", UpdateParams{Tags: map[string]string{"n": seqName(rounds)}}); err != nil {
			t.Error(err)
		}
	})
	_, err := b.Update(t.Context(), alice, "k", "", immutablePolicy())
	wantKind(t, err, failure.Conflict)
	key, err := b.Get(t.Context(), alice, "k", "")
	if err != nil || rounds != maxRebinds || key.ReleasePolicy.Immutable || key.Tags["n"] != seqName(rounds) {
		t.Errorf("after %d rounds: %+v, %v", rounds, key, err)
	}
}

// writingStore knows whether a transaction that writes is under way.
type writingStore struct {
	store.Store
	writing atomic.Bool
}

func (s *writingStore) Update(ctx context.Context, do func(store.Writer) error) error {
	return s.Store.Update(ctx, func(w store.Writer) error {
		s.writing.Store(true)
		defer s.writing.Store(false)
		return do(w)
	})
}
