package server

import (
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"

	"strongroom/internal/api"
	"strongroom/internal/audit"
)

// az is the client ID that az signs users in with.
const az = "04b07795-8ddb-461a-bbee-02f9e1bf7b46"

type tokens struct {
	Access  string `json:"access_token"`
	Refresh string `json:"refresh_token"`
}

// grant sends a form to the token endpoint that az uses.
func (r *running) grant(form url.Values) (status int, answer tokens) {
	r.t.Helper()
	resp, err := r.client.PostForm(r.env["STRONGROOM_AUTHORITY"]+"/adfs/oauth2/token", form)
	must(r.t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	must(r.t, err)
	must(r.t, json.Unmarshal(body, &answer))
	return resp.StatusCode, answer
}

func userForm(name, password, resource string) url.Values {
	return url.Values{"grant_type": {"password"}, "client_id": {az}, "username": {name}, "password": {password}, "scope": {resource + "/.default openid offline_access"}}
}

func renewForm(token, resource string) url.Values {
	return url.Values{"grant_type": {"refresh_token"}, "client_id": {az}, "refresh_token": {token}, "scope": {resource + "/.default openid offline_access"}}
}

// The life of a user, on a server that runs: made, known and without a role; given one, at work; a new password ends the
// old one, and the sign-ins of before if that is asked for; deleted, refused with the next call. All of it is in the audit
// log, and no password or token is. Covers A8, A9, L2, L3.
func TestUsersOfARunningServer(t *testing.T) {
	dir := t.TempDir()
	r := begin(t, Options{Dev: true, DataDir: dir}, "dev.env")
	admin, ctx := r.admin(), t.Context()
	alpha := r.env["STRONGROOM_HSM_ALPHA_URL"]
	resource, call := "https://0.0.1:"+port(t, alpha), alpha+"/securitydomain?api-version=7.4"
	wantCall := func(token string, want int) {
		t.Helper()
		if got, body, _ := r.get(call, token); got != want {
			t.Errorf("the call is answered %d %s, want %d", got, body, want)
		}
	}
	wantGrant := func(form url.Values, want int) tokens {
		t.Helper()
		status, answer := r.grant(form)
		if status != want || want == 200 && (answer.Access == "" || answer.Refresh == "") {
			t.Errorf("%s is answered %d, want %d", form.Get("grant_type"), status, want)
		}
		return answer
	}
	anna, err := admin.CreateUser(ctx, api.CreateUser{Name: "Anna"})
	must(t, err)
	if _, err := admin.CreateUser(ctx, api.CreateUser{Name: "anna"}); refusedAs(err) != "Conflict" {
		t.Errorf("the name twice: %v", err)
	}
	first := wantGrant(userForm("anna", anna.Password, resource), 200)
	wantCall(first.Access, 403)
	wantGrant(userForm("anna", "wrong", resource), 400)
	wantGrant(userForm("nobody", "wrong", resource), 400)
	second := wantGrant(renewForm(first.Refresh, resource), 200)
	wantCall(second.Access, 403)

	rotated, err := admin.RotateUser(ctx, api.RotateUser{User: "ANNA"})
	must(t, err)
	if rotated.Password == anna.Password || rotated.Password == "" || rotated.ObjectID != anna.ObjectID || rotated.Name != "Anna" {
		t.Errorf("rotated: %+v", rotated)
	}
	wantGrant(userForm("anna", anna.Password, resource), 400)
	second = wantGrant(renewForm(second.Refresh, resource), 200) // the sign-in lives on
	wantCall(second.Access, 403)

	rotated, err = admin.RotateUser(ctx, api.RotateUser{User: anna.ObjectID, RevokeTokens: true})
	must(t, err)
	wantCall(second.Access, 401)
	wantGrant(renewForm(second.Refresh, resource), 400)
	third := wantGrant(userForm("anna", rotated.Password, resource), 200)
	wantCall(third.Access, 403)
	r.stop()

	r = begin(t, Options{Dev: true, DataDir: dir}, "dev.env") // whoever was signed in still is
	admin = r.admin()
	third = wantGrant(renewForm(third.Refresh, resource), 200)
	wantCall(third.Access, 403)
	list, err := admin.ListUsers(ctx, api.ListUsers{})
	must(t, err)
	if len(list.Users) != 1 || list.Users[0].Name != "Anna" || list.Users[0].Password != "" {
		t.Errorf("the list is %+v", list.Users)
	}
	if apps, err := admin.ListApplications(ctx, api.ListApplications{}); err != nil || len(apps.Applications) != 1 {
		t.Errorf("a user is among the applications: %v, %v", apps, err)
	}
	_, err = admin.DeleteUser(ctx, api.DeleteUser{User: "anna"})
	must(t, err)
	wantCall(third.Access, 401)
	wantGrant(renewForm(third.Refresh, resource), 400)
	wantGrant(userForm("anna", rotated.Password, resource), 400)
	if _, err := admin.DeleteUser(ctx, api.DeleteUser{User: "anna"}); refusedAs(err) != "UserNotFound" {
		t.Errorf("deleted twice: %v", err)
	}
	log := r.stderr.String()
	r.stop()

	var lines []string
	for _, e := range recorded(t, dir) {
		if e.Plane == audit.PlaneServer && e.Phase == audit.PhaseIntent || e.Plane != audit.PlaneServer && e.Plane != audit.PlaneIdentity || strings.Contains(e.Operation, "Application") {
			continue
		}
		whom := "nobody"
		switch {
		case e.Principal == anna.ObjectID && e.Plane == audit.PlaneServer && e.App == "" && e.Source == fmt.Sprintf("uid %d", os.Getuid()):
			whom = "anna"
		case e.Principal == anna.ObjectID && e.App == az:
			whom = "anna"
		case e.Principal != "" || e.App != "":
			whom = e.Principal + " " + e.App
		}
		lines = append(lines, strings.Join([]string{e.Operation, whom, e.Outcome, e.Code}, " "))
	}
	want := []string{
		"CreateUser anna allowed ", "CreateUser nobody refused Conflict",
		"IssueToken anna allowed ", "IssueToken nobody refused invalid_grant", "IssueToken nobody refused invalid_grant", "RefreshToken anna allowed ",
		"RotateUser anna allowed ", "IssueToken nobody refused invalid_grant", "RefreshToken anna allowed ",
		"RotateUserAndRevokeTokens anna allowed ", "RefreshToken nobody refused invalid_grant", "IssueToken anna allowed ",
		"RefreshToken anna allowed ", "ListUsers nobody allowed ", "DeleteUser anna allowed ", "RefreshToken nobody refused invalid_grant", "IssueToken nobody refused invalid_grant",
		"DeleteUser nobody refused UserNotFound",
	}
	if !slices.Equal(lines, want) {
		t.Errorf("recorded:\n%s\nwant:\n%s", strings.Join(lines, "\n"), strings.Join(want, "\n"))
	}
	text, _ := json.Marshal(recorded(t, dir))
	for what, s := range map[string]string{"the first password": anna.Password, "the last password": rotated.Password, "a refresh token": third.Refresh, "an access token": third.Access} {
		if strings.Contains(log+string(text), s) {
			t.Errorf("%s is in the log or in the audit log", what)
		}
	}
}

// The same while the server is stopped.
func TestUsersOfAStoppedServer(t *testing.T) {
	dir := t.TempDir()
	r := begin(t, Options{Dev: true, DataDir: dir}, "dev.env")
	resource := "https://0.0.1:" + port(t, r.env["STRONGROOM_HSM_ALPHA_URL"])
	r.stop()
	offline, err := OpenAdmin(t.Context(), Options{DataDir: dir})
	must(t, err)
	anna, err := offline.CreateUser(t.Context(), api.CreateUser{Name: "anna"})
	must(t, err)
	rotated, err := offline.RotateUser(t.Context(), api.RotateUser{User: "anna", RevokeTokens: true})
	must(t, err)
	gone, err := offline.CreateUser(t.Context(), api.CreateUser{Name: "gone"})
	must(t, err)
	_, err = offline.DeleteUser(t.Context(), api.DeleteUser{User: gone.ObjectID})
	must(t, err)
	list, err := offline.ListUsers(t.Context(), api.ListUsers{})
	must(t, err)
	if len(list.Users) != 1 || list.Users[0].ObjectID != anna.ObjectID {
		t.Errorf("the list is %+v", list.Users)
	}
	must(t, offline.Close())
	r = begin(t, Options{Dev: true, DataDir: dir}, "dev.env")
	for what, c := range map[string]struct {
		form url.Values
		want int
	}{
		"the new password": {userForm("anna", rotated.Password, resource), 200},
		"the old password": {userForm("anna", anna.Password, resource), 400},
		"who was deleted":  {userForm("gone", gone.Password, resource), 400},
	} {
		if status, _ := r.grant(c.form); status != c.want {
			t.Errorf("%s: %d, want %d", what, status, c.want)
		}
	}
}
