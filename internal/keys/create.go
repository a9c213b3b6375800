package keys

import (
	"context"

	"strongroom/internal/access"
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
	if v.ID, err = k.newVersion(); err != nil {
		return Key{}, err
	}
	v.Type, v.Bits, v.Curve, v.HSM = spec.Type, spec.Bits, spec.Curve, true

	// An RSA key takes seconds to find, so a full HSM is noticed before, and the transaction that makes
	// everybody wait comes after. The sequence number is given inside it.
	err = k.cfg.Store.View(ctx, func(r store.Reader) error {
		rec, err := k.loadKey(ctx, eng, r, lower)
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
	made, err := eng.Generate(ctx, spec, v.binding(k.cfg.HSM, lower))
	if err != nil {
		return Key{}, engineFailure(err, "such a key")
	}
	v.material(made)
	err = k.cfg.Store.Update(ctx, func(w store.Writer) error {
		if err := k.cfg.Alive(w); err != nil {
			return err
		}
		rec, err := k.loadKey(ctx, eng, w, lower)
		if err != nil {
			return err
		}
		if rec != nil {
			name = rec.Name // as first written
		}
		return k.insert(ctx, eng, w, name, lower, rec, []*versionRecord{&v})
	})
	if err != nil {
		return Key{}, store.Failure(err)
	}
	return k.key(name, &v), nil
}
