package cli

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"strongroom/internal/client"
	"strongroom/internal/durable"
	"strongroom/secret"
)

// tokenFileName holds the tokens of login beside the settings file, mode 0600.
const tokenFileName = "tokens.json"

const maxTokens = 64

func (a *app) loginCommand() *cobra.Command {
	var urls []string
	cmd := a.verb("login", "Sign in and keep the tokens", `Signs in with the application's ID and secret, and keeps the tokens in a file that only you can read, so that
later commands need no secret until the tokens run out (an hour, mostly). Tokens are got for the server and for
each HSM named by --url, STRONGROOM_URL or STRONGROOM_HSM_NAME_URL. The secret is not kept; logout removes the tokens.`, 0,
		func(cmd *cobra.Command, _ []string) error { return a.login(cmd, urls) })
	cmd.Flags().StringArrayVar(&urls, "url", nil, "address or name of an HSM to sign in to; may be given several times")
	must(cmd.RegisterFlagCompletionFunc("url", cobra.NoFileCompletions))
	return a.connected(cmd, settingServer)
}

func (a *app) login(cmd *cobra.Command, urls []string) error {
	s, err := a.settingsOf(cmd)
	if err != nil {
		return err
	}
	if s.Authority == "" || s.Tenant == "" || s.ClientID == "" {
		return problemf("no-credentials", "give --authority, --tenant and --client-id, or source a development server's dev.env", "it is not said where to sign in and as whom")
	}
	if len(urls) == 0 {
		if urls = a.knownHSMs(); s.URL != "" {
			urls = append(urls, s.URL)
		}
	}
	c, err := a.connect(cmd.Context(), s)
	if err != nil {
		return err
	}
	defer c.Close()
	dir, err := a.configDir()
	if err != nil {
		return err
	}
	token, err := c.SignInServer(cmd.Context(), s.Server)
	if err != nil {
		return err
	}
	got, whose := []client.Token{token}, []string{s.Server}
	for _, url := range urls {
		address, err := a.address(url)
		if err != nil {
			return err
		}
		if address = strings.TrimSuffix(address, "/"); slices.Contains(whose[1:], address) {
			continue
		}
		token, err := c.SignIn(cmd.Context(), address)
		if err != nil {
			return err
		}
		got, whose = append(got, token), append(whose, address)
	}
	file := tokenFile{path: filepath.Join(dir, tokenFileName), now: a.now}
	if err := file.add(got); err != nil {
		return err
	}
	type signedIn struct {
		For     string    `json:"for"` // address; the scope names the audience, which is not the same for an HSM
		Scope   string    `json:"scope"`
		Expires time.Time `json:"expires"`
	}
	result := struct {
		ClientID string     `json:"client_id"`
		File     string     `json:"file"`
		Tokens   []signedIn `json:"tokens"`
	}{ClientID: s.ClientID, File: file.path}
	for i, t := range got {
		result.Tokens = append(result.Tokens, signedIn{whose[i], t.Scope, t.Expires.UTC().Truncate(time.Second)})
	}
	a.say("signed in as %s; the tokens are in %s until they expire, or: strongroom logout", s.ClientID, file.path)
	return a.result(result, func(t *table) {
		t.row("SIGNED IN TO", "ADDRESS", "UNTIL")
		for i, one := range result.Tokens {
			what := "HSM"
			if i == 0 {
				what = "server"
			}
			t.row(what, one.For, one.Expires.Format(time.RFC3339))
		}
	})
}

func (a *app) logoutCommand() *cobra.Command {
	return a.verb("logout", "Remove the tokens that login keeps", `Removes the file with the tokens of login, of all servers and HSMs. A copy of a token that is elsewhere stays good until
it expires; "identity app rotate --revoke-tokens" on the server stops those too.`, 0,
		func(*cobra.Command, []string) error {
			dir, err := a.configDir()
			if err != nil {
				return err
			}
			path := filepath.Join(dir, tokenFileName)
			err = durable.Remove(path)
			removed := err == nil
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fileProblem(err)
			}
			if !removed {
				a.say("there were no tokens to remove")
			}
			return a.result(struct {
				File    string `json:"file"`
				Removed bool   `json:"removed"`
			}{path, removed}, func(t *table) {
				if removed {
					t.field("removed", path)
				}
			})
		})
}

// bearer is what a token is made of (RFC 6750 section 2.1). Anything else cannot be sent, and is damage.
var bearer = regexp.MustCompile(`^[0-9A-Za-z._~+/-]+=*$`)

// tokenFile is the client's token cache on disk.
type tokenFile struct {
	path string
	now  func() time.Time
}

type storedTokens struct {
	Version int           `json:"version"` // 1
	Tokens  []storedToken `json:"tokens"`
}

type storedToken struct {
	Authority string    `json:"authority"`
	Tenant    string    `json:"tenant"`
	ClientID  string    `json:"client_id"`
	Scope     string    `json:"scope"`
	Token     string    `json:"token"`
	Expires   time.Time `json:"expires"`
}

// load returns what is in the file and still good. A file that is missing or not ours is empty: it is only a cache.
func (f tokenFile) load() storedTokens {
	var s storedTokens
	data, err := readFile(context.Background(), f.path, 1<<20)
	if err != nil || json.Unmarshal(data, &s) != nil || s.Version != 1 {
		return storedTokens{Version: 1}
	}
	clear(data)
	var good []storedToken
	for _, t := range s.Tokens {
		if f.now().Before(t.Expires) && bearer.MatchString(t.Token) {
			good = append(good, t)
		}
	}
	s.Tokens = good
	return s
}

// Get implements client.TokenCache.
func (f tokenFile) Get(authority, tenant, clientID, scope string) (client.Token, bool) {
	fits := func(want, have string) bool { return want == "" || want == have }
	for _, t := range f.load().Tokens {
		if t.Scope == scope && fits(authority, t.Authority) && fits(tenant, t.Tenant) && fits(clientID, t.ClientID) {
			return client.Token{
				Authority: t.Authority, Tenant: t.Tenant, ClientID: t.ClientID, Scope: t.Scope,
				Access: secret.New([]byte(t.Token)), Expires: t.Expires,
			}, true
		}
	}
	return client.Token{}, false
}

// add puts tokens in front of those there are, in place of older ones for the same.
func (f tokenFile) add(tokens []client.Token) error {
	s := storedTokens{Version: 1}
	for _, t := range tokens {
		s.Tokens = append(s.Tokens, storedToken{t.Authority, t.Tenant, t.ClientID, t.Scope, string(t.Access.Reveal()), t.Expires})
	}
	same := func(a, b storedToken) bool {
		return a.Authority == b.Authority && a.Tenant == b.Tenant && a.ClientID == b.ClientID && a.Scope == b.Scope
	}
next:
	for _, old := range f.load().Tokens {
		for _, t := range s.Tokens {
			if same(old, t) || len(s.Tokens) >= maxTokens {
				continue next
			}
		}
		s.Tokens = append(s.Tokens, old)
	}
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	defer clear(data)
	if err := durable.MkdirAll(filepath.Dir(f.path), 0o700); err != nil {
		return fileProblem(err)
	}
	return writeFile(f.path, data, secretFile, true)
}
