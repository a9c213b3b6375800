package e2e_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"strongroom/test/harness"
)

// blocks returns the shell blocks of a page, from the one after the given heading on.
func blocks(t *testing.T, page, heading string, want int) string {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	_, after, found := strings.Cut(string(text), "\n## "+heading+"\n")
	if !found {
		t.Fatalf("%s has no heading %q", page, heading)
	}
	after, _, _ = strings.Cut(after, "\n## ")
	found2 := regexp.MustCompile("(?s)\n```\n(.*?)```").FindAllStringSubmatch(after, -1)
	if len(found2) != want {
		t.Fatalf("%s, %s: %d blocks, want %d; a block that is not run is a promise", page, heading, len(found2), want)
	}
	var b strings.Builder
	for _, m := range found2 {
		b.WriteString(m[1])
	}
	return b.String()
}

// workplace is a folder as a newcomer has it after `make run`: bin/strongroom, ./data with a running server, the pages.
// The commands of the pages run the shipped program; the server is the one that records, which differs in that only.
func workplace(t *testing.T) (string, *harness.Server) {
	t.Helper()
	dir := t.TempDir()
	for _, err := range []error{os.Mkdir(filepath.Join(dir, "bin"), 0o755), os.Symlink(binary, filepath.Join(dir, "bin", "strongroom"))} {
		if err != nil {
			t.Fatal(err)
		}
	}
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "README.md"), readme, 0o644); err != nil {
		t.Fatal(err)
	}
	return dir, startIn(t, filepath.Join(dir, "data"))
}

// The README's story, every command of it, as it stands there.
func TestReadme(t *testing.T) {
	dir, s := workplace(t)
	cmd := exec.Command("bash", "-euxc", blocks(t, "../../README.md", "Take ownership, lose it all, recover", 5))
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "HOME="+t.TempDir())
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s\nserver log:\n%s", err, out, s.Log)
	}
	if !strings.Contains(string(out), "the signature holds") {
		t.Errorf("the story does not end with a signature that holds:\n%s", out)
	}
}

// The page on the Azure CLI: its sign-in and its ceremony, as they stand there, with the stand-in for the libraries that
// Debian's package lacks.
func TestAzureCLIPage(t *testing.T) {
	dir, s := workplace(t)
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	script := `
. "$HERE/az-session.sh"
export PYTHONPATH=$_AZS_SHIM
export AZURE_CORE_COLLECT_TELEMETRY=no AZURE_CORE_ONLY_SHOW_ERRORS=yes
set -x
` + blocks(t, "../../docs/azure-cli.md", "Sign in", 1) + blocks(t, "../../docs/azure-cli.md", "Ceremony", 1) + blocks(t, "../../docs/azure-cli.md", "Roles", 1) + `
az keyvault role assignment list --hsm-name $H1 --scope /keys/invoices --query '[].roleName' -o tsv
az keyvault key show --hsm-name $H2 -n invoices --query key.kty -o tsv
`
	cmd := exec.Command("bash", "-euc", script)
	cmd.Dir = dir
	cmd.Env = append(azEnv(t, s, "alpha"), "HERE="+here, "HOME="+t.TempDir())
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s\nserver log:\n%s", err, out, s.Log)
	}
	if !strings.Contains(string(out), "\nRSA-HSM\n") {
		t.Errorf("the key is not on the second HSM:\n%s", out)
	}
	if !strings.Contains(string(out), "\nManaged HSM Crypto Auditor\n") {
		t.Errorf("the role at the key was not given:\n%s", out)
	}
}
