package dataplane_test

import (
	"bytes"
	"encoding/json"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"strongroom/internal/dataplane"
)

// One target for each request that the data plane decodes, through the whole handler, as an administrator. Whatever
// the body is: no panic, an answer below 500 that is JSON, one in Azure's form where it is a refusal, and after a refusal
// nothing is changed. Covers R4.

// fuzzBody fuzzes the body of one route. seeds are good bodies; undo takes back what one that is taken has done.
func fuzzBody(f *testing.F, method, pattern string, undo func(f *fixture)) {
	x := newFixture(f, "alpha", "owner", "waiting", "empty")
	x.activate("alpha")
	r := x.goodBodies(f)[[2]string{method, pattern}]
	if r.path == "" {
		f.Fatalf("%s %s has no good body", method, pattern)
	}
	if pattern == "/securitydomain/upload" { // one that is taken would end the recovery that all others are for
		var good struct{ Value string }
		if err := json.Unmarshal([]byte(r.body), &good); err != nil {
			f.Fatal(err)
		}
		r.body = quote(flipLast(good.Value))
	}
	f.Add([]byte(r.body))
	for _, seed := range []string{"", "{}", "null", `{"alg":null,"value":null}`, `{"key":{}}`, `{"attributes":{"exp":1e400}}`, `{"tags":{"a":"b"},"key_ops":[]}`, `{"value":"AA=="}`,
		strings.Replace(r.body, "{", "{\"x\":[[[]]],", 1), strings.ToUpper(r.body), r.body[:len(r.body)/2]} {
		f.Add([]byte(seed))
	}
	if r.hsm == "" {
		r.hsm = "alpha"
	}
	limit := dataplane.BodyLimits()[[2]string{method, pattern}]
	before := x.snapshot()
	f.Fuzz(func(t *testing.T, body []byte) {
		x.t = t
		req := httptest.NewRequest(method, "https://x/", bytes.NewReader(body))
		u, err := url.Parse("https://" + r.hsm + ".managedhsm.localhost:8443" + r.path + "?api-version=2026-04-01")
		if err != nil {
			t.Fatal(err)
		}
		req.URL, req.Host = u, u.Host
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Authorization", "Bearer "+r.token)
		w := httptest.NewRecorder()
		x.handler.ServeHTTP(w, req)
		switch {
		case w.Code >= 500 || w.Code >= 300 && w.Code < 400 || !json.Valid(w.Body.Bytes()):
			t.Fatalf("%d %s", w.Code, w.Body)
		case w.Code >= 400:
			refusal(t, pattern, w, 400, 403, 404, 409, 413)
			if x.snapshot() != before {
				t.Fatalf("a refusal changed the store: %d %s", w.Code, w.Body)
			}
		case int64(len(body)) > limit:
			t.Fatalf("a body of %d bytes was read", len(body))
		case undo != nil:
			undo(x)
			before = x.snapshot()
		}
	})
}

// gone removes a key for good.
func gone(name string) func(f *fixture) {
	return func(f *fixture) {
		f.do(request{method: "DELETE", path: "/keys/" + name, token: f.bearer()})
		f.do(request{method: "DELETE", path: "/deletedkeys/" + name, token: f.bearer()})
	}
}

func FuzzCreateKey(f *testing.F)  { fuzzBody(f, "POST", "/keys/{name}/create", gone("made")) }
func FuzzImportKey(f *testing.F)  { fuzzBody(f, "PUT", "/keys/{name}", gone("brought")) }
func FuzzRestoreKey(f *testing.F) { fuzzBody(f, "POST", "/keys/restore", gone("saved")) }
func FuzzSign(f *testing.F)       { fuzzBody(f, "POST", "/keys/{name}/sign", nil) }
func FuzzVerify(f *testing.F)     { fuzzBody(f, "POST", "/keys/{name}/verify", nil) }
func FuzzEncrypt(f *testing.F)    { fuzzBody(f, "POST", "/keys/{name}/encrypt", nil) }
func FuzzDecrypt(f *testing.F)    { fuzzBody(f, "POST", "/keys/{name}/decrypt", nil) }
func FuzzWrapKey(f *testing.F)    { fuzzBody(f, "POST", "/keys/{name}/wrapkey", nil) }
func FuzzUnwrapKey(f *testing.F)  { fuzzBody(f, "POST", "/keys/{name}/unwrapkey", nil) }
func FuzzRelease(f *testing.F)    { fuzzBody(f, "POST", "/keys/{name}/release", nil) }
func FuzzRandom(f *testing.F)     { fuzzBody(f, "POST", "/rng", nil) }

// What these leave is not taken back: the next one finds what there is.
func FuzzUpdateKey(f *testing.F) { fuzzBody(f, "PATCH", "/keys/{name}", func(*fixture) {}) }
func FuzzRoleDefinition(f *testing.F) {
	fuzzBody(f, "PUT", "/providers/Microsoft.Authorization/roleDefinitions/{id}", func(*fixture) {})
}
func FuzzRoleAssignment(f *testing.F) {
	fuzzBody(f, "PUT", "/providers/Microsoft.Authorization/roleAssignments/{id}", func(*fixture) {})
}
func FuzzSetting(f *testing.F) { fuzzBody(f, "PATCH", "/settings/{id}", func(*fixture) {}) }
func FuzzRotationPolicy(f *testing.F) {
	fuzzBody(f, "PUT", "/keys/{name}/rotationpolicy", func(*fixture) {})
}

func FuzzDownloadDomain(f *testing.F) {
	fuzzBody(f, "POST", "/securitydomain/download", func(*fixture) {})
}
func FuzzUploadDomain(f *testing.F) {
	fuzzBody(f, "POST", "/securitydomain/upload", func(*fixture) {})
}

// FuzzTransferBlob fuzzes the file inside an import, and what it wraps, so that the fuzzer need not find base64.
func FuzzTransferBlob(f *testing.F) {
	x := newFixture(f, "alpha")
	x.activate("alpha")
	if w := x.do(request{method: "POST", path: "/keys/kek/create", body: `{"kty":"RSA","key_ops":["import"]}`}); w.Code != 200 {
		f.Fatal(w.Body)
	}
	for kty, target := range map[string][]byte{"oct": make([]byte, 32), "EC": bytes.Repeat([]byte{0x30}, 138), "RSA": bytes.Repeat([]byte{0x30}, 1218)} {
		f.Add(kty, []byte(jsonOf(x.byok(f, "kek", target))))
	}
	f.Add("oct", []byte(`{"schema_version":"1.0.0","header":{"kid":"https://x/keys/kek/00000000000000000000000000000000","alg":"dir","enc":"CKM_RSA_AES_KEY_WRAP"},"ciphertext":""}`))
	before := x.snapshot()
	f.Fuzz(func(t *testing.T, kty string, file []byte) {
		x.t = t
		w := x.do(request{method: "PUT", path: "/keys/brought", token: x.bearer(), body: jsonOf(map[string]any{"key": map[string]any{"kty": kty, "crv": "P-256", "key_hsm": b64(file)}})})
		if w.Code < 300 {
			gone("brought")(x)
			before = x.snapshot()
			return
		}
		refusal(t, "import", w, 400, 413)
		if x.snapshot() != before {
			t.Fatal("a refusal changed the store")
		}
	})
}
