package identity

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"

	"strongroom/internal/access"
	"strongroom/internal/failure"
	"strongroom/internal/store"
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

// An application at rest is one record:
//
//	identity/app/<client-id>    seal.Wrap of appRecord as JSON, bound to this key
//
// It is sealed so that a writer to the database cannot put in a secret of his own. The secret is kept as its
// SHA-256: it is 32 random bytes, which nobody guesses, so a slow password hash would only give strangers a way
// to keep the server busy. Version 1, which is read and not written, had neither Series nor SecretCreated.
const (
	appPrefix  = "identity/app/"
	appVersion = 2
	maxApps    = 1000

	// secretPrefix marks a client secret for people and secret scanners, and keeps it from beginning with "-",
	// which command lines read as a flag.
	secretPrefix = "srs_"
	secretBytes  = 32
)

type appRecord struct {
	V             int       `json:"v"`
	ObjectID      string    `json:"object_id"`
	Name          string    `json:"name"`
	Hash          []byte    `json:"secret_sha256"`
	Created       time.Time `json:"created"`
	SecretCreated time.Time `json:"secret_created,omitzero"`
	// Series is the claim of that name in the application's tokens. It grows when its tokens are called back, and
	// tokens with another number count no more.
	Series uint64 `json:"series,omitempty"`
}

// entry is an application with what is not shown of it.
type entry struct {
	App
	hash   [sha256.Size]byte
	series uint64
}

// Directory is the applications that the embedded issuer knows. It works on what the store holds, without an issuer
// that serves. Safe for concurrent use.
type Directory struct {
	cfg     Config
	unwatch func()
	changes atomic.Uint64
}

var _ access.Standing = (*Directory)(nil)

// OpenDirectory returns the directory over a store. Of cfg it takes no base URLs and no tenant. Close ends it.
func OpenDirectory(cfg Config) *Directory {
	d := &Directory{cfg: cfg}
	d.unwatch = cfg.Store.Watch(d.changed)
	return d
}

// Close ends the subscription to the store, and with it the news of changes for [Directory.Generation].
func (d *Directory) Close() { d.unwatch() }

// changed runs inside the store's commits.
func (d *Directory) changed(keys []string) {
	if slices.ContainsFunc(keys, func(key string) bool { return strings.HasPrefix(key, appPrefix) }) {
		d.changes.Add(1)
	}
}

// Generation implements [access.Standing]: it moves with each change of an application, on whatever server.
func (d *Directory) Generation() uint64 { return d.changes.Load() }

// Check implements [access.Standing]: a token counts while its application is there and its series is that of the
// application's tokens.
func (d *Directory) Check(ctx context.Context, t access.Issued) error {
	var e entry
	err := d.cfg.Store.View(ctx, func(r store.Reader) (err error) {
		e, err = d.get(r, t.AppID)
		return err
	})
	switch {
	case errors.Is(err, failure.NotFound):
		return failure.New(failure.Unauthorized, "the application that the token was issued to has been deleted")
	case err != nil:
		return store.Failure(err)
	case e.series != t.Series:
		return failure.New(failure.Unauthorized, "the tokens of this application have been called back; sign in again, with its new secret")
	}
	return nil
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
	ids := [2]string{}
	for n := range ids {
		id, err := uuid.NewRandomFromReader(d.cfg.Rand)
		if err != nil {
			return App{}, secret.Bytes{}, false, failure.Wrap(failure.Internal, err, "no randomness for a new application")
		}
		ids[n] = id.String()
	}
	s, err = newSecret(d.cfg)
	if err != nil {
		return App{}, secret.Bytes{}, false, err
	}
	err = d.cfg.Store.Update(ctx, func(w store.Writer) error {
		list, err := d.list(w)
		if err != nil {
			return err
		}
		for _, a := range list {
			if strings.EqualFold(a.Name, name) {
				app = a
				return nil
			}
		}
		if len(list) >= maxApps {
			return failure.New(failure.Conflict, "there are %d applications, the limit; delete one first", len(list))
		}
		now := d.second()
		app, created = App{ClientID: ids[0], ObjectID: ids[1], Name: name, Created: now, SecretCreated: now}, true
		return d.put(w, entry{App: app, hash: hashSecret(s.Reveal())})
	})
	if err != nil || !created {
		s.Wipe()
		s = secret.Bytes{}
	}
	if err != nil {
		return App{}, s, false, store.Failure(err)
	}
	if created {
		d.cfg.Log.InfoContext(ctx, "application registered", "client_id", app.ClientID, "object_id", app.ObjectID)
	}
	return app, s, created, nil
}

