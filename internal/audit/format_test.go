package audit

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const golden = "testdata/v1"

// writeGolden writes the log of the golden files: it is the same to the byte each time. testdata/README.md says what is
// in it.
func writeGolden(t *testing.T, dir string) {
	now := time.Date(2026, 11, 25, 3, 0, 0, 0, time.UTC)
	o := Options{Server: "golden server", Rand: &counter{}, Signers: signersOf(serverKey), SegmentBytes: 2500, CheckpointRecords: 4, CheckpointAfter: time.Hour,
		Clock: func() time.Time { now = now.Add(1500 * time.Millisecond); return now }}
	const admin, signer = "aaaaaaaa-1111-4111-8111-111111111111", "bbbbbbbb-2222-4222-8222-222222222222"
	const hsm = "33333333-3333-4333-8333-333333333333"
	l := mustOpen(t, dir, o)
	mustAppend(t, l, Record{Plane: PlaneServer, Operation: "Start", Outcome: Allowed})
	base := Record{Request: "00000000-0000-4000-8000-000000000001", Plane: PlaneData, Principal: admin, App: "cccccccc-3333-4333-8333-333333333333",
		Issuer: "https://127.0.0.1:8443/tenant/v2.0", Source: "127.0.0.1", HSM: hsm, HSMName: "alpha"}
	act := func(change func(*Record)) {
		r := base
		change(&r)
		mustAppend(t, l, r)
	}
	act(func(r *Record) {
		r.Phase, r.Operation, r.Action = PhaseIntent, "SecurityDomainDownload", "Microsoft.KeyVault/managedHsm/securitydomain/download/action"
	})
	act(func(r *Record) {
		r.Phase, r.Operation, r.Action = PhaseOutcome, "SecurityDomainDownload", "Microsoft.KeyVault/managedHsm/securitydomain/download/action"
		r.Outcome, r.Status, r.Duration = Allowed, 202, 40125
	})
	mustClose(t, l)
	o.Signers = signersOf(serverKey, domainKey) // from here on the HSM is activated
	l = mustOpen(t, dir, o)
	base.Request, base.Principal, base.Key, base.Version = "00000000-0000-4000-8000-000000000002", signer, "invoices", "0f0c0123456789abcdef0123456789ab"
	act(func(r *Record) {
		r.ClientRequest, r.Operation, r.Action = "weekly run", "Sign", "Microsoft.KeyVault/managedHsm/keys/sign/action"
		r.Outcome, r.Status, r.Duration = Allowed, 200, 812
	})
	act(func(r *Record) {
		r.Request, r.Operation, r.Action = "00000000-0000-4000-8000-000000000003", "DeleteKey", "Microsoft.KeyVault/managedHsm/keys/delete"
		r.Version, r.Outcome, r.Status, r.Code, r.Duration = "", Refused, 403, "AccessDenied", 95
	})
	mustClose(t, l)
	// A write that was torn by a crash.
	file, err := os.OpenFile(lastSegment(t, dir), os.O_WRONLY|os.O_APPEND, 0)
	mustDo(t, err)
	_, err = file.WriteString(`{"n":5,"prev":"AAAA`)
	mustDo(t, errors.Join(err, file.Close()))
	l = mustOpen(t, dir, o)
	base = Record{Request: "00000000-0000-4000-8000-000000000004", Plane: PlaneData, Source: "192.0.2.66"}
	act(func(r *Record) { // a stranger, who sends what strangers send
		r.ClientRequest, r.Operation, r.Key = "\"}\n{\"n\":7", "Malformed", "..%2f\x1b[2J"
		r.Outcome, r.Status, r.Code, r.Duration = Refused, 400, "BadParameter", 33
	})
	act(func(r *Record) {
		r.Request, r.Operation, r.Outcome, r.Status, r.Code, r.Duration = "00000000-0000-4000-8000-000000000005", "Unknown", Refused, 404, "RouteNotFound", 12
	})
	mustClose(t, l)
}

