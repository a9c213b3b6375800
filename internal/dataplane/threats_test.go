package dataplane_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"strongroom/internal/dataplane"
	"strongroom/internal/hsm"
)

// errorOf reads Azure's error form.
func errorOf(t *testing.T, w *httptest.ResponseRecorder) (code string) {
	t.Helper()
	var body struct {
		Error struct{ Code, Message string }
	}
	if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil || body.Error.Message == "" {
		t.Errorf("the body is not Azure's error form: %s", w.Body)
	}
	return body.Error.Code
}

// Covers S13 on the wire: every security-domain route, in every state, for everybody who is not its administrator.
func TestEverySecurityDomainCallIsGuarded(t *testing.T) {
	f := newFixture(t, "provisioned", "recovering", "activated")
	sd := f.activate("activated")
	blob := transfer(t, sd, f.exchange("recovering"), nil)
	bodies := map[string]string{
		"POST /securitydomain/download": downloadBody(2, three()...),
		"POST /securitydomain/upload":   quote(blob),
	}
	foreign, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: foreign}, nil)
	if err != nil {
		t.Fatal(err)
	}
	forger := &fixture{t: t, signer: signer, now: f.now}
	ago := func(d time.Duration) int64 { return f.now.Add(-d).Unix() }
	type visitor struct {
		token  string
		status int
		code   string
	}
	visitors := map[string]visitor{
		"without a token":              {"none", 401, "Unauthorized"},
		"with garbage":                 {"a.b.c", 401, "Unauthorized"},
		"with an expired token":        {f.token(map[string]any{"nbf": ago(2 * time.Hour), "exp": ago(time.Hour)}), 401, "Unauthorized"},
		"with a token for later":       {f.token(map[string]any{"nbf": ago(-time.Hour), "exp": ago(-2 * time.Hour)}), 401, "Unauthorized"},
		"with a token of nobody":       {f.token(map[string]any{"oid": nil, "sub": nil}), 401, "Unauthorized"},
		"with a token for Key Vault":   {f.token(map[string]any{"aud": "https://vault.azure.net"}), 401, "Unauthorized"},
		"with another issuer's name":   {f.token(map[string]any{"iss": "https://elsewhere.test"}), 401, "Unauthorized"},
		"with a token of a forger":     {forger.token(nil), 401, "Unauthorized"},
		"with no role":                 {f.token(map[string]any{"oid": lowID, "sub": lowID}), 403, "AccessDenied"},
		"with the administrator's app": {f.token(map[string]any{"oid": lowID, "sub": lowID, "appid": adminID, "azp": adminID, "name": adminID}), 403, "AccessDenied"},
	}
	routes := 0
	for _, route := range dataplane.Routes() {
		method, path := route[0], route[1]
		if !strings.HasPrefix(path, "/securitydomain") {
			continue
		}
		routes++
		for _, state := range []string{"provisioned", "recovering", "activated"} {
			before := f.snapshot()
			for who, v := range visitors {
				w := f.do(request{method: method, path: path, hsm: state, body: bodies[method+" "+path], token: v.token})
				if code := errorOf(t, w); w.Code != v.status || code != v.code {
					t.Errorf("%s %s, %s, %s: %d %s, want %d %s", method, path, state, who, w.Code, code, v.status, v.code)
				}
				if challenged := w.Header().Get("WWW-Authenticate") != ""; challenged != (v.status == 401) {
					t.Errorf("%s %s, %s, %s: challenged: %t", method, path, state, who, challenged)
				}
				if strings.Contains(w.Body.String(), "transfer_key") || strings.Contains(w.Body.String(), `"value"`) {
					t.Errorf("%s %s, %s, %s: got %s", method, path, state, who, w.Body)
				}
			}
			if f.snapshot() != before {
				t.Errorf("%s %s, %s: a refused call changed the store", method, path, state)
			}
		}
	}
	if routes < 7 {
		t.Fatalf("only %d security-domain routes were tried", routes)
	}
	// The requests themselves were good: the administrator is let through everywhere.
	for _, route := range dataplane.Routes() {
		method, path := route[0], route[1]
		for _, state := range []string{"provisioned", "recovering", "activated"} {
			if !strings.HasPrefix(path, "/securitydomain") {
				continue
			}
			if w := f.do(request{method: method, path: path, hsm: state, body: bodies[method+" "+path]}); w.Code == 401 || w.Code == 403 || w.Code == 404 && path == "/securitydomain" {
				t.Errorf("%s %s, %s, by the administrator: %d %s", method, path, state, w.Code, w.Body)
			}
		}
	}
}

