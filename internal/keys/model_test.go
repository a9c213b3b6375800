package keys

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"strongroom/internal/failure"
	"strongroom/internal/store/memory"
)

// modelKey is what a key should be.
type modelKey struct {
	name     string
	versions []Key
	policy   string // ExpiryTime
}

// Random sequences of everything that can be done with keys over two HSMs of one domain, beside a map.
func TestModel(t *testing.T) {
	type hsm struct {
		*bench
		keys    map[string]*modelKey
		deleted map[string]*modelKey
	}
	type saved struct {
		blob []byte
		key  modelKey
	}
	rapid.Check(t, func(rt *rapid.T) {
		shared := memory.New()
		hsms := []*hsm{
			{newBench(t, shared, alphaID, ownDomain), map[string]*modelKey{}, map[string]*modelKey{}},
			{newBench(t, shared, betaID, ownDomain), map[string]*modelKey{}, map[string]*modelKey{}},
		}
		var backups []saved
		ctx := t.Context()
		pick := rapid.SampledFrom(hsms)
		name := rapid.SampledFrom([]string{"a", "A", "b", "B-b", "b-B", "c"})
		rt.Repeat(map[string]func(*rapid.T){
			"create": func(rt *rapid.T) {
				h, n := pick.Draw(rt, "hsm"), name.Draw(rt, "name")
				p := CreateParams{Type: "EC", Enabled: ptr(rapid.Bool().Draw(rt, "enabled"))}
				if rapid.Bool().Draw(rt, "tagged") {
					p.Tags = map[string]string{"t": n}
				}
				made, err := h.Create(ctx, alice, n, p)
				if h.deleted[strings.ToLower(n)] != nil {
					if failure.KindOf(err) != failure.Conflict {
						rt.Fatalf("create over the deleted %s: %v", n, err)
					}
					return
				}
				if err != nil {
					rt.Fatalf("create %s: %v", n, err)
				}
				lower := strings.ToLower(n)
				if h.keys[lower] == nil {
					h.keys[lower] = &modelKey{name: n}
				}
				k := h.keys[lower]
				if made.Name != k.name || made.Enabled != *p.Enabled || !cmp.Equal(made.Tags, p.Tags) {
					rt.Fatalf("create %s made %+v", n, made)
				}
				k.versions = append(k.versions, made)
			},
			"get": func(rt *rapid.T) {
				h, n := pick.Draw(rt, "hsm"), name.Draw(rt, "name")
				k := h.keys[strings.ToLower(n)]
				if k == nil {
					if _, err := h.Get(ctx, alice, n, ""); failure.KindOf(err) != failure.NotFound {
						rt.Fatalf("get %s, which does not exist: %v", n, err)
					}
					return
				}
				want := rapid.SampledFrom(k.versions).Draw(rt, "version")
				got, err := h.Get(ctx, alice, n, want.Version)
				if diff := cmp.Diff(want, got, sameKeys); err != nil || diff != "" {
					rt.Fatalf("get %s (%v): %s", n, err, diff)
				}
				policy, err := h.GetRotationPolicy(ctx, alice, n)
				if err != nil || policy.ExpiryTime != k.policy {
					rt.Fatalf("policy of %s: %+v, %v; want %s", n, policy, err, k.policy)
				}
				latest, err := h.Get(ctx, alice, n, "")
				if err != nil || latest.Version != k.versions[len(k.versions)-1].Version {
					rt.Fatalf("get the latest %s: %s, %v", n, latest.Version, err)
				}
				_, err = h.Sign(ctx, alice, n, want.Version, "ES256", digest())
				if (err == nil) != want.Enabled {
					rt.Fatalf("sign with %s, enabled %t: %v", n, want.Enabled, err)
				}
			},
			"list": func(rt *rapid.T) {
				h, max := pick.Draw(rt, "hsm"), rapid.IntRange(1, 4).Draw(rt, "max")
				var lowers, want, got []string
				for lower := range h.keys {
					lowers = append(lowers, lower)
				}
				slices.Sort(lowers)
				for _, lower := range lowers {
					want = append(want, h.keys[lower].name)
				}
				for token := ""; ; {
					page, err := h.List(ctx, alice, token, max)
					if err != nil {
						rt.Fatal(err)
					}
					got = append(got, names(page.Items)...)
					if token = page.Next; token == "" {
						break
					}
				}
				if !slices.Equal(got, want) {
					rt.Fatalf("list: %v, want %v", got, want)
				}
				page, err := h.ListDeleted(ctx, alice, "", 0)
				if err != nil || len(page.Items) != len(h.deleted) {
					rt.Fatalf("deleted: %v, %v; want %d", names(page.Items), err, len(h.deleted))
				}
				for _, item := range page.Items {
					if k := h.deleted[strings.ToLower(item.Name)]; k == nil || k.name != item.Name {
						rt.Fatalf("%s is said to be deleted", item.Name)
					}
				}
				for _, k := range h.keys {
					all, err := h.everyVersion(t, k.name)
					var want []string
					for _, v := range k.versions {
						want = append(want, v.Version)
					}
					if err != nil || !slices.Equal(versions(all), want) {
						rt.Fatalf("versions of %s: %v, %v; want %v", k.name, versions(all), err, want)
					}
				}
			},
			"update": func(rt *rapid.T) {
				h, n := pick.Draw(rt, "hsm"), name.Draw(rt, "name")
				p := UpdateParams{Enabled: ptr(rapid.Bool().Draw(rt, "enabled"))}
				if rapid.Bool().Draw(rt, "tagged") {
					p.Tags = map[string]string{"u": n}
				}
				k := h.keys[strings.ToLower(n)]
				if k == nil {
					if _, err := h.Update(ctx, alice, n, "", p); failure.KindOf(err) != failure.NotFound {
						rt.Fatalf("update of %s, which does not exist: %v", n, err)
					}
					return
				}
				want := &k.versions[rapid.IntRange(0, len(k.versions)-1).Draw(rt, "version")]
				got, err := h.Update(ctx, alice, n, want.Version, p)
				want.Enabled = *p.Enabled
				if p.Tags != nil {
					want.Tags = p.Tags
				}
				if diff := cmp.Diff(*want, got, sameKeys); err != nil || diff != "" {
					rt.Fatalf("update %s (%v): %s", n, err, diff)
				}
			},
			"policy": func(rt *rapid.T) {
				h, n := pick.Draw(rt, "hsm"), name.Draw(rt, "name")
				p := RotationPolicy{ExpiryTime: rapid.SampledFrom([]string{"", "P90D", "P1Y"}).Draw(rt, "expiry")}
				k := h.keys[strings.ToLower(n)]
				set, err := h.SetRotationPolicy(ctx, alice, n, p)
				if k == nil {
					if failure.KindOf(err) != failure.NotFound {
						rt.Fatalf("policy of %s, which does not exist: %v", n, err)
					}
					return
				}
				if err != nil || set.ExpiryTime != p.ExpiryTime {
					rt.Fatalf("policy of %s: %+v, %v", n, set, err)
				}
				k.policy = p.ExpiryTime
			},
			"rotate": func(rt *rapid.T) {
				h, n := pick.Draw(rt, "hsm"), name.Draw(rt, "name")
				k := h.keys[strings.ToLower(n)]
				made, err := h.Rotate(ctx, alice, n)
				want := failure.Kind("")
				switch {
				case k == nil:
					want = failure.NotFound
				case k.policy == "":
					want = failure.BadParameter
				case !k.versions[len(k.versions)-1].Enabled:
					want = failure.Disabled
				}
				if want != "" {
					if failure.KindOf(err) != want {
						rt.Fatalf("rotate %s: %v, want %s", n, err, want)
					}
					return
				}
				latest := k.versions[len(k.versions)-1]
				if err != nil || made.Version == latest.Version || made.Expires == nil || !cmp.Equal(made.Tags, latest.Tags) {
					rt.Fatalf("rotate %s: %+v, %v", n, made, err)
				}
				k.versions = append(k.versions, made)
			},
			"delete": func(rt *rapid.T) {
				h, n := pick.Draw(rt, "hsm"), name.Draw(rt, "name")
				lower := strings.ToLower(n)
				got, err := h.Delete(ctx, alice, n)
				k := h.keys[lower]
				if k == nil {
					if failure.KindOf(err) != failure.NotFound {
						rt.Fatalf("delete %s, which does not exist: %v", n, err)
					}
					return
				}
				if diff := cmp.Diff(k.versions[len(k.versions)-1], got.Key, sameKeys); err != nil || diff != "" {
					rt.Fatalf("delete %s (%v): %s", n, err, diff)
				}
				delete(h.keys, lower)
				h.deleted[lower] = k
			},
			"recover": func(rt *rapid.T) {
				h, n := pick.Draw(rt, "hsm"), name.Draw(rt, "name")
				lower := strings.ToLower(n)
				got, err := h.Recover(ctx, alice, n)
				k := h.deleted[lower]
				if k == nil {
					if failure.KindOf(err) != failure.NotFound {
						rt.Fatalf("recover %s, which is not deleted: %v", n, err)
					}
					return
				}
				if diff := cmp.Diff(k.versions[len(k.versions)-1], got, sameKeys); err != nil || diff != "" {
					rt.Fatalf("recover %s (%v): %s", n, err, diff)
				}
				delete(h.deleted, lower)
				h.keys[lower] = k
			},
			"purge": func(rt *rapid.T) {
				h, n := pick.Draw(rt, "hsm"), name.Draw(rt, "name")
				lower := strings.ToLower(n)
				err := h.Purge(ctx, alice, n)
				if h.deleted[lower] == nil && failure.KindOf(err) != failure.NotFound || h.deleted[lower] != nil && err != nil {
					rt.Fatalf("purge %s: %v", n, err)
				}
				delete(h.deleted, lower)
			},
			"backup": func(rt *rapid.T) {
				h, n := pick.Draw(rt, "hsm"), name.Draw(rt, "name")
				k := h.keys[strings.ToLower(n)]
				blob, err := h.Backup(ctx, alice, n)
				if k == nil {
					if failure.KindOf(err) != failure.NotFound {
						rt.Fatalf("backup of %s, which does not exist: %v", n, err)
					}
					return
				}
				if err != nil {
					rt.Fatal(err)
				}
				backups = append(backups, saved{blob, modelKey{name: k.name, versions: slices.Clone(k.versions)}})
			},
			"restore": func(rt *rapid.T) {
				if len(backups) == 0 {
					return
				}
				h, s := pick.Draw(rt, "hsm"), rapid.SampledFrom(backups).Draw(rt, "backup")
				lower := strings.ToLower(s.key.name)
				got, err := h.Restore(ctx, alice, s.blob)
				if h.keys[lower] != nil || h.deleted[lower] != nil {
					if failure.KindOf(err) != failure.Conflict {
						rt.Fatalf("restore over %s: %v", s.key.name, err)
					}
					return
				}
				if diff := cmp.Diff(s.key.versions[len(s.key.versions)-1], got, sameKeys); err != nil || diff != "" {
					rt.Fatalf("restore %s (%v): %s", s.key.name, err, diff)
				}
				h.keys[lower] = &modelKey{name: s.key.name, versions: slices.Clone(s.key.versions)}
			},
		})
	})
}

