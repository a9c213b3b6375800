package bench_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// conn is one keep-alive connection of the load. It writes requests that were made before and reads answers; the
// client of every measurement is this one.
type conn struct {
	*tls.Conn
	in *bufio.Reader
}

func dial(b *testing.B, address string, config *tls.Config) *conn {
	b.Helper()
	c, err := tls.Dial("tcp", address, config)
	if err != nil {
		b.Fatal(err)
	}
	return &conn{c, bufio.NewReader(c)}
}

func (s *server) connect(b *testing.B) *conn { return dial(b, s.address, s.tls) }

// request is a request as it goes over the wire.
func (s *server) request(b *testing.B, method, path string, body any) []byte {
	b.Helper()
	return request(b, method, path, s.host, s.token, body)
}

func request(b *testing.B, method, path, host, token string, body any) []byte {
	b.Helper()
	var text []byte
	if body != nil {
		var err error
		if text, err = json.Marshal(body); err != nil {
			b.Fatal(err)
		}
	}
	separator := "?"
	if strings.Contains(path, "?") {
		separator = "&"
	}
	var out bytes.Buffer
	fmt.Fprintf(&out, "%s %s%sapi-version=7.4 HTTP/1.1\r\nHost: %s\r\nUser-Agent: bench\r\nAccept: application/json\r\nAuthorization: Bearer %s\r\n", method, path, separator, host, token)
	if text != nil {
		fmt.Fprintf(&out, "Content-Type: application/json\r\nContent-Length: %d\r\n", len(text))
	}
	out.WriteString("\r\n")
	out.Write(text)
	return out.Bytes()
}

// roundTrip returns the status and the body.
func (c *conn) roundTrip(b *testing.B, request []byte) (int, []byte) {
	if _, err := c.Write(request); err != nil {
		b.Error(err)
		return 0, nil
	}
	resp, err := http.ReadResponse(c.in, nil)
	if err != nil {
		b.Error(err)
		return 0, nil
	}
	body, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if err != nil {
		b.Error(err)
		return 0, nil
	}
	return resp.StatusCode, body
}

// result is what a load gave.
type result struct {
	requests int
	cpu      time.Duration // of the server, per request
	rate     float64       // requests per second
	p50, p99 time.Duration // as the client waited
}

// load sends requests over connections for a while, each connection its own share of the list in turns, and reads
// the server's clock before and after. It begins somewhere in the list, so that a long one is not always begun anew.
func load(b *testing.B, p *process, connections []*conn, requests [][]byte, d time.Duration) result {
	b.Helper()
	var (
		wait  sync.WaitGroup
		mu    sync.Mutex
		times []time.Duration
	)
	first := rand.IntN(len(requests))
	before, begun := p.cpu(b), time.Now()
	for i, c := range connections {
		wait.Go(func() {
			var mine []time.Duration
			for n := first + i; time.Since(begun) < d; n += len(connections) {
				sent := time.Now()
				if status, body := c.roundTrip(b, requests[n%len(requests)]); status != http.StatusOK {
					b.Errorf("status %d: %s", status, body)
					return
				}
				mine = append(mine, time.Since(sent))
			}
			mu.Lock()
			defer mu.Unlock()
			times = append(times, mine...)
		})
	}
	wait.Wait()
	took, used := time.Since(begun), p.cpu(b)-before
	if b.Failed() || len(times) == 0 {
		b.Fatal("the load failed")
	}
	slices.Sort(times)
	return result{
		requests: len(times), cpu: used / time.Duration(len(times)), rate: float64(len(times)) / took.Seconds(),
		p50: times[len(times)/2], p99: times[len(times)*99/100],
	}
}

func median[T float64 | time.Duration](list []T) T {
	list = slices.Clone(list)
	slices.Sort(list)
	return list[len(list)/2]
}

func micro(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1000 }
