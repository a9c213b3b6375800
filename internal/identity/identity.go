// Package identity is the embedded token issuer: OpenID Connect discovery, a key set, and tokens for applications
// by client credentials and for users by a password, so that a laptop or a CI job works without a cloud. It answers in
// the forms that three kinds of client need: az (an authority that ends in /adfs), the Azure SDKs (an authority with a
// tenant) and plain OpenID Connect.
//
// With Config.Attestation it is an attestation authority too, for trying secure key release out.
//
// There are no login pages, no cookies and no passwords of people's own choosing. What a token allows is not decided
// here: package access verifies tokens, of this issuer or another, and evaluates roles.
package identity

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/google/uuid"

	"strongroom/internal/access"
	"strongroom/internal/record"
	"strongroom/internal/seal"
	"strongroom/internal/store"
)

// TokenLifetime is how long an access token is good, unless its application or user is deleted or its tokens are called
// back before.
const TokenLifetime = time.Hour

// Config is what the issuer stands on. All fields but Attestation are required, but for what [OpenDirectory] says.
type Config struct {
	// BaseURLs are the ways to reach this server, "https://host[:port]" without a path. A request is answered in the
	// terms of the base URL it came by, because clients compare; the first one serves all other hosts.
	BaseURLs []string
	Tenant   string // GUID
	Store    store.Store
	Seal     seal.Seal // keeps the signing key, the applications and the users
	Rand     io.Reader
	Now      func() time.Time
	Log      *slog.Logger
	// Attestation also makes this an attestation authority for development, which attests whatever a client asks for:
	// see attestation.go. It has no place in production.
	Attestation bool
}

// Issuer issues tokens. Safe for concurrent use. Close ends it.
type Issuer struct {
	*Directory
	key     signingKey
	decoys  map[*class]decoy
	failing *failures
	swept   atomic.Int64 // Unix time of the last sweep of all sign-ins
	attest  *attestation // nil unless Config.Attestation
	records record.Recorder
}

// Open returns the issuer over what the store holds, making its signing key on first use. It fails with
// failure.Tampered when the stored key does not open under the seal.
func Open(ctx context.Context, cfg Config) (*Issuer, error) {
	if len(cfg.BaseURLs) == 0 {
		return nil, errors.New("identity: the issuer needs at least one base URL")
	}
	for i, base := range cfg.BaseURLs {
		u, err := url.Parse(base)
		if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || base != "https://"+u.Host {
			return nil, fmt.Errorf("identity: base URL %d is not of the form https://host[:port]", i+1)
		}
	}
	tenant, err := uuid.Parse(cfg.Tenant)
	if err != nil || len(cfg.Tenant) != 36 {
		return nil, errors.New("identity: the tenant is not a GUID")
	}
	cfg.Tenant = tenant.String()
	key, err := openSigningKey(ctx, cfg, signingKeyKey)
	if err != nil {
		return nil, err
	}
	decoys, err := newDecoys(cfg)
	if err != nil {
		return nil, err
	}
	i := &Issuer{Directory: OpenDirectory(cfg), key: key, decoys: decoys, failing: newFailures(cfg.Now)}
	if cfg.Attestation {
		if i.attest, err = openAttestation(ctx, cfg, i.Issuers()); err != nil {
			i.Close()
			return nil, err
		}
	}
	return i, nil
}

// Record has every request for a token recorded from now on, and none answered that cannot be. It comes before the first
// request, if at all.
func (i *Issuer) Record(r record.Recorder) { i.records = r }

// Issuers returns every name under which this issuer's tokens appear, with its key, for access.NewVerifier. The
// key is handed over in memory: the server does not ask itself over HTTP. Nor for whether an application or user is still there.
func (i *Issuer) Issuers() []access.Issuer {
	keys := &oidc.StaticKeySet{PublicKeys: []crypto.PublicKey{i.key.public}}
	var list []access.Issuer
	for _, base := range i.cfg.BaseURLs {
		for _, f := range forms {
			list = append(list, access.Issuer{URL: f.issuer(base, i.cfg.Tenant), Keys: keys, Algorithms: []string{oidc.ES256}, Standing: i.Directory})
		}
	}
	return list
}

// base returns the base URL that a request's Host header belongs to, else the first.
func (i *Issuer) base(host string) string {
	for _, b := range i.cfg.BaseURLs {
		if strings.EqualFold(strings.TrimPrefix(b, "https://"), host) {
			return b
		}
	}
	return i.cfg.BaseURLs[0]
}
