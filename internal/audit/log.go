package audit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"strongroom/internal/durable"
	"strongroom/internal/failure"
)

// Options of [Open].
type Options struct {
	// Server names whose log it is; a log of another one is refused. At most 128 bytes of printable ASCII.
	Server string
	// ID is the log that there must be: a missing one is [ErrMissing], another one [ErrForeign]. Empty: a log is made
	// where there is none. A server remembers [Log.ID] in its database, so that a folder that was emptied shows.
	ID string
	// Known is the newest checkpoint that the server remembers outside the folder; N is 0 where it remembers none. A log
	// that does not contain it is [ErrRolledBack]: without this, somebody who can write to the folder of a stopped server
	// could change the log, and have the server sign the change. It has to be kept where it cannot be edited (sealed).
	Known tlog.Tree
	// Signers returns the keys that sign a checkpoint now: the server's audit key first, then the signing key of each
	// activated domain. At least one. It is called by the log's own goroutine, and must not call the log.
	Signers func(ctx context.Context) ([]note.Signer, error)
	// OnCheckpoint, unless nil, is called with each checkpoint when it is on disk, by the log's own goroutine; it must
	// not call the log, and nothing is recorded until it returns. It is where a server updates what it gives as Known,
	// and sends the checkpoint to somebody else for keeping.
	OnCheckpoint func(tree tlog.Tree, notes []string)
	// Clock is the time; nil: time.Now. Rand is where a new log's ID comes from; required.
	Clock func() time.Time
	Rand  io.Reader
	// Logger, unless nil, hears when the log cannot be written or signed, and when it can again.
	Logger *slog.Logger

	// CheckpointRecords and CheckpointAfter bound how many records wait for a checkpoint, and how long the first of them
	// does. 0: 1024 and 10 s. At most 2560 records.
	CheckpointRecords int
	CheckpointAfter   time.Duration
	// SegmentBytes is the size from which on a new segment is begun. 0: 64 MiB.
	SegmentBytes int64
	// MaxWaiting is how many callers may wait for the disk; more are refused at once. 0: 4096.
	MaxWaiting int
}

// Stats is what a log has to say about itself, for metrics.
type Stats struct {
	Records  int64 // in the log
	Unsigned int64 // after the last checkpoint
	Waiting  int64 // callers that wait for the disk
	Syncs    int64 // since the log was opened
	Appended int64 // since the log was opened
	Refused  int64 // since the log was opened
	Writable bool  // the last attempt to write worked
}

// Log is an open log. Safe for concurrent use.
type Log struct {
	o   Options
	dir string
	id  string

	door     door
	free     sync.Pool     // of requests that nobody holds any more
	quit     chan struct{} // closed by Close
	stopped  chan struct{} // closed when the writer has ended
	closing  sync.Once
	closeErr error

	failOnce sync.Once
	failed   chan struct{}
	failure  error // why; set before failed is closed

	waiting, syncs, appended, refused, records, unsigned atomic.Int64
	writable                                             atomic.Bool

	// The rest is the writer's alone (and Open's, before there is a writer).
	lockFile *os.File
	file     *os.File  // the last segment
	size     int64     // of what is known to be on disk of it
	floor    int64     // what the file is cut back to after a write that found no space; not below size
	asked    int64     // up to where room was asked for: see reserve
	rewrite  []byte    // what was found after size when the log was opened, and is written once more with the next write
	cut      int64     // bytes after that which were no whole record; said by the next write
	tree     tree      // of all records, those in rewrite too
	prev     tlog.Hash // of the last of them
	signed   int64     // records that the last checkpoint covers
	company  company
	buf      []byte // for the lines of a group
}

// request is one Append on its way.
type request struct {
	rest []byte      // of the line
	done chan result // of one
}

type result struct {
	number int64
	err    error
}

// ID is the log's name, 32 hex digits.
func (l *Log) ID() string { return l.id }

// Failed is closed when the log has failed for good: the process has to end.
func (l *Log) Failed() <-chan struct{} { return l.failed }

// Stats returns numbers for metrics.
func (l *Log) Stats() Stats {
	return Stats{Records: l.records.Load(), Unsigned: l.unsigned.Load(), Waiting: l.waiting.Load(), Syncs: l.syncs.Load(),
		Appended: l.appended.Load(), Refused: l.refused.Load(), Writable: l.writable.Load()}
}

