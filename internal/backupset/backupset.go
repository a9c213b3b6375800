// Package backupset is the form of a full backup of one HSM (docs: formats): writing it, reading it, and verifying it
// offline. What is in it are records that mean nothing here: a kind, a name, and a body of bytes.
//
// A backup is a folder of objects in some [Storage], each written once:
//
//	part-000001 …   the records, compressed, then sealed in chunks under a key of the domain's backup key
//	inventory       in the clear: a line of JSON for each record, without secrets
//	manifest        last: what else is there, with sizes and hashes, signed by the domain's signing key
//
// A folder without a manifest is an unfinished backup. Everything streams: neither direction holds more than a few
// chunks and one record. Everything that is read is bounded, whoever wrote it.
// Compression goes before encryption, so sizes tell a little of the bodies: what is secret in a body is sealed in itself, as keys
// are, before it comes here.
//
// What a reader may rely on, and when:
//
//   - [Open]: the manifest is signed by the domain that it names, and this is the backup of that folder.
//   - [Backup.Verify]: without any key of the domain, every object is the one that the manifest means.
//   - [Backup.Records]: with the domain's engine, each record is whole, in its place and of this backup (threat B1). That
//     none is missing is known when the sequence has ended without an error, and not before.
//
// Files: storage.go, errors.go, manifest.go, inventory.go, part.go (the forms), writer.go, reader.go, verify.go.
package backupset

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"time"
)

// formatVersion is what is written. Versions from 1 up to it are read.
const formatVersion = 1

// Bounds. A backup that would pass one cannot be written, so none that was written is refused for its size.
const (
	// MaxBody is in bytes, of one record: as much as the largest key with all its versions takes.
	MaxBody = 8 << 20
	// MaxName is in bytes, of the name of a record.
	MaxName = 256
	// MaxVersions is how many versions a key may have in the inventory.
	MaxVersions = 256
	// MaxParts is how many parts a backup has: more than a terabyte. A manifest names each of them in some 120 bytes.
	MaxParts = 20_000
	// MaxManifest is in bytes, of the manifest as it is stored.
	MaxManifest = 4 << 20

	partBytes = 64 << 20 // a part that has as many is ended before the next record
	maxPart   = 80 << 20 // and has at most one record more than that
	maxKind   = 32
	maxKinds  = 64 // kinds of records in one backup
)

// Sizes in bytes.
const (
	idSize     = 16 // of a backup ID: random
	domainSize = 32 // of a domain ID: SHA-256 of the signing key's SubjectPublicKeyInfo
)

// Names of objects in a folder, beside the parts.
const (
	// ManifestName is the object without which a backup is unfinished.
	ManifestName  = "manifest"
	manifestName  = ManifestName
	inventoryName = "inventory"
)

func partName(number int) string { return fmt.Sprintf("part-%06d", number) }

// Sealer seals the chunks of a backup; an engine.Engine is one. Each part has a salt of its own.
type Sealer interface {
	SealBackup(ctx context.Context, salt, header, plaintext []byte) ([]byte, error)
}

// Opener opens what a [Sealer] of the same domain sealed; an engine.Engine is one. What does not open is
// engine.ErrTampered.
type Opener interface {
	OpenBackup(ctx context.Context, salt, header, sealed []byte) ([]byte, error)
}

// Record is one thing in a backup.
type Record struct {
	Item
	Body []byte // at most MaxBody; may be empty
}

// Progress is how far a backup is written, verified or read.
type Progress struct {
	Parts   int   // begun
	Records int64 // of the parts or, while a backup is verified, of its inventory
	Bytes   int64 // of objects, as they are stored
	Of      int64 // Bytes at the end; 0 while a backup is written
}

// FolderName is the folder of a backup that begins at a time: mhsm-{hsm}- and 16 digits, the time in UTC down to
// hundredths of a second. Azure documents 14 digits, and its services write 16.
func FolderName(hsm string, at time.Time) string {
	at = at.UTC()
	return fmt.Sprintf("mhsm-%s-%s%02d", hsm, at.Format("20060102150405"), at.Nanosecond()/int(10*time.Millisecond))
}

var folderForm = regexp.MustCompile(`^mhsm-([0-9A-Za-z](?:[0-9A-Za-z-]{0,62}))-([0-9]{14})([0-9]{2})$`)

// ParseFolder takes the name of a backup's folder apart, for lists of backups. ok is false for every other name.
func ParseFolder(name string) (hsm string, at time.Time, ok bool) {
	m := folderForm.FindStringSubmatch(name)
	if m == nil {
		return "", time.Time{}, false
	}
	at, err := time.Parse("20060102150405.00", m[2]+"."+m[3])
	if err != nil {
		return "", time.Time{}, false
	}
	return m[1], at, true
}

// checkFolder refuses names that could be a path to somewhere else.
func checkFolder(name string) error {
	if !isText(name, 1, 128) || strings.ContainsAny(name, "/:*?<>|%") || name[0] == '.' {
		return fmt.Errorf("%.140q is no name of a backup's folder", name)
	}
	return nil
}

// isText reports whether s has least to most bytes of printable ASCII without space, quote and backslash: so it has one
// spelling in JSON, and can be shown anywhere.
func isText(s string, least, most int) bool {
	if len(s) < least || len(s) > most {
		return false
	}
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c > '~' || c == '"' || c == '\\' {
			return false
		}
	}
	return true
}
