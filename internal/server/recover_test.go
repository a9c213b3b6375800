package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"strongroom/internal/access"
	"strongroom/internal/audit"
	"strongroom/internal/hsm"
	"strongroom/internal/store"
)

// assignments reads the roles of an HSM from the files of a stopped server.
func assignments(t *testing.T, o Options, name string) (list []access.Assignment) {
	t.Helper()
	cfg, err := loadConfig(o)
	must(t, err)
	db, sl, err := openState(cfg, o)
	must(t, err)
	defer db.Close()
	defer sl.Close()
	service := hsm.New(hsm.Config{Store: db, Seal: sl})
	defer service.Close()
	info, err := service.Get(t.Context(), name)
	must(t, err)
	must(t, db.View(t.Context(), func(r store.Reader) (err error) {
		list, err = access.LoadAssignments(r, sl, info.ID)
		return err
	}))
	return list
}

// Initial administrators are that and no more, where a server serves for real; a development server's one application
// also uses keys.
func TestFirstRoles(t *testing.T) {
	roles := func(o Options, env, name string) (ids []string) {
		begin(t, o, env).stop()
		for _, a := range assignments(t, o, name) {
			ids = append(ids, a.RoleDefinitionID)
		}
		slices.Sort(ids)
		return ids
	}
	config := writeFile(t, filepath.Join(t.TempDir(), "c.toml"), "hsms = ['vault1']\n[identity]\nembedded = true\n")
	if got := roles(Options{ConfigFile: config, DataDir: t.TempDir()}, "administrator.env", "vault1"); !slices.Equal(got, []string{access.RoleAdministrator}) {
		t.Errorf("production: %v", got)
	}
	all := []string{access.RoleAdministrator, access.RoleCryptoUser, access.RoleCryptoOfficer}
	slices.Sort(all)
	if got := roles(Options{Dev: true, DataDir: t.TempDir(), HSMs: []string{"one"}}, "dev.env", "one"); !slices.Equal(got, all) {
		t.Errorf("development: %v", got)
	}
}

// A server for real, with a passphrase: its operator makes an administrator, and only while it is stopped.
func TestRecoverAccess(t *testing.T) {
	const newcomer = "aaaaaaaa-0000-4000-8000-00000000000a"
	dir, pass := t.TempDir(), writeFile(t, filepath.Join(t.TempDir(), "pass"), "correct horse\n")
	config := writeFile(t, filepath.Join(t.TempDir(), "c.toml"), fmt.Sprintf("data = %q\nhsms = ['vault1']\n[seal]\nkind = 'passphrase'\npassphrase_file = %q\n[identity]\nembedded = true\n", dir, pass))
	options := Options{ConfigFile: config, DataDir: dir}
	var log bytes.Buffer
	recovery := Recovery{ConfigFile: config, HSM: "VAULT1", Principal: strings.ToUpper(newcomer), Log: &log}

	r := begin(t, options, "administrator.env")
	if _, err := RecoverAccess(t.Context(), recovery); err == nil || !strings.Contains(err.Error(), "a server is running on the data folder "+dir+"; stop it first") {
		t.Errorf("beside a running server: %v", err)
	}
	r.stop()
	before := len(assignments(t, options, "vault1"))

	refused := map[string]func(*Recovery){
		"is not an object ID": func(r *Recovery) { r.Principal = "ada" },
		"no HSM beta; it has vault1": func(r *Recovery) {
			r.HSM = "beta"
		},
		"passphrase": func(r *Recovery) {
			r.ConfigFile, r.DataDir = "", dir
			r.SealPassphraseFile = writeFile(t, filepath.Join(t.TempDir(), "pass"), "wrong\n")
		},
		"no database of a server": func(r *Recovery) { r.ConfigFile, r.DataDir = "", t.TempDir() },
		"nothing was changed: ":   func(r *Recovery) { r.Log = deaf{} },
	}
	for want, change := range refused {
		wrong := recovery
		change(&wrong)
		if _, err := RecoverAccess(t.Context(), wrong); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	if n := len(assignments(t, options, "vault1")); n != before {
		t.Fatalf("%d assignments after refusals, want %d", n, before)
	}

	log.Reset()
	done, err := RecoverAccess(t.Context(), recovery)
	if err != nil || done.HSM != "vault1" || done.Principal != newcomer || done.Already {
		t.Fatalf("%+v, %v", done, err)
	}
	if text := log.String(); strings.Count(text, "level=WARN") != 1 || !strings.Contains(text, newcomer) || !strings.Contains(text, "hsm=vault1") {
		t.Errorf("it is not loud: %s", text)
	}
	again, err := RecoverAccess(t.Context(), recovery)
	if err != nil || !again.Already {
		t.Errorf("a second time: %+v, %v", again, err)
	}
	list := assignments(t, options, "vault1")
	mine := func(a access.Assignment) bool {
		return a.PrincipalID == newcomer && a.RoleDefinitionID == access.RoleAdministrator && a.Scope == access.ScopeRoot
	}
	if len(list) != before+1 || !slices.ContainsFunc(list, mine) {
		t.Errorf("assignments: %+v", list)
	}
	begin(t, options, "administrator.env").stop()
	var told []string
	for _, r := range recorded(t, dir) {
		if r.Plane == audit.PlaneServer && r.Operation == "RecoverAccess" && r.Principal == newcomer && r.HSMName == "vault1" && strings.HasPrefix(r.Source, "uid ") {
			told = append(told, r.Phase+" "+r.Outcome)
		}
	}
	if want := []string{"intent ", "outcome failed", "intent ", "outcome allowed", "intent ", "outcome allowed"}; !slices.Equal(told, want) {
		t.Errorf("recorded: %q, want %q", told, want)
	}
}

// A database of which no server says that it is its own, is left alone: its seal may be anybody's.
func TestRecoverAccessKnowsItsDatabase(t *testing.T) {
	o := Options{DataDir: t.TempDir(), Dev: true}
	cfg, err := loadConfig(o)
	must(t, err)
	db, sl, err := openState(cfg, o)
	must(t, err)
	must(t, db.Close())
	sl.Close()
	_, err = RecoverAccess(context.Background(), Recovery{DataDir: o.DataDir, HSM: "alpha", Principal: "aaaaaaaa-0000-4000-8000-00000000000a", Log: &bytes.Buffer{}})
	if err == nil || !strings.Contains(err.Error(), "not that of a server that was started") {
		t.Errorf("got %v", err)
	}
}

// deaf takes no warning.
type deaf struct{}

func (deaf) Write([]byte) (int, error) { return 0, errors.New("no terminal") }
