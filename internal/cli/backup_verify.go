package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"strongroom/internal/backup"
	"strongroom/internal/backupset"
	"strongroom/internal/engine/software"
	"strongroom/internal/failure"
	"strongroom/internal/hsm"
	"strongroom/securitydomain"
)

// verifying are what backup verify is asked for.
type verifying struct {
	sasFile, config string
	domain          string // SD file
	opening         opening
	noInventory     bool
}

func (a *app) backupVerifyCommand() *cobra.Command {
	var v verifying
	cmd := a.verb("verify BACKUP", "Find out whether a backup is good (offline)", `Reads a whole backup, from a folder of this machine, a container or a bucket, and asks no server: that the security domain which it
names has signed it, that nothing is missing, changed or from another backup, and what is in it. Nothing in the inventory is secret.

With --domain the domain is compared with that of an SD file: without, whoever has a domain of his own can have made all of it.

With --key, for each of a quorum of custodians, everything is opened too, in memory: each version of a key is checked as a restore
does it, and against the public key or the check value that was recorded of it. Do that on a machine that you would take the keys to.

Exit code 1 means that something is wrong; all of it is named. That there is a newer backup, none can tell.`, 1,
		func(cmd *cobra.Command, args []string) error {
			if v.domain == "" && (len(v.opening.keys) > 0 || len(v.opening.passphrases) > 0) {
				return a.usage(cmd, errors.New("--key and --passphrase-file open the SD file that --domain names: give that too"))
			}
			if len(v.opening.keys) == 0 && len(v.opening.passphrases) > 0 {
				return a.usage(cmd, errors.New("--passphrase-file is for --key"))
			}
			v.opening.sd = v.domain
			return onlyRead(cmd.Context(), a.backupVerify(cmd.Context(), args[0], v))
		})
	flags := cmd.Flags()
	sasFlag(cmd, &v.sasFile)
	configFlag(cmd, &v.config)
	flags.StringVar(&v.domain, "domain", "", "SD file of the domain that the backup should be of")
	flags.StringArrayVar(&v.opening.keys, "key", nil, "private key of a custodian, to open everything; give it once for each")
	flags.StringArrayVar(&v.opening.passphrases, "passphrase-file", nil, "file with a passphrase, tried on each encrypted key; may be given several times; without it the terminal asks")
	flags.BoolVar(&v.noInventory, "no-inventory", false, "do not list the keys")
	return dirArgument(cmd)
}

// inventoried is a key as the inventory has it.
type inventoried struct {
	Name     string              `json:"name"`
	Deleted  bool                `json:"deleted,omitempty"`
	Versions []backupset.Version `json:"versions"`
}

// badThing is one thing that is wrong with a backup: an object of it, or a key in it.
type badThing struct {
	Object  string `json:"object,omitempty"`
	Key     string `json:"key,omitempty"`
	Version string `json:"version,omitempty"`
	Code    string `json:"code"`
	Reason  string `json:"reason"` // goes on after what is named
}

func (b badThing) what() string {
	switch {
	case b.Key != "" && b.Version != "":
		return "key " + b.Key + ", version " + b.Version
	case b.Key != "":
		return "key " + b.Key
	}
	return b.Object
}

// verified is the result of backup verify.
type verified struct {
	OK       bool             `json:"ok"`
	Backup   string           `json:"backup"`
	HSM      string           `json:"hsm"`
	DomainID string           `json:"domain_id"`
	Compared bool             `json:"domain_compared"` // with an SD file
	Opened   bool             `json:"opened"`          // with custodians' keys
	Created  time.Time        `json:"created"`
	Finished time.Time        `json:"finished"`
	Program  string           `json:"program"`
	Objects  int              `json:"objects"`
	Bytes    int64            `json:"bytes"`
	Counts   map[string]int64 `json:"counts"`
	Versions int64            `json:"versions"`
	// What was opened, with --key.
	Proven     int64                        `json:"versions_opened,omitempty"`
	Unchecked  int64                        `json:"versions_without_check_value,omitempty"`
	Used       []securitydomain.ShareReport `json:"used,omitempty"`
	Findings   []badThing                   `json:"findings"`
	More       int                          `json:"more_findings,omitempty"`
	Foreign    []string                     `json:"foreign,omitempty"` // objects in the folder that are not the backup's
	Keys       []inventoried                `json:"keys,omitempty"`
	Warnings   []string                     `json:"warnings,omitempty"`
	inventoryR bool
}

