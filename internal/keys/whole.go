package keys

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"strongroom/internal/engine"
	"strongroom/internal/failure"
	"strongroom/internal/store"
)

// What a backup of the whole HSM holds of each key is the body of a single-key backup and more: deleted keys too, the
// rotation policy, and the public keys, by which a restore can be checked without trusting it. Package backup carries it.

// Copy is one key in a backup of the whole HSM.
type Copy struct {
	Name     string
	Deleted  bool
	Versions []CopyVersion // in order of making
	Body     []byte        // a copyBody as JSON; what is secret in it is sealed
}

// CopyVersion says about a version what everybody may know.
type CopyVersion struct {
	ID      string
	Type    engine.Type
	Bits    int    // RSA and oct
	Curve   string // EC
	Enabled bool
	// Check is what the version is recognised by when it is used, and nothing secret: see checkOf and octCheck. ParseCopy leaves
	// it empty for an oct key.
	Check string
}

// copyBody is the body of a key in a backup of the whole HSM.
type copyBody struct {
	Name     string          `json:"name"`
	Versions []versionRecord `json:"versions"` // Sealed is the exported form
	Policy   *policyRecord   `json:"rotation_policy,omitempty"`
	Deleted  *deletion       `json:"deleted,omitempty"`
}

// Mover takes whole keys out of an HSM and puts them into one. It is no caller's: who may back up and restore is for others to
// decide. Its methods that take a Reader or Writer are called inside a transaction.
type Mover struct {
	k   *Keys
	eng engine.Engine
}

// Mover returns the HSM's mover, or a failure.NotActivated. Do not call it inside a transaction.
func (k *Keys) Mover() (*Mover, error) {
	eng, err := k.cfg.Engine()
	return &Mover{k, eng}, err
}

// CopyAll yields all keys that r shows, deleted ones too, with their material exported under salt. It stops at the first
// key that cannot be read: a backup without it would be taken for whole. Several keys are exported at once, and pause is
// called after each, by whoever exported it: there it may wait, for others to have the processor.
func (m *Mover) CopyAll(ctx context.Context, r store.Reader, salt []byte, pause func(), yield func(Copy) error) error {
	k := m.k
	var batch []*fetched
	size := 0
	flush := func() error {
		copies, err := m.export(ctx, batch, salt, pause)
		if err != nil {
			return err
		}
		for _, c := range copies {
			if err := yield(c); err != nil {
				return err
			}
		}
		batch, size = nil, 0
		return nil
	}
	for _, deleted := range []bool{false, true} {
		prefix := k.keyPrefix()
		if deleted {
			prefix = k.deletedPrefix()
		}
		for path, raw := range r.Scan(prefix, "") {
			if err := ctx.Err(); err != nil {
				return err
			}
			f := k.fetch(r, strings.TrimPrefix(path, prefix), deleted, raw)
			batch, size = append(batch, f), size+f.size
			if len(batch) == 128 || size > 1<<20 {
				if err := flush(); err != nil {
					return err
				}
			}
		}
	}
	return flush()
}

// fetched is all that the store has of one key: what is made of it can be made outside the transaction's goroutine, by
// what is made of any other Reader. It is a Reader of that key.
type fetched struct {
	lower   string
	deleted bool
	raw     []byte // the key's own record
	size    int
	paths   []string // the other records, in order
	values  [][]byte
}

var _ store.Reader = (*fetched)(nil)

func (k *Keys) fetch(r store.Reader, lower string, deleted bool, raw []byte) *fetched {
	f := &fetched{lower: lower, deleted: deleted, raw: raw, size: len(raw)}
	add := func(path string, value []byte) {
		f.paths, f.values, f.size = append(f.paths, path), append(f.values, value), f.size+len(value)
	}
	other := k.deletedPath(lower)
	if deleted {
		other = k.keyPath(lower)
	}
	for _, path := range []string{other, k.policyPath(lower)} {
		if value, there := r.Get(path); there {
			add(path, value)
		}
	}
	for path, value := range r.Scan(k.versionPrefix(lower), "") {
		add(path, value)
		if len(f.paths) > MaxVersions+2 {
			break // one more than there can be is refused, whatever follows
		}
	}
	return f
}

