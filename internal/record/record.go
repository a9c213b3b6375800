// Package record is what the planes of a server know of a call, for the record that is kept of it: who, from where,
// what, and what came of it. It is a form and a promise; package audit keeps the records, and package server puts the
// two together.
package record

import (
	"context"
	"net"
	"net/http"
	"time"

	"strongroom/internal/access"
)

// Call is one call. Nothing in it is secret, and what a stranger can write into it is bounded: names that passed a
// router, and texts of a verified token.
type Call struct {
	Request, ClientRequest string        // IDs
	Caller                 access.Caller // the zero value: nobody who could be believed
	Source                 string        // address, without the port
	HSM, HSMID             string        // "" until the HSM is found
	Operation              string        // name of the route; "" where there is none
	Action                 access.Action // data action of the operation, where it has one
	Changes                bool          // it changes something that outlasts the call
	Intended               bool          // the intent is recorded
	Key, Version           string        // as used; from the path until then
	Authority, Recipient   string        // of a release: the attestation authority, and the RFC 7638 thumbprint of the key that it attested
	Scope, Object          string        // of a change of roles or settings: where, and the ID of the assignment or definition, or the name of the setting
	Role, Assignee         string        // of a role assignment: the ID of the role, and who has it
	Status                 int           // 0 in an intent
	Code                   string        // of the error
	Took                   time.Duration
}

// Recorder keeps a durable record of every call.
type Recorder interface {
	// Intent is called before a call that changes something, Outcome before any answer leaves. If one of them fails, what
	// it stands before does not happen: the caller gets its error instead.
	Intent(ctx context.Context, c *Call) error
	Outcome(ctx context.Context, c *Call) error
}

// Panicked keeps the outcome of a call that ends in the panic p, and returns what to panic with for the server, which
// answers it: p or, as there is no answer without a record, an [Unrecorded]. r may be nil.
func Panicked(ctx context.Context, r Recorder, c *Call, p any) any {
	c.Status, c.Code = http.StatusInternalServerError, "InternalServerError"
	if r != nil && r.Outcome(context.WithoutCancel(ctx), c) != nil {
		return Unrecorded{p}
	}
	return p
}

// Unrecorded is a panic whose call could not be recorded. It must not be answered.
type Unrecorded struct{ Panic any }

// Source is the address of a peer without its port.
func Source(remote string) string {
	host, _, err := net.SplitHostPort(remote)
	if err != nil {
		return ""
	}
	return host
}
