package hsm

import (
	"encoding/json"
	"strconv"
	"strings"
	"time"

	"strongroom/internal/failure"
	"strongroom/internal/store"
	"strongroom/secret"
)

// State is where an HSM is on its way to being usable (design: the state machine).
type State string

const (
	// Provisioned: the HSM exists and nobody owns it. Only the security domain can be acted on.
	Provisioned State = "provisioned"
	// Recovering: the HSM has shown an exchange key and waits for a transfer file.
	Recovering State = "recovering"
	// Activated: the HSM has a security domain and serves keys.
	Activated State = "activated"
)

// recordVersion is the version of the JSON below. Version 1 knew no restores; it is read, and a record that says nothing
// of them is still written as one, so that the program before this one reads it.
const recordVersion = 2

// record is everything that one HSM is, apart from its keys and roles. It is one record on purpose: every step
// of the state machine is one put, so a crash leaves the state before or the state after.
//
//	hsm/<id>/record     seal.Wrap of this as JSON, bound to that key
//	hsm-name/<lower>    the id, so that a name is taken once, whatever its spelling
//
// The whole record is sealed, although only parts of it are secret: a writer to the database who lacks the seal
// can then drop a record or put an older one back, and nothing else.
type record struct {
	V    int    `json:"v"`
	ID   string `json:"id"`   // UUID; never changes, never reused
	Name string `json:"name"` // as first written; compared without case

	State    State           `json:"state"`
	Domain   *domainRecord   `json:"domain,omitempty"`   // set exactly when Activated
	Exchange *exchangeRecord `json:"exchange,omitempty"` // set exactly when Recovering
	Last     *operation      `json:"last_operation,omitempty"`
	Port     int             `json:"port,omitempty"` // own port on loopback, in development

	Subscription  string            `json:"subscription"`
	ResourceGroup string            `json:"resource_group"`
	Location      string            `json:"location"`
	Tenant        string            `json:"tenant"`
	Tags          map[string]string `json:"tags,omitempty"`
	Admins        []string          `json:"initial_admins"`
	Retention     int               `json:"retention_days"`
	PurgeProtect  bool              `json:"purge_protection,omitempty"`
	NetworkACLs   json.RawMessage   `json:"network_acls,omitempty"`
	Created       time.Time         `json:"created"`
	Updated       time.Time         `json:"updated"`
	Deleted       *deletion         `json:"deleted,omitempty"`

	// Places counts the places that this HSM's keys, roles and settings have had (see [record.place]), and Current is
	// the one that is in use; 0 is the first. Restoring is set while a restore fills the next one, and Previous is what a restore replaced.
	Places    int           `json:"places,omitempty"`
	Current   int           `json:"current_place,omitempty"`
	Restoring *restoring    `json:"restoring,omitempty"`
	Previous  *restorePoint `json:"restore_point,omitempty"`
}

// domainRecord is the security domain at rest: its items, sealed.
type domainRecord struct {
	ID        string    `json:"id"`     // hex SHA-256 of the signing key's SPKI
	Sealed    []byte    `json:"sealed"` // seal.Wrap of sealedItems, bound to domainContext
	Activated time.Time `json:"activated"`
	Origin    string    `json:"origin"` // "download" or "upload"
	// What the newest SD file made here looks like; nil on a recovered HSM that has made none.
	File *fileSummary `json:"file,omitempty"`
}

// fileSummary is what is worth remembering of an SD file that was handed out. Public facts only.
type fileSummary struct {
	Created    time.Time          `json:"created"`
	Required   int                `json:"required"`
	Custodians []custodianSummary `json:"custodians"`
}

type custodianSummary struct {
	Label      string `json:"label"`
	Thumbprint string `json:"x5t_256"`
}

// exchangeRecord is the exchange key of a recovery under way.
type exchangeRecord struct {
	Certificate []byte    `json:"certificate"` // DER
	Sealed      []byte    `json:"sealed"`      // seal.Wrap of the PKCS #8 private key, bound to exchangeContext
	Created     time.Time `json:"created"`
}

// operation is the newest security-domain operation, for clients that poll. It survives the change of state and
// a restart, because one client polls the upload route after a download, and another only after five seconds.
type operation struct {
	Kind    string    `json:"kind"` // "download" or "upload"
	Started time.Time `json:"started"`
}

type deletion struct {
	At    time.Time `json:"at"`
	Purge time.Time `json:"purge"`
}

// restoring is a restore under way.
type restoring struct {
	Job     string    `json:"job"`
	Place   int       `json:"place"`
	Started time.Time `json:"started"`
}

