package keys

import (
	"reflect"
	"strings"
	"sync"

	"strongroom/internal/engine"
	"strongroom/internal/slab"
	"strongroom/internal/store"
)

// recordCache keeps records of keys and versions that were read and verified, so that using a key reads and checks
// nothing. It holds nothing secret: the material in a version is sealed. They lie in [Memory], which the keys of all HSMs of
// a server share, in the form of compact.go.
//
// It forgets a key when the store's change feed says that one of its records changed, here or by another server: so
// disabling or deleting a key counts for the next request, and a record that somebody edits in the store is verified
// again. While a commit is on its way, the keys that it changes are read from the store: a reader that has seen the
// change must not be followed by one that is served from before it.
type recordCache struct {
	prefix  string // of the HSM's records
	memory  *Memory
	unwatch []func()

	mu     sync.Mutex      // the fields below
	eng    engine.Engine   // that verified what is here
	owner  slab.Owner      // of that in memory
	moving map[string]bool // keys, by their names in lower case, that a commit under way changes
	// changes counts the changes seen. What was read while it moved is used once and not kept: it may be from before
	// the change.
	changes uint64
	closed  bool
}

// Memory is where records of keys are kept, of as many keys as there is room for.
type Memory struct{ slab *slab.Cache }

// NewMemory returns one that takes at most so many bytes, as it needs them: some 400 for a P-256 key.
func NewMemory(most int) *Memory { return &Memory{slab.New(most)} }

func newRecordCache(st store.Store, prefix string, memory *Memory) *recordCache {
	c := &recordCache{prefix: prefix, memory: memory, owner: memory.slab.NewOwner()}
	c.unwatch = []func(){st.Watch(c.changed), st.Announce(c.begins, c.settled)}
	return c
}

// close ends the subscription. The cache is empty from then on. It must not be called while a commit waits for the
// caller.
func (c *recordCache) close() {
	c.mu.Lock()
	c.closed = true
	owner := c.owner
	c.mu.Unlock()
	c.memory.slab.Leave(owner)
	for _, unwatch := range c.unwatch {
		unwatch()
	}
}

// get returns the name of a key and one of its versions ("": the latest), if this engine has verified both; nil if not. seen
// goes to put, with what is read then.
func (c *recordCache) get(eng engine.Engine, lower, version string) (name string, v *versionRecord, seen uint64) {
	id, raw, seen := c.raw(eng, lower, version)
	if raw == nil {
		return "", nil, seen
	}
	name, v = unpack(lower, id, raw)
	return name, v, seen
}

func (c *recordCache) raw(eng engine.Engine, lower, version string) (id string, raw []byte, seen uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || c.moving[lower] || !sameEngine(c.eng, eng) {
		return "", nil, c.changes
	}
	text, raw, ok := c.memory.slab.Get(c.owner, lower, version)
	if !ok {
		return "", nil, c.changes
	}
	return text[len(lower):], raw, c.changes
}

// put keeps what was read after get found nothing, unless something changed in between.
func (c *recordCache) put(eng engine.Engine, lower string, rec *keyRecord, v *versionRecord, seen uint64) {
	raw := v.compact(rec.Name, lower)
	if raw == nil {
		return
	}
	latest := rec.Versions[len(rec.Versions)-1].ID == v.ID
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || c.changes != seen || c.moving[lower] {
		return
	}
	if !sameEngine(c.eng, eng) {
		// What another engine has verified counts no more. It goes as what nobody uses goes.
		c.eng, c.owner = eng, c.memory.slab.NewOwner()
	}
	c.memory.slab.Put(c.owner, lower, v.ID, latest, raw)
}

// named calls f with the names of the keys, in lower case, whose records have these paths.
func (c *recordCache) named(paths []string, f func(lower string)) {
	for _, path := range paths {
		rest, ours := strings.CutPrefix(path, c.prefix)
		kind, rest, _ := strings.Cut(rest, "/")
		if !ours {
			continue
		}
		switch kind {
		case "key", "deletedkey", "keyver":
			lower, _, _ := strings.Cut(rest, "/")
			f(lower)
		}
	}
}

// begins runs inside the store's commit, before anybody can see what it changes.
func (c *recordCache) begins(paths []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.named(paths, func(lower string) {
		if c.moving == nil {
			c.moving = map[string]bool{}
		}
		c.moving[lower] = true
	})
}

// settled runs when the commit is over.
func (c *recordCache) settled() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.moving)
}

// changed runs inside the store's commit: it only forgets.
func (c *recordCache) changed(paths []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.named(paths, func(lower string) {
		c.memory.slab.Drop(c.owner, lower)
		c.changes++
	})
}

// sameEngine reports whether two engines are one instance. Types that Go cannot compare never are.
func sameEngine(a, b engine.Engine) bool {
	return reflect.ValueOf(a).Comparable() && reflect.ValueOf(b).Comparable() && a == b
}
