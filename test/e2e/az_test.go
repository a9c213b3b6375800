package e2e_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"strongroom/test/harness"
)

// azEnv is what az-session.sh and az-ceremony.sh read.
func azEnv(t *testing.T, s *harness.Server, hsm1 string) []string {
	return append(os.Environ(),
		"BASE="+s.Env["STRONGROOM_AUTHORITY"], "HSM_URL="+s.URL(t, hsm1), "CA_BUNDLE="+s.Env["STRONGROOM_CA"],
		"AZ_CLIENT_ID="+s.Env["STRONGROOM_CLIENT_ID"], "AZ_CLIENT_SECRET="+s.Env["STRONGROOM_CLIENT_SECRET"], "AZ_TENANT="+s.Env["STRONGROOM_TENANT"],
		"TMPDIR="+t.TempDir())
}

// The whole ceremony with Debian's Azure CLI: download, key, backup, recovery on a second HSM, restore, compare.
func TestAzCeremony(t *testing.T) {
	for _, blob := range []string{"0", "1"} {
		t.Run(map[string]string{"0": "upload with the custodians' keys", "1": "upload of a restore blob"}[blob], func(t *testing.T) {
			s := start(t)
			work := t.TempDir()
			cmd := exec.Command("./az-ceremony.sh")
			cmd.Env = append(azEnv(t, s, "alpha"), "HSM2_URL="+s.URL(t, "beta"), "OUT="+work, "UPLOAD_BLOB="+blob)
			out, err := cmd.CombinedOutput()
			t.Logf("%s", out)
			if err != nil {
				t.Fatalf("az-ceremony.sh: %v\nserver log:\n%s", err, s.Log)
			}
			if !strings.Contains(string(out), "done: HSM 2 holds the key") {
				t.Fatal("the ceremony did not reach its end")
			}

			// What az downloaded, our own tool opens too: a third HSM, recovered by strongroom from the same SD
			// file, holds the same security domain, and restores the backup that az took.
			s.Run(t, "hsm", "create", "gamma")
			if err := s.ReadEnv(); err != nil {
				t.Fatal(err)
			}
			gamma := s.URL(t, "gamma")
			s.Run(t, "domain", "upload", "--url", gamma, "--sd", filepath.Join(work, "SD.json"),
				"--key", filepath.Join(work, "wrap2.key"), "--key", filepath.Join(work, "wrap3.key"))
			ids := map[string]string{}
			for _, hsm := range []string{"alpha", "beta", "gamma"} {
				ids[hsm] = domainID(t, s, s.URL(t, hsm))
			}
			if ids["alpha"] == "" || ids["alpha"] != ids["beta"] || ids["alpha"] != ids["gamma"] {
				t.Errorf("the three HSMs do not share one domain: %v", ids)
			}
			// Who makes an HSM administrates it. What uses keys is a role of its own.
			s.Run(t, "role", "assignment", "create", "--url", gamma, "--principal", s.Env["STRONGROOM_OBJECT_ID"], "--role", "Managed HSM Crypto User", "--scope", "/keys")
			s.Run(t, "key", "restore", "--url", gamma, "--file", filepath.Join(work, "key.backup"))
		})
	}
}

func domainID(t *testing.T, s *harness.Server, url string) string {
	t.Helper()
	var state struct {
		State    string `json:"state"`
		DomainID string `json:"domain_id"`
	}
	out := s.Run(t, "domain", "status", "--url", url, "--output", "json")
	if err := json.Unmarshal([]byte(out), &state); err != nil {
		t.Fatalf("domain status printed no JSON: %v\n%s", err, out)
	}
	return state.DomainID
}

// The control plane with Debian's Azure CLI as shipped: everything that it has for a Managed HSM but moving it to
// another region.
func TestAzControlPlane(t *testing.T) {
	s := harness.Start(t, t.TempDir(), harness.Options{Binary: binary}) // the shipped program: the data plane is not called
	cmd := exec.Command("./az-controlplane.sh", s.Env["STRONGROOM_OBJECT_ID"])
	cmd.Env = append(azEnv(t, s, "alpha"), "AZ_ONLY_ERRORS=yes")
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Fatalf("az-controlplane.sh: %v\nserver log:\n%s", err, s.Log)
	}
	if !strings.Contains(string(out), "done: the HSM came and went") {
		t.Fatal("the script did not reach its end")
	}
}
