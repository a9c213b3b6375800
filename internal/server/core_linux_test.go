package server

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const coreChild = "STRONGROOM_CORE_CHILD"

// Covers K12: SIGABRT, SIGQUIT and SIGSEGV end a server that is set up to crash as loudly as Go can, in a process that
// may write core files of any size, and there is none: the kernel itself says so. A process that is not a server leaves
// one. (Run as root, as the limit that the test lifts may be a hard one.)
func TestSignalsLeaveNoCore(t *testing.T) {
	switch os.Getenv(coreChild) {
	case "server":
		allowCores(t)
		dir := os.Getenv("STRONGROOM_CORE_DATA")
		must(t, Run(t.Context(), Options{Dev: true, DataDir: dir, Listen: "127.0.0.1:0", Stdout: os.Stdout, Stderr: os.Stderr}))
		return
	case "plain":
		allowCores(t)
		_, _ = os.Stdout.WriteString("ready to crash\n")
		time.Sleep(time.Hour)
	}
	for _, kind := range []string{"plain", "server"} {
		for _, signal := range []syscall.Signal{syscall.SIGABRT, syscall.SIGQUIT, syscall.SIGSEGV} {
			t.Run(kind+" "+signal.String(), func(t *testing.T) {
				dir := t.TempDir()
				child := exec.Command(os.Args[0], "-test.run=^TestSignalsLeaveNoCore$")
				child.Dir = dir
				child.Env = append(os.Environ(), coreChild+"="+kind, "STRONGROOM_CORE_DATA="+filepath.Join(dir, "data"), "GOTRACEBACK=crash")
				out, err := child.StdoutPipe()
				must(t, err)
				must(t, child.Start())
				lines := bufio.NewScanner(out)
				ready := false
				for !ready && lines.Scan() {
					ready = strings.HasPrefix(lines.Text(), "ready ")
				}
				if !ready {
					_ = child.Process.Kill()
					_ = child.Wait()
					t.Fatal("the child is not ready")
				}
				must(t, child.Process.Signal(signal))
				for lines.Scan() { // until it is gone
				}
				_ = child.Wait()
				status := child.ProcessState.Sys().(syscall.WaitStatus)
				cores, err := filepath.Glob(filepath.Join(dir, "core*"))
				must(t, err)
				if kind == "server" && (status.CoreDump() || len(cores) > 0 || !status.Signaled() && status.ExitStatus() == 0) {
					t.Errorf("core dumped: %t, files %v, %v", status.CoreDump(), cores, child.ProcessState)
				}
				if kind == "plain" && !status.CoreDump() {
					t.Errorf("a process that may dump its core does not (%v): the test shows nothing here", child.ProcessState)
				}
			})
		}
	}
}

// allowCores lets this process write core files of any size.
func allowCores(t *testing.T) {
	t.Helper()
	must(t, unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}))
	must(t, unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0))
}