// Append adds a record and returns its number. When it returns without an error, the record is on disk. Callers share
// syncs, and records are in the order in which they were taken.
//
// Every error means that the operation must not be done, or its result not be told. It is a [failure.Error]: Internal
// for a record that says what no record may say, and else Unavailable with [CodeUnavailable] and one of [ErrFull],
// [ErrFailed], [ErrClosed], [ErrUnsigned], [ErrBusy], or the error of ctx, as its cause. After the error of ctx the
// record may be in the log or not, and after [ErrFailed] too; after the others it is not. For an outcome, give a ctx that
// does not end with the caller's patience (context.WithoutCancel).
func (l *Log) Append(ctx context.Context, r Record) (int64, error) {
	if r.Kind != "" && r.Kind != KindCall || r.Number != 0 {
		return 0, failure.New(failure.Internal, "the call cannot be recorded: number and kind are the log's to give")
	}
	if err := r.prepare(l.o.Clock()); err != nil {
		return 0, err
	}
	q := l.free.Get().(*request)
	q.rest = r.appendRest(q.rest[:0])
	number, err := l.append(ctx, q)
	if err != nil {
		l.refused.Add(1)
		return 0, unavailable(err)
	}
	return number, nil
}

func (l *Log) append(ctx context.Context, q *request) (int64, error) {
	defer l.waiting.Add(-1)
	if l.waiting.Add(1) > int64(l.o.MaxWaiting) {
		return 0, ErrBusy
	}
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if !l.door.come(q) {
		return 0, l.ended()
	}
	select {
	case r := <-q.done:
		l.free.Put(q)
		return r.number, r.err
	case <-ctx.Done():
		l.door.leave(q) // not into l.free: the writer may have it
		return 0, ctx.Err()
	}
}

func (l *Log) ended() error {
	select {
	case <-l.failed:
		return l.failure
	default:
		return ErrClosed
	}
}

// Close signs what is not signed yet and closes the log. Callers who still wait get an answer: that of the disk, or
// [ErrClosed]. Its error says that the end of the log has no checkpoint; the records are on disk all the same.
func (l *Log) Close() error {
	l.closing.Do(func() {
		close(l.quit)
		<-l.stopped
	})
	return l.closeErr
}

// run is the writer: the one goroutine that changes the log.
func (l *Log) run() {
	defer func() {
		for _, q := range l.door.close() {
			q.done <- result{err: l.ended()}
		}
		close(l.stopped)
	}()
	var due <-chan time.Time // a checkpoint by time
	batch := make([]*request, 0, maxBatch)
	l.company.timer = time.NewTimer(linger)
	l.company.timer.Stop()
	for {
		ready := l.door.await(1)
		select { // what is due goes before what waits: there may always be somebody who waits
		case <-due:
			due = nil
			l.tryCheckpoint()
		case <-l.quit:
			l.closeErr = l.finish()
			return
		default:
			if ready {
				break
			}
			select {
			case <-l.door.wake:
			case <-due:
				due = nil
				l.tryCheckpoint()
			case <-l.quit:
				l.closeErr = l.finish()
				return
			}
		}
		if batch = l.gather(batch[:0]); len(batch) > 0 {
			l.commit(batch)
			clear(batch)
			if l.tree.n-l.signed >= int64(l.o.CheckpointRecords) {
				l.tryCheckpoint()
			}
		}
		switch {
		case l.tree.n == l.signed:
			due = nil
		case due == nil:
			due = time.After(l.o.CheckpointAfter)
		}
	}
}

// commit makes the records of a batch durable, all or none, and answers.
func (l *Log) commit(batch []*request) {
	err := l.ready(int64(len(batch)))
	t, prev := l.tree, l.prev
	if err == nil {
		t = l.tree.clone()
		buf := l.buf[:0]
		for _, q := range batch {
			buf, prev = appendLine(buf, &t, prev, q.rest)
		}
		l.buf = buf
		err = l.write(buf, &t, prev)
	}
	first := t.n - int64(len(batch))
	if err == nil {
		l.appended.Add(int64(len(batch)))
	}
	l.company.expect = int(l.waiting.Load()) // before the answers, so with this group
	l.tell("records", err)                   // and this too: who has an answer sees it in Stats
	for i, q := range batch {
		q.done <- result{first + int64(i), err}
	}
}

