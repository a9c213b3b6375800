package identity

import (
	"encoding/json"
	"errors"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"strongroom/internal/access"
	"strongroom/internal/failure"
	"strongroom/internal/store"
	"strongroom/secret"
)

// token signs in with a secret.
func (f *fixture) token(t *testing.T, s secret.Bytes) string {
	t.Helper()
	got := f.post(t, "/oauth2/token", f.form(url.Values{"client_secret": {string(s.Reveal())}}))
	raw, _ := got.body["access_token"].(string)
	if got.status != 200 || raw == "" {
		t.Fatalf("signing in: %d %s", got.status, got.raw)
	}
	return raw
}

// Two servers over one store. What happens to an application on the first ends its tokens on both, whether they were
// seen there before or not; those of another application are not touched.
func TestRevocation(t *testing.T) {
	good := func(err error) bool { return err == nil }
	refused := func(err error) bool { return errors.Is(err, failure.Unauthorized) }
	for name, c := range map[string]struct {
		do    func(f *fixture) error
		after func(error) bool
		says  string
	}{
		"deleted": {func(f *fixture) error { return f.issuer.DeleteApplication(t.Context(), f.app.ClientID) }, refused, "deleted"},
		"a new secret": {func(f *fixture) error {
			_, err := f.issuer.ResetSecret(t.Context(), f.app.ClientID, false)
			return err
		}, good, ""},
		"a new secret, tokens called back": {func(f *fixture) error {
			_, err := f.issuer.ResetSecret(t.Context(), f.app.ClientID, true)
			return err
		}, refused, "called back"},
		"nothing": {func(*fixture) error { return nil }, good, ""},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			other, otherSecret, err := f.issuer.AddApplication(t.Context(), "other")
			if err != nil {
				t.Fatal(err)
			}
			here, there := f.verifier(t, f.issuer), f.verifier(t, f.open(t))
			mine, fresh := f.token(t, f.secret), f.token(t, f.secret)
			got := f.post(t, "/oauth2/token", f.form(url.Values{"client_id": {other.ClientID}, "client_secret": {string(otherSecret.Reveal())}}))
			others := got.body["access_token"].(string)
			verify := func(v *access.Verifier, raw string) error {
				_, err := v.Verify(t.Context(), raw, []string{resource})
				return err
			}
			for _, v := range []*access.Verifier{here, there} {
				for _, raw := range []string{mine, others} {
					if err := verify(v, raw); err != nil {
						t.Fatal(err)
					}
				}
			}
			if err := c.do(f); err != nil {
				t.Fatal(err)
			}
			for where, v := range map[string]*access.Verifier{"here": here, "there": there} {
				for what, raw := range map[string]string{"seen before": mine, "never seen": fresh} {
					if err := verify(v, raw); !c.after(err) || err != nil && !strings.Contains(err.Error(), c.says) {
						t.Errorf("%s, a token %s: %v", where, what, err)
					}
				}
				if err := verify(v, others); err != nil {
					t.Errorf("%s, the token of another application: %v", where, err)
				}
			}
		})
	}
}

// A token of the new secret is good in the same second in which the old ones were called back, and however often: it is
// a count that decides, and no clock.
func TestNewTokensAreGoodAtOnce(t *testing.T) {
	f := newFixture(t)
	v := f.verifier(t, f.issuer)
	var old []string
	s := f.secret
	for range 3 {
		raw := f.token(t, s)
		if _, err := v.Verify(t.Context(), raw, []string{resource}); err != nil {
			t.Fatalf("after %d rounds: %v", len(old), err)
		}
		for _, o := range old {
			if _, err := v.Verify(t.Context(), o, []string{resource}); !errors.Is(err, failure.Unauthorized) {
				t.Errorf("an old token: %v, want Unauthorized", err)
			}
		}
		old = append(old, raw)
		f.clock.Add(-3600) // a clock set back brings none of them back
		var err error
		if s, err = f.issuer.ResetSecret(t.Context(), f.app.ClientID, true); err != nil {
			t.Fatal(err)
		}
		f.clock.Add(3600)
	}
}

// A server whose news of the store does not come through any more asks for itself.
func TestRevocationWithoutNews(t *testing.T) {
	f := newFixture(t)
	deaf := f.open(t)
	v := f.verifier(t, deaf)
	raw := f.token(t, f.secret)
	if _, err := v.Verify(t.Context(), raw, []string{resource}); err != nil {
		t.Fatal(err)
	}
	deaf.Close()
	if err := f.issuer.DeleteApplication(t.Context(), f.app.ClientID); err != nil {
		t.Fatal(err)
	}
	f.clock.Add(60)
	if _, err := v.Verify(t.Context(), raw, []string{resource}); !errors.Is(err, failure.Unauthorized) {
		t.Errorf("a minute later: %v, want Unauthorized", err)
	}
}

