package backupset

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"strongroom/internal/failure"
)

var sprintf = fmt.Sprintf

// What can be wrong with a backup: the Code of failures and findings. They are stable.
const (
	NotThere     = "BackupNotFound"         // there is nothing in the folder
	Exists       = "BackupExists"           // there is something in the folder, and a backup was to be written
	Unfinished   = "BackupUnfinished"       // it has no manifest
	Forged       = "BackupNotSigned"        // the manifest is none, or not signed by the domain that it names
	Newer        = "BackupFormatNewer"      // of a version that this program does not read
	Renamed      = "BackupRenamed"          // another backup than the folder's name says
	OtherDomain  = "SecurityDomainMismatch" // of another security domain
	Missing      = "BackupObjectMissing"    // an object is not there
	Truncated    = "BackupObjectTruncated"  // an object ends early
	Changed      = "BackupObjectChanged"    // an object is not what it was
	Mixed        = "BackupMixed"            // an object of another backup, or from another place
	Contradicted = "BackupContradicted"     // objects that are what they were contradict each other: our mistake, not an attack
	NoRecord     = "BackupRecordNotFound"   // the backup has no such record
)

// codes has for each code the kind of its failure, and what to do.
var codes = map[string]struct {
	kind failure.Kind
	next string
}{
	NotThere:     {failure.NotFound, "check the name of the folder"},
	Exists:       {failure.Conflict, "begin the backup again: it gets a folder of its own"},
	Unfinished:   {failure.BadParameter, "use another backup"},
	Forged:       {failure.BadParameter, "use another copy of the backup, and find out who wrote this one"},
	Newer:        {failure.Unsupported, "use a newer version of this program"},
	Renamed:      {failure.BadParameter, "if this is the backup that you mean, give the folder its name back"},
	OtherDomain:  {failure.WrongDomain, "restore it on an HSM of its own domain, or recover a new HSM with that domain's SD file first"},
	Missing:      {failure.BadParameter, "use another copy of the backup, or another backup"},
	Truncated:    {failure.BadParameter, "use another copy of the backup, or another backup"},
	Changed:      {failure.BadParameter, "use another copy of the backup, or another backup"},
	Mixed:        {failure.BadParameter, "use another copy of the backup, or another backup"},
	Contradicted: {failure.BadParameter, "use another backup, and report this: it was written so"},
	NoRecord:     {failure.NotFound, "look into its inventory"},
}

// CodeOf is the code of a failure of this package, or empty.
func CodeOf(err error) string {
	if f, ok := errors.AsType[*failure.Error](err); ok && codes[f.Code].kind != "" {
		return f.Code
	}
	return ""
}

// Finding is one thing that is wrong with a backup. Inside the package it is an error; outside it is a failure of the
// same code, or part of a [Report].
type Finding struct {
	Object string `json:"object"`
	Code   string `json:"code"`
	Reason string `json:"reason"` // for people: goes on after the object's name
}

func (f *Finding) Error() string { return f.Object + " " + f.Reason }

// refusal makes a failure.
func refusal(code, format string, args ...any) *failure.Error {
	c := codes[code]
	return failure.Coded(c.kind, code, "%s; %s", sprintf(format, args...), c.next)
}

// storageError is a storage that does not do what it was asked for.
type storageError struct {
	what   string // "cannot be read"
	object string
	err    error
}

func (e *storageError) Error() string { return e.object + " " + e.what + ": " + e.err.Error() }
func (e *storageError) Unwrap() error { return e.err }

// reasoned is an error of a storage that has a reason in words for the caller, with no secret in it.
type reasoned interface {
	error
	Reason() string
}

// fail is the one place that turns errors from inside the package into failures. What is one already, or none of ours (of
// an engine, of a context that ended), stays what it is.
func fail(folder string, err error) error {
	if _, is := err.(*failure.Error); is {
		return err
	}
	if f, ok := errors.AsType[*Finding](err); ok {
		return refusal(f.Code, "the backup %s cannot be used: %s %s", folder, f.Object, f.Reason)
	}
	s, ok := errors.AsType[*storageError](err)
	switch {
	case !ok, errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case errors.Is(s.err, fs.ErrExist):
		f := refusal(Exists, "there is an object %s in the folder %s already", s.object, folder)
		f.Cause = s.err
		return f
	}
	// A storage that says what is wrong, in words for the caller, is believed.
	if f, ok := errors.AsType[*failure.Error](s.err); ok {
		return &failure.Error{Kind: f.Kind, Code: f.Code, Message: sprintf("%s of the backup %s %s: %s", s.object, folder, s.what, f.Message), Cause: s.err}
	}
	if r, ok := errors.AsType[reasoned](s.err); ok {
		return failure.Wrap(failure.Unavailable, s.err, "%s of the backup %s %s: %s", s.object, folder, s.what, r.Reason())
	}
	return failure.Wrap(failure.Unavailable, s.err, "%s of the backup %s %s; check the storage, and try again", s.object, folder, s.what)
}
