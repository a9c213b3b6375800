package e2e_test

import (
	"bytes"
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"hash"
	"math/big"
	"slices"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"
	"github.com/decred/dcrd/dcrec/secp256k1/v4"
	k256 "github.com/decred/dcrd/dcrec/secp256k1/v4/ecdsa"
	jose "github.com/go-jose/go-jose/v4/cipher"
	tink "github.com/tink-crypto/tink-go/v2/kwp/subtle"
)

// sdk is a stock client, with answers that a test can go on with.
type sdk struct {
	*testing.T
	client *azkeys.Client
}

// in is the same client inside a subtest.
func (s sdk) in(t *testing.T) sdk { return sdk{t, s.client} }

func (s sdk) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

func (s sdk) same(what string, got, want []byte) {
	s.Helper()
	if !bytes.Equal(got, want) {
		s.Errorf("%s: got %x, want %x", what, got, want)
	}
}

// refused wants a status and a code in the answer, not only some error.
func (s sdk) refused(what string, err error, status int, code string) {
	s.Helper()
	if response, is := errors.AsType[*azcore.ResponseError](err); !is || response.StatusCode != status || response.ErrorCode != code {
		s.Errorf("%s: got %v, want %d %s", what, err, status, code)
	}
}

func (s sdk) create(name string, p azkeys.CreateKeyParameters) azkeys.KeyBundle {
	s.Helper()
	made, err := s.client.CreateKey(s.Context(), name, p, nil)
	s.must(err)
	return made.KeyBundle
}

func (s sdk) imported(name string, key azkeys.JSONWebKey) azkeys.KeyBundle {
	s.Helper()
	made, err := s.client.ImportKey(s.Context(), name, azkeys.ImportKeyParameters{Key: &key}, nil)
	s.must(err)
	return made.KeyBundle
}

func random(t *testing.T, size int) []byte {
	t.Helper()
	b := make([]byte, size)
	if _, err := rand.Read(b); err != nil {
		t.Fatal(err)
	}
	return b
}

func damaged(b []byte) []byte {
	c := slices.Clone(b)
	c[len(c)/2] ^= 1
	return c
}

// operations is the key's key_ops, in one order.
func operations(k azkeys.KeyBundle) string {
	var ops []string
	for _, op := range k.Key.KeyOps {
		ops = append(ops, string(*op))
	}
	slices.Sort(ops)
	return fmt.Sprint(ops)
}

func rsaJWK(k *rsa.PrivateKey) azkeys.JSONWebKey {
	k.Precompute()
	return azkeys.JSONWebKey{Kty: to.Ptr(azkeys.KeyTypeRSA), N: k.N.Bytes(), E: big.NewInt(int64(k.E)).Bytes(), D: k.D.Bytes(),
		P: k.Primes[0].Bytes(), Q: k.Primes[1].Bytes(), DP: k.Precomputed.Dp.Bytes(), DQ: k.Precomputed.Dq.Bytes(), QI: k.Precomputed.Qinv.Bytes()}
}

// curve is one of the HSM's curves with a key made outside.
type curve struct {
	name   azkeys.CurveName
	alg    azkeys.SignatureAlgorithm
	hash   crypto.Hash
	jwk    azkeys.JSONWebKey
	pkcs8  []byte // nil where the standard library does not know the curve
	sign   func(digest []byte) []byte
	verify func(digest, signature []byte) bool
}

