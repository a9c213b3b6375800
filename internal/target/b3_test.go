package target_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"io"
	"io/fs"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/net/dns/dnsmessage"

	"strongroom/internal/failure"
	"strongroom/internal/target"
	"strongroom/secret"
)

const goodToken = "sv=2021-08-06&sr=c&sp=rwdl&se=2030-01-01T00%3A00%3A00Z&sig=c2lnbmF0dXJl%2B%2F%3D"

// operator is a configuration as an operator may have it.
func operator() target.Config {
	return target.Config{
		AllowedHosts: []string{"*.blob.core.windows.net", "backups.example.com:8443", "http://127.0.0.1:10000", "[2606:4700::1111]"},
		Folders:      []string{"/srv/backups"},
		S3:           map[string]target.S3Config{"main": {Endpoint: "https://s3.example.com", Bucket: "hsm-backups", AccessKeyFile: "/a", SecretKeyFile: "/s"}},
	}
}

// Covers B3: what a client may not name, and what it may.
func TestWhereBackupsMayGo(t *testing.T) {
	p := places(t, operator())
	allows := func(uri string) error {
		l, err := target.ParseStorage(uri, secret.Bytes{})
		if err != nil {
			return err
		}
		return p.Allows(l)
	}
	for uri, shown := range map[string]string{
		"https://acct.blob.core.windows.net/backups":      "https://acct.blob.core.windows.net/backups",
		"https://acct.blob.core.windows.net/backups/":     "https://acct.blob.core.windows.net/backups",
		"HTTPS://Acct.Blob.Core.Windows.NET:443/backups":  "https://acct.blob.core.windows.net/backups",
		"https://acct.z6.blob.core.windows.net/b":         "https://acct.z6.blob.core.windows.net/b",
		"https://backups.example.com:8443/acct/container": "https://backups.example.com:8443/acct/container",
		"http://127.0.0.1:10000/devstoreaccount1/c":       "http://127.0.0.1:10000/devstoreaccount1/c",
		"https://[2606:4700::1111]/acct/c":                "https://[2606:4700::1111]/acct/c",
		"file:///srv/backups":                             "file:///srv/backups",
		"file:///srv/backups/prod/":                       "file:///srv/backups/prod",
		"file:///srv/backups/a%20b":                       "file:///srv/backups/a%20b",
		"s3://hsm-backups":                                "s3://hsm-backups",
		"s3://hsm-backups/prod/west/":                     "s3://hsm-backups/prod/west",
	} {
		if err := allows(uri); err != nil {
			t.Errorf("%s: %v, want it allowed", uri, err)
			continue
		}
		if l, _ := target.ParseStorage(uri, secret.Bytes{}); l.URI() != shown {
			t.Errorf("%s is shown as %s, want %s", uri, l.URI(), shown)
		}
	}
	refused := []string{
		// Not the scheme.
		"http://acct.blob.core.windows.net/c", "https://127.0.0.1:10000/devstoreaccount1/c", "http://backups.example.com:8443/c",
		"ftp://acct.blob.core.windows.net/c", "gopher://127.0.0.1:10000/c", "acct.blob.core.windows.net/c", "//acct.blob.core.windows.net/c",
		"javascript://acct.blob.core.windows.net/c", "unix:///var/run/docker.sock", "https:acct.blob.core.windows.net/c", "", "https://", "https:///c",
		// Not the host.
		"https://example.com/c", "https://blob.core.windows.net/c", "https://evilblob.core.windows.net/c", "https://acct.blob.core.windows.net.evil.com/c",
		"https://acct.blob.core.windows.net-evil.com/c", "https://core.windows.net/c", "https://backups.example.com/c", "https://x.backups.example.com:8443/c",
		"https://localhost/c", "http://localhost:10000/devstoreaccount1/c", "https://metadata.google.internal/c", "https://acct.blob.core.windows.net:8443/c",
		"https://s3.example.com/c",
		// Addresses, however they are written.
		"http://127.0.0.1/c", "http://127.0.0.1:22/c", "http://127.0.0.2:10000/a/c", "http://169.254.169.254/latest", "https://169.254.169.254/c", "https://10.0.0.1/c",
		"https://192.168.1.1/c", "https://[::1]/c", "http://[::1]:10000/a/c", "http://[::ffff:127.0.0.1]:10000/a/c", "https://[fe80::1%25eth0]/c", "https://[fe80::1]/c",
		"http://127.1:10000/a/c", "http://2130706433:10000/a/c", "http://0x7f000001:10000/a/c", "http://0177.0.0.1:10000/a/c", "http://127.0.0.1.:10000/a/c",
		"http://0:10000/a/c", "http://0.0.0.0:10000/a/c", "http://127.0.0.01:10000/a/c", "https://[2606:4700:0::1111]/a/c", "https://[2606:4700::1111/a/c",
		"https://2606:4700::1111/a/c",
		// Two readers, two hosts.
		"https://user@acct.blob.core.windows.net/c", "https://acct.blob.core.windows.net@evil.com/c", "https://acct.blob.core.windows.net:443@evil.com/c",
		"https://evil.com\\@acct.blob.core.windows.net/c", "https://evil.com\\.blob.core.windows.net/c", "https://evil.com#.blob.core.windows.net/c",
		"https://evil.com?.blob.core.windows.net/c", "https://evil.com/.blob.core.windows.net/c/d", "https://evil.com%2f.blob.core.windows.net/c",
		"https://acct.blob.core.windows.net./c", "https://.blob.core.windows.net/c", "https://a..blob.core.windows.net/c", "https://a_b.blob.core.windows.net/c",
		"https://аcct.blob.core.windows.net/c", "https://acct。blob。core。windows。net/c", "https://acct.blob.core.windows.net\t/c", " https://acct.blob.core.windows.net/c",
		"https://acct.blob.core.windows.net\r\nHost: evil.com/c", "https://-a.blob.core.windows.net/c", "https://acct.blob.core.windows.net:/c",
		"https://acct.blob.core.windows.net:0443/c", "https://acct.blob.core.windows.net:99999/c", "https://acct.blob.core.windows.net:+443/c", "http://127.0.0.1:10000:22/a/c",
		// Not a container.
		"https://acct.blob.core.windows.net", "https://acct.blob.core.windows.net/", "https://acct.blob.core.windows.net/a/b/c", "https://acct.blob.core.windows.net/c?comp=list",
		"https://acct.blob.core.windows.net/c#f", "https://acct.blob.core.windows.net/..", "https://acct.blob.core.windows.net/c/../d", "https://acct.blob.core.windows.net/%2e%2e",
		"https://acct.blob.core.windows.net/$root", "https://acct.blob.core.windows.net//c", "https://acct.blob.core.windows.net/c//",
		// Not a folder of ours.
		"file:///etc", "file:///srv", "file:///srv/backups-old", "file:///srv/backups/../../etc", "file:///srv/backups/%2e%2e/%2e%2e/etc", "file://srv/backups",
		"file://localhost/srv/backups", "file:///srv/backups?x", "file:///srv/backups#x", "file:///srv/backups%00", "file:srv/backups", "file:/etc", "/etc", "file:///",
		// Not a bucket of ours.
		"s3://other", "s3://", "s3://hsm-backups/../x", "s3://hsm-backups//x", "s3://hsm-backups/x?y", "s3://user@hsm-backups", "s3://hsm-backups/.x", "s3://HSM-backups",
		"s3://hsm-backups/" + strings.Repeat("a/", 9),
		"https://acct.blob.core.windows.net/" + strings.Repeat("c", 3000),
	}
	for _, host := range []string{"127.1", "2130706433", "0x7f000001", "0x7f.1", "a.0x1", "127.0.0.1.", "0177.0.0.1", "1.2.3.4.5", "[::ffff:127.0.0.1]", "[::1", "a..b", "a@b", "a%20b"} {
		if l, err := target.ParseStorage("https://"+host+"/c", secret.Bytes{}); !errors.Is(err, failure.BadParameter) {
			t.Errorf("the host %s was read as %s, %v", host, l, err)
		}
	}
	if len(refused) < 50 {
		t.Fatalf("only %d URLs", len(refused))
	}
	for _, uri := range refused {
		if err := allows(uri); !errors.Is(err, failure.BadParameter) {
			t.Errorf("%q: %v, want it refused as a bad parameter", uri, err)
		}
	}
	// A server without a configuration sends backups nowhere.
	p = places(t, target.Config{})
	for _, uri := range []string{"https://acct.blob.core.windows.net/c", "file:///srv/backups", "s3://hsm-backups", "http://127.0.0.1:10000/a/c"} {
		if err := allows(uri); !errors.Is(err, failure.BadParameter) {
			t.Errorf("%q without a configuration: %v, want it refused", uri, err)
		}
	}
	if err := p.Allows(target.Location{}); !errors.Is(err, failure.BadParameter) {
		t.Errorf("no place: %v", err)
	}
}

