package audit

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"strongroom/internal/durable"
	"strongroom/internal/failure"
	"strongroom/test/powercut"
)

// The writer is a process that records numbered calls and prints what the log answered. The tests kill it, or let
// system calls of it fail, and then look whether every record it was promised is there.
const (
	writerDir     = "AUDIT_TEST_WRITER"  // the folder; set: this process is the writer
	writerCalls   = "AUDIT_TEST_CALLS"   // how many records
	writerCallers = "AUDIT_TEST_CALLERS" // from how many goroutines
	writerKillAt  = "AUDIT_TEST_KILLAT"  // the durable step at which to die; 0: none
	writerFrom    = "AUDIT_TEST_FROM"    // number of the first call
	writerSmall   = "AUDIT_TEST_SMALL"   // 1: small segments, and checkpoints every few records
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(writerDir); dir != "" {
		os.Exit(writer(dir))
	}
	os.Exit(m.Run())
}

func envInt(name string) int { n, _ := strconv.Atoi(os.Getenv(name)); return n }

// writer prints "ok CALL NUMBER", "full CALL" or "failed CALL" for each call, and at the end "end".
func writer(dir string) int {
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
	o := testOptions()
	if envInt(writerSmall) > 0 {
		o.SegmentBytes, o.CheckpointRecords = 8<<10, 4
	}
	l, err := Open(dir, o)
	if err != nil {
		say("open: " + err.Error())
		return 1
	}
	from, calls, callers := envInt(writerFrom), envInt(writerCalls), envInt(writerCallers)
	var callersDone sync.WaitGroup
	for c := range callers {
		callersDone.Go(func() {
			for i := from + c; i < from+calls; i += callers {
				n, err := l.Append(context.Background(), call(i))
				switch {
				case err == nil:
					say(fmt.Sprint("ok ", i, " ", n))
				case failure.KindOf(err) != failure.Unavailable || err.(*failure.Error).Code != CodeUnavailable:
					say("unexpected " + err.Error())
				case errors.Is(err, ErrFull):
					say(fmt.Sprint("full ", i))
				case errors.Is(err, ErrFailed):
					say(fmt.Sprint("failed ", i))
					select {
					case <-l.Failed():
					default:
						say("unexpected: Failed is open")
					}
				default:
					say("unexpected " + err.Error())
				}
			}
		})
	}
	callersDone.Wait()
	if err := l.Close(); err != nil {
		say("close: " + err.Error())
	}
	say("end")
	return 0
}

type run struct {
	calls, callers, from, killAt int
	small                        bool
	wrap                         []string // a command in front
	killAfter                    int      // kill after that many lines of output
	onLine                       func(n int)
}

// said is what a writer printed.
type said struct {
	ok           map[int]int64 // call → number
	full, failed []int
	end          bool
	killedAt     string
	open, closed string // errors
}

func (r run) start(t *testing.T, dir string) said {
	t.Helper()
	args := append(append([]string{}, r.wrap...), os.Args[0])
	cmd := exec.Command(args[0], args[1:]...)
	small := 0
	if r.small {
		small = 1
	}
	cmd.Env = append(os.Environ(), writerDir+"="+dir, fmt.Sprint(writerCalls, "=", r.calls), fmt.Sprint(writerCallers, "=", max(r.callers, 1)),
		fmt.Sprint(writerKillAt, "=", r.killAt), fmt.Sprint(writerFrom, "=", r.from), fmt.Sprint(writerSmall, "=", small))
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("start the writer (some of these tests need strace): %v", err)
	}
	s := said{ok: map[int]int64{}}
	lines := bufio.NewScanner(stdout)
	for n := 1; lines.Scan(); n++ {
		word, rest, _ := strings.Cut(lines.Text(), " ")
		var i int
		var number int64
		switch word {
		case "ok":
			_, err = fmt.Sscan(rest, &i, &number)
			s.ok[i] = number
		case "full":
			_, err = fmt.Sscan(rest, &i)
			s.full = append(s.full, i)
		case "failed":
			_, err = fmt.Sscan(rest, &i)
			s.failed = append(s.failed, i)
		case "killed":
			s.killedAt = strings.TrimPrefix(rest, "at ")
		case "open:":
			s.open = rest
		case "close:":
			s.closed = rest
		case "end":
			s.end = true
		default:
			t.Errorf("the writer said %q", lines.Text())
		}
		if err != nil {
			t.Fatalf("the writer said %q", lines.Text())
		}
		if n == r.killAfter {
			_ = cmd.Process.Kill()
		}
		if r.onLine != nil {
			r.onLine(n)
		}
	}
	_ = cmd.Wait()
	return s
}

