// Package api holds what goes over the wire: Azure's error body and the one mapping from failure kinds to it,
// and the request and answer forms of Managed HSM that the data plane and its clients share. Member names are
// exactly those on the wire (protocol: dataplane, securitydomain). The package decides nothing and does no I/O.
package api

import (
	"context"
	"errors"
	"net/http"

	"strongroom/internal/failure"
)

// ErrorBody is the body of every answer of 400 and above.
type ErrorBody struct {
	Error ErrorDetail `json:"error"`
}

// ErrorDetail is Azure's error: a stable code to branch on and a message for people.
type ErrorDetail struct {
	Code    string `json:"code"`
	Message string `json:"message"`
	// InnerError narrows Code for clients that look deeper; most errors have none.
	InnerError *InnerError `json:"innererror,omitempty"`
}

// InnerError is the more specific code inside an error.
type InnerError struct {
	Code       string      `json:"code"`
	InnerError *InnerError `json:"innererror,omitempty"`
}

// wire is how one kind looks from outside.
type wire struct {
	status int
	code   string // used when the failure has no code of its own
}

// wires is the one table from kinds to HTTP. A kind without a row is a failing test.
var wires = map[failure.Kind]wire{
	failure.BadParameter:  {http.StatusBadRequest, "BadParameter"},
	failure.Unauthorized:  {http.StatusUnauthorized, "Unauthorized"},
	failure.Forbidden:     {http.StatusForbidden, "AccessDenied"}, // what Managed HSM was seen to answer; vaults say Forbidden
	failure.NotActivated:  {http.StatusForbidden, "HsmNotActivated"},
	failure.NotFound:      {http.StatusNotFound, "ResourceNotFound"}, // keys say KeyNotFound themselves
	failure.Conflict:      {http.StatusConflict, "Conflict"},
	failure.WrongDomain:   {http.StatusConflict, "SecurityDomainMismatch"}, // the HSM's state refuses it, not its form
	failure.Disabled:      {http.StatusForbidden, "KeyDisabled"},
	failure.Tampered:      {http.StatusInternalServerError, "RecordTampered"},
	failure.TooLarge:      {http.StatusRequestEntityTooLarge, "RequestTooLarge"},
	failure.Unsupported:   {http.StatusBadRequest, "NotSupported"},
	failure.Misdirected:   {http.StatusMisdirectedRequest, "MisdirectedRequest"},
	failure.BadMethod:     {http.StatusMethodNotAllowed, "MethodNotAllowed"},
	failure.NoRoute:       {http.StatusNotFound, "RouteNotFound"},
	failure.BadMediaType:  {http.StatusUnsupportedMediaType, "UnsupportedMediaType"},
	failure.Throttled:     {http.StatusTooManyRequests, "TooManyRequests"},
	failure.Unavailable:   {http.StatusServiceUnavailable, "ServiceUnavailable"},
	failure.StorageFailed: {http.StatusServiceUnavailable, "StorageFailed"},
	failure.Internal:      {http.StatusInternalServerError, "InternalServerError"},
}

// innerCodes are codes that clients look for in innererror, under the kind's own code (.NET's samples and
// Terraform branch on them after a 409).
var innerCodes = map[string]bool{
	"ObjectIsDeletedButRecoverable": true,
	"ObjectIsBeingDeleted":          true,
}

// FromFailure turns an error into the status and body of its answer. The message is the failure's own; of an
// error that is no failure, and of every cause, nothing gets out. activityID (the request's id, in the answer's
// headers and in the log) is put at the end of the message as Managed HSM does, unless it is empty.
func FromFailure(err error, activityID string) (status int, body ErrorBody) {
	f, known := errors.AsType[*failure.Error](err)
	if !known {
		f = foreign(err)
	}
	w, mapped := wires[f.Kind]
	if !mapped {
		w = wires[failure.Internal]
	}
	detail := ErrorDetail{Code: w.code, Message: f.Message}
	switch {
	case innerCodes[f.Code]:
		detail.InnerError = &InnerError{Code: f.Code}
	case f.Code != "":
		detail.Code = f.Code
	}
	if detail.Message == "" {
		detail.Message = "the request failed: " + string(f.Kind)
	}
	if activityID != "" {
		detail.Message += " (Activity ID: " + activityID + ")"
	}
	return w.status, ErrorBody{Error: detail}
}

// foreign gives an error from outside the core the little that a caller may know of it.
func foreign(err error) *failure.Error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return failure.Wrap(failure.Unavailable, err, "the request was cancelled or took too long; try again")
	}
	return failure.Wrap(failure.Internal, err, "the server failed; its log has the cause under this request's id")
}
