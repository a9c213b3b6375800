package custodian

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"strings"

	"strongroom/secret"
)

// PEM labels (RFC 7468 sections 5, 10 and 11; the labels of PKCS #1 and SEC 1 are OpenSSL's).
const (
	pemPKCS8          = "PRIVATE KEY"
	pemEncryptedPKCS8 = "ENCRYPTED PRIVATE KEY"
	pemPKCS1          = "RSA PRIVATE KEY"
	pemSEC1           = "EC PRIVATE KEY"
	pemCertificate    = "CERTIFICATE"
)

// Bounds of what is read, checked before any work. An RSA-8192 key is under 5 KiB of DER.
const (
	maxKeyFile         = 64 << 10
	maxKeyDER          = 8 << 10
	maxCertificateFile = 1 << 20
	maxCertificates    = 32
)

// ParseKey reads the first private key of a PEM file: PKCS #8 ("PRIVATE KEY"), PKCS #1 ("RSA PRIVATE KEY") or
// encrypted PKCS #8 ("ENCRYPTED PRIVATE KEY": PBES2 with PBKDF2 or scrypt and AES-CBC). Text and certificates
// around it are skipped. For an encrypted key each passphrase is tried in turn; otherwise they are not used.
//
// The file has at most 64 KiB, the key 2048 to 8192 bits, and the work that an encrypted file may ask for is
// bounded (10 million rounds of PBKDF2; 256 MiB of scrypt) before any of it is done. Errors are those of this
// package and never hold bytes of the file.
func ParseKey(pemBytes []byte, passphrases []secret.Bytes) (crypto.Decrypter, error) {
	block, err := firstKey(pemBytes)
	if err != nil {
		return nil, err
	}
	defer clear(block.Bytes)
	return parseBlock(block, passphrases)
}

// PrivateDER returns the first private key of a PEM file in DER, whatever kind of key it is, and the label that says in
// which form: "PRIVATE KEY" (PKCS #8, also of what was encrypted), "RSA PRIVATE KEY" or "EC PRIVATE KEY". The bounds
// and errors are those of [ParseKey]. What is in it is not looked at, but for the frame of an encrypted key, by which a
// right passphrase is told from a wrong one. The caller wipes the result.
func PrivateDER(pemBytes []byte, passphrases []secret.Bytes) (label string, der secret.Bytes, err error) {
	block, err := firstKey(pemBytes)
	if err != nil {
		return "", secret.Bytes{}, err
	}
	if err := checkBlock(block); err != nil {
		clear(block.Bytes)
		return "", secret.Bytes{}, err
	}
	switch block.Type {
	case pemPKCS8, pemPKCS1, pemSEC1:
		return block.Type, secret.Take(block.Bytes), nil
	case pemEncryptedPKCS8:
		err := decrypt(block.Bytes, passphrases, func(plain []byte) bool {
			var frame privateKeyInfo
			fits := unmarshal(plain, &frame) == nil
			if fits {
				der = secret.New(plain)
			}
			clear(frame.PrivateKey)
			return fits
		})
		clear(block.Bytes)
		if err != nil {
			return "", secret.Bytes{}, err
		}
		return pemPKCS8, der, nil
	}
	clear(block.Bytes)
	return "", secret.Bytes{}, ErrNotPEM
}

// privateKeyInfo is the frame of RFC 5208 section 5; package asn1 passes over what may follow in it.
type privateKeyInfo struct {
	Version    int
	Algorithm  pkix.AlgorithmIdentifier
	PrivateKey []byte
}

// firstKey finds the first private key of a PEM file.
func firstKey(pemBytes []byte) (*pem.Block, error) {
	if len(pemBytes) > maxKeyFile {
		return nil, ErrTooLarge
	}
	sawCertificate := false
	rest := trimBOM(pemBytes)
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type == pemCertificate {
			sawCertificate = true
			continue
		}
		if strings.HasSuffix(block.Type, "PRIVATE KEY") {
			return block, nil
		}
	}
	if sawCertificate {
		return nil, ErrIsCertificate
	}
	return nil, ErrNotPEM
}

func checkBlock(block *pem.Block) error {
	if block.Headers["Proc-Type"] != "" || block.Headers["DEK-Info"] != "" {
		// OpenSSL's form of before PKCS #8: one round of MD5 between the passphrase and the key.
		return ErrWeakEncryption
	}
	if len(block.Bytes) > maxKeyDER {
		return ErrTooLarge
	}
	return nil
}

