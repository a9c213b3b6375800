package api

import (
	"encoding/base64"
	"encoding/json"
	"reflect"
)

// Base64URL is bytes that go over the wire as base64url without padding (RFC 7515 section 2). Reading is
// strict: no padding, no line breaks, no stray bits, so one value has one spelling.
type Base64URL []byte

// notBase64URL is the error of a string that is none. It is of this type because encoding/json fills in which member
// of the text it was.
func notBase64URL() error {
	return &json.UnmarshalTypeError{Value: "string", Type: reflect.TypeFor[Base64URL]()}
}

// MarshalJSON writes the bytes as a string; nil and empty are "".
func (b Base64URL) MarshalJSON() ([]byte, error) {
	out := make([]byte, 0, base64.RawURLEncoding.EncodedLen(len(b))+2)
	out = append(out, '"')
	out = base64.RawURLEncoding.AppendEncode(out, b)
	return append(out, '"'), nil
}

// UnmarshalJSON reads a string. The error is a *json.UnmarshalTypeError and never repeats the input.
func (b *Base64URL) UnmarshalJSON(data []byte) error {
	if string(data) == "null" {
		*b = nil
		return nil
	}
	var text string
	if err := json.Unmarshal(data, &text); err != nil || !b.take([]byte(text)) {
		return notBase64URL()
	}
	return nil
}

// JSONWebKey is the public part of a key.
type JSONWebKey struct {
	Kid    string    `json:"kid,omitempty"` // "https://host/keys/name/version"
	Kty    string    `json:"kty"`           // RSA-HSM, EC-HSM or oct-HSM
	KeyOps []string  `json:"key_ops,omitempty"`
	N      Base64URL `json:"n,omitempty"`
	E      Base64URL `json:"e,omitempty"`
	Crv    string    `json:"crv,omitempty"`
	X      Base64URL `json:"x,omitempty"` // fixed length of the curve's field
	Y      Base64URL `json:"y,omitempty"`
}

// KeyAttributes are times in whole Unix seconds and switches. In requests, absent means default or unchanged.
type KeyAttributes struct {
	Enabled         *bool  `json:"enabled,omitempty"`
	NotBefore       *int64 `json:"nbf,omitempty"`
	Expires         *int64 `json:"exp,omitempty"`
	Created         int64  `json:"created,omitempty"` // answers only
	Updated         int64  `json:"updated,omitempty"` // answers only
	RecoveryLevel   string `json:"recoveryLevel,omitempty"`
	RecoverableDays int    `json:"recoverableDays,omitempty"`
	Exportable      *bool  `json:"exportable,omitempty"`
	KeySize         int    `json:"key_size,omitempty"` // bits of RSA and oct keys; answers only, since api-version 2026-04-01
	// Attestation is in the answer of the attestation call only.
	Attestation *KeyAttestation `json:"attestation,omitempty"`
}

// KeyAttestation is the HSM's signed word about a key (docs: formats).
type KeyAttestation struct {
	CertificatePEMFile    Base64URL `json:"certificatePemFile"`
	PrivateKeyAttestation Base64URL `json:"privateKeyAttestation"`
	PublicKeyAttestation  Base64URL `json:"publicKeyAttestation,omitempty"` // not of oct keys
	Version               string    `json:"version"`
}

// ReleasePolicy says when an exportable key may leave.
type ReleasePolicy struct {
	ContentType string    `json:"contentType,omitempty"`
	Data        Base64URL `json:"data"` // JSON
	Immutable   *bool     `json:"immutable,omitempty"`
}

// KeyBundle is a key as clients see it.
type KeyBundle struct {
	Key        JSONWebKey        `json:"key"`
	Attributes KeyAttributes     `json:"attributes"`
	Tags       map[string]string `json:"tags,omitempty"`
	// ReleasePolicy is that of an exportable key.
	ReleasePolicy *ReleasePolicy `json:"release_policy,omitempty"`
}

