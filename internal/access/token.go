package access

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"

	"strongroom/internal/failure"
	"strongroom/internal/strictjson"
)

// Bounds of a token. They are checked before anything is decoded, so that an unauthenticated caller cannot make
// the server work (threat A5).
const (
	MaxToken     = 16 << 10 // bytes of the compact form
	maxAudiences = 50
	maxGroups    = 200 // Entra ID's own bound of the groups claim
	maxName      = 256 // bytes of an identifier or name
)

// objectLimits bound the header and the claims.
var objectLimits = strictjson.Limits{Bytes: MaxToken, Depth: 8, Elements: 256, Values: 1024, StringBytes: MaxToken, FoldNames: true}

// Skew is how far the clocks of issuer and server may differ.
const Skew = 60 * time.Second

// followed are header members that bring or point to a key, or change what the signature covers. A verifier that
// honours one of the first four takes keys from the attacker (RFC 8725 section 3.5), so a token that has one is
// refused whole.
var followed = []string{"jku", "jwk", "x5u", "x5c", "crit", "b64", "zip"}

// Verifier verifies bearer tokens of a fixed set of issuers. Safe for concurrent use.
type Verifier struct {
	issuers map[string]Issuer // by URL
	now     func() time.Time
	seen    *tokenCache
	counts  counts
	gate    *gate
}

// NewVerifier returns a verifier for the issuers. It refuses what is a mistake in the configuration: an issuer
// without keys or algorithms, a symmetric or unknown algorithm, the same URL twice, a malformed prefix, and one
// prefix for two issuers. Issuers that share one key set (the same instance) are one issuer under several URLs,
// and may share a prefix.
func NewVerifier(issuers []Issuer, now func() time.Time) (*Verifier, error) {
	v := &Verifier{issuers: map[string]Issuer{}, now: now, seen: newTokenCache(maxTokens), gate: newGate(checksAtOnce(), maxWaiting)}
	for _, i := range issuers {
		switch {
		case i.URL == "":
			return nil, errors.New("access: an issuer has no URL")
		case i.Keys == nil:
			return nil, fmt.Errorf("access: issuer %s has no keys", i.URL)
		}
		if err := checkAlgorithms(i.URL, i.Algorithms); err != nil {
			return nil, err
		}
		if err := checkPrefix(i.URL, i.Prefix); err != nil {
			return nil, err
		}
		if _, twice := v.issuers[i.URL]; twice {
			return nil, fmt.Errorf("access: issuer %s is configured twice", i.URL)
		}
		for _, other := range v.issuers {
			if other.Prefix == i.Prefix && !sameKeySet(other.Keys, i.Keys) {
				return nil, fmt.Errorf("access: issuers %s and %s both have the prefix %q, so each could name the other's principals; give one of them a prefix of its own",
					min(other.URL, i.URL), max(other.URL, i.URL), i.Prefix)
			}
		}
		i.Algorithms = slices.Clone(i.Algorithms)
		v.issuers[i.URL] = i
	}
	return v, nil
}

// Verify returns who the bearer of a token is. It demands: at most [MaxToken] bytes in three segments; the
// signature of a configured issuer, with a key and an algorithm of that issuer; iss, aud, exp and nbf present, or iat
// for nbf; one of audiences in aud; and the time between nbf and exp, give or take [Skew]. Audiences are compared as URLs: case of the
// host, port 443 and one trailing slash make no difference. Every refusal is failure.Unauthorized; a token that
// cannot be judged now, because its issuer's keys cannot be read or too many others are being judged, is
// failure.Unavailable.
//
// A token that was verified before is remembered by its hash, as long as its issuer's keys are those that verified it,
// and does not wait for others. One that its issuer has called back stops within a minute, mostly at once: see
// [Standing].
func (v *Verifier) Verify(ctx context.Context, raw string, audiences []string) (Caller, error) {
	if len(raw) > MaxToken {
		return Caller{}, refuse("the token is larger than %d bytes", MaxToken)
	}
	id := idOfToken(raw)
	if caller, ok := v.recall(ctx, id, audiences); ok {
		v.counts.remembered.Add(1)
		return caller, nil
	}
	r, err := v.verify(ctx, raw, audiences)
	if err != nil {
		return Caller{}, err
	}
	v.seen.put(id, r)
	v.counts.verified.Add(1)
	return r.caller, nil
}

