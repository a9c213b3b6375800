// Package server wires a Strongroom server together and runs it: configuration → parts → listeners → graceful
// stop. It contains no behaviour of its own beyond that.
package server

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/term"

	"strongroom/internal/access"
	"strongroom/internal/audit"
	"strongroom/internal/backup"
	"strongroom/internal/controlplane"
	"strongroom/internal/dataplane"
	"strongroom/internal/durable"
	"strongroom/internal/engine"
	"strongroom/internal/engine/software"
	"strongroom/internal/failure"
	"strongroom/internal/hsm"
	"strongroom/internal/identity"
	"strongroom/internal/limit"
	"strongroom/internal/metrics"
	"strongroom/internal/pki"
	"strongroom/internal/record"
	"strongroom/internal/seal"
	"strongroom/internal/store"
	"strongroom/internal/store/bolt"
	"strongroom/secret"
)

// stopWithin is how long a stopping server waits for requests under way.
const stopWithin = 10 * time.Second

// Server is a running server.
type Server struct {
	cfg        Config
	dev        bool
	stdout     io.Writer
	log        *slog.Logger
	store      store.Store
	seal       seal.Seal
	hsms       *hsm.Service
	backups    *backup.Service
	schedules  []backup.Schedule
	authorizer *access.Authorizer
	issuer     *identity.Issuer // nil when the embedded issuer is off
	listen     *listeners
	data       *dataplane.Handler
	verifier   *access.Verifier
	metrics    *metrics.Metrics
	limits     *limit.Limiter                  // one for both planes: a principal has one rate
	audit      *auditor                        // nil where the configuration turns it off
	newAudit   bool                            // Options.NewAuditLog
	wrap       func(http.Handler) http.Handler // Options.WrapDataPlane
	main       http.Handler
	version    string
	base       string // https://host:port of the main listener, as clients reach it
	caFile     string
	client     clientCredentials
	envPath    string
	meta       settings

	calls atomic.Uint64 // see dataplane.Config

	begun       time.Time // of the process
	reconciling sync.Mutex
	kick        chan struct{}
}

// clientCredentials are those of the administrator application that the embedded issuer made.
type clientCredentials struct {
	app    identity.App
	secret secret.Bytes
}

// Run serves until ctx ends or something fails for good. It returns nil after a graceful stop.
func Run(ctx context.Context, o Options) (err error) {
	cfg, err := loadConfig(o)
	if err != nil {
		return &UsageError{err}
	}
	log, err := newLogger(cfg, o.Stderr)
	if err != nil {
		return &UsageError{err}
	}
	collectLess()
	if err := harden(); err != nil {
		log.WarnContext(ctx, "core dumps could not be switched off", "error", err)
	}
	if cfg.LockMemory {
		if err := lockMemory(); err != nil {
			log.WarnContext(ctx, "memory could not be locked: keys in it may reach the swap. Forbid swap to this service, or allow it to lock memory", "error", err)
		}
	}
	s := &Server{cfg: cfg, dev: o.Dev, stdout: o.Stdout, log: log, version: o.Version, newAudit: o.NewAuditLog, begun: time.Now(), wrap: o.WrapDataPlane, kick: make(chan struct{}, 1)}
	if err := checkFirstStart(cfg, o); err != nil {
		return err
	}
	if err := durable.MkdirAll(cfg.Data, 0o700); err != nil {
		return fmt.Errorf("data folder: %w", err)
	}
	if s.store, s.seal, err = openState(cfg, o); err != nil {
		return err
	}
	defer s.seal.Close()
	defer func() {
		if closeErr := s.store.Close(); err == nil {
			err = closeErr
		}
	}()
	if s.meta, err = loadSettings(ctx, s.store, cfg, o.Dev, s.seal.ID()); err != nil {
		return err
	}
	if err := s.bindMain(); err != nil {
		return err
	}
	defer func() { // for a start that is refused: after a graceful stop nothing is open any more
		ended, cancel := context.WithCancel(context.Background())
		cancel()
		s.listen.shutdown(ended)
	}()
	defer func() { // its last checkpoint needs the store and the seal
		if closeErr := s.audit.close(); err == nil {
			err = closeErr
		}
	}()
	if err := s.wire(ctx); err != nil {
		return err
	}
	defer s.authorizer.Close()
	if s.issuer != nil {
		defer s.issuer.Close()
	}
	defer s.hsms.Close()
	defer s.backups.Close()
	if err := s.populate(ctx); err != nil {
		return err
	}
	// Before the environment file: whoever has seen that can use the socket.
	stopAdmin := s.serveAdmin(ctx)
	defer stopAdmin()
	if err := s.reconcile(ctx); err != nil {
		return err
	}
	if err := s.listen.serve(s.listen.base, s.main); err != nil {
		return err
	}
	stopMetrics, err := s.serveMetrics()
	if err != nil {
		return err
	}
	defer stopMetrics()
	unwatch := s.store.Watch(s.noticed)
	defer unwatch()
	sweeping, stopSweeping := context.WithCancel(ctx)
	var sweeper sync.WaitGroup
	sweeper.Go(func() { s.sweep(sweeping) })
	sweeper.Go(func() { s.backUp(sweeping) })
	s.announce(ctx, o.Version)

	ended := s.wait(ctx)
	stopSweeping()
	sweeper.Wait()
	stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopWithin)
	defer cancel()
	s.listen.shutdown(stopping)
	if ended == nil {
		s.log.InfoContext(stopping, "stopped")
	}
	return ended
}

