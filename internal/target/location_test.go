package target_test

import (
	"errors"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"strongroom/internal/failure"
	"strongroom/internal/target"
	"strongroom/internal/target/targettest"
	"strongroom/secret"
)

func TestTokens(t *testing.T) {
	const uri = "https://acct.blob.core.windows.net/c"
	for _, token := range []string{
		goodToken, "?" + goodToken, "sv=2021-08-06&ss=b&srt=sco&sp=rwdlacx&se=2030-01-01T00:00:00Z&st=2025-01-01T00:00:00Z&spr=https&sip=1.2.3.4-1.2.3.9&sig=a+b/c=",
		"sv=2022-11-02&sr=c&skoid=a&sktid=b&skt=c&ske=d&sks=b&skv=2022&rscc=no-cache&rsct=x&saoid=y&scid=z&ses=e&sig=x%2By",
	} {
		if l, err := target.ParseStorage(uri, secret.New([]byte(token))); err != nil || l.NeedsToken() {
			t.Errorf("%s: %v", token, err)
		}
	}
	for name, token := range map[string]string{
		"no signature": "sv=2021-08-06&sp=r", "empty signature": "sv=2021-08-06&sig=", "no version": "sig=abc", "twice": goodToken + "&sig=x",
		"another operation": goodToken + "&comp=list", "a version": goodToken + "&versionid=1", "a snapshot": goodToken + "&snapshot=2020", "restype": goodToken + "&restype=container",
		"a line": goodToken + "\r\nHost: x", "a fragment": goodToken + "#x&" + "S=1", "an upper-case name": goodToken + "&SIG=x", "a space": goodToken + " ", "not ASCII": goodToken + "ü",
		"a bad escape": goodToken + "%g1", "two marks": "??" + goodToken, "long": goodToken + strings.Repeat("x", 4096), "a question": "?", "a semicolon": goodToken + ";st=1",
	} {
		if _, err := target.ParseStorage(uri, secret.New([]byte(token))); !errors.Is(err, failure.BadParameter) {
			t.Errorf("%s: %v, want it refused", name, err)
		}
	}
	l, err := target.ParseStorage(uri, secret.Bytes{})
	if err != nil || !l.NeedsToken() {
		t.Errorf("without a token: %v, and it needs one: %t", err, l.NeedsToken())
	}
	if _, err := places(t, operator()).Open(l); !errors.Is(err, failure.BadParameter) {
		t.Errorf("open without a token: %v, want a bad parameter", err)
	}
}

// What people type at the command line.
func TestParse(t *testing.T) {
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for in, want := range map[string]string{
		"/srv/backups/":  "file:///srv/backups",
		"backups":        "file://" + here + "/backups",
		".":              "file://" + here,
		"a?b":            "file://" + here + "/a%3Fb",
		"file:///srv/b":  "file:///srv/b",
		"s3://bucket/p/": "s3://bucket/p",
		"https://acct.blob.core.windows.net/c?" + goodToken: "https://acct.blob.core.windows.net/c",
		"https://acct.blob.core.windows.net/c":              "https://acct.blob.core.windows.net/c",
	} {
		if l, err := target.Parse(in); err != nil || l.String() != want {
			t.Errorf("%q: %s, %v; want %s", in, l, err, want)
		}
	}
	for _, in := range []string{"", "https://acct.blob.core.windows.net/c?", "ftp://x/y", "a\x00b", strings.Repeat("a", 1025), "s3://bucket?" + goodToken, "file:///srv?" + goodToken} {
		if l, err := target.Parse(in); !errors.Is(err, failure.BadParameter) {
			t.Errorf("%q: %s, %v; want a bad parameter", in, l, err)
		}
	}
	for in, want := range map[string][2]string{
		"/srv/backups/mhsm-a-1":  {"/srv/backups", "mhsm-a-1"},
		"/srv/backups/mhsm-a-1/": {"/srv/backups", "mhsm-a-1"},
		"mhsm-a-1":               {".", "mhsm-a-1"},
		"/mhsm-a-1":              {"/", "mhsm-a-1"},
		"b/mhsm-a-1":             {"b", "mhsm-a-1"},
		"s3://bucket/p/mhsm-a-1": {"s3://bucket/p", "mhsm-a-1"},
		"https://acct.blob.core.windows.net/c/mhsm-a-1?" + goodToken: {"https://acct.blob.core.windows.net/c?" + goodToken, "mhsm-a-1"},
		"https://acct.blob.core.windows.net/c/mhsm-a-1":              {"https://acct.blob.core.windows.net/c", "mhsm-a-1"},
	} {
		place, folder, err := target.SplitFolder(in)
		if err != nil || place != want[0] || folder != want[1] {
			t.Errorf("%q: %q, %q, %v; want %q", in, place, folder, err, want)
			continue
		}
		if _, err := target.Parse(place); err != nil {
			t.Errorf("the place of %q: %v", in, err)
		}
	}
	for _, in := range []string{"", "/", "/srv/..", ".", "s3://bucket/", "https://host/?" + goodToken, "//"} {
		place, folder, err := target.SplitFolder(in)
		if err == nil {
			_, err = target.Parse(place)
		}
		if !errors.Is(err, failure.BadParameter) {
			t.Errorf("%q: %q, %q, %v; want a bad parameter", in, place, folder, err)
		}
	}
}

