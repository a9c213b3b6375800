package bench_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// BenchmarkScale fills one HSM with more and more P-256 keys and looks at each size, after a restart: how long the start
// takes, what the server weighs, what get and sign cost, of ten keys that are used again and again and of all keys at
// random, and what a page of a list takes.
func BenchmarkScale(b *testing.B) {
	dir := filepath.Join(b.TempDir(), "server")
	const hot = 10
	name := func(i int) string { return fmt.Sprintf("key-%06d", i) }
	var baseGet, baseSign float64
	have := 0
	for _, size := range []int{hot, 1_000, 10_000, 100_000} {
		s := start(b, dir)
		begun := time.Now()
		fill(b, s, name, have, size)
		filled := time.Since(begun)
		have = size
		s.stop()

		s = start(b, dir)
		atStart, _ := memory(b, s.cmd.Process.Pid)
		var connections []*conn
		for range 8 {
			connections = append(connections, s.connect(b))
		}
		// over makes requests of so many keys, spread over all.
		over := func(n int, method, operation string, body any) (list [][]byte) {
			for i := range n {
				list = append(list, s.request(b, method, "/keys/"+name(i*(size/n))+operation, body))
			}
			rand.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
			return list
		}
		measure := func(requests [][]byte) float64 {
			load(b, s.process, connections, requests, 500*time.Millisecond)
			var cpus []float64
			for range 5 {
				cpus = append(cpus, micro(load(b, s.process, connections, requests, 600*time.Millisecond).cpu))
			}
			return median(cpus)
		}
		get, sign := measure(over(hot, http.MethodGet, "", nil)), measure(over(hot, http.MethodPost, "/sign", signBody("ES256")))
		if size == hot {
			baseGet, baseSign = get, sign
		}
		many := min(size, 20_000) // of the requests that are kept ready here
		getAny, signAny := measure(over(many, http.MethodGet, "", nil)), measure(over(many, http.MethodPost, "/sign", signBody("ES256")))

		var page struct {
			Value    []json.RawMessage `json:"value"`
			NextLink string            `json:"nextLink"`
		}
		s.call(b, http.MethodGet, "/keys?maxresults=5", nil, &page)
		first := load(b, s.process, connections[:1], [][]byte{s.request(b, http.MethodGet, "/keys", nil)}, time.Second)
		token := b64([]byte(name(size / 2)))
		middle := load(b, s.process, connections[:1], [][]byte{s.request(b, http.MethodGet, "/keys?$skiptoken="+token, nil)}, time.Second)
		resident, own := memory(b, s.cmd.Process.Pid)
		info, err := os.Stat(filepath.Join(dir, "data", "strongroom.db"))
		if err != nil {
			b.Fatal(err)
		}
		b.Logf("%6d keys (made %.0f a second, database %d MB): start %.2f s; memory %.0f MB at the start, %.0f MB under load, %.0f of it its own; ten keys: get %.1f µs of CPU (%.2f ×), sign %.1f µs (%.2f ×); all keys: get %.1f µs, sign %.1f µs; page: first %.0f µs of CPU (p50 %.0f µs), middle %.0f µs (p50 %.0f µs)",
			size, float64(size)/filled.Seconds(), info.Size()>>20, s.started.Seconds(), atStart, resident, own, get, get/baseGet, sign, sign/baseSign, getAny, signAny,
			micro(first.cpu), micro(first.p50), micro(middle.cpu), micro(middle.p50))
		if len(page.Value) != 5 || size > 5 && !strings.Contains(page.NextLink, "skiptoken") {
			b.Fatalf("a page has %d keys and the next link %q", len(page.Value), page.NextLink)
		}
		for _, c := range connections {
			_ = c.Close()
		}
		s.stop()
	}
	report(b, nil)
}

// fill makes the keys from one number to another.
func fill(b *testing.B, s *server, name func(int) string, from, to int) {
	b.Helper()
	var next atomic.Int64
	next.Store(int64(from))
	var wait sync.WaitGroup
	for range 64 {
		c := s.connect(b)
		wait.Go(func() {
			defer c.Close()
			for i := int(next.Add(1) - 1); i < to; i = int(next.Add(1) - 1) {
				if status, body := c.roundTrip(b, s.request(b, http.MethodPost, "/keys/"+name(i)+"/create", map[string]any{"kty": "EC-HSM", "crv": "P-256"})); status != http.StatusOK {
					b.Errorf("create %s: %d %s", name(i), status, body)
					return
				}
			}
		})
	}
	wait.Wait()
	if b.Failed() {
		b.FailNow()
	}
}
