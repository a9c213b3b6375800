package audit

import (
	"context"
	"crypto"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/mod/sumdb/tlog"
)

const (
	proofFormat  = "strongroom-audit-proof"
	proofVersion = 1
	maxProof     = 64 << 10
)

// proof is a proof file: a record, the way from it to a root hash, and who signed that. It needs nothing else.
//
//	{
//	  "format": "strongroom-audit-proof",
//	  "version": 1,
//	  "record": "{\"n\":17,…}",
//	  "hashes": ["…", …],
//	  "checkpoint": "strongroom-audit/…\n…"
//	}
type proof struct {
	Format     string   `json:"format"`
	Version    int      `json:"version"`
	Record     string   `json:"record"`     // the line, to the byte
	Hashes     []string `json:"hashes"`     // RFC 6962 audit path
	Checkpoint string   `json:"checkpoint"` // signed note
}

// ErrNoRecord says that there is no record of that number, or that no checkpoint covers it yet.
var ErrNoRecord = errors.New("audit: there is no such record")

// Prove returns a proof file for record n: that it is in the log as the newest checkpoint signed it. It reads the whole
// log, and refuses to prove anything from one whose hashes do not hold ([ErrDamaged]). dir is as for [Verify].
func Prove(ctx context.Context, dir string, n int64) ([]byte, error) {
	note, target, err := newestCheckpoint(ctx, dir)
	if err != nil {
		return nil, err
	}
	if n < 0 || n >= target.N {
		return nil, fmt.Errorf("%w: the newest checkpoint covers %d records, from 0", ErrNoRecord, target.N)
	}
	// The first pass of ProveRecord says which nodes it needs; reading the log, they are picked up; the second has them.
	needed := map[int64]tlog.Hash{}
	_, _ = tlog.ProveRecord(target.N, n, tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		for _, i := range indexes {
			needed[i] = tlog.Hash{}
		}
		return make([]tlog.Hash, len(indexes)), nil
	}))
	line, root, err := pickUp(ctx, dir, n, target.N, needed)
	if err != nil {
		return nil, err
	}
	if root != target.Hash {
		return nil, fmt.Errorf("%w: its records do not have the root hash that was signed; see: strongroom audit verify", ErrDamaged)
	}
	path, err := tlog.ProveRecord(target.N, n, tlog.HashReaderFunc(func(indexes []int64) (list []tlog.Hash, err error) {
		for _, i := range indexes {
			list = append(list, needed[i])
		}
		return list, nil
	}))
	if err != nil {
		return nil, fmt.Errorf("audit: prove record %d: %w", n, err)
	}
	p := proof{Format: proofFormat, Version: proofVersion, Record: string(line), Hashes: []string{}, Checkpoint: note}
	for _, h := range path {
		p.Hashes = append(p.Hashes, formatHash(h))
	}
	return p.encode(), nil
}

func (p *proof) encode() []byte {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(p); err != nil {
		panic("audit: " + err.Error())
	}
	return []byte(b.String())
}

// pickUp reads the log up to size records and returns the line of record n and the root of all, and fills in the nodes
// that are needed.
func pickUp(ctx context.Context, dir string, n, size int64, needed map[int64]tlog.Hash) (found []byte, root tlog.Hash, err error) {
	var t tree
	visit := func(level int, index int64, h tlog.Hash) {
		i := tlog.StoredHashIndex(level, index)
		if _, ok := needed[i]; ok {
			needed[i] = h
		}
	}
	start, err := firstHeader(dir)
	if err != nil {
		return nil, root, err
	}
	if n < start.First {
		return nil, root, fmt.Errorf("%w: the log begins with record %d here; use a copy that has the older segments", ErrNoRecord, start.First)
	}
	// Nodes of records whose segments were taken away are among the subtrees in the first line.
	t = start.tree.clone()
	at, rest := int64(0), t.n
	for _, h := range t.hashes {
		level := 0
		for int64(1)<<(level+1) <= rest {
			level++
		}
		visit(level, at>>level, h)
		at, rest = at+int64(1)<<level, rest-int64(1)<<level
	}
	err = each(ctx, dir, func(line []byte) error {
		if t.n == size {
			return nil
		}
		r, _, err := parseRecord(line)
		if err != nil || r.Number != t.n {
			return fmt.Errorf("%w: there is no sound record %d; see: strongroom audit verify", ErrDamaged, t.n)
		}
		if t.n == n {
			found = append([]byte(nil), line...)
		}
		t.add(tlog.RecordHash(line), visit)
		return nil
	})
	if err == nil && t.n != size {
		err = fmt.Errorf("%w: it ends with record %d; see: strongroom audit verify", ErrDamaged, t.n-1)
	}
	return found, t.root(), err
}

