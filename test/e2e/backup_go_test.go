package e2e_test

import (
	"errors"
	"net/http"
	"net/url"
	"path"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"

	"strongroom/test/azurite"
)

// backupOperation is what the poller reads of an operation.
type backupOperation struct {
	Status string `json:"status"`
	Folder string `json:"azureStorageBlobContainerUri"`
}

// Full backup and restore with the long-running operations of the Azure SDK for Go: the poller of azcore, with which its
// packages wait. The package that has the calls themselves, azadmin, is not among the modules of this project.
func TestAzureSDKForGoBackup(t *testing.T) {
	s, storage := startWithStorage(t, t.TempDir())
	activate(t, s, "alpha")
	container := storage.NewContainer(t, "backups")
	hsm := s.URL(t, "alpha")
	keys := azureClient(t, s, hsm)
	options := azureOptions(t, s)
	credential, err := azidentity.NewClientSecretCredential(s.Env["STRONGROOM_TENANT"], s.Env["STRONGROOM_CLIENT_ID"], s.Env["STRONGROOM_CLIENT_SECRET"],
		&azidentity.ClientSecretCredentialOptions{ClientOptions: options, DisableInstanceDiscovery: true})
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(hsm)
	if err != nil {
		t.Fatal(err)
	}
	_, resource, _ := strings.Cut(u.Host, ".")
	client, err := azcore.NewClient("strongroom/e2e", "v1.0.0", runtime.PipelineOptions{
		PerRetry: []policy.Policy{runtime.NewBearerTokenPolicy(credential, []string{"https://" + resource + "/.default"}, nil)},
	}, &options)
	if err != nil {
		t.Fatal(err)
	}
	begin := func(method, call string, body any) *runtime.Poller[backupOperation] {
		t.Helper()
		version := "7.6"
		if strings.HasPrefix(call, "pre") {
			version = "2026-04-01" // the first one whose document has them
		}
		request, err := runtime.NewRequest(t.Context(), method, hsm+"/"+call+"?api-version="+version)
		if err != nil {
			t.Fatal(err)
		}
		if err := runtime.MarshalAsJSON(request, body); err != nil {
			t.Fatal(err)
		}
		response, err := client.Pipeline().Do(request)
		if err != nil {
			t.Fatal(err)
		}
		if response.StatusCode != http.StatusAccepted {
			t.Fatalf("%s %s: %v", method, call, runtime.NewResponseError(response))
		}
		poller, err := runtime.NewPoller(response, client.Pipeline(), &runtime.NewPollerOptions[backupOperation]{FinalStateVia: runtime.FinalStateViaAzureAsyncOp})
		if err != nil {
			t.Fatal(err)
		}
		return poller
	}
	often := &runtime.PollUntilDoneOptions{Frequency: time.Second} // the shortest that it takes
	type place struct {
		URI   string `json:"storageResourceUri"`
		Token string `json:"token"`
	}
	reads := place{container, storage.Token(t, "backups", azurite.Restore)}
	create := func(name string) string {
		t.Helper()
		made, err := keys.CreateKey(t.Context(), name, azkeys.CreateKeyParameters{Kty: to.Ptr(azkeys.KeyTypeEC)}, nil)
		if err != nil {
			t.Fatal(err)
		}
		return made.Key.KID.Version()
	}

	before := create("ledger")
	poller := begin(http.MethodPost, "backup", place{container, storage.Token(t, "backups", azurite.Backup)})
	token, err := poller.ResumeToken()
	if err != nil {
		t.Fatal(err)
	}
	resumed, err := runtime.NewPollerFromResumeToken(token, client.Pipeline(), &runtime.NewPollerFromResumeTokenOptions[backupOperation]{})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []*runtime.Poller[backupOperation]{poller, resumed} {
		done, err := p.PollUntilDone(t.Context(), often)
		if err != nil || done.Status != "Succeeded" || !strings.HasPrefix(done.Folder, container+"/mhsm-alpha-") {
			t.Fatalf("the backup: %+v, %v", done, err)
		}
		token = done.Folder
	}
	folder := path.Base(token)

	create("later")
	// After a PUT that went well PollUntilDone reads the thing that was put, which there is none of here: azadmin brings
	// along an end of its own, and only polls.
	restore := begin(http.MethodPut, "restore", map[string]any{"sasTokenParameters": reads, "folderToRestore": folder})
	for !restore.Done() {
		response, err := restore.Poll(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var op backupOperation
		if err := runtime.UnmarshalAsJSON(response, &op); err != nil || op.Status != "InProgress" && op.Status != "Succeeded" {
			t.Fatalf("the restore: %+v, %v", op, err)
		}
	}
	if got, err := keys.GetKey(t.Context(), "ledger", before, nil); err != nil || got.Key.KID.Version() != before {
		t.Errorf("the key of before: %v", err)
	}
	if _, err := keys.GetKey(t.Context(), "later", "", nil); err == nil {
		t.Error("a key that came after the backup is still there")
	}

	// Checks write nothing, and are asked for as a backup is.
	blobs := len(storage.Blobs(t, "backups"))
	for name, body := range map[string]any{"with a place": place{container, storage.Token(t, "backups", azurite.Backup+"l")}, "with nothing": struct{}{}} {
		if done, err := begin(http.MethodPost, "prebackup", body).PollUntilDone(t.Context(), often); err != nil || done.Status != "Succeeded" || done.Folder != "" {
			t.Errorf("a check %s: %+v, %v", name, done, err)
		}
	}
	if n := len(storage.Blobs(t, "backups")); n != blobs {
		t.Errorf("a check wrote %d blobs", n-blobs)
	}
	list := s.Run(t, "backup", "list", "--url", hsm)
	for _, kind := range []string{" backup ", " restore ", " prebackup "} {
		if !strings.Contains(list, kind) {
			t.Errorf("the HSM does not remember a%s:\n%s", kind, list)
		}
	}

	// A failure is an error with the code of its reason.
	_, err = begin(http.MethodPut, "keys/ledger/restore", map[string]any{"sasTokenParameters": reads, "folder": folder}).PollUntilDone(t.Context(), often)
	if failed, is := errors.AsType[*azcore.ResponseError](err); !is || failed.ErrorCode != "Conflict" {
		t.Errorf("a key that is there was restored, or refused otherwise than as a Conflict: %v", err)
	}
}
