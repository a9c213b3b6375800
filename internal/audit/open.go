package audit

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"strongroom/internal/durable"
)

// Open opens the log in the folder dir, or makes an empty one where there is none and o.ID does not ask for one.
//
// It reads the last segment, or as many as are needed to find o.Known, and compares all hashes. What a crash leaves at
// the end (at most one batch of lines that are not whole) is cut off; the log goes on after the last whole record with a
// record of kind [KindRecovered] that says how many bytes were cut.
//
// What stands after the last checkpoint was written, but nothing says that it is on disk: the process may have died of
// a sync that failed, and the kernel then shows pages as written that are not. So Open writes all of it once more, the
// last checkpoint too, and syncs that; records that are added later never stand on sand. On a full disk that waits for
// the first Append which finds space.
//
// Errors: [ErrInUse], [ErrForeign], [ErrMissing], [ErrFormat], [ErrDamaged], [ErrRolledBack], [ErrFailed], or that of the
// file system.
func Open(dir string, o Options) (l *Log, err error) {
	if err := o.defaults(); err != nil {
		return nil, err
	}
	l = &Log{o: o, dir: dir, door: door{wake: make(chan struct{}, 1)}, free: sync.Pool{New: newRequest}, quit: make(chan struct{}), stopped: make(chan struct{}), failed: make(chan struct{})}
	l.writable.Store(true)
	defer func() {
		if err != nil {
			for _, f := range []*os.File{l.file, l.lockFile} {
				if f != nil {
					_ = f.Close()
				}
			}
			l = nil
		}
	}()
	if err := l.lock(); err != nil {
		return l, err
	}
	list, err := segments(dir)
	switch {
	case err != nil:
		return l, fmt.Errorf("audit: open the log: %w", err)
	case len(list) > 0:
		err = l.load(list)
	case o.ID != "" || o.Known.N > 0:
		err = l.missing()
	default:
		err = l.begin()
	}
	if err != nil {
		return l, err
	}
	l.records.Store(l.tree.n)
	l.unsigned.Store(l.tree.n - l.signed)
	if err := l.settle(); err != nil {
		if !errors.Is(err, ErrFull) {
			return l, fmt.Errorf("audit: open the log: %w", err)
		}
		l.tell("what a crash left", err)
	}
	go l.run()
	return l, nil
}

