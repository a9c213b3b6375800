package audit

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// Finding is one thing that is wrong with a log.
type Finding struct {
	// Record is the number that it is about, and Through the last one where it is about several.
	Record  int64  `json:"record"`
	Through int64  `json:"through"`
	Kind    string `json:"kind"` // see the Found constants
	Segment string `json:"segment,omitempty"`
	Reason  string `json:"reason"` // for people
}

// Kinds of finding.
const (
	FoundChanged    = "changed"    // a record is not what it was, or cannot be read
	FoundMissing    = "missing"    // records are not there
	FoundRepeated   = "repeated"   // a number stands twice
	FoundMoved      = "moved"      // a record does not stand in its place
	FoundRoot       = "root"       // records are not those whose root hash was signed: changed, or the log was forked
	FoundCheckpoint = "checkpoint" // a checkpoint is not what it was, or its signature does not hold
	FoundSegment    = "segment"    // a file does not go on where the one before ends
	FoundUnsigned   = "unsigned"   // records that should have a checkpoint have none
	FoundTruncated  = "truncated"  // the log ends before a checkpoint that was kept
	FoundForked     = "forked"     // the log is not the one of a checkpoint that was kept
)

// maxFindings is how many findings are described; the others are counted.
const maxFindings = 100

// KeyResult is what one public key vouches for.
type KeyResult struct {
	Name        string `json:"name"`
	Checkpoints int    `json:"checkpoints"` // with a signature of the key that holds
	Records     int64  `json:"records"`     // all records below this number are in the last of them; 0: none
}

// Result is what [Verify] found.
type Result struct {
	Log         string      `json:"log"`
	Server      string      `json:"server"`
	Segments    int         `json:"segments"`
	First       int64       `json:"first"`   // number of the first record that is here; not 0 where old segments were taken away
	Records     int64       `json:"records"` // number of the record that comes next
	Root        tlog.Hash   `json:"root"`    // of all of them; only if nothing is wrong
	Checkpoints int         `json:"checkpoints"`
	Covered     int64       `json:"covered"` // records below this number are in a checkpoint, whoever signed it
	Keys        []KeyResult `json:"keys"`    // one for each key that was given
	Signed      int64       `json:"signed"`  // records below this number are in a checkpoint that a given key signed
	Foreign     int         `json:"foreign"` // checkpoints that no given key signed: of other domains, or of somebody else
	Recovered   int         `json:"recovered"`
	Torn        int64       `json:"torn"` // bytes at the end that are no whole line: the log is in use, or a write was cut off
	Findings    []Finding   `json:"findings"`
	More        int         `json:"more"` // findings beyond those
}

// OK reports whether nothing is wrong.
func (r *Result) OK() bool { return len(r.Findings) == 0 }

// VerifyOptions of [Verify].
type VerifyOptions struct {
	// Keys are the public keys that the log is held against. Without any, only the hashes are: then the log is whole in
	// itself, and may still have been made anew by somebody.
	Keys []crypto.PublicKey
	// Checkpoints are signed notes that were kept elsewhere. The log has to contain each of them. With Keys, one of them
	// must have signed each.
	Checkpoints []string
}

// CheckpointError says that one of [VerifyOptions.Checkpoints] is none, or that no given key signed it.
type CheckpointError struct {
	Index int // in Checkpoints
	Err   error
}

func (e *CheckpointError) Error() string {
	return fmt.Sprintf("audit: checkpoint %d: %v", e.Index+1, e.Err)
}

// Unwrap gives the reason.
func (e *CheckpointError) Unwrap() error { return e.Err }

// Verify reads a whole log, in bounded memory and without writing, and finds what was changed, removed, repeated, moved
// or cut off. What it cannot find without a checkpoint from elsewhere: that the log ends at an earlier checkpoint than it
// did. dir is the log's folder, or a data folder that has one.
//
// Its error says that the log could not be read, that a key or checkpoint is none, or that ctx ended; what is wrong with
// the log is in the result.
func Verify(ctx context.Context, dir string, o VerifyOptions) (*Result, error) {
	dir, err := Folder(dir)
	if err != nil {
		return nil, err
	}
	list, err := segments(dir)
	if err != nil {
		return nil, fmt.Errorf("audit: read the log: %w", err)
	}
	known, names, err := verifiers(o.Keys)
	if err != nil {
		return nil, err
	}
	v := &verification{res: &Result{Findings: []Finding{}, Keys: []KeyResult{}}, known: known, lost: true, strays: map[int64]tlog.Hash{}}
	for _, name := range names {
		v.res.Keys = append(v.res.Keys, KeyResult{Name: name})
	}
	for i, text := range o.Checkpoints {
		n, err := readNote(text, known)
		if err == nil {
			err = n.bad
		}
		if err == nil && len(names) > 0 && len(n.verified) == 0 {
			err = errors.New("none of the given keys signed it")
		}
		if err != nil {
			return nil, &CheckpointError{i, err}
		}
		v.kept = append(v.kept, n)
	}
	slices.SortStableFunc(v.kept, func(a, b signedNote) int { return int(min(1, max(-1, a.tree.N-b.tree.N))) })
	for i, s := range list {
		if err := v.readSegment(ctx, s, i == len(list)-1); err != nil {
			return nil, err
		}
	}
	v.end()
	return v.res, nil
}