// Covers B3: the addresses that a name may lead to.
func TestAddressesThatAreDialled(t *testing.T) {
	c := operator()
	c.PrivateNetworks = []string{"10.1.0.0/16", "fd00:1::/32"}
	p := places(t, c)
	for _, s := range []string{"20.60.0.1", "8.8.8.8", "2606:4700::1111", "2a01:111::1", "10.1.2.3", "fd00:1::5", "::ffff:20.60.0.1"} {
		if !p.MayDial("acct.blob.core.windows.net", netip.MustParseAddr(s)) {
			t.Errorf("%s is refused, want it allowed", s)
		}
	}
	for _, s := range []string{
		"127.0.0.1", "127.8.8.8", "0.0.0.0", "0.1.2.3", "10.0.0.1", "10.2.0.1", "172.16.0.1", "172.31.255.255", "192.168.0.1", "169.254.169.254", "100.64.0.1",
		"168.63.129.16", "192.0.0.170", "192.0.2.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255", "192.88.99.1",
		"::", "::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b:1::1", "100::1", "2001::1", "2001:db8::1",
		"2002:7f00:1::", "fc00::1", "fd00:2::1", "fe80::1", "fe80::1%eth0", "fec0::1", "ff02::1", "3fff::1", "5f00::1",
	} {
		if p.MayDial("acct.blob.core.windows.net", netip.MustParseAddr(s)) {
			t.Errorf("%s is allowed for a name, want it refused", s)
		}
	}
	// An address that is listed is for itself, not for names that lead to it.
	if listed := netip.MustParseAddr("127.0.0.1"); !p.MayDial("127.0.0.1", listed) || p.MayDial("rebound.blob.core.windows.net", listed) {
		t.Error("a listed address must be dialled for itself, and for no name")
	}
}

