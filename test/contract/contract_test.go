package contract

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"strongroom/test/exchange"
)

const folder = "../../testdata/openapi"

func documents(t testing.TB) *Documents {
	t.Helper()
	d, err := Load(folder)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// answered is an exchange as the recorder writes it. The api-version is that of the URI.
func answered(method, uri string, status int, body string) exchange.Exchange {
	e := exchange.Exchange{Method: method, URI: uri, Status: status, Response: []byte(body),
		Header: http.Header{"Content-Type": {"application/json; charset=utf-8"}}}
	_, e.APIVersion, _ = strings.Cut(uri, "api-version=")
	if status == http.StatusAccepted || strings.Contains(uri, "/pending") {
		e.Header.Set("Azure-AsyncOperation", "https://alpha.hsm.example/securitydomain/download/pending")
		e.Header.Set("Retry-After", "1")
	}
	return e
}

// without and with are an exchange whose headers differ.
func without(e exchange.Exchange, header string) exchange.Exchange {
	e.Header = e.Header.Clone()
	e.Header.Del(header)
	return e
}

func with(e exchange.Exchange, header, value string) exchange.Exchange {
	e.Header = e.Header.Clone()
	e.Header.Set(header, value)
	return e
}

// Answers as they are meant to be.
const (
	attributes = `"attributes":{"enabled":true,"created":1700000000,"updated":1700000000,"recoveryLevel":"Recoverable+Purgeable","recoverableDays":90,"exportable":false}`
	public     = `"key":{"kid":"https://alpha.hsm.example/keys/k/1","kty":"EC-HSM","key_ops":["sign","verify"],"crv":"P-256","x":"AQ","y":"Ag"}`
	deletion   = `"recoveryId":"https://alpha.hsm.example/deletedkeys/k","deletedDate":1700000000,"scheduledPurgeDate":1707776000`
	item       = `"kid":"https://alpha.hsm.example/keys/k",` + attributes
	bundle     = `{` + public + `,` + attributes + `,"tags":{"a":"b"}}`
	result     = `{"kid":"https://alpha.hsm.example/keys/k/1","value":"AQID","alg":"ES256"}`
	refusal    = `{"error":{"code":"Conflict","message":"deleted (Activity ID: 1)","innererror":{"code":"ObjectIsDeletedButRecoverable"}}}`
	progress   = `{"status":"InProgress","status_details":"under way","statusDetails":"under way"}`
	transfer   = `{"key_format":"jwk","transfer_key":"{\"kty\":\"RSA\",\"kid\":\"not used\",\"e\":\"AQAB\",\"n\":\"AQ\",\"key_ops\":[\"wrapKey\"],\"x5c\":[\"MA==\"],\"x5t\":\"AQ\",\"x5t#S256\":\"AQ\"}"}`
	state      = `{"hsm":"alpha","state":"activated","domain_id":"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef","required":2,"custodians":["ann"],"activated":"2026-11-25T03:00:00Z"}`
	policy     = `{"id":"https://alpha.hsm.example/keys/k/rotationpolicy","lifetimeActions":[{"trigger":{"timeBeforeExpiry":"P30D"},"action":{"type":"Rotate"}}],"attributes":{"expiryTime":"P90D","created":1,"updated":1}}`
	role       = `{"id":"Microsoft.KeyVault/providers/Microsoft.Authorization/roleDefinitions/1","name":"1","type":"Microsoft.Authorization/roleDefinitions","properties":{"roleName":"r","description":"","type":"AKVBuiltInRole","assignableScopes":["/"],"permissions":[{"actions":[],"notActions":[],"dataActions":["Microsoft.KeyVault/managedHsm/keys/rotate/action"],"notDataActions":[]}]}}`
	assignment = `{"id":"/providers/Microsoft.Authorization/roleAssignments/1","name":"1","type":"Microsoft.Authorization/roleAssignments","properties":{"scope":"/keys/k","roleDefinitionId":"1","principalId":"1"}}`
	version    = "0123456789abcdef0123456789abcdef"
)

const point = `{"jobId":"` + version + `","replaced":1700000000,"until":1700604800}`

// begun and ended are a backup or restore, with more members.
func begun(more string) string {
	return `{"status":"InProgress","statusDetails":null,"error":null,"startTime":1700000000,"endTime":null,"jobId":"` + version + `"` + more + `}`
}

func ended(more string) string {
	return `{"status":"Succeeded","statusDetails":"1 key","error":null,"startTime":1700000000,"endTime":1700000001,"jobId":"` + version + `"` + more + `}`
}

// good are answers of every form, by the operation that they belong to.
func good() []exchange.Exchange {
	var list []exchange.Exchange
	for _, v := range []string{"7.2", "7.4", "7.6", "2025-07-01", "2026-04-01"} {
		q := "?api-version=" + v
		list = append(list,
			answered("POST", "/keys/k/create"+q, 200, bundle),
			answered("GET", "/keys/k/"+version+q, 200, bundle),
			answered("GET", "/keys/k"+q, 200, bundle),
			answered("GET", "/keys/k/"+q, 200, bundle),
			answered("PATCH", "/keys/k"+q, 200, bundle),
			answered("POST", "/keys/k/rotate"+q, 200, bundle),
			answered("POST", "/keys/restore"+q, 200, bundle),
			answered("GET", "/keys"+q, 200, `{"value":[{`+item+`}],"nextLink":"https://alpha.hsm.example/keys?x=y"}`),
			answered("GET", "/keys/k/versions"+q, 200, `{"value":[]}`),
			answered("DELETE", "/keys/k"+q, 200, `{`+public+`,`+attributes+`,`+deletion+`}`),
			answered("GET", "/deletedkeys/k"+q, 200, `{`+public+`,`+attributes+`,`+deletion+`}`),
			answered("GET", "/deletedkeys"+q, 200, `{"value":[{`+item+`,`+deletion+`}]}`),
			answered("POST", "/deletedkeys/k/recover"+q, 200, bundle),
			answered("DELETE", "/deletedkeys/k"+q, 204, ""),
			answered("GET", "/keys/k/rotationpolicy"+q, 200, policy),
			answered("PUT", "/keys/k/rotationpolicy"+q, 200, policy),
			answered("POST", "/keys/k/backup"+q, 200, `{"value":"AQID"}`),
			answered("POST", "/rng"+q, 200, `{"value":"AQID"}`),
			answered("POST", "/keys/k/sign"+q, 200, result),
			answered("POST", "/keys/k//sign"+q, 200, result),
			answered("POST", "/keys/k/"+version+"/encrypt"+q, 200, `{"kid":"k","value":"AQID","alg":"A256GCM","iv":"AQ","tag":"AQ","aad":"AQ"}`),
			answered("POST", "/keys/k/unwrapkey"+q, 200, result),
			answered("POST", "/keys/k/verify"+q, 200, `{"value":false}`),
			answered("POST", "/keys/k/create"+q, 409, refusal),
			answered("POST", "/keys/k/create"+q, 401, refusal),
			answered("GET", "/nothing"+q, 404, refusal),
			answered("TRACE", "/keys"+q, 405, refusal),
			answered("POST", "/securitydomain/download"+q, 202, `{"value":"{}"}`),
			answered("GET", "/securitydomain/download/pending"+q, 200, progress),
			answered("GET", "/securitydomain/upload"+q, 200, transfer),
			answered("POST", "/securitydomain/upload"+q, 202, progress),
			answered("DELETE", "/securitydomain/upload"+q, 204, ""),
			answered("GET", "/securitydomain"+q, 200, state),
			answered("GET", "/providers/Microsoft.Authorization/roleDefinitions"+q, 200, `{"value":[`+role+`]}`),
			answered("PUT", "/providers/Microsoft.Authorization/roleDefinitions/"+version+q, 201, role),
			answered("PUT", "/keys/k/providers/Microsoft.Authorization/roleAssignments/"+version+q, 201, assignment),
			answered("DELETE", "/keys/providers/Microsoft.Authorization/roleAssignments/"+version+q, 200, assignment),
			answered("GET", "/securitydomain"+q, 403, refusal),
			answered("POST", "/backup"+q, 202, begun(`,"azureStorageBlobContainerUri":null`)),
			answered("POST", "/prebackup?api-version=2026-04-01", 202, begun(`,"azureStorageBlobContainerUri":null`)),
			answered("GET", "/backup/"+version+"/pending"+q, 200, ended(`,"azureStorageBlobContainerUri":"https://a.example/c/mhsm-alpha-2026112508530512"`)),
			answered("PUT", "/restore"+q, 202, begun("")),
			answered("PUT", "/keys/k/restore"+q, 202, begun("")),
			answered("GET", "/restore/"+version+"/pending"+q, 200, ended("")),
			answered("GET", "/backup"+q, 200, `{"value":[`+begun(`,"azureStorageBlobContainerUri":null,"kind":"backup","target":"https://a.example/c","folder":"mhsm-alpha-2026112508530512","by":"1"`)+`]}`),
			answered("GET", "/restore"+q, 200, `{"restorePoint":`+point+`}`),
			answered("GET", "/backup/schedule"+q, 200, `{"value":[{"to":"file:///srv/backups","everySeconds":86400,"keep":7,"verified":null,"failures":0,"next":null,"last":null},{"to":"file:///srv/more","everySeconds":86400,"keep":7,"verified":1700000000,"failures":1,"next":1700003600,"last":{"status":"Failed","time":1700000000,"error":{"code":"Unavailable","message":"x"}}}]}`),
			answered("POST", "/restore/undo"+q, 200, point),
		)
	}
	return append(list,
		answered("GET", "/securitydomain/upload/pending", 200, progress), // polled as given, without a version
		answered("GET", "/keys/k/"+version+"/attestation?api-version=7.6", 200, strings.Replace(bundle, `"exportable":false`, `"exportable":false,"attestation":{"version":"1"}`, 1)),
		answered("GET", "/keys/k/attestation?api-version=2026-04-01", 200, bundle),
		answered("GET", "//providers/Microsoft.Authorization/roleAssignments?api-version=7.4", 200, `{"value":[]}`),
	)
}

func TestGoodAnswersPass(t *testing.T) {
	d := documents(t)
	for _, e := range good() {
		for _, f := range d.Check(e) {
			t.Error(f)
		}
	}
}

func TestBadAnswersAreFaults(t *testing.T) {
	const sign, create, list = "/keys/k/sign?api-version=7.4", "/keys/k/create?api-version=2026-04-01", "/keys?api-version=7.4"
	signed, made := answered("POST", sign, 200, result), answered("POST", create, 200, bundle)
	change := func(e exchange.Exchange, old, new string) exchange.Exchange {
		t.Helper()
		if !strings.Contains(string(e.Response), old) {
			t.Fatalf("there is no %s in %s", old, e.Response)
		}
		e.Response = []byte(strings.Replace(string(e.Response), old, new, 1))
		return e
	}
	two := func(e exchange.Exchange) exchange.Exchange {
		e.Header = e.Header.Clone()
		e.Header.Add("Content-Type", "text/html")
		return e
	}
	cases := map[string]struct {
		e                         exchange.Exchange
		operation, member, reason string
	}{
		"wrong type":                        {change(signed, `"AQID"`, `17`), "sign", "/value", "string"},
		"null":                              {change(signed, `"AQID"`, `null`), "sign", "/value", "nullable"},
		"padded base64url":                  {change(signed, `"AQID"`, `"AQ=="`), "sign", "/value", "base64url"},
		"base64 of the other alphabet":      {change(signed, `"AQID"`, `"+/AA"`), "sign", "/value", "base64url"},
		"wrong type of an extra member":     {change(signed, `"ES256"`, `7`), "sign", "/alg", "string"},
		"unknown member":                    {change(signed, `"kid"`, `"extra":1,"kid"`), "sign", "/extra", "unsupported"},
		"unknown member, nested":            {change(made, `"enabled"`, `"extra":1,"enabled"`), "CreateKey", "/attributes/extra", "unsupported"},
		"unknown member, in a list":         {answered("GET", list, 200, `{"value":[{`+item+`},{"extra":1,`+item+`}]}`), "GetKeys", "/value/1/extra", "unsupported"},
		"member of a later edition":         {change(answered("POST", "/keys/k/create?api-version=7.4", 200, bundle), `"enabled"`, `"key_size":256,"enabled"`), "CreateKey", "/attributes/key_size", "unsupported"},
		"attestation before 7.6":            {change(answered("GET", "/keys/k?api-version=7.5", 200, bundle), `"enabled"`, `"attestation":{},"enabled"`), "GetKey", "/attributes/attestation", "unsupported"},
		"private key material":              {change(made, `"crv"`, `"d":"AQ","crv"`), "CreateKey", "/key/d", "unsupported"},
		"the bytes of a symmetric key":      {change(made, `"crv"`, `"k":"AQ","crv"`), "CreateKey", "/key/k", "unsupported"},
		"other letters of a member":         {change(signed, `"value"`, `"Value"`), "sign", "/Value", "unsupported"},
		"member twice":                      {change(signed, `"kid"`, `"value":"AQ","kid"`), "sign", "", "one reading"},
		"member that the document requires": {answered("POST", "/rng?api-version=7.4", 200, `{}`), "GetRandomBytes", "/value", "missing"},
		"member that clients need":          {change(made, `"kty":"EC-HSM",`, ``), "CreateKey", "/key/kty", "missing"},
		"the whole key is missing":          {answered("POST", create, 200, `{}`), "CreateKey", "/key", "missing"},
		"no word of the list":               {change(made, `EC-HSM`, `EC-HMS`), "CreateKey", "/key/kty", "allowed values"},
		"number beyond its bounds":          {change(made, `90`, `3000000000`), "CreateKey", "/attributes/recoverableDays", "int32"},
		"number with a fraction":            {change(made, `1700000000`, `1700000000.5`), "CreateKey", "/attributes/created", "integer"},
		"tag that is no text":               {change(made, `"b"`, `1`), "CreateKey", "/tags/a", "string"},
		"array in place of an object":       {answered("POST", sign, 200, `[]`), "sign", "", "object"},
		"text in place of a nested object":  {change(made, `{"a":"b"}`, `"a"`), "CreateKey", "/tags", "object"},
		"no JSON":                           {answered("POST", sign, 200, `OK`), "sign", "", "no JSON"},
		"more after the JSON":               {answered("POST", sign, 200, result+`{}`), "sign", "", "no JSON"},
		"no body":                           {answered("POST", sign, 200, ``), "sign", "", "no JSON"},
		"a body where there is none":        {answered("DELETE", "/deletedkeys/k?api-version=7.4", 204, `{}`), "PurgeDeletedKey", "", "no body"},
		"undeclared status":                 {answered("POST", create, 201, bundle), "CreateKey", "", "does not declare"},
		"undeclared status, redirect":       {answered("GET", "/keys/k/?api-version=7.4", 307, ``), "GetKey", "", "does not declare"},
		"an error's body with success":      {answered("POST", sign, 200, refusal), "sign", "/kid", "missing"},
		"a result's body with an error":     {answered("POST", sign, 400, result), "sign", "/error", "missing"},
		"an error without a code":           {answered("POST", sign, 400, `{"error":{"message":"no"}}`), "sign", "/error/code", "missing"},
		"an error with more":                {answered("POST", sign, 400, `{"error":{"code":"A","message":"no","stack":"x"}}`), "sign", "/error/stack", "unsupported"},
		"an error deep inside":              {answered("POST", sign, 400, `{"error":{"code":"A","message":"no","innererror":{"code":1}}}`), "sign", "/error/innererror/code", "string"},
		"wrong content type":                {with(signed, "Content-Type", "text/plain"), "sign", "", "Content-Type"},
		"wrong content type of an error":    {with(answered("POST", sign, 400, refusal), "Content-Type", "text/html"), "sign", "", "Content-Type"},
		"no content type":                   {without(signed, "Content-Type"), "sign", "", "Content-Type"},
		"two content types":                 {two(signed), "sign", "", "2 headers Content-Type"},
		"no header that is declared":        {without(answered("POST", "/securitydomain/download?api-version=7.4", 202, `{"value":""}`), "Azure-AsyncOperation"), "HSMSecurityDomain_Download", "", "Azure-AsyncOperation"},
		"a declared header of wrong type":   {with(answered("POST", "/securitydomain/upload?api-version=7.4", 202, progress), "Retry-After", "soon"), "HSMSecurityDomain_", "", "Retry-After"},
		"an object where clients want text": {answered("GET", "/securitydomain/upload?api-version=7.4", 200, `{"key_format":"jwk","transfer_key":{}}`), "HSMSecurityDomain_", "/transfer_key", "string"},
		"text without JSON in it":           {answered("GET", "/securitydomain/upload?api-version=7.4", 200, `{"key_format":"jwk","transfer_key":"jwk"}`), "HSMSecurityDomain_", "/transfer_key, in its text", "no JSON"},
		"a member is missing in the text":   {change(answered("GET", "/securitydomain/upload?api-version=7.4", 200, transfer), `\"kty\":\"RSA\",`, ``), "HSMSecurityDomain_", "/transfer_key, in its text/kty", "missing"},
		"more in the text":                  {change(answered("GET", "/securitydomain/upload?api-version=7.4", 200, transfer), `\"kty\"`, `\"d\":\"AQ\",\"kty\"`), "HSMSecurityDomain_", "/transfer_key, in its text/d", "unsupported"},
		"status that is none":               {answered("GET", "/securitydomain/upload/pending", 200, strings.Replace(progress, "InProgress", "Succeeded", 1)), "HSMSecurityDomain_", "/status", "allowed values"},
		"our own route, unknown member":     {change(answered("GET", "/securitydomain?api-version=7.4", 200, state), `"hsm"`, `"extra":1,"hsm"`), "Strongroom", "/extra", "unsupported"},
		"our own route, another status":     {answered("DELETE", "/securitydomain/upload?api-version=7.4", 200, `{}`), "Strongroom", "", "does not declare"},
		"success where there is no route":   {answered("GET", "/keys/k/nonsense?api-version=7.4", 200, bundle), "no operation", "", "no document has this operation"},
		"success under another method":      {answered("POST", "/keys?api-version=7.4", 200, `{"value":[]}`), "no operation", "", "no document has this operation"},
		"an operation before its edition":   {answered("GET", "/keys/k/attestation?api-version=7.4", 200, bundle), "no operation", "", "no document has this operation"},
		"no route, and text for an error":   {with(answered("GET", "/nothing?api-version=7.4", 404, "404 page not found"), "Content-Type", "text/plain"), "no operation", "", "Content-Type"},
		"no answer":                         {exchange.Exchange{Method: "GET", URI: list}, "GetKeys", "", "panicked"},
	}
	d := documents(t)
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			faults := d.Check(c.e)
			if !slices.ContainsFunc(faults, func(f Fault) bool {
				return strings.HasPrefix(f.Operation, c.operation) && f.Member == c.member && strings.Contains(f.Reason, c.reason)
			}) {
				t.Errorf("got %v, want one of %s at %q that speaks of %q", faults, c.operation, c.member, c.reason)
			}
			for _, f := range faults { // whoever reads one knows which answer it is about
				if !strings.Contains(f.String(), fmt.Sprintf("(%s %s, answered %d)", c.e.Method, c.e.URI, c.e.Status)) {
					t.Errorf("the fault %q does not tell its request", f)
				}
			}
		})
	}
}

