package backupset

import (
	"bytes"
	"compress/flate"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"strings"
	"testing"

	"strongroom/internal/engine"
)

// plain is an engine that seals nothing: what parses under it is what an engine of the domain let through. Its sealed
// form is a code over the associated data, which keeps chunks in their place, and the chunk.
type plain struct{ codeless bool }

func (p plain) code(salt, header, chunk []byte) []byte {
	if p.codeless {
		return []byte{0}
	}
	sum := sha256.Sum256(bytes.Join([][]byte{salt, header, chunk}, []byte{0}))
	return sum[:]
}

func (p plain) SealBackup(_ context.Context, salt, header, chunk []byte) ([]byte, error) {
	return append(p.code(salt, header, chunk), chunk...), nil
}

func (p plain) OpenBackup(_ context.Context, salt, header, sealed []byte) ([]byte, error) {
	n := len(p.code(salt, header, nil))
	if len(sealed) < n || !bytes.Equal(p.code(salt, header, sealed[n:]), sealed[:n]) {
		return nil, engine.ErrTampered
	}
	return sealed[n:], nil
}

// partOf seals a stream as the only part of a backup, in chunks of the given sizes and the rest in the last, and returns
// the manifest that it fits.
func partOf(t testing.TB, stream []byte, sizes ...int) (*Manifest, []byte) {
	t.Helper()
	m := &Manifest{Version: formatVersion, Domain: strings.Repeat("ab", domainSize), Backup: strings.Repeat("cd", idSize)}
	var b bytes.Buffer
	c := &chunkWriter{ctx: t.Context(), sealer: plain{}}
	if err := c.begin(&b, place{version: formatVersion, domain: m.Domain, backup: m.Backup, number: 1, salt: make([]byte, engine.SaltSize)}); err != nil {
		t.Fatal(err)
	}
	for _, n := range sizes {
		c.buf, stream = stream[:n], stream[n:]
		if err := c.seal(markMore); err != nil {
			t.Fatal(err)
		}
	}
	c.buf = stream
	if err := c.seal(markEnd); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(b.Bytes())
	m.Parts = []ObjectInfo{{Name: partName(1), Size: int64(b.Len()), SHA256: hex.EncodeToString(sum[:])}}
	return m, b.Bytes()
}

