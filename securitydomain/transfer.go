package securitydomain

import (
	"crypto"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"strongroom/secret"
)

// Transfer is a parsed transfer file: a domain encrypted to one exchange key.
//
//	{"EncData":{…as in an SD file…},"WrappedKey":{"enc_key":JWE,"x5t_256":THUMBPRINT}}
//
// The plaintext of enc_key is the file's own master key, 32 bytes. Nothing has been verified but the form.
type Transfer struct {
	X5T256 string   // thumbprint of the exchange certificate that it was made for
	Tags   []string // of its items, in order

	wrapped *envelope
	items   []sealedItem
}

type transferJSON struct {
	EncData    encDataJSON `json:"EncData"`
	WrappedKey wrappedJSON `json:"WrappedKey"`
}

// MakeTransfer encrypts domain items to an exchange certificate, under a fresh master key.
func MakeTransfer(rand io.Reader, items []Item, exchange *x509.Certificate) ([]byte, error) {
	if rand == nil {
		return nil, fail(Random, "no source of randomness was given")
	}
	if err := checkItems(items); err != nil {
		return nil, err
	}
	pub, err := checkWrappingKey(exchange)
	if err != nil {
		return nil, fail(InvalidParameter, "the exchange certificate %v", err)
	}
	master, err := secret.Random(rand, masterBytes)
	if err != nil {
		return nil, &Error{Kind: Random, Message: "no randomness for the master key", Err: err}
	}
	defer master.Wipe()
	var file transferJSON
	if file.EncData, err = sealItems(master, items); err != nil {
		return nil, err
	}
	file.WrappedKey.X5T256 = Thumbprint(exchange)
	if file.WrappedKey.EncKey, err = sealKey(master, pub); err != nil {
		return nil, &Error{Kind: InvalidParameter, Message: "the exchange certificate has a key that cannot encrypt", Err: err}
	}
	text, err := json.Marshal(file)
	if err != nil {
		return nil, &Error{Kind: Internal, Message: "the transfer file cannot be encoded", Err: err}
	}
	if len(text) > MaxFile {
		return nil, fail(InvalidParameter, "the domain items make a transfer file of %d bytes; %d are the most", len(text), MaxFile)
	}
	return text, nil
}

// ParseTransfer reads a transfer file. It uses no key and is as strict as [Parse]. One old release of the stock client
// base64url-encoded compact_jwe, enc_key and x5t_256 once more; that form is read and never written.
func ParseTransfer(data []byte) (*Transfer, error) {
	root, err := parseRoot(data, "transfer file")
	if err != nil {
		return nil, err
	}
	var unknown []string
	t := &Transfer{}
	if t.items, err = parseItems(root.Get("EncData"), &unknown, unwrapJWE); err != nil {
		return nil, err
	}
	for _, item := range t.items {
		t.Tags = append(t.Tags, item.tag)
	}
	wrapped := root.Get("WrappedKey")
	compact, hasKey := wrapped.Get("enc_key").Text()
	x5t, hasThumbprint := wrapped.Get("x5t_256").Text()
	if !hasKey || !hasThumbprint {
		return nil, malformed("the file has no wrapped key, so it is no transfer file; an SD file becomes one by restore-blob")
	}
	if inner, ok := decode64(x5t); ok && isDigest(string(inner)) {
		x5t = string(inner)
	}
	if !isDigest(x5t) {
		return nil, malformed("the transfer file does not name its exchange certificate by a SHA-256 thumbprint")
	}
	t.X5T256 = x5t
	jwe, fault := parseEnvelope(unwrapJWE(compact), algKey, maxShare)
	if fault != nil {
		return nil, fail(fault.Kind, "the wrapped key of the transfer file %s", fault.Message)
	}
	t.wrapped = jwe
	return t, nil
}

// unwrapJWE undoes one extra base64url around a compact JWE: a text without dots that decodes to five parts.
func unwrapJWE(s string) string {
	if strings.Contains(s, ".") {
		return s
	}
	if inner, ok := decode64(s); ok && strings.Count(string(inner), ".") == 4 {
		return string(inner)
	}
	return s
}

// OpenTransfer decrypts a transfer file that was made for the given exchange certificate, with its private key. The
// caller wipes the items. A file for another certificate is WrongExchangeKey. A file for this one that does not open
// is TransferUnopenable, with the same message and, as far as can be arranged, after the same work, whether OAEP, an
// authentication tag or a length was the reason: whoever may upload must not be able to use the HSM as an oracle on
// its exchange key.
func OpenTransfer(data []byte, exchange *x509.Certificate, key crypto.Decrypter) ([]Item, error) {
	t, err := ParseTransfer(data)
	if err != nil {
		return nil, err
	}
	if _, err := checkWrappingKey(exchange); err != nil {
		return nil, fail(InvalidParameter, "the exchange certificate %v", err)
	}
	if key == nil {
		return nil, fail(InvalidParameter, "there is no exchange key")
	}
	pub, ok := key.Public().(*rsa.PublicKey)
	if !ok || !pub.Equal(exchange.PublicKey) {
		return nil, fail(InvalidParameter, "the exchange key is not that of the exchange certificate")
	}
	if want := Thumbprint(exchange); t.X5T256 != want {
		return nil, fail(WrongExchangeKey, "the transfer file was made for exchange certificate %s, and the HSM now waits for one made for %s; fetch the exchange certificate again and make the transfer file for it", t.X5T256, want)
	}
	// From here on there is one way to fail. A master key that did not come out right is replaced by zeros, and
	// every item is tried whatever happened before.
	master, err := t.wrapped.openKey(key)
	failed := err != nil || master.Len() != masterBytes
	if failed {
		master.Wipe()
		master = secret.Take(make([]byte, masterBytes))
	}
	defer master.Wipe()
	items := make([]Item, 0, len(t.items))
	for _, item := range t.items {
		plain, err := item.jwe.openItem(master)
		failed = failed || err != nil
		items = append(items, Item{item.tag, plain})
	}
	if failed {
		for _, item := range items {
			item.Value.Wipe()
		}
		return nil, fail(TransferUnopenable, "the transfer file does not open: it was damaged or cut on the way; make it again from the SD file (%s)", t.describe())
	}
	return items, nil
}

// describe says what the file claims to hold, which anybody can read off it.
func (t *Transfer) describe() string { return fmt.Sprintf("it lists %d items", len(t.Tags)) }