func TestConfigCheck(t *testing.T) {
	if err := operator().Check(); err != nil {
		t.Fatal(err)
	}
	if err := (target.Config{}).Check(); err != nil {
		t.Errorf("nothing configured: %v", err)
	}
	good := operator().S3["main"]
	s3 := func(change func(*target.S3Config)) target.Config {
		s := good
		change(&s)
		return target.Config{S3: map[string]target.S3Config{"main": s}}
	}
	hosts := func(list ...string) target.Config { return target.Config{AllowedHosts: list} }
	for says, list := range map[string][]target.Config{
		"allowed_hosts": {
			hosts("*"), hosts("*.net"), hosts("http://*.example.com"), hosts("*.10.0.0.1"), hosts("ftp://example.com"), hosts("example.com/path"), hosts("user@example.com"), hosts(""),
			hosts("example.com:0"), hosts("a..b"), hosts("exa mple.com"), hosts("127.1"), hosts("[::1"), hosts("::1"), hosts("*"), hosts("a.*.example.com"), hosts(strings.Repeat("a", 3000)),
		},
		"one list": {hosts(make([]string, 65)...)},
		"private_networks": {
			{PrivateNetworks: []string{"10.0.0.1"}}, {PrivateNetworks: []string{"10.0.0.1/8"}}, {PrivateNetworks: []string{"0.0.0.0/0"}}, {PrivateNetworks: []string{"::/0"}},
			{PrivateNetworks: []string{"169.254.0.0/16"}}, {PrivateNetworks: []string{"169.254.169.254/32"}}, {PrivateNetworks: []string{"fe80::/64"}}, {PrivateNetworks: []string{"x"}},
		},
		"folders": {{Folders: []string{"/"}}, {Folders: []string{"backups"}}, {Folders: []string{"/srv/"}}, {Folders: []string{"/srv/../etc"}}, {Folders: []string{""}}},
		"endpoint": {
			s3(func(s *target.S3Config) { s.Endpoint = "s3.example.com" }), s3(func(s *target.S3Config) { s.Endpoint = "https://s3.example.com/path" }),
			s3(func(s *target.S3Config) { s.Endpoint = "ftp://s3.example.com" }), s3(func(s *target.S3Config) { s.Endpoint = "" }),
			s3(func(s *target.S3Config) { s.Endpoint = "https://key:secret@s3.example.com" }),
		},
		"bucket":          {s3(func(s *target.S3Config) { s.Bucket = "Not_one" }), s3(func(s *target.S3Config) { s.Bucket = "" }), s3(func(s *target.S3Config) { s.Bucket = "a..b" })},
		"region":          {s3(func(s *target.S3Config) { s.Region = "us east" })},
		"access_key_file": {s3(func(s *target.S3Config) { s.AccessKeyFile = "" }), s3(func(s *target.S3Config) { s.SecretKeyFile = "" })},
		"two places":      {{S3: map[string]target.S3Config{"a": good, "b": good}}},
	} {
		for _, c := range list {
			if err := c.Check(); err == nil || !strings.Contains(err.Error(), says) {
				t.Errorf("%+v: %v, want it to speak of %s", c, err, says)
			}
			if _, err := target.New(c); err == nil {
				t.Errorf("%+v was taken", c)
			}
		}
	}
}

