package keys

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"strongroom/internal/engine"
	"strongroom/internal/failure"
	"strongroom/internal/store"
	"strongroom/internal/store/memory"
)

func (b *bench) policy(t testing.TB, name string, p RotationPolicy) RotationPolicy {
	t.Helper()
	set, err := b.SetRotationPolicy(t.Context(), alice, name, p)
	if err != nil {
		t.Fatalf("policy of %s: %v", name, err)
	}
	return set
}

func TestDurations(t *testing.T) {
	for text, days := range map[string]float64{
		"P90D": 90, "P3M": 90, "P1Y": 365, "P1Y10D": 375, "PT48H": 2, "P1DT12H": 1.5, "PT1M": 1. / 1440, "PT86400S": 1, "P0D": 0,
		"P1Y2M3DT4H5M6S": 365 + 60 + 3 + (4*3600+5*60+6)/86400., "P36500D": 36500, "P100Y": 36500, "PT876000H": -1, "P00090D": 90,
		"": -1, "P": -1, "PT": -1, "P1DT": -1, "90": -1, "90D": -1, "p90d": -1, "P90": -1, "P-1D": -1, "-P1D": -1, "+P1D": -1, "P1.5D": -1, "P1,5D": -1, "P4W": -1,
		"P1D1Y": -1, "P1H": -1, "PT1D": -1, " P1D": -1, "P1D ": -1, "P1D\n": -1, "P٣D": -1, "P101Y": -1, "P99999Y": -1, "P999999D": -1, "PT9999999999S": -1, "PT99999999999S": -1,
		"P100YT1S": -1, "P" + strings.Repeat("9", 1000) + "D": -1,
	} {
		got, err := parseDuration("expiryTime", text)
		switch {
		case days < 0:
			if f := wantKind(t, err, failure.BadParameter); got != 0 || !strings.HasPrefix(f.Message, "expiryTime ") {
				t.Errorf("%.20q: got %d, %s", text, got, f.Message)
			}
		case err != nil || got != int64(days*86400+0.5):
			t.Errorf("%q: got %d, %v; want %g days", text, got, err, days)
		}
	}
}

// FuzzParseDuration feeds durations from outside: what parses is within bounds.
func FuzzParseDuration(f *testing.F) {
	for _, seed := range []string{"P90D", "P3M", "PT48H", "P1Y10D", "P1Y2M3DT4H5M6S", "P", "PT", "P4W", "P1.5D"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		seconds, err := parseDuration("x", text)
		if err != nil {
			if failure.KindOf(err) != failure.BadParameter || strings.Contains(err.Error(), text) && len(text) > 8 {
				t.Errorf("%q: %v", text, err)
			}
			return
		}
		if seconds < 0 || seconds > longest || text[0] != 'P' || len(text) > 64 {
			t.Errorf("%q is %d seconds", text, seconds)
		}
	})
}

