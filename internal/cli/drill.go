package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"strongroom/internal/backupset"
	"strongroom/internal/drill"
	places "strongroom/internal/target"
	"strongroom/securitydomain"
)

// drilling is what a drill is asked for.
type drilling struct {
	opening         opening
	backup          string
	sasFile, config string
	out             string
	force           bool
}

func (a *app) drillCommand() *cobra.Command {
	var d drilling
	cmd := a.verb("drill", "Rehearse the total loss (offline)", `Does here what would have to be done if everything were lost but the SD file, custodians' keys and a backup: makes an HSM that is thrown away
afterwards, recovers the security domain into it, restores the backup, and uses every version of every key once, also those that are
disabled, expired or deleted. Each has to show the public key, or the check value, that the backup recorded of it.

The HSM has no address: nothing listens, and nothing is sent but what reads the backup. The domain is in this process's memory for as
long as it takes; its database lies in a temporary folder (TMPDIR), sealed under a key that is in memory only, and is removed.

The report says how long each step took, who of the custodians was there and who was not, and what is missing or wrong. The domain signs it:
see drill report verify. Exit code 1 means that the drill failed; there is a report then too, unless the domain could not be recovered.`, 0,
		func(cmd *cobra.Command, _ []string) error { return a.drill(cmd.Context(), d) })
	d.opening.flags(cmd)
	placeFlags(cmd, "backup", "folder of a backup, or its address", &d.backup, &d.sasFile)
	configFlag(cmd, &d.config)
	cmd.Flags().StringVar(&d.out, "out", "", "file to write the signed report to")
	cmd.Flags().BoolVar(&d.force, "force", false, "replace the file if it exists")
	a.requireFlags(cmd, "sd", "key", "backup")
	short := a.drillVerifyCommand() // what drill report verify was first called
	short.Hidden = true
	cmd.AddCommand(noun("report", "Reports of drills", "A drill writes a report of how it went (--out), which the security domain has signed.", a.drillVerifyCommand()), short)
	return cmd
}

// stepNames are the parts of a drill for people.
var stepNames = map[string]string{
	"open-domain": "open the SD file", "make-hsm": "make an HSM", "recover": "recover the domain", "restore": "restore the backup",
	"examine": "look for what is wrong", "use": "use every key",
}

func (a *app) drill(ctx context.Context, d drilling) error {
	place, folder, err := splitBackup(d.backup)
	if err != nil {
		return err
	}
	if d.out != "" {
		inputs := append(append(append([]string{d.opening.sd}, d.opening.keys...), certificatesBeside(d.opening.keys)...), d.opening.passphrases...)
		if err := checkTarget(d.out, d.force, inputs...); err != nil {
			return err
		}
	}
	data, err := readFile(ctx, d.opening.sd, maxDomainFile)
	if err != nil {
		return err
	}
	sd, err := securitydomain.Parse(data)
	if err != nil {
		return inFile(err, d.opening.sd, data)
	}
	s, err := a.openShelf(ctx, place, d.sasFile, d.config)
	if err != nil {
		return err
	}
	// A slip in the name, the token or the SD file is no finding about the backup, and nobody has to bring keys for it. What is wrong with the backup
	// itself is for the report.
	if b, err := backupset.Open(ctx, s, folder); err != nil {
		if ctx.Err() != nil {
			return onlyRead(ctx, err)
		}
		if _, unreadable := errors.AsType[*places.Error](err); unreadable || backupset.CodeOf(err) == backupset.NotThere {
			return notThere(err, s)
		}
	} else if key := sd.SigningKey(); key != nil {
		id, err := securitydomain.DomainID(key)
		if err != nil {
			return err
		}
		if err := b.CheckDomain(id); err != nil {
			return otherDomain(err)
		}
	}
	dir, err := os.MkdirTemp("", "strongroom-drill-*")
	if err != nil {
		return &problem{code: "no-temporary-folder", message: fmt.Sprintf("no folder can be made in %s for the HSM that is thrown away: %s", os.TempDir(), pathMessage(err)), next: "set TMPDIR to a folder that may be written to; nothing was done", cause: err}
	}
	defer func() { _ = os.RemoveAll(dir) }()
	meter := a.meter("")
	defer meter.done()
	report, jws, err := drill.Run(ctx, drill.Options{
		Dir: dir, Storage: s, Place: s.at, Folder: folder, SD: sd,
		Open: func(ctx context.Context) (*securitydomain.Opened, error) {
			meter.done() // a passphrase may be asked for
			return a.open(ctx, d.opening, nil)
		},
		Now: a.now, Rand: a.rand, Log: slog.New(slog.DiscardHandler), Program: "strongroom/" + version(),
		Step: func(name string) { meter.step(stepNames[name]) }, Progress: meter.set,
	})
	meter.done()
	if err != nil {
		return drillProblem(ctx, err, d.opening.sd)
	}
	if d.out != "" {
		if err := writeFile(d.out, append(jws, '\n'), publicFile, d.force); err != nil {
			return err
		}
	}
	if err := a.showDrill(report, d.out, true); err != nil {
		return err
	}
	return drillResult(report)
}

// drillProblem is a drill that could not be held.
func drillProblem(ctx context.Context, err error, sd string) error {
	if ctx.Err() != nil {
		return &problem{code: "interrupted", message: "interrupted; the drill was given up, and what it had made is removed", cause: err}
	}
	if _, ok := errors.AsType[*problem](err); ok {
		return err
	}
	return notOurs(err, sd)
}

