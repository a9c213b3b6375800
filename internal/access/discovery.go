package access

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"

	"strongroom/internal/strictjson"
)

// Bounds of what an issuer answers. Real discovery documents have a few KiB; real key sets a dozen keys, with
// certificate chains.
const (
	maxKeys    = 100
	minRSABits = 2048 // go-jose sets the other bound, 4096: more would make each token expensive
)

var (
	discoveryLimits = strictjson.Limits{Bytes: 256 << 10, Depth: 8, Elements: 1024, Values: 16 << 10, StringBytes: 64 << 10, FoldNames: true}
	keySetLimits    = strictjson.Limits{Bytes: 1 << 20, Depth: 8, Elements: 256, Values: 16 << 10, StringBytes: 64 << 10, FoldNames: true}
)

// errNoKeys says that a key set was read well and has no key that tokens may be signed with here.
var errNoKeys = errors.New("its key set has no public signature key for the algorithms that are configured for it; compare them with the keys it publishes")

// fetch reads the discovery document (OpenID Connect Discovery 1.0, section 4) and the key set that it names. Both,
// each time: an issuer may move its keys. Errors are for the operator and name the issuer.
func (k *remoteKeys) fetch(ctx context.Context) ([]jose.JSONWebKey, error) {
	document := strings.TrimSuffix(k.issuer, "/") + "/.well-known/openid-configuration"
	data, err := k.get(ctx, document, discoveryLimits.Bytes)
	if err != nil {
		return nil, fmt.Errorf("issuer %s: its discovery document %s cannot be read: %w; check the issuer's URL, and that this server reaches it and trusts its certificate", k.issuer, document, err)
	}
	address, err := parseDiscovery(data, k.issuer)
	if err != nil {
		return nil, fmt.Errorf("issuer %s: its discovery document %s %w", k.issuer, document, err)
	}
	if data, err = k.get(ctx, address, keySetLimits.Bytes); err != nil {
		return nil, fmt.Errorf("issuer %s: its key set %s cannot be read: %w; check that this server reaches it and trusts its certificate", k.issuer, address, err)
	}
	keys, err := parseKeySet(data, k.algorithms)
	if err != nil {
		return nil, fmt.Errorf("issuer %s: %w", k.issuer, err)
	}
	return keys, nil
}

// get returns the body of a 200 answer of at most limit bytes, counted after decompression.
func (k *remoteKeys) get(ctx context.Context, address string, limit int) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, errors.New("it is not a URL to ask")
	}
	request.Header.Set("Accept", "application/json")
	response, err := k.client.Do(request)
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }()
	switch {
	case response.StatusCode >= 300 && response.StatusCode < 400:
		return nil, fmt.Errorf("it answers %d, and redirects are not followed", response.StatusCode)
	case response.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("it answers %d", response.StatusCode)
	}
	data, err := io.ReadAll(io.LimitReader(response.Body, int64(limit)+1))
	if err != nil {
		return nil, err
	}
	if len(data) > limit {
		return nil, fmt.Errorf("it is larger than %d bytes", limit)
	}
	return data, nil
}

// parseDiscovery returns jwks_uri of a discovery document that is the issuer's own: with the exact issuer, so that
// one issuer's document cannot stand in for another's (section 4.3).
func parseDiscovery(data []byte, issuer string) (jwksURI string, err error) {
	root, err := strictjson.Parse(data, discoveryLimits)
	if err != nil {
		return "", fmt.Errorf("cannot be used: %w", err)
	}
	named, ok := root.Get("issuer").Text()
	if !ok {
		return "", errors.New("is not an object with an issuer; check the issuer's URL")
	}
	if named != issuer {
		return "", fmt.Errorf("is of the issuer %.300q; if that is who you mean, configure exactly that URL", named)
	}
	jwksURI, ok = root.Get("jwks_uri").Text()
	if !ok || jwksURI == "" {
		return "", errors.New("names no jwks_uri; it has to be an OpenID Connect issuer")
	}
	if err := checkHTTPS(jwksURI); err != nil {
		return "", fmt.Errorf("has a jwks_uri that %w; keys are read over https only", err)
	}
	return jwksURI, nil
}

// parseKeySet returns the keys of a JWK Set (RFC 7517 section 5) that can verify tokens signed with one of the
// algorithms: public, asymmetric, for signatures, 2048 to 4096 bits if RSA. Others are passed over, as section 5
// asks: issuers publish encryption keys and new kinds of keys beside them. It reports errNoKeys if none is left.
func parseKeySet(data []byte, algorithms []string) ([]jose.JSONWebKey, error) {
	if err := strictjson.Check(data, keySetLimits); err != nil {
		return nil, fmt.Errorf("its key set cannot be used: %w", err)
	}
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(data, &set); err != nil || set.Keys == nil {
		return nil, errors.New("its key set is not an object with a list of keys; check jwks_uri in its discovery document")
	}
	if len(set.Keys) > maxKeys {
		return nil, fmt.Errorf("its key set has more than %d keys", maxKeys)
	}
	var keys []jose.JSONWebKey
	for _, raw := range set.Keys {
		key, ok := parseKey(raw)
		if ok && slices.ContainsFunc(algorithms, func(a string) bool { return fits(&key, a) }) {
			keys = append(keys, key)
		}
	}
	if len(keys) == 0 {
		return nil, errNoKeys
	}
	return keys, nil
}

// parseKey reads one key that is not said to be for something other than signatures.
func parseKey(raw json.RawMessage) (key jose.JSONWebKey, ok bool) {
	var about struct {
		Use        *string  `json:"use"`
		Operations []string `json:"key_ops"`
	}
	switch {
	case json.Unmarshal(raw, &about) != nil,
		about.Use != nil && *about.Use != "sig",
		about.Operations != nil && !slices.Contains(about.Operations, "verify"),
		readKey(&key, raw) != nil,
		!key.Valid(),
		len(key.KeyID) > maxName:
		return jose.JSONWebKey{}, false
	}
	if k, isRSA := key.Key.(*rsa.PublicKey); isRSA && k.N.BitLen() < minRSABits {
		return jose.JSONWebKey{}, false
	}
	return key, true
}

// fits reports whether a key is for an algorithm: of its kind and curve (RFC 7518 section 3.1, RFC 8037), and not
// bound to another one by its own member alg. A symmetric or private key is for none: whoever reads the key set
// could sign with it.
func fits(key *jose.JSONWebKey, algorithm string) bool {
	if key.Algorithm != "" && key.Algorithm != algorithm {
		return false
	}
	switch k := key.Key.(type) {
	case *rsa.PublicKey:
		return strings.HasPrefix(algorithm, "RS") || strings.HasPrefix(algorithm, "PS")
	case *ecdsa.PublicKey:
		return k.Curve == elliptic.P256() && algorithm == oidc.ES256 ||
			k.Curve == elliptic.P384() && algorithm == oidc.ES384 ||
			k.Curve == elliptic.P521() && algorithm == oidc.ES512
	case ed25519.PublicKey:
		return algorithm == oidc.EdDSA
	}
	return false
}
