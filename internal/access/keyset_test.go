package access

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"

	"strongroom/internal/failure"
)

// provider is an OpenID Connect issuer on a TLS server. Its answers can be exchanged, and it counts what it is
// asked.
type provider struct {
	*httptest.Server
	key *ecdsa.PrivateKey // of kid "first"

	mu        sync.Mutex
	document  http.HandlerFunc
	keys      http.HandlerFunc
	documents int // discovery documents asked for
	keySets   int
	elsewhere int
}

func newProvider(t *testing.T) *provider {
	t.Helper()
	p := &provider{key: newKey(t)}
	p.Server = httptest.NewUnstartedServer(http.HandlerFunc(p.serve))
	p.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError) // clients that distrust the certificate
	p.StartTLS()
	t.Cleanup(p.Close)
	p.document = func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]any{"issuer": p.URL, "jwks_uri": p.URL + "/keys", "response_types_supported": []string{"code"}})
	}
	p.publish(public(p.key, "first"))
	return p
}

func (p *provider) serve(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	answer := http.NotFound
	switch r.URL.Path {
	case "/.well-known/openid-configuration":
		p.documents++
		answer = p.document
	case "/keys":
		p.keySets++
		answer = p.keys
	default:
		p.elsewhere++
	}
	p.mu.Unlock()
	answer(w, r)
}

func (p *provider) set(document, keys http.HandlerFunc) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if document != nil {
		p.document = document
	}
	if keys != nil {
		p.keys = keys
	}
}

func (p *provider) publish(keys ...jose.JSONWebKey) {
	p.set(nil, func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(jose.JSONWebKeySet{Keys: keys})
	})
}

func (p *provider) counts() [3]int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return [3]int{p.documents, p.keySets, p.elsewhere}
}

func public(key *ecdsa.PrivateKey, kid string) jose.JSONWebKey {
	return jose.JSONWebKey{Key: key.Public(), KeyID: kid, Algorithm: "ES256", Use: "sig"}
}

func status(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
}

func body(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, text) }
}

// cutOff promises more than it sends.
func cutOff(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Length", "1000")
	_, _ = io.WriteString(w, `{"keys":[`)
	_ = http.NewResponseController(w).Flush()
	panic(http.ErrAbortHandler)
}

// endless answers until the reader has had enough, or a limit that is far above every bound.
func endless(w http.ResponseWriter, _ *http.Request) {
	for range 1 << 10 {
		if _, err := w.Write(bytes.Repeat([]byte(" "), 64<<10)); err != nil {
			return
		}
	}
}

// bench is a verifier for one provider, with a clock to move and a log to read.
type bench struct {
	*provider
	issuer Issuer
	v      *Verifier

	mu  sync.Mutex
	at  time.Time
	log bytes.Buffer
}

func (b *bench) now() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.at
}

func (b *bench) advance(d time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.at = b.at.Add(d)
}

func (b *bench) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.log.Write(p)
}

func (b *bench) logged() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.log.String()
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{provider: newProvider(t), at: noon}
	b.open(t, b.URL, b.Client())
	return b
}

func (b *bench) open(t *testing.T, url string, client *http.Client) {
	t.Helper()
	var err error
	b.issuer, err = OpenIssuer(IssuerConfig{URL: url, Algorithms: []string{"ES256"}, Client: client, Now: b.now, Log: slog.New(slog.NewTextHandler(b, nil))})
	if err != nil {
		t.Fatal(err)
	}
	if b.v, err = NewVerifier([]Issuer{b.issuer}, b.now); err != nil {
		t.Fatal(err)
	}
}

// token is good but for who signed it.
func (b *bench) token(t *testing.T, key *ecdsa.PrivateKey, kid string) string {
	t.Helper()
	header := map[jose.HeaderKey]any{}
	if kid != "" {
		header["kid"] = kid
	}
	now := b.now()
	return sign(t, jose.ES256, key, header, claims(map[string]any{"iss": b.issuer.URL, "nbf": now.Unix(), "exp": now.Add(time.Hour).Unix()}))
}

