package crash_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"strongroom/internal/audit"
	"strongroom/test/harness"
	"strongroom/test/powercut"
)

// backedUp prepares, once, a data folder in which alpha has keys and a full backup of them, and then one key more; tests
// work on copies.
type backedUp struct {
	data, folder string
	then, now    []string // names of keys in the backup, and after it
	seen         string   // the newest restore that was looked at
}

func prepareBackup(t *testing.T, keys int) backedUp {
	t.Helper()
	b := backedUp{data: filepath.Join(t.TempDir(), "data")}
	s := harness.Start(t, b.data, harness.Options{Binary: server})
	alpha := s.URL(t, "alpha")
	if err := download(s, alpha, custodians(t), filepath.Join(t.TempDir(), "SD.json")); err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	for worker := range 4 {
		group.Go(func() {
			for i := worker; i < keys; i += 4 {
				if out, err := s.Try("key", "create", fmt.Sprintf("k-%04d", i), "--kty", "EC", "--url", alpha); err != nil {
					t.Errorf("key create: %v %s", err, out)
				}
			}
		})
	}
	group.Wait()
	s.Run(t, "key", "create", "gone", "--kty", "EC", "--url", alpha)
	s.Run(t, "key", "delete", "gone", "--confirm", "gone", "--url", alpha)
	var made struct {
		Backup string `json:"backup"`
	}
	out := s.Run(t, "backup", "start", "--url", alpha, "--to", filepath.Join(b.data, "backups"), "--output", "json")
	if err := json.Unmarshal([]byte(out), &made); err != nil || made.Backup == "" {
		t.Fatalf("backup start printed %q", out)
	}
	b.folder, b.then = filepath.Base(made.Backup), names(t, s)
	s.Run(t, "key", "create", "later", "--kty", "EC", "--url", alpha)
	b.now = names(t, s)
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	return b
}

func (b backedUp) copyTo(t *testing.T, dir string) { recovering{data: b.data}.copyTo(t, dir) }

// names are those of alpha's keys, deleted ones too.
func names(t *testing.T, s *harness.Server) (list []string) {
	t.Helper()
	for _, kind := range []string{"list", "list-deleted"} {
		var found []struct {
			Name string `json:"name"`
		}
		args := []string{"key", "list", "--url", s.URL(t, "alpha"), "--output", "json"}
		if kind == "list-deleted" {
			args = append(args, "--deleted")
		}
		out := s.Run(t, args...)
		if err := json.Unmarshal([]byte(out), &found); err != nil {
			t.Fatalf("%s printed %q", strings.Join(args, " "), out)
		}
		for _, k := range found {
			list = append(list, kind+" "+k.Name)
		}
	}
	slices.Sort(list)
	return list
}

func (b backedUp) restore(s *harness.Server) error {
	out, err := s.Try("restore", "start", "--url", s.Env["STRONGROOM_HSM_ALPHA_URL"], "--from", filepath.Join(s.Dir, "backups", b.folder))
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// outcome holds what a server has after a death in a restore against what its jobs say: the state of the backup, or the
// one before it, and the newest restore says which. It reports whether it was restored.
func (b *backedUp) outcome(t *testing.T, s *harness.Server, acknowledged bool) bool {
	t.Helper()
	alpha := s.URL(t, "alpha")
	var jobs []struct{ Job, Kind, Status, Code string }
	out := s.Run(t, "backup", "list", "--url", alpha, "--output", "json")
	if err := json.Unmarshal([]byte(out), &jobs); err != nil || len(jobs) == 0 {
		t.Fatalf("backup list printed %q", out)
	}
	said := "none"
	if jobs[0].Kind == "restore" && jobs[0].Job != b.seen {
		said, b.seen = jobs[0].Status+jobs[0].Code, jobs[0].Job
	}
	got := names(t, s)
	restored := false
	switch {
	case said == "Succeeded" && slices.Equal(got, b.then):
		restored = true
	case acknowledged:
		t.Fatalf("the restore was answered, its job says %s, and there are %d keys; want %d", said, len(got), len(b.then))
	case (said == "none" || said == "FailedInterrupted") && slices.Equal(got, b.now):
	default:
		t.Fatalf("the job says %s, and there are %d keys: neither the %d of before nor the %d of the backup", said, len(got), len(b.now), len(b.then))
	}
	// Whatever it is, it is used, and changed.
	s.Run(t, "key", "sign", strings.TrimPrefix(b.then[rand.IntN(len(b.then)-1)], "list "), "--alg", "ES256", "--digest", strings.Repeat("00", 32), "--out", filepath.Join(t.TempDir(), "signature"), "--url", alpha)
	return restored
}

// Covers B2, R1, P12: struck down at each durable step of a restore, by kill -9 or a power cut, the HSM has the old state or the new
// one, its job says which, and the audit log says it before it is so.
func TestRestoreAtEachStep(t *testing.T) {
	b := prepareBackup(t, 6)
	for _, d := range disks {
		t.Run(d.name, func(t *testing.T) {
			act := func(s *harness.Server, _ string) error { return b.restore(s) }
			check := func(t *testing.T, s *harness.Server, _ string, acknowledged bool) {
				restored := b.outcome(t, s, acknowledged)
				intended := map[string]bool{}
				_, err := audit.Show(t.Context(), filepath.Join(s.Dir, "audit"), audit.Filter{}, func(r audit.Record) error {
					if r.Phase == audit.PhaseIntent {
						intended[r.Operation] = true
					}
					return nil
				})
				if err != nil {
					t.Fatal(err)
				}
				for _, operation := range []string{"FullRestoreEnded", "FullRestoreRoles", "FullRestoreDeletedKeys"} {
					if restored && !intended[operation] {
						t.Errorf("it was restored, and the log has no intent of %s", operation)
					}
				}
				if err := b.restore(s); err != nil { // again, from either
					t.Fatal(err)
				}
				if got := names(t, s); !slices.Equal(got, b.then) {
					t.Fatalf("restored again it has %v, want %v", got, b.then)
				}
			}
			eachStep(t, d, b.copyTo, act, check)
		})
	}
}

// The same at random moments of a restore of some hundred keys, again and again on one database.
func TestRandomDeathsInARestore(t *testing.T) {
	b := prepareBackup(t, 300)
	for _, death := range []struct {
		disk
		rounds int
	}{{disks[0], 20}, {disks[1], 8}} {
		t.Run(death.name, func(t *testing.T) {
			dir, env, repair := death.fresh(t)
			b.copyTo(t, dir)
			s, err := harness.TryStart(dir, harness.Options{Binary: server})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { s.Kill() }) // whichever it is
			if err := b.restore(s); err != nil {
				t.Fatal(err)
			}
			b.outcome(t, s, true)
			usual := logged(t, s, "job done").Sub(logged(t, s, "job begun")) // where the moments are drawn from; nothing is held against it
			s.Run(t, "restore", "undo", "--url", s.URL(t, "alpha"))
			count := map[string]int{}
			for round := range rounds(death.rounds) {
				done := make(chan error, 1)
				go func() { done <- b.restore(s) }()
				waitFor(t, func() bool { return strings.Contains(s.Log.String(), `"job begun"`) }, "the restore to begin")
				time.Sleep(time.Duration(rand.Int64N(int64(usual)))) // the moment of death is the point, not a synchronisation
				acknowledged := false
				select {
				case err := <-done:
					if acknowledged = err == nil; err != nil {
						t.Fatalf("round %d: %v", round, err)
					}
					done <- err
				default:
				}
				for _, e := range env {
					if mount, is := strings.CutPrefix(e, "VICTIM_MOUNT="); is {
						cutOff(t, mount)
					}
				}
				s.Kill()
				<-done
				repair()
				if s, err = harness.TryStart(dir, harness.Options{Binary: server}); err != nil {
					t.Fatalf("round %d: %v", round, err)
				}
				if b.outcome(t, s, acknowledged) {
					count["new"]++
					s.Run(t, "restore", "undo", "--url", s.URL(t, "alpha"))
				} else {
					count["old"]++
				}
			}
			if t.Logf("a restore takes %s: %v", usual, count); rounds(death.rounds) >= 20 && (count["old"] == 0 || count["new"] == 0) {
				t.Errorf("every death came on the same side of the switch: %v", count)
			}
			if err := s.Stop(); err != nil {
				t.Error(err)
			}
			recorded(t, dir, nil)
		})
	}
}

