package backupset_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"strongroom/internal/backupset"
	"strongroom/internal/failure"
)

// What goes in comes out: without any key as an inventory, and with the domain's as it was.
func TestRoundTrip(t *testing.T) {
	d := newDomain(t, "one")
	for name, c := range map[string]struct {
		records   []backupset.Record
		partBytes int64
		parts     int
	}{
		"nothing":          {nil, 0, 1},
		"some":             {some(false), 0, 1},
		"a part for each":  {some(false), 1, 7},
		"several chunks":   {some(true), 0, 1},
		"chunks and parts": {some(true), 1 << 20, 2},
		"the largest":      {[]backupset.Record{key("k", 256, backupset.MaxBody)}, 0, 1},
		"only one byte":    {[]backupset.Record{{Item: backupset.Item{Kind: "k", Name: "n"}, Body: []byte{0}}}, 0, 1},
		"what compresses":  {[]backupset.Record{{Item: backupset.Item{Kind: "k", Name: strings.Repeat("n", backupset.MaxName)}, Body: make([]byte, backupset.MaxBody)}}, 0, 1},
	} {
		t.Run(name, func(t *testing.T) {
			s := newMemory()
			o := options(d, s)
			o.PartBytes = c.partBytes
			var told backupset.Progress
			o.Progress = func(p backupset.Progress) {
				if p.Bytes < told.Bytes || p.Records < told.Records || p.Parts < told.Parts {
					t.Errorf("after %+v comes %+v", told, p)
				}
				told = p
			}
			made := write(t, o, c.records)
			if stored := s.size(); told.Bytes != stored || told.Records != made.Records || told.Parts != c.parts {
				t.Errorf("the last progress of the writer is %+v, of %d bytes", told, stored)
			}
			if s.open != 0 {
				t.Errorf("%d objects were left open", s.open)
			}
			if len(made.Parts) != c.parts || len(s.objects) != c.parts+2 {
				t.Errorf("there are %d parts and %d objects, want %d parts", len(made.Parts), len(s.objects), c.parts)
			}
			b, err := backupset.Open(t.Context(), s, folder)
			if err != nil {
				t.Fatal(err)
			}
			m := b.Manifest()
			if m.Backup != made.Backup || m.Domain != d.id || m.HSM != "alpha" || m.HSMID != "0f0c5ad1" || m.Folder != folder || m.Version != 1 ||
				m.Created != start.Add(3*time.Second).Truncate(time.Second) || m.Finished != m.Created.Add(3*time.Second) {
				t.Errorf("the manifest says %+v", m)
			}
			counts, versions, deleted := map[string]int64{}, 0, 0
			for _, r := range c.records {
				counts[r.Kind]++
				versions += len(r.Versions)
				if r.Deleted {
					deleted++
				}
			}
			if !maps.Equal(m.Counts, counts) || m.Records != int64(len(c.records)) || m.Versions != int64(versions) || m.Deleted != int64(deleted) {
				t.Errorf("it counts %v, %d, %d, %d", m.Counts, m.Records, m.Versions, m.Deleted)
			}
			var last backupset.Progress
			r, err := b.Verify(t.Context(), func(p backupset.Progress) { last = p })
			if err != nil || r.Err() != nil || len(r.Foreign) != 0 || r.Objects != c.parts+2 {
				t.Errorf("verify: %+v, %v", r, err)
			}
			size := int64(0)
			for _, object := range s.objects {
				size += int64(len(object))
			}
			if r.Bytes != size {
				t.Errorf("verify counts %d bytes of %d", r.Bytes, size)
			}
			if last.Bytes != last.Of || last.Of == 0 || last.Parts != c.parts || last.Records != m.Records {
				t.Errorf("the last progress of verify is %+v", last)
			}
			var got []backupset.Record
			for r, err := range b.Records(t.Context(), d.id, d.engine, func(p backupset.Progress) { last = p }) {
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, r)
			}
			sameRecords(t, got, c.records)
			if last.Records != m.Records || last.Parts != c.parts || last.Bytes != last.Of {
				t.Errorf("the last progress is %+v", last)
			}
			i := 0
			for it, err := range b.Inventory(t.Context()) {
				if err != nil || it.Name != c.records[i].Name || !slices.Equal(it.Versions, c.records[i].Versions) {
					t.Errorf("item %d is %+v, %v", i, it, err)
				}
				i++
			}
			for _, want := range c.records {
				got, err := b.Find(t.Context(), d.id, d.engine, want.Kind, strings.ToUpper(want.Name))
				if err != nil {
					t.Fatal(err)
				}
				sameRecords(t, []backupset.Record{got}, []backupset.Record{want})
			}
			_, err = b.Find(t.Context(), d.id, d.engine, "key", "nobody")
			wantCode(t, "a record that is not there", err, backupset.NoRecord)
		})
	}
}