// check opens the log as a restarted server would, adds a record, closes it, and looks for all that was promised.
func check(t *testing.T, dir string, all ...said) *Result {
	t.Helper()
	l := mustOpen(t, dir, testOptions())
	mustAppend(t, l, call(999999))
	mustClose(t, l)
	return checkFiles(t, dir, all...)
}

func checkFiles(t *testing.T, dir string, all ...said) *Result {
	t.Helper()
	r := mustVerify(t, dir, serverKey.Public(), domainKey.Public())
	if !r.OK() || r.Signed != r.Records {
		t.Errorf("after the restart: %+v", r)
	}
	there := map[int64]string{}
	if _, err := Show(t.Context(), dir, Filter{}, func(r Record) error { there[r.Number] = r.Request; return nil }); err != nil {
		t.Fatal(err)
	}
	refused := map[string]bool{}
	for _, s := range all {
		for _, i := range s.full {
			refused[call(i).Request] = true
		}
		for i, n := range s.ok {
			if there[n] != call(i).Request {
				t.Errorf("call %d was told that it is record %d, and that is of %q", i, n, there[n])
			}
		}
	}
	for n, request := range there {
		if refused[request] {
			t.Errorf("record %d is of a call that was refused for want of space", n)
		}
	}
	return r
}

// Covers R2, L4: killed again and again under load, the log goes on each time, and nothing that was promised is lost.
func TestKillUnderLoad(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "audit")
	var all []said
	promised := 0
	for i := range 25 {
		s := run{calls: 1 << 20, callers: 16, from: i << 20, killAfter: 5 + 17*i, small: i%2 == 0}.start(t, dir)
		if s.open != "" || s.end {
			t.Fatalf("round %d: %+v", i, s)
		}
		promised += len(s.ok)
		all = append(all, s)
	}
	if promised < 1000 {
		t.Fatalf("only %d records were promised: the test bit on nothing", promised)
	}
	r := check(t, dir, all...)
	t.Logf("%d records promised, %d in the log, %d recoveries, %d segments", promised, r.Records, r.Recovered, r.Segments)
}

// Covers R2, L4: killed at each durable step, also of the creation and of a new segment.
func TestKillAtEachStep(t *testing.T) {
	seen := map[string]bool{}
	for k := 1; ; k++ {
		dir := filepath.Join(t.TempDir(), "audit")
		s := run{calls: 14, small: true, killAt: k}.start(t, dir)
		if s.end {
			break
		}
		step, _, _ := strings.Cut(s.killedAt, " ")
		seen[step] = true
		r := check(t, dir, s)
		if s.killedAt == "audit:after-sync" && r.Records < int64(len(s.ok))+1 {
			t.Errorf("killed after a sync: %d records for %d promises", r.Records, len(s.ok))
		}
	}
	for _, p := range []string{"mkdir:after", "write:created", "write:after-rename", "audit:before-write", "audit:before-sync", "audit:after-sync", "audit:after-checkpoint"} {
		if !seen[p] {
			t.Errorf("never killed at %q; reached %v", p, seen)
		}
	}
}

// unsealed returns a folder with a log that was not closed: 5 records and a checkpoint, then 4 records without one; and
// where the first line after the checkpoint begins.
func unsealed(t *testing.T) (dir string, from int) {
	t.Helper()
	o := testOptions()
	o.CheckpointRecords = 5
	work := filepath.Join(t.TempDir(), "audit")
	l := mustOpen(t, work, o)
	for range 9 {
		mustAppend(t, l, Record{Plane: PlaneServer, Operation: "Start", Outcome: Allowed}) // short: each byte is tried
	}
	dir = copyLog(t, work)
	b := readFile(t, lastSegment(t, dir))
	i := bytes.Index(b, checkpointStart)
	return dir, i + bytes.IndexByte(b[i:], '\n') + 1
}

