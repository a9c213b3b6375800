package server

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
	"golang.org/x/time/rate"

	"strongroom/internal/audit"
	"strongroom/internal/durable"
	"strongroom/internal/failure"
	"strongroom/internal/hsm"
	"strongroom/internal/metrics"
	"strongroom/internal/record"
	"strongroom/internal/seal"
	"strongroom/internal/store"
	"strongroom/secret"
)

// What a server remembers of its audit log, each one sealed record (docs: formats): the key that signs checkpoints, and
// which log it is and how far it was when it was last signed. The second is what a log that was put back to an older
// copy, or exchanged, is held against.
const (
	keyAuditKey = "server/audit-key" // PKCS #8 of an Ed25519 key
	keyAuditLog = "server/audit-log" // JSON of auditMark
)

// auditMark is the newest checkpoint that the database knows of.
type auditMark struct {
	V    int    `json:"v"` // 1
	ID   string `json:"id"`
	N    int64  `json:"n"`
	Root []byte `json:"root,omitempty"`
}

// Strangers are recorded at a rate, and so are requests beyond the rate of a principal: whoever can do nothing here
// could else fill the disk.
const (
	strangersPerSecond = 20
	strangersBurst     = 200
)

// auditor keeps the records of a server. It is nil where the configuration turns the audit log off.
type auditor struct {
	log       *audit.Log
	strangers *rate.Limiter
	throttled *rate.Limiter
	unwritten atomic.Int64 // calls that were not recorded
}

// auditFiles are what a server's audit log stands on.
type auditFiles struct {
	folder string
	store  store.Store
	seal   seal.Seal
	hsms   *hsm.Service // whose domains sign too
	key    ed25519.PrivateKey
	log    *slog.Logger
	id     atomic.Value // string
}

// openAudit opens the audit log, or begins it where the database knows of none. fresh begins another one where the one
// that the database knows is gone.
func openAudit(ctx context.Context, f *auditFiles, fresh bool) (*auditor, error) {
	mark, err := loadMark(ctx, f.store, f.seal)
	if err != nil {
		return nil, err
	}
	o := audit.Options{
		Server: f.seal.ID(), ID: mark.ID, Signers: f.signers, Rand: rand.Reader, Logger: f.log,
		OnCheckpoint: func(tree tlog.Tree, _ []string) {
			err := saveMark(context.Background(), f.store, f.seal, auditMark{ID: f.id.Load().(string), N: tree.N, Root: tree.Hash[:]})
			if err != nil {
				f.log.Error("the database does not remember how far the audit log is; a log that is put back to an older copy may not be noticed", "error", err)
			}
		},
	}
	if mark.N > 0 {
		o.Known = tlog.Tree{N: mark.N, Hash: tlog.Hash(mark.Root)}
	}
	f.id.Store(mark.ID)
	log, err := audit.Open(f.folder, o)
	if fresh && errors.Is(err, audit.ErrMissing) {
		f.log.WarnContext(ctx, "the audit log is gone, and another one is begun because --new-audit-log says so", "lost", mark.ID, "records", mark.N)
		o.ID, o.Known = "", tlog.Tree{}
		log, err = audit.Open(f.folder, o)
	}
	if err != nil {
		return nil, auditProblem(err, f.folder)
	}
	f.id.Store(log.ID())
	if log.ID() != mark.ID {
		if err := saveMark(ctx, f.store, f.seal, auditMark{ID: log.ID()}); err != nil {
			_ = log.Close()
			return nil, err
		}
	}
	return &auditor{log: log, strangers: rate.NewLimiter(strangersPerSecond, strangersBurst), throttled: rate.NewLimiter(strangersPerSecond, strangersBurst)}, nil
}

// auditProblem says what to do about a log that cannot be opened; what is wrong with which folder, the error says.
func auditProblem(err error, folder string) error {
	switch {
	case errors.Is(err, audit.ErrMissing):
		return fmt.Errorf("%w. Put it back from where it was moved or copied to; if it is lost, `serve --new-audit-log` begins another one, and nobody can show any more what happened before", err)
	case errors.Is(err, audit.ErrRolledBack), errors.Is(err, audit.ErrDamaged):
		return fmt.Errorf("%w. Nothing was changed. If the right one is lost: keep this one as evidence, move the folder away, and begin another log with `serve --new-audit-log`", err)
	case errors.Is(err, audit.ErrInUse):
		return fmt.Errorf("%w; stop it, or name another folder in [audit] folder", err)
	case errors.Is(err, audit.ErrForeign):
		return fmt.Errorf("%w; each server has a log of its own: name another folder in [audit] folder", err)
	}
	return fmt.Errorf("audit log in %s: %w", folder, err)
}

