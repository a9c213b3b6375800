package server

import (
	"context"
	"crypto"
	"crypto/rand"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"strongroom/internal/access"
	"strongroom/internal/audit"
	"strongroom/internal/backup"
	"strongroom/internal/hsm"
	"strongroom/internal/record"
	"strongroom/internal/seal"
	"strongroom/internal/store/memory"
)

// publicKey is the key that DATA/audit-key.pem has.
func publicKey(t *testing.T, dir string) crypto.PublicKey {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, "audit-key.pem"))
	must(t, err)
	key, err := audit.ParsePublicKey(text)
	must(t, err)
	return key
}

// recorded are the records of a log.
func recorded(t *testing.T, dir string) (list []audit.Record) {
	t.Helper()
	_, err := audit.Show(context.Background(), dir, audit.Filter{}, func(r audit.Record) error {
		list = append(list, r)
		return nil
	})
	must(t, err)
	return list
}

// Covers L1, L2: what is asked of each plane is in the log of a real server, which goes on over restarts and holds
// under its key.
func TestAuditLogOfAServer(t *testing.T) {
	dir := t.TempDir()
	r := begin(t, Options{Dev: true, DataDir: dir}, "dev.env")
	alpha := r.env["STRONGROOM_HSM_ALPHA_URL"]
	token := r.token("https://0.0.1:" + port(t, alpha))
	r.get(alpha+"/keys?api-version=7.4", token)
	r.get(alpha+"/keys/canary?api-version=7.4&canary=canary", "")
	r.get(alpha+"/canary/%63?canary", token)
	r.get(r.env["STRONGROOM_AUTHORITY"]+"/subscriptions?api-version=2022-12-01", r.token("https://management.azure.com"))
	r.get(r.env["STRONGROOM_AUTHORITY"]+"/common/discovery/instance?api-version=1.1", "") // tells everybody the same
	wrong := url.Values{"grant_type": {"client_credentials"}, "client_id": {"canary"}, "client_secret": {"canary"}, "scope": {"https://management.azure.com/.default"}}
	answer, err := r.client.PostForm(r.env["STRONGROOM_AUTHORITY"]+"/"+r.env["STRONGROOM_TENANT"]+"/oauth2/v2.0/token", wrong)
	must(t, err)
	must(t, answer.Body.Close())
	r.stop()
	r = begin(t, Options{Dev: true, DataDir: dir}, "dev.env")
	r.get(alpha+"/keys?api-version=7.4", token)
	r.stop()

	result, err := audit.Verify(t.Context(), dir, audit.VerifyOptions{Keys: []crypto.PublicKey{publicKey(t, dir)}})
	must(t, err)
	if !result.OK() {
		t.Errorf("the log does not verify: %+v", result.Findings)
	}
	list := recorded(t, dir)
	var lines []string
	for _, r := range list {
		who := "somebody"
		if r.Principal == "" {
			who = "nobody"
		}
		lines = append(lines, strings.Join([]string{r.Plane, r.Operation, who, r.HSMName, r.Outcome, r.Code}, " "))
		if r.Source != "127.0.0.1" || r.Request == "" || r.Time.IsZero() {
			t.Errorf("incomplete: %+v", r)
		}
	}
	want := []string{
		"identity IssueToken somebody  allowed ",
		"data GetKeys somebody alpha refused HsmNotActivated",
		"data none nobody  refused Unauthorized",
		"data none nobody  refused BadParameter",
		"identity IssueToken somebody  allowed ",
		"control ListSubscriptions somebody  allowed ",
		"identity IssueToken nobody  refused invalid_client",
		"data GetKeys somebody alpha refused HsmNotActivated",
	}
	if !slices.Equal(lines, want) {
		t.Errorf("recorded:\n%s\nwant:\n%s", strings.Join(lines, "\n"), strings.Join(want, "\n"))
	}
	text, _ := json.Marshal(list)
	if strings.Contains(string(text), "canary") || strings.Contains(string(text), token) {
		t.Errorf("what a stranger wrote, or a token, is in the log: %s", text)
	}
}

// whenReady is a standard output that does something once the server has said that it is ready.
type whenReady func()

func (w whenReady) Write(p []byte) (int, error) {
	if strings.HasPrefix(string(p), "ready") {
		w()
	}
	return len(p), nil
}

