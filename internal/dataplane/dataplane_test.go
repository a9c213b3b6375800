package dataplane_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"

	"crypto"

	"strongroom/internal/access"
	"strongroom/internal/backup"
	"strongroom/internal/backupset"
	"strongroom/internal/dataplane"
	"strongroom/internal/engine"
	"strongroom/internal/engine/software"
	"strongroom/internal/hsm"
	"strongroom/internal/seal"
	"strongroom/internal/store"
	"strongroom/internal/store/memory"
	"strongroom/secret"
	"strongroom/securitydomain"
)

var update = flag.Bool("update", false, "write the golden files of refusals anew")

const (
	issuerURL = "https://issuer.test"
	adminID   = "11111111-1111-4111-8111-111111111111"
	lowID     = "22222222-2222-4222-8222-222222222222"
)

// fixture is the data plane of a few HSMs over a memory store, with tokens of its own making. The HSM is chosen
// by the first label of the host.
type fixture struct {
	t       testing.TB
	store   *memory.Store
	service *hsm.Service
	handler http.Handler
	signer  jose.Signer
	now     time.Time
	config  dataplane.Config
	// authority signs attestation tokens of authorityURL.
	authority *ecdsa.PrivateKey
	admin     string // see bearer
	// logs is what the HSM and its data plane have logged from level on, which is nothing unless a test sets it.
	logs  bytes.Buffer
	level slog.LevelVar
}

// configure has the requests from now on answered under a changed configuration.
func (f *fixture) configure(change func(*dataplane.Config)) {
	change(&f.config)
	plane := dataplane.New(f.config)
	f.handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name, _, _ := strings.Cut(r.Host, ".")
		plane.Serve(w, r, name)
	})
}

// allRoles are what a development server gives its administrator besides Managed HSM Administrator.
var allRoles = []string{access.RoleCryptoUser, access.RoleCryptoOfficer}

func newFixture(t testing.TB, hsms ...string) *fixture {
	t.Helper()
	return newFixtureWith(t, nil, hsms...)
}

// newFixtureWith is newFixture with options of the engine.
func newFixtureWith(t testing.TB, options []software.Option, hsms ...string) *fixture {
	t.Helper()
	f := &fixture{t: t, store: memory.New(), now: time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if f.signer, err = jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: key}, nil); err != nil {
		t.Fatal(err)
	}
	clock := func() time.Time { return f.now }
	f.level.Set(slog.LevelError + 1000)
	log := slog.New(slog.NewTextHandler(&f.logs, &slog.HandlerOptions{Level: &f.level}))
	verifier, err := access.NewVerifier([]access.Issuer{{URL: issuerURL, Keys: &oidc.StaticKeySet{PublicKeys: []crypto.PublicKey{key.Public()}}, Algorithms: []string{oidc.ES256}}}, clock)
	if err != nil {
		t.Fatal(err)
	}
	if f.authority, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	attestations, err := access.NewAttestations([]access.Issuer{{URL: authorityURL, Keys: &oidc.StaticKeySet{PublicKeys: []crypto.PublicKey{f.authority.Public()}}, Algorithms: []string{oidc.ES256}}}, clock)
	if err != nil {
		t.Fatal(err)
	}
	sl, err := seal.CreateFile(filepath.Join(t.TempDir(), "seal.json"), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	f.service = hsm.New(hsm.Config{Store: f.store, Seal: sl, Authorizer: access.NewAuthorizer(f.store, sl), Now: clock, Rand: rand.Reader, Log: log, ExchangeBits: 2048, Attestations: attestations,
		OpenEngine: func(w, b secret.Bytes) (engine.Engine, error) { return software.New(w, b, rand.Reader, options...) }})
	t.Cleanup(f.service.Close)
	for _, name := range hsms {
		if _, _, err := f.service.Create(t.Context(), hsm.Spec{Name: name, InitialAdmins: []string{adminID}, MoreRoles: allRoles}); err != nil {
			t.Fatal(err)
		}
	}
	// Backups find an empty place, which takes nothing.
	jobs := backup.New(backup.Config{Store: f.store, Seal: sl, HSMs: f.service, Now: clock, Log: log, Program: "test",
		Open: func(context.Context, backup.Target) (backupset.Storage, error) { return nowhere{}, nil }})
	t.Cleanup(jobs.Close)
	f.config = dataplane.Config{HSMs: f.service, Backups: jobs, Verifier: verifier, Authorization: issuerURL + "/tenant", Region: "local", Log: log, Now: clock}
	f.configure(func(*dataplane.Config) {})
	return f
}

// nowhere is a storage with nothing in it.
type nowhere struct{}

func (nowhere) Create(context.Context, string) (backupset.Object, error) {
	return nil, fs.ErrPermission
}
func (nowhere) Open(context.Context, string) (io.ReadCloser, error)    { return nil, fs.ErrNotExist }
func (nowhere) List(context.Context, string) ([]backupset.Info, error) { return nil, nil }

func (f *fixture) token(claims map[string]any) string {
	all := map[string]any{"iss": issuerURL, "aud": "https://managedhsm.localhost:8443", "oid": adminID, "sub": adminID, "tid": "t",
		"iat": f.now.Unix(), "nbf": f.now.Unix(), "exp": f.now.Add(time.Hour).Unix()}
	for k, v := range claims {
		all[k] = v
	}
	payload, _ := json.Marshal(all)
	signed, err := f.signer.Sign(payload)
	if err != nil {
		f.t.Fatal(err)
	}
	text, err := signed.CompactSerialize()
	if err != nil {
		f.t.Fatal(err)
	}
	return text
}

// request is one call; zero fields mean: the HSM alpha, api-version 7.4, an administrator's token, JSON.
type request struct {
	method, path, query, hsm, body, token, contentType string
	header                                             map[string]string
	chunked                                            io.Reader // the body, with no length announced; body is then only for the type
}

