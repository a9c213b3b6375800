// Package dataplane is the HTTP surface of one Managed HSM, in Azure's wire forms. It decodes, calls package
// hsm and encodes; it decides nothing. The table of routes is in routes.go; what every request goes through
// (path, challenge, token, version, bounds, strict decoding, errors, headers) is here, once.
package dataplane

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"net/url"
	"reflect"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"strongroom/internal/access"
	"strongroom/internal/api"
	"strongroom/internal/backup"
	"strongroom/internal/failure"
	"strongroom/internal/hsm"
	"strongroom/internal/limit"
	"strongroom/internal/metrics"
	"strongroom/internal/record"
	"strongroom/internal/strictjson"
)

// apiVersions are the versions that are accepted. The version never changes what is stored.
var apiVersions = map[string]bool{
	"7.0": true, "7.1": true, "7.2-preview": true, "7.2": true, "7.3-preview": true, "7.3": true,
	"7.4-preview.1": true, "7.4": true, "7.5-preview.1": true, "7.5": true, "7.6-preview.1": true, "7.6-preview.2": true, "7.6": true,
	"2025-06-01-preview": true, "2025-07-01": true, "2026-01-01-preview": true, "2026-03-01-preview": true, "2026-04-01": true,
}

// oldResource is the audience of Azure's own Managed HSMs; some clients ask for it whatever the challenge says.
const oldResource = "https://managedhsm.azure.net"

// Config is what the data plane of all HSMs of one server stands on.
type Config struct {
	HSMs     *hsm.Service
	Backups  *backup.Service // nil: there are none
	Verifier *access.Verifier
	// Authorization is the authority that the challenge names: "https://127.0.0.1:8443/<tenant>".
	Authorization string
	Region        string
	Log           *slog.Logger
	Now           func() time.Time
	// What follows may be nil. Limits bound what one principal and all of them may ask for; Recorder keeps the record
	// without which nothing is done and nothing is answered; Metrics count.
	Limits   *limit.Limiter
	Recorder record.Recorder
	Metrics  *metrics.Metrics
	// Calls, if not nil, counts the calls of those who may call, but for those that ask how something stands: what runs
	// in the background gives way to them.
	Calls *atomic.Uint64
}

// Handler answers the data plane. Its requests carry the HSM's name in their context: see [Serve].
type Handler struct {
	cfg    Config
	router router
	region []string // value of a header
}

// New returns the handler for all HSMs of a server.
func New(cfg Config) *Handler {
	return &Handler{cfg: cfg, router: newRouter(routes), region: []string{cfg.Region}}
}

// operation is one line of behaviour: its bounds and what it does.
type operation struct {
	name       string                                                            // for records and metrics: the operation's name in the REST reference, or one like them
	action     access.Action                                                     // set by newRouter from the table of actions
	changes    bool                                                              // something that outlasts the call: state, or who has it
	maxBody    int64                                                             // bytes; 0 means the operation takes no body, and one that is sent is ignored
	anyVersion bool                                                              // status routes: clients poll the URL as given, without api-version
	may        func(h *hsm.HSM, ctx context.Context, caller access.Caller) error // of one that changes something; nil: by action and scope
	run        func(ctx context.Context, c *call) (answer, error)
}

// call is one authenticated request.
type call struct {
	caller        access.Caller
	hsm           *hsm.HSM
	base          string // "https://host[:port]", as the client addressed this HSM
	name, version string
	id, scope     string // of a role definition or assignment, and where in the HSM it is
	query         url.Values
	body          []byte
	record        *record.Call
	backups       *backup.Service
}

// answer is what goes back. A nil body is an empty one. A secret body is cleared once it is written, as far as its
// own bytes go; wipe, if there is one, then clears where it came from.
type answer struct {
	status int
	header map[string]string
	body   any
	wipe   func()
}

func ok(body any) (answer, error) { return answer{status: http.StatusOK, body: body}, nil }

// Serve answers r for the HSM of the given name.
func (h *Handler) Serve(w http.ResponseWriter, r *http.Request, name string) {
	h.respond(w, r, func(e *record.Call) (answer, error) { return h.serve(w, r, name, e) })
}

// Refuse answers a request that reached no HSM.
func (h *Handler) Refuse(w http.ResponseWriter, r *http.Request, err error) {
	h.respond(w, r, func(*record.Call) (answer, error) { return answer{}, err })
}

