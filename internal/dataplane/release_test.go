package dataplane_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"hash"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/tink-crypto/tink-go/v2/kwp/subtle"

	"strongroom/internal/dataplane"
)

// authorityURL is the attestation authority that the fixture's HSMs believe.
const authorityURL = "https://attest.test"

var b64 = base64.RawURLEncoding.EncodeToString

// attested is an attestation token for somebody's key, with changes; a nil value removes a claim.
func (f *fixture) attested(to *rsa.PublicKey, changes map[string]any) string {
	f.t.Helper()
	claims := map[string]any{
		"iss": authorityURL, "nbf": f.now.Unix(), "exp": f.now.Add(time.Hour).Unix(), "x-ms-isolation-tee": map[string]any{"x-ms-attestation-type": "sevsnpvm"},
		"x-ms-runtime": map[string]any{"keys": []any{map[string]any{"kty": "RSA", "kid": "tee", "key_ops": []string{"encrypt"}, "e": "AQAB", "n": b64(to.N.Bytes())}}},
	}
	maps.Copy(claims, changes)
	maps.DeleteFunc(claims, func(_ string, v any) bool { return v == nil })
	payload, err := json.Marshal(claims)
	if err != nil {
		f.t.Fatal(err)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: f.authority}, nil)
	if err != nil {
		f.t.Fatal(err)
	}
	signed, err := signer.Sign(payload)
	if err != nil {
		f.t.Fatal(err)
	}
	text, err := signed.CompactSerialize()
	if err != nil {
		f.t.Fatal(err)
	}
	return text
}

// leaver is the body that makes an exportable key.
func leaver(kty, claim string) string {
	policy := `{"version":"1.0.0","anyOf":[{"authority":"` + authorityURL + `/","allOf":[{"claim":"x-ms-isolation-tee.x-ms-attestation-type","equals":"` + claim + `"}]}]}`
	return `{"kty":"` + kty + `","tags":{"a":"b"},"attributes":{"exportable":true},"release_policy":{"data":"` + b64([]byte(policy)) + `"}}`
}

