package controlplane

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"strongroom/internal/access"
	"strongroom/internal/failure"
)

const (
	base   = "https://localhost:8443"
	sub    = "5abc0000-1111-4111-8111-111111111111"
	tenant = "7e7e7e7e-1111-4111-8111-111111111111"
	alice  = "aaaaaaaa-1111-4111-8111-111111111111"
	bob    = "bbbbbbbb-1111-4111-8111-111111111111"

	inSub   = "/subscriptions/" + sub
	inGroup = inSub + "/resourceGroups/rg1"
	hsms    = inGroup + "/providers/Microsoft.KeyVault/managedHSMs"
	version = "?api-version=2022-07-01"
)

var noon = time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)

// fakeService keeps HSMs in a map. Only Alice is an operator.
type fakeService struct {
	live, deleted map[string]HSM
	calls         []string // that change something
	broken        error
}

func (f *fakeService) Operator(_ context.Context, c access.Caller) error {
	if c.ObjectID != alice {
		return failure.New(failure.Forbidden, "caller %s is not an operator of this server", c.ObjectID)
	}
	return nil
}

func (f *fakeService) CreateHSM(_ context.Context, _ access.Caller, s HSMSpec) (HSM, bool, error) {
	f.calls = append(f.calls, fmt.Sprintf("create %+v", s))
	if _, ok := f.deleted[lower(s.Name)]; ok {
		return HSM{}, false, failure.Coded(failure.Conflict, "ConflictError", "a deleted HSM has the name")
	}
	h, exists := f.live[lower(s.Name)]
	if !exists {
		h = HSM{Name: s.Name, ID: "id", ResourceGroup: s.ResourceGroup, Location: s.Location, TenantID: s.TenantID, URI: "https://127.0.0.1:8444",
			InitialAdmins: s.InitialAdmins, SoftDeleteRetentionDays: s.SoftDeleteRetentionDays, ProvisioningState: "Succeeded", StatusMessage: "ready",
			ActivationStatus: "NotActivated", ActivationMessage: "download the security domain", Created: noon}
	}
	h.Tags, h.PurgeProtection, h.NetworkACLs, h.Updated = s.Tags, s.PurgeProtection, s.NetworkACLs, noon.Add(time.Minute)
	f.live[lower(s.Name)] = h
	return h, !exists, nil
}

func get(m map[string]HSM, name string) (HSM, error) {
	if h, ok := m[lower(name)]; ok {
		return h, nil
	}
	return HSM{}, failure.New(failure.NotFound, "no HSM %s", name)
}

func all(m map[string]HSM) (list []HSM) {
	for _, h := range m {
		list = append(list, h)
	}
	slices.SortFunc(list, func(a, b HSM) int { return strings.Compare(a.Name, b.Name) })
	return list
}

func (f *fakeService) GetHSM(_ context.Context, _ access.Caller, name string) (HSM, error) {
	if f.broken != nil {
		return HSM{}, f.broken
	}
	return get(f.live, name)
}
func (f *fakeService) ListHSMs(context.Context, access.Caller) ([]HSM, error) {
	return all(f.live), f.broken
}
func (f *fakeService) DeleteHSM(_ context.Context, _ access.Caller, name string) error {
	f.calls = append(f.calls, "delete "+name)
	h := f.live[lower(name)]
	delete(f.live, lower(name))
	h.DeletedAt, h.ScheduledPurge = noon, noon.AddDate(0, 0, h.SoftDeleteRetentionDays)
	f.deleted[lower(name)] = h
	return nil
}
func (f *fakeService) ListDeleted(context.Context, access.Caller) ([]HSM, error) {
	return all(f.deleted), nil
}
func (f *fakeService) GetDeleted(_ context.Context, _ access.Caller, name string) (HSM, error) {
	return get(f.deleted, name)
}
func (f *fakeService) RecoverHSM(_ context.Context, _ access.Caller, name string) (HSM, error) {
	f.calls = append(f.calls, "recover "+name)
	h := f.deleted[lower(name)]
	delete(f.deleted, lower(name))
	f.live[lower(name)] = h
	return h, nil
}
func (f *fakeService) PurgeHSM(_ context.Context, _ access.Caller, name string) error {
	f.calls = append(f.calls, "purge "+name)
	if f.deleted[lower(name)].PurgeProtection {
		return failure.Coded(failure.Conflict, "PurgeProtectionEnabled", "kept")
	}
	delete(f.deleted, lower(name))
	return nil
}
func (f *fakeService) NameAvailable(_ context.Context, _ access.Caller, name string) (bool, error) {
	_, live := f.live[lower(name)]
	_, deleted := f.deleted[lower(name)]
	return !live && !deleted, nil
}

// fakeVerifier takes "alice" and "bob" for their tokens, if the audiences are the control plane's.
type fakeVerifier struct{}

func (fakeVerifier) Verify(_ context.Context, raw string, audiences []string) (access.Caller, error) {
	want := []string{base, "https://127.0.0.1:8443", "https://management.azure.com", "https://management.core.windows.net"}
	ids := map[string]string{"alice": alice, "bob": bob}
	if id := ids[raw]; id != "" && slices.Equal(audiences, want) {
		return access.Caller{ObjectID: id}, nil
	}
	return access.Caller{}, failure.New(failure.Unauthorized, "the token does not verify")
}

