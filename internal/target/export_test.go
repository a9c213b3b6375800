package target

import (
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"
)

// Tune lets a test resolve names, trust certificates, and not wait between tries.
func (p *Places) Tune(resolver *net.Resolver, roots *x509.CertPool, tries int) *Places {
	p.knobs = knobs{resolver: resolver, roots: roots, retryDelay: time.Millisecond, tries: tries}
	return p
}

// MayDial is whether a connection for a host may go to an address.
func (p *Places) MayDial(host string, address netip.Addr) bool { return p.mayDial(host, address) }

// Transport carries requests to one origin.
func (p *Places) Transport(uri string) (http.RoundTripper, error) {
	scheme, authority, _ := strings.Cut(uri, "://")
	allowed, err := parseAuthority(scheme, authority)
	return p.newTransport(func(o origin) bool { return o == allowed }), err
}

// SentBody is the body of a request as the network sees it; answered and ended are what happens to its answer.
func SentBody(from io.ReadCloser) (body io.Reader, answered, ended func()) {
	b := &sentBody{from: from, ended: make(chan struct{})}
	return b, b.answered, func() { close(b.ended) }
}
