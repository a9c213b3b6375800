package keys

import (
	"bytes"
	"context"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"strongroom/internal/engine"
	"strongroom/internal/failure"
	"strongroom/internal/store"
)

// What is stored for one HSM (docs: formats):
//
//	hsm/<id>/key/<name>            the key: its name as first written, and its versions in order of making
//	hsm/<id>/deletedkey/<name>     the same instead of it, of a key that is deleted
//	hsm/<id>/keyver/<name>/<seq>   one version; seq counts from 1 with eight digits
//	hsm/<id>/keypolicy/<name>      the rotation policy of a key, deleted or not, that has one
//	hsm/<id>/keycount              how many keys there are, deleted ones too, for the limit
//	hsm/<id>/keyserved             for how long the HSM has been served while deleted keys waited
//
// <name> is in lower case. Every value is JSON: {"v":3, "mac":…, "body":{…}}. The code is the engine's MAC over
// version, path and the bytes of body, so a record can neither be edited nor stand in another place. The key's record
// holds the codes of its versions' records and its policy's as well, so an older state of one of them is noticed; and a version
// after the last one that the key knows, versions without a key, or a key that is deleted and is not, show that the
// key's record is an older one or was dropped (a list does not show a dropped key; every call that names it does). What cannot be seen is the
// rollback or removal of a key with all its records at once.
//
// The material is besides sealed by the engine under the binding of [versionRecord.binding].
//
// Version 1 knew no deleted keys and no rotation policies, version 2 no oct keys, imported keys and release policies.
// Both are read, and written anew as version 3 whenever the record changes.
const recordVersion = 3

// keyRecord is the body of a key.
type keyRecord struct {
	Name     string       `json:"name"`
	Versions []versionRef `json:"versions"`
	Policy   []byte       `json:"policy,omitempty"`  // code of the rotation policy's record
	Deleted  *deletion    `json:"deleted,omitempty"` // set exactly under deletedkey/
}

// versionRef names a version and the code of its record.
type versionRef struct {
	ID  string `json:"id"`
	MAC []byte `json:"mac"`
}

// versionRecord is the body of a version. A single-key backup holds the same, with Sealed replaced by the
// exported form. Times are Unix seconds.
type versionRecord struct {
	ID        string            `json:"id"`
	Created   int64             `json:"created"`
	Updated   int64             `json:"updated"`
	Enabled   bool              `json:"enabled"`
	NotBefore *int64            `json:"nbf,omitempty"`
	Expires   *int64            `json:"exp,omitempty"`
	Ops       []string          `json:"key_ops"`
	Tags      map[string]string `json:"tags,omitempty"`

	// Release says when the key may leave; set exactly if Exportable. Once it is immutable it is part of the binding.
	Release *releasePolicy `json:"release_policy,omitempty"`
	// Imported says that the material came from outside.
	Imported bool `json:"imported,omitempty"`

	// Immutable: part of the binding.
	Type       engine.Type `json:"kty"`
	Bits       int         `json:"bits,omitempty"` // RSA and oct
	Curve      string      `json:"crv,omitempty"`  // EC
	Exportable bool        `json:"exportable"`
	HSM        bool        `json:"hsm"` // the key may only be used by an engine; always true

	// The public key: RSA n and e, or EC x and y, big-endian without leading zeros.
	N []byte `json:"n,omitempty"`
	E int    `json:"e,omitempty"`
	X []byte `json:"x,omitempty"`
	Y []byte `json:"y,omitempty"`

	Sealed []byte `json:"sealed"`
}

// countRecord is the body of the number of keys.
type countRecord struct {
	Keys int `json:"keys"`
}

func (k *Keys) path(parts ...string) string {
	return "hsm/" + k.cfg.HSM + "/" + strings.Join(parts, "/")
}

func (k *Keys) keyPath(lower string) string       { return k.path("key", lower) }
func (k *Keys) keyPrefix() string                 { return k.path("key", "") }
func (k *Keys) deletedPath(lower string) string   { return k.path("deletedkey", lower) }
func (k *Keys) deletedPrefix() string             { return k.path("deletedkey", "") }
func (k *Keys) policyPath(lower string) string    { return k.path("keypolicy", lower) }
func (k *Keys) policyPrefix() string              { return k.path("keypolicy", "") }
func (k *Keys) versionPrefix(lower string) string { return k.path("keyver", lower, "") }
func (k *Keys) versionPath(lower string, seq int) string {
	return fmt.Sprintf("%s%08d", k.versionPrefix(lower), seq)
}
func (k *Keys) countPath() string  { return k.path("keycount") }
func (k *Keys) servedPath() string { return k.path("keyserved") }

