// Package hsm is the Managed HSM itself: its state machine, its activation and recovery through the security
// domain, and its life from provisioning to purge. A [Service] hosts several HSMs over one store and one seal;
// each HSM hands its keys (package keys) an engine of its own domain.
//
// Every method takes the caller and asks package access before it does anything. State changes are one
// transaction on one record, checked again inside it, so that two servers or two requests at once leave one
// legal order and a crash leaves the old state or the new one.
package hsm

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"strongroom/internal/access"
	"strongroom/internal/engine"
	"strongroom/internal/failure"
	"strongroom/internal/keys"
	"strongroom/internal/seal"
	"strongroom/internal/store"
	"strongroom/secret"
)

// Config is what a Service stands on. All fields are required unless they say otherwise.
type Config struct {
	Store      store.Store
	Seal       seal.Seal
	Authorizer *access.Authorizer
	// OpenEngine opens the engine of one security domain. It owns the two secrets.
	OpenEngine func(wrapping, backup secret.Bytes) (engine.Engine, error)
	Now        func() time.Time
	// Uptime is how long the process has been running, by a monotonic clock; nil: counted from New by the system's.
	Uptime func() time.Duration
	Rand   io.Reader
	Log    *slog.Logger
	// ReservePort picks a free port of its own for a new HSM, outside taken, and ReleasePort gives one back whose HSM
	// was not made. Nil: HSMs get none.
	ReservePort func(taken map[int]bool) (int, error)
	ReleasePort func(port int)
	// ExchangeBits is the size of exchange keys; 0 means 4096, as Azure's.
	ExchangeBits int
	// MaxHSMs bounds how many HSMs one server hosts, deleted ones included; 0 means 100.
	MaxHSMs int
	// MaxKeys bounds how many keys one HSM has, deleted ones included; 0 means 5000, as Azure's.
	MaxKeys int
	// Attestations verifies the tokens that keys are released by; nil: none is.
	Attestations *access.Attestations
}

// Service hosts the HSMs of one server. Safe for concurrent use.
type Service struct {
	cfg     Config
	unwatch func()
	memory  *keys.Memory // of the records of all keys

	background sync.WaitGroup // refreshes under way
	making     sync.Mutex     // one exchange key is made at a time: it is seconds of a processor

	mu      sync.Mutex
	changes uint64                // changes of records and names seen; what was read before one is not kept after it
	handles map[string]*HSM       // by name in lower case; HSMs that were there, and not deleted, since the last change
	engines map[string]openEngine // by HSM ID; dropped when the HSM's domain changes or goes
	keys    map[string]*keys.Keys // by HSM ID; holds no state that would be missed. Closed outside mu
	closed  bool
}

type openEngine struct {
	engine engine.Engine
	domain string
	stale  bool // the record changed; look at it before the next use
}

// recordMemory is how many bytes the records of keys may take in memory, of all HSMs together: those of some 170,000 P-256
// keys. They are taken as keys are used.
const recordMemory = 64 << 20

// New returns a Service over what the store holds.
func New(cfg Config) *Service {
	if cfg.MaxHSMs == 0 {
		cfg.MaxHSMs = 100
	}
	if cfg.ExchangeBits == 0 {
		cfg.ExchangeBits = exchangeBits
	}
	if cfg.Uptime == nil {
		begin := time.Now() // its monotonic reading is what time.Since goes by
		cfg.Uptime = func() time.Duration { return time.Since(begin) }
	}
	s := &Service{cfg: cfg, memory: keys.NewMemory(recordMemory), engines: map[string]openEngine{}, keys: map[string]*keys.Keys{}, handles: map[string]*HSM{}}
	s.unwatch = cfg.Store.Watch(s.changed)
	return s
}

// Close wipes the domain keys held in memory. HSM calls after it fail.
func (s *Service) Close() {
	s.unwatch()
	s.mu.Lock()
	s.closed = true
	clear(s.handles) // nothing tells of changes any more
	s.mu.Unlock()
	s.background.Wait()
	s.mu.Lock()
	held := s.keys
	s.keys = map[string]*keys.Keys{}
	for id, e := range s.engines {
		e.engine.Close()
		delete(s.engines, id)
	}
	s.mu.Unlock()
	for _, k := range held {
		k.Close()
	}
}

