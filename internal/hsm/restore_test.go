package hsm_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"strongroom/internal/access"
	"strongroom/internal/engine"
	"strongroom/internal/failure"
	"strongroom/internal/hsm"
	"strongroom/internal/keys"
	"strongroom/internal/store"
	"strongroom/secret"
)

func nothingElse(store.Writer) error { return nil }

var restoreSalt = make([]byte, 32)

// taken is what a backup would hold.
type taken struct {
	contents hsm.Contents
	copies   []keys.Copy
}

func take(t testing.TB, h *hsm.HSM) (b taken) {
	t.Helper()
	err := h.Snapshot(t.Context(), func(s *hsm.Snapshot) error {
		b.contents = s.Contents
		return s.Keys(t.Context(), restoreSalt, func() {}, func(c keys.Copy) error { b.copies = append(b.copies, c); return nil })
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func begin(t testing.TB, h *hsm.HSM, job string) *hsm.Restore {
	t.Helper()
	r, err := h.BeginRestore(t.Context(), job)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func fill(ctx context.Context, r *hsm.Restore, b taken) error {
	var list []*keys.Restorable
	for _, c := range b.copies {
		one, err := r.Prepare(ctx, restoreSalt, c.Body)
		if err != nil {
			return err
		}
		list = append(list, one)
	}
	return r.Fill(ctx, b.contents.Served, list)
}

func restore(t testing.TB, h *hsm.HSM, job string, b taken) {
	t.Helper()
	r := begin(t, h, job)
	if err := fill(t.Context(), r, b); err != nil {
		t.Fatal(err)
	}
	if err := r.Commit(t.Context(), b.contents, nothingElse); err != nil {
		t.Fatal(err)
	}
}

// inventory is what an administrator sees of an HSM's keys.
func inventory(t testing.TB, h *hsm.HSM) (list []string) {
	t.Helper()
	k, err := h.Keys(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	page, err := k.List(t.Context(), admin, "", 25)
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range page.Items {
		versions, err := k.ListVersions(t.Context(), admin, i.Name, "", 25)
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range versions.Items {
			list = append(list, i.Name+"/"+v.Version)
		}
	}
	deleted, err := k.ListDeleted(t.Context(), admin, "", 25)
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range deleted.Items {
		list = append(list, "deleted "+i.Name)
	}
	slices.Sort(list)
	return list
}

func activated(t testing.TB, names ...string) *world {
	t.Helper()
	w := newWorld(t, names...)
	for _, n := range names {
		if _, err := w.open(n).Download(t.Context(), admin, certificates(3), 2); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

// recovered makes an HSM and takes it into the domain of another one.
func recovered(t testing.TB, w *world, name, from string) {
	t.Helper()
	if _, _, err := w.service.Create(t.Context(), spec(name)); err != nil {
		t.Fatal(err)
	}
	d, err := w.open(from).Download(t.Context(), admin, certificates(3), 2)
	if err != nil {
		t.Fatal(err)
	}
	exchange, err := w.open(name).ExchangeKey(t.Context(), admin)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.open(name).Upload(t.Context(), admin, transfer(t, d.File, exchange, 1, 3)); err != nil {
		t.Fatal(err)
	}
}

// dump is everything in the store.
func (w *world) dump() map[string][]byte {
	all := map[string][]byte{}
	err := w.store.View(context.Background(), func(r store.Reader) error {
		for path, value := range r.Scan("", "") {
			all[path] = value
		}
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return all
}

func make3(t testing.TB, h *hsm.HSM) {
	t.Helper()
	k, err := h.Keys(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		p    keys.CreateParams
	}{{"Ec", keys.CreateParams{Type: "EC"}}, {"ec", keys.CreateParams{Type: "EC"}}, {"oct", keys.CreateParams{Type: "oct"}}, {"gone", keys.CreateParams{Type: "EC"}}} {
		if _, err := k.Create(t.Context(), admin, c.name, c.p); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := k.SetRotationPolicy(t.Context(), admin, "ec", keys.RotationPolicy{TimeAfterCreate: "P90D", ExpiryTime: "P180D"}); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Delete(t.Context(), admin, "gone"); err != nil {
		t.Fatal(err)
	}
}

// A restore brings keys, deleted ones, policies, roles and settings back as they were, and nothing that came later stays.
func TestRestoreIsWhole(t *testing.T) {
	w := activated(t, "alpha")
	h := w.open("alpha")
	make3(t, h)
	if _, err := h.SetSetting(t.Context(), admin, hsm.SettingARMKeys, "true"); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Roles().PutAssignment(t.Context(), admin, access.Assignment{Name: "aaaaaaaa-0000-4000-8000-000000000001", PrincipalID: stranger.ObjectID, RoleDefinitionID: access.RoleCryptoUser, Scope: "/keys"}); err != nil {
		t.Fatal(err)
	}
	before, want := take(t, h), inventory(t, h)
	k, _ := h.Keys(t.Context())
	digest := make([]byte, 32)
	signed, err := k.Sign(t.Context(), stranger, "ec", "", "ES256", digest)
	if err != nil {
		t.Fatal(err)
	}
	// What comes after the backup.
	if _, err := k.Create(t.Context(), admin, "later", keys.CreateParams{Type: "EC"}); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Delete(t.Context(), admin, "ec"); err != nil {
		t.Fatal(err)
	}
	if err := k.Purge(t.Context(), admin, "ec"); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Roles().DeleteAssignment(t.Context(), admin, "/keys", "aaaaaaaa-0000-4000-8000-000000000001"); err != nil {
		t.Fatal(err)
	}
	if _, err := h.SetSetting(t.Context(), admin, hsm.SettingARMKeys, "false"); err != nil {
		t.Fatal(err)
	}
	replaced := inventory(t, h)

	restore(t, h, "job-1", before)
	check := func(what string, want []string) {
		t.Helper()
		h := w.open("alpha")
		if d := cmp.Diff(want, inventory(t, h)); d != "" {
			t.Errorf("%s (-want +got):\n%s", what, d)
		}
	}
	check("after the restore", want)
	for range 2 {
		h = w.open("alpha")
		k, _ = h.Keys(t.Context())
		if ok, err := k.Verify(t.Context(), stranger, "ec", signed.Version, "ES256", digest, signed.Signature); err != nil || !ok {
			t.Errorf("a signature of before, for whom a restored role allows it: %v, %v", ok, err)
		}
		if p, err := k.GetRotationPolicy(t.Context(), admin, "ec"); err != nil || p.TimeAfterCreate != "P90D" {
			t.Errorf("rotation policy: %+v, %v", p, err)
		}
		if s, err := h.Setting(t.Context(), admin, hsm.SettingARMKeys); err != nil || !s.On {
			t.Errorf("setting: %+v, %v", s, err)
		}
		w.restart()
	}
	after := take(t, w.open("alpha"))
	if d := cmp.Diff(before.contents, after.contents); d != "" {
		t.Errorf("roles and settings (-backup +restored):\n%s", d)
	}

	// Undo, and undo of that.
	h = w.open("alpha")
	if _, err := h.UndoRestore(t.Context(), stranger); !errors.Is(err, failure.Forbidden) {
		t.Errorf("undo by a stranger: %v", err)
	}
	if p, err := h.UndoRestore(t.Context(), admin); err != nil || p.Job != "job-1" {
		t.Fatalf("undo: %+v, %v", p, err)
	}
	check("after undo", replaced)
	if _, err := w.open("alpha").UndoRestore(t.Context(), admin); err != nil {
		t.Fatal(err)
	}
	check("after undo of undo", want)

	// The restore point is kept for its time, and then nothing of it is left.
	sweep := func() {
		t.Helper()
		if err := w.service.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	sweep()
	if p, err := w.open("alpha").RestorePoint(t.Context(), admin); err != nil || p == nil {
		t.Fatalf("restore point: %+v, %v", p, err)
	}
	w.now = w.now.Add(hsm.KeepReplaced)
	if _, err := w.open("alpha").UndoRestore(t.Context(), admin); !errors.Is(err, failure.Conflict) {
		t.Errorf("undo after the time: %v", err)
	}
	sweep()
	id := w.info("alpha").ID
	for path := range w.dump() {
		if strings.HasPrefix(path, "hsm/"+id+"/") && path != "hsm/"+id+"/record" {
			t.Errorf("%s is left of what was replaced", path)
		}
	}
	check("after the sweep", want)
}

// While a restore is under way nothing else is answered; given up, at whatever point, it leaves what was there.
func TestRestoreIsAllOrNothing(t *testing.T) {
	for stop := range 4 {
		for _, crash := range []bool{false, true} {
			t.Run(fmt.Sprintf("after %d steps, crash %v", stop, crash), func(t *testing.T) {
				w := activated(t, "alpha")
				h := w.open("alpha")
				make3(t, h)
				k, _ := h.Keys(t.Context())
				want, b := inventory(t, h), take(t, h)
				r := begin(t, h, "job")
				for name, call := range map[string]func() error{
					"create by who was let in before": func() error { _, err := k.Create(t.Context(), admin, "k", keys.CreateParams{Type: "EC"}); return err },
					"keys":                            func() error { _, err := w.open("alpha").Keys(t.Context()); return err },
					"assign a role": func() error {
						_, err := w.open("alpha").Roles().PutAssignment(t.Context(), admin, access.Assignment{Name: "aaaaaaaa-0000-4000-8000-000000000002", PrincipalID: "p", RoleDefinitionID: access.RoleCryptoUser, Scope: "/"})
						return err
					},
					"setting": func() error {
						_, err := w.open("alpha").SetSetting(t.Context(), admin, hsm.SettingARMKeys, "true")
						return err
					},
					"download": func() error { _, err := w.open("alpha").Download(t.Context(), admin, certificates(3), 2); return err },
					"another":  func() error { _, err := w.open("alpha").BeginRestore(t.Context(), "other"); return err },
					"undo":     func() error { _, err := w.open("alpha").UndoRestore(t.Context(), admin); return err },
					"snapshot": func() error { return w.open("alpha").Snapshot(t.Context(), func(*hsm.Snapshot) error { return nil }) },
				} {
					if err := call(); !errors.Is(err, failure.Unavailable) || !strings.Contains(err.Error(), "is being restored") {
						t.Errorf("%s during a restore: %v", name, err)
					}
				}
				if err := w.service.Sweep(t.Context()); err != nil {
					t.Errorf("sweep during a restore: %v", err)
				}
				if stop > 0 {
					if err := fill(t.Context(), r, b); err != nil {
						t.Fatal(err)
					}
				}
				if stop > 1 {
					if err := fill(t.Context(), r, b); err == nil {
						t.Error("the same keys twice")
					}
				}
				if stop > 2 {
					if err := r.Commit(t.Context(), hsm.Contents{}, nothingElse); !errors.Is(err, failure.Conflict) {
						t.Errorf("a backup without an administrator: %v", err)
					}
				}
				if crash {
					w.restart()
					jobs, err := w.service.AbandonRestores(t.Context())
					if err != nil || len(jobs) != 1 || jobs[w.info("alpha").ID] != "job" {
						t.Fatalf("given up after a restart: %v, %v", jobs, err)
					}
				} else {
					if err := r.Abandon(t.Context()); err != nil {
						t.Fatal(err)
					}
					if err := r.Commit(t.Context(), b.contents, nothingElse); !errors.Is(err, failure.Conflict) {
						t.Errorf("a restore that was given up was finished: %v", err)
					}
				}
				if d := cmp.Diff(want, inventory(t, w.open("alpha"))); d != "" {
					t.Errorf("after a restore that was given up (-want +got):\n%s", d)
				}
				if err := w.service.Sweep(t.Context()); err != nil {
					t.Fatal(err)
				}
				for path := range w.dump() {
					if strings.HasPrefix(path, "hsm/"+w.info("alpha").ID+".") {
						t.Errorf("%s is left", path)
					}
				}
				// And it can be done again.
				restore(t, w.open("alpha"), "job-2", b)
				if d := cmp.Diff(want, inventory(t, w.open("alpha"))); d != "" {
					t.Errorf("after the second try (-want +got):\n%s", d)
				}
			})
		}
	}
}

// A restore that cannot begin, because there is no engine, leaves the HSM as it was.
func TestRestoreThatCannotBegin(t *testing.T) {
	w := activated(t, "alpha")
	make3(t, w.open("alpha"))
	want, broken := inventory(t, w.open("alpha")), true
	w.config = func(c *hsm.Config) {
		open := c.OpenEngine
		c.OpenEngine = func(wrapping, backup secret.Bytes) (engine.Engine, error) {
			if broken {
				return nil, errors.New("no engine")
			}
			return open(wrapping, backup)
		}
	}
	w.restart()
	if _, err := w.open("alpha").BeginRestore(t.Context(), "job"); err == nil {
		t.Fatal("a restore began without an engine")
	}
	broken = false
	if d := cmp.Diff(want, inventory(t, w.open("alpha"))); d != "" || w.info("alpha").Restoring {
		t.Errorf("restoring %v (-want +got):\n%s", w.info("alpha").Restoring, d)
	}
}

// What was taken on one HSM of a domain goes to another of the domain, and to none of another domain.
func TestRestoreStaysInTheDomain(t *testing.T) {
	w := activated(t, "alpha", "beta")
	make3(t, w.open("alpha"))
	b := take(t, w.open("alpha"))
	r := begin(t, w.open("beta"), "job")
	if err := fill(t.Context(), r, b); !errors.Is(err, failure.BadParameter) {
		t.Errorf("keys of another domain: %v", err)
	}
	if err := r.Abandon(t.Context()); err != nil {
		t.Fatal(err)
	}
	recovered(t, w, "gamma", "alpha")
	restore(t, w.open("gamma"), "job", b)
	if d := cmp.Diff(inventory(t, w.open("alpha")), inventory(t, w.open("gamma"))); d != "" {
		t.Errorf("on another HSM of the domain:\n%s", d)
	}
	// Purge takes every place.
	id := w.info("gamma").ID
	if _, err := w.service.Delete(t.Context(), "gamma"); err != nil {
		t.Fatal(err)
	}
	if _, err := w.service.Purge(t.Context(), "gamma"); err != nil {
		t.Fatal(err)
	}
	for path := range w.dump() {
		if strings.HasPrefix(path, "hsm/"+id) {
			t.Errorf("%s is left of an HSM that was purged", path)
		}
	}
}
