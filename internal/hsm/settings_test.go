package hsm_test

import (
	"testing"

	"strongroom/internal/access"
	"strongroom/internal/failure"
	"strongroom/internal/hsm"
	"strongroom/internal/store"
	"strongroom/secret"
)

// A setting outlives the process, and goes with its HSM.
func TestSettingsAreKept(t *testing.T) {
	w := newWorld(t, "alpha")
	if _, err := w.open("alpha").Download(t.Context(), admin, certificates(3), 2); err != nil {
		t.Fatal(err)
	}
	if _, err := w.open("alpha").SetSetting(t.Context(), admin, hsm.SettingARMKeys, "true"); err != nil {
		t.Fatal(err)
	}
	w.restart()
	got, err := w.open("alpha").Setting(t.Context(), admin, hsm.SettingARMKeys)
	if err != nil || !got.On {
		t.Errorf("after a restart: %+v, %v", got, err)
	}
	key := "hsm/" + w.info("alpha").ID + "/settings"
	deleted := w.open("alpha")
	if _, err := w.service.Delete(t.Context(), "alpha"); err != nil {
		t.Fatal(err)
	}
	_, err = deleted.SetSetting(t.Context(), admin, hsm.SettingARMKeys, "false")
	if failure.KindOf(err) != failure.NotFound {
		t.Errorf("a setting of a deleted HSM: %v", err)
	}
	if _, err := w.service.Purge(t.Context(), "alpha"); err != nil {
		t.Fatal(err)
	}
	_ = w.store.View(t.Context(), func(r store.Reader) error {
		if _, there := r.Get(key); there {
			t.Error("the settings are there after the purge")
		}
		return nil
	})
}

// What version 1 wrote is read for ever; what somebody without the seal wrote, or a later version, is not guessed at.
func TestSettingsOfVersionOne(t *testing.T) {
	w := newWorld(t, "alpha", "beta")
	for _, name := range []string{"alpha", "beta"} {
		if _, err := w.open(name).Download(t.Context(), admin, certificates(3), 2); err != nil {
			t.Fatal(err)
		}
	}
	put := func(name, text, about string) {
		sealed, err := w.seal.Wrap(secret.New([]byte(text)), "hsm/"+w.info(about).ID+"/settings")
		if err != nil {
			t.Fatal(err)
		}
		if err := w.store.Update(t.Context(), func(tx store.Writer) error { tx.Put("hsm/"+w.info(name).ID+"/settings", sealed); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	h := w.open("alpha")
	read := func(who access.Caller) error {
		list, err := h.Settings(t.Context(), who)
		if err == nil && (len(list) != 1 || list[0] != hsm.Setting{Name: "AllowKeyManagementOperationsThroughARM", On: true}) {
			t.Errorf("got %+v", list)
		}
		return err
	}
	put("alpha", `{"v":1,"allow_key_management_through_arm":true}`, "alpha")
	if err := read(admin); err != nil {
		t.Error(err)
	}
	if err := read(access.Caller{ObjectID: "nobody"}); failure.KindOf(err) != failure.Forbidden {
		t.Errorf("read by a stranger: %v", err)
	}
	put("alpha", `{"v":2}`, "alpha")
	if err := read(admin); failure.KindOf(err) != failure.Unsupported {
		t.Errorf("a later version: %v", err)
	}
	put("alpha", `{"v":1,"allow_key_management_through_arm":true}`, "beta")
	if err := read(admin); failure.KindOf(err) != failure.Tampered {
		t.Errorf("moved from another HSM: %v", err)
	}
	_, err := h.SetSetting(t.Context(), admin, hsm.SettingARMKeys, "false")
	if failure.KindOf(err) != failure.Tampered {
		t.Errorf("changed over a damaged record: %v", err)
	}
}
