package slab

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
)

// check holds the lists of a cache against each other: each cell that was ever used is in one value or free, and each value
// in its bucket, once.
func (c *Cache) check(t *testing.T) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	seen := map[uint32]bool{}
	meet := func(i uint32) {
		if i == 0 || i >= c.fresh || seen[i] {
			t.Fatalf("cell %d of %d is in two lists, or is none", i, c.fresh)
		}
		seen[i] = true
	}
	values, held := 0, map[Owner]int{}
	for at := 0; at+4 <= len(c.buckets); at += 4 {
		for i := binary.LittleEndian.Uint32(c.buckets[at:]); i != 0; i = c.number(i, 4) {
			values++
			held[Owner(c.number(i, 8))]++
			if c.number(i, 0)&headMark == 0 || int(c.number(i, 12)%uint32(len(c.buckets)/4)) != at/4 {
				t.Fatalf("value %d is not one, or in a wrong bucket", i)
			}
			meet(i)
			for next, _ := c.part(i, true); next != 0; next, _ = c.part(next, false) {
				meet(next)
			}
		}
	}
	spare := uint32(0)
	for i := c.free; i != 0; i = c.number(i, 0) {
		meet(i)
		spare++
	}
	if values != c.values || spare != c.spare || len(seen) != int(c.fresh)-1 || !maps.Equal(held, c.held) {
		t.Fatalf("%d values, %d free cells, %d of %d cells known, owners %v: want %d, %d, all, %v", values, spare, len(seen), c.fresh-1, held, c.values, c.spare, c.held)
	}
	if c.fresh-1 > c.most {
		t.Fatalf("%d cells are in use, more than %d", c.fresh-1, c.most)
	}
}

// Random calls, beside plain maps: what is there is what was put last. With room for everything all of it is there.
func TestCacheIsAMap(t *testing.T) {
	for _, room := range []int{16 << 20, 20 << 10} {
		t.Run(fmt.Sprint(room), func(t *testing.T) {
			r := rand.New(rand.NewPCG(uint64(room), 7))
			c := New(room)
			type place struct {
				owner Owner
				group string
			}
			type state struct {
				members map[string]string
				chief   string
			}
			want := map[place]*state{}
			owners := []Owner{c.NewOwner(), c.NewOwner()}
			for step := range 30_000 {
				p := place{owners[r.IntN(2)], strings.Repeat("g", r.IntN(3)*40) + fmt.Sprint(r.IntN(40))}
				member := fmt.Sprint(r.IntN(4), strings.Repeat("m", r.IntN(2)*50))
				s := want[p]
				switch r.IntN(20) {
				case 0:
					c.Drop(p.owner, p.group)
					delete(want, p)
				case 1:
					if step%50 == 0 {
						c.Leave(p.owner)
						maps.DeleteFunc(want, func(q place, _ *state) bool { return q.owner == p.owner })
						owners[p.owner%2] = c.NewOwner()
					}
				case 2, 3, 4, 5, 6, 7:
					value := make([]byte, r.IntN(400))
					for i := range value {
						value[i] = byte(r.Uint32())
					}
					chief := r.IntN(2) == 0
					c.Put(p.owner, p.group, member, chief, value)
					if s == nil {
						s = &state{members: map[string]string{}}
						want[p] = s
					}
					s.members[member] = string(value)
					if chief {
						s.chief = member
					} else if s.chief == member {
						s.chief = ""
					}
				default:
					ask := member
					if r.IntN(2) == 0 {
						ask = ""
					}
					text, value, ok := c.Get(p.owner, p.group, ask)
					expected, there := "", false
					if s != nil {
						if ask == "" {
							ask = s.chief
						}
						expected, there = s.members[ask], false
						_, there = s.members[ask]
					}
					if ok && (!there || text != p.group+ask || string(value) != expected) {
						t.Fatalf("step %d: got %q, %x; want %q, %x, %t", step, text, value, p.group+ask, expected, there)
					}
					if !ok && there && room == 16<<20 {
						t.Fatalf("step %d: %q of %q is not there", step, ask, p.group)
					}
				}
				if step%500 == 0 {
					c.check(t)
				}
			}
			c.check(t)
			if c.Len() == 0 {
				t.Error("the cache is empty: nothing was tested")
			}
		})
	}
}

// What is used stays, what is not goes, and never is there more than the bound.
func TestCacheIsBounded(t *testing.T) {
	const room = 256 << 10
	c := New(room)
	owner := c.NewOwner()
	value := make([]byte, 300)
	for i := range 20_000 {
		c.Put(owner, fmt.Sprint(i), "m", true, value)
		c.Put(owner, "busy", "m", true, value)
		if _, _, ok := c.Get(owner, "busy", ""); !ok {
			t.Fatalf("a value in use is gone after %d others", i)
		}
		if c.Size() > room {
			t.Fatalf("%d bytes, want at most %d", c.Size(), room)
		}
	}
	c.check(t)
	if _, _, ok := c.Get(owner, "0", "m"); ok {
		t.Error("what was used least is still there")
	}
	if n := c.Len(); n < room/400*9/10 {
		t.Errorf("%d values are kept where there is room for %d", n, room/400)
	}
	used := 0
	for i := 19_900; i < 20_000; i++ {
		if _, _, ok := c.Get(owner, fmt.Sprint(i), "m"); ok {
			used++
		}
	}
	if used < 90 {
		t.Errorf("of the last hundred %d are there", used)
	}
}

