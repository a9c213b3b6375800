package backupset

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"hash"
	"io"
	"io/fs"
)

// Storage is where backups are, as package target has it for folders and object stores. Names are {folder}/{object}.
//
// A backup is written through Create alone: nothing is listed, read back, overwritten or deleted, so a storage that allows
// nothing but new objects is enough.
type Storage interface {
	// Create begins an object. It, or Commit, fails with fs.ErrExist if there is one of that name. Two objects at most are
	// open at once. ctx is that of the call of this package that makes the object, which outlives it: see [New].
	Create(ctx context.Context, name string) (Object, error)
	// Open reads an object from its beginning. fs.ErrNotExist if there is none.
	Open(ctx context.Context, name string) (io.ReadCloser, error)
	// List is what is in a folder, in any order; nothing if there is no such folder.
	List(ctx context.Context, folder string) ([]Info, error)
}

// Object is one that is being written. It is there, whole and durable, when Commit has returned nil; after Abort, or
// when the process ended before, it is not there at all. Abort after Commit does nothing.
type Object interface {
	io.Writer
	Commit() error
	Abort()
}

// Info is an object of a folder.
type Info struct {
	Name string // of the object in its folder, without the folder
	Size int64
}

// objectWriter counts and hashes what goes into an object.
type objectWriter struct {
	name string
	to   Object
	hash hash.Hash
	size int64
}

func create(ctx context.Context, s Storage, folder, name string) (*objectWriter, error) {
	to, err := s.Create(ctx, folder+"/"+name)
	if err != nil {
		return nil, &storageError{"cannot be created", name, err}
	}
	return &objectWriter{name: name, to: to, hash: sha256.New()}, nil
}

func (o *objectWriter) Write(p []byte) (int, error) {
	n, err := o.to.Write(p)
	o.hash.Write(p[:n])
	o.size += int64(n)
	if err == nil && n < len(p) {
		err = io.ErrShortWrite
	}
	if err != nil {
		return n, &storageError{"cannot be written", o.name, err}
	}
	return n, nil
}

func (o *objectWriter) commit() (ObjectInfo, error) {
	if err := o.to.Commit(); err != nil {
		return ObjectInfo{}, &storageError{"cannot be written", o.name, err}
	}
	return ObjectInfo{Name: o.name, Size: o.size, SHA256: hex.EncodeToString(o.hash.Sum(nil))}, nil
}

// objectReader reads an object that the manifest describes, and at most one byte more than that.
type objectReader struct {
	want ObjectInfo
	from io.ReadCloser
	hash hash.Hash
	size int64
	// ended is kept: not every reader says its end twice.
	ended bool
	ctx   context.Context // of the call that reads: a read has none of its own
	tell  func(n int)     // how much was read; may be nil
}

// openObject fails with a Missing finding if there is no such object.
func openObject(ctx context.Context, s Storage, folder string, want ObjectInfo, tell func(int)) (*objectReader, error) {
	from, err := s.Open(ctx, folder+"/"+want.Name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &Finding{Object: want.Name, Code: Missing, Reason: "is missing"}
	}
	if err != nil {
		return nil, &storageError{"cannot be read", want.Name, err}
	}
	return &objectReader{want: want, from: from, hash: sha256.New(), ctx: ctx, tell: tell}, nil
}

func (o *objectReader) Read(p []byte) (int, error) {
	if err := o.ctx.Err(); err != nil {
		return 0, err
	}
	room := o.want.Size + 1 - o.size
	if room <= 0 {
		return 0, o.tooLong()
	}
	if o.ended {
		return 0, io.EOF
	}
	n, err := o.from.Read(p[:min(int64(len(p)), room)])
	o.hash.Write(p[:n])
	o.size += int64(n)
	if o.tell != nil {
		o.tell(n)
	}
	if o.ended = err == io.EOF; err != nil && !o.ended {
		err = &storageError{"cannot be read", o.want.Name, err}
	}
	return n, err
}

// end reads what is left and says whether it was the object that the manifest describes.
func (o *objectReader) end(buffer []byte) error {
	for {
		if _, err := o.Read(buffer); err == io.EOF {
			break
		} else if err != nil {
			return err
		}
	}
	switch {
	case o.size > o.want.Size:
		return o.tooLong()
	case o.size < o.want.Size:
		return &Finding{o.want.Name, Truncated, sprintf("is cut off: it has %d bytes, and had %d", o.size, o.want.Size)}
	case hex.EncodeToString(o.hash.Sum(nil)) != o.want.SHA256:
		return &Finding{o.want.Name, Changed, "was changed: its hash is not the one in the manifest"}
	}
	return nil
}

func (o *objectReader) tooLong() error {
	return &Finding{o.want.Name, Changed, sprintf("was changed: it has more than the %d bytes that it had", o.want.Size)}
}

func (o *objectReader) close() { _ = o.from.Close() } // what was read is verified by its hash
