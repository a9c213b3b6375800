package identity

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/coreos/go-oidc/v3/oidc"

	"strongroom/internal/failure"
	"strongroom/internal/record"
	"strongroom/internal/store"
	"strongroom/secret"
)

// azClient is the client ID that az, and azidentity where it is given none, signs users in with.
const azClient = "04b07795-8ddb-461a-bbee-02f9e1bf7b46"

// person is a user whose password the test knows.
type person struct {
	User
	password secret.Bytes
}

func (f *fixture) person(t *testing.T, name string) *person {
	t.Helper()
	u, s, err := f.issuer.AddUser(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return &person{u, s}
}

// passwordForm is a good request of a user, with changes, as az sends it; nil removes a parameter.
func passwordForm(p *person, changes url.Values) url.Values {
	return changed(url.Values{
		"grant_type": {"password"}, "client_id": {azClient}, "username": {p.Name}, "password": {string(p.password.Reveal())},
		"scope": {"offline_access openid profile " + resource + "/.default"}, "client_info": {"1"}, "claims": {`{"access_token":{"xms_cc":{"values":["CP1"]}}}`},
	}, changes)
}

// refreshForm is a good request with a refresh token, with changes.
func refreshForm(token string, changes url.Values) url.Values {
	return changed(url.Values{
		"grant_type": {"refresh_token"}, "client_id": {azClient}, "refresh_token": {token}, "scope": {"offline_access openid profile https://other.example/.default"}, "client_info": {"1"},
	}, changes)
}

func changed(v, changes url.Values) url.Values {
	for name, value := range changes {
		v[name] = value
		if len(value) == 0 {
			delete(v, name)
		}
	}
	return v
}

func (r reply) text(name string) string {
	s, _ := r.body[name].(string)
	return s
}

// login signs a user in as az does, and wants it to succeed.
func (f *fixture) login(t *testing.T, p *person) reply {
	t.Helper()
	got := f.post(t, "/adfs/oauth2/token", passwordForm(p, nil))
	if got.status != 200 || got.text("access_token") == "" || got.text("refresh_token") == "" {
		t.Fatalf("signing in: %d %s", got.status, got.raw)
	}
	return got
}

// Every way in gives a user's tokens: an access token that the verifier takes, and an ID token for the client that asked,
// which is no access token.
func TestTokensOfUsers(t *testing.T) {
	f := newFixture(t)
	anna := f.person(t, "Anna@example.org")
	v := f.verifier(t, f.issuer)
	ctx := oidc.ClientContext(t.Context(), f.server.Client())
	for name, c := range map[string]struct{ issuer, token, ver string }{
		"plain":             {"", "/oauth2/token", "2.0"},
		"adfs, for az":      {"/adfs", "/adfs/oauth2/token", "1.0"},
		"tenant":            {"/" + tenant, "/" + tenant + "/oauth2/token", "1.0"},
		"tenant, version 2": {"/" + tenant + "/v2.0", "/" + tenant + "/oauth2/v2.0/token", "2.0"},
	} {
		t.Run(name, func(t *testing.T) {
			provider, err := oidc.NewProvider(ctx, f.server.URL+c.issuer)
			if err != nil {
				t.Fatal(err)
			}
			var document struct {
				Grants []string `json:"grant_types_supported"`
			}
			if err := provider.Claims(&document); err != nil || strings.Join(document.Grants, " ") != "client_credentials password refresh_token" {
				t.Errorf("the discovery document lists the grants %v, %v", document.Grants, err)
			}
			got := f.post(t, c.token, passwordForm(anna, url.Values{"username": {"ANNA@example.org"}, "client_id": {strings.ToUpper(azClient)}}))
			if got.status != 200 || got.body["token_type"] != "Bearer" || got.body["expires_in"] != 3600.0 || got.header.Get("Cache-Control") != "no-store" {
				t.Fatalf("got %d %v", got.status, got.body["error_description"])
			}
			raw := got.text("access_token")
			caller, err := v.Verify(t.Context(), raw, []string{resource})
			if err != nil {
				t.Fatal(err)
			}
			if caller.ObjectID != anna.ObjectID || caller.AppID != azClient || caller.Tenant != tenant || caller.Issuer != f.server.URL+c.issuer || caller.Name != anna.Name {
				t.Errorf("caller is %+v", caller)
			}
			claims := claimsOf(t, raw)
			if claims["idtyp"] != "user" || claims["upn"] != anna.Name || claims["sub"] != anna.ObjectID || claims["ver"] != c.ver || claims["jti"] == nil || claims["exp"].(float64)-claims["nbf"].(float64) != 3600 {
				t.Errorf("claims are %v", claims)
			}
			// MSAL compares the audience with its client ID, letter by letter.
			id, err := provider.VerifierContext(ctx, &oidc.Config{ClientID: strings.ToUpper(azClient)}).Verify(ctx, got.text("id_token"))
			if err != nil || id.Subject != anna.ObjectID {
				t.Fatalf("the ID token: %v, %v", id, err)
			}
			if claims := claimsOf(t, got.text("id_token")); claims["preferred_username"] != anna.Name || claims["upn"] != anna.Name || claims["oid"] != anna.ObjectID || claims["tid"] != tenant {
				t.Errorf("the ID token claims %v", claims)
			}
			if _, err := v.Verify(t.Context(), got.text("id_token"), []string{resource, "https://managedhsm.azure.net", "https://" + azClient}); !errors.Is(err, failure.Unauthorized) {
				t.Errorf("the ID token as an access token: %v, want Unauthorized", err)
			}
			info, _ := base64.RawURLEncoding.DecodeString(got.text("client_info"))
			if string(info) != `{"uid":"`+anna.ObjectID+`","utid":"`+tenant+`"}` {
				t.Errorf("client_info is %s", info)
			}
		})
	}
	t.Run("only what was asked for", func(t *testing.T) {
		got := f.post(t, "/oauth2/token", passwordForm(anna, url.Values{"scope": {resource + "/.default"}, "client_info": nil}))
		if got.status != 200 || len(got.body) != 4 {
			t.Errorf("got %d with %d members: %v", got.status, len(got.body), got.body)
		}
	})
	t.Run("an application gets none of it", func(t *testing.T) {
		got := f.post(t, "/oauth2/token", f.form(url.Values{"scope": {resource + "/.default openid offline_access profile"}}))
		if got.status != 200 || len(got.body) != 4 {
			t.Errorf("got %d with %d members", got.status, len(got.body))
		}
	})
}

// The Azure SDK's own credential with a name and a password, over real TLS, by both kinds of authority: it asks for the
// second resource with its refresh token.
func TestAzureSDKSignsUsersIn(t *testing.T) {
	f := newFixture(t)
	anna := f.person(t, "anna")
	calls := &calls{}
	f.issuer.Record(calls)
	for name, authority := range map[string]string{"a tenant": tenant, "adfs": "adfs"} {
		t.Run(name, func(t *testing.T) {
			*calls = nil
			credential := func(password string) azcore.TokenCredential {
				//lint:ignore SA1019 deprecated in the SDK, and what is to be shown here
				c, err := azidentity.NewUsernamePasswordCredential(authority, azClient, "anna", password, &azidentity.UsernamePasswordCredentialOptions{
					ClientOptions: azcore.ClientOptions{
						Cloud:     cloud.Configuration{ActiveDirectoryAuthorityHost: f.server.URL},
						Transport: f.server.Client(),
						Retry:     policy.RetryOptions{MaxRetries: -1},
					},
					DisableInstanceDiscovery: true,
				})
				if err != nil {
					t.Fatal(err)
				}
				return c
			}
			c := credential(string(anna.password.Reveal()))
			for _, audience := range []string{resource, "https://other.example", resource} {
				got, err := c.GetToken(t.Context(), policy.TokenRequestOptions{Scopes: []string{audience + "/.default"}, EnableCAE: true})
				if err != nil {
					t.Fatal(err)
				}
				caller, err := f.verifier(t, f.issuer).Verify(t.Context(), got.Token, []string{audience})
				if err != nil || caller.ObjectID != anna.ObjectID {
					t.Errorf("for %s: %v, %v", audience, caller, err)
				}
			}
			if got, want := calls.String(), "IssueToken 200, RefreshToken 200"; got != want {
				t.Errorf("it made %s; want %s", got, want)
			}
			if _, err := credential("wrong").GetToken(t.Context(), policy.TokenRequestOptions{Scopes: []string{resource + "/.default"}}); err == nil || !strings.Contains(err.Error(), "invalid_grant") {
				t.Errorf("with a wrong password the SDK says %v, want invalid_grant", err)
			}
		})
	}
}

// Where users sign in is told of everybody alike, and asked before the password is sent.
func TestUserRealm(t *testing.T) {
	f := newFixture(t)
	f.person(t, "anna")
	known := f.send(t, http.MethodGet, "/common/UserRealm/anna?api-version=1.0", "", "")
	unknown := f.send(t, http.MethodGet, "/common/UserRealm/nobody@example.org?api-version=1.0", "", "")
	if known.status != 200 || known.body["account_type"] != "Managed" || known.raw != unknown.raw {
		t.Errorf("got %d %s, and of somebody unknown %s", known.status, known.raw, unknown.raw)
	}
	for _, path := range []string{"/common/UserRealm/", "/common/UserRealm/a/b", "/common/UserRealm/a%2fb", "/common/UserRealm/" + strings.Repeat("a", 65)} {
		if f.issuer.Owns(path) {
			t.Errorf("%s is taken for the issuer's", path)
		}
	}
}

// calls is what was recorded, in order.
type calls []record.Call

func (c *calls) Intent(context.Context, *record.Call) error { return nil }
func (c *calls) Outcome(_ context.Context, call *record.Call) error {
	if call.Operation == "IssueToken" || call.Operation == "RefreshToken" {
		*c = append(*c, *call)
	}
	return nil
}

func (c *calls) String() string {
	var list []string
	for _, call := range *c {
		list = append(list, strings.TrimSpace(fmt.Sprintf("%s %d %s", call.Operation, call.Status, call.Code)))
	}
	return strings.Join(list, ", ")
}

func TestRefusedUserSignIns(t *testing.T) {
	f := newFixture(t)
	anna := f.person(t, "anna")
	good := string(anna.password.Reveal())
	cases := map[string]struct {
		change url.Values
		with   func(*http.Request)
		status int
		code   string
	}{
		"wrong password":               {url.Values{"password": {"wrong"}}, nil, 400, "invalid_grant"},
		"password with a space":        {url.Values{"password": {good + " "}}, nil, 400, "invalid_grant"},
		"no password":                  {url.Values{"password": nil}, nil, 400, "invalid_grant"},
		"a long password":              {url.Values{"password": {strings.Repeat("a", 6<<10)}}, nil, 400, "invalid_grant"},
		"no name":                      {url.Values{"username": nil}, nil, 400, "invalid_grant"},
		"unknown name":                 {url.Values{"username": {"bert"}}, nil, 400, "invalid_grant"},
		"name with a path":             {url.Values{"username": {"../app/" + f.app.ClientID}}, nil, 400, "invalid_grant"},
		"name with a zero":             {url.Values{"username": {"anna\x00"}}, nil, 400, "invalid_grant"},
		"user by object ID":            {url.Values{"username": {anna.ObjectID}}, nil, 400, "invalid_grant"},
		"the decoy":                    {url.Values{"username": {nobody}}, nil, 400, "invalid_grant"},
		"an application as a user":     {url.Values{"username": {f.app.ClientID}, "password": {string(f.secret.Reveal())}}, nil, 400, "invalid_grant"},
		"a user as an application":     {url.Values{"grant_type": {"client_credentials"}, "client_id": {"anna"}, "client_secret": {good}}, nil, 401, "invalid_client"},
		"no client":                    {url.Values{"client_id": nil}, nil, 400, "invalid_request"},
		"client that is no GUID":       {url.Values{"client_id": {"az"}}, nil, 400, "invalid_request"},
		"an application as the client": {url.Values{"client_id": {f.app.ClientID}}, nil, 400, "unauthorized_client"},
		"with a client secret":         {url.Values{"client_secret": {"x"}}, nil, 400, "invalid_request"},
		"with a client assertion":      {url.Values{"client_assertion": {"x"}}, nil, 400, "invalid_request"},
		"with Basic":                   {nil, func(r *http.Request) { r.SetBasicAuth(azClient, "x") }, 400, "invalid_request"},
		"two scopes":                   {url.Values{"scope": {"https://a/.default https://b/.default"}}, nil, 400, "invalid_scope"},
		"a long scope":                 {url.Values{"scope": {resource + "/.default" + strings.Repeat(" openid", 200)}}, nil, 400, "invalid_scope"},
		"two passwords":                {url.Values{"password": {good, good}}, nil, 400, "invalid_request"},
		"two names":                    {url.Values{"username": {"anna", "anna"}}, nil, 400, "invalid_request"},
		"too large":                    {url.Values{"password": {strings.Repeat("a", 8<<10)}}, nil, 413, "invalid_request"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			f.issuer.failing = newFailures(f.now)
			if c.with == nil {
				c.with = func(*http.Request) {}
			}
			got := f.post(t, "/adfs/oauth2/token", passwordForm(anna, c.change), c.with)
			if got.status != c.status || got.body["error"] != c.code || got.body["error_description"] == "" || got.header.Get("Cache-Control") != "no-store" {
				t.Errorf("got %d %s, want %d %s", got.status, got.raw, c.status, c.code)
			}
		})
	}
	if n := len(f.signIns(t)); n != 0 {
		t.Errorf("refused sign-ins left %d records", n)
	}
	if got := f.post(t, "/adfs/oauth2/token?password="+good, passwordForm(anna, url.Values{"password": nil})); got.status != 400 {
		t.Errorf("a password in the URL: %d", got.status)
	}
	if strings.Contains(f.log.String(), good) {
		t.Error("the password is in the log")
	}
}

