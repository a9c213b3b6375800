package dataplane_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/big"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/tink-crypto/tink-go/v2/kwp/subtle"

	"strongroom/internal/dataplane"
	"strongroom/internal/engine"
)

// internals are words that no message to a caller may have: the language, the libraries, our packages, addresses.
var internals = regexp.MustCompile(`(?i)\.go\b|goroutine|panic|runtime|reflect|strconv|unmarshal|(?-i:json:|base64:)|illegal|\b(nil|int|int64|uint8|struct|slice|ptr|float64)\b|(?-i:\b(api|keys|engine|store|failure|hsm|software|strictjson)(: |\.[A-Z]))|0x[0-9a-f]{6,}|internal/`)

// refusal reads an answer that must be a refusal in Azure's form, with one of the statuses and without internals.
func refusal(t testing.TB, what string, w *httptest.ResponseRecorder, statuses ...int) (code, message string) {
	t.Helper()
	var body struct {
		Error struct{ Code, Message string }
	}
	if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil || body.Error.Code == "" || body.Error.Message == "" {
		t.Errorf("%s: %d %s is not Azure's error form", what, w.Code, w.Body)
		return "", ""
	}
	if !slices.Contains(statuses, w.Code) {
		t.Errorf("%s: %d %s, want %v", what, w.Code, w.Body, statuses)
	}
	if found := internals.FindString(body.Error.Message); found != "" || strings.Contains(body.Error.Message, "canary") {
		t.Errorf("%s: the message tells of internals (%q) or repeats what was sent: %s", what, found, body.Error.Message)
	}
	if w.Header().Get("Content-Type") != "application/json; charset=utf-8" || w.Header().Get("x-ms-request-id") == "" {
		t.Errorf("%s: headers %v", what, w.Header())
	}
	return body.Error.Code, body.Error.Message
}

// importBody is a request that imports an EC key of the caller's.
func importBody(t testing.TB) map[string]any {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	d, err := key.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	point, err := key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return map[string]any{"Hsm": true, "tags": map[string]any{"a": "b"}, "attributes": map[string]any{"enabled": true, "nbf": 1, "exp": 4000000000, "exportable": false},
		"key": map[string]any{"kty": "EC", "crv": "P-256", "key_ops": []any{"sign"}, "x": b64(point[1:33]), "y": b64(point[33:]), "d": b64(d)}}
}

// rsaJWK is an RSA key of the caller's.
func rsaJWK(t testing.TB) map[string]any {
	t.Helper()
	key := mustKey(2048)
	return map[string]any{"kty": "RSA", "n": b64(key.N.Bytes()), "e": "AQAB", "d": b64(key.D.Bytes()), "p": b64(key.Primes[0].Bytes()), "q": b64(key.Primes[1].Bytes()),
		"dp": b64(key.Precomputed.Dp.Bytes()), "dq": b64(key.Precomputed.Dq.Bytes()), "qi": b64(key.Precomputed.Qinv.Bytes())}
}

