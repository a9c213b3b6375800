package dataplane_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"strongroom/internal/access"
	"strongroom/internal/dataplane"
	"strongroom/internal/failure"
	"strongroom/internal/limit"
	"strongroom/internal/record"
)

// clerk is a recorder that can run out of paper.
type clerk struct {
	mu              sync.Mutex
	intents, ended  []record.Call
	noIntent, noEnd bool
	atIntent        func() // nil: nothing happens
}

func (c *clerk) keep(list *[]record.Call, e *record.Call, broken bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if broken {
		return failure.Coded(failure.Unavailable, "AuditUnavailable", "no paper")
	}
	*list = append(*list, *e)
	return nil
}

func (c *clerk) Intent(_ context.Context, e *record.Call) error {
	if c.atIntent != nil {
		c.atIntent()
	}
	return c.keep(&c.intents, e, c.noIntent)
}

func (c *clerk) Outcome(_ context.Context, e *record.Call) error {
	return c.keep(&c.ended, e, c.noEnd)
}

// Covers L1, L2 at the data plane: every answer has a record, what changes something has one before, and without
// paper nothing is done and nothing is answered.
func TestEveryCallIsRecorded(t *testing.T) {
	c := &clerk{}
	f := newFixture(t, "alpha")
	f.configure(func(cfg *dataplane.Config) { cfg.Recorder = c })
	f.activate("alpha")
	c.intents, c.ended = nil, nil
	w := f.do(request{method: "POST", path: "/keys/Pay/create", body: `{"kty":"EC"}`})
	var made struct{ Key struct{ Kid string } }
	if err := json.Unmarshal(w.Body.Bytes(), &made); err != nil || w.Code != 200 {
		t.Fatal(w.Body)
	}
	version := made.Key.Kid[strings.LastIndex(made.Key.Kid, "/")+1:]
	digest := strings.Repeat("A", 43)
	for _, r := range []request{
		{method: "POST", path: "/keys/pay/sign", body: `{"alg":"ES256","value":"` + digest + `"}`, header: map[string]string{"x-ms-client-request-id": "from-the-client"}},
		{method: "POST", path: "/keys/pay/sign", body: `{"alg":"RS256","value":"` + digest + `"}`},
		{method: "POST", path: "/keys/pay/sign", body: `<canary>`},
		{method: "GET", path: "/keys/pay", token: f.token(map[string]any{"oid": lowID, "sub": lowID})},
		{method: "GET", path: "/keys/pay", token: "none"},
		{method: "GET", path: "/secrets/canary"},
		{method: "GET", path: "/keys/%63anary"},
		{method: "GET", path: "/keys", hsm: "canary"},
		{method: "DELETE", path: "/keys/pay"},
	} {
		f.do(r)
	}
	line := func(op, key, version string, status int, code string) record.Call {
		return record.Call{Caller: access.Caller{ObjectID: adminID}, HSM: "alpha", Operation: op, Key: key, Version: version, Status: status, Code: code}
	}
	nobody := func(e record.Call) record.Call { e.Caller, e.HSM = access.Caller{}, ""; return e }
	signed := line("Sign", "Pay", version, 200, "")
	signed.ClientRequest = "from-the-client"
	low := line("GetKey", "pay", "", 403, "AccessDenied")
	low.Caller.ObjectID = lowID
	elsewhere := line("GetKeys", "", "", 404, "ResourceNotFound")
	elsewhere.HSM = ""
	noBody := line("Sign", "pay", "", 400, "BadParameter")
	noBody.HSM = "" // refused before it was looked for
	noRoute := line("", "", "", 404, "RouteNotFound")
	noRoute.HSM = ""
	want := []record.Call{
		line("CreateKey", "Pay", version, 200, ""), signed, line("Sign", "pay", "", 400, "BadParameter"), noBody, low,
		nobody(line("", "", "", 401, "Unauthorized")), noRoute, nobody(line("", "", "", 400, "BadParameter")), elsewhere,
		line("DeleteKey", "Pay", version, 200, ""),
	}
	sameCalls := cmp.Options{cmpopts.IgnoreFields(record.Call{}, "Request", "Source", "HSMID", "Took", "Changes", "Action", "Intended"), cmpopts.IgnoreFields(access.Caller{}, "AppID", "Tenant", "Issuer", "Name", "Groups")}
	if diff := cmp.Diff(want, c.ended, sameCalls); diff != "" {
		t.Errorf("outcomes: %s", diff)
	}
	if diff := cmp.Diff([]record.Call{line("CreateKey", "Pay", "", 0, ""), line("DeleteKey", "pay", "", 0, "")}, c.intents, sameCalls); diff != "" {
		t.Errorf("intents: %s", diff)
	}
	if c.ended[1].Action != access.KeySign || c.intents[1].Action != access.KeyDelete || !c.ended[0].Intended || c.ended[1].Intended {
		t.Errorf("actions or intents: %+v", c.ended[:2])
	}
	if c.intents[0].Request != c.ended[0].Request || c.ended[0].Request == c.ended[1].Request || c.ended[1].HSMID == "" {
		t.Error("an intent and its outcome are not of one request, or two requests are")
	}
	all, _ := json.Marshal(c.ended)
	if strings.Contains(string(all), "canary") {
		t.Errorf("what a stranger wrote is in the record: %s", all)
	}

	c.noIntent = true
	before := f.snapshot()
	if w := f.do(request{method: "POST", path: "/keys/new/create", body: `{"kty":"EC"}`}); w.Code != 503 || errorOf(t, w) != "AuditUnavailable" || w.Header().Get("Retry-After") == "" {
		t.Errorf("without paper for the intent: %d %s", w.Code, w.Body)
	}
	if f.snapshot() != before {
		t.Error("it was done without a record")
	}
	c.noEnd = true
	if w := f.do(request{method: "POST", path: "/rng", body: `{"count":8}`}); w.Code != 503 || strings.Contains(w.Body.String(), "value") {
		t.Errorf("without paper for the outcome: %d %s", w.Code, w.Body)
	}
	if w := f.do(request{method: "GET", path: "/keys", token: "none"}); w.Code != 503 {
		t.Errorf("a stranger: %d", w.Code)
	}
	c.noIntent, c.noEnd = false, false
	if w := f.do(request{method: "POST", path: "/keys/new/create", body: `{"kty":"EC"}`}); w.Code != 200 {
		t.Errorf("with paper again: %d %s", w.Code, w.Body)
	}
}