func (a *app) backupVerify(ctx context.Context, where string, v verifying) error {
	place, folder, err := splitBackup(where)
	if err != nil {
		return err
	}
	s, err := a.openShelf(ctx, place, v.sasFile, v.config)
	if err != nil {
		return err
	}
	want := ""
	if v.domain != "" {
		if want, err = a.domainOf(ctx, v.domain); err != nil {
			return err
		}
	}
	b, err := backupset.Open(ctx, s, folder)
	if err != nil {
		return notThere(err, s)
	}
	if want != "" {
		if err := b.CheckDomain(want); err != nil {
			return otherDomain(err)
		}
	}
	// Before the long work: a passphrase may be asked for, or a key be the wrong one.
	var opened *securitydomain.Opened
	if len(v.opening.keys) > 0 {
		if opened, err = a.open(ctx, v.opening, nil); err != nil {
			return err
		}
		defer wipe(opened.Items)
	}
	meter := a.meter("verifying")
	defer meter.done()
	report, err := b.Verify(ctx, meter.set)
	meter.done()
	if err != nil {
		return backupProblem(err)
	}
	m := b.Manifest()
	result := verified{Backup: s.at + "/" + folder, HSM: m.HSM, DomainID: m.Domain, Compared: want != "", Created: m.Created, Finished: m.Finished, Program: m.Program,
		Objects: report.Objects, Bytes: report.Bytes, Counts: m.Counts, Versions: m.Versions, Findings: []badThing{}, Foreign: report.Foreign}
	for _, f := range report.Findings {
		result.Findings = append(result.Findings, badThing{Object: f.Object, Code: f.Code, Reason: f.Reason})
	}
	lost, err := backup.Lost(ctx, b, report)
	if err != nil {
		return backupProblem(err)
	}
	for _, it := range lost {
		result.Findings = append(result.Findings, badThing{Key: it.Name, Code: "KeyLost", Reason: "is lost: it lies in a part that is missing or was changed"})
	}
	if n := len(report.Foreign) + report.MoreForeign; n > 0 {
		a.warn("the folder has %s that is not the backup's, and that nobody reads: %s", count(n, "object"), strings.Join(report.Foreign[:min(5, len(report.Foreign))], ", "))
	}
	if want == "" {
		a.warn("no --domain was given: compare the domain ID with the one that was written down at the ceremony; whoever has a domain of his own can have made all of this")
	}
	if opened != nil && len(report.Findings) == 0 {
		if err := a.verifyInside(ctx, b, v.domain, opened, meter, &result); err != nil {
			return err
		}
	}
	if !v.noInventory && !slices.ContainsFunc(report.Findings, func(f backupset.Finding) bool { return f.Object == m.Inventory.Name }) {
		result.inventoryR = true
		for it, err := range b.Inventory(ctx) {
			if err != nil {
				return backupProblem(err)
			}
			if len(it.Versions) > 0 {
				result.Keys = append(result.Keys, inventoried{it.Name, it.Deleted, it.Versions})
			}
		}
	}
	result.OK, result.Warnings = len(result.Findings) == 0, a.warned()
	if err := a.result(result, result.show); err != nil {
		return err
	}
	if !result.OK {
		return &problem{code: "backup-not-good", message: fmt.Sprintf("the backup %s is not good: %s", folder, count(len(result.Findings)+result.More, "finding")),
			next: "use another copy of it, or another backup: strongroom backup list --in " + s.at}
	}
	return nil
}

// otherDomain is a backup that is not of the domain of the SD file.
func otherDomain(err error) error {
	p := explain(backupProblem(err))
	p.next = "take the SD file of the domain that the backup is of, or the backup of that domain"
	return p
}

// verifyInside opens everything with the keys of custodians.
func (a *app) verifyInside(ctx context.Context, b *backupset.Backup, sd string, opened *securitydomain.Opened, meter *meter, result *verified) error {
	id, wrapping, backupKey, err := hsm.DomainKeys(opened.Items)
	if err != nil {
		return notOurs(err, sd)
	}
	if err := b.CheckDomain(id); err != nil {
		return backupProblem(err)
	}
	eng, err := software.New(wrapping, backupKey, a.rand, software.Cache(0, 0))
	if err != nil {
		return err
	}
	defer eng.Close()
	meter.what = "opening"
	in, err := backup.Inspect(ctx, b, eng, id, meter.set, nil)
	meter.done()
	if err != nil {
		f, ok := errors.AsType[*failure.Error](err)
		if !ok || f.Code == "" && f.Kind != failure.BadParameter {
			return backupProblem(err)
		}
		p := explain(backupProblem(err))
		result.Findings = append(result.Findings, badThing{Object: "the inside", Code: p.code, Reason: "does not hold together: " + p.message})
	}
	for _, w := range in.Wrong {
		result.Findings = append(result.Findings, badThing{Key: w.Key, Version: w.Version, Code: "KeyWrong", Reason: w.Reason})
	}
	result.Opened, result.Proven, result.Unchecked, result.More, result.Used = true, in.Versions, in.Unchecked, in.More, opened.Used
	if in.Unchecked > 0 {
		a.warn("%s of an oct key opened and could not be compared: the backup was made by a version that records no check values", count(int(in.Unchecked), "version"))
	}
	return nil
}

