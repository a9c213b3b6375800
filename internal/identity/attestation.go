package identity

import (
	"context"
	"crypto"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"
	"github.com/google/uuid"

	"strongroom/internal/access"
	"strongroom/internal/failure"
	"strongroom/internal/record"
	"strongroom/internal/strictjson"
	"strongroom/secret"
)

// The attestation authority for development is what a cloud's attestation service is in earnest: it publishes a key
// under a URL, and signs tokens that say what runs somewhere and with whose public key. Only that it looks at nothing:
// who can sign in at this server may have anything attested. So a key whose release policy names it is released to
// whoever asks, and each of its tokens says in a claim of its own what it is worth.
const (
	attestPath     = "/attest"
	attestLifetime = time.Hour
	maxAttest      = 16 << 10 // bytes of a request

	// attestMark is a claim that each token has and no client can set.
	attestMark = "strongroom-dev"
)

// reserved are the claims that a client does not choose.
var reserved = []string{"iss", "iat", "nbf", "exp", "jti", "x-ms-runtime", attestMark}

var attestLimits = strictjson.Limits{Bytes: maxAttest, Depth: 10, Elements: 256, Values: 1024, StringBytes: maxAttest, FoldNames: true}

// attestation is the authority.
type attestation struct {
	key         signingKey
	certificate []byte
	verifier    *access.Verifier
}

func openAttestation(ctx context.Context, cfg Config, issuers []access.Issuer) (*attestation, error) {
	key, err := openSigningKey(ctx, cfg, attestationKeyKey)
	if err != nil {
		return nil, err
	}
	// No clock: the certificate only carries the key, and is the same on each start.
	from := time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)
	certificate, err := key.certificate("Strongroom attestation for development", from, from.AddDate(100, 0, 0))
	if err != nil {
		return nil, failure.Wrap(failure.Internal, err, "the certificate of the attestation key cannot be made")
	}
	verifier, err := access.NewVerifier(issuers, cfg.Now)
	if err != nil {
		return nil, failure.Wrap(failure.Internal, err, "the issuer cannot verify its own tokens")
	}
	return &attestation{key: key, certificate: certificate, verifier: verifier}, nil
}

// AttestationAuthorities returns every name under which this authority's tokens appear, with its key, for
// access.NewAttestations; none unless Config.Attestation. As with [Issuer.Issuers], nobody asks over HTTP.
func (i *Issuer) AttestationAuthorities() []access.Issuer {
	if i.attest == nil {
		return nil
	}
	keys := &oidc.StaticKeySet{PublicKeys: []crypto.PublicKey{i.attest.key.public}}
	var list []access.Issuer
	for _, base := range i.cfg.BaseURLs {
		list = append(list, access.Issuer{URL: base + attestPath, Keys: keys, Algorithms: []string{oidc.ES256}})
	}
	return list
}

func (a *attestation) document(base string) any {
	return map[string]any{
		"issuer":                                base + attestPath,
		"jwks_uri":                              base + attestPath + "/certs",
		"response_types_supported":              []string{"token"},
		"subject_types_supported":               []string{"public"},
		"id_token_signing_alg_values_supported": []string{"ES256"},
		"claims_supported":                      append(slices.Clone(reserved), "x-ms-attestation-type"),
	}
}

// jwks holds the key with its certificate, as attestation services publish theirs.
func (a *attestation) jwks() any {
	out := struct {
		Keys []map[string]any `json:"keys"`
	}{}
	jwk := jose.JSONWebKey{Key: a.key.public, KeyID: a.key.id, Algorithm: string(jose.ES256), Use: "sig"}
	text, err := jwk.MarshalJSON()
	members := map[string]any{}
	if err == nil && json.Unmarshal(text, &members) == nil {
		members["x5c"] = []string{base64.StdEncoding.EncodeToString(a.certificate)}
		out.Keys = append(out.Keys, members)
	}
	return out
}

// attestRequest asks for a token.
type attestRequest struct {
	// Claims are what shall be attested. Of the reserved ones none may be there.
	Claims map[string]json.RawMessage `json:"claims"`
	// Key is the public RSA key that keys are to be released to, as a JWK.
	Key json.RawMessage `json:"key"`
}

// attestResponse carries it, as attestation services do.
type attestResponse struct {
	Token string `json:"token"`
}

