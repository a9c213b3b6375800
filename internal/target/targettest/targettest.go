// Package targettest is the suite that every target passes.
package targettest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"strongroom/internal/failure"
	"strongroom/internal/target"
)

// Run runs the suite. open returns a target at an empty place.
func Run(t *testing.T, open func(t *testing.T) target.Target) {
	for _, tc := range []struct {
		name string
		fn   func(*testing.T, target.Target)
	}{
		{"what is written is read", testRoundTrip},
		{"there after Commit and not before", testCommit},
		{"given up", testAbort},
		{"nothing is overwritten", testExisting},
		{"of many writers of one name one wins", testRace},
		{"after the end", testAfterEnd},
		{"missing", testMissing},
		{"listing", testList},
		{"folders", testFolders},
		{"deleting", testDelete},
		{"sweeping", testSweep},
		{"names", testNames},
		{"a context ends everything", testContext},
		{"many at once", testParallel},
		{"a large object takes little memory", testMemory},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.fn(t, open(t))
		})
	}
}

// content is n bytes that no two seeds share.
func content(seed uint64, n int) []byte {
	source := rand.NewChaCha8(sha256.Sum256(fmt.Appendf(nil, "%d/%d", seed, n)))
	b := make([]byte, n)
	_, _ = source.Read(b)
	return b
}

func create(t *testing.T, place target.Target, name string) target.Object {
	t.Helper()
	o, err := place.Create(t.Context(), name)
	if err != nil {
		t.Fatalf("create %s: %v", name, err)
	}
	return o
}

// Put writes one object in one go.
func Put(t *testing.T, place target.Target, name string, data []byte) {
	t.Helper()
	o := create(t, place, name)
	defer o.Abort()
	if n, err := o.Write(data); err != nil || n != len(data) {
		t.Fatalf("write %s: %d, %v; want %d", name, n, err, len(data))
	}
	if err := o.Commit(); err != nil {
		t.Fatalf("commit %s: %v", name, err)
	}
}

// Get reads one object.
func Get(t *testing.T, place target.Target, name string) []byte {
	t.Helper()
	r, err := place.Open(t.Context(), name)
	if err != nil {
		t.Fatalf("open %s: %v", name, err)
	}
	b, err := io.ReadAll(r)
	if err := errors.Join(err, r.Close()); err != nil {
		t.Fatalf("read %s: %v", name, err)
	}
	return b
}

func missing(t *testing.T, place target.Target, name string) {
	t.Helper()
	if r, err := place.Open(t.Context(), name); !errors.Is(err, fs.ErrNotExist) {
		if err == nil {
			_ = r.Close()
		}
		t.Errorf("open %s: %v, want fs.ErrNotExist", name, err)
	}
	folder, object, _ := strings.Cut(name, "/")
	list, err := place.List(t.Context(), folder)
	if err != nil {
		t.Fatal(err)
	}
	for _, info := range list {
		if info.Name == object {
			t.Errorf("%s is listed, with %d bytes; want it not to be there", name, info.Size)
		}
	}
}

func testRoundTrip(t *testing.T, place target.Target) {
	random := rand.New(rand.NewPCG(1, 2))
	for i, size := range []int{0, 1, 1000, target.PartSize - 1, target.PartSize, target.PartSize + 1, 2*target.PartSize + 12345} {
		name, want := fmt.Sprintf("mhsm-a-2026112509301500/part-%03d.bin", i), content(1, size)
		o := create(t, place, name)
		defer o.Abort()
		for rest := want; len(rest) > 0; {
			n := min(len(rest), 1+random.IntN(3<<20))
			if m, err := o.Write(rest[:n]); err != nil || m != n {
				t.Fatalf("write %d bytes: %d, %v", n, m, err)
			}
			rest = rest[n:]
		}
		if err := o.Commit(); err != nil {
			t.Fatal(err)
		}
		if got := Get(t, place, name); !bytes.Equal(got, want) {
			t.Errorf("an object of %d bytes was read as %d, or as others", size, len(got))
		}
	}
}

func testCommit(t *testing.T, place target.Target) {
	for name, size := range map[string]int{"f/small": 10, "f/large": target.PartSize + 10} {
		o := create(t, place, name)
		defer o.Abort()
		if _, err := o.Write(content(2, size)); err != nil {
			t.Fatal(err)
		}
		missing(t, place, name)
		if err := o.Commit(); err != nil {
			t.Fatal(err)
		}
		if got := Get(t, place, name); !bytes.Equal(got, content(2, size)) {
			t.Errorf("%s: read something else than was written", name)
		}
	}
}

