package software

import (
	"context"
	"crypto/aes"
	"crypto/rsa"
	"crypto/sha1"
	"fmt"

	"strongroom/internal/engine"
	"strongroom/secret"
)

// maxWrapped bounds a transfer blob, in bytes: the ciphertext of an RSA-4096 key and a wrapped RSA-4096 key are some
// 2,900.
const maxWrapped = 8 << 10

func (s *software) ImportWrapped(ctx context.Context, kek engine.Ref, blob []byte, spec engine.Spec, bind func(engine.Spec) []byte) (engine.Made, error) {
	if err := s.check(ctx); err != nil {
		return engine.Made{}, err
	}
	if kek.Type != engine.RSA {
		return engine.Made{}, fmt.Errorf("%w: only RSA keys receive wrapped keys", engine.ErrAlgorithm)
	}
	want, err := wantedKind(spec)
	if err != nil {
		return engine.Made{}, err
	}
	leave, err := s.lanes.enter(ctx) // for the primality test too
	if err != nil {
		return engine.Made{}, err
	}
	defer leave()
	e, err := s.use(ctx, kek, true)
	if err != nil {
		return engine.Made{}, err
	}
	defer s.cache.release(e)
	target, err := s.unwrapTarget(e.key.rsa, blob)
	if err != nil {
		return engine.Made{}, err
	}
	defer target.Wipe()
	key, err := fromTarget(spec.Type, target)
	if err != nil {
		return engine.Made{}, err
	}
	defer key.wipe()
	got := key.spec()
	if want.Bits == 0 {
		want.Bits = got.Bits
	}
	if !want.describes(got) {
		return engine.Made{}, fmt.Errorf("%w: the wrapped key is another one than its description says", engine.ErrSpec)
	}
	return s.made(key, bind(got))
}

// wantedKind is checkSpec for a spec that may leave the size open.
func wantedKind(spec engine.Spec) (wanted, error) {
	filled := spec
	if spec.Bits == 0 {
		switch spec.Type {
		case engine.RSA:
			filled.Bits = 2048
		case engine.Oct:
			filled.Bits = 128
		}
	}
	if _, err := checkSpec(filled); err != nil {
		return wanted{}, err
	}
	return wanted(spec), nil
}

// unwrapTarget opens a blob of CKM_RSA_AES_KEY_WRAP. Whether the RSA part or the AES part is wrong shows neither in
// the error nor in the work done: after a failed OAEP, a random AES key takes the place of the wrapped one.
func (s *software) unwrapTarget(kek *rsa.PrivateKey, blob []byte) (secret.Bytes, error) {
	size := kek.Size()
	wrapped := len(blob) - size
	if len(blob) > maxWrapped || wrapped < 2*semiblock || wrapped%semiblock != 0 {
		return secret.Bytes{}, engine.ErrDecrypt
	}
	decoy, err := secret.Random(s.rand, 32)
	if err != nil {
		return secret.Bytes{}, fmt.Errorf("software engine: %w", err)
	}
	defer decoy.Wipe()
	opened, failed := rsa.DecryptOAEP(sha1.New(), nil, kek, blob[:size], nil)
	key := secret.Take(opened)
	defer key.Wipe()
	if n := key.Len(); failed != nil || n != 16 && n != 24 && n != 32 {
		key, failed = decoy, engine.ErrDecrypt
	}
	block, err := aes.NewCipher(key.Reveal())
	if err != nil {
		return secret.Bytes{}, fmt.Errorf("software engine: %w", err)
	}
	target, err := unwrapPadded(block, blob[size:])
	if err != nil || failed != nil {
		clear(target)
		return secret.Bytes{}, engine.ErrDecrypt
	}
	return secret.Take(target), nil
}

// fromTarget reads a key in the clear that came wrapped, and checks it as ImportKey does.
func fromTarget(t engine.Type, target secret.Bytes) (private, error) {
	if t == engine.Oct {
		return fromMaterial(engine.Material{Type: t, K: target})
	}
	key, err := parsePKCS8(target.Reveal())
	if err != nil {
		return private{}, unsound("%v", errPKCS8)
	}
	if key.rsa != nil {
		err = checkRSA(key.rsa)
	} else {
		_, err = checkSpec(key.spec())
	}
	if err != nil {
		key.wipe()
		return private{}, err
	}
	return key, nil
}