// Covers L2, L3: on every route, well asked and badly, with a right and without, each call leaves one outcome; and nothing of
// its headers, query, body or token, nor a name that is none, is in it or in the log at its most talkative.
func TestRecordsHoldNothingOfARequest(t *testing.T) {
	f, c := newFixture(t, "alpha"), &clerk{}
	f.activate("alpha")
	f.configure(func(cfg *dataplane.Config) { cfg.Recorder = c })
	f.level.Set(slog.LevelDebug)
	const body = `{"canary":"canary","value":"canary","alg":"canary","kty":"canary","digest":"canary","target":"canary","key":{"kty":"canary","k":"canary"},"tags":{"canary":"canary"},"count":"canary",` +
		`"key_ops":["canary"],"certificates":["canary"],"attributes":{"canary":1},"lifetimeActions":["canary"],"properties":{"roleDefinitionId":"canary","principalId":"canary","permissions":[{"dataActions":["canary"]}]}}`
	odd := strings.NewReplacer("{name}", "canary_", "{version}", "canary", "{id}", "canary")
	headers := map[string]string{}
	for _, name := range []string{"X-Canary", "Cookie", "User-Agent", "Referer", "Origin", "Accept", "X-Forwarded-For", "Forwarded", "X-Ms-Client-Request-Id"} {
		headers[name] = "canary canary" // which is no ID of a request either
	}
	for _, route := range f.everyRoute() {
		for what, change := range map[string]func(r *request){
			"a body":           func(r *request) { r.body = body },
			"a body, no right": func(r *request) { r.body, r.token = body, route.token },
			"no JSON":          func(r *request) { r.body = "<canary>" },
			"a kind of body":   func(r *request) { r.body, r.contentType = "canary", "text/canary" },
			"a query": func(r *request) {
				r.query = "api-version=7.4&canary=canary&$filter=canary&$skiptoken=canary&maxresults=canary"
			},
			"a version":          func(r *request) { r.query = "api-version=canary" },
			"a query twice":      func(r *request) { r.query = "api-version=7.4&canary=canary&canary=canary" },
			"a token":            func(r *request) { r.token = "canary.canary.canary" },
			"headers":            func(r *request) { r.header = headers },
			"headers, nobody":    func(r *request) { r.header, r.token = headers, "none" },
			"names":              func(r *request) { r.path = odd.Replace(route.pattern) },
			"names, nobody":      func(r *request) { r.path, r.token = odd.Replace(route.pattern), "none" },
			"a path that is odd": func(r *request) { r.path += "/%63anary/../canary" },
			"a method":           func(r *request) { r.method = "CANARY" },
			"a method, nobody":   func(r *request) { r.method, r.token = "CANARY", "none" },
		} {
			r := route.request
			r.token = f.bearer()
			change(&r)
			f.logs.Reset()
			c.intents, c.ended = nil, nil
			w := f.do(r)
			if len(c.ended) != 1 || c.ended[0].Status != w.Code || len(c.intents) > 1 {
				t.Errorf("%s %s, with %s: %d; %d intents and %d outcomes", route.method, route.pattern, what, w.Code, len(c.intents), len(c.ended))
			}
			if kept := jsonOf([]any{c.intents, c.ended}); strings.Contains(strings.ToLower(kept), "canary") {
				t.Errorf("%s %s, with %s: what was sent is in the record: %s", route.method, route.pattern, what, kept)
			}
			if strings.Contains(strings.ToLower(f.logs.String()), "canary") {
				t.Errorf("%s %s, with %s: what was sent is in the log: %s", route.method, route.pattern, what, &f.logs)
			}
		}
	}
}