// Get returns a record of the key.
func (f *fetched) Get(path string) ([]byte, bool) {
	i := slices.Index(f.paths, path)
	if i < 0 {
		return nil, false
	}
	return f.values[i], true
}

// Scan yields records of the key.
func (f *fetched) Scan(prefix, after string) iter.Seq2[string, []byte] {
	return func(yield func(string, []byte) bool) {
		for i, path := range f.paths {
			if strings.HasPrefix(path, prefix) && path > after && !yield(path, f.values[i]) {
				return
			}
		}
	}
}

// export makes the copies of some keys, several at once.
func (m *Mover) export(ctx context.Context, batch []*fetched, salt []byte, pause func()) ([]Copy, error) {
	copies := make([]Copy, len(batch))
	var next atomic.Int64
	// One processor stays free for the calls to the HSM, and one is the caller's who writes what was exported before.
	workers := min(max(1, runtime.GOMAXPROCS(0)-2), len(batch))
	errs := make([]error, workers)
	var group sync.WaitGroup
	for n := range workers {
		group.Go(func() {
			defer func() {
				if p := recover(); p != nil { // nobody else would, and the server would end (R4)
					errs[n] = failure.Wrap(failure.Internal, fmt.Errorf("panic: %T", p), "a key could not be exported for a reason that is our mistake")
				}
			}()
			for i := next.Add(1) - 1; i < int64(len(batch)); i = next.Add(1) - 1 {
				f := batch[i]
				rec, err := m.k.openKey(ctx, m.eng, f, f.lower, f.deleted, f.raw)
				if err == nil {
					copies[i], err = m.k.copyKey(ctx, m.eng, f, f.lower, rec, salt)
				}
				if err != nil {
					errs[n] = err
					return
				}
				pause()
			}
		})
	}
	group.Wait()
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	return copies, nil
}

func (k *Keys) copyKey(ctx context.Context, eng engine.Engine, r store.Reader, lower string, rec *keyRecord, salt []byte) (Copy, error) {
	policy, err := k.loadPolicy(ctx, eng, r, lower, rec)
	if err != nil {
		return Copy{}, err
	}
	c := Copy{Name: rec.Name, Deleted: rec.Deleted != nil}
	body := copyBody{Name: rec.Name, Policy: policy, Deleted: rec.Deleted}
	for i := range rec.Versions {
		v, err := k.loadVersion(ctx, eng, r, lower, rec, i)
		if err != nil {
			return Copy{}, err
		}
		check := checkOf(v.public())
		if v.Type == engine.Oct {
			if check, err = octCheck(ctx, eng, v.ref(k.cfg.HSM, lower)); err != nil {
				return Copy{}, engineFailure(err, describe(rec.Name, v.ID))
			}
		}
		if v.Sealed, err = eng.Export(ctx, v.ref(k.cfg.HSM, lower), salt, v.exportBinding(lower)); err != nil {
			return Copy{}, engineFailure(err, describe(rec.Name, v.ID))
		}
		body.Versions = append(body.Versions, *v)
		c.Versions = append(c.Versions, v.copyVersion(check))
	}
	if c.Body, err = json.Marshal(body); err != nil {
		return Copy{}, failure.Wrap(failure.Internal, err, "a key cannot be encoded")
	}
	return c, nil
}

// Served is for how long the HSM has been served, in seconds, by which deleted keys are purged: see served.
func (m *Mover) Served(ctx context.Context, r store.Reader) (int64, error) {
	return m.k.served(ctx, m.eng, r)
}

// Restorable is a key from a backup whose material is sealed for this HSM and place.
type Restorable struct {
	Name     string // as first written
	lower    string
	versions []*versionRecord
	policy   *policyRecord
	deleted  *deletion
	paths    []string // its records, as they are going to be written
	values   [][]byte
}

// Put takes a record. With it, and nothing in it yet, a Restorable is a store.Writer for the function that writes keys.
func (r *Restorable) Put(path string, value []byte) {
	r.paths, r.values = append(r.paths, path), append(r.values, value)
}

// Get, Scan and Delete find nothing.
func (r *Restorable) Get(string) ([]byte, bool) { return nil, false }
func (r *Restorable) Scan(string, string) iter.Seq2[string, []byte] {
	return func(func(string, []byte) bool) {}
}
func (r *Restorable) Delete(string) {}

