package e2e_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"hash"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"
	"github.com/go-jose/go-jose/v4"
	"github.com/tink-crypto/tink-go/v2/kwp/subtle"

	"strongroom/test/harness"
)

// attest has the development server's own authority attest claims for a public key, as docs/operations.md shows it.
func attest(t *testing.T, s *harness.Server, claims string, key *rsa.PublicKey) string {
	t.Helper()
	ca, err := os.ReadFile(s.Env["STRONGROOM_CA"])
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	b64 := base64.RawURLEncoding.EncodeToString
	body := `{"claims":` + claims + `,"key":{"kty":"RSA","kid":"enclave","n":"` + b64(key.N.Bytes()) + `","e":"AQAB"}}`
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.Env["STRONGROOM_AUTHORITY"]+"/attest/token", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	r.SetBasicAuth(s.Env["STRONGROOM_CLIENT_ID"], s.Env["STRONGROOM_CLIENT_SECRET"])
	response, err := (&http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	raw, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	var answer struct{ Token string }
	if err := json.Unmarshal(raw, &answer); err != nil || response.StatusCode != 200 || answer.Token == "" {
		t.Fatalf("attest: %d %s", response.StatusCode, raw)
	}
	return answer.Token
}

// openRelease is the recipient: it checks who signed, and unwraps the key.
func openRelease(t *testing.T, jws, domain, nonce string, to *rsa.PrivateKey) []byte {
	t.Helper()
	var header struct{ X5c [][]byte }
	raw, err := base64.RawURLEncoding.DecodeString(jws[:strings.Index(jws, ".")])
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, &header); err != nil || len(header.X5c) != 1 {
		t.Fatalf("header %s: %v", raw, err)
	}
	certificate, err := x509.ParseCertificate(header.X5c[0])
	if err != nil {
		t.Fatal(err)
	}
	if id := sha256.Sum256(certificate.RawSubjectPublicKeyInfo); hex.EncodeToString(id[:]) != domain {
		t.Fatalf("signed by domain %x, want %s", id, domain)
	}
	signed, err := jose.ParseSignedCompact(jws, []jose.SignatureAlgorithm{jose.ES384})
	if err != nil {
		t.Fatal(err)
	}
	payload, err := signed.Verify(certificate.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	var p struct {
		Request  struct{ Enc, Nonce string }
		Response struct {
			Key struct {
				Key struct {
					KeyHSM string `json:"key_hsm"`
				}
			}
		}
	}
	if err := json.Unmarshal(payload, &p); err != nil || p.Request.Nonce != nonce {
		t.Fatalf("nonce %q: %v", p.Request.Nonce, err)
	}
	if raw, err = base64.RawURLEncoding.DecodeString(p.Response.Key.Key.KeyHSM); err != nil {
		t.Fatal(err)
	}
	var wrapped struct{ Ciphertext string }
	if err := json.Unmarshal(raw, &wrapped); err != nil {
		t.Fatal(err)
	}
	if raw, err = base64.RawURLEncoding.DecodeString(wrapped.Ciphertext); err != nil {
		t.Fatal(err)
	}
	h := map[string]hash.Hash{"CKM_RSA_AES_KEY_WRAP": sha1.New(), "RSA_AES_KEY_WRAP_256": sha256.New(), "RSA_AES_KEY_WRAP_384": sha512.New384()}[p.Request.Enc]
	key, err := rsa.DecryptOAEP(h, nil, to, raw[:to.Size()], nil)
	if err != nil {
		t.Fatal(err)
	}
	kwp, err := subtle.NewKWP(key)
	if err != nil {
		t.Fatal(err)
	}
	target, err := kwp.Unwrap(raw[to.Size():])
	if err != nil {
		t.Fatal(err)
	}
	return target
}

// Secure key release with a stock SDK: keys are made with a release policy, and whoever is attested as the policy wants
// it gets them, and they work outside.
func TestAzureSDKForGoRelease(t *testing.T) {
	s := start(t)
	client, ctx := azureClient(t, s, s.URL(t, "alpha")), t.Context()
	sd, err := os.ReadFile(filepath.Join(activate(t, s, "alpha"), "SD.json"))
	if err != nil {
		t.Fatal(err)
	}
	recipient, err := rsa.GenerateKey(rand.Reader, 3072)
	if err != nil {
		t.Fatal(err)
	}
	policy := &azkeys.KeyReleasePolicy{EncodedPolicy: []byte(`{"version":"1.0.0","anyOf":[{"authority":"` + s.Env["STRONGROOM_AUTHORITY"] + `/attest","allOf":[
		{"claim":"x-ms-isolation-tee.x-ms-attestation-type","equals":"sevsnpvm"},{"claim":"x-ms-sevsnpvm-is-debuggable","equals":"false"}]}]}`)}
	exportable := &azkeys.KeyAttributes{Exportable: to.Ptr(true)}
	const good = `{"x-ms-isolation-tee":{"x-ms-attestation-type":"sevsnpvm"},"x-ms-sevsnpvm-is-debuggable":false}`
	token := attest(t, s, good, &recipient.PublicKey)
	release := func(name, version string, enc azkeys.KeyEncryptionAlgorithm) []byte {
		t.Helper()
		released, err := client.Release(ctx, name, version, azkeys.ReleaseParameters{TargetAttestationToken: &token, Algorithm: &enc, Nonce: to.Ptr("nonce of " + name)}, nil)
		if err != nil {
			t.Fatal(err)
		}
		return openRelease(t, *released.Value, domainOf(t, sd), "nonce of "+name, recipient)
	}

	// A signature that was made outside holds under the public key that the HSM shows.
	ec, err := client.CreateKey(ctx, "leaves-ec", azkeys.CreateKeyParameters{Kty: to.Ptr(azkeys.KeyTypeECHSM), Curve: to.Ptr(azkeys.CurveNameP256), KeyAttributes: exportable, ReleasePolicy: policy}, nil)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(release("leaves-ec", "", azkeys.KeyEncryptionAlgorithmRSAAESKEYWRAP384))
	if err != nil {
		t.Fatal(err)
	}
	public, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), slices.Concat([]byte{4}, ec.Key.X, ec.Key.Y))
	if err != nil || !public.Equal(parsed.(*ecdsa.PrivateKey).Public()) {
		t.Errorf("another EC key was released, or %v", err)
	}

	// What the HSM encrypted opens outside.
	oct, err := client.CreateKey(ctx, "leaves-oct", azkeys.CreateKeyParameters{Kty: to.Ptr(azkeys.KeyTypeOctHSM), KeySize: to.Ptr[int32](256), KeyAttributes: exportable, ReleasePolicy: policy}, nil)
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := client.Encrypt(ctx, "leaves-oct", "", azkeys.KeyOperationParameters{Algorithm: to.Ptr(azkeys.EncryptionAlgorithmA256GCM), Value: []byte("inside")}, nil)
	if err != nil {
		t.Fatal(err)
	}
	block, err := aes.NewCipher(release("leaves-oct", oct.Key.KID.Version(), azkeys.KeyEncryptionAlgorithmRSAAESKEYWRAP256))
	if err != nil {
		t.Fatal(err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	if plain, err := gcm.Open(nil, sealed.IV, append(sealed.Result, sealed.AuthenticationTag...), nil); err != nil || !bytes.Equal(plain, []byte("inside")) {
		t.Errorf("what the HSM encrypted does not open with the released key: %v", err)
	}

	// An RSA key that came from outside goes out again as what it was.
	mine, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	jwk := &azkeys.JSONWebKey{Kty: to.Ptr(azkeys.KeyTypeRSA), N: mine.N.Bytes(), E: []byte{1, 0, 1}, D: mine.D.Bytes(), P: mine.Primes[0].Bytes(), Q: mine.Primes[1].Bytes(),
		DP: mine.Precomputed.Dp.Bytes(), DQ: mine.Precomputed.Dq.Bytes(), QI: mine.Precomputed.Qinv.Bytes()}
	if _, err := client.ImportKey(ctx, "leaves-rsa", azkeys.ImportKeyParameters{Key: jwk, KeyAttributes: exportable, ReleasePolicy: policy}, nil); err != nil {
		t.Fatal(err)
	}
	if parsed, err = x509.ParsePKCS8PrivateKey(release("leaves-rsa", "", azkeys.KeyEncryptionAlgorithmCKMRSAAESKEYWRAP)); err != nil || !mine.Equal(parsed) {
		t.Errorf("another RSA key was released, or %v", err)
	}

	// What the policy does not want stays.
	if _, err := client.CreateKey(ctx, "stays", azkeys.CreateKeyParameters{Kty: to.Ptr(azkeys.KeyTypeECHSM)}, nil); err != nil {
		t.Fatal(err)
	}
	refused := func(what, name, token string, word string) {
		t.Helper()
		_, err := client.Release(ctx, name, "", azkeys.ReleaseParameters{TargetAttestationToken: &token}, nil)
		response, is := errors.AsType[*azcore.ResponseError](err)
		if !is || response.StatusCode != 403 || response.ErrorCode != "Forbidden" || !strings.Contains(err.Error(), word) {
			t.Errorf("%s: got %v, want 403 Forbidden with %q", what, err, word)
		}
	}
	refused("a key that stays", "stays", token, "not exportable")
	refused("a debuggable environment", "leaves-ec", attest(t, s, strings.Replace(good, "false", "true", 1), &recipient.PublicKey), "x-ms-sevsnpvm-is-debuggable")
	refused("an environment of another kind", "leaves-ec", attest(t, s, `{}`, &recipient.PublicKey), "x-ms-isolation-tee.x-ms-attestation-type")
	refused("a token that somebody changed", "leaves-ec", token[:len(token)-10]+"AAAAAAAAAA", "Target environment attestation statement cannot be verified.")

	// An immutable policy stays, and goes on counting.
	policy.Immutable = to.Ptr(true)
	if _, err := client.UpdateKey(ctx, "leaves-ec", "", azkeys.UpdateKeyParameters{ReleasePolicy: policy}, nil); err != nil {
		t.Fatal(err)
	}
	weaker := &azkeys.KeyReleasePolicy{EncodedPolicy: []byte(`{"anyOf":[{"authority":"` + s.Env["STRONGROOM_AUTHORITY"] + `/attest","allOf":[{"claim":"strongroom-dev","equals":true}]}]}`)}
	if _, err := client.UpdateKey(ctx, "leaves-ec", "", azkeys.UpdateKeyParameters{ReleasePolicy: weaker}, nil); err == nil {
		t.Error("an immutable policy was changed")
	}
	refused("after an attempt to weaken the policy", "leaves-ec", attest(t, s, `{}`, &recipient.PublicKey), "x-ms-isolation-tee.x-ms-attestation-type")
	release("leaves-ec", "", azkeys.KeyEncryptionAlgorithmRSAAESKEYWRAP256)
	// Nobody has to wonder afterwards what such an attestation was worth.
	if !strings.Contains(s.Log.String(), "attestation for development issued") {
		t.Error("the log says nothing of the attestations")
	}
}

// domainOf is the ID of the security domain in an SD file.
func domainOf(t *testing.T, sd []byte) string {
	t.Helper()
	i := bytes.Index(sd, []byte(`"domain_id"`))
	if i < 0 {
		t.Fatal("the SD file names no domain")
	}
	fields := bytes.SplitN(sd[i:], []byte(`"`), 5)
	return string(fields[3])
}