func (f *fixture) do(r request) *httptest.ResponseRecorder {
	f.t.Helper()
	if r.hsm == "" {
		r.hsm = "alpha"
	}
	if r.query == "" {
		r.query = "api-version=7.4"
	}
	if r.token == "" {
		r.token = f.token(nil)
	}
	if r.contentType == "" {
		r.contentType = "application/json; charset=utf-8"
	}
	target := "https://" + r.hsm + ".managedhsm.localhost:8443" + r.path
	if r.query != "none" {
		target += "?" + r.query
	}
	req := httptest.NewRequest(r.method, "https://x/", strings.NewReader(r.body))
	if r.chunked != nil {
		req.Body, req.ContentLength = io.NopCloser(r.chunked), -1
	}
	u, err := url.Parse(target)
	if err != nil {
		f.t.Fatal(err)
	}
	req.URL, req.Host = u, u.Host
	if r.token != "none" {
		req.Header.Set("Authorization", "Bearer "+r.token)
	}
	if r.body != "" {
		req.Header.Set("Content-Type", r.contentType)
	}
	for k, v := range r.header {
		req.Header.Set(k, v)
	}
	w := httptest.NewRecorder()
	f.handler.ServeHTTP(w, req)
	f.settle(w)
	return w
}

// settle waits until the job that an answer is about has ended: there is one of an HSM at a time.
func (f *fixture) settle(w *httptest.ResponseRecorder) {
	var op struct {
		JobID string `json:"jobId"`
	}
	if w.Code != http.StatusAccepted || json.Unmarshal(w.Body.Bytes(), &op) != nil || op.JobID == "" {
		return
	}
	for {
		ended := false
		living, err := f.service.List(context.Background(), false)
		if err != nil {
			f.t.Fatal(err)
		}
		for _, info := range living {
			h, err := f.service.Open(context.Background(), info.Name)
			if err != nil {
				f.t.Fatal(err)
			}
			for _, restores := range []bool{false, true} {
				j, err := f.config.Backups.Status(context.Background(), h, access.Caller{ObjectID: adminID}, restores, op.JobID)
				ended = ended || err == nil && j.Status != backup.InProgress
			}
		}
		if ended {
			return
		}
		time.Sleep(time.Millisecond) // between questions
	}
}

func (f *fixture) snapshot() string {
	var b strings.Builder
	_ = f.store.View(context.Background(), func(r store.Reader) error {
		for k, v := range r.Scan("", "") {
			fmt.Fprintf(&b, "%s=%x\n", k, v)
		}
		return nil
	})
	return b.String()
}

// raw is the values of all records, as they are.
func (f *fixture) raw() string {
	var b strings.Builder
	_ = f.store.View(context.Background(), func(r store.Reader) error {
		for _, v := range r.Scan("", "") {
			b.Write(v)
		}
		return nil
	})
	return b.String()
}

// custodian is a key pair with a certificate.
type custodian struct {
	key  *rsa.PrivateKey
	cert *x509.Certificate
}

func newCustodian(key *rsa.PrivateKey, name string, from, to time.Time) custodian {
	template := &x509.Certificate{SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: name}, NotBefore: from, NotAfter: to}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		panic(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	return custodian{key, cert}
}

func mustKey(bits int) *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		panic(err)
	}
	return key
}

var (
	longAgo, farOff = time.Unix(0, 0), time.Unix(1<<33, 0)
	people          = sync.OnceValue(func() (list []custodian) {
		for i := range 3 {
			list = append(list, newCustodian(mustKey(2048), fmt.Sprintf("custodian-%d", i+1), longAgo, farOff))
		}
		return list
	})
)

func jwk(c *x509.Certificate, change ...func(map[string]any)) map[string]any {
	sum := sha256.Sum256(c.Raw)
	m := map[string]any{"kty": "RSA", "alg": "RSA-OAEP-256", "key_ops": []string{"verify", "encrypt", "wrapKey"},
		"x5c": []string{base64.StdEncoding.EncodeToString(c.Raw)}, "x5t#S256": base64.RawURLEncoding.EncodeToString(sum[:])}
	if pub, is := c.PublicKey.(*rsa.PublicKey); is {
		m["n"], m["e"] = base64.RawURLEncoding.EncodeToString(pub.N.Bytes()), "AQAB"
	}
	for _, f := range change {
		f(m)
	}
	return m
}

func downloadBody(required any, jwks ...map[string]any) string {
	b, err := json.Marshal(map[string]any{"certificates": jwks, "required": required})
	if err != nil {
		panic(err)
	}
	return string(b)
}

func three() []map[string]any {
	var l []map[string]any
	for _, p := range people() {
		l = append(l, jwk(p.cert))
	}
	return l
}

func value(t testing.TB, w *httptest.ResponseRecorder, want int) string {
	t.Helper()
	var v struct {
		Value       string `json:"value"`
		TransferKey string `json:"transfer_key"`
	}
	if w.Code != want {
		t.Fatalf("status %d, want %d: %s", w.Code, want, w.Body)
	}
	if err := json.Unmarshal(w.Body.Bytes(), &v); err != nil {
		t.Fatal(err)
	}
	return v.Value + v.TransferKey
}

func (f *fixture) activate(name string) (sd string) {
	f.t.Helper()
	return value(f.t, f.do(request{method: "POST", path: "/securitydomain/download", hsm: name, body: downloadBody(2, three()...)}), 202)
}

func (f *fixture) exchange(name string) *x509.Certificate {
	f.t.Helper()
	text := value(f.t, f.do(request{method: "GET", path: "/securitydomain/upload", hsm: name}), 200)
	var key struct {
		X5C []string `json:"x5c"`
	}
	if err := json.Unmarshal([]byte(text), &key); err != nil {
		f.t.Fatalf("transfer_key is not JSON text: %v", err)
	}
	der, err := base64.StdEncoding.DecodeString(key.X5C[0])
	if err != nil {
		f.t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		f.t.Fatal(err)
	}
	return c
}

func transfer(t testing.TB, sd string, exchange *x509.Certificate, change func([]securitydomain.Item) []securitydomain.Item) string {
	t.Helper()
	file, err := securitydomain.Parse([]byte(sd))
	if err != nil {
		t.Fatal(err)
	}
	o, err := securitydomain.Open(file, []securitydomain.Key{{Name: "1", Decrypter: people()[0].key}, {Name: "3", Decrypter: people()[2].key}})
	if err != nil {
		t.Fatal(err)
	}
	items := o.Items
	if change != nil {
		items = change(items)
	}
	blob, err := securitydomain.MakeTransfer(rand.Reader, items, exchange)
	if err != nil {
		t.Fatal(err)
	}
	return string(blob)
}

func quote(s string) string {
	b, _ := json.Marshal(map[string]string{"value": s})
	return string(b)
}

