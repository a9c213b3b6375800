package access

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"

	"strongroom/internal/failure"
	"strongroom/internal/strictjson"
)

// MaxAttestation bounds an attestation token, in bytes of the compact form. Those of virtual machines have up to 10 KiB.
const MaxAttestation = 32 << 10

var (
	attestationHeader = strictjson.Limits{Bytes: MaxAttestation, Depth: 4, Elements: 32, Values: 64, StringBytes: 4 << 10, FoldNames: true}
	attestationClaims = strictjson.Limits{Bytes: MaxAttestation, Depth: 16, Elements: 512, Values: 4096, StringBytes: MaxAttestation}
)

// leadAway are the header members that an attestation token must not have: those of bearer tokens, but for jku, which
// the authorities in the field write into each token. It is not looked at: keys come from the configured authority only.
var leadAway = slices.DeleteFunc(slices.Clone(followed), func(name string) bool { return name == "jku" })

// Attestation is what a verified attestation token says.
type Attestation struct {
	Authority string           // the claim iss: the URL of a configured authority
	Claims    strictjson.Value // an object
}

// Attestations verifies the tokens of attestation authorities, which state what runs where and with whose public key.
// Such a token lets nobody in. Safe for concurrent use.
type Attestations struct {
	authorities map[string]Issuer // by URL
	now         func() time.Time
}

// NewAttestations returns a verifier for authorities, each an [Issuer] from [OpenIssuer] or made alike, of which URL, Keys
// and Algorithms count. No authority at all is no mistake: then there is nobody who could attest anything.
func NewAttestations(authorities []Issuer, now func() time.Time) (*Attestations, error) {
	a := &Attestations{authorities: map[string]Issuer{}, now: now}
	for _, i := range authorities {
		switch {
		case i.URL == "":
			return nil, errors.New("access: an attestation authority has no URL")
		case i.Keys == nil:
			return nil, fmt.Errorf("access: attestation authority %s has no keys", i.URL)
		}
		if err := checkAlgorithms(i.URL, i.Algorithms); err != nil {
			return nil, err
		}
		if _, twice := a.authorities[i.URL]; twice {
			return nil, fmt.Errorf("access: attestation authority %s is configured twice", i.URL)
		}
		i.Algorithms = slices.Clone(i.Algorithms)
		a.authorities[i.URL] = i
	}
	return a, nil
}

// unverified is the answer to a token that is refused. The beginning of its text is Azure's, which clients look for.
func unverified(cause error, what string) error {
	return &failure.Error{Kind: failure.Forbidden, Code: "Forbidden", Cause: cause,
		Message: "Target environment attestation statement cannot be verified. " + what}
}

// Verify returns what an attestation token says. It demands: at most [MaxAttestation] bytes in three segments; the
// signature of a configured authority, with a key and an algorithm of that authority; iss, exp and nbf present; and the
// time between nbf and exp, give or take [Skew]. There is no aud: such tokens are made for whoever can judge them. No
// URL out of the token is ever asked. What is no such token in form is a failure.BadParameter, what does not hold a
// failure.Forbidden, and what cannot be judged now, because the authority's keys cannot be read, failure.Unavailable.
func (a *Attestations) Verify(ctx context.Context, raw string) (Attestation, error) {
	header, claims, err := splitAttestation(raw)
	if err != nil {
		return Attestation{}, err
	}
	url, _ := claims.Get("iss").Text()
	from, known := a.authorities[url]
	if !known {
		return Attestation{}, unverified(nil, "It is not from an attestation authority that this server is configured for")
	}
	if err := checkAttestationHeader(header, from.Algorithms); err != nil {
		return Attestation{}, err
	}
	payload, err := from.Keys.VerifySignature(ctx, raw)
	if errors.Is(err, failure.Unavailable) {
		return Attestation{}, err
	}
	if err != nil {
		return Attestation{}, unverified(err, "Its signature is not its authority's")
	}
	// From here on only what the signature covers.
	if claims, err = strictjson.Parse(payload, attestationClaims); err != nil {
		return Attestation{}, unverified(err, "Its claims are not JSON with unique names")
	}
	if signed, _ := claims.Get("iss").Text(); signed != url {
		return Attestation{}, unverified(nil, "It names two authorities")
	}
	if err := a.checkTime(claims); err != nil {
		return Attestation{}, err
	}
	return Attestation{Authority: url, Claims: claims}, nil
}

