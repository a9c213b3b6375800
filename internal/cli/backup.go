package cli

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"strongroom/internal/api"
	"strongroom/internal/backupset"
	"strongroom/internal/client"
)

func (a *app) backupCommand() *cobra.Command {
	return noun("backup", "Full backups of an HSM", `A full backup holds everything of an HSM: keys with all versions, deleted keys, policies, roles, settings. It can be restored
on every HSM of the same security domain, and nowhere else; without the security domain, and a quorum of its custodians, nobody can open it.`,
		a.backupStartCommand(), a.backupStatusCommand(), a.backupListCommand(), a.backupVerifyCommand(), a.backupScheduleCommand())
}

func (a *app) restoreCommand() *cobra.Command {
	return noun("restore", "Bring an HSM back from a full backup", `A full restore replaces everything of an HSM with what the backup holds, whole or not at all. What was there before can be brought
back for a week, with restore undo.`,
		a.restoreStartCommand(), a.restoreStatusCommand(), a.restoreUndoCommand())
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
		p := &problem{code: v.Code, message: v.Details, next: "see it again with: strongroom backup list", detail: v}
		if what, next, found := strings.Cut(v.Details, "; "); found { // what to do stands behind a semicolon
			p.message, p.next = what, next+"; see it again with: strongroom backup list"
		}
		if v.Kind == "restore" && v.Key == "" && !strings.Contains(v.Details, "othing was changed") { // whole or not at all
			p.next += "; nothing was changed in the HSM"
		}
		return p
	}
	return a.showJob(v)
}

// waitFlags are --no-wait, and --wait for whoever wants to say what goes without saying.
func waitFlags(cmd *cobra.Command, noWait *bool, kind string) {
	cmd.Flags().BoolVar(noWait, "no-wait", false, "return at once; see "+kind+" status")
	cmd.Flags().Bool("wait", true, "return when it is done")
	cmd.MarkFlagsMutuallyExclusive("wait", "no-wait")
	run := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if wait, _ := cmd.Flags().GetBool("wait"); !wait {
			*noWait = true
		}
		return run(cmd, args)
	}
}

func running(op api.RestoreOperation) bool { return op.Status == "InProgress" }

func (a *app) backupStartCommand() *cobra.Command {
	var to, tokenFile string
	var check, noWait bool
	cmd := a.verb("start", "Take a full backup", `Writes everything that the HSM holds at this moment to a new folder below --to, while it goes on serving, and prints that folder. A path is
a folder on the server's machine, which its configuration must allow ([backup] folders).`, 0, func(cmd *cobra.Command, _ []string) error {
		p, err := a.place(cmd, to, tokenFile)
		if err != nil {
			return err
		}
		hsm, err := a.hsm(cmd)
		if err != nil {
			return err
		}
		op, err := hsm.Backup(cmd.Context(), p, check)
		if err != nil {
			return unbegun(cmd.Context(), err, "backup")
		}
		if noWait {
			return a.showJob(viewBackup(op))
		}
		m, job := a.meter("backup"), op.JobID
		op, err = client.Await(cmd.Context(), func(ctx context.Context) (api.BackupOperation, error) { return hsm.BackupStatus(ctx, job) },
			func(op api.BackupOperation) bool { return running(op.RestoreOperation) }, func(op api.BackupOperation) { m.job(op.RestoreOperation) })
		m.done()
		if err != nil {
			return waitProblem(cmd.Context(), err, "backup", job)
		}
		return a.finish(viewBackup(op))
	})
	placeFlags(cmd, "to", "folder of the server's machine, or address of a container or bucket", &to, &tokenFile)
	cmd.Flags().BoolVar(&check, "check", false, "only look whether a backup could be taken; write nothing")
	waitFlags(cmd, &noWait, "backup")
	return a.connected(a.requireFlags(cmd, "to"), settingURL)
}

