package dataplane

import (
	"context"
	"net/http"
	"strings"

	"strongroom/internal/access"
	"strongroom/internal/api"
	"strongroom/internal/failure"
)

// The forms of identifiers, which one stock client compares as texts.
const (
	definitionPath = "Microsoft.KeyVault/providers/Microsoft.Authorization/roleDefinitions/"
	assignmentPath = "/providers/Microsoft.Authorization/roleAssignments/"
	definitionType = "Microsoft.Authorization/roleDefinitions"
	assignmentType = "Microsoft.Authorization/roleAssignments"
)

func listRoleDefinitions(ctx context.Context, c *call) (answer, error) {
	// Definitions are the same at every scope, so the one filter that there is changes nothing.
	if filter := c.query.Get("$filter"); filter != "" && filter != "atScope()" {
		return answer{}, failure.New(failure.BadParameter, "$filter of role definitions can only be atScope(), or left out")
	}
	roles, err := c.hsm.Roles().Definitions(ctx, c.caller, c.scope)
	if err != nil {
		return answer{}, err
	}
	list := api.RoleDefinitionList{Value: []api.RoleDefinition{}}
	for _, r := range roles {
		list.Value = append(list.Value, definition(r))
	}
	return ok(list)
}

func getRoleDefinition(ctx context.Context, c *call) (answer, error) {
	r, err := c.hsm.Roles().Definition(ctx, c.caller, c.scope, c.id)
	if err != nil {
		return answer{}, err
	}
	return ok(definition(r))
}

// putRoleDefinition answers 201 for a change too, which is what clients know.
func putRoleDefinition(ctx context.Context, c *call) (answer, error) {
	request, err := decode[api.RoleDefinitionRequest](c)
	if err != nil {
		return answer{}, err
	}
	p := request.Properties
	r := access.Role{ID: c.id, Name: p.RoleName, Description: p.Description, Scopes: p.AssignableScopes}
	if p.Type != "" && p.Type != "CustomRole" {
		return answer{}, failure.New(failure.BadParameter, "the type of a role that is made is CustomRole")
	}
	for _, set := range p.Permissions {
		if len(set.Actions)+len(set.NotActions) > 0 {
			return answer{}, failure.New(failure.BadParameter, "actions and notActions are of the control plane, and a role of an HSM has none; give dataActions")
		}
		if len(set.NotDataActions) > 0 && len(p.Permissions) > 1 {
			return answer{}, failure.New(failure.BadParameter, "notDataActions are for a role with one set of permissions; write one")
		}
		for _, row := range []struct {
			from []string
			to   *[]access.Action
		}{{set.DataActions, &r.DataActions}, {set.NotDataActions, &r.NotDataActions}} {
			for _, text := range row.from {
				action, err := access.ParseAction(text)
				if err != nil {
					return answer{}, err
				}
				*row.to = append(*row.to, action)
			}
		}
	}
	if r, err = c.hsm.Roles().PutDefinition(ctx, c.caller, c.scope, r); err != nil {
		return answer{}, err
	}
	return answer{status: http.StatusCreated, body: definition(r)}, nil
}

func deleteRoleDefinition(ctx context.Context, c *call) (answer, error) {
	r, err := c.hsm.Roles().DeleteDefinition(ctx, c.caller, c.scope, c.id)
	if err != nil {
		return answer{}, err
	}
	return ok(definition(r))
}

func listRoleAssignments(ctx context.Context, c *call) (answer, error) {
	filter, err := assignmentFilter(c.query.Get("$filter"))
	if err != nil {
		return answer{}, err
	}
	assignments, err := c.hsm.Roles().Assignments(ctx, c.caller, c.scope, filter)
	if err != nil {
		return answer{}, err
	}
	list := api.RoleAssignmentList{Value: []api.RoleAssignment{}}
	for _, a := range assignments {
		list.Value = append(list.Value, assignment(a))
	}
	return ok(list)
}

// assignmentFilter reads the two filters that there are.
func assignmentFilter(text string) (access.AssignmentFilter, error) {
	if text == "" {
		return access.AssignmentFilter{}, nil
	}
	if text == "atScope()" {
		return access.AssignmentFilter{AtScope: true}, nil
	}
	if principal, is := strings.CutPrefix(text, "principalId eq "); is {
		if quoted, begins := strings.CutPrefix(principal, "'"); begins {
			principal, is = strings.CutSuffix(quoted, "'")
		}
		if is && principal != "" && len(principal) <= 512 && !strings.ContainsAny(principal, "' ") {
			return access.AssignmentFilter{Principal: principal}, nil
		}
	}
	return access.AssignmentFilter{}, failure.New(failure.BadParameter, "$filter of role assignments can be atScope() or principalId eq ID")
}

func getRoleAssignment(ctx context.Context, c *call) (answer, error) {
	a, err := c.hsm.Roles().Assignment(ctx, c.caller, c.scope, c.id)
	if err != nil {
		return answer{}, err
	}
	return ok(assignment(a))
}

func putRoleAssignment(ctx context.Context, c *call) (answer, error) {
	request, err := decode[api.RoleAssignmentRequest](c)
	if err != nil {
		return answer{}, err
	}
	p := request.Properties
	role := p.RoleDefinitionID
	if len(role) > len(definitionPath) && strings.EqualFold(role[:len(definitionPath)], definitionPath) {
		role = role[len(definitionPath):]
	}
	a, err := c.hsm.Roles().PutAssignment(ctx, c.caller, access.Assignment{Name: c.id, PrincipalID: p.PrincipalID, RoleDefinitionID: role, Scope: c.scope})
	if err != nil {
		return answer{}, err
	}
	c.record.Role, c.record.Assignee = a.RoleDefinitionID, a.PrincipalID
	return answer{status: http.StatusCreated, body: assignment(a)}, nil
}

func deleteRoleAssignment(ctx context.Context, c *call) (answer, error) {
	a, err := c.hsm.Roles().DeleteAssignment(ctx, c.caller, c.scope, c.id)
	if err != nil {
		return answer{}, err
	}
	c.record.Role, c.record.Assignee = a.RoleDefinitionID, a.PrincipalID
	return ok(assignment(a))
}

func definition(r access.Role) api.RoleDefinition {
	texts := func(list []access.Action) []string {
		out := make([]string, len(list)) // not nil: clients read lists
		for i, a := range list {
			out[i] = access.ActionPrefix + string(a)
		}
		return out
	}
	d := api.RoleDefinition{ID: definitionPath + r.ID, Name: r.ID, Type: definitionType, Properties: api.RoleDefinitionProperties{
		RoleName: r.Name, Description: r.Description, Type: "AKVBuiltInRole", AssignableScopes: []string{access.ScopeRoot},
		Permissions: []api.Permissions{{Actions: append([]string{}, r.Actions...), NotActions: []string{}, DataActions: texts(r.DataActions), NotDataActions: texts(r.NotDataActions)}},
	}}
	if r.Custom {
		d.Properties.Type = "CustomRole"
		if len(r.Scopes) > 0 {
			d.Properties.AssignableScopes = r.Scopes
		}
	}
	return d
}

func assignment(a access.Assignment) api.RoleAssignment {
	return api.RoleAssignment{ID: assignmentPath + a.Name, Name: a.Name, Type: assignmentType,
		Properties: api.RoleAssignmentProperties{PrincipalID: a.PrincipalID, RoleDefinitionID: definitionPath + a.RoleDefinitionID, Scope: a.Scope}}
}