// Covers L4: cut at every byte after the last checkpoint, the log goes on after the last whole record and says how many
// bytes were cut. Cut before it, or with a byte changed before it, it is no crash, and the log is left as it is.
func TestTornAtEveryByte(t *testing.T) {
	whole, from := unsealed(t)
	original := readFile(t, lastSegment(t, whole))
	o := testOptions()
	for end := from; end <= len(original); end++ {
		dir := t.TempDir()
		file := filepath.Join(dir, fmt.Sprintf(segmentName, 0))
		writeFile(t, file, original[:end])
		l := mustOpen(t, dir, o)
		mustAppend(t, l, call(100))
		mustClose(t, l)
		kept := 5 + int64(bytes.Count(original[from:end], []byte("\n")))
		torn := int64(end - from - (bytes.LastIndexByte(original[from:end], '\n') + 1))
		want := kept + 1
		if torn > 0 {
			want++
		}
		r := sound(t, dir, want, serverKey.Public())
		if (torn > 0) != (r.Recovered == 1) {
			t.Fatalf("cut at %d of %d: %d recoveries, and %d bytes were torn", end, len(original), r.Recovered, torn)
		}
		if _, err := Show(t.Context(), dir, Filter{}, func(r Record) error {
			if r.Kind == KindRecovered && (r.Cut != torn || r.Number != kept) {
				t.Errorf("cut at %d: record %d says that %d bytes were cut off, want record %d and %d", end, r.Number, r.Cut, kept, torn)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	for i := 0; i < from-1; i += 7 {
		dir := t.TempDir()
		file := filepath.Join(dir, fmt.Sprintf(segmentName, 0))
		damaged := bytes.Clone(original)
		damaged[i] ^= 1
		writeFile(t, file, damaged)
		l, err := Open(dir, o)
		if err == nil { // server's name, time and what the keys sign with are not looked at
			if end := bytes.IndexByte(original, '\n'); i > end && i < bytes.Index(original, checkpointStart) {
				t.Errorf("byte %d was changed, and the log was opened", i)
			}
			_ = l.Close()
			continue
		}
		if !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrFormat) && !errors.Is(err, ErrForeign) {
			t.Errorf("byte %d changed: %v, want ErrDamaged", i, err)
		}
		if !bytes.Equal(readFile(t, file), damaged) {
			t.Fatalf("byte %d changed: the log was refused, and changed", i)
		}
	}
}

// What was torn is longer than the record that says so: nothing of it is left behind, also when nothing more is written.
func TestLongTornEnd(t *testing.T) {
	dir, _ := unsealed(t)
	file := lastSegment(t, dir)
	whole := readFile(t, file)
	torn := bytes.Repeat([]byte("x"), 100_000)
	writeFile(t, file, append(bytes.Clone(whole), torn...))
	l := mustOpen(t, dir, testOptions())
	if now := readFile(t, file); !bytes.HasPrefix(now, whole) || bytes.Contains(now, []byte("xx")) || now[len(now)-1] != '\n' {
		t.Errorf("%d bytes after opening, and the whole lines were %d", len(now), len(whole))
	}
	mustClose(t, l)
	if r := sound(t, dir, 10, serverKey.Public()); r.Torn != 0 || r.Recovered != 1 {
		t.Errorf("result %+v", r)
	}
}

// What a crash cannot have left is no reason to cut: more than one batch, or a checkpoint behind it.
func TestNotACrash(t *testing.T) {
	whole, from := unsealed(t)
	original := readFile(t, lastSegment(t, whole))
	checkpoint := original[bytes.Index(original, checkpointStart):from]
	for name, b := range map[string][]byte{
		"more than a batch":                   append(bytes.Clone(original), bytes.Repeat([]byte("x"), maxBatchBytes+MaxLine+1)...),
		"a checkpoint behind damage":          append(append(bytes.Clone(original), "damage\n"...), checkpoint...),
		"a checkpoint of other records":       append(bytes.Clone(original), checkpoint...),
		"too many records without checkpoint": nil,
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			file := filepath.Join(dir, fmt.Sprintf(segmentName, 0))
			if b == nil {
				all := bigLog(t, MaxUnsigned+200, 64, nil)
				dir = forge(t, all, func(r []Record) []Record { return r }, func(int64) bool { return false })
				file = lastSegment(t, dir)
				b = readFile(t, file)
			}
			writeFile(t, file, b)
			l, err := Open(dir, testOptions())
			if err == nil {
				_ = l.Close()
				t.Fatal("it was opened")
			}
			if !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "strongroom audit verify") {
				t.Errorf("got %v, want ErrDamaged and what to do", err)
			}
			if !bytes.Equal(readFile(t, file), b) {
				t.Error("the log was refused, and changed")
			}
		})
	}
}