// names is a resolver that answers each question for a name with the next of its addresses, and the last for ever.
type names struct {
	mu      sync.Mutex
	answers map[string][]string
	asked   map[string]int
}

// resolver serves the names on a port of this machine.
func (n *names) resolver(t *testing.T) *net.Resolver {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	go func() {
		b := make([]byte, 1500)
		for {
			size, from, err := conn.ReadFrom(b)
			if err != nil {
				return
			}
			if answer := n.answer(b[:size]); answer != nil {
				_, _ = conn.WriteTo(answer, from)
			}
		}
	}()
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "udp", conn.LocalAddr().String())
	}}
}

func (n *names) answer(question []byte) []byte {
	var m dnsmessage.Message
	if m.Unpack(question) != nil || len(m.Questions) != 1 {
		return nil
	}
	q := m.Questions[0]
	m.Response, m.Additionals = true, nil
	if q.Type == dnsmessage.TypeA {
		n.mu.Lock()
		defer n.mu.Unlock()
		name := strings.TrimSuffix(q.Name.String(), ".")
		if list := n.answers[name]; len(list) > 0 {
			address := list[min(n.asked[name], len(list)-1)]
			n.asked[name]++
			m.Answers = []dnsmessage.Resource{{
				Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 0},
				Body:   &dnsmessage.AResource{A: netip.MustParseAddr(address).As4()},
			}}
		}
	}
	packed, err := m.Pack()
	if err != nil {
		return nil
	}
	return packed
}

