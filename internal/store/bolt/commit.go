package bolt

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"go.etcd.io/bbolt"

	"strongroom/internal/durable"
	"strongroom/internal/store"
	"strongroom/internal/store/overlay"
)

// commit writes the changes and ends tx. Its error is ErrFull (nothing was written, go on) or, for everything
// else, ErrFailed.
//
// How bbolt v1.5.0 reports what went wrong, read from its source (tx.go Commit, write, writeMeta; db.go grow,
// allocate):
//   - a page or the meta page cannot be written: the *fs.PathError of WriteAt, unwrapped;
//   - a page or the meta page cannot be synced: the bare errno of fdatasync;
//   - the file cannot be grown, or the sync after it fails, or the memory map cannot be enlarged: text without
//     the errno. So the file is grown here before, where the errno can be seen, and bbolt finds room enough.
//
// So only a PathError with an errno of space is "full". An errno of space from a sync is a failed sync.
func (s *Store) commit(tx *bbolt.Tx, records *bbolt.Bucket, all *overlay.Tx) error {
	if len(all.Keys()) == 0 {
		_ = tx.Rollback()
		return nil
	}
	c := &commit{id: tx.ID(), done: make(chan struct{})}
	s.inflight.Store(c)
	defer close(c.done)

	err := guard(func() error {
		for key, change := range all.Changes() {
			var err error
			if change.Deleted {
				err = records.Delete([]byte(key))
			} else {
				err = records.Put([]byte(key), encode(key, change.Value))
			}
			if err != nil {
				return err
			}
		}
		if err := s.grow(tx, all); err != nil {
			return err
		}
		durable.At("bolt:before-commit")
		return tx.Commit()
	})
	if err == nil {
		durable.At("bolt:after-commit")
		return nil
	}
	_ = guard(tx.Rollback) // does nothing where Commit has ended the transaction
	if isFull(err) && !s.shows(c.id) {
		c.err = fmt.Errorf("%w; free some space on the volume of %s: %w", store.ErrFull, s.path, err)
		return c.err
	}
	c.err = s.fail(err)
	return c.err
}

// grow makes the file long enough for every page that committing all can add, and syncs the new length. The
// estimate is generous: each change may rewrite a path of pages in the tree, and bbolt writes its whole list of
// free pages anew. Were it too small, bbolt would grow the file itself, and only a full disk in that very
// moment would be taken for a failed one.
func (s *Store) grow(tx *bbolt.Tx, all *overlay.Tx) error {
	const depth = 8 // of a very large tree
	info, err := s.file.Stat()
	if err != nil {
		return err
	}
	page := int64(s.db.Info().PageSize)
	inUse := tx.Size() / page
	changes := int64(len(all.Keys()))
	rewritten := min(changes*depth, inUse+changes) + 16
	freelist := 8*inUse + page
	need := tx.Size() + 2*all.Size() + rewritten*page + freelist
	if need <= info.Size() {
		return nil
	}
	durable.At("bolt:before-grow")
	if err := s.file.Truncate(need + growStep); err != nil {
		return err // a PathError: full where it says so
	}
	if err := s.file.Sync(); err != nil {
		return syncError{err}
	}
	return nil
}

// syncError hides that the error below is a PathError: whatever its errno, a sync failed.
type syncError struct{ cause error }

func (e syncError) Error() string { return "sync: " + e.cause.Error() }

// shows reports whether readers see transaction id. After an error in writing the meta page that would mean
// that it was written all the same.
func (s *Store) shows(id int) bool {
	seen := true
	_ = guard(func() error {
		tx, err := s.db.Begin(false)
		if err != nil {
			return err
		}
		seen = tx.ID() >= id
		return tx.Rollback()
	})
	return seen
}

// isFull reports an error that says "no space" and comes from writing or growing, not from syncing.
func isFull(err error) bool {
	e, ok := errors.AsType[*fs.PathError](err)
	return ok && (errors.Is(e.Err, syscall.ENOSPC) || errors.Is(e.Err, syscall.EDQUOT) || errors.Is(e.Err, syscall.EFBIG))
}

// spaceError names a full disk while there is no store yet.
func spaceError(err error) error {
	if isFull(err) {
		return fmt.Errorf("%w: %w", store.ErrFull, err)
	}
	return err
}

// isFileError reports an error of the file system (no right, no such file), which says nothing about what the
// file holds.
func isFileError(err error) bool {
	_, isPath := errors.AsType[*fs.PathError](err)
	_, isErrno := errors.AsType[syscall.Errno](err)
	return isPath || isErrno
}
