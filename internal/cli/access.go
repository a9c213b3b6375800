package cli

import (
	"errors"
	"strings"

	"github.com/spf13/cobra"

	"strongroom/internal/access"
	"strongroom/internal/api"
	"strongroom/internal/client"
	"strongroom/internal/server"
)

func (a *app) accessCommand() *cobra.Command {
	return noun("access", "Who may do what, and the way back in", "", a.accessCheckCommand(), a.accessRecoverCommand())
}

// checkView is the answer to a question about access.
type checkView struct {
	Allowed   bool     `json:"allowed"`
	Principal string   `json:"principal"`
	Groups    []string `json:"groups,omitempty"`
	Action    string   `json:"action"`
	Scope     string   `json:"scope"`
	By        string   `json:"by,omitempty"`    // role, scope and assignment that allow it
	Roles     []string `json:"roles,omitempty"` // that would allow it
}

func (a *app) accessCheckCommand() *cobra.Command {
	var groups []string
	cmd := a.verb("check PRINCIPAL ACTION SCOPE", "Ask whether somebody may do something", `Reads the roles and assignments of an HSM and says which assignment allows a principal a data action, or which role is
missing. Exit code 1 means that it is not allowed. Nothing is asked of the principal, and no directory: an assignment
to a group counts if --group names it.`, 3, func(cmd *cobra.Command, args []string) error {
		if err := a.checkPrincipal(cmd, args[0]); err != nil {
			return err
		}
		action, err := a.action(cmd, args[1])
		if err != nil {
			return err
		}
		scope, err := a.scope(cmd, args[2])
		if err != nil {
			return err
		}
		if at := action.At(scope); at != scope {
			a.warn("%s is not of one key: it is decided at %s", access.ActionPrefix+string(action), at)
			scope = at
		}
		hsm, err := a.hsm(cmd)
		if err != nil {
			return err
		}
		definitions, err := hsm.RoleDefinitions(cmd.Context(), scope)
		if err != nil {
			return err
		}
		given, err := hsm.RoleAssignments(cmd.Context(), scope, client.FilterAtScope)
		if err != nil {
			return err
		}
		roles := rolesOf(definitions)
		caller := access.Caller{ObjectID: args[0], Groups: groups}
		decision := access.Decide(roles, assignmentsOf(given), caller, action, scope)
		v := checkView{Allowed: decision.Allowed, Principal: args[0], Groups: groups, Action: access.ActionPrefix + string(action), Scope: scope, By: decision.By}
		if decision.Allowed {
			return a.result(v, func(t *table) {
				t.field("allowed", v.Action)
				t.field("by", v.By)
			})
		}
		v.Roles = rolesWith(roles, action)
		p := &problem{code: "not-allowed", message: args[0] + " may not do " + v.Action + " at " + scope, detail: v}
		if len(v.Roles) == 0 {
			p.next = "no role of this HSM allows it; make one with: strongroom role definition create NAME --allow " + string(action)
		} else {
			p.next = "it needs " + strings.Join(v.Roles, " or ") + `; give it with: strongroom role assignment create --principal ` + args[0] + ` --role "` + v.Roles[0] + `" --scope ` + scope
		}
		return p
	})
	cmd.Flags().StringArrayVar(&groups, "group", nil, "object ID of a group that the principal is in; may be given several times")
	must(cmd.RegisterFlagCompletionFunc("group", cobra.NoFileCompletions))
	cmd.ValidArgsFunction = func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		switch len(args) {
		case 1:
			return actionNames(), cobra.ShellCompDirectiveNoFileComp
		case 2:
			return []string{access.ScopeRoot, access.ScopeKeys, access.ScopeKeys + "/"}, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
		}
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return a.connected(cmd, settingURL)
}

// rolesOf takes roles off the wire, each set of permissions as a role of its own: what one set takes out, another may
// give. Data actions that this program does not know are left out; it cannot be asked about them.
func rolesOf(definitions []api.RoleDefinition) (list []access.Role) {
	known := func(texts []string) (actions []access.Action) {
		for _, text := range texts {
			if action, err := access.ParseAction(text); err == nil {
				actions = append(actions, action)
			}
		}
		return actions
	}
	for _, d := range definitions {
		for _, set := range d.Properties.Permissions {
			list = append(list, access.Role{ID: d.Name, Name: d.Properties.RoleName, DataActions: known(set.DataActions), NotDataActions: known(set.NotDataActions)})
		}
	}
	return list
}