func testAbort(t *testing.T, place target.Target) {
	for name, size := range map[string]int{"f/small": 10, "f/large": target.PartSize + 10} {
		o := create(t, place, name)
		if _, err := o.Write(content(3, size)); err != nil {
			t.Fatal(err)
		}
		o.Abort()
		o.Abort()
		missing(t, place, name)
		Put(t, place, name, content(4, size))
		if got := Get(t, place, name); !bytes.Equal(got, content(4, size)) {
			t.Errorf("%s: what was given up is in what was written after it", name)
		}
	}
}

func testExisting(t *testing.T, place target.Target) {
	for name, size := range map[string]int{"f/small": 10, "f/large": target.PartSize + 10} {
		early := create(t, place, name) // begun before the other one, and slower
		defer early.Abort()
		if _, err := early.Write(content(5, size)); err != nil {
			t.Fatal(err)
		}
		Put(t, place, name, content(6, size))
		if _, err := place.Create(t.Context(), name); !errors.Is(err, fs.ErrExist) {
			t.Errorf("create %s again: %v, want fs.ErrExist", name, err)
		}
		if err := early.Commit(); !errors.Is(err, fs.ErrExist) {
			t.Errorf("commit over %s: %v, want fs.ErrExist", name, err)
		}
		if got := Get(t, place, name); !bytes.Equal(got, content(6, size)) {
			t.Errorf("%s was overwritten", name)
		}
	}
}

func testRace(t *testing.T, place target.Target) {
	const writers = 6
	for name, size := range map[string]int{"f/small": 100, "f/large": target.PartSize + 100} {
		objects := make([]target.Object, writers)
		for i := range objects {
			objects[i] = create(t, place, name)
			defer objects[i].Abort()
			if _, err := objects[i].Write(content(uint64(100+i), size)); err != nil {
				t.Fatal(err)
			}
		}
		errs := make([]error, writers)
		var wait sync.WaitGroup
		for i := range objects {
			wait.Go(func() { errs[i] = objects[i].Commit() })
		}
		wait.Wait()
		winner := -1
		for i, err := range errs {
			switch {
			case err == nil && winner >= 0:
				t.Errorf("%s: two writers were told that theirs is there", name)
			case err == nil:
				winner = i
			case !errors.Is(err, fs.ErrExist):
				t.Errorf("%s: a loser got %v, want fs.ErrExist", name, err)
			}
		}
		if winner < 0 {
			t.Fatalf("%s: nobody won: %v", name, errs)
		}
		if got := Get(t, place, name); !bytes.Equal(got, content(uint64(100+winner), size)) {
			t.Errorf("%s: not what the winner wrote", name)
		}
	}
}

func testAfterEnd(t *testing.T, place target.Target) {
	committed, aborted := create(t, place, "f/a"), create(t, place, "f/b")
	if err := committed.Commit(); err != nil {
		t.Fatal(err)
	}
	aborted.Abort()
	for name, o := range map[string]target.Object{"committed": committed, "given up": aborted} {
		if _, err := o.Write([]byte("x")); err == nil {
			t.Errorf("%s: a write after the end succeeded", name)
		}
		if err := o.Commit(); err == nil {
			t.Errorf("%s: a commit after the end succeeded", name)
		}
		o.Abort()
	}
	if got := Get(t, place, "f/a"); len(got) != 0 {
		t.Errorf("the empty object has %d bytes", len(got))
	}
	missing(t, place, "f/b")
}

func testMissing(t *testing.T, place target.Target) {
	missing(t, place, "nowhere/a")
	Put(t, place, "f/a", nil)
	missing(t, place, "f/b")
	missing(t, place, "f/a.tmp")
	list, err := place.List(t.Context(), "nowhere")
	if err != nil || len(list) != 0 {
		t.Errorf("list of a missing folder: %v, %v; want nothing", list, err)
	}
}