// goodBodies are requests of every route with a body that are taken, each with every member that the route reads.
// They go to a key "ec", "rsa" or "aes" of the HSM alpha, and to new names.
func (f *fixture) goodBodies(t testing.TB) map[[2]string]request {
	t.Helper()
	for name, body := range map[string]string{"ec": `{"kty":"EC"}`, "rsa": `{"kty":"RSA"}`, "aes": `{"kty":"oct","key_size":256}`, "saved": `{"kty":"EC"}`, "released": leaver("EC", "sevsnpvm"), "leaves": `{"kty":"EC","attributes":{"exportable":true},"release_policy":{"data":"` + b64([]byte(releasePolicyText)) + `"}}`} {
		if w := f.do(request{method: "POST", path: "/keys/" + name + "/create", body: body}); w.Code != 200 {
			t.Fatalf("create %s: %d %s", name, w.Code, w.Body)
		}
	}
	backup := value(t, f.do(request{method: "POST", path: "/keys/saved/backup"}), 200)
	for _, r := range []request{{method: "DELETE", path: "/keys/saved"}, {method: "DELETE", path: "/deletedkeys/saved"}} {
		if w := f.do(r); w.Code >= 300 {
			t.Fatalf("%s %s: %d %s", r.method, r.path, w.Code, w.Body)
		}
	}
	var sealed struct{ Value, IV, Tag string }
	gcm := map[string]any{"alg": "A256GCM", "value": b64([]byte("content")), "aad": b64([]byte("context"))}
	w := f.do(request{method: "POST", path: "/keys/aes/encrypt", body: jsonOf(gcm)})
	if err := json.Unmarshal(w.Body.Bytes(), &sealed); err != nil || w.Code != 200 {
		t.Fatalf("encrypt: %d %s", w.Code, w.Body)
	}
	open := map[string]any{"alg": "A256GCM", "value": sealed.Value, "iv": sealed.IV, "tag": sealed.Tag, "aad": gcm["aad"]}
	cbc := map[string]any{"alg": "A256CBCPAD", "value": b64([]byte("content")), "iv": b64(make([]byte, 16))}
	digest := b64(make([]byte, 32))
	signature := value(t, f.do(request{method: "POST", path: "/keys/ec/sign", body: jsonOf(map[string]any{"alg": "ES256", "value": digest})}), 200)
	policy := map[string]any{"contentType": "application/json; charset=utf-8", "data": b64([]byte(releasePolicyText)), "immutable": false}
	sd := f.activate("owner")
	waiting := f.exchange("waiting")
	certificates := map[string]any{}
	if err := json.Unmarshal([]byte(downloadBody(2, three()...)), &certificates); err != nil {
		t.Fatal(err)
	}
	good := map[[2]string]request{
		{"POST", "/securitydomain/download"}:   {hsm: "empty", body: jsonOf(certificates)},
		{"POST", "/securitydomain/upload"}:     {hsm: "waiting", body: quote(transfer(t, sd, waiting, nil))},
		{"PATCH", "/settings/{id}"}:            {path: "/settings/AllowKeyManagementOperationsThroughARM", body: `{"value":"true"}`},
		{"POST", "/backup"}:                    {body: `{"storageResourceUri":"https://a.example/b","token":"t","useManagedIdentity":false}`},
		{"POST", "/prebackup"}:                 {hsm: "owner", body: `{"storageResourceUri":"https://a.example/b","token":"t","useManagedIdentity":false}`},
		{"PUT", "/restore"}:                    {body: `{"sasTokenParameters":{"storageResourceUri":"https://a.example/b","token":"t","useManagedIdentity":false},"folderToRestore":"f"}`},
		{"PUT", "/prerestore"}:                 {body: `{"sasTokenParameters":{"storageResourceUri":"https://a.example/b","token":"t","useManagedIdentity":false},"folderToRestore":"f"}`},
		{"PUT", "/keys/{name}/restore"}:        {path: "/keys/k/restore", body: `{"sasTokenParameters":{"storageResourceUri":"https://a.example/b","token":"t","useManagedIdentity":false},"folder":"f"}`},
		{"POST", "/rng"}:                       {body: `{"count":8}`},
		{"POST", "/keys/restore"}:              {body: quote(backup)},
		{"PATCH", "/settings/{id}"}:            {path: "/settings/AllowKeyManagementOperationsThroughARM", body: `{"value":"true"}`},
		{"PUT", "/keys/{name}"}:                {path: "/keys/brought", body: jsonOf(importBody(t))},
		{"PATCH", "/keys/{name}"}:              {path: "/keys/leaves", body: jsonOf(map[string]any{"key_ops": []any{"sign"}, "attributes": map[string]any{"enabled": true, "nbf": 1, "exp": 4000000000, "exportable": true}, "tags": map[string]any{"a": "b"}, "kty": "EC", "crv": "P-256", "release_policy": policy})},
		{"POST", "/keys/{name}/create"}:        {path: "/keys/made/create", body: jsonOf(map[string]any{"kty": "oct", "key_size": 128, "key_ops": []any{"encrypt", "export"}, "attributes": map[string]any{"enabled": true, "nbf": 1, "exp": 4000000000, "exportable": true}, "tags": map[string]any{"a": "b"}, "release_policy": policy})},
		{"PUT", "/keys/{name}/rotationpolicy"}: {path: "/keys/ec/rotationpolicy", body: `{"lifetimeActions":[{"trigger":{"timeAfterCreate":"P30D"},"action":{"type":"Rotate"}}],"attributes":{"expiryTime":"P90D"}}`},
		{"POST", "/keys/{name}/release"}:       {path: "/keys/released/release", body: jsonOf(map[string]any{"target": f.attested(&mustKey(2048).PublicKey, nil), "enc": "RSA_AES_KEY_WRAP_256", "nonce": "n0nce"})},
		{"POST", "/keys/{name}/sign"}:          {path: "/keys/ec/sign", body: jsonOf(map[string]any{"alg": "ES256", "value": digest})},
		{"POST", "/keys/{name}/verify"}:        {path: "/keys/ec/verify", body: jsonOf(map[string]any{"alg": "ES256", "digest": digest, "value": signature})},
		{"POST", "/keys/{name}/encrypt"}:       {path: "/keys/aes/encrypt", body: jsonOf(cbc)},
		{"POST", "/keys/{name}/decrypt"}:       {path: "/keys/aes/decrypt", body: jsonOf(open)},
		{"POST", "/keys/{name}/wrapkey"}:       {path: "/keys/aes/wrapkey", body: jsonOf(cbc)},
		{"POST", "/keys/{name}/unwrapkey"}:     {path: "/keys/aes/unwrapkey", body: jsonOf(open)},
	}
	for i, scope := range []string{"", "/keys", "/keys/{name}"} {
		const definitions, assignments = "/providers/Microsoft.Authorization/roleDefinitions/", "/providers/Microsoft.Authorization/roleAssignments/"
		at, guid := strings.Replace(scope, "{name}", "ec", 1), fmt.Sprintf("c0de0000-0000-4000-8000-%012d", i)
		good[[2]string{"PUT", scope + definitions + "{id}"}] = request{path: at + definitions + guid, body: jsonOf(map[string]any{"properties": map[string]any{"roleName": "Role " + fmt.Sprint(i), "description": "d", "type": "CustomRole", "assignableScopes": []any{"/"},
			"permissions": []any{map[string]any{"actions": []any{}, "notActions": []any{}, "dataActions": []any{"Microsoft.KeyVault/managedHsm/keys/sign/action"}, "notDataActions": []any{}}}}})}
		good[[2]string{"PUT", scope + assignments + "{id}"}] = request{path: at + assignments + guid, body: jsonOf(map[string]any{"properties": map[string]any{"principalId": fmt.Sprintf("22222222-2222-4222-8222-%012d", i), "roleDefinitionId": "Microsoft.KeyVault" + definitions + cryptoUser}})}
	}
	version := map[string]string{}
	for _, name := range []string{"ec", "aes", "leaves", "released"} {
		version[name] = read[bundle](t, f.do(request{method: "GET", path: "/keys/" + name})).version()
	}
	for route, r := range maps.Clone(good) { // the same with a version in the path
		if operation, ok := strings.CutPrefix(route[1], "/keys/{name}"); ok && !strings.HasPrefix(operation, "/create") && route[0] != "PUT" {
			name := strings.Split(r.path, "/")[2]
			good[[2]string{route[0], "/keys/{name}/{version}" + operation}] = request{path: "/keys/" + name + "/" + version[name] + operation, body: r.body}
		}
	}
	for route, r := range good {
		if r.method = route[0]; r.path == "" {
			r.path = route[1]
		}
		r.token = f.bearer()
		good[route] = r
	}
	for route := range dataplane.BodyLimits() {
		if _, has := good[route]; !has {
			t.Fatalf("there is no good body for %s %s: add one", route[0], route[1])
		}
	}
	if len(good) != len(dataplane.BodyLimits()) {
		t.Fatalf("%d good bodies, and %d routes take one", len(good), len(dataplane.BodyLimits()))
	}
	return good
}

