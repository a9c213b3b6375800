package access

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"strongroom/internal/failure"
)

// register is an issuer's memory of what was called back.
type register struct {
	generation atomic.Uint64
	asked      atomic.Int64
	err        error
	last       Issued
}

func (r *register) Generation() uint64 { return r.generation.Load() }
func (r *register) Check(_ context.Context, t Issued) error {
	r.asked.Add(1)
	r.last = t
	return r.err
}

// newStanding is a verifier of one issuer that can call tokens back.
func newStanding(t testing.TB, changes map[string]any) (*spied, *register) {
	t.Helper()
	s, r := newSpied(t, changes), &register{}
	v, err := NewVerifier([]Issuer{{URL: issuerA, Keys: s.keys, Algorithms: []string{"ES256"}, Standing: r}}, func() time.Time { return s.now })
	if err != nil {
		t.Fatal(err)
	}
	s.Verifier = v
	return s, r
}

func (s *spied) verify(t testing.TB) error {
	t.Helper()
	_, err := s.Verify(t.Context(), s.token, []string{resource})
	return err
}

// A token that is called back stops with the news of it, though it is remembered, and within a minute without. What was
// not called back costs no second signature check, and nothing at all while there is no news.
func TestTokensThatAreCalledBackStop(t *testing.T) {
	gone := failure.New(failure.Unauthorized, "called back")
	t.Run("with the news", func(t *testing.T) {
		s, r := newStanding(t, nil)
		want(t, s.verify(t), nil)
		r.err = gone
		r.generation.Add(1)
		err := s.verify(t)
		want(t, err, failure.Unauthorized)
		if !strings.Contains(err.Error(), "called back") {
			t.Errorf("it says %q, not why", err)
		}
		r.err = nil // and comes back, which no issuer of ours does
		want(t, s.verify(t), nil)
	})
	t.Run("without the news", func(t *testing.T) {
		s, r := newStanding(t, nil)
		want(t, s.verify(t), nil)
		r.err = gone
		s.now = noon.Add(standingAge - time.Second)
		want(t, s.verify(t), nil)
		s.now = noon.Add(time.Minute)
		want(t, s.verify(t), failure.Unauthorized)
	})
	t.Run("clock set back", func(t *testing.T) {
		s, r := newStanding(t, nil)
		want(t, s.verify(t), nil)
		r.err = gone
		s.now = noon.Add(-time.Second)
		want(t, s.verify(t), failure.Unauthorized)
	})
	t.Run("others", func(t *testing.T) {
		s, r := newStanding(t, nil)
		for range 5 {
			want(t, s.verify(t), nil)
		}
		if n := r.asked.Load(); n != 1 {
			t.Errorf("asked %d times without any news, want once", n)
		}
		r.generation.Add(1)
		for range 5 {
			want(t, s.verify(t), nil)
		}
		s.now = noon.Add(standingAge)
		for range 5 {
			want(t, s.verify(t), nil)
		}
		if n := r.asked.Load(); n != 3 {
			t.Errorf("asked %d times, want once at first, once for the news, once for its age", n)
		}
		s.wantChecks(t, 1)
	})
	t.Run("news while it is asked", func(t *testing.T) {
		s, r := newStanding(t, nil)
		s.keys.during = func() { r.generation.Add(1) } // after the verifier has looked, the answer may be old
		want(t, s.verify(t), nil)
		r.err = gone
		r.generation.Add(1)
		want(t, s.verify(t), failure.Unauthorized)
	})
	t.Run("nobody knows", func(t *testing.T) {
		s, r := newStanding(t, nil)
		want(t, s.verify(t), nil)
		r.err = failure.New(failure.Unavailable, "the database is shut")
		r.generation.Add(1)
		want(t, s.verify(t), failure.Unavailable)
	})
}

func TestSeriesIsRead(t *testing.T) {
	for name, c := range map[string]struct {
		claim any
		want  uint64
		ok    bool
	}{
		"none":     {nil, 0, true},
		"zero":     {0, 0, true},
		"seven":    {7, 7, true},
		"largest":  {uint64(maxSeries), maxSeries, true},
		"larger":   {uint64(maxSeries) + 1, 0, false},
		"negative": {-1, 0, false},
		"fraction": {1.5, 0, false},
		"text":     {"7", 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			changes := map[string]any{"appid": "app-1"}
			if c.claim != nil {
				changes["series"] = c.claim
			}
			s, r := newStanding(t, changes)
			err := s.verify(t)
			if (err == nil) != c.ok {
				t.Fatalf("got %v", err)
			}
			if err != nil {
				want(t, err, failure.Unauthorized)
				return
			}
			if wanted := (Issued{AppID: "app-1", Series: c.want}); r.last != wanted {
				t.Errorf("asked about %+v, want %+v", r.last, wanted)
			}
		})
	}
}

// A token says which user it is of, by the name and the object ID, where it says that it is a user's. What it says half,
// is no answer.
func TestUserIsRead(t *testing.T) {
	for name, c := range map[string]struct {
		changes map[string]any
		want    Issued
		ok      bool
	}{
		"an application's":       {map[string]any{"idtyp": "app", "upn": "anna"}, Issued{AppID: "app-1"}, true},
		"of no kind":             {map[string]any{"upn": "anna"}, Issued{AppID: "app-1"}, true},
		"a user's":               {map[string]any{"idtyp": "user", "upn": "anna", "oid": "o-1"}, Issued{AppID: "app-1", User: "anna", ObjectID: "o-1"}, true},
		"a user's without name":  {map[string]any{"idtyp": "user", "oid": "o-1"}, Issued{}, false},
		"a user's without ID":    {map[string]any{"idtyp": "user", "upn": "anna", "oid": nil}, Issued{}, false},
		"a user of a number":     {map[string]any{"idtyp": "user", "upn": 1, "oid": "o-1"}, Issued{}, false},
		"the kind is no text":    {map[string]any{"idtyp": true, "upn": "anna", "oid": "o-1"}, Issued{}, false},
		"the kind is empty text": {map[string]any{"idtyp": "", "upn": "anna", "oid": "o-1"}, Issued{}, false},
	} {
		t.Run(name, func(t *testing.T) {
			c.changes["appid"] = "app-1"
			s, r := newStanding(t, c.changes)
			err := s.verify(t)
			if (err == nil) != c.ok {
				t.Fatalf("got %v", err)
			}
			if err != nil {
				want(t, err, failure.Unauthorized)
			} else if r.last != c.want {
				t.Errorf("asked about %+v, want %+v", r.last, c.want)
			}
		})
	}
}

// An issuer without a memory of its own is not asked for one, whatever its tokens claim.
func TestSeriesOfOthersMeansNothing(t *testing.T) {
	s := newSpied(t, map[string]any{"series": "first"})
	want(t, s.verify(t), nil)
}

func TestStandingIsAskedAfterTheSignature(t *testing.T) {
	s, r := newStanding(t, nil)
	s.token = sign(t, jose.ES256, newKey(t), nil, claims(nil))
	if err := s.verify(t); !errors.Is(err, failure.Unauthorized) || r.asked.Load() != 0 {
		t.Errorf("a forged token: %v, asked %d times", err, r.asked.Load())
	}
}
