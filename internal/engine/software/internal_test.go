package software

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"strongroom/internal/engine"
	"strongroom/internal/engine/enginetest"
	"strongroom/secret"
)

// Signing with published keys must give the published bytes: Wycheproof's generation vectors for PKCS #1 v1.5,
// which has no randomness. The engine takes no plaintext keys, so this test seals them from the inside.
func TestWycheproofSigning(t *testing.T) {
	paths, err := filepath.Glob("../enginetest/testdata/wycheproof/rsa_pkcs1_*_sig_gen_test.json")
	if err != nil || len(paths) != 3 {
		t.Fatalf("found %d vector files (%v), want 3", len(paths), err)
	}
	s := opened(t)
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var file struct {
			TestGroups []struct {
				Type, Sha, PrivateKeyPkcs8 string
				KeySize                    int
				PrivateKey                 struct{ PublicExponent string }
				Tests                      []struct {
					TcID     int
					Msg, Sig string
					Result   string
				}
			}
		}
		if err := json.Unmarshal(data, &file); err != nil {
			t.Fatal(err)
		}
		signed, unserved := 0, 0
		for _, g := range file.TestGroups {
			if g.Type != "RsassaPkcs1Generate" {
				t.Fatalf("unknown group type %q", g.Type)
			}
			alg, ok := map[string]string{"SHA-256": "RS256", "SHA-384": "RS384", "SHA-512": "RS512"}[g.Sha]
			if !ok { // SHA-1, SHA-224 and the truncated ones have no JWA name
				unserved += len(g.Tests)
				continue
			}
			der := unhex(t, g.PrivateKeyPkcs8)
			sealed, err := s.sealKey(secret.Take(der), []byte("b"))
			if err != nil {
				t.Fatal(err)
			}
			ref := engine.Ref{Type: engine.RSA, Bits: g.KeySize, Sealed: sealed, Binding: []byte("b")}
			for _, v := range g.Tests {
				h := algorithms[alg].hash.New()
				h.Write(unhex(t, v.Msg))
				got, err := s.Sign(t.Context(), ref, alg, h.Sum(nil))
				if g.PrivateKey.PublicExponent != "010001" { // no key of this engine has e = 3
					if !errors.Is(err, engine.ErrTampered) {
						t.Errorf("%s tcId %d: got %v, want %v", filepath.Base(path), v.TcID, err, engine.ErrTampered)
					}
					unserved++
					continue
				}
				if err != nil || !bytes.Equal(got, unhex(t, v.Sig)) {
					t.Errorf("%s tcId %d: %v, or another signature than published", filepath.Base(path), v.TcID, err)
				}
				signed++
			}
		}
		if signed == 0 {
			t.Errorf("%s: no vector was run", path)
		}
		t.Logf("%s: %d signed, %d have a hash or an exponent that is not served here", filepath.Base(path), signed, unserved)
	}
}

// Covers K6. The keys are sealed from the inside, as above.
func TestWycheproofDecryption(t *testing.T) {
	s := opened(t)
	refs := map[string]engine.Ref{}
	enginetest.DecryptVectors(t, func(pkcs8 []byte, bits int, alg string, ciphertext []byte) ([]byte, error) {
		ref, sealed := refs[string(pkcs8)]
		if !sealed {
			ref = engine.Ref{Type: engine.RSA, Bits: bits, Binding: []byte("b")}
			var err error
			if ref.Sealed, err = s.sealKey(secret.New(pkcs8), ref.Binding); err != nil {
				return nil, err
			}
			refs[string(pkcs8)] = ref
		}
		plain, err := s.Decrypt(t.Context(), ref, alg, ciphertext)
		return plain.Reveal(), err
	})
}

// Covers K8.
func TestWycheproofPrimes(t *testing.T) { enginetest.PrimeVectors(t, isPrime) }

