package securitydomain

import (
	"crypto"
	"crypto/rsa"
	_ "crypto/sha256" // for crypto.SHA256 in OAEP
	"encoding/base64"
	"errors"
	"strings"

	"github.com/go-jose/go-jose/v4"

	"strongroom/internal/strictjson"
	"strongroom/secret"
)

// The only forms of JWE (RFC 7516, compact) in these files. Everything else is refused before a key is touched.
const (
	contentEncryption = jose.A256CBC_HS512
	algItem           = jose.DIRECT       // items: the content key is derived
	algKey            = jose.RSA_OAEP_256 // shares and wrapped keys
	kidKey            = "not used"        // the key ID that the stock client and Azure write for them
)

const (
	ivBytes    = 16
	tagBytes   = 32
	blockBytes = 16
	maxHeader  = 512  // bytes of the header as JSON
	minWrapped = 256  // bytes of an RSA ciphertext: RSA-2048 …
	maxWrapped = 1024 // … RSA-8192
	maxShare   = 128  // bytes of a share or master key; they have 64 and 32
)

// strict64 is base64url without padding, refusing stray bits in the last character.
var strict64 = base64.RawURLEncoding.Strict()

// decode64 decodes strict base64url. The standard decoder skips line ends; this does not.
func decode64(s string) ([]byte, bool) {
	if strings.ContainsAny(s, "\r\n") {
		return nil, false
	}
	b, err := strict64.DecodeString(s)
	return b, err == nil
}

func encode64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// envelope is a JWE whose form has been checked and whose content has not.
type envelope struct {
	compact    string
	kid        string
	wrapped    int // bytes of the encrypted content key: 0 for an item
	ciphertext int // bytes
}

// parseEnvelope checks everything about a compact JWE that can be checked without a key: five segments of strict
// base64url; a header with exactly the members alg, enc and kid, the first two as wanted; the encrypted key as the
// algorithm demands; an IV of 16 bytes, a tag of exactly 32, a ciphertext of whole blocks and bounded size.
// The error's kind is Malformed or UnsupportedAlgorithm; its message continues a sentence that names the part.
func parseEnvelope(compact string, alg jose.KeyAlgorithm, maxPlain int) (*envelope, *Error) {
	if strings.Count(compact, ".") != 4 { // counted before anything is split
		return nil, malformed("is not a compact JWE of five parts")
	}
	segments := strings.Split(compact, ".")
	var parts [5][]byte
	for i, s := range segments {
		var ok bool
		if parts[i], ok = decode64(s); !ok {
			return nil, malformed("has a part that is not strict base64url")
		}
	}
	e := &envelope{compact: compact, wrapped: len(parts[1]), ciphertext: len(parts[3])}
	if err := e.parseHeader(parts[0], alg); err != nil {
		return nil, err
	}
	switch {
	case alg == algItem && e.wrapped != 0:
		return nil, malformed("carries an encrypted key although its algorithm is dir")
	case alg == algKey && (e.wrapped < minWrapped || e.wrapped > maxWrapped):
		return nil, malformed("has an encrypted key of %d bytes, which no RSA key of 2048 bits or more makes", e.wrapped)
	case len(parts[2]) != ivBytes:
		return nil, malformed("has an initialisation vector of %d bytes, not %d", len(parts[2]), ivBytes)
	case len(parts[4]) != tagBytes:
		return nil, malformed("has an authentication tag of %d bytes, not %d", len(parts[4]), tagBytes)
	case e.ciphertext == 0 || e.ciphertext%blockBytes != 0:
		return nil, malformed("has a ciphertext that is not whole blocks")
	case e.ciphertext > (maxPlain/blockBytes+1)*blockBytes:
		return nil, malformed("is larger than allowed (%d bytes)", maxPlain)
	}
	return e, nil
}

func (e *envelope) parseHeader(text []byte, alg jose.KeyAlgorithm) *Error {
	header, err := strictjson.Parse(text, strictjson.Limits{Bytes: maxHeader, Depth: 2, Elements: 8, StringBytes: maxHeader})
	members, isObject := header.Members()
	if err != nil || !isObject {
		return malformed("has a header that is not a strict JSON object")
	}
	values := map[string]string{}
	for _, m := range members {
		switch m.Name {
		case "alg", "enc", "kid":
		default: // zip, crit, p2c, jwk and whatever else might change what the JWE means
			return fail(UnsupportedAlgorithm, "has the header member %q; only alg, enc and kid are supported", printable(m.Name))
		}
		s, ok := m.Value.Text()
		if !ok {
			return malformed("has a header member that is not a string")
		}
		values[m.Name] = s
	}
	if len(values) != 3 {
		return malformed("lacks a header member: alg, enc and kid are needed")
	}
	if values["alg"] != string(alg) {
		return fail(UnsupportedAlgorithm, "is encrypted with alg %q; only %q is supported here", printable(values["alg"]), alg)
	}
	if values["enc"] != string(contentEncryption) {
		return fail(UnsupportedAlgorithm, "is encrypted with enc %q; only %q is supported", printable(values["enc"]), contentEncryption)
	}
	e.kid = values["kid"]
	return nil
}

