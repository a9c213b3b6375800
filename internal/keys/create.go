package keys

import (
	"context"

	"strongroom/internal/access"
	"strongroom/internal/engine"
	"strongroom/internal/failure"
	"strongroom/internal/store"
)

// Create makes a key, or a new version of the key of that name. When it returns, the version is on disk. Two
// calls at once make two versions. The name of a deleted key is a failure.Conflict. On error nothing was made, unless the error is a failure.StorageFailed.
func (k *Keys) Create(ctx context.Context, caller access.Caller, name string, p CreateParams) (Key, error) {
	eng, lower, err := k.enterKey(ctx, caller, access.KeyCreate, name)
	if err != nil {
		return Key{}, err
	}
	spec, err := p.spec()
	if err != nil {
		return Key{}, err
	}
	v, err := p.record(spec.Type, k.now())
	if err != nil {
		return Key{}, err
	}
	v.Bits, v.Curve = spec.Bits, spec.Curve
	return k.add(ctx, eng, name, lower, &v, func() error {
		made, err := eng.Generate(ctx, spec, v.binding(k.cfg.HSM, lower))
		if err != nil {
			return engineFailure(err, "such a key")
		}
		v.material(made)
		return nil
	})
}

// add gives v an ID, has fill put the material into it, and writes it as the newest version of the key of that name,
// which is made if it is not there.
func (k *Keys) add(ctx context.Context, eng engine.Engine, name, lower string, v *versionRecord, fill func() error) (Key, error) {
	var err error
	if v.ID, err = k.newVersion(); err != nil {
		return Key{}, err
	}
	// fits returns the key that v will be a version of, nil if there is none, and refuses v where it cannot be one.
	fits := func(r store.Reader) (*keyRecord, error) {
		rec, err := k.loadKey(ctx, eng, r, lower)
		if err != nil || rec == nil {
			return nil, err
		}
		latest, err := k.loadVersion(ctx, eng, r, lower, rec, len(rec.Versions)-1)
		if err != nil {
			return nil, err
		}
		if latest.Exportable != v.Exportable {
			return nil, failure.New(failure.BadParameter, "attributes.exportable of key %s is %t, and all versions of a key are alike in this; set it so, with a release_policy if it is true, or choose another name", rec.Name, latest.Exportable)
		}
		return rec, nil
	}
	// An RSA key takes seconds to find, so a full HSM is noticed before, and the transaction that makes
	// everybody wait comes after. The sequence number is given inside it.
	err = k.cfg.Store.View(ctx, func(r store.Reader) error {
		rec, err := fits(r)
		if err != nil {
			return err
		}
		if rec != nil {
			return roomForVersion(rec)
		}
		if err := k.nameFree(ctx, eng, r, lower); err != nil {
			return err
		}
		count, err := k.count(ctx, eng, r)
		if err != nil {
			return err
		}
		return k.roomForKey(count)
	})
	if err != nil {
		return Key{}, store.Failure(err)
	}
	if err := fill(); err != nil {
		return Key{}, err
	}
	err = k.cfg.Store.Update(ctx, func(w store.Writer) error {
		if err := k.cfg.Alive(w); err != nil {
			return err
		}
		rec, err := fits(w)
		if err != nil {
			return err
		}
		if rec != nil {
			name = rec.Name // as first written
		}
		return k.insert(ctx, eng, w, name, lower, rec, []*versionRecord{v})
	})
	if err != nil {
		return Key{}, store.Failure(err)
	}
	return k.key(name, v), nil
}