// Covers B3: DNS that gives a public address to whoever checks the name, and another one to whoever dials it.
func TestDNSThatChangesItsAnswer(t *testing.T) {
	var connections atomic.Int32
	inside := httptest.NewUnstartedServer(http.NotFoundHandler())
	inside.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			connections.Add(1)
		}
	}
	inside.Start()
	t.Cleanup(inside.Close)
	_, port, _ := net.SplitHostPort(inside.Listener.Addr().String())
	const name = "store.example.com"
	uri := "http://" + name + ":" + port + "/acct/c"
	l, err := target.ParseStorage(uri, secret.New([]byte(goodToken)))
	if err != nil {
		t.Fatal(err)
	}
	config := target.Config{AllowedHosts: []string{"http://" + name + ":" + port}}

	dns := &names{answers: map[string][]string{name: {"20.60.0.1", "127.0.0.1"}}, asked: map[string]int{}}
	resolver := dns.resolver(t)
	if first, err := resolver.LookupHost(t.Context(), name); err != nil || len(first) != 1 || first[0] != "20.60.0.1" {
		t.Fatalf("whoever checks the name is told %v, %v; want a public address", first, err)
	}
	place, err := places(t, config).Tune(resolver, nil, 3).Open(l)
	if err != nil {
		t.Fatal(err)
	}
	for what, err := range everything(t.Context(), place) {
		if !errors.Is(err, target.ErrRefused) {
			t.Errorf("%s: %v, want target.ErrRefused", what, err)
		}
	}
	if n := connections.Load(); n != 0 {
		t.Errorf("%d connections reached the inside", n)
	}
	dns.mu.Lock()
	asked := dns.asked[name]
	dns.mu.Unlock()
	if asked < 2 {
		t.Errorf("the name was asked for %d times: the test shows nothing", asked)
	}

	// The counter-test: where the operator allows that network, the same name gets there.
	config.PrivateNetworks = []string{"127.0.0.0/8"}
	place, err = places(t, config).Tune(resolver, nil, 3).Open(l)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := place.Open(t.Context(), "f/a"); !errors.Is(err, fs.ErrNotExist) || connections.Load() == 0 {
		t.Errorf("with the network allowed: %v and %d connections; want the server's 404", err, connections.Load())
	}
}

// everything calls each method of a target once and returns their errors.
func everything(ctx context.Context, place target.Target) map[string]error {
	errs := map[string]error{}
	o, err := place.Create(ctx, "f/small")
	if err == nil {
		_, err = o.Write([]byte("small"))
		err = errors.Join(err, o.Commit())
		o.Abort()
	}
	errs["small object"] = err
	if o, err = place.Create(ctx, "f/large"); err == nil {
		if _, err = o.Write(make([]byte, target.PartSize+1)); err == nil {
			err = o.Commit()
		}
		o.Abort()
	}
	errs["large object"] = err
	r, err := place.Open(ctx, "f/there")
	if err == nil {
		for b := make([]byte, 4096); err == nil; {
			_, err = r.Read(b)
		}
		_ = r.Close()
	}
	errs["read"] = err
	_, errs["list"] = place.List(ctx, "f")
	_, errs["folders"] = place.Folders(ctx, "")
	errs["delete"] = place.Delete(ctx, "f/there")
	return errs
}

// Covers B3: no redirect is followed, to wherever it leads.
func TestRedirectsAreNotFollowed(t *testing.T) {
	var followed, asked atomic.Int32
	inside := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { followed.Add(1) }))
	t.Cleanup(inside.Close)
	for _, code := range []int{301, 302, 303, 307, 308} {
		store := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			asked.Add(1)
			where := inside.URL
			if r.Method == http.MethodGet {
				where = "/here?" + r.URL.RawQuery
			}
			http.Redirect(w, r, where, code)
		}))
		t.Cleanup(store.Close)
		roots := x509.NewCertPool()
		roots.AddCert(store.Certificate())
		host := strings.TrimPrefix(store.URL, "https://")
		l, err := target.ParseStorage(store.URL+"/acct/c", secret.New([]byte(goodToken)))
		if err != nil {
			t.Fatal(err)
		}
		blobs, err := places(t, target.Config{AllowedHosts: []string{host}}).Tune(nil, roots, 1).Open(l)
		if err != nil {
			t.Fatal(err)
		}
		bucket := openURI(t, places(t, s3Config(t, store.URL, "bucket")).Tune(nil, roots, 1), "s3://bucket")
		for _, place := range []target.Target{blobs, bucket} {
			before := asked.Load()
			for what, err := range everything(t.Context(), place) {
				if !errors.Is(err, target.ErrRefused) {
					t.Errorf("%d: %s: %s: %v, want target.ErrRefused", code, place, what, err)
				}
			}
			if asked.Load() == before {
				t.Errorf("%d: %s was never asked", code, place)
			}
		}
	}
	if n := followed.Load(); n != 0 {
		t.Errorf("%d requests followed a redirect", n)
	}
}