// Covers A9: an unknown user, one who was deleted and a wrong password get the same answer, and cost the same steps.
func TestUnknownUserLooksLikeWrongPassword(t *testing.T) {
	f := newFixture(t)
	anna, gone := f.person(t, "anna"), f.person(t, "gone")
	if err := f.issuer.DeleteUser(t.Context(), "gone"); err != nil {
		t.Fatal(err)
	}
	try := func(p *person, change url.Values) (reply, int64) {
		before := f.seal.unwraps.Load()
		r := f.post(t, "/oauth2/token", passwordForm(p, change))
		delete(r.body, "trace_id")
		return r, f.seal.unwraps.Load() - before
	}
	wrong, wrongCost := try(anna, url.Values{"password": {"srp_wrong"}})
	for name, c := range map[string]struct {
		person *person
		change url.Values
	}{
		"unknown name":      {anna, url.Values{"username": {"bert"}}},
		"name of no form":   {anna, url.Values{"username": {"not a name"}}},
		"deleted":           {gone, nil},
		"unknown and wrong": {anna, url.Values{"username": {"bert"}, "password": {"srp_wrong"}}},
	} {
		t.Run(name, func(t *testing.T) {
			got, cost := try(c.person, c.change)
			a, _ := json.Marshal(wrong.body)
			b, _ := json.Marshal(got.body)
			if got.status != wrong.status || string(a) != string(b) || len(got.raw) != len(wrong.raw) {
				t.Errorf("got %d %s, a wrong password gets %d %s", got.status, b, wrong.status, a)
			}
			if cost != wrongCost || cost != 1 {
				t.Errorf("%d records opened, a wrong password opens %d", cost, wrongCost)
			}
		})
	}
}

