package keys

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"math/big"

	"strongroom/internal/access"
	"strongroom/internal/engine"
	"strongroom/internal/failure"
)

// AttestationVersion names the form of an attestation (docs: formats).
const AttestationVersion = "STRONGROOM-1"

// attestationType is the typ of the statements' headers, so that no other statement of the domain can pass for one.
const attestationType = "strongroom-key-attestation+jws"

// Attestation is the HSM's signed word about a version of a key. Public is nil for oct keys.
type Attestation struct {
	Private     []byte // JWS about the private or secret part: where it is and what it may do
	Public      []byte // JWS about the public part
	Certificate []byte // of the key that signed both, DER
}

// statement is the payload of both.
type statement struct {
	Version    int      `json:"v"` // 1
	Part       string   `json:"part"`
	Kid        string   `json:"kid"`
	Domain     string   `json:"domain"` // ID of the security domain
	Type       string   `json:"kty"`
	Bits       int      `json:"key_size,omitempty"`
	Curve      string   `json:"crv,omitempty"`
	Ops        []string `json:"key_ops"`
	Origin     string   `json:"origin"` // generated or imported
	Exportable bool     `json:"exportable"`
	// PolicyHash is the hex SHA-256 of the release policy's data, where there is one.
	PolicyHash      string `json:"release_policy_sha256,omitempty"`
	PolicyImmutable bool   `json:"release_policy_immutable,omitempty"`
	Created         int64  `json:"created"` // Unix seconds
	Stated          int64  `json:"iat"`     // Unix seconds
	// Thumbprint is that of the public key by RFC 7638 with SHA-256, in both statements: it ties them together.
	Thumbprint string          `json:"jkt,omitempty"`
	Key        json.RawMessage `json:"jwk,omitempty"` // the public part only
}

// Attest states under the domain's signing key what a version of a key is: that its private part is held by an HSM of
// this domain, whether it was made there, what it may do, and what its public part is. kid makes the identifier of
// a version. It changes nothing, and works on a disabled key.
func (k *Keys) Attest(ctx context.Context, caller access.Caller, name, version string, kid func(name, version string) string) (Key, Attestation, error) {
	eng, lower, err := k.enterKey(ctx, caller, access.KeyRead, name)
	if err != nil {
		return Key{}, Attestation{}, err
	}
	if version, err = normalVersion(version); err != nil {
		return Key{}, Attestation{}, err
	}
	name, v, err := k.find(ctx, eng, lower, version)
	if err != nil {
		return Key{}, Attestation{}, err
	}
	domain, err := k.cfg.DomainID()
	if err != nil {
		return Key{}, Attestation{}, err
	}
	s := statement{Version: 1, Part: "private", Kid: kid(name, v.ID), Domain: domain, Type: string(v.Type), Bits: v.Bits, Curve: v.Curve,
		Ops: v.Ops, Origin: "generated", Exportable: v.Exportable, Created: v.Created, Stated: k.now().Unix()}
	if v.Imported {
		s.Origin = "imported"
	}
	if v.Release != nil {
		sum := sha256.Sum256(v.Release.Data)
		s.PolicyHash, s.PolicyImmutable = hex.EncodeToString(sum[:]), v.Release.Immutable
	}
	public := publicJWK(v.public())
	if public != nil {
		sum := sha256.Sum256(public)
		s.Thumbprint = base64.RawURLEncoding.EncodeToString(sum[:])
	}
	var a Attestation
	if a.Private, a.Certificate, err = k.state(ctx, s); err != nil {
		return Key{}, Attestation{}, err
	}
	if public != nil {
		s.Part, s.Key = "public", public
		if a.Public, _, err = k.state(ctx, s); err != nil {
			return Key{}, Attestation{}, err
		}
	}
	return k.key(name, v), a, nil
}

func (k *Keys) state(ctx context.Context, s statement) (jws, certificate []byte, err error) {
	payload, err := json.Marshal(s)
	if err != nil {
		return nil, nil, failure.Wrap(failure.Internal, err, "a statement cannot be encoded")
	}
	return k.cfg.Statement(ctx, attestationType, payload)
}

// publicJWK is the public part in the form of RFC 7638 section 3: the required members in order, without white space.
// Nil for an oct key.
func publicJWK(p engine.Public) []byte {
	number := func(n *big.Int, size int) string {
		if size == 0 {
			return base64.RawURLEncoding.EncodeToString(n.Bytes())
		}
		return base64.RawURLEncoding.EncodeToString(n.FillBytes(make([]byte, size)))
	}
	switch p.Type {
	case engine.RSA:
		return []byte(`{"e":"` + number(big.NewInt(int64(p.E)), 0) + `","kty":"RSA","n":"` + number(p.N, 0) + `"}`)
	case engine.EC:
		size := map[string]int{engine.P256: 32, engine.P256K: 32, engine.P384: 48, engine.P521: 66}[p.Curve]
		crv := p.Curve
		if crv == engine.P256K {
			crv = "secp256k1" // its registered name (RFC 8812 section 3.1)
		}
		return []byte(`{"crv":"` + crv + `","kty":"EC","x":"` + number(p.X, size) + `","y":"` + number(p.Y, size) + `"}`)
	}
	return nil
}
