package audit

import (
	"bytes"
	"context"
	"crypto"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"strongroom/internal/failure"
)

// A log is written, closed, opened again and goes on; it verifies with each of its keys, with both, and without.
func TestAppendAndReopen(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data", SubFolder)
	o := testOptions()
	o.SegmentBytes = 16 << 10
	o.CheckpointRecords = 10
	l := mustOpen(t, dir, o)
	id := l.ID()
	for i := range 100 {
		if n := mustAppend(t, l, call(i)); n != int64(i) {
			t.Fatalf("record %d got number %d", i, n)
		}
	}
	mustClose(t, l)
	sound(t, filepath.Dir(dir), 100, serverKey.Public(), domainKey.Public()) // the data folder will do

	o.ID = id
	l = mustOpen(t, dir, o)
	if l.ID() != id {
		t.Fatalf("the log has ID %s after reopening, and had %s", l.ID(), id)
	}
	for i := range 100 {
		if n := mustAppend(t, l, call(i)); n != int64(100+i) {
			t.Fatalf("record %d got number %d", 100+i, n)
		}
	}
	if s := l.Stats(); s.Records != 200 || s.Appended != 100 || s.Refused != 0 || !s.Writable || s.Waiting != 0 || s.Syncs < 100 {
		t.Errorf("stats %+v", s)
	}
	mustClose(t, l)
	for _, keys := range [][]crypto.PublicKey{nil, {serverKey.Public()}, {domainKey.Public()}, {serverKey.Public(), domainKey.Public(), serverKey.Public()}} {
		r := sound(t, dir, 200, keys...)
		if r.Log != id || r.Server != "server-1" || r.First != 0 || r.Segments < 4 || r.Covered != 200 || r.Recovered != 0 || r.Torn != 0 {
			t.Errorf("result %+v", r)
		}
		if len(keys) > 0 && r.Signed != 200 || len(keys) == 0 && r.Signed != 0 {
			t.Errorf("%d keys: signed %d", len(keys), r.Signed)
		}
	}
	if r := mustVerify(t, dir, strangerKey.Public()); r.OK() || r.Findings[0].Kind != FoundUnsigned {
		t.Errorf("with a stranger's key: %+v", r)
	}
	if _, err := l.Append(t.Context(), call(1)); !errors.Is(err, ErrClosed) || failure.KindOf(err) != failure.Unavailable {
		t.Errorf("append after close: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Errorf("second close: %v", err)
	}
}

// The tree of the log is that of the tlog package.
func TestTree(t *testing.T) {
	var stored []tlog.Hash
	reader := tlog.HashReaderFunc(func(indexes []int64) (list []tlog.Hash, err error) {
		for _, i := range indexes {
			list = append(list, stored[i])
		}
		return list, nil
	})
	var tr tree
	seen := map[int64]tlog.Hash{}
	for n := range int64(300) {
		want, err := tlog.TreeHash(n, reader)
		if err != nil {
			t.Fatal(err)
		}
		if tr.root() != want || len(tr.hashes) != width(n) {
			t.Fatalf("%d leaves: root %v with %d subtrees, want %v with %d", n, tr.root(), len(tr.hashes), want, width(n))
		}
		data := fmt.Append(nil, "record ", n)
		more, err := tlog.StoredHashes(n, data, reader)
		if err != nil {
			t.Fatal(err)
		}
		stored = append(stored, more...)
		tr.add(tlog.RecordHash(data), func(level int, index int64, h tlog.Hash) { seen[tlog.StoredHashIndex(level, index)] = h })
	}
	for i, h := range stored {
		if seen[int64(i)] != h {
			t.Fatalf("node %d was seen as %v, want %v", i, seen[int64(i)], h)
		}
	}
}

// Covers L1: 64 callers at once all get their record, each its own number, and share syncs.
func TestCallersShareSyncs(t *testing.T) {
	dir := t.TempDir()
	l := mustOpen(t, dir, testOptions())
	const callers, each = 64, 20
	numbers := make([][]int64, callers)
	before := l.Stats().Syncs
	var wg sync.WaitGroup
	for c := range callers {
		wg.Go(func() {
			for i := range each {
				n, err := l.Append(context.Background(), call(c*each+i))
				if err != nil {
					t.Error(err)
					return
				}
				numbers[c] = append(numbers[c], n)
			}
		})
	}
	wg.Wait()
	syncs := l.Stats().Syncs - before
	mustClose(t, l)
	seen := map[int64]string{}
	for c, list := range numbers {
		last := int64(-1)
		for i, n := range list {
			request := call(c*each + i).Request
			if n <= last {
				t.Errorf("caller %d got number %d after %d", c, n, last)
			}
			if other, ok := seen[n]; ok {
				t.Errorf("number %d was given to %s and %s", n, other, request)
			}
			seen[n], last = request, n
		}
	}
	sound(t, dir, callers*each, serverKey.Public())
	if _, err := Show(t.Context(), dir, Filter{}, func(r Record) error {
		if seen[r.Number] != r.Request {
			t.Errorf("record %d is of request %s, and the caller of %s was told so", r.Number, r.Request, seen[r.Number])
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if syncs > callers*each/2 {
		t.Errorf("%d records of %d callers took %d syncs: they do not share", callers*each, callers, syncs)
	}
	t.Logf("%d records of %d callers, %d syncs", callers*each, callers, syncs)
}

// A checkpoint comes after so many records, after so much time, at a new segment, and at the end.
func TestCheckpoints(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		o := testOptions()
		o.CheckpointRecords, o.CheckpointAfter = 8, 10*time.Second
		var mu sync.Mutex
		var trees []tlog.Tree
		o.OnCheckpoint = func(tree tlog.Tree, notes []string) {
			mu.Lock()
			defer mu.Unlock()
			n, err := readNote(notes[0], nil)
			if err != nil || len(notes) != 1 || n.tree != tree {
				t.Errorf("the notes %q are not of %v (%v)", notes, tree, err)
			}
			trees = append(trees, tree)
		}
		l := mustOpen(t, dir, o)
		expect := func(what string, sizes ...int64) {
			t.Helper()
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			got := make([]int64, len(trees))
			for i, tree := range trees {
				got[i] = tree.N
			}
			if fmt.Sprint(got) != fmt.Sprint(sizes) {
				t.Errorf("%s: checkpoints of %v records, want %v", what, got, sizes)
			}
		}
		appendMany(t, l, 0, 7)
		expect("after seven")
		appendMany(t, l, 7, 8)
		expect("after eight", 8)
		time.Sleep(time.Minute)
		expect("nothing new for a minute", 8)
		appendMany(t, l, 8, 10)
		time.Sleep(9 * time.Second)
		expect("nine seconds later", 8)
		time.Sleep(2 * time.Second)
		expect("eleven seconds later", 8, 10)
		appendMany(t, l, 10, 11)
		mustClose(t, l)
		expect("closed", 8, 10, 11)
	})
}

// More keys than one note takes make several notes, and each key is found.
func TestManySigners(t *testing.T) {
	keys := []crypto.Signer{serverKey}
	for i := range 69 {
		keys = append(keys, p384Key(byte(100+i)))
	}
	dir := makeLog(t, 3, func(o *Options) { o.Signers = signersOf(keys...) })
	var public []crypto.PublicKey
	for _, k := range keys {
		public = append(public, k.Public())
	}
	r := sound(t, dir, 3, public...)
	if r.Checkpoints != 2 || len(r.Keys) != 70 {
		t.Errorf("%d checkpoints, %d keys; want 2 and 70", r.Checkpoints, len(r.Keys))
	}
	for _, k := range r.Keys {
		if k.Records != 3 {
			t.Errorf("%s vouches for %d records", k.Name, k.Records)
		}
	}
	// It opens again: both notes are of the end.
	o := testOptions()
	o.Signers = signersOf(keys...)
	l := mustOpen(t, dir, o)
	appendMany(t, l, 3, 4)
	mustClose(t, l)
	sound(t, dir, 4, public...)
}

// Keys that do not sign stop nothing for a while, and then everything, until they do.
func TestSigningFails(t *testing.T) {
	dir := t.TempDir()
	o := testOptions()
	o.CheckpointRecords = 512
	var mu sync.Mutex
	broken := true
	sign := o.Signers
	o.Signers = func(ctx context.Context) ([]note.Signer, error) {
		mu.Lock()
		defer mu.Unlock()
		if broken {
			return nil, errors.New("sealed")
		}
		return sign(ctx)
	}
	l := mustOpen(t, dir, o)
	n := 0
	var err error
	for ; err == nil && n < 2*MaxUnsigned; n++ {
		_, err = l.Append(t.Context(), call(n))
	}
	if !errors.Is(err, ErrUnsigned) || failure.KindOf(err) != failure.Unavailable || n-1 != writerUnsigned {
		t.Fatalf("after %d records: %v, want ErrUnsigned after %d", n-1, err, writerUnsigned)
	}
	mu.Lock()
	broken = false
	mu.Unlock()
	appendMany(t, l, n-1, n+10)
	mustClose(t, l)
	sound(t, dir, int64(n+10), serverKey.Public())
}

// A record that says what no record may say is our own mistake, and is not written.
func TestAppendRefuses(t *testing.T) {
	dir := t.TempDir()
	l := mustOpen(t, dir, testOptions())
	for name, change := range map[string]func(*Record){
		"no operation":            func(r *Record) { r.Operation = "" },
		"no plane":                func(r *Record) { r.Plane = "" },
		"another plane":           func(r *Record) { r.Plane = "astral" },
		"no outcome":              func(r *Record) { r.Outcome = "" },
		"another outcome":         func(r *Record) { r.Outcome = "perhaps" },
		"another phase":           func(r *Record) { r.Phase = "during" },
		"an intent with outcome":  func(r *Record) { r.Phase = PhaseIntent },
		"a status of nothing":     func(r *Record) { r.Status = 42 },
		"a negative duration":     func(r *Record) { r.Duration = -1 },
		"a time before computers": func(r *Record) { r.Time = time.Unix(-1e12, 0) },
		"a recovery":              func(r *Record) { *r = Record{Kind: KindRecovered, Cut: 1} },
		"a kind":                  func(r *Record) { r.Kind = "song" },
		"a cut":                   func(r *Record) { r.Cut = 1 },
	} {
		t.Run(name, func(t *testing.T) {
			r := call(1)
			change(&r)
			if _, err := l.Append(t.Context(), r); failure.KindOf(err) != failure.Internal {
				t.Errorf("got %v, want an internal failure", err)
			}
		})
	}
	intent := call(1)
	intent.Phase, intent.Outcome, intent.Status, intent.Duration = PhaseIntent, "", 0, 0
	mustAppend(t, l, intent)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.Append(ctx, call(1)); !errors.Is(err, context.Canceled) || failure.KindOf(err) != failure.Unavailable {
		t.Errorf("cancelled: %v", err)
	}
	mustClose(t, l)
	sound(t, dir, 1)
}

// More callers than may wait are refused at once: the queue is bounded.
func TestWaitingIsBounded(t *testing.T) {
	dir := t.TempDir()
	o := testOptions()
	o.MaxWaiting = 2
	hold, held := make(chan struct{}), make(chan struct{})
	o.CheckpointRecords = 1
	o.OnCheckpoint = func(tree tlog.Tree, _ []string) {
		if tree.N == 1 {
			close(held)
			<-hold
		}
	}
	l := mustOpen(t, dir, o)
	mustAppend(t, l, call(0))
	<-held // the writer is busy
	var wg sync.WaitGroup
	for i := range 2 {
		wg.Go(func() {
			if _, err := l.Append(context.Background(), call(1+i)); err != nil {
				t.Error(err)
			}
		})
	}
	for l.Stats().Waiting < 2 {
		runtime.Gosched()
	}
	if _, err := l.Append(t.Context(), call(9)); !errors.Is(err, ErrBusy) || failure.KindOf(err) != failure.Unavailable {
		t.Errorf("the third: %v, want ErrBusy", err)
	}
	close(hold)
	wg.Wait()
	mustClose(t, l)
	sound(t, dir, 3)
}

// Who may open what.
func TestOpenRefuses(t *testing.T) {
	o := testOptions()
	o.SegmentBytes = 8 << 10
	dir := filepath.Join(t.TempDir(), "audit")
	l := mustOpen(t, dir, o)
	appendMany(t, l, 0, 50)
	id := l.ID()
	if _, err := Open(dir, o); !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), dir) {
		t.Errorf("a second process: %v, want ErrInUse", err)
	}
	mustClose(t, l)
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.Mkdir(empty, 0o700); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "file")
	writeFile(t, file, nil)
	for _, tc := range []struct {
		name   string
		dir    string
		change func(*Options)
		want   error
	}{
		{"the folder of another server", dir, func(o *Options) { o.Server = "server-2" }, ErrForeign},
		{"another log of this server", dir, func(o *Options) { o.ID = strings.Repeat("0", 32) }, ErrForeign},
		{"a missing folder", filepath.Join(empty, "none"), func(o *Options) { o.ID = id }, ErrMissing},
		{"an emptied folder", empty, func(o *Options) { o.ID = id }, ErrMissing},
		{"an emptied folder, by the checkpoint", empty, func(o *Options) { o.Known.N = 1 }, ErrMissing},
		{"a file", file, nil, nil},
		{"no signers", dir, func(o *Options) { o.Signers = nil }, nil},
		{"an odd name of the server", dir, func(o *Options) { o.Server = "a\nb" }, nil},
		{"no segment size", dir, func(o *Options) { o.SegmentBytes = -1 }, nil},
		{"checkpoints too far apart", dir, func(o *Options) { o.CheckpointRecords = MaxUnsigned }, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			o := testOptions()
			if tc.change != nil {
				tc.change(&o)
			}
			l, err := Open(tc.dir, o)
			if err == nil {
				_ = l.Close()
				t.Fatal("it was opened")
			}
			if tc.want != nil && !errors.Is(err, tc.want) {
				t.Errorf("got %v, want %v", err, tc.want)
			}
		})
	}
	if entries, err := os.ReadDir(empty); err != nil || len(entries) > 0 {
		t.Errorf("something was made in the emptied folder: %v %v", entries, err)
	}
	sound(t, dir, 50, serverKey.Public())
}

