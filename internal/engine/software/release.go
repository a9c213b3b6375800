package software

import (
	"context"
	"crypto/aes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"fmt"
	"hash"
	"io"
	"math/big"

	"strongroom/internal/engine"
	"strongroom/secret"
)

// releaseHashes are the hashes of OAEP, by the way of wrapping.
var releaseHashes = map[string]func() hash.Hash{
	engine.RSAAESKeyWrap:    sha1.New,
	engine.RSAAESKeyWrap256: sha256.New,
	engine.RSAAESKeyWrap384: sha512.New384,
}

func (s *software) Release(ctx context.Context, ref engine.Ref, wrapping string, to engine.Public) ([]byte, error) {
	if err := s.check(ctx); err != nil {
		return nil, err
	}
	newHash := releaseHashes[wrapping]
	if newHash == nil {
		return nil, fmt.Errorf("%w: keys are released with CKM_RSA_AES_KEY_WRAP, RSA_AES_KEY_WRAP_256 or RSA_AES_KEY_WRAP_384", engine.ErrAlgorithm)
	}
	recipient, err := recipientOf(to)
	if err != nil {
		return nil, err
	}
	e, err := s.use(ctx, ref, false)
	if err != nil {
		return nil, err
	}
	defer s.cache.release(e)
	target, err := e.key.target()
	if err != nil {
		return nil, err
	}
	defer target.Wipe()
	return wrapFor(s.rand, recipient, newHash, target)
}

// wrapFor wraps a target for an RSA key: OAEP of a fresh AES-256 key, then the target, wrapped with that by RFC 5649.
func wrapFor(random io.Reader, recipient *rsa.PublicKey, newHash func() hash.Hash, target secret.Bytes) ([]byte, error) {
	key, err := secret.Random(random, keySize)
	if err != nil {
		return nil, fmt.Errorf("software engine: %w", err)
	}
	defer key.Wipe()
	block, err := aes.NewCipher(key.Reveal())
	if err != nil {
		return nil, fmt.Errorf("software engine: %w", err)
	}
	// crypto/rsa takes its randomness from the system whatever it is given; see New.
	forRecipient, err := rsa.EncryptOAEP(newHash(), rand.Reader, recipient, key.Reveal(), nil)
	if err != nil {
		return nil, fmt.Errorf("%w: crypto/rsa does not take it", engine.ErrRecipient)
	}
	return append(forRecipient, wrapPadded(block, target.Reveal())...), nil
}

// target is the key as it is wrapped for others: what fromTarget reads.
func (k private) target() (secret.Bytes, error) {
	if !k.oct.IsZero() {
		return k.oct.Clone(), nil
	}
	return k.marshal()
}

// oddPrimorial is the product of the primes from 3 to 751. A modulus of two large primes has no factor in common with it.
var oddPrimorial = func() *big.Int {
	product := big.NewInt(1)
	for n := int64(3); n <= 751; n += 2 {
		if candidate := big.NewInt(n); candidate.ProbablyPrime(0) { // exact for numbers below 2⁶⁴
			product.Mul(product, candidate)
		}
	}
	return product
}()

// recipientOf checks the public key that another key is to be wrapped for. Whoever factors it has the key, so what is
// known to be weak is refused although somebody has attested it.
func recipientOf(to engine.Public) (*rsa.PublicKey, error) {
	no := func(text string) (*rsa.PublicKey, error) {
		return nil, fmt.Errorf("%w: %s", engine.ErrRecipient, text)
	}
	if to.Type != engine.RSA || to.N == nil || to.N.Sign() <= 0 {
		return no("it is not an RSA key")
	}
	if bits := to.N.BitLen(); bits != 2048 && bits != 3072 && bits != 4096 {
		return no("an RSA key has 2048, 3072 or 4096 bits here")
	}
	if to.E < publicExponent || to.E%2 == 0 || to.E > maxExponent {
		return no(fmt.Sprintf("its exponent must be odd, at least %d and at most %d", publicExponent, maxExponent))
	}
	if to.N.Bit(0) == 0 || new(big.Int).GCD(nil, nil, to.N, oddPrimorial).BitLen() != 1 {
		return no("its modulus has small factors")
	}
	if roca(to.N) {
		return no("its modulus has the fingerprint of a generator whose keys can be factored (ROCA, CVE-2017-15361)")
	}
	return &rsa.PublicKey{N: new(big.Int).Set(to.N), E: to.E}, nil
}