// What is written today is format 1, byte for byte, and what format 1 wrote is read for ever.
func TestFormat1(t *testing.T) {
	dir := t.TempDir()
	writeGolden(t, dir)
	files := map[string][]byte{}
	for _, s := range mustSegments(t, dir) {
		files[filepath.Base(s.path)] = readFile(t, s.path)
	}
	var err error
	if files["proof-3.json"], err = Prove(t.Context(), dir, 3); err != nil {
		t.Fatal(err)
	}
	for name, k := range map[string]crypto.Signer{"server.pem": serverKey, "domain.pem": domainKey} {
		if files[name], err = MarshalPublicKey(k.Public()); err != nil {
			t.Fatal(err)
		}
	}
	newest, err := Newest(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	files["checkpoint.txt"] = []byte(newest)
	for name, got := range files {
		if os.Getenv("WRITE_GOLDEN_V1") != "" { // before version 1 is released; never after
			mustDo(t, os.MkdirAll(golden, 0o755))
			mustDo(t, os.WriteFile(filepath.Join(golden, name), got, 0o644))
		}
		if want := readFile(t, filepath.Join(golden, name)); !bytes.Equal(got, want) {
			t.Errorf("%s is written as\n%s\nand the golden file is\n%s", name, got, want)
		}
	}

	var keys []crypto.PublicKey
	for _, name := range []string{"server.pem", "domain.pem"} {
		k, err := ParsePublicKey(readFile(t, filepath.Join(golden, name)))
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, k)
	}
	r := sound(t, golden, 8, keys...)
	if r.Segments != 2 || r.Recovered != 1 || r.Signed != 8 || r.Server != "golden server" || r.Keys[0].Checkpoints != 4 || r.Keys[1].Checkpoints != 3 {
		t.Errorf("the golden log: %+v", r)
	}
	p, err := CheckProof(readFile(t, filepath.Join(golden, "proof-3.json")), keys...)
	if err != nil || p.Record.Key != "invoices" || p.Records != 8 || len(p.Keys) != 2 || p.Log != r.Log {
		t.Errorf("the golden proof: %+v, %v", p, err)
	}
}

// A later version is refused by name, and says so; not as damage.
func TestLaterVersion(t *testing.T) {
	dir := makeLog(t, 3, nil)
	file := lastSegment(t, dir)
	writeFile(t, file, bytes.Replace(readFile(t, file), []byte(`"version":1`), []byte(`"version":2`), 1))
	for name, err := range map[string]error{
		"open":   func() error { _, err := Open(dir, testOptions()); return err }(),
		"verify": func() error { _, err := Verify(t.Context(), dir, VerifyOptions{}); return err }(),
		"prove":  func() error { _, err := Prove(t.Context(), dir, 1); return err }(),
	} {
		if !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), "version 2") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The names and hashes of keys, spelled out; and Ed25519 keys are the note package's own.
