package hsm

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"strongroom/internal/access"
	"strongroom/internal/failure"
	"strongroom/internal/keys"
	"strongroom/internal/store"
)

// What a backup takes and a restore brings back. A restore fills a new place beside the one in use, in as many
// transactions as it takes, and then one transaction changes which is in use: see record.place. Until then nothing of
// it is seen; afterwards what was there before is kept for [KeepReplaced] as a restore point.

// KeepReplaced is for how long what a restore has replaced is kept. Longer, and keys that are purged meanwhile would go on
// lying there.
const KeepReplaced = 7 * 24 * time.Hour

// Contents is what a backup holds of an HSM besides its keys.
type Contents struct {
	Served      int64         // for how many seconds the HSM had been served: see keys.Mover
	Definitions []access.Role // custom ones
	Assignments []access.Assignment
	Settings    []Setting
}

// Snapshot is what an HSM held at one moment.
type Snapshot struct {
	Info Info
	Contents
	reader store.Reader
	mover  *keys.Mover
}

// Keys yields all keys, deleted ones too, with their material exported under salt. pause is called after each, where it
// was exported.
func (s *Snapshot) Keys(ctx context.Context, salt []byte, pause func(), yield func(keys.Copy) error) error {
	return s.mover.CopyAll(ctx, s.reader, salt, pause, yield)
}

// Names yields the names of all keys, deleted ones too.
func (s *Snapshot) Names(ctx context.Context, yield func(name string) error) error {
	return s.mover.Names(ctx, s.reader, yield)
}

// Same reports whether there is a key of that name, and whether it has the same versions.
func (s *Snapshot) Same(ctx context.Context, c keys.Copy) (there, same bool, err error) {
	return s.mover.Same(ctx, s.reader, c)
}

// Snapshot calls fn with what the HSM holds at one moment, while others go on changing it. fn must not keep it. It asks no
// role: whoever backs up has asked.
func (h *HSM) Snapshot(ctx context.Context, fn func(*Snapshot) error) error {
	k, err := h.Keys(ctx)
	if err != nil {
		return err
	}
	mover, err := k.Mover()
	if err != nil {
		return err
	}
	return store.Failure(h.s.cfg.Store.View(ctx, func(r store.Reader) error {
		rec, err := h.there(r)
		if err != nil {
			return err
		}
		if err := rec.usable(); err != nil {
			return err
		}
		s := &Snapshot{Info: rec.info(), reader: r, mover: mover}
		if s.Contents, err = h.contents(r); err != nil {
			return err
		}
		if s.Served, err = mover.Served(ctx, r); err != nil {
			return err
		}
		return fn(s)
	}))
}

func (h *HSM) contents(r store.Reader) (c Contents, err error) {
	if c.Definitions, err = access.LoadDefinitions(r, h.s.cfg.Seal, h.place); err != nil {
		return c, err
	}
	if c.Assignments, err = access.LoadAssignments(r, h.s.cfg.Seal, h.place); err != nil {
		return c, err
	}
	settings, err := h.settings(r)
	c.Settings = settings.list()
	return c, err
}

// Sign makes a statement of the HSM's domain: a JWS in compact form with typ in its header. See statement.
func (h *HSM) Sign(ctx context.Context, typ string, payload []byte) ([]byte, error) {
	jws, _, err := h.s.statement(ctx, h.id, typ, payload)
	return jws, err
}

// DomainID is the ID of the HSM's domain.
func (h *HSM) DomainID() (string, error) { return h.s.domainID(h.id) }

// Allowed asks whether the caller may do the action on the whole HSM.
func (h *HSM) Allowed(ctx context.Context, caller access.Caller, action access.Action) error {
	return h.check(ctx, caller, action, access.ScopeRoot)
}

// AllowedKey asks whether the caller may do the action on one key.
func (h *HSM) AllowedKey(ctx context.Context, caller access.Caller, action access.Action, name string) error {
	return h.check(ctx, caller, action, access.ScopeKey(strings.ToLower(name)))
}

