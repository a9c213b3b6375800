// Package backup takes full backups of HSMs and restores them, as jobs that run beside the calls that asked for them. It
// decides who may, keeps one job at a time for each HSM, and remembers how each ended, over restarts. What is in a backup, and what a
// restore changes, is package hsm's and package keys'; how it is written is package backupset's; where it lies is package
// target's.
package backup

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"time"

	"strongroom/internal/access"
	"strongroom/internal/backupset"
	"strongroom/internal/failure"
	"strongroom/internal/hsm"
	"strongroom/internal/seal"
	"strongroom/internal/store"
	"strongroom/secret"
)

// Target is where a backup lies, as a caller says it.
type Target struct {
	URI             string       // of a container or folder
	Token           secret.Bytes // SAS; empty: none
	ManagedIdentity bool
}

// Config is what a Service stands on. All fields are required unless they say otherwise.
type Config struct {
	Store store.Store
	Seal  seal.Seal
	HSMs  *hsm.Service
	// Open opens a target, or refuses one that the configuration does not allow.
	Open    func(ctx context.Context, t Target) (backupset.Storage, error)
	Now     func() time.Time
	Log     *slog.Logger
	Program string // name and version, for the manifest
	// Schedules are the backups that the server takes by itself, for [Service.Schedules] to show. Optional.
	Schedules []Schedule
	// RecentBackup, if not 0, is how old the newest backup of an HSM must be before it is restored over: Azure's
	// rule, which wants half an hour. 0 asks for none: what a restore replaces is kept as a restore point.
	RecentBackup time.Duration
	// Calls is how many calls the server has taken so far, those about backups not counted. While they come, jobs give way
	// to them. Optional.
	Calls func() uint64
	// Record writes an event to the audit log, on disk when it returns. A restore whose intent it refuses changes nothing,
	// and a backup whose end it refuses counts as failed. Optional.
	Record func(ctx context.Context, e Event) error
}

// Service runs the jobs of all HSMs of one server. Safe for concurrent use.
type Service struct {
	cfg  Config
	ctx  context.Context
	stop context.CancelFunc
	busy sync.WaitGroup

	mu      sync.Mutex
	running map[string]*running // by HSM ID
	closed  bool
	// Of schedules, by Schedule.key: how many tries failed, and the last one that did.
	failures map[string]int64
	tries    map[string]Try
	// unwritten is how the last job of an HSM ended, by the HSM's ID, where that could not be written down.
	unwritten map[string]Job
}

type running struct {
	job      Job
	progress backupset.Progress
	done     chan struct{} // closed when another job may begin
}

// New returns a Service without jobs. See [Service.Recover].
func New(cfg Config) *Service {
	s := &Service{cfg: cfg, running: map[string]*running{}, failures: map[string]int64{}, tries: map[string]Try{}, unwritten: map[string]Job{}}
	s.ctx, s.stop = context.WithCancel(context.Background())
	return s
}

// Close ends running jobs, as failed, and waits for them.
func (s *Service) Close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.stop()
	s.busy.Wait()
}

// Backup begins a full backup. The answer is the job, under way.
func (s *Service) Backup(ctx context.Context, h *hsm.HSM, caller access.Caller, t Target) (Job, error) {
	if err := h.Allowed(ctx, caller, access.BackupStart); err != nil {
		return Job{}, err
	}
	return s.start(ctx, h, caller, Job{Kind: FullBackup, Folder: backupset.FolderName(h.Name(), s.cfg.Now())}, t, s.backup)
}

// CheckBackup begins to look whether a backup could be taken: everything is read and exported, and nothing written.
func (s *Service) CheckBackup(ctx context.Context, h *hsm.HSM, caller access.Caller, t *Target) (Job, error) {
	if err := h.Allowed(ctx, caller, access.BackupStart); err != nil {
		return Job{}, err
	}
	if t == nil {
		t = &Target{}
	}
	return s.start(ctx, h, caller, Job{Kind: CheckBackup}, *t, s.checkBackup)
}

