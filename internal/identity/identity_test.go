package identity

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/coreos/go-oidc/v3/oidc"

	"strongroom/internal/access"
	"strongroom/internal/failure"
	"strongroom/internal/seal"
	"strongroom/internal/store"
	"strongroom/internal/store/memory"
	"strongroom/secret"
)

const (
	tenant   = "7e7e7e7e-1111-4111-8111-111111111111"
	resource = "https://0.0.1:9443"
)

// testSeal is AES-256-GCM under a fresh key, and counts openings.
type testSeal struct {
	aead    cipher.AEAD
	unwraps *atomic.Int64
}

func newSeal(t testing.TB) testSeal {
	t.Helper()
	key := make([]byte, 32)
	_, _ = rand.Read(key)
	block, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		t.Fatal(err)
	}
	return testSeal{aead, new(atomic.Int64)}
}

func (testSeal) ID() string   { return "00" }
func (testSeal) Kind() string { return "test" }
func (testSeal) Close()       {}
func (s testSeal) Wrap(p secret.Bytes, about string) ([]byte, error) {
	return s.aead.Seal(nil, nil, p.Reveal(), []byte(about)), nil
}
func (s testSeal) Unwrap(sealed []byte, about string) (secret.Bytes, error) {
	s.unwraps.Add(1)
	p, err := s.aead.Open(nil, nil, sealed, []byte(about))
	if err != nil {
		return secret.Bytes{}, seal.ErrUnwrap
	}
	return secret.Take(p), nil
}

// fixture is an issuer behind TLS on 127.0.0.1, with one application.
type fixture struct {
	issuer *Issuer
	server *httptest.Server
	store  store.Store
	seal   testSeal
	log    *bytes.Buffer
	clock  *atomic.Int64 // seconds added to the real time, or to stopped
	// stopped, if it is set before anything is asked, is the time instead of the real one: for tests of what ends by age.
	stopped time.Time
	app     App
	secret  secret.Bytes
}

func (f *fixture) now() time.Time {
	now := f.stopped
	if now.IsZero() {
		now = time.Now()
	}
	return now.Add(time.Duration(f.clock.Load()) * time.Second)
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{store: memory.New(), seal: newSeal(t), log: new(bytes.Buffer), clock: new(atomic.Int64)}
	f.server = httptest.NewUnstartedServer(nil)
	f.server.StartTLS()
	t.Cleanup(f.server.Close)
	f.issuer = f.open(t)
	f.server.Config.Handler = f.issuer.Handler()
	var err error
	if f.app, f.secret, err = f.issuer.AddApplication(t.Context(), "ci"); err != nil {
		t.Fatal(err)
	}
	return f
}

