package e2e_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// worker is a principal that has no role until a test gives it one.
const worker = "5d2c1a40-0000-4000-8000-00000000000a"

// Roles with Debian's Azure CLI.
func TestAzRoles(t *testing.T) {
	s := start(t)
	activate(t, s, "alpha")
	script, err := filepath.Abs("az-roles.sh")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(script)
	cmd.Dir = t.TempDir()
	cmd.Env = append(azEnv(t, s, "alpha"), "WORKER="+worker, "MAY="+binary+" access check --url "+s.URL(t, "alpha"))
	for name, value := range s.Env {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Fatalf("az-roles.sh: %v\nserver log:\n%s", err, s.Log)
	}
	if !strings.Contains(string(out), "done: roles were made, given, changed and taken away") {
		t.Fatal("the script did not reach its end")
	}
}

// Roles and settings with the stock Python SDK, on an HSM that was made through the control plane.
func TestPythonAccessControl(t *testing.T) {
	s := start(t)
	s.Run(t, "hsm", "create", "gamma")
	if err := s.ReadEnv(); err != nil {
		t.Fatal(err)
	}
	activate(t, s, "gamma")
	// Debian's own interpreter: another one that comes first on the path would not see Debian's packages.
	cmd := exec.Command("/usr/bin/python3", "-B", filepath.Join("py", "access_control.py"))
	for _, line := range os.Environ() { // of the caller's environment, what does not lead it elsewhere
		name, _, _ := strings.Cut(strings.ToUpper(line), "=")
		if !strings.HasSuffix(name, "_PROXY") && !strings.HasPrefix(name, "AZURE_") && name != "PYTHONPATH" {
			cmd.Env = append(cmd.Env, line)
		}
	}
	for name, value := range s.Env {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	cmd.Env = append(cmd.Env, "HSM_URL="+s.URL(t, "gamma"), "WORKER="+worker, "REQUESTS_CA_BUNDLE="+s.Env["STRONGROOM_CA"])
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Fatalf("access_control.py: %v\nserver log:\n%s", err, s.Log)
	}
	if !strings.HasSuffix(strings.TrimSpace(string(out)), "done") {
		t.Fatal("the script did not reach its end")
	}
}
