package keys

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"strongroom/internal/engine"
	"strongroom/internal/failure"
	"strongroom/internal/store/memory"
)

// What is given changes, what is not given stays, and the other version of the key is another matter.
func TestUpdate(t *testing.T) {
	later := ptr(noon.AddDate(1, 0, 0))
	full := CreateParams{Ops: []string{"verify", "sign"}, NotBefore: &noon, Expires: later, Tags: map[string]string{"owner": "payments"}}
	for name, row := range map[string]struct {
		change UpdateParams
		want   func(k *Key)
	}{
		"nothing":            {UpdateParams{}, func(*Key) {}},
		"disable":            {UpdateParams{Enabled: ptr(false)}, func(k *Key) { k.Enabled = false }},
		"begin later":        {UpdateParams{NotBefore: ptr(noon.Add(time.Hour))}, func(k *Key) { k.NotBefore = ptr(noon.Add(time.Hour)) }},
		"end earlier":        {UpdateParams{Expires: ptr(noon.Add(time.Hour))}, func(k *Key) { k.Expires = ptr(noon.Add(time.Hour)) }},
		"one operation":      {UpdateParams{Ops: []string{"verify"}}, func(k *Key) { k.Ops = []string{"verify"} }},
		"no operation":       {UpdateParams{Ops: []string{}}, func(k *Key) { k.Ops = nil }},
		"other tags":         {UpdateParams{Tags: map[string]string{"a": "b"}}, func(k *Key) { k.Tags = map[string]string{"a": "b"} }},
		"no tags":            {UpdateParams{Tags: map[string]string{}}, func(k *Key) { k.Tags = nil }},
		"the same identity":  {UpdateParams{Type: "EC", Curve: engine.P256, Exportable: ptr(false)}, func(*Key) {}},
		"everything at once": {UpdateParams{Enabled: ptr(false), Ops: []string{"sign"}, Tags: map[string]string{}}, func(k *Key) { k.Enabled, k.Ops, k.Tags = false, []string{"sign"}, nil }},
	} {
		for _, latest := range []bool{true, false} {
			t.Run(name, func(t *testing.T) {
				b := newBench(t, memory.New(), alphaID, ownDomain)
				made := []Key{b.create(t, "My-Key", full), b.create(t, "my-key", full)}
				changed, version := 0, made[0].Version
				if latest {
					changed, version = 1, ""
				}
				b.at(noon.Add(time.Minute))
				got, err := b.Update(t.Context(), alice, "MY-KEY", version, row.change)
				if err != nil {
					t.Fatal(err)
				}
				made[changed].Updated = noon.Add(time.Minute)
				row.want(&made[changed])
				if diff := cmp.Diff(made[changed], got, sameKeys, cmpEmptyOps); diff != "" {
					t.Errorf("the answer: %s", diff)
				}
				for _, want := range made {
					got, err := b.Get(t.Context(), alice, "my-key", want.Version)
					if diff := cmp.Diff(want, got, sameKeys, cmpEmptyOps); err != nil || diff != "" {
						t.Errorf("stored (%v): %s", err, diff)
					}
				}
			})
		}
	}
}

// cmpEmptyOps takes no operations for no operations, listed or not.
var cmpEmptyOps = cmp.FilterValues(func(a, b []string) bool { return len(a)+len(b) == 0 }, cmp.Ignore())

// Covers K2, K11: a change of what a key may do holds for the next call on it, by every version and name.
func TestUpdateTakesEffectAtOnce(t *testing.T) {
	b := newBench(t, memory.New(), alphaID, ownDomain)
	key := b.create(t, "k", CreateParams{})
	for _, row := range []struct {
		what   string
		change UpdateParams
		sign   bool
	}{
		{"disabled", UpdateParams{Enabled: ptr(false)}, false},
		{"enabled again", UpdateParams{Enabled: ptr(true)}, true},
		{"expired", UpdateParams{Expires: &noon}, false},
		{"prolonged", UpdateParams{Expires: ptr(noon.Add(time.Second))}, true},
		{"for verifying only", UpdateParams{Ops: []string{"verify"}}, false},
	} {
		if _, err := b.Update(t.Context(), alice, "k", "", row.change); err != nil {
			t.Fatalf("%s: %v", row.what, err)
		}
		for _, version := range []string{"", key.Version} {
			_, err := b.Sign(t.Context(), alice, "K", version, "ES256", digest())
			if row.sign && err != nil || !row.sign && failure.KindOf(err) != failure.Disabled {
				t.Errorf("%s: sign gives %v", row.what, err)
			}
		}
	}
}

