package hsm_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"strongroom/internal/failure"
	"strongroom/internal/hsm"
	"strongroom/internal/seal"
	"strongroom/internal/store"
	"strongroom/internal/store/memory"
	"strongroom/secret"
)

// golden is a server's database as version 1 wrote it. testdata/README.md says what is in it.
type golden struct {
	DomainID  string            `json:"domain_id"`
	Signature []byte            `json:"signature"`
	Text      map[string]string `json:"text"`
	Bytes     map[string][]byte `json:"bytes"`
}

func fixture(t *testing.T, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// goldenWorld is a server that comes up, weeks later, on what version 1 left on its disk.
func goldenWorld(t *testing.T) (*world, golden) {
	t.Helper()
	var g golden
	if err := json.Unmarshal(fixture(t, "records-v1.json"), &g); err != nil || len(g.Text) != 6 || len(g.Bytes) != 9 {
		t.Fatalf("%d and %d golden records, %v; want 6 and 9", len(g.Text), len(g.Bytes), err)
	}
	path := filepath.Join(t.TempDir(), "seal.json") // version control keeps no mode 0600
	if err := os.WriteFile(path, fixture(t, "seal-v1.json"), 0o600); err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, store: memory.New(), now: time.Date(2026, 12, 31, 0, 0, 0, 0, time.UTC)}
	var err error
	if w.seal, err = seal.OpenFile(path); err != nil {
		t.Fatal(err)
	}
	err = w.store.Update(t.Context(), func(tx store.Writer) error {
		for key, value := range g.Text {
			tx.Put(key, []byte(value))
		}
		for key, value := range g.Bytes {
			tx.Put(key, value)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	w.begin()
	return w, g
}

// What version 1 wrote is read for ever: the records of HSMs in each state, the sealed domain, the sealed exchange
// key, and with them role assignments and keys.
func TestVersion1StaysReadable(t *testing.T) {
	w, g := goldenWorld(t)
	noon := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

	got := w.info("ALPHA")
	if got.Name != "Alpha" || got.State != hsm.Activated || got.DomainID != g.DomainID || !got.Activated.Equal(noon) || !got.Created.Equal(noon) {
		t.Errorf("alpha is %+v", got)
	}
	if got.Required != 2 || !slices.Equal(got.Custodians, []string{"custodian-1", "custodian-2", "custodian-3"}) {
		t.Errorf("alpha's SD file: %d of %v", got.Required, got.Custodians)
	}
	if !maps.Equal(got.Tags, map[string]string{"owner": "payments"}) || !got.PurgeProtection || got.RetentionDays != 7 ||
		!bytes.Contains(got.NetworkACLs, []byte("AzureServices")) || !slices.Equal(got.InitialAdmins, []string{adminID}) || got.ResourceGroup != "strongroom" {
		t.Errorf("alpha's settings: %+v", got.Spec)
	}

	// The domain opens: a new SD file is of the same one, and the key in it is the key that signed.
	alpha := w.open("alpha")
	d, err := alpha.Download(t.Context(), admin, certificates(3), 2)
	if err != nil || d.DomainID != g.DomainID {
		t.Fatalf("download: domain %s, %v; want %s", d.DomainID, err, g.DomainID)
	}
	k, err := alpha.Keys(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if ok, err := k.Verify(t.Context(), admin, "golden", "", "ES256", make([]byte, 32), g.Signature); err != nil || !ok {
		t.Errorf("the golden signature: %t, %v", ok, err)
	}

	// The exchange key opens: the transfer file that was made for it still fits.
	if got := w.info("beta"); got.State != hsm.Recovering || got.DomainID != "" {
		t.Errorf("beta is %+v", got)
	}
	id, err := w.open("beta").Upload(t.Context(), admin, fixture(t, "transfer-v1.json"))
	if err != nil || id != g.DomainID {
		t.Errorf("upload: domain %s, %v; want %s", id, err, g.DomainID)
	}

	deleted, err := w.service.GetDeleted(t.Context(), "gamma")
	if err != nil || deleted.State != hsm.Provisioned || !deleted.DeletedAt.Equal(noon) || !deleted.PurgeAt.Equal(noon.AddDate(0, 0, 90)) {
		t.Errorf("gamma is %+v, %v", deleted, err)
	}

	// Who is nobody in the golden role assignments is nobody now.
	_, err = alpha.Describe(t.Context(), stranger)
	wantKind(t, err, failure.Forbidden, "")
}

// What is written today is what version 1 wrote, member by member: a name that changes silently would lose data.
func TestVersion1IsWhatIsWritten(t *testing.T) {
	w, g := goldenWorld(t)
	members := func(text string) (list []string) {
		var collect func(prefix string, v any)
		collect = func(prefix string, v any) {
			if m, is := v.(map[string]any); is {
				for _, name := range slices.Sorted(maps.Keys(m)) {
					list = append(list, prefix+name)
					collect(prefix+name+".", m[name])
				}
			}
		}
		var v any
		if err := json.Unmarshal([]byte(text), &v); err != nil {
			t.Fatal(err)
		}
		collect("", v)
		return list
	}
	path := "hsm/" + w.info("alpha").ID + "/record"
	unsealed := func(sealed []byte) string {
		plain, err := w.seal.Unwrap(sealed, path)
		if err != nil {
			t.Fatal(err)
		}
		return string(plain.Reveal())
	}
	then := unsealed(g.Bytes[path])
	if _, err := w.open("alpha").Download(t.Context(), admin, certificates(3), 2); err != nil {
		t.Fatal(err)
	}
	var now string
	err := w.store.View(t.Context(), func(r store.Reader) error {
		raw, _ := r.Get(path)
		now = unsealed(raw)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if now == then {
		t.Fatal("the download changed nothing: the test compares the file with itself")
	}
	if want, got := members(then), members(now); !slices.Equal(want, got) || len(want) < 20 {
		t.Errorf("the record now has members\n%q\nand had\n%q", got, want)
	}
}

// A record of version 2, of an HSM that is being restored and was before, has these members, and version 1 has none of them.
func TestPlacesOfVersion2(t *testing.T) {
	w := activated(t, "alpha")
	id := w.info("alpha").ID
	places := func() string {
		t.Helper()
		var now struct {
			V                                    int
			Places, Current, Restoring, Previous json.RawMessage
		}
		err := w.store.View(t.Context(), func(r store.Reader) error {
			raw, _ := r.Get("hsm/" + id + "/record")
			plain, err := w.seal.Unwrap(raw, "hsm/"+id+"/record")
			if err != nil {
				return err
			}
			text := map[string]json.RawMessage{}
			if err := json.Unmarshal(plain.Reveal(), &text); err != nil {
				return err
			}
			now.Places, now.Current, now.Restoring, now.Previous = text["places"], text["current_place"], text["restoring"], text["restore_point"]
			return json.Unmarshal(text["v"], &now.V)
		})
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf("%d %s %s %s %s", now.V, now.Places, now.Current, now.Restoring, now.Previous)
	}
	at := w.now.UTC().Format(time.RFC3339Nano)
	b := take(t, w.open("alpha"))
	check := func(want string) {
		t.Helper()
		if got := places(); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
	check("1    ")
	restore(t, w.open("alpha"), "job-1", b)
	check(`2 1 1  {"job":"job-1","place":0,"replaced":"` + at + `"}`)
	r := begin(t, w.open("alpha"), "job-2")
	check(`2 2 1 {"job":"job-2","place":2,"started":"` + at + `"} {"job":"job-1","place":0,"replaced":"` + at + `"}`)
	if err := r.Abandon(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := w.open("alpha").UndoRestore(t.Context(), admin); err != nil {
		t.Fatal(err)
	}
	check(`2 2   {"job":"job-1","place":1,"replaced":"` + at + `"}`)

	// What contradicts itself is refused.
	path := "hsm/" + id + "/record"
	put := func(sealed []byte) {
		t.Helper()
		err := w.store.Update(t.Context(), func(tx store.Writer) error { tx.Put(path, sealed); return nil })
		if err != nil {
			t.Fatal(err)
		}
	}
	good := w.dump()[path]
	plain, err := w.seal.Unwrap(good, path)
	if err != nil {
		t.Fatal(err)
	}
	text := string(plain.Reveal())
	for _, wrong := range []string{`"v":1`, `"current_place":3`, `"current_place":1`, `"places":0`, `"restoring":{"job":"j","place":1,"started":"` + at + `"}`, `"restore_point":{"job":"j","place":7,"replaced":"` + at + `"}`} {
		sealed, err := w.seal.Wrap(secret.New([]byte(text[:len(text)-1]+","+wrong+"}")), path) // of two members of a name the second counts
		if err != nil {
			t.Fatal(err)
		}
		put(sealed)
		if _, err := w.service.Get(t.Context(), "alpha"); !errors.Is(err, failure.Tampered) {
			t.Errorf("%s: %v", wrong, err)
		}
	}
	put(good)
	if _, err := w.service.Get(t.Context(), "alpha"); err != nil {
		t.Errorf("the record as it was: %v", err)
	}
}
