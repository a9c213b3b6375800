package keys

import (
	"context"
	"time"

	"strongroom/internal/access"
	"strongroom/internal/engine"
	"strongroom/internal/failure"
	"strongroom/internal/store"
)

// A deleted key is its record moved to another path, with nothing else changed: see record.go. So what looks for a
// key does not find it, by whatever version, and no check can be forgotten (K11); and whoever can write to the
// database cannot bring a deleted key back, or make one deleted, by replaying one record: the other place would
// have one too.

// DeletedKey is a key that can be recovered until it is purged. The Key in it is the latest version.
type DeletedKey struct {
	Key
	DeletedAt time.Time
	// PurgeAt is when the key is due to be purged by itself: never before, and later if the server was not running
	// all the time.
	PurgeAt time.Time
}

// deletion is the part of a key's record that a deleted key has.
type deletion struct {
	At    int64 `json:"at"`    // Unix seconds
	Purge int64 `json:"purge"` // Unix seconds
	// Served is for how many seconds the HSM had been served when the key was deleted: see [Keys.served].
	Served int64 `json:"served"`
}

// Delete takes a key with all its versions out of use, until it is recovered or purged. From the moment when it
// returns, no version can be used or read, and the name cannot be taken.
func (k *Keys) Delete(ctx context.Context, caller access.Caller, name string) (DeletedKey, error) {
	eng, lower, err := k.enterKey(ctx, caller, access.KeyDelete, name)
	if err != nil {
		return DeletedKey{}, err
	}
	var (
		key  DeletedKey
		refs []engine.Ref
	)
	err = k.cfg.Store.Update(ctx, func(w store.Writer) error {
		if err := k.cfg.Alive(w); err != nil {
			return err
		}
		rec, v, _, err := k.lookUp(ctx, eng, w, lower, "")
		if err != nil {
			return err
		}
		served, err := k.served(ctx, eng, w)
		if err != nil {
			return err
		}
		if err := k.putServed(ctx, eng, w, served); err != nil {
			return err
		}
		now := k.now()
		rec.Deleted = &deletion{At: now.Unix(), Purge: now.AddDate(0, 0, k.cfg.RetentionDays).Unix(), Served: served}
		w.Delete(k.keyPath(lower))
		if _, err := put(ctx, eng, w, k.deletedPath(lower), rec); err != nil {
			return err
		}
		key, refs = k.deletedKey(rec, v), k.refs(ctx, eng, w, lower, rec)
		return nil
	})
	if err != nil {
		return DeletedKey{}, store.Failure(err)
	}
	drop(eng, refs)
	return key, nil
}

// refs are the versions of a key as the engine knows them, so that it can be told to forget them. One that cannot
// be read is left out: the engine does not open such a key either.
func (k *Keys) refs(ctx context.Context, eng engine.Engine, r store.Reader, lower string, rec *keyRecord) (list []engine.Ref) {
	for i := range rec.Versions {
		if v, err := k.loadVersion(ctx, eng, r, lower, rec, i); err == nil {
			list = append(list, v.ref(k.cfg.HSM, lower))
		}
	}
	return list
}

// drop makes the engine forget opened keys (K12), once the change is on disk. A call that was let through before it
// may have a key opened and kept again; it is then kept unused until the cache's own bound of age, because no later
// call is let through to it (K11).
func drop(eng engine.Engine, refs []engine.Ref) {
	for _, ref := range refs {
		eng.Drop(ref)
	}
}

// GetDeleted returns a deleted key.
func (k *Keys) GetDeleted(ctx context.Context, caller access.Caller, name string) (key DeletedKey, err error) {
	eng, lower, err := k.enterKey(ctx, caller, access.DeletedKeyRead, name)
	if err != nil {
		return DeletedKey{}, err
	}
	err = k.cfg.Store.View(ctx, func(r store.Reader) error {
		rec, v, err := k.lookUpDeleted(ctx, eng, r, lower)
		if err == nil {
			key = k.deletedKey(rec, v)
		}
		return err
	})
	return key, store.Failure(err)
}

// ListDeleted is List for deleted keys.
func (k *Keys) ListDeleted(ctx context.Context, caller access.Caller, token string, max int) (Page, error) {
	return k.list(ctx, caller, access.DeletedKeyRead, true, token, max)
}

