package cli

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"io"
	"maps"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/spf13/cobra"

	"strongroom/internal/api"
)

// authority is a domain's signing key, and what is said with it.
type authority struct {
	key  *ecdsa.PrivateKey
	cert []byte
	id   string
}

func newAuthority(t testing.TB, curve elliptic.Curve) authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return authorityOf(t, key)
}

func authorityOf(t testing.TB, key *ecdsa.PrivateKey) authority {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "domain"}}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(spki)
	return authority{key, cert, hex.EncodeToString(sum[:])}
}

// say signs a statement; header says what is unusual about the JWS.
func (a authority) say(t testing.TB, says map[string]any, header map[string]any) []byte {
	t.Helper()
	options := new(jose.SignerOptions).WithType(attestationType).WithHeader("x5c", []string{base64.StdEncoding.EncodeToString(a.cert)})
	for name, value := range header {
		options = options.WithHeader(jose.HeaderKey(name), value)
	}
	alg := jose.ES384
	if a.key.Curve == elliptic.P256() {
		alg = jose.ES256
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: a.key}, options)
	if err != nil {
		t.Fatal(err)
	}
	payload, err := json.Marshal(says)
	if err != nil {
		t.Fatal(err)
	}
	jws, err := signer.Sign(payload)
	if err != nil {
		t.Fatal(err)
	}
	text, err := jws.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return []byte(text)
}

const attestedKid = "https://h/keys/k/0123456789abcdef0123456789abcdef"

// attestation makes one that holds, after change has been made to what is said.
func (a authority) attestation(t testing.TB, change func(private, public, header map[string]any)) api.KeyBundle {
	t.Helper()
	key := api.JSONWebKey{Kid: attestedKid, Kty: "EC-HSM", KeyOps: []string{"sign", "verify"}, Crv: "P-256", X: bytes.Repeat([]byte{1}, 32), Y: bytes.Repeat([]byte{2}, 32)}
	shown, err := publicJWK(key)
	if err != nil {
		t.Fatal(err)
	}
	shown.Kid = ""
	private := map[string]any{"v": 1, "part": "private", "kid": key.Kid, "domain": a.id, "kty": key.Kty, "crv": key.Crv, "key_ops": key.KeyOps,
		"origin": "generated", "exportable": false, "created": 7, "iat": 8, "jkt": shown.thumbprint()}
	public := maps.Clone(private)
	public["part"], public["jwk"] = "public", shown
	header := map[string]any{}
	change(private, public, header)
	return api.KeyBundle{Key: key, Attributes: api.KeyAttributes{Created: 7, Attestation: &api.KeyAttestation{
		CertificatePEMFile: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert}), Version: attestationVersion,
		PrivateKeyAttestation: a.say(t, private, header), PublicKeyAttestation: a.say(t, public, header),
	}}}
}

