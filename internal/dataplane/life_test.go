package dataplane_test

import (
	"encoding/base64"
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
	Tags               map[string]string `json:"tags"`
	RecoveryID         string            `json:"recoveryId"`
	DeletedDate        int64             `json:"deletedDate"`
	ScheduledPurgeDate int64             `json:"scheduledPurgeDate"`
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

// page is one page of a list.
type page struct {
	Value []struct {
		Kid                string `json:"kid"`
		RecoveryID         string `json:"recoveryId"`
		DeletedDate        int64  `json:"deletedDate"`
		ScheduledPurgeDate int64  `json:"scheduledPurgeDate"`
	} `json:"value"`
	NextLink string `json:"nextLink"`
}

// The way of a key to its end as az goes it, with the api-version that its older library sends: delete answers 200
// with all that is known, purge 204 with nothing, and what follows a purge is a 404.
func TestDeletionOnTheWire(t *testing.T) {
	f := newFixture(t, "alpha")
	f.activate("alpha")
	const base, old = "https://alpha.managedhsm.localhost:8443", "api-version=7.0"
	f.do(request{method: "POST", path: "/keys/My-Key/create", body: `{"kty":"EC"}`})
	made := read[bundle](t, f.do(request{method: "POST", path: "/keys/My-Key/create", body: `{"kty":"EC","tags":{"a":"b"}}`}))
	do := func(method, path string, want int) *httptest.ResponseRecorder {
		t.Helper()
		w := f.do(request{method: method, path: path, query: old})
		if w.Code != want {
			t.Fatalf("%s %s: %d, want %d: %s", method, path, w.Code, want, w.Body)
		}
		return w
	}
	for _, via := range []*httptest.ResponseRecorder{do("DELETE", "/keys/my-key", 200), do("GET", "/deletedkeys/MY-KEY", 200)} {
		gone := read[bundle](t, via)
		if gone.Key.Kid != made.Key.Kid || gone.Tags["a"] != "b" || gone.RecoveryID != base+"/deletedkeys/My-Key" || gone.DeletedDate != f.now.Unix() || gone.ScheduledPurgeDate != f.now.Unix()+90*86400 {
			t.Errorf("the deleted key: %+v", gone)
		}
	}
	list := read[page](t, do("GET", "/deletedkeys", 200))
	if len(list.Value) != 1 || list.NextLink != "" {
		t.Fatalf("deleted keys: %+v", list)
	}
	if item := list.Value[0]; item.Kid != base+"/keys/My-Key" || item.RecoveryID != base+"/deletedkeys/My-Key" || item.DeletedDate == 0 || item.ScheduledPurgeDate == 0 {
		t.Errorf("in the list of deleted keys: %+v", item)
	}
	if w := do("GET", "/keys", 200); strings.Contains(w.Body.String(), "My-Key") || strings.Contains(w.Body.String(), "deletedDate") {
		t.Errorf("keys in use: %s", w.Body)
	}
	w := f.do(request{method: "POST", path: "/keys/my-key/create", body: `{"kty":"EC"}`})
	var refused struct {
		Error struct {
			Code       string
			InnerError struct{ Code string }
		}
	}
	if err := json.Unmarshal(w.Body.Bytes(), &refused); err != nil || w.Code != 409 || refused.Error.Code != "Conflict" || refused.Error.InnerError.Code != "ObjectIsDeletedButRecoverable" {
		t.Errorf("create over a deleted key: %s", w.Body)
	}
	back := read[bundle](t, do("POST", "/deletedkeys/my-key/recover", 200))
	if back.Key.Kid != made.Key.Kid || back.RecoveryID != "" || back.DeletedDate != 0 {
		t.Errorf("recovered: %+v", back)
	}
	do("GET", "/keys/My-Key/"+made.version(), 200)
	do("GET", "/deletedkeys/my-key", 404)
	do("DELETE", "/keys/My-Key/", 200) // with the slash that some clients add
	w = do("DELETE", "/deletedkeys/my-key", 204)
	if w.Body.Len() != 0 || w.Header().Get("Content-Type") != "application/json; charset=utf-8" {
		t.Errorf("purge: %q %v", w.Body, w.Header())
	}
	do("DELETE", "/deletedkeys/my-key", 404)
	do("POST", "/deletedkeys/my-key/recover", 404)
	do("GET", "/keys/my-key", 404)
}

// Pages of deleted keys lead to each other by links that a client gets as they are.
func TestDeletedPagesOnTheWire(t *testing.T) {
	f := newFixture(t, "alpha")
	f.activate("alpha")
	for _, name := range []string{"a", "b", "c", "d", "e"} {
		f.do(request{method: "POST", path: "/keys/" + name + "/create", body: `{"kty":"EC"}`})
		f.do(request{method: "DELETE", path: "/keys/" + name})
	}
	var got []string
	path, query := "/deletedkeys", "api-version=7.0&maxresults=2"
	for range 10 {
		list := read[page](t, f.do(request{method: "GET", path: path, query: query}))
		for _, item := range list.Value {
			got = append(got, item.Kid[strings.LastIndex(item.Kid, "/")+1:])
		}
		if list.NextLink == "" {
			break
		}
		rest, ok := strings.CutPrefix(list.NextLink, "https://alpha.managedhsm.localhost:8443")
		if path, query, _ = strings.Cut(rest, "?"); !ok || path != "/deletedkeys" {
			t.Fatalf("the next link is %s", list.NextLink)
		}
	}
	if strings.Join(got, "") != "abcde" {
		t.Errorf("the pages hold %v", got)
	}
}

// Random bytes come as base64url without padding, as many as asked for, and other ones each time.
func TestRandomOnTheWire(t *testing.T) {
	f := newFixture(t, "alpha")
	f.activate("alpha")
	seen := map[string]bool{}
	for count, body := range map[int]string{16: `{"count":16}`, 17: `{"count":17,"extra":1}`, 128: `{"count":128}`} {
		for range 2 {
			text := value(t, f.do(request{method: "POST", path: "/rng", body: body}), 200)
			random, err := base64.RawURLEncoding.DecodeString(text)
			if err != nil || len(random) != count || seen[text] {
				t.Errorf("%d bytes: got %d, seen before: %t, %v", count, len(random), seen[text], err)
			}
			seen[text] = true
		}
	}
}

// rotationPolicy is a policy as clients read it.
type rotationPolicy struct {
	ID              string `json:"id"`
	LifetimeActions []struct {
		Trigger map[string]string `json:"trigger"`
		Action  map[string]string `json:"action"`
	} `json:"lifetimeActions"`
	Attributes map[string]any `json:"attributes"`
}

// A policy and rotations by it, in the forms of az and the SDKs: the type of an action in any case, a policy that
// is not there as an empty one, removal by an empty one, and a new version that expires when the policy says.
func TestRotationOnTheWire(t *testing.T) {
	f := newFixture(t, "alpha")
	f.activate("alpha")
	made := read[bundle](t, f.do(request{method: "POST", path: "/keys/My-Key/create", body: `{"kty":"EC","tags":{"a":"b"}}`}))
	const id = "https://alpha.managedhsm.localhost:8443/keys/my-key/rotationpolicy"
	empty := func(p rotationPolicy) bool {
		return p.ID == id && p.LifetimeActions != nil && len(p.LifetimeActions) == 0 && p.Attributes != nil && len(p.Attributes) == 0
	}
	get := func() rotationPolicy {
		return read[rotationPolicy](t, f.do(request{method: "GET", path: "/keys/my-key/rotationpolicy"}))
	}
	put := func(body string) rotationPolicy {
		return read[rotationPolicy](t, f.do(request{method: "PUT", path: "/keys/my-key/rotationpolicy", body: body}))
	}
	if p := get(); !empty(p) {
		t.Errorf("before: %+v", p)
	}
	for _, kind := range []string{"Rotate", "rotate", "ROTATE"} {
		put(`{"id":"ignored","lifetimeActions":[{"trigger":{"timeAfterCreate":null,"timeBeforeExpiry":"P30D"},"action":{"type":"` + kind + `"}}],"attributes":{"expiryTime":"P90D","created":1,"updated":2}}`)
		p := get()
		if len(p.LifetimeActions) != 1 || len(p.LifetimeActions[0].Trigger) != 1 || p.LifetimeActions[0].Trigger["timeBeforeExpiry"] != "P30D" || p.LifetimeActions[0].Action["type"] != "Rotate" ||
			p.Attributes["expiryTime"] != "P90D" || p.Attributes["created"] != float64(f.now.Unix()) || p.ID != id {
			t.Errorf("type %s: %+v", kind, p)
		}
	}
	rotated := read[bundle](t, f.do(request{method: "POST", path: "/keys/my-key/rotate"}))
	if rotated.version() == made.version() || rotated.Tags["a"] != "b" || rotated.Attributes.Expires == nil || *rotated.Attributes.Expires != f.now.Unix()+90*86400 {
		t.Errorf("rotated: %+v", rotated)
	}
	if latest := read[bundle](t, f.do(request{method: "GET", path: "/keys/My-Key"})); latest.Key.Kid != rotated.Key.Kid {
		t.Errorf("the latest version is %s", latest.Key.Kid)
	}
	for _, body := range []string{`{"lifetimeActions":[],"attributes":{}}`, `{}`} {
		if p := put(body); !empty(p) || !empty(get()) {
			t.Errorf("removed by %s: %+v", body, p)
		}
	}
}
