package strongroom_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// ruleCounts says how many rules each group of the threat model has.
var ruleCounts = []struct {
	group string
	rules int
}{{"S", 14}, {"K", 12}, {"A", 10}, {"L", 5}, {"B", 5}, {"R", 6}}

var (
	ruleRow   = regexp.MustCompile(`^\| ([A-Z][0-9]+) \|`)
	namedTest = regexp.MustCompile("`([a-z0-9/]+) ((?:Test|Fuzz)[A-Z][A-Za-z0-9_]*)`")
)

// threatRow is one row of a table of rules: id | rule | tests | what is not tested, or not yet.
type threatRow struct {
	id, rule, tests, reason string
}

// threatRows reads the rows of docs/threat-model.md. A row of another number of columns is an error: what stood
// in it would not be seen.
func threatRows(text string) (rows []threatRow, err error) {
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		m := ruleRow.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		cells := strings.Split(strings.Trim(line, "|"), "|")
		if len(cells) != 4 {
			return nil, fmt.Errorf("the row of %s has %d columns, want 4", m[1], len(cells))
		}
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		rows = append(rows, threatRow{cells[0], cells[1], cells[2], cells[3]})
	}
	return rows, nil
}

// threatFaults says what is wrong with a threat model: rules without a row or with two, rows that name no test and
// give no reason, tests that do not exist, and anything in the column of tests that is not a test.
func threatFaults(text string, exists func(pkg, test string) bool) (faults []string) {
	fault := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }
	rows, err := threatRows(text)
	if err != nil {
		return []string{err.Error()}
	}
	byID := map[string]threatRow{}
	for _, row := range rows {
		if _, twice := byID[row.id]; twice {
			fault("%s has two rows", row.id)
		}
		byID[row.id] = row
		if row.rule == "" {
			fault("%s says no rule", row.id)
		}
		named := namedTest.FindAllStringSubmatch(row.tests, -1)
		if len(named) == 0 && row.reason == "" {
			fault("%s has neither a test nor a reason", row.id)
		}
		if strings.Count(row.tests, "`") != 2*len(named) {
			fault("%s: the column of tests names something that is not `package TestName`: %s", row.id, row.tests)
		}
		if len(named) == 0 && row.tests != "" {
			fault("%s: the column of tests names no test: %s", row.id, row.tests)
		}
		for _, n := range named {
			if !exists(n[1], n[2]) {
				fault("%s: there is no %s in %s", row.id, n[2], n[1])
			}
		}
	}
	for _, group := range ruleCounts {
		for n := range group.rules {
			id := fmt.Sprint(group.group, n+1)
			row, there := byID[id]
			if !there {
				fault("%s has no row", id)
			}
			if group.group == "S" && len(namedTest.FindAllString(row.tests, -1)) == 0 {
				fault("%s has no test: every rule of this group must have one", id)
			}
			delete(byID, id)
		}
	}
	for id := range byID {
		fault("%s is no rule that this test knows", id)
	}
	return faults
}

// testExists looks for the function in the test files of a package.
func testExists(t *testing.T) func(pkg, test string) bool {
	return func(pkg, test string) bool {
		dir := filepath.FromSlash(pkg)
		if pkg == "strongroom" {
			dir = "."
		}
		files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			source, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(string(source), "\nfunc "+test+"(") {
				return true
			}
		}
		return false
	}
}

// Every rule of the threat model has a row, and every row a test that exists, or a reason.
func TestThreatModel(t *testing.T) {
	text, err := os.ReadFile("docs/threat-model.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, fault := range threatFaults(string(text), testExists(t)) {
		t.Error(fault)
	}
}

