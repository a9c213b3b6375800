// Package controlplane is the HTTP surface through which HSMs are created, found, deleted and purged: the part of
// Azure Resource Manager that az, the SDKs and Terraform need for Microsoft.KeyVault/managedHSMs, with one
// subscription and resource groups that are names only. It decodes, calls a [Service] and encodes.
//
// Every operation has ended when it is answered. Where clients expect a long-running one (delete, purge) the answer
// is 202 with URLs to poll, which say "Succeeded" at once and after any restart, as they keep no state.
package controlplane

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
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
	"strongroom/internal/limit"
	"strongroom/internal/record"
	"strongroom/internal/strictjson"
)

// HSM is an HSM as the control plane shows it.
type HSM struct {
	Name, ID                  string
	ResourceGroup             string
	Location                  string // "local"
	TenantID                  string
	URI                       string // of the data plane, "https://…"
	Tags                      map[string]string
	InitialAdmins             []string // object IDs
	SoftDeleteRetentionDays   int
	PurgeProtection           bool
	NetworkACLs               json.RawMessage // as a HSMSpec had it; nil means the default
	ProvisioningState         string          // ARM's words: Succeeded, SecurityDomainRestore, Activated, …
	StatusMessage             string
	ActivationStatus          string // NotActivated, Active, Failed, Unknown
	ActivationMessage         string
	Created, Updated          time.Time
	DeletedAt, ScheduledPurge time.Time // zero unless deleted
}

// HSMSpec is what an HSM is made from, or changed to. It is complete: what a request left out has its default or,
// for an HSM that exists, the value it had.
type HSMSpec struct {
	Name, ResourceGroup, Location, TenantID string
	Subscription                            string
	Tags                                    map[string]string
	InitialAdmins                           []string
	SoftDeleteRetentionDays                 int // 7 to 90
	PurgeProtection                         bool
	NetworkACLs                             json.RawMessage // one spelling of the only rules there are: allow all
}

// Service owns the HSMs. Names are compared without regard to case. Every method but Operator is called for an
// operator only; the caller is there for the record. Errors are failures: NotFound for a name that is not there
// (or not deleted, where a deleted one is asked for), Conflict for one that is in the way.
type Service interface {
	// Operator returns nil if the caller may use the control plane, else failure.Forbidden.
	Operator(ctx context.Context, caller access.Caller) error
	// CreateHSM makes an HSM, or changes tags, network rules and purge protection (on, never off) of the one of that
	// name in that resource group. Conflict if the name is taken in another group, or by a deleted HSM.
	CreateHSM(ctx context.Context, caller access.Caller, spec HSMSpec) (hsm HSM, created bool, err error)
	GetHSM(ctx context.Context, caller access.Caller, name string) (HSM, error)
	ListHSMs(ctx context.Context, caller access.Caller) ([]HSM, error)
	// DeleteHSM puts an HSM out of use; it can be recovered until it is purged.
	DeleteHSM(ctx context.Context, caller access.Caller, name string) error
	ListDeleted(ctx context.Context, caller access.Caller) ([]HSM, error)
	GetDeleted(ctx context.Context, caller access.Caller, name string) (HSM, error)
	RecoverHSM(ctx context.Context, caller access.Caller, name string) (HSM, error)
	// PurgeHSM destroys a deleted HSM for good. Conflict while purge protection holds it.
	PurgeHSM(ctx context.Context, caller access.Caller, name string) error
	// NameAvailable reports whether a new HSM may have the name: no HSM, deleted or not, has it.
	NameAvailable(ctx context.Context, caller access.Caller, name string) (bool, error)
}

// Verifier is the part of access.Verifier that is used here.
type Verifier interface {
	Verify(ctx context.Context, raw string, audiences []string) (access.Caller, error)
}

// Config is what the control plane stands on. All fields are required unless they say otherwise.
type Config struct {
	Service  Service
	Verifier Verifier
	// BaseURLs are the ways to reach this server, "https://host[:port]" without a path; the first one serves requests
	// for other hosts. Tokens must be for one of them, or for Azure's own Resource Manager.
	BaseURLs         []string
	Tenant           string // GUID
	Subscription     string // GUID
	SubscriptionName string // for people
	ResourceGroup    string // always listed, also without HSMs in it
	Location         string // the one region, "local"
	MHSMSuffix       string // of data-plane host names, "managedhsm.localhost:8443"; optional
	Log              *slog.Logger
	Limits           *limit.Limiter  // of principals, shared with the data plane; nil: no bounds
	Recorder         record.Recorder // nil: no records are kept
}

