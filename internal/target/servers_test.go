package target_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/sas"
	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"strongroom/internal/target"
	"strongroom/secret"
	"strongroom/test/azurite"
)

// Real servers, started once and for all tests of the package, each in a process of its own.

const account, accountKey = azurite.Account, azurite.Key

// The credentials of the S3 server, and its region.
const s3AccessKey, s3SecretKey, s3Region = "CANARYaccessKeyOfTheStore", "CANARY+secret/7f3a-do-not-print", "us-east-1"

var stop []func()

func TestMain(m *testing.M) {
	minio.DefaultRetryUnit, minio.DefaultRetryCap = time.Millisecond, time.Millisecond // nothing here gets better by waiting
	code := m.Run()
	for _, f := range stop {
		f()
	}
	os.Exit(code)
}

// start runs a server and returns what follows the words in its output.
func start(words *regexp.Regexp, cmd *exec.Cmd) (string, error) {
	stdin, err := cmd.StdinPipe() // stays open: the servers end with it
	if err != nil {
		return "", err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return "", err
	}
	var errs strings.Builder
	cmd.Stderr = &errs
	if err := cmd.Start(); err != nil {
		return "", err
	}
	stop = append(stop, func() {
		_ = stdin.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	var said strings.Builder
	for scan := bufio.NewScanner(out); scan.Scan(); {
		if m := words.FindStringSubmatch(scan.Text()); m != nil {
			go func() { _, _ = io.Copy(io.Discard, out) }()
			return m[1], nil
		}
		fmt.Fprintln(&said, scan.Text())
	}
	_ = cmd.Wait()
	return "", fmt.Errorf("%s ended: %s%s", cmd.Path, said.String(), errs.String())
}

var azuriteEndpoint = sync.OnceValues(func() (endpoint string, err error) {
	endpoint, end, err := azurite.Run()
	if err == nil {
		stop = append(stop, end)
	}
	return endpoint, err
})

var s3Server = sync.OnceValues(func() (endpoint string, err error) {
	dir, err := os.MkdirTemp("", "s3server")
	if err != nil {
		return "", err
	}
	stop = append(stop, func() { _ = os.RemoveAll(dir) })
	program := filepath.Join(dir, "s3server")
	build := exec.Command("go", "build", "-o", program, ".")
	build.Dir = "../../test/s3server"
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build test/s3server: %w\n%s", err, out)
	}
	address, err := start(regexp.MustCompile(`^listening on (127\.0\.0\.1:\d+)$`), exec.Command(program, dir, s3AccessKey, s3SecretKey))
	return "http://" + address, err
})

// unique names a container or bucket that no other test has.
func unique(t *testing.T) string {
	t.Helper()
	clean := regexp.MustCompile(`[^a-z0-9]+`).ReplaceAllString(strings.ToLower(t.Name()), "-")
	return fmt.Sprintf("%.40s-%d", strings.Trim(clean, "-"), time.Now().UnixNano())
}

// newContainer makes a container in Azurite and returns its URI and a SAS token for it.
func newContainer(t *testing.T, permissions sas.ContainerPermissions) (uri, token string) {
	t.Helper()
	endpoint, err := azuriteEndpoint()
	if err != nil {
		t.Fatal(err)
	}
	key, err := azblob.NewSharedKeyCredential(account, accountKey)
	if err != nil {
		t.Fatal(err)
	}
	name := unique(t)
	uri = endpoint + "/" + account + "/" + name
	c, err := container.NewClientWithSharedKeyCredential(uri, key, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Create(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	return uri, sasToken(t, name, permissions, time.Now().Add(time.Hour))
}

func sasToken(t *testing.T, container string, permissions sas.ContainerPermissions, expiry time.Time) string {
	t.Helper()
	key, err := azblob.NewSharedKeyCredential(account, accountKey)
	if err != nil {
		t.Fatal(err)
	}
	query, err := sas.BlobSignatureValues{
		Protocol: sas.ProtocolHTTPSandHTTP, ExpiryTime: expiry.UTC(), ContainerName: container, Permissions: permissions.String(),
	}.SignWithSharedKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return query.Encode()
}

// full are the permissions that a backup with retention and a restore need.
var full = sas.ContainerPermissions{Read: true, Add: true, Create: true, Write: true, Delete: true, List: true}

// blobPlaces allows the host of a URI, as an operator would list it.
func blobPlaces(t *testing.T, uri string) *target.Places {
	t.Helper()
	host, _, _ := strings.Cut(strings.TrimPrefix(uri, "http://"), "/")
	return places(t, target.Config{AllowedHosts: []string{"http://" + host}})
}

func places(t *testing.T, c target.Config) *target.Places {
	t.Helper()
	p, err := target.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return p.Tune(nil, nil, 3)
}

func openBlob(t *testing.T, uri, token string) target.Target {
	t.Helper()
	l, err := target.ParseStorage(uri, secret.New([]byte(token)))
	if err != nil {
		t.Fatal(err)
	}
	place, err := blobPlaces(t, uri).Open(l)
	if err != nil {
		t.Fatal(err)
	}
	return place
}

// s3Admin is a client with which a test prepares its bucket.
func s3Admin(t *testing.T) *minio.Client {
	t.Helper()
	endpoint, err := s3Server()
	if err != nil {
		t.Fatal(err)
	}
	client, err := minio.New(strings.TrimPrefix(endpoint, "http://"), &minio.Options{
		Creds: credentials.NewStaticV4(s3AccessKey, s3SecretKey, ""), Region: s3Region, Transport: http.DefaultTransport,
	})
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// newBucket makes a bucket.
func newBucket(t *testing.T, objectLock bool) string {
	t.Helper()
	name := unique(t)
	if err := s3Admin(t).MakeBucket(context.Background(), name, minio.MakeBucketOptions{ObjectLocking: objectLock}); err != nil {
		t.Fatal(err)
	}
	return name
}

// s3Config is what an operator writes for a bucket.
func s3Config(t *testing.T, endpoint, bucket string) target.Config {
	t.Helper()
	dir := t.TempDir()
	access, secretKey := filepath.Join(dir, "access"), filepath.Join(dir, "secret")
	for path, line := range map[string]string{access: s3AccessKey, secretKey: s3SecretKey} {
		if err := os.WriteFile(path, []byte(line+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return target.Config{S3: map[string]target.S3Config{"test": {Endpoint: endpoint, Bucket: bucket, Region: s3Region, AccessKeyFile: access, SecretKeyFile: secretKey}}}
}

func openS3(t *testing.T, endpoint, bucket, prefix string) target.Target {
	t.Helper()
	return openURI(t, places(t, s3Config(t, endpoint, bucket)), "s3://"+bucket+prefix)
}

func openURI(t *testing.T, p *target.Places, uri string) target.Target {
	t.Helper()
	l, err := target.ParseStorage(uri, secret.Bytes{})
	if err != nil {
		t.Fatal(err)
	}
	place, err := p.Open(l)
	if err != nil {
		t.Fatal(err)
	}
	return place
}
