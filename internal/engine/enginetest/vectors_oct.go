package enginetest

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"testing"

	"strongroom/internal/engine"
	"strongroom/secret"
)

// vectorGroupOf is a group of a Wycheproof file whose vectors have the form V.
type vectorGroupOf[V any] struct {
	Type             string
	KeySize, TagSize int // bits
	PrivateKey       struct {
		Modulus, PublicExponent, PrivateExponent, Prime1, Prime2, Exponent1, Exponent2, Coefficient string // RSA, hex
	}
	Sha, MgfSha string
	Curve       string
	Tests       []V
}

// each reads a file and calls f with every vector in it and its group. A group of another type is a failure.
func each[V any](t *testing.T, name, groupType string, f func(g vectorGroupOf[V], v V)) {
	t.Helper()
	data, err := wycheproof.ReadFile("testdata/wycheproof/" + name + "_test.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		NumberOfTests int
		TestGroups    []vectorGroupOf[V]
	}
	if err := json.Unmarshal(data, &file); err != nil {
		t.Fatal(err)
	}
	ran := 0
	for _, g := range file.TestGroups {
		if g.Type != groupType {
			t.Fatalf("unknown group type %q", g.Type)
		}
		for _, v := range g.Tests {
			ran++
			f(g, v)
		}
	}
	if ran == 0 || ran != file.NumberOfTests {
		t.Errorf("ran %d vectors, the file has %d", ran, file.NumberOfTests)
	}
}

// octVector is a vector of the AES and HMAC files.
type octVector struct {
	TcID                                        int
	Comment, Key, IV, AAD, Msg, Ct, Tag, Result string // all but Comment and Result in hex
}

// KeyVectors runs the Wycheproof vectors that bring a secret key along, through an engine that imports the key:
// AES, key wrap, HMAC, and the decryption of RSA1_5, which an engine of open refuses and one of openRSA15 does.
//
// Covers K5, K6, K8.
func KeyVectors(t *testing.T, open, openRSA15 Open) {
	vectors := func(open Open) *keyVectors {
		v := &keyVectors{engine: open(t, secret.New(random(t, 32)), secret.New(random(t, 32))), refs: map[string]engine.Ref{}}
		t.Cleanup(v.engine.Close)
		return v
	}
	v, allowed := vectors(open), vectors(openRSA15)
	t.Run("aes_gcm", v.gcm)
	t.Run("aes_cbc_pkcs5", v.cbc)
	t.Run("aes_wrap", v.keyWrap)
	t.Run("aes_kwp", v.keyWrapPadded)
	for alg, name := range map[string]string{"HS256": "hmac_sha256", "HS384": "hmac_sha384", "HS512": "hmac_sha512"} {
		t.Run(name, func(t *testing.T) { v.hmac(t, name, alg) })
	}
	for _, name := range []string{"rsa_pkcs1_2048", "rsa_pkcs1_3072", "rsa_pkcs1_4096"} {
		t.Run(name+" refused", func(t *testing.T) { v.rsa15(t, name, false) })
		t.Run(name, func(t *testing.T) { allowed.rsa15(t, name, true) })
	}
}

type keyVectors struct {
	engine engine.Engine
	refs   map[string]engine.Ref
}

// ref imports a key once.
func (s *keyVectors) ref(t *testing.T, id string, m engine.Material) engine.Ref {
	t.Helper()
	ref, ok := s.refs[id]
	if !ok {
		made, err := s.engine.ImportKey(t.Context(), m, []byte(id))
		if err != nil {
			t.Fatalf("a vector's key is not imported: %v", err)
		}
		ref = refOf(made.Public.Spec(), made, []byte(id))
		s.refs[id] = ref
	}
	return ref
}

func (s *keyVectors) oct(t *testing.T, key string) engine.Ref {
	t.Helper()
	return s.ref(t, key, engine.Material{Type: engine.Oct, K: secret.Take(decode(t, key))})
}

// refusedFor reports whether err refuses the value of that name.
func refusedFor(err error, name string) bool {
	p, ok := errors.AsType[*engine.ParameterError](err)
	return ok && p.Name == name
}

