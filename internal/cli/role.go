package cli

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"strongroom/internal/access"
	"strongroom/internal/api"
	"strongroom/internal/client"
)

func (a *app) roleCommand() *cobra.Command {
	return noun("role", "Roles of an HSM, and who has them", `A role says what its holder may do. An assignment gives a role to somebody, for the whole HSM or for one key. Nobody
has any right that no assignment gives; a new HSM has one, which makes its first administrators.`,
		noun("definition", "What roles allow", `The built-in roles are fixed. Custom roles are made of the same data actions.`,
			a.definitionListCommand(), a.definitionShowCommand(), a.definitionCreateCommand(), a.definitionUpdateCommand(), a.definitionDeleteCommand()),
		noun("assignment", "Who has which role", `A principal is a user, a group or an application, by its object ID. Scopes: / and /keys mean the whole HSM, /keys/NAME
means one key with all its versions, also one that is not there yet.`,
			a.assignmentListCommand(), a.assignmentCreateCommand(), a.assignmentDeleteCommand()))
}

// definitionView is a role as results show it.
type definitionView struct {
	Name           string   `json:"name"` // for people; the API's roleName
	ID             string   `json:"id"`   // GUID
	Custom         bool     `json:"custom"`
	Description    string   `json:"description,omitempty"`
	DataActions    []string `json:"data_actions"`
	NotDataActions []string `json:"not_data_actions,omitempty"`
}

func viewDefinition(d api.RoleDefinition) definitionView {
	v := definitionView{Name: d.Properties.RoleName, ID: d.Name, Custom: d.Properties.Type == "CustomRole", Description: d.Properties.Description, DataActions: []string{}}
	for _, set := range d.Properties.Permissions {
		v.DataActions = append(v.DataActions, set.DataActions...)
		v.NotDataActions = append(v.NotDataActions, set.NotDataActions...)
	}
	return v
}

func (v definitionView) kind() string {
	if v.Custom {
		return "custom"
	}
	return "built in"
}

func (a *app) showDefinition(d api.RoleDefinition) error {
	v := viewDefinition(d)
	return a.result(v, func(t *table) {
		t.field("name", v.Name)
		t.field("id", v.ID)
		t.field("kind", v.kind())
		t.field("description", v.Description)
		for i, action := range v.DataActions {
			t.row(label(i, "allows"), action)
		}
		for i, action := range v.NotDataActions {
			t.row(label(i, "but not"), action)
		}
	})
}

// label names the first line of several.
func label(i int, text string) string {
	if i > 0 {
		return ""
	}
	return text
}

func (a *app) definitionListCommand() *cobra.Command {
	var custom bool
	cmd := a.verb("list", "List the roles", "", 0, func(cmd *cobra.Command, _ []string) error {
		hsm, err := a.hsm(cmd)
		if err != nil {
			return err
		}
		list, err := hsm.RoleDefinitions(cmd.Context(), access.ScopeRoot)
		if err != nil {
			return err
		}
		views := []definitionView{} // not nil: an empty list is [] in JSON
		for _, d := range list {
			if v := viewDefinition(d); v.Custom || !custom {
				views = append(views, v)
			}
		}
		return a.result(views, func(t *table) {
			t.row("NAME", "KIND", "ACTIONS", "ID")
			for _, v := range views {
				t.row(v.Name, v.kind(), strconv.Itoa(len(v.DataActions)), v.ID)
			}
		})
	})
	cmd.Flags().BoolVar(&custom, "custom", false, "only custom roles")
	return a.connected(cmd, settingURL)
}

func (a *app) definitionShowCommand() *cobra.Command {
	cmd := a.verb("show ROLE", "Show what a role allows", "ROLE is the name of a role or its ID.", 1, func(cmd *cobra.Command, args []string) error {
		hsm, err := a.hsm(cmd)
		if err != nil {
			return err
		}
		d, err := findRole(cmd, hsm, access.ScopeRoot, args[0])
		if err != nil {
			return err
		}
		return a.showDefinition(d)
	})
	cmd.ValidArgsFunction = completeFirst(builtInNames())
	return a.connected(cmd, settingURL)
}