// Covers R4: callers of all kinds at once. No version is lost, none comes twice, and the numbering has no holes.
func TestConcurrentUse(t *testing.T) {
	b := newBench(t, memory.New(), alphaID, ownDomain)
	b.create(t, "shared", CreateParams{})
	blob, err := b.Backup(t.Context(), alice, "shared")
	if err != nil {
		t.Fatal(err)
	}
	other := newBench(t, b.store, betaID, ownDomain)
	const workers, rounds = 8, 5
	var (
		mu       sync.Mutex
		made     = map[string]bool{}
		restored int
		wg       sync.WaitGroup
	)
	for worker := range workers {
		wg.Go(func() {
			for round := range rounds {
				key, err := b.Create(t.Context(), alice, []string{"shared", "SHARED"}[round%2], CreateParams{Type: "EC"})
				if err != nil {
					t.Errorf("create: %v", err)
					return
				}
				mu.Lock()
				made[key.Version] = true
				mu.Unlock()
				if _, err := b.Create(t.Context(), alice, fmt.Sprintf("own-%d-%d", worker, round), CreateParams{Type: "EC"}); err != nil {
					t.Errorf("create: %v", err)
				}
				if _, err := b.Sign(t.Context(), alice, "shared", key.Version, "ES256", digest()); err != nil {
					t.Errorf("sign: %v", err)
				}
				if _, err := b.List(t.Context(), alice, "", 0); err != nil {
					t.Errorf("list: %v", err)
				}
				_, err = other.Restore(t.Context(), alice, blob)
				if err == nil {
					mu.Lock()
					restored++
					mu.Unlock()
				} else if failure.KindOf(err) != failure.Conflict {
					t.Errorf("restore: %v", err)
				}
			}
		})
	}
	wg.Wait()
	all, err := b.everyVersion(t, "shared")
	if err != nil || len(all) != 1+workers*rounds || len(made) != workers*rounds {
		t.Errorf("%d versions stored, %d made, %v; want %d", len(all), len(made), err, 1+workers*rounds)
	}
	for _, item := range all[1:] {
		if !made[item.Version] {
			t.Errorf("version %s was made by nobody", item.Version)
		}
	}
	if restored != 1 {
		t.Errorf("%d of the restores of one key succeeded, want 1", restored)
	}
	var count countRecord
	if _, err := open(t.Context(), b.engine, b.countPath(), []byte(dump(t, b.store)[b.countPath()]), &count, "count"); err != nil || count.Keys != 1+workers*rounds {
		t.Errorf("the count says %d keys, %v; want %d", count.Keys, err, 1+workers*rounds)
	}
}