// inject runs the writer with system calls failing and returns what it said and the log of its calls.
func inject(t *testing.T, dir, fault string, r run) (said, string) {
	t.Helper()
	log := filepath.Join(t.TempDir(), "strace")
	r.wrap = []string{"strace", "-f", "-qq", "-y", "-o", log, "-e", "trace=pwrite64,fsync,fdatasync,ftruncate,write"}
	if fault != "" {
		r.wrap = append(r.wrap, "-P", filepath.Join(dir, fmt.Sprintf(segmentName, 0)), "-e", "inject="+fault)
	}
	s := r.start(t, dir)
	return s, string(readFile(t, log))
}

// begun returns a folder with a log of one record, so that the next sync after that of Open is that of a record.
func begun(t *testing.T) string {
	t.Helper()
	return makeLog(t, 1, nil)
}

// Covers R1, L1: whichever sync fails, all who wait are refused, and all who come; nothing is synced or written again;
// and a restart finds everything that was promised.
func TestSyncErrors(t *testing.T) {
	// Enough for five syncs on one thread, which is how strace counts, while three callers share each.
	const calls = 120
	for _, errno := range []string{"EIO", "ENOSPC"} {
		for k := 1; k <= 5; k++ {
			t.Run(fmt.Sprint(errno, " at ", k), func(t *testing.T) {
				dir := begun(t)
				s, log := inject(t, dir, fmt.Sprintf("fsync:error=%s:when=%d", errno, k), run{calls: calls, callers: 3, from: 1})
				before, after, injected := strings.Cut(log, "(INJECTED)")
				if !injected {
					t.Fatal("nothing was injected")
				}
				if strings.Contains(after, "sync(") || strings.Contains(after, "pwrite64(") || strings.Contains(after, "ftruncate(") {
					t.Errorf("the file was written, cut or synced again after a failed sync:\n%s", after)
				}
				if strings.Count(before, "fsync(") == 1 { // that of Open: what an earlier process left
					if s.open == "" {
						t.Errorf("said %+v; want Open to fail", s)
					}
				} else if len(s.failed) == 0 || len(s.full) > 0 || !s.end || s.closed == "" || len(s.ok)+len(s.failed) != calls {
					t.Errorf("said %+v; want some failed, none full, and an end that says so", s)
				}
				check(t, dir, s)
			})
		}
	}
}

// Covers R3, L1: no space for a record refuses it, leaves nothing of it behind, and the log goes on.
func TestNoSpaceOnWrite(t *testing.T) {
	for _, errno := range []string{"ENOSPC", "EDQUOT", "EFBIG"} {
		for k := 2; k <= 4; k++ {
			t.Run(fmt.Sprint(errno, " at ", k), func(t *testing.T) {
				dir := begun(t)
				s, log := inject(t, dir, fmt.Sprintf("pwrite64:error=%s:when=%d", errno, k), run{calls: 12, from: 1})
				if !strings.Contains(log, "(INJECTED)") || len(s.full) == 0 || len(s.failed) > 0 || len(s.ok)+len(s.full) != 12 || slices.Max(append(slices.Collect(maps.Keys(s.ok)), 0)) < s.full[0] || !s.end || s.closed != "" && !strings.Contains(s.closed, "no space left") {
					t.Errorf("said %+v; want some full, none failed, and the log to go on", s)
				}
				// strace counts calls per thread, so the last checkpoint may find no space too; the next server signs.
				if r := check(t, dir, s); r.Recovered != 0 || r.Records != int64(len(s.ok))+2 {
					t.Errorf("%d records, %d recoveries; want %d and none", r.Records, r.Recovered, len(s.ok)+2)
				}
			})
		}
	}
}