// UsageError says that flags or configuration cannot work. Nothing was touched.
type UsageError struct{ Err error }

func (e *UsageError) Error() string { return e.Err.Error() }

// Unwrap gives the mistake itself.
func (e *UsageError) Unwrap() error { return e.Err }

// openState opens the database and the seal, making both on the first start. It does not guess: a database without
// its seal, a seal without its database, or a seal of another kind than configured is an error that says what to do.
func openState(cfg Config, o Options) (store.Store, seal.Seal, error) {
	_, dbErr := os.Lstat(filepath.Join(cfg.Data, bolt.FileName))
	_, sealErr := os.Lstat(cfg.Seal.File)
	hasDB, hasSeal := dbErr == nil, sealErr == nil
	if hasSeal && !hasDB {
		return nil, nil, fmt.Errorf("there is a seal at %s but no database in %s: the database was lost or moved. Put it back; or, to begin anew and give up what it held, remove the seal", cfg.Seal.File, cfg.Data)
	}
	db, err := bolt.Open(cfg.Data, bolt.Options{})
	if errors.Is(err, bolt.ErrInUse) {
		return nil, nil, folderInUse(cfg.Data)
	}
	if err != nil {
		return nil, nil, err
	}
	var sealed string
	if err := db.View(context.Background(), func(r store.Reader) error {
		raw, _ := r.Get(keySeal)
		sealed = string(raw)
		return nil
	}); err != nil {
		_ = db.Close()
		return nil, nil, err
	}
	if sealed != "" && !hasSeal {
		_ = db.Close()
		return nil, nil, fmt.Errorf("the seal %s is missing, and the database is sealed with it (seal ID %s). Put the seal back from where you keep its copy; without it the keys in this database cannot be opened, and the way back is to recover into a new HSM from an SD file and backups", cfg.Seal.File, sealed)
	}
	sl, err := openSeal(cfg, o, hasSeal)
	if err != nil {
		_ = db.Close()
		return nil, nil, err
	}
	if sealed != "" && sl.ID() != sealed {
		id := sl.ID()
		sl.Close()
		_ = db.Close()
		return nil, nil, fmt.Errorf("the seal at %s is another one (seal ID %s) than that of the database (seal ID %s); put the right one back", cfg.Seal.File, id, sealed)
	}
	return db, sl, nil
}

// folderInUse is [ErrRunning] as a server is told of it that would be the second one on a data folder.
type folderInUse string

func (f folderInUse) Error() string {
	return fmt.Sprintf("the data folder %s is in use by another server; stop that one, or name another folder", string(f))
}

func (folderInUse) Is(target error) bool { return target == ErrRunning }

