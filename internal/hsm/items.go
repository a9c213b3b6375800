package hsm

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"io"

	"strongroom/internal/failure"
	"strongroom/secret"
	"strongroom/securitydomain"
)

// The tags of the domain items, as they stand in an SD file.
const (
	tagWrapping = "wrapping-key" // AES-256: keys at rest
	tagBackup   = "backup-key"   // AES-256: one derived key per backup
	tagSigning  = "signing-key"  // EC P-384, PKCS #8: domain ID, SD files, checkpoints
)

// items are the core secrets of one security domain.
type items struct {
	wrapping, backup secret.Bytes // 32 bytes each
	signingDER       secret.Bytes // PKCS #8
	signing          *ecdsa.PrivateKey
	id               string
}

// newItems makes a security domain.
func newItems(rand io.Reader) (*items, error) {
	wrapping, err := secret.Random(rand, 32)
	if err != nil {
		return nil, err
	}
	backup, err := secret.Random(rand, 32)
	if err != nil {
		return nil, err
	}
	signing, err := ecdsa.GenerateKey(elliptic.P384(), rand)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(signing)
	if err != nil {
		return nil, err
	}
	id, err := securitydomain.DomainID(signing.Public())
	if err != nil {
		return nil, err
	}
	return &items{wrapping: wrapping, backup: backup, signingDER: secret.Take(der), signing: signing, id: id}, nil
}

// parseItems checks that a set of opened items is exactly a Strongroom domain: each tag once, each value of its
// form. An SD file of real Azure opens, and stops here with a message that says so.
func parseItems(list []securitydomain.Item) (*items, error) {
	var it items
	slots := map[string]*secret.Bytes{tagWrapping: &it.wrapping, tagBackup: &it.backup, tagSigning: &it.signingDER}
	for _, item := range list {
		slot, known := slots[item.Tag]
		if !known {
			return nil, failure.Coded(failure.BadParameter, "SecurityDomainItemUnknown",
				"the transfer file holds an item %q that is not part of a Strongroom security domain; was it made from an SD file of another product? Nothing was changed", item.Tag)
		}
		if !slot.IsZero() {
			return nil, failure.Coded(failure.BadParameter, "SecurityDomainItemRepeated", "the transfer file holds item %q twice; make it again from the SD file. Nothing was changed", item.Tag)
		}
		*slot = item.Value
	}
	for _, tag := range []string{tagWrapping, tagBackup, tagSigning} {
		if slots[tag].IsZero() {
			return nil, failure.Coded(failure.BadParameter, "SecurityDomainItemMissing", "the transfer file lacks item %q; make it again from the whole SD file. Nothing was changed", tag)
		}
	}
	if it.wrapping.Len() != 32 || it.backup.Len() != 32 {
		return nil, failure.Coded(failure.BadParameter, "SecurityDomainItemInvalid", "an item of the transfer file has the wrong length; make it again from the SD file. Nothing was changed")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(it.signingDER.Reveal())
	signing, ok := parsed.(*ecdsa.PrivateKey)
	if err != nil || !ok || signing.Curve != elliptic.P384() {
		return nil, failure.Coded(failure.BadParameter, "SecurityDomainItemInvalid", "item %q of the transfer file is not a P-384 signing key; make it again from the SD file. Nothing was changed", tagSigning)
	}
	it.signing = signing
	if it.id, err = securitydomain.DomainID(signing.Public()); err != nil {
		return nil, failure.Wrap(failure.Internal, err, "the domain ID cannot be computed")
	}
	return &it, nil
}

// DomainKeys takes the opened items of a domain apart, for work without an HSM: its ID, and copies of the two secrets that its engine
// is opened with. It fails for items that are not those of a Strongroom domain.
func DomainKeys(list []securitydomain.Item) (id string, wrapping, backup secret.Bytes, err error) {
	it, err := parseItems(list)
	if err != nil {
		return "", secret.Bytes{}, secret.Bytes{}, err
	}
	return it.id, it.wrapping.Clone(), it.backup.Clone(), nil
}

// list gives the items in the form of an SD file, in a fixed order.
func (it *items) list() []securitydomain.Item {
	return []securitydomain.Item{
		{Tag: tagWrapping, Value: it.wrapping},
		{Tag: tagBackup, Value: it.backup},
		{Tag: tagSigning, Value: it.signingDER},
	}
}

func (it *items) wipe() {
	it.wrapping.Wipe()
	it.backup.Wipe()
	it.signingDER.Wipe()
	it.signing = nil
}

// sealedItems is the plaintext under the seal: the three values by tag. It is written and parsed here only, into
// buffers that are wiped.
type sealedItems struct {
	V       int    `json:"v"`
	Wrapped []byte `json:"wrapping_key"`
	Backup  []byte `json:"backup_key"`
	Signing []byte `json:"signing_key"`
}

// marshal writes what json.Marshal would: that keeps the buffers which it writes to, for other uses.
func (it *items) marshal() secret.Bytes {
	members := []struct {
		open  string
		value secret.Bytes
	}{{`{"v":1,"wrapping_key":"`, it.wrapping}, {`","backup_key":"`, it.backup}, {`","signing_key":"`, it.signingDER}}
	const end = `"}`
	size := len(end)
	for _, m := range members {
		size += len(m.open) + base64.StdEncoding.EncodedLen(m.value.Len())
	}
	b := make([]byte, 0, size) // all of it, so that nothing is left behind in growing
	for _, m := range members {
		b = base64.StdEncoding.AppendEncode(append(b, m.open...), m.value.Reveal())
	}
	return secret.Take(append(b, end...))
}

func unmarshalItems(plain secret.Bytes) (*items, error) {
	var s sealedItems
	if err := json.Unmarshal(plain.Reveal(), &s); err != nil || s.V != 1 {
		return nil, failure.New(failure.Tampered, "the sealed domain items cannot be read")
	}
	return parseItems([]securitydomain.Item{
		{Tag: tagWrapping, Value: secret.Take(s.Wrapped)},
		{Tag: tagBackup, Value: secret.Take(s.Backup)},
		{Tag: tagSigning, Value: secret.Take(s.Signing)},
	})
}