// Any other error of a write says nothing about what comes next: the log stops.
func TestOtherWriteErrors(t *testing.T) {
	for _, fault := range []string{"pwrite64:error=EIO:when=2", "pwrite64:error=EROFS:when=2", "pwrite64:error=EIO:when=4"} {
		t.Run(fault, func(t *testing.T) {
			dir := begun(t)
			s, _ := inject(t, dir, fault, run{calls: 12, from: 1})
			if len(s.failed) == 0 || len(s.full) > 0 || !s.end || s.closed == "" {
				t.Errorf("said %+v; want failed calls and none full", s)
			}
			check(t, dir, s)
		})
	}
	t.Run("the cut after a full disk fails too", func(t *testing.T) {
		dir := begun(t)
		log := filepath.Join(t.TempDir(), "strace")
		s := run{calls: 6, from: 1, wrap: []string{"strace", "-f", "-qq", "-o", log, "-P", filepath.Join(dir, fmt.Sprintf(segmentName, 0)),
			"-e", "trace=pwrite64,ftruncate", "-e", "inject=pwrite64:error=ENOSPC:when=2", "-e", "inject=ftruncate:error=EIO"}}.start(t, dir)
		if len(s.failed) == 0 || len(s.full) > 0 {
			t.Errorf("said %+v; want failed calls and none full", s)
		}
		check(t, dir, s)
	})
}

// Covers L1: on a disk on which each sync takes its time, nobody gets an answer before the sync of the record is over.
func TestSlowDisk(t *testing.T) {
	dir := begun(t)
	file := filepath.Join(t.TempDir(), "strace")
	s := run{calls: 12, callers: 4, from: 1, wrap: []string{"strace", "-f", "-qq", "-s", "65536", "-o", file, "-e", "trace=pwrite64,fsync,write",
		"-e", "inject=fsync:delay_enter=50000"}}.start(t, dir)
	if len(s.ok) != 12 || !s.end {
		t.Fatalf("said %+v", s)
	}
	// In the order of the kernel: a record is written, a sync begins after that and ends, the answer is printed.
	written, syncing, synced := map[string]bool{}, map[string]bool{}, map[string]bool{}
	answer, request := regexp.MustCompile(`write\(1, "ok (\d+) `), regexp.MustCompile(`\\"request\\":\\"(?:[0-9a-f]+-){4}0*(\d+)\\"`)
	answers := 0
	for line := range strings.Lines(string(readFile(t, file))) {
		switch {
		case strings.Contains(line, "pwrite64("):
			for _, m := range request.FindAllStringSubmatch(line, -1) {
				written[m[1]] = true
			}
		case strings.Contains(line, "fsync("):
			for n := range written {
				syncing[n] = true
			}
			if strings.Contains(line, "unfinished") {
				continue
			}
			fallthrough
		case strings.Contains(line, "fsync resumed"):
			for n := range syncing {
				synced[n] = true
			}
		case answer.MatchString(line):
			answers++
			if n := answer.FindStringSubmatch(line)[1]; !synced[n] {
				t.Errorf("call %s was answered before its record was synced", n)
			}
		}
	}
	if answers != 12 {
		t.Errorf("%d answers in the log of system calls, want 12", answers)
	}
}