// Spec is what a new HSM is made from.
type Spec struct {
	Name                                            string
	Subscription, ResourceGroup, Location, TenantID string
	Tags                                            map[string]string
	InitialAdmins                                   []string // object IDs, at least one
	MoreRoles                                       []string // IDs of roles that they get besides Managed HSM Administrator; not part of an HSM's description
	RetentionDays                                   int      // 7 to 90; 0 means 90
	PurgeProtection                                 bool
	NetworkACLs                                     json.RawMessage
}

// Info describes an HSM. Nothing in it is secret.
type Info struct {
	Spec
	ID               string
	State            State
	DomainID         string // "" unless activated
	Port             int
	Created, Updated time.Time
	Activated        time.Time
	Required         int      // quorum of the newest SD file made here; 0 if none was
	Custodians       []string // their labels, in order
	DeletedAt        time.Time
	PurgeAt          time.Time
	Restoring        bool   // a restore is under way
	Place            string // where its keys, roles and settings lie in the store: see record.place
}

var validName = regexp.MustCompile(`^[a-zA-Z][a-zA-Z0-9-]{1,22}[a-zA-Z0-9]$`)

// CheckName refuses names that Azure refuses: 3 to 24 letters, digits and hyphens, a letter first, no hyphen
// last or twice in a row.
func CheckName(name string) error {
	if !validName.MatchString(name) || strings.Contains(name, "--") {
		return failure.Coded(failure.BadParameter, "VaultNameNotValid",
			"an HSM name has 3 to 24 letters, digits and hyphens, begins with a letter, ends with a letter or digit and has no two hyphens in a row")
	}
	return nil
}

func (s Spec) check() (Spec, error) {
	if err := CheckName(s.Name); err != nil {
		return s, err
	}
	if len(s.InitialAdmins) == 0 || len(s.InitialAdmins) > 20 {
		return s, failure.New(failure.BadParameter, "an HSM needs 1 to 20 initial administrators (initialAdminObjectIds): without one, nobody could take ownership of it")
	}
	for i, id := range s.InitialAdmins {
		parsed, err := access.ParseObjectID(id)
		if err != nil {
			return s, failure.New(failure.BadParameter, "initial administrator %d is not an object ID: give the principal's GUID, not its name", i+1)
		}
		s.InitialAdmins[i] = parsed
	}
	if s.RetentionDays == 0 {
		s.RetentionDays = 90
	}
	if s.RetentionDays < 7 || s.RetentionDays > 90 {
		return s, failure.New(failure.BadParameter, "softDeleteRetentionInDays is %d; it must be 7 to 90", s.RetentionDays)
	}
	if len(s.Tags) > 15 {
		return s, failure.New(failure.BadParameter, "an HSM has at most 15 tags")
	}
	for k, v := range s.Tags {
		if len(k) > 256 || len(v) > 256 {
			return s, failure.New(failure.BadParameter, "a tag's name and value have at most 256 characters")
		}
	}
	return s, nil
}

