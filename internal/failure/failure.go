// Package failure is the core's error type: a kind that programs branch on, a message for the caller, and a
// cause for the operator. The core knows kinds; the HTTP planes turn a kind into a status and a body in one
// function (package api), and nothing else does.
package failure

import (
	"errors"
	"fmt"
)

// Kind says what sort of thing went wrong. A Kind is an error, so errors.Is(err, failure.NotFound) works.
type Kind string

func (k Kind) Error() string { return string(k) }

// The kinds. Each maps to one HTTP status in package api.
const (
	BadParameter  Kind = "bad parameter"      // the request is wrong; the same request will fail again
	Unauthorized  Kind = "unauthorized"       // no token, or one that does not hold
	Forbidden     Kind = "forbidden"          // the caller has no role that allows this
	NotActivated  Kind = "not activated"      // the HSM has no security domain yet
	NotFound      Kind = "not found"          // no such object
	Conflict      Kind = "conflict"           // the state of the object does not allow this
	WrongDomain   Kind = "wrong domain"       // made under another security domain
	Disabled      Kind = "disabled"           // the object exists and may not be used now
	Tampered      Kind = "tampered"           // a stored record does not verify
	TooLarge      Kind = "too large"          // the request exceeds a documented bound
	Unsupported   Kind = "unsupported"        // well-formed, and not something this server does
	Misdirected   Kind = "misdirected"        // no HSM answers to that host name
	BadMethod     Kind = "method not allowed" // the path exists, with other methods
	NoRoute       Kind = "no such route"      // the path does not exist
	BadMediaType  Kind = "unsupported media"  // the body is not JSON
	Throttled     Kind = "throttled"          // come back later
	Unavailable   Kind = "unavailable"        // the server cannot do this now: disk full, stopping
	StorageFailed Kind = "storage failed"     // the store failed for good; the server is going to stop
	Internal      Kind = "internal"           // our own broken promise
)

// Error is a failure of one kind.
type Error struct {
	Kind Kind
	// Code is the stable code in the answer ("KeyNotFound"); empty means the kind's default code.
	Code string
	// Message is for the caller: what is wrong and what to do next. It never holds a secret.
	Message string
	// Cause is for the operator's log and never reaches the caller.
	Cause error
}

func (e *Error) Error() string {
	if e.Cause != nil {
		return e.Message + ": " + e.Cause.Error()
	}
	return e.Message
}

// Unwrap makes errors.Is see both the kind and the cause.
func (e *Error) Unwrap() []error {
	if e.Cause != nil {
		return []error{e.Kind, e.Cause}
	}
	return []error{e.Kind}
}

// New returns a failure with a formatted message for the caller. Do not format a cause into it: see [Wrap].
func New(k Kind, format string, args ...any) *Error {
	return &Error{Kind: k, Message: fmt.Sprintf(format, args...)}
}

// Coded is [New] with a stable code of its own.
func Coded(k Kind, code, format string, args ...any) *Error {
	return &Error{Kind: k, Code: code, Message: fmt.Sprintf(format, args...)}
}

// Wrap returns a failure whose cause is logged, not shown.
func Wrap(k Kind, cause error, format string, args ...any) *Error {
	return &Error{Kind: k, Message: fmt.Sprintf(format, args...), Cause: cause}
}

// KindOf returns the kind of err, or Internal for an error that has none.
func KindOf(err error) Kind {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Kind
	}
	return Internal
}
