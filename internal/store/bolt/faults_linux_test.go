package bolt_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"strongroom/internal/durable"
	"strongroom/internal/store"
	"strongroom/internal/store/bolt"
)

// The writer is a process that puts numbered records and prints what the store answered. The tests kill it, or
// let system calls of it fail, and then look whether everything it was promised is there.
const (
	writerDir     = "BOLT_TEST_WRITER"  // the data folder; set: this process is the writer
	writerPuts    = "BOLT_TEST_PUTS"    // how many records
	writerCallers = "BOLT_TEST_CALLERS" // from how many goroutines
	writerKillAt  = "BOLT_TEST_KILLAT"  // the durable step at which to die; 0: none
	writerFile    = "BOLT_TEST_FSIZE"   // limit on the size of a file; 0: none
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(writerDir); dir != "" {
		os.Exit(writer(dir))
	}
	os.Exit(m.Run())
}

func envInt(name string) int { n, _ := strconv.Atoi(os.Getenv(name)); return n }

// writer prints "ok N", "full N" or "failed N" for each record, "seen N" where a view shows a record whose put
// was refused, and at the end "end".
func writer(dir string) int {
	if n := envInt(writerFile); n > 0 {
		limit := syscall.Rlimit{Cur: uint64(n), Max: uint64(n)}
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
			fmt.Println("setrlimit:", err)
			return 1
		}
	}
	var mu sync.Mutex
	say := func(line string) { // one write, so that a kill cuts no line
		mu.Lock()
		defer mu.Unlock()
		_, _ = os.Stdout.WriteString(line + "\n")
	}
	killAt, steps := envInt(writerKillAt), 0
	durable.Hook = func(point string) {
		if steps++; steps == killAt {
			say("killed at " + point)
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}
	s, err := bolt.Open(dir, bolt.Options{})
	if err != nil {
		say("open: " + err.Error())
		return 1
	}
	// Readers look all the time for a record that may not be on disk.
	stop := make(chan struct{})
	var readers sync.WaitGroup
	visible := map[string]bool{}
	for range 2 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				_ = s.View(context.Background(), func(r store.Reader) error {
					for k := range r.Scan("", "") {
						mu.Lock()
						visible[k] = true
						mu.Unlock()
					}
					return nil
				})
			}
		})
	}
	puts, callers := envInt(writerPuts), envInt(writerCallers)
	var writers sync.WaitGroup
	var refused []string
	for c := range callers {
		writers.Go(func() {
			for i := c; i < puts; i += callers {
				key := fmt.Sprintf("k/%04d", i)
				err := put(s, key, strings.Repeat("v", 2000))
				word := "ok"
				switch {
				case errors.Is(err, store.ErrFull):
					word = "full"
				case errors.Is(err, store.ErrFailed):
					word = "failed"
					select {
					case <-s.Failed():
					default:
						word = "failed, but Failed is open"
					}
				case err != nil:
					word = "unexpected " + err.Error()
				}
				if err != nil {
					mu.Lock()
					refused = append(refused, key)
					mu.Unlock()
				}
				say(word + " " + key)
			}
		})
	}
	writers.Wait()
	close(stop)
	readers.Wait()
	for _, key := range refused {
		if visible[key] {
			say("seen " + key)
		}
	}
	if err := s.Close(); err != nil {
		say("close: " + err.Error())
	}
	say("end")
	return 0
}

type run struct {
	callers, puts, killAt, fsize int
	wrap                         []string // a command in front
	killAfter                    int      // kill after that many lines of output
}

// start runs the writer to its end and returns what it printed, by word.
func (r run) start(t *testing.T, dir string) map[string][]string {
	t.Helper()
	args := append(append([]string{}, r.wrap...), os.Args[0])
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), writerDir+"="+dir, fmt.Sprint(writerPuts, "=", r.puts), fmt.Sprint(writerCallers, "=", max(r.callers, 1)),
		fmt.Sprint(writerKillAt, "=", r.killAt), fmt.Sprint(writerFile, "=", r.fsize))
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("start the writer (some of these tests need strace): %v", err)
	}
	said := map[string][]string{}
	lines := bufio.NewScanner(stdout)
	for n := 1; lines.Scan(); n++ {
		i := strings.LastIndexByte(lines.Text(), ' ')
		word, key := lines.Text(), ""
		if i > 0 {
			word, key = lines.Text()[:i], lines.Text()[i+1:]
		}
		said[word] = append(said[word], key)
		if n == r.killAfter {
			_ = cmd.Process.Kill()
		}
	}
	_ = cmd.Wait()
	for word := range said {
		switch word {
		case "ok", "full", "failed", "end", "killed at", "killed at rename:before", "killed at rename:after":
		default:
			t.Errorf("the writer said %q %v", word, said[word])
		}
	}
	return said
}

