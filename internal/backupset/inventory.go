package backupset

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"maps"

	"strongroom/internal/strictjson"
)

const (
	inventoryFormat = "strongroom-backup-inventory"
	// maxLine is in bytes, of a line of the inventory with its end: MaxVersions versions with every text as long as it may
	// be take less.
	maxLine = 128 << 10
)

// Item is what the inventory says of a record, in the clear. As JSON it has one spelling: the members in this order, and
// without white space.
//
// Within one kind, names come in ascending order of their bytes, in lower case, and none comes twice; all records of a
// kind come together. So a reader sees a repeated record without remembering names.
type Item struct {
	Kind     string    `json:"kind"`               // 1 to 32 of a-z, 0-9 and -
	Name     string    `json:"name"`               // 1 to 256 bytes of printable ASCII but space, " and \
	Deleted  bool      `json:"deleted,omitempty"`  // deleted, and not purged
	Versions []Version `json:"versions,omitempty"` // of a key
}

// Version is one of a key. Of the texts only ID and Type have to be there.
type Version struct {
	ID      string `json:"id"`             // at most 64 bytes, as Name
	Type    string `json:"kty"`            // at most 16
	Bits    int    `json:"bits,omitempty"` // RSA and oct
	Curve   string `json:"crv,omitempty"`  // EC; at most 16
	Enabled bool   `json:"enabled"`
	Check   string `json:"check,omitempty"` // what the key is recognised by when it is used: nothing secret; at most 128
}

// inventoryHead is the first line.
type inventoryHead struct {
	Format  string `json:"format"`
	Version int    `json:"version"`
	Backup  string `json:"backup"`
}

var (
	lineLimits = strictjson.Limits{Bytes: maxLine, Depth: 3, Elements: MaxVersions, StringBytes: 512, Values: 8 + 8*MaxVersions, FoldNames: true}
	headLimits = strictjson.Limits{Bytes: 512, Depth: 1, Elements: 8, StringBytes: 128, Values: 8, FoldNames: true}
)

func isKind(s string) bool {
	if len(s) < 1 || len(s) > maxKind {
		return false
	}
	for i := range len(s) {
		if c := s[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}

func (it *Item) check() error {
	if !isKind(it.Kind) || !isText(it.Name, 1, MaxName) {
		return errors.New("a record's kind or name is none")
	}
	if len(it.Versions) > MaxVersions {
		return errors.New("a record has too many versions")
	}
	for i := range it.Versions {
		v := &it.Versions[i]
		if !isText(v.ID, 1, 64) || !isText(v.Type, 1, 16) || !isText(v.Curve, 0, 16) || !isText(v.Check, 0, 128) || v.Bits < 0 || v.Bits > 1<<20 {
			return errors.New("a version is none")
		}
	}
	return nil
}

// tally counts records, and sees whether they come in order.
type tally struct {
	counts                     map[string]int64
	records, versions, deleted int64
	kind                       string
	last                       []byte // name of the record before, in lower case
}

func (t *tally) add(it *Item) error {
	name := lower(it.Name)
	switch {
	case t.counts == nil:
		t.counts = map[string]int64{}
		fallthrough
	case it.Kind != t.kind:
		if t.counts[it.Kind] > 0 {
			return errors.New("records of one kind do not come together")
		}
		if len(t.counts) == maxKinds {
			return errors.New("there are too many kinds of records")
		}
	case bytes.Equal(name, t.last):
		return errors.New("a record comes twice")
	case bytes.Compare(name, t.last) < 0:
		return errors.New("records do not come in the order of their names")
	}
	t.kind, t.last = it.Kind, name
	t.counts[it.Kind]++
	t.records++
	t.versions += int64(len(it.Versions))
	if it.Deleted {
		t.deleted++
	}
	return nil
}

// lower is s with A to Z in lower case: names that differ in case only are one name (threat A3).
func lower(s string) []byte {
	b := []byte(s)
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return b
}

// is reports whether the manifest counted the same.
func (t *tally) is(m *Manifest) bool {
	return t.records == m.Records && t.versions == m.Versions && t.deleted == m.Deleted && maps.Equal(t.counts, m.Counts)
}

// inventoryReader reads the lines of an inventory.
type inventoryReader struct {
	from *bufio.Reader
	line int
	tally
}

// newInventoryReader reads the first line. Errors that are about the inventory and not about reading it are *Finding.
func newInventoryReader(from io.Reader, m *Manifest) (*inventoryReader, error) {
	r := &inventoryReader{from: bufio.NewReaderSize(from, maxLine)}
	text, err := r.next()
	if err == io.EOF {
		return nil, r.finding(Truncated, "is cut off: it is empty")
	}
	if err != nil {
		return nil, err
	}
	var head inventoryHead
	if strictjson.Check(text, headLimits) != nil || json.Unmarshal(text, &head) != nil || head.Format != inventoryFormat {
		return nil, r.finding(Changed, "was changed: it does not begin as an inventory does")
	}
	if again, err := oneLine(head); err != nil || !bytes.Equal(again, text) || head.Version != m.Version || !isHex(head.Backup, idSize) {
		return nil, r.finding(Changed, "was changed: its first line is malformed, or of another format version than the manifest")
	}
	if head.Backup != m.Backup {
		return nil, r.finding(Mixed, sprintf("belongs to the backup with ID %s, and this one has %s", head.Backup, m.Backup))
	}
	return r, nil
}

// next is a line without its end; io.EOF after the last. It is good until the following call.
func (r *inventoryReader) next() ([]byte, error) {
	line, err := r.from.ReadSlice('\n')
	switch {
	case err == io.EOF && len(line) == 0:
		return nil, io.EOF
	case err == io.EOF:
		return nil, r.finding(Truncated, sprintf("is cut off in line %d", r.line+1))
	case err == bufio.ErrBufferFull:
		return nil, r.finding(Changed, sprintf("was changed: line %d is longer than lines are", r.line+1))
	case err != nil:
		return nil, err
	}
	r.line++
	return line[:len(line)-1], nil
}

// item is the next record; io.EOF after the last.
func (r *inventoryReader) item() (Item, error) {
	line, err := r.next()
	if err != nil {
		return Item{}, err
	}
	it, err := parseItem(line)
	if err == nil {
		err = r.add(&it)
	}
	if err != nil {
		return Item{}, r.finding(Contradicted, sprintf("is malformed in line %d: %v", r.line, err))
	}
	return it, nil
}

func (r *inventoryReader) finding(code, reason string) error {
	return &Finding{inventoryName, code, reason}
}

func parseItem(line []byte) (it Item, err error) {
	if err := strictjson.Check(line, lineLimits); err != nil {
		return it, err
	}
	if json.Unmarshal(line, &it) != nil {
		return it, errors.New("it is no record")
	}
	if again, err := oneLine(&it); err != nil || !bytes.Equal(again, line) {
		return it, errors.New("it is not spelled as it has to be")
	}
	return it, it.check()
}