// What a person runs for themselves may go where a client of a server may not, and still not send a token in clear.
func TestOwn(t *testing.T) {
	own, err := target.Own(target.Config{})
	if err != nil {
		t.Fatal(err)
	}
	for uri, want := range map[string]bool{
		"https://nas.example.org/c": true, "https://10.0.0.1/a/c": true, "http://127.0.0.1:10000/devstoreaccount1/c": true, "http://[::1]:10000/a/c": true,
		"http://nas.example.org/c": false, "http://10.0.0.1/a/c": false, "s3://bucket": false, "file:///anywhere": true,
	} {
		l, err := target.Parse(uri)
		if err != nil {
			t.Fatal(err)
		}
		if err := own.Allows(l); (err == nil) != want {
			t.Errorf("%s: %v, want it allowed: %t", uri, err, want)
		}
	}
	dir := filepath.Join(t.TempDir(), "new", "backups")
	l, err := target.Parse(dir)
	if err != nil {
		t.Fatal(err)
	}
	place, err := own.Open(l)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := place.List(t.Context(), "f"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("list in a folder that is not there: %v, want fs.ErrNotExist", err)
	}
	targettest.Put(t, place, "f/a", []byte("x"))
	if b, err := os.ReadFile(filepath.Join(dir, "f", "a")); err != nil || string(b) != "x" {
		t.Errorf("the file holds %q, %v", b, err)
	}
	// Azurite, as somebody on this machine uses it.
	uri, token := newContainer(t, full)
	if l, err = target.Parse(uri + "?" + token); err != nil {
		t.Fatal(err)
	}
	if place, err = own.Open(l); err != nil {
		t.Fatal(err)
	}
	targettest.Put(t, place, "f/a", []byte("x"))
}

// What parses is one thing: it prints as what parses to the same, and nothing of it can leave its place.
func FuzzParseStorage(f *testing.F) {
	for _, uri := range []string{
		"https://acct.blob.core.windows.net/c", "http://127.0.0.1:10000/devstoreaccount1/c", "https://[2606:4700::1111]:8443/a/c", "file:///srv/a%20b", "s3://bucket/p/q",
		"https://user@host/c", "https://host:443/c/", "HTTPS://HOST/c", "file://host/x", "https://1.2.3.4.5/c",
	} {
		f.Add(uri, goodToken)
		f.Add(uri, "")
	}
	f.Fuzz(func(t *testing.T, uri, token string) {
		l, err := target.ParseStorage(uri, secret.New([]byte(token)))
		if err != nil {
			if !errors.Is(err, failure.BadParameter) {
				t.Fatalf("%q: %v is no bad parameter", uri, err)
			}
			return
		}
		shown := l.URI()
		again, err := target.ParseStorage(shown, secret.Bytes{})
		if err != nil || again.URI() != shown {
			t.Fatalf("%q is shown as %q, which is read as %q, %v", uri, shown, again.URI(), err)
		}
		// The standard library reads the same host, and nothing beside it.
		u, err := url.Parse(shown)
		if err != nil || u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.Opaque != "" || strings.Contains(u.Path, "/../") {
			t.Fatalf("%q is shown as %q, which holds more than a place: %v", uri, shown, err)
		}
		if sent, err := url.Parse(uri); err == nil && sent.Host != "" && !strings.EqualFold(strings.TrimSuffix(sent.Host, ":"+u.Port()), strings.TrimSuffix(u.Host, ":"+u.Port())) &&
			!strings.EqualFold(strings.TrimSuffix(strings.TrimSuffix(sent.Host, ":443"), ":80"), u.Host) {
			t.Fatalf("%q has the host %q for the standard library and %q here", uri, sent.Host, u.Host)
		}
		if strings.Contains(token, "sig=") && strings.Contains(shown, "sig=") && !strings.Contains(uri, "sig=") {
			t.Fatalf("%q shows the token", shown)
		}
	})
}

func FuzzSplitFolder(f *testing.F) {
	for _, s := range []string{"/srv/backups/mhsm-a-1", "mhsm-a-1", "s3://bucket/p/mhsm-a-1", "https://acct.blob.core.windows.net/c/mhsm-a-1?" + goodToken, "//", "?", "a?b/c"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if len(s) > 5000 {
			return
		}
		place, folder, err := target.SplitFolder(s)
		if err != nil {
			return
		}
		if folder == "" || strings.ContainsAny(folder, "/?") || folder[0] == '.' || place == "" {
			t.Fatalf("%q: %q and %q", s, place, folder)
		}
		_, _ = target.Parse(place)
	})
}
