package keys

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"strongroom/internal/engine"
	"strongroom/internal/failure"
	"strongroom/internal/store"
	"strongroom/internal/store/memory"
	"strongroom/secret"
)

const day = 24 * time.Hour

func (b *bench) remove(t testing.TB, name string) DeletedKey {
	t.Helper()
	key, err := b.Delete(t.Context(), alice, name)
	if err != nil {
		t.Fatalf("delete %s: %v", name, err)
	}
	return key
}

func (b *bench) sweep(t testing.TB) Swept {
	t.Helper()
	done, err := b.Sweep(t.Context())
	if err != nil {
		t.Fatalf("sweep: %v", err)
	}
	return done
}

// Covers K11: no call finds a deleted key, by any version or spelling of its name; recovered, it is as it was.
func TestDeleteAndRecover(t *testing.T) {
	b := newBench(t, memory.New(), alphaID, ownDomain)
	made := []Key{
		b.create(t, "My-Key", CreateParams{Type: "RSA", Tags: map[string]string{"a": "b"}}),
		b.create(t, "my-key", CreateParams{Type: "RSA", NotBefore: &noon}),
	}
	neighbour := b.create(t, "my-key-2", CreateParams{})
	before := dump(t, b.store)
	ciphertext, err := b.Encrypt(t.Context(), alice, "my-key", made[0].Version, engine.RSAOAEP256, secret.Take([]byte("plain")), Extras{})
	if err != nil {
		t.Fatal(err)
	}
	b.run(time.Hour)
	gone := b.remove(t, "MY-KEY")
	if want := (DeletedKey{Key: made[1], DeletedAt: noon.Add(time.Hour), PurgeAt: noon.Add(time.Hour + 90*day)}); !cmp.Equal(want, gone, sameKeys) {
		t.Errorf("delete answers %s", cmp.Diff(want, gone, sameKeys))
	}
	got, err := b.GetDeleted(t.Context(), alice, "mY-kEY")
	if err != nil || !cmp.Equal(gone, got, sameKeys) {
		t.Errorf("get deleted (%v): %s", err, cmp.Diff(gone, got, sameKeys))
	}
	calls := func(name, version string) map[string]error {
		ctx := t.Context()
		all := map[string]error{}
		_, all["get"] = b.Get(ctx, alice, name, version)
		_, all["update"] = b.Update(ctx, alice, name, version, UpdateParams{Enabled: ptr(true)})
		_, all["sign"] = b.Sign(ctx, alice, name, version, "RS256", digest())
		_, all["verify"] = b.Verify(ctx, alice, name, version, "RS256", digest(), make([]byte, 256))
		_, all["encrypt"] = b.Encrypt(ctx, alice, name, version, engine.RSAOAEP256, secret.Take([]byte("plain")), Extras{})
		_, all["decrypt"] = b.Decrypt(ctx, alice, name, version, engine.RSAOAEP256, ciphertext.Value, Extras{})
		_, all["wrap"] = b.WrapKey(ctx, alice, name, version, engine.RSAOAEP256, secret.Take([]byte("plain")), Extras{})
		_, all["unwrap"] = b.UnwrapKey(ctx, alice, name, version, engine.RSAOAEP256, ciphertext.Value, Extras{})
		_, all["versions"] = b.ListVersions(ctx, alice, name, "", 0)
		_, all["backup"] = b.Backup(ctx, alice, name)
		_, all["delete"] = b.Delete(ctx, alice, name)
		return all
	}
	unchanged(t, b.store, func() {
		for _, name := range []string{"My-Key", "my-key", "MY-KEY"} {
			for _, version := range []string{"", made[0].Version, strings.ToUpper(made[1].Version)} {
				for call, err := range calls(name, version) {
					if f := wantKind(t, err, failure.NotFound); f.Code != "KeyNotFound" {
						t.Errorf("%s %s/%s: code %s", call, name, version, f.Code)
					}
				}
			}
		}
	})
	page, err := b.List(t.Context(), alice, "", 0)
	if err != nil || !slices.Equal(names(page.Items), []string{"my-key-2"}) {
		t.Errorf("list: %v, %v", names(page.Items), err)
	}
	page, err = b.ListDeleted(t.Context(), alice, "", 0)
	if err != nil || len(page.Items) != 1 || page.Items[0].Name != "My-Key" || !page.Items[0].DeletedAt.Equal(gone.DeletedAt) || !page.Items[0].PurgeAt.Equal(gone.PurgeAt) {
		t.Errorf("list of deleted keys: %+v, %v", page.Items, err)
	}

	back, err := b.Recover(t.Context(), alice, "my-KEY")
	if err != nil || !cmp.Equal(made[1], back, sameKeys) {
		t.Errorf("recover (%v): %s", err, cmp.Diff(made[1], back, sameKeys))
	}
	after := dump(t, b.store)
	delete(after, b.servedPath())
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("after the recovery the store is another one: %s", diff)
	}
	opened, err := b.Decrypt(t.Context(), alice, "my-key", made[0].Version, engine.RSAOAEP256, ciphertext.Value, Extras{})
	if err != nil || string(opened.Plaintext.Reveal()) != "plain" {
		t.Errorf("decrypt with the recovered key: %v", err)
	}
	if _, err := b.GetDeleted(t.Context(), alice, "my-key"); failure.KindOf(err) != failure.NotFound {
		t.Errorf("still among the deleted: %v", err)
	}
	if got, err := b.Get(t.Context(), alice, "my-key-2", ""); err != nil || !cmp.Equal(neighbour, got, sameKeys) {
		t.Errorf("the neighbour: %v", err)
	}
}