// Covers A9: noise is answered with 429, per user whether there is one or not, and never locks out who has the password.
func TestFailuresAreLimitedPerUser(t *testing.T) {
	f := newFixture(t)
	anna, bert := f.person(t, "anna"), f.person(t, "bert")
	for _, name := range []string{"Anna", "nobody"} {
		wrong := passwordForm(anna, url.Values{"username": {name}, "password": {"wrong"}})
		for n := range maxFailures {
			if got := f.post(t, "/oauth2/token", wrong); got.status != 400 {
				t.Fatalf("%s, failure %d: got %d, want 400", name, n+1, got.status)
			}
		}
		if got := f.post(t, "/oauth2/token", wrong); got.status != 429 || got.header.Get("Retry-After") == "" {
			t.Errorf("%s, one more: got %d, Retry-After %q, want 429 with one", name, got.status, got.header.Get("Retry-After"))
		}
		f.login(t, anna)
		f.login(t, bert)
	}
	f.clock.Add(61)
	if got := f.post(t, "/oauth2/token", passwordForm(anna, url.Values{"password": {"wrong"}})); got.status != 400 {
		t.Errorf("a minute later: got %d, want 400", got.status)
	}
}

func TestUsers(t *testing.T) {
	f := newFixture(t)
	ctx := t.Context()
	anna := f.person(t, "Anna.B-c_d+e@example.org")
	if anna.password.Len() != 47 || !bytes.HasPrefix(anna.password.Reveal(), []byte("srp_")) {
		t.Errorf("a password of %d bytes, or without its prefix", anna.password.Len())
	}
	if _, _, err := f.issuer.AddUser(ctx, strings.ToUpper(anna.Name)); !errors.Is(err, failure.Conflict) {
		t.Errorf("the name twice: %v, want Conflict", err)
	}
	for name, bad := range map[string]string{
		"empty": "", "space": "an na", "slash": "a/b", "begins with a dash": "-a", "begins with a dot": ".a", "begins with @": "@a", "outside ASCII": "änna",
		"line break": "a\n", "long": strings.Repeat("a", 65), "not UTF-8": "\xff", "an object ID": f.app.ObjectID, "one in capitals": strings.ToUpper(f.app.ObjectID), "percent": "a%41",
	} {
		if _, _, err := f.issuer.AddUser(ctx, bad); !errors.Is(err, failure.BadParameter) {
			t.Errorf("%s: %v, want BadParameter", name, err)
		}
	}
	for _, by := range []string{anna.Name, strings.ToLower(anna.Name), anna.ObjectID, strings.ToUpper(anna.ObjectID)} {
		if got, err := f.issuer.FindUser(ctx, by); err != nil || got != anna.User {
			t.Errorf("by %q: %v, %v", by, got, err)
		}
	}
	for _, by := range []string{"", "anna", f.app.ObjectID} {
		if _, err := f.issuer.FindUser(ctx, by); !errors.Is(err, failure.NotFound) {
			t.Errorf("by %q: %v, want NotFound", by, err)
		}
	}
	f.login(t, anna)
	fresh, err := f.issuer.ResetPassword(ctx, strings.ToUpper(anna.Name), false)
	if err != nil {
		t.Fatal(err)
	}
	if got := f.post(t, "/oauth2/token", passwordForm(anna, nil)); got.status != 400 {
		t.Errorf("the old password: got %d, want 400", got.status)
	}
	f.login(t, &person{anna.User, fresh})
	f.person(t, "00")
	list, err := f.issuer.ListUsers(ctx)
	if err != nil || len(list) != 2 || list[0].Name != "00" || list[1] != anna.User {
		t.Errorf("the list is %v, %v", list, err)
	}
	if apps, err := f.issuer.ListApplications(ctx); err != nil || len(apps) != 1 {
		t.Errorf("there are %d applications, %v", len(apps), err)
	}
	if err := f.issuer.DeleteUser(ctx, anna.Name); err != nil {
		t.Fatal(err)
	}
	if got := f.post(t, "/oauth2/token", passwordForm(&person{anna.User, fresh}, nil)); got.status != 400 {
		t.Errorf("the deleted user: got %d, want 400", got.status)
	}
	if err := f.issuer.DeleteUser(ctx, anna.Name); !errors.Is(err, failure.NotFound) {
		t.Errorf("deleted twice: %v, want NotFound", err)
	}
	if _, err := f.issuer.ResetPassword(ctx, "nobody", false); !errors.Is(err, failure.NotFound) {
		t.Errorf("reset of nobody: %v, want NotFound", err)
	}
}

