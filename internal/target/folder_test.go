package target_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"strongroom/internal/durable"
	"strongroom/internal/target"
	"strongroom/internal/target/targettest"
)

func openFolder(t *testing.T, base, below string) target.Target {
	t.Helper()
	return openURI(t, places(t, target.Config{Folders: []string{base}}), "file://"+base+below)
}

// A writer that dies at any durable step leaves the object whole or not at all, and nothing in the way of the next one.
func TestFolderWriterDies(t *testing.T) {
	data := bytes.Repeat([]byte("backup"), 100_000)
	var steps []string
	durable.Hook = func(point string) { steps = append(steps, point) }
	defer func() { durable.Hook = nil }()
	targettest.Put(t, openFolder(t, t.TempDir(), ""), "f/a", data)
	if len(steps) < 4 {
		t.Fatalf("only the steps %v were seen", steps)
	}
	for i, step := range steps {
		dir := t.TempDir()
		place := openFolder(t, dir, "")
		seen, dead := 0, make(chan bool)
		durable.Hook = func(string) {
			if seen++; seen == i+1 {
				runtime.Goexit() // nothing after this step happens, no clean-up either
			}
		}
		go func() {
			defer close(dead)
			o, err := place.Create(t.Context(), "f/a")
			if err == nil {
				_, err = o.Write(data)
				err = errors.Join(err, o.Commit())
			}
			t.Errorf("at %q the writer lived: %v", step, err)
		}()
		<-dead
		durable.Hook = nil
		named := strings.Contains(step, "after")
		list, err := place.List(t.Context(), "f")
		if err != nil || (len(list) == 1) != named {
			t.Errorf("at %q: %v, %v", step, list, err)
		}
		if named {
			if got := targettest.Get(t, place, "f/a"); !bytes.Equal(got, data) {
				t.Errorf("at %q: %d bytes, want %d", step, len(got), len(data))
			}
		} else {
			if folders, err := place.Folders(t.Context(), ""); err != nil || len(folders) != 0 {
				t.Errorf("at %q: folders %v, %v; want none", step, folders, err)
			}
			targettest.Put(t, place, "f/a", data)
		}
		// With the last object goes what the dead writer left.
		if err := place.Delete(t.Context(), "f/a"); err != nil {
			t.Fatal(err)
		}
		if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
			t.Errorf("at %q: %v is left, %v", step, entries, err)
		}
	}
}

