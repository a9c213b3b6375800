package backup

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"strongroom/internal/access"
	"strongroom/internal/backupset"
	"strongroom/internal/engine"
	"strongroom/internal/failure"
	"strongroom/internal/hsm"
	"strongroom/internal/keys"
	"strongroom/internal/store"
)

// batch is how many keys one transaction of a restore writes.
const batch = 250

// source is a backup that was opened for an HSM of its domain.
type source struct {
	*backupset.Backup
	domain   string
	parts    hsm.Parts
	salt     []byte // under which its keys are exported
	contents hsm.Contents
	counts   map[string]int64
	versions int64
}

// open reads the manifest of a backup. One of another domain is refused before anything else is looked at.
func (s *Service) open(ctx context.Context, h *hsm.HSM, j *Job, storage backupset.Storage) (*source, error) {
	b, err := backupset.Open(ctx, storage, j.Folder)
	if err != nil {
		return nil, err
	}
	domain, err := h.DomainID()
	if err != nil {
		return nil, err
	}
	if err := b.CheckDomain(domain); err != nil {
		return nil, err
	}
	parts, err := h.Parts()
	if err != nil {
		return nil, err
	}
	return &source{Backup: b, domain: domain, parts: parts, counts: map[string]int64{}}, nil
}

// verify reads the whole backup, opens everything and checks everything that can be checked without changing the HSM (B2).
// key, if not nil, is called with each key.
func (src *source) verify(ctx context.Context, p *pace, progress func(backupset.Progress), key func(keys.Copy) error) error {
	// Reading all records looks at every object's hash too, so Verify, which only does that, would read all of it once more.
	err := stages(ctx, p, batch, recordSize, src.records(progress), func(some []backupset.Record) error {
		parsed, err := src.parse(p, some)
		if err != nil {
			return err
		}
		for i, r := range some {
			src.counts[r.Kind]++
			src.versions += int64(len(r.Versions))
			if err := src.take(r, parsed[i], key); err != nil {
				return err
			}
			p.pause()
		}
		return nil
	})
	if err != nil {
		return err
	}
	if src.salt == nil {
		return wrong("it has no record of its HSM", nil)
	}
	return nil
}

// parse reads those of the records that are keys, several at once. Those that do not hold are left to take, which refuses the
// first thing that is wrong; and all of them where the job gives way to calls.
func (src *source) parse(p *pace, some []backupset.Record) ([]*keys.Copy, error) {
	list := make([]*keys.Copy, len(some))
	if p.calls != nil {
		return list, nil
	}
	return list, share(len(some), func(i int) error {
		if some[i].Kind != kindKey && some[i].Kind != kindDeletedKey {
			return nil
		}
		if c, err := keys.ParseCopy(some[i].Body); err == nil {
			list[i] = &c
		}
		return nil
	})
}

func recordSize(r backupset.Record) int { return len(r.Body) }

// records puts all records of the backup.
func (src *source) records(progress func(backupset.Progress)) func(ctx context.Context, put func(backupset.Record) error) error {
	return func(ctx context.Context, put func(backupset.Record) error) error {
		for r, err := range src.Records(ctx, src.domain, src.parts, progress) {
			if err == nil {
				err = put(r)
			}
			if err != nil {
				return err
			}
		}
		return nil
	}
}