// What an earlier process wrote and nobody knows to be on disk is written and synced once more before anything is added:
// a sync that failed there may have left pages that look written and are not.
func TestDoubtfulEndIsWrittenAgain(t *testing.T) {
	dir, from := unsealed(t)
	file := lastSegment(t, dir)
	original := readFile(t, file)
	begin := bytes.Index(original, checkpointStart)
	log := filepath.Join(t.TempDir(), "strace")
	s := run{wrap: []string{"strace", "-f", "-qq", "-o", log, "-P", file, "-e", "trace=pwrite64,fsync,ftruncate"}}.start(t, dir)
	if !s.end || from <= begin {
		t.Fatalf("said %+v", s)
	}
	calls := string(readFile(t, log))
	want := fmt.Sprintf(`, %d, %d`, len(original)-begin, begin) // all of it, from the last checkpoint on
	_, first, _ := strings.Cut(calls, "pwrite64(")              // the log has signals in it too
	first, rest, _ := strings.Cut(first, "\n")
	if !strings.Contains(first, want+")") || !strings.Contains(rest, "fsync(") {
		t.Errorf("the first calls are not a write of %q and a sync:\n%s", want, calls)
	}
	check(t, dir)
}

// Covers R3, L1: a full volume refuses records, takes them again by itself when there is space, and can be opened while
// it is full.
func TestFullVolume(t *testing.T) {
	dir := t.TempDir()
	mount(t, dir, "size=1m")
	folder := filepath.Join(dir, "audit")
	o, said := testOptions(), &slowLog{}
	o.Logger = slog.New(said)
	l := mustOpen(t, folder, o)
	ballast := filepath.Join(dir, "ballast")
	mustDo(t, os.WriteFile(ballast, bytes.Repeat([]byte("b"), 600<<10), 0o600))
	n := 0
	var err error
	for ; err == nil && n < 5000; n++ {
		_, err = l.Append(t.Context(), call(n))
	}
	n--
	if !errors.Is(err, ErrFull) || failure.KindOf(err) != failure.Unavailable || n < 100 {
		t.Fatalf("after %d records: %v, want ErrFull", n, err)
	}
	if said.records.Load() == 0 {
		t.Error("the caller had its answer before the log said that it cannot be written")
	}
	full := func(l *Log) {
		t.Helper()
		for range 20 {
			if _, err := l.Append(t.Context(), call(7777)); !errors.Is(err, ErrFull) {
				t.Fatalf("still full: %v, want ErrFull", err)
			}
		}
		if s := l.Stats(); s.Writable || s.Refused < 20 {
			t.Errorf("stats %+v; want it not to be writable", s)
		}
	}
	full(l)
	if err := l.Close(); !errors.Is(err, ErrFull) {
		t.Errorf("closed with no room for the last checkpoint: %v", err)
	}
	// A server that starts on a full disk has its log, and refuses.
	file := lastSegment(t, folder)
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_APPEND, 0)
	mustDo(t, err)
	_, err = f.WriteString(`{"n":`) // torn, into what is left of the last page
	mustDo(t, errors.Join(err, f.Close()))
	l = mustOpen(t, folder, testOptions())
	full(l)
	mustDo(t, os.Remove(ballast))
	mustAppend(t, l, call(n))
	if s := l.Stats(); !s.Writable {
		t.Errorf("stats %+v; want it to be writable", s)
	}
	mustClose(t, l)
	if r := sound(t, folder, int64(n+2), serverKey.Public()); r.Recovered != 1 || r.Signed != r.Records {
		t.Errorf("result %+v; want one recovery", r)
	}
	if s, err := Show(t.Context(), folder, Filter{Request: call(7777).Request}, func(Record) error { return nil }); err != nil || s.Matched != 0 {
		t.Errorf("%d records of refused calls (%v)", s.Matched, err)
	}
}

// A slowLog takes its time, so that whoever does not wait for it comes too early.
type slowLog struct{ records atomic.Int64 }

func (*slowLog) Enabled(context.Context, slog.Level) bool { return true }
func (h *slowLog) WithAttrs([]slog.Attr) slog.Handler     { return h }
func (h *slowLog) WithGroup(string) slog.Handler          { return h }

func (h *slowLog) Handle(context.Context, slog.Record) error {
	time.Sleep(20 * time.Millisecond)
	h.records.Add(1)
	return nil
}

