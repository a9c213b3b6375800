package identity

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"strongroom/internal/access"
	"strongroom/internal/failure"
	"strongroom/internal/store"
	"strongroom/secret"
)

// A principal at rest, an application or a user, is one record:
//
//	identity/app/<client-id>    seal.Wrap of principalRecord as JSON, bound to this key
//	identity/user/<name>        the same; the name in lower case
//
// It is sealed so that a writer to the database cannot put in a secret of his own. The secret is kept as its
// SHA-256: it is 32 random bytes, which nobody guesses, so a slow password hash would only give strangers a way
// to keep the server busy. That is why passwords of users are made here too, and never chosen.
const (
	appPrefix     = "identity/app/"
	userPrefix    = "identity/user/"
	maxPrincipals = 1000 // of each class
	secretBytes   = 32
)

// class is a kind of those who sign in here. What differs between them is here, and the rest is shared.
type class struct {
	prefix  string // of the records; what they sign in with follows, in the form that normal gives it
	version int    // of the records that are written. Older ones are read
	noun    string // "application", with its article in one
	one     string
	id      string // what they sign in with
	secret  string // what they prove it with
	// mark begins their secrets, for people and secret scanners, and keeps them from beginning with "-", which command
	// lines read as a flag.
	mark    string
	missing string // code of the failure where there is none
	again   string // what to do when tokens were called back
	normal  func(id string) (string, bool)
}

var (
	applications = &class{
		prefix: appPrefix, version: 2, noun: "application", one: "an application", id: "client ID", secret: "secret", mark: "srs_", missing: "ApplicationNotFound",
		again: "sign in again, with its new secret", normal: normalID,
	}
	users = &class{
		prefix: userPrefix, version: 1, noun: "user", one: "a user", id: "name", secret: "password", mark: "srp_", missing: "UserNotFound",
		again: "sign in again, with the new password", normal: normalName,
	}
	classes = []*class{applications, users}
)

// principalRecord is a principal at rest. Version 1 of applications, which is read and not written, had neither Series
// nor SecretCreated.
type principalRecord struct {
	V             int       `json:"v"`
	ObjectID      string    `json:"object_id"`
	Name          string    `json:"name"`
	Hash          []byte    `json:"secret_sha256"`
	Created       time.Time `json:"created"`
	SecretCreated time.Time `json:"secret_created,omitzero"`
	// Series is the claim of that name in the principal's tokens. It grows when its tokens are called back, and
	// tokens with another number count no more.
	Series uint64 `json:"series,omitempty"`
}

// entry is a principal with what is not shown of it.
type entry struct {
	class         *class
	id            string // what it signs in with
	objectID      string
	name          string
	created       time.Time
	secretCreated time.Time
	hash          [sha256.Size]byte
	series        uint64
}

// Directory is the applications and users that the embedded issuer knows. It works on what the store holds, without an
// issuer that serves. Safe for concurrent use.
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
	if slices.ContainsFunc(keys, func(key string) bool { return strings.HasPrefix(key, appPrefix) || strings.HasPrefix(key, userPrefix) }) {
		d.changes.Add(1)
	}
}

// Generation implements [access.Standing]: it moves with each change of an application or a user, on whatever server.
func (d *Directory) Generation() uint64 { return d.changes.Load() }

// Check implements [access.Standing]: a token counts while its application or user is there and its series is that of
// their tokens. A user of the same name that was made later is somebody else.
func (d *Directory) Check(ctx context.Context, t access.Issued) error {
	c, id := applications, t.AppID
	if t.User != "" {
		c, id = users, t.User
	}
	var e entry
	err := d.cfg.Store.View(ctx, func(r store.Reader) (err error) {
		e, err = d.get(r, c, id)
		return err
	})
	switch {
	case errors.Is(err, failure.NotFound) || err == nil && t.User != "" && e.objectID != t.ObjectID:
		return failure.New(failure.Unauthorized, "the %s that the token was issued to has been deleted", c.noun)
	case err != nil:
		return store.Failure(err)
	case e.series != t.Series:
		return failure.New(failure.Unauthorized, "the tokens of this %s have been called back; %s", c.noun, c.again)
	}
	return nil
}