// Restore is a restore under way: a place that is being filled. While there is one, the HSM answers nothing else. It is for
// one goroutine, but for Prepare.
type Restore struct {
	h     *HSM // of the new place
	job   string
	keys  *keys.Keys
	mover *keys.Mover
}

// BeginRestore begins to fill a new place. job names it in the record. It asks no role. There is one at a time.
func (h *HSM) BeginRestore(ctx context.Context, job string) (*Restore, error) {
	var rec *record
	err := h.s.cfg.Store.Update(ctx, func(w store.Writer) (err error) {
		if rec, err = h.there(w); err != nil {
			return err
		}
		if err := rec.usable(); err != nil {
			return err
		}
		now := h.s.cfg.Now().UTC()
		rec.Places++
		rec.Restoring = &restoring{Job: job, Place: rec.Places, Started: now}
		return h.s.save(w, rec, now)
	})
	if err != nil {
		return nil, store.Failure(err)
	}
	r := &Restore{h: &HSM{s: h.s, id: h.id, name: h.name, place: placeName(h.id, rec.Places)}, job: job}
	r.keys = r.h.keysOf(rec, func(rd store.Reader) error { _, err := r.under(rd); return err })
	if r.mover, err = r.keys.Mover(); err != nil {
		if e := r.Abandon(context.WithoutCancel(ctx)); e != nil {
			h.s.cfg.Log.ErrorContext(ctx, "a restore that could not begin could not be given up; a restart of the server does that", "hsm", h.name, "job", job, "error", e)
		}
		return nil, err
	}
	return r, nil
}

// under loads the record of an HSM that is still being restored by r.
func (r *Restore) under(rd store.Reader) (*record, error) {
	rec, err := r.h.s.load(rd, r.h.id)
	switch {
	case err != nil:
		return nil, err
	case rec.Deleted != nil:
		return nil, failure.Coded(failure.NotFound, "ResourceNotFound", "the HSM was deleted while it was restored")
	case rec.Restoring == nil || rec.Restoring.Job != r.job:
		return nil, failure.New(failure.Conflict, "the restore was given up meanwhile")
	}
	return rec, nil
}

// Prepare seals a key of the backup for the new place. Safe for concurrent use.
func (r *Restore) Prepare(ctx context.Context, salt, body []byte) (*keys.Restorable, error) {
	return r.mover.Prepare(ctx, salt, body)
}

// Fill writes keys into the new place, in one transaction.
func (r *Restore) Fill(ctx context.Context, served int64, list []*keys.Restorable) error {
	return store.Failure(r.h.s.cfg.Store.Update(ctx, func(w store.Writer) error {
		if _, err := r.under(w); err != nil {
			return err
		}
		return r.mover.Fill(ctx, w, served, list)
	}))
}

// Commit writes the rest and puts the new place into use, in one transaction: the one moment in which the restore happens.
// also is part of it.
func (r *Restore) Commit(ctx context.Context, c Contents, also func(store.Writer) error) error {
	if n, _ := access.Administrators(c.Assignments, ""); n == 0 {
		return failure.Coded(failure.Conflict, "LastAdministrator", "the backup has no Managed HSM Administrator, and without one nobody could download the security domain")
	}
	s := r.h.s
	err := s.cfg.Store.Update(ctx, func(w store.Writer) error {
		rec, err := r.under(w)
		if err != nil {
			return err
		}
		if err := access.PutRoles(w, s.cfg.Seal, r.h.place, c.Definitions, c.Assignments); err != nil {
			return err
		}
		var settings settingsRecord
		for _, one := range c.Settings {
			if strings.EqualFold(one.Name, SettingARMKeys) {
				settings.ARMKeys = one.On
			}
		}
		if settings != (settingsRecord{}) {
			if err := s.putSettings(w, r.h.place, settings); err != nil {
				return err
			}
		}
		now := s.cfg.Now().UTC()
		rec.Previous = &restorePoint{Job: r.job, Place: rec.Current, Replaced: now}
		rec.Current, rec.Restoring = rec.Restoring.Place, nil
		if err := s.save(w, rec, now); err != nil {
			return err
		}
		return also(w)
	})
	if err != nil {
		return store.Failure(err)
	}
	r.keys.Close()
	s.cfg.Log.WarnContext(ctx, "hsm restored from a backup: its keys, roles and settings were replaced", "hsm", r.h.name, "id", r.h.id, "job", r.job)
	return nil
}