// Deletion is what the answers about deleted keys say besides. Times are Unix seconds.
type Deletion struct {
	RecoveryID         string `json:"recoveryId"` // "https://host/deletedkeys/name"
	DeletedDate        int64  `json:"deletedDate"`
	ScheduledPurgeDate int64  `json:"scheduledPurgeDate"`
}

// DeletedKeyBundle is a deleted key, with its latest version.
type DeletedKeyBundle struct {
	KeyBundle
	Deletion
}

// KeyItem is a key in a list.
type KeyItem struct {
	Kid        string            `json:"kid"`
	Attributes KeyAttributes     `json:"attributes"`
	Tags       map[string]string `json:"tags,omitempty"`
	*Deletion                    // in lists of deleted keys only
}

// KeyList is one page of keys or versions. Clients follow NextLink as it is.
type KeyList struct {
	Value    []KeyItem `json:"value"`
	NextLink string    `json:"nextLink,omitempty"`
}

// CreateKeyRequest asks for a new key, or a new version of one.
type CreateKeyRequest struct {
	Kty            string            `json:"kty"`
	KeySize        int               `json:"key_size,omitempty"` // bits
	PublicExponent int               `json:"public_exponent,omitempty"`
	KeyOps         []string          `json:"key_ops,omitempty"`
	Crv            string            `json:"crv,omitempty"`
	Attributes     *KeyAttributes    `json:"attributes,omitempty"`
	Tags           map[string]string `json:"tags,omitempty"`
	ReleasePolicy  *ReleasePolicy    `json:"release_policy,omitempty"`
}

// ImportKeyRequest brings a key from outside.
type ImportKeyRequest struct {
	Key           ImportedKey       `json:"key"`
	HSM           *bool             `json:"Hsm,omitempty"` // every key here is one of an HSM; false is taken too
	Attributes    *KeyAttributes    `json:"attributes,omitempty"`
	Tags          map[string]string `json:"tags,omitempty"`
	ReleasePolicy *ReleasePolicy    `json:"release_policy,omitempty"`
}

// ImportedKey is a JWK with its private part (RFC 7518 section 6), or with a transfer blob instead of it. Wipe it.
type ImportedKey struct {
	Kty    string    `json:"kty"`
	KeyOps []string  `json:"key_ops,omitempty"`
	N      Base64URL `json:"n,omitempty"`
	E      Base64URL `json:"e,omitempty"`
	D      Base64URL `json:"d,omitempty"`
	DP     Base64URL `json:"dp,omitempty"`
	DQ     Base64URL `json:"dq,omitempty"`
	QI     Base64URL `json:"qi,omitempty"`
	P      Base64URL `json:"p,omitempty"`
	Q      Base64URL `json:"q,omitempty"`
	Crv    string    `json:"crv,omitempty"`
	X      Base64URL `json:"x,omitempty"`
	Y      Base64URL `json:"y,omitempty"`
	K      Base64URL `json:"k,omitempty"`
	// Transfer is a .byok file (BYOK transfer blob), wrapped for a key of the HSM.
	Transfer Base64URL `json:"key_hsm,omitempty"`
	// Others are the primes after the second. They are read only to be refused.
	Others json.RawMessage `json:"oth,omitempty"`
}

// Wipe clears the secrets.
func (k *ImportedKey) Wipe() {
	for _, b := range [][]byte{k.D, k.DP, k.DQ, k.QI, k.P, k.Q, k.K} {
		clear(b)
	}
}

