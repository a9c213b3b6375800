package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"strongroom/internal/api"
	"strongroom/internal/audit"
	"strongroom/internal/client"
	"strongroom/internal/failure"
	"strongroom/secret"
)

func (r *running) admin() *client.Admin {
	r.t.Helper()
	a, err := client.DialAdmin(r.t.Context(), r.dir)
	must(r.t, err)
	r.t.Cleanup(func() { _ = a.Close() })
	return a
}

// signIn gets a token for an application.
func (r *running) signIn(clientID, clientSecret, resource string) (int, string) {
	r.t.Helper()
	form := url.Values{"grant_type": {"client_credentials"}, "client_id": {clientID}, "client_secret": {clientSecret}, "scope": {resource + "/.default"}}
	resp, err := r.client.PostForm(r.env["STRONGROOM_AUTHORITY"]+"/"+r.env["STRONGROOM_TENANT"]+"/oauth2/v2.0/token", form)
	must(r.t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	must(r.t, err)
	_, rest, _ := strings.Cut(string(body), `"access_token":"`)
	token, _, _ := strings.Cut(rest, `"`)
	return resp.StatusCode, token
}

// The life of an application, on a server that runs: made, it is known and may do nothing; a new secret ends the old
// one; tokens that are called back, and those of an application that is deleted, are refused with the next call, also
// where they were seen before. Covers A8, A9.
func TestApplicationsOfARunningServer(t *testing.T) {
	r := begin(t, Options{Dev: true, DataDir: t.TempDir()}, "dev.env")
	admin, ctx := r.admin(), t.Context()
	alpha := r.env["STRONGROOM_HSM_ALPHA_URL"]
	resource, call := "https://0.0.1:"+port(t, alpha), alpha+"/securitydomain?api-version=7.4"
	wantCall := func(token string, want int) {
		t.Helper()
		if got, body, _ := r.get(call, token); got != want {
			t.Errorf("the call is answered %d %s, want %d", got, body, want)
		}
	}
	app, err := admin.CreateApplication(ctx, api.CreateApplication{Name: "ci"})
	must(t, err)
	status, token := r.signIn(app.ClientID, app.Secret, resource)
	if status != 200 {
		t.Fatalf("signing in: %d", status)
	}
	wantCall(token, 403)

	rotated, err := admin.RotateApplication(ctx, api.RotateApplication{Application: "CI"})
	must(t, err)
	if rotated.Secret == app.Secret || rotated.ClientID != app.ClientID || rotated.EnvFile != "" {
		t.Errorf("rotated: %+v", rotated)
	}
	if status, _ := r.signIn(app.ClientID, app.Secret, resource); status != 401 {
		t.Errorf("the old secret: %d, want 401", status)
	}
	wantCall(token, 403) // the token lives on

	rotated, err = admin.RotateApplication(ctx, api.RotateApplication{Application: app.ClientID, RevokeTokens: true})
	must(t, err)
	wantCall(token, 401)
	_, token = r.signIn(app.ClientID, rotated.Secret, resource)
	wantCall(token, 403)

	list, err := admin.ListApplications(ctx, api.ListApplications{})
	must(t, err)
	for _, a := range list.Applications {
		if a.Secret != "" {
			t.Errorf("the list has a secret")
		}
	}
	if len(list.Applications) != 2 {
		t.Errorf("%d applications, want ci and administrator", len(list.Applications))
	}
	_, err = admin.DeleteApplication(ctx, api.DeleteApplication{Application: "ci"})
	must(t, err)
	wantCall(token, 401)
	if status, _ := r.signIn(app.ClientID, rotated.Secret, resource); status != 401 {
		t.Errorf("signing in as the deleted application: %d, want 401", status)
	}
	if _, err := admin.DeleteApplication(ctx, api.DeleteApplication{Application: "ci"}); refusedAs(err) != "ApplicationNotFound" {
		t.Errorf("deleted twice: %v", err)
	}
	log := r.stderr.String()
	if !strings.Contains(log, fmt.Sprintf(`"uid":%d`, os.Geteuid())) || strings.Contains(log, app.Secret) || strings.Contains(log, rotated.Secret) {
		t.Errorf("the log names no uid, or has a secret:\n%s", log)
	}
}

func refusedAs(err error) string {
	refused, _ := errors.AsType[*client.Error](err)
	if refused == nil {
		return ""
	}
	return refused.Code
}

// The server's own application: its environment file follows a new secret, while the server runs and after, and it
// cannot be deleted, because the server would make it anew.
func TestTheServersOwnApplication(t *testing.T) {
	dir := t.TempDir()
	r := begin(t, Options{Dev: true, DataDir: dir}, "dev.env")
	alpha := r.env["STRONGROOM_HSM_ALPHA_URL"]
	resource, call := "https://0.0.1:"+port(t, alpha), alpha+"/securitydomain?api-version=7.4"
	token := r.token(resource)
	if code, body, _ := r.get(call, token); code != 200 {
		t.Fatalf("%d %s", code, body)
	}
	envHas := func(want string) {
		t.Helper()
		raw, err := os.ReadFile(filepath.Join(dir, "dev.env"))
		must(t, err)
		if !strings.Contains(string(raw), "STRONGROOM_CLIENT_SECRET="+want+"\n") || strings.Count(string(raw), "\n") != len(r.env) {
			t.Error("dev.env has not the new secret, or lost a line")
		}
		info, err := os.Stat(filepath.Join(dir, "dev.env"))
		must(t, err)
		if info.Mode().Perm() != 0o600 {
			t.Errorf("dev.env has mode %v", info.Mode())
		}
	}
	rotated, err := r.admin().RotateApplication(t.Context(), api.RotateApplication{Application: "administrator", RevokeTokens: true})
	must(t, err)
	if rotated.EnvFile != filepath.Join(dir, "dev.env") {
		t.Errorf("it says that %q was written", rotated.EnvFile)
	}
	envHas(rotated.Secret)
	if code, _, _ := r.get(call, token); code != 401 {
		t.Errorf("the old token: %d, want 401", code)
	}
	if status, fresh := r.signIn(rotated.ClientID, rotated.Secret, resource); status != 200 {
		t.Errorf("the new secret: %d", status)
	} else if code, _, _ := r.get(call, fresh); code != 200 {
		t.Errorf("the new token: %d", code)
	}
	// A change of HSMs has the file written again: not with the old secret.
	ca, err := os.ReadFile(r.env["STRONGROOM_CA"])
	must(t, err)
	c, err := client.New(client.Options{CA: ca, Now: time.Now, Credentials: client.Credentials{
		Authority: r.env["STRONGROOM_AUTHORITY"], Tenant: r.env["STRONGROOM_TENANT"], ClientID: rotated.ClientID, Secret: secret.New([]byte(rotated.Secret))}})
	must(t, err)
	defer c.Close()
	plane, err := c.Server(r.env["STRONGROOM_AUTHORITY"])
	must(t, err)
	sub, err := plane.Subscription(t.Context())
	must(t, err)
	_, err = plane.Create(t.Context(), sub, client.CreateHSM{Name: "gamma", Tenant: r.env["STRONGROOM_TENANT"], ResourceGroup: "strongroom", Location: "local", Admins: []string{rotated.ObjectID}, Retention: 7})
	must(t, err)
	r.env["STRONGROOM_HSM_GAMMA_URL"] = "" // one line more
	envHas(rotated.Secret)
	if _, err := r.admin().DeleteApplication(t.Context(), api.DeleteApplication{Application: "Administrator"}); refusedAs(err) != "Conflict" {
		t.Errorf("deleted: %v", err)
	}
	r.stop()

	offline, err := OpenAdmin(t.Context(), Options{DataDir: dir})
	must(t, err)
	rotated, err = offline.RotateApplication(t.Context(), api.RotateApplication{Application: "administrator"})
	must(t, err)
	must(t, offline.Close())
	envHas(rotated.Secret)
	again := begin(t, Options{Dev: true, DataDir: dir}, "dev.env")
	if again.env["STRONGROOM_CLIENT_SECRET"] != rotated.Secret {
		t.Error("after a restart the server writes another secret")
	}
	again.token(resource)
}

// Covers L1, L2: what is done to applications is in the audit log, with who did it and to whom, while the server runs and
// after; and nothing is done that cannot be recorded.
func TestApplicationsAreRecorded(t *testing.T) {
	dir := t.TempDir()
	r := begin(t, Options{Dev: true, DataDir: dir}, "dev.env")
	ctx := t.Context()
	app, err := r.admin().CreateApplication(ctx, api.CreateApplication{Name: "canary"})
	must(t, err)
	_, err = r.admin().RotateApplication(ctx, api.RotateApplication{Application: "canary", RevokeTokens: true})
	must(t, err)
	_, _ = r.admin().DeleteApplication(ctx, api.DeleteApplication{Application: "nobody"})
	r.stop()
	offline, err := OpenAdmin(ctx, Options{DataDir: dir})
	must(t, err)
	_, err = offline.DeleteApplication(ctx, api.DeleteApplication{Application: "canary"})
	must(t, err)
	must(t, offline.audit.log.Close()) // as if its disk were gone
	if _, err := offline.CreateApplication(ctx, api.CreateApplication{Name: "second"}); !errors.Is(err, failure.Unavailable) {
		t.Errorf("without an audit log: %v", err)
	}
	if list, err := offline.directory.ListApplications(ctx); err != nil || len(list) != 1 {
		t.Errorf("it was made all the same: %v, %v", list, err)
	}
	_ = offline.Close()
	var lines []string
	for _, e := range recorded(t, dir) {
		if e.Plane != audit.PlaneServer || !strings.Contains(e.Operation, "Application") {
			continue
		}
		whom := "nobody"
		if e.App == app.ClientID && e.Principal == app.ObjectID {
			whom = "canary"
		}
		lines = append(lines, strings.Join([]string{e.Operation, e.Phase, whom, e.Outcome, e.Code}, " "))
		if e.Source != fmt.Sprintf("uid %d", os.Getuid()) {
			t.Errorf("done by %q", e.Source)
		}
	}
	want := []string{
		"CreateApplication intent nobody  ", "CreateApplication outcome canary allowed ",
		"RotateApplicationAndRevokeTokens intent nobody  ", "RotateApplicationAndRevokeTokens outcome canary allowed ",
		"DeleteApplication intent nobody  ", "DeleteApplication outcome nobody refused ApplicationNotFound",
		"DeleteApplication intent nobody  ", "DeleteApplication outcome canary allowed ",
	}
	if !slices.Equal(lines, want) {
		t.Errorf("recorded:\n%s\nwant:\n%s", strings.Join(lines, "\n"), strings.Join(want, "\n"))
	}
}

// What the socket is for and nothing else: no route of the network, no other form of a request. Covers A5.
func TestAdminSocketServesNothingElse(t *testing.T) {
	r := begin(t, Options{Dev: true, DataDir: t.TempDir()}, "dev.env")
	path := filepath.Join(r.dir, "admin.sock")
	hc := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}}}
	defer hc.CloseIdleConnections()
	const list = "/identity/app/list"
	for name, c := range map[string]struct {
		method, path, kind, body string
		want                     int
	}{
		"good":                  {"POST", list, "application/json", `{}`, 200},
		"charset":               {"POST", list, "application/json; charset=utf-8", `{}`, 200},
		"GET":                   {"GET", list, "application/json", `{}`, 405},
		"a form":                {"POST", list, "application/x-www-form-urlencoded", `{}`, 415},
		"no kind":               {"POST", list, "", `{}`, 415},
		"no body":               {"POST", list, "application/json", ``, 400},
		"no object":             {"POST", list, "application/json", `null`, 400},
		"a list":                {"POST", list, "application/json", `[]`, 400},
		"two values":            {"POST", list, "application/json", `{}{}`, 400},
		"an unknown member":     {"POST", "/identity/app/create", "application/json", `{"name":"a","secret":"mine"}`, 400},
		"a member twice":        {"POST", "/identity/app/create", "application/json", `{"name":"a","name":"b"}`, 400},
		"a member in two cases": {"POST", "/identity/app/create", "application/json", `{"name":"a","NAME":"b"}`, 400},
		"a wrong type":          {"POST", "/identity/app/create", "application/json", `{"name":1}`, 400},
		"a name that is none":   {"POST", "/identity/app/create", "application/json", `{"name":"a\n"}`, 400},
		"nested":                {"POST", "/identity/app/create", "application/json", `{"name":[[[]]]}`, 400},
		"nobody":                {"POST", "/identity/app/delete", "application/json", `{"application":"nobody"}`, 404},
		"too large":             {"POST", list, "application/json", `{"a":"` + strings.Repeat("a", maxAdminBody) + `"}`, 413},
		"a query":               {"POST", list + "?a=b", "application/json", `{}`, 404},
		"a dot segment":         {"POST", "/identity/app/./list", "application/json", `{}`, 404},
		"trailing slash":        {"POST", list + "/", "application/json", `{}`, 404},
		"health":                {"GET", "/healthz", "", "", 404},
		"keys":                  {"GET", "/keys?api-version=7.4", "", "", 404},
		"security domain":       {"POST", "/securitydomain/download?api-version=7.4", "application/json", `{}`, 404},
		"control plane":         {"GET", "/subscriptions?api-version=2022-12-01", "", "", 404},
		"tokens":                {"POST", "/oauth2/token", "application/x-www-form-urlencoded", "", 404},
		"discovery":             {"GET", "/discovery/keys", "", "", 404},
	} {
		t.Run(name, func(t *testing.T) {
			req, err := http.NewRequest(c.method, "http://strongroom"+c.path, strings.NewReader(c.body))
			must(t, err)
			if c.kind != "" {
				req.Header.Set("Content-Type", c.kind)
			}
			resp, err := hc.Do(req)
			must(t, err)
			defer resp.Body.Close()
			body, _ := io.ReadAll(resp.Body)
			if resp.StatusCode != c.want || resp.StatusCode >= 400 && !strings.Contains(string(body), `"code":`) {
				t.Errorf("got %d %s, want %d", resp.StatusCode, body, c.want)
			}
		})
	}
	if got, err := r.admin().ListApplications(t.Context(), api.ListApplications{}); err != nil || len(got.Applications) != 1 {
		t.Errorf("refused requests left %v, %v", got, err)
	}
	for _, p := range []string{list, "/identity/app/create"} { // and the other way round
		if code, _, _ := r.get(r.env["STRONGROOM_AUTHORITY"]+p, ""); code == 200 {
			t.Errorf("%s is served to the network", p)
		}
	}
}

