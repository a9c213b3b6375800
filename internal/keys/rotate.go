package keys

import (
	"context"
	"crypto/subtle"
	"errors"
	"slices"
	"strings"
	"time"

	"strongroom/internal/access"
	"strongroom/internal/engine"
	"strongroom/internal/failure"
	"strongroom/internal/store"
)

// minRotation is the shortest time between two versions, and the shortest life of one, in seconds (protocol: limits).
const minRotation = 28 * oneDay

// RotationPolicy says when a key gets a new version by itself, and how long versions made by rotation live. The
// three times are durations of ISO 8601, as the caller wrote them: see [parseDuration]. The zero value is no policy.
type RotationPolicy struct {
	ExpiryTime string // from the making of a version to its exp, at least 28 days; "": it never expires
	// At most one of these, which says when the next version is made; both "": when it is asked for.
	TimeAfterCreate  string // at least 28 days
	TimeBeforeExpiry string // needs an ExpiryTime that is at least 28 days longer
	Created, Updated time.Time
}

// empty reports whether the policy says nothing, which removes the one that a key has.
func (p RotationPolicy) empty() bool {
	return p.ExpiryTime == "" && p.TimeAfterCreate == "" && p.TimeBeforeExpiry == ""
}

// policyRecord is the body of a rotation policy. The key's record holds the code of its record. Times are Unix
// seconds.
type policyRecord struct {
	ExpiryTime       string `json:"expiry_time,omitempty"`
	TimeAfterCreate  string `json:"time_after_create,omitempty"`
	TimeBeforeExpiry string `json:"time_before_expiry,omitempty"`
	Created          int64  `json:"created"`
	Updated          int64  `json:"updated"`
}

func (p *policyRecord) policy() RotationPolicy {
	if p == nil {
		return RotationPolicy{}
	}
	return RotationPolicy{ExpiryTime: p.ExpiryTime, TimeAfterCreate: p.TimeAfterCreate, TimeBeforeExpiry: p.TimeBeforeExpiry,
		Created: time.Unix(p.Created, 0).UTC(), Updated: time.Unix(p.Updated, 0).UTC()}
}

// lengths are the times of a policy in seconds; 0 is one that is not given.
type lengths struct{ expiry, afterCreate, beforeExpiry int64 }

// lengths holds a policy against the rules.
func (p RotationPolicy) lengths() (l lengths, err error) {
	for _, d := range []struct {
		name, text string
		to         *int64
	}{
		{"expiryTime", p.ExpiryTime, &l.expiry},
		{"timeAfterCreate", p.TimeAfterCreate, &l.afterCreate},
		{"timeBeforeExpiry", p.TimeBeforeExpiry, &l.beforeExpiry},
	} {
		if d.text == "" {
			continue
		}
		if *d.to, err = parseDuration(d.name, d.text); err != nil {
			return lengths{}, err
		}
		if *d.to == 0 {
			return lengths{}, failure.New(failure.BadParameter, "%s is no time at all; leave it out", d.name)
		}
	}
	switch {
	case p.ExpiryTime != "" && l.expiry < minRotation:
		err = failure.New(failure.BadParameter, "expiryTime must be at least P28D")
	case p.TimeAfterCreate != "" && p.TimeBeforeExpiry != "":
		err = failure.New(failure.BadParameter, "a trigger has timeAfterCreate or timeBeforeExpiry, not both")
	case p.TimeAfterCreate != "" && l.afterCreate < minRotation:
		err = failure.New(failure.BadParameter, "timeAfterCreate must be at least P28D")
	case p.TimeBeforeExpiry != "" && p.ExpiryTime == "":
		err = failure.New(failure.BadParameter, "timeBeforeExpiry needs an expiryTime, or the versions that rotation makes would have none to come before")
	case p.TimeBeforeExpiry != "" && l.beforeExpiry > l.expiry-minRotation:
		err = failure.New(failure.BadParameter, "timeBeforeExpiry must be at least 28 days shorter than expiryTime, or the key would be rotated more often than every 28 days")
	}
	if err != nil {
		return lengths{}, err
	}
	return l, nil
}

