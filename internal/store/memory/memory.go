// Package memory is a store without a disk, for tests: the semantics of package store, and faults on demand.
//
// What would be on disk is kept apart from what the running store shows, so that a test can let a commit fail
// "but be written", restart, and see what a server would find.
package memory

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync"

	"strongroom/internal/store"
	"strongroom/internal/store/feed"
	"strongroom/internal/store/overlay"
)

// Fault says which commit fails and how. Updates that fail by themselves, or write nothing, do not count.
type Fault struct {
	// At is the commit that fails, counted from the call of [Store.Inject]: 1 is the next one.
	At int
	// Err is [store.ErrFull] (the default; nothing is written, the store goes on) or [store.ErrFailed] (the store
	// refuses every later update).
	Err error
	// Written lets the writes of an ErrFailed commit reach the disk: reported failed, there after a restart.
	Written bool
	// Forever makes every commit from At on fail with ErrFull, until Inject is called again.
	Forever bool
}

type record struct {
	key   string
	value []byte
}

// snapshot is a sorted slice that is never changed, only replaced.
type snapshot []record

// Store implements [store.Store].
type Store struct {
	writer chan struct{} // holds one token while nobody updates
	failed chan struct{}
	views  sync.WaitGroup
	feed   feed.Feed

	mu      sync.Mutex // the fields below
	live    snapshot
	disk    snapshot
	fault   *Fault
	commits int // since Inject
	closed  bool
	broken  bool
}

var _ store.Store = (*Store)(nil)

// New returns an empty store.
func New() *Store { return open(nil) }

func open(disk snapshot) *Store {
	s := &Store{
		writer: make(chan struct{}, 1),
		failed: make(chan struct{}),
		live:   disk,
		disk:   disk,
	}
	s.writer <- struct{}{}
	return s
}

// Inject arms a fault, or disarms with the zero Fault. It replaces the one before.
func (s *Store) Inject(f Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.commits = 0
	s.fault = nil
	if f.At > 0 {
		if f.Err == nil {
			f.Err = store.ErrFull
		}
		s.fault = &f
	}
}

// Restart returns what a process that starts now would open: what is on disk, and no faults. The old store
// should not be used any more.
func (s *Store) Restart() *Store {
	s.mu.Lock()
	defer s.mu.Unlock()
	return open(s.disk)
}

// View implements [store.Store].
func (s *Store) View(ctx context.Context, fn func(store.Reader) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return store.ErrClosed
	}
	snap := s.live
	s.views.Add(1)
	s.mu.Unlock()
	defer s.views.Done()
	return fn(snap)
}

// Update implements [store.Store].
func (s *Store) Update(ctx context.Context, fn func(store.Writer) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case <-s.writer:
		defer func() { s.writer <- struct{}{} }()
	case <-ctx.Done():
		return ctx.Err()
	}
	s.mu.Lock()
	base, closed, broken := s.live, s.closed, s.broken
	s.mu.Unlock()
	if closed {
		return store.ErrClosed
	}
	if broken {
		return store.ErrFailed
	}
	tx := overlay.New(base)
	if err := fn(tx); err != nil {
		return err
	}
	if err := tx.Err(); err != nil {
		return err
	}
	keys := tx.Keys()
	if len(keys) == 0 {
		return nil
	}
	s.feed.Begin(keys)
	defer s.feed.End()
	if err := s.commit(base.apply(tx)); err != nil {
		return err
	}
	s.feed.Publish(keys)
	return nil
}

// commit makes next the state, unless a fault says otherwise.
func (s *Store) commit(next snapshot) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.commits++
	if f := s.fault; f != nil && (s.commits == f.At || f.Forever && s.commits > f.At) {
		if f.Err != store.ErrFailed {
			return fmt.Errorf("injected at commit %d: %w", s.commits, f.Err)
		}
		if f.Written {
			s.disk = next
		}
		s.broken = true
		close(s.failed)
		return fmt.Errorf("injected at commit %d: %w", s.commits, f.Err)
	}
	s.live, s.disk = next, next
	return nil
}

// Watch implements [store.Store].
func (s *Store) Watch(fn func(keys []string)) (cancel func()) { return s.feed.Watch(fn) }

// Announce implements [store.Store].
func (s *Store) Announce(before func(keys []string), settled func()) (cancel func()) {
	return s.feed.Announce(before, settled)
}

// Failed implements [store.Store].
func (s *Store) Failed() <-chan struct{} { return s.failed }

// Close implements [store.Store].
func (s *Store) Close() error {
	<-s.writer
	defer func() { s.writer <- struct{}{} }()
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.views.Wait()
	return nil
}

// search returns the position of the first record whose key is not below key.
func (s snapshot) search(key string) (int, bool) {
	return slices.BinarySearchFunc(s, key, func(r record, k string) int { return strings.Compare(r.key, k) })
}

// Get implements [store.Reader].
func (s snapshot) Get(key string) ([]byte, bool) {
	i, ok := s.search(key)
	if !ok {
		return nil, false
	}
	return slices.Clone(s[i].value), true
}

// Scan implements [store.Reader].
func (s snapshot) Scan(prefix, after string) iter.Seq2[string, []byte] {
	return func(yield func(string, []byte) bool) {
		i, _ := s.search(max(prefix, after))
		for ; i < len(s) && strings.HasPrefix(s[i].key, prefix); i++ {
			if s[i].key > after && !yield(s[i].key, slices.Clone(s[i].value)) {
				return
			}
		}
	}
}

// apply returns a new snapshot with the changes of tx.
func (s snapshot) apply(tx *overlay.Tx) snapshot {
	next := make(snapshot, 0, len(s)+8)
	rest := s
	for key, change := range tx.Changes() {
		i, found := rest.search(key)
		next = append(next, rest[:i]...)
		rest = rest[i:]
		if found {
			rest = rest[1:]
		}
		if !change.Deleted {
			next = append(next, record{key, change.Value})
		}
	}
	return append(next, rest...)
}
