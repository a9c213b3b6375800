// Package cli is the command line: files named by noun (key has several), each command a few steps over the packages that do the work.
//
// What a command finds goes to stdout, as a table or as JSON (--output json); what it has to say about it goes to
// stderr. An error is one line, and a second one that begins with an arrow where there is something to do about
// it; with --output json it is one JSON object. Exit codes: 0 done, 1 failed (also: a signature does not hold),
// 2 the command line is wrong.
//
// No flag takes a secret. Passphrases come from a terminal or a named file, client secrets from a named file or
// the environment. Files that are written are written whole or not at all, and never over an existing one unless
// --force says so.
package cli

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"strongroom/internal/client"
)

// Exit codes.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
)

// Main runs one command line, without the program's name, and returns the exit code. A command that waits stops
// when ctx ends.
func Main(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	a := &app{
		in: stdin, out: stdout, err: stderr,
		getenv: os.Getenv, environ: os.Environ,
		now: time.Now, rand: rand.Reader,
		format: formatTable,
	}
	root := a.root()
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitDone
	}
	err = a.notActivated(ctx, cmd, err)
	// A flag error comes before --output is read, so a script that asked for JSON is looked for by hand.
	if !a.started {
		if asksForJSON(args) {
			a.format = formatJSON
		}
		if _, ok := errors.AsType[*problem](err); !ok { // cobra's own words
			err = a.usage(root, err)
		}
	}
	return a.fail(err)
}

// app is what the commands share: the outside world, and the settings of this run.
type app struct {
	in      io.Reader
	out     io.Writer
	err     io.Writer
	getenv  func(string) string
	environ func() []string
	now     func() time.Time
	rand    io.Reader

	format   format
	warnings []string    // said, or to be said in JSON
	asked    *client.HSM // the HSM that the command is about, once it is known
	missing  string      // what to do about a key that is not found, where that is not: list the keys
	started  bool        // the command line was understood; errors from here on are not usage errors
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "strongroom",
		Short: "A Managed HSM of your own, with a security domain",
		Long: `strongroom runs a Managed HSM whose keys no single person can take away or lose: everything the HSM
needs to live is one encrypted file, the security domain, and a quorum of custodians opens it.

To try it:          strongroom demo
To run it:          strongroom serve --dev --data ./data
To take ownership:  strongroom custodian new ada --out keys      (and two more)
                    strongroom domain download --custodian keys/ada.cer … --quorum 2 --out SD.json
To recover:         strongroom domain init-recovery --out exchange.cer
                    strongroom domain restore-blob --sd SD.json --exchange exchange.cer --key keys/ada.key … --out blob.json
                    strongroom domain upload --blob blob.json

Commands that talk to an HSM take its address from --url or STRONGROOM_URL, and credentials from flags,
STRONGROOM_* variables or a profile: see "strongroom help environment".

Exit codes: 0 done; 1 failed, or a signature does not hold; 2 the command line is wrong.`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.ArbitraryArgs,
		RunE:          group,
	}
	root.SetIn(a.in)
	root.SetOut(a.out)
	root.SetErr(a.err)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return a.usage(cmd, err) })
	root.PersistentFlags().VarP(&a.format, "output", "o", "how results are printed: table or json")
	must(root.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", "json"}, cobra.ShellCompDirectiveNoFileComp)))
	root.AddCommand(
		a.serveCommand(), a.demoCommand(), a.custodianCommand(), a.domainCommand(), a.keyCommand(), a.hsmCommand(),
		a.backupCommand(), a.restoreCommand(), a.drillCommand(), a.roleCommand(), a.accessCommand(), a.auditCommand(), a.identityCommand(),
		a.loginCommand(), a.logoutCommand(), a.versionCommand(), environmentHelp(),
	)
	addExamples(root)
	return root
}

