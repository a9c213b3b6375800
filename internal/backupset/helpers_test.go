package backupset_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"strongroom/internal/backupset"
	"strongroom/internal/engine"
	"strongroom/internal/engine/software"
	"strongroom/internal/statement"
	"strongroom/secret"
)

// domain is a security domain for tests. Its keys follow from its name, and protect nothing.
type domain struct {
	id      string
	signing *ecdsa.PrivateKey
	backup  [32]byte
	engine  engine.Engine
}

func newDomain(t testing.TB, name string) *domain {
	t.Helper()
	sum := sha512.Sum384([]byte("strongroom test domain " + name))
	sum[0] = 0 // below the order of the curve
	key, err := ecdsa.ParseRawPrivateKey(elliptic.P384(), sum[:])
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	id := sha256.Sum256(spki)
	d := &domain{id: hex.EncodeToString(id[:]), signing: key, backup: sha256.Sum256([]byte("strongroom test backup key " + name))}
	if d.engine, err = software.New(secret.New(make([]byte, 32)), secret.New(d.backup[:]), rand.Reader); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.engine.Close)
	return d
}

func (d *domain) sign(_ context.Context, typ string, payload []byte) ([]byte, error) {
	jws, _, err := statement.Sign(d.signing, typ, payload)
	return jws, err
}

// memory is a storage that keeps whole objects, write once.
type memory struct {
	mu      sync.Mutex
	objects map[string][]byte
	open    int // objects that are neither committed nor aborted
	// fault says what goes wrong at an operation, if anything. applied: it happens all the same.
	fault func(op, name string) (err error, applied bool)
}

func newMemory() *memory { return &memory{objects: map[string][]byte{}} }

func (m *memory) at(op, name string) (error, bool) {
	if m.fault == nil {
		return nil, true
	}
	return m.fault(op, name)
}

func (m *memory) Create(_ context.Context, name string) (backupset.Object, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err, _ := m.at("create", name); err != nil {
		return nil, err
	}
	if _, there := m.objects[name]; there {
		return nil, &fs.PathError{Op: "create", Path: name, Err: fs.ErrExist}
	}
	m.open++
	return &memoryObject{m: m, name: name}, nil
}