type fixture struct {
	plane   *Plane
	service *fakeService
}

// newFixture has one HSM, alpha, in rg1, and one deleted, gone, of rg1.
func newFixture(t testing.TB) *fixture {
	t.Helper()
	h := HSM{Name: "alpha", ID: "id", ResourceGroup: "rg1", Location: "local", TenantID: tenant, URI: "https://127.0.0.1:8444", Tags: map[string]string{"a": "b"},
		InitialAdmins: []string{alice}, SoftDeleteRetentionDays: 90, ProvisioningState: "Activated", StatusMessage: "in use",
		ActivationStatus: "Active", ActivationMessage: "in use", Created: noon, Updated: noon}
	gone := h
	gone.Name, gone.DeletedAt, gone.ScheduledPurge = "gone", noon, noon.AddDate(0, 0, 90)
	s := &fakeService{live: map[string]HSM{"alpha": h}, deleted: map[string]HSM{"gone": gone}}
	p, err := New(Config{
		Service: s, Verifier: fakeVerifier{}, BaseURLs: []string{base, "https://127.0.0.1:8443"}, Tenant: tenant, Subscription: sub,
		SubscriptionName: "Strongroom", ResourceGroup: "strongroom", Location: "local", MHSMSuffix: "managedhsm.localhost:8443", Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	return &fixture{p, s}
}

type reply struct {
	status int
	header http.Header
	raw    string
}

func (f *fixture) send(token, method, path, body string, change ...func(*http.Request)) reply {
	r := httptest.NewRequest(method, "https://localhost:8443/", strings.NewReader(body))
	target, query, _ := strings.Cut(path, "?")
	r.URL.Path, r.URL.RawPath, r.URL.RawQuery = target, target, query
	if strings.Contains(target, "%") {
		r.URL.Path = strings.NewReplacer("%2f", "/", "%2F", "/", "%2e", ".").Replace(target)
	}
	if body != "" {
		r.Header.Set("Content-Type", "application/json; charset=utf-8")
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	for _, c := range change {
		c(r)
	}
	w := httptest.NewRecorder()
	f.plane.Handler().ServeHTTP(w, r)
	return reply{w.Code, w.Header(), w.Body.String()}
}

func (r reply) errorCode(t *testing.T) string {
	t.Helper()
	var body struct {
		Error struct{ Code, Message string }
	}
	if err := json.Unmarshal([]byte(r.raw), &body); err != nil || body.Error.Message == "" {
		t.Fatalf("the answer %d %q is not an Azure error", r.status, r.raw)
	}
	return body.Error.Code
}

func (r reply) decode(t *testing.T, into any) {
	t.Helper()
	if err := json.Unmarshal([]byte(r.raw), into); err != nil {
		t.Fatalf("the answer %d %q: %v", r.status, r.raw, err)
	}
}

const azCreate = `{"location":"local","sku":{"family":"B","name":"Standard_B1"},"properties":{"tenantId":"` + tenant + `","initialAdminObjectIds":["` + alice + `"],
 "enableSoftDelete":true,"softDeleteRetentionInDays":90,"networkAcls":{"bypass":"AzureServices","defaultAction":"Allow"}}}`

func TestCreateLooksAsAzureCLIExpects(t *testing.T) {
	f := newFixture(t)
	got := f.send("alice", "PUT", hsms+"/beta"+version, azCreate)
	if got.status != 200 {
		t.Fatalf("got %d %s, want 200 (201 is an error to az)", got.status, got.raw)
	}
	var body any
	got.decode(t, &body)
	want := map[string]any{
		"id": hsms + "/beta", "name": "beta", "type": "Microsoft.KeyVault/managedHSMs", "location": "local",
		"sku": map[string]any{"family": "B", "name": "Standard_B1"}, "tags": map[string]any{},
		"systemData": map[string]any{"createdAt": "2026-05-04T12:00:00Z", "lastModifiedAt": "2026-05-04T12:01:00Z"},
		"properties": map[string]any{
			"tenantId": tenant, "initialAdminObjectIds": []any{alice}, "hsmUri": "https://127.0.0.1:8444", "enableSoftDelete": true, "softDeleteRetentionInDays": 90.0,
			"enablePurgeProtection": false, "provisioningState": "Succeeded", "statusMessage": "ready", "publicNetworkAccess": "Enabled",
			"networkAcls":              map[string]any{"bypass": "AzureServices", "defaultAction": "Allow", "ipRules": []any{}, "virtualNetworkRules": []any{}},
			"securityDomainProperties": map[string]any{"activationStatus": "NotActivated", "activationStatusMessage": "download the security domain"},
		},
	}
	if d := cmp.Diff(want, body); d != "" {
		t.Error(d)
	}
}

// az update-hsm sends back everything it got; nothing in that may be refused or lost.
func TestWhatWasShownCanBeSentBack(t *testing.T) {
	f := newFixture(t)
	before := f.service.live["alpha"]
	shown := f.send("alice", "GET", hsms+"/alpha"+version, "")
	got := f.send("alice", "PUT", hsms+"/alpha"+version, shown.raw)
	if got.status != 200 {
		t.Fatalf("got %d %s", got.status, got.raw)
	}
	after := f.service.live["alpha"]
	after.Updated, after.NetworkACLs = before.Updated, before.NetworkACLs
	if d := cmp.Diff(before, after); d != "" {
		t.Error(d)
	}
}

func TestChanges(t *testing.T) {
	cases := map[string]struct {
		method, body string
		want         func(HSM) bool
	}{
		"PUT replaces the tags":           {"PUT", `{"location":"local","tags":{"x":"y"}}`, func(h HSM) bool { return len(h.Tags) == 1 && h.Tags["x"] == "y" }},
		"PUT without tags clears them":    {"PUT", `{"location":"local"}`, func(h HSM) bool { return len(h.Tags) == 0 }},
		"PATCH keeps the tags":            {"PATCH", `{"properties":{"enablePurgeProtection":true}}`, func(h HSM) bool { return h.Tags["a"] == "b" && h.PurgeProtection }},
		"PATCH changes the tags":          {"PATCH", `{"tags":{"x":"y"}}`, func(h HSM) bool { return h.Tags["x"] == "y" && !h.PurgeProtection }},
		"admins in capitals are the same": {"PUT", `{"properties":{"initialAdminObjectIds":["` + strings.ToUpper(alice) + `"]}}`, func(h HSM) bool { return slices.Equal(h.InitialAdmins, []string{alice}) }},
		"bypass None says nothing here":   {"PUT", `{"properties":{"networkAcls":{"bypass":"None","defaultAction":"Allow"}}}`, func(h HSM) bool { return string(h.NetworkACLs) == string(allowAll) }},
		"location with another spelling":  {"PUT", `{"location":"Local"}`, func(h HSM) bool { return h.Location == "local" }},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			if got := f.send("alice", c.method, hsms+"/alpha"+version, c.body); got.status != 200 {
				t.Fatalf("got %d %s", got.status, got.raw)
			}
			if h := f.service.live["alpha"]; !c.want(h) {
				t.Errorf("the HSM is now %+v", h)
			}
		})
	}
}

// What is refused is refused by name, and nothing is changed.
func TestRefusedBodies(t *testing.T) {
	props := func(s string) string {
		return `{"location":"local","properties":{"initialAdminObjectIds":["` + alice + `"],` + s + `}}`
	}
	many := `"` + strings.Repeat(alice+`","`, 20) + bob + `"`
	tags := make([]string, 16)
	for i := range tags {
		tags[i] = fmt.Sprintf(`"t%d":""`, i)
	}
	cases := map[string]struct {
		path, body string
		status     int
		code       string
	}{
		"no body":                          {"/beta", "", 400, "InvalidRequestContent"},
		"not JSON":                         {"/beta", "{", 400, "InvalidRequestContent"},
		"a list":                           {"/beta", "[]", 400, "InvalidRequestContent"},
		"a name twice":                     {"/beta", `{"location":"a","location":"b"}`, 400, "InvalidRequestContent"},
		"a name twice in two cases":        {"/beta", `{"location":"a","Location":"b"}`, 400, "InvalidRequestContent"},
		"nested deep":                      {"/beta", strings.Repeat(`[`, 40) + strings.Repeat(`]`, 40), 400, "InvalidRequestContent"},
		"wrong type":                       {"/beta", `{"location":7}`, 400, "InvalidRequestContent"},
		"tag that is a number":             {"/beta", `{"tags":{"a":7}}`, 400, "InvalidRequestContent"},
		"too large":                        {"/beta", `{"x":"` + strings.Repeat("x", maxBody) + `"}`, 413, "RequestTooLarge"},
		"no administrators":                {"/beta", `{"location":"local"}`, 400, "BadRequest"},
		"administrator by name":            {"/beta", `{"properties":{"initialAdminObjectIds":["alice@example.org"]}}`, 400, "BadRequest"},
		"another tenant":                   {"/beta", props(`"tenantId":"` + sub + `"`), 400, "BadRequest"},
		"soft delete off":                  {"/beta", props(`"enableSoftDelete":false`), 400, "BadRequest"},
		"retention of six days":            {"/beta", props(`"softDeleteRetentionInDays":6`), 400, "BadRequest"},
		"retention of 91 days":             {"/beta", props(`"softDeleteRetentionInDays":91`), 400, "BadRequest"},
		"unknown create mode":              {"/beta", props(`"createMode":"steal"`), 400, "BadRequest"},
		"network rules: deny":              {"/beta", props(`"networkAcls":{"defaultAction":"Deny"}`), 400, "NotSupported"},
		"network rules: addresses":         {"/beta", props(`"networkAcls":{"defaultAction":"Allow","ipRules":[{"value":"10.0.0.0/8"}]}`), 400, "NotSupported"},
		"network rules: unknown bypass":    {"/beta", props(`"networkAcls":{"bypass":"Everybody"}`), 400, "BadRequest"},
		"private access":                   {"/beta", props(`"publicNetworkAccess":"Disabled"`), 400, "NotSupported"},
		"a second region":                  {"/beta", props(`"regions":[{"name":"b"}]`), 400, "NotSupported"},
		"another SKU":                      {"/beta", `{"sku":{"family":"B","name":"Custom_B32"}}`, 400, "NotSupported"},
		"sixteen tags":                     {"/beta", `{"tags":{` + strings.Join(tags, ",") + `}}`, 400, "BadRequest"},
		"a long tag":                       {"/beta", `{"tags":{"a":"` + strings.Repeat("x", 257) + `"}}`, 400, "BadRequest"},
		"location that is none":            {"/beta", `{"location":"../x"}`, 400, "BadRequest"},
		"name too short":                   {"/ab", azCreate, 400, "VaultNameNotValid"},
		"name too long":                    {"/a123456789012345678901234", azCreate, 400, "VaultNameNotValid"},
		"name with a digit first":          {"/1alpha", azCreate, 400, "VaultNameNotValid"},
		"name with a hyphen last":          {"/alpha-", azCreate, 400, "VaultNameNotValid"},
		"name with two hyphens":            {"/al--pha", azCreate, 400, "VaultNameNotValid"},
		"name with a dot":                  {"/al.pha", azCreate, 400, "VaultNameNotValid"},
		"name of a deleted HSM":            {"/gone", azCreate, 409, "ConflictError"},
		"recover what is not deleted":      {"/beta", `{"properties":{"createMode":"recover"}}`, 404, "ResourceNotFound"},
		"existing: another location":       {"/alpha", `{"location":"elsewhere"}`, 409, "InvalidResourceLocation"},
		"existing: another administrator":  {"/alpha", `{"properties":{"initialAdminObjectIds":["` + bob + `"]}}`, 400, "BadRequest"},
		"existing: one administrator more": {"/alpha", `{"properties":{"initialAdminObjectIds":["` + alice + `","` + bob + `"]}}`, 400, "BadRequest"},
		"existing: another retention":      {"/alpha", `{"properties":{"softDeleteRetentionInDays":30}}`, 400, "BadRequest"},
		"many administrators, most twice":  {"/alpha", `{"properties":{"initialAdminObjectIds":[` + many + `]}}`, 400, "BadRequest"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			got := f.send("alice", "PUT", hsms+c.path+version, c.body)
			if code := got.errorCode(t); got.status != c.status || code != c.code {
				t.Errorf("got %d %s, want %d %s", got.status, got.raw, c.status, c.code)
			}
			calls := slices.DeleteFunc(f.service.calls, func(s string) bool { return strings.HasPrefix(s, "create {Name:gone") })
			if len(calls) > 0 {
				t.Errorf("the service was asked to %v", calls)
			}
		})
	}
	t.Run("purge protection off again", func(t *testing.T) {
		f := newFixture(t)
		on, off := `{"properties":{"enablePurgeProtection":true}}`, `{"properties":{"enablePurgeProtection":false}}`
		if got := f.send("alice", "PATCH", hsms+"/alpha"+version, on); got.status != 200 {
			t.Fatalf("on: %d %s", got.status, got.raw)
		}
		if got := f.send("alice", "PATCH", hsms+"/alpha"+version, off); got.status != 400 || !f.service.live["alpha"].PurgeProtection {
			t.Errorf("off: %d %s", got.status, got.raw)
		}
	})
	t.Run("a name taken in another group", func(t *testing.T) {
		f := newFixture(t)
		got := f.send("alice", "PUT", strings.Replace(hsms, "rg1", "rg2", 1)+"/alpha"+version, azCreate)
		if got.status != 409 || got.errorCode(t) != "VaultAlreadyExists" {
			t.Errorf("got %d %s", got.status, got.raw)
		}
	})
	t.Run("not JSON by its type", func(t *testing.T) {
		f := newFixture(t)
		got := f.send("alice", "PUT", hsms+"/beta"+version, azCreate, func(r *http.Request) { r.Header.Set("Content-Type", "text/plain") })
		if got.status != 415 {
			t.Errorf("got %d %s, want 415", got.status, got.raw)
		}
	})
}