// The socket's file: for its owner only, gone after a stop, made again after a crash, and never at the cost of a file
// that is no socket.
func TestAdminSocketFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "admin.sock")
	r := begin(t, Options{Dev: true, DataDir: dir}, "dev.env")
	info, err := os.Lstat(path)
	must(t, err)
	if info.Mode() != fs.ModeSocket|0o600 {
		t.Errorf("mode %v", info.Mode())
	}
	if _, err := OpenAdmin(t.Context(), Options{DataDir: dir}); !errors.Is(err, ErrRunning) {
		t.Errorf("the database beside the server: %v, want ErrRunning", err)
	}
	r.stop()
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after a stop: %v", err)
	}
	crashed, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	must(t, err)
	crashed.SetUnlinkOnClose(false)
	must(t, crashed.Close())
	if _, err := client.DialAdmin(t.Context(), dir); !errors.Is(err, client.ErrNotServed) {
		t.Errorf("at a socket that a crash left: %v", err)
	}
	second := begin(t, Options{Dev: true, DataDir: dir}, "dev.env")
	if _, err := second.admin().ListApplications(t.Context(), api.ListApplications{}); err != nil {
		t.Errorf("after a crash: %v", err)
	}
	second.stop()

	writeFile(t, path, "precious")
	third := begin(t, Options{Dev: true, DataDir: dir}, "dev.env")
	if !strings.Contains(third.stderr.String(), "the admin socket is not open") {
		t.Error("a file in the socket's place is not told")
	}
	third.stop()
	if raw, err := os.ReadFile(path); err != nil || string(raw) != "precious" {
		t.Errorf("the file in its place: %q, %v", raw, err)
	}
}