// fields encodes texts so that no two lists of them give the same bytes: each behind its length.
func fields(label string, list ...string) []byte {
	size := 4 + len(label)
	for _, f := range list {
		size += 4 + len(f)
	}
	b := appendField(make([]byte, 0, size), label)
	for _, f := range list {
		b = appendField(b, f)
	}
	return b
}

func appendField[T string | []byte](b []byte, f T) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(f)))
	return append(b, f...)
}

// binding is what seals a version's material to its place and to what may never change about it (K4).
func (v *versionRecord) binding(hsm, lower string) []byte {
	b := appendField(make([]byte, 0, 192), "strongroom/keys/binding/v1")
	return v.appendImmutable(appendField(b, hsm), lower)
}

// exportBinding is the same for a backup, which may move to another HSM of the domain.
func (v *versionRecord) exportBinding(lower string) []byte {
	return v.appendImmutable(appendField(make([]byte, 0, 192), "strongroom/keys/export/v1"), lower)
}

// appendImmutable appends the fields of what may never change.
func (v *versionRecord) appendImmutable(b []byte, lower string) []byte {
	var digits [20]byte
	b = appendField(appendField(appendField(b, lower), v.ID), string(v.Type))
	b = appendField(appendField(b, strconv.AppendInt(digits[:0], int64(v.Bits), 10)), v.Curve)
	b = appendField(appendField(b, strconv.FormatBool(v.Exportable)), strconv.FormatBool(v.HSM))
	if v.Release != nil && v.Release.Immutable {
		b = appendField(appendField(b, v.Release.ContentType), v.Release.Data)
	}
	return b
}

func (v *versionRecord) spec() engine.Spec {
	return engine.Spec{Type: v.Type, Bits: v.Bits, Curve: v.Curve}
}

func (v *versionRecord) ref(hsm, lower string) engine.Ref {
	return engine.Ref{Type: v.Type, Curve: v.Curve, Bits: v.Bits, Sealed: v.Sealed, Binding: v.binding(hsm, lower)}
}

// material fills in what the engine made.
func (v *versionRecord) material(made engine.Made) {
	v.Sealed = made.Sealed
	switch made.Public.Type {
	case engine.RSA:
		v.N, v.E = made.Public.N.Bytes(), made.Public.E
	case engine.EC:
		v.X, v.Y = made.Public.X.Bytes(), made.Public.Y.Bytes()
	}
}

func (v *versionRecord) public() engine.Public {
	p := engine.Public{Type: v.Type, E: v.E, Curve: v.Curve}
	switch v.Type {
	case engine.RSA:
		p.N = new(big.Int).SetBytes(v.N)
	case engine.EC:
		p.X, p.Y = new(big.Int).SetBytes(v.X), new(big.Int).SetBytes(v.Y)
	case engine.Oct:
		p.Bits = v.Bits
	}
	return p
}

func (k *Keys) attributes(v *versionRecord) Attributes {
	return Attributes{
		Enabled: v.Enabled, NotBefore: moment(v.NotBefore), Expires: moment(v.Expires),
		Created: time.Unix(v.Created, 0).UTC(), Updated: time.Unix(v.Updated, 0).UTC(),
		Exportable: v.Exportable, RecoverableDays: k.cfg.RetentionDays, RecoveryLevel: k.recoveryLevel(),
	}
}

func (k *Keys) key(name string, v *versionRecord) Key {
	return Key{
		Name: name, Version: v.ID, Public: v.public(), Ops: slices.Clone(v.Ops),
		Attributes: k.attributes(v), Tags: cloneTags(v.Tags), ReleasePolicy: v.Release.policy(),
	}
}

func moment(unix *int64) *time.Time {
	if unix == nil {
		return nil
	}
	t := time.Unix(*unix, 0).UTC()
	return &t
}