// What is not deleted cannot be recovered, purged or read as deleted.
func TestDeletedKeysUnknown(t *testing.T) {
	b := newBench(t, memory.New(), alphaID, ownDomain)
	b.create(t, "here", CreateParams{})
	other := newBench(t, b.store, betaID, ownDomain) // A6: another HSM in the same store
	other.create(t, "theirs", CreateParams{})
	other.remove(t, "theirs")
	unchanged(t, b.store, func() {
		for _, name := range []string{"here", "never", "theirs"} {
			_, get := b.GetDeleted(t.Context(), alice, name)
			_, back := b.Recover(t.Context(), alice, name)
			purge := b.Purge(t.Context(), alice, name)
			for call, err := range map[string]error{"get": get, "recover": back, "purge": purge} {
				if f := wantKind(t, err, failure.NotFound); f.Code != "KeyNotFound" || !strings.Contains(f.Message, "Deleted Key not found: "+name) {
					t.Errorf("%s %s: code %s, message %s", call, name, f.Code, f.Message)
				}
			}
		}
		for _, name := range []string{"", "a/b", "a_b"} {
			_, remove := b.Delete(t.Context(), alice, name)
			_, get := b.GetDeleted(t.Context(), alice, name)
			_, back := b.Recover(t.Context(), alice, name)
			for _, err := range []error{remove, get, back, b.Purge(t.Context(), alice, name)} {
				wantKind(t, err, failure.BadParameter)
			}
		}
	})
	if page, err := b.ListDeleted(t.Context(), alice, "", 0); err != nil || len(page.Items) != 0 {
		t.Errorf("deleted here: %v, %v", names(page.Items), err)
	}
}

