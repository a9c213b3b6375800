package identity

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"strongroom/internal/access"
	"strongroom/internal/api"
	"strongroom/internal/failure"
	"strongroom/internal/record"
	"strongroom/secret"
)

const (
	maxForm     = 8 << 10 // bytes of a token request
	maxAudience = 256     // bytes
)

// oauthError is a refusal in the form of RFC 6749 section 5.2.
type oauthError struct {
	Status      int    `json:"-"`
	Code        string `json:"error"`
	Description string `json:"error_description"`
	Trace       string `json:"trace_id,omitempty"`
}

func (e *oauthError) Error() string { return e.Code + ": " + e.Description }

func invalid(code, description string) *oauthError {
	return &oauthError{Status: http.StatusBadRequest, Code: code, Description: description}
}

// Handler answers the routes of the issuer, and 404 to all others. Mount it for the paths that Owns names.
func (i *Issuer) Handler() http.Handler { return http.HandlerFunc(i.serve) }

func (i *Issuer) serve(w http.ResponseWriter, r *http.Request) {
	trace := uuid.NewString()
	w.Header().Set("x-ms-request-id", trace)
	rt, tenant, ok := find(r.URL.EscapedPath())
	if !ok || !i.has(rt) {
		status, body := api.FromFailure(failure.New(failure.NoRoute, "there is no such path"), trace)
		write(w, status, body)
		return
	}
	c := &record.Call{Request: trace, Source: record.Source(r.RemoteAddr), Operation: rt.kind.name(), Status: http.StatusOK}
	began := i.cfg.Now()
	defer func() {
		if p := recover(); p != nil {
			if c.Operation != "" {
				p = record.Panicked(r.Context(), i.records, c, p)
			}
			panic(p)
		}
	}()
	body, err := i.answer(w, r, rt, tenant, c)
	var refusal *oauthError
	if err != nil {
		refusal = i.refusal(r.Context(), trace, err)
		c.Status, c.Code = refusal.Status, refusal.Code
	}
	// What tells everybody the same, the documents and public keys, is not recorded.
	if i.records != nil && c.Operation != "" {
		c.Took = max(0, i.cfg.Now().Sub(began))
		if failed := i.records.Outcome(context.WithoutCancel(r.Context()), c); failed != nil {
			refusal = i.refusal(r.Context(), trace, failed)
		}
	}
	if refusal != nil {
		refuse(w, r, refusal)
		return
	}
	write(w, http.StatusOK, body)
}

// name is what records call a route that decides something; "" for the others.
func (k kind) name() string {
	switch k {
	case token:
		return "IssueToken"
	case attest:
		return "IssueAttestation"
	case authorize:
		return "Authorize"
	}
	return ""
}

// answer returns the body of a route, and notes in c who it is for.
func (i *Issuer) answer(w http.ResponseWriter, r *http.Request, rt route, tenant string, c *record.Call) (any, error) {
	if method := rt.kind.method(); method != "" && r.Method != method && (method != http.MethodGet || r.Method != http.MethodHead) {
		w.Header().Set("Allow", method)
		return nil, &oauthError{Status: http.StatusMethodNotAllowed, Code: "invalid_request", Description: "this path takes " + method + " only"}
	}
	if strings.HasPrefix(rt.form.prefix, "/{tenant}") && tenant != "" && tenant != i.cfg.Tenant {
		return nil, invalid("invalid_tenant", "this server has one tenant, "+i.cfg.Tenant+"; use it in the authority")
	}
	base := i.base(r.Host)
	switch rt.kind {
	case discovery:
		return i.document(base, rt.form), nil
	case keySet:
		return i.key.jwks(), nil
	case instanceInfo:
		host := strings.TrimPrefix(base, "https://")
		return map[string]any{
			"tenant_discovery_endpoint": v2.at(base, i.cfg.Tenant, "/v2.0/.well-known/openid-configuration"),
			"api-version":               "1.1",
			"metadata":                  []any{map[string]any{"preferred_network": host, "preferred_cache": host, "aliases": []string{host}}},
		}, nil
	case authorize:
		return nil, invalid("unauthorized_client", "this server signs in applications only, with a client ID and secret (az login --service-principal); there are no users and no browser sign-in")
	case token:
		return i.grant(w, r, base, rt.form, c)
	case attestDiscovery:
		return i.attest.document(base), nil
	case attestKeys:
		return i.attest.jwks(), nil
	case attest:
		return i.attestFor(w, r, base, c)
	}
	return nil, failure.New(failure.NoRoute, "there is no such path")
}

func (k kind) method() string {
	switch k {
	case token, attest:
		return http.MethodPost
	case authorize:
		return ""
	default:
		return http.MethodGet
	}
}

// document is the discovery document of a form (OpenID Connect Discovery section 3).
func (i *Issuer) document(base string, f form) any {
	at := func(path string) string { return f.at(base, i.cfg.Tenant, path) }
	return map[string]any{
		"issuer":                                f.issuer(base, i.cfg.Tenant),
		"authorization_endpoint":                at(strings.TrimSuffix(f.token, "token") + "authorize"),
		"token_endpoint":                        at(f.token),
		"jwks_uri":                              base + "/discovery/keys",
		"grant_types_supported":                 []string{"client_credentials"},
		"token_endpoint_auth_methods_supported": []string{"client_secret_post", "client_secret_basic"},
		"response_types_supported":              []string{"token"},
		"subject_types_supported":               []string{"public"},
		"id_token_signing_alg_values_supported": []string{"ES256"},
		"claims_supported":                      []string{"iss", "aud", "sub", "oid", "appid", "azp", "tid", "iat", "nbf", "exp", "jti", "ver", "name"},
	}
}