func loadMark(ctx context.Context, st store.Store, sl seal.Seal) (m auditMark, err error) {
	err = st.View(ctx, func(r store.Reader) error {
		raw, ok := r.Get(keyAuditLog)
		if !ok {
			return nil
		}
		plain, err := sl.Unwrap(raw, keyAuditLog)
		if err != nil {
			return failure.Wrap(failure.Tampered, err, "what the database remembers of the audit log was changed; restore the database from a copy")
		}
		if err := json.Unmarshal(plain.Reveal(), &m); err != nil || m.V != 1 || m.N > 0 && len(m.Root) != tlog.HashSize {
			return failure.New(failure.Tampered, "what the database remembers of the audit log cannot be read; run the server that wrote it")
		}
		return nil
	})
	return m, err
}

func saveMark(ctx context.Context, st store.Store, sl seal.Seal, m auditMark) error {
	m.V = 1
	text, err := json.Marshal(m)
	if err != nil {
		return err
	}
	sealed, err := sl.Wrap(secret.Take(text), keyAuditLog)
	if err != nil {
		return err
	}
	return st.Update(ctx, func(w store.Writer) error {
		w.Put(keyAuditLog, sealed)
		return nil
	})
}

// auditKey returns the key that signs checkpoints, making it the first time.
func auditKey(ctx context.Context, st store.Store, sl seal.Seal) (key ed25519.PrivateKey, err error) {
	err = st.Update(ctx, func(w store.Writer) error {
		if raw, ok := w.Get(keyAuditKey); ok {
			plain, err := sl.Unwrap(raw, keyAuditKey)
			if err != nil {
				return failure.Wrap(failure.Tampered, err, "the key that signs the audit log was changed; restore the database from a copy")
			}
			defer plain.Wipe()
			parsed, err := x509.ParsePKCS8PrivateKey(plain.Reveal())
			var ok bool
			if key, ok = parsed.(ed25519.PrivateKey); err != nil || !ok {
				return failure.New(failure.Tampered, "the key that signs the audit log cannot be read; restore the database from a copy")
			}
			return nil
		}
		var err error
		if _, key, err = ed25519.GenerateKey(rand.Reader); err != nil {
			return err
		}
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			return err
		}
		sealed, err := sl.Wrap(secret.Take(der), keyAuditKey)
		if err != nil {
			return err
		}
		w.Put(keyAuditKey, sealed)
		return nil
	})
	return key, err
}

// signers are the server's own key and the signing key of every domain that is active here.
func (f *auditFiles) signers(ctx context.Context) ([]note.Signer, error) {
	own, err := audit.NewSigner(f.key)
	if err != nil {
		return nil, err
	}
	list := []note.Signer{own}
	domains, err := f.hsms.DomainSigners(ctx)
	if err != nil {
		return nil, err
	}
	for _, d := range domains {
		signer, err := audit.NewSigner(d)
		if err != nil {
			return nil, err
		}
		list = append(list, signer)
	}
	return list, nil
}

// publishAuditKey writes the public part to DATA/audit-key.pem, for auditors.
func publishAuditKey(data string, key ed25519.PrivateKey) error {
	text, err := audit.MarshalPublicKey(key.Public())
	if err != nil {
		return err
	}
	path := filepath.Join(data, "audit-key.pem")
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, text) {
		return nil
	}
	return durable.WriteFile(path, text, 0o644, true)
}

// recorder keeps the records of one plane.
type recorder struct {
	*auditor
	plane string
}

var _ record.Recorder = recorder{}

func (r recorder) Intent(ctx context.Context, c *record.Call) error {
	_, err := r.log.Append(ctx, r.entry(c, audit.PhaseIntent))
	return err
}