// Create provisions an HSM, or returns the one of that name with its mutable parts updated: tags, network rules, and purge protection, which goes on and never off. It asks no role: the control plane decides who is an operator.
func (s *Service) Create(ctx context.Context, spec Spec) (info Info, created bool, err error) {
	if spec, err = spec.check(); err != nil {
		return Info{}, false, err
	}
	port, reserved := 0, false
	err = s.cfg.Store.Update(ctx, func(w store.Writer) error {
		now := s.cfg.Now().UTC()
		if id, taken := idOf(w, spec.Name); taken {
			rec, err := s.load(w, id)
			if err != nil {
				return err
			}
			if rec.Deleted != nil {
				return failure.Coded(failure.Conflict, "ConflictError",
					"an HSM named %s was deleted and its name is kept until %s; recover it, purge it, or choose another name", rec.Name, rec.Deleted.Purge.Format(time.RFC3339))
			}
			if !strings.EqualFold(rec.ResourceGroup, spec.ResourceGroup) || !strings.EqualFold(rec.Subscription, spec.Subscription) {
				return failure.Coded(failure.Conflict, "VaultAlreadyExists", "the name %s is in use by an HSM of another resource group; choose another name", rec.Name)
			}
			rec.Tags, rec.NetworkACLs = spec.Tags, spec.NetworkACLs
			rec.PurgeProtect = rec.PurgeProtect || spec.PurgeProtection // on, and never off again
			info = rec.info()
			return s.save(w, rec, now)
		}
		count, taken := 0, map[int]bool{}
		for _, other := range w.Scan("hsm-name/", "") {
			if rec, err := s.load(w, string(other)); err == nil { // a damaged one is reported by List
				taken[rec.Port] = true
			}
			count++
		}
		if count >= s.cfg.MaxHSMs {
			return failure.New(failure.Conflict, "this server already hosts %d HSMs, its limit; purge one first", count)
		}
		if s.cfg.ReservePort != nil {
			if port, err = s.cfg.ReservePort(taken); err != nil {
				return failure.Wrap(failure.Unavailable, err, "no port is free for a new HSM")
			}
			reserved = true
		}
		id, err := uuid.NewRandomFromReader(s.cfg.Rand)
		if err != nil {
			return failure.Wrap(failure.Internal, err, "no randomness")
		}
		rec := &record{
			ID: id.String(), Name: spec.Name, State: Provisioned, Port: port, Created: now,
			Subscription: spec.Subscription, ResourceGroup: spec.ResourceGroup, Location: spec.Location, Tenant: spec.TenantID,
			Tags: spec.Tags, Admins: spec.InitialAdmins, Retention: spec.RetentionDays, PurgeProtect: spec.PurgeProtection, NetworkACLs: spec.NetworkACLs,
		}
		if err := access.PutInitialAdministrators(w, s.cfg.Seal, rec.ID, rec.Admins, spec.MoreRoles, s.cfg.Rand); err != nil {
			return err
		}
		w.Put(nameKey(rec.Name), []byte(rec.ID))
		if err := s.save(w, rec, now); err != nil {
			return err
		}
		info, created = rec.info(), true
		return nil
	})
	if err != nil {
		if reserved && s.cfg.ReleasePort != nil {
			s.cfg.ReleasePort(port)
		}
		return Info{}, false, store.Failure(err)
	}
	if created {
		s.cfg.Log.InfoContext(ctx, "hsm provisioned", "hsm", info.Name, "id", info.ID)
	}
	return info, created, nil
}

// Get describes an HSM that is not deleted.
func (s *Service) Get(ctx context.Context, name string) (Info, error) {
	return s.find(ctx, name, false)
}

// GetDeleted describes a deleted HSM.
func (s *Service) GetDeleted(ctx context.Context, name string) (Info, error) {
	return s.find(ctx, name, true)
}

func (s *Service) find(ctx context.Context, name string, deleted bool) (info Info, err error) {
	err = s.cfg.Store.View(ctx, func(r store.Reader) error {
		rec, err := s.byName(r, name, deleted)
		if err == nil {
			info = rec.info()
		}
		return err
	})
	return info, store.Failure(err)
}

func (s *Service) byName(r store.Reader, name string, deleted bool) (*record, error) {
	missing := failure.Coded(failure.NotFound, "ResourceNotFound", "there is no HSM of that name here; `hsm list` shows those there are")
	if deleted {
		missing = failure.Coded(failure.NotFound, "DeletedVaultNotFound", "there is no deleted HSM of that name here")
	}
	id, ok := idOf(r, name)
	if !ok {
		return nil, missing
	}
	rec, err := s.load(r, id)
	if err != nil {
		return nil, err
	}
	if !strings.EqualFold(rec.Name, name) {
		return nil, failure.New(failure.Tampered, "the index of HSM names leads from %s to another HSM; restore the database from a copy", name)
	}
	if (rec.Deleted != nil) != deleted {
		return nil, missing
	}
	return rec, nil
}

// List describes all HSMs that are not deleted, by name; with deleted, those that are. An HSM whose record cannot be
// read is left out, with an error in the log: one damaged record must not take the others down.
func (s *Service) List(ctx context.Context, deleted bool) ([]Info, error) {
	living, gone, err := s.ListAll(ctx)
	if deleted {
		return gone, err
	}
	return living, err
}

