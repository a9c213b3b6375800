// Package software is the engine on this machine's processor: keys are made and used with crypto/rsa and
// crypto/ecdsa and the rest of the standard library, and leave only as ciphertext. Files: key.go (make and open
// keys), ownform.go (the short way to read one), material.go and byok.go (keys from outside), release.go (keys to outside), p256k.go, sign.go, cipher.go (RSA encryption), aes.go and
// keywrap.go, seal.go (the forms in which bytes leave), cache.go (opened keys), lanes.go (heavy work).
//
// It has RSA keys of 2048, 3072 and 4096 bits with any sound exponent, EC keys on P-256, P-384, P-521 and P-256K,
// and oct keys.
//
// Opened keys are kept for a while, because opening an RSA key costs as much as a signature: see [Cache]. Buffers
// that this package owns are cleared when a key goes; the copies inside crypto/rsa and crypto/ecdsa are left to
// the garbage collector, which is as far as Go lets anyone go.
package software

import (
	"context"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"strongroom/internal/engine"
	"strongroom/secret"
)

// keySize is the length of a domain's wrapping key and backup key (AES-256).
const keySize = 32

// software is the engine.Engine of this package.
type software struct {
	rand  io.Reader
	cache *cache
	lanes lanes
	rsa15 bool // see AllowRSA15

	mu       sync.RWMutex // guards the three keys against Close; never held during a slow operation
	wrapping secret.Bytes
	backup   secret.Bytes
	mac      secret.Bytes // derived from wrapping once, because every record that is read needs it
	closed   bool
}

// Option changes a default of [New].
type Option func(*software)

// Cache bounds what the engine keeps of opened keys: at most so many (1,000 if the option is not given; 0 turns the
// cache off), each for at most age after it was opened (10 minutes).
func Cache(keys int, age time.Duration) Option {
	return func(s *software) { s.cache = newCache(max(0, keys), max(0, age)) }
}

// AllowRSA15 makes Encrypt and Decrypt take RSA1_5 too: see [engine.RSA15] for why it is off unless somebody asks.
func AllowRSA15() Option { return func(s *software) { s.rsa15 = true } }

// New opens the engine of one security domain. It owns the two 32-byte secrets from here on, also when it
// fails: Close wipes them. rand must be safe for concurrent use, as crypto/rand.Reader is; crypto/rsa,
// crypto/ecdsa and crypto/cipher take their own randomness from the system whatever is passed (Go 1.26).
func New(wrapping, backup secret.Bytes, rand io.Reader, options ...Option) (engine.Engine, error) {
	s := &software{rand: rand, wrapping: wrapping, backup: backup, cache: newCache(defaultCacheKeys, defaultCacheAge), lanes: newLanes()}
	for _, option := range options {
		option(s)
	}
	if wrapping.Len() != keySize || backup.Len() != keySize {
		s.Close()
		return nil, fmt.Errorf("software engine: the wrapping key has %d bytes and the backup key %d; both must have %d", wrapping.Len(), backup.Len(), keySize)
	}
	if rand == nil {
		s.Close()
		return nil, errors.New("software engine: no source of randomness was given")
	}
	mac, err := derive(wrapping, nil, labelMAC)
	if err != nil {
		s.Close()
		return nil, err
	}
	s.mac = mac
	return s, nil
}

// Close wipes the domain keys and the cache. Calls that already hold a private key finish and wipe it; later ones
// answer ErrClosed.
func (s *software) Close() {
	s.cache.close()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.wrapping.Wipe()
	s.backup.Wipe()
	s.mac.Wipe()
}

func (s *software) MAC(ctx context.Context, message []byte) ([]byte, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if err := s.usable(ctx); err != nil {
		return nil, err
	}
	h := hmac.New(sha256.New, s.mac.Reveal())
	h.Write(message)
	return h.Sum(nil), nil
}

// usable says why no new work may start. s.mu must be held.
func (s *software) usable(ctx context.Context) error {
	if s.closed {
		return engine.ErrClosed
	}
	return ctx.Err()
}

// check is usable for callers that do not hold the lock.
func (s *software) check(ctx context.Context) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.usable(ctx)
}

// wrappingKey derives the key of one sealed record from the wrapping key and the record's salt.
func (s *software) wrappingKey(salt []byte) (secret.Bytes, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return secret.Bytes{}, engine.ErrClosed
	}
	return derive(s.wrapping, salt, labelKey)
}

// backupKey derives the key of one backup and one purpose from the backup key and the backup's salt.
func (s *software) backupKey(salt []byte, label string) (secret.Bytes, error) {
	if len(salt) != engine.SaltSize {
		return secret.Bytes{}, fmt.Errorf("software engine: a backup salt has %d bytes, not %d", engine.SaltSize, len(salt))
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return secret.Bytes{}, engine.ErrClosed
	}
	return derive(s.backup, salt, label)
}

// derive is HKDF-SHA-256 (RFC 5869) with a label that names the only use of the derived key.
func derive(from secret.Bytes, salt []byte, label string) (secret.Bytes, error) {
	key, err := hkdf.Key(sha256.New, from.Reveal(), salt, label, keySize)
	if err != nil {
		return secret.Bytes{}, fmt.Errorf("software engine: derive a key: %w", err)
	}
	return secret.Take(key), nil
}
