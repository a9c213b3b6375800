package backupset_test

import (
	"bytes"
	"compress/flate"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdsa"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"strongroom/internal/backupset"
)

const (
	goldenDir    = "testdata/v1"
	goldenFolder = "mhsm-golden-2026112508530512"
)

// goldenRecords are in the golden backup.
func goldenRecords() []backupset.Record {
	version := func(id, kty string, bits int, crv string, enabled bool, check string) backupset.Version {
		return backupset.Version{ID: strings.Repeat(id, 32), Type: kty, Bits: bits, Curve: crv, Enabled: enabled, Check: check}
	}
	record := func(kind, name, body string, deleted bool, versions ...backupset.Version) backupset.Record {
		return backupset.Record{Item: backupset.Item{Kind: kind, Name: name, Deleted: deleted, Versions: versions}, Body: []byte(body)}
	}
	return []backupset.Record{
		record("settings", "settings", `{"v":1}`, false),
		record("key", "Invoices", "the body of Invoices", false, version("0", "RSA-HSM", 2048, "", false, "one"), version("1", "EC-HSM", 0, "P-256K", true, "two")),
		record("key", "tokens", "", false, version("2", "oct-HSM", 256, "", true, "")),
		record("deleted-key", "Old", strings.Repeat("old ", 500), true, version("3", "EC-HSM", 0, "P-521", true, "<&>")),
		record("role-definition", "00000000-0000-4000-8000-000000000000", "{}", false),
		record("role-assignment", "11111111-1111-4111-8111-111111111111", "\x00\xff", false),
	}
}

// writeGolden wrote the golden backup once, and writes one like it in each run.
func writeGolden(t testing.TB, dir string) backupset.Manifest {
	t.Helper()
	o := options(newDomain(t, "golden"), disk(dir))
	o.Folder, o.HSM, o.HSMID, o.PartBytes = goldenFolder, "golden", "22222222-2222-4222-8222-222222222222", 1
	return write(t, o, goldenRecords())
}

// A backup that was made when the format was new opens for ever, and says what one that is made today says.
func TestGoldenBackup(t *testing.T) {
	d := newDomain(t, "golden")
	b, err := backupset.Open(t.Context(), disk(goldenDir), goldenFolder)
	if err != nil {
		t.Fatal(err)
	}
	if r, err := b.Verify(t.Context(), nil); err != nil || r.Err() != nil || len(r.Foreign) != 0 {
		t.Errorf("got %+v, %v", r, err)
	}
	got, err := all(t.Context(), d, b)
	if err != nil {
		t.Fatal(err)
	}
	sameRecords(t, got, goldenRecords())
	was, is := b.Manifest(), writeGolden(t, t.TempDir())
	for _, m := range []*backupset.Manifest{&was, &is} {
		m.Backup = "" // random, and so are the salts
		for i := range m.Parts {
			m.Parts[i].SHA256 = ""
		}
		m.Inventory.SHA256 = "" // it names the backup
	}
	one, err := json.Marshal(was)
	if err != nil {
		t.Fatal(err)
	}
	if two, err := json.Marshal(is); err != nil || string(one) != string(two) {
		t.Errorf("the manifest says\n%s, and one of today\n%s", one, two)
	}
}

// The page docs/formats.md is enough to read a backup: this reader has nothing of the package, and follows it line by
// line. It also reads what is written today.
func TestGoldenBackupByTheBook(t *testing.T) {
	for name, dir := range map[string]string{"golden": goldenDir, "of today": t.TempDir()} {
		if name != "golden" {
			writeGolden(t, dir)
		}
		t.Run(name, func(t *testing.T) { readByTheBook(t, filepath.Join(dir, goldenFolder)) })
	}
}

