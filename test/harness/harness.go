// Package harness starts real server processes for tests and benchmarks, and talks to them.
package harness

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Build builds a main package of the module into dir and returns the path of the program. It panics on failure,
// as it is called from TestMain.
func Build(dir, pkg string) string {
	out := filepath.Join(dir, filepath.Base(pkg))
	build := exec.Command("go", "build", "-buildvcs=false", "-o", out, pkg)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if msg, err := build.CombinedOutput(); err != nil {
		panic(fmt.Sprintf("build %s: %v\n%s", pkg, err, msg))
	}
	return out
}

// Log collects what a process writes; safe to read while it writes.
type Log struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// Server is a running `serve`.
type Server struct {
	Dir    string
	Env    map[string]string // dev.env, or administrator.env in production
	Log    *Log              // stderr
	Lines  chan string       // stdout after the ready line
	Binary string            // the program, also used for client commands
	Cmd    *exec.Cmd

	env    string // name of the file of Env
	exited chan struct{}
	err    error
}

// Options of Start.
type Options struct {
	Binary string   // the server program
	Client string   // the program for client commands; default Binary
	Wrap   []string // put before the command line: strace and its flags
	Config string   // configuration file of a production server that issues tokens; "" starts a development server
	Args   []string // after serve --dev --data DIR
	Env    []string
	Listen string // default 127.0.0.1:0
}

// TryStart starts a server on dir and waits until it is ready. The error has what it printed.
func TryStart(dir string, o Options) (*Server, error) {
	if o.Client == "" {
		o.Client = o.Binary
	}
	if o.Listen == "" {
		o.Listen = "127.0.0.1:0"
	}
	s := &Server{Dir: dir, Log: &Log{}, Lines: make(chan string, 64), Binary: o.Client, env: "dev.env", exited: make(chan struct{})}
	line := append(append([]string{}, o.Wrap...), o.Binary, "serve", "--data", dir, "--listen", o.Listen)
	if o.Config == "" {
		line = append(line, "--dev")
	} else {
		line, s.env = append(line, "--config", o.Config), "administrator.env"
	}
	line = append(line, o.Args...)
	s.Cmd = exec.Command(line[0], line[1:]...)
	s.Cmd.Env = append(os.Environ(), o.Env...)
	s.Cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stdout, err := s.Cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	s.Cmd.Stderr = s.Log
	if err := s.Cmd.Start(); err != nil {
		return nil, err
	}
	ready := make(chan struct{})
	go func() {
		var once sync.Once
		scanner := bufio.NewScanner(stdout)
		for scanner.Scan() {
			if strings.HasPrefix(scanner.Text(), "ready") {
				once.Do(func() { close(ready) })
				continue
			}
			select {
			case s.Lines <- scanner.Text():
			default:
			}
		}
		_, _ = io.Copy(io.Discard, stdout)
		s.err = s.Cmd.Wait()
		close(s.exited)
	}()
	select {
	case <-ready:
	case <-s.exited:
		return s, fmt.Errorf("the server ended before it was ready: %v\n%s", s.err, s.Log)
	case <-time.After(90 * time.Second):
		s.Kill()
		return s, fmt.Errorf("the server is not ready after 90 seconds\n%s", s.Log)
	}
	return s, s.ReadEnv()
}

// Start is TryStart that fails the test, and stops the server at its end.
func Start(t testing.TB, dir string, o Options) *Server {
	t.Helper()
	s, err := TryStart(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Errorf("the server did not stop cleanly: %v\n%s", err, s.Log)
		}
	})
	return s
}

// ReadEnv reads the file of credentials and addresses again, after an HSM was made.
func (s *Server) ReadEnv() error {
	raw, err := os.ReadFile(filepath.Join(s.Dir, s.env))
	if err != nil {
		return err
	}
	s.Env = map[string]string{}
	for line := range strings.Lines(string(raw)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		s.Env[name] = strings.Trim(value, "'")
	}
	return nil
}

// Stop ends the server as an operator would. It is no error if the server has ended already.
func (s *Server) Stop() error {
	select {
	case <-s.exited:
		return nil
	default:
	}
	_ = s.Cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-s.exited:
		return s.err
	case <-time.After(30 * time.Second):
		s.Kill()
		return fmt.Errorf("it still ran 30 seconds after SIGTERM")
	}
}

// Kill is kill -9 of the server and of what wraps it, and waits for the end.
func (s *Server) Kill() {
	_ = syscall.Kill(-s.Cmd.Process.Pid, syscall.SIGKILL)
	<-s.exited
}

// ExitError is how the process ended; call it after Exited is closed. Nil means exit status 0.
func (s *Server) ExitError() error { return s.err }

// Exited is closed when the process has ended.
func (s *Server) Exited() <-chan struct{} { return s.exited }

// URL is the address of an HSM.
func (s *Server) URL(t testing.TB, hsm string) string {
	t.Helper()
	u := s.Env["STRONGROOM_HSM_"+strings.ToUpper(strings.ReplaceAll(hsm, "-", "_"))+"_URL"]
	if u == "" {
		t.Fatalf("%s names no HSM %s", s.env, hsm)
	}
	return u
}

// Environ is the process environment for strongroom's own client commands.
func (s *Server) Environ() []string {
	env := os.Environ()
	for k, v := range s.Env {
		env = append(env, k+"="+v)
	}
	return env
}

// Run runs a client command and returns what it printed on stdout; a failure fails the test.
func (s *Server) Run(t testing.TB, args ...string) string {
	t.Helper()
	out, err := s.Try(args...)
	if err != nil {
		t.Fatalf("strongroom %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// Try runs a client command. On failure the text has stdout and stderr.
func (s *Server) Try(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, s.Binary, args...)
	cmd.Env = s.Environ()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String() + stderr.String(), err
	}
	return stdout.String(), nil
}