func TestKeys(t *testing.T) {
	server, err := NewSigner(serverKey)
	mustDo(t, err)
	domain, err := NewSigner(domainKey)
	mustDo(t, err)
	for _, tc := range []struct {
		s    note.Signer
		want string
	}{
		{server, "strongroom-audit/324be2dea8bc44461b0233e51fa48902ed6b1cc671e7739af2551e0bfe68f54e"},
		{domain, "strongroom-domain/"},
	} {
		if !strings.HasPrefix(tc.s.Name(), tc.want) {
			t.Errorf("the key's name is %s, want %s", tc.s.Name(), tc.want)
		}
	}
	public := serverKey.Public().(ed25519.PublicKey)
	text := fmt.Sprintf("%s+%08x+%s", server.Name(), server.KeyHash(), base64.StdEncoding.EncodeToString(append([]byte{1}, public...)))
	theirs, err := note.NewVerifier(text)
	if err != nil {
		t.Fatalf("the note package does not take the key: %v", err)
	}
	signed, err := note.Sign(&note.Note{Text: "a text\n"}, server, domain)
	mustDo(t, err)
	if n, err := note.Open(signed, note.VerifierList(theirs)); err != nil || len(n.Sigs) != 1 {
		t.Errorf("the note package does not take the signature: %v", err)
	}
	ours, err := NewVerifier(domainKey.Public())
	mustDo(t, err)
	if n, err := note.Open(signed, note.VerifierList(ours)); err != nil || len(n.Sigs) != 1 {
		t.Errorf("the signature of the domain does not hold: %v", err)
	}
	for i := range 96 {
		sig, err := domain.Sign([]byte("a text\n"))
		mustDo(t, err)
		sig[i] ^= 1
		if ours.Verify([]byte("a text\n"), sig) || ours.Verify([]byte("a text\n"), sig[:95]) {
			t.Errorf("a signature with byte %d changed holds", i)
		}
	}

	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	mustDo(t, err)
	if _, err := NewSigner(p256); !errors.Is(err, ErrKey) {
		t.Errorf("a P-256 key: %v, want ErrKey", err)
	}
	if _, err := NewVerifier("a key"); !errors.Is(err, ErrKey) {
		t.Errorf("no key: %v, want ErrKey", err)
	}
	if _, err := NewSigner(liar{domainKey}); err == nil {
		s, _ := NewSigner(liar{domainKey})
		if _, err := s.Sign([]byte("x")); err == nil {
			t.Error("what is no signature was taken for one")
		}
	}
	for name, text := range map[string]string{
		"nothing":       "",
		"no PEM":        "ssh-ed25519 AAAA",
		"a private key": "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
		"a broken key":  "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
		"two keys":      strings.Repeat(string(readFile(t, filepath.Join(golden, "server.pem"))), 2),
	} {
		if _, err := ParsePublicKey([]byte(text)); err == nil || strings.Contains(err.Error(), "AAAA") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// liar is a key that returns rubbish for a signature.
type liar struct{ *ecdsa.PrivateKey }

func (liar) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) { return []byte("rubbish"), nil }

// Every record of a log is proven, to who has a key and nothing else; and nothing else is.
func TestProofs(t *testing.T) {
	const records = 70
	dir := makeLog(t, records, func(o *Options) { o.SegmentBytes, o.CheckpointRecords = 8<<10, 8 })
	pruned := copyLog(t, dir)
	list := mustSegments(t, pruned)
	for _, s := range list[:2] {
		mustDo(t, os.Remove(s.path))
	}
	var proofs [][]byte
	for n := range int64(records) {
		text, err := Prove(t.Context(), dir, n)
		if err != nil {
			t.Fatal(err)
		}
		for _, k := range []crypto.PublicKey{serverKey.Public(), domainKey.Public()} {
			p, err := CheckProof(text, k)
			if err != nil || p.Record.Number != n || p.Record.Request != call(int(n)).Request || p.Records != records {
				t.Fatalf("record %d: %+v, %v", n, p, err)
			}
		}
		proofs = append(proofs, text)
		again, err := Prove(t.Context(), pruned, n)
		if n < list[2].first {
			if !errors.Is(err, ErrNoRecord) {
				t.Errorf("record %d of a log that begins with %d: %v", n, list[2].first, err)
			}
		} else if err != nil || !bytes.Equal(again, text) {
			t.Errorf("record %d, without the old segments: %v", n, err)
		}
	}
	for _, n := range []int64{-1, records, 1 << 40} {
		if _, err := Prove(t.Context(), dir, n); !errors.Is(err, ErrNoRecord) {
			t.Errorf("record %d: %v, want ErrNoRecord", n, err)
		}
	}
	if _, err := CheckProof(proofs[3]); !errors.Is(err, ErrProof) {
		t.Errorf("without a key: %v", err)
	}
	if _, err := CheckProof(proofs[3], strangerKey.Public()); !errors.Is(err, ErrProof) {
		t.Errorf("with a stranger's key: %v", err)
	}
	other, err := parseProof(proofs[4])
	mustDo(t, err)
	for name, change := range map[string]func(*proof){
		"another record":       func(p *proof) { p.Record = other.Record },
		"a changed record":     func(p *proof) { p.Record = string(changedRecord(t, []byte(p.Record))) },
		"other hashes":         func(p *proof) { p.Hashes = other.Hashes },
		"no hashes":            func(p *proof) { p.Hashes = []string{} },
		"a hash too few":       func(p *proof) { p.Hashes = p.Hashes[1:] },
		"a hash too many":      func(p *proof) { p.Hashes = append(p.Hashes, p.Hashes[0]) },
		"a hash that is none":  func(p *proof) { p.Hashes[0] = "x" },
		"another number":       func(p *proof) { p.Record = strings.Replace(p.Record, `"n":3`, `"n":4`, 1) },
		"a number beyond":      func(p *proof) { p.Record = strings.Replace(p.Record, `"n":3`, `"n":300`, 1) },
		"a smaller checkpoint": func(p *proof) { p.Checkpoint = strings.Replace(p.Checkpoint, "\n70\n", "\n69\n", 1) },
		"no signatures":        func(p *proof) { p.Checkpoint, _, _ = strings.Cut(p.Checkpoint, "—") },
		"no checkpoint":        func(p *proof) { p.Checkpoint = "" },
		"a later version":      func(p *proof) { p.Version = 2 },
		"another format":       func(p *proof) { p.Format = "x" },
	} {
		p, err := parseProof(proofs[3])
		mustDo(t, err)
		change(&p)
		if _, err := CheckProof(p.encode(), serverKey.Public()); !errors.Is(err, ErrProof) {
			t.Errorf("%s: %v, want ErrProof", name, err)
		}
	}
	for i := range proofs[3] {
		b := bytes.Clone(proofs[3])
		b[i] ^= 1
		if p, err := CheckProof(b, serverKey.Public()); err == nil && p.Record.Request != call(3).Request {
			t.Errorf("byte %d changed: the proof shows %+v", i, p)
		}
	}

	// A log that is not what was signed proves nothing.
	file, lines, k := find(t, dir, 40)
	lines[k] = changedRecord(t, lines[k])
	writeFile(t, file, bytes.Join(lines, nil))
	if _, err := Prove(t.Context(), dir, 3); !errors.Is(err, ErrDamaged) {
		t.Errorf("from a changed log: %v, want ErrDamaged", err)
	}
	empty := makeLog(t, 0, nil)
	if _, err := Prove(t.Context(), empty, 0); !errors.Is(err, ErrNoRecord) {
		t.Errorf("from an empty log: %v, want ErrNoRecord", err)
	}
	if _, err := Newest(t.Context(), empty); !errors.Is(err, ErrNoRecord) {
		t.Errorf("the checkpoint of an empty log: %v, want ErrNoRecord", err)
	}
}

func TestShow(t *testing.T) {
	at := func(s string) time.Time {
		v, err := time.Parse(time.RFC3339Nano, s)
		mustDo(t, err)
		return v
	}
	for _, tc := range []struct {
		name string
		f    Filter
		want []int64
	}{
		{"all", Filter{}, []int64{0, 1, 2, 3, 4, 5, 6, 7}},
		{"a principal", Filter{Principal: "BBBBBBBB-2222-4222-8222-222222222222"}, []int64{3, 4}},
		{"an application", Filter{Principal: "cccccccc-3333-4333-8333-333333333333"}, []int64{1, 2, 3, 4}},
		{"an HSM by name", Filter{HSM: "Alpha"}, []int64{1, 2, 3, 4}},
		{"an HSM by ID", Filter{HSM: "33333333-3333-4333-8333-333333333333"}, []int64{1, 2, 3, 4}},
		{"an operation", Filter{Operation: "sign"}, []int64{3}},
		{"an outcome", Filter{Outcome: Refused}, []int64{4, 6, 7}},
		{"a key", Filter{Key: "Invoices"}, []int64{3, 4}},
		{"a key of a stranger", Filter{Key: "..%2f\x1b[2J"}, []int64{6}},
		{"a request", Filter{Request: "weekly run"}, []int64{3}},
		{"since", Filter{Since: at("2026-11-25T03:00:07Z")}, []int64{3, 4, 5, 6, 7}},
		{"until", Filter{Until: at("2026-11-25T03:00:07Z")}, []int64{0, 1, 2}},
		{"several", Filter{HSM: "alpha", Outcome: Allowed, Since: at("2026-11-25T03:00:07Z")}, []int64{3}},
		{"none", Filter{Key: "invoice"}, nil},
	} {
		var got []int64
		s, err := Show(t.Context(), golden, tc.f, func(r Record) error { got = append(got, r.Number); return nil })
		if err != nil || fmt.Sprint(got) != fmt.Sprint(tc.want) || s.Records != 8 || s.Matched != int64(len(got)) || s.Unreadable != 0 {
			t.Errorf("%s: records %v (%+v, %v), want %v", tc.name, got, s, err, tc.want)
		}
	}
	stop := errors.New("enough")
	if s, err := Show(t.Context(), golden, Filter{}, func(Record) error { return stop }); err != stop || s.Matched != 1 {
		t.Errorf("a callback that has enough: %+v, %v", s, err)
	}
	dir := makeLog(t, 3, nil)
	file, lines, k := find(t, dir, 1)
	lines[k] = []byte("nothing\n")
	writeFile(t, file, bytes.Join(lines, nil))
	if s, err := Show(t.Context(), dir, Filter{}, func(Record) error { return nil }); err != nil || s.Unreadable != 1 || s.Records != 2 {
		t.Errorf("with a line that is none: %+v, %v", s, err)
	}
	if _, err := Show(t.Context(), t.TempDir(), Filter{}, nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a folder without a log: %v", err)
	}
}

// FuzzLines reads what is no record: the first line of a segment and checkpoints.
func FuzzLines(f *testing.F) {
	for _, s := range mustSegments(f, golden) {
		for _, line := range parts(f, s.path) {
			f.Add(bytes.TrimSuffix(line, []byte("\n")))
		}
	}
	f.Add(readFile(f, filepath.Join(golden, "checkpoint.txt")))
	known, _, err := verifiers([]crypto.PublicKey{serverKey.Public()})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		if h, err := parseHeader(line); err == nil {
			if again := encodeJSON(h); string(again) != string(line)+"\n" || len(h.tree.hashes) > 63 {
				t.Errorf("%q prints back as %q", line, again)
			}
		}
		text := string(line)
		if c, err := parseCheckpointLine(line); err == nil {
			if again := newCheckpointLine(c.Checkpoint, c.prev); string(again) != string(line)+"\n" {
				t.Errorf("%q prints back as %q", line, again)
			}
			text = c.Checkpoint
		}
		n, err := readNote(text, known)
		if err == nil && len(n.verified) > 0 && !strings.HasPrefix(text, originName) {
			t.Errorf("%q counts as a checkpoint", text)
		}
	})
}