// A domain that lies about one thing and signs it is caught, wherever there is something to hold it against.
func TestVerifyAttestation(t *testing.T) {
	a, other, small := newAuthority(t, elliptic.P384()), newAuthority(t, elliptic.P384()), newAuthority(t, elliptic.P256())
	both := func(name string, value any) func(private, public, header map[string]any) {
		return func(private, public, _ map[string]any) { private[name], public[name] = value, value }
	}
	for name, tc := range map[string]struct {
		bundle api.KeyBundle
		want   string // in the error; "" for none
	}{
		"sound":                     {a.attestation(t, func(_, _, _ map[string]any) {}), ""},
		"more than is known":        {a.attestation(t, both("colour", "red")), ""},
		"another domain":            {a.attestation(t, both("domain", other.id)), "another security domain"},
		"another key":               {a.attestation(t, both("kid", attestedKid[:len(attestedKid)-1]+"0")), "another key"},
		"another type":              {a.attestation(t, both("kty", "RSA-HSM")), "another key"},
		"another curve":             {a.attestation(t, both("crv", "P-384")), "another key"},
		"other operations":          {a.attestation(t, both("key_ops", []string{"sign"})), "something else about the key"},
		"exportable":                {a.attestation(t, both("exportable", true)), "something else about the key"},
		"made at another time":      {a.attestation(t, both("created", 9)), "something else about the key"},
		"no origin":                 {a.attestation(t, both("origin", "")), "generated or imported"},
		"another version":           {a.attestation(t, both("v", 2)), "a version that is not known"},
		"another thumbprint":        {a.attestation(t, both("jkt", "AAAA")), "another public key"},
		"a contradiction":           {a.attestation(t, func(private, _, _ map[string]any) { private["iat"] = 9 }), "contradict"},
		"origins that differ":       {a.attestation(t, func(_, public, _ map[string]any) { public["origin"] = "imported" }), "contradict"},
		"a private key in it":       {a.attestation(t, func(_, public, _ map[string]any) { public["jwk"] = map[string]string{"kty": "EC", "d": "AAAA"} }), "no public key"},
		"no key in it":              {a.attestation(t, func(_, public, _ map[string]any) { delete(public, "jwk") }), "holds no key"},
		"a key in the private part": {a.attestation(t, func(private, _, _ map[string]any) { private["jwk"] = map[string]string{"kty": "EC"} }), "holds a key"},
		"signed as something else":  {a.attestation(t, func(_, _, header map[string]any) { header["typ"] = "JWT" }), "(typ)"},
		"another certificate":       {a.attestation(t, func(_, _, header map[string]any) { header["x5c"] = []string{"AAAA"} }), "(x5c)"},
		"two certificates": {a.attestation(t, func(_, _, header map[string]any) {
			one := base64.StdEncoding.EncodeToString(a.cert)
			header["x5c"] = []string{one, one}
		}), "(x5c)"},
		"a smaller curve": {small.attestation(t, func(_, _, _ map[string]any) {}), "P-384"},
	} {
		t.Run(name, func(t *testing.T) {
			says, err := verifyAttestation(tc.bundle)
			if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
			if err == nil && says.domain != a.id {
				t.Errorf("the domain is %s", says.domain)
			}
		})
	}

	// Signed by one domain, with the certificate of another in every place: only the signature tells.
	forged := a
	forged.key = other.key
	if _, err := verifyAttestation(forged.attestation(t, func(_, _, _ map[string]any) {})); err == nil || !strings.Contains(err.Error(), "signature does not hold") {
		t.Errorf("a forged signature: got %v", err)
	}
	// A certificate that its own key did not sign.
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "domain"}}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, a.key.Public(), other.key)
	if err != nil {
		t.Fatal(err)
	}
	foreign := a
	foreign.cert = cert
	if _, err := verifyAttestation(foreign.attestation(t, func(_, _, _ map[string]any) {})); err == nil || !strings.Contains(err.Error(), "not signed by its own key") {
		t.Errorf("a foreign certificate: got %v", err)
	}
}

// An attestation that a server made stays verifiable.
func TestAttestationVersion1(t *testing.T) {
	golden, err := os.ReadFile("testdata/attestation-v1.json")
	if err != nil {
		t.Fatal(err)
	}
	bundle, err := parseAttestation(golden)
	if err != nil {
		t.Fatal(err)
	}
	says, err := verifyAttestation(bundle)
	if err != nil || says.domain != "45396055d6ba14dd5d73b19569cfc3e92c3f3b8db31a0de7a324f36e8e195a80" || says.Curve != "P-256K" || says.Origin != "generated" {
		t.Errorf("got %+v, %v", says, err)
	}
}

// answering starts an HSM that says whatever it is told to, makes it the one that commands talk to, and returns an empty
// folder.
func answering(t *testing.T, answer func(path string) any) string {
	t.Helper()
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		switch _, parent, _ := strings.Cut(r.Host, "."); {
		case strings.HasSuffix(r.URL.Path, "/token"):
			_, _ = io.WriteString(w, `{"token_type":"Bearer","expires_in":3600,"access_token":"t"}`)
		case r.Header.Get("Authorization") == "":
			w.Header().Set("WWW-Authenticate", `Bearer authorization="https://`+r.Host+`/tenant", resource="https://`+parent+`"`)
			w.WriteHeader(http.StatusUnauthorized)
		default:
			_ = json.NewEncoder(w).Encode(answer(r.URL.Path))
		}
	}))
	t.Cleanup(server.Close)
	dir := t.TempDir()
	ca, config := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "config.toml")
	for path, text := range map[string][]byte{ca: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), config: nil} {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, value := range map[string]string{"URL": server.URL, "AUTHORITY": server.URL, "TENANT": "tenant", "CLIENT_ID": "me", "CLIENT_SECRET": "hush", "CA": ca, "CONFIG": config, "PROFILE": ""} {
		t.Setenv("STRONGROOM_"+name, value)
	}
	return dir
}

