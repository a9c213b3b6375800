package custodian

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/pbkdf2"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"hash"
	"io"

	"golang.org/x/crypto/scrypt"

	"strongroom/secret"
)

// Encrypted PKCS #8 (RFC 5958 section 3) under PBES2 (RFC 8018 section 6.2, appendix A.4), with PBKDF2 (appendix
// A.2) or scrypt (RFC 7914 section 7) and AES-CBC with PKCS #7 padding.
//
//	EncryptedPrivateKeyInfo ::= SEQUENCE {
//	    encryptionAlgorithm  SEQUENCE { PBES2, SEQUENCE {
//	        keyDerivationFunc  SEQUENCE { PBKDF2 | scrypt, parameters },
//	        encryptionScheme   SEQUENCE { aesNNN-CBC, OCTET STRING iv } } },
//	    encryptedData        OCTET STRING }

var (
	oidPBES2   = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 13}
	oidPBES1   = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5}     // PBES1 lies below: .1 to .11
	oidPKCS12  = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 12, 1} // PKCS #12 PBE: RC4, RC2, DES
	oidPBKDF2  = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 12}
	oidScrypt  = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11591, 4, 11}
	oidDESCBC  = asn1.ObjectIdentifier{1, 3, 14, 3, 2, 7}
	oidDES3CBC = asn1.ObjectIdentifier{1, 2, 840, 113549, 3, 7}
	oidRC2CBC  = asn1.ObjectIdentifier{1, 2, 840, 113549, 3, 2}

	oidHMACSHA256 = asn1.ObjectIdentifier{1, 2, 840, 113549, 2, 9}
	oidAES256CBC  = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 42}
)

var prfs = []struct {
	oid asn1.ObjectIdentifier
	new func() hash.Hash
}{
	{asn1.ObjectIdentifier{1, 2, 840, 113549, 2, 7}, sha1.New}, // the DEFAULT, and what old OpenSSL wrote
	{oidHMACSHA256, sha256.New},
	{asn1.ObjectIdentifier{1, 2, 840, 113549, 2, 10}, sha512.New384},
	{asn1.ObjectIdentifier{1, 2, 840, 113549, 2, 11}, sha512.New},
}

var ciphers = []struct {
	oid     asn1.ObjectIdentifier
	keySize int
}{
	{asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 2}, 16},
	{asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 22}, 24},
	{oidAES256CBC, 32},
}

// What this package writes. 600,000 rounds: OWASP's password storage advice for PBKDF2-HMAC-SHA-256, 2023.
const (
	writeRounds = 600_000
	writeSalt   = 16
)

// What it reads. 1,000 rounds is RFC 8018's own minimum (section 4.2), OpenSSL writes 2,048 unless told; the upper
// bounds keep a file from holding a machine for minutes.
const (
	minRounds, maxRounds     = 1_000, 10_000_000
	minSalt, maxSalt         = 8, 128
	minScryptN               = 1 << 10
	maxScryptMemory          = 256 << 20 // bytes: 128·N·r
	maxScryptWork            = 1 << 30   // bytes mixed: 128·N·r·p
	maxScryptR               = 64
	scryptBlock              = 128
	ivSize               int = aes.BlockSize
)

type encryptedPrivateKeyInfo struct {
	Algorithm pkix.AlgorithmIdentifier
	Data      []byte
}

type pbes2Params struct {
	KDF    pkix.AlgorithmIdentifier
	Scheme pkix.AlgorithmIdentifier
}

type pbkdf2Params struct {
	Salt      []byte
	Rounds    int
	KeyLength int                      `asn1:"optional"`
	PRF       pkix.AlgorithmIdentifier `asn1:"optional"`
}

type scryptParams struct {
	Salt      []byte
	N, R, P   int
	KeyLength int `asn1:"optional"`
}

// pbes2 is a parsed and bounded encryption: nothing has been derived or decrypted yet.
type pbes2 struct {
	derive  func(passphrase []byte) ([]byte, error)
	iv      []byte
	data    []byte
	keySize int
}

