package keys

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"

	"strongroom/internal/access"
	"strongroom/internal/engine"
	"strongroom/internal/failure"
	"strongroom/internal/store"
)

// A single-key backup (docs: formats), which clients treat as opaque:
//
//	"strongroom-key-backup" ‖ version(1) ‖ domain ID(32) ‖ salt(32) ‖ body
//
// The domain ID is in the clear, so that another domain's HSM can say whose backup it is. Everything before the
// body is the associated data of the body, which the engine seals under a key of the domain's backup key and the
// salt. The body is JSON, a [backupBody]. Each version's material is besides sealed by itself, bound to name,
// version and immutable attributes, and only the engine opens it.
const (
	backupMagic   = "strongroom-key-backup"
	backupVersion = 2 // version 1 knew no oct keys, imported keys and release policies; it is read
	domainIDSize  = 32
	backupHeader  = len(backupMagic) + 1 + domainIDSize + engine.SaltSize

	// MaxBackup bounds a backup in bytes. It has room for the largest key there can be: MaxVersions versions of
	// RSA-4096, each with all the tags and the release policy it may have, written in JSON's longest form. Whoever carries backups in
	// base64 needs a third more.
	MaxBackup = 8 << 20
)

// backupBody is the plaintext of a backup. In Versions, Sealed holds the exported form of the material, and the
// public keys are left out: the importing engine computes them.
type backupBody struct {
	Name     string          `json:"name"`
	Versions []versionRecord `json:"versions"` // in order of making
}

// Backup returns a key with all its versions, attributes and tags, for HSMs of this security domain only. A
// disabled or expired key is backed up too.
func (k *Keys) Backup(ctx context.Context, caller access.Caller, name string) ([]byte, error) {
	eng, lower, err := k.enterKey(ctx, caller, access.KeyBackup, name)
	if err != nil {
		return nil, err
	}
	domain, err := k.domain()
	if err != nil {
		return nil, err
	}
	var body backupBody
	err = k.cfg.Store.View(ctx, func(r store.Reader) error {
		rec, err := k.loadKey(ctx, eng, r, lower)
		if err != nil {
			return err
		}
		if rec == nil {
			return notFound(lower)
		}
		body.Name = rec.Name
		for i := range rec.Versions {
			v, err := k.loadVersion(ctx, eng, r, lower, rec, i)
			if err != nil {
				return err
			}
			body.Versions = append(body.Versions, *v)
		}
		return nil
	})
	if err != nil {
		return nil, store.Failure(err)
	}
	salt := make([]byte, engine.SaltSize)
	if _, err := io.ReadFull(k.cfg.Rand, salt); err != nil {
		return nil, failure.Wrap(failure.Unavailable, err, "there is no randomness for a backup; try again")
	}
	for i := range body.Versions {
		v := &body.Versions[i]
		exported, err := eng.Export(ctx, v.ref(k.cfg.HSM, lower), salt, v.exportBinding(lower))
		if err != nil {
			return nil, engineFailure(err, describe(body.Name, v.ID))
		}
		v.Sealed, v.N, v.E, v.X, v.Y = exported, nil, 0, nil, nil
	}
	plain, err := json.Marshal(body)
	if err != nil {
		return nil, failure.Wrap(failure.Internal, err, "a backup cannot be encoded")
	}
	header := make([]byte, 0, backupHeader)
	header = append(header, backupMagic...)
	header = append(header, backupVersion)
	header = append(header, domain...)
	header = append(header, salt...)
	sealed, err := eng.SealBackup(ctx, salt, header, plain)
	if err != nil {
		return nil, engineFailure(err, "key "+body.Name)
	}
	blob := append(header, sealed...)
	if len(blob) > MaxBackup {
		return nil, failure.New(failure.Internal, "the backup of key %s has %d bytes, more than could be restored", body.Name, len(blob))
	}
	return blob, nil
}