// appendLine adds a record to buf and to the tree.
func appendLine(buf []byte, t *tree, prev tlog.Hash, rest []byte) ([]byte, tlog.Hash) {
	start := len(buf)
	buf = append(appendStart(buf, t.n, prev), rest...)
	prev = tlog.RecordHash(buf[start:])
	t.add(prev, nil)
	return append(buf, '\n'), prev
}

// ready makes room for n records: a checkpoint where too many would be without one, and a new segment where the last
// is long enough.
func (l *Log) ready(n int64) error {
	if err := l.settle(); err != nil {
		return err
	}
	if l.tree.n+n-l.signed > writerUnsigned {
		if err := l.checkpoint(); err != nil {
			return err
		}
	}
	if l.size >= l.o.SegmentBytes {
		return l.rotate()
	}
	return nil
}

// settle writes once more what was found at the end of the log when it was opened, and says where the log was cut, if it
// was. Nothing else is written before, and nothing at all when the log has failed. See [Open] for the reason.
func (l *Log) settle() error {
	select {
	case <-l.failed:
		return l.failure
	default:
	}
	if l.rewrite == nil {
		return nil
	}
	buf, t, prev := l.rewrite, l.tree, l.prev
	if l.cut > 0 {
		r := Record{Kind: KindRecovered, Cut: l.cut}
		if err := r.prepare(l.o.Clock()); err != nil {
			return err
		}
		t = l.tree.clone()
		buf, prev = appendLine(append([]byte(nil), buf...), &t, prev, r.appendRest(nil))
	}
	if err := l.write(buf, &t, prev); err != nil {
		return err
	}
	l.rewrite, l.cut = nil, 0
	return nil
}

// write puts bytes after what is on disk and syncs them. If it returns nil, the log has the tree and the last hash. On
// ErrFull the log is as it was before, and on ErrFailed it is the last thing that it did.
func (l *Log) write(b []byte, t *tree, prev tlog.Hash) error {
	select {
	case <-l.failed:
		return l.failure
	default:
	}
	if l.size+int64(len(b)) > l.asked {
		l.asked = l.size + int64(len(b)) + reserveBytes
		reserve(l.file, l.size, l.asked)
	}
	durable.At("audit:before-write")
	if _, err := l.file.WriteAt(b, l.size); err != nil {
		if !isFull(err) {
			return l.fail(err)
		}
		// Not one byte more than what was there before, so that nothing is left of records that were refused. It gives the
		// room back that is reserved, too: there is none.
		l.asked = l.floor
		if err := l.file.Truncate(l.floor); err != nil {
			return l.fail(err)
		}
		return fmt.Errorf("%w; free some space on the volume of %s: %w", ErrFull, l.dir, err)
	}
	end := l.size + int64(len(b))
	if end < l.floor { // what a crash left behind was longer
		if err := l.file.Truncate(end); err != nil {
			return l.fail(err)
		}
	}
	durable.At("audit:before-sync")
	l.syncs.Add(1)
	if err := l.file.Sync(); err != nil {
		return l.fail(err)
	}
	durable.At("audit:after-sync")
	l.size, l.floor = end, end
	l.tree, l.prev = *t, prev
	l.records.Store(l.tree.n)
	l.unsigned.Store(l.tree.n - l.signed)
	return nil
}

// fail makes the log refuse everything from now on. A sync that failed is not tried again, neither on this file nor on
// another: what the kernel did not write it may have marked as written, and a second sync would say so. The next [Open]
// writes anew all that no successful sync vouches for.
func (l *Log) fail(cause error) error {
	l.failOnce.Do(func() {
		l.failure = fmt.Errorf("%w: %w", ErrFailed, cause)
		l.writable.Store(false)
		if l.o.Logger != nil {
			l.o.Logger.Error("the audit log has failed; this server must be restarted", "folder", l.dir, "error", cause)
		}
		close(l.failed)
	})
	return l.failure
}

// tell logs when writing begins to fail, and when it works again; not each time between.
func (l *Log) tell(what string, err error) {
	if errors.Is(err, ErrFailed) { // said by fail
		return
	}
	if was := l.writable.Swap(err == nil); l.o.Logger == nil || was == (err == nil) {
		return
	}
	if err != nil {
		l.o.Logger.Error("the audit log cannot be written: operations are refused until it can", "folder", l.dir, "what", what, "error", err)
		return
	}
	l.o.Logger.Warn("the audit log can be written again", "folder", l.dir, "records", l.tree.n)
}