// verify is the whole way of [Verifier.Verify]. On success it returns what is worth remembering.
func (v *Verifier) verify(ctx context.Context, raw string, audiences []string) (*remembered, error) {
	header, unverified, err := split(raw)
	if err != nil {
		return nil, err
	}
	url, err := text(unverified, "iss")
	if err != nil {
		return nil, err
	}
	from, known := v.issuers[url]
	if !known {
		return nil, refuse("the token is from an issuer that this server does not know; sign in at the authority that the challenge names")
	}
	if err := checkHeader(header, from.Algorithms); err != nil {
		return nil, err
	}
	// Before the signature is checked: keys that change meanwhile are not those that it was checked with, perhaps.
	generation := generationOf(from.Keys)
	token, err := v.verifySignature(ctx, from, raw)
	if err != nil {
		if errors.Is(err, failure.Unavailable) {
			return nil, err
		}
		if _, expired := errors.AsType[*oidc.TokenExpiredError](err); expired {
			return nil, refuse("the token has expired; sign in again")
		}
		return nil, failure.Wrap(failure.Unauthorized, err, "the token does not verify: its signature is not its issuer's; sign in again")
	}
	// From here on only what the signature covers.
	var payload json.RawMessage
	if err := token.Claims(&payload); err != nil {
		return nil, failure.Wrap(failure.Unauthorized, err, "the claims of the token cannot be read")
	}
	claims, err := object(payload)
	if err != nil {
		return nil, err
	}
	r, err := v.judge(claims, from, audiences)
	if err != nil {
		return nil, err
	}
	r.keys, r.generation = from.Keys, generation
	if from.Standing != nil {
		if r.issued, err = issued(claims, r.caller.AppID); err != nil {
			return nil, err
		}
		// The generation first, as with the keys.
		r.standing, r.stood = from.Standing, stood{from.Standing.Generation(), v.now()}
		if err := from.Standing.Check(ctx, r.issued); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// verifySignature has go-oidc check signature, iss and exp. go-oidc passes on only the text of a key set's error,
// and this package does not decide by texts, so the error is noted on its way.
func (v *Verifier) verifySignature(ctx context.Context, from Issuer, raw string) (*oidc.IDToken, error) {
	keys := &notedKeys{KeySet: from.Keys, gate: v.gate}
	token, err := oidc.NewVerifier(from.URL, keys, &oidc.Config{
		SupportedSigningAlgs: from.Algorithms,
		SkipClientIDCheck:    true, // audiences are compared in judge, as URLs
		// go-oidc knows no leeway on exp; a clock set back by the skew gives it one. Its leeway of five minutes on
		// nbf is wider than ours, which is checked in judge.
		Now: func() time.Time { return v.now().Add(-Skew) },
	}).Verify(ctx, raw)
	if err != nil && errors.Is(keys.err, failure.Unavailable) {
		return nil, keys.err
	}
	return token, err
}

// notedKeys remembers the error of the one verification that it is for, and sees to it that it waits its turn.
type notedKeys struct {
	oidc.KeySet
	gate *gate
	err  error
}

func (n *notedKeys) VerifySignature(ctx context.Context, jwt string) (payload []byte, err error) {
	if keys, ok := n.KeySet.(gated); ok {
		payload, n.err = keys.verifySignature(ctx, jwt, n.gate)
		return payload, n.err
	}
	if busy := n.gate.do(ctx, func() { payload, n.err = n.KeySet.VerifySignature(ctx, jwt) }); busy != nil {
		n.err = busy
	}
	return payload, n.err
}

// judge checks the claims and turns them into a caller. go-oidc matches claim names without regard to case and
// takes the last of two; here they are exact and unique, and both readings must hold.
func (v *Verifier) judge(claims map[string]json.RawMessage, from Issuer, audiences []string) (*remembered, error) {
	if iss, err := text(claims, "iss"); err != nil || iss != from.URL {
		return nil, refuse("the token names two issuers")
	}
	now := v.now()
	// Keycloak and Dex write no nbf. What they write, and everybody else too, is when the token was made: it has a
	// beginning in any case.
	begins := "nbf"
	if _, present := claims[begins]; !present {
		begins = "iat"
	}
	notBefore, err := moment(claims, begins)
	if err != nil {
		return nil, err
	}
	expires, err := moment(claims, "exp")
	if err != nil {
		return nil, err
	}
	switch {
	case tooEarly(now, notBefore):
		return nil, refuse("the token is not valid yet; compare the clocks of issuer and server")
	case tooLate(now, expires):
		return nil, refuse("the token has expired; sign in again")
	}
	aud, err := textOrList(claims, "aud", maxAudiences)
	if err != nil {
		return nil, err
	}
	if !meant(aud, audiences) {
		return nil, refuse("the token is for another resource; ask for a token for the resource that the challenge names")
	}
	// go-oidc sees whole seconds of exp: nothing is remembered for longer than it would hold.
	r := &remembered{caller: Caller{Issuer: from.URL}, audiences: aud, notBefore: notBefore, expires: expires.Truncate(time.Second)}
	c := &r.caller
	for _, claim := range []struct {
		into  *string
		names []string
	}{
		{&c.ObjectID, []string{"oid", "sub"}},
		{&c.AppID, []string{"appid", "azp"}},
		{&c.Tenant, []string{"tid"}},
		{&c.Name, []string{"name", "app_displayname"}},
	} {
		for _, name := range claim.names {
			if _, present := claims[name]; !present {
				continue
			}
			if *claim.into, err = text(claims, name); err != nil {
				return nil, err
			}
			break
		}
	}
	if c.ObjectID == "" {
		return nil, refuse("the token names no principal: it needs the claim oid or sub")
	}
	if c.ObjectID, err = from.principal(c.ObjectID); err != nil {
		return nil, err
	}
	if _, present := claims["groups"]; !from.Groups || !present {
		return r, nil
	}
	groups, err := textOrList(claims, "groups", maxGroups)
	if err != nil {
		return nil, err
	}
	for _, g := range groups {
		if g, err = from.principal(g); err != nil {
			return nil, err
		}
		c.Groups = append(c.Groups, g)
	}
	c.Groups = slices.Clip(c.Groups) // shared by many calls from now on
	return r, nil
}

// split decodes header and claims of a compact JWT, whose length is bounded, without believing either.
func split(raw string) (header, claims map[string]json.RawMessage, err error) {
	if strings.Count(raw, ".") != 2 {
		return nil, nil, refuse("the token is not a JWT in its compact form")
	}
	parts := strings.SplitN(raw, ".", 3)
	if header, err = segment(parts[0]); err != nil {
		return nil, nil, err
	}
	if claims, err = segment(parts[1]); err != nil {
		return nil, nil, err
	}
	if _, err := base64url(parts[2]); err != nil {
		return nil, nil, err
	}
	return header, claims, nil
}

func segment(s string) (map[string]json.RawMessage, error) {
	data, err := base64url(s)
	if err != nil {
		return nil, err
	}
	return object(data)
}

// base64url decodes strictly. The standard decoder skips line breaks, and two spellings of one token would make
// the bytes that are judged differ from the bytes that are verified.
func base64url(s string) ([]byte, error) {
	if strings.ContainsAny(s, "\r\n") {
		return nil, refuse("the token is not base64url")
	}
	data, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil {
		return nil, refuse("the token is not base64url")
	}
	return data, nil
}

// object reads one JSON object with unique names. Names that differ only in case are refused too: go-oidc would
// take them for one.
func object(data []byte) (map[string]json.RawMessage, error) {
	if err := strictjson.Check(data, objectLimits); err != nil {
		return nil, failure.Wrap(failure.Unauthorized, err, "the token does not hold JSON objects with unique names")
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(data, &members); err != nil || members == nil {
		return nil, refuse("the token does not hold JSON objects")
	}
	return members, nil
}

func checkHeader(header map[string]json.RawMessage, algorithms []string) error {
	for _, name := range followed {
		if _, present := header[name]; present {
			return refuse("the token's header has the member %s, which is never followed here", name)
		}
	}
	alg, err := text(header, "alg")
	if err != nil {
		return err
	}
	if !slices.Contains(algorithms, alg) {
		return refuse("the token is signed with an algorithm that its issuer is not configured for")
	}
	if _, present := header["typ"]; present {
		typ, err := text(header, "typ")
		if err != nil {
			return err
		}
		switch strings.ToLower(typ) {
		case "jwt", "at+jwt", "application/at+jwt":
		default: // a logout token, a DPoP proof, …: signed by the issuer and not meant to let anybody in
			return refuse("the token is not an access token")
		}
	}
	return nil
}

// text returns a string member: present, not empty, at most maxName bytes, without control characters.
func text(members map[string]json.RawMessage, name string) (string, error) {
	var s *string
	if raw, present := members[name]; !present || json.Unmarshal(raw, &s) != nil || s == nil {
		return "", refuse("the token has no %s, or not as text", name)
	}
	return *s, checkText(*s, name)
}

func checkText(s, name string) error {
	if s == "" || len(s) > maxName || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return refuse("%s in the token is empty, longer than %d bytes, or has control characters", name, maxName)
	}
	return nil
}

// textOrList returns a member that is a string or a list of at most limit strings.
func textOrList(members map[string]json.RawMessage, name string, limit int) ([]string, error) {
	raw, present := members[name]
	if present && len(raw) > 0 && raw[0] == '"' {
		s, err := text(members, name)
		return []string{s}, err
	}
	var list []string
	if !present || json.Unmarshal(raw, &list) != nil || list == nil {
		return nil, refuse("the token has no %s, or not as text", name)
	}
	if len(list) > limit {
		return nil, refuse("%s in the token has more than %d entries", name, limit)
	}
	for _, s := range list {
		if err := checkText(s, name); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// moment returns a NumericDate (RFC 7519 section 2): seconds since 1970, perhaps with a fraction.
func moment(members map[string]json.RawMessage, name string) (time.Time, error) {
	var seconds *float64
	if raw, present := members[name]; !present || json.Unmarshal(raw, &seconds) != nil || seconds == nil || *seconds < 0 || *seconds > 1e11 {
		return time.Time{}, refuse("the token has no %s, or not as a time", name)
	}
	return time.UnixMilli(int64(*seconds * 1000)), nil
}

// normalAudience gives audiences that mean the same resource one spelling. What is no plain https URL is compared
// as it is.
func normalAudience(s string) string {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.Opaque != "" {
		return s
	}
	return "https://" + strings.TrimSuffix(lowerASCII(u.Host), ":443") + strings.TrimSuffix(u.EscapedPath(), "/")
}

func refuse(format string, args ...any) *failure.Error {
	return failure.New(failure.Unauthorized, format, args...)
}