// take takes a record in. c is the key that it is, if that was parsed already.
func (src *source) take(r backupset.Record, c *keys.Copy, key func(keys.Copy) error) error {
	if src.salt == nil && r.Kind != kindHSM {
		return wrong("its first record is not that of its HSM", nil)
	}
	switch r.Kind {
	case kindHSM:
		var body hsmBody
		var version struct {
			V int `json:"v"`
		}
		if err := json.Unmarshal(r.Body, &version); err == nil && version.V > bodyVersion {
			return failure.New(failure.Unsupported, "the backup has records of version %d, and this server reads %d; use a newer server", version.V, bodyVersion)
		}
		if err := strict(r.Body, &body); err != nil || body.V != bodyVersion || len(body.Salt) != engine.SaltSize || src.salt != nil || body.Served < 0 || body.Served > maxServed || len(body.Settings) > maxSettings {
			return wrong("the record of its HSM is none", err)
		}
		src.salt, src.contents.Served = body.Salt, body.Served
		for name, on := range body.Settings {
			src.contents.Settings = append(src.contents.Settings, hsm.Setting{Name: name, On: on})
		}
	case kindDefinition:
		var body definitionBody
		if err := strict(r.Body, &body); err != nil {
			return wrong("a role definition in it is none", err)
		}
		if len(src.contents.Definitions) >= access.MaxDefinitions {
			return wrong("it has too many role definitions", nil)
		}
		src.contents.Definitions = append(src.contents.Definitions, access.Role{ID: r.Name, Name: body.Name, Description: body.Description,
			DataActions: body.DataActions, NotDataActions: body.NotDataActions, Scopes: body.Scopes, Custom: true})
	case kindAssignment:
		var body assignmentBody
		if err := strict(r.Body, &body); err != nil {
			return wrong("a role assignment in it is none", err)
		}
		if len(src.contents.Assignments) >= maxAssignments {
			return wrong("it has too many role assignments", nil)
		}
		src.contents.Assignments = append(src.contents.Assignments, access.Assignment{Name: r.Name, PrincipalID: body.Principal, RoleDefinitionID: body.Role, Scope: body.Scope})
	case kindKey, kindDeletedKey:
		if c == nil {
			parsed, err := keys.ParseCopy(r.Body)
			if err != nil {
				return err
			}
			c = &parsed
		}
		if strings.ToLower(c.Name) != r.Name || c.Deleted != (r.Kind == kindDeletedKey) || c.Deleted != r.Deleted || !slices.EqualFunc(c.Versions, r.Versions, alike) {
			return wrong(fmt.Sprintf("key %s in it is another one than its inventory says", r.Name), nil)
		}
		if key != nil {
			return key(*c)
		}
	default:
		return failure.New(failure.Unsupported, "the backup has records of a kind %q that this server does not know; use a newer server", r.Kind)
	}
	return nil
}

// Bounds of what a backup brings besides keys.
const (
	maxAssignments = 20_000
	maxSettings    = 64
	maxServed      = 1 << 40 // seconds: 35,000 years
)

// strict reads the body of a record. A member that is not known would be lost by a restore, so it is refused.
func strict(text []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return errors.New("the JSON does not have the expected form") // the decoder's text may quote the input
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows the JSON")
	}
	return nil
}

func alike(a keys.CopyVersion, b backupset.Version) bool {
	return a.ID == b.ID && string(a.Type) == b.Type && a.Bits == b.Bits && a.Curve == b.Curve && a.Enabled == b.Enabled && (a.Check == "" || b.Check == "" || a.Check == b.Check)
}

// wrong is a backup that was signed and sealed by the domain and does not hold together.
func wrong(what string, cause error) error {
	return failure.Wrap(failure.BadParameter, cause, "the backup cannot be restored: %s; use another backup. Nothing was changed", what)
}

// restore brings back a whole backup.
func (s *Service) restore(ctx context.Context, h *hsm.HSM, j *Job, storage backupset.Storage, progress func(backupset.Progress)) (ended bool, err error) {
	if err := s.recent(ctx, h); err != nil {
		return false, err
	}
	src, err := s.open(ctx, h, j, storage)
	if err != nil {
		return false, err
	}
	// A restore is waited for, and the HSM is about to answer nobody: it takes all processors.
	if err := src.verify(ctx, fullPace(), progress, nil); err != nil {
		return false, err
	}
	r, err := h.BeginRestore(ctx, j.ID)
	if err != nil {
		return false, err
	}
	committed := false
	defer func() {
		if !committed { // by an error or a panic
			// The job's context may be what ended it.
			if e := r.Abandon(context.WithoutCancel(ctx)); e != nil {
				s.cfg.Log.ErrorContext(ctx, "a restore that failed could not be given up; a restart of the server does that", "hsm", h.Name(), "job", j.ID, "error", e)
			}
		}
	}()
	if err := s.fill(ctx, src, r, progress); err != nil {
		return false, err
	}
	for _, n := range src.counts {
		j.Records += n
	}
	m := src.Manifest()
	j.Details = fmt.Sprintf("restored %s, as they were at %s. Roles and role assignments are those of the backup; what was there before can be brought back until %s (restore undo)",
		tally(src.counts, src.versions), m.Created.Format(time.RFC3339), s.cfg.Now().UTC().Add(hsm.KeepReplaced).Format(time.RFC3339))
	if _, among := access.Administrators(src.contents.Assignments, j.By); !among {
		j.Details += ". The caller is no administrator any more"
	}
	effects := []effect{{operation: opRoles, action: access.AssignmentsWrite}}
	if src.counts[kindDeletedKey] > 0 {
		effects = append(effects, effect{operation: opDeletedKeys, action: access.RestoreStart})
	}
	if err := s.intend(ctx, h, j, effects...); err != nil {
		return false, err
	}
	if err := r.Commit(ctx, src.contents, func(w store.Writer) error { return s.succeed(w, h, j) }); err != nil {
		return false, err
	}
	committed = true
	return true, nil
}

