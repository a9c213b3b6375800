package cli

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"strongroom/internal/audit"
)

// maxProofFile bounds what is read as a proof or as a checkpoint, in bytes.
const maxProofFile = 64 << 10

func (a *app) auditCommand() *cobra.Command {
	return noun("audit", "The record of what was asked and done, and whether it is whole", `The audit log is a folder of text files, one JSON object a line. These commands read it, on the server or
from a copy, without a network and without changing it. DIR is a server's data folder, or a copy of the folder "audit" in it.

See docs/audit.md for what is recorded, and for what the log cannot show.`,
		a.auditVerifyCommand(), a.auditShowCommand(), a.auditProveCommand(), a.auditCheckProofCommand(), a.auditCheckpointCommand())
}

const keyFlagUsage = "file with a public key that signs checkpoints (PEM: the audit-key.pem of the server, or what strongroom domain public-key wrote); may be repeated"

// auditKeys reads the public keys that a command is given.
func auditKeys(ctx context.Context, files []string) (keys []crypto.PublicKey, err error) {
	for _, file := range files {
		text, err := readFile(ctx, file, maxKeyFile)
		if err != nil {
			return nil, err
		}
		k, err := audit.ParsePublicKey(text)
		if err != nil {
			return nil, &problem{code: "bad-key", message: fmt.Sprintf("%s: %s", file, auditText(err)), next: "give a PEM file that begins with -----BEGIN PUBLIC KEY----- or -----BEGIN CERTIFICATE-----; that of a domain comes out of its SD file: strongroom domain public-key", cause: err}
		}
		keys = append(keys, k)
	}
	return keys, nil
}

// auditText is the text of an error of the audit package without the name of the package.
func auditText(err error) string { return strings.TrimPrefix(err.Error(), "audit: ") }

// auditProblem says what is wrong with a log and what to do.
func auditProblem(dir string, err error) error {
	p := &problem{code: "audit", message: auditText(err), cause: err}
	switch {
	case errors.Is(err, context.Canceled):
		return err
	case errors.Is(err, fs.ErrNotExist):
		p.code, p.message, p.next = "no-such-log", "there is no audit log in "+dir, "give the data folder of a server, or a copy of the folder audit in it"
	case errors.Is(err, syscall.ENOTDIR):
		p.code, p.message, p.next = "no-such-log", dir+" is a file, and an audit log is a folder", "give the data folder of a server, or a copy of the folder audit in it"
	case errors.Is(err, fs.ErrPermission):
		p.code, p.message, p.next = "permission-denied", pathMessage(err), "read the log as the user that the server runs as, or give a copy"
	case errors.Is(err, audit.ErrFormat):
		p.code = "unsupported-version"
	case errors.Is(err, audit.ErrNoRecord):
		p.code, p.next = "no-such-record", "see which there are with: strongroom audit verify "+dir
	case errors.Is(err, audit.ErrDamaged):
		p.code, p.next = "audit-damaged", "see what is wrong with: strongroom audit verify "+dir
	}
	return p
}

func (a *app) auditVerifyCommand() *cobra.Command {
	var keyFiles, checkpointFiles []string
	cmd := a.verb("verify DIR", "Find out whether the log was changed", `Reads the whole log and says of every record that was changed, removed, repeated or moved which it is, and whether
the root hashes are those that were signed.

With --key the signatures are checked. Without, only the hashes are: the log is whole in itself, and may still have
been made anew by somebody.

A log that was cut back to an earlier checkpoint, or put back to an older copy, looks whole. Keep a newer checkpoint
elsewhere (strongroom audit checkpoint) and give it with --checkpoint: then it shows.

Exit code 1 means that something was found.`, 1,
		func(cmd *cobra.Command, args []string) error {
			return a.auditVerify(cmd.Context(), args[0], keyFiles, checkpointFiles)
		})
	cmd.Flags().StringArrayVar(&keyFiles, "key", nil, keyFlagUsage)
	cmd.Flags().StringArrayVar(&checkpointFiles, "checkpoint", nil, "file with a checkpoint that was kept elsewhere; may be repeated")
	return dirArgument(cmd)
}