// What is in the clear holds nothing of a body.
func TestNothingOfABodyIsInTheClear(t *testing.T) {
	d, s := newDomain(t, "one"), newMemory()
	const canary = "canary-of-a-secret"
	write(t, options(d, s), []backupset.Record{{Item: backupset.Item{Kind: "key", Name: "k"}, Body: []byte(canary)}})
	for name, b := range s.objects {
		if bytes.Contains(b, []byte(canary)) {
			t.Errorf("%s holds a body", name)
		}
	}
	// The same records twice make other bytes: nothing is sealed twice in one way.
	again := newMemory()
	write(t, options(d, again), []backupset.Record{{Item: backupset.Item{Kind: "key", Name: "k"}, Body: []byte(canary)}})
	if one, two := s.get(t, folder, "part-000001"), again.get(t, folder, "part-000001"); bytes.Equal(one[75:107], two[75:107]) {
		t.Error("two backups have one salt")
	}
}

// A consumer may stop, and has heard no error.
func TestStopEarly(t *testing.T) {
	d, s := newDomain(t, "one"), newMemory()
	write(t, options(d, s), some(false))
	b, err := backupset.Open(t.Context(), s, folder)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, err := range b.Records(t.Context(), d.id, d.engine, nil) {
		if n++; err != nil || n == 2 {
			break
		}
	}
	for range b.Inventory(t.Context()) {
		break
	}
	if n != 2 {
		t.Errorf("stopped after %d", n)
	}
}

// What a reader would refuse cannot be written.
func TestWriterRefuses(t *testing.T) {
	d := newDomain(t, "one")
	named := func(kind, name string) backupset.Record {
		return backupset.Record{Item: backupset.Item{Kind: kind, Name: name}}
	}
	version := func(v backupset.Version) []backupset.Record {
		r := named("key", "k")
		r.Versions = []backupset.Version{v}
		return []backupset.Record{r}
	}
	kinds := []backupset.Record{}
	for i := range 65 {
		kinds = append(kinds, named(fmt.Sprint("k", i), "n"))
	}
	for name, c := range map[string]struct {
		records []backupset.Record
		kind    failure.Kind
	}{
		"no kind":                  {[]backupset.Record{named("", "n")}, failure.Internal},
		"a kind in capitals":       {[]backupset.Record{named("Key", "n")}, failure.Internal},
		"a long kind":              {[]backupset.Record{named(strings.Repeat("k", 33), "n")}, failure.Internal},
		"no name":                  {[]backupset.Record{named("key", "")}, failure.Internal},
		"a long name":              {[]backupset.Record{named("key", strings.Repeat("n", backupset.MaxName+1))}, failure.Internal},
		"a name with a line end":   {[]backupset.Record{named("key", "a\nb")}, failure.Internal},
		"a name with a quote":      {[]backupset.Record{named("key", `a"b`)}, failure.Internal},
		"a name that is not ASCII": {[]backupset.Record{named("key", "ä")}, failure.Internal},
		"a body too large":         {[]backupset.Record{{Item: named("key", "n").Item, Body: make([]byte, backupset.MaxBody+1)}}, failure.TooLarge},
		"a name twice":             {[]backupset.Record{named("key", "a"), named("key", "a")}, failure.Internal},
		"a name in two cases":      {[]backupset.Record{named("key", "A"), named("key", "a")}, failure.Internal},
		"names out of order":       {[]backupset.Record{named("key", "b"), named("key", "A")}, failure.Internal},
		"a kind that comes back":   {[]backupset.Record{named("key", "a"), named("role", "a"), named("key", "b")}, failure.Internal},
		"too many kinds":           {kinds, failure.Internal},
		"too many versions":        {[]backupset.Record{key("k", backupset.MaxVersions+1, 0)}, failure.Internal},
		"a version without an ID":  {version(backupset.Version{Type: "oct-HSM"}), failure.Internal},
		"a version without a type": {version(backupset.Version{ID: "i"}), failure.Internal},
		"a version with bad bits":  {version(backupset.Version{ID: "i", Type: "oct-HSM", Bits: -1}), failure.Internal},
	} {
		t.Run(name, func(t *testing.T) {
			s := newMemory()
			_, err := tryWrite(t.Context(), options(d, s), c.records)
			if !errors.Is(err, c.kind) {
				t.Errorf("got %v, want %s", err, c.kind)
			}
			if s.open != 0 || len(s.objects) != 0 {
				t.Errorf("%d objects are open and %d there", s.open, len(s.objects))
			}
		})
	}
	for name, change := range map[string]func(*backupset.Options){
		"a domain that is none":   func(o *backupset.Options) { o.Domain = "x" },
		"a domain in capitals":    func(o *backupset.Options) { o.Domain = strings.ToUpper(o.Domain) },
		"no HSM":                  func(o *backupset.Options) { o.HSM = "" },
		"no ID of the HSM":        func(o *backupset.Options) { o.HSMID = "" },
		"a program with a space":  func(o *backupset.Options) { o.Program = "a b" },
		"a folder that is a path": func(o *backupset.Options) { o.Folder = "../x" },
		"a hidden folder":         func(o *backupset.Options) { o.Folder = ".." },
		"parts too large":         func(o *backupset.Options) { o.PartBytes = 65 << 20 },
		"no randomness":           func(o *backupset.Options) { o.Rand = bytes.NewReader(nil) },
		"too little randomness":   func(o *backupset.Options) { o.Rand = bytes.NewReader(make([]byte, 47)) },
	} {
		t.Run(name, func(t *testing.T) {
			s := newMemory()
			o := options(d, s)
			change(&o)
			if _, err := tryWrite(t.Context(), o, nil); err == nil || len(s.objects) != 0 {
				t.Errorf("got %v and %d objects", err, len(s.objects))
			}
		})
	}
}

