package oidc_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"strongroom/internal/access"
	"strongroom/internal/failure"
)

const resource = "https://managedhsm.example.org"

// verifier is Strongroom's, with the provider as its one issuer and a clock that tests put forward.
type verifier struct {
	*access.Verifier
	t *testing.T

	mu      sync.Mutex
	forward time.Duration
}

func (v *verifier) now() time.Time {
	v.mu.Lock()
	defer v.mu.Unlock()
	return time.Now().Add(v.forward)
}

func (v *verifier) advance(d time.Duration) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.forward += d
}

func newVerifier(t *testing.T, p *provider, change ...func(*access.IssuerConfig)) *verifier {
	t.Helper()
	v := &verifier{t: t}
	p.set(func(s *state) { s.now = v.now })
	config := access.IssuerConfig{URL: p.URL, Client: p.Client(), Now: v.now, Log: slog.New(slog.NewTextHandler(io.Discard, nil))}
	for _, c := range change {
		c(&config)
	}
	issuer, err := access.OpenIssuer(config)
	if err != nil {
		t.Fatal(err)
	}
	if v.Verifier, err = access.NewVerifier([]access.Issuer{issuer}, v.now); err != nil {
		t.Fatal(err)
	}
	return v
}

// want verifies a token and compares how that ends.
func (v *verifier) want(token string, kind error) access.Caller {
	v.t.Helper()
	caller, err := v.Verify(v.t.Context(), token, []string{resource})
	if kind == nil && err != nil || kind != nil && !errors.Is(err, kind) {
		v.t.Errorf("got %v, want %v", err, kind)
	}
	return caller
}

// The provider's tokens, by both kinds of keys, with what they say about who it is.
func TestTokensOfAnotherProvider(t *testing.T) {
	for _, k := range []key{newRSA(t, "rsa"), newEC(t, "ec")} {
		t.Run(string(k.alg), func(t *testing.T) {
			p := newProvider(t)
			p.set(func(s *state) {
				s.keys, s.signer = []key{k}, k
				s.claims = map[string]any{"groups": []string{"g-1", "g-2"}, "azp": "their-app"}
			})
			v := newVerifier(t, p, func(c *access.IssuerConfig) { c.Prefix, c.Groups = "corp", true })
			caller := v.want(p.token(), nil)
			if caller.ObjectID != "corp:"+p.get().subject || fmt.Sprint(caller.Groups) != "[corp:g-1 corp:g-2]" || caller.AppID != "their-app" || caller.Issuer != p.URL {
				t.Errorf("it says %+v", caller)
			}
			plain := newVerifier(t, p) // no prefix, and groups not asked for
			if caller := plain.want(p.token(), nil); caller.ObjectID != p.get().subject || caller.Groups != nil {
				t.Errorf("without prefix and groups it says %+v", caller)
			}
		})
	}
}

// The provider's own tokens that are not for us, not now, or not from whom they say. Covers A4.
func TestWrongTokensOfAnotherProvider(t *testing.T) {
	p := newProvider(t)
	v := newVerifier(t, p)
	unauthorized := failure.Unauthorized
	for name, c := range map[string]struct {
		change func(*state)
		want   error
	}{
		"good":                      {func(*state) {}, nil},
		"another audience":          {func(s *state) { s.audience = "https://vault.example.org" }, unauthorized},
		"the host below":            {func(s *state) { s.audience = resource + ".evil.example" }, unauthorized},
		"a slash at the end":        {func(s *state) { s.audience = resource + "/" }, nil},
		"expired, within the skew":  {func(s *state) { s.lifetime = -access.Skew + 5*time.Second }, nil},
		"expired":                   {func(s *state) { s.lifetime = -access.Skew - time.Second }, unauthorized},
		"early, within the skew":    {func(s *state) { s.early = access.Skew - 5*time.Second }, nil},
		"early":                     {func(s *state) { s.early = access.Skew + 30*time.Second }, unauthorized},
		"a principal with a colon":  {func(s *state) { s.subject = "corp:" + s.subject }, unauthorized},
		"a key that was never told": {func(s *state) { s.signer = newRSA(t, "first") }, unauthorized},
		"groups that are no list":   {func(s *state) { s.claims = map[string]any{"groups": map[string]any{"a": 1}} }, nil}, // not read
	} {
		t.Run(name, func(t *testing.T) {
			v.t = t
			v.want(p.token(c.change), c.want)
		})
	}
	v.t = t
	t.Run("groups that are no list, and are read", func(t *testing.T) {
		g := newVerifier(t, p, func(c *access.IssuerConfig) { c.Groups = true })
		g.want(p.token(func(s *state) { s.claims = map[string]any{"groups": map[string]any{"a": 1}} }), unauthorized)
	})
	t.Run("another provider", func(t *testing.T) {
		other := newProvider(t)
		v.want(other.token(), unauthorized)
		// Its key, in the first one's name.
		v.want(resign(t, p.token(), other.get().signer), unauthorized)
	})
	t.Run("an algorithm that is not configured", func(t *testing.T) {
		strict := newVerifier(t, p, func(c *access.IssuerConfig) { c.Algorithms = []string{"ES256"} })
		strict.want(p.token(), unauthorized)
	})
}