// Covers B3: whatever a library asks for, a request goes to the host that was allowed or nowhere, and through no proxy.
func TestRequestsStayOnTheirHost(t *testing.T) {
	var elsewhere atomic.Int32
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere.Add(1) }))
	t.Cleanup(other.Close)
	store := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(store.Close)
	carry, err := places(t, target.Config{}).Transport(store.URL)
	if err != nil {
		t.Fatal(err)
	}
	host := strings.TrimPrefix(store.URL, "http://")
	for uri, want := range map[string]bool{
		store.URL + "/c": true, other.URL + "/c": false, "https://" + host + "/c": false, "http://user@" + host + "/c": false, "http://localhost:" + host[strings.LastIndexByte(host, ':')+1:] + "/c": false,
	} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPut, uri, strings.NewReader("body"))
		if err != nil {
			t.Fatal(err)
		}
		answer, err := carry.RoundTrip(r)
		if (err == nil) != want {
			t.Errorf("%s: %v, want it sent: %t", uri, err, want)
		}
		if err == nil {
			_ = answer.Body.Close()
		}
	}
	if n := elsewhere.Load(); n != 0 {
		t.Errorf("%d requests went to another host", n)
	}
}

// Covers B3: a proxy of the environment would connect to wherever a name leads, unseen.
func TestNoProxyIsUsed(t *testing.T) {
	const child = "TARGET_TEST_STORE"
	if store := os.Getenv(child); store != "" {
		_, port, _ := net.SplitHostPort(store)
		uri := "http://store.test:" + port
		dns := &names{answers: map[string][]string{"store.test": {"127.0.0.1"}}, asked: map[string]int{}}
		l, err := target.ParseStorage(uri+"/acct/c", secret.New([]byte(goodToken)))
		if err != nil {
			t.Fatal(err)
		}
		place, err := places(t, target.Config{AllowedHosts: []string{uri}, PrivateNetworks: []string{"127.0.0.0/8"}}).Tune(dns.resolver(t), nil, 1).Open(l)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := place.Open(t.Context(), "f/a"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("got %v, want the store's 404", err)
		}
		return
	}
	store := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(store.Close)
	var asked atomic.Int32
	proxy := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	t.Cleanup(proxy.Close)
	cmd := exec.Command(os.Args[0], "-test.run", "^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), "HTTP_PROXY="+proxy.URL, "http_proxy="+proxy.URL, "NO_PROXY=", "no_proxy=", child+"="+store.Listener.Addr().String())
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "PASS: "+t.Name()) || asked.Load() != 0 {
		t.Errorf("the child: %v, and the proxy was asked %d times\n%s", err, asked.Load(), out)
	}
}

// An answer without an end is cut where it is no object: listings and errors are read into memory.
func TestAnswersWithoutEnd(t *testing.T) {
	var sent atomic.Int64
	store := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if q := r.URL.Query(); !q.Has("comp") && !q.Has("list-type") {
			w.WriteHeader(http.StatusConflict)
		}
		_, _ = w.Write([]byte(map[bool]string{true: "<EnumerationResults>", false: "<ListBucketResult>"}[r.URL.Query().Has("comp")]))
		for block := bytes.Repeat([]byte("<a>x</a>"), 8192); ; sent.Add(int64(len(block))) {
			if _, err := w.Write(block); err != nil || sent.Load() > 1<<30 {
				return
			}
		}
	}))
	t.Cleanup(store.Close)
	config := s3Config(t, store.URL, "bucket")
	config.AllowedHosts = []string{store.URL}
	p := places(t, config).Tune(nil, nil, 1)
	blobs, err := target.ParseStorage(store.URL+"/acct/c", secret.New([]byte(goodToken)))
	if err != nil {
		t.Fatal(err)
	}
	container, err := p.Open(blobs)
	if err != nil {
		t.Fatal(err)
	}
	for _, place := range []target.Target{container, openURI(t, p, "s3://bucket")} {
		_, err := place.List(t.Context(), "f")
		if err == nil {
			t.Errorf("%s: an endless listing was read", place)
		}
		if _, err := place.Open(t.Context(), "f/a"); err == nil {
			t.Errorf("%s: an endless error was an object", place)
		}
	}
	if n := sent.Load(); n > 256<<20 {
		t.Errorf("%d MiB were sent before anybody stopped", n>>20)
	}
}