// UpdateKeyRequest changes attributes, operations and tags of a version. An absent member leaves things as they are.
type UpdateKeyRequest struct {
	KeyOps     []string          `json:"key_ops,omitzero"` // empty but not nil: none
	Attributes *KeyAttributes    `json:"attributes,omitempty"`
	Tags       map[string]string `json:"tags,omitzero"` // empty but not nil: none
	// What a key keeps for ever. It is read so that an attempt to change it is refused, not ignored.
	Kty            string          `json:"kty,omitempty"`
	KeySize        int             `json:"key_size,omitempty"`
	PublicExponent int             `json:"public_exponent,omitempty"`
	Crv            string          `json:"crv,omitempty"`
	Key            json.RawMessage `json:"key,omitempty"`
	// ReleasePolicy can be changed until it is immutable.
	ReleasePolicy *ReleasePolicy `json:"release_policy,omitempty"`
}

// SignRequest asks for the signature of a digest.
type SignRequest struct {
	Alg   string    `json:"alg"`   // JWA name: RS256 … ES512, ES256K, HS256 …
	Value Base64URL `json:"value"` // the digest, as long as the algorithm's hash; of any length for HS*
}

// VerifyRequest asks whether Value is the signature of Digest.
type VerifyRequest struct {
	Alg    string    `json:"alg"`
	Digest Base64URL `json:"digest"`
	Value  Base64URL `json:"value"`
}

// KeyOperationRequest is the request of encrypt, decrypt, wrapkey and unwrapkey.
type KeyOperationRequest struct {
	Alg   string    `json:"alg"`          // RSA-OAEP, RSA-OAEP-256, A256GCM …
	Value Base64URL `json:"value"`        // the plaintext, or the ciphertext; nil when it is missing
	IV    Base64URL `json:"iv,omitempty"` // GCM: of decryption only; CBC
	AAD   Base64URL `json:"aad,omitempty"`
	Tag   Base64URL `json:"tag,omitempty"` // of decryption with GCM
}

// KeyOperationResult is the outcome of a cryptographic operation.
type KeyOperationResult struct {
	Kid   string    `json:"kid"` // with the version that was used
	Value Base64URL `json:"value"`
	Alg   string    `json:"alg,omitempty"`
	IV    Base64URL `json:"iv,omitempty"`  // of encryption with GCM and CBC
	Tag   Base64URL `json:"tag,omitempty"` // of encryption with GCM
	AAD   Base64URL `json:"aad,omitempty"` // as it was sent
}

// VerifyResult says whether a signature holds.
type VerifyResult struct {
	Value bool `json:"value"`
}

// BackupResult carries a key backup: the answer of backup and the request of restore.
type BackupResult struct {
	Value Base64URL `json:"value"`
}

// RandomRequest asks for random bytes.
type RandomRequest struct {
	Count int `json:"count"` // 1 to 128
}

// RandomResult carries them.
type RandomResult struct {
	Value Base64URL `json:"value"`
}

// RotationPolicy says when a key gets a new version. Durations are ISO 8601: "P90D". A policy without actions and
// expiry time is none, and removes the one that was there.
type RotationPolicy struct {
	ID              string                   `json:"id,omitempty"` // answers only
	LifetimeActions []LifetimeAction         `json:"lifetimeActions"`
	Attributes      RotationPolicyAttributes `json:"attributes"`
}

// LifetimeAction is what happens when.
type LifetimeAction struct {
	Trigger LifetimeTrigger    `json:"trigger"`
	Action  LifetimeActionType `json:"action"`
}

// LifetimeTrigger has one of its two members.
type LifetimeTrigger struct {
	TimeAfterCreate  string `json:"timeAfterCreate,omitempty"`
	TimeBeforeExpiry string `json:"timeBeforeExpiry,omitempty"`
}

// LifetimeActionType is "Rotate", in any case.
type LifetimeActionType struct {
	Type string `json:"type"`
}

// RotationPolicyAttributes has the life of versions made by rotation, and Unix seconds.
type RotationPolicyAttributes struct {
	ExpiryTime string `json:"expiryTime,omitempty"`
	Created    int64  `json:"created,omitempty"` // answers only
	Updated    int64  `json:"updated,omitempty"` // answers only
}
