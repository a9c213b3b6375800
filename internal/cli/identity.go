package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"strongroom/internal/api"
	"strongroom/internal/client"
	"strongroom/internal/failure"
	"strongroom/internal/server"
)

func (a *app) identityCommand() *cobra.Command {
	return noun("identity", "Applications and users of the embedded token issuer", `Manages those who sign in at the token issuer that is part of the server. Where people and programs sign in elsewhere,
at Entra ID or Keycloak say, they are managed there.`, a.identityAppCommand(), a.identityUserCommand())
}

func (a *app) identityAppCommand() *cobra.Command {
	return noun("app", "Applications: who signs in with a client ID and a secret", `Makes, shows and removes applications of the embedded token issuer. An application has a client ID and a secret, which
it signs in with, and an object ID, which roles are assigned to.

These commands need the server's data folder, on its machine, as its user or root. They speak to the server that runs
on the folder, or open its database if none does; then they need the seal as "strongroom serve" does.`,
		a.appCreateCommand(), a.appListCommand(), a.appRotateCommand(), a.appDeleteCommand())
}

// directory is where applications and users are: in the server that runs, or in the database of one that does not.
type directory interface {
	CreateApplication(context.Context, api.CreateApplication) (api.Application, error)
	ListApplications(context.Context, api.ListApplications) (api.ApplicationList, error)
	RotateApplication(context.Context, api.RotateApplication) (api.Application, error)
	DeleteApplication(context.Context, api.DeleteApplication) (api.Application, error)
	CreateUser(context.Context, api.CreateUser) (api.User, error)
	ListUsers(context.Context, api.ListUsers) (api.UserList, error)
	RotateUser(context.Context, api.RotateUser) (api.User, error)
	DeleteUser(context.Context, api.DeleteUser) (api.User, error)
	Close() error
}

// onData gives a command the flags that say where a server's data is, and runs it with the directory there.
func (a *app) onData(cmd *cobra.Command, run func(ctx context.Context, d directory, args []string) error) *cobra.Command {
	o := server.Options{}
	flags := cmd.Flags()
	flags.StringVar(&o.DataDir, "data", "", "data folder of the server")
	flags.StringVar(&o.ConfigFile, "config", "", "configuration file of the server (TOML), in place of --data or beside it")
	flags.StringVar(&o.SealPassphraseFile, "seal-passphrase-file", "", "file with the passphrase of the seal, if the server does not run")
	must(cmd.MarkFlagDirname("data"))
	must(cmd.MarkFlagFilename("config", "toml"))
	cmd.RunE = func(cmd *cobra.Command, args []string) (err error) {
		a.started = true
		if o.DataDir == "" && o.ConfigFile == "" {
			return a.usage(cmd, errors.New("no data folder: give --data DIR, or --config FILE with data in it"))
		}
		ctx := cmd.Context()
		o.Prompt = func(question string) ([]byte, error) { return promptSeal(ctx, question) }
		d, err := a.openDirectory(cmd, o)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, d.Close()) }()
		return identityProblem(cmd, run(ctx, d, args))
	}
	return cmd
}

func (a *app) openDirectory(cmd *cobra.Command, o server.Options) (directory, error) {
	data, err := server.DataDir(o)
	if mistake, is := errors.AsType[*server.UsageError](err); is {
		return nil, a.usage(cmd, mistake.Err)
	}
	running, notServed := client.DialAdmin(cmd.Context(), data)
	if notServed == nil {
		return running, nil
	}
	stopped, err := server.OpenAdmin(cmd.Context(), o)
	if errors.Is(err, server.ErrRunning) {
		return nil, &problem{
			code: "server-running", message: fmt.Sprintf("a server is running on %s, and its admin socket cannot be reached", data),
			next:  "run this as the server's user; if the server has only begun to start, try again; or else see its log, or stop it first",
			cause: notServed,
		}
	}
	if mistake, is := errors.AsType[*server.UsageError](err); is {
		return nil, a.usage(cmd, mistake.Err)
	}
	return stopped, err
}

