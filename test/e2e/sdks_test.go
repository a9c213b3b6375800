package e2e_test

import (
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"strongroom/test/harness"
)

// The stock JavaScript SDK: @azure/keyvault-keys with @azure/identity, as test/e2e/js/package-lock.json pins them and
// test/install.sh installs them.
func TestAzureSDKForJavaScript(t *testing.T) {
	if _, err := os.Stat("js/node_modules"); err != nil {
		t.Fatalf("the npm packages are not there; run test/install.sh, as make test does: %v", err)
	}
	for _, script := range []string{"keys.mjs", "crypto.mjs"} {
		t.Run(script, func(t *testing.T) {
			s := start(t)
			activate(t, s, "alpha")
			hsm := named(t, s, "alpha")
			runScript(t, s, underHosts(t, hsm, "node", filepath.Join("js", script)), hsm, "NODE_EXTRA_CA_CERTS="+s.Env["STRONGROOM_CA"])
		})
	}
}

// The stock Python SDK: azure.keyvault.keys with azure.identity, as Debian packages them (python3-azure).
func TestAzureSDKForPython(t *testing.T) {
	for _, script := range []string{"key_client.py", "crypto_client.py"} {
		t.Run(script, func(t *testing.T) {
			s := start(t)
			activate(t, s, "alpha")
			// Debian's own interpreter: another one that comes first on the path would not see Debian's packages.
			cmd := exec.Command("/usr/bin/python3", "-B", filepath.Join("py", script))
			runScript(t, s, cmd, s.URL(t, "alpha"), "REQUESTS_CA_BUNDLE="+s.Env["STRONGROOM_CA"])
		})
	}
}

// runScript runs a script that drives one HSM, and wants it to reach its end. Of the caller's environment it gets what
// does not lead it elsewhere.
func runScript(t *testing.T, s *harness.Server, cmd *exec.Cmd, hsm string, env ...string) {
	t.Helper()
	cmd.Env = slices.DeleteFunc(s.Environ(), func(line string) bool {
		name, _, _ := strings.Cut(strings.ToUpper(line), "=")
		return strings.HasSuffix(name, "_PROXY") || strings.HasPrefix(name, "AZURE_") || name == "PYTHONPATH" || name == "NODE_OPTIONS" || name == "NODE_PATH"
	})
	cmd.Env = append(append(cmd.Env, "HSM_URL="+hsm), env...)
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Fatalf("%s: %v\nserver log:\n%s", strings.Join(cmd.Args, " "), err, s.Log)
	}
	if !regexp.MustCompile(`(?m)^done: [1-9][0-9]* steps$`).Match(out) {
		t.Fatal("the script did not reach its end")
	}
}

// named is the URL of an HSM by its host name instead of its address.
func named(t *testing.T, s *harness.Server, hsm string) string {
	t.Helper()
	u, err := url.Parse(s.URL(t, hsm))
	if err != nil {
		t.Fatal(err)
	}
	return "https://" + hsm + ".managedhsm.localhost:" + u.Port()
}

// underHosts is a command for which the host of u is this machine, as the line in /etc/hosts would make it that a user
// adds. The JavaScript SDK wants a name: it compares the challenge's resource with the host as URLs, and what is left of
// an address without its first number is to a URL another address. The file is put over /etc/hosts in a mount
// namespace of the command alone. That namespace lets go of loop mounts first: other tests shut down such file systems
// meanwhile, and cannot mount them anew as long as someone holds the old ones.
func underHosts(t *testing.T, u string, command ...string) *exec.Cmd {
	t.Helper()
	at, err := url.Parse(u)
	if err != nil {
		t.Fatal(err)
	}
	hosts := filepath.Join(t.TempDir(), "hosts")
	if err := os.WriteFile(hosts, []byte("127.0.0.1 localhost "+at.Hostname()+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	unshare := []string{"--mount"}
	if os.Getuid() != 0 {
		unshare = append(unshare, "--map-root-user")
	}
	args := append(unshare, "sh", "-euc", `
		awk '$(NF-1) ~ "^/dev/loop" {print $5}' /proc/self/mountinfo | xargs --no-run-if-empty umount --lazy || true # who is not root may not
		mount --bind "$0" /etc/hosts
		exec "$@"`, hosts)
	return exec.Command("unshare", append(args, command...)...)
}