// Restore begins a full restore of the backup in a folder of the target.
func (s *Service) Restore(ctx context.Context, h *hsm.HSM, caller access.Caller, t Target, folder string) (Job, error) {
	if err := h.Allowed(ctx, caller, access.RestoreStart); err != nil {
		return Job{}, err
	}
	return s.start(ctx, h, caller, Job{Kind: FullRestore, Folder: folder}, t, s.restore)
}

// CheckRestore begins to look whether a full restore could be done, and says what it would change.
func (s *Service) CheckRestore(ctx context.Context, h *hsm.HSM, caller access.Caller, t *Target, folder string) (Job, error) {
	if err := h.Allowed(ctx, caller, access.RestoreStart); err != nil {
		return Job{}, err
	}
	if t == nil || folder == "" {
		return Job{}, failure.New(failure.BadParameter, "prerestore looks at a backup: give sasTokenParameters and folderToRestore")
	}
	return s.start(ctx, h, caller, Job{Kind: CheckRestore, Folder: folder}, *t, s.checkRestore)
}

// RestoreKey begins the restore of one key from a full backup.
func (s *Service) RestoreKey(ctx context.Context, h *hsm.HSM, caller access.Caller, t Target, folder, name string) (Job, error) {
	if !access.ValidScope(access.ScopeKey(name)) {
		return Job{}, failure.New(failure.BadParameter, "a key name has 1 to 127 letters (a to z), digits and hyphens")
	}
	if err := h.AllowedKey(ctx, caller, access.RestoreStart, name); err != nil {
		return Job{}, err
	}
	return s.start(ctx, h, caller, Job{Kind: KeyRestore, Folder: folder, Key: name}, t, s.restoreKey)
}

// Status tells how a job of a kind stands. restores says of which routes it is asked. The restore of one key is told to
// whoever began it and to whoever may ask at the scope of that key, too: they can begin one without a right in the whole HSM.
// Anybody else is told what a stranger is told, whether there is such a job or not.
func (s *Service) Status(ctx context.Context, h *hsm.HSM, caller access.Caller, restores bool, id string) (Job, error) {
	action := access.BackupStatus
	if restores {
		action = access.RestoreStatus
	}
	refused := h.Allowed(ctx, caller, action)
	if refused != nil && !(restores && errors.Is(refused, failure.Forbidden)) {
		return Job{}, refused
	}
	j, err := s.job(ctx, h, restores, id)
	if refused != nil && (err != nil || !s.mayKnow(ctx, h, caller, &j)) {
		return Job{}, refused
	}
	if err != nil {
		return Job{}, err
	}
	j = s.asEnded(h.ID(), j)
	if j.Status == InProgress {
		s.mu.Lock()
		if r := s.running[h.ID()]; r != nil && r.job.ID == id {
			j.Records, j.Details = r.progress.Records, progressText(r.progress)
		}
		s.mu.Unlock()
	}
	return j, nil
}

// mayKnow asks whether somebody without a right in the whole HSM may know of a job.
func (s *Service) mayKnow(ctx context.Context, h *hsm.HSM, caller access.Caller, j *Job) bool {
	if j.Kind != KeyRestore {
		return false
	}
	return j.By != "" && access.SamePrincipal(j.By, caller.ObjectID) || h.AllowedKey(ctx, caller, access.RestoreStatus, j.Key) == nil
}

// job reads what is written down of a job.
func (s *Service) job(ctx context.Context, h *hsm.HSM, restores bool, id string) (j Job, err error) {
	none := failure.Coded(failure.NotFound, "JobNotFound", "this HSM knows no such job; the last %d are remembered", maxJobs)
	if !isJobID(id) {
		return Job{}, none
	}
	err = s.cfg.Store.View(ctx, func(r store.Reader) (err error) {
		sealed, there := r.Get(jobKey(h.ID(), id))
		if !there {
			return none
		}
		j, err = s.read(jobKey(h.ID(), id), sealed)
		return err
	})
	if err != nil {
		return Job{}, store.Failure(err)
	}
	if j.Kind.Restores() != restores {
		return Job{}, none
	}
	return j, nil
}

