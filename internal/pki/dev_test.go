package pki

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"strongroom/internal/durable"
)

var (
	devNames = []string{"localhost", "*.managedhsm.localhost"}
	devIPs   = []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}
	devNow   = func() time.Time { return time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC) }
)

func mustEnsure(t *testing.T, dir string, now func() time.Time) Dev {
	t.Helper()
	d, err := EnsureDev(dir, devNames, devIPs, now, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func served(t *testing.T, d Dev) *x509.Certificate {
	t.Helper()
	c, err := d.Source(nil)
	if err != nil {
		t.Fatal(err)
	}
	return c.Leaf
}

// What strict clients look at (RFC 5280; Python's VERIFY_X509_STRICT wants the key identifiers too).
func TestDevCertificates(t *testing.T) {
	d := mustEnsure(t, t.TempDir(), devNow)
	ca, _, err := readChain(d.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	leaf := served(t, d)
	for _, tc := range []struct {
		name string
		ok   bool
	}{
		{"the CA is one, for servers' certificates only", ca.IsCA && ca.BasicConstraintsValid && ca.MaxPathLen == 0 && ca.MaxPathLenZero},
		{"the CA signs and does nothing else", ca.KeyUsage == x509.KeyUsageCertSign|x509.KeyUsageCRLSign},
		{"the CA has a key identifier", len(ca.SubjectKeyId) > 0},
		{"the CA lasts ten years", ca.NotAfter.Sub(devNow()) == caLife},
		{"the leaf is no CA", !leaf.IsCA && leaf.BasicConstraintsValid},
		{"the leaf may sign handshakes", leaf.KeyUsage == x509.KeyUsageDigitalSignature},
		{"the leaf is for servers", len(leaf.ExtKeyUsage) == 1 && leaf.ExtKeyUsage[0] == x509.ExtKeyUsageServerAuth},
		{"the leaf names the CA's key", bytes.Equal(leaf.AuthorityKeyId, ca.SubjectKeyId)},
		{"the leaf lasts 397 days at most", leaf.NotAfter.Sub(leaf.NotBefore) <= leafLife && leaf.NotAfter.Sub(devNow()) > leafLife-24*time.Hour},
		{"the leaf's key is P-256", leaf.PublicKey.(*ecdsa.PublicKey).Curve == elliptic.P256()},
		{"serial numbers are long and positive", leaf.SerialNumber.BitLen() == 127 && leaf.SerialNumber.Sign() > 0},
	} {
		if !tc.ok {
			t.Errorf("not so: %s", tc.name)
		}
	}
	pool := x509.NewCertPool()
	pool.AddCert(ca)
	for _, name := range []string{"localhost", "127.0.0.1", "::1", "alpha.managedhsm.localhost"} {
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: pool, DNSName: name, CurrentTime: devNow()}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A CA that ends soon does not make leaves that outlive it, and one that has ended says what to do.
func TestEndOfTheCA(t *testing.T) {
	dir := t.TempDir()
	mustEnsure(t, dir, devNow)
	late := func() time.Time { return devNow().Add(caLife - 100*24*time.Hour) }
	d := mustEnsure(t, dir, late)
	ca, _, err := readChain(d.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	if leaf := served(t, d); !leaf.NotAfter.Equal(ca.NotAfter) {
		t.Errorf("the leaf ends on %v, the CA on %v", leaf.NotAfter, ca.NotAfter)
	}
	after := func() time.Time { return devNow().Add(caLife + time.Hour) }
	if _, err := EnsureDev(dir, devNames, devIPs, after, rand.Reader); err == nil || !strings.Contains(err.Error(), "delete it") {
		t.Errorf("got %v, want an error that says what to do", err)
	}
}

// Covers R2: killed between any two of its steps, the next start comes up, and never with another CA than one
// that a client may already have.
func TestCrashWhileMaking(t *testing.T) {
	type crash struct{}
	for k := 1; ; k++ {
		dir := t.TempDir()
		step := 0
		crashed := func() (crashed bool) {
			defer func() {
				durable.Hook = nil
				if p := recover(); p != nil {
					if _, crashed = p.(crash); !crashed {
						panic(p)
					}
				}
			}()
			durable.Hook = func(string) {
				if step++; step == k {
					panic(crash{})
				}
			}
			mustEnsure(t, dir, devNow)
			return false
		}()
		before, _ := os.ReadFile(filepath.Join(dir, "ca.pem"))
		d := mustEnsure(t, dir, devNow)
		after, err := os.ReadFile(d.CAFile)
		if err != nil || before != nil && !bytes.Equal(before, after) {
			t.Fatalf("stopped at step %d: the CA was made anew (%v)", k, err)
		}
		ca, _, err := readChain(d.CAFile)
		if err != nil || served(t, d).CheckSignatureFrom(ca) != nil {
			t.Fatalf("stopped at step %d: the server's certificate is not of the CA (%v)", k, err)
		}
		if !crashed {
			if k < 20 {
				t.Fatalf("only %d steps: the test stopped at none that matter", k)
			}
			return
		}
	}
}

func TestDamagedFiles(t *testing.T) {
	for _, tc := range []struct {
		name, file string
		content    string // "-": the file is removed
		want       error  // nil: made anew
	}{
		{"CA certificate is text", "ca.pem", "hello", ErrDamaged},
		{"CA certificate is empty", "ca.pem", "", ErrDamaged},
		{"CA certificate is nonsense in PEM", "ca.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", ErrDamaged},
		{"CA key is text", "ca.key", "hello", ErrDamaged},
		{"CA key is gone", "ca.key", "-", ErrDamaged},
		{"CA files do not belong together", "ca.key", "another's", errMismatch},
		{"server certificate is text", "server.pem", "hello", nil},
		{"server key is gone", "server.key", "-", nil},
		{"server files do not belong together", "server.key", "another's", nil},
		{"server certificate of another CA", "server.*", "another's", nil},
		{"bundle is gone", "bundle.pem", "-", nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir, other := t.TempDir(), t.TempDir()
			mustEnsure(t, dir, devNow)
			mustEnsure(t, other, devNow)
			matches, err := filepath.Glob(filepath.Join(dir, tc.file))
			if err != nil || len(matches) == 0 {
				t.Fatalf("no %s (%v)", tc.file, err)
			}
			for _, path := range matches {
				data := []byte(tc.content)
				if tc.content == "another's" {
					if data, err = os.ReadFile(filepath.Join(other, filepath.Base(path))); err != nil {
						t.Fatal(err)
					}
				}
				if tc.content == "-" {
					err = os.Remove(path)
				} else {
					err = os.WriteFile(path, data, 0o600)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			d, err := EnsureDev(dir, devNames, devIPs, devNow, rand.Reader)
			if tc.want != nil {
				if !errors.Is(err, tc.want) || !strings.Contains(err.Error(), tc.file) || !strings.Contains(err.Error(), "delete") {
					t.Fatalf("got %v, want %v naming %s and what to do", err, tc.want, tc.file)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			ca, _, err := readChain(d.CAFile)
			if err != nil || served(t, d).CheckSignatureFrom(ca) != nil {
				t.Fatalf("the server's certificate is not of the CA (%v)", err)
			}
			if bundle, err := os.ReadFile(d.BundleFile); err != nil || !bytes.Contains(bundle, []byte("CERTIFICATE")) {
				t.Fatalf("no bundle (%v)", err)
			}
		})
	}
}

func TestBundle(t *testing.T) {
	dir := t.TempDir()
	d := mustEnsure(t, dir, devNow)
	ca, err := os.ReadFile(d.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	roots := filepath.Join(dir, "roots")
	if err := os.WriteFile(roots, []byte("ROOTS without a newline"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name  string
		roots []string
		want  string
	}{
		{"the first that is there", []string{filepath.Join(dir, "none"), roots, d.CAFile}, "ROOTS without a newline\n" + string(ca)},
		{"none is there", []string{filepath.Join(dir, "none")}, string(ca)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if err := ensureBundle(d, tc.roots); err != nil {
				t.Fatal(err)
			}
			if got, err := os.ReadFile(d.BundleFile); err != nil || string(got) != tc.want {
				t.Fatalf("got %q (%v), want %q", got, err, tc.want)
			}
		})
	}
}

func TestEnsureDevNeedsAName(t *testing.T) {
	if _, err := EnsureDev(t.TempDir(), nil, nil, devNow, rand.Reader); err == nil {
		t.Fatal("a certificate for nobody was made")
	}
}

// The clients that people use, as strict as they come: Python with VERIFY_X509_STRICT, Node, curl.
func TestStrictClients(t *testing.T) {
	d := mustEnsure(t, t.TempDir(), time.Now)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") }))
	server.TLS = ServerConfig(d.Source)
	// httptest insists on a certificate of its own unless there is one; ours comes from the source.
	listener := tls.NewListener(server.Listener, server.TLS)
	server.Listener = listener
	server.Start()
	defer server.Close()
	url := "https://" + listener.Addr().String() + "/"
	for name, args := range map[string][]string{
		"python": {"python3", "-c", `
import ssl, sys, urllib.request
c = ssl.create_default_context(cafile=sys.argv[2])
c.verify_flags |= ssl.VERIFY_X509_STRICT
sys.stdout.write(urllib.request.urlopen(sys.argv[1], context=c).read().decode())`, url, d.CAFile},
		"node": {"node", "-e", `
const https = require("https"), fs = require("fs");
https.get(process.argv[1], {ca: fs.readFileSync(process.argv[2])}, r => r.pipe(process.stdout)).on("error", e => { console.error(e); process.exit(1) })`, url, d.CAFile},
		"curl": {"curl", "-sS", "--cacert", d.BundleFile, url},
	} {
		t.Run(name, func(t *testing.T) {
			out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
			if err != nil || string(out) != "hello" {
				t.Fatalf("%v: %s", err, out)
			}
		})
	}
}

// The files are looked at once a second at most, a broken pair is logged once, and a clock that is set back does
// not stop the looking.
func TestReloadingLooks(t *testing.T) {
	dir := t.TempDir()
	first := mustEnsure(t, dir, devNow)
	old := served(t, first)
	var mu sync.Mutex
	now := devNow()
	clock := func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
	var log bytes.Buffer
	source, err := Reloading(first.CertFile, first.KeyFile, clock, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	serial := func() string {
		c, err := source(nil)
		if err != nil {
			t.Fatal(err)
		}
		return c.Leaf.SerialNumber.String()
	}
	second := served(t, mustEnsure(t, dir, func() time.Time { return devNow().AddDate(2, 0, 0) }))
	if serial() != old.SerialNumber.String() {
		t.Error("looked at the files again within a second")
	}
	mu.Lock()
	now = now.Add(-time.Hour)
	mu.Unlock()
	if serial() != second.SerialNumber.String() {
		t.Error("did not look after the clock was set back")
	}
	if err := os.WriteFile(first.CertFile, []byte("half a certi"), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		mu.Lock()
		now = now.Add(time.Minute)
		mu.Unlock()
		if serial() != second.SerialNumber.String() {
			t.Error("a broken file replaced a good certificate")
		}
	}
	if n := strings.Count(log.String(), "old one stays"); n != 1 {
		t.Errorf("a broken pair was logged %d times, want once:\n%s", n, &log)
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 50 {
				mu.Lock()
				now = now.Add(time.Second)
				mu.Unlock()
				_, _ = source(nil)
			}
		})
	}
	wg.Wait()
}

func TestKeyForms(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	sec1, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "k.pem")
	if err := writePEM(path, "EC PRIVATE KEY", sec1, 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := readKey(path); err != nil || !key.PublicKey.Equal(got.Public()) {
		t.Errorf("SEC 1: %v", err)
	}
	if err := writePEM(path, "ENCRYPTED PRIVATE KEY", sec1, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readKey(path); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "without a passphrase") {
		t.Errorf("encrypted: got %v", err)
	}
	if err := os.WriteFile(path, make([]byte, maxFile+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readKey(path); !errors.Is(err, ErrDamaged) {
		t.Errorf("too large: got %v", err)
	}
}
