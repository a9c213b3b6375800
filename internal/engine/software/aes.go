package software

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/subtle"
	"fmt"

	"strongroom/internal/engine"
	"strongroom/secret"
)

// mode is what an AES algorithm does.
type mode int

const (
	gcm mode = iota + 1
	cbc
	cbcPadded
	keyWrap
	keyWrapPadded
)

// aesAlgorithm is a mode and the size of key it goes with.
type aesAlgorithm struct {
	mode mode
	bits int // 0: any
}

var aesAlgorithms = map[string]aesAlgorithm{
	engine.A128GCM: {gcm, 128}, engine.A192GCM: {gcm, 192}, engine.A256GCM: {gcm, 256},
	engine.A128CBC: {cbc, 128}, engine.A192CBC: {cbc, 192}, engine.A256CBC: {cbc, 256},
	engine.A128CBCPAD: {cbcPadded, 128}, engine.A192CBCPAD: {cbcPadded, 192}, engine.A256CBCPAD: {cbcPadded, 256},
	engine.A128KW: {keyWrap, 128}, engine.A192KW: {keyWrap, 192}, engine.A256KW: {keyWrap, 256},
	engine.AESKeyWrap: {keyWrap, 0}, engine.AESKeyWrapPad: {keyWrapPadded, 0},
}

// findAES returns the mode of the algorithm called name, if it goes with the key. The name came from outside and
// is not echoed.
func findAES(name string, ref engine.Ref) (mode, error) {
	if ref.Type != engine.Oct {
		return 0, fmt.Errorf("%w: only oct keys encrypt with AES", engine.ErrAlgorithm)
	}
	alg, ok := aesAlgorithms[name]
	if !ok {
		return 0, fmt.Errorf("%w: no such AES algorithm", engine.ErrAlgorithm)
	}
	if alg.bits != 0 && alg.bits != ref.Bits {
		return 0, fmt.Errorf("%w: %s needs a key of %d bits, and this one has %d", engine.ErrAlgorithm, name, alg.bits, ref.Bits)
	}
	return alg.mode, nil
}

func refused(name, rule string, args ...any) error {
	return &engine.ParameterError{Name: name, Rule: fmt.Sprintf(rule, args...)}
}

// checkExtras refuses what a mode has no use for, because a caller who sends it believes that it protects something.
func (m mode) checkExtras(iv, tag, aad []byte) error {
	switch {
	case m != gcm && len(aad) > 0:
		return refused("aad", "is only for GCM")
	case m != gcm && len(tag) > 0:
		return refused("tag", "is only for GCM")
	case (m == keyWrap || m == keyWrapPadded) && len(iv) > 0:
		return refused("iv", "is fixed for key wrap; leave it out")
	case (m == cbc || m == cbcPadded) && len(iv) != engine.CBCIVSize:
		return refused("iv", "must have %d bytes, drawn at random for every value, not %d", engine.CBCIVSize, len(iv))
	}
	return nil
}

func (s *software) EncryptAES(ctx context.Context, ref engine.Ref, name string, plaintext secret.Bytes, iv, aad []byte) (engine.Ciphertext, error) {
	if err := s.check(ctx); err != nil {
		return engine.Ciphertext{}, err
	}
	m, err := findAES(name, ref)
	if err != nil {
		return engine.Ciphertext{}, err
	}
	if err := m.checkExtras(iv, nil, aad); err != nil {
		return engine.Ciphertext{}, err
	}
	switch size := plaintext.Len(); {
	case m == gcm && len(iv) > 0:
		return engine.Ciphertext{}, refused("iv", "of GCM is made by the HSM, as one that came twice would betray the key; leave it out")
	case m == cbc && (size == 0 || size%aes.BlockSize != 0):
		return engine.Ciphertext{}, refused("value", "must have a multiple of 16 bytes, not %d; A*CBCPAD takes any length", size)
	case m == keyWrap && (size < 2*semiblock || size%semiblock != 0):
		return engine.Ciphertext{}, refused("value", "must have a multiple of 8 bytes and at least 16, not %d; CKM_AES_KEY_WRAP_PAD takes any length", size)
	case m == keyWrapPadded && size == 0:
		return engine.Ciphertext{}, refused("value", "must have at least one byte")
	}
	e, err := s.use(ctx, ref, false)
	if err != nil {
		return engine.Ciphertext{}, err
	}
	defer s.cache.release(e)
	block, err := aes.NewCipher(e.key.oct.Reveal())
	if err != nil {
		return engine.Ciphertext{}, fmt.Errorf("software engine: encrypt: %w", err)
	}
	return m.encrypt(block, plaintext.Reveal(), iv, aad)
}