func (a *Attestations) checkTime(claims strictjson.Value) error {
	notBefore, okBefore := claims.Get("nbf").Int()
	expires, okExpires := claims.Get("exp").Int()
	now, skew := a.now().Unix(), int64(Skew/time.Second)
	switch {
	case !okBefore || !okExpires:
		return unverified(nil, "It has no nbf or no exp, in whole seconds")
	case now+skew < notBefore:
		return unverified(nil, "It is not valid yet; compare the clocks of authority and server")
	case now-skew > expires:
		return unverified(nil, "It has expired; have the environment attested again")
	}
	return nil
}

// splitAttestation bounds a compact JWT and decodes its header and claims, without believing either.
func splitAttestation(raw string) (header, claims strictjson.Value, err error) {
	no := func(what string) (strictjson.Value, strictjson.Value, error) {
		return strictjson.Value{}, strictjson.Value{}, failure.New(failure.BadParameter, "target is not an attestation token: %s", what)
	}
	if len(raw) > MaxAttestation {
		return no(fmt.Sprintf("it has more than %d bytes", MaxAttestation))
	}
	if strings.Count(raw, ".") != 2 {
		return no("it is not a JWT in its compact form")
	}
	parts := strings.SplitN(raw, ".", 3)
	var decoded [3][]byte
	for i, part := range parts {
		if decoded[i], err = base64url(part); err != nil {
			return no("a segment is not base64url")
		}
	}
	if header, err = strictjson.Parse(decoded[0], attestationHeader); err != nil || header.Kind() != strictjson.Object {
		return no("its header is not a JSON object with unique names")
	}
	if claims, err = strictjson.Parse(decoded[1], attestationClaims); err != nil || claims.Kind() != strictjson.Object {
		return no("its claims are not a JSON object with unique names")
	}
	return header, claims, nil
}

func checkAttestationHeader(header strictjson.Value, algorithms []string) error {
	for _, name := range leadAway {
		if header.Get(name).Kind() != strictjson.None {
			return unverified(nil, "Its header has the member "+name+", which is never followed here")
		}
	}
	if alg, _ := header.Get("alg").Text(); !slices.Contains(algorithms, alg) {
		return unverified(nil, "It is signed with an algorithm that its authority is not configured for")
	}
	// Not an access token of the same issuer, or whatever else that signs.
	if typ := header.Get("typ"); typ.Kind() != strictjson.None {
		if text, _ := typ.Text(); !strings.EqualFold(text, "JWT") {
			return unverified(nil, "Its header says that it is something else than a JWT")
		}
	}
	return nil
}

// readKey reads a JWK (RFC 7517), also one without a key of its own that has a certificate, which is how attestation
// authorities publish theirs: {"kid":…, "kty":"RSA", "x5c":[…]}. The certificate is a container of the key and proves
// nothing; who published the key set vouches for it.
func readKey(key *jose.JSONWebKey, raw json.RawMessage) error {
	failed := key.UnmarshalJSON(raw)
	if failed == nil {
		return nil
	}
	var jwk struct {
		Kid   string   `json:"kid"`
		Kty   string   `json:"kty"`
		Alg   string   `json:"alg"`
		Use   string   `json:"use"`
		Chain []string `json:"x5c"`

		N, E, D, X, Y, Crv json.RawMessage
	}
	if json.Unmarshal(raw, &jwk) != nil || len(jwk.Chain) == 0 {
		return failed
	}
	for _, own := range []json.RawMessage{jwk.N, jwk.E, jwk.D, jwk.X, jwk.Y, jwk.Crv} {
		if own != nil {
			return failed // a key of its own, and a bad one
		}
	}
	public, err := certified(jwk.Chain[0])
	if err != nil {
		return err
	}
	switch k := public.(type) {
	case *rsa.PublicKey:
		if jwk.Kty != "RSA" || k.N.BitLen() > maxRSABits {
			return failed
		}
	case *ecdsa.PublicKey:
		if jwk.Kty != "EC" {
			return failed
		}
	default:
		return failed
	}
	*key = jose.JSONWebKey{Key: public, KeyID: jwk.Kid, Algorithm: jwk.Alg, Use: jwk.Use}
	return nil
}

// maxRSABits is go-jose's bound for keys that are not in a certificate.
const maxRSABits = 4096

// certified returns the public key of a certificate in base64 (not base64url: RFC 7517 section 4.7).
func certified(text string) (crypto.PublicKey, error) {
	der, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return nil, errors.New("x5c is not base64")
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, errors.New("x5c is not a certificate")
	}
	return certificate.PublicKey, nil
}