// succeed writes the success of a job down in the transaction that makes it one.
func (s *Service) succeed(w store.Writer, h *hsm.HSM, j *Job) error {
	now := s.cfg.Now().UTC()
	j.Status, j.Ended = Succeeded, &now
	return s.put(w, h.ID(), *j)
}

// fill writes all keys into the new place: while some are written, the next are sealed for it, by several at once, and
// those after them are read. The HSM answers nothing meanwhile, so this takes all processors.
func (s *Service) fill(ctx context.Context, src *source, r *hsm.Restore, progress func(backupset.Progress)) error {
	type prepared []*keys.Restorable
	seal := func(ctx context.Context, put func(prepared) error) error {
		return stages(ctx, fullPace(), batch, recordSize, src.records(progress), func(some []backupset.Record) error {
			list, err := prepare(ctx, src, r, some)
			if err != nil {
				return err
			}
			return put(list)
		})
	}
	return stages(ctx, fullPace(), 1, func(prepared) int { return 0 }, seal, func(some []prepared) error {
		for _, list := range some {
			if err := r.Fill(ctx, src.contents.Served, list); err != nil {
				return err
			}
		}
		return nil
	})
}

// prepare seals those of the records that are keys.
func prepare(ctx context.Context, src *source, r *hsm.Restore, some []backupset.Record) ([]*keys.Restorable, error) {
	some = slices.DeleteFunc(some, func(r backupset.Record) bool { return r.Kind != kindKey && r.Kind != kindDeletedKey })
	list := make([]*keys.Restorable, len(some))
	return list, share(len(some), func(i int) (err error) {
		list[i], err = r.Prepare(ctx, src.salt, some[i].Body)
		return err
	})
}

