package client

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"strongroom/internal/api"
)

// What stands in a path between a scope and the name of a role definition or assignment.
const (
	definitionsPath = "providers/Microsoft.Authorization/roleDefinitions"
	assignmentsPath = "providers/Microsoft.Authorization/roleAssignments"
)

// FilterAtScope asks for the assignments at a scope and above it, of everybody.
const FilterAtScope = "atScope()"

// FilterPrincipal asks for the assignments of one principal, at a scope, above it and below it.
func FilterPrincipal(id string) string { return "principalId eq " + id }

// rolePath is the path of something at a scope: "/", "/keys" or "/keys/NAME".
func rolePath(scope, what string, name ...string) []string {
	path := strings.FieldsFunc(scope, func(r rune) bool { return r == '/' })
	return append(append(path, strings.Split(what, "/")...), name...)
}

// RoleDefinitions lists the roles of the HSM, built-in and custom, which are the same at every scope. The caller needs
// the right to read them at scope.
func (h *HSM) RoleDefinitions(ctx context.Context, scope string) ([]api.RoleDefinition, error) {
	return rolePages[api.RoleDefinition](ctx, h, "", rolePath(scope, definitionsPath))
}

// PutRoleDefinition makes the custom role of that name, a GUID, or replaces it.
func (h *HSM) PutRoleDefinition(ctx context.Context, name string, p api.RoleDefinitionProperties) (api.RoleDefinition, error) {
	var made api.RoleDefinition
	_, err := h.call(ctx, http.MethodPut, api.RoleDefinitionRequest{Properties: p}, &made, rolePath("/", definitionsPath, name)...)
	return made, err
}

// DeleteRoleDefinition deletes a custom role and returns what it was.
func (h *HSM) DeleteRoleDefinition(ctx context.Context, name string) (api.RoleDefinition, error) {
	var gone api.RoleDefinition
	_, err := h.call(ctx, http.MethodDelete, nil, &gone, rolePath("/", definitionsPath, name)...)
	return gone, err
}

// RoleAssignments lists assignments of a scope: without a filter those made there.
func (h *HSM) RoleAssignments(ctx context.Context, scope, filter string) ([]api.RoleAssignment, error) {
	return rolePages[api.RoleAssignment](ctx, h, filter, rolePath(scope, assignmentsPath))
}

// PutRoleAssignment gives a principal a role at a scope, under a name that the caller makes up, a GUID. role is the ID of
// a definition, as RoleDefinitions gives it.
func (h *HSM) PutRoleAssignment(ctx context.Context, scope, name, principal, role string) (api.RoleAssignment, error) {
	var made api.RoleAssignment
	request := api.RoleAssignmentRequest{Properties: api.RoleAssignmentProperties{RoleDefinitionID: role, PrincipalID: principal}}
	_, err := h.call(ctx, http.MethodPut, request, &made, rolePath(scope, assignmentsPath, name)...)
	return made, err
}

// DeleteRoleAssignment takes a role away and returns what was assigned.
func (h *HSM) DeleteRoleAssignment(ctx context.Context, scope, name string) (api.RoleAssignment, error) {
	var gone api.RoleAssignment
	_, err := h.call(ctx, http.MethodDelete, nil, &gone, rolePath(scope, assignmentsPath, name)...)
	return gone, err
}

// rolePages reads a list to its end. Its pages may only be at the HSM's own address.
func rolePages[T any](ctx context.Context, h *HSM, filter string, path []string) ([]T, error) {
	u := h.base.JoinPath(escape(path)...)
	query := url.Values{"api-version": {apiVersion}}
	if filter != "" {
		query.Set("$filter", filter)
	}
	u.RawQuery = query.Encode()
	var list []T
	for range maxPages {
		a, err := h.c.do(ctx, request{method: http.MethodGet, url: u})
		if err != nil {
			return nil, err
		}
		var page struct {
			Value    []T    `json:"value"`
			NextLink string `json:"nextLink"`
		}
		if err := a.into(&page); err != nil {
			return nil, err
		}
		list = append(list, page.Value...)
		if page.NextLink == "" {
			return list, nil
		}
		if u, err = url.Parse(page.NextLink); err != nil || u.Scheme != "https" || u.Host != h.base.Host || u.User != nil {
			return nil, fmt.Errorf("%w: the list goes on at another address", ErrAnswer)
		}
	}
	return nil, fmt.Errorf("%w: the list does not end", ErrAnswer)
}
