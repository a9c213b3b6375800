package securitydomain

import (
	"unicode"

	"strongroom/internal/strictjson"
)

// Bounds of the files. A file beyond them is refused, whoever wrote it.
const (
	MaxFile      = 1 << 20   // bytes of an SD file or transfer file
	MaxItems     = 64        // domain items
	MaxItemBytes = 512 << 10 // bytes of one item's plaintext
	MaxTagBytes  = 128       // of an item's tag; printable ASCII

	MinCustodians = 3 // that Strongroom seals for
	MaxCustodians = 10
	MinRequired   = 2
	MaxRequired   = 10

	// MaxKeys bounds the keys given to Open, and so the private-key operations it can be made to do.
	MaxKeys = 64

	maxPairs   = 100 // of a version 1 file
	maxLabel   = 64  // bytes of a custodian's label
	maxHSMName = 128
	maxUnknown = 32 // names that Inspect lists
)

var fileLimits = strictjson.Limits{Bytes: MaxFile, Depth: 16, Elements: 256, StringBytes: MaxFile, Values: 4096}

// isPlainText reports whether s is printable ASCII of min to max bytes.
func isPlainText(s string, min, max int) bool {
	if len(s) < min || len(s) > max {
		return false
	}
	for i := range len(s) {
		if s[i] < 0x20 || s[i] > 0x7e {
			return false
		}
	}
	return true
}

// showable reports whether a rune may be printed to a terminal as it is: no control, no direction change, no
// invisible character.
func showable(r rune) bool { return r == ' ' || unicode.IsGraphic(r) && !unicode.IsSpace(r) }
