package bench_test

import (
	"net/http"
	"path/filepath"
	"testing"
	"time"
)

// BenchmarkAudit is what the audit log costs a P-256 signature: CPU beside the floor with 8 connections, and throughput
// and waiting with 64 connections beside a server whose audit log is off, in turns.
func BenchmarkAudit(b *testing.B) {
	dir := b.TempDir()
	on, off := startWith(b, filepath.Join(dir, "on"), ""), start(b, filepath.Join(dir, "off"))
	floor := launch(b, floorBinary, filepath.Join(dir, "floor"))
	floorTLS := trust(b, filepath.Join(dir, "floor", "tls", "ca.pem"))
	requests := map[*server][][]byte{}
	connections := map[*server][]*conn{}
	for _, s := range []*server{on, off} {
		s.call(b, http.MethodPost, "/keys/k/create", map[string]any{"kty": "EC-HSM", "crv": "P-256"}, nil)
		requests[s] = [][]byte{s.request(b, http.MethodPost, "/keys/k/sign", signBody("ES256"))}
		for range 64 {
			connections[s] = append(connections[s], s.connect(b))
		}
	}
	var toFloor []*conn
	for range 8 {
		toFloor = append(toFloor, dial(b, floor.address, floorTLS))
	}
	plain := [][]byte{request(b, http.MethodPost, "/", floor.address, on.token, signBody("ES256"))}
	var ratios, cpus, rates, ratesOff, share, p50s, p50sOff, p99s, p99sOff []float64
	for range 12 * b.N {
		f := load(b, floor, toFloor, plain, slice)
		s := load(b, on.process, connections[on][:8], requests[on], slice)
		ratios, cpus = append(ratios, float64(s.cpu)/float64(f.cpu)), append(cpus, micro(s.cpu))
		with := load(b, on.process, connections[on], requests[on], time.Second)
		without := load(b, off.process, connections[off], requests[off], time.Second)
		rates, ratesOff, share = append(rates, with.rate), append(ratesOff, without.rate), append(share, with.rate/without.rate)
		p50s, p50sOff, p99s, p99sOff = append(p50s, micro(with.p50)), append(p50sOff, micro(without.p50)), append(p99s, micro(with.p99)), append(p99sOff, micro(without.p99))
	}
	b.Logf("audit on, 8 connections: %.1f µs of CPU, %.2f × the floor (target 1.8)", median(cpus), median(ratios))
	b.Logf("64 connections: audit on %.0f a second, p50 %.0f µs, p99 %.0f µs; off %.0f a second, p50 %.0f µs, p99 %.0f µs; on is %.2f × off (target 0.8)",
		median(rates), median(p50s), median(p99s), median(ratesOff), median(p50sOff), median(p99sOff), median(share))
	report(b, map[string]float64{"µs-CPU": median(cpus), "ratio": median(ratios), "throughput": median(share)})
}
