package backupset

import (
	"bytes"
	"compress/flate"
	"context"
	"encoding/hex"
	"errors"
	"io"
	"time"

	"strongroom/internal/engine"
	"strongroom/internal/failure"
)

// Options of [New]. All but Progress and PartBytes are needed.
type Options struct {
	Storage Storage
	Folder  string // see FolderName; nothing may be in it
	Domain  string // ID of the security domain: 64 hexadecimal digits
	HSM     string // name of the HSM, 1 to 64 bytes
	HSMID   string
	Sealer  Sealer
	// Sign makes a statement of the domain (package statement) of a kind and a payload.
	Sign    func(ctx context.Context, typ string, payload []byte) (jws []byte, err error)
	Rand    io.Reader
	Clock   func() time.Time
	Program string // name and version of this program, at most 128 bytes without a space
	// Progress is called with every chunk, on the goroutine that writes.
	Progress func(Progress)
	// PartBytes is how long a part is before the next record goes into another one; at most, and if it is 0, 64 MiB.
	PartBytes int64
}

// Writer writes one backup. It is for one goroutine. An error is for good: every later call but Abort returns it again.
type Writer struct {
	o         Options
	m         Manifest
	err       error
	done      bool
	part      *objectWriter // nil between parts
	inventory *objectWriter
	chunks    *chunkWriter
	stream    *flate.Writer
	head      []byte // of the record that is added
	records   int64  // in the part
	written   int64  // bytes of parts that are committed
	tally
}

// New begins a backup: its inventory and its first part, so that a storage which cannot be written, or a folder that is
// taken, is found here. The objects are made in the contexts of New, Add and Finish and outlive the call, so pass one
// context to all of them, and do not end it before. Call Abort in the end in any case.
func New(ctx context.Context, o Options) (*Writer, error) {
	if o.PartBytes == 0 {
		o.PartBytes = partBytes
	}
	var id [idSize]byte
	if _, err := io.ReadFull(o.Rand, id[:]); err != nil {
		return nil, failure.Wrap(failure.Unavailable, err, "there is no randomness for a backup; try again")
	}
	w := &Writer{o: o, m: Manifest{Format: manifestFormat, Version: formatVersion, Backup: hex.EncodeToString(id[:]), Domain: o.Domain, HSM: o.HSM, HSMID: o.HSMID,
		Folder: o.Folder, Created: second(o.Clock()), Program: o.Program}}
	if !isHex(o.Domain, domainSize) || !isText(o.HSM, 1, 64) || !isText(o.HSMID, 1, 64) || !isText(o.Program, 1, 128) || o.PartBytes < 1 || o.PartBytes > partBytes {
		return nil, failure.New(failure.Internal, "a backup was begun with a domain ID, a name, a program or a size that is none")
	}
	if err := checkFolder(o.Folder); err != nil {
		return nil, failure.Wrap(failure.Internal, err, "a backup was begun in a folder that cannot be one")
	}
	w.chunks = &chunkWriter{ctx: ctx, sealer: o.Sealer, buf: make([]byte, 0, chunkBytes)}
	stream, err := flate.NewWriter(w.chunks, compression)
	if err != nil {
		return nil, failure.Wrap(failure.Internal, err, "a backup cannot be compressed")
	}
	w.stream = stream
	// The part first: where the folder is taken, the inventory of an unfinished backup was never there.
	if err := w.beginPart(ctx); err != nil {
		return nil, w.give(err)
	}
	if w.inventory, err = create(ctx, o.Storage, o.Folder, inventoryName); err != nil {
		return nil, w.give(err)
	}
	if err := w.line(inventoryHead{inventoryFormat, formatVersion, w.m.Backup}); err != nil {
		return nil, w.give(err)
	}
	return w, nil
}

func second(at time.Time) time.Time { return at.UTC().Truncate(time.Second) }

// give turns an error into a failure, lets go of the open objects, and keeps the failure.
func (w *Writer) give(err error) error {
	w.err = fail(w.o.Folder, err)
	w.drop()
	return w.err
}

func (w *Writer) drop() {
	for _, o := range []*objectWriter{w.part, w.inventory} {
		if o != nil {
			o.to.Abort()
		}
	}
	w.part, w.inventory = nil, nil
}

// Abort gives the backup up. Parts that are finished stay where they are, in a folder without a manifest. After Finish
// it does nothing.
func (w *Writer) Abort() {
	w.drop()
	if w.err == nil && !w.done {
		w.err = failure.New(failure.Internal, "the backup was given up")
	}
}

func (w *Writer) beginPart(ctx context.Context) (err error) {
	if len(w.m.Parts) == MaxParts {
		return failure.New(failure.TooLarge, "a backup has at most %d parts of %d MiB", MaxParts, partBytes>>20)
	}
	salt := make([]byte, engine.SaltSize)
	if _, err := io.ReadFull(w.o.Rand, salt); err != nil {
		return failure.Wrap(failure.Unavailable, err, "there is no randomness for a backup; try again")
	}
	number := len(w.m.Parts) + 1
	if w.part, err = create(ctx, w.o.Storage, w.o.Folder, partName(number)); err != nil {
		return err
	}
	w.records = 0
	w.stream.Reset(w.chunks)
	return w.chunks.begin(w.part, place{version: formatVersion, domain: w.m.Domain, backup: w.m.Backup, number: uint32(number), salt: salt})
}