// ListAll is both lists of [Service.List], from one snapshot.
func (s *Service) ListAll(ctx context.Context) (living, deleted []Info, err error) {
	err = s.cfg.Store.View(ctx, func(r store.Reader) error {
		for key, id := range r.Scan("hsm-name/", "") {
			rec, err := s.byName(r, strings.TrimPrefix(key, "hsm-name/"), false)
			if errors.Is(err, failure.NotFound) {
				rec, err = s.byName(r, strings.TrimPrefix(key, "hsm-name/"), true)
			}
			switch {
			case err != nil:
				s.cfg.Log.ErrorContext(ctx, "an HSM cannot be read and is left out", "id", string(id), "error", err)
			case rec.Deleted != nil:
				deleted = append(deleted, rec.info())
			default:
				living = append(living, rec.info())
			}
		}
		return nil
	})
	return living, deleted, store.Failure(err)
}

// Delete puts an HSM into the recoverable deleted state for its retention time. It answers to nobody until it
// is recovered; its domain and keys stay as they are.
func (s *Service) Delete(ctx context.Context, name string) (info Info, err error) {
	err = s.cfg.Store.Update(ctx, func(w store.Writer) error {
		rec, err := s.byName(w, name, false)
		if err != nil {
			return err
		}
		now := s.cfg.Now().UTC()
		rec.Deleted = &deletion{At: now, Purge: now.AddDate(0, 0, rec.Retention)}
		info = rec.info()
		return s.save(w, rec, now)
	})
	if err == nil {
		s.cfg.Log.WarnContext(ctx, "hsm deleted", "hsm", info.Name, "id", info.ID, "purge", info.PurgeAt)
	}
	return info, store.Failure(err)
}

// Recover brings a deleted HSM back as it was.
func (s *Service) Recover(ctx context.Context, name string) (info Info, err error) {
	err = s.cfg.Store.Update(ctx, func(w store.Writer) error {
		rec, err := s.byName(w, name, true)
		if err != nil {
			return err
		}
		rec.Deleted = nil
		info = rec.info()
		return s.save(w, rec, s.cfg.Now().UTC())
	})
	if err == nil {
		s.cfg.Log.InfoContext(ctx, "hsm recovered from deletion", "hsm", info.Name, "id", info.ID)
	}
	return info, store.Failure(err)
}

// Purge destroys a deleted HSM: its domain items, keys and roles. Only an SD file with its quorum of custodians,
// and backups, can bring the keys back, on another HSM.
func (s *Service) Purge(ctx context.Context, name string) (info Info, err error) {
	err = s.cfg.Store.Update(ctx, func(w store.Writer) error {
		rec, err := s.byName(w, name, true)
		if err != nil {
			return err
		}
		if rec.PurgeProtect && s.cfg.Now().Before(rec.Deleted.Purge) {
			return failure.Coded(failure.Conflict, "PurgeProtectionEnabled", "HSM %s has purge protection and is kept until %s", rec.Name, rec.Deleted.Purge.Format(time.RFC3339))
		}
		info = rec.info()
		for n := range rec.Places + 1 {
			for key := range w.Scan("hsm/"+placeName(rec.ID, n)+"/", "") {
				w.Delete(key)
			}
		}
		w.Delete(nameKey(rec.Name))
		return nil
	})
	if err == nil {
		s.cfg.Log.WarnContext(ctx, "hsm purged", "hsm", info.Name, "id", info.ID)
	}
	return info, store.Failure(err)
}

// HSM is a handle to one HSM, for the calls of its data plane. It holds no state.
type HSM struct {
	s               *Service
	id, name, place string
}

// Open returns a handle to an HSM that is not deleted. It reads nothing if it has been asked before and no HSM has
// changed since.
func (s *Service) Open(ctx context.Context, name string) (*HSM, error) {
	lower := strings.ToLower(name) // as the index of names has it
	s.mu.Lock()
	h, seen := s.handles[lower], s.changes
	s.mu.Unlock()
	if h != nil {
		return h, nil
	}
	info, err := s.Get(ctx, name)
	if err != nil {
		return nil, err
	}
	h = s.handle(info)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.changes == seen && !s.closed {
		s.handles[lower] = h
	}
	return h, nil
}

