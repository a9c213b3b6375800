package backup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"
	"strings"
	"time"

	"strongroom/internal/access"
	"strongroom/internal/backupset"
	"strongroom/internal/failure"
	"strongroom/internal/hsm"
	"strongroom/internal/store"
)

// Server is who begins a backup by schedule, in lists. It asks no role. See Job.Scheduled.
const Server = "server"

// Schedule is a full backup that the server takes by itself, again and again.
type Schedule struct {
	HSM   string // name
	Every time.Duration
	Keep  int // finished backups of the HSM that stay in the place; at least 1
	// Target opens the place anew for each backup: credentials may change. URI is that of the place, always the same.
	URI    string
	Target func() (Target, error)
}

func (c Schedule) key() string { return scheduleKey(c.HSM, c.URI) }

func scheduleKey(hsm, uri string) string {
	return strings.ToLower(hsm) + " " + strings.TrimRight(uri, "/")
}

// State is how a schedule stands.
type State struct {
	Schedule
	Verified time.Time // when the newest backup that was read back without a finding was begun; zero: never
	Failures int64     // since the process began
	// Next is when the next one is due: now or earlier where one could begin. Zero: one is under way, or there is no HSM in use to back up.
	Next time.Time
	Last Try // the newest try that is known; zero: none is
}

// Try is one try of a schedule to take a backup.
type Try struct {
	At     time.Time
	Status Status
	Job    string // ID; empty: it could not even begin
	// Code and Message say why it failed, in words for callers.
	Code, Message string
}

// Shelf is a storage that old backups can be removed from.
type Shelf interface {
	backupset.Storage
	// Folders are those with something in them whose names begin with prefix.
	Folders(ctx context.Context, prefix string) ([]string, error)
	// Delete removes an object; fs.ErrPermission from a store that keeps everything.
	Delete(ctx context.Context, name string) error
	// Sweep removes from a folder what writers that died left in it and no listing shows.
	Sweep(ctx context.Context, folder string) error
}

// RunDue begins every backup that is due. The server calls it every now and then. What cannot begin is logged, counted, and tried
// again after a tenth of its interval, a minute to an hour.
func (s *Service) RunDue(ctx context.Context, list []Schedule) {
	for _, c := range list {
		if ctx.Err() != nil {
			return
		}
		log := s.cfg.Log.With("hsm", c.HSM, "to", c.URI)
		h, err := s.cfg.HSMs.Open(ctx, c.HSM)
		if err == nil {
			_, err = h.DomainID()
		}
		if errors.Is(err, failure.NotFound) || errors.Is(err, failure.NotActivated) {
			log.DebugContext(ctx, "a backup by schedule waits for its HSM", "error", err)
			continue // its age tells
		}
		due := false
		if err == nil {
			due, err = s.due(ctx, h, c)
		}
		if err == nil && due {
			err = s.startScheduled(ctx, h, c)
		}
		if errors.Is(err, failure.Conflict) {
			continue // another job is under way
		}
		if err != nil {
			s.failed(c.key(), "", err)
			log.ErrorContext(ctx, "a backup by schedule could not begin", "error", err)
		}
	}
}

// due asks the jobs that are remembered, and the memory of tries that became no job.
func (s *Service) due(ctx context.Context, h *hsm.HSM, c Schedule) (bool, error) {
	now := s.cfg.Now()
	verified, last, err := s.newest(ctx, h.ID(), c)
	return err == nil && !c.next(now, verified, last.At).After(now), err
}

// next is when a backup is due: an interval after the last good one, and not at once after a try that failed.
func (c Schedule) next(now, verified, tried time.Time) time.Time {
	next := now
	wait := func(at time.Time, d time.Duration) {
		// A time to come is one of a clock that was set back, and makes nothing wait.
		if !at.IsZero() && !at.After(now) && at.Add(d).After(next) {
			next = at.Add(d)
		}
	}
	wait(verified, c.Every)
	wait(tried, min(max(c.Every/10, time.Minute), time.Hour))
	return next
}

