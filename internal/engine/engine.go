// Package engine is where cryptography with plaintext keys happens, and the only place. An engine is opened for
// one security domain: it holds the domain's wrapping key and backup key, makes and uses keys, and hands them
// out only encrypted. Package software is the implementation on this machine's processor.
//
// A key outside the engine is a [Ref]: ciphertext under the wrapping key, and the binding (the key's identity
// and immutable attributes) that was its associated data. A Ref whose ciphertext or binding was exchanged or
// edited does not open, and the engine says [ErrTampered].
package engine

import (
	"context"
	"errors"
	"math/big"

	"strongroom/secret"
)

// Type is a key type as stored: always the HSM form.
type Type string

// Key types and the sizes or curves they come in.
const (
	RSA Type = "RSA-HSM" // 2048, 3072 or 4096 bits
	EC  Type = "EC-HSM"  // P-256, P-256K, P-384 or P-521
	Oct Type = "oct-HSM" // AES and HMAC keys of 128, 192 or 256 bits
)

// Curves of EC keys, as JWK names them (RFC 7518 section 6.2.1.1; P-256K is Azure's name for secp256k1).
const (
	P256  = "P-256"
	P256K = "P-256K"
	P384  = "P-384"
	P521  = "P-521"
)

// Encryption algorithms, as JWA names them (RFC 7518 section 4.1).
const (
	RSAOAEP    = "RSA-OAEP"     // SHA-1, also in MGF1
	RSAOAEP256 = "RSA-OAEP-256" // SHA-256, also in MGF1
	// RSA15 is ErrAlgorithm unless the engine was opened with a setting that allows it. Its padding makes an oracle:
	// whoever learns which ciphertexts decrypt, and every caller who may decrypt does, can decrypt and sign by asking
	// often enough (Bleichenbacher 1998; RFC 8017 section 7.2).
	RSA15 = "RSA1_5"
)

// AES algorithms. The number is the size of the key in bits; CKM_AES_KEY_WRAP and its padded form, named as PKCS #11
// names them, go with every size.
const (
	A128GCM = "A128GCM" // NIST SP 800-38D with an IV of 96 bits, made by the engine, and a tag of 128 bits
	A192GCM = "A192GCM"
	A256GCM = "A256GCM"

	A128CBC = "A128CBC" // NIST SP 800-38A without padding, with an IV of the caller. No integrity
	A192CBC = "A192CBC"
	A256CBC = "A256CBC"

	A128CBCPAD = "A128CBCPAD" // the same with the padding of PKCS #7 (RFC 5652 section 6.3). No integrity
	A192CBCPAD = "A192CBCPAD"
	A256CBCPAD = "A256CBCPAD"

	A128KW = "A128KW" // RFC 3394
	A192KW = "A192KW"
	A256KW = "A256KW"

	AESKeyWrap    = "CKM_AES_KEY_WRAP"     // RFC 3394
	AESKeyWrapPad = "CKM_AES_KEY_WRAP_PAD" // RFC 5649
)

// Ways in which Release wraps a key for a recipient, as Azure names them: RSA-OAEP of a fresh AES-256 key, and the target
// wrapped with that key by RFC 5649. They differ in OAEP's hash, which is MGF1's too.
const (
	RSAAESKeyWrap    = "CKM_RSA_AES_KEY_WRAP" // SHA-1 (PKCS #11 3.0 section 2.1.21)
	RSAAESKeyWrap256 = "RSA_AES_KEY_WRAP_256" // SHA-256
	RSAAESKeyWrap384 = "RSA_AES_KEY_WRAP_384" // SHA-384
)

// Sizes that the AES algorithms fix, in bytes.
const (
	GCMIVSize  = 12
	GCMTagSize = 16
	CBCIVSize  = 16
)

