package keys

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"strongroom/internal/engine"
	"strongroom/internal/failure"
	"strongroom/internal/release"
	"strongroom/internal/store/memory"
)

// The story of a lost HSM: a key with versions of every kind moves to another HSM of the domain, and old
// signatures verify there. A third HSM, of another domain, refuses and names both domains. Covers A6.
func TestBackupMovesWithinTheDomain(t *testing.T) {
	alpha := newBench(t, memory.New(), alphaID, ownDomain)
	params := []CreateParams{
		{Type: "RSA", Tags: map[string]string{"owner": "payments"}},
		{Type: "EC", Curve: engine.P521, Ops: []string{"verify", "sign"}, NotBefore: &noon, Expires: ptr(noon.AddDate(1, 0, 0))},
		{Type: "EC", Enabled: ptr(false), Ops: []string{}},
		{Type: "EC", Curve: engine.P384},
	}
	var made []Key
	for i, p := range params {
		alpha.at(noon.Add(time.Duration(i) * time.Hour))
		made = append(made, alpha.create(t, "Moving-Key", p))
	}
	signed, err := alpha.Sign(t.Context(), alice, "moving-key", made[0].Version, "PS256", digest())
	if err != nil {
		t.Fatal(err)
	}
	blob, err := alpha.Backup(t.Context(), alice, "MOVING-KEY")
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{"Moving-Key", "payments", made[0].Version, string(made[0].Public.N.Bytes()[:16])} {
		if bytes.Contains(blob, []byte(secret)) {
			t.Errorf("the backup shows %q", secret)
		}
	}

	beta := newBench(t, alpha.store, betaID, ownDomain) // even in the same database
	beta.at(noon.AddDate(0, 1, 0))
	latest, err := beta.Restore(t.Context(), alice, blob)
	if diff := cmp.Diff(made[3], latest, sameKeys); err != nil || diff != "" {
		t.Fatalf("restore (%v): %s", err, diff)
	}
	for _, want := range made {
		got, err := beta.Get(t.Context(), alice, "moving-key", want.Version)
		if diff := cmp.Diff(want, got, sameKeys); err != nil || diff != "" {
			t.Errorf("version %s changed on the way (%v): %s", want.Version, err, diff)
		}
	}
	if ok, err := beta.Verify(t.Context(), alice, "Moving-Key", made[0].Version, "PS256", digest(), signed.Signature); err != nil || !ok {
		t.Errorf("the old signature on the new HSM: %t, %v", ok, err)
	}
	if again, err := beta.Sign(t.Context(), alice, "Moving-Key", "", "ES384", make([]byte, 48)); err != nil || again.Version != made[3].Version {
		t.Errorf("sign on the new HSM: %v", err)
	}
	if next := beta.create(t, "moving-key", CreateParams{}); next.Name != "Moving-Key" {
		t.Errorf("the name came back as %s", next.Name)
	}

	foreign := newBench(t, memory.New(), betaID, otherDomain)
	unchanged(t, foreign.store, func() {
		_, err := foreign.Restore(t.Context(), alice, blob)
		f := wantKind(t, err, failure.WrongDomain)
		if !strings.Contains(f.Message, ownDomain) || !strings.Contains(f.Message, otherDomain) {
			t.Errorf("the message does not name both domains: %s", f.Message)
		}
	})
	// Relabelling the backup does not help: the domain ID is bound to the body.
	relabelled := slices.Clone(blob)
	copy(relabelled[len(backupMagic)+1:], bytes.Repeat([]byte{0xf0}, domainIDSize))
	unchanged(t, foreign.store, func() {
		_, err := foreign.Restore(t.Context(), alice, relabelled)
		wantKind(t, err, failure.BadParameter)
	})
}

