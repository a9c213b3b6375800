package keys

import (
	"context"
	"errors"

	"strongroom/internal/access"
	"strongroom/internal/engine"
	"strongroom/internal/failure"
	"strongroom/secret"
)

// EncryptResult is a ciphertext and the key that made it.
type EncryptResult struct {
	Name, Version string
	Ciphertext    []byte
}

// DecryptResult is a plaintext, which the caller wipes, and the key that opened it.
type DecryptResult struct {
	Name, Version string
	Plaintext     secret.Bytes
}

// Encrypt encrypts with a version of an RSA key; version "" is the latest. alg is RSA-OAEP or RSA-OAEP-256, and
// bounds the plaintext: see [engine.MaxPlaintext]. The key must be enabled, inside nbf and exp, and have the
// operation encrypt. plaintext stays the caller's.
func (k *Keys) Encrypt(ctx context.Context, caller access.Caller, name, version, alg string, plaintext secret.Bytes) (EncryptResult, error) {
	return k.encrypt(ctx, caller, encrypting, name, version, alg, plaintext)
}

// WrapKey is Encrypt for a plaintext that is a key: same algorithms, another action and the operation wrapKey.
func (k *Keys) WrapKey(ctx context.Context, caller access.Caller, name, version, alg string, plaintext secret.Bytes) (EncryptResult, error) {
	return k.encrypt(ctx, caller, wrapping, name, version, alg, plaintext)
}

// Decrypt is the way back from Encrypt. The key must be enabled and have the operation decrypt; nbf and exp do not
// matter. All ciphertexts that do not decrypt get the same failure.BadParameter, word for word (K6).
func (k *Keys) Decrypt(ctx context.Context, caller access.Caller, name, version, alg string, ciphertext []byte) (DecryptResult, error) {
	return k.decrypt(ctx, caller, decrypting, name, version, alg, ciphertext)
}

// UnwrapKey is the way back from WrapKey, by the rules of Decrypt, with the operation unwrapKey.
func (k *Keys) UnwrapKey(ctx context.Context, caller access.Caller, name, version, alg string, ciphertext []byte) (DecryptResult, error) {
	return k.decrypt(ctx, caller, unwrapping, name, version, alg, ciphertext)
}

func (k *Keys) encrypt(ctx context.Context, caller access.Caller, o operation, name, version, alg string, plaintext secret.Bytes) (EncryptResult, error) {
	u, err := k.use(ctx, caller, o, name, version)
	if err != nil {
		return EncryptResult{}, err
	}
	ciphertext, err := u.eng.Encrypt(ctx, u.ref, alg, plaintext)
	if errors.Is(err, engine.ErrPlaintext) {
		return EncryptResult{}, failure.Wrap(failure.BadParameter, err,
			"the value has %d bytes, and %s with a key of %d bits takes at most %d; encrypt the data with a symmetric key, and that key with this one",
			plaintext.Len(), alg, u.ref.Bits, engine.MaxPlaintext(alg, u.ref.Bits))
	}
	if err != nil {
		return EncryptResult{}, u.cipherFailure(err, alg)
	}
	return EncryptResult{Name: u.name, Version: u.version, Ciphertext: ciphertext}, nil
}

func (k *Keys) decrypt(ctx context.Context, caller access.Caller, o operation, name, version, alg string, ciphertext []byte) (DecryptResult, error) {
	u, err := k.use(ctx, caller, o, name, version)
	if err != nil {
		return DecryptResult{}, err
	}
	plaintext, err := u.eng.Decrypt(ctx, u.ref, alg, ciphertext)
	if errors.Is(err, engine.ErrDecrypt) {
		return DecryptResult{}, failure.Wrap(failure.BadParameter, err,
			"the value does not decrypt with %s; send it unchanged, with the alg that made it, to the version that its kid named", describe(u.name, u.version))
	}
	if err != nil {
		return DecryptResult{}, u.cipherFailure(err, alg)
	}
	return DecryptResult{Name: u.name, Version: u.version, Plaintext: plaintext}, nil
}

// cipherFailure is engineFailure for algorithms that do not fit. alg came from outside and is not repeated,
// unless it is known.
func (u use) cipherFailure(err error, alg string) error {
	switch {
	case !errors.Is(err, engine.ErrAlgorithm):
		return engineFailure(err, describe(u.name, u.version))
	case alg == engine.RSA15:
		return failure.Wrap(failure.Unsupported, err, "this server does not encrypt or decrypt with RSA1_5, whose padding lets attackers decrypt by asking; use RSA-OAEP-256")
	}
	return failure.Wrap(failure.BadParameter, err, "alg does not fit key %s, which is %s; use RSA-OAEP-256 or RSA-OAEP", u.name, u.ref.Type)
}
