package securitydomain

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"strings"
	"time"
)

// DomainID returns the ID of the domain whose signing key has this public key: hex SHA-256 of its
// SubjectPublicKeyInfo.
func DomainID(pub crypto.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return "", &Error{Kind: InvalidParameter, Message: "the domain's signing key is of no known kind", Err: err}
	}
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:]), nil
}

// Thumbprint returns the name by which the files know a certificate (x5t_256): base64url, without padding, of the
// SHA-256 of its DER form; 43 characters.
func Thumbprint(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.Raw)
	return encode64(sum[:])
}

// publicKeyID returns base64url SHA-256 of a public key's SubjectPublicKeyInfo. It stays the same when a
// certificate is renewed.
func publicKeyID(pub *rsa.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(der)
	return encode64(sum[:]), nil
}

// isDigest reports whether s is strict base64url of 32 bytes.
func isDigest(s string) bool {
	b, ok := decode64(s)
	return ok && len(b) == sha256.Size
}

// CheckCustodians says whether an SD file can be sealed for these certificates and this quorum: 3 to 10
// certificates of different RSA keys of 2048, 3072 or 4096 bits with an odd exponent of at least 65537, and
// 2 ≤ required ≤ their number. One key counts once, whatever certificates it has. An error is of kind BadQuorum or
// BadCustodian and names the certificate. A certificate that is out of date at now still encrypts as well as any
// other, so that is a warning.
func CheckCustodians(certs []*x509.Certificate, required int, now time.Time) ([]Warning, error) {
	switch {
	case len(certs) < MinCustodians || len(certs) > MaxCustodians:
		return nil, fail(BadQuorum, "%d custodians were given; give the certificates of %d to %d", len(certs), MinCustodians, MaxCustodians)
	case required < MinRequired || required > MaxRequired:
		return nil, fail(BadQuorum, "a quorum of %d is out of bounds; it must be %d to %d", required, MinRequired, MaxRequired)
	case required > len(certs):
		return nil, fail(BadQuorum, "a quorum of %d cannot be met by %d custodians; lower it or give more certificates", required, len(certs))
	}
	var warnings []Warning
	thumbprints, keys := map[string]int{}, map[string]int{}
	for i, cert := range certs {
		name := certificateName(cert, i)
		pub, err := checkWrappingKey(cert)
		if err != nil {
			return nil, &Error{Kind: BadCustodian, Custodian: name, Message: fmt.Sprintf("%s %v", name, err)}
		}
		id, err := publicKeyID(pub)
		if err != nil {
			return nil, &Error{Kind: BadCustodian, Custodian: name, Message: name + " has a public key that cannot be encoded", Err: err}
		}
		if j, twice := thumbprints[Thumbprint(cert)]; twice {
			return nil, &Error{Kind: BadCustodian, Custodian: name, Message: fmt.Sprintf("%s is the same certificate as number %d; each custodian counts once", name, j+1)}
		}
		if j, twice := keys[id]; twice {
			return nil, &Error{Kind: BadCustodian, Custodian: name, Message: fmt.Sprintf("%s has the same public key as number %d; each custodian needs a key pair of their own", name, j+1)}
		}
		thumbprints[Thumbprint(cert)], keys[id] = i, i
		switch {
		case now.After(cert.NotAfter):
			warnings = append(warnings, Warning{WarnExpired, fmt.Sprintf("%s expired on %s; its key works on, but ask whether its owner still has it", name, cert.NotAfter.UTC().Format(time.DateOnly))})
		case now.Before(cert.NotBefore):
			warnings = append(warnings, Warning{WarnNotYetValid, fmt.Sprintf("%s is not valid before %s; check the clock of the machine that made it", name, cert.NotBefore.UTC().Format(time.DateOnly))})
		}
	}
	return warnings, nil
}

// checkWrappingKey returns the public key of a custodian's or exchange certificate. Its error continues a sentence.
func checkWrappingKey(cert *x509.Certificate) (*rsa.PublicKey, error) {
	if cert == nil {
		return nil, fmt.Errorf("is missing")
	}
	pub, ok := cert.PublicKey.(*rsa.PublicKey)
	if !ok {
		return nil, fmt.Errorf("is not the certificate of an RSA key (it is %v); make an RSA key of 2048, 3072 or 4096 bits", cert.PublicKeyAlgorithm)
	}
	switch bits := pub.N.BitLen(); {
	case bits != 2048 && bits != 3072 && bits != 4096:
		return nil, fmt.Errorf("has an RSA key of %d bits; 2048, 3072 and 4096 are accepted", bits)
	case pub.E < 65537 || pub.E%2 == 0:
		return nil, fmt.Errorf("has an RSA key with public exponent %d; it must be odd and at least 65537", pub.E)
	}
	return pub, nil
}

// certificateName is how messages call certificate number i of those given.
func certificateName(cert *x509.Certificate, i int) string {
	if label := commonName(cert); label != "" {
		return fmt.Sprintf("certificate %d %q", i+1, label)
	}
	return fmt.Sprintf("certificate %d", i+1)
}

// commonName returns a certificate's subject common name, cut to maxLabel bytes and cleaned of what must not be
// printed. It may be empty.
func commonName(cert *x509.Certificate) string {
	if cert == nil {
		return ""
	}
	return cleanLabel(cert.Subject.CommonName)
}

func cleanLabel(name string) string {
	var b strings.Builder
	for _, r := range name {
		if b.Len()+len(string(r)) > maxLabel {
			break
		}
		if r != '\uFFFD' && showable(r) {
			b.WriteRune(r)
		}
	}
	return strings.TrimSpace(b.String())
}