// Covers L5 at the data plane: nothing that changes something is about the log, and the settings are the one that is known.
// Whoever adds an operation to this list has thought of where the records go.
func TestNoOperationIsAboutTheLog(t *testing.T) {
	known := strings.Fields(`DownloadSecurityDomain GetTransferKey UploadSecurityDomain CancelRecovery UpdateSetting RestoreKey ImportKey UpdateKey DeleteKey PurgeDeletedKey
		RecoverDeletedKey CreateKey RotateKey UpdateKeyRotationPolicy Release FullBackup PreFullBackup FullRestore PreFullRestore SelectiveKeyRestore UndoRestore PutRoleDefinition DeleteRoleDefinition PutRoleAssignment DeleteRoleAssignment`)
	for _, op := range dataplane.Operations() {
		if op.Changes && !slices.Contains(known, op.Name) {
			t.Errorf("%s %s (%s) changes something that this test does not know", op.Method, op.Pattern, op.Name)
		}
	}
	f := newFixture(t, "alpha")
	f.activate("alpha")
	var list struct{ Settings []struct{ Name string } }
	if w := f.do(request{method: "GET", path: "/settings"}); json.Unmarshal(w.Body.Bytes(), &list) != nil || len(list.Settings) != 1 || list.Settings[0].Name != "AllowKeyManagementOperationsThroughARM" {
		t.Errorf("settings: %s", w.Body)
	}
	before := f.snapshot()
	for _, name := range []string{"audit", "Audit", "AuditFolder", "audit.folder", "log", "LogLevel"} {
		if w := f.do(request{method: "PATCH", path: "/settings/" + name, body: `{"value":"false"}`}); w.Code != 404 {
			t.Errorf("setting %s: %d %s", name, w.Code, w.Body)
		}
	}
	if f.snapshot() != before {
		t.Error("a setting that is none changed something")
	}
}