func (f *fixture) open(t *testing.T) *Issuer {
	t.Helper()
	i, err := Open(t.Context(), Config{
		BaseURLs: []string{"https://localhost:1", f.server.URL}, Tenant: strings.ToUpper(tenant),
		Store: f.store, Seal: f.seal, Rand: rand.Reader, Now: f.now, Log: slog.New(slog.NewTextHandler(f.log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func (f *fixture) verifier(t *testing.T, i *Issuer) *access.Verifier {
	t.Helper()
	v, err := access.NewVerifier(i.Issuers(), f.now)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// form is a good request for a token, with changes; an empty value removes a parameter.
func (f *fixture) form(changes url.Values) url.Values {
	v := url.Values{
		"grant_type": {"client_credentials"}, "client_id": {f.app.ClientID}, "client_secret": {string(f.secret.Reveal())},
		"scope": {resource + "/.default"}, "client_info": {"1"},
	}
	for name, value := range changes {
		v[name] = value
		if len(value) == 0 {
			delete(v, name)
		}
	}
	return v
}

type reply struct {
	status int
	header http.Header
	raw    string
	body   map[string]any
}

func (f *fixture) send(t *testing.T, method, path, contentType, body string, change ...func(*http.Request)) reply {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, f.server.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if contentType != "" {
		r.Header.Set("Content-Type", contentType)
	}
	for _, c := range change {
		c(r)
	}
	response, err := f.server.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	raw, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	out := reply{status: response.StatusCode, header: response.Header, raw: string(raw)}
	if method != http.MethodHead {
		if err := json.Unmarshal(raw, &out.body); err != nil {
			t.Fatalf("%s %s: the answer is not JSON: %q", method, path, raw)
		}
	}
	return out
}

func (f *fixture) post(t *testing.T, path string, form url.Values, change ...func(*http.Request)) reply {
	t.Helper()
	return f.send(t, http.MethodPost, path, "application/x-www-form-urlencoded", form.Encode(), change...)
}

// Every way in gives a token that the verifier takes, under the issuer name that its discovery document says.
func TestTokensAgreeWithTheirDiscovery(t *testing.T) {
	f := newFixture(t)
	v := f.verifier(t, f.issuer)
	cases := map[string]struct{ discovery, issuer, ver string }{
		"plain":               {"/.well-known/openid-configuration", "", "2.0"},
		"adfs, for az":        {"/adfs/.well-known/openid-configuration", "/adfs", "1.0"},
		"tenant":              {"/" + tenant + "/.well-known/openid-configuration", "/" + tenant, "1.0"},
		"tenant, version 2":   {"/" + tenant + "/v2.0/.well-known/openid-configuration", "/" + tenant + "/v2.0", "2.0"},
		"tenant, in capitals": {"/" + strings.ToUpper(tenant) + "/v2.0/.well-known/openid-configuration", "/" + tenant + "/v2.0", "2.0"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			doc := f.send(t, http.MethodGet, c.discovery, "", "")
			if doc.status != 200 || doc.body["issuer"] != f.server.URL+c.issuer {
				t.Fatalf("status %d, issuer %v; want 200, %s", doc.status, doc.body["issuer"], f.server.URL+c.issuer)
			}
			endpoint, ok := strings.CutPrefix(doc.body["token_endpoint"].(string), f.server.URL)
			if !ok {
				t.Fatalf("token endpoint %v is elsewhere", doc.body["token_endpoint"])
			}
			for _, name := range []string{"authorization_endpoint", "jwks_uri"} {
				path, ok := strings.CutPrefix(doc.body[name].(string), f.server.URL)
				if !ok || !f.issuer.Owns(path) {
					t.Errorf("%s %v is no path of the issuer", name, doc.body[name])
				}
			}
			got := f.post(t, endpoint, f.form(nil))
			if got.status != 200 || got.body["token_type"] != "Bearer" || got.body["expires_in"] != 3600.0 || got.body["refresh_token"] != nil {
				t.Fatalf("got %d %v", got.status, got.body["token_type"])
			}
			if got.header.Get("Cache-Control") != "no-store" {
				t.Errorf("Cache-Control is %q, want no-store", got.header.Get("Cache-Control"))
			}
			raw := got.body["access_token"].(string)
			caller, err := v.Verify(t.Context(), raw, []string{resource})
			if err != nil {
				t.Fatal(err)
			}
			want := access.Caller{ObjectID: f.app.ObjectID, AppID: f.app.ClientID, Tenant: tenant, Issuer: f.server.URL + c.issuer, Name: "ci"}
			if caller.ObjectID != want.ObjectID || caller.AppID != want.AppID || caller.Tenant != want.Tenant || caller.Issuer != want.Issuer || caller.Name != want.Name {
				t.Errorf("caller is %+v, want %+v", caller, want)
			}
			claims := claimsOf(t, raw)
			if claims["ver"] != c.ver || claims["exp"].(float64)-claims["nbf"].(float64) != 3600 || claims["jti"] == nil || claims["sub"] != f.app.ObjectID {
				t.Errorf("claims are %v", claims)
			}
			if _, err := v.Verify(t.Context(), raw, []string{"https://0.0.1:9444"}); !errors.Is(err, failure.Unauthorized) {
				t.Errorf("the token of one HSM on another: %v, want Unauthorized", err)
			}
		})
	}
}

func claimsOf(t *testing.T, raw string) map[string]any {
	t.Helper()
	decoded, err := base64.RawURLEncoding.DecodeString(strings.Split(raw, ".")[1])
	if err != nil {
		t.Fatal(err)
	}
	var claims map[string]any
	if err := json.Unmarshal(decoded, &claims); err != nil {
		t.Fatal(err)
	}
	return claims
}

// The Azure SDK's own client-secret credential, over real TLS, with its checks of the discovery document on.
func TestAzureSDKSignsIn(t *testing.T) {
	f := newFixture(t)
	credential := func(authority, clientSecret string) (azcore.AccessToken, error) {
		c, err := azidentity.NewClientSecretCredential(tenant, f.app.ClientID, clientSecret, &azidentity.ClientSecretCredentialOptions{
			ClientOptions: azcore.ClientOptions{
				Cloud:     cloud.Configuration{ActiveDirectoryAuthorityHost: authority},
				Transport: f.server.Client(),
				Retry:     policy.RetryOptions{MaxRetries: -1},
			},
			DisableInstanceDiscovery: true,
		})
		if err != nil {
			t.Fatal(err)
		}
		return c.GetToken(t.Context(), policy.TokenRequestOptions{Scopes: []string{resource + "/.default"}, EnableCAE: true, TenantID: tenant})
	}
	got, err := credential(f.server.URL, string(f.secret.Reveal()))
	if err != nil {
		t.Fatal(err)
	}
	if left := time.Until(got.ExpiresOn); left < 59*time.Minute || left > 61*time.Minute {
		t.Errorf("the SDK thinks the token lives %v, want an hour", left)
	}
	caller, err := f.verifier(t, f.issuer).Verify(t.Context(), got.Token, []string{resource})
	if err != nil || caller.ObjectID != f.app.ObjectID {
		t.Errorf("got %v, %v", caller, err)
	}
	if _, err := credential(f.server.URL, "wrong"); err == nil || !strings.Contains(err.Error(), "invalid_client") {
		t.Errorf("with a wrong secret the SDK says %v, want invalid_client", err)
	}
}

// A plain OpenID Connect library: it compares the issuer name with where it found the document, and fetches keys.
func TestOpenIDConnectLibraryTrustsUs(t *testing.T) {
	f := newFixture(t)
	ctx := oidc.ClientContext(t.Context(), f.server.Client())
	for _, c := range []struct{ name, issuer, token string }{
		{"plain", "", "/oauth2/token"},
		{"adfs", "/adfs", "/adfs/oauth2/token"},
		{"tenant", "/" + tenant, "/" + tenant + "/oauth2/token"},
		{"version 2", "/" + tenant + "/v2.0", "/" + tenant + "/oauth2/v2.0/token"},
	} {
		t.Run(c.name, func(t *testing.T) {
			provider, err := oidc.NewProvider(ctx, f.server.URL+c.issuer)
			if err != nil {
				t.Fatal(err)
			}
			raw := f.post(t, c.token, f.form(nil)).body["access_token"].(string)
			token, err := provider.VerifierContext(ctx, &oidc.Config{ClientID: resource}).Verify(ctx, raw)
			if err != nil {
				t.Fatal(err)
			}
			if token.Subject != f.app.ObjectID {
				t.Errorf("subject %s, want %s", token.Subject, f.app.ObjectID)
			}
		})
	}
}

func TestInstanceDiscovery(t *testing.T) {
	f := newFixture(t)
	got := f.send(t, http.MethodGet, "/common/discovery/instance?api-version=1.1&authorization_endpoint=x", "", "")
	if want := f.server.URL + "/" + tenant + "/v2.0/.well-known/openid-configuration"; got.status != 200 || got.body["tenant_discovery_endpoint"] != want {
		t.Errorf("got %d %v, want %s", got.status, got.body["tenant_discovery_endpoint"], want)
	}
}

// A request for a host that is not ours, as through a proxy, is answered in the terms of the first base URL.
func TestUnknownHostGetsTheFirstBaseURL(t *testing.T) {
	f := newFixture(t)
	got := f.send(t, http.MethodGet, "/.well-known/openid-configuration", "", "", func(r *http.Request) { r.Host = "evil.example" })
	if got.body["issuer"] != "https://localhost:1" || strings.Contains(got.raw, "evil") {
		t.Errorf("got %s", got.raw)
	}
}

func TestAudiences(t *testing.T) {
	f := newFixture(t)
	long := "https://" + strings.Repeat("a", 250)
	cases := map[string]struct {
		change url.Values
		want   string // "" means refused
	}{
		"a resource":                     {url.Values{"scope": {"https://managedhsm.azure.net/.default"}}, "https://managedhsm.azure.net"},
		"az, resource with a slash":      {url.Values{"scope": {"https://localhost:8443//.default"}}, "https://localhost:8443/"},
		"MSAL's additions":               {url.Values{"scope": {resource + "/.default openid offline_access profile"}}, resource},
		"a path":                         {url.Values{"scope": {"https://host/api/x/.default"}}, "https://host/api/x"},
		"parameter resource":             {url.Values{"scope": nil, "resource": {resource}}, resource},
		"scope and resource":             {url.Values{"resource": {resource}}, ""},
		"two scopes":                     {url.Values{"scope": {resource + "/.default https://other/.default"}}, ""},
		"no scope":                       {url.Values{"scope": nil}, ""},
		"only openid":                    {url.Values{"scope": {"openid"}}, ""},
		"a permission, not .default":     {url.Values{"scope": {resource + "/Keys.Read"}}, ""},
		"http":                           {url.Values{"scope": {"http://host/.default"}}, ""},
		"no host":                        {url.Values{"scope": {"https:///.default"}}, ""},
		"a GUID":                         {url.Values{"scope": {tenant + "/.default"}}, ""},
		"user in the URL":                {url.Values{"scope": {"https://a@host/.default"}}, ""},
		"query":                          {url.Values{"scope": {"https://host?x/.default"}}, ""},
		"fragment":                       {url.Values{"scope": {"https://host#x/.default"}}, ""},
		"too long":                       {url.Values{"scope": {long[:257] + "/.default"}}, ""},
		"outside ASCII":                  {url.Values{"scope": {"https://h\u00f6st/.default"}}, ""},
		"a control character":            {url.Values{"scope": {"https://host\x7f/.default"}}, ""},
		"of just the length that passes": {url.Values{"scope": {long[:256] + "/.default"}}, long[:256]},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			got := f.post(t, "/oauth2/token", f.form(c.change))
			if c.want == "" {
				if got.status != 400 || got.body["error"] != "invalid_scope" || got.body["error_description"] == "" {
					t.Fatalf("got %d %s, want 400 invalid_scope", got.status, got.raw)
				}
				return
			}
			if got.status != 200 {
				t.Fatalf("got %d %s", got.status, got.raw)
			}
			if aud := claimsOf(t, got.body["access_token"].(string))["aud"]; aud != c.want {
				t.Errorf("aud is %v, want %s", aud, c.want)
			}
		})
	}
}

func TestRefusedTokenRequests(t *testing.T) {
	f := newFixture(t)
	basic := func(id, pass string) func(*http.Request) {
		return func(r *http.Request) { r.SetBasicAuth(id, pass) }
	}
	good := string(f.secret.Reveal())
	noSecret := url.Values{"client_id": nil, "client_secret": nil}
	cases := map[string]struct {
		change url.Values
		with   func(*http.Request)
		status int
		code   string
	}{
		"another grant":             {url.Values{"grant_type": {"authorization_code"}}, nil, 400, "unsupported_grant_type"},
		"no grant":                  {url.Values{"grant_type": nil}, nil, 400, "unsupported_grant_type"},
		"wrong secret":              {url.Values{"client_secret": {"wrong"}}, nil, 401, "invalid_client"},
		"secret with a space":       {url.Values{"client_secret": {good + " "}}, nil, 401, "invalid_client"},
		"secret of another case":    {url.Values{"client_secret": {strings.ToUpper(good)}}, nil, 401, "invalid_client"},
		"no secret":                 {url.Values{"client_secret": nil}, nil, 401, "invalid_client"},
		"empty secret":              {url.Values{"client_secret": {""}}, nil, 401, "invalid_client"},
		"no client":                 {url.Values{"client_id": nil}, nil, 401, "invalid_client"},
		"the decoy":                 {url.Values{"client_id": {"00000000-0000-0000-0000-000000000000"}}, nil, 401, "invalid_client"},
		"client by object ID":       {url.Values{"client_id": {f.app.ObjectID}}, nil, 401, "invalid_client"},
		"client with a path":        {url.Values{"client_id": {"../signing-key"}}, nil, 401, "invalid_client"},
		"client assertion":          {url.Values{"client_secret": nil, "client_assertion": {"x"}}, nil, 401, "invalid_client"},
		"a parameter twice":         {url.Values{"scope": {"a", "b"}}, nil, 400, "invalid_request"},
		"Basic, wrong secret":       {noSecret, basic(f.app.ClientID, "wrong"), 401, "invalid_client"},
		"Basic and form":            {nil, basic(f.app.ClientID, good), 400, "invalid_request"},
		"Basic of another client":   {url.Values{"client_secret": nil}, basic(f.app.ObjectID, good), 400, "invalid_request"},
		"bearer instead of Basic":   {noSecret, func(r *http.Request) { r.Header.Set("Authorization", "Bearer x") }, 400, "invalid_request"},
		"Basic that is not encoded": {noSecret, basic(f.app.ClientID, "%zz"), 400, "invalid_request"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			f.issuer.failing = newFailures(f.now)
			with := c.with
			if with == nil {
				with = func(*http.Request) {}
			}
			got := f.post(t, "/adfs/oauth2/token", f.form(c.change), with)
			if got.status != c.status || got.body["error"] != c.code || got.body["error_description"] == "" {
				t.Errorf("got %d %s, want %d %s", got.status, got.raw, c.status, c.code)
			}
			if c.status == 401 && c.with != nil && !strings.HasPrefix(got.header.Get("WWW-Authenticate"), "Basic ") {
				t.Errorf("a refused Basic sign-in has WWW-Authenticate %q", got.header.Get("WWW-Authenticate"))
			}
			if got.header.Get("Cache-Control") != "no-store" {
				t.Error("the refusal may be cached")
			}
		})
	}
	t.Run("Basic, right", func(t *testing.T) {
		if got := f.post(t, "/oauth2/token", f.form(noSecret), basic(f.app.ClientID, good)); got.status != 200 {
			t.Errorf("got %d %s", got.status, got.raw)
		}
	})
	t.Run("client ID in capitals", func(t *testing.T) {
		if got := f.post(t, "/oauth2/token", f.form(url.Values{"client_id": {strings.ToUpper(f.app.ClientID)}})); got.status != 200 {
			t.Errorf("got %d %s", got.status, got.raw)
		}
	})
	t.Run("secret in the URL", func(t *testing.T) {
		if got := f.post(t, "/oauth2/token?client_secret="+good, f.form(url.Values{"client_secret": nil})); got.status != 401 {
			t.Errorf("got %d, want 401", got.status)
		}
	})
	// Covers A5.
	t.Run("too large", func(t *testing.T) {
		if got := f.post(t, "/oauth2/token", f.form(url.Values{"x": {strings.Repeat("x", 8<<10)}})); got.status != 413 || got.body["error"] != "invalid_request" {
			t.Errorf("got %d %s, want 413", got.status, got.raw)
		}
	})
	t.Run("not a form", func(t *testing.T) {
		if got := f.send(t, http.MethodPost, "/oauth2/token", "application/json", "{}"); got.status != 415 {
			t.Errorf("got %d, want 415", got.status)
		}
	})
	if strings.Contains(f.log.String(), good) {
		t.Error("the client secret is in the log")
	}
}

// Covers A9: an unknown client and a wrong secret get the same answer, and cost the same steps.
func TestUnknownClientLooksLikeWrongSecret(t *testing.T) {
	f := newFixture(t)
	try := func(change url.Values) (reply, int64) {
		before := f.seal.unwraps.Load()
		r := f.post(t, "/oauth2/token", f.form(change))
		delete(r.body, "trace_id")
		return r, f.seal.unwraps.Load() - before
	}
	wrong, wrongCost := try(url.Values{"client_secret": {"srs_wrong"}})
	for name, change := range map[string]url.Values{
		"unknown ID":        {"client_id": {"99999999-1111-4111-8111-111111111111"}},
		"ID of no form":     {"client_id": {"nobody"}},
		"unknown and wrong": {"client_id": {"99999999-1111-4111-8111-111111111112"}, "client_secret": {"srs_wrong"}},
	} {
		t.Run(name, func(t *testing.T) {
			got, cost := try(change)
			a, _ := json.Marshal(wrong.body)
			b, _ := json.Marshal(got.body)
			if got.status != wrong.status || string(a) != string(b) || len(got.raw) != len(wrong.raw) {
				t.Errorf("got %d %s, a wrong secret gets %d %s", got.status, b, wrong.status, a)
			}
			if cost != wrongCost || cost != 1 {
				t.Errorf("%d records opened, a wrong secret opens %d", cost, wrongCost)
			}
		})
	}
}

// Covers A9: noise is answered with 429, per identity, and never locks out who has the secret.
func TestFailuresAreLimitedPerClient(t *testing.T) {
	f := newFixture(t)
	other, otherSecret, err := f.issuer.AddApplication(t.Context(), "other")
	if err != nil {
		t.Fatal(err)
	}
	wrong := f.form(url.Values{"client_secret": {"wrong"}})
	for n := range maxFailures {
		if got := f.post(t, "/oauth2/token", wrong); got.status != 401 {
			t.Fatalf("failure %d: got %d, want 401", n+1, got.status)
		}
	}
	got := f.post(t, "/oauth2/token", wrong)
	if got.status != 429 || got.header.Get("Retry-After") == "" {
		t.Errorf("failure %d: got %d, Retry-After %q, want 429 with one", maxFailures+1, got.status, got.header.Get("Retry-After"))
	}
	if got := f.post(t, "/oauth2/token", f.form(nil)); got.status != 200 {
		t.Errorf("the right secret is locked out: %d", got.status)
	}
	if got := f.post(t, "/oauth2/token", f.form(url.Values{"client_id": {other.ClientID}, "client_secret": {string(otherSecret.Reveal())}})); got.status != 200 {
		t.Errorf("another application is locked out: %d", got.status)
	}
	f.clock.Add(61)
	if got := f.post(t, "/oauth2/token", wrong); got.status != 401 {
		t.Errorf("a minute later: got %d, want 401", got.status)
	}
}

func TestFailureMemoryIsBounded(t *testing.T) {
	f := newFailures(time.Now)
	for n := range 10 * maxFailing {
		f.again(strings.Repeat("x", n%7) + time.Duration(n).String())
	}
	if len(f.seen) > maxFailing {
		t.Errorf("%d IDs are remembered, want at most %d", len(f.seen), maxFailing)
	}
}

func TestPathsAndMethods(t *testing.T) {
	f := newFixture(t)
	cases := map[string]struct {
		method, path string
		owned        bool
		status       int
	}{
		"token by GET":            {"GET", "/oauth2/token", true, 405},
		"discovery by POST":       {"POST", "/.well-known/openid-configuration", true, 405},
		"discovery by HEAD":       {"HEAD", "/.well-known/openid-configuration", true, 200},
		"another tenant":          {"GET", "/99999999-1111-4111-8111-111111111111/v2.0/.well-known/openid-configuration", true, 400},
		"tenant common":           {"GET", "/common/v2.0/.well-known/openid-configuration", true, 400},
		"browser sign-in":         {"GET", "/adfs/oauth2/authorize", true, 400},
		"keys":                    {"GET", "/discovery/keys", true, 200},
		"trailing slash":          {"GET", "/discovery/keys/", false, 404},
		"other case":              {"GET", "/Discovery/Keys", false, 404},
		"double slash":            {"GET", "//discovery/keys", false, 404},
		"encoded slash":           {"GET", "/discovery%2fkeys", false, 404},
		"dot segment":             {"GET", "/x/../discovery/keys", false, 404},
		"tenant of two segments":  {"GET", "/a/" + tenant + "/oauth2/token", false, 404},
		"an HSM's path":           {"GET", "/keys/alpha", false, 404},
		"ARM's path":              {"GET", "/subscriptions", false, 404},
		"root":                    {"GET", "/", false, 404},
		"tenant that is no GUID":  {"GET", "/contoso/v2.0/.well-known/openid-configuration", false, 404},
		"a path without an end":   {"GET", "/" + strings.Repeat("a", 5000), false, 404},
		"token below the tenant":  {"GET", "/" + tenant + "/oauth2/v2.0/token", true, 405},
		"tenant with an odd dash": {"GET", "/7e7e7e7e1111-4111-8111-1111111111111/oauth2/token", false, 404},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if got := f.issuer.Owns(c.path); got != c.owned {
				t.Errorf("Owns = %v, want %v", got, c.owned)
			}
			got := f.send(t, c.method, c.path, "", "")
			if got.status != c.status {
				t.Errorf("got %d %s, want %d", got.status, got.raw, c.status)
			}
			if c.status == 405 && got.header.Get("Allow") == "" {
				t.Error("405 without Allow")
			}
		})
	}
}

