package backupset

import (
	"bufio"
	"bytes"
	"compress/flate"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"

	"strongroom/internal/engine"
)

// A part (docs: formats):
//
//	header   "strongroom-backup-part" ‖ version(1) ‖ domain ID(32) ‖ backup ID(16) ‖ number of the part(4) ‖ salt(32)
//	chunks   mark(1) ‖ length(4) ‖ sealed, once or more
//
// A chunk's associated data are the header, the number of the chunk from 0 on, and its mark. So a chunk opens in its
// place in its part of its backup, and nowhere else, and the end of a part and of a backup cannot be moved. Every chunk but the last of
// its part holds chunkBytes. What they hold, one after another, is a DEFLATE stream (RFC 1951) of
//
//	records  length of kind(1) ‖ kind ‖ length of name(2) ‖ name ‖ length of body(4) ‖ body
//
// Each part is compressed for itself, and no record is in two: a part can be read without the others.
const (
	partMagic  = "strongroom-backup-part"
	partHeader = len(partMagic) + 1 + domainSize + idSize + 4 + engine.SaltSize

	chunkBytes = 1 << 20
	chunkHead  = 1 + 4
	maxSealed  = chunkBytes + 1<<10 // an engine adds some 30 bytes

	compression = 1 // flate.BestSpeed: what is big in a backup is ciphertext, in base64
)

// Marks of chunks.
const (
	markMore = 0 // another chunk of this part follows
	markPart = 1 // the part ends here, and another part follows
	markEnd  = 2 // the backup ends here
)

// place is what a part's header says.
type place struct {
	version        byte
	domain, backup string // in hexadecimal
	number         uint32
	salt           []byte
}

func (p place) encode() []byte {
	b := make([]byte, 0, partHeader)
	b = append(b, partMagic...)
	b = append(b, p.version)
	b = append(b, unhex(p.domain)...)
	b = append(b, unhex(p.backup)...)
	b = binary.BigEndian.AppendUint32(b, p.number)
	return append(b, p.salt...)
}

func parsePlace(header []byte) (p place, ok bool) {
	rest, ok := bytes.CutPrefix(header, []byte(partMagic))
	if !ok || len(header) != partHeader {
		return place{}, false
	}
	p.version, rest = rest[0], rest[1:]
	p.domain, rest = hex.EncodeToString(rest[:domainSize]), rest[domainSize:]
	p.backup, rest = hex.EncodeToString(rest[:idSize]), rest[idSize:]
	p.number, p.salt = binary.BigEndian.Uint32(rest), rest[4:]
	return p, true
}

// checkPlace holds the header of an object against where it stands: in backup m, as part number.
func checkPlace(m *Manifest, number int, header []byte) (place, error) {
	finding := func(code, reason string) error { return &Finding{partName(number), code, reason} }
	p, ok := parsePlace(header)
	switch {
	case len(header) < partHeader && bytes.HasPrefix([]byte(partMagic), header[:min(len(header), len(partMagic))]):
		return p, finding(Truncated, "is cut off in its header")
	case !ok:
		return p, finding(Changed, "was changed: it does not begin as a part does")
	case int(p.version) != m.Version:
		return p, finding(Changed, sprintf("was changed: it has format version %d, and the manifest has %d", p.version, m.Version))
	case p.backup != m.Backup:
		return p, finding(Mixed, sprintf("belongs to the backup with ID %s, and this one has %s", p.backup, m.Backup))
	case p.domain != m.Domain:
		return p, finding(Mixed, sprintf("belongs to the security domain %s, and the backup to %s", p.domain, m.Domain))
	case int64(p.number) != int64(number):
		return p, finding(Mixed, sprintf("is part %d under another name", p.number))
	}
	return p, nil
}

// associated appends to a header what else a chunk is bound to.
func associated(header []byte, number uint32, mark byte) []byte {
	b := make([]byte, 0, len(header)+5)
	b = append(b, header...)
	b = binary.BigEndian.AppendUint32(b, number)
	return append(b, mark)
}