func assignmentsOf(list []api.RoleAssignment) (out []access.Assignment) {
	for _, x := range list {
		v := viewAssignment(x, nil)
		out = append(out, access.Assignment{Name: v.Name, PrincipalID: v.Principal, RoleDefinitionID: v.RoleID, Scope: v.Scope})
	}
	return out
}

// rolesWith are the names of the roles that allow an action.
func rolesWith(roles []access.Role, action access.Action) (names []string) {
	const somebody = "somebody"
	for _, r := range roles {
		try := []access.Assignment{{PrincipalID: somebody, RoleDefinitionID: r.ID, Scope: access.ScopeRoot}}
		if access.Decide([]access.Role{r}, try, access.Caller{ObjectID: somebody}, action, access.ScopeRoot).Allowed {
			names = append(names, first(r.Name, r.ID))
		}
	}
	return names
}

func (a *app) accessRecoverCommand() *cobra.Command {
	var (
		r       server.Recovery
		confirm string
	)
	cmd := a.verb("recover", "Make somebody administrator of an HSM, on the server's own files", `For the operator of a server whose HSM has no administrator who can still sign in. It needs what the server needs:
the data folder and its seal. The server must be stopped, and nothing of this is possible over the network.

It gives one principal the role Managed HSM Administrator at /, and takes nothing from anybody. That role gives no
key; its holder can assign the roles that do. Tell those who own the keys.`, 0, func(cmd *cobra.Command, _ []string) error {
		if r.DataDir == "" && r.ConfigFile == "" {
			return a.usage(cmd, errors.New("it is not said where the server's files are: give --data DIR, or --config FILE"))
		}
		if _, err := access.ParseObjectID(r.Principal); err != nil {
			return a.usage(cmd, errors.New("--principal is not an object ID: give the GUID of the user, group or application, behind its issuer's prefix if that has one"))
		}
		if err := a.confirm(cmd.Context(), r.HSM, confirm, "This makes "+r.Principal+" administrator of the HSM "+r.HSM+", past everybody who administrates it now."); err != nil {
			return err
		}
		r.Log = a.err
		r.Prompt = func(question string) ([]byte, error) { return promptSeal(cmd.Context(), question) }
		done, err := server.RecoverAccess(cmd.Context(), r)
		if mistake, is := errors.AsType[*server.UsageError](err); is {
			return a.usage(cmd, mistake.Err)
		}
		if err != nil {
			return err
		}
		result := struct {
			HSM       string `json:"hsm"`
			ID        string `json:"id"`
			Principal string `json:"principal"`
			Role      string `json:"role"`
			Scope     string `json:"scope"`
			Changed   bool   `json:"changed"`
		}{done.HSM, done.ID, done.Principal, "Managed HSM Administrator", access.ScopeRoot, !done.Already}
		if done.Already {
			a.say("%s is an administrator of %s already; nothing was changed", done.Principal, done.HSM)
		} else {
			a.say("start the server, sign in as that principal, and see who else has a role: strongroom role assignment list")
		}
		return a.result(result, func(t *table) {
			t.field("hsm", done.HSM)
			t.field("principal", done.Principal)
			t.field("role", result.Role)
			t.field("scope", result.Scope)
		})
	})
	flags := cmd.Flags()
	flags.StringVar(&r.DataDir, "data", "", "folder of the server's database and seal")
	flags.StringVar(&r.ConfigFile, "config", "", "the server's configuration file, which names both")
	flags.StringVar(&r.HSM, "hsm", "", "name of the HSM")
	flags.StringVar(&r.Principal, "principal", "", "object ID of the new administrator")
	flags.StringVar(&r.SealPassphraseFile, "seal-passphrase-file", "", "file with the passphrase of the seal")
	flags.StringVar(&confirm, "confirm", "", "the HSM's name again, in place of the question")
	must(cmd.MarkFlagDirname("data"))
	must(cmd.MarkFlagFilename("config", "toml"))
	for _, name := range []string{"hsm", "principal", "confirm"} {
		must(cmd.RegisterFlagCompletionFunc(name, cobra.NoFileCompletions))
	}
	return a.requireFlags(cmd, "hsm", "principal")
}