// Covers L1, R4: a call that panics is recorded before anybody answers it, and the panic goes on to the server.
func TestAPanicIsRecorded(t *testing.T) {
	f, c := newFixture(t, "alpha"), &clerk{}
	f.configure(func(cfg *dataplane.Config) { cfg.Recorder, cfg.HSMs = c, nil })
	caught := func() (p any) {
		defer func() { p = recover() }()
		f.do(request{method: "GET", path: "/keys/k"})
		return nil
	}
	if caught() == nil {
		t.Fatal("nothing panicked")
	}
	if len(c.ended) != 1 || c.ended[0].Operation != "GetKey" || c.ended[0].Key != "k" || c.ended[0].Caller.ObjectID != adminID || c.ended[0].Status != 500 || c.ended[0].Code != "InternalServerError" {
		t.Errorf("recorded: %+v", c.ended)
	}
	c.noEnd = true
	if _, silent := caught().(record.Unrecorded); !silent {
		t.Error("a call that cannot be recorded may be answered")
	}
	f.configure(func(cfg *dataplane.Config) { cfg.Recorder = nil })
	if caught() == nil {
		t.Error("without a recorder, nothing panicked")
	}
}

// Whoever asks too often is told when to come back, and others do not notice.
func TestRateLimit(t *testing.T) {
	f := newFixture(t, "alpha")
	f.activate("alpha")
	f.configure(func(cfg *dataplane.Config) {
		cfg.Limits = limit.New(limit.Config{Rate: 1, Burst: 2}, func() time.Time { return f.now })
	})
	list := func(oid string) int {
		w := f.do(request{method: "GET", path: "/keys", token: f.token(map[string]any{"oid": oid, "sub": oid})})
		if w.Code == 429 && (w.Header().Get("Retry-After") == "" || errorOf(t, w) != "TooManyRequests") {
			t.Errorf("429 without a time or code: %v %s", w.Header(), w.Body)
		}
		return w.Code
	}
	for i, want := range []int{200, 200, 429} {
		if got := list(adminID); got != want {
			t.Errorf("request %d: %d, want %d", i+1, got, want)
		}
	}
	if got := list(lowID); got != 403 {
		t.Errorf("somebody else: %d", got)
	}
	f.now = f.now.Add(time.Second)
	if got := list(adminID); got != 200 {
		t.Errorf("a second later: %d", got)
	}
}

// A stranger does not fill the log, whatever is wrong with what it sends; who is known is in it.
func TestStrangersAreNotLogged(t *testing.T) {
	f, c := newFixture(t, "alpha"), &clerk{}
	f.activate("alpha")
	f.logs.Reset()
	f.level.Set(slog.LevelInfo)
	plane := dataplane.New(f.config)
	served, refused := f.handler, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		plane.Refuse(w, r, failure.New(failure.Misdirected, "no HSM has this address"))
	})
	for _, row := range []struct {
		handler http.Handler
		request request
		status  int
	}{
		{served, request{method: "GET", path: "/keys", token: "none"}, 401},
		{served, request{method: "GET", path: "/keys", token: "nobody"}, 401},
		{served, request{method: "GET", path: "/keys", token: f.token(map[string]any{"exp": f.now.Add(-time.Hour).Unix()})}, 401},
		{served, request{method: "GET", path: "/keys/%63anary", token: "none"}, 400},
		{served, request{method: "GET", path: "/keys", query: "a=1&a=2", token: "none"}, 400},
		{served, request{method: "GET", path: "/keys", token: "none", header: map[string]string{"X-HTTP-Method": "DELETE"}}, 400},
		{refused, request{method: "GET", path: "/keys"}, 421},
	} {
		f.handler = row.handler
		if w := f.do(row.request); w.Code != row.status {
			t.Errorf("%+v: %d, want %d", row.request, w.Code, row.status)
		}
	}
	c.noEnd = true
	f.configure(func(cfg *dataplane.Config) { cfg.Recorder = c })
	if w := f.do(request{method: "GET", path: "/keys", token: "none"}); w.Code != 503 {
		t.Errorf("a stranger who cannot be recorded: %d", w.Code)
	}
	if f.logs.Len() > 0 {
		t.Errorf("strangers are logged:\n%s", &f.logs)
	}
	if f.do(request{method: "GET", path: "/keys"}); !strings.Contains(f.logs.String(), "status=503") {
		t.Errorf("a failure for somebody known is not logged: %q", &f.logs)
	}
	c.noEnd = false
	if f.do(request{method: "GET", path: "/keys", token: f.token(map[string]any{"oid": lowID, "sub": lowID})}); !strings.Contains(f.logs.String(), "AccessDenied") {
		t.Errorf("a refusal of somebody known is not logged: %q", &f.logs)
	}
}

