package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"strongroom/internal/limit"
	"strongroom/internal/metrics"
)

// limiter is the bounds of the configuration.
func (c Config) limiter() *limit.Limiter {
	return limit.New(limit.Config{Running: c.Limits.Running, Waiting: c.Limits.Waiting, Rate: float64(c.Limits.RequestsPerSecond)}, time.Now)
}

// sources is what a scrape asks of the server.
func (s *Server) sources(version string) metrics.Sources {
	var state func() metrics.Audit
	if s.audit != nil {
		state = s.audit.state
	}
	return metrics.Sources{
		Version: version, Audit: state,
		Tokens:  s.verifier.Counts,
		Backups: s.backupStates,
		HSMs: func() (list []metrics.HSM) {
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			defer cancel()
			living, err := s.hsms.List(ctx, false)
			if err != nil {
				s.log.ErrorContext(ctx, "the HSMs cannot be listed for a scrape", "error", err)
			}
			for _, i := range living {
				keys, err := s.hsms.CountKeys(ctx, i.Name)
				if err != nil {
					keys = -1
				}
				list = append(list, metrics.HSM{Name: i.Name, State: string(i.State), Keys: keys})
			}
			return list
		},
	}
}

// backupStates tell how the schedules stand. One that never was done is as old as the process.
func (s *Server) backupStates() (list []metrics.Backup) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	states, err := s.backups.States(ctx, s.schedules)
	if err != nil {
		s.log.ErrorContext(ctx, "the schedules of backups cannot be read for a scrape", "error", err)
	}
	now := time.Now()
	for _, one := range states {
		since := one.Verified
		if since.IsZero() {
			since = s.begun
		}
		list = append(list, metrics.Backup{HSM: one.HSM, To: one.URI, Age: now.Sub(since), Every: one.Every, Failures: one.Failures})
	}
	return list
}

// serveMetrics answers scrapes on an address of their own until stop is called. Without one in the configuration it
// does nothing.
func (s *Server) serveMetrics() (stop func(), err error) {
	if s.cfg.Metrics.Listen == "" {
		return func() {}, nil
	}
	listener, err := net.Listen("tcp", s.cfg.Metrics.Listen)
	if err != nil {
		return nil, fmt.Errorf("[metrics] listen: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", s.metrics.Handler())
	server := &http.Server{Handler: mux, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: maxHeader}
	go func() {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			s.log.Error("metrics are not served any more", "error", err)
		}
	}()
	s.log.Info("metrics", "address", listener.Addr().String())
	return func() { _ = server.Close() }, nil
}
