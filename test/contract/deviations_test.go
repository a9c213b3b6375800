package contract

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// The page has exactly the deviations that the tests let pass, word for word and in their order.
func TestPageListsTheDeviations(t *testing.T) {
	text, err := os.ReadFile("../../docs/compatibility.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, found := strings.Cut(string(text), "\n## Deviations from the OpenAPI documents\n")
	if !found {
		t.Fatal("docs/compatibility.md has no section on deviations from the OpenAPI documents")
	}
	section, _, _ = strings.Cut(section, "\n## ")
	var got, want []string
	for line := range strings.Lines(section) {
		if strings.HasPrefix(line, "| `") {
			got = append(got, strings.TrimSpace(line))
		}
	}
	for _, d := range deviations {
		if strings.Contains(d.Document+d.Here+d.Why, "|") {
			t.Errorf("%s: a bar would break the table", d.Where)
		}
		want = append(want, d.Row())
	}
	if !slices.Equal(got, want) {
		t.Errorf("the page lists\n%s\nthe tests let pass\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// Every deviation is needed: without it, answers that are meant to be as they are would be faults, and each of
// these faults is about that deviation.
func TestDeviationsAreNeeded(t *testing.T) {
	for i, deviation := range deviations {
		if deviation.Why == "" || deviation.Document == "" || deviation.Here == "" {
			t.Errorf("%s: something is not said", deviation.Where)
		}
		d, err := load(folder, slices.Delete(slices.Clone(deviations), i, i+1))
		if err != nil {
			t.Errorf("without %s: %v", deviation.Where, err)
			continue
		}
		caught := 0
		for _, e := range good() {
			faults := d.Check(e)
			caught += len(faults)
			for _, f := range faults {
				last := deviation.Where[strings.LastIndexAny(deviation.Where, "./ ")+1:]
				if !strings.Contains(f.Member, last) && !strings.Contains(e.URI, last) {
					t.Errorf("without %s: %s", deviation.Where, f)
				}
			}
		}
		if caught == 0 {
			t.Errorf("%s is not needed: every answer passes without it", deviation.Where)
		}
	}
}

// A deviation that the documents have caught up with, or that never was one, is not carried on.
func TestStaleDeviations(t *testing.T) {
	for name, d := range map[string]Deviation{
		"declared by now":         {Where: "KeyOperationResult.kid", Document: "no such member", member: tree{"type": "string"}},
		"not declared any more":   {Where: "KeyOperationResult.kind", Document: "an object", member: tree{"type": "string"}},
		"not required any more":   {Where: "KeyBundle.tags", Document: "required"},
		"no such definition":      {Where: "KeyThing.kid", Document: "no such member", member: tree{"type": "string"}},
		"the operation exists":    {Where: "GET /securitydomain/upload", Document: "no such operation", responses: tree{}},
		"nothing beside the path": {Where: "GET /nowhere", Document: "no such operation", responses: tree{}},
		"no such edition":         {Where: "KeyOperationResult.extra", Edition: "6.9", Document: "no such member", member: tree{"type": "string"}},
	} {
		if _, err := load(folder, append(slices.Clone(deviations), d)); err == nil || !strings.Contains(err.Error(), d.Where) {
			t.Errorf("%s: got %v, want an error that names %s", name, err, d.Where)
		}
	}
}