// Versions is how many versions the key has.
func (r *Restorable) Versions() int { return len(r.versions) }

// Deleted reports whether the key is a deleted one.
func (r *Restorable) Deleted() bool { return r.deleted != nil }

// ParseCopy reads the body of a key and checks all that can be checked without the domain's keys. It returns the name and
// the versions.
func ParseCopy(body []byte) (Copy, error) {
	b, _, err := parseCopy(body)
	if err != nil {
		return Copy{}, err
	}
	c := Copy{Name: b.Name, Deleted: b.Deleted != nil, Body: body}
	for i := range b.Versions {
		v := &b.Versions[i]
		check, err := v.recorded()
		if err != nil {
			return Copy{}, damaged(fmt.Errorf("%s: %w", describe(b.Name, v.ID), err))
		}
		c.Versions = append(c.Versions, v.copyVersion(check))
	}
	return c, nil
}

func parseCopy(text []byte) (body copyBody, lower string, err error) {
	if err := strictDecode(text, &body); err != nil {
		return body, "", damaged(err)
	}
	if lower, err = checkVersions(body.Name, body.Versions); err != nil {
		return body, "", err
	}
	if p := body.Policy; p != nil {
		if _, err := p.policy().lengths(); err != nil || p.Created < 0 || p.Created > maxTime || p.Updated < 0 || p.Updated > maxTime {
			return body, "", damaged(errors.New("its rotation policy is not one"))
		}
	}
	if d := body.Deleted; d != nil && (d.At < 0 || d.Purge < d.At || d.Purge > maxTime || d.Served < 0 || d.Served > maxTime) {
		return body, "", damaged(errors.New("it was deleted at an impossible time"))
	}
	return body, lower, nil
}

// Prepare opens the material of a key from a backup of this domain, checks it against the public key beside it, and
// seals it for this place. It touches no store, so it can be done for several keys at once.
func (m *Mover) Prepare(ctx context.Context, salt, text []byte) (*Restorable, error) {
	k, eng := m.k, m.eng
	body, lower, err := parseCopy(text)
	if err != nil {
		return nil, err
	}
	r := &Restorable{Name: body.Name, lower: lower, policy: body.Policy, deleted: body.Deleted}
	for i := range body.Versions {
		v := &body.Versions[i]
		switch err := v.takeIn(ctx, eng, salt, k.cfg.HSM, lower); {
		case errors.Is(err, engine.ErrTampered), errors.Is(err, engine.ErrSpec):
			return nil, damaged(fmt.Errorf("%s: %w", describe(body.Name, v.ID), err))
		case errors.Is(err, errOtherPublicKey):
			return nil, damaged(fmt.Errorf("%s has another public key than the backup says", describe(body.Name, v.ID)))
		case err != nil:
			return nil, engineFailure(err, "the backup")
		}
		r.versions = append(r.versions, v)
	}
	// Encoded here and not in the transaction: there one key waits for the other.
	return r, k.encode(ctx, eng, r)
}

// Fill writes keys into a place that nobody uses yet, and how long the HSM was served. It can be called again with more
// keys. A name that is there already is an error.
func (m *Mover) Fill(ctx context.Context, w store.Writer, served int64, list []*Restorable) error {
	k, eng := m.k, m.eng
	count, err := k.count(ctx, eng, w)
	if err != nil {
		return err
	}
	if count+len(list) > k.cfg.MaxKeys {
		return k.roomForKey(k.cfg.MaxKeys)
	}
	for _, r := range list {
		if err := k.fillOne(w, r); err != nil {
			return err
		}
	}
	if _, err := put(ctx, eng, w, k.countPath(), countRecord{Keys: count + len(list)}); err != nil {
		return err
	}
	return k.putServed(ctx, eng, w, served)
}

func (k *Keys) fillOne(w store.Writer, r *Restorable) error {
	for _, path := range []string{k.keyPath(r.lower), k.deletedPath(r.lower)} {
		if _, twice := w.Get(path); twice {
			return damaged(fmt.Errorf("key %s comes twice", r.Name))
		}
	}
	for i, path := range r.paths {
		w.Put(path, r.values[i])
	}
	return nil
}