// parsePBES2 reads an EncryptedPrivateKeyInfo and refuses, before any work, what is unknown, weak or costly.
func parsePBES2(der []byte) (*pbes2, error) {
	var info encryptedPrivateKeyInfo
	if err := unmarshal(der, &info); err != nil {
		return nil, ErrMalformed
	}
	alg := info.Algorithm.Algorithm
	switch {
	case alg.Equal(oidPBES2):
	case hasPrefix(alg, oidPBES1), hasPrefix(alg, oidPKCS12):
		return nil, ErrWeakEncryption
	default:
		return nil, ErrEncryption
	}
	var params pbes2Params
	if err := unmarshal(info.Algorithm.Parameters.FullBytes, &params); err != nil {
		return nil, ErrMalformed
	}
	box := &pbes2{data: info.Data}
	if err := box.scheme(params.Scheme); err != nil {
		return nil, err
	}
	if len(box.data) == 0 || len(box.data)%aes.BlockSize != 0 {
		return nil, ErrMalformed
	}
	switch kdf := params.KDF; {
	case kdf.Algorithm.Equal(oidPBKDF2):
		return box, box.pbkdf2(kdf.Parameters.FullBytes)
	case kdf.Algorithm.Equal(oidScrypt):
		return box, box.scrypt(kdf.Parameters.FullBytes)
	default:
		return nil, ErrEncryption
	}
}

func (b *pbes2) scheme(alg pkix.AlgorithmIdentifier) error {
	for _, weak := range []asn1.ObjectIdentifier{oidDESCBC, oidDES3CBC, oidRC2CBC} {
		if alg.Algorithm.Equal(weak) {
			return ErrWeakEncryption
		}
	}
	for _, c := range ciphers {
		if alg.Algorithm.Equal(c.oid) {
			b.keySize = c.keySize
		}
	}
	if b.keySize == 0 {
		return ErrEncryption
	}
	if err := unmarshal(alg.Parameters.FullBytes, &b.iv); err != nil || len(b.iv) != ivSize {
		return ErrMalformed
	}
	return nil
}

func (b *pbes2) pbkdf2(der []byte) error {
	var p pbkdf2Params
	if err := unmarshal(der, &p); err != nil {
		return ErrMalformed
	}
	if p.KeyLength != 0 && p.KeyLength != b.keySize {
		return ErrMalformed
	}
	newHash := sha1.New
	if len(p.PRF.Algorithm) > 0 {
		newHash = nil
		for _, prf := range prfs {
			if p.PRF.Algorithm.Equal(prf.oid) {
				newHash = prf.new
			}
		}
		if newHash == nil {
			return ErrEncryption
		}
	}
	switch {
	case len(p.Salt) < minSalt, p.Rounds < minRounds:
		return ErrWeakEncryption
	case len(p.Salt) > maxSalt, p.Rounds > maxRounds:
		return ErrCostlyEncryption
	}
	b.derive = func(passphrase []byte) ([]byte, error) {
		return pbkdf2.Key(newHash, string(passphrase), p.Salt, p.Rounds, b.keySize)
	}
	return nil
}

func (b *pbes2) scrypt(der []byte) error {
	var p scryptParams
	if err := unmarshal(der, &p); err != nil {
		return ErrMalformed
	}
	if p.KeyLength != 0 && p.KeyLength != b.keySize {
		return ErrMalformed
	}
	switch {
	case p.R < 1, p.P < 1, p.N < 2, p.N&(p.N-1) != 0:
		return ErrMalformed
	case len(p.Salt) < minSalt, p.N < minScryptN:
		return ErrWeakEncryption
	case len(p.Salt) > maxSalt, p.R > maxScryptR, p.N > maxScryptMemory/scryptBlock/p.R, p.P > maxScryptWork/scryptBlock/p.R/p.N:
		return ErrCostlyEncryption
	}
	b.derive = func(passphrase []byte) ([]byte, error) {
		return scrypt.Key(passphrase, p.Salt, p.N, p.R, p.P, b.keySize)
	}
	return nil
}

