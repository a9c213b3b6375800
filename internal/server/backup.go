package server

import (
	"context"
	"errors"
	"io"
	"time"

	"strongroom/internal/audit"
	"strongroom/internal/backup"
	"strongroom/internal/backupset"
	"strongroom/internal/durable"
	"strongroom/internal/failure"
	"strongroom/internal/target"
)

// beginBackups makes what takes and restores backups, and ends what an earlier process did not finish.
func (s *Server) beginBackups(ctx context.Context) error {
	config, own, err := s.cfg.places(s.dev)
	if err != nil {
		return err
	}
	if own != "" {
		if err := durable.MkdirAll(own, 0o700); err != nil {
			return err
		}
	}
	places, err := target.New(config)
	if err != nil {
		return err
	}
	if s.schedules, err = s.cfg.schedules(s.dev); err != nil {
		return err
	}
	s.backups = backup.New(backup.Config{
		Store: s.store, Seal: s.seal, HSMs: s.hsms, Now: time.Now, Log: s.log, Program: "strongroom/" + s.version,
		RecentBackup: time.Duration(s.cfg.Backup.RecentMinutes) * time.Minute,
		Record:       s.audit.job,
		Schedules:    s.schedules,
		Calls:        s.calls.Load,
		Open: func(_ context.Context, t backup.Target) (backupset.Storage, error) {
			if t.ManagedIdentity {
				return nil, failure.New(failure.BadParameter, "this server has no managed identity; send a SAS token instead of useManagedIdentity")
			}
			l, err := target.ParseStorage(t.URI, t.Token)
			if err != nil {
				return nil, err
			}
			place, err := places.Open(l)
			if err != nil {
				return nil, err
			}
			return backupStorage{place}, nil
		},
	})
	return s.backups.Recover(ctx)
}

// job records what a job does by itself: see backup.Event. The request is the job, and the plane the one that it was begun on.
func (a *auditor) job(ctx context.Context, e backup.Event) error {
	if a == nil {
		return nil
	}
	plane := audit.PlaneData
	if e.Job.Scheduled {
		plane = audit.PlaneServer
	}
	r := audit.Record{Time: time.Now().UTC(), Request: e.Job.ID, Plane: plane, Principal: e.Job.By, HSM: e.HSMID, HSMName: e.HSM,
		Operation: e.Operation, Action: string(e.Action), Key: e.Job.Key, Backup: e.Folder}
	if e.Intent {
		r.Phase = audit.PhaseIntent
	} else {
		if e.Intended {
			r.Phase = audit.PhaseOutcome
		}
		r.Outcome, r.Code, r.Duration = audit.Allowed, e.Code, e.Took.Microseconds()
		if e.Code != "" {
			r.Outcome = audit.Failed
		}
	}
	_, err := a.log.Append(ctx, r)
	return err
}

// backupStorage is a target as package backupset sees it. The words of a target's errors are for the caller: they hold no
// token, and say what to do.
type backupStorage struct{ target.Target }

var _ backup.Shelf = backupStorage{}

func (b backupStorage) Create(ctx context.Context, name string) (backupset.Object, error) {
	o, err := b.Target.Create(ctx, name)
	if err != nil {
		return nil, shown(err)
	}
	return backupObject{o}, nil
}

func (b backupStorage) Open(ctx context.Context, name string) (io.ReadCloser, error) {
	r, err := b.Target.Open(ctx, name)
	if err != nil {
		return nil, shown(err)
	}
	return backupReader{r}, nil
}

func (b backupStorage) Folders(ctx context.Context, prefix string) ([]string, error) {
	list, err := b.Target.Folders(ctx, prefix)
	return list, shown(err)
}

func (b backupStorage) Delete(ctx context.Context, name string) error {
	return shown(b.Target.Delete(ctx, name))
}

func (b backupStorage) Sweep(ctx context.Context, folder string) error {
	return shown(b.Target.Sweep(ctx, folder))
}

func (b backupStorage) List(ctx context.Context, folder string) ([]backupset.Info, error) {
	found, err := b.Target.List(ctx, folder)
	list := make([]backupset.Info, len(found))
	for i, f := range found {
		list[i] = backupset.Info{Name: f.Name, Size: f.Size}
	}
	return list, shown(err)
}

type backupObject struct{ target.Object }

func (o backupObject) Write(p []byte) (int, error) {
	n, err := o.Object.Write(p)
	return n, shown(err)
}

func (o backupObject) Commit() error { return shown(o.Object.Commit()) }

type backupReader struct{ io.ReadCloser }

func (r backupReader) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	return n, shown(err)
}

// shown makes what a target says the message of a failure, and leaves every other error as it is.
func shown(err error) error {
	e, is := errors.AsType[*target.Error](err)
	if !is {
		return err
	}
	return failure.Wrap(failure.Unavailable, err, "%s", e.Why)
}

// BackupPlaces reads the [backup] part of a server's configuration file, for commands that look at backups without the server.
func BackupPlaces(configFile string) (target.Config, error) {
	c, err := readConfig(Options{ConfigFile: configFile})
	if err != nil {
		return target.Config{}, err
	}
	return c.Backup.Config, c.Backup.Check()
}
