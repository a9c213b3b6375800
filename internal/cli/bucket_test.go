package cli

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	places "strongroom/internal/target"
)

// Backups in a bucket are found and verified from where they lie, with a server's configuration and without the server.
func TestBackupInABucket(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, "s3server")
	build := exec.Command("go", "build", "-o", program, ".")
	build.Dir = "../../test/s3server"
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build test/s3server: %v\n%s", err, out)
	}
	const access, secret = "CANARYaccessKey", "CANARY+secret/do-not-print"
	server := exec.Command(program, dir, access, secret)
	stdin, err := server.StdinPipe() // it ends with it
	if err != nil {
		t.Fatal(err)
	}
	out, err := server.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = stdin.Close(); _ = server.Wait() })
	address, found := "", false
	lines := bufio.NewScanner(out)
	for !found && lines.Scan() {
		address, found = strings.CutPrefix(lines.Text(), "listening on ")
	}
	if !found {
		t.Fatalf("the server ended: %v", lines.Err())
	}
	go func() { _, _ = io.Copy(io.Discard, out) }()
	c, err := minio.New(address, &minio.Options{Creds: credentials.NewStaticV4(access, secret, ""), Region: "us-east-1"})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.MakeBucket(t.Context(), "backups", minio.MakeBucketOptions{}); err != nil {
		t.Fatal(err)
	}
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	config := write("server.toml", fmt.Sprintf("[backup.s3.main]\nendpoint = %q\nbucket = %q\naccess_key_file = %q\nsecret_key_file = %q\n",
		"http://"+address, "backups", write("access", access), write("secret", secret)))

	// The golden backup of package backupset goes there, as a server would write it.
	const folder = "mhsm-golden-2026112508530512"
	own, err := places.Own(places.Config{S3: map[string]places.S3Config{"main": {Endpoint: "http://" + address, Bucket: "backups", AccessKeyFile: filepath.Join(dir, "access"), SecretKeyFile: filepath.Join(dir, "secret")}}})
	if err != nil {
		t.Fatal(err)
	}
	where, err := places.Parse("s3://backups/alpha")
	if err != nil {
		t.Fatal(err)
	}
	bucket, err := own.Open(where)
	if err != nil {
		t.Fatal(err)
	}
	golden := filepath.Join("../backupset/testdata/v1", folder)
	objects, err := os.ReadDir(golden)
	if err != nil || len(objects) == 0 {
		t.Fatalf("no objects in %s (%v)", golden, err)
	}
	for _, o := range objects {
		text, err := os.ReadFile(filepath.Join(golden, o.Name()))
		if err != nil {
			t.Fatal(err)
		}
		object, err := bucket.Create(t.Context(), folder+"/"+o.Name())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := object.Write(text); err != nil {
			t.Fatal(err)
		}
		if err := object.Commit(); err != nil {
			t.Fatal(err)
		}
	}

	run := func(args ...string) (stdout, stderr string, code int) {
		var o, e bytes.Buffer
		code = Main(t.Context(), args, strings.NewReader(""), &o, &e)
		for _, s := range []string{access, secret} {
			if strings.Contains(o.String()+e.String(), s) {
				t.Errorf("%v shows the credentials: %s%s", args, o.String(), e.String())
			}
		}
		return o.String(), e.String(), code
	}
	if stdout, stderr, code := run("backup", "list", "--in", "s3://backups/alpha", "--config", config); code != 0 || !strings.Contains(stdout, "s3://backups/alpha/"+folder) || !strings.Contains(stdout, "finished") {
		t.Errorf("list: %d\n%s%s", code, stdout, stderr)
	}
	if stdout, stderr, code := run("backup", "verify", "s3://backups/alpha/"+folder, "--config", config); code != 0 || !strings.Contains(stdout, "the backup is signed and whole") || !strings.Contains(stdout, "Invoices") {
		t.Errorf("verify: %d\n%s%s", code, stdout, stderr)
	}
	if err := bucket.Delete(t.Context(), folder+"/part-000001"); err != nil {
		t.Fatal(err)
	}
	if stdout, stderr, code := run("backup", "verify", "s3://backups/alpha/"+folder, "--config", config); code != 1 || !strings.Contains(stdout, "BackupObjectMissing") {
		t.Errorf("verify without a part: %d\n%s%s", code, stdout, stderr)
	}
	// Not readable with what it says: told in words, without what the server said.
	write("secret", "another")
	if _, stderr, code := run("backup", "list", "--in", "s3://backups/alpha", "--config", config); code != 1 || !strings.Contains(stderr, "cannot be read: the token or the credentials do not hold") {
		t.Errorf("with wrong credentials: %d\n%s", code, stderr)
	}
}