// The wire of a ceremony, header by header, as the stock clients need it.
func TestCeremonyOnTheWire(t *testing.T) {
	f := newFixture(t, "alpha", "beta")

	// SDK clients send their first request without token and body.
	w := f.do(request{method: "POST", path: "/securitydomain/download", token: "none"})
	if got := w.Header().Get("WWW-Authenticate"); w.Code != 401 || got != `Bearer authorization="https://issuer.test/tenant", resource="https://managedhsm.localhost:8443"` {
		t.Fatalf("challenge: %d %q", w.Code, got)
	}

	w = f.do(request{method: "POST", path: "/securitydomain/download", body: downloadBody(2, three()...)})
	sd := value(t, w, 202)
	if got := w.Header().Get("Azure-AsyncOperation"); got != "https://alpha.managedhsm.localhost:8443/securitydomain/download/pending" {
		t.Errorf("Azure-AsyncOperation: %q", got)
	}
	if w.Header().Get("Retry-After") != "1" || w.Header().Get("Content-Type") != "application/json; charset=utf-8" || w.Header().Get("x-ms-request-id") == "" {
		t.Errorf("headers: %v", w.Header())
	}
	var file struct {
		Version    int
		SharedKeys struct {
			Required int `json:"required"`
		}
	}
	if err := json.Unmarshal([]byte(sd), &file); err != nil || file.Version != 2 || file.SharedKeys.Required != 2 {
		t.Fatalf("value is not the JSON text of a version 2 file: %v", err)
	}

	status := func(path string, want string) {
		t.Helper()
		for _, query := range []string{"none", "api-version=7.2", "api-version=2026-04-01"} {
			w := f.do(request{method: "GET", path: path, query: query})
			var s map[string]string
			if err := json.Unmarshal(w.Body.Bytes(), &s); err != nil || w.Code != 200 || s["status"] != want {
				t.Errorf("%s with %s: %d %s, want 200 and %s", path, query, w.Code, w.Body, want)
			}
			if _, has := s["status_details"]; !has || w.Header().Get("Retry-After") != "1" {
				t.Errorf("%s with %s: %s %v", path, query, w.Body, w.Header())
			}
		}
	}
	status("/securitydomain/download/pending", "InProgress")
	f.now = f.now.Add(time.Second)
	status("/securitydomain/download/pending", "Success")
	status("/securitydomain/upload/pending", "Success") // azure-cli 2.45 polls this one after a download

	exchange := f.exchange("beta")
	w = f.do(request{method: "POST", path: "/securitydomain/upload", hsm: "beta", body: quote(transfer(t, sd, exchange, nil))})
	var up map[string]string
	if err := json.Unmarshal(w.Body.Bytes(), &up); err != nil || w.Code != 202 || up["status"] != "InProgress" || w.Header().Get("Azure-AsyncOperation") != "https://beta.managedhsm.localhost:8443/securitydomain/upload/pending" {
		t.Fatalf("upload: %d %s %v", w.Code, w.Body, w.Header())
	}
	for _, name := range []string{"alpha", "beta"} {
		w := f.do(request{method: "GET", path: "/securitydomain", hsm: name})
		var s map[string]any
		if err := json.Unmarshal(w.Body.Bytes(), &s); err != nil || s["state"] != "activated" || len(fmt.Sprint(s["domain_id"])) != 64 {
			t.Fatalf("%s: %s", name, w.Body)
		}
	}
}

// Terraform's provider sends no n, e or kid, and hashes the wrong thing for x5t#S256. It has to pass; any other
// disagreement has to fail (S5).
func TestTerraformsCertificates(t *testing.T) {
	f := newFixture(t, "alpha")
	var l []map[string]any
	for _, p := range people() {
		text := base64.StdEncoding.EncodeToString(p.cert.Raw)
		sum := sha256.Sum256([]byte(text))
		l = append(l, map[string]any{"kty": "RSA", "key_ops": []string{""}, "alg": "RSA-OAEP-256", "x5c": []string{text}, "x5t#S256": base64.URLEncoding.EncodeToString(sum[:])})
	}
	value(t, f.do(request{method: "POST", path: "/securitydomain/download", body: downloadBody(2, l...)}), 202)
}

