package durable

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
)

const (
	childEnv  = "DURABLE_TEST_CHILD"  // the path to write; set: this process is a child of a test
	killAtEnv = "DURABLE_TEST_KILLAT" // the durable step at which the child kills itself
)

// TestMain lets the test binary play the program that dies: it overwrites one file and reports.
func TestMain(m *testing.M) {
	path := os.Getenv(childEnv)
	if path == "" {
		os.Exit(m.Run())
	}
	runtime.LockOSThread() // strace counts system calls per thread
	killAt, _ := strconv.Atoi(os.Getenv(killAtEnv))
	step := 0
	Hook = func(point string) {
		if step++; step == killAt {
			fmt.Println("killed at", point)
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}
	if err := WriteFile(path, []byte("new"), 0o600, true); err != nil {
		fmt.Println("error:", err)
		if errors.Is(err, ErrUnsynced) {
			os.Exit(4)
		}
		os.Exit(3)
	}
	fmt.Println("written")
	os.Exit(0)
}

func child(t *testing.T, path string, killAt int, wrap ...string) (out string, code int) {
	t.Helper()
	args := append(wrap, os.Args[0])
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), childEnv+"="+path, killAtEnv+"="+strconv.Itoa(killAt))
	b, err := cmd.CombinedOutput()
	if _, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
		t.Fatalf("run child (this test needs strace): %v", err)
	}
	return string(b), cmd.ProcessState.ExitCode()
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

func content(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestWriteFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "seal.json")
	old := syscall.Umask(0o022)
	defer syscall.Umask(old)

	if err := WriteFile(path, []byte("one"), 0o600, false); err != nil {
		t.Fatal(err)
	}
	if err := WriteFile(path, []byte("two"), 0o600, false); !errors.Is(err, fs.ErrExist) {
		t.Fatalf("second write without overwrite: got %v, want fs.ErrExist", err)
	}
	if got := content(t, path); got != "one" {
		t.Fatalf("a refused write changed the file to %q", got)
	}
	if err := WriteFile(path, []byte("three"), 0o644, true); err != nil {
		t.Fatal(err)
	}
	if got := content(t, path); got != "three" {
		t.Fatalf("got %q, want three", got)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o644 {
		t.Fatalf("mode is %v, want 0644", info.Mode())
	}
	if got := names(t, dir); len(got) != 1 {
		t.Fatalf("left behind: %v", got)
	}
}

// Covers S14: not even a moment with more rights than the owner's, and never through somebody's link.
func TestWriteFileRights(t *testing.T) {
	dir := t.TempDir()
	old := syscall.Umask(0)
	defer syscall.Umask(old)
	seen := 0
	Hook = func(point string) {
		for _, name := range names(t, dir) {
			info, err := os.Lstat(filepath.Join(dir, name))
			if err != nil {
				t.Error(err)
				return
			}
			if seen++; info.Mode().Perm() != 0o600 {
				t.Errorf("at %q the file %s has mode %v", point, name, info.Mode())
			}
		}
	}
	defer func() { Hook = nil }()
	if err := WriteFile(filepath.Join(dir, "a.key"), []byte("k"), 0o600, false); err != nil {
		t.Fatal(err)
	}
	if seen < 4 {
		t.Fatalf("the hook saw %d files, want at least one per step", seen)
	}

	Hook = nil
	target := filepath.Join(dir, "elsewhere")
	link := filepath.Join(dir, "link.key")
	if err := os.Symlink(target, link); err != nil {
		t.Fatal(err)
	}
	if err := WriteFile(link, []byte("k"), 0o600, false); !errors.Is(err, fs.ErrExist) {
		t.Fatalf("over a dangling link: got %v, want fs.ErrExist", err)
	}
	if _, err := os.Lstat(target); !errors.Is(err, fs.ErrNotExist) {
		t.Fatal("the write went through the link")
	}
}

func TestWriteFileErrorsLeaveNothing(t *testing.T) {
	dir := t.TempDir()
	blocked := filepath.Join(dir, "folder")
	if err := os.MkdirAll(filepath.Join(blocked, "full"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name      string
		path      string
		overwrite bool
	}{
		{"the target is a folder", blocked, true},
		{"the target is a folder, no overwrite", blocked, false},
		{"the folder is missing", filepath.Join(dir, "none", "x"), true},
		{"no name", dir + "/", true},
		{"name too long for the temporary file", filepath.Join(dir, strings.Repeat("n", 250)), false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if err := WriteFile(tc.path, []byte("x"), 0o600, tc.overwrite); err == nil {
				t.Fatal("no error")
			}
			if got := names(t, dir); len(got) != 1 || got[0] != "folder" {
				t.Fatalf("left behind: %v", got)
			}
		})
	}
}

func TestWriteFileNoOverwriteHasOneWinner(t *testing.T) {
	for name, rename := range map[string]func(string, string) error{"rename": renameNew, "link": linkNew} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			target := filepath.Join(dir, "target")
			var wins, refusals int
			var mu sync.Mutex
			var wg sync.WaitGroup
			for i := range 32 {
				wg.Go(func() {
					tmp := filepath.Join(dir, fmt.Sprint("tmp", i))
					if err := os.WriteFile(tmp, []byte("x"), 0o600); err != nil {
						t.Error(err)
					}
					err := rename(tmp, target)
					mu.Lock()
					defer mu.Unlock()
					switch {
					case err == nil:
						wins++
					case errors.Is(err, fs.ErrExist):
						refusals++
					default:
						t.Error(err)
					}
				})
			}
			wg.Wait()
			if wins != 1 || refusals != 31 {
				t.Fatalf("%d winners and %d refusals, want 1 and 31", wins, refusals)
			}
		})
	}
}

