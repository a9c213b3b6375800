package software

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/hmac"
	"crypto/rsa"
	_ "crypto/sha256" // registers SHA-256 for crypto.Hash
	_ "crypto/sha512" // registers SHA-384 and SHA-512
	"fmt"
	"math/big"

	"github.com/decred/dcrd/dcrec/secp256k1/v4"

	"strongroom/internal/engine"
	"strongroom/secret"
)

// algorithm is one signature algorithm of RFC 7518 section 3.1.
type algorithm struct {
	key   engine.Type
	hash  crypto.Hash
	pss   bool   // RSA: PSS, else PKCS #1 v1.5
	curve string // EC: the one curve it goes with
}

var algorithms = map[string]algorithm{
	"RS256":  {key: engine.RSA, hash: crypto.SHA256},
	"RS384":  {key: engine.RSA, hash: crypto.SHA384},
	"RS512":  {key: engine.RSA, hash: crypto.SHA512},
	"PS256":  {key: engine.RSA, hash: crypto.SHA256, pss: true},
	"PS384":  {key: engine.RSA, hash: crypto.SHA384, pss: true},
	"PS512":  {key: engine.RSA, hash: crypto.SHA512, pss: true},
	"ES256":  {key: engine.EC, hash: crypto.SHA256, curve: engine.P256},
	"ES256K": {key: engine.EC, hash: crypto.SHA256, curve: engine.P256K}, // RFC 8812
	"ES384":  {key: engine.EC, hash: crypto.SHA384, curve: engine.P384},
	"ES512":  {key: engine.EC, hash: crypto.SHA512, curve: engine.P521},
	"HS256":  {key: engine.Oct, hash: crypto.SHA256},
	"HS384":  {key: engine.Oct, hash: crypto.SHA384},
	"HS512":  {key: engine.Oct, hash: crypto.SHA512},
}

// find returns the algorithm called name, if it goes with such a key and the digest has its length. The name
// came from outside and is not echoed.
func find(name string, t engine.Type, curve string, digest []byte) (algorithm, error) {
	alg, ok := algorithms[name]
	if !ok {
		return alg, fmt.Errorf("%w: no such signature algorithm", engine.ErrAlgorithm)
	}
	if t != alg.key || curve != alg.curve {
		return alg, fmt.Errorf("%w: %s is not for %s keys", engine.ErrAlgorithm, name, describe(t, curve))
	}
	if alg.key != engine.Oct && len(digest) != alg.hash.Size() {
		return alg, fmt.Errorf("%w: %s takes a digest of %d bytes, not %d", engine.ErrDigest, name, alg.hash.Size(), len(digest))
	}
	return alg, nil
}

func describe(t engine.Type, curve string) string {
	if curve == "" {
		return string(t)
	}
	return string(t) + " " + curve
}

// pssOptions asks for a salt as long as the hash. The zero SaltLength would accept any length on verification.
func (a algorithm) pssOptions() *rsa.PSSOptions {
	return &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: a.hash}
}

func (s *software) Sign(ctx context.Context, ref engine.Ref, name string, digest []byte) ([]byte, error) {
	if err := s.check(ctx); err != nil {
		return nil, err
	}
	alg, err := find(name, ref.Type, ref.Curve, digest)
	if err != nil {
		return nil, err
	}
	key, done, err := s.usePrivate(ctx, ref)
	if err != nil {
		return nil, err
	}
	defer done()
	signature, err := s.sign(key, alg, digest)
	if err != nil {
		return nil, fmt.Errorf("software engine: sign: %w", err)
	}
	return signature, nil
}

func (s *software) sign(key private, alg algorithm, digest []byte) ([]byte, error) {
	switch {
	case alg.key == engine.Oct:
		return code(key.oct, alg.hash, digest), nil
	case key.k1 != nil:
		return signP256K(key.k1.private, digest), nil
	case key.ec != nil:
		r, t, err := ecdsa.Sign(s.rand, key.ec, digest)
		if err != nil {
			return nil, err
		}
		size := coordinate(key.ec.Curve.Params().BitSize)
		signature := make([]byte, 2*size)
		r.FillBytes(signature[:size])
		t.FillBytes(signature[size:])
		return signature, nil
	case alg.pss:
		return rsa.SignPSS(s.rand, key.rsa, alg.hash, digest, alg.pssOptions())
	}
	return rsa.SignPKCS1v15(nil, key.rsa, alg.hash, digest)
}