// Covers R3: a disk that is full, of the backup or of the database, ends the job in words, leaves the HSM as it was and what there is of a
// backup unfinished, and when there is room it works.
func TestFullDiskInABackup(t *testing.T) {
	b := prepareBackup(t, 40)
	mount := filepath.Join(t.TempDir(), "mnt")
	if err := os.Mkdir(mount, 0o755); err != nil {
		t.Fatal(err)
	}
	run(t, "mount", "-t", "tmpfs", "-o", "size=8M", "tmpfs", mount)
	t.Cleanup(func() { _ = exec.Command("umount", "-l", mount).Run() })
	dir := filepath.Join(mount, "data")
	run(t, "cp", "-a", b.data, dir)
	s := harness.Start(t, dir, harness.Options{Binary: server, Args: []string{"--audit-folder", filepath.Join(t.TempDir(), "audit"), "--new-audit-log"}})
	alpha, filler := s.URL(t, "alpha"), filepath.Join(mount, "filler")
	fill(t, filler)
	// The database may have room inside its file for the records of jobs, and for a restore: use it up.
	var err error
	for i := 0; err == nil && i < 2000; i++ {
		_, err = s.Try("key", "create", fmt.Sprintf("filler-%d", i), "--kty", "EC", "--url", alpha)
	}
	if err == nil {
		t.Fatal("the disk does not become full")
	}
	before := names(t, s)
	if out, err := s.Try("backup", "start", "--url", alpha, "--to", filepath.Join(dir, "backups")); err == nil || !strings.Contains(out, "full") && !strings.Contains(out, "no space") {
		t.Errorf("a backup on a full disk: %v %s", err, out)
	}
	if err := b.restore(s); err == nil || !strings.Contains(err.Error(), "full") {
		t.Errorf("a restore on a full disk: %v", err)
	}
	if got := names(t, s); !slices.Equal(got, before) {
		t.Errorf("it has %d keys, and had %d", len(got), len(before))
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	s.Run(t, "backup", "start", "--url", alpha, "--to", filepath.Join(dir, "backups"))
	if err := b.restore(s); err != nil {
		t.Fatalf("there is space again, and a restore fails: %v", err)
	}
	if got := names(t, s); !slices.Equal(got, b.then) {
		t.Errorf("restored: %v, want %v", got, b.then)
	}
}

// logged is when the server said something last.
func logged(t *testing.T, s *harness.Server, message string) (at time.Time) {
	t.Helper()
	for line := range strings.Lines(s.Log.String()) {
		var entry struct {
			Time time.Time
			Msg  string
		}
		if json.Unmarshal([]byte(line), &entry) == nil && entry.Msg == message {
			at = entry.Time
		}
	}
	if at.IsZero() {
		t.Fatalf("the server never said %q\n%s", message, s.Log)
	}
	return at
}

// cutOff is a power cut.
func cutOff(t *testing.T, mount string) {
	t.Helper()
	if err := powercut.Shutdown(mount); err != nil {
		t.Fatal(err)
	}
}
