package client

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"strongroom/internal/api"
)

// What is asked, for each operation and scope, and that lists are read to their end.
func TestRoles(t *testing.T) {
	f := newFake(t, nil)
	f.answer = func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/more":
			_, _ = fmt.Fprint(w, `{"value":[{"name":"2"}],"nextLink":null}`)
		case r.Method == http.MethodGet:
			_, _ = fmt.Fprintf(w, `{"value":[{"name":"1"}],"nextLink":"%s/more?x=y"}`, f.URL)
		default:
			_, _ = fmt.Fprint(w, `{"name":"1"}`)
		}
	}
	h, ctx := f.hsm(t), t.Context()
	definitions, err := h.RoleDefinitions(ctx, "/keys/a")
	if err != nil || len(definitions) != 2 || definitions[1].Name != "2" {
		t.Fatalf("definitions: %+v, %v", definitions, err)
	}
	assignments, err := h.RoleAssignments(ctx, "/", FilterPrincipal("corp:1"))
	if err != nil || len(assignments) != 2 {
		t.Fatalf("assignments: %+v, %v", assignments, err)
	}
	for _, do := range []func() error{
		func() error { _, err := h.RoleAssignments(ctx, "/keys", ""); return err },
		func() error {
			_, err := h.PutRoleDefinition(ctx, "1", api.RoleDefinitionProperties{RoleName: "r", Type: "CustomRole"})
			return err
		},
		func() error { _, err := h.DeleteRoleDefinition(ctx, "1"); return err },
		func() error { _, err := h.PutRoleAssignment(ctx, "/keys/a", "1", "who", "what"); return err },
		func() error { _, err := h.DeleteRoleAssignment(ctx, "/keys", "1"); return err },
	} {
		if err := do(); err != nil {
			t.Fatal(err)
		}
	}
	const auth = "providers/Microsoft.Authorization/"
	want := []string{
		"GET /keys/a/" + auth + "roleDefinitions?api-version=7.4", "GET /more?x=y",
		"GET /" + auth + "roleAssignments?%24filter=principalId+eq+corp%3A1&api-version=7.4", "GET /more?x=y",
		"GET /keys/" + auth + "roleAssignments?api-version=7.4", "GET /more?x=y",
		"PUT /" + auth + `roleDefinitions/1?api-version=7.4 {"properties":{"roleName":"r","description":"","type":"CustomRole","permissions":null,"assignableScopes":null}}`,
		"DELETE /" + auth + "roleDefinitions/1?api-version=7.4",
		"PUT /keys/a/" + auth + `roleAssignments/1?api-version=7.4 {"properties":{"roleDefinitionId":"what","principalId":"who"}}`,
		"DELETE /keys/" + auth + "roleAssignments/1?api-version=7.4",
	}
	var got []string
	for _, line := range f.requests {
		if strings.Contains(line, "token-1") {
			got = append(got, strings.ReplaceAll(line, " token-1", ""))
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("asked\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// A list that leads elsewhere is not followed with our token, and one that does not end is given up.
func TestRoleListsThatAreNone(t *testing.T) {
	f := newFake(t, nil)
	for name, next := range map[string]string{"elsewhere": "https://elsewhere.invalid/x", "in the clear": strings.Replace(f.URL, "https", "http", 1) + "/x", "for ever": f.URL + "/x", "nowhere": "::"} {
		f.answer = text(`{"value":[],"nextLink":"` + next + `"}`)
		if _, err := f.hsm(t).RoleDefinitions(t.Context(), "/"); !errors.Is(err, ErrAnswer) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n := len(f.requests); n > 2*maxPages {
		t.Errorf("%d requests", n)
	}
}