func (b *bench) verify(t *testing.T, key *ecdsa.PrivateKey, kid string) error {
	t.Helper()
	caller, err := b.v.Verify(t.Context(), b.token(t, key, kid), []string{resource})
	if (err == nil) == (caller.ObjectID == "") {
		t.Fatalf("got caller %q with error %v", caller.ObjectID, err)
	}
	return err
}

// held keeps the issuer from answering with its keys until what it returns is closed.
func (b *bench) held() chan struct{} {
	b.provider.mu.Lock()
	defer b.provider.mu.Unlock()
	gate, answer := make(chan struct{}), b.keys
	b.keys = func(w http.ResponseWriter, r *http.Request) {
		<-gate
		answer(w, r)
	}
	return gate
}

// settle waits until no reading is under way.
func (b *bench) settle() {
	k := b.issuer.Keys.(*remoteKeys)
	k.mu.Lock()
	running := k.running
	k.mu.Unlock()
	if running != nil {
		<-running
	}
}

func (b *bench) wantCounts(t *testing.T, readings int) {
	t.Helper()
	if got := b.counts(); got != [3]int{readings, readings, 0} {
		t.Errorf("the issuer was asked %v (discovery, keys, elsewhere), want %d readings", got, readings)
	}
}

func want(t *testing.T, err, kind error) {
	t.Helper()
	if kind == nil && err != nil {
		t.Errorf("refused: %v", err)
	} else if kind != nil && !errors.Is(err, kind) {
		t.Errorf("got %v, want %v", err, kind)
	}
}

// A server may be started, and an issuer opened, while the issuer is down. It is asked with the first token.
func TestKeysAreReadWithTheFirstToken(t *testing.T) {
	b := newBench(t)
	b.wantCounts(t, 0)
	want(t, b.verify(t, b.key, "first"), nil)
	want(t, b.verify(t, b.key, "first"), nil)
	want(t, b.verify(t, b.key, ""), nil) // RFC 7515 section 4.1.4: kid is optional
	b.wantCounts(t, 1)
}

func TestPrefetchReadsBeforeTheFirstToken(t *testing.T) {
	b := newBench(t)
	b.issuer.Prefetch()
	b.settle()
	b.wantCounts(t, 1)
	want(t, b.verify(t, b.key, "first"), nil)
	b.wantCounts(t, 1)
	Issuer{}.Prefetch() // an issuer with keys in memory has nothing to read
}

// A stranger makes tokens up. However many he sends, the issuer is asked twice a minute at most, and whoever has
// a good token does not notice. Covers A4, A5.
func TestForgedTokensDoNotReachTheIssuer(t *testing.T) {
	for name, kid := range map[string]func(i int) string{
		"a kid that does not exist": func(int) string { return "made-up" },
		"a new kid each time":       func(i int) string { return fmt.Sprint("made-up-", i) },
		"no kid":                    func(int) string { return "" },
	} {
		t.Run(name, func(t *testing.T) {
			b, mallory := newBench(t), newKey(t)
			for i := range 100 {
				want(t, b.verify(t, mallory, kid(i)), failure.Unauthorized)
			}
			b.wantCounts(t, 1)
			b.advance(fetchInterval - time.Nanosecond)
			want(t, b.verify(t, mallory, kid(100)), failure.Unauthorized)
			b.wantCounts(t, 1)
			b.advance(time.Nanosecond)
			for i := range 100 {
				want(t, b.verify(t, mallory, kid(101+i)), failure.Unauthorized)
			}
			b.wantCounts(t, 2)
			want(t, b.verify(t, b.key, "first"), nil)
			b.wantCounts(t, 2)
		})
	}
	t.Run("a kid that exists", func(t *testing.T) {
		b, mallory := newBench(t), newKey(t)
		for range 3 {
			want(t, b.verify(t, mallory, "first"), failure.Unauthorized)
			b.advance(fetchInterval)
		}
		b.wantCounts(t, 1)
	})
}