func deflate(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := flate.NewWriter(&out, flate.BestSpeed)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// readPart returns the records of the only part of a backup.
func readPart(ctx context.Context, m *Manifest, part []byte, o Opener) (list []Record, err error) {
	r, err := openPart(ctx, m, 1, bytes.NewReader(part), o)
	if err != nil {
		return nil, err
	}
	for {
		kind, name, body, err := r.record(true)
		if err == io.EOF {
			return list, nil
		}
		if err != nil {
			return list, err
		}
		list = append(list, Record{Item{Kind: kind, Name: name}, body})
	}
}

func code(err error) string {
	if f, ok := err.(*Finding); ok {
		return f.Code
	}
	return ""
}

// What opens and still is no stream of records is refused: a writer's mistake must not become half a restore.
func TestStreamsThatOpen(t *testing.T) {
	one := appendHead(nil, &Record{Item{Kind: "key", Name: "a"}, []byte("body")})
	one = append(one, "body"...)
	long := bytes.Repeat([]byte{1}, maxKind)
	stream := deflate(t, one)
	incompressible := func(size int) []byte {
		b := appendHead(nil, &Record{Item: Item{Kind: "key", Name: "a"}, Body: make([]byte, size)})
		head := len(b)
		for i := 0; len(b) < head+size; i++ {
			sum := sha256.Sum256([]byte{byte(i), byte(i >> 8), byte(i >> 16)})
			b = append(b, sum[:]...)
		}
		return deflate(t, b[:head+size])
	}
	big, little := incompressible(3<<20), incompressible(chunkBytes+200)
	if len(little) <= chunkBytes || len(little) > maxSealed-sha256.Size {
		t.Fatalf("a stream that is a little longer than a chunk has %d bytes", len(little))
	}
	for name, c := range map[string]struct {
		stream []byte
		sizes  []int
		code   string
	}{
		"a record":                   {stream, nil, ""},
		"no record":                  {deflate(t, nil), nil, ""},
		"chunks":                     {big, []int{chunkBytes, chunkBytes, chunkBytes}, ""},
		"a short chunk before":       {big, []int{chunkBytes, 1000, chunkBytes}, Contradicted},
		"an empty chunk before":      {stream, []int{0}, Contradicted},
		"an empty chunk at the end":  {big[:chunkBytes], []int{chunkBytes}, Contradicted},
		"only an empty chunk":        {nil, nil, Contradicted},
		"a large chunk":              {little, nil, Contradicted},
		"the same in two":            {little, []int{chunkBytes}, ""},
		"no DEFLATE":                 {[]byte("records"), nil, Contradicted},
		"a stream cut off":           {stream[:len(stream)-1], nil, Contradicted},
		"something after the stream": {append(bytes.Clone(stream), 0), nil, Contradicted},
		"two streams":                {append(bytes.Clone(stream), stream...), nil, Contradicted},
		"a record cut in its head":   {deflate(t, one[:3]), nil, Contradicted},
		"a record cut in its body":   {deflate(t, one[:len(one)-1]), nil, Contradicted},
		"a kind of no bytes":         {deflate(t, append([]byte{0}, one...)), nil, Contradicted},
		"a kind of many bytes":       {deflate(t, append([]byte{maxKind + 1, 1}, long...)), nil, Contradicted},
		"a kind in capitals":         {deflate(t, bytes.Replace(one, []byte("key"), []byte("KEY"), 1)), nil, Contradicted},
		"a name of no bytes":         {deflate(t, []byte("\x03key\x00\x00\x00\x00\x00\x00")), nil, Contradicted},
		"a name of many bytes":       {deflate(t, []byte("\x03key\x01\x01"+strings.Repeat("n", 257)+"\x00\x00\x00\x00")), nil, Contradicted},
		"a name with a line end":     {deflate(t, []byte("\x03key\x00\x01\n\x00\x00\x00\x00")), nil, Contradicted},
		"a body of many bytes":       {deflate(t, []byte("\x03key\x00\x01n\xff\xff\xff\xff")), nil, Contradicted},
		"a body of one byte more":    {deflate(t, append([]byte("\x03key\x00\x01n\x00\x80\x00\x01"), make([]byte, MaxBody+1)...)), nil, Contradicted},
	} {
		t.Run(name, func(t *testing.T) {
			m, part := partOf(t, c.stream, c.sizes...)
			if _, err := readPart(t.Context(), m, part, plain{}); code(err) != c.code || c.code == "" && err != nil {
				t.Errorf("got %v, want %q", err, c.code)
			}
		})
	}
}

// What does not begin as it has to is refused before an engine, or memory, is asked for anything.
func TestHeadsOfPartsAndChunks(t *testing.T) {
	m, part := partOf(t, deflate(t, nil))
	newer := *m
	newer.Version++
	_, err := readPart(t.Context(), &newer, part, plain{})
	if code(err) != Changed {
		t.Errorf("a part of another format version than the manifest: %v", err)
	}
	for name, c := range map[string]struct {
		head string
		code string
	}{
		"nothing":         {"", Truncated},
		"half":            {"\x00\x00\x00", Truncated},
		"no bytes":        {"\x02\x00\x00\x00\x00", Changed},
		"too many":        {"\x02\x00\x10\x04\x01", Changed},
		"four gigabytes":  {"\x00\xff\xff\xff\xff", Changed},
		"an unknown mark": {"\x03\x00\x00\x00\x01.", Changed},
		"as many as can":  {"\x02\x00\x10\x04\x00", Truncated},
	} {
		if _, err := readPart(t.Context(), m, append(bytes.Clone(part[:partHeader]), c.head...), plain{}); code(err) != c.code {
			t.Errorf("a chunk that begins with %s: got %v, want %s", name, err, c.code)
		}
	}
}

// An engine that seals into a longer form than is read cannot make a backup.
func TestSealedFormTooLong(t *testing.T) {
	c := &chunkWriter{ctx: t.Context(), sealer: inflating{}, to: io.Discard, buf: make([]byte, 10)}
	if err := c.seal(markEnd); err == nil {
		t.Error("it was written")
	}
}

type inflating struct{}

func (inflating) SealBackup(context.Context, []byte, []byte, []byte) ([]byte, error) {
	return make([]byte, maxSealed+1), nil
}

// The longest item there can be fits a line, and the largest manifest its bounds: none that is written is refused.
func TestBoundsFit(t *testing.T) {
	it := Item{Kind: strings.Repeat("k", maxKind), Name: strings.Repeat("n", MaxName), Deleted: true}
	for range MaxVersions {
		it.Versions = append(it.Versions, Version{ID: strings.Repeat("i", 64), Type: strings.Repeat("t", 16), Bits: 1 << 20, Curve: strings.Repeat("c", 16), Check: strings.Repeat("h", 128)})
	}
	line, err := oneLine(&it)
	if err != nil || len(line) >= maxLine {
		t.Fatalf("%d bytes, %v", len(line), err)
	}
	if _, err := parseItem(line); err != nil {
		t.Error(err)
	}
	m := goldenManifest()
	for i := range MaxParts {
		m.Parts = append(m.Parts, ObjectInfo{Name: partName(i + 1), Size: maxPart, SHA256: strings.Repeat("f", 64), Records: 1 << 25})
		m.Records += 1 << 25
	}
	m.Counts, m.Inventory.Records = map[string]int64{"key": m.Records}, m.Records
	payload, err := m.encode()
	if err != nil {
		t.Fatal(err)
	}
	if n := (len(payload)*4+2)/3 + 2000; n > MaxManifest { // in base64url, with header and signature
		t.Errorf("it would have %d bytes", n)
	}
	if _, err := parseManifest(payload); err != nil {
		t.Error(err)
	}
}