// A policy is what was last set, whoever asks; what is empty removes it.
func TestRotationPolicy(t *testing.T) {
	b := newBench(t, memory.New(), alphaID, ownDomain)
	key := b.create(t, "My-Key", CreateParams{})
	get := func(b *bench) RotationPolicy {
		t.Helper()
		p, err := b.GetRotationPolicy(t.Context(), alice, "MY-key")
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	bare := dump(t, b.store)
	if got := get(b); got != (RotationPolicy{}) {
		t.Errorf("before: %+v", got)
	}
	b.run(time.Hour)
	first := noon.Add(time.Hour)
	for i, p := range []RotationPolicy{
		{ExpiryTime: "P90D", TimeBeforeExpiry: "P30D"},
		{TimeAfterCreate: "P2M"},
		{ExpiryTime: "P28D"},
		{ExpiryTime: "P56D", TimeBeforeExpiry: "P28D"},
		{ExpiryTime: "P1Y", TimeAfterCreate: "P28D"},
	} {
		now := first.Add(time.Duration(i) * time.Hour)
		set := b.policy(t, "my-KEY", p)
		p.Created, p.Updated = first, now
		if set != p || get(b) != p || get(newBench(t, b.store, alphaID, ownDomain)) != p {
			t.Errorf("set %+v, read %+v; want %+v", set, get(b), p)
		}
		b.run(time.Hour)
	}
	if got, err := b.Get(t.Context(), alice, "my-key", ""); err != nil || !cmp.Equal(key, got, sameKeys) {
		t.Errorf("the key changed: %v", err)
	}
	// It goes and comes back with the key.
	want := get(b)
	b.remove(t, "my-key")
	if _, err := b.GetRotationPolicy(t.Context(), alice, "my-key"); failure.KindOf(err) != failure.NotFound {
		t.Errorf("the policy of a deleted key: %v", err)
	}
	if _, err := b.Recover(t.Context(), alice, "my-key"); err != nil || get(b) != want {
		t.Errorf("recovered with %+v, %v; want %+v", get(b), err, want)
	}
	for range 2 {
		if got := b.policy(t, "my-key", RotationPolicy{}); got != (RotationPolicy{}) || get(b) != got {
			t.Errorf("removed: %+v", got)
		}
	}
	after := dump(t, b.store)
	delete(after, b.servedPath())
	if diff := cmp.Diff(bare, after); diff != "" {
		t.Errorf("the removed policy left something: %s", diff)
	}
	// A purge takes it along: a new key of that name has none.
	b.policy(t, "my-key", RotationPolicy{ExpiryTime: "P90D"})
	b.remove(t, "my-key")
	if err := b.Purge(t.Context(), alice, "my-key"); err != nil {
		t.Fatal(err)
	}
	b.create(t, "my-key", CreateParams{})
	if got := get(b); got != (RotationPolicy{}) {
		t.Errorf("the purged key's policy is there: %+v", got)
	}
}

func TestRotationPolicyRefuses(t *testing.T) {
	b := newBench(t, memory.New(), alphaID, ownDomain)
	b.create(t, "k", CreateParams{})
	b.policy(t, "k", RotationPolicy{ExpiryTime: "P90D"})
	for name, row := range map[string]struct {
		policy RotationPolicy
		says   string
	}{
		"expiry below 28 days":             {RotationPolicy{ExpiryTime: "P27DT23H59M59S"}, "at least P28D"},
		"no expiry at all":                 {RotationPolicy{ExpiryTime: "P0D"}, "no time"},
		"rotation below 28 days":           {RotationPolicy{TimeAfterCreate: "P27D"}, "at least P28D"},
		"rotation at once":                 {RotationPolicy{TimeAfterCreate: "PT0S"}, "no time"},
		"both triggers":                    {RotationPolicy{ExpiryTime: "P1Y", TimeAfterCreate: "P90D", TimeBeforeExpiry: "P30D"}, "not both"},
		"before an expiry there is not":    {RotationPolicy{TimeBeforeExpiry: "P30D"}, "needs an expiryTime"},
		"a second too near to the start":   {RotationPolicy{ExpiryTime: "P90D", TimeBeforeExpiry: "P62DT1S"}, "28 days shorter"},
		"before the start":                 {RotationPolicy{ExpiryTime: "P90D", TimeBeforeExpiry: "P91D"}, "28 days shorter"},
		"at the expiry":                    {RotationPolicy{ExpiryTime: "P90D", TimeBeforeExpiry: "PT0H"}, "no time"},
		"expiry that is no duration":       {RotationPolicy{ExpiryTime: "<canary>"}, "expiryTime is not a duration"},
		"trigger that is no duration":      {RotationPolicy{TimeAfterCreate: "<canary>"}, "timeAfterCreate is not a duration"},
		"second trigger, also no duration": {RotationPolicy{ExpiryTime: "P90D", TimeBeforeExpiry: "30 days"}, "timeBeforeExpiry is not a duration"},
	} {
		unchanged(t, b.store, func() {
			_, err := b.SetRotationPolicy(t.Context(), alice, "k", row.policy)
			if f := wantKind(t, err, failure.BadParameter); !strings.Contains(f.Message, row.says) || strings.Contains(f.Message, "canary") {
				t.Errorf("%s: the message is %q, want one with %q", name, f.Message, row.says)
			}
		})
	}
	unchanged(t, b.store, func() {
		_, get := b.GetRotationPolicy(t.Context(), alice, "gone")
		_, set := b.SetRotationPolicy(t.Context(), alice, "gone", RotationPolicy{ExpiryTime: "P90D"})
		_, remove := b.SetRotationPolicy(t.Context(), alice, "gone", RotationPolicy{})
		_, rotate := b.Rotate(t.Context(), alice, "gone")
		for call, err := range map[string]error{"get": get, "set": set, "remove": remove, "rotate": rotate} {
			if f := wantKind(t, err, failure.NotFound); f.Code != "KeyNotFound" {
				t.Errorf("%s: code %s", call, f.Code)
			}
		}
	})
}

// A rotated key has a new version of the same kind, and the old ones as they were.
func TestRotate(t *testing.T) {
	for name, params := range map[string]CreateParams{
		"RSA of 3072 bits":       {Type: "RSA", Bits: 3072, Ops: []string{"sign", "verify"}},
		"P-521 with tags":        {Type: "EC", Curve: engine.P521, Tags: map[string]string{"a": "b"}},
		"a key that imports":     {Type: "RSA", Ops: []string{"import"}},
		"a window of its own":    {Type: "EC", NotBefore: ptr(noon.Add(-time.Hour)), Expires: ptr(noon.Add(-time.Minute))},
		"no operations":          {Type: "EC", Ops: []string{}},
		"expires before it does": {Type: "EC", NotBefore: ptr(noon.AddDate(1, 0, 0))},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, memory.New(), alphaID, ownDomain)
			old := b.create(t, "My-Key", params)
			unchanged(t, b.store, func() {
				_, err := b.Rotate(t.Context(), alice, "My-Key")
				if f := wantKind(t, err, failure.BadParameter); !strings.Contains(f.Message, "no rotation policy") {
					t.Errorf("without a policy: %s", f.Message)
				}
			})
			b.policy(t, "My-Key", RotationPolicy{ExpiryTime: "P1Y"})
			b.run(time.Hour)
			made, err := b.Rotate(t.Context(), alice, "mY-kEY")
			if err != nil {
				t.Fatal(err)
			}
			want := old
			want.Version, want.Public = made.Version, made.Public
			want.Created, want.Updated = noon.Add(time.Hour), noon.Add(time.Hour)
			want.NotBefore, want.Expires = nil, ptr(noon.Add(time.Hour+365*day))
			if diff := cmp.Diff(want, made, sameKeys, cmpEmptyOps); diff != "" {
				t.Errorf("the new version: %s", diff)
			}
			if made.Public.Type != old.Public.Type || made.Public.Curve != old.Public.Curve || made.Version == old.Version || cmp.Equal(made.Public, old.Public, sameKeys) ||
				old.Public.N != nil && (made.Public.N.BitLen() != old.Public.N.BitLen() || made.Public.E != old.Public.E) {
				t.Errorf("the new key is %s %s", made.Public.Type, made.Public.Curve)
			}
			for version, want := range map[string]Key{"": made, made.Version: made, old.Version: old} {
				got, err := b.Get(t.Context(), alice, "my-key", version)
				if diff := cmp.Diff(want, got, sameKeys, cmpEmptyOps); err != nil || diff != "" {
					t.Errorf("version %q (%v): %s", version, err, diff)
				}
			}
			b.policy(t, "My-Key", RotationPolicy{TimeAfterCreate: "P90D"})
			if made, err := b.Rotate(t.Context(), alice, "my-key"); err != nil || made.Expires != nil {
				t.Errorf("by a policy without an expiry: %v, %v", made.Expires, err)
			}
		})
	}
}