// Covers K3, K4, and the other refusals of update: the key stays as it was.
func TestUpdateRefuses(t *testing.T) {
	b := newBench(t, memory.New(), alphaID, ownDomain)
	signer := b.create(t, "signer", CreateParams{NotBefore: &noon})
	b.create(t, "worker", CreateParams{Type: "RSA"})
	b.create(t, "idle", CreateParams{Type: "RSA", Ops: []string{}})
	b.create(t, "exchange", CreateParams{Type: "RSA", Ops: []string{"import"}})
	for name, row := range map[string]struct {
		key, version string
		change       UpdateParams
		kind         failure.Kind
		says         string
	}{
		"unknown key":                {"gone", "", UpdateParams{}, failure.NotFound, "Key not found: gone"},
		"unknown version":            {"signer", strings.Repeat("0", 32), UpdateParams{}, failure.NotFound, "no version"},
		"malformed version":          {"signer", "x", UpdateParams{}, failure.BadParameter, "version"},
		"malformed name":             {"a_b", "", UpdateParams{}, failure.BadParameter, "name"},
		"another type":               {"signer", "", UpdateParams{Type: "RSA"}, failure.BadParameter, "kty of a key"},
		"an unknown type":            {"signer", "", UpdateParams{Type: "<canary>"}, failure.BadParameter, "kty of a key"},
		"another size":               {"worker", "", UpdateParams{Bits: 4096}, failure.BadParameter, "key_size"},
		"a size of an EC key":        {"signer", "", UpdateParams{Bits: 256}, failure.BadParameter, "key_size"},
		"another exponent":           {"worker", "", UpdateParams{Exponent: 3}, failure.BadParameter, "public_exponent"},
		"another curve":              {"signer", "", UpdateParams{Curve: engine.P384}, failure.BadParameter, "crv"},
		"exportable":                 {"signer", "", UpdateParams{Exportable: ptr(true)}, failure.BadParameter, "exportable"},
		"operations of another type": {"signer", "", UpdateParams{Ops: []string{"encrypt"}}, failure.BadParameter, "key_ops"},
		"unknown operation":          {"signer", "", UpdateParams{Ops: []string{"<canary>"}}, failure.BadParameter, "key_ops"},
		"ends before it begins":      {"signer", "", UpdateParams{Expires: ptr(noon.Add(-time.Hour))}, failure.BadParameter, "exp must be later than nbf"},
		"ends before 1970":           {"signer", "", UpdateParams{Expires: ptr(time.Unix(-1, 0))}, failure.BadParameter, "exp"},
		"a tag without bounds":       {"signer", "", UpdateParams{Tags: map[string]string{"t": strings.Repeat("x", 257)}}, failure.BadParameter, "tag"},
		"half right":                 {"signer", "", UpdateParams{Enabled: ptr(false), Ops: []string{"sign", "sign"}}, failure.BadParameter, "twice"},
		"import gets decrypt":        {"exchange", "", UpdateParams{Ops: []string{"import", "decrypt"}}, failure.BadParameter, "import"},
		"import becomes decrypt":     {"exchange", "", UpdateParams{Ops: []string{"decrypt"}}, failure.BadParameter, "import"},
		"import becomes nothing":     {"exchange", "", UpdateParams{Ops: []string{}}, failure.BadParameter, "import"},
		"a worker gets import":       {"worker", "", UpdateParams{Ops: []string{"decrypt", "import"}}, failure.BadParameter, "import"},
		"a worker becomes import":    {"worker", "", UpdateParams{Ops: []string{"import"}}, failure.BadParameter, "import"},
		"an idle key becomes import": {"idle", "", UpdateParams{Ops: []string{"import"}}, failure.BadParameter, "import"},
	} {
		t.Run(name, func(t *testing.T) {
			unchanged(t, b.store, func() {
				_, err := b.Update(t.Context(), alice, row.key, row.version, row.change)
				if f := wantKind(t, err, row.kind); !strings.Contains(f.Message, row.says) || strings.Contains(f.Message, "canary") {
					t.Errorf("the message is %q, want one with %q", f.Message, row.says)
				}
			})
		})
	}
	if got, err := b.Get(t.Context(), alice, "signer", ""); err != nil || !cmp.Equal(got, signer, sameKeys) {
		t.Errorf("the key changed: %+v, %v", got, err)
	}
	// An import key can still be disabled and labelled.
	got, err := b.Update(t.Context(), alice, "exchange", "", UpdateParams{Enabled: ptr(false), Ops: []string{"import"}, Tags: map[string]string{"a": "b"}})
	if err != nil || got.Enabled || !slices.Equal(got.Ops, []string{"import"}) {
		t.Errorf("a harmless change of an import key: %+v, %v", got, err)
	}
}

