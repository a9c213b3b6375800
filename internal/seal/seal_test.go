package seal

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"strongroom/internal/durable"
	"strongroom/secret"
)

// quick is as little work as the bounds allow: these tests are not about it.
var quick = Params{Time: 1, MemoryKiB: 8, Threads: 1}

var passphrase = secret.New([]byte("correct horse battery staple"))

// kinds are the two ways of keeping a root key; the conformance suite runs on both.
var kinds = []struct {
	name   string
	create func(path string) (Seal, error)
	open   func(path string) (Seal, error)
}{
	{KindFile,
		func(path string) (Seal, error) { return CreateFile(path, rand.Reader) }, OpenFile},
	{KindPassphrase,
		func(path string) (Seal, error) { return CreatePassphrase(path, passphrase, rand.Reader, quick) },
		func(path string) (Seal, error) { return OpenPassphrase(path, passphrase) }},
}

func TestConformance(t *testing.T) {
	for _, kind := range kinds {
		t.Run(kind.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "seal.json")
			s, err := kind.create(path)
			if err != nil {
				t.Fatal(err)
			}
			again, err := kind.open(path)
			if err != nil {
				t.Fatal(err)
			}
			other, err := kind.create(filepath.Join(t.TempDir(), "seal.json"))
			if err != nil {
				t.Fatal(err)
			}
			t.Run("identity", func(t *testing.T) {
				if s.Kind() != kind.name || again.Kind() != kind.name {
					t.Errorf("kind is %q and %q", s.Kind(), again.Kind())
				}
				if raw, err := hex.DecodeString(s.ID()); err != nil || len(raw) != 16 || s.ID() != again.ID() || s.ID() == other.ID() {
					t.Errorf("IDs are %q, %q and, of another, %q", s.ID(), again.ID(), other.ID())
				}
				info, err := Describe(path)
				if err != nil || info.Kind != kind.name || info.ID != s.ID() {
					t.Errorf("described as %+v, %v", info, err)
				}
			})
			t.Run("wrap and unwrap", func(t *testing.T) {
				for _, size := range []int{0, 1, 32, 4096, maxPlaintext} {
					want := secret.New(bytes.Repeat([]byte{0xA5}, size))
					sealed, err := s.Wrap(want, "hsm/1/wrapping-key")
					if err != nil {
						t.Fatal(err)
					}
					if size >= 32 && bytes.Contains(sealed, want.Reveal()[:16]) {
						t.Fatal("the record shows the secret")
					}
					got, err := again.Unwrap(sealed, "hsm/1/wrapping-key")
					if err != nil || !got.Equal(want) {
						t.Fatalf("%d bytes: %v", size, err)
					}
				}
				a, _ := s.Wrap(passphrase, "c")
				b, _ := s.Wrap(passphrase, "c")
				if bytes.Equal(a, b) {
					t.Error("two records of one secret are equal: the nonce repeats")
				}
				if _, err := s.Wrap(secret.New(make([]byte, maxPlaintext+1)), "c"); err == nil {
					t.Error("a secret beyond the limit was wrapped")
				}
				if _, err := s.Wrap(passphrase, strings.Repeat("c", maxContext+1)); err == nil {
					t.Error("a context beyond the limit was taken")
				}
			})
			// A record that was changed, cut, moved to another place or taken from another server does not open.
			t.Run("refusals", func(t *testing.T) {
				sealed, err := s.Wrap(passphrase, "hsm/1/wrapping-key")
				if err != nil {
					t.Fatal(err)
				}
				refuse := func(what string, by Seal, sealed []byte, context string) {
					t.Helper()
					if got, err := by.Unwrap(sealed, context); err != ErrUnwrap || !got.IsZero() {
						t.Errorf("%s: got %d bytes and %v, want ErrUnwrap", what, got.Len(), err)
					}
				}
				refuse("another seal", other, sealed, "hsm/1/wrapping-key")
				refuse("another context", s, sealed, "hsm/2/wrapping-key")
				refuse("a shorter context", s, sealed, "hsm/1/wrapping-ke")
				refuse("no context", s, sealed, "")
				refuse("a huge context", s, sealed, strings.Repeat("c", maxContext+1))
				refuse("nothing", s, nil, "hsm/1/wrapping-key")
				refuse("a huge record", s, make([]byte, maxPlaintext+recordMin+1), "hsm/1/wrapping-key")
				for i := range sealed {
					for _, mask := range []byte{1, 0x80} {
						changed := bytes.Clone(sealed)
						changed[i] ^= mask
						refuse("a changed byte", s, changed, "hsm/1/wrapping-key")
					}
					refuse("a cut record", s, sealed[:i], "hsm/1/wrapping-key")
				}
				refuse("a longer record", s, append(bytes.Clone(sealed), 0), "hsm/1/wrapping-key")
			})
			t.Run("the file", func(t *testing.T) {
				info, err := os.Stat(path)
				if err != nil || info.Mode().Perm() != 0o600 {
					t.Fatalf("mode is %v (%v), want 0600", info.Mode(), err)
				}
				before, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := kind.create(path); !errors.Is(err, fs.ErrExist) || !strings.Contains(err.Error(), path) {
					t.Errorf("over an existing file: got %v, want fs.ErrExist naming it", err)
				}
				if after, _ := os.ReadFile(path); !bytes.Equal(before, after) {
					t.Error("a refused creation changed the file")
				}
				for _, mode := range []fs.FileMode{0o640, 0o604, 0o660, 0o700 | 0o001} {
					if err := os.Chmod(path, mode); err != nil {
						t.Fatal(err)
					}
					if _, err := kind.open(path); !errors.Is(err, ErrExposed) || !strings.Contains(err.Error(), "chmod 600 "+path) {
						t.Errorf("mode %v: got %v, want ErrExposed with the command to type", mode, err)
					}
					if _, err := Describe(path); !errors.Is(err, ErrExposed) {
						t.Errorf("mode %v: described: %v", mode, err)
					}
				}
				if err := os.Chmod(path, 0o400); err != nil {
					t.Fatal(err)
				}
				if _, err := kind.open(path); err != nil {
					t.Errorf("mode 0400: %v", err)
				}
			})
			// Every byte changed or dropped, and every cut: refused and never another key. Covers the missing and the
			// damaged seal of the bad input list.
			t.Run("a damaged file", func(t *testing.T) {
				good, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				for i := range good {
					flipped := bytes.Clone(good)
					flipped[i] ^= 1
					for what, data := range map[string][]byte{
						"flipped": flipped,
						"dropped": append(bytes.Clone(good[:i]), good[i+1:]...),
						"doubled": append(append(bytes.Clone(good[:i]), good[i]), good[i:]...),
						"cut":     good[:i],
					} {
						if f, err := parse(data); !errors.Is(err, ErrMalformed) {
							t.Fatalf("byte %d %s: parsed as %v, %v; want ErrMalformed", i, what, f != nil, err)
						}
					}
				}
				broken := filepath.Join(t.TempDir(), "seal.json")
				if err := os.WriteFile(broken, good[:len(good)/2], 0o600); err != nil {
					t.Fatal(err)
				}
				if _, err := kind.open(broken); !errors.Is(err, ErrMalformed) || !strings.Contains(err.Error(), broken) || !strings.Contains(err.Error(), "copy") {
					t.Errorf("got %v, want ErrMalformed naming the file and what to do", err)
				}
			})
			t.Run("a missing file", func(t *testing.T) {
				none := filepath.Join(t.TempDir(), "none.json")
				if _, err := kind.open(none); !errors.Is(err, ErrMissing) || !strings.Contains(err.Error(), none) {
					t.Errorf("got %v, want ErrMissing naming the file", err)
				}
				if _, err := Describe(none); !errors.Is(err, ErrMissing) {
					t.Errorf("described: %v", err)
				}
				if _, err := kind.open(t.TempDir()); !errors.Is(err, ErrMalformed) {
					t.Errorf("a folder: got %v, want ErrMalformed", err)
				}
				if _, err := kind.create(filepath.Join(none, "seal.json")); err == nil {
					t.Error("created in a folder that is not there")
				}
			})
			t.Run("concurrent use, then close", func(t *testing.T) {
				var wg sync.WaitGroup
				for range 8 {
					wg.Go(func() {
						for range 50 {
							sealed, err := s.Wrap(passphrase, "c")
							if err == nil {
								var got secret.Bytes
								if got, err = s.Unwrap(sealed, "c"); err == nil && !got.Equal(passphrase) {
									t.Error("another secret came back")
								}
							}
							if err != nil && err != ErrClosed {
								t.Error(err)
							}
						}
					})
				}
				sealed, err := s.Wrap(passphrase, "c")
				if err != nil {
					t.Fatal(err)
				}
				s.Close()
				s.Close()
				wg.Wait()
				if _, err := s.Wrap(passphrase, "c"); err != ErrClosed {
					t.Errorf("wrap after close: %v", err)
				}
				if _, err := s.Unwrap(sealed, "c"); err != ErrClosed {
					t.Errorf("unwrap after close: %v", err)
				}
				if key := s.(*rootSeal).key.Reveal(); !bytes.Equal(key, make([]byte, 32)) {
					t.Error("close left the key in memory")
				}
			})
		})
	}
}

