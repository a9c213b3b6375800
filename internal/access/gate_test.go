package access

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"

	"strongroom/internal/failure"
)

// heldKeys are keys whose signature checks end when they are let go.
type heldKeys struct {
	oidc.KeySet
	release chan struct{}
	running atomic.Int64
	most    atomic.Int64
}

func (h *heldKeys) VerifySignature(ctx context.Context, jwt string) ([]byte, error) {
	n := h.running.Add(1)
	defer h.running.Add(-1)
	for m := h.most.Load(); n > m && !h.most.CompareAndSwap(m, n); m = h.most.Load() {
	}
	<-h.release
	return h.KeySet.VerifySignature(ctx, jwt)
}

// A flood of tokens that were never seen, forged ones as it may be, takes a few processors and no more; whoever comes
// when too many wait is told to try again; and a token that is known passes them all. Covers A5.
func TestForgedTokensCannotTakeTheProcessors(t *testing.T) {
	s := newSpied(t, nil)
	if err := s.verify(t); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		const atOnce, waiting, flood = 2, 8, 40
		held := &heldKeys{KeySet: s.keys.KeySet, release: make(chan struct{})}
		from := s.issuers[issuerA]
		from.Keys = held
		s.issuers[issuerA], s.gate = from, newGate(atOnce, waiting)
		other := newKey(t)
		answers := make(chan error, flood)
		var wait sync.WaitGroup
		for n := range flood {
			forged := sign(t, jose.ES256, other, nil, claims(map[string]any{"jti": fmt.Sprint(n)}))
			wait.Go(func() {
				_, err := s.Verify(t.Context(), forged, []string{resource})
				answers <- err
			})
		}
		synctest.Wait()
		if n := held.running.Load(); n != atOnce {
			t.Errorf("%d checks run at once, want %d", n, atOnce)
		}
		for range flood - atOnce - waiting {
			select {
			case err := <-answers:
				want(t, err, failure.Unavailable)
			default:
				t.Fatal("more wait than may")
			}
		}
		if n := len(answers); n != 0 {
			t.Errorf("%d more have an answer: fewer wait than may", n)
		}
		want(t, s.verify(t), nil) // the one that is known
		close(held.release)
		wait.Wait()
		for range atOnce + waiting {
			want(t, <-answers, failure.Unauthorized)
		}
		if n := held.most.Load(); n != atOnce {
			t.Errorf("%d checks ran at once, want %d", n, atOnce)
		}
		if n := s.gate.waiting.Load(); n != 0 || len(s.gate.running) != 0 {
			t.Errorf("afterwards %d wait and %d run", n, len(s.gate.running))
		}
	})
}

// Who gives up waiting leaves the queue.
func TestGateLetsGoOfWhoLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, release := newGate(1, 1), make(chan struct{})
		var wait sync.WaitGroup
		wait.Go(func() { want(t, g.do(t.Context(), func() { <-release }), nil) })
		synctest.Wait()
		ctx, leave := context.WithCancel(t.Context())
		ran := false
		wait.Go(func() { want(t, g.do(ctx, func() { ran = true }), failure.Unavailable) })
		synctest.Wait()
		want(t, g.do(t.Context(), func() {}), failure.Unavailable) // two are enough
		leave()
		synctest.Wait()
		wait.Go(func() { want(t, g.do(t.Context(), func() {}), nil) }) // his place is free
		synctest.Wait()
		close(release)
		wait.Wait()
		if ran {
			t.Error("the check of one who had left ran")
		}
	})
}

// A check that panics gives its place back: the server's guard lets the process live on.
func TestGateSurvivesAPanic(t *testing.T) {
	g := newGate(1, 0)
	func() {
		defer func() { _ = recover() }()
		_ = g.do(t.Context(), func() { panic("a library") })
	}()
	want(t, g.do(t.Context(), func() {}), nil)
}

// Tokens that wait for an issuer's network hold no place: with the only one to be had, others are checked meanwhile.
func TestSlowIssuerHoldsNoPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, open := newGated(t)
		b.v.gate = newGate(1, 0)
		token, result := b.token(t, b.key, "first"), make(chan error)
		go func() {
			_, err := b.v.Verify(t.Context(), token, []string{resource})
			result <- err
		}()
		synctest.Wait()
		if n := len(b.v.gate.running); n != 0 {
			t.Error("it holds a place while it waits for the issuer")
		}
		open()
		want(t, <-result, nil)
	})
}

// With the gate full, a token of a remote issuer is told so, whatever its keys; it is no reason to read them anew.
func TestFullGateIsNoReasonToAskTheIssuer(t *testing.T) {
	b := newBench(t)
	want(t, b.verify(t, b.key, "first"), nil)
	b.wantCounts(t, 1)
	b.advance(fetchInterval)
	b.v.gate = newGate(1, 0)
	b.v.gate.running <- struct{}{}
	want(t, b.verify(t, b.key, "first"), failure.Unavailable)
	want(t, b.verify(t, b.key, ""), failure.Unavailable)
	b.wantCounts(t, 1)
	<-b.v.gate.running
	want(t, b.verify(t, b.key, "first"), nil)
}
