// Package formats_test holds docs/formats.md against a second implementation of it: reader.py, which knows that page and nothing
// else, opens what a real server and the custodians' tools have written.
package formats_test

import (
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"strongroom/test/harness"
)

var program string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "strongroom-formats")
	if err != nil {
		panic(err)
	}
	program = harness.Build(dir, "strongroom/cmd/strongroom")
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// python is the one that test/install.sh provides the libraries for.
const python = "/usr/bin/python3"

// read runs the reader.
func read(args ...string) (out map[string]any, said string, err error) {
	cmd := exec.Command(python, append([]string{"reader.py"}, args...)...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return nil, stderr.String(), err
	}
	return out, stderr.String(), json.Unmarshal(stdout.Bytes(), &out)
}

// at follows names and indexes into JSON.
func at(t *testing.T, v any, path ...string) any {
	t.Helper()
	for _, name := range path {
		m, is := v.(map[string]any)
		if !is {
			t.Fatalf("there is no %s in %v", strings.Join(path, "."), v)
		}
		v = m[name]
	}
	return v
}

// filled is a server with a key of each kind, and what was written for it.
type filled struct {
	server                      *harness.Server
	url, dir, sd, domain        string
	backup, blob, attested, rep string
	keys                        map[string]bool // by name; true: deleted
}

