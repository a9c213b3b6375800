package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"strongroom/secret"
)

// Credentials are those of an application: OAuth 2.0 client credentials (RFC 6749 section 4.4).
type Credentials struct {
	Authority string // https://HOST[:PORT], where tokens are issued
	Tenant    string
	ClientID  string
	Secret    secret.Bytes
}

func (c Credentials) complete() bool {
	return c.Authority != "" && c.Tenant != "" && c.ClientID != "" && !c.Secret.IsZero()
}

// Token is one access token.
type Token struct {
	Authority, Tenant, ClientID string
	Scope                       string
	Access                      secret.Bytes
	Expires                     time.Time

	cached bool // it came from the cache, so a refusal may be worth a second try
}

// TokenCache keeps tokens between processes. Get returns a token for scope; authority, tenant and clientID narrow
// the choice where they are not empty.
type TokenCache interface {
	Get(authority, tenant, clientID, scope string) (Token, bool)
}

// ErrNoCredentials says that a call needs a token and there is nothing to get one with.
var ErrNoCredentials = errors.New("there are no credentials to sign in with")

// ErrNoIssuer says that the authority is none, or not for this tenant.
var ErrNoIssuer = errors.New("issues no tokens")

// earlier is how long before its end a token is no longer used: the clocks of two machines, and one slow call.
const earlier = 2 * time.Minute

type tokens struct {
	http        *http.Client
	credentials Credentials
	cache       TokenCache
	now         func() time.Time

	mu   sync.Mutex
	held map[string]Token // by scope
}

// get returns a token that is good for a while: held, cached, or new.
func (t *tokens) get(ctx context.Context, scope string) (Token, error) {
	t.mu.Lock()
	token, ok := t.held[scope]
	t.mu.Unlock()
	if ok && t.good(token) {
		return token, nil
	}
	if t.cache != nil {
		c := t.credentials
		if token, ok := t.cache.Get(c.Authority, c.Tenant, c.ClientID, scope); ok && t.good(token) {
			token.cached = true
			t.hold(scope, token)
			return token, nil
		}
	}
	return t.renew(ctx, scope)
}

func (t *tokens) good(token Token) bool { return t.now().Add(earlier).Before(token.Expires) }

func (t *tokens) hold(scope string, token Token) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.held[scope] = token
}

// renew asks the issuer.
func (t *tokens) renew(ctx context.Context, scope string) (Token, error) {
	c := t.credentials
	if !c.complete() {
		return Token{}, ErrNoCredentials
	}
	authority, err := baseURL(c.Authority)
	if err != nil {
		return Token{}, fmt.Errorf("authority: %w", err)
	}
	endpoint := authority.JoinPath(c.Tenant, "oauth2/v2.0/token")
	form := url.Values{
		"grant_type":    {"client_credentials"},
		"client_id":     {c.ClientID},
		"client_secret": {string(c.Secret.Reveal())},
		"scope":         {scope},
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, endpoint.String(), strings.NewReader(form.Encode()))
	if err != nil {
		return Token{}, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Accept", "application/json")
	resp, err := t.http.Do(req)
	if err != nil {
		return Token{}, err
	}
	defer drain(resp)
	a, err := read(resp)
	if refused, ok := errors.AsType[*Error](err); ok && !refused.issuer && refused.Status/100 == 4 {
		// Some other part of a server, or another server: its words would be about something else.
		return Token{}, fmt.Errorf("%s %w for tenant %q (it answered %d)", authority.Host, ErrNoIssuer, c.Tenant, refused.Status)
	}
	if err != nil {
		return Token{}, err
	}
	var wire struct {
		AccessToken string `json:"access_token"`
		ExpiresIn   int64  `json:"expires_in"`
		TokenType   string `json:"token_type"`
	}
	if err := json.Unmarshal(a.body, &wire); err != nil || wire.AccessToken == "" || !strings.EqualFold(wire.TokenType, "Bearer") {
		return Token{}, fmt.Errorf("%s %w for tenant %q (it did not answer with a token)", authority.Host, ErrNoIssuer, c.Tenant)
	}
	clear(a.body)
	token := Token{
		Authority: c.Authority, Tenant: c.Tenant, ClientID: c.ClientID, Scope: scope,
		Access:  secret.Take([]byte(wire.AccessToken)),
		Expires: t.now().Add(time.Duration(min(max(wire.ExpiresIn, 0), 86400)) * time.Second),
	}
	t.hold(scope, token)
	return token, nil
}

// SignIn gets a new token for the HSM at address, from the issuer and past the cache.
func (c *Client) SignIn(ctx context.Context, address string) (Token, error) {
	u, err := baseURL(address)
	if err != nil {
		return Token{}, err
	}
	scope, err := c.scopeOf(ctx, u)
	if err != nil {
		return Token{}, err
	}
	return c.tokens.renew(ctx, scope)
}

// SignInServer gets a new token for the control plane at address.
func (c *Client) SignInServer(ctx context.Context, address string) (Token, error) {
	u, err := baseURL(address)
	if err != nil {
		return Token{}, err
	}
	return c.tokens.renew(ctx, serverScope(u))
}
