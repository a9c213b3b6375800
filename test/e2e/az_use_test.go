package e2e_test

import (
	"os/exec"
	"strings"
	"testing"
)

// Keys of every kind with Debian's Azure CLI: made, imported, and used.
func TestAzKeyUse(t *testing.T) {
	s := start(t)
	activate(t, s, "alpha")
	cmd := exec.Command("./az-keyuse.sh")
	cmd.Env = append(azEnv(t, s, "alpha"), "OUT="+t.TempDir())
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Fatalf("az-keyuse.sh: %v\nserver log:\n%s", err, s.Log)
	}
	if !strings.Contains(string(out), "done: keys of every kind") {
		t.Fatal("the script did not reach its end")
	}
}
