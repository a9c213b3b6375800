package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"strongroom/internal/backup"
	"strongroom/internal/hsm"
	"strongroom/internal/target"
	"strongroom/secret"
)

const (
	lookEvery     = 20 * time.Second // whether a backup is due
	leastInterval = 5 * time.Minute
	mostInterval  = 31 * 24 * time.Hour
	defaultKeep   = 7
	maxKeep       = 10_000
	maxSchedules  = 200
	maxSASFile    = 8 << 10
)

// places is where backups may go. In development, which has no configuration file, that
// is a folder of the server's own, which is to be made, and what --backup-host names.
func (c Config) places(dev bool) (config target.Config, own string, err error) {
	config = c.Backup.Config
	if !dev {
		return config, "", nil
	}
	data, err := filepath.Abs(c.Data)
	if err != nil {
		return config, "", err
	}
	own = filepath.Join(data, "backups")
	config.Folders = []string{own}
	config.PrivateNetworks = []string{"127.0.0.0/8"} // a store that was started beside it
	return config, own, nil
}

// schedules reads [[backup.schedule]], and touches nothing.
func (c Config) schedules(dev bool) ([]backup.Schedule, error) {
	config, _, err := c.places(dev)
	if err != nil {
		return nil, err
	}
	places, err := target.New(config)
	if err != nil {
		return nil, err
	}
	if len(c.Backup.Schedules) > maxSchedules {
		return nil, fmt.Errorf("[[backup.schedule]]: there are %d, and at most %d", len(c.Backup.Schedules), maxSchedules)
	}
	var list []backup.Schedule
	seen := map[string]bool{}
	for i, one := range c.Backup.Schedules {
		wrong := func(format string, args ...any) error {
			return fmt.Errorf("[[backup.schedule]] %d: "+format, append([]any{i + 1}, args...)...)
		}
		if err := hsm.CheckName(one.HSM); err != nil {
			return nil, wrong("hsm: %w", err)
		}
		l, err := target.ParseStorage(one.To, secret.Bytes{})
		if err == nil {
			err = places.Allows(l)
		}
		if err != nil {
			return nil, wrong("to: %w", err)
		}
		if l.NeedsToken() != (one.SASFile != "") {
			return nil, wrong("sas_file must name a file with the SAS token where to is a container of blobs, and be left out elsewhere")
		}
		every, err := time.ParseDuration(one.Every)
		if err != nil || every < leastInterval || every > mostInterval {
			return nil, wrong("every is %q; it must be a time of %s to %s, as 24h", one.Every, "5m", "744h")
		}
		keep := one.Keep
		if keep == 0 {
			keep = defaultKeep
		}
		if keep < 1 || keep > maxKeep {
			return nil, wrong("keep is %d; it must be 1 to %d, or be left out for %d", one.Keep, maxKeep, defaultKeep)
		}
		to := l.URI()
		if key := strings.ToLower(one.HSM) + " " + to; seen[key] {
			return nil, wrong("another one backs up %s to the same place", one.HSM)
		} else {
			seen[key] = true
		}
		list = append(list, backup.Schedule{HSM: one.HSM, Every: every, Keep: keep, URI: to, Target: func() (backup.Target, error) {
			token, err := sasToken(one.SASFile)
			return backup.Target{URI: to, Token: token}, err
		}})
	}
	return list, nil
}

// sasToken reads a token from a file that only its owner may read.
func sasToken(path string) (token secret.Bytes, err error) {
	if path == "" {
		return token, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return token, err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return token, err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return token, fmt.Errorf("%s can be read by others: chmod 600 %s", path, path)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxSASFile+1))
	defer clear(text)
	if err != nil {
		return token, fmt.Errorf("%s cannot be read", path)
	}
	if len(text) > maxSASFile {
		return token, errors.New(path + " is too long for a SAS token")
	}
	return secret.New([]byte(strings.TrimPrefix(strings.TrimSpace(string(text)), "?"))), nil
}

// backUp takes the backups that are due until ctx ends.
func (s *Server) backUp(ctx context.Context) {
	if len(s.schedules) == 0 {
		return
	}
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	for {
		s.backups.RunDue(ctx, s.schedules)
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}