// second is the time as records have it.
func (d *Directory) second() time.Time { return d.cfg.Now().UTC().Truncate(time.Second) }

// ResetSecret gives an application a new secret. The old one stops with this call; tokens issued to it stay good
// until they expire, unless revokeTokens: then those that are out stop too, at once here and within a minute on
// other servers.
func (d *Directory) ResetSecret(ctx context.Context, clientID string, revokeTokens bool) (s secret.Bytes, err error) {
	if s, err = newSecret(d.cfg); err != nil {
		return secret.Bytes{}, err
	}
	err = d.cfg.Store.Update(ctx, func(w store.Writer) error {
		e, err := d.get(w, clientID)
		if err != nil {
			return err
		}
		e.hash, e.SecretCreated = hashSecret(s.Reveal()), d.second()
		if revokeTokens {
			e.series++
		}
		return d.put(w, e)
	})
	if err != nil {
		s.Wipe()
		return secret.Bytes{}, store.Failure(err)
	}
	d.cfg.Log.InfoContext(ctx, "application secret replaced", "client_id", clientID, "tokens_revoked", revokeTokens)
	return s, nil
}

// DeleteApplication removes an application. It signs in no more, and tokens it has stop, at once here and within a
// minute on other servers. Its role assignments stay without effect: no other application ever has its object ID.
func (d *Directory) DeleteApplication(ctx context.Context, clientID string) error {
	err := d.cfg.Store.Update(ctx, func(w store.Writer) error {
		e, err := d.get(w, clientID)
		if err != nil {
			return err
		}
		w.Delete(appPrefix + e.ClientID)
		return nil
	})
	if err == nil {
		d.cfg.Log.InfoContext(ctx, "application deleted", "client_id", clientID)
	}
	return store.Failure(err)
}

// ListApplications returns all applications, in the order of their client IDs.
func (d *Directory) ListApplications(ctx context.Context) (list []App, err error) {
	err = d.cfg.Store.View(ctx, func(r store.Reader) (err error) {
		list, err = d.list(r)
		return err
	})
	return list, store.Failure(err)
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
	return App{}, failure.Coded(failure.NotFound, "ApplicationNotFound", "there is no application of that name or client ID")
}

func (d *Directory) list(r store.Reader) ([]App, error) {
	var list []App
	for key, sealed := range r.Scan(appPrefix, "") {
		e, err := d.open(key, sealed)
		if err != nil {
			return nil, err
		}
		list = append(list, e.App)
	}
	return list, nil
}

func (d *Directory) get(r store.Reader, clientID string) (entry, error) {
	id, ok := normalID(clientID)
	if ok {
		if sealed, found := r.Get(appPrefix + id); found {
			return d.open(appPrefix+id, sealed)
		}
	}
	return entry{}, failure.New(failure.NotFound, "there is no application with that client ID")
}

func (d *Directory) put(w store.Writer, e entry) error {
	text, err := json.Marshal(appRecord{
		V: appVersion, ObjectID: e.ObjectID, Name: e.Name, Hash: e.hash[:], Created: e.Created, SecretCreated: e.SecretCreated, Series: e.series,
	})
	if err != nil {
		return failure.Wrap(failure.Internal, err, "the application cannot be written")
	}
	sealed, err := d.cfg.Seal.Wrap(secret.Take(text), appPrefix+e.ClientID)
	if err != nil {
		return failure.Wrap(failure.Internal, err, "the application cannot be sealed")
	}
	w.Put(appPrefix+e.ClientID, sealed)
	return nil
}

