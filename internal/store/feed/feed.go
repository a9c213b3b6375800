// Package feed tells the watchers of a store which keys each commit changed, in commit order.
package feed

import (
	"slices"
	"sync"
)

// Feed is a list of watchers. The zero value is ready. Safe for concurrent use.
type Feed struct {
	running sync.Mutex // held while watchers are called
	mu      sync.Mutex // the fields below
	fns     []*func([]string)
}

// Watch adds fn at the end of the list. No call of fn starts or is under way once cancel has returned; fn
// itself must not call cancel.
func (f *Feed) Watch(fn func(keys []string)) (cancel func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	// A list that a publication may be walking is never changed, only replaced.
	p := &fn
	f.fns = append(slices.Clone(f.fns), p)
	return func() {
		f.running.Lock()
		defer f.running.Unlock()
		f.mu.Lock()
		defer f.mu.Unlock()
		f.fns = slices.DeleteFunc(slices.Clone(f.fns), func(q *func([]string)) bool { return q == p })
	}
}

// Publish calls every watcher with keys. The caller sees to the commit order.
func (f *Feed) Publish(keys []string) {
	f.running.Lock()
	defer f.running.Unlock()
	f.mu.Lock()
	fns := f.fns
	f.mu.Unlock()
	for _, fn := range fns {
		(*fn)(keys)
	}
}
