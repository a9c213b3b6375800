package dataplane_test

import (
	"io"
	"strings"
	"testing"
	"time"

	"strongroom/internal/dataplane"
	"strongroom/internal/limit"
)

// during is a body during whose reading something happens.
type during struct {
	io.Reader
	happens func()
}

func (d *during) Read(p []byte) (int, error) {
	if d.happens != nil {
		d.happens()
		d.happens = nil
	}
	return d.Reader.Read(p)
}

// Covers A8: a token that stops to count while a body arrives does not count when the operation begins.
func TestTokenThatEndsWhileTheBodyArrives(t *testing.T) {
	f := newFixture(t, "alpha")
	f.activate("alpha")
	body := `{"kty":"EC"}`
	send := func(name string, happens func()) int {
		w := f.do(request{method: "POST", path: "/keys/" + name + "/create", body: body, chunked: &during{strings.NewReader(body), happens}})
		if w.Code == 401 && w.Header().Get("WWW-Authenticate") == "" {
			t.Error("401 without a challenge")
		}
		return w.Code
	}
	if got := send("first", func() { f.now = f.now.Add(50 * time.Minute) }); got != 200 {
		t.Errorf("within its time: %d", got)
	}
	if got := send("second", func() { f.now = f.now.Add(70 * time.Minute) }); got != 401 {
		t.Errorf("expired while the body arrived: %d", got)
	}
	if w := f.do(request{method: "GET", path: "/keys/second"}); w.Code != 404 {
		t.Errorf("it was made all the same: %d", w.Code)
	}
}

// Covers R4: large bodies are read a few at a time, so that whoever sends many does not fill the memory, with a right or without.
func TestLargeBodiesAreReadAFewAtATime(t *testing.T) {
	f := newFixture(t, "alpha")
	f.activate("alpha")
	limits := limit.New(limit.Config{Uploads: 4}, time.Now)
	f.configure(func(c *dataplane.Config) { c.Limits = limits })
	restore := func(happens func()) int {
		w := f.do(request{method: "POST", path: "/keys/restore", body: "{}", chunked: &during{strings.NewReader(`{"value":""}`), happens}})
		if w.Code == 503 && errorOf(t, w) != "ServerBusy" {
			t.Errorf("refused with %s", w.Body)
		}
		return w.Code
	}
	inner := 0
	outer := restore(func() { inner = restore(nil) })
	if outer != 400 || inner != 503 {
		t.Errorf("one within the other: %d and %d, want 400 and 503", outer, inner)
	}
	if got := restore(nil); got != 400 {
		t.Errorf("after them: %d", got)
	}
	if done, err := limits.Upload("somebody else"); err != nil {
		t.Errorf("a place was not given back: %v", err)
	} else {
		done()
	}
	if w := f.do(request{method: "POST", path: "/keys/restore", body: `{"value":""}`}); w.Code != 400 {
		t.Errorf("a small one: %d", w.Code)
	}
}
