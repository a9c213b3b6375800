package hsm

import (
	"context"
	"errors"
	"fmt"
)

// Sweep does on every activated HSM what is due by itself (see [keys.Keys.Sweep]) and says so in the log. The
// server calls it every few minutes while it runs. One HSM's trouble does not keep the others waiting; the errors
// of all are joined.
func (s *Service) Sweep(ctx context.Context) error {
	living, err := s.List(ctx, false)
	if err != nil {
		return err
	}
	var problems []error
	for _, info := range living {
		if info.State != Activated {
			continue
		}
		h := s.handle(info)
		if err := s.clearPlaces(ctx, info.ID); err != nil {
			problems = append(problems, fmt.Errorf("sweep HSM %s: %w", info.Name, err))
		}
		if info.Restoring {
			continue // what is due waits
		}
		k, err := h.Keys(ctx)
		if err != nil {
			problems = append(problems, fmt.Errorf("sweep HSM %s: %w", info.Name, err))
			continue
		}
		done, err := k.Sweep(ctx)
		for _, key := range done.Purged {
			s.cfg.Log.WarnContext(ctx, "key purged at the end of its retention", "hsm", info.Name, "key", key)
		}
		for _, key := range done.Rotated {
			s.cfg.Log.InfoContext(ctx, "key rotated by its policy", "hsm", info.Name, "key", key.Name, "version", key.Version)
		}
		if err != nil {
			problems = append(problems, fmt.Errorf("sweep HSM %s: %w", info.Name, err))
		}
	}
	return errors.Join(problems...)
}

// CountKeys returns how many keys an HSM has, deleted ones too, for those who look after the server. It is no
// caller's, so it asks no role. An HSM that is not activated has none.
func (s *Service) CountKeys(ctx context.Context, name string) (int, error) {
	h, err := s.Open(ctx, name)
	if err != nil {
		return 0, err
	}
	k, err := h.Keys(ctx)
	if err != nil {
		return 0, err
	}
	return k.Count(ctx)
}
