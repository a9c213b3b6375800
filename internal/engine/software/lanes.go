package software

import (
	"context"
	"runtime"

	"strongroom/internal/engine"
)

// lanes keep heavy work from taking every processor. A signature with an RSA-4096 key costs as much as some two
// hundred with P-256; a few clients that ask for nothing else would make everybody wait for the scheduler's time
// slices. So heavy work queues for fewer places than there are processors, and light work never queues. On a
// machine with one processor there is one place, and the scheduler's slices are all that helps.
//
// Whoever waits is served in order of arrival, as goroutines that send to a full channel are.
type lanes struct {
	heavy chan struct{}
	// finding is taken before heavy by whoever looks for an RSA key, which takes seconds: of those at most half as
	// many are on the way, so that a signature waits for one search at most and not for a row of them.
	finding chan struct{}
}

func newLanes() lanes {
	places := max(1, runtime.GOMAXPROCS(0)-1)
	return lanes{heavy: make(chan struct{}, places), finding: make(chan struct{}, max(1, places/2))}
}

// enter waits for a place for heavy work, or for ctx to end. On success the caller calls leave when done.
func (l lanes) enter(ctx context.Context) (leave func(), err error) {
	if err := wait(ctx, l.heavy); err != nil {
		return nil, err
	}
	return func() { <-l.heavy }, nil
}

// enterSearch is enter for the search of an RSA key.
func (l lanes) enterSearch(ctx context.Context) (leave func(), err error) {
	if err := wait(ctx, l.finding); err != nil {
		return nil, err
	}
	if err := wait(ctx, l.heavy); err != nil {
		<-l.finding
		return nil, err
	}
	return func() { <-l.heavy; <-l.finding }, nil
}

func wait(ctx context.Context, places chan struct{}) error {
	if err := ctx.Err(); err != nil {
		return err // select would choose at random
	}
	select {
	case places <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// heavy reports whether private operations with the key, and parsing it, belong into the lanes. ref is a claim
// until the key is open; one that lies ends as engine.ErrTampered.
func heavy(ref engine.Ref) bool { return ref.Type == engine.RSA && ref.Bits > 2048 }