func TestDeleteRecoverPurge(t *testing.T) {
	f := newFixture(t)
	deletedURL := inSub + "/providers/Microsoft.KeyVault/locations/local/deletedManagedHSMs/alpha"
	poll := func(r reply) {
		t.Helper()
		if r.status != 202 || r.header.Get("Retry-After") != "1" {
			t.Fatalf("got %d, Retry-After %q; want 202, 1", r.status, r.header.Get("Retry-After"))
		}
		for _, name := range []string{"Azure-AsyncOperation", "Location"} {
			path, ok := strings.CutPrefix(r.header.Get(name), base)
			if !ok {
				t.Fatalf("%s is %q, want it under %s", name, r.header.Get(name), base)
			}
			// A new server: the poll must not depend on what the old one remembers.
			var status struct{ Status string }
			again := newFixture(t).send("alice", "GET", path, "")
			again.decode(t, &status)
			if again.status != 200 || status.Status != "Succeeded" || again.header.Get("Retry-After") == "" {
				t.Errorf("%s answers %d %s", name, again.status, again.raw)
			}
		}
	}
	poll(f.send("alice", "DELETE", hsms+"/alpha"+version, ""))
	if got := f.send("alice", "GET", hsms+"/alpha"+version, ""); got.status != 404 || got.errorCode(t) != "ResourceNotFound" {
		t.Errorf("a deleted HSM is shown: %d %s", got.status, got.raw)
	}
	got := f.send("alice", "GET", deletedURL+version, "")
	var body any
	got.decode(t, &body)
	want := map[string]any{
		"id": deletedURL, "name": "alpha", "type": "Microsoft.KeyVault/deletedManagedHSMs",
		"properties": map[string]any{"mhsmId": hsms + "/alpha", "location": "local", "deletionDate": "2026-05-04T12:00:00Z",
			"scheduledPurgeDate": "2026-08-02T12:00:00Z", "purgeProtectionEnabled": false, "tags": map[string]any{"a": "b"}},
	}
	if d := cmp.Diff(want, body); d != "" {
		t.Error(d)
	}
	if got := f.send("alice", "PUT", strings.Replace(hsms, "rg1", "rg2", 1)+"/alpha"+version, `{"location":"local","properties":{"createMode":"Recover"}}`); got.status != 404 {
		t.Errorf("recovered into another group: %d %s", got.status, got.raw)
	}
	if got := f.send("alice", "PUT", hsms+"/alpha"+version, `{"location":"local","properties":{"createMode":"Recover"}}`); got.status != 200 {
		t.Fatalf("recover: %d %s", got.status, got.raw)
	}
	poll(f.send("alice", "DELETE", hsms+"/ALPHA"+version, ""))
	poll(f.send("alice", "POST", deletedURL+"/purge"+version, ""))
	if got := f.send("alice", "POST", deletedURL+"/purge"+version, ""); got.status != 404 {
		t.Errorf("purged twice: %d %s", got.status, got.raw)
	}
	if got := f.send("alice", "DELETE", hsms+"/alpha"+version, ""); got.status != 204 || got.raw != "" {
		t.Errorf("deleting nothing: %d %q, want 204", got.status, got.raw)
	}
	if got := f.send("alice", "DELETE", strings.Replace(hsms, "rg1", "rg2", 1)+"/alpha"+version, ""); got.status != 204 {
		t.Errorf("deleting in another group: %d", got.status)
	}
	want2 := []string{"delete alpha", "recover alpha", "delete alpha", "purge alpha"}
	if d := cmp.Diff(want2, f.service.calls); d != "" {
		t.Error(d)
	}
}

