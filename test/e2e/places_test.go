package e2e_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"strongroom/test/azurite"
	"strongroom/test/harness"
)

// The credentials of the S3 server, and a secret that is none of its.
const s3Access, s3Secret, s3Other = "CANARYaccessKeyOfTheStore", "CANARY+secret/do-not-print", "CANARY+of/somebody-else"

// startS3 runs test/s3server until the test ends, with one bucket, and returns its address.
func startS3(t *testing.T, bucket string) string {
	t.Helper()
	dir := t.TempDir()
	program := filepath.Join(dir, "s3server")
	build := exec.Command("go", "build", "-o", program, ".")
	build.Dir = "../s3server"
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build test/s3server: %v\n%s", err, out)
	}
	cmd := exec.Command(program, dir, s3Access, s3Secret)
	stdin, err := cmd.StdinPipe() // it ends with it
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = stdin.Close(); _ = cmd.Wait() })
	address, found := "", false
	for lines := bufio.NewScanner(out); !found && lines.Scan(); {
		address, found = strings.CutPrefix(lines.Text(), "listening on ")
	}
	if !found {
		t.Fatal("the S3 server ended")
	}
	go func() { _, _ = io.Copy(io.Discard, out) }()
	admin, err := minio.New(address, &minio.Options{Creds: credentials.NewStaticV4(s3Access, s3Secret, ""), Region: "us-east-1"})
	if err != nil {
		t.Fatal(err)
	}
	if err := admin.MakeBucket(t.Context(), bucket, minio.MakeBucketOptions{}); err != nil {
		t.Fatal(err)
	}
	return address
}