// newest returns when the newest backup of a schedule that succeeded was begun, and the newest try.
func (s *Service) newest(ctx context.Context, hsmID string, c Schedule) (verified time.Time, last Try, err error) {
	err = s.cfg.Store.View(ctx, func(r store.Reader) error {
		list, err := s.jobs(r, hsmID)
		for _, j := range list {
			if !j.bySchedule(c.URI) {
				continue
			}
			if last.At.IsZero() {
				last = Try{At: j.Started, Status: j.Status, Job: j.ID, Code: j.Code, Message: j.Message}
			}
			if j.Status == Succeeded {
				verified = j.Started
				break
			}
		}
		return err
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	if try := s.tries[c.key()]; try.At.After(last.At) {
		last = try
	}
	return verified, last, store.Failure(err)
}

func (j *Job) bySchedule(uri string) bool {
	return j.Kind == FullBackup && j.Scheduled && j.Target == strings.TrimRight(uri, "/")
}

func (s *Service) failed(key, job string, cause error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failures[key]++
	t := Try{At: s.cfg.Now(), Status: Failed, Job: job}
	t.Code, t.Message = describe(cause)
	s.tries[key] = t
}

// States tell how schedules stand.
func (s *Service) States(ctx context.Context, list []Schedule) ([]State, error) {
	out := make([]State, len(list))
	for i, c := range list {
		out[i].Schedule = c
		s.mu.Lock()
		out[i].Failures = s.failures[c.key()]
		s.mu.Unlock()
		info, err := s.cfg.HSMs.Get(ctx, c.HSM)
		if errors.Is(err, failure.NotFound) {
			continue
		}
		if err == nil {
			out[i].Verified, out[i].Last, err = s.newest(ctx, info.ID, c)
		}
		if err != nil {
			return nil, err
		}
		if now := s.cfg.Now(); info.State == hsm.Activated && out[i].Last.Status != InProgress {
			out[i].Next = c.next(now, out[i].Verified, out[i].Last.At)
		}
	}
	return out, nil
}

// Schedules tell how the schedules of one HSM stand.
func (s *Service) Schedules(ctx context.Context, h *hsm.HSM, caller access.Caller) ([]State, error) {
	if err := h.Allowed(ctx, caller, access.BackupStatus); err != nil {
		return nil, err
	}
	var list []Schedule
	for _, c := range s.cfg.Schedules {
		if strings.EqualFold(c.HSM, h.Name()) {
			list = append(list, c)
		}
	}
	return s.States(ctx, list)
}

func (s *Service) startScheduled(ctx context.Context, h *hsm.HSM, c Schedule) error {
	t, err := c.Target()
	if err != nil {
		return failure.Wrap(failure.Unavailable, err, "the SAS token of the place cannot be read; the server's log says why, and its operator can mend it")
	}
	work := func(ctx context.Context, h *hsm.HSM, j *Job, storage backupset.Storage, progress func(backupset.Progress)) (bool, error) {
		if err := s.verified(ctx, h, j, storage, progress); err != nil {
			return false, err
		}
		s.tidy(ctx, h, j, storage, c.Keep)
		return false, nil
	}
	_, err = s.start(ctx, h, access.Caller{ObjectID: Server}, Job{Kind: FullBackup, Scheduled: true, Folder: backupset.FolderName(h.Name(), s.cfg.Now())}, t, work)
	return err
}

// verified takes a backup and reads it back, as it lies there now.
func (s *Service) verified(ctx context.Context, h *hsm.HSM, j *Job, storage backupset.Storage, progress func(backupset.Progress)) error {
	if _, err := s.backup(ctx, h, j, storage, progress); err != nil {
		return err
	}
	src, err := s.open(ctx, h, j, storage)
	if err != nil {
		return err
	}
	pace := s.pace()
	report, err := src.Verify(ctx, func(p backupset.Progress) {
		progress(p)
		pace.pause()
	})
	if err == nil {
		err = report.Err()
	}
	if err != nil {
		return err
	}
	j.Details += fmt.Sprintf("; read back and verified, %d objects of %d bytes", report.Objects, report.Bytes)
	return nil
}

// tidy removes what is beyond keep: of finished backups of this very HSM the oldest, and of unfinished ones those that a schedule
// has left here. What it cannot read or remove, it leaves: a place with too much in it is better than one with too little.
func (s *Service) tidy(ctx context.Context, h *hsm.HSM, j *Job, storage backupset.Storage, keep int) {
	log := s.cfg.Log.With("hsm", h.Name(), "job", j.ID)
	shelf, ok := storage.(Shelf)
	if !ok {
		return
	}
	domain, err := h.DomainID()
	if err != nil {
		return
	}
	folders, err := shelf.Folders(ctx, "mhsm-"+h.Name()+"-")
	if err != nil {
		log.WarnContext(ctx, "old backups could not be listed", "error", err)
		return
	}
	var jobs []Job
	if err := s.cfg.Store.View(ctx, func(r store.Reader) (err error) { jobs, err = s.jobs(r, h.ID()); return err }); err != nil {
		log.WarnContext(ctx, "old backups were not removed", "error", err)
		return
	}
	var finished, remove []string
	for _, folder := range folders {
		name, _, is := backupset.ParseFolder(folder)
		if !is || !strings.EqualFold(name, h.Name()) || folder == j.Folder {
			continue
		}
		b, err := backupset.Open(ctx, shelf, folder)
		switch {
		case err == nil:
			if m := b.Manifest(); m.Domain == domain && m.HSMID == h.ID() {
				finished = append(finished, folder)
			}
		case backupset.CodeOf(err) == backupset.Unfinished:
			if slices.ContainsFunc(jobs, func(old Job) bool {
				return old.bySchedule(j.Target) && (old.Status == Failed && old.Folder == folder || slices.Contains(old.Removing, folder))
			}) {
				remove = append(remove, folder)
			}
		default:
			log.WarnContext(ctx, "an old backup cannot be read, and stays", "folder", folder, "error", err)
		}
	}
	slices.Sort(finished) // the time is in the name
	if n := len(finished) - (keep - 1); n > 0 {
		remove = append(remove, finished[:n]...)
	}
	s.sweep(ctx, j, jobs, shelf, folders, log)
	if len(remove) == 0 {
		return
	}
	j.Removing = remove
	if err := s.cfg.Store.Update(ctx, func(w store.Writer) error { return s.putEnd(w, h.ID(), *j) }); err != nil {
		log.WarnContext(ctx, "old backups were not removed", "error", err)
		j.Removing = nil
		return
	}
	removed := 0
	for _, folder := range remove {
		if err := s.remove(ctx, h, j, shelf, folder); err != nil {
			log.WarnContext(ctx, "an old backup could not be removed", "folder", folder, "error", err)
			if errors.Is(err, fs.ErrPermission) {
				break // a store that keeps everything
			}
			continue
		}
		removed++
		j.Removing = slices.DeleteFunc(slices.Clone(j.Removing), func(gone string) bool { return gone == folder })
		log.InfoContext(ctx, "old backup removed", "folder", folder)
	}
	switch left := len(remove) - removed; {
	case left > 0:
		j.Details += fmt.Sprintf("; %s beyond the %d that are kept could not be removed", plural(int64(left), "old backup"), keep)
	case removed > 0:
		j.Details += "; removed " + plural(int64(removed), "old backup")
	}
}

// sweep removes what is left of backups that came to no object, those since the one of the schedule that succeeded last.
func (s *Service) sweep(ctx context.Context, j *Job, jobs []Job, shelf Shelf, listed []string, log *slog.Logger) {
	for _, old := range jobs {
		switch {
		case !old.bySchedule(j.Target) || old.ID == j.ID:
			continue
		case old.Status == Succeeded:
			return
		case old.Status == Failed && !slices.Contains(listed, old.Folder):
			s.sweepFolder(ctx, shelf, old.Folder, log)
		}
	}
}

func (s *Service) sweepFolder(ctx context.Context, shelf Shelf, folder string, log *slog.Logger) {
	if err := shelf.Sweep(ctx, folder); err != nil {
		log.WarnContext(ctx, "what dead writers left of a backup could not be removed", "folder", folder, "error", err)
	}
}

// removal is that of one old backup.
func removal(folder string) effect {
	return effect{operation: "OldBackupRemoved", action: access.BackupStart, folder: folder}
}

func (s *Service) remove(ctx context.Context, h *hsm.HSM, j *Job, shelf Shelf, folder string) error {
	objects, err := shelf.List(ctx, folder)
	if err != nil {
		return err
	}
	if err := s.tell(ctx, h.ID(), h.Name(), j, removal(folder), true, false, ""); err != nil {
		return err
	}
	// The manifest first: from then on it is an unfinished backup, and not a damaged one.
	slices.SortStableFunc(objects, func(a, b backupset.Info) int {
		switch {
		case a.Name == backupset.ManifestName:
			return -1
		case b.Name == backupset.ManifestName:
			return 1
		}
		return 0
	})
	for _, o := range objects {
		if err = shelf.Delete(ctx, folder+"/"+o.Name); err != nil {
			break
		}
	}
	if err == nil {
		s.sweepFolder(ctx, shelf, folder, s.cfg.Log.With("hsm", h.Name(), "job", j.ID)) // what no listing shows is no backup either
	}
	code := ""
	if err != nil {
		code, _ = describe(err)
	}
	return errors.Join(err, s.tell(context.WithoutCancel(ctx), h.ID(), h.Name(), j, removal(folder), false, true, code))
}
