package identity

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"strongroom/internal/access"
	"strongroom/internal/failure"
	"strongroom/internal/record"
	"strongroom/internal/store"
	"strongroom/secret"
)

// tokenRequest is a request to the token endpoint: its form, and in whose name it is answered.
type tokenRequest struct {
	*http.Request
	values url.Values
	issuer string // name of the issuer, as the endpoint has it
	ver    string // claim ver
	call   *record.Call
}

// tokenResponse is RFC 6749 section 5.1, OpenID Connect Core section 3.1.3.3, and what MSAL takes a user's ID from. Tokens
// go out as text here, and nowhere else.
type tokenResponse struct {
	Type         string `json:"token_type"`
	ExpiresIn    int    `json:"expires_in"` // seconds, a number: az refuses text
	ExtExpiresIn int    `json:"ext_expires_in"`
	AccessToken  string `json:"access_token"`
	RefreshToken string `json:"refresh_token,omitempty"`
	IDToken      string `json:"id_token,omitempty"`
	ClientInfo   string `json:"client_info,omitempty"`
}

// grant answers a request for tokens.
func (i *Issuer) grant(w http.ResponseWriter, r *http.Request, base string, f form, c *record.Call) (tokenResponse, error) {
	values, err := readForm(w, r)
	if err != nil {
		return tokenResponse{}, err
	}
	t := &tokenRequest{Request: r, values: values, issuer: f.issuer(base, i.cfg.Tenant), ver: f.ver, call: c}
	switch values.Get("grant_type") {
	case "client_credentials":
		return i.grantApplication(t)
	case "password":
		return i.grantUser(t)
	case "refresh_token":
		c.Operation = "RefreshToken"
		return i.grantRefresh(t)
	}
	return tokenResponse{}, invalid("unsupported_grant_type", "this server grants client_credentials to applications, and password and refresh_token to users")
}

// grantApplication answers a client-credentials request (RFC 6749 section 4.4).
func (i *Issuer) grantApplication(t *tokenRequest) (tokenResponse, error) {
	clientID, candidate, err := credentials(t.Request, t.values)
	if err != nil {
		return tokenResponse{}, err
	}
	defer candidate.Wipe()
	app, ok, err := i.signIn(t.Context(), applications, clientID, candidate)
	if err != nil {
		return tokenResponse{}, err
	}
	if !ok {
		return tokenResponse{}, i.refuseSignIn(t.Context(), applications, clientID)
	}
	t.call.Caller = access.Caller{ObjectID: app.objectID, AppID: app.id, Issuer: t.issuer}
	// The audience comes after the secret: strangers learn nothing from its errors.
	audience, err := audienceOf(t.values)
	if err != nil {
		return tokenResponse{}, err
	}
	return i.accessToken(t, app, app.id, audience)
}

// grantUser answers a request with a user's name and password (RFC 6749 section 4.3), as az and azidentity send it.
func (i *Issuer) grantUser(t *tokenRequest) (tokenResponse, error) {
	clientID, err := publicClient(t)
	if err != nil {
		return tokenResponse{}, err
	}
	candidate := secret.Take([]byte(t.values.Get("password")))
	defer candidate.Wipe()
	name := t.values.Get("username")
	user, ok, err := i.signIn(t.Context(), users, name, candidate)
	if err != nil {
		return tokenResponse{}, err
	}
	if !ok {
		return tokenResponse{}, i.refuseSignIn(t.Context(), users, name)
	}
	t.call.Caller = access.Caller{ObjectID: user.objectID, AppID: clientID, Issuer: t.issuer}
	audience, err := audienceOf(t.values)
	if err != nil {
		return tokenResponse{}, err
	}
	// An application's ID would say in tokens and in the audit log that the application was there, which has a secret to
	// show that with. Who has come so far may know that the ID is one.
	err = i.cfg.Store.View(t.Context(), func(r store.Reader) error {
		_, ok = r.Get(appPrefix + clientID)
		return nil
	})
	if err != nil {
		return tokenResponse{}, store.Failure(err)
	}
	if ok {
		return tokenResponse{}, invalid("unauthorized_client", "the client ID is that of an application; users sign in with a public client, whose ID is registered nowhere here")
	}
	var refresh refreshToken
	if wants(t, "offline_access") {
		if refresh, ok, err = i.beginSignIn(t.Context(), user, clientID); err != nil {
			return tokenResponse{}, err
		}
		if !ok {
			return tokenResponse{}, i.refuseSignIn(t.Context(), users, name)
		}
		defer refresh.secret.Wipe()
	}
	return i.userTokens(t, user, clientID, audience, refresh)
}

