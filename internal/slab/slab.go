// Package slab keeps many small values in memory that Go's garbage collector does not know: it neither goes through them
// nor lets the heap grow to a multiple of them. A hundred thousand records of keys are 40 MB here; on the heap of a
// server, which grows to four times what is in use, they would take 160 MB.
//
// It is a cache: bounded by bytes, it drops what was not used for longest, about, and may hold nothing at all where the
// system gives it no memory. Values are copied in and out. They are not wiped when they go, so nothing secret may be
// in them.
package slab

import (
	"encoding/binary"
	"hash/maphash"
	"runtime"
	"sync"
)

// Memory is cut into cells of the size of a processor's cache line. A value is a list of them. The first one:
//
//	0   next cell, and the bit headMark
//	4   next value of the bucket
//	8   owner
//	12  hash of owner and group
//	16  hash of member
//	20  flags
//	21  length of group, of member
//	24  length of the value
//	28  group ‖ member ‖ value, from here on; in all other cells after the number of the next
//
// Numbers are little-endian; cell 0 is none.
const (
	cellSize   = 64
	headSize   = 28
	nextSize   = 4
	chunkCells = 1 << 14 // of a piece that the system is asked for: 1 MiB

	headMark = 1 << 31

	flagUsed  = 1 // since the hand came by
	flagChief = 2

	// maxSpared is how many values that were used one Put passes over, at most, to find one that was not: it holds
	// the lock meanwhile.
	maxSpared = 64
	// maxName bounds group and member: one byte holds the length.
	maxName = 255
)

// Owner separates the values of one user of a cache from those of others.
type Owner uint32

// Cache keeps values. Safe for concurrent use.
type Cache struct {
	seed maphash.Seed
	ask  func(size int) []byte // allocate

	mu      sync.Mutex // the fields below
	memory  *memory
	most    uint32 // cells
	fresh   uint32 // the first cell that was never used; those from 1 on were
	free    uint32 // list of cells that were given back
	spare   uint32 // how many these are
	buckets []byte // the first value of each, 4 bytes; nil before the first Put, and for ever where there is no memory
	hand    uint32 // goes round and drops what was not used
	values  int
	owners  Owner
	held    map[Owner]int // values of each that has any
}

// memory is what the system gave. It is given back with the Cache.
type memory struct {
	chunks  [][]byte
	buckets []byte
}

// New returns a cache that takes at most so many bytes, as it needs them.
func New(most int) *Cache {
	c := &Cache{seed: maphash.MakeSeed(), ask: allocate, memory: &memory{}, most: uint32(min(max(most, 0)/cellSize, headMark-1)), fresh: 1, hand: 1, held: map[Owner]int{}}
	runtime.AddCleanup(c, func(m *memory) {
		for _, piece := range append(m.chunks, m.buckets) {
			release(piece)
		}
	}, c.memory)
	return c
}

// NewOwner returns one that has nothing yet.
func (c *Cache) NewOwner() Owner {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.owners++
	return c.owners
}

// Get returns a member of a group with its value, or with "" the one that was put as the chief. text is group and member.
func (c *Cache) Get(owner Owner, group, member string) (text string, value []byte, ok bool) {
	sum, tag := c.sums(owner, group, member)
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := c.first(sum); i != 0; i = c.number(i, 4) {
		if !c.is(i, owner, group, sum) {
			continue
		}
		if member == "" && c.cell(i)[20]&flagChief == 0 || member != "" && !c.isMember(i, len(group), member, tag) {
			continue
		}
		head := c.cell(i)
		head[20] |= flagUsed
		names, size := int(head[21])+int(head[22]), int(binary.LittleEndian.Uint32(head[24:]))
		all := make([]byte, names+size)
		c.read(i, 0, all)
		return string(all[:names]), all[names:], true
	}
	return "", nil, false
}

