package client

import (
	"context"
	"errors"
	"net/http"
	"time"

	"strongroom/internal/api"
	"strongroom/secret"
)

// Place is where a backup lies: a container or folder that the server reaches, and the token for it.
type Place struct {
	URI   string
	Token secret.Bytes // empty: none
}

// sasBody is [api.SASTokenParameter] on its way out.
type sasBody struct {
	StorageResourceURI string `json:"storageResourceUri"`
	Token              string `json:"token,omitempty"`
}

func (p Place) body() sasBody { return sasBody{p.URI, string(p.Token.Reveal())} }

// checkVersion is the first stable version of the data plane with pre-checks that is described.
const checkVersion = "2026-04-01"

// Backup begins a full backup.
func (h *HSM) Backup(ctx context.Context, to Place, check bool) (op api.BackupOperation, err error) {
	u := h.url(apiVersion, "backup")
	if check {
		u = h.url(checkVersion, "prebackup")
	}
	_, err = h.send(ctx, request{method: http.MethodPost, url: u, body: to.body()}, &op)
	return op, err
}

// Restore begins a full restore, or with check a look at what it would do.
func (h *HSM) Restore(ctx context.Context, from Place, folder string, check bool) (op api.RestoreOperation, err error) {
	u := h.url(apiVersion, "restore")
	if check {
		u = h.url(checkVersion, "prerestore")
	}
	_, err = h.send(ctx, request{method: http.MethodPut, url: u, body: struct {
		SAS    sasBody `json:"sasTokenParameters"`
		Folder string  `json:"folderToRestore"`
	}{from.body(), folder}}, &op)
	return op, err
}

// RestoreKeyFrom begins the restore of one key from a full backup.
func (h *HSM) RestoreKeyFrom(ctx context.Context, from Place, folder, name string) (op api.RestoreOperation, err error) {
	_, err = h.call(ctx, http.MethodPut, struct {
		SAS    sasBody `json:"sasTokenParameters"`
		Folder string  `json:"folder"`
	}{from.body(), folder}, &op, "keys", name, "restore")
	return op, err
}

// BackupStatus tells how a backup stands.
func (h *HSM) BackupStatus(ctx context.Context, job string) (op api.BackupOperation, err error) {
	_, err = h.call(ctx, http.MethodGet, nil, &op, "backup", job, "pending")
	return op, err
}

// RestoreStatus tells how a restore stands.
func (h *HSM) RestoreStatus(ctx context.Context, job string) (op api.RestoreOperation, err error) {
	_, err = h.call(ctx, http.MethodGet, nil, &op, "restore", job, "pending")
	return op, err
}

// Jobs lists the backups and restores that the HSM remembers, the newest first.
func (h *HSM) Jobs(ctx context.Context) ([]api.Job, error) {
	var list api.JobList
	_, err := h.call(ctx, http.MethodGet, nil, &list, "backup")
	return list.Value, err
}

// BackupSchedules lists the backups that the server takes of the HSM by itself.
func (h *HSM) BackupSchedules(ctx context.Context) ([]api.BackupSchedule, error) {
	var list api.BackupSchedules
	_, err := h.call(ctx, http.MethodGet, nil, &list, "backup", "schedule")
	return list.Value, err
}

// RestorePoint returns what the last restore has replaced; nil if there is nothing.
func (h *HSM) RestorePoint(ctx context.Context) (*api.RestorePoint, error) {
	var state api.RestoreState
	_, err := h.call(ctx, http.MethodGet, nil, &state, "restore")
	return state.RestorePoint, err
}

// UndoRestore goes back to the restore point, and returns it.
func (h *HSM) UndoRestore(ctx context.Context) (p api.RestorePoint, err error) {
	_, err = h.call(ctx, http.MethodPost, nil, &p, "restore", "undo")
	return p, err
}

// Await asks how a job stands until it has ended, more and more rarely, and calls tell with each answer. An HSM that has just
// been restored may not know the caller any more: then how it ended cannot be asked for.
func Await[T any](ctx context.Context, ask func(ctx context.Context) (T, error), running func(T) bool, tell func(T)) (T, error) {
	wait := 100 * time.Millisecond
	for {
		op, err := ask(ctx)
		if err != nil {
			return op, err
		}
		tell(op)
		if !running(op) {
			return op, nil
		}
		select {
		case <-ctx.Done():
			return op, errors.Join(ErrWaiting, ctx.Err())
		case <-time.After(wait):
		}
		wait = min(2*wait, 2*time.Second)
	}
}

// ErrWaiting says that the wait for a job was given up. The job goes on.
var ErrWaiting = errors.New("the wait was given up; the job goes on")
