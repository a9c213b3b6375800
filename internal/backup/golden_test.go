package backup_test

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"strongroom/internal/access"
	"strongroom/internal/backup"
	"strongroom/internal/backupset"
	"strongroom/internal/hsm"
	"strongroom/internal/keys"
	"strongroom/internal/seal"
	"strongroom/internal/store"
	"strongroom/internal/store/memory"
)

const goldenDir = "testdata/v1"

// golden says what is in the files of testdata/v1; testdata/README.md says it for people.
type golden struct {
	Folder    string            `json:"folder"`    // of the backup
	Job       string            `json:"job"`       // of the restore
	Version   string            `json:"version"`   // of the key that signed
	Signature []byte            `json:"signature"` // of 32 zero bytes, ES256
	Text      map[string]string `json:"text"`
	Bytes     map[string][]byte `json:"bytes"`
}

// fillGolden makes one of everything that a backup can hold.
func fillGolden(w *world) {
	w.t.Helper()
	must := func(err error) {
		w.t.Helper()
		if err != nil {
			w.t.Fatal(err)
		}
	}
	w.fill("alpha")
	before, expires := w.now.Add(-time.Hour), w.now.Add(1000*24*time.Hour)
	w.create("alpha", "dated", keys.CreateParams{Type: "RSA", Bits: 2048, NotBefore: &before, Expires: &expires, Tags: map[string]string{"owner": "payments"}})
	policy := []byte(`{"version":"1.0.0","anyOf":[{"authority":"https://attest.example","allOf":[{"claim":"secure","equals":true}]}]}`)
	w.create("alpha", "leaves", keys.CreateParams{Exportable: true, ReleasePolicy: &keys.ReleasePolicy{Data: policy, Immutable: true}})
	_, err := w.open("alpha").Roles().PutDefinition(w.t.Context(), admin, access.ScopeRoot, access.Role{ID: "bbbbbbbb-0000-4000-8000-000000000001", Name: "Signers", Description: "who sign", Scopes: []string{"/"},
		DataActions: []access.Action{access.KeySign}, NotDataActions: []access.Action{access.KeyRead}})
	must(err)
	_, err = w.open("alpha").SetSetting(w.t.Context(), admin, hsm.SettingARMKeys, "true")
	must(err)
}

