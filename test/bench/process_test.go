package bench_test

import (
	"bufio"
	"bytes"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"strongroom/internal/access"
	"strongroom/internal/api"
	"strongroom/test/harness"
)

// process is a server that is measured: ours or the floor. Both print a line "ready https://ADDRESS …".
type process struct {
	cmd     *exec.Cmd
	log     harness.Log
	address string // host:port
	started time.Duration
	exited  chan struct{}
}

// launch starts a server and waits until it is ready. It ends with the benchmark.
func launch(b *testing.B, program string, args ...string) *process {
	b.Helper()
	p := &process{cmd: exec.Command(program, args...), exited: make(chan struct{})}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	p.cmd.Stderr = &p.log
	begun := time.Now()
	if err := p.cmd.Start(); err != nil {
		b.Fatal(err)
	}
	lines := bufio.NewReader(out)
	line, err := lines.ReadString('\n')
	p.started = time.Since(begun)
	go func() {
		_, _ = io.Copy(io.Discard, lines)
		_ = p.cmd.Wait()
		close(p.exited)
	}()
	b.Cleanup(p.stop)
	f := strings.Fields(line)
	if err != nil || len(f) < 2 || f[0] != "ready" {
		b.Fatalf("%s did not get ready: %v %q\n%s", program, err, line, p.log.String())
	}
	p.address = strings.TrimPrefix(f[1], "https://")
	return p
}

// stop ends the server as an operator would, and waits for it.
func (p *process) stop() {
	select {
	case <-p.exited:
	default:
		_ = p.cmd.Process.Signal(syscall.SIGTERM)
		<-p.exited
	}
}

// tick is the unit of times in /proc/PID/stat: USER_HZ, which is 100 on every Linux that Go runs on.
const tick = 10 * time.Millisecond

// cpu is what the process has used so far, user and system. The kernel scales the two so that their sum is exact to
// a tick.
func (p *process) cpu(b *testing.B) time.Duration {
	b.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		b.Fatal(err)
	}
	f := strings.Fields(string(raw[bytes.LastIndexByte(raw, ')')+1:])) // from field 3, the state
	user, err1 := strconv.Atoi(f[11])
	system, err2 := strconv.Atoi(f[12])
	if err1 != nil || err2 != nil {
		b.Fatalf("/proc/PID/stat cannot be read: %q", raw)
	}
	return time.Duration(user+system) * tick
}

// server is our server in production mode, with one activated HSM and somebody who may use it.
type server struct {
	*process
	dir   string
	host  string // of the HSM, as the Host header names it
	token string
	tls   *tls.Config
}

// hsmName is the HSM of every benchmark.
const hsmName = "alpha"

// start starts our server on a folder, with the audit log off, activates its HSM at the first time, and signs in.
func start(b *testing.B, dir string) *server {
	b.Helper()
	return startWith(b, dir, "\n[audit]\ninsecure_off = true\n")
}

// startWith is start with other settings at the end of the configuration.
func startWith(b *testing.B, dir, settings string) *server {
	b.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		b.Fatal(err)
	}
	config := filepath.Join(dir, "strongroom.toml")
	text := fmt.Sprintf("data = %q\nlisten = \"127.0.0.1:0\"\nhsms = [%q]\n\n[identity]\nembedded = true\n\n[limits]\nkeys_per_hsm = 200000\nrequests_per_second = -1\n", filepath.Join(dir, "data"), hsmName) + settings
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		b.Fatal(err)
	}
	s := &server{process: launch(b, binary, "serve", "--config", config), dir: dir}
	_, port, _ := strings.Cut(s.address, ":")
	s.host = hsmName + ".managedhsm.localhost:" + port
	env := map[string]string{}
	raw, err := os.ReadFile(filepath.Join(dir, "data", "administrator.env"))
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(raw)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		env[name] = strings.Trim(value, "'")
	}
	s.tls = trust(b, env["STRONGROOM_CA"])
	s.token = s.signIn(b, env)
	var state api.DomainState
	s.call(b, http.MethodGet, "/securitydomain", nil, &state)
	if state.State != "activated" {
		s.activate(b)
		// An administrator may not use keys unless somebody says so.
		s.call(b, http.MethodPut, "/providers/Microsoft.Authorization/roleAssignments/0b5e0000-0000-4000-8000-000000000001", api.RoleAssignmentRequest{Properties: api.RoleAssignmentProperties{
			RoleDefinitionID: "Microsoft.KeyVault/providers/Microsoft.Authorization/roleDefinitions/" + access.RoleCryptoUser, PrincipalID: env["STRONGROOM_OBJECT_ID"]}}, nil)
	}
	return s
}

// trust is the client's side of TLS.
func trust(b *testing.B, caFile string) *tls.Config {
	b.Helper()
	ca, err := os.ReadFile(caFile)
	if err != nil {
		b.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		b.Fatal("the CA file holds no certificate")
	}
	return &tls.Config{RootCAs: pool, ServerName: "localhost", MinVersion: tls.VersionTLS13}
}

// signIn gets a token for the HSM. It is good for an hour, longer than any benchmark.
func (s *server) signIn(b *testing.B, env map[string]string) string {
	b.Helper()
	client := http.Client{Transport: &http.Transport{TLSClientConfig: s.tls}}
	defer client.CloseIdleConnections()
	_, parent, _ := strings.Cut(s.host, ".")
	resp, err := client.PostForm("https://"+s.address+"/"+env["STRONGROOM_TENANT"]+"/oauth2/v2.0/token", url.Values{
		"grant_type": {"client_credentials"}, "client_id": {env["STRONGROOM_CLIENT_ID"]}, "client_secret": {env["STRONGROOM_CLIENT_SECRET"]},
		"scope": {"https://" + parent + "/.default"},
	})
	if err != nil {
		b.Fatal(err)
	}
	defer resp.Body.Close()
	var answer struct {
		Token string `json:"access_token"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || answer.Token == "" {
		b.Fatalf("no token: status %d, %v", resp.StatusCode, err)
	}
	return answer.Token
}

// activate downloads the security domain for three custodians.
func (s *server) activate(b *testing.B) {
	b.Helper()
	info := api.CertificateInfo{Required: 2}
	for _, cert := range certificates(b) {
		key, sum := cert.PublicKey.(*rsa.PublicKey), sha256.Sum256(cert.Raw)
		b64 := base64.RawURLEncoding.EncodeToString
		info.Certificates = append(info.Certificates, api.CertificateJWK{
			Kid: cert.Subject.String(), Kty: "RSA", Alg: "RSA-OAEP-256", KeyOps: []string{"verify", "encrypt", "wrapKey"},
			N: b64(key.N.Bytes()), E: b64(big.NewInt(int64(key.E)).Bytes()),
			X5C: []string{base64.StdEncoding.EncodeToString(cert.Raw)}, X5TS256: b64(sum[:]),
		})
	}
	s.call(b, http.MethodPost, "/securitydomain/download", info, nil)
}

// call makes one call for the set-up of a benchmark.
func (s *server) call(b *testing.B, method, path string, body, into any) {
	b.Helper()
	c := s.connect(b)
	defer c.Close()
	status, text := c.roundTrip(b, s.request(b, method, path, body))
	if status/100 != 2 {
		b.Fatalf("%s %s: %d %s", method, path, status, text)
	}
	if into != nil {
		if err := json.Unmarshal(text, into); err != nil {
			b.Fatal(err)
		}
	}
}