func TestPassphrase(t *testing.T) {
	path := filepath.Join(t.TempDir(), "seal.json")
	if _, err := CreatePassphrase(path, passphrase, rand.Reader, quick); err != nil {
		t.Fatal(err)
	}
	for name, wrong := range map[string]secret.Bytes{
		"another":              secret.New([]byte("Correct horse battery staple")),
		"with a newline added": secret.New([]byte("correct horse battery staple\n")),
		"empty":                {},
		"huge":                 secret.New(make([]byte, maxPassphrase+1)),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := OpenPassphrase(path, wrong)
			if !errors.Is(err, ErrPassphrase) {
				t.Fatalf("got %v, want ErrPassphrase", err)
			}
			if strings.Contains(err.Error(), "horse") {
				t.Errorf("the message shows a passphrase: %v", err)
			}
		})
	}
	data, err := os.ReadFile(path)
	if err != nil || bytes.Contains(data, []byte("root_key")) || bytes.Contains(data, []byte("horse")) {
		t.Errorf("the file shows what it should not (%v):\n%s", err, data)
	}
	for name, p := range map[string]secret.Bytes{"empty": {}, "huge": secret.New(make([]byte, maxPassphrase+1))} {
		if _, err := CreatePassphrase(filepath.Join(t.TempDir(), "s"), p, rand.Reader, quick); err == nil {
			t.Errorf("created with an %s passphrase", name)
		}
	}
}

