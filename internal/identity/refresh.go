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
	"time"

	"github.com/google/uuid"

	"strongroom/internal/failure"
	"strongroom/internal/store"
	"strongroom/secret"
)

// A sign-in of a user that is given a refresh token is one record, and all refresh tokens that follow from it are a
// family:
//
//	identity/refresh/<object-id>/<family-id>    seal.Wrap of signInRecord as JSON, bound to this key
//
// The client has one token of the family that is good; each use ends it and gives the next (RFC 9700 section 4.14). The
// record has the hashes of that one and of those that were used a moment ago. IDs of families are random, and are in tokens
// and nowhere else: who presents another secret with one has had a token of that family which was used already, so either
// he or the client is a thief, and the family ends.
const (
	refreshPrefix  = "identity/refresh/"
	refreshVersion = 2
	refreshMark    = "srr_"

	// refreshLifetime is how long a sign-in lasts, however often its token is renewed: a working day.
	refreshLifetime = 12 * time.Hour
	// maxSignIns is the most sign-ins of one user that can be renewed. One more ends the oldest.
	maxSignIns = 20
	// refreshGrace is how long after its use a token still gets an access token, and no refresh token. Commands of az that
	// run side by side share the refresh token on disk: two use the same at the same moment, and one that is slow comes with
	// it after another has used the next. Each but the first would end the family of them all. A thief who comes within
	// that time gains an hour at most, and is found out when he, or the client he robbed, comes again.
	refreshGrace = 30 * time.Second
	// maxUsed is how many used tokens of a family are in their grace at once. One more ends that of the oldest.
	maxUsed = 16
	// sweepEvery is how often sign-ins of all users that are over are taken out of the database, by the next one that is
	// made.
	sweepEvery = time.Hour
)

type signInRecord struct {
	V        int       `json:"v"`
	User     string    `json:"user"` // name, in lower case
	ClientID string    `json:"client_id"`
	Series   uint64    `json:"series,omitempty"` // of the user, when the sign-in was made
	Hash     []byte    `json:"token_sha256"`
	Created  time.Time `json:"created"`
	// Used are the tokens that were used within the grace before the last use, in the order of their use.
	Used []usedToken `json:"used,omitempty"`

	// Of version 1, which knew the last of them only.
	Previous []byte    `json:"previous_sha256,omitempty"`
	Rotated  time.Time `json:"rotated,omitzero"`
}

type usedToken struct {
	Hash []byte    `json:"token_sha256"`
	At   time.Time `json:"at"`
}

// inGrace reports whether its grace is not over. A clock that was set back makes it no longer than that.
func (u usedToken) inGrace(now time.Time) bool { return now.Sub(u.At).Abs() < refreshGrace }

// use puts next in the place of the token that is good.
func (s *signInRecord) use(next []byte, now, second time.Time) {
	s.Used = slices.DeleteFunc(s.Used, func(u usedToken) bool { return !u.inGrace(now) })
	s.Used = append(s.Used, usedToken{s.Hash, second})
	s.Used = s.Used[max(0, len(s.Used)-maxUsed):]
	s.Hash = next
}

// late reports whether a token was used a moment ago.
func (s *signInRecord) late(presented []byte, now time.Time) bool {
	is := 0
	for _, u := range s.Used {
		if u.inGrace(now) {
			is |= subtle.ConstantTimeCompare(presented, u.Hash)
		}
	}
	return is == 1
}

// over reports whether the sign-in has ended by its age. A clock that was set back makes it no older.
func (s signInRecord) over(now time.Time) bool { return now.Sub(s.Created) >= refreshLifetime }

// refreshToken is what a client holds: "srr_" and object ID ‖ family ID ‖ 32 random bytes, in base64url. The random bytes
// are the secret.
type refreshToken struct {
	objectID, family uuid.UUID
	secret           secret.Bytes
}

const (
	refreshBytes = 16 + 16 + secretBytes
	refreshChars = len(refreshMark) + (refreshBytes*8+5)/6
)

func (t refreshToken) key() string {
	return refreshPrefix + t.objectID.String() + "/" + t.family.String()
}

