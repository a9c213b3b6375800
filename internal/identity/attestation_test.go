package identity

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"strongroom/internal/access"
	"strongroom/internal/failure"
	"strongroom/internal/release"
	"strongroom/internal/store"
	"strongroom/internal/store/memory"
)

// attesting turns the fixture into a development server.
func attesting(t *testing.T) *fixture {
	t.Helper()
	f := newFixture(t)
	cfg := f.issuer.cfg
	cfg.Attestation = true
	var err error
	if f.issuer, err = Open(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	f.server.Config.Handler = f.issuer.Handler()
	return f
}

func (f *fixture) basic(r *http.Request) { r.SetBasicAuth(f.app.ClientID, string(f.secret.Reveal())) }

// bearer signs in for a resource.
func (f *fixture) bearer(t *testing.T, resource string) func(*http.Request) {
	t.Helper()
	got := f.post(t, "/oauth2/token", f.form(url.Values{"scope": {resource + "/.default"}}))
	token, _ := got.body["access_token"].(string)
	if token == "" {
		t.Fatalf("sign in: %d %s", got.status, got.raw)
	}
	return func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+token) }
}

func publicJWK(t testing.TB, key any) string {
	t.Helper()
	text, err := jose.JSONWebKey{Key: key, KeyID: "tee"}.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func (f *fixture) attest(t *testing.T, body string, change ...func(*http.Request)) reply {
	t.Helper()
	return f.send(t, http.MethodPost, "/attest/token", "application/json", body, change...)
}

// attestations verifies as a server does that knows the authority in memory, and as one that reads it over the network.
func (f *fixture) attestations(t *testing.T) map[string]*access.Attestations {
	t.Helper()
	memory, err := access.NewAttestations(f.issuer.AttestationAuthorities(), f.now)
	if err != nil {
		t.Fatal(err)
	}
	remote, err := access.OpenIssuer(access.IssuerConfig{URL: f.server.URL + "/attest", Client: f.server.Client(), Now: f.now})
	if err != nil {
		t.Fatal(err)
	}
	network, err := access.NewAttestations([]access.Issuer{remote}, f.now)
	if err != nil {
		t.Fatal(err)
	}
	return map[string]*access.Attestations{"in memory": memory, "over the network": network}
}

// A laptop attests its own claims and has a key released: its token is verified, fulfils a policy, names the recipient.
func TestAttestationForDevelopment(t *testing.T) {
	f := attesting(t)
	recipient, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	policy, err := release.Parse([]byte(`{"version":"1.0.0","anyOf":[{"authority":"` + f.server.URL + `/attest","allOf":[
		{"claim":"x-ms-isolation-tee.x-ms-attestation-type","equals":"sevsnpvm"},{"claim":"x-ms-sevsnpvm-is-debuggable","equals":"false"}]}]}`))
	if err != nil {
		t.Fatal(err)
	}
	body := `{"claims":{"x-ms-isolation-tee":{"x-ms-attestation-type":"sevsnpvm"},"x-ms-sevsnpvm-is-debuggable":false},"key":` + publicJWK(t, recipient.Public()) + `}`
	for who, signIn := range map[string]func(*http.Request){
		"client secret":               f.basic,
		"bearer token of the server":  f.bearer(t, f.server.URL),
		"bearer token of authority":   f.bearer(t, f.server.URL+"/attest"),
		"bearer token with the slash": f.bearer(t, f.server.URL+"/"),
	} {
		got := f.attest(t, body, signIn)
		token, _ := got.body["token"].(string)
		if got.status != 200 || token == "" {
			t.Fatalf("%s: %d %s", who, got.status, got.raw)
		}
		for how, verifier := range f.attestations(t) {
			attested, err := verifier.Verify(t.Context(), token)
			if err != nil {
				t.Errorf("%s, %s: %v", who, how, err)
				continue
			}
			if met, unmet := policy.Judge(attested.Authority, attested.Claims); !met {
				t.Errorf("%s, %s: the policy is not fulfilled: %q", who, how, unmet)
			}
			key, err := release.Recipient(attested.Claims)
			if err != nil || key.ID != "tee" || key.E != recipient.E || key.N.Cmp(recipient.N) != 0 {
				t.Errorf("%s, %s: recipient %q, %v", who, how, key.ID, err)
			}
			// Whoever looks at it sees what it is worth.
			if mark, _ := attested.Claims.Get("strongroom-dev").Bool(); !mark {
				t.Errorf("%s, %s: the token does not say that it is for development", who, how)
			}
			if kind, _ := attested.Claims.Get("x-ms-attestation-type").Text(); kind != "strongroom-dev" {
				t.Errorf("%s, %s: attestation type %q", who, how, kind)
			}
		}
	}
	if log := f.log.String(); !strings.Contains(log, "attestation for development issued") || !strings.Contains(log, f.app.ObjectID) || !strings.Contains(log, "WARN") {
		t.Error("the log does not warn of the attestation")
	}
	f.clock.Add(3600 + 61)
	got := f.attest(t, body, f.basic)
	f.clock.Add(-3600 - 61)
	for how, verifier := range f.attestations(t) {
		if _, err := verifier.Verify(t.Context(), got.body["token"].(string)); !errors.Is(err, failure.Forbidden) {
			t.Errorf("%s: a token from the future: %v", how, err)
		}
	}
}

// Real policies can be tried, also where they want a certain kind of environment. Only the mark cannot be taken away.
func TestAttestationTypeIsTheClients(t *testing.T) {
	f := attesting(t)
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	got := f.attest(t, `{"claims":{"x-ms-attestation-type":"sevsnpvm"},"key":`+publicJWK(t, key.Public())+`}`, f.basic)
	claims := claimsOf(t, got.body["token"].(string))
	if claims["x-ms-attestation-type"] != "sevsnpvm" || claims["strongroom-dev"] != true {
		t.Errorf("type %v, mark %v", claims["x-ms-attestation-type"], claims["strongroom-dev"])
	}
}

// Covers A4, A10: strangers get nothing attested, and there is no such authority unless the server is for development.
func TestAttestationNeedsASignIn(t *testing.T) {
	f := attesting(t)
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	body := `{"claims":{},"key":` + publicJWK(t, key.Public()) + `}`
	attested := f.attest(t, body, f.basic).body["token"].(string)
	header := func(values ...string) func(*http.Request) {
		return func(r *http.Request) { r.Header["Authorization"] = values }
	}
	other := newFixture(t)
	for name, change := range map[string]func(*http.Request){
		"nothing":                  func(*http.Request) {},
		"a wrong secret":           func(r *http.Request) { r.SetBasicAuth(f.app.ClientID, "srs_wrong") },
		"no secret":                func(r *http.Request) { r.SetBasicAuth(f.app.ClientID, "") },
		"an unknown client":        func(r *http.Request) { r.SetBasicAuth(tenant, string(f.secret.Reveal())) },
		"a client that is no GUID": func(r *http.Request) { r.SetBasicAuth("ci", string(f.secret.Reveal())) },
		"another scheme":           header("Negotiate AAAA"),
		"two headers":              header("Bearer x", "Bearer x"),
		"two headers, both good": func(r *http.Request) {
			f.basic(r)
			r.Header["Authorization"] = append(r.Header["Authorization"], r.Header["Authorization"]...)
		},
		"a bearer token that is none":       header("Bearer x"),
		"a bearer token for an HSM":         f.bearer(t, resource),
		"a bearer token of another server":  other.bearer(t, f.server.URL),
		"an attestation token as bearer":    header("Bearer " + attested),
		"the secret in the query, not here": func(r *http.Request) { r.URL.RawQuery = "client_secret=" + string(f.secret.Reveal()) },
	} {
		got := f.attest(t, body, change)
		if got.status != 401 || got.body["error"] != "invalid_client" || got.body["token"] != nil {
			t.Errorf("%s: got %d %s, want 401", name, got.status, got.raw)
		}
	}

	f = newFixture(t) // production
	for _, path := range []string{"/attest/token", "/attest/certs", "/attest/.well-known/openid-configuration"} {
		if f.issuer.Owns(path) {
			t.Errorf("%s: is owned without the authority", path)
		}
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			if got := f.send(t, method, path, "application/json", body, f.basic); got.status != 404 {
				t.Errorf("%s %s without the authority: %d", method, path, got.status)
			}
		}
	}
	if list := f.issuer.AttestationAuthorities(); list != nil {
		t.Errorf("%d authorities without the authority", len(list))
	}
	_ = f.store.View(t.Context(), func(r store.Reader) error {
		if _, there := r.Get(attestationKeyKey); there {
			t.Error("a key for attestations was made in production")
		}
		return nil
	})
}