// roleFlags are what a custom role is made from.
type roleFlags struct {
	name, description string
	allow, not        []string
}

func (f *roleFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.description, "description", "", "what the role is for")
	flags.StringSliceVar(&f.allow, "allow", nil, "data action that the role allows, as /keys/sign/action; may be given several times")
	flags.StringSliceVar(&f.not, "but-not", nil, "data action to take out again; another role may still allow it")
	for _, name := range []string{"allow", "but-not"} {
		must(cmd.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(actionNames(), cobra.ShellCompDirectiveNoFileComp)))
	}
	must(cmd.RegisterFlagCompletionFunc("description", cobra.NoFileCompletions))
}

func (a *app) definitionCreateCommand() *cobra.Command {
	var f roleFlags
	cmd := a.verb("create NAME", "Make a custom role", "Makes a role of your own. Assign it like a built-in one.", 1, func(cmd *cobra.Command, args []string) error {
		p := api.RoleDefinitionProperties{RoleName: args[0], Description: f.description, Type: "CustomRole", AssignableScopes: []string{access.ScopeRoot}}
		set := api.Permissions{Actions: []string{}, NotActions: []string{}}
		var err error
		if set.DataActions, err = a.actions(cmd, f.allow); err != nil {
			return err
		}
		if set.NotDataActions, err = a.actions(cmd, f.not); err != nil {
			return err
		}
		p.Permissions = []api.Permissions{set}
		hsm, err := a.hsm(cmd)
		if err != nil {
			return err
		}
		// The API makes or replaces; this command only makes.
		list, err := hsm.RoleDefinitions(cmd.Context(), access.ScopeRoot)
		if err != nil {
			return err
		}
		for _, d := range list {
			if strings.EqualFold(d.Properties.RoleName, args[0]) {
				return problemf("role-exists", "choose another name; see: strongroom role definition show "+d.Name, "the role %s exists already, and nothing was changed", d.Properties.RoleName)
			}
		}
		name, err := a.newName()
		if err != nil {
			return err
		}
		d, err := hsm.PutRoleDefinition(cmd.Context(), name, p)
		if err != nil {
			return err
		}
		return a.showDefinition(d)
	})
	f.add(cmd)
	return a.connected(a.requireFlags(cmd, "allow"), settingURL)
}

func (a *app) definitionUpdateCommand() *cobra.Command {
	var f roleFlags
	cmd := a.verb("update ROLE", "Change a custom role", `Changes what is given and leaves the rest. --allow and --but-not replace their whole list. Whoever has the role has
it as it is from the next request on.`, 1, func(cmd *cobra.Command, args []string) error {
		given := cmd.Flags().Changed
		if !given("name") && !given("description") && !given("allow") && !given("but-not") {
			return a.usage(cmd, errors.New("it is not said what to change: give --name, --description, --allow or --but-not"))
		}
		allow, err := a.actions(cmd, f.allow)
		if err != nil {
			return err
		}
		not, err := a.actions(cmd, f.not)
		if err != nil {
			return err
		}
		hsm, err := a.hsm(cmd)
		if err != nil {
			return err
		}
		d, err := findRole(cmd, hsm, access.ScopeRoot, args[0])
		if err != nil {
			return err
		}
		v, p := viewDefinition(d), d.Properties
		if !v.Custom {
			return problemf("built-in-role", "make a custom role with: strongroom role definition create NAME --allow ACTION", "%s is built in and cannot be changed", v.Name)
		}
		if len(p.Permissions) > 1 && len(v.NotDataActions) > 0 {
			return problemf("role-has-sets", "make a new one in its place", "this role has several sets of permissions, which this command would mix up")
		}
		if given("name") {
			p.RoleName = f.name
		}
		if given("description") {
			p.Description = f.description
		}
		if !given("allow") {
			allow = v.DataActions
		}
		if !given("but-not") {
			not = append([]string{}, v.NotDataActions...)
		}
		p.Permissions = []api.Permissions{{Actions: []string{}, NotActions: []string{}, DataActions: allow, NotDataActions: not}}
		if d, err = hsm.PutRoleDefinition(cmd.Context(), d.Name, p); err != nil {
			return err
		}
		return a.showDefinition(d)
	})
	cmd.Flags().StringVar(&f.name, "name", "", "new name")
	must(cmd.RegisterFlagCompletionFunc("name", cobra.NoFileCompletions))
	f.add(cmd)
	return a.connected(cmd, settingURL)
}