func TestOperationsAreFound(t *testing.T) {
	d := documents(t)
	for request, want := range map[string]string{
		"GET /keys":                              "GetKeys",
		"GET /keys/":                             "GetKeys",
		"GET /keys/versions":                     "GetKey", // a key of that name
		"GET /keys/k":                            "GetKey",
		"GET /keys/k/":                           "GetKey",
		"GET /keys/k/" + version:                 "GetKey",
		"GET /keys/k/versions":                   "GetKeyVersions",
		"GET /keys/k/rotationpolicy":             "GetKeyRotationPolicy",
		"PATCH /keys/k/":                         "UpdateKey",
		"POST /keys/restore":                     "RestoreKey",
		"POST /keys/k/sign":                      "sign",
		"POST /keys/k//sign":                     "sign",
		"POST /keys/k/" + version + "/sign":      "sign",
		"POST /keys/sign/wrapkey":                "wrapKey",
		"PUT /keys/k":                            "ImportKey",
		"PUT /keys/k/restore":                    "SelectiveKeyRestoreOperation",
		"POST /keys/k/short/sign":                "",
		"GET /keys/k/short":                      "",
		"POST /keys//create":                     "",
		"GET /":                                  "",
		"GET /keys/k/" + version + "/more/still": "",
		"GET /providers/Microsoft.Authorization/roleDefinitions":        "RoleDefinitions_List",
		"GET /keys/providers/Microsoft.Authorization/roleDefinitions":   "RoleDefinitions_List",
		"GET /keys/k/providers/Microsoft.Authorization/roleDefinitions": "RoleDefinitions_List",
	} {
		method, path, _ := strings.Cut(request, " ")
		_, route := d.find("7.4", method, path+"?api-version=7.4")
		got := ""
		if route != nil {
			got = route.Operation.OperationID
		}
		if got != want {
			t.Errorf("%s is %q, want %q", request, got, want)
		}
	}
}

