// Package overlay holds the writes of one transaction in memory, over a snapshot that stays as it was. It is
// how every store lets a transaction read its own writes, drop them all when it fails, and lets several
// transactions share one commit: the overlay of one is the snapshot of the next.
package overlay

import (
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"

	"strongroom/internal/store"
)

// Change is what a transaction did to one key.
type Change struct {
	Value   []byte
	Deleted bool
}

// Tx is a [store.Writer] over base. Not safe for concurrent use; base must not change while it is used.
type Tx struct {
	base    store.Reader
	changes map[string]Change
	err     error // the first put outside the limits
}

var _ store.Writer = (*Tx)(nil)

// New returns an empty transaction over base.
func New(base store.Reader) *Tx {
	return &Tx{base: base, changes: map[string]Change{}}
}

// Get returns a copy of the value as this transaction sees it.
func (t *Tx) Get(key string) ([]byte, bool) {
	if c, ok := t.changes[key]; ok {
		return slices.Clone(c.Value), !c.Deleted
	}
	return t.base.Get(key)
}

// Scan merges base with the changes made before the scan began.
func (t *Tx) Scan(prefix, after string) iter.Seq2[string, []byte] {
	return func(yield func(string, []byte) bool) {
		changes := make(map[string]Change)
		for k, c := range t.changes {
			if strings.HasPrefix(k, prefix) && k > after {
				changes[k] = c
			}
		}
		keys := slices.Sorted(maps.Keys(changes))
		// own yields the changed records that sort before limit.
		own := func(limit string, all bool) bool {
			for len(keys) > 0 && (all || keys[0] < limit) {
				k := keys[0]
				keys = keys[1:]
				if c := changes[k]; !c.Deleted && !yield(k, slices.Clone(c.Value)) {
					return false
				}
			}
			return true
		}
		for k, v := range t.base.Scan(prefix, after) {
			if !own(k, false) {
				return
			}
			if _, changed := changes[k]; changed {
				continue // own yields it, or leaves it out, when it is passed
			}
			if !yield(k, v) {
				return
			}
		}
		own("", true)
	}
}

// Put records a write of a copy of value.
func (t *Tx) Put(key string, value []byte) {
	if err := check(key, value); err != nil {
		if t.err == nil {
			t.err = err
		}
		return
	}
	t.changes[key] = Change{Value: slices.Concat(value)}
}

// Delete records a removal.
func (t *Tx) Delete(key string) {
	t.changes[key] = Change{Deleted: true}
}

// Err is [store.ErrRecord] when a put was outside the limits: the transaction must not commit.
func (t *Tx) Err() error { return t.err }

// Keys returns the changed keys in order.
func (t *Tx) Keys() []string { return slices.Sorted(maps.Keys(t.changes)) }

// Changes yields the changes in order of their keys. The values are not copies.
func (t *Tx) Changes() iter.Seq2[string, Change] {
	return func(yield func(string, Change) bool) {
		for _, k := range t.Keys() {
			if !yield(k, t.changes[k]) {
				return
			}
		}
	}
}

// Absorb adds the changes of a transaction over t to t.
func (t *Tx) Absorb(child *Tx) { maps.Copy(t.changes, child.changes) }

// Size is about how many bytes the changes take: keys, values, and a little for each.
func (t *Tx) Size() int64 {
	var n int64
	for k, c := range t.changes {
		n += int64(len(k)+len(c.Value)) + 64
	}
	return n
}

func check(key string, value []byte) error {
	switch {
	case key == "":
		return fmt.Errorf("%w: a key is empty", store.ErrRecord)
	case len(key) > store.MaxKey:
		return fmt.Errorf("%w: a key has %d bytes, the limit is %d", store.ErrRecord, len(key), store.MaxKey)
	case len(value) > store.MaxValue:
		return fmt.Errorf("%w: the value of %s has %d bytes, the limit is %d", store.ErrRecord, key, len(value), store.MaxValue)
	}
	return nil
}
