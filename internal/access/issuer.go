package access

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
)

// asymmetric are the algorithms that an issuer may be configured with. "none" and the HMAC family are not among
// them on purpose: with those, whoever knows the public key, or nothing, could sign.
var asymmetric = []string{
	oidc.RS256, oidc.RS384, oidc.RS512, oidc.PS256, oidc.PS384, oidc.PS512, oidc.ES256, oidc.ES384, oidc.ES512, oidc.EdDSA,
}

const (
	maxPrefix    = 32                      // characters
	maxPrincipal = maxPrefix + 1 + maxName // bytes of prefix, colon and claim
)

// Issuer is somebody whose tokens are believed.
type Issuer struct {
	URL        string      // the exact claim iss
	Keys       oidc.KeySet // its public keys; never those of another issuer
	Algorithms []string    // asymmetric JWA names, at least one

	// Prefix and a colon stand before every principal and group that the issuer names: with the prefix "corp", the
	// claim oid "alice" is the principal "corp:alice". It is 1 to 32 of a-z, 0-9 and "-", or empty for at most one
	// issuer, whose names stay as they are and may have no colon. So no two issuers can name the same principal.
	// Role assignments hold the name with its prefix: a prefix that passes to another issuer takes them along.
	Prefix string

	// Groups says whether the claim groups is read. A group counts in decisions exactly as a principal of that
	// name, so turn it on only where the issuer makes the values itself (object IDs), and never where people
	// choose them (names): whoever could call a group as he likes could call it like an administrator.
	Groups bool

	// Standing tells whether tokens that are out still count. Nil: they do, until they expire.
	Standing Standing
}

// principal is the name here of what the issuer calls name.
func (i Issuer) principal(name string) (string, error) {
	if i.Prefix != "" {
		return i.Prefix + ":" + name, nil
	}
	// Any colon, and not only one behind a prefix in use: the rule does not depend on what else is configured, nor
	// on how others compare names.
	if strings.Contains(name, ":") {
		return "", refuse("a principal or group in the token has a colon, which marks the names of another issuer here; the operator of this server has to give the token's issuer a prefix")
	}
	return name, nil
}

// Prefetch begins to read the keys of an issuer from [OpenIssuer], and does not wait for them. A server calls it
// at its start, so that an issuer that is down or wrongly configured is in the log before somebody needs it.
func (i Issuer) Prefetch() {
	if k, ok := i.Keys.(*remoteKeys); ok {
		k.start()
	}
}

// IssuerConfig describes an external OpenID Connect issuer.
type IssuerConfig struct {
	URL        string           // as tokens name it, https; its discovery document is below it
	Algorithms []string         // accepted signature algorithms; nil: RS256 and ES256
	Prefix     string           // see [Issuer]
	Groups     bool             // see [Issuer]
	Client     *http.Client     // reads discovery document and keys, without following redirects; nil: a new one
	Now        func() time.Time // nil: time.Now
	Log        *slog.Logger     // for the operator: keys read, keys not readable; nil: nobody
}

// OpenIssuer returns an issuer whose keys are read from the network when the first token needs them. Every mistake
// that can be seen without the network is found here; an issuer that is down does not stop a server from starting,
// nor for ever: until its keys are there, its tokens are failure.Unavailable, and it is asked again.
//
// The keys are kept, also through an outage. They are read anew (first the discovery document, then the key set it
// names) when a token names a key that is not there, when one that names no key does not verify, and, while tokens
// come, every hour, so that a key the issuer withdraws stops working: at most once in 30 s, and once for all who
// wait. A key newer than the last reading may thus be refused for up to 30 s. Reading ends after 10 s whatever the
// issuer does, and also goes on when the caller who began it leaves.
func OpenIssuer(c IssuerConfig) (Issuer, error) {
	if err := checkIssuerURL(c.URL); err != nil {
		return Issuer{}, err
	}
	if c.Algorithms == nil {
		c.Algorithms = []string{oidc.RS256, oidc.ES256}
	}
	if err := checkAlgorithms(c.URL, c.Algorithms); err != nil {
		return Issuer{}, err
	}
	if err := checkPrefix(c.URL, c.Prefix); err != nil {
		return Issuer{}, err
	}
	c.Algorithms = slices.Clone(c.Algorithms)
	return Issuer{URL: c.URL, Keys: newRemoteKeys(c), Algorithms: c.Algorithms, Prefix: c.Prefix, Groups: c.Groups}, nil
}

func checkIssuerURL(s string) error {
	switch err := checkHTTPS(s); {
	case err != nil:
		return fmt.Errorf("access: issuer %s %w; set it to the member issuer of the issuer's discovery document", shown(s), err)
	case len(s) > maxName:
		return fmt.Errorf("access: issuer %.40s… is longer than %d bytes, which no token's iss may be", shown(s), maxName)
	case strings.Contains(s, "?"): // OpenID Connect Discovery 1.0, section 3
		return fmt.Errorf("access: issuer %s has a query, which an issuer has not", shown(s))
	}
	return nil
}

// shown is a URL from the configuration as an error may show it: without its password.
func shown(s string) string {
	u, err := url.Parse(s)
	if err != nil {
		return "(not shown)"
	}
	return strconv.Quote(u.Redacted())
}

// checkHTTPS says what is wrong with a URL from which keys would be read. Over plain HTTP, whoever is on the way
// chooses the keys, and so who is an administrator.
func checkHTTPS(s string) error {
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return errors.New("is not a URL")
	case u.Scheme != "https":
		return errors.New("is not an https URL")
	case u.Hostname() == "" || u.Opaque != "":
		return errors.New("is a URL without a host")
	case u.User != nil:
		return errors.New("is a URL with credentials")
	case strings.Contains(s, "#"):
		return errors.New("is a URL with a fragment")
	}
	return nil
}

func checkAlgorithms(issuerURL string, algorithms []string) error {
	if len(algorithms) == 0 {
		return fmt.Errorf("access: issuer %s has no algorithms", issuerURL)
	}
	for _, a := range algorithms {
		if !slices.Contains(asymmetric, a) {
			return fmt.Errorf("access: issuer %s: algorithm %q is not one of %s", issuerURL, a, strings.Join(asymmetric, ", "))
		}
	}
	return nil
}

// checkPrefix accepts "" too: whether that is free is decided by [NewVerifier].
func checkPrefix(issuerURL, prefix string) error {
	other := func(r rune) bool { return !(r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-') }
	if len(prefix) > maxPrefix || strings.ContainsFunc(prefix, other) {
		return fmt.Errorf("access: issuer %s: prefix %.40q is not 1 to %d of a-z, 0-9 and -; the colon is put behind it", issuerURL, prefix, maxPrefix)
	}
	return nil
}

// sameKeySet reports whether two key sets are one instance. Types that Go cannot compare never are.
func sameKeySet(a, b oidc.KeySet) bool {
	return reflect.ValueOf(a).Comparable() && reflect.ValueOf(b).Comparable() && a == b
}

// newClient is for issuers and nothing else, so that a test or a library that changes http.DefaultTransport does
// not change whom this server believes. It honours the proxy settings of the environment.
func newClient() *http.Client {
	return &http.Client{Transport: &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		ForceAttemptHTTP2:      true,
		MaxResponseHeaderBytes: 64 << 10,
		IdleConnTimeout:        5 * time.Second, // long enough for the key set after the discovery document
	}}
}