// FuzzProof: whatever is done to a proof, it shows a record of the golden log or nothing.
func FuzzProof(f *testing.F) {
	f.Add(readFile(f, filepath.Join(golden, "proof-3.json")))
	f.Add([]byte(`{"format":"strongroom-audit-proof","version":1,"record":"","hashes":[],"checkpoint":""}`))
	want := map[string]bool{}
	err := each(f.Context(), golden, func(line []byte) error { want[string(line)] = true; return nil })
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := CheckProof(text, serverKey.Public())
		if err != nil {
			return
		}
		again, err := parseProof(text)
		if err != nil || !want[again.Record] || p.Log == "" {
			t.Errorf("%q shows %+v", text, p)
		}
	})
}

// FuzzVerify: whatever is done to a segment, the records in it are the signed ones, or something is found.
func FuzzVerify(f *testing.F) {
	original := readFile(f, mustSegments(f, golden)[0].path)
	f.Add(original)
	f.Add(original[:1000])
	f.Add(bytes.Replace(original, []byte("Start"), []byte("Stop!"), 1))
	f.Fuzz(func(t *testing.T, b []byte) {
		dir := t.TempDir()
		file := filepath.Join(dir, fmt.Sprintf(segmentName, 0))
		writeFile(t, file, b)
		r, err := Verify(t.Context(), dir, VerifyOptions{Keys: []crypto.PublicKey{serverKey.Public()}})
		if err != nil || !r.OK() {
			return
		}
		// Sound: then the signed part of it is that of the original.
		var tr tree
		_ = each(t.Context(), dir, func(line []byte) error {
			if tr.n < r.Signed {
				tr.add(tlog.RecordHash(line), nil)
			}
			return nil
		})
		var want tree
		writeFile(t, file, original)
		_ = each(t.Context(), dir, func(line []byte) error {
			if want.n < r.Signed {
				want.add(tlog.RecordHash(line), nil)
			}
			return nil
		})
		if tr.root() != want.root() {
			t.Errorf("%q counts as sound, with %d signed records", b, r.Signed)
		}
	})
}

// FuzzOpen: whatever stands after the last checkpoint, the log is refused and left as it is, or goes on soundly.
func FuzzOpen(f *testing.F) {
	original := readFile(f, lastSegment(f, golden))
	f.Add([]byte{})
	f.Add([]byte(`{"n":8`))
	f.Add(original[bytes.Index(original, checkpointStart):])
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, tail []byte) {
		file := filepath.Join(dir, filepath.Base(lastSegment(t, golden)))
		b := append(bytes.Clone(original), tail...)
		writeFile(t, file, b)
		o := testOptions()
		o.Server = "golden server"
		l, err := Open(dir, o)
		if err != nil {
			if got := readFile(t, file); !bytes.Equal(got, b) {
				t.Errorf("%q was refused (%v), and the file changed", tail, err)
			}
			return
		}
		mustAppend(t, l, call(1))
		mustClose(t, l)
		// Opening compares hashes: a checkpoint with the right root and a wrong signature is Verify's to find.
		r := mustVerify(t, dir, serverKey.Public())
		if slices.ContainsFunc(r.Findings, func(f Finding) bool { return f.Kind != FoundCheckpoint }) || r.Signed != r.Records || r.Records < 9 {
			t.Errorf("after %q: %+v", tail, r)
		}
	})
}