// An attestation token lets nobody in, and a bearer token attests nothing.
func TestAttestationsAndSignInsAreApart(t *testing.T) {
	f := attesting(t)
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	got := f.attest(t, `{"claims":{"aud":"`+resource+`","oid":"`+f.app.ObjectID+`","sub":"x"},"key":`+publicJWK(t, key.Public())+`}`, f.basic)
	token, _ := got.body["token"].(string)
	if caller, err := f.verifier(t, f.issuer).Verify(t.Context(), token, []string{resource}); !errors.Is(err, failure.Unauthorized) {
		t.Errorf("as a bearer token: %+v, %v", caller, err)
	}
	bearer := f.post(t, "/oauth2/token", f.form(nil)).body["access_token"].(string)
	for how, verifier := range f.attestations(t) {
		if _, err := verifier.Verify(t.Context(), bearer); !errors.Is(err, failure.Forbidden) {
			t.Errorf("%s: a bearer token as attestation: %v", how, err)
		}
	}
	// Different keys, too: what one signs, the other's name does not save.
	if f.issuer.key.public.Equal(f.issuer.attest.key.public) {
		t.Error("one key signs both")
	}
}

func TestRefusedAttestations(t *testing.T) {
	f := attesting(t)
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	good := publicJWK(t, key.Public())
	with := func(claims string) string { return `{"claims":` + claims + `,"key":` + good + `}` }
	for name, row := range map[string]struct {
		body   string
		status int
		word   string
	}{
		"nothing":              {``, 400, "not well-formed JSON"},
		"no object":            {`[]`, 400, "object"},
		"no key":               {`{"claims":{}}`, 400, "public RSA key"},
		"key null":             {`{"claims":{},"key":null}`, 400, "public RSA key"},
		"claims as a list":     {with(`[]`), 400, "claims"},
		"a further member":     {`{"claims":{},"key":` + good + `,"lifetime":1}`, 400, "nothing else"},
		"a claim twice":        {with(`{"a":1,"a":2}`), 400, "twice"},
		"something behind":     {with(`{}`) + `{}`, 400, "not well-formed JSON"},
		"too deep":             {with(strings.Repeat(`{"a":`, 20) + "1" + strings.Repeat("}", 20)), 400, "deep"},
		"more than 16 KiB":     {with(`{"a":"` + strings.Repeat("x", 16<<10) + `"}`), 413, "16 KiB"},
		"an EC key":            {`{"claims":{},"key":` + publicJWK(t, f.issuer.key.public) + `}`, 400, "public RSA key"},
		"a key of 1024 bits":   {`{"claims":{},"key":` + publicJWK(t, small.Public()) + `}`, 400, "1024"},
		"a private key":        {`{"claims":{},"key":` + publicJWK(t, key) + `}`, 400, "no private part"},
		"a text as key":        {`{"claims":{},"key":"` + base64.StdEncoding.EncodeToString(key.N.Bytes()) + `"}`, 400, "public RSA key"},
		"claim iss":            {with(`{"iss":"https://attest.example.org"}`), 400, "iss"},
		"claim exp":            {with(`{"exp":9999999999}`), 400, "exp"},
		"claim nbf":            {with(`{"nbf":1}`), 400, "nbf"},
		"claim iat":            {with(`{"iat":1}`), 400, "iat"},
		"claim jti":            {with(`{"jti":"x"}`), 400, "jti"},
		"claim x-ms-runtime":   {with(`{"x-ms-runtime":{"keys":[]}}`), 400, "x-ms-runtime"},
		"claim strongroom-dev": {with(`{"strongroom-dev":false}`), 400, "strongroom-dev"},
	} {
		got := f.attest(t, row.body, f.basic)
		if got.status != row.status || !strings.Contains(got.raw, row.word) || got.body["token"] != nil {
			t.Errorf("%s: got %d %s, want %d with %q", name, got.status, got.raw, row.status, row.word)
		}
		if strings.Contains(got.raw, base64.RawURLEncoding.EncodeToString(key.D.Bytes())) {
			t.Errorf("%s: the answer repeats a private key", name)
		}
	}
	if got := f.send(t, http.MethodPost, "/attest/token", "text/plain", with(`{}`), f.basic); got.status != 415 {
		t.Errorf("plain text: got %d", got.status)
	}
	if got := f.send(t, http.MethodGet, "/attest/token", "", "", f.basic); got.status != 405 || got.header.Get("Allow") != "POST" {
		t.Errorf("GET: got %d", got.status)
	}
	if strings.Contains(f.log.String(), base64.RawURLEncoding.EncodeToString(key.D.Bytes())) {
		t.Error("the log has a private key")
	}
}

