package cli

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"strongroom/internal/server"
)

func (a *app) demoCommand() *cobra.Command {
	var keep bool
	cmd := a.verb("demo", "The whole story in one command", `Starts a server with two HSMs in a temporary folder and plays a whole life on it: three custodians take ownership
of alpha, make a key, sign and back up; alpha is destroyed; two of the three custodians recover it on beta, and the
signature still holds; a third HSM, of another domain, refuses the backup. Each step is a command that is shown as
you would type it, over the real API. Nothing is left behind.`, 0,
		func(cmd *cobra.Command, _ []string) error { return a.demo(cmd.Context(), keep) })
	cmd.Flags().BoolVar(&keep, "keep", false, "keep the folder, to look at the files")
	return cmd
}

// demo is a play: a server of its own, and command lines that run in this process with the settings that the
// server wrote.
type demo struct {
	app   *app
	dir   string
	env   map[string]string
	steps []demoStep

	unread error // why the story is not told any more
}

type demoStep struct {
	Command string `json:"command"`
	Exit    int    `json:"exit"`
}

func (a *app) demo(ctx context.Context, keep bool) (err error) {
	started := a.now()
	dir, err := os.MkdirTemp("", "strongroom-demo-*")
	if err != nil {
		return fileProblem(err)
	}
	d := &demo{app: a, dir: dir}
	// Whoever pipes the story into head has seen enough before it is over; the folder is to go all the same.
	signal.Ignore(syscall.SIGPIPE)
	defer signal.Reset(syscall.SIGPIPE)
	defer func() {
		if keep {
			a.say("the files are in %s", dir)
		} else if e := os.RemoveAll(dir); err == nil && e != nil {
			err = fileProblem(e)
		}
	}()
	stop, err := d.serve(ctx)
	if err != nil {
		return err
	}
	// The commands below name files as one would type them, so this process moves to where they are. It has
	// nothing else to do, and the server was given absolute paths.
	home, err := os.Getwd()
	if err == nil {
		err = os.Chdir(dir)
	}
	if err != nil {
		return errors.Join(fileProblem(err), stop())
	}
	defer func() { _ = os.Chdir(home) }()
	if err := errors.Join(d.play(ctx), stop()); err != nil {
		return err
	}
	took := a.now().Sub(started).Round(100 * time.Millisecond)
	if a.format == formatJSON {
		return writeJSON(a.out, struct {
			Steps   []demoStep `json:"steps"`
			Seconds float64    `json:"seconds"`
		}{d.steps, took.Seconds()})
	}
	d.tell("That was it, in %s. Try it yourself: strongroom serve --dev --data ./data", took)
	return nil
}

// serve starts the server and returns how to stop it, when it is ready.
func (d *demo) serve(ctx context.Context) (stop func() error, err error) {
	log, err := os.OpenFile(filepath.Join(d.dir, "server.log"), os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fileProblem(err)
	}
	ctx, cancel := context.WithCancel(ctx)
	out, in := io.Pipe()
	done := make(chan error, 1)
	go func() {
		err := server.Run(ctx, server.Options{
			Dev: true, DataDir: filepath.Join(d.dir, "data"), Listen: "127.0.0.1:0", HSMs: []string{"alpha", "beta"},
			LogFormat: "text", LogLevel: "info", Stdin: bytes.NewReader(nil), Stdout: in, Stderr: log, Version: version(),
		})
		_ = in.CloseWithError(io.EOF)
		done <- errors.Join(err, log.Close())
	}()
	lines := bufio.NewScanner(out)
	ready := false
	for !ready && lines.Scan() {
		ready = strings.HasPrefix(lines.Text(), "ready")
	}
	if !ready {
		cancel()
		if err := <-done; err != nil {
			return nil, fmt.Errorf("the server did not start: %w", err)
		}
		return nil, errors.New("the server stopped before it was ready")
	}
	go func() { _, _ = io.Copy(io.Discard, out) }()
	stop = func() error {
		cancel()
		return <-done
	}
	if d.env, err = readEnv(filepath.Join(d.dir, "data", "dev.env")); err != nil {
		return nil, errors.Join(err, stop())
	}
	return stop, nil
}

// readEnv reads lines NAME=VALUE as a shell would; a value may stand in single quotes.
func readEnv(path string) (map[string]string, error) {
	data, err := readFile(context.Background(), path, 1<<20)
	if err != nil {
		return nil, err
	}
	defer clear(data)
	env := map[string]string{}
	for line := range strings.Lines(string(data)) {
		name, value, found := strings.Cut(strings.TrimSpace(line), "=")
		if !found || strings.HasPrefix(name, "#") {
			continue
		}
		if strings.HasPrefix(value, "'") && strings.HasSuffix(value, "'") && len(value) >= 2 {
			value = strings.ReplaceAll(value[1:len(value)-1], `'\''`, "'")
		}
		env[name] = value
	}
	return env, nil
}

