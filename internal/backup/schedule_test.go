package backup_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"strongroom/internal/access"
	"strongroom/internal/backup"
	"strongroom/internal/backupset"
	"strongroom/internal/failure"
)

// Folders and Delete make the shelf one that old backups can be removed from.
func (s *shelf) Folders(_ context.Context, prefix string) (list []string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name := range s.objects {
		folder, _, _ := strings.Cut(name, "/")
		if strings.HasPrefix(folder, prefix) && !slices.Contains(list, folder) {
			list = append(list, folder)
		}
	}
	slices.Sort(list)
	return list, nil
}

func (s *shelf) Delete(_ context.Context, name string) error {
	if err := s.ask("delete", name); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.objects, name)
	return nil
}

func (s *shelf) Sweep(_ context.Context, folder string) error { return s.ask("sweep", folder) }

func (w *world) wait(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
}

func daily(keep int) []backup.Schedule {
	return []backup.Schedule{{HSM: "ALPHA", Every: 24 * time.Hour, Keep: keep, URI: "shelf:", Target: func() (backup.Target, error) { return target, nil }}}
}

// due runs the schedule and waits for the job that it began, if it began one.
func (w *world) due(list []backup.Schedule) *backup.Job {
	w.t.Helper()
	mine := func() map[string]backup.Job {
		jobs, err := w.backups.Jobs(context.Background(), w.open("alpha"), admin)
		if err != nil {
			w.t.Fatal(err)
		}
		found := map[string]backup.Job{}
		for _, j := range jobs {
			if j.Scheduled {
				found[j.ID] = j
			}
		}
		return found
	}
	before := mine()
	w.backups.RunDue(w.t.Context(), list)
	for id, j := range mine() {
		if _, old := before[id]; !old {
			j = w.done("alpha", j, nil)
			return &j
		}
	}
	return nil
}

func (w *world) state(list []backup.Schedule) backup.State {
	w.t.Helper()
	states, err := w.backups.States(w.t.Context(), list)
	if err != nil || len(states) != len(list) {
		w.t.Fatal(states, err)
	}
	return states[0]
}

// A backup by schedule comes when it is due and not before, over restarts, is read back, and the oldest goes.
func TestSchedule(t *testing.T) {
	w := newWorld(t, "alpha")
	w.fill("alpha")
	heard := w.listen(nil)
	list := daily(2)
	if s := w.state(list); !s.Verified.IsZero() || s.Failures != 0 {
		t.Errorf("before the first: %+v", s)
	}
	own := w.backup("alpha") // by hand, in the same place
	heard()
	var made []string
	for day := range 3 {
		j := w.due(list)
		if j == nil || j.Status != backup.Succeeded || !strings.Contains(j.Details, "read back and verified") {
			t.Fatalf("day %d: %+v", day, j)
		}
		made = append(made, j.Folder)
		s := w.state(list)
		if !s.Verified.Equal(j.Started) || !s.Next.Equal(j.Started.Add(24*time.Hour)) {
			t.Errorf("day %d: %+v, and the job is of %s", day, s, j.Started)
		}
		if want := (backup.Try{At: j.Started, Status: backup.Succeeded, Job: j.ID}); s.Last != want {
			t.Errorf("day %d: the last try is %+v, want %+v", day, s.Last, want)
		}
		for range 3 {
			w.wait(7*time.Hour + 59*time.Minute)
			if day == 1 {
				w.restart()
			}
			if j := w.due(list); j != nil {
				t.Fatalf("day %d: too early: %+v", day, j)
			}
		}
		w.wait(3 * time.Minute)
	}
	// The HSM tells it to who may know of its backups, and tells nobody of another HSM's.
	other := list[0]
	other.HSM = "beta"
	w.config = func(c *backup.Config) { c.Schedules = append([]backup.Schedule{other}, list...) }
	w.restart()
	if states, err := w.backups.Schedules(t.Context(), w.open("alpha"), admin); err != nil || len(states) != 1 || !strings.EqualFold(states[0].HSM, "alpha") || states[0].Verified.IsZero() {
		t.Errorf("schedules of the HSM: %+v, %v", states, err)
	}
	if _, err := w.backups.Schedules(t.Context(), w.open("alpha"), stranger); !errors.Is(err, failure.Forbidden) {
		t.Errorf("schedules, for a stranger: %v", err)
	}
	folders, _ := w.shelf.Folders(t.Context(), "")
	if d := cmp.Diff(made[1:], folders); d != "" {
		t.Errorf("what is left, with %s by hand (-want +got):\n%s", own, d)
	}
	want := []string{"intent ScheduledBackup", "outcome ScheduledBackup", // beside it there is the one by hand
		"intent ScheduledBackup", "intent OldBackupRemoved  " + own, "outcome OldBackupRemoved  " + own, "outcome ScheduledBackup",
		"intent ScheduledBackup", "intent OldBackupRemoved  " + made[0], "outcome OldBackupRemoved  " + made[0], "outcome ScheduledBackup"}
	if d := cmp.Diff(want, heard()); d != "" {
		t.Errorf("recorded (-want +got):\n%s", d)
	}
	if j := w.restore("alpha", made[2]); j.Status != backup.Succeeded {
		t.Errorf("a backup by schedule: %+v", j)
	}
	// A clock that is set back delays nothing.
	w.wait(-1000 * 24 * time.Hour)
	if j := w.due(list); j == nil || j.Status != backup.Succeeded {
		t.Errorf("after the clock was set back: %+v", j)
	}
}

