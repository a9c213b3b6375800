package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"

	"golang.org/x/term"
)

// result prints what a command found: v as JSON, or what show writes. v's JSON is for programs: members may be
// added to it, and keep their names and meaning.
func (a *app) result(v any, show func(t *table)) error {
	if a.format == formatJSON {
		return writeJSON(a.out, v)
	}
	t := &table{tabwriter.NewWriter(a.out, 0, 4, 2, ' ', 0)}
	show(t)
	return t.w.Flush()
}

func writeJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// writeJSONLine writes v on one line, for results of any number.
func writeJSONLine(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// table aligns columns for people.
type table struct{ w *tabwriter.Writer }

// row writes one line; a tab cannot come from a cell, because every cell is made one printable line.
func (t *table) row(cells ...string) {
	for i, c := range cells {
		cells[i] = oneLine(c)
	}
	fmt.Fprintln(t.w, strings.TrimRight(strings.Join(cells, "\t"), "\t"))
}

// field writes a name and its value, and nothing where there is no value.
func (t *table) field(name, value string) {
	if value != "" {
		t.row(name, value)
	}
}

// heading writes text across all columns, after an empty line.
func (t *table) heading(text string) { fmt.Fprintf(t.w, "\n%s\n", oneLine(text)) }

// count is "1 record" or "2 records".
func count(n int, one string) string {
	if n == 1 {
		return "1 " + one
	}
	return strconv.Itoa(n) + " " + one + "s"
}

// say tells a person something that is no result. Programs that asked for JSON are not told.
func (a *app) say(format string, args ...any) {
	if a.format != formatJSON {
		fmt.Fprintln(a.err, oneLine(fmt.Sprintf(format, args...)))
	}
}

// warn says what should be looked at. In JSON it is part of the result (see [app.warned]) or of the error.
func (a *app) warn(format string, args ...any) {
	text := oneLine(fmt.Sprintf(format, args...))
	a.warnings = append(a.warnings, text)
	if a.format != formatJSON {
		fmt.Fprintf(a.err, "%s %s\n", a.paint(yellow, "warning:"), text)
	}
}

// warned are the warnings of this run, for the member "warnings" of a result.
func (a *app) warned() []string { return a.warnings }

type colour string

const (
	red    colour = "\x1b[31m"
	yellow colour = "\x1b[33m"
)

// paint colours a word on stderr when that is a terminal that can, and the user has nothing against it
// (https://no-color.org). Colour never says anything that the word does not.
func (a *app) paint(c colour, s string) string {
	f, ok := a.err.(*os.File)
	if !ok || a.getenv("NO_COLOR") != "" || a.getenv("TERM") == "dumb" || !term.IsTerminal(int(f.Fd())) {
		return s
	}
	return string(c) + s + "\x1b[0m"
}

// oneLine makes text safe to print: names in certificates and texts of servers come from elsewhere. Line breaks
// become spaces, control characters (escape sequences begin with one) and direction marks go.
func oneLine(s string) string {
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t' || r == '\r':
			return ' '
		case r < ' ' || r >= 0x7f && r < 0xa0, r >= 0x202a && r <= 0x202e, r >= 0x2066 && r <= 0x2069, r == 0x200e, r == 0x200f:
			return -1
		}
		return r
	}, s))
}
