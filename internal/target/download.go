package target

import (
	"context"
	"errors"
	"fmt"
	"io"
)

// download reads an object of a store. A connection that breaks is made again, and what was read is not read again; so
// often, and again after every [PartSize] bytes, and no more: a store that gives a byte at a time ends it.
type download struct {
	ctx       context.Context
	where, op string
	from      func(ctx context.Context, offset int64, etag string) (piece, error)
	tries     int

	now    piece // its body is nil after a break
	offset int64
	size   int64
	etag   string // of the object that was opened: another one of that name is none of its rest
	left   int    // tries until the offset is past fresh
	fresh  int64
	err    error
}

// piece is an object from an offset on.
type piece struct {
	body   io.ReadCloser
	length int64
	etag   string
}

var errBadPiece = errors.New("target: not the piece that was asked for")

// opened makes the first request, so that a missing object shows at once.
func opened(d *download) (io.ReadCloser, error) {
	now, err := d.from(d.ctx, 0, "")
	if err != nil {
		return nil, explain(d.ctx, d.where, d.op, err)
	}
	if d.now, d.size, d.etag, d.left = now, now.length, now.etag, d.tries; now.length < 0 || now.etag == "" {
		_ = now.body.Close()
		return nil, explain(d.ctx, d.where, d.op, errBadPiece)
	}
	return d, nil
}

// Format prints what it is, for every verb.
func (d *download) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, d.op+" at "+d.where) }

func (d *download) Read(p []byte) (int, error) {
	for d.err == nil {
		if d.err = d.ctx.Err(); d.err != nil {
			break
		}
		if d.offset == d.size {
			return 0, io.EOF
		}
		if len(p) == 0 {
			return 0, nil
		}
		if d.now.body == nil {
			d.resume()
			continue
		}
		n, err := d.now.body.Read(p[:min(int64(len(p)), d.size-d.offset)])
		d.offset += int64(n)
		if d.offset >= d.fresh {
			d.left, d.fresh = d.tries, d.offset+PartSize
		}
		if err != nil && d.offset < d.size {
			d.broke(err)
		}
		if n > 0 {
			return n, nil
		}
	}
	d.err = explain(d.ctx, d.where, d.op, d.err)
	return 0, d.err
}

// broke drops the connection; the next read makes another, if there is a try left.
func (d *download) broke(err error) {
	_ = d.now.body.Close()
	d.now.body = nil
	if d.left--; d.left <= 0 {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		d.err = err
	}
}

func (d *download) resume() {
	now, err := d.from(d.ctx, d.offset, d.etag)
	if err != nil {
		d.err = err
		return
	}
	if now.length != d.size-d.offset || now.etag != d.etag {
		_ = now.body.Close()
		d.err = errBadPiece
		return
	}
	d.now = now
}

func (d *download) Close() error {
	if d.now.body != nil {
		_ = d.now.body.Close() // what was wanted of it is read
		d.now.body = nil
	}
	if d.err == nil {
		d.err = &Error{Op: d.op, Where: d.where, Why: "it was closed", Kind: errAfterEnd}
	}
	return nil
}