// Put keeps a value of a member of a group, instead of any before; chief says that Get shall return it for "", too. Names that
// are longer than 255 bytes, the member "", and values beyond an eighth of the cache are not kept.
func (c *Cache) Put(owner Owner, group, member string, chief bool, value []byte) {
	sum, tag := c.sums(owner, group, member)
	c.mu.Lock()
	defer c.mu.Unlock()
	size := len(group) + len(member) + len(value)
	need := uint32(1 + max(0, size-(cellSize-headSize)+cellSize-nextSize-1)/(cellSize-nextSize))
	if member == "" || len(group) > maxName || len(member) > maxName || len(value) > int(c.most/8)*cellSize || !c.begin() {
		return
	}
	for i := c.first(sum); i != 0; {
		next := c.number(i, 4)
		if c.is(i, owner, group, sum) {
			if c.isMember(i, len(group), member, tag) {
				c.remove(i)
			} else if chief {
				c.cell(i)[20] &^= flagChief
			}
		}
		i = next
	}
	if !c.room(need) {
		return
	}
	at := c.take()
	for i, left := at, need-1; left > 0; left-- {
		next := c.take()
		c.set(i, 0, next)
		i = next
	}
	head := c.cell(at)
	c.set(at, 0, binary.LittleEndian.Uint32(head)|headMark)
	c.set(at, 4, c.first(sum))
	c.set(at, 8, uint32(owner))
	c.set(at, 12, sum)
	c.set(at, 16, tag)
	head[20] = flagUsed
	if chief {
		head[20] |= flagChief
	}
	head[21], head[22], head[23] = byte(len(group)), byte(len(member)), 0
	c.set(at, 24, uint32(len(value)))
	c.write(at, group, member, value)
	binary.LittleEndian.PutUint32(c.bucket(sum), at)
	c.values++
	c.held[owner]++
}

// Drop forgets a group with all its members.
func (c *Cache) Drop(owner Owner, group string) {
	sum, _ := c.sums(owner, group, "")
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := c.first(sum); i != 0; {
		next := c.number(i, 4)
		if c.is(i, owner, group, sum) {
			c.remove(i)
		}
		i = next
	}
}

// Leave forgets all that an owner has. If that is anything, it looks at all values there are: it is for owners that go for ever.
func (c *Cache) Leave(owner Owner) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for at := 0; at < len(c.buckets) && c.held[owner] > 0; at += 4 {
		for i := binary.LittleEndian.Uint32(c.buckets[at:]); i != 0; {
			next := c.number(i, 4)
			if Owner(c.number(i, 8)) == owner {
				c.remove(i)
			}
			i = next
		}
	}
}

// Len is how many values there are.
func (c *Cache) Len() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.values
}

// Size is how many bytes were in use at once, at most.
func (c *Cache) Size() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return int(c.fresh-1) * cellSize
}

// sums are the hash that finds the bucket, and that of the member.
func (c *Cache) sums(owner Owner, group, member string) (sum, tag uint32) {
	sum = uint32(maphash.String(c.seed, group)) ^ uint32(owner)*0x9e3779b9 // 2³² divided by the golden ratio spreads small numbers
	return sum, uint32(maphash.String(c.seed, member))
}

// From here on c.mu is held.

func (c *Cache) cell(i uint32) []byte {
	at := (i % chunkCells) * cellSize
	return c.memory.chunks[i/chunkCells][at : at+cellSize : at+cellSize]
}

func (c *Cache) number(i uint32, at int) uint32 { return binary.LittleEndian.Uint32(c.cell(i)[at:]) }
func (c *Cache) set(i uint32, at int, n uint32) { binary.LittleEndian.PutUint32(c.cell(i)[at:], n) }

func (c *Cache) bucket(sum uint32) []byte { return c.buckets[sum%uint32(len(c.buckets)/4)*4:] }

func (c *Cache) first(sum uint32) uint32 {
	if len(c.buckets) == 0 {
		return 0
	}
	return binary.LittleEndian.Uint32(c.bucket(sum))
}

// is reports whether value i is of this group.
func (c *Cache) is(i uint32, owner Owner, group string, sum uint32) bool {
	return c.number(i, 12) == sum && Owner(c.number(i, 8)) == owner && int(c.cell(i)[21]) == len(group) && c.equal(i, 0, group)
}

// isMember reports whether value i, of a group whose name is that long, is that of member.
func (c *Cache) isMember(i uint32, group int, member string, tag uint32) bool {
	return c.number(i, 16) == tag && int(c.cell(i)[22]) == len(member) && c.equal(i, group, member)
}

