package hsm

import (
	"context"
	"encoding/json"
	"errors"
	"strings"

	"strongroom/internal/access"
	"strongroom/internal/failure"
	"strongroom/internal/store"
	"strongroom/secret"
)

// SettingARMKeys is the one setting that a Managed HSM is known to have: whether the control plane may manage keys.
// It is kept and shown. This server has no key management through its control plane, so it changes nothing.
const SettingARMKeys = "AllowKeyManagementOperationsThroughARM"

// Setting is a setting of an HSM. All there are are switches.
type Setting struct {
	Name string // as it is published; asked for in any case
	On   bool
}

// The settings at rest are one record, absent as long as nobody has changed one:
//
//	hsm/<id>/settings    seal.Wrap of settingsRecord as JSON, bound to this key
//
// Deleting it, or putting an older one back, is not detected: what is not there is off.
const settingsVersion = 1

type settingsRecord struct {
	V       int  `json:"v"`
	ARMKeys bool `json:"allow_key_management_through_arm,omitempty"`
}

func settingsKey(id string) string { return "hsm/" + id + "/settings" }

func (r settingsRecord) list() []Setting { return []Setting{{SettingARMKeys, r.ARMKeys}} }

// Settings are read by whoever may read role definitions, which is every role that concerns people: no data action is
// published for them.
func (h *HSM) Settings(ctx context.Context, caller access.Caller) ([]Setting, error) {
	if err := h.s.cfg.Authorizer.Check(ctx, h.id, caller, access.DefinitionsRead, access.ScopeRoot); err != nil {
		return nil, err
	}
	var settings settingsRecord
	err := h.s.cfg.Store.View(ctx, func(r store.Reader) (err error) {
		settings, err = h.settings(r)
		return err
	})
	return settings.list(), store.Failure(err)
}

// Setting is one of them.
func (h *HSM) Setting(ctx context.Context, caller access.Caller, name string) (Setting, error) {
	list, err := h.Settings(ctx, caller)
	if err != nil {
		return Setting{}, err
	}
	for _, s := range list {
		if strings.EqualFold(s.Name, name) {
			return s, nil
		}
	}
	return Setting{}, noSetting()
}

// MaySet is [HSM.May] for SetSetting.
func (h *HSM) MaySet(ctx context.Context, caller access.Caller) error {
	err := h.May(ctx, caller, access.SecurityDomainDownload, access.ScopeRoot)
	if e, refused := errors.AsType[*failure.Error](err); refused && e.Kind == failure.Forbidden {
		return failure.New(failure.Forbidden, "settings are changed by who may download the security domain: %s", e.Message)
	}
	return err
}

// SetSetting turns a setting on ("true", in any case) or off ("false") and returns it. It is for administrators; as no data action is published for it,
// it asks for one that no other built-in role has.
func (h *HSM) SetSetting(ctx context.Context, caller access.Caller, name, value string) (Setting, error) {
	if err := h.MaySet(ctx, caller); err != nil {
		return Setting{}, err
	}
	if !strings.EqualFold(name, SettingARMKeys) {
		return Setting{}, noSetting()
	}
	on := strings.EqualFold(value, "true")
	if !on && !strings.EqualFold(value, "false") {
		return Setting{}, failure.New(failure.BadParameter, `value must be "true" or "false", as a text`)
	}
	err := h.s.cfg.Store.Update(ctx, func(w store.Writer) error {
		settings, err := h.settings(w)
		if err != nil {
			return err
		}
		if settings.ARMKeys == on {
			return nil
		}
		settings.V, settings.ARMKeys = settingsVersion, on
		text, err := json.Marshal(settings)
		if err != nil {
			return failure.Wrap(failure.Internal, err, "the settings cannot be written")
		}
		sealed, err := h.s.cfg.Seal.Wrap(secret.Take(text), settingsKey(h.id))
		if err != nil {
			return failure.Wrap(failure.Internal, err, "the settings cannot be sealed")
		}
		w.Put(settingsKey(h.id), sealed)
		return nil
	})
	if err != nil {
		return Setting{}, store.Failure(err)
	}
	h.s.cfg.Log.WarnContext(ctx, "setting changed", "hsm", h.name, "id", h.id, "setting", SettingARMKeys, "on", on, "by", caller.ObjectID)
	return Setting{SettingARMKeys, on}, nil
}

// settings reads the record of an HSM that is activated and not deleted.
func (h *HSM) settings(r store.Reader) (settingsRecord, error) {
	rec, err := h.s.load(r, h.id)
	switch {
	case err != nil:
		return settingsRecord{}, err
	case rec.Deleted != nil:
		return settingsRecord{}, failure.Coded(failure.NotFound, "ResourceNotFound", "the HSM was deleted")
	}
	if err := rec.usable(); err != nil {
		return settingsRecord{}, err
	}
	sealed, there := r.Get(settingsKey(h.id))
	if !there {
		return settingsRecord{}, nil
	}
	var settings settingsRecord
	text, err := h.s.cfg.Seal.Unwrap(sealed, settingsKey(h.id))
	if err == nil {
		err = json.Unmarshal(text.Reveal(), &settings)
	}
	if err != nil {
		return settingsRecord{}, failure.Wrap(failure.Tampered, err, "the settings of HSM %s were changed or moved in the database; restore the database from a copy", h.name)
	}
	if settings.V != settingsVersion {
		return settingsRecord{}, failure.New(failure.Unsupported, "the settings of HSM %s have format version %d and this program knows %d; run the program that wrote them, or a newer one", h.name, settings.V, settingsVersion)
	}
	return settings, nil
}

func noSetting() error {
	return failure.Coded(failure.NotFound, "SettingNotFound", "there is no such setting; the one that there is, is %s", SettingARMKeys)
}