// azureARM are audiences of Azure's own Resource Manager, which some clients ask for whatever the cloud is named.
var azureARM = []string{"https://management.azure.com", "https://management.core.windows.net"}

const (
	maxPath  = 2048
	maxQuery = 4096
	maxBody  = 64 << 10
)

// bodyLimits bound a body before it is decoded. Tag names that differ in case only are one name to Azure.
var bodyLimits = strictjson.Limits{Bytes: maxBody, Depth: 16, Elements: 256, StringBytes: 8 << 10, Values: 2048, FoldNames: true}

// Plane answers the control plane. Safe for concurrent use.
type Plane struct {
	cfg       Config
	audiences []string
}

// New returns the control plane.
func New(cfg Config) (*Plane, error) {
	if len(cfg.BaseURLs) == 0 {
		return nil, errors.New("controlplane: at least one base URL is needed")
	}
	for _, id := range []string{cfg.Subscription, cfg.Tenant} {
		if len(id) != 36 || uuid.Validate(id) != nil {
			return nil, errors.New("controlplane: subscription and tenant must be GUIDs")
		}
	}
	if !validGroup(cfg.ResourceGroup) || !validLocation.MatchString(cfg.Location) {
		return nil, errors.New("controlplane: the default resource group or the location is not a valid name")
	}
	return &Plane{cfg: cfg, audiences: append(append([]string(nil), cfg.BaseURLs...), azureARM...)}, nil
}

// Handler answers the paths that Owns names, and 404 to all others.
func (p *Plane) Handler() http.Handler { return http.HandlerFunc(p.serveHTTP) }

// Owns reports whether a raw URL path belongs to the control plane, whatever the method.
func Owns(path string) bool {
	first, _, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	switch lower(first) {
	case "subscriptions", "tenants", "metadata", "v1.0":
		return strings.HasPrefix(path, "/")
	}
	return false
}

// call is one request that has passed the common checks.
type call struct {
	caller access.Caller
	base   string            // base URL that the request came by
	args   map[string]string // of the path, by the names in the pattern
	query  url.Values
	body   []byte // strict JSON, or empty
}

// answer is what goes back. A nil body is an empty one.
type answer struct {
	status int
	header map[string]string
	body   any
}

func ok(body any) (answer, error) { return answer{status: http.StatusOK, body: body}, nil }

func (p *Plane) serveHTTP(w http.ResponseWriter, r *http.Request) {
	started := time.Now()
	e := &record.Call{Request: uuid.NewString(), Source: record.Source(r.RemoteAddr)}
	correlation := e.Request
	if c := r.Header.Get("x-ms-correlation-request-id"); len(c) == 36 && uuid.Validate(c) == nil {
		correlation = lower(c)
		e.ClientRequest = correlation
	}
	w.Header().Set("x-ms-request-id", e.Request)
	w.Header().Set("x-ms-correlation-request-id", correlation)
	defer func() {
		if v := recover(); v != nil {
			e.Took = time.Since(started)
			panic(record.Panicked(r.Context(), p.cfg.Recorder, e, v))
		}
	}()
	a, err := p.serve(w, r, e)
	var body []byte
	if err == nil && a.body != nil {
		if body, err = json.Marshal(a.body); err != nil {
			err = failure.Wrap(failure.Internal, err, "the answer cannot be written")
		}
	}
	if e.Status = a.status; err != nil {
		e.Status, e.Code = outcomeOf(err)
	}
	e.Took = time.Since(started)
	if p.cfg.Recorder != nil {
		// A client that went away does not take the record with it.
		if failed := p.cfg.Recorder.Outcome(context.WithoutCancel(r.Context()), e); failed != nil {
			err = failed
		}
	}
	if err != nil {
		p.writeError(w, r, e, err)
		return
	}
	for name, value := range a.header {
		w.Header().Set(name, value)
	}
	writeBody(w, a.status, body)
}

// outcomeOf is the status and code that an error is answered with.
func outcomeOf(err error) (status int, code string) {
	status, body := bodyOf(err)
	return status, body.Error.Code
}