// The issuer signs with a new key and withdraws the old one.
func TestKeysRotate(t *testing.T) {
	for name, kid := range map[string]string{"by kid": "second", "without kid": ""} {
		t.Run(name, func(t *testing.T) {
			b, second := newBench(t), newKey(t)
			want(t, b.verify(t, b.key, "first"), nil)
			b.publish(public(second, "second"))
			want(t, b.verify(t, second, kid), failure.Unauthorized) // the keys are younger than the interval
			want(t, b.verify(t, b.key, "first"), nil)
			b.advance(fetchInterval)
			want(t, b.verify(t, second, kid), nil)
			want(t, b.verify(t, b.key, "first"), failure.Unauthorized)
			b.wantCounts(t, 2)
		})
	}
}

// A key that the issuer has withdrawn stops working although nobody signs with a new one.
func TestWithdrawnKeyStopsWorking(t *testing.T) {
	for name, published := range map[string][]jose.JSONWebKey{"another key is left": {public(newKey(t), "second")}, "no key is left": {}} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			want(t, b.verify(t, b.key, "first"), nil)
			b.publish(published...)
			b.advance(maxKeyAge - time.Nanosecond)
			want(t, b.verify(t, b.key, "first"), nil)
			b.wantCounts(t, 1)
			b.advance(time.Nanosecond)
			answers := b.held()
			want(t, b.verify(t, b.key, "first"), nil) // does not wait for the reading that it starts
			close(answers)
			b.settle()
			if err := b.verify(t, b.key, "first"); err == nil {
				t.Error("the withdrawn key still works")
			}
			b.wantCounts(t, 2)
		})
	}
}

// breakages are what an issuer may do wrong, and words that the operator finds in the log.
var breakages = map[string]struct {
	document, keys func(p *provider) http.HandlerFunc
	says           string
}{
	"discovery down":               {document: fixed(status(500)), says: "answers 500"},
	"discovery moved":              {document: elsewhere(302), says: "redirects are not followed"},
	"discovery moved for good":     {document: elsewhere(308), says: "redirects are not followed"},
	"discovery huge":               {document: fixed(endless), says: "larger than 262144 bytes"},
	"discovery garbage":            {document: fixed(body("<html>")), says: "cannot be used"},
	"discovery nested":             {document: fixed(body(strings.Repeat("[", 100_000))), says: "cannot be used"},
	"discovery a list":             {document: fixed(body("[]")), says: "not an object with an issuer"},
	"discovery of another issuer":  {document: fixed(body(`{"issuer":"https://evil.example","jwks_uri":"https://evil.example/keys"}`)), says: "https://evil.example"},
	"discovery with a slash":       {document: document(`{"issuer":"%[1]s/","jwks_uri":"%[1]s/keys"}`), says: "configure exactly that URL"},
	"discovery names two issuers":  {document: document(`{"issuer":"%[1]s","issuer":"https://evil.example","jwks_uri":"%[1]s/keys"}`), says: "cannot be used"},
	"no jwks_uri":                  {document: document(`{"issuer":"%[1]s"}`), says: "names no jwks_uri"},
	"jwks_uri plain HTTP":          {document: document(`{"issuer":"%[1]s","jwks_uri":"http://keys.example"}`), says: "not an https URL"},
	"jwks_uri with credentials":    {document: document(`{"issuer":"%[1]s","jwks_uri":"https://u:p@keys.example"}`), says: "credentials"},
	"keys down":                    {keys: fixed(status(503)), says: "answers 503"},
	"keys moved":                   {keys: elsewhere(307), says: "redirects are not followed"},
	"keys without content":         {keys: fixed(status(204)), says: "answers 204"},
	"keys huge":                    {keys: fixed(endless), says: "larger than 1048576 bytes"},
	"keys cut off":                 {keys: fixed(body(`{"keys":[`)), says: "cannot be used"},
	"keys no list":                 {keys: fixed(body(`{"keys":{}}`)), says: "not an object with a list of keys"},
	"keys missing":                 {keys: fixed(body(`{}`)), says: "not an object with a list of keys"},
	"keys without number":          {keys: fixed(body(`{"keys":[` + strings.Repeat(`{},`, maxKeys) + `{}]}`)), says: "more than 100 keys"},
	"connection cut in the middle": {keys: fixed(cutOff), says: "EOF"},
}