// The test above sees what it is there for.
func TestThreatModelIsRead(t *testing.T) {
	raw, err := os.ReadFile("docs/threat-model.md")
	if err != nil {
		t.Fatal(err)
	}
	text, exists := string(raw), func(string, string) bool { return true }
	row := func(id string) string {
		for line := range strings.Lines(text) {
			if strings.HasPrefix(line, "| "+id+" |") {
				return line
			}
		}
		t.Fatalf("no row %s", id)
		return ""
	}
	for name, c := range map[string]struct{ from, to, says string }{
		"a row is gone":              {row("S7"), "", "S7 has no row"},
		"the last row is gone":       {row("R6"), "", "R6 has no row"},
		"a row comes twice":          {row("K3"), row("K3") + row("K3"), "K3 has two rows"},
		"neither test nor reason":    {row("L4"), "| L4 | A rule | | |\n", "L4 has neither"},
		"an S rule with a reason":    {row("S1"), "| S1 | A rule | | later |\n", "S1 has no test"},
		"a column too many":          {row("A1"), "| A1 | A rule | `secret TestEqual` | | |\n", "A1 has 5 columns"},
		"words instead of a test":    {row("A1"), "| A1 | A rule | we looked | it is fine |\n", "A1: the column of tests names no test"},
		"a test without its package": {row("A1"), "| A1 | A rule | `secret TestEqual`, `TestDecide` | |\n", "A1: the column of tests names something"},
		"an unknown rule":            {row("A1"), row("A1") + "| Z1 | A rule | | later |\n", "Z1 is no rule"},
	} {
		t.Run(name, func(t *testing.T) {
			faults := strings.Join(threatFaults(strings.Replace(text, c.from, c.to, 1), exists), "\n")
			if !strings.Contains(faults, c.says) {
				t.Errorf("got %q, want %q", faults, c.says)
			}
		})
	}
	if find := testExists(t); find("secret", "TestEqua") || find("secret", "TestDecide") || !find("secret", "TestEqual") || !find("strongroom", "TestThreatModel") {
		t.Error("tests are not found where they are, or found where they are not")
	}
}

// Covers R6 as far as files tell: no module is replaced by another one, each that is required has checksums, and each that is
// required by ourselves a line in docs/dependencies.md.
func TestDependenciesAreTheirOwn(t *testing.T) {
	module, err := os.ReadFile("go.mod")
	if err != nil {
		t.Fatal(err)
	}
	sums, err := os.ReadFile("go.sum")
	if err != nil {
		t.Fatal(err)
	}
	reasons, err := os.ReadFile("docs/dependencies.md")
	if err != nil {
		t.Fatal(err)
	}
	required, ours := 0, 0
	for line := range strings.Lines(string(module)) {
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		if word := fields[0]; word == "replace" || word == "exclude" || strings.Contains(line, "=>") {
			t.Errorf("go.mod says %q", strings.TrimSpace(line))
		}
		if len(fields) < 2 || !strings.HasPrefix(fields[1], "v") || !strings.Contains(fields[0], ".") {
			continue
		}
		required++
		direct := !strings.Contains(line, "// indirect")
		has := func(what string) bool {
			return strings.Contains("\n"+string(sums), "\n"+fields[0]+" "+fields[1]+what+" h1:")
		}
		if !has("/go.mod") || direct && !has("") { // of some that others name, nothing but go.mod is ever read
			t.Errorf("%s %s has no checksum in go.sum", fields[0], fields[1])
		}
		if !direct {
			continue
		}
		ours++
		name := strings.TrimPrefix(fields[0], "github.com/")
		if short, is := strings.CutPrefix(name, "Azure/azure-sdk-for-go/sdk/"); is { // the stock SDK, by the names of its modules
			name = short[strings.LastIndex(short, "/")+1:]
		}
		if !regexp.MustCompile(`(^|[^\w./-])` + regexp.QuoteMeta(name) + `($|[^\w./-])`).Match(reasons) {
			t.Errorf("%s has no line in docs/dependencies.md that says what it is for", fields[0])
		}
	}
	if required < 10 || ours < 10 || ours == required {
		t.Fatalf("%d required modules were seen in go.mod, %d of them ours", required, ours)
	}
}