// Abandon gives the restore up: the HSM is as it was before. What was filled is removed by the next [Service.Sweep].
func (r *Restore) Abandon(ctx context.Context) error {
	defer r.keys.Close()
	return store.Failure(r.h.s.cfg.Store.Update(ctx, func(w store.Writer) error {
		rec, err := r.h.s.load(w, r.h.id)
		switch {
		case errors.Is(err, failure.NotFound):
			return nil // purged, and the place with it
		case err != nil:
			return err
		case rec.Restoring == nil || rec.Restoring.Job != r.job:
			return nil
		}
		rec.Restoring = nil // of a deleted HSM too: it may be recovered
		return r.h.s.save(w, rec, r.h.s.cfg.Now().UTC())
	}))
}

// AbandonRestores gives up every restore that an earlier process did not finish, and returns their jobs by the HSM's ID.
// The server calls it before it serves, when nobody else serves the store.
func (s *Service) AbandonRestores(ctx context.Context) (map[string]string, error) {
	jobs := map[string]string{}
	living, deleted, err := s.ListAll(ctx)
	if err != nil {
		return nil, err
	}
	for _, info := range slices.Concat(living, deleted) {
		err := s.cfg.Store.Update(ctx, func(w store.Writer) error {
			rec, err := s.load(w, info.ID)
			if err != nil || rec.Restoring == nil {
				return err
			}
			jobs[info.ID] = rec.Restoring.Job
			rec.Restoring = nil
			return s.save(w, rec, s.cfg.Now().UTC())
		})
		if err != nil {
			return nil, store.Failure(err)
		}
	}
	return jobs, nil
}

// Parts seals and opens the parts of a backup.
type Parts interface {
	SealBackup(ctx context.Context, salt, header, plaintext []byte) ([]byte, error)
	OpenBackup(ctx context.Context, salt, header, sealed []byte) ([]byte, error)
}

// Parts are those of the engine that the HSM has now (see engine.Engine). They read no store, so they can be used in a
// [HSM.Snapshot]; they are engine.ErrClosed once the HSM is deleted.
func (h *HSM) Parts() (Parts, error) { return h.s.engine(h.id) }

// Alive refuses where the HSM is not there any more, or is being restored, or was. For transactions of others.
func (h *HSM) Alive(r store.Reader) error {
	_, err := h.there(r)
	return err
}

// RestoreKey brings one key of a backup back; see keys.Mover. also is part of its transaction.
func (h *HSM) RestoreKey(ctx context.Context, salt, body []byte, also func(store.Writer) error) (keys.Key, error) {
	k, err := h.Keys(ctx)
	if err != nil {
		return keys.Key{}, err
	}
	mover, err := k.Mover()
	if err != nil {
		return keys.Key{}, err
	}
	one, err := mover.Prepare(ctx, salt, body)
	if err != nil {
		return keys.Key{}, err
	}
	return mover.RestoreOne(ctx, one, also)
}

// RestorePoint is what a restore has replaced.
type RestorePoint struct {
	Job      string // of that restore
	Replaced time.Time
	Until    time.Time // kept until then
}

func (r *record) restorePoint() *RestorePoint {
	if r.Previous == nil {
		return nil
	}
	return &RestorePoint{Job: r.Previous.Job, Replaced: r.Previous.Replaced, Until: r.Previous.Replaced.Add(KeepReplaced)}
}

// RestorePoint returns what [HSM.UndoRestore] would go back to; nil if there is nothing.
func (h *HSM) RestorePoint(ctx context.Context, caller access.Caller) (*RestorePoint, error) {
	if err := h.Allowed(ctx, caller, access.RestoreStatus); err != nil {
		return nil, err
	}
	rec, err := h.record(ctx)
	if err != nil {
		return nil, err
	}
	return rec.restorePoint(), nil
}

