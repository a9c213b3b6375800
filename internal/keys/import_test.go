package keys

import (
	"bytes"
	"crypto"
	"crypto/aes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"math/big"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/tink-crypto/tink-go/v2/kwp/subtle"

	"strongroom/internal/access"
	"strongroom/internal/engine"
	"strongroom/internal/failure"
	"strongroom/internal/store/memory"
	"strongroom/secret"
)

// rsaOutside is a key that was made outside, once.
var rsaOutside = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
})

func rsaMaterial(key *rsa.PrivateKey) engine.Material {
	s := func(n *big.Int) secret.Bytes { return secret.Take(n.Bytes()) }
	return engine.Material{N: key.N.Bytes(), E: big.NewInt(int64(key.E)).Bytes(), D: s(key.D), P: s(key.Primes[0]), Q: s(key.Primes[1])}
}

func ecMaterial(t testing.TB, key *ecdsa.PrivateKey) engine.Material {
	t.Helper()
	d, err := key.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	point, err := key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	half := len(point) / 2
	return engine.Material{X: point[1 : 1+half], Y: point[1+half:], D: secret.Take(d)}
}

// A key from outside is the same key inside: what it signs holds outside, and it comes back from a backup.
func TestImport(t *testing.T) {
	shared := memory.New()
	b, other := newBench(t, shared, alphaID, ownDomain), newBench(t, shared, betaID, ownDomain)
	ec, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	octKey := bytes.Repeat([]byte{7}, 24)
	digest48 := bytes.Repeat([]byte{0xd1}, 48)
	for name, row := range map[string]struct {
		params ImportParams
		alg    string
		digest []byte
		holds  func(signature []byte) bool
		spec   engine.Spec
	}{
		"rsa": {ImportParams{CreateParams: CreateParams{Type: "RSA"}, Material: rsaMaterial(rsaOutside())}, "RS256", digest(),
			func(s []byte) bool {
				return rsa.VerifyPKCS1v15(&rsaOutside().PublicKey, crypto.SHA256, digest(), s) == nil
			}, engine.Spec{Type: engine.RSA, Bits: 2048, Exponent: 65537}},
		"ec": {ImportParams{CreateParams: CreateParams{Type: "EC-HSM", Curve: engine.P384}, Material: ecMaterial(t, ec)}, "ES384", digest48,
			func(s []byte) bool {
				return ecdsa.Verify(&ec.PublicKey, digest48, new(big.Int).SetBytes(s[:48]), new(big.Int).SetBytes(s[48:]))
			}, engine.Spec{Type: engine.EC, Curve: engine.P384}},
		"oct": {ImportParams{CreateParams: CreateParams{Type: "oct"}, Material: engine.Material{K: secret.New(octKey)}}, "HS256", digest(),
			func(s []byte) bool {
				h := hmac.New(sha256.New, octKey)
				h.Write(digest())
				return hmac.Equal(h.Sum(nil), s)
			}, engine.Spec{Type: engine.Oct, Bits: 192}},
	} {
		t.Run(name, func(t *testing.T) {
			key, err := b.Import(t.Context(), alice, name, row.params)
			if err != nil {
				t.Fatal(err)
			}
			if key.Public.Spec() != row.spec || key.Exportable || !key.Enabled {
				t.Errorf("imported as %+v", key)
			}
			for _, s := range []secret.Bytes{row.params.Material.D, row.params.Material.P, row.params.Material.K} {
				if bytes.Trim(s.Reveal(), "\x00") != nil && len(bytes.Trim(s.Reveal(), "\x00")) > 0 {
					t.Error("the material was not wiped")
				}
			}
			signed, err := b.Sign(t.Context(), alice, name, "", row.alg, row.digest)
			if err != nil || !row.holds(signed.Signature) {
				t.Fatalf("the signature does not hold outside, or %v", err)
			}
			second := b.create(t, name, CreateParams{Type: string(row.spec.Type), Curve: row.spec.Curve})
			if second.Version == key.Version {
				t.Error("the next version is the same")
			}
			blob, err := b.Backup(t.Context(), alice, name)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := other.Restore(t.Context(), alice, blob); err != nil {
				t.Fatal(err)
			}
			if ok, err := other.Verify(t.Context(), alice, name, key.Version, row.alg, row.digest, signed.Signature); err != nil || !ok {
				t.Errorf("after backup and restore: %t, %v", ok, err)
			}
			attested, a, err := other.Attest(t.Context(), alice, name, key.Version, func(n, v string) string { return n + "/" + v })
			if err != nil || attested.Version != key.Version || !strings.Contains(string(a.Private), `"origin":"imported"`) {
				t.Errorf("the restored key is not attested as imported: %s, %v", a.Private, err)
			}
		})
	}
}