func (o *Options) defaults() error {
	if o.Signers == nil || o.Rand == nil {
		return errors.New("audit: Signers and Rand are required")
	}
	if Clean(o.Server, maxServer) != o.Server {
		return errors.New("audit: the name of the server is no plain text")
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	for _, d := range []struct {
		value   *int64
		unset   int64
		largest int64
	}{{&o.SegmentBytes, 64 << 20, 1 << 40}, {(*int64)(&o.CheckpointAfter), int64(10 * time.Second), int64(time.Hour)}} {
		if *d.value == 0 {
			*d.value = d.unset
		}
		if *d.value < 1 || *d.value > d.largest {
			return errors.New("audit: an option is outside its bounds")
		}
	}
	if o.CheckpointRecords == 0 {
		o.CheckpointRecords = 1024
	}
	if o.MaxWaiting == 0 {
		o.MaxWaiting = 4096
	}
	if o.CheckpointRecords < 1 || o.CheckpointRecords > writerUnsigned-maxBatch || o.MaxWaiting < 1 {
		return errors.New("audit: an option is outside its bounds")
	}
	return nil
}

// lock makes the folder, where that is wanted, and takes the log for this process. Where a log is missing that there must
// be, nothing is made: a folder with a lock in it, in the place of a disk that is not mounted, would look like the log's.
func (l *Log) lock() error {
	switch list, err := segments(l.dir); {
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("audit: open the log: %w", err)
	case len(list) == 0 && (l.o.ID != "" || l.o.Known.N > 0):
		return l.missing()
	case err != nil:
		if err := durable.MkdirAll(l.dir, 0o700); err != nil {
			return fmt.Errorf("audit: make the folder of the log: %w", err)
		}
	}
	f, err := os.OpenFile(filepath.Join(l.dir, lockName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("audit: the folder of the log must be writable: %w", err)
	}
	l.lockFile = f
	if err := lock(f); errors.Is(err, ErrInUse) {
		return fmt.Errorf("%w: another server writes to %s", ErrInUse, l.dir)
	} else if err != nil {
		return fmt.Errorf("audit: lock the log: %w", err)
	}
	return nil
}

func (l *Log) missing() error {
	return fmt.Errorf("%w: this server has written to a log, and there is none in %s", ErrMissing, l.dir)
}

// begin makes an empty log.
func (l *Log) begin() error {
	id := make([]byte, 16)
	if _, err := io.ReadFull(l.o.Rand, id); err != nil {
		return fmt.Errorf("audit: name the log: %w", err)
	}
	l.id = hex.EncodeToString(id)
	l.prev = startHash(l.id)
	f, size, err := l.create(&l.tree, l.prev)
	if err != nil {
		return err
	}
	l.file, l.size, l.floor = f, size, size
	return nil
}

// load reads the end of the log.
func (l *Log) load(list []segment) error {
	from := len(list) - 1
	for l.o.Known.N > 0 && from > 0 && list[from].first > l.o.Known.N {
		from--
	}
	known := l.o.Known.N == 0
	for i := from; i < len(list); i++ {
		last := i == len(list)-1
		seen, err := l.loadSegment(list[i], i == from, last)
		if err != nil {
			return err
		}
		known = known || seen
	}
	if !known {
		return fmt.Errorf("%w: %s has %d records, and this server remembers a checkpoint of %d; put the newer log back, and ask who changed it; see what is there with: strongroom audit verify %s",
			ErrRolledBack, l.dir, l.tree.n, l.o.Known.N, l.dir)
	}
	return nil
}

// loadSegment reads one segment. The first that is read says where the log stands, the others have to agree. It reports
// whether the tree that the server remembers was met.
func (l *Log) loadSegment(s segment, first, last bool) (known bool, err error) {
	damaged := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s, %s; keep the folder as it is and see what is wrong with: strongroom audit verify %s", ErrDamaged, s.path, fmt.Sprintf(format, args...), l.dir)
	}
	f, err := os.OpenFile(s.path, os.O_RDWR, 0)
	if err != nil {
		return false, fmt.Errorf("audit: open the log: %w", err)
	}
	defer func() {
		if l.file != f {
			_ = f.Close()
		}
	}()
	in, err := openLines(s.path)
	if err != nil {
		return false, fmt.Errorf("audit: open the log: %w", err)
	}
	defer in.close()

	line, whole, err := in.next()
	if err != nil && !errors.Is(err, io.EOF) {
		return false, fmt.Errorf("audit: read the log: %w", err)
	}
	if !whole {
		return false, damaged("its first line is not whole")
	}
	h, err := parseHeader(line)
	switch {
	case errors.Is(err, ErrFormat):
		return false, fmt.Errorf("%w (%s)", err, s.path)
	case err != nil:
		return false, damaged("%v", err)
	case h.First != s.first:
		return false, damaged("it begins with record %d", h.First)
	case l.o.ID != "" && h.Log != l.o.ID, h.Server != l.o.Server:
		return false, fmt.Errorf("%w: %s is the log %s of server %q, and this server's is %s of %q",
			ErrForeign, l.dir, h.Log, h.Server, orAny(l.o.ID), l.o.Server)
	}
	switch {
	case first:
		l.id, l.tree, l.prev = h.Log, h.tree, h.prev
	case l.id != h.Log || l.prev != h.prev || !l.tree.equal(&h.tree):
		return false, damaged("it does not go on where the one before ends")
	}
	l.signed = l.tree.n // a segment begins after a checkpoint

	// doubtful is where the part begins that no successful sync vouches for: the last checkpoint, for it is written after
	// the sync of what stands before it, or the whole of a segment that has none.
	var doubtful, good int64 = 0, in.at
	meet := func() error {
		if l.o.Known.N != l.tree.n || l.o.Known.N == 0 {
			return nil
		}
		if known = l.o.Known.Hash == l.tree.root(); !known {
			return fmt.Errorf("%w: the first %d records of %s are not those that were signed; ask who changed them, and see: strongroom audit verify %s", ErrRolledBack, l.tree.n, l.dir, l.dir)
		}
		return nil
	}
	if err := meet(); err != nil {
		return false, err
	}
	inCheckpoint := false
	var bad error
	for bad == nil {
		at := in.at
		line, whole, err := in.next()
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return false, fmt.Errorf("audit: read the log: %w", err)
		}
		switch {
		case !whole:
			bad = errors.New("a line is not whole")
		case isCheckpoint(line):
			if bad = l.loadCheckpoint(line); bad == nil && !inCheckpoint {
				doubtful, inCheckpoint = at, true
			}
		default:
			if bad = l.loadRecord(line); bad == nil {
				inCheckpoint = false
				if err := meet(); err != nil {
					return false, err
				}
			}
		}
		if bad == nil {
			good = in.at
		}
	}
	switch {
	case bad != nil && !last:
		return false, damaged("record %d: %v", l.tree.n, bad)
	case l.tree.n-l.signed > MaxUnsigned:
		return false, damaged("its last %d records have no checkpoint", l.tree.n-l.signed)
	case !last:
		if l.tree.n != l.signed {
			return false, damaged("its end has no checkpoint")
		}
		return known, nil
	}
	info, err := f.Stat()
	if err != nil {
		return false, fmt.Errorf("audit: open the log: %w", err)
	}
	l.floor, l.size = info.Size(), doubtful
	if l.cut = l.floor - good; l.cut > 0 {
		tail := make([]byte, min(l.cut, maxBatchBytes+MaxLine))
		if _, err := f.ReadAt(tail, good); err != nil {
			return false, fmt.Errorf("audit: read the log: %w", err)
		}
		// A crash tears one batch and leaves no checkpoint behind it.
		if int64(len(tail)) < l.cut || hasCheckpoint(tail) {
			return false, damaged("record %d: %v, and more follows than a crash leaves", l.tree.n, bad)
		}
	}
	l.rewrite = make([]byte, good-doubtful)
	if _, err := f.ReadAt(l.rewrite, doubtful); err != nil {
		return false, fmt.Errorf("audit: read the log: %w", err)
	}
	l.file = f
	return known, nil
}

