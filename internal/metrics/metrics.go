// Package metrics counts what a server does, in the form that Prometheus reads. Labels are the names of HSMs and of
// operations, status codes, and places of the configuration, all from bounded sets: nothing that a caller sends becomes one.
package metrics

import (
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// HSM is what is shown of one HSM.
type HSM struct {
	Name, State string
	Keys        int // deleted ones too; below 0: not known
}

// Sources are asked at every scrape. Nil ones are left out.
type Sources struct {
	Version string
	HSMs    func() []HSM
	// Tokens says how many tokens were answered for from the cache, and how many had their signature checked.
	Tokens func() (remembered, verified uint64)
	// Audit says how the audit log is.
	Audit func() Audit
	// Backups says how the schedules of backups stand.
	Backups func() []Backup
}

// Backup is what is shown of one schedule.
type Backup struct {
	HSM, To    string
	Age, Every time.Duration // since the newest backup that was read back; from one to the next
	Failures   int64
}

// Audit is what is shown of the audit log.
type Audit struct {
	Waiting    int   // records that wait to be durable
	Failed     bool  // the last one could not be
	Unrecorded int64 // calls of strangers, and throttled ones, beyond the rate at which they are recorded
}

// Metrics is safe for concurrent use.
type Metrics struct {
	registry *prometheus.Registry
	requests *prometheus.CounterVec
	took     *prometheus.HistogramVec
	running  prometheus.Gauge
}

// states are those an HSM can be in; each is shown, one of them as 1.
var states = []string{"provisioned", "recovering", "activated"}

// New returns metrics in a registry of their own.
func New(s Sources) *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "strongroom_requests_total", Help: "Requests by HSM, operation and status code."}, []string{"hsm", "operation", "code"}),
		took: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "strongroom_request_duration_seconds", Help: "Time from the request's header to the end of the answer.",
			Buckets: []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}}, []string{"operation"}),
		running: prometheus.NewGauge(prometheus.GaugeOpts{Name: "strongroom_requests_running", Help: "Requests under way."}),
	}
	info := prometheus.NewGauge(prometheus.GaugeOpts{Name: "strongroom_build_info", Help: "1, with the version.", ConstLabels: prometheus.Labels{"version": s.Version}})
	info.Set(1)
	m.registry.MustRegister(m.requests, m.took, m.running, info, sampler{s},
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// Observe counts one request. operation is the name of a route, or "" where none was found; hsm is the name of an HSM
// that exists, or "".
func (m *Metrics) Observe(hsm, operation string, status int, took time.Duration) {
	if operation == "" {
		operation = "none"
	}
	m.requests.WithLabelValues(hsm, operation, strconv.Itoa(status)).Inc()
	m.took.WithLabelValues(operation).Observe(took.Seconds())
}

// Begin counts a request as under way until end is called.
func (m *Metrics) Begin() (end func()) {
	m.running.Inc()
	return m.running.Dec
}

// Handler answers scrapes. It is for a listener of its own: names of HSMs and the load of a server are not for everybody.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4, Timeout: 10 * time.Second})
}

// sampler asks the sources.
type sampler struct{ s Sources }

var (
	descState      = prometheus.NewDesc("strongroom_hsm_state", "1 for the state that an HSM is in.", []string{"hsm", "state"}, nil)
	descKeys       = prometheus.NewDesc("strongroom_hsm_keys", "Keys of an HSM, deleted ones too.", []string{"hsm"}, nil)
	descTokens     = prometheus.NewDesc("strongroom_tokens_total", "Checks of tokens that let somebody in, by how they were made; a request has two.", []string{"check"}, nil)
	descAge        = prometheus.NewDesc("strongroom_backup_verified_age_seconds", "Time since the newest backup by schedule that was read back without a finding was begun; since the process began if there is none.", []string{"hsm", "to"}, nil)
	descEvery      = prometheus.NewDesc("strongroom_backup_every_seconds", "Time from one backup by schedule to the next.", []string{"hsm", "to"}, nil)
	descFailures   = prometheus.NewDesc("strongroom_backup_failures_total", "Backups by schedule that failed or could not begin.", []string{"hsm", "to"}, nil)
	descWaiting    = prometheus.NewDesc("strongroom_audit_waiting", "Audit records that wait to be durable.", nil, nil)
	descFailed     = prometheus.NewDesc("strongroom_audit_failed", "1 while the audit log cannot be written and operations are refused.", nil, nil)
	descUnrecorded = prometheus.NewDesc("strongroom_audit_unrecorded_total", "Calls without a good token, and throttled ones, that came faster than they are recorded.", nil, nil)
)

// Describe says nothing beforehand: the series depend on the HSMs there are.
func (sampler) Describe(chan<- *prometheus.Desc) {}

// Collect asks.
func (c sampler) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	if c.s.HSMs != nil {
		for _, h := range c.s.HSMs() {
			for _, s := range states {
				gauge(descState, one(s == h.State), h.Name, s)
			}
			if h.Keys >= 0 {
				gauge(descKeys, float64(h.Keys), h.Name)
			}
		}
	}
	if c.s.Tokens != nil {
		remembered, verified := c.s.Tokens()
		out <- prometheus.MustNewConstMetric(descTokens, prometheus.CounterValue, float64(remembered), "remembered")
		out <- prometheus.MustNewConstMetric(descTokens, prometheus.CounterValue, float64(verified), "signature")
	}
	if c.s.Backups != nil {
		for _, b := range c.s.Backups() {
			gauge(descAge, b.Age.Seconds(), b.HSM, b.To)
			gauge(descEvery, b.Every.Seconds(), b.HSM, b.To)
			out <- prometheus.MustNewConstMetric(descFailures, prometheus.CounterValue, float64(b.Failures), b.HSM, b.To)
		}
	}
	if c.s.Audit != nil {
		a := c.s.Audit()
		gauge(descWaiting, float64(a.Waiting))
		gauge(descFailed, one(a.Failed))
		out <- prometheus.MustNewConstMetric(descUnrecorded, prometheus.CounterValue, float64(a.Unrecorded))
	}
}

func one(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
