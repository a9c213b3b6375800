package backup

import (
	"testing"
	"time"
)

// A job works until its turn is over, waits then if calls come, and not otherwise; and it goes on while they come.
func TestPace(t *testing.T) {
	var (
		calls uint64
		clock = time.Unix(1, 0)
		slept []time.Duration
	)
	p := &pace{turn: noTurns{}, calls: func() uint64 { return calls }, now: func() time.Time { return clock }, began: clock,
		sleep: func(d time.Duration) { slept = append(slept, d); clock = clock.Add(d) }}
	work := func(d time.Duration) {
		clock = clock.Add(d)
		p.pause()
	}
	waits := func(what string, want ...time.Duration) {
		t.Helper()
		if len(slept) != len(want) {
			t.Fatalf("%s: it waited %v, want %v", what, slept, want)
		}
		for i := range want {
			if slept[i] != want[i] {
				t.Fatalf("%s: it waited %v, want %v", what, slept, want)
			}
		}
		slept = nil
	}
	for range 100 {
		work(turnTime)
	}
	waits("nobody calls")
	calls++
	work(turnTime / 2)
	waits("a turn is not over")
	work(turnTime / 2)
	waits("a turn is over", waitTimes*turnTime)
	work(time.Second)
	waits("the last call is a second ago")
	calls++
	work(time.Second)
	waits("a turn was long", maxWait)
	for i := range 1000 {
		calls++
		work(turnTime)
		if len(slept) != i+1 {
			t.Fatalf("after %d turns it has waited %d times", i+1, len(slept))
		}
	}
	slept = nil
	work(turnTime) // the last wait was shorter than stillUsed
	waits("a call was a moment ago", waitTimes*turnTime)
	clock = clock.Add(stillUsed)
	work(turnTime)
	waits("no more calls")

	p = fullPace()
	p.pause() // asks nobody
}
