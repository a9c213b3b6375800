package dataplane_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"

	"github.com/decred/dcrd/dcrec/secp256k1/v4"
	"github.com/go-jose/go-jose/v4"
)

// A JWK comes in, signs, and its private numbers are in no answer and nowhere in the store.
func TestImportOnTheWire(t *testing.T) {
	f := newFixture(t, "alpha")
	f.activate("alpha")
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	b64 := base64.RawURLEncoding.EncodeToString
	body, _ := json.Marshal(map[string]any{"Hsm": true, "tags": map[string]string{"from": "outside"}, "key": map[string]any{
		"kty": "RSA", "key_ops": []string{"sign", "verify"}, "n": b64(key.N.Bytes()), "e": "AQAB", "d": b64(key.D.Bytes()),
		"p": b64(key.Primes[0].Bytes()), "q": b64(key.Primes[1].Bytes()),
		"dp": b64(key.Precomputed.Dp.Bytes()), "dq": b64(key.Precomputed.Dq.Bytes()), "qi": b64(key.Precomputed.Qinv.Bytes()),
	}})
	w := f.do(request{method: "PUT", path: "/keys/mine", body: string(body)})
	if w.Code != 200 || !strings.Contains(w.Body.String(), b64(key.N.Bytes())) || !strings.Contains(w.Body.String(), `"kty":"RSA-HSM"`) {
		t.Fatalf("import: %d %s", w.Code, w.Body)
	}
	sum := sha256.Sum256([]byte("message"))
	w = f.do(request{method: "POST", path: "/keys/mine/sign", body: `{"alg":"RS256","value":"` + b64(sum[:]) + `"}`})
	signature, _ := base64.RawURLEncoding.DecodeString(value(t, w, 200))
	if err := rsa.VerifyPKCS1v15(&key.PublicKey, crypto.SHA256, sum[:], signature); err != nil {
		t.Errorf("the signature does not hold: %v", err)
	}
	all := f.snapshot()
	for name, n := range map[string]*big.Int{"d": key.D, "p": key.Primes[0], "q": key.Primes[1]} {
		if strings.Contains(all, hex.EncodeToString(n.Bytes())) || strings.Contains(all, hex.EncodeToString([]byte(b64(n.Bytes())))) {
			t.Errorf("%s is in the store", name)
		}
	}
}

// As the Azure CLI imports a P-256K key from PEM: with the curve's old name, "Hsm" false, and numbers without their leading
// zeros.
func TestImportAsTheAzureCLI(t *testing.T) {
	f := newFixture(t, "alpha")
	f.activate("alpha")
	var key *secp256k1.PrivateKey
	var point []byte
	for point == nil || point[1] != 0 {
		var err error
		if key, err = secp256k1.GeneratePrivateKey(); err != nil {
			t.Fatal(err)
		}
		point = key.PubKey().SerializeUncompressed()
	}
	b64 := base64.RawURLEncoding.EncodeToString
	bare := func(n []byte) string { return b64(new(big.Int).SetBytes(n).Bytes()) }
	w := f.do(request{method: "PUT", path: "/keys/k", body: `{"Hsm":false,"key":{"kty":"EC","crv":"SECP256K1","x":"` + bare(point[1:33]) + `","y":"` + bare(point[33:]) + `","d":"` + bare(key.Serialize()) + `"}}`})
	if w.Code != 200 || !strings.Contains(w.Body.String(), `"crv":"P-256K"`) || !strings.Contains(w.Body.String(), b64(point[1:33])) {
		t.Errorf("import: %d %s", w.Code, w.Body)
	}
	if w := f.do(request{method: "POST", path: "/keys/k/create", body: `{"kty":"EC","crv":"SECP256K1"}`}); w.Code != 400 {
		t.Errorf("create, where nothing that we know of uses the old name: %d %s", w.Code, w.Body)
	}
}

// The attestation of a key is checked as somebody outside does it: the signature under the certificate, the
// certificate against the domain ID, the statement against the key.
func TestAttestationOnTheWire(t *testing.T) {
	f := newFixture(t, "alpha")
	f.activate("alpha")
	w := f.do(request{method: "POST", path: "/keys/k/create", body: `{"kty":"EC"}`})
	if w.Code != 200 {
		t.Fatal(w.Body)
	}
	var bundle struct {
		Key        struct{ Kid, X string }
		Attributes struct {
			Attestation struct{ CertificatePemFile, PrivateKeyAttestation, PublicKeyAttestation, Version string }
		}
	}
	var domain struct {
		DomainID string `json:"domain_id"`
	}
	if err := json.Unmarshal(f.do(request{method: "GET", path: "/securitydomain"}).Body.Bytes(), &domain); err != nil || domain.DomainID == "" {
		t.Fatalf("no domain ID: %v", err)
	}
	var certificates [][]byte
	for _, path := range []string{"/keys/k/attestation", "/keys/k//attestation"} {
		w := f.do(request{method: "GET", path: path, query: "api-version=7.6"})
		if err := json.Unmarshal(w.Body.Bytes(), &bundle); err != nil || w.Code != 200 {
			t.Fatalf("%s: %d %s", path, w.Code, w.Body)
		}
		a := bundle.Attributes.Attestation
		text, _ := base64.RawURLEncoding.DecodeString(a.CertificatePemFile)
		block, _ := pem.Decode(text)
		if block == nil || a.Version != "STRONGROOM-1" {
			t.Fatalf("%s: %+v", path, a)
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		certificates = append(certificates, cert.Raw)
		if sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo); hex.EncodeToString(sum[:]) != domain.DomainID {
			t.Error("the certificate is not of the domain's signing key")
		}
		for part, encoded := range map[string]string{"private": a.PrivateKeyAttestation, "public": a.PublicKeyAttestation} {
			compact, _ := base64.RawURLEncoding.DecodeString(encoded)
			jws, err := jose.ParseSignedCompact(string(compact), []jose.SignatureAlgorithm{jose.ES384})
			if err != nil {
				t.Fatalf("%s: %v", part, err)
			}
			payload, err := jws.Verify(cert.PublicKey.(*ecdsa.PublicKey))
			if err != nil {
				t.Fatalf("%s: the signature does not hold: %v", part, err)
			}
			if jws.Signatures[0].Header.ExtraHeaders["typ"] != "strongroom-key-attestation+jws" {
				t.Errorf("%s: typ is %v", part, jws.Signatures[0].Header.ExtraHeaders)
			}
			var s struct{ Part, Kid, Domain, Origin string }
			if err := json.Unmarshal(payload, &s); err != nil || s.Part != part || s.Kid != bundle.Key.Kid || s.Domain != domain.DomainID || s.Origin != "generated" {
				t.Errorf("%s: %s", part, payload)
			}
			if bytes.Contains(payload, []byte(bundle.Key.X)) != (part == "public") {
				t.Errorf("%s: the public point is not where it should be: %s", part, payload)
			}
		}
	}
	if !bytes.Equal(certificates[0], certificates[1]) {
		t.Error("one domain has two certificates")
	}
}
