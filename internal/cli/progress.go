package cli

import (
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/term"

	"strongroom/internal/api"
	"strongroom/internal/backupset"
)

// meter tells a person how long work goes on: on a terminal in one line with a bar, that changes and goes away in the end;
// elsewhere in a plain line now and then, as logs want it; and to programs that asked for JSON not at all.
type meter struct {
	a      *app
	what   string // is done: "backup"
	live   bool   // a terminal
	shown  bool   // there is a line to take away
	before string
	said   time.Time // when a plain line was last written
}

// plainEvery is how long there is nothing new to read where there is no terminal.
const plainEvery = 10 * time.Second

func (a *app) meter(what string) *meter {
	f, ok := a.err.(*os.File)
	return &meter{a: a, what: what, live: ok && a.getenv("TERM") != "dumb" && term.IsTerminal(int(f.Fd())), said: a.now()}
}

// step begins a part of the work.
func (m *meter) step(what string) {
	m.done()
	m.what = what
	if m.live {
		m.tell(0, 0, "")
	} else {
		m.a.say("%s …", what)
		m.said = m.a.now()
	}
}

// tell says how far it is. of is what done is going to be, 0 if that is not known.
func (m *meter) tell(done, of int64, detail string) {
	if m.a.format == formatJSON {
		return
	}
	line := m.what
	if of > 0 {
		done = max(0, min(done, of))
		if m.live {
			const width = 24
			filled := int(done * width / of)
			line += " [" + strings.Repeat("█", filled) + strings.Repeat("·", width-filled) + "]"
		}
		line += fmt.Sprintf(" %d %%", done*100/of)
	}
	if detail != "" {
		line += "  " + detail
	}
	line = oneLine(line)
	switch {
	case line == m.before:
	case m.live:
		fmt.Fprintf(m.a.err, "\r\x1b[K%s", m.fit(line))
		m.shown = true
	case m.a.now().Sub(m.said) >= plainEvery:
		m.said = m.a.now()
		fmt.Fprintln(m.a.err, line)
	default:
		return
	}
	m.before = line
}

// fit cuts a line off where the terminal ends: one that is wrapped cannot be taken away again.
func (m *meter) fit(line string) string {
	width := 80
	if f, ok := m.a.err.(*os.File); ok {
		if w, _, err := term.GetSize(int(f.Fd())); err == nil && w > 1 {
			width = w
		}
	}
	if runes := []rune(line); len(runes) >= width {
		return string(runes[:width-1])
	}
	return line
}

// set tells of a backup that is read here.
func (m *meter) set(p backupset.Progress) {
	detail := ""
	if p.Records > 0 {
		detail = count(int(p.Records), "record")
	}
	m.tell(p.Bytes, p.Of, detail)
}

// job tells of one in an HSM, which says in words how far it is.
func (m *meter) job(op api.RestoreOperation) {
	if op.StatusDetails == nil || !running(op) {
		return
	}
	var records, done, of int64
	if n, _ := fmt.Sscanf(*op.StatusDetails, "%d records, %d of %d bytes", &records, &done, &of); n == 3 {
		m.tell(done, of, count(int(records), "record"))
		return
	}
	m.tell(0, 0, *op.StatusDetails)
}

// done takes the line away.
func (m *meter) done() {
	if m.shown {
		fmt.Fprint(m.a.err, "\r\x1b[K")
	}
	m.shown, m.before = false, ""
}
