package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"strongroom/internal/api"
	"strongroom/internal/failure"
	"strongroom/internal/strictjson"
	"strongroom/secret"
)

// Bounds of the admin socket. Its callers are the operator's own commands, one at a time; the bounds keep a broken
// program from taking the server along.
const (
	maxAdminBody        = 4 << 10 // bytes
	maxAdminConnections = 16
	adminTimeout        = 30 * time.Second

	// maxSocketPath is what every system has room for in the address of a Unix socket (104 bytes on some, with a zero
	// at the end).
	maxSocketPath = 103
)

var adminLimits = strictjson.Limits{Bytes: maxAdminBody, Depth: 2, Elements: 8, Values: 8, StringBytes: 512, FoldNames: true}

// adminRoute is one call: strict JSON in, JSON out.
type adminRoute func(ctx context.Context, a *Admin, body []byte) (any, error)

// adminRoutes is all that the admin socket does. Nothing of the network's planes is served there.
var adminRoutes = map[string]adminRoute{
	api.AdminCreateApplication: adminCall((*Admin).CreateApplication),
	api.AdminListApplications:  adminCall((*Admin).ListApplications),
	api.AdminRotateApplication: adminCall((*Admin).RotateApplication),
	api.AdminDeleteApplication: adminCall((*Admin).DeleteApplication),
	api.AdminCreateUser:        adminCall((*Admin).CreateUser),
	api.AdminListUsers:         adminCall((*Admin).ListUsers),
	api.AdminRotateUser:        adminCall((*Admin).RotateUser),
	api.AdminDeleteUser:        adminCall((*Admin).DeleteUser),
}

func adminCall[Request, Answer any](do func(*Admin, context.Context, Request) (Answer, error)) adminRoute {
	return func(ctx context.Context, a *Admin, body []byte) (any, error) {
		r, err := decodeAdmin[Request](body)
		if err != nil {
			return nil, err
		}
		return do(a, ctx, r)
	}
}

// decodeAdmin reads a body that has one reading: an object with the members of Request and no others.
func decodeAdmin[Request any](body []byte) (r Request, err error) {
	if err := strictjson.Check(body, adminLimits); err != nil {
		return r, failure.Wrap(failure.BadParameter, err, "the body is not the JSON that this call takes: %v", err)
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(&r); err != nil || bytes.TrimSpace(body)[0] != '{' {
		return r, failure.Wrap(failure.BadParameter, err, "the body does not have the members that this call takes")
	}
	return r, nil
}

// adminHandler answers on the admin socket. admin is nil where the embedded issuer is off.
type adminHandler struct {
	admin *Admin
	log   *slog.Logger
}

type peerKey struct{}

func (h *adminHandler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	answer, err := h.answer(w, r)
	status, outcome := http.StatusOK, slog.String("code", "")
	if err != nil {
		var body api.ErrorBody
		status, body = api.FromFailure(err, "")
		answer, outcome = body, slog.String("code", body.Error.Code)
	}
	uid, _ := r.Context().Value(peerKey{}).(int)
	_, known := adminRoutes[r.URL.Path]
	command := "(unknown)"
	if known {
		command = r.URL.Path
	}
	level := slog.LevelInfo
	if status >= 500 {
		// Of a refusal the code has to do: its text can quote what was sent, and that may be a secret in the wrong place.
		level, outcome = slog.LevelError, slog.Any("error", err)
	}
	h.log.Log(r.Context(), level, "command on the admin socket", "command", command, "uid", uid, "status", status, outcome)
	out, err := json.Marshal(answer)
	if err != nil { // our own types: strings, numbers, times
		status, out = http.StatusInternalServerError, []byte("{}")
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Content-Length", strconv.Itoa(len(out)))
	w.WriteHeader(status)
	_, _ = w.Write(out)
	clear(out) // it may hold a secret
}

func (h *adminHandler) answer(w http.ResponseWriter, r *http.Request) (any, error) {
	do, known := adminRoutes[r.URL.Path]
	if !known || r.URL.RawQuery != "" {
		return nil, failure.New(failure.NoRoute, "this server has no such command on its admin socket; use the program of the server's version")
	}
	if r.Method != http.MethodPost {
		return nil, failure.New(failure.BadMethod, "the admin socket takes POST only")
	}
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		return nil, failure.New(failure.BadMediaType, "the body must be JSON, with Content-Type: application/json")
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxAdminBody))
	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
		return nil, failure.New(failure.TooLarge, "the body is larger than %d bytes", maxAdminBody)
	}
	if err != nil {
		return nil, failure.Wrap(failure.BadParameter, err, "the body could not be read")
	}
	if h.admin == nil {
		return nil, failure.Coded(failure.Conflict, "EmbeddedIssuerOff", "the embedded issuer is off in this server's configuration, so nobody could sign in at it; set [identity] embedded = true and start it again, or make applications and users at the issuer that is configured")
	}
	return do(r.Context(), h.admin, body)
}

