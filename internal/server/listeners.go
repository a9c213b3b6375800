package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"golang.org/x/net/netutil"
)

// Bounds on what a stranger can hold: bytes of a request header (threat rule A5), and connections of one port.
const (
	maxHeader      = 16 << 10
	maxConnections = 2048

	connectionsPerAddress = 512 // unless the configuration says otherwise
)

var errClosing = errors.New("the server is stopping")

// listeners are the open ports of a server: the main one, and in development one for each HSM. A port that is
// reserved is bound at once, so nobody can take it between the choice and the first request.
type listeners struct {
	host string
	tls  *tls.Config
	log  *slog.Logger

	addresses *addresses // who has how many connections, of all ports

	mu       sync.Mutex
	base     int                  // the main port; HSM ports come after it
	reserved map[int]net.Listener // bound, not yet serving
	serving  map[int]*http.Server // by port
	closing  bool                 // shutdown has begun: nothing is opened any more
	wait     sync.WaitGroup
	failed   chan error
}

func newListeners(host string, config *tls.Config, log *slog.Logger) *listeners {
	return &listeners{host: host, tls: config, log: log, addresses: newAddresses(connectionsPerAddress), reserved: map[int]net.Listener{}, serving: map[int]*http.Server{}, failed: make(chan error, 1)}
}

// bind binds a port (0: any) and keeps it until serve.
func (l *listeners) bind(port int) (int, error) {
	listener, err := net.Listen("tcp", net.JoinHostPort(l.host, strconv.Itoa(port)))
	if err != nil {
		return 0, err
	}
	got := listener.Addr().(*net.TCPAddr).Port
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closing {
		_ = listener.Close()
		return 0, errClosing
	}
	l.reserved[got] = netutil.LimitListener(&perAddress{listener, l.addresses}, maxConnections)
	return got, nil
}

// release gives a reserved port back that turned out not to be needed.
func (l *listeners) release(port int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if listener := l.reserved[port]; listener != nil {
		_ = listener.Close()
		delete(l.reserved, port)
	}
}

// reserve binds the first free port after the main one that is not in taken.
func (l *listeners) reserve(taken map[int]bool) (int, error) {
	last := errors.New("all of them belong to HSMs")
	for port := l.base + 1; port <= l.base+200 && port <= 65535; port++ {
		l.mu.Lock()
		_, mine := l.reserved[port]
		l.mu.Unlock()
		if taken[port] || mine {
			continue
		}
		got, err := l.bind(port)
		if err == nil {
			return got, nil
		}
		last = err
	}
	return 0, fmt.Errorf("no free port in the 200 after %d: %w", l.base, last)
}

// serve answers on a port, binding it first if it is not reserved.
func (l *listeners) serve(port int, handler http.Handler) error {
	l.mu.Lock()
	_, already := l.serving[port]
	_, bound := l.reserved[port]
	l.mu.Unlock()
	if already {
		return nil
	}
	if !bound {
		if _, err := l.bind(port); err != nil {
			return err
		}
	}
	server := &http.Server{
		Handler:           handler,
		TLSConfig:         l.tls.Clone(),
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       30 * time.Second,
		WriteTimeout:      2 * time.Minute,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(l.log.Handler(), slog.LevelDebug),
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	listener := l.reserved[port]
	if l.closing || listener == nil {
		return errClosing
	}
	delete(l.reserved, port)
	l.serving[port] = server
	l.wait.Add(1)
	go func() {
		defer l.wait.Done()
		defer listener.Close() // a TLS configuration without a certificate fails before it takes the listener over
		if err := server.ServeTLS(listener, "", ""); !errors.Is(err, http.ErrServerClosed) {
			select {
			case l.failed <- fmt.Errorf("port %d: %w", port, err):
			default:
			}
		}
	}()
	return nil
}

// ports are those that serve now, the main one included.
func (l *listeners) ports() map[int]bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	m := map[int]bool{}
	for p := range l.serving {
		m[p] = true
	}
	return m
}

// stop ends one port at once; requests under way are cut.
func (l *listeners) stop(port int) {
	l.mu.Lock()
	server := l.serving[port]
	delete(l.serving, port)
	l.mu.Unlock()
	if server != nil {
		_ = server.Close()
	}
}

// shutdown stops accepting, waits for requests under way until ctx ends, and then cuts them.
func (l *listeners) shutdown(ctx context.Context) {
	l.mu.Lock()
	l.closing = true // under the lock: what is opened before is in the list below, and nothing is opened after
	servers := make([]*http.Server, 0, len(l.serving))
	for _, s := range l.serving {
		servers = append(servers, s)
	}
	for _, r := range l.reserved {
		_ = r.Close()
	}
	l.mu.Unlock()
	var wait sync.WaitGroup
	for _, s := range servers {
		wait.Go(func() {
			if s.Shutdown(ctx) != nil {
				_ = s.Close()
			}
		})
	}
	wait.Wait()
	l.wait.Wait()
}
