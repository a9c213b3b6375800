package identity

import (
	"context"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"

	"strongroom/internal/failure"
	"strongroom/secret"
)

// App is a registered application. Nothing in it is secret.
type App struct {
	ClientID      string // GUID, lower case: what the application signs in with
	ObjectID      string // GUID: the principal that roles are assigned to
	Name          string
	Created       time.Time
	SecretCreated time.Time // when the secret of today was made; zero where version 1 wrote the record, which did not note it
}

func (e entry) app() App {
	return App{ClientID: e.id, ObjectID: e.objectID, Name: e.name, Created: e.created, SecretCreated: e.secretCreated}
}

// AddApplication registers an application under a name that no other has, and returns its secret, which is shown
// this once and cannot be read again.
func (d *Directory) AddApplication(ctx context.Context, name string) (App, secret.Bytes, error) {
	app, s, created, err := d.EnsureApplication(ctx, name)
	if err == nil && !created {
		return App{}, secret.Bytes{}, failure.New(failure.Conflict, "there is an application of that name already; choose another name, or make a new secret for it")
	}
	return app, s, err
}

// EnsureApplication returns the application of that name, registering it if there is none. The secret is empty
// unless created: an existing secret cannot be read, only replaced with [Directory.ResetSecret].
func (d *Directory) EnsureApplication(ctx context.Context, name string) (app App, s secret.Bytes, created bool, err error) {
	if err := checkAppName(name); err != nil {
		return App{}, secret.Bytes{}, false, err
	}
	clientID, err := uuid.NewRandomFromReader(d.cfg.Rand)
	if err != nil {
		return App{}, secret.Bytes{}, false, failure.Wrap(failure.Internal, err, "no randomness for a new application")
	}
	e, s, created, err := d.ensure(ctx, applications, clientID.String(), name)
	return e.app(), s, created, err
}

// ResetSecret gives an application a new secret. The old one stops with this call; tokens issued to it stay good
// until they expire, unless revokeTokens: then those that are out stop too, at once here and within a minute on
// other servers.
func (d *Directory) ResetSecret(ctx context.Context, clientID string, revokeTokens bool) (secret.Bytes, error) {
	return d.reset(ctx, applications, clientID, revokeTokens)
}

// DeleteApplication removes an application. It signs in no more, and tokens it has stop, at once here and within a
// minute on other servers. Its role assignments stay without effect: no other application ever has its object ID.
func (d *Directory) DeleteApplication(ctx context.Context, clientID string) error {
	return d.remove(ctx, applications, clientID)
}

// ListApplications returns all applications, in the order of their client IDs.
func (d *Directory) ListApplications(ctx context.Context) (list []App, err error) {
	entries, err := d.all(ctx, applications)
	for _, e := range entries {
		list = append(list, e.app())
	}
	return list, err
}

// FindApplication returns the application with that client ID, or of that name in whatever case. No name looks like a
// client ID.
func (d *Directory) FindApplication(ctx context.Context, nameOrID string) (App, error) {
	list, err := d.ListApplications(ctx)
	if err != nil {
		return App{}, err
	}
	for _, a := range list {
		if strings.EqualFold(a.ClientID, nameOrID) || strings.EqualFold(a.Name, nameOrID) {
			return a, nil
		}
	}
	return App{}, failure.Coded(failure.NotFound, applications.missing, "there is no application of that name or client ID")
}

func checkAppName(name string) error {
	if name == "" || len(name) > 120 || !utf8.ValidString(name) || strings.TrimSpace(name) != name || strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return failure.New(failure.BadParameter, "an application's name has 1 to 120 bytes of printable text, without space around it")
	}
	if _, is := normalID(name); is {
		return failure.New(failure.BadParameter, "an application's name does not look like a client ID, so that nobody takes one for the other")
	}
	return nil
}