// GetRotationPolicy returns a key's policy; the zero value where it has none.
func (k *Keys) GetRotationPolicy(ctx context.Context, caller access.Caller, name string) (p RotationPolicy, err error) {
	eng, lower, err := k.enterKey(ctx, caller, access.KeyRead, name)
	if err != nil {
		return RotationPolicy{}, err
	}
	err = k.cfg.Store.View(ctx, func(r store.Reader) error {
		rec, err := k.loadKey(ctx, eng, r, lower)
		if err != nil {
			return err
		}
		if rec == nil {
			return notFound(lower)
		}
		policy, err := k.loadPolicy(ctx, eng, r, lower, rec)
		p = policy.policy()
		return err
	})
	return p, store.Failure(err)
}

// SetRotationPolicy replaces a key's policy, or removes it if p is empty, and returns the one that the key now has.
// It changes no version. Created and Updated of p are ignored.
func (k *Keys) SetRotationPolicy(ctx context.Context, caller access.Caller, name string, p RotationPolicy) (RotationPolicy, error) {
	eng, lower, err := k.enterKey(ctx, caller, access.KeyWrite, name)
	if err != nil {
		return RotationPolicy{}, err
	}
	if _, err := p.lengths(); err != nil {
		return RotationPolicy{}, err
	}
	var next *policyRecord
	err = k.cfg.Store.Update(ctx, func(w store.Writer) error {
		if err := k.cfg.Alive(w); err != nil {
			return err
		}
		rec, err := k.loadKey(ctx, eng, w, lower)
		if err != nil {
			return err
		}
		if rec == nil {
			return notFound(lower)
		}
		had, err := k.loadPolicy(ctx, eng, w, lower, rec)
		if err != nil {
			return err
		}
		if p.empty() {
			rec.Policy = nil
			w.Delete(k.policyPath(lower))
		} else {
			now := k.now().Unix()
			next = &policyRecord{ExpiryTime: p.ExpiryTime, TimeAfterCreate: p.TimeAfterCreate, TimeBeforeExpiry: p.TimeBeforeExpiry, Created: now, Updated: now}
			if had != nil {
				next.Created = had.Created
			}
			if rec.Policy, err = put(ctx, eng, w, k.policyPath(lower), next); err != nil {
				return err
			}
		}
		_, err = put(ctx, eng, w, k.keyPath(lower), rec)
		return err
	})
	if err != nil {
		return RotationPolicy{}, store.Failure(err)
	}
	return next.policy(), nil
}

// Rotate makes a new version of a key that has a rotation policy: of the type and size of the latest version, with
// its operations and tags, enabled, and expiring when the policy says. The versions before it stay as they are. A
// key whose latest version is disabled is not rotated, because that would put its name back into use.
func (k *Keys) Rotate(ctx context.Context, caller access.Caller, name string) (Key, error) {
	eng, lower, err := k.enterKey(ctx, caller, access.KeyRotate, name)
	if err != nil {
		return Key{}, err
	}
	key, _, err := k.rotate(ctx, eng, lower, false)
	return key, err
}

// rotate makes the new version; if onlyDue, then only if the policy says that it is time, and done says whether it
// was. What it depends on is looked at again in the transaction that writes: of two callers at once who want a
// version that is due, one makes it.
func (k *Keys) rotate(ctx context.Context, eng engine.Engine, lower string, onlyDue bool) (key Key, done bool, err error) {
	var seen *versionRecord
	err = k.cfg.Store.View(ctx, func(r store.Reader) error {
		rec, v, l, err := k.rotatable(ctx, eng, r, lower)
		if err != nil {
			return err
		}
		if onlyDue && !k.rotationDue(v, l) {
			return nil
		}
		seen = v
		return roomForVersion(rec)
	})
	if err != nil || seen == nil {
		return Key{}, false, store.Failure(err)
	}
	next := versionRecord{Type: seen.Type, Bits: seen.Bits, Curve: seen.Curve, Exportable: seen.Exportable, HSM: seen.HSM, Release: seen.Release}
	if next.ID, err = k.newVersion(); err != nil {
		return Key{}, false, err
	}
	spec := next.spec()
	spec.Exponent = seen.E
	made, err := eng.Generate(ctx, spec, next.binding(k.cfg.HSM, lower))
	if err != nil {
		return Key{}, false, engineFailure(err, "a new version of key "+lower)
	}
	next.material(made)
	err = k.cfg.Store.Update(ctx, func(w store.Writer) error {
		if err := k.cfg.Alive(w); err != nil {
			return err
		}
		rec, latest, l, err := k.rotatable(ctx, eng, w, lower)
		if err != nil {
			return err
		}
		if onlyDue && (latest.ID != seen.ID || !k.rotationDue(latest, l)) {
			return nil // somebody else made it, or changed what made it due
		}
		if latest.Type != seen.Type || latest.Bits != seen.Bits || latest.Curve != seen.Curve || latest.E != seen.E || latest.Exportable != seen.Exportable || seen.Exportable && !latest.Release.equal(seen.Release) {
			return failure.New(failure.Conflict, "key %s got a version of another type, size or release policy while this one was made; rotate it again", rec.Name)
		}
		now := k.now().Unix()
		next.Enabled, next.Created, next.Updated = true, now, now
		next.Ops, next.Tags = slices.Clone(latest.Ops), cloneTags(latest.Tags)
		if l.expiry != 0 {
			exp := now + l.expiry
			next.Expires = &exp
		}
		if err := next.checkAttributes(next.Type); err != nil {
			return err
		}
		if err := k.insert(ctx, eng, w, rec.Name, lower, rec, []*versionRecord{&next}); err != nil {
			return err
		}
		key, done = k.key(rec.Name, &next), true
		return nil
	})
	if err != nil {
		return Key{}, false, store.Failure(err)
	}
	return key, done, nil
}

