package access

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"

	"strongroom/internal/failure"
)

const (
	fetchTimeout  = 10 * time.Second // for discovery document and key set together
	fetchInterval = 30 * time.Second // from the start of one reading to the earliest start of the next
	maxKeyAge     = time.Hour        // a withdrawn key works this long, and on through an outage
)

// remoteKeys are the keys of one external issuer. A stranger who sends forged tokens, with whatever kid, makes it
// ask the issuer once in fetchInterval and no more, and cannot make the tokens of others wait.
type remoteKeys struct {
	issuer     string
	algorithms []string
	client     *http.Client // follows no redirects
	now        func() time.Time
	log        *slog.Logger
	timeout    time.Duration // fetchTimeout, but for tests

	mu      sync.Mutex
	keys    []jose.JSONWebKey // replaced whole, never changed
	read    time.Time         // when keys were last read well
	reads   uint64            // how often they were read well
	tried   time.Time         // when the last reading began; zero: never
	failed  error             // why the last reading failed
	running chan struct{}     // closed when the reading under way ends; nil: none is
}

var (
	_ oidc.KeySet = (*remoteKeys)(nil)
	_ gated       = (*remoteKeys)(nil)
)

func newRemoteKeys(c IssuerConfig) *remoteKeys {
	k := &remoteKeys{issuer: c.URL, algorithms: c.Algorithms, now: c.Now, log: c.Log, timeout: fetchTimeout}
	if k.now == nil {
		k.now = time.Now
	}
	if k.log == nil {
		k.log = slog.New(slog.DiscardHandler)
	}
	client := newClient()
	if c.Client != nil {
		*client = *c.Client
	}
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	k.client = client
	return k
}

var (
	errNoSuchKey = errors.New("the issuer has no key of that kid for that algorithm")
	errSignature = errors.New("the signature does not hold under the issuer's keys")
)

// VerifySignature returns the payload of a JWT that one of the issuer's keys signed. It waits for the network only
// if the token's key is not among those that are there. It reports failure.Unavailable if it cannot know whether
// the token is good: no key that is there verifies it, and the last reading failed.
func (k *remoteKeys) VerifySignature(ctx context.Context, jwt string) ([]byte, error) {
	return k.verifySignature(ctx, jwt, nil)
}

// verifySignature implements gated: it passes the gate for each check, and not while it waits for the network, so that
// an issuer that is slow holds up nobody else's tokens.
func (k *remoteKeys) verifySignature(ctx context.Context, jwt string, g *gate) ([]byte, error) {
	algorithms := make([]jose.SignatureAlgorithm, len(k.algorithms))
	for i, a := range k.algorithms {
		algorithms[i] = jose.SignatureAlgorithm(a)
	}
	jws, err := jose.ParseSignedCompact(jwt, algorithms)
	if err != nil || len(jws.Signatures) != 1 {
		return nil, errors.New("the token is not a JWT with one signature")
	}
	keys, _ := k.cached()
	payload, err := verify(ctx, jws, keys, g)
	// A key that is known by its kid is the one: reading again cannot make the signature hold. A token without kid
	// that does not verify may be from a key that is new.
	named := jws.Signatures[0].Header.KeyID != ""
	if err == nil || named && errors.Is(err, errSignature) || errors.Is(err, failure.Unavailable) {
		return payload, err
	}
	if err := k.refresh(ctx); err != nil {
		return nil, err
	}
	keys, unread := k.cached()
	payload, err = verify(ctx, jws, keys, g)
	if err != nil && unread != nil && !errors.Is(err, failure.Unavailable) {
		return nil, failure.Wrap(failure.Unavailable, unread, "the keys of the token's issuer cannot be read now, so nobody can tell whether the token is good; try again in a minute")
	}
	return payload, err
}

// verify tries the keys with the token's kid, or all if it has none, that are for its algorithm. It passes the gate if
// there is such a key. It reports failure.Unavailable only for the gate.
func verify(ctx context.Context, jws *jose.JSONWebSignature, keys []jose.JSONWebKey, g *gate) (payload []byte, err error) {
	header := jws.Signatures[0].Header
	var candidates []*jose.JSONWebKey
	for i := range keys {
		if key := &keys[i]; (header.KeyID == "" || header.KeyID == key.KeyID) && fits(key, header.Algorithm) {
			candidates = append(candidates, key)
		}
	}
	if len(candidates) == 0 {
		return nil, errNoSuchKey
	}
	busy := g.do(ctx, func() {
		err = errSignature
		for _, key := range candidates {
			var failed error
			if payload, failed = jws.Verify(key); failed == nil {
				err = nil
				return
			}
		}
	})
	if busy != nil {
		return nil, busy
	}
	return payload, err
}

// cached returns the keys that are there, and why the last reading failed. Keys that have grown old are read again
// behind the caller's back: they are good enough for this one.
func (k *remoteKeys) cached() ([]jose.JSONWebKey, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.keys) > 0 && k.now().Sub(k.read) >= maxKeyAge {
		k.startLocked()
	}
	return k.keys, k.failed
}

// generation implements generational: what the last reading brought may lack a key that was there before.
func (k *remoteKeys) generation() uint64 {
	_, _ = k.cached()
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.reads
}

// refresh waits for the reading under way, or one that it starts if it is time. It fails only with ctx.
func (k *remoteKeys) refresh(ctx context.Context) error {
	done := k.start()
	if done == nil {
		return nil
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return failure.Wrap(failure.Unavailable, ctx.Err(), "the keys of the token's issuer were not read in time; try again")
	}
}

func (k *remoteKeys) start() <-chan struct{} {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.startLocked()
}

// startLocked returns what is closed when the reading under way ends. If none is, it starts one; if it is too
// early for that, it returns nil. The caller holds mu.
func (k *remoteKeys) startLocked() <-chan struct{} {
	if k.running != nil {
		return k.running
	}
	now := k.now()
	// A clock that was set back must not stop the readings.
	if since := now.Sub(k.tried); !k.tried.IsZero() && since >= 0 && since < fetchInterval {
		return nil
	}
	done := make(chan struct{})
	k.tried, k.running = now, done
	// Not the caller's context: he is a stranger until the keys are there, and may leave when he likes. Nobody waits
	// for the goroutine at the end of the program: it holds nothing, and ends with its timeout.
	go func() {
		defer close(done)
		ctx, cancel := context.WithTimeout(context.Background(), k.timeout)
		defer cancel()
		keys, err := k.fetch(ctx)
		k.finish(ctx, keys, err)
	}()
	return done
}

// finish takes over what was read. A reading that failed leaves the keys alone. A key set that was read and has
// nothing for us replaces them: the issuer has withdrawn its keys, and that counts.
func (k *remoteKeys) finish(ctx context.Context, keys []jose.JSONWebKey, err error) {
	k.mu.Lock()
	failedBefore, first := k.failed != nil, k.read.IsZero()
	if err == nil || errors.Is(err, errNoKeys) {
		k.keys, k.read = keys, k.now()
		k.reads++
	}
	k.failed, k.running = err, nil
	kept := len(k.keys)
	k.mu.Unlock()
	switch {
	case err != nil:
		k.log.WarnContext(ctx, "the keys of a token issuer cannot be read; tokens signed with other keys than those kept are answered 503", "issuer", k.issuer, "keys_kept", kept, "error", err)
	case failedBefore || first:
		k.log.InfoContext(ctx, "the keys of a token issuer are read", "issuer", k.issuer, "keys", kept)
	}
}
