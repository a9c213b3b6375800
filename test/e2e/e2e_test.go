// Package e2e_test drives a real server process with real clients: Debian's Azure CLI, the Azure SDK for Go and
// our own command line. It is the proof that unmodified clients work. Every answer that the data plane gives them
// is held against the official OpenAPI documents.
package e2e_test

import (
	"os"
	"path/filepath"
	"testing"

	"strongroom/test/contract"
	"strongroom/test/harness"
)

var (
	binary    string              // the shipped program, built once: for client commands, and where a test says why
	recorder  string              // the server that writes its exchanges down
	documents *contract.Documents // what they are held against
)

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "strongroom-e2e-")
	if err != nil {
		panic(err)
	}
	if documents, err = contract.Load("../../testdata/openapi"); err != nil {
		panic(err)
	}
	binary = harness.Build(dir, "strongroom/cmd/strongroom")
	recorder = harness.Build(dir, "strongroom/test/recorder")
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// start runs a server on a folder of its own; see startIn.
func start(t *testing.T, args ...string) *harness.Server {
	t.Helper()
	return startIn(t, t.TempDir(), args...)
}

// startIn runs a server until the test ends. Then every answer of its data plane is held against the OpenAPI
// documents, and there must have been one.
func startIn(t *testing.T, dir string, args ...string) *harness.Server {
	t.Helper()
	s, _ := startRecorded(t, dir, harness.Options{Args: args})
	return s
}

// startRecorded is startIn with options, of which it sets the programs, and for a test that reads the exchanges itself,
// after it has stopped the server.
func startRecorded(t *testing.T, dir string, o harness.Options) (s *harness.Server, exchanges string) {
	t.Helper()
	exchanges = filepath.Join(t.TempDir(), "exchanges.jsonl")
	t.Cleanup(func() { // registered before the one that stops the server, and so run after it
		if s != nil {
			documents.Verify(t, exchanges)
		}
	})
	o.Binary, o.Client, o.Env = recorder, binary, append(o.Env, "RECORDER_FILE="+exchanges)
	s = harness.Start(t, dir, o)
	return s, exchanges
}