func (d *Directory) open(key string, sealed []byte) (entry, error) {
	clientID := strings.TrimPrefix(key, appPrefix)
	text, err := d.cfg.Seal.Unwrap(sealed, key)
	if err != nil {
		return entry{}, failure.Wrap(failure.Tampered, err, "the record of application %s was changed or moved in the database; restore the database from a copy, or delete the record", clientID)
	}
	var rec appRecord
	err = json.Unmarshal(text.Reveal(), &rec)
	switch {
	case err == nil && (rec.V < 1 || rec.V > appVersion):
		return entry{}, failure.New(failure.Unsupported, "the record of application %s has format version %d and this program knows 1 to %d; run the program that wrote it, or a newer one", clientID, rec.V, appVersion)
	case err != nil || len(rec.Hash) != sha256.Size:
		return entry{}, failure.New(failure.Tampered, "the record of application %s is damaged", clientID)
	}
	return entry{
		App:    App{ClientID: clientID, ObjectID: rec.ObjectID, Name: rec.Name, Created: rec.Created, SecretCreated: rec.SecretCreated},
		hash:   [sha256.Size]byte(rec.Hash),
		series: rec.Series,
	}, nil
}

// decoy is an application that exists nowhere. A sign-in with an unknown client ID opens it and compares with its
// hash, so that it does the same work as one with a wrong secret (threat A9).
type decoy struct {
	key    string
	sealed []byte
}

func newDecoy(cfg Config) (decoy, error) {
	s, err := newSecret(cfg)
	if err != nil {
		return decoy{}, err
	}
	hash := hashSecret(s.Reveal())
	s.Wipe()
	d := decoy{key: appPrefix + uuid.Nil.String()}
	text, err := json.Marshal(appRecord{V: appVersion, ObjectID: uuid.Nil.String(), Name: "Strongroom decoy", Hash: hash[:], Created: cfg.Now().UTC()})
	if err != nil {
		return decoy{}, failure.Wrap(failure.Internal, err, "the decoy cannot be written")
	}
	if d.sealed, err = cfg.Seal.Wrap(secret.Take(text), d.key); err != nil {
		return decoy{}, failure.Wrap(failure.Internal, err, "the decoy cannot be sealed")
	}
	return d, nil
}

// signIn returns the application that clientID and candidate belong to. Whether the ID is unknown or the secret
// wrong is not told, and takes the same steps: one look-up, one opening, one comparison in constant time.
func (i *Issuer) signIn(ctx context.Context, clientID string, candidate secret.Bytes) (e entry, ok bool, err error) {
	id, valid := normalID(clientID)
	if !valid {
		id = uuid.Nil.String() // never given out
	}
	key, sealed, found := appPrefix+id, []byte(nil), false
	err = i.cfg.Store.View(ctx, func(r store.Reader) error {
		sealed, found = r.Get(key)
		return nil
	})
	if err != nil {
		return entry{}, false, store.Failure(err)
	}
	if !found {
		key, sealed = i.decoy.key, i.decoy.sealed
	}
	e, err = i.open(key, sealed)
	if err != nil {
		return entry{}, false, err
	}
	got := hashSecret(candidate.Reveal())
	if match := subtle.ConstantTimeCompare(got[:], e.hash[:]) == 1; !match || !found || !valid {
		return entry{}, false, nil
	}
	return e, true, nil
}

// hashSecret is SHA-256 with a prefix of its own, so that the hash is of use nowhere else.
func hashSecret(s []byte) [sha256.Size]byte {
	h := sha256.New()
	h.Write([]byte("strongroom client secret v1\x00"))
	h.Write(s)
	return [sha256.Size]byte(h.Sum(nil))
}

// newSecret returns "srs_" and 32 random bytes in base64url: 47 characters.
func newSecret(cfg Config) (secret.Bytes, error) {
	raw, err := secret.Random(cfg.Rand, secretBytes)
	if err != nil {
		return secret.Bytes{}, failure.Wrap(failure.Internal, err, "no randomness for a client secret")
	}
	defer raw.Wipe()
	return secret.Take(base64.RawURLEncoding.AppendEncode([]byte(secretPrefix), raw.Reveal())), nil
}

// normalID returns a GUID in lower case, from its one form with hyphens.
func normalID(s string) (string, bool) {
	if len(s) != 36 {
		return "", false
	}
	id, err := uuid.Parse(s)
	return id.String(), err == nil
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
