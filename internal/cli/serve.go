package cli

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"strongroom/internal/server"
)

func (a *app) serveCommand() *cobra.Command {
	o := server.Options{}
	cmd := a.verb("serve", "Run a server", `Runs a server with one or several HSMs until it is told to stop (SIGINT, SIGTERM). When it is ready it prints a
line that begins with "ready".

With --dev it needs nothing else: it makes a certificate authority, a server certificate, an administrator and
HSMs, each on a port of its own, and writes what a client needs to DATA/dev.env. Such a server listens on loopback
only. Its data survives a restart, on the same ports.`, 0,
		func(cmd *cobra.Command, _ []string) error {
			if o.DataDir == "" && o.ConfigFile == "" {
				return a.usage(cmd, errors.New("no data folder: give --data DIR, or data in the configuration"))
			}
			o.Stdin, o.Stdout, o.Stderr = a.in, a.out, a.err
			o.Version = version()
			o.Prompt = func(question string) ([]byte, error) { return promptSeal(cmd.Context(), question) }
			err := server.Run(cmd.Context(), o)
			if mistake, is := errors.AsType[*server.UsageError](err); is {
				return a.usage(cmd, mistake.Err)
			}
			return err
		})
	flags := cmd.Flags()
	flags.BoolVar(&o.Dev, "dev", false, "a development server: everything is made, on loopback only")
	flags.StringVar(&o.DataDir, "data", "", "folder of the database, the seal and the TLS files")
	flags.StringVar(&o.Listen, "listen", "", "address of the main listener (default 127.0.0.1:8443)")
	flags.StringArrayVar(&o.HSMs, "hsm", nil, "name of an HSM to provision if it is missing; may be given several times (with --dev: default alpha and beta)")
	flags.StringArrayVar(&o.BackupHosts, "backup-host", nil, "HOST[:PORT] of Azure Blob that backups may go to; may be given several times (with --dev: also one of this machine)")
	flags.StringVar(&o.ConfigFile, "config", "", "configuration file (TOML)")
	flags.StringVar(&o.LogFormat, "log-format", "", "text or json (default: text on a terminal, else json)")
	flags.StringVar(&o.LogLevel, "log-level", "", "debug, info, warn or error (default info)")
	flags.StringVar(&o.AuditFolder, "audit-folder", "", "folder of the audit log (default DATA/audit)")
	flags.BoolVar(&o.NewAuditLog, "new-audit-log", false, "begin another audit log if the one that the database knows is gone")
	flags.BoolVar(&o.AllowRSA15, "allow-rsa1_5", false, "let RSA keys encrypt and decrypt with RSA1_5, an algorithm that gives an oracle to whoever may decrypt")
	flags.StringVar(&o.SealPassphraseFile, "seal-passphrase-file", "", "file with the passphrase of the seal")
	must(cmd.MarkFlagDirname("data"))
	must(cmd.MarkFlagDirname("audit-folder"))
	must(cmd.MarkFlagFilename("config", "toml"))
	for name, values := range map[string][]string{"log-format": {"text", "json"}, "log-level": {"debug", "info", "warn", "error"}} {
		must(cmd.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)))
	}
	return cmd
}

// promptSeal asks for the passphrase of the seal. The caller wipes it.
func promptSeal(ctx context.Context, question string) ([]byte, error) {
	tty, err := openTerminal()
	if err != nil {
		return nil, problemf("no-terminal", "give --seal-passphrase-file FILE", "there is no terminal to ask for the passphrase of the seal at")
	}
	defer tty.Close()
	p, err := tty.ask(ctx, question)
	return p.Reveal(), err
}
