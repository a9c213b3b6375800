package keys

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"time"

	"strongroom/internal/access"
	"strongroom/internal/engine"
	"strongroom/internal/failure"
	"strongroom/internal/store"
)

// UpdateParams says what to change about one version of a key. A nil field leaves things as they are.
type UpdateParams struct {
	Enabled            *bool
	NotBefore, Expires *time.Time
	Ops                []string          // nil: unchanged; empty but not nil: none
	Tags               map[string]string // nil: unchanged; empty but not nil: none
	ReleasePolicy      *ReleasePolicy    // of an exportable key, unless the one it has is immutable

	// What never changes about a key (K4). A value that is given must be the one that the key has.
	Type       string
	Bits       int
	Exponent   int
	Curve      string
	Exportable *bool
}

// Update changes a version of a key; version "" is the latest. It takes effect for the next call on the key.
// Changes of several callers at once are applied one after the other, each to what the one before left. On error
// nothing was changed, unless the error is a failure.StorageFailed. A version that others change again and again while its
// policy is made immutable is a failure.Conflict.
func (k *Keys) Update(ctx context.Context, caller access.Caller, name, version string, p UpdateParams) (Key, error) {
	eng, lower, err := k.enterKey(ctx, caller, access.KeyWrite, name)
	if err != nil {
		return Key{}, err
	}
	if version, err = normalVersion(version); err != nil {
		return Key{}, err
	}
	for range maxRebinds {
		ready, err := k.rebind(ctx, eng, lower, version, p)
		if err != nil {
			return Key{}, store.Failure(err)
		}
		key, err := k.update(ctx, eng, lower, version, p, ready)
		if !errors.Is(err, errRebindStale) {
			return key, store.Failure(err)
		}
	}
	return Key{}, failure.New(failure.Conflict, "the key was changed by others each time its release_policy was about to become immutable; nothing was changed, try again")
}

// maxRebinds is how often an Update seals a key anew before it gives up against others who change the same version.
const maxRebinds = 4

// errRebindStale says that a version is not the one that was rebound.
var errRebindStale = errors.New("the version was changed since it was rebound")

// rebound is the key of a version, sealed for what an Update makes of the version whose record has the code.
type rebound struct {
	code   []byte
	sealed []byte
}

// rebind seals a key for its immutable policy, if p gives it one, outside of any transaction: the engine may let it wait
// behind long work, and whoever writes to the store would wait with it.
func (k *Keys) rebind(ctx context.Context, eng engine.Engine, lower, version string, p UpdateParams) (*rebound, error) {
	if p.ReleasePolicy == nil || !p.ReleasePolicy.Immutable {
		return nil, nil
	}
	var (
		code, binding []byte
		was           engine.Ref
		what          string
	)
	err := k.cfg.Store.View(ctx, func(r store.Reader) error {
		rec, v, index, err := k.lookUp(ctx, eng, r, lower, version)
		if err != nil {
			return err
		}
		if err := p.immutable(v); err != nil {
			return err
		}
		code, was, what = rec.Versions[index].MAC, v.ref(k.cfg.HSM, lower), describe(rec.Name, v.ID)
		if err := p.apply(v); err != nil {
			return err
		}
		binding = v.binding(k.cfg.HSM, lower)
		return nil
	})
	if err != nil || bytes.Equal(was.Binding, binding) {
		return nil, err
	}
	sealed, err := eng.Rebind(ctx, was, binding)
	if err != nil {
		return nil, engineFailure(err, what)
	}
	return &rebound{code: code, sealed: sealed}, nil
}

// update is one try of Update. It returns errRebindStale, and has changed nothing, if ready is not of the version as it is.
func (k *Keys) update(ctx context.Context, eng engine.Engine, lower, version string, p UpdateParams, ready *rebound) (Key, error) {
	var (
		key     Key
		changed engine.Ref // what the engine shall forget, if anything
		forget  bool
	)
	err := k.cfg.Store.Update(ctx, func(w store.Writer) error {
		if err := k.cfg.Alive(w); err != nil {
			return err
		}
		rec, v, index, err := k.lookUp(ctx, eng, w, lower, version)
		if err != nil {
			return err
		}
		if err := p.immutable(v); err != nil {
			return err
		}
		was := v.ref(k.cfg.HSM, lower)
		if err := p.apply(v); err != nil {
			return err
		}
		resealed := !bytes.Equal(was.Binding, v.binding(k.cfg.HSM, lower)) // the release policy became immutable
		if resealed {
			if ready == nil || !bytes.Equal(ready.code, rec.Versions[index].MAC) {
				return errRebindStale
			}
			v.Sealed = ready.sealed
		}
		v.Updated = k.now().Unix()
		if rec.Versions[index].MAC, err = put(ctx, eng, w, k.versionPath(lower, index+1), v); err != nil {
			return err
		}
		if _, err := put(ctx, eng, w, k.keyPath(lower), rec); err != nil {
			return err
		}
		key, changed, forget = k.key(rec.Name, v), was, resealed || !v.Enabled
		return nil
	})
	if err != nil {
		return Key{}, err
	}
	if forget {
		eng.Drop(changed)
	}
	return key, nil
}

// immutable refuses what would make another key of this one, by the name that it has on the wire.
func (p UpdateParams) immutable(v *versionRecord) error {
	typ, err := typeOf(p.Type)
	for _, row := range []struct {
		name    string
		changed bool
	}{
		{"kty", p.Type != "" && (err != nil || typ != v.Type)},
		{"key_size", p.Bits != 0 && p.Bits != v.Bits},
		{"public_exponent", p.Exponent != 0 && p.Exponent != v.E},
		{"crv", p.Curve != "" && p.Curve != v.Curve},
		{"attributes.exportable", p.Exportable != nil && *p.Exportable != v.Exportable},
	} {
		if row.changed {
			return failure.New(failure.BadParameter, "%s of a key cannot be changed; leave it out, and create a new version or another key", row.name)
		}
	}
	return nil
}

// apply changes v, which is of no use if the result is refused.
func (p UpdateParams) apply(v *versionRecord) error {
	was := slices.Contains(v.Ops, opImport)
	if p.Enabled != nil {
		v.Enabled = *p.Enabled
	}
	if p.NotBefore != nil {
		v.NotBefore = unix(p.NotBefore)
	}
	if p.Expires != nil {
		v.Expires = unix(p.Expires)
	}
	if p.Ops != nil {
		v.Ops = slices.Clone(p.Ops)
	}
	if p.Tags != nil {
		v.Tags = cloneTags(p.Tags)
	}
	if next := p.ReleasePolicy.record(); next != nil {
		if v.Release != nil && v.Release.Immutable && !v.Release.equal(next) {
			return failure.New(failure.BadParameter, "the release_policy of this version is immutable; leave it out, or create another key")
		}
		v.Release = next
	}
	if err := v.checkAttributes(v.Type); err != nil {
		return err
	}
	// A key that once was for import might have received a key, and one that once decrypted might be made to
	// receive one: neither may ever turn into the other, not even by way of no operation at all (K3).
	switch is := slices.Contains(v.Ops, opImport); {
	case was && !is:
		return failure.New(failure.BadParameter, "key_ops of a key with the operation import cannot be changed: such a key receives other keys and does nothing else, ever; make another key")
	case is && !was:
		return failure.New(failure.BadParameter, "key_ops of a key cannot be changed to import: a key that receives other keys is made for that and never did anything else; make another key with import alone")
	}
	return nil
}

func unix(t *time.Time) *int64 {
	s := t.Unix()
	return &s
}
