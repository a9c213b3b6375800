package e2e_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"strongroom/test/azurite"
	"strongroom/test/harness"
)

// startWithStorage runs a server until the test ends, and beside it an account of Azure Blob Storage that the server's
// configuration allows. The server finds the account by its name, and trusts its certificate, as it would in Azure.
func startWithStorage(t *testing.T, dir string) (*harness.Server, *azurite.Storage) {
	t.Helper()
	storage := azurite.Start(t)
	o := harness.Options{Wrap: underHosts(t, storage.URL()).Args, Env: []string{"SSL_CERT_FILE=" + storage.CAFile}}
	for _, host := range storage.Hosts() {
		o.Args = append(o.Args, "--backup-host", host)
	}
	s, _ := startRecorded(t, dir, o)
	return s, storage
}

// Full backup and restore with the stock Python SDK.
func TestPythonBackup(t *testing.T) {
	s, storage := startWithStorage(t, t.TempDir())
	activate(t, s, "alpha")
	container := storage.NewContainer(t, "backups")
	// Debian's own interpreter: another one that comes first on the path would not see Debian's packages.
	cmd := exec.Command("/usr/bin/python3", "-B", filepath.Join("py", "backup.py"))
	runScript(t, s, cmd, s.URL(t, "alpha"), "REQUESTS_CA_BUNDLE="+s.Env["STRONGROOM_CA"], "CONTAINER_URL="+container, "PATH_URL="+storage.PathURL("backups"),
		"ANOTHER_URL=https://another.blob.core.localhost/backups", "BACKUP_SAS="+storage.Token(t, "backups", azurite.Backup), "RESTORE_SAS="+storage.Token(t, "backups", azurite.Restore))
}

// runAz runs a script with Debian's Azure CLI beside a storage account, and wants it to reach its end.
func runAz(t *testing.T, s *harness.Server, storage *azurite.Storage, script, end string, env ...string) {
	t.Helper()
	var roots []byte // az takes one file for all that it trusts
	for _, file := range []string{s.Env["STRONGROOM_CA"], storage.CAFile} {
		pem, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		roots = append(roots, pem...)
	}
	bundle := filepath.Join(t.TempDir(), "roots.pem")
	if err := os.WriteFile(bundle, roots, 0o644); err != nil {
		t.Fatal(err)
	}
	path, err := filepath.Abs(script)
	if err != nil {
		t.Fatal(err)
	}
	cmd := underHosts(t, storage.URL(), path)
	cmd.Dir = t.TempDir()
	cmd.Env = append(azEnv(t, s, "alpha"), "CA_BUNDLE="+bundle, "AZ_STORAGE_SUFFIX="+storage.Suffix, "ACCOUNT="+azurite.Account, "ACCOUNT_KEY="+azurite.Key)
	cmd.Env = append(cmd.Env, env...)
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Fatalf("%s: %v\nserver log:\n%s", script, err, s.Log)
	}
	if !strings.Contains(string(out), end) {
		t.Fatal("the script did not reach its end")
	}
}

// Full backup and restore with Debian's Azure CLI.
func TestAzBackup(t *testing.T) {
	s, storage := startWithStorage(t, t.TempDir())
	activate(t, s, "alpha")
	runAz(t, s, storage, "az-backup.sh", "done: the HSM was backed up and came back")
}

// The disaster recovery procedure that Azure publishes, from start to end, with Debian's Azure CLI alone.
func TestAzDisasterRecovery(t *testing.T) {
	s, storage := startWithStorage(t, t.TempDir())
	runAz(t, s, storage, "az-disaster.sh", "done: the HSM was lost, and another one goes on", "ME="+s.Env["STRONGROOM_OBJECT_ID"])
}