// waitProblem is what to say when the end of a job was not seen. kind is backup or restore.
func waitProblem(ctx context.Context, err error, kind, job string) error {
	if refused, ok := errors.AsType[*client.Error](err); ok && kind == "restore" && (refused.Code == "AccessDenied" || refused.Status == http.StatusUnauthorized) {
		return &problem{
			code: "restored-out", message: "how the restore ended cannot be asked for: the HSM does not know the caller any more, as it is when a restore has taken effect whose roles are other ones",
			next: "ask an administrator that the backup has: strongroom restore status " + job + "; if there is none, whoever operates the server: strongroom access recover", cause: err,
		}
	}
	if errors.Is(err, client.ErrWaiting) || ctx.Err() != nil {
		return &problem{code: "interrupted", message: "the wait was given up; the " + kind + " goes on in the HSM", next: "see how it stands with: strongroom " + kind + " status " + job, cause: err}
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
	var in, tokenFile, config string
	cmd := a.verb("list", "List backups and restores", `Lists the backups and restores that the HSM remembers, the newest first. With --in it lists the backups that lie at a place instead,
and asks no server: what each says of itself, whether it was finished, and how large it is. It reads no more than that of them; see backup verify.`, 0, func(cmd *cobra.Command, _ []string) error {
		switch {
		case in == "" && cmd.Flags().Changed("in"):
			return a.usage(cmd, errors.New("--in is empty: give the place to look at, or leave it out for what the HSM remembers"))
		case in != "":
			return onlyRead(cmd.Context(), a.listBackups(cmd.Context(), in, tokenFile, config))
		case tokenFile != "" || config != "":
			return a.usage(cmd, errors.New("--sas-file and --config are for the place that --in names"))
		}
		return a.listJobs(cmd)
	})
	placeFlags(cmd, "in", "folder of this machine, or address of a container or bucket: list what lies there", &in, &tokenFile)
	configFlag(cmd, &config)
	return a.connected(cmd, settingURL)
}

func (a *app) listJobs(cmd *cobra.Command) error {
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
			v.Backup = shownPlace(strings.TrimSuffix(j.Target, "/") + "/" + j.Folder)
		}
		views = append(views, v)
	}
	if len(views) == 0 {
		a.say("the HSM remembers no backup and no restore; what lies at a place: strongroom backup list --in PLACE")
	}
	return a.result(views, func(t *table) {
		t.row("STARTED", "KIND", "STATUS", "BACKUP", "JOB")
		for _, v := range views {
			t.row(v.Started.Format(time.RFC3339), v.Kind, v.Status, v.Backup, v.Job)
		}
	})
}

// lyingView is a backup that lies somewhere.
type lyingView struct {
	Backup   string           `json:"backup"`
	HSM      string           `json:"hsm"`
	Time     time.Time        `json:"time"`
	Finished bool             `json:"finished"`
	Bytes    int64            `json:"bytes"`
	DomainID string           `json:"domain_id,omitempty"` // as the manifest says, which that domain has signed
	Counts   map[string]int64 `json:"counts,omitempty"`
	Code     string           `json:"code,omitempty"` // why it cannot be used
	Problem  string           `json:"problem,omitempty"`
}

// listBackups lists what lies at a place. One backup that cannot be used does not hide the others.
func (a *app) listBackups(ctx context.Context, in, tokenFile, config string) error {
	s, err := a.openShelf(ctx, in, tokenFile, config)
	if err != nil {
		return err
	}
	folders, err := s.Folders(ctx, "mhsm-")
	if err != nil {
		return shelfProblem(err)
	}
	views := []lyingView{}
	for _, folder := range folders {
		hsm, at, ok := backupset.ParseFolder(folder)
		if !ok {
			continue
		}
		v := lyingView{Backup: s.at + "/" + folder, HSM: hsm, Time: at}
		objects, err := s.List(ctx, folder)
		if err != nil {
			return shelfProblem(err)
		}
		for _, o := range objects {
			v.Bytes += o.Size
		}
		b, err := backupset.Open(ctx, s, folder)
		switch code := backupset.CodeOf(err); {
		case err == nil:
			m := b.Manifest()
			v.Finished, v.DomainID, v.Counts = true, m.Domain, m.Counts
		case code == "":
			return backupProblem(err)
		default:
			v.Code, v.Problem = code, explain(backupProblem(err)).message
		}
		views = append(views, v)
	}
	if len(views) == 0 {
		if _, _, is := backupset.ParseFolder(path.Base(s.at)); is {
			a.say("%s is a backup itself, or was to be one: strongroom backup verify %s", s.at, s.at)
		} else {
			a.say("no backup lies in %s; one is a folder mhsm-NAME-DIGITS directly in it", s.at)
		}
	}
	slices.SortStableFunc(views, func(a, b lyingView) int { return b.Time.Compare(a.Time) })
	return a.result(views, func(t *table) {
		t.row("TIME", "HSM", "STATE", "SIZE", "KEYS", "DOMAIN", "BACKUP")
		for _, v := range views {
			state, keys := "finished", strconv.FormatInt(v.Counts["key"]+v.Counts["deleted-key"], 10)
			if v.Code == backupset.Unfinished {
				state, keys = "unfinished", "-"
			} else if v.Code != "" {
				state, keys = "unusable: "+v.Problem, "-"
			}
			t.row(v.Time.Format(time.RFC3339), v.HSM, state, size(v.Bytes), keys, orDash(short(v.DomainID)), v.Backup)
		}
	})
}

