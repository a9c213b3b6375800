package backupset_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"strongroom/internal/backupset"
	"strongroom/internal/failure"
)

// headerSize is that of a part, as docs/formats.md draws it.
const headerSize = 22 + 1 + 32 + 16 + 4 + 32

// takeApart splits a part into its header and its chunks, each with its mark and length.
func takeApart(t testing.TB, part []byte) (header []byte, chunks [][]byte) {
	t.Helper()
	header, rest := part[:headerSize], part[headerSize:]
	for len(rest) > 0 {
		n := 5 + int(binary.BigEndian.Uint32(rest[1:]))
		chunks, rest = append(chunks, rest[:n]), rest[n:]
	}
	return header, chunks
}

func putTogether(header []byte, chunks [][]byte) []byte {
	return append(bytes.Clone(header), bytes.Join(chunks, nil)...)
}

func info(name string, b []byte, records int64) backupset.ObjectInfo {
	sum := sha256.Sum256(b)
	return backupset.ObjectInfo{Name: name, Size: int64(len(b)), SHA256: hex.EncodeToString(sum[:]), Records: records}
}

// resign writes a manifest for what is in the storage now, as only the domain can. With it, nothing but the parts
// themselves can tell that they were changed.
func resign(t testing.TB, d *domain, s *memory, m backupset.Manifest) {
	t.Helper()
	m.Parts = slices.Clone(m.Parts)
	for i, p := range m.Parts {
		m.Parts[i] = info(p.Name, s.get(t, folder, p.Name), p.Records)
	}
	m.Inventory = info("inventory", s.get(t, folder, "inventory"), m.Inventory.Records)
	signManifest(t, d, s, m)
}

func signManifest(t testing.TB, d *domain, s *memory, m backupset.Manifest) {
	t.Helper()
	payload, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	signPayload(t, d, s, payload)
}

func signPayload(t testing.TB, d *domain, s *memory, payload []byte) {
	t.Helper()
	jws, err := d.sign(t.Context(), backupset.ManifestType, payload)
	if err != nil {
		t.Fatal(err)
	}
	s.objects[folder+"/manifest"] = jws
}

// Covers B1. No chunk can be dropped, swapped, repeated, cut, given another end, or moved within the backup or from
// another one: neither by a stranger, whom the hashes in the manifest betray, nor by whoever can sign manifests and has not
// the backup key.
func TestChunksStayInPlace(t *testing.T) {
	d := newDomain(t, "one")
	records := []backupset.Record{key("a", 1, 2500<<10), key("b", 1, 2600<<10), key("c", 1, 10)}
	s, other := newMemory(), newMemory()
	o := options(d, s)
	o.PartBytes = 1 << 20
	m := write(t, o, records)
	o = options(d, other)
	o.PartBytes = 1 << 20
	write(t, o, records)
	if len(m.Parts) != 3 {
		t.Fatalf("there are %d parts", len(m.Parts))
	}
	cases := map[string]*memory{}
	alter := func(name string, part int, header []byte, chunks [][]byte) {
		object := m.Parts[part].Name
		if b := putTogether(header, chunks); !bytes.Equal(b, s.get(t, folder, object)) {
			cases[name+", "+object] = s.with(folder, object, b)
		}
	}
	marked := func(chunk []byte, mark byte) []byte {
		c := bytes.Clone(chunk)
		c[0] = mark
		return c
	}
	for part := range m.Parts {
		header, chunks := takeApart(t, s.get(t, folder, m.Parts[part].Name))
		if part < 2 && len(chunks) != 3 {
			t.Fatalf("part %d has %d chunks", part+1, len(chunks))
		}
		otherHeader, otherChunks := takeApart(t, other.get(t, folder, m.Parts[part].Name))
		for i := range chunks {
			at := func(what string) string { return fmt.Sprintf("%s chunk %d", what, i) }
			alter(at("drop"), part, header, slices.Delete(slices.Clone(chunks), i, i+1))
			alter(at("repeat"), part, header, slices.Insert(slices.Clone(chunks), i, chunks[i]))
			alter(at("repeat at the end"), part, header, append(slices.Clone(chunks), chunks[i]))
			for j := range i {
				swapped := slices.Clone(chunks)
				swapped[i], swapped[j] = swapped[j], swapped[i]
				alter(at(fmt.Sprintf("swap %d with", j)), part, header, swapped)
			}
			alter(at("end before"), part, header, chunks[:i])
			if i > 0 {
				for mark := range byte(3) { // the chunk before is made the last
					alter(at(fmt.Sprintf("end with mark %d before", mark)), part, header, append(slices.Clone(chunks[:i-1]), marked(chunks[i-1], mark)))
				}
			}
			for mark := range byte(5) {
				changed := slices.Clone(chunks)
				changed[i] = marked(chunks[i], mark)
				alter(at(fmt.Sprintf("mark %d on", mark)), part, header, changed)
			}
			foreign := slices.Clone(chunks)
			foreign[i] = otherChunks[i]
			alter(at("that of another backup as"), part, header, foreign)
			for p := range m.Parts {
				if _, there := takeApart(t, s.get(t, folder, m.Parts[p].Name)); p != part && i < len(there) {
					moved := slices.Clone(chunks)
					moved[i] = there[i]
					alter(at(fmt.Sprintf("that of part %d as", p+1)), part, header, moved)
				}
			}
		}
		alter("the salt of another backup", part, append(bytes.Clone(header[:headerSize-32]), otherHeader[headerSize-32:]...), chunks)
		alter("the chunks of another backup", part, header, otherChunks)
	}
	if len(cases) < 90 {
		t.Fatalf("only %d cases", len(cases))
	}
	for name, c := range cases {
		wantCode(t, name+", verify", verify(t.Context(), c), backupset.Changed, backupset.Truncated)
		_, err := read(t.Context(), d, c)
		wantCode(t, name+", read", err, backupset.Changed, backupset.Truncated)
		resign(t, d, c, m)
		if err := verify(t.Context(), c); err != nil {
			t.Errorf("%s: the manifest that was signed again does not hold: %v", name, err)
		}
		_, err = read(t.Context(), d, c)
		wantCode(t, name+", signed again", err, backupset.Changed, backupset.Truncated)
	}
}