// grantRefresh answers a request with a refresh token (RFC 6749 section 6). The audience may be another one than before:
// az asks for those of Azure's resource manager and of a vault in turn.
func (i *Issuer) grantRefresh(t *tokenRequest) (tokenResponse, error) {
	clientID, err := publicClient(t)
	if err != nil {
		return tokenResponse{}, err
	}
	presented, ok := parseRefreshToken(t.values.Get("refresh_token"))
	if !ok {
		return tokenResponse{}, i.refuseRefresh(t.Context(), "")
	}
	defer presented.secret.Wipe()
	audience, refused := audienceOf(t.values)
	user, next, ok, err := i.renew(t.Context(), presented, clientID, refused != nil)
	if err != nil {
		return tokenResponse{}, err
	}
	defer next.secret.Wipe()
	if user.objectID != "" {
		t.call.Caller = access.Caller{ObjectID: user.objectID, AppID: clientID, Issuer: t.issuer}
	}
	if !ok {
		return tokenResponse{}, i.refuseRefresh(t.Context(), presented.objectID.String())
	}
	if refused != nil {
		return tokenResponse{}, refused
	}
	return i.userTokens(t, user, clientID, audience, next)
}

// publicClient returns the ID of the program that a user signs in with: any GUID, alone. It proves nothing and decides
// nothing here; a refresh token is good for the one that got it.
func publicClient(t *tokenRequest) (string, error) {
	if len(t.Header.Values("Authorization")) > 0 || t.values.Has("client_secret") || t.values.Has("client_assertion") {
		return "", invalid("invalid_request", "users sign in with a public client: send client_id without a secret, an assertion or an Authorization header")
	}
	id, ok := normalID(t.values.Get("client_id"))
	if !ok {
		return "", invalid("invalid_request", "client_id has to be a GUID, that of the program which the user signs in with; that of az is 04b07795-8ddb-461a-bbee-02f9e1bf7b46")
	}
	return id, nil
}

// wants reports whether the scope has one of OpenID Connect's words.
func wants(t *tokenRequest, scope string) bool {
	return slices.Contains(strings.Fields(t.values.Get("scope")), scope)
}

// userTokens answers with the tokens of a user that were asked for. refresh may be empty.
func (i *Issuer) userTokens(t *tokenRequest, user entry, clientID, audience string, refresh refreshToken) (tokenResponse, error) {
	answer, err := i.accessToken(t, user, clientID, audience)
	if err != nil {
		return tokenResponse{}, err
	}
	if !refresh.secret.IsZero() {
		answer.RefreshToken = refresh.text()
	}
	if wants(t, "openid") {
		// For the client to know who signed in, and no key to anything: its audience is a client, and no resource. The ID is
		// as the client wrote it, because MSAL compares letters.
		claims := i.claims(t, user, t.values.Get("client_id"))
		claims["preferred_username"] = user.name
		if answer.IDToken, err = i.signed(claims); err != nil {
			return tokenResponse{}, err
		}
	}
	if t.values.Get("client_info") == "1" {
		answer.ClientInfo = base64.RawURLEncoding.EncodeToString([]byte(`{"uid":"` + user.objectID + `","utid":"` + i.cfg.Tenant + `"}`))
	}
	return answer, nil
}

// accessToken answers with an access token of a principal, by a client.
func (i *Issuer) accessToken(t *tokenRequest, e entry, clientID, audience string) (tokenResponse, error) {
	id, err := uuid.NewRandomFromReader(i.cfg.Rand)
	if err != nil {
		return tokenResponse{}, failure.Wrap(failure.Internal, err, "no randomness for a token")
	}
	claims := i.claims(t, e, audience)
	claims["appid"], claims["azp"], claims["series"], claims["jti"] = clientID, clientID, e.series, id.String()
	claims["idtyp"] = "app"
	if e.class == users {
		claims["idtyp"] = "user"
	}
	signed, err := i.signed(claims)
	if err != nil {
		return tokenResponse{}, err
	}
	i.cfg.Log.InfoContext(t.Context(), "token issued", "client_id", clientID, "object_id", e.objectID, "audience", audience, "jti", id.String())
	seconds := int(TokenLifetime / time.Second)
	return tokenResponse{Type: "Bearer", ExpiresIn: seconds, ExtExpiresIn: seconds, AccessToken: signed}, nil
}

// claims are those that every token about a principal has.
func (i *Issuer) claims(t *tokenRequest, e entry, audience string) map[string]any {
	now := i.cfg.Now()
	claims := map[string]any{
		"iss": t.issuer, "aud": audience, "sub": e.objectID, "oid": e.objectID, "tid": i.cfg.Tenant, "name": e.name, "ver": t.ver,
		"iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(TokenLifetime).Unix(),
	}
	if e.class == users {
		claims["upn"] = e.name
	}
	return claims
}

func (i *Issuer) signed(claims map[string]any) (string, error) {
	payload, err := json.Marshal(claims)
	if err != nil {
		return "", failure.Wrap(failure.Internal, err, "the token cannot be written")
	}
	signed, err := i.key.sign(payload)
	if err != nil {
		return "", failure.Wrap(failure.Internal, err, "the token cannot be signed")
	}
	return signed, nil
}