// respond has a request answered, its record kept, and only then the answer written.
func (h *Handler) respond(w http.ResponseWriter, r *http.Request, serve func(e *record.Call) (answer, error)) {
	started := h.cfg.Now()
	e := &record.Call{Request: uuid.NewString(), Source: record.Source(r.RemoteAddr)}
	header := w.Header()
	header[headerRequestID] = []string{e.Request}
	header[headerRegion] = h.region
	if c := r.Header.Get(headerClientRequestID); c != "" && len(c) <= 64 && isToken(c) {
		header[headerClientRequestID] = []string{c}
		e.ClientRequest = c
	}
	if h.cfg.Metrics != nil {
		defer h.cfg.Metrics.Begin()()
	}
	defer func() {
		if p := recover(); p != nil {
			e.Took = h.cfg.Now().Sub(started)
			panic(record.Panicked(r.Context(), h.cfg.Recorder, e, p))
		}
	}()
	a, err := serve(e)
	var refusal api.ErrorBody
	if e.Status = a.status; err != nil {
		e.Status, refusal = api.FromFailure(err, e.Request)
		e.Code = refusal.Error.Code
	}
	e.Took = h.cfg.Now().Sub(started)
	if h.cfg.Recorder != nil {
		// A client that went away does not take the record with it.
		if failed := h.cfg.Recorder.Outcome(context.WithoutCancel(r.Context()), e); failed != nil {
			if a.wipe != nil {
				a.wipe()
			}
			err = failed
			e.Status, refusal = api.FromFailure(err, e.Request)
		}
	}
	if err != nil {
		h.writeError(r.Context(), w, r, e, err, refusal)
	} else {
		h.write(w, a)
	}
	if h.cfg.Metrics != nil {
		h.cfg.Metrics.Observe(e.HSM, e.Operation, e.Status, e.Took)
	}
	if h.cfg.Log.Enabled(r.Context(), slog.LevelDebug) {
		h.cfg.Log.DebugContext(r.Context(), "request", "hsm", e.HSM, "operation", e.Operation, "method", printableMethod(r.Method), "status", e.Status, "request", e.Request, "took", e.Took)
	}
}

// Headers, spelled as net/http keeps them, so that it need not respell them for each request. Values that are always
// the same are shared by all answers; nobody changes a value in place.
const (
	headerRequestID       = "X-Ms-Request-Id"
	headerRegion          = "X-Ms-Keyvault-Region"
	headerClientRequestID = "X-Ms-Client-Request-Id"
)

var fixedHeaders = []struct {
	name  string
	value []string
}{
	{"Content-Type", []string{"application/json; charset=utf-8"}},
	{"Cache-Control", []string{"no-cache"}},
	{"X-Content-Type-Options", []string{"nosniff"}},
	{"X-Frame-Options", []string{"SAMEORIGIN"}},
	{"Content-Security-Policy", []string{"default-src 'self'"}},
}