func TestRestoreConflicts(t *testing.T) {
	b := newBench(t, memory.New(), alphaID, ownDomain)
	b.create(t, "My-Key", CreateParams{})
	blob, err := b.Backup(t.Context(), alice, "my-key")
	if err != nil {
		t.Fatal(err)
	}
	other := newBench(t, memory.New(), betaID, ownDomain)
	other.create(t, "MY-KEY", CreateParams{}) // in another case, with other versions
	for _, target := range []*bench{b, other} {
		unchanged(t, target.store, func() {
			_, err := target.Restore(t.Context(), alice, blob)
			if f := wantKind(t, err, failure.Conflict); f.Code != "Conflict" {
				t.Errorf("the code is %q", f.Code)
			}
		})
	}
}

// Covers B1 for single keys: no byte of a backup can change, none can be missing and none be added.
func TestDamagedBackups(t *testing.T) {
	b := newBench(t, memory.New(), alphaID, ownDomain)
	b.create(t, "k", CreateParams{})
	b.create(t, "k", CreateParams{})
	blob, err := b.Backup(t.Context(), alice, "k")
	if err != nil {
		t.Fatal(err)
	}
	second, err := b.Backup(t.Context(), alice, "k")
	if err != nil {
		t.Fatal(err)
	}
	target := newBench(t, memory.New(), betaID, ownDomain)
	refuses := func(what string, blob []byte, kinds ...failure.Kind) {
		t.Helper()
		if key, err := target.Restore(t.Context(), alice, blob); !slices.Contains(kinds, failure.KindOf(err)) || key.Name != "" {
			t.Errorf("%s: got %v, want one of %v", what, err, kinds)
		}
	}
	unchanged(t, target.store, func() {
		for i := range blob {
			kind := failure.BadParameter
			if at := i - len(backupMagic) - 1; at >= 0 && at < domainIDSize {
				kind = failure.WrongDomain
			}
			damaged := slices.Clone(blob)
			damaged[i] ^= 1
			refuses(fmt.Sprintf("byte %d flipped", i), damaged, kind)
			refuses(fmt.Sprintf("cut to %d bytes", i), blob[:i], failure.BadParameter)
		}
		refuses("a byte more", append(slices.Clone(blob), 0), failure.BadParameter)
		refuses("twice in a row", append(slices.Clone(blob), blob...), failure.BadParameter)
		refuses("header of another backup", append(slices.Clone(second[:backupHeader]), blob[backupHeader:]...), failure.BadParameter)
		refuses("nothing", nil, failure.BadParameter)
		refuses("JSON", []byte(`{"value":"x"}`), failure.BadParameter)
		refuses("too large", append(slices.Clone(blob), make([]byte, MaxBackup)...), failure.TooLarge)
	})
	future := slices.Clone(blob)
	future[len(backupMagic)] = 3
	_, err = target.Restore(t.Context(), alice, future)
	if f := wantKind(t, err, failure.BadParameter); !strings.Contains(f.Message, "version 3") {
		t.Errorf("a backup of a later version: %s", f.Message)
	}
	if _, err := target.Restore(t.Context(), alice, blob); err != nil {
		t.Errorf("the undamaged backup: %v", err)
	}
}

