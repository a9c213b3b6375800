package server

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"strongroom/internal/record"
)

// address is where a URL leads, without the HTTP client.
func address(t *testing.T, raw string) string {
	t.Helper()
	u, err := url.Parse(raw)
	must(t, err)
	return u.Host
}

// exchange sends raw bytes over TLS and returns what comes back until the server hangs up.
func (r *running) exchange(target, request string) string {
	r.t.Helper()
	ca, err := os.ReadFile(r.env["STRONGROOM_CA"])
	must(r.t, err)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	conn, err := tls.Dial("tcp", address(r.t, target), &tls.Config{RootCAs: pool})
	must(r.t, err)
	defer conn.Close()
	_, err = io.WriteString(conn, request)
	answer, readErr := io.ReadAll(conn)
	if len(answer) == 0 {
		r.t.Fatalf("no answer: %v, %v", err, readErr)
	}
	return string(answer)
}

// Covers A5: a header beyond its bound is refused before anything reads it, on every port; one below is not.
func TestHeadersAreBounded(t *testing.T) {
	r := begin(t, Options{Dev: true, DataDir: t.TempDir()}, "dev.env")
	for name, target := range map[string]string{"main": r.env["STRONGROOM_AUTHORITY"], "HSM": r.env["STRONGROOM_HSM_ALPHA_URL"]} {
		for size, want := range map[int]string{8 << 10: " 200 ", maxHeader + 8<<10: " 431 "} {
			answer := r.exchange(target, "GET /healthz HTTP/1.1\r\nHost: "+address(t, target)+"\r\nConnection: close\r\nX-Padding: "+strings.Repeat("x", size)+"\r\n\r\n")
			if line, _, _ := strings.Cut(answer, "\r\n"); !strings.Contains(line, want) {
				t.Errorf("%s port, header of %d bytes: %q, want%s", name, size, line, want)
			}
		}
	}
}

// Covers R5 on a running server: every port speaks TLS of at least 1.2, and nothing of ours to who does not.
func TestEveryPortIsTLS(t *testing.T) {
	r := begin(t, Options{Dev: true, DataDir: t.TempDir()}, "dev.env")
	for name, target := range map[string]string{"main": r.env["STRONGROOM_AUTHORITY"], "HSM": r.env["STRONGROOM_HSM_ALPHA_URL"]} {
		_, err := tls.Dial("tcp", address(t, target), &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11})
		if err == nil || !strings.Contains(err.Error(), "protocol version") {
			t.Errorf("%s port, TLS 1.1: got %v, want an alert about the version", name, err)
		}
		conn, err := net.Dial("tcp", address(t, target))
		must(t, err)
		_, err = fmt.Fprintf(conn, "GET /healthz HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", address(t, target))
		must(t, err)
		answer, _ := io.ReadAll(conn)
		_ = conn.Close()
		if strings.Contains(string(answer), " 200 ") || strings.Contains(string(answer), "status") {
			t.Errorf("%s port, plain HTTP: %q", name, answer)
		}
	}
}

// Covers R4, K1: a handler that panics costs its own request and no other, and what it panicked with, which may
// be anything, reaches neither the caller nor the log. Where its call could not be recorded (L1), or it broke its answer off,
// the connection ends instead of an answer.
func TestAPanicStaysInItsRequest(t *testing.T) {
	var log bytes.Buffer
	s := &Server{log: slog.New(slog.NewTextHandler(&log, nil))}
	front := httptest.NewServer(s.guard(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/text":
			panic("canary")
		case "/error":
			panic(errors.New("canary"))
		case "/nil":
			var m map[string]int
			//lint:ignore SA5000 the panic is the point
			m["canary"]++
		case "/unrecorded":
			panic(record.Unrecorded{Panic: "canary"})
		case "/aborted":
			panic(http.ErrAbortHandler)
		}
		_, _ = io.WriteString(w, "fine")
	})))
	defer front.Close()
	for _, path := range []string{"/unrecorded", "/aborted", "/text", "/error", "/nil", "/"} {
		resp, err := front.Client().Get(front.URL + path)
		if path == "/unrecorded" || path == "/aborted" {
			if err == nil {
				t.Errorf("%s is answered with %d", path, resp.StatusCode)
			}
			continue
		}
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		body, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if path == "/" {
			if resp.StatusCode != 200 || string(body) != "fine" {
				t.Errorf("the request after the panics: %d %s", resp.StatusCode, body)
			}
		} else if resp.StatusCode != 500 || !strings.Contains(string(body), "InternalServerError") || strings.Contains(string(body), "canary") {
			t.Errorf("%s: %d %s", path, resp.StatusCode, body)
		}
	}
	if text := log.String(); strings.Count(text, "a request panicked") != 4 || strings.Contains(text, "canary") {
		t.Errorf("the log says\n%s", text)
	}
}

