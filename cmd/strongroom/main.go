// Command strongroom is a self-hosted Managed HSM with a security domain: the server, the custodians' tool and
// the operator's command line in one.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"strongroom/internal/cli"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	code := cli.Main(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}
