package access

import (
	"context"
	"crypto/sha256"
	"slices"
	"sync"
	"time"
)

// maxTokens is how many verified tokens are remembered at most. Each is some hundred bytes, and at most what a token
// of [MaxToken] bytes can say.
const maxTokens = 8192

// generational is what a key set has whose keys change. Its generation moves whenever the keys are read anew, and
// asking for it has them read when they have grown old: a token that is remembered must not keep a withdrawn key alive.
type generational interface{ generation() uint64 }

// generationOf is 0 for ever for keys that do not change.
func generationOf(keys any) uint64 {
	if g, ok := keys.(generational); ok {
		return g.generation()
	}
	return 0
}

// tokenCache remembers what tokens that verified said, so that a token seen before costs no second signature check.
// It knows a token by its hash only: who reads this memory gets no token. Refusals are not remembered, for they would
// let strangers fill it.
//
// An entry is good for the keys that it was verified with, and only says what does not change: times and audience are
// compared at every use, and an issuer that can call tokens back is asked when it may have done so ([Standing]). There are two maps; when the young one is full it becomes the old one, whose entries come
// back when they are used, so what goes is what was not used for longest, about.
type tokenCache struct {
	most int // entries of each map

	mu         sync.Mutex
	young, old map[tokenID]*remembered
}

type tokenID [sha256.Size]byte

// remembered is what a verified token said. It is never changed.
type remembered struct {
	caller             Caller
	audiences          []string // as written
	notBefore, expires time.Time
	keys               any    // the issuer's key set
	generation         uint64 // of keys, before the signature was checked
	standing           Standing
	issued             Issued
	stood              stood
}

func newTokenCache(most int) *tokenCache {
	return &tokenCache{most: max(1, most/2), young: map[tokenID]*remembered{}}
}

// idOfToken hashes without a copy on the heap for tokens of the usual size.
func idOfToken(raw string) tokenID {
	var buffer [2048]byte
	return sha256.Sum256(append(buffer[:0], raw...))
}

func (c *tokenCache) get(id tokenID) *remembered {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r := c.young[id]; r != nil {
		return r
	}
	r := c.old[id]
	if r != nil {
		delete(c.old, id)
		c.add(id, r)
	}
	return r
}

func (c *tokenCache) put(id tokenID, r *remembered) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.old, id)
	c.add(id, r)
}

// add makes room first. c.mu is held.
func (c *tokenCache) add(id tokenID, r *remembered) {
	if _, there := c.young[id]; !there && len(c.young) >= c.most {
		c.old, c.young = c.young, make(map[tokenID]*remembered, c.most)
	}
	c.young[id] = r
}

// drop forgets r, unless somebody has put something newer in its place.
func (c *tokenCache) drop(id tokenID, r *remembered) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, m := range []map[tokenID]*remembered{c.young, c.old} {
		if m[id] == r {
			delete(m, id)
		}
	}
}

// recall answers from the cache if everything that can have changed since the token was verified still holds.
// Otherwise the token goes the whole way, which also finds the words for a refusal.
func (v *Verifier) recall(ctx context.Context, id tokenID, audiences []string) (Caller, bool) {
	r := v.seen.get(id)
	if r == nil {
		return Caller{}, false
	}
	now := v.now()
	if tooLate(now, r.expires) || generationOf(r.keys) != r.generation {
		v.seen.drop(id, r)
		return Caller{}, false
	}
	if tooEarly(now, r.notBefore) || !meant(r.audiences, audiences) {
		return Caller{}, false
	}
	if r.standing == nil {
		return r.caller, true
	}
	if g := r.standing.Generation(); !r.stood.holds(g, now) {
		if r.standing.Check(ctx, r.issued) != nil {
			v.seen.drop(id, r)
			return Caller{}, false
		}
		again := *r
		again.stood = stood{g, now}
		v.seen.put(id, &again)
	}
	return r.caller, true
}

// tooEarly and tooLate are the two ends of a token's life, with the skew.
func tooEarly(now, notBefore time.Time) bool { return now.Add(Skew).Before(notBefore) }
func tooLate(now, expires time.Time) bool    { return now.Add(-Skew).After(expires) }

// meant reports whether a token with these audiences is for one of those asked for. Most are written alike.
func meant(token, asked []string) bool {
	for _, a := range token {
		if slices.Contains(asked, a) {
			return true
		}
	}
	return slices.ContainsFunc(token, func(a string) bool {
		a = normalAudience(a)
		return slices.ContainsFunc(asked, func(b string) bool { return a == normalAudience(b) })
	})
}