// hasCheckpoint reports whether a whole checkpoint stands in what would be cut off. Records before one were synced, so no
// crash damages them. (The checkpoints of one moment are written together, and a crash may tear the first of them.)
func hasCheckpoint(tail []byte) bool {
	wholeLines := bytes.Split(tail, []byte("\n"))
	wholeLines = wholeLines[:len(wholeLines)-1]
	for i, line := range wholeLines {
		at := bytes.Index(line, checkpointStart) // in the middle, where a line end was damaged; no record holds these bytes
		if at < 0 || at == 0 && i > 0 && isCheckpoint(wholeLines[i-1]) {
			continue
		}
		if _, err := parseCheckpointLine(line[at:]); err == nil {
			return true
		}
	}
	return false
}

func (l *Log) loadRecord(line []byte) error {
	r, prev, err := parseRecord(line)
	switch {
	case err != nil:
		return err
	case r.Number != l.tree.n:
		return fmt.Errorf("record %d stands in its place", r.Number)
	case prev != l.prev:
		return errors.New("it does not follow the record before it")
	}
	l.prev = tlog.RecordHash(line)
	l.tree.add(l.prev, nil)
	return nil
}

func (l *Log) loadCheckpoint(line []byte) error {
	c, err := parseCheckpointLine(line)
	if err != nil {
		return err
	}
	n, err := readNote(c.Checkpoint, nil)
	switch {
	case err != nil:
		return err
	case n.log != l.id || n.tree.N != l.tree.n || n.tree.Hash != l.tree.root() || c.prev != l.prev:
		return errors.New("the checkpoint before it is of other records")
	}
	l.signed = l.tree.n
	return nil
}

func orAny(id string) string {
	if id == "" {
		return "none yet"
	}
	return id
}
