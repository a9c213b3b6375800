package crash_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"strongroom/internal/audit"
	"strongroom/internal/seal"
	"strongroom/internal/store"
	"strongroom/internal/store/bolt"
	"strongroom/secret"
	"strongroom/test/harness"
)

// scheduled is a production server with one HSM, that its configuration backs up every five minutes into a folder, two of them kept.
// The shortest interval is too long to wait for: between two processes the records of backups are made older instead, as time
// would have made them.
type scheduled struct {
	t                       *testing.T
	data, place, config, sd string
	metrics                 string
	server                  *harness.Server
}

func startScheduled(t *testing.T) *scheduled {
	t.Helper()
	dir := t.TempDir()
	free, err := net.Listen("tcp", "127.0.0.1:0") // the port of the metrics is not told anywhere
	if err != nil {
		t.Fatal(err)
	}
	defer free.Close()
	s := &scheduled{t: t, data: filepath.Join(dir, "data"), place: filepath.Join(dir, "place"), config: filepath.Join(dir, "strongroom.toml"), sd: filepath.Join(dir, "SD.json"),
		metrics: "http://" + free.Addr().String() + "/metrics"}
	if err := os.Mkdir(s.place, 0o700); err != nil {
		t.Fatal(err)
	}
	run(t, "mount", "-t", "tmpfs", "-o", "size=4M", "tmpfs", s.place) // small: it is going to be full
	t.Cleanup(func() { _ = exec.Command("umount", "-l", s.place).Run() })
	text := fmt.Sprintf("data = %q\nlisten = \"127.0.0.1:0\"\nhsms = [\"alpha\"]\n[identity]\nembedded = true\n[metrics]\nlisten = %q\n[backup]\nfolders = [%q]\n"+
		"[[backup.schedule]]\nhsm = \"alpha\"\nto = \"file://%s\"\nevery = \"5m\"\nkeep = 2\n", s.data, free.Addr().String(), s.place, s.place)
	if err := os.WriteFile(s.config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	free.Close()
	s.server = harness.Start(t, s.data, harness.Options{Binary: server, Config: s.config})
	t.Cleanup(func() { s.server.Kill() }) // a later one
	return s
}

// later kills the server, lets time pass for all that it remembers of backups, and starts it again.
func (s *scheduled) later(d time.Duration) {
	s.t.Helper()
	s.server.Kill()
	db, err := bolt.Open(s.data, bolt.Options{MustExist: true})
	if err != nil {
		s.t.Fatal(err)
	}
	sealed, err := seal.OpenFile(filepath.Join(s.data, "seal.json"))
	if err != nil {
		s.t.Fatal(err)
	}
	aged := 0
	err = db.Update(s.t.Context(), func(w store.Writer) error {
		records := map[string][]byte{}
		for key, raw := range w.Scan("hsm/", "") {
			if strings.Contains(key, "/job/") {
				records[key] = raw
			}
		}
		for key, raw := range records {
			plain, err := sealed.Unwrap(raw, key)
			if err != nil {
				return err
			}
			var job map[string]any
			if err := json.Unmarshal(plain.Reveal(), &job); err != nil {
				return err
			}
			started, err := time.Parse(time.RFC3339Nano, fmt.Sprint(job["started"]))
			if err != nil {
				return err
			}
			job["started"] = started.Add(-d)
			text, err := json.Marshal(job)
			if err != nil {
				return err
			}
			again, err := sealed.Wrap(secret.Take(text), key)
			if err != nil {
				return err
			}
			w.Put(key, again)
			aged++
		}
		return nil
	})
	if err != nil || aged == 0 {
		s.t.Fatalf("%d records of backups were made older: %v", aged, err)
	}
	if err := db.Close(); err != nil {
		s.t.Fatal(err)
	}
	if s.server, err = harness.TryStart(s.data, harness.Options{Binary: server, Config: s.config}); err != nil {
		s.t.Fatal(err)
	}
}

func (s *scheduled) url() string { return s.server.URL(s.t, "alpha") }

// job is one by schedule, as backup list has it.
type job struct {
	Job, Kind, Status, Details, Code, Backup, By string
	Started                                      time.Time
	Ended                                        *time.Time
}

func (s *scheduled) jobs() (list []job) {
	s.t.Helper()
	out := s.server.Run(s.t, "backup", "list", "--url", s.url(), "--output", "json")
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		s.t.Fatalf("backup list printed %q", out)
	}
	return list
}

