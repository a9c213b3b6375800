package dataplane_test

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"strongroom/internal/access"
	"strongroom/internal/dataplane"
)

// The tables of docs/roles.md are made from the routes, the table of data actions and the built-in roles:
// go test ./internal/dataplane -run TestRolesPage -update
func TestRolesPage(t *testing.T) {
	const page, begin, end = "../../docs/roles.md", "<!-- made by internal/dataplane TestRolesPage -->\n", "<!-- end -->\n"
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	rest, made := string(text), ""
	for _, table := range []string{rolesTable(), operationsTable(), unusedActions()} {
		before, after, found := strings.Cut(rest, begin)
		_, after, closed := strings.Cut(after, end)
		if !found || !closed {
			t.Fatalf("%s has no place for a table", page)
		}
		made += before + begin + table + end
		rest = after
	}
	made += rest
	if made == string(text) {
		return
	}
	if !*update {
		t.Fatalf("%s is not what it would be made to now; see the comment of this test", page)
	}
	if err := os.WriteFile(page, []byte(made), 0o644); err != nil {
		t.Fatal(err)
	}
}

func short(r access.Role) string { return strings.TrimPrefix(r.Name, "Managed HSM ") }

func rolesTable() string {
	var b strings.Builder
	b.WriteString("\n| Managed HSM … | ID | data actions |\n|---|---|---|\n")
	for _, r := range access.BuiltInRoles() {
		var list []string
		for _, a := range r.DataActions {
			list = append(list, "`"+string(a)+"`")
		}
		if len(list) == 0 {
			list = []string{"none"}
		}
		fmt.Fprintf(&b, "| %s | `%s` | %s |\n", short(r), r.ID, strings.Join(list, " "))
	}
	return b.String() + "\n"
}

func operationsTable() string {
	var b strings.Builder
	b.WriteString("\n| operation | request | data action | at | built-in roles |\n|---|---|---|---|---|\n")
	patterns := map[string][]string{}
	var names []string
	for _, op := range dataplane.Operations() {
		name := op.Name + " " + op.Method
		if patterns[name] == nil {
			names = append(names, name)
		}
		patterns[name] = append(patterns[name], op.Pattern)
	}
	table := dataplane.Actions()
	for _, name := range names {
		operation, method, _ := strings.Cut(name, " ")
		pattern := patterns[name][0]
		action, path, at := table[method+" /"+pattern], "/"+pattern, "the HSM"
		switch {
		case strings.Contains(pattern, "providers/"):
			path, at = "[/keys[/{name}]]/"+pattern[strings.Index(pattern, "providers/"):], "the scope in the path"
		case strings.Contains(pattern, "{name}"):
			at = "the key"
		}
		if slices.ContainsFunc(patterns[name], func(p string) bool { return strings.Contains(p, "{version}") }) {
			path = strings.Replace(path, "{name}", "{name}[/{version}]", 1)
		}
		fmt.Fprintf(&b, "| %s | `%s %s` | `%s` | %s | %s |\n", operation, method, path, action, at, strings.Join(rolesThatMay(action), ", "))
	}
	return b.String() + "\n"
}

func rolesThatMay(a access.Action) (names []string) {
	for _, r := range access.BuiltInRoles() {
		if slices.Contains(r.DataActions, a) {
			names = append(names, short(r))
		}
	}
	return names
}

func unusedActions() string {
	used := map[access.Action]bool{}
	for _, a := range dataplane.Actions() {
		used[a] = true
	}
	var b strings.Builder
	b.WriteString("\n| data action | built-in roles |\n|---|---|\n")
	for _, a := range access.Actions() {
		if !used[a] {
			fmt.Fprintf(&b, "| `%s` | %s |\n", a, strings.Join(rolesThatMay(a), ", "))
		}
	}
	return b.String() + "\n"
}
