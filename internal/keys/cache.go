package keys

import (
	"reflect"
	"strings"
	"sync"

	"strongroom/internal/engine"
	"strongroom/internal/store"
)

// maxCached bounds what is kept of one HSM, in versions. A key counts as one too, and once more for every version that
// its record names: 20,000 are 10,000 keys with one version, some 15 MB.
const maxCached = 20_000

// recordCache keeps records of keys and versions that were read and verified, so that using a key reads, checks and
// decodes nothing. It holds nothing secret: the material in a version is sealed.
//
// It forgets a key when the store's change feed says that one of its records changed, here or by another server: so
// disabling or deleting a key counts for the next request, and a record that somebody edits in the store is verified
// again. While a commit is on its way, the keys that it changes are read from the store: a reader that has seen the
// change must not be followed by one that is served from before it. Records in it are shared and never changed.
//
// There are two maps. When the young one is full it becomes the old one, whose keys come back when they are used: what
// goes is what was not used for longest, about.
type recordCache struct {
	prefix  string // of the HSM's records
	most    int    // of one map, weighed
	unwatch []func()

	mu         sync.Mutex      // the fields below
	moving     map[string]bool // keys, by their names in lower case, that a commit under way changes
	young, old map[string]*cachedKey
	weight     int // of young
	// changes counts the changes seen. What was read while it moved is used once and not kept: it may be from before
	// the change.
	changes uint64
	closed  bool
}

// cachedKey is the record of a key, by its name in lower case, and those of some of its versions.
type cachedKey struct {
	eng      engine.Engine // that verified them
	rec      *keyRecord
	versions map[string]*versionRecord // by ID
}

func (c *cachedKey) weight() int { return 1 + len(c.rec.Versions) + len(c.versions) }

func newRecordCache(st store.Store, prefix string, most int) *recordCache {
	c := &recordCache{prefix: prefix, most: most / 2, young: map[string]*cachedKey{}}
	c.unwatch = []func(){st.Watch(c.changed), st.Announce(c.begins, c.settled)}
	return c
}

// close ends the subscription. The cache is empty from then on. It must not be called while a commit waits for the
// caller.
func (c *recordCache) close() {
	c.mu.Lock()
	c.closed = true
	c.young, c.old, c.weight = nil, nil, 0
	c.mu.Unlock()
	for _, unwatch := range c.unwatch {
		unwatch()
	}
}

// get returns a key and one of its versions ("": the latest), if this engine has verified both; nil if not. seen goes
// to put, with what is read then.
func (c *recordCache) get(eng engine.Engine, lower, version string) (rec *keyRecord, v *versionRecord, seen uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.moving[lower] {
		return nil, nil, c.changes
	}
	k := c.young[lower]
	if k == nil {
		if k = c.old[lower]; k == nil {
			return nil, nil, c.changes
		}
		delete(c.old, lower)
		c.add(lower, k)
	}
	if version == "" {
		version = k.rec.Versions[len(k.rec.Versions)-1].ID
	}
	if v = k.versions[version]; v == nil || !sameEngine(k.eng, eng) {
		return nil, nil, c.changes
	}
	return k.rec, v, c.changes
}

// put keeps what was read after get found nothing, unless something changed in between.
func (c *recordCache) put(eng engine.Engine, hsm, lower string, rec *keyRecord, v *versionRecord, seen uint64) {
	bound := v.binding(hsm, lower)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || c.changes != seen || c.moving[lower] {
		return
	}
	v.bound = &boundRecord{v, bound}
	k := c.young[lower]
	if k == nil {
		k = c.old[lower]
		delete(c.old, lower)
	} else {
		c.weight -= k.weight()
		delete(c.young, lower)
	}
	if k == nil || !sameEngine(k.eng, eng) {
		k = &cachedKey{eng: eng, rec: rec, versions: map[string]*versionRecord{}}
	}
	k.versions[v.ID] = v
	c.add(lower, k)
}

// add puts a key that is in neither map into the young one, and makes room first. c.mu is held.
func (c *recordCache) add(lower string, k *cachedKey) {
	if c.weight > 0 && c.weight+k.weight() > c.most {
		c.old, c.young, c.weight = c.young, map[string]*cachedKey{}, 0
	}
	c.young[lower] = k
	c.weight += k.weight()
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
		if k := c.young[lower]; k != nil {
			c.weight -= k.weight()
			delete(c.young, lower)
		}
		delete(c.old, lower)
		c.changes++
	})
}

// sameEngine reports whether two engines are one instance. Types that Go cannot compare never are.
func sameEngine(a, b engine.Engine) bool {
	return reflect.ValueOf(a).Comparable() && reflect.ValueOf(b).Comparable() && a == b
}

// boundRecord is the binding of a cached version, made once. It belongs to that very record: a copy of the record,
// which may be changed, carries it along and must not use it.
type boundRecord struct {
	of    *versionRecord
	bytes []byte
}