// open decrypts under passphrase and reports whether the padding held, which is a hint and no proof: CBC has no
// integrity. It runs on the owner's machine with the owner's file, so nobody can use the answer as an oracle.
func (b *pbes2) open(passphrase secret.Bytes) ([]byte, bool) {
	key, err := b.derive(passphrase.Reveal())
	if err != nil {
		return nil, false
	}
	defer clear(key)
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, false
	}
	plain := make([]byte, len(b.data))
	cipher.NewCBCDecrypter(block, b.iv).CryptBlocks(plain, b.data)
	n := len(plain)
	pad := int(plain[n-1])
	good := subtle.ConstantTimeLessOrEq(1, pad) & subtle.ConstantTimeLessOrEq(pad, aes.BlockSize)
	for i := 1; i <= aes.BlockSize; i++ {
		inPad := subtle.ConstantTimeLessOrEq(i, pad)
		same := subtle.ConstantTimeByteEq(plain[n-i], byte(pad))
		good &= subtle.ConstantTimeSelect(inPad, same, 1)
	}
	if good != 1 {
		clear(plain)
		return nil, false
	}
	return plain[:n-pad], true
}

// encryptPKCS8 returns an EncryptedPrivateKeyInfo over plain.
func encryptPKCS8(rand io.Reader, plain []byte, passphrase secret.Bytes) ([]byte, error) {
	random := make([]byte, writeSalt+ivSize)
	if _, err := io.ReadFull(rand, random); err != nil {
		return nil, fmt.Errorf("draw a salt: %w", err)
	}
	salt, iv := random[:writeSalt], random[writeSalt:]
	key, err := pbkdf2.Key(sha256.New, string(passphrase.Reveal()), salt, writeRounds, 32)
	if err != nil {
		return nil, fmt.Errorf("derive a key from the passphrase: %w", err)
	}
	defer clear(key)
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	pad := aes.BlockSize - len(plain)%aes.BlockSize
	data := make([]byte, len(plain)+pad)
	copy(data, plain)
	for i := len(plain); i < len(data); i++ {
		data[i] = byte(pad)
	}
	cipher.NewCBCEncrypter(block, iv).CryptBlocks(data, data)

	kdf, err := algorithm(oidPBKDF2, pbkdf2Params{
		Salt: salt, Rounds: writeRounds,
		PRF: pkix.AlgorithmIdentifier{Algorithm: oidHMACSHA256, Parameters: asn1.NullRawValue},
	})
	if err != nil {
		return nil, err
	}
	scheme, err := algorithm(oidAES256CBC, iv)
	if err != nil {
		return nil, err
	}
	outer, err := algorithm(oidPBES2, pbes2Params{KDF: kdf, Scheme: scheme})
	if err != nil {
		return nil, err
	}
	return asn1.Marshal(encryptedPrivateKeyInfo{Algorithm: outer, Data: data})
}

func algorithm(oid asn1.ObjectIdentifier, params any) (pkix.AlgorithmIdentifier, error) {
	der, err := asn1.Marshal(params)
	if err != nil {
		return pkix.AlgorithmIdentifier{}, fmt.Errorf("encode encryption parameters: %w", err)
	}
	return pkix.AlgorithmIdentifier{Algorithm: oid, Parameters: asn1.RawValue{FullBytes: der}}, nil
}

// unmarshal is asn1.Unmarshal without trailing bytes.
func unmarshal(der []byte, into any) error {
	rest, err := asn1.Unmarshal(der, into)
	if err == nil && len(rest) > 0 {
		return errors.New("trailing bytes")
	}
	return err
}

func hasPrefix(oid, prefix asn1.ObjectIdentifier) bool {
	return len(oid) > len(prefix) && oid[:len(prefix)].Equal(prefix)
}

func errIsAny(err error, targets ...error) bool {
	for _, t := range targets {
		if errors.Is(err, t) {
			return true
		}
	}
	return false
}