// verification is the state of one pass over a log.
//
// Each line carries the hash of the record before it (its link), so two things are known of a record: what it is, and
// what the line after it says that it was. Where they differ, one of the two lines was changed, and the next root hash
// tells which. So leaves go into the tree two lines late.
type verification struct {
	res   *Result
	known note.Verifiers
	kept  []signedNote // not met yet, by size

	signers []string // of the given keys, those that signed anything

	segment string
	next    int64 // number of the record that should come
	lost    bool  // the tree is not known: until the next segment

	waiting []leaf // not in the tree yet, at most two
	trees   []tree // one, or three while there are disputes: see dispute
	open    []dispute
	settled tlog.Hash // the leaf that went into the tree last, as the next line has it
	found   tlog.Hash // the same, as it stands there
	since   int64     // records from here on are not in a checkpoint that was right

	stray  *stray              // a record that has another number than the one that should come; the next line tells why
	strays map[int64]tlog.Hash // records that stood too early
}

// leaf is a record whose link from the next line is not known yet, or only just.
type leaf struct {
	number  int64
	actual  tlog.Hash // of what stands there
	has     bool      // it stands there and can be read
	claim   tlog.Hash // what the next line says
	claimed bool
}

func (l leaf) disputed() bool { return l.has && l.claimed && l.actual != l.claim }

// dispute is a record of which the next line says that it was another.
type dispute struct {
	number int64
	excuse bool // the next line is itself disputed
}

// What the leaf of a disputed record is taken for in each of the trees.
const (
	asLinked = iota // what the next line says: all disputed records were changed
	asExcuse        // the same, unless the next line is itself disputed: then what stands there
	asFound         // what stands there: the links are wrong
	readings
)

type stray struct {
	number int64
	prev   tlog.Hash
	hash   tlog.Hash
	seg    string
}

func (v *verification) find(from, through int64, kind, format string, args ...any) {
	for i := range v.res.Findings {
		f := &v.res.Findings[i]
		if f.Record == from && f.Through == through && f.Kind == kind {
			return
		}
	}
	if len(v.res.Findings) == maxFindings {
		v.res.More++
		return
	}
	v.res.Findings = append(v.res.Findings, Finding{from, through, kind, v.segment, fmt.Sprintf(format, args...)})
}

func (v *verification) readSegment(ctx context.Context, s segment, last bool) error {
	v.segment = filepath.Base(s.path)
	v.res.Segments++
	in, err := openLines(s.path)
	if err != nil {
		return fmt.Errorf("audit: read the log: %w", err)
	}
	defer in.close()
	for n := 0; ; n++ {
		if n%1024 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		at := in.at
		line, whole, err := in.next()
		switch {
		case errors.Is(err, io.EOF):
			if n == 0 {
				v.header(s, nil, errors.New("the file is empty"))
			}
			return nil
		case err != nil:
			return fmt.Errorf("audit: read the log: %w", err)
		case n == 0:
			h, err := parseHeader(line)
			if !whole {
				err = errors.New("its first line is not whole")
			}
			if errors.Is(err, ErrFormat) {
				return fmt.Errorf("%w (%s)", err, s.path)
			}
			v.header(s, &h, err)
		case !whole && line != nil && last:
			v.res.Torn = in.at - at
		case !whole:
			v.unreadable(errors.New("a line is not whole"))
		case isCheckpoint(line):
			v.checkpoint(line)
		default:
			v.record(line)
		}
	}
}