// restorePoint is what was there before a restore.
type restorePoint struct {
	Job      string    `json:"job"` // that replaced it
	Place    int       `json:"place"`
	Replaced time.Time `json:"replaced"`
}

// place is where the HSM's keys, roles and settings lie in the store, and part of what binds them: the ID of the HSM in
// their paths (hsm/<place>/key/…). A restore fills a new place and then changes which one is in use, in this record: so
// what it brings is there whole or not at all, and what was there before stays until it is given up.
func (r *record) place() string { return placeName(r.ID, r.Current) }

func placeName(id string, n int) string {
	if n == 0 {
		return id // as it was before there were places
	}
	return id + "." + strconv.Itoa(n)
}

func recordKey(id string) string     { return "hsm/" + id + "/record" }
func nameKey(name string) string     { return "hsm-name/" + strings.ToLower(name) }
func domainContext(r *record) string { return "hsm/" + r.ID + "/domain/" + r.Domain.ID }
func exchangeContext(r *record) string {
	return "hsm/" + r.ID + "/exchange/" + thumbprintHex(r.Exchange.Certificate)
}

// restored reports whether the record says something that version 1 cannot.
func (r *record) restored() bool {
	return r.Places != 0 || r.Current != 0 || r.Restoring != nil || r.Previous != nil
}

// placesHold reports whether the places make sense: no two uses of one place, and none that was never made.
func (r *record) placesHold() bool {
	made := func(n int) bool { return 0 <= n && n <= r.Places }
	return made(r.Current) &&
		(r.Restoring == nil || r.Restoring.Place == r.Places && r.Restoring.Place != r.Current) &&
		(r.Previous == nil || made(r.Previous.Place) && r.Previous.Place != r.Current && (r.Restoring == nil || r.Previous.Place != r.Restoring.Place))
}

// load reads and checks a record. A record under another HSM's key, of an unknown version or in a state that
// its parts do not fit is refused: nothing in here is guessed.
func (s *Service) load(r store.Reader, id string) (*record, error) {
	sealed, ok := r.Get(recordKey(id))
	if !ok {
		return nil, failure.Coded(failure.NotFound, "ManagedHsmNotFound", "no such HSM")
	}
	plain, err := s.cfg.Seal.Unwrap(sealed, recordKey(id))
	if err != nil {
		return nil, failure.Wrap(failure.Tampered, err, "the record of HSM %s was changed, moved, or sealed by another seal; restore the database from a copy", id)
	}
	var rec record
	if err := json.Unmarshal(plain.Reveal(), &rec); err != nil {
		return nil, failure.Wrap(failure.Tampered, err, "the record of HSM %s cannot be read; restore the database from a copy", id)
	}
	if rec.V < 1 || rec.V > recordVersion {
		return nil, failure.New(failure.Unsupported, "the record of HSM %s has version %d, and this server reads 1 to %d; run the release that wrote it", id, rec.V, recordVersion)
	}
	whole := rec.ID == id && rec.Name != "" && rec.placesHold() && (rec.V > 1 || !rec.restored())
	switch rec.State {
	case Provisioned:
		whole = whole && rec.Domain == nil && rec.Exchange == nil
	case Recovering:
		whole = whole && rec.Domain == nil && rec.Exchange != nil
	case Activated:
		whole = whole && rec.Domain != nil && rec.Exchange == nil
	default:
		whole = false
	}
	if !whole {
		return nil, failure.New(failure.Tampered, "the record of HSM %s contradicts itself (state %q); restore the database from a copy", id, rec.State)
	}
	return &rec, nil
}

// save writes a record; the caller is inside an update and has just loaded it there.
func (s *Service) save(w store.Writer, rec *record, now time.Time) error {
	rec.V, rec.Updated = 1, now
	if rec.restored() {
		rec.V = recordVersion
	}
	raw, err := json.Marshal(rec)
	if err != nil {
		return failure.Wrap(failure.Internal, err, "the HSM's record cannot be written")
	}
	sealed, err := s.cfg.Seal.Wrap(secret.Take(raw), recordKey(rec.ID))
	if err != nil {
		return failure.Wrap(failure.Internal, err, "the HSM's record cannot be sealed")
	}
	w.Put(recordKey(rec.ID), sealed)
	return nil
}

// idOf finds an HSM by name, deleted ones too.
func idOf(r store.Reader, name string) (string, bool) {
	raw, ok := r.Get(nameKey(name))
	return string(raw), ok
}