// A server that attests one key and shows another, or attests another key than was asked for, is caught.
func TestAttestAgainstALyingServer(t *testing.T) {
	a := newAuthority(t, elliptic.P384())
	honest := a.attestation(t, func(_, _, _ map[string]any) {})
	other := honest
	other.Key.X = bytes.Repeat([]byte{3}, 32)
	for name, tc := range map[string]struct {
		args            []string
		attested, shown api.KeyBundle
		want            string // in the error; "" for none
	}{
		"an honest one":         {[]string{"k"}, honest, honest, ""},
		"another public key":    {[]string{"k"}, honest, other, "the public key is not the one that key show gives"},
		"another key's word":    {[]string{"mine"}, honest, honest, "it is about another key"},
		"another version's":     {[]string{"k", "--key-version", strings.Repeat("0", 32)}, honest, honest, "it is about another key"},
		"an oct key, as shown":  {[]string{"k"}, honest, api.KeyBundle{Key: api.JSONWebKey{Kid: attestedKid, Kty: "oct-HSM"}}, "the public key is not the one"},
		"a statement about air": {[]string{"k"}, api.KeyBundle{Key: honest.Key, Attributes: api.KeyAttributes{Attestation: &api.KeyAttestation{Version: attestationVersion}}}, honest, "not one certificate"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := answering(t, func(path string) any {
				if strings.HasSuffix(path, "/attestation") {
					return tc.attested
				}
				return tc.shown
			})
			var stdout, stderr bytes.Buffer
			out := filepath.Join(dir, "out")
			code := Main(t.Context(), append([]string{"key", "attest", "--out", out}, tc.args...), strings.NewReader(""), &stdout, &stderr)
			if (code == exitDone) != (tc.want == "") || !strings.Contains(stderr.String(), tc.want) {
				t.Errorf("exit code %d, and %q, want %q", code, stderr.String(), tc.want)
			}
			if _, err := os.Stat(out); (err == nil) != (tc.want == "") {
				t.Errorf("the file: %v", err)
			}
		})
	}
}

// An answer that is none is not written: the plaintext may be gone afterwards, and a broken file helps nobody.
func TestAnswersThatAreNotWritten(t *testing.T) {
	iv, tag := make([]byte, 12), make([]byte, 16)
	good := api.KeyOperationResult{Kid: attestedKid, Value: []byte{1}, IV: iv, Tag: tag}
	change := func(f func(r *api.KeyOperationResult)) api.KeyOperationResult {
		r := good
		f(&r)
		return r
	}
	point := api.JSONWebKey{Kid: attestedKid, Kty: "EC-HSM", Crv: "P-256", X: make([]byte, 32), Y: make([]byte, 32)}
	encrypt := []string{"encrypt", "k", "--alg", "A256GCM", "--file", "-"}
	for name, tc := range map[string]struct {
		args   []string
		answer any
		good   bool
	}{
		"a ciphertext":            {encrypt, good, true},
		"no ciphertext":           {encrypt, change(func(r *api.KeyOperationResult) { r.Value = nil }), false},
		"no tag":                  {encrypt, change(func(r *api.KeyOperationResult) { r.Tag = nil }), false},
		"half an IV":              {encrypt, change(func(r *api.KeyOperationResult) { r.IV = r.IV[:6] }), false},
		"no version":              {encrypt, change(func(r *api.KeyOperationResult) { r.Kid = "https://h/keys/k" }), false},
		"another key":             {encrypt, change(func(r *api.KeyOperationResult) { r.Kid = strings.Replace(attestedKid, "/k/", "/m/", 1) }), false},
		"a signature":             {[]string{"sign", "k", "--alg", "ES256", "--file", "-"}, change(func(r *api.KeyOperationResult) { r.Value = make([]byte, 64) }), true},
		"half a signature":        {[]string{"sign", "k", "--alg", "ES256", "--file", "-"}, change(func(r *api.KeyOperationResult) { r.Value = make([]byte, 32) }), false},
		"a public part":           {[]string{"show", "k", "--format", "pem"}, api.KeyBundle{Key: point}, true},
		"a point of another size": {[]string{"show", "k", "--format", "pem"}, api.KeyBundle{Key: api.JSONWebKey{Kid: attestedKid, Kty: "EC-HSM", Crv: "P-384", X: point.X, Y: point.Y}}, false},
		"a curve from elsewhere":  {[]string{"show", "k", "--format", "pem"}, api.KeyBundle{Key: api.JSONWebKey{Kid: attestedKid, Kty: "EC-HSM", Crv: "P-1", X: point.X, Y: point.Y}}, false},
		"an endless exponent":     {[]string{"show", "k", "--format", "pem"}, api.KeyBundle{Key: api.JSONWebKey{Kid: attestedKid, Kty: "RSA-HSM", N: make([]byte, 256), E: bytes.Repeat([]byte{1}, 9)}}, false},
	} {
		t.Run(name, func(t *testing.T) {
			out := filepath.Join(answering(t, func(string) any { return tc.answer }), "out")
			var stdout, stderr bytes.Buffer
			code := Main(t.Context(), append(append([]string{"key"}, tc.args...), "--out", out), strings.NewReader("hello"), &stdout, &stderr)
			if _, err := os.Stat(out); (code == exitDone) != tc.good || (err == nil) != tc.good {
				t.Errorf("exit code %d, file %v: %s", code, err, stderr.String())
			}
		})
	}
}