func openSeal(cfg Config, o Options, exists bool) (seal.Seal, error) {
	kind := cfg.Seal.Kind
	if exists {
		d, err := seal.Describe(cfg.Seal.File)
		if err != nil {
			return nil, err
		}
		if kind != "" && kind != d.Kind {
			return nil, fmt.Errorf("the seal at %s is of kind %s, and kind %s is asked for: a seal keeps its kind. Ask for %s, or begin a new server with the other kind and recover into it from an SD file and backups", cfg.Seal.File, d.Kind, kind, d.Kind)
		}
		kind = d.Kind
	}
	if kind == "" {
		kind = "file"
	}
	if kind == "file" {
		if exists {
			return seal.OpenFile(cfg.Seal.File)
		}
		return seal.CreateFile(cfg.Seal.File, rand.Reader)
	}
	passphrase, err := sealPassphrase(cfg, o, !exists)
	if err != nil {
		return nil, err
	}
	defer collectNow()
	defer passphrase.Wipe()
	if exists {
		return seal.OpenPassphrase(cfg.Seal.File, passphrase)
	}
	return seal.CreatePassphrase(cfg.Seal.File, passphrase, rand.Reader, seal.DefaultParams())
}

// sealPassphrase takes the passphrase from the configured file, the systemd credential, or a person.
func sealPassphrase(cfg Config, o Options, twice bool) (secret.Bytes, error) {
	path := cfg.Seal.PassphraseFile
	if path == "" {
		path = systemdCredential("seal-passphrase")
	}
	if path != "" {
		f, err := os.Open(path)
		if err != nil {
			return secret.Bytes{}, fmt.Errorf("passphrase of the seal: %s: %w; give the file with --seal-passphrase-file, or leave passphrase_file out to be asked", path, reason(err))
		}
		defer f.Close()
		raw, err := io.ReadAll(io.LimitReader(f, 4097))
		if err != nil || len(raw) > 4096 {
			return secret.Bytes{}, fmt.Errorf("passphrase of the seal: %s cannot be read, or has more than 4096 bytes", path)
		}
		if trimmed := bytes.TrimRight(raw, "\r\n"); len(trimmed) > 0 {
			return secret.Take(trimmed), nil
		}
		return secret.Bytes{}, fmt.Errorf("passphrase of the seal: %s is empty", path)
	}
	if o.Prompt == nil {
		return secret.Bytes{}, errors.New("the seal needs a passphrase and there is no terminal to ask at: give --seal-passphrase-file, or the systemd credential seal-passphrase")
	}
	first, err := o.Prompt("Passphrase of the seal: ")
	if err != nil {
		return secret.Bytes{}, err
	}
	passphrase := secret.Take(first)
	if passphrase.IsZero() {
		return secret.Bytes{}, errors.New("the passphrase is empty")
	}
	if twice {
		again, err := o.Prompt("The same again: ")
		if err != nil {
			return secret.Bytes{}, err
		}
		second := secret.Take(again)
		defer second.Wipe()
		if !passphrase.Equal(second) {
			return secret.Bytes{}, errors.New("the two passphrases differ, and no seal was made; start again")
		}
	}
	return passphrase, nil
}

// bindMain binds the main port, so that everything after knows the server's address. A port of 0 means any the
// first time, and the same one after a restart.
func (s *Server) bindMain() error {
	host, portText, _ := net.SplitHostPort(s.cfg.Listen)
	port, err := strconv.Atoi(portText)
	if err != nil {
		return fmt.Errorf("--listen %q has no port number", s.cfg.Listen)
	}
	if port == 0 {
		port = s.meta.port
	}
	source, err := s.certificates()
	if err != nil {
		return err
	}
	s.listen = newListeners(host, pki.ServerConfig(source), s.log)
	if n := s.cfg.Limits.ConnectionsPerAddress; n != 0 {
		s.listen.addresses.most = n
	}
	if s.listen.base, err = s.listen.bind(port); err != nil {
		return fmt.Errorf("%w; stop what uses that port, or give another with --listen", err)
	}
	if err := s.meta.rememberPort(context.Background(), s.store, s.listen.base); err != nil {
		return err
	}
	s.base = s.cfg.PublicURL
	if s.base == "" {
		s.base = "https://" + net.JoinHostPort(host, strconv.Itoa(s.listen.base))
	}
	return nil
}

func (s *Server) certificates() (pki.Source, error) {
	if s.cfg.TLS.Certificate != "" {
		s.caFile = s.cfg.TLS.Certificate
		return pki.Reloading(s.cfg.TLS.Certificate, s.cfg.TLS.Key, time.Now, s.log)
	}
	names := []string{"localhost", "*." + s.cfg.HSMDomain}
	ips := []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}
	host, _, _ := net.SplitHostPort(s.cfg.Listen)
	if u, err := url.Parse(s.cfg.PublicURL); err == nil && u.Hostname() != "" {
		host = u.Hostname()
	}
	if ip := net.ParseIP(host); ip != nil && !ip.IsLoopback() && !ip.IsUnspecified() {
		ips = append(ips, ip)
	} else if ip == nil && host != "" && host != "localhost" {
		names = append(names, host)
	}
	dev, err := pki.EnsureDev(filepath.Join(s.cfg.Data, "tls"), names, ips, time.Now, rand.Reader)
	if err != nil {
		return nil, err
	}
	s.caFile = dev.CAFile
	return dev.Source, nil
}