func (a *app) definitionDeleteCommand() *cobra.Command {
	cmd := a.verb("delete ROLE", "Delete a custom role", "Its assignments stay, and give nothing.", 1, func(cmd *cobra.Command, args []string) error {
		hsm, err := a.hsm(cmd)
		if err != nil {
			return err
		}
		d, err := findRole(cmd, hsm, access.ScopeRoot, args[0])
		if err != nil {
			return err
		}
		if d, err = hsm.DeleteRoleDefinition(cmd.Context(), d.Name); err != nil {
			return err
		}
		a.say("deleted")
		return a.result(viewDefinition(d), func(*table) {})
	})
	return a.connected(cmd, settingURL)
}

// assignmentView is an assignment as results show it.
type assignmentView struct {
	Name      string `json:"name"` // GUID
	Principal string `json:"principal"`
	Role      string `json:"role,omitempty"` // its name; absent where that cannot be read
	RoleID    string `json:"role_id"`        // GUID
	Scope     string `json:"scope"`

	Warnings []string `json:"warnings,omitempty"`
}

func viewAssignment(x api.RoleAssignment, roles []api.RoleDefinition) assignmentView {
	p := x.Properties
	v := assignmentView{Name: x.Name, Principal: p.PrincipalID, RoleID: p.RoleDefinitionID[strings.LastIndex(p.RoleDefinitionID, "/")+1:], Scope: p.Scope}
	for _, d := range roles {
		if strings.EqualFold(d.Name, v.RoleID) {
			v.Role = d.Properties.RoleName
		}
	}
	return v
}

func (v assignmentView) roleText() string { return first(v.Role, v.RoleID) }

func (a *app) showAssignment(v assignmentView) error {
	v.Warnings = a.warned()
	return a.result(v, func(t *table) {
		t.field("name", v.Name)
		t.field("principal", v.Principal)
		t.field("role", v.roleText())
		t.field("scope", v.Scope)
	})
}

func (a *app) assignmentListCommand() *cobra.Command {
	var scope, principal string
	cmd := a.verb("list", "List the assignments", `Lists the assignments made at a scope. With --principal: those of one principal, at the scope, above it and below it;
at / that is all that it has.`, 0, func(cmd *cobra.Command, _ []string) error {
		at, err := a.scope(cmd, scope)
		if err != nil {
			return err
		}
		filter := ""
		if cmd.Flags().Changed("principal") {
			if err := a.checkPrincipal(cmd, principal); err != nil {
				return err
			}
			filter = client.FilterPrincipal(principal)
		}
		hsm, err := a.hsm(cmd)
		if err != nil {
			return err
		}
		list, err := hsm.RoleAssignments(cmd.Context(), at, filter)
		if err != nil {
			return err
		}
		roles, err := readableRoles(cmd, hsm, at)
		if err != nil {
			return err
		}
		views := make([]assignmentView, len(list))
		for i, x := range list {
			views[i] = viewAssignment(x, roles)
		}
		return a.result(views, func(t *table) {
			t.row("PRINCIPAL", "ROLE", "SCOPE", "NAME")
			for _, v := range views {
				t.row(v.Principal, v.roleText(), v.Scope, v.Name)
			}
		})
	})
	a.scopeFlag(cmd, &scope)
	cmd.Flags().StringVar(&principal, "principal", "", "object ID of the principal")
	must(cmd.RegisterFlagCompletionFunc("principal", cobra.NoFileCompletions))
	return a.connected(cmd, settingURL)
}