// The key is sealed at rest, stays over a restart, and is published with a certificate that stays too.
func TestAttestationKeyAtRest(t *testing.T) {
	f := attesting(t)
	certs := func() string { return f.send(t, http.MethodGet, "/attest/certs", "", "").raw }
	before := certs()
	var set struct {
		Keys []struct {
			Kid, Kty, Use, Crv, X, Y, D string
			X5c                         []string
		}
	}
	if err := json.Unmarshal([]byte(before), &set); err != nil || len(set.Keys) != 1 {
		t.Fatalf("%v: %s", err, before)
	}
	if k := set.Keys[0]; k.Kid == "" || k.Kty != "EC" || k.Use != "sig" || k.Crv != "P-256" || k.X == "" || k.Y == "" || k.D != "" || len(k.X5c) != 1 {
		t.Errorf("published as %+v", k)
	}
	read := func() (value []byte) {
		_ = f.store.View(t.Context(), func(r store.Reader) error { value, _ = r.Get(attestationKeyKey); return nil })
		return value
	}
	again, err := Open(t.Context(), f.issuer.cfg)
	if err != nil {
		t.Fatal(err)
	}
	f.server.Config.Handler = again.Handler()
	if after := certs(); after != before {
		t.Errorf("after a restart:\n%s\nbefore:\n%s", after, before)
	}
	var rec signingKeyRecord
	if err := json.Unmarshal(read(), &rec); err != nil || rec.V != 1 || len(rec.Sealed) == 0 {
		t.Fatalf("the record is %s", read())
	}
	// Not sealed in the place of the other key: neither can stand in for the other.
	plain, err := f.seal.Unwrap(rec.Sealed, attestationKeyKey)
	if err != nil {
		t.Fatal(err)
	}
	if plain.Len() == 0 || bytes.Contains(read(), plain.Reveal()) {
		t.Error("the key is not sealed")
	}
	if _, err := f.seal.Unwrap(rec.Sealed, signingKeyKey); err == nil {
		t.Error("the record opens as the token signing key")
	}
	write := func(value []byte) {
		if err := f.store.Update(t.Context(), func(w store.Writer) error { w.Put(attestationKeyKey, value); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	var other []byte
	_ = f.store.View(t.Context(), func(r store.Reader) error { other, _ = r.Get(signingKeyKey); return nil })
	write(other)
	if _, err := Open(t.Context(), f.issuer.cfg); !errors.Is(err, failure.Tampered) {
		t.Errorf("with the token signing key in its place: %v", err)
	}
}

// A published key is what libraries take, and its issuer what the discovery document says.
func TestAttestationDiscovery(t *testing.T) {
	f := attesting(t)
	got := f.send(t, http.MethodGet, "/attest/.well-known/openid-configuration", "", "")
	if got.body["issuer"] != f.server.URL+"/attest" || got.body["jwks_uri"] != f.server.URL+"/attest/certs" {
		t.Errorf("discovery says %s", got.raw)
	}
	var set jose.JSONWebKeySet
	if err := json.Unmarshal([]byte(f.send(t, http.MethodGet, "/attest/certs", "", "").raw), &set); err != nil || len(set.Keys) != 1 {
		t.Fatal(err)
	}
	if !set.Keys[0].Key.(*ecdsa.PublicKey).Equal(f.issuer.attest.key.public) || !set.Keys[0].Certificates[0].PublicKey.(*ecdsa.PublicKey).Equal(f.issuer.attest.key.public) {
		t.Error("another key is published, or certified")
	}
	var urls []string
	for _, a := range f.issuer.AttestationAuthorities() {
		urls = append(urls, a.URL)
	}
	if !slices.Equal(urls, []string{"https://localhost:1/attest", f.server.URL + "/attest"}) {
		t.Errorf("authorities %q", urls)
	}
}

// Covers R4: any request is answered in JSON, and gets a token only with the secret.
func FuzzAttestationRequest(f *testing.F) {
	cfg := Config{BaseURLs: []string{"https://localhost:1"}, Tenant: tenant, Store: memory.New(), Seal: newSeal(f), Rand: rand.Reader, Now: time.Now, Log: slog.New(slog.DiscardHandler), Attestation: true}
	i, err := Open(context.Background(), cfg)
	if err != nil {
		f.Fatal(err)
	}
	app, secret, err := i.AddApplication(context.Background(), "ci")
	if err != nil {
		f.Fatal(err)
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		f.Fatal(err)
	}
	good := `{"claims":{"a":{"b":[1,"x",null]}},"key":` + publicJWK(f, key.Public()) + `}`
	for _, body := range []string{good, `{}`, `{"claims":{"exp":1},"key":{}}`, `{"key":{"kty":"RSA","n":"AQAB","e":"AQAB"}}`} {
		f.Add(body, true)
		f.Add(body, false)
	}
	f.Fuzz(func(t *testing.T, body string, signedIn bool) {
		r := httptest.NewRequest(http.MethodPost, "/attest/token", strings.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
		if signedIn {
			r.SetBasicAuth(app.ClientID, string(secret.Reveal()))
		}
		w := httptest.NewRecorder()
		i.Handler().ServeHTTP(w, r)
		if !json.Valid(w.Body.Bytes()) || w.Code >= 500 || (w.Code == 200) != strings.HasPrefix(w.Body.String(), `{"token":"ey`) || w.Code == 200 && !signedIn {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
	})
}
