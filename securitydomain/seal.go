package securitydomain

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"sync"
	"time"

	"strongroom/secret"
	"strongroom/shamir"
)

// The tags of the items that make up a Strongroom domain. Other domains have other items, which this package
// carries without knowing them.
const (
	TagWrappingKey = "wrapping-key" // 32 bytes
	TagBackupKey   = "backup-key"   // 32 bytes
	TagSigningKey  = "signing-key"  // EC P-384, PKCS #8 DER
)

const maxSignature = 256 // bytes that the signature adds to a file: 144 and its name

// Item is one secret of the domain.
type Item struct {
	Tag   string // 1 to 128 printable ASCII characters, unique in the domain
	Value secret.Bytes
}

// SealParams is everything an SD file is made from. All fields but HSMName must be set.
type SealParams struct {
	Certificates []*x509.Certificate // of the custodians, in the order of their shares
	Required     int                 // how many of them open the file
	Items        []Item
	HSMName      string        // for people; printable ASCII, at most 128
	Created      time.Time     // written in UTC, to the second
	Signer       crypto.Signer // the domain's signing key, EC P-384
	Rand         io.Reader
}

// The files as encoding/json writes them. Azure writes the members in this order.
type (
	fileJSON struct {
		EncData    encDataJSON    `json:"EncData"`
		SharedKeys sharedKeysJSON `json:"SharedKeys"`
		Version    int            `json:"version"`
		Strongroom extensionJSON  `json:"strongroom"`
	}
	encDataJSON struct {
		Data []itemJSON `json:"data"`
		KDF  string     `json:"kdf"`
	}
	itemJSON struct {
		CompactJWE string `json:"compact_jwe"`
		Tag        string `json:"tag"`
	}
	sharedKeysJSON struct {
		EncShares    []wrappedJSON `json:"enc_shares"`
		KeyAlgorithm string        `json:"key_algorithm"`
		Required     int           `json:"required"`
	}
	wrappedJSON struct {
		EncKey string `json:"enc_key"`
		X5T256 string `json:"x5t_256"`
	}
	extensionJSON struct {
		Format     int                  `json:"format"`
		DomainID   string               `json:"domain_id"`
		HSM        string               `json:"hsm"`
		Created    string               `json:"created"`
		Total      int                  `json:"total"`
		Required   int                  `json:"required"`
		SigningKey string               `json:"signing_key"`
		Shares     []extensionShareJSON `json:"shares"`
		Signature  string               `json:"signature,omitempty"`
	}
	extensionShareJSON struct {
		X       int    `json:"x"`
		Label   string `json:"label"`
		X5T256  string `json:"x5t_256"`
		SPKI256 string `json:"spki_256"`
		Salt    string `json:"salt"`
		Check   string `json:"check"`
	}
)

// Seal makes an SD file of version 2 with the "strongroom" extension: a fresh master key, fresh polynomials, fresh
// salts. The custodians must pass CheckCustodians, whose warnings are not repeated here. If there is an item
// TagSigningKey it must be the key of Signer. The finished file has been read back and its signature verified.
func Seal(p SealParams) ([]byte, error) {
	if _, err := CheckCustodians(p.Certificates, p.Required, p.Created); err != nil {
		return nil, err
	}
	domainID, spki, err := checkSealParams(p)
	if err != nil {
		return nil, err
	}
	master, err := secret.Random(p.Rand, masterBytes)
	if err != nil {
		return nil, &Error{Kind: Random, Message: "no randomness for the master key", Err: err}
	}
	defer master.Wipe()

	file := fileJSON{
		Version:    2,
		SharedKeys: sharedKeysJSON{KeyAlgorithm: algorithmShare, Required: p.Required},
		Strongroom: extensionJSON{
			Format: extensionFormat, DomainID: domainID, HSM: p.HSMName, Created: p.Created.UTC().Format(time.RFC3339),
			Total: len(p.Certificates), Required: p.Required, SigningKey: encode64(spki),
		},
	}
	if file.EncData, err = sealItems(master, p.Items); err != nil {
		return nil, err
	}
	if err := file.sealShares(p, master); err != nil {
		return nil, err
	}
	unsigned, err := json.Marshal(file)
	if err != nil {
		return nil, &Error{Kind: Internal, Message: "the SD file cannot be encoded", Err: err}
	}
	if most := MaxFile - maxSignature; len(unsigned) > most {
		return nil, fail(InvalidParameter, "the domain items make an SD file of %d bytes; %d are the most", len(unsigned), most)
	}
	if file.Strongroom.Signature, err = signFile(p.Rand, p.Signer, unsigned); err != nil {
		return nil, &Error{Kind: Internal, Message: "the SD file cannot be signed", Err: err}
	}
	text, err := json.Marshal(file)
	if err != nil {
		return nil, &Error{Kind: Internal, Message: "the SD file cannot be encoded", Err: err}
	}
	// The file may be the only copy of the domain one day: do not hand out what does not read back.
	again, err := Parse(text)
	if err != nil {
		return nil, &Error{Kind: Internal, Message: "the SD file does not read back", Err: err}
	}
	if again.signature() != SignatureValid {
		return nil, fail(Internal, "the signature of the new SD file does not hold; the signing key is faulty")
	}
	return text, nil
}

