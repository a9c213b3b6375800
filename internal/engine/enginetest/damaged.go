package enginetest

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	_ "crypto/sha1"   // registers SHA-1 for crypto.Hash
	_ "crypto/sha256" // registers SHA-256
	"encoding/binary"
	"math/big"
	"slices"
	"testing"

	"strongroom/internal/engine"
)

// oaepHash are the hashes of the encryption algorithms.
var oaepHash = map[string]crypto.Hash{engine.RSAOAEP: crypto.SHA1, engine.RSAOAEP256: crypto.SHA256}

// forgery is an OAEP encoding (RFC 8017 section 7.1.1) that can be wrong in one place. The zero value is sound.
type forgery struct {
	first     byte   // Y: must be 0; Manger's attack tells the ciphertexts where it is not (CRYPTO 2001)
	label     string // must be empty
	padding   byte   // must be 0
	separator int    // added to the 1 between padding and message
	mgf       crypto.Hash
	nothing   bool // no separator and no message: zeros to the end
}

// encrypt returns the ciphertext of a forgery.
func (f forgery) encrypt(t testing.TB, public engine.Public, alg string, message []byte) []byte {
	t.Helper()
	hash, mgf := oaepHash[alg], f.mgf
	if mgf == 0 {
		mgf = hash
	}
	k := (public.N.BitLen() + 7) / 8
	em := make([]byte, k)
	seed, db := em[1:1+hash.Size()], em[1+hash.Size():]
	copy(seed, random(t, len(seed)))
	h := hash.New()
	h.Write([]byte(f.label))
	h.Sum(db[:0])
	if !f.nothing {
		at := len(db) - len(message)
		copy(db[at:], message)
		db[at-1] = byte(1 + f.separator)
		db[at-2] = f.padding
	}
	xorMGF1(db, mgf, seed)
	xorMGF1(seed, mgf, db)
	em[0] = f.first
	return raw(public, new(big.Int).SetBytes(em))
}

// xorMGF1 masks out with MGF1 of seed (RFC 8017 appendix B.2.1).
func xorMGF1(out []byte, hash crypto.Hash, seed []byte) {
	for i, counter := 0, uint32(0); i < len(out); counter++ {
		h := hash.New()
		h.Write(binary.BigEndian.AppendUint32(slices.Clone(seed), counter))
		for _, b := range h.Sum(nil) {
			if i < len(out) {
				out[i] ^= b
				i++
			}
		}
	}
}

// raw is RSA without padding.
func raw(public engine.Public, m *big.Int) []byte {
	c := new(big.Int).Exp(m, big.NewInt(int64(public.E)), public.N)
	return c.FillBytes(make([]byte, (public.N.BitLen()+7)/8))
}

// Damaged returns ciphertexts for an RSA key that do not decrypt with alg, by what is wrong with them: length,
// range, and each part of the padding.
func Damaged(t testing.TB, public engine.Public, alg string) map[string][]byte {
	t.Helper()
	k := (public.N.BitLen() + 7) / 8
	message := []byte("the content key")
	key := &rsa.PublicKey{N: public.N, E: public.E}
	number := func(n *big.Int) []byte { return n.FillBytes(make([]byte, k)) }
	good := forgery{}.encrypt(t, public, alg, message)
	zero := good // one whose first byte is 0, as one of 256 is
	for zero[0] != 0 {
		zero = forgery{}.encrypt(t, public, alg, message)
	}
	otherAlg, otherMGF := engine.RSAOAEP, crypto.SHA1
	if alg == engine.RSAOAEP {
		otherAlg, otherMGF = engine.RSAOAEP256, crypto.SHA256
	}
	//lint:ignore SA1019 the wrong padding is the point: the engine has to refuse it
	pkcs1, err := rsa.EncryptPKCS1v15(rand.Reader, key, message)
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	one := big.NewInt(1)
	return map[string][]byte{
		"nothing":                    {},
		"nil":                        nil,
		"one byte":                   {7},
		"cut by a byte":              good[:k-1],
		"without its first byte":     good[1:],
		"a zero too many before":     append([]byte{0}, good...),
		"a zero too many after":      append(slices.Clone(good), 0),
		"a leading zero left out":    zero[1:],
		"twice":                      append(slices.Clone(good), good...),
		"60,000 bytes":               make([]byte, 60_000),
		"the number 0":               make([]byte, k),
		"the number 1":               number(one),
		"the modulus less 1":         number(new(big.Int).Sub(public.N, one)),
		"the modulus":                number(public.N),
		"all ones":                   bytes.Repeat([]byte{0xff}, k),
		"first bit flipped":          flipped(good, 0),
		"middle bit flipped":         flipped(good, k/2),
		"last bit flipped":           flipped(good, k-1),
		"random":                     raw(public, new(big.Int).SetBytes(random(t, k-1))),
		"first byte of the padding":  forgery{first: 1}.encrypt(t, public, alg, message),
		"a label":                    forgery{label: "label"}.encrypt(t, public, alg, message),
		"padding not zero":           forgery{padding: 2}.encrypt(t, public, alg, message),
		"separator not one":          forgery{separator: 1}.encrypt(t, public, alg, message),
		"no separator":               forgery{nothing: true}.encrypt(t, public, alg, message),
		"another hash in MGF1":       forgery{mgf: otherMGF}.encrypt(t, public, alg, message),
		"made with another alg":      forgery{}.encrypt(t, public, otherAlg, message),
		"PKCS #1 v1.5":               pkcs1,
		"the message itself, padded": number(new(big.Int).SetBytes(message)),
		"for another key":            forgery{}.encrypt(t, engine.Public{Type: engine.RSA, N: stranger.N, E: stranger.E}, alg, message),
	}
}