func (s *keyVectors) gcm(t *testing.T) {
	decrypted, otherIV := 0, 0
	each(t, "aes_gcm", "AeadTest", func(g vectorGroupOf[octVector], v octVector) {
		alg := fmt.Sprintf("A%dGCM", g.KeySize)
		got, err := s.engine.DecryptAES(t.Context(), s.oct(t, v.Key), alg, engine.Ciphertext{Value: decode(t, v.Ct), IV: decode(t, v.IV), Tag: decode(t, v.Tag)}, decode(t, v.AAD))
		switch {
		case len(v.IV) != 2*12: // not an IV of this engine, whatever the file says
			otherIV++
			if !refusedFor(err, "iv") || !got.IsZero() {
				t.Errorf("tcId %d (%s): an IV of %d bytes: got %v", v.TcID, v.Comment, len(v.IV)/2, err)
			}
		case v.Result == "valid":
			decrypted++
			if err != nil || !bytes.Equal(got.Reveal(), decode(t, v.Msg)) {
				t.Errorf("tcId %d (%s): another plaintext than published, or %v", v.TcID, v.Comment, err)
			}
		case err != engine.ErrDecrypt || !got.IsZero():
			t.Errorf("tcId %d (%s): got %v, want %v", v.TcID, v.Comment, err, engine.ErrDecrypt)
		}
	})
	if decrypted == 0 || otherIV == 0 {
		t.Error("the file lost a part of its vectors")
	}
	t.Logf("%d decrypted, %d with an IV of another length refused, none skipped; encryption has an IV of its own and is checked by the suite", decrypted, otherIV)
}

func (s *keyVectors) cbc(t *testing.T) {
	valid := 0
	each(t, "aes_cbc_pkcs5", "IndCpaTest", func(g vectorGroupOf[octVector], v octVector) {
		ref, padded, plain := s.oct(t, v.Key), fmt.Sprintf("A%dCBCPAD", g.KeySize), fmt.Sprintf("A%dCBC", g.KeySize)
		iv, message, ct := decode(t, v.IV), decode(t, v.Msg), decode(t, v.Ct)
		got, err := s.engine.DecryptAES(t.Context(), ref, padded, engine.Ciphertext{Value: ct, IV: iv}, nil)
		if v.Result != "valid" {
			if len(ct) == 0 || len(ct)%16 != 0 {
				if !refusedFor(err, "value") {
					t.Errorf("tcId %d (%s): got %v, want a refusal of the value", v.TcID, v.Comment, err)
				}
			} else if err != engine.ErrDecrypt || !got.IsZero() {
				t.Errorf("tcId %d (%s): got %v, want %v", v.TcID, v.Comment, err, engine.ErrDecrypt)
			}
			return
		}
		valid++
		if err != nil || !bytes.Equal(got.Reveal(), message) {
			t.Errorf("tcId %d (%s): another plaintext than published, or %v", v.TcID, v.Comment, err)
		}
		if c, err := s.engine.EncryptAES(t.Context(), ref, padded, secret.New(message), iv, nil); err != nil || !bytes.Equal(c.Value, ct) {
			t.Errorf("tcId %d (%s): another ciphertext than published, or %v", v.TcID, v.Comment, err)
		}
		// Without padding, the ciphertext is the same without its last block.
		c, err := s.engine.EncryptAES(t.Context(), ref, plain, secret.New(message), iv, nil)
		if len(message) == 0 || len(message)%16 != 0 {
			if !refusedFor(err, "value") {
				t.Errorf("tcId %d, %s: %d bytes: got %v, want a refusal of the value", v.TcID, plain, len(message), err)
			}
		} else if err != nil || !bytes.Equal(c.Value, ct[:len(message)]) {
			t.Errorf("tcId %d, %s: another ciphertext than published, or %v", v.TcID, plain, err)
		}
	})
	t.Logf("%d valid, none skipped", valid)
}

func (s *keyVectors) keyWrap(t *testing.T) {
	each(t, "aes_wrap", "KeywrapTest", func(g vectorGroupOf[octVector], v octVector) {
		for _, alg := range []string{fmt.Sprintf("A%dKW", g.KeySize), engine.AESKeyWrap} {
			// "acceptable" is a plaintext of 8 bytes, which RFC 3394 does not have: refused.
			s.wrapVector(t, alg, v, 24, func(size int) bool { return size >= 16 && size%8 == 0 })
		}
	})
}

func (s *keyVectors) keyWrapPadded(t *testing.T) {
	each(t, "aes_kwp", "KeywrapTest", func(_ vectorGroupOf[octVector], v octVector) {
		s.wrapVector(t, engine.AESKeyWrapPad, v, 16, func(size int) bool { return size >= 1 })
	})
}