func (s *Service) handle(info Info) *HSM {
	return &HSM{s: s, id: info.ID, name: info.Name, place: info.Place}
}

// check asks whether the caller may do the action in the scope.
func (h *HSM) check(ctx context.Context, caller access.Caller, action access.Action, scope string) error {
	return h.s.cfg.Authorizer.Check(ctx, h.place, caller, action, scope)
}

// there loads the HSM's record for whoever reads or writes below its place. It refuses when the HSM was deleted, and when a
// restore has come in between: what the handle knows is then not what is there.
func (h *HSM) there(r store.Reader) (*record, error) {
	rec, err := h.s.load(r, h.id)
	switch {
	case err != nil:
		return nil, err
	case rec.Deleted != nil:
		return nil, failure.Coded(failure.NotFound, "ResourceNotFound", "the HSM was deleted")
	case rec.Restoring != nil:
		return nil, rec.busy()
	case rec.place() != h.place:
		return nil, failure.Coded(failure.Unavailable, "HsmRestored", "HSM %s was restored from a backup while this call was under way; nothing was changed by it, try again", rec.Name)
	}
	return rec, nil
}

// ID is the HSM's ID, which no other ever has.
func (h *HSM) ID() string { return h.id }

// Name is the HSM's name as first written.
func (h *HSM) Name() string { return h.name }

// May asks whether the caller may do an action at a scope, as the method that does it will ask again. It is for whoever
// has to do something before the method begins and must not do it for just anybody; it gives no right. A scope that is
// none can only come from the name of a key, and is a failure.BadParameter.
func (h *HSM) May(ctx context.Context, caller access.Caller, action access.Action, scope string) error {
	if !access.ValidScope(scope) {
		return failure.New(failure.BadParameter, "a key name has 1 to 127 letters (a to z), digits and hyphens")
	}
	return h.check(ctx, caller, action, scope)
}

// Roles is the management of the HSM's roles. Before activation it refuses, as every call but those of the security
// domain does.
func (h *HSM) Roles() *access.Roles {
	usable := func(r store.Reader) error {
		rec, err := h.there(r)
		if err != nil {
			return err
		}
		return rec.usable()
	}
	return h.s.cfg.Authorizer.Roles(h.place, func(ctx context.Context) error { return store.Failure(h.s.cfg.Store.View(ctx, usable)) }, usable)
}

// Keys are the HSM's keys.
func (h *HSM) Keys(ctx context.Context) (*keys.Keys, error) {
	for {
		h.s.mu.Lock()
		k, seen, closed := h.s.keys[h.id], h.s.changes, h.s.closed
		h.s.mu.Unlock()
		switch {
		case k != nil:
			return k, nil
		case closed:
			return nil, failure.New(failure.Unavailable, "the server is stopping; try again")
		case ctx.Err() != nil:
			return nil, store.Failure(ctx.Err())
		}
		// Not under the lock: it subscribes to the store's feed, which waits for a commit, which waits for changed.
		k, err := h.newKeys(ctx)
		if err != nil {
			return nil, err
		}
		h.s.mu.Lock()
		kept := h.s.keys[h.id] == nil && h.s.changes == seen && !h.s.closed
		if kept {
			h.s.keys[h.id] = k
		}
		h.s.mu.Unlock()
		if kept {
			return k, nil
		}
		k.Close() // somebody was faster, or it may be of an HSM as it was before a change
	}
}

func (h *HSM) newKeys(ctx context.Context) (*keys.Keys, error) {
	var rec *record
	err := h.s.cfg.Store.View(ctx, func(r store.Reader) (err error) {
		rec, err = h.s.load(r, h.id)
		return err
	})
	if err != nil {
		return nil, store.Failure(err)
	}
	if rec.Restoring != nil {
		return nil, rec.busy()
	}
	h = h.s.handle(rec.info()) // they outlive this call, and h may know a place that was left
	return h.keysOf(rec, func(r store.Reader) error {
		_, err := h.there(r)
		return err
	}), nil
}