// identityProblem gives a refusal the same code and way out, whether it came from a server or from the database.
func identityProblem(cmd *cobra.Command, err error) error {
	var code, message string
	if refused, ok := errors.AsType[*client.Error](err); ok {
		code, message = refused.Code, refused.Error()
	} else if f, ok := errors.AsType[*failure.Error](err); ok {
		_, body := api.FromFailure(f, "")
		code, message = body.Error.Code, body.Error.Message
	} else {
		return err
	}
	p := &problem{code: code, message: message, cause: err}
	switch {
	case code == "ApplicationNotFound":
		p.next = "see what there is with: strongroom identity app list --data DIR"
	case code == "UserNotFound":
		p.next = "see what there is with: strongroom identity user list --data DIR"
	case cmd.Name() == "delete" && code == "Conflict":
		p.next = "strongroom identity app rotate administrator --revoke-tokens --data DIR"
	}
	return p
}

// appView is an application as results show it.
type appView struct {
	Name          string     `json:"name"`
	ClientID      string     `json:"client_id"`
	ObjectID      string     `json:"object_id"`
	Secret        string     `json:"client_secret,omitempty"`
	SecretFile    string     `json:"client_secret_file,omitempty"`
	EnvFile       string     `json:"env_file,omitempty"`
	Created       time.Time  `json:"created"`
	SecretCreated *time.Time `json:"secret_created,omitempty"`
}

func viewApp(app api.Application) appView {
	return appView{Name: app.Name, ClientID: app.ClientID, ObjectID: app.ObjectID, Secret: app.Secret, EnvFile: app.EnvFile, Created: app.Created, SecretCreated: app.SecretCreated}
}

// showSecret prints an application with its secret, which goes to a file instead if one is named.
func (a *app) showSecret(app api.Application, file string) error {
	v := viewApp(app)
	if file != "" {
		if err := writeSecret(file, v.Secret, "secret", fmt.Sprintf("strongroom identity app rotate %q --data DIR --secret-out FILE", app.Name)); err != nil {
			return err
		}
		v.Secret, v.SecretFile = "", file
	}
	return a.result(v, func(t *table) {
		t.field("name", v.Name)
		t.field("client id", v.ClientID)
		t.field("object id", v.ObjectID)
		t.field("client secret", v.Secret)
		t.field("client secret file", v.SecretFile)
		t.field("updated", v.EnvFile)
	})
}

// writeSecret writes a secret that was just made to a file; again is the command that makes another one.
func writeSecret(file, text, what, again string) error {
	err := writeFile(file, []byte(text+"\n"), 0o600, false)
	if err == nil {
		return nil
	}
	p := *explain(err)
	p.next = "make another one: " + again
	p.message += "; the " + what + " was made, and is lost"
	return &p
}

// secretOut gives a command the flag that keeps a secret off the terminal, and off a script's output.
func secretOut(cmd *cobra.Command, what string) *string {
	file := cmd.Flags().String("secret-out", "", "write the "+what+" to this new file, which only you can read, in place of showing it")
	must(cmd.RegisterFlagCompletionFunc("secret-out", cobra.FixedCompletions(nil, cobra.ShellCompDirectiveDefault)))
	return file
}

func (a *app) appCreateCommand() *cobra.Command {
	cmd := a.verb("create NAME", "Register an application", `Registers an application and prints its client ID, its object ID and its secret. The secret is shown this once: the
server keeps only a hash of it. What the application may do is said by roles, which are assigned to its object ID.`, 1, nil)
	file := secretOut(cmd, "secret")
	return a.onData(cmd, func(ctx context.Context, d directory, args []string) error {
		if err := checkSecretOut(*file); err != nil {
			return err
		}
		app, err := d.CreateApplication(ctx, api.CreateApplication{Name: args[0]})
		if err != nil {
			return err
		}
		if *file == "" {
			a.say("the secret is shown this once; keep it where your secrets live")
		}
		return a.showSecret(app, *file)
	})
}