// encode makes the records of a key.
func (k *Keys) encode(ctx context.Context, eng engine.Engine, r *Restorable) (err error) {
	rec := &keyRecord{Name: r.Name, Deleted: r.deleted}
	for _, v := range r.versions {
		code, err := put(ctx, eng, r, k.versionPath(r.lower, len(rec.Versions)+1), v)
		if err != nil {
			return err
		}
		rec.Versions = append(rec.Versions, versionRef{ID: v.ID, MAC: code})
	}
	if r.policy != nil {
		if rec.Policy, err = put(ctx, eng, r, k.policyPath(r.lower), r.policy); err != nil {
			return err
		}
	}
	path := k.keyPath(r.lower)
	if r.deleted != nil {
		path = k.deletedPath(r.lower)
	}
	_, err = put(ctx, eng, r, path, rec)
	return err
}

// RestoreOne brings one key of a whole backup back into use, in a transaction of its own, as [Keys.Restore] does with a single-key backup: the name must be
// free, of a deleted key too. It keeps its rotation policy.
// also is part of the transaction.
func (m *Mover) RestoreOne(ctx context.Context, r *Restorable, also func(store.Writer) error) (Key, error) {
	k, eng := m.k, m.eng
	if r.deleted != nil {
		return Key{}, failure.New(failure.Conflict, "key %s is a deleted one in the backup; choose an older backup in which it is in use. Nothing was changed", r.Name)
	}
	err := k.cfg.Store.Update(ctx, func(w store.Writer) error {
		if err := k.cfg.Alive(w); err != nil {
			return err
		}
		if err := k.vacant(ctx, eng, w, r.lower); err != nil {
			return err
		}
		count, err := k.count(ctx, eng, w)
		if err != nil {
			return err
		}
		if err := k.roomForKey(count); err != nil {
			return err
		}
		if _, err := put(ctx, eng, w, k.countPath(), countRecord{Keys: count + 1}); err != nil {
			return err
		}
		if err := k.fillOne(w, r); err != nil {
			return err
		}
		return also(w)
	})
	if err != nil {
		return Key{}, store.Failure(err)
	}
	return k.key(r.Name, r.versions[len(r.versions)-1]), nil
}

// vacant refuses, for a restore, a name that is in use or that a deleted key has.
func (k *Keys) vacant(ctx context.Context, eng engine.Engine, r store.Reader, lower string) error {
	rec, err := k.loadKey(ctx, eng, r, lower)
	if err != nil {
		return err
	}
	if rec != nil {
		return failure.Coded(failure.Conflict, "Conflict", "key %s exists in this HSM, and a restore does not overwrite; delete and purge it first. Nothing was changed", rec.Name)
	}
	return k.nameFree(ctx, eng, r, lower)
}

// Same reports whether the key is there already, with the same versions and policy. For a dry run.
func (m *Mover) Same(ctx context.Context, r store.Reader, c Copy) (there, same bool, err error) {
	k, eng := m.k, m.eng
	lower, err := normalName(c.Name)
	if err != nil {
		return false, false, err
	}
	rec, err := k.loadKey(ctx, eng, r, lower)
	if err == nil && rec == nil {
		rec, err = k.loadDeleted(ctx, eng, r, lower)
	}
	if err != nil || rec == nil {
		return false, false, err
	}
	have := make([]string, len(rec.Versions))
	for i, ref := range rec.Versions {
		have[i] = ref.ID
	}
	want := make([]string, len(c.Versions))
	for i, v := range c.Versions {
		want[i] = v.ID
	}
	return true, (rec.Deleted != nil) == c.Deleted && slices.Equal(have, want), nil
}

// Names yields the name of every key that r shows, deleted ones too.
func (m *Mover) Names(ctx context.Context, r store.Reader, yield func(name string) error) error {
	k, eng := m.k, m.eng
	for _, deleted := range []bool{false, true} {
		prefix := k.keyPrefix()
		if deleted {
			prefix = k.deletedPrefix()
		}
		for path, raw := range r.Scan(prefix, "") {
			rec, err := k.openKey(ctx, eng, r, strings.TrimPrefix(path, prefix), deleted, raw)
			if err != nil {
				return err
			}
			if err := yield(rec.Name); err != nil {
				return err
			}
		}
	}
	return nil
}
