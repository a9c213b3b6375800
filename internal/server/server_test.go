package server

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"strongroom/internal/hsm"
)

// running is a server in this process.
type running struct {
	t      *testing.T
	dir    string
	ready  string
	env    map[string]string
	client *http.Client
	cancel context.CancelFunc
	done   chan error
	stderr *syncBuffer
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}
func (s *syncBuffer) String() string { s.mu.Lock(); defer s.mu.Unlock(); return s.b.String() }

// begin runs a server until the test ends or stop is called.
func begin(t *testing.T, o Options, envFile string) *running {
	t.Helper()
	out, in := io.Pipe()
	r := &running{t: t, dir: o.DataDir, done: make(chan error, 1), stderr: &syncBuffer{}}
	o.Stdout, o.Stderr = in, r.stderr
	if o.Listen == "" {
		o.Listen = "127.0.0.1:0"
	}
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel = cancel
	go func() {
		r.done <- Run(ctx, o)
		close(r.done)
		in.Close()
	}()
	t.Cleanup(func() { cancel(); <-r.done })
	lines := bufio.NewScanner(out)
	if !lines.Scan() || !strings.HasPrefix(lines.Text(), "ready ") {
		cancel()
		t.Fatalf("no ready line: %q; %v\n%s", lines.Text(), <-r.done, r.stderr)
	}
	r.ready = lines.Text()
	go func() { _, _ = io.Copy(io.Discard, out) }()
	r.env = map[string]string{}
	raw, err := os.ReadFile(filepath.Join(o.DataDir, envFile))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(raw)) {
		k, v, _ := strings.Cut(strings.TrimSpace(line), "=")
		r.env[k] = v
	}
	ca, err := os.ReadFile(r.env["STRONGROOM_CA"])
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	u, _ := url.Parse(r.env["STRONGROOM_AUTHORITY"])
	r.client = &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: pool},
		// *.localhost resolves in browsers and not here: every name leads to this machine.
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			host, port, _ := net.SplitHostPort(address)
			if strings.HasSuffix(host, ".localhost") {
				port = u.Port()
			}
			return (&net.Dialer{}).DialContext(ctx, network, "127.0.0.1:"+port)
		},
	}}
	return r
}

func (r *running) stop() {
	r.t.Helper()
	r.cancel()
	select {
	case err := <-r.done:
		if err != nil {
			r.t.Fatalf("stop: %v", err)
		}
	case <-time.After(30 * time.Second):
		r.t.Fatal("the server does not stop")
	}
}