// Covers A6 on the wire: on every route, a token for one HSM's own address and the owner of another HSM are nobody
// here, and what belongs to another HSM's key is not found.
func TestNothingOfOneHSMWorksOnAnother(t *testing.T) {
	f := newFixture(t, "mine")
	f.activate("mine")
	if _, _, err := f.service.Create(t.Context(), hsm.Spec{Name: "theirs", InitialAdmins: []string{lowID}, MoreRoles: allRoles}); err != nil {
		t.Fatal(err)
	}
	them := f.token(map[string]any{"oid": lowID, "sub": lowID})
	if w := f.do(request{method: "POST", path: "/securitydomain/download", hsm: "theirs", token: them, body: downloadBody(2, three()...)}); w.Code != 202 {
		t.Fatalf("they own theirs: %d %s", w.Code, w.Body)
	}
	version := func(name, token string) string {
		w := f.do(request{method: "POST", path: "/keys/k/create", hsm: name, token: token, body: `{"kty":"EC"}`})
		var made struct{ Key struct{ Kid string } }
		if err := json.Unmarshal(w.Body.Bytes(), &made); err != nil || w.Code != 200 {
			t.Fatalf("create on %s: %d %s", name, w.Code, w.Body)
		}
		return made.Key.Kid[strings.LastIndex(made.Key.Kid, "/")+1:]
	}
	mine, theirs := version("mine", f.token(nil)), version("theirs", them)

	elsewhere := f.token(map[string]any{"aud": "https://managedhsm.localhost:8444", "oid": lowID, "sub": lowID})
	fill := strings.NewReplacer("{name}", "k", "{version}", theirs, "{id}", adminID)
	before := f.snapshot()
	for _, route := range dataplane.Routes() {
		r := request{method: route[0], path: fill.Replace(route[1]), hsm: "theirs", body: `{"value":"AAAA","alg":"ES256","digest":"AAAA","kty":"EC"}`}
		if r.path == "/securitydomain/download" {
			r.body = downloadBody(2, three()...)
		}
		r.token = f.token(nil) // the owner of mine
		if w := f.do(r); w.Code != 403 || errorOf(t, w) != "AccessDenied" {
			t.Errorf("%s %s by another HSM's owner: %d %s, want 403 AccessDenied", r.method, route[1], w.Code, w.Body)
		}
		r.token = elsewhere // its own owner, with a token for another address
		if w := f.do(r); w.Code != 401 || errorOf(t, w) != "Unauthorized" {
			t.Errorf("%s %s with a token for another HSM's address: %d %s, want 401", r.method, route[1], w.Code, w.Body)
		}
	}
	if f.snapshot() != before {
		t.Error("a refused call changed the store")
	}
	for _, path := range []string{"/keys/k/" + mine, "/keys/K/" + mine} {
		if w := f.do(request{method: "GET", path: path, hsm: "theirs", token: them}); w.Code != 404 || errorOf(t, w) != "KeyNotFound" {
			t.Errorf("GET %s, a version of the other HSM's key of that name: %d %s, want 404", path, w.Code, w.Body)
		}
	}
	if w := f.do(request{method: "GET", path: "/keys/k/" + theirs, hsm: "theirs", token: them}); w.Code != 200 {
		t.Errorf("their own version: %d %s", w.Code, w.Body)
	}
	backup := f.do(request{method: "POST", path: "/keys/k/backup", hsm: "mine"})
	if w := f.do(request{method: "POST", path: "/keys/restore", hsm: "theirs", token: them, body: quote(value(t, backup, 200))}); w.Code < 400 || errorOf(t, w) == "" {
		t.Errorf("a backup of another domain: %d %s", w.Code, w.Body)
	}
}

