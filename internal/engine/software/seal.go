package software

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"fmt"
	"io"

	"strongroom/internal/engine"
	"strongroom/secret"
)

// The forms in which bytes leave the engine (docs: formats). All are AES-256-GCM with a random 96-bit nonce
// under a key of their own, derived with HKDF-SHA-256 from a domain key, a random salt and a label:
//
//	sealed key     version(1) ‖ salt(32) ‖ nonce(12) ‖ ciphertext ‖ tag(16)    from the wrapping key
//	exported key   version(1) ‖ nonce(12) ‖ ciphertext ‖ tag(16)               from the backup key
//	backup         version(1) ‖ nonce(12) ‖ ciphertext ‖ tag(16)               from the backup key
//
// The plaintext of a key is PKCS #8 in DER, or for an oct key a zero byte and the key (DER begins with 0x30). The associated data is label ‖ 0 ‖ version ‖ the caller's binding.
// A key derived per record makes the bound on random nonces (2³² messages under one key, SP 800-38D section
// 8.3) irrelevant: a record's key encrypts one message, a backup's at most some hundred.
const (
	formVersion = 1

	labelKey    = "strongroom/engine/key/v1"
	labelExport = "strongroom/engine/export/v1"
	labelBackup = "strongroom/engine/backup/v1"
	labelMAC    = "strongroom/engine/record-mac/v1"

	gcmOverhead = 12 + 16 // nonce and tag

	// maxSealed bounds a sealed or exported key before anything is derived: an RSA-4096 key is about 2,400 bytes.
	maxSealed = 8 << 10
	// maxBackup bounds a whole backup: far above what package keys allows itself.
	maxBackup = 64 << 20
)

// sealKey encrypts the private key in plaintext, and wipes plaintext.
func (s *software) sealKey(plaintext secret.Bytes, binding []byte) ([]byte, error) {
	defer plaintext.Wipe()
	salt := make([]byte, engine.SaltSize)
	if _, err := io.ReadFull(s.rand, salt); err != nil {
		return nil, fmt.Errorf("software engine: read randomness: %w", err)
	}
	key, err := s.wrappingKey(salt)
	if err != nil {
		return nil, err
	}
	defer key.Wipe()
	return encrypt(key, append([]byte{formVersion}, salt...), plaintext.Reveal(), labelKey, binding)
}

// openKey decrypts what sealKey made. Every damage is ErrTampered, without a hint which.
func (s *software) openKey(sealed, binding []byte) (secret.Bytes, error) {
	const body = 1 + engine.SaltSize
	if len(sealed) < body+gcmOverhead || len(sealed) > maxSealed || sealed[0] != formVersion {
		return secret.Bytes{}, engine.ErrTampered
	}
	key, err := s.wrappingKey(sealed[1:body])
	if err != nil {
		return secret.Bytes{}, err
	}
	defer key.Wipe()
	plain, err := decrypt(key, sealed[body:], labelKey, binding)
	if err != nil {
		return secret.Bytes{}, err
	}
	return secret.Take(plain), nil
}

func (s *software) Rebind(ctx context.Context, ref engine.Ref, binding []byte) ([]byte, error) {
	if err := s.check(ctx); err != nil {
		return nil, err
	}
	e, err := s.use(ctx, ref, false) // parsed, and not only decrypted: see Export
	if err != nil {
		return nil, err
	}
	defer s.cache.release(e)
	plain, err := e.key.marshal()
	if err != nil {
		return nil, err
	}
	return s.sealKey(plain, binding)
}

func (s *software) Export(ctx context.Context, ref engine.Ref, salt, binding []byte) ([]byte, error) {
	if err := s.check(ctx); err != nil {
		return nil, err
	}
	// Opening the key, and not only its ciphertext, keeps a record that lies about its type out of backups.
	plain, err := s.plainOf(ctx, ref)
	if err != nil {
		return nil, err
	}
	defer plain.Wipe()
	export, err := s.backupKey(salt, labelExport)
	if err != nil {
		return nil, err
	}
	defer export.Wipe()
	return encrypt(export, []byte{formVersion}, plain.Reveal(), labelExport, binding)
}

