package securitydomain

import (
	"crypto/ecdsa"
	"fmt"
	"time"
)

// Inspection is what an SD file shows without a key. Everything in it is what the file says of itself.
type Inspection struct {
	Version      int                  `json:"version"`
	Origin       string               `json:"origin"` // OriginStrongroom, OriginAzure or OriginUnknown
	KDF          string               `json:"kdf"`
	KeyAlgorithm string               `json:"key_algorithm"`
	Required     int                  `json:"required"`
	Total        int                  `json:"total"` // custodians
	Custodians   []InspectedCustodian `json:"custodians"`
	Items        []InspectedItem      `json:"items"`
	Signature    string               `json:"signature"` // SignatureValid, SignatureInvalid or SignatureAbsent
	Extension    *InspectedExtension  `json:"extension,omitempty"`
	Unknown      []string             `json:"unknown,omitempty"` // names that mean nothing here
	Warnings     []Warning            `json:"warnings,omitempty"`
	Notes        []string             `json:"notes"` // what cannot be known from the file
}

// InspectedCustodian is one share's owner. In a version 1 file there is one entry for each half of a pair.
type InspectedCustodian struct {
	Position int    `json:"position"`
	Label    string `json:"label,omitempty"`
	X5T256   string `json:"x5t_256,omitempty"`
	SPKI256  string `json:"spki_256,omitempty"`
	HasCheck bool   `json:"has_check"`
	Damage   string `json:"damage,omitempty"` // why the share cannot be opened with any key
}

// InspectedItem is one domain item.
type InspectedItem struct {
	Tag   string `json:"tag"`
	Bytes int    `json:"bytes"` // of ciphertext: the plaintext has 1 to 16 fewer
}

// InspectedExtension is what the "strongroom" object says.
type InspectedExtension struct {
	Format   int       `json:"format"`
	DomainID string    `json:"domain_id"`
	HSM      string    `json:"hsm"`
	Created  time.Time `json:"created"`
}

// Where a file seems to be from.
const (
	OriginStrongroom = "strongroom" // it has the extension
	OriginAzure      = "azure"      // it has exactly the members that Azure writes
	OriginUnknown    = "unknown"
)

// Required returns how many custodians open the file.
func (f *File) Required() int { return f.required }

// SigningKey returns the public key whose ID is the domain ID that the file shows, or nil if the file does not name one or
// its signature does not hold. As with [File.Inspect], only somebody who knows the ID can say whether it is the right one.
func (f *File) SigningKey() *ecdsa.PublicKey {
	if f.ext == nil {
		return nil
	}
	return f.ext.signing
}

// Inspect describes the file. A valid signature proves that whoever signed held the signing key of the domain ID
// shown; whether that is the right domain, only somebody who knows its ID can say.
func (f *File) Inspect() Inspection {
	in := Inspection{
		Version: f.version, Origin: OriginUnknown, KDF: kdfName, KeyAlgorithm: f.algorithm, Required: f.required,
		Total: len(f.slots()), Signature: f.signature(), Unknown: f.unknown, Warnings: f.warnings(),
	}
	for _, s := range f.shares {
		c := InspectedCustodian{Position: s.position, X5T256: s.x5t}
		if s.damage != nil {
			c.Damage = "the share " + s.damage.Message
		}
		if s.hint != nil {
			c.Label, c.SPKI256, c.HasCheck = s.hint.label, s.hint.spki, true
		}
		in.Custodians = append(in.Custodians, c)
	}
	for _, item := range f.items {
		in.Items = append(in.Items, InspectedItem{item.tag, item.jwe.ciphertext})
	}
	switch {
	case f.ext != nil:
		in.Origin = OriginStrongroom
		in.Extension = &InspectedExtension{f.ext.format, f.ext.domainID, f.ext.hsm, f.ext.created}
	case f.extDamage == "" && !f.noVersion && len(f.unknown) == 0:
		in.Origin = OriginAzure
	}
	in.Notes = f.notes()
	return in
}

func (f *File) signature() string {
	switch {
	case f.ext == nil && f.extDamage == "":
		return SignatureAbsent
	case f.ext != nil && f.ext.valid:
		return SignatureValid
	}
	return SignatureInvalid
}

func (f *File) warnings() []Warning {
	var list []Warning
	if f.noVersion {
		list = append(list, Warning{WarnNoVersion, fmt.Sprintf("the file does not say its version and was read as version %d", f.version)})
	}
	if f.extDamage != "" {
		list = append(list, Warning{WarnExtensionDamaged, "the file's strongroom object is of no use: " + f.extDamage})
	} else if f.ext != nil && !f.ext.valid {
		list = append(list, Warning{WarnSignatureInvalid, "the file's signature does not hold: the file was changed after it was made. What it says about its domain, HSM and date is not to be trusted; what opens under the custodians' keys is intact"})
	}
	return list
}

func (f *File) notes() []string {
	var notes []string
	switch f.signature() {
	case SignatureAbsent:
		notes = append(notes,
			"The file does not say which domain it holds, which HSM it came from or when it was made.",
			"It has no check values: a damaged share shows when the file is opened, and not before.",
			"It has no signature: a changed file shows when it is opened, and not before.")
	case SignatureInvalid:
		notes = append(notes, "Domain ID, HSM, date, labels and check values are not to be trusted: the signature does not hold.")
	case SignatureValid:
		notes = append(notes, "The signature is by the signing key of the domain ID shown; compare that ID with the one you expect.")
	}
	return append(notes,
		"Who holds the custodians' private keys, and whether they still do, is not in the file.",
		"Whether the shares are intact inside their encryption is known only when they are opened.")
}