// The end of the backup is in its last part: parts cannot be dropped from its end even with a manifest that says so.
func TestTheLastPartIsTheLast(t *testing.T) {
	d, s := newDomain(t, "one"), newMemory()
	records := some(false)
	o := options(d, s)
	o.PartBytes = 1
	m := write(t, o, records)
	for _, n := range []int{1, 3} { // all parts but n
		c, short := s.clone(), m
		short.Parts = m.Parts[:len(m.Parts)-n]
		kept := records[:len(records)-n]
		short.Counts, short.Records, short.Versions, short.Deleted = map[string]int64{}, int64(len(kept)), 0, 0
		for _, r := range kept {
			short.Counts[r.Kind]++
			short.Versions += int64(len(r.Versions))
			if r.Deleted {
				short.Deleted++
			}
		}
		lines := bytes.SplitAfter(s.get(t, folder, "inventory"), []byte("\n"))
		c.objects[folder+"/inventory"] = bytes.Join(lines[:1+len(kept)], nil)
		short.Inventory.Records = short.Records
		resign(t, d, c, short)
		if err := verify(t.Context(), c); err != nil {
			t.Fatalf("the shorter backup is not made as it would be: %v", err)
		}
		_, err := read(t.Context(), d, c)
		wantCode(t, fmt.Sprintf("without the last %d parts", n), err, backupset.Contradicted)
	}
}

// small is a backup of a few kilobytes, with five records and a part for each.
func small(t testing.TB, d *domain) (*memory, backupset.Manifest) {
	t.Helper()
	s := newMemory()
	o := options(d, s)
	o.PartBytes = 1
	deleted := key("old", 1, 50)
	deleted.Kind, deleted.Deleted = "deleted-key", true
	m := write(t, o, []backupset.Record{key("Alpha", 1, 60), key("alpha-2", 2, 0), key("x", 1, 200), key("y", 0, 30), deleted})
	return s, m
}