// Restore brings back what Backup returned, on any HSM of the same security domain: name, versions, times,
// attributes and tags as they were, all in one transaction. It is refused with a failure.WrongDomain on an HSM of
// another domain, a failure.Conflict where a key of the name exists or is deleted, and a failure.BadParameter when the backup
// is damaged; nothing was changed then. It returns the latest version.
func (k *Keys) Restore(ctx context.Context, caller access.Caller, blob []byte) (Key, error) {
	eng, err := k.enter(ctx, caller, access.KeyRestore, access.ScopeKeys)
	if err != nil {
		return Key{}, err
	}
	here, err := k.domain()
	if err != nil {
		return Key{}, err
	}
	b, err := parseBackup(blob)
	if err != nil {
		return Key{}, err
	}
	if !bytes.Equal(b.domain, here) {
		return Key{}, failure.New(failure.WrongDomain,
			"the backup was made under security domain %x, this HSM has %x; restore it on an HSM of its own domain, or recover a new HSM with that domain's SD file first. Nothing was changed", b.domain, here)
	}
	plain, err := eng.OpenBackup(ctx, b.salt, b.header, b.sealed)
	if errors.Is(err, engine.ErrTampered) {
		return Key{}, damaged(err)
	}
	if err != nil {
		return Key{}, engineFailure(err, "the backup")
	}
	body, lower, err := parseBody(plain)
	if err != nil {
		return Key{}, err
	}
	vacant := func(r store.Reader) error { return k.vacant(ctx, eng, r, lower) }
	if err := k.cfg.Store.View(ctx, vacant); err != nil { // before the work
		return Key{}, store.Failure(err)
	}
	versions := make([]*versionRecord, len(body.Versions))
	for i := range body.Versions {
		v := &body.Versions[i]
		made, err := eng.Import(ctx, v.Sealed, b.salt, v.exportBinding(lower), v.spec(), v.binding(k.cfg.HSM, lower))
		switch {
		case errors.Is(err, engine.ErrTampered), errors.Is(err, engine.ErrSpec):
			return Key{}, damaged(err)
		case err != nil:
			return Key{}, engineFailure(err, "the backup")
		}
		v.material(made)
		versions[i] = v
	}
	err = k.cfg.Store.Update(ctx, func(w store.Writer) error {
		if err := k.cfg.Alive(w); err != nil {
			return err
		}
		if err := vacant(w); err != nil {
			return err
		}
		return k.insert(ctx, eng, w, body.Name, lower, nil, versions)
	})
	if err != nil {
		return Key{}, store.Failure(err)
	}
	return k.key(body.Name, versions[len(versions)-1]), nil
}

// domain is the domain ID as bytes.
func (k *Keys) domain() ([]byte, error) {
	text, err := k.cfg.DomainID()
	if err != nil {
		return nil, err
	}
	id, err := hex.DecodeString(text)
	if err != nil || len(id) != domainIDSize {
		return nil, failure.New(failure.Internal, "the HSM does not know the ID of its security domain")
	}
	return id, nil
}

// backup is a blob taken apart; the parts share its bytes.
type backup struct {
	domain, salt, header, sealed []byte
}

// parseBackup takes a blob apart and refuses what cannot be one, before any cryptography.
func parseBackup(blob []byte) (backup, error) {
	if len(blob) > MaxBackup {
		return backup{}, failure.New(failure.TooLarge, "a key backup has at most %d bytes, not %d", MaxBackup, len(blob))
	}
	rest, ok := bytes.CutPrefix(blob, []byte(backupMagic))
	if !ok {
		return backup{}, failure.New(failure.BadParameter, "this is not a Strongroom key backup; send the value exactly as the backup call returned it. Backups made by Azure open only in Azure")
	}
	if len(rest) > 0 && (rest[0] < 1 || rest[0] > backupVersion) {
		return backup{}, failure.New(failure.BadParameter, "the key backup has format version %d and this server reads versions 1 to %d; use a newer server", rest[0], backupVersion)
	}
	if len(blob) <= backupHeader {
		return backup{}, damaged(errors.New("it ends inside its header"))
	}
	header := blob[:backupHeader:backupHeader]
	salted := header[len(backupMagic)+1:]
	return backup{domain: salted[:domainIDSize], salt: salted[domainIDSize:], header: header, sealed: blob[backupHeader:]}, nil
}

// parseBody reads the plaintext of a backup. It was written by a server of this domain, so whatever is wrong with
// it is not the caller's doing; it is refused all the same.
func parseBody(plain []byte) (body backupBody, lower string, err error) {
	if err := strictDecode(plain, &body); err != nil {
		return body, "", damaged(err)
	}
	for _, v := range body.Versions {
		if len(v.N)+len(v.X)+len(v.Y)+v.E != 0 {
			return body, "", damaged(errors.New("a version has a public key"))
		}
	}
	lower, err = checkVersions(body.Name, body.Versions)
	return body, lower, err
}

// checkVersions refuses a key from a backup that no server of this domain can have written.
func checkVersions(name string, versions []versionRecord) (lower string, err error) {
	if lower, err = normalName(name); err != nil {
		return "", damaged(err)
	}
	if n := len(versions); n == 0 || n > MaxVersions {
		return "", damaged(errors.New("it has no version, or more than there can be"))
	}
	seen := map[string]bool{}
	for i := range versions {
		v := &versions[i]
		if !validVersion.MatchString(v.ID) || seen[v.ID] {
			return "", damaged(errors.New("a version ID is malformed or comes twice"))
		}
		seen[v.ID] = true
		if opsByType[v.Type] == nil || !v.HSM {
			return "", damaged(errors.New("a version is of a kind that this server does not make"))
		}
		for _, at := range []int64{v.Created, v.Updated} {
			if at < 0 || at > maxTime {
				return "", damaged(errors.New("a version was made at an impossible time"))
			}
		}
		if err := v.checkAttributes(v.Type); err != nil {
			return "", damaged(err)
		}
	}
	return lower, nil
}

func damaged(cause error) error {
	return failure.Wrap(failure.BadParameter, cause, "the key backup is damaged or was altered; use another copy. Nothing was changed")
}
