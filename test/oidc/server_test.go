package oidc_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"strongroom/test/harness"
)

var binary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "strongroom-oidc-*")
	if err != nil {
		panic(err)
	}
	binary = harness.Build(dir, "strongroom/cmd/strongroom")
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// process is `strongroom serve --config`, as an operator runs it, with the provider as an issuer.
type process struct {
	t      *testing.T
	base   string // https://127.0.0.1:PORT
	hsm    string // https://vault1.managedhsm.localhost:PORT
	data   string // its data folder
	log    logFile
	client *http.Client
}

// logFile is what the server writes to stderr. It is a file, so that all that the server has written is there.
type logFile string

func (l logFile) String() string {
	text, err := os.ReadFile(string(l))
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// startProcess runs a server whose machine trusts the provider's certificate. config stands before the [[issuer]].
func startProcess(t *testing.T, p *provider, config, issuer string) *process {
	t.Helper()
	dir := t.TempDir()
	file, roots, data := filepath.Join(dir, "strongroom.toml"), filepath.Join(dir, "roots.pem"), filepath.Join(dir, "data")
	text := fmt.Sprintf("data = %q\nlisten = \"127.0.0.1:0\"\nhsms = [\"vault1\"]\n%s\n[[issuer]]\nurl = %q\n%s\n", data, config, p.URL, issuer)
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.Certificate().Raw})
	for path, content := range map[string][]byte{file: []byte(text), roots: certificate} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := &process{t: t, data: data, log: logFile(filepath.Join(dir, "log"))}
	stderr, err := os.Create(string(s.log))
	if err != nil {
		t.Fatal(err)
	}
	defer stderr.Close()
	cmd := exec.Command(binary, "serve", "--config", file)
	cmd.Env = append(os.Environ(), "SSL_CERT_FILE="+roots)
	cmd.Stderr = stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := <-ended; err != nil {
			t.Errorf("the server did not stop cleanly: %v\n%s", err, s.log)
		}
	})
	lines := bufio.NewScanner(stdout)
	ready := lines.Scan() && strings.HasPrefix(lines.Text(), "ready ")
	line := lines.Text()
	go func() {
		_, _ = io.Copy(io.Discard, stdout)
		ended <- cmd.Wait()
	}()
	if !ready {
		t.Fatalf("the server is not ready: %q", line)
	}
	fields := strings.Fields(line)
	s.base = fields[1]
	s.hsm = strings.TrimPrefix(fields[2], "vault1=")
	ca, err := os.ReadFile(filepath.Join(data, "tls", "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	address := strings.TrimPrefix(s.base, "https://")
	s.client = &http.Client{Timeout: time.Minute, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: pool},
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) { // every name is this server's
			return (&net.Dialer{}).DialContext(ctx, network, address)
		},
	}}
	t.Cleanup(s.client.CloseIdleConnections)
	_, port, _ := net.SplitHostPort(address)
	p.set(func(st *state) { st.audience = "https://managedhsm.localhost:" + port })
	return s
}

// call asks the HSM with a token for something that its administrators may do.
func (s *process) call(token string) (int, http.Header, string) {
	s.t.Helper()
	req, err := http.NewRequest(http.MethodGet, s.hsm+"/securitydomain?api-version=7.4", nil)
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := s.client.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, resp.Header, string(body)
}

func (s *process) want(name, token string, status int) {
	s.t.Helper()
	if got, _, body := s.call(token); got != status {
		s.t.Errorf("%s: answered %d %s, want %d", name, got, body, status)
	}
}

// Through the whole server: a token of the provider gets in with a role, by itself or by a group, and not without one;
// and none of what is wrong with a token gets in. Covers A4, A10.
func TestServerWithAnotherProvider(t *testing.T) {
	p := newProvider(t)
	admin, group := uuid.NewString(), uuid.NewString()
	s := startProcess(t, p, fmt.Sprintf("administrators = [%q, %q]", admin, group), "groups = true")
	as := func(subject string, groups ...string) func(*state) {
		return func(st *state) {
			st.subject = subject
			if groups != nil {
				st.claims = map[string]any{"groups": groups}
			}
		}
	}
	good := p.token(as(admin))
	s.want("an administrator", good, 200)
	s.want("the same again", good, 200)
	s.want("somebody without a role", p.token(), 403)
	s.want("a member of the administrators' group", p.token(as(uuid.NewString(), uuid.NewString(), group)), 200)
	s.want("a member of other groups", p.token(as(uuid.NewString(), uuid.NewString())), 403)
	for name, change := range map[string]func(*state){
		"for another resource": func(st *state) { st.audience = "https://vault.example.org" },
		"expired":              func(st *state) { st.lifetime = -2 * time.Minute },
		"early":                func(st *state) { st.early = 2 * time.Minute },
		"of an unknown key":    func(st *state) { st.signer = newEC(t, "unknown") },
	} {
		s.want(name, p.token(as(admin), change), 401)
	}
	other := newProvider(t)
	other.set(func(st *state) { st.audience = p.get().audience })
	s.want("of a provider that is not configured", other.token(as(admin)), 401)
	s.want("no token at all", "x", 401)
	if _, header, _ := s.call("x"); !strings.Contains(header.Get("WWW-Authenticate"), "Bearer ") {
		t.Error("a 401 without a challenge")
	}
	if log := s.log.String(); strings.Contains(log, "the embedded token issuer is on") || strings.Contains(log, good) {
		t.Errorf("the embedded issuer is on, or a token is in the log:\n%s", log)
	}
}

// Beside the embedded issuer, the provider's people have its prefix, and nobody is taken for somebody of the other one.
func TestServerWithTwoIssuers(t *testing.T) {
	p := newProvider(t)
	admin := uuid.NewString()
	s := startProcess(t, p, fmt.Sprintf("administrators = [\"corp:%s\"]\n[identity]\nembedded = true", admin), `principal_prefix = "corp"`)
	s.want("the provider's administrator", p.token(func(st *state) { st.subject = admin }), 200)
	// Whoever is the embedded issuer's administrator there is nobody here.
	raw, err := os.ReadFile(filepath.Join(s.data, "administrator.env"))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(raw), "STRONGROOM_OBJECT_ID=")
	embedded, _, _ := strings.Cut(rest, "\n")
	if _, err := uuid.Parse(embedded); err != nil {
		t.Fatal(err)
	}
	s.want("its namesake at the provider", p.token(func(st *state) { st.subject = embedded }), 403)
	s.want("and with another prefix in its name", p.token(func(st *state) { st.subject = "corp:" + admin }), 403)
	if !strings.Contains(s.log.String(), "the embedded token issuer is on") {
		t.Error("the log does not say that the embedded issuer is on")
	}
}

// A provider that is down does not keep a server from starting. Its tokens are answered 503, for a while.
func TestServerStartsWithoutItsProvider(t *testing.T) {
	p := newProvider(t)
	token := p.token()
	p.set(func(st *state) { st.down = true })
	s := startProcess(t, p, fmt.Sprintf("administrators = [%q]", p.get().subject), "")
	status, header, body := s.call(token)
	if status != 503 || header.Get("Retry-After") == "" || strings.Contains(body, p.URL) {
		t.Errorf("answered %d, Retry-After %q, %s; want 503 with the time to come back, and nothing about the provider's address", status, header.Get("Retry-After"), body)
	}
	told := func() bool { return strings.Contains(s.log.String(), "the keys of a token issuer cannot be read") }
	for range 200 { // the answer may be there before the line in the log
		if told() {
			return
		}
		s.call(token)
	}
	t.Errorf("the log does not say so\n%s", s.log)
}
