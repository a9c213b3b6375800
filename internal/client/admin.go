package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"

	"strongroom/internal/api"
)

// ErrNotServed says that no server answers on a data folder's admin socket.
var ErrNotServed = errors.New("no server answers on the admin socket")

// Admin speaks to the server that runs on a data folder of this machine, over its admin socket. The kernel tells the
// server who calls, so there is no token.
type Admin struct{ http *http.Client }

// DialAdmin finds the server of a data folder. It reports ErrNotServed if there is none, with the cause.
func DialAdmin(ctx context.Context, data string) (*Admin, error) {
	path := filepath.Join(data, api.AdminSocket)
	dial := func(ctx context.Context) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}
	probe, err := dial(ctx)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotServed, err)
	}
	_ = probe.Close()
	return &Admin{&http.Client{
		Timeout:   timeout,
		Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) }},
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse
		},
	}}, nil
}

// Close drops idle connections.
func (a *Admin) Close() error {
	a.http.CloseIdleConnections()
	return nil
}

// CreateApplication registers an application. The answer has its secret, this once.
func (a *Admin) CreateApplication(ctx context.Context, r api.CreateApplication) (app api.Application, err error) {
	return app, a.call(ctx, api.AdminCreateApplication, r, &app)
}

// ListApplications returns all applications.
func (a *Admin) ListApplications(ctx context.Context, r api.ListApplications) (list api.ApplicationList, err error) {
	return list, a.call(ctx, api.AdminListApplications, r, &list)
}

// RotateApplication gives an application a new secret, which is in the answer this once.
func (a *Admin) RotateApplication(ctx context.Context, r api.RotateApplication) (app api.Application, err error) {
	return app, a.call(ctx, api.AdminRotateApplication, r, &app)
}

// DeleteApplication removes an application.
func (a *Admin) DeleteApplication(ctx context.Context, r api.DeleteApplication) (app api.Application, err error) {
	return app, a.call(ctx, api.AdminDeleteApplication, r, &app)
}

// CreateUser makes a user. The answer has the password, this once.
func (a *Admin) CreateUser(ctx context.Context, r api.CreateUser) (u api.User, err error) {
	return u, a.call(ctx, api.AdminCreateUser, r, &u)
}

// ListUsers returns all users.
func (a *Admin) ListUsers(ctx context.Context, r api.ListUsers) (list api.UserList, err error) {
	return list, a.call(ctx, api.AdminListUsers, r, &list)
}

// RotateUser gives a user a new password, which is in the answer this once.
func (a *Admin) RotateUser(ctx context.Context, r api.RotateUser) (u api.User, err error) {
	return u, a.call(ctx, api.AdminRotateUser, r, &u)
}

// DeleteUser removes a user.
func (a *Admin) DeleteUser(ctx context.Context, r api.DeleteUser) (u api.User, err error) {
	return u, a.call(ctx, api.AdminDeleteUser, r, &u)
}

func (a *Admin) call(ctx context.Context, path string, body, into any) error {
	text, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("encode the request: %w", err)
	}
	// The host is a name for nothing: the connection goes to the socket.
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://strongroom"+path, bytes.NewReader(text))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := a.http.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("the server on the data folder gave no answer; whether it did what was asked is unknown: %w", errors.Unwrap(err))
	}
	defer drain(resp)
	answer, err := read(resp)
	if err != nil {
		return err
	}
	defer clear(answer.body)
	return answer.into(into)
}
