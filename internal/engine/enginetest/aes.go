package enginetest

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"fmt"
	"hash"
	"maps"
	"math/big"
	"slices"
	"testing"

	"strongroom/internal/engine"
	"strongroom/secret"
)

// aesAlgorithms are the AES algorithms and the size in bits of the key that each goes with; 0 is any.
var aesAlgorithms = map[string]int{
	engine.A128GCM: 128, engine.A192GCM: 192, engine.A256GCM: 256,
	engine.A128CBC: 128, engine.A192CBC: 192, engine.A256CBC: 256,
	engine.A128CBCPAD: 128, engine.A192CBCPAD: 192, engine.A256CBCPAD: 256,
	engine.A128KW: 128, engine.A192KW: 192, engine.A256KW: 256,
	engine.AESKeyWrap: 0, engine.AESKeyWrapPad: 0,
}

func allAES() []string { return slices.Sorted(maps.Keys(aesAlgorithms)) }

// kind is an algorithm's name without the size.
func kind(alg string) string {
	switch {
	case alg == engine.AESKeyWrap:
		return "KW"
	case alg == engine.AESKeyWrapPad:
		return "KWP"
	}
	return alg[4:]
}

// sizes are lengths of plaintexts that an algorithm takes, and that it does not.
func sizes(alg string) (good, bad []int) {
	switch kind(alg) {
	case "CBC":
		return []int{16, 32, 1024}, []int{0, 1, 15, 17, 31, 1000}
	case "KW":
		return []int{16, 24, 32, 1024}, []int{0, 1, 8, 15, 17, 31, 1001}
	case "KWP":
		return []int{1, 7, 8, 9, 15, 16, 17, 32, 1000}, []int{0}
	}
	return []int{0, 1, 15, 16, 17, 32, 1000}, nil
}

// octKeys calls f for every oct key with every algorithm that fits it.
func (s *suite) octKeys(f func(k key, alg string)) {
	for _, k := range s.keys {
		for _, alg := range allAES() {
			if bits := aesAlgorithms[alg]; k.spec.Type == engine.Oct && (bits == 0 || bits == k.spec.Bits) {
				f(k, alg)
			}
		}
	}
}

// ivFor is an IV as the algorithm takes it from its caller.
func ivFor(t testing.TB, alg string) []byte {
	if kind(alg) == "CBC" || kind(alg) == "CBCPAD" {
		return random(t, engine.CBCIVSize)
	}
	return nil
}

// aadFor is additional data, for the algorithms that take it.
func aadFor(alg string) []byte {
	if kind(alg) == "GCM" {
		return []byte("additional data")
	}
	return nil
}

// Covers K5: what is encrypted here decrypts here and on another server of the domain; GCM nonces never repeat.
func (s *suite) aesRoundTrip(t *testing.T) {
	second := s.another(t)
	nonces := map[string]bool{}
	s.octKeys(func(k key, alg string) {
		good, _ := sizes(alg)
		for _, size := range good {
			name := fmt.Sprintf("%s with %s, %d bytes", k.name, alg, size)
			plain, iv := random(t, size), ivFor(t, alg)
			given := secret.New(plain)
			c, err := s.engine.EncryptAES(t.Context(), k.ref, alg, given, iv, aadFor(alg))
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			if !bytes.Equal(given.Reveal(), plain) {
				t.Errorf("%s: encrypting changed the caller's plaintext", name)
			}
			want := map[string]int{"GCM": size, "CBC": size, "CBCPAD": size/16*16 + 16, "KW": size + 8, "KWP": (size+7)/8*8 + 8}[kind(alg)]
			if len(c.Value) != want {
				t.Errorf("%s: the ciphertext has %d bytes, want %d", name, len(c.Value), want)
			}
			switch kind(alg) {
			case "GCM":
				if len(c.IV) != 12 || len(c.Tag) != 16 || nonces[string(c.IV)] {
					t.Errorf("%s: an IV of %d and a tag of %d bytes, or an IV that came before", name, len(c.IV), len(c.Tag))
				}
				nonces[string(c.IV)] = true
			default:
				if !bytes.Equal(c.IV, iv) || c.Tag != nil {
					t.Errorf("%s: another IV than given, or a tag", name)
				}
			}
			before := slices.Concat(c.Value, c.IV, c.Tag)
			for _, e := range []engine.Engine{s.engine, second} {
				got, err := e.DecryptAES(t.Context(), k.ref, alg, c, aadFor(alg))
				if err != nil || !bytes.Equal(got.Reveal(), plain) {
					t.Errorf("%s: decrypts to %d bytes, %v", name, got.Len(), err)
				}
				got.Wipe() // as callers do; the ciphertext must not be the same memory
			}
			if !bytes.Equal(before, slices.Concat(c.Value, c.IV, c.Tag)) {
				t.Errorf("%s: decrypting changed the caller's ciphertext", name)
			}
		}
	})
	if len(nonces) == 0 {
		t.Error("no GCM ciphertext was made")
	}
}