// A large value takes the room of many small ones, and gives it back.
func TestCacheOfAllSizes(t *testing.T) {
	c := New(128 << 10)
	owner := c.NewOwner()
	for i := range 500 {
		c.Put(owner, fmt.Sprint("small", i), "m", false, make([]byte, 100))
		large := bytes.Repeat([]byte{byte(i)}, (i*731)%(16<<10))
		c.Put(owner, "large", "m", false, large)
		if _, got, ok := c.Get(owner, "large", "m"); !ok || !bytes.Equal(got, large) {
			t.Fatalf("%d bytes do not come back", len(large))
		}
	}
	c.check(t)
	for name, put := range map[string]func(){
		"a value beyond an eighth": func() { c.Put(owner, "x", "m", true, make([]byte, 16<<10+1)) },
		"a long group":             func() { c.Put(owner, strings.Repeat("x", 256), "m", true, nil) },
		"a long member":            func() { c.Put(owner, "x", strings.Repeat("m", 256), true, nil) },
		"a member without a name":  func() { c.Put(owner, "x", "", true, nil) },
	} {
		before := c.Len()
		put()
		if c.Len() > before {
			t.Errorf("%s was kept", name)
		}
	}
	group, member := strings.Repeat("x", 255), strings.Repeat("m", 255)
	c.Put(owner, group, member, true, []byte("v"))
	if text, value, ok := c.Get(owner, group, ""); !ok || text != group+member || string(value) != "v" {
		t.Errorf("got %q, %q, %t", text, value, ok)
	}
	for _, none := range []*Cache{New(0), New(63), New(64)} {
		none.Put(none.NewOwner(), "g", "m", true, []byte("v"))
		if none.Len() != 0 {
			t.Error("a cache without room keeps something")
		}
	}
}

// Where the system gives no more memory, the cache goes on with what it has, and with none it holds nothing.
func TestCacheWithoutMemory(t *testing.T) {
	for given := range 4 {
		c := New(16 << 20)
		left := given
		c.ask = func(size int) []byte {
			if left == 0 {
				return nil
			}
			left--
			return make([]byte, size)
		}
		owner := c.NewOwner()
		for i := range 20_000 {
			c.Put(owner, fmt.Sprint(i), "m", true, make([]byte, 300))
		}
		c.check(t)
		if n := c.Len(); given < 2 && n > 0 || given >= 2 && n < 2000*(given-1) {
			t.Errorf("with %d pieces of memory %d values are kept", given, n)
		}
		if _, _, ok := c.Get(owner, "19999", ""); ok != (given >= 2) {
			t.Errorf("with %d pieces of memory the last value is there: %t", given, ok)
		}
	}
}

func TestCacheConcurrently(t *testing.T) {
	c := New(64 << 10)
	owner := c.NewOwner()
	var wait sync.WaitGroup
	for n := range 4 {
		wait.Go(func() {
			mine := c.NewOwner()
			for i := range 5000 {
				name := fmt.Sprint(i % 50)
				value := []byte(fmt.Sprint(n, " ", i))
				c.Put(mine, name, "m", true, value)
				if _, got, ok := c.Get(mine, name, ""); ok && !bytes.Equal(got, value) {
					t.Errorf("got %q, want %q", got, value)
				}
				c.Put(owner, name, fmt.Sprint(n), n == 0, value)
				if text, _, ok := c.Get(owner, name, ""); ok && text != name+"0" {
					t.Errorf("the chief of %s is in %q", name, text)
				}
				if i%100 == 0 {
					c.Drop(owner, name)
				}
			}
			c.Leave(mine)
		})
	}
	wait.Wait()
	c.check(t)
}

func BenchmarkGet(b *testing.B) {
	for _, n := range []int{10, 100_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			c := New(64 << 20)
			owner := c.NewOwner()
			names := make([]string, n)
			for i := range names {
				names[i] = fmt.Sprintf("key-%06d", i)
				c.Put(owner, names[i], "0123456789abcdef0123456789abcdef", true, make([]byte, 270))
			}
			b.ReportMetric(float64(c.Size())/float64(n), "bytes/value")
			b.ReportAllocs()
			r := rand.New(rand.NewPCG(1, 2))
			for b.Loop() {
				if _, _, ok := c.Get(owner, names[r.IntN(n)], ""); !ok {
					b.Fatal("not there")
				}
			}
		})
	}
}
