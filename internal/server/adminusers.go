package server

import (
	"context"

	"strongroom/internal/api"
	"strongroom/internal/audit"
	"strongroom/internal/identity"
)

// aboutUser notes in a record which user it is about.
func aboutUser(e *audit.Record, u identity.User) { e.Principal = u.ObjectID }

// CreateUser makes a user. The answer has the password, this once.
func (a *Admin) CreateUser(ctx context.Context, r api.CreateUser) (shown api.User, err error) {
	err = a.record(ctx, "CreateUser", func(e *audit.Record) error {
		u, s, err := a.directory.AddUser(ctx, r.Name)
		if err != nil {
			return err
		}
		defer s.Wipe()
		aboutUser(e, u)
		shown = showUser(u)
		shown.Password = string(s.Reveal())
		return nil
	})
	return onlyWithout(err, shown)
}

// ListUsers returns all users.
func (a *Admin) ListUsers(ctx context.Context, _ api.ListUsers) (api.UserList, error) {
	shown := api.UserList{Users: []api.User{}}
	err := a.record(ctx, "ListUsers", func(*audit.Record) error {
		list, err := a.directory.ListUsers(ctx)
		for _, u := range list {
			shown.Users = append(shown.Users, showUser(u))
		}
		return err
	})
	return onlyWithout(err, shown)
}

// RotateUser gives a user a new password, which is in the answer this once.
func (a *Admin) RotateUser(ctx context.Context, r api.RotateUser) (shown api.User, err error) {
	operation := "RotateUser"
	if r.RevokeTokens {
		operation = "RotateUserAndRevokeTokens"
	}
	err = a.record(ctx, operation, func(e *audit.Record) error {
		u, err := a.directory.FindUser(ctx, r.User)
		if err != nil {
			return err
		}
		aboutUser(e, u)
		s, err := a.directory.ResetPassword(ctx, u.Name, r.RevokeTokens)
		if err != nil {
			return err
		}
		defer s.Wipe()
		if u, err = a.directory.FindUser(ctx, u.ObjectID); err != nil {
			return err
		}
		shown = showUser(u)
		shown.Password = string(s.Reveal())
		return nil
	})
	return onlyWithout(err, shown)
}

// DeleteUser removes a user.
func (a *Admin) DeleteUser(ctx context.Context, r api.DeleteUser) (shown api.User, err error) {
	err = a.record(ctx, "DeleteUser", func(e *audit.Record) error {
		u, err := a.directory.FindUser(ctx, r.User)
		if err != nil {
			return err
		}
		aboutUser(e, u)
		shown = showUser(u)
		return a.directory.DeleteUser(ctx, u.Name)
	})
	return onlyWithout(err, shown)
}

func showUser(u identity.User) api.User {
	return api.User{Name: u.Name, ObjectID: u.ObjectID, Created: u.Created, PasswordCreated: u.PasswordCreated}
}
