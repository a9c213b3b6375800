package access

import (
	"context"
	"crypto"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"
	"github.com/google/go-cmp/cmp"

	"strongroom/internal/failure"
)

// spy counts signature checks, and has generations as the keys of a remote issuer do.
type spy struct {
	oidc.KeySet
	checks atomic.Int64
	gen    atomic.Uint64
	during func() // runs in the middle of each check
}

func (s *spy) VerifySignature(ctx context.Context, jwt string) ([]byte, error) {
	s.checks.Add(1)
	if s.during != nil {
		s.during()
	}
	return s.KeySet.VerifySignature(ctx, jwt)
}

func (s *spy) generation() uint64 { return s.gen.Load() }

// spied is a verifier of one issuer, with a clock, whose signature checks are counted.
type spied struct {
	*Verifier
	keys  *spy
	now   time.Time
	token string
}

func newSpied(t testing.TB, changes map[string]any) *spied {
	t.Helper()
	key := newKey(t)
	s := &spied{now: noon, keys: &spy{KeySet: &oidc.StaticKeySet{PublicKeys: []crypto.PublicKey{key.Public()}}}, token: sign(t, jose.ES256, key, nil, claims(changes))}
	v, err := NewVerifier([]Issuer{{URL: issuerA, Keys: s.keys, Algorithms: []string{"ES256"}, Groups: true}}, func() time.Time { return s.now })
	if err != nil {
		t.Fatal(err)
	}
	s.Verifier = v
	return s
}

func (s *spied) wantChecks(t *testing.T, n int64) {
	t.Helper()
	if got := s.keys.checks.Load(); got != n {
		t.Errorf("%d signature checks, want %d", got, n)
	}
}

func TestTokenSeenBeforeCostsNoSignatureCheck(t *testing.T) {
	s := newSpied(t, map[string]any{"groups": []string{"g1"}})
	first, err := s.Verify(t.Context(), s.token, []string{resource})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		again, err := s.Verify(t.Context(), s.token, []string{"https://unrelated", resource})
		if err != nil || !cmp.Equal(first, again) {
			t.Fatalf("the second time it says %v, %v", again, err)
		}
	}
	s.wantChecks(t, 1)
}

// What is remembered is who the bearer is, and nothing that lets somebody in later or elsewhere. Covers A4.
func TestRememberedTokenIsJudgedAgain(t *testing.T) {
	exp := noon.Add(time.Hour)
	for name, c := range map[string]struct {
		now      time.Time
		audience string
		says     string
	}{
		"expired, by the skew":  {exp.Add(Skew), resource, ""},
		"expired":               {exp.Add(Skew + time.Second), resource, "expired"},
		"clock set back":        {noon.Add(-Skew - time.Second), resource, "not valid yet"},
		"another HSM":           {noon, "https://0.0.1:9444", "another resource"},
		"written another way":   {noon, "HTTPS://0.0.1:9443/", ""},
		"no audience":           {noon, "", "another resource"},
		"in the hour, no later": {exp, resource, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSpied(t, nil)
			if _, err := s.Verify(t.Context(), s.token, []string{resource}); err != nil {
				t.Fatal(err)
			}
			s.now = c.now
			caller, err := s.Verify(t.Context(), s.token, []string{c.audience})
			if c.says == "" {
				want(t, err, nil)
				s.wantChecks(t, 1)
				return
			}
			mustRefuse(t, caller, err)
			if !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %q, want a message with %q", err, c.says)
			}
			s.now = noon
			if _, err := s.Verify(t.Context(), s.token, []string{resource}); err != nil {
				t.Errorf("and then the good one is refused: %v", err)
			}
		})
	}
}

// An expiry with a fraction of a second ends where go-oidc, which sees whole seconds, ends it.
func TestRememberedTokenEndsWithItsSecond(t *testing.T) {
	s := newSpied(t, map[string]any{"exp": float64(noon.Unix()) + 10.9})
	for _, after := range []time.Duration{0, 10 * time.Second, 10*time.Second + 500*time.Millisecond} {
		s.now = noon.Add(after + Skew)
		_, remembered := s.Verify(t.Context(), s.token, []string{resource})
		fresh := newSpied(t, nil)
		fresh.keys.KeySet = s.keys.KeySet
		fresh.now = s.now
		_, whole := fresh.Verify(t.Context(), s.token, []string{resource})
		if (remembered == nil) != (whole == nil) {
			t.Errorf("%v later: remembered %v, the whole way %v", after, remembered, whole)
		}
	}
}