// A backup that a production server wrote into a container or a bucket is found, verified, opened with a quorum, rehearsed and restored from
// there, and what is wrong with the place is told in words: a token or credentials that do not hold, a folder, container or
// bucket that is not there. No word shows a token or a credential.
func TestBackupsWhereTheyLie(t *testing.T) {
	storage, dir := azurite.Start(t), t.TempDir()
	address := startS3(t, "backups")
	write := func(name, text string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	s3 := func(bucket, secret string) string {
		return fmt.Sprintf("[backup.s3.main]\nendpoint = \"http://%s\"\nbucket = %q\naccess_key_file = %q\nsecret_key_file = %q\n", address, bucket, write("access", s3Access), write(secret, map[string]string{"secret": s3Secret, "other": s3Other}[secret]))
	}
	storage.NewContainer(t, "backups")
	container, noContainer := storage.PathURL("backups"), storage.PathURL("nothing")
	data := filepath.Join(dir, "data")
	config := write("strongroom.toml", fmt.Sprintf("data = %q\nlisten = \"127.0.0.1:0\"\nhsms = [\"alpha\"]\n[identity]\nembedded = true\n[backup]\nallowed_hosts = [%q]\n",
		data, storage.Hosts()[1])+s3("backups", "secret"))
	s := harness.Start(t, data, harness.Options{Binary: binary, Config: config, Env: []string{"SSL_CERT_FILE=" + storage.CAFile}})
	s.Env["SSL_CERT_FILE"] = storage.CAFile
	alpha := s.URL(t, "alpha")
	keys := activate(t, s, "alpha")
	sd := filepath.Join(keys, "SD.json")
	s.Run(t, "role", "assignment", "create", "--url", alpha, "--principal", s.Env["STRONGROOM_OBJECT_ID"], "--role", "Managed HSM Crypto User", "--scope", "/keys")
	s.Run(t, "key", "create", "invoices", "--kty", "EC", "--url", alpha)
	s.Run(t, "key", "create", "archive", "--kty", "oct", "--url", alpha)

	right := storage.Token(t, "backups", azurite.Backup+"l")
	signature := regexp.MustCompile(`sig=[^&]+`)
	wrong := signature.ReplaceAllString(right, "sig=c2VjcmV0LXRoYXQtaXMtd3Jvbmc%3D")
	sas := func(name, token string) []string { return []string{"--sas-file", write(name, token+"\n")} }
	hidden := []string{s3Secret, s3Other, signature.FindString(right), signature.FindString(wrong)}

	type refusal struct {
		name, place string
		with        []string
		says        string
	}
	for _, place := range []struct {
		name, at string
		server   []string // beside the address, where the server reads
		own      []string // beside the address, where the command does
		refusals []refusal
	}{
		{"a container of Azure Blob Storage", container, sas("right.sas", right), sas("right.sas", right), []refusal{
			{"a token with a wrong signature", container, sas("wrong.sas", wrong), "the token or the credentials do not hold: over, not yet valid, or for another place (HTTP 403 "},
			{"a token that may not list", container, sas("write.sas", storage.Token(t, "backups", "c")), "the store does not allow it: look at the permissions and the times of the token or the credentials (HTTP 403 AuthorizationPermissionMismatch)"},
			{"a token of another container", container, sas("another.sas", storage.Token(t, "another", azurite.Restore)), "the token or the credentials do not hold"},
			{"no container of that name", noContainer, sas("nothing.sas", storage.Token(t, "nothing", azurite.Restore)), "there is no such container or bucket: make it first (HTTP 404 ContainerNotFound)"},
		}},
		{"a bucket of S3", "s3://backups/alpha", nil, []string{"--config", config}, []refusal{
			{"wrong credentials", "s3://backups/alpha", []string{"--config", write("other.toml", s3("backups", "other"))}, "the token or the credentials do not hold: over, not yet valid, or for another place (HTTP 403 SignatureDoesNotMatch)"},
			{"no bucket of that name", "s3://nothing/alpha", []string{"--config", write("nothing.toml", s3("nothing", "secret"))}, "there is no such container or bucket: make it first (HTTP 404 NoSuchBucket)"},
		}},
	} {
		t.Run(place.name, func(t *testing.T) {
			good := func(args ...string) string {
				t.Helper()
				out := s.Run(t, args...)
				for _, h := range hidden {
					if strings.Contains(out, h) {
						t.Errorf("strongroom %s shows %q:\n%s", strings.Join(args, " "), h, out)
					}
				}
				return out
			}
			bad := func(says string, args ...string) {
				t.Helper()
				out, err := s.Try(args...)
				if err == nil || !strings.Contains(out, says) || !strings.Contains(out, "→ ") {
					t.Errorf("strongroom %s: %v, want an error with %q, and what to do:\n%s", strings.Join(args, " "), err, says, out)
				}
				for _, h := range hidden {
					if strings.Contains(out, h) {
						t.Errorf("strongroom %s shows %q:\n%s", strings.Join(args, " "), h, out)
					}
				}
			}
			with := func(more []string, args ...string) []string { return append(args, more...) }

			var made struct{ Backup string }
			out := good(with(place.server, "backup", "start", "--url", alpha, "--to", place.at, "--output", "json")...)
			if err := json.Unmarshal([]byte(out), &made); err != nil || !strings.HasPrefix(made.Backup, place.at+"/mhsm-alpha-") {
				t.Fatalf("backup start printed %q", out)
			}
			if out := good(with(place.own, "backup", "list", "--in", place.at)...); !regexp.MustCompile(` alpha +finished .* 2 +[0-9a-f]{16}… +` + regexp.QuoteMeta(made.Backup) + `\n`).MatchString(out) {
				t.Errorf("backup list:\n%s", out)
			}
			if out := good(with(place.own, "backup", "verify", made.Backup, "--domain", sd)...); !strings.Contains(out, "the backup is signed and whole; whether its keys open is known with --key") || !strings.Contains(out, "invoices") {
				t.Errorf("backup verify:\n%s", out)
			}
			quorum := []string{"--key", filepath.Join(keys, "ann.key"), "--key", filepath.Join(keys, "cy.key")}
			if out := good(with(place.own, append([]string{"backup", "verify", made.Backup, "--domain", sd}, quorum...)...)...); !strings.Contains(out, "the backup is good: signed, whole, and every key in it opens and is the one that was recorded") ||
				!regexp.MustCompile(`opened +2 versions, with the keys of custodian 1 "ann", custodian 3 "cy"`).MatchString(out) {
				t.Errorf("backup verify with a quorum:\n%s", out)
			}
			bad("the SD file takes the shares of 2 custodians, and the keys given open 1", with(place.own, "backup", "verify", made.Backup, "--domain", sd, "--key", filepath.Join(keys, "ann.key"))...)
			report := filepath.Join(t.TempDir(), "drill.report")
			if out := good(with(place.own, append([]string{"drill", "--sd", sd, "--backup", made.Backup, "--out", report}, quorum...)...)...); !strings.Contains(out, "passed: ") {
				t.Errorf("drill:\n%s", out)
			}
			good("drill", "report", "verify", report, "--domain", sd)

			missing := place.at + "/mhsm-alpha-2020010100000000"
			bad("there is no backup mhsm-alpha-2020010100000000", with(place.own, "backup", "verify", missing)...)
			bad("there is no backup mhsm-alpha-2020010100000000", with(place.server, "restore", "start", "--url", alpha, "--from", missing)...)
			if out := good(with(place.own, "backup", "list", "--in", place.at)...); strings.Contains(out, "2020") {
				t.Errorf("a folder that is not there is listed:\n%s", out)
			}
			for _, r := range place.refusals {
				if strings.HasPrefix(r.place, "https://") { // a bucket and its credentials are the server's own
					t.Run(r.name+", by the server", func(t *testing.T) {
						if r.with[1] != filepath.Join(dir, "write.sas") { // that one may write
							bad(r.says, with(r.with, "backup", "start", "--url", alpha, "--to", r.place)...)
						}
						bad(r.says, with(r.with, "restore", "start", "--url", alpha, "--from", r.place+"/"+filepath.Base(made.Backup))...)
					})
				}
				for _, args := range [][]string{{"backup", "list", "--in", r.place}, {"backup", "verify", r.place + "/" + filepath.Base(made.Backup)},
					append([]string{"drill", "--sd", sd, "--backup", r.place + "/" + filepath.Base(made.Backup), "--out", filepath.Join(t.TempDir(), "none")}, quorum...)} {
					t.Run(r.name+", "+args[0]+" "+args[1], func(t *testing.T) { bad(r.says, with(r.with, args...)...) })
				}
			}
			good("key", "delete", "invoices", "--confirm", "invoices", "--url", alpha)
			good(with(place.server, "restore", "start", "--url", alpha, "--from", made.Backup)...)
			good("key", "show", "invoices", "--url", alpha)
		})
	}
}