func TestApplications(t *testing.T) {
	f := newFixture(t)
	ctx := t.Context()
	again, s, created, err := f.issuer.EnsureApplication(ctx, "CI")
	if err != nil || created || !s.IsZero() || again.ClientID != f.app.ClientID {
		t.Errorf("the same name in other case: %v, created %v, secret of %d bytes, %v", again, created, s.Len(), err)
	}
	if _, _, err := f.issuer.AddApplication(ctx, "ci"); !errors.Is(err, failure.Conflict) {
		t.Errorf("the name twice: %v, want Conflict", err)
	}
	for name, bad := range map[string]string{"empty": "", "space": " ci", "line break": "a\nb", "escape": "\x1b[0m", "long": strings.Repeat("a", 121), "not UTF-8": "\xff"} {
		if _, _, err := f.issuer.AddApplication(ctx, bad); !errors.Is(err, failure.BadParameter) {
			t.Errorf("%s: %v, want BadParameter", name, err)
		}
	}
	fresh, err := f.issuer.ResetSecret(ctx, strings.ToUpper(f.app.ClientID), false)
	if err != nil {
		t.Fatal(err)
	}
	if got := f.post(t, "/oauth2/token", f.form(nil)); got.status != 401 {
		t.Errorf("the old secret: got %d, want 401", got.status)
	}
	if got := f.post(t, "/oauth2/token", f.form(url.Values{"client_secret": {string(fresh.Reveal())}})); got.status != 200 {
		t.Errorf("the new secret: got %d, want 200", got.status)
	}
	if !bytes.HasPrefix(fresh.Reveal(), []byte("srs_")) || fresh.Len() != 47 || fresh.Equal(f.secret) {
		t.Errorf("a secret of %d bytes without its prefix, or the old one", fresh.Len())
	}
	if list, err := f.issuer.ListApplications(ctx); err != nil || len(list) != 1 || list[0] != f.app {
		t.Errorf("list is %v, %v; want just %v", list, err, f.app)
	}
	if err := f.issuer.DeleteApplication(ctx, f.app.ClientID); err != nil {
		t.Fatal(err)
	}
	if got := f.post(t, "/oauth2/token", f.form(url.Values{"client_secret": {string(fresh.Reveal())}})); got.status != 401 {
		t.Errorf("the deleted application: got %d, want 401", got.status)
	}
	if err := f.issuer.DeleteApplication(ctx, f.app.ClientID); !errors.Is(err, failure.NotFound) {
		t.Errorf("deleted twice: %v, want NotFound", err)
	}
	if _, err := f.issuer.ResetSecret(ctx, "x", false); !errors.Is(err, failure.NotFound) {
		t.Errorf("reset of nothing: %v, want NotFound", err)
	}
}