// cryptoUser is the built-in role Managed HSM Crypto User.
const cryptoUser = "21dbd100-6940-42c2-9190-5d6cb909625b"

const releasePolicyText = `{"version":"1.0.0","anyOf":[{"authority":"https://attest.example","allOf":[{"claim":"a","equals":"b"}]}]}`

// mutations are a JSON value with one part of it replaced, for every part: call f with each, and with where that is.
func mutations(v any, at string, replace func(part any) []any, f func(where string, mutated any)) {
	for _, other := range replace(v) {
		f(at, other)
	}
	switch v := v.(type) {
	case map[string]any:
		for name, part := range v {
			mutations(part, at+"/"+name, replace, func(where string, mutated any) {
				m := maps.Clone(v)
				m[name] = mutated
				f(where, m)
			})
		}
	case []any:
		for i, part := range v {
			mutations(part, fmt.Sprintf("%s/%d", at, i), replace, func(where string, mutated any) {
				l := slices.Clone(v)
				l[i] = mutated
				f(where, l)
			})
		}
	}
}

// badNumbers are numbers that overflow something, are none of ours, or are spelled in another way.
var badNumbers = []string{"1e400", "-1e400", "1e18", "1.5", "-1", "9223372036854775808", "-9223372036854775809", "18446744073709551616", "1000000000000000000", "1e-400",
	"123456789012345678901234567890123456789012345678901234567890"}

// badBase64 are strings that are no base64url without padding, made of one that is.
func badBase64(good string) []any {
	return []any{good + "=", good + "==", good[:len(good)/2] + "\n" + good[len(good)/2:], good[:len(good)/2] + "\r\n" + good[len(good)/2:], good + " ", "+" + good, good + "/", "A", good + "\u0000", "é" + good, good[:len(good)-1] + "!"}
}

// strayBits is a spelling of the same bytes whose last character has bits that mean nothing, if there is one.
func strayBits(good string) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	if len(good)%4 == 0 || len(good) == 0 {
		return ""
	}
	last := strings.IndexByte(alphabet, good[len(good)-1])
	if last < 0 {
		return "" // no base64url at all
	}
	return good[:len(good)-1] + string(alphabet[last^1])
}

// byteMembers are the members that hold bytes, by the end of where they are.
var byteMembers = regexp.MustCompile(`/(value|iv|aad|tag|digest|data|x|y|d)$`)