// The name of a deleted key is taken, whoever wants it, until the key is purged; then nothing of it is left.
func TestDeletedNamesAreTaken(t *testing.T) {
	b := newBench(t, memory.New(), alphaID, ownDomain)
	b.create(t, "stays", CreateParams{})
	empty := dump(t, b.store)
	for range 3 {
		b.create(t, "My-Key", CreateParams{})
	}
	blob, err := b.Backup(t.Context(), alice, "my-key")
	if err != nil {
		t.Fatal(err)
	}
	b.remove(t, "My-Key")
	unchanged(t, b.store, func() {
		for _, name := range []string{"My-Key", "MY-KEY"} {
			_, create := b.Create(t.Context(), alice, name, CreateParams{Type: "EC"})
			_, restore := b.Restore(t.Context(), alice, blob)
			for call, err := range map[string]error{"create": create, "restore": restore} {
				if f := wantKind(t, err, failure.Conflict); f.Code != "ObjectIsDeletedButRecoverable" {
					t.Errorf("%s over a deleted key: code %q", call, f.Code)
				}
			}
		}
	})
	if err := b.Purge(t.Context(), alice, "MY-key"); err != nil {
		t.Fatal(err)
	}
	after := dump(t, b.store)
	delete(after, b.servedPath())
	if !slices.Equal(sortedKeys(after), sortedKeys(empty)) || after[b.countPath()] != empty[b.countPath()] {
		t.Errorf("after the purge there is %v, want %v", sortedKeys(after), sortedKeys(empty))
	}
	wantKind(t, b.Purge(t.Context(), alice, "my-key"), failure.NotFound)
	if _, err := b.Restore(t.Context(), alice, blob); err != nil {
		t.Errorf("restore after the purge: %v", err)
	}
	b.remove(t, "my-key")
	if err := b.Purge(t.Context(), alice, "my-key"); err != nil {
		t.Fatal(err)
	}
	if key := b.create(t, "MY-KEY", CreateParams{}); key.Name != "MY-KEY" {
		t.Errorf("the new key has the old one's name %s", key.Name)
	}
}

// Covers K11: when a key is purged by itself, and when purge protection gives way. Time passes for 90 days at
// least on the clock and in the life of the server, whatever somebody does to the clock.
func TestPurgeWhenDue(t *testing.T) {
	years := func(n int) time.Time { return noon.AddDate(n, 0, 0) }
	for name, row := range map[string]struct {
		before func(b *bench) // the key is deleted
		after  func(b *bench) // before we look
		due    bool
	}{
		"a second early":                     {nil, func(b *bench) { b.run(90*day - time.Second) }, false},
		"on time":                            {nil, func(b *bench) { b.run(90 * day) }, true},
		"long after":                         {nil, func(b *bench) { b.run(9000 * day) }, true},
		"the clock jumps ten years ahead":    {nil, func(b *bench) { b.at(years(10)) }, false},
		"ahead, then all but a second":       {nil, func(b *bench) { b.at(years(10)); b.run(90*day - time.Second) }, false},
		"ahead, then the whole time":         {nil, func(b *bench) { b.at(years(10)); b.run(90 * day) }, true},
		"the clock jumps ten years back":     {nil, func(b *bench) { b.run(90 * day); b.at(years(-10)) }, false},
		"back, and set right again":          {nil, func(b *bench) { b.at(years(-10)); b.run(90 * day); b.at(noon.Add(90 * day)) }, true},
		"deleted by a clock ten years slow":  {func(b *bench) { b.at(years(-10)) }, func(b *bench) { b.at(noon) }, false},
		"slow, then the whole time":          {func(b *bench) { b.at(years(-10)) }, func(b *bench) { b.at(noon); b.run(90 * day) }, true},
		"deleted by a clock ten years ahead": {func(b *bench) { b.at(years(10)) }, func(b *bench) { b.at(noon); b.run(91 * day) }, false},
	} {
		for _, protected := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, protected: %t", name, protected), func(t *testing.T) {
				b := newBench(t, memory.New(), alphaID, ownDomain)
				b.Keys.cfg.PurgeProtection = protected
				b.run(1000 * day) // the server is not new
				b.at(noon)
				b.create(t, "k", CreateParams{})
				b.create(t, "in-use", CreateParams{})
				b.sweep(t)
				if row.before != nil {
					row.before(b)
				}
				b.remove(t, "k")
				row.after(b)
				if protected {
					again := newBench(t, copied(t, b.store), alphaID, ownDomain) // as the same process would find it
					again.Keys.cfg, again.Keys.cfg.Store = b.Keys.cfg, again.store
					again.counting, again.base, again.since = b.counting, b.base, b.since
					err := again.Purge(t.Context(), alice, "k")
					if row.due && err != nil {
						t.Errorf("purge by hand when it is due: %v", err)
					}
					if !row.due {
						if f := wantKind(t, err, failure.Conflict); f.Code != "PurgeProtectionEnabled" {
							t.Errorf("code %q", f.Code)
						}
					}
				}
				done := b.sweep(t)
				_, err := b.GetDeleted(t.Context(), alice, "k")
				if gone := failure.KindOf(err) == failure.NotFound; gone != row.due || slices.Equal(done.Purged, []string{"k"}) != row.due {
					t.Errorf("purged %v, read %v; want it gone: %t", done.Purged, err, row.due)
				}
				if !row.due {
					if _, err := b.Recover(t.Context(), alice, "k"); err != nil {
						t.Errorf("recover: %v", err)
					}
				}
				if _, err := b.Get(t.Context(), alice, "in-use", ""); err != nil {
					t.Errorf("a key in use: %v", err)
				}
			})
		}
	}
}

