package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"strongroom/internal/api"
	"strongroom/internal/client"
	"strongroom/secret"
)

func (a *app) backupCommand() *cobra.Command {
	return noun("backup", "Full backups of an HSM", `A full backup holds everything of an HSM: keys with all versions, deleted keys, policies, roles, settings. It can be restored
on every HSM of the same security domain, and nowhere else; without the security domain, and a quorum of its custodians, nobody can open it.`,
		a.backupStartCommand(), a.backupStatusCommand(), a.backupListCommand())
}

func (a *app) restoreCommand() *cobra.Command {
	return noun("restore", "Bring an HSM back from a full backup", `A full restore replaces everything of an HSM with what the backup holds, whole or not at all. What was there before can be brought
back for a week, with restore undo.`,
		a.restoreStartCommand(), a.restoreStatusCommand(), a.restoreUndoCommand())
}

const maxTokenFile = 16 << 10

// place reads where a backup lies. A path means a folder of the server's machine that its configuration allows.
func (a *app) place(ctx context.Context, flag, text, tokenFile string) (client.Place, error) {
	if text == "" {
		return client.Place{}, problemf("no-place", fmt.Sprintf("give %s a folder or an address", flag), "it is not said where the backup lies")
	}
	p := client.Place{URI: strings.TrimSuffix(text, "/")}
	if !strings.Contains(text, "://") {
		abs, err := filepath.Abs(text)
		if err != nil {
			return p, problemf("bad-place", "give an absolute path", "%s is no folder", text)
		}
		p.URI = (&url.URL{Scheme: "file", Path: abs}).String()
	} else if strings.Contains(text, "?") {
		return p, problemf("bad-place", "put what follows the ? into a file, and name it with --sas-file: others on this machine see command lines", "the address has a token in it")
	}
	if tokenFile != "" {
		data, err := readFile(ctx, tokenFile, maxTokenFile)
		if err != nil {
			return p, err
		}
		p.Token = secret.New(bytes.TrimPrefix(bytes.TrimSpace(data), []byte("?")))
		clear(data)
		a.warnIfReadable(tokenFile)
	}
	return p, nil
}

func placeFlags(cmd *cobra.Command, flag, what string, text, tokenFile *string) {
	cmd.Flags().StringVar(text, flag, "", what)
	cmd.Flags().StringVar(tokenFile, "sas-file", "", "file with the SAS token of the address; - for stdin")
}

// jobView is a backup or restore as results show it.
type jobView struct {
	Job     string     `json:"job"`
	Kind    string     `json:"kind"`
	Status  string     `json:"status"`
	Details string     `json:"details,omitempty"`
	Started time.Time  `json:"started"`
	Ended   *time.Time `json:"ended,omitempty"`
	Backup  string     `json:"backup,omitempty"` // where the backup lies
	Key     string     `json:"key,omitempty"`
	By      string     `json:"by,omitempty"`
	Code    string     `json:"code,omitempty"`
}

func viewRestore(kind string, op api.RestoreOperation) jobView {
	v := jobView{Job: op.JobID, Kind: kind, Status: op.Status, Started: time.Unix(op.StartTime, 0).UTC()}
	if op.StatusDetails != nil {
		v.Details = *op.StatusDetails
	}
	if op.EndTime != nil {
		t := time.Unix(*op.EndTime, 0).UTC()
		v.Ended = &t
	}
	if op.Error != nil {
		v.Code, v.Details = op.Error.Code, op.Error.Message
	}
	return v
}

func viewBackup(op api.BackupOperation) jobView {
	v := viewRestore("backup", op.RestoreOperation)
	if op.AzureStorageBlobContainerURI != nil {
		v.Backup = shownPlace(*op.AzureStorageBlobContainerURI)
	}
	return v
}

// shownPlace is a place as --from takes it: a folder as its path.
func shownPlace(uri string) string {
	if u, err := url.Parse(uri); err == nil && u.Scheme == "file" {
		return u.Path
	}
	return uri
}

func (a *app) showJob(v jobView) error {
	return a.result(v, func(t *table) {
		t.field("backup", v.Backup)
		t.field("key", v.Key)
		t.field("status", v.Status)
		t.field("details", v.Details)
		t.field("started", v.Started.Format(time.RFC3339))
		if v.Ended != nil {
			t.field("ended", v.Ended.Format(time.RFC3339))
		}
		t.field("job", v.Job)
	})
}

// finish shows how a job ended, and fails if it did.
func (a *app) finish(v jobView) error {
	if v.Status == "Failed" {
		return &problem{code: v.Code, message: v.Details, next: "nothing was changed; see it again with: strongroom backup list"}
	}
	return a.showJob(v)
}

