// Package bolt is the embedded store: one bbolt file, "strongroom.db".
//
// Updates that arrive while a commit is on its way share the next one, so that many small writers pay for one
// pair of syncs. Each caller's function runs in the caller's goroutine, one after the other, over the changes
// of those before it; only what succeeded is written.
//
// What is visible is durable: bbolt shows a commit as soon as its meta page is written, before that page is
// synced, so View waits for the sync when it meets such a snapshot.
//
// Each value carries a CRC-32C over key and value, since bbolt has no checksums but those of its two meta
// pages. It finds failing disks, not attackers: records that matter to them are sealed by their owners.
//
// Caveats: a View inside a View can deadlock with a writer that has to enlarge the memory map (never below
// 1 GiB). bbolt reads through that map, so an I/O error while reading arrives as a fault; it is answered as
// [store.ErrCorrupt].
package bolt

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"strongroom/internal/durable"
	"strongroom/internal/store"
	"strongroom/internal/store/feed"
	"strongroom/internal/store/overlay"
)

// FileName is the name of the database in the data folder.
const FileName = "strongroom.db"

// Format is the version of the layout that this program reads and writes:
//
//	bucket "meta":    "format" → "strongroom-store 1"
//	bucket "records": key → CRC-32C of key ‖ value (4 bytes, big-endian) ‖ value
const Format = 1

const formatName = "strongroom-store "

var (
	metaBucket    = []byte("meta")
	recordsBucket = []byte("records")
	formatKey     = []byte("format")
	castagnoli    = crc32.MakeTable(crc32.Castagnoli)
)

const (
	// mapSize is address space, not memory: below it the map never has to move, so readers and writers never
	// wait for each other.
	mapSize = 1 << 30
	// growStep is how much the file grows at least: each growth costs a sync.
	growStep = 1 << 20
	// checkLimit is the size up to which opening checks every page: a tenth of a second.
	checkLimit = 64 << 20
	// fillPercent is how full a page is left that is split. Names often come in order, and bbolt's own half leaves a
	// file of half-empty pages then: 100,000 keys took 264 MB and take 117 MB. For names in no order it makes 8 % more.
	fillPercent = 0.9
	// mapRest is how long pages that were read stay in the map, at most. The kernel maps 64 KiB around each, so a few
	// thousand records are enough to have the whole file counted as the process's memory. Reading a page again that the
	// kernel still has costs a microsecond or two.
	mapRest = 2 * time.Second
	// Bounds of one shared commit, so that no caller waits for a crowd.
	maxBatch      = 1024
	maxBatchBytes = 16 << 20
)

var (
	// ErrInUse says that another process has the database open.
	ErrInUse = errors.New("store: the data folder is in use")
	// ErrFormat says that the database was written by a program of another time.
	ErrFormat = errors.New("store: the database has a format that this program does not know")
)

// Options of [Open].
type Options struct {
	// LockTimeout is how long to wait for another process to let go; zero means one second.
	LockTimeout time.Duration
	// MustExist makes a missing database an error ([fs.ErrNotExist]) instead of making an empty one.
	MustExist bool
}

// Store implements [store.Store].
type Store struct {
	db   *bbolt.DB
	file *os.File // bbolt's own, to grow it
	path string

	requests chan *request
	quit     chan struct{} // closed by Close
	stopped  chan struct{} // closed when the committer has ended
	resting  chan struct{} // closed when nobody looks after the map any more
	read     atomic.Bool   // since the map was emptied
	closing  sync.Once
	closeErr error

	feed feed.Feed

	inflight atomic.Pointer[commit] // the newest commit that was begun

	failOnce sync.Once
	failed   chan struct{}
	failure  error // why; set before failed is closed
}

// commit is a transaction on its way to the disk.
type commit struct {
	id   int           // bbolt's transaction number
	done chan struct{} // closed when err is set
	err  error
}

var _ store.Store = (*Store)(nil)