// What cannot be taken is counted and tried again, not at once; what such a try leaves is removed by the next good one.
func TestScheduleFails(t *testing.T) {
	w := newWorld(t, "alpha")
	w.fill("alpha")
	list := daily(3)
	breaks := func(op, part string) {
		w.shelf.hook = func(o, name string) error {
			if o == op && strings.Contains(name, part) {
				return errors.New("no")
			}
			return nil
		}
	}
	breaks("commit", "manifest")
	first := w.due(list)
	if first == nil || first.Status != backup.Failed {
		t.Fatalf("%+v", first)
	}
	s := w.state(list)
	if s.Failures != 1 || !s.Verified.IsZero() || !s.Next.Equal(s.Last.At.Add(time.Hour)) {
		t.Errorf("%+v", s)
	}
	if want := (backup.Try{At: s.Last.At, Status: backup.Failed, Job: first.ID, Code: first.Code, Message: first.Message}); s.Last != want || s.Last.At.IsZero() || first.Message == "" {
		t.Errorf("the last try is %+v, want %+v", s.Last, want)
	}
	w.wait(59 * time.Minute)
	if j := w.due(list); j != nil {
		t.Errorf("again too early: %+v", j)
	}
	w.wait(time.Minute)
	// It is written, and something else lies there when it is read back.
	w.shelf.hook = func(o, name string) error {
		if o == "open" && strings.HasSuffix(name, "/manifest") {
			w.shelf.mu.Lock()
			defer w.shelf.mu.Unlock()
			for n, b := range w.shelf.objects {
				if strings.HasSuffix(n, "part-000001") {
					b[len(b)-1] ^= 1
				}
			}
		}
		return nil
	}
	if j := w.due(list); j == nil || j.Status != backup.Failed || j.Code != backupset.Changed {
		t.Errorf("a backup that was changed as soon as it was written: %+v", j)
	}
	if s := w.state(list); s.Failures != 2 || !s.Verified.IsZero() {
		t.Errorf("%+v", s)
	}
	w.shelf.hook = nil
	w.wait(time.Hour)
	// A schedule whose target cannot even be opened begins no job, and is counted all the same.
	closed := daily(3)
	closed[0].Target = func() (backup.Target, error) { return backup.Target{}, failure.New(failure.Unavailable, "no token") }
	for range 3 {
		if j := w.due(closed); j != nil {
			t.Errorf("%+v", j)
		}
	}
	if s := w.state(list); s.Failures != 3 || s.Last.Job != "" || s.Last.Status != backup.Failed || !strings.HasPrefix(s.Last.Message, "the SAS token of the place cannot be read") {
		t.Errorf("%+v", s)
	}
	w.wait(time.Hour)
	// So is one whose beginning cannot be recorded.
	heard := w.listen(func(e backup.Event) error {
		if e.Intent {
			return failure.New(failure.Unavailable, "the audit log cannot be written")
		}
		return nil
	})
	if j := w.due(list); j != nil || w.state(list).Failures != 1 {
		t.Errorf("unrecorded: %+v", j)
	}
	heard()
	w.config = nil
	w.restart()
	if j := w.due(list); j == nil || j.Status != backup.Succeeded {
		t.Fatalf("%+v", j)
	}
	folders, _ := w.shelf.Folders(t.Context(), "")
	if slices.Contains(folders, first.Folder) {
		t.Errorf("an unfinished one is left: %q", folders)
	}
}

// A server that dies while it removes an old backup leaves a part of it without a manifest. The next one takes it up, and nothing
// that somebody else left without a manifest; and it sweeps the folder of one that died before its first object.
func TestRemovalIsTakenUp(t *testing.T) {
	w := newWorld(t, "alpha")
	w.fill("alpha")
	list := daily(1)
	first := w.due(list)
	w.shelf.objects["mhsm-alpha-2020010100000001/part-000001"] = []byte("somebody's")
	w.wait(25 * time.Hour)
	deleted := 0
	w.shelf.hook = func(op, name string) error {
		if op == "delete" {
			if deleted++; deleted > 1 {
				return errors.New("dead")
			}
		}
		return nil
	}
	second := w.due(list)
	w.shelf.hook = nil
	if _, there := w.shelf.objects[first.Folder+"/manifest"]; there || deleted != 2 {
		t.Fatalf("the manifest did not go first: %d deleted", deleted)
	}
	if folders, _ := w.shelf.Folders(t.Context(), first.Folder); len(folders) != 1 {
		t.Fatal("nothing is left of it")
	}
	w.restart()
	w.wait(25 * time.Hour)
	w.shelf.hook = func(op, name string) error {
		if op == "commit" {
			return errors.New("no")
		}
		return nil
	}
	failed := w.due(list) // it leaves no object
	if failed.Status != backup.Failed {
		t.Fatalf("%+v", failed)
	}
	var swept []string
	w.shelf.hook = func(op, name string) error {
		if op == "sweep" {
			swept = append(swept, name)
		}
		return nil
	}
	w.wait(25 * time.Hour)
	last := w.due(list)
	folders, _ := w.shelf.Folders(t.Context(), "")
	if d := cmp.Diff([]string{"mhsm-alpha-2020010100000001", last.Folder}, folders); d != "" {
		t.Errorf("left (-want +got):\n%s", d)
	}
	slices.Sort(swept)
	if d := cmp.Diff([]string{first.Folder, second.Folder, failed.Folder}, swept); d != "" {
		t.Errorf("swept (-want +got):\n%s", d)
	}
}