// A key is released as somebody outside sees it: the signature is of the security domain, what was asked for is in
// it, and what is wrapped is the key.
func TestReleaseOnTheWire(t *testing.T) {
	f := newFixture(t, "alpha")
	f.activate("alpha")
	recipient := mustKey(2048)
	var domain struct {
		DomainID string `json:"domain_id"`
	}
	if err := json.Unmarshal(f.do(request{method: "GET", path: "/securitydomain"}).Body.Bytes(), &domain); err != nil || domain.DomainID == "" {
		t.Fatal(err)
	}
	for _, kty := range []string{"EC", "oct", "RSA"} {
		made := f.do(request{method: "POST", path: "/keys/" + kty + "/create", body: leaver(kty, "sevsnpvm")})
		if made.Code != 200 {
			t.Fatalf("%s: %s", kty, made.Body)
		}
		var bundle struct {
			Key struct{ Kid, Kty, N, X string }
		}
		if err := json.Unmarshal(made.Body.Bytes(), &bundle); err != nil {
			t.Fatal(err)
		}
		version := bundle.Key.Kid[strings.LastIndex(bundle.Key.Kid, "/")+1:]
		for i, path := range []string{"/keys/" + kty + "/release", "/keys/" + kty + "//release", "/keys/" + kty + "/" + version + "/release"} {
			enc := []string{"", "RSA_AES_KEY_WRAP_256", "RSA_AES_KEY_WRAP_384"}[i]
			body, _ := json.Marshal(map[string]any{"target": f.attested(&recipient.PublicKey, nil), "enc": enc, "nonce": "n0nce"})
			w := f.do(request{method: "POST", path: path, query: "api-version=7.5", body: string(body)})
			payload, x5c := verifyRelease(t, value(t, w, 200))
			if sum := sha256.Sum256(x5c.RawSubjectPublicKeyInfo); hex.EncodeToString(sum[:]) != domain.DomainID {
				t.Errorf("%s: signed by another key than the domain's", path)
			}
			if enc == "" {
				enc = "CKM_RSA_AES_KEY_WRAP"
			}
			var p struct {
				Request  map[string]string
				Response struct {
					Key struct {
						Key struct {
							Kid, Kty string
							KeyOps   []string `json:"key_ops"`
							N, X, D  string
							KeyHSM   string `json:"key_hsm"`
						}
						Attributes    struct{ Exportable, Enabled bool }
						Tags          map[string]string
						ReleasePolicy struct{ ContentType, Data string } `json:"release_policy"`
					}
				}
			}
			if err := json.Unmarshal(payload, &p); err != nil {
				t.Fatal(err)
			}
			if want := map[string]string{"api-version": "7.5", "enc": enc, "kid": bundle.Key.Kid, "nonce": "n0nce"}; !maps.Equal(p.Request, want) {
				t.Errorf("%s: the request is signed as %v, want %v", path, p.Request, want)
			}
			key := p.Response.Key
			if key.Key.Kid != bundle.Key.Kid || key.Key.Kty != bundle.Key.Kty || key.Key.N != bundle.Key.N || key.Key.X != bundle.Key.X || key.Key.D != "" ||
				!key.Attributes.Exportable || !key.Attributes.Enabled || key.Tags["a"] != "b" || key.ReleasePolicy.Data == "" || key.ReleasePolicy.ContentType == "" {
				t.Errorf("%s: the bundle is %+v", path, key)
			}
			raw, err := base64.RawURLEncoding.DecodeString(key.Key.KeyHSM)
			if err != nil {
				t.Fatal(err)
			}
			var wrapped struct {
				SchemaVersion string `json:"schema_version"`
				Header        map[string]string
				Ciphertext    string
				Generator     string
			}
			if err := json.Unmarshal(raw, &wrapped); err != nil {
				t.Fatal(err)
			}
			if want := map[string]string{"kid": "tee", "alg": "dir", "enc": enc}; !maps.Equal(wrapped.Header, want) || wrapped.SchemaVersion != "1.0.0" || wrapped.Generator == "" {
				t.Errorf("%s: wrapped as %s", path, raw)
			}
			ciphertext, err := base64.RawURLEncoding.DecodeString(wrapped.Ciphertext)
			if err != nil {
				t.Fatal(err)
			}
			target := unwrapReleased(t, enc, recipient, ciphertext)
			switch kty {
			case "oct":
				if len(target) != 32 {
					t.Errorf("%s: %d bytes are released", path, len(target))
				}
				f.signsAlike(t, bundle.Key.Kid, target)
			case "EC":
				k, err := x509.ParsePKCS8PrivateKey(target)
				if err != nil {
					t.Fatal(err)
				}
				if point, err := k.(*ecdsa.PrivateKey).PublicKey.Bytes(); err != nil || b64(point[1:33]) != bundle.Key.X {
					t.Errorf("%s: another key is released", path)
				}
			case "RSA":
				k, err := x509.ParsePKCS8PrivateKey(target)
				if err != nil || b64(k.(*rsa.PrivateKey).N.Bytes()) != bundle.Key.N {
					t.Errorf("%s: another key is released, or %v", path, err)
				}
			}
		}
	}
}

// verifyRelease checks a JWS as a recipient does, with the certificate in its header.
func verifyRelease(t testing.TB, text string) (payload []byte, certificate *x509.Certificate) {
	t.Helper()
	jws, err := jose.ParseSignedCompact(text, []jose.SignatureAlgorithm{jose.ES384})
	if err != nil {
		t.Fatal(err)
	}
	var header struct {
		Typ string
		X5c []string
	}
	raw, err := base64.RawURLEncoding.DecodeString(text[:strings.Index(text, ".")])
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, &header); err != nil || len(header.X5c) != 1 || header.Typ != "strongroom-key-release+jws" {
		t.Fatalf("header %s, %v", raw, err)
	}
	der, err := base64.StdEncoding.DecodeString(header.X5c[0])
	if err != nil {
		t.Fatal(err)
	}
	if certificate, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	if payload, err = jws.Verify(certificate.PublicKey); err != nil {
		t.Fatalf("the signature does not hold: %v", err)
	}
	return payload, certificate
}

// unwrapReleased opens a released key with the standard library, and another implementation of RFC 5649.
func unwrapReleased(t testing.TB, enc string, to *rsa.PrivateKey, ciphertext []byte) []byte {
	t.Helper()
	h := map[string]hash.Hash{"CKM_RSA_AES_KEY_WRAP": sha1.New(), "RSA_AES_KEY_WRAP_256": sha256.New(), "RSA_AES_KEY_WRAP_384": sha512.New384()}[enc]
	key, err := rsa.DecryptOAEP(h, nil, to, ciphertext[:to.Size()], nil)
	if err != nil {
		t.Fatal(err)
	}
	kwp, err := subtle.NewKWP(key)
	if err != nil {
		t.Fatal(err)
	}
	target, err := kwp.Unwrap(ciphertext[to.Size():])
	if err != nil {
		t.Fatal(err)
	}
	return target
}