// tokenResponse is RFC 6749 section 5.1. The token goes out as text here, and nowhere else.
type tokenResponse struct {
	Type         string `json:"token_type"`
	ExpiresIn    int    `json:"expires_in"` // seconds, a number: az refuses text
	ExtExpiresIn int    `json:"ext_expires_in"`
	AccessToken  string `json:"access_token"`
}

// grant answers a client-credentials request (RFC 6749 section 4.4).
func (i *Issuer) grant(w http.ResponseWriter, r *http.Request, base string, f form, c *record.Call) (tokenResponse, error) {
	values, err := readForm(w, r)
	if err != nil {
		return tokenResponse{}, err
	}
	if g := values.Get("grant_type"); g != "client_credentials" {
		return tokenResponse{}, invalid("unsupported_grant_type", "this server grants client_credentials only")
	}
	clientID, candidate, err := credentials(r, values)
	if err != nil {
		return tokenResponse{}, err
	}
	defer candidate.Wipe()
	app, ok, err := i.signIn(r.Context(), clientID, candidate)
	if err != nil {
		return tokenResponse{}, err
	}
	if !ok {
		return tokenResponse{}, i.refuseSignIn(r.Context(), clientID)
	}
	c.Caller = access.Caller{ObjectID: app.ObjectID, AppID: app.ClientID, Issuer: f.issuer(base, i.cfg.Tenant)}
	// The audience comes after the secret: strangers learn nothing from its errors.
	audience, err := audienceOf(values)
	if err != nil {
		return tokenResponse{}, err
	}
	now := i.cfg.Now()
	id, err := uuid.NewRandomFromReader(i.cfg.Rand)
	if err != nil {
		return tokenResponse{}, failure.Wrap(failure.Internal, err, "no randomness for a token")
	}
	payload, err := json.Marshal(map[string]any{
		"iss": f.issuer(base, i.cfg.Tenant), "aud": audience, "sub": app.ObjectID, "oid": app.ObjectID,
		"appid": app.ClientID, "azp": app.ClientID, "series": app.series, "tid": i.cfg.Tenant, "name": app.Name, "idtyp": "app", "ver": f.ver,
		"iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(TokenLifetime).Unix(), "jti": id.String(),
	})
	if err != nil {
		return tokenResponse{}, failure.Wrap(failure.Internal, err, "the token cannot be written")
	}
	signed, err := i.key.sign(payload)
	if err != nil {
		return tokenResponse{}, failure.Wrap(failure.Internal, err, "the token cannot be signed")
	}
	i.cfg.Log.InfoContext(r.Context(), "token issued", "client_id", app.ClientID, "object_id", app.ObjectID, "audience", audience, "jti", id.String())
	seconds := int(TokenLifetime / time.Second)
	return tokenResponse{Type: "Bearer", ExpiresIn: seconds, ExtExpiresIn: seconds, AccessToken: signed}, nil
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

// refuseSignIn is the one answer to a wrong secret and to an unknown client.
func (i *Issuer) refuseSignIn(ctx context.Context, clientID string) error {
	id, valid := normalID(clientID)
	if !valid {
		id = "(not a GUID)"
	}
	// For debugging only: anybody can be refused as often as they like, and must not fill the disk of the log with it.
	// The audit log has these, with a bound.
	i.cfg.Log.DebugContext(ctx, "sign-in refused", "client_id", id)
	if i.failing.again(id) {
		return &oauthError{Status: http.StatusTooManyRequests, Code: "temporarily_unavailable", Description: "too many failed sign-ins with this client ID; try again in a minute"}
	}
	return &oauthError{Status: http.StatusUnauthorized, Code: "invalid_client", Description: "the client ID is unknown or the client secret is wrong; check both, or make a new secret"}
}

// refusal is an error in OAuth's form. What is not an oauthError is our own trouble and is told in general.
func (i *Issuer) refusal(ctx context.Context, trace string, err error) *oauthError {
	out, ok := errors.AsType[*oauthError](err)
	if !ok {
		i.cfg.Log.ErrorContext(ctx, "token request failed", "request", trace, "error", err)
		status, body := api.FromFailure(err, "")
		out = &oauthError{Status: status, Code: "server_error", Description: body.Error.Message}
	}
	answer := *out
	answer.Trace = trace
	return &answer
}

func refuse(w http.ResponseWriter, r *http.Request, answer *oauthError) {
	switch answer.Status {
	case http.StatusUnauthorized:
		if _, _, basic := r.BasicAuth(); basic {
			w.Header().Set("WWW-Authenticate", `Basic realm="strongroom"`)
		}
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		w.Header().Set("Retry-After", strconv.Itoa(int(failureWindow/time.Second)))
	}
	write(w, answer.Status, *answer)
}

func write(w http.ResponseWriter, status int, body any) {
	out, err := json.Marshal(body)
	if err != nil { // our own types: strings, numbers, lists
		status, out = http.StatusInternalServerError, []byte(`{"error":"server_error"}`)
	}
	h := w.Header()
	h.Set("Content-Type", "application/json; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	h.Set("Pragma", "no-cache")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Length", strconv.Itoa(len(out)))
	w.WriteHeader(status)
	_, _ = w.Write(out)
}
