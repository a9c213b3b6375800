package backup

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"strongroom/internal/engine"
	"strongroom/internal/failure"
	"strongroom/internal/hsm"
	"strongroom/internal/store"
	"strongroom/secret"
)

// Kind is what a job does.
type Kind string

// The kinds of jobs.
const (
	FullBackup   Kind = "backup"
	FullRestore  Kind = "restore"
	KeyRestore   Kind = "key-restore"
	CheckBackup  Kind = "prebackup"
	CheckRestore Kind = "prerestore"
)

// Restores reports whether a job of the kind is one of the restore routes.
func (k Kind) Restores() bool { return k == FullRestore || k == KeyRestore || k == CheckRestore }

// Status of a job.
type Status string

// How a job stands, in the words of the protocol.
const (
	InProgress Status = "InProgress"
	Succeeded  Status = "Succeeded"
	Failed     Status = "Failed"
)

// Job is one backup or restore, and how it stands.
//
//	hsm/<id>/job/<job>    seal.Wrap of this as JSON, bound to that key
//
// It holds no token: who reads jobs must not get the store of backups (B4).
type Job struct {
	V       int        `json:"v"`
	ID      string     `json:"id"` // 32 hexadecimal digits
	Kind    Kind       `json:"kind"`
	Status  Status     `json:"status"`
	Started time.Time  `json:"started"`
	Ended   *time.Time `json:"ended,omitempty"`
	Target  string     `json:"target"`           // URI of the place, as the caller wrote it
	Folder  string     `json:"folder,omitempty"` // of the backup, in the place
	Key     string     `json:"key,omitempty"`    // of a key restore
	By      string     `json:"by"`               // principal; Server for a schedule
	// Scheduled says that no principal began it. By cannot: an issuer may call somebody "server".
	Scheduled bool   `json:"scheduled,omitempty"`
	Details   string `json:"details,omitempty"`
	Code      string `json:"code,omitempty"` // of a failure
	Message   string `json:"message,omitempty"`
	Records   int64  `json:"records,omitempty"`

	// Removing are the old backups that it was about to remove. What a kill leaves of one has no manifest, and the next that
	// tidies the place knows by this that it is no backup of somebody else that is still being written.
	Removing []string `json:"removing,omitempty"`

	effects []effect // what was recorded as intended
}

const (
	jobVersion = 1
	maxJobs    = 100 // that are remembered of one HSM
)

func jobPrefix(hsmID string) string  { return "hsm/" + hsmID + "/job/" }
func jobKey(hsmID, id string) string { return jobPrefix(hsmID) + id }

func newJobID() (string, error) {
	var id [16]byte
	if _, err := io.ReadFull(rand.Reader, id[:]); err != nil {
		return "", failure.Wrap(failure.Unavailable, err, "there is no randomness for a job; try again")
	}
	return hex.EncodeToString(id[:]), nil
}

func isJobID(id string) bool {
	b, err := hex.DecodeString(id)
	return err == nil && len(b) == 16 && strings.ToLower(id) == id
}

func (s *Service) put(w store.Writer, hsmID string, j Job) error {
	j.V = jobVersion
	text, err := json.Marshal(j)
	if err != nil {
		return failure.Wrap(failure.Internal, err, "a job cannot be written")
	}
	sealed, err := s.cfg.Seal.Wrap(secret.Take(text), jobKey(hsmID, j.ID))
	if err != nil {
		return failure.Wrap(failure.Internal, err, "a job cannot be sealed")
	}
	w.Put(jobKey(hsmID, j.ID), sealed)
	return nil
}

func (s *Service) read(key string, sealed []byte) (j Job, err error) {
	text, err := s.cfg.Seal.Unwrap(sealed, key)
	if err == nil {
		err = json.Unmarshal(text.Reveal(), &j)
	}
	switch {
	case err != nil:
		return Job{}, failure.Wrap(failure.Tampered, err, "the record of a backup or restore was changed or moved in the database; restore the database from a copy")
	case j.V != jobVersion:
		return Job{}, failure.New(failure.Unsupported, "the record of a backup or restore has version %d and this program knows %d; run the program that wrote it", j.V, jobVersion)
	}
	return j, nil
}

// jobs are all that are remembered of an HSM, the newest first.
func (s *Service) jobs(r store.Reader, hsmID string) (list []Job, err error) {
	for key, sealed := range r.Scan(jobPrefix(hsmID), "") {
		j, err := s.read(key, sealed)
		if err != nil {
			return nil, err
		}
		list = append(list, s.asEnded(hsmID, j))
	}
	slices.SortStableFunc(list, func(a, b Job) int { return b.Started.Compare(a.Started) })
	return list, nil
}