func (s *software) Verify(ctx context.Context, ref engine.Ref, name string, digest, signature []byte) (bool, error) {
	if err := s.check(ctx); err != nil {
		return false, err
	}
	alg, err := find(name, ref.Type, ref.Curve, digest)
	if err != nil {
		return false, err
	}
	// A Ref carries no public key, and one that was stored beside it would not be bound to it: the key that is
	// asked is the sealed one.
	e, err := s.use(ctx, ref, false)
	if err != nil {
		return false, err
	}
	defer s.cache.release(e)
	switch key := e.key; {
	case alg.key == engine.Oct:
		// Of full length only: RFC 7518 section 3.2 has no truncated codes.
		return hmac.Equal(code(key.oct, alg.hash, digest), signature), nil
	case key.k1 != nil:
		return verifyP256K(key.k1.public, digest, signature), nil
	case key.ec != nil:
		return verifyECDSA(&key.ec.PublicKey, digest, signature), nil
	default:
		return verifyRSA(&key.rsa.PublicKey, alg, digest, signature), nil
	}
}

// code is the HMAC (RFC 2104) of message.
func code(key secret.Bytes, hash crypto.Hash, message []byte) []byte {
	h := hmac.New(hash.New, key.Reveal())
	h.Write(message)
	return h.Sum(nil)
}

// VerifyPublic reports whether the signature holds under a public key, by the rules of engine.Engine's Verify.
// RSA keys must have 2048, 3072 or 4096 bits and EC points must be on their curve, or it answers ErrSpec; oct keys
// have no public part, and it answers ErrAlgorithm.
func VerifyPublic(public engine.Public, name string, digest, signature []byte) (bool, error) {
	alg, err := find(name, public.Type, public.Curve, digest)
	if err != nil {
		return false, err
	}
	switch alg.key {
	case engine.RSA:
		key, err := publicRSA(public)
		if err != nil {
			return false, err
		}
		return verifyRSA(key, alg, digest, signature), nil
	case engine.EC:
		point, err := onCurve(public)
		if err != nil {
			return false, err
		}
		if public.Curve == engine.P256K {
			key, err := secp256k1.ParsePubKey(point)
			return err == nil && verifyP256K(key, digest, signature), err
		}
		key, err := ecdsa.ParseUncompressedPublicKey(curves[public.Curve], point)
		return err == nil && verifyECDSA(key, digest, signature), err
	}
	return false, fmt.Errorf("%w: %s has no public key", engine.ErrAlgorithm, name)
}

func publicRSA(public engine.Public) (*rsa.PublicKey, error) {
	if public.N == nil || public.E < 3 {
		return nil, fmt.Errorf("%w: incomplete RSA public key", engine.ErrSpec)
	}
	if bits := public.N.BitLen(); bits != 2048 && bits != 3072 && bits != 4096 {
		return nil, fmt.Errorf("%w: an RSA key has 2048, 3072 or 4096 bits, not %d", engine.ErrSpec, bits)
	}
	return &rsa.PublicKey{N: public.N, E: public.E}, nil
}

func verifyRSA(key *rsa.PublicKey, alg algorithm, digest, signature []byte) bool {
	if len(signature) != key.Size() {
		return false
	}
	if alg.pss {
		return rsa.VerifyPSS(key, alg.hash, digest, signature, alg.pssOptions()) == nil
	}
	return rsa.VerifyPKCS1v15(key, alg.hash, digest, signature) == nil
}

// pointOf encodes the point of an EC key as 4 ‖ x ‖ y. It need not be on the curve.
func pointOf(public engine.Public) ([]byte, error) {
	bits := fieldBits(public.Curve)
	size := coordinate(bits)
	if public.X == nil || public.Y == nil || public.X.Sign() < 0 || public.Y.Sign() < 0 || public.X.BitLen() > bits || public.Y.BitLen() > bits {
		return nil, fmt.Errorf("%w: incomplete EC public key", engine.ErrSpec)
	}
	point := make([]byte, 1+2*size)
	point[0] = 4 // uncompressed
	public.X.FillBytes(point[1 : 1+size])
	public.Y.FillBytes(point[1+size:])
	return point, nil
}

// onCurve is pointOf for a point that must be on the curve.
func onCurve(public engine.Public) ([]byte, error) {
	point, err := pointOf(public)
	if err != nil {
		return nil, err
	}
	if public.Curve == engine.P256K {
		_, err = secp256k1.ParsePubKey(point)
	} else {
		_, err = ecdsa.ParseUncompressedPublicKey(curves[public.Curve], point)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: the EC point is not on %s", engine.ErrSpec, public.Curve)
	}
	return point, nil
}

func verifyECDSA(key *ecdsa.PublicKey, digest, signature []byte) bool {
	// crypto/ecdsa takes integers and would not see leading zeros too many or too few: the length is ours.
	size := coordinate(key.Curve.Params().BitSize)
	if len(signature) != 2*size {
		return false
	}
	r := new(big.Int).SetBytes(signature[:size])
	t := new(big.Int).SetBytes(signature[size:])
	return ecdsa.Verify(key, digest, r, t)
}

// fieldBits is the size of the field of a curve that this engine has.
func fieldBits(curve string) int {
	if c := curves[curve]; c != nil {
		return c.Params().BitSize
	}
	return 256 // P-256K
}

// coordinate is the length in bytes of a field element, and of r and s.
func coordinate(bits int) int { return (bits + 7) / 8 }