// Every route that takes a body, with every part of its body replaced by a value of each other type, every number by
// numbers that overflow, and every base64url by other spellings: refused with 400, as what it is, and nothing changes.
// In the end the bodies are taken as they were.
func TestEveryMemberOfEveryBody(t *testing.T) {
	f := newFixture(t, "alpha", "owner", "waiting", "empty")
	f.activate("alpha")
	good := f.goodBodies(t)
	before := f.snapshot()
	tried := 0
	for route, r := range good {
		var whole any
		if err := json.Unmarshal([]byte(r.body), &whole); err != nil {
			t.Fatal(err)
		}
		send := func(what, text string) {
			t.Helper()
			tried++
			r := r
			r.body = text
			refusal(t, fmt.Sprintf("%s %s, %s", route[0], route[1], what), f.do(r), 400)
		}
		domain := strings.HasPrefix(route[1], "/securitydomain")
		// A value of another type, everywhere. null is as good as nothing, so it is left out.
		mutations(whole, "", func(part any) []any {
			var others []any
			for _, other := range []any{true, 17, "canary", []any{"canary", 1}, map[string]any{"canary": 1}, []any{map[string]any{}}} {
				if fmt.Sprintf("%T", other) != fmt.Sprintf("%T", part) && fmt.Sprintf("%T%T", other, part) != "intfloat64" {
					others = append(others, other)
				}
			}
			return others
		}, func(where string, mutated any) {
			if domain && strings.Contains(where, "/certificates/") {
				return // what does not matter in a certificate's JWK is not looked at: TestTerraformsCertificates
			}
			send(where+" of another type", jsonOf(mutated))
		})
		// Numbers that overflow. A text in their place keeps their spelling until it is written.
		mutations(whole, "", func(part any) []any {
			if _, is := part.(float64); is {
				return []any{"NUMBER"}
			}
			return nil
		}, func(where string, mutated any) {
			for _, number := range badNumbers {
				send(where+" is "+number, strings.ReplaceAll(jsonOf(mutated), `"NUMBER"`, number))
			}
		})
		// Other spellings of bytes.
		if !domain {
			mutations(whole, "", func(part any) []any {
				text, is := part.(string)
				if !is || text == "" {
					return nil
				}
				list := badBase64(text)
				if stray := strayBits(text); stray != "" {
					list = append(list, stray)
				}
				return list
			}, func(where string, mutated any) {
				if byteMembers.MatchString(where) {
					send(where+" in another base64", jsonOf(mutated))
				}
			})
		}
		// Texts that are no JSON of ours at all.
		for what, text := range map[string]string{
			"no body": "", "white space": " \n", "null": "null", "a number": "17", "a string": `"canary"`, "an array": "[]", "two values": r.body + r.body, "a comma at the end": strings.TrimSuffix(r.body, "}") + ",}",
			"half of it": r.body[:len(r.body)/2], "a byte order mark": "\ufeff" + r.body, "a NUL": r.body + "\x00", "broken UTF-8": strings.Replace(r.body, `{"`, "{\"\xff", 1), "half a surrogate": strings.Replace(r.body, `{"`, `{"\ud800`, 1),
			"nested 10,000 deep": strings.Replace(r.body, "{", `{"canary":`+strings.Repeat("[", 10000)+strings.Repeat("]", 10000)+",", 1), "10,000 members": strings.Replace(r.body, "{", "{"+manyMembers(10000), 1),
			"a name twice": strings.Replace(r.body, "{", `{"canary":1,"canary":2,`, 1), "a name twice in two cases": strings.Replace(r.body, "{", `{"canary":1,"CANARY":2,`, 1), "NaN": `{"count":NaN,"key_size":NaN}`, "single quotes": strings.ReplaceAll(r.body, `"`, "'"),
		} {
			if int64(len(text)) > dataplane.BodyLimits()[route] {
				continue // see TestBodiesAreBounded
			}
			send(what, text)
		}
	}
	if f.snapshot() != before {
		t.Fatal("a refusal changed the store")
	}
	if tried < 1500 {
		t.Errorf("only %d bodies were tried", tried)
	}
	t.Logf("%d bodies refused", tried)
	for route, r := range good {
		if w := f.do(r); strings.HasPrefix(route[1], "/keys/{name}/providers") && strings.Contains(route[1], "roleDefinitions") {
			refusal(t, route[1], w, 400) // roles are of the whole HSM, whatever the body
		} else if w.Code < 200 || w.Code > 202 {
			t.Errorf("%s %s with its good body: %d %s", route[0], route[1], w.Code, w.Body)
		}
	}
}

func manyMembers(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `"%d":0,`, i)
	}
	return b.String()
}

// Covers A5: bodies of more than the bound of their route, of 1 MB and of 10 MB are refused as too large, whatever is
// in them and whatever they say about their length; a body that breaks off is refused; and so is one that is no JSON by its own word.
func TestBodiesAreBounded(t *testing.T) {
	f := newFixture(t, "alpha", "owner", "waiting", "empty")
	f.activate("alpha")
	good := f.goodBodies(t)
	before := f.snapshot()
	for route, limit := range dataplane.BodyLimits() {
		r := good[route]
		what := route[0] + " " + route[1]
		for _, size := range []int64{limit + 1, 1 << 20, 10 << 20} {
			if size <= limit {
				continue
			}
			for padded, text := range map[string]string{
				"in white space": r.body + strings.Repeat(" ", int(size)-len(r.body)),
				"in a string":    strings.Replace(r.body, "{", `{"canary":"`+strings.Repeat("x", int(size)-len(r.body)-12)+`",`, 1),
				"in zeros":       strings.Repeat("\x00", int(size)),
			} {
				r := r
				r.body = text
				if code, _ := refusal(t, fmt.Sprintf("%s, %d bytes %s", what, size, padded), f.do(r), 413); code != "RequestTooLarge" {
					t.Errorf("%s, %d bytes %s: code %s", what, size, padded, code)
				}
			}
		}
		// Up to the bound a body is read, so what is refused is its content.
		long := r
		long.body = strings.Repeat(" ", int(limit))
		refusal(t, what+", white space up to the bound", f.do(long), 400)
		// Breaks off, with a cause that is nobody's business.
		for _, cause := range []error{io.ErrUnexpectedEOF, errors.New("read tcp 10.0.0.1: canary")} {
			req := httptest.NewRequest(r.method, "https://alpha.managedhsm.localhost:8443/", io.MultiReader(strings.NewReader(r.body[:len(r.body)/2]), iotest.ErrReader(cause)))
			u, err := url.Parse("https://" + map[bool]string{true: "alpha", false: r.hsm}[r.hsm == ""] + ".managedhsm.localhost:8443" + r.path + "?api-version=7.4")
			if err != nil {
				t.Fatal(err)
			}
			req.URL, req.Host = u, u.Host
			req.Header.Set("Authorization", "Bearer "+r.token)
			req.Header.Set("Content-Type", "application/json")
			w := httptest.NewRecorder()
			f.handler.ServeHTTP(w, req)
			refusal(t, what+", broken off", w, 400)
		}
		for _, kind := range []string{"text/plain", "application/x-www-form-urlencoded", "application/json; charset", "multipart/form-data; boundary=x", "canary", "application/jsonx", "application/json/", "application/json; charset=\x00"} {
			r := r
			r.contentType = kind
			refusal(t, what+" as "+kind, f.do(r), 415)
		}
	}
	if f.snapshot() != before {
		t.Error("a refusal changed the store")
	}
}

