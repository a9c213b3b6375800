package identity

import (
	"bytes"
	"encoding/base64"
	"errors"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"strongroom/internal/failure"
	"strongroom/internal/store"
	"strongroom/internal/store/memory"
)

// signIns are the keys of all records of sign-ins.
func (f *fixture) signIns(t *testing.T) (keys []string) {
	t.Helper()
	err := f.store.View(t.Context(), func(r store.Reader) error {
		for key := range r.Scan(refreshPrefix, "") {
			keys = append(keys, key)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

// refresh presents a refresh token, with changes to the request.
func (f *fixture) refresh(t *testing.T, token string, changes url.Values) reply {
	t.Helper()
	return f.post(t, "/adfs/oauth2/token", refreshForm(token, changes))
}

// renewed presents a refresh token that is good, and returns the next.
func (f *fixture) renewed(t *testing.T, token string) string {
	t.Helper()
	got := f.refresh(t, token, nil)
	if got.status != 200 || got.text("refresh_token") == "" || got.text("refresh_token") == token {
		t.Fatalf("refreshing: %d %s", got.status, got.raw)
	}
	return got.text("refresh_token")
}

func (f *fixture) wantDead(t *testing.T, what, token string) {
	t.Helper()
	f.issuer.failing = newFailures(f.now)
	if got := f.refresh(t, token, nil); got.status != 400 || got.body["error"] != "invalid_grant" || got.text("access_token") != "" {
		t.Errorf("%s: %d %s, want 400 invalid_grant", what, got.status, got.raw)
	}
}

// One sign-in gets tokens for one resource after the other, under whatever name of the issuer, on whatever server of it.
func TestRefreshTokens(t *testing.T) {
	f := newFixture(t)
	anna := f.person(t, "anna")
	generation := f.issuer.Generation()
	token := f.login(t, anna).text("refresh_token")
	if f.issuer.Generation() != generation {
		t.Error("a sign-in has all remembered tokens judged anew")
	}
	for _, path := range []string{"/adfs/oauth2/token", "/oauth2/token", "/" + tenant + "/oauth2/v2.0/token"} {
		f.issuer = f.open(t) // a restart, or another server
		f.server.Config.Handler = f.issuer.Handler()
		got := f.post(t, path, refreshForm(token, url.Values{"client_id": {strings.ToUpper(azClient)}}))
		if got.status != 200 || got.text("id_token") == "" || got.text("client_info") == "" {
			t.Fatalf("%s: %d %s", path, got.status, got.raw)
		}
		caller, err := f.verifier(t, f.issuer).Verify(t.Context(), got.text("access_token"), []string{"https://other.example"})
		if err != nil || caller.ObjectID != anna.ObjectID || caller.AppID != azClient {
			t.Errorf("caller is %+v, %v", caller, err)
		}
		token = got.text("refresh_token")
	}
	// Without offline_access the next one comes too: the one that was sent is used up.
	if got := f.refresh(t, token, url.Values{"scope": {resource + "/.default"}}); got.text("refresh_token") == "" || got.text("id_token") != "" {
		t.Errorf("for a bare scope: %d %v", got.status, got.body["error"])
	}
	if n := len(f.signIns(t)); n != 1 {
		t.Errorf("one sign-in has %d records", n)
	}
	if strings.Contains(f.log.String(), token) || strings.Contains(f.log.String(), "srr_") {
		t.Error("a refresh token is in the log")
	}
}

// A refresh token that was used and comes again ends its sign-in, for the thief and for the client, and no other one.
func TestUsedRefreshTokensEndTheSignIn(t *testing.T) {
	f := newFixture(t)
	f.stopped = time.Now()
	anna := f.person(t, "anna")
	calls := &calls{}
	f.issuer.Record(calls)
	for name, steps := range map[string]struct{ renewals, later int }{
		"used a while ago":                  {1, 30},
		"used twice over, a while ago":      {2, 30},
		"used just now, with many after it": {maxUsed + 1, 0},
	} {
		t.Run(name, func(t *testing.T) {
			first, other := f.login(t, anna).text("refresh_token"), f.login(t, anna).text("refresh_token")
			last := first
			for range steps.renewals {
				last = f.renewed(t, last)
			}
			f.clock.Add(int64(steps.later))
			*calls = nil
			f.log.Reset()
			f.wantDead(t, "the used token", first)
			if got := (*calls)[0]; got.Caller.ObjectID != anna.ObjectID || got.Caller.AppID != azClient || got.Code != "invalid_grant" {
				t.Errorf("recorded as %+v", got)
			}
			if !strings.Contains(f.log.String(), "level=WARN") || !strings.Contains(f.log.String(), anna.ObjectID) {
				t.Errorf("the log says %q", f.log)
			}
			f.wantDead(t, "the newest token", last)
			f.renewed(t, other)
		})
	}
}

// Clients that used one token at the same moment get an access token each, and one of them the next refresh token. The
// grace is over with the seconds, for each by itself: one that is slow may come after the next was used.
func TestRefreshTokensAtTheSameMoment(t *testing.T) {
	f := newFixture(t)
	f.stopped = time.Now()
	anna := f.person(t, "anna")
	token := f.login(t, anna).text("refresh_token")
	var all sync.WaitGroup
	answers := make([]reply, 8)
	for n := range answers {
		all.Go(func() { answers[n] = f.refresh(t, token, nil) })
	}
	all.Wait()
	next := ""
	for n, a := range answers {
		if a.status != 200 || a.text("access_token") == "" {
			t.Errorf("answer %d: %d %s", n, a.status, a.raw)
		}
		if a.text("refresh_token") != "" {
			if next != "" {
				t.Error("two refresh tokens for one")
			}
			next = a.text("refresh_token")
		}
	}
	f.clock.Add(29)
	if got := f.refresh(t, token, nil); got.status != 200 || got.text("refresh_token") != "" {
		t.Errorf("29 seconds later: %d %v", got.status, got.body["error"])
	}
	second := next
	next = f.renewed(t, second)
	for _, used := range []string{token, second} {
		if got := f.refresh(t, used, nil); got.status != 200 || got.text("access_token") == "" || got.text("refresh_token") != "" {
			t.Errorf("used a moment ago: %d %v", got.status, got.body["error"])
		}
	}
	f.clock.Add(1)
	if got := f.refresh(t, second, nil); got.status != 200 {
		t.Errorf("the second, a second after its use: %d %v", got.status, got.body["error"])
	}
	f.wantDead(t, "the first token", token)
	f.wantDead(t, "the newest token", next)
}

// Covers A5: what is no refresh token, or not this client's, changes nothing.
func TestRefusedRefreshes(t *testing.T) {
	f := newFixture(t)
	anna, bert := f.person(t, "anna"), f.person(t, "bert")
	token := f.login(t, anna).text("refresh_token")
	others := f.login(t, bert).text("refresh_token")
	raw, _ := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(token, refreshMark))
	otherRaw, _ := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(others, refreshMark))
	encode := func(parts ...[]byte) string {
		return refreshMark + base64.RawURLEncoding.EncodeToString(slices.Concat(parts...))
	}
	for name, c := range map[string]struct {
		change url.Values
		code   string
	}{
		"none":                         {url.Values{"refresh_token": nil}, "invalid_grant"},
		"a password":                   {url.Values{"refresh_token": {string(anna.password.Reveal())}}, "invalid_grant"},
		"cut short":                    {url.Values{"refresh_token": {token[:len(token)-1]}}, "invalid_grant"},
		"with a line end":              {url.Values{"refresh_token": {token[:len(token)-1] + "\n"}}, "invalid_grant"},
		"without its prefix":           {url.Values{"refresh_token": {token[4:]}}, "invalid_grant"},
		"spelled otherwise":            {url.Values{"refresh_token": {token[:len(token)-1] + otherSpelling(token[len(token)-1])}}, "invalid_grant"},
		"a family that is not there":   {url.Values{"refresh_token": {encode(raw[:16], bytes.Repeat([]byte{1}, 16), raw[32:])}}, "invalid_grant"},
		"a family of another":          {url.Values{"refresh_token": {encode(raw[:16], otherRaw[16:])}}, "invalid_grant"},
		"nobody's":                     {url.Values{"refresh_token": {encode(bytes.Repeat([]byte{1}, 16), raw[16:])}}, "invalid_grant"},
		"another client's":             {url.Values{"client_id": {"99999999-1111-4111-8111-111111111111"}}, "invalid_grant"},
		"an application's":             {url.Values{"client_id": {f.app.ClientID}}, "invalid_grant"},
		"an application's with secret": {url.Values{"client_id": {f.app.ClientID}, "client_secret": {string(f.secret.Reveal())}}, "invalid_request"},
		"no client":                    {url.Values{"client_id": nil}, "invalid_request"},
		"two":                          {url.Values{"refresh_token": {token, others}}, "invalid_request"},
		"no scope":                     {url.Values{"scope": nil}, "invalid_scope"},
		"two scopes":                   {url.Values{"scope": {"https://a/.default https://b/.default"}}, "invalid_scope"},
	} {
		t.Run(name, func(t *testing.T) {
			f.issuer.failing = newFailures(f.now)
			got := f.refresh(t, token, c.change)
			if got.status != 400 || got.body["error"] != c.code || got.text("access_token") != "" {
				t.Errorf("got %d %s, want 400 %s", got.status, got.raw, c.code)
			}
		})
	}
	f.renewed(t, token)
	f.renewed(t, others)

	f.issuer.failing = newFailures(f.now)
	for n := range maxFailures + 1 {
		want := 400
		if n == maxFailures {
			want = 429
		}
		if got := f.refresh(t, encode(raw[:16], bytes.Repeat([]byte{byte(n)}, 48)), nil); got.status != want {
			t.Errorf("unknown token %d: got %d, want %d", n+1, got.status, want)
		}
	}
}

// otherSpelling is another last character of base64 that a careless decoder takes for the same.
func otherSpelling(last byte) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	return string(alphabet[strings.IndexByte(alphabet, last)|1])
}

// A sign-in lasts twelve hours however often it is renewed, and what is over goes out of the database: with the next
// sign-in of the user, and of all users once an hour.
func TestSignInsEnd(t *testing.T) {
	f := newFixture(t)
	f.stopped = time.Now()
	anna, bert := f.person(t, "anna"), f.person(t, "bert")
	token, forgotten := f.login(t, anna).text("refresh_token"), f.login(t, bert).text("refresh_token")
	for range 11 {
		f.clock.Add(3600)
		token = f.renewed(t, token)
	}
	f.clock.Add(3599)
	token = f.renewed(t, token)
	f.clock.Add(1)
	f.wantDead(t, "after twelve hours", token)
	if n := len(f.signIns(t)); n != 1 {
		t.Errorf("%d records after one sign-in was refused for its age, want bert's alone", n)
	}
	f.login(t, anna)
	keys := f.signIns(t)
	if len(keys) != 1 || !strings.HasPrefix(keys[0], refreshPrefix+anna.ObjectID) {
		t.Errorf("after a sign-in there are %v", keys)
	}
	f.wantDead(t, "swept", forgotten)
}

// The twenty-first sign-in of a user ends the oldest one, and no other user's.
func TestSignInsAreBounded(t *testing.T) {
	f := newFixture(t)
	f.stopped = time.Now()
	anna, bert := f.person(t, "anna"), f.person(t, "bert")
	others := f.login(t, bert).text("refresh_token")
	var tokens []string
	for range maxSignIns + 2 {
		f.clock.Add(1)
		tokens = append(tokens, f.login(t, anna).text("refresh_token"))
	}
	if n := len(f.signIns(t)); n != maxSignIns+1 {
		t.Errorf("%d records, want %d and one of bert's", n, maxSignIns)
	}
	f.wantDead(t, "the oldest", tokens[0])
	f.wantDead(t, "the second", tokens[1])
	f.renewed(t, tokens[2])
	f.renewed(t, others)
}

// The writer to the database, and the reader of it.
func TestSignInsAtRest(t *testing.T) {
	f := newFixture(t)
	anna := f.person(t, "anna")
	first := f.login(t, anna).text("refresh_token")
	key := f.signIns(t)[0]
	read := func() (value []byte) {
		_ = f.store.View(t.Context(), func(r store.Reader) error { value, _ = r.Get(key); return nil })
		return value
	}
	write := func(value []byte) {
		if err := f.store.Update(t.Context(), func(w store.Writer) error { w.Put(key, value); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	raw, _ := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(first, refreshMark))
	if plain := f.read(t, key); bytes.Contains(plain, []byte(first)) || bytes.Contains(plain, raw[32:]) || bytes.Contains(plain, []byte(base64.StdEncoding.EncodeToString(raw[32:]))) {
		t.Error("the refresh token itself is in its record")
	}
	old := read()
	write([]byte("rubbish"))
	if got := f.refresh(t, first, nil); got.status != 500 || got.body["error"] != "server_error" {
		t.Errorf("a changed record: %d %s, want 500 server_error", got.status, got.raw)
	}
	f.log.Reset()
	f.login(t, anna) // takes it away, and says so
	if len(f.signIns(t)) != 1 || !strings.Contains(f.log.String(), "level=ERROR") {
		t.Errorf("a changed record stays, or nobody is told: %s", f.log)
	}
	// An old record that is put back brings nothing back that was called back, nor somebody who was deleted.
	write(old)
	if _, err := f.issuer.ResetPassword(t.Context(), "anna", true); err != nil {
		t.Fatal(err)
	}
	write(old)
	f.wantDead(t, "put back after tokens were called back", first)
	if err := f.issuer.DeleteUser(t.Context(), "anna"); err != nil {
		t.Fatal(err)
	}
	f.person(t, "anna")
	write(old)
	f.wantDead(t, "put back for another user of the name", first)
	if n := len(f.signIns(t)); n != 0 {
		t.Errorf("%d records are left", n)
	}
}

// A full disk gives no token, and takes none away.
func TestFullDiskWhileSigningIn(t *testing.T) {
	f := newFixture(t)
	anna := f.person(t, "anna")
	token := f.login(t, anna).text("refresh_token")
	disk := f.store.(*memory.Store)
	disk.Inject(memory.Fault{At: 1, Forever: true})
	for what, form := range map[string]url.Values{"signing in": passwordForm(anna, nil), "refreshing": refreshForm(token, nil)} {
		if got := f.post(t, "/adfs/oauth2/token", form); got.status != 503 || got.text("access_token") != "" {
			t.Errorf("%s: %d %s, want 503", what, got.status, got.raw)
		}
	}
	if got := f.post(t, "/adfs/oauth2/token", passwordForm(anna, url.Values{"scope": {resource + "/.default"}})); got.status != 200 {
		t.Errorf("signing in without a refresh token, which writes nothing: %d", got.status)
	}
	disk.Inject(memory.Fault{})
	f.renewed(t, token)
}

// A password that is replaced between its check and the sign-in's record gets no refresh token.
func TestSignInRacesWithANewPassword(t *testing.T) {
	f := newFixture(t)
	anna := f.person(t, "anna")
	for name, change := range map[string]func() error{
		"a new password": func() error { _, err := f.issuer.ResetPassword(t.Context(), "anna", true); return err },
		"deleted":        func() error { return f.issuer.DeleteUser(t.Context(), "anna") },
	} {
		t.Run(name, func(t *testing.T) {
			e, _, err := f.issuer.signIn(t.Context(), users, "anna", anna.password)
			if err != nil {
				t.Fatal(err)
			}
			if err := change(); err != nil {
				t.Fatal(err)
			}
			if _, ok, err := f.issuer.beginSignIn(t.Context(), e, azClient); ok || err != nil {
				t.Errorf("got %v, %v; want no token and no error", ok, err)
			}
			if n := len(f.signIns(t)); n != 0 {
				t.Errorf("%d records", n)
			}
			_ = f.issuer.DeleteUser(t.Context(), "anna")
			*anna = *f.person(t, "anna")
		})
	}
}

// A token has one spelling, and nothing else is one.
func FuzzRefreshToken(f *testing.F) {
	f.Add("")
	f.Add(refreshMark)
	f.Add(refreshMark + strings.Repeat("A", 86))
	f.Add(refreshMark + strings.Repeat("_", 86))
	f.Add(refreshMark + strings.Repeat("A", 85) + "\n")
	f.Fuzz(func(t *testing.T, text string) {
		token, ok := parseRefreshToken(text)
		if ok != (token.secret.Len() == secretBytes) {
			t.Fatalf("%q: ok %v with a secret of %d bytes", text, ok, token.secret.Len())
		}
		if ok && (token.text() != text || len(token.key()) != len(refreshPrefix)+36+1+36) {
			t.Fatalf("%q is read as %q, with the key %s", text, token.text(), token.key())
		}
	})
}

// Two servers over one store. What happens to a user on the first ends the tokens on both, refresh tokens too, whether
// they were seen there before or not; those of another user, and of an application, are not touched. Covers A8.
func TestRevocationOfUsers(t *testing.T) {
	good := func(err error) bool { return err == nil }
	refused := func(err error) bool { return errors.Is(err, failure.Unauthorized) }
	for name, c := range map[string]struct {
		do    func(f *fixture) error
		after func(error) bool
		says  string
	}{
		"deleted": {func(f *fixture) error { return f.issuer.DeleteUser(t.Context(), "anna") }, refused, "the user that the token was issued to has been deleted"},
		"deleted, and another of the name made": {func(f *fixture) error {
			if err := f.issuer.DeleteUser(t.Context(), "anna"); err != nil {
				return err
			}
			_, _, err := f.issuer.AddUser(t.Context(), "anna")
			return err
		}, refused, "deleted"},
		"a new password": {func(f *fixture) error {
			_, err := f.issuer.ResetPassword(t.Context(), "anna", false)
			return err
		}, good, ""},
		"a new password, tokens called back": {func(f *fixture) error {
			_, err := f.issuer.ResetPassword(t.Context(), "anna", true)
			return err
		}, refused, "the tokens of this user have been called back; sign in again, with the new password"},
		"nothing": {func(*fixture) error { return nil }, good, ""},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			anna, bert := f.person(t, "Anna"), f.person(t, "bert")
			here, there := f.verifier(t, f.issuer), f.verifier(t, f.open(t))
			seen, fresh, others := f.login(t, anna), f.login(t, anna), f.login(t, bert)
			app := f.token(t, f.secret)
			check := func(where string, raw string) error {
				v := here
				if where == "there" {
					v = there
				}
				_, err := v.Verify(t.Context(), raw, []string{resource})
				return err
			}
			for _, where := range []string{"here", "there"} {
				for _, raw := range []string{seen.text("access_token"), others.text("access_token"), app} {
					if err := check(where, raw); err != nil {
						t.Fatal(err)
					}
				}
			}
			if err := c.do(f); err != nil {
				t.Fatal(err)
			}
			for _, where := range []string{"here", "there"} {
				for what, raw := range map[string]string{"seen before": seen.text("access_token"), "never seen": fresh.text("access_token")} {
					if err := check(where, raw); !c.after(err) || err != nil && !strings.Contains(err.Error(), c.says) {
						t.Errorf("%s, a token %s: %v", where, what, err)
					}
				}
				for what, raw := range map[string]string{"another user": others.text("access_token"), "an application": app} {
					if err := check(where, raw); err != nil {
						t.Errorf("%s, the token of %s: %v", where, what, err)
					}
				}
			}
			mine := 0
			for _, key := range f.signIns(t) {
				if strings.HasPrefix(key, refreshPrefix+anna.ObjectID+"/") {
					mine++
				}
			}
			if want := map[bool]int{true: 2, false: 0}[c.after(nil)]; mine != want {
				t.Errorf("%d sign-ins are in the database, want %d", mine, want)
			}
			f.server.Config.Handler = f.open(t).Handler()
			if c.after(nil) {
				f.renewed(t, seen.text("refresh_token"))
			} else {
				f.wantDead(t, "the refresh token", seen.text("refresh_token"))
			}
			f.renewed(t, others.text("refresh_token"))
		})
	}
}

// A server whose news of the store does not come through any more asks for itself, of users too.
func TestRevocationOfUsersWithoutNews(t *testing.T) {
	f := newFixture(t)
	anna := f.person(t, "anna")
	deaf := f.open(t)
	v := f.verifier(t, deaf)
	raw := f.login(t, anna).text("access_token")
	verify := func() error {
		_, err := v.Verify(t.Context(), raw, []string{resource})
		return err
	}
	if err := verify(); err != nil {
		t.Fatal(err)
	}
	deaf.Close()
	if err := f.issuer.DeleteUser(t.Context(), "anna"); err != nil {
		t.Fatal(err)
	}
	f.clock.Add(int64(time.Minute / time.Second))
	if err := verify(); !errors.Is(err, failure.Unauthorized) {
		t.Errorf("a minute later: %v, want Unauthorized", err)
	}
}
