// Package leak_test searches all that a server writes, says and has in memory for secrets that it was given.
package leak_test

import (
	"cmp"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// Covers K1, L3 and K12 for a whole server: the shipped program leads a life of ceremonies, keys, tokens and wrong
// requests whose secrets are known, at its most talkative, and ends with the stacks of all goroutines on stderr. What it
// printed, logged, answered, counted, recorded and stored, what the kernel shows of it and what is in its memory is
// searched for them. They are where docs/secrets-in-memory.md says, and nowhere else.
func TestSecretsAreWhereTheyBelong(t *testing.T) {
	rows := readTable(t)
	l := begin(t)
	l.ceremony()
	l.importKeys()
	l.useKeys()
	l.release()
	l.wrongRequests()
	l.applications()
	l.users()
	l.trouble()
	l.underWay()
	for _, path := range []string{"/healthz", "/readyz", "/.well-known/openid-configuration", "/discovery/keys"} {
		l.ask("GET "+path, "GET", l.base+path, "", nil, 200)
	}
	pid := l.cmd.Process.Pid
	inUse, size := image(t, pid, &l.search)
	l.end()
	afterwards, _ := image(t, pid, &l.search)
	l.otherWork()
	later, _ := image(t, pid, &l.search)
	l.run(2, "audit", "show", filepath.Join(l.data, "audit"))
	l.run(2, "audit", "show", filepath.Join(l.data, "audit"), "--output", "json")
	l.ask("GET /metrics", "GET", l.metricsURL, "", nil, 200)
	for _, file := range []string{"environ", "cmdline"} {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, file))
		if err != nil {
			t.Fatal(err)
		}
		l.nowhere("/proc/PID/"+file, text, 10)
	}
	l.quit()
	l.nowhere("standard output", []byte(l.text(l.stdout)), 50)
	l.nowhere("the log", []byte(l.text(l.stderr)), 50_000)
	for _, word := range []string{"SIGQUIT", "goroutine ", `"level":"DEBUG"`, "request refused", "request failed"} {
		if !strings.Contains(l.text(l.stderr), word) {
			t.Errorf("the log has no %q: it was not as talkative as it can be", word)
		}
	}
	t.Logf("searched %d windows in %d MB of memory, %d kB of log, the answers of %d routes and commands", len(l.search.needles), size>>20, len(l.text(l.stderr))>>10, len(l.answers))

	files, answers := l.stored(), map[string]map[string]bool{}
	for from, text := range l.answers {
		place(answers, from, l.search.in(text.Bytes()))
	}
	kinds := map[string]bool{}
	for _, n := range l.search.needles {
		kinds[n.what.kind] = true
	}
	for kind := range kinds {
		row, is := rows[kind]
		if !is {
			t.Errorf("%s: the table has no row", kind)
			continue
		}
		exactly(t, kind, "answers", row.answers, answers[kind])
		exactly(t, kind, "files", row.files, files[kind])
		row.judge(t, kind, "in use", row.inUse, inUse, nil)
		row.judge(t, kind, "afterwards", row.afterwards, afterwards, inUse)
		row.judge(t, kind, "later", row.later, later, inUse)
	}
	for kind := range rows {
		if !kinds[kind] {
			t.Errorf("%s: the table has a row, and the test no such secret", kind)
		}
	}
}

// nowhere fails for every secret in a text, and for a text with too little in it.
func (l *life) nowhere(where string, text []byte, least int) {
	l.t.Helper()
	if len(text) < least {
		l.t.Errorf("%s has %d bytes: nothing was searched", where, len(text))
	}
	for f, times := range l.search.in(text) {
		l.t.Errorf("%s has %s %s, as %s, %d times", where, f.kind, f.name, f.spelling, times)
	}
}

// place notes which kinds of secrets are in a place.
func place(places map[string]map[string]bool, where string, found map[finding]int) {
	for f := range found {
		if places[f.kind] == nil {
			places[f.kind] = map[string]bool{}
		}
		places[f.kind][where] = true
	}
}