// Open opens the database in the folder dir, which must exist, and makes an empty one where there is none. A
// new database gets its name only when it is whole and synced, so a file of no or little length is a damaged
// one and never taken for new.
//
// Errors: [ErrInUse], [ErrFormat], [store.ErrCorrupt] (also for a file that is no Strongroom database),
// [store.ErrFull], or that of the file system.
func Open(dir string, o Options) (*Store, error) {
	path := filepath.Join(dir, FileName)
	_, err := os.Lstat(path)
	switch {
	case err == nil:
	case !errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("store: open the database: %w", err)
	case o.MustExist:
		return nil, fmt.Errorf("store: there is no database at %s; restore it from a copy, or name the right data folder: %w", path, err)
	default:
		if err := create(dir, path); err != nil {
			return nil, err
		}
	}
	return open(path, o)
}

// create makes an empty database under a temporary name and gives it its own only when it is complete.
func create(dir, path string) (err error) {
	tmp, err := os.CreateTemp(dir, "."+FileName+".*.tmp") // 0600
	if err != nil {
		return fmt.Errorf("store: create the database: %w", spaceError(err))
	}
	defer os.Remove(tmp.Name())
	if err := tmp.Close(); err != nil {
		return fmt.Errorf("store: create the database: %w", err)
	}
	db, err := bbolt.Open(tmp.Name(), 0o600, &bbolt.Options{Timeout: time.Second})
	if err != nil {
		return fmt.Errorf("store: create the database: %w", spaceError(err))
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		meta, err := tx.CreateBucket(metaBucket)
		if err != nil {
			return err
		}
		if _, err := tx.CreateBucket(recordsBucket); err != nil {
			return err
		}
		return meta.Put(formatKey, fmt.Appendf(nil, "%s%d", formatName, Format))
	})
	if err := errors.Join(err, db.Close()); err != nil {
		return fmt.Errorf("store: create the database: %w", spaceError(err))
	}
	if err := durable.RenameNew(tmp.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("store: create the database: %w", err)
	}
	return nil // where another process was faster, the lock decides who gets it
}

func open(path string, o Options) (s *Store, err error) {
	s = &Store{
		path:     path,
		requests: make(chan *request),
		quit:     make(chan struct{}),
		stopped:  make(chan struct{}),
		resting:  make(chan struct{}),
		failed:   make(chan struct{}),
	}
	if o.LockTimeout == 0 {
		o.LockTimeout = time.Second
	}
	if err := s.openFile(o); err != nil {
		return nil, err
	}
	s.inflight.Store(&commit{id: -1})
	go s.run()
	go func() {
		defer close(s.resting)
		tick := time.NewTicker(mapRest)
		defer tick.Stop()
		s.emptyMap(tick.C)
	}()
	return s, nil
}

func (s *Store) openFile(o Options) error {
	// Never O_CREATE: a file that is missing by now must not come to life empty.
	f, err := os.OpenFile(s.path, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("store: open the database: %w", err)
	}
	s.file = f
	if err := lock(f, o.LockTimeout); err != nil {
		_ = f.Close()
		return s.openError(err)
	}
	if err := s.checkFile(); err != nil {
		_ = f.Close()
		return s.openError(err)
	}
	err = guard(func() (err error) {
		s.db, err = bbolt.Open(s.path, 0o600, &bbolt.Options{
			Timeout:         o.LockTimeout,
			InitialMmapSize: mapSize,
			FreelistType:    bbolt.FreelistMapType,
			NoStatistics:    true,
			OpenFile:        func(string, int, os.FileMode) (*os.File, error) { return f, nil },
		})
		return err
	})
	if err != nil {
		_ = f.Close() // again where bbolt has done so
		return s.openError(err)
	}
	if err := guard(s.checkFormat); err != nil {
		_ = guard(s.db.Close)
		return s.openError(err)
	}
	return nil
}

// checkFile looks at all of a file that is not large, and at least refuses an empty one, which bbolt would take
// for new.
func (s *Store) checkFile() error {
	info, err := s.file.Stat()
	switch {
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return errors.New("it is not a file")
	case info.Size() == 0:
		return errors.New("it is empty")
	case info.Size() > checkLimit:
		return nil
	}
	return check(s.file, info.Size())
}