// After an error, after Abort and after Finish, nothing more is written.
func TestWriterEnds(t *testing.T) {
	d, s := newDomain(t, "one"), newMemory()
	w, err := backupset.New(t.Context(), options(d, s))
	if err != nil {
		t.Fatal(err)
	}
	bad := backupset.Record{}
	if err := w.Add(t.Context(), bad); err == nil {
		t.Fatal("a record of nothing was taken")
	}
	if err := w.Add(t.Context(), key("k", 1, 1)); err == nil {
		t.Error("after an error a record was taken")
	}
	if _, err := w.Finish(t.Context()); err == nil {
		t.Error("after an error a backup was finished")
	}
	w.Abort()

	if w, err = backupset.New(t.Context(), options(d, s)); err != nil {
		t.Fatal(err)
	}
	w.Abort()
	w.Abort()
	if _, err := w.Finish(t.Context()); err == nil || s.open != 0 || len(s.objects) != 0 {
		t.Errorf("after Abort: %v, %d objects open, %d there", err, s.open, len(s.objects))
	}

	if w, err = backupset.New(t.Context(), options(d, s)); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Finish(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.Abort()
	if err := w.Add(t.Context(), key("k", 1, 1)); err == nil {
		t.Error("a finished backup took a record")
	}
	if _, err := w.Finish(t.Context()); err == nil {
		t.Error("a backup was finished twice")
	}
	if err := verify(t.Context(), s); err != nil {
		t.Error(err)
	}
	// The folder is taken now.
	_, err = backupset.New(t.Context(), options(d, s))
	wantCode(t, "a second backup in one folder", err, backupset.Exists)
	if err := verify(t.Context(), s); err != nil {
		t.Error(err)
	}
}

// A clock that is set back while a backup is written is no reason to lose it.
func TestClockSetBack(t *testing.T) {
	d, s := newDomain(t, "one"), newMemory()
	o := options(d, s)
	at := start
	o.Clock = func() time.Time { at = at.Add(-time.Hour); return at }
	if m := write(t, o, nil); m.Finished != m.Created {
		t.Errorf("finished %v, created %v", m.Finished, m.Created)
	}
	if err := verify(t.Context(), s); err != nil {
		t.Error(err)
	}
}

// A domain that signs for another, or signs something else, is found before there is a manifest.
func TestWrongSignature(t *testing.T) {
	d, other := newDomain(t, "one"), newDomain(t, "two")
	for name, sign := range map[string]func(context.Context, string, []byte) ([]byte, error){
		"another domain": other.sign,
		"something else": func(ctx context.Context, _ string, p []byte) ([]byte, error) { return d.sign(ctx, "JWT", p) },
		"another payload": func(ctx context.Context, typ string, p []byte) ([]byte, error) {
			return d.sign(ctx, typ, append(p, ' '))
		},
		"another manifest": func(ctx context.Context, typ string, p []byte) ([]byte, error) {
			return d.sign(ctx, typ, bytes.Replace(p, []byte("alpha"), []byte("betaa"), 1))
		},
		"nothing": func(context.Context, string, []byte) ([]byte, error) { return nil, nil },
		"no":      func(context.Context, string, []byte) ([]byte, error) { return nil, failure.New(failure.Internal, "no") },
	} {
		t.Run(name, func(t *testing.T) {
			s := newMemory()
			o := options(d, s)
			o.Sign = sign
			if _, err := tryWrite(t.Context(), o, some(false)); !errors.Is(err, failure.Internal) {
				t.Errorf("got %v", err)
			}
			if _, there := s.objects[folder+"/manifest"]; there {
				t.Error("there is a manifest")
			}
		})
	}
}

func TestFolderName(t *testing.T) {
	at := time.Date(2022, 11, 9, 20, 25, 12, 519e6, time.FixedZone("", 3600))
	name := backupset.FolderName("alpha-1", at)
	if name != "mhsm-alpha-1-2022110919251251" {
		t.Errorf("got %s", name)
	}
	hsm, back, ok := backupset.ParseFolder(name)
	if !ok || hsm != "alpha-1" || !back.Equal(at.Truncate(10*time.Millisecond)) {
		t.Errorf("got %s, %v, %v", hsm, back, ok)
	}
	for _, bad := range []string{"", "mhsm-alpha-20221109192512", "mhsm--2022110919251251", "mhsm-a-2022139919251251", "x-a-2022110919251251", name + "0x", name + "/", "mhsm-a/b-2022110919251251"} {
		if _, _, ok := backupset.ParseFolder(bad); ok {
			t.Errorf("%q is a folder", bad)
		}
	}
}

// peak is the most memory in use at the moments when it is looked at, above what there was before. Garbage does not count: when
// it is collected depends on what else the machine does.
type peak struct{ before, most uint64 }

func newPeak() *peak {
	runtime.GC()
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	return &peak{before: s.HeapAlloc}
}

func (p *peak) look() {
	runtime.GC()
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	p.most = max(p.most, s.HeapAlloc-min(s.HeapAlloc, p.before))
}

// Memory stays flat in each direction, however much there is: many small records, and records of the largest size
// beyond the whole bound.
func TestMemoryStaysFlat(t *testing.T) {
	const bound = 8 << 20
	d := newDomain(t, "one")
	large := noise("large", 4<<20)
	versions := key("k", 1, 0).Versions
	for name, c := range map[string]struct {
		n      int
		record func(i int) backupset.Record
		every  int
	}{
		"100,000 small": {100_000, func(i int) backupset.Record {
			return backupset.Record{Item: backupset.Item{Kind: "key", Name: fmt.Sprintf("key-%06d", i), Versions: versions}, Body: large[i : i+400]}
		}, 1000},
		"24 large": {24, func(i int) backupset.Record {
			return backupset.Record{Item: backupset.Item{Kind: "key", Name: fmt.Sprintf("%06d", i)}, Body: large}
		}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			s := disk(t.TempDir())
			p := newPeak()
			w, err := backupset.New(t.Context(), options(d, s))
			if err != nil {
				t.Fatal(err)
			}
			defer w.Abort()
			for i := range c.n {
				if err := w.Add(t.Context(), c.record(i)); err != nil {
					t.Fatal(err)
				}
				if i%c.every == 0 {
					p.look()
				}
			}
			m, err := w.Finish(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			p.look()
			t.Logf("written: %d KiB, %d parts", p.most>>10, len(m.Parts))
			if p.most > bound {
				t.Errorf("writing took %d bytes", p.most)
			}
			b, err := backupset.Open(t.Context(), s, folder)
			if err != nil {
				t.Fatal(err)
			}
			p = newPeak()
			r, err := b.Verify(t.Context(), func(backupset.Progress) { p.look() })
			if err != nil || r.Err() != nil {
				t.Fatal(err, r.Err())
			}
			t.Logf("verified: %d KiB", p.most>>10)
			if p.most > bound {
				t.Errorf("verifying took %d bytes", p.most)
			}
			p = newPeak()
			n := 0
			for r, err := range b.Records(t.Context(), d.id, d.engine, nil) {
				if err != nil {
					t.Fatal(err)
				}
				if n%c.every == 0 {
					if want := c.record(n); r.Name != want.Name || !bytes.Equal(r.Body, want.Body) {
						t.Fatalf("record %d is another one", n)
					}
					p.look()
				}
				n++
			}
			t.Logf("read: %d KiB", p.most>>10)
			if n != c.n || p.most > bound {
				t.Errorf("reading %d records took %d bytes", n, p.most)
			}
		})
	}
}

// A context that ends stops each of them, and is what they say.
func TestContextEnds(t *testing.T) {
	d, s := newDomain(t, "one"), newMemory()
	write(t, options(d, s), some(false))
	b, err := backupset.Open(t.Context(), s, folder)
	if err != nil {
		t.Fatal(err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.Verify(ended, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("verify: %v", err)
	}
	for _, err := range b.Records(ended, d.id, d.engine, nil) {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("records: %v", err)
		}
	}
	if _, err := tryWrite(ended, options(d, newMemory()), some(true)); !errors.Is(err, context.Canceled) {
		t.Errorf("write: %v", err)
	}
}