// MaxPlaintext is the longest plaintext in bytes that alg encrypts with an RSA key of the given size in bits
// (RFC 8017 section 7.1.1); below 0 where even the empty one does not fit, or alg does not encrypt.
func MaxPlaintext(alg string, bits int) int {
	switch k := (bits + 7) / 8; alg {
	case RSAOAEP:
		return k - 2*20 - 2
	case RSAOAEP256:
		return k - 2*32 - 2
	case RSA15:
		return k - 11 // RFC 8017 section 7.2.1
	}
	return -1
}

// Spec says which key to make.
type Spec struct {
	Type     Type
	Bits     int    // RSA: 2048, 3072 or 4096; oct: 128, 192 or 256
	Exponent int    // RSA: odd, 65537 … 2³¹−1; 0 means 65537 for Generate, and any for Import
	Curve    string // EC
}

// Public is the public part of a key.
type Public struct {
	Type  Type
	N     *big.Int // RSA
	E     int      // RSA
	Curve string   // EC
	X, Y  *big.Int // EC
	Bits  int      // oct, which has no public part: its size is all that can be told
}

// Spec describes the key that p is the public part of.
func (p Public) Spec() Spec {
	switch p.Type {
	case RSA:
		return Spec{Type: RSA, Bits: p.N.BitLen(), Exponent: p.E}
	case EC:
		return Spec{Type: EC, Curve: p.Curve}
	}
	return Spec{Type: p.Type, Bits: p.Bits}
}

// Material is a key in the clear, on its way into an engine. Numbers are unsigned and big-endian; leading zeros may
// be there or left out, up to one byte more than the number can have. There is no place for a third prime (oth of
// RFC 7518 section 6.3.2.7): refuse such a key before.
type Material struct {
	Type Type

	N, E       []byte       // RSA
	P, Q       secret.Bytes // RSA, required
	DP, DQ, QI secret.Bytes // RSA, each may be left out
	Curve      string       // EC
	X, Y       []byte       // EC
	D          secret.Bytes // RSA and EC
	K          secret.Bytes // oct
}

// Wipe clears the secrets of m.
func (m Material) Wipe() {
	for _, s := range []secret.Bytes{m.D, m.P, m.Q, m.DP, m.DQ, m.QI, m.K} {
		s.Wipe()
	}
}

// Ciphertext is what an AES algorithm makes of a plaintext.
type Ciphertext struct {
	Value []byte
	IV    []byte // GCM and CBC
	Tag   []byte // GCM
}

// Ref is a key outside the engine.
type Ref struct {
	Type    Type
	Curve   string // EC
	Bits    int    // RSA and oct
	Sealed  []byte // ciphertext under the domain's wrapping key
	Binding []byte // associated data: identity and immutable attributes
}

// Made is a new key.
type Made struct {
	Public Public
	Sealed []byte
}

var (
	// ErrTampered says that a sealed key does not open under its binding.
	ErrTampered = errors.New("engine: the key record was changed or moved")
	// ErrSpec says that no such key can be made.
	ErrSpec = errors.New("engine: unsupported key type, size or curve")
	// ErrAlgorithm says that the algorithm does not fit the key or the operation.
	ErrAlgorithm = errors.New("engine: the algorithm does not fit the key")
	// ErrDigest says that the digest has the wrong length for the algorithm.
	ErrDigest = errors.New("engine: wrong digest length")
	// ErrPlaintext says that the plaintext is longer than MaxPlaintext.
	ErrPlaintext = errors.New("engine: the plaintext is too long for the key")
	// ErrMaterial says that key material from outside is not a sound key: its parts contradict each other, or it is of
	// a kind that is known to be weak. Its text says which check failed and holds nothing of the key.
	ErrMaterial = errors.New("engine: the key material is not sound")
	// ErrRecipient says that a key is not one that another key may be released to.
	ErrRecipient = errors.New("engine: the recipient's key cannot receive keys")
	// ErrDecrypt says that a ciphertext does not decrypt. It never says, or wraps, why.
	ErrDecrypt = errors.New("engine: the ciphertext does not decrypt")
	// ErrClosed is the answer after Close.
	ErrClosed = errors.New("engine: closed")
)