func (r *running) token(resource string) string {
	r.t.Helper()
	form := url.Values{"grant_type": {"client_credentials"}, "client_id": {r.env["STRONGROOM_CLIENT_ID"]}, "client_secret": {r.env["STRONGROOM_CLIENT_SECRET"]}, "scope": {resource + "/.default"}}
	resp, err := r.client.PostForm(r.env["STRONGROOM_AUTHORITY"]+"/"+r.env["STRONGROOM_TENANT"]+"/oauth2/v2.0/token", form)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	var v struct {
		AccessToken string `json:"access_token"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&v); err != nil || v.AccessToken == "" {
		r.t.Fatalf("token: %d %v", resp.StatusCode, err)
	}
	return v.AccessToken
}

func (r *running) get(address, token string, host ...string) (int, string, http.Header) {
	r.t.Helper()
	req, err := http.NewRequest("GET", address, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	if len(host) > 0 {
		req.Host = host[0]
	}
	resp, err := r.client.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body), resp.Header
}

func writeFile(t *testing.T, path, text string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// A restart serves the same HSMs on the same ports, to the same client, with the same trust.
func TestRestartKeepsAddressesAndCredentials(t *testing.T) {
	dir := t.TempDir()
	first := begin(t, Options{Dev: true, DataDir: dir}, "dev.env")
	if code, body, _ := first.get(first.env["STRONGROOM_AUTHORITY"]+"/healthz", ""); code != 200 || !strings.Contains(body, `"dev":true`) {
		t.Fatalf("healthz: %d %s", code, body)
	}
	if code, _, _ := first.get(first.env["STRONGROOM_HSM_ALPHA_URL"]+"/readyz", ""); code != 200 {
		t.Fatalf("readyz: %d", code)
	}
	token := first.token("https://0.0.1:" + port(t, first.env["STRONGROOM_HSM_ALPHA_URL"]))
	before := strings.Join([]string{first.ready, fmt.Sprint(first.env)}, "\n")
	first.stop()
	second := begin(t, Options{Dev: true, DataDir: dir}, "dev.env")
	if after := strings.Join([]string{second.ready, fmt.Sprint(second.env)}, "\n"); after != before {
		t.Fatalf("before the restart:\n%s\nafter:\n%s", before, after)
	}
	if code, body, _ := second.get(second.env["STRONGROOM_HSM_ALPHA_URL"]+"/securitydomain?api-version=7.4", token); code != 200 || !strings.Contains(body, "provisioned") {
		t.Errorf("a token from before the restart: %d %s", code, body)
	}
	info, err := os.Stat(filepath.Join(dir, "dev.env"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("dev.env: %v, %v; want mode 0600", info.Mode(), err)
	}
	// A lost dev.env is made again, with a new secret.
	second.stop()
	if err := os.Remove(filepath.Join(dir, "dev.env")); err != nil {
		t.Fatal(err)
	}
	third := begin(t, Options{Dev: true, DataDir: dir}, "dev.env")
	if third.env["STRONGROOM_CLIENT_SECRET"] == second.env["STRONGROOM_CLIENT_SECRET"] || third.env["STRONGROOM_CLIENT_ID"] != second.env["STRONGROOM_CLIENT_ID"] {
		t.Error("after the loss of dev.env the client should be the same one with a new secret")
	}
	third.token("https://0.0.1:1")
}

func port(t *testing.T, address string) string {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	return u.Port()
}

// An HSM answers by host name on the main port and, in development, on its own; a token for one HSM's own address is not
// good at another's, and a port does not answer to foreign names. Covers A6.
func TestAddresses(t *testing.T) {
	r := begin(t, Options{Dev: true, DataDir: t.TempDir()}, "dev.env")
	main := port(t, r.env["STRONGROOM_AUTHORITY"])
	alpha, beta := r.env["STRONGROOM_HSM_ALPHA_URL"], r.env["STRONGROOM_HSM_BETA_URL"]
	const path = "/securitydomain?api-version=7.4"
	byName := "https://alpha.managedhsm.localhost:" + main
	code, _, header := r.get(byName+path, "")
	if want := `resource="https://managedhsm.localhost:` + main + `"`; code != 401 || !strings.Contains(header.Get("WWW-Authenticate"), want) {
		t.Errorf("by name: %d %s, want %s", code, header.Get("WWW-Authenticate"), want)
	}
	if code, body, _ := r.get(byName+path, r.token("https://managedhsm.localhost:"+main)); code != 200 || !strings.Contains(body, `"hsm":"alpha"`) {
		t.Errorf("by name, with a token: %d %s", code, body)
	}
	own := r.token("https://0.0.1:" + port(t, alpha))
	if code, body, _ := r.get(alpha+path, own); code != 200 || !strings.Contains(body, `"hsm":"alpha"`) {
		t.Errorf("on its own port: %d %s", code, body)
	}
	if code, body, _ := r.get(beta+path, own); code != 401 {
		t.Errorf("alpha's token at beta: %d %s, want 401", code, body)
	}
	for _, host := range []string{"127.0.0.1:1", "elsewhere.example:" + port(t, alpha), "beta.managedhsm.localhost:" + port(t, alpha), "127.0.0.1"} {
		if code, body, _ := r.get(alpha+path, own, host); code != 421 || !strings.Contains(body, "MisdirectedRequest") {
			t.Errorf("Host %s on alpha's port: %d %s, want 421", host, code, body)
		}
	}
	for _, host := range []string{"alpha.managedhsm.localhost:1", "alpha.managedhsm.localhost", "alpha.managedhsm.localhost:"} {
		if code, body, _ := r.get(byName+path, r.token("https://managedhsm.localhost:1"), host); code != 421 {
			t.Errorf("Host %s on the main port: %d %s, want 421: the port picks the audience", host, code, body)
		}
	}
	if code, _, _ := r.get("https://nowhere.managedhsm.localhost:"+main+path, r.token("https://managedhsm.localhost:"+main)); code != 404 {
		t.Errorf("an HSM that does not exist: %d, want 404", code)
	}
	if code, body, _ := r.get(r.env["STRONGROOM_AUTHORITY"]+"/nothing/here", ""); code < 400 || !strings.Contains(body, `"error"`) {
		t.Errorf("an unknown path on the main port: %d %s", code, body)
	}
}

// Tests that wrap the data plane see every answer at an HSM's address, by both ways to it and refusals included; and
// nothing of the rest, where the client secret passes.
func TestWrapDataPlane(t *testing.T) {
	var mu sync.Mutex
	var seen []string
	wrap := func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			seen = append(seen, r.URL.Path)
			mu.Unlock()
			w.Header().Set("X-Wrapped", "yes")
			next.ServeHTTP(w, r)
		})
	}
	r := begin(t, Options{Dev: true, DataDir: t.TempDir(), WrapDataPlane: wrap}, "dev.env")
	authority, alpha := r.env["STRONGROOM_AUTHORITY"], r.env["STRONGROOM_HSM_ALPHA_URL"]
	byName := "https://alpha.managedhsm.localhost:" + port(t, authority)
	r.token("https://managedhsm.localhost")
	for _, address := range []string{authority + "/healthz", alpha + "/readyz", authority + "/subscriptions?api-version=2022-12-01", authority + "/nothing"} {
		if _, _, header := r.get(address, ""); header.Get("X-Wrapped") != "" {
			t.Errorf("%s is wrapped", address)
		}
	}
	for address, host := range map[string]string{alpha + "/a": "", byName + "/b": "", alpha + "/c": "elsewhere.example", byName + "/d": "alpha.managedhsm.localhost:1"} {
		var hosts []string
		if host != "" {
			hosts = append(hosts, host)
		}
		if _, _, header := r.get(address, "", hosts...); header.Get("X-Wrapped") != "yes" {
			t.Errorf("%s, Host %q, is not wrapped", address, host)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	slices.Sort(seen)
	if got := strings.Join(seen, " "); got != "/a /b /c /d" {
		t.Errorf("seen: %s, want /a /b /c /d", got)
	}
}

// The way to serve for real with the embedded issuer and a passphrase: no dev.env, no ports of their own.
func TestProductionWithEmbeddedIssuer(t *testing.T) {
	dir := t.TempDir()
	config := writeFile(t, filepath.Join(t.TempDir(), "strongroom.toml"), fmt.Sprintf(`
data = %q
hsms = ["vault1"]
[seal]
kind = "passphrase"
passphrase_file = %q
[identity]
embedded = true
`, dir, writeFile(t, filepath.Join(t.TempDir(), "pass"), "correct horse battery staple\n")))
	r := begin(t, Options{ConfigFile: config, DataDir: dir}, "administrator.env")
	main := port(t, r.env["STRONGROOM_AUTHORITY"])
	if want := "https://vault1.managedhsm.localhost:" + main; r.env["STRONGROOM_HSM_VAULT1_URL"] != want {
		t.Errorf("URL %s, want %s", r.env["STRONGROOM_HSM_VAULT1_URL"], want)
	}
	if code, body, _ := r.get(r.env["STRONGROOM_HSM_VAULT1_URL"]+"/securitydomain?api-version=7.4", r.token("https://managedhsm.localhost:"+main)); code != 200 || !strings.Contains(body, "provisioned") {
		t.Errorf("%d %s", code, body)
	}
	if _, err := os.Stat(filepath.Join(dir, "dev.env")); err == nil {
		t.Error("a production server wrote dev.env")
	}
	if strings.Contains(r.stderr.String(), r.env["STRONGROOM_CLIENT_SECRET"]) || strings.Contains(r.stderr.String(), "battery") {
		t.Error("a secret is in the log")
	}
	r.stop()
	begin(t, Options{ConfigFile: config, DataDir: dir}, "administrator.env").stop()
}

// Metrics are served where the configuration says, and nowhere else.
func TestMetricsOnTheirOwnListener(t *testing.T) {
	free, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	at := free.Addr().String()
	free.Close()
	dir := t.TempDir()
	config := writeFile(t, filepath.Join(t.TempDir(), "c.toml"), "hsms = ['vault1']\n[identity]\nembedded = true\n[metrics]\nlisten = '"+at+"'\n")
	r := begin(t, Options{ConfigFile: config, DataDir: dir, Version: "v1.2.3"}, "administrator.env")
	vault, main := r.env["STRONGROOM_HSM_VAULT1_URL"], port(t, r.env["STRONGROOM_AUTHORITY"])
	token := r.token("https://managedhsm.localhost:" + main)
	for range 3 {
		if code, body, _ := r.get(vault+"/keys?api-version=7.4", token); code != 403 {
			t.Fatalf("%d %s", code, body)
		}
	}
	scrape := func() string {
		answer, err := http.Get("http://" + at + "/metrics")
		must(t, err)
		defer answer.Body.Close()
		body, err := io.ReadAll(answer.Body)
		must(t, err)
		return string(body)
	}
	text := scrape()
	for _, line := range []string{
		`strongroom_requests_total{code="403",hsm="vault1",operation="GetKeys"} 3`,
		`strongroom_hsm_state{hsm="vault1",state="provisioned"} 1`,
		`strongroom_hsm_keys{hsm="vault1"} 0`,
		`strongroom_tokens_total{check="signature"} 1`,
		`strongroom_tokens_total{check="remembered"} 5`, // each request asks again before its operation
		`strongroom_build_info{version="v1.2.3"} 1`,
	} {
		if !strings.Contains(text, line) {
			t.Errorf("the scrape lacks %s", line)
		}
	}
	if strings.Contains(text, token) || strings.Contains(text, r.env["STRONGROOM_CLIENT_SECRET"]) {
		t.Error("a secret is in the metrics")
	}
	for _, address := range []string{vault + "/metrics?api-version=7.4", r.env["STRONGROOM_AUTHORITY"] + "/metrics"} {
		if code, body, _ := r.get(address, token); code != 404 && code != 401 || strings.Contains(body, "strongroom_") {
			t.Errorf("%s: %d %s", address, code, body)
		}
	}
	r.stop()
	if _, err := http.Get("http://" + at + "/metrics"); err == nil {
		t.Error("metrics are served after the end")
	}
}

// digest is a fingerprint of all files of a folder.
func digest(t *testing.T, dir string) string {
	t.Helper()
	h := sha256.New()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		raw, err := os.ReadFile(path)
		fmt.Fprintf(h, "%s %x\n", path, sha256.Sum256(raw))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}

// A server that cannot start says what to do, and touches nothing.
func TestStartRefusals(t *testing.T) {
	pass := writeFile(t, filepath.Join(t.TempDir(), "pass"), "right")
	production := func(dir string) Options {
		return Options{DataDir: dir, SealPassphraseFile: pass, ConfigFile: writeFile(t, filepath.Join(t.TempDir(), "c.toml"), "[identity]\nembedded = true\n")}
	}
	for name, test := range map[string]struct {
		production bool
		damage     func(t *testing.T, dir string, o *Options)
		want       string
	}{
		"the seal is missing":     {false, func(t *testing.T, dir string, o *Options) { must(t, os.Remove(filepath.Join(dir, "seal.json"))) }, "Put the seal back"},
		"the database is missing": {false, func(t *testing.T, dir string, o *Options) { must(t, os.Remove(filepath.Join(dir, "strongroom.db"))) }, "the database was lost or moved"},
		"the seal is damaged":     {false, func(t *testing.T, dir string, o *Options) { writeFile(t, filepath.Join(dir, "seal.json"), "{}") }, "seal"},
		"the seal is another one": {false, func(t *testing.T, dir string, o *Options) {
			must(t, os.Remove(filepath.Join(dir, "seal.json")))
			other := t.TempDir()
			begin(t, Options{Dev: true, DataDir: other}, "dev.env").stop()
			copyFile(t, filepath.Join(other, "seal.json"), filepath.Join(dir, "seal.json"))
		}, "another one"},
		"the seal is of another kind": {false, func(t *testing.T, dir string, o *Options) { o.SealPassphraseFile = pass }, "keeps its kind"},
		"the database is cut": {false, func(t *testing.T, dir string, o *Options) {
			must(t, os.Truncate(filepath.Join(dir, "strongroom.db"), 5000))
		}, "database"},
		"the database is not one": {false, func(t *testing.T, dir string, o *Options) {
			writeFile(t, filepath.Join(dir, "strongroom.db"), strings.Repeat("no database ", 1000))
		}, "database"},
		"the passphrase is wrong": {true, func(t *testing.T, dir string, o *Options) {
			o.SealPassphraseFile = writeFile(t, filepath.Join(t.TempDir(), "p"), "wrong")
		}, "passphrase"},
		"the passphrase file is empty": {true, func(t *testing.T, dir string, o *Options) {
			o.SealPassphraseFile = writeFile(t, filepath.Join(t.TempDir(), "p"), "\n")
		}, "is empty"},
		"nobody to ask": {true, func(t *testing.T, dir string, o *Options) { o.SealPassphraseFile = "" }, "--seal-passphrase-file"},
		"a development folder, served for real": {false, func(t *testing.T, dir string, o *Options) {
			*o = production(dir)
			o.SealPassphraseFile = ""
		}, "belongs to a development server"},
		"a production folder, served with --dev": {true, func(t *testing.T, dir string, o *Options) { o.Dev, o.ConfigFile = true, "" }, "belongs to a production server"},
		"an attestation authority without TLS": {true, func(t *testing.T, dir string, o *Options) {
			o.ConfigFile = writeFile(t, filepath.Join(t.TempDir(), "c.toml"), "[identity]\nembedded = true\n[[attestation_authority]]\nurl = 'http://a.example'\n")
		}, "not an https URL"},
		"an attestation authority without algorithms": {true, func(t *testing.T, dir string, o *Options) {
			o.ConfigFile = writeFile(t, filepath.Join(t.TempDir(), "c.toml"), "[identity]\nembedded = true\n[[attestation_authority]]\nurl = 'https://a.example'\nalgorithms = ['HS256']\n")
		}, "HS256"},
		"a port that is taken": {false, func(t *testing.T, dir string, o *Options) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			must(t, err)
			t.Cleanup(func() { l.Close() })
			o.Listen = l.Addr().String()
		}, "address already in use"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			o := Options{Dev: true, DataDir: dir}
			env := "dev.env"
			if test.production {
				o, env = production(dir), "administrator.env"
			}
			begin(t, o, env).stop()
			o.Listen = "127.0.0.1:0"
			test.damage(t, dir, &o)
			before := digest(t, dir)
			var stderr bytes.Buffer
			o.Stdout, o.Stderr = io.Discard, &stderr
			ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
			defer cancel()
			err := Run(ctx, o)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("got error %v, want one with %q", err, test.want)
			}
			if digest(t, dir) != before {
				t.Error("the refused start changed the data folder")
			}
		})
	}
	t.Run("the folder is in use", func(t *testing.T) {
		dir := t.TempDir()
		begin(t, Options{Dev: true, DataDir: dir}, "dev.env")
		err := Run(t.Context(), Options{Dev: true, DataDir: dir, Listen: "127.0.0.1:0", Stdout: io.Discard, Stderr: io.Discard})
		if err == nil || !strings.Contains(err.Error(), "in use") {
			t.Fatalf("got %v, want one that says the folder is in use", err)
		}
	})
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	raw, err := os.ReadFile(from)
	must(t, err)
	must(t, os.WriteFile(to, raw, 0o600))
}

// Covers A10 (the embedded issuer beside another one only by configuration) and the other mistakes of a configuration.
func TestConfigRefusals(t *testing.T) {
	for name, test := range map[string]struct {
		o    Options
		toml string
		want string
	}{
		"no data folder":              {Options{Dev: true}, "", "--data"},
		"dev on a public address":     {Options{Dev: true, DataDir: "x", Listen: "0.0.0.0:8443"}, "", "loopback"},
		"dev by name":                 {Options{Dev: true, DataDir: "x", Listen: "localhost:8443"}, "", "loopback"},
		"no port":                     {Options{Dev: true, DataDir: "x", Listen: "127.0.0.1"}, "", "HOST:PORT"},
		"nobody can sign in":          {Options{DataDir: "x"}, "", "nobody could sign in"},
		"dev with a config":           {Options{Dev: true, DataDir: "x"}, "data = 'x'", "--config"},
		"an unknown setting":          {Options{}, "dtaa = 'x'", `unknown setting "dtaa"`},
		"an unknown nested setting":   {Options{}, "[seal]\nkey = 'x'", `unknown setting "seal.key"`},
		"no TOML":                     {Options{}, "data = ", "configuration"},
		"hsms without administrators": {Options{DataDir: "x"}, "hsms = ['a']\n[[issuer]]\nurl = 'https://i.example'", "administrators"},
		"a name for an object ID":     {Options{DataDir: "x"}, "operators = ['ann']\n[identity]\nembedded = true", "object ID"},
		"a path in public_url":        {Options{DataDir: "x"}, "public_url = 'https://a.example/b'\n[identity]\nembedded = true", "public_url"},
		"plain http":                  {Options{DataDir: "x"}, "public_url = 'http://a.example'\n[identity]\nembedded = true", "public_url"},
		"half a TLS pair":             {Options{DataDir: "x"}, "[tls]\nkey = 'k'\n[identity]\nembedded = true", "both"},
		"an unknown seal":             {Options{DataDir: "x"}, "[seal]\nkind = 'tpm'\n[identity]\nembedded = true", "seal kind"},
		"a limit below zero":          {Options{DataDir: "x"}, "[limits]\nkeys_per_hsm = -1\n[identity]\nembedded = true", "keys_per_hsm"},
		"a limit beyond the most":     {Options{DataDir: "x"}, "[limits]\nkeys_per_hsm = 1000001\n[identity]\nembedded = true", "keys_per_hsm"},
		"no room for a request":       {Options{DataDir: "x"}, "[limits]\nrunning = -1\n[identity]\nembedded = true", "running"},
		"a queue without end":         {Options{DataDir: "x"}, "[limits]\nwaiting = 100001\n[identity]\nembedded = true", "waiting"},
		"a rate below none":           {Options{DataDir: "x"}, "[limits]\nrequests_per_second = -2\n[identity]\nembedded = true", "requests_per_second"},
		"every address, no name":      {Options{DataDir: "x"}, "listen = '0.0.0.0:8443'\n[identity]\nembedded = true", "set public_url"},
		"every address of IPv6":       {Options{DataDir: "x"}, "listen = '[::]:8443'\n[identity]\nembedded = true", "set public_url"},
		"a port alone":                {Options{DataDir: "x"}, "listen = ':8443'\n[identity]\nembedded = true", "set public_url"},
		"metrics for everybody":       {Options{DataDir: "x"}, "[metrics]\nlisten = '0.0.0.0:9464'\n[identity]\nembedded = true", "exposed"},
		"metrics nowhere":             {Options{DataDir: "x"}, "[metrics]\nlisten = '9464'\n[identity]\nembedded = true", "HOST:PORT"},
		"a tenant that is no GUID":    {Options{DataDir: "x"}, "tenant = 'home'\n[identity]\nembedded = true", "tenant"},
		"an authority twice":          {Options{DataDir: "x"}, "[identity]\nembedded = true\n[[attestation_authority]]\nurl = 'https://a.example'\n[[attestation_authority]]\nurl = 'https://A.example/'", "there twice"},
		"an authority that is issuer": {Options{DataDir: "x"}, "[[issuer]]\nurl = 'https://a.example/x'\n[[attestation_authority]]\nurl = 'https://a.example/x'", "[[issuer]] too"},
		"an authority that is us":     {Options{DataDir: "x"}, "public_url = 'https://a.example'\n[identity]\nembedded = true\n[[attestation_authority]]\nurl = 'https://A.example/adfs'", "is this server"},
		"an authority that is us too": {Options{DataDir: "x"}, "listen = '10.0.0.1:1'\n[identity]\nembedded = true\n[[attestation_authority]]\nurl = 'https://10.0.0.1:1'", "is this server"},
		"an odd authority setting":    {Options{}, "[[attestation_authority]]\nprefix = 'x'", `unknown setting "attestation_authority.prefix"`},
	} {
		t.Run(name, func(t *testing.T) {
			if test.toml != "" {
				test.o.ConfigFile = writeFile(t, filepath.Join(t.TempDir(), "c.toml"), test.toml)
			}
			if _, err := loadConfig(test.o); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want an error with %q", err, test.want)
			}
		})
	}
	if _, err := newLogger(Config{Log: struct {
		Format string `toml:"format"`
		Level  string `toml:"level"`
	}{"xml", "info"}}, io.Discard); err == nil {
		t.Error("an unknown log format was accepted")
	}
}

// The example in the manual is a configuration that loads.
func TestManualsConfiguration(t *testing.T) {
	manual, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	block := regexp.MustCompile("(?s)```toml\n(.*?)```").FindSubmatch(manual)
	if block == nil {
		t.Fatal("docs/operations.md has no toml block")
	}
	c, err := loadConfig(Options{ConfigFile: writeFile(t, filepath.Join(t.TempDir(), "c.toml"), string(block[1]))})
	if err != nil {
		t.Fatal(err)
	}
	if c.HSMDomain != "hsm.example.org" || c.Limits.KeysPerHSM != 5000 || c.Seal.Kind != "passphrase" || len(c.Issuers) != 1 || len(c.AttestationAuthorities) != 1 {
		t.Errorf("loaded as %+v", c)
	}
}

// A stop that has begun ends: nothing is opened beside it, and what is open is closed, whatever is under way.
func TestNothingOpensWhileStopping(t *testing.T) {
	for range 20 {
		l := newListeners("127.0.0.1", &tls.Config{}, slog.New(slog.DiscardHandler))
		var wait sync.WaitGroup
		for range 4 {
			wait.Go(func() {
				for range 20 {
					port, err := l.bind(0)
					if err == nil {
						_ = l.serve(port, http.NotFoundHandler())
					}
				}
			})
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		l.shutdown(ctx)
		cancel()
		wait.Wait()
		if _, err := l.bind(0); err == nil {
			t.Fatal("a port was bound after the stop")
		}
		l.mu.Lock()
		for port := range l.serving {
			if conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
				conn.Close()
				t.Errorf("port %d still answers", port)
			}
		}
		l.mu.Unlock()
	}
}

// Names with a hyphen become names that a shell can have.
func TestEnvironmentNames(t *testing.T) {
	if got := (hsmAddress{name: "my-hsm-1"}).variable(); got != "STRONGROOM_HSM_MY_HSM_1_URL" {
		t.Errorf("got %s", got)
	}
	for in, want := range map[string]string{"/a/b.pem": "/a/b.pem", "/a b/c": "'/a b/c'", "/it's": `'/it'\''s'`} {
		if got := shellQuote(in); got != want {
			t.Errorf("shellQuote(%q) = %s, want %s", in, got, want)
		}
	}
}

// What the control plane says of an HSM that is being restored.
func TestRestoringIsShown(t *testing.T) {
	p := &provisioner{s: &Server{cfg: Config{HSMDomain: "hsm.example.org"}, base: "https://hsm.example.org:8443"}}
	for restoring, want := range map[bool]string{true: "Restoring", false: "Activated"} {
		got := p.show(hsm.Info{Spec: hsm.Spec{Name: "alpha"}, State: hsm.Activated, DomainID: "d", Restoring: restoring})
		if got.ProvisioningState != want || got.ActivationStatus != "Active" {
			t.Errorf("restoring %v: %+v", restoring, got)
		}
	}
}
