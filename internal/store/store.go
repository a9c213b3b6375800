// Package store is the durable state of a server: an ordered key-value space with serialisable transactions
// and a change feed. Package bolt is the embedded implementation, package memory the one for tests, with fault
// injection; storetest is the suite that both pass.
//
// Keys are slash-separated paths ("hsm/0f3c…/record"). Values are opaque and belong to whoever wrote them, each
// with a version inside. The store does not encrypt: secrets arrive sealed.
package store

import (
	"context"
	"errors"
	"iter"
)

// Limits of one record. A put beyond them is a programming error and fails the transaction with [ErrRecord].
const (
	MaxKey   = 1024
	MaxValue = 4 << 20
)

var (
	// ErrFull says that there is no space: nothing was written, reads go on, and the same update may succeed
	// once there is space again.
	ErrFull = errors.New("store: no space left on the device")
	// ErrFailed says that a sync failed. What is on disk is unknown, so the store refuses every later update
	// and the process has to restart (PostgreSQL's fsync lesson of 2018: never retry).
	ErrFailed = errors.New("store: a write could not be made durable; the server must be restarted")
	// ErrClosed is the answer of a closed store.
	ErrClosed = errors.New("store: closed")
	// ErrRecord says that a key is empty or too long, or a value too large: nothing of the update was written.
	ErrRecord = errors.New("store: a key or value is outside the limits")
	// ErrCorrupt says that the file is not a store or is damaged.
	ErrCorrupt = errors.New("store: the database is damaged")
)

// Reader sees one consistent snapshot.
type Reader interface {
	// Get returns a copy of the value, and whether the key exists.
	Get(key string) ([]byte, bool)
	// Scan yields copies of all records whose key begins with prefix and sorts after the key after (exclusive;
	// "" begins at the start), in byte order of the keys. A Writer's scan yields what the Writer saw when the
	// scan began: records may be put and deleted while it runs.
	Scan(prefix, after string) iter.Seq2[string, []byte]
}

// Writer is a Reader that also sees its own writes.
type Writer interface {
	Reader
	// Put stores a copy of value under key. A key or value beyond the limits, or an empty key, fails the
	// transaction when it commits.
	Put(key string, value []byte)
	// Delete removes key; a missing key is no error.
	Delete(key string)
}

// Store is a transactional key-value space. Safe for concurrent use.
type Store interface {
	// View runs fn on a snapshot of what is on disk: a commit that may still fail is not visible. fn must not
	// keep the Reader. The error of fn is returned as it is.
	View(ctx context.Context, fn func(Reader) error) error
	// Update runs fn alone (serialisable). When Update returns nil, the writes are on disk. When fn or the
	// commit fails, none of them is, except that after ErrFailed it is unknown. fn runs exactly once and must
	// not block on other updates. Writes of several callers may share one commit; whatever fn saw of the others'
	// is on disk too when Update returns fn's own error, or else the error is that of the commit.
	Update(ctx context.Context, fn func(Writer) error) error
	// Watch calls fn, in commit order, with the keys each commit changed, whoever made it, until cancel is
	// called. fn runs before the Update that made the change returns, and must be quick and not call the store.
	Watch(fn func(keys []string)) (cancel func())
	// Announce calls before with all keys that a commit is about to change, while nobody can see the change yet, and
	// settled when that is over: every watcher was told, or nothing was written. In between a reader may see the change or
	// what was before, so whoever keeps what it has read must read anew then, or callers see things in no one order.
	// After ErrFailed there may be no settled. Both functions run inside the commit, by the rules of Watch, and
	// none of them may call Announce.
	Announce(before func(keys []string), settled func()) (cancel func())
	// Failed is closed when the store has failed for good.
	Failed() <-chan struct{}
	// Close waits for running transactions. Later calls answer ErrClosed.
	Close() error
}
