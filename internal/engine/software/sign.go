package software

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	_ "crypto/sha256" // registers SHA-256 for crypto.Hash
	_ "crypto/sha512" // registers SHA-384 and SHA-512
	"fmt"
	"math/big"

	"strongroom/internal/engine"
)

// algorithm is one signature algorithm of RFC 7518 section 3.1.
type algorithm struct {
	hash  crypto.Hash
	pss   bool   // RSA: PSS, else PKCS #1 v1.5
	curve string // EC: the one curve it goes with; "" means RSA
}

var algorithms = map[string]algorithm{
	"RS256": {hash: crypto.SHA256},
	"RS384": {hash: crypto.SHA384},
	"RS512": {hash: crypto.SHA512},
	"PS256": {hash: crypto.SHA256, pss: true},
	"PS384": {hash: crypto.SHA384, pss: true},
	"PS512": {hash: crypto.SHA512, pss: true},
	"ES256": {hash: crypto.SHA256, curve: engine.P256},
	"ES384": {hash: crypto.SHA384, curve: engine.P384},
	"ES512": {hash: crypto.SHA512, curve: engine.P521},
}

// find returns the algorithm called name, if it goes with such a key and the digest has its length. The name
// came from outside and is not echoed.
func find(name string, t engine.Type, curve string, digest []byte) (algorithm, error) {
	alg, ok := algorithms[name]
	if !ok {
		return alg, fmt.Errorf("%w: no such signature algorithm", engine.ErrAlgorithm)
	}
	want := engine.RSA
	if alg.curve != "" {
		want = engine.EC
	}
	if t != want || curve != alg.curve {
		return alg, fmt.Errorf("%w: %s is not for %s keys", engine.ErrAlgorithm, name, describe(t, curve))
	}
	if len(digest) != alg.hash.Size() {
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
	key, err := s.open(ref)
	if err != nil {
		return nil, err
	}
	defer key.wipe()
	signature, err := s.sign(key, alg, digest)
	if err != nil {
		return nil, fmt.Errorf("software engine: sign: %w", err)
	}
	return signature, nil
}

func (s *software) sign(key private, alg algorithm, digest []byte) ([]byte, error) {
	switch {
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
	if _, err := find(name, ref.Type, ref.Curve, digest); err != nil {
		return false, err
	}
	// A Ref carries no public key, and one that was stored beside it would not be bound to it: the key that is
	// asked is the sealed one.
	key, err := s.open(ref)
	if err != nil {
		return false, err
	}
	defer key.wipe()
	public, err := key.public()
	if err != nil {
		return false, err
	}
	return VerifyPublic(public, name, digest, signature)
}

// VerifyPublic reports whether the signature holds under a public key, by the rules of engine.Engine's Verify.
// RSA keys must have 2048, 3072 or 4096 bits and EC points must be on their curve, or it answers ErrSpec.
func VerifyPublic(public engine.Public, name string, digest, signature []byte) (bool, error) {
	alg, err := find(name, public.Type, public.Curve, digest)
	if err != nil {
		return false, err
	}
	if alg.curve == "" {
		return verifyRSA(public, alg, digest, signature)
	}
	return verifyEC(public, alg, digest, signature)
}

func verifyRSA(public engine.Public, alg algorithm, digest, signature []byte) (bool, error) {
	if public.N == nil || public.E < 3 {
		return false, fmt.Errorf("%w: incomplete RSA public key", engine.ErrSpec)
	}
	if bits := public.N.BitLen(); bits != 2048 && bits != 3072 && bits != 4096 {
		return false, fmt.Errorf("%w: an RSA key has 2048, 3072 or 4096 bits, not %d", engine.ErrSpec, bits)
	}
	key := &rsa.PublicKey{N: public.N, E: public.E}
	if len(signature) != key.Size() {
		return false, nil
	}
	if alg.pss {
		return rsa.VerifyPSS(key, alg.hash, digest, signature, alg.pssOptions()) == nil, nil
	}
	return rsa.VerifyPKCS1v15(key, alg.hash, digest, signature) == nil, nil
}

func verifyEC(public engine.Public, alg algorithm, digest, signature []byte) (bool, error) {
	curve := curves[alg.curve]
	bits := curve.Params().BitSize
	size := coordinate(bits)
	if public.X == nil || public.Y == nil || public.X.Sign() < 0 || public.Y.Sign() < 0 || public.X.BitLen() > bits || public.Y.BitLen() > bits {
		return false, fmt.Errorf("%w: incomplete EC public key", engine.ErrSpec)
	}
	point := make([]byte, 1+2*size)
	point[0] = 4 // uncompressed
	public.X.FillBytes(point[1 : 1+size])
	public.Y.FillBytes(point[1+size:])
	key, err := ecdsa.ParseUncompressedPublicKey(curve, point)
	if err != nil {
		return false, fmt.Errorf("%w: the EC point is not on %s", engine.ErrSpec, alg.curve)
	}
	// crypto/ecdsa takes integers and would not see leading zeros too many or too few: the length is ours.
	if len(signature) != 2*size {
		return false, nil
	}
	r := new(big.Int).SetBytes(signature[:size])
	t := new(big.Int).SetBytes(signature[size:])
	return ecdsa.Verify(key, digest, r, t), nil
}

// coordinate is the length in bytes of a field element, and of r and s.
func coordinate(bits int) int { return (bits + 7) / 8 }
