package backupset

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"math"
	"time"

	"strongroom/internal/statement"
	"strongroom/internal/strictjson"
)

// ManifestType is the typ of the manifest's JWS, so that no other statement of the domain can pass for one.
const ManifestType = "strongroom-backup-manifest+jws"

const manifestFormat = "strongroom-backup"

// Manifest says what a backup is and what it has: the payload of the object manifest. It has one spelling, the
// members in this order without white space.
type Manifest struct {
	Format  string `json:"format"`  // strongroom-backup
	Version int    `json:"version"` // 1
	Backup  string `json:"backup"`  // ID of the backup: 32 hexadecimal digits, random
	Domain  string `json:"domain"`  // ID of the security domain, which signs: 64 hexadecimal digits
	HSM     string `json:"hsm"`     // name
	HSMID   string `json:"hsm_id"`
	Folder  string `json:"folder"` // where it was written: an older backup does not pass for a newer one
	// Created is when the writing began, and Finished when all but this was written. UTC, whole seconds.
	Created  time.Time `json:"created"`
	Finished time.Time `json:"finished"`
	Program  string    `json:"program"` // name and version of what wrote it, for people

	Counts   map[string]int64 `json:"counts"` // records of each kind that there is
	Records  int64            `json:"records"`
	Versions int64            `json:"versions"` // of keys
	Deleted  int64            `json:"deleted"`  // records of what is deleted and not purged

	Inventory ObjectInfo   `json:"inventory"`
	Parts     []ObjectInfo `json:"parts"` // in order, at least one
}

// ObjectInfo describes an object of a backup.
type ObjectInfo struct {
	Name    string `json:"name"`
	Size    int64  `json:"size"` // bytes
	SHA256  string `json:"sha256"`
	Records int64  `json:"records"` // in a part; all of them in the inventory
}

// id is the backup ID as bytes.
func (m *Manifest) id() []byte { return unhex(m.Backup) }

// bytes of all objects but the manifest.
func (m *Manifest) bytes() int64 {
	n := m.Inventory.Size
	for _, p := range m.Parts {
		n += p.Size
	}
	return n
}

func unhex(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic("backupset: a checked ID is not hexadecimal")
	}
	return b
}

func isHex(s string, size int) bool {
	b, err := hex.DecodeString(s)
	return err == nil && len(b) == size && hex.EncodeToString(b) == s
}

// payloadLimits of the manifest's payload: what MaxParts parts take.
var payloadLimits = strictjson.Limits{Bytes: MaxManifest, Depth: 3, Elements: MaxParts, StringBytes: 512, Values: 64 + maxKinds + 5*(MaxParts+1), FoldNames: true}

// readManifest verifies the object manifest: the signature, that the domain which signed is the one that is named, and
// what is said. Its error is a *Finding.
func readManifest(jws []byte) (*Manifest, error) {
	said, err := statement.Verify(jws, ManifestType)
	if err != nil {
		return nil, manifestFinding(Forged, "does not hold: "+err.Error())
	}
	m, err := parseManifest(said.Payload)
	if err != nil {
		return nil, err
	}
	if m.Domain != said.Domain {
		return nil, manifestFinding(Forged, sprintf("does not hold: it names the security domain %s, and %s signed it", m.Domain, said.Domain))
	}
	return m, nil
}

func manifestFinding(code, reason string) *Finding { return &Finding{manifestName, code, reason} }

// parseManifest reads the payload of a manifest.
func parseManifest(payload []byte) (*Manifest, error) {
	malformed := func(reason string) error { return manifestFinding(Contradicted, "is malformed: "+reason) }
	if err := strictjson.Check(payload, payloadLimits); err != nil {
		return nil, malformed(err.Error())
	}
	// The version first: of a newer one, nothing else is known.
	var what struct {
		Format  string `json:"format"`
		Version int    `json:"version"`
	}
	if err := json.Unmarshal(payload, &what); err != nil || what.Format != manifestFormat || what.Version < 1 {
		return nil, malformed("it is not that of a backup")
	}
	if what.Version > formatVersion {
		return nil, manifestFinding(Newer, sprintf("has format version %d, and this program reads versions 1 to %d", what.Version, formatVersion))
	}
	m := new(Manifest)
	if json.Unmarshal(payload, m) != nil {
		return nil, malformed("a member is of another type")
	}
	if again, err := m.encode(); err != nil || !bytes.Equal(again, payload) {
		return nil, malformed("it is not spelled as it has to be")
	}
	if err := m.check(); err != nil {
		return nil, malformed(err.Error())
	}
	return m, nil
}

// encode is the way back.
func (m *Manifest) encode() ([]byte, error) { return oneLine(m) }

// oneLine is JSON without white space and without escapes that JSON does not need.
func oneLine(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// check refuses what no writer writes.
func (m *Manifest) check() error {
	switch {
	case !isHex(m.Backup, idSize) || !isHex(m.Domain, domainSize):
		return errors.New("an ID is none")
	case !isText(m.HSM, 1, 64) || !isText(m.HSMID, 1, 64) || !isText(m.Program, 1, 128) || checkFolder(m.Folder) != nil:
		return errors.New("a text in it is none of those that there can be")
	case m.Created.Location() != time.UTC || m.Finished.Location() != time.UTC || m.Created.Nanosecond()+m.Finished.Nanosecond() != 0 || m.Finished.Before(m.Created):
		return errors.New("its times are none")
	case m.Counts == nil || len(m.Counts) > maxKinds || m.Versions < 0 || m.Deleted < 0 || m.Deleted > m.Records || m.Versions > m.Records*MaxVersions:
		return errors.New("its counts are none")
	case len(m.Parts) == 0 || len(m.Parts) > MaxParts:
		return errors.New("it has no part, or more than there can be")
	case m.Inventory.Name != inventoryName || m.Inventory.Records != m.Records:
		return errors.New("it names no inventory")
	case m.Inventory.check(math.MaxInt64/2) != nil:
		return errors.New("its inventory is none")
	}
	var records int64
	for kind, n := range m.Counts {
		if !isKind(kind) || n < 1 || n > maxRecords {
			return errors.New("a kind of records in it is none")
		}
		records += n
	}
	for i, p := range m.Parts {
		if p.Name != partName(i+1) || p.check(maxPart) != nil || p.Records < 0 || p.Records > maxRecords || p.Records == 0 && m.Records > 0 {
			return errors.New("a part in it is none")
		}
		records -= p.Records
	}
	if records != 0 || m.Records != sum(m.Counts) {
		return errors.New("the numbers of records in it differ")
	}
	return nil
}

// maxRecords of a kind or a part keeps sums from overflowing. Their inventory would have more than ten terabytes.
const maxRecords = 1 << 40

func sum(counts map[string]int64) (n int64) {
	for _, c := range counts {
		n += c
	}
	return n
}

func (o ObjectInfo) check(most int64) error {
	if o.Size < 1 || o.Size > most || !isHex(o.SHA256, 32) {
		return errors.New("no object")
	}
	return nil
}
