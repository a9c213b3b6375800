package dataplane_test

import (
	"encoding/json"
	"net/http/httptest"
	"strings"
	"testing"
)

// bundle is a key as clients read it, deleted or not.
type bundle struct {
	Key struct {
		Kid    string   `json:"kid"`
		Kty    string   `json:"kty"`
		KeyOps []string `json:"key_ops"`
	} `json:"key"`
	Attributes struct {
		Enabled         bool   `json:"enabled"`
		NotBefore       *int64 `json:"nbf"`
		Expires         *int64 `json:"exp"`
		Created         int64  `json:"created"`
		Updated         int64  `json:"updated"`
		RecoveryLevel   string `json:"recoveryLevel"`
		RecoverableDays int    `json:"recoverableDays"`
	} `json:"attributes"`
	Tags map[string]string `json:"tags"`
}

func (b bundle) version() string { return b.Key.Kid[strings.LastIndex(b.Key.Kid, "/")+1:] }

// read decodes an answer of 200 into T.
func read[T any](t testing.TB, w *httptest.ResponseRecorder) (v T) {
	t.Helper()
	if w.Code != 200 {
		t.Fatalf("status %d, want 200: %s", w.Code, w.Body)
	}
	if err := json.Unmarshal(w.Body.Bytes(), &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// A key's attributes change in the forms that the stock clients send: az patches the latest version with a
// trailing slash, SDKs send back the whole attributes that they were given.
func TestUpdateOnTheWire(t *testing.T) {
	f := newFixture(t, "alpha")
	f.activate("alpha")
	made := read[bundle](t, f.do(request{method: "POST", path: "/keys/k/create", body: `{"kty":"EC","tags":{"a":"b"},"attributes":{"nbf":1700000000}}`}))
	for _, step := range []struct {
		path, body string
		check      func(b bundle) bool
	}{
		{"/keys/k/", `{"attributes":{"enabled":false}}`, func(b bundle) bool { return !b.Attributes.Enabled && b.Tags["a"] == "b" && len(b.Key.KeyOps) == 2 }},
		{"/keys/K", `{"key_ops":["verify"],"tags":{}}`, func(b bundle) bool {
			return !b.Attributes.Enabled && len(b.Tags) == 0 && len(b.Key.KeyOps) == 1
		}},
		{"/keys/k/" + made.version(), `{"attributes":{"enabled":true,"nbf":null,"exp":4000000000,"created":5,"updated":6,"recoveryLevel":"Purgeable","recoverableDays":0,"exportable":false}}`, func(b bundle) bool {
			a := b.Attributes
			return a.Enabled && *a.NotBefore == 1700000000 && *a.Expires == 4000000000 && a.Created == made.Attributes.Created && a.RecoverableDays == 90 && a.RecoveryLevel == "Recoverable+Purgeable"
		}},
		{"/keys/k", `{}`, func(b bundle) bool { return b.Attributes.Enabled && len(b.Key.KeyOps) == 1 }},
	} {
		got := read[bundle](t, f.do(request{method: "PATCH", path: step.path, body: step.body}))
		if !step.check(got) || got.Key.Kid != made.Key.Kid {
			t.Errorf("PATCH %s %s: %+v", step.path, step.body, got)
		}
		if stored := read[bundle](t, f.do(request{method: "GET", path: "/keys/k"})); !step.check(stored) {
			t.Errorf("GET after %s: %+v", step.body, stored)
		}
	}
}
