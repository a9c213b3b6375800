package identity

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"strongroom/internal/api"
	"strongroom/internal/failure"
	"strongroom/internal/record"
)

const (
	maxForm     = 8 << 10 // bytes of a token request
	maxScope    = 1 << 10 // bytes
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
		return nil, invalid("unauthorized_client", "this server has no browser sign-in: applications sign in with a client ID and secret (az login --service-principal), users with a name and password (az login --username)")
	case userRealm:
		return map[string]string{
			"ver": "1.0", "account_type": "Managed", "domain_name": strings.TrimPrefix(base, "https://"),
			"cloud_instance_name": strings.TrimPrefix(base, "https://"), "cloud_audience_urn": base,
		}, nil
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
		"grant_types_supported":                 []string{"client_credentials", "password", "refresh_token"},
		"scopes_supported":                      []string{"openid", "profile", "email", "offline_access"},
		"token_endpoint_auth_methods_supported": []string{"client_secret_post", "client_secret_basic", "none"},
		"response_types_supported":              []string{"token"},
		"subject_types_supported":               []string{"public"},
		"id_token_signing_alg_values_supported": []string{"ES256"},
		"claims_supported":                      []string{"iss", "aud", "sub", "oid", "appid", "azp", "tid", "iat", "nbf", "exp", "jti", "ver", "name", "idtyp", "upn", "preferred_username"},
	}
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
