package keys

import (
	"bytes"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"strongroom/internal/failure"
	"strongroom/internal/store"
	"strongroom/internal/store/memory"
)

// The short way into a record reads what put writes, as the long way does, and leaves other spellings to that.
// Whether to believe a body is no matter of it: that is what the code is for, which the tests of tampering try.
func TestPlainEnvelope(t *testing.T) {
	st := memory.New()
	h := newBench(t, st, alphaID, ownDomain)
	h.create(t, "invoices", CreateParams{Tags: map[string]string{`","body":`: `"}}`}})
	seen := 0
	err := st.View(t.Context(), func(r store.Reader) error {
		for path, raw := range r.Scan("hsm/"+alphaID+"/key", "") {
			var long envelope
			if err := strictDecode(raw, &long); err != nil {
				t.Fatal(err)
			}
			short, plain := plainEnvelope(raw)
			if diff := cmp.Diff(long, short); !plain || diff != "" {
				t.Errorf("%s: taken %t, %s", path, plain, diff)
			}
			for _, other := range [][]byte{append([]byte(" "), raw...), append(raw[:len(raw):len(raw)], '\n'), raw[:40], raw[:8], nil} {
				if _, plain := plainEnvelope(other); plain {
					t.Errorf("%s: taken for what put writes: %q", path, other)
				}
			}
			seen++
		}
		return nil
	})
	if err != nil || seen < 3 {
		t.Errorf("%d records, %v", seen, err)
	}
}

// What stands where a record was is the record, or refused.
func FuzzRecord(f *testing.F) {
	st := memory.New()
	h := newBench(f, st, alphaID, ownDomain)
	path := h.keyPath("invoices")
	rec := keyRecord{Name: "Invoices", Versions: []versionRef{{ID: "71eb4b64485b93a831c4b63d1c509b12", MAC: make([]byte, macSize)}}}
	var real []byte
	if err := st.Update(f.Context(), func(w store.Writer) error {
		if _, err := put(f.Context(), h.engine, w, path, rec); err != nil {
			return err
		}
		raw, _ := w.Get(path)
		real = bytes.Clone(raw)
		return nil
	}); err != nil {
		f.Fatal(err)
	}
	var want envelope
	if err := strictDecode(real, &want); err != nil {
		f.Fatal(err)
	}
	f.Add(real)
	f.Add(bytes.Replace(real, []byte(`,"mac"`), []byte(` ,"mac"`), 1))
	f.Add(bytes.Replace(real, []byte(`}}`), []byte(`} }`), 1))
	f.Add([]byte(`{"v":3,"mac":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=","body":{}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		var got keyRecord
		code, err := open(t.Context(), h.engine, path, raw, &got, "key")
		if err == nil && (!bytes.Equal(code, want.MAC) || cmp.Diff(rec, got) != "") {
			t.Errorf("%q is taken for a record", raw)
		}
		if err != nil && !errors.Is(err, failure.Tampered) && !errors.Is(err, failure.Unsupported) {
			t.Errorf("%q: %v", raw, err)
		}
	})
}
