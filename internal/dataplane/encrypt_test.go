package dataplane_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"math/big"
	"strings"
	"testing"

	"strongroom/internal/engine"
	"strongroom/internal/engine/enginetest"
)

// As the stock clients do it: encrypt locally with the public key that create returned, decrypt on the HSM; and
// both on the HSM, in every spelling of the path.
func TestEncryptionOnTheWire(t *testing.T) {
	f := newFixture(t, "alpha")
	f.activate("alpha")
	kid, public := f.createRSA("Key")
	version := kid[strings.LastIndex(kid, "/")+1:]
	b64 := base64.RawURLEncoding.EncodeToString

	local, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, &rsa.PublicKey{N: public.N, E: public.E}, []byte("made by the client"), nil)
	if err != nil {
		t.Fatal(err)
	}
	run := func(path, alg, value string) (out struct{ Kid, Value, Alg string }) {
		t.Helper()
		w := f.do(request{method: "POST", path: path, body: `{"alg":"` + alg + `","value":"` + value + `","iv":null}`})
		if err := json.Unmarshal(w.Body.Bytes(), &out); err != nil || w.Code != 200 {
			t.Fatalf("POST %s: %d %s", path, w.Code, w.Body)
		}
		if out.Kid != kid || out.Alg != alg {
			t.Errorf("POST %s: kid %s and alg %s, want %s and %s", path, out.Kid, out.Alg, kid, alg)
		}
		return out
	}
	for _, operation := range []string{"decrypt", "unwrapkey"} {
		if got := run("/keys/Key/"+version+"/"+operation, "RSA-OAEP-256", b64(local)); got.Value != b64([]byte("made by the client")) {
			t.Errorf("%s: value %s", operation, got.Value)
		}
	}
	for there, back := range map[string]string{"encrypt": "decrypt", "wrapkey": "unwrapkey"} {
		for _, alg := range []string{"RSA-OAEP", "RSA-OAEP-256"} {
			for _, path := range []string{"/keys/Key/", "/keys/key//", "/keys/Key/" + version + "/"} {
				sealed := run(path+there, alg, b64([]byte("content")))
				if opened := run(path+back, alg, sealed.Value); opened.Value != b64([]byte("content")) {
					t.Errorf("%s%s: value %s", path, back, opened.Value)
				}
			}
		}
	}
}

// Covers K6 on the wire: status, headers and body of every failed decryption are the same but for the request's
// own id, also in length.
func TestFailedDecryptionsLookAlike(t *testing.T) {
	f := newFixture(t, "alpha")
	f.activate("alpha")
	_, public := f.createRSA("key")
	want := ""
	for _, alg := range []string{engine.RSAOAEP, engine.RSAOAEP256} {
		for name, ciphertext := range enginetest.Damaged(t, public, alg) {
			if len(ciphertext) > 40_000 {
				continue // the body would be too large for the operation, which is said before anything is decrypted
			}
			for _, operation := range []string{"decrypt", "unwrapkey"} {
				w := f.do(request{method: "POST", path: "/keys/key/" + operation, body: `{"alg":"` + alg + `","value":"` + base64.RawURLEncoding.EncodeToString(ciphertext) + `"}`})
				id := w.Header().Get("x-ms-request-id")
				w.Header().Set("x-ms-request-id", "")
				raw, err := json.Marshal([]any{w.Code, w.Header(), strings.ReplaceAll(w.Body.String(), id, "")})
				if err != nil {
					t.Fatal(err)
				}
				if got := string(raw); want == "" {
					want = got
				} else if got != want {
					t.Errorf("%s, %s: got %s, others get %s", operation, name, got, want)
				}
				if w.Code != 400 {
					t.Fatalf("%s, %s: %d, want 400", operation, name, w.Code)
				}
			}
		}
	}
}

// AES on the wire: what encryption answers is what decryption takes, and the server makes the IV of GCM.
func TestAESOnTheWire(t *testing.T) {
	f := newFixture(t, "alpha")
	f.activate("alpha")
	if w := f.do(request{method: "POST", path: "/keys/aes/create", body: `{"kty":"oct","key_size":256}`}); w.Code != 200 || !strings.Contains(w.Body.String(), `"kty":"oct-HSM"`) || strings.Contains(w.Body.String(), `"k":`) {
		t.Fatalf("create: %d %s", w.Code, w.Body)
	}
	if w := f.do(request{method: "GET", path: "/keys/aes", query: "api-version=2026-04-01"}); !strings.Contains(w.Body.String(), `"key_size":256`) {
		t.Errorf("the newest api-version shows the size: %s", w.Body)
	}
	if w := f.do(request{method: "GET", path: "/keys/aes"}); strings.Contains(w.Body.String(), "key_size") {
		t.Errorf("older ones do not: %s", w.Body)
	}
	run := func(operation, body string) (out struct{ Kid, Value, Alg, IV, Tag, AAD string }) {
		t.Helper()
		w := f.do(request{method: "POST", path: "/keys/aes/" + operation, body: body})
		if err := json.Unmarshal(w.Body.Bytes(), &out); err != nil || w.Code != 200 {
			t.Fatalf("%s: %d %s", operation, w.Code, w.Body)
		}
		return out
	}
	for there, back := range map[string]string{"encrypt": "decrypt", "wrapkey": "unwrapkey"} {
		sealed := run(there, `{"alg":"A256GCM","value":"c2VjcmV0","aad":"Y29udGV4dA"}`)
		if len(sealed.IV) != 16 || len(sealed.Tag) != 22 || len(sealed.Value) != 8 || sealed.AAD != "Y29udGV4dA" || sealed.Alg != "A256GCM" {
			t.Errorf("%s: %+v", there, sealed)
		}
		opened := run(back, `{"alg":"A256GCM","value":"`+sealed.Value+`","iv":"`+sealed.IV+`","tag":"`+sealed.Tag+`","aad":"Y29udGV4dA"}`)
		if opened.Value != "c2VjcmV0" || opened.IV != "" {
			t.Errorf("%s: %+v", back, opened)
		}
		wrapped := run(there, `{"alg":"A256KW","value":"AAECAwQFBgcICQoLDA0ODw"}`)
		if opened := run(back, `{"alg":"A256KW","value":"`+wrapped.Value+`"}`); opened.Value != "AAECAwQFBgcICQoLDA0ODw" {
			t.Errorf("%s: %+v", back, opened)
		}
	}
	signed := run("sign", `{"alg":"HS256","value":"c2VjcmV0"}`)
	w := f.do(request{method: "POST", path: "/keys/aes/verify", body: `{"alg":"HS256","digest":"c2VjcmV0","value":"` + signed.Value + `"}`})
	if w.Code != 200 || strings.TrimSpace(w.Body.String()) != `{"value":true}` {
		t.Errorf("verify: %d %s", w.Code, w.Body)
	}
}

// createRSA makes a key of 2048 bits on alpha and returns its kid and public part.
func (f *fixture) createRSA(name string) (kid string, public engine.Public) {
	f.t.Helper()
	w := f.do(request{method: "POST", path: "/keys/" + name + "/create", body: `{"kty":"RSA"}`})
	var bundle struct{ Key struct{ Kid, N string } }
	if err := json.Unmarshal(w.Body.Bytes(), &bundle); err != nil || w.Code != 200 {
		f.t.Fatalf("create: %d %s", w.Code, w.Body)
	}
	n, err := base64.RawURLEncoding.DecodeString(bundle.Key.N)
	if err != nil {
		f.t.Fatal(err)
	}
	return bundle.Key.Kid, engine.Public{Type: engine.RSA, N: new(big.Int).SetBytes(n), E: 65537}
}