// wire makes the parts and connects them.
func (s *Server) wire(ctx context.Context) error {
	var issuers []access.Issuer
	if s.cfg.Identity.Embedded {
		issuer, err := identity.Open(ctx, identity.Config{BaseURLs: s.bases(), Tenant: s.meta.tenant, Store: s.store, Seal: s.seal, Rand: rand.Reader, Now: time.Now, Log: s.log, Attestation: s.dev})
		if err != nil {
			return err
		}
		s.issuer = issuer
		issuers = append(issuers, issuer.Issuers()...)
		s.log.WarnContext(ctx, "the embedded token issuer is on: whoever holds a client secret of it is that client, and whoever holds a password is that user", "authority", s.base)
	}
	for _, i := range s.cfg.Issuers {
		issuer, err := access.OpenIssuer(access.IssuerConfig{URL: i.URL, Algorithms: i.Algorithms, Prefix: i.PrincipalPrefix, Groups: i.Groups, Now: time.Now, Log: s.log})
		if err != nil {
			return err
		}
		issuer.Prefetch() // an issuer that is down is told of now, and does not keep the server from starting
		issuers = append(issuers, issuer)
	}
	verifier, err := access.NewVerifier(issuers, time.Now)
	if err != nil {
		return err
	}
	attestations, err := s.attestations(ctx)
	if err != nil {
		return err
	}
	s.authorizer = access.NewAuthorizer(s.store, s.seal)
	var options []software.Option
	if s.cfg.AllowRSA15 {
		options = append(options, software.AllowRSA15())
		s.log.WarnContext(ctx, "RSA1_5 is allowed: whoever may decrypt with it can decrypt everything, by asking often enough")
	}
	config := hsm.Config{
		Store: s.store, Seal: s.seal, Authorizer: s.authorizer, Now: time.Now, Rand: rand.Reader, Log: s.log, MaxKeys: s.cfg.Limits.KeysPerHSM, Attestations: attestations,
		OpenEngine: func(wrapping, backup secret.Bytes) (engine.Engine, error) {
			return software.New(wrapping, backup, rand.Reader, options...)
		},
	}
	if s.dev {
		config.ReservePort, config.ReleasePort = s.listen.reserve, s.listen.release
	}
	s.hsms = hsm.New(config)
	if err := s.beginAudit(ctx); err != nil {
		return err
	}
	if s.issuer != nil {
		s.issuer.Record(s.audit.recorder(audit.PlaneIdentity))
	}
	if err := s.beginBackups(ctx); err != nil {
		return err
	}
	s.verifier = verifier
	s.metrics = metrics.New(s.sources(s.version))
	s.limits = s.cfg.limiter()
	s.data = dataplane.New(dataplane.Config{HSMs: s.hsms, Verifier: verifier, Authorization: s.base + "/" + s.meta.tenant, Region: s.cfg.Location, Log: s.log, Now: time.Now,
		Limits: s.limits, Metrics: s.metrics, Recorder: s.audit.recorder(audit.PlaneData), Backups: s.backups, Calls: &s.calls})
	arm, err := controlplane.New(controlplane.Config{
		Service: &provisioner{s: s}, Verifier: verifier, BaseURLs: s.bases(), Tenant: s.meta.tenant, Subscription: s.meta.subscription, SubscriptionName: "Strongroom",
		ResourceGroup: defaultGroup, Location: s.cfg.Location, MHSMSuffix: s.hsmSuffix(), Log: s.log,
		Limits: s.limits, Recorder: s.audit.recorder(audit.PlaneControl),
	})
	if err != nil {
		return err
	}
	s.main = s.guard(s.route(arm))
	return nil
}

