package crash_test

import (
	"context"
	"crypto"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"strongroom/internal/audit"
	"strongroom/test/harness"
)

// recorded fails for every key that was answered and whose making has no record, and if the log does not verify under
// the server's key. Covers L1, L4 over deaths of every kind.
func recorded(t *testing.T, dir string, answered map[string]bool) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, "audit-key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	key, err := audit.ParsePublicKey(text)
	if err != nil {
		t.Fatal(err)
	}
	result, err := audit.Verify(t.Context(), dir, audit.VerifyOptions{Keys: []crypto.PublicKey{key}})
	if err != nil {
		t.Fatal(err)
	}
	if !result.OK() {
		t.Errorf("the audit log does not verify: %+v", result.Findings)
	}
	intents, outcomes, cut := map[string]bool{}, map[string]bool{}, 0
	_, err = audit.Show(context.Background(), dir, audit.Filter{}, func(r audit.Record) error {
		switch {
		case r.Kind == audit.KindRecovered:
			cut++
		case r.Operation == "CreateKey" && r.Phase == audit.PhaseIntent:
			intents[r.Key] = true
		case r.Operation == "CreateKey" && r.Phase == audit.PhaseOutcome && r.Outcome == audit.Allowed:
			outcomes[r.Key] = true
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for name := range answered {
		if !intents[name] || !outcomes[name] {
			t.Errorf("key %s was answered: intent recorded %t, outcome recorded %t", name, intents[name], outcomes[name])
		}
	}
	t.Logf("%d answers, %d intents and %d outcomes in the audit log, whose end was torn %d times", len(answered), len(intents), len(outcomes), cut)
}

// An audit log that finds no space stops every call, what changes something before it is done, and lets them go on by
// itself when there is space again. Covers L1, R3.
func TestFullAuditDisk(t *testing.T) {
	mount := filepath.Join(t.TempDir(), "mnt")
	if err := os.Mkdir(mount, 0o755); err != nil {
		t.Fatal(err)
	}
	run(t, "mount", "-t", "tmpfs", "-o", "size=1M", "tmpfs", mount)
	t.Cleanup(func() { _ = exec.Command("umount", "-l", mount).Run() })
	dir := t.TempDir()
	s := harness.Start(t, dir, harness.Options{Binary: server, Args: []string{"--audit-folder", filepath.Join(mount, "audit")}})
	alpha := s.URL(t, "alpha")
	if err := download(s, alpha, custodians(t), filepath.Join(t.TempDir(), "SD.json")); err != nil {
		t.Fatal(err)
	}
	filler := filepath.Join(mount, "filler")
	fill(t, filler)
	answered := map[string]bool{}
	var err error
	var out string
	for i := 0; i < 1000; i++ { // the log's last page may have room
		name := fmt.Sprintf("k-%d", i)
		if out, err = s.Try("key", "create", name, "--kty", "EC", "--url", alpha); err != nil {
			break
		}
		answered[name] = true
	}
	if err == nil || !strings.Contains(out, "AuditUnavailable") && !strings.Contains(out, "audit log cannot be written") {
		t.Fatalf("with a full audit disk: %v %s", err, out)
	}
	for _, call := range [][]string{{"key", "list"}, {"key", "show", "k-0"}, {"key", "create", "never", "--kty", "EC"}, {"key", "rng", "--bytes", "8", "--out", "-"}, {"domain", "status"}} {
		if out, err := s.Try(append(call, "--url", alpha)...); err == nil {
			t.Errorf("%s was answered without a record: %s", strings.Join(call, " "), out)
		}
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	list := s.Run(t, "key", "list", "--url", alpha, "--output", "json")
	if strings.Contains(list, "never") {
		t.Error("a key was made without a record")
	}
	if s.Run(t, "key", "create", "after", "--kty", "EC", "--url", alpha); !strings.Contains(s.Log.String(), "audit") {
		t.Error("the log said nothing of the audit log")
	}
}

// A sync of the audit log that fails is not tried again: the call has no answer, and the server ends. Covers L1, R1.
func TestFailingAuditSyncStopsTheServer(t *testing.T) {
	dir := t.TempDir()
	s, err := harness.TryStart(dir, harness.Options{Binary: server})
	if err != nil {
		t.Fatal(err)
	}
	alpha := s.URL(t, "alpha")
	_ = status(t, s, alpha)
	segments, err := filepath.Glob(filepath.Join(dir, "audit", "*"))
	if err != nil || len(segments) == 0 {
		t.Fatalf("no audit log: %v", err)
	}
	args := []string{"-f", "-p", fmt.Sprint(s.Cmd.Process.Pid), "-e", "trace=fdatasync,fsync", "-e", "inject=fdatasync,fsync:error=EIO:when=1+"}
	for _, segment := range segments {
		args = append(args, "-P", segment)
	}
	tracer := exec.Command("strace", args...)
	var log harness.Log
	tracer.Stderr = &log
	if err := tracer.Start(); err != nil {
		t.Fatalf("strace: %v", err)
	}
	waitFor(t, func() bool { return strings.Contains(log.String(), "attached") }, "strace to attach")
	if out, err := s.Try("domain", "status", "--url", alpha); err == nil {
		t.Errorf("a call whose record could not be synced was answered: %s", out)
	}
	select {
	case <-s.Exited():
	case <-time.After(30 * time.Second):
		t.Fatalf("the server goes on after a failed sync of its audit log\n%s\n%s", s.Log, log.String())
	}
	_ = tracer.Wait()
	if s.ExitError() == nil || !strings.Contains(log.String(), "EIO") {
		t.Errorf("ended with %v; strace: %s", s.ExitError(), log.String())
	}
	after := harness.Start(t, dir, harness.Options{Binary: server})
	_ = status(t, after, after.URL(t, "alpha"))
	if err := after.Stop(); err != nil {
		t.Fatal(err)
	}
	recorded(t, dir, nil)
}
