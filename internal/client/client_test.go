package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"strongroom/internal/api"
	"strongroom/secret"
)

// fake is a server on 127.0.0.1 that issues tokens, challenges like an HSM and answers as a test says. It records
// what it was asked.
type fake struct {
	*httptest.Server
	mu       sync.Mutex
	tokens   int      // issued
	requests []string // "METHOD /path?query token body"
	valid    string   // the only token that is accepted
	scope    string   // of the last token request
	// resource is what the challenge names; "" means as it should be.
	resource string
	answer   http.HandlerFunc
}

func newFake(t *testing.T, answer http.HandlerFunc) *fake {
	f := &fake{answer: answer}
	f.Server = httptest.NewTLSServer(f)
	t.Cleanup(f.Close)
	return f
}

func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	body, _ := io.ReadAll(r.Body)
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	if r.URL.Path == "/tenant/oauth2/v2.0/token" {
		f.tokens++
		r.Body = io.NopCloser(bytes.NewReader(body))
		if err := r.ParseForm(); err != nil || r.Form.Get("client_id") != "me" || r.Form.Get("client_secret") != "hush" || r.Form.Get("grant_type") != "client_credentials" {
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = io.WriteString(w, `{"error":"invalid_client","error_description":"wrong secret"}`)
			return
		}
		f.valid, f.scope = fmt.Sprintf("token-%d", f.tokens), r.Form.Get("scope")
		_, _ = fmt.Fprintf(w, `{"token_type":"Bearer","expires_in":3600,"access_token":%q}`, f.valid)
		return
	}
	token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	f.requests = append(f.requests, strings.TrimSpace(fmt.Sprintf("%s %s %s %s", r.Method, r.URL.RequestURI(), token, body)))
	if token == "" || token != f.valid {
		resource := f.resource
		if resource == "" {
			_, parent, _ := strings.Cut(r.Host, ".")
			resource = "https://" + parent
		}
		w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer authorization="https://%s/tenant", resource="%s"`, r.Host, resource))
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = io.WriteString(w, `{"error":{"code":"Unauthorized","message":"no"}}`)
		return
	}
	f.answer(w, r)
}

func (f *fake) ca() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: f.Certificate().Raw})
}

func (f *fake) client(t *testing.T, change ...func(*Options)) *Client {
	t.Helper()
	o := Options{
		Credentials: Credentials{Authority: f.URL, Tenant: "tenant", ClientID: "me", Secret: secret.New([]byte("hush"))},
		CA:          f.ca(), Now: time.Now, UserAgent: "test",
	}
	for _, c := range change {
		c(&o)
	}
	c, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	c.pause = func(ctx context.Context, _ time.Duration) error { return ctx.Err() }
	t.Cleanup(c.Close)
	return c
}

func (f *fake) hsm(t *testing.T, change ...func(*Options)) *HSM {
	t.Helper()
	h, err := f.client(t, change...).HSM(f.URL)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func text(s string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, s) }
}

// The first call asks for the challenge with an empty request, gets a token for the parent of the host, and sends
// the call; the second call only sends.
func TestChallengeThenToken(t *testing.T) {
	f := newFake(t, text(`{"value":true}`))
	h := f.hsm(t)
	for range 2 {
		holds, err := h.Verify(t.Context(), "k", "", "ES256", []byte{1}, []byte{2})
		if err != nil || !holds {
			t.Fatalf("got %v, %v", holds, err)
		}
	}
	want := []string{
		"GET /keys?api-version=7.4",
		`POST /keys/k/verify?api-version=7.4 token-1 {"alg":"ES256","digest":"AQ","value":"Ag"}`,
		`POST /keys/k/verify?api-version=7.4 token-1 {"alg":"ES256","digest":"AQ","value":"Ag"}`,
	}
	if d := cmp.Diff(want, f.requests); d != "" {
		t.Error(d)
	}
	if _, parent, _ := strings.Cut(f.URL, "."); f.scope != "https://"+parent+"/.default" {
		t.Errorf("the token was asked for scope %q", f.scope)
	}
}

// A server must not be able to get a token that is good at another one. Covers A6 on the client's side.
func TestChallengeForAnotherResource(t *testing.T) {
	for name, resource := range map[string]string{
		"another domain":           "https://managedhsm.azure.net",
		"another port":             "https://0.0.1:1",
		"no port":                  "https://0.0.1",
		"plain http":               "http://0.0.1",
		"a path":                   "https://0.0.1/x",
		"an ending, but no domain": "https://1",
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t, text(`{}`))
			f.resource = resource
			if _, err := f.hsm(t).Keys(t.Context()); err == nil {
				t.Error("no error")
			}
			if f.tokens != 0 {
				t.Error("a token was fetched")
			}
		})
	}
}

type oneToken struct{ token Token }

func (c oneToken) Get(string, string, string, string) (Token, bool) { return c.token, true }

func TestTokenCache(t *testing.T) {
	cached := func(access string, left time.Duration) func(*Options) {
		return func(o *Options) {
			o.Cache = oneToken{Token{Access: secret.New([]byte(access)), Expires: time.Now().Add(left)}}
		}
	}
	noSecret := func(o *Options) { o.Credentials.Secret = secret.Bytes{} }
	t.Run("a good one is used", func(t *testing.T) {
		f := newFake(t, text(`{"value":[]}`))
		f.valid = "kept"
		if _, err := f.hsm(t, cached("kept", time.Hour), noSecret).Keys(t.Context()); err != nil || f.tokens != 0 {
			t.Errorf("error %v, %d tokens fetched", err, f.tokens)
		}
	})
	t.Run("one that ends soon is not", func(t *testing.T) {
		f := newFake(t, text(`{"value":[]}`))
		f.valid = "old"
		if _, err := f.hsm(t, cached("old", time.Minute)).Keys(t.Context()); err != nil || f.tokens != 1 {
			t.Errorf("error %v, %d tokens fetched", err, f.tokens)
		}
	})
	t.Run("one that is refused is replaced", func(t *testing.T) {
		f := newFake(t, text(`{"value":[]}`))
		if _, err := f.hsm(t, cached("of another issuer", time.Hour)).Keys(t.Context()); err != nil || f.tokens != 1 {
			t.Errorf("error %v, %d tokens fetched", err, f.tokens)
		}
	})
	t.Run("without a secret there is nothing to replace it with", func(t *testing.T) {
		f := newFake(t, text(`{"value":[]}`))
		_, err := f.hsm(t, cached("of another issuer", time.Hour), noSecret).Keys(t.Context())
		if refused, ok := errors.AsType[*Error](err); !ok || refused.Status != http.StatusUnauthorized {
			t.Errorf("got %v, want the refusal itself", err)
		}
	})
	t.Run("without one there is nothing to sign in with", func(t *testing.T) {
		f := newFake(t, text(`{"value":[]}`))
		if _, err := f.hsm(t, noSecret).Keys(t.Context()); !errors.Is(err, ErrNoCredentials) {
			t.Errorf("got %v, want %v", err, ErrNoCredentials)
		}
	})
}

func TestRefusals(t *testing.T) {
	for name, tc := range map[string]struct {
		status      int
		body        string
		code, text  string
		activity    string
		contentType string
	}{
		"in Azure's form":        {404, `{"error":{"code":"KeyNotFound","message":"Key not found: k (Activity ID: 6f)"}}`, "KeyNotFound", "Key not found: k", "6f", ""},
		"with an inner code":     {409, `{"error":{"code":"Conflict","message":"deleted","innererror":{"code":"ObjectIsDeletedButRecoverable"}}}`, "ObjectIsDeletedButRecoverable", "deleted", "", ""},
		"that steers a terminal": {400, `{"error":{"code":"x","message":"a\u001b[2Jb\nc"}}`, "x", "a [2Jb c", "", ""},
		"in HTML":                {502, `<html>secret page</html>`, "", "the server answered 502 without a reason", "", "text/html"},
		"a redirect":             {307, ``, "", "the server answered 307 without a reason", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t, func(w http.ResponseWriter, _ *http.Request) {
				if tc.contentType != "" {
					w.Header().Set("Content-Type", tc.contentType)
				}
				w.Header().Set("Location", "https://example.invalid/")
				w.WriteHeader(tc.status)
				_, _ = io.WriteString(w, tc.body)
			})
			_, err := f.hsm(t).Key(t.Context(), "k", "")
			refused, ok := errors.AsType[*Error](err)
			if !ok {
				t.Fatalf("got %v, want a refusal", err)
			}
			if refused.Status != tc.status || refused.Code != tc.code || err.Error() != tc.text || refused.ActivityID != tc.activity {
				t.Errorf("got %d %q %q %q", refused.Status, refused.Code, err, refused.ActivityID)
			}
		})
	}
}

func TestWrongSecret(t *testing.T) {
	f := newFake(t, text(`{}`))
	_, err := f.hsm(t, func(o *Options) { o.Credentials.Secret = secret.New([]byte("shout")) }).Keys(t.Context())
	refused, ok := errors.AsType[*Error](err)
	if !ok || refused.Code != "invalid_client" || refused.Message != "wrong secret" {
		t.Errorf("got %#v", err)
	}
	if strings.Contains(fmt.Sprint(err), "shout") {
		t.Error("the error holds the secret")
	}
}

// An authority that is none, or not for the tenant, is told as that, and not in the words of whatever answered there.
func TestNoIssuer(t *testing.T) {
	for name, change := range map[string]func(*Options){
		"another tenant": func(o *Options) { o.Credentials.Tenant = "nowhere" },
		"no tenant":      func(o *Options) { o.Credentials.Tenant = ".." },
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t, text(`{}`))
			if _, err := f.hsm(t, change).Keys(t.Context()); !errors.Is(err, ErrNoIssuer) {
				t.Errorf("got %v, want %v", err, ErrNoIssuer)
			}
		})
	}
}

func TestAnswersThatAreNone(t *testing.T) {
	for name, tc := range map[string]struct {
		answer string
		call   func(*HSM, context.Context) error
	}{
		"no JSON":                {`hello`, func(h *HSM, ctx context.Context) error { _, err := h.Key(ctx, "k", ""); return err }},
		"too large":              {strings.Repeat(" ", maxAnswer+1), func(h *HSM, ctx context.Context) error { _, err := h.Key(ctx, "k", ""); return err }},
		"no security domain":     {`{}`, func(h *HSM, ctx context.Context) error { _, err := h.DownloadDomain(ctx, nil, 2); return err }},
		"no signature":           {`{}`, func(h *HSM, ctx context.Context) error { _, err := h.Sign(ctx, "k", "", "ES256", nil); return err }},
		"no backup":              {`{}`, func(h *HSM, ctx context.Context) error { _, err := h.BackupKey(ctx, "k"); return err }},
		"no exchange key":        {`{"transfer_key":"{}"}`, func(h *HSM, ctx context.Context) error { _, err := h.ExchangeKey(ctx); return err }},
		"an exchange key object": {`{"transfer_key":{"x5c":["AAAA"]}}`, func(h *HSM, ctx context.Context) error { _, err := h.ExchangeKey(ctx); return err }},
		"no certificate":         {`{"transfer_key":"{\"x5c\":[\"AAAA\"]}"}`, func(h *HSM, ctx context.Context) error { _, err := h.ExchangeKey(ctx); return err }},
		"no plaintext": {`{}`, func(h *HSM, ctx context.Context) error {
			_, _, err := h.Decrypt(ctx, Decrypt, "k", "", api.KeyOperationRequest{})
			return err
		}},
		"too few random bytes": {`{"value":"AAAA"}`, func(h *HSM, ctx context.Context) error { _, err := h.Random(ctx, 4); return err }},
		"no attestation":       {`{"key":{}}`, func(h *HSM, ctx context.Context) error { _, err := h.Attestation(ctx, "k", ""); return err }},
		"a list elsewhere":     {`{"value":[],"nextLink":"https://example.invalid/keys"}`, func(h *HSM, ctx context.Context) error { _, err := h.Keys(ctx); return err }},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t, text(tc.answer))
			if err := tc.call(f.hsm(t), t.Context()); !errors.Is(err, ErrAnswer) {
				t.Errorf("got %v, want %v", err, ErrAnswer)
			}
		})
	}
}

// A list is followed to its end, and one without an end is not.
func TestKeyPages(t *testing.T) {
	page := 0
	f := newFake(t, nil)
	f.answer = func(w http.ResponseWriter, r *http.Request) {
		page++
		next := ""
		if page < 3 {
			next = f.URL + "/keys?api-version=7.4&$skiptoken=" + fmt.Sprint(page)
		}
		_ = json.NewEncoder(w).Encode(api.KeyList{Value: []api.KeyItem{{Kid: fmt.Sprint("https://h/keys/k", page)}}, NextLink: next})
	}
	list, err := f.hsm(t).Keys(t.Context())
	if err != nil || len(list) != 3 || list[2].Kid != "https://h/keys/k3" {
		t.Errorf("got %v, %v", list, err)
	}
	endless := newFake(t, nil)
	endless.answer = func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(api.KeyList{NextLink: endless.URL + "/keys?again"})
	}
	if _, err := endless.hsm(t).Keys(t.Context()); !errors.Is(err, ErrAnswer) || len(endless.requests) > 4 {
		t.Errorf("an endless list: got %v after %d requests", err, len(endless.requests))
	}
}

// Each call on keys goes where it has to, with what it has to say.
func TestKeyOperations(t *testing.T) {
	enabled := false
	for name, tc := range map[string]struct {
		answer string
		call   func(*HSM, context.Context) error
		want   string
	}{
		"import": {`{}`, func(h *HSM, ctx context.Context) error {
			_, err := h.ImportKey(ctx, "k", api.ImportKeyRequest{Key: api.ImportedKey{Kty: "oct", K: []byte{1}}})
			return err
		}, `PUT /keys/k?api-version=7.4 token-1 {"key":{"kty":"oct","k":"AQ"}}`},
		"update, and take all away": {`{}`, func(h *HSM, ctx context.Context) error {
			_, err := h.UpdateKey(ctx, "k", "v", api.UpdateKeyRequest{KeyOps: []string{}, Tags: map[string]string{}, Attributes: &api.KeyAttributes{Enabled: &enabled}})
			return err
		}, `PATCH /keys/k/v?api-version=7.4 token-1 {"key_ops":[],"attributes":{"enabled":false},"tags":{}}`},
		"update nothing": {`{}`, func(h *HSM, ctx context.Context) error {
			_, err := h.UpdateKey(ctx, "k", "", api.UpdateKeyRequest{})
			return err
		}, `PATCH /keys/k?api-version=7.4 token-1 {}`},
		"delete":  {`{}`, func(h *HSM, ctx context.Context) error { _, err := h.DeleteKey(ctx, "k"); return err }, `DELETE /keys/k?api-version=7.4 token-1`},
		"deleted": {`{}`, func(h *HSM, ctx context.Context) error { _, err := h.DeletedKey(ctx, "k"); return err }, `GET /deletedkeys/k?api-version=7.4 token-1`},
		"recover": {`{}`, func(h *HSM, ctx context.Context) error { _, err := h.RecoverKey(ctx, "k"); return err }, `POST /deletedkeys/k/recover?api-version=7.4 token-1`},
		"purge":   {``, func(h *HSM, ctx context.Context) error { return h.PurgeKey(ctx, "k") }, `DELETE /deletedkeys/k?api-version=7.4 token-1`},
		"rotate":  {`{}`, func(h *HSM, ctx context.Context) error { _, err := h.RotateKey(ctx, "k"); return err }, `POST /keys/k/rotate?api-version=7.4 token-1`},
		"policy":  {`{}`, func(h *HSM, ctx context.Context) error { _, err := h.RotationPolicy(ctx, "k"); return err }, `GET /keys/k/rotationpolicy?api-version=7.4 token-1`},
		"no policy any more": {`{}`, func(h *HSM, ctx context.Context) error {
			_, err := h.SetRotationPolicy(ctx, "k", api.RotationPolicy{})
			return err
		}, `PUT /keys/k/rotationpolicy?api-version=7.4 token-1 {"lifetimeActions":[],"attributes":{}}`},
		"versions":     {`{}`, func(h *HSM, ctx context.Context) error { _, err := h.KeyVersions(ctx, "k"); return err }, `GET /keys/k/versions?api-version=7.4 token-1`},
		"deleted keys": {`{}`, func(h *HSM, ctx context.Context) error { _, err := h.DeletedKeys(ctx); return err }, `GET /deletedkeys?api-version=7.4 token-1`},
		"wrap": {`{"value":"AQ"}`, func(h *HSM, ctx context.Context) error {
			_, err := h.Encrypt(ctx, Wrap, "k", "", api.KeyOperationRequest{Alg: "A128KW", Value: []byte{1}})
			return err
		}, `POST /keys/k/wrapkey?api-version=7.4 token-1 {"alg":"A128KW","value":"AQ"}`},
		"unwrap": {`{"value":"AQ"}`, func(h *HSM, ctx context.Context) error {
			_, _, err := h.Decrypt(ctx, Unwrap, "k", "v", api.KeyOperationRequest{Alg: "A128KW", Value: []byte{1}})
			return err
		}, `POST /keys/k/v/unwrapkey?api-version=7.4 token-1 {"alg":"A128KW","value":"AQ"}`},
		"random": {`{"value":"AQ"}`, func(h *HSM, ctx context.Context) error { _, err := h.Random(ctx, 1); return err }, `POST /rng?api-version=7.4 token-1 {"count":1}`},
		"release": {`{"value":"a.b.c"}`, func(h *HSM, ctx context.Context) error {
			_, err := h.ReleaseKey(ctx, "k", "v", api.ReleaseRequest{Target: "x.y.z", Enc: "RSA_AES_KEY_WRAP_256"})
			return err
		}, `POST /keys/k/v/release?api-version=7.5 token-1 {"target":"x.y.z","enc":"RSA_AES_KEY_WRAP_256"}`},
		"attestation": {`{"attributes":{"attestation":{}}}`, func(h *HSM, ctx context.Context) error { _, err := h.Attestation(ctx, "k", ""); return err },
			`GET /keys/k/attestation?api-version=7.6 token-1`},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t, text(tc.answer))
			if err := tc.call(f.hsm(t), t.Context()); err != nil {
				t.Fatal(err)
			}
			if got := f.requests[len(f.requests)-1]; len(f.requests) != 2 || got != tc.want {
				t.Errorf("got  %s\nwant %s", got, tc.want)
			}
		})
	}
}

// How large an oct key is, only newer HSMs tell. An older one, which does not know that version, is no failure.
func TestSizeOfOctKeys(t *testing.T) {
	for name, tc := range map[string]struct {
		newer string // what the newer version answers
		code  int
		want  int
		err   bool
	}{
		"a newer HSM":    {`{"key":{"kty":"oct-HSM","kid":"https://h/keys/k/v"},"attributes":{"key_size":192}}`, 200, 192, false},
		"an older HSM":   {`{"error":{"code":"BadParameter","message":"no such version"}}`, 400, 0, false},
		"a key replaced": {`{"key":{"kty":"oct-HSM","kid":"https://h/keys/k/w"},"attributes":{"key_size":256}}`, 200, 0, false},
		"nonsense":       {`hello`, 200, 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t, func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Query().Get("api-version") == apiVersion {
					_, _ = io.WriteString(w, `{"key":{"kty":"oct-HSM","kid":"https://h/keys/k/v"},"attributes":{}}`)
					return
				}
				w.WriteHeader(tc.code)
				_, _ = io.WriteString(w, tc.newer)
			})
			key, err := f.hsm(t).Key(t.Context(), "k", "")
			if (err != nil) != tc.err || err == nil && (key.Attributes.KeySize != tc.want || key.Key.Kid != "https://h/keys/k/v") {
				t.Errorf("got %d bits of %s, %v", key.Attributes.KeySize, key.Key.Kid, err)
			}
		})
	}
}

func TestWaitDomain(t *testing.T) {
	for name, tc := range map[string]struct {
		statuses []string
		want     string // in the error; "" for none
	}{
		"Success after a while":        {[]string{"InProgress", "InProgress", "Success"}, ""},
		"the word of other operations": {[]string{"Succeeded"}, ""},
		"Failed":                       {[]string{"InProgress", "Failed"}, "the upload failed: the disk is full"},
	} {
		t.Run(name, func(t *testing.T) {
			polls := 0
			f := newFake(t, func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/securitydomain/upload/pending" {
					t.Errorf("polled %s", r.URL.Path)
				}
				_, _ = fmt.Fprintf(w, `{"status":%q,"statusDetails":"the disk is full"}`, tc.statuses[polls])
				polls++
			})
			err := f.hsm(t).WaitDomain(t.Context(), Upload)
			if (err == nil) != (tc.want == "") || err != nil && err.Error() != tc.want {
				t.Errorf("got %v, want %q", err, tc.want)
			}
			if polls != len(tc.statuses) {
				t.Errorf("%d polls, want %d", polls, len(tc.statuses))
			}
		})
	}
	t.Run("interrupted", func(t *testing.T) {
		f := newFake(t, text(`{"status":"InProgress"}`))
		h := f.hsm(t)
		ctx, cancel := context.WithCancel(t.Context())
		h.c.pause = func(ctx context.Context, _ time.Duration) error { cancel(); return ctx.Err() }
		if err := h.WaitDomain(ctx, Upload); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	})
}

func TestServerWarnings(t *testing.T) {
	f := newFake(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Add("Warning", `299 strongroom "certificate 1 \"ada\" expired"`)
		w.Header().Add("Warning", `199 - "something else"`)
		_, _ = io.WriteString(w, `{"value":"{}"}`)
	})
	got, err := f.hsm(t).DownloadDomain(t.Context(), nil, 2)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{`certificate 1 "ada" expired`}, got.Warnings); d != "" {
		t.Error(d)
	}
}

// Names cannot leave their place in the path.
func TestNamesStaySegments(t *testing.T) {
	f := newFake(t, text(`{}`))
	h := f.hsm(t)
	for _, name := range []string{"..", "a/b", "a?b", "a#b", "%2e%2e"} {
		if _, err := h.Key(t.Context(), name, ""); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{"/keys/%2E%2E", "/keys/a%2Fb", "/keys/a%3Fb", "/keys/a%23b", "/keys/%252e%252e"}
	var got []string
	for _, r := range f.requests[1:] {
		path, _, _ := strings.Cut(strings.Fields(r)[1], "?")
		got = append(got, path)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestAddresses(t *testing.T) {
	c := newFake(t, nil).client(t)
	for name, address := range map[string]string{
		"plain http": "http://127.0.0.1", "no scheme": "127.0.0.1:8443", "a path": "https://h/keys", "a query": "https://h/?a",
		"a user": "https://u:p@h", "no host": "https://", "nonsense": "https://%",
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := c.HSM(address); !errors.Is(err, ErrAddress) {
				t.Errorf("got %v, want %v", err, ErrAddress)
			}
		})
	}
	h, err := c.HSM("https://127.0.0.1:8443/")
	if err != nil || h.Address() != "https://127.0.0.1:8443" {
		t.Errorf("got %v, %v", h, err)
	}
}

// The control plane: a long-running answer is followed to its end, on the same server only.
func TestServerOperations(t *testing.T) {
	sub := Subscription{ID: "s", Tenant: "t"}
	t.Run("Azure-AsyncOperation", func(t *testing.T) {
		polls := 0
		f := newFake(t, nil)
		f.answer = func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodDelete {
				w.Header().Set("Azure-AsyncOperation", f.URL+"/operations/1")
				w.WriteHeader(http.StatusAccepted)
				return
			}
			polls++
			_, _ = fmt.Fprintf(w, `{"status":%q}`, []string{"InProgress", "Succeeded"}[polls-1])
		}
		s, err := f.client(t).Server(f.URL)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Delete(t.Context(), sub, "g", "alpha"); err != nil || polls != 2 {
			t.Errorf("got %v after %d polls", err, polls)
		}
		if want := "DELETE /subscriptions/s/resourceGroups/g/providers/Microsoft.KeyVault/managedHSMs/alpha?api-version=2023-02-01 token-1"; f.requests[0] != want {
			t.Errorf("got %q, want %q", f.requests[0], want)
		}
		if f.scope != f.URL+"/.default" {
			t.Errorf("the token was asked for scope %q", f.scope)
		}
	})
	t.Run("Location", func(t *testing.T) {
		polls := 0
		f := newFake(t, nil)
		f.answer = func(w http.ResponseWriter, r *http.Request) {
			if polls++; polls < 3 {
				w.Header().Set("Location", f.URL+"/operations/1")
				w.WriteHeader(http.StatusAccepted)
			}
		}
		s, _ := f.client(t).Server(f.URL)
		if err := s.Purge(t.Context(), sub, DeletedHSM{Name: "alpha", Location: "local"}); err != nil || polls != 3 {
			t.Errorf("got %v after %d polls", err, polls)
		}
	})
	t.Run("a failure", func(t *testing.T) {
		f := newFake(t, nil)
		f.answer = func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodDelete {
				w.Header().Set("Azure-AsyncOperation", f.URL+"/operations/1")
				w.WriteHeader(http.StatusAccepted)
				return
			}
			_, _ = io.WriteString(w, `{"status":"Failed","error":{"message":"no"}}`)
		}
		s, _ := f.client(t).Server(f.URL)
		if err := s.Delete(t.Context(), sub, "g", "alpha"); err == nil || err.Error() != "the operation failed: no" {
			t.Errorf("got %v", err)
		}
	})
	t.Run("elsewhere", func(t *testing.T) {
		f := newFake(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", "https://example.invalid/1")
			w.WriteHeader(http.StatusAccepted)
		})
		s, _ := f.client(t).Server(f.URL)
		if err := s.Delete(t.Context(), sub, "g", "alpha"); !errors.Is(err, ErrAnswer) {
			t.Errorf("got %v, want %v", err, ErrAnswer)
		}
	})
}

func TestServerCreate(t *testing.T) {
	f := newFake(t, text(`{"id":"/subscriptions/s/resourceGroups/g/providers/Microsoft.KeyVault/managedHSMs/gamma","name":"gamma","location":"local",
		"properties":{"hsmUri":"https://127.0.0.1:9445/","provisioningState":"Succeeded","initialAdminObjectIds":["o"],"softDeleteRetentionInDays":7,
		"securityDomainProperties":{"activationStatus":"NotActivated"}}}`))
	s, err := f.client(t).Server(f.URL)
	if err != nil {
		t.Fatal(err)
	}
	h, err := s.Create(t.Context(), Subscription{ID: "s"}, CreateHSM{Name: "gamma", ResourceGroup: "g", Location: "local", Tenant: "t", Admins: []string{"o"}, Retention: 7})
	if err != nil {
		t.Fatal(err)
	}
	want := ManagedHSM{Name: "gamma", ResourceGroup: "g", Location: "local", URL: "https://127.0.0.1:9445", State: "Succeeded", Activation: "NotActivated", Admins: []string{"o"}, Retention: 7}
	if d := cmp.Diff(want, h); d != "" {
		t.Error(d)
	}
	sent := f.requests[0][strings.Index(f.requests[0], "{"):]
	if want := `{"location":"local","sku":{"family":"B","name":"Standard_B1"},"properties":{"tenantId":"t","initialAdminObjectIds":["o"],"enableSoftDelete":true,"softDeleteRetentionInDays":7}}`; sent != want {
		t.Errorf("sent %s\nwant %s", sent, want)
	}
}

// No token and no secret is in what can be printed.
func TestSecretsAreNotPrinted(t *testing.T) {
	f := newFake(t, text(`{"value":[]}`))
	c := f.client(t)
	h, err := c.HSM(f.URL)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.Keys(t.Context()); err != nil {
		t.Fatal(err)
	}
	token, err := c.SignIn(t.Context(), f.URL)
	if err != nil {
		t.Fatal(err)
	}
	printed := fmt.Sprintf("%v %+v %#v %+v %#v", token, token, token, c.tokens, Options{Credentials: c.tokens.credentials})
	if strings.Contains(printed, "hush") || strings.Contains(printed, "token-") {
		t.Errorf("a secret is printed: %s", printed)
	}
}

func TestUntrustedServer(t *testing.T) {
	f := newFake(t, text(`{}`))
	h := f.hsm(t, func(o *Options) { o.CA = nil })
	if _, err := h.Keys(t.Context()); err == nil {
		t.Error("a server with an unknown CA was trusted")
	}
	if len(f.requests) != 0 {
		t.Error("it was sent something")
	}
	if _, err := New(Options{Now: time.Now, CA: []byte("hello")}); err == nil {
		t.Error("a CA file without a certificate was taken")
	}
	if _, err := New(Options{}); err == nil {
		t.Error("no clock was needed")
	}
}

// Names under localhost are this machine without any help of its resolver, and no other name is.
func TestLocalhost(t *testing.T) {
	for address, want := range map[string]string{
		"alpha.managedhsm.localhost:8443":  "localhost:8443",
		"Alpha.ManagedHSM.LocalHost.:8443": "localhost:8443",
		"localhost:8443":                   "localhost:8443",
		"notlocalhost:8443":                "notlocalhost:8443",
		"alpha.localhost.example.org:8443": "alpha.localhost.example.org:8443",
		"[::1]:8443":                       "[::1]:8443",
	} {
		if got := loopback(address); got != want {
			t.Errorf("%s: %s, want %s", address, got, want)
		}
	}
	f := newFake(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) })
	c, err := New(Options{CA: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: f.Certificate().Raw}), Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := strings.Cut(f.Listener.Addr().String(), ":")
	// The certificate is of another name, which tells that somebody was reached.
	_, err = c.http.Get("https://alpha.managedhsm.localhost:" + port)
	if _, reached := errors.AsType[*tls.CertificateVerificationError](err); !reached {
		t.Errorf("%v, want a certificate of another name", err)
	}
}
