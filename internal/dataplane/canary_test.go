package dataplane_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"strings"
	"testing"

	"strongroom/internal/dataplane"
	"strongroom/internal/engine/enginetest"
)

// Covers K1: keys whose bytes are known are imported in every form, used in every way, and sent in requests that are
// refused. Of the answers, of the log at its most talkative, of the records of calls and of the store, none has the bytes
// of a key in it, in any form in which somebody might print them.
func TestKnownKeyBytesAreNowhere(t *testing.T) {
	f := newFixture(t, "alpha")
	f.level.Set(slog.LevelDebug)
	c := &clerk{}
	f.configure(func(cfg *dataplane.Config) { cfg.Recorder = c })
	f.activate("alpha")
	if w := f.do(request{method: "POST", path: "/keys/kek/create", body: `{"kty":"RSA","key_ops":["import"]}`}); w.Code != 200 {
		t.Fatal(w.Body)
	}
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	d, err := ec.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(ec)
	if err != nil {
		t.Fatal(err)
	}
	point, err := ec.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	random := func() []byte {
		b := make([]byte, 32)
		if _, err := rand.Read(b); err != nil {
			t.Fatal(err)
		}
		return b
	}
	plain, wrapped, refused := random(), random(), random()
	rsa := rsaJWK(t)
	secrets := map[string][]byte{"the EC key's d": d, "the oct key": plain, "the wrapped oct key": wrapped, "a key in a refused request": refused}
	for _, name := range []string{"d", "p", "q", "dp", "dq", "qi"} {
		secrets["the RSA key's "+name] = unb64(t, rsa[name].(string))
	}
	ecJWK := map[string]any{"kty": "EC", "crv": "P-256", "x": b64(point[1:33]), "y": b64(point[33:]), "d": b64(d)}
	octFile, ecFile := f.byok(t, "kek", wrapped), f.byok(t, "kek", pkcs8)

	var answers bytes.Buffer
	call := func(method, path, body string, want int) {
		t.Helper()
		w := f.do(request{method: method, path: path, body: body, token: f.bearer()})
		if w.Code != want {
			t.Fatalf("%s %s: %d %s", method, path, w.Code, w.Body)
		}
		fmt.Fprintln(&answers, w.Header(), w.Body)
	}
	bring := func(name string, key any, want int) {
		t.Helper()
		call("PUT", "/keys/"+name, jsonOf(map[string]any{"key": key}), want)
	}
	bring("rsa", rsa, 200)
	bring("ec", ecJWK, 200)
	bring("oct", map[string]any{"kty": "oct", "k": b64(plain)}, 200)
	bring("wrapped-oct", map[string]any{"kty": "oct", "key_hsm": b64([]byte(jsonOf(octFile)))}, 200)
	bring("wrapped-ec", map[string]any{"kty": "EC", "crv": "P-256", "key_hsm": b64([]byte(jsonOf(ecFile)))}, 200)
	// Refused in many places: by the form, the type, the key, the operation, the name.
	for _, key := range []map[string]any{
		{"kty": "oct", "k": b64(refused) + "="}, {"kty": b64(refused), "k": "AAAA"}, {"kty": "oct", "k": b64(append(bytes.Clone(refused), refused...))}, {"kty": "EC", "crv": "P-256", "x": b64(point[1:33]), "y": b64(point[33:]), "d": b64(refused)},
		{"kty": "RSA", "n": b64(refused), "e": "AQAB", "d": b64(refused), "p": b64(refused), "q": b64(refused)}, {"kty": "oct", "k": b64(refused), "key_hsm": b64(refused)}, {"kty": "oct", "key_hsm": b64(refused)}, {"kty": "oct", "k": b64(refused), "crv": b64(refused)},
		{"kty": "oct", "k": b64(refused), "key_ops": []string{b64(refused)}}, {"kty": "oct", "k": []any{b64(refused)}}, {"kty": "oct", "oth": b64(refused), "k": b64(refused)},
	} {
		bring("refused", key, 400)
	}
	call("PUT", "/keys/refused", `{"key":{"k":"`+b64(refused), 400)
	call("PUT", "/keys/refused_", jsonOf(map[string]any{"key": map[string]any{"kty": "oct", "k": b64(refused)}}), 400)
	for _, operation := range []string{"sign", "encrypt", "decrypt", "wrapkey", "unwrapkey"} {
		call("POST", "/keys/oct/"+operation, jsonOf(map[string]any{"alg": "A256KW", "value": b64(refused)[:3] + "!" + b64(refused)}), 400)
	}
	// Used in every way. What is encrypted is nobody's key.
	for _, name := range []string{"rsa", "ec", "oct", "wrapped-oct", "wrapped-ec"} {
		for _, a := range enginetest.Table() {
			for _, operation := range enginetest.Operations {
				w := f.attempt(name, operation, a)
				fmt.Fprintln(&answers, w.Header(), w.Body)
			}
		}
		call("GET", "/keys/"+name, "", 200)
		call("GET", "/keys/"+name+"/attestation", "", 200)
		call("POST", "/keys/"+name+"/backup", "", 200)
		call("PATCH", "/keys/"+name, `{"tags":{"a":"b"}}`, 200)
		call("DELETE", "/keys/"+name, "", 200)
		call("POST", "/deletedkeys/"+name+"/recover", "", 200)
	}
	for place, text := range map[string]string{
		"an answer": answers.String(), "the log": f.logs.String(), "a record": fmt.Sprintf("%+v %+v %s %s", c.intents, c.ended, jsonOf(c.intents), jsonOf(c.ended)), "the store": f.snapshot() + f.raw(),
	} {
		if len(text) < 1000 {
			t.Errorf("%s has %d bytes; nothing was written there", place, len(text))
		}
		for what, secret := range secrets {
			for form, printed := range map[string]string{
				"bytes": string(secret), "hex": hex.EncodeToString(secret), "upper hex": strings.ToUpper(hex.EncodeToString(secret)), "base64url": b64(secret), "base64": base64.StdEncoding.EncodeToString(secret),
				"a list": strings.Trim(fmt.Sprint(secret), "[]"), "a number": new(big.Int).SetBytes(secret).String(), "hex of base64url": hex.EncodeToString([]byte(b64(secret))),
			} {
				if strings.Contains(text, printed) {
					t.Errorf("%s has %s, as %s", place, what, form)
				}
			}
		}
	}
}