// verify opens the database as a restarted server would and returns its keys.
func verify(t *testing.T, dir string, said map[string][]string) map[string]bool {
	t.Helper()
	s := mustOpen(t, dir)
	got := map[string]bool{}
	err := s.View(t.Context(), func(r store.Reader) error {
		for k, v := range r.Scan("k/", "") {
			got[k] = true
			if string(v) != strings.Repeat("v", 2000) {
				t.Errorf("%s has another value", k)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range said["ok"] {
		if !got[k] {
			t.Errorf("%s was acknowledged and is lost", k)
		}
	}
	for _, k := range said["full"] {
		if got[k] {
			t.Errorf("%s was answered with ErrFull and is there", k)
		}
	}
	if err := put(s, "after", "restart"); err != nil {
		t.Errorf("a put after the restart: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	return got
}

// newStore returns a folder with an empty database, so that a writer's first sync is that of its first commit.
func newStore(t *testing.T) string {
	dir := t.TempDir()
	if err := mustOpen(t, dir).Close(); err != nil {
		t.Fatal(err)
	}
	return dir
}

// Covers R2: killed at each durable step, also of the creation.
func TestKillAtEachStep(t *testing.T) {
	points := map[string]bool{}
	for k := 1; ; k++ {
		dir := t.TempDir()
		said := run{puts: 6, killAt: k}.start(t, dir)
		if said["end"] != nil {
			break
		}
		for word, names := range said {
			if strings.HasPrefix(word, "killed") {
				points[word+" "+names[0]] = true
			}
		}
		got := verify(t, dir, said)
		if after := said["killed at"]; len(after) == 1 && after[0] == "bolt:after-commit" && len(got) != len(said["ok"])+1 {
			t.Errorf("killed after a commit: %d records, %d acknowledged; want one more", len(got), len(said["ok"]))
		}
	}
	for _, p := range []string{"rename:before strongroom.db", "rename:after strongroom.db", "bolt:before-grow", "bolt:before-commit", "bolt:after-commit"} {
		if !points["killed at "+p] {
			t.Errorf("never killed at %q; reached %v", p, points)
		}
	}
}

// Covers R2: killed at any moment under load.
func TestKillUnderLoad(t *testing.T) {
	acknowledged := 0
	for i := range 15 {
		dir := t.TempDir()
		said := run{puts: 100000, callers: 16, killAfter: 20 + 13*i}.start(t, dir)
		verify(t, dir, said)
		acknowledged += len(said["ok"])
	}
	if acknowledged < 100 {
		t.Fatalf("only %d records were acknowledged: the test bit on nothing", acknowledged)
	}
}

// inject runs the writer with system calls failing and returns what it said and the log of its calls.
func inject(t *testing.T, dir, fault string, r run) (map[string][]string, string) {
	t.Helper()
	log := filepath.Join(t.TempDir(), "strace")
	r.wrap = []string{"strace", "-f", "-qq", "-o", log, "-P", filepath.Join(dir, bolt.FileName),
		"-e", "trace=pwrite64,fdatasync,fsync,ftruncate", "-e", "inject=" + fault}
	said := r.start(t, dir)
	b, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	return said, string(b)
}

// metaWrite is the write of a meta page: page 0 or 1.
var metaWrite = regexp.MustCompile(`, 4096, (0|4096)[ )]`)

// Covers R1: whichever sync fails, the store stops for good, syncs nothing more, shows nobody what may not be on
// disk, and a restart finds everything acknowledged.
func TestSyncErrors(t *testing.T) {
	var data, meta, grow int
	for _, fault := range []string{"fdatasync:error=EIO", "fdatasync:error=ENOSPC", "fsync:error=EIO", "fsync:error=ENOSPC"} {
		for k := 1; k <= 4; k++ {
			if strings.HasPrefix(fault, "fsync") && k > 1 {
				break // the first growth is enough for all
			}
			t.Run(fmt.Sprint(fault, " at ", k), func(t *testing.T) {
				dir := newStore(t)
				// The delay gives readers time to see a commit that is written and not synced.
				said, log := inject(t, dir, fmt.Sprintf("%s:delay_enter=20000:when=%d", fault, k), run{puts: 30, callers: 3})
				if len(said["failed"]) == 0 || len(said["full"]) > 0 || said["end"] == nil {
					t.Fatalf("said %v; want failed puts, none full, and an orderly end", said)
				}
				before, after, _ := strings.Cut(log, "(INJECTED)")
				if before == log {
					t.Fatal("nothing was injected")
				}
				if strings.Contains(after, "sync(") || strings.Contains(after, "pwrite64(") {
					t.Errorf("the file was written or synced again after a failed sync:\n%s", after)
				}
				switch last := before[strings.LastIndex(before, "pwrite64(")+1:]; {
				case strings.HasPrefix(fault, "fsync"):
					grow++
				case metaWrite.MatchString(last):
					meta++
				default:
					data++
				}
				verify(t, dir, said)
			})
		}
	}
	if data == 0 || meta == 0 || grow == 0 {
		t.Fatalf("failed %d syncs of pages, %d of the meta page, %d of a growth; want some of each", data, meta, grow)
	}
}

// Covers R3: no space for a page is no failure: nothing of the update is written, the store goes on.
func TestNoSpaceOnWrite(t *testing.T) {
	for _, errno := range []string{"ENOSPC", "EDQUOT", "EFBIG"} {
		for _, fault := range []string{"pwrite64:error=%s:when=1", "pwrite64:error=%s:when=2", "pwrite64:error=%s:when=3", "pwrite64:error=%s:when=9", "ftruncate:error=%s:when=1"} {
			fault := fmt.Sprintf(fault, errno)
			t.Run(fault, func(t *testing.T) {
				dir := newStore(t)
				said, log := inject(t, dir, fault, run{puts: 12})
				if !strings.Contains(log, "(INJECTED)") || len(said["full"]) == 0 || len(said["failed"]) > 0 {
					t.Fatalf("said %v; want full puts and none failed", said)
				}
				// One caller, so the keys are in order of time. strace counts calls per thread, so there may be several.
				if len(said["ok"])+len(said["full"]) != 12 || slices.Max(append(said["ok"], "")) < slices.Min(said["full"]) {
					t.Errorf("said %v; want the store to go on", said)
				}
				verify(t, dir, said)
			})
		}
	}
}

// Any other error of a write says nothing about what comes next: the store stops.
func TestOtherWriteErrors(t *testing.T) {
	for _, fault := range []string{"pwrite64:error=EIO:when=4", "ftruncate:error=EIO:when=1", "pwrite64:error=EROFS:when=1"} {
		t.Run(fault, func(t *testing.T) {
			dir := newStore(t)
			said, _ := inject(t, dir, fault, run{puts: 12})
			if len(said["failed"]) == 0 || len(said["full"]) > 0 {
				t.Fatalf("said %v; want failed puts and none full", said)
			}
			verify(t, dir, said)
		})
	}
}

// Covers R3 with the limit of a process (EFBIG by the kernel, and the signal that comes with it).
func TestFileSizeLimit(t *testing.T) {
	dir := newStore(t)
	said := run{puts: 1200, callers: 4, fsize: 2 << 20}.start(t, dir)
	if len(said["full"]) == 0 || len(said["ok"]) == 0 || len(said["failed"]) > 0 {
		t.Fatalf("ok %d, full %d, failed %d; want some, some, none", len(said["ok"]), len(said["full"]), len(said["failed"]))
	}
	verify(t, dir, said)
}

// Covers R3: a full volume refuses writes, keeps reads, and recovers by itself when there is space again.
func TestFullVolume(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatalf("mount a small volume (this test needs root): %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	s := mustOpen(t, dir)
	if err := os.WriteFile(filepath.Join(dir, "ballast"), bytes.Repeat([]byte("b"), 400<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	value := strings.Repeat("v", 2000)
	n := 0
	var err error
	for ; err == nil && n < 2000; n++ {
		err = put(s, fmt.Sprintf("k/%04d", n), value)
	}
	if !errors.Is(err, store.ErrFull) || !strings.Contains(err.Error(), "free some space") {
		t.Fatalf("after %d records: got %v, want ErrFull saying what to do", n, err)
	}
	n--
	for range 5 {
		if err := put(s, "more", value+value+value+value); !errors.Is(err, store.ErrFull) {
			t.Fatalf("still full: got %v, want ErrFull", err)
		}
	}
	check := func() {
		t.Helper()
		count := 0
		err := s.View(t.Context(), func(r store.Reader) error {
			for range r.Scan("k/", "") {
				count++
			}
			return nil
		})
		if err != nil || count != n {
			t.Fatalf("%d records (%v), want %d", count, err, n)
		}
	}
	check()
	if err := os.Remove(filepath.Join(dir, "ballast")); err != nil {
		t.Fatal(err)
	}
	if err := put(s, "after", value); err != nil {
		t.Fatalf("with space again: %v", err)
	}
	check()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = mustOpen(t, dir)
	check()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// A new store on a full volume: an error that names the disk, and nothing left behind.
func TestCreateOnFullVolume(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=16k"); err != nil {
		t.Fatalf("mount a small volume (this test needs root): %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	if err := os.WriteFile(filepath.Join(dir, "ballast"), make([]byte, 8<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := bolt.Open(dir, bolt.Options{})
	if !errors.Is(err, store.ErrFull) {
		t.Fatalf("got %v, want ErrFull", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Fatalf("left behind: %v (%v)", entries, err)
	}
}
