package identity

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"

	"strongroom/internal/failure"
	"strongroom/internal/store"
	"strongroom/secret"
)

// App is a registered application. Nothing in it is secret.
type App struct {
	ClientID string // GUID, lower case: what the application signs in with
	ObjectID string // GUID: the principal that roles are assigned to
	Name     string
	Created  time.Time
}

// An application at rest is one record:
//
//	identity/app/<client-id>    seal.Wrap of appRecord as JSON, bound to this key
//
// It is sealed so that a writer to the database cannot put in a secret of his own. The secret is kept as its
// SHA-256: it is 32 random bytes, which nobody guesses, so a slow password hash would only give strangers a way
// to keep the server busy.
const (
	appPrefix  = "identity/app/"
	appVersion = 1
	maxApps    = 1000

	// secretPrefix marks a client secret for people and secret scanners, and keeps it from beginning with "-",
	// which command lines read as a flag.
	secretPrefix = "srs_"
	secretBytes  = 32
)

type appRecord struct {
	V        int       `json:"v"`
	ObjectID string    `json:"object_id"`
	Name     string    `json:"name"`
	Hash     []byte    `json:"secret_sha256"`
	Created  time.Time `json:"created"`
}

// AddApplication registers an application under a name that no other has, and returns its secret, which is shown
// this once and cannot be read again.
func (i *Issuer) AddApplication(ctx context.Context, name string) (App, secret.Bytes, error) {
	app, s, created, err := i.EnsureApplication(ctx, name)
	if err == nil && !created {
		return App{}, secret.Bytes{}, failure.New(failure.Conflict, "there is an application of that name already; choose another name, or make a new secret for it")
	}
	return app, s, err
}

// EnsureApplication returns the application of that name, registering it if there is none. The secret is empty
// unless created: an existing secret cannot be read, only replaced with [Issuer.ResetSecret].
func (i *Issuer) EnsureApplication(ctx context.Context, name string) (app App, s secret.Bytes, created bool, err error) {
	if err := checkAppName(name); err != nil {
		return App{}, secret.Bytes{}, false, err
	}
	ids := [2]string{}
	for n := range ids {
		id, err := uuid.NewRandomFromReader(i.cfg.Rand)
		if err != nil {
			return App{}, secret.Bytes{}, false, failure.Wrap(failure.Internal, err, "no randomness for a new application")
		}
		ids[n] = id.String()
	}
	s, err = newSecret(i.cfg)
	if err != nil {
		return App{}, secret.Bytes{}, false, err
	}
	err = i.cfg.Store.Update(ctx, func(w store.Writer) error {
		list, err := i.list(w)
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
		app, created = App{ClientID: ids[0], ObjectID: ids[1], Name: name, Created: i.cfg.Now().UTC().Truncate(time.Second)}, true
		return i.put(w, app, hashSecret(s.Reveal()))
	})
	if err != nil || !created {
		s.Wipe()
		s = secret.Bytes{}
	}
	if err != nil {
		return App{}, s, false, store.Failure(err)
	}
	if created {
		i.cfg.Log.InfoContext(ctx, "application registered", "client_id", app.ClientID, "object_id", app.ObjectID)
	}
	return app, s, created, nil
}

// ResetSecret gives an application a new secret. The old one stops with this call; tokens issued to it stay good
// until they expire.
func (i *Issuer) ResetSecret(ctx context.Context, clientID string) (s secret.Bytes, err error) {
	if s, err = newSecret(i.cfg); err != nil {
		return secret.Bytes{}, err
	}
	err = i.cfg.Store.Update(ctx, func(w store.Writer) error {
		app, _, err := i.get(w, clientID)
		if err != nil {
			return err
		}
		return i.put(w, app, hashSecret(s.Reveal()))
	})
	if err != nil {
		s.Wipe()
		return secret.Bytes{}, store.Failure(err)
	}
	i.cfg.Log.InfoContext(ctx, "application secret replaced", "client_id", clientID)
	return s, nil
}

