package target

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"strings"
	"syscall"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/minio/minio-go/v7"

	"strongroom/internal/failure"
)

// ErrRefused is the kind of an [Error] whose cause is this package's own: an address or a redirect that the
// configuration does not allow.
var ErrRefused = errors.New("target: refused by the configuration")

// Error is a failure of a target. Its words are this package's: of what a server or a library said only a status and a
// known code get in, because theirs may hold the URL with the token, or the token itself.
type Error struct {
	Op    string // what was done: "create mhsm-a-2026112509301500/keys"
	Where string // the place, without its token
	Why   string
	Kind  error // fs.ErrExist, fs.ErrNotExist, fs.ErrPermission, a context's error, ErrRefused, the operating system's; or nil
}

func (e *Error) Error() string {
	return "backup target " + e.Where + ": " + e.Op + ": " + e.Why
}

// Reason is what may be told to whoever asked for the place.
func (e *Error) Reason() string { return e.Why }

// Unwrap returns the kind, never the error of a library.
func (e *Error) Unwrap() error { return e.Kind }

func badParameter(format string, args ...any) error {
	return failure.New(failure.BadParameter, format, args...)
}

// refusal is an error of the transport that no library tries again.
type refusal struct{ why string }

func (r *refusal) Error() string { return r.why }

// NonRetriable tells azcore so.
func (r *refusal) NonRetriable() {}

// explain turns an error of the network or of a client library into one that can be shown.
func explain(ctx context.Context, where, op string, err error) error {
	if err == nil {
		return nil
	}
	if done, is := errors.AsType[*Error](err); is {
		return done
	}
	why, kind := reason(err)
	if r, is := errors.AsType[*refusal](err); is {
		why, kind = r.why, ErrRefused
	} else if ctx.Err() != nil {
		why, kind = "ended before it was done", ctx.Err()
	}
	return &Error{Op: op, Where: where, Why: why, Kind: kind}
}

func reason(err error) (why string, kind error) {
	if answer, is := errors.AsType[*azcore.ResponseError](err); is {
		return status(answer.StatusCode, answer.ErrorCode)
	}
	if answer, is := errors.AsType[minio.ErrorResponse](err); is {
		return status(answer.StatusCode, answer.Code)
	}
	if unknown, is := errors.AsType[*net.DNSError](err); is {
		if unknown.IsTimeout {
			return "its name was not resolved in time", nil
		}
		return "its name cannot be resolved", nil
	}
	for _, known := range []struct {
		is  bool
		why string
	}{
		{isType[x509.UnknownAuthorityError](err), "its certificate is from an authority that is not trusted here"},
		{isType[x509.HostnameError](err), "its certificate is for another name"},
		{isType[x509.CertificateInvalidError](err), "its certificate is not valid: out of date, or not for a server"},
		{isType[*tls.CertificateVerificationError](err), "its certificate was not accepted"},
		{isType[tls.RecordHeaderError](err), "it does not speak TLS: is it http, not https?"},
		{isType[tls.AlertError](err), "it refused the TLS handshake"},
		{errors.Is(err, http.ErrSchemeMismatch), "it does not speak TLS: is it http, not https?"},
		{errors.Is(err, syscall.ECONNREFUSED), "connection refused: nothing listens there"},
		{errors.Is(err, syscall.EHOSTUNREACH) || errors.Is(err, syscall.ENETUNREACH), "there is no route to it"},
		{isTimeout(err), "no answer in time"},
		{errors.Is(err, errTooLong), "its answer is too long"},
		{errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, net.ErrClosed),
			"the connection broke"},
	} {
		if known.is {
			return known.why, nil
		}
	}
	return "its answer was not understood", nil
}

func isType[E error](err error) bool {
	_, is := errors.AsType[E](err)
	return is
}

func isTimeout(err error) bool {
	timeout, is := errors.AsType[net.Error](err)
	return is && timeout.Timeout() || errors.Is(err, context.DeadlineExceeded)
}