// Retention touches nothing but finished backups of this very HSM, and a store that keeps everything keeps everything.
func TestRetentionKeepsWhatIsNotItsOwn(t *testing.T) {
	w := newWorld(t, "alpha")
	w.fill("alpha")
	list := daily(1)
	foreign := map[string][]byte{}
	for i, name := range []string{"mhsm-alpha-2020010100000000/manifest", "mhsm-alpha-2020010100000001/part-000001", "mhsm-alpha-x/manifest", "mhsm-alpha-beta-2020010100000000/manifest", "notes/manifest"} {
		foreign[name] = []byte{byte(i)}
		w.shelf.objects[name] = foreign[name]
	}
	// An HSM of the same name, of another server.
	other := newWorld(t, "alpha")
	other.shelf = w.shelf
	other.restart()
	others := other.backup("alpha")
	w.wait(time.Minute)
	var made []string
	for range 2 {
		made = append(made, w.due(list).Folder)
		w.wait(24 * time.Hour)
	}
	for name := range foreign {
		if _, there := w.shelf.objects[name]; !there {
			t.Errorf("%s was removed", name)
		}
	}
	folders, _ := w.shelf.Folders(t.Context(), "")
	if !slices.Contains(folders, others) || slices.Contains(folders, made[0]) || !slices.Contains(folders, made[1]) {
		t.Errorf("left: %q; made %q, another's %s", folders, made, others)
	}
	w.shelf.hook = func(op, name string) error {
		if op == "delete" {
			return fmt.Errorf("write once: %w", fs.ErrPermission)
		}
		return nil
	}
	j := w.due(list)
	if j.Status != backup.Succeeded || !strings.Contains(j.Details, "could not be removed") {
		t.Errorf("a store that removes nothing: %+v", j)
	}
	if now, _ := w.shelf.Folders(t.Context(), ""); len(now) != len(folders)+1 {
		t.Errorf("left: %q", now)
	}
}

// The last good backup of a schedule is remembered, whatever else is done.
func TestScheduleIsNotForgotten(t *testing.T) {
	w := newWorld(t, "alpha")
	list := daily(1)
	want := w.due(list).Started
	for range 110 {
		j, err := w.backups.CheckBackup(t.Context(), w.open("alpha"), admin, nil)
		w.done("alpha", j, err)
		w.wait(time.Second)
	}
	if s := w.state(list); !s.Verified.Equal(want) {
		t.Errorf("%+v, want %s", s, want)
	}
	if jobs, err := w.backups.Jobs(t.Context(), w.open("alpha"), admin); err != nil || len(jobs) > 101 {
		t.Errorf("%d jobs, %v", len(jobs), err)
	}
}

// Somebody whom an issuer calls "server" is not the server: what he begins is his, and no schedule goes by it.
func TestSomebodyCalledServer(t *testing.T) {
	w := newWorld(t, "alpha")
	heard := w.listen(nil)
	named := access.Caller{ObjectID: backup.Server}
	if _, err := w.open("alpha").Roles().PutAssignment(t.Context(), admin, access.Assignment{Name: "aaaaaaaa-0000-4000-8000-000000000001", PrincipalID: named.ObjectID, RoleDefinitionID: access.RoleAdministrator, Scope: "/"}); err != nil {
		t.Fatal(err)
	}
	j, err := w.backups.Backup(t.Context(), w.open("alpha"), named, target)
	if j = w.done("alpha", j, err); j.Status != backup.Succeeded || j.Scheduled {
		t.Fatalf("%+v", j)
	}
	if d := cmp.Diff([]string{"end FullBackupEnded"}, heard()); d != "" {
		t.Errorf("recorded (-want +got):\n%s", d)
	}
	w.wait(time.Minute)
	list := daily(1)
	if s := w.state(list); !s.Verified.IsZero() {
		t.Errorf("it counts: %+v", s)
	}
	if j := w.due(list); j == nil || !j.Scheduled {
		t.Errorf("nothing was due: %+v", j)
	}
}