// Every route that has a name in its path, with every odd name: refused, with KeyNotFound only where the name could be
// one, and nothing changes. Names of 127 characters are names.
func TestOddNames(t *testing.T) {
	f := newFixture(t, "alpha", "owner", "waiting", "empty")
	f.activate("alpha")
	good := f.goodBodies(t)
	long := strings.Repeat("n", 127)
	before := f.snapshot()
	tried := 0
	for _, route := range dataplane.Routes() {
		if !strings.Contains(route[1], "{name}") {
			continue
		}
		r := good[route]
		r.method, r.token = route[0], f.bearer()
		for _, name := range []string{
			long + "n", strings.Repeat("n", 400), "a/b", "a%2Fb", "%2F", "..", "a..b", "%2e%2e", ".", "a.b", "a%00b", "%00", "a\u0000", "é", "a%C3%A9", "名", "%E5%90%8D", "a_b", "a b", "a%20b", "a+b", "a~b", "a:b", "a;b", "a,b", "a@b", "a'b", "a\"b",
			"a\\b", "a%5Cb", "a<b>", "a=b", "a&b", "(a)", "a*", "a|b", "%", "a%", "a%zz", "\uff41", "a\u202eb", "a\u200bb", "\u017f", "\u212a", // the last two are an s and a k to some foldings of case
		} {
			r.path = strings.NewReplacer("{name}", name, "{version}", strings.Repeat("0", 32), "{id}", cryptoUser).Replace(route[1])
			what := route[0] + " " + r.path
			u, err := url.Parse("https://alpha.managedhsm.localhost:8443" + r.path + "?api-version=7.4")
			if err != nil || u.Host != "alpha.managedhsm.localhost:8443" {
				continue // no request can carry it
			}
			tried++
			w := f.do(r)
			code, _ := refusal(t, what, w, 400, 404, 405)
			if code == "KeyNotFound" {
				t.Errorf("%s: %s, as if it could be the name of a key", what, code)
			}
		}
	}
	if f.snapshot() != before {
		t.Error("a refusal changed the store")
	}
	if tried < 500 {
		t.Errorf("only %d requests were made", tried)
	}
	if made := read[bundle](t, f.do(request{method: "POST", path: "/keys/" + long + "/create", body: `{"kty":"EC"}`})); !strings.Contains(made.Key.Kid, "/keys/"+long+"/") {
		t.Errorf("a name of 127 characters: %s", made.Key.Kid)
	}
}