// progress tells how a job goes on: on a terminal in one line that changes, elsewhere not at all, for logs.
func (a *app) progress() (tell func(api.RestoreOperation), done func()) {
	f, ok := a.err.(*os.File)
	if a.format == formatJSON || !ok || !term.IsTerminal(int(f.Fd())) {
		return func(api.RestoreOperation) {}, func() {}
	}
	shown := false
	return func(op api.RestoreOperation) {
			if op.StatusDetails == nil || op.Status != "InProgress" {
				return
			}
			shown = true
			fmt.Fprintf(a.err, "\r\x1b[K%s", oneLine(*op.StatusDetails))
		}, func() {
			if shown {
				fmt.Fprint(a.err, "\r\x1b[K")
			}
		}
}

func running(op api.RestoreOperation) bool { return op.Status == "InProgress" }

func (a *app) backupStartCommand() *cobra.Command {
	var to, tokenFile string
	var check, noWait bool
	cmd := a.verb("start", "Take a full backup", `Writes everything that the HSM holds at this moment to a new folder below --to, while it goes on serving, and prints that folder. A path is
a folder on the server's machine, which its configuration must allow ([backup] folders).`, 0, func(cmd *cobra.Command, _ []string) error {
		p, err := a.place(cmd.Context(), "--to", to, tokenFile)
		if err != nil {
			return err
		}
		hsm, err := a.hsm(cmd)
		if err != nil {
			return err
		}
		op, err := hsm.Backup(cmd.Context(), p, check)
		if err != nil {
			return err
		}
		if noWait {
			return a.showJob(viewBackup(op))
		}
		tell, done := a.progress()
		op, err = client.Await(cmd.Context(), func(ctx context.Context) (api.BackupOperation, error) { return hsm.BackupStatus(ctx, op.JobID) },
			func(op api.BackupOperation) bool { return running(op.RestoreOperation) }, func(op api.BackupOperation) { tell(op.RestoreOperation) })
		done()
		if err != nil {
			return a.waitProblem(err, op.JobID)
		}
		return a.finish(viewBackup(op))
	})
	placeFlags(cmd, "to", "folder, or address of a container", &to, &tokenFile)
	cmd.Flags().BoolVar(&check, "check", false, "only look whether a backup could be taken; write nothing")
	cmd.Flags().BoolVar(&noWait, "no-wait", false, "return at once; see backup status")
	return a.connected(a.requireFlags(cmd, "to"), settingURL)
}

func (a *app) waitProblem(err error, job string) error {
	if errors.Is(err, client.ErrWaiting) {
		return &problem{code: "interrupted", message: "the wait was given up; the job goes on", next: "see how it stands with: strongroom backup status " + job, cause: err}
	}
	return err
}