// wrapVector wraps and unwraps. least is the shortest wrapped form; takes says which plaintexts have one.
func (s *keyVectors) wrapVector(t *testing.T, alg string, v octVector, least int, takes func(size int) bool) {
	t.Helper()
	ref, message, ct := s.oct(t, v.Key), decode(t, v.Msg), decode(t, v.Ct)
	got, err := s.engine.DecryptAES(t.Context(), ref, alg, engine.Ciphertext{Value: ct}, nil)
	switch {
	case len(ct) < least || len(ct)%8 != 0:
		if !refusedFor(err, "value") || v.Result == "valid" {
			t.Errorf("tcId %d %s (%s, %s): got %v, want a refusal of the value", v.TcID, alg, v.Result, v.Comment, err)
		}
	case v.Result == "valid":
		if err != nil || !bytes.Equal(got.Reveal(), message) {
			t.Errorf("tcId %d %s (%s): another plaintext than published, or %v", v.TcID, alg, v.Comment, err)
		}
	case err != engine.ErrDecrypt || !got.IsZero():
		t.Errorf("tcId %d %s (%s): got %v, want %v", v.TcID, alg, v.Comment, err, engine.ErrDecrypt)
	}
	c, err := s.engine.EncryptAES(t.Context(), ref, alg, secret.New(message), nil, nil)
	switch {
	case !takes(len(message)):
		if !refusedFor(err, "value") {
			t.Errorf("tcId %d %s (%s): %d bytes are wrapped, or %v", v.TcID, alg, v.Comment, len(message), err)
		}
	case err != nil || v.Result == "valid" && !bytes.Equal(c.Value, ct):
		t.Errorf("tcId %d %s (%s): another wrapped form than published, or %v", v.TcID, alg, v.Comment, err)
	}
}

func (s *keyVectors) hmac(t *testing.T, name, alg string) {
	signed, cut, otherKey := 0, 0, 0
	each(t, name, "MacTest", func(g vectorGroupOf[octVector], v octVector) {
		if g.KeySize != 128 && g.KeySize != 192 && g.KeySize != 256 {
			otherKey++
			m := engine.Material{Type: engine.Oct, K: secret.Take(decode(t, v.Key))}
			if _, err := s.engine.ImportKey(t.Context(), m, nil); !errors.Is(err, engine.ErrSpec) {
				t.Errorf("tcId %d: a key of %d bits: got %v, want %v", v.TcID, g.KeySize, err, engine.ErrSpec)
			}
			return
		}
		ref, message, tag := s.oct(t, v.Key), decode(t, v.Msg), decode(t, v.Tag)
		code, err := s.engine.Sign(t.Context(), ref, alg, message)
		if err != nil || bytes.HasPrefix(code, tag) != (v.Result == "valid") {
			t.Errorf("tcId %d (%s, %s): another code than published, or %v", v.TcID, v.Result, v.Comment, err)
		}
		want := v.Result == "valid" && len(tag) == len(code) // a cut code does not count, whatever the file says
		if ok, err := s.engine.Verify(t.Context(), ref, alg, message, tag); err != nil || ok != want {
			t.Errorf("tcId %d (%s, %s): verifies: %t, %v; want %t", v.TcID, v.Result, v.Comment, ok, err, want)
		}
		if signed++; len(tag) != len(code) {
			cut++
		}
	})
	if signed == 0 || cut == signed {
		t.Error("no vector of full length was run")
	}
	t.Logf("%d run, %d of them with a cut code, which is refused; %d have a key of a size that is refused; none skipped", signed, cut, otherKey)
}

// rsa15 imports the keys and decrypts, or sees every ciphertext refused alike where the algorithm is off.
func (s *keyVectors) rsa15(t *testing.T, name string, allowed bool) {
	decrypted := 0
	each(t, name, "RsaesPkcs1Decrypt", func(g vectorGroupOf[octVector], v octVector) {
		k := g.PrivateKey
		part := func(h string) secret.Bytes { return secret.Take(decode(t, h)) }
		ref := s.ref(t, k.Modulus, engine.Material{
			Type: engine.RSA, N: decode(t, k.Modulus), E: decode(t, k.PublicExponent), D: part(k.PrivateExponent),
			P: part(k.Prime1), Q: part(k.Prime2), DP: part(k.Exponent1), DQ: part(k.Exponent2), QI: part(k.Coefficient),
		})
		got, err := s.engine.Decrypt(t.Context(), ref, engine.RSA15, decode(t, v.Ct))
		switch {
		case !allowed:
			if !errors.Is(err, engine.ErrAlgorithm) || !got.IsZero() {
				t.Errorf("tcId %d: got %v, want %v", v.TcID, err, engine.ErrAlgorithm)
			}
		case v.Result == "valid":
			decrypted++
			if err != nil || !bytes.Equal(got.Reveal(), decode(t, v.Msg)) {
				t.Errorf("tcId %d (%s): another plaintext than published, or %v", v.TcID, v.Comment, err)
			}
		case err != engine.ErrDecrypt || !got.IsZero(): // K6: one answer for every wrong padding
			t.Errorf("tcId %d (%s): got %v, want %v", v.TcID, v.Comment, err, engine.ErrDecrypt)
		}
	})
	if allowed && decrypted == 0 {
		t.Error("no vector was decrypted")
	}
}