// rotatable returns a key with its latest version and what its policy says, if it can be rotated.
func (k *Keys) rotatable(ctx context.Context, eng engine.Engine, r store.Reader, lower string) (*keyRecord, *versionRecord, lengths, error) {
	rec, v, _, err := k.lookUp(ctx, eng, r, lower, "")
	if err != nil {
		return nil, nil, lengths{}, err
	}
	policy, err := k.loadPolicy(ctx, eng, r, lower, rec)
	if err != nil {
		return nil, nil, lengths{}, err
	}
	if policy == nil {
		return nil, nil, lengths{}, failure.New(failure.BadParameter, "key %s has no rotation policy; set one first (PUT /keys/%s/rotationpolicy), or create a new version", rec.Name, rec.Name)
	}
	if !v.Enabled {
		return nil, nil, lengths{}, failure.New(failure.Disabled, "%s, the latest, is disabled, and a new version would put the key back into use; enable it first, or create a new version", describe(rec.Name, v.ID))
	}
	l, err := policy.policy().lengths()
	if err != nil {
		return nil, nil, lengths{}, tampered("the rotation policy of key "+rec.Name, err)
	}
	return rec, v, l, nil
}

// rotationDue reports whether it is time for the version after v.
func (k *Keys) rotationDue(v *versionRecord, l lengths) bool {
	now := k.now().Unix()
	switch {
	case l.afterCreate != 0:
		return now >= v.Created+l.afterCreate
	case l.beforeExpiry != 0 && v.Expires != nil:
		return now >= *v.Expires-l.beforeExpiry
	}
	return false
}

// dueRotations returns the keys, in lower case, that have a policy by which it is time for a new version.
func (k *Keys) dueRotations(ctx context.Context, eng engine.Engine, problems *[]error) (due []string) {
	err := k.cfg.Store.View(ctx, func(r store.Reader) error {
		for path := range r.Scan(k.policyPrefix(), "") {
			lower := strings.TrimPrefix(path, k.policyPrefix())
			_, v, l, err := k.rotatable(ctx, eng, r, lower)
			switch {
			case passedOver(err):
			case err != nil:
				*problems = append(*problems, err)
			case k.rotationDue(v, l):
				due = append(due, lower)
			}
		}
		return nil
	})
	if err != nil {
		*problems = append(*problems, store.Failure(err))
	}
	return due
}

// passedOver reports whether a key is rightly left out of automatic rotation: it is deleted, or disabled.
func passedOver(err error) bool {
	return errors.Is(err, failure.NotFound) || errors.Is(err, failure.Disabled)
}

// loadPolicy returns the rotation policy of a key, or nil if it has none.
func (k *Keys) loadPolicy(ctx context.Context, eng engine.Engine, r store.Reader, lower string, rec *keyRecord) (*policyRecord, error) {
	what := "the rotation policy of key " + rec.Name
	raw, ok := r.Get(k.policyPath(lower))
	if ok != (rec.Policy != nil) {
		return nil, tampered(what, errors.New("it is there and the key's record knows of none, or the other way round"))
	}
	if !ok {
		return nil, nil
	}
	p := new(policyRecord)
	code, err := open(ctx, eng, k.policyPath(lower), raw, p, what)
	if err != nil {
		return nil, err
	}
	if subtle.ConstantTimeCompare(code, rec.Policy) != 1 {
		return nil, tampered(what, errors.New("it is not in the state that the key's record knows"))
	}
	return p, nil
}