func (s *software) Import(ctx context.Context, exported, salt, exportBinding []byte, spec engine.Spec, binding []byte) (engine.Made, error) {
	if err := s.check(ctx); err != nil {
		return engine.Made{}, err
	}
	want, err := checkSpec(spec)
	if err != nil {
		return engine.Made{}, err
	}
	if len(exported) < 1+gcmOverhead || len(exported) > maxSealed || exported[0] != formVersion {
		return engine.Made{}, engine.ErrTampered
	}
	export, err := s.backupKey(salt, labelExport)
	if err != nil {
		return engine.Made{}, err
	}
	defer export.Wipe()
	der, err := decrypt(export, exported[1:], labelExport, exportBinding)
	if err != nil {
		return engine.Made{}, err
	}
	plain := secret.Take(der)
	defer plain.Wipe()
	if want.Type == engine.RSA {
		leave, err := s.lanes.enter(ctx)
		if err != nil {
			return engine.Made{}, err
		}
		defer leave()
	}
	key, err := parse(plain)
	if err != nil {
		return engine.Made{}, err
	}
	defer key.wipe()
	if !want.describes(key.spec()) {
		return engine.Made{}, fmt.Errorf("%w: the exported key is another one than its description says", engine.ErrSpec)
	}
	public, err := key.public()
	if err != nil {
		return engine.Made{}, err
	}
	if key.ec != nil && !endsWithPoint(plain.Reveal(), public) {
		return engine.Made{}, engine.ErrTampered // parseOwn will believe it
	}
	sealed, err := s.sealKey(plain, binding) // as it came: this domain's engine wrote it
	if err != nil {
		return engine.Made{}, err
	}
	return engine.Made{Public: public, Sealed: sealed}, nil
}

func (s *software) SealBackup(ctx context.Context, salt, header, plaintext []byte) ([]byte, error) {
	if err := s.check(ctx); err != nil {
		return nil, err
	}
	key, err := s.backupKey(salt, labelBackup)
	if err != nil {
		return nil, err
	}
	defer key.Wipe()
	return encrypt(key, []byte{formVersion}, plaintext, labelBackup, header)
}

func (s *software) OpenBackup(ctx context.Context, salt, header, sealed []byte) ([]byte, error) {
	if err := s.check(ctx); err != nil {
		return nil, err
	}
	if len(sealed) < 1+gcmOverhead || len(sealed) > maxBackup || sealed[0] != formVersion {
		return nil, engine.ErrTampered
	}
	key, err := s.backupKey(salt, labelBackup)
	if err != nil {
		return nil, err
	}
	defer key.Wipe()
	return decrypt(key, sealed[1:], labelBackup, header)
}

// encrypt appends nonce, ciphertext and tag to prefix.
func encrypt(key secret.Bytes, prefix, plaintext []byte, label string, binding []byte) ([]byte, error) {
	aead, err := aesGCM(key)
	if err != nil {
		return nil, err
	}
	out := make([]byte, len(prefix), len(prefix)+len(plaintext)+aead.Overhead())
	copy(out, prefix)
	return aead.Seal(out, nil, plaintext, associated(label, binding)), nil
}

// decrypt is the way back; ErrTampered whatever was wrong.
func decrypt(key secret.Bytes, sealed []byte, label string, binding []byte) ([]byte, error) {
	aead, err := aesGCM(key)
	if err != nil {
		return nil, err
	}
	plain, err := aead.Open(nil, nil, sealed, associated(label, binding))
	if err != nil {
		return nil, engine.ErrTampered
	}
	return plain, nil
}

func aesGCM(key secret.Bytes) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key.Reveal())
	if err != nil {
		return nil, fmt.Errorf("software engine: %w", err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, fmt.Errorf("software engine: %w", err)
	}
	return aead, nil
}

// associated is the associated data. The label has a fixed set of values and holds no zero byte, so no two
// pairs of label and binding give the same bytes.
func associated(label string, binding []byte) []byte {
	ad := make([]byte, 0, len(label)+2+len(binding))
	ad = append(ad, label...)
	ad = append(ad, 0, formVersion)
	return append(ad, binding...)
}