// One golden file of request and answer per refusal. Each leaves the store as it was.
func TestRefusals(t *testing.T) {
	f := newFixture(t, "alpha", "owned", "waiting", "other")
	sd := f.activate("owned")
	exchange, foreign := f.exchange("waiting"), f.exchange("other")
	good := transfer(t, sd, exchange, nil)
	// A transfer file for an exchange key that was replaced since.
	older := f.exchange("alpha")
	stale := transfer(t, sd, older, nil)
	if w := f.do(request{method: "DELETE", path: "/securitydomain/upload"}); w.Code != 204 {
		t.Fatalf("cancel: %d %s", w.Code, w.Body)
	}
	f.now = f.now.Add(time.Minute)
	p := people()
	twin := newCustodian(p[0].key, "custodian-1-renewed", longAgo, farOff)
	ecKey, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: longAgo, NotAfter: farOff}
	ecDER, err := x509.CreateCertificate(rand.Reader, template, template, ecKey.Public(), ecKey)
	if err != nil {
		t.Fatal(err)
	}
	ecCert, _ := x509.ParseCertificate(ecDER)
	os.Setenv("GODEBUG", "rsa1024min=0")
	weak := newCustodian(mustKey(1024), "weak", longAgo, farOff)
	os.Unsetenv("GODEBUG")
	eleven := []map[string]any{}
	for i := range 11 {
		c := p[0]
		if i > 0 {
			c = newCustodian(p[i%3].key, fmt.Sprintf("c%d", i), longAgo, farOff)
		}
		eleven = append(eleven, jwk(c.cert))
	}
	post := func(path, body string) request { return request{method: "POST", path: path, body: body} }
	download := func(required any, jwks ...map[string]any) request {
		return post("/securitydomain/download", downloadBody(required, jwks...))
	}
	upload := func(hsm, blob string) request {
		return request{method: "POST", path: "/securitydomain/upload", hsm: hsm, body: quote(blob)}
	}
	drop := func(tag string) func([]securitydomain.Item) []securitydomain.Item {
		return func(l []securitydomain.Item) (out []securitydomain.Item) {
			for _, i := range l {
				if i.Tag != tag {
					out = append(out, i)
				}
			}
			return out
		}
	}
	for name, body := range map[string]string{"ec": `{"kty":"EC"}`, "rsa": `{"kty":"RSA"}`, "exchange": `{"kty":"RSA","key_ops":["import"]}`} {
		if w := f.do(request{method: "POST", path: "/keys/" + name + "/create", hsm: "owned", body: body}); w.Code != 200 {
			t.Fatalf("create %s: %d %s", name, w.Code, w.Body)
		}
	}
	saved := "" // the backup of a key that is deleted now
	use := func(path, body string) request {
		return request{method: "POST", path: "/keys/" + path, hsm: "owned", body: body}
	}
	for _, r := range []request{use("disabled/create", `{"kty":"EC","attributes":{"enabled":false}}`),
		{method: "PUT", path: "/keys/disabled/rotationpolicy", hsm: "owned", body: `{"attributes":{"expiryTime":"P90D"}}`},
		use("deleted/create", `{"kty":"EC"}`), use("deleted/backup", ""), {method: "DELETE", path: "/keys/deleted", hsm: "owned"},
	} {
		w := f.do(r)
		if w.Code != 200 {
			t.Fatalf("%s %s: %d %s", r.method, r.path, w.Code, w.Body)
		}
		if strings.HasSuffix(r.path, "backup") {
			saved = value(t, w, 200)
		}
	}
	deleted := func(method, path string) request { return request{method: method, path: path, hsm: "owned"} }
	policy := func(path, body string) request {
		return request{method: "PUT", path: "/keys/" + path + "/rotationpolicy", hsm: "owned", body: body}
	}
	const rotateAfter = `{"lifetimeActions":[{"trigger":{"timeAfterCreate":"%s"},"action":{"type":"%s"}}]}`
	patch := func(path, body string) request {
		return request{method: "PATCH", path: "/keys/" + path, hsm: "owned", body: body}
	}
	three := three()
	for name, test := range map[string]struct {
		request
		status int
		code   string
	}{
		"download-two-certificates":        {download(2, three[:2]...), 400, "SecurityDomainBadQuorum"},
		"download-eleven-certificates":     {download(2, eleven...), 400, "SecurityDomainBadQuorum"},
		"download-quorum-one":              {download(1, three...), 400, "SecurityDomainBadQuorum"},
		"download-quorum-eleven":           {download(11, three...), 400, "SecurityDomainBadQuorum"},
		"download-quorum-above-number":     {download(4, three...), 400, "SecurityDomainBadQuorum"},
		"download-no-quorum":               {post("/securitydomain/download", `{"certificates":[]}`), 400, ""},
		"download-quorum-text":             {download("two", three...), 400, "BadParameter"},
		"download-same-certificate-twice":  {download(2, three[0], three[0], three[1]), 400, "SecurityDomainBadCustodian"},
		"download-same-key-twice":          {download(2, three[0], three[1], jwk(twin.cert)), 400, "SecurityDomainBadCustodian"},
		"download-rsa-1024":                {download(2, three[0], three[1], jwk(weak.cert)), 400, "SecurityDomainBadCustodian"},
		"download-elliptic-curve":          {download(2, three[0], three[1], jwk(ecCert)), 400, "SecurityDomainBadCustodian"},
		"download-no-x5c":                  {download(2, three[0], three[1], map[string]any{"kty": "RSA"}), 400, "SecurityDomainBadCustodian"},
		"download-x5c-not-base64":          {download(2, three[0], three[1], jwk(p[2].cert, func(m map[string]any) { m["x5c"] = []string{"%%%"} })), 400, "SecurityDomainBadCustodian"},
		"download-x5c-not-a-certificate":   {download(2, three[0], three[1], jwk(p[2].cert, func(m map[string]any) { m["x5c"] = []string{"AAAA"} })), 400, "SecurityDomainBadCustodian"},
		"download-modulus-disagrees":       {download(2, three[0], three[1], jwk(p[2].cert, func(m map[string]any) { m["n"] = three[0]["n"] })), 400, "SecurityDomainBadCustodian"},
		"download-exponent-disagrees":      {download(2, three[0], three[1], jwk(p[2].cert, func(m map[string]any) { m["e"] = "Aw" })), 400, "SecurityDomainBadCustodian"},
		"download-thumbprint-disagrees":    {download(2, three[0], three[1], jwk(p[2].cert, func(m map[string]any) { m["x5t#S256"] = three[0]["x5t#S256"] })), 400, "SecurityDomainBadCustodian"},
		"download-while-recovering":        {request{method: "POST", path: "/securitydomain/download", hsm: "waiting", body: downloadBody(2, three...)}, 409, "SecurityDomainRecoveryInProgress"},
		"download-empty-body":              {post("/securitydomain/download", ""), 400, "BadParameter"},
		"download-garbage":                 {post("/securitydomain/download", "\x00\xff garbage"), 400, "BadParameter"},
		"download-huge-body":               {post("/securitydomain/download", `{"certificates":["`+strings.Repeat("A", 300<<10)+`"]}`), 413, "RequestTooLarge"},
		"download-nested-10000-deep":       {post("/securitydomain/download", strings.Repeat("[", 10000)+strings.Repeat("]", 10000)), 400, "BadParameter"},
		"download-name-twice":              {post("/securitydomain/download", `{"required":2,"required":3,"certificates":[]}`), 400, "BadParameter"},
		"download-name-twice-in-two-cases": {post("/securitydomain/download", `{"required":2,"Required":3,"certificates":[]}`), 400, "BadParameter"},
		"download-trailing-data":           {post("/securitydomain/download", `{"required":2} {}`), 400, "BadParameter"},
		"download-not-json":                {request{method: "POST", path: "/securitydomain/download", body: "required=2", contentType: "application/x-www-form-urlencoded"}, 415, "UnsupportedMediaType"},
		"upload-before-exchange-key":       {upload("alpha", good), 409, "SecurityDomainNoExchangeKey"},
		"upload-to-activated":              {upload("owned", good), 409, "HsmAlreadyActivated"},
		"upload-for-another-hsm":           {upload("waiting", transfer(t, sd, foreign, nil)), 400, "SecurityDomainWrongExchangeKey"},
		"upload-for-an-older-exchange-key": {upload("waiting", stale), 400, "SecurityDomainWrongExchangeKey"},
		"upload-truncated":                 {upload("waiting", good[:strings.Index(good, `"WrappedKey"`)+5]), 400, "SecurityDomainMalformed"},
		"upload-damaged":                   {upload("waiting", flipLast(good)), 400, "SecurityDomainTransferUnopenable"},
		"upload-missing-tag":               {upload("waiting", transfer(t, sd, exchange, drop("backup-key"))), 400, "SecurityDomainItemMissing"},
		"upload-unknown-tag":               {upload("waiting", transfer(t, sd, exchange, func(l []securitydomain.Item) []securitydomain.Item { l[0].Tag = "hsm_backup"; return l })), 400, "SecurityDomainItemUnknown"},
		"upload-sd-file":                   {upload("waiting", sd), 400, "SecurityDomainMalformed"},
		"upload-empty-value":               {upload("waiting", ""), 400, "SecurityDomainMalformed"},
		"upload-value-is-object":           {request{method: "POST", path: "/securitydomain/upload", hsm: "waiting", body: `{"value":{}}`}, 400, "BadParameter"},
		"exchange-key-of-activated":        {request{method: "GET", path: "/securitydomain/upload", hsm: "owned"}, 409, "HsmAlreadyActivated"},
		"cancel-without-recovery":          {request{method: "DELETE", path: "/securitydomain/upload", hsm: "owned"}, 409, "SecurityDomainNoRecovery"},
		"status-before-anything":           {request{method: "GET", path: "/securitydomain/download/pending"}, 404, "SecurityDomainOperationNotFound"},
		"key-before-activation":            {post("/keys/k/create", `{"kty":"EC"}`), 403, "HsmNotActivated"},
		"key-while-recovering":             {request{method: "GET", path: "/keys/k", hsm: "waiting"}, 403, "HsmNotActivated"},
		"key-unknown":                      {request{method: "GET", path: "/keys/none", hsm: "owned"}, 404, "KeyNotFound"},
		"key-bad-name":                     {request{method: "POST", path: "/keys/a_b/create", hsm: "owned", body: `{"kty":"EC"}`}, 400, "BadParameter"},
		"key-unknown-type":                 {request{method: "POST", path: "/keys/k/create", hsm: "owned", body: `{"kty":"DSA"}`}, 400, "BadParameter"},
		"key-bad-size":                     {request{method: "POST", path: "/keys/k/create", hsm: "owned", body: `{"kty":"RSA","key_size":1024}`}, 400, "BadParameter"},
		"key-release-policy":               {request{method: "POST", path: "/keys/k/create", hsm: "owned", body: `{"kty":"EC","release_policy":{"data":"e30"}}`}, 400, "BadParameter"},
		"decrypt-damaged":                  {use("rsa/decrypt", `{"alg":"RSA-OAEP-256","value":"AAAA"}`), 400, "BadParameter"},
		"unwrapkey-damaged":                {use("rsa//unwrapkey", `{"alg":"RSA-OAEP","value":""}`), 400, "BadParameter"},
		"encrypt-with-ec-key":              {use("ec/encrypt", `{"alg":"RSA-OAEP-256","value":"AAAA"}`), 400, "BadParameter"},
		"encrypt-rsa1_5":                   {use("rsa/encrypt", `{"alg":"RSA1_5","value":"AAAA"}`), 400, "NotSupported"},
		"encrypt-unknown-algorithm":        {use("rsa/encrypt", `{"alg":"A256GCM","value":"AAAA"}`), 400, "BadParameter"},
		"encrypt-too-long":                 {use("rsa/encrypt", `{"alg":"RSA-OAEP-256","value":"`+strings.Repeat("AAAA", 64)+`"}`), 400, "BadParameter"},
		"encrypt-with-iv":                  {use("rsa/encrypt", `{"alg":"RSA-OAEP-256","value":"AAAA","iv":"AAAAAAAAAAAAAAAA"}`), 400, "BadParameter"},
		"wrapkey-without-value":            {use("rsa/wrapkey", `{"alg":"RSA-OAEP-256"}`), 400, "BadParameter"},
		"wrapkey-in-another-case":          {use("rsa/wrapKey", `{"alg":"RSA-OAEP-256","value":"AAAA"}`), 404, "RouteNotFound"},
		"update-unknown":                   {patch("none", `{}`), 404, "KeyNotFound"},
		"update-unknown-version":           {patch("ec/00000000000000000000000000000000", `{}`), 404, "KeyNotFound"},
		"update-without-body":              {patch("ec", ``), 400, "BadParameter"},
		"update-type":                      {patch("ec", `{"kty":"RSA"}`), 400, "BadParameter"},
		"update-size":                      {patch("rsa/", `{"key_size":4096}`), 400, "BadParameter"},
		"update-curve":                     {patch("ec", `{"crv":"P-384"}`), 400, "BadParameter"},
		"update-exportable":                {patch("ec", `{"attributes":{"exportable":true}}`), 400, "BadParameter"},
		"update-material":                  {patch("ec", `{"key":{"kty":"EC"}}`), 400, "BadParameter"},
		"update-release-policy":            {patch("ec", `{"release_policy":{"data":"e30"}}`), 400, "BadParameter"},
		"update-operation-of-other-type":   {patch("ec", `{"key_ops":["encrypt"]}`), 400, "BadParameter"},
		"update-import-key-decrypts":       {patch("exchange", `{"key_ops":["import","decrypt"]}`), 400, "BadParameter"},
		"update-import-key-loses-import":   {patch("exchange", `{"key_ops":[]}`), 400, "BadParameter"},
		"update-becomes-import-key":        {patch("rsa", `{"key_ops":["import"]}`), 400, "BadParameter"},
		"update-time-out-of-range":         {patch("ec", `{"attributes":{"exp":-1}}`), 400, "BadParameter"},
		"update-exp-before-nbf":            {patch("ec", `{"attributes":{"nbf":2000000000,"exp":1999999999}}`), 400, "BadParameter"},
		"create-over-deleted":              {use("Deleted/create", `{"kty":"EC"}`), 409, "Conflict"},
		"restore-over-deleted":             {request{method: "POST", path: "/keys/restore", hsm: "owned", body: quote(saved)}, 409, "Conflict"},
		"get-deleted":                      {deleted("GET", "/keys/deleted"), 404, "KeyNotFound"},
		"versions-of-deleted":              {deleted("GET", "/keys/deleted/versions"), 404, "KeyNotFound"},
		"sign-with-deleted":                {use("deleted/sign", `{"alg":"ES256","value":"`+strings.Repeat("A", 43)+`"}`), 404, "KeyNotFound"},
		"backup-of-deleted":                {use("deleted/backup", ""), 404, "KeyNotFound"},
		"delete-twice":                     {deleted("DELETE", "/keys/deleted"), 404, "KeyNotFound"},
		"delete-a-version":                 {deleted("DELETE", "/keys/ec/00000000000000000000000000000000"), 405, "MethodNotAllowed"},
		"deleted-unknown":                  {deleted("GET", "/deletedkeys/ec"), 404, "KeyNotFound"},
		"recover-not-deleted":              {deleted("POST", "/deletedkeys/ec/recover"), 404, "KeyNotFound"},
		"purge-not-deleted":                {deleted("DELETE", "/deletedkeys/ec"), 404, "KeyNotFound"},
		"deleted-page-too-large":           {request{method: "GET", path: "/deletedkeys", query: "api-version=7.0&maxresults=26", hsm: "owned"}, 400, "BadParameter"},
		"rng-none":                         {request{method: "POST", path: "/rng", hsm: "owned", body: `{"count":0}`}, 400, "BadParameter"},
		"rng-too-many":                     {request{method: "POST", path: "/rng", hsm: "owned", body: `{"count":129}`}, 400, "BadParameter"},
		"rng-not-a-number":                 {request{method: "POST", path: "/rng", hsm: "owned", body: `{"count":"8"}`}, 400, "BadParameter"},
		"rng-without-body":                 {request{method: "POST", path: "/rng", hsm: "owned"}, 400, "BadParameter"},
		"rng-before-activation":            {post("/rng", `{"count":8}`), 403, "HsmNotActivated"},
		"policy-of-unknown":                {policy("none", `{}`), 404, "KeyNotFound"},
		"policy-of-deleted":                {deleted("GET", "/keys/deleted/rotationpolicy"), 404, "KeyNotFound"},
		"policy-notify":                    {policy("ec", fmt.Sprintf(rotateAfter, "P30D", "Notify")), 400, "BadParameter"},
		"policy-unknown-action":            {policy("ec", fmt.Sprintf(rotateAfter, "P30D", "Delete")), 400, "BadParameter"},
		"policy-too-often":                 {policy("ec", fmt.Sprintf(rotateAfter, "P27D", "Rotate")), 400, "BadParameter"},
		"policy-weeks":                     {policy("ec", fmt.Sprintf(rotateAfter, "P4W", "Rotate")), 400, "BadParameter"},
		"policy-two-actions":               {policy("ec", `{"lifetimeActions":[{"trigger":{"timeAfterCreate":"P30D"},"action":{"type":"Rotate"}},{"trigger":{"timeBeforeExpiry":"P30D"},"action":{"type":"Rotate"}}],"attributes":{"expiryTime":"P90D"}}`), 400, "BadParameter"},
		"policy-two-triggers":              {policy("ec", `{"lifetimeActions":[{"trigger":{"timeAfterCreate":"P30D","timeBeforeExpiry":"P30D"},"action":{"type":"Rotate"}}],"attributes":{"expiryTime":"P90D"}}`), 400, "BadParameter"},
		"policy-no-trigger":                {policy("ec", `{"lifetimeActions":[{"trigger":{},"action":{"type":"Rotate"}}]}`), 400, "BadParameter"},
		"policy-short-life":                {policy("ec", `{"attributes":{"expiryTime":"P27D"}}`), 400, "BadParameter"},
		"policy-before-no-expiry":          {policy("ec", `{"lifetimeActions":[{"trigger":{"timeBeforeExpiry":"P30D"},"action":{"type":"Rotate"}}]}`), 400, "BadParameter"},
		"policy-before-the-start":          {policy("ec", `{"lifetimeActions":[{"trigger":{"timeBeforeExpiry":"P63D"},"action":{"type":"Rotate"}}],"attributes":{"expiryTime":"P90D"}}`), 400, "BadParameter"},
		"rotate-without-policy":            {use("ec/rotate", ""), 400, "BadParameter"},
		"rotate-disabled":                  {use("disabled/rotate", ""), 403, "KeyDisabled"},
		"rotate-deleted":                   {use("deleted/rotate", ""), 404, "KeyNotFound"},
		"restore-garbage":                  {request{method: "POST", path: "/keys/restore", hsm: "owned", body: `{"value":"AAAA"}`}, 400, ""},
		"restore-not-base64url":            {request{method: "POST", path: "/keys/restore", hsm: "owned", body: `{"value":"a+b="}`}, 400, "BadParameter"},
		"no-token":                         {request{method: "GET", path: "/keys", token: "none"}, 401, "Unauthorized"},
		"token-garbage":                    {request{method: "GET", path: "/keys", token: "abc"}, 401, "Unauthorized"},
		"token-expired":                    {request{method: "GET", path: "/keys", token: f.token(map[string]any{"exp": f.now.Add(-time.Hour).Unix(), "nbf": f.now.Add(-2 * time.Hour).Unix()})}, 401, "Unauthorized"},
		"token-for-another-audience":       {request{method: "GET", path: "/keys", token: f.token(map[string]any{"aud": "https://vault.azure.net"})}, 401, "Unauthorized"},
		"token-of-another-issuer":          {request{method: "GET", path: "/keys", token: f.token(map[string]any{"iss": "https://elsewhere.test"})}, 401, "Unauthorized"},
		"no-role":                          {request{method: "POST", path: "/securitydomain/download", token: f.token(map[string]any{"oid": lowID, "sub": lowID}), body: downloadBody(2, three...)}, 403, "AccessDenied"},
		"no-api-version":                   {request{method: "GET", path: "/keys", query: "none"}, 400, "MissingApiVersionParameter"},
		"unknown-api-version":              {request{method: "GET", path: "/keys", query: "api-version=1.0"}, 400, "UnsupportedApiVersion"},
		"api-version-twice":                {request{method: "GET", path: "/keys", query: "api-version=7.4&api-version=7.3"}, 400, "BadParameter"},
		"unknown-route":                    {request{method: "GET", path: "/secrets/x"}, 404, "RouteNotFound"},
		"wrong-method":                     {request{method: "PUT", path: "/securitydomain/download", body: "{}"}, 405, "MethodNotAllowed"},
		"method-override":                  {request{method: "POST", path: "/securitydomain/upload", header: map[string]string{"X-HTTP-Method": "DELETE"}}, 400, "BadParameter"},
		"unknown-hsm":                      {request{method: "GET", path: "/keys", hsm: "nowhere"}, 404, "ResourceNotFound"},
	} {
		t.Run(name, func(t *testing.T) {
			before := f.snapshot()
			w := f.do(test.request)
			if w.Code != test.status {
				t.Fatalf("status %d, want %d: %s", w.Code, test.status, w.Body)
			}
			var body struct {
				Error struct{ Code, Message string }
			}
			if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil {
				t.Fatalf("the body is not Azure's error form: %s", w.Body)
			}
			if test.code != "" && body.Error.Code != test.code {
				t.Errorf("code %s, want %s: %s", body.Error.Code, test.code, body.Error.Message)
			}
			if f.snapshot() != before {
				t.Error("the refusal changed the store")
			}
			golden(t, name, test.request, w)
		})
	}
	// After all that, what was right is still right.
	if w := f.do(upload("waiting", good)); w.Code != 202 {
		t.Fatalf("the right transfer file no longer fits: %d %s", w.Code, w.Body)
	}
}

