package bench_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// BenchmarkScale makes HSMs with more and more P-256 keys and looks at each, after a restart: how long the start
// takes, what the server weighs, what get and sign cost, of ten keys that are used again and again and of all keys at
// random, and what a page of a list takes. Beside each runs a server whose HSM has ten keys. The two are loaded in turns, and
// what counts is the median of the ratios. SCALE_DATA names a folder that keeps the keys for the next time.
func BenchmarkScale(b *testing.B) {
	const hot, turns = 10, 9
	name := func(i int) string { return fmt.Sprintf("key-%06d", i) }
	folder := os.Getenv("SCALE_DATA")
	if folder == "" {
		folder = b.TempDir()
	}
	// serve starts a server with so many keys, and says at which rate they were made, or that they were there.
	serve := func(kind string, size int) (s *server, dir, made string) {
		dir, made = filepath.Join(folder, kind), "kept"
		mark := filepath.Join(dir, "filled")
		if _, err := os.Stat(mark); err != nil {
			s, begun := start(b, dir), time.Now()
			fill(b, s, name, 0, size)
			made = fmt.Sprintf("%.0f made a second", float64(size)/time.Since(begun).Seconds())
			s.stop()
			if err := os.WriteFile(mark, nil, 0o600); err != nil {
				b.Fatal(err)
			}
		}
		return start(b, dir), dir, made
	}
	// requests of so many keys, spread over all, once for each or more often: so often that there are some 20,000, so that
	// the client has much to go through for ten keys too.
	requests := func(s *server, times, n, size int, method, operation string, body any) (list [][]byte) {
		for range times {
			for i := range n {
				list = append(list, s.request(b, method, "/keys/"+name(i*(size/n))+operation, body))
			}
		}
		rand.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
		return list
	}
	connect := func(s *server) (connections []*conn) {
		for range 8 {
			connections = append(connections, s.connect(b))
		}
		return connections
	}
	few, _, _ := serve("few", hot)
	toFew := connect(few)
	for _, size := range []int{hot, 1_000, 10_000, 100_000} {
		s, dir, made := serve(strconv.Itoa(size), size)
		atStart, _ := memory(b, s.cmd.Process.Pid)
		connections := connect(s)
		var lines []string
		for _, o := range []struct {
			name, method, operation string
			body                    any
		}{{"get", http.MethodGet, "", nil}, {"sign", http.MethodPost, "/sign", signBody("ES256")}} {
			base := requests(few, 2000, hot, hot, o.method, o.operation, o.body)
			ten := requests(s, 2000, hot, size, o.method, o.operation, o.body)
			all := requests(s, max(1, 20_000/size), size, size, o.method, o.operation, o.body)
			first := once(b, s.process, connections, requests(s, 1, size, size, o.method, o.operation, o.body))
			most, mostOwn := memory(b, s.cmd.Process.Pid)
			once(b, few.process, toFew, base)
			var of [3][]float64 // CPU, of few, ten and all
			var ratio [3][]float64
			for range turns {
				turn := []float64{
					micro(load(b, few.process, toFew, base, 500*time.Millisecond).cpu),
					micro(load(b, s.process, connections, ten, 500*time.Millisecond).cpu),
					micro(load(b, s.process, connections, all, 500*time.Millisecond).cpu),
				}
				for i := range turn {
					of[i], ratio[i] = append(of[i], turn[i]), append(ratio[i], turn[i]/turn[0])
				}
			}
			slices.Sort(ratio[2])
			lines = append(lines, fmt.Sprintf("%s: the few %.1f µs, ten of these %.1f µs (%.2f ×), all at random %.1f µs (%.2f ×, middle half %.2f to %.2f), each for the first time %.1f µs, then %.0f MB, %.0f of it its own",
				o.name, median(of[0]), median(of[1]), median(ratio[1]), median(of[2]), median(ratio[2]), ratio[2][turns/4], ratio[2][turns-1-turns/4], first, most, mostOwn))
		}
		resident, own := memory(b, s.cmd.Process.Pid)

		var page struct {
			Value    []json.RawMessage `json:"value"`
			NextLink string            `json:"nextLink"`
		}
		s.call(b, http.MethodGet, "/keys?maxresults=5", nil, &page)
		first := load(b, s.process, connections[:1], [][]byte{s.request(b, http.MethodGet, "/keys", nil)}, time.Second)
		token := b64([]byte(name(size / 2)))
		middle := load(b, s.process, connections[:1], [][]byte{s.request(b, http.MethodGet, "/keys?$skiptoken="+token, nil)}, time.Second)
		info, err := os.Stat(filepath.Join(dir, "data", "strongroom.db"))
		if err != nil {
			b.Fatal(err)
		}
		b.Logf("%6d keys (%s, database %d MB): start %.2f s; memory %.0f MB at the start, %.0f MB under load, %.0f of it its own; %s; page: first %.0f µs of CPU (p50 %.0f µs), middle %.0f µs (p50 %.0f µs)",
			size, made, info.Size()>>20, s.started.Seconds(), atStart, resident, own, strings.Join(lines, "; "), micro(first.cpu), micro(first.p50), micro(middle.cpu), micro(middle.p50))
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

// once sends each request one time, and returns the CPU of the server for one, in µs.
func once(b *testing.B, p *process, connections []*conn, requests [][]byte) float64 {
	b.Helper()
	before := p.cpu(b)
	var wait sync.WaitGroup
	for i, c := range connections {
		wait.Go(func() {
			for n := i; n < len(requests); n += len(connections) {
				if status, body := c.roundTrip(b, requests[n]); status != http.StatusOK {
					b.Errorf("status %d: %s", status, body)
					return
				}
			}
		})
	}
	wait.Wait()
	if b.Failed() {
		b.FailNow()
	}
	return micro(p.cpu(b)-before) / float64(len(requests))
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