// A body that is properly sealed and still wrong, as a faulty or hostile server of the domain could write it.
func TestRestoreChecksTheBody(t *testing.T) {
	b := newBench(t, memory.New(), alphaID, ownDomain)
	b.create(t, "k", CreateParams{})
	blob, err := b.Backup(t.Context(), alice, "k")
	if err != nil {
		t.Fatal(err)
	}
	parts, err := parseBackup(blob)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := b.engine.OpenBackup(t.Context(), parts.salt, parts.header, parts.sealed)
	if err != nil {
		t.Fatal(err)
	}
	target := newBench(t, memory.New(), betaID, ownDomain)
	// Well-formed, and not what was exported: only the engine can tell.
	byEngine := []string{"another name", "another version ID", "another type", "another curve", "no material", "altered material"}
	for name, change := range map[string]func(*backupBody){
		"no name":            func(b *backupBody) { b.Name = "" },
		"a path for a name":  func(b *backupBody) { b.Name = "../x" },
		"another name":       func(b *backupBody) { b.Name = "other" },
		"no versions":        func(b *backupBody) { b.Versions = nil },
		"a version twice":    func(b *backupBody) { b.Versions = append(b.Versions, b.Versions[0]) },
		"101 versions":       func(b *backupBody) { b.Versions = slices.Repeat(b.Versions, 101) },
		"a version's ID":     func(b *backupBody) { b.Versions[0].ID = strings.Repeat("A", 32) },
		"another version ID": func(b *backupBody) { b.Versions[0].ID = strings.Repeat("a", 32) },
		"unknown type":       func(b *backupBody) { b.Versions[0].Type = "RSA" },
		"another type": func(b *backupBody) {
			b.Versions[0].Type, b.Versions[0].Bits, b.Versions[0].Curve = engine.RSA, 2048, ""
		},
		"another curve":    func(b *backupBody) { b.Versions[0].Curve = engine.P384 },
		"exportable":       func(b *backupBody) { b.Versions[0].Exportable = true },
		"not of an HSM":    func(b *backupBody) { b.Versions[0].HSM = false },
		"a public key":     func(b *backupBody) { b.Versions[0].X = []byte{1} },
		"operations":       func(b *backupBody) { b.Versions[0].Ops = []string{"decrypt"} },
		"times":            func(b *backupBody) { b.Versions[0].Created = -1 },
		"window":           func(b *backupBody) { b.Versions[0].NotBefore, b.Versions[0].Expires = ptr(int64(5)), ptr(int64(5)) },
		"tags":             func(b *backupBody) { b.Versions[0].Tags = map[string]string{strings.Repeat("x", 300): ""} },
		"no material":      func(b *backupBody) { b.Versions[0].Sealed = nil },
		"altered material": func(b *backupBody) { b.Versions[0].Sealed[20] ^= 1 },
	} {
		var body backupBody
		if err := json.Unmarshal(plain, &body); err != nil {
			t.Fatal(err)
		}
		change(&body)
		altered, err := json.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := parseBody(altered); (err == nil) != slices.Contains(byEngine, name) {
			t.Errorf("%s: parsing gives %v", name, err)
		}
		sealed, err := b.engine.SealBackup(t.Context(), parts.salt, parts.header, altered)
		if err != nil {
			t.Fatal(err)
		}
		unchanged(t, target.store, func() {
			_, err := target.Restore(t.Context(), alice, append(slices.Clone(parts.header), sealed...))
			if failure.KindOf(err) != failure.BadParameter {
				t.Errorf("%s: got %v, want %v", name, err, failure.BadParameter)
			}
		})
	}
	for name, altered := range map[string][]byte{
		"not JSON":           []byte("{"),
		"a member too many":  bytes.Replace(plain, []byte(`{"name"`), []byte(`{"more":1,"name"`), 1),
		"something after it": append(slices.Clone(plain), '1'),
	} {
		if _, _, err := parseBody(altered); failure.KindOf(err) != failure.BadParameter {
			t.Errorf("%s: got %v, want %v", name, err, failure.BadParameter)
		}
	}
}

