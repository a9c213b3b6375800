// Package statement is what a security domain says under its signing key, made and verified: about a key (an
// attestation, a released key) or about a backup (its manifest). A statement is a JWS in compact form (RFC 7515) with ES384, the
// certificate of the domain's signing key in x5c, and a typ that tells one kind of statement from another. What else that
// key signs (SD files, checkpoints of the audit log) begins otherwise than a JWS does, so neither can pass for the other.
//
// It does not know what the kinds of statement say, and not whether the domain that signed is the one that was meant:
// there is no authority above a domain, only its ID, which the caller compares. Pure.
package statement

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"

	"strongroom/internal/strictjson"
)

// headerLimits are those of a statement's header, whose certificate has some 500 bytes.
var headerLimits = strictjson.Limits{Bytes: 8 << 10, Depth: 3, Elements: 16, Values: 32, StringBytes: 8 << 10, FoldNames: true}

// Statement is what a security domain said, and which domain.
type Statement struct {
	Payload     []byte
	Domain      string // ID of the domain that signed: hex SHA-256 of its signing key's SubjectPublicKeyInfo
	Certificate *x509.Certificate
}

// Sign makes a statement of kind typ. It returns the certificate (DER) as well, which is in the statement. key has to be
// on P-384.
func Sign(key *ecdsa.PrivateKey, typ string, payload []byte) (jws, certificate []byte, err error) {
	if certificate, err = Certificate(key); err != nil {
		return nil, nil, err
	}
	options := new(jose.SignerOptions).WithType(jose.ContentType(typ)).WithHeader("x5c", []string{base64.StdEncoding.EncodeToString(certificate)})
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES384, Key: key}, options)
	if err != nil {
		return nil, nil, err
	}
	signed, err := signer.Sign(payload)
	if err != nil {
		return nil, nil, err
	}
	text, err := signed.CompactSerialize()
	return []byte(text), certificate, err
}

// Verify checks that compact is a statement of kind typ whose signature holds under the certificate in it, and that this
// certificate is what a domain has. Its errors are parts of a sentence about the statement ("its signature does not
// hold") and repeat nothing of it. How long compact may be is for the caller to bound.
func Verify(compact []byte, typ string) (Statement, error) {
	header, err := headerOf(compact, typ)
	if err != nil {
		return Statement{}, err
	}
	der, err := base64.StdEncoding.Strict().DecodeString(header.Chain[0])
	if err != nil || base64.StdEncoding.EncodeToString(der) != header.Chain[0] {
		return Statement{}, errors.New("its certificate (x5c) is damaged")
	}
	cert, key, err := ParseCertificate(der)
	if err != nil {
		return Statement{}, fmt.Errorf("%w (x5c)", err)
	}
	jws, err := jose.ParseSignedCompact(string(compact), []jose.SignatureAlgorithm{jose.ES384})
	if err != nil {
		return Statement{}, errors.New("it is no JWS in compact form")
	}
	payload, err := jws.Verify(key)
	if err != nil {
		return Statement{}, errors.New("its signature does not hold")
	}
	return Statement{Payload: payload, Domain: DomainOf(cert), Certificate: cert}, nil
}

// header of a statement; Chain has one certificate.
type header struct {
	Alg      string          `json:"alg"`
	Type     string          `json:"typ"`
	Chain    []string        `json:"x5c"`
	Critical json.RawMessage `json:"crit"`
}

// headerOf reads the header of a statement that must be of kind typ. Nothing is verified yet.
func headerOf(compact []byte, typ string) (h header, err error) {
	parts := strings.SplitN(string(compact), ".", 4)
	if len(parts) != 3 || !oneSpelling(parts[0]) || !oneSpelling(parts[1]) || !oneSpelling(parts[2]) {
		return h, errors.New("it is no JWS in compact form")
	}
	text, err := base64.RawURLEncoding.DecodeString(parts[0])
	switch {
	case err != nil || strictjson.Check(text, headerLimits) != nil || json.Unmarshal(text, &h) != nil || len(h.Critical) > 0:
		err = errors.New("it is no JWS in compact form")
	case h.Type != typ:
		err = errors.New("it is signed as something else than " + typ + " (typ)")
	case h.Alg != string(jose.ES384):
		err = errors.New("it is signed with another algorithm than ES384")
	case len(h.Chain) != 1:
		err = errors.New("it does not name one certificate (x5c)")
	}
	return h, err
}

// oneSpelling reports whether text is base64url as this package writes it. encoding/base64 skips line ends, also when it
// is strict, and go-jose signs what it encodes again: without this, a statement with a line end in it would still hold.
func oneSpelling(text string) bool {
	if strings.ContainsAny(text, "\r\n") {
		return false
	}
	_, err := base64.RawURLEncoding.Strict().DecodeString(text)
	return err == nil
}

// ParseCertificate reads the certificate of a domain's signing key, and checks that it signed itself. Its errors are as
// those of [Verify].
func ParseCertificate(der []byte) (*x509.Certificate, *ecdsa.PublicKey, error) {
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, nil, errors.New("its certificate is damaged")
	}
	key, ok := cert.PublicKey.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P384() {
		return nil, nil, errors.New("its certificate is not for a key on P-384")
	}
	if cert.CheckSignature(cert.SignatureAlgorithm, cert.RawTBSCertificate, cert.Signature) != nil {
		return nil, nil, errors.New("its certificate is not signed by its own key")
	}
	return cert, key, nil
}

// DomainOf is the ID of the security domain whose signing key a certificate is for.
func DomainOf(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}

// Certificate is the self-signed certificate of a domain's signing key, in DER. One domain has one, to the byte, on
// whatever HSM: its times are fixed, its serial number is from the domain ID, and its signature is the deterministic one of
// RFC 6979. So its thumbprint can be compared. It says nothing that the key does not: there is no authority above it.
func Certificate(key *ecdsa.PrivateKey) ([]byte, error) {
	if key.Curve != elliptic.P384() {
		return nil, errors.New("statement: a domain's signing key is on P-384")
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, err
	}
	id := sha256.Sum256(spki)
	template := &x509.Certificate{
		SerialNumber: new(big.Int).Add(new(big.Int).SetBytes(id[:16]), big.NewInt(1)),
		Subject:      pkix.Name{CommonName: "Strongroom security domain " + hex.EncodeToString(id[:8])},
		NotBefore:    time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC),
		NotAfter:     time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC), // no end: RFC 5280 section 4.1.2.5
		KeyUsage:     x509.KeyUsageDigitalSignature,
		// No randomness below: crypto/ecdsa then signs deterministically.
		SignatureAlgorithm: x509.ECDSAWithSHA384,
	}
	return x509.CreateCertificate(nil, template, template, key.Public(), key)
}