// keysOf are the keys below h's place. alive is asked in every transaction that writes.
func (h *HSM) keysOf(rec *record, alive func(store.Reader) error) *keys.Keys {
	return keys.New(keys.Config{
		HSM: h.place, Store: h.s.cfg.Store, Now: h.s.cfg.Now, Uptime: h.s.cfg.Uptime, Rand: h.s.cfg.Rand,
		Authorize: func(ctx context.Context, c access.Caller, a access.Action, scope string) error {
			return h.check(ctx, c, a, scope)
		},
		RetentionDays: rec.Retention, PurgeProtection: rec.PurgeProtect, MaxKeys: h.s.cfg.MaxKeys, Memory: h.s.memory, Attestations: h.s.cfg.Attestations, Log: h.s.cfg.Log,
		DomainID: func() (string, error) { return h.s.domainID(h.id) },
		Statement: func(ctx context.Context, typ string, payload []byte) (jws, certificate []byte, err error) {
			return h.s.statement(ctx, h.id, typ, payload)
		},
		Engine: func() (engine.Engine, error) { return h.s.engine(h.id) },
		Alive:  alive,
	})
}

func (s *Service) domainID(id string) (domain string, err error) {
	err = s.cfg.Store.View(context.Background(), func(r store.Reader) error {
		rec, err := s.load(r, id)
		if err != nil {
			return err
		}
		if err := rec.usable(); err != nil {
			return err
		}
		domain = rec.Domain.ID
		return nil
	})
	return domain, store.Failure(err)
}

// engine returns the engine of an activated HSM, opening it on first use. An engine is kept only if no record changed
// since the one that it was opened from was read: otherwise that one may be from before a deletion, which would
// leave the keys of an HSM that is gone in memory.
func (s *Service) engine(id string) (engine.Engine, error) {
	for {
		s.mu.Lock()
		e, ok := s.engines[id]
		seen := s.changes
		s.mu.Unlock()
		if ok && !e.stale {
			return e.engine, nil
		}
		if ok {
			s.refresh(id)
			continue
		}
		eng, domain, err := s.openEngine(id)
		if err != nil {
			return nil, err
		}
		s.mu.Lock()
		other, taken := s.engines[id]
		switch {
		case s.closed:
			s.mu.Unlock()
			eng.Close()
			return nil, failure.New(failure.Unavailable, "the server is stopping; try again")
		case s.changes != seen: // read again
			s.mu.Unlock()
			eng.Close()
		case taken: // somebody was faster
			s.mu.Unlock()
			eng.Close()
			if !other.stale {
				return other.engine, nil
			}
		default:
			s.engines[id] = openEngine{engine: eng, domain: domain}
			s.mu.Unlock()
			return eng, nil
		}
	}
}

// openEngine opens an engine from what the store says now.
func (s *Service) openEngine(id string) (engine.Engine, string, error) {
	var rec *record
	err := s.cfg.Store.View(context.Background(), func(r store.Reader) (err error) {
		rec, err = s.load(r, id)
		return err
	})
	if err != nil {
		return nil, "", store.Failure(err)
	}
	if rec.Deleted != nil {
		return nil, "", failure.Coded(failure.NotFound, "ResourceNotFound", "the HSM was deleted")
	}
	if err := rec.usable(); err != nil {
		return nil, "", err
	}
	it, err := s.unseal(rec)
	if err != nil {
		return nil, "", err
	}
	defer it.signingDER.Wipe()
	eng, err := s.cfg.OpenEngine(it.wrapping, it.backup)
	if err != nil {
		return nil, "", failure.Wrap(failure.Internal, err, "the engine of HSM %s cannot be opened", rec.Name)
	}
	return eng, rec.Domain.ID, nil
}

// changed marks what is cached of HSMs whose record changed, and looks at them again beside the commit: it runs
// inside it, and so must not read the store. An engine whose domain is still the same goes on; a key operation
// beside a second download must not notice it.
func (s *Service) changed(changedKeys []string) {
	for _, key := range changedKeys {
		rest, ok := strings.CutPrefix(key, "hsm/")
		id, last, _ := strings.Cut(rest, "/")
		record := ok && last == "record"
		if !record && !strings.HasPrefix(key, "hsm-name/") {
			continue
		}
		s.mu.Lock()
		s.changes++
		clear(s.handles)
		if record && !s.closed {
			s.forget(id)
		}
		s.mu.Unlock()
	}
}

