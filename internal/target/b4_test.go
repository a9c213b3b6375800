package target_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	azlog "github.com/Azure/azure-sdk-for-go/sdk/azcore/log"

	"strongroom/internal/target"
	"strongroom/secret"
)

// The signature of a SAS, as it must be found nowhere. Letters, so that no filter for strange characters helps; it is the
// whole of the secret: the rest of a token says only what it allows.
const (
	canarySignature = "CANARYsignatureDoNotPrintIt"
	canaryToken     = "?sv=2021-08-06&sr=c&sp=rwdl&se=2030-01-01T00%3A00%3A00Z&sig=" + canarySignature + "%2B%2F%3D"
)

// leaks reports which canary stands in a text, in which spelling, or "".
func leaks(text string) string {
	low := strings.ToLower(text)
	for _, canary := range []string{canarySignature, s3AccessKey, s3SecretKey, s3SecretKey[:12]} {
		for how, s := range map[string]string{
			"plain": canary, "escaped": url.QueryEscape(canary), "base64": base64.RawStdEncoding.EncodeToString([]byte(canary))[:14], "hex": fmt.Sprintf("%x", canary),
			"bytes": strings.Trim(fmt.Sprint([]byte(canary[:8])), "[]"),
		} {
			if strings.Contains(low, strings.ToLower(s)) {
				return how
			}
		}
	}
	return ""
}

// shown is everything that a careless hand could print of a value.
func shown(v any) string {
	var b strings.Builder
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x"} {
		fmt.Fprintf(&b, verb+"\n", v)
	}
	slog.New(slog.NewTextHandler(&b, nil)).Info("m", "v", v)
	slog.New(slog.NewJSONHandler(&b, nil)).Info("m", "v", v)
	if j, err := json.Marshal(v); err == nil {
		b.Write(j)
	}
	if err, is := v.(error); is {
		for next := errors.Unwrap(err); next != nil; next = errors.Unwrap(next) {
			fmt.Fprintf(&b, "%v %+v %#v\n", next, next, next)
		}
	}
	return b.String()
}

// badStores are servers that answer as badly as they can, and say back all that they were told.
func badStores(told func(r *http.Request) string) map[string]http.HandlerFunc {
	hijack := func(w http.ResponseWriter, answer string) {
		conn, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			panic(err)
		}
		_, _ = conn.Write([]byte(answer))
		_ = conn.Close()
	}
	xml := func(code, message string) string {
		return "<?xml version=\"1.0\"?><Error><Code>" + code + "</Code><Message>" + message + "</Message><Resource>" + message + "</Resource><RequestId>" + message + "</RequestId></Error>"
	}
	answer := func(status int) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			said := told(r)
			w.Header().Set("x-ms-error-code", said)
			w.Header().Set("x-amz-request-id", said)
			w.Header().Set("Content-Type", "application/xml")
			w.Header().Set("WWW-Authenticate", said)
			w.WriteHeader(status)
			_, _ = w.Write([]byte(xml(said, said)))
		}
	}
	stores := map[string]http.HandlerFunc{
		"hangs up": func(w http.ResponseWriter, _ *http.Request) { hijack(w, "") },
		"no http":  func(w http.ResponseWriter, r *http.Request) { hijack(w, "220 "+told(r)+"\r\n") },
		"status line": func(w http.ResponseWriter, r *http.Request) {
			hijack(w, "HTTP/1.1 403 "+told(r)+"\r\nContent-Length: 0\r\n\r\n")
		},
		"bad length": func(w http.ResponseWriter, r *http.Request) {
			hijack(w, "HTTP/1.1 200 OK\r\nContent-Length: "+told(r)+"\r\n\r\n")
		},
		"truncated": func(w http.ResponseWriter, r *http.Request) {
			hijack(w, "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\nETag: \"x\"\r\nLast-Modified: Mon, 02 Jan 2006 15:04:05 GMT\r\n\r\n<"+told(r))
		},
		"bad header": func(w http.ResponseWriter, r *http.Request) { hijack(w, "HTTP/1.1 200 OK\r\n"+told(r)+"\r\n\r\n") },
		"header too large": func(w http.ResponseWriter, r *http.Request) {
			hijack(w, "HTTP/1.1 200 OK\r\nX: "+strings.Repeat(told(r), 4000)+"\r\n\r\n")
		},
		"bad chunk": func(w http.ResponseWriter, r *http.Request) {
			hijack(w, "HTTP/1.1 403 No\r\nTransfer-Encoding: chunked\r\n\r\n"+told(r)+"\r\n")
		},
		"redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://example.com/?"+url.QueryEscape(told(r)), http.StatusTemporaryRedirect)
		},
		"no xml": func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write([]byte(told(r))) },
		"xml of another kind": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/xml")
			_, _ = w.Write([]byte("<A b=\"" + url.QueryEscape(told(r)) + "\"><EnumerationResults/><" + url.QueryEscape(told(r)) + ">"))
		},
		"dates that are none": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Last-Modified", told(r))
			w.Header().Set("Content-MD5", told(r))
			w.Header().Set("x-ms-blob-sequence-number", told(r))
			w.WriteHeader(http.StatusOK)
		},
		"an error after 200": func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write([]byte(xml("InternalError", told(r)))) },
	}
	for _, status := range []int{400, 401, 403, 404, 405, 409, 411, 412, 416, 418, 429, 500, 501, 503, 599} {
		stores[fmt.Sprint(status)] = answer(status)
	}
	return stores
}