// Covers K2, K5: sizes, IVs, tags and additional data that an algorithm does not take are refused by name; names
// that do not fit the key are refused; both before the key is opened.
func (s *suite) refusedAES(t *testing.T) {
	refuses := func(what, name string, k key, alg string, plain, iv, aad []byte) {
		t.Helper()
		c, err := s.engine.EncryptAES(t.Context(), k.ref, alg, secret.New(plain), iv, aad)
		if p, ok := errors.AsType[*engine.ParameterError](err); !ok || p.Name != name || c.Value != nil {
			t.Errorf("%s encrypts %s: got %v, want a refusal of the %s", k.name, what, err, name)
		}
	}
	refusesBack := func(what, name string, k key, alg string, c engine.Ciphertext, aad []byte) {
		t.Helper()
		got, err := s.engine.DecryptAES(t.Context(), k.ref, alg, c, aad)
		if p, ok := errors.AsType[*engine.ParameterError](err); !ok || p.Name != name || !got.IsZero() {
			t.Errorf("%s decrypts %s: got %v, want a refusal of the %s", k.name, what, err, name)
		}
	}
	s.octKeys(func(k key, alg string) {
		good, bad := sizes(alg)
		plain := make([]byte, good[len(good)-1])
		for _, size := range bad {
			refuses(fmt.Sprintf("%d bytes with %s", size, alg), "value", k, alg, make([]byte, size), ivFor(t, alg), nil)
		}
		c, err := s.engine.EncryptAES(t.Context(), k.ref, alg, secret.New(plain), ivFor(t, alg), aadFor(alg))
		if err != nil {
			t.Fatalf("%s with %s: %v", k.name, alg, err)
		}
		for _, size := range []int{0, 1, 8, 11, 12, 13, 15, 16, 17, 32, 4096} {
			what := fmt.Sprintf("with %s and an IV of %d bytes", alg, size)
			right := map[string]int{"GCM": 0, "CBC": 16, "CBCPAD": 16}[kind(alg)]
			if size != right {
				refuses(what, "iv", k, alg, plain, make([]byte, size), nil)
			}
			if kind(alg) == "GCM" {
				right = 12
			}
			if size != right {
				refusesBack(what, "iv", k, alg, engine.Ciphertext{Value: c.Value, IV: make([]byte, size), Tag: c.Tag}, aadFor(alg))
			}
			right = 0
			if kind(alg) == "GCM" {
				right = 16
			}
			if size != right {
				refusesBack(fmt.Sprintf("with %s and a tag of %d bytes", alg, size), "tag", k, alg, engine.Ciphertext{Value: c.Value, IV: c.IV, Tag: make([]byte, size)}, aadFor(alg))
			}
		}
		if kind(alg) == "GCM" {
			return
		}
		refuses("with aad and "+alg, "aad", k, alg, plain, ivFor(t, alg), []byte("aad"))
		refusesBack("with aad and "+alg, "aad", k, alg, c, []byte("aad"))
		for _, value := range [][]byte{nil, c.Value[:1], c.Value[:7], c.Value[:len(c.Value)-1], append(slices.Clone(c.Value), 0)} {
			refusesBack(fmt.Sprintf("%d bytes with %s", len(value), alg), "value", k, alg, engine.Ciphertext{Value: value, IV: c.IV}, nil)
		}
	})

	names := append(slices.Clone(foreign), engine.RSAOAEP256, "A128KWPAD", "a256gcm", "A256GCM ", "A512GCM", "A256GCMKW", "A256CTR", "A256ECB", "A128CBC-HS256")
	names = slices.DeleteFunc(names, func(n string) bool { return aesAlgorithms[n] != 0 })
	for _, a := range algorithms {
		names = append(names, a.name)
	}
	for _, k := range s.keys {
		for _, alg := range append(slices.Clone(names), allAES()...) {
			bits, known := aesAlgorithms[alg]
			if k.spec.Type == engine.Oct && known && (bits == 0 || bits == k.spec.Bits) {
				continue
			}
			if c, err := s.engine.EncryptAES(t.Context(), k.ref, alg, secret.New(make([]byte, 16)), nil, nil); !errors.Is(err, engine.ErrAlgorithm) || c.Value != nil {
				t.Errorf("%s encrypts with %q: got %v, want %v", k.name, alg, err, engine.ErrAlgorithm)
			}
			if p, err := s.engine.DecryptAES(t.Context(), k.ref, alg, engine.Ciphertext{Value: make([]byte, 32)}, nil); !errors.Is(err, engine.ErrAlgorithm) || !p.IsZero() {
				t.Errorf("%s decrypts with %q: got %v, want %v", k.name, alg, err, engine.ErrAlgorithm)
			}
		}
	}
}