func TestKindsAreNotMixedUp(t *testing.T) {
	dir := t.TempDir()
	plain, protected := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	if _, err := CreateFile(plain, rand.Reader); err != nil {
		t.Fatal(err)
	}
	if _, err := CreatePassphrase(protected, passphrase, rand.Reader, quick); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenFile(protected); !errors.Is(err, ErrPassphrase) || !strings.Contains(err.Error(), "passphrase") {
		t.Errorf("a protected seal opened without: %v", err)
	}
	if _, err := OpenPassphrase(plain, passphrase); !errors.Is(err, ErrPassphrase) {
		t.Errorf("an unprotected seal opened with: %v", err)
	}
}

func TestDefaultParams(t *testing.T) {
	if got, want := DefaultParams(), (Params{Time: 3, MemoryKiB: 64 * 1024, Threads: 4}); got != want {
		t.Errorf("got %+v, want RFC 9106's second option %+v", got, want)
	}
	path := filepath.Join(t.TempDir(), "seal.json")
	if _, err := CreatePassphrase(path, passphrase, rand.Reader, Params{}); err != nil {
		t.Fatal(err)
	}
	if info, err := Describe(path); err != nil || info.Params != DefaultParams() {
		t.Errorf("described as %+v, %v", info, err)
	}
	if _, err := OpenPassphrase(path, passphrase); err != nil {
		t.Error(err)
	}
}