// next waits until the server has begun and ended a backup by itself: the n-th since this server is new. What was cut off counts.
func (s *scheduled) next(n int) (newest job) {
	s.t.Helper()
	look := time.NewTicker(50 * time.Millisecond)
	defer look.Stop()
	for deadline := time.After(2 * time.Minute); ; {
		if list := s.jobs(); len(list) >= n && list[0].Ended != nil {
			if len(list) > n {
				s.t.Fatalf("there are %d jobs, and %d were due: %+v", len(list), n, list)
			}
			return list[0]
		}
		select {
		case <-look.C:
		case <-deadline:
			s.t.Fatalf("the server took no backup by itself; %d jobs, and not %d\n%s", len(s.jobs()), n, s.server.Log)
		}
	}
}

// good is next, and holds what came of it against the backup as it lies there.
func (s *scheduled) good(n int) string {
	s.t.Helper()
	j := s.next(n)
	if j.Kind != "backup" || j.Status != "Succeeded" || j.By != "server" || !strings.Contains(j.Details, "read back and verified") {
		s.t.Fatalf("job %d: %+v\n%s", n, j, s.server.Log)
	}
	if out := s.server.Run(s.t, "backup", "verify", j.Backup, "--domain", s.sd); !strings.Contains(out, "signed and whole") {
		s.t.Errorf("verify printed %q", out)
	}
	return filepath.Base(j.Backup)
}

// folders are the backups that lie there, the oldest first.
func (s *scheduled) folders() (list []string) {
	s.t.Helper()
	entries, err := os.ReadDir(s.place)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, e := range entries {
		if e.IsDir() {
			list = append(list, e.Name())
		}
	}
	return list
}

func (s *scheduled) left(when string, want ...string) {
	s.t.Helper()
	if got := s.folders(); !slices.Equal(got, want) {
		s.t.Fatalf("%s: %q lie there, want %q\n%s", when, got, want, s.server.Log)
	}
}

// shown is the only schedule, as the command shows it.
type shown struct {
	To, Every      string
	Keep, Failures int
	Verified, Next *time.Time
	Last           *struct {
		Status, Job, Code, Details string
		Time                       time.Time
	}
}

func (s *scheduled) schedule() shown {
	s.t.Helper()
	var list []shown
	out := s.server.Run(s.t, "backup", "schedule", "--url", s.url(), "--output", "json")
	if err := json.Unmarshal([]byte(out), &list); err != nil || len(list) != 1 || list[0].To != s.place || list[0].Every != "5m" || list[0].Keep != 2 {
		s.t.Fatalf("backup schedule printed %q", out)
	}
	return list[0]
}

// metric is the value of a metric of the schedule.
func (s *scheduled) metric(name string) float64 {
	s.t.Helper()
	resp, err := http.Get(s.metrics)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	found := regexp.MustCompile(`(?m)^strongroom_backup_` + name + `\{hsm="alpha",to="file://` + regexp.QuoteMeta(s.place) + `"\} (\S+)$`).FindSubmatch(text)
	if found == nil {
		s.t.Fatalf("there is no metric %s of the schedule in:\n%s", name, text)
	}
	value, err := strconv.ParseFloat(string(found[1]), 64)
	if err != nil {
		s.t.Fatal(err)
	}
	return value
}

