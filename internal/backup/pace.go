package backup

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"time"

	"strongroom/internal/failure"
)

// A pace is how one job goes while its server is used. There are two rules. One processor stays free: with all of them
// busy, an answer waits until the scheduler of Go looks at the network again, which it then does every ten milliseconds.
// So where there are two, the sides of a [stage] take turns; where there are more, package keys exports with two fewer
// than there are, and the other side has one. And while calls come, the job gives way: it works for a short turn and then
// waits, so that it has some tenth of its time, and always has that. (docs: performance, which says what a turn's length does.)
type pace struct {
	turn  sync.Locker
	calls func() uint64 // that the server has taken so far; nil: there is nobody to give way to
	now   func() time.Time
	sleep func(time.Duration)

	mu    sync.Mutex // held through a wait, so that all who work for the job wait
	began time.Time  // of this turn
	seen  uint64     // calls, when last looked
	used  time.Time  // when calls were last seen to come
}

const (
	// turnTime is what a call may have to wait for. Linux lets a thread that has just woken up finish a turn of that
	// length, also where the thread that would answer has nowhere else to run.
	turnTime = 100 * time.Microsecond
	// A wait is so many times the turn before it, and at most maxWait, where a turn was long for a reason of its own, such
	// as a slow target. The system's timers make a millisecond of less.
	waitTimes = 4
	maxWait   = 2 * time.Millisecond
	// stillUsed is for how long after a call more of them are expected.
	stillUsed = 10 * time.Millisecond
)

// pace returns the pace of a job beside which its server is used.
func (s *Service) pace() *pace {
	p := &pace{turn: noTurns{}, calls: s.cfg.Calls, now: time.Now, sleep: time.Sleep}
	if runtime.GOMAXPROCS(0) <= 2 {
		p.turn = new(sync.Mutex)
	}
	if p.calls != nil {
		p.began, p.seen = p.now(), p.calls()
	}
	return p
}

// fullPace is the pace of a job that is waited for, of an HSM that answers nobody: it takes all processors.
func fullPace() *pace { return &pace{turn: noTurns{}} }

// pause is called by whoever works for the job, after each small piece of it.
func (p *pace) pause() {
	if p.calls == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	worked := now.Sub(p.began)
	if worked < turnTime {
		return
	}
	if calls := p.calls(); calls != p.seen {
		p.seen, p.used = calls, now
	}
	if now.Sub(p.used) < stillUsed {
		p.sleep(min(waitTimes*worked, maxWait))
		now = p.now()
	}
	p.began = now
}

type noTurns struct{}

func (noTurns) Lock()   {}
func (noTurns) Unlock() {}

// stage lets what from puts be worked on by to, while from goes on with the next: from runs in a goroutine of its own, which
// has ended when stage returns, however it returns. They are handed over in batches. A batch has at most so many things, and
// ends after a mebibyte of them, so that little is held whatever their size.
func stage[T any](ctx context.Context, p *pace, most int, size func(T) int, from func(ctx context.Context, put func(T) error) error, to func(T) error) error {
	return stages(ctx, p, most, size, from, func(batch []T) error {
		for _, one := range batch {
			if err := to(one); err != nil {
				return err
			}
			p.pause()
		}
		return nil
	})
}

// stages is stage where to takes a whole batch.
func stages[T any](ctx context.Context, p *pace, most int, size func(T) int, from func(ctx context.Context, put func(T) error) error, to func([]T) error) error {
	const full = 1 << 20 // bytes
	ctx, stop := context.WithCancel(ctx)
	queue, ended := make(chan []T, 1), make(chan error, 1)
	defer func() { // also after a panic of to: what from reads may end with this function
		stop()
		for range queue {
		}
	}()
	go func() {
		defer close(queue)
		defer func() {
			if p := recover(); p != nil {
				ended <- failure.Wrap(failure.Internal, fmt.Errorf("panic: %T", p), "it failed for a reason that is our mistake")
			}
		}()
		var batch []T
		bytes := 0
		flush := func() error {
			if len(batch) == 0 {
				return nil
			}
			p.turn.Unlock()
			defer p.turn.Lock()
			select {
			case queue <- batch:
				batch, bytes = nil, 0
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		p.turn.Lock()
		defer p.turn.Unlock()
		err := from(ctx, func(one T) error {
			p.pause()
			batch, bytes = append(batch, one), bytes+size(one)
			if len(batch) < most && bytes < full {
				return nil
			}
			return flush()
		})
		if err == nil {
			err = flush()
		}
		ended <- err
	}()
	work := func(batch []T) error {
		p.turn.Lock()
		defer p.turn.Unlock()
		return to(batch)
	}
	for batch := range queue {
		if err := work(batch); err != nil {
			return err
		}
	}
	return <-ended
}