// drillResult makes a drill that failed exit code 1.
func drillResult(r *drill.Report) error {
	if r.Passed {
		return nil
	}
	return &problem{code: "drill-failed", message: fmt.Sprintf("the drill failed: the backup %s would not have brought everything back", r.Backup.Folder),
		next: "take a new backup and hold the drill with it; if the HSM lives no more, with an older one: strongroom backup list --in " + r.Backup.Place}
}

func (a *app) showDrill(r *drill.Report, file string, compared bool) error {
	result := struct {
		*drill.Report
		Compared bool     `json:"domain_compared"` // with an SD file
		File     string   `json:"file,omitempty"`
		Warnings []string `json:"warnings,omitempty"`
	}{r, compared, file, a.warned()}
	return a.result(result, func(t *table) {
		if r.Passed {
			t.row("result", "passed: the domain was recovered, the backup restored, and every key did what it should")
		} else {
			t.row("result", "FAILED: "+count(len(r.Findings)+int(r.More), "finding"))
		}
		t.field("report", file)
		t.field("held", fmt.Sprintf("%s to %s, by %s", r.Started.Format(time.RFC3339), r.Finished.Format(time.RFC3339), r.Program))
		domain := r.Domain
		if compared {
			domain += " (that of the SD file)"
		}
		t.field("domain", domain)
		t.field("backup", strings.TrimSuffix(r.Backup.Place, "/")+"/"+r.Backup.Folder)
		if r.Backup.ID != "" {
			t.field("of", fmt.Sprintf("%s, %s before the drill", r.Backup.HSM, elapsed(r.AgeSeconds)))
		}
		t.field("custodians", fmt.Sprintf("%s (%d needed)", labels(r.Custodians), r.Required))
		t.field("not exercised", labels(r.NotExercised))
		t.field("keys", fmt.Sprintf("%d with %s, of which %d did what they should", r.Keys, count(int(r.Versions), "version"), r.Proven))
		if r.Unchecked > 0 {
			t.field("not compared", count(int(r.Unchecked), "version")+" of oct keys: the backup has no check values")
		}
		if r.RecoverySeconds > 0 {
			t.field("recovered in", elapsed(r.RecoverySeconds))
		}
		t.heading("STEPS")
		t.row("STEP", "TIME", "DONE")
		for _, s := range r.Steps {
			t.row(first(stepNames[s.Name], s.Name), (time.Duration(s.Milliseconds) * time.Millisecond).String(), map[bool]string{true: "yes", false: "NO"}[s.Done])
		}
		if len(r.Findings) == 0 {
			return
		}
		t.heading("FOUND")
		t.row("WHAT", "CODE", "REASON")
		for _, f := range r.Findings {
			t.row(f.What(), f.Code, f.Reason)
		}
		if r.More > 0 {
			t.row("…", "", fmt.Sprintf("and %d more", r.More))
		}
	})
}

func labels(list []drill.Custodian) string {
	var names []string
	for _, c := range list {
		names = append(names, first(c.Label, fmt.Sprintf("number %d", c.Position)))
	}
	return strings.Join(names, ", ")
}

// elapsed is a time for people.
func elapsed(seconds int64) string {
	d := time.Duration(seconds) * time.Second
	if d >= 48*time.Hour {
		return count(int(d/(24*time.Hour)), "day")
	}
	return d.String()
}

func (a *app) drillVerifyCommand() *cobra.Command {
	var domain string
	cmd := a.verb("verify FILE", "Check the report of a drill (offline)", `Checks that the report was signed by the security domain that it names, and shows what it says. With --domain the domain is compared with that of an
SD file: without, whoever has a domain of his own can have made it.

Exit code 1 means that the report does not hold, is of another domain, or says that the drill failed.`, 1,
		func(cmd *cobra.Command, args []string) error { return a.drillVerify(cmd.Context(), args[0], domain) })
	cmd.Flags().StringVar(&domain, "domain", "", "SD file of the domain that the report should be of")
	cmd.ValidArgsFunction = nil // files
	return cmd
}

func (a *app) drillVerify(ctx context.Context, path, domain string) error {
	want := ""
	if domain != "" {
		var err error
		if want, err = a.domainOf(ctx, domain); err != nil {
			return err
		}
	}
	text, err := readFile(ctx, path, drill.MaxReport+2)
	if err != nil {
		return err
	}
	report, err := drill.Verify([]byte(strings.TrimSuffix(string(text), "\n")))
	if err != nil {
		p := problemf("bad-report", "give the file that strongroom drill --out wrote, as it was written", "%s is no report of a drill that can be relied on: %v", path, err)
		if errors.Is(err, drill.ErrNewer) {
			p.code, p.next = "unsupported-version", "use a newer version of this program"
		}
		return p
	}
	if want != "" && want != report.Domain {
		return problemf("other-domain", "take the SD file of that domain, or the report of this one", "%s is signed by the domain %s, and not by %s", path, report.Domain, want)
	}
	if want == "" {
		a.warn("no --domain was given: compare the domain ID with the one that was written down at the ceremony; whoever has a domain of his own can have made this report")
	}
	if err := a.showDrill(report, path, want != ""); err != nil {
		return err
	}
	return drillResult(report)
}