// A folder too deep for a Unix socket serves without one, says so, and leaves the way without a server.
func TestDataFolderTooDeepForASocket(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("d", maxSocketPath))
	r := begin(t, Options{Dev: true, DataDir: dir}, "dev.env")
	if log := r.stderr.String(); !strings.Contains(log, "the admin socket is not open") || !strings.Contains(log, "shorter path") {
		t.Errorf("the log does not say so:\n%s", log)
	}
	if _, err := client.DialAdmin(t.Context(), dir); !errors.Is(err, client.ErrNotServed) {
		t.Errorf("dialled: %v", err)
	}
	r.stop()
	a, err := OpenAdmin(t.Context(), Options{DataDir: dir})
	must(t, err)
	if _, err := a.CreateApplication(t.Context(), api.CreateApplication{Name: "ci"}); err != nil {
		t.Error(err)
	}
	must(t, a.Close())
}

// Whom the kernel does not name as root or the server's user is not heard, and more than so many at once neither.
func TestAdminSocketPeers(t *testing.T) {
	for uid, want := range map[int]bool{0: true, os.Geteuid(): true, os.Geteuid() + 1: false, 65534: os.Geteuid() == 65534, -1: false} {
		if allowedPeer(uid) != want {
			t.Errorf("uid %d is let in: %t", uid, !want)
		}
	}
	var log syncBuffer
	listener, err := listenAdmin(filepath.Join(t.TempDir(), "s"), slog.New(slog.NewTextHandler(&log, nil)))
	must(t, err)
	defer listener.Close()
	peers := listener.(*peerListener)
	accepted := make(chan net.Conn, maxAdminConnections+1)
	allow := make(chan bool, 1)
	peers.allowed = func(uid int) bool {
		if uid != os.Geteuid() {
			t.Errorf("the peer is %d, want %d", uid, os.Geteuid())
		}
		return <-allow
	}
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				close(accepted)
				return
			}
			accepted <- c
		}
	}()
	dial := func(let bool) net.Conn {
		allow <- let
		c, err := net.Dial("unix", listener.Addr().String())
		must(t, err)
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	closed := func(c net.Conn) {
		t.Helper()
		_ = c.SetReadDeadline(time.Now().Add(10 * time.Second)) // so that a broken listener fails the test and does not hang it
		if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("a connection that is not to be let in: %v", err)
		}
	}
	closed(dial(false))
	if !strings.Contains(log.String(), "refused") {
		t.Error("a refused connection is not told")
	}
	var open []net.Conn
	for range maxAdminConnections {
		dial(true)
		open = append(open, <-accepted)
	}
	closed(dial(true))
	must(t, open[0].Close())
	_ = open[0].Close() // twice, as the server may
	dial(true)
	<-accepted
	closed(dial(true))
}

