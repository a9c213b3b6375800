package securitydomain

import (
	"fmt"
	"strings"
)

// Kind says what sort of thing is wrong. The strings are stable; a Kind is an error, so
// errors.Is(err, securitydomain.ItemDamaged) works.
type Kind string

func (k Kind) Error() string { return string(k) }

// The kinds.
const (
	Malformed            Kind = "malformed"             // not the JSON or not the structure of this file
	UnsupportedVersion   Kind = "unsupported-version"   // of the file or of the extension
	UnsupportedKDF       Kind = "unsupported-kdf"       // a key derivation other than sp108_kdf
	UnsupportedAlgorithm Kind = "unsupported-algorithm" // of sharing or of a JWE
	BadQuorum            Kind = "bad-quorum"            // a number of custodians or a quorum out of bounds
	BadCustodian         Kind = "bad-custodian"         // a certificate that cannot be a custodian's
	NotACustodian        Kind = "not-a-custodian"       // none of the keys opens any share
	TooFewShares         Kind = "too-few-shares"        // keys of fewer custodians than the quorum
	ShareDamaged         Kind = "share-damaged"         // a share does not open or is not intact, and it was needed
	SharesDoNotMatch     Kind = "shares-do-not-match"   // intact shares that do not open this file together
	ItemDamaged          Kind = "item-damaged"          // a domain item does not open or is not what it says
	WrongExchangeKey     Kind = "wrong-exchange-key"    // a transfer file for another exchange key
	TransferUnopenable   Kind = "transfer-unopenable"   // a transfer file for this key that does not open
	InvalidParameter     Kind = "invalid-parameter"     // the caller's mistake, not the file's
	Random               Kind = "random"                // the source of randomness failed
	Internal             Kind = "internal"              // what cannot happen
)

// Error is what every function of this package fails with. As JSON it has the kind, the message and what the
// message counts and names; it holds no secret and no piece of the file but names, cut and cleaned for printing.
type Error struct {
	Kind    Kind   `json:"kind"`
	Message string `json:"message"` // what is wrong and what to do next; no full stop at the end
	// Custodian is the one whose share is damaged, or whose certificate is refused.
	Custodian string `json:"custodian,omitempty"`
	// Item is the tag of the damaged item.
	Item string `json:"item,omitempty"`
	// Good and Required count shares when an SD file did not open for lack of them.
	Good     int `json:"good,omitempty"`
	Required int `json:"required,omitempty"`
	// Shares are the keys and shares that were of no use, and why.
	Shares []ShareReport `json:"shares,omitempty"`
	Err    error         `json:"-"` // the cause, for an operator
}

func (e *Error) Error() string { return e.Message }

// Unwrap makes errors.Is see the kind and the cause.
func (e *Error) Unwrap() []error {
	if e.Err != nil {
		return []error{e.Kind, e.Err}
	}
	return []error{e.Kind}
}

// ShareReport is what became of one share or one key while an SD file was opened.
type ShareReport struct {
	Custodian string `json:"custodian,omitempty"` // as the file names it; empty if the key is no custodian's
	Position  int    `json:"position,omitempty"`  // of the share in the file, from 1; 0 if the key has none
	X5T256    string `json:"x5t_256,omitempty"`   // thumbprint of the custodian's certificate
	Key       string `json:"key,omitempty"`       // Key.Name
	Reason    string `json:"reason,omitempty"`    // why it was passed over; empty for a share that was used
}

func (r ShareReport) String() string {
	var who []string
	if r.Custodian != "" {
		who = append(who, r.Custodian)
	}
	if r.Key != "" {
		who = append(who, "key "+r.Key)
	}
	return strings.Join(who, ", ") + ": " + r.Reason
}

// Warning is something a person should know although the work was done. Codes are stable.
type Warning struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

// The codes of warnings.
const (
	WarnExpired          = "certificate-expired"
	WarnNotYetValid      = "certificate-not-yet-valid"
	WarnNoVersion        = "version-missing"
	WarnExtensionDamaged = "extension-damaged"
	WarnSignatureInvalid = "signature-invalid"
	WarnSharePassedOver  = "share-passed-over"
	WarnKeyCertificate   = "key-certificate-mismatch"
)

func fail(k Kind, format string, args ...any) *Error {
	return &Error{Kind: k, Message: fmt.Sprintf(format, args...)}
}

func malformed(format string, args ...any) *Error { return fail(Malformed, format, args...) }

// printable cuts and cleans a text that came from a file, for use in a message: at most 64 bytes, printable ASCII
// and letters only, so that it can neither fill nor steer a terminal.
func printable(s string) string {
	const longest = 64
	var b strings.Builder
	for _, r := range s {
		if b.Len() >= longest {
			b.WriteString("…")
			break
		}
		if !showable(r) {
			r = '·'
		}
		b.WriteRune(r)
	}
	return b.String()
}