// copied is a store of its own with the same records.
func copied(t testing.TB, s store.Store) *memory.Store {
	t.Helper()
	c := memory.New()
	overwrite(t, c, dump(t, s))
	return c
}

// Covers K11: the time that counts survives restarts, less what was not written down; it stands still while no
// server runs; and two servers at once do not count it twice.
func TestTimeServed(t *testing.T) {
	s := memory.New()
	first := newBench(t, s, alphaID, ownDomain)
	first.run(1000 * day)
	at := first.clock
	first.create(t, "k", CreateParams{})
	first.remove(t, "k")
	for range 30 {
		first.run(day)
		first.sweep(t)
	}
	first.run(day - time.Second) // lost: it is killed before it sweeps

	years := at.AddDate(5, 0, 0) // nobody runs it for years
	second, third := newBench(t, s, alphaID, ownDomain), newBench(t, s, alphaID, ownDomain)
	second.at(years)
	third.at(years)
	for range 60 { // 60 days, of two servers
		for _, b := range []*bench{second, third} {
			if done := b.sweep(t); len(done.Purged) != 0 {
				t.Fatalf("purged early, after %v", b.up)
			}
			b.run(day)
		}
	}
	if done := third.sweep(t); !slices.Equal(done.Purged, []string{"k"}) {
		t.Errorf("after 30 and 60 days: purged %v", done.Purged)
	}
	if done := second.sweep(t); len(done.Purged) != 0 {
		t.Errorf("purged twice: %v", done.Purged)
	}
	unchanged(t, s, func() { // at rest nothing is written
		second.run(day)
		second.sweep(t)
	})
}

// Two servers find the same keys due at once: each key is purged by one of them, and counted once.
func TestSweepsAtOnce(t *testing.T) {
	s := memory.New()
	servers := make([]*bench, 4)
	for i := range servers {
		servers[i] = newBench(t, s, alphaID, ownDomain)
	}
	var want []string
	for i := range 10 {
		want = append(want, seqName(i))
		servers[0].create(t, seqName(i), CreateParams{})
		servers[0].remove(t, seqName(i))
	}
	for _, b := range servers {
		b.sweep(t)
		b.run(91 * day)
	}
	var (
		mu     sync.Mutex
		purged []string
		wg     sync.WaitGroup
	)
	for _, b := range servers {
		wg.Go(func() {
			done, err := b.Sweep(t.Context())
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			purged = append(purged, done.Purged...)
			mu.Unlock()
		})
	}
	wg.Wait()
	slices.Sort(purged)
	if !slices.Equal(purged, want) {
		t.Errorf("purged %v, want each once", purged)
	}
	var count countRecord
	if _, err := open(t.Context(), servers[0].engine, servers[0].countPath(), []byte(dump(t, s)[servers[0].countPath()]), &count, "count"); err != nil || count.Keys != 0 {
		t.Errorf("the count says %d keys, %v", count.Keys, err)
	}
}