func (m mode) encrypt(block cipher.Block, plain, iv, aad []byte) (engine.Ciphertext, error) {
	switch m {
	case gcm:
		// The package draws the nonce itself, from the system, and puts it in front.
		aead, err := cipher.NewGCMWithRandomNonce(block)
		if err != nil {
			return engine.Ciphertext{}, fmt.Errorf("software engine: encrypt: %w", err)
		}
		out := aead.Seal(nil, nil, plain, aad)
		tag := len(out) - engine.GCMTagSize
		return engine.Ciphertext{IV: out[:engine.GCMIVSize:engine.GCMIVSize], Value: out[engine.GCMIVSize:tag:tag], Tag: out[tag:]}, nil
	case cbc, cbcPadded:
		out := make([]byte, len(plain), len(plain)+aes.BlockSize)
		copy(out, plain)
		if m == cbcPadded {
			n := aes.BlockSize - len(plain)%aes.BlockSize
			out = append(out, bytes.Repeat([]byte{byte(n)}, n)...)
		}
		cipher.NewCBCEncrypter(block, iv).CryptBlocks(out, out)
		return engine.Ciphertext{IV: bytes.Clone(iv), Value: out}, nil
	case keyWrap:
		return engine.Ciphertext{Value: wrapKey(block, plain)}, nil
	}
	return engine.Ciphertext{Value: wrapPadded(block, plain)}, nil
}

func (s *software) DecryptAES(ctx context.Context, ref engine.Ref, name string, c engine.Ciphertext, aad []byte) (secret.Bytes, error) {
	if err := s.check(ctx); err != nil {
		return secret.Bytes{}, err
	}
	m, err := findAES(name, ref)
	if err != nil {
		return secret.Bytes{}, err
	}
	if err := m.checkExtras(c.IV, c.Tag, aad); err != nil {
		return secret.Bytes{}, err
	}
	switch size := len(c.Value); {
	case m == gcm && len(c.IV) != engine.GCMIVSize:
		return secret.Bytes{}, refused("iv", "must be the %d bytes that encrypting answered, not %d", engine.GCMIVSize, len(c.IV))
	case m == gcm && len(c.Tag) != engine.GCMTagSize:
		return secret.Bytes{}, refused("tag", "must be the %d bytes that encrypting answered, not %d", engine.GCMTagSize, len(c.Tag))
	case (m == cbc || m == cbcPadded) && (size == 0 || size%aes.BlockSize != 0):
		return secret.Bytes{}, refused("value", "must have a multiple of 16 bytes, not %d", size)
	case m == keyWrap && (size < 3*semiblock || size%semiblock != 0):
		return secret.Bytes{}, refused("value", "must have a multiple of 8 bytes and at least 24, not %d", size)
	case m == keyWrapPadded && (size < 2*semiblock || size%semiblock != 0):
		return secret.Bytes{}, refused("value", "must have a multiple of 8 bytes and at least 16, not %d", size)
	}
	e, err := s.use(ctx, ref, false)
	if err != nil {
		return secret.Bytes{}, err
	}
	defer s.cache.release(e)
	block, err := aes.NewCipher(e.key.oct.Reveal())
	if err != nil {
		return secret.Bytes{}, fmt.Errorf("software engine: decrypt: %w", err)
	}
	plain, err := m.decrypt(block, c, aad)
	if err != nil {
		return secret.Bytes{}, err
	}
	return secret.Take(plain), nil
}

func (m mode) decrypt(block cipher.Block, c engine.Ciphertext, aad []byte) ([]byte, error) {
	switch m {
	case gcm:
		aead, err := cipher.NewGCM(block)
		if err != nil {
			return nil, fmt.Errorf("software engine: decrypt: %w", err)
		}
		sealed := make([]byte, 0, len(c.Value)+len(c.Tag))
		sealed = append(append(sealed, c.Value...), c.Tag...)
		plain, err := aead.Open(sealed[:0], c.IV, sealed, aad)
		if err != nil {
			return nil, engine.ErrDecrypt
		}
		return plain, nil
	case cbc, cbcPadded:
		plain := bytes.Clone(c.Value)
		cipher.NewCBCDecrypter(block, c.IV).CryptBlocks(plain, plain)
		if m == cbc {
			return plain, nil
		}
		return unpad(plain)
	case keyWrap:
		return unwrapKey(block, c.Value)
	}
	return unwrapPadded(block, c.Value)
}

// unpad takes off the padding of PKCS #7: n bytes of value n, 1 ≤ n ≤ 16. plain is one or more whole blocks; if
// the padding is wrong, plain is wiped. The work does not depend on what is wrong (Vaudenay 2002).
func unpad(plain []byte) ([]byte, error) {
	n := int(plain[len(plain)-1])
	good := subtle.ConstantTimeLessOrEq(1, n) & subtle.ConstantTimeLessOrEq(n, aes.BlockSize)
	for i := range aes.BlockSize {
		inside := subtle.ConstantTimeLessOrEq(i+1, n)
		same := subtle.ConstantTimeByteEq(plain[len(plain)-1-i], byte(n))
		good &= subtle.ConstantTimeSelect(inside, same, 1)
	}
	if good != 1 {
		clear(plain)
		return nil, engine.ErrDecrypt
	}
	return plain[:len(plain)-n], nil
}