// part returns the next cell and what cell i of a list holds.
func (c *Cache) part(i uint32, head bool) (next uint32, part []byte) {
	cell := c.cell(i)
	if head {
		return binary.LittleEndian.Uint32(cell) &^ headMark, cell[headSize:]
	}
	return binary.LittleEndian.Uint32(cell), cell[nextSize:]
}

// equal compares text with what value i holds from skip on.
func (c *Cache) equal(i uint32, skip int, text string) bool {
	for next, part := c.part(i, true); ; next, part = c.part(next, false) {
		if skip < len(part) {
			part = part[skip:]
			n := min(len(part), len(text))
			if string(part[:n]) != text[:n] {
				return false
			}
			text, skip = text[n:], 0
		} else {
			skip -= len(part)
		}
		if text == "" {
			return true
		}
	}
}

// read fills out with what value i holds from skip on.
func (c *Cache) read(i uint32, skip int, out []byte) {
	for next, part := c.part(i, true); ; next, part = c.part(next, false) {
		if skip < len(part) {
			out = out[copy(out, part[skip:]):]
			skip = 0
		} else {
			skip -= len(part)
		}
		if len(out) == 0 {
			return
		}
	}
}

// write fills the cells of value i.
func (c *Cache) write(i uint32, group, member string, value []byte) {
	next, part := c.part(i, true)
	put := func(text string) {
		for text != "" {
			if len(part) == 0 {
				next, part = c.part(next, false)
			}
			n := copy(part, text)
			text, part = text[n:], part[n:]
		}
	}
	put(group)
	put(member)
	for len(value) > 0 {
		if len(part) == 0 {
			next, part = c.part(next, false)
		}
		n := copy(part, value)
		value, part = value[n:], part[n:]
	}
}

// begin makes the buckets, of which there are a quarter as many as cells. It reports whether there are any.
func (c *Cache) begin() bool {
	if c.buckets == nil && c.most > 0 {
		piece := c.ask(int(c.most/4+1) * 4)
		if piece == nil {
			c.most = 0
			return false
		}
		c.memory.buckets, c.buckets = piece, piece
	}
	return c.most > 0
}

// room sees to it that so many cells can be taken, and drops values until they can.
func (c *Cache) room(need uint32) bool {
	for c.spare < need && !c.grow(need-c.spare) {
		if need > c.most || c.values == 0 {
			return false
		}
		for spared := 0; ; {
			i := c.hand
			if c.hand++; c.hand >= c.fresh {
				c.hand = 1
			}
			if c.number(i, 0)&headMark == 0 {
				continue
			}
			if head := c.cell(i); head[20]&flagUsed != 0 && spared < maxSpared {
				head[20] &^= flagUsed
				spared++
				continue
			}
			c.remove(i)
			break
		}
	}
	return true
}

// grow sees to it that there are so many fresh cells, within the bound. Where the system gives no memory, it is asked no more.
func (c *Cache) grow(need uint32) bool {
	if c.fresh-1+need > c.most {
		return false
	}
	for uint32(len(c.memory.chunks))*chunkCells < c.fresh+need {
		chunk := c.ask(chunkCells * cellSize)
		if chunk == nil {
			c.most = c.fresh - 1
			return false
		}
		c.memory.chunks = append(c.memory.chunks, chunk)
	}
	return true
}

// take returns a cell, after room.
func (c *Cache) take() uint32 {
	i := c.free
	if i == 0 {
		i = c.fresh
		c.fresh++
	} else {
		c.free = c.number(i, 0)
		c.spare--
	}
	c.set(i, 0, 0)
	return i
}

// remove drops value i.
func (c *Cache) remove(i uint32) {
	following := c.number(i, 4)
	if sum := c.number(i, 12); c.first(sum) == i {
		binary.LittleEndian.PutUint32(c.bucket(sum), following)
	} else {
		before := c.first(sum)
		for c.number(before, 4) != i {
			before = c.number(before, 4)
		}
		c.set(before, 4, following)
	}
	c.values--
	if owner := Owner(c.number(i, 8)); c.held[owner] > 1 {
		c.held[owner]--
	} else {
		delete(c.held, owner)
	}
	for next, _ := c.part(i, true); ; next, _ = c.part(i, false) {
		c.set(i, 0, c.free)
		c.free = i
		c.spare++
		if i = next; i == 0 {
			return
		}
	}
}
