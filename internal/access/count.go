package access

import "sync/atomic"

// counts are how tokens that were let in were checked.
type counts struct{ remembered, verified atomic.Uint64 }

// Counts returns how many tokens were let in because they had been seen before, and how many after a check of their
// signature.
func (v *Verifier) Counts() (remembered, verified uint64) {
	return v.counts.remembered.Load(), v.counts.verified.Load()
}