// Where the embedded issuer is off, its applications are not managed: they could not sign in.
func TestAdminWithoutTheEmbeddedIssuer(t *testing.T) {
	external := httptest.NewTLSServer(http.NotFoundHandler())
	defer external.Close()
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "stand-in.env"), "STRONGROOM_CA="+filepath.Join(dir, "tls", "ca.pem")+"\n")
	config := writeFile(t, filepath.Join(t.TempDir(), "c.toml"), fmt.Sprintf("data = %q\n[[issuer]]\nurl = %q\n", dir, external.URL))
	r := begin(t, Options{ConfigFile: config, DataDir: dir}, "stand-in.env")
	if _, err := r.admin().CreateApplication(t.Context(), api.CreateApplication{Name: "ci"}); refusedAs(err) != "EmbeddedIssuerOff" {
		t.Errorf("got %v", err)
	}
	r.stop()
	if _, err := OpenAdmin(t.Context(), Options{ConfigFile: config}); err == nil || !strings.Contains(err.Error(), "embedded = true") {
		t.Errorf("without the server: %v", err)
	}
}

// Covers A10: the warning that the embedded issuer is on is not one of the first start only.
func TestTheEmbeddedIssuerSaysSoAtEveryStart(t *testing.T) {
	dir := t.TempDir()
	config := writeFile(t, filepath.Join(t.TempDir(), "c.toml"), fmt.Sprintf("data = %q\n[identity]\nembedded = true\n", dir))
	for name, o := range map[string]Options{"development": {Dev: true, DataDir: t.TempDir()}, "production": {ConfigFile: config, DataDir: dir}} {
		env := map[bool]string{true: devEnv, false: administratorEnv}[o.Dev]
		for start := range 3 {
			r := begin(t, o, env)
			if log := r.stderr.String(); strings.Count(log, `"level":"WARN","msg":"the embedded token issuer is on`) != 1 {
				t.Errorf("%s, start %d: no warning, or not one\n%s", name, start+1, log)
			}
			r.stop()
		}
	}
}

