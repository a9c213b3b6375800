package cli

import (
	"bytes"
	"context"
	"crypto"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/term"

	"strongroom/internal/custodian"
	"strongroom/secret"
)

// maxPassphraseFile is in bytes. A passphrase has at most 1024; the rest is a line end.
const maxPassphraseFile = 1026

// readPassphrases reads one passphrase from each file.
func (a *app) readPassphrases(ctx context.Context, files []string) ([]secret.Bytes, error) {
	var list []secret.Bytes
	for _, file := range files {
		p, err := a.readSecret(ctx, file)
		if err != nil {
			return nil, err
		}
		if p.IsZero() {
			return nil, problemf("bad-passphrase", "write the passphrase into the file, and nothing else", "the passphrase file %s is empty", file)
		}
		list = append(list, p)
	}
	return list, nil
}

// readSecret reads a file that holds one secret: all of it but one line end.
func (a *app) readSecret(ctx context.Context, file string) (secret.Bytes, error) {
	data, err := readFile(ctx, file, maxPassphraseFile)
	if err != nil {
		return secret.Bytes{}, err
	}
	defer clear(data)
	a.warnIfReadable(file)
	return secret.New(bytes.TrimSuffix(bytes.TrimSuffix(data, []byte("\n")), []byte("\r"))), nil
}

// attempts is how often a passphrase is asked for.
const attempts = 3

// openKey opens a custodian's key file with the passphrases there are, and else asks at the terminal.
func (a *app) openKey(ctx context.Context, file string, data []byte, passphrases []secret.Bytes) (crypto.Decrypter, error) {
	return openWith(ctx, file, passphrases, func(p []secret.Bytes) (crypto.Decrypter, error) { return custodian.ParseKey(data, p) })
}

// openWith opens a key file with the passphrases there are, and else asks at the terminal. The errors of open are those
// of package custodian.
func openWith[T any](ctx context.Context, file string, passphrases []secret.Bytes, open func([]secret.Bytes) (T, error)) (key T, err error) {
	var none T
	key, err = open(passphrases)
	if !errors.Is(err, custodian.ErrPassphraseNeeded) && !errors.Is(err, custodian.ErrPassphraseWrong) {
		if err != nil {
			return none, keyProblem(file, err)
		}
		return key, nil
	}
	tty, noTerminal := openTerminal()
	if noTerminal != nil {
		return none, keyProblem(file, err)
	}
	defer tty.Close()
	for range attempts {
		var p secret.Bytes
		if p, err = tty.ask(ctx, "Passphrase of "+file+": "); err != nil {
			return none, err
		}
		key, err = open([]secret.Bytes{p})
		p.Wipe()
		if err == nil {
			return key, nil
		}
		if !errors.Is(err, custodian.ErrPassphraseWrong) {
			return none, keyProblem(file, err)
		}
		tty.tell("That passphrase does not open it.")
	}
	return none, keyProblem(file, err)
}

// newPassphrase asks for a passphrase twice.
func newPassphrase(ctx context.Context, name string) (secret.Bytes, error) {
	tty, err := openTerminal()
	if err != nil {
		return secret.Bytes{}, problemf("no-terminal", "give --passphrase-file FILE", "there is no terminal to ask for a passphrase at")
	}
	defer tty.Close()
	first, err := tty.ask(ctx, "Passphrase for "+name+".key: ")
	if err != nil {
		return secret.Bytes{}, err
	}
	if first.IsZero() {
		return secret.Bytes{}, problemf("bad-passphrase", "run it again", "the passphrase is empty")
	}
	second, err := tty.ask(ctx, "The same again: ")
	if err != nil {
		return secret.Bytes{}, err
	}
	if !first.Equal(second) {
		return secret.Bytes{}, problemf("bad-passphrase", "run it again", "the two passphrases differ")
	}
	second.Wipe()
	return first, nil
}

// terminal is the one that this process is attached to, whatever its standard streams are. On it questions are
// asked; its echo is off while a secret is typed.
type terminal struct{ f *os.File }

func openTerminal() (*terminal, error) {
	f, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	return &terminal{f}, nil
}

func (t *terminal) Close() { _ = t.f.Close() }

func (t *terminal) tell(text string) { fmt.Fprintln(t.f, text) }

// ask reads one line without echo. When ctx ends (Ctrl-C), it gives up and puts the echo back.
func (t *terminal) ask(ctx context.Context, question string) (secret.Bytes, error) {
	fd := int(t.f.Fd())
	before, err := term.GetState(fd)
	if err != nil {
		return secret.Bytes{}, problemf("no-terminal", "give --passphrase-file FILE", "the terminal cannot hide what is typed")
	}
	hide(fd)
	defer func() { _ = term.Restore(fd, before) }()
	fmt.Fprint(t.f, question)
	line, err := unlessInterrupted(ctx, func() ([]byte, error) { return readHidden(t.f) })
	fmt.Fprintln(t.f)
	if ctx.Err() != nil {
		return secret.Bytes{}, ctx.Err()
	}
	if err != nil {
		return secret.Bytes{}, problemf("no-terminal", "give --passphrase-file FILE", "no passphrase was typed")
	}
	return secret.Take(line), nil
}

// line reads one line with echo, for what is no secret.
func (t *terminal) line(ctx context.Context, question string) (string, error) {
	fmt.Fprint(t.f, question)
	line, err := unlessInterrupted(ctx, func() ([]byte, error) { return readLine(t.f) })
	if err != nil {
		fmt.Fprintln(t.f) // the cursor still stands behind the question
	}
	if err != nil && ctx.Err() == nil {
		err = problemf("no-terminal", "", "nothing was typed")
	}
	return string(bytes.TrimSpace(line)), err
}

// maxLine is in bytes: what can be typed into one line.
const maxLine = 1024

// readLine reads up to the end of the line, which is not part of it. A terminal that has been closed, or at which
// somebody typed Ctrl-D, gives [io.EOF].
func readLine(r io.Reader) ([]byte, error) {
	line := make([]byte, 0, maxLine+1) // never moved, so that who wipes it wipes all of it
	b := make([]byte, 1)
	defer clear(b)
	for len(line) <= maxLine {
		if _, err := io.ReadFull(r, b); err != nil {
			clear(line)
			return nil, err
		}
		if b[0] == '\n' {
			return bytes.TrimSuffix(line, []byte("\r")), nil
		}
		line = append(line, b[0])
	}
	clear(line)
	return nil, errors.New("the line is too long")
}
