package server

import (
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A first start that cannot succeed says so before it has made anything, and can be tried again.
func TestFirstStartMakesNothingInVain(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { taken.Close() })
	for name, tc := range map[string]struct{ config, want string }{
		"no certificate":               {"[tls]\ncertificate = 'HERE/none.crt'\nkey = 'HERE/none.key'", "none.crt"},
		"a certificate that is none":   {"[tls]\ncertificate = 'HERE/c.toml'\nkey = 'HERE/c.toml'", "[tls]: "},
		"no folder for the seal":       {"[seal]\nfile = 'HERE/seal/seal.json'", "there is no folder HERE/seal; make it for the user that the server runs as: install -d -m 700 HERE/seal"},
		"a file where its folder is":   {"[seal]\nfile = 'HERE/c.toml/seal.json'", "is a file"},
		"no passphrase":                {"[seal]\nkind = 'passphrase'\npassphrase_file = 'HERE/none'", "leave passphrase_file out to be asked"},
		"an empty passphrase":          {"[seal]\nkind = 'passphrase'\npassphrase_file = 'HERE/empty'", "HERE/empty is empty"},
		"a file for the audit log":     {"[audit]\nfolder = 'HERE/empty'", "[audit] folder: HERE/empty is a file"},
		"an issuer without TLS":        {"[[issuer]]\nurl = 'http://a.example'", "not an https URL"},
		"an issuer twice":              {"[[issuer]]\nurl = 'https://a.example'\n[[issuer]]\nurl = 'https://a.example'", "configured twice"},
		"an authority without TLS":     {"[[attestation_authority]]\nurl = 'http://a.example'", "not an https URL"},
		"a port that is taken":         {"", "give another with --listen"},
		"a metrics port that is taken": {"[metrics]\nlisten = '" + taken.Addr().String() + "'", "[metrics] listen"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			here := func(s string) string { return strings.ReplaceAll(s, "HERE", dir) }
			o := Options{ConfigFile: filepath.Join(dir, "c.toml"), DataDir: filepath.Join(dir, "data"), Listen: "127.0.0.1:0", Stdout: io.Discard, Stderr: io.Discard}
			if name == "a port that is taken" {
				o.Listen = taken.Addr().String()
			}
			writeFile(t, filepath.Join(dir, "empty"), "")
			writeFile(t, o.ConfigFile, here("lock_memory = false\n"+tc.config+"\n[identity]\nembedded = true\n"))
			err := Run(t.Context(), o)
			if err == nil || !strings.Contains(err.Error(), here(tc.want)) {
				t.Fatalf("got %v, want one with %q", err, here(tc.want))
			}
			entries, err := os.ReadDir(dir)
			must(t, err)
			if len(entries) != 2 {
				t.Errorf("the refused start has made something: %v", entries)
			}
		})
	}
}

// What the operator's guide has people paste starts a server.
func TestShortestConfiguration(t *testing.T) {
	page, err := os.ReadFile("../../docs/operations.md")
	must(t, err)
	_, rest, there := strings.Cut(string(page), "<<END\n")
	config, _, closed := strings.Cut(rest, "\nEND\n")
	if !there || !closed {
		t.Fatal("there is no configuration to paste in docs/operations.md")
	}
	dir := t.TempDir()
	must(t, os.Mkdir(filepath.Join(dir, "strongroom-seal"), 0o700)) // as the guide does
	config = strings.ReplaceAll(config, "/var/lib", dir)
	path := writeFile(t, filepath.Join(dir, "strongroom.toml"), strings.Replace(config, "0.0.0.0:8443", "127.0.0.1:0", 1))
	r := begin(t, Options{ConfigFile: path, DataDir: filepath.Join(dir, "strongroom")}, "administrator.env")
	if !strings.Contains(r.ready, "hsm.example.org") {
		t.Errorf("ready: %q", r.ready)
	}
	r.stop()
}
