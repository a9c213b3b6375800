package server

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// pipes is a listener whose connections stay in the process, so that time on them can be the test's own.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { p.once.Do(func() { close(p.closed) }); return nil }
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{} }

// selfSigned is a certificate that holds at any time.
func selfSigned(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"localhost"}, NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<33, 0)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	must(t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// Covers R4, and the slow bodies of bad input: a client that sends or reads slowly holds a connection for so long and no
// longer, by the time-outs that every port of the server has. Time is the test's: nothing waits.
func TestSlowClientsAreCutOff(t *testing.T) {
	cert := selfSigned(t)
	post := func(length int) string {
		return fmt.Sprintf("POST /keys/k/sign HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n", length)
	}
	slowly := func(c net.Conn, text string, every time.Duration) {
		for i := range len(text) {
			if _, err := io.WriteString(c, text[i:i+1]); err != nil {
				return
			}
			time.Sleep(every)
		}
	}
	for name, row := range map[string]struct {
		client func(c net.Conn)
		reads  bool          // the client reads what comes
		ends   time.Duration // when the server has hung up
		answer string        // the first line that came, up to the status; "" is nothing
		read   string        // what the handler got of the body; "-" if it was not called
	}{
		"a body of one byte a second": {func(c net.Conn) {
			_, _ = io.WriteString(c, post(1000))
			slowly(c, strings.Repeat("x", 1000), time.Second)
		}, true, 30 * time.Second, "HTTP/1.1 400", "broken"},
		"a body that never comes": {func(c net.Conn) { _, _ = io.WriteString(c, post(1000)) }, true, 30 * time.Second, "HTTP/1.1 400", "broken"},
		"chunks of one byte a second": {func(c net.Conn) {
			_, _ = io.WriteString(c, "POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
			for range 100 {
				if _, err := io.WriteString(c, "1\r\nx\r\n"); err != nil {
					return
				}
				time.Sleep(time.Second)
			}
		}, true, 30 * time.Second, "HTTP/1.1 400", "broken"},
		"a slow body that comes in time": {func(c net.Conn) {
			_, _ = io.WriteString(c, post(20))
			slowly(c, strings.Repeat("x", 20), time.Second)
		}, true, 19*time.Second + 2*time.Minute, "HTTP/1.1 200", "20 bytes"},
		"a header of one byte a second": {func(c net.Conn) { slowly(c, post(1000), time.Second) }, true, 10 * time.Second, "HTTP/1.1 400", "-"},
		"no header at all":              {func(net.Conn) {}, true, 10 * time.Second, "", "-"},
		"an answer that nobody reads": {func(c net.Conn) {
			_, _ = io.WriteString(c, "GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n")
		}, false, 2 * time.Minute, "", "0 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				read := "-"
				handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 64<<10))
					if read = fmt.Sprint(len(body), " bytes"); err != nil {
						read = "broken"
						w.WriteHeader(http.StatusBadRequest)
					}
					if r.URL.Path == "/large" {
						_, _ = w.Write(make([]byte, 1<<20))
					}
				})
				l := newListeners("localhost", &tls.Config{Certificates: []tls.Certificate{cert}}, slog.New(slog.DiscardHandler))
				port := &pipes{conns: make(chan net.Conn), closed: make(chan struct{})}
				l.reserved[1] = port
				must(t, l.serve(1, handler))
				near, far := net.Pipe()
				port.conns <- far
				conn := tls.Client(near, &tls.Config{InsecureSkipVerify: true})
				must(t, conn.Handshake())
				begun := time.Now()
				sent := make(chan struct{})
				go func() { defer close(sent); row.client(conn) }()
				line, ended := "", time.Duration(0)
				if row.reads {
					in := bufio.NewReader(conn)
					line, _ = in.ReadString('\n')
					_, _ = io.Copy(io.Discard, in)
					ended = time.Since(begun)
				} else {
					// Nobody reads until the server must have given up; then there is an end, after less than all.
					<-sent
					time.Sleep(row.ends + 10*time.Second)
					n, _ := io.Copy(io.Discard, conn)
					if ended = time.Since(begun) - 10*time.Second; n >= 1<<20 {
						t.Error("the whole answer waited for its reader")
					}
				}
				if !strings.HasPrefix(line, row.answer) || row.answer == "" && line != "" {
					t.Errorf("the answer begins with %q, want %q", line, row.answer)
				}
				if ended < row.ends || ended > row.ends+time.Second {
					t.Errorf("it ends after %v, want %v", ended, row.ends)
				}
				if read != row.read {
					t.Errorf("the handler read %s, want %s", read, row.read)
				}
				_ = near.Close()
				<-sent
				l.shutdown(context.Background())
			})
		})
	}
}
