package software

import (
	"context"
	"crypto"
	"crypto/rsa"
	_ "crypto/sha1" // registers SHA-1 for crypto.Hash
	"fmt"

	"strongroom/internal/engine"
	"strongroom/secret"
)

// oaep has the hash of each OAEP algorithm, which is also MGF1's. SHA-1 is sound here, where nothing rests on
// collisions, and clients of Managed HSM still ask for it.
var oaep = map[string]crypto.Hash{
	engine.RSAOAEP:    crypto.SHA1,
	engine.RSAOAEP256: crypto.SHA256,
}

// findCipher returns the hash of the RSA algorithm called name, or 0 for RSA1_5, if it goes with keys of type t. An
// unknown name came from outside and is not echoed.
func (s *software) findCipher(name string, t engine.Type) (crypto.Hash, error) {
	if t != engine.RSA {
		return 0, fmt.Errorf("%w: only RSA keys encrypt and decrypt with it", engine.ErrAlgorithm)
	}
	if name == engine.RSA15 {
		if !s.rsa15 {
			return 0, fmt.Errorf("%w: RSA1_5 is refused, as its padding makes a decryption oracle", engine.ErrAlgorithm)
		}
		return 0, nil
	}
	hash, ok := oaep[name]
	if !ok {
		return 0, fmt.Errorf("%w: no such encryption algorithm", engine.ErrAlgorithm)
	}
	return hash, nil
}

func (s *software) Encrypt(ctx context.Context, ref engine.Ref, name string, plaintext secret.Bytes) ([]byte, error) {
	if err := s.check(ctx); err != nil {
		return nil, err
	}
	hash, err := s.findCipher(name, ref.Type)
	if err != nil {
		return nil, err
	}
	// ref.Bits is a claim until the key is opened; a wrong one ends below as ErrTampered, or here.
	if longest := engine.MaxPlaintext(name, ref.Bits); plaintext.Len() > longest {
		return nil, fmt.Errorf("%w: %d bytes, and %s with %d bits takes %d", engine.ErrPlaintext, plaintext.Len(), name, ref.Bits, longest)
	}
	e, err := s.use(ctx, ref, false) // not a public key that was stored beside it: see Verify
	if err != nil {
		return nil, err
	}
	defer s.cache.release(e)
	var ciphertext []byte
	if hash == 0 {
		ciphertext, err = rsa.EncryptPKCS1v15(s.rand, &e.key.rsa.PublicKey, plaintext.Reveal()) //lint:ignore SA1019 RSA1_5 is asked for by name, and off unless a setting allows it
	} else {
		ciphertext, err = rsa.EncryptOAEP(hash.New(), s.rand, &e.key.rsa.PublicKey, plaintext.Reveal(), nil)
	}
	if err != nil {
		return nil, fmt.Errorf("software engine: encrypt: %w", err)
	}
	return ciphertext, nil
}

func (s *software) Decrypt(ctx context.Context, ref engine.Ref, name string, ciphertext []byte) (secret.Bytes, error) {
	if err := s.check(ctx); err != nil {
		return secret.Bytes{}, err
	}
	hash, err := s.findCipher(name, ref.Type)
	if err != nil {
		return secret.Bytes{}, err
	}
	key, done, err := s.usePrivate(ctx, ref)
	if err != nil {
		return secret.Bytes{}, err
	}
	defer done()
	// crypto/rsa also takes a ciphertext whose leading zeros were left out; the standard does not (RFC 8017
	// section 7.1.2, step 1b). Its own errors do not get out: one of them could tell a length from a padding.
	if len(ciphertext) != key.rsa.Size() {
		return secret.Bytes{}, engine.ErrDecrypt
	}
	var plaintext []byte
	if hash == 0 {
		// crypto/rsa looks at the padding in constant time up to its answer, yes or no.
		plaintext, err = rsa.DecryptPKCS1v15(nil, key.rsa, ciphertext) //lint:ignore SA1019 see above
	} else {
		plaintext, err = rsa.DecryptOAEP(hash.New(), nil, key.rsa, ciphertext, nil)
	}
	if err != nil {
		return secret.Bytes{}, engine.ErrDecrypt
	}
	return secret.Take(plaintext), nil
}