// Covers B4: whatever a store answers, and whatever is printed of what this package returns, no token and no credential
// is in it, nor in a log.
func TestCredentialsAreNowhere(t *testing.T) {
	var logged bytes.Buffer
	log.SetOutput(&logged)
	defer log.SetOutput(os.Stderr)
	var mu sync.Mutex
	// What the library knows of a request is looked at; of an answer it knows what the store said.
	azlog.SetEvents(azlog.EventRequest)
	azlog.SetListener(func(_ azlog.Event, text string) {
		mu.Lock()
		defer mu.Unlock()
		logged.WriteString(text)
	})
	defer func() { azlog.SetListener(nil); azlog.SetEvents() }()

	var toldBlob, toldS3 atomic.Int32
	told := func(r *http.Request) string {
		if strings.Contains(r.URL.RawQuery, canarySignature) {
			toldBlob.Add(1)
			return canarySignature
		}
		if strings.Contains(r.Header.Get("Authorization"), s3AccessKey) {
			toldS3.Add(1)
			return s3AccessKey
		}
		return "nothing"
	}
	paths := 0
	look := func(what string, v any) {
		t.Helper()
		if how := leaks(shown(v)); how != "" {
			t.Errorf("%s shows a credential (%s): %.300s", what, how, fmt.Sprint(v))
		}
	}
	check := func(name, endpoint string, p func(target.Config) *target.Places, ctx context.Context, mustFail bool) {
		t.Helper()
		config := s3Config(t, endpoint, "bucket")
		config.AllowedHosts = []string{endpoint}
		all := p(config)
		look("the places", all)
		blobs, err := target.ParseStorage(endpoint+"/acct/c", secret.New([]byte(canaryToken)))
		if err != nil {
			t.Fatal(err)
		}
		bucket, err := target.ParseStorage("s3://bucket/prefix", secret.Bytes{})
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range []target.Location{blobs, bucket} {
			place, err := all.Open(l)
			if err != nil {
				t.Fatal(err)
			}
			look(name+": the location", l)
			look(name+": the location", &l)
			look(name+": the target", place)
			failed := 0
			for what, err := range everything(ctx, place) {
				if err == nil {
					continue
				}
				paths, failed = paths+1, failed+1
				look(fmt.Sprintf("%s: %s: %s", name, place, what), err)
			}
			if mustFail && failed == 0 {
				t.Errorf("%s: %s: nothing failed: the test shows nothing", name, place)
			}
			if o, err := place.Create(ctx, "f/o"); err == nil {
				look(name+": the object", o)
				o.Abort()
			}
			if r, err := place.Open(ctx, "f/o"); err == nil {
				look(name+": the reader", r)
				_ = r.Close()
			}
		}
	}
	plain := func(c target.Config) *target.Places { return places(t, c).Tune(nil, nil, 2) }
	for name, handler := range badStores(told) {
		server := httptest.NewServer(handler)
		check(name, server.URL, plain, t.Context(), name != "dates that are none")
		server.Close()
		check(name+", gone", server.URL, plain, t.Context(), true)
	}
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer server.Close()
	ended, end := context.WithCancel(t.Context())
	end()
	check("the caller left", server.URL, plain, ended, true)
	// Names that lead nowhere, or where they may not.
	dns := &names{answers: map[string][]string{"store.test": {"169.254.169.254"}}, asked: map[string]int{}}
	resolver := dns.resolver(t)
	for _, host := range []string{"store.test", "unknown.test"} {
		check("the name "+host, "http://"+host+":8080", func(c target.Config) *target.Places { return places(t, c).Tune(resolver, nil, 1) }, t.Context(), true)
	}
	// TLS with who does not speak it, and plain HTTP with who speaks only TLS.
	check("https to http", strings.Replace(server.URL, "http://", "https://", 1), plain, t.Context(), true)
	tls := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	tls.Config.ErrorLog = log.New(io.Discard, "", 0)
	tls.StartTLS()
	defer tls.Close()
	check("http to https", strings.Replace(tls.URL, "https://", "http://", 1), plain, t.Context(), true)
	check("a foreign certificate", tls.URL, plain, t.Context(), true)

	if toldBlob.Load() < 100 || toldS3.Load() < 100 || paths < 200 {
		t.Errorf("the stores were told the canaries %d and %d times, on %d failing paths: the test shows little", toldBlob.Load(), toldS3.Load(), paths)
	}
	mu.Lock()
	defer mu.Unlock()
	if logged.Len() == 0 {
		t.Error("the client library logged nothing to its listener: that was not looked at")
	}
	if how := leaks(logged.String()); how != "" {
		i := strings.Index(logged.String(), "CANARY")
		t.Errorf("a credential is in a log (%s): %.300q", how, logged.String()[max(0, i-150):])
	}
}

