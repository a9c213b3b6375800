package software

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"strongroom/internal/engine"
	"strongroom/secret"
)

func octKey(fill byte) private {
	return private{oct: secret.New([]byte{fill, fill, fill, fill, fill, fill, fill, fill, fill, fill, fill, fill, fill, fill, fill, fill})}
}

func gone(k private) bool { return k.oct.Equal(secret.Take(make([]byte, 16))) }

// fill puts a key into the cache and releases it.
func fill(c *cache, id byte) private {
	k := octKey(id)
	_, ticket := c.get(cacheID{id})
	c.release(c.put(cacheID{id}, k, ticket))
	return k
}

// has reports whether the cache holds a key; asking makes it the last used.
func has(c *cache, id byte) bool {
	e, _ := c.get(cacheID{id})
	if e == nil {
		return false
	}
	c.release(e)
	return true
}

// Covers K12: what leaves the cache is wiped, and the key that was not used for longest leaves first.
func TestCacheBoundsItsNumber(t *testing.T) {
	c := newCache(3, time.Hour)
	defer c.close()
	first, second := fill(c, 1), fill(c, 2)
	fill(c, 3)
	if !has(c, 1) {
		t.Fatal("a key is not kept")
	}
	fill(c, 4)
	if has(c, 2) || !gone(second) {
		t.Error("the key that was not used for longest is still there, or not wiped")
	}
	if !has(c, 1) || !has(c, 3) || !has(c, 4) || gone(first) {
		t.Error("another key had to go")
	}
	if len(c.entries) != 3 || c.order.Len() != 3 {
		t.Errorf("%d and %d entries, want 3", len(c.entries), c.order.Len())
	}
}

// Covers K11, K12: no key is kept longer than its age, however often it is used, and although nobody comes by.
func TestCacheBoundsItsAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCache(10, 10*time.Minute)
		defer c.close()
		wiped := func(k private) bool { // not beside the timer
			c.mu.Lock()
			defer c.mu.Unlock()
			return gone(k)
		}
		first := fill(c, 1)
		time.Sleep(6 * time.Minute)
		second := fill(c, 2)
		for range 3 {
			time.Sleep(time.Minute)
			if !has(c, 1) {
				t.Fatal("gone too early")
			}
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if !wiped(first) || wiped(second) {
			t.Errorf("after ten minutes: first wiped: %t, second wiped: %t", wiped(first), wiped(second))
		}
		time.Sleep(6 * time.Minute)
		synctest.Wait()
		if !wiped(second) || has(c, 2) {
			t.Error("the second key outlives its age")
		}
		third := fill(c, 3) // the timer runs again after the cache was empty
		time.Sleep(10*time.Minute + 1)
		synctest.Wait()
		if !wiped(third) {
			t.Error("the third key outlives its age")
		}
	})
}

// A key in use is not wiped under its user, whatever makes it leave; it is wiped when the last user is done.
func TestCacheWaitsForUsers(t *testing.T) {
	for name, leave := range map[string]func(c *cache){
		"dropped": func(c *cache) { c.drop(cacheID{1}) },
		"closed":  func(c *cache) { c.close() },
		"evicted": func(c *cache) { fill(c, 2) },
	} {
		t.Run(name, func(t *testing.T) {
			c := newCache(1, time.Hour)
			defer c.close()
			k := octKey(1)
			_, ticket := c.get(cacheID{1})
			one := c.put(cacheID{1}, k, ticket)
			two, _ := c.get(cacheID{1})
			leave(c)
			if again, _ := c.get(cacheID{1}); again != nil {
				t.Error("it can still be found")
			}
			c.release(one)
			if gone(k) {
				t.Fatal("wiped in use")
			}
			c.release(two)
			if !gone(k) {
				t.Error("not wiped after its last use")
			}
		})
	}
}

