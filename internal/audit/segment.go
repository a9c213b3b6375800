package audit

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/tlog"
)

// Format is the version of the segments that this program reads and writes.
const Format = 1

const (
	formatName  = "strongroom-audit"
	segmentName = "audit-%016d.jsonl" // the number of its first record
	lockName    = "lock"
	// SubFolder is where a server's data folder has its log.
	SubFolder = "audit"

	maxServer = 128
)

// header is the first line of a segment.
//
//	{"format":"strongroom-audit","version":1,"log":"9f0c…","server":"…","created":"2026-…","first":65536,"prev":"…","tree":["…","…"]}
type header struct {
	Format  string   `json:"format"`
	Version int      `json:"version"`
	Log     string   `json:"log"`     // 32 hex digits, random
	Server  string   `json:"server"`  // whose log it is; cleaned
	Created string   `json:"created"` // as the time of a record
	First   int64    `json:"first"`
	Prev    string   `json:"prev"` // hash of the last record before it; of an empty log, of its name
	Tree    []string `json:"tree"` // roots of the complete subtrees of all records before it, the largest first

	prev tlog.Hash
	tree tree
}

// checkpointLine stands after the last record that it covers.
//
//	{"checkpoint":"strongroom-audit/9f0c…\n65536\nq1…=\n\n— strongroom-audit/… …\n","prev":"…"}
type checkpointLine struct {
	Checkpoint string `json:"checkpoint"`
	Prev       string `json:"prev"`

	prev tlog.Hash
}

// startHash is what the first record of a log has for the hash of the one before it: records of one log fit no other.
func startHash(log string) tlog.Hash { return tlog.RecordHash([]byte(originName + log)) }

func isLogID(s string) bool {
	return len(s) == 32 && strings.Trim(s, "0123456789abcdef") == ""
}

func encodeJSON(v any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		panic("audit: " + err.Error()) // texts and numbers only
	}
	return b.Bytes() // with a line end
}

func formatHash(h tlog.Hash) string { return base64.StdEncoding.EncodeToString(h[:]) }

func newHeader(log, server string, now time.Time, t *tree, prev tlog.Hash) []byte {
	h := header{Format: formatName, Version: Format, Log: log, Server: server, Created: now.UTC().Format(timeForm), First: t.n, Prev: formatHash(prev), Tree: []string{}}
	for _, hash := range t.hashes {
		h.Tree = append(h.Tree, formatHash(hash))
	}
	return encodeJSON(h)
}

// oneSpelling decodes a line that encodeJSON wrote, and nothing else.
func oneSpelling(line []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(line))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return errors.New("it is no line of an audit log")
	}
	if !bytes.Equal(bytes.TrimSuffix(encodeJSON(v), []byte("\n")), line) {
		return errors.New("it is not spelled as a line of an audit log is")
	}
	return nil
}

// parseHeader reads the first line of a segment. Its error is [ErrFormat] for a version that is not known.
func parseHeader(line []byte) (h header, err error) {
	var version struct {
		Format  string `json:"format"`
		Version int    `json:"version"`
	}
	if len(line) > MaxLine {
		return h, errors.New("the first line is too long")
	}
	if err := json.Unmarshal(line, &version); err != nil || version.Format != formatName {
		return h, errors.New("it does not begin as a segment of an audit log")
	}
	if version.Version != Format {
		return h, fmt.Errorf("%w: version %d, and this program reads version %d; use the version of Strongroom that wrote it", ErrFormat, version.Version, Format)
	}
	if err := oneSpelling(line, &h); err != nil {
		return h, fmt.Errorf("the first line: %w", err)
	}
	if !isLogID(h.Log) || h.First < 0 || len(h.Server) > maxServer || !isClean(h.Server) || h.Tree == nil || len(h.Tree) != width(h.First) {
		return h, errors.New("the first line contradicts itself")
	}
	if _, err := time.Parse(timeForm, h.Created); err != nil {
		return h, errors.New("the time in the first line is no time")
	}
	if h.prev, err = parseHash([]byte(h.Prev)); err != nil {
		return h, fmt.Errorf("the first line: %w", err)
	}
	h.tree.n = h.First
	for _, s := range h.Tree {
		hash, err := parseHash([]byte(s))
		if err != nil {
			return h, fmt.Errorf("the first line: %w", err)
		}
		h.tree.hashes = append(h.tree.hashes, hash)
	}
	if h.First == 0 && h.prev != startHash(h.Log) {
		return h, errors.New("the first line does not begin the log that it names")
	}
	return h, nil
}

func newCheckpointLine(note string, prev tlog.Hash) []byte {
	return encodeJSON(checkpointLine{Checkpoint: note, Prev: formatHash(prev)})
}

func parseCheckpointLine(line []byte) (c checkpointLine, err error) {
	if err := oneSpelling(line, &c); err != nil {
		return c, err
	}
	c.prev, err = parseHash([]byte(c.Prev))
	return c, err
}

var checkpointStart = []byte(`{"checkpoint":`)

func isCheckpoint(line []byte) bool { return bytes.HasPrefix(line, checkpointStart) }

// segment is a file of the log.
type segment struct {
	path  string
	first int64
}

// segments lists the files of the log in dir, in order. Other files are not looked at.
func segments(dir string) (list []segment, err error) {
	entries, err := os.ReadDir(dir) // sorted by name, and so by number
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		var first int64
		if _, err := fmt.Sscanf(e.Name(), segmentName, &first); err == nil && fmt.Sprintf(segmentName, first) == e.Name() {
			list = append(list, segment{filepath.Join(dir, e.Name()), first})
		}
	}
	return list, nil
}

// Folder returns the folder of the log when dir is that or a data folder. Its error is [fs.ErrNotExist] where there is
// no log in either.
func Folder(dir string) (string, error) {
	for _, d := range []string{filepath.Join(dir, SubFolder), dir} {
		list, err := segments(d)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("audit: read the log: %w", err)
		}
		if len(list) > 0 {
			return d, nil
		}
	}
	return "", fmt.Errorf("audit: there is no audit log in %s: %w", dir, fs.ErrNotExist)
}

// lines reads a segment line by line, in bounded memory.
type lines struct {
	f  *os.File
	r  *bufio.Reader
	at int64 // where the next line begins
}

func openLines(path string) (*lines, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	return &lines{f: f, r: bufio.NewReaderSize(f, 64<<10)}, nil
}

func (l *lines) close() { _ = l.f.Close() }

// next returns the next line without its end, which stays valid until the call after. whole is false for one that is
// longer than MaxLine (line is nil) or has no end. The error at the end of the file is [io.EOF].
func (l *lines) next() (line []byte, whole bool, err error) {
	line, err = l.r.ReadSlice('\n')
	l.at += int64(len(line))
	long := false
	for errors.Is(err, bufio.ErrBufferFull) {
		long = true
		var more []byte
		more, err = l.r.ReadSlice('\n')
		l.at += int64(len(more))
	}
	switch {
	case errors.Is(err, io.EOF) && len(line) == 0:
		return nil, false, io.EOF
	case err != nil && !errors.Is(err, io.EOF):
		return nil, false, err
	case long || len(line) > MaxLine+1:
		return nil, false, nil
	case err != nil: // the file ends without a line end
		return line, false, nil
	}
	return line[:len(line)-1], true, nil
}