// Each byte of each object counts: changed, or cut off, or added.
func TestEveryByteCounts(t *testing.T) {
	d := newDomain(t, "one")
	s, m := small(t, d)
	if len(m.Parts) != 5 {
		t.Fatalf("there are %d parts", len(m.Parts))
	}
	// The manifest is read once, and only the other objects change: most of the time goes into signatures.
	c := s.clone()
	opened, err := backupset.Open(t.Context(), c, folder)
	if err != nil {
		t.Fatal(err)
	}
	flip := func(b []byte, i int) []byte {
		flipped := bytes.Clone(b)
		flipped[i] ^= 1 << (i % 8)
		return flipped
	}
	objects := 0
	for path, b := range s.objects {
		object := strings.TrimPrefix(path, folder+"/")
		if object == "manifest" {
			continue
		}
		objects++
		check := func(what string, changed []byte, codes ...string) {
			c.objects[path] = changed
			r, err := opened.Verify(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			wantCode(t, fmt.Sprintf("%s: %s, verify", object, what), r.Err(), codes...)
			_, err = all(t.Context(), d, opened)
			wantCode(t, fmt.Sprintf("%s: %s, read", object, what), err, codes...)
			c.objects[path] = b
		}
		for i := range b {
			check(fmt.Sprintf("bit %d of byte %d of %d", i%8, i, len(b)), flip(b, i), backupset.Changed, backupset.Mixed)
			if i%3 == 0 || i < headerSize+6 {
				check(fmt.Sprintf("cut off at byte %d", i), b[:i], backupset.Truncated)
			}
		}
		check("a byte more", append(bytes.Clone(b), 0), backupset.Changed)
		check("twice", append(bytes.Clone(b), b...), backupset.Changed)
	}
	if objects != 6 {
		t.Errorf("%d objects were changed", objects)
	}
	manifest := s.get(t, folder, "manifest")
	forged := func(what string, changed []byte) {
		_, err := backupset.Open(t.Context(), s.with(folder, "manifest", changed), folder)
		wantCode(t, "the manifest: "+what, err, backupset.Forged)
	}
	for i := range manifest {
		forged(fmt.Sprintf("byte %d of %d", i, len(manifest)), flip(manifest, i))
	}
	for i := 0; i < len(manifest); i += 7 { // what is cut off is missing from the signature, or from what it is over
		forged(fmt.Sprintf("cut off at byte %d", i), manifest[:i])
	}
	forged("a byte more", append(bytes.Clone(manifest), '\n'))
}

// What is not there, and what is there besides.
func TestMissingAndForeign(t *testing.T) {
	d := newDomain(t, "one")
	s, m := small(t, d)
	for _, object := range []string{"part-000001", "part-000002", "part-000005", "inventory"} {
		c := s.with(folder, object, nil)
		err := verify(t.Context(), c)
		wantCode(t, "without "+object, err, backupset.Missing)
		if !strings.Contains(err.Error(), object) {
			t.Errorf("the error does not name %s: %v", object, err)
		}
		_, err = read(t.Context(), d, c)
		wantCode(t, "without "+object, err, backupset.Missing)
	}
	_, err := backupset.Open(t.Context(), s.with(folder, "manifest", nil), folder)
	wantCode(t, "without the manifest", err, backupset.Unfinished)
	_, err = backupset.Open(t.Context(), newMemory(), folder)
	wantCode(t, "nothing", err, backupset.NotThere)
	if !errors.Is(err, failure.NotFound) {
		t.Errorf("got %v", err)
	}
	if _, err := backupset.Open(t.Context(), s, "../"+folder); !errors.Is(err, failure.BadParameter) {
		t.Errorf("a path is opened: %v", err)
	}

	// Every object is reported, not only the first.
	c := s.with(folder, "inventory", nil).with(folder, "part-000002", []byte("strongroom"))
	b, err := backupset.Open(t.Context(), c, folder)
	if err != nil {
		t.Fatal(err)
	}
	r, err := b.Verify(t.Context(), nil)
	if err != nil || len(r.Findings) != 2 || r.Findings[0].Object != "inventory" || r.Findings[0].Code != backupset.Missing ||
		r.Findings[1].Object != "part-000002" || r.Findings[1].Code != backupset.Truncated || r.Objects != 5 {
		t.Errorf("got %+v, %v", r, err)
	}

	c = s.with(folder, "part-000006", s.get(t, folder, "part-000002")).with(folder, "notes.txt", []byte("mine"))
	if b, err = backupset.Open(t.Context(), c, folder); err != nil {
		t.Fatal(err)
	}
	r, err = b.Verify(t.Context(), nil)
	slices.Sort(r.Foreign)
	if err != nil || r.Err() != nil || !slices.Equal(r.Foreign, []string{"notes.txt", "part-000006"}) {
		t.Errorf("got %+v, %v", r, err)
	}
	if got, err := read(t.Context(), d, c); err != nil || int64(len(got)) != m.Records {
		t.Errorf("foreign objects: %d records, %v", len(got), err)
	}
	for i := range 150 {
		c.objects[fmt.Sprintf("%s/x%d", folder, i)] = nil
	}
	if r, err := b.Verify(t.Context(), nil); err != nil || len(r.Foreign) != 100 || r.MoreForeign != 52 {
		t.Errorf("got %+v, %v", r, err)
	}
}

// Covers B1. Objects of two backups of one domain, which the backup key opens both, do not mix; nor do parts of one
// backup change places.
func TestBackupsDoNotMix(t *testing.T) {
	d := newDomain(t, "one")
	s, m := small(t, d)
	other, _ := small(t, d)
	for name, c := range map[string]*memory{
		"the first part of another":  s.with(folder, "part-000001", other.get(t, folder, "part-000001")),
		"the last part of another":   s.with(folder, "part-000005", other.get(t, folder, "part-000005")),
		"the inventory of another":   s.with(folder, "inventory", other.get(t, folder, "inventory")),
		"the manifest of another":    s.with(folder, "manifest", other.get(t, folder, "manifest")),
		"part 2 as part 1":           s.with(folder, "part-000001", s.get(t, folder, "part-000002")),
		"part 1 as part 2":           s.with(folder, "part-000002", s.get(t, folder, "part-000001")),
		"all but the manifest":       other.with(folder, "manifest", s.get(t, folder, "manifest")),
		"all but a part":             other.with(folder, "part-000001", s.get(t, folder, "part-000001")),
		"the header only of another": s.with(folder, "part-000001", append(bytes.Clone(other.get(t, folder, "part-000001")[:headerSize]), s.get(t, folder, "part-000001")[headerSize:]...)),
	} {
		wantCode(t, name, verify(t.Context(), c), backupset.Mixed)
		_, err := read(t.Context(), d, c)
		wantCode(t, name, err, backupset.Mixed)
	}
	// Somebody who can sign puts a part of another backup under this one's header: it does not open.
	header := s.get(t, folder, "part-000001")[:headerSize]
	c := s.with(folder, "part-000001", append(bytes.Clone(header), other.get(t, folder, "part-000001")[headerSize:]...))
	resign(t, d, c, m)
	_, err := read(t.Context(), d, c)
	wantCode(t, "a part of another under this header", err, backupset.Changed)
	// And the whole part of another, named in the manifest of this one.
	c = s.with(folder, "part-000001", other.get(t, folder, "part-000001"))
	resign(t, d, c, m)
	_, err = read(t.Context(), d, c)
	wantCode(t, "a part of another, signed", err, backupset.Mixed)
	wantCode(t, "a part of another, signed", verify(t.Context(), c), backupset.Mixed)
}

// An older backup does not pass for the newest: not in its folder, and not with its name.
func TestRolledBack(t *testing.T) {
	d := newDomain(t, "one")
	s, _ := small(t, d)
	const newer = "mhsm-alpha-2026112609000000"
	c := newMemory()
	for path, b := range s.objects {
		c.objects[strings.Replace(path, folder, newer, 1)] = b
	}
	_, err := backupset.Open(t.Context(), c, newer)
	wantCode(t, "an older backup in the folder of a newer one", err, backupset.Renamed)
	if err == nil || !strings.Contains(err.Error(), newer) {
		t.Errorf("it does not name both folders: %v", err)
	}
}

// unread is a storage that fails the test when anything but the manifest is read.
type unread struct {
	*memory
	t *testing.T
}

func (u unread) Open(ctx context.Context, name string) (io.ReadCloser, error) {
	if !strings.HasSuffix(name, "/manifest") {
		u.t.Errorf("%s was read", name)
	}
	return u.memory.Open(ctx, name)
}

// Covers B1: the domain is checked first, both are named, and nothing is read.
func TestAnotherDomain(t *testing.T) {
	d, other := newDomain(t, "one"), newDomain(t, "two")
	s, m := small(t, d)
	b, err := backupset.Open(t.Context(), unread{s, t}, folder)
	if err != nil {
		t.Fatal(err)
	}
	check := func(what string, err error) {
		wantCode(t, what, err, backupset.OtherDomain)
		if !errors.Is(err, failure.WrongDomain) || !strings.Contains(err.Error(), d.id) || !strings.Contains(err.Error(), other.id) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := b.CheckDomain(d.id); err != nil {
		t.Error(err)
	}
	check("CheckDomain", b.CheckDomain(other.id))
	n := 0
	for _, err := range b.Records(t.Context(), other.id, other.engine, nil) {
		check("Records", err)
		n++
	}
	if n != 1 {
		t.Errorf("%d errors", n)
	}
	_, err = b.Find(t.Context(), other.id, other.engine, "key", "x")
	check("Find", err)

	// An engine of another domain, whatever it says, opens nothing.
	if b, err = backupset.Open(t.Context(), s, folder); err != nil {
		t.Fatal(err)
	}
	for _, err := range b.Records(t.Context(), d.id, other.engine, nil) {
		wantCode(t, "another engine", err, backupset.Changed)
	}

	// Another domain signs the manifest of this one: as it is, and as its own.
	forged := s.clone()
	signManifest(t, other, forged, m)
	_, err = backupset.Open(t.Context(), forged, folder)
	wantCode(t, "signed by another", err, backupset.Forged)
	if err == nil || !strings.Contains(err.Error(), d.id) || !strings.Contains(err.Error(), other.id) {
		t.Errorf("it does not name both domains: %v", err)
	}
	m.Domain = other.id
	signManifest(t, other, forged, m)
	if b, err = backupset.Open(t.Context(), forged, folder); err != nil {
		t.Fatal(err)
	}
	if err := b.CheckDomain(d.id); backupset.CodeOf(err) != backupset.OtherDomain {
		t.Errorf("another domain's manifest is of this domain: %v", err)
	}
	wantCode(t, "the parts of another domain", verify(t.Context(), forged), backupset.Mixed)
	for _, err := range b.Records(t.Context(), other.id, other.engine, nil) {
		wantCode(t, "the parts of another domain", err, backupset.Mixed)
	}
}

// A manifest of a newer version is refused by that name, whatever else is in it; one that lies is refused although it
// is signed.
func TestManifestsThatAreSigned(t *testing.T) {
	d := newDomain(t, "one")
	s, m := small(t, d)
	payload, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	replace := func(from, to string) []byte {
		if !bytes.Contains(payload, []byte(from)) {
			t.Fatalf("there is no %s in %s", from, payload)
		}
		return bytes.Replace(payload, []byte(from), []byte(to), 1)
	}
	change := func(f func(*backupset.Manifest)) []byte {
		c := m
		c.Parts, c.Counts = slices.Clone(m.Parts), maps.Clone(m.Counts)
		f(&c)
		b, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for name, c := range map[string]struct {
		payload []byte
		code    string
	}{
		"as it was":                 {payload, ""},
		"version 2":                 {replace(`"version":1`, `"version":2`), backupset.Newer},
		"version 2, another form":   {[]byte(`{"version":2,"format":"strongroom-backup","x":[{}]}`), backupset.Newer},
		"version 0":                 {replace(`"version":1`, `"version":0`), backupset.Contradicted},
		"another format":            {replace(`strongroom-backup`, `strongroom-backupp`), backupset.Contradicted},
		"no object":                 {[]byte(`[]`), backupset.Contradicted},
		"nothing":                   {nil, backupset.Contradicted},
		"white space":               {replace(`,`, `, `), backupset.Contradicted},
		"another order":             {replace(`"format":"strongroom-backup","version":1`, `"version":1,"format":"strongroom-backup"`), backupset.Contradicted},
		"a member more":             {replace(`"version":1`, `"version":1,"x":1`), backupset.Contradicted},
		"a member twice":            {replace(`"version":1`, `"version":1,"version":1`), backupset.Contradicted},
		"a member less":             {replace(`"hsm":"alpha",`, ``), backupset.Contradicted},
		"a member of another type":  {replace(`"hsm":"alpha"`, `"hsm":1`), backupset.Contradicted},
		"deep":                      {replace(`"version":1`, `"version":1,"x":[[[[]]]]`), backupset.Contradicted},
		"no backup ID":              {change(func(m *backupset.Manifest) { m.Backup = "" }), backupset.Contradicted},
		"a backup ID in capitals":   {change(func(m *backupset.Manifest) { m.Backup = "A" + m.Backup[1:] }), backupset.Contradicted},
		"a short domain":            {change(func(m *backupset.Manifest) { m.Domain = m.Domain[2:] }), backupset.Contradicted},
		"a name with a line end":    {change(func(m *backupset.Manifest) { m.HSM = "a\n" }), backupset.Contradicted},
		"a program of 1 KB":         {change(func(m *backupset.Manifest) { m.Program = strings.Repeat("x", 1000) }), backupset.Contradicted},
		"a folder that is a path":   {change(func(m *backupset.Manifest) { m.Folder = "a/b" }), backupset.Contradicted},
		"finished before it began":  {change(func(m *backupset.Manifest) { m.Finished = m.Created.Add(-time.Second) }), backupset.Contradicted},
		"a fraction of a second":    {change(func(m *backupset.Manifest) { m.Created = m.Created.Add(1) }), backupset.Contradicted},
		"a time elsewhere":          {change(func(m *backupset.Manifest) { m.Created = m.Created.In(time.FixedZone("", 3600)) }), backupset.Contradicted},
		"no counts":                 {change(func(m *backupset.Manifest) { m.Counts = nil }), backupset.Contradicted},
		"a count of nothing":        {change(func(m *backupset.Manifest) { m.Counts["x"] = 0 }), backupset.Contradicted},
		"a count too large":         {change(func(m *backupset.Manifest) { m.Counts["key"]++ }), backupset.Contradicted},
		"counts that overflow":      {change(func(m *backupset.Manifest) { m.Counts["x"], m.Counts["y"] = 1<<62, 1<<62 }), backupset.Contradicted},
		"a negative count":          {change(func(m *backupset.Manifest) { m.Counts["key"], m.Counts["x"] = -1, m.Counts["key"]+1 }), backupset.Contradicted},
		"more records":              {change(func(m *backupset.Manifest) { m.Records++ }), backupset.Contradicted},
		"more records throughout":   {change(func(m *backupset.Manifest) { m.Records++; m.Inventory.Records++ }), backupset.Contradicted},
		"more records in a part":    {change(func(m *backupset.Manifest) { m.Parts[0].Records++ }), backupset.Contradicted},
		"more deleted than records": {change(func(m *backupset.Manifest) { m.Deleted = m.Records + 1 }), backupset.Contradicted},
		"negative versions":         {change(func(m *backupset.Manifest) { m.Versions = -1 }), backupset.Contradicted},
		"no parts":                  {change(func(m *backupset.Manifest) { m.Parts = nil }), backupset.Contradicted},
		"a part twice":              {change(func(m *backupset.Manifest) { m.Parts[1] = m.Parts[0] }), backupset.Contradicted},
		"a part with another name":  {change(func(m *backupset.Manifest) { m.Parts[0].Name = "../part-000001" }), backupset.Contradicted},
		"a part too large":          {change(func(m *backupset.Manifest) { m.Parts[0].Size = 81 << 20 }), backupset.Contradicted},
		"a part of no size":         {change(func(m *backupset.Manifest) { m.Parts[0].Size = 0 }), backupset.Contradicted},
		"a part without records":    {change(func(m *backupset.Manifest) { m.Parts[0].Records += m.Parts[1].Records; m.Parts[1].Records = 0 }), backupset.Contradicted},
		"a part with less than none": {change(func(m *backupset.Manifest) {
			m.Parts[0].Records, m.Parts[1].Records = 3, -1
		}), backupset.Contradicted},
		"a hash that is none":         {change(func(m *backupset.Manifest) { m.Parts[0].SHA256 = "x" }), backupset.Contradicted},
		"an inventory elsewhere":      {change(func(m *backupset.Manifest) { m.Inventory.Name = "part-000001" }), backupset.Contradicted},
		"an inventory of other items": {change(func(m *backupset.Manifest) { m.Inventory.Records++ }), backupset.Contradicted},
		"too many parts": {change(func(m *backupset.Manifest) {
			for len(m.Parts) <= backupset.MaxParts {
				m.Parts = append(m.Parts, backupset.ObjectInfo{Name: fmt.Sprintf("part-%06d", len(m.Parts)+1), Size: 1, SHA256: m.Parts[0].SHA256})
			}
		}), backupset.Contradicted},
		"too large": {change(func(m *backupset.Manifest) { m.Program = strings.Repeat("x", backupset.MaxManifest) }), backupset.Forged},
	} {
		t.Run(name, func(t *testing.T) {
			c2 := s.clone()
			signPayload(t, d, c2, c.payload)
			_, err := backupset.Open(t.Context(), c2, folder)
			if c.code == "" && err == nil {
				return
			}
			wantCode(t, name, err, c.code)
			if c.code == backupset.Newer && (err == nil || !strings.Contains(err.Error(), "version 2") || !strings.Contains(err.Error(), "1 to 1")) {
				t.Errorf("got %v", err)
			}
		})
	}
	// The same statement under another name is none.
	jws, err := d.sign(t.Context(), "strongroom-key-attestation+jws", payload)
	if err != nil {
		t.Fatal(err)
	}
	_, err = backupset.Open(t.Context(), s.with(folder, "manifest", jws), folder)
	wantCode(t, "another statement", err, backupset.Forged)
}

// Manifest, inventory and parts have to say the same, whoever signed them; and numbers in the manifest that fit each
// other but nothing else are found too.
func TestContradictions(t *testing.T) {
	d := newDomain(t, "one")
	s, m := small(t, d)
	lines := bytes.SplitAfter(s.get(t, folder, "inventory"), []byte("\n"))
	lines = lines[:len(lines)-1]
	line := func(i int, from, to string) func(*backupset.Manifest) [][]byte {
		return func(*backupset.Manifest) [][]byte {
			changed := slices.Clone(lines)
			if !bytes.Contains(lines[i], []byte(from)) {
				t.Fatalf("there is no %s in %s", from, lines[i])
			}
			changed[i] = bytes.Replace(lines[i], []byte(from), []byte(to), 1)
			return changed
		}
	}
	for name, c := range map[string]struct {
		change  func(*backupset.Manifest) [][]byte
		code    string
		offline bool // it is found without a key
	}{
		"a name":             {line(2, `"alpha-2"`, `"alpha-3"`), backupset.Contradicted, false},
		"a name in capitals": {line(2, `"alpha-2"`, `"ALPHA-2"`), backupset.Contradicted, false},
		"a kind": {func(m *backupset.Manifest) [][]byte {
			m.Counts["kex"], m.Counts["key"] = 1, m.Counts["key"]-1
			return line(1, `"key"`, `"kex"`)(m)
		}, backupset.Contradicted, false},
		"order":          {func(*backupset.Manifest) [][]byte { c := slices.Clone(lines); c[1], c[2] = c[2], c[1]; return c }, backupset.Contradicted, true},
		"a record twice": {func(*backupset.Manifest) [][]byte { c := slices.Clone(lines); c[2] = c[1]; return c }, backupset.Contradicted, true},
		"a record less":  {func(*backupset.Manifest) [][]byte { return lines[:len(lines)-1] }, backupset.Contradicted, true},
		"a record more": {func(*backupset.Manifest) [][]byte {
			return append(slices.Clone(lines), []byte(`{"kind":"z","name":"z"}`+"\n"))
		}, backupset.Contradicted, true},
		"a version less":                {line(1, `"versions"`, `"xversions"`), backupset.Contradicted, true},
		"white space":                   {line(1, `,`, `, `), backupset.Contradicted, true},
		"a member":                      {line(1, `,`, `,"x":1,`), backupset.Contradicted, true},
		"no JSON":                       {line(1, `{`, ``), backupset.Contradicted, true},
		"no line end":                   {line(len(lines)-1, "\n", ""), backupset.Truncated, true},
		"a long line":                   {line(1, `{`, strings.Repeat(" ", 128<<10)+`{`), backupset.Changed, true},
		"empty":                         {func(*backupset.Manifest) [][]byte { return [][]byte{[]byte("\n")} }, backupset.Changed, true},
		"another head":                  {line(0, `inventory`, `inventorx`), backupset.Changed, true},
		"version 2":                     {line(0, `"version":1`, `"version":2`), backupset.Changed, true},
		"a head that is not spelled so": {line(0, `,`, ` ,`), backupset.Changed, true},
		"deleted in the manifest":       {func(m *backupset.Manifest) [][]byte { m.Deleted++; return lines }, backupset.Contradicted, true},
		"versions in the manifest":      {func(m *backupset.Manifest) [][]byte { m.Versions++; return lines }, backupset.Contradicted, true},
		"a kind in the manifest": {func(m *backupset.Manifest) [][]byte {
			m.Counts["kex"] = m.Counts["key"]
			delete(m.Counts, "key")
			return lines
		}, backupset.Contradicted, true},
	} {
		t.Run(name, func(t *testing.T) {
			c2, changed := s.clone(), m
			changed.Parts, changed.Counts = slices.Clone(m.Parts), maps.Clone(m.Counts)
			c2.objects[folder+"/inventory"] = bytes.Join(c.change(&changed), nil)
			resign(t, d, c2, changed)
			_, err := read(t.Context(), d, c2)
			wantCode(t, name+", read", err, c.code)
			if err := verify(t.Context(), c2); c.offline {
				wantCode(t, name+", verify", err, c.code)
			} else if err != nil {
				t.Errorf("verify: %v", err)
			}
		})
	}
}

// A part that opens is still held against its hash when it is read, and not only when it is verified.
func TestHashesCountWhileReading(t *testing.T) {
	d := newDomain(t, "one")
	s, m := small(t, d)
	for i := range m.Parts {
		c, changed := s.clone(), m
		changed.Parts = slices.Clone(m.Parts)
		changed.Parts[i].SHA256 = m.Inventory.SHA256
		signManifest(t, d, c, changed)
		_, err := read(t.Context(), d, c)
		wantCode(t, "another hash", err, backupset.Changed)
		wantCode(t, "another hash", verify(t.Context(), c), backupset.Changed)
	}
}

// The manifest says how many records each part has.
func TestRecordsOfParts(t *testing.T) {
	d, s := newDomain(t, "one"), newMemory()
	o := options(d, s)
	o.PartBytes = 3 << 19
	m := write(t, o, []backupset.Record{key("a", 1, 5<<18), key("b", 1, 5<<18), key("c", 1, 9), key("d", 1, 9)})
	if len(m.Parts) != 2 || m.Parts[0].Records != 2 {
		t.Fatalf("the parts are %+v", m.Parts)
	}
	for _, more := range []int64{-1, 1} {
		c, changed := s.clone(), m
		changed.Parts = slices.Clone(m.Parts)
		changed.Parts[0].Records += more
		changed.Parts[1].Records -= more
		resign(t, d, c, changed)
		if err := verify(t.Context(), c); err != nil {
			t.Errorf("verify: %v", err)
		}
		_, err := read(t.Context(), d, c)
		wantCode(t, "other numbers of records", err, backupset.Contradicted)
	}
}

var errDisk = errors.New("the disk is gone")

// A storage that fails, at whatever operation, is never a backup: the failure says so, nothing stays open, and what is left in the
// folder is unfinished. The one exception is a manifest that is there although the storage said no.
func TestStorageFailsWhileWriting(t *testing.T) {
	d := newDomain(t, "one")
	for _, applied := range []bool{false, true} {
		for n := 0; ; n++ {
			s := newMemory()
			count, failed := 0, ""
			s.fault = func(op, name string) (error, bool) {
				if count++; count == n+1 {
					failed = op + " " + name
					return errDisk, applied
				}
				return nil, true
			}
			o := options(d, s)
			o.PartBytes = 1
			_, err := tryWrite(t.Context(), o, some(false))
			s.fault = nil
			if failed == "" {
				if err != nil || n < 15 {
					t.Errorf("after %d operations: %v", n, err)
				}
				break
			}
			if !errors.Is(err, failure.Unavailable) || !errors.Is(err, errDisk) || s.open != 0 {
				t.Errorf("%s: %v, %d open", failed, err, s.open)
			}
			if !strings.Contains(err.Error(), strings.TrimPrefix(failed[strings.Index(failed, " ")+1:], folder+"/")) {
				t.Errorf("%s: the failure does not name the object: %v", failed, err)
			}
			_, err = backupset.Open(t.Context(), s, folder)
			switch there := applied && failed == "commit "+folder+"/manifest"; {
			case there && err == nil:
				if err := verify(t.Context(), s); err != nil {
					t.Errorf("%s: %v", failed, err)
				}
			case len(s.objects) == 0:
				wantCode(t, failed, err, backupset.NotThere)
			default:
				wantCode(t, failed, err, backupset.Unfinished)
			}
		}
	}
}

// While it is read, a storage that fails is not taken for a damaged backup, nor the other way round.
func TestStorageFailsWhileReading(t *testing.T) {
	d := newDomain(t, "one")
	s, _ := small(t, d)
	for name, run := range map[string]func(s *memory) error{
		"verify": func(s *memory) error { return verify(t.Context(), s) },
		"read":   func(s *memory) error { _, err := read(t.Context(), d, s); return err },
	} {
		for n := 0; ; n++ {
			c := s.clone()
			count, failed := 0, ""
			c.fault = func(op, name string) (error, bool) {
				if count++; count == n+1 {
					failed = op + " " + name
					return errDisk, false
				}
				return nil, true
			}
			err := run(c)
			if failed == "" {
				if err != nil || n < 8 {
					t.Errorf("%s: after %d operations: %v", name, n, err)
				}
				break
			}
			if !errors.Is(err, failure.Unavailable) || !errors.Is(err, errDisk) || backupset.CodeOf(err) != "" {
				t.Errorf("%s: %s: %v", name, failed, err)
			}
		}
	}
	c := s.with(folder, "manifest", nil)
	c.fault = func(op, _ string) (error, bool) {
		if op == "list" {
			return errDisk, false
		}
		return nil, true
	}
	if _, err := backupset.Open(t.Context(), c, folder); !errors.Is(err, failure.Unavailable) {
		t.Errorf("a folder that cannot be listed: %v", err)
	}
}

// What a storage says in words for the caller reaches the caller, with its kind and code.
func TestStorageSpeaks(t *testing.T) {
	d := newDomain(t, "one")
	s := newMemory()
	s.fault = func(string, string) (error, bool) {
		return failure.Coded(failure.Forbidden, "AuthorizationFailure", "the SAS token does not allow this; make one with the permissions crdw"), false
	}
	_, err := tryWrite(t.Context(), options(d, s), nil)
	f, ok := errors.AsType[*failure.Error](err)
	if !ok || f.Kind != failure.Forbidden || f.Code != "AuthorizationFailure" || !strings.Contains(f.Message, "crdw") || !strings.Contains(f.Message, "part-000001") {
		t.Errorf("got %v", err)
	}
	// One that only refuses to overwrite when the object is committed is understood as well.
	s.fault = func(op, _ string) (error, bool) {
		if op == "commit" {
			return &fs.PathError{Op: op, Err: fs.ErrExist}, false
		}
		return nil, true
	}
	_, err = tryWrite(t.Context(), options(d, s), nil)
	wantCode(t, "an object that is there at the end", err, backupset.Exists)
}
