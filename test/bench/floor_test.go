package bench_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

const (
	// A comparison takes turns often, because the machine's other work comes and goes; the medians count.
	rounds = 25
	slice  = 400 * time.Millisecond
)

// operations are what the floor does too.
var operations = []struct {
	name   string
	create map[string]any
	path   string // behind the key
	body   map[string]any
	target float64 // how many times the floor's CPU it may take
}{
	{"RSA-2048-sign", map[string]any{"kty": "RSA-HSM", "key_size": 2048}, "/sign", signBody("RS256"), 1.10},
	{"P-256-sign", map[string]any{"kty": "EC-HSM", "crv": "P-256"}, "/sign", signBody("ES256"), 1.30},
	{"AES-GCM-1KB", map[string]any{"kty": "oct-HSM", "key_size": 256}, "/encrypt", map[string]any{"alg": "A256GCM", "value": b64(bytes.Repeat([]byte{7}, 1024))}, 1.35},
}

func signBody(alg string) map[string]any {
	digest := sha256.Sum256([]byte("a document"))
	return map[string]any{"alg": alg, "value": b64(digest[:])}
}

func b64(data []byte) string { return base64.RawURLEncoding.EncodeToString(data) }

// BenchmarkFloor compares the CPU that our server takes for a request with that of the floor, which does the same
// cryptography and nothing else: the same TLS, the same eight connections, the same bytes sent (the floor gets the
// token too, and does not look at it), in turns. The clock is the process's own; wall time is reported beside it.
func BenchmarkFloor(b *testing.B) {
	dir := b.TempDir()
	ours := start(b, filepath.Join(dir, "server"))
	floor := launch(b, floorBinary, filepath.Join(dir, "floor"))
	floorTLS := trust(b, filepath.Join(dir, "floor", "tls", "ca.pem"))
	var toOurs, toFloor []*conn
	for range 8 {
		toOurs, toFloor = append(toOurs, ours.connect(b)), append(toFloor, dial(b, floor.address, floorTLS))
	}
	for _, o := range operations {
		b.Run(o.name, func(b *testing.B) {
			ours.call(b, http.MethodPost, "/keys/"+o.name+"/create", o.create, nil)
			path := "/keys/" + o.name + o.path
			mine := [][]byte{ours.request(b, http.MethodPost, path, o.body)}
			theirs := [][]byte{request(b, http.MethodPost, path, floor.address, ours.token, o.body)}
			var floors, servers, ratios, p50s, p99s, floor50, floor99 []float64
			for round := range rounds * b.N {
				if round == 0 { // warm up: keys opened, connections used
					load(b, floor, toFloor, theirs, slice)
					load(b, ours.process, toOurs, mine, slice)
				}
				var f, s result
				if round%2 == 0 { // whoever comes second has no advantage
					f = load(b, floor, toFloor, theirs, slice)
					s = load(b, ours.process, toOurs, mine, slice)
				} else {
					s = load(b, ours.process, toOurs, mine, slice)
					f = load(b, floor, toFloor, theirs, slice)
				}
				floors, servers, ratios = append(floors, micro(f.cpu)), append(servers, micro(s.cpu)), append(ratios, float64(s.cpu)/float64(f.cpu))
				p50s, p99s = append(p50s, micro(s.p50)), append(p99s, micro(s.p99))
				floor50, floor99 = append(floor50, micro(f.p50)), append(floor99, micro(f.p99))
			}
			slices.Sort(ratios)
			b.Logf("%s: floor %.1f µs of CPU, server %.1f µs, ratio %.2f (target %.2f; the middle half of %d rounds %.2f to %.2f); wall p50 %.0f and %.0f µs, p99 %.0f and %.0f µs",
				o.name, median(floors), median(servers), median(ratios), o.target, len(ratios), ratios[len(ratios)/4], ratios[len(ratios)*3/4], median(floor50), median(p50s), median(floor99), median(p99s))
			report(b, map[string]float64{"µs-CPU-floor": median(floors), "µs-CPU-server": median(servers), "ratio": median(ratios), "µs-p50": median(p50s), "µs-p99": median(p99s)})
		})
	}
}

// report prints figures instead of the time of one iteration, which means nothing here.
func report(b *testing.B, metrics map[string]float64) {
	for name, value := range metrics {
		b.ReportMetric(value, name)
	}
	b.ReportMetric(0, "ns/op")
}