func checkSecretOut(file string) error {
	if file == "" {
		return nil
	}
	err := checkTarget(file, false)
	if p, ok := errors.AsType[*problem](err); ok && strings.Contains(p.next, "--force") {
		q := *p // an old secret may still be in use: nothing here replaces it
		q.next = "choose another name, or remove the file if its secret is of no use any more"
		return &q
	}
	return err
}

func (a *app) appListCommand() *cobra.Command {
	cmd := a.verb("list", "List the applications", "", 0, nil)
	return a.onData(cmd, func(ctx context.Context, d directory, _ []string) error {
		list, err := d.ListApplications(ctx, api.ListApplications{})
		if err != nil {
			return err
		}
		views := []appView{} // not nil: an empty list is [] in JSON
		for _, app := range list.Applications {
			views = append(views, viewApp(app))
		}
		return a.result(views, func(t *table) {
			t.row("NAME", "CLIENT ID", "OBJECT ID", "CREATED", "SECRET MADE")
			for _, v := range views {
				t.row(v.Name, v.ClientID, v.ObjectID, v.Created.Format(time.RFC3339), timeText(v.SecretCreated))
			}
		})
	})
}

func (a *app) appRotateCommand() *cobra.Command {
	var revoke bool
	cmd := a.verb("rotate NAME|CLIENT-ID", "Give an application a new secret", `Makes a new secret for an application and prints it, this once. The old one stops at once. Tokens that were got with it
last until they expire, an hour at most; with --revoke-tokens they stop too, within a minute.`, 1, nil)
	cmd.Flags().BoolVar(&revoke, "revoke-tokens", false, "tokens that are out stop too: for a secret that has leaked")
	file := secretOut(cmd, "secret")
	a.completeApps(cmd)
	return a.onData(cmd, func(ctx context.Context, d directory, args []string) error {
		if err := checkSecretOut(*file); err != nil {
			return err
		}
		app, err := d.RotateApplication(ctx, api.RotateApplication{Application: args[0], RevokeTokens: revoke})
		if err != nil {
			return err
		}
		if *file == "" {
			a.say("the secret is shown this once; keep it where your secrets live")
		}
		return a.showSecret(app, *file)
	})
}

func (a *app) appDeleteCommand() *cobra.Command {
	cmd := a.verb("delete NAME|CLIENT-ID", "Remove an application", `Removes an application. It cannot sign in any more, and tokens that it has stop within a minute. Roles that are assigned
to its object ID stay, without effect; an application of the same name that is made later has another object ID.`, 1, nil)
	a.completeApps(cmd)
	return a.onData(cmd, func(ctx context.Context, d directory, args []string) error {
		app, err := d.DeleteApplication(ctx, api.DeleteApplication{Application: args[0]})
		if err != nil {
			return err
		}
		a.say("deleted; its tokens stop within a minute")
		return a.result(viewApp(app), func(*table) {})
	})
}

// completeApps completes the names of applications.
func (a *app) completeApps(cmd *cobra.Command) {
	completeNames(cmd, func(ctx context.Context, d directory) (names []string) {
		list, _ := d.ListApplications(ctx, api.ListApplications{})
		for _, app := range list.Applications {
			names = append(names, app.Name)
		}
		return names
	})
}

// completeNames completes names where a server runs on the data folder that is named. The database of one that does not
// run is not opened for a keystroke.
func completeNames(cmd *cobra.Command, list func(context.Context, directory) []string) {
	cmd.ValidArgsFunction = func(cmd *cobra.Command, args []string, _ string) (names []cobra.Completion, _ cobra.ShellCompDirective) {
		data, err := cmd.Flags().GetString("data")
		if err != nil || data == "" || len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), 2*time.Second)
		defer cancel()
		if d, err := client.DialAdmin(ctx, data); err == nil {
			defer d.Close()
			names = list(ctx, d)
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}