func (a *app) assignmentCreateCommand() *cobra.Command {
	var scope, principal, role string
	cmd := a.verb("create", "Give somebody a role", `Gives a principal a role, from the next request on. Who uses keys needs Managed HSM Crypto User; an administrator of
the HSM can give that, also to himself.`, 0, func(cmd *cobra.Command, _ []string) error {
		at, err := a.scope(cmd, scope)
		if err != nil {
			return err
		}
		if err := a.checkPrincipal(cmd, principal); err != nil {
			return err
		}
		if !isGUID(principal) && !strings.Contains(principal, ":") {
			a.warn("%q is no GUID: the role counts for whoever has exactly that as the object ID, and for nobody by a name; principals of an issuer with a prefix are PREFIX:OBJECT-ID", principal)
		}
		hsm, err := a.hsm(cmd)
		if err != nil {
			return err
		}
		d, err := findRole(cmd, hsm, at, role)
		if err != nil {
			return err
		}
		name, err := a.newName()
		if err != nil {
			return err
		}
		made, err := hsm.PutRoleAssignment(cmd.Context(), at, name, principal, d.ID)
		if err != nil {
			return err
		}
		return a.showAssignment(viewAssignment(made, []api.RoleDefinition{d}))
	})
	a.scopeFlag(cmd, &scope)
	flags := cmd.Flags()
	flags.Lookup("scope").DefValue, scope = "", "" // how far a right goes is said, not assumed
	flags.StringVar(&principal, "principal", "", "object ID of the user, group or application")
	flags.StringVar(&role, "role", "", "name of the role, with or without \"Managed HSM\" before it, or its ID")
	must(cmd.RegisterFlagCompletionFunc("principal", cobra.NoFileCompletions))
	must(cmd.RegisterFlagCompletionFunc("role", cobra.FixedCompletions(builtInNames(), cobra.ShellCompDirectiveNoFileComp)))
	return a.connected(a.requireFlags(cmd, "principal", "role", "scope"), settingURL)
}

func (a *app) assignmentDeleteCommand() *cobra.Command {
	var scope string
	cmd := a.verb("delete NAME", "Take a role away", "NAME is the GUID of the assignment, as its list shows it, and --scope where it was made.", 1,
		func(cmd *cobra.Command, args []string) error {
			at, err := a.scope(cmd, scope)
			if err != nil {
				return err
			}
			if !isGUID(args[0]) {
				return a.usage(cmd, fmt.Errorf("%q is not the name of an assignment, which is a GUID", args[0]))
			}
			hsm, err := a.hsm(cmd)
			if err != nil {
				return err
			}
			gone, err := hsm.DeleteRoleAssignment(cmd.Context(), at, args[0])
			if err != nil {
				return err
			}
			roles, err := readableRoles(cmd, hsm, at) // after the deletion, which may have taken the right away
			if err != nil {
				return err
			}
			a.say("taken away")
			return a.showAssignment(viewAssignment(gone, roles))
		})
	a.scopeFlag(cmd, &scope)
	return a.connected(cmd, settingURL)
}

// readableRoles are the role definitions, or none where the caller may not read them: then IDs stand for names.
func readableRoles(cmd *cobra.Command, hsm *client.HSM, scope string) ([]api.RoleDefinition, error) {
	list, err := hsm.RoleDefinitions(cmd.Context(), scope)
	if refused, is := errors.AsType[*client.Error](err); is && refused.Status == 403 {
		return nil, nil
	}
	return list, err
}