// serve is the order of every request: path, host, token, rate, route, version, body, HSM, place, token again, right,
// record, operation.
func (h *Handler) serve(w http.ResponseWriter, r *http.Request, name string, e *record.Call) (answer, error) {
	if r.Header.Get("X-Http-Method") != "" || r.Header.Get("X-Http-Method-Override") != "" || r.Header.Get("X-Http-Request") != "" {
		return answer{}, failure.New(failure.BadParameter, "a method override header is not accepted; send the method itself")
	}
	segments, pathErr := splitPath(r.URL)
	// An unknown path is told to known callers only; a malformed one is refused before anything looks at it.
	if pathErr != nil && !errors.Is(pathErr, failure.NoRoute) {
		return answer{}, pathErr
	}
	query, err := parseQuery(r.URL.RawQuery)
	if err != nil {
		return answer{}, err
	}
	resource, err := resourceOf(r.Host)
	if err != nil {
		return answer{}, err
	}
	caller, err := h.authenticate(w, r, resource)
	if err != nil {
		return answer{}, err
	}
	e.Caller = caller
	if h.cfg.Limits != nil {
		if err := h.cfg.Limits.Allow(caller.ObjectID); err != nil {
			return answer{}, err
		}
	}
	if pathErr != nil {
		return answer{}, pathErr
	}
	m, err := h.router.find(r.Method, segments)
	if err != nil {
		return answer{}, err
	}
	if h.cfg.Calls != nil && !m.op.anyVersion {
		h.cfg.Calls.Add(1)
	}
	e.Operation, e.Action, e.Changes, e.Version = m.op.name, m.action, m.op.changes, m.version
	if access.ValidScope(access.ScopeKey(m.name)) {
		e.Key = m.name
	}
	if m.op.changes && access.IsGUID(m.id) && access.ValidScope(m.where()) { // a role's or an assignment's: nothing else of a path gets into records
		e.Scope, e.Object = m.where(), m.id
	}
	if err := checkVersion(query, m.op.anyVersion); err != nil {
		return answer{}, err
	}
	if h.cfg.Limits != nil && m.op.maxBody > smallBody && (r.ContentLength < 0 || r.ContentLength > smallBody) {
		done, err := h.cfg.Limits.Upload(caller.ObjectID)
		if err != nil {
			return answer{}, err
		}
		defer done()
	}
	body, err := readBody(w, r, m.op.maxBody)
	if err != nil {
		return answer{}, err
	}
	defer clear(body) // it may hold a key or a plaintext, also where none belongs; what is decoded of it is a copy
	target, err := h.cfg.HSMs.Open(r.Context(), name)
	if err != nil {
		return answer{}, err
	}
	e.HSM, e.HSMID = target.Name(), target.ID()
	if h.cfg.Limits != nil {
		leave, err := h.cfg.Limits.Enter(r.Context(), e.HSMID)
		if err != nil {
			return answer{}, err
		}
		defer leave()
	}
	// The body may have taken half a minute, and the place five seconds: a token that expired or was called back
	// meanwhile counts no more.
	if caller, err = h.authenticate(w, r, resource); err != nil {
		return answer{}, err
	}
	if m.op.changes {
		// Whoever may not, begins nothing and has no intent: a refusal is one record. What is done is decided where it is
		// done, which asks again.
		if err := m.may(r.Context(), target, caller); err != nil {
			return answer{}, err
		}
		if h.cfg.Recorder != nil {
			if err := h.cfg.Recorder.Intent(r.Context(), e); err != nil {
				return answer{}, err
			}
			e.Intended = true
		}
	}
	return m.op.run(r.Context(), &call{caller: caller, hsm: target, base: "https://" + r.Host, name: m.name, version: m.version, id: m.id, query: query, body: body, record: e, backups: h.cfg.Backups})
}

// may asks whether a caller may begin an operation.
func (m *match) may(ctx context.Context, target *hsm.HSM, caller access.Caller) error {
	if m.op.may != nil {
		return m.op.may(target, ctx, caller)
	}
	return target.May(ctx, caller, m.action, m.where())
}

// where is the scope that the request is about.
func (m *match) where() string {
	if m.scope == "" {
		return access.ScopeKey(m.name)
	}
	return m.scope
}

// authenticate verifies the bearer token. SDK clients send their first request without one, and with the body
// stripped: they get the challenge before anything else is looked at.
func (h *Handler) authenticate(w http.ResponseWriter, r *http.Request, resource string) (access.Caller, error) {
	caller, err := h.verify(r, resource)
	if err != nil {
		w.Header().Set("WWW-Authenticate", fmt.Sprintf("Bearer authorization=%q, resource=%q", h.cfg.Authorization, resource))
	}
	return caller, err
}

func (h *Handler) verify(r *http.Request, resource string) (access.Caller, error) {
	values := r.Header.Values("Authorization")
	if len(values) == 0 {
		return access.Caller{}, failure.New(failure.Unauthorized, "this call needs a bearer token; the WWW-Authenticate header says from where and for what")
	}
	scheme, token, found := strings.Cut(values[0], " ")
	if len(values) > 1 || !found || !strings.EqualFold(scheme, "Bearer") {
		return access.Caller{}, failure.New(failure.Unauthorized, "the Authorization header is not one bearer token")
	}
	return h.cfg.Verifier.Verify(r.Context(), strings.TrimSpace(token), []string{resource, oldResource})
}

// resourceOf names the resource of the challenge: the host without its first label, port kept. Every stock SDK
// demands that the host it calls ends in "." and this, so "https://127.0.0.1:9443" gives "https://0.0.1:9443".
func resourceOf(host string) (string, error) {
	name, port, hasPort := strings.Cut(host, ":")
	for _, c := range []byte(name) {
		if !(c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '.' || c == '-') {
			return "", failure.New(failure.BadParameter, "the Host header is not a host name")
		}
	}
	if hasPort {
		if _, err := strconv.ParseUint(port, 10, 16); err != nil {
			return "", failure.New(failure.BadParameter, "the Host header has no valid port")
		}
	}
	if first, _, dotted := strings.Cut(name, "."); dotted {
		host = host[len(first)+1:]
	}
	return "https://" + strings.ToLower(host), nil
}

