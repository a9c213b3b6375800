package bolt_test

import (
	"bytes"
	"compress/gzip"
	"encoding/hex"
	"io"
	"maps"
	"os"
	"path/filepath"
	"testing"

	"go.etcd.io/bbolt"

	"strongroom/internal/store/bolt"
)

// What format 1 wrote is read for ever. testdata/README.md says what is in the file.
func TestFormat1StaysReadable(t *testing.T) {
	f, err := os.Open("testdata/strongroom-v1.db.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	large := make([]byte, 5000)
	for i := range large {
		large[i] = byte(i)
	}
	want := map[string]string{"a/empty": "", "a/record": "golden value", "b/large": string(large)}
	if got, err := openBytes(t, data); err != nil || !maps.Equal(got, want) {
		t.Errorf("%d records, %v; want the three of the golden file", len(got), err)
	}
}

// What is written today is format 1, byte for byte, as docs/formats.md draws it: the bytes are spelled out here.
func TestFormat1IsWhatIsWritten(t *testing.T) {
	dir := t.TempDir()
	s := mustOpen(t, dir)
	if err := put(s, "a/record", "golden value"); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	db, err := bbolt.Open(filepath.Join(dir, bolt.FileName), 0o600, &bbolt.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	err = db.View(func(tx *bbolt.Tx) error {
		if got := tx.Bucket([]byte("meta")).Get([]byte("format")); string(got) != "strongroom-store 1" {
			t.Errorf("the format is %q", got)
		}
		// CRC-32C of "a/recordgolden value", then the value.
		want, err := hex.DecodeString("b755ccb7" + hex.EncodeToString([]byte("golden value")))
		if err != nil {
			t.Fatal(err)
		}
		if got := tx.Bucket([]byte("records")).Get([]byte("a/record")); !bytes.Equal(got, want) {
			t.Errorf("the record is %x, want %x", got, want)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