func TestNewKeysEndWhatOldOnesVerified(t *testing.T) {
	s := newSpied(t, nil)
	verify := func() error {
		_, err := s.Verify(t.Context(), s.token, []string{resource})
		return err
	}
	want(t, verify(), nil)
	s.keys.gen.Add(1) // read anew, and still there
	want(t, verify(), nil)
	want(t, verify(), nil)
	s.wantChecks(t, 2)
	s.keys.KeySet = &oidc.StaticKeySet{PublicKeys: []crypto.PublicKey{newKey(t).Public()}}
	s.keys.gen.Add(1)
	want(t, verify(), failure.Unauthorized)
}

// A token that is used all the time has the issuer's keys read when they are old, and ends with its key.
func TestWithdrawnKeyEndsRememberedTokens(t *testing.T) {
	b := newBench(t)
	token := sign(t, jose.ES256, b.key, map[jose.HeaderKey]any{"kid": "first"}, claims(map[string]any{"iss": b.issuer.URL, "exp": noon.Add(10 * time.Hour).Unix()}))
	verify := func() error {
		_, err := b.v.Verify(t.Context(), token, []string{resource})
		return err
	}
	want(t, verify(), nil)
	want(t, verify(), nil)
	b.publish(public(newKey(t), "second"))
	b.advance(maxKeyAge - time.Nanosecond)
	want(t, verify(), nil)
	b.wantCounts(t, 1)
	b.advance(time.Nanosecond)
	answers := b.held()
	want(t, verify(), nil) // does not wait for the reading that it starts
	close(answers)
	b.settle()
	want(t, verify(), failure.Unauthorized)
}

// Strangers cannot fill the cache, and a good token that was refused for its audience is not remembered either.
func TestRefusalsAreNotRemembered(t *testing.T) {
	s := newSpied(t, nil)
	attacker := newKey(t)
	for range 3 {
		_, err := s.Verify(t.Context(), sign(t, jose.ES256, attacker, nil, claims(nil)), []string{resource})
		want(t, err, failure.Unauthorized)
		_, err = s.Verify(t.Context(), s.token, []string{"https://other"})
		want(t, err, failure.Unauthorized)
	}
	if n := len(s.seen.young) + len(s.seen.old); n != 0 {
		t.Errorf("%d refusals are remembered", n)
	}
	s.wantChecks(t, 6)
}

func TestTokenCacheIsBounded(t *testing.T) {
	c := newTokenCache(10)
	used := idOfToken("used all the time")
	c.put(used, &remembered{})
	for i := range 1000 {
		c.put(idOfToken(fmt.Sprint(i)), &remembered{})
		if c.get(used) == nil {
			t.Fatalf("what is in use is gone after %d others", i+1)
		}
		if n := len(c.young) + len(c.old); n > 10 {
			t.Fatalf("%d entries, want at most 10", n)
		}
	}
	if c.get(idOfToken("0")) != nil {
		t.Error("what nobody used for long is still there")
	}
}

// Whoever reads the server's memory finds nobody's token in the cache.
func TestTokenCacheHoldsNoToken(t *testing.T) {
	s := newSpied(t, nil)
	if _, err := s.Verify(t.Context(), s.token, []string{resource}); err != nil {
		t.Fatal(err)
	}
	for id, r := range s.seen.young {
		text := fmt.Sprintf("%s %x %+v", id, id, *r)
		for _, part := range append(strings.Split(s.token, "."), s.token) {
			if strings.Contains(text, part) {
				t.Errorf("the cache holds %q of the token", part)
			}
		}
	}
}

// Tokens verified, dropped and pushed out at once: everybody is who his token says.
func TestTokenCacheConcurrently(t *testing.T) {
	s := newSpied(t, nil)
	s.seen = newTokenCache(4)
	key := newKey(t)
	s.keys.KeySet = &oidc.StaticKeySet{PublicKeys: []crypto.PublicKey{key.Public()}}
	var wait sync.WaitGroup
	for i := range 6 {
		name := fmt.Sprintf("principal-%d", i)
		token := sign(t, jose.ES256, key, nil, claims(map[string]any{"oid": name}))
		wait.Go(func() {
			for n := range 50 {
				if n%10 == 0 {
					s.keys.gen.Add(1)
				}
				if caller, err := s.Verify(t.Context(), token, []string{resource}); err != nil || caller.ObjectID != name {
					t.Errorf("%s is %q, %v", name, caller.ObjectID, err)
				}
			}
		})
	}
	wait.Wait()
}

func BenchmarkVerifyRemembered(b *testing.B) {
	s := newSpied(b, nil)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Verify(b.Context(), s.token, []string{resource, "https://managedhsm.azure.net"}); err != nil {
			b.Fatal(err)
		}
	}
}
