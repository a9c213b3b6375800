package bolt

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"iter"
	"runtime/debug"

	"go.etcd.io/bbolt"

	"strongroom/internal/store"
)

// reader is a snapshot. Its methods panic with a damage value where a record does not hold; [catch] turns that
// into an error.
type reader struct {
	records *bbolt.Bucket
}

var _ store.Reader = reader{}

// damage is the panic of a reader that met a damaged record.
type damage struct{ err error }

// Get implements [store.Reader].
func (r reader) Get(key string) (value []byte, ok bool) {
	inPages(func() {
		if raw := r.records.Get([]byte(key)); raw != nil {
			value, ok = decode(key, raw), true
		}
	})
	return value, ok
}

// Scan implements [store.Reader].
func (r reader) Scan(prefix, after string) iter.Seq2[string, []byte] {
	return func(yield func(string, []byte) bool) {
		var (
			c     = r.records.Cursor()
			key   string
			value []byte
			more  bool
		)
		take := func(k, v []byte) {
			if more = bytes.HasPrefix(k, []byte(prefix)) && k != nil; !more {
				return
			}
			last := key
			key = string(k)
			if key <= last {
				panic(damage{fmt.Errorf("keys are out of order at %.80q", key)})
			}
			value = decode(key, v)
		}
		inPages(func() { take(c.Seek([]byte(max(prefix, after)))) })
		if more && after != "" && key == after {
			inPages(func() { take(c.Next()) })
		}
		for more {
			if !yield(key, value) {
				return
			}
			inPages(func() { take(c.Next()) })
		}
	}
}

// encode puts the checksum before the value.
func encode(key string, value []byte) []byte {
	out := make([]byte, 4, 4+len(value))
	binary.BigEndian.PutUint32(out, checksum(key, value))
	return append(out, value...)
}

// holds reports whether a record as stored matches its checksum.
func holds(key, raw []byte) bool {
	return len(raw) >= 4 && binary.BigEndian.Uint32(raw) == checksum(string(key), raw[4:])
}

// decode checks the checksum and returns a copy of the value.
func decode(key string, raw []byte) []byte {
	if !holds([]byte(key), raw) {
		panic(damage{fmt.Errorf("the record %.80q does not match its checksum", key)})
	}
	return bytes.Clone(raw[4:])
}

func checksum(key string, value []byte) uint32 {
	return crc32.Update(crc32.Checksum([]byte(key), castagnoli), castagnoli, value)
}

// inPages runs fn, which reads bbolt's pages, and makes every panic in it a damage panic: bbolt has met a page
// that makes no sense, or the page is beyond the end of the file.
func inPages(fn func()) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			if _, ok := p.(damage); !ok {
				p = damage{fmt.Errorf("a page makes no sense: %v", p)}
			}
			panic(p)
		}
	}()
	fn()
}

// guard runs our own code over bbolt: every panic and every fault of the memory map in it is damage.
func guard(fn func() error) error {
	return catch(func() (err error) {
		inPages(func() { err = fn() })
		return err
	})
}

// catch runs a caller's function and returns damage that its reader met as [store.ErrCorrupt]. Any other panic
// is the caller's own and goes on.
func catch(fn func() error) (err error) {
	defer func() {
		switch p := recover().(type) {
		case nil:
		case damage:
			err = fmt.Errorf("%w: %w", store.ErrCorrupt, p.err)
		default:
			panic(p)
		}
	}()
	return fn()
}
