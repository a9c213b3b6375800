package target

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Every request to a store passes through here, whichever library made it: to the origin that was allowed and to no
// other, by no proxy, to addresses that are public or configured, and never further by a redirect.

// hostRule is one entry of allowed_hosts.
type hostRule struct {
	origin
	suffix bool // names below host, not host itself
}

func (r hostRule) matches(o origin) bool {
	if r.scheme != o.scheme || r.port != o.port {
		return false
	}
	if r.suffix {
		return strings.HasSuffix(o.host, "."+r.host)
	}
	return r.host == o.host
}

func isAddress(host string) bool {
	_, err := netip.ParseAddr(host)
	return err == nil
}

// notPublic are networks that no public store has: of this machine, of the local network, or with another address inside
// (the IANA registries of special-purpose addresses, and 168.63.129.16, where Azure's machines find their host).
var notPublic = func() (networks []netip.Prefix) {
	for s := range strings.FieldsSeq(`
		0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 168.63.129.16/32 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24 192.0.2.0/24
		192.88.99.0/24 192.168.0.0/16 198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 224.0.0.0/4 240.0.0.0/4
		::/16 64:ff9b::/96 64:ff9b:1::/48 100::/64 2001::/23 2001:db8::/32 2002::/16 3fff::/20 5f00::/16 fc00::/7 fe80::/10 fec0::/10 ff00::/8`) {
		networks = append(networks, netip.MustParsePrefix(s))
	}
	return networks
}()

// neverPrivate says whether a network that an operator names holds addresses that no store has.
func neverPrivate(network netip.Prefix) bool {
	for _, s := range []string{"169.254.0.0/16", "224.0.0.0/4", "fe80::/10", "ff00::/8"} {
		if network.Overlaps(netip.MustParsePrefix(s)) {
			return true
		}
	}
	return false
}

// mayDial says whether a connection for the host may go to the address.
func (p *Places) mayDial(host string, address netip.Addr) bool {
	if p.own || host == address.String() {
		return true // the host is that very address, and it was allowed
	}
	if address.Zone() != "" {
		return false
	}
	address = address.Unmap()
	for _, network := range p.rules.private {
		if network.Contains(address) {
			return true
		}
	}
	for _, network := range notPublic {
		if network.Contains(address) {
			return false
		}
	}
	return address.IsGlobalUnicast()
}

const (
	stallTime      = 2 * time.Minute // without a byte
	answerTime     = 2 * time.Minute // until the header of an answer, once a request is sent
	maxHeaderBytes = 64 << 10
	maxAnswerBytes = 16 << 20 // of an answer that is no object: listings and errors
)

var errTooLong = errors.New("target: the answer is too long")

// transport carries the requests of one target.
type transport struct {
	base  *http.Transport
	hosts func(origin) bool        // where requests may go
	sign  func(r *http.Request)    // puts the token on; nil for none
	bulk  func(*http.Request) bool // says whether a good answer is an object, which may be long
}

// newTransport makes connections for one host only. The address is looked at when it is dialled, after the name was
// resolved for the last time: a resolver that changes its answer between two questions gains nothing.
func (p *Places) newTransport(hosts func(origin) bool) *transport {
	dial := func(ctx context.Context, network, hostPort string) (net.Conn, error) {
		host, _, err := net.SplitHostPort(hostPort)
		if err != nil {
			return nil, &refusal{"not an address"}
		}
		dialer := net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second, Resolver: p.knobs.resolver}
		dialer.ControlContext = func(_ context.Context, _, resolved string, _ syscall.RawConn) error {
			address, err := netip.ParseAddrPort(resolved)
			if err != nil || !p.mayDial(host, address.Addr()) {
				return &refusal{"its name leads to an address that is not public, and that the configuration does not allow"}
			}
			return nil
		}
		conn, err := dialer.DialContext(ctx, network, hostPort)
		if err != nil {
			return nil, err
		}
		return &stallConn{conn}, nil
	}
	return &transport{
		hosts: hosts,
		base: &http.Transport{
			Proxy:                  nil, // a proxy would resolve names where nobody looks at the address
			DialContext:            dial,
			TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: p.knobs.roots, ClientSessionCache: tls.NewLRUClientSessionCache(8)},
			TLSHandshakeTimeout:    30 * time.Second,
			ResponseHeaderTimeout:  answerTime,
			MaxResponseHeaderBytes: maxHeaderBytes,
			DisableCompression:     true, // what is stored is what is read, and nothing grows on the way
			DisableKeepAlives:      true, // what comes on an idle connection, net/http logs: a store could log its token there
		},
	}
}

