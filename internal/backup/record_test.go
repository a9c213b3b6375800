package backup_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"strongroom/internal/backup"
	"strongroom/internal/backupset"
	"strongroom/internal/failure"
	"strongroom/internal/keys"
	"strongroom/internal/store"
	"strongroom/secret"
)

// listen makes the world's next process record its events, and fail those that refuse says.
func (w *world) listen(refuse func(e backup.Event) error) (heard func() []string) {
	w.t.Helper()
	var list []string
	w.config = func(c *backup.Config) {
		c.Record = func(ctx context.Context, e backup.Event) error {
			if err := ctx.Err(); err != nil {
				return err // as the audit log does
			}
			if refuse != nil {
				if err := refuse(e); err != nil {
					return err
				}
			}
			if e.Job.ID == "" || e.HSM == "" || e.HSMID == "" || e.Action == "" || e.Folder == "" && e.Job.Kind != backup.CheckBackup || e.Intent && e.Code != "" {
				w.t.Errorf("an event that says too little: %+v", e)
			}
			w.mu.Lock()
			defer w.mu.Unlock()
			phase := "end"
			if e.Intent {
				phase = "intent"
			} else if e.Intended {
				phase = "outcome"
			}
			said := fmt.Sprintf("%s %s %s %s", phase, e.Operation, e.Job.Key, e.Code)
			if e.Folder != e.Job.Folder {
				said += e.Folder
			}
			list = append(list, strings.TrimSpace(said))
			return nil
		}
	}
	w.restart()
	return func() (heard []string) {
		w.mu.Lock()
		defer w.mu.Unlock()
		heard, list = list, nil
		return heard
	}
}

// Covers L2, B5: every job has a record of its end, and one that brings back roles and deleted keys has those beforehand.
func TestEndsAreRecorded(t *testing.T) {
	w := newWorld(t, "alpha")
	w.fill("alpha")
	heard := w.listen(nil)
	check := func(what string, want ...string) {
		t.Helper()
		if d := cmp.Diff(want, heard()); d != "" {
			t.Errorf("%s (-want +got):\n%s", what, d)
		}
	}
	folder := w.backup("alpha")
	check("a backup", "end FullBackupEnded")
	if j := w.restore("alpha", folder); j.Status != backup.Succeeded || !strings.Contains(j.Details, "deleted key") || !strings.Contains(j.Details, "role assignment") {
		t.Fatalf("restore: %+v", j)
	}
	check("a restore", "intent FullRestoreEnded", "intent FullRestoreRoles", "intent FullRestoreDeletedKeys",
		"outcome FullRestoreEnded", "outcome FullRestoreRoles", "outcome FullRestoreDeletedKeys")
	w.restore("alpha", "mhsm-alpha-2026010100000000")
	check("a restore of what is not there", "end FullRestoreEnded  BackupNotFound")
	j, err := w.backups.CheckRestore(t.Context(), w.open("alpha"), admin, &target, folder)
	w.done("alpha", j, err)
	check("a dry run", "end PreFullRestoreEnded")
	j, err = w.backups.CheckBackup(t.Context(), w.open("alpha"), admin, nil)
	w.done("alpha", j, err)
	check("another", "end PreFullBackupEnded")
	for range 2 {
		j, err = w.backups.RestoreKey(t.Context(), w.open("alpha"), admin, target, folder, "invoices")
		w.done("alpha", j, err)
		check("a key that is there", "intent SelectiveKeyRestoreEnded invoices", "outcome SelectiveKeyRestoreEnded invoices Conflict")
	}
	// Without deleted keys nothing says that there are.
	w.make("beta")
	if _, err := w.open("beta").Download(t.Context(), admin, certificates(), 2); err != nil {
		t.Fatal(err)
	}
	folder = w.backup("beta")
	heard()
	w.restore("beta", folder)
	check("a restore without deleted keys", "intent FullRestoreEnded", "intent FullRestoreRoles", "outcome FullRestoreEnded", "outcome FullRestoreRoles")
}

// What cannot be recorded is not done.
func TestUnrecordedRestoreChangesNothing(t *testing.T) {
	w := newWorld(t, "alpha")
	w.fill("alpha")
	folder := w.backup("alpha")
	w.create("alpha", "later", keys.CreateParams{})
	want := w.inventory("alpha")
	full := failure.Coded(failure.Unavailable, "AuditUnavailable", "the audit log cannot be written")
	for _, operation := range []string{"FullRestoreEnded", "FullRestoreRoles", "FullRestoreDeletedKeys"} {
		w.listen(func(e backup.Event) error {
			if e.Intent && e.Operation == operation {
				return full
			}
			return nil
		})
		if j := w.restore("alpha", folder); j.Status != backup.Failed || j.Code != "AuditUnavailable" || j.Details != "" {
			t.Errorf("%s unrecorded: %+v", operation, j)
		}
		if d := cmp.Diff(want, w.inventory("alpha")); d != "" {
			t.Errorf("%s unrecorded, and something changed:\n%s", operation, d)
		}
	}
	w.listen(func(e backup.Event) error { return full })
	j, err := w.backups.RestoreKey(t.Context(), w.open("alpha"), admin, target, folder, "later")
	if j = w.done("alpha", j, err); j.Code != "KeyNotFound" {
		t.Errorf("%+v", j)
	}
	w.mu.Lock()
	w.now = w.now.Add(time.Second)
	w.mu.Unlock()
	j, err = w.backups.Backup(t.Context(), w.open("alpha"), admin, target)
	if j = w.done("alpha", j, err); j.Status != backup.Failed || !strings.Contains(j.Message, "could not be recorded") {
		t.Errorf("a backup whose end is not recorded: %+v", j)
	}
}