// envelope is the outer form of every record.
type envelope struct {
	Version int             `json:"v"`
	MAC     []byte          `json:"mac"`
	Body    json.RawMessage `json:"body"`
}

// plainEnvelope takes a record in the spelling of [put] apart without reading its body, which open believes only under
// its code: what else could stand there has none. It returns false for every other spelling.
func plainEnvelope(raw []byte) (e envelope, ok bool) {
	rest, ok := bytes.CutPrefix(raw, []byte(`{"v":`))
	if !ok || len(rest) < 2 || rest[0] < '1' || rest[0] > '9' {
		return envelope{}, false
	}
	e.Version = int(rest[0] - '0')
	if rest, ok = bytes.CutPrefix(rest[1:], []byte(`,"mac":"`)); !ok {
		return envelope{}, false
	}
	code, rest, ok := bytes.Cut(rest, []byte(`","body":`))
	if !ok || len(code) != base64.StdEncoding.EncodedLen(macSize) {
		return envelope{}, false
	}
	if e.MAC, _ = base64.StdEncoding.Strict().AppendDecode(make([]byte, 0, macSize+2), code); len(e.MAC) != macSize {
		return envelope{}, false
	}
	if e.Body, ok = bytes.CutSuffix(rest, []byte("}")); !ok {
		return envelope{}, false
	}
	return e, true
}

// macSize is how many bytes a record's code has.
const macSize = 32

// mac is the code of a record: over its version, where it is and what it says.
func mac(ctx context.Context, eng engine.Engine, version int, path string, body []byte) ([]byte, error) {
	const label = "strongroom/keys/record/v"
	text := macTexts.Get().(*[]byte)
	defer macTexts.Put(text)
	var digits [4]byte
	number := strconv.AppendInt(digits[:0], int64(version), 10)
	// As fields would, without a copy of the body for every record that is read.
	b := binary.BigEndian.AppendUint32((*text)[:0], uint32(len(label)+len(number)))
	b = append(append(b, label...), number...)
	b = appendField(appendField(b, path), body)
	*text = b
	return eng.MAC(ctx, b)
}

// macTexts are used again: a backup reads all records there are. Nothing in a record is a secret.
var macTexts = sync.Pool{New: func() any { return new([]byte) }}

// put writes a record and returns its code.
func put(ctx context.Context, eng engine.Engine, w store.Writer, path string, body any) ([]byte, error) {
	data, err := json.Marshal(body)
	if err != nil {
		return nil, failure.Wrap(failure.Internal, err, "a key record cannot be encoded")
	}
	code, err := mac(ctx, eng, recordVersion, path, data)
	if err != nil {
		return nil, engineFailure(err, "a key record")
	}
	// As json.Marshal writes an envelope, without reading all of the body once more.
	record := make([]byte, 0, len(data)+96)
	record = append(record, `{"v":`...)
	record = strconv.AppendInt(record, recordVersion, 10)
	record = append(record, `,"mac":"`...)
	record = base64.StdEncoding.AppendEncode(record, code)
	record = append(record, `","body":`...)
	record = append(append(record, data...), '}')
	w.Put(path, record)
	return code, nil
}

// open checks the record raw that was found at path, decodes it into body and returns its code.
func open(ctx context.Context, eng engine.Engine, path string, raw []byte, body any, what string) ([]byte, error) {
	e, plain := plainEnvelope(raw)
	if !plain {
		if err := strictDecode(raw, &e); err != nil {
			return nil, tampered(what, err)
		}
	}
	if e.Version < 1 || e.Version > recordVersion {
		return nil, failure.New(failure.Unsupported, "the stored record of %s has version %d and this server reads 1 to %d; run the newer server", what, e.Version, recordVersion)
	}
	code, err := mac(ctx, eng, e.Version, path, e.Body)
	if err != nil {
		return nil, engineFailure(err, what)
	}
	if subtle.ConstantTimeCompare(code, e.MAC) != 1 {
		return nil, tampered(what, errors.New("its authentication code does not fit"))
	}
	if err := strictDecode(e.Body, body); err != nil {
		return nil, tampered(what, err)
	}
	return code, nil
}

