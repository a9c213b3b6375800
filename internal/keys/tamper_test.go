package keys

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"strongroom/internal/failure"
	"strongroom/internal/store"
	"strongroom/internal/store/memory"
)

// scene is two HSMs of one domain in one database, each with two keys of two versions: everything that somebody
// with the file could move about.
type scene struct {
	hsms    map[string]*bench
	store   *memory.Store
	records map[string]string // as written
	older   map[string]string // the same keys one version earlier
	seen    map[string]any    // what each call answered
}

func newScene(t *testing.T) *scene {
	s := &scene{store: memory.New(), hsms: map[string]*bench{}}
	s.hsms["alpha"] = newBench(t, s.store, alphaID, ownDomain)
	s.hsms["beta"] = newBench(t, s.store, betaID, ownDomain)
	for range 2 {
		s.older = dump(t, s.store)
		for _, hsm := range []string{"alpha", "beta"} {
			for _, name := range []string{"one", "two"} {
				s.hsms[hsm].create(t, name, CreateParams{Tags: map[string]string{"n": fmt.Sprint(len(s.older))}})
			}
		}
	}
	s.records = dump(t, s.store)
	s.seen = map[string]any{}
	for what, got := range s.look(t) {
		if got.err != nil {
			t.Fatalf("%s: %v", what, got.err)
		}
		s.seen[what] = got.value
	}
	return s
}

type answer struct {
	value any
	err   error
}

// look makes every reading call on every HSM. Signatures are random, so a signature's value is whether it
// verifies under the public key that was there at first.
func (s *scene) look(t *testing.T) map[string]answer {
	t.Helper()
	ctx, got := t.Context(), map[string]answer{}
	for hsm, b := range s.hsms {
		list, err := b.List(ctx, alice, "", 0)
		got[hsm+" list"] = answer{list, err}
		for _, name := range []string{"one", "two"} {
			at := hsm + " " + name
			page, err := b.ListVersions(ctx, alice, name, "", 0)
			got[at+" versions"] = answer{page, err}
			ids := []string{""}
			if known, ok := s.seen[at+" versions"]; ok {
				ids = append(ids, versions(known.(Page).Items)...)
			} else {
				ids = append(ids, versions(page.Items)...)
			}
			for i, id := range ids {
				key, err := b.Get(ctx, alice, name, id)
				got[fmt.Sprintf("%s get %d", at, i)] = answer{key, err}
				signed, err := b.Sign(ctx, alice, name, id, "ES256", digest())
				got[fmt.Sprintf("%s sign %d", at, i)] = answer{signed.Version, err}
				ok, err := b.Verify(ctx, alice, name, id, "ES256", digest(), make([]byte, 64))
				got[fmt.Sprintf("%s verify %d", at, i)] = answer{ok, err}
			}
			_, err = b.Backup(ctx, alice, name)
			got[at+" backup"] = answer{nil, err}
		}
	}
	return got
}

// check looks at everything again: each call answers as at first, or says that a record was tampered with.
// It returns how many did the latter.
func (s *scene) check(t *testing.T, what string) (noticed int) {
	t.Helper()
	for call, got := range s.look(t) {
		want, watched := s.seen[call]
		switch {
		case !watched:
		case errors.Is(got.err, failure.Tampered), errors.Is(got.err, failure.Unsupported):
			noticed++
		case got.err != nil:
			t.Errorf("%s: %s: %v", what, call, got.err)
		case !cmp.Equal(want, got.value, sameKeys):
			t.Errorf("%s: %s answers something else: %s", what, call, cmp.Diff(want, got.value, sameKeys))
		}
	}
	return noticed
}

// changed checks with the records changed, which has to be noticed, and puts them back.
func (s *scene) changed(t *testing.T, what string, change func(map[string]string)) {
	t.Helper()
	records := maps.Clone(s.records)
	change(records)
	overwrite(t, s.store, records)
	if s.check(t, what) == 0 {
		// A record that no reading call needs is noticed by the writing ones.
		_, alpha := s.hsms["alpha"].Create(t.Context(), alice, "new", CreateParams{Type: "EC"})
		_, beta := s.hsms["beta"].Create(t.Context(), alice, "new", CreateParams{Type: "EC"})
		if failure.KindOf(alpha) != failure.Tampered && failure.KindOf(beta) != failure.Tampered {
			t.Errorf("%s: nobody noticed", what)
		}
	}
	overwrite(t, s.store, s.records)
}