// A key's refusals, one golden file for each: see TestRefusals.
func TestKeyRefusals(t *testing.T) {
	f := newFixture(t, "alpha")
	f.activate("alpha")
	create := func(name, body string) string {
		return read[bundle](t, f.do(request{method: "POST", path: "/keys/" + name + "/create", body: body})).version()
	}
	create("ec", `{"kty":"EC"}`)
	create("rsa", `{"kty":"RSA"}`)
	create("aes", `{"kty":"oct"}`)
	other := create("other", `{"kty":"EC"}`)
	create("disabled", `{"kty":"oct","attributes":{"enabled":false}}`)
	create("early", fmt.Sprintf(`{"kty":"oct","attributes":{"nbf":%d}}`, f.now.Unix()+1))
	create("late", fmt.Sprintf(`{"kty":"oct","attributes":{"exp":%d}}`, f.now.Unix()))
	create("verifies", `{"kty":"EC","key_ops":["verify"]}`)
	create("kek", `{"kty":"RSA","key_ops":["import"]}`)
	create("deleted", `{"kty":"EC"}`)
	create("leaves", `{"kty":"EC","attributes":{"exportable":true},"release_policy":{"data":"`+b64([]byte(releasePolicyText))+`","immutable":true}}`)
	if w := f.do(request{method: "DELETE", path: "/keys/deleted"}); w.Code != 200 {
		t.Fatal(w.Body)
	}
	digest := b64(make([]byte, 32))
	post := func(path string, members map[string]any) request {
		return request{method: "POST", path: "/keys/" + path, body: jsonOf(members)}
	}
	jwk := func(name string, change func(key map[string]any)) request {
		r := importBody(t)
		change(r["key"].(map[string]any))
		return request{method: "PUT", path: "/keys/" + name, body: jsonOf(r)}
	}
	outside := rsaJWK(t)
	rsaImport := func(change func(key map[string]any)) request {
		key := maps.Clone(outside)
		change(key)
		return request{method: "PUT", path: "/keys/brought", body: jsonOf(map[string]any{"key": key})}
	}
	tags := map[string]any{}
	for i := range 16 {
		tags[fmt.Sprint("tag-", i)] = ""
	}
	blob := func(change func(file map[string]any)) request {
		file := f.byok(t, "kek", make([]byte, 32))
		change(file)
		return request{method: "PUT", path: "/keys/brought", body: jsonOf(map[string]any{"key": map[string]any{"kty": "oct", "key_hsm": b64([]byte(jsonOf(file)))}})}
	}
	list := func(path, query string) request {
		return request{method: "GET", path: path, query: "api-version=7.4&" + query}
	}
	for name, test := range map[string]struct {
		request
		status int
		code   string
	}{
		"sign-unknown-algorithm":         {post("ec/sign", map[string]any{"alg": "canary", "value": digest}), 400, "BadParameter"},
		"sign-without-algorithm":         {post("ec/sign", map[string]any{"value": digest}), 400, "BadParameter"},
		"sign-algorithm-of-another-type": {post("ec/sign", map[string]any{"alg": "RS256", "value": digest}), 400, "BadParameter"},
		"sign-algorithm-of-another-size": {post("ec/sign", map[string]any{"alg": "ES384", "value": b64(make([]byte, 48))}), 400, "BadParameter"},
		"sign-short-digest":              {post("rsa/sign", map[string]any{"alg": "PS256", "value": b64(make([]byte, 31))}), 400, "BadParameter"},
		"sign-without-digest":            {post("rsa/sign", map[string]any{"alg": "PS256"}), 400, "BadParameter"},
		"verify-without-digest":          {post("rsa/verify", map[string]any{"alg": "PS256", "value": digest}), 400, "BadParameter"},
		"encrypt-algorithm-of-256-bits":  {post("aes/encrypt", map[string]any{"alg": "A128GCM", "value": digest}), 400, "BadParameter"},
		"encrypt-gcm-with-iv":            {post("aes/encrypt", map[string]any{"alg": "A256GCM", "value": digest, "iv": b64(make([]byte, 12))}), 400, "BadParameter"},
		"encrypt-gcm-with-tag":           {post("aes/encrypt", map[string]any{"alg": "A256GCM", "value": digest, "tag": b64(make([]byte, 16))}), 400, "BadParameter"},
		"encrypt-cbc-without-iv":         {post("aes/encrypt", map[string]any{"alg": "A256CBC", "value": digest}), 400, "BadParameter"},
		"encrypt-cbc-short-iv":           {post("aes/encrypt", map[string]any{"alg": "A256CBC", "value": digest, "iv": b64(make([]byte, 12))}), 400, "BadParameter"},
		"encrypt-cbc-odd-length":         {post("aes/encrypt", map[string]any{"alg": "A256CBC", "value": b64(make([]byte, 17)), "iv": b64(make([]byte, 16))}), 400, "BadParameter"},
		"encrypt-cbc-with-aad":           {post("aes/encrypt", map[string]any{"alg": "A256CBCPAD", "value": digest, "iv": b64(make([]byte, 16)), "aad": digest}), 400, "BadParameter"},
		"wrapkey-odd-length":             {post("aes/wrapkey", map[string]any{"alg": "A256KW", "value": b64(make([]byte, 20))}), 400, "BadParameter"},
		"decrypt-gcm-without-tag":        {post("aes/decrypt", map[string]any{"alg": "A256GCM", "value": digest, "iv": b64(make([]byte, 12))}), 400, "BadParameter"},
		"decrypt-gcm-long-iv":            {post("aes/decrypt", map[string]any{"alg": "A256GCM", "value": digest, "iv": b64(make([]byte, 16)), "tag": b64(make([]byte, 16))}), 400, "BadParameter"},
		"decrypt-gcm-damaged":            {post("aes/decrypt", map[string]any{"alg": "A256GCM", "value": digest, "iv": b64(make([]byte, 12)), "tag": b64(make([]byte, 16))}), 400, "BadParameter"},
		"unwrapkey-aes-damaged":          {post("aes/unwrapkey", map[string]any{"alg": "A256KW", "value": digest}), 400, "BadParameter"},
		"encrypt-disabled":               {post("disabled/encrypt", map[string]any{"alg": "A256GCM", "value": digest}), 403, "KeyDisabled"},
		"encrypt-not-yet-valid":          {post("early/encrypt", map[string]any{"alg": "A256GCM", "value": digest}), 403, "KeyDisabled"},
		"sign-expired":                   {post("late/sign", map[string]any{"alg": "HS256", "value": digest}), 403, "KeyDisabled"},
		"sign-operation-not-allowed":     {post("verifies/sign", map[string]any{"alg": "ES256", "value": digest}), 403, "KeyDisabled"},
		"decrypt-with-import-key":        {post("kek/decrypt", map[string]any{"alg": "RSA-OAEP", "value": b64(make([]byte, 256))}), 403, "KeyDisabled"},
		"sign-version-of-another-key":    {post("ec/"+other+"/sign", map[string]any{"alg": "ES256", "value": digest}), 404, "KeyNotFound"},
		"get-version-of-another-key":     {request{method: "GET", path: "/keys/ec/" + other}, 404, "KeyNotFound"},
		"get-short-version":              {request{method: "GET", path: "/keys/ec/0123456789abcdef0123456789abcde"}, 404, "RouteNotFound"},
		"attest-unknown":                 {request{method: "GET", path: "/keys/none/attestation"}, 404, "KeyNotFound"},
		"attest-deleted":                 {request{method: "GET", path: "/keys/deleted/attestation"}, 404, "KeyNotFound"},
		"encrypt-with-deleted":           {post("deleted/encrypt", map[string]any{"alg": "RSA-OAEP", "value": digest}), 404, "KeyNotFound"},
		"update-deleted":                 {request{method: "PATCH", path: "/keys/deleted", body: `{"tags":{}}`}, 404, "KeyNotFound"},
		"import-over-deleted":            {jwk("Deleted", func(map[string]any) {}), 409, "Conflict"},
		"create-sixteen-tags":            {post("k/create", map[string]any{"kty": "EC", "tags": tags}), 400, "BadParameter"},
		"update-sixteen-tags":            {request{method: "PATCH", path: "/keys/ec", body: jsonOf(map[string]any{"tags": tags})}, 400, "BadParameter"},
		"create-long-tag":                {post("k/create", map[string]any{"kty": "EC", "tags": map[string]any{"a": strings.Repeat("é", 257)}}), 400, "BadParameter"},
		"create-operation-twice":         {post("k/create", map[string]any{"kty": "EC", "key_ops": []any{"sign", "sign"}}), 400, "BadParameter"},
		"create-unknown-operation":       {post("k/create", map[string]any{"kty": "EC", "key_ops": []any{"canary"}}), 400, "BadParameter"},
		"create-import-with-decrypt":     {post("k/create", map[string]any{"kty": "RSA", "key_ops": []any{"import", "decrypt"}}), 400, "BadParameter"},
		"create-import-elliptic":         {post("k/create", map[string]any{"kty": "EC", "key_ops": []any{"import"}}), 400, "BadParameter"},
		"create-even-exponent":           {post("k/create", map[string]any{"kty": "RSA", "public_exponent": 65536}), 400, "BadParameter"},
		"create-exponent-three":          {post("k/create", map[string]any{"kty": "RSA", "public_exponent": 3}), 400, "BadParameter"},
		"create-unknown-curve":           {post("k/create", map[string]any{"kty": "EC", "crv": "P-224"}), 400, "BadParameter"},
		"create-oct-of-64-bits":          {post("k/create", map[string]any{"kty": "oct", "key_size": 64}), 400, "BadParameter"},
		"create-exportable-alone":        {post("k/create", map[string]any{"kty": "EC", "attributes": map[string]any{"exportable": true}}), 400, "BadParameter"},
		"create-exportable-later":        {post("ec/create", map[string]any{"kty": "EC", "attributes": map[string]any{"exportable": true}, "release_policy": map[string]any{"data": b64([]byte(releasePolicyText))}}), 400, "BadParameter"},
		"create-release-policy-no-json":  {post("k/create", map[string]any{"kty": "EC", "attributes": map[string]any{"exportable": true}, "release_policy": map[string]any{"data": b64([]byte("canary"))}}), 400, "BadParameter"},
		"update-immutable-policy":        {request{method: "PATCH", path: "/keys/leaves", body: jsonOf(map[string]any{"release_policy": map[string]any{"data": b64([]byte(`{"version":"1.0.0","anyOf":[]}`))}})}, 400, "BadParameter"},
		"create-size-overflows":          {request{method: "POST", path: "/keys/k/create", body: `{"kty":"RSA","key_size":1e400}`}, 400, "BadParameter"},
		"create-size-of-2-to-the-63":     {request{method: "POST", path: "/keys/k/create", body: `{"kty":"RSA","key_size":9223372036854775808}`}, 400, "BadParameter"},
		"create-size-negative":           {request{method: "POST", path: "/keys/k/create", body: `{"kty":"RSA","key_size":-2048}`}, 400, "BadParameter"},
		"create-size-fraction":           {request{method: "POST", path: "/keys/k/create", body: `{"kty":"RSA","key_size":2048.5}`}, 400, "BadParameter"},
		"create-exp-of-1e18":             {request{method: "POST", path: "/keys/k/create", body: `{"kty":"EC","attributes":{"exp":1000000000000000000}}`}, 400, "BadParameter"},
		"create-exp-written-1e18":        {request{method: "POST", path: "/keys/k/create", body: `{"kty":"EC","attributes":{"exp":1e18}}`}, 400, "BadParameter"},
		"create-tag-not-a-string":        {request{method: "POST", path: "/keys/k/create", body: `{"kty":"EC","tags":{"canary":17}}`}, 400, "BadParameter"},
		"create-name-of-128":             {request{method: "POST", path: "/keys/" + strings.Repeat("n", 128) + "/create", body: `{"kty":"EC"}`}, 400, "BadParameter"},
		"create-huge-body":               {request{method: "POST", path: "/keys/k/create", body: `{"kty":"EC","tags":{"a":"` + strings.Repeat("A", 1<<20) + `"}}`}, 413, "RequestTooLarge"},
		"sign-padded-base64":             {post("ec/sign", map[string]any{"alg": "ES256", "value": digest + "="}), 400, "BadParameter"},
		"sign-base64-with-line-break":    {post("ec/sign", map[string]any{"alg": "ES256", "value": digest[:20] + "\n" + digest[20:]}), 400, "BadParameter"},
		"sign-base64-with-stray-bits":    {post("ec/sign", map[string]any{"alg": "ES256", "value": digest[:42] + "B"}), 400, "BadParameter"},
		"list-maxresults-zero":           {list("/keys", "maxresults=0"), 400, "BadParameter"},
		"list-maxresults-26":             {list("/keys", "maxresults=26"), 400, "BadParameter"},
		"list-maxresults-negative":       {list("/keys", "maxresults=-1"), 400, "BadParameter"},
		"list-maxresults-overflows":      {list("/keys/ec/versions", "maxresults=9223372036854775808"), 400, "BadParameter"},
		"list-maxresults-fraction":       {list("/deletedkeys", "maxresults=1.5"), 400, "BadParameter"},
		"list-maxresults-other-digits":   {list("/keys", "maxresults=%EF%BC%91"), 400, "BadParameter"},
		"list-forged-token":              {list("/keys", "$skiptoken=canary!"), 400, "BadParameter"},
		"versions-token-of-another-key":  {list("/keys/ec/versions", "$skiptoken="+other), 400, "BadParameter"},
		"import-no-private-part":         {jwk("brought", func(k map[string]any) { delete(k, "d") }), 400, "BadParameter"},
		"import-point-off-the-curve":     {jwk("brought", func(k map[string]any) { k["x"] = b64(make([]byte, 32)) }), 400, "BadParameter"},
		"import-another-curve":           {jwk("brought", func(k map[string]any) { k["crv"] = "P-384" }), 400, "BadParameter"},
		"import-another-type":            {jwk("brought", func(k map[string]any) { k["kty"] = "RSA"; delete(k, "crv") }), 400, "BadParameter"},
		"import-no-type":                 {jwk("brought", func(k map[string]any) { delete(k, "kty") }), 400, "BadParameter"},
		"import-operation-of-other-type": {jwk("brought", func(k map[string]any) { k["key_ops"] = []any{"encrypt"} }), 400, "BadParameter"},
		"import-for-import":              {rsaImport(func(k map[string]any) { k["key_ops"] = []any{"import"} }), 400, "BadParameter"},
		"import-three-primes":            {rsaImport(func(k map[string]any) { k["oth"] = []any{map[string]any{"r": "AQAB", "d": "AQAB", "t": "AQAB"}} }), 400, "BadParameter"},
		"import-exponent-three":          {rsaImport(func(k map[string]any) { k["e"] = "Aw" }), 400, "BadParameter"},
		"import-huge-exponent":           {rsaImport(func(k map[string]any) { k["e"] = b64(new(big.Int).Lsh(big.NewInt(1), 2000).Bytes()) }), 400, "BadParameter"},
		"import-prime-off-by-two":        {rsaImport(func(k map[string]any) { k["p"] = k["q"] }), 400, "BadParameter"},
		"import-oct-of-65-bytes":         {jwk("brought", func(k map[string]any) { clear(k); k["kty"] = "oct"; k["k"] = b64(make([]byte, 65)) }), 400, "BadParameter"},
		"import-oct-of-15-bytes":         {jwk("brought", func(k map[string]any) { clear(k); k["kty"] = "oct"; k["k"] = b64(make([]byte, 15)) }), 400, "BadParameter"},
		"import-blob-and-key":            {jwk("brought", func(k map[string]any) { k["key_hsm"] = "AAAA" }), 400, "BadParameter"},
		"import-blob-no-json":            {jwk("brought", func(k map[string]any) { clear(k); k["kty"] = "oct"; k["key_hsm"] = b64([]byte("canary")) }), 400, "BadParameter"},
		"import-blob-too-long": {jwk("brought", func(k map[string]any) {
			clear(k)
			k["kty"] = "oct"
			k["key_hsm"] = b64([]byte(`{"canary":"` + strings.Repeat("x", 17<<10) + `"}`))
		}), 400, "BadParameter"},
		"import-blob-other-version": {blob(func(m map[string]any) { m["schema_version"] = "2.0.0" }), 400, "BadParameter"},
		"import-blob-other-enc":     {blob(func(m map[string]any) { m["header"].(map[string]any)["enc"] = "A256GCM" }), 400, "BadParameter"},
		"import-blob-no-kid":        {blob(func(m map[string]any) { m["header"].(map[string]any)["kid"] = "canary" }), 400, "BadParameter"},
		"import-blob-unknown-kid": {blob(func(m map[string]any) {
			m["header"].(map[string]any)["kid"] = "https://x/keys/none/" + strings.Repeat("0", 32)
		}), 400, "BadParameter"},
		"import-blob-damaged": {blob(func(m map[string]any) { m["ciphertext"] = "AAAA" + m["ciphertext"].(string)[4:] }), 400, "BadParameter"},
		"import-blob-padded":  {blob(func(m map[string]any) { m["ciphertext"] = m["ciphertext"].(string) + "=" }), 400, "BadParameter"},
	} {
		t.Run(name, func(t *testing.T) {
			before := f.snapshot()
			w := f.do(test.request)
			if code, message := refusal(t, name, w, test.status); code != test.code {
				t.Errorf("code %s, want %s: %s", code, test.code, message)
			}
			if f.snapshot() != before {
				t.Error("the refusal changed the store")
			}
			golden(t, name, test.request, w)
		})
	}
}