// Covers S11 on the wire: whatever is wrong inside a transfer file's encryption, status, headers and body of the
// answer are the same but for the request's own id, and the HSM goes on waiting.
func TestUploadFailuresLookAlike(t *testing.T) {
	f := newFixture(t, "owned", "waiting")
	sd := f.activate("owned")
	exchange := f.exchange("waiting")
	good := transfer(t, sd, exchange, nil)
	// wrapped encrypts other bytes than a master key to the exchange key, in the very form.
	wrapped := func(plain []byte) string {
		options := (&jose.EncrypterOptions{}).WithHeader("kid", "not used")
		e, err := jose.NewEncrypter(jose.A256CBC_HS512, jose.Recipient{Algorithm: jose.RSA_OAEP_256, Key: exchange.PublicKey}, options)
		if err != nil {
			t.Fatal(err)
		}
		sealed, err := e.Encrypt(plain)
		if err != nil {
			t.Fatal(err)
		}
		text, err := sealed.CompactSerialize()
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	// changed is good with a letter in the middle of one segment of one JWE exchanged. item −1 is the wrapped key.
	changed := func(item, segment int) string {
		return edited(t, good, item, func(jwe string) string {
			parts := strings.Split(jwe, ".")
			b := []byte(parts[segment])
			if i := len(b) / 2; b[i] == 'A' {
				b[i] = 'B'
			} else {
				b[i] = 'A'
			}
			parts[segment] = string(b)
			return strings.Join(parts, ".")
		})
	}
	other := func(plain []byte) string {
		return edited(t, good, -1, func(string) string { return wrapped(plain) })
	}
	want := ""
	for name, blob := range map[string]string{
		"OAEP":                          changed(-1, 1),
		"IV of the wrapped key":         changed(-1, 2),
		"ciphertext of the wrapped key": changed(-1, 3),
		"tag of the wrapped key":        changed(-1, 4),
		"no master key":                 other(nil),
		"a master key of 31 bytes":      other(make([]byte, 31)),
		"a master key of 33 bytes":      other(make([]byte, 33)),
		"another master key":            other(make([]byte, 32)),
		"IV of an item":                 changed(0, 2),
		"ciphertext of an item":         changed(1, 3),
		"tag of an item":                changed(2, 4),
	} {
		before := f.snapshot()
		w := f.do(request{method: "POST", path: "/securitydomain/upload", hsm: "waiting", body: quote(blob)})
		if code := errorOf(t, w); w.Code != 400 || code != "SecurityDomainTransferUnopenable" {
			t.Errorf("%s: %d %s", name, w.Code, code)
		}
		id := w.Header().Get("x-ms-request-id")
		w.Header().Set("x-ms-request-id", "")
		raw, err := json.Marshal([]any{w.Code, w.Header(), strings.ReplaceAll(w.Body.String(), id, "")})
		if err != nil {
			t.Fatal(err)
		}
		if got := string(raw); want == "" {
			want = got
		} else if got != want {
			t.Errorf("%s: got %s, others get %s", name, got, want)
		}
		if f.snapshot() != before {
			t.Errorf("%s: the refused upload changed the store", name)
		}
	}
	if w := f.do(request{method: "POST", path: "/securitydomain/upload", hsm: "waiting", body: quote(good)}); w.Code != 202 {
		t.Fatalf("the right transfer file no longer fits: %d %s", w.Code, w.Body)
	}
}

// edited returns a transfer file with one JWE changed: that of an item, or with item −1 that of the wrapped key.
func edited(t *testing.T, blob string, item int, change func(string) string) string {
	t.Helper()
	var file struct {
		EncData struct {
			Data []struct {
				JWE string `json:"compact_jwe"`
				Tag string `json:"tag"`
			} `json:"data"`
			KDF string `json:"kdf"`
		}
		WrappedKey struct {
			Key        string `json:"enc_key"`
			Thumbprint string `json:"x5t_256"`
		}
	}
	if err := json.Unmarshal([]byte(blob), &file); err != nil {
		t.Fatal(err)
	}
	jwe := &file.WrappedKey.Key
	if item >= 0 {
		jwe = &file.EncData.Data[item].JWE
	}
	was := *jwe
	if *jwe = change(was); *jwe == was {
		t.Fatal("nothing was changed")
	}
	out, err := json.Marshal(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}