// text is the token as it goes to the client.
func (t refreshToken) text() string {
	raw := make([]byte, 0, refreshBytes)
	raw = append(append(append(raw, t.objectID[:]...), t.family[:]...), t.secret.Reveal()...)
	defer clear(raw)
	return refreshMark + base64.RawURLEncoding.EncodeToString(raw)
}

// parseRefreshToken reads what a client sent. A token has one spelling.
func parseRefreshToken(text string) (t refreshToken, ok bool) {
	encoded, marked := strings.CutPrefix(text, refreshMark)
	if !marked || len(text) != refreshChars || strings.ContainsAny(encoded, "\r\n") {
		return refreshToken{}, false
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(encoded)
	if err != nil || len(raw) != refreshBytes {
		return refreshToken{}, false
	}
	return refreshToken{objectID: uuid.UUID(raw[:16]), family: uuid.UUID(raw[16:32]), secret: secret.Take(raw[32:])}, true
}

// hashRefresh is SHA-256 with a prefix of its own, so that the hash is of use nowhere else.
func hashRefresh(s secret.Bytes) []byte {
	h := sha256.New()
	h.Write([]byte("strongroom refresh token v1\x00"))
	h.Write(s.Reveal())
	return h.Sum(nil)
}

// beginSignIn makes a family for a user who has just shown the password that e has, and returns its first token. It
// reports false when the user was deleted, or got another password, meanwhile.
func (i *Issuer) beginSignIn(ctx context.Context, e entry, clientID string) (t refreshToken, ok bool, err error) {
	if t.objectID, err = uuid.Parse(e.objectID); err == nil {
		t.family, err = uuid.NewRandomFromReader(i.cfg.Rand)
	}
	if err != nil {
		return refreshToken{}, false, failure.Wrap(failure.Internal, err, "no refresh token can be made")
	}
	if t.secret, err = secret.Random(i.cfg.Rand, secretBytes); err != nil {
		return refreshToken{}, false, failure.Wrap(failure.Internal, err, "no randomness for a refresh token")
	}
	now := i.cfg.Now()
	sweep := now.Sub(time.Unix(i.swept.Load(), 0)).Abs() >= sweepEvery
	err = i.cfg.Store.Update(ctx, func(w store.Writer) error {
		current, err := i.get(w, users, e.id)
		switch {
		case errors.Is(err, failure.NotFound) || err == nil && (current.objectID != e.objectID || current.hash != e.hash):
			return nil
		case err != nil:
			return err
		}
		ok = true
		if sweep {
			i.sweepSignIns(ctx, w, refreshPrefix, now)
		}
		i.boundSignIns(ctx, w, t.objectID.String(), now)
		return i.putSignIn(w, t.key(), signInRecord{User: e.id, ClientID: clientID, Series: e.series, Hash: hashRefresh(t.secret), Created: i.second()})
	})
	if err != nil || !ok {
		t.secret.Wipe()
		return refreshToken{}, false, store.Failure(err)
	}
	if sweep {
		i.swept.Store(now.Unix())
	}
	return t, true, nil
}

// renew takes a refresh token of a client and returns whose it is, and the token that follows, which is empty within the
// grace after its first use. It reports false for every token that is not good, whatever is wrong with it; whose it is,
// is known then only of one that was used before. A token that is good stays as it is if the request is refused for
// another reason.
func (i *Issuer) renew(ctx context.Context, t refreshToken, clientID string, refused bool) (e entry, next refreshToken, ok bool, err error) {
	known := false
	err = i.cfg.Store.View(ctx, func(r store.Reader) error {
		_, known = r.Get(t.key())
		return nil
	})
	if err != nil || !known { // strangers cause no writes
		return entry{}, refreshToken{}, false, store.Failure(err)
	}
	next = refreshToken{objectID: t.objectID, family: t.family}
	if next.secret, err = secret.Random(i.cfg.Rand, secretBytes); err != nil {
		return entry{}, refreshToken{}, false, failure.Wrap(failure.Internal, err, "no randomness for a refresh token")
	}
	now, presented, rotated, reused := i.cfg.Now(), hashRefresh(t.secret), false, false
	err = i.cfg.Store.Update(ctx, func(w store.Writer) error {
		sealed, found := w.Get(t.key())
		if !found {
			return nil
		}
		s, err := i.openSignIn(t.key(), sealed)
		if err != nil {
			return err
		}
		u, err := i.get(w, users, s.User)
		switch {
		case errors.Is(err, failure.NotFound) || err == nil && (u.objectID != t.objectID.String() || u.series != s.Series) || s.over(now):
			w.Delete(t.key())
			return nil
		case err != nil:
			return err
		}
		current := subtle.ConstantTimeCompare(presented, s.Hash) == 1
		late := s.late(presented, now)
		switch {
		case !current && !late:
			e, reused = u, true
			w.Delete(t.key())
		case s.ClientID != clientID:
		default:
			e, ok = u, true
			if current && !refused {
				rotated = true
				s.use(hashRefresh(next.secret), now, i.second())
				return i.putSignIn(w, t.key(), s)
			}
		}
		return nil
	})
	if err != nil || !rotated {
		next.secret.Wipe()
		next = refreshToken{}
	}
	if err != nil {
		return entry{}, next, false, store.Failure(err)
	}
	if reused {
		i.cfg.Log.WarnContext(ctx, "a refresh token was presented that had been used before: somebody may have stolen it; its sign-in has been ended", "user", e.id, "object_id", e.objectID)
	}
	return e, next, ok, nil
}

func (d *Directory) putSignIn(w store.Writer, key string, s signInRecord) error {
	s.V = refreshVersion
	text, err := json.Marshal(s)
	if err != nil {
		return failure.Wrap(failure.Internal, err, "the sign-in cannot be written")
	}
	sealed, err := d.cfg.Seal.Wrap(secret.Take(text), key)
	if err != nil {
		return failure.Wrap(failure.Internal, err, "the sign-in cannot be sealed")
	}
	w.Put(key, sealed)
	return nil
}

func (d *Directory) openSignIn(key string, sealed []byte) (s signInRecord, err error) {
	text, err := d.cfg.Seal.Unwrap(sealed, key)
	if err != nil {
		return s, failure.Wrap(failure.Tampered, err, "the record of a sign-in was changed or moved in the database; delete it (%s), and have the user sign in again", key)
	}
	err = json.Unmarshal(text.Reveal(), &s)
	if s.V == 1 && s.Previous != nil {
		s.Used = []usedToken{{s.Previous, s.Rotated}}
	}
	s.Previous, s.Rotated = nil, time.Time{}
	switch {
	case err == nil && s.V != 1 && s.V != refreshVersion:
		return s, failure.New(failure.Unsupported, "the record of a sign-in has format version %d and this program knows %d; run the program that wrote it, or a newer one", s.V, refreshVersion)
	case err != nil || len(s.Hash) != sha256.Size || len(s.Used) > maxUsed || slices.ContainsFunc(s.Used, func(u usedToken) bool { return len(u.Hash) != sha256.Size }):
		return s, failure.New(failure.Tampered, "the record of a sign-in is damaged")
	}
	return s, nil
}

// sweepSignIns takes out what is over below a prefix, and what no program can use any more because it does not open. It
// returns the rest, by key.
func (d *Directory) sweepSignIns(ctx context.Context, w store.Writer, prefix string, now time.Time) map[string]signInRecord {
	rest := map[string]signInRecord{}
	for key, sealed := range w.Scan(prefix, "") {
		s, err := d.openSignIn(key, sealed)
		if err != nil {
			d.cfg.Log.ErrorContext(ctx, "the record of a sign-in does not open, and is deleted; whoever it was of signs in again", "error", err)
		} else if !s.over(now) {
			rest[key] = s
			continue
		}
		w.Delete(key)
	}
	return rest
}

// boundSignIns makes room for one more sign-in of a user.
func (d *Directory) boundSignIns(ctx context.Context, w store.Writer, objectID string, now time.Time) {
	rest := d.sweepSignIns(ctx, w, refreshPrefix+objectID+"/", now)
	for len(rest) >= maxSignIns {
		oldest := ""
		for key, s := range rest {
			if oldest == "" || s.Created.Before(rest[oldest].Created) {
				oldest = key
			}
		}
		w.Delete(oldest)
		delete(rest, oldest)
	}
}

// forgetSignIns ends all sign-ins of a user.
func forgetSignIns(w store.Writer, e entry) {
	if e.class != users {
		return
	}
	for key := range w.Scan(refreshPrefix+e.objectID+"/", "") {
		w.Delete(key)
	}
}
