package software

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"strongroom/internal/engine"
	"strongroom/secret"
)

// BenchmarkSign shows what the cache saves: a signature with a key that is open, and with one that is opened first.
func BenchmarkSign(b *testing.B) {
	for _, row := range []struct {
		spec engine.Spec
		alg  string
	}{
		{engine.Spec{Type: engine.EC, Curve: engine.P256}, "ES256"},
		{engine.Spec{Type: engine.EC, Curve: engine.P256K}, "ES256K"},
		{engine.Spec{Type: engine.EC, Curve: engine.P384}, "ES384"},
		{engine.Spec{Type: engine.RSA, Bits: 2048}, "RS256"},
		{engine.Spec{Type: engine.RSA, Bits: 4096}, "RS256"},
		{engine.Spec{Type: engine.Oct, Bits: 256}, "HS256"},
	} {
		for _, kept := range []int{1, 0} {
			b.Run(fmt.Sprintf("%s %d %s/cached=%t", row.alg, row.spec.Bits, row.spec.Curve, kept == 1), func(b *testing.B) {
				e, err := New(secret.New(make([]byte, 32)), secret.New(make([]byte, 32)), opened(b).rand, Cache(kept, time.Hour))
				if err != nil {
					b.Fatal(err)
				}
				defer e.Close()
				ref := generated(b, e, row.spec)
				digest := make([]byte, algorithms[row.alg].hash.Size())
				b.ReportAllocs()
				for b.Loop() {
					if _, err := e.Sign(b.Context(), ref, row.alg, digest); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

func generated(b *testing.B, e engine.Engine, spec engine.Spec) engine.Ref {
	b.Helper()
	made, err := e.Generate(b.Context(), spec, nil)
	if err != nil {
		b.Fatal(err)
	}
	return engine.Ref{Type: spec.Type, Bits: spec.Bits, Curve: spec.Curve, Sealed: made.Sealed}
}

// BenchmarkMixed shows what the lanes are for: the time of a signature with P-256, alone and beside eight callers
// who sign with RSA-4096 without a pause, with lanes and without.
func BenchmarkMixed(b *testing.B) {
	for _, row := range []struct {
		name   string
		heavy  int
		places int // 0: as New has it
	}{{"alone", 0, 0}, {"beside 8 heavy", 8, 0}, {"beside 8 heavy without lanes", 8, 100}} {
		b.Run(row.name, func(b *testing.B) {
			s := opened(b)
			if row.places > 0 {
				s.lanes.heavy = make(chan struct{}, row.places)
			}
			light := generated(b, s, engine.Spec{Type: engine.EC, Curve: engine.P256})
			digest := make([]byte, 32)
			ctx, stop := context.WithCancel(b.Context())
			var wg sync.WaitGroup
			if row.heavy > 0 {
				ref := generated(b, s, engine.Spec{Type: engine.RSA, Bits: 4096})
				for range row.heavy {
					wg.Go(func() {
						for ctx.Err() == nil {
							if _, err := s.Sign(ctx, ref, "RS256", digest); err != nil && ctx.Err() == nil {
								b.Error(err)
							}
						}
					})
				}
			}
			var took []time.Duration
			for b.Loop() {
				start := time.Now()
				if _, err := s.Sign(b.Context(), light, "ES256", digest); err != nil {
					b.Fatal(err)
				}
				took = append(took, time.Since(start))
			}
			stop()
			wg.Wait()
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
			b.ReportMetric(float64(took[len(took)*999/1000].Microseconds()), "p99.9-µs")
		})
	}
}
