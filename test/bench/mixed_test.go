package bench_test

import (
	"crypto/sha512"
	"fmt"
	"net/http"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// BenchmarkMixed is what light calls suffer beside heavy ones: p99 of signing with P-256 over one and over eight
// connections, alone and beside eight more that sign with RSA-4096 without a pause, of our server and of the floor,
// which lets everybody run at once.
func BenchmarkMixed(b *testing.B) {
	dir := b.TempDir()
	ours := start(b, filepath.Join(dir, "server"))
	floor := launch(b, floorBinary, filepath.Join(dir, "floor"))
	floorTLS := trust(b, filepath.Join(dir, "floor", "tls", "ca.pem"))
	ours.call(b, http.MethodPost, "/keys/light/create", map[string]any{"kty": "EC-HSM", "crv": "P-256"}, nil)
	ours.call(b, http.MethodPost, "/keys/heavy/create", map[string]any{"kty": "RSA-HSM", "key_size": 4096}, nil)
	digest := sha512.Sum512([]byte("a document"))
	light, heavy := signBody("ES256"), map[string]any{"alg": "RS512", "value": b64(digest[:])}
	for _, row := range []struct {
		name         string
		p            *process
		connect      func() *conn
		light, heavy []byte
	}{
		{"server", ours.process, func() *conn { return ours.connect(b) },
			ours.request(b, http.MethodPost, "/keys/light/sign", light), ours.request(b, http.MethodPost, "/keys/heavy/sign", heavy)},
		{"floor", floor, func() *conn { return dial(b, floor.address, floorTLS) },
			request(b, http.MethodPost, "/", floor.address, "", light), request(b, http.MethodPost, "/", floor.address, "", heavy)},
	} {
		for _, lights := range []int{1, 8} {
			b.Run(fmt.Sprintf("%s/%d", row.name, lights), func(b *testing.B) {
				probe, crowd := make([]*conn, lights), make([]*conn, 8)
				for i := range probe {
					probe[i] = row.connect()
				}
				for i := range crowd {
					crowd[i] = row.connect()
				}
				var alone, beside, ratios, heavyRates []float64
				for range 5 * b.N {
					a := load(b, row.p, probe, [][]byte{row.light}, 1500*time.Millisecond)
					var (
						wait sync.WaitGroup
						done atomic.Bool
						n    atomic.Int64
					)
					for _, c := range crowd {
						wait.Go(func() {
							for !done.Load() {
								if status, body := c.roundTrip(b, row.heavy); status != http.StatusOK {
									b.Errorf("status %d: %s", status, body)
									return
								}
								n.Add(1)
							}
						})
					}
					m := load(b, row.p, probe, [][]byte{row.light}, heavyFor)
					done.Store(true)
					wait.Wait()
					alone, beside, ratios = append(alone, micro(a.p99)), append(beside, micro(m.p99)), append(ratios, float64(m.p99)/float64(a.p99))
					heavyRates = append(heavyRates, float64(n.Load())/heavyFor.Seconds())
				}
				b.Logf("%s: p99 of P-256 sign over %d connections alone %.0f µs, beside 8 × RSA-4096 %.0f µs: %.1f × (target 4; rounds %.1f); %.0f RSA-4096 signatures a second", row.name, lights, median(alone), median(beside), median(ratios), ratios, median(heavyRates))
				report(b, map[string]float64{"µs-p99-alone": median(alone), "µs-p99-beside": median(beside), "ratio": median(ratios), "heavy/s": median(heavyRates)})
			})
		}
	}
}

const heavyFor = 2500 * time.Millisecond

// BenchmarkConcurrency is throughput and waiting with 1 to 64 connections.
func BenchmarkConcurrency(b *testing.B) {
	s := start(b, filepath.Join(b.TempDir(), "server"))
	s.call(b, http.MethodPost, "/keys/k/create", map[string]any{"kty": "EC-HSM", "crv": "P-256"}, nil)
	requests := [][]byte{s.request(b, http.MethodPost, "/keys/k/sign", signBody("ES256"))}
	var connections []*conn
	for n := 1; n <= 64; n *= 2 {
		for len(connections) < n {
			connections = append(connections, s.connect(b))
		}
		load(b, s.process, connections, requests, 200*time.Millisecond)
		var rates, p50s, p99s, cpus []float64
		for range 3 * b.N {
			r := load(b, s.process, connections, requests, time.Second)
			rates, p50s, p99s, cpus = append(rates, r.rate), append(p50s, micro(r.p50)), append(p99s, micro(r.p99)), append(cpus, micro(r.cpu))
		}
		b.Logf("%2d connections: %6.0f signatures a second, p50 %5.0f µs, p99 %6.0f µs, server CPU %.1f µs", n, median(rates), median(p50s), median(p99s), median(cpus))
	}
	report(b, nil)
}