func curves(t *testing.T) []curve {
	t.Helper()
	var all []curve
	for _, c := range []curve{{name: azkeys.CurveNameP256, alg: azkeys.SignatureAlgorithmES256, hash: crypto.SHA256},
		{name: azkeys.CurveNameP384, alg: azkeys.SignatureAlgorithmES384, hash: crypto.SHA384},
		{name: azkeys.CurveNameP521, alg: azkeys.SignatureAlgorithmES512, hash: crypto.SHA512}} {
		math := map[azkeys.CurveName]elliptic.Curve{azkeys.CurveNameP256: elliptic.P256(), azkeys.CurveNameP384: elliptic.P384(), azkeys.CurveNameP521: elliptic.P521()}[c.name]
		key, err := ecdsa.GenerateKey(math, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		point, err := key.PublicKey.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		d, err := key.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		if c.pkcs8, err = x509.MarshalPKCS8PrivateKey(key); err != nil {
			t.Fatal(err)
		}
		size := len(point) / 2
		c.jwk = azkeys.JSONWebKey{Kty: to.Ptr(azkeys.KeyTypeEC), Crv: to.Ptr(c.name), X: point[1 : 1+size], Y: point[1+size:], D: d}
		c.sign = func(digest []byte) []byte {
			r, s, err := ecdsa.Sign(rand.Reader, key, digest)
			if err != nil {
				t.Fatal(err)
			}
			return append(r.FillBytes(make([]byte, size)), s.FillBytes(make([]byte, size))...)
		}
		c.verify = func(digest, signature []byte) bool {
			return len(signature) == 2*size && ecdsa.Verify(&key.PublicKey, digest, new(big.Int).SetBytes(signature[:size]), new(big.Int).SetBytes(signature[size:]))
		}
		all = append(all, c)
	}
	key, err := secp256k1.GeneratePrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	point := key.PubKey().SerializeUncompressed()
	return append(all, curve{name: azkeys.CurveNameP256K, alg: azkeys.SignatureAlgorithmES256K, hash: crypto.SHA256,
		jwk: azkeys.JSONWebKey{Kty: to.Ptr(azkeys.KeyTypeEC), Crv: to.Ptr(azkeys.CurveNameP256K), X: point[1:33], Y: point[33:], D: key.Serialize()},
		sign: func(digest []byte) []byte {
			signature := k256.Sign(key, digest)
			r, s := signature.R(), signature.S()
			rs, ss := r.Bytes(), s.Bytes()
			return append(rs[:], ss[:]...)
		},
		verify: func(digest, signature []byte) bool {
			var r, s secp256k1.ModNScalar
			return len(signature) == 64 && !r.SetByteSlice(signature[:32]) && !s.SetByteSlice(signature[32:]) && k256.NewSignature(&r, &s).Verify(digest, key.PubKey())
		}})
}

// Keys of every type that the SDK can ask for: made, imported in the clear, imported as a BYOK transfer blob, attested.
func TestAzureSDKForGoKeys(t *testing.T) {
	server := start(t)
	s := sdk{t, azureClient(t, server, server.URL(t, "alpha"))}
	activate(t, server, "alpha")

	t.Run("create", func(t *testing.T) {
		s := s.in(t)
		if len(azkeys.PossibleKeyTypeValues()) != 6 || len(azkeys.PossibleCurveNameValues()) != 4 {
			t.Fatal("the SDK knows other key types or curves than this test")
		}
		for bits, e := range map[int32]int32{2048: 65537, 3072: 65539, 4096: 65537} {
			made := s.create(fmt.Sprint("rsa-", bits), azkeys.CreateKeyParameters{Kty: to.Ptr(azkeys.KeyTypeRSA), KeySize: to.Ptr(bits), PublicExponent: to.Ptr(e)})
			if *made.Key.Kty != azkeys.KeyTypeRSAHSM || len(made.Key.N)*8 != int(bits) || operations(made) != "[decrypt encrypt sign unwrapKey verify wrapKey]" {
				t.Errorf("RSA %d: %s, %d bytes of n, %s", bits, *made.Key.Kty, len(made.Key.N), operations(made))
			}
			s.same("the exponent", made.Key.E, big.NewInt(int64(e)).Bytes())
		}
		for name, size := range map[azkeys.CurveName]int{azkeys.CurveNameP256: 32, azkeys.CurveNameP256K: 32, azkeys.CurveNameP384: 48, azkeys.CurveNameP521: 66} {
			made := s.create("ec-"+string(name), azkeys.CreateKeyParameters{Kty: to.Ptr(azkeys.KeyTypeEC), Curve: to.Ptr(name)})
			if *made.Key.Kty != azkeys.KeyTypeECHSM || *made.Key.Crv != name || len(made.Key.X) != size || len(made.Key.Y) != size || operations(made) != "[sign verify]" {
				t.Errorf("%s: %s %s, %d and %d bytes, %s", name, *made.Key.Kty, *made.Key.Crv, len(made.Key.X), len(made.Key.Y), operations(made))
			}
		}
		for _, bits := range []int32{128, 192, 256} {
			made := s.create(fmt.Sprint("oct-", bits), azkeys.CreateKeyParameters{Kty: to.Ptr(azkeys.KeyTypeOct), KeySize: to.Ptr(bits)})
			if *made.Key.Kty != azkeys.KeyTypeOctHSM || made.Key.K != nil {
				t.Errorf("oct %d: %s, or its bytes are shown", bits, *made.Key.Kty)
			}
		}
		at := time.Now().Truncate(time.Second)
		made := s.create("all-options", azkeys.CreateKeyParameters{Kty: to.Ptr(azkeys.KeyTypeRSAHSM), KeyOps: []*azkeys.KeyOperation{to.Ptr(azkeys.KeyOperationSign)},
			KeyAttributes: &azkeys.KeyAttributes{Enabled: to.Ptr(true), NotBefore: to.Ptr(at.Add(-time.Hour)), Expires: to.Ptr(at.Add(time.Hour))}, Tags: map[string]*string{"a": to.Ptr("b")}})
		if a := made.Attributes; operations(made) != "[sign]" || !a.NotBefore.Equal(at.Add(-time.Hour)) || !a.Expires.Equal(at.Add(time.Hour)) || *made.Tags["a"] != "b" ||
			*a.Exportable || *a.RecoverableDays != 90 || *a.RecoveryLevel != "Recoverable+Purgeable" {
			t.Errorf("all options: %s %+v", operations(made), a)
		}

		first, err := s.client.GetKey(t.Context(), "rsa-2048", "", nil)
		s.must(err)
		second := s.create("rsa-2048", azkeys.CreateKeyParameters{Kty: to.Ptr(azkeys.KeyTypeRSAHSM)})
		latest, err := s.client.GetKey(t.Context(), "rsa-2048", "", nil)
		s.must(err)
		s.same("get without a version", latest.Key.N, second.Key.N)
		old, err := s.client.GetKey(t.Context(), "rsa-2048", first.Key.KID.Version(), nil)
		s.must(err)
		s.same("get of the first version", old.Key.N, first.Key.N)
		_, err = s.client.GetKey(t.Context(), "rsa-2048", "00000000000000000000000000000000", nil)
		s.refused("a version that is not there", err, 404, "KeyNotFound")
		for what, p := range map[string]azkeys.CreateKeyParameters{
			"RSA of 1024 bits": {Kty: to.Ptr(azkeys.KeyTypeRSA), KeySize: to.Ptr[int32](1024)},
			"P-224":            {Kty: to.Ptr(azkeys.KeyTypeEC), Curve: to.Ptr(azkeys.CurveName("P-224"))},
			"oct of 512 bits":  {Kty: to.Ptr(azkeys.KeyTypeOct), KeySize: to.Ptr[int32](512)},
		} {
			_, err = s.client.CreateKey(t.Context(), "never", p, nil)
			s.refused(what, err, 400, "BadParameter")
		}
	})

	outside, err := rsa.GenerateKey(rand.Reader, 3072)
	s.must(err)
	ecKeys := curves(t)
	t.Run("import", func(t *testing.T) {
		s := s.in(t)
		at := time.Now().Truncate(time.Second).Add(24 * time.Hour)
		r, err := s.client.ImportKey(t.Context(), "in-rsa", azkeys.ImportKeyParameters{Key: to.Ptr(rsaJWK(outside)), HSM: to.Ptr(true),
			KeyAttributes: &azkeys.KeyAttributes{Expires: to.Ptr(at)}, Tags: map[string]*string{"from": to.Ptr("outside")}}, nil)
		s.must(err)
		s.same("RSA modulus", r.Key.N, outside.N.Bytes())
		if *r.Key.Kty != azkeys.KeyTypeRSAHSM || !r.Attributes.Expires.Equal(at) || *r.Tags["from"] != "outside" || r.Key.D != nil {
			t.Errorf("RSA: %s, %+v", *r.Key.Kty, r.Attributes)
		}
		for _, c := range ecKeys {
			k := s.imported("in-"+string(c.name), c.jwk)
			s.same(string(c.name)+" x", k.Key.X, c.jwk.X)
			s.same(string(c.name)+" y", k.Key.Y, c.jwk.Y)
			if *k.Key.Kty != azkeys.KeyTypeECHSM || *k.Key.Crv != c.name {
				t.Errorf("%s: %s %s", c.name, *k.Key.Kty, *k.Key.Crv)
			}
		}
		if k := s.imported("in-oct", azkeys.JSONWebKey{Kty: to.Ptr(azkeys.KeyTypeOct), K: random(t, 24)}); *k.Key.Kty != azkeys.KeyTypeOctHSM || k.Key.K != nil {
			t.Errorf("oct: %s, or its bytes are shown", *k.Key.Kty)
		}
		off := rsaJWK(outside)
		off.N = damaged(off.N)
		for what, key := range map[string]azkeys.JSONWebKey{"RSA with another modulus": off, "oct of 65 bytes": {Kty: to.Ptr(azkeys.KeyTypeOct), K: random(t, 65)}, "nothing": {Kty: to.Ptr(azkeys.KeyTypeRSA)}} {
			_, err := s.client.ImportKey(t.Context(), "never", azkeys.ImportKeyParameters{Key: &key}, nil)
			s.refused(what, err, 400, "BadParameter")
		}
	})

	t.Run("BYOK", func(t *testing.T) {
		s := s.in(t)
		exchange := s.create("exchange", azkeys.CreateKeyParameters{Kty: to.Ptr(azkeys.KeyTypeRSAHSM), KeySize: to.Ptr[int32](2048), KeyOps: []*azkeys.KeyOperation{to.Ptr(azkeys.KeyOperationImport)}})
		if operations(exchange) != "[import]" {
			t.Fatalf("the exchange key has %s", operations(exchange))
		}
		pkcs8, err := x509.MarshalPKCS8PrivateKey(outside)
		s.must(err)
		k := s.imported("byok-rsa", azkeys.JSONWebKey{Kty: to.Ptr(azkeys.KeyTypeRSAHSM), KeyOps: []*azkeys.KeyOperation{to.Ptr(azkeys.KeyOperationSign)}, T: transferBlob(t, exchange, pkcs8)})
		s.same("RSA modulus", k.Key.N, outside.N.Bytes())
		if *k.Key.Kty != azkeys.KeyTypeRSAHSM || operations(k) != "[sign]" {
			t.Errorf("RSA: %s %s", *k.Key.Kty, operations(k))
		}
		for _, c := range ecKeys {
			if c.pkcs8 == nil {
				continue // P-256K, which the JavaScript and Python tests wrap
			}
			k = s.imported("byok-"+string(c.name), azkeys.JSONWebKey{Kty: to.Ptr(azkeys.KeyTypeECHSM), Crv: to.Ptr(c.name), T: transferBlob(t, exchange, c.pkcs8)})
			s.same(string(c.name)+" x", k.Key.X, c.jwk.X)
		}
		secret := random(t, 32)
		s.imported("byok-oct", azkeys.JSONWebKey{Kty: to.Ptr(azkeys.KeyTypeOctHSM), T: transferBlob(t, exchange, secret)})
		wrapped, err := s.client.WrapKey(t.Context(), "byok-oct", "", azkeys.KeyOperationParameters{Algorithm: to.Ptr(azkeys.EncryptionAlgorithmA256KW), Value: make([]byte, 32)}, nil)
		s.must(err)
		s.same("what the imported oct key wraps", wrapped.Result, keyWrap(t, secret, make([]byte, 32)))

		for what, key := range map[string]azkeys.JSONWebKey{
			"a blob for RSA said to be EC":  {Kty: to.Ptr(azkeys.KeyTypeECHSM), Crv: to.Ptr(azkeys.CurveNameP256), T: transferBlob(t, exchange, pkcs8)},
			"a blob for no key of this HSM": {Kty: to.Ptr(azkeys.KeyTypeOctHSM), T: bytes.ReplaceAll(transferBlob(t, exchange, secret), []byte("/keys/exchange/"), []byte("/keys/nobody/"))},
			"bytes that are no blob":        {Kty: to.Ptr(azkeys.KeyTypeOctHSM), T: random(t, 300)},
		} {
			_, err := s.client.ImportKey(t.Context(), "never", azkeys.ImportKeyParameters{Key: &key}, nil)
			s.refused(what, err, 400, "BadParameter")
		}
	})

	t.Run("release policy", func(t *testing.T) {
		s := s.in(t)
		policy := func(value string) *azkeys.KeyReleasePolicy {
			return &azkeys.KeyReleasePolicy{EncodedPolicy: fmt.Appendf(nil, `{"version":"1.0.0","anyOf":[{"authority":"https://attest.example.com/","allOf":[{"claim":"x","equals":%q}]}]}`, value)}
		}
		made := s.create("leaving", azkeys.CreateKeyParameters{Kty: to.Ptr(azkeys.KeyTypeECHSM), KeyAttributes: &azkeys.KeyAttributes{Exportable: to.Ptr(true)}, ReleasePolicy: policy("y")})
		s.same("the policy", made.ReleasePolicy.EncodedPolicy, policy("y").EncodedPolicy)
		if !*made.Attributes.Exportable || *made.ReleasePolicy.ContentType != "application/json; charset=utf-8" {
			t.Errorf("exportable is %v, the policy's type %s", *made.Attributes.Exportable, *made.ReleasePolicy.ContentType)
		}
		last := policy("z")
		last.Immutable = to.Ptr(true)
		changed, err := s.client.UpdateKey(t.Context(), "leaving", "", azkeys.UpdateKeyParameters{ReleasePolicy: last}, nil)
		s.must(err)
		s.same("the policy, changed", changed.ReleasePolicy.EncodedPolicy, last.EncodedPolicy)
		if !*changed.ReleasePolicy.Immutable {
			t.Error("the policy is not immutable")
		}
		_, err = s.client.UpdateKey(t.Context(), "leaving", "", azkeys.UpdateKeyParameters{ReleasePolicy: policy("y")}, nil)
		s.refused("a change of an immutable policy", err, 400, "BadParameter")
		_, err = s.client.CreateKey(t.Context(), "staying", azkeys.CreateKeyParameters{Kty: to.Ptr(azkeys.KeyTypeECHSM), ReleasePolicy: policy("y")}, nil)
		s.refused("a policy for a key that stays", err, 400, "BadParameter")
	})

	t.Run("attestation", func(t *testing.T) {
		s := s.in(t)
		for _, name := range []string{"rsa-3072", "ec-P-384", "oct-256", "in-rsa"} {
			key, err := s.client.GetKey(t.Context(), name, "", nil)
			s.must(err)
			for _, version := range []string{"", key.Key.KID.Version()} {
				attested, err := s.client.GetKeyAttestation(t.Context(), name, version, nil)
				s.must(err)
				a := attested.Attributes.Attestation
				if *attested.Key.KID != *key.Key.KID || a == nil || a.Version == nil || len(a.PrivateKeyAttestation) == 0 || (len(a.PublicKeyAttestation) == 0) != (name == "oct-256") {
					t.Fatalf("%s: %+v", name, a)
				}
				if block, _ := pem.Decode(a.CertificatePEMFile); block == nil || block.Type != "CERTIFICATE" {
					t.Errorf("%s: the attestation has no certificates", name)
				}
			}
			if key.Attributes.Attestation != nil {
				t.Errorf("%s: a plain get has the attestation", name)
			}
		}
		_, err := s.client.GetKeyAttestation(t.Context(), "nobody", "", nil)
		s.refused("attestation of no key", err, 404, "KeyNotFound")
	})
}

// transferBlob is what a BYOK tool makes: a target key for the exchange key of an HSM, by CKM_RSA_AES_KEY_WRAP. target
// is PKCS #8 for RSA and EC, the bare key for oct.
func transferBlob(t *testing.T, exchange azkeys.KeyBundle, target []byte) []byte {
	t.Helper()
	secret := random(t, 32)
	public := &rsa.PublicKey{N: new(big.Int).SetBytes(exchange.Key.N), E: int(new(big.Int).SetBytes(exchange.Key.E).Int64())}
	first, err := rsa.EncryptOAEP(sha1.New(), rand.Reader, public, secret, nil)
	if err != nil {
		t.Fatal(err)
	}
	blob, err := json.Marshal(map[string]any{
		"schema_version": "1.0.0",
		"header":         map[string]string{"kid": string(*exchange.Key.KID), "alg": "dir", "enc": "CKM_RSA_AES_KEY_WRAP"},
		"ciphertext":     base64.RawURLEncoding.EncodeToString(append(first, keyWrapPadded(t, secret, target)...)),
		"generator":      "go",
	})
	if err != nil {
		t.Fatal(err)
	}
	return blob
}

func keyWrap(t *testing.T, key, plain []byte) []byte {
	t.Helper()
	block, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	wrapped, err := jose.KeyWrap(block, plain)
	if err != nil {
		t.Fatal(err)
	}
	return wrapped
}

func keyWrapPadded(t *testing.T, key, plain []byte) []byte {
	t.Helper()
	kwp, err := tink.NewKWP(key)
	if err != nil {
		t.Fatal(err)
	}
	wrapped, err := kwp.Wrap(plain)
	if err != nil {
		t.Fatal(err)
	}
	return wrapped
}

// Every algorithm that the SDK has a name for. What the HSM answers is checked with cryptography on this side, and what
// is made on this side goes to the HSM.
func TestAzureSDKForGoAlgorithms(t *testing.T) {
	server := start(t)
	s := sdk{t, azureClient(t, server, server.URL(t, "alpha"))}
	activate(t, server, "alpha")

	signed := map[azkeys.SignatureAlgorithm]bool{}
	signatures := func(t *testing.T, key string, alg azkeys.SignatureAlgorithm, digest, ours []byte, holds func(signature []byte) bool) {
		s := s.in(t)
		signed[alg] = true
		r, err := s.client.Sign(t.Context(), key, "", azkeys.SignParameters{Algorithm: to.Ptr(alg), Value: digest}, nil)
		s.must(err)
		if !holds(r.Result) || r.KID.Name() != key || r.KID.Version() == "" {
			t.Errorf("%s: the signature of %s does not hold here", alg, *r.KID)
		}
		for _, c := range []struct {
			what      string
			signature []byte
			want      bool
		}{{"its own", r.Result, true}, {"one made here", ours, true}, {"a damaged one", damaged(ours), false}, {"an empty one", []byte{}, false}} {
			v, err := s.client.Verify(t.Context(), key, r.KID.Version(), azkeys.VerifyParameters{Algorithm: to.Ptr(alg), Digest: digest, Signature: c.signature}, nil)
			if err != nil || *v.Value != c.want {
				t.Errorf("%s: verify %s: %v, %v", alg, c.what, v.Value, err)
			}
		}
	}

	private, err := rsa.GenerateKey(rand.Reader, 2048)
	s.must(err)
	s.imported("rsa", rsaJWK(private))
	for _, c := range []struct {
		pkcs, pss azkeys.SignatureAlgorithm
		hash      crypto.Hash
	}{{azkeys.SignatureAlgorithmRS256, azkeys.SignatureAlgorithmPS256, crypto.SHA256}, {azkeys.SignatureAlgorithmRS384, azkeys.SignatureAlgorithmPS384, crypto.SHA384},
		{azkeys.SignatureAlgorithmRS512, azkeys.SignatureAlgorithmPS512, crypto.SHA512}} {
		h := c.hash.New()
		h.Write([]byte("message"))
		digest := h.Sum(nil)
		t.Run(string(c.pkcs), func(t *testing.T) {
			ours, err := rsa.SignPKCS1v15(nil, private, c.hash, digest)
			s.must(err)
			signatures(t, "rsa", c.pkcs, digest, ours, func(signature []byte) bool { return bytes.Equal(signature, ours) }) // there is only one
		})
		t.Run(string(c.pss), func(t *testing.T) {
			options := &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}
			ours, err := rsa.SignPSS(rand.Reader, private, c.hash, digest, options)
			s.must(err)
			signatures(t, "rsa", c.pss, digest, ours, func(signature []byte) bool {
				return rsa.VerifyPSS(&private.PublicKey, c.hash, digest, signature, options) == nil
			})
		})
	}
	for _, c := range curves(t) {
		t.Run(string(c.alg), func(t *testing.T) {
			s.in(t).imported(string(c.name), c.jwk)
			digest := random(t, c.hash.Size())
			signatures(t, string(c.name), c.alg, digest, c.sign(digest), func(signature []byte) bool { return c.verify(digest, signature) })
		})
	}

	secrets := map[int][]byte{}
	for _, bits := range []int{128, 192, 256} {
		secrets[bits] = random(t, bits/8)
		s.imported(fmt.Sprint("oct-", bits), azkeys.JSONWebKey{Kty: to.Ptr(azkeys.KeyTypeOct), K: secrets[bits]})
	}
	for alg, h := range map[azkeys.SignatureAlgorithm]func() hash.Hash{azkeys.SignatureAlgorithmHS256: crypto.SHA256.New, azkeys.SignatureAlgorithmHS384: crypto.SHA384.New, azkeys.SignatureAlgorithmHS512: crypto.SHA512.New} {
		t.Run(string(alg), func(t *testing.T) {
			mac := hmac.New(h, secrets[256])
			digest := random(t, mac.Size())
			mac.Write(digest)
			want := mac.Sum(nil)
			signatures(t, "oct-256", alg, digest, want, func(signature []byte) bool { return bytes.Equal(signature, want) })
		})
	}

	encrypted := map[azkeys.EncryptionAlgorithm]bool{}
	type operation func(s sdk, key string, p azkeys.KeyOperationParameters) (azkeys.KeyOperationResult, error)
	encrypt := operation(func(s sdk, key string, p azkeys.KeyOperationParameters) (azkeys.KeyOperationResult, error) {
		r, err := s.client.Encrypt(s.Context(), key, "", p, nil)
		return r.KeyOperationResult, err
	})
	decrypt := operation(func(s sdk, key string, p azkeys.KeyOperationParameters) (azkeys.KeyOperationResult, error) {
		r, err := s.client.Decrypt(s.Context(), key, "", p, nil)
		return r.KeyOperationResult, err
	})
	wrap := operation(func(s sdk, key string, p azkeys.KeyOperationParameters) (azkeys.KeyOperationResult, error) {
		r, err := s.client.WrapKey(s.Context(), key, "", p, nil)
		return r.KeyOperationResult, err
	})
	unwrap := operation(func(s sdk, key string, p azkeys.KeyOperationParameters) (azkeys.KeyOperationResult, error) {
		r, err := s.client.UnwrapKey(s.Context(), key, "", p, nil)
		return r.KeyOperationResult, err
	})
	pairs := map[string][2]operation{"encrypt and decrypt": {encrypt, decrypt}, "wrap and unwrap": {wrap, unwrap}}

	for alg, h := range map[azkeys.EncryptionAlgorithm]func() hash.Hash{azkeys.EncryptionAlgorithmRSAOAEP: sha1.New, azkeys.EncryptionAlgorithmRSAOAEP256: crypto.SHA256.New} {
		for what, way := range pairs {
			t.Run(string(alg)+" "+what, func(t *testing.T) {
				s, plain := s.in(t), random(t, 48)
				encrypted[alg] = true
				there, err := way[0](s, "rsa", azkeys.KeyOperationParameters{Algorithm: to.Ptr(alg), Value: plain})
				s.must(err)
				opened, err := rsa.DecryptOAEP(h(), nil, private, there.Result, nil)
				s.must(err)
				s.same("what the HSM encrypted", opened, plain)
				ours, err := rsa.EncryptOAEP(h(), rand.Reader, &private.PublicKey, plain, nil)
				s.must(err)
				back, err := way[1](s, "rsa", azkeys.KeyOperationParameters{Algorithm: to.Ptr(alg), Value: ours})
				s.must(err)
				s.same("what was encrypted here", back.Result, plain)
				if back.KID.Name() != "rsa" || back.KID.Version() == "" {
					t.Errorf("the answer names %s", *back.KID)
				}
				_, err = way[1](s, "rsa", azkeys.KeyOperationParameters{Algorithm: to.Ptr(alg), Value: damaged(ours)})
				s.refused("a damaged ciphertext", err, 400, "BadParameter")
				_, err = way[0](s, "rsa", azkeys.KeyOperationParameters{Algorithm: to.Ptr(alg), Value: random(t, 300)})
				s.refused("a plaintext that is too long", err, 400, "BadParameter")
			})
		}
	}

	for bits, secret := range secrets {
		key := fmt.Sprint("oct-", bits)
		block, err := aes.NewCipher(secret)
		s.must(err)

		alg := azkeys.EncryptionAlgorithm(fmt.Sprintf("A%dGCM", bits))
		t.Run(string(alg), func(t *testing.T) {
			s, plain := s.in(t), random(t, 45)
			encrypted[alg] = true
			gcm, err := cipher.NewGCM(block)
			s.must(err)
			for _, aad := range [][]byte{[]byte("header"), nil} {
				there, err := encrypt(s, key, azkeys.KeyOperationParameters{Algorithm: to.Ptr(alg), Value: plain, AdditionalAuthenticatedData: aad})
				s.must(err)
				if len(there.IV) != 12 || len(there.AuthenticationTag) != 16 || len(there.Result) != len(plain) {
					t.Fatalf("%d bytes of iv, %d of tag, %d of ciphertext", len(there.IV), len(there.AuthenticationTag), len(there.Result))
				}
				opened, err := gcm.Open(nil, there.IV, append(slices.Clone(there.Result), there.AuthenticationTag...), aad)
				s.must(err)
				s.same("what the HSM encrypted", opened, plain)

				iv := random(t, 12)
				ours := gcm.Seal(nil, iv, plain, aad)
				sealed := azkeys.KeyOperationParameters{Algorithm: to.Ptr(alg), Value: ours[:45], AuthenticationTag: ours[45:], IV: iv, AdditionalAuthenticatedData: aad}
				back, err := decrypt(s, key, sealed)
				s.must(err)
				s.same("what was encrypted here", back.Result, plain)
				for what, change := range map[string]func(p *azkeys.KeyOperationParameters){
					"ciphertext":    func(p *azkeys.KeyOperationParameters) { p.Value = damaged(p.Value) },
					"tag":           func(p *azkeys.KeyOperationParameters) { p.AuthenticationTag = damaged(p.AuthenticationTag) },
					"iv":            func(p *azkeys.KeyOperationParameters) { p.IV = damaged(p.IV) },
					"aad":           func(p *azkeys.KeyOperationParameters) { p.AdditionalAuthenticatedData = []byte("another") },
					"a missing tag": func(p *azkeys.KeyOperationParameters) { p.AuthenticationTag = nil },
				} {
					p := sealed
					change(&p)
					_, err := decrypt(s, key, p)
					s.refused(what, err, 400, "BadParameter")
				}
			}
			_, err = encrypt(s, key, azkeys.KeyOperationParameters{Algorithm: to.Ptr(alg), Value: plain, IV: random(t, 12)})
			s.refused("an iv that the HSM has to make", err, 400, "BadParameter")
		})

		for alg, size := range map[azkeys.EncryptionAlgorithm]int{azkeys.EncryptionAlgorithm(fmt.Sprintf("A%dCBC", bits)): 48, azkeys.EncryptionAlgorithm(fmt.Sprintf("A%dCBCPAD", bits)): 45} {
			t.Run(string(alg), func(t *testing.T) {
				s, plain, iv := s.in(t), random(t, size), random(t, 16)
				encrypted[alg] = true
				padded := slices.Concat(plain, bytes.Repeat([]byte{3}, 48-size))
				ours := make([]byte, 48)
				cipher.NewCBCEncrypter(block, iv).CryptBlocks(ours, padded)
				there, err := encrypt(s, key, azkeys.KeyOperationParameters{Algorithm: to.Ptr(alg), Value: plain, IV: iv})
				s.must(err)
				s.same("what the HSM encrypted", there.Result, ours)
				s.same("its iv", there.IV, iv)
				back, err := decrypt(s, key, azkeys.KeyOperationParameters{Algorithm: to.Ptr(alg), Value: ours, IV: iv})
				s.must(err)
				s.same("what was encrypted here", back.Result, plain)
				_, err = encrypt(s, key, azkeys.KeyOperationParameters{Algorithm: to.Ptr(alg), Value: plain, IV: iv[1:]})
				s.refused("a short iv", err, 400, "BadParameter")
				_, err = decrypt(s, key, azkeys.KeyOperationParameters{Algorithm: to.Ptr(alg), Value: ours[1:], IV: iv})
				s.refused("a ciphertext that is not whole blocks", err, 400, "BadParameter")
			})
		}

		for _, alg := range []azkeys.EncryptionAlgorithm{azkeys.EncryptionAlgorithm(fmt.Sprintf("A%dKW", bits)), azkeys.EncryptionAlgorithmCKMAESKEYWRAP, azkeys.EncryptionAlgorithmCKMAESKEYWRAPPAD} {
			for what, way := range pairs {
				t.Run(fmt.Sprintf("%s %s with %d bits", alg, what, bits), func(t *testing.T) {
					s := s.in(t)
					encrypted[alg] = true
					plain := random(t, 32)
					if alg == azkeys.EncryptionAlgorithmCKMAESKEYWRAPPAD {
						plain = plain[:29]
					}
					there, err := way[0](s, key, azkeys.KeyOperationParameters{Algorithm: to.Ptr(alg), Value: plain})
					s.must(err)
					switch {
					case alg != azkeys.EncryptionAlgorithmCKMAESKEYWRAPPAD:
						s.same("what the HSM wrapped", there.Result, keyWrap(t, secret, plain))
					case bits != 192: // which the other implementation lacks; the JavaScript and Python tests have it
						s.same("what the HSM wrapped", there.Result, keyWrapPadded(t, secret, plain))
					}
					back, err := way[1](s, key, azkeys.KeyOperationParameters{Algorithm: to.Ptr(alg), Value: there.Result})
					s.must(err)
					s.same("and unwrapped", back.Result, plain)
					_, err = way[1](s, key, azkeys.KeyOperationParameters{Algorithm: to.Ptr(alg), Value: damaged(there.Result)})
					s.refused("a damaged one", err, 400, "BadParameter")
				})
			}
		}
	}

	// Nothing that the SDK knows is left out, but what this server does not serve.
	for _, alg := range azkeys.PossibleSignatureAlgorithmValues() {
		if !signed[alg] {
			t.Errorf("%s was not tried", alg)
		}
	}
	for _, alg := range azkeys.PossibleEncryptionAlgorithmValues() {
		if encrypted[alg] == (alg == azkeys.EncryptionAlgorithmRSA15) {
			t.Errorf("%s: tried is %v", alg, encrypted[alg])
		}
	}

	t.Run("refusals", func(t *testing.T) {
		s := s.in(t)
		for _, key := range []string{"encrypt and decrypt", "wrap and unwrap"} {
			for _, o := range pairs[key] {
				_, err := o(s, "rsa", azkeys.KeyOperationParameters{Algorithm: to.Ptr(azkeys.EncryptionAlgorithmRSA15), Value: random(t, 256)})
				s.refused("RSA1_5", err, 400, "NotSupported")
				_, err = o(s, "rsa", azkeys.KeyOperationParameters{Algorithm: to.Ptr(azkeys.EncryptionAlgorithmA256KW), Value: random(t, 32)})
				s.refused("AES with an RSA key", err, 400, "BadParameter")
				_, err = o(s, "oct-128", azkeys.KeyOperationParameters{Algorithm: to.Ptr(azkeys.EncryptionAlgorithmA256KW), Value: random(t, 32)})
				s.refused("256 bits with a key of 128", err, 400, "BadParameter")
			}
		}
		sign := func(key string, alg azkeys.SignatureAlgorithm, size int) error {
			_, err := s.client.Sign(t.Context(), key, "", azkeys.SignParameters{Algorithm: to.Ptr(alg), Value: random(t, size)}, nil)
			return err
		}
		s.refused("ECDSA with an RSA key", sign("rsa", azkeys.SignatureAlgorithmES256, 32), 400, "BadParameter")
		s.refused("a digest of another length", sign("rsa", azkeys.SignatureAlgorithmRS256, 31), 400, "BadParameter")
		s.refused("another curve's algorithm", sign("P-256", azkeys.SignatureAlgorithmES256K, 32), 400, "BadParameter")
		s.refused("HMAC with an EC key", sign("P-256", azkeys.SignatureAlgorithmHS256, 32), 400, "BadParameter")
		s.refused("a key that is not there", sign("nobody", azkeys.SignatureAlgorithmRS256, 32), 404, "KeyNotFound")
		for name, a := range map[string]azkeys.KeyAttributes{
			"off":   {Enabled: to.Ptr(false)},
			"later": {NotBefore: to.Ptr(time.Now().Add(time.Hour))},
			"past":  {Expires: to.Ptr(time.Now().Add(-time.Hour))},
		} {
			s.create(name, azkeys.CreateKeyParameters{Kty: to.Ptr(azkeys.KeyTypeEC), Curve: to.Ptr(azkeys.CurveNameP256), KeyAttributes: &a})
			s.refused(name, sign(name, azkeys.SignatureAlgorithmES256, 32), 403, "KeyDisabled")
		}
		s.create("verify-only", azkeys.CreateKeyParameters{Kty: to.Ptr(azkeys.KeyTypeEC), Curve: to.Ptr(azkeys.CurveNameP256), KeyOps: []*azkeys.KeyOperation{to.Ptr(azkeys.KeyOperationVerify)}})
		s.refused("an operation that key_ops does not have", sign("verify-only", azkeys.SignatureAlgorithmES256, 32), 403, "KeyDisabled")
	})
}