// header takes the first line of a segment.
func (v *verification) header(s segment, h *header, err error) {
	first := v.res.Segments == 1
	if err == nil && h.First != s.first {
		err = fmt.Errorf("it begins with record %d, and its name says %d", h.First, s.first)
	}
	if err == nil && !first && v.res.Log != "" && (h.Log != v.res.Log || h.Server != v.res.Server) {
		err = errors.New("it is of another log")
	}
	if err != nil {
		if first {
			v.next, v.res.First = s.first, s.first
		}
		v.resolveStray(s.first)
		v.find(s.first, s.first, FoundSegment, "the file that begins with record %d: %v", s.first, err)
		v.gap(s.first)
		v.lose(s.first)
		return
	}
	if v.res.Log == "" {
		v.res.Log, v.res.Server = h.Log, h.Server
	}
	if first {
		v.res.First, v.since = h.First, h.First
		v.next, v.lost, v.trees, v.settled = h.First, false, []tree{h.tree}, h.prev
		v.meet()
		return
	}
	v.resolveStray(h.First)
	v.gap(h.First)
	if v.next != h.First {
		v.find(h.First, max(h.First, v.next-1), FoundSegment, "the file begins with record %d, and records up to %d stand before it", h.First, v.next-1)
		v.lose(h.First)
	}
	v.claim(h.prev)
	v.flush()
	switch {
	case v.lost:
		v.report()
		v.lost, v.trees, v.open, v.waiting, v.next = false, []tree{h.tree.clone()}, nil, nil, h.First
		v.settled = h.prev
	case !slices.ContainsFunc(v.trees, func(t tree) bool { return t.equal(&h.tree) }) || len(v.open) == 0 && v.settled != h.prev:
		v.find(h.First, h.First, FoundSegment, "the first line of the file that begins with record %d does not fit the records before it", h.First)
	}
	v.meet()
}

// record takes the line of a record.
func (v *verification) record(line []byte) {
	r, prev, err := parseRecord(line)
	if err != nil {
		v.unreadable(err)
		return
	}
	hash := tlog.RecordHash(line)
	if n := len(v.waiting); n > 0 && !v.waiting[n-1].has && v.waiting[n-1].number == r.Number && v.stray == nil {
		// The line before it, which cannot be read, stands for nothing: here is the record.
		l := v.waiting[n-1]
		v.waiting = v.waiting[:n-1]
		v.claim(prev)
		v.waiting = append(v.waiting, leaf{number: l.number, actual: hash, has: true})
		return
	}
	v.resolveStray(r.Number)
	v.useStrays(r.Number)
	if r.Number != v.next {
		v.stray = &stray{r.Number, prev, hash, v.segment}
		return
	}
	if r.Kind == KindRecovered {
		v.res.Recovered++
	}
	v.take(hash, prev)
}

// take adds the record that should come.
func (v *verification) take(hash, prev tlog.Hash) {
	v.claim(prev)
	v.push(leaf{number: v.next, actual: hash, has: true})
}

// unreadable takes a line that is no record for the one that should come.
func (v *verification) unreadable(err error) {
	v.resolveStray(-1)
	v.useStrays(v.next + 1)
	v.find(v.next, v.next, FoundChanged, "record %d cannot be read: %v", v.next, err)
	v.push(leaf{number: v.next})
}

// resolveStray decides, with the number that the line after it has (or -1), what a record with an unexpected number is.
func (v *verification) resolveStray(number int64) {
	s := v.stray
	if s == nil {
		return
	}
	v.stray = nil
	switch {
	case number == v.next: // it does not belong here, and the right one follows
		v.misplaced(s)
	case number == v.next+1: // it stands where a record should
		v.find(v.next, v.next, FoundChanged, "what stands in the place of record %d calls itself %d", v.next, s.number)
		v.take(s.hash, s.prev)
	case s.number < v.next:
		v.misplaced(s)
	default: // some are missing before it
		v.gap(s.number)
		v.take(s.hash, s.prev)
	}
}

// misplaced is a record that stands somewhere else than it should.
func (v *verification) misplaced(s *stray) {
	if s.number > v.next {
		if len(v.strays) < maxFindings {
			v.strays[s.number] = s.hash
		}
		v.find(s.number, s.number, FoundMoved, "record %d stands before record %d", s.number, v.next)
		return
	}
	for i := range v.res.Findings {
		if f := &v.res.Findings[i]; f.Kind == FoundMissing && f.Record == s.number && f.Through == s.number {
			f.Kind, f.Segment, f.Reason = FoundMoved, s.seg, fmt.Sprintf("record %d stands after record %d", s.number, v.next-1)
			return
		}
	}
	v.find(s.number, s.number, FoundRepeated, "record %d stands again, after record %d", s.number, v.next-1)
}

