package identity

import (
	"sync"
	"time"
)

const (
	failureWindow = time.Minute
	maxFailures   = 10   // per ID and window, before the answer becomes 429
	maxFailing    = 1024 // IDs watched at once
)

// failures counts refused sign-ins by what was signed in with, a client ID or the name of a user, known or not. It slows
// nobody down who has the right secret: a secret cannot be guessed, so the count only has to keep noise small, and a
// stranger must not be able to lock anybody out by failing in their name (threat A9).
type failures struct {
	now func() time.Time

	mu   sync.Mutex
	seen map[string]failing
}

type failing struct {
	since time.Time
	count int
}

func newFailures(now func() time.Time) *failures {
	return &failures{now: now, seen: map[string]failing{}}
}

// again records one more failure and reports whether there were too many.
func (f *failures) again(id string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.now()
	e, ok := f.seen[id]
	if age := now.Sub(e.since); !ok || age >= failureWindow || age < 0 {
		if !ok && len(f.seen) >= maxFailing {
			clear(f.seen) // a flood of made-up IDs: forget, rather than grow or refuse newcomers
		}
		e = failing{since: now}
	}
	e.count++
	f.seen[id] = e
	return e.count > maxFailures
}