func (w *Writer) endPart(mark byte) error {
	if err := w.stream.Close(); err != nil {
		return err
	}
	if err := w.chunks.seal(mark); err != nil {
		return err
	}
	o, err := w.part.commit()
	if err != nil {
		return err
	}
	o.Records = w.records
	w.m.Parts = append(w.m.Parts, o)
	w.written += o.Size
	w.part = nil
	return nil
}

func (w *Writer) line(v any) error {
	text, err := oneLine(v)
	if err != nil {
		return err
	}
	if len(text) >= maxLine {
		return errors.New("backupset: a line of the inventory is longer than a reader allows")
	}
	_, err = w.inventory.Write(append(text, '\n'))
	return err
}

// Add writes a record; what is in it is not kept. Records come in an order: see [Item]. A record that a reader would
// refuse is a failure.Internal.
func (w *Writer) Add(ctx context.Context, r Record) error {
	switch {
	case w.err != nil:
		return w.err
	case w.done:
		return failure.New(failure.Internal, "a record was added to a backup that is finished")
	}
	if err := w.add(ctx, &r); err != nil {
		return w.give(err)
	}
	return nil
}

func (w *Writer) add(ctx context.Context, r *Record) error {
	err := r.Item.check()
	if err == nil {
		err = w.tally.add(&r.Item)
	}
	if err != nil {
		return failure.Wrap(failure.Internal, err, "a record %s %.300q cannot be in a backup", r.Kind, r.Name)
	}
	if len(r.Body) > MaxBody {
		return failure.New(failure.TooLarge, "%s %s has %d bytes, and there is room for %d in a backup", r.Kind, r.Name, len(r.Body), MaxBody)
	}
	w.chunks.ctx = ctx
	if w.records > 0 && w.part.size >= w.o.PartBytes {
		if err := w.endPart(markPart); err != nil {
			return err
		}
		if err := w.beginPart(ctx); err != nil {
			return err
		}
	}
	before := w.part.size
	w.head = appendHead(w.head[:0], r)
	if _, err := w.stream.Write(w.head); err != nil {
		return err
	}
	if _, err := w.stream.Write(r.Body); err != nil {
		return err
	}
	if err := w.line(&r.Item); err != nil {
		return err
	}
	w.records++
	if w.part.size != before {
		w.progress()
	}
	return nil
}

func (w *Writer) progress() {
	if w.o.Progress == nil {
		return
	}
	p := Progress{Parts: len(w.m.Parts), Records: w.tally.records, Bytes: w.written}
	for _, o := range []*objectWriter{w.part, w.inventory} {
		if o != nil {
			p.Bytes += o.size
		}
	}
	if w.part != nil {
		p.Parts++
	}
	w.o.Progress(p)
}

// Finish writes what is left and then, last of all, the manifest. After an error the backup is unfinished, but for one
// case: a storage that fails to answer may have the manifest all the same, and then the backup is good.
func (w *Writer) Finish(ctx context.Context) (Manifest, error) {
	switch {
	case w.err != nil:
		return Manifest{}, w.err
	case w.done:
		return Manifest{}, failure.New(failure.Internal, "a backup was finished twice")
	}
	if err := w.finish(ctx); err != nil {
		return Manifest{}, w.give(err)
	}
	w.done = true
	return w.m, nil
}

func (w *Writer) finish(ctx context.Context) (err error) {
	w.chunks.ctx = ctx
	if err := w.endPart(markEnd); err != nil {
		return err
	}
	if w.m.Inventory, err = w.inventory.commit(); err != nil {
		return err
	}
	w.written += w.m.Inventory.Size
	w.inventory = nil
	w.m.Inventory.Records = w.tally.records
	w.m.Counts, w.m.Records, w.m.Versions, w.m.Deleted = w.counts, w.tally.records, w.versions, w.deleted
	if w.m.Counts == nil {
		w.m.Counts = map[string]int64{}
	}
	if w.m.Finished = second(w.o.Clock()); w.m.Finished.Before(w.m.Created) {
		w.m.Finished = w.m.Created // the clock was set back
	}
	payload, err := w.m.encode()
	if err != nil {
		return err
	}
	jws, err := w.o.Sign(ctx, ManifestType, payload)
	if err != nil {
		return err
	}
	// Read it as a reader will: a domain that signs for another, or a manifest that nobody can read, is found now.
	read, err := readManifest(jws)
	if err != nil {
		return failure.Wrap(failure.Internal, err, "the manifest of the backup %s was not signed as it has to be", w.o.Folder)
	}
	if again, err := read.encode(); err != nil || !bytes.Equal(again, payload) || len(jws) > MaxManifest {
		return failure.New(failure.Internal, "the manifest of the backup %s was not signed as it has to be", w.o.Folder)
	}
	o, err := create(ctx, w.o.Storage, w.o.Folder, manifestName)
	if err != nil {
		return err
	}
	if _, err := o.Write(jws); err != nil {
		o.to.Abort()
		return err
	}
	if _, err := o.commit(); err != nil {
		o.to.Abort()
		return err
	}
	w.written += int64(len(jws))
	w.progress()
	return nil
}