// Covers K11: a key that was being opened while it was dropped is used once and not kept.
func TestCacheDropBesideOpening(t *testing.T) {
	c := newCache(10, time.Hour)
	defer c.close()
	_, ticket := c.get(cacheID{1})
	c.drop(cacheID{1})
	k := octKey(1)
	e := c.put(cacheID{1}, k, ticket)
	if has(c, 1) || gone(k) {
		t.Error("kept, or wiped in use")
	}
	if c.release(e); !gone(k) {
		t.Error("not wiped")
	}
}

// Two that open the same key at once share it, and the copy is wiped.
func TestCacheOpenedTwice(t *testing.T) {
	c := newCache(10, time.Hour)
	defer c.close()
	_, ticket := c.get(cacheID{1})
	k, same := octKey(1), octKey(1)
	one := c.put(cacheID{1}, k, ticket)
	two := c.put(cacheID{1}, same, ticket)
	if one != two || !gone(same) || gone(k) || one.users != 2 {
		t.Error("the key is there twice, or the wrong one was wiped")
	}
	c.release(one)
	c.release(two)
	if !has(c, 1) {
		t.Error("not kept")
	}
}

// Covers K1, K4, K11: through the engine: the cache saves opening, never the check of what the record says; a
// dropped key opens again; Close wipes.
func TestEngineUsesItsCache(t *testing.T) {
	s := opened(t)
	spec := engine.Spec{Type: engine.Oct, Bits: 256}
	made, err := s.Generate(t.Context(), spec, []byte("b"))
	if err != nil {
		t.Fatal(err)
	}
	ref := engine.Ref{Type: engine.Oct, Bits: 256, Sealed: made.Sealed, Binding: []byte("b")}
	sign := func(ref engine.Ref) error { _, err := s.Sign(t.Context(), ref, "HS256", nil); return err }
	held := func() *entry { e, _ := s.cache.get(idOf(ref)); return e }
	if held() != nil {
		t.Error("in the cache before it was used")
	}
	if err := sign(ref); err != nil {
		t.Fatal(err)
	}
	e := held()
	if e == nil {
		t.Fatal("not in the cache")
	}
	key := e.key.oct
	s.cache.release(e)
	for name, lie := range map[string]engine.Ref{
		"size":    {Type: engine.Oct, Bits: 128, Sealed: made.Sealed, Binding: []byte("b")},
		"binding": {Type: engine.Oct, Bits: 256, Sealed: made.Sealed, Binding: []byte("c")},
		"moved":   {Type: engine.Oct, Bits: 256, Sealed: made.Sealed[1:], Binding: append([]byte("b"), made.Sealed[0])},
	} {
		if err := sign(lie); !errors.Is(err, engine.ErrTampered) {
			t.Errorf("%s: got %v, want %v", name, err, engine.ErrTampered)
		}
	}
	s.Drop(ref)
	if held() != nil || !key.Equal(secret.Take(make([]byte, 32))) {
		t.Error("dropped, and still there or not wiped")
	}
	if err := sign(ref); err != nil {
		t.Fatal(err)
	}
	e = held()
	key = e.key.oct
	s.cache.release(e)
	s.Close()
	if held() != nil || !key.Equal(secret.Take(make([]byte, 32))) {
		t.Error("closed, and still there or not wiped")
	}
	off, err := New(secret.New(make([]byte, 32)), secret.New(make([]byte, 32)), s.rand, Cache(0, time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	defer off.Close()
	if made, err = off.Generate(t.Context(), spec, nil); err != nil {
		t.Fatal(err)
	}
	ref = engine.Ref{Type: engine.Oct, Bits: 256, Sealed: made.Sealed}
	if _, err := off.Sign(t.Context(), ref, "HS256", nil); err != nil {
		t.Fatal(err)
	}
	if n := len(off.(*software).cache.entries); n != 0 {
		t.Errorf("%d keys in a cache that is off", n)
	}
}

// Covers R4: users, drops, evictions and Close at once. The race detector sees a key that is wiped in use.
func TestCacheBesideEverything(t *testing.T) {
	e, err := New(secret.New(make([]byte, 32)), secret.New(make([]byte, 32)), opened(t).rand, Cache(2, time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	var refs []engine.Ref
	for i := range 4 {
		binding := []byte(fmt.Sprint(i))
		made, err := e.Generate(t.Context(), engine.Spec{Type: engine.Oct, Bits: 128}, binding)
		if err != nil {
			t.Fatal(err)
		}
		refs = append(refs, engine.Ref{Type: engine.Oct, Bits: 128, Sealed: made.Sealed, Binding: binding})
	}
	want := make([][]byte, len(refs))
	for i, ref := range refs {
		if want[i], err = e.Sign(t.Context(), ref, "HS256", []byte("m")); err != nil {
			t.Fatal(err)
		}
	}
	var wg sync.WaitGroup
	for worker := range 8 {
		wg.Go(func() {
			for i := range 200 {
				n := (worker + i) % len(refs)
				if i%7 == 0 {
					e.Drop(refs[n])
				}
				if ok, err := e.Verify(t.Context(), refs[n], "HS256", []byte("m"), want[n]); err != nil && !errors.Is(err, engine.ErrClosed) || err == nil && !ok {
					t.Errorf("key %d: %t, %v", n, ok, err)
				}
				if worker == 0 && i == 150 {
					e.Close()
				}
			}
		})
	}
	wg.Wait()
	if n := len(e.(*software).cache.entries); n != 0 {
		t.Errorf("%d keys after Close", n)
	}
}

// The lanes: as many as there are places work, the others wait in order of arrival, and whoever gives up leaves.
func TestLanes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := lanes{heavy: make(chan struct{}, 2), finding: make(chan struct{}, 1)}
		leave1, err := l.enter(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		leave2, err := l.enterSearch(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var order []int
		release := make(chan struct{})
		for i := range 4 {
			go func() {
				leave, err := l.enter(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				order = append(order, i) // one place is free at a time
				<-release
				leave()
			}()
			synctest.Wait()
		}
		ctx, cancel := context.WithCancel(t.Context())
		quit := make(chan error)
		go func() { _, err := l.enter(ctx); quit <- err }()
		go func() { _, err := l.enterSearch(ctx); quit <- err }()
		synctest.Wait()
		cancel()
		for range 2 {
			if err := <-quit; !errors.Is(err, context.Canceled) {
				t.Errorf("gave up with %v", err)
			}
		}
		if len(order) != 0 {
			t.Fatalf("%v work beside two others", order)
		}
		leave1()
		for range 4 {
			synctest.Wait()
			release <- struct{}{}
		}
		synctest.Wait()
		leave2()
		if fmt.Sprint(order) != "[0 1 2 3]" {
			t.Errorf("served in the order %v", order)
		}
		if len(l.heavy) != 0 || len(l.finding) != 0 {
			t.Errorf("%d and %d places are still taken", len(l.heavy), len(l.finding))
		}
		if _, err := l.enter(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("a place is free, and the caller has gone: %v", err)
		}
	})
}

// A search does not take the places of signatures: at most half of them, and no place while it waits for its turn.
func TestSearchesQueueApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := lanes{heavy: make(chan struct{}, 2), finding: make(chan struct{}, 1)}
		first, err := l.enterSearch(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		second := make(chan func())
		go func() {
			leave, err := l.enterSearch(t.Context())
			if err != nil {
				t.Error(err)
			}
			second <- leave
		}()
		synctest.Wait()
		signature, err := l.enter(t.Context()) // would block, and fail the test, if the second search had the place
		if err != nil {
			t.Fatal(err)
		}
		first()
		leave := <-second
		leave()
		signature()
	})
}

// Heavy keys use the lanes and give their places back, also on every way out.
func TestHeavyWorkUsesTheLanes(t *testing.T) {
	s := opened(t)
	made, err := s.Generate(t.Context(), engine.Spec{Type: engine.RSA, Bits: 3072}, nil)
	if err != nil {
		t.Fatal(err)
	}
	light, err := s.Generate(t.Context(), engine.Spec{Type: engine.EC, Curve: engine.P256}, nil)
	if err != nil {
		t.Fatal(err)
	}
	ref := engine.Ref{Type: engine.RSA, Bits: 3072, Sealed: made.Sealed}
	damaged := ref
	damaged.Binding = []byte("x")
	lightRef := engine.Ref{Type: engine.EC, Curve: engine.P256, Sealed: light.Sealed}
	digest := make([]byte, 32)
	calls := map[string]func(ctx context.Context) error{
		"sign":         func(ctx context.Context) error { _, err := s.Sign(ctx, ref, "RS256", digest); return err },
		"sign damaged": func(ctx context.Context) error { _, err := s.Sign(ctx, damaged, "RS256", digest); return err },
		"decrypt": func(ctx context.Context) error {
			_, err := s.Decrypt(ctx, ref, engine.RSAOAEP, make([]byte, 384))
			return err
		},
		"generate": func(ctx context.Context) error {
			_, err := s.Generate(ctx, engine.Spec{Type: engine.RSA, Bits: 2048}, nil)
			return err
		},
		"import": func(ctx context.Context) error {
			_, err := s.ImportKey(ctx, engine.Material{Type: engine.RSA}, nil)
			return err
		},
		"import wrapped": func(ctx context.Context) error {
			_, err := s.ImportWrapped(ctx, ref, make([]byte, 500), engine.Spec{Type: engine.Oct}, nil)
			return err
		},
		"verify, not open": func(ctx context.Context) error {
			s.Drop(ref)
			_, err := s.Verify(ctx, ref, "RS256", digest, nil)
			return err
		},
	}
	for name, call := range calls {
		for range 2 {
			_ = call(t.Context()) // some fail; all come back
		}
		if len(s.lanes.heavy) != 0 || len(s.lanes.finding) != 0 {
			t.Fatalf("%s keeps its place", name)
		}
	}
	for range cap(s.lanes.heavy) {
		s.lanes.heavy <- struct{}{}
	}
	for name, call := range calls {
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		if err := call(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s does not wait for a place: %v", name, err)
		}
		cancel()
	}
	if _, err := s.Sign(t.Context(), lightRef, "ES256", digest); err != nil {
		t.Errorf("a light key waits: %v", err)
	}
	for range cap(s.lanes.heavy) {
		<-s.lanes.heavy
	}
}

// A backup of all keys does not drive those out that are in use.
func TestExportKeepsNothing(t *testing.T) {
	s := opened(t)
	ref := func() engine.Ref {
		made, err := s.Generate(t.Context(), engine.Spec{Type: engine.Oct, Bits: 256}, []byte("b"))
		if err != nil {
			t.Fatal(err)
		}
		return engine.Ref{Type: engine.Oct, Bits: 256, Sealed: made.Sealed, Binding: []byte("b")}
	}
	hot, cold := ref(), ref()
	if _, err := s.Sign(t.Context(), hot, "HS256", nil); err != nil {
		t.Fatal(err)
	}
	for _, r := range []engine.Ref{hot, cold} {
		if _, err := s.Export(t.Context(), r, make([]byte, engine.SaltSize), []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	if e, _ := s.cache.get(idOf(cold)); e != nil {
		t.Error("an exported key was kept open")
	}
	e, _ := s.cache.get(idOf(hot))
	if e == nil || e.gone {
		t.Fatal("a key in use was dropped because it was exported")
	}
	s.cache.release(e)
	// A record that lies about its key does not come into a backup, whether the key is open or not.
	for _, r := range []engine.Ref{hot, cold} {
		r.Bits = 128
		if _, err := s.Export(t.Context(), r, make([]byte, engine.SaltSize), []byte("x")); !errors.Is(err, engine.ErrTampered) {
			t.Errorf("a record that lies: %v", err)
		}
	}
}