func testList(t *testing.T, place target.Target) {
	for i, name := range []string{"f/b", "f/a.x", "f/A", "f-2/c", "ff/d", "e/f"} {
		Put(t, place, name, content(7, 10+i))
	}
	list, err := place.List(t.Context(), "f")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, info := range list {
		got = append(got, fmt.Sprint(info.Name, " ", info.Size))
		if info.Modified.Year() < 2020 || info.Modified.Location().String() != "UTC" {
			t.Errorf("%s was modified %v; want a time of today, in UTC", info.Name, info.Modified)
		}
	}
	if want := []string{"A 12", "a.x 11", "b 10"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func testFolders(t *testing.T, place target.Target) {
	if got, err := place.Folders(t.Context(), ""); err != nil || len(got) != 0 {
		t.Errorf("folders of an empty place: %v, %v", got, err)
	}
	for _, name := range []string{"mhsm-b-2/x", "mhsm-a-1/x", "mhsm-a-1/y", "mhsm/x", "other/x"} {
		Put(t, place, name, []byte("x"))
	}
	begun := create(t, place, "mhsm-c-3/x")
	defer begun.Abort()
	for prefix, want := range map[string][]string{
		"mhsm-":    {"mhsm-a-1", "mhsm-b-2"},
		"":         {"mhsm", "mhsm-a-1", "mhsm-b-2", "other"},
		"mhsm-a-1": {"mhsm-a-1"},
		"none":     nil,
	} {
		got, err := place.Folders(t.Context(), prefix)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("folders beginning with %q: %v, %v; want %v", prefix, got, err, want)
		}
	}
}

func testDelete(t *testing.T, place target.Target) {
	Put(t, place, "f/a", []byte("a"))
	Put(t, place, "f/b", []byte("b"))
	for range 2 { // the second time it is not there: no error
		if err := place.Delete(t.Context(), "f/a"); err != nil {
			t.Fatal(err)
		}
		missing(t, place, "f/a")
	}
	if got := Get(t, place, "f/b"); string(got) != "b" {
		t.Errorf("its neighbour is %q, want b", got)
	}
	if err := errors.Join(place.Delete(t.Context(), "f/b"), place.Delete(t.Context(), "nowhere/x")); err != nil {
		t.Fatal(err)
	}
	if got, err := place.Folders(t.Context(), ""); err != nil || len(got) != 0 {
		t.Errorf("folders after the last object was deleted: %v, %v; want none", got, err)
	}
	Put(t, place, "f/a", []byte("again"))
	if got := Get(t, place, "f/a"); string(got) != "again" {
		t.Errorf("got %q after deleting and writing again", got)
	}
}

// testSweep checks what every place does; what there is to sweep, each place's own tests know.
func testSweep(t *testing.T, place target.Target) {
	Put(t, place, "f/a", []byte("a"))
	for _, folder := range []string{"f", "nowhere"} {
		if err := place.Sweep(t.Context(), folder); err != nil {
			t.Errorf("sweeping %s: %v", folder, err)
		}
	}
	if got := Get(t, place, "f/a"); string(got) != "a" {
		t.Errorf("after sweeping, f/a is %q", got)
	}
}

func testNames(t *testing.T, place target.Target) {
	long := strings.Repeat("n", 128)
	Put(t, place, long+"/"+long, []byte("x"))
	Put(t, place, "A-1_z.b/0..9", []byte("x"))
	for _, name := range []string{
		"", "a", "/a", "a/", "/", "a/b/c", "../a", "a/..", "./a", "a/.", ".a/b", "a/.b", "a\\b/c", "a/b\x00", "a/b c", "a/b%2fc", "a/ä", "a/b\n",
		"a/b?c", "a/b#c", "a//b", long + "n/a", "a/" + long + "n", "a/b:c", "*/a",
	} {
		if o, err := place.Create(t.Context(), name); !errors.Is(err, failure.BadParameter) {
			if err == nil {
				o.Abort()
			}
			t.Errorf("create %q: %v, want a bad parameter", name, err)
		}
		if r, err := place.Open(t.Context(), name); !errors.Is(err, failure.BadParameter) {
			if err == nil {
				_ = r.Close()
			}
			t.Errorf("open %q: %v, want a bad parameter", name, err)
		}
		if err := place.Delete(t.Context(), name); !errors.Is(err, failure.BadParameter) {
			t.Errorf("delete %q: %v, want a bad parameter", name, err)
		}
	}
	for _, folder := range []string{"", ".", "..", "a/b", "a/", "/", ".a", "a*", long + "n"} {
		if _, err := place.List(t.Context(), folder); !errors.Is(err, failure.BadParameter) {
			t.Errorf("list %q: %v, want a bad parameter", folder, err)
		}
		if err := place.Sweep(t.Context(), folder); !errors.Is(err, failure.BadParameter) {
			t.Errorf("sweep %q: %v, want a bad parameter", folder, err)
		}
		if folder == "" {
			continue
		}
		if _, err := place.Folders(t.Context(), folder); !errors.Is(err, failure.BadParameter) {
			t.Errorf("folders beginning with %q: %v, want a bad parameter", folder, err)
		}
	}
}

func testContext(t *testing.T, place target.Target) {
	Put(t, place, "f/there", content(8, 3<<20))
	ended, end := context.WithCancel(t.Context())
	begun := map[string]target.Object{}
	for _, name := range []string{"f/small", "f/large", "f/untouched"} {
		o, err := place.Create(ended, name)
		if err != nil {
			t.Fatal(err)
		}
		defer o.Abort()
		begun[name] = o
	}
	if _, err := begun["f/large"].Write(content(9, target.PartSize+1)); err != nil {
		t.Fatal(err)
	}
	if _, err := begun["f/small"].Write(content(9, 1)); err != nil {
		t.Fatal(err)
	}
	r, err := place.Open(ended, "f/there")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	if _, err := io.ReadFull(r, make([]byte, 10)); err != nil {
		t.Fatal(err)
	}

	end()
	is := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v, want context.Canceled", what, err)
		}
	}
	_, err = io.Copy(io.Discard, r)
	is("read", err)
	for name, o := range begun {
		if name != "f/untouched" {
			_, err = o.Write(content(9, 2*target.PartSize))
			is("write "+name, err)
		}
		is("commit "+name, o.Commit())
		o.Abort()
		missing(t, place, name)
	}
	_, err = place.Create(ended, "f/new")
	is("create", err)
	_, err = place.Open(ended, "f/there")
	is("open", err)
	_, err = place.List(ended, "f")
	is("list", err)
	_, err = place.Folders(ended, "")
	is("folders", err)
	is("delete", place.Delete(ended, "f/there"))
	is("sweep", place.Sweep(ended, "f"))
	if got := Get(t, place, "f/there"); !bytes.Equal(got, content(8, 3<<20)) {
		t.Error("an object that was there is not what it was")
	}
}

