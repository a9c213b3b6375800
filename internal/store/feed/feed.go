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
	heralds []*herald
	open    []string // what the commit under way changes, from Begin to End
	busy    bool     // there is one
}

// herald is one that asked for announcements.
type herald struct {
	before  func(keys []string)
	settled func()
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

// Announce adds a pair of functions, which Begin and End call. Where a commit is under way, before is called with its
// keys here. The rules of Watch hold for cancel, and for Announce itself.
func (f *Feed) Announce(before func(keys []string), settled func()) (cancel func()) {
	f.running.Lock()
	defer f.running.Unlock()
	f.mu.Lock()
	h := &herald{before, settled}
	f.heralds = append(slices.Clone(f.heralds), h)
	open, busy := f.open, f.busy
	f.mu.Unlock()
	if busy {
		before(open)
	}
	return func() {
		f.running.Lock()
		defer f.running.Unlock()
		f.mu.Lock()
		defer f.mu.Unlock()
		f.heralds = slices.DeleteFunc(slices.Clone(f.heralds), func(other *herald) bool { return other == h })
	}
}

// Begin announces a commit that changes keys: before anybody can see it.
func (f *Feed) Begin(keys []string) {
	f.running.Lock()
	defer f.running.Unlock()
	f.mu.Lock()
	f.open, f.busy = keys, true
	heralds := f.heralds
	f.mu.Unlock()
	for _, h := range heralds {
		h.before(keys)
	}
}

// End says that the commit is over: it was published, or it failed.
func (f *Feed) End() {
	f.running.Lock()
	defer f.running.Unlock()
	f.mu.Lock()
	f.open, f.busy = nil, false
	heralds := f.heralds
	f.mu.Unlock()
	for _, h := range heralds {
		h.settled()
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