// jwk is an EC key in a vector.
type jwk struct{ Crv, X, Y, D string }

// material decodes k, for the given curve.
func (k jwk) material(t *testing.T, curve string) engine.Material {
	t.Helper()
	part := func(s string) []byte {
		b, err := base64.RawURLEncoding.DecodeString(s)
		if err != nil {
			t.Fatal("a vector's number is not base64url")
		}
		return b
	}
	return engine.Material{Type: engine.EC, Curve: curve, X: part(k.X), Y: part(k.Y), D: secret.Take(part(k.D))}
}

// PointVectors runs the Wycheproof ECDH vectors as what they say about keys: each private key is imported, and is
// what the file says; each public point is a point of a public key, or is refused on its own curve or on that of the
// group. The shared secrets are not used: nothing here agrees on keys.
//
// Covers K8.
func PointVectors(t *testing.T, open Open, verify Verify) {
	e := open(t, secret.New(random(t, 32)), secret.New(random(t, 32)))
	t.Cleanup(e.Close)
	signature := map[string]string{engine.P256: "ES256", engine.P384: "ES384", engine.P521: "ES512", engine.P256K: "ES256K"}
	for _, name := range []string{"ecdh_secp256r1_webcrypto", "ecdh_secp256k1_webcrypto"} {
		t.Run(name, func(t *testing.T) {
			sound, refusedPoints := 0, 0
			type vector struct {
				TcID            int
				Comment, Result string
				Public, Private jwk
			}
			each(t, name, "EcdhWebcryptoTest", func(g vectorGroupOf[vector], v vector) {
				private := v.Private.material(t, g.Curve)
				x := new(big.Int).SetBytes(private.X)
				if made, err := e.ImportKey(t.Context(), private, nil); err != nil || made.Public.X.Cmp(x) != 0 {
					t.Errorf("tcId %d (%s): the private key is not imported, or as another: %v", v.TcID, v.Comment, err)
				}
				var refusals []error
				for _, curve := range []string{v.Public.Crv, g.Curve} {
					m := v.Public.material(t, curve)
					public := engine.Public{Type: engine.EC, Curve: curve, X: new(big.Int).SetBytes(m.X), Y: new(big.Int).SetBytes(m.Y)}
					alg := signature[curve]
					digest := digestOf(map[string]int{"ES256": 32, "ES384": 48, "ES512": 64, "ES256K": 32}[alg])
					ok, err := verify(public, alg, digest, nil)
					if ok || err != nil && !errors.Is(err, engine.ErrSpec) {
						t.Errorf("tcId %d (%s): verifies nothing: %t, %v", v.TcID, v.Comment, ok, err)
					}
					if err != nil {
						refusals = append(refusals, err)
					}
				}
				if (len(refusals) == 0) != (v.Result == "valid") {
					t.Errorf("tcId %d (%s, %s): refused with %v", v.TcID, v.Result, v.Comment, refusals)
				}
				if sound++; len(refusals) > 0 {
					refusedPoints++
					// The point comes as that of a private key, too.
					m := v.Public.material(t, g.Curve)
					m.D = v.Private.material(t, g.Curve).D
					if _, err := e.ImportKey(t.Context(), m, nil); !errors.Is(err, engine.ErrMaterial) {
						t.Errorf("tcId %d (%s): as the point of a key: got %v, want %v", v.TcID, v.Comment, err, engine.ErrMaterial)
					}
				}
			})
			if refusedPoints == 0 || refusedPoints == sound {
				t.Error("the file lost a part of its vectors")
			}
			t.Logf("%d private keys imported, %d points refused, none skipped", sound, refusedPoints)
		})
	}
}

// PrimeVectors runs the Wycheproof primality vectors. "acceptable" are the negatives of primes: refused.
//
// Covers K8.
func PrimeVectors(t *testing.T, isPrime func(*big.Int) bool) {
	type vector struct {
		TcID                   int
		Comment, Value, Result string
	}
	primes := 0
	each(t, "primality", "PrimalityTest", func(_ vectorGroupOf[vector], v vector) {
		b := decode(t, v.Value)
		n := new(big.Int).SetBytes(b)
		if len(b) > 0 && b[0] >= 0x80 { // two's complement
			n.Sub(n, new(big.Int).Lsh(big.NewInt(1), uint(8*len(b))))
		}
		got := isPrime(n)
		if got != (v.Result == "valid") {
			t.Errorf("tcId %d (%s, %s): prime: %t", v.TcID, v.Result, v.Comment, got)
		}
		if got {
			primes++
		}
	})
	t.Logf("%d primes, none skipped", primes)
}
