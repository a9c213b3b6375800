// Package keys is the key objects of one HSM: names, versions, attributes, what a key may be used for, and
// single-key backups. It keeps records in the store and asks the engine for all cryptography; plaintext key
// material never comes here.
//
// Every method takes the caller and decides before it acts: it checks the form of the name, asks Authorize, asks
// for the engine (an HSM that is not activated has none), and only then reads or changes anything.
//
// A writer to the database cannot edit, exchange, replay or drop a single record unnoticed: see record.go.
package keys

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"strongroom/internal/access"
	"strongroom/internal/engine"
	"strongroom/internal/failure"
	"strongroom/internal/store"
)

// Limits of one HSM, as Azure publishes them (protocol: limits).
const (
	MaxKeys     = 5000 // per HSM, unless the operator allows more
	MaxVersions = 100  // per key
	MaxPage     = 25   // items of a list in one answer; also the default
)

// ownMemory is the size of a [Memory] that is not shared.
const ownMemory = 8 << 20

// Config is what the keys of one HSM stand on. All fields are required unless they say otherwise.
type Config struct {
	HSM   string // the HSM's ID; part of every record's path and of what seals its key
	Store store.Store
	// Authorize returns nil if the caller may do the action in the scope. Its error goes to the caller as it is.
	Authorize func(ctx context.Context, caller access.Caller, action access.Action, scope string) error
	Now       func() time.Time
	// Uptime is how long the process has been running, by a clock that nobody can set and that stands still in
	// between: what is destroyed by itself waits for it too (K11).
	Uptime func() time.Duration
	Rand   io.Reader // safe for concurrent use
	// RetentionDays (7 to 90) is for how long a deleted key is kept; with PurgeProtection nobody can purge it earlier.
	RetentionDays   int
	PurgeProtection bool
	// Memory is where verified records are kept, shared by the keys of many HSMs. Optional: without it they have one of their own.
	Memory *Memory
	// MaxKeys is how many keys the HSM may have, deleted ones included; 0 means [MaxKeys].
	MaxKeys int
	// DomainID is the hex SHA-256 that names the HSM's security domain (64 lower-case digits).
	DomainID func() (string, error)
	// Statement signs a payload with the domain's signing key, as a JWS in compact form with the given typ in its
	// header (RFC 7515, ES384). It also returns the certificate of that key, in DER.
	Statement func(ctx context.Context, typ string, payload []byte) (jws, certificate []byte, err error)
	// Attestations verifies the tokens that keys are released by. Optional: without it, none is.
	Attestations *access.Attestations
	// Log is told of keys that leave. Optional.
	Log *slog.Logger
	// Alive returns nil while the HSM is there. It is called inside every transaction that writes, so that no key is
	// written to an HSM that was deleted while the key was made.
	Alive func(r store.Reader) error
	// Engine is the engine of the HSM's domain, or a failure.NotActivated. None of it, DomainID and Statement is
	// called inside a transaction, nor is Attestations asked there.
	Engine func() (engine.Engine, error)
}

// Keys are the keys of one HSM. Several may serve one HSM, in one process or in many. Safe for concurrent use.
type Keys struct {
	cfg   Config
	cache *recordCache

	// What [Keys.served] counts from. Whoever forgets it counts less, never more.
	mu       sync.Mutex
	counting bool          // the two below are set
	base     int64         // seconds that the store knew of
	since    time.Duration // uptime when it was read
}

