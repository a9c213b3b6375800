package audit

import (
	"math"
	"slices"
	"sync"
	"time"
)

func newRequest() any { return &request{rest: make([]byte, 0, 1024), done: make(chan result, 1)} }

// door is where requests wait for the writer, in the order in which they came. It counts them, so that the writer is
// woken once for a group and not for each of them.
type door struct {
	mu     sync.Mutex
	queue  []*request
	need   int           // requests that wake the writer
	wake   chan struct{} // of one
	closed bool          // the writer has ended
}

// come adds a request, and reports false where nobody will answer it.
func (d *door) come(q *request) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return false
	}
	d.queue = append(d.queue, q)
	if len(d.queue) >= d.need {
		d.need = math.MaxInt
		select {
		case d.wake <- struct{}{}:
		default:
		}
	}
	return true
}

// leave takes back a request whose caller waits no longer, unless the writer has it already. So a disk that hangs
// keeps no more of them than there are callers.
func (d *door) leave(q *request) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if i := slices.Index(d.queue, q); i >= 0 {
		d.queue = slices.Delete(d.queue, i, i+1)
	}
}

// await reports whether n requests are there; if not, wake says when they are.
func (d *door) await(n int) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	select {
	case <-d.wake: // of an earlier wish
	default:
	}
	if len(d.queue) >= n {
		return true
	}
	d.need = n
	return false
}

// take moves requests to a batch, as many as one may have. Nobody wakes the writer until it awaits again.
func (d *door) take(batch []*request) []*request {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := min(len(d.queue), maxBatch-len(batch))
	batch = append(batch, d.queue[:n]...)
	d.queue = slices.Delete(d.queue, 0, n)
	d.need = math.MaxInt
	return batch
}

// close lets nobody in any more and returns who still waits.
func (d *door) close() []*request {
	d.mu.Lock()
	defer d.mu.Unlock()
	left := d.queue
	d.queue, d.closed = nil, true
	return left
}

const (
	linger    = time.Millisecond // how long a group waits at most for more records
	enough    = 32               // records that are not worth waiting for more
	maxPasses = 64               // groups that do not wait after waiting was in vain
)

// company is what the writer knows of how many callers come at once.
type company struct {
	timer  *time.Timer
	expect int // how many came together last
	vain   int // groups to pass without waiting after the last time it was in vain
	passes int // of these, still to come
}

// gather takes in who waits and who is about to come. A sync costs more than a signature, and callers whose answer has
// just gone out come back soon: so a group is kept open for as many as there were lately, in the group before and at
// the door when that was done. Who is alone never waits for anybody, and after waiting in vain the next groups do not
// wait, so that a slow caller does not hold up a fast one.
func (l *Log) gather(batch []*request) []*request {
	c := &l.company
	batch = l.door.take(batch)
	missing := min(c.expect, enough) - len(batch)
	if len(batch) == 0 || missing <= 0 {
		return batch
	}
	if c.passes > 0 {
		c.passes--
		return batch
	}
	if !l.door.await(missing) {
		c.timer.Reset(linger)
		defer c.timer.Stop()
		select {
		case <-l.door.wake:
		case <-c.timer.C:
			c.vain = min(max(1, 2*c.vain), maxPasses)
			c.passes = c.vain
			return l.door.take(batch)
		case <-l.quit:
			return l.door.take(batch)
		}
	}
	c.vain = 0
	return l.door.take(batch)
}
