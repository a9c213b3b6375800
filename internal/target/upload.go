package target

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
)

// upload is an [Object] of a store that takes objects in parts: it gathers [PartSize] bytes and sends them.
type upload struct {
	ctx       context.Context
	where, op string
	to        parts
	buffer    []byte
	sent      int
	err       error // what every later call answers
	committed bool
}

// parts is what a store does with them. Numbers begin at 1. The bytes are the caller's again when a call returns.
type parts interface {
	part(ctx context.Context, number int, data []byte) error
	// finish makes the object of the parts sent and the rest, in one step that fails when there is one. None may have
	// been sent, and the rest may be empty.
	finish(ctx context.Context, sent int, rest []byte) error
	// owner returns the writing that made the object of that name: the id it was made with; fs.ErrNotExist for none.
	owner(ctx context.Context) (id string, err error)
	// id is that of this writing.
	id() string
	abort(ctx context.Context)
}

// writeID tells one writing from every other, so that a store's "exists already" can be told from our own earlier try
// whose answer was lost.
func writeID() string { return rand.Text() }

// metadataKey is the metadata that holds it. Azure takes only what is an identifier in C#.
const metadataKey = "strongroomwrite"

var (
	errAfterEnd = errors.New("target: the object was committed or given up")
	errTooLarge = errors.New("target: too large")
)

// Format prints what it is, for every verb.
func (u *upload) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, u.op+" at "+u.where) }

func (u *upload) Write(p []byte) (n int, err error) {
	if err := u.usable(); err != nil {
		return 0, err
	}
	for len(p) > 0 {
		if len(u.buffer) == PartSize {
			if err := u.flush(); err != nil {
				return n, err
			}
		}
		k := min(len(p), PartSize-len(u.buffer))
		u.grow(k)
		u.buffer = append(u.buffer, p[:k]...)
		p, n = p[k:], n+k
	}
	return n, nil
}

// grow keeps small objects small: the buffer is PartSize only for an object that needs it.
func (u *upload) grow(more int) {
	if need := len(u.buffer) + more; need > cap(u.buffer) {
		larger := make([]byte, len(u.buffer), min(PartSize, max(64<<10, need, 4*cap(u.buffer))))
		copy(larger, u.buffer)
		u.buffer = larger
	}
}

func (u *upload) usable() error {
	if u.err == nil && u.ctx.Err() != nil {
		u.fail(u.ctx.Err())
	}
	return u.err
}

// fail keeps the first error.
func (u *upload) fail(err error) error {
	if u.err == nil {
		u.err = explain(u.ctx, u.where, u.op, err)
	}
	return u.err
}

func (u *upload) flush() error {
	if u.sent == maxParts-1 {
		return u.fail(&Error{Op: u.op, Where: u.where, Why: fmt.Sprintf("an object has at most %d bytes", int64(maxParts)*PartSize), Kind: errTooLarge})
	}
	if err := u.to.part(u.ctx, u.sent+1, u.buffer); err != nil {
		return u.fail(err)
	}
	u.sent, u.buffer = u.sent+1, u.buffer[:0]
	return nil
}

func (u *upload) Commit() error {
	if err := u.usable(); err != nil {
		return err
	}
	if err := u.to.finish(u.ctx, u.sent, u.buffer); err != nil {
		// The store may have done it and lost the answer, which the library's next try then runs into. So it is asked.
		switch id, lookErr := u.to.owner(u.ctx); {
		case lookErr == nil && id == u.to.id():
		case lookErr == nil:
			return u.fail(&Error{Op: u.op, Where: u.where, Why: "it exists already, and nothing is overwritten", Kind: fs.ErrExist})
		default:
			return u.fail(err)
		}
	}
	u.committed, u.buffer = true, nil
	u.err = &Error{Op: u.op, Where: u.where, Why: "the object was committed or given up", Kind: errAfterEnd}
	return nil
}

func (u *upload) Abort() {
	if u.to == nil || u.committed {
		return
	}
	u.to.abort(context.WithoutCancel(u.ctx))
	_ = u.fail(&Error{Op: u.op, Where: u.where, Why: "the object was committed or given up", Kind: errAfterEnd})
	u.to, u.buffer = nil, nil
}
