package software

import (
	"container/list"
	"crypto/sha256"
	"encoding/binary"
	"sync"
	"time"

	"strongroom/internal/engine"
)

// Bounds of the cache, unless [Cache] sets others.
const (
	defaultCacheKeys = 1000
	defaultCacheAge  = 10 * time.Minute
)

// cache keeps opened keys, because opening an RSA key costs as much as a signature with it. It holds at most a given
// number of them, and none longer than a given time after it was opened, whether it is used or not; the one that
// was not used for longest goes first. A key that goes is wiped, by its last user if it is in use.
//
// An entry is found by the hash of the sealed key and of its binding, so a record that differs in one bit is not
// found and has to open by itself, which it does not.
//
// The cache reads the system's clock itself: an age is measured on the monotonic clock, which nobody can set.
type cache struct {
	most int           // 0: keep nothing
	age  time.Duration // > 0

	mu      sync.Mutex // guards everything below, and users and gone of the entries
	entries map[cacheID]*list.Element
	order   list.List   // of *entry, the last used first
	timer   *time.Timer // runs while there are entries; nil before the first
	drops   uint64      // counts drop calls
	closed  bool
}

type cacheID [sha256.Size]byte

// entry is an opened key and who uses it. key does not change until it is wiped.
type entry struct {
	id      cacheID
	key     private
	expires time.Time
	users   int
	gone    bool // not in the cache any more: the last user wipes
}

func newCache(most int, age time.Duration) *cache {
	return &cache{most: most, age: age, entries: map[cacheID]*list.Element{}}
}

func idOf(ref engine.Ref) (id cacheID) {
	h := sha256.New()
	var n [8]byte
	binary.BigEndian.PutUint64(n[:], uint64(len(ref.Binding)))
	h.Write(n[:])
	h.Write(ref.Binding)
	h.Write(ref.Sealed)
	h.Sum(id[:0])
	return id
}

// get returns the entry of id, or nil and a ticket for put. Whoever gets an entry releases it.
func (c *cache) get(id cacheID) (e *entry, ticket uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	el, ok := c.entries[id]
	if !ok {
		return nil, c.drops
	}
	e = el.Value.(*entry)
	if !time.Now().Before(e.expires) { // the timer is late
		c.remove(el)
		return nil, c.drops
	}
	c.order.MoveToFront(el)
	e.users++
	return e, 0
}

// put hands over a key that was opened after get found none, and returns the entry to use and release. It is not
// kept if a key was dropped in between: it may have been this one.
func (c *cache) put(id cacheID, key private, ticket uint64) *entry {
	c.mu.Lock()
	defer c.mu.Unlock()
	if el, ok := c.entries[id]; ok { // opened twice at the same time
		key.wipe()
		e := el.Value.(*entry)
		e.users++
		return e
	}
	e := &entry{id: id, key: key, users: 1, expires: time.Now().Add(c.age)}
	if c.closed || c.most == 0 || ticket != c.drops {
		e.gone = true
		return e
	}
	c.entries[id] = c.order.PushFront(e)
	for c.order.Len() > c.most {
		c.remove(c.order.Back())
	}
	if c.timer == nil {
		c.timer = time.AfterFunc(c.age, c.expire)
	} else if c.order.Len() == 1 {
		c.timer.Reset(c.age)
	}
	return e
}

func (c *cache) release(e *entry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e.users--
	if e.gone && e.users == 0 {
		e.key.wipe()
	}
}

func (c *cache) drop(id cacheID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drops++
	if el, ok := c.entries[id]; ok {
		c.remove(el)
	}
}

// expire removes what is too old and sets the timer for the next.
func (c *cache) expire() {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	next := c.age
	for el := c.order.Front(); el != nil; {
		e, following := el.Value.(*entry), el.Next()
		if left := e.expires.Sub(now); left <= 0 {
			c.remove(el)
		} else {
			next = min(next, left)
		}
		el = following
	}
	if c.order.Len() > 0 {
		c.timer.Reset(next)
	}
}

// close removes everything. Keys in use are wiped when their users release them.
func (c *cache) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	if c.timer != nil {
		c.timer.Stop()
	}
	for c.order.Len() > 0 {
		c.remove(c.order.Back())
	}
}

// remove takes an entry out, and wipes its key if nobody uses it. c.mu must be held.
func (c *cache) remove(el *list.Element) {
	e := c.order.Remove(el).(*entry)
	delete(c.entries, e.id)
	e.gone = true
	if e.users == 0 {
		e.key.wipe()
	}
}