// attestations verifies the tokens of the configured attestation authorities, and in development of our own.
func (s *Server) attestations(ctx context.Context) (*access.Attestations, error) {
	var list []access.Issuer
	if s.issuer != nil {
		list = s.issuer.AttestationAuthorities()
	}
	if len(list) > 0 {
		s.log.WarnContext(ctx, "the attestation authority for development is on: whoever can sign in can have anything attested, and keys released that name it", "authority", list[0].URL)
	}
	for _, a := range s.cfg.AttestationAuthorities {
		authority, err := access.OpenIssuer(access.IssuerConfig{URL: a.URL, Algorithms: a.Algorithms, Now: time.Now, Log: s.log})
		if err != nil {
			return nil, fmt.Errorf("attestation_authority: %w", err)
		}
		authority.Prefetch() // as with issuers
		list = append(list, authority)
	}
	return access.NewAttestations(list, time.Now)
}

// bases are the ways to reach the main listener: as published, and in development also as localhost.
func (s *Server) bases() []string {
	list := []string{s.base}
	if local := "https://localhost:" + strconv.Itoa(s.listen.base); s.dev && local != s.base {
		list = append(list, local)
	}
	return list
}

// hsmSuffix is what follows an HSM's name in its host name, with the port if there is one.
func (s *Server) hsmSuffix() string {
	u, err := url.Parse(s.base)
	if err != nil || u.Port() == "" {
		return s.cfg.HSMDomain
	}
	return s.cfg.HSMDomain + ":" + u.Port()
}

// defaultGroup is the resource group of HSMs that the configuration or --hsm names.
const defaultGroup = "strongroom"

// populate makes the administrator application and the HSMs that were asked for.
func (s *Server) populate(ctx context.Context) error {
	admins := s.cfg.Administrators
	if s.issuer != nil {
		name := administratorEnv
		if s.dev {
			name = devEnv
		}
		s.envPath = filepath.Join(s.cfg.Data, name)
		app, fresh, created, err := s.issuer.EnsureApplication(ctx, administratorName)
		if err != nil {
			return err
		}
		s.client.app, s.client.secret = app, fresh
		if !created {
			s.client.secret = readSecret(s.envPath, app.ClientID)
			if s.client.secret.IsZero() && s.dev {
				// The file was lost. In development it is simply made again.
				if s.client.secret, err = s.issuer.ResetSecret(ctx, app.ClientID, false); err != nil {
					return err
				}
			}
		}
		admins = append(slices.Clone(admins), app.ObjectID)
	}
	have, gone, err := s.hsms.ListAll(ctx)
	if err != nil {
		return err
	}
	// In production an administrator assigns the roles that use keys, to whoever needs them. In development the one
	// application that there is does everything, and the first minutes stay short.
	var more []string
	if s.dev {
		more = []string{access.RoleCryptoUser, access.RoleCryptoOfficer}
	}
	for _, name := range s.cfg.HSMs {
		same := func(i hsm.Info) bool { return strings.EqualFold(i.Name, name) }
		if slices.ContainsFunc(have, same) || slices.ContainsFunc(gone, same) {
			continue
		}
		if s.meta.populated && s.dev {
			continue // it was purged: a restart does not bring it back
		}
		_, _, err := s.hsms.Create(ctx, hsm.Spec{Name: name, Subscription: s.meta.subscription, ResourceGroup: defaultGroup, Location: s.cfg.Location,
			TenantID: s.meta.tenant, InitialAdmins: admins, MoreRoles: more})
		if err != nil {
			return fmt.Errorf("--hsm %s: %w", name, err)
		}
	}
	return s.meta.rememberPopulated(ctx, s.store)
}

// reconcile opens the ports of HSMs that are there, closes those of HSMs that are gone, and writes the
// environment file. It runs at start and after each change of an HSM.
func (s *Server) reconcile(ctx context.Context) error {
	s.reconciling.Lock()
	defer s.reconciling.Unlock()
	list, deleted, err := s.hsms.ListAll(ctx) // from one snapshot: an HSM between two lists would lose its port
	if err != nil {
		return err
	}
	if s.dev {
		want := map[int]bool{s.listen.base: true}
		for _, i := range append(slices.Clone(list), deleted...) {
			if i.Port == 0 {
				continue
			}
			want[i.Port] = true
			if err := s.listen.serve(i.Port, s.guard(s.hsmHandler(i.Name, i.Port))); err != nil {
				return fmt.Errorf("port %d belongs to HSM %s and cannot be opened: %w. Stop what uses it", i.Port, i.Name, err)
			}
		}
		for port := range s.listen.ports() {
			if !want[port] {
				s.listen.stop(port)
			}
		}
	}
	if s.envPath == "" || s.client.secret.IsZero() {
		return nil
	}
	e := environment{authority: s.base, tenant: s.meta.tenant, clientID: s.client.app.ClientID, clientSecret: s.client.secret, objectID: s.client.app.ObjectID}
	if e.ca, err = filepath.Abs(s.caFile); err != nil {
		return err
	}
	for _, i := range list {
		e.hsms = append(e.hsms, hsmAddress{i.Name, s.hsmURL(i)})
	}
	return e.write(s.envPath)
}