// attestFor answers a request for an attestation token.
func (i *Issuer) attestFor(w http.ResponseWriter, r *http.Request, base string, c *record.Call) (attestResponse, error) {
	who, err := i.attestClient(r, base)
	if err != nil {
		return attestResponse{}, err
	}
	c.Caller = access.Caller{ObjectID: who}
	request, err := readAttest(w, r)
	if err != nil {
		return attestResponse{}, err
	}
	key, err := recipientKey(request.Key)
	if err != nil {
		return attestResponse{}, err
	}
	now := i.cfg.Now()
	id, err := uuid.NewRandomFromReader(i.cfg.Rand)
	if err != nil {
		return attestResponse{}, failure.Wrap(failure.Internal, err, "no randomness for a token")
	}
	claims := map[string]any{"x-ms-attestation-type": "strongroom-dev"} // unless the client wants to be something else
	for name, value := range request.Claims {
		claims[name] = value
	}
	claims["iss"], claims["jti"], claims[attestMark] = base+attestPath, id.String(), true
	claims["iat"], claims["nbf"], claims["exp"] = now.Unix(), now.Unix(), now.Add(attestLifetime).Unix()
	claims["x-ms-runtime"] = map[string]any{"keys": []any{key}}
	payload, err := json.Marshal(claims)
	if err != nil {
		return attestResponse{}, failure.Wrap(failure.Internal, err, "the token cannot be written")
	}
	signed, err := i.attest.key.sign(payload)
	if err != nil {
		return attestResponse{}, failure.Wrap(failure.Internal, err, "the token cannot be signed")
	}
	i.cfg.Log.WarnContext(r.Context(), "attestation for development issued: nothing was examined", "object_id", who, "authority", base+attestPath, "jti", id.String())
	return attestResponse{Token: signed}, nil
}

// attestClient returns the principal that asks: by the client secret as HTTP Basic authentication, or by a bearer token
// of this issuer whose audience is the authority or the server that it is on.
func (i *Issuer) attestClient(r *http.Request, base string) (string, error) {
	denied := func(text string) (string, error) {
		return "", &oauthError{Status: http.StatusUnauthorized, Code: "invalid_client", Description: text}
	}
	values := r.Header.Values("Authorization")
	if len(values) != 1 {
		return denied("sign in with HTTP Basic authentication by client ID and secret, or with a bearer token for " + base)
	}
	if scheme, token, _ := strings.Cut(values[0], " "); strings.EqualFold(scheme, "Bearer") {
		caller, err := i.attest.verifier.Verify(r.Context(), strings.TrimSpace(token), []string{base, base + attestPath})
		if err != nil {
			if _, known := errors.AsType[*failure.Error](err); known && errors.Is(err, failure.Unauthorized) {
				return denied("the bearer token is not one of this server for " + base)
			}
			return "", err
		}
		return caller.ObjectID, nil
	}
	user, password, ok := r.BasicAuth()
	if !ok {
		return denied("the Authorization header is neither HTTP Basic authentication nor a bearer token")
	}
	candidate := secret.Take([]byte(password))
	defer candidate.Wipe()
	app, ok, err := i.signIn(r.Context(), applications, user, candidate)
	if err != nil {
		return "", err
	}
	if !ok {
		return "", i.refuseSignIn(r.Context(), applications, user)
	}
	return app.objectID, nil
}

func readAttest(w http.ResponseWriter, r *http.Request) (attestRequest, error) {
	var request attestRequest
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		return request, &oauthError{Status: http.StatusUnsupportedMediaType, Code: "invalid_request", Description: "send the request as application/json"}
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxAttest))
	if err != nil {
		if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
			return request, &oauthError{Status: http.StatusRequestEntityTooLarge, Code: "invalid_request", Description: "the request is larger than 16 KiB"}
		}
		return request, invalid("invalid_request", "the request could not be read")
	}
	if err := strictjson.Check(body, attestLimits); err != nil {
		return request, invalid("invalid_request", "the request is "+err.Error())
	}
	decoder := json.NewDecoder(strings.NewReader(string(body)))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&request); err != nil {
		return request, invalid("invalid_request", `the request has to be an object with claims (an object) and key (a public RSA key as a JWK), and nothing else`)
	}
	for _, name := range reserved {
		if _, there := request.Claims[name]; there {
			return request, invalid("invalid_request", "the claim "+name+" is the authority's own; leave it out")
		}
	}
	return request, nil
}

// recipientKey returns the public RSA key of a JWK, marked for encryption, and with nothing else that stood there.
func recipientKey(raw json.RawMessage) (any, error) {
	var jwk jose.JSONWebKey
	if len(raw) == 0 || jwk.UnmarshalJSON(raw) != nil || !jwk.Valid() {
		return nil, invalid("invalid_request", "key has to be a public RSA key as a JWK, with kty, n and e")
	}
	public, ok := jwk.Key.(*rsa.PublicKey)
	if !ok {
		return nil, invalid("invalid_request", "key has to be a public RSA key; send no private part, ever")
	}
	if bits := public.N.BitLen(); bits != 2048 && bits != 3072 && bits != 4096 {
		return nil, invalid("invalid_request", fmt.Sprintf("key has %d bits; a key that receives others has 2048, 3072 or 4096", bits))
	}
	text, err := jose.JSONWebKey{Key: public, KeyID: jwk.KeyID}.MarshalJSON()
	members := map[string]any{}
	if err != nil || json.Unmarshal(text, &members) != nil {
		return nil, failure.Wrap(failure.Internal, err, "the key cannot be written")
	}
	members["key_ops"] = []string{"encrypt"}
	return members, nil
}