// short is the beginning of a domain ID, for tables with other columns; JSON has all of it.
func short(id string) string {
	if len(id) > 16 {
		return id[:16] + "…"
	}
	return id
}

// size is a number of bytes for people.
func size(n int64) string {
	switch {
	case n < 10<<10:
		return count(int(n), "byte")
	case n < 10<<20:
		return fmt.Sprintf("%d KiB", n>>10)
	case n < 10<<30:
		return fmt.Sprintf("%d MiB", n>>20)
	}
	return fmt.Sprintf("%d GiB", n>>30)
}

func (a *app) restoreStartCommand() *cobra.Command {
	var from, tokenFile, key string
	var dry, noWait bool
	cmd := a.verb("start", "Restore a full backup, or one key of it", `Replaces everything of the HSM with what the backup holds: keys, deleted keys, policies, roles, settings. The backup is verified as a whole before
anything changes, and then takes effect at once. Meanwhile the HSM answers nothing else. Who is an administrator is what the backup says.

With --key it brings back that one key with all its versions, and changes nothing else. The name must be free: a key that is deleted can be recovered
instead, or purged before.`, 0, func(cmd *cobra.Command, _ []string) error {
		if dry && key != "" {
			return a.usage(cmd, errors.New("--dry-run looks at a full restore, and --key names one key: leave out one of the two"))
		}
		if cmd.Flags().Changed("key") {
			if err := a.checkKey(cmd, key, ""); err != nil { // an empty one too: without a name everything would be restored
				return err
			}
		}
		where, folder, err := splitBackup(from)
		if err != nil {
			return err
		}
		p, err := a.place(cmd, where, tokenFile)
		if err != nil {
			return err
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
			return unbegun(cmd.Context(), err, "restore")
		}
		view := func(op api.RestoreOperation) jobView {
			v := viewRestore("restore", op)
			v.Backup, v.Key = shownPlace(p.URI+"/"+folder), key
			return v
		}
		if noWait {
			return a.showJob(view(op))
		}
		m, job := a.meter("restore"), op.JobID
		op, err = client.Await(cmd.Context(), func(ctx context.Context) (api.RestoreOperation, error) { return hsm.RestoreStatus(ctx, job) }, running, m.job)
		m.done()
		if err != nil {
			return waitProblem(cmd.Context(), err, "restore", job)
		}
		return a.finish(view(op))
	})
	placeFlags(cmd, "from", "folder of a backup, or its address", &from, &tokenFile)
	cmd.Flags().StringVar(&key, "key", "", "restore only the key of this name")
	must(cmd.RegisterFlagCompletionFunc("key", cobra.NoFileCompletions))
	cmd.Flags().BoolVar(&dry, "dry-run", false, "verify the backup and say what would change; change nothing")
	waitFlags(cmd, &noWait, "restore")
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
	cmd.Args = func(cmd *cobra.Command, given []string) error {
		if len(given) > 1 || len(given) == 1 && given[0] == "" {
			return a.usage(cmd, fmt.Errorf("%s takes the ID of one restore, or nothing", cmd.CommandPath()))
		}
		return nil
	}
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