// plainQueries are the queries of most requests, nothing but a known version, already taken apart. They are shared and
// only read.
var plainQueries = func() map[string]url.Values {
	m := map[string]url.Values{}
	for v := range apiVersions {
		m["api-version="+v] = url.Values{"api-version": {v}}
	}
	return m
}()

func parseQuery(raw string) (url.Values, error) {
	if query := plainQueries[raw]; query != nil {
		return query, nil
	}
	if len(raw) > 4096 {
		return nil, failure.New(failure.BadParameter, "the query is too long")
	}
	query, err := url.ParseQuery(raw)
	if err != nil {
		return nil, failure.New(failure.BadParameter, "the query cannot be read")
	}
	for name, values := range query {
		if len(values) > 1 {
			return nil, failure.New(failure.BadParameter, "a query parameter is repeated; give each once")
		}
		if strings.EqualFold(name, "api-version") && name != "api-version" {
			return nil, failure.New(failure.BadParameter, "write the query parameter as api-version, in lower case")
		}
	}
	return query, nil
}

func checkVersion(query url.Values, optional bool) error {
	v := query.Get("api-version")
	switch {
	case v == "" && optional:
		return nil
	case v == "":
		return failure.Coded(failure.BadParameter, "MissingApiVersionParameter", "the query parameter api-version is required; for example ?api-version=7.4")
	case !apiVersions[v]:
		return failure.Coded(failure.BadParameter, "UnsupportedApiVersion", "this api-version is not known here; 7.0 to 2026-04-01 are, for example 7.4")
	}
	return nil
}

// bodyLimits bound what a JSON body may be before it is decoded into anything.
var bodyLimits = strictjson.Limits{Bytes: restoreBody, Depth: 16, Elements: 4096, StringBytes: restoreBody, Values: 16384, FoldNames: true}

// readBody reads at most limit bytes and checks that they are strict JSON. An empty body stays empty.
func readBody(w http.ResponseWriter, r *http.Request, limit int64) (body []byte, err error) {
	if limit == 0 {
		return nil, nil
	}
	defer func() {
		if err != nil { // whatever is in it, and a byte behind it that was one too many
			clear(body[:cap(body)])
			body = nil
		}
	}()
	// What is announced and does not come must not hold more memory than what does come.
	body, err = readAll(http.MaxBytesReader(w, r.Body, limit), min(r.ContentLength, limit, smallBody))
	if err != nil {
		if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
			return body, failure.New(failure.TooLarge, "the body is larger than %d bytes, the limit of this operation", limit)
		}
		return body, failure.Wrap(failure.BadParameter, err, "the body could not be read")
	}
	if len(body) == 0 {
		return nil, nil
	}
	if !isJSON(r.Header.Get("Content-Type")) {
		return body, failure.New(failure.BadMediaType, "the body must be JSON, with Content-Type: application/json")
	}
	if err := strictjson.Check(body, bodyLimits); err != nil {
		return body, failure.Wrap(failure.BadParameter, err, "the body is not the JSON that this operation takes: %v", err)
	}
	return body, nil
}

// readAll is io.ReadAll with room for what is announced, so that a plaintext is in one place; what the buffer grew out
// of is cleared. announced is negative if nothing is known. With an error comes what was read until then.
func readAll(r io.Reader, announced int64) ([]byte, error) {
	body := make([]byte, 0, max(announced, 511)+1) // one more, to see the end
	for {
		n, err := r.Read(body[len(body):cap(body)])
		body = body[:len(body)+n]
		if err == io.EOF {
			return body, nil
		}
		if err != nil {
			return body, err
		}
		if len(body) == cap(body) {
			grown := append(body, 0)[:len(body)]
			clear(body)
			body = grown
		}
	}
}

func isJSON(contentType string) bool {
	switch contentType { // as nearly everybody writes it
	case "application/json", "application/json; charset=utf-8":
		return true
	}
	kind, _, err := mime.ParseMediaType(contentType)
	return err == nil && kind == "application/json"
}

