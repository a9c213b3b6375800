package dataplane_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"strongroom/internal/engine"
	"strongroom/internal/engine/enginetest"
)

// jsonOf encodes the request of an operation.
func jsonOf(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(b)
}

// attempt does one operation over HTTP with values that suit the algorithm. What decryption and verification get
// comes from encryption and signing with the same key, where that works.
func (f *fixture) attempt(name, operation string, a enginetest.Algorithm) *httptest.ResponseRecorder {
	f.t.Helper()
	input := bytes.Repeat([]byte{0xa5}, a.Input)
	post := func(operation string, members map[string]any) *httptest.ResponseRecorder {
		members["alg"] = a.Name
		return f.do(request{method: "POST", path: "/keys/" + name + "/" + strings.ToLower(operation), body: jsonOf(members), token: f.bearer()})
	}
	var out struct{ Value, IV, Tag string }
	first := map[string]any{"value": b64(input)}
	if a.IV {
		first["iv"] = b64(bytes.Repeat([]byte{1}, engine.CBCIVSize))
	}
	switch operation {
	case "sign", "encrypt", "wrapKey":
		return post(operation, first)
	case "verify":
		_ = json.Unmarshal(post("sign", first).Body.Bytes(), &out)
		if out.Value == "" {
			out.Value = b64(make([]byte, 64))
		}
		return post(operation, map[string]any{"digest": b64(input), "value": out.Value})
	}
	_ = json.Unmarshal(post(map[string]string{"decrypt": "encrypt", "unwrapKey": "wrapKey"}[operation], first).Body.Bytes(), &out)
	second := map[string]any{"value": b64(make([]byte, 32))}
	if out.Value != "" {
		second["value"] = out.Value
	}
	for name, value := range map[string]string{"iv": out.IV, "tag": out.Tag} {
		if value != "" {
			second[name] = value
		}
	}
	return post(operation, second)
}

// bearer is one token for a whole test, because signing one costs as much as what is tested.
func (f *fixture) bearer() string {
	if f.admin == "" {
		f.admin = f.token(nil)
	}
	return f.admin
}

// Covers K2 on the wire: every kind of key, every algorithm, every operation. What the table of algorithms has answers
// 200 and comes back as it was; everything else is a refusal in Azure's form, and nothing is changed.
func TestMatrixOnTheWire(t *testing.T) {
	f := newFixture(t, "alpha")
	f.activate("alpha")
	works, refused := 0, 0
	for i, spec := range enginetest.Keys {
		name := fmt.Sprint("key-", i)
		create := map[string]any{"kty": string(spec.Type)}
		if spec.Bits != 0 {
			create["key_size"] = spec.Bits
		}
		if spec.Curve != "" {
			create["crv"] = spec.Curve
		}
		if w := f.do(request{method: "POST", path: "/keys/" + name + "/create", body: jsonOf(create)}); w.Code != 200 {
			t.Fatalf("create %+v: %d %s", spec, w.Code, w.Body)
		}
		before := f.snapshot()
		for _, a := range enginetest.Table() {
			for _, operation := range enginetest.Operations {
				what := fmt.Sprintf("%s with %q on %s%s of %d bits", operation, a.Name, spec.Type, spec.Curve, spec.Bits)
				w := f.attempt(name, operation, a)
				var out struct {
					Value json.RawMessage
					Error struct{ Code, Message string }
				}
				if err := json.Unmarshal(w.Body.Bytes(), &out); err != nil {
					t.Fatalf("%s: %d %s", what, w.Code, w.Body)
				}
				if a.Fits(spec, operation) && a.Name != engine.RSA15 {
					works++
					want := map[string]string{"verify": "true", "decrypt": `"` + b64(bytes.Repeat([]byte{0xa5}, a.Input)) + `"`}
					want["unwrapKey"] = want["decrypt"]
					if w.Code != 200 || len(out.Value) < 4 || want[operation] != "" && string(out.Value) != want[operation] {
						t.Errorf("%s: %d %s", what, w.Code, w.Body)
					}
					continue
				}
				refused++
				code := "BadParameter"
				if a.Fits(spec, operation) {
					code = "NotSupported" // RSA1_5, which no setting allows here
				}
				if w.Code != 400 || out.Error.Code != code || out.Value != nil || strings.Contains(out.Error.Message, "canary") {
					t.Errorf("%s: %d %s, want 400 %s", what, w.Code, w.Body, code)
				}
			}
		}
		if f.snapshot() != before {
			t.Errorf("the store changed while %s was used", name)
		}
	}
	t.Logf("%d cells work, %d are refused", works, refused)
	if works == 0 || refused < works {
		t.Error("the table is not what it should be")
	}
}

