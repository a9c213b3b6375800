package server

import (
	"context"
	"path/filepath"
	"time"

	"strongroom/internal/backup"
	"strongroom/internal/backupset"
	"strongroom/internal/durable"
	"strongroom/internal/failure"
	"strongroom/internal/target"
)

// beginBackups makes what takes and restores backups, and ends what an earlier process did not finish.
func (s *Server) beginBackups(ctx context.Context) error {
	config := s.cfg.Backup.Config
	if s.dev { // which has no configuration file
		data, err := filepath.Abs(s.cfg.Data)
		if err != nil {
			return err
		}
		folder := filepath.Join(data, "backups")
		if err := durable.MkdirAll(folder, 0o700); err != nil {
			return err
		}
		config.Folders = []string{folder}
		config.PrivateNetworks = []string{"127.0.0.0/8"} // a store that was started beside it
	}
	places, err := target.New(config)
	if err != nil {
		return err
	}
	s.backups = backup.New(backup.Config{
		Store: s.store, Seal: s.seal, HSMs: s.hsms, Now: time.Now, Log: s.log, Program: "strongroom/" + s.version,
		RecentBackup: time.Duration(s.cfg.Backup.RecentMinutes) * time.Minute,
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

// backupStorage is a target as package backupset sees it.
type backupStorage struct{ target.Target }

func (b backupStorage) Create(ctx context.Context, name string) (backupset.Object, error) {
	return b.Target.Create(ctx, name)
}

func (b backupStorage) List(ctx context.Context, folder string) ([]backupset.Info, error) {
	found, err := b.Target.List(ctx, folder)
	list := make([]backupset.Info, len(found))
	for i, f := range found {
		list[i] = backupset.Info{Name: f.Name, Size: f.Size}
	}
	return list, err
}

// BackupPlaces reads the [backup] part of a server's configuration file, for commands that look at backups without the server.
func BackupPlaces(configFile string) (target.Config, error) {
	c, err := readConfig(Options{ConfigFile: configFile})
	if err != nil {
		return target.Config{}, err
	}
	return c.Backup.Config, c.Backup.Check()
}
