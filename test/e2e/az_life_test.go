package e2e_test

import (
	"os/exec"
	"strings"
	"testing"
)

// The life of a key with Debian's Azure CLI.
func TestAzKeyLife(t *testing.T) {
	s := start(t)
	activate(t, s, "alpha")
	cmd := exec.Command("./az-keylife.sh")
	cmd.Env = azEnv(t, s, "alpha")
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Fatalf("az-keylife.sh: %v\nserver log:\n%s", err, s.Log)
	}
	if !strings.Contains(string(out), "done: the key lived and is gone") {
		t.Fatal("the script did not reach its end")
	}
}
