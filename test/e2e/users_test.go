package e2e_test

import (
	"encoding/json"
	"errors"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"

	"strongroom/test/harness"
)

// user is a user of the embedded issuer.
type user struct {
	Name     string `json:"name"`
	ObjectID string `json:"object_id"`
	Password string `json:"password"`
}

func newUser(t *testing.T, s *harness.Server, name string) (u user) {
	t.Helper()
	if err := json.Unmarshal([]byte(s.Run(t, "identity", "user", "create", name, "--data", s.Dir, "--output", "json")), &u); err != nil {
		t.Fatal(err)
	}
	return u
}

// allowed is the command that lets a user use keys.
func allowed(s *harness.Server, u user, hsm string) []string {
	return []string{"role", "assignment", "create", "--url", hsm, "--principal", u.ObjectID, "--role", "Managed HSM Crypto User", "--scope", "/keys"}
}

// A user with Debian's Azure CLI.
func TestAzUser(t *testing.T) {
	s := start(t)
	activate(t, s, "alpha")
	u := newUser(t, s, "Anna@example.org")
	script, err := filepath.Abs("az-user.sh")
	if err != nil {
		t.Fatal(err)
	}
	work := t.TempDir()
	cmd := exec.Command(script)
	cmd.Dir = work
	cmd.Env = append(s.Environ(), azEnv(t, s, "alpha")...)
	cmd.Env = append(cmd.Env, "AZ_USERNAME="+u.Name, "AZ_PASSWORD="+u.Password,
		"ALLOW="+binary+" role assignment create --url "+s.URL(t, "alpha")+" --principal "+u.ObjectID+" --role 21dbd100-6940-42c2-9190-5d6cb909625b --scope /keys",
		"REVOKE="+binary+" identity user rotate "+u.Name+" --revoke-tokens --data "+s.Dir+" --secret-out "+filepath.Join(work, "new.password"))
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Fatalf("az-user.sh: %v\nserver log:\n%s", err, s.Log)
	}
	if !strings.Contains(string(out), "done: the user signed in, worked and was shut out") {
		t.Fatal("the script did not reach its end")
	}
}

// A user with the stock SDKs' credentials for a name and a password.
func TestUsersOfSDKs(t *testing.T) {
	s := start(t)
	activate(t, s, "alpha")
	u := newUser(t, s, "anna")
	env := []string{"USER_NAME=" + u.Name, "USER_PASSWORD=" + u.Password}
	options := azureOptions(t, s)
	//lint:ignore SA1019 deprecated in the SDK, and what is to be shown here
	credential, err := azidentity.NewUsernamePasswordCredential(s.Env["STRONGROOM_TENANT"], "04b07795-8ddb-461a-bbee-02f9e1bf7b46", u.Name, u.Password, &azidentity.UsernamePasswordCredentialOptions{ClientOptions: options, DisableInstanceDiscovery: true})
	if err != nil {
		t.Fatal(err)
	}
	client, err := azkeys.NewClient(s.URL(t, "alpha"), credential, &azkeys.ClientOptions{ClientOptions: options})
	if err != nil {
		t.Fatal(err)
	}
	create := func() error {
		_, err := client.CreateKey(t.Context(), "go-user", azkeys.CreateKeyParameters{Kty: to.Ptr(azkeys.KeyTypeEC), Curve: to.Ptr(azkeys.CurveNameP256)}, nil)
		return err
	}
	if response, is := errors.AsType[*azcore.ResponseError](create()); !is || response.StatusCode != 403 {
		t.Fatalf("without a role: %v, want 403", response)
	}
	s.Run(t, allowed(s, u, s.URL(t, "alpha"))...)
	if err := create(); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Sign(t.Context(), "go-user", "", azkeys.SignParameters{Algorithm: to.Ptr(azkeys.SignatureAlgorithmES256), Value: make([]byte, 32)}, nil); err != nil {
		t.Error(err)
	}
	t.Run("JavaScript", func(t *testing.T) {
		hsm := named(t, s, "alpha")
		runScript(t, s, underHosts(t, hsm, "node", filepath.Join("js", "user.mjs")), hsm, append(env, "NODE_EXTRA_CA_CERTS="+s.Env["STRONGROOM_CA"])...)
	})
	t.Run("Python", func(t *testing.T) {
		// Debian's own interpreter: another one that comes first on the path would not see Debian's packages.
		runScript(t, s, exec.Command("/usr/bin/python3", "-B", filepath.Join("py", "user.py")), s.URL(t, "alpha"), append(env, "REQUESTS_CA_BUNDLE="+s.Env["STRONGROOM_CA"])...)
	})
	s.Run(t, "identity", "user", "delete", u.Name, "--data", s.Dir)
	if err := create(); err == nil {
		t.Error("a deleted user made a key")
	}
}
