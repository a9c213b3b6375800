package crash_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
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
	options      func(t *testing.T, dir string) harness.Options // of a server on dir
	cuts         []string                                       // where lists of the keys are cut into some at once
	then, now    []string                                       // names of keys in the backup, and after it
	seen         string                                         // the newest restore that was looked at
}

// development are the options of a server as everybody starts it first. It has room for 5000 keys.
func development(*testing.T, string) harness.Options { return harness.Options{Binary: server} }

// roomFor are the options of a production server whose HSM has room for so many keys, and some.
func roomFor(keys int) func(t *testing.T, dir string) harness.Options {
	return func(t *testing.T, dir string) harness.Options {
		t.Helper()
		config := filepath.Join(t.TempDir(), "strongroom.toml")
		text := fmt.Sprintf("hsms = [\"alpha\"]\nlock_memory = false\n[identity]\nembedded = true\n[limits]\nkeys_per_hsm = %d\nrequests_per_second = -1\n[backup]\nfolders = [%q]\n", keys+10, filepath.Join(dir, "backups"))
		if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return harness.Options{Binary: server, Config: config}
	}
}

func prepareBackup(t *testing.T, keys int, options func(t *testing.T, dir string) harness.Options) backedUp {
	t.Helper()
	b := backedUp{data: filepath.Join(t.TempDir(), "data"), options: options}
	if err := os.MkdirAll(filepath.Join(b.data, "backups"), 0o700); err != nil { // in production the operator makes it
		t.Fatal(err)
	}
	o := options(t, b.data)
	s := harness.Start(t, b.data, o)
	alpha := s.URL(t, "alpha")
	if err := download(s, alpha, custodians(t), filepath.Join(t.TempDir(), "SD.json")); err != nil {
		t.Fatal(err)
	}
	if o.Config != "" { // in development the administrator has them
		for _, role := range []string{"Crypto User", "Crypto Officer"} {
			s.Run(t, "role", "assignment", "create", "--role", role, "--principal", s.Env["STRONGROOM_OBJECT_ID"], "--scope", "/", "--url", alpha)
		}
	}
	name := func(i int) string { return fmt.Sprintf("k-%06d", i) }
	if keys >= 5000 {
		for i := 1; i < atOnce; i++ {
			b.cuts = append(b.cuts, name(i*keys/atOnce))
		}
	}
	callerOf(t, s).create(t, keys, name)
	s.Run(t, "key", "create", "gone", "--kty", "EC", "--url", alpha)
	s.Run(t, "key", "delete", "gone", "--confirm", "gone", "--url", alpha)
	var made struct {
		Backup string `json:"backup"`
	}
	out := s.Run(t, "backup", "start", "--url", alpha, "--to", filepath.Join(b.data, "backups"), "--output", "json")
	if err := json.Unmarshal([]byte(out), &made); err != nil || made.Backup == "" {
		t.Fatalf("backup start printed %q", out)
	}
	b.folder, b.then = filepath.Base(made.Backup), b.names(t, s)
	s.Run(t, "key", "create", "later", "--kty", "EC", "--url", alpha)
	b.now = b.names(t, s)
	if len(b.then) != keys+1 || len(b.now) != keys+2 {
		t.Fatalf("%d keys were made and one that was deleted; %d are listed, and with one more %d", keys, len(b.then), len(b.now))
	}
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	return b
}

func (b backedUp) copyTo(t *testing.T, dir string) { recovering{data: b.data}.copyTo(t, dir) }

// names are those of alpha's keys, deleted ones too.
func (b backedUp) names(t *testing.T, s *harness.Server) (list []string) {
	t.Helper()
	c := callerOf(t, s)
	for kind, route := range map[string]string{"list": "keys", "list-deleted": "deletedkeys"} {
		for _, name := range c.list(t, route, b.cuts) {
			list = append(list, kind+" "+name)
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
	got := b.names(t, s)
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
	b := prepareBackup(t, 6, development)
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
				if got := b.names(t, s); !slices.Equal(got, b.then) {
					t.Fatalf("restored again it has %v, want %v", got, b.then)
				}
			}
			eachStep(t, d, b.copyTo, act, check)
		})
	}
}