// Covers A10: the embedded issuer says at start that it is on; beside an external one it runs only when the
// configuration names it, and where it is off there is nothing of it.
func TestTheEmbeddedIssuerIsNotForgotten(t *testing.T) {
	const says = "the embedded token issuer is on"
	external := httptest.NewTLSServer(nil)
	defer external.Close()
	external.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if r.URL.Path == "/.well-known/openid-configuration" {
			fmt.Fprintf(w, `{"issuer":%q,"jwks_uri":%q}`, external.URL, external.URL+"/keys")
		} else {
			_, _ = io.WriteString(w, `{"keys":[]}`)
		}
	})
	issuer := fmt.Sprintf("administrators = ['11111111-1111-4111-8111-111111111111']\n[[issuer]]\nurl = %q\nprincipal_prefix = 'corp'\n", external.URL)
	for name, test := range map[string]struct {
		toml string
		on   bool
	}{
		"an external issuer":                      {issuer, false},
		"an external one, embedded = false":       {issuer + "[identity]\nembedded = false\n", false},
		"both, because the configuration says so": {issuer + "[identity]\nembedded = true\n", true},
		"the embedded one":                        {"[identity]\nembedded = true\n", true},
	} {
		t.Run(name, func(t *testing.T) {
			// begin wants an environment file, which a server without the embedded issuer does not write.
			dir, tenant := t.TempDir(), "44444444-4444-4444-8444-444444444444"
			stand := writeFile(t, filepath.Join(dir, "stand-in.env"), "STRONGROOM_CA="+filepath.Join(dir, "tls", "ca.pem")+"\n")
			config := writeFile(t, filepath.Join(t.TempDir(), "c.toml"), "tenant = '"+tenant+"'\n"+test.toml)
			r := begin(t, Options{ConfigFile: config, DataDir: dir}, filepath.Base(stand))
			base := strings.Fields(r.ready)[1]
			if got := strings.Contains(r.stderr.String(), says); got != test.on {
				t.Errorf("it says so at start: %t, want %t\n%s", got, test.on, r.stderr)
			}
			if _, err := os.Stat(filepath.Join(dir, "administrator.env")); (err == nil) != test.on {
				t.Errorf("administrator.env: %v", err)
			}
			r.client.Transport.(*http.Transport).TLSClientConfig.RootCAs = pool(t, filepath.Join(dir, "tls", "ca.pem"))
			for _, path := range []string{"/" + tenant + "/v2.0/.well-known/openid-configuration", "/discovery/keys"} {
				if code, body, _ := r.get(base+path, ""); (code == 200) != test.on {
					t.Errorf("GET %s: %d %s", path, code, body)
				}
			}
			resp, err := r.client.PostForm(base+"/"+tenant+"/oauth2/v2.0/token", url.Values{"grant_type": {"client_credentials"}})
			must(t, err)
			body, _ := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			// The issuer's errors are OAuth's, with a text; those of the rest of the server are objects.
			if routed := strings.Contains(string(body), `"error":"`); routed != test.on || resp.StatusCode == 200 {
				t.Errorf("POST to the token route: %d %s", resp.StatusCode, body)
			}
		})
	}
}

// Covers A10 for attestations: the authority that attests anything is there in development, where it says so, and
// nowhere else; those that the configuration names are asked for their keys at start.
func TestTheDevelopmentAuthorityStaysAtHome(t *testing.T) {
	const says = "the attestation authority for development is on"
	paths := []string{"/attest/.well-known/openid-configuration", "/attest/certs"}
	dev := begin(t, Options{Dev: true, DataDir: t.TempDir()}, "dev.env")
	for _, path := range paths {
		if code, body, _ := dev.get(dev.env["STRONGROOM_AUTHORITY"]+path, ""); code != 200 {
			t.Errorf("development, GET %s: %d %s", path, code, body)
		}
	}
	if !strings.Contains(dev.stderr.String(), says) {
		t.Errorf("a development server does not say that it attests anything\n%s", dev.stderr)
	}
	authority, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer authority.Close()
	config := writeFile(t, filepath.Join(t.TempDir(), "c.toml"), "[identity]\nembedded = true\n[[attestation_authority]]\nurl = 'https://"+authority.Addr().String()+"/attest'\n")
	production := begin(t, Options{ConfigFile: config, DataDir: t.TempDir()}, "administrator.env")
	for _, path := range append(paths, "/attest/token") {
		if code, body, _ := production.get(production.env["STRONGROOM_AUTHORITY"]+path, ""); code != 401 && code != 404 {
			t.Errorf("production, GET %s: %d %s", path, code, body)
		}
	}
	asked, err := authority.Accept() // by nobody else: the address is this test's
	must(t, err)
	_ = asked.Close()
	production.stop()
	if text := production.stderr.String(); strings.Contains(text, says) {
		t.Errorf("a production server says that it attests anything\n%s", text)
	}
}

func pool(t *testing.T, file string) *x509.CertPool {
	t.Helper()
	ca, err := os.ReadFile(file)
	must(t, err)
	p := x509.NewCertPool()
	p.AppendCertsFromPEM(ca)
	return p
}