// Whatever a client asks for is one operation or none, in every edition: which one it is does not hang on order.
func TestOperationsAreUnambiguous(t *testing.T) {
	paths := 0
	for name, list := range documents(t).editions {
		type place struct{ method, template string }
		var all []place
		for _, doc := range list {
			for template, item := range doc.spec.Paths.Map() {
				for method := range item.Operations() {
					all = append(all, place{method, template})
				}
			}
		}
		parameter := regexp.MustCompile(`\{[^}]*\}`)
		for _, p := range all {
			paths++
			full := strings.ReplaceAll(p.template, "{key-version}", version)
			for _, path := range []string{full, strings.ReplaceAll(full, "/"+version, ""), strings.ReplaceAll(full, version, "")} {
				for _, filling := range []string{"x", "keys", "restore", "create", "pending", version} {
					path := parameter.ReplaceAllString(path, filling)
					var fit []string
					for _, other := range all {
						if other.method == p.method && slices.ContainsFunc(spellings(path), func(s []string) bool { return matches(other.template, s) }) {
							fit = append(fit, other.template)
						}
					}
					if len(fit) != 1 || fit[0] != p.template {
						t.Errorf("%s: %s %s is %q, want %s", name, p.method, path, fit, p.template)
					}
				}
			}
		}
	}
	if paths < 100 {
		t.Errorf("only %d operations were tried", paths)
	}
}