// bodyOf is api.FromFailure with the codes of Resource Manager where they differ.
func bodyOf(err error) (status int, body api.ErrorBody) {
	status, body = api.FromFailure(err, "")
	if code, other := armCodes[body.Error.Code]; other {
		body.Error.Code = code
	}
	return status, body
}

// serve is the order of every request: path, token, route, version, subscription, role, body, operation.
func (p *Plane) serve(w http.ResponseWriter, r *http.Request, e *record.Call) (answer, error) {
	for _, name := range []string{"X-HTTP-Method", "X-HTTP-Method-Override", "X-HTTP-Request"} {
		if r.Header.Get(name) != "" {
			return answer{}, failure.New(failure.BadParameter, "a method override header is not accepted; send the method itself")
		}
	}
	segments, err := splitPath(r.URL.EscapedPath())
	if err != nil {
		return answer{}, err
	}
	query, err := parseQuery(r.URL.RawQuery)
	if err != nil {
		return answer{}, err
	}
	c := &call{base: p.base(r.Host), query: query}
	rt, args, routeErr := findRoute(r.Method, segments)
	if routeErr != nil || rt.access != public {
		if c.caller, err = p.authenticate(r); err != nil {
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(
				`Bearer authorization_uri="%s/%s", error="invalid_token", error_description="The access token is missing or does not hold."`, c.base, p.cfg.Tenant))
			return answer{}, err
		}
		e.Caller = c.caller
		if p.cfg.Limits != nil {
			if err := p.cfg.Limits.Allow(c.caller.ObjectID); err != nil {
				return answer{}, err
			}
		}
	}
	if routeErr != nil {
		if allow, bad := errors.AsType[*methodError](routeErr); bad {
			w.Header().Set("Allow", strings.Join(allow.methods, ", "))
			return answer{}, failure.New(failure.BadMethod, "this path takes %s", strings.Join(allow.methods, ", "))
		}
		return answer{}, routeErr
	}
	c.args = args
	// Reading and the questions that sign-in asks change nothing; a resource group is a name and cannot be made.
	e.Operation, e.Changes = rt.name, rt.access == operators && r.Method != http.MethodGet && r.Method != http.MethodHead && strings.Contains(rt.name, "ManagedHsm") && !strings.HasPrefix(rt.name, "Check")
	if name := args["name"]; checkHSMName(name) == nil {
		e.HSM = name
	}
	if err := rt.versions.check(query); err != nil {
		return answer{}, err
	}
	if s, has := args["subscription"]; has && lower(s) != lower(p.cfg.Subscription) {
		return answer{}, failure.Coded(failure.NotFound, "SubscriptionNotFound", "this server has one subscription, %s; name it with --subscription", p.cfg.Subscription)
	}
	if rt.access == operators {
		if err := p.cfg.Service.Operator(r.Context(), c.caller); err != nil {
			return answer{}, err
		}
	}
	if rt.takesBody {
		if c.body, err = readBody(w, r); err != nil {
			return answer{}, err
		}
	}
	if e.Changes && p.cfg.Recorder != nil {
		if err := p.cfg.Recorder.Intent(r.Context(), e); err != nil {
			return answer{}, err
		}
		e.Intended = true
	}
	return rt.run(p, r.Context(), c)
}

func (p *Plane) authenticate(r *http.Request) (access.Caller, error) {
	values := r.Header.Values("Authorization")
	if len(values) != 1 {
		return access.Caller{}, failure.New(failure.Unauthorized, "this call needs one bearer token; sign in (az login) and try again")
	}
	scheme, raw, found := strings.Cut(values[0], " ")
	if !found || !strings.EqualFold(scheme, "Bearer") {
		return access.Caller{}, failure.New(failure.Unauthorized, "the Authorization header is not a bearer token")
	}
	return p.cfg.Verifier.Verify(r.Context(), strings.TrimSpace(raw), p.audiences)
}

// base returns the base URL that a Host header belongs to, else the first, so that URLs in answers lead back.
func (p *Plane) base(host string) string {
	for _, b := range p.cfg.BaseURLs {
		if lower(strings.TrimPrefix(b, "https://")) == lower(host) {
			return b
		}
	}
	return p.cfg.BaseURLs[0]
}