// ParameterError says that a value has a form or length that the algorithm does not take, or is there although the
// algorithm has no such thing. It depends on public lengths only, never on whether something decrypts.
type ParameterError struct {
	Name string // value, iv, aad or tag, as the API calls it
	Rule string // "must have 16 bytes, not 12"
}

func (e *ParameterError) Error() string { return "engine: " + e.Name + " " + e.Rule }

// Sizes of values that callers make or keep, in bytes.
const (
	SaltSize = 32 // Export, Import, SealBackup, OpenBackup
	MACSize  = 32
)

// Engine uses keys of one security domain. Safe for concurrent use.
type Engine interface {
	// Generate makes a key and seals it under binding.
	Generate(ctx context.Context, spec Spec, binding []byte) (Made, error)
	// ImportKey checks a key from outside and seals it under binding. It owns material and wipes it, also on error.
	// ErrSpec for a type, size or curve that the engine does not have, ErrMaterial for a key that is not sound: an RSA
	// key needs n = p·q with two primes of half its size that are far apart, d·e ≡ 1, right CRT values where they are
	// given, an odd e ≥ 65537, and must not come from the generator of CVE-2017-15361 (ROCA); an EC key needs
	// 1 ≤ d < n and its own point, which is on the curve.
	ImportKey(ctx context.Context, material Material, binding []byte) (Made, error)
	// ImportWrapped takes a key that was wrapped outside for kek, an RSA key of this engine (CKM_RSA_AES_KEY_WRAP of
	// PKCS #11 3.0 section 2.1.21): RSA-OAEP with SHA-1 of an AES key, then the target wrapped with that key by
	// RFC 5649; the target is PKCS #8 for RSA and EC, and the bare bytes for oct. spec says which key it has to be;
	// Bits and Exponent 0 take any. bind gets what the key turned out to be and returns its binding, because an
	// immutable attribute such as the size is only known then. ErrDecrypt itself if the blob does not open, whatever is
	// wrong with it; from there on as ImportKey, and ErrSpec if it is another key than spec says. That kek may
	// receive keys and do nothing else (threat K3) is the caller's to check.
	ImportWrapped(ctx context.Context, kek Ref, blob []byte, spec Spec, bind func(Spec) []byte) (Made, error)
	// Sign signs a digest. alg is a JWA name (RS256 … ES512, ES256K, HS256 … HS512); the digest must be as long as the
	// algorithm's hash. RSA signatures are PKCS #1 (RFC 8017), PSS with a salt as long as the hash; ECDSA
	// signatures are r ‖ s of fixed length (RFC 7518 section 3.4), those of P-256K with the lower of the two possible
	// s. For HS*, what is called the digest is the message of the HMAC (RFC 2104), taken as it is and of any length:
	// a client that hashes first, as the SDKs do, gets the HMAC of its digest.
	Sign(ctx context.Context, ref Ref, alg string, digest []byte) ([]byte, error)
	// Verify reports whether the signature holds. A malformed signature is false, not an error.
	Verify(ctx context.Context, ref Ref, alg string, digest, signature []byte) (bool, error)
	// Encrypt encrypts under the public part of an RSA key: RSA-OAEP (RFC 8017 section 7.1.1) without a label, and
	// with one hash for both of its uses, or where it is allowed RSA1_5. The ciphertext is as long as the modulus.
	// ErrAlgorithm for every other algorithm and for keys of other types (oct: see EncryptAES), ErrPlaintext beyond
	// MaxPlaintext; both before the key is opened. plaintext stays the caller's.
	Encrypt(ctx context.Context, ref Ref, alg string, plaintext secret.Bytes) ([]byte, error)
	// Decrypt is the way back. Whatever is wrong with the ciphertext (length, range, padding, hash), the answer is
	// ErrDecrypt itself, so that a caller who may decrypt learns nothing about ciphertexts that do not. The caller
	// wipes the plaintext, which may be a key.
	Decrypt(ctx context.Context, ref Ref, alg string, ciphertext []byte) (secret.Bytes, error)
	// EncryptAES encrypts or wraps with an oct key, whose size must be the algorithm's: ErrAlgorithm otherwise. A GCM
	// IV is made here, of random bits; one from the caller is refused. CBC needs an IV of CBCIVSize bytes that the
	// caller draws at random for every plaintext; the value of A*CBC is one or more whole blocks of 16 bytes, that of
	// the key wraps RFC 3394 a multiple of 8 and at least 16 bytes, that of RFC 5649 at least one. Only GCM takes aad.
	// A *ParameterError otherwise, before the key is opened.
	EncryptAES(ctx context.Context, ref Ref, alg string, plaintext secret.Bytes, iv, aad []byte) (Ciphertext, error)
	// DecryptAES is the way back. IV, tag and value of a length that no ciphertext of the algorithm has are a
	// *ParameterError; whatever else is wrong (tag, padding, integrity check), the answer is ErrDecrypt itself. CBC has
	// no integrity: what it returns may be anything, and whoever may decrypt with A*CBCPAD has a padding oracle in
	// hand, which only an authentication code around the ciphertext takes away. The caller wipes the plaintext.
	DecryptAES(ctx context.Context, ref Ref, alg string, ciphertext Ciphertext, aad []byte) (secret.Bytes, error)
	// Rebind seals a key anew under another binding, for an attribute that becomes immutable late. The old sealed form
	// goes on opening under the old binding: it is the caller's to forget it, and to call Drop.
	Rebind(ctx context.Context, ref Ref, binding []byte) (sealed []byte, err error)
	// Release wraps a key for a recipient outside the engine, who has the private part of to: an RSA key of 2048, 3072 or
	// 4096 bits with an odd exponent of at least 65537. wrapping is one of the three above: ErrAlgorithm for all others.
	// What is wrapped is PKCS #8 for RSA and EC keys, and the bare bytes for oct; ImportWrapped takes it back where to is
	// a key of an engine. ErrRecipient for a key that is none of these, has small factors or comes from the generator of
	// CVE-2017-15361 (ROCA). This is the one way in which a key leaves in a form that the domain does not hold the key to (threat K1): that the
	// key is exportable, and that its release policy allows this recipient, is the caller's to check before.
	Release(ctx context.Context, ref Ref, wrapping string, to Public) ([]byte, error)
	// Drop forgets what the engine keeps in memory of the opened key, as soon as calls that use it have ended. Call it
	// when a key is disabled, deleted, purged or replaced. It does not make ref unusable: that is the caller's part.
	Drop(ref Ref)
	// Export re-encrypts a key under a key derived from the domain's backup key and salt (SaltSize random
	// bytes, new for every backup), bound to binding. Import is the way back: it checks that the key is sound
	// and of the given spec, and seals it under the new binding. ErrTampered if it does not open, ErrSpec if it
	// is another key than spec says.
	Export(ctx context.Context, ref Ref, salt, binding []byte) ([]byte, error)
	Import(ctx context.Context, exported, salt, exportBinding []byte, spec Spec, binding []byte) (Made, error)
	// SealBackup encrypts a whole backup under a key derived from the backup key and salt, bound to header.
	SealBackup(ctx context.Context, salt, header, plaintext []byte) ([]byte, error)
	// OpenBackup is the way back; ErrTampered if it does not open.
	OpenBackup(ctx context.Context, salt, header, sealed []byte) ([]byte, error)
	// MAC returns an authentication code of MACSize bytes over message, under a key that follows from the
	// domain's wrapping key and serves nothing else. Records that are not secret but must not be edited carry
	// one; compare codes in constant time. Whatever separates one use from another belongs into message.
	MAC(ctx context.Context, message []byte) ([]byte, error)
	// Close wipes the domain keys. Later calls answer ErrClosed.
	Close()
}