// A certificate that nobody here vouches for ends it; so does one for another name.
func TestCertificatesAreChecked(t *testing.T) {
	store := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		t.Errorf("a request was sent, with its token: %s", r.Method)
	}))
	store.Config.ErrorLog = log.New(io.Discard, "", 0)
	store.StartTLS()
	t.Cleanup(store.Close)
	roots := x509.NewCertPool()
	roots.AddCert(store.Certificate())
	_, port, _ := net.SplitHostPort(store.Listener.Addr().String())
	dns := &names{answers: map[string][]string{"other.store.test": {"127.0.0.1"}}, asked: map[string]int{}}
	for uri, trusted := range map[string]*x509.CertPool{store.URL + "/acct/c": nil, "https://other.store.test:" + port + "/acct/c": roots} {
		host, _, _ := strings.Cut(strings.TrimPrefix(uri, "https://"), "/")
		l, err := target.ParseStorage(uri, secret.New([]byte(goodToken)))
		if err != nil {
			t.Fatal(err)
		}
		place, err := places(t, target.Config{AllowedHosts: []string{host}, PrivateNetworks: []string{"127.0.0.0/8"}}).Tune(dns.resolver(t), trusted, 1).Open(l)
		if err != nil {
			t.Fatal(err)
		}
		for what, err := range everything(t.Context(), place) {
			if err == nil || !strings.Contains(err.Error(), "its certificate is") {
				t.Errorf("%s: %s: %v, want it to speak of the certificate", uri, what, err)
			}
		}
	}
}

// Covers B3: links do not lead out of the folders that are configured.
func TestLinksDoNotLeadOut(t *testing.T) {
	dir, outside := t.TempDir(), t.TempDir()
	base := filepath.Join(dir, "backups")
	secretFile := filepath.Join(outside, "there")
	err := errors.Join(
		os.MkdirAll(filepath.Join(base, "f"), 0o700),
		os.WriteFile(secretFile, []byte("not for you"), 0o600),
		os.Symlink(outside, filepath.Join(base, "out")),
		os.Symlink("../..", filepath.Join(base, "up")),
		os.Symlink(secretFile, filepath.Join(base, "f", "there")),
		os.Symlink(outside, filepath.Join(base, "g")),
		os.Symlink("f", filepath.Join(base, "inside")),
	)
	if err != nil {
		t.Fatal(err)
	}
	p := places(t, target.Config{Folders: []string{base}})
	for _, below := range []string{"/out", "/up", "/out/deeper", "/up/" + filepath.Base(outside)} {
		place := openURI(t, p, "file://"+base+below)
		for what, err := range everything(t.Context(), place) {
			if err == nil {
				t.Errorf("%s: %s succeeded", below, what)
			}
		}
	}
	place := openURI(t, p, "file://"+base)
	for _, name := range []string{"f/there", "g/there"} {
		if r, err := place.Open(t.Context(), name); err == nil {
			_ = r.Close()
			t.Errorf("open %s led out of the folder", name)
		}
		if o, err := place.Create(t.Context(), name); err == nil {
			o.Abort()
			t.Errorf("create %s led out of the folder, or over a link", name)
		}
	}
	if list, err := place.List(t.Context(), "f"); err != nil || len(list) != 0 {
		t.Errorf("list: %v, %v; want the link left out", list, err)
	}
	if list, err := place.List(t.Context(), "g"); err == nil || len(list) != 0 {
		t.Errorf("list of a link that leads out: %v, %v; want an error", list, err)
	}
	if entries, err := os.ReadDir(outside); err != nil || len(entries) != 1 {
		t.Errorf("the folder outside holds %v, %v; want what was there", entries, err)
	}
	if b, err := os.ReadFile(secretFile); err != nil || string(b) != "not for you" {
		t.Errorf("the file outside is %q, %v", b, err)
	}
	// A link that stays inside is followed.
	inside := openURI(t, p, "file://"+base+"/inside")
	o, err := inside.Create(t.Context(), "x/y")
	if err != nil {
		t.Fatal(err)
	}
	if err := o.Commit(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(base, "f", "x", "y")); err != nil {
		t.Error(err)
	}
}
