package audit

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"
)

// Keys of the tests are the same in each run, and known to everybody.
var (
	serverKey   = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize))
	strangerKey = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{8}, ed25519.SeedSize))
	domainKey   = p384Key(9)
)

func p384Key(seed byte) *ecdsa.PrivateKey {
	k, err := ecdsa.ParseRawPrivateKey(elliptic.P384(), bytes.Repeat([]byte{seed}, 48))
	if err != nil {
		panic(err)
	}
	return k
}

func signersOf(keys ...crypto.Signer) func(context.Context) ([]note.Signer, error) {
	return func(context.Context) (list []note.Signer, err error) {
		for _, k := range keys {
			s, err := NewSigner(k)
			if err != nil {
				return nil, err
			}
			list = append(list, s)
		}
		return list, nil
	}
}

// counter is a source of "randomness" that can be told beforehand.
type counter struct{ n uint64 }

func (c *counter) Read(b []byte) (int, error) {
	for i := range b {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], c.n)
		sum := sha256.Sum256(n[:])
		b[i] = sum[0]
		c.n++
	}
	return len(b), nil
}

// ticking is a clock that moves on by a second each time it is read.
func ticking() func() time.Time {
	var mu sync.Mutex
	now := time.Date(2026, 11, 25, 3, 0, 0, 0, time.UTC)
	return func() time.Time {
		mu.Lock()
		defer mu.Unlock()
		now = now.Add(time.Second)
		return now
	}
}

// testOptions sign only by number, so that what is written does not depend on the time a test takes.
func testOptions() Options {
	return Options{Server: "server-1", Signers: signersOf(serverKey, domainKey), Rand: &counter{}, Clock: ticking(), CheckpointAfter: time.Hour}
}

func mustOpen(t testing.TB, dir string, o Options) *Log {
	t.Helper()
	l, err := Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func mustClose(t testing.TB, l *Log) {
	t.Helper()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

// call is record i of a test.
func call(i int) Record {
	return Record{
		Request: fmt.Sprintf("00000000-0000-4000-8000-%012d", i), ClientRequest: fmt.Sprint("client ", i), Plane: PlaneData,
		Principal: "11111111-1111-4111-8111-111111111111", App: "22222222-2222-4222-8222-222222222222", Issuer: "https://issuer.example/tenant",
		Source: "192.0.2.7", HSM: "33333333-3333-4333-8333-333333333333", HSMName: "alpha", Operation: "Sign",
		Action: "Microsoft.KeyVault/managedHsm/keys/sign/action", Key: fmt.Sprintf("key-%d", i%7), Version: "0123456789abcdef0123456789abcdef",
		Outcome: Allowed, Status: 200, Duration: int64(100 + i),
	}
}

func mustAppend(t testing.TB, l *Log, r Record) int64 {
	t.Helper()
	n, err := l.Append(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// appendMany adds records from..to-1.
func appendMany(t testing.TB, l *Log, from, to int) {
	t.Helper()
	for i := from; i < to; i++ {
		if n := mustAppend(t, l, call(i)); n < int64(i) {
			t.Fatalf("record %d got number %d", i, n)
		}
	}
}

// makeLog writes a log of n records and closes it.
func makeLog(t testing.TB, n int, change func(*Options)) (dir string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "audit")
	o := testOptions()
	if change != nil {
		change(&o)
	}
	l := mustOpen(t, dir, o)
	appendMany(t, l, 0, n)
	mustClose(t, l)
	return dir
}

func mustVerify(t testing.TB, dir string, keys ...crypto.PublicKey) *Result {
	t.Helper()
	r, err := Verify(t.Context(), dir, VerifyOptions{Keys: keys})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// sound fails the test unless the log verifies, with n records.
func sound(t testing.TB, dir string, n int64, keys ...crypto.PublicKey) *Result {
	t.Helper()
	r := mustVerify(t, dir, keys...)
	if !r.OK() || r.Records != n {
		t.Fatalf("%d records, findings %v; want %d and none", r.Records, r.Findings, n)
	}
	return r
}

func readFile(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func writeFile(t testing.TB, path string, b []byte) {
	t.Helper()
	// Not over an existing file: ext4 then flushes the new content, and these tests write tens of thousands.
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func mustSegments(t testing.TB, dir string) []segment {
	t.Helper()
	list, err := segments(dir)
	if err != nil || len(list) == 0 {
		t.Fatalf("no segments: %v", err)
	}
	return list
}

func copyLog(t testing.TB, dir string) string {
	t.Helper()
	to := t.TempDir()
	for _, s := range mustSegments(t, dir) {
		writeFile(t, filepath.Join(to, filepath.Base(s.path)), readFile(t, s.path))
	}
	return to
}

func lastSegment(t testing.TB, dir string) string {
	t.Helper()
	list := mustSegments(t, dir)
	return list[len(list)-1].path
}

// parts are the lines of a file, each with its end.
func parts(t testing.TB, path string) [][]byte {
	t.Helper()
	lines := bytes.SplitAfter(readFile(t, path), []byte("\n"))
	return lines[:len(lines)-1]
}