// share does n things on all processors, and returns the first error, after which each worker stops.
func share(n int, do func(i int) error) error {
	errs := make([]error, workers())
	var group sync.WaitGroup
	for w := range errs {
		group.Go(func() {
			defer func() {
				if p := recover(); p != nil { // nobody else would, and the server would end (R4)
					errs[w] = failure.Wrap(failure.Internal, fmt.Errorf("panic: %T", p), "it failed for a reason that is our mistake; nothing was changed")
				}
			}()
			for i := w; i < n && errs[w] == nil; i += len(errs) {
				errs[w] = do(i)
			}
		})
	}
	group.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// recent is Azure's rule, where it is wanted: the HSM that a restore would replace was backed up itself, not just now.
func (s *Service) recent(ctx context.Context, h *hsm.HSM) error {
	if s.cfg.RecentBackup == 0 {
		return nil
	}
	var list []Job
	err := s.cfg.Store.View(ctx, func(r store.Reader) (err error) {
		list, err = s.jobs(r, h.ID())
		return err
	})
	if err != nil {
		return store.Failure(err)
	}
	latest := s.cfg.Now().Add(-s.cfg.RecentBackup)
	for _, j := range list {
		if j.Kind == FullBackup && j.Status == Succeeded && !j.Ended.After(latest) {
			return nil
		}
	}
	return failure.Coded(failure.Conflict, "BackupRequired", "a restore replaces everything, and this server wants a full backup of the HSM that is at least %s old before it; take one, and wait", s.cfg.RecentBackup)
}

// checkRestore does all of a restore but the changing, and says what it would change.
func (s *Service) checkRestore(ctx context.Context, h *hsm.HSM, j *Job, storage backupset.Storage, progress func(backupset.Progress)) (bool, error) {
	if err := s.recent(ctx, h); err != nil {
		return false, err
	}
	src, err := s.open(ctx, h, j, storage)
	if err != nil {
		return false, err
	}
	var added, changed, removed names
	same := int64(0)
	there := map[string]bool{}
	// The store is asked batch by batch: reading a backup takes as long as its store likes, and no transaction may wait for that.
	var some []keys.Copy
	compare := func() error {
		defer func() { some = some[:0] }()
		return h.Snapshot(ctx, func(snap *hsm.Snapshot) error {
			for _, c := range some {
				found, alike, err := snap.Same(ctx, c)
				switch {
				case err != nil:
					return err
				case !found:
					added.add(c.Name)
				case !alike:
					changed.add(c.Name)
				default:
					same++
				}
			}
			return nil
		})
	}
	err = src.verify(ctx, s.pace(), progress, func(c keys.Copy) error {
		there[strings.ToLower(c.Name)] = true
		c.Body = nil
		if some = append(some, c); len(some) == batch {
			return compare()
		}
		return nil
	})
	if err == nil {
		err = compare()
	}
	if err != nil {
		return false, err
	}
	err = h.Snapshot(ctx, func(snap *hsm.Snapshot) error {
		return snap.Names(ctx, func(name string) error {
			if !there[strings.ToLower(name)] {
				removed.add(name)
			}
			return nil
		})
	})
	if err != nil {
		return false, err
	}
	j.Details = fmt.Sprintf("the backup of %s can be restored, with %s. It would add %s, give %s other versions, remove %s, and leave %s with the versions that they have",
		src.Manifest().Created.Format(time.RFC3339), tally(src.counts, src.versions), added.text(), changed.text(), removed.text(), plural(same, "key"))
	switch n, among := access.Administrators(src.contents.Assignments, j.By); {
	case n == 0:
		return false, failure.Coded(failure.Conflict, "LastAdministrator", "the backup has no Managed HSM Administrator, and without one nobody could download the security domain")
	case !among:
		j.Details += ". WARNING: the caller would not be an administrator afterwards"
	}
	return false, nil
}

// names are counted, and the first of them remembered.
type names struct {
	n     int64
	first []string
}

func (n *names) add(name string) {
	if n.n++; len(n.first) < 10 {
		n.first = append(n.first, name)
	}
}

func (n *names) text() string {
	if n.n == 0 {
		return "no key"
	}
	more := ""
	if n.n > int64(len(n.first)) {
		more = " …"
	}
	return fmt.Sprintf("%s (%s%s)", plural(n.n, "key"), strings.Join(n.first, ", "), more)
}

// restoreKey brings one key back from a whole backup.
func (s *Service) restoreKey(ctx context.Context, h *hsm.HSM, j *Job, storage backupset.Storage, progress func(backupset.Progress)) (bool, error) {
	src, err := s.open(ctx, h, j, storage)
	if err != nil {
		return false, err
	}
	var found []byte
	err = src.verify(ctx, s.pace(), progress, func(c keys.Copy) error {
		if strings.EqualFold(c.Name, j.Key) {
			found = slices.Clone(c.Body)
		}
		return nil
	})
	if err != nil {
		return false, err
	}
	if found == nil {
		return false, failure.Coded(failure.NotFound, "KeyNotFound", "the backup has no key %s; its inventory shows what it has", j.Key)
	}
	c, err := keys.ParseCopy(found)
	if err != nil {
		return false, err
	}
	j.Records = 1
	// The words of the service, which counts so.
	j.Details = fmt.Sprintf("Number of successful key versions restored: %d, Number of key versions could not overwrite: 0", len(c.Versions))
	if err := s.intend(ctx, h, j); err != nil {
		return false, err
	}
	_, err = h.RestoreKey(ctx, src.salt, found, func(w store.Writer) error { return s.succeed(w, h, j) })
	return err == nil, err
}