// Recover puts a deleted key back into use as it was, and returns the latest version.
func (k *Keys) Recover(ctx context.Context, caller access.Caller, name string) (Key, error) {
	eng, lower, err := k.enterKey(ctx, caller, access.DeletedKeyRecover, name)
	if err != nil {
		return Key{}, err
	}
	var key Key
	err = k.cfg.Store.Update(ctx, func(w store.Writer) error {
		if err := k.cfg.Alive(w); err != nil {
			return err
		}
		rec, v, err := k.lookUpDeleted(ctx, eng, w, lower)
		if err != nil {
			return err
		}
		rec.Deleted = nil
		w.Delete(k.deletedPath(lower))
		if _, err := put(ctx, eng, w, k.keyPath(lower), rec); err != nil {
			return err
		}
		key = k.key(rec.Name, v)
		return nil
	})
	if err != nil {
		return Key{}, store.Failure(err)
	}
	return key, nil
}

// Purge destroys a deleted key with all its versions; only a backup brings it back. With purge protection it is a
// failure.Conflict until the key is due to be purged anyway.
func (k *Keys) Purge(ctx context.Context, caller access.Caller, name string) error {
	eng, lower, err := k.enterKey(ctx, caller, access.DeletedKeyPurge, name)
	if err != nil {
		return err
	}
	_, err = k.purge(ctx, eng, lower, !k.cfg.PurgeProtection)
	return err
}

// purge destroys a deleted key if it is due, or in any case if early is allowed. It returns the key's name.
func (k *Keys) purge(ctx context.Context, eng engine.Engine, lower string, early bool) (name string, err error) {
	var refs []engine.Ref
	err = k.cfg.Store.Update(ctx, func(w store.Writer) error {
		if err := k.cfg.Alive(w); err != nil {
			return err
		}
		rec, err := k.loadDeleted(ctx, eng, w, lower)
		if err != nil {
			return err
		}
		if rec == nil {
			return deletedNotFound(lower)
		}
		name = rec.Name
		if !early {
			served, err := k.served(ctx, eng, w)
			if err != nil {
				return err
			}
			if !k.due(rec.Deleted, served) {
				return failure.Coded(failure.Conflict, "PurgeProtectionEnabled",
					"key %s cannot be purged by hand: this HSM has purge protection and keeps it at least until %s. Until then it can be recovered", rec.Name, stamp(rec.Deleted.Purge))
			}
		}
		count, err := k.count(ctx, eng, w)
		if err != nil {
			return err
		}
		refs = k.refs(ctx, eng, w, lower, rec)
		for path := range w.Scan(k.versionPrefix(lower), "") {
			w.Delete(path)
		}
		w.Delete(k.policyPath(lower))
		w.Delete(k.deletedPath(lower))
		_, err = put(ctx, eng, w, k.countPath(), countRecord{Keys: max(count-1, 0)})
		return err
	})
	if err != nil {
		return "", store.Failure(err)
	}
	drop(eng, refs)
	return name, nil
}

// lookUpDeleted returns a deleted key and its latest version.
func (k *Keys) lookUpDeleted(ctx context.Context, eng engine.Engine, r store.Reader, lower string) (*keyRecord, *versionRecord, error) {
	rec, err := k.loadDeleted(ctx, eng, r, lower)
	if err != nil {
		return nil, nil, err
	}
	if rec == nil {
		return nil, nil, deletedNotFound(lower)
	}
	v, err := k.loadVersion(ctx, eng, r, lower, rec, len(rec.Versions)-1)
	return rec, v, err
}

// nameFree refuses a name that a deleted key still has, whatever is to be made under it.
func (k *Keys) nameFree(ctx context.Context, eng engine.Engine, r store.Reader, lower string) error {
	rec, err := k.loadDeleted(ctx, eng, r, lower)
	if err == nil && rec != nil {
		err = failure.Coded(failure.Conflict, "ObjectIsDeletedButRecoverable",
			"key %s was deleted and keeps its name until %s; recover it, purge it, or choose another name. Nothing was changed", rec.Name, stamp(rec.Deleted.Purge))
	}
	return err
}

func (k *Keys) deletedKey(rec *keyRecord, v *versionRecord) DeletedKey {
	return DeletedKey{Key: k.key(rec.Name, v), DeletedAt: time.Unix(rec.Deleted.At, 0).UTC(), PurgeAt: time.Unix(rec.Deleted.Purge, 0).UTC()}
}

func deletedNotFound(name string) error {
	return failure.Coded(failure.NotFound, "KeyNotFound", "Deleted Key not found: %s. List the deleted keys to see which can be recovered", name)
}
