package server

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"strongroom/internal/store"
	"strongroom/internal/store/memory"
	"strongroom/secret"
)

// A server remembers, from version 1 on: the records are spelled out here, not made by the code under test.
func TestSettingsOfVersion1(t *testing.T) {
	golden := map[string]string{
		"server/seal":         "cdb35c5fe6c4dc3bbab7ab08b3cf635f",
		"server/mode":         "dev",
		"server/tenant":       "44444444-4444-4444-8444-444444444444",
		"server/subscription": "33333333-3333-4333-8333-333333333333",
		"server/port":         "8443",
		"server/populated":    "1",
	}
	read := func(st store.Store) map[string]string {
		all := map[string]string{}
		must(t, st.View(t.Context(), func(r store.Reader) error {
			for key, value := range r.Scan("", "") {
				all[key] = string(value)
			}
			return nil
		}))
		return all
	}
	same := func(what string, got map[string]string) {
		t.Helper()
		if len(got) != len(golden) {
			t.Errorf("%s: %d records, want %d", what, len(got), len(golden))
		}
		for key, want := range golden {
			if got[key] != want {
				t.Errorf("%s: %s is %q, want %q", what, key, got[key], want)
			}
		}
	}

	old := memory.New()
	must(t, old.Update(t.Context(), func(w store.Writer) error {
		for key, value := range golden {
			w.Put(key, []byte(value))
		}
		return nil
	}))
	s, err := loadSettings(t.Context(), old, Config{}, true, golden["server/seal"])
	must(t, err)
	if want := (settings{tenant: golden["server/tenant"], subscription: golden["server/subscription"], port: 8443, populated: true}); s != want {
		t.Errorf("read as %+v, want %+v", s, want)
	}
	same("after reading", read(old))

	fresh := memory.New()
	s, err = loadSettings(t.Context(), fresh, Config{Tenant: golden["server/tenant"], Subscription: golden["server/subscription"]}, true, golden["server/seal"])
	must(t, err)
	must(t, s.rememberPort(t.Context(), fresh, 8443))
	must(t, s.rememberPopulated(t.Context(), fresh))
	same("written anew", read(fresh))
}

// Scripts of users read dev.env, and a restart reads the secret back from it: names, order and quoting stay.
func TestEnvironmentOfVersion1(t *testing.T) {
	const golden = "testdata/dev-v1.env"
	want, err := os.ReadFile(golden)
	must(t, err)
	const clientID, clientSecret = "55555555-5555-4555-8555-555555555555", "srs_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
	e := environment{
		authority: "https://127.0.0.1:8443", tenant: "44444444-4444-4444-8444-444444444444", clientID: clientID, clientSecret: secret.New([]byte(clientSecret)),
		objectID: "66666666-6666-4666-8666-666666666666", ca: "/srv/my data/tls/ca.pem",
		hsms: []hsmAddress{{"alpha", "https://127.0.0.1:8444"}, {"my-hsm", "https://127.0.0.1:8445"}},
	}
	path := filepath.Join(t.TempDir(), "dev.env")
	must(t, e.write(path))
	got, err := os.ReadFile(path)
	must(t, err)
	if !bytes.Equal(got, want) {
		t.Errorf("written:\n%s\nwant:\n%s", got, want)
	}
	if s := readSecret(golden, clientID); string(s.Reveal()) != clientSecret {
		t.Errorf("read a secret of %d bytes, want %d", s.Len(), len(clientSecret))
	}
	if s := readSecret(golden, "77777777-5555-4555-8555-555555555555"); !s.IsZero() {
		t.Error("another client got the secret")
	}
}