func (m *memory) Open(_ context.Context, name string) (io.ReadCloser, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err, _ := m.at("open", name); err != nil {
		return nil, err
	}
	b, there := m.objects[name]
	if !there {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return &memoryReader{m: m, name: name, Reader: bytes.NewReader(b)}, nil
}

type memoryReader struct {
	m    *memory
	name string
	*bytes.Reader
}

func (r *memoryReader) Read(p []byte) (int, error) {
	if err, _ := r.m.at("read", r.name); err != nil {
		return 0, err
	}
	return r.Reader.Read(p)
}
func (r *memoryReader) Close() error { return nil }

func (m *memory) List(_ context.Context, folder string) (list []backupset.Info, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err, _ := m.at("list", folder); err != nil {
		return nil, err
	}
	for name, b := range m.objects {
		if in, ok := strings.CutPrefix(name, folder+"/"); ok {
			list = append(list, backupset.Info{Name: in, Size: int64(len(b))})
		}
	}
	return list, nil
}

type memoryObject struct {
	m    *memory
	name string
	b    []byte
	done bool
}

func (o *memoryObject) Write(p []byte) (int, error) {
	if err, _ := o.m.at("write", o.name); err != nil {
		return 0, err
	}
	o.b = append(o.b, p...)
	return len(p), nil
}

func (o *memoryObject) Commit() error {
	o.m.mu.Lock()
	defer o.m.mu.Unlock()
	err, applied := o.m.at("commit", o.name)
	if err == nil || applied {
		o.m.objects[o.name] = o.b
		o.end()
	}
	return err
}

func (o *memoryObject) end() {
	if !o.done {
		o.done = true
		o.m.open--
	}
}

func (o *memoryObject) Abort() {
	o.m.mu.Lock()
	defer o.m.mu.Unlock()
	o.end()
}

func (m *memory) size() (n int64) {
	for _, b := range m.objects {
		n += int64(len(b))
	}
	return n
}

func (m *memory) clone() *memory { return &memory{objects: maps.Clone(m.objects)} }

// with is a copy in which one object of a folder is another one; without it if b is nil.
func (m *memory) with(folder, object string, b []byte) *memory {
	c := m.clone()
	if delete(c.objects, folder+"/"+object); b != nil {
		c.objects[folder+"/"+object] = b
	}
	return c
}

func (m *memory) get(t testing.TB, folder, object string) []byte {
	t.Helper()
	b, there := m.objects[folder+"/"+object]
	if !there {
		t.Fatalf("there is no %s", object)
	}
	return b
}

// disk is a storage in a folder of this machine, for tests that must not keep objects in memory.
type disk string

func (d disk) Create(_ context.Context, name string) (backupset.Object, error) {
	path := filepath.Join(string(d), filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	return diskObject{f}, err
}

func (d disk) Open(_ context.Context, name string) (io.ReadCloser, error) {
	return os.Open(filepath.Join(string(d), filepath.FromSlash(name)))
}

func (d disk) List(_ context.Context, folder string) (list []backupset.Info, err error) {
	entries, err := os.ReadDir(filepath.Join(string(d), folder))
	for _, e := range entries {
		list = append(list, backupset.Info{Name: e.Name()})
	}
	return list, err
}

type diskObject struct{ *os.File }

func (o diskObject) Commit() error { return o.Close() }
func (o diskObject) Abort()        { _ = o.Close(); _ = os.Remove(o.Name()) }

const folder = "mhsm-alpha-2026112508530512"

var start = time.Date(2026, 11, 25, 8, 53, 5, 120e6, time.UTC)

func options(d *domain, s backupset.Storage) backupset.Options {
	at := start
	return backupset.Options{Storage: s, Folder: folder, Domain: d.id, HSM: "alpha", HSMID: "0f0c5ad1", Sealer: d.engine, Sign: d.sign, Rand: rand.Reader,
		Clock: func() time.Time { at = at.Add(3 * time.Second); return at }, Program: "strongroom/test"}
}

// write makes a backup.
func write(t testing.TB, o backupset.Options, records []backupset.Record) backupset.Manifest {
	t.Helper()
	m, err := tryWrite(t.Context(), o, records)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func tryWrite(ctx context.Context, o backupset.Options, records []backupset.Record) (backupset.Manifest, error) {
	w, err := backupset.New(ctx, o)
	if err != nil {
		return backupset.Manifest{}, err
	}
	defer w.Abort()
	for _, r := range records {
		if err := w.Add(ctx, r); err != nil {
			return backupset.Manifest{}, err
		}
	}
	return w.Finish(ctx)
}

// verify is everything that can be known without a key.
func verify(ctx context.Context, s backupset.Storage) error {
	b, err := backupset.Open(ctx, s, folder)
	if err != nil {
		return err
	}
	r, err := b.Verify(ctx, nil)
	if err != nil {
		return err
	}
	return r.Err()
}

// read is everything that can be known with one.
func read(ctx context.Context, d *domain, s backupset.Storage) (records []backupset.Record, err error) {
	b, err := backupset.Open(ctx, s, folder)
	if err != nil {
		return nil, err
	}
	return all(ctx, d, b)
}

func all(ctx context.Context, d *domain, b *backupset.Backup) (records []backupset.Record, err error) {
	for r, err := range b.Records(ctx, d.id, d.engine, nil) {
		if err != nil {
			return records, err
		}
		records = append(records, r)
	}
	return records, nil
}

// key is a record of a key with n versions, and a body of size random bytes.
func key(name string, n, size int) backupset.Record {
	r := backupset.Record{Item: backupset.Item{Kind: "key", Name: name}, Body: noise(name, size)}
	for i := range n {
		id := sha256.Sum256(fmt.Append(nil, name, i))
		r.Versions = append(r.Versions, backupset.Version{ID: hex.EncodeToString(id[:16]), Type: "EC-HSM", Curve: "P-256", Enabled: i%2 == 0, Check: "jkt:" + hex.EncodeToString(id[16:])})
	}
	return r
}

// noise does not compress, and is the same in each run.
func noise(seed string, size int) []byte {
	b := make([]byte, 0, size+32)
	for i := 0; len(b) < size; i++ {
		sum := sha256.Sum256(fmt.Append(nil, seed, "/", i))
		b = append(b, sum[:]...)
	}
	return b[:size]
}

// some has records of every sort, in parts of which one has several chunks if large is set.
func some(large bool) []backupset.Record {
	size := 100
	if large {
		size = 2500 << 10
	}
	deleted := key("old", 1, 50)
	deleted.Kind, deleted.Deleted = "deleted-key", true
	return []backupset.Record{
		{Item: backupset.Item{Kind: "settings", Name: "settings"}, Body: []byte(`{}`)},
		key("Alpha", 1, 300), key("alpha-2", 3, 0), key("beta", 2, size), key("gamma", 0, 10),
		deleted,
		{Item: backupset.Item{Kind: "role-assignment", Name: "9c1e…"[:4] + "/keys"}, Body: []byte("x")},
	}
}

func sameRecords(t testing.TB, got, want []backupset.Record) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("got %d records, want %d", len(got), len(want))
	}
	for i := range want {
		g, w := got[i], want[i]
		if g.Kind != w.Kind || g.Name != w.Name || g.Deleted != w.Deleted || !bytes.Equal(g.Body, w.Body) || !slices.Equal(g.Versions, w.Versions) {
			t.Fatalf("record %d: got %+v, want %+v", i, g.Item, w.Item)
		}
	}
}

// wantCode fails the test unless err has one of the codes and says what to do.
func wantCode(t testing.TB, what string, err error, codes ...string) {
	t.Helper()
	if code := backupset.CodeOf(err); err == nil || !slices.Contains(codes, code) || code == "" {
		t.Errorf("%s: got %q %v, want %v", what, code, err, codes)
	} else if !strings.Contains(err.Error(), folder) || !strings.Contains(err.Error(), "; ") {
		t.Errorf("%s: the error names no backup, or nothing to do: %v", what, err)
	}
}