// parseQuery reads the query; names are kept in lower case, as Resource Manager compares them so.
func parseQuery(raw string) (url.Values, error) {
	if len(raw) > maxQuery {
		return nil, failure.New(failure.BadParameter, "the query is too long")
	}
	values, err := url.ParseQuery(raw)
	if err != nil {
		return nil, failure.New(failure.BadParameter, "the query cannot be read")
	}
	out := url.Values{}
	for name, list := range values {
		if len(list) > 1 || out.Has(lower(name)) {
			return nil, failure.New(failure.BadParameter, "a query parameter is repeated; give each once")
		}
		out[lower(name)] = list
	}
	return out, nil
}

// readBody reads at most maxBody bytes of strict JSON. An empty body stays empty.
func readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
			return nil, failure.New(failure.TooLarge, "the body is larger than %d bytes", maxBody)
		}
		return nil, failure.Wrap(failure.BadParameter, err, "the body could not be read")
	}
	if len(body) == 0 {
		return nil, nil
	}
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		return nil, failure.New(failure.BadMediaType, "the body must be JSON, with Content-Type: application/json")
	}
	if err := strictjson.Check(body, bodyLimits); err != nil {
		reason := "it cannot be read"
		if e, known := errors.AsType[*strictjson.Error](err); known {
			reason = e.Reason
		}
		return nil, failure.Coded(failure.BadParameter, "InvalidRequestContent", "the body is not the JSON that this operation takes: %s", reason)
	}
	return body, nil
}

// decode reads the body of a call. Members that are not in the form are ignored: clients send back what they got.
func decode[T any](c *call) (T, error) {
	var v T
	if len(c.body) == 0 {
		return v, failure.Coded(failure.BadParameter, "InvalidRequestContent", "this operation needs a JSON body")
	}
	if err := json.Unmarshal(c.body, &v); err != nil {
		what := "it is not an object of the right form"
		if t, isType := errors.AsType[*json.UnmarshalTypeError](err); isType && t.Field != "" {
			what = fmt.Sprintf("member %q has the wrong type", t.Field)
		}
		return v, failure.Coded(failure.BadParameter, "InvalidRequestContent", "the body is not the JSON that this operation takes: %s", what)
	}
	return v, nil
}

// armCodes are the codes that Resource Manager uses where the data plane has others.
var armCodes = map[string]string{
	"Unauthorized":  "AuthenticationFailed",
	"AccessDenied":  "AuthorizationFailed",
	"BadParameter":  "BadRequest",
	"RouteNotFound": "InvalidResourceType",
}

// writeError is the only place that writes a status of 400 or more. What a stranger is refused is logged for debugging
// only, or anybody could fill the disk of the log.
func (p *Plane) writeError(w http.ResponseWriter, r *http.Request, e *record.Call, err error) {
	status, body := bodyOf(err)
	switch {
	case e.Caller.ObjectID == "" && status != http.StatusInternalServerError: // also 503, while an issuer is down
		p.cfg.Log.DebugContext(r.Context(), "control-plane request of a stranger refused", "request", e.Request, "status", status, "code", body.Error.Code, "error", err)
	case status >= 500:
		p.cfg.Log.ErrorContext(r.Context(), "control-plane request failed", "request", e.Request, "status", status, "error", err)
	default:
		p.cfg.Log.InfoContext(r.Context(), "control-plane request refused", "request", e.Request, "status", status, "code", body.Error.Code)
	}
	switch status {
	case http.StatusTooManyRequests:
		w.Header().Set("Retry-After", strconv.Itoa(int(limit.RetryAfter/time.Second)))
	case http.StatusServiceUnavailable:
		w.Header().Set("Retry-After", "5")
	}
	out, err := json.Marshal(body)
	if err != nil { // strings only
		out = []byte(`{"error":{"code":"InternalServerError","message":"the error cannot be written"}}`)
	}
	writeBody(w, status, out)
}

func writeBody(w http.ResponseWriter, status int, body []byte) {
	h := w.Header()
	h.Set("Cache-Control", "no-cache")
	h.Set("X-Content-Type-Options", "nosniff")
	if len(body) > 0 {
		h.Set("Content-Type", "application/json; charset=utf-8")
	}
	if status != http.StatusNoContent {
		h.Set("Content-Length", strconv.Itoa(len(body)))
	}
	w.WriteHeader(status)
	_, _ = w.Write(body)
}

// lower lowers A to Z and nothing else: other letters that Unicode would fold stay different.
func lower(s string) string {
	b := []byte(s)
	for i, c := range b {
		if c >= 'A' && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}
