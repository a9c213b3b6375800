package audit

import (
	"bytes"
	"context"
	"crypto"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/mod/sumdb/tlog"
)

// bigLog writes a log of n records from so many callers at once, and closes it.
func bigLog(t testing.TB, n, callers int, change func(*Options)) (dir string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "audit")
	o := testOptions()
	if change != nil {
		change(&o)
	}
	l := mustOpen(t, dir, o)
	var wg sync.WaitGroup
	for c := range callers {
		wg.Go(func() {
			for i := c; i < n; i += callers {
				if _, err := l.Append(context.Background(), call(i)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	mustClose(t, l)
	return dir
}

// about reports whether a finding is about record n.
func about(f Finding, n int64) bool { return f.Record <= n && n <= f.Through }

// changedRecord is a record's line that says something else, with its links as they were.
func changedRecord(t testing.TB, line []byte) []byte {
	t.Helper()
	changed := bytes.Replace(line, []byte(`"status":200`), []byte(`"status":201`), 1)
	if bytes.Equal(changed, line) {
		t.Fatalf("nothing to change in %s", line)
	}
	return changed
}

// Covers L4, P11: every record of a log, edited, dropped, repeated, swapped with the next, or the last that is left, is
// found and named. Each is tried on its own segment and the one after, which is all that it can have to do with.
func TestEveryRecordEveryChange(t *testing.T) {
	const records = 2000
	dir := bigLog(t, records, 4, func(o *Options) { o.SegmentBytes = 4 << 10 })
	keys := []crypto.PublicKey{serverKey.Public()}
	sound(t, dir, records, keys...)
	newest, err := Newest(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	list := mustSegments(t, dir)
	if len(list) < 100 {
		t.Fatalf("only %d segments", len(list))
	}
	tried := 0
	for i, s := range list {
		work := t.TempDir()
		file := filepath.Join(work, filepath.Base(s.path))
		if i+1 < len(list) {
			writeFile(t, filepath.Join(work, filepath.Base(list[i+1].path)), readFile(t, list[i+1].path))
		}
		lines := parts(t, s.path)
		// only(…) writes the segment with some lines replaced, and returns what is found.
		only := func(o VerifyOptions, with ...[]byte) *Result {
			writeFile(t, file, bytes.Join(with, nil))
			r, err := Verify(t.Context(), work, o)
			if err != nil {
				t.Fatal(err)
			}
			return r
		}
		with := VerifyOptions{Keys: keys}
		if r := only(with, lines...); !r.OK() {
			t.Fatalf("%s as it is: %v", s.path, r.Findings)
		}
		for k := 1; k < len(lines); k++ {
			if isCheckpoint(lines[k]) {
				continue
			}
			n := s.first + int64(k) - 1
			tried++
			before, this, after := lines[:k], lines[k], lines[k+1:]
			splice := func(middle ...[]byte) [][]byte {
				return append(append(append([][]byte{}, before...), middle...), after...)
			}
			one := func(what, kind string, r *Result) {
				if len(r.Findings) != 1 || r.Findings[0].Kind != kind || r.Findings[0].Record != n || r.Findings[0].Through != n || !strings.Contains(r.Findings[0].Reason, fmt.Sprint(n)) {
					t.Errorf("record %d %s: found %+v; want one finding, %s", n, what, r.Findings, kind)
				}
			}
			one("edited", FoundChanged, only(with, splice(changedRecord(t, this))...))
			if n%5 == 0 {
				one("cut short", FoundChanged, only(with, splice(append(this[:len(this)/2:len(this)/2], '\n'))...))
				one("repeated later", FoundRepeated, only(with, append(splice(this), this)...))
			}
			one("edited, without a key", FoundChanged, only(VerifyOptions{}, splice(changedRecord(t, this))...))
			one("dropped", FoundMissing, only(with, splice()...))
			one("repeated", FoundRepeated, only(with, splice(this, this)...))
			if !isCheckpoint(lines[k+1]) {
				swapped := append(append([][]byte{}, before...), lines[k+1], this)
				r := only(with, append(swapped, lines[k+2:]...)...)
				if len(r.Findings) == 0 || !about(r.Findings[0], n) && !about(r.Findings[0], n+1) || r.Findings[0].Kind != FoundMoved {
					t.Errorf("records %d and %d swapped: found %+v", n, n+1, r.Findings)
				}
				for _, f := range r.Findings {
					if f.Record < n || f.Through > n+1 {
						t.Errorf("records %d and %d swapped: found also %+v", n, n+1, f)
					}
				}
			}
			// The rest of the log cut off: seen by whoever kept the newest checkpoint.
			if i+1 < len(list) {
				if err := os.Remove(filepath.Join(work, filepath.Base(list[i+1].path))); err != nil {
					t.Fatal(err)
				}
			}
			r := only(VerifyOptions{Keys: nil, Checkpoints: []string{newest}}, lines[:k+1]...)
			if len(r.Findings) != 1 && n != records-1 || n != records-1 && (r.Findings[0].Kind != FoundTruncated || r.Findings[0].Record != n+1) {
				t.Errorf("cut off after record %d: found %+v", n, r.Findings)
			}
			if i+1 < len(list) {
				writeFile(t, filepath.Join(work, filepath.Base(list[i+1].path)), readFile(t, list[i+1].path))
			}
		}
		if t.Failed() {
			return
		}
	}
	if tried != records {
		t.Errorf("tried %d records of %d", tried, records)
	}
}

// The same on the whole log, for some records: nothing else is found, before or after.
func TestWholeLogChanges(t *testing.T) {
	const records = 600
	whole := bigLog(t, records, 64, func(o *Options) { o.SegmentBytes, o.CheckpointRecords = 24<<10, 16 })
	for n := int64(0); n < records; n += 41 {
		dir := copyLog(t, whole)
		file, lines, k := find(t, dir, n)
		lines[k] = changedRecord(t, lines[k])
		writeFile(t, file, bytes.Join(lines, nil))
		r := mustVerify(t, dir, serverKey.Public(), domainKey.Public())
		if len(r.Findings) != 1 || r.Findings[0].Record != n || r.Findings[0].Kind != FoundChanged || r.Signed != records {
			t.Errorf("record %d edited: %+v", n, r)
		}
	}
}

// find returns the segment of record n, its lines, and which of them is the record.
func find(t testing.TB, dir string, n int64) (file string, lines [][]byte, k int) {
	t.Helper()
	for _, s := range mustSegments(t, dir) {
		if s.first <= n {
			file = s.path
		}
	}
	lines = parts(t, file)
	for k := range lines {
		if r, _, err := parseRecord(bytes.TrimSuffix(lines[k], []byte("\n"))); err == nil && r.Number == n {
			return file, lines, k
		}
	}
	t.Fatalf("no record %d in %s", n, file)
	return "", nil, 0
}

// Several changes at once, and changes of what is between the records, are told apart.
func TestChangesAreToldApart(t *testing.T) {
	whole := makeLog(t, 40, func(o *Options) { o.CheckpointRecords = 10 })
	link := func(t *testing.T, lines [][]byte, k int) { // a record that names another one before it
		h := formatHash(tlog.RecordHash([]byte("another")))
		i := bytes.Index(lines[k], []byte(`"prev":"`)) + 8
		lines[k] = []byte(string(lines[k][:i]) + h + string(lines[k][i+len(h):]))
	}
	// Line 0 is the header; records 0 to 9 are lines 1 to 10, line 11 the checkpoint, records 10 to 19 lines 12 to 21.
	for _, tc := range []struct {
		name   string
		change func(t *testing.T, lines [][]byte) [][]byte
		want   []string // kind and records
	}{
		{"two records that follow each other", func(t *testing.T, l [][]byte) [][]byte {
			l[4], l[5] = changedRecord(t, l[4]), changedRecord(t, l[5])
			return l
		}, []string{"changed 3-3", "changed 4-4"}},
		{"two records apart", func(t *testing.T, l [][]byte) [][]byte {
			l[4], l[8] = changedRecord(t, l[4]), changedRecord(t, l[8])
			return l
		}, []string{"changed 3-3", "changed 7-7"}},
		{"the last record before a checkpoint", func(t *testing.T, l [][]byte) [][]byte {
			l[10] = changedRecord(t, l[10])
			return l
		}, []string{"changed 9-9"}},
		{"the last record of all", func(t *testing.T, l [][]byte) [][]byte {
			l[len(l)-2] = changedRecord(t, l[len(l)-2])
			return l
		}, []string{"changed 39-39"}},
		{"the link of a record", func(t *testing.T, l [][]byte) [][]byte { link(t, l, 4); return l }, []string{"changed 3-3"}},
		{"the link of a record after a checkpoint", func(t *testing.T, l [][]byte) [][]byte { link(t, l, 12); return l }, []string{"changed 10-10"}},
		{"the link of a checkpoint", func(t *testing.T, l [][]byte) [][]byte { link(t, l, 11); return l }, []string{"checkpoint 9-9"}},
		{"the number of a record, up", func(t *testing.T, l [][]byte) [][]byte {
			l[4] = bytes.Replace(l[4], []byte(`"n":3`), []byte(`"n":7`), 1)
			return l
		}, []string{"changed 3-3"}},
		{"the number of a record, to that of the next", func(t *testing.T, l [][]byte) [][]byte {
			l[4] = bytes.Replace(l[4], []byte(`"n":3`), []byte(`"n":4`), 1)
			return l
		}, []string{"changed 3-3"}},
		{"the number of a record, down", func(t *testing.T, l [][]byte) [][]byte {
			l[4] = bytes.Replace(l[4], []byte(`"n":3`), []byte(`"n":1`), 1)
			return l
		}, []string{"changed 3-3"}},
		{"a record moved back", func(_ *testing.T, l [][]byte) [][]byte {
			return concat(l[:4], l[5:9], l[4:5], l[9:])
		}, []string{"moved 3-3"}},
		{"a record moved to the front", func(_ *testing.T, l [][]byte) [][]byte {
			return concat(l[:4], l[8:9], l[4:8], l[9:])
		}, []string{"moved 7-7"}},
		{"a line that is no record", func(_ *testing.T, l [][]byte) [][]byte {
			return concat(l[:4], [][]byte{[]byte("nothing\n")}, l[4:])
		}, []string{"changed 3-3"}},
		{"an empty line", func(_ *testing.T, l [][]byte) [][]byte {
			return concat(l[:4], [][]byte{[]byte("\n")}, l[4:])
		}, []string{"changed 3-3"}},
		{"a very long line", func(_ *testing.T, l [][]byte) [][]byte {
			return concat(l[:4], [][]byte{append(bytes.Repeat([]byte("x"), 1<<20), '\n')}, l[4:])
		}, []string{"changed 3-3"}},
		{"several dropped", func(_ *testing.T, l [][]byte) [][]byte { return concat(l[:4], l[7:]) }, []string{"missing 3-5"}},
		{"a whole stretch with its checkpoint dropped", func(_ *testing.T, l [][]byte) [][]byte { return concat(l[:8], l[15:]) }, []string{"missing 7-12"}},
		{"all records before a checkpoint dropped", func(_ *testing.T, l [][]byte) [][]byte { return concat(l[:1], l[11:]) }, []string{"missing 0-9"}},
		{"a checkpoint dropped", func(_ *testing.T, l [][]byte) [][]byte { return concat(l[:11], l[12:]) }, nil}, // the next one covers the same
		{"a checkpoint moved", func(_ *testing.T, l [][]byte) [][]byte { return concat(l[:11], l[12:15], l[11:12], l[15:]) }, []string{"checkpoint 10-12"}},
		{"a checkpoint too early", func(_ *testing.T, l [][]byte) [][]byte { return concat(l[:9], l[11:12], l[9:11], l[12:]) }, []string{"missing 8-9", "repeated 8-8", "repeated 9-9"}},
		{"a checkpoint's signature", func(_ *testing.T, l [][]byte) [][]byte {
			i := bytes.Index(l[11], []byte("— strongroom-audit/")) + 10
			i += bytes.Index(l[11][i:], []byte(" ")) + 20
			flipped := byte('A')
			if l[11][i] == 'A' {
				flipped = 'B'
			}
			l[11] = []byte(string(l[11][:i]) + string(flipped) + string(l[11][i+1:]))
			return l
		}, []string{"checkpoint 10-10"}},
		{"a checkpoint's size", func(_ *testing.T, l [][]byte) [][]byte {
			l[11] = bytes.Replace(l[11], []byte(`\n10\n`), []byte(`\n11\n`), 1)
			return l
		}, []string{"checkpoint 10-10"}},
		{"a checkpoint that is none", func(_ *testing.T, l [][]byte) [][]byte { l[11] = []byte(`{"checkpoint":1}` + "\n"); return l }, []string{"checkpoint 10-10"}},
		{"the first line", func(_ *testing.T, l [][]byte) [][]byte {
			l[0] = bytes.Replace(l[0], []byte("server-1"), []byte("server-2"), 1)
			return l
		}, nil}, // the name is not signed: who verifies compares what is printed
		{"no first line", func(_ *testing.T, l [][]byte) [][]byte { return l[1:] }, []string{"segment 0-0", "missing 0-0"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := copyLog(t, whole)
			file := lastSegment(t, dir)
			lines := parts(t, file)
			if !isCheckpoint(lines[11]) || len(lines) != 45 {
				t.Fatalf("%d lines, not as the test thinks", len(lines))
			}
			writeFile(t, file, bytes.Join(tc.change(t, lines), nil))
			r := mustVerify(t, dir, serverKey.Public(), domainKey.Public())
			var got []string
			for _, f := range r.Findings {
				got = append(got, fmt.Sprintf("%s %d-%d", f.Kind, f.Record, f.Through))
			}
			if fmt.Sprint(got) != fmt.Sprint(tc.want) {
				t.Errorf("found %v, want %v\n%+v", got, tc.want, r.Findings)
			}
		})
	}
}

func concat(lists ...[][]byte) (all [][]byte) {
	for _, l := range lists {
		all = append(all, l...)
	}
	return all
}

// forge makes a log anew from changed records, as somebody does who has all of it but the keys: numbers, links, trees
// and names of files fit. Of the signed checkpoints those are kept that keep says, in the places where their size fits.
func forge(t testing.TB, dir string, change func([]Record) []Record, keep func(size int64) bool) string {
	t.Helper()
	var records []Record
	var starts []int64
	notes := map[int64]string{}
	var head header
	for i, s := range mustSegments(t, dir) {
		starts = append(starts, s.first)
		for k, line := range parts(t, s.path) {
			line = bytes.TrimSuffix(line, []byte("\n"))
			switch {
			case k == 0:
				h, err := parseHeader(line)
				if err != nil {
					t.Fatal(err)
				}
				if i == 0 {
					head = h
				}
			case isCheckpoint(line):
				c, err := parseCheckpointLine(line)
				if err != nil {
					t.Fatal(err)
				}
				n, err := readNote(c.Checkpoint, nil)
				if err != nil {
					t.Fatal(err)
				}
				notes[n.tree.N] = c.Checkpoint
			default:
				r, _, err := parseRecord(line)
				if err != nil {
					t.Fatal(err)
				}
				records = append(records, r)
			}
		}
	}
	records = change(records)
	to := t.TempDir()
	var tr tree
	prev := startHash(head.Log)
	var out []byte
	name := ""
	for i, r := range records {
		if len(starts) > 0 && starts[0] == int64(i) {
			if name != "" {
				writeFile(t, filepath.Join(to, name), out)
			}
			name, out = fmt.Sprintf(segmentName, i), newHeader(head.Log, head.Server, r.Time, &tr, prev)
			starts = starts[1:]
		}
		out, prev = appendLine(out, &tr, prev, r.appendRest(nil))
		if n, ok := notes[tr.n]; ok && keep(tr.n) {
			out = append(out, newCheckpointLine(n, prev)...)
		}
	}
	writeFile(t, filepath.Join(to, name), out)
	return to
}

// Covers L4: a log that was made anew around a change by somebody without the keys. The signed roots tell between which
// checkpoints; and without the later checkpoints there is too much that nobody signed, or what the auditor kept tells.
func TestForgedLog(t *testing.T) {
	const records, every = 5000, 50
	dir := bigLog(t, records, 64, func(o *Options) { o.SegmentBytes, o.CheckpointRecords = 400<<10, every })
	newest, err := Newest(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	all := func(int64) bool { return true }
	same := func(r []Record) []Record { return r }
	if r := mustVerify(t, forge(t, dir, same, all), serverKey.Public(), domainKey.Public()); !r.OK() || r.Signed != records {
		t.Fatalf("made anew without a change: %+v", r)
	}
	for name, change := range map[string]func([]Record) []Record{
		"edited":   func(r []Record) []Record { r[700].Principal = "somebody-else"; return r },
		"dropped":  func(r []Record) []Record { return append(r[:700], r[701:]...) },
		"repeated": func(r []Record) []Record { return append(r[:701:701], r[700:]...) },
		"swapped":  func(r []Record) []Record { r[700], r[701] = r[701], r[700]; return r },
	} {
		t.Run(name, func(t *testing.T) {
			forged := forge(t, dir, change, all)
			for _, keys := range [][]crypto.PublicKey{{serverKey.Public()}, {domainKey.Public()}, nil} {
				r := mustVerify(t, forged, keys...)
				if len(r.Findings) == 0 || r.Findings[0].Kind != FoundRoot || !about(r.Findings[0], 700) && !about(r.Findings[0], 701) || r.Findings[0].Through-r.Findings[0].Record > every+maxBatch {
					t.Errorf("found %+v", r.Findings)
				}
			}
			// Without the checkpoints that give it away, what is left unsigned is more than a server leaves.
			forged = forge(t, dir, change, func(size int64) bool { return size <= 700 })
			r := mustVerify(t, forged, serverKey.Public())
			if len(r.Findings) != 1 || r.Findings[0].Kind != FoundUnsigned || !about(r.Findings[0], 700) || r.Signed > 700 || r.Signed < 100 {
				t.Errorf("without later checkpoints: signed %d, %+v", r.Signed, r.Findings)
			}
			// And whoever kept a checkpoint sees it whatever was done.
			r, err := Verify(t.Context(), forged, VerifyOptions{Checkpoints: []string{newest}})
			if err != nil {
				t.Fatal(err)
			}
			if last := r.Findings[len(r.Findings)-1]; last.Kind == FoundUnsigned {
				last = r.Findings[0]
			} else if last.Kind != FoundForked && last.Kind != FoundTruncated {
				t.Errorf("with the newest checkpoint: %+v", r.Findings)
			}
		})
	}
	// Without any checkpoint.
	r := mustVerify(t, forge(t, dir, same, func(int64) bool { return false }), serverKey.Public())
	if r.OK() || r.Signed != 0 || r.Findings[0].Kind != FoundUnsigned {
		t.Errorf("without checkpoints: %+v", r)
	}
}

// Covers L4: one server, two histories: a copy of the log goes its own way under the same keys.
func TestFork(t *testing.T) {
	dir := makeLog(t, 30, nil)
	other := copyLog(t, dir)
	for i, d := range []string{dir, other} {
		l := mustOpen(t, d, testOptions())
		for k := range 5 {
			mustAppend(t, l, call(1000*(i+1)+k))
		}
		mustClose(t, l)
		sound(t, d, 35, serverKey.Public(), domainKey.Public())
	}
	kept, err := Newest(t.Context(), other)
	if err != nil {
		t.Fatal(err)
	}
	keys := []crypto.PublicKey{serverKey.Public(), domainKey.Public()}
	r, err := Verify(t.Context(), dir, VerifyOptions{Keys: keys, Checkpoints: []string{kept}})
	if err != nil || len(r.Findings) != 1 || r.Findings[0].Kind != FoundForked || r.Findings[0].Record != 35 {
		t.Errorf("with the other's checkpoint: %v %+v", err, r)
	}
	// The other's checkpoint in this log, after its own.
	lines := parts(t, lastSegment(t, other))
	file := lastSegment(t, dir)
	writeFile(t, file, append(readFile(t, file), lines[len(lines)-1]...))
	r = mustVerify(t, dir, keys...)
	if r.OK() {
		t.Error("two checkpoints of one size and different roots are no finding")
	}
	for _, f := range r.Findings {
		if f.Kind != FoundForked && f.Kind != FoundCheckpoint && f.Kind != FoundChanged || f.Record < 34 {
			t.Errorf("found %+v", f)
		}
	}

	// Kept checkpoints that are none are the caller's mistake.
	if _, err := Verify(t.Context(), dir, VerifyOptions{Checkpoints: []string{"hello\n"}}); err == nil {
		t.Error("a checkpoint that is none was taken")
	}
	if _, err := Verify(t.Context(), dir, VerifyOptions{Keys: []crypto.PublicKey{strangerKey.Public()}, Checkpoints: []string{kept}}); err == nil {
		t.Error("a checkpoint that a stranger did not sign was taken")
	}
	ofAnother, err := Newest(t.Context(), makeLog(t, 30, func(o *Options) { o.Rand = bytes.NewReader(make([]byte, 16)) }))
	if err != nil {
		t.Fatal(err)
	}
	r, err = Verify(t.Context(), other, VerifyOptions{Checkpoints: []string{ofAnother}})
	if err != nil || len(r.Findings) != 1 || r.Findings[0].Kind != FoundForked {
		t.Errorf("with the checkpoint of another log: %v %+v", err, r)
	}
}

// Segments that are missing, repeated, of another log or of another time.
func TestSegmentsChanged(t *testing.T) {
	whole := makeLog(t, 100, func(o *Options) { o.SegmentBytes = 8 << 10 })
	stranger := makeLog(t, 100, func(o *Options) {
		o.SegmentBytes = 8 << 10
		o.Rand = bytes.NewReader(make([]byte, 16))
	})
	list := mustSegments(t, whole)
	if len(list) < 5 || fmt.Sprint(names(list)) != fmt.Sprint(names(mustSegments(t, stranger))) {
		t.Fatalf("segments %v and %v", names(list), names(mustSegments(t, stranger)))
	}
	first, second := list[2].first, list[3].first
	for _, tc := range []struct {
		name   string
		change func(t *testing.T, path []string)
		kind   string
		record int64
	}{
		{"missing", func(t *testing.T, p []string) { mustDo(t, os.Remove(p[2])) }, FoundMissing, first},
		{"empty", func(t *testing.T, p []string) { writeFile(t, p[2], nil) }, FoundSegment, first},
		{"under another name", func(t *testing.T, p []string) {
			mustDo(t, os.Rename(p[2], filepath.Join(filepath.Dir(p[2]), fmt.Sprintf(segmentName, first+1))))
		}, FoundSegment, first + 1},
		{"of another log", func(t *testing.T, p []string) {
			writeFile(t, p[2], readFile(t, mustSegments(t, stranger)[2].path))
		}, FoundSegment, first},
		{"with another tree", func(t *testing.T, p []string) {
			lines := parts(t, p[2])
			h, err := parseHeader(bytes.TrimSuffix(lines[0], []byte("\n")))
			mustDo(t, err)
			h.tree.hashes[0][0] ^= 1
			lines[0] = newHeader(h.Log, h.Server, ticking()(), &h.tree, h.prev)
			writeFile(t, p[2], bytes.Join(lines, nil))
		}, FoundSegment, first},
		{"with the records of the one before too", func(t *testing.T, p []string) {
			lines := parts(t, p[2])
			writeFile(t, p[1], append(readFile(t, p[1]), bytes.Join(lines[1:], nil)...))
		}, FoundSegment, first},
		{"garbage", func(t *testing.T, p []string) { writeFile(t, p[2], bytes.Repeat([]byte("garbage\n"), 1000)) }, FoundSegment, first},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := copyLog(t, whole)
			var paths []string
			for _, s := range mustSegments(t, dir) {
				paths = append(paths, s.path)
			}
			tc.change(t, paths)
			r := mustVerify(t, dir, serverKey.Public())
			if len(r.Findings) == 0 || r.Findings[0].Kind != tc.kind || r.Findings[0].Record != tc.record {
				t.Errorf("found %+v, want first %s about %d", r.Findings, tc.kind, tc.record)
			}
			if len(r.Findings) > maxFindings {
				t.Errorf("%d findings", len(r.Findings))
			}
			if tc.name == "missing" && (len(r.Findings) != 1 || r.Findings[0].Through != second-1) {
				t.Errorf("found %+v, want records %d to %d", r.Findings, first, second-1)
			}
		})
	}
}

// A log that was emptied is not called whole and signed: with a key, something has to be signed by it.
func TestEmptiedLog(t *testing.T) {
	dir := copyLog(t, makeLog(t, 20, nil))
	file := lastSegment(t, dir)
	writeFile(t, file, parts(t, file)[0])
	r := mustVerify(t, dir, serverKey.Public())
	if r.OK() || r.Findings[0].Kind != FoundUnsigned || r.Findings[0].Record != 0 {
		t.Errorf("found %+v, want %s", r.Findings, FoundUnsigned)
	}
	if r := mustVerify(t, dir); !r.OK() || r.Records != 0 { // without a key nothing can tell it from a new one
		t.Errorf("without a key: %+v", r.Findings)
	}
}

func names(list []segment) (s []string) {
	for _, l := range list {
		s = append(s, filepath.Base(l.path))
	}
	return s
}

func mustDo(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Covers L4: every byte of a small log flipped, dropped or doubled is found, or changes nothing that counts.
func TestEveryByte(t *testing.T) {
	whole := t.TempDir()
	o := testOptions()
	o.CheckpointRecords, o.Signers = 2, signersOf(serverKey)
	l := mustOpen(t, whole, o)
	appendMany(t, l, 0, 2)
	for range 2 {
		mustAppend(t, l, Record{Plane: PlaneServer, Operation: "Stop", Outcome: Failed})
	}
	mustClose(t, l)
	original := readFile(t, lastSegment(t, whole))
	dir := t.TempDir()
	file := filepath.Join(dir, fmt.Sprintf(segmentName, 0))
	end := bytes.IndexByte(original, '\n')
	quiet := 0
	for i := range original {
		for what, b := range map[string][]byte{
			"flipped": append(append(append([]byte{}, original[:i]...), original[i]^1), original[i+1:]...),
			"dropped": append(append([]byte{}, original[:i]...), original[i+1:]...),
			"doubled": append(append([]byte{}, original[:i+1]...), original[i:]...),
		} {
			writeFile(t, file, b)
			r, err := Verify(t.Context(), dir, VerifyOptions{Keys: []crypto.PublicKey{serverKey.Public()}})
			switch {
			case err != nil, !r.OK(), r.Torn > 0:
			case r.Foreign > 0: // the name of the key is another's: the last checkpoint counts for nothing
			case i < end: // server and time in the first line are nobody's claim
				quiet++
			default:
				t.Errorf("byte %d (%q) %s: nothing found", i, original[i], what)
			}
		}
	}
	if quiet > 3*60 {
		t.Errorf("%d changes of the first line found nothing", quiet)
	}
}
