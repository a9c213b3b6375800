// Package secret holds the one type that carries secret bytes.
//
// Keys, shares, master keys, passphrases and tokens travel through Strongroom as [Bytes], never as a bare
// slice or string, so that no log line, error, %+v of a struct or JSON encoder can show them. The bytes sit
// behind a closure: fmt and reflection see a function address, even when the value is nested in somebody
// else's unexported field, where fmt cannot call our methods. The only way out is [Bytes.Reveal], so a
// search for Reveal lists every place that touches plaintext.
//
// Wiping is best effort: Go may have copied the bytes while growing a stack or in the packages of crypto/*.
// The package promises that its own copy is cleared, and no more.
package secret

import (
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"log/slog"
)

const redacted = "[redacted]"

// ErrMarshal is returned by every encoder that is asked to write a secret.
var ErrMarshal = errors.New("secret: a secret is never encoded")

// Bytes is an opaque secret. The zero value is the empty secret. Values are incomparable on purpose: == is not
// constant-time; use [Bytes.Equal]. Copies share the same storage, so wiping one wipes all.
// Safe for concurrent use, except that Wipe must not run beside a reader.
type Bytes struct {
	open func() []byte
}

// New returns a secret holding a copy of b. The caller still owns b and should clear it.
func New(b []byte) Bytes {
	return Take(append([]byte(nil), b...))
}

// Take returns a secret that owns b itself: the caller must not use b again. [Bytes.Wipe] clears it.
func Take(b []byte) Bytes {
	return Bytes{open: func() []byte { return b }}
}

// Random returns n bytes read from r.
func Random(r io.Reader, n int) (Bytes, error) {
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return Bytes{}, fmt.Errorf("secret: read %d random bytes: %w", n, err)
	}
	return Take(b), nil
}

// Reveal returns the secret bytes themselves, not a copy. The caller must not change, keep or print them.
func (s Bytes) Reveal() []byte {
	if s.open == nil {
		return nil
	}
	return s.open()
}

// Len returns the number of bytes; a length is not treated as secret.
func (s Bytes) Len() int { return len(s.Reveal()) }

// IsZero reports whether the secret is empty.
func (s Bytes) IsZero() bool { return s.Len() == 0 }

// Equal compares in time that depends on the lengths only.
func (s Bytes) Equal(other Bytes) bool {
	return subtle.ConstantTimeCompare(s.Reveal(), other.Reveal()) == 1
}

// Clone returns a secret with its own copy of the bytes, which outlives a wipe of s.
func (s Bytes) Clone() Bytes { return New(s.Reveal()) }

// Wipe clears the bytes in place. The length stays; every copy of this value now holds zeros.
func (s Bytes) Wipe() { clear(s.Reveal()) }

// Format prints "[redacted]" for every verb and flag.
func (s Bytes) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// String prints "[redacted]".
func (s Bytes) String() string { return redacted }

// GoString prints "[redacted]".
func (s Bytes) GoString() string { return redacted }

// LogValue logs "[redacted]".
func (s Bytes) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText fails with [ErrMarshal]; JSON, XML and slog's text form use it.
func (s Bytes) MarshalText() ([]byte, error) { return nil, ErrMarshal }

// MarshalJSON fails with [ErrMarshal].
func (s Bytes) MarshalJSON() ([]byte, error) { return nil, ErrMarshal }

// MarshalBinary fails with [ErrMarshal]; gob uses it.
func (s Bytes) MarshalBinary() ([]byte, error) { return nil, ErrMarshal }

// GobEncode fails with [ErrMarshal].
func (s Bytes) GobEncode() ([]byte, error) { return nil, ErrMarshal }