// What no provider issues: tokens without a signature, or with one that anybody can make. Covers A4.
func TestForgeriesOfAnotherProvidersTokens(t *testing.T) {
	p := newProvider(t)
	v := newVerifier(t, p)
	token := p.token()
	v.want(token, nil)
	parts := strings.Split(token, ".")
	header := func(text string) string { return base64.RawURLEncoding.EncodeToString([]byte(text)) }
	k := p.get().signer
	der, err := x509.MarshalPKIXPublicKey(k.public)
	if err != nil {
		t.Fatal(err)
	}
	jwk, err := json.Marshal(jose.JSONWebKey{Key: k.public, KeyID: k.id, Algorithm: string(k.alg), Use: "sig"})
	if err != nil {
		t.Fatal(err)
	}
	hs256 := func(secret []byte) string {
		signed := header(`{"alg":"HS256","kid":"first","typ":"JWT"}`) + "." + parts[1]
		mac := hmac.New(sha256.New, secret)
		mac.Write([]byte(signed))
		return signed + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
	}
	for name, forged := range map[string]string{
		"alg none":                    header(`{"alg":"none"}`) + "." + parts[1] + ".",
		"alg None, with a signature":  header(`{"alg":"None","kid":"first"}`) + "." + parts[1] + "." + parts[2],
		"HS256 with the key as PEM":   hs256(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})),
		"HS256 with the key as DER":   hs256(der),
		"HS256 with the key as JWK":   hs256(jwk),
		"its own key in the header":   header(`{"alg":"RS256","jwk":`+string(jwk)+`}`) + "." + parts[1] + "." + parts[2],
		"a key set in the header":     header(`{"alg":"RS256","kid":"first","jku":"`+p.URL+`/keys"}`) + "." + parts[1] + "." + parts[2],
		"another payload":             parts[0] + "." + header(`{"iss":"`+p.URL+`","sub":"root","aud":"`+resource+`","exp":9999999999,"nbf":1}`) + "." + parts[2],
		"a signature of nothing":      parts[0] + "." + parts[1] + ".",
		"a signature that is not its": parts[0] + "." + parts[1] + "." + parts[2][:len(parts[2])-4] + "AAAA",
	} {
		t.Run(name, func(t *testing.T) {
			v.t = t
			v.want(forged, failure.Unauthorized)
		})
	}
}

// resign puts another signature under a token's claims, with the header that the token had.
func resign(t *testing.T, token string, k key) string {
	t.Helper()
	payload, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1])
	if err != nil {
		t.Fatal(err)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: k.alg, Key: jose.JSONWebKey{Key: k.private, KeyID: k.id}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	jws, err := signer.Sign(payload)
	if err != nil {
		t.Fatal(err)
	}
	out, err := jws.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// The provider turns to a new key, and later takes the old one out of its key set.
func TestAnotherProviderRotatesItsKeys(t *testing.T) {
	p := newProvider(t)
	v := newVerifier(t, p)
	old := p.token(func(s *state) { s.lifetime = 3 * time.Hour })
	v.want(old, nil)
	second := newEC(t, "second")
	p.set(func(s *state) { s.keys, s.signer = append(s.keys, second), second })
	fresh := p.token()
	v.want(fresh, failure.Unauthorized) // its keys were read a moment ago
	v.advance(31 * time.Second)
	v.want(fresh, nil)
	v.want(old, nil)

	p.set(func(s *state) { s.keys = []key{second} })
	v.want(old, nil)
	v.advance(time.Hour) // the age at which keys are read anew, behind the back of the first who comes
	v.want(old, nil)
	late := p.token()
	v.want(late, nil)
	for range 100 { // the reading is under way; the token that made it begin did not wait
		if _, err := v.Verify(t.Context(), old, []string{resource}); err != nil {
			break
		}
		v.want(p.token(), nil) // goes over the network, as the reading does
	}
	v.want(old, failure.Unauthorized)
	v.want(p.token(), nil)
}

// The provider is down. Keys that are kept go on to verify, also the tokens that were never seen; of a key that is not
// there nobody can tell; and all is well when it is back.
func TestAnotherProviderIsDown(t *testing.T) {
	p := newProvider(t)
	v := newVerifier(t, p)
	second := newRSA(t, "second")
	seen, unseen := p.token(), p.token()
	ofSecond := p.token(func(s *state) { s.signer = second })
	v.want(seen, nil)
	p.set(func(s *state) { s.down, s.keys, s.signer = true, []key{s.signer, second}, second })
	v.advance(31 * time.Second)
	v.want(ofSecond, failure.Unavailable)
	v.want(seen, nil)
	v.want(unseen, nil)
	v.advance(time.Minute)
	v.want(ofSecond, failure.Unavailable)
	p.set(func(s *state) { s.down = false })
	v.advance(31 * time.Second)
	v.want(ofSecond, nil)
	v.want(p.token(), nil)
}

// A provider that is down while the server starts.
func TestAnotherProviderIsDownAtFirst(t *testing.T) {
	p := newProvider(t)
	v := newVerifier(t, p)
	token := p.token()
	p.set(func(s *state) { s.down = true })
	v.want(token, failure.Unavailable)
	p.set(func(s *state) { s.down = false })
	v.want(token, failure.Unavailable) // it was asked a moment ago
	v.advance(31 * time.Second)
	v.want(token, nil)
}