// RoundTrip sends one request. The request that the library sees, in answers and errors, never has the token.
func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	o, err := parseAuthority(r.URL.Scheme, r.URL.Host)
	if err != nil || r.URL.User != nil || !t.hosts(o) {
		closeBody(r)
		return nil, &refusal{"a request was about to go to another host"}
	}
	sent := r.Clone(r.Context())
	if t.sign != nil {
		t.sign(sent)
	}
	body := &sentBody{from: r.Body, ended: make(chan struct{})}
	if r.Body != nil && r.Body != http.NoBody {
		sent.Body, sent.GetBody = body, nil
	}
	answer, err := t.base.RoundTrip(sent)
	body.answered()
	if err != nil {
		close(body.ended)
		why, _ := reason(err)
		return nil, &networkError{why, err}
	}
	answer.Request, answer.Body = r, &answerBody{ReadCloser: answer.Body, ended: sync.OnceFunc(func() { close(body.ended) })}
	if answer.StatusCode >= 300 && answer.StatusCode < 400 && answer.StatusCode != http.StatusNotModified {
		_ = answer.Body.Close()
		return nil, &refusal{"it redirects, and redirects are not followed: is the URL, or the region, the right one?"}
	}
	if answer.StatusCode >= 300 || t.bulk == nil || !t.bulk(r) {
		answer.Body = &boundedBody{answer.Body, maxAnswerBytes}
	}
	return answer, nil
}

// sentBody is the body of a request until there is an answer. A store may answer before it has read everything, and
// net/http then goes on reading: beside the next try, which reads the same bytes, and beside the next part, which is
// put into the same buffer. So reading stops with the answer, and the connection waits for the answer's end.
type sentBody struct {
	mu    sync.Mutex
	from  io.ReadCloser
	over  bool
	ended chan struct{}
}

var errAnswered = errors.New("target: there is an answer already")

func (b *sentBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	if !b.over {
		defer b.mu.Unlock()
		return b.from.Read(p)
	}
	b.mu.Unlock()
	<-b.ended
	return 0, errAnswered
}

func (b *sentBody) Close() error {
	b.answered()
	return b.from.Close()
}

func (b *sentBody) answered() {
	b.mu.Lock()
	b.over = true
	b.mu.Unlock()
}

// answerBody tells its request when it is done with.
type answerBody struct {
	io.ReadCloser
	ended func()
}

func (b *answerBody) Close() error {
	defer b.ended()
	return b.ReadCloser.Close()
}

// networkError is an error of a connection with words of our own: net/http's quote what a server sent.
type networkError struct {
	why   string
	cause error
}

func (e *networkError) Error() string { return e.why }
func (e *networkError) Unwrap() error { return e.cause }

func closeBody(r *http.Request) {
	if r.Body != nil {
		_ = r.Body.Close()
	}
}

// client uses the transport, for libraries that want a client.
func (t *transport) client() *http.Client {
	return &http.Client{Transport: t, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// boundedBody ends with an error after left bytes.
type boundedBody struct {
	io.ReadCloser
	left int
}

func (b *boundedBody) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, errTooLong
	}
	n, err := b.ReadCloser.Read(p[:min(len(p), b.left)])
	b.left -= n
	return n, err
}

// stallConn is a connection that fails when no byte moves for a while: a store that stops answering in the middle of an
// object ends a backup with an error instead of holding it for ever.
type stallConn struct{ net.Conn }

func (c *stallConn) Read(p []byte) (int, error) {
	if err := c.SetReadDeadline(time.Now().Add(stallTime)); err != nil {
		return 0, err
	}
	return c.Conn.Read(p)
}

// Write puts off the read that waits for the answer too.
func (c *stallConn) Write(p []byte) (int, error) {
	if err := c.SetDeadline(time.Now().Add(stallTime)); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}