// Covers K4: any two records exchanged, within a key, between keys, between HSMs.
func TestSwappedRecords(t *testing.T) {
	s := newScene(t)
	paths := sortedKeys(s.records)
	if len(paths) != 2*(1+2+4) {
		t.Fatalf("the scene has %d records, want 14", len(paths))
	}
	for i, a := range paths {
		for _, b := range paths[i+1:] {
			if s.records[a] == s.records[b] {
				t.Fatalf("%s and %s are the same record", a, b)
			}
			s.changed(t, a+" and "+b+" swapped", func(r map[string]string) { r[a], r[b] = r[b], r[a] })
			s.changed(t, a+" copied to "+b, func(r map[string]string) { r[b] = r[a] })
		}
	}
	if s.check(t, "in the end") != 0 {
		t.Error("the untouched scene is said to be tampered with")
	}
}

// Covers K4: one record dropped, or set back to what it was earlier.
func TestDroppedAndReplayedRecords(t *testing.T) {
	s := newScene(t)
	for _, path := range sortedKeys(s.records) {
		seen := maps.Clone(s.seen)
		if strings.Contains(path, "/key/") { // a list does not show it; every call that names the key says so
			delete(s.seen, "alpha list")
			delete(s.seen, "beta list")
		}
		s.changed(t, path+" dropped", func(r map[string]string) { delete(r, path) })
		s.seen = seen
	}
	replayed := 0
	for path, old := range s.older {
		if old == s.records[path] || strings.HasSuffix(path, "/keycount") {
			continue // the count guards a limit, no key: the worst of an older one is a key too many
		}
		s.changed(t, path+" replayed", func(r map[string]string) { r[path] = old })
		replayed++
	}
	if replayed != 4 {
		t.Errorf("%d records were replayed, want the 4 key records", replayed)
	}
	// A version's record in an earlier state, properly made, as an update of attributes would leave behind.
	b := s.hsms["alpha"]
	path := b.versionPath("one", 1)
	var v versionRecord
	if _, err := open(t.Context(), b.engine, path, []byte(s.records[path]), &v, "the version"); err != nil {
		t.Fatal(err)
	}
	v.Ops, v.Updated = []string{"sign", "verify"}, v.Updated-1
	desk := memory.New()
	err := desk.Update(t.Context(), func(w store.Writer) error {
		_, err := put(t.Context(), b.engine, w, path, v)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	s.changed(t, "an earlier state of a version", func(r map[string]string) { r[path] = dump(t, desk)[path] })
}

// Covers K4: every byte of a key's record and of a version's.
func TestEditedRecords(t *testing.T) {
	s := newScene(t)
	b := s.hsms["alpha"]
	for _, path := range []string{b.keyPath("one"), b.versionPath("one", 2), b.countPath()} {
		raw := s.records[path]
		for i := range raw {
			edited := []byte(raw)
			edited[i] ^= 1
			s.edited(t, fmt.Sprintf("%s: byte %d flipped", path, i), path, string(edited))
		}
		for _, edit := range []string{"", "{}", "null", "[]", raw[:len(raw)/2], raw + "{}", strings.Replace(raw, `"v":3`, `"v":4`, 1), strings.Replace(raw, `"v":3`, `"v":2`, 1), strings.Replace(raw, `"v":3`, `"v":1`, 1), strings.Repeat("[", 100_000)} {
			s.edited(t, fmt.Sprintf("%s: replaced by %d bytes", path, len(edit)), path, edit)
		}
	}
	version := s.records[b.versionPath("one", 2)]
	for from, to := range map[string]string{
		`"enabled":true`:              `"enabled":false`,
		`"key_ops":["sign","verify"]`: `"key_ops":["verify"]`,
		`"exportable":false`:          `"exportable":true`,
		`"crv":"P-256"`:               `"crv":"P-384"`,
	} {
		if !strings.Contains(version, from) {
			t.Fatalf("the record has no %s", from)
		}
		s.changed(t, from+" edited", func(r map[string]string) {
			r[b.versionPath("one", 2)] = strings.Replace(version, from, to, 1)
		})
	}
}

// edited is changed for one record of alpha's key one, with fewer calls, because there are many edits.
func (s *scene) edited(t *testing.T, what, path, value string) {
	t.Helper()
	records := maps.Clone(s.records)
	records[path] = value
	overwrite(t, s.store, records)
	b := s.hsms["alpha"]
	var err error
	var key Key
	if path == b.countPath() {
		_, err = b.Create(t.Context(), alice, "new", CreateParams{Type: "EC"})
	} else {
		key, err = b.Get(t.Context(), alice, "one", "")
	}
	if err == nil {
		// Base64 and JSON have bits that mean nothing; an edit there changes nothing.
		if path == b.countPath() || !cmp.Equal(s.seen["alpha one get 0"], any(key), sameKeys) {
			t.Errorf("%s: it is used", what)
		}
	} else if !slices.Contains([]failure.Kind{failure.Tampered, failure.Unsupported}, failure.KindOf(err)) {
		t.Errorf("%s: got %v", what, err)
	}
	overwrite(t, s.store, s.records)
}

// Covers K4 a second time, below the records' codes: the engine itself refuses material that stands in another
// place or beside other attributes, even when a code was made for the record.
func TestMaterialIsBound(t *testing.T) {
	s := newScene(t)
	load := func(b *bench, name string, seq int) (v versionRecord) {
		t.Helper()
		path := b.versionPath(name, seq)
		if _, err := open(t.Context(), b.engine, path, []byte(s.records[path]), &v, path); err != nil {
			t.Fatal(err)
		}
		return v
	}
	alpha, beta := s.hsms["alpha"], s.hsms["beta"]
	here := load(alpha, "one", 2)
	refuses := func(what string, v versionRecord) {
		t.Helper()
		err := s.store.Update(t.Context(), func(w store.Writer) error {
			rec, err := alpha.loadKey(t.Context(), alpha.engine, w, "one")
			if err != nil {
				return err
			}
			if rec.Versions[1].MAC, err = put(t.Context(), alpha.engine, w, alpha.versionPath("one", 2), v); err != nil {
				return err
			}
			rec.Versions[1].ID = v.ID
			_, err = put(t.Context(), alpha.engine, w, alpha.keyPath("one"), rec)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		defer overwrite(t, s.store, s.records)
		if _, err := alpha.Get(t.Context(), alice, "one", ""); err != nil {
			t.Errorf("%s: the code was not made right, the test shows nothing: %v", what, err)
		}
		_, sign := alpha.Sign(t.Context(), alice, "one", "", "ES256", digest())
		_, verify := alpha.Verify(t.Context(), alice, "one", "", "ES256", digest(), make([]byte, 64))
		_, backup := alpha.Backup(t.Context(), alice, "one")
		for call, err := range map[string]error{"sign": sign, "verify": verify, "backup": backup} {
			if failure.KindOf(err) != failure.Tampered {
				t.Errorf("%s: %s gives %v, want %v", what, call, err, failure.Tampered)
			}
		}
	}
	for what, other := range map[string]versionRecord{
		"material of another version": load(alpha, "one", 1),
		"material of another key":     load(alpha, "two", 2),
		"material of another HSM":     load(beta, "one", 2),
	} {
		v := here
		v.Sealed = other.Sealed
		refuses(what, v)
	}
	moved := load(beta, "one", 2)
	refuses("a whole version of another HSM", moved)
	for what, change := range map[string]func(*versionRecord){
		"another ID": func(v *versionRecord) { v.ID = strings.Repeat("0", 32) },
		"exportable": func(v *versionRecord) { v.Exportable = true },
		"not of HSM": func(v *versionRecord) { v.HSM = false },
	} {
		v := here
		change(&v)
		refuses(what, v)
	}
}

// Two descriptions of a key that differ have bindings that differ.
func TestBindingsDiffer(t *testing.T) {
	base := versionRecord{ID: "ab", Type: "t", Bits: 12, Curve: "c"}
	seen := map[string]string{}
	add := func(what string, binding []byte) {
		t.Helper()
		if other, twice := seen[string(binding)]; twice {
			t.Errorf("%s and %s have one binding", what, other)
		}
		seen[string(binding)] = what
	}
	add("base", base.binding("h", "n"))
	add("another HSM", base.binding("i", "n"))
	add("another name", base.binding("h", "m"))
	add("a letter moved from name to HSM", base.binding("hn", ""))
	add("the export of base", base.exportBinding("n"))
	add("the export of another name", base.exportBinding("m"))
	for what, change := range map[string]func(*versionRecord){
		"ID": func(v *versionRecord) { v.ID = "ac" }, "type": func(v *versionRecord) { v.Type = "u" },
		"size": func(v *versionRecord) { v.Bits = 1 }, "curve": func(v *versionRecord) { v.Curve = "2c" },
		"exportable": func(v *versionRecord) { v.Exportable = true }, "HSM flag": func(v *versionRecord) { v.HSM = true },
		"immutable policy": func(v *versionRecord) {
			v.Release = &releasePolicy{ContentType: "a", Data: []byte("b"), Immutable: true}
		},
		"other one": func(v *versionRecord) { v.Release = &releasePolicy{ContentType: "ab", Immutable: true} },
	} {
		v := base
		change(&v)
		add("another "+what, v.binding("h", "n"))
		add("the export of another "+what, v.exportBinding("n"))
	}
}
