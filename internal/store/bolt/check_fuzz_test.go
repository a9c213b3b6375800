package bolt

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"strongroom/internal/store"
)

// FuzzCheck: whatever the bytes, check ends without a panic, and what it lets pass can be read and written
// through bbolt. Covers R4.
func FuzzCheck(f *testing.F) {
	dir := f.TempDir()
	s, err := Open(dir, Options{})
	if err != nil {
		f.Fatal(err)
	}
	for _, key := range []string{"a", "b/1", "b/2"} {
		err := s.Update(f.Context(), func(w store.Writer) error { w.Put(key, bytes.Repeat([]byte(key), 700)); return nil })
		if err != nil {
			f.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		f.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(dir, FileName))
	if err != nil {
		f.Fatal(err)
	}
	m, err := readMeta(bytes.NewReader(data))
	if err != nil {
		f.Fatal(err)
	}
	data = data[:int(m.pages)*m.pageSize]
	if err := check(bytes.NewReader(data), int64(len(data))); err != nil {
		f.Fatalf("a good database is refused: %v", err)
	}
	f.Add(data)
	f.Add(data[:len(data)/2])
	f.Add([]byte("no database"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if check(bytes.NewReader(data), int64(len(data))) != nil {
			return
		}
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, FileName), data, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := Open(dir, Options{})
		if errors.Is(err, store.ErrCorrupt) || errors.Is(err, ErrFormat) {
			return // whole, and not ours
		}
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		err = s.Update(t.Context(), func(w store.Writer) error {
			for k := range w.Scan("", "") {
				w.Delete(k)
			}
			w.Put("k", []byte("v"))
			return nil
		})
		if err != nil {
			t.Fatalf("check let pass what cannot be used: %v", err)
		}
	})
}
