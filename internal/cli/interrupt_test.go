package cli

import (
	"bytes"
	"context"
	"errors"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"strongroom/internal/client"
)

// Ctrl-C while a server does not answer: what was asked for may have been done all the same, and it is said how to find out.
func TestInterruptedBeforeTheAnswer(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	url := "https://" + silent.Addr().String()
	for name, value := range map[string]string{"AUTHORITY": url, "TENANT": "7b1f2c34-0000-4000-8000-000000000000", "CLIENT_ID": "2f1e0d9c-0000-4000-8000-000000000000", "CLIENT_SECRET": "x",
		"CONFIG": filepath.Join(t.TempDir(), "config.toml")} {
		t.Setenv("STRONGROOM_"+name, value)
	}
	for what, args := range map[string][]string{
		"backup":  {"backup", "start", "--to", "/srv/backups"},
		"restore": {"restore", "start", "--from", "/srv/backups/mhsm-alpha-2026112503000000"},
	} {
		t.Run(what, func(t *testing.T) {
			ctx, interrupt := context.WithCancel(t.Context())
			go func() {
				if c, err := silent.Accept(); err == nil {
					interrupt()
					defer c.Close()
					<-t.Context().Done()
				}
			}()
			var out, said bytes.Buffer
			code := Main(ctx, append(args, "--url", url), strings.NewReader(""), &out, &said)
			want := "error: interrupted before the HSM had answered: the " + what + " may have begun, and goes on then\n→ see whether it did: strongroom backup list\n"
			if code != 1 || !strings.HasSuffix(said.String(), want) {
				t.Errorf("exit code %d, and it says:\n%swant at its end:\n%s", code, said.String(), want)
			}
		})
	}
}

// Ctrl-C while it waits for the end: the job goes on, and its name is told.
func TestInterruptedWhileWaiting(t *testing.T) {
	for _, what := range []string{"backup", "restore"} {
		p := explain(waitProblem(t.Context(), errors.Join(client.ErrWaiting, context.Canceled), what, "3f6d"))
		if p.message != "the wait was given up; the "+what+" goes on in the HSM" || p.next != "see how it stands with: strongroom "+what+" status 3f6d" {
			t.Errorf("%s: %q, %q", what, p.message, p.next)
		}
	}
}