// strictDecode decodes exactly one JSON value with no unknown members.
func strictDecode(data []byte, into any) error {
	d := decoders.Get().(*decoder)
	d.from.Reset(data)
	begin := d.json.InputOffset()
	if err := d.json.Decode(into); err != nil {
		return errors.New("the JSON does not have the expected form") // the decoder's text may quote the input
	}
	if end := d.json.InputOffset() - begin; len(bytes.Trim(data[end:], " \t\r\n")) > 0 {
		return errors.New("something follows the JSON")
	}
	// One that has read its input to the end, and no other, begins anew with the next.
	if d.from.Len() == 0 && d.json.InputOffset()-begin == int64(len(data)) {
		d.from.Reset(nil)
		decoders.Put(d)
	}
	return nil
}

// decoder is a JSON decoder that is used again, with its buffer: a backup reads all records there are. What is secret in
// them is sealed.
type decoder struct {
	from bytes.Reader
	json *json.Decoder
}

var decoders = sync.Pool{New: func() any {
	d := new(decoder)
	d.json = json.NewDecoder(&d.from)
	d.json.DisallowUnknownFields()
	return d
}}

// loadKey returns the record of a key, or nil if there is no such key or it is deleted.
func (k *Keys) loadKey(ctx context.Context, eng engine.Engine, r store.Reader, lower string) (*keyRecord, error) {
	return k.load(ctx, eng, r, lower, false)
}

// loadDeleted returns the record of a deleted key, or nil if there is none of that name.
func (k *Keys) loadDeleted(ctx context.Context, eng engine.Engine, r store.Reader, lower string) (*keyRecord, error) {
	return k.load(ctx, eng, r, lower, true)
}

func (k *Keys) load(ctx context.Context, eng engine.Engine, r store.Reader, lower string, deleted bool) (*keyRecord, error) {
	here, there := k.keyPath(lower), k.deletedPath(lower)
	if deleted {
		here, there = there, here
	}
	if raw, ok := r.Get(here); ok {
		return k.openKey(ctx, eng, r, lower, deleted, raw)
	}
	if _, ok := r.Get(there); !ok {
		for range r.Scan(k.versionPrefix(lower), "") {
			return nil, tampered("key "+lower, errors.New("it has versions and no record of its own"))
		}
	}
	return nil, nil
}

// openKey reads the record of a key that was found among those in use, or among the deleted ones.
func (k *Keys) openKey(ctx context.Context, eng engine.Engine, r store.Reader, lower string, deleted bool, raw []byte) (*keyRecord, error) {
	what := "key " + lower
	here, there := k.keyPath(lower), k.deletedPath(lower)
	if deleted {
		here, there = there, here
	}
	rec := new(keyRecord)
	if _, err := open(ctx, eng, here, raw, rec, what); err != nil {
		return nil, err
	}
	if name, err := normalName(rec.Name); err != nil || name != lower || len(rec.Versions) == 0 || (rec.Deleted != nil) != deleted {
		return nil, tampered(what, errors.New("its record contradicts itself"))
	}
	if _, twice := r.Get(there); twice {
		return nil, tampered(what, errors.New("it is both in use and deleted"))
	}
	for range r.Scan(k.versionPrefix(lower), k.versionPath(lower, len(rec.Versions))) {
		return nil, tampered(what, errors.New("it has a version that its record does not know"))
	}
	return rec, nil
}

// loadVersion returns the version at an index of rec.Versions.
func (k *Keys) loadVersion(ctx context.Context, eng engine.Engine, r store.Reader, lower string, rec *keyRecord, index int) (*versionRecord, error) {
	ref := rec.Versions[index]
	what := describe(rec.Name, ref.ID)
	path := k.versionPath(lower, index+1)
	raw, ok := r.Get(path)
	if !ok {
		return nil, tampered(what, errors.New("its record is gone"))
	}
	v := new(versionRecord)
	code, err := open(ctx, eng, path, raw, v, what)
	if err != nil {
		return nil, err
	}
	if subtle.ConstantTimeCompare(code, ref.MAC) != 1 || v.ID != ref.ID {
		return nil, tampered(what, errors.New("it is not in the state that the key's record knows"))
	}
	return v, nil
}

