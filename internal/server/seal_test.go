package server

import (
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"strongroom/internal/pki"
)

// The passphrase of the seal comes from a file, a systemd credential or a person, in this order, and whichever way it
// came the first time, the others open the same seal.
func TestSealPassphraseSources(t *testing.T) {
	dir, credentials := t.TempDir(), t.TempDir()
	config := writeFile(t, filepath.Join(t.TempDir(), "c.toml"), "[seal]\nkind = 'passphrase'\n[identity]\nembedded = true\n")
	var asked []string
	answers := func(lines ...string) func(string) ([]byte, error) {
		asked = nil
		return func(question string) ([]byte, error) {
			asked = append(asked, question)
			if len(lines) == 0 {
				return nil, errors.New("asked too often")
			}
			line := lines[0]
			lines = lines[1:]
			return []byte(line), nil
		}
	}
	serve := func(o Options) {
		t.Helper()
		o.DataDir, o.ConfigFile = dir, config
		begin(t, o, "administrator.env").stop()
	}

	// A person is asked twice for a new seal, and a slip makes nothing.
	o := Options{DataDir: dir, ConfigFile: config, Listen: "127.0.0.1:0", Prompt: answers("one", "other"), Stdout: &syncBuffer{}, Stderr: &syncBuffer{}}
	if err := Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), "differ") {
		t.Fatalf("two different passphrases: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "seal.json")); err == nil {
		t.Fatal("a slip made a seal")
	}
	serve(Options{Prompt: answers("pass phrase", "pass phrase")})
	if len(asked) != 2 {
		t.Errorf("for a new seal %d questions were asked, want 2", len(asked))
	}
	serve(Options{Prompt: answers("pass phrase")})
	if len(asked) != 1 {
		t.Errorf("for an old seal %d questions were asked, want 1", len(asked))
	}
	// The credential, with the line end that an editor leaves.
	writeFile(t, filepath.Join(credentials, "seal-passphrase"), "pass phrase\n")
	t.Setenv("CREDENTIALS_DIRECTORY", credentials)
	serve(Options{Prompt: answers()})
	if len(asked) != 0 {
		t.Errorf("a person was asked although there is a credential: %q", asked)
	}
	// The flag goes before the credential.
	writeFile(t, filepath.Join(credentials, "seal-passphrase"), "wrong\n")
	serve(Options{SealPassphraseFile: writeFile(t, filepath.Join(t.TempDir(), "p"), "pass phrase\r\n"), Prompt: answers()})
}

// A server with certificate files of its own serves them, and what replaces them while it runs.
func TestCertificateFiles(t *testing.T) {
	issue := func() string {
		dir := t.TempDir()
		if _, err := pki.EnsureDev(dir, []string{"localhost"}, []net.IP{net.IPv4(127, 0, 0, 1)}, time.Now, rand.Reader); err != nil {
			t.Fatal(err)
		}
		// The trust of the test's client is the file that the server names: certificate and CA in one.
		leaf, err := os.ReadFile(filepath.Join(dir, "server.pem"))
		must(t, err)
		ca, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
		must(t, err)
		writeFile(t, filepath.Join(dir, "chain.pem"), string(slices.Concat(leaf, ca)))
		return dir
	}
	first, second := issue(), issue()
	chain, key := filepath.Join(first, "chain.pem"), filepath.Join(first, "server.key")
	dir := t.TempDir()
	config := writeFile(t, filepath.Join(t.TempDir(), "c.toml"), fmt.Sprintf("[tls]\ncertificate = %q\nkey = %q\n[identity]\nembedded = true\n", chain, key))
	r := begin(t, Options{DataDir: dir, ConfigFile: config}, "administrator.env")
	if code, _, _ := r.get(r.env["STRONGROOM_AUTHORITY"]+"/healthz", ""); code != 200 {
		t.Fatalf("with its own certificate: %d", code)
	}
	if _, err := os.Stat(filepath.Join(dir, "tls")); err == nil {
		t.Error("a development CA was made beside the certificate files")
	}
	copyFile(t, filepath.Join(second, "chain.pem"), chain)
	copyFile(t, filepath.Join(second, "server.key"), key)
	source, err := pki.Reloading(chain, key, time.Now, slog.New(slog.DiscardHandler)) // what the files hold now
	must(t, err)
	want, err := source(nil)
	must(t, err)
	serves := func() bool {
		r.client.CloseIdleConnections()
		conn, err := dialTLS(r.env["STRONGROOM_AUTHORITY"])
		must(t, err)
		defer conn.Close()
		return conn.ConnectionState().PeerCertificates[0].Equal(want.Leaf)
	}
	for range 100 { // the server looks at most once a second
		if serves() {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatal("the replaced certificate is not served after five seconds")
}

func dialTLS(address string) (*tls.Conn, error) {
	return tls.Dial("tcp", strings.TrimPrefix(address, "https://"), &tls.Config{InsecureSkipVerify: true}) // only to look at the certificate
}
