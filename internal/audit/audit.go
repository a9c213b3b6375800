// Package audit is the record of what was asked of a server and what came of it: an append-only log on disk that
// nobody can change unseen.
//
// The log is a folder of segments, text files with one JSON object a line. A record that is in the log when
// [Log.Append] returns is on disk. Each line carries the hash of the record before it, all records are the leaves of a
// hash tree (RFC 6962, by golang.org/x/mod/sumdb/tlog), and at bounded distances stands a checkpoint: number and root
// hash of all records so far, signed as a note (golang.org/x/mod/sumdb/note) by the server's audit key and by the
// signing key of every activated security domain. docs/formats.md draws all of it.
//
// [Verify] needs a copy of the folder and the public keys, and nothing else; [Prove] takes one record out, with a
// proof that a third party checks by [CheckProof].
//
// What the package does not do: it does not decide what is recorded, it does not know HTTP, and it cannot show that
// the end of a log was cut off back to an earlier checkpoint, or all of it put back to an older copy, unless somebody
// kept a later checkpoint. A server keeps one: see [Options.Known].
package audit

import (
	"errors"

	"strongroom/internal/failure"
)

// Bounds of the format. docs/formats.md names them.
const (
	// MaxRecord is the length of a record's line, without its end.
	MaxRecord = 3584
	// MaxLine is the length of any line, without its end: a checkpoint may have many signatures.
	MaxLine = 32 << 10
	// MaxUnsigned is how many records may stand after the last checkpoint. A server whose keys cannot sign records no
	// more than that, and a log with a longer end lost its checkpoints.
	MaxUnsigned = 4096

	// writerUnsigned is where a writer stops: what is between is for the records of recoveries.
	writerUnsigned = MaxUnsigned - 1024

	// maxBatch and maxBatchBytes bound what one sync makes durable, and so what a crash can tear.
	maxBatch      = 512
	maxBatchBytes = maxBatch * (MaxRecord + 1)
)

var (
	// ErrFull says that there is no space: nothing of the record was kept, and the log goes on by itself when there is.
	ErrFull = errors.New("audit: no space left on the device")
	// ErrFailed says that a write or a sync failed. What is on disk is unknown, so the log refuses everything from then
	// on and the process has to end: the kernel reports a lost page once (PostgreSQL's lesson of 2018).
	ErrFailed = errors.New("audit: a record could not be made durable; the server must be restarted")
	// ErrClosed is the answer of a closed log.
	ErrClosed = errors.New("audit: the log is closed")
	// ErrUnsigned says that no checkpoint could be signed for [MaxUnsigned] records.
	ErrUnsigned = errors.New("audit: the log cannot be signed")
	// ErrBusy says that more callers wait than [Options.MaxWaiting].
	ErrBusy = errors.New("audit: too many records wait for the disk")

	// ErrInUse says that another process writes to the log.
	ErrInUse = errors.New("audit: the folder is in use")
	// ErrForeign says that the log belongs to another server.
	ErrForeign = errors.New("audit: the log is another server's")
	// ErrMissing says that there is no log where there was one.
	ErrMissing = errors.New("audit: the log is missing")
	// ErrFormat says that the log was written by a program of another time.
	ErrFormat = errors.New("audit: the log has a format that this program does not know")
	// ErrDamaged says that the log is not what a crash leaves: somebody changed it, or the disk did.
	ErrDamaged = errors.New("audit: the log is damaged")
	// ErrRolledBack says that the log is not a continuation of what the server signed last.
	ErrRolledBack = errors.New("audit: the log is not the one that was signed last")
)

// CodeUnavailable is the stable code of an operation that is refused because it cannot be recorded.
const CodeUnavailable = "AuditUnavailable"

// unavailable is what callers of Append get; the cause is for the operator.
func unavailable(cause error) *failure.Error {
	e := failure.Wrap(failure.Unavailable, cause, "the audit log cannot be written, so nothing is done; try again later, and tell the operator of this server")
	e.Code = CodeUnavailable
	return e
}