// parseItemEnvelope is parseEnvelope for an item, whose key ID must be its tag.
func parseItemEnvelope(compact, tag string) (*envelope, *Error) {
	e, err := parseEnvelope(compact, algItem, MaxItemBytes)
	if err != nil {
		return nil, err
	}
	if e.kid != tag {
		return nil, malformed("names another item in its header than in its tag")
	}
	return e, nil
}

var errOpen = errors.New("securitydomain: the JWE does not open")

// open decrypts with a content key (an item) or a key decrypter.
func (e *envelope) open(alg jose.KeyAlgorithm, key any) (secret.Bytes, error) {
	object, err := jose.ParseEncryptedCompact(e.compact, []jose.KeyAlgorithm{alg}, []jose.ContentEncryption{contentEncryption})
	if err != nil {
		return secret.Bytes{}, errOpen
	}
	plain, err := object.Decrypt(key)
	if err != nil {
		return secret.Bytes{}, errOpen
	}
	return secret.Take(plain), nil
}

// openItem decrypts an item under the master key.
func (e *envelope) openItem(master secret.Bytes) (secret.Bytes, error) {
	key := itemKey(master, e.kid)
	defer key.Wipe()
	return e.open(algItem, key.Reveal())
}

// Why a share or wrapped key did not open.
var (
	errOtherKey = errors.New("securitydomain: the key does not open it")           // OAEP refused
	errContent  = errors.New("securitydomain: the key fits, the content does not") // the tag refused
)

// openKey decrypts a share or a wrapped master key. It fails with errOtherKey, errContent, or whatever error a
// token reported. Where the caller must not learn which, it drops the distinction: the work is the same.
func (e *envelope) openKey(decrypter crypto.Decrypter) (secret.Bytes, error) {
	unwrap := &oaep{decrypter: decrypter}
	plain, err := e.open(algKey, unwrap)
	switch {
	case errors.Is(unwrap.err, rsa.ErrDecryption):
		plain.Wipe()
		return secret.Bytes{}, errOtherKey
	case unwrap.err != nil:
		plain.Wipe()
		return secret.Bytes{}, unwrap.err
	case err != nil:
		return secret.Bytes{}, errContent
	}
	return plain, nil
}

// oaep unwraps a content key with RSA-OAEP-256 for go-jose, whatever holds the private key.
type oaep struct {
	decrypter crypto.Decrypter
	err       error
}

// DecryptKey implements jose.OpaqueKeyDecrypter. After a failure it goes on with a content key of zeros and leaves
// the error in err, so that a failure of OAEP costs the same as a failure of the tag. RFC 7516 section 11.5 takes a
// random key for this; zeros do here, because openKey refuses whatever comes out once err is set.
func (o *oaep) DecryptKey(wrapped []byte, _ jose.Header) ([]byte, error) {
	key, err := o.unwrap(wrapped)
	if err == nil && len(key) != contentBytes {
		err = rsa.ErrDecryption
	}
	if err != nil {
		o.err = err
		return make([]byte, contentBytes), nil
	}
	return key, nil
}

func (o *oaep) unwrap(wrapped []byte) ([]byte, error) {
	// Decrypters of crypto/rsa ignore the reader; those of a token have their own source.
	return o.decrypter.Decrypt(nil, wrapped, &rsa.OAEPOptions{Hash: crypto.SHA256})
}

// sealItem encrypts an item under the master key.
func sealItem(master secret.Bytes, item Item) (string, error) {
	key := itemKey(master, item.Tag)
	defer key.Wipe()
	return sealJWE(item.Value, jose.Recipient{Algorithm: algItem, Key: key.Reveal(), KeyID: item.Tag})
}

// sealKey encrypts a share or a master key to an RSA public key.
func sealKey(plain secret.Bytes, to *rsa.PublicKey) (string, error) {
	return sealJWE(plain, jose.Recipient{Algorithm: algKey, Key: to, KeyID: kidKey})
}

func sealJWE(plain secret.Bytes, to jose.Recipient) (string, error) {
	encrypter, err := jose.NewEncrypter(contentEncryption, to, nil)
	if err != nil {
		return "", err
	}
	object, err := encrypter.Encrypt(plain.Reveal())
	if err != nil {
		return "", err
	}
	return object.CompactSerialize()
}