func (r recorder) Outcome(ctx context.Context, c *record.Call) error {
	if c.Caller.ObjectID == "" && !r.strangers.Allow() || c.Status == http.StatusTooManyRequests && !r.throttled.Allow() {
		r.unwritten.Add(1)
		return nil
	}
	phase := ""
	if c.Intended {
		phase = audit.PhaseOutcome
	}
	e := r.entry(c, phase)
	e.Status, e.Code, e.Duration = int64(c.Status), c.Code, c.Took.Microseconds()
	switch {
	case c.Status < 400:
		e.Outcome = audit.Allowed
	case c.Status < 500:
		e.Outcome = audit.Refused
	default:
		e.Outcome = audit.Failed
	}
	_, err := r.log.Append(ctx, e)
	return err
}

func (r recorder) entry(c *record.Call, phase string) audit.Record {
	operation := c.Operation
	if operation == "" {
		operation = "none" // there is no such route
	}
	return audit.Record{
		Time: time.Now().UTC(), Phase: phase, Request: c.Request, ClientRequest: c.ClientRequest, Plane: r.plane,
		Principal: c.Caller.ObjectID, App: c.Caller.AppID, Issuer: c.Caller.Issuer, Source: c.Source,
		HSM: c.HSMID, HSMName: c.HSM, Operation: operation, Action: string(c.Action), Key: c.Key, Version: c.Version,
		Authority: c.Authority, Recipient: c.Recipient, Scope: c.Scope, Object: c.Object, Role: c.Role, Assignee: c.Assignee,
	}
}

// recorder gives a plane its recorder, or none where there is no audit log.
func (a *auditor) recorder(plane string) record.Recorder {
	if a == nil {
		return nil
	}
	return recorder{a, plane}
}

// state is what metrics say of the log.
func (a *auditor) state() metrics.Audit {
	s := a.log.Stats()
	return metrics.Audit{Waiting: int(s.Waiting), Failed: !s.Writable, Unrecorded: a.unwritten.Load()}
}

// failed is closed when the log has failed for good; without a log it never is.
func (a *auditor) failed() <-chan struct{} {
	if a == nil {
		return nil
	}
	return a.log.Failed()
}

func (a *auditor) close() error {
	if a == nil {
		return nil
	}
	return a.log.Close()
}

// beginAudit opens the audit log, before anything answers.
func (s *Server) beginAudit(ctx context.Context) (err error) {
	s.audit, err = s.cfg.openAudit(ctx, s.store, s.seal, s.hsms, s.log, s.newAudit)
	return err
}

// openAudit opens the audit log that the configuration names; nil where it turns it off.
func (c Config) openAudit(ctx context.Context, st store.Store, sl seal.Seal, hsms *hsm.Service, log *slog.Logger, fresh bool) (*auditor, error) {
	if c.Audit.Off {
		log.WarnContext(ctx, "the audit log is off: nobody can show what is done on this server ([audit] insecure_off)")
		return nil, nil
	}
	key, err := auditKey(ctx, st, sl)
	if err != nil {
		return nil, err
	}
	if err := publishAuditKey(c.Data, key); err != nil {
		return nil, fmt.Errorf("the public key of the audit log: %w", err)
	}
	return openAudit(ctx, &auditFiles{folder: c.auditFolder(), store: st, seal: sl, hsms: hsms, key: key, log: log}, fresh)
}

// errUnrecorded says that a thing was done.
var errUnrecorded = errors.New("it was done, and its outcome could not be recorded")

// do records something that an operator does to the server's own files: the intent before it, and what came of it. A
// thing that cannot be recorded is not done.
func (a *auditor) do(ctx context.Context, e audit.Record, thing func() error) error {
	if a == nil {
		return thing()
	}
	e.Plane, e.Request, e.Source = audit.PlaneServer, uuid.NewString(), fmt.Sprintf("uid %d", os.Getuid())
	e.Phase = audit.PhaseIntent
	if _, err := a.log.Append(ctx, e); err != nil {
		return err
	}
	err := thing()
	e.Phase, e.Outcome = audit.PhaseOutcome, audit.Allowed
	if err != nil {
		e.Outcome = audit.Failed
	}
	if _, failed := a.log.Append(context.WithoutCancel(ctx), e); failed != nil && err == nil {
		err = fmt.Errorf("%w: %w", errUnrecorded, failed)
	}
	return err
}