// hsmURL is how clients reach an HSM.
func (s *Server) hsmURL(i hsm.Info) string {
	if s.dev && i.Port != 0 {
		host, _, _ := net.SplitHostPort(s.cfg.Listen)
		return "https://" + net.JoinHostPort(host, strconv.Itoa(i.Port))
	}
	return "https://" + strings.ToLower(i.Name) + "." + s.hsmSuffix()
}

// noticed runs inside the store's commits: it only leaves a mark.
func (s *Server) noticed(keys []string) {
	for _, k := range keys {
		if strings.HasPrefix(k, "hsm-name/") || strings.HasPrefix(k, "hsm/") && strings.HasSuffix(k, "/record") {
			s.nudge()
			return
		}
	}
}

// nudge makes the server look at its HSMs again, soon.
func (s *Server) nudge() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

// wait serves until ctx ends, the store fails, or a listener does.
func (s *Server) wait(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.store.Failed():
			s.log.ErrorContext(ctx, "a write could not be made durable: stopping. Check the disk, then start again")
			return store.ErrFailed
		case <-s.audit.failed():
			s.log.ErrorContext(ctx, "the audit log could not be made durable: stopping. Check the disk, then start again")
			return audit.ErrFailed
		case err := <-s.listen.failed:
			return err
		case <-s.kick:
			if err := s.reconcile(ctx); err != nil {
				s.log.ErrorContext(ctx, "the listeners could not follow a change; trying again", "error", err)
				time.AfterFunc(time.Second, s.nudge)
			}
		}
	}
}

// sweepEvery is how often the server looks for what is due: keys to purge, keys to rotate.
const sweepEvery = 5 * time.Minute