// serveAdmin opens the admin socket, and returns what closes it. A socket that cannot be opened is told in the log and
// stops nobody: the same commands work while the server is stopped.
func (s *Server) serveAdmin(ctx context.Context) (stop func()) {
	path := filepath.Join(s.cfg.Data, api.AdminSocket)
	listener, err := listenAdmin(path, s.log)
	if err != nil {
		s.log.WarnContext(ctx, "the admin socket is not open; strongroom identity works only while this server is stopped", "path", path, "error", err)
		return func() {}
	}
	h := &adminHandler{log: s.log}
	if s.issuer != nil {
		h.admin = &Admin{directory: s.issuer.Directory, audit: s.audit, data: s.cfg.Data, renewed: s.renewed}
	}
	server := &http.Server{
		Handler:           s.guard(h),
		ReadHeaderTimeout: adminTimeout, ReadTimeout: adminTimeout, WriteTimeout: adminTimeout, IdleTimeout: adminTimeout,
		MaxHeaderBytes: 4 << 10,
		ErrorLog:       slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			if p, is := c.(*peerConn); is {
				return context.WithValue(ctx, peerKey{}, p.uid)
			}
			return ctx
		},
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			s.log.ErrorContext(ctx, "the admin socket failed; strongroom identity works only while this server is stopped", "path", path, "error", err)
		}
	}()
	return func() {
		stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopWithin)
		defer cancel()
		if server.Shutdown(stopping) != nil { // the listener takes the socket's file away
			_ = server.Close()
		}
		<-done
	}
}

// listenAdmin binds the socket. The caller holds the lock of the database in the same folder, so whatever lies at path
// belongs to no server that runs: a socket is left from a crash, and is replaced; anything else is not ours to remove.
func listenAdmin(path string, log *slog.Logger) (net.Listener, error) {
	if len(path) > maxSocketPath {
		return nil, fmt.Errorf("its path has %d bytes and a Unix socket's at most %d; use a shorter path for the data folder", len(path), maxSocketPath)
	}
	if !knowsPeers {
		return nil, errors.New("this system does not tell who connects")
	}
	if info, err := os.Lstat(path); err == nil {
		if info.Mode().Type() != os.ModeSocket {
			return nil, errors.New("there is a file in its place that is no socket; move it away")
		}
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	// Between these two lines others of this machine could connect, if the folder lets them in. They get no further than
	// anybody who is not the server's user: peerListener asks the kernel.
	if err := os.Chmod(path, 0o600); err != nil {
		_ = listener.Close()
		return nil, err
	}
	return &peerListener{UnixListener: listener, allowed: allowedPeer, log: log}, nil
}

// allowedPeer lets in the user that the server runs as, and root.
func allowedPeer(uid int) bool { return uid == 0 || uid == os.Geteuid() }

// peerListener accepts connections of allowed users only, as the kernel names them, and so many at once.
type peerListener struct {
	*net.UnixListener
	allowed func(uid int) bool
	log     *slog.Logger
	open    atomic.Int64
}

type peerConn struct {
	*net.UnixConn
	uid    int
	closed func()
}

func (c *peerConn) Close() error {
	c.closed()
	return c.UnixConn.Close()
}

func (l *peerListener) Accept() (net.Conn, error) {
	for {
		c, err := l.AcceptUnix()
		if err != nil {
			return nil, err
		}
		uid, err := peerOf(c)
		switch {
		case err != nil || !l.allowed(uid):
			l.log.Warn("a connection to the admin socket was refused: it is for the server's user and root", "uid", uid, "error", err)
		case l.open.Add(1) > maxAdminConnections:
			l.open.Add(-1)
		default:
			return &peerConn{c, uid, sync.OnceFunc(func() { l.open.Add(-1) })}, nil
		}
		_ = c.Close()
	}
}

// renewed takes over the new secret of the server's own application, if the server holds the old one for its environment
// file.
func (s *Server) renewed(ctx context.Context, clientID string, fresh secret.Bytes) error {
	s.reconciling.Lock()
	mine := clientID == s.client.app.ClientID && !s.client.secret.IsZero()
	if mine {
		s.client.secret = fresh.Clone()
	}
	s.reconciling.Unlock()
	if !mine {
		return nil
	}
	return s.reconcile(ctx)
}