func unb64(t testing.TB, s string) []byte {
	t.Helper()
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// byok is a transfer file for a key of the HSM, as a tool outside makes it.
func (f *fixture) byok(t testing.TB, kek string, target []byte) map[string]any {
	t.Helper()
	var made struct{ Key struct{ Kid, N string } }
	w := f.do(request{method: "GET", path: "/keys/" + kek})
	if err := json.Unmarshal(w.Body.Bytes(), &made); err != nil || w.Code != 200 {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	public := engine.Public{N: new(big.Int).SetBytes(unb64(t, made.Key.N)), E: 65537}
	between := make([]byte, 32)
	if _, err := rand.Read(between); err != nil {
		t.Fatal(err)
	}
	first, err := rsa.EncryptOAEP(sha1.New(), rand.Reader, &rsa.PublicKey{N: public.N, E: public.E}, between, nil)
	if err != nil {
		t.Fatal(err)
	}
	wrapper, err := subtle.NewKWP(between)
	if err != nil {
		t.Fatal(err)
	}
	second, err := wrapper.Wrap(target)
	if err != nil {
		t.Fatal(err)
	}
	return map[string]any{"schema_version": "1.0.0", "header": map[string]any{"kid": made.Key.Kid, "alg": "dir", "enc": "CKM_RSA_AES_KEY_WRAP"}, "ciphertext": b64(append(first, second...)), "generator": "a test"}
}
