// Package custodian makes and reads the files of a custodian: a private RSA key in PEM, with or without a
// passphrase, and the certificate that names it.
//
// The files are the ones that the stock Azure CLI uses: NAME.key beside NAME.cer, PKCS #8 and X.509 in PEM. What
// OpenSSL, Python's cryptography and az write is read; what is written, they read.
//
// The package works on bytes: it opens no files and asks no one for a passphrase. It does not decide who may be
// a custodian (strongroom/securitydomain does), except that a key under 2048 bits is refused wherever it appears.
package custodian

import (
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"regexp"
	"time"

	"strongroom/secret"
)

// DefaultBits is the size of a custodian key unless somebody asks for another: 128-bit strength in NIST SP
// 800-57's terms, good beyond the life of the certificate.
const DefaultBits = 3072

// MinBits is the smallest RSA key that is made or read. The stock client draws the same line.
const MinBits = 2048

// maxBits bounds the work that a key file can cause; nobody wraps a share with more.
const maxBits = 8192

// lifetimeYears is how long a new certificate runs. Security domain files outlive people's jobs; the date is a
// reminder to renew, and nothing stops working on it.
const lifetimeYears = 10

// What can be wrong with a custodian's files. Each is found with errors.Is; the text says what is wrong, and
// whoever talks to the user adds the file's name and the way out.
var (
	ErrName              = errors.New("a custodian's name has 1 to 64 letters, digits, dots, hyphens and underscores, and begins with a letter or digit")
	ErrBits              = errors.New("a custodian key has 2048, 3072 or 4096 bits")
	ErrTooLarge          = errors.New("the file is too large to be a key or a certificate")
	ErrNotPEM            = errors.New("there is no PEM private key in the file")
	ErrIsCertificate     = errors.New("the file holds a certificate, and a private key is needed")
	ErrMalformed         = errors.New("the private key is damaged")
	ErrNotRSA            = errors.New("the key is not an RSA key")
	ErrWeakKey           = errors.New("the RSA key has fewer than 2048 bits")
	ErrPassphraseNeeded  = errors.New("the private key is encrypted, and there is no passphrase for it")
	ErrPassphraseWrong   = errors.New("no passphrase opens the private key")
	ErrWeakEncryption    = errors.New("the private key is encrypted in a way that no longer protects it")
	ErrEncryption        = errors.New("the private key is encrypted in a way that is not supported")
	ErrCostlyEncryption  = errors.New("the private key asks for more work to open it than a key file should")
	ErrNotCertificate    = errors.New("there is no certificate in the file")
	ErrIsPrivateKey      = errors.New("the file holds a private key, and a certificate is needed")
	ErrBadCertificate    = errors.New("the certificate is damaged")
	ErrManyCertificates  = errors.New("the file holds too many certificates")
	errNilRand           = errors.New("custodian: no source of randomness")
	errPassphraseTooLong = errors.New("a passphrase has at most 1024 bytes")
)

// maxPassphrase is in bytes; it keeps a mistaken file (a disk image, say) from being used as a passphrase.
const maxPassphrase = 1024

var namePattern = regexp.MustCompile(`^[0-9A-Za-z][0-9A-Za-z._-]{0,63}$`)

// CheckName reports whether name can be a custodian's name: it becomes a common name and two file names, so it
// keeps to what is safe in both.
func CheckName(name string) error {
	if !namePattern.MatchString(name) {
		return ErrName
	}
	return nil
}

// Generate makes a key and its certificate.
//
// keyPEM is PKCS #8, encrypted (PBES2: PBKDF2-HMAC-SHA-256 with 600,000 rounds, AES-256-CBC; RFC 8018) when
// passphrase is not empty. certPEM is a self-signed certificate for CN=name that runs for ten years from now and
// allows encryption to the key, nothing else. bits is 2048, 3072 or 4096, or 0 for [DefaultBits].
//
// Salt, initialisation vector and serial number come from rand. The key itself is drawn from the system's
// generator: the standard library takes no other for RSA.
func Generate(rand io.Reader, name string, bits int, passphrase secret.Bytes, now time.Time) (keyPEM secret.Bytes, certPEM []byte, err error) {
	if rand == nil {
		return secret.Bytes{}, nil, errNilRand
	}
	if err := CheckName(name); err != nil {
		return secret.Bytes{}, nil, err
	}
	switch bits {
	case 0:
		bits = DefaultBits
	case 2048, 3072, 4096:
	default:
		return secret.Bytes{}, nil, ErrBits
	}
	if passphrase.Len() > maxPassphrase {
		return secret.Bytes{}, nil, errPassphraseTooLong
	}

	key, err := rsa.GenerateKey(rand, bits)
	if err != nil {
		return secret.Bytes{}, nil, fmt.Errorf("make an RSA key: %w", err)
	}
	certPEM, err = certificate(rand, key, name, now)
	if err != nil {
		return secret.Bytes{}, nil, err
	}

	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return secret.Bytes{}, nil, fmt.Errorf("encode the private key: %w", err)
	}
	defer clear(der)
	block := &pem.Block{Type: pemPKCS8, Bytes: der}
	if !passphrase.IsZero() {
		sealed, err := encryptPKCS8(rand, der, passphrase)
		if err != nil {
			return secret.Bytes{}, nil, err
		}
		block = &pem.Block{Type: pemEncryptedPKCS8, Bytes: sealed}
	}
	return secret.Take(pem.EncodeToMemory(block)), certPEM, nil
}

func certificate(rand io.Reader, key *rsa.PrivateKey, name string, now time.Time) ([]byte, error) {
	serial := make([]byte, 16)
	if _, err := io.ReadFull(rand, serial); err != nil {
		return nil, fmt.Errorf("draw a serial number: %w", err)
	}
	serial[0] = serial[0]&0x7f | 0x40 // positive, and always 16 bytes (RFC 5280 section 4.1.2.2)
	now = now.UTC().Truncate(time.Second)
	template := &x509.Certificate{
		SerialNumber:          new(big.Int).SetBytes(serial),
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             now,
		NotAfter:              now.AddDate(lifetimeYears, 0, 0),
		KeyUsage:              x509.KeyUsageKeyEncipherment | x509.KeyUsageDataEncipherment,
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("make the certificate: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: pemCertificate, Bytes: der}), nil
}