// Covers K3: from every key, over every sequence of two changes of key_ops, none that was for import can ever do
// anything else, and none that did something else is ever for import. Backup and restore are no way around.
func TestImportKeysStaySo(t *testing.T) {
	b := newBench(t, memory.New(), alphaID, ownDomain)
	b.create(t, "exchange", CreateParams{Type: "RSA", Ops: []string{"import"}})
	b.create(t, "worker", CreateParams{Type: "RSA"})
	var lists [][]string
	for _, op := range append(slices.Clone(opsByType[engine.RSA]), opImport) {
		lists = append(lists, []string{op}, []string{op, opImport}, []string{opImport, op})
	}
	lists = append(lists, nil, []string{}, opsByType[engine.RSA], append(slices.Clone(opsByType[engine.RSA]), opImport))
	start := dump(t, b.store)
	walk := func(name string, imports bool) {
		look := func(b *bench, what string) {
			t.Helper()
			key, err := b.Get(t.Context(), alice, name, "")
			if is := slices.Contains(key.Ops, opImport); err != nil || is != imports || is && len(key.Ops) != 1 {
				t.Fatalf("%s, after %s: key_ops %v, %v", name, what, key.Ops, err)
			}
		}
		for _, first := range lists {
			for _, second := range lists {
				for _, ops := range [][]string{first, second} {
					_, _ = b.Update(t.Context(), alice, name, "", UpdateParams{Ops: ops})
					look(b, strings.Join(ops, " "))
				}
				overwrite(t, b.store, start)
			}
		}
		blob, err := b.Backup(t.Context(), alice, name)
		if err != nil {
			t.Fatal(err)
		}
		other := newBench(t, memory.New(), betaID, ownDomain)
		if _, err := other.Restore(t.Context(), alice, blob); err != nil {
			t.Fatal(err)
		}
		for _, ops := range lists {
			_, _ = other.Update(t.Context(), alice, name, "", UpdateParams{Ops: ops})
			look(other, "restore and "+strings.Join(ops, " "))
		}
	}
	walk("exchange", true)
	walk("worker", false)
}

// Two callers change different things of one version at once: both changes stay.
func TestConcurrentUpdates(t *testing.T) {
	b := newBench(t, memory.New(), alphaID, ownDomain)
	b.create(t, "k", CreateParams{})
	done := make(chan error)
	changes := []UpdateParams{{Ops: []string{"verify"}}, {Enabled: ptr(false)}, {Expires: ptr(noon.AddDate(1, 0, 0))}, {Tags: map[string]string{"a": "b"}}}
	for _, change := range changes {
		go func() {
			_, err := b.Update(t.Context(), alice, "k", "", change)
			done <- err
		}()
	}
	for range changes {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	got, err := b.Get(t.Context(), alice, "k", "")
	if err != nil || !slices.Equal(got.Ops, []string{"verify"}) || got.Enabled || got.Expires == nil || !maps.Equal(got.Tags, map[string]string{"a": "b"}) {
		t.Errorf("a change was lost: %+v, %v", got, err)
	}
}
