// Package client speaks to a Strongroom server, and to any Managed HSM, over the Azure wire: one HSM's data plane
// ([HSM]) and the ARM-shaped control plane ([Server]). The command line stands on it.
//
// A call goes out with a token for exactly the host it goes to. Which token that is, the host says in its 401
// challenge; the challenge is believed only as far as the stock SDKs believe it: the resource must be the parent
// domain of the host. Where tokens come from is never taken from a challenge, so no server that is called can
// have a client secret sent elsewhere. Redirects are not followed.
//
// The package keeps nothing on disk; a [TokenCache] may.
package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"strongroom/internal/api"
	"strongroom/secret"
)

// Bounds of one exchange. An answer is at most a security domain or a key backup as text.
const (
	maxAnswer = 8 << 20
	timeout   = 60 * time.Second
)

// Options say whom to trust and who calls. The zero value calls without credentials and trusts the system's CAs.
type Options struct {
	// Credentials get tokens. Without them only cached tokens are used.
	Credentials Credentials
	// CA is the PEM of the certificate authorities to trust instead of the system's; nil trusts the system's.
	CA []byte
	// Cache holds tokens across processes; nil means none.
	Cache TokenCache
	// Now is the clock; required.
	Now func() time.Time
	// UserAgent names the program to servers.
	UserAgent string
}

// Client calls servers. Safe for concurrent use.
type Client struct {
	http      *http.Client
	userAgent string
	tokens    *tokens
	pause     func(context.Context, time.Duration) error

	mu     sync.Mutex
	scopes map[string]string // by host: the scope its challenge named
}

// Error is a refusal by a server, or by the issuer of tokens.
type Error struct {
	Status  int    // HTTP status
	Code    string // stable code, "KeyNotFound"; may be empty
	Message string // for people; without the activity ID
	// ActivityID finds the request in the server's log; may be empty.
	ActivityID string

	issuer bool // in the form of a token issuer (RFC 6749 section 5.2)
}

func (e *Error) Error() string {
	switch {
	case e.Message != "":
		return e.Message
	case e.Code != "":
		return fmt.Sprintf("the server answered %d %s", e.Status, e.Code)
	default:
		return fmt.Sprintf("the server answered %d without a reason", e.Status)
	}
}

// ErrAnswer says that an answer was not what the protocol promises: too large, no JSON, or without what it has to
// hold.
var ErrAnswer = errors.New("the answer is not that of a Managed HSM")

// ErrAddress says that an address is not the root of a server, https://HOST[:PORT].
var ErrAddress = errors.New("it has the form https://HOST:PORT, without a path")

// New returns a Client.
func New(o Options) (*Client, error) {
	if o.Now == nil {
		return nil, errors.New("client: no clock")
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	transport.MaxResponseHeaderBytes = 64 << 10
	dial := transport.DialContext
	transport.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		return dial(ctx, network, loopback(address))
	}
	if o.CA != nil {
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(o.CA) {
			return nil, errors.New("the CA file holds no certificate in PEM")
		}
		transport.TLSClientConfig.RootCAs = pool
	}
	hc := &http.Client{
		Transport:     transport,
		Timeout:       timeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return &Client{
		http:      hc,
		userAgent: o.UserAgent,
		tokens:    &tokens{http: hc, credentials: o.Credentials, cache: o.Cache, now: o.Now, held: map[string]Token{}},
		pause:     pause,
		scopes:    map[string]string{},
	}, nil
}

// loopback is the address to dial for HOST:PORT: names under localhost are this machine, whatever its resolver makes
// of them (RFC 6761 section 6.3). Many know nothing of them, and HSMs of a server without a domain have such names.
func loopback(address string) string {
	host, port, err := net.SplitHostPort(address)
	if err != nil || !strings.HasSuffix(strings.ToLower(strings.TrimSuffix(host, ".")), ".localhost") {
		return address
	}
	return net.JoinHostPort("localhost", port)
}

// Close drops idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// baseURL checks that text is the root of a server, https://HOST[:PORT].
func baseURL(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || strings.Trim(u.Path, "/") != "" {
		return nil, fmt.Errorf("%q is not the address of a server; %w", text, ErrAddress)
	}
	return &url.URL{Scheme: "https", Host: u.Host}, nil
}

// request is one call before it is sent.
type request struct {
	method string
	url    *url.URL
	body   any // nil for none
	// scope is the token's scope where it is known beforehand; "" asks the host by its challenge.
	scope string
	// secret says that the body holds a secret: what it was encoded into is wiped. Best effort, as always.
	secret bool
}

// answer is what came back: 2xx, with the body read.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// into decodes the body. The stock services add members at will, so unknown ones are let pass.
func (a answer) into(v any) error {
	if err := json.Unmarshal(a.body, v); err != nil {
		return fmt.Errorf("%w: it is not the expected JSON", ErrAnswer)
	}
	return nil
}

// do sends a request and returns the answer if it is 2xx, else an *Error.
func (c *Client) do(ctx context.Context, r request) (answer, error) {
	var body []byte
	if r.body != nil {
		var err error
		if body, err = json.Marshal(r.body); err != nil {
			return answer{}, fmt.Errorf("encode the request: %w", err)
		}
		if r.secret {
			defer clear(body)
		}
	}
	scope := r.scope
	if scope == "" {
		var err error
		if scope, err = c.scopeOf(ctx, r.url); err != nil {
			return answer{}, err
		}
	}
	token, err := c.tokens.get(ctx, scope)
	if err != nil {
		return answer{}, err
	}
	a, err := c.send(ctx, r.method, r.url, body, token)
	if refused, ok := errors.AsType[*Error](err); ok && refused.Status == http.StatusUnauthorized && token.cached {
		// A token from the cache may be of an issuer that has been set up anew; a fresh one settles it.
		if token, err = c.tokens.renew(ctx, scope); errors.Is(err, ErrNoCredentials) {
			return answer{}, refused
		} else if err != nil {
			return answer{}, err
		}
		return c.send(ctx, r.method, r.url, body, token)
	}
	return a, err
}

// scopeOf learns the scope for a host from its challenge: an empty request without a token, which every Managed
// HSM answers with 401 before it looks at anything.
func (c *Client) scopeOf(ctx context.Context, u *url.URL) (string, error) {
	c.mu.Lock()
	scope := c.scopes[u.Host]
	c.mu.Unlock()
	if scope != "" {
		return scope, nil
	}
	probe := &url.URL{Scheme: u.Scheme, Host: u.Host, Path: "/keys", RawQuery: "api-version=" + apiVersion}
	resp, err := c.roundTrip(ctx, http.MethodGet, probe, nil, secret.Bytes{})
	if err != nil {
		return "", err
	}
	defer drain(resp)
	if resp.StatusCode != http.StatusUnauthorized {
		if _, err := read(resp); err != nil {
			return "", err
		}
		return "", fmt.Errorf("%w: %s answers without asking for a token", ErrAnswer, u.Host)
	}
	resource, err := challenge(resp.Header.Get("WWW-Authenticate"))
	if err != nil {
		return "", err
	}
	if err := checkResource(resource, u.Host); err != nil {
		return "", err
	}
	scope = resource + "/.default"
	c.mu.Lock()
	c.scopes[u.Host] = scope
	c.mu.Unlock()
	return scope, nil
}

// challenge returns the resource that a 401 names: Bearer authorization="…", resource="…".
func challenge(header string) (string, error) {
	scheme, rest, found := strings.Cut(header, " ")
	if !found || !strings.EqualFold(scheme, "Bearer") || len(header) > 4096 {
		return "", fmt.Errorf("%w: it asks for no bearer token", ErrAnswer)
	}
	for part := range strings.SplitSeq(rest, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(part), "=")
		if name == "resource" || name == "scope" {
			value = strings.Trim(value, `"`)
			return strings.TrimSuffix(strings.TrimSuffix(value, "/.default"), "/"), nil
		}
	}
	return "", fmt.Errorf("%w: its challenge names no resource", ErrAnswer)
}