// A crafted seal file must not make the server work: the bounds come before argon2id.
func TestParamBounds(t *testing.T) {
	for _, tc := range []struct {
		name   string
		params Params
		ok     bool
	}{
		{"default", DefaultParams(), true},
		{"least", Params{1, 8, 1}, true},
		{"most", Params{16, 1 << 20, 16}, true},
		{"no pass", Params{0, 64, 1}, false},
		{"too many passes", Params{17, 64, 1}, false},
		{"too much memory", Params{1, 1<<20 + 1, 1}, false},
		{"all the memory there is", Params{1, 1<<32 - 1, 1}, false},
		{"too little memory for the threads", Params{1, 31, 4}, false},
		{"no thread", Params{1, 64, 0}, false},
		{"too many threads", Params{1, 1 << 10, 17}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := file{Format: fileFormat, Version: fileVersion, Kind: KindPassphrase, ID: strings.Repeat("0", 32),
				Argon2id: &tc.params, Salt: make([]byte, saltSize), Wrapped: make([]byte, recordMin+rootSize)}
			data, err := f.encode()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := parse(data); (err == nil) != tc.ok || err != nil && !strings.Contains(err.Error(), "argon2id") {
				t.Errorf("got %v, want ok %v", err, tc.ok)
			}
		})
	}
	if _, err := CreatePassphrase(filepath.Join(t.TempDir(), "s"), passphrase, rand.Reader, Params{Time: 99, MemoryKiB: 64, Threads: 1}); err == nil {
		t.Error("created beyond the bounds")
	}
}

// A file may be whole, with a good checksum, and still make no sense.
func TestParseRefusals(t *testing.T) {
	base := func() file {
		return file{Format: fileFormat, Version: fileVersion, Kind: KindFile, ID: strings.Repeat("0", 32), RootKey: make([]byte, rootSize)}
	}
	for _, tc := range []struct {
		name   string
		change func(*file)
		says   string
	}{
		{"another format", func(f *file) { f.Format = "other" }, "no seal file"},
		{"a later version", func(f *file) { f.Version = 2 }, "version 2"},
		{"no version", func(f *file) { f.Version = 0 }, "version 0"},
		{"an unknown kind", func(f *file) { f.Kind = "tpm" }, `"tpm"`},
		{"no root key", func(f *file) { f.RootKey = nil }, "root key"},
		{"a short root key", func(f *file) { f.RootKey = f.RootKey[:31] }, "root key"},
		{"a root key and a wrapped one", func(f *file) { f.Wrapped = make([]byte, recordMin+rootSize) }, "nothing else"},
		{"a passphrase seal that shows its root key", func(f *file) { f.Kind = KindPassphrase }, "argon2id"},
		{"a short ID", func(f *file) { f.ID = "00" }, "ID"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := base()
			tc.change(&f)
			data, err := f.encode()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := parse(data); !errors.Is(err, ErrMalformed) || !strings.Contains(err.Error(), tc.says) {
				t.Fatalf("got %v, want ErrMalformed saying %q", err, tc.says)
			}
		})
	}
	good := base()
	data, err := good.encode()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := parse(data); err != nil {
		t.Fatalf("the unchanged file: %v", err)
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, data); err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{
		"another spelling":  compact.Bytes(),
		"trailing data":     append(bytes.Clone(data), "{}"...),
		"an unknown member": bytes.Replace(data, []byte(`"kind"`), []byte(`"extra": 1, "kind"`), 1),
		"a repeated member": bytes.Replace(data, []byte(`"kind"`), []byte(`"kind": "file", "kind"`), 1),
		"huge":              bytes.Repeat([]byte(" "), maxFile+1),
	} {
		if _, err := parse(data); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: got %v, want ErrMalformed", name, err)
		}
	}
	// A root key that is not the one that the file names.
	path := filepath.Join(t.TempDir(), "seal.json")
	if err := durable.WriteFile(path, data, 0o600, false); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenFile(path); !errors.Is(err, ErrMalformed) || !strings.Contains(err.Error(), "holds another") {
		t.Errorf("got %v, want ErrMalformed", err)
	}
}

