package pki_test

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"strongroom/internal/pki"
)

var (
	names = []string{"localhost", "*.managedhsm.localhost"}
	ips   = []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}
)

func ensure(t *testing.T, dir string, now time.Time) pki.Dev {
	t.Helper()
	d, err := pki.EnsureDev(dir, names, ips, func() time.Time { return now }, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func leaf(t *testing.T, d pki.Dev) *x509.Certificate {
	t.Helper()
	c, err := d.Source(nil)
	if err != nil {
		t.Fatal(err)
	}
	return c.Leaf
}

// A real handshake over TLS 1.2 and 1.3 by name and by address; TLS 1.1 is refused. Covers R5.
func TestHandshake(t *testing.T) {
	d := ensure(t, t.TempDir(), time.Now())
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{TLSConfig: pki.ServerConfig(d.Source), Handler: http.NotFoundHandler(), ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0)}
	go func() { _ = server.ServeTLS(listener, "", "") }()
	defer server.Close()
	ca, err := os.ReadFile(d.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		t.Fatal("ca.pem holds no certificate")
	}
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		for _, name := range []string{"localhost", "127.0.0.1", "alpha.managedhsm.localhost"} {
			conn, err := tls.Dial("tcp", listener.Addr().String(), &tls.Config{RootCAs: pool, ServerName: name, MinVersion: version, MaxVersion: version})
			if err != nil {
				t.Errorf("%s with %s: %v", name, tls.VersionName(version), err)
				continue
			}
			conn.Close()
		}
	}
	if conn, err := tls.Dial("tcp", listener.Addr().String(), &tls.Config{RootCAs: pool, ServerName: "localhost", MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}); err == nil {
		conn.Close()
		t.Error("TLS 1.1 was accepted")
	}
	if conn, err := tls.Dial("tcp", listener.Addr().String(), &tls.Config{RootCAs: pool, ServerName: "elsewhere.example"}); err == nil {
		conn.Close()
		t.Error("a foreign name was accepted")
	}
}

// What OpenSSL, and so Python and the Azure CLI, thinks of the chain, with its strict checks on.
func TestOpenSSLAgrees(t *testing.T) {
	dir := t.TempDir()
	d := ensure(t, dir, time.Now())
	out, err := exec.Command("openssl", "verify", "-x509_strict", "-purpose", "sslserver", "-verify_ip", "127.0.0.1", "-CAfile", d.CAFile, filepath.Join(dir, "server.pem")).CombinedOutput()
	if err != nil {
		t.Fatalf("openssl verify: %v\n%s", err, out)
	}
}

func TestDevCAIsKeptAndLeafRenewed(t *testing.T) {
	dir := t.TempDir()
	now := time.Now()
	first := ensure(t, dir, now)
	ca, _ := os.ReadFile(first.CAFile)
	for _, f := range []string{"ca.key", "server.key"} {
		if i, err := os.Stat(filepath.Join(dir, f)); err != nil || i.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v; want mode 0600", f, i.Mode(), err)
		}
	}
	if again := ensure(t, dir, now.AddDate(0, 0, 300)); !leaf(t, again).Equal(leaf(t, first)) {
		t.Error("the server certificate was made again without need")
	}
	renewed := ensure(t, dir, now.AddDate(0, 0, 380))
	if leaf(t, renewed).Equal(leaf(t, first)) {
		t.Error("a server certificate that expires in 17 days was kept")
	}
	names = append(names, "extra.example")
	defer func() { names = names[:len(names)-1] }()
	wider := ensure(t, dir, now)
	if !strings.Contains(strings.Join(leaf(t, wider).DNSNames, " "), "extra.example") {
		t.Error("a new name did not make a new server certificate")
	}
	if after, _ := os.ReadFile(first.CAFile); !bytes.Equal(ca, after) {
		t.Error("the CA changed")
	}
	if bundle, _ := os.ReadFile(first.BundleFile); !bytes.Contains(bundle, bytes.TrimSpace(ca)) {
		t.Error("the bundle lacks the CA")
	}
	// A damaged server certificate is ours to replace; a damaged CA is not.
	if err := os.WriteFile(filepath.Join(dir, "server.pem"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	ensure(t, dir, now)
	if err := os.WriteFile(first.CAFile, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := pki.EnsureDev(dir, names, ips, time.Now, rand.Reader); err == nil || !strings.Contains(err.Error(), "ca.pem") {
		t.Errorf("a damaged CA: %v, want an error that names the file", err)
	}
}

func TestReloading(t *testing.T) {
	one, two := t.TempDir(), t.TempDir()
	a, b := ensure(t, one, time.Now()), ensure(t, two, time.Now())
	certFile, keyFile := filepath.Join(one, "server.pem"), filepath.Join(one, "server.key")
	now := time.Now()
	var log bytes.Buffer
	source, err := pki.Reloading(certFile, keyFile, func() time.Time { return now }, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	serves := func(want *x509.Certificate) {
		t.Helper()
		now = now.Add(2 * time.Second)
		got, err := source(nil)
		if err != nil || !got.Leaf.Equal(want) {
			t.Fatalf("serves another certificate (%v)", err)
		}
	}
	copyFile := func(from, to string) {
		t.Helper()
		raw, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(to, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		later := time.Now().Add(time.Hour)
		if err := os.Chtimes(to, later, later); err != nil {
			t.Fatal(err)
		}
	}
	first := leaf(t, a)
	serves(first)
	copyFile(filepath.Join(two, "server.pem"), certFile) // half of a replacement: the pair does not fit
	serves(first)
	if !strings.Contains(log.String(), "old one stays") {
		t.Errorf("nothing in the log about the broken pair: %s", &log)
	}
	copyFile(filepath.Join(two, "server.key"), keyFile)
	serves(leaf(t, b))
	if err := os.Remove(certFile); err != nil {
		t.Fatal(err)
	}
	serves(leaf(t, b))
	if _, err := pki.Reloading(certFile, keyFile, time.Now, slog.New(slog.DiscardHandler)); err == nil {
		t.Error("a missing certificate at start was accepted")
	}
}

// FuzzPEM: no content of the certificate file may panic the server that reads it.
func FuzzPEM(f *testing.F) {
	f.Add([]byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"))
	f.Add(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte{0x30, 0x03, 2, 1, 1}}))
	dir := f.TempDir()
	d, err := pki.EnsureDev(dir, names, ips, time.Now, rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	good, _ := os.ReadFile(d.CAFile)
	f.Add(good)
	f.Fuzz(func(t *testing.T, raw []byte) {
		path := filepath.Join(t.TempDir(), "c.pem")
		if err := os.WriteFile(path, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		_, _ = pki.Reloading(path, filepath.Join(dir, "ca.key"), time.Now, slog.New(slog.DiscardHandler))
	})
}