// useStrays puts records that stood too early where they belong, up to the given number.
func (v *verification) useStrays(number int64) {
	for v.next < number {
		hash, ok := v.strays[v.next]
		if !ok {
			return
		}
		delete(v.strays, v.next)
		v.push(leaf{number: v.next, actual: hash, has: true})
	}
}

// gap says that the records up to, not including, number are missing.
func (v *verification) gap(number int64) {
	v.useStrays(number)
	if number <= v.next {
		return
	}
	if number-1 == v.next {
		v.find(v.next, v.next, FoundMissing, "record %d is missing", v.next)
		v.push(leaf{number: v.next}) // the next line says what it was
		return
	}
	v.find(v.next, number-1, FoundMissing, "records %d to %d are missing", v.next, number-1)
	v.lose(number)
}

// lose gives up the tree until a segment begins.
func (v *verification) lose(number int64) {
	v.flush()
	v.report()
	v.lost, v.waiting, v.open = true, nil, nil
	v.next = number
}

// push adds a record; the one before it has its link already, or never gets one.
func (v *verification) push(l leaf) {
	v.next = l.number + 1
	v.waiting = append(v.waiting, l)
	if len(v.waiting) > 2 {
		v.settle()
	}
}

// claim is the link of a line to the record before it.
func (v *verification) claim(h tlog.Hash) {
	if n := len(v.waiting); n > 0 && !v.waiting[n-1].claimed {
		v.waiting[n-1].claim, v.waiting[n-1].claimed = h, true
		return
	}
	if len(v.waiting) == 0 && !v.lost && h != v.settled {
		// A checkpoint that was right stands between: it is the link that is wrong.
		v.find(v.next, v.next, FoundChanged, "record %d was changed: it does not follow the record before it", v.next)
	}
}

// settle moves the oldest waiting leaf into the tree.
func (v *verification) settle() {
	l := v.waiting[0]
	v.waiting = v.waiting[1:]
	if v.lost {
		if l.disputed() {
			v.find(l.number, l.number, FoundChanged, "record %d is not what the line after it says that it was", l.number)
		}
		return
	}
	switch {
	case !l.has && !l.claimed:
		v.lost = true
		return
	case !l.has:
		l.actual = l.claim
	case !l.claimed:
		l.claim = l.actual
	}
	if l.actual != l.claim {
		if len(v.trees) == 1 {
			v.trees = append(v.trees, v.trees[0].clone(), v.trees[0].clone())
		}
		excuse := len(v.waiting) > 0 && v.waiting[0].disputed()
		v.open = append(v.open, dispute{l.number, excuse})
		v.trees[asLinked].add(l.claim, nil)
		v.trees[asFound].add(l.actual, nil)
		if excuse {
			v.trees[asExcuse].add(l.actual, nil)
		} else {
			v.trees[asExcuse].add(l.claim, nil)
		}
	} else {
		for i := range v.trees {
			v.trees[i].add(l.actual, nil)
		}
	}
	v.settled, v.found = l.claim, l.actual
	v.meet()
}

func (v *verification) flush() {
	for len(v.waiting) > 0 {
		v.settle()
	}
}

// decide keeps one reading of the disputes and says which records it makes changed.
func (v *verification) decide(reading int) {
	for _, d := range v.open {
		switch {
		case reading == asLinked || reading == asExcuse && !d.excuse:
			v.find(d.number, d.number, FoundChanged, "record %d was changed after it was written", d.number)
		case reading == asFound:
			v.find(d.number, d.number, FoundCheckpoint, "the line after record %d was changed: the record is as it was signed", d.number)
		}
	}
	v.open = nil
	if len(v.trees) > 1 {
		v.trees = []tree{v.trees[reading]}
	}
}

// report names the disputed records where no root hash decides.
func (v *verification) report() {
	if len(v.open) > 0 {
		v.decide(asExcuse)
	}
}