func fixed(h http.HandlerFunc) func(*provider) http.HandlerFunc {
	return func(*provider) http.HandlerFunc { return h }
}

func document(format string) func(*provider) http.HandlerFunc {
	return func(p *provider) http.HandlerFunc { return body(fmt.Sprintf(format, p.URL)) }
}

func elsewhere(code int) func(*provider) http.HandlerFunc {
	return func(p *provider) http.HandlerFunc {
		return http.RedirectHandler(p.URL+"/elsewhere", code).ServeHTTP
	}
}

func (b *bench) breakWith(document, keys func(p *provider) http.HandlerFunc) {
	if document != nil {
		b.set(document(b.provider), nil)
	}
	if keys != nil {
		b.set(nil, keys(b.provider))
	}
}

// An issuer that is down, or that answers nonsense, from the start: nobody can tell whether its tokens are good.
// The answer is "try again", the log says what to do, and when the issuer is back so are its users.
func TestIssuerDownAtStart(t *testing.T) {
	for name, c := range breakages {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			works := [2]http.HandlerFunc{b.document, b.provider.keys}
			b.breakWith(c.document, c.keys)
			for range 3 {
				err := b.verify(t, b.key, "first")
				want(t, err, failure.Unavailable)
				if errors.Is(err, failure.Unauthorized) {
					t.Errorf("%v also says that the token is bad", err)
				}
			}
			if got := b.counts(); got[0] != 1 || got[1] > 1 || got[2] != 0 {
				t.Errorf("the issuer was asked %v (discovery, keys, elsewhere), want one reading", got)
			}
			log := b.logged()
			if strings.Count(log, "level=WARN") != 1 || !strings.Contains(log, b.URL) || !strings.Contains(log, c.says) {
				t.Errorf("want one warning with %q and the issuer's URL, got %q", c.says, log)
			}
			b.set(works[0], works[1])
			want(t, b.verify(t, b.key, "first"), failure.Unavailable) // not asked again yet
			b.advance(fetchInterval)
			want(t, b.verify(t, b.key, "first"), nil)
		})
	}
}

// The same, when the keys are already there: they go on working, for as long as it takes.
func TestOutageKeepsTheKeys(t *testing.T) {
	for name, c := range breakages {
		t.Run(name, func(t *testing.T) {
			b, second := newBench(t), newKey(t)
			want(t, b.verify(t, b.key, "first"), nil)
			b.breakWith(c.document, c.keys)
			b.advance(fetchInterval)
			want(t, b.verify(t, second, "second"), failure.Unavailable) // perhaps a new key, perhaps forged
			want(t, b.verify(t, b.key, "first"), nil)
			b.advance(100 * maxKeyAge)
			want(t, b.verify(t, b.key, "first"), nil)
			b.settle()
			want(t, b.verify(t, b.key, "first"), nil)
			want(t, b.verify(t, second, "first"), failure.Unauthorized) // its key is there: this one is forged
			if got := b.counts(); got[0] != 3 {
				t.Errorf("the issuer was asked %d times, want 3", got[0])
			}
		})
	}
}

