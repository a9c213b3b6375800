package identity

import (
	"context"
	"strings"
	"time"

	"strongroom/internal/failure"
	"strongroom/secret"
)

// maxUserName is the most characters of a user's name.
const maxUserName = 64

// User is a person who signs in with a name and a password. Nothing in it is secret.
type User struct {
	Name            string // as it was made; it is compared without case
	ObjectID        string // GUID: the principal that roles are assigned to
	Created         time.Time
	PasswordCreated time.Time // when the password of today was made
}

func (e entry) user() User {
	return User{Name: e.name, ObjectID: e.objectID, Created: e.created, PasswordCreated: e.secretCreated}
}

// AddUser makes a user under a name that no other has, and returns the password, which is shown this once and cannot be
// read again.
func (d *Directory) AddUser(ctx context.Context, name string) (User, secret.Bytes, error) {
	id, ok := normalName(name)
	if !ok {
		return User{}, secret.Bytes{}, failure.New(failure.BadParameter,
			"a user's name has 1 to %d letters, digits and . _ - + @, begins with a letter or digit, and does not look like an object ID", maxUserName)
	}
	e, s, created, err := d.ensure(ctx, users, id, name)
	if err == nil && !created {
		return User{}, secret.Bytes{}, failure.New(failure.Conflict, "there is a user of that name already; choose another name, or make a new password for it")
	}
	return e.user(), s, err
}

// ResetPassword gives a user a new password. The old one stops with this call; sign-ins that were made with it last
// until they are over, unless revokeTokens: then their tokens stop too, refresh tokens included, at once here and within
// a minute on other servers.
func (d *Directory) ResetPassword(ctx context.Context, name string, revokeTokens bool) (secret.Bytes, error) {
	return d.reset(ctx, users, name, revokeTokens)
}

// DeleteUser removes a user, who signs in no more, and whose tokens stop, refresh tokens included, at once here and
// within a minute on other servers. Role assignments stay without effect: a user of the same name that is made later has
// another object ID.
func (d *Directory) DeleteUser(ctx context.Context, name string) error {
	return d.remove(ctx, users, name)
}

// ListUsers returns all users, in the order of their names.
func (d *Directory) ListUsers(ctx context.Context) (list []User, err error) {
	entries, err := d.all(ctx, users)
	for _, e := range entries {
		list = append(list, e.user())
	}
	return list, err
}

// FindUser returns the user of that name, in whatever case, or with that object ID. No name looks like an object ID.
func (d *Directory) FindUser(ctx context.Context, nameOrID string) (User, error) {
	list, err := d.ListUsers(ctx)
	if err != nil {
		return User{}, err
	}
	for _, u := range list {
		if strings.EqualFold(u.ObjectID, nameOrID) || strings.EqualFold(u.Name, nameOrID) {
			return u, nil
		}
	}
	return User{}, failure.Coded(failure.NotFound, users.missing, "there is no user of that name or object ID")
}

// normalName returns a user's name in lower case. The alphabet is small so that a name has one spelling, in a URL and
// in a terminal too.
func normalName(name string) (string, bool) {
	if name == "" || len(name) > maxUserName {
		return "", false
	}
	for n := range len(name) {
		c := name[n]
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		case n > 0 && strings.IndexByte("._-+@", c) >= 0:
		default:
			return "", false
		}
	}
	if _, is := normalID(name); is {
		return "", false
	}
	return strings.ToLower(name), true
}