// checkFormat looks whether this is a database of ours, of a version that we know.
func (s *Store) checkFormat() error {
	tx, err := s.db.Begin(false)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	meta := tx.Bucket(metaBucket)
	if meta == nil || tx.Bucket(recordsBucket) == nil {
		return errors.New("it is no Strongroom database")
	}
	if got, want := string(meta.Get(formatKey)), fmt.Sprint(formatName, Format); got != want {
		return fmt.Errorf("%w: %s says %.40q and this program reads %q; use the version of Strongroom that wrote it", ErrFormat, s.path, got, want)
	}
	return nil
}

// openError says what went wrong while opening and what an operator can do about it.
func (s *Store) openError(err error) error {
	const advice = "keep the file aside and put a good copy in its place, or recover the HSMs from their security domains and backups"
	switch {
	case errors.Is(err, ErrFormat):
		return err
	case errors.Is(err, ErrInUse), errors.Is(err, berrors.ErrTimeout):
		return fmt.Errorf("%w: another server has %s open; stop it, or give this one a data folder of its own", ErrInUse, s.path)
	case isFileError(err):
		return fmt.Errorf("store: open the database: %w", err)
	case errors.Is(err, store.ErrCorrupt):
		return fmt.Errorf("%w (%s); %s", err, s.path, advice)
	}
	return fmt.Errorf("%w: %s: %w; %s", store.ErrCorrupt, s.path, err, advice)
}

// View implements [store.Store].
func (s *Store) View(ctx context.Context, fn func(store.Reader) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	tx, err := s.db.Begin(false)
	if err != nil {
		return s.beginError(err)
	}
	defer func() {
		_ = tx.Rollback()
		if !s.read.Load() { // at the end: the map may be emptied in between
			s.read.Store(true)
		}
	}()
	if c := s.inflight.Load(); c.id == tx.ID() {
		// This snapshot shows a commit that is written and maybe not yet synced.
		select {
		case <-c.done:
		case <-ctx.Done():
			return ctx.Err()
		}
		if c.err != nil {
			return c.err
		}
	}
	records, err := bucket(tx)
	if err != nil {
		return err
	}
	return catch(func() error { return fn(reader{records}) })
}

// emptyMap takes what was read out of the map at each tick, until the store is closed.
func (s *Store) emptyMap(tick <-chan time.Time) {
	for {
		select {
		case <-tick:
		case <-s.quit:
			return
		}
		if s.read.Swap(false) {
			s.unmap()
		}
	}
}

// unmap empties the map. The transaction keeps it where it is.
func (s *Store) unmap() {
	tx, err := s.db.Begin(false)
	if err != nil {
		return
	}
	defer func() { _ = tx.Rollback() }()
	unmapPages(s.db.Info().Data, tx.Size())
}

// bucket returns the table of records.
func bucket(tx *bbolt.Tx) (records *bbolt.Bucket, err error) {
	err = guard(func() error {
		if records = tx.Bucket(recordsBucket); records == nil {
			return fmt.Errorf("%w: the table of records is missing", store.ErrCorrupt)
		}
		return nil
	})
	return records, err
}

// beginError explains why bbolt did not begin a transaction.
func (s *Store) beginError(err error) error {
	if errors.Is(err, berrors.ErrDatabaseNotOpen) {
		return store.ErrClosed
	}
	return s.fail(err) // the memory map is gone
}

// Watch implements [store.Store].
func (s *Store) Watch(fn func(keys []string)) (cancel func()) { return s.feed.Watch(fn) }

// Announce implements [store.Store].
func (s *Store) Announce(before func(keys []string), settled func()) (cancel func()) {
	return s.feed.Announce(before, settled)
}

// Failed implements [store.Store].
func (s *Store) Failed() <-chan struct{} { return s.failed }

// fail makes the store refuse every later update and returns the error for this one.
func (s *Store) fail(cause error) error {
	s.failOnce.Do(func() {
		s.failure = fmt.Errorf("%w: %w", store.ErrFailed, cause)
		close(s.failed)
	})
	return s.failure
}