// Covers K11: rotation does not bring a disabled key back into use.
func TestRotateLeavesDisabledKeys(t *testing.T) {
	b := newBench(t, memory.New(), alphaID, ownDomain)
	b.create(t, "k", CreateParams{Enabled: ptr(false)})
	b.policy(t, "k", RotationPolicy{TimeAfterCreate: "P28D"})
	b.run(100 * day)
	unchanged(t, b.store, func() {
		_, err := b.Rotate(t.Context(), alice, "k")
		wantKind(t, err, failure.Disabled)
		if done := b.sweep(t); len(done.Rotated) != 0 {
			t.Errorf("rotated %+v", done.Rotated)
		}
	})
}

func TestRotationKeepsTheLimit(t *testing.T) {
	b := newBench(t, memory.New(), alphaID, ownDomain)
	b.create(t, "k", CreateParams{})
	b.policy(t, "k", RotationPolicy{TimeAfterCreate: "P28D"})
	for range MaxVersions - 1 {
		if _, err := b.Rotate(t.Context(), alice, "k"); err != nil {
			t.Fatal(err)
		}
	}
	b.run(100 * day)
	unchanged(t, b.store, func() {
		_, err := b.Rotate(t.Context(), alice, "k")
		wantKind(t, err, failure.Conflict)
		done, err := b.Sweep(t.Context())
		if failure.KindOf(err) != failure.Conflict || len(done.Rotated) != 0 {
			t.Errorf("sweep at the limit: %v, %v", done, err)
		}
	})
}

