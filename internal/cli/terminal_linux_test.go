package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// openPTY returns both ends of a pseudo-terminal.
func openPTY(t *testing.T) (keyboard, tty *os.File) {
	t.Helper()
	keyboard, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = keyboard.Close() })
	if err := unix.IoctlSetPointerInt(int(keyboard.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(keyboard.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	tty, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tty.Close() })
	return keyboard, tty
}

// A passphrase is typed after the question has appeared, and what is typed does not appear. An answer that is no
// secret does. Covers S14.
func TestPassphraseIsNotShown(t *testing.T) {
	keyboard, tty := openPTY(t)
	screen := ""
	readUntil := func(want string) {
		b := make([]byte, 256)
		for !strings.Contains(screen, want) {
			n, err := keyboard.Read(b)
			if err != nil {
				t.Errorf("the terminal shows %q, and then: %v", screen, err)
				return
			}
			screen += string(b[:n])
		}
	}
	type answer struct {
		text string
		err  error
	}
	answers := make(chan answer)
	go func() {
		term := &terminal{tty}
		secret, err := term.ask(t.Context(), "Passphrase: ")
		answers <- answer{string(secret.Reveal()), err}
		line, err := term.line(t.Context(), "Name: ")
		answers <- answer{line, err}
	}()
	for _, step := range []struct{ question, typed string }{{"Passphrase: ", "open sesame"}, {"Name: ", "alpha"}} {
		readUntil(step.question)
		if _, err := keyboard.WriteString(step.typed + "\n"); err != nil {
			t.Fatal(err)
		}
		if got := <-answers; got.err != nil || got.text != step.typed {
			t.Fatalf("%s: got %q, %v", step.question, got.text, got.err)
		}
	}
	readUntil("alpha")
	if strings.Contains(screen, "sesame") {
		t.Errorf("the terminal shows the passphrase: %q", screen)
	}
}

// Somebody who is asked for a passphrase and presses Ctrl-C gets a terminal back that shows what they type.
func TestInterruptedQuestion(t *testing.T) {
	keyboard, tty := openPTY(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		_, err := (&terminal{tty}).ask(ctx, "Passphrase: ")
		done <- err
	}()
	b := make([]byte, 64)
	if n, err := keyboard.Read(b); err != nil || string(b[:n]) != "Passphrase: " {
		t.Fatalf("the terminal shows %q, %v", b[:n], err)
	}
	echo := func() bool {
		state, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
		if err != nil {
			t.Fatal(err)
		}
		return state.Lflag&unix.ECHO != 0
	}
	for echo() { // until the question has switched it off
		runtime.Gosched()
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
	if !echo() {
		t.Error("the echo is still off")
	}
}

// Ctrl-D, and a terminal that is gone, end the question. [term.ReadPassword] would read on.
func TestQuestionWithoutAnswer(t *testing.T) {
	for name, end := range map[string]func(*os.File) error{
		"Ctrl-D":       func(keyboard *os.File) error { _, err := keyboard.Write([]byte{4}); return err },
		"it is closed": func(keyboard *os.File) error { return keyboard.Close() },
		"a line too long": func(keyboard *os.File) error {
			_, err := keyboard.WriteString(strings.Repeat("x", maxLine+2) + "\n")
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			keyboard, tty := openPTY(t)
			done := make(chan error)
			go func() {
				_, err := (&terminal{tty}).ask(t.Context(), "Passphrase: ")
				done <- err
			}()
			b := make([]byte, 64)
			if _, err := keyboard.Read(b); err != nil { // the question: from here on the echo is off
				t.Fatal(err)
			}
			if err := end(keyboard); err != nil {
				t.Fatal(err)
			}
			if err := <-done; err == nil || explain(err).code != "no-terminal" {
				t.Errorf("got %v", err)
			}
		})
	}
}

// On a terminal long work is one line with a bar, which is as wide as there is room and is gone in the end.
func TestMeterOnATerminal(t *testing.T) {
	keyboard, tty := openPTY(t)
	if err := unix.IoctlSetWinsize(int(tty.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: 60}); err != nil {
		t.Fatal(err)
	}
	a := &app{err: tty, now: time.Now, getenv: func(string) string { return "" }, format: formatTable}
	m := a.meter("backup")
	m.tell(50, 200, strings.Repeat("x", 100))
	m.tell(50, 200, strings.Repeat("x", 100)) // says nothing new
	m.step("use every key")
	m.done()
	m.done() // takes nothing away twice
	fmt.Fprint(tty, "end")
	screen := ""
	for b := make([]byte, 256); !strings.HasSuffix(screen, "end"); {
		n, err := keyboard.Read(b)
		if err != nil {
			t.Fatalf("the terminal shows %q, and then: %v", screen, err)
		}
		screen += string(b[:n])
	}
	bar := "backup [██████··················] 25 %  "
	want := "\r\x1b[K" + bar + strings.Repeat("x", 59-len([]rune(bar))) + "\r\x1b[K" + "\r\x1b[Kuse every key" + "\r\x1b[K" + "end"
	if screen != want {
		t.Errorf("the terminal shows\n%q, want\n%q", screen, want)
	}
	// Whoever wants no control characters gets none.
	for _, term := range []string{"dumb", "xterm"} {
		a.getenv = func(string) string { return term }
		if m := a.meter("backup"); m.live != (term != "dumb") {
			t.Errorf("TERM=%s: live is %v", term, m.live)
		}
	}
}
