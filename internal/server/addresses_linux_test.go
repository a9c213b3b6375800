package server

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"testing"
)

// One address cannot take the connections of the others: those beyond its bound are closed at once, and when it has
// closed one it may come again. Only Linux has all of 127.0.0.0/8 without being told.
func TestOneAddressDoesNotShutOutOthers(t *testing.T) {
	l := newListeners("127.0.0.1", &tls.Config{Certificates: []tls.Certificate{selfSigned(t)}}, slog.New(slog.DiscardHandler))
	l.addresses.most = 3
	port, err := l.bind(0)
	must(t, err)
	must(t, l.serve(port, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})))
	t.Cleanup(func() { l.shutdown(context.Background()) })

	type client struct {
		raw net.Conn
		tls *tls.Conn
	}
	// ask opens a connection from an address and has one request answered on it, which leaves it open unless told.
	ask := func(from, header string) (client, error) {
		dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
		raw, err := dialer.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		must(t, err) // the kernel takes it, whatever the server does
		t.Cleanup(func() { _ = raw.Close() })
		c := client{raw, tls.Client(raw, &tls.Config{InsecureSkipVerify: true})}
		if err := c.tls.Handshake(); err != nil {
			return c, err
		}
		if _, err := io.WriteString(c.tls, "GET / HTTP/1.1\r\nHost: localhost\r\n"+header+"\r\n"); err != nil {
			return c, err
		}
		line := make([]byte, len("HTTP/1.1 200"))
		if _, err := io.ReadFull(c.tls, line); err != nil || string(line) != "HTTP/1.1 200" {
			return c, fmt.Errorf("%q, %w", line, err)
		}
		return c, nil
	}
	// over waits until the server has closed a connection that was asked to end.
	over := func(c client) { _, _ = io.Copy(io.Discard, c.raw) }

	for i := range 2 {
		if _, err := ask("127.0.0.2", ""); err != nil {
			t.Fatalf("connection %d: %v", i+1, err)
		}
	}
	// Room for one more: it can be used again and again, so every connection is counted out once, no more and no less.
	for range 5 {
		last, err := ask("127.0.0.2", "Connection: close\r\n")
		if err != nil {
			t.Fatalf("with room for one more: %v", err)
		}
		over(last)
	}
	if _, err := ask("127.0.0.2", ""); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		if c, err := ask("127.0.0.2", ""); err == nil {
			t.Error("a connection beyond the bound is served")
		} else {
			over(c) // hangs if it is left open
		}
	}
	if _, err := ask("127.0.0.3", ""); err != nil {
		t.Errorf("another address: %v", err)
	}

	l.stop(port)
	l.addresses.mu.Lock()
	defer l.addresses.mu.Unlock()
	if n := len(l.addresses.live); n != 0 {
		t.Errorf("%d addresses are remembered without a connection", n)
	}
}

func TestWhatCountsAsOneAddress(t *testing.T) {
	source := func(s string) netip.Prefix { return sourceOf(net.TCPAddrFromAddrPort(netip.MustParseAddrPort(s))) }
	for _, row := range []struct {
		a, b string
		same bool
	}{
		{"192.0.2.1:1", "192.0.2.1:2", true},
		{"192.0.2.1:1", "192.0.2.2:1", false},
		{"192.0.2.1:1", "[::ffff:192.0.2.1]:1", true},
		{"[::ffff:192.0.2.1]:1", "[::ffff:192.0.2.2]:1", false},
		{"[2001:db8::1]:1", "[2001:db8::ffff:0:0:1]:1", true},
		{"[2001:db8::1]:1", "[2001:db8:0:1::1]:1", false},
		{"[fe80::1%eth0]:1", "[fe80::2%eth1]:1", true},
	} {
		if got := source(row.a) == source(row.b); got != row.same {
			t.Errorf("%s and %s are one address: %t", row.a, row.b, got)
		}
	}
	free := newAddresses(-1)
	for range 10_000 {
		if !free.enter(source("192.0.2.1:1")) {
			t.Fatal("without a bound there is one")
		}
	}
}

func TestConnectionsPerAddressSetting(t *testing.T) {
	for value, good := range map[int]bool{-2: false, -1: true, 0: true, 1: true, maxRequests: true, maxRequests + 1: false} {
		path := t.TempDir() + "/c.toml"
		must(t, os.WriteFile(path, fmt.Appendf(nil, "data = %q\n[identity]\nembedded = true\n[limits]\nconnections_per_address = %d\n", t.TempDir(), value), 0o600))
		if _, err := loadConfig(Options{ConfigFile: path}); (err == nil) != good || err != nil && !strings.Contains(err.Error(), "connections_per_address") {
			t.Errorf("%d: %v", value, err)
		}
	}
}
