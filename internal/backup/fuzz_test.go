package backup_test

import (
	"testing"

	"strongroom/internal/backup"
	"strongroom/internal/backupset"
	"strongroom/internal/failure"
)

// Whatever a backup's records hold, they are read or refused in words, and bring at most one thing each.
func FuzzRecord(f *testing.F) {
	salt := "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
	for _, seed := range []struct{ kind, name, body string }{
		{"hsm", "alpha", `{"v":1,"export_salt":"` + salt + `","served_seconds":7,"settings":{"AllowKeyManagementOperationsThroughARM":true}}`},
		{"hsm", "alpha", `{"v":2,"export_salt":"` + salt + `","served_seconds":7,"settings":{}}`},
		{"hsm", "alpha", `{"v":1,"export_salt":"` + salt + `","served_seconds":-1,"settings":{}}`},
		{"hsm", "alpha", `{"v":1,"export_salt":"AA==","served_seconds":9223372036854775807,"settings":null}`},
		{"role-definition", "bbbbbbbb-0000-4000-8000-000000000001", `{"name":"Signers","description":"d","data_actions":["/keys/sign/action"],"not_data_actions":["/keys/read/action"],"assignable_scopes":["/"]}`},
		{"role-assignment", "aaaaaaaa-0000-4000-8000-000000000001", `{"principal":"p","role":"r","scope":"/keys"}`},
		{"role-assignment", "a", `{"principal":"p","role":"r","scope":"/keys","condition":"x"}`},
		{"key", "k", `{"name":"k","versions":[{"id":"00000000000000000000000000000000","created":1,"updated":1,"enabled":true,"key_ops":["sign"],"kty":"EC-HSM","crv":"P-256","exportable":false,"hsm":true,"x":"AQ==","y":"AQ==","sealed":"AA=="}]}`},
		{"deleted-key", "k", `{"name":"k","versions":[],"deleted":{"at":1,"purge":2,"served":3}}`},
		{"key", "k", `{}`}, {"secret", "k", ``}, {"hsm", "", `[[[[`},
	} {
		f.Add(seed.kind, seed.name, []byte(seed.body))
	}
	f.Fuzz(func(t *testing.T, kind, name string, body []byte) {
		got, err := backup.Take(backupset.Record{Item: backupset.Item{Kind: kind, Name: name}, Body: body})
		if err != nil {
			if k := failure.KindOf(err); k != failure.BadParameter && k != failure.Unsupported {
				t.Errorf("got kind %s: %v", k, err)
			}
			return
		}
		if got.Served < 0 || got.Served > 1<<40 || len(got.Definitions)+len(got.Assignments) > 1 || len(got.Settings) > 64 {
			t.Errorf("it was read as %+v", got)
		}
	})
}

// The refusals that matter are refusals.
func TestRecordsThatAreNone(t *testing.T) {
	const salt = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
	for name, r := range map[string]struct {
		kind, body string
		want       failure.Kind
	}{
		"a newer version":              {"hsm", `{"v":2,"export_salt":"` + salt + `","future":1}`, failure.Unsupported},
		"no version":                   {"hsm", `{"export_salt":"` + salt + `","served_seconds":0,"settings":{}}`, failure.BadParameter},
		"a short salt":                 {"hsm", `{"v":1,"export_salt":"AA==","served_seconds":0,"settings":{}}`, failure.BadParameter},
		"served before the beginning":  {"hsm", `{"v":1,"export_salt":"` + salt + `","served_seconds":-1,"settings":{}}`, failure.BadParameter},
		"served for ever":              {"hsm", `{"v":1,"export_salt":"` + salt + `","served_seconds":9223372036854775807,"settings":{}}`, failure.BadParameter},
		"an unknown member":            {"hsm", `{"v":1,"export_salt":"` + salt + `","served_seconds":0,"settings":{},"retention":7}`, failure.BadParameter},
		"something after the JSON":     {"role-assignment", `{"principal":"p","role":"r","scope":"/"}{}`, failure.BadParameter},
		"a condition of an assignment": {"role-assignment", `{"principal":"p","role":"r","scope":"/","condition":"x"}`, failure.BadParameter},
		"a member of a definition":     {"role-definition", `{"name":"n","data_actions":[],"actions":["*"]}`, failure.BadParameter},
		"a kind of the future":         {"certificate", `{}`, failure.Unsupported},
		"a key that is none":           {"key", `{}`, failure.BadParameter},
	} {
		if _, err := backup.Take(backupset.Record{Item: backupset.Item{Kind: r.kind, Name: "n"}, Body: []byte(r.body)}); failure.KindOf(err) != r.want || err == nil {
			t.Errorf("%s: %v, want %s", name, err, r.want)
		}
	}
}