// dirArgument completes the one argument of a command with folders.
func dirArgument(cmd *cobra.Command) *cobra.Command {
	cmd.ValidArgsFunction = func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return nil, cobra.ShellCompDirectiveFilterDirs
	}
	return cmd
}

func (a *app) auditVerify(ctx context.Context, dir string, keyFiles, checkpointFiles []string) error {
	keys, err := auditKeys(ctx, keyFiles)
	if err != nil {
		return err
	}
	var kept []string
	for _, file := range checkpointFiles {
		text, err := readFile(ctx, file, maxProofFile)
		if err != nil {
			return err
		}
		kept = append(kept, string(text))
	}
	r, err := audit.Verify(ctx, dir, audit.VerifyOptions{Keys: keys, Checkpoints: kept})
	if bad, ok := errors.AsType[*audit.CheckpointError](err); ok {
		return &problem{code: "bad-checkpoint", message: fmt.Sprintf("%s: %v", checkpointFiles[bad.Index], bad.Err), next: "give a file that strongroom audit checkpoint wrote, and the key that signed it", cause: err}
	}
	if err != nil {
		return auditProblem(dir, err)
	}
	if len(keys) == 0 {
		a.warn("no key was given: the hashes were checked, and no signature; whoever may write to the folder can have made all of it")
	}
	if r.Torn > 0 {
		a.warn("the last %d bytes are no whole line: the log is in use, or a write was cut off by a crash; a server that starts says so in the log", r.Torn)
	}
	if len(keys) > 0 && r.OK() && r.Signed < r.Records {
		a.warn("the last %d records are in no checkpoint of the given keys yet", r.Records-r.Signed)
	}
	if r.First > 0 {
		a.warn("the log begins with record %d here: what stands before is not looked at", r.First)
	}
	result := struct {
		OK bool `json:"ok"`
		*audit.Result
		Warnings []string `json:"warnings,omitempty"`
	}{r.OK(), r, a.warned()}
	if err := a.result(result, func(t *table) { showVerified(t, r, len(keys), len(kept)) }); err != nil {
		return err
	}
	if !r.OK() {
		next := "keep the folder as it is, and compare it with a copy from elsewhere"
		if !slices.ContainsFunc(r.Findings, func(f audit.Finding) bool { return f.Kind != audit.FoundUnsigned }) {
			next = "is it the key of this log? A server and a domain that are new sign within ten seconds, so look again then; else " + next
		}
		return &problem{code: "audit-changed", message: "the audit log is not what it was: " + count(len(r.Findings)+r.More, "finding"), next: next}
	}
	return nil
}

func showVerified(t *table, r *audit.Result, keys, kept int) {
	t.field("log", r.Log)
	t.field("server", r.Server)
	t.row("records", fmt.Sprintf("%d to %d, in %s", r.First, r.Records-1, count(r.Segments, "file")))
	t.row("checkpoints", strconv.Itoa(r.Checkpoints))
	if r.OK() {
		t.row("root hash", r.Root.String())
	}
	if r.Recovered > 0 {
		t.row("recoveries", fmt.Sprintf("%d (after a crash; see: strongroom audit show)", r.Recovered))
	}
	for _, k := range r.Keys {
		t.row("signed", fmt.Sprintf("records below %d, in %s, by %s", k.Records, count(k.Checkpoints, "checkpoint"), k.Name))
	}
	if keys > 0 && r.Foreign > 0 {
		t.row("not signed", "by the given keys: "+count(r.Foreign, "checkpoint"))
	}
	switch {
	case !r.OK():
		t.heading("FOUND")
		t.row("RECORD", "WHAT", "FILE", "REASON")
		for _, f := range r.Findings {
			number := strconv.FormatInt(f.Record, 10)
			if f.Through != f.Record {
				number += "-" + strconv.FormatInt(f.Through, 10)
			}
			t.row(number, f.Kind, f.Segment, f.Reason)
		}
		if r.More > 0 {
			t.row("…", "", "", fmt.Sprintf("and %d more", r.More))
		}
		return
	case keys == 0:
		t.row("result", "the hashes hold; no signature was checked")
	default:
		t.row("result", "the log is whole, and signed")
	}
	if kept > 0 {
		t.row("kept", count(kept, "checkpoint")+", which the log contains")
	}
}