// A clock that is set back does not stop the readings.
func TestClockSetBack(t *testing.T) {
	b, second := newBench(t), newKey(t)
	want(t, b.verify(t, b.key, "first"), nil)
	b.publish(public(second, "second"))
	b.advance(-24 * time.Hour)
	want(t, b.verify(t, second, "second"), nil)
}

// Entra ID's first version has issuers that end in a slash; the discovery document is not behind two.
func TestIssuerWithSlash(t *testing.T) {
	b := newBench(t)
	b.open(t, b.URL+"/", b.Client())
	b.breakWith(document(`{"issuer":"%[1]s/","jwks_uri":"%[1]s/keys"}`), nil)
	want(t, b.verify(t, b.key, "first"), nil)
	b.wantCounts(t, 1)
}

// An answer without end is not read to its end. Covers A5.
func TestHugeAnswerIsCutOff(t *testing.T) {
	b, sent := newBench(t), make(chan int, 1)
	b.set(nil, func(w http.ResponseWriter, r *http.Request) {
		counted := &countingWriter{ResponseWriter: w}
		endless(counted, r)
		sent <- counted.n
	})
	want(t, b.verify(t, b.key, "first"), failure.Unavailable)
	// Buffers on the way hold some more than what was read.
	if n := <-sent; n > 32<<20 {
		t.Errorf("the issuer could send %d bytes, want not much more than %d", n, keySetLimits.Bytes)
	}
}

type countingWriter struct {
	http.ResponseWriter
	n int
}

func (c *countingWriter) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.n += n
	return n, err
}

// The certificate of an issuer is verified: the server here is one that the machine does not trust.
func TestUntrustedCertificate(t *testing.T) {
	b := newBench(t)
	b.open(t, b.URL, nil)
	want(t, b.verify(t, b.key, "first"), failure.Unavailable)
	if log := b.logged(); !strings.Contains(log, "trusts its certificate") {
		t.Errorf("the log does not speak of the certificate: %q", log)
	}
	b.wantCounts(t, 0)
}

// The client that was passed in is not changed, and what it allows for redirects does not count.
func TestClientIsCopied(t *testing.T) {
	b := newBench(t)
	client := *b.Client()
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return nil }
	b.open(t, b.URL, &client)
	b.breakWith(elsewhere(302), nil)
	want(t, b.verify(t, b.key, "first"), failure.Unavailable)
	if b.counts()[2] != 0 || client.CheckRedirect(nil, nil) != nil {
		t.Error("the redirect was followed, or the caller's client changed")
	}
}

// A real socket that takes connections and says nothing. Opening the issuer does not touch it.
func TestSilentListener(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	b := &bench{provider: &provider{key: newKey(t)}, at: noon}
	b.open(t, "https://"+listener.Addr().String(), nil)
	b.issuer.Keys.(*remoteKeys).timeout = 20 * time.Millisecond
	want(t, b.verify(t, b.key, "first"), failure.Unavailable)
	if log := b.logged(); !strings.Contains(log, "deadline exceeded") {
		t.Errorf("the log does not say that time ran out: %q", log)
	}
}

type transport func(*http.Request) (*http.Response, error)

func (f transport) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// stuck is a body that never comes.
type stuck struct{ ctx context.Context }

func (s stuck) Read([]byte) (int, error) { <-s.ctx.Done(); return 0, s.ctx.Err() }
func (s stuck) Close() error             { return nil }

