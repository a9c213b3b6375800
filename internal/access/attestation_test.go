package access

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"math/big"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"

	"strongroom/internal/failure"
)

const authorityURL = "https://attest.example"

// attested are good claims with changes; a nil value removes one.
func attested(changes map[string]any) []byte {
	all := map[string]any{
		"iss": authorityURL, "exp": noon.Add(8 * time.Hour).Unix(), "nbf": noon.Unix(), "iat": noon.Unix(), "jti": "1",
		"x-ms-attestation-type": "sevsnpvm", "x-ms-runtime": map[string]any{"keys": []any{}},
	}
	maps.Copy(all, changes)
	maps.DeleteFunc(all, func(_ string, v any) bool { return v == nil })
	out, _ := json.Marshal(all)
	return out
}

func newAttestations(t testing.TB, keys ...crypto.PublicKey) *Attestations {
	t.Helper()
	a, err := NewAttestations([]Issuer{
		{URL: authorityURL, Keys: &oidc.StaticKeySet{PublicKeys: keys}, Algorithms: []string{"ES256"}},
		{URL: issuerB, Keys: &oidc.StaticKeySet{PublicKeys: []crypto.PublicKey{newKey(t).Public()}}, Algorithms: []string{"ES256"}},
	}, clock)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func header(members map[string]any) map[jose.HeaderKey]any {
	h := map[jose.HeaderKey]any{}
	for name, value := range members {
		h[jose.HeaderKey(name)] = value
	}
	return h
}

func TestAttestationIsRead(t *testing.T) {
	key := newKey(t)
	a := newAttestations(t, key.Public())
	for name, row := range map[string]struct{ header, changes map[string]any }{
		"plain":                     {nil, nil},
		"a type":                    {map[string]any{"typ": "JWT"}, nil},
		"a type in lower case":      {map[string]any{"typ": "jwt"}, nil},
		"jku, which is not asked":   {map[string]any{"jku": "https://127.0.0.1:1/certs", "kid": "1"}, nil},
		"with an audience":          {nil, map[string]any{"aud": "https://somebody.example"}},
		"expired within the skew":   {nil, map[string]any{"exp": noon.Add(-60 * time.Second).Unix()}},
		"not yet valid by the skew": {nil, map[string]any{"nbf": noon.Add(60 * time.Second).Unix()}},
		"large claims":              {nil, map[string]any{"x-ms-policy": strings.Repeat("x", 20<<10)}},
	} {
		got, err := a.Verify(t.Context(), sign(t, jose.ES256, key, header(row.header), attested(row.changes)))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if kind, _ := got.Claims.Get("x-ms-attestation-type").Text(); got.Authority != authorityURL || kind != "sevsnpvm" {
			t.Errorf("%s: got %q of %q", name, kind, got.Authority)
		}
	}
}

// Covers A4, A5 for attestation tokens.
func TestAttestationIsRefused(t *testing.T) {
	key := newKey(t)
	a := newAttestations(t, key.Public())
	good := sign(t, jose.ES256, key, nil, attested(nil))
	parts := strings.Split(good, ".")
	seg := func(text string) string { return base64.RawURLEncoding.EncodeToString([]byte(text)) }
	_, edwards, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signed := func(members, changes map[string]any) string {
		return sign(t, jose.ES256, key, header(members), attested(changes))
	}
	for name, row := range map[string]struct {
		token string
		kind  error
		word  string
	}{
		"nothing":                     {"", failure.BadParameter, "compact"},
		"two segments":                {parts[0] + "." + parts[1], failure.BadParameter, "compact"},
		"four segments":               {good + ".", failure.BadParameter, "compact"},
		"a million dots":              {strings.Repeat(".", 1<<20), failure.BadParameter, "32768"},
		"32 KiB of dots":              {strings.Repeat(".", 32<<10), failure.BadParameter, "compact"},
		"more than 32 KiB":            {signed(nil, map[string]any{"x": strings.Repeat("x", 32<<10)}), failure.BadParameter, "32768"},
		"padding":                     {parts[0] + "=." + parts[1] + "." + parts[2], failure.BadParameter, "base64url"},
		"a line break":                {parts[0] + "\n." + parts[1] + "." + parts[2], failure.BadParameter, "base64url"},
		"a signature in base64":       {parts[0] + "." + parts[1] + ".++++", failure.BadParameter, "base64url"},
		"a header that is no JSON":    {seg("x") + "." + parts[1] + "." + parts[2], failure.BadParameter, "header"},
		"a header that is a list":     {seg("[]") + "." + parts[1] + "." + parts[2], failure.BadParameter, "header"},
		"alg twice":                   {seg(`{"alg":"ES256","alg":"ES256"}`) + "." + parts[1] + "." + parts[2], failure.BadParameter, "header"},
		"alg twice but for case":      {seg(`{"alg":"ES256","Alg":"none"}`) + "." + parts[1] + "." + parts[2], failure.BadParameter, "header"},
		"claims that are no JSON":     {parts[0] + "." + seg("x") + "." + parts[2], failure.BadParameter, "claims"},
		"claims that are a list":      {parts[0] + "." + seg("[]") + "." + parts[2], failure.BadParameter, "claims"},
		"brackets":                    {parts[0] + "." + seg(strings.Repeat("[", 20<<10)) + "." + parts[2], failure.BadParameter, "claims"},
		"a claim twice":               {parts[0] + "." + seg(`{"iss":"`+authorityURL+`","iss":"x"}`) + "." + parts[2], failure.BadParameter, "claims"},
		"no iss":                      {signed(nil, map[string]any{"iss": nil}), failure.Forbidden, "authority"},
		"iss as a list":               {signed(nil, map[string]any{"iss": []string{authorityURL}}), failure.Forbidden, "authority"},
		"another authority":           {signed(nil, map[string]any{"iss": "https://evil.example"}), failure.Forbidden, "authority"},
		"a slash behind":              {signed(nil, map[string]any{"iss": authorityURL + "/"}), failure.Forbidden, "authority"},
		"a configured authority's":    {signed(nil, map[string]any{"iss": issuerB}), failure.Forbidden, "signature"},
		"another key":                 {sign(t, jose.ES256, newKey(t), nil, attested(nil)), failure.Forbidden, "signature"},
		"another algorithm":           {sign(t, jose.EdDSA, edwards, nil, attested(nil)), failure.Forbidden, "algorithm"},
		"HMAC with the public key":    {sign(t, jose.HS256, []byte(certificate(t, key)), nil, attested(nil)), failure.Forbidden, "algorithm"},
		"none":                        {seg(`{"alg":"none"}`) + "." + parts[1] + ".", failure.Forbidden, "algorithm"},
		"no alg":                      {seg(`{"typ":"JWT"}`) + "." + parts[1] + "." + parts[2], failure.Forbidden, "algorithm"},
		"alg as a list":               {seg(`{"alg":["ES256"]}`) + "." + parts[1] + "." + parts[2], failure.Forbidden, "algorithm"},
		"a changed claim":             {parts[0] + "." + seg(strings.Replace(string(attested(nil)), "sevsnpvm", "sgx", 1)) + "." + parts[2], failure.Forbidden, "signature"},
		"no signature":                {parts[0] + "." + parts[1] + ".", failure.Forbidden, "signature"},
		"its own key in the header":   {signed(map[string]any{"jwk": jose.JSONWebKey{Key: key.Public()}}, nil), failure.Forbidden, "jwk"},
		"x5u":                         {signed(map[string]any{"x5u": "https://evil.example"}, nil), failure.Forbidden, "x5u"},
		"x5c":                         {signed(map[string]any{"x5c": []string{certificate(t, key)}}, nil), failure.Forbidden, "x5c"},
		"b64":                         {seg(`{"alg":"ES256","b64":false}`) + "." + parts[1] + "." + parts[2], failure.Forbidden, "b64"},
		"crit":                        {seg(`{"alg":"ES256","crit":["exp"]}`) + "." + parts[1] + "." + parts[2], failure.Forbidden, "crit"},
		"an access token":             {signed(map[string]any{"typ": "at+jwt"}, nil), failure.Forbidden, "something else"},
		"a logout token":              {signed(map[string]any{"typ": "logout+jwt"}, nil), failure.Forbidden, "something else"},
		"a type that is a number":     {signed(map[string]any{"typ": 1}, nil), failure.Forbidden, "something else"},
		"no exp":                      {signed(nil, map[string]any{"exp": nil}), failure.Forbidden, "exp"},
		"no nbf":                      {signed(nil, map[string]any{"nbf": nil}), failure.Forbidden, "nbf"},
		"exp as text":                 {signed(nil, map[string]any{"exp": "9999999999"}), failure.Forbidden, "exp"},
		"expired":                     {signed(nil, map[string]any{"exp": noon.Add(-61 * time.Second).Unix()}), failure.Forbidden, "expired"},
		"expired long ago":            {signed(nil, map[string]any{"exp": -1 << 62}), failure.Forbidden, "expired"},
		"not valid yet":               {signed(nil, map[string]any{"nbf": noon.Add(61 * time.Second).Unix()}), failure.Forbidden, "not valid yet"},
		"not valid for a long time":   {signed(nil, map[string]any{"nbf": 1 << 62}), failure.Forbidden, "not valid yet"},
		"a bearer token of an issuer": {sign(t, jose.ES256, key, nil, claims(nil)), failure.Forbidden, "authority"},
	} {
		got, err := a.Verify(t.Context(), row.token)
		if !errors.Is(err, row.kind) || got.Authority != "" || got.Claims.Kind() != 0 {
			t.Errorf("%s: got %v, want %v", name, err, row.kind)
			continue
		}
		f, _ := errors.AsType[*failure.Error](err)
		if !strings.Contains(f.Message, row.word) || len(f.Message) > 200 || strings.Contains(f.Message, "evil") {
			t.Errorf("%s: the message %q should name %q", name, f.Message, row.word)
		}
		// SDKs and their tests look for this beginning.
		if f.Kind == failure.Forbidden && (f.Code != "Forbidden" || !strings.HasPrefix(f.Message, "Target environment attestation statement cannot be verified. ")) {
			t.Errorf("%s: code %s, message %q", name, f.Code, f.Message)
		}
	}
	if _, err := a.Verify(t.Context(), good); err != nil {
		t.Errorf("the token that all of them were made of: %v", err)
	}
}

// An attestation token is no bearer token, although its authority may be an issuer of a similar kind.
func TestAttestationLetsNobodyIn(t *testing.T) {
	key := newKey(t)
	caller, err := newVerifier(t, key, newKey(t)).Verify(t.Context(), sign(t, jose.ES256, key, nil, attested(map[string]any{"iss": issuerA})), []string{resource})
	mustRefuse(t, caller, err)
}

func TestNewAttestationsRefuses(t *testing.T) {
	keys := &oidc.StaticKeySet{}
	good := Issuer{URL: authorityURL, Keys: keys, Algorithms: []string{"RS256"}}
	for name, list := range map[string][]Issuer{
		"no URL":        {{Keys: keys, Algorithms: []string{"RS256"}}},
		"no keys":       {{URL: authorityURL, Algorithms: []string{"RS256"}}},
		"no algorithms": {{URL: authorityURL, Keys: keys}},
		"none":          {{URL: authorityURL, Keys: keys, Algorithms: []string{"none"}}},
		"HMAC":          {{URL: authorityURL, Keys: keys, Algorithms: []string{"RS256", "HS256"}}},
		"twice":         {good, good},
	} {
		if _, err := NewAttestations(list, clock); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	none, err := NewAttestations(nil, clock)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := none.Verify(t.Context(), sign(t, jose.ES256, newKey(t), nil, attested(nil))); !errors.Is(err, failure.Forbidden) {
		t.Errorf("without authorities: got %v, want %v", err, failure.Forbidden)
	}
}

// certificate is a self-signed certificate in base64, as attestation authorities publish their keys.
func certificate(t testing.TB, key crypto.Signer) string {
	t.Helper()
	return certificateOf(t, key.Public(), key)
}

func certificateOf(t testing.TB, public crypto.PublicKey, key crypto.Signer) string {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "attestation"}, NotBefore: noon, NotAfter: noon.AddDate(1, 0, 0)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, key)
	if err != nil {
		t.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString(der)
}

// The whole way over the network: discovery, a key set of certificates alone, and nobody else asked although the token
// says whom to ask.
func TestAttestationOverTheNetwork(t *testing.T) {
	p := newProvider(t)
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p.set(nil, body(`{"keys":[{"kid":"1","kty":"RSA","x5c":["`+certificate(t, key)+`"]}]}`))
	authority, err := OpenIssuer(IssuerConfig{URL: p.URL, Algorithms: []string{"RS256"}, Client: p.Client(), Now: clock, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	a, err := NewAttestations([]Issuer{authority}, clock)
	if err != nil {
		t.Fatal(err)
	}
	jku := map[string]any{"jku": p.URL + "/elsewhere", "kid": "1", "typ": "JWT"}
	for range 2 {
		if _, err := a.Verify(t.Context(), sign(t, jose.RS256, key, header(jku), attested(map[string]any{"iss": p.URL}))); err != nil {
			t.Fatal(err)
		}
	}
	if got := p.counts(); got != [3]int{1, 1, 0} {
		t.Errorf("asked %v (discovery, keys, elsewhere), want one reading", got)
	}
	other, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	_, err = a.Verify(t.Context(), sign(t, jose.RS256, other, header(jku), attested(map[string]any{"iss": p.URL})))
	want(t, err, failure.Forbidden)

	p.set(status(http.StatusInternalServerError), nil)
	down, err := OpenIssuer(IssuerConfig{URL: p.URL, Algorithms: []string{"RS256"}, Client: p.Client(), Now: clock, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	if a, err = NewAttestations([]Issuer{down}, clock); err != nil {
		t.Fatal(err)
	}
	_, err = a.Verify(t.Context(), sign(t, jose.RS256, key, header(jku), attested(map[string]any{"iss": p.URL})))
	want(t, err, failure.Unavailable)
}

// A key that is only in a certificate keeps the rules of the others.
func TestKeysInCertificates(t *testing.T) {
	small, _ := rsa.GenerateKey(rand.Reader, 1024)
	good, _ := rsa.GenerateKey(rand.Reader, 2048)
	p256, p384 := newKey(t), mustKey(t, elliptic.P384())
	_, edwards, _ := ed25519.GenerateKey(rand.Reader)
	// Only its size matters, so it need not be the product of primes.
	huge := &rsa.PublicKey{N: new(big.Int).SetBit(new(big.Int).Lsh(big.NewInt(1), 4096), 0, 1), E: 65537}
	cert := func(key crypto.Signer) string { return certificate(t, key) }
	for name, row := range map[string]struct {
		jwk  string
		kept bool
	}{
		"RSA":                       {`{"kid":"k","kty":"RSA","x5c":["` + cert(good) + `"]}`, true},
		"RSA, for signatures":       {`{"kid":"k","kty":"RSA","use":"sig","alg":"RS256","x5c":["` + cert(good) + `","rubbish"]}`, true},
		"EC":                        {`{"kid":"k","kty":"EC","x5c":["` + cert(p256) + `"]}`, true},
		"RSA, for encryption":       {`{"kid":"k","kty":"RSA","use":"enc","x5c":["` + cert(good) + `"]}`, false},
		"RSA, for another padding":  {`{"kid":"k","kty":"RSA","alg":"PS256","x5c":["` + cert(good) + `"]}`, false},
		"RSA 1024":                  {`{"kid":"k","kty":"RSA","x5c":["` + cert(small) + `"]}`, false},
		"RSA 4097":                  {`{"kid":"k","kty":"RSA","x5c":["` + certificateOf(t, huge, good) + `"]}`, false},
		"another curve":             {`{"kid":"k","kty":"EC","x5c":["` + cert(p384) + `"]}`, false},
		"EC called RSA":             {`{"kid":"k","kty":"RSA","x5c":["` + cert(p256) + `"]}`, false},
		"RSA called EC":             {`{"kid":"k","kty":"EC","x5c":["` + cert(good) + `"]}`, false},
		"Ed25519":                   {`{"kid":"k","kty":"OKP","x5c":["` + cert(edwards) + `"]}`, false},
		"no kty":                    {`{"kid":"k","x5c":["` + cert(good) + `"]}`, false},
		"a broken n beside":         {`{"kid":"k","kty":"RSA","n":"AQAB","x5c":["` + cert(good) + `"]}`, false},
		"another key beside":        {`{"kid":"k","kty":"RSA","n":"` + base64.RawURLEncoding.EncodeToString(small.N.Bytes()) + `","e":"AQAB","x5c":["` + cert(good) + `"]}`, false},
		"no certificate":            {`{"kid":"k","kty":"RSA","x5c":[]}`, false},
		"null":                      {`{"kid":"k","kty":"RSA","x5c":null}`, false},
		"a text":                    {`{"kid":"k","kty":"RSA","x5c":"` + cert(good) + `"}`, false},
		"no base64":                 {`{"kid":"k","kty":"RSA","x5c":["?"]}`, false},
		"base64 of something":       {`{"kid":"k","kty":"RSA","x5c":["AAAA"]}`, false},
		"a kid of 257 bytes":        {`{"kid":"` + strings.Repeat("k", 257) + `","kty":"RSA","x5c":["` + cert(good) + `"]}`, false},
		"a kid that is a number":    {`{"kid":1,"kty":"RSA","x5c":["` + cert(good) + `"]}`, false},
		"may only encrypt, says so": {`{"kid":"k","kty":"RSA","key_ops":["encrypt"],"x5c":["` + cert(good) + `"]}`, false},
	} {
		got, err := parseKeySet([]byte(`{"keys":[`+row.jwk+`]}`), []string{"RS256", "ES256"})
		if row.kept && (err != nil || len(got) != 1 || got[0].KeyID != "k" || !got[0].IsPublic()) || !row.kept && !errors.Is(err, errNoKeys) {
			t.Errorf("%s: got %d keys, %v; want it kept: %t", name, len(got), err, row.kept)
		}
	}
}

func mustKey(t testing.TB, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// Whatever is sent as an attestation token: no panic, and nothing that its authority did not sign. Covers A5, R4.
func FuzzAttestation(f *testing.F) {
	key := newKey(f)
	a := newAttestations(f, key.Public())
	good := sign(f, jose.ES256, key, nil, attested(nil))
	f.Add(good)
	f.Add(sign(f, jose.ES256, key, header(map[string]any{"jku": "https://x", "typ": "JWT", "kid": "1"}), attested(nil)))
	f.Add("eyJhbGciOiJub25lIn0.e30.")
	f.Add("..")
	f.Fuzz(func(t *testing.T, raw string) {
		got, err := a.Verify(t.Context(), raw)
		if err == nil && (got.Authority != authorityURL || !strings.HasPrefix(raw, "ey")) {
			t.Fatalf("took a token of %q", got.Authority)
		}
		if err != nil && !errors.Is(err, failure.BadParameter) && !errors.Is(err, failure.Forbidden) {
			t.Fatalf("refused with %v", err)
		}
	})
}