func testParallel(t *testing.T, place target.Target) {
	const objects = 8
	var wait sync.WaitGroup
	errs := make([]error, objects)
	for i := range objects {
		wait.Go(func() {
			o, err := place.Create(t.Context(), fmt.Sprintf("f/%d", i))
			if err != nil {
				errs[i] = err
				return
			}
			defer o.Abort()
			_, err = o.Write(content(uint64(i), 300_000))
			errs[i] = errors.Join(err, o.Commit())
		})
	}
	wait.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	for i := range objects {
		if got := Get(t, place, fmt.Sprintf("f/%d", i)); !bytes.Equal(got, content(uint64(i), 300_000)) {
			t.Errorf("object %d is not what was written", i)
		}
	}
}

// testMemory counts everything that is allocated on the way, garbage too: what is held cannot be more.
func testMemory(t *testing.T, place target.Target) {
	const size, bound = 5 * target.PartSize, 16 << 20
	chunk := content(10, 1<<20)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	o := create(t, place, "f/large")
	defer o.Abort()
	for range size / len(chunk) {
		if _, err := o.Write(chunk); err != nil {
			t.Fatal(err)
		}
	}
	if err := o.Commit(); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if used := after.TotalAlloc - before.TotalAlloc; used > bound {
		t.Errorf("writing %d MiB allocated %d MiB in all; want at most %d", size>>20, used>>20, bound>>20)
	}
	before = after
	r, err := place.Open(t.Context(), "f/large")
	if err != nil {
		t.Fatal(err)
	}
	n, err := io.Copy(io.Discard, r)
	if err := errors.Join(err, r.Close()); err != nil || n != size {
		t.Fatalf("read %d of %d bytes: %v", n, size, err)
	}
	runtime.ReadMemStats(&after)
	if used := after.TotalAlloc - before.TotalAlloc; used > 4<<20 {
		t.Errorf("reading %d MiB allocated %d MiB in all; want at most 4", size>>20, used>>20)
	}
}
