package identity

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"strongroom/internal/record"
)

// outcomes is a recorder that keeps what it is given.
type outcomes []record.Call

func (*outcomes) Intent(context.Context, *record.Call) error { return nil }

func (o *outcomes) Outcome(_ context.Context, c *record.Call) error {
	*o = append(*o, *c)
	return nil
}

// noRandomness panics where randomness is asked for, which is when the application is known and its token is made.
type noRandomness struct{}

func (noRandomness) Read([]byte) (int, error) { panic("canary") }

// Covers L1, R4: a request for a token that panics is recorded before anybody answers it, with who asked, and the panic
// goes on to the server; one for a document, which has no record, does not get one.
func TestAPanicIsRecorded(t *testing.T) {
	f := newFixture(t)
	var kept outcomes
	f.issuer.Record(&kept)
	f.issuer.cfg.Rand = noRandomness{}
	caught := func(method, path, body string) (p any) {
		r := httptest.NewRequest(method, f.server.URL+path, strings.NewReader(body))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		defer func() { p = recover() }()
		f.issuer.Handler().ServeHTTP(httptest.NewRecorder(), r)
		return nil
	}
	if p := caught(http.MethodPost, "/"+tenant+"/oauth2/v2.0/token", f.form(nil).Encode()); p != "canary" {
		t.Errorf("the server is left with %v", p)
	}
	if len(kept) != 1 || kept[0].Operation != "IssueToken" || kept[0].Status != 500 || kept[0].Code != "InternalServerError" || kept[0].Caller.ObjectID != f.app.ObjectID || kept[0].Request == "" {
		t.Errorf("recorded: %+v", kept)
	}
	f.issuer.cfg.BaseURLs = nil
	if p := caught(http.MethodGet, "/"+tenant+"/v2.0/.well-known/openid-configuration", ""); p == nil {
		t.Error("a document of a server without an address is answered")
	}
	if len(kept) != 1 {
		t.Errorf("what tells everybody the same is recorded: %+v", kept)
	}
}