// Close implements [store.Store]. It waits for running views and updates; a second call does nothing.
func (s *Store) Close() error {
	s.closing.Do(func() {
		close(s.quit)
		<-s.stopped
		<-s.resting
		s.closeErr = guard(s.db.Close)
	})
	return s.closeErr
}

// request is one Update waiting for its turn.
type request struct {
	turn chan *overlay.Tx // the committer sends the transaction to run in
	ran  chan outcome     // the caller answers when its function has ended, however it ended
	done chan error       // the committer sends the end of the commit; buffered
}

// outcome is what the caller's function came to.
type outcome struct {
	ok   bool // its changes are to be written
	tx   *overlay.Tx
	keys []string
}

// Update implements [store.Store].
func (s *Store) Update(ctx context.Context, fn func(store.Writer) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	r := &request{turn: make(chan *overlay.Tx, 1), ran: make(chan outcome, 1), done: make(chan error, 1)}
	select {
	case s.requests <- r:
	case <-ctx.Done():
		return ctx.Err()
	case <-s.quit:
		return store.ErrClosed
	}
	// The committer has the request now and answers in any case.
	select {
	case err := <-r.done:
		return err // no transaction could be begun
	case tx := <-r.turn:
		refused := r.run(tx, fn)
		if err := <-r.done; err != nil {
			return err
		}
		return refused
	}
}

// run calls fn and hands the baton back to the committer, also when fn panics or ends the goroutine.
func (r *request) run(tx *overlay.Tx, fn func(store.Writer) error) (err error) {
	var out outcome
	defer func() { r.ran <- out }()
	if err := catch(func() error { return fn(tx) }); err != nil {
		return err
	}
	if err := tx.Err(); err != nil {
		return err
	}
	out = outcome{ok: true, tx: tx, keys: tx.Keys()}
	return nil
}

// run is the committer: the one goroutine that begins and commits bbolt's write transactions.
func (s *Store) run() {
	defer close(s.stopped)
	for {
		select {
		case r := <-s.requests:
			s.batch(r)
		case <-s.quit:
			return
		}
	}
}

// member is a request that the batch's commit answers.
type member struct {
	r    *request
	keys []string // that it changed
}

// batch runs first and whoever else waits, and commits them together.
func (s *Store) batch(first *request) {
	select {
	case <-s.failed:
		first.done <- s.failure
		return
	default:
	}
	tx, err := s.db.Begin(true)
	if err != nil {
		first.done <- s.beginError(err)
		return
	}
	records, err := bucket(tx)
	if err != nil {
		_ = tx.Rollback()
		first.done <- s.fail(err)
		return
	}
	records.FillPercent = fillPercent
	all := overlay.New(reader{records})
	var members []member
	for r, n, size := first, 1, int64(0); r != nil; n++ {
		child := overlay.New(all)
		r.turn <- child
		switch out := <-r.ran; {
		case out.ok:
			all.Absorb(out.tx)
			members = append(members, member{r, out.keys})
			size += out.tx.Size()
		case len(all.Keys()) > 0:
			// Its function may have failed because of a change before it in the batch. Whoever is told "it is there
			// already" or "it is gone" must be able to rely on it: that has to be on disk first.
			members = append(members, member{r, nil})
		default:
			r.done <- nil
		}
		r = nil
		if n < maxBatch && size < maxBatchBytes {
			r = s.next()
		}
	}
	if keys := all.Keys(); len(keys) > 0 {
		s.feed.Begin(keys)
		defer s.feed.End()
	}
	if err := s.commit(tx, records, all); err != nil {
		for _, m := range members {
			m.r.done <- err
		}
		return
	}
	for _, m := range members {
		if len(m.keys) > 0 {
			s.feed.Publish(m.keys)
		}
		m.r.done <- nil
	}
}

// next returns another waiting request, if there is one.
func (s *Store) next() *request {
	select {
	case r := <-s.requests:
		return r
	default:
		return nil
	}
}
