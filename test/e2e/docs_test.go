package e2e_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"strongroom/test/azurite"
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

// allBlocks returns the shell blocks of a whole page, which has no other kind.
func allBlocks(t *testing.T, page string, want int) string {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	fences := 0
	for line := range strings.Lines(string(text)) {
		switch {
		case line == "```\n":
			fences++
		case strings.HasPrefix(line, "```"):
			t.Fatalf("%s has a block of another kind: %s", page, line)
		case fences%2 == 1:
			b.WriteString(line)
		}
	}
	if fences != 2*want {
		t.Fatalf("%s: %d fences, want %d; a block that is not run is a promise", page, fences, 2*want)
	}
	return b.String()
}

// workplace is a folder as a newcomer has it after `make run`: bin/strongroom, ./data with a running server, the pages.
// The commands of the pages run the shipped program; the server is the one that records, which differs in that only.
func workplace(t *testing.T) (string, *harness.Server) {
	t.Helper()
	dir := tree(t)
	return dir, startIn(t, filepath.Join(dir, "data"))
}

// tree is that folder before `make run`.
func tree(t *testing.T) string {
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
	return dir
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

// The page on the Azure CLI: its sign-ins and its ceremony, as they stand there, with the stand-in for the libraries that
// Debian's package lacks.
func TestAzureCLIPage(t *testing.T) {
	dir := tree(t)
	s, storage := startWithStorage(t, filepath.Join(dir, "data"))
	storage.NewContainer(t, "backups")
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	script := `
. "$HERE/az-session.sh"
export PYTHONPATH=$_AZS_SHIM
export AZURE_CORE_COLLECT_TELEMETRY=no AZURE_CORE_ONLY_SHOW_ERRORS=yes
set -x
` + blocks(t, "../../docs/azure-cli.md", "Sign in", 1) + blocks(t, "../../docs/azure-cli.md", "Ceremony", 1) + blocks(t, "../../docs/azure-cli.md", "Roles", 1) +
		blocks(t, "../../docs/azure-cli.md", "Backup and restore", 3) + `
az keyvault role assignment list --hsm-name $H1 --scope /keys/invoices --query '[].roleName' -o tsv
az keyvault key show --hsm-name $H2 -n invoices --query key.kty -o tsv
` + blocks(t, "../../docs/azure-cli.md", "Sign a user in", 1) + `
az account show --query 'user.{name: name, type: type}' -o tsv
`
	cmd := exec.Command("bash", "-euc", script)
	cmd.Dir = dir
	cmd.Env = append(azEnv(t, s, "alpha"), "HERE="+here, "HOME="+t.TempDir(), "STORAGE_SUFFIX="+storage.Suffix, "ACCOUNT="+azurite.Account, "ACCOUNT_KEY="+azurite.Key)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s\nserver log:\n%s", err, out, s.Log)
	}
	if n := len(storage.Blobs(t, "backups")); n < 3 {
		t.Errorf("the container has %d blobs, which is no backup", n)
	}
	if !strings.Contains(string(out), "\nRSA-HSM\n") {
		t.Errorf("the key is not on the second HSM:\n%s", out)
	}
	if !strings.Contains(string(out), "\nanna\tuser\n") {
		t.Errorf("the user is not signed in:\n%s", out)
	}
	if !strings.Contains(string(out), "\nManaged HSM Crypto Auditor\n") {
		t.Errorf("the role at the key was not given:\n%s", out)
	}
}

// The guide to keys, every command of it, as it stands there, on an HSM that was taken into possession as the README does it.
func TestKeysPage(t *testing.T) {
	dir, s := workplace(t)
	script := `
set -a; . data/dev.env; set +a
for i in ann bo cy; do bin/strongroom custodian new $i --bits 2048 --out ceremony; done
bin/strongroom domain download --url alpha --quorum 2 --out ceremony/SD.json --custodian ceremony/ann.cer --custodian ceremony/bo.cer --custodian ceremony/cy.cer
set -x
` + allBlocks(t, "../../docs/keys.md", 22)
	cmd := exec.Command("bash", "-euo", "pipefail", "-c", script)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "HOME="+t.TempDir())
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s\nserver log:\n%s", err, out, s.Log)
	}
	for text, want := range map[string]int{"the signature holds": 3, "Verified OK": 1, "three hundred ducats": 2, "the attestation holds": 2, "released key": 1} {
		if n := strings.Count(string(out), text); n < want {
			t.Errorf("%q is there %d times, want %d:\n%s", text, n, want, out)
		}
	}
}