// aged holds the age of the newest verified backup against when that was begun.
func (s *scheduled) aged(begun time.Time) {
	s.t.Helper()
	least := time.Since(begun.Add(time.Second)).Seconds() // commands show whole seconds
	age := s.metric("verified_age_seconds")
	if most := time.Since(begun).Seconds(); age < least || age > most {
		s.t.Errorf("the newest verified backup is of %s, and %g seconds old; want %g to %g", begun, age, least, most)
	}
}

// A server backs its HSM up by itself, reads the backups back, goes on over kill -9, also in the middle of one, and removes the oldest
// and never the newest good one, also when there is no room for another. Covers B5.
func TestScheduleOfAServer(t *testing.T) {
	s := startScheduled(t)
	if age := s.metric("verified_age_seconds"); age < 0 || s.metric("every_seconds") != 300 {
		t.Errorf("before the first: %g", age)
	}
	// The HSM is not in use yet. As soon as it is, and without a new start, the first comes.
	if err := download(s.server, s.url(), custodians(t), s.sd); err != nil {
		t.Fatal(err)
	}
	if len(s.folders()) == 0 && s.schedule().Verified != nil {
		t.Error("there is none, and one is verified")
	}
	first := s.good(1)
	s.left("after the first", first)
	newest := s.jobs()[0]
	now := s.schedule()
	if now.Verified == nil || !now.Verified.Equal(newest.Started) || now.Next == nil || !now.Next.Equal(newest.Started.Add(5*time.Minute)) || now.Failures != 0 ||
		now.Last == nil || now.Last.Job != newest.Job || now.Last.Status != "Succeeded" {
		t.Errorf("after the first the schedule is %+v, and the job %+v", now, newest)
	}
	words := s.server.Run(t, "backup", "schedule", "--url", s.url())
	for _, want := range []string{"TO", s.place, "5m", now.Verified.Format(time.RFC3339), now.Next.Format(time.RFC3339), "Succeeded"} {
		if !strings.Contains(words, want) {
			t.Errorf("backup schedule does not say %q:\n%s", want, words)
		}
	}
	s.aged(newest.Started)

	// It is killed and started again: not due is not due, and what is due comes at once.
	s.later(2 * time.Minute)
	if now := s.schedule(); now.Next == nil || !now.Next.After(time.Now()) || len(s.jobs()) != 1 {
		t.Errorf("after two minutes: %+v, %d jobs", now, len(s.jobs()))
	}
	s.later(4 * time.Minute)
	second := s.good(2)
	s.left("after the second", first, second)
	gone := []string{first, second} // in the end

	// It dies in the middle of the third, or just behind it. Later there are the newest two, and nothing that is not finished.
	s.later(6 * time.Minute)
	waitFor(t, func() bool { return strings.Contains(s.server.Log.String(), `"job begun"`) }, "the third backup to begin")
	s.later(6 * time.Minute)
	fourth := s.good(4)
	third := s.jobs()[1]
	t.Logf("the third, killed: %s %s", third.Status, third.Code)
	if third.Status != "Succeeded" && third.Code != "Interrupted" {
		t.Errorf("the third: %+v", third)
	}
	if slices.Contains(s.folders(), filepath.Base(third.Backup)) { // it had been finished, if not read back
		second = filepath.Base(third.Backup)
		gone = append(gone, second)
	}
	s.left("after a kill in the third", second, fourth)
	s.server.Run(t, "backup", "verify", filepath.Join(s.place, second), "--domain", s.sd)

	// The place is full. The next one fails, says why, and takes nothing with it.
	filler := filepath.Join(s.place, "filler")
	fill(t, filler)
	s.later(6 * time.Minute)
	failed := s.next(5)
	if failed.Status != "Failed" {
		t.Fatalf("on a full disk: %+v", failed)
	}
	if got := s.folders(); !slices.Contains(got, second) || !slices.Contains(got, fourth) {
		t.Fatalf("a backup that failed took others with it: %q, and not %q and %q", got, second, fourth)
	}
	s.server.Run(t, "backup", "verify", filepath.Join(s.place, fourth), "--domain", s.sd)
	good := s.jobs()[1]
	now = s.schedule()
	if now.Verified == nil || !now.Verified.Equal(good.Started) || now.Failures != 1 || now.Last == nil || now.Last.Status != "Failed" || now.Last.Details == "" || now.Next == nil || !now.Next.After(failed.Started) {
		t.Errorf("after one failed the schedule is %+v", now)
	}
	if n := s.metric("failures_total"); n != 1 {
		t.Errorf("%g failures", n)
	}
	s.aged(good.Started)
	if said := tell(t, s, "backup", "schedule", "--url", s.url()); !strings.Contains(said, "the last one to "+s.place+" failed at ") || !strings.Contains(said, "tried again by itself: ") {
		t.Errorf("backup schedule says of a failure: %s", said)
	}

	// There is room again.
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	s.later(6 * time.Minute)
	sixth := s.good(6)
	s.left("with room again", fourth, sixth)
	s.server.Run(t, "backup", "verify", filepath.Join(s.place, fourth), "--domain", s.sd)
	if err := s.server.Stop(); err != nil {
		t.Error(err)
	}

	// All of it is in the audit log: who began it, and every removal before it was done.
	recorded(t, s.data, nil)
	began, ended, removing, removed := 0, map[string]int{}, map[string]int{}, map[string]int{}
	_, err := audit.Show(t.Context(), filepath.Join(s.data, "audit"), audit.Filter{}, func(r audit.Record) error {
		switch r.Operation + " " + r.Phase {
		case "ScheduledBackup " + audit.PhaseIntent:
			began++
		case "ScheduledBackup " + audit.PhaseOutcome:
			ended[r.Request]++
		case "OldBackupRemoved " + audit.PhaseIntent:
			removing[r.Backup]++
		case "OldBackupRemoved " + audit.PhaseOutcome:
			if removed[r.Backup]++; removed[r.Backup] > removing[r.Backup] {
				t.Errorf("%s was removed before that was recorded", r.Backup)
			}
		default:
			return nil
		}
		if r.Plane != "server" || r.Principal != "server" || r.HSMName != "alpha" {
			t.Errorf("recorded as %+v", r)
		}
		return nil
	})
	// Six were begun, and each ended once. But the third, killed when its end was recorded and not yet written to the job, is recorded as cut off
	// too when the server comes back.
	if third := ended[third.Job]; third < 1 || third > 2 {
		t.Errorf("the third, killed, has %d ends", third)
	}
	delete(ended, third.Job)
	for job, n := range ended {
		if n != 1 {
			t.Errorf("job %s has %d ends", job, n)
		}
	}
	if err != nil || began != 6 || len(ended) != 5 {
		t.Errorf("recorded: %d backups begun, and the ends of %d besides the third (%v)", began, len(ended), err)
	}
	// Those that were finished and are gone were removed; of what was never finished there may have been nothing to remove. The third
	// may have died between a removal and its outcome, and what is gone is removed and recorded no second time.
	for _, name := range gone {
		if removed[name] == 0 && (third.Code != "Interrupted" || removing[name] == 0) {
			t.Errorf("that %s was removed is not recorded: %v", name, removed)
		}
	}
	for _, name := range []string{fourth, sixth} {
		if removing[name] != 0 {
			t.Errorf("%s is there, and recorded as removed", name)
		}
	}
}

// tell is what a command says beside what it finds.
func tell(t *testing.T, s *scheduled, args ...string) string {
	t.Helper()
	cmd := exec.Command(s.server.Binary, args...)
	cmd.Env = s.server.Environ()
	var said strings.Builder
	cmd.Stderr = &said
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v: %v\n%s", args, err, &said)
	}
	return said.String()
}