// Covers R2, S14: killed at each step the file is the old one or the new one, and from the rename on the new.
func TestKillAtEachStep(t *testing.T) {
	seen := map[string]bool{}
	for k := 1; ; k++ {
		dir := t.TempDir()
		path := filepath.Join(dir, "f")
		if err := os.WriteFile(path, []byte("old"), 0o600); err != nil {
			t.Fatal(err)
		}
		out, code := child(t, path, k)
		got := content(t, path)
		if code == 0 {
			if got != "new" {
				t.Fatalf("finished, but the file is %q", got)
			}
			break
		}
		point := strings.TrimSpace(strings.TrimPrefix(out, "killed at "))
		seen[point] = true
		want := "old"
		if strings.HasPrefix(point, "write:after") {
			want = "new"
		}
		if got != want {
			t.Fatalf("killed at %q: file is %q, want %q", point, got, want)
		}
		for _, name := range names(t, dir) {
			info, err := os.Lstat(filepath.Join(dir, name))
			if err != nil || info.Mode().Perm() != 0o600 {
				t.Fatalf("killed at %q: left %s with %v %v", point, name, info.Mode(), err)
			}
		}
	}
	for _, p := range []string{"write:created f", "write:before-sync f", "write:before-rename f", "write:after-rename f", "write:after-sync f"} {
		if !seen[p] {
			t.Errorf("step %q was never reached; reached %v", p, seen)
		}
	}
}

// Covers R2: the order on the wire to the kernel is file, rename, folder.
func TestSyncOrder(t *testing.T) {
	dir := t.TempDir()
	log := filepath.Join(t.TempDir(), "log")
	out, code := child(t, filepath.Join(dir, "f"), 0, "strace", "-f", "-qq", "-y", "-o", log, "-e", "trace=write,fsync,rename,renameat,renameat2")
	if code != 0 {
		t.Fatalf("exit %d: %s", code, out)
	}
	q := regexp.QuoteMeta(dir)
	order := regexp.MustCompile(`(?s)write\(\d+<` + q + `/\.f\.\d+\.tmp>, "new".*fsync\(\d+<` + q + `/\.f\.\d+\.tmp>\).*rename\w*\(.*fsync\(\d+<` + q + `>\)`)
	calls := content(t, log)
	if !order.MatchString(calls) {
		t.Fatalf("not write, fsync of the file, rename, fsync of the folder:\n%s", calls)
	}
}

// Covers R1: a failed sync is an error, is not tried again, and leaves the old file.
func TestSyncErrors(t *testing.T) {
	for _, tc := range []struct {
		name, inject, want string
		code               int
	}{
		{"the file's sync fails", "fsync:error=EIO:when=1", "old", 3},
		{"the folder's sync fails", "fsync:error=EIO:when=2", "new", 4},
		{"the disk is full", "write:error=ENOSPC:when=1", "old", 3},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "f")
			if err := os.WriteFile(path, []byte("old"), 0o600); err != nil {
				t.Fatal(err)
			}
			log := filepath.Join(t.TempDir(), "log")
			call, _, _ := strings.Cut(tc.inject, ":")
			out, code := child(t, path, 0, "strace", "-f", "-qq", "-o", log, "-e", "trace="+call, "-e", "inject="+tc.inject)
			if code != tc.code {
				t.Fatalf("exit %d, want %d: %s", code, tc.code, out)
			}
			if got := content(t, path); got != tc.want {
				t.Fatalf("file is %q, want %q", got, tc.want)
			}
			if got := names(t, dir); len(got) != 1 {
				t.Fatalf("left behind: %v", got)
			}
			if b := []byte(content(t, log)); call == "fsync" && tc.code == 3 && bytes.Count(b, []byte("fsync(")) != 1 {
				t.Fatalf("a failed sync was followed by another:\n%s", b)
			}
		})
	}
}

func TestMkdirAll(t *testing.T) {
	dir := t.TempDir()
	deep := filepath.Join(dir, "a", "b", "c")
	var made []string
	Hook = func(p string) { made = append(made, p) }
	defer func() { Hook = nil }()
	if err := MkdirAll(deep, 0o700); err != nil {
		t.Fatal(err)
	}
	if len(made) != 3 {
		t.Fatalf("steps %v, want three folders", made)
	}
	if err := MkdirAll(deep, 0o700); err != nil || len(made) != 3 {
		t.Fatalf("again: %v, steps %v", err, made)
	}
	info, err := os.Stat(deep)
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Fatalf("got %v %v", info.Mode(), err)
	}
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{"file", "file/x"} {
		if err := MkdirAll(filepath.Join(dir, p), 0o700); err == nil {
			t.Fatalf("%s: no error with a file in the way", p)
		}
	}
}

func TestRemove(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	if err := WriteFile(path, nil, 0o600, false); err != nil {
		t.Fatal(err)
	}
	if err := Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := Remove(path); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("got %v, want fs.ErrNotExist", err)
	}
}

func TestRenameNew(t *testing.T) {
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	for _, p := range []string{a, b} {
		if err := os.WriteFile(p, []byte(p), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := RenameNew(a, b); !errors.Is(err, fs.ErrExist) {
		t.Fatalf("over an existing file: got %v, want fs.ErrExist", err)
	}
	if err := os.Remove(b); err != nil {
		t.Fatal(err)
	}
	if err := RenameNew(a, b); err != nil {
		t.Fatal(err)
	}
	if got := content(t, b); got != a {
		t.Fatalf("got %q", got)
	}
}

func TestSyncDirError(t *testing.T) {
	if err := SyncDir(filepath.Join(t.TempDir(), "none")); !errors.Is(err, ErrUnsynced) {
		t.Fatalf("got %v, want ErrUnsynced", err)
	}
}