// forget drops what is held of one HSM. Its keys are closed beside the commit too: they wait for its watchers. s.mu is
// held.
func (s *Service) forget(id string) {
	if k := s.keys[id]; k != nil {
		delete(s.keys, id)
		s.background.Go(k.Close)
	}
	if e, open := s.engines[id]; open {
		e.stale = true
		s.engines[id] = e
		s.background.Go(func() { s.refresh(id) })
	}
}

// refresh closes the engine of an HSM that was deleted, purged or taken to another domain.
func (s *Service) refresh(id string) {
	s.mu.Lock()
	seen := s.changes
	s.mu.Unlock()
	var rec *record
	err := s.cfg.Store.View(context.Background(), func(r store.Reader) (err error) {
		rec, err = s.load(r, id)
		return err
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	e, open := s.engines[id]
	if !open {
		return
	}
	if err == nil && rec.Deleted == nil && rec.State == Activated && rec.Domain.ID == e.domain {
		e.stale = s.changes != seen
		s.engines[id] = e
		return
	}
	delete(s.engines, id)
	e.engine.Close()
}

// unseal opens the domain items of an activated HSM.
func (s *Service) unseal(rec *record) (*items, error) {
	plain, err := s.cfg.Seal.Unwrap(rec.Domain.Sealed, domainContext(rec))
	if err != nil {
		return nil, failure.Wrap(failure.Tampered, err, "the sealed security domain of HSM %s does not open: the record was changed, or the seal is another one", rec.Name)
	}
	defer plain.Wipe()
	it, err := unmarshalItems(plain)
	if err != nil {
		return nil, err
	}
	if it.id != rec.Domain.ID {
		it.wipe()
		return nil, failure.New(failure.Tampered, "the sealed security domain of HSM %s is %s, and its record says %s", rec.Name, it.id, rec.Domain.ID)
	}
	return it, nil
}

// busy is the answer to calls while a restore is under way.
func (r *record) busy() error {
	return failure.Coded(failure.Unavailable, "HsmRestoring", "HSM %s is being restored from a backup since %s; until that is done only the restore's status can be asked for", r.Name, r.Restoring.Started.Format(time.RFC3339))
}

// usable is the one place that says what a key call gets on an HSM without a domain.
func (r *record) usable() error {
	switch r.State {
	case Activated:
		return nil
	case Recovering:
		return failure.New(failure.NotActivated, "HSM %s waits for its security domain to be restored; upload a transfer file (az keyvault security-domain upload, or strongroom domain upload)", r.Name)
	default:
		return failure.New(failure.NotActivated, "HSM %s is provisioned but not activated; download its security domain to take ownership (az keyvault security-domain download, or strongroom domain download)", r.Name)
	}
}

func (r *record) info() Info {
	i := Info{
		Spec: Spec{Name: r.Name, Subscription: r.Subscription, ResourceGroup: r.ResourceGroup, Location: r.Location, TenantID: r.Tenant, Tags: r.Tags,
			InitialAdmins: r.Admins, RetentionDays: r.Retention, PurgeProtection: r.PurgeProtect, NetworkACLs: r.NetworkACLs},
		ID: r.ID, Place: r.place(), Restoring: r.Restoring != nil, State: r.State, Port: r.Port, Created: r.Created, Updated: r.Updated,
	}
	if r.Domain != nil {
		i.DomainID, i.Activated = r.Domain.ID, r.Domain.Activated
		if f := r.Domain.File; f != nil {
			i.Required = f.Required
			for _, c := range f.Custodians {
				i.Custodians = append(i.Custodians, c.Label)
			}
		}
	}
	if r.Deleted != nil {
		i.DeletedAt, i.PurgeAt = r.Deleted.At, r.Deleted.Purge
	}
	return i
}

func thumbprintHex(der []byte) string {
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:])
}

var _ fmt.Stringer = State("")

func (s State) String() string { return string(s) }