// checkpoint takes a checkpoint of the log itself.
func (v *verification) checkpoint(line []byte) {
	v.res.Checkpoints++
	c, err := parseCheckpointLine(line)
	var n signedNote
	if err == nil {
		n, err = readNote(c.Checkpoint, v.known)
	}
	if err == nil && n.bad != nil {
		err = n.bad
	}
	if err == nil && v.res.Log != "" && n.log != v.res.Log {
		err = errors.New("it is of another log")
	}
	if err != nil {
		v.resolveStray(-1)
		v.find(v.next, v.next, FoundCheckpoint, "the checkpoint before record %d: %v", v.next, err)
		return
	}
	if len(n.verified) == 0 && len(v.res.Keys) > 0 {
		v.res.Foreign++
	}
	v.signers = append(v.signers, n.verified...)
	slices.Sort(v.signers)
	v.signers = slices.Compact(v.signers)
	v.resolveStray(n.tree.N)
	if n.tree.N < v.next {
		v.find(n.tree.N, v.next-1, FoundCheckpoint, "a checkpoint of %d records stands after record %d", n.tree.N, v.next-1)
		return
	}
	v.gap(n.tree.N)
	v.claim(c.prev)
	v.flush()
	if v.lost {
		return
	}
	for reading := range v.trees {
		if v.trees[reading].root() != n.tree.Hash {
			continue
		}
		v.decide(reading)
		if reading == asFound {
			v.settled = v.found
		}
		v.since, v.res.Covered = n.tree.N, n.tree.N
		for _, name := range n.verified {
			for i := range v.res.Keys {
				if v.res.Keys[i].Name == name {
					v.res.Keys[i].Checkpoints++
					v.res.Keys[i].Records, v.res.Signed = n.tree.N, n.tree.N
				}
			}
		}
		return
	}
	others := ""
	if len(v.open) > 0 {
		others = " (besides what is named)"
	}
	v.report()
	if n.tree.N > v.since {
		v.find(v.since, n.tree.N-1, FoundRoot, "records %d to %d are not those whose root hash was signed%s: some of them were changed and what follows made to fit, or the log was forked", v.since, n.tree.N-1, others)
	} else {
		v.find(n.tree.N, n.tree.N, FoundForked, "two checkpoints of %d records have different root hashes: the log was forked", n.tree.N)
		return
	}
	v.lost, v.since = true, n.tree.N
}

// meet compares the tree with checkpoints that were kept elsewhere.
func (v *verification) meet() {
	for len(v.kept) > 0 && len(v.trees) > 0 && v.kept[0].tree.N <= v.trees[0].n {
		k := v.kept[0]
		v.kept = v.kept[1:]
		switch {
		case k.log != v.res.Log:
			v.find(k.tree.N, k.tree.N, FoundForked, "the checkpoint of %d records that was kept is of another log", k.tree.N)
		case k.tree.N < v.trees[0].n:
			v.find(k.tree.N, k.tree.N, FoundMissing, "the records of the checkpoint of %d records that was kept are not here", k.tree.N)
		case !slices.ContainsFunc(v.trees, func(t tree) bool { return t.root() == k.tree.Hash }):
			v.find(k.tree.N, k.tree.N, FoundForked, "the first %d records are not those of the checkpoint that was kept: they were changed, or the log was forked", k.tree.N)
		}
	}
}

// end is after the last line.
func (v *verification) end() {
	v.resolveStray(-1)
	v.flush()
	v.report()
	v.res.Records = v.next
	for _, k := range v.kept {
		switch {
		case k.log != v.res.Log:
			v.find(k.tree.N, k.tree.N, FoundForked, "the checkpoint of %d records that was kept is of another log", k.tree.N)
		case k.tree.N > v.next:
			v.find(v.next, k.tree.N-1, FoundTruncated, "the log ends after %d records, and a checkpoint of %d was kept: the end was cut off", v.next, k.tree.N)
		default:
			v.find(k.tree.N, k.tree.N, FoundForked, "the checkpoint of %d records that was kept cannot be compared: see the other findings", k.tree.N)
		}
	}
	for _, k := range v.res.Keys {
		if !slices.Contains(v.signers, k.Name) { // also of a log that has nothing: somebody may have emptied it
			v.find(0, max(0, v.next-1), FoundUnsigned, "no checkpoint is signed by %s", k.Name)
		}
	}
	if len(v.res.Keys) > 0 && v.res.Signed > 0 && !v.lost && v.next-v.res.Signed > MaxUnsigned {
		v.find(v.res.Signed, v.next-1, FoundUnsigned, "the last %d records have no checkpoint of the given keys, and a server leaves at most %d without: checkpoints were removed", v.next-v.res.Signed, MaxUnsigned)
	}
	if len(v.res.Keys) == 0 && !v.lost && v.next-v.res.Covered > MaxUnsigned && v.next-v.res.First > MaxUnsigned {
		v.find(max(v.res.Covered, v.res.First), v.next-1, FoundUnsigned, "the last %d records have no checkpoint, and a server leaves at most %d without: checkpoints were removed", v.next-v.res.Covered, MaxUnsigned)
	}
	if v.res.OK() && len(v.trees) > 0 {
		v.res.Root = v.trees[0].root()
	}
}