// Covers B4: the library has a log of its own, which an environment variable turns on, with all that a store says in it.
// Here it stays off.
func TestTheLibrarysLogStaysOff(t *testing.T) {
	const child = "TARGET_TEST_LOG"
	if endpoint := os.Getenv(child); endpoint != "" {
		for what, err := range everything(t.Context(), openBlob(t, endpoint+"/acct/c", canaryToken)) {
			if err == nil {
				t.Error(what, "succeeded")
			}
		}
		return
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("WWW-Authenticate", r.URL.RawQuery)
		w.WriteHeader(http.StatusForbidden)
	}))
	defer server.Close()
	cmd := exec.Command(os.Args[0], "-test.run", "^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), "AZURE_SDK_GO_LOGGING=all", child+"="+server.URL)
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "PASS: "+t.Name()) {
		t.Fatalf("the child: %v\n%.500s", err, out)
	}
	if leaks(string(out)) != "" || strings.Contains(string(out), "RESPONSE") {
		t.Errorf("the library logs: %.500s", out)
	}
}

// The counter-test: the check sees a canary that a library's own error holds.
func TestLeaksSeesALibrarysError(t *testing.T) {
	server := httptest.NewServer(nil)
	server.Close()
	_, err := http.Get(server.URL + "/" + canaryToken) //nolint:bodyclose // there is no answer
	if _, is := errors.AsType[*net.OpError](err); !is {
		t.Fatalf("got %v, want a connection refused", err)
	}
	if leaks(shown(err)) == "" {
		t.Error("the token in a *url.Error is not seen: the tests above prove nothing")
	}
}

