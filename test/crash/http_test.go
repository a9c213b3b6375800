package crash_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"

	"strongroom/internal/api"
	"strongroom/test/harness"
)

// caller calls alpha as a program does, with one token and connections that stay open. The command line is a process for
// each call: too slow for a hundred thousand keys. Safe for concurrent use.
type caller struct {
	http        *http.Client
	base, token string
}

var resource = regexp.MustCompile(`resource="([^"]+)"`)

// callerOf signs in at a server, whose end makes the caller useless.
func callerOf(t *testing.T, s *harness.Server) *caller {
	t.Helper()
	ca, err := os.ReadFile(s.Env["STRONGROOM_CA"])
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		t.Fatal("the CA file holds no certificate")
	}
	c := &caller{base: s.URL(t, "alpha"), http: &http.Client{Transport: &http.Transport{
		TLSClientConfig:     &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS13},
		MaxIdleConnsPerHost: atOnce,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) { // whatever its name: it runs here
			_, port, err := net.SplitHostPort(address)
			if err != nil {
				return nil, err
			}
			return (&net.Dialer{}).DialContext(ctx, network, net.JoinHostPort("127.0.0.1", port))
		},
	}}}
	t.Cleanup(c.http.CloseIdleConnections)
	asked, err := c.http.Get(c.base + "/keys?api-version=7.4")
	if err != nil {
		t.Fatal(err)
	}
	_ = asked.Body.Close()
	found := resource.FindStringSubmatch(asked.Header.Get("WWW-Authenticate"))
	if found == nil {
		t.Fatalf("alpha asks for no token: %d %v", asked.StatusCode, asked.Header)
	}
	resp, err := c.http.PostForm(s.Env["STRONGROOM_AUTHORITY"]+"/"+s.Env["STRONGROOM_TENANT"]+"/oauth2/v2.0/token", url.Values{
		"grant_type": {"client_credentials"}, "client_id": {s.Env["STRONGROOM_CLIENT_ID"]}, "client_secret": {s.Env["STRONGROOM_CLIENT_SECRET"]},
		"scope": {found[1] + "/.default"},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var answer struct {
		Token string `json:"access_token"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || answer.Token == "" {
		t.Fatalf("no token: status %d, %v", resp.StatusCode, err)
	}
	c.token = answer.Token
	return c
}

// call makes one call to a URL of alpha, and reads the answer into into.
func (c *caller) call(method, url string, body, into any) error {
	var text []byte
	if body != nil {
		var err error
		if text, err = json.Marshal(body); err != nil {
			return err
		}
	}
	req, err := http.NewRequest(method, url, bytes.NewReader(text))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+c.token)
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s %s: %d %s", method, url, resp.StatusCode, answer)
	}
	return json.Unmarshal(answer, into)
}

// atOnce is how many calls are made at once where there are many: they share syncs.
const atOnce = 16

// create makes n keys with a P-256 key each.
func (c *caller) create(t *testing.T, n int, name func(i int) string) {
	t.Helper()
	var group sync.WaitGroup
	for worker := range atOnce {
		group.Go(func() {
			for i := worker; i < n; i += atOnce {
				var key api.KeyBundle
				err := c.call(http.MethodPost, c.base+"/keys/"+name(i)+"/create?api-version=7.4", map[string]string{"kty": "EC-HSM", "crv": "P-256"}, &key)
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	group.Wait()
	if t.Failed() {
		t.FailNow()
	}
}

// list returns the names under a route, "keys" or "deletedkeys", in their order. Where there are cuts it is several lists at
// once: the first to the first cut, the last from the last cut to the end, so that they hold what one list would, and a
// name that nobody expects too.
func (c *caller) list(t *testing.T, route string, cuts []string) (names []string) {
	t.Helper()
	parts := make([][]string, len(cuts)+1)
	var group sync.WaitGroup
	for i := range parts {
		from, to := "", ""
		if i > 0 {
			from = cuts[i-1]
		}
		if i < len(cuts) {
			to = cuts[i]
		}
		group.Go(func() {
			var err error
			if parts[i], err = c.between(route, from, to); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if t.Failed() {
		t.FailNow()
	}
	for _, part := range parts {
		names = append(names, part...)
	}
	return names
}

// between lists the names after one, to another and with it; "" is no bound.
func (c *caller) between(route, from, to string) (names []string, err error) {
	next := c.base + "/" + route + "?api-version=7.4"
	if from != "" { // as if a page had ended with it
		next += "&$skiptoken=" + base64.RawURLEncoding.EncodeToString([]byte(from))
	}
	for next != "" {
		if !strings.HasPrefix(next, c.base+"/"+route+"?") {
			return nil, fmt.Errorf("the list of %s goes on at %s", route, next)
		}
		var page struct {
			Value []struct {
				Kid string `json:"kid"`
			} `json:"value"`
			NextLink string `json:"nextLink"`
		}
		if err := c.call(http.MethodGet, next, nil, &page); err != nil {
			return nil, err
		}
		for _, item := range page.Value {
			name, below := strings.CutPrefix(item.Kid, c.base+"/keys/")
			if name, _, _ = strings.Cut(name, "/"); !below || name == "" {
				return nil, fmt.Errorf("the list of %s has a key %q", route, item.Kid)
			}
			if to != "" && name > to {
				return names, nil
			}
			names = append(names, name)
		}
		next = page.NextLink
	}
	return names, nil
}