// tryCheckpoint is checkpoint where a failure is no caller's: it is logged and tried again later, and counts when
// MaxUnsigned is reached.
func (l *Log) tryCheckpoint() {
	if err := l.checkpoint(); err != nil && !errors.Is(err, ErrFailed) && l.o.Logger != nil {
		l.o.Logger.Error("no checkpoint of the audit log could be made; it is tried again", "folder", l.dir, "unsigned", l.tree.n-l.signed, "error", err)
	}
}

// checkpoint signs the log as it is. It comes after the sync of the records that it covers, so a checkpoint in the file
// says that they are on disk.
func (l *Log) checkpoint() error {
	if err := l.settle(); err != nil {
		return err
	}
	if l.tree.n == l.signed {
		return nil
	}
	notes, err := l.sign()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnsigned, err)
	}
	var buf []byte
	for _, n := range notes {
		line := newCheckpointLine(n, l.prev)
		if len(line) > MaxLine {
			return fmt.Errorf("%w: the names of its keys are too long", ErrUnsigned)
		}
		buf = append(buf, line...)
	}
	if err := l.write(buf, &l.tree, l.prev); err != nil {
		return err
	}
	l.signed = l.tree.n
	l.unsigned.Store(0)
	durable.At("audit:after-checkpoint")
	if l.o.OnCheckpoint != nil {
		l.o.OnCheckpoint(tlog.Tree{N: l.tree.n, Hash: l.tree.root()}, notes)
	}
	return nil
}

// maxSignatures is how many signatures one note gets: readers of notes take 100, and lines have a bound. More keys make
// more notes of the same text.
const maxSignatures = 64

func (l *Log) sign() (notes []string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	signers, err := l.o.Signers(ctx)
	if err != nil {
		return nil, err
	}
	if len(signers) == 0 {
		return nil, errors.New("there is no key to sign with")
	}
	text := checkpointText(l.id, &l.tree)
	for len(signers) > 0 {
		n := min(len(signers), maxSignatures)
		signed, err := note.Sign(&note.Note{Text: text}, signers[:n]...)
		if err != nil {
			return nil, err
		}
		notes, signers = append(notes, string(signed)), signers[n:]
	}
	return notes, nil
}

// rotate ends the segment with a checkpoint and begins another.
func (l *Log) rotate() error {
	if err := l.checkpoint(); err != nil {
		return err
	}
	f, size, err := l.create(&l.tree, l.prev)
	if err != nil {
		return err
	}
	l.giveBack()
	_ = l.file.Close() // all of it is synced
	l.file, l.size, l.floor, l.asked = f, size, size, 0
	return nil
}

// reserveBytes is how much room is asked for at once.
const reserveBytes = 1 << 20

// giveBack lets go of room that was reserved for the last segment and is not used. What has to be on disk is there, and
// stays.
func (l *Log) giveBack() {
	if l.asked > l.size && l.floor == l.size {
		_ = l.file.Truncate(l.size)
	}
}

// create makes a segment that begins after the given tree. It has its name only when it is whole and synced.
func (l *Log) create(t *tree, prev tlog.Hash) (*os.File, int64, error) {
	head := newHeader(l.id, l.o.Server, l.o.Clock(), t, prev)
	path := filepath.Join(l.dir, fmt.Sprintf(segmentName, t.n))
	if err := durable.WriteFile(path, head, 0o600, false); err != nil {
		pe, ok := errors.AsType[*fs.PathError](err)
		if errors.Is(err, durable.ErrUnsynced) || ok && pe.Op == "sync" {
			return nil, 0, l.fail(err)
		}
		if isFull(err) {
			return nil, 0, fmt.Errorf("%w; free some space on the volume of %s: %w", ErrFull, l.dir, err)
		}
		if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) {
			return nil, 0, fmt.Errorf("audit: begin a segment: %w", err) // may be over the next time
		}
		return nil, 0, l.fail(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		// The name is taken and cannot be taken back for certain; what is there is right, and the next Open uses it.
		return nil, 0, l.fail(err)
	}
	return f, int64(len(head)), nil
}

// finish is the end of the writer.
func (l *Log) finish() error {
	var err error
	select {
	case <-l.failed:
		err = l.failure
	default:
		err = l.checkpoint()
		l.giveBack()
	}
	return errors.Join(err, l.file.Close(), l.lockFile.Close())
}

// isFull reports an error of a write that says "no space".
func isFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.EFBIG)
}