// A job that the end of the process cut off has a record of it, from the next one.
func TestInterruptedJobsAreRecorded(t *testing.T) {
	w := newWorld(t, "alpha")
	w.fill("alpha")
	hold, held := make(chan struct{}), make(chan struct{}, 10)
	w.shelf.hook = func(op, _ string) error {
		if op == "create" {
			held <- struct{}{}
			<-hold
		}
		return nil
	}
	if _, err := w.backups.Backup(t.Context(), w.open("alpha"), admin, target); err != nil {
		t.Fatal(err)
	}
	<-held
	crashed := w.store.Restart()
	close(hold)
	w.backups.Close()
	w.store = crashed
	heard := w.listen(nil)
	if d := cmp.Diff([]string{"end FullBackupEnded  Interrupted"}, heard()); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

// So has one that a graceful stop ends, from the process itself.
func TestStoppedJobsAreRecorded(t *testing.T) {
	w := newWorld(t, "alpha")
	w.fill("alpha")
	heard := w.listen(nil)
	hold, held := make(chan struct{}), make(chan struct{})
	w.shelf.hook = func(op, name string) error {
		if op == "create" && strings.HasSuffix(name, "part-000001") {
			close(held)
			<-hold
		}
		return nil
	}
	j, err := w.backups.Backup(t.Context(), w.open("alpha"), admin, target)
	if err != nil {
		t.Fatal(err)
	}
	<-held
	closed := make(chan struct{})
	go func() { defer close(closed); w.backups.Close() }()
	for err = nil; failure.KindOf(err) != failure.Unavailable; { // until it stops: nothing new begins
		_, err = w.backups.CheckBackup(t.Context(), w.open("alpha"), admin, nil)
	}
	close(hold)
	<-closed
	if d := cmp.Diff([]string{"end FullBackupEnded  Interrupted"}, heard()); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	w.shelf.hook = nil
	w.restart()
	if j, err = w.backups.Status(t.Context(), w.open("alpha"), admin, false, j.ID); err != nil || j.Status != backup.Failed || j.Code != "Interrupted" {
		t.Errorf("%+v, %v", j, err)
	}
}

// A panic in a restore is its failure: the server goes on, and the HSM is as it was.
func TestPanicInARestore(t *testing.T) {
	w := newWorld(t, "alpha")
	w.fill("alpha")
	folder, want := w.backup("alpha"), w.inventory("alpha")
	for n := 1; ; n++ {
		opened := 0
		w.shelf.hook = func(op, _ string) error {
			if op == "open" {
				if opened++; opened == n {
					panic("in the storage")
				}
			}
			return nil
		}
		j := w.restore("alpha", folder)
		if opened < n {
			if n < 5 || j.Status != backup.Succeeded {
				t.Errorf("%d reads, and %+v", opened, j)
			}
			return
		}
		if j.Status != backup.Failed || j.Code != "Internal" {
			t.Errorf("a panic in read %d: %+v", n, j)
		}
		if d := cmp.Diff(want, w.inventory("alpha")); d != "" {
			t.Errorf("a panic in read %d changed something:\n%s", n, d)
		}
	}
}

// An HSM that is deleted under a job is as it was when it is recovered; of one that is purged nothing is left.
func TestHSMDeletedUnderAJob(t *testing.T) {
	w := newWorld(t, "alpha")
	w.fill("alpha")
	folder, want := w.backup("alpha"), w.inventory("alpha")
	for _, purge := range []bool{false, true} {
		opened, hold, held := 0, make(chan struct{}), make(chan struct{})
		w.shelf.hook = func(op, _ string) error {
			if op == "open" {
				if opened++; opened == 4 { // the second reading: it fills
					close(held)
					<-hold
				}
			}
			return nil
		}
		h := w.open("alpha")
		if _, err := w.backups.Restore(t.Context(), h, admin, target, folder); err != nil {
			t.Fatal(err)
		}
		<-held
		if info, err := w.hsms.Get(t.Context(), "alpha"); err != nil || !info.Restoring {
			t.Fatalf("held too early: %+v, %v", info, err)
		}
		_, err := w.hsms.Delete(t.Context(), "alpha")
		if err == nil && purge {
			_, err = w.hsms.Purge(t.Context(), "alpha")
		}
		if err != nil {
			t.Fatal(err)
		}
		close(hold)
		w.backups.Close() // waits for the job
		w.shelf.hook = nil
		if purge {
			err := w.store.View(t.Context(), func(r store.Reader) error {
				for path := range r.Scan("hsm/"+h.ID(), "") {
					t.Errorf("%s is left of an HSM that was purged", path)
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			return
		}
		if _, err := w.hsms.Recover(t.Context(), "alpha"); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, w.inventory("alpha")); d != "" {
			t.Errorf("after the recovery:\n%s", d)
		}
		w.restart()
	}
}

// waiting is a context that tells when somebody waits for its end.
type waiting struct {
	context.Context
	once  sync.Once
	asked chan struct{}
}

func (w *waiting) Done() <-chan struct{} {
	w.once.Do(func() { close(w.asked) })
	return w.Context.Done()
}

// Whoever was told that a job has ended may begin the next one, even if the first has not tidied up yet.
func TestTheNextJobWaitsForTidyingUp(t *testing.T) {
	w := newWorld(t, "alpha")
	w.fill("alpha")
	folder := w.backup("alpha")
	hold, held := make(chan struct{}), make(chan struct{})
	w.listen(func(e backup.Event) error {
		if e.Operation == "FullRestoreEnded" && e.Intended {
			close(held)
			<-hold
		}
		return nil
	})
	h := w.open("alpha")
	j, err := w.backups.Restore(t.Context(), h, admin, target, folder)
	if err != nil {
		t.Fatal(err)
	}
	<-held
	if j = w.done("alpha", j, nil); j.Status != backup.Succeeded {
		t.Fatalf("%+v", j)
	}
	begun, waits := make(chan error, 1), &waiting{Context: context.Background(), asked: make(chan struct{})}
	go func() {
		_, err := w.backups.CheckBackup(waits, w.open("alpha"), admin, nil)
		begun <- err
	}()
	select {
	case err := <-begun:
		close(hold)
		t.Fatalf("it did not wait: %v", err)
	case <-waits.asked:
	}
	close(hold)
	if err := <-begun; err != nil {
		t.Error(err)
	}
}

// Covers B4: the token of a target is in no record, no answer, no event and no line of the log, whether the job goes well or not.
func TestTokensStayInMemory(t *testing.T) {
	const canary = "c4n4ry-0f-4-t0k3n"
	w := newWorld(t, "alpha")
	var log bytes.Buffer
	var events []backup.Event
	given := false
	w.config = func(c *backup.Config) {
		c.Log = slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
		c.Record = func(_ context.Context, e backup.Event) error { events = append(events, e); return nil }
		open := c.Open
		c.Open = func(ctx context.Context, t backup.Target) (backupset.Storage, error) {
			given = given || string(t.Token.Reveal()) == canary
			return open(ctx, t)
		}
	}
	w.restart()
	w.fill("alpha")
	var shown []any
	to := backup.Target{URI: "shelf:", Token: secret.New([]byte(canary))}
	j, err := w.backups.Backup(t.Context(), w.open("alpha"), admin, to)
	folder := j.Folder
	shown = append(shown, to, j, w.done("alpha", j, err))
	for _, broken := range []bool{false, true} {
		if broken {
			// A library that quotes the URL, as they do.
			w.shelf.hook = func(op, name string) error {
				return fmt.Errorf("%s https://store.example/%s?sig=%s: refused", op, name, canary)
			}
		}
		for _, begin := range []func() (backup.Job, error){
			func() (backup.Job, error) { return w.backups.Restore(t.Context(), w.open("alpha"), admin, to, folder) },
			func() (backup.Job, error) {
				return w.backups.CheckRestore(t.Context(), w.open("alpha"), admin, &to, folder)
			},
			func() (backup.Job, error) {
				return w.backups.RestoreKey(t.Context(), w.open("alpha"), admin, to, folder, "invoices")
			},
		} {
			j, err := begin()
			j = w.done("alpha", j, err)
			if broken && j.Status != backup.Failed {
				t.Errorf("it went well: %+v", j)
			}
			shown = append(shown, j)
		}
	}
	if _, err := w.backups.Backup(t.Context(), w.open("alpha"), admin, backup.Target{URI: "shelf:x", Token: to.Token}); err == nil {
		t.Error("a place that is not allowed was opened")
	} else {
		shown = append(shown, err.Error())
	}
	w.backups.Close()
	err = w.store.View(t.Context(), func(r store.Reader) error {
		for path, value := range r.Scan("", "") {
			shown = append(shown, path, string(value))
			if plain, err := w.seal.Unwrap(value, path); err == nil {
				shown = append(shown, string(plain.Reveal()))
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, one := range append(shown, events) {
		if strings.Contains(fmt.Sprintf("%v %+v %#v", one, one, one), canary) {
			t.Errorf("the token is in %T %.200v", one, one)
		}
	}
	// The cause of a failure is for the log of the operator: of package target's errors, which never hold a token.
	for line := range strings.Lines(log.String()) {
		if strings.Contains(line, canary) && !strings.Contains(line, "refused") {
			t.Errorf("the token is in the log: %s", line)
		}
	}
	if !given || len(events) < 7 || log.Len() == 0 {
		t.Fatalf("token given %v, %d events, %d bytes of log: nothing was looked at", given, len(events), log.Len())
	}
}