// checkResource demands what the stock SDKs demand: the host called ends in "." and the resource's host, ports
// included, or is the resource itself. A server cannot ask for a token that is good at somebody else's.
func checkResource(resource, host string) error {
	u, err := url.Parse(resource)
	if err != nil || u.Scheme != "https" || u.Host == "" || strings.Trim(u.Path, "/") != "" ||
		u.Host != host && !strings.HasSuffix(host, "."+u.Host) {
		return fmt.Errorf("%s asks for a token for %q, which is not a resource of its own domain: no token was sent", host, resource)
	}
	return nil
}

func (c *Client) send(ctx context.Context, method string, u *url.URL, body []byte, token Token) (answer, error) {
	resp, err := c.roundTrip(ctx, method, u, body, token.Access)
	if err != nil {
		return answer{}, err
	}
	defer drain(resp)
	return read(resp)
}

func (c *Client) roundTrip(ctx context.Context, method string, u *url.URL, body []byte, token secret.Bytes) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, u.String(), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", c.userAgent)
	if !token.IsZero() {
		req.Header.Set("Authorization", "Bearer "+string(token.Reveal()))
	}
	return c.http.Do(req)
}

// read takes the body of an answer and turns everything outside 2xx into an *Error.
func read(resp *http.Response) (answer, error) {
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return answer{}, fmt.Errorf("read the answer: %w", err)
	}
	if len(body) > maxAnswer {
		return answer{}, fmt.Errorf("%w: it is over %d MiB", ErrAnswer, maxAnswer>>20)
	}
	if resp.StatusCode/100 == 2 {
		return answer{status: resp.StatusCode, header: resp.Header, body: body}, nil
	}
	return answer{}, refusal(resp, body)
}

func refusal(resp *http.Response, body []byte) *Error {
	e := &Error{Status: resp.StatusCode}
	media, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if !strings.HasSuffix(media, "json") {
		return e
	}
	var azure api.ErrorBody
	var oauth struct { // RFC 6749 section 5.2
		Code        string `json:"error"`
		Description string `json:"error_description"`
	}
	switch {
	case json.Unmarshal(body, &azure) == nil:
		e.Code, e.Message = printable(azure.Error.Code), printable(azure.Error.Message)
		if inner := azure.Error.InnerError; inner != nil && inner.Code != "" {
			e.Code = printable(inner.Code)
		}
	case json.Unmarshal(body, &oauth) == nil:
		e.Code, e.Message, e.issuer = printable(oauth.Code), printable(oauth.Description), oauth.Code != ""
	}
	if text, id, found := strings.Cut(e.Message, " (Activity ID: "); found {
		e.Message, e.ActivityID = text, strings.TrimSuffix(id, ")")
	}
	return e
}

// printable makes text of a server safe for a terminal: one line, no control characters, not too long.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return ' '
		}
		return r
	}, s)
	if len(s) > 2048 {
		s = strings.ToValidUTF8(s[:2048], "") + " …"
	}
	return s
}

func drain(resp *http.Response) {
	_, _ = io.CopyN(io.Discard, resp.Body, 4<<10)
	_ = resp.Body.Close()
}

// retryAfter is how long to wait before the next poll: what the server asks for, within reason.
func retryAfter(h http.Header) time.Duration {
	seconds, err := strconv.Atoi(h.Get("Retry-After"))
	if err != nil || seconds < 1 {
		seconds = 1
	}
	return time.Duration(min(seconds, 10)) * time.Second
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
