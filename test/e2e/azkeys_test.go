package e2e_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"

	"strongroom/test/harness"
)

// azureClient is a stock azkeys client with a stock client-secret credential. Nothing is switched off but the
// look-up of Microsoft's own authority; the challenge is checked against the host, as users get it.
func azureClient(t *testing.T, s *harness.Server, url string) *azkeys.Client {
	t.Helper()
	options := azureOptions(t, s)
	credential, err := azidentity.NewClientSecretCredential(s.Env["STRONGROOM_TENANT"], s.Env["STRONGROOM_CLIENT_ID"], s.Env["STRONGROOM_CLIENT_SECRET"],
		&azidentity.ClientSecretCredentialOptions{ClientOptions: options, DisableInstanceDiscovery: true})
	if err != nil {
		t.Fatal(err)
	}
	client, err := azkeys.NewClient(url, credential, &azkeys.ClientOptions{ClientOptions: options})
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// azureOptions lead the SDK to the server: its authority and its CA.
func azureOptions(t *testing.T, s *harness.Server) azcore.ClientOptions {
	t.Helper()
	ca, err := os.ReadFile(s.Env["STRONGROOM_CA"])
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		t.Fatal("no certificate in the CA file")
	}
	return azcore.ClientOptions{
		Cloud:     cloud.Configuration{ActiveDirectoryAuthorityHost: s.Env["STRONGROOM_AUTHORITY"], Services: map[cloud.ServiceName]cloud.ServiceConfiguration{}},
		Transport: &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}},
	}
}

// activate takes ownership of an HSM with our own tool and returns the folder with SD file and custodian keys.
func activate(t *testing.T, s *harness.Server, hsm string) string {
	t.Helper()
	dir := t.TempDir()
	args := []string{"domain", "download", "--url", s.URL(t, hsm), "--quorum", "2", "--out", filepath.Join(dir, "SD.json")}
	for _, name := range []string{"ann", "bo", "cy"} {
		s.Run(t, "custodian", "new", name, "--bits", "2048", "--out", dir)
		args = append(args, "--custodian", filepath.Join(dir, name+".cer"))
	}
	s.Run(t, args...)
	return dir
}

func TestAzureSDKForGo(t *testing.T) {
	s := start(t)
	alpha, beta := azureClient(t, s, s.URL(t, "alpha")), azureClient(t, s, s.URL(t, "beta"))

	// Before activation the SDK gets an error it can read.
	_, err := alpha.CreateKey(t.Context(), "early", azkeys.CreateKeyParameters{Kty: to.Ptr(azkeys.KeyTypeECHSM), Curve: to.Ptr(azkeys.CurveNameP256)}, nil)
	if response, is := errors.AsType[*azcore.ResponseError](err); !is || response.StatusCode != 403 || response.ErrorCode != "HsmNotActivated" {
		t.Fatalf("create on a provisioned HSM: got %v, want 403 HsmNotActivated", err)
	}
	dir := activate(t, s, "alpha")

	ec, err := alpha.CreateKey(t.Context(), "sdk-ec", azkeys.CreateKeyParameters{Kty: to.Ptr(azkeys.KeyTypeECHSM), Curve: to.Ptr(azkeys.CurveNameP256)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256([]byte("signed by a stock SDK"))
	signed, err := alpha.Sign(t.Context(), "sdk-ec", "", azkeys.SignParameters{Algorithm: to.Ptr(azkeys.SignatureAlgorithmES256), Value: digest[:]}, nil)
	if err != nil {
		t.Fatal(err)
	}
	public, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), slices.Concat([]byte{4}, ec.Key.X, ec.Key.Y))
	if err != nil {
		t.Fatal(err)
	}
	if len(signed.Result) != 64 || !ecdsa.Verify(public, digest[:], new(big.Int).SetBytes(signed.Result[:32]), new(big.Int).SetBytes(signed.Result[32:])) {
		t.Fatal("the signature does not verify under the key that the HSM showed")
	}
	if _, err := alpha.CreateKey(t.Context(), "sdk-rsa", azkeys.CreateKeyParameters{Kty: to.Ptr(azkeys.KeyTypeRSA), KeySize: to.Ptr[int32](2048)}, nil); err != nil {
		t.Fatal(err)
	}
	rsaSigned, err := alpha.Sign(t.Context(), "sdk-rsa", "", azkeys.SignParameters{Algorithm: to.Ptr(azkeys.SignatureAlgorithmPS256), Value: digest[:]}, nil)
	if err != nil {
		t.Fatal(err)
	}
	check := func(where string, client *azkeys.Client, key string, alg azkeys.SignatureAlgorithm, signature []byte, want bool) {
		t.Helper()
		v, err := client.Verify(t.Context(), key, "", azkeys.VerifyParameters{Algorithm: to.Ptr(alg), Digest: digest[:], Signature: signature}, nil)
		if err != nil || v.Value == nil || *v.Value != want {
			t.Errorf("%s: verify with %s: got %v, %v; want %v", where, key, v.Value, err, want)
		}
	}
	check("alpha", alpha, "sdk-ec", azkeys.SignatureAlgorithmES256, signed.Result, true)
	check("alpha", alpha, "sdk-rsa", azkeys.SignatureAlgorithmPS256, rsaSigned.Result, true)
	bad := append([]byte(nil), signed.Result...)
	bad[5] ^= 1
	check("alpha, damaged signature", alpha, "sdk-ec", azkeys.SignatureAlgorithmES256, bad, false)

	backup, err := alpha.BackupKey(t.Context(), "sdk-ec", nil)
	if err != nil {
		t.Fatal(err)
	}
	// Beta takes over the domain and with it the backup; the old signature holds there.
	s.Run(t, "domain", "upload", "--url", s.URL(t, "beta"), "--sd", filepath.Join(dir, "SD.json"), "--key", filepath.Join(dir, "ann.key"), "--key", filepath.Join(dir, "cy.key"))
	restored, err := beta.RestoreKey(t.Context(), azkeys.RestoreKeyParameters{KeyBackup: backup.Value}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if restored.Key.KID.Version() != ec.Key.KID.Version() || restored.Key.KID.Name() != "sdk-ec" {
		t.Errorf("restored as %s, want the same name and version as %s", *restored.Key.KID, *ec.Key.KID)
	}
	check("beta", beta, "sdk-ec", azkeys.SignatureAlgorithmES256, signed.Result, true)

	names := map[string]bool{}
	for pager := alpha.NewListKeyPropertiesPager(nil); pager.More(); {
		page, err := pager.NextPage(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, k := range page.Value {
			names[k.KID.Name()] = true
		}
	}
	if len(names) != 2 || !names["sdk-ec"] || !names["sdk-rsa"] {
		t.Errorf("list: got %v, want sdk-ec and sdk-rsa", names)
	}
}