func TestDeleteInAnotherGroupTouchesNothing(t *testing.T) {
	f := newFixture(t)
	if got := f.send("alice", "DELETE", strings.Replace(hsms, "rg1", "rg2", 1)+"/alpha"+version, ""); got.status != 204 || len(f.service.calls) > 0 {
		t.Errorf("got %d, calls %v", got.status, f.service.calls)
	}
}

func TestPurgeProtectionHolds(t *testing.T) {
	f := newFixture(t)
	h := f.service.deleted["gone"]
	h.PurgeProtection = true
	f.service.deleted["gone"] = h
	got := f.send("alice", "POST", inSub+"/providers/Microsoft.KeyVault/locations/local/deletedManagedHSMs/gone/purge"+version, "")
	if got.status != 409 || got.errorCode(t) != "PurgeProtectionEnabled" || got.header.Get("Azure-AsyncOperation") != "" {
		t.Errorf("got %d %s", got.status, got.raw)
	}
}

func TestLists(t *testing.T) {
	rg2 := strings.Replace(hsms, "rg1", "rg2", 1)
	cases := map[string]struct {
		path string
		want []string // names
	}{
		"HSMs of the subscription":      {inSub + "/providers/Microsoft.KeyVault/managedHSMs" + version, []string{"alpha", "beta"}},
		"HSMs of a group":               {hsms + version, []string{"alpha"}},
		"HSMs of a group in capitals":   {strings.ToUpper(rg2) + version, []string{"beta"}},
		"HSMs of an empty group":        {strings.Replace(hsms, "rg1", "rg3", 1) + version, []string{}},
		"with az's page size":           {hsms + version + "&$top=25", []string{"alpha"}},
		"deleted HSMs":                  {inSub + "/providers/Microsoft.KeyVault/deletedManagedHSMs" + version, []string{"gone"}},
		"resources: vaults, as az asks": {inSub + "/resources?api-version=2015-11-01&$filter=resourceType+eq+%27Microsoft.KeyVault/vaults%27", []string{}},
		"resources: HSMs":               {inSub + "/resources?api-version=2021-04-01&%24filter=resourcetype%20eq%20'microsoft.keyvault/managedhsms'", []string{"alpha", "beta"}},
		"resources of a group":          {inGroup + "/resources?api-version=2021-04-01", []string{"alpha"}},
		"resource groups":               {inSub + "/resourcegroups?api-version=2021-04-01", []string{"strongroom", "rg1", "rg2"}},
		"locations":                     {inSub + "/locations?api-version=2022-12-01", []string{"local"}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			h := f.service.live["alpha"]
			h.Name, h.ResourceGroup = "beta", "rg2"
			f.service.live["beta"] = h
			got := f.send("alice", "GET", c.path, "")
			var body struct{ Value []struct{ Name string } }
			got.decode(t, &body)
			names := []string{}
			for _, v := range body.Value {
				names = append(names, v.Name)
			}
			if d := cmp.Diff(c.want, names); d != "" || got.status != 200 {
				t.Errorf("%d %s", got.status, d)
			}
			if !strings.Contains(got.raw, `"value":[`) {
				t.Errorf("an empty list must be [] and not null: %s", got.raw)
			}
		})
	}
}

