package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"

	"strongroom/secret"
)

// ErrClosed is the answer of a seal after Close.
var ErrClosed = errors.New("seal: closed")

// Sizes of what a seal wraps: domain items and exchange keys are a few kilobytes.
const (
	maxPlaintext = 1 << 20
	maxContext   = 1024
)

const (
	rootSize = 32
	idSize   = 16 // bytes; twice as many hex digits

	// Labels keep the uses of the root key apart; each names its format's version.
	labelID     = "strongroom/seal/id/v1"
	labelWrap   = "strongroom/seal/wrap/v1"
	labelRecord = "strongroom/seal/record/v1"

	// A sealed record is: magic 3 ‖ version 1 ‖ nonce 12 ‖ ciphertext ‖ tag 16.
	recordMagic   = "SRW"
	recordVersion = 1
	recordHead    = len(recordMagic) + 1
	recordMin     = recordHead + 12 + 16
)

// rootSeal is a seal whose root key is in memory, however it came there.
type rootSeal struct {
	id   string
	kind string

	mu     sync.RWMutex // Close against the others
	closed bool
	key    secret.Bytes // wrapping key, derived from the root key
}

var _ Seal = (*rootSeal)(nil)

// newRootSeal derives what is needed from root; the caller still owns root and should wipe it.
func newRootSeal(root secret.Bytes, kind string) (*rootSeal, error) {
	if root.Len() != rootSize {
		return nil, fmt.Errorf("%w: the root key has %d bytes, not %d", ErrMalformed, root.Len(), rootSize)
	}
	id, err := hkdf.Key(sha256.New, root.Reveal(), nil, labelID, idSize)
	if err != nil {
		return nil, err
	}
	key, err := hkdf.Key(sha256.New, root.Reveal(), nil, labelWrap, 32)
	if err != nil {
		return nil, err
	}
	return &rootSeal{id: hex.EncodeToString(id), kind: kind, key: secret.Take(key)}, nil
}

func (s *rootSeal) ID() string   { return s.id }
func (s *rootSeal) Kind() string { return s.kind }

// Wrap implements [Seal]: AES-256-GCM, associated data label ‖ 0 ‖ seal ID ‖ 0 ‖ context. Plaintexts up to 1 MiB,
// contexts up to 1024 bytes. Nonces are 96 random bits drawn by the standard library itself, so that no reader
// passed in by mistake can repeat one; NIST SP 800-38D section 8.3 allows 2³² records under one key.
func (s *rootSeal) Wrap(plaintext secret.Bytes, context string) ([]byte, error) {
	if plaintext.Len() > maxPlaintext {
		return nil, fmt.Errorf("seal: a secret of %d bytes is too large, the limit is %d", plaintext.Len(), maxPlaintext)
	}
	if len(context) > maxContext {
		return nil, fmt.Errorf("seal: a context of %d bytes is too long, the limit is %d", len(context), maxContext)
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return nil, ErrClosed
	}
	return sealBytes(s.key, plaintext, s.aad(context))
}

// Unwrap implements [Seal].
func (s *rootSeal) Unwrap(sealed []byte, context string) (secret.Bytes, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return secret.Bytes{}, ErrClosed
	}
	if len(sealed) > recordMin+maxPlaintext || len(context) > maxContext {
		return secret.Bytes{}, ErrUnwrap
	}
	return openBytes(s.key, sealed, s.aad(context))
}

// Close implements [Seal].
func (s *rootSeal) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.key.Wipe()
}

// aad is unambiguous: label and ID hold no zero byte, and the context comes last.
func (s *rootSeal) aad(context string) []byte {
	return []byte(labelRecord + "\x00" + s.id + "\x00" + context)
}

// sealBytes encrypts plaintext under a 32-byte key as a sealed record.
func sealBytes(key, plaintext secret.Bytes, aad []byte) ([]byte, error) {
	aead, err := newAEAD(key)
	if err != nil {
		return nil, err
	}
	out := append(make([]byte, 0, recordMin+plaintext.Len()), recordMagic...)
	out = append(out, recordVersion)
	return aead.Seal(out, nil, plaintext.Reveal(), aad), nil
}

// openBytes is the way back; every failure is ErrUnwrap.
func openBytes(key secret.Bytes, sealed, aad []byte) (secret.Bytes, error) {
	if len(sealed) < recordMin || string(sealed[:recordHead]) != recordMagic+string(rune(recordVersion)) {
		return secret.Bytes{}, ErrUnwrap
	}
	aead, err := newAEAD(key)
	if err != nil {
		return secret.Bytes{}, err
	}
	plaintext, err := aead.Open(nil, nil, sealed[recordHead:], aad)
	if err != nil {
		return secret.Bytes{}, ErrUnwrap
	}
	return secret.Take(plaintext), nil
}

func newAEAD(key secret.Bytes) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key.Reveal())
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}