// What a server remembers of its log outside the folder shows a log that was put back, made anew or changed while the
// server was down, before it signs any of that.
func TestKnown(t *testing.T) {
	o := testOptions()
	o.SegmentBytes, o.CheckpointRecords = 8<<10, 16
	var trees []tlog.Tree
	o.OnCheckpoint = func(tree tlog.Tree, _ []string) { trees = append(trees, tree) }
	dir := filepath.Join(t.TempDir(), "audit")
	l := mustOpen(t, dir, o)
	appendMany(t, l, 0, 40)
	mustClose(t, l)
	older := copyLog(t, dir)
	l = mustOpen(t, dir, o)
	appendMany(t, l, 40, 100)
	mustClose(t, l)

	for _, tree := range trees { // the newest, and those that a crash before saving it would leave
		o := testOptions()
		o.Known = tree
		mustClose(t, mustOpen(t, copyLog(t, dir), o))
	}
	newest := trees[len(trees)-1]
	refused := func(name, dir string, known tlog.Tree) {
		t.Helper()
		o := testOptions()
		o.Known = known
		if l, err := Open(dir, o); !errors.Is(err, ErrRolledBack) {
			if err == nil {
				_ = l.Close()
			}
			t.Errorf("%s: got %v, want ErrRolledBack", name, err)
		}
	}
	refused("an older copy", older, newest)
	refused("another log of the same length", makeLog(t, 100, func(o *Options) { o.Rand = bytes.NewReader(make([]byte, 16)) }), newest)
	newest.Hash[0] ^= 1
	refused("another root", copyLog(t, dir), newest)
}

// A log whose old segments were taken away verifies from where it begins, and says where that is.
func TestOldSegmentsTakenAway(t *testing.T) {
	dir := makeLog(t, 100, func(o *Options) { o.SegmentBytes = 8 << 10 })
	list := mustSegments(t, dir)
	if len(list) < 4 {
		t.Fatalf("only %d segments", len(list))
	}
	for _, s := range list[:2] {
		if err := os.Remove(s.path); err != nil {
			t.Fatal(err)
		}
	}
	r := sound(t, dir, 100, serverKey.Public(), domainKey.Public())
	if r.First != list[2].first || r.Signed != 100 {
		t.Errorf("first %d, signed %d; want %d and 100", r.First, r.Signed, list[2].first)
	}
	l := mustOpen(t, dir, testOptions())
	appendMany(t, l, 100, 110)
	mustClose(t, l)
	sound(t, dir, 110, serverKey.Public())
}