// readForm reads a bounded form body. Parameters in the URL are not looked at: they end up in logs.
func readForm(w http.ResponseWriter, r *http.Request) (url.Values, error) {
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/x-www-form-urlencoded" {
		return nil, &oauthError{Status: http.StatusUnsupportedMediaType, Code: "invalid_request", Description: "send the request as application/x-www-form-urlencoded"}
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxForm))
	if err != nil {
		if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
			return nil, &oauthError{Status: http.StatusRequestEntityTooLarge, Code: "invalid_request", Description: "the request is larger than 8 KiB"}
		}
		return nil, invalid("invalid_request", "the request could not be read")
	}
	values, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, invalid("invalid_request", "the request is not a form")
	}
	for _, v := range values {
		if len(v) > 1 { // RFC 6749 section 3.2
			return nil, invalid("invalid_request", "a parameter is given twice")
		}
	}
	return values, nil
}

// credentials reads client_secret_post or client_secret_basic (RFC 6749 section 2.3.1), not both.
func credentials(r *http.Request, values url.Values) (string, secret.Bytes, error) {
	id, posted := values.Get("client_id"), values.Get("client_secret")
	if len(r.Header.Values("Authorization")) == 0 {
		if values.Has("client_assertion") {
			return "", secret.Bytes{}, &oauthError{Status: http.StatusUnauthorized, Code: "invalid_client", Description: "this server knows client secrets, not assertions or certificates"}
		}
		if id == "" || posted == "" {
			return "", secret.Bytes{}, &oauthError{Status: http.StatusUnauthorized, Code: "invalid_client", Description: "client_id and client_secret are required"}
		}
		return id, secret.Take([]byte(posted)), nil
	}
	user, password, ok := r.BasicAuth()
	if !ok || len(r.Header.Values("Authorization")) > 1 || posted != "" {
		return "", secret.Bytes{}, invalid("invalid_request", "give the client secret once: in the form, or as HTTP Basic authentication")
	}
	user, errUser := url.QueryUnescape(user)
	password, errPassword := url.QueryUnescape(password)
	if errUser != nil || errPassword != nil || (id != "" && id != user) {
		return "", secret.Bytes{}, invalid("invalid_request", "the HTTP Basic authentication is not form-encoded, or names another client than the form")
	}
	return user, secret.Take([]byte(password)), nil
}

// audienceOf returns whom the token is for: the scope without "/.default", or the older parameter resource. az
// asks for "https://localhost:8443//.default" when the resource ends in a slash, and means that slash.
func audienceOf(values url.Values) (string, error) {
	resource := values.Get("resource")
	if len(values.Get("scope")) > maxScope {
		return "", invalid("invalid_scope", "the scope is longer than 1 KiB")
	}
	var wanted []string
	for _, s := range strings.Fields(values.Get("scope")) {
		switch s {
		case "openid", "profile", "email", "offline_access": // MSAL adds them to everything
		default:
			wanted = append(wanted, s)
		}
	}
	switch {
	case resource != "" && len(wanted) > 0:
		return "", invalid("invalid_scope", "give scope or resource, not both")
	case resource != "":
	case len(wanted) != 1:
		return "", invalid("invalid_scope", "ask for exactly one scope, the resource followed by /.default; for example https://managedhsm.azure.net/.default")
	default:
		var ok bool
		if resource, ok = strings.CutSuffix(wanted[0], "/.default"); !ok {
			return "", invalid("invalid_scope", "the scope must end in /.default; for example https://managedhsm.azure.net/.default")
		}
	}
	u, err := url.Parse(resource)
	printable := !strings.ContainsFunc(resource, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == '"' || r == '\\' })
	if err != nil || len(resource) > maxAudience || !printable || u.Scheme != "https" || u.Host == "" || u.User != nil || strings.ContainsAny(resource, "?#") {
		return "", invalid("invalid_scope", "the resource in the scope must be an absolute https URL of at most 256 characters")
	}
	return resource, nil
}

// refuseSignIn is the one answer to a wrong secret and to somebody unknown.
func (i *Issuer) refuseSignIn(ctx context.Context, c *class, id string) error {
	id, valid := c.normal(id)
	if !valid {
		id = "(of no form)"
	}
	// For debugging only: anybody can be refused as often as they like, and must not fill the disk of the log with it.
	// The audit log has these, with a bound.
	i.cfg.Log.DebugContext(ctx, "sign-in refused", c.noun, id)
	switch again := i.failing.again(c.prefix + id); {
	case again:
		return tooMany("too many failed sign-ins with this " + c.id)
	case c == users:
		return invalid("invalid_grant", "the user is unknown or the password is wrong; check both, or have a new password made")
	}
	return &oauthError{Status: http.StatusUnauthorized, Code: "invalid_client", Description: "the client ID is unknown or the client secret is wrong; check both, or make a new secret"}
}

// refuseRefresh is the one answer to a refresh token that is not good, whatever is wrong with it.
func (i *Issuer) refuseRefresh(ctx context.Context, objectID string) error {
	i.cfg.Log.DebugContext(ctx, "refresh token refused", "object_id", objectID)
	if i.failing.again(refreshPrefix + objectID) {
		return tooMany("too many refresh tokens that are not good")
	}
	return invalid("invalid_grant", "the refresh token is unknown, over, used or called back; sign in again")
}

func tooMany(what string) error {
	return &oauthError{Status: http.StatusTooManyRequests, Code: "temporarily_unavailable", Description: what + "; try again in a minute"}
}