// New returns the keys of the HSM that cfg describes. Close it when it is no longer needed.
func New(cfg Config) *Keys {
	if cfg.MaxKeys == 0 {
		cfg.MaxKeys = MaxKeys
	}
	if cfg.Memory == nil {
		cfg.Memory = NewMemory(ownMemory)
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Keys{cfg: cfg, cache: newRecordCache(cfg.Store, "hsm/"+cfg.HSM+"/", cfg.Memory)}
}

// Close ends the subscription to the store's changes. Calls after it work, and read every record anew. It waits for the
// watchers of a commit under way, so it must not be called by one.
func (k *Keys) Close() { k.cache.close() }

// Key is one version of a key.
type Key struct {
	Name    string // as first written
	Version string // 32 lower-case hex digits
	Public  engine.Public
	Ops     []string // what it may be used for (key_ops)
	Attributes
	Tags          map[string]string
	ReleasePolicy *ReleasePolicy // nil unless Exportable
}

// Attributes of a version. Times have a resolution of one second.
type Attributes struct {
	Enabled            bool
	NotBefore, Expires *time.Time // nil: no bound; NotBefore is inside the window, Expires is not
	Created, Updated   time.Time
	Exportable         bool // the key may leave, as its release policy says
	RecoverableDays    int
	RecoveryLevel      string
}

// Item is a line of a list: a key without its version (the attributes are those of the latest), or a version.
type Item struct {
	Name    string
	Version string // "" in a list of keys
	Attributes
	Tags map[string]string
	// DeletedAt and PurgeAt are those of a [DeletedKey], in a list of deleted keys only.
	DeletedAt, PurgeAt *time.Time
}

// Page is a part of a list.
type Page struct {
	Items []Item
	Next  string // token of the next page; "" on the last one
}

// enter is how every method begins: may this caller do it, and is there an engine.
func (k *Keys) enter(ctx context.Context, caller access.Caller, action access.Action, scope string) (engine.Engine, error) {
	if err := k.cfg.Authorize(ctx, caller, action, scope); err != nil {
		return nil, err
	}
	return k.cfg.Engine()
}

// enterKey is enter for one key. It returns the name in the form in which names are compared.
func (k *Keys) enterKey(ctx context.Context, caller access.Caller, action access.Action, name string) (engine.Engine, string, error) {
	lower, err := normalName(name)
	if err != nil {
		return nil, "", err
	}
	eng, err := k.enter(ctx, caller, action, access.ScopeKey(lower))
	return eng, lower, err
}

// now is the time as records keep it.
func (k *Keys) now() time.Time { return k.cfg.Now().UTC().Truncate(time.Second) }

// newVersion returns a version ID that nobody can guess and nobody else draws.
func (k *Keys) newVersion() (string, error) {
	var id [16]byte
	if _, err := io.ReadFull(k.cfg.Rand, id[:]); err != nil {
		return "", failure.Wrap(failure.Unavailable, err, "there is no randomness for a new version; try again")
	}
	return hex.EncodeToString(id[:]), nil
}

// recoveryLevel is Azure's word for what happens to a deleted key.
func (k *Keys) recoveryLevel() string {
	level := "CustomizedRecoverable"
	if k.cfg.RetentionDays == 90 {
		level = "Recoverable"
	}
	if !k.cfg.PurgeProtection {
		level += "+Purgeable"
	}
	return level
}

func notFound(name string) error {
	return failure.Coded(failure.NotFound, "KeyNotFound", "Key not found: %s. List the keys to see which exist; if it was deleted, recover it or restore a backup", name)
}

func versionNotFound(name, version string) error {
	return failure.Coded(failure.NotFound, "KeyNotFound", "Key not found: %s has no version %s. List the versions to see which exist", name, version)
}

// engineFailure gives what the engine returns a kind, for an operation on the key that what describes.
func engineFailure(err error, what string) error {
	if _, ours := errors.AsType[*failure.Error](err); ours {
		return err
	}
	switch {
	case errors.Is(err, engine.ErrTampered):
		return tampered(what, err)
	case errors.Is(err, engine.ErrSpec):
		return failure.Wrap(failure.Unsupported, err, "this server's engine cannot make %s", what)
	case errors.Is(err, engine.ErrClosed):
		return failure.Wrap(failure.Unavailable, err, "the HSM is changing its state or stopping; try again")
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return failure.Wrap(failure.Unavailable, err, "the call was given up before it was done")
	}
	return failure.Wrap(failure.Internal, err, "the engine failed on %s", what)
}

// tampered is the answer to a record that is not as this HSM wrote it.
func tampered(what string, cause error) error {
	return failure.Wrap(failure.Tampered, cause, "the stored record of %s was changed outside this server and is not used; restore the key from a backup on another HSM of this domain, and find out who wrote to the database", what)
}

// describe names a version in messages.
func describe(name, version string) string { return fmt.Sprintf("key %s, version %s", name, version) }