func TestNameAvailability(t *testing.T) {
	f := newFixture(t)
	for name, c := range map[string]struct{ body, want string }{
		"free":            {`{"name":"fresh"}`, `{"nameAvailable":true}`},
		"taken":           {`{"name":"ALPHA"}`, `"reason":"AlreadyExists"`},
		"of a deleted":    {`{"name":"gone"}`, `"reason":"AlreadyExists"`},
		"not a name":      {`{"name":"a"}`, `"reason":"AccountNameInvalid"`},
		"no name":         {`{}`, `"code":"BadRequest"`},
		"name of no text": {`{"name":7}`, `"code":"InvalidRequestContent"`},
	} {
		t.Run(name, func(t *testing.T) {
			got := f.send("alice", "POST", inSub+"/providers/Microsoft.KeyVault/checkMhsmNameAvailability"+version, c.body)
			if !strings.Contains(got.raw, c.want) {
				t.Errorf("got %d %s, want %s", got.status, got.raw, c.want)
			}
		})
	}
}

// Every route, without a token, with a bad one, and with one of somebody who is no operator. Covers A1, S13's kin
// on the control plane: nothing is shown or done, and the body is not looked at.
func TestEveryRouteIsGuarded(t *testing.T) {
	for _, r := range routes {
		path := strings.NewReplacer("{subscription}", sub, "{group}", "rg1", "{name}", "alpha", "{location}", "local", "{operation}", sub, "{rest}", "x").Replace(r.pattern) + "?api-version=2022-09-01"
		if slices.Contains(r.versions, "2022-07-01") {
			path = strings.Replace(path, "2022-09-01", "2022-07-01", 1)
		}
		body := ""
		if r.takesBody {
			body = strings.Repeat("[", 100) // would be 400, if anybody looked
		}
		for _, token := range []string{"", "stranger", "bob"} {
			t.Run(fmt.Sprintf("%s %s %q", r.method, r.pattern, token), func(t *testing.T) {
				f := newFixture(t)
				got := f.send(token, r.method, path, body)
				want := 401
				switch {
				case strings.HasPrefix(path, "/v1.0"):
					want = 403
				case r.access == public, r.access == anyone && token == "bob":
					want = 200
				case token == "bob":
					want = 403
				}
				if got.status != want {
					t.Fatalf("got %d %s, want %d", got.status, got.raw, want)
				}
				if want == 401 {
					if h := got.header.Get("WWW-Authenticate"); !strings.HasPrefix(h, `Bearer authorization_uri="`+base+"/"+tenant+`"`) {
						t.Errorf("the challenge is %q", h)
					}
					if code := got.errorCode(t); code != "AuthenticationFailed" {
						t.Errorf("code %s, want AuthenticationFailed", code)
					}
				}
				if want == 403 && r.access == operators && got.errorCode(t) != "AuthorizationFailed" {
					t.Errorf("code in %s, want AuthorizationFailed", got.raw)
				}
				if len(f.service.calls) > 0 || (r.access != public && strings.Contains(got.raw, "alpha")) {
					t.Errorf("somebody got something: %v %s", f.service.calls, got.raw)
				}
			})
		}
	}
}

