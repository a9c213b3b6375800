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
	RSA15      = "RSA1_5"       // known by name only: always ErrAlgorithm
)

// MaxPlaintext is the longest plaintext in bytes that alg encrypts with an RSA key of the given size in bits
// (RFC 8017 section 7.1.1); below 0 where even the empty one does not fit, or alg does not encrypt.
func MaxPlaintext(alg string, bits int) int {
	switch k := (bits + 7) / 8; alg {
	case RSAOAEP:
		return k - 2*20 - 2
	case RSAOAEP256:
		return k - 2*32 - 2
	}
	return -1
}

// Spec says which key to make.
type Spec struct {
	Type     Type
	Bits     int    // RSA: 2048, 3072 or 4096
	Exponent int    // RSA: odd, ≥ 65537; 0 means 65537
	Curve    string // EC
}

// Public is the public part of a key.
type Public struct {
	Type  Type
	N     *big.Int // RSA
	E     int      // RSA
	Curve string   // EC
	X, Y  *big.Int // EC
}

// Ref is a key outside the engine.
type Ref struct {
	Type    Type
	Curve   string // EC
	Bits    int    // RSA
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
	// ErrDecrypt says that a ciphertext does not decrypt. It never says, or wraps, why.
	ErrDecrypt = errors.New("engine: the ciphertext does not decrypt")
	// ErrClosed is the answer after Close.
	ErrClosed = errors.New("engine: closed")
)

// Sizes of values that callers make or keep, in bytes.
const (
	SaltSize = 32 // Export, Import, SealBackup, OpenBackup
	MACSize  = 32
)

// Engine uses keys of one security domain. Safe for concurrent use.
type Engine interface {
	// Generate makes a key and seals it under binding.
	Generate(ctx context.Context, spec Spec, binding []byte) (Made, error)
	// Sign signs a digest. alg is a JWA name (RS256 … ES512, ES256K); the digest must be as long as the
	// algorithm's hash. RSA signatures are PKCS #1 (RFC 8017), PSS with a salt as long as the hash; ECDSA
	// signatures are r ‖ s of fixed length (RFC 7518 section 3.4).
	Sign(ctx context.Context, ref Ref, alg string, digest []byte) ([]byte, error)
	// Verify reports whether the signature holds. A malformed signature is false, not an error.
	Verify(ctx context.Context, ref Ref, alg string, digest, signature []byte) (bool, error)
	// Encrypt encrypts under the public part of an RSA key: RSA-OAEP (RFC 8017 section 7.1.1) without a label, and
	// with one hash for both of its uses. The ciphertext is as long as the modulus. ErrAlgorithm for every other
	// algorithm and for EC keys, ErrPlaintext beyond MaxPlaintext; both before the key is opened. plaintext stays
	// the caller's.
	Encrypt(ctx context.Context, ref Ref, alg string, plaintext secret.Bytes) ([]byte, error)
	// Decrypt is the way back. Whatever is wrong with the ciphertext (length, range, padding, hash), the answer is
	// ErrDecrypt itself, so that a caller who may decrypt learns nothing about ciphertexts that do not. The caller
	// wipes the plaintext, which may be a key.
	Decrypt(ctx context.Context, ref Ref, alg string, ciphertext []byte) (secret.Bytes, error)
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