func parseBlock(block *pem.Block, passphrases []secret.Bytes) (crypto.Decrypter, error) {
	if err := checkBlock(block); err != nil {
		return nil, err
	}
	switch block.Type {
	case pemPKCS8:
		return parsePKCS8(block.Bytes)
	case pemPKCS1:
		key, err := x509.ParsePKCS1PrivateKey(block.Bytes)
		if err != nil {
			return nil, ErrMalformed // without the cause: it does not promise to leave the input out of its text
		}
		return checkRSA(key)
	case pemEncryptedPKCS8:
		return parseEncrypted(block.Bytes, passphrases)
	case pemSEC1, "DSA PRIVATE KEY":
		return nil, ErrNotRSA
	default:
		return nil, ErrNotPEM
	}
}

func parseEncrypted(der []byte, passphrases []secret.Bytes) (key crypto.Decrypter, err error) {
	wrong := decrypt(der, passphrases, func(plain []byte) bool {
		key, err = parsePKCS8(plain)
		return err == nil || errIsAny(err, ErrNotRSA, ErrWeakKey, ErrTooLarge)
	})
	if wrong != nil {
		return nil, wrong
	}
	return key, err
}

// decrypt tries every passphrase until fits takes what comes out, which is wiped afterwards. A wrong one mostly fails
// in the padding; one in 256 gets past it and fails as ASN.1, which is why a plaintext that does not parse counts as a
// wrong passphrase, not as damage.
func decrypt(der []byte, passphrases []secret.Bytes, fits func(plain []byte) bool) error {
	box, err := parsePBES2(der)
	if err != nil {
		return err
	}
	if len(passphrases) == 0 {
		return ErrPassphraseNeeded
	}
	for _, p := range passphrases {
		if p.Len() > maxPassphrase {
			continue
		}
		plain, ok := box.open(p)
		if !ok {
			continue
		}
		done := fits(plain)
		clear(plain)
		if done {
			return nil
		}
	}
	return ErrPassphraseWrong
}

func parsePKCS8(der []byte) (crypto.Decrypter, error) {
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, ErrMalformed
	}
	key, ok := parsed.(*rsa.PrivateKey)
	if !ok {
		return nil, ErrNotRSA
	}
	return checkRSA(key)
}

// checkRSA bounds the size; that the numbers belong together was checked when they were parsed.
func checkRSA(key *rsa.PrivateKey) (crypto.Decrypter, error) {
	switch bits := key.N.BitLen(); {
	case bits < MinBits:
		return nil, ErrWeakKey
	case bits > maxBits:
		return nil, ErrTooLarge
	}
	return key, nil
}

// ParseCertificates reads all certificates of a file, PEM or DER. PEM is read leniently: az writes lines of 65
// characters, editors leave a byte order mark or text around the blocks. At most 1 MiB and 32 certificates.
// A file with a private key in it is refused with [ErrIsPrivateKey], because it is the wrong file, even when a
// certificate stands beside the key.
func ParseCertificates(data []byte) ([]*x509.Certificate, error) {
	if len(data) > maxCertificateFile {
		return nil, ErrTooLarge
	}
	if len(data) > 0 && data[0] == 0x30 { // a DER SEQUENCE; no PEM text begins with "0"
		cert, err := x509.ParseCertificate(data)
		if err != nil {
			return nil, ErrBadCertificate
		}
		return []*x509.Certificate{cert}, nil
	}
	var certs []*x509.Certificate
	rest := trimBOM(data)
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if strings.HasSuffix(block.Type, "PRIVATE KEY") {
			clear(block.Bytes)
			return nil, ErrIsPrivateKey
		}
		if block.Type != pemCertificate && block.Type != "X509 CERTIFICATE" {
			continue
		}
		if len(certs) == maxCertificates {
			return nil, ErrManyCertificates
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d: %w", len(certs)+1, ErrBadCertificate)
		}
		certs = append(certs, cert)
	}
	if len(certs) == 0 {
		return nil, ErrNotCertificate
	}
	return certs, nil
}

// trimBOM drops the UTF-8 byte order mark that some editors put in front, which would hide the first PEM line.
func trimBOM(b []byte) []byte { return bytes.TrimPrefix(b, []byte("\xef\xbb\xbf")) }