// Sweep leaves an HSM alone that is not activated, reports one whose records are damaged, and does the rest.
func TestSweepGoesOn(t *testing.T) {
	b := newBench(t, memory.New(), alphaID, ownDomain)
	for _, name := range []string{"a", "b", "c"} {
		b.create(t, name, CreateParams{})
		b.remove(t, name)
	}
	b.run(91 * day)
	records := dump(t, b.store)
	records[b.deletedPath("b")] = records[b.deletedPath("a")]
	overwrite(t, b.store, records)
	done, err := b.Sweep(t.Context())
	if failure.KindOf(err) != failure.Tampered || !slices.Equal(done.Purged, []string{"a", "c"}) {
		t.Errorf("purged %v, %v", done.Purged, err)
	}
	b.Keys.cfg.Engine = func() (engine.Engine, error) { return nil, failure.New(failure.NotActivated, "not yet") }
	if done, err := b.Sweep(t.Context()); err != nil || len(done.Purged) != 0 {
		t.Errorf("not activated: %v, %v", done, err)
	}
	b.Keys.cfg.Engine = func() (engine.Engine, error) { return nil, failure.New(failure.Unavailable, "stopping") }
	if _, err := b.Sweep(t.Context()); failure.KindOf(err) != failure.Unavailable {
		t.Errorf("stopping: %v", err)
	}
}

// On an HSM that was deleted under the call nothing changes any more.
func TestNothingChangesOnADeletedHSM(t *testing.T) {
	b := newBench(t, memory.New(), alphaID, ownDomain)
	b.create(t, "k", CreateParams{})
	b.create(t, "gone", CreateParams{})
	b.remove(t, "gone")
	b.run(91 * day)
	dead := errors.New("the HSM was deleted")
	b.Keys.cfg.Alive = func(store.Reader) error { return dead }
	unchanged(t, b.store, func() {
		_, update := b.Update(t.Context(), alice, "k", "", UpdateParams{Enabled: ptr(false)})
		_, remove := b.Delete(t.Context(), alice, "k")
		_, back := b.Recover(t.Context(), alice, "gone")
		purge := b.Purge(t.Context(), alice, "gone")
		_, sweep := b.Sweep(t.Context())
		for call, err := range map[string]error{"update": update, "delete": remove, "recover": back, "purge": purge, "sweep": sweep} {
			if !errors.Is(err, dead) {
				t.Errorf("%s: %v", call, err)
			}
		}
	})
}

// Covers K4, K11: in the life of a key every record is put back to each earlier state it had, alone. No call then
// answers as if the key were in that earlier state; it is as it is, or it was tampered with.
func TestReplayedLife(t *testing.T) {
	b := newBench(t, memory.New(), alphaID, ownDomain)
	b.create(t, "other", CreateParams{})
	var states []map[string]string
	for _, step := range []func() error{
		func() error { _, err := b.Create(t.Context(), alice, "k", CreateParams{Type: "EC"}); return err },
		func() error {
			_, err := b.Update(t.Context(), alice, "k", "", UpdateParams{Enabled: ptr(false)})
			return err
		},
		func() error { _, err := b.Delete(t.Context(), alice, "k"); return err },
		func() error { b.run(day); _, err := b.Recover(t.Context(), alice, "k"); return err },
		func() error {
			_, err := b.Update(t.Context(), alice, "k", "", UpdateParams{Tags: map[string]string{"a": "b"}})
			return err
		},
		func() error { _, err := b.Delete(t.Context(), alice, "k"); return err },
		func() error { return b.Purge(t.Context(), alice, "k") },
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
		states = append(states, dump(t, b.store))
	}
	look := func() (string, failure.Kind) {
		key, live := b.Get(t.Context(), alice, "k", "")
		deleted, gone := b.GetDeleted(t.Context(), alice, "k")
		if live != nil && failure.KindOf(live) != failure.NotFound {
			return "", failure.KindOf(live)
		}
		if gone != nil && failure.KindOf(gone) != failure.NotFound {
			return "", failure.KindOf(gone)
		}
		return fmt.Sprint(live == nil, key.Enabled, key.Tags, gone == nil, deleted.DeletedAt, deleted.Enabled, deleted.Tags), ""
	}
	tried := 0
	for newest, state := range states {
		overwrite(t, b.store, state)
		want, _ := look()
		for then := range newest {
			for _, path := range slices.Sorted(maps.Keys(merged(states[then], state))) {
				old, had := states[then][path]
				if current, has := state[path]; had == has && old == current || path == b.countPath() || path == b.servedPath() {
					continue
				}
				replayed := maps.Clone(state)
				if had {
					replayed[path] = old
				} else {
					delete(replayed, path)
				}
				overwrite(t, b.store, replayed)
				tried++
				if got, kind := look(); kind != failure.Tampered && got != want {
					t.Errorf("state %d with %s of state %d: %s, want %s or tampered", newest, path, then, got, want)
				}
			}
		}
	}
	if tried < 20 {
		t.Errorf("only %d replays were tried", tried)
	}
}

