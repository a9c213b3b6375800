package securitydomain

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"io"
	"math/big"
	"time"

	"strongroom/internal/strictjson"
	"strongroom/secret"
)

// The "strongroom" object of an SD file; docs/formats.md is its specification.
const (
	extensionFormat = 1
	saltBytes       = 32
	signatureBytes  = 96 // r ‖ s on P-384

	// What is hashed begins with one of these, so that no hash or signature made for one purpose serves another.
	checkContext     = "strongroom security domain share check 1\n"
	signatureContext = "strongroom security domain file signature 1\n"
)

// Signature states of a file.
const (
	SignatureValid   = "valid"   // the file is as the holder of its domain's signing key made it
	SignatureInvalid = "invalid" // the file was changed, or the extension was
	SignatureAbsent  = "absent"  // the file has no extension
)

type extension struct {
	format   int
	domainID string
	hsm      string
	created  time.Time
	shares   []extensionShare
	valid    bool             // the signature holds and the signing key is the domain ID's
	signing  *ecdsa.PublicKey // nil unless valid
}

type extensionShare struct {
	x           int
	label       string
	x5t, spki   string
	salt, check []byte
}

// shareCheck is the salted hash by which a share is recognised: SHA-256(context ‖ salt ‖ share).
func shareCheck(salt []byte, share secret.Bytes) []byte {
	h := sha256.New()
	io.WriteString(h, checkContext)
	h.Write(salt)
	h.Write(share.Reveal())
	return h.Sum(nil)
}

func (s *extensionShare) fits(share secret.Bytes) bool {
	return subtle.ConstantTimeCompare(shareCheck(s.salt, share), s.check) == 1
}

// parseExtension reads the "strongroom" object, if there is one. An unknown format is refused; anything else that
// is wrong with it makes it useless and not the file: it only helps, and one flipped bit in it must not stop a
// recovery.
func (f *File) parseExtension(root strictjson.Value) error {
	v := root.Get(nameExtension)
	if v.Kind() == strictjson.None {
		return nil
	}
	if format, ok := v.Get("format").Int(); ok && format != extensionFormat {
		return fail(UnsupportedVersion, "the SD file's strongroom object is of format %d; format %d is supported. A newer strongroom reads it, and so does this one once that object is removed, without its checks", format, extensionFormat)
	}
	ext, err := readExtension(v, len(f.shares), f.required)
	if err != nil || f.version != 2 {
		f.extDamage = "it belongs to a file of another version"
		if err != nil {
			f.extDamage = err.Error()
		}
		return nil
	}
	ext.signing, err = verifyFile(root, v, ext.domainID)
	ext.valid = err == nil
	for i := range ext.shares {
		f.shares[i].hint = &ext.shares[i]
	}
	f.ext = ext
	return nil
}

func readExtension(v strictjson.Value, total, required int) (*extension, error) {
	text := func(name string) string { s, _ := v.Get(name).Text(); return s }
	number := func(name string) int64 { n, _ := v.Get(name).Int(); return n }
	ext := &extension{format: int(number("format")), domainID: text("domain_id"), hsm: text("hsm")}
	if id, err := hex.DecodeString(ext.domainID); err != nil || len(id) != sha256.Size || hex.EncodeToString(id) != ext.domainID {
		return nil, errors.New("its domain_id is not a SHA-256 in lower-case hex")
	}
	if !isPlainText(ext.hsm, 0, maxHSMName) {
		return nil, errors.New("its hsm is not a name")
	}
	var err error
	if ext.created, err = time.Parse(time.RFC3339, text("created")); err != nil {
		return nil, errors.New("its created is not a time")
	}
	shares, _ := v.Get("shares").Elements()
	if ext.format != extensionFormat || number("total") != int64(total) || number("required") != int64(required) || len(shares) != total {
		return nil, errors.New("its numbers do not agree with the file")
	}
	for _, s := range shares {
		text := func(name string) string { s, _ := s.Get(name).Text(); return s }
		x, _ := s.Get("x").Int()
		share := extensionShare{x: int(x), label: text("label"), x5t: text("x5t_256"), spki: text("spki_256")}
		salt, saltOK := decode64(text("salt"))
		check, checkOK := decode64(text("check"))
		if !saltOK || !checkOK || len(salt) != saltBytes || len(check) != sha256.Size || !isDigest(share.x5t) || !isDigest(share.spki) || x < 1 || x > MaxCustodians {
			return nil, errors.New("one of its shares is not well-formed")
		}
		if cleanLabel(share.label) != share.label {
			return nil, errors.New("one of its labels is not well-formed")
		}
		share.salt, share.check = salt, check
		ext.shares = append(ext.shares, share)
	}
	return ext, nil
}