// DeleteApplication removes an application. It signs in no more; tokens it has stay good until they expire, and
// its role assignments stay without effect.
func (i *Issuer) DeleteApplication(ctx context.Context, clientID string) error {
	err := i.cfg.Store.Update(ctx, func(w store.Writer) error {
		app, _, err := i.get(w, clientID)
		if err != nil {
			return err
		}
		w.Delete(appPrefix + app.ClientID)
		return nil
	})
	if err == nil {
		i.cfg.Log.InfoContext(ctx, "application deleted", "client_id", clientID)
	}
	return store.Failure(err)
}

// ListApplications returns all applications, in the order of their client IDs.
func (i *Issuer) ListApplications(ctx context.Context) (list []App, err error) {
	err = i.cfg.Store.View(ctx, func(r store.Reader) (err error) {
		list, err = i.list(r)
		return err
	})
	return list, store.Failure(err)
}

func (i *Issuer) list(r store.Reader) ([]App, error) {
	var list []App
	for key, sealed := range r.Scan(appPrefix, "") {
		app, _, err := i.open(key, sealed)
		if err != nil {
			return nil, err
		}
		list = append(list, app)
	}
	return list, nil
}

func (i *Issuer) get(r store.Reader, clientID string) (App, [sha256.Size]byte, error) {
	id, ok := normalID(clientID)
	if ok {
		if sealed, found := r.Get(appPrefix + id); found {
			return i.open(appPrefix+id, sealed)
		}
	}
	return App{}, [sha256.Size]byte{}, failure.New(failure.NotFound, "there is no application with that client ID")
}

func (i *Issuer) put(w store.Writer, app App, hash [sha256.Size]byte) error {
	text, err := json.Marshal(appRecord{V: appVersion, ObjectID: app.ObjectID, Name: app.Name, Hash: hash[:], Created: app.Created})
	if err != nil {
		return failure.Wrap(failure.Internal, err, "the application cannot be written")
	}
	sealed, err := i.cfg.Seal.Wrap(secret.Take(text), appPrefix+app.ClientID)
	if err != nil {
		return failure.Wrap(failure.Internal, err, "the application cannot be sealed")
	}
	w.Put(appPrefix+app.ClientID, sealed)
	return nil
}

func (i *Issuer) open(key string, sealed []byte) (App, [sha256.Size]byte, error) {
	var none, hash [sha256.Size]byte
	clientID := strings.TrimPrefix(key, appPrefix)
	text, err := i.cfg.Seal.Unwrap(sealed, key)
	if err != nil {
		return App{}, none, failure.Wrap(failure.Tampered, err, "the record of application %s was changed or moved in the database; restore the database from a copy, or delete the record", clientID)
	}
	var rec appRecord
	err = json.Unmarshal(text.Reveal(), &rec)
	switch {
	case err == nil && rec.V != appVersion:
		return App{}, none, failure.New(failure.Unsupported, "the record of application %s has format version %d and this program knows %d; run the program that wrote it, or a newer one", clientID, rec.V, appVersion)
	case err != nil || len(rec.Hash) != len(hash):
		return App{}, none, failure.New(failure.Tampered, "the record of application %s is damaged", clientID)
	}
	copy(hash[:], rec.Hash)
	return App{ClientID: clientID, ObjectID: rec.ObjectID, Name: rec.Name, Created: rec.Created}, hash, nil
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
func (i *Issuer) signIn(ctx context.Context, clientID string, candidate secret.Bytes) (app App, ok bool, err error) {
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
		return App{}, false, store.Failure(err)
	}
	if !found {
		key, sealed = i.decoy.key, i.decoy.sealed
	}
	app, hash, err := i.open(key, sealed)
	if err != nil {
		return App{}, false, err
	}
	got := hashSecret(candidate.Reveal())
	if match := subtle.ConstantTimeCompare(got[:], hash[:]) == 1; !match || !found || !valid {
		return App{}, false, nil
	}
	return app, true, nil
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
	return nil
}
