package audit

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// newDoor returns a writer's state without its goroutine, with requests at the door.
func newDoor(waiting int) (*Log, []*request) {
	l := &Log{quit: make(chan struct{}), door: door{wake: make(chan struct{}, 1)}}
	l.company.timer = time.NewTimer(linger)
	l.company.timer.Stop()
	var list []*request
	for range waiting {
		q := newRequest().(*request)
		l.door.come(q)
		list = append(list, q)
	}
	return l, list
}

// Who is alone waits for nobody; who has company waits until it is there, or in vain at most linger, and after that
// ever more groups do not wait.
func TestGather(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gather := func(what string, l *Log, late, want int, took time.Duration) {
			t.Helper()
			start := time.Now()
			go func() {
				time.Sleep(linger / 2)
				for range late {
					l.door.come(newRequest().(*request))
				}
			}()
			got := l.gather(nil)
			if len(got) != want || time.Since(start) != took {
				t.Errorf("%s: %d requests after %v, want %d after %v", what, len(got), time.Since(start), want, took)
			}
			time.Sleep(linger)
			l.door.take(nil)
		}
		for _, expect := range []int{0, 1} {
			l, _ := newDoor(1)
			l.company.expect = expect
			gather("alone", l, 5, 1, 0)
		}
		l, _ := newDoor(2)
		l.company.expect = 5
		gather("three are missing", l, 3, 5, linger/2)
		l, _ = newDoor(enough)
		l.company.expect = enough + 5
		gather("there are enough", l, 0, enough, 0)

		l, _ = newDoor(0)
		l.company.expect = 2
		for _, passes := range []int{1, 2, 4, 8, 16, 32, 64, 64} {
			l.door.come(newRequest().(*request))
			gather("in vain", l, 0, 1, linger)
			for range passes {
				l.door.come(newRequest().(*request))
				gather("after that", l, 0, 1, 0)
			}
		}
		l.door.come(newRequest().(*request))
		gather("company is back", l, 1, 2, linger/2)
		l.door.come(newRequest().(*request))
		gather("and is waited for", l, 1, 2, linger/2)

		l.door.come(newRequest().(*request))
		close(l.quit)
		gather("a log that is closed", l, 0, 1, 0)
	})
}

// Requests are taken in the order in which they came, no more than a batch may have, and not after they were taken back.
func TestDoor(t *testing.T) {
	l, list := newDoor(maxBatch + 3)
	l.door.leave(list[1])
	l.door.leave(newRequest().(*request))
	got := l.door.take(nil)
	if len(got) != maxBatch || got[0] != list[0] || got[1] != list[2] || got[maxBatch-1] != list[maxBatch] {
		t.Fatalf("%d requests, or out of order", len(got))
	}
	if left := l.door.close(); len(left) != 2 || left[0] != list[maxBatch+1] {
		t.Errorf("%d requests left, want 2", len(left))
	}
	if l.door.come(list[0]) {
		t.Error("a closed door let somebody in")
	}
}

// Callers who come while the log is closed all get an answer, and what was answered with a number is in the log.
func TestCloseAmongCallers(t *testing.T) {
	dir := t.TempDir()
	l := mustOpen(t, dir, testOptions())
	var wg sync.WaitGroup
	var mu sync.Mutex
	var last int64 = -1
	begun := make(chan struct{}, 16)
	for i := range 16 {
		wg.Go(func() {
			for {
				n, err := l.Append(context.Background(), call(i))
				if err != nil {
					if !errors.Is(err, ErrClosed) {
						t.Error(err)
					}
					return
				}
				select {
				case begun <- struct{}{}:
				default:
				}
				mu.Lock()
				last = max(last, n)
				mu.Unlock()
			}
		})
	}
	for range 16 {
		<-begun
	}
	mustClose(t, l)
	wg.Wait()
	if r := mustVerify(t, dir, serverKey.Public()); !r.OK() || r.Records != last+1 {
		t.Errorf("%d records, want %d: %+v", r.Records, last+1, r.Findings)
	}
}

// A log that has failed begins no segment either, though the last is long enough and signed.
func TestFailedBeginsNoSegment(t *testing.T) {
	dir := makeLog(t, 1, nil)
	o := testOptions()
	o.SegmentBytes = 1
	l := mustOpen(t, dir, o)
	_ = l.fail(errors.New("a sync failed"))
	for range 3 {
		if _, err := l.Append(context.Background(), call(1)); !errors.Is(err, ErrFailed) {
			t.Errorf("Append said %v, want ErrFailed", err)
		}
	}
	if err := l.Close(); !errors.Is(err, ErrFailed) {
		t.Errorf("Close said %v, want ErrFailed", err)
	}
	if n := len(mustSegments(t, dir)); n != 1 {
		t.Errorf("%d segments, want 1", n)
	}
}
