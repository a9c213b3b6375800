package cli

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// The command line is tested by scripts that read as its manual: testdata/script/*.txtar. Each runs the real
// program, as a process of its own.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"strongroom": func() {
			ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt) // as cmd/strongroom does
			code := Main(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
			stop()
			os.Exit(code)
		},
	})
}

func TestScripts(t *testing.T) {
	const scripts = "testdata/script"
	files, err := filepath.Glob(scripts + "/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts in %s (%v)", scripts, err)
	}
	golden, err := filepath.Abs("../../testdata/securitydomain")
	if err != nil {
		t.Fatal(err)
	}
	auditLog, err := filepath.Abs("../audit/testdata/v1")
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir: scripts,
		Setup: func(env *testscript.Env) error {
			env.Setenv("GOLDEN", golden) // security domains that other software made
			env.Setenv("AUDIT", auditLog)
			env.Setenv("NO_COLOR", "1")
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"source":    source,
			"await":     await,
			"answers":   answers,
			"mode":      mode,
			"exit":      exit,
			"damage":    damage,
			"jsonfield": jsonField,
			"flip":      flip,
		},
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		UpdateScripts:       os.Getenv("UPDATE_SCRIPTS") != "",
	})
}

// source FILE sets the variables of a file of lines NAME=VALUE, as `set -a; . FILE; set +a` does in a shell.
func source(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: source FILE")
	}
	env, err := readEnv(ts.MkAbs(args[0]))
	ts.Check(err)
	for name, value := range env {
		ts.Setenv(name, value)
	}
}

// await FILE waits until a file that is written atomically is there: dev.env of a server that has become ready.
func await(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: await FILE")
	}
	path := ts.MkAbs(args[0])
	until(ts, "there is no "+args[0], func() bool {
		_, err := os.Stat(path)
		return err == nil
	})
}

// answers URL waits until something listens at the host and port of a URL.
func answers(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: answers URL")
	}
	u, err := url.Parse(args[0])
	ts.Check(err)
	until(ts, "nothing listens at "+u.Host, func() bool {
		conn, err := net.Dial("tcp", u.Host)
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	})
}

// until asks again and again, for a minute at most.
func until(ts *testscript.TestScript, otherwise string, ask func() bool) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(time.Minute)
	for !ask() {
		select {
		case <-tick.C:
		case <-deadline:
			ts.Fatalf("%s, for a minute", otherwise)
		}
	}
}

// mode OCTAL FILE checks a file's permissions.
func mode(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: [!] mode OCTAL FILE")
	}
	info, err := os.Stat(ts.MkAbs(args[1]))
	ts.Check(err)
	got := "0" + octal(info.Mode().Perm())
	if (got == args[0]) == neg {
		ts.Fatalf("%s has mode %s", args[1], got)
	}
}

func octal(m os.FileMode) string {
	return string([]byte{'0' + byte(m>>6&7), '0' + byte(m>>3&7), '0' + byte(m&7)})
}

// exit CODE PROGRAM ARGS… runs a program as exec does, and checks its exit code.
func exit(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exit CODE PROGRAM ARGS…")
	}
	got := "0"
	err := ts.Exec(args[1], args[2:]...)
	if failed, ok := errors.AsType[*exec.ExitError](err); ok {
		got = strconv.Itoa(failed.ExitCode())
	} else {
		ts.Check(err)
	}
	if got != args[0] {
		ts.Fatalf("exit code %s, want %s", got, args[0])
	}
}

// jsonfield VARIABLE FILE NAME sets a variable to a text in the JSON object that a file holds, or in the first of an array of them.
func jsonField(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: jsonfield VARIABLE FILE NAME")
	}
	var object map[string]any
	text := []byte(ts.ReadFile(args[1]))
	if list := []json.RawMessage{}; json.Unmarshal(text, &list) == nil && len(list) > 0 {
		text = list[0]
	}
	ts.Check(json.Unmarshal(text, &object))
	value, ok := object[args[2]].(string)
	if !ok {
		ts.Fatalf("%s has no text %s", args[1], args[2])
	}
	ts.Setenv(args[0], value)
}

// flip FILE N changes one bit of the byte at N in a file. Doing it again changes it back.
func flip(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: flip FILE N")
	}
	n, err := strconv.Atoi(args[1])
	ts.Check(err)
	data := []byte(ts.ReadFile(args[0]))
	if n >= len(data) {
		ts.Fatalf("%s has only %d bytes", args[0], len(data))
	}
	data[n] ^= 1
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), data, 0o600))
}

// damage N FILE changes the first character of the ciphertext of share number N in an SD file.
func damage(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: damage N FILE")
	}
	n, err := strconv.Atoi(args[0])
	ts.Check(err)
	text := ts.ReadFile(args[1])
	at := 0
	for range n {
		const key = `"enc_key"`
		i := strings.Index(text[at:], key)
		if i < 0 {
			ts.Fatalf("%s has no share %d", args[1], n)
		}
		at += i + len(key)
	}
	for range 3 { // header, encrypted key, initialisation vector, ciphertext
		at += strings.IndexByte(text[at:], '.') + 1
	}
	other := "A"
	if text[at] == 'A' {
		other = "B"
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(text[:at]+other+text[at+1:]), 0o600))
}