// An expired certificate is accepted with a warning: its key still opens the file.
func TestExpiredCertificateIsAWarning(t *testing.T) {
	f := newFixture(t, "alpha")
	p := people()
	old := newCustodian(p[2].key, "retired", longAgo, time.Unix(1000, 0))
	r := request{method: "POST", path: "/securitydomain/download", body: downloadBody(2, jwk(p[0].cert), jwk(p[1].cert), jwk(old.cert))}
	w := f.do(r)
	value(t, w, 202)
	if got := w.Header().Get("Warning"); !strings.HasPrefix(got, `299 strongroom "`) || !strings.Contains(got, "retired") {
		t.Errorf("Warning: %q, want one that names the certificate", got)
	}
	golden(t, "download-expired-certificate", r, w)
}

func flipLast(blob string) string {
	i := strings.LastIndex(blob, `"x5t_256"`)
	j := strings.LastIndex(blob[:i], ".") + 5 // a character in the tag of the wrapped key's JWE
	c := byte('A')
	if blob[j] == c {
		c = 'B'
	}
	return blob[:j] + string(c) + blob[j+1:]
}

var (
	uuids = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`)
	long  = regexp.MustCompile(`[A-Za-z0-9+/_=.\[\]-]{60,}`)
	hex32 = regexp.MustCompile(`\b[0-9a-f]{32}\b`)
	hex64 = regexp.MustCompile(`\b[0-9a-f]{64}\b`)
	print = regexp.MustCompile(`([^A-Za-z0-9_-])[A-Za-z0-9_-]{43}([^A-Za-z0-9_-])`)
)

// golden compares request and answer with the file of that name. What differs from run to run is replaced by a
// word for it.
func golden(t *testing.T, name string, r request, w *httptest.ResponseRecorder) {
	t.Helper()
	var b bytes.Buffer
	query := r.query
	if query == "" {
		query = "api-version=7.4"
	}
	if query != "none" {
		query = "?" + query
	} else {
		query = ""
	}
	fmt.Fprintf(&b, "%s %s%s\n", r.method, hex32.ReplaceAllString(r.path, "VERSION"), hex32.ReplaceAllString(query, "VERSION"))
	if r.body != "" {
		fmt.Fprintf(&b, "\n%s\n", abbreviate(fmt.Sprintf("%q", r.body)))
	}
	fmt.Fprintf(&b, "\n--\n%d\n", w.Code)
	for _, h := range []string{"WWW-Authenticate", "Warning", "Azure-AsyncOperation", "Retry-After"} {
		if v := w.Header().Get(h); v != "" {
			fmt.Fprintf(&b, "%s: %s\n", h, v)
		}
	}
	body, _ := io.ReadAll(w.Body)
	fmt.Fprintf(&b, "\n%s\n", abbreviate(string(body)))
	path := filepath.Join("testdata", "refusals", name+".txt")
	if *update {
		if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		t.Fatalf("there is no golden file %s; look at the answer and run with -update:\n%s", path, &b)
	}
	if err != nil || !bytes.Equal(want, b.Bytes()) {
		t.Errorf("%s: got\n%s\nwant\n%s(%v)", path, &b, want, err)
	}
}

func abbreviate(s string) string {
	s = uuids.ReplaceAllStringFunc(s, func(u string) string {
		switch u {
		case adminID:
			return "ADMIN"
		case lowID:
			return "LOW"
		}
		return "UUID"
	})
	s = hex64.ReplaceAllString(s, "DOMAIN-ID")
	s = hex32.ReplaceAllString(s, "VERSION")
	s = long.ReplaceAllString(s, "LONG")
	return print.ReplaceAllString(s, "${1}THUMBPRINT${2}")
}

// Covers A2: odd spellings of paths are refused before routing, on every route, and never reach an operation.
func TestOddPaths(t *testing.T) {
	f := newFixture(t, "alpha")
	f.activate("alpha")
	if w := f.do(request{method: "POST", path: "/keys/k/create", body: `{"kty":"EC"}`}); w.Code != 200 {
		t.Fatal(w.Body)
	}
	for _, good := range []string{"/keys/k", "/keys/k/", "/keys/K"} {
		if w := f.do(request{method: "GET", path: good}); w.Code != 200 {
			t.Errorf("GET %s: %d, want 200", good, w.Code)
		}
	}
	digest := base64.RawURLEncoding.EncodeToString(make([]byte, 32))
	for _, good := range []string{"/keys/k/sign", "/keys/k//sign"} {
		if w := f.do(request{method: "POST", path: good, body: `{"alg":"ES256","value":"` + digest + `"}`}); w.Code != 200 {
			t.Errorf("POST %s: %d, want 200: %s", good, w.Code, w.Body)
		}
	}
	count := 0
	for _, base := range []string{"/keys", "/keys/k", "/keys/k/versions", "/keys/k/sign", "/keys/k/create", "/keys/restore", "/securitydomain", "/securitydomain/upload", "/securitydomain/download", "/securitydomain/upload/pending"} {
		last := base[strings.LastIndex(base, "/")+1:]
		for _, odd := range []string{
			"/" + base, base + "//", base + "/.", base + "/..", base + "/../keys", "/." + base, "/x/.." + base, base + "%2F", base + "%2f..", base + "%00", base + "%20",
			strings.Replace(base, last, "%"+fmt.Sprintf("%02x", last[0])+last[1:], 1), base + "\\", base + ";a=b", base + "/;", strings.ToUpper(base), base + "é", base + "%C3%A9", base + "/x/y/z",
			"/keys" + strings.Repeat("/a", 300), base + "%252e%252e",
		} {
			if odd == base || odd == "/keys/k//" {
				continue
			}
			for _, method := range []string{"GET", "POST", "DELETE", "PUT", "PATCH"} {
				count++
				req := httptest.NewRequest(method, "https://alpha.managedhsm.localhost:8443/", nil)
				u, err := url.Parse("https://alpha.managedhsm.localhost:8443" + odd + "?api-version=7.4")
				if err != nil {
					continue // the HTTP server refuses it before us
				}
				req.URL, req.Host = u, "alpha.managedhsm.localhost:8443"
				req.Header.Set("Authorization", "Bearer "+f.token(nil))
				w := httptest.NewRecorder()
				f.handler.ServeHTTP(w, req)
				if w.Code < 400 || w.Code >= 500 {
					t.Errorf("%s %s: %d, want 400, 404 or 405", method, odd, w.Code)
				}
			}
		}
	}
	if count < 500 {
		t.Fatalf("only %d odd requests were made", count)
	}
}

// Every route answers the challenge to a caller without a token, and before anything else of the request is judged.
func TestChallengeComesFirst(t *testing.T) {
	f := newFixture(t, "alpha")
	for _, path := range []string{"/keys", "/keys/k/create", "/securitydomain/download", "/no/such/route", "/"} {
		w := f.do(request{method: "POST", path: path, token: "none", query: "none", body: "not json", contentType: "text/plain"})
		if w.Code != 401 || w.Header().Get("WWW-Authenticate") == "" {
			t.Errorf("POST %s without a token: %d, want the challenge", path, w.Code)
		}
	}
}

// Covers A6: a token for one HSM's own address is not one for another's.
func TestChallengeNamesTheResourceOfTheHost(t *testing.T) {
	f := newFixture(t, "alpha")
	for host, want := range map[string]string{
		"127.0.0.1:9443":                 "https://0.0.1:9443",
		"alpha.managedhsm.localhost":     "https://managedhsm.localhost",
		"ALPHA.Managedhsm.localhost:443": "https://managedhsm.localhost:443",
		"localhost:9443":                 "https://localhost:9443",
	} {
		req := httptest.NewRequest("GET", "https://x/keys?api-version=7.4", nil)
		req.Host = host
		w := httptest.NewRecorder()
		f.handler.ServeHTTP(w, req)
		if got := w.Header().Get("WWW-Authenticate"); !strings.Contains(got, `resource="`+want+`"`) {
			t.Errorf("host %s: %s, want resource %s", host, got, want)
		}
	}
	for _, host := range []string{"a b", "a,b", `a"b`, "a=b", "[::1]:9443", "a:b", "a:99999"} {
		req := httptest.NewRequest("GET", "https://x/keys?api-version=7.4", nil)
		req.Host = host
		w := httptest.NewRecorder()
		f.handler.ServeHTTP(w, req)
		if w.Code != 400 || w.Header().Get("WWW-Authenticate") != "" {
			t.Errorf("host %q: %d %s, want 400 and no challenge", host, w.Code, w.Header().Get("WWW-Authenticate"))
		}
	}
}