// group is what a command with subcommands does by itself: it shows its help, and knows no other words.
func group(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return cmd.Help()
	}
	cmd.SuggestionsMinimumDistance = 2 // letters that may be wrong
	next := "strongroom help"
	if similar := cmd.SuggestionsFor(args[0]); len(similar) > 0 {
		next = cmd.CommandPath() + " " + similar[0]
	} else if cmd.HasParent() {
		next = cmd.CommandPath() + " --help"
	}
	return &problem{code: "usage", message: fmt.Sprintf("%s has no command %q", cmd.CommandPath(), args[0]), next: next, exit: exitUsage}
}

// noun returns a command that only holds others.
func noun(use, short, long string, verbs ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Long: long, Args: cobra.ArbitraryArgs, RunE: group}
	cmd.AddCommand(verbs...)
	return cmd
}

// verb returns a command that does something. args says how many arguments it takes, required which flags it
// cannot do without; anything else wrong with the command line is found by cobra.
func (a *app) verb(use, short, long string, args int, run func(cmd *cobra.Command, args []string) error) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Long: long,
		Args: func(cmd *cobra.Command, given []string) error {
			empty := slices.Index(given, "")
			switch {
			case empty >= 0 && empty < args: // "$NOTHING" in a script
				return a.usage(cmd, fmt.Errorf("%s needs %s, and it is empty", cmd.CommandPath(), strings.Fields(cmd.Use)[1+empty]))
			case len(given) < args:
				return a.usage(cmd, fmt.Errorf("%s needs %s", cmd.CommandPath(), strings.Join(strings.Fields(cmd.Use)[1:1+args], " and ")))
			case len(given) > args:
				return a.usage(cmd, fmt.Errorf("%s does not take %q", cmd.CommandPath(), given[args]))
			}
			return nil
		},
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, given []string) error {
			a.started = true
			return run(cmd, given)
		},
	}
}

// requireFlags makes the command line wrong without these flags.
func (a *app) requireFlags(cmd *cobra.Command, names ...string) *cobra.Command {
	run := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var missing []string
		for _, name := range names {
			if f := cmd.Flags().Lookup(name); !f.Changed || f.Value.String() == "" { // --out "$NOWHERE" names nothing
				missing = append(missing, "--"+name)
			}
		}
		if len(missing) > 0 {
			return a.usage(cmd, fmt.Errorf("%s needs %s", cmd.CommandPath(), strings.Join(missing, " and ")))
		}
		return run(cmd, args)
	}
	for _, name := range names {
		f := cmd.Flags().Lookup(name)
		f.Usage += " (required)"
	}
	return cmd
}

// usage is an error in the command line.
func (a *app) usage(cmd *cobra.Command, err error) error {
	text := numberError.ReplaceAllString(err.Error(), "a number is needed")
	text = tagError.ReplaceAllString(text, `--tag "$1" is not NAME=VALUE, such as owner=ada`)
	return &problem{code: "usage", message: oneLine(text), next: cmd.CommandPath() + " --help", exit: exitUsage, cause: err}
}

// numberError is how the flag parser says that a number is none.
var numberError = regexp.MustCompile(`strconv\.Parse.*$`)

// tagError is how the flag parser says that a tag is none.
var tagError = regexp.MustCompile(`^invalid argument "(.*)" for "--tag" flag: .* must be formatted as key=value$`)

func asksForJSON(args []string) bool {
	for i, arg := range args {
		if slices.Contains([]string{"--output=json", "-o=json", "-ojson"}, arg) ||
			(arg == "--output" || arg == "-o") && i+1 < len(args) && args[i+1] == "json" {
			return true
		}
	}
	return false
}

// format is the value of --output.
type format string

const (
	formatTable format = "table"
	formatJSON  format = "json"
)

func (f *format) String() string { return string(*f) }
func (f *format) Type() string   { return "format" }
func (f *format) Set(s string) error {
	if v := format(s); v == formatTable || v == formatJSON {
		*f = v
		return nil
	}
	return errors.New("use table or json")
}

// must is for mistakes in this package's own tables, found by the first test that builds the commands.
func must(err error) {
	if err != nil {
		panic("cli: " + err.Error())
	}
}
