package keys

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"

	"strongroom/internal/engine"
	"strongroom/internal/failure"
	"strongroom/internal/store"
	"strongroom/internal/store/memory"
)

// Covers B1: the body of a key in a backup of the whole HSM is read or refused, and what is read prints back the same.
func FuzzParseCopy(f *testing.F) {
	const version = `{"id":"00000000000000000000000000000000","created":1,"updated":1,"enabled":true,"key_ops":["sign"],"kty":"EC-HSM","crv":"P-256","exportable":false,"hsm":true,"x":"AQ==","y":"AQ==","sealed":"AA=="}`
	f.Add([]byte(`{"name":"K","versions":[` + version + `]}`))
	f.Add([]byte(`{"name":"k","versions":[` + version + `],"rotation_policy":{"expiry_time":"P90D","time_before_expiry":"P30D","created":1,"updated":1}}`))
	f.Add([]byte(`{"name":"k","versions":[` + version + `],"rotation_policy":{"time_after_create":"P1D","time_before_expiry":"P1D","created":-1,"updated":1}}`))
	f.Add([]byte(`{"name":"k","versions":[` + version + `],"deleted":{"at":1,"purge":2,"served":3}}`))
	f.Add([]byte(`{"name":"k","versions":[` + version + `],"deleted":{"at":2,"purge":1,"served":-3}}`))
	f.Add([]byte(`{"name":"k","versions":[` + version + `,` + version + `]}`))
	f.Add([]byte(`{"name":"k","versions":[]}`))
	f.Add([]byte(`[[[[`))
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := ParseCopy(text)
		if err != nil {
			if failure.KindOf(err) != failure.BadParameter {
				t.Errorf("got kind %s", failure.KindOf(err))
			}
			return
		}
		if _, err := normalName(c.Name); err != nil || len(c.Versions) == 0 || len(c.Versions) > MaxVersions {
			t.Errorf("it parsed and breaks a bound: %+v", c)
		}
		body, lower, err := parseCopy(text)
		if err != nil {
			t.Fatal(err)
		}
		if d := body.Deleted; c.Deleted != (d != nil) || d != nil && (d.At < 0 || d.Purge < d.At || d.Purge > maxTime || d.Served < 0) {
			t.Errorf("deleted: %+v", d)
		}
		again, err := json.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		second, lower2, err := parseCopy(again)
		if diff := cmp.Diff(body, second, cmpEmpty, cmp.AllowUnexported(versionRecord{})); err != nil || diff != "" || lower != lower2 {
			t.Errorf("written again it differs (%v): %s", err, diff)
		}
	})
}

// A record is spelled as encoding/json spells an envelope, to the byte.
func TestRecordsAreSpelledAsEver(t *testing.T) {
	h := newBench(t, memory.New(), alphaID, ownDomain)
	eng, err := h.cfg.Engine()
	if err != nil {
		t.Fatal(err)
	}
	var r Restorable
	code, err := put(t.Context(), eng, &r, h.keyPath("k"), keyRecord{Name: "<K>&", Versions: []versionRef{{ID: "id", MAC: []byte{0xfb, 0xff}}}})
	if err != nil {
		t.Fatal(err)
	}
	var e envelope
	if err := strictDecode(r.values[0], &e); err != nil {
		t.Fatal(err)
	}
	want, err := json.Marshal(e)
	if err != nil || string(want) != string(r.values[0]) || string(e.MAC) != string(code) {
		t.Errorf("got  %s\nwant %s, %v", r.values[0], want, err)
	}
}

// A key of a backup whose recorded public key is another than its material has is found by whoever only looks and by whoever
// restores, each in his words: whatever part of it differs.
func TestRecordedPublicKeyIsCompared(t *testing.T) {
	b, target := newBench(t, memory.New(), alphaID, ownDomain), newBench(t, memory.New(), betaID, ownDomain)
	b.create(t, "ec", CreateParams{Type: "EC"})
	b.create(t, "rsa", CreateParams{Type: "RSA", Bits: 2048})
	b.create(t, "oct", CreateParams{Type: "oct-HSM", Bits: 256})
	from, err := b.Mover()
	if err != nil {
		t.Fatal(err)
	}
	into, err := target.Mover()
	if err != nil {
		t.Fatal(err)
	}
	salt := make([]byte, engine.SaltSize)
	bodies := map[string][]byte{}
	err = b.store.View(t.Context(), func(r store.Reader) error {
		return from.CopyAll(t.Context(), r, salt, func() {}, func(c Copy) error { bodies[c.Name] = c.Body; return nil })
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		what, key string
		change    func(v *versionRecord)
		good      bool
	}{
		{"nothing", "ec", func(*versionRecord) {}, true}, {"nothing", "rsa", func(*versionRecord) {}, true}, {"nothing", "oct", func(*versionRecord) {}, true},
		{"x", "ec", func(v *versionRecord) { v.X[0] ^= 1 }, false},
		{"y", "ec", func(v *versionRecord) { v.Y[0] ^= 1 }, false},
		{"n", "rsa", func(v *versionRecord) { v.N[len(v.N)-1] ^= 2 }, false},
		{"e", "rsa", func(v *versionRecord) { v.E += 2 }, false},
	} {
		body, _, err := parseCopy(bodies[c.key])
		if err != nil {
			t.Fatal(err)
		}
		c.change(&body.Versions[0])
		text, err := json.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		held, wrong, err := OpenCopy(t.Context(), b.engine, salt, c.key, text)
		if err != nil || (len(held) == 1 && len(wrong) == 0) != c.good {
			t.Errorf("%s of %s differs, and looking at it finds %d versions and %+v, %v", c.what, c.key, len(held), wrong, err)
		}
		if !c.good && (len(wrong) != 1 || wrong[0].Reason != "has another public key than its record says") {
			t.Errorf("%s of %s differs, and looking at it finds %+v", c.what, c.key, wrong)
		}
		_, err = into.Prepare(t.Context(), salt, text)
		if (err == nil) != c.good {
			t.Errorf("%s of %s differs, and restoring it says %v", c.what, c.key, err)
		}
		if f := failure.KindOf(err); !c.good && f != failure.BadParameter {
			t.Errorf("%s of %s differs, and restoring it is a %s", c.what, c.key, f)
		}
	}
}