// status explains an answer of a store: Azure's codes and S3's.
func status(number int, code string) (why string, kind error) {
	said := fmt.Sprintf(" (HTTP %d)", number)
	if knownCodes[code] {
		said = fmt.Sprintf(" (HTTP %d %s)", number, code)
	}
	switch code {
	case "BlobAlreadyExists", "ConditionNotMet", "PreconditionFailed", "ConditionalRequestConflict":
		return "it exists already, and nothing is overwritten" + said, fs.ErrExist
	case "BlobImmutableDueToPolicy", "BlobImmutableDueToLegalHold", "ObjectLocked", "WORMProtected":
		return "the store is write-once and refuses" + said, fs.ErrPermission
	case "AuthenticationFailed", "AuthorizationFailure", "AuthorizationProtocolMismatch", "AuthorizationResourceTypeMismatch", "AuthorizationServiceMismatch",
		"AuthorizationSourceIPMismatch", "InvalidAuthenticationInfo", "NoAuthenticationInformation", "ExpiredToken", "InvalidAccessKeyId", "SignatureDoesNotMatch":
		return "the token or the credentials do not hold: over, not yet valid, or for another place" + said, errCredentials
	case "ContainerNotFound", "NoSuchBucket", "ResourceNotFound":
		return "there is no such container or bucket: make it first" + said, errNoContainer
	}
	switch {
	case number == http.StatusNotFound:
		return "it is not there" + said, fs.ErrNotExist
	case number == http.StatusPreconditionFailed:
		return "it exists already, and nothing is overwritten" + said, fs.ErrExist
	case number == http.StatusUnauthorized || number == http.StatusForbidden:
		return "the store does not allow it: look at the permissions and the times of the token or the credentials" + said, fs.ErrPermission
	case number >= 500 || number == http.StatusTooManyRequests:
		return "the store could not do it, several times" + said, nil
	}
	return "the store refused" + said, nil
}

// errNoContainer is a missing container or bucket: also fs.ErrNotExist, and told apart where a missing object is fine.
var errNoContainer = fmt.Errorf("target: no such container or bucket: %w", fs.ErrNotExist)

// errCredentials are credentials that open nothing: also fs.ErrPermission, and told apart from a missing permission to read.
var errCredentials = fmt.Errorf("target: the credentials do not hold: %w", fs.ErrPermission)

// knownCodes are the codes of Azure and S3 that help whoever reads them. Any other is not shown: a store could put into
// it what it was told.
var knownCodes = func() map[string]bool {
	known := map[string]bool{}
	for code := range strings.FieldsSeq(`
		AccountIsDisabled AuthenticationFailed AuthorizationFailure AuthorizationPermissionMismatch AuthorizationProtocolMismatch
		AuthorizationResourceTypeMismatch AuthorizationServiceMismatch AuthorizationSourceIPMismatch InsufficientAccountPermissions
		BlobAlreadyExists BlobArchived BlobBeingRehydrated BlobImmutableDueToLegalHold BlobImmutableDueToPolicy BlobNotFound BlobOperationNotSupported
		ConditionNotMet ContainerBeingDeleted ContainerDisabled ContainerNotFound InternalError InvalidAuthenticationInfo InvalidBlockList InvalidHeaderValue
		InvalidQueryParameterValue InvalidResourceName LeaseIdMissing NoAuthenticationInformation OperationTimedOut PublicAccessNotPermitted
		RequestBodyTooLarge ResourceNotFound ServerBusy UnsupportedHeader
		AccessDenied AllAccessDisabled AuthorizationHeaderMalformed BadDigest BucketAlreadyExists ConditionalRequestConflict EntityTooLarge EntityTooSmall
		ExpiredToken InvalidAccessKeyId InvalidAccessPoint InvalidBucketName InvalidBucketState InvalidDigest InvalidObjectState InvalidPart InvalidRegion
		InvalidRequest InvalidStorageClass MethodNotAllowed NoSuchBucket NoSuchKey NoSuchUpload NotImplemented ObjectLocked PermanentRedirect
		PreconditionFailed QuotaExceeded RequestTimeTooSkewed RequestTimeout SignatureDoesNotMatch SlowDown WORMProtected XMinioStorageFull`) {
		known[code] = true
	}
	return known
}()
