// Package seal keeps domain items and exchange keys at rest on this machine. A seal holds one random 32-byte
// root key and wraps small secrets under it, each bound to a context (which HSM, which record). How the root
// key itself is kept is the difference between the kinds: in a file of mode 0600, or under a passphrase.
//
// Whoever has the database and the seal has the keys; whoever has one of the two has nothing.
package seal

import (
	"errors"

	"strongroom/secret"
)

// Seal wraps and unwraps secrets under the root key. Safe for concurrent use.
type Seal interface {
	// ID names the root key (hex, 32 digits, public). A database remembers the ID of its seal, so that a wrong
	// seal is refused at start and not on the day of need.
	ID() string
	// Kind is "file" or "passphrase".
	Kind() string
	// Wrap encrypts plaintext and binds it to context, a public text that Unwrap must be given again.
	Wrap(plaintext secret.Bytes, context string) ([]byte, error)
	// Unwrap returns the plaintext, or ErrUnwrap when the bytes, the context or the root key differ.
	Unwrap(sealed []byte, context string) (secret.Bytes, error)
	// Close wipes the root key. Later calls fail.
	Close()
}

var (
	// ErrUnwrap says that a sealed record does not open: it was changed, moved, or sealed by another seal.
	ErrUnwrap = errors.New("seal: the record does not open under this seal")
	// ErrPassphrase says that the passphrase does not open the seal.
	ErrPassphrase = errors.New("seal: wrong passphrase")
	// ErrMissing says that there is no seal at the given place.
	ErrMissing = errors.New("seal: there is no seal file")
	// ErrMalformed says that the seal file cannot be read.
	ErrMalformed = errors.New("seal: the seal file is damaged")
)
