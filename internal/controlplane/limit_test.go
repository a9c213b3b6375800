package controlplane

import (
	"bytes"
	"log/slog"
	"testing"
	"time"

	"strongroom/internal/limit"
)

// Whoever asks too often is told when to come back, and others do not notice.
func TestRateLimit(t *testing.T) {
	f, now := newFixture(t), noon
	f.plane.cfg.Limits = limit.New(limit.Config{Rate: 1, Burst: 2}, func() time.Time { return now })
	list := func(token string) int {
		t.Helper()
		r := f.send(token, "GET", hsms+version, "")
		if r.status == 429 && (r.header.Get("Retry-After") != "1" || r.errorCode(t) != "TooManyRequests") {
			t.Errorf("429 without a time or code: %v %s", r.header, r.raw)
		}
		return r.status
	}
	for i, want := range []int{200, 200, 429} {
		if got := list("alice"); got != want {
			t.Errorf("request %d: %d, want %d", i+1, got, want)
		}
	}
	if got := list("bob"); got != 403 {
		t.Errorf("somebody else: %d", got)
	}
	if got := f.send("alice", "DELETE", hsms+"/alpha"+version, "").status; got != 429 || len(f.service.calls) != 0 {
		t.Errorf("a change beyond the rate: %d, done: %q", got, f.service.calls)
	}
	if got := f.send("alice", "GET", "/subscriptions/nowhere/else", "").status; got != 429 {
		t.Errorf("a path that is none, beyond the rate: %d", got)
	}
	now = now.Add(time.Second)
	if got := list("alice"); got != 200 {
		t.Errorf("a second later: %d", got)
	}
}

// A stranger does not fill the log, whatever is wrong with what it sends; who is known is in it.
func TestStrangersAreNotLogged(t *testing.T) {
	var out bytes.Buffer
	f := newFixture(t)
	f.plane.cfg.Log = slog.New(slog.NewTextHandler(&out, nil))
	for _, r := range []reply{
		f.send("", "GET", hsms+version, ""),
		f.send("nobody", "GET", hsms+version, ""),
		f.send("", "GET", "/subscriptions/../x", ""),
		f.send("", "GET", hsms+version+"&a=1&a=2", ""),
		f.send("", "PATCH", "/metadata/endpoints", ""),
	} {
		if r.status < 400 {
			t.Errorf("a stranger is answered %d", r.status)
		}
	}
	if out.Len() > 0 {
		t.Errorf("strangers are logged:\n%s", &out)
	}
	if f.send("bob", "GET", hsms+version, ""); !bytes.Contains(out.Bytes(), []byte("AuthorizationFailed")) {
		t.Errorf("a refusal of somebody known is not logged: %q", &out)
	}
}