// stored searches the data folder: which kinds of secrets are in which file.
func (l *life) stored() map[string]map[string]bool {
	l.t.Helper()
	places, seen := map[string]map[string]bool{}, map[string]int64{}
	err := filepath.WalkDir(l.data, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		found, size, err := l.search.inAll(f)
		name, _ := filepath.Rel(l.data, path)
		seen[strings.Split(name, "/")[0]] += size
		place(places, name, found)
		return err
	})
	if err != nil {
		l.t.Fatal(err)
	}
	for _, name := range []string{"strongroom.db", "seal.json", "audit", "administrator.env", "tls"} {
		if seen[name] < 100 {
			l.t.Errorf("%s in the data folder has %d bytes: nothing was searched", name, seen[name])
		}
	}
	return places
}

// row is what docs/secrets-in-memory.md says of a kind of secrets.
type row struct {
	answers, files           []string
	inUse, afterwards, later string // never, sent, may, must or less
}

var quoted = regexp.MustCompile("`([^`]+)`")

func readTable(t *testing.T) map[string]row {
	t.Helper()
	text, err := os.ReadFile("../../docs/secrets-in-memory.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string]row{}
	for line := range strings.Lines(string(text)) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), " | ")
		if !strings.HasPrefix(line, "| `") || len(cells) != 7 {
			continue
		}
		list := func(cell string) (names []string) {
			for _, m := range quoted.FindAllStringSubmatch(cell, -1) {
				names = append(names, m[1])
			}
			if (len(names) == 0) != (cell == "never") {
				t.Errorf("%q: a cell is never, or names places", cell)
			}
			return names
		}
		r := row{list(cells[1]), list(cells[2]), cells[3], cells[4], cells[5]}
		for i, word := range []string{r.inUse, r.afterwards, r.later} {
			if word != "never" && word != "sent" && word != "may" && word != "must" && (word != "less" || i == 0) {
				t.Errorf("%s: %q is no word of the columns about memory", line, word)
			}
		}
		rows[list(cells[0])[0]] = r
	}
	return rows
}

// exactly fails unless secrets of a kind were found in the places that the table names, and in all of them.
func exactly(t *testing.T, kind, column string, want []string, found map[string]bool) {
	t.Helper()
	got := slices.Sorted(maps.Keys(found))
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("%s, %s: found in %q, and the table says %q", kind, column, got, want)
	}
}

// judge holds what was found in memory against the table's word. "less" is about each secret of the kind by itself.
func (r row) judge(t *testing.T, kind, when, word string, found, before map[finding]int) {
	t.Helper()
	count := func(found map[finding]int) map[string]int {
		names := map[string]int{}
		for f, times := range found {
			if f.kind == kind {
				names[f.name] += times
			}
		}
		return names
	}
	now, then := count(found), count(before)
	switch word {
	case "never":
		if len(now) > 0 {
			t.Errorf("%s, in memory %s: found %v, and the table says never", kind, when, details(found, kind))
		}
	case "sent": // who may have it is looked at when only they can: see [life.atOnce]
		for f := range found {
			if f.kind == kind && !strings.HasPrefix(f.spelling, "base64") {
				t.Errorf("%s, in memory %s: found %v, and the table says only as the text that was sent", kind, when, details(found, kind))
				break
			}
		}
	case "must":
		if len(now) == 0 {
			t.Errorf("%s, in memory %s: not found, where it must be: the search does not see what is there", kind, when)
		}
	case "less":
		for name, times := range then {
			if now[name] >= times {
				t.Errorf("%s %s, in memory %s: found %d times, and %d times before: what was held was not wiped", kind, name, when, now[name], times)
			}
		}
	}
}

func details(found map[finding]int, kind string) (list []string) {
	for f, times := range found {
		if f.kind == kind {
			list = append(list, fmt.Sprintf("%s as %s %d times in %s", f.name, f.spelling, times, cmp.Or(f.keeper, "other memory")))
		}
	}
	slices.Sort(list)
	return list
}