// When a key is rotated by itself: once for each time that it is due, however often and by how many servers it is
// looked at, and also when nobody looked for long.
func TestAutomaticRotation(t *testing.T) {
	exp := ptr(noon.Add(50 * day))
	for name, row := range map[string]struct {
		params CreateParams
		policy RotationPolicy
		days   map[int]int // after so many days there are so many versions
	}{
		"after making":                     {CreateParams{}, RotationPolicy{TimeAfterCreate: "P30D"}, map[int]int{29: 1, 30: 2, 59: 2, 60: 3, 89: 3, 90: 4}},
		"after making, looked at late":     {CreateParams{}, RotationPolicy{TimeAfterCreate: "P30D"}, map[int]int{300: 2, 329: 2, 330: 3}},
		"before expiry":                    {CreateParams{Expires: exp}, RotationPolicy{ExpiryTime: "P60D", TimeBeforeExpiry: "P10D"}, map[int]int{39: 1, 40: 2, 89: 2, 90: 3}},
		"before expiry, looked at late":    {CreateParams{Expires: exp}, RotationPolicy{ExpiryTime: "P60D", TimeBeforeExpiry: "P10D"}, map[int]int{70: 2, 119: 2, 120: 3}},
		"before the expiry there is not":   {CreateParams{}, RotationPolicy{ExpiryTime: "P60D", TimeBeforeExpiry: "P10D"}, map[int]int{1000: 1}},
		"no action":                        {CreateParams{Expires: exp}, RotationPolicy{ExpiryTime: "P60D"}, map[int]int{1000: 1}},
		"no policy":                        {CreateParams{Expires: exp}, RotationPolicy{}, map[int]int{1000: 1}},
		"after making, of an expired key":  {CreateParams{Expires: ptr(noon.Add(day))}, RotationPolicy{TimeAfterCreate: "P28D"}, map[int]int{27: 1, 28: 2}},
		"after making, with a life of two": {CreateParams{}, RotationPolicy{TimeAfterCreate: "P30D", ExpiryTime: "P60D"}, map[int]int{30: 2, 60: 3}},
	} {
		t.Run(name, func(t *testing.T) {
			s := memory.New()
			servers := []*bench{newBench(t, s, alphaID, ownDomain), newBench(t, s, alphaID, ownDomain)}
			servers[0].create(t, "k", row.params)
			servers[0].create(t, "bystander", CreateParams{})
			servers[0].policy(t, "k", row.policy)
			versions := 1
			for _, days := range slices.Sorted(maps.Keys(row.days)) {
				servers = append(servers, newBench(t, s, alphaID, ownDomain)) // one that just started
				var wg sync.WaitGroup
				var mu sync.Mutex
				var rotated []Key
				for _, b := range servers {
					b.at(noon.Add(time.Duration(days) * day))
					wg.Go(func() {
						for range 2 {
							done, err := b.Sweep(t.Context())
							if err != nil {
								t.Error(err)
							}
							mu.Lock()
							rotated = append(rotated, done.Rotated...)
							mu.Unlock()
						}
					})
				}
				wg.Wait()
				all, err := servers[0].everyVersion(t, "k")
				if err != nil || len(all) != row.days[days] || len(rotated) != len(all)-versions {
					t.Fatalf("after %d days: %d versions, %d said to be made, %v; want %d", days, len(all), len(rotated), err, row.days[days])
				}
				for _, key := range rotated {
					if key.Name != "k" || key.Version != all[len(all)-1].Version {
						t.Errorf("said to be made: %s %s", key.Name, key.Version)
					}
				}
				versions = len(all)
			}
			if all, err := servers[0].everyVersion(t, "bystander"); err != nil || len(all) != 1 {
				t.Errorf("the bystander has %d versions, %v", len(all), err)
			}
		})
	}
}