// Covers K2, K11 on the wire: a key in a state that forbids its use answers 403 to each operation that the state
// forbids, under every spelling of its path, and does the others.
func TestStatesOnTheWire(t *testing.T) {
	f := newFixture(t, "alpha")
	f.activate("alpha")
	past, soon := f.now.Add(-1000*time.Second).Unix(), f.now.Add(1000*time.Second).Unix()
	algorithms := map[string]map[bool]enginetest.Algorithm{ // by type, and whether it signs
		"RSA": {false: {Name: "RSA-OAEP", Input: 16}, true: {Name: "RS256", Input: 32}},
		"EC":  {true: {Name: "ES256", Input: 32}},
		"oct": {false: {Name: "A256CBCPAD", Input: 16, IV: true}, true: {Name: "HS256", Input: 32}},
	}
	for state, row := range map[string]struct {
		change map[string]any
		// finishes: what was begun before can still be finished.
		finishes bool
	}{
		"disabled":      {map[string]any{"attributes": map[string]any{"enabled": false}}, false},
		"not yet valid": {map[string]any{"attributes": map[string]any{"nbf": soon}}, true},
		"expired":       {map[string]any{"attributes": map[string]any{"exp": past}}, true},
		"no operation":  {map[string]any{"key_ops": []string{}}, false},
	} {
		for kty, by := range algorithms {
			name := strings.ReplaceAll(state, " ", "-") + "-" + kty
			made := read[bundle](t, f.do(request{method: "POST", path: "/keys/" + name + "/create", body: jsonOf(map[string]any{"kty": kty})}))
			finish := map[string]map[string]any{}
			for _, operation := range enginetest.Operations {
				a, has := by[operation == "sign" || operation == "verify"]
				if !has {
					continue
				}
				members := map[string]any{"alg": a.Name, "value": b64(bytes.Repeat([]byte{0xa5}, a.Input))}
				if a.IV {
					members["iv"] = b64(make([]byte, engine.CBCIVSize))
				}
				finish[operation] = members
			}
			for there, back := range map[string]string{"sign": "verify", "encrypt": "decrypt", "wrapKey": "unwrapKey"} {
				if finish[there] == nil {
					continue
				}
				result := read[struct{ Value string }](t, f.do(request{method: "POST", path: "/keys/" + name + "/" + strings.ToLower(there), body: jsonOf(finish[there])}))
				if back == "verify" {
					finish[back]["digest"] = finish[there]["value"]
				}
				finish[back]["value"] = result.Value
			}
			if w := f.do(request{method: "PATCH", path: "/keys/" + name, body: jsonOf(row.change)}); w.Code != 200 {
				t.Fatalf("%s: %d %s", name, w.Code, w.Body)
			}
			before := f.snapshot()
			for operation, members := range finish {
				begins := operation == "sign" || operation == "encrypt" || operation == "wrapKey"
				for _, path := range []string{"/keys/" + name + "/", "/keys/" + strings.ToUpper(name) + "//", "/keys/" + name + "/" + made.version() + "/"} {
					w := f.do(request{method: "POST", path: path + strings.ToLower(operation), body: jsonOf(members), token: f.bearer()})
					if row.finishes && !begins {
						if w.Code != 200 {
							t.Errorf("%s, %s%s: %d %s, want 200", state, path, operation, w.Code, w.Body)
						}
					} else if w.Code != 403 || errorOf(t, w) == "" || strings.Contains(w.Body.String(), `"value"`) {
						t.Errorf("%s, %s%s: %d %s, want 403", state, path, operation, w.Code, w.Body)
					}
				}
			}
			if f.snapshot() != before {
				t.Errorf("%s: the store changed", name)
			}
		}
	}
}