// Covers K8 for keys that come back from a backup: what is properly encrypted is still checked, so that a key
// which this engine would never have made is not used.
func TestSealedRubbishIsNotUsed(t *testing.T) {
	s := opened(t)
	good, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	marshal := func(key any) []byte {
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	// The private exponent sits in the DER between n and the primes; one bit of it makes a key that signs wrongly.
	wrongD := marshal(good)
	i := bytes.Index(wrongD, good.D.Bytes())
	if i < 0 {
		t.Fatal("the private exponent is not where it should be")
	}
	wrongD[i+10] ^= 1
	wrongQ := marshal(good)
	i = bytes.LastIndex(wrongQ, good.Primes[1].Bytes())
	wrongQ[i+len(good.Primes[1].Bytes())-1] ^= 2
	for name, der := range map[string][]byte{
		"not DER":          []byte("not a key"),
		"empty":            {},
		"RSA of 1024 bits": marshal(small),
		"wrong d":          wrongD,
		"wrong prime":      wrongQ,
		"Ed25519":          unhex(t, "302e020100300506032b657004220420d4ee72dbf913584ad5b6d8f1f769f8ad3afe7c28cbf1d4fbe097a88f44755842"),
	} {
		sealed, err := s.sealKey(secret.New(der), nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, ref := range []engine.Ref{
			{Type: engine.RSA, Bits: 2048, Sealed: sealed},
			{Type: engine.RSA, Bits: 1024, Sealed: sealed},
			{Sealed: sealed},
		} {
			if _, err := s.open(ref); !errors.Is(err, engine.ErrTampered) {
				t.Errorf("%s: got %v, want %v", name, err, engine.ErrTampered)
			}
		}
		salt := make([]byte, engine.SaltSize)
		key, err := s.backupKey(salt, labelExport)
		if err != nil {
			t.Fatal(err)
		}
		exported, err := encrypt(key, []byte{formVersion}, der, labelExport, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Import(t.Context(), exported, salt, nil, engine.Spec{Type: engine.RSA, Bits: 2048}, nil); !errors.Is(err, engine.ErrTampered) {
			t.Errorf("%s, imported: got %v, want %v", name, err, engine.ErrTampered)
		}
	}
	ref := engine.Ref{Type: engine.RSA, Bits: 2048}
	if ref.Sealed, err = s.sealKey(secret.New(marshal(good)), nil); err != nil {
		t.Fatal(err)
	}
	if _, err := s.open(ref); err != nil {
		t.Errorf("the sound key does not open: %v", err)
	}
}

// Covers K1, K12: sealing clears the plaintext it was given, and the big integers of an RSA key are cleared when
// the call that opened them ends.
func TestPlaintextIsWiped(t *testing.T) {
	s := opened(t)
	plain := secret.Take(bytes.Repeat([]byte{7}, 100))
	if _, err := s.sealKey(plain, nil); err != nil {
		t.Fatal(err)
	}
	if !plain.Equal(secret.Take(make([]byte, 100))) {
		t.Error("the plaintext stays in memory after sealing")
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	private{rsa: key}.wipe()
	for _, n := range []*big.Int{key.D, key.Primes[0], key.Primes[1], key.Precomputed.Dp, key.Precomputed.Dq, key.Precomputed.Qinv} {
		for _, word := range n.Bits() {
			if word != 0 {
				t.Fatal("a private number stays in memory")
			}
		}
	}
}

// golden is one entry of testdata/v1.json, or of v1-p256k-oct.json, which came later.
type golden struct {
	Type                     engine.Type
	Bits                     int
	Curve                    string
	Sealed, Exported, Backup []byte
}

func goldens(t testing.TB) []golden {
	t.Helper()
	var all []golden
	for _, name := range []string{"v1.json", "v1-p256k-oct.json"} {
		data, err := os.ReadFile("testdata/" + name)
		if err != nil {
			t.Fatal(err)
		}
		var some []golden
		if err := json.Unmarshal(data, &some); err != nil || len(some) != 4 {
			t.Fatalf("%s: %d golden keys (%v), want 4", name, len(some), err)
		}
		all = append(all, some...)
	}
	return all
}

// What version 1 sealed, exported and backed up opens for ever.
func TestVersion1StaysReadable(t *testing.T) {
	s := opened(t)
	salt := bytes.Repeat([]byte{3}, engine.SaltSize)
	for _, g := range goldens(t) {
		sealed := engine.Ref{Type: g.Type, Bits: g.Bits, Curve: g.Curve, Sealed: g.Sealed, Binding: []byte("golden binding")}
		old, err := s.open(sealed)
		if err != nil {
			t.Errorf("%s %s: the sealed key does not open: %v", g.Type, g.Curve, err)
			continue
		}
		public, err := old.public()
		if err != nil {
			t.Fatal(err)
		}
		spec := engine.Spec{Type: g.Type, Bits: g.Bits, Curve: g.Curve}
		made, err := s.Import(t.Context(), g.Exported, salt, []byte("golden export"), spec, nil)
		if err != nil {
			t.Errorf("%s %s: the exported key does not open: %v", g.Type, g.Curve, err)
			continue
		}
		if diff := cmp.Diff(public, made.Public, cmp.Comparer(func(a, b *big.Int) bool { return (a == nil) == (b == nil) && (a == nil || a.Cmp(b) == 0) })); diff != "" {
			t.Errorf("%s %s: sealed and exported key differ: %s", g.Type, g.Curve, diff)
		}
		if body, err := s.OpenBackup(t.Context(), salt, []byte("golden header"), g.Backup); err != nil || string(body) != "golden body" {
			t.Errorf("%s %s: the backup opens as %q, %v", g.Type, g.Curve, body, err)
		}
	}
	const code = "bde82bef3773f784e8e1076eb56865903870b3cc55b333ce59a5f480b7b579c2"
	if mac, err := s.MAC(t.Context(), []byte("golden message")); err != nil || hex.EncodeToString(mac) != code {
		t.Errorf("the record code is %x, %v; want %s", mac, err, code)
	}
}

// FuzzOpen feeds sealed keys and bindings from outside. Nothing but what was sealed opens.
func FuzzOpen(f *testing.F) {
	s := opened(f)
	all := goldens(f)
	for _, g := range all {
		f.Add(g.Sealed, []byte("golden binding"))
		f.Add(g.Exported, []byte("golden export"))
	}
	f.Add(all[0].Sealed[:60], []byte("golden binding"))
	f.Add([]byte{formVersion}, []byte(nil))
	f.Add([]byte(nil), []byte(nil))
	f.Fuzz(func(t *testing.T, sealed, binding []byte) {
		for _, g := range all {
			_, err := s.open(engine.Ref{Type: g.Type, Bits: g.Bits, Curve: g.Curve, Sealed: sealed, Binding: binding})
			same := bytes.Equal(sealed, g.Sealed) && string(binding) == "golden binding"
			if same != (err == nil) || err != nil && !errors.Is(err, engine.ErrTampered) {
				t.Errorf("sealed as made: %t, error: %v", same, err)
			}
		}
	})
}

func opened(t testing.TB) *software {
	t.Helper()
	e, err := New(secret.New(bytes.Repeat([]byte{1}, 32)), secret.New(bytes.Repeat([]byte{2}, 32)), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	return e.(*software)
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