func (a *app) backupStatusCommand() *cobra.Command {
	cmd := a.verb("status JOB", "Show how a backup stands", "", 1, func(cmd *cobra.Command, args []string) error {
		hsm, err := a.hsm(cmd)
		if err != nil {
			return err
		}
		op, err := hsm.BackupStatus(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		return a.showJob(viewBackup(op))
	})
	return a.connected(cmd, settingURL)
}

func (a *app) backupListCommand() *cobra.Command {
	cmd := a.verb("list", "List the backups and restores that the HSM remembers", "The newest first.", 0, func(cmd *cobra.Command, _ []string) error {
		hsm, err := a.hsm(cmd)
		if err != nil {
			return err
		}
		list, err := hsm.Jobs(cmd.Context())
		if err != nil {
			return err
		}
		views := []jobView{}
		for _, j := range list {
			v := viewBackup(j.BackupOperation)
			v.Kind, v.Key, v.By = j.Kind, j.Key, j.By
			if j.Folder != "" && j.Target != "" {
				v.Backup = shownPlace(j.Target + "/" + j.Folder)
			}
			views = append(views, v)
		}
		return a.result(views, func(t *table) {
			t.row("STARTED", "KIND", "STATUS", "BACKUP", "JOB")
			for _, v := range views {
				t.row(v.Started.Format(time.RFC3339), v.Kind, v.Status, v.Backup, v.Job)
			}
		})
	})
	return a.connected(cmd, settingURL)
}

// splitBackup takes the place of a backup apart: where it lies, and its folder.
func splitBackup(text string) (place, folder string) {
	text = strings.TrimRight(text, "/")
	return path.Dir(text), path.Base(text)
}

func (a *app) restoreStartCommand() *cobra.Command {
	var from, tokenFile, key string
	var dry, noWait bool
	cmd := a.verb("start", "Restore a full backup, or one key of it", `Replaces everything of the HSM with what the backup holds: keys, deleted keys, policies, roles, settings. The backup is verified as a whole before
anything changes, and then takes effect at once. Meanwhile the HSM answers nothing else. Who is an administrator is what the backup says.

With --key it brings back that one key with all its versions, and changes nothing else. The name must be free: a key that is deleted can be recovered
instead, or purged before.`, 0, func(cmd *cobra.Command, _ []string) error {
		if strings.Contains(from, "://") {
			if i := strings.Index(from, "://"); strings.Count(from[i+3:], "/") < 1 {
				return problemf("bad-place", "name the folder of the backup too: ADDRESS/mhsm-NAME-DIGITS", "%s is not a backup", from)
			}
		}
		scheme, rest, isURL := strings.Cut(from, "://")
		var where, folder string
		if isURL {
			where, folder = splitBackup(rest)
			where = scheme + "://" + where
		} else {
			abs, err := filepath.Abs(from)
			if err != nil || from == "" {
				return problemf("bad-place", "give the folder of a backup", "%q is no folder", from)
			}
			where, folder = filepath.Dir(abs), filepath.Base(abs)
		}
		p, err := a.place(cmd.Context(), "--from", where, tokenFile)
		if err != nil {
			return err
		}
		if dry && key != "" {
			return problemf("usage", "leave out one of the two", "--dry-run looks at a full restore, and --key names one key")
		}
		hsm, err := a.hsm(cmd)
		if err != nil {
			return err
		}
		var op api.RestoreOperation
		if key != "" {
			op, err = hsm.RestoreKeyFrom(cmd.Context(), p, folder, key)
		} else {
			op, err = hsm.Restore(cmd.Context(), p, folder, dry)
		}
		if err != nil {
			return err
		}
		view := func(op api.RestoreOperation) jobView {
			v := viewRestore("restore", op)
			v.Backup, v.Key = shownPlace(p.URI+"/"+folder), key
			return v
		}
		if noWait {
			return a.showJob(view(op))
		}
		tell, done := a.progress()
		job := op.JobID
		op, err = client.Await(cmd.Context(), func(ctx context.Context) (api.RestoreOperation, error) { return hsm.RestoreStatus(ctx, job) }, running, tell)
		done()
		if err != nil {
			return a.waitProblem(err, job)
		}
		return a.finish(view(op))
	})
	placeFlags(cmd, "from", "folder of a backup, or its address", &from, &tokenFile)
	cmd.Flags().StringVar(&key, "key", "", "restore only the key of this name")
	cmd.Flags().BoolVar(&dry, "dry-run", false, "verify the backup and say what would change; change nothing")
	cmd.Flags().BoolVar(&noWait, "no-wait", false, "return at once; see restore status")
	return a.connected(a.requireFlags(cmd, "from"), settingURL)
}

func (a *app) restoreStatusCommand() *cobra.Command {
	cmd := a.verb("status [JOB]", "Show how a restore stands, or what could be undone", "Without JOB it shows the restore point: what the last restore has replaced.", -1, func(cmd *cobra.Command, args []string) error {
		hsm, err := a.hsm(cmd)
		if err != nil {
			return err
		}
		if len(args) == 1 {
			op, err := hsm.RestoreStatus(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return a.showJob(viewRestore("restore", op))
		}
		p, err := hsm.RestorePoint(cmd.Context())
		if err != nil {
			return err
		}
		if p == nil {
			a.say("there is no restore point: no restore within the last week")
			return a.result(struct{}{}, func(*table) {})
		}
		return a.showPoint(*p)
	})
	cmd.Args = cobra.MaximumNArgs(1)
	return a.connected(cmd, settingURL)
}

func (a *app) showPoint(p api.RestorePoint) error {
	v := struct {
		Job      string    `json:"job"`
		Replaced time.Time `json:"replaced"`
		Until    time.Time `json:"until"`
	}{p.JobID, time.Unix(p.Replaced, 0).UTC(), time.Unix(p.Until, 0).UTC()}
	return a.result(v, func(t *table) {
		t.field("restore", v.Job)
		t.field("replaced", v.Replaced.Format(time.RFC3339))
		t.field("kept until", v.Until.Format(time.RFC3339))
	})
}

func (a *app) restoreUndoCommand() *cobra.Command {
	cmd := a.verb("undo", "Go back to what was there before the last restore", `Brings back keys, roles and settings as they were before the last restore, whatever was done since. Done again, it brings the restored state back.`, 0, func(cmd *cobra.Command, _ []string) error {
		hsm, err := a.hsm(cmd)
		if err != nil {
			return err
		}
		p, err := hsm.UndoRestore(cmd.Context())
		if err != nil {
			return err
		}
		a.say("undone; to take it back: strongroom restore undo")
		return a.showPoint(p)
	})
	return a.connected(cmd, settingURL)
}