func TestSigningIn(t *testing.T) {
	f := newFixture(t)
	var body struct {
		Value []struct{ SubscriptionID, TenantID, State, ID string }
	}
	got := f.send("alice", "GET", "/subscriptions?api-version=2019-11-01", "")
	got.decode(t, &body)
	if len(body.Value) != 1 || body.Value[0].SubscriptionID != sub || body.Value[0].State != "Enabled" || body.Value[0].TenantID != tenant || body.Value[0].ID != inSub {
		t.Errorf("an operator sees %s", got.raw)
	}
	got = f.send("bob", "GET", "/subscriptions?api-version=2019-11-01", "")
	if got.status != 200 || strings.TrimSpace(got.raw) != `{"value":[]}` {
		t.Errorf("who is no operator sees %d %s, want an empty list", got.status, got.raw)
	}
	for _, path := range []string{"/tenants?api-version=2019-11-01", inSub + "?api-version=2019-11-01"} {
		if got := f.send("alice", "GET", path, ""); got.status != 200 || !strings.Contains(got.raw, tenant) {
			t.Errorf("%s: %d %s", path, got.status, got.raw)
		}
	}
	for name, c := range map[string]struct{ version, want string }{
		"2015": {"2015-01-01", `"loginEndpoint":"https://127.0.0.1:8443/adfs"`},
		"2022": {"2022-09-01", `"mhsmDns":"managedhsm.localhost:8443"`},
	} {
		got := f.send("", "GET", "/metadata/endpoints?api-version="+c.version, "", func(r *http.Request) { r.Host = "127.0.0.1:8443" })
		if got.status != 200 || !strings.Contains(got.raw, c.want) {
			t.Errorf("metadata of %s: %d %s", name, got.status, got.raw)
		}
	}
	if got := f.send("alice", "HEAD", inGroup+"?api-version=2021-04-01", ""); got.status != 204 {
		t.Errorf("az group exists: %d, want 204", got.status)
	}
	for _, method := range []string{"GET", "PUT"} {
		if got := f.send("alice", method, strings.ToLower(inGroup)+"?api-version=2021-04-01", map[string]string{"PUT": `{"location":"x"}`}[method]); got.status != 200 || !strings.Contains(got.raw, `"location":"local"`) {
			t.Errorf("%s of a resource group: %d %s", method, got.status, got.raw)
		}
	}
	got = f.send("alice", "POST", "/v1.0/directoryObjects/getByIds", `{"ids":[]}`)
	if got.status != 403 || got.errorCode(t) != "Authorization_RequestDenied" {
		t.Errorf("Graph: %d %s, want 403", got.status, got.raw)
	}
}

