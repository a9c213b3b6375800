// Package e2e_test drives a real server process with real clients: Debian's Azure CLI, the Azure SDK for Go and
// our own command line. It is the proof that unmodified clients work.
package e2e_test

import (
	"os"
	"testing"

	"strongroom/test/harness"
)

// binary is the program under test, built once.
var binary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "strongroom-e2e-")
	if err != nil {
		panic(err)
	}
	binary = harness.Build(dir, "strongroom/cmd/strongroom")
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

func start(t *testing.T, args ...string) *harness.Server {
	t.Helper()
	return harness.Start(t, t.TempDir(), harness.Options{Binary: binary, Args: args})
}