func readByTheBook(t *testing.T, dir string) {
	file := func(name string) []byte {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	must := func(ok bool, format string, args ...any) {
		if t.Helper(); !ok {
			t.Fatalf(format, args...)
		}
	}
	unbase := func(s string) []byte {
		b, err := base64.RawURLEncoding.DecodeString(s)
		must(err == nil, "base64url: %v", err)
		return b
	}
	backupKey := sha256.Sum256([]byte("strongroom test backup key golden"))

	// The manifest.
	jws := strings.Split(string(file("manifest")), ".")
	must(len(jws) == 3, "the JWS has %d parts", len(jws))
	var head struct {
		Alg, Typ string
		X5c      [][]byte
	}
	must(json.Unmarshal(unbase(jws[0]), &head) == nil && head.Alg == "ES384" && head.Typ == "strongroom-backup-manifest+jws" && len(head.X5c) == 1, "the header is %+v", head)
	cert, err := x509.ParseCertificate(head.X5c[0])
	must(err == nil, "the certificate: %v", err)
	digest, signature := sha512.Sum384([]byte(jws[0]+"."+jws[1])), unbase(jws[2])
	must(len(signature) == 96 && ecdsa.Verify(cert.PublicKey.(*ecdsa.PublicKey), digest[:], new(big.Int).SetBytes(signature[:48]), new(big.Int).SetBytes(signature[48:])), "the signature does not hold")
	type object struct {
		Name, SHA256 string
		Size         int
		Records      int
	}
	var m struct {
		Format    string
		Version   int
		Backup    string
		Domain    string
		Folder    string
		Records   int
		Inventory object
		Parts     []object
	}
	must(json.Unmarshal(unbase(jws[1]), &m) == nil, "the payload is not read")
	spki := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	must(m.Format == "strongroom-backup" && m.Version == 1 && m.Domain == hex.EncodeToString(spki[:]) && m.Folder == filepath.Base(dir), "the payload is %+v", m)
	checked := func(o object) []byte {
		b := file(o.Name)
		sum := sha256.Sum256(b)
		must(len(b) == o.Size && hex.EncodeToString(sum[:]) == o.SHA256, "%s is another one", o.Name)
		return b
	}

	// The inventory.
	lines := strings.Split(string(checked(m.Inventory)), "\n")
	must(len(lines) == m.Records+2 && lines[m.Records+1] == "" && lines[0] == `{"format":"strongroom-backup-inventory","version":1,"backup":"`+m.Backup+`"}`, "the inventory has %d lines, and begins with %s", len(lines), lines[0])

	// The parts.
	var got []string
	for i, o := range m.Parts {
		part := checked(o)
		header, rest := part[:107], part[107:]
		domainID, backupID := unhex(t, m.Domain), unhex(t, m.Backup)
		want := fmt.Sprintf("strongroom-backup-part\x01%s%s%s", domainID, backupID, binary.BigEndian.AppendUint32(nil, uint32(i+1)))
		must(string(header[:75]) == want, "the header of part %d is %q", i+1, header)
		key, err := hkdf.Key(sha256.New, backupKey[:], header[75:], "strongroom/engine/backup/v1", 32)
		must(err == nil, "HKDF: %v", err)
		block, err := aes.NewCipher(key)
		must(err == nil, "AES: %v", err)
		gcm, err := cipher.NewGCM(block)
		must(err == nil, "GCM: %v", err)
		var stream []byte
		mark := byte(0)
		for number := uint32(0); mark == 0; number++ {
			n := binary.BigEndian.Uint32(rest[1:])
			mark = rest[0]
			sealed := rest[5 : 5+n]
			rest = rest[5+n:]
			associated := append([]byte("strongroom/engine/backup/v1\x00\x01"), header...)
			associated = append(binary.BigEndian.AppendUint32(associated, number), mark)
			must(sealed[0] == 1, "a sealed form begins with %d", sealed[0])
			plain, err := gcm.Open(nil, sealed[1:13], sealed[13:], associated)
			must(err == nil, "chunk %d of part %d: %v", number, i+1, err)
			stream = append(stream, plain...)
		}
		must(len(rest) == 0 && (mark == 2) == (i == len(m.Parts)-1), "part %d ends with mark %d and %d bytes more", i+1, mark, len(rest))
		records, err := io.ReadAll(flate.NewReader(bytes.NewReader(stream)))
		must(err == nil, "DEFLATE: %v", err)
		for n := 0; len(records) > 0; n++ {
			must(n < o.Records, "part %d has more than %d records", i+1, o.Records)
			kind := string(records[1 : 1+records[0]])
			records = records[1+records[0]:]
			size := binary.BigEndian.Uint16(records)
			name := string(records[2 : 2+size])
			records = records[2+size:]
			length := binary.BigEndian.Uint32(records)
			body := string(records[4 : 4+length])
			records = records[4+length:]
			must(strings.HasPrefix(lines[1+len(got)], fmt.Sprintf(`{"kind":"%s","name":"%s"`, kind, name)), "line %d of the inventory is %s", len(got)+2, lines[1+len(got)])
			got = append(got, kind+"/"+name+"/"+body)
		}
	}
	var want []string
	for _, r := range goldenRecords() {
		want = append(want, r.Kind+"/"+r.Name+"/"+string(r.Body))
	}
	must(strings.Join(got, "\n") == strings.Join(want, "\n"), "got %q, want %q", got, want)
	must(lines[2] == `{"kind":"key","name":"Invoices","versions":[{"id":"00000000000000000000000000000000","kty":"RSA-HSM","bits":2048,"enabled":false,"check":"one"},{"id":"11111111111111111111111111111111","kty":"EC-HSM","crv":"P-256K","enabled":true,"check":"two"}]}`, "line 3 of the inventory is %s", lines[2])
	must(strings.Contains(lines[4], `"deleted":true`) && strings.Contains(lines[4], `"check":"<&>"`), "line 5 of the inventory is %s", lines[4])
}

func unhex(t testing.TB, s string) string {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
