package enginetest

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"slices"
	"testing"

	"strongroom/internal/engine"
	"strongroom/secret"
)

// longest is the longest plaintext by key size, for RSA-OAEP and for RSA-OAEP-256.
var longest = map[int]map[string]int{
	2048: {engine.RSAOAEP: 214, engine.RSAOAEP256: 190},
	3072: {engine.RSAOAEP: 342, engine.RSAOAEP256: 318},
	4096: {engine.RSAOAEP: 470, engine.RSAOAEP256: 446},
}

// Every RSA key encrypts and decrypts plaintexts of every length from none to the longest, also what crypto/rsa
// encrypted with the public key alone, as clients do; no two ciphertexts are the same.
func (s *suite) encryptDecrypt(t *testing.T) {
	second := s.another(t)
	for _, k := range s.keys {
		for alg, most := range longest[k.spec.Bits] {
			t.Run(k.name+" "+alg, func(t *testing.T) {
				decrypts := func(e engine.Engine, ciphertext, want []byte) {
					t.Helper()
					got, err := e.Decrypt(t.Context(), k.ref, alg, ciphertext)
					if err != nil || !bytes.Equal(got.Reveal(), want) {
						t.Errorf("decrypts to %d bytes, %v; want the %d that were encrypted", got.Len(), err, len(want))
					}
				}
				if got := engine.MaxPlaintext(alg, k.spec.Bits); got != most {
					t.Errorf("MaxPlaintext says %d, want %d", got, most)
				}
				for _, size := range []int{0, 1, 16, 32, most - 1, most} {
					plain := random(t, size)
					given := secret.New(plain)
					ciphertext, err := s.engine.Encrypt(t.Context(), k.ref, alg, given)
					if err != nil || len(ciphertext) != k.spec.Bits/8 {
						t.Fatalf("%d bytes encrypt to %d, %v", size, len(ciphertext), err)
					}
					if !bytes.Equal(given.Reveal(), plain) {
						t.Error("encrypting changed the caller's plaintext")
					}
					sent := slices.Clone(ciphertext)
					decrypts(s.engine, ciphertext, plain)
					decrypts(second, ciphertext, plain) // another server of the domain
					if !bytes.Equal(sent, ciphertext) {
						t.Error("decrypting changed the caller's ciphertext")
					}
					again, err := s.engine.Encrypt(t.Context(), k.ref, alg, given)
					if err != nil || bytes.Equal(again, ciphertext) {
						t.Errorf("encrypted twice, the ciphertext is the same, or %v", err)
					}
				}
				decrypts(s.engine, forgery{}.encrypt(t, k.public, alg, []byte("made by hand")), []byte("made by hand"))
				key := &rsa.PublicKey{N: k.public.N, E: k.public.E}
				local, err := rsa.EncryptOAEP(oaepHash[alg].New(), rand.Reader, key, []byte("made outside"), nil)
				if err != nil {
					t.Fatal(err)
				}
				decrypts(s.engine, local, []byte("made outside"))

				for _, size := range []int{most + 1, most + 2, k.spec.Bits / 8, 1 << 20} {
					if c, err := s.engine.Encrypt(t.Context(), k.ref, alg, secret.Take(make([]byte, size))); !errors.Is(err, engine.ErrPlaintext) || c != nil {
						t.Errorf("%d bytes of plaintext: got %v, want %v", size, err, engine.ErrPlaintext)
					}
				}
			})
		}
	}
}

// Covers K6: whatever is wrong with a ciphertext, the answer is the same value, and nothing is wrapped in it.
func (s *suite) damagedCiphertexts(t *testing.T) {
	for _, k := range s.keys {
		for alg := range longest[k.spec.Bits] { // no oct key is as long
			for name, ciphertext := range Damaged(t, k.public, alg) {
				got, err := s.engine.Decrypt(t.Context(), k.ref, alg, ciphertext)
				if err != engine.ErrDecrypt || !got.IsZero() {
					t.Errorf("%s %s, %s: got %v and %d bytes, want %v itself", k.name, alg, name, err, got.Len(), engine.ErrDecrypt)
				}
			}
		}
	}
}

// Covers K2: the matrix of keys and algorithm names. RSA1_5 is a name like any other here.
func (s *suite) refusedEncryption(t *testing.T) {
	names := slices.Clone(foreign)
	for _, a := range algorithms {
		names = append(names, a.name)
	}
	names = append(names, allAES()...)
	names = append(names, engine.RSA15, "RSA-OAEP-384", "RSA-OAEP-512", "rsa-oaep", "RSA_OAEP", "RSA-OAEP-256 ", "A256KW", "ECDH-ES")
	for _, k := range s.keys {
		for _, name := range names {
			if k.spec.Type != engine.RSA || name != engine.RSAOAEP {
				s.refusesCipher(t, k.name+" with "+name, k.ref, name, engine.ErrAlgorithm)
			}
		}
		if k.spec.Type != engine.RSA {
			s.refusesCipher(t, k.name, k.ref, engine.RSAOAEP256, engine.ErrAlgorithm)
		}
	}
}

// Covers K4 for encryption and decryption: no edited or exchanged record is used.
func (s *suite) tamperedEncryption(t *testing.T) {
	rsaKey, ecKey := s.keys[0], s.keys[3]
	for i := 0; i < len(rsaKey.ref.Sealed); i += 7 {
		ref := rsaKey.ref
		ref.Sealed = flipped(ref.Sealed, i)
		s.refusesCipher(t, fmt.Sprintf("byte %d of the sealed key flipped", i), ref, engine.RSAOAEP256, engine.ErrTampered)
	}
	for name, change := range map[string]func(*engine.Ref){
		"sealed key cut":      func(r *engine.Ref) { r.Sealed = r.Sealed[:len(r.Sealed)-1] },
		"binding changed":     func(r *engine.Ref) { r.Binding = flipped(r.Binding, 0) },
		"another size":        func(r *engine.Ref) { r.Bits = 4096 },
		"a curve":             func(r *engine.Ref) { r.Curve = engine.P256 },
		"another key's":       func(r *engine.Ref) { r.Sealed = s.keys[1].ref.Sealed },
		"an EC key's, as RSA": func(r *engine.Ref) { r.Sealed, r.Binding = ecKey.ref.Sealed, ecKey.ref.Binding },
	} {
		ref := rsaKey.ref
		change(&ref)
		s.refusesCipher(t, name, ref, engine.RSAOAEP256, engine.ErrTampered)
	}
}

func (s *suite) refusesCipher(t *testing.T, what string, ref engine.Ref, alg string, want error) {
	t.Helper()
	if c, err := s.engine.Encrypt(t.Context(), ref, alg, secret.Take([]byte("plain"))); !errors.Is(err, want) || c != nil {
		t.Errorf("%s encrypts: got %v, want %v", what, err, want)
	}
	if p, err := s.engine.Decrypt(t.Context(), ref, alg, make([]byte, 256)); !errors.Is(err, want) || !p.IsZero() {
		t.Errorf("%s decrypts: got %v, want %v", what, err, want)
	}
}