func mount(t *testing.T, dir, options string) {
	t.Helper()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
		t.Fatalf("mount a small volume (this test needs root): %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, unix.MNT_DETACH) })
}

// Room is reserved behind the last segment while the log is open, and given back when it ends; the file is as long as what
// is in it all the while, and a log with room behind it, as a crash leaves it, goes on.
func TestRoomIsReserved(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "audit")
	held := func() (length, room int64) {
		var s unix.Stat_t
		mustDo(t, unix.Stat(lastSegment(t, folder), &s))
		return s.Size, s.Blocks * 512
	}
	o := testOptions()
	o.SegmentBytes = 16 << 10
	l := mustOpen(t, folder, o)
	appendMany(t, l, 0, 3)
	first := lastSegment(t, folder)
	probe, err := os.Create(filepath.Join(t.TempDir(), "probe"))
	mustDo(t, err)
	defer probe.Close()
	reserves := unix.Fallocate(int(probe.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0, 4096) == nil // not every file system does
	if length, room := held(); reserves && room < reserveBytes || length > 4<<10 {
		t.Fatalf("the segment is %d bytes long and has room for %d", length, room)
	}
	crashed := filepath.Join(t.TempDir(), "crashed")
	if out, err := exec.Command("cp", "-a", folder, crashed).CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	file, err := os.OpenFile(lastSegment(t, crashed), os.O_WRONLY, 0)
	mustDo(t, err)
	reserve(file, 0, reserveBytes)
	mustDo(t, file.Close())
	for n := 3; lastSegment(t, folder) == first; n++ {
		mustAppend(t, l, call(n))
	}
	var s unix.Stat_t
	if mustDo(t, unix.Stat(first, &s)); s.Blocks*512 > s.Size+64<<10 {
		t.Errorf("a segment of %d bytes that is ended holds %d", s.Size, s.Blocks*512)
	}
	mustClose(t, l)
	if length, room := held(); room > length+64<<10 {
		t.Errorf("the last segment of a closed log has %d bytes and holds %d", length, room)
	}
	sound(t, folder, l.Stats().Records, serverKey.Public())
	l = mustOpen(t, crashed, o)
	appendMany(t, l, 3, 3)
	mustClose(t, l)
	sound(t, crashed, l.Stats().Records, serverKey.Public())
}

// A folder that cannot be written to is refused at once, with the reason; so is a folder in it that there should be.
func TestReadOnlyFolder(t *testing.T) {
	dir := t.TempDir()
	mount(t, dir, "size=1m")
	folder := filepath.Join(dir, "audit")
	l := mustOpen(t, folder, testOptions())
	appendMany(t, l, 0, 3)
	mustClose(t, l)
	if err := syscall.Mount("", dir, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{folder, filepath.Join(dir, "new")} {
		if _, err := Open(d, testOptions()); !errors.Is(err, syscall.EROFS) {
			t.Errorf("%s: %v, want EROFS", d, err)
		}
	}
	sound(t, folder, 3, serverKey.Public()) // who only reads, may
}

// Covers R2: what was promised survives a power cut at any moment; and with a sync that lies it does not, so the power
// cut is one.
func TestPowerCut(t *testing.T) {
	lost := 0
	for round := range 4 {
		lying := round == 3
		volume := powercut.New(t, 32<<20)
		dir := filepath.Join(volume.Path, "audit")
		l := mustOpen(t, dir, testOptions())
		appendMany(t, l, 0, 1)
		mustClose(t, l)
		r := run{calls: 1 << 20, callers: 8, from: 1, small: true, killAfter: 100 + 60*round}
		if lying {
			r.wrap = []string{"strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=fsync", "-e", "inject=fsync:retval=0"}
		}
		r.onLine = func(n int) {
			if n != r.killAfter-1 {
				return
			}
			volume.Cut(t)
		}
		s := r.start(t, dir)
		volume.Mount(t)
		if !lying {
			check(t, dir, s)
			continue
		}
		there := map[string]bool{}
		_, err := Show(t.Context(), dir, Filter{}, func(r Record) error { there[r.Request] = true; return nil })
		mustDo(t, err)
		for i := range s.ok {
			if !there[call(i).Request] {
				lost++
			}
		}
	}
	if lost == 0 {
		t.Error("the syncs lied, the power was cut, and nothing was lost: the power cut is not one")
	}
}