func (a *app) auditShowCommand() *cobra.Command {
	var (
		f            audit.Filter
		since, until string
	)
	cmd := a.verb("show DIR", "Show records", `Shows the records that pass all of the given filters, in order. It does not verify them: strongroom audit verify does.

Times are RFC 3339 (2026-11-25T03:00:00Z), dates (2026-11-25, in UTC), or how long ago (36h, 15m). Names are compared
without regard to capitals. With --output json each record is one line, as it stands in the log but for the hash.`, 1,
		func(cmd *cobra.Command, args []string) (err error) {
			if f.Outcome != "" && !slices.ContainsFunc(outcomes, func(o string) bool { return strings.EqualFold(o, f.Outcome) }) {
				return a.usage(cmd, fmt.Errorf("--outcome %q is not known: use one of %s", f.Outcome, strings.Join(outcomes, ", ")))
			}
			if f.Since, err = a.auditTime(cmd, "since", since); err != nil {
				return err
			}
			if f.Until, err = a.auditTime(cmd, "until", until); err != nil {
				return err
			}
			return a.auditShow(cmd.Context(), args[0], f)
		})
	flags := cmd.Flags()
	flags.StringVar(&since, "since", "", "not before this time")
	flags.StringVar(&until, "until", "", "before this time")
	flags.StringVar(&f.Principal, "principal", "", "object ID or application ID of the caller")
	flags.StringVar(&f.HSM, "hsm", "", "name or ID of the HSM")
	flags.StringVar(&f.Operation, "operation", "", "name of the operation")
	flags.StringVar(&f.Outcome, "outcome", "", "allowed, refused or failed")
	flags.StringVar(&f.Key, "key-name", "", "name of the key")
	flags.StringVar(&f.Request, "request", "", "ID of the request, as the server or the client gave it")
	must(cmd.RegisterFlagCompletionFunc("outcome", cobra.FixedCompletions(outcomes, cobra.ShellCompDirectiveNoFileComp)))
	return dirArgument(cmd)
}

// outcomes are those of records.
var outcomes = []string{audit.Allowed, audit.Refused, audit.Failed}

// auditTime reads a time, a date or an age.
func (a *app) auditTime(cmd *cobra.Command, flag, s string) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	for _, form := range []string{time.RFC3339, time.DateOnly} {
		if t, err := time.Parse(form, s); err == nil {
			return t.UTC(), nil
		}
	}
	if d, err := time.ParseDuration(s); err == nil && d >= 0 {
		return a.now().Add(-d).UTC(), nil
	}
	return time.Time{}, a.usage(cmd, fmt.Errorf("--%s is a time like 2026-11-25T03:00:00Z, a date, or an age like 36h", flag))
}

// auditRecord is a record as programs get it: the names of the log, without the hash.
type auditRecord struct {
	Number        int64  `json:"n"`
	Time          string `json:"time"`
	Kind          string `json:"kind"`
	Phase         string `json:"phase,omitempty"`
	Request       string `json:"request,omitempty"`
	ClientRequest string `json:"client_request,omitempty"`
	Plane         string `json:"plane,omitempty"`
	Principal     string `json:"principal,omitempty"`
	App           string `json:"app,omitempty"`
	Issuer        string `json:"issuer,omitempty"`
	Source        string `json:"source,omitempty"`
	HSM           string `json:"hsm,omitempty"`
	HSMName       string `json:"hsm_name,omitempty"`
	Operation     string `json:"operation,omitempty"`
	Action        string `json:"action,omitempty"`
	Key           string `json:"key,omitempty"`
	Version       string `json:"version,omitempty"`
	Authority     string `json:"authority,omitempty"`
	Recipient     string `json:"recipient,omitempty"`
	Scope         string `json:"scope,omitempty"`
	Object        string `json:"object,omitempty"`
	Role          string `json:"role,omitempty"`
	Assignee      string `json:"assignee,omitempty"`
	Backup        string `json:"backup,omitempty"`
	Outcome       string `json:"outcome,omitempty"`
	Status        int64  `json:"status,omitempty"`
	Code          string `json:"code,omitempty"`
	Duration      int64  `json:"us,omitempty"`
	Cut           int64  `json:"cut,omitempty"`
}

