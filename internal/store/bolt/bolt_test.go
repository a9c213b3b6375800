package bolt_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"go.etcd.io/bbolt"

	"strongroom/internal/store"
	"strongroom/internal/store/bolt"
	"strongroom/internal/store/storetest"
)

func mustOpen(t testing.TB, dir string) *bolt.Store {
	t.Helper()
	s, err := bolt.Open(dir, bolt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func put(s store.Store, key, value string) error {
	return s.Update(context.Background(), func(w store.Writer) error { w.Put(key, []byte(value)); return nil })
}

func get(t testing.TB, s store.Store, key string) (value string, ok bool) {
	t.Helper()
	err := s.View(t.Context(), func(r store.Reader) error {
		v, found := r.Get(key)
		value, ok = string(v), found
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return value, ok
}

func TestConformance(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Store { return mustOpen(t, t.TempDir()) })
}

func TestReopen(t *testing.T) {
	dir := t.TempDir()
	s := mustOpen(t, dir)
	if err := put(s, "a", "1"); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(filepath.Join(dir, bolt.FileName))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("database: %v %v, want mode 0600", info.Mode(), err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Fatalf("the folder holds %v (%v), want the database alone", entries, err)
	}
	if v, ok := get(t, mustOpen(t, dir), "a"); !ok || v != "1" {
		t.Fatalf("after reopening: got %q %v", v, ok)
	}
}

func TestMustExist(t *testing.T) {
	dir := t.TempDir()
	if _, err := bolt.Open(dir, bolt.Options{MustExist: true}); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("got %v, want fs.ErrNotExist", err)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 0 {
		t.Fatalf("a refused open left %v", entries)
	}
	if _, err := bolt.Open(filepath.Join(dir, "none"), bolt.Options{}); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("missing folder: got %v, want fs.ErrNotExist", err)
	}
}

func TestInUse(t *testing.T) {
	dir := t.TempDir()
	mustOpen(t, dir)
	_, err := bolt.Open(dir, bolt.Options{LockTimeout: 1})
	if !errors.Is(err, bolt.ErrInUse) || !strings.Contains(err.Error(), dir) {
		t.Fatalf("got %v, want ErrInUse naming the file", err)
	}
}

// Several processes that start at once on an empty folder agree on one database.
func TestCreateRace(t *testing.T) {
	dir := t.TempDir()
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			s, err := bolt.Open(dir, bolt.Options{LockTimeout: 1 << 40})
			if err != nil {
				t.Error(err)
				return
			}
			if err := errors.Join(put(s, fmt.Sprint("k", i), "v"), s.Close()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	s := mustOpen(t, dir)
	for i := range 8 {
		if _, ok := get(t, s, fmt.Sprint("k", i)); !ok {
			t.Errorf("the write of process %d is lost", i)
		}
	}
}

// sample returns the bytes of a database of several levels, and its records.
func sample(t *testing.T) (data []byte, records map[string]string) {
	t.Helper()
	dir := t.TempDir()
	s := mustOpen(t, dir)
	records = map[string]string{}
	err := s.Update(t.Context(), func(w store.Writer) error {
		for i := range 400 {
			key, value := fmt.Sprintf("hsm/%04d/record", i), strings.Repeat(fmt.Sprint(i), 40)
			w.Put(key, []byte(value))
			records[key] = value
		}
		w.Put("big", []byte(strings.Repeat("b", 20000)))
		records["big"] = strings.Repeat("b", 20000)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	data, err = os.ReadFile(filepath.Join(dir, bolt.FileName))
	if err != nil {
		t.Fatal(err)
	}
	return data, records
}

// used is the length of the part of the file that holds pages; the rest is room to grow.
func used(t *testing.T, data []byte) int {
	t.Helper()
	path := filepath.Join(t.TempDir(), "db")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var n int64
	if err := db.View(func(tx *bbolt.Tx) error { n = tx.Size(); return nil }); err != nil {
		t.Fatal(err)
	}
	return int(n)
}

// open opens data as a database, reads and writes it, and says how it went: an ErrCorrupt, or what it holds.
func openBytes(t *testing.T, data []byte) (got map[string]string, err error) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, bolt.FileName), data, 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := bolt.Open(dir, bolt.Options{})
	if err != nil {
		return nil, err
	}
	defer s.Close()
	got = map[string]string{}
	err = s.View(t.Context(), func(r store.Reader) error {
		for k, v := range r.Scan("", "") {
			got[k] = string(v)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return got, put(s, "new", "record")
}

// Covers R4 (no input ends the process) and the corrupt database of the bad input list: damage is named, never a crash, never wrong data.
func TestDamage(t *testing.T) {
	data, records := sample(t)
	end := used(t, data)
	data = data[:end] // without the room to grow
	t.Run("foreign and cut files", func(t *testing.T) {
		for _, tc := range []struct {
			name string
			data []byte
		}{
			{"empty", nil},
			{"one byte", []byte{0}},
			{"text", []byte(strings.Repeat("this is no database\n", 1000))},
			{"zeros", make([]byte, 1<<20)},
			{"one page", data[:4096]},
			{"both meta pages and no more", data[:8192]},
			{"half", data[:end/2]},
			{"all but the last page", data[:end-4096]},
			{"all but the last byte", data[:end-1]},
			{"both meta pages gone", append(make([]byte, 8192), data[8192:]...)},
		} {
			t.Run(tc.name, func(t *testing.T) {
				got, err := openBytes(t, tc.data)
				if !errors.Is(err, store.ErrCorrupt) {
					t.Fatalf("got %d records, %v; want ErrCorrupt", len(got), err)
				}
				if !strings.Contains(err.Error(), bolt.FileName) || !strings.Contains(err.Error(), "good copy") {
					t.Errorf("the message names no file or no next step: %v", err)
				}
			})
		}
	})
	// Every page: its header, its first elements, and places in its body.
	t.Run("changed bytes", func(t *testing.T) {
		refused, harmless := 0, 0
		for page := 0; page < end; page += 4096 {
			for _, offset := range []int{0, 3, 7, 8, 9, 10, 11, 12, 14, 15, 16, 17, 20, 22, 24, 25, 28, 31, 32, 36, 40, 48, 56, 63, 64, 72, 79, 100, 700, 1500, 3000, 4095} {
				for _, mask := range []byte{0x01, 0x80, 0xff} {
					changed := append([]byte(nil), data...)
					changed[page+offset] ^= mask
					got, err := openBytes(t, changed)
					switch {
					case errors.Is(err, store.ErrCorrupt), errors.Is(err, bolt.ErrFormat):
						refused++
					case err != nil:
						t.Fatalf("byte %d of page %d ^ %#x: %v", offset, page/4096, mask, err)
					case len(got) == 0:
						// The other meta page, from before the only commit: bbolt's own fallback.
						if page > 4096 {
							t.Fatalf("byte %d of page %d ^ %#x: all records are gone without an error", offset, page/4096, mask)
						}
					default:
						harmless++
						for k, v := range records {
							if got[k] != v {
								t.Fatalf("byte %d of page %d ^ %#x: record %q changed without an error", offset, page/4096, mask, k)
							}
						}
						if len(got) != len(records) {
							t.Fatalf("byte %d of page %d ^ %#x: %d records, want %d", offset, page/4096, mask, len(got), len(records))
						}
					}
				}
			}
		}
		t.Logf("%d changes refused, %d without effect", refused, harmless)
		if refused == 0 {
			t.Fatal("no change was refused")
		}
	})
	t.Run("untouched", func(t *testing.T) {
		if got, err := openBytes(t, data); err != nil || len(got) != len(records) {
			t.Fatalf("%d records, %v", len(got), err)
		}
	})
}

// A file that is cut under a running server is met by a read as a fault of the memory map.
func TestCutWhileRunning(t *testing.T) {
	dir := t.TempDir()
	s := mustOpen(t, dir)
	for i := range 50 {
		if err := put(s, fmt.Sprint("k", i), strings.Repeat("v", 3000)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Truncate(filepath.Join(dir, bolt.FileName), 8192); err != nil {
		t.Fatal(err)
	}
	err := s.View(t.Context(), func(r store.Reader) error {
		for range r.Scan("", "") {
		}
		return nil
	})
	if !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("view: got %v, want ErrCorrupt", err)
	}
	err = s.Update(t.Context(), func(w store.Writer) error { w.Get("k1"); w.Put("x", nil); return nil })
	if !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("update: got %v, want ErrCorrupt", err)
	}
}

func TestOtherDatabases(t *testing.T) {
	write := func(t *testing.T, format string) string {
		dir := t.TempDir()
		db, err := bbolt.Open(filepath.Join(dir, bolt.FileName), 0o600, nil)
		if err != nil {
			t.Fatal(err)
		}
		err = db.Update(func(tx *bbolt.Tx) error {
			if format == "" {
				_, err := tx.CreateBucket([]byte("somebody's"))
				return err
			}
			meta, err := tx.CreateBucket([]byte("meta"))
			if err == nil {
				_, err = tx.CreateBucket([]byte("records"))
			}
			return errors.Join(err, meta.Put([]byte("format"), []byte(format)))
		})
		if err := errors.Join(err, db.Close()); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	for _, tc := range []struct {
		name, format string
		want         error
		says         string
	}{
		{"another program's", "", store.ErrCorrupt, "no Strongroom database"},
		{"of a later version", "strongroom-store 2", bolt.ErrFormat, `says "strongroom-store 2" and this program reads "strongroom-store 1"`},
		{"of no version", "strongroom-store", bolt.ErrFormat, `reads "strongroom-store 1"`},
		{"ours", "strongroom-store 1", nil, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s, err := bolt.Open(write(t, tc.format), bolt.Options{})
			if tc.want == nil {
				if err != nil {
					t.Fatal(err)
				}
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				return
			}
			if !errors.Is(err, tc.want) || !strings.Contains(err.Error(), tc.says) {
				t.Fatalf("got %v, want %v saying %q", err, tc.want, tc.says)
			}
		})
	}
}

func BenchmarkUpdate(b *testing.B) {
	value := []byte(strings.Repeat("v", 500))
	for _, callers := range []int{1, 64} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			s := mustOpen(b, b.TempDir())
			next := make(chan int)
			var wg sync.WaitGroup
			for range callers {
				wg.Go(func() {
					for i := range next {
						err := s.Update(context.Background(), func(w store.Writer) error {
							w.Put(fmt.Sprintf("k/%08d", i), value)
							return nil
						})
						if err != nil {
							b.Error(err)
						}
					}
				})
			}
			b.ResetTimer()
			for i := range b.N {
				next <- i
			}
			close(next)
			wg.Wait()
		})
	}
}

func BenchmarkView(b *testing.B) {
	s := mustOpen(b, b.TempDir())
	if err := put(s, "k", "v"); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, ok := get(b, s, "k"); !ok {
			b.Fatal("missing")
		}
	}
}