func progressText(p backupset.Progress) string {
	if p.Of > 0 {
		return fmt.Sprintf("%d records, %d of %d bytes", p.Records, p.Bytes, p.Of)
	}
	return fmt.Sprintf("%d records, %d bytes", p.Records, p.Bytes)
}

// Jobs are those that are remembered of an HSM, the newest first.
func (s *Service) Jobs(ctx context.Context, h *hsm.HSM, caller access.Caller) (list []Job, err error) {
	if err := h.Allowed(ctx, caller, access.BackupStatus); err != nil {
		return nil, err
	}
	err = s.cfg.Store.View(ctx, func(r store.Reader) (err error) {
		list, err = s.jobs(r, h.ID())
		return err
	})
	return list, store.Failure(err)
}

// work is what a job does. It returns what to say about it when it went well. ended is true if the job's record was
// written with what the job did.
type work func(ctx context.Context, h *hsm.HSM, j *Job, storage backupset.Storage, progress func(backupset.Progress)) (ended bool, err error)

// folderName is what the folder of a backup may be called, wherever it lies.
var folderName = regexp.MustCompile(`^[0-9A-Za-z_-][0-9A-Za-z._-]{0,127}$`)

// start opens the target, writes the job down and begins its work. One job of an HSM at a time.
func (s *Service) start(ctx context.Context, h *hsm.HSM, caller access.Caller, j Job, t Target, do work) (Job, error) {
	_, err := h.DomainID() // an HSM that is not activated says so first
	if err != nil {
		return Job{}, err
	}
	var storage backupset.Storage
	release := func() {
		if c, closes := storage.(io.Closer); closes {
			_ = c.Close()
		}
	}
	// Before it is written down: with a URL cut at the wrong place, a folder's name ends with the token (B4).
	if j.Kind.Restores() && !folderName.MatchString(j.Folder) {
		return Job{}, failure.New(failure.BadParameter, "the folder to restore is none: give the name of a backup's folder, mhsm-NAME-DIGITS, of at most 128 letters, digits, '.', '_' and '-', without a token")
	}
	if t.URI != "" {
		if storage, err = s.cfg.Open(ctx, t); err != nil {
			return Job{}, err
		}
	} else if j.Kind != CheckBackup {
		return Job{}, failure.New(failure.BadParameter, "storageResourceUri is missing: say where the backup lies")
	}
	if j.ID, err = newJobID(); err != nil {
		release()
		return Job{}, err
	}
	j.Status, j.Started, j.Target, j.By = InProgress, s.cfg.Now().UTC(), strings.TrimRight(t.URI, "/"), caller.ObjectID
	run := &running{job: j, done: make(chan struct{})}
	if err := s.enter(ctx, h.ID(), run); err != nil {
		release()
		return Job{}, err
	}
	done := func() {
		release()
		s.mu.Lock()
		delete(s.running, h.ID())
		s.mu.Unlock()
		close(run.done)
		s.busy.Done()
	}
	if j.Scheduled { // no call has a record of it
		if err := s.intend(ctx, h, &j); err != nil {
			done()
			return Job{}, err
		}
	}
	if err := s.begin(ctx, h, j); err != nil {
		if j.Scheduled {
			if unrecorded := s.conclude(h, &j, err); unrecorded != nil {
				err = errors.Join(err, unrecorded)
			}
		}
		done()
		return Job{}, err
	}
	s.cfg.Log.InfoContext(ctx, "job begun", "hsm", h.Name(), "job", j.ID, "kind", string(j.Kind), "by", j.By)
	go func(j Job) {
		defer done()
		s.finish(h, j, storage, run, do)
	}(j)
	return j, nil
}