func auditRecordOf(r audit.Record) auditRecord {
	return auditRecord{r.Number, r.Time.Format("2006-01-02T15:04:05.000000Z07:00"), r.Kind, r.Phase, r.Request, r.ClientRequest, r.Plane, r.Principal, r.App, r.Issuer, r.Source,
		r.HSM, r.HSMName, r.Operation, r.Action, r.Key, r.Version, r.Authority, r.Recipient, r.Scope, r.Object, r.Role, r.Assignee, r.Backup, r.Outcome, r.Status, r.Code, r.Duration, r.Cut}
}

func (a *app) auditShow(ctx context.Context, dir string, f audit.Filter) error {
	// Records are printed as they are read: a log may be larger than memory. Columns are of fixed width for the same reason.
	const columns = "%-8s  %-20s  %-7s  %-36s  %-16s  %-26s  %-24s  %s"
	line := func(cells ...any) {
		for i, c := range cells {
			cells[i] = oneLine(fmt.Sprint(c))
		}
		fmt.Fprintln(a.out, strings.TrimRight(fmt.Sprintf(columns, cells...), " "))
	}
	first := true
	shown, err := audit.Show(ctx, dir, f, func(r audit.Record) error {
		if a.format == formatJSON {
			return writeJSONLine(a.out, auditRecordOf(r))
		}
		if first {
			first = false
			line("RECORD", "TIME", "PLANE", "PRINCIPAL", "HSM", "OPERATION", "KEY", "OUTCOME")
		}
		outcome := strings.TrimSpace(fmt.Sprintf("%s %s", r.Outcome, r.Code))
		switch {
		case r.Kind == audit.KindRecovered:
			outcome = fmt.Sprintf("the log was cut here after a crash, by %d bytes", r.Cut)
		case r.Phase == audit.PhaseIntent:
			outcome = audit.PhaseIntent
		}
		hsm := r.HSMName
		if hsm == "" {
			hsm = r.HSM
		}
		operation := r.Operation
		if operation == "" {
			operation = r.Kind
		}
		line(r.Number, r.Time.Format(time.RFC3339), orDash(r.Plane), orDash(r.Principal), orDash(hsm), operation, orDash(r.Key), outcome)
		return nil
	})
	if err != nil {
		return auditProblem(dir, err)
	}
	if shown.Unreadable > 0 {
		a.warn("%d lines are no records; see what is wrong with: strongroom audit verify %s", shown.Unreadable, dir)
	}
	a.say("%d of %d records", shown.Matched, shown.Records)
	return nil
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func (a *app) auditProveCommand() *cobra.Command {
	var (
		out   string
		force bool
	)
	cmd := a.verb("prove N DIR", "Take one record out, with a proof that it is in the log", `Writes a file that shows to anybody with a public key that record N is in the log as it was signed: the record itself,
the hashes that lead from it to the root, and the newest checkpoint. It says nothing about other records, so it can be
given away: strongroom audit check-proof needs the file and the key, and nothing else.`, 2,
		func(cmd *cobra.Command, args []string) error {
			n, err := strconv.ParseInt(args[0], 10, 64)
			if err != nil || n < 0 {
				return a.usage(cmd, fmt.Errorf("%q is no number of a record", args[0]))
			}
			return a.auditProve(cmd.Context(), n, args[1], out, force)
		})
	cmd.Flags().StringVar(&out, "out", "", "file to write the proof to")
	cmd.Flags().BoolVar(&force, "force", false, "replace a file that exists")
	return a.requireFlags(dirArgument(cmd), "out")
}

func (a *app) auditProve(ctx context.Context, n int64, dir, out string, force bool) error {
	if err := checkTarget(out, force); err != nil {
		return err
	}
	text, err := audit.Prove(ctx, dir, n)
	if err != nil {
		return auditProblem(dir, err)
	}
	if err := writeFile(out, text, publicFile, force); err != nil {
		return err
	}
	return a.result(struct {
		Record int64  `json:"record"`
		Proof  string `json:"proof"`
	}{n, out}, func(t *table) { t.row("proof of record "+strconv.FormatInt(n, 10), out) })
}

func (a *app) auditCheckProofCommand() *cobra.Command {
	var keyFiles []string
	cmd := a.verb("check-proof FILE", "Check a proof, without the log", `Checks that the record in a proof file is in the log that the given key signed, and shows it. One of the keys must have
signed. Exit code 1 means that the proof does not hold.`, 1,
		func(cmd *cobra.Command, args []string) error {
			return a.auditCheckProof(cmd.Context(), args[0], keyFiles)
		})
	cmd.Flags().StringArrayVar(&keyFiles, "key", nil, keyFlagUsage)
	cmd.ValidArgsFunction = nil // files
	return a.requireFlags(cmd, "key")
}

func (a *app) auditCheckProof(ctx context.Context, file string, keyFiles []string) error {
	keys, err := auditKeys(ctx, keyFiles)
	if err != nil {
		return err
	}
	text, err := readFile(ctx, file, maxProofFile)
	if err != nil {
		return err
	}
	p, err := audit.CheckProof(text, keys...)
	if errors.Is(err, audit.ErrProof) {
		return &problem{code: "proof-does-not-hold", message: fmt.Sprintf("%s: %s", file, auditText(err)), next: "believe nothing that it says", cause: err}
	} else if err != nil {
		return err
	}
	record := auditRecordOf(p.Record)
	return a.result(struct {
		OK      bool        `json:"ok"`
		Log     string      `json:"log"`
		Records int64       `json:"records"`
		Keys    []string    `json:"keys"`
		Record  auditRecord `json:"record"`
	}{true, p.Log, p.Records, p.Keys, record}, func(t *table) {
		t.row("result", fmt.Sprintf("record %d is in log %s, of %d records", record.Number, p.Log, p.Records))
		for _, k := range p.Keys {
			t.row("signed by", k)
		}
		for _, f := range [][2]string{{"time", record.Time}, {"kind", record.Kind}, {"phase", record.Phase}, {"request", record.Request}, {"client request", record.ClientRequest},
			{"plane", record.Plane}, {"principal", record.Principal}, {"application", record.App}, {"issuer", record.Issuer}, {"source", record.Source}, {"HSM", record.HSM}, {"HSM name", record.HSMName},
			{"operation", record.Operation}, {"action", record.Action}, {"key", record.Key}, {"version", record.Version}, {"outcome", record.Outcome}, {"status", number(record.Status)},
			{"code", record.Code}, {"microseconds", number(record.Duration)}, {"bytes cut", number(record.Cut)}} {
			t.field(f[0], f[1])
		}
	})
}

func number(n int64) string {
	if n == 0 {
		return ""
	}
	return strconv.FormatInt(n, 10)
}

func (a *app) auditCheckpointCommand() *cobra.Command {
	var (
		out   string
		force bool
	)
	cmd := a.verb("checkpoint DIR", "Print the newest checkpoint, to be kept elsewhere", `Prints the newest checkpoint of the log: how many records there are, their root hash, and who signed that. Keep it where
the server's operators cannot change it. Given to strongroom audit verify later, it shows a log that was cut or put back.`, 1,
		func(cmd *cobra.Command, args []string) error {
			return a.auditCheckpoint(cmd.Context(), args[0], out, force)
		})
	cmd.Flags().StringVar(&out, "out", "", "file to write it to, instead of printing it")
	cmd.Flags().BoolVar(&force, "force", false, "replace a file that exists")
	return dirArgument(cmd)
}

func (a *app) auditCheckpoint(ctx context.Context, dir, out string, force bool) error {
	text, err := audit.Newest(ctx, dir)
	if err != nil {
		return auditProblem(dir, err)
	}
	if out != "" {
		if err := writeFile(out, []byte(text), publicFile, force); err != nil {
			return err
		}
		return a.result(struct {
			Checkpoint string `json:"checkpoint"`
		}{out}, func(t *table) { t.row("checkpoint", out) })
	}
	if a.format == formatJSON {
		return writeJSON(a.out, struct {
			Checkpoint string `json:"checkpoint"`
		}{text})
	}
	fmt.Fprint(a.out, text)
	return nil
}