func firstHeader(dir string) (h header, err error) {
	if dir, err = Folder(dir); err != nil {
		return h, err
	}
	list, err := segments(dir)
	if err != nil {
		return h, fmt.Errorf("audit: read the log: %w", err)
	}
	in, err := openLines(list[0].path)
	if err != nil {
		return h, fmt.Errorf("audit: read the log: %w", err)
	}
	defer in.close()
	line, whole, err := in.next()
	if err == nil && whole {
		h, err = parseHeader(line)
	} else if err == nil {
		err = errors.New("its first line is not whole")
	}
	if err != nil && !errors.Is(err, ErrFormat) {
		err = fmt.Errorf("%w: %s: %w", ErrDamaged, list[0].path, err)
	}
	return h, err
}

// newestCheckpoint finds the last checkpoint of a log.
func newestCheckpoint(ctx context.Context, dir string) (text string, t tlog.Tree, err error) {
	dir, err = Folder(dir)
	if err != nil {
		return "", t, err
	}
	list, err := segments(dir)
	if err != nil {
		return "", t, fmt.Errorf("audit: read the log: %w", err)
	}
	for i := len(list) - 1; i >= 0 && text == ""; i-- { // the last segment may not have one yet
		if text, t, err = newestIn(ctx, list[i].path); err != nil {
			return "", t, err
		}
	}
	if text == "" {
		return "", t, fmt.Errorf("%w: the log has no checkpoint yet", ErrNoRecord)
	}
	return text, t, nil
}

func newestIn(ctx context.Context, path string) (text string, t tlog.Tree, err error) {
	in, err := openLines(path)
	if err != nil {
		return "", t, fmt.Errorf("audit: read the log: %w", err)
	}
	defer in.close()
	for n := 0; ; n++ {
		if n%1024 == 0 && ctx.Err() != nil {
			return "", t, ctx.Err()
		}
		line, whole, err := in.next()
		if err != nil { // the end, or an error that whoever reads on meets again
			return text, t, nil
		}
		if !whole || !isCheckpoint(line) {
			continue
		}
		c, err := parseCheckpointLine(line)
		if err != nil {
			continue
		}
		// Of the notes of one moment the first has the server's key.
		if n, err := readNote(c.Checkpoint, nil); err == nil && (text == "" || n.tree.N > t.N) {
			text, t = c.Checkpoint, n.tree
		}
	}
}

// Newest returns the newest checkpoint of a log, a signed note: to be kept elsewhere and given to [Verify] later. The
// error is [ErrNoRecord] where there is none yet.
func Newest(ctx context.Context, dir string) (string, error) {
	text, _, err := newestCheckpoint(ctx, dir)
	return text, err
}

// Proven is what a proof shows.
type Proven struct {
	Log     string   // ID of the log
	Record  Record   // as it was written
	Records int64    // size of the log that was signed
	Keys    []string // names of the given keys whose signature holds
}

// ErrProof says that a proof does not show what it should.
var ErrProof = errors.New("audit: the proof does not hold")

// CheckProof checks a proof file against public keys, of which one at least must have signed. It needs no log. Every
// error but that of a key which is none is [ErrProof].
func CheckProof(text []byte, keys ...crypto.PublicKey) (*Proven, error) {
	known, names, err := verifiers(keys)
	if err != nil {
		return nil, err
	}
	fail := func(format string, args ...any) (*Proven, error) {
		return nil, fmt.Errorf("%w: %w", ErrProof, fmt.Errorf(format, args...))
	}
	if len(names) == 0 {
		return fail("without a public key nothing is shown")
	}
	p, err := parseProof(text)
	if err != nil {
		return fail("%w", err)
	}
	r, _, err := parseRecord([]byte(p.Record))
	if err != nil {
		return fail("the record in it: %w", err)
	}
	n, err := readNote(p.Checkpoint, known)
	switch {
	case err != nil:
		return fail("%w", err)
	case n.bad != nil:
		return fail("%w", n.bad)
	case len(n.verified) == 0:
		return fail("none of the given keys signed the checkpoint in it")
	case r.Number >= n.tree.N:
		return fail("the checkpoint covers %d records, and this is record %d", n.tree.N, r.Number)
	}
	var path tlog.RecordProof
	for _, s := range p.Hashes {
		h, err := parseHash([]byte(s))
		if err != nil {
			return fail("%w", err)
		}
		path = append(path, h)
	}
	if err := tlog.CheckRecord(path, n.tree.N, n.tree.Hash, r.Number, tlog.RecordHash([]byte(p.Record))); err != nil {
		return fail("the hashes do not lead from the record to what was signed")
	}
	return &Proven{n.log, r, n.tree.N, n.verified}, nil
}

// parseProof reads a proof file in its one spelling.
func parseProof(text []byte) (p proof, err error) {
	if len(text) > maxProof {
		return p, errors.New("it is too long")
	}
	d := json.NewDecoder(strings.NewReader(string(text)))
	d.DisallowUnknownFields()
	if err := d.Decode(&p); err != nil || p.Format != proofFormat {
		return p, errors.New("it is no proof file")
	}
	if p.Version != proofVersion {
		return p, fmt.Errorf("it is of version %d, and this program reads version %d", p.Version, proofVersion)
	}
	if p.Hashes == nil || len(p.Hashes) > 63 || string(p.encode()) != string(text) {
		return p, errors.New("it is not spelled as a proof file is")
	}
	return p, nil
}