// Deleted keys are not rotated; recovered, they are.
func TestRotationSkipsDeletedKeys(t *testing.T) {
	b := newBench(t, memory.New(), alphaID, ownDomain)
	b.create(t, "k", CreateParams{})
	b.policy(t, "k", RotationPolicy{TimeAfterCreate: "P30D"})
	b.remove(t, "k")
	b.run(40 * day)
	if done := b.sweep(t); len(done.Rotated) != 0 {
		t.Errorf("rotated %+v", done.Rotated)
	}
	if _, err := b.Recover(t.Context(), alice, "k"); err != nil {
		t.Fatal(err)
	}
	if done := b.sweep(t); len(done.Rotated) != 1 {
		t.Errorf("recovered, it is not rotated: %+v", done)
	}
}

// Rotation against rotation, update, new versions and delete: every rotation that was answered is there, in order.
func TestConcurrentRotation(t *testing.T) {
	b := newBench(t, memory.New(), alphaID, ownDomain)
	b.create(t, "k", CreateParams{})
	b.policy(t, "k", RotationPolicy{ExpiryTime: "P90D", TimeBeforeExpiry: "P30D"})
	var (
		mu   sync.Mutex
		made []string
		wg   sync.WaitGroup
	)
	for i := range 8 {
		wg.Go(func() {
			for range 3 {
				key, err := b.Rotate(t.Context(), alice, "k")
				if err != nil {
					t.Errorf("rotate: %v", err)
					return
				}
				mu.Lock()
				made = append(made, key.Version)
				mu.Unlock()
				if _, err := b.Update(t.Context(), alice, "k", "", UpdateParams{Tags: map[string]string{"by": fmt.Sprint(i)}}); err != nil {
					t.Errorf("update: %v", err)
				}
			}
		})
	}
	wg.Wait()
	all, err := b.everyVersion(t, "k")
	if err != nil || len(all) != 25 {
		t.Fatalf("%d versions, %v", len(all), err)
	}
	got := versions(all)[1:]
	slices.Sort(got)
	slices.Sort(made)
	if !slices.Equal(got, made) {
		t.Error("the versions are not those that were answered")
	}
}

// Covers K4: a policy set back to an earlier one, or one that was removed, is noticed, record by record.
func TestReplayedPolicies(t *testing.T) {
	b := newBench(t, memory.New(), alphaID, ownDomain)
	b.create(t, "k", CreateParams{})
	var states []map[string]string
	for _, p := range []RotationPolicy{{}, {ExpiryTime: "P90D"}, {TimeAfterCreate: "P30D"}, {}} {
		b.run(time.Hour)
		b.policy(t, "k", p)
		states = append(states, dump(t, b.store))
	}
	tried := 0
	for newest, state := range states {
		overwrite(t, b.store, state)
		want, err := b.GetRotationPolicy(t.Context(), alice, "k")
		if err != nil {
			t.Fatal(err)
		}
		for then := range states {
			for _, path := range []string{b.policyPath("k"), b.keyPath("k")} {
				replayed := maps.Clone(state)
				delete(replayed, path)
				if old, had := states[then][path]; had {
					replayed[path] = old
				}
				if maps.Equal(replayed, state) {
					continue
				}
				overwrite(t, b.store, replayed)
				tried++
				got, err := b.GetRotationPolicy(t.Context(), alice, "k")
				_, rotate := b.Rotate(t.Context(), alice, "k")
				if failure.KindOf(err) != failure.Tampered && (err != nil || got != want) || err != nil && failure.KindOf(rotate) != failure.Tampered {
					t.Errorf("state %d with %s of state %d: %+v, %v; rotate: %v", newest, path, then, got, err, rotate)
				}
			}
		}
	}
	if tried < 16 {
		t.Errorf("only %d replays were tried", tried)
	}
	// Properly made, and against the rules: whoever could write that has the domain's keys, and is not believed even so.
	overwrite(t, b.store, states[1])
	err := b.store.Update(t.Context(), func(w store.Writer) error {
		rec, err := b.loadKey(t.Context(), b.engine, w, "k")
		if err != nil {
			return err
		}
		if rec.Policy, err = put(t.Context(), b.engine, w, b.policyPath("k"), policyRecord{TimeAfterCreate: "PT1S"}); err != nil {
			return err
		}
		_, err = put(t.Context(), b.engine, w, b.keyPath("k"), rec)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	_, rotate := b.Rotate(t.Context(), alice, "k")
	wantKind(t, rotate, failure.Tampered)
}