// plainForm is a form that can be read without encoding/json where it is plain: see [strictjson.Flat].
type plainForm interface {
	TakeMember(name, value []byte) bool
}

// decode reads the body of a call. Members that are not in the form are ignored, as Azure does.
func decode[T any](c *call) (T, error) {
	var v T
	if len(c.body) == 0 {
		return v, failure.New(failure.BadParameter, "this operation needs a JSON body")
	}
	// null would be taken for an object without members, which is a request that changes nothing, or removes a policy.
	if c.body[len(c.body)-len(bytes.TrimLeft(c.body, " \t\r\n"))] != '{' {
		return v, failure.New(failure.BadParameter, "the body must be a JSON object: { … }")
	}
	if p, has := any(&v).(plainForm); has {
		if strictjson.Flat(c.body, p.TakeMember) {
			return v, nil
		}
		v = *new(T)
	}
	if err := json.Unmarshal(c.body, &v); err != nil {
		what := "a member has the wrong type"
		if t, isType := errors.AsType[*json.UnmarshalTypeError](err); isType && t.Field != "" {
			what = fmt.Sprintf("what is in member %q must be %s", t.Field, inWords(t.Type))
		}
		return v, failure.Wrap(failure.BadParameter, err, "the body is not the JSON that this operation takes: %s", what)
	}
	return v, nil
}

// inWords says what a member must be, for people who write JSON and not Go.
func inWords(t reflect.Type) string {
	if t == reflect.TypeFor[api.Base64URL]() {
		return "a string in base64url without padding"
	}
	switch t.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.Int, reflect.Int64:
		return "a whole number, written with digits alone, that is not too large"
	case reflect.Slice:
		return "an array"
	case reflect.Map, reflect.Struct:
		return "an object"
	}
	return "a string"
}

func (h *Handler) write(w http.ResponseWriter, a answer) {
	for name, value := range a.header {
		w.Header().Set(name, value)
	}
	body := encode(a.body)
	writeBody(w, a.status, body)
	if a.wipe != nil {
		clear(body)
		a.wipe()
	}
}

func encode(body any) []byte {
	if body == nil {
		return nil
	}
	if plain, has := body.(interface{ AppendJSON([]byte) ([]byte, bool) }); has {
		if out, ok := plain.AppendJSON(nil); ok {
			return out
		}
	}
	out, _ := json.Marshal(body) // wire types hold strings, numbers and booleans
	return out
}

// writeError is the only place that writes a status of 400 or more. What a stranger is refused is logged for debugging
// only, or anybody could fill the disk of the log.
func (h *Handler) writeError(ctx context.Context, w http.ResponseWriter, r *http.Request, e *record.Call, err error, body api.ErrorBody) {
	switch {
	case e.Caller.ObjectID == "" && e.Status != http.StatusInternalServerError: // also 503, while an issuer is down
		h.cfg.Log.DebugContext(ctx, "request of a stranger refused", "request", e.Request, "method", printableMethod(r.Method), "status", e.Status, "code", body.Error.Code, "error", err)
	case e.Status >= 500:
		h.cfg.Log.ErrorContext(ctx, "request failed", "request", e.Request, "operation", e.Operation, "method", printableMethod(r.Method), "status", e.Status, "error", err)
	default:
		h.cfg.Log.InfoContext(ctx, "request refused", "request", e.Request, "operation", e.Operation, "method", printableMethod(r.Method), "status", e.Status, "code", body.Error.Code)
	}
	if errors.Is(err, failure.Throttled) || errors.Is(err, failure.Unavailable) {
		w.Header().Set("Retry-After", retryAfter)
	}
	out, _ := json.Marshal(body)
	writeBody(w, e.Status, out)
}

// retryAfter is when whoever is throttled, or finds the server busy, should come back.
var retryAfter = strconv.Itoa(int(limit.RetryAfter / time.Second))

func writeBody(w http.ResponseWriter, status int, body []byte) {
	header := w.Header()
	for _, h := range fixedHeaders {
		header[h.name] = h.value
	}
	if status != http.StatusNoContent {
		header.Set("Content-Length", strconv.Itoa(len(body)))
	}
	w.WriteHeader(status)
	_, _ = w.Write(body)
}

func isToken(s string) bool {
	for _, c := range []byte(s) {
		if !(c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '-' || c == '_' || c == '.') {
			return false
		}
	}
	return true
}