// released makes a released key that a domain signed, after change has been made to what it says.
func (a authority) released(t testing.TB, change func(request, header map[string]any)) []byte {
	t.Helper()
	request := map[string]any{"api-version": "7.5", "enc": "RSA_AES_KEY_WRAP_256", "kid": attestedKid, "nonce": "7"}
	header := map[string]any{"typ": releaseType}
	key := map[string]any{"kid": attestedKid, "kty": "oct-HSM", "key_hsm": "AAAA"}
	change(request, header)
	if request["nothing"] != nil {
		delete(key, "key_hsm")
	}
	return a.say(t, map[string]any{"request": request, "response": map[string]any{"key": map[string]any{"key": key}}}, header)
}

// What is not what was asked for, or not signed by the domain that it names, is not written.
func TestReleaseFromALyingServer(t *testing.T) {
	a, other, small := newAuthority(t, elliptic.P384()), newAuthority(t, elliptic.P384()), newAuthority(t, elliptic.P256())
	forged := a
	forged.key = other.key
	for name, tc := range map[string]struct {
		answer []byte
		want   string // in the error; "" for none
	}{
		"an honest one":      {a.released(t, func(_, _ map[string]any) {}), ""},
		"another key":        {a.released(t, func(r, _ map[string]any) { r["kid"] = "https://h/keys/other/0123456789abcdef0123456789abcdef" }), "another request"},
		"another nonce":      {a.released(t, func(r, _ map[string]any) { r["nonce"] = "8" }), "another request"},
		"no key":             {a.released(t, func(r, _ map[string]any) { r["nothing"] = true }), "not a released key"},
		"an attestation":     {a.released(t, func(_, h map[string]any) { h["typ"] = attestationType }), "(typ)"},
		"another domain":     {other.released(t, func(_, _ map[string]any) {}), "is signed by the domain " + other.id},
		"a forged signature": {forged.released(t, func(_, _ map[string]any) {}), "signature does not hold"},
		"a smaller curve":    {small.released(t, func(_, _ map[string]any) {}), "ES384"},
		"no JWS":             {[]byte("a.b.c"), "no JWS"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := answering(t, func(string) any { return api.ReleaseResult{Value: string(tc.answer)} })
			var stdout, stderr bytes.Buffer
			out := filepath.Join(dir, "out")
			code := Main(t.Context(), []string{"key", "release", "k", "--target", "-", "--nonce", "7", "--domain", a.id, "--out", out}, strings.NewReader("x.y.z"), &stdout, &stderr)
			if (code == exitDone) != (tc.want == "") || !strings.Contains(stderr.String(), tc.want) {
				t.Errorf("exit code %d, and %q, want %q", code, stderr.String(), tc.want)
			}
			if _, err := os.Stat(out); (err == nil) != (tc.want == "") {
				t.Errorf("the file: %v", err)
			}
		})
	}
}

