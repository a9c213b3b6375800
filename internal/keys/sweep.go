package keys

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"strongroom/internal/engine"
	"strongroom/internal/failure"
	"strongroom/internal/store"
)

// Swept is what one Sweep did.
type Swept struct {
	Purged  []string // names of keys that are gone for good
	Rotated []Key    // new versions
}

// Sweep does what is due by itself: it purges the deleted keys whose time is over, and makes a new version of each key whose rotation
// policy asks for one, once for each time that it does. The server calls it again and
// again, at least every few minutes, because up to that much of [Keys.served] is lost in a restart. It is no
// caller's, so it asks no role. Several servers may sweep one store. One key that cannot be read does not keep
// the others waiting; the errors of all are joined. On an HSM that is not activated it does nothing.
func (k *Keys) Sweep(ctx context.Context) (Swept, error) {
	eng, err := k.cfg.Engine()
	if errors.Is(err, failure.NotActivated) {
		return Swept{}, nil
	}
	if err != nil {
		return Swept{}, err
	}
	var (
		done     Swept
		problems []error
	)
	for _, lower := range k.duePurges(ctx, eng, &problems) {
		name, err := k.purge(ctx, eng, lower, false)
		switch failure.KindOf(err) {
		case failure.NotFound, failure.Conflict: // recovered, purged or deleted anew since we looked
		default:
			if err != nil {
				problems = append(problems, fmt.Errorf("purge %s: %w", lower, err))
				continue
			}
			done.Purged = append(done.Purged, name)
		}
	}
	for _, lower := range k.dueRotations(ctx, eng, &problems) {
		switch key, made, err := k.rotate(ctx, eng, lower, true); {
		case passedOver(err): // deleted or disabled since we looked
		case err != nil:
			problems = append(problems, fmt.Errorf("rotate %s: %w", lower, err))
		case made:
			done.Rotated = append(done.Rotated, key)
		}
	}
	return done, errors.Join(problems...)
}

// duePurges writes down how long the HSM has been served, if any key waits for that, and returns the keys whose
// time is over, in lower case.
func (k *Keys) duePurges(ctx context.Context, eng engine.Engine, problems *[]error) (due []string) {
	waiting := false
	err := k.cfg.Store.View(ctx, func(r store.Reader) error {
		served, err := k.served(ctx, eng, r)
		if err != nil {
			return err
		}
		for path, raw := range r.Scan(k.deletedPrefix(), "") {
			waiting = true
			lower := strings.TrimPrefix(path, k.deletedPrefix())
			rec, err := k.openKey(ctx, eng, r, lower, true, raw)
			if err != nil {
				*problems = append(*problems, err)
				continue
			}
			if k.due(rec.Deleted, served) {
				due = append(due, lower)
			}
		}
		return nil
	})
	if err == nil && waiting {
		err = k.cfg.Store.Update(ctx, func(w store.Writer) error {
			if err := k.cfg.Alive(w); err != nil {
				return err
			}
			served, err := k.served(ctx, eng, w)
			if err != nil {
				return err
			}
			return k.putServed(ctx, eng, w, served)
		})
	}
	if err != nil {
		*problems = append(*problems, store.Failure(err))
	}
	return due
}

// due reports whether a deleted key has been kept for its whole time: by the clock, and by how long the HSM was
// served since. A clock that jumps, or was wrong when the key was deleted, destroys nothing early (K11).
func (k *Keys) due(d *deletion, served int64) bool {
	return k.now().Unix() >= d.Purge && served-d.Served >= d.Purge-d.At
}

// servedRecord is the body of the record of how long the HSM has been served.
type servedRecord struct {
	Seconds int64 `json:"seconds"`
}

// served returns for how many seconds this HSM has been served, all restarts together. It never counts more than
// really passed: a process adds the uptime since it first read the record to what the record said then, and of
// several processes the one that says most is right. It counts less after a crash, by what was not yet written
// down, and that only keeps a deleted key for longer.
func (k *Keys) served(ctx context.Context, eng engine.Engine, r store.Reader) (int64, error) {
	var stored servedRecord
	if raw, ok := r.Get(k.servedPath()); ok {
		if _, err := open(ctx, eng, k.servedPath(), raw, &stored, "how long the HSM was served"); err != nil {
			return 0, err
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.cfg.Uptime()
	if !k.counting {
		k.counting, k.base, k.since = true, stored.Seconds, now
	}
	return max(stored.Seconds, k.base+int64((now-k.since)/time.Second)), nil
}

func (k *Keys) putServed(ctx context.Context, eng engine.Engine, w store.Writer, seconds int64) error {
	_, err := put(ctx, eng, w, k.servedPath(), servedRecord{Seconds: seconds})
	return err
}

// Count returns how many keys there are, deleted ones too. Like Sweep it is the server's, and no caller's; on an HSM
// that is not activated it is 0.
func (k *Keys) Count(ctx context.Context) (n int, err error) {
	eng, err := k.cfg.Engine()
	if errors.Is(err, failure.NotActivated) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	err = k.cfg.Store.View(ctx, func(r store.Reader) (err error) {
		n, err = k.count(ctx, eng, r)
		return err
	})
	return n, store.Failure(err)
}