// The largest key there can be still makes a backup that restore takes.
func TestLargestBackupFits(t *testing.T) {
	tags := map[string]string{}
	for i := range maxTags {
		// A control character takes six bytes in JSON, more than any other character.
		name := []rune(strings.Repeat("\x01", maxTagChars))
		name[0] = rune('a' + i)
		tags[string(name)] = strings.Repeat("\x01", maxTagChars)
	}
	body := backupBody{Name: strings.Repeat("n", 127)}
	for range MaxVersions {
		body.Versions = append(body.Versions, versionRecord{
			ID: strings.Repeat("0", 32), Created: maxTime, Updated: maxTime, Enabled: true, NotBefore: ptr[int64](maxTime - 1), Expires: ptr[int64](maxTime),
			Ops: opsByType[engine.RSA], Tags: tags, Type: engine.RSA, Bits: 4096, HSM: true, Sealed: make([]byte, 2600),
			Exportable: true, Release: &releasePolicy{ContentType: defaultPolicyType, Data: anyPolicy().Data, Immutable: true},
		})
		v := &body.Versions[len(body.Versions)-1]
		v.Release.Data = append(v.Release.Data, bytes.Repeat([]byte(" "), release.MaxPolicy-len(v.Release.Data))...)
	}
	if err := body.Versions[0].checkAttributes(engine.RSA); err != nil {
		t.Fatalf("the largest attributes are refused: %v", err)
	}
	plain, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	if size := backupHeader + 29 + len(plain); size > MaxBackup {
		t.Errorf("the largest backup has %d bytes, more than %d", size, MaxBackup)
	} else {
		t.Logf("the largest backup has %d of %d bytes", size, MaxBackup)
	}
}

func TestDomainIDIsChecked(t *testing.T) {
	for _, id := range []string{"", "0d", strings.Repeat("zz", 32), strings.Repeat("0d", 33)} {
		b := newBench(t, memory.New(), alphaID, ownDomain)
		b.create(t, "k", CreateParams{})
		b.Keys.cfg.DomainID = func() (string, error) { return id, nil }
		_, backup := b.Backup(t.Context(), alice, "k")
		_, restore := b.Restore(t.Context(), alice, nil)
		for _, err := range []error{backup, restore} {
			wantKind(t, err, failure.Internal)
		}
	}
}

// Version 1 of backups and records is read for ever. testdata/README.md says what the files are.
func TestVersion1StaysReadable(t *testing.T) {
	blob, err := os.ReadFile("testdata/backup-v1.bin")
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile("testdata/records-v1.json")
	if err != nil {
		t.Fatal(err)
	}
	var records map[string]string
	if err := json.Unmarshal(data, &records); err != nil || len(records) != 4 {
		t.Fatalf("%d golden records, %v; want 4", len(records), err)
	}
	old := newBench(t, memory.New(), alphaID, ownDomain)
	overwrite(t, old.store, records)
	restored := newBench(t, memory.New(), betaID, ownDomain)
	if _, err := restored.Restore(t.Context(), alice, blob); err != nil {
		t.Fatalf("the golden backup: %v", err)
	}
	items, err := old.everyVersion(t, "golden-key")
	if err != nil || len(items) != 2 {
		t.Fatalf("the golden records: %d versions, %v", len(items), err)
	}
	for _, item := range items {
		want, err := old.Get(t.Context(), alice, "golden-key", item.Version)
		if err != nil || want.Name != "Golden-Key" || want.Tags["kept"] != "for ever" {
			t.Fatalf("the golden records: %+v, %v", want, err)
		}
		got, err := restored.Get(t.Context(), alice, "golden-key", item.Version)
		if diff := cmp.Diff(want, got, sameKeys); err != nil || diff != "" {
			t.Errorf("records and backup differ (%v): %s", err, diff)
		}
	}
	signed, err := old.Sign(t.Context(), alice, "golden-key", "", "ES256", digest())
	if err != nil {
		t.Fatal(err)
	}
	if ok, err := restored.Verify(t.Context(), alice, "golden-key", "", "ES256", digest(), signed.Signature); err != nil || !ok {
		t.Errorf("the two do not hold the same key: %t, %v", ok, err)
	}
}

