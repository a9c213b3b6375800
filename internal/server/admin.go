package server

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"strongroom/internal/api"
	"strongroom/internal/durable"
	"strongroom/internal/failure"
	"strongroom/internal/identity"
	"strongroom/internal/store/bolt"
	"strongroom/secret"
)

// administratorName is the application that a server with the embedded issuer makes for itself.
const administratorName = "administrator"

// Admin does what an operator with the data folder in hand may do to the embedded issuer, whether the server runs (over
// the admin socket) or not ([OpenAdmin]). It asks for no role: whoever has the folder and the seal has the keys.
type Admin struct {
	directory *identity.Directory
	data      string // data folder
	// renewed is told of a new secret, when the server runs; it may be nil.
	renewed func(ctx context.Context, clientID string, s secret.Bytes) error
	close   func() error
}

// DataDir is the data folder that o names, in its DataDir or in its ConfigFile. Mistakes are a [UsageError].
func DataDir(o Options) (string, error) {
	c, err := dataConfig(o)
	if err != nil {
		return "", &UsageError{err}
	}
	return c.Data, nil
}

// ErrRunning says that the data folder is in use, so the database cannot be opened beside it.
var ErrRunning = errors.New("a server is running on the data folder")

// OpenAdmin opens the database and the seal of a server that does not run. It makes neither: what is not there is an
// error. Of o it takes DataDir, ConfigFile, SealPassphraseFile and Prompt. Close it. Mistakes in flags and
// configuration are a [UsageError]; ErrRunning says that the server's admin socket is the way.
func OpenAdmin(ctx context.Context, o Options) (*Admin, error) {
	c, err := dataConfig(o)
	if err != nil {
		return nil, &UsageError{err}
	}
	if o.ConfigFile != "" && !c.Identity.Embedded {
		return nil, &UsageError{fmt.Errorf("the embedded issuer is off in %s, so no application could sign in: set [identity] embedded = true there, or make the application at the issuer that is configured", o.ConfigFile)}
	}
	if _, err := os.Lstat(filepath.Join(c.Data, bolt.FileName)); errors.Is(err, fs.ErrNotExist) {
		return nil, &UsageError{fmt.Errorf("there is no server's database in %s; name the folder that the server was given as data", c.Data)}
	}
	if err := harden(); err != nil {
		return nil, err
	}
	// The database first: it says at once that a server runs, before anybody is asked for a passphrase.
	if db, err := bolt.Open(c.Data, bolt.Options{}); err != nil {
		if errors.Is(err, bolt.ErrInUse) {
			return nil, ErrRunning
		}
		return nil, err
	} else if err := db.Close(); err != nil {
		return nil, err
	}
	if _, err := os.Lstat(c.Seal.File); err != nil {
		return nil, fmt.Errorf("the seal %s is not there: put it back, or say with --config where the server has it", c.Seal.File)
	}
	st, sl, err := openState(c, o)
	if err != nil {
		return nil, err
	}
	d := identity.OpenDirectory(identity.Config{Store: st, Seal: sl, Rand: rand.Reader, Now: time.Now, Log: slog.New(slog.DiscardHandler)})
	return &Admin{directory: d, data: c.Data, close: func() error {
		d.Close()
		sl.Close()
		return st.Close()
	}}, nil
}

// Close releases the database and wipes the seal.
func (a *Admin) Close() error { return a.close() }

// CreateApplication registers an application. The answer has its secret, this once.
func (a *Admin) CreateApplication(ctx context.Context, r api.CreateApplication) (api.Application, error) {
	app, s, err := a.directory.AddApplication(ctx, r.Name)
	if err != nil {
		return api.Application{}, err
	}
	defer s.Wipe()
	shown := showApplication(app)
	shown.Secret = string(s.Reveal())
	return shown, nil
}

// ListApplications returns all applications.
func (a *Admin) ListApplications(ctx context.Context, _ api.ListApplications) (api.ApplicationList, error) {
	list, err := a.directory.ListApplications(ctx)
	shown := api.ApplicationList{Applications: []api.Application{}}
	for _, app := range list {
		shown.Applications = append(shown.Applications, showApplication(app))
	}
	return shown, err
}

// RotateApplication gives an application a new secret, which is in the answer this once. Where the server's own
// environment file holds the old one, it gets the new one.
func (a *Admin) RotateApplication(ctx context.Context, r api.RotateApplication) (api.Application, error) {
	app, err := a.directory.FindApplication(ctx, r.Application)
	if err != nil {
		return api.Application{}, err
	}
	s, err := a.directory.ResetSecret(ctx, app.ClientID, r.RevokeTokens)
	if err != nil {
		return api.Application{}, err
	}
	defer s.Wipe()
	if app, err = a.directory.FindApplication(ctx, app.ClientID); err != nil {
		return api.Application{}, err
	}
	shown := showApplication(app)
	shown.Secret = string(s.Reveal())
	if shown.EnvFile, err = replaceSecret(a.data, app.ClientID, s); err == nil && a.renewed != nil {
		err = a.renewed(ctx, app.ClientID, s)
	}
	if err != nil {
		// The old secret is gone, so the new one must not be lost over a file.
		return api.Application{}, failure.Wrap(failure.Unavailable, err, "the secret was replaced, and the server's environment file could not be written; when the disk is well, do it again")
	}
	return shown, nil
}

// DeleteApplication removes an application.
func (a *Admin) DeleteApplication(ctx context.Context, r api.DeleteApplication) (api.Application, error) {
	app, err := a.directory.FindApplication(ctx, r.Application)
	if err != nil {
		return api.Application{}, err
	}
	if strings.EqualFold(app.Name, administratorName) {
		return api.Application{}, failure.New(failure.Conflict,
			"the application %s is the server's own, which it would make anew at its next start; to shut out whoever has its secret, make a new one and revoke its tokens", app.Name)
	}
	return showApplication(app), a.directory.DeleteApplication(ctx, app.ClientID)
}

func showApplication(app identity.App) api.Application {
	shown := api.Application{Name: app.Name, ClientID: app.ClientID, ObjectID: app.ObjectID, Created: app.Created}
	if !app.SecretCreated.IsZero() {
		shown.SecretCreated = &app.SecretCreated
	}
	return shown
}

// replaceSecret puts an application's new secret in the place of the old one in dev.env or administrator.env, and
// returns the file where it did. A file that is not there, or is another application's, is left alone.
func replaceSecret(data, clientID string, s secret.Bytes) (string, error) {
	for _, name := range []string{devEnv, administratorEnv} {
		path := filepath.Join(data, name)
		old := readSecret(path, clientID)
		if old.IsZero() {
			continue
		}
		defer old.Wipe()
		raw, err := os.ReadFile(path)
		if err != nil {
			return "", err
		}
		defer clear(raw)
		text := strings.Replace(string(raw), "STRONGROOM_CLIENT_SECRET="+string(old.Reveal())+"\n", "STRONGROOM_CLIENT_SECRET="+string(s.Reveal())+"\n", 1)
		return path, durable.WriteFile(path, []byte(text), 0o600, true)
	}
	return "", nil
}