func TestStateSurvivesARestart(t *testing.T) {
	f := newFixture(t)
	raw := f.post(t, "/oauth2/token", f.form(nil)).body["access_token"].(string)
	second := f.open(t)
	if second.key.id != f.issuer.key.id {
		t.Error("the restarted issuer has another key")
	}
	if _, err := f.verifier(t, second).Verify(t.Context(), raw, []string{resource}); err != nil {
		t.Errorf("a token from before the restart: %v", err)
	}
	f.server.Config.Handler = second.Handler()
	if got := f.post(t, "/oauth2/token", f.form(nil)); got.status != 200 {
		t.Errorf("signing in after the restart: %d", got.status)
	}
	f.clock.Add(3700)
	if _, err := f.verifier(t, second).Verify(t.Context(), raw, []string{resource}); !errors.Is(err, failure.Unauthorized) {
		t.Errorf("the token after an hour: %v, want Unauthorized", err)
	}
}

// The writer to the database, and the reader of it.
func TestRecordsAtRest(t *testing.T) {
	f := newFixture(t)
	appKey := appPrefix + f.app.ClientID
	read := func(key string) (value []byte) {
		_ = f.store.View(t.Context(), func(r store.Reader) error { value, _ = r.Get(key); return nil })
		return value
	}
	write := func(key string, value []byte) {
		if err := f.store.Update(t.Context(), func(w store.Writer) error { w.Put(key, value); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	der := read(signingKeyKey)
	if bytes.Contains(read(appKey), f.secret.Reveal()) || len(der) == 0 {
		t.Error("the secret is in the database in clear")
	}
	t.Run("another's record in the application's place", func(t *testing.T) {
		mine, _, err := f.issuer.AddApplication(t.Context(), "attacker")
		if err != nil {
			t.Fatal(err)
		}
		old := read(appKey)
		write(appKey, read(appPrefix+mine.ClientID))
		if got := f.post(t, "/oauth2/token", f.form(nil)); got.status != 500 || got.body["error"] != "server_error" || strings.Contains(got.raw, "unwrap") {
			t.Errorf("got %d %s, want 500 server_error", got.status, got.raw)
		}
		if _, err := f.issuer.ListApplications(t.Context()); !errors.Is(err, failure.Tampered) {
			t.Errorf("list: %v, want Tampered", err)
		}
		write(appKey, old)
	})
	cases := map[string]struct {
		value []byte
		kind  failure.Kind
	}{
		"signing key of nothing":   {[]byte(`{}`), failure.Unsupported},
		"signing key not sealed":   {[]byte(`{"v":1}`), failure.Tampered},
		"signing key not JSON":     {[]byte(`x`), failure.Tampered},
		"signing key of version 2": {[]byte(`{"v":2,"sealed":"AAAA"}`), failure.Unsupported},
		"signing key of garbage":   {[]byte(`{"v":1,"sealed":"AAAA"}`), failure.Tampered},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			write(signingKeyKey, c.value)
			if _, err := Open(t.Context(), f.issuer.cfg); !errors.Is(err, c.kind) {
				t.Errorf("got %v, want %v", err, c.kind)
			}
			if got := read(signingKeyKey); !bytes.Equal(got, c.value) {
				t.Error("the damaged record was written over")
			}
		})
	}
	write(signingKeyKey, der)
	t.Run("another seal", func(t *testing.T) {
		cfg := f.issuer.cfg
		cfg.Seal = newSeal(t)
		if _, err := Open(t.Context(), cfg); !errors.Is(err, failure.Tampered) {
			t.Errorf("got %v, want Tampered", err)
		}
	})
}

// What version 1 wrote must open for ever: the records are spelled out here, not made by the code under test.
func TestVersionOneRecordsOpen(t *testing.T) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	app, err := os.ReadFile("testdata/application-v1.json") // its secret is "srs_test"
	if err != nil {
		t.Fatal(err)
	}
	f := newFixture(t)
	cfg := f.issuer.cfg
	cfg.Store = memory.New()
	const clientID = "11111111-1111-4111-8111-111111111111"
	sealedKey, _ := f.seal.Wrap(secret.New(der), "identity/signing-key")
	sealedApp, _ := f.seal.Wrap(secret.New(app), "identity/app/"+clientID)
	err = cfg.Store.Update(t.Context(), func(w store.Writer) error {
		w.Put("identity/signing-key", []byte(`{"v":1,"sealed":"`+base64.StdEncoding.EncodeToString(sealedKey)+`"}`))
		w.Put("identity/app/"+clientID, sealedApp)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	i, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if !private.PublicKey.Equal(i.key.public) {
		t.Error("the stored signing key was not taken")
	}
	f.server.Config.Handler = i.Handler()
	got := f.post(t, "/oauth2/token", f.form(url.Values{"client_id": {clientID}, "client_secret": {"srs_test"}}))
	if got.status != 200 {
		t.Fatalf("got %d %s", got.status, got.raw)
	}
	list, err := i.ListApplications(t.Context())
	want := App{ClientID: clientID, ObjectID: "22222222-2222-4222-8222-222222222222", Name: "ci", Created: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	if err != nil || len(list) != 1 || list[0] != want {
		t.Errorf("got %v, %v; want %v", list, err, want)
	}
}

// Two servers that start at once on one store end up with one key, whoever was first.
func TestTwoServersShareTheKey(t *testing.T) {
	f := newFixture(t)
	first := &firstLook{Store: memory.New()}
	cfg := f.issuer.cfg
	cfg.Store = first
	var other *Issuer
	first.before = func() {
		inner := cfg
		inner.Store = first.Store
		var err error
		if other, err = Open(t.Context(), inner); err != nil {
			t.Fatal(err)
		}
	}
	one, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if one.key.id != other.key.id {
		t.Error("two keys for one issuer")
	}
}

// firstLook runs before between the first look at the store and the first write.
type firstLook struct {
	store.Store
	before func()
}

func (f *firstLook) Update(ctx context.Context, fn func(store.Writer) error) error {
	if b := f.before; b != nil {
		f.before = nil
		b()
	}
	return f.Store.Update(ctx, fn)
}

func TestOpenRefusesBadConfiguration(t *testing.T) {
	f := newFixture(t)
	cases := map[string]func(*Config){
		"no base URL":          func(c *Config) { c.BaseURLs = nil },
		"base URL over http":   func(c *Config) { c.BaseURLs = []string{"http://localhost:8443"} },
		"base URL with a path": func(c *Config) { c.BaseURLs = []string{"https://localhost:8443/"} },
		"base URL of no host":  func(c *Config) { c.BaseURLs = []string{"https://"} },
		"tenant of no form":    func(c *Config) { c.Tenant = "contoso" },
	}
	for name, change := range cases {
		t.Run(name, func(t *testing.T) {
			cfg := f.issuer.cfg
			change(&cfg)
			if _, err := Open(t.Context(), cfg); err == nil {
				t.Error("accepted")
			}
		})
	}
}

func TestFullDiskOnFirstStart(t *testing.T) {
	f := newFixture(t)
	st := memory.New()
	st.Inject(memory.Fault{At: 1, Err: store.ErrFull})
	cfg := f.issuer.cfg
	cfg.Store = st
	if _, err := Open(t.Context(), cfg); !errors.Is(err, failure.Unavailable) {
		t.Errorf("got %v, want Unavailable", err)
	}
}

// Covers R4, A2: any path is either one of the routes, spelled exactly, or not ours.
func FuzzFind(f *testing.F) {
	for _, p := range []string{"/", "/discovery/keys", "/" + tenant + "/oauth2/v2.0/token", "/adfs/../oauth2/token", "/common/oauth2/token", "//oauth2/token", "/%2foauth2/token", "/common/UserRealm/anna@example.org", "/common/UserRealm/a%41"} {
		f.Add(p)
	}
	known := []string{tenant, "common", "organizations", "consumers"}
	f.Fuzz(func(t *testing.T, path string) {
		r, name, ok := find(path)
		if !ok {
			return
		}
		spelled := strings.Replace(r.pattern, "{tenant}", name, 1)
		if r.kind == userRealm {
			spelled = strings.Replace(r.pattern, "{user}", strings.TrimPrefix(path, realmPath), 1)
		}
		if !strings.EqualFold(spelled, path) || strings.ContainsAny(path, "%\\ ") || strings.Contains(path, "..") {
			t.Fatalf("%q was taken for %s", path, r.pattern)
		}
		if _, guid := normalID(name); name != "" && !guid && !slices.Contains(known, name) {
			t.Fatalf("%q was taken for tenant %q", path, name)
		}
	})
}

// Covers R4: any form is answered with a refusal that is JSON, and nothing in it gets a token without the secret or the password.
func FuzzTokenForm(f *testing.F) {
	cfg := Config{BaseURLs: []string{"https://localhost:1"}, Tenant: tenant, Store: memory.New(), Seal: newSeal(f), Rand: rand.Reader, Now: time.Now, Log: slog.New(slog.DiscardHandler)}
	i, err := Open(context.Background(), cfg)
	if err != nil {
		f.Fatal(err)
	}
	app, _, err := i.AddApplication(context.Background(), "ci")
	if err != nil {
		f.Fatal(err)
	}
	if _, _, err := i.AddUser(context.Background(), "anna"); err != nil {
		f.Fatal(err)
	}
	f.Add("grant_type=password&client_id="+azClient+"&username=anna&password=x&scope=https://a/.default+openid+offline_access", "")
	f.Add("grant_type=refresh_token&client_id="+azClient+"&refresh_token="+refreshMark+strings.Repeat("A", 86)+"&scope=https://a/.default", "")
	for _, s := range []string{"", "grant_type=client_credentials&client_id=" + app.ClientID + "&client_secret=x&scope=https://a/.default", "grant_type=client_credentials&client_id=%zz", ";&=&;"} {
		f.Add(s, "Basic eDp5")
	}
	f.Fuzz(func(t *testing.T, form, authorization string) {
		r := httptest.NewRequest(http.MethodPost, "/oauth2/token", strings.NewReader(form))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		if authorization != "" {
			r.Header["Authorization"] = []string{authorization}
		}
		w := httptest.NewRecorder()
		i.Handler().ServeHTTP(w, r)
		if w.Code < 400 || !json.Valid(w.Body.Bytes()) || strings.Contains(w.Body.String(), "access_token\":") {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
	})
}
