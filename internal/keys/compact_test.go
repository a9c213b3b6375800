package keys

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	"strongroom/internal/engine"
)

// someRecord fills every field of a version, or leaves out what may be left out. A field that is new and not known here
// fails the test: compact would lose it.
func someRecord(t *testing.T, r *rand.Rand) *versionRecord {
	t.Helper()
	coin := func() bool { return r.IntN(2) == 0 }
	bytes := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		return b
	}
	v := &versionRecord{}
	for i := range reflect.TypeFor[versionRecord]().NumField() {
		switch name := reflect.TypeFor[versionRecord]().Field(i).Name; name {
		case "ID":
			v.ID = fmt.Sprintf("%x", bytes(16))
		case "Created":
			v.Created = r.Int64N(maxTime)
		case "Updated":
			v.Updated = -r.Int64N(maxTime)
		case "Enabled":
			v.Enabled = coin()
		case "NotBefore":
			if coin() {
				v.NotBefore = ptr(r.Int64N(maxTime))
			}
		case "Expires":
			if coin() {
				v.Expires = ptr(r.Int64N(maxTime))
			}
		case "Ops":
			v.Ops = []string{}
			for _, i := range r.Perm(len(compactOps))[:r.IntN(len(compactOps)+1)] {
				v.Ops = append(v.Ops, compactOps[i])
			}
		case "Tags":
			for i := range r.IntN(4) {
				if v.Tags == nil {
					v.Tags = map[string]string{}
				}
				v.Tags[fmt.Sprint(i)] = string(bytes(r.IntN(200)))
			}
		case "Release":
			if coin() {
				v.Release = &releasePolicy{ContentType: string(bytes(r.IntN(3))), Data: bytes(r.IntN(300)), Immutable: coin()}
			}
		case "Imported":
			v.Imported = coin()
		case "Type":
			v.Type = compactTypes[r.IntN(len(compactTypes))]
			if coin() {
				v.Ops = slices.Clone(opsByType[v.Type])
			}
		case "Bits":
			v.Bits = r.IntN(5000)
		case "Curve":
			v.Curve = compactNames[r.IntN(len(compactNames))]
		case "Exportable":
			v.Exportable = coin()
		case "HSM":
			v.HSM = coin()
		case "N":
			if coin() {
				v.N = bytes(1 + r.IntN(512))
			}
		case "E":
			v.E = r.IntN(1 << 31)
		case "X":
			if coin() {
				v.X = bytes(1 + r.IntN(66))
			}
		case "Y":
			if coin() {
				v.Y = bytes(1 + r.IntN(66))
			}
		case "Sealed":
			v.Sealed = bytes(1 + r.IntN(3000))
		default:
			t.Fatalf("the record has a field %s: say in compact how it lies in memory, and here what may be in it", name)
		}
	}
	return v
}

// What comes out of memory is what went in, in every field.
func TestCompactKeepsEverything(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for i := range 5000 {
		want := someRecord(t, r)
		name := []string{"name", "Name"}[i%2]
		b := want.compact(name, "name")
		if b == nil {
			t.Fatalf("%+v has no compact form", want)
		}
		gotName, got := unpack("name", want.ID, b)
		if gotName != name || !reflect.DeepEqual(got, want) {
			t.Fatalf("got %q %+v\nwant %q %+v", gotName, got, name, want)
		}
	}
}

// What this form has no place for is not kept, rather than kept as something else.
func TestCompactRefuses(t *testing.T) {
	sound := func() *versionRecord {
		return &versionRecord{ID: "1", Type: engine.EC, Curve: engine.P256, Ops: []string{opSign}, Sealed: []byte("s")}
	}
	if sound().compact("k", "k") == nil {
		t.Fatal("a sound record has no compact form")
	}
	for what, change := range map[string]func(*versionRecord){
		"a type of a later time":      func(v *versionRecord) { v.Type = "OKP-HSM" },
		"a curve of a later time":     func(v *versionRecord) { v.Curve = "Ed25519" },
		"an operation of a later one": func(v *versionRecord) { v.Ops = []string{"derive"} },
		"no list of operations":       func(v *versionRecord) { v.Ops = nil },
		"tags that are none":          func(v *versionRecord) { v.Tags = map[string]string{} },
		"a number of no bytes":        func(v *versionRecord) { v.X = []byte{} },
		"a policy of no data":         func(v *versionRecord) { v.Release = &releasePolicy{} },
	} {
		v := sound()
		change(v)
		if v.compact("k", "k") != nil {
			t.Errorf("%s has a compact form", what)
		}
	}
}