// chunkWriter cuts and seals what is written to it. A full chunk waits until it is known whether it is the last.
type chunkWriter struct {
	ctx    context.Context // of the call that writes: a write has none of its own
	sealer Sealer
	to     io.Writer
	header []byte
	salt   []byte
	number uint32
	buf    []byte
}

// begin starts a part. The buffer stays from part to part.
func (c *chunkWriter) begin(to io.Writer, p place) error {
	c.to, c.header, c.salt, c.number, c.buf = to, p.encode(), p.salt, 0, c.buf[:0]
	_, err := to.Write(c.header)
	return err
}

func (c *chunkWriter) Write(p []byte) (n int, err error) {
	for len(p) > 0 {
		if len(c.buf) == chunkBytes {
			if err := c.seal(markMore); err != nil {
				return n, err
			}
		}
		take := min(len(p), chunkBytes-len(c.buf))
		c.buf = append(c.buf, p[:take]...)
		p, n = p[take:], n+take
	}
	return n, nil
}

func (c *chunkWriter) seal(mark byte) error {
	if err := c.ctx.Err(); err != nil {
		return err
	}
	sealed, err := c.sealer.SealBackup(c.ctx, c.salt, associated(c.header, c.number, mark), c.buf)
	if err != nil {
		return err
	}
	if len(sealed) > maxSealed {
		return errors.New("backupset: the engine's sealed form is longer than a reader allows")
	}
	head := binary.BigEndian.AppendUint32([]byte{mark}, uint32(len(sealed)))
	if _, err := c.to.Write(head); err != nil {
		return err
	}
	if _, err := c.to.Write(sealed); err != nil {
		return err
	}
	c.number++
	c.buf = c.buf[:0]
	return nil
}

// chunkReader opens the chunks of one part, and is the stream that is in them.
type chunkReader struct {
	ctx    context.Context // of the call that reads
	opener Opener
	from   *bufio.Reader
	part   string
	header []byte
	salt   []byte
	number uint32
	mark   byte // of the last chunk that was read; markMore before
	sealed []byte
	plain  []byte // not read yet
	err    error  // sticky: flate may hide it
}

func (c *chunkReader) finding(code, reason string) error { return &Finding{c.part, code, reason} }

// fill opens the next chunk. io.EOF after the last.
func (c *chunkReader) fill() error {
	for c.err == nil && len(c.plain) == 0 {
		c.plain, c.err = c.chunk()
	}
	if len(c.plain) > 0 {
		return nil
	}
	return c.err
}

func (c *chunkReader) chunk() ([]byte, error) {
	if c.mark != markMore {
		return nil, io.EOF
	}
	cut := func(err error) error {
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return c.finding(Truncated, sprintf("is cut off in chunk %d", c.number))
		}
		return err
	}
	var head [chunkHead]byte
	if _, err := io.ReadFull(c.from, head[:]); err != nil {
		return nil, cut(err)
	}
	mark, size := head[0], binary.BigEndian.Uint32(head[1:])
	if mark > markEnd || size == 0 || size > maxSealed {
		return nil, c.finding(Changed, sprintf("was changed: chunk %d does not begin as a chunk does", c.number))
	}
	if cap(c.sealed) < int(size) {
		c.sealed = make([]byte, size)
	}
	sealed := c.sealed[:size]
	if _, err := io.ReadFull(c.from, sealed); err != nil {
		return nil, cut(err)
	}
	plain, err := c.opener.OpenBackup(c.ctx, c.salt, associated(c.header, c.number, mark), sealed)
	if errors.Is(err, engine.ErrTampered) {
		return nil, c.finding(Changed, sprintf("was changed: chunk %d does not open in its place", c.number))
	}
	if err != nil {
		return nil, err
	}
	if len(plain) == 0 || len(plain) > chunkBytes || mark == markMore && len(plain) < chunkBytes {
		return nil, c.finding(Contradicted, sprintf("has a chunk %d of another size than chunks have", c.number))
	}
	c.mark = mark
	c.number++
	return plain, nil
}

