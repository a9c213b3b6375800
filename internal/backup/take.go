package backup

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"strings"

	"strongroom/internal/backupset"
	"strongroom/internal/engine"
	"strongroom/internal/failure"
	"strongroom/internal/hsm"
	"strongroom/internal/keys"
)

// backup writes what the HSM holds at one moment.
func (s *Service) backup(ctx context.Context, h *hsm.HSM, j *Job, storage backupset.Storage, progress func(backupset.Progress)) (bool, error) {
	domain, err := h.DomainID()
	if err != nil {
		return false, err
	}
	parts, err := h.Parts()
	if err != nil {
		return false, err
	}
	w, err := backupset.New(ctx, backupset.Options{
		Storage: storage, Folder: j.Folder, Domain: domain, HSM: h.Name(), HSMID: h.ID(), Sealer: parts, Sign: h.Sign,
		Rand: rand.Reader, Clock: s.cfg.Now, Program: s.cfg.Program, Progress: progress,
	})
	if err != nil {
		return false, err
	}
	defer w.Abort()
	err = s.each(ctx, h, func(r backupset.Record) error { return w.Add(ctx, r) })
	if err != nil {
		return false, err
	}
	m, err := w.Finish(ctx)
	if err != nil {
		return false, err
	}
	j.Records = m.Records
	j.Details = tally(m.Counts, m.Versions)
	return false, nil
}

// checkBackup reads and exports everything, and drops it.
func (s *Service) checkBackup(ctx context.Context, h *hsm.HSM, j *Job, storage backupset.Storage, progress func(backupset.Progress)) (bool, error) {
	if storage != nil {
		if _, err := storage.List(ctx, backupset.FolderName(h.Name(), s.cfg.Now())); err != nil {
			return false, failure.Wrap(failure.Unavailable, err, "the place of the backup cannot be read")
		}
	}
	counts, versions, p := map[string]int64{}, int64(0), backupset.Progress{}
	err := s.each(ctx, h, func(r backupset.Record) error {
		counts[r.Kind]++
		versions += int64(len(r.Versions))
		p.Records++
		p.Bytes += int64(len(r.Body))
		progress(p)
		return nil
	})
	if err != nil {
		return false, err
	}
	j.Records = p.Records
	j.Details = "a backup can be taken, of " + tally(counts, versions)
	return false, nil
}

// each yields the records of a backup in their order, of one moment.
func (s *Service) each(ctx context.Context, h *hsm.HSM, yield func(backupset.Record) error) error {
	salt := make([]byte, engine.SaltSize)
	if _, err := io.ReadFull(rand.Reader, salt); err != nil {
		return failure.Wrap(failure.Unavailable, err, "there is no randomness for a backup; try again")
	}
	return h.Snapshot(ctx, func(snap *hsm.Snapshot) error {
		add := func(kind, name string, body any) error {
			text, err := marshal(body)
			if err != nil {
				return err
			}
			return yield(backupset.Record{Item: backupset.Item{Kind: kind, Name: name}, Body: text})
		}
		head := hsmBody{V: bodyVersion, Salt: salt, Served: snap.Served, Settings: map[string]bool{}}
		for _, one := range snap.Settings {
			head.Settings[one.Name] = one.On
		}
		if err := add(kindHSM, strings.ToLower(h.Name()), head); err != nil {
			return err
		}
		for _, d := range snap.Definitions { // in the order of their IDs, as the store has them
			if err := add(kindDefinition, d.ID, definitionBody{Name: d.Name, Description: d.Description, DataActions: d.DataActions, NotDataActions: d.NotDataActions, Scopes: d.Scopes}); err != nil {
				return err
			}
		}
		for _, a := range snap.Assignments {
			if err := add(kindAssignment, a.Name, assignmentBody{Principal: a.PrincipalID, Role: a.RoleDefinitionID, Scope: a.Scope}); err != nil {
				return err
			}
		}
		write := func(c keys.Copy) error {
			item := backupset.Item{Kind: kindKey, Name: strings.ToLower(c.Name), Deleted: c.Deleted}
			if c.Deleted {
				item.Kind = kindDeletedKey
			}
			for _, v := range c.Versions {
				item.Versions = append(item.Versions, backupset.Version{ID: v.ID, Type: string(v.Type), Bits: v.Bits, Curve: v.Curve, Enabled: v.Enabled, Check: v.Check})
			}
			return yield(backupset.Record{Item: item, Body: c.Body})
		}
		turn := s.pace()
		return stage(ctx, turn, 128, func(c keys.Copy) int { return len(c.Body) },
			func(ctx context.Context, put func(keys.Copy) error) error {
				return snap.Keys(ctx, salt, turn.pause, put)
			},
			write)
	})
}

// tally says in words how many of what there are.
func tally(counts map[string]int64, versions int64) string {
	text := plural(counts[kindKey], "key")
	if n := counts[kindDeletedKey]; n > 0 {
		text += " and " + plural(n, "deleted key")
	}
	parts := []string{text + " with " + plural(versions, "version")}
	for _, one := range []struct{ kind, name string }{{kindDefinition, "custom role"}, {kindAssignment, "role assignment"}} {
		if n := counts[one.kind]; n > 0 {
			parts = append(parts, plural(n, one.name))
		}
	}
	return strings.Join(parts, ", ")
}

func plural(n int64, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