// watched is a body that remembers where it was read to.
type watched struct {
	io.Reader
	places [][]byte
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.Reader.Read(p)
	w.places = append(w.places, p[:n])
	return n, err
}

// Covers K1: what a body was read into is cleared when the request is over, whether it was answered or refused, and at
// whatever point; also what it was read into before there was too little room for it.
func TestBodiesAreCleared(t *testing.T) {
	f := newFixture(t, "alpha")
	f.activate("alpha")
	if w := f.do(request{method: "PUT", path: "/keys/oct", body: `{"key":{"kty":"oct","k":"` + b64(make([]byte, 32)) + `"}}`}); w.Code != 200 {
		t.Fatal(w.Body)
	}
	value := b64(bytes.Repeat([]byte("plain"), 1000))
	for name, c := range map[string]struct {
		method, path, body, contentType string
		want                            int
	}{
		"answered":           {"POST", "/keys/oct/encrypt", `{"alg":"A256GCM","value":"` + value + `"}`, "", 200},
		"not understood":     {"POST", "/keys/oct/encrypt", `{"alg":"A256GCM","value":["` + value + `"]}`, "", 400},
		"no JSON":            {"POST", "/keys/oct/encrypt", `{"alg":"A256GCM","value":"` + value, "", 400},
		"not said to be":     {"POST", "/keys/oct/encrypt", `{"alg":"A256GCM","value":"` + value + `"}`, "text/plain", 415},
		"too large":          {"POST", "/keys/oct/encrypt", `{"value":"` + strings.Repeat(value, 20) + `"}`, "", 413},
		"in the wrong place": {"POST", "/keys/oct/sign", `{"alg":"HS256","value":"` + value + `","note":"` + value + `"}`, "", 200},
		"not activated":      {"POST", "/keys/restore", `{"value":"` + value + `"}`, "", 400},
		"an import":          {"PUT", "/keys/new", `{"key":{"kty":"oct","k":"` + value + `"}}`, "", 400},
	} {
		t.Run(name, func(t *testing.T) {
			body := &watched{Reader: strings.NewReader(c.body)}
			w := f.do(request{method: c.method, path: c.path, body: "x", chunked: body, contentType: c.contentType})
			if w.Code != c.want {
				t.Errorf("%d %s, want %d", w.Code, w.Body, c.want)
			}
			if len(body.places) < 2 {
				t.Errorf("read in %d pieces: nothing had to grow", len(body.places))
			}
			for i, p := range body.places {
				if len(bytes.Trim(p, "\x00")) > 0 {
					t.Errorf("piece %d of %d still has %d bytes", i+1, len(body.places), len(p))
				}
			}
		})
	}
}