func merged(a, b map[string]string) map[string]string {
	m := maps.Clone(a)
	maps.Copy(m, b)
	return m
}

func TestDeletedPaging(t *testing.T) {
	b := newBench(t, memory.New(), alphaID, ownDomain)
	var want []string
	for i := range 30 {
		want = append(want, b.create(t, seqName(i), CreateParams{}).Name)
		b.remove(t, seqName(i))
	}
	for _, max := range []int{0, 1, 7, 25} {
		var got []string
		for token := ""; ; {
			page, err := b.ListDeleted(t.Context(), alice, token, max)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, names(page.Items)...)
			if token = page.Next; token == "" {
				break
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("pages of %d: %d keys, want %d in order", max, len(got), len(want))
		}
	}
	for _, max := range []int{-1, 26} {
		_, err := b.ListDeleted(t.Context(), alice, "", max)
		wantKind(t, err, failure.BadParameter)
	}
	_, err := b.ListDeleted(t.Context(), alice, "!", 0)
	wantKind(t, err, failure.BadParameter)
}

// Covers R4, K11: delete against update against sign against recover, in rounds. There is one legal order: each
// round has one delete and one recovery that succeed, all changes that were answered are there at the end, and a
// signature that was asked for after a delete was answered, and before a recovery began, is refused.
func TestConcurrentLife(t *testing.T) {
	b := newBench(t, memory.New(), alphaID, ownDomain)
	key := b.create(t, "k", CreateParams{Tags: map[string]string{}})
	const rounds, workers = 20, 3
	var updates atomic.Int64 // that were answered
	for round := range rounds {
		var deleted, recovered atomic.Int64
		var wg sync.WaitGroup
		for worker := range workers {
			wg.Go(func() {
				if _, err := b.Delete(t.Context(), alice, "k"); err == nil {
					deleted.Add(1)
					for _, version := range []string{"", key.Version} {
						if _, err := b.Sign(t.Context(), alice, "k", version, "ES256", digest()); failure.KindOf(err) != failure.NotFound {
							t.Errorf("sign after the delete: %v", err)
						}
					}
				} else if failure.KindOf(err) != failure.NotFound {
					t.Errorf("delete: %v", err)
				}
			})
			wg.Go(func() {
				tags := map[string]string{fmt.Sprintf("%d", worker): fmt.Sprint(round)}
				_, err := b.Update(t.Context(), alice, "k", "", UpdateParams{Tags: tags})
				if err == nil {
					updates.Add(1)
				} else if failure.KindOf(err) != failure.NotFound {
					t.Errorf("update: %v", err)
				}
			})
			wg.Go(func() {
				signed, err := b.Sign(t.Context(), alice, "k", "", "ES256", digest())
				if err == nil && len(signed.Signature) != 64 || err != nil && failure.KindOf(err) != failure.NotFound {
					t.Errorf("sign: %v", err)
				}
			})
		}
		wg.Wait()
		for range workers {
			wg.Go(func() {
				if _, err := b.Recover(t.Context(), alice, "k"); err == nil {
					recovered.Add(1)
				} else if failure.KindOf(err) != failure.NotFound {
					t.Errorf("recover: %v", err)
				}
			})
		}
		wg.Wait()
		if deleted.Load() != 1 || recovered.Load() != 1 {
			t.Fatalf("round %d: %d deletes and %d recoveries succeeded, want 1 and 1", round, deleted.Load(), recovered.Load())
		}
	}
	got, err := b.Get(t.Context(), alice, "k", "")
	if err != nil || updates.Load() > 0 && len(got.Tags) != 1 {
		t.Errorf("in the end: %+v, %v", got, err)
	}
	if page, err := b.ListDeleted(t.Context(), alice, "", 0); err != nil || len(page.Items) != 0 {
		t.Errorf("deleted in the end: %v, %v", names(page.Items), err)
	}
}