func (r *verified) show(t *table) {
	t.field("backup", r.Backup)
	t.field("hsm", r.HSM)
	domain := r.DomainID
	if r.Compared {
		domain += " (that of the SD file)"
	}
	t.field("domain", domain)
	t.field("taken", r.Created.Format(time.RFC3339)+" to "+r.Finished.Format(time.RFC3339)+", by "+r.Program)
	t.field("size", fmt.Sprintf("%s in %s", size(r.Bytes), count(r.Objects, "object")))
	t.field("holds", fmt.Sprintf("%s and %s with %s, %s, %s", count(int(r.Counts["key"]), "key"), count(int(r.Counts["deleted-key"]), "deleted key"), count(int(r.Versions), "version"),
		count(int(r.Counts["role-definition"]), "custom role"), count(int(r.Counts["role-assignment"]), "role assignment")))
	if r.Opened {
		var who []string
		for _, u := range r.Used {
			who = append(who, first(u.Custodian, u.Key))
		}
		t.field("opened", fmt.Sprintf("%s, with the keys of %s", count(int(r.Proven), "version"), strings.Join(who, ", ")))
	}
	switch {
	case r.OK && r.Opened:
		t.row("result", "the backup is good: signed, whole, and every key in it opens and is the one that was recorded")
	case r.OK:
		t.row("result", "the backup is signed and whole; whether its keys open is known with --key")
	default:
		t.heading("FOUND")
		t.row("WHAT", "CODE", "REASON")
		for _, f := range r.Findings {
			t.row(f.what(), f.Code, f.Reason)
		}
		if r.More > 0 {
			t.row("…", "", fmt.Sprintf("and %d more", r.More))
		}
	}
	if !r.inventoryR {
		return
	}
	t.heading("KEYS")
	t.row("NAME", "VERSION", "TYPE", "STATE")
	for _, k := range r.Keys {
		for i, v := range k.Versions {
			name := ""
			if i == 0 {
				name = k.Name
			}
			state := map[bool]string{true: "enabled", false: "disabled"}[v.Enabled]
			if k.Deleted {
				state += ", deleted"
			}
			t.row(name, v.ID, versionType(v), state)
		}
	}
}

func versionType(v backupset.Version) string {
	kind := strings.TrimSuffix(v.Type, "-HSM")
	switch {
	case v.Curve != "":
		return kind + " " + v.Curve
	case v.Bits > 0:
		return kind + " " + strconv.Itoa(v.Bits)
	}
	return kind
}

// notOurs explains items that are not those of a Strongroom domain. The server's words are about a transfer file.
func notOurs(err error, sd string) error {
	p := explain(backupProblem(err))
	p.message = sd + ": " + strings.TrimSuffix(strings.ReplaceAll(p.message, "the transfer file", "the SD file"), ". Nothing was changed")
	return p
}

// domainOf is the ID of the domain of an SD file, which its signature proves.
func (a *app) domainOf(ctx context.Context, path string) (string, error) {
	data, err := readFile(ctx, path, maxDomainFile)
	if err != nil {
		return "", err
	}
	file, err := securitydomain.Parse(data)
	if err != nil {
		return "", inFile(err, path, data)
	}
	key := file.SigningKey()
	switch {
	case key != nil:
		return securitydomain.DomainID(key)
	case file.Inspect().Signature == securitydomain.SignatureAbsent:
		return "", problemf("no-public-key", "take an SD file that Strongroom made: strongroom domain download", "%s does not say which domain it is of: it is in the form of Azure", path)
	}
	return "", problemf("signature-does-not-hold", "fetch another copy of the SD file", "%s was changed after it was made: its signature does not hold, and it cannot be told which domain it is of", path)
}