func TestNearestEdition(t *testing.T) {
	for version, want := range map[string]string{
		"": edition74, "7.0": edition74, "7.2-preview": edition74, "7.4": edition74, "7.5": edition74, "7.6-preview.2": edition76, "7.6": edition76,
		"2025-06-01-preview": editionDate, "2025-07-01": editionDate, "2026-04-01": editionDate, "nonsense": edition74,
	} {
		if got := edition(version); got != want {
			t.Errorf("%q is held against %s, want %s", version, got, want)
		}
	}
}

func TestWrongFolders(t *testing.T) {
	if _, err := Load(t.TempDir()); err == nil || !strings.Contains(err.Error(), "no documents") {
		t.Errorf("an empty folder: got %v", err)
	}
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(folder)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "7.4", "keys.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(dir); err == nil || !strings.Contains(err.Error(), "keys.json") {
		t.Errorf("a broken document: got %v", err)
	}
	if err := os.Remove(filepath.Join(dir, "7.4", "keys.json")); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(dir); err == nil {
		t.Error("without the document of keys there is nothing to hold keys against, and it loaded")
	}
}

// listener is a test that only listens to what is said about it.
type listener struct {
	testing.TB
	said []string
}

func (l *listener) Helper()             {}
func (l *listener) Logf(string, ...any) {}
func (l *listener) Error(args ...any)   { l.said = append(l.said, fmt.Sprint(args...)) }
func (l *listener) Errorf(format string, args ...any) {
	l.said = append(l.said, fmt.Sprintf(format, args...))
}