// findRole finds a role by its ID or its name. Names compare without case, and "Crypto User" is also Managed HSM Crypto
// User.
func findRole(cmd *cobra.Command, hsm *client.HSM, scope, role string) (api.RoleDefinition, error) {
	list, err := hsm.RoleDefinitions(cmd.Context(), scope)
	if err != nil {
		return api.RoleDefinition{}, err
	}
	for _, same := range []func(d api.RoleDefinition) bool{
		func(d api.RoleDefinition) bool {
			return strings.EqualFold(d.Name, role) || strings.EqualFold(d.ID, role)
		},
		func(d api.RoleDefinition) bool { return strings.EqualFold(d.Properties.RoleName, role) },
		func(d api.RoleDefinition) bool {
			return strings.EqualFold(d.Properties.RoleName, managedHSM+role)
		},
	} {
		var found []api.RoleDefinition
		for _, d := range list {
			if same(d) {
				found = append(found, d)
			}
		}
		if len(found) > 1 {
			return api.RoleDefinition{}, problemf("role-ambiguous", "give the ID of the one that is meant: strongroom role definition list", "%d roles are named %s", len(found), role)
		}
		if len(found) == 1 {
			return found[0], nil
		}
	}
	return api.RoleDefinition{}, problemf("no-such-role", "see what there is with: strongroom role definition list", "there is no role %s", role)
}

// managedHSM begins the names of the built-in roles.
const managedHSM = "Managed HSM "

func builtInNames() (list []string) {
	for _, r := range access.BuiltInRoles() {
		list = append(list, r.Name)
	}
	return list
}

func actionNames() (list []string) {
	for _, action := range access.Actions() {
		list = append(list, string(action))
	}
	return list
}

// action reads a data action, with or without its prefix.
func (a *app) action(cmd *cobra.Command, text string) (access.Action, error) {
	for _, full := range []string{text, access.ActionPrefix + text, access.ActionPrefix + "/" + text} {
		if action, err := access.ParseAction(full); err == nil {
			return action, nil
		}
	}
	short := "/" + strings.TrimPrefix(text, "/")
	for _, name := range actionNames() {
		if strings.EqualFold(name, short) || strings.HasPrefix(name, short+"/") {
			return "", a.usage(cmd, fmt.Errorf("%q is not a data action: is %s meant?", text, name))
		}
	}
	return "", a.usage(cmd, fmt.Errorf("%q is not a data action: they look like /keys/sign/action, and \"role definition show\" lists those of a role", text))
}

// actions reads data actions into the form of the wire.
func (a *app) actions(cmd *cobra.Command, texts []string) ([]string, error) {
	list := []string{} // not nil: it goes over the wire
	for _, text := range texts {
		action, err := a.action(cmd, text)
		if err != nil {
			return nil, err
		}
		list = append(list, access.ActionPrefix+string(action))
	}
	return list, nil
}

func (a *app) scopeFlag(cmd *cobra.Command, scope *string) {
	cmd.Flags().StringVar(scope, "scope", access.ScopeRoot, "where: / and /keys are the whole HSM, /keys/NAME is one key")
	must(cmd.RegisterFlagCompletionFunc("scope", cobra.FixedCompletions([]string{access.ScopeRoot, access.ScopeKeys, access.ScopeKeys + "/"}, cobra.ShellCompDirectiveNoFileComp|cobra.ShellCompDirectiveNoSpace)))
}

// scope checks a scope; the slash that it begins with may be left out.
func (a *app) scope(cmd *cobra.Command, text string) (string, error) {
	scope := text
	if !strings.HasPrefix(scope, "/") {
		scope = "/" + scope
	}
	if !access.ValidScope(scope) {
		return "", a.usage(cmd, fmt.Errorf("%q is not a scope: it is /, /keys or /keys/NAME", text))
	}
	return scope, nil
}

// checkPrincipal refuses what can be nobody's object ID. Most are GUIDs; an issuer without those has names.
func (a *app) checkPrincipal(cmd *cobra.Command, id string) error {
	if id == "" || strings.ContainsAny(id, " '\"") || oneLine(id) != id {
		return a.usage(cmd, fmt.Errorf("%q is not an object ID: give the GUID of the user, group or application", id))
	}
	return nil
}

// newName draws a GUID.
func (a *app) newName() (string, error) {
	name, err := uuid.NewRandomFromReader(a.rand)
	return name.String(), err
}

func isGUID(text string) bool { return len(text) == 36 && uuid.Validate(text) == nil }

// completeFirst completes the first argument.
func completeFirst(values []string) cobra.CompletionFunc {
	return func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return values, cobra.ShellCompDirectiveNoFileComp
	}
}
