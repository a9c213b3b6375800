package backupset

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"strongroom/internal/engine"
	"strongroom/internal/engine/software"
	"strongroom/internal/statement"
	"strongroom/secret"
)

// goldenFolder is the backup in testdata; see its README.
const goldenFolder = "mhsm-golden-2026112508530512"

func goldenFile(t testing.TB, object string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", "v1", goldenFolder, object))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// goldenManifest has no parts and no records.
func goldenManifest() *Manifest {
	return &Manifest{Format: manifestFormat, Version: 1, Backup: strings.Repeat("0", 2*idSize), Domain: strings.Repeat("0", 2*domainSize), HSM: "a", HSMID: "b", Folder: "c",
		Created: time.Unix(0, 0).UTC(), Finished: time.Unix(0, 0).UTC(), Program: "d", Inventory: ObjectInfo{Name: inventoryName, Size: 1, SHA256: strings.Repeat("0", 64)}}
}

// FuzzManifest: a manifest that somebody else than the domain wrote or changed does not hold.
func FuzzManifest(f *testing.F) {
	golden := goldenFile(f, manifestName)
	want, err := readManifest(golden)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(golden)
	f.Add(golden[:len(golden)-1])
	f.Add([]byte("e30.e30.AAAA"))
	f.Fuzz(func(t *testing.T, jws []byte) {
		if m, err := readManifest(jws); err == nil && (!bytes.Equal(jws, golden) || m.Backup != want.Backup) {
			t.Errorf("%q holds", jws)
		} else if err != nil && code(err) == "" {
			t.Errorf("%v is no finding", err)
		}
	})
}

// FuzzManifestPayload: whatever a domain signs, what is read has one spelling and keeps the bounds.
func FuzzManifestPayload(f *testing.F) {
	said, err := statement.Verify(goldenFile(f, manifestName), ManifestType)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(said.Payload)
	f.Add([]byte(`{"format":"strongroom-backup","version":2}`))
	f.Add([]byte(`{"format":"strongroom-backup","version":1,"counts":null,"parts":[{}]}`))
	f.Fuzz(func(t *testing.T, payload []byte) {
		m, err := parseManifest(payload)
		if err != nil {
			if code(err) == "" {
				t.Errorf("%v is no finding", err)
			}
			return
		}
		if again, err := m.encode(); err != nil || !bytes.Equal(again, payload) {
			t.Errorf("%q prints back as %q", payload, again)
		}
		var records int64
		for i, p := range m.Parts {
			if records += p.Records; p.Name != partName(i+1) || p.Size < 1 || p.Size > maxPart {
				t.Errorf("part %d is %+v", i, p)
			}
		}
		if m.Version != 1 || records != m.Records || m.Records != sum(m.Counts) || len(m.id()) != idSize || len(m.Parts) > MaxParts {
			t.Errorf("%q is taken", payload)
		}
	})
}

// FuzzInventory: lines that are read print back as they were, come in order, and keep the bounds.
func FuzzInventory(f *testing.F) {
	golden := goldenFile(f, inventoryName)
	m, err := readManifest(goldenFile(f, manifestName))
	if err != nil {
		f.Fatal(err)
	}
	_, lines, _ := bytes.Cut(golden, []byte("\n"))
	head := golden[:len(golden)-len(lines)]
	f.Add(golden, false)
	f.Add(lines, true)
	f.Add([]byte(`{"kind":"k","name":"n","versions":[]}`+"\n"), true)
	f.Add([]byte(`{"kind":"k","name":"n"}`+"\n"+`{"kind":"k","name":"N"}`+"\n"), true)
	f.Fuzz(func(t *testing.T, text []byte, headed bool) {
		if headed { // so that the fuzzer need not find the backup's ID
			text = append(bytes.Clone(head), text...)
		}
		r, err := newInventoryReader(bytes.NewReader(text), m)
		if err != nil {
			return
		}
		again := bytes.Clone(head)
		last := Item{}
		for {
			it, err := r.item()
			if err == io.EOF {
				break
			}
			if err != nil {
				if code(err) == "" {
					t.Errorf("%v is no finding", err)
				}
				return
			}
			if it.Kind == last.Kind && strings.ToLower(it.Name) <= strings.ToLower(last.Name) {
				t.Errorf("%q comes after %q", it.Name, last.Name)
			}
			line, err := oneLine(&it)
			if err != nil || it.check() != nil {
				t.Errorf("%+v is taken", it)
			}
			again, last = append(append(again, line...), '\n'), it
		}
		if !bytes.Equal(again, text) {
			t.Errorf("%q prints back as %q", text, again)
		}
	})
}

// FuzzPart: a part whose chunks all open, whatever is in it: records within their bounds, or a finding. The fuzzer is
// given the whole part, the stream in its chunks, or what the stream holds.
func FuzzPart(f *testing.F) {
	record := append(appendHead(nil, &Record{Item{Kind: "key", Name: "name"}, []byte("body")}), "body"...)
	stream := deflate(f, append(record, record...))
	m, part := partOf(f, stream)
	header := part[:partHeader]
	f.Add(part, byte(0))
	f.Add(part[partHeader:], byte(1))
	f.Add(stream, byte(2))
	f.Add(deflate(f, make([]byte, 1<<20)), byte(2))
	f.Add(record, byte(3))
	f.Add([]byte("\x03key\x00\x01n\x00\x80\x00\x00"), byte(3))
	f.Fuzz(func(t *testing.T, b []byte, level byte) {
		opener := plain{codeless: true}
		switch level % 4 {
		case 1:
			b = append(bytes.Clone(header), b...)
		case 2:
			opener = plain{}
			_, b = partOf(t, b[:min(len(b), chunkBytes)])
		case 3:
			opener = plain{}
			_, b = partOf(t, deflate(t, b[:min(len(b), chunkBytes/2)]))
		}
		list, err := readPart(t.Context(), m, b, opener)
		if err != nil && code(err) == "" {
			t.Errorf("%v is no finding", err)
		}
		for _, r := range list {
			if !isKind(r.Kind) || !isText(r.Name, 1, MaxName) || len(r.Body) > MaxBody {
				t.Errorf("%s %q with %d bytes is taken", r.Kind, r.Name, len(r.Body))
			}
		}
	})
}

// FuzzPartSealed: a part of the golden backup, with its engine: it is the one that was written, or a finding.
func FuzzPartSealed(f *testing.F) {
	m, err := readManifest(goldenFile(f, manifestName))
	if err != nil {
		f.Fatal(err)
	}
	golden := goldenFile(f, partName(1))
	eng := goldenEngine(f)
	f.Add(golden)
	f.Add(golden[:partHeader+5])
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := openPart(t.Context(), m, 1, bytes.NewReader(b), eng)
		for err == nil {
			_, _, _, err = r.record(len(m.Parts) == 1)
		}
		if err == io.EOF && !bytes.Equal(b, golden) {
			t.Errorf("%x is a part of the backup", b)
		} else if err != io.EOF && code(err) == "" {
			t.Errorf("%v is no finding", err)
		}
	})
}

func goldenEngine(t testing.TB) engine.Engine {
	t.Helper()
	key := sha256.Sum256([]byte("strongroom test backup key golden"))
	eng, err := software.New(secret.New(make([]byte, 32)), secret.New(key[:]), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(eng.Close)
	return eng
}