// find returns the name of a key, as first written, and one of its versions; version "" is the latest. Whoever wants to change
// something uses lookUp, inside the transaction.
func (k *Keys) find(ctx context.Context, eng engine.Engine, lower, version string) (name string, v *versionRecord, err error) {
	name, v, seen := k.cache.get(eng, lower, version)
	if v != nil {
		return name, v, nil
	}
	return k.read(ctx, eng, lower, version, seen)
}

// read is find past the cache.
func (k *Keys) read(ctx context.Context, eng engine.Engine, lower, version string, seen uint64) (name string, v *versionRecord, err error) {
	var rec *keyRecord
	err = k.cfg.Store.View(ctx, func(r store.Reader) error {
		rec, v, _, err = k.lookUp(ctx, eng, r, lower, version)
		return err
	})
	if err != nil {
		return "", nil, store.Failure(err)
	}
	k.cache.put(eng, lower, rec, v, seen)
	return rec.Name, v, nil
}

// lookUp is find inside a transaction. It also returns where in rec.Versions the version is.
func (k *Keys) lookUp(ctx context.Context, eng engine.Engine, r store.Reader, lower, version string) (*keyRecord, *versionRecord, int, error) {
	rec, err := k.loadKey(ctx, eng, r, lower)
	if err != nil {
		return nil, nil, 0, err
	}
	if rec == nil {
		return nil, nil, 0, notFound(lower)
	}
	index := len(rec.Versions) - 1
	if version != "" {
		index = slices.IndexFunc(rec.Versions, func(ref versionRef) bool { return ref.ID == version })
	}
	if index < 0 {
		return nil, nil, 0, versionNotFound(rec.Name, version)
	}
	v, err := k.loadVersion(ctx, eng, r, lower, rec, index)
	if err != nil {
		return nil, nil, 0, err
	}
	return rec, v, index, nil
}

// count returns how many keys there are.
func (k *Keys) count(ctx context.Context, eng engine.Engine, r store.Reader) (int, error) {
	raw, ok := r.Get(k.countPath())
	if !ok {
		for _, prefix := range []string{k.keyPrefix(), k.deletedPrefix()} {
			for range r.Scan(prefix, "") {
				return 0, tampered("the number of keys", errors.New("it is gone"))
			}
		}
		return 0, nil
	}
	var c countRecord
	if _, err := open(ctx, eng, k.countPath(), raw, &c, "the number of keys"); err != nil {
		return 0, err
	}
	return c.Keys, nil
}

// insert writes versions behind those that a key has, and makes the key if rec is nil. It checks both limits, and
// that no deleted key has the name.
func (k *Keys) insert(ctx context.Context, eng engine.Engine, w store.Writer, name, lower string, rec *keyRecord, versions []*versionRecord) error {
	if rec == nil {
		rec = &keyRecord{Name: name}
		if err := k.nameFree(ctx, eng, w, lower); err != nil {
			return err
		}
		count, err := k.count(ctx, eng, w)
		if err != nil {
			return err
		}
		if err := k.roomForKey(count); err != nil {
			return err
		}
		if _, err := put(ctx, eng, w, k.countPath(), countRecord{Keys: count + 1}); err != nil {
			return err
		}
	}
	for _, v := range versions {
		if err := roomForVersion(rec); err != nil {
			return err
		}
		if slices.ContainsFunc(rec.Versions, func(ref versionRef) bool { return ref.ID == v.ID }) {
			return failure.New(failure.Internal, "a version ID was drawn twice; the server's randomness is broken")
		}
		code, err := put(ctx, eng, w, k.versionPath(lower, len(rec.Versions)+1), v)
		if err != nil {
			return err
		}
		rec.Versions = append(rec.Versions, versionRef{ID: v.ID, MAC: code})
	}
	_, err := put(ctx, eng, w, k.keyPath(lower), rec)
	return err
}

func (k *Keys) roomForKey(count int) error {
	if count >= k.cfg.MaxKeys {
		return failure.New(failure.Conflict, "this HSM has %d keys, its limit; delete and purge keys that are no longer needed, or have the server's operator raise keys_per_hsm", count)
	}
	return nil
}

func roomForVersion(rec *keyRecord) error {
	if len(rec.Versions) >= MaxVersions {
		return failure.New(failure.Conflict, "key %s has %d versions, the limit; make a key of another name", rec.Name, len(rec.Versions))
	}
	return nil
}
