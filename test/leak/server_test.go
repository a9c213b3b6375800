package leak_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"strongroom/test/harness"
)

var program string // the shipped program

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "strongroom-leak-*")
	if err != nil {
		panic(err)
	}
	program = harness.Build(dir, "strongroom/cmd/strongroom")
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// subject is a production server with all its talk switched on, and all that came out of it.
type subject struct {
	t          *testing.T
	cmd        *exec.Cmd
	base, data string
	metricsURL string
	env        map[string]string // administrator.env
	client     *http.Client
	ended      chan struct{}
	// What came out.
	stdout, stderr *os.File // files, so that all that was written is there
	answers        map[string]*bytes.Buffer
}

// silent is an attestation authority that never answers: nothing listens there.
const silent = "https://127.0.0.1:1/attest"

// startSubject runs a server whose seal opens with a passphrase. It takes the attestations of dev.
func startSubject(t *testing.T, dev *harness.Server, passphrase string) *subject {
	t.Helper()
	dir := t.TempDir()
	s := &subject{t: t, data: filepath.Join(dir, "data"), ended: make(chan struct{}), answers: map[string]*bytes.Buffer{}, env: map[string]string{}}
	// The metrics' port is not told anywhere. It is of another address, or the server may take it for its main one.
	free, err := net.Listen("tcp", "127.0.0.2:0")
	if err != nil {
		t.Fatal(err)
	}
	s.metricsURL = "http://" + free.Addr().String() + "/metrics"
	free.Close()
	config, words := filepath.Join(dir, "strongroom.toml"), filepath.Join(dir, "passphrase")
	for path, text := range map[string]string{words: passphrase + "\n", config: fmt.Sprintf(`data = %q
listen = "127.0.0.1:0"
hsms = ["vault1", "vault2", "vault3"]
[identity]
embedded = true
[seal]
kind = "passphrase"
passphrase_file = %q
[log]
level = "debug"
[metrics]
listen = %q
[[attestation_authority]]
url = %q
[[attestation_authority]]
url = %q
`, s.data, words, free.Addr().String(), dev.Env["STRONGROOM_AUTHORITY"]+"/attest", silent)} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for file, name := range map[**os.File]string{&s.stdout: "stdout", &s.stderr: "stderr"} {
		if *file, err = os.Create(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = (*file).Close() })
	}
	s.cmd = exec.Command(program, "serve", "--config", config)
	// Whatever is copied goes through vector registers. When the runtime interrupts a thread, the kernel writes them to the
	// stack of its signals, with what was copied last, be it by net/http: now and then a secret would be found there.
	s.cmd.Env = append(os.Environ(), "SSL_CERT_FILE="+dev.Env["STRONGROOM_CA"], "GODEBUG=asyncpreemptoff=1")
	s.cmd.Stderr = s.stderr
	pipe, err := s.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.cmd.Process.Kill(); <-s.ended })
	out := bufio.NewReader(io.TeeReader(pipe, s.stdout))
	ready, _ := out.ReadString('\n')
	go func() {
		_, _ = io.Copy(io.Discard, out)
		_ = s.cmd.Wait()
		close(s.ended)
	}()
	if !strings.HasPrefix(ready, "ready ") {
		t.Fatalf("the server is not ready: %q\n%s", ready, s.text(s.stderr))
	}
	s.base = strings.Fields(ready)[1]
	for line := range strings.Lines(s.read("administrator.env")) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		s.env[name] = strings.Trim(value, "'")
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM([]byte(s.read("tls/ca.pem")))
	address := strings.TrimPrefix(s.base, "https://")
	s.client = &http.Client{Timeout: time.Minute, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: pool},
		DialContext: func(ctx context.Context, network, to string) (net.Conn, error) {
			if strings.Contains(to, ".managedhsm.localhost:") { // every such name is this server's
				to = address
			}
			return (&net.Dialer{}).DialContext(ctx, network, to)
		},
	}}
	t.Cleanup(s.client.CloseIdleConnections)
	return s
}

func (s *subject) read(name string) string {
	s.t.Helper()
	text, err := os.ReadFile(filepath.Join(s.data, name))
	if err != nil {
		s.t.Fatal(err)
	}
	return string(text)
}

func (s *subject) text(f *os.File) string {
	s.t.Helper()
	text, err := os.ReadFile(f.Name())
	if err != nil {
		s.t.Fatal(err)
	}
	return string(text)
}

// heard keeps what came out under the name of a route or a command.
func (s *subject) heard(from string, text ...string) {
	if s.answers[from] == nil {
		s.answers[from] = &bytes.Buffer{}
	}
	for _, part := range text {
		s.answers[from].WriteString(part + "\n")
	}
}

// ask sends one request; want is its status. Bodies that are no bytes or text are sent as JSON.
func (s *subject) ask(route, method, url, token string, body any, want int) []byte {
	s.t.Helper()
	var raw []byte
	kind := "application/json"
	switch b := body.(type) {
	case nil:
	case string:
		raw = []byte(b)
	case interface{ Encode() string }:
		raw, kind = []byte(b.Encode()), "application/x-www-form-urlencoded"
	default:
		var err error
		if raw, err = json.Marshal(body); err != nil {
			s.t.Fatal(err)
		}
	}
	r, err := http.NewRequestWithContext(s.t.Context(), method, url, bytes.NewReader(raw))
	if err != nil {
		s.t.Fatal(err)
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	r.Header.Set("Content-Type", kind)
	w, err := s.client.Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	defer w.Body.Close()
	text, err := io.ReadAll(w.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	s.heard(route, fmt.Sprint(w.Header), string(text))
	if w.StatusCode != want {
		s.t.Fatalf("%s %s: %d %s, want %d", method, url, w.StatusCode, text, want)
	}
	return text
}

func (s *subject) hsm(name string) string {
	return strings.Replace(s.base, "127.0.0.1", name+".managedhsm.localhost", 1)
}

// signIn asks for a token.
func (s *subject) signIn(id, secret, resource string, want int) string {
	s.t.Helper()
	form := url.Values{"grant_type": {"client_credentials"}, "client_id": {id}, "client_secret": {secret}, "scope": {resource + "/.default"}}
	text := s.ask("POST /{tenant}/oauth2/v2.0/token", "POST", s.base+"/"+s.env["STRONGROOM_TENANT"]+"/oauth2/v2.0/token", "", form, want)
	return member(s.t, text, "access_token")
}

// run runs a command of the program and keeps what it prints under its first words.
func (s *subject) run(words int, args ...string) string {
	s.t.Helper()
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(s.t.Context(), program, args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		s.t.Fatalf("strongroom %s: %v\n%s", strings.Join(args, " "), err, &stderr)
	}
	s.heard("strongroom "+strings.Join(args[:words], " "), stdout.String(), stderr.String())
	return stdout.String()
}

// member is a text of a JSON object, "" where it has none.
func member(t testing.TB, text []byte, path ...string) string {
	t.Helper()
	var v any
	if err := json.Unmarshal(text, &v); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	for _, name := range path {
		m, _ := v.(map[string]any)
		v = m[name]
	}
	out, _ := v.(string)
	return out
}

// quit has the server end as loudly as Go can: with the stacks of all goroutines on stderr.
func (s *subject) quit() {
	s.t.Helper()
	if err := s.cmd.Process.Signal(syscall.SIGQUIT); err != nil {
		s.t.Fatal(err)
	}
	<-s.ended
}