func fill(t *testing.T) filled {
	t.Helper()
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	f := filled{server: harness.Start(t, in("data"), harness.Options{Binary: program}), dir: dir, sd: in("SD.json"), blob: in("two.backup"), attested: in("attested.json"),
		rep: in("drill.report"), keys: map[string]bool{}}
	f.url = f.server.URL(t, "alpha")
	run := func(args ...string) string { t.Helper(); return f.server.Run(t, args...) }
	download := []string{"domain", "download", "--url", f.url, "--quorum", "2", "--out", f.sd}
	for _, name := range []string{"ann", "bo", "cy"} {
		run("custodian", "new", name, "--bits", "2048", "--out", dir)
		download = append(download, "--custodian", in(name+".cer"))
	}
	run(download...)
	policy := in("policy.json")
	if err := os.WriteFile(policy, []byte(`{"version":"1.0.0","anyOf":[{"authority":"https://attest.example.org","allOf":[{"claim":"svn","equals":7}]}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"Two-Versions", "--kty", "EC"},
		{"Two-Versions", "--kty", "EC", "--curve", "P-521", "--disabled"},
		{"p384", "--kty", "EC", "--curve", "P-384"},
		{"P256k", "--kty", "EC", "--curve", "P-256K"},
		{"rsa", "--kty", "RSA", "--bits", "2048", "--tag", "owner=ada", "--expires", "90d"},
		{"odd", "--kty", "RSA", "--bits", "2048", "--exponent", "65539"},
		{"aes", "--kty", "oct", "--bits", "192"},
		{"leaves", "--kty", "RSA", "--bits", "2048", "--exportable", "--release-policy", policy},
		{"Leaves-Bound", "--kty", "oct", "--exportable", "--release-policy", policy, "--immutable"},
		{"gone", "--kty", "EC"},
	} {
		run(append([]string{"key", "create", "--url", f.url}, args...)...)
		f.keys[args[0]] = args[0] == "gone"
	}
	run("key", "delete", "gone", "--url", f.url, "--confirm", "gone")
	run("key", "backup", "Two-Versions", "--url", f.url, "--out", f.blob)
	run("key", "attest", "P256k", "--url", f.url, "--out", f.attested)
	place := filepath.Join(f.server.Dir, "backups")
	run("backup", "start", "--url", f.url, "--to", place)
	found, err := filepath.Glob(filepath.Join(place, "mhsm-alpha-*"))
	if err != nil || len(found) != 1 {
		t.Fatalf("backups: %q, %v", found, err)
	}
	f.backup = found[0]
	run("drill", "--sd", f.sd, "--key", in("bo.key"), "--key", in("cy.key"), "--backup", f.backup, "--out", f.rep)
	var status struct {
		Domain string `json:"domain_id"`
	}
	if err := json.Unmarshal([]byte(run("domain", "status", "--url", f.url, "--output", "json")), &status); err != nil || status.Domain == "" {
		t.Fatal(status, err)
	}
	f.domain = status.Domain
	return f
}

// public is what the server says of the versions of its keys: of each "name version" the public members.
func (f filled) public(t *testing.T) map[string]map[string]any {
	t.Helper()
	all := map[string]map[string]any{}
	for name, deleted := range f.keys {
		if deleted {
			continue
		}
		var versions []struct{ Version string }
		if err := json.Unmarshal([]byte(f.server.Run(t, "key", "versions", name, "--url", f.url, "--output", "json")), &versions); err != nil || len(versions) == 0 {
			t.Fatalf("versions of %s: %v, %v", name, versions, err)
		}
		for _, v := range versions {
			show := []string{"key", "show", name, "--key-version", v.Version, "--url", f.url}
			public, jwk := map[string]any{}, map[string]any{}
			if err := json.Unmarshal([]byte(f.server.Run(t, append(show, "--output", "json")...)), &public); err != nil {
				t.Fatal(err)
			}
			maps.DeleteFunc(public, func(member string, _ any) bool {
				return !slices.Contains([]string{"kty", "key_ops", "enabled"}, member)
			})
			if public["kty"] != "oct-HSM" {
				if err := json.Unmarshal([]byte(f.server.Run(t, append(show, "--format", "jwk")...)), &jwk); err != nil {
					t.Fatal(err)
				}
				for _, member := range []string{"crv", "x", "y", "n", "e"} {
					if jwk[member] != nil {
						public[member] = jwk[member]
					}
				}
			}
			all[strings.ToLower(name)+" "+v.Version] = public
		}
	}
	return all
}

// versions is what the reader says of them, in the same form.
func versions(t *testing.T, list any) (all map[string]map[string]any, deleted []string) {
	t.Helper()
	all = map[string]map[string]any{}
	entries, _ := list.([]any)
	for _, e := range entries {
		name, _ := at(t, e, "name").(string)
		version, _ := at(t, e, "version").(string)
		if at(t, e, "deleted") == true {
			deleted = append(deleted, name)
			continue
		}
		public := map[string]any{"kty": at(t, e, "kty"), "key_ops": at(t, e, "key_ops"), "enabled": at(t, e, "enabled")}
		if jwk, is := at(t, e, "jwk").(map[string]any); is {
			for member, value := range jwk {
				if value == "P-256K" {
					value = "secp256k1" // as in a JWK
				}
				if member != "kty" {
					public[member] = value
				}
			}
		}
		all[strings.ToLower(name)+" "+version] = public
	}
	return all, deleted
}

// What the server and the tools write is what the page says: a reader made from it opens all, uses every private key, and finds the
// public keys that the server shows. It refuses what was changed by a byte, and a quorum that is none.
func TestSecondReader(t *testing.T) {
	f := fill(t)
	in := func(name string) string { return filepath.Join(f.dir, name) }
	quorum := []string{"--sd", f.sd, "--key", in("cy.key"), "--key", in("ann.key")}
	out, said, err := read(slices.Concat(quorum, []string{"--backup", f.backup, "--blob", f.blob, "--attestation", f.attested, "--report", f.rep})...)
	if err != nil {
		t.Fatalf("%v\n%s", err, said)
	}
	if got := at(t, out, "domain"); got != f.domain {
		t.Errorf("domain %v, want %s", got, f.domain)
	}
	want := f.public(t)
	got, deleted := versions(t, at(t, out, "backup", "keys"))
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("the versions of the server and those of its backup (-want +got):\n%s", d)
	}
	if !slices.Equal(deleted, []string{"gone"}) {
		t.Errorf("deleted in the backup: %q", deleted)
	}
	maps.DeleteFunc(want, func(version string, _ map[string]any) bool { return !strings.HasPrefix(version, "two-versions ") })
	if got, _ := versions(t, at(t, out, "blob", "keys")); len(want) != 2 || !cmp.Equal(want, got) {
		t.Errorf("the key backup has other versions (-want +got):\n%s", cmp.Diff(want, got))
	}
	if got := at(t, out, "report", "passed"); got != true {
		t.Errorf("the drill passed: %v", got)
	}
	if got := at(t, out, "attestation", "crv"); got != "P-256K" {
		t.Errorf("attested: a key on %v", got)
	}

	refuse := func(what string, args ...string) {
		t.Helper()
		if _, said, err := read(args...); err == nil || !strings.Contains(said, "refused: ") {
			t.Errorf("%s: %v, %s", what, err, said)
		}
	}
	refuse("one key of two", "--sd", f.sd, "--key", in("bo.key"))
	refuse("one key twice", "--sd", f.sd, "--key", in("bo.key"), "--key", in("bo.key"))
	entries, err := os.ReadDir(f.backup)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		path := filepath.Join(f.backup, e.Name())
		whole, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, place := range []int{len(whole) / 3, len(whole) - 2} {
			changed := bytes.Clone(whole)
			changed[place] ^= 4
			if err := os.WriteFile(path, changed, 0o600); err != nil {
				t.Fatal(err)
			}
			refuse("a changed "+e.Name(), append(quorum, "--backup", f.backup)...)
		}
		if err := os.WriteFile(path, whole, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	renamed := f.backup[:len(f.backup)-1] + "x"
	if err := os.Rename(f.backup, renamed); err != nil {
		t.Fatal(err)
	}
	refuse("a folder of another name", append(quorum, "--backup", renamed)...)
}