// Records of users and of sign-ins are spelled out in files; what writes them keeps to those members.
func TestUserRecords(t *testing.T) {
	f := newFixture(t)
	const objectID, family = "22222222-2222-4222-8222-222222222222", "33333333-3333-4333-8333-333333333333"
	signIn := refreshPrefix + objectID + "/" + family
	golden := func(file string) []byte {
		text, err := os.ReadFile("testdata/" + file)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	f.stopped = time.Date(2026, 2, 3, 5, 0, 0, 0, time.UTC) // within the hours of the sign-in
	f.write(t, userPrefix+"anna", golden("user-v1.json"))
	f.write(t, signIn, golden("sign-in-v2.json"))

	u, err := f.issuer.FindUser(t.Context(), "anna")
	want := User{Name: "Anna", ObjectID: objectID, Created: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), PasswordCreated: time.Date(2026, 2, 3, 4, 5, 6, 0, time.UTC)}
	if err != nil || u != want {
		t.Errorf("got %+v, %v; want %+v", u, err, want)
	}
	got := f.post(t, "/oauth2/token", passwordForm(&person{u, secret.New([]byte("srp_test"))}, nil))
	if got.status != 200 || claimsOf(t, got.text("access_token"))["series"] != 3.0 {
		t.Errorf("signing in: %d %s", got.status, got.raw)
	}
	// Its token: IDs of the path, and 32 bytes of 7.
	token := refreshMark + base64.RawURLEncoding.EncodeToString(slices.Concat(bytes.Repeat([]byte{0x22}, 6), []byte{0x42, 0x22, 0x82}, bytes.Repeat([]byte{0x22}, 7),
		bytes.Repeat([]byte{0x33}, 6), []byte{0x43, 0x33, 0x83}, bytes.Repeat([]byte{0x33}, 7), bytes.Repeat([]byte{7}, 32)))
	got = f.post(t, "/oauth2/token", refreshForm(token, nil))
	if got.status != 200 || got.text("refresh_token") == "" {
		t.Fatalf("the refresh token: %d %s", got.status, got.raw)
	}
	same := func(file, key string) {
		var before, after map[string]any
		if json.Unmarshal(golden(file), &before) != nil || json.Unmarshal(f.read(t, key), &after) != nil {
			t.Fatalf("%s: not JSON", file)
		}
		if a, b := slices.Sorted(maps.Keys(before)), slices.Sorted(maps.Keys(after)); !slices.Equal(a, b) || before["v"] != after["v"] {
			t.Errorf("written with %v, version %v; %s has %v", b, after["v"], file, a)
		}
	}
	same("sign-in-v2.json", signIn)
	// The version before has the same token, and the one before it.
	before := refreshMark + base64.RawURLEncoding.EncodeToString(slices.Concat(bytes.Repeat([]byte{0x22}, 6), []byte{0x42, 0x22, 0x82}, bytes.Repeat([]byte{0x22}, 7),
		bytes.Repeat([]byte{0x33}, 6), []byte{0x43, 0x33, 0x83}, bytes.Repeat([]byte{0x33}, 7), bytes.Repeat([]byte{6}, 32)))
	f.write(t, signIn, golden("sign-in-v1.json"))
	f.stopped = time.Date(2026, 2, 3, 4, 45, 10, 0, time.UTC)
	for _, text := range []string{before, token, before} {
		if got := f.post(t, "/oauth2/token", refreshForm(text, nil)); got.status != 200 || (got.text("refresh_token") != "") != (text == token) {
			t.Fatalf("a sign-in of version 1: %d %s", got.status, got.raw)
		}
	}
	same("sign-in-v2.json", signIn)
	if _, err := f.issuer.ResetPassword(t.Context(), "anna", true); err != nil {
		t.Fatal(err)
	}
	same("user-v1.json", userPrefix+"anna")

	f.write(t, userPrefix+"anna", bytes.Replace(golden("user-v1.json"), []byte(`"v":1`), []byte(`"v":2`), 1))
	if _, err := f.issuer.FindUser(t.Context(), "anna"); !errors.Is(err, failure.Unsupported) {
		t.Errorf("a user of version 2: %v, want Unsupported", err)
	}
	f.write(t, userPrefix+"anna", golden("user-v1.json"))
	f.write(t, signIn, bytes.Replace(golden("sign-in-v2.json"), []byte(`"v":2`), []byte(`"v":3`), 1))
	if got := f.post(t, "/oauth2/token", refreshForm(token, nil)); got.status == 200 || got.body["error"] != "server_error" {
		t.Errorf("a sign-in of version 2: %d %s", got.status, got.raw)
	}
}

// write seals a text and puts it at a key; read opens what is there.
func (f *fixture) write(t *testing.T, key string, text []byte) {
	t.Helper()
	sealed, _ := f.seal.Wrap(secret.New(text), key)
	if err := f.store.Update(t.Context(), func(w store.Writer) error { w.Put(key, sealed); return nil }); err != nil {
		t.Fatal(err)
	}
}

func (f *fixture) read(t *testing.T, key string) []byte {
	t.Helper()
	var sealed []byte
	_ = f.store.View(t.Context(), func(r store.Reader) error { sealed, _ = r.Get(key); return nil })
	text, err := f.seal.Unwrap(sealed, key)
	if err != nil {
		t.Fatalf("%s does not open: %v", key, err)
	}
	return text.Reveal()
}