// FuzzReleased feeds answers. What is taken names the domain whose key signed it.
func FuzzReleased(f *testing.F) {
	key, err := ecdsa.ParseRawPrivateKey(elliptic.P384(), bytes.Repeat([]byte{7}, 48))
	if err != nil {
		f.Fatal(err)
	}
	a := authorityOf(f, key)
	f.Add(a.released(f, func(_, _ map[string]any) {}))
	f.Add([]byte("a.b.c"))
	f.Fuzz(func(t *testing.T, jws []byte) {
		if payload, domain, err := verifyRelease(jws); err == nil && (domain != a.id || payload.Request.Kid != attestedKid) {
			t.Errorf("a key %s, released by %s, is taken", payload.Request.Kid, domain)
		}
	})
}

// FuzzAttestation feeds files. What holds was signed by the one key that signs here.
func FuzzAttestation(f *testing.F) {
	// One key, because the fuzzer's processes share the seeds and not this.
	key, err := ecdsa.ParseRawPrivateKey(elliptic.P384(), bytes.Repeat([]byte{7}, 48))
	if err != nil {
		f.Fatal(err)
	}
	a := authorityOf(f, key)
	text, err := json.Marshal(a.attestation(f, func(_, _, _ map[string]any) {}))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte(`{"key":{"kty":"oct-HSM"},"attributes":{"attestation":{"version":"STRONGROOM-1"}}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		bundle, err := parseAttestation(text)
		if err != nil {
			return
		}
		if says, err := verifyAttestation(bundle); err == nil && (says.domain != a.id || says.Kid != attestedKid) {
			t.Errorf("an attestation of %s by %s holds", says.Kid, says.domain)
		}
	})
}

// A file of version 1, which other software made with the key 00 01 … 1f, stays readable, means what it says, and is
// written the same way.
func TestCiphertextVersion1(t *testing.T) {
	golden, err := os.ReadFile("testdata/ciphertext-v1.json")
	if err != nil {
		t.Fatal(err)
	}
	file, err := parseCiphertext(golden)
	if err != nil {
		t.Fatal(err)
	}
	key := make([]byte, 32)
	for i := range key {
		key[i] = byte(i)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := gcm.Open(nil, file.IV, slices.Concat(file.Value, file.Tag), file.AAD)
	if err != nil || string(plain) != "Dear Grace, the keys are under the mat.\n" {
		t.Errorf("got %q, %v", plain, err)
	}
	c := &ciphering{file: "golden"}
	if err := c.take(file, "Archive"); err != nil || c.alg != "A256GCM" || c.version != "0f0c4a6b5d1e4c5f8a9b0c1d2e3f4a5b" {
		t.Errorf("got %s with version %s, %v", c.alg, c.version, err)
	}
	again, err := json.MarshalIndent(file, "", "  ")
	if err != nil || string(again)+"\n" != string(golden) {
		t.Errorf("it is written as %s, %v", again, err)
	}
}

// FuzzCiphertextFile: what is read is what it would be written as again.
func FuzzCiphertextFile(f *testing.F) {
	f.Add([]byte(`{"format":"strongroom-ciphertext","version":1,"alg":"A256GCM","kid":"https://h/keys/k/v","iv":"AAAA","tag":"AAAA","aad":"AAAA","value":"AAAA"}`))
	f.Add([]byte(`{"format":"strongroom-ciphertext","version":2}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := parseCiphertext(text)
		if err != nil {
			return
		}
		again, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		back, err := parseCiphertext(again)
		if err != nil || back.Alg != c.Alg || back.Kid != c.Kid || !bytes.Equal(back.Value, c.Value) || !bytes.Equal(back.IV, c.IV) || !bytes.Equal(back.Tag, c.Tag) || !bytes.Equal(back.AAD, c.AAD) {
			t.Errorf("%s comes back as %s, %v", text, again, err)
		}
	})
}