// A log that is gone or was put back stops the start, with what to do; nothing is made in its place.
func TestAuditLogThatIsNotTheOne(t *testing.T) {
	dir := t.TempDir()
	begin(t, Options{Dev: true, DataDir: dir}, "dev.env").stop()
	kept := filepath.Join(t.TempDir(), "kept")
	must(t, os.CopyFS(kept, os.DirFS(filepath.Join(dir, "audit"))))
	r := begin(t, Options{Dev: true, DataDir: dir}, "dev.env")
	for range 3 {
		r.get(r.env["STRONGROOM_HSM_ALPHA_URL"]+"/keys?api-version=7.4", "")
	}
	r.stop()
	start := func(fresh bool) error {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		return Run(ctx, Options{Dev: true, DataDir: dir, Listen: "127.0.0.1:0", NewAuditLog: fresh, Stdout: whenReady(cancel), Stderr: &syncBuffer{}})
	}
	now := filepath.Join(t.TempDir(), "now")
	must(t, os.Rename(filepath.Join(dir, "audit"), now))
	if err := start(false); err == nil || !strings.Contains(err.Error(), "--new-audit-log") {
		t.Errorf("without its log: %v", err)
	} else if strings.Count(err.Error(), dir) != 1 {
		t.Errorf("it is said more than once where: %v", err)
	}
	if _, err := os.Lstat(filepath.Join(dir, "audit")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("something was made in its place: %v", err)
	}
	must(t, os.RemoveAll(filepath.Join(dir, "audit")))
	must(t, os.CopyFS(filepath.Join(dir, "audit"), os.DirFS(kept)))
	for _, fresh := range []bool{false, true} { // a log that is there is never left behind silently
		if err := start(fresh); err == nil || !strings.Contains(err.Error(), "audit verify") {
			t.Errorf("with an older copy, fresh %t: %v", fresh, err)
		}
	}
	must(t, os.RemoveAll(filepath.Join(dir, "audit")))
	must(t, os.CopyFS(filepath.Join(dir, "audit"), os.DirFS(now)))
	if err := start(false); err != nil {
		t.Errorf("with its own log again: %v", err)
	}
	must(t, os.RemoveAll(filepath.Join(dir, "audit")))
	if err := start(true); err != nil {
		t.Errorf("a new log, as asked: %v", err)
	}
	if _, err := audit.Verify(t.Context(), dir, audit.VerifyOptions{}); err != nil {
		t.Errorf("the new log: %v", err)
	}
}

// What the planes know of a call is in its record, each thing at its place.
func TestEntryOfACall(t *testing.T) {
	c := &record.Call{Request: "request", ClientRequest: "client", Caller: access.Caller{ObjectID: "object", AppID: "app", Issuer: "issuer"}, Source: "source", HSM: "name", HSMID: "id",
		Operation: "operation", Action: "action", Key: "key", Version: "version", Authority: "authority", Recipient: "recipient",
		Scope: "scope", Object: "thing", Role: "role", Assignee: "assignee"}
	got := recorder{plane: audit.PlaneData}.entry(c, audit.PhaseIntent)
	got.Time = time.Time{}
	want := audit.Record{Phase: audit.PhaseIntent, Plane: audit.PlaneData, Request: "request", ClientRequest: "client", Principal: "object", App: "app", Issuer: "issuer", Source: "source",
		HSM: "id", HSMName: "name", Operation: "operation", Action: "action", Key: "key", Version: "version", Authority: "authority", Recipient: "recipient",
		Scope: "scope", Object: "thing", Role: "role", Assignee: "assignee"}
	if got != want {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

// Covers L2, B5: what a job does when nobody calls is in the log, under the job and whoever began it.
func TestJobsAreInTheLog(t *testing.T) {
	dir := t.TempDir()
	sl, err := seal.CreateFile(filepath.Join(dir, "seal.json"), rand.Reader)
	must(t, err)
	st := memory.New()
	log := slog.New(slog.DiscardHandler)
	hsms := hsm.New(hsm.Config{Store: st, Seal: sl, Authorizer: access.NewAuthorizer(st, sl), Now: time.Now, Rand: rand.Reader, Log: log})
	defer hsms.Close()
	a, err := Config{Data: dir}.openAudit(t.Context(), st, sl, hsms, log, false)
	must(t, err)
	j := backup.Job{ID: "job", By: "principal", Key: "key"}
	for _, e := range []backup.Event{
		{Job: j, HSM: "name", HSMID: "id", Operation: "FullRestoreRoles", Action: access.AssignmentsWrite, Folder: "mhsm-a-2026112509301500", Intent: true},
		{Job: j, HSM: "name", HSMID: "id", Operation: "FullRestoreRoles", Action: access.AssignmentsWrite, Folder: "mhsm-a-2026112509301500", Intended: true, Took: time.Second},
		{Job: backup.Job{ID: "job", By: backup.Server, Scheduled: true}, HSM: "name", HSMID: "id", Operation: "FullBackupEnded", Action: access.BackupStart, Code: "Interrupted"},
	} {
		must(t, a.job(t.Context(), e))
	}
	must(t, a.close())
	want := audit.Record{Kind: audit.KindCall, Phase: audit.PhaseIntent, Request: "job", Plane: audit.PlaneData, Principal: "principal", HSM: "id", HSMName: "name", Operation: "FullRestoreRoles",
		Action: string(access.AssignmentsWrite), Key: "key", Backup: "mhsm-a-2026112509301500"}
	second, third := want, want
	second.Number, second.Phase, second.Outcome, second.Duration = 1, audit.PhaseOutcome, audit.Allowed, 1_000_000
	third.Number, third.Phase, third.Operation, third.Action, third.Outcome, third.Code = 2, "", "FullBackupEnded", string(access.BackupStart), audit.Failed, "Interrupted"
	third.Plane, third.Principal, third.Key, third.Backup = audit.PlaneServer, "server", "", ""
	got := recorded(t, filepath.Join(dir, "audit"))
	for i := range got {
		got[i].Time = time.Time{}
	}
	if d := cmp.Diff([]audit.Record{want, second, third}, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	if err := a.job(t.Context(), backup.Event{Operation: "FullRestoreEnded", Intent: true}); err == nil {
		t.Error("a log that is closed took a record")
	}
	if err := (*auditor)(nil).job(t.Context(), backup.Event{}); err != nil {
		t.Errorf("without a log: %v", err)
	}
}
