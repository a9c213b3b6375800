// Package limit keeps a server up when more is asked of it than it can do: a bounded number of requests of one HSM run
// at once, a bounded number wait for a bounded time, each principal has a rate, and what is beyond is refused at
// once, with a time after which to come back. It counts and decides; it knows neither HTTP nor what the requests do.
package limit

import (
	"context"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"strongroom/internal/failure"
)

// Config bounds. Every field has a default for 0.
type Config struct {
	Running    int           // requests of one HSM at once; 256
	Waiting    int           // requests of one HSM that wait for those; 1,024
	Patience   time.Duration // how long one waits; 5 s
	Rate       float64       // requests of one principal per second; 5,000; below 0: no bound
	Burst      int           // requests that a principal may make at once after a rest; one second's worth
	Uploads    int           // large bodies that are held at once; 16, and of one principal a quarter of them
	Principals int           // principals that are remembered; 10,000. Beyond, those that were not seen for longest start afresh
}

// RetryAfter is when whoever is refused should come back.
const RetryAfter = time.Second

// Limiter is safe for concurrent use.
type Limiter struct {
	cfg Config
	now func() time.Time

	mu         sync.Mutex
	gates      map[string]*gate // by HSM
	young, old map[string]*rate.Limiter
	uploads    map[string]int // by principal, of those that have some
	uploading  int            // all of them
}

// gate is the places of one HSM.
type gate struct {
	running chan struct{}
	waiting chan struct{} // places to wait in; those that run have given theirs back
}

// New returns a limiter that goes by the given clock.
func New(cfg Config, now func() time.Time) *Limiter {
	def := func(v *int, d int) {
		if *v == 0 {
			*v = d
		}
	}
	def(&cfg.Running, 256)
	def(&cfg.Waiting, 1024)
	def(&cfg.Uploads, 16)
	def(&cfg.Principals, 10_000)
	if cfg.Patience == 0 {
		cfg.Patience = 5 * time.Second
	}
	if cfg.Rate == 0 {
		cfg.Rate = 5000
	}
	def(&cfg.Burst, max(1, int(cfg.Rate)))
	return &Limiter{cfg: cfg, now: now, gates: map[string]*gate{}, young: map[string]*rate.Limiter{}, uploads: map[string]int{}}
}

// Allow charges a principal for one request. It is a failure.Throttled once the principal's rate is used up; that
// holds nobody else up.
func (l *Limiter) Allow(principal string) error {
	if l.cfg.Rate < 0 {
		return nil
	}
	if !l.bucket(principal).AllowN(l.now(), 1) {
		return failure.New(failure.Throttled, "this principal made more than %.0f requests per second, the limit of this server; come back in a second, and spread the requests", l.cfg.Rate)
	}
	return nil
}

// bucket finds or makes the bucket of a principal. There are two maps; when the young one is full it becomes the old
// one, whose entries come back when they are used.
func (l *Limiter) bucket(principal string) *rate.Limiter {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.young[principal]
	if b != nil {
		return b
	}
	if b = l.old[principal]; b == nil {
		b = rate.NewLimiter(rate.Limit(l.cfg.Rate), l.cfg.Burst)
	}
	if len(l.young) >= max(1, l.cfg.Principals/2) {
		l.old, l.young = l.young, map[string]*rate.Limiter{}
	}
	l.young[principal] = b
	return b
}

// Enter waits for a place among the running requests of an HSM, which has to be one that exists. On success the
// caller calls leave when the request is done. It is a failure.Unavailable at once if too many wait already, after
// Patience if no place came free, or with ctx.
func (l *Limiter) Enter(ctx context.Context, hsm string) (leave func(), err error) {
	g := l.gate(hsm)
	leave = g.leave
	select {
	case g.running <- struct{}{}: // the usual case
		return leave, nil
	default:
	}
	select {
	case g.waiting <- struct{}{}:
	default:
		return nil, failure.Coded(failure.Unavailable, "ServerBusy", "this HSM has more requests to do than it can, and as many waiting as may; come back in a second")
	}
	defer func() { <-g.waiting }()
	patience := time.NewTimer(l.cfg.Patience)
	defer patience.Stop()
	select {
	case g.running <- struct{}{}:
		return leave, nil
	case <-patience.C:
		return nil, failure.Coded(failure.Unavailable, "ServerBusy", "this HSM was too busy for this request for %s; come back in a second", l.cfg.Patience)
	case <-ctx.Done():
		return nil, failure.Wrap(failure.Unavailable, ctx.Err(), "the request was given up before its turn came")
	}
}

// Upload takes a place for a body so large that a few of them fill the memory, before it is read. It waits for
// nothing: without a place it is a failure.Unavailable. On success the caller calls done when the body is gone.
func (l *Limiter) Upload(principal string) (done func(), err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.uploading >= l.cfg.Uploads || l.uploads[principal] >= max(1, l.cfg.Uploads/4) {
		return nil, failure.Coded(failure.Unavailable, "ServerBusy", "this server reads as many large bodies as it may, of this principal or of all; send them one after the other, and come back in a second")
	}
	l.uploading++
	l.uploads[principal]++
	return sync.OnceFunc(func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.uploading--
		if l.uploads[principal]--; l.uploads[principal] == 0 {
			delete(l.uploads, principal)
		}
	}), nil
}

func (g *gate) leave() { <-g.running }

func (l *Limiter) gate(hsm string) *gate {
	l.mu.Lock()
	defer l.mu.Unlock()
	g := l.gates[hsm]
	if g == nil {
		g = &gate{running: make(chan struct{}, l.cfg.Running), waiting: make(chan struct{}, l.cfg.Waiting)}
		l.gates[hsm] = g
	}
	return g
}

// Forget drops the places of an HSM that is gone for good. Requests that still have one give it back as ever.
func (l *Limiter) Forget(hsm string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.gates, hsm)
}