// FuzzJWK feeds keys, private and public. None gets past the bounds, and no error holds a part of one.
func FuzzJWK(f *testing.F) {
	f.Add([]byte(`{"kty":"EC","crv":"P-256","x":"AQ","y":"Ag","d":"Aw"}`))
	f.Add([]byte(`{"kty":"RSA","n":"AQ","e":"AQAB"}`))
	f.Add([]byte(`{"kty":"oct","k":"AAECAwQFBgcICQoLDA0ODw"}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		k, err := parseJWK(text)
		if err == nil && (k.Kty != "RSA" && k.Kty != "EC" && k.Kty != "oct" || len(k.D)+len(k.N)+len(k.K) > maxKeyFile) {
			t.Errorf("taken: %q", k.Kty)
		}
		if key, _, err := parseReceiver(text); err == nil && key != nil && (key.N.BitLen() < 2048 || key.E < 3) {
			t.Errorf("a receiver of %d bits with exponent %d", key.N.BitLen(), key.E)
		}
	})
}

// FuzzSignatureDER: a signature has one spelling, and what is read is written as that.
func FuzzSignatureDER(f *testing.F) {
	der, err := toDER(append(bytes.Repeat([]byte{0x80}, 32), bytes.Repeat([]byte{1}, 32)...))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(der, 32)
	f.Add([]byte{0x30, 6, 2, 1, 0, 2, 1, 1}, 32)
	f.Fuzz(func(t *testing.T, der []byte, size int) {
		if size < 0 || size > 66 {
			return
		}
		raw, ok := fromDER(der, size)
		if !ok {
			return
		}
		if again, err := toDER(raw); err != nil || !bytes.Equal(again, der) || len(raw) != 2*size {
			t.Errorf("%x comes back as %x, %v", der, again, err)
		}
	})
}

func TestFromDER(t *testing.T) {
	for name, tc := range map[string]struct {
		der string
		ok  bool
	}{
		"as it should be":      {"3006020101020102", true},
		"a byte behind it":     {"300602010102010200", false},
		"r is zero":            {"3006020100020102", false},
		"s is negative":        {"30060201010201ff", false},
		"r in too many bytes":  {"300702020001020102", false},
		"r is too large":       {"3008020301000102010200", false},
		"a number is missing":  {"3003020101", false},
		"three numbers":        {"3009020101020102020103", false},
		"the length in 2 byte": {"308106020101020102", false},
		"nothing":              {"", false},
	} {
		t.Run(name, func(t *testing.T) {
			der, err := hex.DecodeString(tc.der)
			if err != nil {
				t.Fatal(err)
			}
			raw, ok := fromDER(der, 1)
			if ok != tc.ok || ok && !bytes.Equal(raw, []byte{1, 2}) {
				t.Errorf("got %x, %v", raw, ok)
			}
		})
	}
}

func TestMoment(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	a := &app{now: func() time.Time { return now }}
	cmd := &cobra.Command{Use: "x"}
	cmd.Flags().String("expires", "", "")
	for text, want := range map[string]time.Time{
		"2027-01-31T12:00:00Z": time.Date(2027, 1, 31, 12, 0, 0, 0, time.UTC), "2027-01-31T12:00:00+02:00": time.Date(2027, 1, 31, 10, 0, 0, 0, time.UTC),
		"2027-01-31": time.Date(2027, 1, 31, 0, 0, 0, 0, time.UTC), "12h": now.Add(12 * time.Hour), "90d": now.AddDate(0, 0, 90), "6w": now.AddDate(0, 0, 42), "1y": now.AddDate(0, 0, 365),
	} {
		if at, err := a.moment(cmd, "expires", text); err != nil || *at != want.Unix() {
			t.Errorf("%s: got %v, %v, want %d", text, at, err, want.Unix())
		}
	}
	for _, text := range []string{"soon", "90", "d", "-1d", "90m", "1d12h", "2027-02-30", "999999d", " 1d"} {
		if _, err := a.moment(cmd, "expires", text); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
}

// The thumbprint of RFC 7638 section 3.1.
func TestThumbprint(t *testing.T) {
	n, err := base64.RawURLEncoding.DecodeString("0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw")
	if err != nil {
		t.Fatal(err)
	}
	if got := (jwk{Kty: "RSA", N: n, E: []byte{1, 0, 1}}).thumbprint(); got != "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs" {
		t.Errorf("got %s", got)
	}
}