// Opening a stopped server's data makes nothing and guesses nothing.
func TestOpenAdminRefuses(t *testing.T) {
	dir, elsewhere := t.TempDir(), t.TempDir()
	pass := writeFile(t, filepath.Join(elsewhere, "pass"), "correct horse battery staple\n")
	config := writeFile(t, filepath.Join(elsewhere, "c.toml"), fmt.Sprintf("data = %q\n[seal]\nfile = %q\npassphrase_file = %q\n[identity]\nembedded = true\n", dir, filepath.Join(elsewhere, "seal.json"), pass))
	begin(t, Options{ConfigFile: config, DataDir: dir}, "administrator.env").stop()
	empty := t.TempDir()
	before := digest(t, dir) + digest(t, elsewhere)
	for name, c := range map[string]struct {
		o    Options
		want string
	}{
		"no folder":              {Options{}, "no data folder"},
		"a folder without one":   {Options{DataDir: empty}, "no server's database"},
		"the seal is elsewhere":  {Options{DataDir: dir}, "--config"},
		"an unknown setting":     {Options{ConfigFile: writeFile(t, filepath.Join(t.TempDir(), "c.toml"), "dta = 'x'")}, "unknown setting"},
		"a wrong passphrase":     {Options{ConfigFile: config, SealPassphraseFile: writeFile(t, filepath.Join(t.TempDir(), "p"), "wrong")}, "passphrase"},
		"a passphrase file gone": {Options{ConfigFile: config, SealPassphraseFile: filepath.Join(empty, "nothing")}, "passphrase of the seal"},
	} {
		t.Run(name, func(t *testing.T) {
			if a, err := OpenAdmin(t.Context(), c.o); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, %v; want an error with %q", a, err, c.want)
			}
		})
	}
	if after := digest(t, dir) + digest(t, elsewhere); after != before {
		t.Error("a refusal changed a file")
	}
	if left, _ := os.ReadDir(empty); len(left) != 0 {
		t.Errorf("a refusal left %v", left)
	}
	a, err := OpenAdmin(t.Context(), Options{ConfigFile: config})
	must(t, err)
	if list, err := a.ListApplications(t.Context(), api.ListApplications{}); err != nil || len(list.Applications) != 1 || list.Applications[0].Name != "administrator" {
		t.Errorf("with the configuration: %v, %v", list, err)
	}
	if _, err := a.RotateApplication(t.Context(), api.RotateApplication{Application: "x"}); !errors.Is(err, failure.NotFound) {
		t.Errorf("nobody: %v", err)
	}
	must(t, a.Close())
}

// Whatever comes over the socket, it is refused or means one thing.
func FuzzAdminRequest(f *testing.F) {
	for _, seed := range []string{`{}`, `{"name":"ci"}`, `{"application":"ci","revoke_tokens":true}`, `{"name":"a","name":"b"}`, `[]`, `{"name":"` + "\xff" + `"}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		a, err := decodeAdmin[api.RotateApplication](body)
		if err != nil {
			if !errors.Is(err, failure.BadParameter) {
				t.Errorf("%v is not a bad parameter", err)
			}
			return
		}
		b, err := decodeAdmin[api.RotateApplication](bytes.ToValidUTF8(body, nil))
		if err != nil || a != b {
			t.Errorf("two readings: %v and %v, %v", a, b, err)
		}
		if c, err := decodeAdmin[api.CreateApplication](body); err == nil && (c != api.CreateApplication{} || a != api.RotateApplication{}) {
			t.Errorf("it is two calls: %v and %v", a, c)
		}
	})
}