// enter takes the one place that an HSM has for jobs. A job whose end can be read already, and which only has to tidy up, is
// waited for: whoever was told that it ended may begin the next one.
func (s *Service) enter(ctx context.Context, hsmID string, run *running) error {
	for {
		s.mu.Lock()
		other, busy := s.running[hsmID]
		if s.closed {
			s.mu.Unlock()
			return failure.New(failure.Unavailable, "the server is stopping; try again")
		}
		if !busy {
			s.running[hsmID] = run
			s.busy.Add(1)
			s.mu.Unlock()
			return nil
		}
		s.mu.Unlock()
		var j Job
		err := s.cfg.Store.View(ctx, func(r store.Reader) (err error) {
			if sealed, there := r.Get(jobKey(hsmID, other.job.ID)); there {
				j, err = s.read(jobKey(hsmID, other.job.ID), sealed)
			}
			return err
		})
		if err != nil {
			return store.Failure(err)
		}
		if j.Ended == nil {
			return failure.Coded(failure.Conflict, "BackupOrRestoreInProgress", "a %s of this HSM is under way (job %s); one at a time, wait for its end", other.job.Kind, other.job.ID)
		}
		select {
		case <-other.done:
		case <-ctx.Done():
			return store.Failure(ctx.Err())
		}
	}
}

// finish does the work of a job and writes down how it ended, in the audit log first.
func (s *Service) finish(h *hsm.HSM, j Job, storage backupset.Storage, run *running, do work) {
	ended, err := s.run(h, &j, storage, run, do)
	log := s.cfg.Log.With("hsm", h.Name(), "job", j.ID, "kind", string(j.Kind))
	if unrecorded := s.conclude(h, &j, err); unrecorded != nil {
		log.ErrorContext(s.ctx, "the end of a job could not be recorded", "error", unrecorded)
		if err == nil && !ended {
			err = failure.Wrap(failure.Unavailable, unrecorded, "it was done, and its end could not be recorded in the audit log; see that the log has space, and do it again")
		}
	}
	if err != nil {
		log.WarnContext(s.ctx, "job failed", "error", err)
		if j.Scheduled {
			s.failed(scheduleKey(h.Name(), j.Target), j.ID, err)
		}
	} else {
		log.InfoContext(s.ctx, "job done", "details", j.Details)
	}
	if ended {
		return
	}
	if err := s.end(h.ID(), j, err); err != nil {
		log.ErrorContext(s.ctx, "the end of a job could not be written down", "error", err)
	}
}

// run does the work. A panic in it is the end of the job and not of the server.
func (s *Service) run(h *hsm.HSM, j *Job, storage backupset.Storage, run *running, do work) (ended bool, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = failure.Wrap(failure.Internal, fmt.Errorf("panic: %T", p), "the job failed for a reason that is our mistake; nothing was changed")
		}
	}()
	return do(s.ctx, h, j, storage, func(p backupset.Progress) {
		s.mu.Lock()
		run.progress = p
		s.mu.Unlock()
	})
}

// Records of a backup besides keys.
const (
	kindHSM        = "hsm"
	kindKey        = "key"
	kindDeletedKey = "deleted-key"
	kindDefinition = "role-definition"
	kindAssignment = "role-assignment"
)

// hsmBody is the record of the HSM itself, the first of a backup.
type hsmBody struct {
	V        int             `json:"v"`
	Salt     []byte          `json:"export_salt"` // under which the keys are exported
	Served   int64           `json:"served_seconds"`
	Settings map[string]bool `json:"settings"`
}

// definitionBody and assignmentBody are roles and what they are assigned to.
type definitionBody struct {
	Name           string          `json:"name"`
	Description    string          `json:"description,omitempty"`
	DataActions    []access.Action `json:"data_actions"`
	NotDataActions []access.Action `json:"not_data_actions,omitempty"`
	Scopes         []string        `json:"assignable_scopes,omitempty"`
}

type assignmentBody struct {
	Principal string `json:"principal"`
	Role      string `json:"role"`
	Scope     string `json:"scope"`
}

const bodyVersion = 1

func marshal(v any) ([]byte, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return nil, failure.Wrap(failure.Internal, err, "a record of the backup cannot be encoded")
	}
	return text, nil
}

// workers is how many keys are prepared at once.
func workers() int { return max(1, runtime.GOMAXPROCS(0)) }