// A database that cannot be read, or a record that was changed, makes no token good.
func TestUnknownStandingIsNoStanding(t *testing.T) {
	f := newFixture(t)
	v := f.verifier(t, f.issuer)
	raw := f.token(t, f.secret)
	verify := func() error {
		_, err := v.Verify(t.Context(), raw, []string{resource})
		return err
	}
	if err := verify(); err != nil {
		t.Fatal(err)
	}
	err := f.store.Update(t.Context(), func(w store.Writer) error {
		w.Put(appPrefix+f.app.ClientID, []byte("rubbish"))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := verify(); !errors.Is(err, failure.Tampered) {
		t.Errorf("a changed record: %v, want Tampered", err)
	}
	f.issuer.changed([]string{appPrefix})
	_ = f.store.Close()
	if err := verify(); !errors.Is(err, failure.Unavailable) {
		t.Errorf("a closed database: %v, want Unavailable", err)
	}
}

// The record of version 2 is spelled out in a file, and what version 1 wrote becomes one when it is changed.
func TestVersionTwoRecords(t *testing.T) {
	golden, err := os.ReadFile("testdata/application-v2.json")
	if err != nil {
		t.Fatal(err)
	}
	f := newFixture(t)
	const clientID = "11111111-1111-4111-8111-111111111111"
	put := func(text []byte) {
		sealed, _ := f.seal.Wrap(secret.New(text), appPrefix+clientID)
		if err := f.store.Update(t.Context(), func(w store.Writer) error { w.Put(appPrefix+clientID, sealed); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	read := func() (rec map[string]any) {
		var sealed []byte
		_ = f.store.View(t.Context(), func(r store.Reader) error { sealed, _ = r.Get(appPrefix + clientID); return nil })
		text, err := f.seal.Unwrap(sealed, appPrefix+clientID)
		if err != nil || json.Unmarshal(text.Reveal(), &rec) != nil {
			t.Fatalf("the record does not open: %v", err)
		}
		return rec
	}
	put(golden)
	got, err := f.issuer.FindApplication(t.Context(), "CI-2")
	want := App{ClientID: clientID, ObjectID: "22222222-2222-4222-8222-222222222222", Name: "ci-2",
		Created: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), SecretCreated: time.Date(2026, 2, 3, 4, 5, 6, 0, time.UTC)}
	if err != nil || got != want {
		t.Errorf("got %+v, %v; want %+v", got, err, want)
	}
	signedIn := f.post(t, "/oauth2/token", f.form(url.Values{"client_id": {clientID}, "client_secret": {"srs_test"}}))
	raw, _ := signedIn.body["access_token"].(string)
	if n := claimsOf(t, raw)["series"]; n != 3.0 {
		t.Errorf("its tokens are of series %v, want 3", n)
	}
	var names []string
	if _, err := f.issuer.ResetSecret(t.Context(), clientID, false); err != nil {
		t.Fatal(err)
	}
	var goldenRecord map[string]any
	if err := json.Unmarshal(golden, &goldenRecord); err != nil {
		t.Fatal(err)
	}
	written := read()
	for name := range goldenRecord {
		if _, there := written[name]; !there {
			names = append(names, name)
		}
	}
	if len(written) != len(goldenRecord) || len(names) > 0 || written["v"] != 2.0 || written["series"] != 3.0 {
		t.Errorf("written as %v, which lacks %v of the golden record", written, names)
	}
	old, err := os.ReadFile("testdata/application-v1.json")
	if err != nil {
		t.Fatal(err)
	}
	put(old)
	if _, err := f.issuer.ResetSecret(t.Context(), clientID, true); err != nil {
		t.Fatal(err)
	}
	if rec := read(); rec["v"] != 2.0 || rec["series"] != 1.0 || rec["created"] != "2026-01-02T03:04:05Z" {
		t.Errorf("a record of version 1 became %v", rec)
	}
	put([]byte(strings.Replace(string(golden), `"v":2`, `"v":3`, 1)))
	if _, err := f.issuer.FindApplication(t.Context(), clientID); !errors.Is(err, failure.Unsupported) {
		t.Errorf("version 3: %v, want Unsupported", err)
	}
}

func TestFindApplication(t *testing.T) {
	f := newFixture(t)
	for _, by := range []string{"ci", "Ci", f.app.ClientID, strings.ToUpper(f.app.ClientID)} {
		if got, err := f.issuer.FindApplication(t.Context(), by); err != nil || !cmp.Equal(got, f.app) {
			t.Errorf("by %q: %v, %v", by, got, err)
		}
	}
	for _, by := range []string{"", "c", f.app.ObjectID} {
		if _, err := f.issuer.FindApplication(t.Context(), by); !errors.Is(err, failure.NotFound) {
			t.Errorf("by %q: %v, want NotFound", by, err)
		}
	}
	if _, _, err := f.issuer.AddApplication(t.Context(), f.app.ClientID); !errors.Is(err, failure.BadParameter) {
		t.Errorf("a name that is a client ID: %v, want BadParameter", err)
	}
}