// An issuer that goes silent is given up after exactly ten seconds, wherever it stops. In the bubble's time.
func TestSilentIssuerIsGivenUp(t *testing.T) {
	for name, stop := range map[string]func(r *http.Request) (*http.Response, error){
		"no answer": func(r *http.Request) (*http.Response, error) { <-r.Context().Done(); return nil, r.Context().Err() },
		"no body": func(r *http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 200, Body: stuck{r.Context()}}, nil
		},
		"no keys": func(r *http.Request) (*http.Response, error) {
			if r.URL.Path == "/keys" {
				return &http.Response{StatusCode: 200, Body: stuck{r.Context()}}, nil
			}
			return &http.Response{StatusCode: 200, Body: io.NopCloser(strings.NewReader(`{"issuer":"https://i.example","jwks_uri":"https://i.example/keys"}`))}, nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := &bench{provider: &provider{key: newKey(t)}, at: noon}
				b.open(t, "https://i.example", &http.Client{Transport: transport(stop)})
				began := time.Now()
				want(t, b.verify(t, b.key, "first"), failure.Unavailable)
				if took := time.Since(began); took != fetchTimeout {
					t.Errorf("gave up after %v, want %v", took, fetchTimeout)
				}
				began = time.Now()
				want(t, b.verify(t, b.key, "first"), failure.Unavailable)
				if took := time.Since(began); took != 0 {
					t.Errorf("the next token waited %v for an issuer that had just been silent", took)
				}
			})
		})
	}
}

// fake is a transport that answers like a provider, but only once the gate opens.
func (p *provider) fake(gate <-chan struct{}) transport {
	return func(r *http.Request) (*http.Response, error) {
		select {
		case <-gate:
		case <-r.Context().Done():
			return nil, r.Context().Err()
		}
		w := httptest.NewRecorder()
		p.serve(w, r)
		return w.Result(), nil
	}
}

func newGated(t *testing.T) (b *bench, open func()) {
	key := newKey(t)
	p := &provider{Server: &httptest.Server{URL: "https://i.example"}, key: key, document: body(`{"issuer":"https://i.example","jwks_uri":"https://i.example/keys"}`)}
	p.publish(public(key, "first"))
	gate := make(chan struct{})
	b = &bench{provider: p, at: noon}
	b.open(t, p.URL, &http.Client{Transport: p.fake(gate)})
	return b, func() { close(gate) }
}

// Fifty callers come before the keys: one reading serves them all.
func TestOneReadingForAllWhoWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, open := newGated(t)
		mallory := newKey(t)
		results := make(chan error, 100)
		for i := range 100 {
			key := b.key
			if i%2 == 1 {
				key = mallory
			}
			token := b.token(t, key, "first")
			go func() {
				_, err := b.v.Verify(t.Context(), token, []string{resource})
				results <- err
			}()
		}
		synctest.Wait()
		open()
		good := 0
		for range 100 {
			if err := <-results; err == nil {
				good++
			} else {
				want(t, err, failure.Unauthorized)
			}
		}
		if good != 50 {
			t.Errorf("%d of 50 good tokens were accepted", good)
		}
		b.wantCounts(t, 1)
	})
}

// The caller who began the reading leaves. He is answered at once, and the reading goes on for the next.
func TestReadingOutlivesItsCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, open := newGated(t)
		ctx, cancel := context.WithCancel(t.Context())
		token, result := b.token(t, b.key, "first"), make(chan error)
		go func() {
			_, err := b.v.Verify(ctx, token, []string{resource})
			result <- err
		}()
		synctest.Wait()
		cancel()
		want(t, <-result, failure.Unavailable)
		open()
		b.settle()
		want(t, b.verify(t, b.key, "first"), nil)
		b.wantCounts(t, 1)
	})
}

// While the issuer is silent, a forged token waits for it, and the owner of a known key does not.
func TestKnownKeysDoNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, open := newGated(t)
		open()
		want(t, b.verify(t, b.key, "first"), nil)
		k := b.issuer.Keys.(*remoteKeys)
		k.client.Transport = b.fake(nil) // silent from here on
		b.advance(maxKeyAge)
		forged, result := b.token(t, newKey(t), "made-up"), make(chan error)
		go func() {
			_, err := b.v.Verify(t.Context(), forged, []string{resource})
			result <- err
		}()
		synctest.Wait()
		began := time.Now()
		want(t, b.verify(t, b.key, "first"), nil)
		if took := time.Since(began); took != 0 {
			t.Errorf("a good token waited %v", took)
		}
		want(t, <-result, failure.Unavailable)
	})
}

