// Package oidc_test holds Strongroom against an OpenID Connect provider that somebody else wrote: zitadel/oidc, over
// TLS. What the provider says of itself, its keys and its tokens are its own; only the few tokens that no honest
// provider issues are made here.
package oidc_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/uuid"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

// key is a signing key of the provider.
type key struct {
	id      string
	alg     jose.SignatureAlgorithm
	private any
	public  any
}

func newRSA(t *testing.T, id string) key {
	t.Helper()
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return key{id, jose.RS256, private, &private.PublicKey}
}

func newEC(t *testing.T, id string) key {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key{id, jose.ES256, private, &private.PublicKey}
}

// signing and published are a key as the provider asks for it.
type signing struct{ key }

func (s signing) ID() string                                  { return s.id }
func (s signing) SignatureAlgorithm() jose.SignatureAlgorithm { return s.alg }
func (s signing) Key() any                                    { return s.private }

type published struct{ key }

func (p published) ID() string                         { return p.id }
func (p published) Algorithm() jose.SignatureAlgorithm { return p.alg }
func (p published) Use() string                        { return "sig" }
func (p published) Key() any                           { return p.public }

// state is what a test decides about the provider.
type state struct {
	keys     []key // in its key set
	signer   key
	subject  string
	audience string
	claims   map[string]any // beside those that the provider sets
	now      func() time.Time
	lifetime time.Duration // of tokens, from now
	early    time.Duration // not-before is so much later than now
	down     bool
}

// provider is zitadel's, behind TLS on 127.0.0.1, with one client.
type provider struct {
	*httptest.Server
	op.Storage // what the client credentials grant does not ask for
	t          *testing.T

	mu    sync.Mutex
	state state
}

const (
	providerClient = "operators-laptop"
	providerSecret = "a secret of the test's"
)

func newProvider(t *testing.T) *provider {
	t.Helper()
	first := newRSA(t, "first")
	p := &provider{t: t, state: state{
		keys: []key{first}, signer: first, subject: uuid.NewString(), audience: resource, now: time.Now, lifetime: 10 * time.Minute,
	}}
	var theirs http.Handler
	p.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if p.get().down {
			panic(http.ErrAbortHandler) // the connection breaks
		}
		theirs.ServeHTTP(w, r)
	}))
	p.StartTLS()
	t.Cleanup(p.Close)
	made, err := op.NewProvider(&op.Config{AuthMethodPost: true}, p, op.StaticIssuer(p.URL), op.WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		t.Fatal(err)
	}
	theirs = made
	return p
}

func (p *provider) get() state {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.state
}

func (p *provider) set(change func(*state)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change(&p.state)
}

// token asks the provider for a token, as a client does, with a change of its state that is undone afterwards.
func (p *provider) token(change ...func(*state)) string {
	p.t.Helper()
	before := p.get()
	for _, c := range change {
		p.set(c)
	}
	defer p.set(func(s *state) { *s = before })
	form := url.Values{"grant_type": {"client_credentials"}, "client_id": {providerClient}, "client_secret": {providerSecret}, "scope": {"openid"}}
	endpoint := discovered(p.t, p.Client(), p.URL, "token_endpoint")
	resp, err := p.Client().PostForm(endpoint, form)
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	var answer struct {
		Token string `json:"access_token"`
	}
	if err := json.Unmarshal(body, &answer); err != nil || strings.Count(answer.Token, ".") != 2 {
		p.t.Fatalf("the provider answers %d %s", resp.StatusCode, body)
	}
	return answer.Token
}

// discovered is a member of an issuer's discovery document.
func discovered(t *testing.T, client *http.Client, issuer, member string) string {
	t.Helper()
	resp, err := client.Get(issuer + "/.well-known/openid-configuration")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var document map[string]any
	if err := json.NewDecoder(resp.Body).Decode(&document); err != nil {
		t.Fatal(err)
	}
	value, _ := document[member].(string)
	return value
}

// The provider's storage. Tokens of client credentials are JWTs.

func (p *provider) ClientCredentials(_ context.Context, id, secret string) (op.Client, error) {
	if id != providerClient || secret != providerSecret {
		return nil, errors.New("no such client")
	}
	return laptop{early: p.get().early}, nil
}

func (p *provider) ClientCredentialsTokenRequest(context.Context, string, []string) (op.TokenRequest, error) {
	s := p.get()
	return &oidc.JWTTokenRequest{Subject: s.subject, Audience: oidc.Audience{s.audience}}, nil
}

func (p *provider) CreateAccessToken(context.Context, op.TokenRequest) (string, time.Time, error) {
	s := p.get()
	return uuid.NewString(), s.now().Add(s.lifetime), nil
}

func (p *provider) GetPrivateClaimsFromScopes(context.Context, string, string, []string) (map[string]any, error) {
	return p.get().claims, nil
}

func (p *provider) SigningKey(context.Context) (op.SigningKey, error) {
	return signing{p.get().signer}, nil
}

func (p *provider) SignatureAlgorithms(context.Context) ([]jose.SignatureAlgorithm, error) {
	return []jose.SignatureAlgorithm{p.get().signer.alg}, nil
}

func (p *provider) KeySet(context.Context) (list []op.Key, err error) {
	for _, k := range p.get().keys {
		list = append(list, published{k})
	}
	return list, nil
}

func (p *provider) Health(context.Context) error { return nil }

// laptop is the one client.
type laptop struct {
	op.Client // what the client credentials grant does not ask for
	early     time.Duration
}

func (laptop) GetID() string                       { return providerClient }
func (laptop) AccessTokenType() op.AccessTokenType { return op.AccessTokenTypeJWT }
func (laptop) GrantTypes() []oidc.GrantType        { return []oidc.GrantType{oidc.GrantTypeClientCredentials} }
func (l laptop) ClockSkew() time.Duration          { return -l.early }
func (laptop) RestrictAdditionalAccessTokenScopes() func([]string) []string {
	return func(scopes []string) []string { return scopes }
}