func (c *chunkReader) Read(p []byte) (int, error) {
	if err := c.fill(); err != nil {
		return 0, err
	}
	n := copy(p, c.plain)
	c.plain = c.plain[n:]
	return n, nil
}

// ReadByte keeps flate from reading further than its stream.
func (c *chunkReader) ReadByte() (byte, error) {
	if err := c.fill(); err != nil {
		return 0, err
	}
	b := c.plain[0]
	c.plain = c.plain[1:]
	return b, nil
}

// recordReader reads the records of one part.
type recordReader struct {
	chunks *chunkReader
	stream *bufio.Reader
}

func newRecordReader(chunks *chunkReader) *recordReader {
	return &recordReader{chunks, bufio.NewReaderSize(flate.NewReader(chunks), 16<<10)}
}

// record is the next one; io.EOF after the last of the part, whose end was then found where it has to be: after all of
// its chunks, and marked last if the backup ends here.
func (r *recordReader) record(last bool) (kind, name string, body []byte, err error) {
	n, err := r.stream.ReadByte()
	if err == io.EOF {
		return "", "", nil, r.end(last)
	}
	if err != nil {
		return "", "", nil, r.fault(err)
	}
	var b [max(maxKind, MaxName) + 4]byte
	field := func(size, least, most int) []byte {
		if err == nil && (size < least || size > most) {
			err = r.chunks.finding(Contradicted, "has a record that is none")
		}
		if err != nil {
			return nil
		}
		if _, e := io.ReadFull(r.stream, b[:size]); e != nil {
			err = r.fault(e)
		}
		return b[:size]
	}
	err = nil
	kind = string(field(int(n), 1, maxKind))
	size := 0
	if f := field(2, 2, 2); err == nil {
		size = int(binary.BigEndian.Uint16(f))
	}
	name = string(field(size, 1, MaxName))
	if f := field(4, 4, 4); err == nil {
		size = int(min(binary.BigEndian.Uint32(f), MaxBody+1))
	}
	if err == nil && (size > MaxBody || !isKind(kind) || !isText(name, 1, MaxName)) {
		err = r.chunks.finding(Contradicted, "has a record that is none")
	}
	if err != nil {
		return "", "", nil, err
	}
	body = make([]byte, size)
	if _, err := io.ReadFull(r.stream, body); err != nil {
		return "", "", nil, r.fault(err)
	}
	return kind, name, body, nil
}

// fault is what went wrong: below the stream or, if all was well there, in it.
func (r *recordReader) fault(err error) error {
	if r.chunks.err != nil && r.chunks.err != io.EOF {
		return r.chunks.err
	}
	return r.chunks.finding(Contradicted, "holds no stream of records: "+err.Error())
}

func (r *recordReader) end(last bool) error {
	// The stream has ended. Nothing may follow it, neither in the chunk nor after it.
	if _, err := r.chunks.ReadByte(); err == nil {
		return r.chunks.finding(Contradicted, "goes on after its records")
	} else if err != io.EOF {
		return err
	}
	if _, err := r.chunks.from.ReadByte(); err == nil {
		return r.chunks.finding(Changed, "was changed: it goes on after its last chunk")
	} else if err != io.EOF {
		return err
	}
	if last != (r.chunks.mark == markEnd) {
		return r.chunks.finding(Contradicted, "does not end as the manifest says: it is the last part in one of them, and not in the other")
	}
	return io.EOF
}

// appendHead appends what stands before the body of a record.
func appendHead(b []byte, r *Record) []byte {
	b = append(b, byte(len(r.Kind)))
	b = append(b, r.Kind...)
	b = binary.BigEndian.AppendUint16(b, uint16(len(r.Name)))
	b = append(b, r.Name...)
	return binary.BigEndian.AppendUint32(b, uint32(len(r.Body)))
}
