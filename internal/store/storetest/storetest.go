// Package storetest is the suite that every implementation of store.Store passes.
package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"strongroom/internal/store"
)

// Run runs the suite. open returns an empty store; the suite closes it.
func Run(t *testing.T, open func(t *testing.T) store.Store) {
	tests := []struct {
		name string
		fn   func(*testing.T, store.Store)
	}{
		{"put, get, delete", testBasics},
		{"values are copies", testCopies},
		{"scan", testScan},
		{"a writer scans what it wrote", testWriterScan},
		{"deleting while scanning", testDeleteWhileScanning},
		{"a failing function writes nothing", testRollback},
		{"a panicking function writes nothing", testPanic},
		{"a function that ends its goroutine writes nothing", testGoexit},
		{"snapshot isolation", testSnapshot},
		{"limits", testLimits},
		{"watch", testWatch},
		{"announcements", testAnnounce},
		{"cancelled before the start", testCancelled},
		{"cancelled while waiting", testCancelledWaiting},
		{"a counter under concurrency", testCounter},
		{"a failing function does not spoil its neighbours", testNeighbours},
		{"write skew is impossible", testWriteSkew},
		{"closed", testClosed},
		{"close waits for views", testCloseWaits},
		{"like a map", testModel},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			s := open(t)
			defer func() {
				if err := s.Close(); err != nil {
					t.Errorf("close: %v", err)
				}
			}()
			tc.fn(t, s)
		})
	}
}

func update(t testing.TB, s store.Store, fn func(store.Writer)) {
	t.Helper()
	err := s.Update(t.Context(), func(w store.Writer) error { fn(w); return nil })
	if err != nil {
		t.Fatalf("update: %v", err)
	}
}

func put(t testing.TB, s store.Store, pairs ...string) {
	t.Helper()
	update(t, s, func(w store.Writer) {
		for i := 0; i < len(pairs); i += 2 {
			w.Put(pairs[i], []byte(pairs[i+1]))
		}
	})
}

// list collects a scan as "key=value".
func list(r store.Reader, prefix, after string) []string {
	var out []string
	for k, v := range r.Scan(prefix, after) {
		out = append(out, k+"="+string(v))
	}
	return out
}

func all(t testing.TB, s store.Store) (out []string) {
	t.Helper()
	if err := s.View(t.Context(), func(r store.Reader) error { out = list(r, "", ""); return nil }); err != nil {
		t.Fatalf("view: %v", err)
	}
	return out
}

func want(t testing.TB, s store.Store, pairs ...string) {
	t.Helper()
	if diff := cmp.Diff(pairs, all(t, s)); diff != "" {
		t.Fatalf("the store does not hold what it should (-want +got):\n%s", diff)
	}
}

func testBasics(t *testing.T, s store.Store) {
	want(t, s)
	put(t, s, "a", "1", "b", "2", "empty", "")
	want(t, s, "a=1", "b=2", "empty=")
	update(t, s, func(w store.Writer) {
		w.Put("a", []byte("one"))
		if v, ok := w.Get("a"); !ok || string(v) != "one" {
			t.Errorf("own write: got %q %v", v, ok)
		}
		w.Delete("b")
		if v, ok := w.Get("b"); ok || v != nil {
			t.Errorf("own delete: got %q %v", v, ok)
		}
		w.Delete("never there")
		w.Put("c", []byte("x"))
		w.Delete("c")
		w.Delete("empty")
		w.Put("empty", nil)
	})
	want(t, s, "a=one", "empty=")
	err := s.View(t.Context(), func(r store.Reader) error {
		if v, ok := r.Get("empty"); !ok || len(v) != 0 {
			t.Errorf("empty value: got %q %v", v, ok)
		}
		if v, ok := r.Get("nothing"); ok || v != nil {
			t.Errorf("missing key: got %q %v", v, ok)
		}
		return errSentinel
	})
	if err != errSentinel {
		t.Fatalf("the error of a view is returned as it is: got %v", err)
	}
}