// ensure returns the principal of that name, making it if there is none. id is what a new one signs in with. The secret
// is empty unless created: an existing secret cannot be read, only replaced.
func (d *Directory) ensure(ctx context.Context, c *class, id, name string) (e entry, s secret.Bytes, created bool, err error) {
	objectID, err := uuid.NewRandomFromReader(d.cfg.Rand)
	if err != nil {
		return entry{}, secret.Bytes{}, false, failure.Wrap(failure.Internal, err, "no randomness for a new %s", c.noun)
	}
	if s, err = newSecret(d.cfg, c.mark); err != nil {
		return entry{}, secret.Bytes{}, false, err
	}
	err = d.cfg.Store.Update(ctx, func(w store.Writer) error {
		list, err := d.list(w, c)
		if err != nil {
			return err
		}
		for _, old := range list {
			if strings.EqualFold(old.name, name) {
				e = old
				return nil
			}
		}
		if len(list) >= maxPrincipals {
			return failure.New(failure.Conflict, "there are %d %ss, the limit; delete one first", len(list), c.noun)
		}
		now := d.second()
		e, created = entry{class: c, id: id, objectID: objectID.String(), name: name, created: now, secretCreated: now, hash: hashSecret(s.Reveal())}, true
		return d.put(w, e)
	})
	if err != nil || !created {
		s.Wipe()
		s = secret.Bytes{}
	}
	if err != nil {
		return entry{}, s, false, store.Failure(err)
	}
	if created {
		d.cfg.Log.InfoContext(ctx, c.noun+" registered", "id", e.id, "object_id", e.objectID)
	}
	return e, s, created, nil
}

// second is the time as records have it.
func (d *Directory) second() time.Time { return d.cfg.Now().UTC().Truncate(time.Second) }

// reset gives a principal a new secret. The old one stops with this call; what was issued for it stays good until it
// is over, unless revokeTokens: then it stops too, at once here and within a minute on other servers.
func (d *Directory) reset(ctx context.Context, c *class, id string, revokeTokens bool) (s secret.Bytes, err error) {
	if s, err = newSecret(d.cfg, c.mark); err != nil {
		return secret.Bytes{}, err
	}
	err = d.cfg.Store.Update(ctx, func(w store.Writer) error {
		e, err := d.get(w, c, id)
		if err != nil {
			return err
		}
		e.hash, e.secretCreated = hashSecret(s.Reveal()), d.second()
		if revokeTokens {
			e.series++
			forgetSignIns(w, e)
		}
		return d.put(w, e)
	})
	if err != nil {
		s.Wipe()
		return secret.Bytes{}, store.Failure(err)
	}
	d.cfg.Log.InfoContext(ctx, c.noun+" has a new "+c.secret, "id", id, "tokens_revoked", revokeTokens)
	return s, nil
}

// remove takes a principal away. It signs in no more, and what was issued to it stops, at once here and within a minute
// on other servers. Its role assignments stay without effect: nobody else ever has its object ID.
func (d *Directory) remove(ctx context.Context, c *class, id string) error {
	err := d.cfg.Store.Update(ctx, func(w store.Writer) error {
		e, err := d.get(w, c, id)
		if err != nil {
			return err
		}
		forgetSignIns(w, e)
		w.Delete(c.prefix + e.id)
		return nil
	})
	if err == nil {
		d.cfg.Log.InfoContext(ctx, c.noun+" deleted", "id", id)
	}
	return store.Failure(err)
}

// all returns all principals of a class, in the order of their IDs.
func (d *Directory) all(ctx context.Context, c *class) (list []entry, err error) {
	err = d.cfg.Store.View(ctx, func(r store.Reader) (err error) {
		list, err = d.list(r, c)
		return err
	})
	return list, store.Failure(err)
}

func (d *Directory) list(r store.Reader, c *class) ([]entry, error) {
	var list []entry
	for key, sealed := range r.Scan(c.prefix, "") {
		e, err := d.open(c, key, sealed)
		if err != nil {
			return nil, err
		}
		list = append(list, e)
	}
	return list, nil
}

func (d *Directory) get(r store.Reader, c *class, id string) (entry, error) {
	id, ok := c.normal(id)
	if ok {
		if sealed, found := r.Get(c.prefix + id); found {
			return d.open(c, c.prefix+id, sealed)
		}
	}
	return entry{}, failure.New(failure.NotFound, "there is no %s with that %s", c.noun, c.id)
}

func (d *Directory) put(w store.Writer, e entry) error {
	sealed, err := e.sealed(d.cfg)
	if err != nil {
		return err
	}
	w.Put(e.class.prefix+e.id, sealed)
	return nil
}