// Covers K6: whatever is wrong with a ciphertext of a proper form, the answer is the same value, with nothing in it.
func (s *suite) damagedAES(t *testing.T) {
	known := random(t, 32) // a key that this test has too, for paddings that are wrong in one way
	made, err := s.engine.ImportKey(t.Context(), engine.Material{Type: engine.Oct, K: secret.New(known)}, []byte("known"))
	if err != nil {
		t.Fatal(err)
	}
	block, err := aes.NewCipher(known)
	if err != nil {
		t.Fatal(err)
	}
	knownRef := refOf(engine.Spec{Type: engine.Oct, Bits: 256}, made, []byte("known"))
	same := func(what string, ref engine.Ref, alg string, c engine.Ciphertext, aad []byte) {
		t.Helper()
		if got, err := s.engine.DecryptAES(t.Context(), ref, alg, c, aad); err != engine.ErrDecrypt || !got.IsZero() {
			t.Errorf("%s, %s: got %v and %d bytes, want %v itself", alg, what, err, got.Len(), engine.ErrDecrypt)
		}
	}
	s.octKeys(func(k key, alg string) {
		if kind(alg) == "CBC" || kind(alg) == "CBCPAD" {
			return // without integrity: see below
		}
		for _, size := range []int{16, 32} {
			c, err := s.engine.EncryptAES(t.Context(), k.ref, alg, secret.New(random(t, size)), nil, aadFor(alg))
			if err != nil {
				t.Fatal(err)
			}
			for i := range c.Value {
				same(fmt.Sprintf("byte %d flipped", i), k.ref, alg, engine.Ciphertext{Value: flipped(c.Value, i), IV: c.IV, Tag: c.Tag}, aadFor(alg))
			}
			for i := range c.Tag {
				same(fmt.Sprintf("byte %d of the tag flipped", i), k.ref, alg, engine.Ciphertext{Value: c.Value, IV: c.IV, Tag: flipped(c.Tag, i)}, aadFor(alg))
			}
			for i := range c.IV {
				same(fmt.Sprintf("byte %d of the IV flipped", i), k.ref, alg, engine.Ciphertext{Value: c.Value, IV: flipped(c.IV, i), Tag: c.Tag}, aadFor(alg))
			}
			if kind(alg) == "GCM" {
				same("no aad", k.ref, alg, c, nil)
				same("another aad", k.ref, alg, c, []byte("additional dat"))
				same("cut", k.ref, alg, engine.Ciphertext{Value: c.Value[:8], IV: c.IV, Tag: c.Tag}, aadFor(alg))
				same("empty", k.ref, alg, engine.Ciphertext{IV: c.IV, Tag: c.Tag}, aadFor(alg))
			} else {
				if size == 32 {
					same("cut by a semiblock", k.ref, alg, engine.Ciphertext{Value: c.Value[:len(c.Value)-8]}, nil)
				}
				same("longer", k.ref, alg, engine.Ciphertext{Value: append(slices.Clone(c.Value), make([]byte, 8)...)}, nil)
			}
			if k.spec.Bits == 256 {
				same("another key", knownRef, alg, c, aadFor(alg))
			}
		}
	})
	for name, tail := range map[string][]byte{
		"padding of 0":                   {0},
		"padding of 17":                  bytes.Repeat([]byte{17}, 16),
		"padding of 255":                 {255},
		"first byte of the padding":      {3, 4, 4, 4},
		"last of a padding of 2":         {1, 2},
		"a block of padding, one wrong":  append([]byte{15}, bytes.Repeat([]byte{16}, 15)...),
		"padding longer than the blocks": bytes.Repeat([]byte{16, 200}, 8),
	} {
		for _, blocks := range []int{1, 3} {
			plain := make([]byte, 16*blocks)
			copy(plain[len(plain)-len(tail):], tail)
			iv := random(t, 16)
			cipher.NewCBCEncrypter(block, iv).CryptBlocks(plain, plain)
			same(name, knownRef, engine.A256CBCPAD, engine.Ciphertext{Value: plain, IV: iv}, nil)
		}
	}
}

