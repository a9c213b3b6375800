package limit

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"strongroom/internal/failure"
)

func TestRatePerPrincipal(t *testing.T) {
	now := time.Unix(1000, 0)
	l := New(Config{Rate: 2, Burst: 3}, func() time.Time { return now })
	take := func(principal string) bool { return l.Allow(principal) == nil }
	for i, want := range []bool{true, true, true, false, false} {
		if got := take("a"); got != want {
			t.Errorf("request %d of a: %t", i+1, got)
		}
	}
	if !take("b") {
		t.Error("b pays for a")
	}
	now = now.Add(time.Second) // two more
	for i, want := range []bool{true, true, false} {
		if got := take("a"); got != want {
			t.Errorf("a second later, request %d of a: %t", i+1, got)
		}
	}
	if err := l.Allow("a"); failure.KindOf(err) != failure.Throttled {
		t.Errorf("got %v, want %v", err, failure.Throttled)
	}
	if free := New(Config{Rate: -1}, time.Now); free.Allow("a") != nil {
		t.Error("without a bound there is one")
	}
}

// Nobody makes room for himself by inventing principals, and memory is bounded.
func TestPrincipalsAreBounded(t *testing.T) {
	now := time.Unix(1000, 0)
	l := New(Config{Rate: 1, Burst: 1, Principals: 10}, func() time.Time { return now })
	if l.Allow("busy") != nil {
		t.Fatal("the first request is refused")
	}
	for i := range 1000 {
		_ = l.Allow(fmt.Sprint(i))
		if l.Allow("busy") == nil {
			t.Fatalf("after %d others, the limit is forgotten while it is in use", i+1)
		}
		if n := len(l.young) + len(l.old); n > 10 {
			t.Fatalf("%d principals are remembered", n)
		}
	}
}

func TestPlacesAndQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(Config{Running: 2, Waiting: 1, Patience: time.Minute}, time.Now)
		enter := func(hsm string) (func(), error) { return l.Enter(t.Context(), hsm) }
		first, err := enter("alpha")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := enter("alpha"); err != nil {
			t.Fatal(err)
		}
		var third func()
		done := make(chan error)
		go func() {
			leave, err := enter("alpha")
			third = leave
			done <- err
		}()
		synctest.Wait()
		if _, err := enter("alpha"); failure.KindOf(err) != failure.Unavailable {
			t.Errorf("beyond the queue: %v", err)
		}
		if _, err := enter("beta"); err != nil {
			t.Errorf("another HSM: %v", err)
		}
		first()
		if err := <-done; err != nil {
			t.Errorf("the one that waited: %v", err)
		}
		// The queue is free again, and patience ends.
		if _, err := enter("alpha"); failure.KindOf(err) != failure.Unavailable {
			t.Errorf("after a minute without a place: %v", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		go func() { _, err := l.Enter(ctx, "alpha"); done <- err }()
		synctest.Wait()
		cancel()
		if err := <-done; failure.KindOf(err) != failure.Unavailable {
			t.Errorf("given up: %v", err)
		}
		third()
		if leave, err := enter("alpha"); err != nil {
			t.Errorf("with a free place: %v", err)
		} else {
			leave()
		}
	})
}

// However many come at once, no more than the places run, and all of them are answered.
func TestOverload(t *testing.T) {
	l := New(Config{Running: 3, Waiting: 5, Patience: time.Minute}, time.Now)
	var mu sync.Mutex
	running, most, served, refused := 0, 0, 0, 0
	var wg sync.WaitGroup
	for range 200 {
		wg.Go(func() {
			leave, err := l.Enter(t.Context(), "alpha")
			mu.Lock()
			if err != nil {
				refused++
				mu.Unlock()
				return
			}
			running++
			most = max(most, running)
			mu.Unlock()
			mu.Lock()
			running--
			served++
			mu.Unlock()
			leave()
		})
	}
	wg.Wait()
	if most > 3 || served+refused != 200 || served < 8 {
		t.Errorf("%d at once, %d served, %d refused", most, served, refused)
	}
}

// Nobody holds more large bodies than a quarter of what there is room for, and all together not more than that.
func TestUploadsAreBounded(t *testing.T) {
	l := New(Config{Uploads: 8}, time.Now)
	var held []func()
	take := func(principal string) error {
		done, err := l.Upload(principal)
		if err == nil {
			held = append(held, done)
		}
		return err
	}
	for i, want := range []bool{true, true, false} {
		if got := take("a") == nil; got != want {
			t.Errorf("upload %d of a: %t", i+1, got)
		}
	}
	for _, principal := range []string{"b", "b", "c", "c", "d", "d"} {
		if err := take(principal); err != nil {
			t.Errorf("%s: %v", principal, err)
		}
	}
	if err := take("e"); failure.KindOf(err) != failure.Unavailable {
		t.Errorf("the ninth of all: %v", err)
	}
	held[0]()
	held[0]() // once is enough, and twice is no more
	if err := take("a"); err != nil {
		t.Errorf("a has one less: %v", err)
	}
	if take("e") == nil {
		t.Error("there is a ninth again")
	}
	for _, done := range held {
		done()
	}
	if l.uploading != 0 || len(l.uploads) != 0 {
		t.Errorf("%d are counted, and %d principals", l.uploading, len(l.uploads))
	}
}
