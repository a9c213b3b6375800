package server

import (
	"net"
	"net/netip"
	"sync"
)

// addresses counts the live connections of every source address, so that one stranger cannot hold all that there are.
// An address without a connection is not in it.
type addresses struct {
	most int // of one address; below 0: no bound

	mu   sync.Mutex
	live map[netip.Prefix]int
}

func newAddresses(most int) *addresses {
	return &addresses{most: most, live: map[netip.Prefix]int{}}
}

// enter counts a connection in, unless its address has as many as it may.
func (a *addresses) enter(p netip.Prefix) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.most >= 0 && a.live[p] >= a.most {
		return false
	}
	a.live[p]++
	return true
}

func (a *addresses) leave(p netip.Prefix) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.live[p]--; a.live[p] <= 0 {
		delete(a.live, p)
	}
}

// sourceOf is what counts as one address: all of an IPv4 address, also where it comes as IPv6, and the first half of an
// IPv6 one, since whoever has one of a /64 has them all.
func sourceOf(remote net.Addr) netip.Prefix {
	tcp, is := remote.(*net.TCPAddr)
	if !is {
		return netip.Prefix{}
	}
	ip := tcp.AddrPort().Addr().Unmap().WithZone("")
	bits := ip.BitLen()
	if ip.Is6() {
		bits = 64
	}
	p, _ := ip.Prefix(bits) // these lengths are right; an address that is none counts with its like
	return p
}

// perAddress is a listener that closes connections beyond what their address may have, and goes on to the next.
type perAddress struct {
	net.Listener
	addresses *addresses
}

func (l *perAddress) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		source := sourceOf(conn.RemoteAddr())
		if l.addresses.enter(source) {
			return &countedConn{Conn: conn, leave: sync.OnceFunc(func() { l.addresses.leave(source) })}, nil
		}
		_ = conn.Close()
	}
}

// countedConn is counted out when it is closed, once however often that is. It is so before its peer can see the end,
// so that whoever saw it may come again.
type countedConn struct {
	net.Conn
	leave func()
}

func (c *countedConn) Close() error {
	c.leave()
	return c.Conn.Close()
}