// sweep does what is due until ctx ends. What one round cannot do, the next one tries again.
func (s *Server) sweep(ctx context.Context) {
	ticker := time.NewTicker(sweepEvery)
	defer ticker.Stop()
	for {
		if err := s.hsms.Sweep(ctx); err != nil && ctx.Err() == nil {
			s.log.ErrorContext(ctx, "what is due could not all be done; trying again", "in", sweepEvery, "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// announce tells people on stderr and programs on stdout that the server is ready.
func (s *Server) announce(ctx context.Context, version string) {
	line := "ready " + s.base
	list, err := s.hsms.List(ctx, false)
	if err == nil {
		for _, i := range list {
			line += " " + i.Name + "=" + s.hsmURL(i)
		}
	}
	s.log.InfoContext(ctx, "serving", "version", version, "authority", s.base, "hsms", len(list), "seal", s.seal.Kind(), "dev", s.dev)
	if s.envPath != "" {
		s.log.InfoContext(ctx, "credentials and addresses", "file", s.envPath)
	}
	fmt.Fprintln(s.stdout, line)
	notifySystemd("READY=1")
}

// route sends a request on the main port to an HSM by host name, else to the parts of the server itself.
func (s *Server) route(arm *controlplane.Plane) http.Handler {
	// The port counts too: it becomes part of key identifiers and of the audience that a token must have.
	published, suffix := "."+s.hsmSuffix(), "."+s.cfg.HSMDomain
	hsms := s.dataPlane(func(w http.ResponseWriter, r *http.Request) {
		if name, is := strings.CutSuffix(strings.ToLower(r.Host), published); is && name != "" && !strings.Contains(name, ".") {
			s.data.Serve(w, r, name)
			return
		}
		s.data.Refuse(w, r, failure.New(failure.Misdirected, "HSMs answer here as NAME%s; see STRONGROOM_HSM_*_URL in the environment file", published))
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if name, _, _ := strings.Cut(strings.ToLower(r.Host), ":"); strings.HasSuffix(name, suffix) {
			hsms.ServeHTTP(w, r)
			return
		}
		switch {
		case r.URL.Path == "/healthz" || r.URL.Path == "/readyz":
			s.health(w, r)
		case s.issuer != nil && s.issuer.Owns(r.URL.Path):
			s.issuer.Handler().ServeHTTP(w, r)
		default:
			arm.Handler().ServeHTTP(w, r)
		}
	})
}

// hsmHandler answers on an HSM's own port. The Host header has to name this port: it becomes part of key
// identifiers and of the challenge.
func (s *Server) hsmHandler(name string, port int) http.Handler {
	own := map[string]bool{}
	host, _, _ := net.SplitHostPort(s.cfg.Listen)
	for _, h := range []string{host, "localhost", strings.ToLower(name) + "." + s.cfg.HSMDomain} {
		own[net.JoinHostPort(h, strconv.Itoa(port))] = true
	}
	plane := s.dataPlane(func(w http.ResponseWriter, r *http.Request) {
		if own[strings.ToLower(r.Host)] {
			s.data.Serve(w, r, name)
			return
		}
		s.data.Refuse(w, r, failure.New(failure.Misdirected, "this port belongs to an HSM that has another address; see STRONGROOM_HSM_*_URL in the environment file"))
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/healthz", "/readyz":
			s.health(w, r)
		default:
			plane.ServeHTTP(w, r)
		}
	})
}

// dataPlane is what answers at the address of an HSM, as tests may look at it.
func (s *Server) dataPlane(answer http.HandlerFunc) http.Handler {
	if s.wrap == nil {
		return answer
	}
	return s.wrap(answer)
}

// health answers probes: healthz that the process runs, readyz that the store answers. Neither tells a stranger more.
func (s *Server) health(w http.ResponseWriter, r *http.Request) {
	status, text := http.StatusOK, `{"status":"ok"}`
	if s.dev {
		text = `{"status":"ok","dev":true}`
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		status, text = http.StatusMethodNotAllowed, `{"error":{"code":"MethodNotAllowed","message":"GET only"}}`
	} else if r.URL.Path == "/readyz" {
		err := s.store.View(r.Context(), func(store.Reader) error { return nil })
		select {
		case <-s.store.Failed():
			err = store.ErrFailed
		default:
		}
		if err != nil {
			status, text = http.StatusServiceUnavailable, `{"status":"not ready"}`
		}
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text+"\n")
}

// guard keeps a panic of one request to that request, and out of the answer (R4).
func (s *Server) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			p := recover()
			if p == nil {
				return
			}
			unrecorded, silent := p.(record.Unrecorded)
			if silent {
				p = unrecorded.Panic
			}
			if p != http.ErrAbortHandler {
				// The value of a panic may hold anything; its type and place are enough to find it.
				s.log.ErrorContext(r.Context(), "a request panicked", "type", fmt.Sprintf("%T", p), "stack", stack())
			}
			if silent || p == http.ErrAbortHandler {
				panic(http.ErrAbortHandler) // net/http cuts the connection; without it, what was written so far would be a good answer
			}
			w.Header().Set("Content-Type", "application/json; charset=utf-8")
			w.WriteHeader(http.StatusInternalServerError)
			_, _ = io.WriteString(w, `{"error":{"code":"InternalServerError","message":"the server failed; its log has the cause"}}`)
		}()
		next.ServeHTTP(w, r)
	})
}

func newLogger(cfg Config, w io.Writer) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(cfg.Log.Level)); err != nil {
		return nil, fmt.Errorf("log level %q is not known: use debug, info, warn or error", cfg.Log.Level)
	}
	format := cfg.Log.Format
	if format == "" {
		format = "json"
		if f, is := w.(*os.File); is && term.IsTerminal(int(f.Fd())) {
			format = "text"
		}
	}
	options := &slog.HandlerOptions{Level: level}
	switch format {
	case "text":
		return slog.New(slog.NewTextHandler(w, options)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, options)), nil
	}
	return nil, fmt.Errorf("log format %q is not known: use text or json", format)
}

// notifySystemd sends a state to the service manager, if there is one (sd_notify(3)).
func notifySystemd(state string) {
	socket := os.Getenv("NOTIFY_SOCKET")
	if socket == "" {
		return
	}
	conn, err := net.Dial("unixgram", socket)
	if err != nil {
		return
	}
	defer conn.Close()
	_, _ = conn.Write([]byte(state))
}