// Every operation has a name of its own, and what a caller changes is known to change something.
func TestOperationsHaveNames(t *testing.T) {
	for _, op := range dataplane.Operations() {
		if op.Name == "" {
			t.Errorf("%s %s has no name", op.Method, op.Pattern)
		}
		if op.Method != "GET" && op.Method != "POST" && !op.Changes {
			t.Errorf("%s %s (%s) is not known to change anything", op.Method, op.Pattern, op.Name)
		}
	}
}

// Covers L1: a change of roles says who got or lost which role, and where; one of a setting, to what it was set. What was not done
// does not quote its body.
func TestChangesOfRolesAreRecorded(t *testing.T) {
	f, c := newFixture(t, "alpha"), &clerk{}
	f.configure(func(cfg *dataplane.Config) { cfg.Recorder = c })
	f.activate("alpha")
	const name, somebody, role = "33333333-0000-4000-8000-000000000003", "44444444-0000-4000-8000-000000000004", "21dbd100-6940-42c2-9190-5d6cb909625b"
	path := "/keys/invoices/providers/Microsoft.Authorization/roleAssignments/" + name
	body := `{"properties":{"principalId":"` + somebody + `","roleDefinitionId":"Microsoft.KeyVault/providers/Microsoft.Authorization/roleDefinitions/` + role + `"}}`
	const setting = "AllowKeyManagementOperationsThroughARM"
	for _, row := range []struct {
		request
		status          int
		intent, outcome []string // scope, object, role, assignee
	}{
		{request{method: "PUT", path: path, body: body}, 201, []string{"/keys/invoices", name, "", ""}, []string{"/keys/invoices", name, role, somebody}},
		{request{method: "PUT", path: path, body: strings.Replace(body, somebody, "no GUID", 1)}, 409, []string{"/keys/invoices", name, "", ""}, []string{"/keys/invoices", name, "", ""}},
		{request{method: "DELETE", path: path}, 200, []string{"/keys/invoices", name, "", ""}, []string{"/keys/invoices", name, role, somebody}},
		{request{method: "DELETE", path: path}, 404, []string{"/keys/invoices", name, "", ""}, []string{"/keys/invoices", name, "", ""}},
		{request{method: "PATCH", path: "/settings/" + setting, body: `{"value":"true"}`}, 200, []string{"", "", "", ""}, []string{"/", setting + "=true", "", ""}},
		{request{method: "PATCH", path: "/settings/" + setting, body: `{"value":"perhaps"}`}, 400, []string{"", "", "", ""}, []string{"", "", "", ""}},
	} {
		c.intents, c.ended = nil, nil
		if w := f.do(row.request); w.Code != row.status {
			t.Errorf("%s %s: %d %s, want %d", row.method, row.path, w.Code, w.Body, row.status)
		}
		if len(c.intents) != 1 || len(c.ended) != 1 {
			t.Fatalf("%s %s: %d intents and %d outcomes", row.method, row.path, len(c.intents), len(c.ended))
		}
		said := func(r record.Call) []string { return []string{r.Scope, r.Object, r.Role, r.Assignee} }
		if d := cmp.Diff([][]string{row.intent, row.outcome}, [][]string{said(c.intents[0]), said(c.ended[0])}); d != "" {
			t.Errorf("%s %s: recorded (-want +got):\n%s", row.method, row.path, d)
		}
	}
}
