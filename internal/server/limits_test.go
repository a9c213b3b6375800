package server

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"strongroom/internal/access"
	"strongroom/internal/hsm"
	"strongroom/internal/limit"
	"strongroom/internal/seal"
	"strongroom/internal/store/memory"
)

// The limits of the configuration file are those of the running server: a principal has one rate for both planes, however
// many requests go to which, and an address has one number of connections.
//
// Nothing is timed: since a shared rate of one gives out at most one request at once and one more per second, and two rates
// at least two more, the time that the requests took bounds how many may have been allowed, whatever it was.
func TestLimitsOfARunningServer(t *testing.T) {
	dir := t.TempDir()
	config := writeFile(t, filepath.Join(t.TempDir(), "c.toml"), "hsms = [\"alpha\"]\n[identity]\nembedded = true\n[limits]\nrequests_per_second = 1\nconnections_per_address = 3\n")
	r := begin(t, Options{ConfigFile: config, DataDir: dir}, "administrator.env")
	alpha, authority := r.env["STRONGROOM_HSM_ALPHA_URL"], r.env["STRONGROOM_AUTHORITY"]
	data, control := r.token("https://managedhsm.localhost:"+port(t, alpha)), r.token("https://management.azure.com")
	allowed, refused := map[string]int{}, map[string]int{}
	started := time.Now()
	for range 10 {
		for plane, ask := range map[string]func() (int, string, http.Header){
			"data": func() (int, string, http.Header) { return r.get(alpha+"/keys?api-version=7.4", data) },
			"control": func() (int, string, http.Header) {
				return r.get(authority+"/subscriptions?api-version=2022-12-01", control)
			},
		} {
			switch code, body, _ := ask(); code {
			case 200, 403: // which for the data plane means that the HSM is not activated
				allowed[plane]++
			case 429:
				refused[plane]++
			default:
				t.Fatalf("%s: %d %s", plane, code, body)
			}
		}
	}
	took := time.Since(started)
	if n := allowed["data"] + allowed["control"]; float64(n) > 1+took.Seconds() {
		t.Errorf("of one request per second, %d were allowed in %s: %v allowed, %v refused", n, took, allowed, refused)
	}

	// The client keeps connections open; they count like others.
	r.client.CloseIdleConnections()
	address := r.client.Transport.(*http.Transport)
	open := 0
	for range 10 {
		raw, err := address.DialContext(t.Context(), "tcp", "127.0.0.1:"+port(t, authority))
		must(t, err) // the kernel takes it, whatever the server does
		defer raw.Close()
		if tls.Client(raw, &tls.Config{InsecureSkipVerify: true}).HandshakeContext(t.Context()) != nil {
			break
		}
		open++
	}
	if open > 3 {
		t.Errorf("%d connections are open at once, want no more than 3", open)
	}
}

// A purged HSM leaves nothing in the limiter, and a request that outlives it does no harm.
func TestPurgedHSMHasNoPlaces(t *testing.T) {
	sl, err := seal.CreateFile(filepath.Join(t.TempDir(), "seal.json"), rand.Reader)
	must(t, err)
	st := memory.New()
	hsms := hsm.New(hsm.Config{Store: st, Seal: sl, Authorizer: access.NewAuthorizer(st, sl), Now: time.Now, Rand: rand.Reader, Log: slog.New(slog.DiscardHandler)})
	defer hsms.Close()
	p := &provisioner{s: &Server{hsms: hsms, limits: limit.New(limit.Config{Running: 1}, time.Now)}}
	info, _, err := hsms.Create(t.Context(), hsm.Spec{Name: "alpha", InitialAdmins: []string{"11111111-1111-4111-8111-111111111111"}})
	must(t, err)
	impatient, cancel := context.WithCancel(t.Context())
	cancel()
	leave, err := p.s.limits.Enter(impatient, info.ID)
	must(t, err)
	free := func() bool { // there is a place, without waiting for one
		leave, err := p.s.limits.Enter(impatient, info.ID)
		if err == nil {
			leave()
		}
		return err == nil
	}
	if must(t, p.DeleteHSM(t.Context(), access.Caller{}, "alpha")); free() {
		t.Error("an HSM that may come back lost its places")
	}
	if must(t, p.PurgeHSM(t.Context(), access.Caller{}, "alpha")); !free() {
		t.Error("a purged HSM is remembered")
	}
	leave()
	if !free() {
		t.Error("the request that outlived the HSM took a place along")
	}
	if err := p.PurgeHSM(t.Context(), access.Caller{}, "alpha"); err == nil {
		t.Error("it is purged twice")
	}
}

// queue is a listener whose connections stay in the process.
type queue struct{ conns []net.Conn }

func (q *queue) Accept() (net.Conn, error) {
	if len(q.conns) == 0 {
		return nil, net.ErrClosed
	}
	c := q.conns[0]
	q.conns = q.conns[1:]
	return c, nil
}
func (*queue) Close() error   { return nil }
func (*queue) Addr() net.Addr { return &net.TCPAddr{} }

// from is an end of a connection that comes from an address.
type from struct {
	net.Conn
	address *net.TCPAddr
}

func (f from) RemoteAddr() net.Addr { return f.address }

// A connection that is closed twice, as net/http and TLS may, is given back once: else every such connection would make
// room for one more than an address may have.
func TestClosedTwiceIsGivenBackOnce(t *testing.T) {
	var q queue
	var others []net.Conn
	for i := range 6 {
		here, there := net.Pipe()
		defer there.Close()
		q.conns, others = append(q.conns, from{here, &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 1000 + i}}), append(others, there)
	}
	l := &perAddress{&q, newAddresses(3)}
	source := netip.MustParsePrefix("192.0.2.1/32")
	var open []net.Conn
	for range 3 {
		c, err := l.Accept()
		must(t, err)
		open = append(open, c)
	}
	for range 5 {
		if err := open[0].Close(); err != nil && !errors.Is(err, net.ErrClosed) && !errors.Is(err, io.ErrClosedPipe) {
			t.Fatal(err)
		}
	}
	if n := l.addresses.live[source]; n != 2 {
		t.Fatalf("%d connections are counted after one of three was closed five times, want 2", n)
	}
	if _, err := l.Accept(); err != nil {
		t.Errorf("with room for one more: %v", err)
	}
	if c, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("beyond the bound: %v, %v", c, err)
	}
	for i, there := range others[4:] { // both were closed at once
		if _, err := there.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("connection %d: %v", i+5, err)
		}
	}
	if fmt.Sprint(l.addresses.live) != fmt.Sprint(map[netip.Prefix]int{source: 3}) {
		t.Errorf("counted: %v", l.addresses.live)
	}
}