// Covers A2: odd spellings of paths and queries are refused in Azure's form, and never redirected.
func TestOddRequests(t *testing.T) {
	cases := map[string]struct {
		method, path string
		status       int
		code         string
	}{
		"case of literals":            {"GET", strings.ToUpper(hsms) + "/ALPHA" + version, 200, ""},
		"no version":                  {"GET", hsms + "/alpha", 400, "MissingApiVersionParameter"},
		"empty version":               {"GET", hsms + "/alpha?api-version=", 400, "MissingApiVersionParameter"},
		"unknown version":             {"GET", hsms + "/alpha?api-version=1999-01-01", 400, "InvalidApiVersionParameter"},
		"newest version":              {"GET", hsms + "/alpha?api-version=2026-02-01", 200, ""},
		"version in capitals":         {"GET", hsms + "/alpha?API-Version=2022-07-01", 200, ""},
		"version twice":               {"GET", hsms + "/alpha" + version + "&api-version=2022-07-01", 400, "BadRequest"},
		"version twice in two cases":  {"GET", hsms + "/alpha" + version + "&Api-Version=2022-07-01", 400, "BadRequest"},
		"broken query":                {"GET", hsms + "/alpha" + version + "&x=%zz", 400, "BadRequest"},
		"long query":                  {"GET", hsms + "/alpha" + version + "&x=" + strings.Repeat("x", maxQuery), 400, "BadRequest"},
		"unknown filter":              {"GET", inSub + "/resources?api-version=2021-04-01&$filter=name+eq+'x'", 400, "InvalidFilterInQueryString"},
		"another subscription":        {"GET", "/subscriptions/" + tenant + "?api-version=2019-11-01", 404, "SubscriptionNotFound"},
		"unknown resource type":       {"GET", inGroup + "/providers/Microsoft.KeyVault/vaults/x" + version, 404, "InvalidResourceType"},
		"unknown path":                {"GET", "/subscriptionz" + version, 404, "InvalidResourceType"},
		"wrong method":                {"POST", hsms + "/alpha" + version, 405, "MethodNotAllowed"},
		"trailing slash":              {"GET", hsms + "/alpha/" + version, 400, "BadRequest"},
		"double slash":                {"GET", "/" + hsms + "/alpha" + version, 400, "BadRequest"},
		"dot segment":                 {"GET", hsms + "/x/../alpha" + version, 400, "BadRequest"},
		"encoded slash":               {"GET", hsms + "%2falpha" + version, 400, "BadRequest"},
		"backslash":                   {"GET", hsms + "\\alpha" + version, 400, "BadRequest"},
		"long path":                   {"GET", "/" + strings.Repeat("a", maxPath) + version, 400, "BadRequest"},
		"no such HSM":                 {"GET", hsms + "/beta" + version, 404, "ResourceNotFound"},
		"HSM in another group":        {"GET", strings.Replace(hsms, "rg1", "rg2", 1) + "/alpha" + version, 404, "ResourceNotFound"},
		"impossible HSM name":         {"GET", hsms + "/a.b" + version, 404, "ResourceNotFound"},
		"patch of nothing":            {"PATCH", hsms + "/beta" + version, 400, "InvalidRequestContent"},
		"deleted in another location": {"GET", inSub + "/providers/Microsoft.KeyVault/locations/mars/deletedManagedHSMs/gone" + version, 404, "DeletedVaultNotFound"},
		"operation of no form":        {"GET", inSub + "/providers/Microsoft.KeyVault/locations/local/managedHsmOperationStatuses/1", 404, "OperationNotFound"},
		"resource group with a dot":   {"GET", inSub + "/resourceGroups/rg.?api-version=2021-04-01", 400, "InvalidResourceGroup"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			got := f.send("alice", c.method, c.path, "")
			if got.status != c.status {
				t.Fatalf("got %d %s, want %d", got.status, got.raw, c.status)
			}
			if c.code != "" && got.errorCode(t) != c.code {
				t.Errorf("got %s, want code %s", got.raw, c.code)
			}
			if c.status == 405 && got.header.Get("Allow") != "GET, PUT, PATCH, DELETE" {
				t.Errorf("Allow is %q", got.header.Get("Allow"))
			}
			if got.header.Get("x-ms-request-id") == "" || got.header.Get("x-ms-correlation-request-id") == "" {
				t.Error("the answer has no request ids")
			}
		})
	}
	t.Run("method override", func(t *testing.T) {
		got := newFixture(t).send("alice", "GET", hsms+"/alpha"+version, "", func(r *http.Request) { r.Header.Set("X-HTTP-Method-Override", "DELETE") })
		if got.status != 400 {
			t.Errorf("got %d, want 400", got.status)
		}
	})
	t.Run("two tokens", func(t *testing.T) {
		got := newFixture(t).send("alice", "GET", hsms+"/alpha"+version, "", func(r *http.Request) { r.Header.Add("Authorization", "Bearer alice") })
		if got.status != 401 {
			t.Errorf("got %d, want 401", got.status)
		}
	})
	t.Run("URLs for a strange host", func(t *testing.T) {
		got := newFixture(t).send("alice", "DELETE", hsms+"/alpha"+version, "", func(r *http.Request) { r.Host = "evil.example" })
		if loc := got.header.Get("Location"); !strings.HasPrefix(loc, base+"/") {
			t.Errorf("Location is %q", loc)
		}
	})
}