// record serves one request by a handler, recorded as the end-to-end tests do it, and returns the file.
func record(t *testing.T, handler http.HandlerFunc, uris ...string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "exchanges.jsonl")
	recorder, err := exchange.NewRecorder(file)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(recorder.Wrap(handler))
	for _, uri := range uris {
		response, err := http.Get(server.URL + uri)
		if err != nil {
			t.Fatal(err)
		}
		_ = response.Body.Close()
	}
	server.Close()
	if err := recorder.Close(); err != nil {
		t.Fatal(err)
	}
	return file
}

// What the end-to-end tests do at the end of each server: a right answer passes, and one that is wrong in a single
// letter fails the test, with operation, member and reason. So does a file with nothing in it, or none.
func TestVerifyFailsTests(t *testing.T) {
	d := documents(t)
	verify := func(file string) []string {
		l := &listener{}
		d.Verify(l, file)
		return l.said
	}
	body := bundle
	server := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		_, _ = w.Write([]byte(body))
	}
	const uri = "/keys/k?api-version=7.4"
	if said := verify(record(t, server, uri, uri)); len(said) != 0 {
		t.Errorf("right answers: %q", said)
	}
	if checked, _, err := d.CheckFile(record(t, server, uri, uri)); checked != 2 || err != nil {
		t.Errorf("%d answers were checked (%v), want 2", checked, err)
	}
	body = strings.Replace(bundle, "EC-HSM", "EC-HSN", 1)
	said := verify(record(t, server, uri))
	if len(said) != 1 {
		t.Fatalf("a wrong answer: %q, want one fault", said)
	}
	for _, part := range []string{"GetKey", "/key/kty", "allowed values"} {
		if !strings.Contains(said[0], part) {
			t.Errorf("%q does not name %s", said[0], part)
		}
	}
	if said := verify(record(t, server, slices.Repeat([]string{uri}, maxTold+5)...)); len(said) != maxTold+1 || !strings.Contains(said[maxTold], "5 more") {
		t.Errorf("%d lines for %d faults, the last one %q", len(said), maxTold+5, said[len(said)-1])
	}
	if said := verify(record(t, server)); len(said) != 1 || !strings.Contains(said[0], "no exchange") {
		t.Errorf("no exchange: %q", said)
	}
	if said := verify(filepath.Join(t.TempDir(), "none")); len(said) != 1 || !strings.Contains(said[0], "cannot be read") {
		t.Errorf("no file: %q", said)
	}
	if _, _, err := d.CheckFile(filepath.Join(t.TempDir(), "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
}
