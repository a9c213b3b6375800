package e2e_test

import (
	"os/exec"
	"path/filepath"
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
