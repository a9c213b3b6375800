package dataplane_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
)

// blank is a ResponseWriter that costs nothing itself.
type blank struct {
	header http.Header
	status int
}

func (b *blank) Header() http.Header         { return b.header }
func (b *blank) WriteHeader(status int)      { b.status = status }
func (b *blank) Write(p []byte) (int, error) { return len(p), nil }

// body is a request body that can be read again.
type body struct{ *bytes.Reader }

func (body) Close() error { return nil }

// BenchmarkRequest is what one request costs between net/http and the client's answer, without TLS and HTTP: path,
// token, role, strict JSON, key, cryptography and the answer. Its allocations are those of a request.
func BenchmarkRequest(b *testing.B) {
	f := newFixture(b, "alpha")
	f.activate("alpha")
	digest := `{"alg":"%s","value":"` + "47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU" + `"}`
	for _, row := range []struct{ name, create, path, body string }{
		{"P-256 sign", `{"kty":"EC-HSM","crv":"P-256"}`, "/sign", fmt.Sprintf(digest, "ES256")},
		{"RSA-2048 sign", `{"kty":"RSA-HSM","key_size":2048}`, "/sign", fmt.Sprintf(digest, "RS256")},
		{"GCM encrypt 1 KB", `{"kty":"oct-HSM","key_size":256}`, "/encrypt", `{"alg":"A256GCM","value":"` + string(bytes.Repeat([]byte("A"), 1366)) + `"}`},
		{"get", `{"kty":"EC-HSM","crv":"P-256"}`, "", ""},
	} {
		b.Run(row.name, func(b *testing.B) {
			name := "key-" + string(row.create[8]) + string(row.name[0])
			if w := f.do(request{method: "POST", path: "/keys/" + name + "/create", body: row.create}); w.Code != 200 {
				b.Fatalf("create: %d %s", w.Code, w.Body)
			}
			method := "POST"
			if row.body == "" {
				method = "GET"
			}
			u, err := url.Parse("https://alpha.managedhsm.localhost:8443/keys/" + name + row.path + "?api-version=7.4")
			if err != nil {
				b.Fatal(err)
			}
			text := bytes.NewReader([]byte(row.body))
			r := httptest.NewRequest(method, "https://x/", nil)
			r.URL, r.Host, r.Body, r.ContentLength = u, u.Host, io.NopCloser(text), int64(len(row.body))
			r.Header.Set("Authorization", "Bearer "+f.token(nil))
			r.Header.Set("Content-Type", "application/json")
			w := &blank{header: http.Header{}}
			b.ReportAllocs()
			for b.Loop() {
				text.Reset([]byte(row.body))
				r.Body = body{text}
				clear(w.header)
				f.handler.ServeHTTP(w, r)
				if w.status != 200 {
					b.Fatal(w.status)
				}
			}
		})
	}
}