// signsAlike imports an oct key under another name and compares what both make of a message: an HMAC has one value.
func (f *fixture) signsAlike(t *testing.T, kid string, key []byte) {
	t.Helper()
	w := f.do(request{method: "PUT", path: "/keys/copy", body: `{"key":{"kty":"oct","k":"` + b64(key) + `"}}`})
	if w.Code != 200 {
		t.Fatal(w.Body)
	}
	sign := func(path string) string {
		return value(t, f.do(request{method: "POST", path: path + "/sign", body: `{"alg":"HS256","value":"` + b64(make([]byte, 32)) + `"}`}), 200)
	}
	if path := kid[strings.Index(kid, "/keys/"):]; sign(path) != sign("/keys/copy") {
		t.Errorf("%s: another key is released", path)
	}
}

// Covers L2, L3: the record of a release says on whose word a key left and for whom, also where it stayed in the end; where
// no configured authority vouches for the token, nothing of it is in the record.
func TestReleasesAreRecorded(t *testing.T) {
	f, c := newFixture(t, "alpha"), &clerk{}
	f.configure(func(cfg *dataplane.Config) { cfg.Recorder = c })
	f.activate("alpha")
	for name, claim := range map[string]string{"leaves": "sevsnpvm", "stays": "another"} {
		if w := f.do(request{method: "POST", path: "/keys/" + name + "/create", body: leaver("EC", claim)}); w.Code != 200 {
			t.Fatal(w.Body)
		}
	}
	recipient := mustKey(2048).PublicKey
	sum, err := (&jose.JSONWebKey{Key: &recipient}).Thumbprint(crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	for name, row := range map[string]struct {
		key, token           string
		status               int
		authority, recipient string
	}{
		"released":         {"leaves", f.attested(&recipient, nil), 200, authorityURL, b64(sum)},
		"policy":           {"stays", f.attested(&recipient, nil), 403, authorityURL, b64(sum)},
		"no recipient":     {"leaves", f.attested(&recipient, map[string]any{"x-ms-runtime": nil}), 403, authorityURL, ""},
		"unknown issuer":   {"leaves", f.attested(&recipient, map[string]any{"iss": "https://evil.test"}), 403, "", ""},
		"expired":          {"leaves", f.attested(&recipient, map[string]any{"exp": f.now.Add(-time.Hour).Unix()}), 403, "", ""},
		"no token at all":  {"leaves", "rubbish", 400, "", ""},
		"not even the key": {"none", f.attested(&recipient, nil), 404, "", ""},
	} {
		c.intents, c.ended = nil, nil
		if w := f.do(request{method: "POST", path: "/keys/" + row.key + "/release", body: `{"target":"` + row.token + `"}`}); w.Code != row.status {
			t.Errorf("%s: %d %s, want %d", name, w.Code, w.Body, row.status)
		}
		if len(c.ended) != 1 || c.ended[0].Operation != "Release" || c.ended[0].Authority != row.authority || c.ended[0].Recipient != row.recipient {
			t.Errorf("%s: recorded %+v, want authority %q and recipient %q", name, c.ended, row.authority, row.recipient)
		}
	}
}

// One golden file per refusal of a release. None of them changes the store, and none says what the policy expects.
func TestReleaseRefusals(t *testing.T) {
	f := newFixture(t, "alpha", "asleep")
	f.activate("alpha")
	for name, body := range map[string]string{
		"leaves": leaver("EC", "canary"), "open": leaver("oct", "sevsnpvm"), "stays": `{"kty":"EC"}`,
		"disabled": strings.Replace(leaver("EC", "sevsnpvm"), `"exportable"`, `"enabled":false,"exportable"`, 1),
	} {
		if w := f.do(request{method: "POST", path: "/keys/" + name + "/create", body: body}); w.Code != 200 {
			t.Fatalf("%s: %s", name, w.Body)
		}
	}
	recipient := mustKey(2048)
	good := func(changes map[string]any) string { return f.attested(&recipient.PublicKey, changes) }
	post := func(path, body string) request { return request{method: "POST", path: path, body: body} }
	target := func(token string) string { return `{"target":"` + token + `"}` }
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		request
		status int
		code   string
	}{
		"release-without-body":           {post("/keys/open/release", ""), 400, "BadParameter"},
		"release-without-target":         {post("/keys/open/release", `{"enc":"RSA_AES_KEY_WRAP_256"}`), 400, "BadParameter"},
		"release-target-is-a-number":     {post("/keys/open/release", `{"target":1}`), 400, "BadParameter"},
		"release-target-is-no-jwt":       {post("/keys/open/release", target("rubbish")), 400, "BadParameter"},
		"release-huge-target":            {post("/keys/open/release", target(strings.Repeat("A.", 20<<10))), 400, "BadParameter"},
		"release-huge-body":              {post("/keys/open/release", target(strings.Repeat("A", 64<<10))), 413, "RequestTooLarge"},
		"release-unknown-encryption":     {post("/keys/open/release", `{"target":"`+good(nil)+`","enc":"RSA-OAEP"}`), 400, "BadParameter"},
		"release-unknown-key":            {post("/keys/none/release", target(good(nil))), 404, "KeyNotFound"},
		"release-unknown-version":        {post("/keys/open/00000000000000000000000000000000/release", target(good(nil))), 404, "KeyNotFound"},
		"release-not-exportable":         {post("/keys/stays/release", target(good(nil))), 403, "Forbidden"},
		"release-disabled":               {post("/keys/disabled/release", target(good(nil))), 403, "KeyDisabled"},
		"release-before-activation":      {request{method: "POST", path: "/keys/open/release", hsm: "asleep", body: target(good(nil))}, 403, "HsmNotActivated"},
		"release-without-role":           {request{method: "POST", path: "/keys/open/release", token: f.token(map[string]any{"oid": lowID, "sub": lowID}), body: target(good(nil))}, 403, "AccessDenied"},
		"release-unknown-authority":      {post("/keys/open/release", target(good(map[string]any{"iss": "https://evil.test"}))), 403, "Forbidden"},
		"release-bearer-token-as-target": {post("/keys/open/release", target(f.token(nil))), 403, "Forbidden"},
		"release-expired-token":          {post("/keys/open/release", target(good(map[string]any{"exp": f.now.Unix() - 61}))), 403, "Forbidden"},
		"release-forged-token":           {post("/keys/open/release", target(strings.Split(good(nil), ".")[0]+"."+strings.Split(good(map[string]any{"a": 1}), ".")[1]+"."+strings.Split(good(nil), ".")[2])), 403, "Forbidden"},
		"release-policy-not-fulfilled":   {post("/keys/leaves/release", target(good(nil))), 403, "Forbidden"},
		"release-claim-missing":          {post("/keys/open/release", target(good(map[string]any{"x-ms-isolation-tee": nil}))), 403, "Forbidden"},
		"release-no-recipient":           {post("/keys/open/release", target(good(map[string]any{"x-ms-runtime": nil}))), 403, "Forbidden"},
		"release-small-recipient":        {post("/keys/open/release", target(f.attested(&small.PublicKey, nil))), 403, "Forbidden"},
		"release-by-get":                 {request{method: "GET", path: "/keys/open/release"}, 405, "MethodNotAllowed"},
		"create-policy-with-a-typo":      {post("/keys/new/create", `{"kty":"EC","attributes":{"exportable":true},"release_policy":{"data":"`+b64([]byte(`{"anyOf":[{"authority":"https://attest.test","allof":[{"claim":"a","equals":1}]}]}`))+`"}}`), 400, "BadParameter"},
	} {
		t.Run(name, func(t *testing.T) {
			before := f.snapshot()
			w := f.do(test.request)
			var body struct {
				Error struct{ Code, Message string }
			}
			if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil || w.Code != test.status || body.Error.Code != test.code {
				t.Fatalf("got %d %s, want %d %s", w.Code, w.Body, test.status, test.code)
			}
			if f.snapshot() != before {
				t.Error("the refusal changed the store")
			}
			if strings.Contains(w.Body.String(), "canary") || strings.Contains(w.Body.String(), "evil") {
				t.Errorf("the answer says what is expected, or repeats the token: %s", w.Body)
			}
			golden(t, name, test.request, w)
		})
	}
	if w := f.do(post("/keys/open/release", target(good(nil)))); w.Code != 200 {
		t.Errorf("the token that all of them were made of: %d %s", w.Code, w.Body)
	}
}