// Only public signature keys for the configured algorithms become keys. Covers A4.
func TestParseKeySetKeepsSignatureKeys(t *testing.T) {
	p256 := newKey(t)
	p384, _ := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	edwards, edwardsPrivate, _ := ed25519.GenerateKey(rand.Reader)
	rsaKey := func(bits int) *rsa.PublicKey { // only its size matters here, so it need not be the product of primes
		n := new(big.Int).Lsh(big.NewInt(1), uint(bits-1))
		return &rsa.PublicKey{N: n.SetBit(n, 0, 1), E: 65537}
	}
	jwk := func(key any, change func(map[string]any)) string {
		data, err := jose.JSONWebKey{Key: key, KeyID: "k"}.MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		members := map[string]any{}
		_ = json.Unmarshal(data, &members)
		if change != nil {
			change(members)
		}
		data, _ = json.Marshal(members)
		return string(data)
	}
	with := func(name string, value any) func(map[string]any) {
		return func(m map[string]any) { m[name] = value }
	}
	cases := map[string]struct {
		algorithms []string
		key        string
		kept       bool
	}{
		"EC":                             {[]string{"ES256"}, jwk(p256.Public(), nil), true},
		"EC, marked for signatures":      {[]string{"ES256"}, jwk(p256.Public(), with("use", "sig")), true},
		"EC, may verify":                 {[]string{"ES256"}, jwk(p256.Public(), with("key_ops", []string{"verify"})), true},
		"EC, algorithm named":            {[]string{"RS256", "ES256"}, jwk(p256.Public(), with("alg", "ES256")), true},
		"EC, for encryption":             {[]string{"ES256"}, jwk(p256.Public(), with("use", "enc")), false},
		"EC, use empty":                  {[]string{"ES256"}, jwk(p256.Public(), with("use", "")), false},
		"EC, may derive only":            {[]string{"ES256"}, jwk(p256.Public(), with("key_ops", []string{"deriveKey"})), false},
		"EC, may do nothing":             {[]string{"ES256"}, jwk(p256.Public(), with("key_ops", []string{})), false},
		"EC, for another algorithm":      {[]string{"ES256"}, jwk(p256.Public(), with("alg", "ECDH-ES")), false},
		"EC of another curve":            {[]string{"ES256", "ES512"}, jwk(p384.Public(), nil), false},
		"EC, algorithm of another curve": {[]string{"ES256", "ES384"}, jwk(p256.Public(), with("alg", "ES384")), false},
		"EC off the curve":               {[]string{"ES256"}, jwk(p256.Public(), with("x", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")), false},
		"EC, private":                    {[]string{"ES256"}, jwk(p256, nil), false},
		"Ed25519, private":               {[]string{"EdDSA"}, jwk(edwardsPrivate, nil), false},
		"EC, not configured":             {[]string{"RS256"}, jwk(p256.Public(), nil), false},
		"kid too long":                   {[]string{"ES256"}, jwk(p256.Public(), with("kid", strings.Repeat("k", maxName+1))), false},
		"P-384":                          {[]string{"ES384"}, jwk(p384.Public(), nil), true},
		"Ed25519":                        {[]string{"EdDSA"}, jwk(edwards, nil), true},
		"Ed25519, not configured":        {[]string{"ES256"}, jwk(edwards, nil), false},
		"RSA 2048":                       {[]string{"PS256"}, jwk(rsaKey(2048), nil), true},
		"RSA 4096":                       {[]string{"RS512"}, jwk(rsaKey(4096), nil), true},
		"RSA 2047":                       {[]string{"RS256"}, jwk(rsaKey(2047), nil), false},
		"RSA 1024":                       {[]string{"RS256"}, jwk(rsaKey(1024), nil), false},
		"RSA 4097":                       {[]string{"RS256"}, jwk(rsaKey(4097), nil), false},
		"RSA for another padding":        {[]string{"RS256"}, jwk(rsaKey(2048), with("alg", "PS256")), false},
		"symmetric":                      {[]string{"ES256", "RS256"}, `{"kty":"oct","k":"AAAA"}`, false},
		"unknown kind":                   {[]string{"ES256"}, `{"kty":"XYZ"}`, false},
		"no kind":                        {[]string{"ES256"}, `{}`, false},
		"no object":                      {[]string{"ES256"}, `7`, false},
		"null":                           {[]string{"ES256"}, `null`, false},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			got, err := parseKeySet([]byte(`{"keys":[`+c.key+`]}`), c.algorithms)
			if c.kept && (err != nil || len(got) != 1 || got[0].KeyID != "k") || !c.kept && !errors.Is(err, errNoKeys) {
				t.Errorf("got %d keys, %v; want it kept: %t", len(got), err, c.kept)
			}
			// Beside a good key it disturbs nobody.
			got, err = parseKeySet([]byte(`{"keys":[`+c.key+`,`+jwk(p256.Public(), with("kid", "good"))+`]}`), append([]string{"ES256"}, c.algorithms...))
			if err != nil || !slices.ContainsFunc(got, func(k jose.JSONWebKey) bool { return k.KeyID == "good" }) {
				t.Errorf("a good key beside it: got %d keys, %v", len(got), err)
			}
		})
	}
	full := `{"keys":[` + strings.Repeat(jwk(p256.Public(), nil)+",", maxKeys-1) + jwk(p256.Public(), nil) + `]}`
	if got, err := parseKeySet([]byte(full), []string{"ES256"}); err != nil || len(got) != maxKeys {
		t.Errorf("a set of %d keys: got %d, %v", maxKeys, len(got), err)
	}
}

// Whatever an issuer answers: no panic, and only keys that keep the rules.
func FuzzKeySet(f *testing.F) {
	good, _ := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{public(newKey(f), "first")}})
	f.Add(good)
	f.Add([]byte(`{"keys":[{"kty":"RSA","n":"AQAB","e":"AQAB"},{"kty":"oct","k":"AAAA"}]}`))
	f.Add([]byte(`{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}`))
	f.Add([]byte(`{"keys":[{"kty":"EC","x5c":["AAAA"],"x5u":"https://x"}]}`))
	f.Add([]byte(`{"keys":null}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		keys, err := parseKeySet(data, asymmetric)
		if (err == nil) != (len(keys) > 0) || len(keys) > maxKeys {
			t.Fatalf("%d keys with error %v", len(keys), err)
		}
		for _, k := range keys {
			if !k.IsPublic() || k.Use != "" && k.Use != "sig" || !slices.ContainsFunc(asymmetric, func(a string) bool { return fits(&k, a) }) {
				t.Fatalf("kept a key that no token may be signed with: %T, use %q, alg %q", k.Key, k.Use, k.Algorithm)
			}
		}
	})
}

func FuzzDiscovery(f *testing.F) {
	f.Add([]byte(`{"issuer":"https://a.example/tenant","jwks_uri":"https://a.example/keys"}`))
	f.Add([]byte(`{"issuer":"https://a.example/tenant","jwks_uri":"http://a.example/keys"}`))
	f.Add([]byte(`{"issuer":"https://a.example/tenant","jwks_uri":"https://a.example/keys","jwks_uri":""}`))
	f.Add([]byte(`[[[[[[[[[`))
	f.Fuzz(func(t *testing.T, data []byte) {
		address, err := parseDiscovery(data, issuerA)
		if err == nil && (!strings.HasPrefix(strings.ToLower(address), "https://") || !bytes.Contains(data, []byte("issuer"))) {
			t.Fatalf("took %q", address)
		}
	})
}
