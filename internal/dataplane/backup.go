package dataplane

import (
	"context"
	"net/http"
	"strings"
	"time"

	"strongroom/internal/api"
	"strongroom/internal/backup"
	"strongroom/internal/failure"
)

// target is where a caller says that a backup lies.
func target(p *api.SASTokenParameter) (backup.Target, error) {
	if p == nil || p.StorageResourceURI == "" {
		return backup.Target{}, failure.New(failure.BadParameter, "storageResourceUri is missing: say where the backup lies")
	}
	if len(p.StorageResourceURI) > 2048 || len(p.Token.Reveal()) > 8192 {
		return backup.Target{}, failure.New(failure.BadParameter, "storageResourceUri has at most 2048 bytes, and token 8192")
	}
	return backup.Target{URI: p.StorageResourceURI, Token: p.Token.Bytes, ManagedIdentity: p.UseManagedIdentity != nil && *p.UseManagedIdentity}, nil
}

// source is the target and the folder of a restore. Clients have one URL of a backup, and take it apart after the first
// part of its path: in Azure that is the container. Where a place has more parts than that, a folder of this machine or an
// account in the path, those that are left come before the folder's name, and go back here.
func source(p *api.SASTokenParameter, folder string) (backup.Target, string, error) {
	t, err := target(p)
	if err != nil {
		return backup.Target{}, "", err
	}
	if i := strings.LastIndexByte(folder, '/'); i >= 0 {
		t.URI, folder = strings.TrimSuffix(t.URI, "/")+"/"+folder[:i], folder[i+1:]
	}
	return t, folder, nil
}

// optionalTarget is target for pre-checks, where all may be left out.
func optionalTarget(p *api.SASTokenParameter) (*backup.Target, error) {
	if p == nil || p.StorageResourceURI == "" {
		return nil, nil
	}
	t, err := target(p)
	return &t, err
}

func (c *call) jobs() (*backup.Service, error) {
	if c.backups == nil {
		return nil, failure.New(failure.Unsupported, "this server takes no backups")
	}
	return c.backups, nil
}

// accepted answers the beginning of a job: clients poll the address in the header, as it is.
func (c *call) accepted(j backup.Job, err error) (answer, error) {
	if err != nil {
		return answer{}, err
	}
	route := "backup"
	if j.Kind.Restores() {
		route = "restore"
	}
	header := map[string]string{"Azure-AsyncOperation": c.base + "/" + route + "/" + j.ID + "/pending", "Retry-After": "1"}
	return answer{status: http.StatusAccepted, header: header, body: job(j)}, nil
}

// job is how a job is told on the routes of its kind.
func job(j backup.Job) any {
	op := operationOf(j)
	if j.Kind.Restores() {
		return op.RestoreOperation
	}
	return op
}

func operationOf(j backup.Job) api.BackupOperation {
	op := api.BackupOperation{RestoreOperation: api.RestoreOperation{Status: string(j.Status), StartTime: j.Started.Unix(), JobID: j.ID}}
	if j.Details != "" {
		op.StatusDetails = &j.Details
	}
	if j.Ended != nil {
		at := j.Ended.Unix()
		op.EndTime = &at
	}
	if j.Status == backup.Failed {
		op.Error = &api.OperationError{Code: j.Code, Message: j.Message}
		op.StatusDetails = &j.Message
	}
	if j.Kind == backup.FullBackup && j.Status == backup.Succeeded {
		at := j.Target + "/" + j.Folder
		op.AzureStorageBlobContainerURI = &at
	}
	return op
}

func startBackup(ctx context.Context, c *call) (answer, error) {
	request, err := decode[api.SASTokenParameter](c)
	if err != nil {
		return answer{}, err
	}
	t, err := target(&request)
	if err != nil {
		return answer{}, err
	}
	jobs, err := c.jobs()
	if err != nil {
		return answer{}, err
	}
	return c.accepted(jobs.Backup(ctx, c.hsm, c.caller, t))
}

func checkBackup(ctx context.Context, c *call) (answer, error) {
	request, err := decode[api.SASTokenParameter](c)
	if err != nil {
		return answer{}, err
	}
	t, err := optionalTarget(&request)
	if err != nil {
		return answer{}, err
	}
	jobs, err := c.jobs()
	if err != nil {
		return answer{}, err
	}
	return c.accepted(jobs.CheckBackup(ctx, c.hsm, c.caller, t))
}

