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

	"github.com/google/uuid"

	"strongroom/internal/api"
	"strongroom/internal/audit"
	"strongroom/internal/durable"
	"strongroom/internal/failure"
	"strongroom/internal/hsm"
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
	audit     *auditor // nil where the configuration turns it off
	data      string   // data folder
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
		return nil, &UsageError{fmt.Errorf("the embedded issuer is off in %s, so nobody could sign in at it: set [identity] embedded = true there, or make applications and users at the issuer that is configured", o.ConfigFile)}
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
	quiet := slog.New(slog.DiscardHandler)
	hsms := hsm.New(hsm.Config{Store: st, Seal: sl, Now: time.Now, Rand: rand.Reader, Log: quiet}) // their domains sign the audit log too
	records, err := c.openAudit(ctx, st, sl, hsms, quiet, false)
	if err != nil {
		hsms.Close()
		sl.Close()
		return nil, errors.Join(err, st.Close())
	}
	d := identity.OpenDirectory(identity.Config{Store: st, Seal: sl, Rand: rand.Reader, Now: time.Now, Log: quiet})
	return &Admin{directory: d, audit: records, data: c.Data, close: func() error {
		d.Close()
		failed := records.close() // its last checkpoint needs the store and the seal
		hsms.Close()
		sl.Close()
		return errors.Join(failed, st.Close())
	}}, nil
}

// Close releases the database and wipes the seal.
func (a *Admin) Close() error { return a.close() }

// record does a thing between two records of it in the audit log: that somebody is about to, and what came of it. A thing
// that cannot be recorded is not done, and what was done without its outcome on record is not answered. thing says in the
// outcome whom it was about.
func (a *Admin) record(ctx context.Context, operation string, thing func(outcome *audit.Record) error) error {
	if a.audit == nil {
		return thing(&audit.Record{})
	}
	e := audit.Record{Plane: audit.PlaneServer, Operation: operation, Request: uuid.NewString(), Source: fmt.Sprintf("uid %d", callerOf(ctx)), Phase: audit.PhaseIntent}
	if _, err := a.audit.log.Append(ctx, e); err != nil {
		return failure.Wrap(failure.Unavailable, err, "the audit log cannot be written, and nothing is done that cannot be recorded; nothing was changed")
	}
	e.Phase = audit.PhaseOutcome
	err := thing(&e)
	e.Outcome = audit.Allowed
	if err != nil {
		status, body := api.FromFailure(err, "")
		e.Outcome, e.Status, e.Code = audit.Refused, int64(status), body.Error.Code
		if status >= 500 {
			e.Outcome = audit.Failed
		}
	}
	if _, failed := a.audit.log.Append(context.WithoutCancel(ctx), e); failed != nil {
		return failure.Wrap(failure.Unavailable, failed, "it was done or not, and the audit log does not say; when the disk is well, look at the list and do it again")
	}
	return err
}

// callerOf is the user who commands: at the other end of the admin socket, or of this process.
func callerOf(ctx context.Context) int {
	if uid, is := ctx.Value(peerKey{}).(int); is {
		return uid
	}
	return os.Getuid()
}

// about notes in a record which application it is about.
func about(e *audit.Record, app identity.App) { e.App, e.Principal = app.ClientID, app.ObjectID }

// CreateApplication registers an application. The answer has its secret, this once.
func (a *Admin) CreateApplication(ctx context.Context, r api.CreateApplication) (shown api.Application, err error) {
	err = a.record(ctx, "CreateApplication", func(e *audit.Record) error {
		app, s, err := a.directory.AddApplication(ctx, r.Name)
		if err != nil {
			return err
		}
		defer s.Wipe()
		about(e, app)
		shown = showApplication(app)
		shown.Secret = string(s.Reveal())
		return nil
	})
	return onlyWithout(err, shown)
}

// onlyWithout is an answer where there is no error.
func onlyWithout[T any](err error, answer T) (T, error) {
	if err != nil {
		var none T
		return none, err
	}
	return answer, nil
}

// ListApplications returns all applications.
func (a *Admin) ListApplications(ctx context.Context, _ api.ListApplications) (api.ApplicationList, error) {
	shown := api.ApplicationList{Applications: []api.Application{}}
	err := a.record(ctx, "ListApplications", func(*audit.Record) error {
		list, err := a.directory.ListApplications(ctx)
		for _, app := range list {
			shown.Applications = append(shown.Applications, showApplication(app))
		}
		return err
	})
	return onlyWithout(err, shown)
}

// RotateApplication gives an application a new secret, which is in the answer this once. Where the server's own
// environment file holds the old one, it gets the new one.
func (a *Admin) RotateApplication(ctx context.Context, r api.RotateApplication) (shown api.Application, err error) {
	operation := "RotateApplication"
	if r.RevokeTokens {
		operation = "RotateApplicationAndRevokeTokens"
	}
	err = a.record(ctx, operation, func(e *audit.Record) (err error) {
		shown, err = a.rotate(ctx, r, e)
		return err
	})
	return onlyWithout(err, shown)
}

func (a *Admin) rotate(ctx context.Context, r api.RotateApplication, e *audit.Record) (api.Application, error) {
	app, err := a.directory.FindApplication(ctx, r.Application)
	if err != nil {
		return api.Application{}, err
	}
	about(e, app)
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
func (a *Admin) DeleteApplication(ctx context.Context, r api.DeleteApplication) (shown api.Application, err error) {
	err = a.record(ctx, "DeleteApplication", func(e *audit.Record) (err error) {
		shown, err = a.remove(ctx, r, e)
		return err
	})
	return onlyWithout(err, shown)
}

func (a *Admin) remove(ctx context.Context, r api.DeleteApplication, e *audit.Record) (api.Application, error) {
	app, err := a.directory.FindApplication(ctx, r.Application)
	if err != nil {
		return api.Application{}, err
	}
	about(e, app)
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