var errSentinel = errors.New("the function's own error")

func testCopies(t *testing.T, s store.Store) {
	mine := []byte("value")
	update(t, s, func(w store.Writer) {
		w.Put("k", mine)
		clear(mine)
		v, _ := w.Get("k")
		clear(v)
		for _, v := range w.Scan("", "") {
			clear(v)
		}
	})
	var kept []byte
	for range 2 {
		err := s.View(t.Context(), func(r store.Reader) error {
			kept, _ = r.Get("k")
			for _, v := range r.Scan("", "") {
				clear(v)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	put(t, s, "k", "other") // may reuse whatever held the first value
	if string(kept) != "value" {
		t.Fatalf("a value that was read changed to %q", kept)
	}
}

func testScan(t *testing.T, s store.Store) {
	put(t, s, "a", "1", "a/1", "2", "a/2", "3", "a/2/x", "4", "a0", "5", "b", "6", "a/\xff", "7", "\xff", "8", "\x00", "9")
	for _, tc := range []struct {
		name, prefix, after string
		want                []string
	}{
		{"everything, in byte order", "", "", []string{"\x00=9", "a=1", "a/1=2", "a/2=3", "a/2/x=4", "a/\xff=7", "a0=5", "b=6", "\xff=8"}},
		{"a prefix", "a/", "", []string{"a/1=2", "a/2=3", "a/2/x=4", "a/\xff=7"}},
		{"after a key that is there", "a/", "a/2", []string{"a/2/x=4", "a/\xff=7"}},
		{"after a key that is not there", "a/", "a/11", []string{"a/2=3", "a/2/x=4", "a/\xff=7"}},
		{"after a key before the prefix", "a/", "a", []string{"a/1=2", "a/2=3", "a/2/x=4", "a/\xff=7"}},
		{"after a key behind the prefix", "a/", "b", nil},
		{"after the last", "", "\xff", nil},
		{"no such prefix", "c", "", nil},
		{"the prefix is a key", "a/2", "", []string{"a/2=3", "a/2/x=4"}},
		{"the prefix is the key before", "a/2", "a/2", []string{"a/2/x=4"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for _, by := range []string{"reader", "writer"} {
				var got []string
				read := func(r store.Reader) { got = list(r, tc.prefix, tc.after) }
				if by == "writer" {
					update(t, s, func(w store.Writer) { read(w) })
				} else if err := s.View(t.Context(), func(r store.Reader) error { read(r); return nil }); err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(tc.want, got); diff != "" {
					t.Errorf("%s (-want +got):\n%s", by, diff)
				}
			}
		})
	}
	err := s.View(t.Context(), func(r store.Reader) error {
		for k := range r.Scan("a", "") {
			if k != "a" {
				t.Errorf("went on to %q after break", k)
			}
			break
		}
		seq := r.Scan("b", "")
		for range 2 {
			n := 0
			for range seq {
				n++
			}
			if n != 1 {
				t.Errorf("a scan that runs twice: got %d records", n)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func testWriterScan(t *testing.T, s store.Store) {
	put(t, s, "k/1", "old", "k/3", "old", "k/5", "old", "l", "old")
	update(t, s, func(w store.Writer) {
		w.Put("k/0", []byte("new"))
		w.Put("k/3", []byte("new"))
		w.Put("k/4", []byte("new"))
		w.Put("k/9", []byte("new"))
		w.Put("m", []byte("new"))
		w.Delete("k/5")
		w.Delete("k/7")
		got := list(w, "k/", "")
		if diff := cmp.Diff([]string{"k/0=new", "k/1=old", "k/3=new", "k/4=new", "k/9=new"}, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		got = list(w, "k/", "k/3")
		if diff := cmp.Diff([]string{"k/4=new", "k/9=new"}, got); diff != "" {
			t.Errorf("after k/3 (-want +got):\n%s", diff)
		}
		for k := range w.Scan("k/", "") {
			if k != "k/0" {
				t.Errorf("went on to %q after break", k)
			}
			break
		}
	})
}

func testDeleteWhileScanning(t *testing.T, s store.Store) {
	update(t, s, func(w store.Writer) {
		for i := range 300 {
			w.Put(fmt.Sprintf("k/%03d", i), bytes.Repeat([]byte("x"), 100))
		}
	})
	update(t, s, func(w store.Writer) {
		n := 0
		for k := range w.Scan("k/", "") {
			w.Delete(k)
			w.Put("seen/"+k, nil)
			n++
		}
		if n != 300 {
			t.Errorf("saw %d of 300 records", n)
		}
	})
	if got := all(t, s); len(got) != 300 || got[0] != "seen/k/000=" {
		t.Fatalf("%d records, first %q", len(got), got[0])
	}
}

func testRollback(t *testing.T, s store.Store) {
	put(t, s, "a", "1")
	err := s.Update(t.Context(), func(w store.Writer) error {
		w.Put("a", []byte("2"))
		w.Put("b", []byte("2"))
		return errSentinel
	})
	if err != errSentinel {
		t.Fatalf("the function's error is returned as it is: got %v", err)
	}
	want(t, s, "a=1")
}

func testPanic(t *testing.T, s store.Store) {
	func() {
		defer func() {
			if p := recover(); p != "boom" {
				t.Errorf("recovered %v, want the function's panic", p)
			}
		}()
		_ = s.Update(t.Context(), func(w store.Writer) error {
			w.Put("a", []byte("1"))
			panic("boom")
		})
	}()
	func() {
		defer func() {
			if p := recover(); p != "boom" {
				t.Errorf("recovered %v, want the function's panic", p)
			}
		}()
		_ = s.View(t.Context(), func(store.Reader) error { panic("boom") })
	}()
	put(t, s, "b", "2") // the store still works
	want(t, s, "b=2")
}

// A t.Fatal inside an update's function ends the goroutine with runtime.Goexit.
func testGoexit(t *testing.T, s store.Store) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Update(context.Background(), func(w store.Writer) error {
			w.Put("a", []byte("1"))
			runtime.Goexit()
			return nil
		})
	}()
	<-done
	put(t, s, "b", "2")
	want(t, s, "b=2")
}

func testSnapshot(t *testing.T, s store.Store) {
	put(t, s, "a", "1", "gone", "1")
	err := s.View(t.Context(), func(r store.Reader) error {
		done := make(chan error)
		go func() {
			done <- s.Update(context.Background(), func(w store.Writer) error {
				w.Put("a", []byte("2"))
				w.Put("b", []byte("2"))
				w.Delete("gone")
				return nil
			})
		}()
		if err := <-done; err != nil {
			return err
		}
		if diff := cmp.Diff([]string{"a=1", "gone=1"}, list(r, "", "")); diff != "" {
			t.Errorf("an older view sees a newer commit (-want +got):\n%s", diff)
		}
		if v, _ := r.Get("a"); string(v) != "1" {
			t.Errorf("an older view gets %q", v)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	want(t, s, "a=2", "b=2")
}

func testLimits(t *testing.T, s store.Store) {
	longest := strings.Repeat("k", store.MaxKey)
	update(t, s, func(w store.Writer) { w.Put(longest, make([]byte, store.MaxValue)) })
	err := s.View(t.Context(), func(r store.Reader) error {
		if v, ok := r.Get(longest); !ok || len(v) != store.MaxValue {
			t.Errorf("largest record: got %d bytes, %v", len(v), ok)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	update(t, s, func(w store.Writer) { w.Delete(longest) })
	for _, tc := range []struct {
		name, key string
		value     []byte
	}{
		{"empty key", "", nil},
		{"key too long", longest + "k", nil},
		{"value too large", "k", make([]byte, store.MaxValue+1)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			err := s.Update(t.Context(), func(w store.Writer) error {
				w.Put("good", nil)
				w.Put(tc.key, tc.value)
				w.Put("also good", nil)
				return nil
			})
			if !errors.Is(err, store.ErrRecord) {
				t.Fatalf("got %v, want ErrRecord", err)
			}
			want(t, s)
		})
	}
}

func testWatch(t *testing.T, s store.Store) {
	var mu sync.Mutex
	var got []string
	cancel := s.Watch(func(keys []string) {
		mu.Lock()
		defer mu.Unlock()
		got = append(got, strings.Join(keys, ","))
	})
	others := 0
	cancelOther := s.Watch(func([]string) { others++ })
	put(t, s, "b", "1", "a", "1")
	_ = s.Update(t.Context(), func(w store.Writer) error { w.Put("no", nil); return errSentinel })
	update(t, s, func(store.Writer) {})
	update(t, s, func(w store.Writer) { w.Delete("a") })
	if diff := cmp.Diff([]string{"a,b", "a"}, got); diff != "" {
		t.Fatalf("when Update returned (-want +got):\n%s", diff)
	}
	cancelOther()
	if others != 2 {
		t.Fatalf("the second watcher was called %d times, want 2", others)
	}

	// In commit order, also when many share a commit: the n-th to run is the n-th to be told.
	got = nil
	var order []string
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			err := s.Update(context.Background(), func(w store.Writer) error {
				key := fmt.Sprintf("w/%02d", i)
				order = append(order, key) // updates run alone
				w.Put(key, nil)
				return nil
			})
			mu.Lock()
			defer mu.Unlock()
			if err != nil || !slices.Contains(got, fmt.Sprintf("w/%02d", i)) {
				t.Errorf("update %d returned (%v) before its watcher was told", i, err)
			}
		})
	}
	wg.Wait()
	if diff := cmp.Diff(order, got); diff != "" {
		t.Fatalf("order of watching is not order of commits (-want +got):\n%s", diff)
	}
	cancel()
	cancel()
	put(t, s, "z", "1")
	if len(got) != 50 || others != 2 {
		t.Fatal("a cancelled watcher was called")
	}
}

// A commit is announced before a reader can see it, and is over when its watchers were told.
func testAnnounce(t *testing.T, s store.Store) {
	var (
		announced atomic.Int64
		begun     []string // of the commit under way
		told      bool
		over      int
	)
	cancelWatch := s.Watch(func(keys []string) {
		if begun == nil {
			t.Error("a watcher is told of what was not announced")
		}
		for _, key := range keys {
			if !slices.Contains(begun, key) {
				t.Errorf("%s was not announced, but %v", key, begun)
			}
		}
		told = true
	})
	cancel := s.Announce(func(keys []string) {
		begun = slices.Clone(keys)
		announced.Add(1)
	}, func() {
		if begun == nil || !told {
			t.Error("over before it began, or before its watchers were told")
		}
		begun, told = nil, false
		over++
	})
	put(t, s, "n", "1")
	_ = s.Update(t.Context(), func(w store.Writer) error { w.Put("no", nil); return errSentinel })
	update(t, s, func(store.Writer) {})
	if announced.Load() != 1 || over != 1 {
		t.Fatalf("one commit that changed something was announced %d times, and was over %d times", announced.Load(), over)
	}
	var readers sync.WaitGroup
	stop := make(chan struct{})
	for range 4 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				err := s.View(context.Background(), func(r store.Reader) error {
					value, _ := r.Get("n")
					if int64(len(value)) > announced.Load() {
						t.Error("a reader sees what was not announced yet")
					}
					return nil
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	for n := 2; n < 60; n++ {
		put(t, s, "n", strings.Repeat("1", n))
	}
	close(stop)
	readers.Wait()
	cancel()
	cancelWatch()
	put(t, s, "n", "")
	if announced.Load() != 59 || over != 59 {
		t.Errorf("%d announced and %d over, want 59 of both, and none after the end", announced.Load(), over)
	}
}

func testCancelled(t *testing.T, s store.Store) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := s.Update(ctx, func(store.Writer) error { t.Error("the update ran"); return nil })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("update: got %v, want context.Canceled", err)
	}
	err = s.View(ctx, func(store.Reader) error { t.Error("the view ran"); return nil })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("view: got %v, want context.Canceled", err)
	}
}

// An update that waits for its turn behind a slow one can be cancelled, and then never runs. One that runs
// already is carried through.
func testCancelledWaiting(t *testing.T, s store.Store) {
	running, release := make(chan struct{}), make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	first := make(chan error)
	go func() {
		first <- s.Update(ctx, func(w store.Writer) error {
			w.Put("first", nil)
			close(running)
			<-release
			return nil
		})
	}()
	<-running
	second := make(chan error)
	go func() {
		second <- s.Update(ctx, func(w store.Writer) error { w.Put("second", nil); return nil })
	}()
	cancel()
	if err := <-second; !errors.Is(err, context.Canceled) {
		t.Errorf("the waiting update: got %v, want context.Canceled", err)
	}
	close(release)
	if err := <-first; err != nil {
		t.Errorf("the running update: got %v, want it carried through", err)
	}
	want(t, s, "first=")
}

// Lost updates would leave the counter short.
func testCounter(t *testing.T, s store.Store) {
	const callers, each = 16, 25
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for range each {
				runs := 0
				err := s.Update(context.Background(), func(w store.Writer) error {
					runs++
					v, _ := w.Get("n")
					w.Put("n", append(v, 'x'))
					return nil
				})
				if err != nil || runs != 1 {
					t.Errorf("update: %v after %d runs, want one run", err, runs)
				}
				_ = s.View(context.Background(), func(r store.Reader) error {
					if _, ok := r.Get("n"); !ok {
						t.Error("a committed record is not visible")
					}
					return nil
				})
			}
		})
	}
	wg.Wait()
	want(t, s, "n="+strings.Repeat("x", callers*each))
}

// While one update holds the turn, others gather and may share a commit; the failing ones must leave no trace,
// not even in what their neighbours read.
func testNeighbours(t *testing.T, s store.Store) {
	running, release := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		_ = s.Update(context.Background(), func(w store.Writer) error {
			close(running)
			<-release
			return nil
		})
	})
	<-running
	for i := range 30 {
		wg.Go(func() {
			key := fmt.Sprintf("k/%02d", i)
			defer func() {
				if p := recover(); p != nil && i%3 != 2 {
					t.Errorf("%s: panic %v", key, p)
				}
			}()
			err := s.Update(context.Background(), func(w store.Writer) error {
				for k := range w.Scan("bad/", "") {
					t.Errorf("%s sees the write of a failing neighbour: %s", key, k)
				}
				w.Put("bad/"+key, nil)
				switch i % 3 {
				case 1:
					return errSentinel
				case 2:
					panic("boom")
				}
				w.Delete("bad/" + key)
				w.Put(key, nil)
				return nil
			})
			if i%3 == 0 && err != nil || i%3 == 1 && err != errSentinel {
				t.Errorf("%s: %v", key, err)
			}
		})
	}
	close(release)
	wg.Wait()
	var keys []string
	for i := 0; i < 30; i += 3 {
		keys = append(keys, fmt.Sprintf("k/%02d=", i))
	}
	want(t, s, keys...)
}

// Two updates that each read both records and change one: serialisable means that at most one is left standing.
func testWriteSkew(t *testing.T, s store.Store) {
	for range 20 {
		put(t, s, "a", "on", "b", "on")
		var wg sync.WaitGroup
		for _, me := range []string{"a", "b"} {
			wg.Go(func() {
				_ = s.Update(context.Background(), func(w store.Writer) error {
					a, _ := w.Get("a")
					b, _ := w.Get("b")
					if string(a) == "on" && string(b) == "on" {
						w.Put(me, []byte("off"))
					}
					return nil
				})
			})
		}
		wg.Wait()
		got := all(t, s)
		if !slices.Equal(got, []string{"a=on", "b=off"}) && !slices.Equal(got, []string{"a=off", "b=on"}) {
			t.Fatalf("got %v, want exactly one off", got)
		}
	}
}

func testClosed(t *testing.T, s store.Store) {
	put(t, s, "a", "1")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	err := s.Update(t.Context(), func(store.Writer) error { t.Error("the update ran"); return nil })
	if !errors.Is(err, store.ErrClosed) {
		t.Errorf("update: got %v, want ErrClosed", err)
	}
	err = s.View(t.Context(), func(store.Reader) error { t.Error("the view ran"); return nil })
	if !errors.Is(err, store.ErrClosed) {
		t.Errorf("view: got %v, want ErrClosed", err)
	}
	select {
	case <-s.Failed():
		t.Error("a closed store is not a failed one")
	default:
	}
}

func testCloseWaits(t *testing.T, s store.Store) {
	put(t, s, "a", "1")
	running, release := make(chan struct{}), make(chan struct{})
	view := make(chan error, 1)
	go func() {
		view <- s.View(context.Background(), func(r store.Reader) error {
			close(running)
			<-release
			if v, _ := r.Get("a"); string(v) != "1" {
				return fmt.Errorf("a running view lost its snapshot: got %q", v)
			}
			return nil
		})
	}()
	<-running
	closed := make(chan error)
	go func() { closed <- s.Close() }()
	close(release)
	if err := <-closed; err != nil {
		t.Error(err)
	}
	select {
	case err := <-view:
		if err != nil {
			t.Error(err)
		}
	default:
		// The function has ended; only its result may still be on the way.
		if err := <-view; err != nil {
			t.Error(err)
		}
	}
}

// testModel drives the store and a plain map through the same random transactions.
func testModel(t *testing.T, s store.Store) {
	ctx := t.Context()
	rapid.Check(t, func(t *rapid.T) {
		update := func(fn func(store.Writer) error) error { return s.Update(ctx, fn) }
		if err := update(func(w store.Writer) error {
			for k := range w.Scan("", "") {
				w.Delete(k)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		model := map[string]string{}
		key := rapid.StringMatching(`[ab/]{1,4}`)
		check := func(r store.Reader, m map[string]string) {
			prefix := rapid.StringMatching(`[ab/]{0,2}`).Draw(t, "prefix")
			after := rapid.StringMatching(`[ab/]{0,3}`).Draw(t, "after")
			var expect []string
			for _, k := range slices.Sorted(maps.Keys(m)) {
				if strings.HasPrefix(k, prefix) && k > after {
					expect = append(expect, k+"="+m[k])
				}
			}
			if diff := cmp.Diff(expect, list(r, prefix, after)); diff != "" {
				t.Fatalf("scan %q after %q (-want +got):\n%s", prefix, after, diff)
			}
			k := key.Draw(t, "get")
			v, ok := r.Get(k)
			if mv, mok := m[k]; ok != mok || string(v) != mv {
				t.Fatalf("get %q: got %q %v, want %q %v", k, v, ok, mv, mok)
			}
		}
		for range rapid.IntRange(1, 6).Draw(t, "transactions") {
			next := maps.Clone(model)
			fail := rapid.Bool().Draw(t, "fail")
			err := update(func(w store.Writer) error {
				for range rapid.IntRange(0, 8).Draw(t, "writes") {
					k := key.Draw(t, "key")
					if rapid.Bool().Draw(t, "delete") {
						w.Delete(k)
						delete(next, k)
					} else {
						v := rapid.StringN(0, 20, 40).Draw(t, "value")
						w.Put(k, []byte(v))
						next[k] = v
					}
				}
				check(w, next)
				if fail {
					return errSentinel
				}
				return nil
			})
			switch {
			case fail && err != errSentinel:
				t.Fatalf("got %v, want the function's error", err)
			case !fail && err != nil:
				t.Fatal(err)
			case !fail:
				model = next
			}
			if err := s.View(ctx, func(r store.Reader) error { check(r, model); return nil }); err != nil {
				t.Fatal(err)
			}
		}
	})
}
