// Package target is where backups lie: a folder of this machine, a container of Azure Blob Storage that a SAS token
// opens, or a bucket of S3.
//
// All three are one thing, [Target]: objects named FOLDER/OBJECT that are written once, whole, and read. What is in them
// is none of its business: the format of a backup is another package's, and what that format authenticates makes no use
// of what a store says of itself.
//
// Who may name which place is decided here too, and nowhere else: [Places] holds the configuration against every URL,
// and every address that a name turns out to have when it is dialled. SAS tokens and credentials never reach the client
// libraries' URLs, an error, a log or a String: a token is put onto a request in the last step before the network, and
// errors are made here, of words that no server chose ([Error]).
package target

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"
)

// Info is what a listing says of one object. An alias, so that a package that knows nothing of this one can name the same
// type. Name is the object without its folder, Size is in bytes, Modified is when it was written, in UTC, as its store says.
type Info = struct {
	Name     string
	Size     int64
	Modified time.Time
}

// Object is one object being written, by one goroutine. An alias, as [Info] is.
//
// It is there, whole and on disk, when Commit returned nil, and not at all before. After an error of Commit it is not
// there either, except where the answer of the store was lost and the store could not be asked again. Abort gives up
// what was written; after Commit it does nothing, so it can be deferred. The context of Create ends both.
type Object = interface {
	io.Writer
	Commit() error
	Abort()
}

// Target is one place. Safe for concurrent use. Its errors are [Error]; those of wrong names are failure.BadParameter.
type Target interface {
	// Create begins the object FOLDER/OBJECT; folders need no making. It holds at most 16 MiB of it in memory. An object
	// that exists is fs.ErrExist, here or at the latest from Commit: nothing is ever overwritten.
	Create(ctx context.Context, name string) (Object, error)
	// Open reads an object from its start. One that is not there is fs.ErrNotExist. The caller closes it.
	Open(ctx context.Context, name string) (io.ReadCloser, error)
	// List returns the committed objects of a folder by name; none for a folder that is not there. What has another
	// name than Create takes is left out.
	List(ctx context.Context, folder string) ([]Info, error)
	// Folders returns the folders with an object in them whose names begin with prefix, by name.
	Folders(ctx context.Context, prefix string) ([]string, error)
	// Delete removes an object; one that is not there is no error. A store that refuses is fs.ErrPermission.
	Delete(ctx context.Context, name string) error
	// Sweep removes from a folder what writers that died left in it and no listing shows: half-written files, and parts that
	// wait for the end of an upload. Nobody may be writing into the folder. One that is not there is no error.
	Sweep(ctx context.Context, folder string) error
	// String says where it is, without the token.
	String() string
}

// PartSize is how many bytes of an object are held until they are sent. Ten thousand parts, what S3 takes, are 78 GiB.
const PartSize = 8 << 20

const (
	maxNameLen = 128     // of a folder, and of an object
	maxParts   = 10_000  // of one object: S3's bound; Azure's is 50,000
	maxListed  = 100_000 // entries of one listing
)

// splitName checks FOLDER/OBJECT.
func splitName(name string) (folder, object string, err error) {
	folder, object, found := strings.Cut(name, "/")
	if !found || !validName(folder) || !validName(object) {
		return "", "", badParameter("the name of an object in a backup is FOLDER/OBJECT, each of 1 to %d letters, digits, '.', '_' and '-', and not beginning with '.'", maxNameLen)
	}
	return folder, object, nil
}

func checkFolder(folder string) error {
	if !validName(folder) {
		return badParameter("the name of a backup folder is 1 to %d letters, digits, '.', '_' and '-', and does not begin with '.'", maxNameLen)
	}
	return nil
}

func checkPrefix(prefix string) error {
	if prefix != "" && !validName(prefix) {
		return badParameter("the beginning of a backup folder's name is at most %d letters, digits, '.', '_' and '-', and not first a '.'", maxNameLen)
	}
	return nil
}

// validName says whether s is the name of a folder or an object. One that begins with a dot is none: that excludes . and
// .., and leaves the local folder names for what is not committed yet.
func validName(s string) bool {
	if s == "" || len(s) > maxNameLen || s[0] == '.' {
		return false
	}
	for _, c := range []byte(s) {
		if !isAlphanumeric(c) && c != '.' && c != '_' && c != '-' {
			return false
		}
	}
	return true
}

func isAlphanumeric(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}

// tooMany is the answer to a listing that has no end.
func tooMany(where, op string) error {
	return &Error{Op: op, Where: where, Why: fmt.Sprintf("more than %d entries: take an emptier place", maxListed)}
}