// FuzzRequest sends any method, path, query and body as an administrator: no panic, Azure's form on every refusal,
// no redirect. Covers R4 for the decoders of the data plane.
func FuzzRequest(fz *testing.F) {
	f := newFixture(fz, "alpha")
	f.activate("alpha")
	token := f.token(nil)
	fz.Add("POST", "/securitydomain/download", "api-version=7.4", []byte(downloadBody(2, three()...)))
	fz.Add("POST", "/securitydomain/upload", "api-version=7.4", []byte(`{"value":"{}"}`))
	fz.Add("POST", "/keys/k/create", "api-version=7.4", []byte(`{"kty":"EC","crv":"P-256","attributes":{"exp":1}}`))
	fz.Add("POST", "/keys/k//sign", "api-version=7.4", []byte(`{"alg":"ES256","value":"AA"}`))
	fz.Add("POST", "/keys/k/decrypt", "api-version=7.4", []byte(`{"alg":"RSA-OAEP-256","value":"AAAA","iv":"","aad":null}`))
	fz.Add("PATCH", "/keys/k/", "api-version=7.4", []byte(`{"key_ops":["sign"],"attributes":{"enabled":false,"exp":1},"tags":{}}`))
	fz.Add("DELETE", "/keys/k", "api-version=7.0", []byte(nil))
	fz.Add("GET", "/deletedkeys", "api-version=7.0&maxresults=1", []byte(nil))
	fz.Add("POST", "/deletedkeys/k/recover", "api-version=7.0", []byte(nil))
	fz.Add("DELETE", "/deletedkeys/k", "api-version=7.0", []byte(nil))
	fz.Add("POST", "/rng", "api-version=7.4", []byte(`{"count":128}`))
	fz.Add("POST", "/keys/k/rotate", "api-version=7.4", []byte(nil))
	fz.Add("PUT", "/keys/k/rotationpolicy", "api-version=7.4", []byte(`{"lifetimeActions":[{"trigger":{"timeBeforeExpiry":"P30D"},"action":{"type":"rotate"}}],"attributes":{"expiryTime":"P90D"}}`))
	fz.Add("GET", "/keys", "api-version=7.4&maxresults=1&$skiptoken=x", []byte(nil))
	fz.Add("POST", "/keys/restore", "api-version=7.4", []byte(`{"value":"AAAA"}`))
	fz.Fuzz(func(t *testing.T, method, path, query string, body []byte) {
		req := httptest.NewRequest("GET", "https://alpha.managedhsm.localhost:8443/", bytes.NewReader(body))
		req.Method = method
		u, err := url.Parse(path)
		if err != nil || u.Host != "" {
			return
		}
		u.Host, u.Scheme, u.RawQuery = req.URL.Host, "https", query
		req.URL = u
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Authorization", "Bearer "+token)
		w := httptest.NewRecorder()
		f.handler.ServeHTTP(w, req)
		if w.Code >= 500 || w.Code >= 300 && w.Code < 400 {
			t.Fatalf("%q %q %q: %d %s", method, path, query, w.Code, w.Body)
		}
		if w.Code >= 400 {
			var e struct {
				Error struct{ Code, Message string }
			}
			if err := json.Unmarshal(w.Body.Bytes(), &e); err != nil || e.Error.Code == "" || e.Error.Message == "" {
				t.Fatalf("%q %q: %d %q is not Azure's error form", method, path, w.Code, w.Body)
			}
		}
	})
}
