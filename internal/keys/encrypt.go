package keys

import (
	"context"
	"errors"

	"strongroom/internal/access"
	"strongroom/internal/engine"
	"strongroom/internal/failure"
	"strongroom/secret"
)

// Extras are what AES algorithms take and give besides the value: an IV of GCM and CBC, the authenticated data and the
// tag of GCM. RSA and key wrap have none of it.
type Extras struct{ IV, AAD, Tag []byte }

// EncryptResult is a ciphertext and the key that made it.
type EncryptResult struct {
	Name, Version string
	engine.Ciphertext
}

// DecryptResult is a plaintext, which the caller wipes, and the key that opened it.
type DecryptResult struct {
	Name, Version string
	Plaintext     secret.Bytes
}

// Encrypt encrypts with a version of an RSA or oct key; version "" is the latest. alg must fit the key's type and size,
// and says what the plaintext and x have to be: see [engine.Engine]. The IV of GCM is made here. The key must be
// enabled, inside nbf and exp, and have the operation encrypt. plaintext stays the caller's.
func (k *Keys) Encrypt(ctx context.Context, caller access.Caller, name, version, alg string, plaintext secret.Bytes, x Extras) (EncryptResult, error) {
	return k.encrypt(ctx, caller, encrypting, name, version, alg, plaintext, x)
}

// WrapKey is Encrypt for a plaintext that is a key: same algorithms, another action and the operation wrapKey.
func (k *Keys) WrapKey(ctx context.Context, caller access.Caller, name, version, alg string, plaintext secret.Bytes, x Extras) (EncryptResult, error) {
	return k.encrypt(ctx, caller, wrapping, name, version, alg, plaintext, x)
}

// Decrypt is the way back from Encrypt. The key must be enabled and have the operation decrypt; nbf and exp do not
// matter. All ciphertexts that do not decrypt get the same failure.BadParameter, word for word (K6).
func (k *Keys) Decrypt(ctx context.Context, caller access.Caller, name, version, alg string, ciphertext []byte, x Extras) (DecryptResult, error) {
	return k.decrypt(ctx, caller, decrypting, name, version, alg, ciphertext, x)
}

// UnwrapKey is the way back from WrapKey, by the rules of Decrypt, with the operation unwrapKey.
func (k *Keys) UnwrapKey(ctx context.Context, caller access.Caller, name, version, alg string, ciphertext []byte, x Extras) (DecryptResult, error) {
	return k.decrypt(ctx, caller, unwrapping, name, version, alg, ciphertext, x)
}

func (k *Keys) encrypt(ctx context.Context, caller access.Caller, o operation, name, version, alg string, plaintext secret.Bytes, x Extras) (EncryptResult, error) {
	u, err := k.use(ctx, caller, o, name, version)
	if err != nil {
		return EncryptResult{}, err
	}
	if len(x.Tag) > 0 {
		return EncryptResult{}, failure.New(failure.BadParameter, "tag is what encryption with GCM makes; leave it out")
	}
	r := EncryptResult{Name: u.name, Version: u.version}
	if u.ref.Type == engine.Oct {
		r.Ciphertext, err = u.eng.EncryptAES(ctx, u.ref, alg, plaintext, x.IV, x.AAD)
	} else if err = x.refuse(); err == nil {
		r.Ciphertext.Value, err = u.eng.Encrypt(ctx, u.ref, alg, plaintext)
	}
	if errors.Is(err, engine.ErrPlaintext) {
		return EncryptResult{}, failure.Wrap(failure.BadParameter, err,
			"the value has %d bytes, and %s with a key of %d bits takes at most %d; encrypt the data with a symmetric key, and that key with this one",
			plaintext.Len(), alg, u.ref.Bits, engine.MaxPlaintext(alg, u.ref.Bits))
	}
	if err != nil {
		return EncryptResult{}, u.cipherFailure(err, alg)
	}
	return r, nil
}

func (k *Keys) decrypt(ctx context.Context, caller access.Caller, o operation, name, version, alg string, ciphertext []byte, x Extras) (DecryptResult, error) {
	u, err := k.use(ctx, caller, o, name, version)
	if err != nil {
		return DecryptResult{}, err
	}
	r := DecryptResult{Name: u.name, Version: u.version}
	if u.ref.Type == engine.Oct {
		r.Plaintext, err = u.eng.DecryptAES(ctx, u.ref, alg, engine.Ciphertext{Value: ciphertext, IV: x.IV, Tag: x.Tag}, x.AAD)
	} else if err = x.refuse(); err == nil {
		r.Plaintext, err = u.eng.Decrypt(ctx, u.ref, alg, ciphertext)
	}
	if errors.Is(err, engine.ErrDecrypt) {
		return DecryptResult{}, failure.Wrap(failure.BadParameter, err,
			"the value does not decrypt with %s; send it unchanged, with the alg that made it, to the version that its kid named", describe(u.name, u.version))
	}
	if err != nil {
		return DecryptResult{}, u.cipherFailure(err, alg)
	}
	return r, nil
}

// refuse is the answer of algorithms that have no extras: whoever sends one believes that it protects something.
func (x Extras) refuse() error {
	for _, e := range []struct {
		name  string
		value []byte
	}{{"iv", x.IV}, {"aad", x.AAD}, {"tag", x.Tag}} {
		if len(e.value) > 0 {
			return failure.New(failure.BadParameter, "%s is for AES algorithms of oct keys; an RSA key takes alg and value alone", e.name)
		}
	}
	return nil
}

// fittingAES are the algorithms of an oct key, by its size.
var fittingAES = map[int]string{
	128: "A128GCM, A128CBC, A128CBCPAD, A128KW, CKM_AES_KEY_WRAP or CKM_AES_KEY_WRAP_PAD",
	192: "A192GCM, A192CBC, A192CBCPAD, A192KW, CKM_AES_KEY_WRAP or CKM_AES_KEY_WRAP_PAD",
	256: "A256GCM, A256CBC, A256CBCPAD, A256KW, CKM_AES_KEY_WRAP or CKM_AES_KEY_WRAP_PAD",
}

// cipherFailure is engineFailure for algorithms and parameters that do not fit. alg came from outside and is not
// repeated, unless it is known.
func (u use) cipherFailure(err error, alg string) error {
	if parameter, is := errors.AsType[*engine.ParameterError](err); is {
		return failure.Wrap(failure.BadParameter, err, "%s %s", parameter.Name, parameter.Rule)
	}
	switch {
	case !errors.Is(err, engine.ErrAlgorithm):
		return engineFailure(err, describe(u.name, u.version))
	case u.ref.Type == engine.Oct:
		return failure.Wrap(failure.BadParameter, err, "alg does not fit key %s, which is %s of %d bits; use %s", u.name, u.ref.Type, u.ref.Bits, fittingAES[u.ref.Bits])
	case alg == engine.RSA15:
		return failure.Wrap(failure.Unsupported, err, "this server does not encrypt or decrypt with RSA1_5, whose padding lets attackers decrypt by asking; use RSA-OAEP-256, or have its operator set allow_rsa1_5")
	}
	return failure.Wrap(failure.BadParameter, err, "alg does not fit key %s, which is %s; use RSA-OAEP-256 or RSA-OAEP", u.name, u.ref.Type)
}