// signedBytes is what the signature covers: a context line and the canonical form of the whole file but for the
// signature itself. Names that this package does not know are covered too; white space and order are not.
func signedBytes(root, extension strictjson.Value) ([]byte, error) {
	canonical, err := strictjson.Canonical(root.With(nameExtension, extension.Without(nameSignature)))
	if err != nil {
		return nil, err
	}
	return append([]byte(signatureContext), canonical...), nil
}

// verifyFile returns the signing key that a file names, if it is the domain ID's and its signature over the file holds.
func verifyFile(root, extension strictjson.Value, domainID string) (*ecdsa.PublicKey, error) {
	text, _ := extension.Get("signing_key").Text()
	der, ok := decode64(text)
	if !ok {
		return nil, errors.New("the signing key is not base64url")
	}
	parsed, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil, err
	}
	pub, ok := parsed.(*ecdsa.PublicKey)
	if !ok || pub.Curve != elliptic.P384() {
		return nil, errors.New("the signing key is not on P-384")
	}
	if id, err := DomainID(pub); err != nil || id != domainID {
		return nil, errors.New("the signing key is not the domain ID's")
	}
	text, _ = extension.Get(nameSignature).Text()
	signature, ok := decode64(text)
	if !ok || len(signature) != signatureBytes {
		return nil, errors.New("the signature has not its form")
	}
	message, err := signedBytes(root, extension)
	if err != nil {
		return nil, err
	}
	digest := sha512.Sum384(message)
	r, s := new(big.Int).SetBytes(signature[:signatureBytes/2]), new(big.Int).SetBytes(signature[signatureBytes/2:])
	if !ecdsa.Verify(pub, digest[:], r, s) {
		return nil, errors.New("the signature does not hold")
	}
	return pub, nil
}

// signFile returns the signature over a file whose extension has none yet.
func signFile(rand io.Reader, signer crypto.Signer, text []byte) (string, error) {
	root, err := strictjson.Parse(text, fileLimits)
	if err != nil {
		return "", err
	}
	message, err := signedBytes(root, root.Get(nameExtension))
	if err != nil {
		return "", err
	}
	digest := sha512.Sum384(message)
	der, err := signer.Sign(rand, digest[:], crypto.SHA384)
	if err != nil {
		return "", err
	}
	var rs struct{ R, S *big.Int }
	if rest, err := asn1.Unmarshal(der, &rs); err != nil || len(rest) > 0 || rs.R.Sign() <= 0 || rs.S.Sign() <= 0 || rs.R.BitLen() > 384 || rs.S.BitLen() > 384 {
		return "", errors.New("the signer returned something that is not an ECDSA signature")
	}
	signature := make([]byte, signatureBytes)
	rs.R.FillBytes(signature[:signatureBytes/2])
	rs.S.FillBytes(signature[signatureBytes/2:])
	return encode64(signature), nil
}

// signingKeyID returns the domain ID of the item TagSigningKey.
func signingKeyID(item secret.Bytes) (string, error) {
	parsed, err := x509.ParsePKCS8PrivateKey(item.Reveal())
	if err != nil {
		return "", errors.New("it is not a PKCS #8 private key")
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || key.Curve != elliptic.P384() {
		return "", errors.New("it is not an EC key on P-384")
	}
	return DomainID(key.Public())
}