// begin writes a new job down, and forgets the oldest beyond the limit.
func (s *Service) begin(ctx context.Context, h *hsm.HSM, j Job) error {
	hsmID := h.ID()
	s.mu.Lock()
	over, is := s.unwritten[hsmID]
	s.mu.Unlock()
	return store.Failure(s.cfg.Store.Update(ctx, func(w store.Writer) error {
		if err := h.Alive(w); err != nil {
			return err
		}
		list, err := s.jobs(w, hsmID)
		if err != nil {
			return err
		}
		newest := map[string]bool{} // of each schedule: by it is known what is due
		for i, old := range list {
			kept := old.bySchedule(old.Target) && old.Status == Succeeded && !newest[old.Target]
			if kept {
				newest[old.Target] = true
			}
			if i >= maxJobs-1 && !kept {
				w.Delete(jobKey(hsmID, old.ID))
			}
		}
		if is {
			if err := s.putEnd(w, hsmID, over); err != nil {
				return err
			}
		}
		return s.put(w, hsmID, j)
	}))
}

// end writes down how a job ended. cause is nil if it went well. Where that cannot be written, on a full disk above all, it is
// remembered, so that nobody waits for a job that is over, and written with the next job; after a restart it has been interrupted.
func (s *Service) end(hsmID string, j Job, cause error) error {
	now := s.cfg.Now().UTC()
	j.Ended, j.Status = &now, Succeeded
	if cause != nil {
		j.Status, j.Details, j.Records = Failed, "", 0 // they would say what did not come to be
		j.Code, j.Message = describe(cause)
	}
	// Not under the job's context: that may be what ended it.
	err := s.cfg.Store.Update(context.Background(), func(w store.Writer) error { return s.putEnd(w, hsmID, j) })
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.unwritten[hsmID] = j
	} else {
		delete(s.unwritten, hsmID)
	}
	return store.Failure(err)
}

func (s *Service) putEnd(w store.Writer, hsmID string, j Job) error {
	if _, there := w.Get(jobKey(hsmID, j.ID)); !there {
		return nil // the HSM was purged meanwhile, and nothing of it may stay
	}
	return s.put(w, hsmID, j)
}

// asEnded is the end of a job that is read as under way, if it is known and could not be written.
func (s *Service) asEnded(hsmID string, j Job) Job {
	s.mu.Lock()
	defer s.mu.Unlock()
	if over, is := s.unwritten[hsmID]; is && over.ID == j.ID {
		return over
	}
	return j
}

// describe is what the caller is told of a failure. What is none of ours is not shown: it may quote a token.
func describe(err error) (code, message string) {
	if errors.Is(err, context.Canceled) { // whatever whoever noticed it says: the request is long over
		return "Interrupted", "the server was stopped before it was done; nothing was changed, start it again"
	}
	if f, ok := errors.AsType[*failure.Error](err); ok {
		code = f.Code
		if code == "" {
			for _, word := range strings.Fields(string(f.Kind)) { // ASCII words of our own
				code += strings.ToUpper(word[:1]) + word[1:]
			}
		}
		return code, f.Message
	}
	if errors.Is(err, engine.ErrClosed) {
		return "Interrupted", "the HSM was deleted, or the server was stopped, before it was done; nothing was changed"
	}
	return "InternalError", "it failed for a reason that is in the server's log; nothing was changed"
}

// Recover ends what an earlier process did not finish, so that nobody waits for it. The server calls it before it serves.
func (s *Service) Recover(ctx context.Context) error {
	if _, err := s.cfg.HSMs.AbandonRestores(ctx); err != nil {
		return err
	}
	living, deleted, err := s.cfg.HSMs.ListAll(ctx)
	if err != nil {
		return err
	}
	for _, info := range slices.Concat(living, deleted) {
		var cut []Job
		err := s.cfg.Store.Update(ctx, func(w store.Writer) error {
			list, err := s.jobs(w, info.ID)
			if err != nil {
				s.cfg.Log.ErrorContext(ctx, "the jobs of an HSM cannot be read", "hsm", info.Name, "error", err)
				return nil
			}
			for _, j := range list {
				if j.Status != InProgress {
					continue
				}
				now := s.cfg.Now().UTC()
				j.Status, j.Ended, j.Code = Failed, &now, "Interrupted"
				j.Message = "the server was stopped before it was done; nothing was changed, start it again"
				if j.Kind == FullBackup {
					j.Message = fmt.Sprintf("the server was stopped before it was done; the folder %s is unfinished, start a new backup", j.Folder)
				}
				s.cfg.Log.WarnContext(ctx, "a job was interrupted", "hsm", info.Name, "job", j.ID, "kind", string(j.Kind))
				if err := s.put(w, info.ID, j); err != nil {
					return err
				}
				cut = append(cut, j)
			}
			return nil
		})
		if err != nil {
			return store.Failure(err)
		}
		for _, j := range cut {
			if err := s.tell(ctx, info.ID, info.Name, &j, j.end(), false, j.Scheduled, j.Code); err != nil {
				// A server starts on a full disk too, and refuses calls then.
				s.cfg.Log.ErrorContext(ctx, "the end of a job could not be recorded", "hsm", info.Name, "job", j.ID, "error", err)
			}
		}
	}
	return nil
}