func (d *demo) play(ctx context.Context) error {
	if err := os.WriteFile("contract.txt", []byte("Alice sells the bridge to Bob.\n"), 0o600); err != nil {
		return fileProblem(err)
	}
	p := player{d: d, ctx: ctx}

	p.tell("1. Three custodians make their keys. Each keeps the private one; the certificates are public.")
	p.run("custodian new ada --out keys")
	p.run("custodian new grace --out keys")
	p.run("custodian new alan --out keys")

	p.tell("2. The HSM alpha is new and belongs to nobody. It is taken over: any two of the three shall open its domain.")
	p.run("domain status --url alpha")
	p.run("domain download --url alpha --custodian keys/ada.cer --custodian keys/grace.cer --custodian keys/alan.cer --quorum 2 --out SD.json")

	p.tell("3. It is in use: a key is made, signs a contract, and is backed up.")
	p.run("key create contracts --url alpha --kty EC")
	p.run("key sign contracts --url alpha --file contract.txt --out contract.sig")
	p.run("key verify contracts --url alpha --file contract.txt --signature contract.sig")
	p.run("key backup contracts --url alpha --out contracts.backup")

	p.tell("4. Alpha is lost, for good.")
	p.run("hsm delete alpha --confirm alpha")
	p.run("hsm purge alpha --confirm alpha")
	p.fails("key show contracts --url alpha")

	p.tell("5. Recovery. Beta, a new HSM, shows the certificate of an exchange key.")
	p.run("domain init-recovery --url beta --out exchange.cer")
	p.tell("6. Offline, the custodians open the domain and encrypt it again to that key. One of them is not enough ...")
	p.fails("domain restore-blob --sd SD.json --exchange exchange.cer --key keys/grace.key --out transfer.json")
	p.tell("   ... two are. Ada is on holiday.")
	p.run("domain restore-blob --sd SD.json --exchange exchange.cer --key keys/grace.key --key keys/alan.key --out transfer.json")
	p.tell("7. Beta takes over the domain, and with it whatever was made under it.")
	p.run("domain upload --url beta --blob transfer.json")
	p.run("key restore --url beta --file contracts.backup")
	p.run("key verify contracts --url beta --file contract.txt --signature contract.sig")

	p.tell("8. A third HSM, with a domain of its own, can do nothing with that backup. Its administrator first gives himself the role that uses keys.")
	p.run("hsm create gamma")
	p.address("gamma")
	p.run("domain download --url gamma --custodian keys/ada.cer --custodian keys/grace.cer --custodian keys/alan.cer --quorum 3 --out SD-gamma.json")
	p.run(`role assignment create --url gamma --principal ` + d.env["STRONGROOM_OBJECT_ID"] + ` --role "Managed HSM Crypto User" --scope /keys`)
	p.fails("key restore --url gamma --file contracts.backup")
	return p.err
}

func (d *demo) tell(format string, args ...any) {
	d.print("\n%s\n", fmt.Sprintf(format, args...))
}

// print prints for people, and remembers that nobody reads any more.
func (d *demo) print(format string, args ...any) {
	if d.app.format == formatJSON || d.unread != nil {
		return
	}
	_, d.unread = fmt.Fprintf(d.app.out, format, args...)
}

// tell says what comes next, unless something has gone wrong.
func (p *player) tell(text string) {
	if p.err == nil {
		p.d.tell("%s", text)
	}
}

// player runs command lines until the first that does not go as it should.
type player struct {
	d   *demo
	ctx context.Context
	err error
}

func (p *player) run(line string)   { p.expect(line, exitDone) }
func (p *player) fails(line string) { p.expect(line, exitFailed) }

func (p *player) expect(line string, want int) {
	if p.err != nil {
		return
	}
	p.d.print("\n   $ strongroom %s\n", line)
	output, exit := p.d.command(p.ctx, line)
	p.d.steps = append(p.d.steps, demoStep{"strongroom " + line, exit})
	for text := range strings.Lines(output) {
		p.d.print("     %s\n", strings.TrimRight(text, "\n"))
	}
	if exit != want {
		p.err = problemf("demo-failed", "run it with --keep and look at server.log in its folder", "the step %q ended with exit code %d in place of %d: %s", line, exit, want, oneLine(output))
	}
	if p.d.unread != nil {
		p.err = fileProblem(p.d.unread)
	}
	if p.ctx.Err() != nil {
		p.err = p.ctx.Err()
	}
}

// words splits a line as a shell does, as far as double quotes go.
func words(line string) (list []string) {
	for i, part := range strings.Split(line, `"`) {
		if i%2 == 0 {
			list = append(list, strings.Fields(part)...)
		} else {
			list = append(list, part)
		}
	}
	return list
}

// command runs a command line and returns everything that it printed.
func (d *demo) command(ctx context.Context, line string, more ...string) (string, int) {
	var printed bytes.Buffer
	a := &app{
		in: bytes.NewReader(nil), out: &printed, err: &printed, now: d.app.now, rand: d.app.rand, format: formatTable,
		getenv: func(name string) string { return d.env[name] },
		environ: func() (list []string) {
			for name, value := range d.env {
				list = append(list, name+"="+value)
			}
			return list
		},
	}
	root := a.root()
	root.SetArgs(append(words(line), more...))
	exit := exitDone
	if err := root.ExecuteContext(ctx); err != nil {
		exit = a.fail(err)
	}
	return printed.String(), exit
}

// address lets --url NAME stand for an HSM that was made after the server wrote its settings.
func (p *player) address(name string) {
	if p.err != nil {
		return
	}
	printed, exit := p.d.command(p.ctx, "hsm show "+name, "--output", "json")
	var hsm hsmView
	if err := json.Unmarshal([]byte(printed), &hsm); err != nil || exit != exitDone || hsm.URL == "" {
		p.err = problemf("demo-failed", "", "the server does not say where %s is", name)
		return
	}
	p.d.env[hsmVariable(name)] = hsm.URL
}