// Covers B4: what parsing refuses is not echoed, and a token in the wrong place is not shown either.
func TestParsingShowsNoToken(t *testing.T) {
	for _, in := range []struct{ uri, token string }{
		{canaryToken, ""}, {canaryToken, canaryToken}, {"https://acct.blob.core.windows.net/c" + canaryToken, ""},
		{"https://" + canarySignature + "@acct.blob.core.windows.net/c", ""}, {"https://acct.blob.core.windows.net/" + canarySignature, ""},
		{"https://acct.blob.core.windows.net/c", canarySignature}, {"https://acct.blob.core.windows.net/c", "sig=" + canarySignature},
		{"https://acct.blob.core.windows.net/c", canaryToken + "&comp=list"}, {"https://acct.blob.core.windows.net/c", canaryToken + "%zz"},
		{"file:///srv/backups", canaryToken}, {"s3://bucket", canaryToken}, {"file:///srv" + canaryToken, ""}, {"s3://bucket/" + canaryToken, ""},
	} {
		_, err := target.ParseStorage(in.uri, secret.New([]byte(in.token)))
		if err == nil {
			t.Errorf("%q with %q was taken", in.uri, in.token)
			continue
		}
		if how := leaks(shown(err)); how != "" {
			t.Errorf("the refusal shows what was sent (%s): %v", how, err)
		}
	}
	for _, in := range []string{"https://acct.blob.core.windows.net/c" + canaryToken + "&comp=list", "ftp://x/y" + canaryToken} {
		if _, err := target.Parse(in); err == nil || leaks(shown(err)) != "" {
			t.Errorf("got %v, want a refusal that does not show the token", err)
		}
		if _, _, err := target.SplitFolder("https://acct.blob.core.windows.net/." + canaryToken); err == nil || leaks(shown(err)) != "" {
			t.Errorf("got %v, want a refusal that does not show the token", err)
		}
	}
}

// Credentials are read from files that nobody else can read, and what is in a file that is none is not shown.
func TestCredentialFiles(t *testing.T) {
	config := s3Config(t, "https://s3.example.com", "bucket")
	file := config.S3["test"].SecretKeyFile
	open := func() error {
		l, err := target.Parse("s3://bucket")
		if err != nil {
			t.Fatal(err)
		}
		_, err = places(t, config).Open(l)
		return err
	}
	if err := open(); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		change func() error
		says   string
	}{
		"readable by others": {func() error { return os.Chmod(file, 0o640) }, "chmod 600"},
		"two lines":          {func() error { return os.WriteFile(file, []byte(s3SecretKey+"\nx\n"), 0o600) }, "one line"},
		"empty":              {func() error { return os.WriteFile(file, []byte("\n"), 0o600) }, "one line"},
		"too long":           {func() error { return os.WriteFile(file, bytes.Repeat([]byte(s3SecretKey), 500), 0o600) }, "one line"},
		"control characters": {func() error { return os.WriteFile(file, []byte(s3SecretKey+"\x00"), 0o600) }, "one line"},
		"missing":            {func() error { return os.Remove(file) }, "no such file"},
		"a folder":           {func() error { return errors.Join(os.Remove(file), os.Mkdir(file, 0o700)) }, filepath.Base(file)},
	} {
		t.Run(name, func(t *testing.T) {
			_ = os.RemoveAll(file)
			if err := os.WriteFile(file, []byte(s3SecretKey), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := c.change(); err != nil {
				t.Fatal(err)
			}
			err := open()
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, want %q", err, c.says)
			}
			if leaks(shown(err)) != "" {
				t.Errorf("the error shows the credential: %v", err)
			}
		})
	}
}
