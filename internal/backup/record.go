package backup

import (
	"context"
	"time"

	"strongroom/internal/access"
	"strongroom/internal/hsm"
)

// Event is something that a job does when nobody calls: the data plane records the call that began it, and this is for
// what comes later.
type Event struct {
	Job       Job
	HSM       string // name
	HSMID     string
	Operation string
	Action    access.Action
	Folder    string        // of the backup that it is about: the job's own, or another that is removed
	Intent    bool          // it is about to be done
	Intended  bool          // it is over, and there was an event with Intent before
	Code      string        // why it failed; empty: it did not
	Took      time.Duration // of the job; 0 in an intent
}

// Operations of events beside the ends of jobs. A full restore has them, because whoever reads the log must see that
// rights and deleted things came back, also where no record of a grant or of a deletion says so (B5).
const (
	opRoles       = "FullRestoreRoles"       // role assignments and custom roles are those of the backup
	opDeletedKeys = "FullRestoreDeletedKeys" // deleted keys are those of the backup: some may have been purged since
)

// ended is what the end of a job is called.
var ended = map[Kind]effect{
	FullBackup:   {operation: "FullBackupEnded", action: access.BackupStart},
	CheckBackup:  {operation: "PreFullBackupEnded", action: access.BackupStart},
	FullRestore:  {operation: "FullRestoreEnded", action: access.RestoreStart},
	CheckRestore: {operation: "PreFullRestoreEnded", action: access.RestoreStart},
	KeyRestore:   {operation: "SelectiveKeyRestoreEnded", action: access.RestoreStart},
}

// byItself is a whole backup that a schedule began.
var byItself = effect{operation: "ScheduledBackup", action: access.BackupStart}

func (j *Job) end() effect {
	if j.Scheduled {
		return byItself
	}
	return ended[j.Kind]
}

// effect is one thing that the end of a job does.
type effect struct {
	operation string
	action    access.Action
	folder    string // of another backup than the job's
}

// tell records one event; nothing where there is no record.
func (s *Service) tell(ctx context.Context, hsmID, name string, j *Job, of effect, intent, intended bool, code string) error {
	if s.cfg.Record == nil {
		return nil
	}
	e := Event{Job: *j, HSM: name, HSMID: hsmID, Operation: of.operation, Action: of.action, Folder: of.folder, Intent: intent, Intended: intended, Code: code}
	if e.Folder == "" {
		e.Folder = j.Folder
	}
	if !intent {
		e.Took = s.cfg.Now().Sub(j.Started)
	}
	return s.cfg.Record(ctx, e)
}

// intend records what the end of a restore is about to do. An error is for the job: what cannot be recorded is not done.
func (s *Service) intend(ctx context.Context, h *hsm.HSM, j *Job, more ...effect) error {
	j.effects = append([]effect{j.end()}, more...)
	for i, one := range j.effects {
		if err := s.tell(ctx, h.ID(), h.Name(), j, one, true, false, ""); err != nil {
			j.effects = j.effects[:i] // those whose intent stands get an outcome
			return err
		}
	}
	return nil
}

// conclude records how a job ended: of what was intended, each thing.
func (s *Service) conclude(h *hsm.HSM, j *Job, cause error) error {
	intended := len(j.effects) > 0
	if !intended {
		j.effects = []effect{j.end()}
	}
	code := ""
	if cause != nil {
		code, _ = describe(cause)
	}
	var failed error
	for _, one := range j.effects {
		// Not under the job's context: that may be what ended it.
		if err := s.tell(context.WithoutCancel(s.ctx), h.ID(), h.Name(), j, one, false, intended, code); err != nil && failed == nil {
			failed = err
		}
	}
	return failed
}