func (e entry) sealed(cfg Config) ([]byte, error) {
	text, err := json.Marshal(principalRecord{
		V: e.class.version, ObjectID: e.objectID, Name: e.name, Hash: e.hash[:], Created: e.created, SecretCreated: e.secretCreated, Series: e.series,
	})
	if err != nil {
		return nil, failure.Wrap(failure.Internal, err, "the %s cannot be written", e.class.noun)
	}
	sealed, err := cfg.Seal.Wrap(secret.Take(text), e.class.prefix+e.id)
	if err != nil {
		return nil, failure.Wrap(failure.Internal, err, "the %s cannot be sealed", e.class.noun)
	}
	return sealed, nil
}

func (d *Directory) open(c *class, key string, sealed []byte) (entry, error) {
	id := strings.TrimPrefix(key, c.prefix)
	text, err := d.cfg.Seal.Unwrap(sealed, key)
	if err != nil {
		return entry{}, failure.Wrap(failure.Tampered, err, "the record of %s %s was changed or moved in the database; restore the database from a copy, or delete the record", c.noun, id)
	}
	var rec principalRecord
	err = json.Unmarshal(text.Reveal(), &rec)
	switch {
	case err == nil && (rec.V < 1 || rec.V > c.version):
		knows := "1"
		if c.version > 1 {
			knows = fmt.Sprintf("1 to %d", c.version)
		}
		return entry{}, failure.New(failure.Unsupported, "the record of %s %s has format version %d and this program knows %s; run the program that wrote it, or a newer one", c.noun, id, rec.V, knows)
	case err != nil || len(rec.Hash) != sha256.Size:
		return entry{}, failure.New(failure.Tampered, "the record of %s %s is damaged", c.noun, id)
	}
	return entry{
		class: c, id: id, objectID: rec.ObjectID, name: rec.Name, created: rec.Created, secretCreated: rec.SecretCreated,
		hash: [sha256.Size]byte(rec.Hash), series: rec.Series,
	}, nil
}

// decoy is a principal that exists nowhere. A sign-in with an unknown ID opens it and compares with its hash, so that
// it does the same work as one with a wrong secret (threat A9).
type decoy struct {
	key    string
	sealed []byte
}

// newDecoys returns a decoy for each class.
func newDecoys(cfg Config) (map[*class]decoy, error) {
	decoys := map[*class]decoy{}
	for _, c := range classes {
		s, err := newSecret(cfg, c.mark)
		if err != nil {
			return nil, err
		}
		e := entry{class: c, id: nobody, objectID: nobody, name: "Strongroom decoy", created: cfg.Now().UTC(), hash: hashSecret(s.Reveal())}
		s.Wipe()
		sealed, err := e.sealed(cfg)
		if err != nil {
			return nil, err
		}
		decoys[c] = decoy{key: c.prefix + nobody, sealed: sealed}
	}
	return decoys, nil
}

// nobody is an ID that is never given out, and that no user's name looks like.
var nobody = uuid.Nil.String()

// signIn returns the principal that id and candidate belong to. Whether the ID is unknown or the secret wrong is not
// told, and takes the same steps: one look-up, one opening, one comparison in constant time.
func (i *Issuer) signIn(ctx context.Context, c *class, id string, candidate secret.Bytes) (e entry, ok bool, err error) {
	id, valid := c.normal(id)
	if !valid {
		id = nobody
	}
	key, sealed, found := c.prefix+id, []byte(nil), false
	err = i.cfg.Store.View(ctx, func(r store.Reader) error {
		sealed, found = r.Get(key)
		return nil
	})
	if err != nil {
		return entry{}, false, store.Failure(err)
	}
	if !found {
		key, sealed = i.decoys[c].key, i.decoys[c].sealed
	}
	e, err = i.open(c, key, sealed)
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

// newSecret returns mark and 32 random bytes in base64url: 47 characters.
func newSecret(cfg Config, mark string) (secret.Bytes, error) {
	raw, err := secret.Random(cfg.Rand, secretBytes)
	if err != nil {
		return secret.Bytes{}, failure.Wrap(failure.Internal, err, "no randomness for a secret")
	}
	defer raw.Wipe()
	return secret.Take(base64.RawURLEncoding.AppendEncode([]byte(mark), raw.Reveal())), nil
}

// normalID returns a GUID in lower case, from its one form with hyphens.
func normalID(s string) (string, bool) {
	if len(s) != 36 {
		return "", false
	}
	id, err := uuid.Parse(s)
	return id.String(), err == nil
}