// UndoRestore goes back to what was there before the last restore, as a whole. What it replaces is the restore point from
// then on, so undoing again brings the restored state back.
func (h *HSM) UndoRestore(ctx context.Context, caller access.Caller) (RestorePoint, error) {
	if err := h.Allowed(ctx, caller, access.RestoreStart); err != nil {
		return RestorePoint{}, err
	}
	var undone RestorePoint
	err := h.s.cfg.Store.Update(ctx, func(w store.Writer) error {
		rec, err := h.there(w)
		if err != nil {
			return err
		}
		now := h.s.cfg.Now().UTC()
		point := rec.restorePoint()
		if point == nil || !now.Before(point.Until) {
			return failure.Coded(failure.Conflict, "NoRestorePoint", "HSM %s has no restore point: it was not restored, or that is more than %d days ago", rec.Name, int(KeepReplaced.Hours()/24))
		}
		undone = *point
		before := rec.Previous.Place
		rec.Previous = &restorePoint{Job: rec.Previous.Job, Place: rec.Current, Replaced: now}
		rec.Current = before
		return h.s.save(w, rec, now)
	})
	if err != nil {
		return RestorePoint{}, store.Failure(err)
	}
	h.s.cfg.Log.WarnContext(ctx, "restore undone: keys, roles and settings are those from before it", "hsm", h.name, "id", h.id, "job", undone.Job, "by", caller.ObjectID)
	return undone, nil
}

// belowPlace are the records of a place; see package keys and access. What else lies below the first one is the HSM's own.
var belowPlace = []string{"key/", "deletedkey/", "keyver/", "keypolicy/", "keycount", "keyserved", "role-assignment/", "role-definition/", "settings"}

// clearPlaces removes what places hold that are not needed any more: of restores that were given up, and of restore points
// whose time is over. It does so in many small transactions, so that nobody waits for it.
func (s *Service) clearPlaces(ctx context.Context, id string) error {
	over := false
	unused, err := s.unusedPlaces(ctx, id, func(rec *record) {
		point := rec.restorePoint()
		over = point != nil && !s.cfg.Now().Before(point.Until)
	})
	if err != nil {
		return err
	}
	if over {
		err := s.cfg.Store.Update(ctx, func(w store.Writer) error {
			rec, err := s.load(w, id)
			if err != nil {
				return err
			}
			now := s.cfg.Now().UTC()
			if point := rec.restorePoint(); point == nil || now.Before(point.Until) {
				return nil // another restore or an undo came in between
			}
			rec.Previous = nil
			return s.save(w, rec, now)
		})
		if err != nil {
			return store.Failure(err)
		}
		if unused, err = s.unusedPlaces(ctx, id, func(*record) {}); err != nil {
			return err
		}
	}
	const most = 500 // records of one transaction
	for _, n := range unused {
		for more := true; more; {
			err := s.cfg.Store.Update(ctx, func(w store.Writer) error {
				more = false
				count := 0
				for _, kind := range belowPlace {
					for key := range w.Scan("hsm/"+placeName(id, n)+"/"+kind, "") {
						if count++; count > most {
							more = true
							return nil
						}
						w.Delete(key)
					}
				}
				return nil
			})
			if err != nil {
				return fmt.Errorf("remove what a restore has left: %w", store.Failure(err))
			}
		}
	}
	return nil
}

// unusedPlaces are those that hold something and that nobody will use again. look is shown the record.
func (s *Service) unusedPlaces(ctx context.Context, id string, look func(*record)) (unused []int, err error) {
	err = s.cfg.Store.View(ctx, func(r store.Reader) error {
		rec, err := s.load(r, id)
		if err != nil {
			return err
		}
		look(rec)
		for n := range rec.Places + 1 {
			if n == rec.Current || rec.Previous != nil && n == rec.Previous.Place || rec.Restoring != nil && n == rec.Restoring.Place {
				continue
			}
			for _, kind := range belowPlace {
				holds := false
				for range r.Scan("hsm/"+placeName(id, n)+"/"+kind, "") {
					holds = true
					break
				}
				if holds {
					unused = append(unused, n)
					break
				}
			}
		}
		return nil
	})
	return unused, store.Failure(err)
}