func startRestore(ctx context.Context, c *call) (answer, error) {
	request, err := decode[api.RestoreRequest](c)
	if err != nil {
		return answer{}, err
	}
	t, folder, err := source(request.SASTokenParameters, request.FolderToRestore)
	if err != nil {
		return answer{}, err
	}
	jobs, err := c.jobs()
	if err != nil {
		return answer{}, err
	}
	return c.accepted(jobs.Restore(ctx, c.hsm, c.caller, t, folder))
}

func checkRestore(ctx context.Context, c *call) (answer, error) {
	request, err := decode[api.RestoreRequest](c)
	if err != nil {
		return answer{}, err
	}
	var t *backup.Target
	folder := request.FolderToRestore
	if p := request.SASTokenParameters; p != nil && p.StorageResourceURI != "" {
		from, name, err := source(p, folder)
		if err != nil {
			return answer{}, err
		}
		t, folder = &from, name
	}
	jobs, err := c.jobs()
	if err != nil {
		return answer{}, err
	}
	return c.accepted(jobs.CheckRestore(ctx, c.hsm, c.caller, t, folder))
}

func restoreOneKey(ctx context.Context, c *call) (answer, error) {
	request, err := decode[api.SelectiveRestoreRequest](c)
	if err != nil {
		return answer{}, err
	}
	t, folder, err := source(request.SASTokenParameters, request.Folder)
	if err != nil {
		return answer{}, err
	}
	jobs, err := c.jobs()
	if err != nil {
		return answer{}, err
	}
	return c.accepted(jobs.RestoreKey(ctx, c.hsm, c.caller, t, folder, c.name))
}

func jobStatus(restores bool) func(ctx context.Context, c *call) (answer, error) {
	return func(ctx context.Context, c *call) (answer, error) {
		jobs, err := c.jobs()
		if err != nil {
			return answer{}, err
		}
		j, err := jobs.Status(ctx, c.hsm, c.caller, restores, c.id)
		if err != nil {
			return answer{}, err
		}
		a := answer{status: http.StatusOK, body: job(j)}
		if j.Status == backup.InProgress {
			a.header = map[string]string{"Retry-After": "1"} // else clients ask again after 5 seconds, or 30
		}
		return a, nil
	}
}

func listJobs(ctx context.Context, c *call) (answer, error) {
	jobs, err := c.jobs()
	if err != nil {
		return answer{}, err
	}
	list, err := jobs.Jobs(ctx, c.hsm, c.caller)
	if err != nil {
		return answer{}, err
	}
	out := api.JobList{Value: []api.Job{}}
	for _, j := range list {
		out.Value = append(out.Value, api.Job{BackupOperation: operationOf(j), Kind: string(j.Kind), Target: j.Target, Folder: j.Folder, Key: j.Key, By: j.By})
	}
	return ok(out)
}

func listSchedules(ctx context.Context, c *call) (answer, error) {
	jobs, err := c.jobs()
	if err != nil {
		return answer{}, err
	}
	states, err := jobs.Schedules(ctx, c.hsm, c.caller)
	if err != nil {
		return answer{}, err
	}
	out := api.BackupSchedules{Value: []api.BackupSchedule{}}
	for _, s := range states {
		one := api.BackupSchedule{To: s.URI, Every: int64(s.Every.Seconds()), Keep: s.Keep, Failures: s.Failures}
		if !s.Verified.IsZero() {
			at := s.Verified.Unix()
			one.Verified = &at
		}
		if !s.Next.IsZero() {
			at := s.Next.Unix()
			one.Next = &at
		}
		if l := s.Last; !l.At.IsZero() {
			one.Last = &api.BackupTry{Status: string(l.Status), Time: l.At.Unix(), JobID: l.Job}
			if l.Status == backup.Failed {
				one.Last.Error = &api.OperationError{Code: l.Code, Message: l.Message}
			}
		}
		out.Value = append(out.Value, one)
	}
	return ok(out)
}

func restoreState(ctx context.Context, c *call) (answer, error) {
	p, err := c.hsm.RestorePoint(ctx, c.caller)
	if err != nil {
		return answer{}, err
	}
	var state api.RestoreState
	if p != nil {
		state.RestorePoint = &api.RestorePoint{JobID: p.Job, Replaced: p.Replaced.Unix(), Until: p.Until.Unix()}
	}
	return ok(state)
}

func undoRestore(ctx context.Context, c *call) (answer, error) {
	p, err := c.hsm.UndoRestore(ctx, c.caller)
	if err != nil {
		return answer{}, err
	}
	return ok(api.RestorePoint{JobID: p.Job, Replaced: p.Replaced.Unix(), Until: p.Until.Truncate(time.Second).Unix()})
}