// What a writer left that died before its first object is swept: its file, and the folder if nothing else is in it.
func TestSweepFolder(t *testing.T) {
	dir := t.TempDir()
	place := openFolder(t, dir, "")
	half := func(folder string) {
		durable.Hook = func(point string) {
			if strings.HasPrefix(point, "target:before-rename") {
				runtime.Goexit()
			}
		}
		defer func() { durable.Hook = nil }()
		dead := make(chan bool)
		go func() {
			defer close(dead)
			if o, err := place.Create(t.Context(), folder+"/part"); err == nil {
				_ = o.Commit()
			}
		}()
		<-dead
		if halves, err := filepath.Glob(filepath.Join(dir, folder, ".*.tmp")); err != nil || len(halves) != 1 {
			t.Fatalf("%q are left in %s, %v", halves, folder, err)
		}
	}
	for _, folder := range []string{"alone", "whole", "noted"} {
		half(folder)
	}
	targettest.Put(t, place, "whole/a", []byte("a"))
	for _, name := range []string{".hidden", ".b.tmp.old"} { // somebody's
		if err := os.WriteFile(filepath.Join(dir, "noted", name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, folder := range []string{"alone", "whole", "noted"} {
		if err := place.Sweep(t.Context(), folder); err != nil {
			t.Errorf("sweeping %s: %v", folder, err)
		}
	}
	var left []string
	for _, pattern := range []string{"*", "*/*", "*/.*"} {
		found, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range found {
			left = append(left, strings.TrimPrefix(path, dir+"/"))
		}
	}
	slices.Sort(left)
	left = slices.Compact(left)
	if want := []string{"noted", "noted/.b.tmp.old", "noted/.hidden", "whole", "whole/a"}; !slices.Equal(left, want) {
		t.Errorf("left: %q, want %q", left, want)
	}
}

// Covers R2: a folder that a dead writer made and did not sync is synced by the next one, and not again for each object.
func TestFolderOfADeadWriter(t *testing.T) {
	defer func() { durable.Hook = nil }()
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "east", "night", "f"), 0o700); err != nil { // as he left it
		t.Fatal(err)
	}
	var synced []string
	durable.Hook = func(point string) {
		if path, is := strings.CutPrefix(point, "target:before-folder-sync "); is {
			synced = append(synced, path)
		}
	}
	place := openFolder(t, dir, "/east/night")
	for _, object := range []string{"f/a", "f/b", "g/a"} {
		targettest.Put(t, place, object, []byte("x"))
	}
	if want := []string{"east", "east/night", "east/night/f", "east/night/g"}; !slices.Equal(synced, want) {
		t.Errorf("synced: %q, want %q", synced, want)
	}
}

// What lies in the folder besides is left alone and left out; a file that is none is not waited for.
func TestFolderWithOtherThings(t *testing.T) {
	dir := t.TempDir()
	place := openFolder(t, dir, "")
	targettest.Put(t, place, "f/a", []byte("x"))
	err := errors.Join(
		os.WriteFile(filepath.Join(dir, "file"), nil, 0o600),
		os.Mkdir(filepath.Join(dir, "lost+found"), 0o700),
		os.Mkdir(filepath.Join(dir, "empty"), 0o700),
		os.Mkdir(filepath.Join(dir, "f", "sub"), 0o700),
		os.WriteFile(filepath.Join(dir, "f", "with space"), nil, 0o600),
		os.WriteFile(filepath.Join(dir, "f", ".hidden"), nil, 0o600),
		syscall.Mkfifo(filepath.Join(dir, "f", "pipe"), 0o600),
	)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := place.Folders(t.Context(), ""); err != nil || !slices.Equal(got, []string{"f"}) {
		t.Errorf("folders: %v, %v; want f", got, err)
	}
	list, err := place.List(t.Context(), "f")
	if err != nil || len(list) != 1 || list[0].Name != "a" {
		t.Errorf("list: %v, %v; want a", list, err)
	}
	for _, name := range []string{"f/pipe", "f/sub"} {
		if r, err := place.Open(t.Context(), name); err == nil {
			_ = r.Close()
			t.Errorf("%s was opened", name)
		}
	}
	if err := place.Delete(t.Context(), "f/a"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "f", ".hidden")); err != nil {
		t.Errorf("what was not ours is gone: %v", err)
	}
}

// Folders and files are for the server alone, whatever its umask.
func TestFolderRights(t *testing.T) {
	dir := t.TempDir()
	old := syscall.Umask(0)
	defer syscall.Umask(old)
	targettest.Put(t, openFolder(t, dir, "/below/it"), "f/a", []byte("x"))
	for path, want := range map[string]fs.FileMode{"below": 0o700, "below/it": 0o700, "below/it/f": 0o700, "below/it/f/a": 0o600} {
		if info, err := os.Stat(filepath.Join(dir, path)); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v; want %v", path, info.Mode(), err, want)
		}
	}
}

// The configured folder itself is not made: where a disk is not mounted, a backup must not go to the disk below.
func TestFolderIsNotMounted(t *testing.T) {
	base := filepath.Join(t.TempDir(), "mnt")
	for below, place := range map[string]target.Target{"": openFolder(t, base, ""), "/below": openFolder(t, base, "/below")} {
		if _, err := place.Create(t.Context(), "f/a"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("create in %q: %v, want fs.ErrNotExist", below, err)
		}
		if _, err := place.Folders(t.Context(), ""); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("folders in %q: %v, want fs.ErrNotExist", below, err)
		}
		if _, err := place.List(t.Context(), "f"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("list in %q: %v, want fs.ErrNotExist", below, err)
		}
		if err := place.Delete(t.Context(), "f/a"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("delete in %q: %v, want fs.ErrNotExist", below, err)
		}
	}
	if _, err := os.Stat(base); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the folder was made: %v", err)
	}
}

// A full disk is told as what it is, and leaves nothing.
func TestFolderDiskFull(t *testing.T) {
	dir := t.TempDir()
	place := openFolder(t, dir, "")
	o, err := place.Create(t.Context(), "f/a")
	if err != nil {
		t.Fatal(err)
	}
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		t.Fatal(err)
	}
	small := limit
	small.Cur = 1 << 20
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &small); err != nil {
		t.Fatal(err)
	}
	_, err = o.Write(make([]byte, 2<<20))
	if restore := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); restore != nil {
		t.Fatal(restore)
	}
	if !errors.Is(err, syscall.EFBIG) {
		t.Errorf("write: %v, want EFBIG, which a bound on files gives as a full disk gives ENOSPC", err)
	}
	o.Abort()
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Errorf("%v is left, %v", entries, err)
	}
}