// loadGolden is a server that comes up on what version 1 left, and its shelf has the backup.
func loadGolden(t *testing.T) (*world, golden) {
	t.Helper()
	read := func(path string) []byte {
		b, err := os.ReadFile(filepath.Join(goldenDir, path))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	var g golden
	if err := json.Unmarshal(read("records.json"), &g); err != nil || len(g.Bytes) < 30 {
		t.Fatalf("%d golden records, %v", len(g.Bytes), err)
	}
	path := filepath.Join(t.TempDir(), "seal.json") // version control keeps no mode 0600
	if err := os.WriteFile(path, read("seal.json"), 0o600); err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, store: memory.New(), shelf: newShelf(), now: time.Date(2026, 11, 26, 0, 0, 0, 0, time.UTC)}
	var err error
	if w.seal, err = seal.OpenFile(path); err != nil {
		t.Fatal(err)
	}
	objects, err := os.ReadDir(filepath.Join(goldenDir, g.Folder))
	if err != nil || len(objects) < 3 {
		t.Fatalf("%d golden objects, %v", len(objects), err)
	}
	for _, o := range objects {
		w.shelf.objects[g.Folder+"/"+o.Name()] = read(g.Folder + "/" + o.Name())
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

// What version 1 of backups, and version 2 of HSM records, left is read for ever: the HSM after a restore, its restore
// point, its jobs, and the backup, which restores.
func TestVersion1StaysReadable(t *testing.T) {
	w, g := loadGolden(t)
	h := w.open("alpha")
	list, err := w.backups.Jobs(t.Context(), h, admin)
	if err != nil || len(list) != 3 {
		t.Fatalf("%d jobs, %v; want 3", len(list), err)
	}
	j, err := w.backups.Status(t.Context(), h, admin, true, g.Job)
	if err != nil || j.Kind != backup.FullRestore || j.Status != backup.Succeeded || j.Folder != g.Folder || j.By != admin.ObjectID || j.Ended == nil || j.Records == 0 || j.Details == "" || j.Target != target.URI {
		t.Errorf("the golden job: %+v, %v", j, err)
	}
	if one := list[0]; one.Kind != backup.KeyRestore || one.Key != "never" || one.Status != backup.Failed || one.Code != "KeyNotFound" || one.Message == "" {
		t.Errorf("the golden failure: %+v", one)
	}
	restored := w.inventory("alpha")
	if p, err := h.RestorePoint(t.Context(), admin); err != nil || p == nil || p.Job != g.Job {
		t.Errorf("the golden restore point: %+v, %v", p, err)
	}
	check := func(what string) {
		t.Helper()
		if d := cmp.Diff(restored, w.inventory("alpha")); d != "" {
			t.Errorf("%s (-before +after):\n%s", what, d)
		}
		if ok, err := w.keys("alpha").Verify(t.Context(), admin, "invoices", g.Version, "ES256", make([]byte, 32), g.Signature); err != nil || !ok {
			t.Errorf("%s, the golden signature: %v, %v", what, ok, err)
		}
		leaves, err := w.keys("alpha").Get(t.Context(), admin, "leaves", "")
		if err != nil || !leaves.Exportable || leaves.ReleasePolicy == nil || !leaves.ReleasePolicy.Immutable {
			t.Errorf("%s, the release policy: %+v, %v", what, leaves, err)
		}
		dated, err := w.keys("alpha").Get(t.Context(), admin, "dated", "")
		if err != nil || dated.NotBefore == nil || dated.Expires == nil || dated.Tags["owner"] != "payments" {
			t.Errorf("%s, the attributes: %+v, %v", what, dated, err)
		}
		if p, err := w.keys("alpha").GetRotationPolicy(t.Context(), admin, "invoices"); err != nil || p.TimeAfterCreate != "P90D" {
			t.Errorf("%s, the rotation policy: %+v, %v", what, p, err)
		}
		if s, err := w.open("alpha").Setting(t.Context(), admin, hsm.SettingARMKeys); err != nil || !s.On {
			t.Errorf("%s, the setting: %+v, %v", what, s, err)
		}
		roles, err := w.open("alpha").Roles().Definitions(t.Context(), admin, access.ScopeRoot)
		if err != nil || !slices.ContainsFunc(roles, func(r access.Role) bool {
			return r.Name == "Signers" && r.Description == "who sign" && len(r.NotDataActions) == 1
		}) {
			t.Errorf("%s, the custom role: %v", what, err)
		}
	}
	check("as it was left")
	if _, err := h.UndoRestore(t.Context(), admin); err != nil {
		t.Fatal(err)
	}
	if slices.Equal(restored, w.inventory("alpha")) {
		t.Error("the restore point is what was restored")
	}
	if j := w.restore("alpha", g.Folder); j.Status != backup.Succeeded {
		t.Fatalf("the golden backup: %+v", j)
	}
	check("restored again")
}

// shapes are the members of JSON values, by a name for each, so that a member that changes its name is noticed.
type shapes map[string][]string

func (s shapes) add(t *testing.T, name string, text []byte) {
	t.Helper()
	var v any
	if err := json.Unmarshal(text, &v); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	var collect func(prefix string, v any)
	collect = func(prefix string, v any) {
		switch v := v.(type) {
		case map[string]any:
			for member, inner := range v {
				at := prefix + member + ":" + reflect.TypeOf(inner).Kind().String()
				if !slices.Contains(s[name], at) {
					s[name] = append(s[name], at)
				}
				collect(prefix+member+".", inner)
			}
		case []any:
			for _, inner := range v {
				collect(prefix, inner)
			}
		}
	}
	collect("", v)
	slices.Sort(s[name])
}

// written are the shapes of everything that the world's HSM, jobs and backup have.
func (w *world) written(t *testing.T, folder string) shapes {
	t.Helper()
	s := shapes{}
	h := w.open("alpha")
	b, err := backupset.Open(t.Context(), w.shelf, folder)
	if err != nil {
		t.Fatal(err)
	}
	parts, err := h.Parts()
	if err != nil {
		t.Fatal(err)
	}
	domain, err := h.DomainID()
	if err != nil {
		t.Fatal(err)
	}
	for r, err := range b.Records(t.Context(), domain, parts, nil) {
		if err != nil {
			t.Fatal(err)
		}
		s.add(t, "body of "+r.Kind, r.Body)
	}
	err = w.store.View(t.Context(), func(r store.Reader) error {
		for path, sealed := range r.Scan("hsm/"+h.ID()+"/", "") {
			name := "job"
			if strings.HasSuffix(path, "/record") {
				name = "HSM record"
			} else if !strings.Contains(path, "/job/") {
				continue
			}
			plain, err := w.seal.Unwrap(sealed, path)
			if err != nil {
				return err
			}
			s.add(t, name, plain.Reveal())
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// history is what the golden server did.
func history(w *world) (folder string, restored backup.Job) {
	w.t.Helper()
	fillGolden(w)
	folder = w.backup("alpha")
	w.create("alpha", "later", keys.CreateParams{})
	if restored = w.restore("alpha", folder); restored.Status != backup.Succeeded {
		w.t.Fatalf("%+v", restored)
	}
	w.mu.Lock()
	w.now = w.now.Add(time.Second)
	w.mu.Unlock()
	j, err := w.backups.RestoreKey(w.t.Context(), w.open("alpha"), admin, target, folder, "never")
	w.done("alpha", j, err)
	return folder, restored
}

// What is written today is what version 1 wrote, member by member: a name that changes silently would lose data.
func TestVersion1IsWhatIsWritten(t *testing.T) {
	then, g := loadGolden(t)
	now := newWorld(t, "alpha")
	folder, _ := history(now)
	was, is := then.written(t, g.Folder), now.written(t, folder)
	if d := cmp.Diff(was, is); d != "" {
		t.Errorf("members (-golden +today):\n%s", d)
	}
	if kinds := slices.Sorted(maps.Keys(was)); len(kinds) != 7 {
		t.Errorf("there are only %q", kinds)
	}
}