// Covers K4 for oct keys: no edited or exchanged record is used.
func (s *suite) tamperedAES(t *testing.T) {
	k, other := s.key("oct-HSM 256"), s.key("oct-HSM 128")
	c, err := s.engine.EncryptAES(t.Context(), k.ref, engine.AESKeyWrapPad, secret.Take([]byte("plain")), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	refuses := func(what string, ref engine.Ref) {
		t.Helper()
		if c, err := s.engine.EncryptAES(t.Context(), ref, engine.AESKeyWrapPad, secret.Take([]byte("plain")), nil, nil); !errors.Is(err, engine.ErrTampered) || c.Value != nil {
			t.Errorf("%s, encrypting: got %v, want %v", what, err, engine.ErrTampered)
		}
		if p, err := s.engine.DecryptAES(t.Context(), ref, engine.AESKeyWrapPad, c, nil); !errors.Is(err, engine.ErrTampered) || !p.IsZero() {
			t.Errorf("%s, decrypting: got %v, want %v", what, err, engine.ErrTampered)
		}
	}
	for i := range k.ref.Sealed {
		ref := k.ref
		ref.Sealed = flipped(ref.Sealed, i)
		refuses(fmt.Sprintf("byte %d of the sealed key flipped", i), ref)
	}
	for name, change := range map[string]func(*engine.Ref){
		"binding changed": func(r *engine.Ref) { r.Binding = flipped(r.Binding, 0) },
		"another size":    func(r *engine.Ref) { r.Bits = 128 },
		"a curve":         func(r *engine.Ref) { r.Curve = engine.P256 },
		"another key's":   func(r *engine.Ref) { r.Sealed = other.ref.Sealed },
	} {
		ref := k.ref
		change(&ref)
		refuses(name, ref)
	}
}

// The HS* algorithms are HMAC over what they are given, of any length, and codes count in full length only.
func (s *suite) hmacs(t *testing.T) {
	known := random(t, 24)
	made, err := s.engine.ImportKey(t.Context(), engine.Material{Type: engine.Oct, K: secret.New(known)}, []byte("known"))
	if err != nil {
		t.Fatal(err)
	}
	ref := refOf(engine.Spec{Type: engine.Oct, Bits: 192}, made, []byte("known"))
	for alg, h := range map[string]func() hash.Hash{"HS256": sha256.New, "HS384": sha512.New384, "HS512": sha512.New} {
		for _, size := range []int{0, 1, 32, 48, 64, 1000} {
			message := random(t, size)
			mac := hmac.New(h, known)
			mac.Write(message)
			want := mac.Sum(nil)
			got, err := s.engine.Sign(t.Context(), ref, alg, message)
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s over %d bytes: another code than crypto/hmac makes, or %v", alg, size, err)
			}
			for _, cut := range []int{0, 1, 16, len(want) - 1} {
				if ok, err := s.engine.Verify(t.Context(), ref, alg, message, want[:cut]); err != nil || ok {
					t.Errorf("%s: a code cut to %d bytes: %t, %v", alg, cut, ok, err)
				}
			}
		}
	}
}

// Covers K7: signatures of P-256K have the lower s, and the higher one holds as well.
func (s *suite) lowS(t *testing.T) {
	order, _ := new(big.Int).SetString("fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141", 16)
	k := s.key("EC-HSM P-256K")
	for i := range 32 {
		digest := sha256.Sum256([]byte{byte(i)})
		signature, err := s.engine.Sign(t.Context(), k.ref, "ES256K", digest[:])
		if err != nil {
			t.Fatal(err)
		}
		low := new(big.Int).SetBytes(signature[32:])
		high := new(big.Int).Sub(order, low)
		if low.Cmp(high) > 0 {
			t.Error("the higher s was given out")
		}
		other := append(slices.Clone(signature[:32]), high.FillBytes(make([]byte, 32))...)
		if ok, err := s.engine.Verify(t.Context(), k.ref, "ES256K", digest[:], other); err != nil || !ok {
			t.Errorf("the higher s: %t, %v", ok, err)
		}
		beyond := new(big.Int).Add(low, order)
		if beyond.BitLen() <= 256 {
			wrong := append(slices.Clone(signature[:32]), beyond.FillBytes(make([]byte, 32))...)
			if ok, err := s.engine.Verify(t.Context(), k.ref, "ES256K", digest[:], wrong); err != nil || ok {
				t.Errorf("s beyond the order: %t, %v", ok, err)
			}
		}
	}
}

// A dropped key opens again, and drops of what is not there do no harm.
func (s *suite) dropped(t *testing.T) {
	for _, k := range s.keys {
		alg := k.signing()
		for range 2 {
			s.engine.Drop(k.ref)
			if _, err := s.engine.Sign(t.Context(), k.ref, alg.name, digestOf(alg.digest)); err != nil {
				t.Errorf("%s after Drop: %v", k.name, err)
			}
		}
	}
	s.engine.Drop(engine.Ref{})
}
