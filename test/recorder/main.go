// recorder is the real server with one addition for the end-to-end tests: every exchange of its data plane goes,
// as one line of JSON, into the file that RECORDER_FILE names, to be held against the official OpenAPI documents
// once it has stopped. It is built by the tests only, and knows one command: serve.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"strongroom/internal/server"
	"strongroom/test/exchange"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "recorder:", err)
		os.Exit(1)
	}
}

// run takes the flags of `strongroom serve` that tests use, and serves as that command does.
func run(ctx context.Context, args []string) (err error) {
	if len(args) == 0 || args[0] != "serve" {
		return errors.New("this program only serves; client commands are strongroom's")
	}
	o := server.Options{Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Version: "recorder"}
	flags := flag.NewFlagSet("serve", flag.ContinueOnError)
	flags.BoolVar(&o.Dev, "dev", false, "a development server")
	flags.StringVar(&o.DataDir, "data", "", "data folder")
	flags.StringVar(&o.Listen, "listen", "", "address of the main listener")
	flags.StringVar(&o.ConfigFile, "config", "", "configuration file")
	flags.StringVar(&o.LogFormat, "log-format", "", "text or json")
	flags.StringVar(&o.LogLevel, "log-level", "", "debug, info, warn or error")
	flags.StringVar(&o.SealPassphraseFile, "seal-passphrase-file", "", "file with the passphrase of the seal")
	flags.Func("hsm", "name of an HSM; may be given several times", func(name string) error {
		o.HSMs = append(o.HSMs, name)
		return nil
	})
	flags.Func("backup-host", "host that backups may go to; may be given several times", func(host string) error {
		o.BackupHosts = append(o.BackupHosts, host)
		return nil
	})
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("serve does not take %q", flags.Arg(0))
	}
	path := os.Getenv("RECORDER_FILE")
	if path == "" {
		return errors.New("RECORDER_FILE is not set; it names the file of the exchanges")
	}
	recorder, err := exchange.NewRecorder(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, recorder.Close()) }()
	o.WrapDataPlane = recorder.Wrap
	return server.Run(ctx, o)
}