// Version 2 of records, with deleted keys and policies, is read for ever too, and so is a key whose record has one
// version and whose versions' records have the other: the golden one of version 1 was changed by version 2.
func TestVersion2StaysReadable(t *testing.T) {
	data, err := os.ReadFile("testdata/records-v2.json")
	if err != nil {
		t.Fatal(err)
	}
	var records map[string]string
	if err := json.Unmarshal(data, &records); err != nil || len(records) != 9 {
		t.Fatalf("%d golden records, %v; want 9", len(records), err)
	}
	b := newBench(t, memory.New(), alphaID, ownDomain)
	overwrite(t, b.store, records)
	items, err := b.everyVersion(t, "golden-key")
	if err != nil || len(items) != 2 || items[0].Tags["kept"] != "for ever" || items[1].Enabled {
		t.Errorf("the golden key: %+v, %v", items, err)
	}
	if p, err := b.GetRotationPolicy(t.Context(), alice, "golden-key"); err != nil || p.ExpiryTime != "P90D" || p.TimeBeforeExpiry != "P30D" || !p.Created.Equal(noon) {
		t.Errorf("its policy: %+v, %v", p, err)
	}
	if signed, err := b.Sign(t.Context(), alice, "golden-key", items[0].Version, "PS256", digest()); err != nil || len(signed.Signature) != 256 {
		t.Errorf("its first version does not sign: %v", err)
	}
	gone, err := b.GetDeleted(t.Context(), alice, "deleted-key")
	if err != nil || gone.Name != "Deleted-Key" || !gone.DeletedAt.Equal(noon) || !gone.PurgeAt.Equal(noon.AddDate(0, 0, 90)) {
		t.Errorf("the deleted key: %+v, %v", gone, err)
	}
	if _, err := b.Recover(t.Context(), alice, "deleted-key"); err != nil {
		t.Error(err)
	}
	if p, err := b.GetRotationPolicy(t.Context(), alice, "deleted-key"); err != nil || p.TimeAfterCreate != "P28D" {
		t.Errorf("its policy: %+v, %v", p, err)
	}
	if _, err := b.Sign(t.Context(), alice, "deleted-key", "", "ES256", digest()); err != nil {
		t.Errorf("it does not sign: %v", err)
	}
}

// Version 3 of records and version 2 of backups, with oct, imported and exportable keys, are read for ever too.
func TestVersion3StaysReadable(t *testing.T) {
	data, err := os.ReadFile("testdata/records-v3.json")
	if err != nil {
		t.Fatal(err)
	}
	var records map[string]string
	if err := json.Unmarshal(data, &records); err != nil || len(records) != 10 {
		t.Fatalf("%d golden records, %v; want 10", len(records), err)
	}
	b, other := newBench(t, memory.New(), alphaID, ownDomain), newBench(t, memory.New(), betaID, ownDomain)
	overwrite(t, b.store, records)
	for name, file := range map[string]string{"golden-oct": "backup-v2.bin", "golden-leaver": "backup-v2-exportable.bin"} {
		blob, err := os.ReadFile("testdata/" + file)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := other.Restore(t.Context(), alice, blob); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		items, err := b.everyVersion(t, name)
		if err != nil {
			t.Fatal(err)
		}
		for _, item := range items {
			want, err := b.Get(t.Context(), alice, name, item.Version)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			got, err := other.Get(t.Context(), alice, name, item.Version)
			if diff := cmp.Diff(want, got, sameKeys); err != nil || diff != "" {
				t.Errorf("%s: records and backup differ (%v): %s", name, err, diff)
			}
		}
	}
	items, err := b.everyVersion(t, "golden-oct")
	if err != nil || len(items) != 2 || items[0].Tags["kept"] != "for ever" {
		t.Fatalf("golden-oct: %+v, %v", items, err)
	}
	h := hmac.New(sha256.New, []byte("0123456789abcdef"))
	h.Write(digest())
	if signed, err := b.Sign(t.Context(), alice, "golden-oct", items[0].Version, "HS256", digest()); err != nil || !bytes.Equal(signed.Signature, h.Sum(nil)) {
		t.Errorf("golden-oct holds another key than was imported, or %v", err)
	}
	leaver, err := b.Get(t.Context(), alice, "golden-leaver", "")
	if err != nil || !leaver.Exportable || !leaver.ReleasePolicy.Immutable || !bytes.Equal(leaver.ReleasePolicy.Data, anyPolicy().Data) || leaver.Public.Curve != engine.P256K {
		t.Errorf("golden-leaver: %+v, %v", leaver, err)
	}
	if _, err := b.Recover(t.Context(), alice, "deleted-rsa"); err != nil {
		t.Error(err)
	}
	if key, err := b.Get(t.Context(), alice, "deleted-rsa", ""); err != nil || key.Public.E != 65539 {
		t.Errorf("deleted-rsa: %+v, %v", key, err)
	}
}