// soakKeys is of how many keys the restore has that is struck down at random: 300 at the gate, STRONGROOM_SOAK_KEYS at
// night (make soak).
func soakKeys() int {
	if n, err := strconv.Atoi(os.Getenv("STRONGROOM_SOAK_KEYS")); err == nil && n > 0 {
		return n
	}
	return 300
}

// The same at random moments of a restore of many keys, again and again on one database.
func TestRandomDeathsInARestore(t *testing.T) {
	keys := soakKeys()
	b := prepareBackup(t, keys, roomFor(keys))
	for _, death := range []struct {
		disk
		rounds int
	}{{disks[0], 20}, {disks[1], 8}} {
		t.Run(death.name, func(t *testing.T) {
			// A database of three generations of keys, and the pages of lists in the audit log.
			dir, env, repair := death.fresh(t, smallDisk+int64(keys)*(10<<10+int64(rounds(death.rounds))*64))
			b.copyTo(t, dir)
			options := b.options(t, dir)
			if os.Getenv("STRONGROOM_SOAK") != "" {
				t.Cleanup(func() { keep(t, dir) })
			}
			s, err := harness.TryStart(dir, options)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { s.Kill() }) // whichever it is
			if err := b.restore(s); err != nil {
				t.Fatal(err)
			}
			b.outcome(t, s, true)
			usual := logged(t, s, "job done").Sub(logged(t, s, "job begun"))
			within := usual // where the moments are drawn from; nothing is held against it
			s.Run(t, "restore", "undo", "--url", s.URL(t, "alpha"))
			count := map[string]int{}
			for round := range rounds(death.rounds) {
				done := make(chan error, 1)
				go func() { done <- b.restore(s) }()
				waitFor(t, func() bool { return strings.Contains(s.Log.String(), `"job begun"`) }, "the restore to begin")
				moment := time.Duration(rand.Int64N(int64(within)))
				time.Sleep(moment) // the moment of death is the point, not a synchronisation
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
				if s, err = harness.TryStart(dir, options); err != nil {
					t.Fatalf("round %d: %v", round, err)
				}
				restored := b.outcome(t, s, acknowledged)
				t.Logf("round %d: struck down %s after the restore had begun: restored %t, acknowledged %t", round+1, moment, restored, acknowledged)
				// A restore after a death may be slower than the first one: the server tidies up beside it. So the moments follow what is seen:
				// about one death in four comes after the switch.
				if within += within / 10; restored {
					count["new"]++
					within -= within / 3
					s.Run(t, "restore", "undo", "--url", s.URL(t, "alpha"))
				} else {
					count["old"]++
				}
			}
			if t.Logf("a restore of %d keys takes %s: %d rounds, %v", keys, usual, rounds(death.rounds), count); rounds(death.rounds) >= 20 && (count["old"] == 0 || count["new"] == 0) {
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
	b := prepareBackup(t, 40, development)
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
	before := b.names(t, s)
	if out, err := s.Try("backup", "start", "--url", alpha, "--to", filepath.Join(dir, "backups")); err == nil || !strings.Contains(out, "full") && !strings.Contains(out, "no space") {
		t.Errorf("a backup on a full disk: %v %s", err, out)
	}
	if err := b.restore(s); err == nil || !strings.Contains(err.Error(), "full") {
		t.Errorf("a restore on a full disk: %v", err)
	}
	if got := b.names(t, s); !slices.Equal(got, before) {
		t.Errorf("it has %d keys, and had %d", len(got), len(before))
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	s.Run(t, "backup", "start", "--url", alpha, "--to", filepath.Join(dir, "backups"))
	if err := b.restore(s); err != nil {
		t.Fatalf("there is space again, and a restore fails: %v", err)
	}
	if got := b.names(t, s); !slices.Equal(got, b.then) {
		t.Errorf("restored: %v, want %v", got, b.then)
	}
}

// keep keeps the data folder of a test that failed: what a night has found may not come again.
func keep(t *testing.T, dir string) {
	t.Helper()
	if !t.Failed() {
		return
	}
	place, err := os.MkdirTemp("", "strongroom-soak-")
	if err != nil {
		t.Error(err)
		return
	}
	run(t, "cp", "-a", dir, place)
	t.Logf("the data folder is kept in %s", place)
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