// Covers K8, K3: keys that are not sound, or that nobody should import, are refused with a reason, and nothing is made.
func TestImportRefuses(t *testing.T) {
	b := newBench(t, memory.New(), alphaID, ownDomain)
	edit := func(change func(*engine.Material)) engine.Material {
		m := rsaMaterial(rsaOutside())
		change(&m)
		return m
	}
	ec, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	small, _ := rsa.GenerateKey(rand.Reader, 1024)
	for name, row := range map[string]struct {
		params CreateParams
		m      engine.Material
		says   string
	}{
		"no type":              {CreateParams{}, engine.Material{}, "kty"},
		"RSA of 1024 bits":     {CreateParams{Type: "RSA"}, rsaMaterial(small), "1024 bits"},
		"RSA without primes":   {CreateParams{Type: "RSA"}, edit(func(m *engine.Material) { m.P = secret.Bytes{} }), "needs n, e, d, p and q"},
		"RSA, another d":       {CreateParams{Type: "RSA"}, edit(func(m *engine.Material) { m.D = secret.Take([]byte{3}) }), "not taken"},
		"RSA with a curve":     {CreateParams{Type: "RSA", Curve: engine.P256}, rsaMaterial(rsaOutside()), "crv"},
		"RSA for import":       {CreateParams{Type: "RSA", Ops: []string{"import"}}, rsaMaterial(rsaOutside()), "must be made in this HSM"},
		"EC without a curve":   {CreateParams{Type: "EC"}, ecMaterial(t, ec), "crv must be"},
		"EC on another curve":  {CreateParams{Type: "EC", Curve: engine.P384}, ecMaterial(t, ec), "not taken"},
		"EC on P-256K":         {CreateParams{Type: "EC", Curve: engine.P256K}, ecMaterial(t, ec), "not on P-256K"},
		"oct of 65 bytes":      {CreateParams{Type: "oct"}, engine.Material{K: secret.Take(make([]byte, 65))}, "k property of oct key is too large, maximum size is 64"},
		"oct of 64 bytes":      {CreateParams{Type: "oct"}, engine.Material{K: secret.Take(make([]byte, 64))}, "512 bits"},
		"oct of 15 bytes":      {CreateParams{Type: "oct"}, engine.Material{K: secret.Take(make([]byte, 15))}, "120 bits"},
		"exportable, alone":    {CreateParams{Type: "oct", Exportable: true}, engine.Material{K: secret.Take(make([]byte, 16))}, "release_policy"},
		"EC with RSA material": {CreateParams{Type: "EC", Curve: engine.P256}, rsaMaterial(rsaOutside()), "not taken"},
	} {
		t.Run(name, func(t *testing.T) {
			unchanged(t, b.store, func() {
				_, err := b.Import(t.Context(), alice, "k", ImportParams{CreateParams: row.params, Material: row.m})
				if f := wantKind(t, err, failure.BadParameter); !strings.Contains(f.Message, row.says) {
					t.Errorf("the message is %q, want one with %q", f.Message, row.says)
				}
			})
		})
	}
	b.deny = failure.New(failure.Forbidden, "no")
	if _, err := b.Import(t.Context(), alice, "k", ImportParams{CreateParams: CreateParams{Type: "oct"}, Material: engine.Material{K: secret.Take(make([]byte, 16))}}); failure.KindOf(err) != failure.Forbidden {
		t.Errorf("without the role: %v", err)
	}
}

// wrapFor makes a transfer blob as a tool outside does: with another implementation of AES key wrap.
func wrapFor(t testing.TB, kek Key, kid string, target []byte) []byte {
	t.Helper()
	ephemeral := make([]byte, 32)
	if _, err := rand.Read(ephemeral); err != nil {
		t.Fatal(err)
	}
	first, err := rsa.EncryptOAEP(sha1.New(), rand.Reader, &rsa.PublicKey{N: kek.Public.N, E: kek.Public.E}, ephemeral, nil)
	if err != nil {
		t.Fatal(err)
	}
	wrapper, err := subtle.NewKWP(ephemeral)
	if err != nil {
		t.Fatal(err)
	}
	second, err := wrapper.Wrap(target)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Appendf(nil, `{"schema_version":"1.0.0","header":{"kid":%q,"alg":"dir","enc":"CKM_RSA_AES_KEY_WRAP"},"ciphertext":%q,"generator":"a test"}`,
		kid, base64.RawURLEncoding.EncodeToString(append(first, second...)))
}

