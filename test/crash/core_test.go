package crash_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"strongroom/test/harness"
)

// Covers K12: SIGABRT, SIGQUIT and SIGSEGV end a server that is told to crash as loudly as Go can, in a process that may
// write core files as large as the limit lets it, and there is none: the kernel itself says so. A shell in its place
// leaves one, or nobody here could.
func TestSignalsLeaveNoCore(t *testing.T) {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_CORE, &limit); err != nil || limit.Max == 0 {
		t.Fatalf("core files are forbidden here from outside (hard limit %d, %v); run this test without that limit", limit.Max, err)
	}
	dumped := func(dir string, state *os.ProcessState) (bool, []string) {
		files, err := filepath.Glob(filepath.Join(dir, "core*"))
		if err != nil {
			t.Fatal(err)
		}
		return state.Sys().(syscall.WaitStatus).CoreDump(), files
	}
	const allowed = `ulimit -c "$(ulimit -H -c)" && cd "$0" && `
	plain := t.TempDir()
	shell := exec.Command("sh", "-c", allowed+`kill -ABRT $$`, plain)
	_ = shell.Run()
	if kernel, _ := dumped(plain, shell.ProcessState); !kernel {
		t.Fatalf("a process that may write its core does not (%v): the test would show nothing", shell.ProcessState)
	}
	for _, signal := range []syscall.Signal{syscall.SIGABRT, syscall.SIGQUIT, syscall.SIGSEGV} {
		t.Run(signal.String(), func(t *testing.T) {
			dir := t.TempDir()
			s, err := harness.TryStart(filepath.Join(dir, "data"), harness.Options{Binary: server, Env: []string{"GOTRACEBACK=crash"}, Wrap: []string{"sh", "-c", allowed + `exec "$@"`, dir}})
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Cmd.Process.Signal(signal); err != nil {
				t.Fatal(err)
			}
			<-s.Exited()
			kernel, files := dumped(dir, s.Cmd.ProcessState)
			if s.ExitError() == nil || !strings.Contains(s.Log.String(), "goroutine ") {
				t.Errorf("it did not crash: %v", s.ExitError())
			}
			if kernel || len(files) > 0 {
				t.Errorf("core dumped: %t, files %v, %v", kernel, files, s.Cmd.ProcessState)
			}
		})
	}
}