func checkSealParams(p SealParams) (domainID string, spki []byte, err error) {
	switch {
	case p.Rand == nil:
		return "", nil, fail(Random, "no source of randomness was given")
	case p.Signer == nil:
		return "", nil, fail(InvalidParameter, "no signing key was given")
	case p.Created.IsZero() || p.Created.Year() < 1 || p.Created.Year() > 9999:
		return "", nil, fail(InvalidParameter, "no time of creation was given")
	case !isPlainText(p.HSMName, 0, maxHSMName):
		return "", nil, fail(InvalidParameter, "the HSM's name must be at most %d printable ASCII characters", maxHSMName)
	}
	if err := checkItems(p.Items); err != nil {
		return "", nil, err
	}
	pub, ok := p.Signer.Public().(*ecdsa.PublicKey)
	if !ok || pub.Curve != elliptic.P384() {
		return "", nil, fail(InvalidParameter, "the signing key is not an EC key on P-384")
	}
	if domainID, err = DomainID(pub); err != nil {
		return "", nil, err
	}
	if spki, err = x509.MarshalPKIXPublicKey(pub); err != nil {
		return "", nil, &Error{Kind: InvalidParameter, Message: "the signing key cannot be encoded", Err: err}
	}
	for _, item := range p.Items {
		if item.Tag != TagSigningKey {
			continue
		}
		if id, err := signingKeyID(item.Value); err != nil || id != domainID {
			return "", nil, &Error{Kind: InvalidParameter, Item: item.Tag, Message: fmt.Sprintf("item %q is not the signing key that signs the file", item.Tag), Err: err}
		}
	}
	return domainID, spki, nil
}

// checkItems checks tags, sizes and numbers of items that are about to be sealed.
func checkItems(items []Item) error {
	if len(items) < 1 || len(items) > MaxItems {
		return fail(InvalidParameter, "there are %d domain items; 1 to %d can be sealed", len(items), MaxItems)
	}
	seen := map[string]bool{}
	for i, item := range items {
		switch {
		case !isPlainText(item.Tag, 1, MaxTagBytes):
			return fail(InvalidParameter, "item %d has no tag of 1 to %d printable ASCII characters", i+1, MaxTagBytes)
		case seen[item.Tag]:
			return &Error{Kind: InvalidParameter, Item: item.Tag, Message: fmt.Sprintf("item %q is there twice", item.Tag)}
		case item.Value.Len() > MaxItemBytes:
			return &Error{Kind: InvalidParameter, Item: item.Tag, Message: fmt.Sprintf("item %q has %d bytes; %d are the most", item.Tag, item.Value.Len(), MaxItemBytes)}
		}
		seen[item.Tag] = true
	}
	return nil
}

func sealItems(master secret.Bytes, items []Item) (encDataJSON, error) {
	data := encDataJSON{KDF: kdfName}
	for _, item := range items {
		jwe, err := sealItem(master, item)
		if err != nil {
			return data, &Error{Kind: Internal, Item: item.Tag, Message: fmt.Sprintf("item %q cannot be encrypted", item.Tag), Err: err}
		}
		data.Data = append(data.Data, itemJSON{jwe, item.Tag})
	}
	return data, nil
}

// sealShares splits the master key and encrypts each share to its custodian, side by side: these are nearly all of
// Seal's work.
func (file *fileJSON) sealShares(p SealParams, master secret.Bytes) error {
	n := len(p.Certificates)
	shares, err := shamir.Split(p.Rand, master, n, p.Required)
	if err != nil {
		return &Error{Kind: Random, Message: "the master key cannot be shared", Err: err}
	}
	defer func() {
		for _, share := range shares {
			share.Wipe()
		}
	}()
	salts := make([]byte, n*saltBytes)
	if _, err := io.ReadFull(p.Rand, salts); err != nil {
		return &Error{Kind: Random, Message: "no randomness for the salts", Err: err}
	}
	sealed, faults := make([]string, n), make([]error, n)
	var workers sync.WaitGroup
	for i, cert := range p.Certificates {
		pub := cert.PublicKey.(*rsa.PublicKey) // CheckCustodians has seen it
		workers.Go(func() { sealed[i], faults[i] = sealKey(shares[i], pub) })
	}
	workers.Wait()
	for i, cert := range p.Certificates {
		share, salt, x5t := shares[i], salts[i*saltBytes:(i+1)*saltBytes], Thumbprint(cert)
		if faults[i] != nil {
			name := certificateName(cert, i)
			return &Error{Kind: BadCustodian, Custodian: name, Message: name + " has a key that cannot encrypt", Err: faults[i]}
		}
		spki, err := publicKeyID(cert.PublicKey.(*rsa.PublicKey))
		if err != nil {
			return &Error{Kind: Internal, Message: "a custodian's key cannot be encoded", Err: err}
		}
		file.SharedKeys.EncShares = append(file.SharedKeys.EncShares, wrappedJSON{sealed[i], x5t})
		file.Strongroom.Shares = append(file.Strongroom.Shares, extensionShareJSON{
			X: i + 1, Label: commonName(cert), X5T256: x5t, SPKI256: spki, Salt: encode64(salt), Check: encode64(shareCheck(salt, share)),
		})
	}
	return nil
}
