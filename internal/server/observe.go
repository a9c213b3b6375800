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
		Tokens: s.verifier.Counts,
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
