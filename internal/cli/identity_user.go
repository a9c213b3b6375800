package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"strongroom/internal/api"
)

func (a *app) identityUserCommand() *cobra.Command {
	return noun("user", "Users: who signs in with a name and a password", `Makes, shows and removes users of the embedded token issuer. A user has a name and a password, which "az login --username"
and the Azure SDKs sign in with, and an object ID, which roles are assigned to. Passwords are made here and never chosen:
nobody can guess one. Users are for rehearsals and small installations; where people have an account elsewhere, at Entra ID
or Keycloak say, they sign in there.

These commands need the server's data folder, as those of "strongroom identity app" do.`,
		a.userCreateCommand(), a.userListCommand(), a.userRotateCommand(), a.userDeleteCommand())
}

// userView is a user as results show it.
type userView struct {
	Name            string    `json:"name"`
	ObjectID        string    `json:"object_id"`
	Password        string    `json:"password,omitempty"`
	PasswordFile    string    `json:"password_file,omitempty"`
	Created         time.Time `json:"created"`
	PasswordCreated time.Time `json:"password_created"`
}

func viewUser(u api.User) userView {
	return userView{Name: u.Name, ObjectID: u.ObjectID, Password: u.Password, Created: u.Created, PasswordCreated: u.PasswordCreated}
}

// showPassword prints a user with the password, which goes to a file instead if one is named.
func (a *app) showPassword(u api.User, file string) error {
	v := viewUser(u)
	if file != "" {
		again := fmt.Sprintf("strongroom identity user rotate %s --data DIR --secret-out FILE", u.Name)
		if err := writeSecret(file, v.Password, "password", again); err != nil {
			return err
		}
		v.Password, v.PasswordFile = "", file
	}
	return a.result(v, func(t *table) {
		t.field("name", v.Name)
		t.field("object id", v.ObjectID)
		t.field("password", v.Password)
		t.field("password file", v.PasswordFile)
	})
}

func (a *app) userCreateCommand() *cobra.Command {
	cmd := a.verb("create NAME", "Make a user", `Makes a user and prints the name, the object ID and the password. The password is shown this once: the server keeps only
a hash of it. What the user may do is said by roles, which are assigned to the object ID.`, 1, nil)
	file := secretOut(cmd, "password")
	return a.onData(cmd, func(ctx context.Context, d directory, args []string) error {
		if err := checkSecretOut(*file); err != nil {
			return err
		}
		u, err := d.CreateUser(ctx, api.CreateUser{Name: args[0]})
		if err != nil {
			return err
		}
		if *file == "" {
			a.say("the password is shown this once; keep it where your secrets live")
		}
		return a.showPassword(u, *file)
	})
}

func (a *app) userListCommand() *cobra.Command {
	cmd := a.verb("list", "List the users", "", 0, nil)
	return a.onData(cmd, func(ctx context.Context, d directory, _ []string) error {
		list, err := d.ListUsers(ctx, api.ListUsers{})
		if err != nil {
			return err
		}
		views := []userView{} // not nil: an empty list is [] in JSON
		for _, u := range list.Users {
			views = append(views, viewUser(u))
		}
		return a.result(views, func(t *table) {
			t.row("NAME", "OBJECT ID", "CREATED", "PASSWORD MADE")
			for _, v := range views {
				t.row(v.Name, v.ObjectID, v.Created.Format(time.RFC3339), v.PasswordCreated.Format(time.RFC3339))
			}
		})
	})
}

func (a *app) userRotateCommand() *cobra.Command {
	var revoke bool
	cmd := a.verb("rotate NAME|OBJECT-ID", "Give a user a new password", `Makes a new password for a user and prints it, this once. The old one stops at once. Sign-ins that were made with it last
until they are over, 12 hours at most and an hour more for their last token; with --revoke-tokens they stop too, within a
minute.`, 1, nil)
	cmd.Flags().BoolVar(&revoke, "revoke-tokens", false, "sign-ins and tokens that are out stop too: for a password that has leaked")
	file := secretOut(cmd, "password")
	a.completeUsers(cmd)
	return a.onData(cmd, func(ctx context.Context, d directory, args []string) error {
		if err := checkSecretOut(*file); err != nil {
			return err
		}
		u, err := d.RotateUser(ctx, api.RotateUser{User: args[0], RevokeTokens: revoke})
		if err != nil {
			return err
		}
		if *file == "" {
			a.say("the password is shown this once; keep it where your secrets live")
		}
		return a.showPassword(u, *file)
	})
}

func (a *app) userDeleteCommand() *cobra.Command {
	cmd := a.verb("delete NAME|OBJECT-ID", "Remove a user", `Removes a user, who cannot sign in any more, and whose tokens stop within a minute. Roles that are assigned to the object
ID stay, without effect; a user of the same name that is made later has another object ID.`, 1, nil)
	a.completeUsers(cmd)
	return a.onData(cmd, func(ctx context.Context, d directory, args []string) error {
		u, err := d.DeleteUser(ctx, api.DeleteUser{User: args[0]})
		if err != nil {
			return err
		}
		a.say("deleted; tokens of the user stop within a minute")
		return a.result(viewUser(u), func(*table) {})
	})
}

// completeUsers completes the names of users.
func (a *app) completeUsers(cmd *cobra.Command) {
	completeNames(cmd, func(ctx context.Context, d directory) (names []string) {
		list, _ := d.ListUsers(ctx, api.ListUsers{})
		for _, u := range list.Users {
			names = append(names, u.Name)
		}
		return names
	})
}
