package access

import (
	"context"
	"runtime"
	"sync/atomic"

	"strongroom/internal/failure"
)

// maxWaiting is how many tokens never seen before wait for their signature check, each for the time of those before it:
// some 100 µs apiece.
const maxWaiting = 256

// checksAtOnce leaves half of the processors to those who have shown who they are.
func checksAtOnce() int { return max(1, runtime.GOMAXPROCS(0)/2) }

// gate bounds how many signature checks run at once and how many wait. A forged token costs a check, and anybody may
// send one: without a bound, a stranger's tokens would take every processor from the callers whose tokens are known.
// Nil lets everybody through.
type gate struct {
	running chan struct{}
	waiting atomic.Int64
	most    int64 // who wait
}

// gated is a key set that passes the gate by itself, because not all of its work is checking.
type gated interface {
	verifySignature(ctx context.Context, jwt string, g *gate) ([]byte, error)
}

func newGate(atOnce, waiting int) *gate {
	return &gate{running: make(chan struct{}, atOnce), most: int64(waiting)}
}

// do runs f when it is its turn. If too many wait, or ctx ends first, f does not run and the error is
// failure.Unavailable.
func (g *gate) do(ctx context.Context, f func()) error {
	if g == nil {
		f()
		return nil
	}
	select {
	case g.running <- struct{}{}:
	default:
		if err := g.wait(ctx); err != nil {
			return err
		}
	}
	defer func() { <-g.running }()
	f()
	return nil
}

func (g *gate) wait(ctx context.Context) error {
	defer g.waiting.Add(-1)
	if g.waiting.Add(1) > g.most {
		return failure.New(failure.Unavailable, "too many tokens that were never seen here are being checked; try again in a few seconds")
	}
	select {
	case g.running <- struct{}{}:
		return nil
	case <-ctx.Done():
		return failure.Wrap(failure.Unavailable, ctx.Err(), "the token was not checked in time, because many others were; try again")
	}
}