// FuzzParseBackup feeds blobs from outside. What parses is a header of fixed length and a body, and put together
// again is the blob.
func FuzzParseBackup(f *testing.F) {
	golden, err := os.ReadFile("testdata/backup-v1.bin")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(golden)
	f.Add(golden[:backupHeader])
	f.Add(golden[:backupHeader+1])
	f.Add([]byte(backupMagic))
	f.Add([]byte(backupMagic + "\x02"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, blob []byte) {
		b, err := parseBackup(blob)
		if err != nil {
			if !errors.Is(err, failure.BadParameter) && !errors.Is(err, failure.TooLarge) {
				t.Errorf("got kind %s", failure.KindOf(err))
			}
			return
		}
		if len(b.domain) != domainIDSize || len(b.salt) != engine.SaltSize || len(b.header) != backupHeader || len(b.sealed) == 0 {
			t.Errorf("parts of %d, %d, %d and %d bytes", len(b.domain), len(b.salt), len(b.header), len(b.sealed))
		}
		if !bytes.Equal(slices.Concat(b.header, b.sealed), blob) {
			t.Error("the parts are not the blob")
		}
	})
}

// FuzzParseBody feeds plaintexts of backups. What parses obeys every bound, and written again reads the same.
func FuzzParseBody(f *testing.F) {
	f.Add([]byte(`{"name":"k","versions":[{"id":"00000000000000000000000000000000","created":1,"updated":1,"enabled":true,"key_ops":["sign"],"kty":"EC-HSM","crv":"P-256","exportable":false,"hsm":true,"sealed":"AA=="}]}`))
	f.Add([]byte(`{"name":"k","versions":[{"id":"00000000000000000000000000000000","created":1,"updated":1,"enabled":false,"nbf":1,"exp":2,"key_ops":["import"],"tags":{"a":"b"},"kty":"RSA-HSM","bits":2048,"exportable":false,"hsm":true,"sealed":"AA=="}]}`))
	f.Add([]byte(`{"name":"k","versions":[{"id":"00000000000000000000000000000000","created":1,"updated":1,"enabled":true,"key_ops":["sign","export"],"release_policy":{"content_type":"application/json","data":"e30="},"imported":true,"kty":"oct-HSM","bits":128,"exportable":true,"hsm":true,"sealed":"AA=="}]}`))
	f.Add([]byte(`{"name":"k","versions":[]}`))
	f.Add([]byte(`[[[[`))
	f.Fuzz(func(t *testing.T, plain []byte) {
		body, lower, err := parseBody(plain)
		if err != nil {
			if failure.KindOf(err) != failure.BadParameter {
				t.Errorf("got kind %s", failure.KindOf(err))
			}
			return
		}
		if name, err := normalName(body.Name); err != nil || name != lower || len(body.Versions) == 0 || len(body.Versions) > MaxVersions {
			t.Errorf("it parsed and breaks a bound: %v", err)
		}
		again, err := json.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		second, _, err := parseBody(again)
		if diff := cmp.Diff(body, second, cmpEmpty, cmp.AllowUnexported(versionRecord{})); err != nil || diff != "" {
			t.Errorf("written again it differs (%v): %s", err, diff)
		}
	})
}

// cmpEmpty takes empty and missing lists and maps for the same, as the JSON does.
var cmpEmpty = cmp.Options{
	cmp.FilterValues(func(a, b []byte) bool { return len(a)+len(b) == 0 }, cmp.Ignore()),
	cmp.FilterValues(func(a, b map[string]string) bool { return len(a)+len(b) == 0 }, cmp.Ignore()),
}
