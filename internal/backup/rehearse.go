package backup

import (
	"context"

	"strongroom/internal/backupset"
	"strongroom/internal/hsm"
)

// Rehearse restores the backup in a folder of a storage into an HSM, as Restore does, and returns when it is done, with what a job
// would say of it. It asks no role, and nobody else is asking: it is for an HSM that was made to be thrown away.
func (s *Service) Rehearse(ctx context.Context, h *hsm.HSM, storage backupset.Storage, folder string, progress func(backupset.Progress)) (details string, err error) {
	id, err := newJobID()
	if err != nil {
		return "", err
	}
	j := Job{ID: id, Kind: FullRestore, Status: InProgress, Folder: folder, Started: s.cfg.Now().UTC()}
	if err := s.begin(ctx, h, j); err != nil {
		return "", err
	}
	_, err = s.restore(ctx, h, &j, storage, progress)
	return j.Details, err
}