// A key comes in a transfer blob, wrapped for a key that receives keys and does nothing else. Covers K3.
func TestImportTransferBlob(t *testing.T) {
	b := newBench(t, memory.New(), alphaID, ownDomain)
	kek := b.create(t, "Receiver", CreateParams{Type: "RSA", Bits: 3072, Ops: []string{"import"}})
	kid := "https://alpha.example/keys/receiver/" + strings.ToUpper(kek.Version)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(rsaOutside())
	if err != nil {
		t.Fatal(err)
	}
	octKey := bytes.Repeat([]byte{9}, 32)
	rsaBlob, octBlob := wrapFor(t, kek, kid, pkcs8), wrapFor(t, kek, kid, octKey)

	b.asked = nil
	got, err := b.Import(t.Context(), alice, "from-outside", ImportParams{CreateParams: CreateParams{Type: "RSA-HSM", Ops: []string{"sign"}}, Blob: rsaBlob})
	if err != nil || got.Public.N.Cmp(rsaOutside().N) != 0 || len(got.Ops) != 1 {
		t.Fatalf("imported %+v, %v", got, err)
	}
	want := []asked{{alice, access.KeyImport, access.ScopeKey("from-outside")}, {alice, access.KeyImport, access.ScopeKey("receiver")}}
	if diff := cmp.Diff(want, b.asked); diff != "" {
		t.Errorf("the import has to be allowed into both keys: %s", diff)
	}
	oct, err := b.Import(t.Context(), alice, "aes", ImportParams{CreateParams: CreateParams{Type: "oct"}, Blob: octBlob})
	if err != nil || oct.Public.Bits != 256 {
		t.Fatalf("imported %+v, %v", oct, err)
	}
	sealed, err := b.Encrypt(t.Context(), alice, "aes", "", "A256CBC", secret.Take(make([]byte, 16)), Extras{IV: make([]byte, 16)})
	block, _ := aes.NewCipher(octKey)
	ciphertext := make([]byte, 16)
	block.Encrypt(ciphertext, ciphertext)
	if err != nil || !bytes.Equal(sealed.Value, ciphertext) {
		t.Errorf("the imported key encrypts to another value, or %v", err)
	}

	plain := b.create(t, "plain", CreateParams{Type: "RSA"})
	b.create(t, "ec", CreateParams{})
	with := func(old, new string) []byte { return bytes.Replace(bytes.Clone(octBlob), []byte(old), []byte(new), 1) }
	for name, row := range map[string]struct {
		blob []byte
		kind failure.Kind
		says string
	}{
		"not JSON":               {[]byte("<canary>"), failure.BadParameter, ".byok"},
		"too long":               {[]byte(`"` + strings.Repeat("x", 17<<10) + `"`), failure.BadParameter, ".byok"},
		"another version":        {with("1.0.0", "2.0.0"), failure.BadParameter, "schema_version"},
		"another wrapping":       {with("CKM_RSA_AES_KEY_WRAP", "CKM_RSA_PKCS_OAEP"), failure.BadParameter, "header.enc"},
		"a name for an object":   {with(`"schema_version":"1.0.0","header":`, `"schema_version":"1.0.0","header":1,"x":`), failure.BadParameter, "wrong type"},
		"kid without version":    {with("/"+strings.ToUpper(kek.Version), ""), failure.BadParameter, "header.kid"},
		"kid of another HSM's":   {with("keys/receiver", "keys/elsewhere"), failure.BadParameter, "does not have"},
		"kid is no URL":          {with("https://", "%zz://"), failure.BadParameter, "header.kid"},
		"padded base64":          {with(`","generator"`, `=","generator"`), failure.BadParameter, "base64url"},
		"a key that may decrypt": {wrapFor(t, plain, "https://a/keys/plain/"+plain.Version, octKey), failure.Disabled, "does not allow the operation import"},
		"damaged":                {with(`"ciphertext":"`, `"ciphertext":"AAAA`), failure.BadParameter, "does not open"},
		"wrapped for another":    {wrapFor(t, plain, kid, octKey), failure.BadParameter, "does not open"},
		"another type inside":    {rsaBlob, failure.BadParameter, "oct-HSM"},
	} {
		t.Run(name, func(t *testing.T) {
			unchanged(t, b.store, func() {
				_, err := b.Import(t.Context(), alice, "new", ImportParams{CreateParams: CreateParams{Type: "oct"}, Blob: row.blob})
				if f := wantKind(t, err, row.kind); !strings.Contains(f.Message, row.says) || strings.Contains(f.Message, "canary") {
					t.Errorf("the message is %q, want one with %q", f.Message, row.says)
				}
			})
		})
	}
	// The receiver itself opens nothing for anybody.
	for _, p := range pairs {
		_, err := p.decrypt(b.Keys, t.Context(), alice, "receiver", "", engine.RSAOAEP, make([]byte, 384), Extras{})
		wantKind(t, err, failure.Disabled)
	}
	if _, err := b.Update(t.Context(), alice, "receiver", "", UpdateParams{Enabled: ptr(false)}); err != nil {
		t.Fatal(err)
	}
	_, err = b.Import(t.Context(), alice, "new", ImportParams{CreateParams: CreateParams{Type: "oct"}, Blob: octBlob})
	wantKind(t, err, failure.Disabled)
}

// Transfer blobs from outside: no input panics, and what is taken has the parts that it needs.
func FuzzTransferBlob(f *testing.F) {
	f.Add([]byte(`{"schema_version":"1.0.0","header":{"kid":"https://a/keys/b/0123456789abcdef0123456789abcdef","alg":"dir","enc":"CKM_RSA_AES_KEY_WRAP"},"ciphertext":"AAAA"}`))
	f.Add([]byte(`{"header":null}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		blob, err := parseTransferBlob(raw)
		if err != nil {
			if failure.KindOf(err) != failure.BadParameter {
				t.Fatalf("kind %s", failure.KindOf(err))
			}
			return
		}
		if !validName.MatchString(blob.name) || !validVersion.MatchString(blob.version) || len(blob.ciphertext) > len(raw) {
			t.Fatalf("%+v", blob)
		}
	})
}