func TestTroubleBelowIsToldInGeneral(t *testing.T) {
	f := newFixture(t)
	f.service.broken = errors.New("canary in the cellar")
	got := f.send("alice", "GET", hsms+"/alpha"+version, "")
	if got.status != 500 || strings.Contains(got.raw, "canary") {
		t.Errorf("got %d %s", got.status, got.raw)
	}
	f.service.broken = failure.Wrap(failure.Unavailable, errors.New("canary"), "the disk is full")
	got = f.send("alice", "GET", hsms+"/alpha"+version, "")
	if got.status != 503 || got.header.Get("Retry-After") == "" || strings.Contains(got.raw, "canary") {
		t.Errorf("got %d %s", got.status, got.raw)
	}
}

func TestOwns(t *testing.T) {
	for path, want := range map[string]bool{
		"/subscriptions": true, "/Subscriptions/x": true, "/tenants": true, "/metadata/endpoints": true, "/v1.0/directoryObjects": true,
		"/": false, "": false, "subscriptions": false, "/keys/k": false, "/securitydomain/download": false, "//subscriptions": false, "/subscriptionsx": false, "/healthz": false,
	} {
		if got := Owns(path); got != want {
			t.Errorf("Owns(%q) = %v, want %v", path, got, want)
		}
	}
}

func TestNewRefusesBadConfiguration(t *testing.T) {
	good := newFixture(t).plane.cfg
	for name, change := range map[string]func(*Config){
		"no base URL":           func(c *Config) { c.BaseURLs = nil },
		"subscription by name":  func(c *Config) { c.Subscription = "mine" },
		"tenant by name":        func(c *Config) { c.Tenant = "mine" },
		"no group":              func(c *Config) { c.ResourceGroup = "" },
		"location with a space": func(c *Config) { c.Location = "West US" },
	} {
		t.Run(name, func(t *testing.T) {
			cfg := good
			change(&cfg)
			if _, err := New(cfg); err == nil {
				t.Error("accepted")
			}
		})
	}
}

// Covers R4, A1: any path and body is answered, in JSON or without a body, and what the router matched is what was
// sent.
func FuzzRequest(f *testing.F) {
	f.Add("PUT", hsms+"/beta", "api-version=2022-07-01", azCreate)
	f.Add("GET", "/subscriptions//x", "api-version=2022-07-01&api-version=1", "")
	f.Add("PATCH", hsms+"/alpha", "api-version=2026-02-01", `{"tags":{"a":null},"properties":{"regions":[1]}}`)
	f.Add("GET", inSub+"/resources", "api-version=2021-04-01&$filter=resourceType eq ''", "")
	f.Fuzz(func(t *testing.T, method, path, query, body string) {
		fx := newFixture(t)
		r := httptest.NewRequest(http.MethodGet, "https://localhost:8443/", strings.NewReader(body))
		r.Method, r.URL.Path, r.URL.RawPath, r.URL.RawQuery = method, path, "", query
		r.Header.Set("Authorization", "Bearer alice")
		r.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		fx.plane.Handler().ServeHTTP(w, r)
		if w.Body.Len() > 0 && !json.Valid(w.Body.Bytes()) {
			t.Fatalf("%d %q", w.Code, w.Body)
		}
		if w.Code >= 500 || w.Code >= 300 && w.Code < 400 {
			t.Fatalf("%s %q?%q: %d %s", method, path, query, w.Code, w.Body)
		}
		if w.Code < 300 && (strings.Contains(path, "..") || strings.Contains(path, "//")) {
			t.Fatalf("%q was taken", path)
		}
	})
}