// The forms that this version writes stay readable for ever. TEST KEYS: the root key is the bytes 0 to 31.
func TestGolden(t *testing.T) {
	for _, tc := range []struct {
		file string
		open func(string) (Seal, error)
	}{
		{"v1-file.json", OpenFile},
		{"v1-passphrase.json", func(p string) (Seal, error) { return OpenPassphrase(p, passphrase) }},
	} {
		t.Run(tc.file, func(t *testing.T) {
			data, err := os.ReadFile(filepath.Join("testdata", tc.file))
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(t.TempDir(), tc.file) // version control keeps no mode 0600
			if err := os.WriteFile(path, data, 0o600); err != nil {
				t.Fatal(err)
			}
			s, err := tc.open(path)
			if err != nil {
				t.Fatal(err)
			}
			record, err := os.ReadFile(filepath.Join("testdata", "v1-record.hex"))
			if err != nil {
				t.Fatal(err)
			}
			sealed, err := hex.DecodeString(strings.TrimSpace(string(record)))
			if err != nil {
				t.Fatal(err)
			}
			got, err := s.Unwrap(sealed, "hsm/1/wrapping-key")
			if err != nil || string(got.Reveal()) != "golden plaintext" {
				t.Fatalf("got %d bytes, %v", got.Len(), err)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	dir := f.TempDir()
	for i, kind := range kinds {
		path := filepath.Join(dir, string(rune('a'+i)))
		if _, err := kind.create(path); err != nil {
			f.Fatal(err)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte(`{"format":"strongroom-seal","version":1}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		parsed, err := parse(data)
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Fatalf("got %v, want ErrMalformed", err)
			}
			return
		}
		if again, err := parsed.encode(); err != nil || !bytes.Equal(again, data) {
			t.Fatalf("parsed, and printed otherwise: %v", err)
		}
	})
}

func FuzzUnwrap(f *testing.F) {
	root := make([]byte, rootSize)
	for i := range root {
		root[i] = byte(i)
	}
	s, err := newRootSeal(secret.Take(root), KindFile)
	if err != nil {
		f.Fatal(err)
	}
	// A fixed record: every fuzzing process has to know the one that may open.
	record, err := os.ReadFile(filepath.Join("testdata", "v1-record.hex"))
	if err != nil {
		f.Fatal(err)
	}
	sealed, err := hex.DecodeString(strings.TrimSpace(string(record)))
	if err != nil {
		f.Fatal(err)
	}
	const its = "hsm/1/wrapping-key"
	f.Add(sealed, its)
	f.Add(sealed, "hsm/2/wrapping-key")
	f.Add(sealed[:recordMin-1], "")
	f.Fuzz(func(t *testing.T, data []byte, context string) {
		got, err := s.Unwrap(data, context)
		if mine := bytes.Equal(data, sealed) && context == its; mine != (err == nil) {
			t.Fatalf("opened: %v; is the genuine record: %v", err == nil, mine)
		}
		if err == nil && string(got.Reveal()) != "golden plaintext" {
			t.Fatal("another secret came out")
		}
		if err != nil && err != ErrUnwrap {
			t.Fatalf("got %v, want ErrUnwrap", err)
		}
	})
}
