package target_test

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"

	"strongroom/internal/target"
	"strongroom/internal/target/targettest"
)

// proxy stands before a real server. look sees each request first: it may answer itself (true), or change what comes back.
type proxy struct {
	server *httptest.Server
	look   func(w http.ResponseWriter, r *http.Request) (answered bool)
	after  func(*http.Response) error
}

// before starts a proxy; its methods are set by the test. The host stays what the client asked for: S3 signs it.
func before(t *testing.T, endpoint string) *proxy {
	t.Helper()
	u, err := url.Parse(endpoint)
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{}
	reverse := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(u)
			r.Out.Host = r.In.Host
		},
		ModifyResponse: func(answer *http.Response) error {
			if p.after != nil {
				return p.after(answer)
			}
			return nil
		},
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) }, // the connection breaks
		ErrorLog:     log.New(io.Discard, "", 0),
	}
	p.server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if p.look == nil || !p.look(w, r) {
			reverse.ServeHTTP(w, r)
		}
	}))
	p.server.Config.ErrorLog = log.New(io.Discard, "", 0)
	p.server.Start()
	t.Cleanup(p.server.Close)
	return p
}

// behind opens a blob container and a bucket, each through a proxy of its own.
func behind(t *testing.T) map[string]struct {
	proxy *proxy
	place target.Target
} {
	t.Helper()
	uri, token := newContainer(t, full)
	endpoint, err := s3Server()
	if err != nil {
		t.Fatal(err)
	}
	host, path, _ := strings.Cut(strings.TrimPrefix(uri, "http://"), "/")
	blobs, bucket := before(t, "http://"+host), before(t, endpoint)
	return map[string]struct {
		proxy *proxy
		place target.Target
	}{
		"blob": {blobs, openBlob(t, blobs.server.URL+"/"+path, token)},
		"s3":   {bucket, openS3(t, bucket.server.URL, newBucket(t, false), "/p")},
	}
}

// commits says whether a request is the one that makes an object.
func commits(r *http.Request) bool {
	q := r.URL.Query()
	switch {
	case q.Get("comp") == "blocklist", r.Method == http.MethodPost && q.Has("uploadId"):
		return true
	}
	return r.Method == http.MethodPut && !q.Has("comp") && !q.Has("uploadId")
}

// A commit fails, and was done or was not. Either way the writer learns the truth.
func TestAnswersGetLost(t *testing.T) {
	for name, b := range behind(t) {
		for size, data := range map[string][]byte{"small": []byte("small"), "large": make([]byte, target.PartSize+5)} {
			t.Run(name+"/"+size+"/done, and the answer lost", func(t *testing.T) {
				var lost atomic.Bool
				b.proxy.after = func(answer *http.Response) error {
					if commits(answer.Request) && !lost.Swap(true) {
						return errors.New("lost")
					}
					return nil
				}
				targettest.Put(t, b.place, "lost/"+size, data)
				if got := targettest.Get(t, b.place, "lost/"+size); !bytes.Equal(got, data) || !lost.Load() {
					t.Errorf("read %d bytes, lost: %t", len(got), lost.Load())
				}
			})
			t.Run(name+"/"+size+"/not done at first", func(t *testing.T) {
				b.proxy.after = nil
				var failed atomic.Bool
				b.proxy.look = func(w http.ResponseWriter, r *http.Request) bool {
					if r.Method == http.MethodPut && !failed.Swap(true) {
						w.WriteHeader(http.StatusServiceUnavailable)
						return true
					}
					return false
				}
				defer func() { b.proxy.look = nil }()
				targettest.Put(t, b.place, "busy/"+size, data)
				if got := targettest.Get(t, b.place, "busy/"+size); !bytes.Equal(got, data) || !failed.Load() {
					t.Errorf("read %d bytes, failed: %t", len(got), failed.Load())
				}
			})
			t.Run(name+"/"+size+"/another's is there, and the answer lost", func(t *testing.T) {
				o, err := b.place.Create(t.Context(), "other/"+size)
				if err != nil {
					t.Fatal(err)
				}
				defer o.Abort()
				if _, err := o.Write(data); err != nil {
					t.Fatal(err)
				}
				targettest.Put(t, b.place, "other/"+size, []byte("another's"))
				var lost atomic.Bool
				b.proxy.after = func(answer *http.Response) error {
					if commits(answer.Request) && !lost.Swap(true) {
						return errors.New("lost")
					}
					return nil
				}
				defer func() { b.proxy.after = nil }()
				if err := o.Commit(); !errors.Is(err, fs.ErrExist) || !lost.Load() {
					t.Errorf("commit: %v, lost: %t; want fs.ErrExist", err, lost.Load())
				}
				if got := targettest.Get(t, b.place, "other/"+size); string(got) != "another's" {
					t.Errorf("another's object is %d bytes of ours", len(got))
				}
			})
		}
	}
}

// A store may answer before it has read a body. Then the bytes are the caller's again, at once: for the next try, which
// reads them too, or for the next part, which is put in their place.
func TestBodiesAreReadUntilTheAnswer(t *testing.T) {
	from := strings.NewReader("0123456789")
	body, answered, ended := target.SentBody(io.NopCloser(from))
	if b := make([]byte, 4); func() bool { _, err := io.ReadFull(body, b); return err != nil || string(b) != "0123" }() {
		t.Fatalf("read %q before the answer", b)
	}
	answered()
	done := make(chan error)
	go func() {
		_, err := body.Read(make([]byte, 4)) // as the connection does, which must not break before the answer was read
		done <- err
	}()
	ended()
	if err := <-done; err == nil || from.Len() != 6 {
		t.Errorf("after the answer: %v, and %d bytes are left of 6", err, from.Len())
	}
}

// A store that is down is asked a few times and no more.
func TestTriesAreBounded(t *testing.T) {
	for name, b := range behind(t) {
		t.Run(name, func(t *testing.T) {
			var asked atomic.Int32
			b.proxy.look = func(w http.ResponseWriter, _ *http.Request) bool {
				asked.Add(1)
				w.WriteHeader(http.StatusServiceUnavailable)
				return true
			}
			if _, err := b.place.Open(t.Context(), "f/a"); err == nil || !strings.Contains(err.Error(), "several times (HTTP 503") {
				t.Errorf("got %v, want that the store could not", err)
			}
			if n := asked.Load(); n != 3 {
				t.Errorf("asked %d times, want 3", n)
			}
			asked.Store(0)
			b.proxy.look = func(http.ResponseWriter, *http.Request) bool {
				asked.Add(1)
				panic(http.ErrAbortHandler)
			}
			if _, err := b.place.Open(t.Context(), "f/a"); err == nil || !strings.Contains(err.Error(), "the connection broke") || asked.Load() != 3 {
				t.Errorf("of a store that hangs up: %v after %d requests, want that the connection broke, after 3", err, asked.Load())
			}
		})
	}
}

// breaking answers a GET of an object with a part of it and then breaks the connection; keep says how many bytes come.
type breaking struct {
	io.ReadCloser
	keep int
}

func (b *breaking) Read(p []byte) (int, error) {
	if b.keep <= 0 {
		return 0, errors.New("broken")
	}
	n, err := b.ReadCloser.Read(p[:min(len(p), b.keep)])
	b.keep -= n
	return n, err
}

// A download goes on where its connection broke, unless it breaks again and again, or the object became another.
func TestBrokenDownloads(t *testing.T) {
	data := make([]byte, 3<<20)
	for i := range data {
		data[i] = byte(i * 7 >> 3)
	}
	for name, b := range behind(t) {
		targettest.Put(t, b.place, "f/a", data)
		var mu sync.Mutex
		var ranges []string
		breakAfter := func(keep, times int) {
			ranges = nil
			b.proxy.after = func(answer *http.Response) error {
				mu.Lock()
				defer mu.Unlock()
				if answer.Request.Method == http.MethodGet {
					ranges = append(ranges, answer.Request.Header.Get("Range")+answer.Request.Header.Get("x-ms-range"))
					if len(ranges) <= times {
						answer.Body = &breaking{answer.Body, keep}
					}
				}
				return nil
			}
		}
		t.Run(name+"/twice", func(t *testing.T) {
			breakAfter(1<<20, 2)
			if got := targettest.Get(t, b.place, "f/a"); !bytes.Equal(got, data) {
				t.Errorf("read %d bytes, or others", len(got))
			}
			if len(ranges) != 3 || ranges[0] != "" || !strings.HasPrefix(ranges[2], "bytes=") {
				t.Errorf("asked for %q, want the whole and then what was missing", ranges)
			}
		})
		t.Run(name+"/for ever", func(t *testing.T) {
			breakAfter(100_000, 1<<30)
			r, err := b.place.Open(t.Context(), "f/a")
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = r.Close() }()
			if n, err := io.Copy(io.Discard, r); err == nil || !strings.Contains(err.Error(), "the connection broke") {
				t.Errorf("read %d bytes, %v; want that the connection broke", n, err)
			}
			if len(ranges) != 3 {
				t.Errorf("asked %d times, want 3", len(ranges))
			}
		})
		t.Run(name+"/a store that knows no ranges", func(t *testing.T) {
			breakAfter(1<<20, 1)
			b.proxy.look = func(_ http.ResponseWriter, r *http.Request) bool {
				if r.Method == http.MethodGet && len(ranges) > 0 {
					r.Header.Del("x-ms-range")
					r.Header.Del("Range")
				}
				return false
			}
			defer func() { b.proxy.look = nil }()
			if name == "s3" { // there the range is signed, so that it is the store that leaves it out
				b.proxy.look = nil
				breakAnswers := b.proxy.after
				b.proxy.after = func(answer *http.Response) error {
					if answer.StatusCode == http.StatusPartialContent {
						answer.StatusCode, answer.Status = http.StatusOK, "200 OK"
						answer.Body, answer.ContentLength = io.NopCloser(bytes.NewReader(data)), int64(len(data))
						answer.Header.Set("Content-Length", strconv.Itoa(len(data)))
					}
					return breakAnswers(answer)
				}
			}
			r, err := b.place.Open(t.Context(), "f/a")
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = r.Close() }()
			if n, err := io.Copy(io.Discard, r); err == nil || n >= int64(len(data)) {
				t.Errorf("read %d bytes, %v; want an error and not the beginning as the rest", n, err)
			}
		})
		t.Run(name+"/another object", func(t *testing.T) {
			breakAfter(1<<20, 1)
			r, err := b.place.Open(t.Context(), "f/a")
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = r.Close() }()
			if _, err := io.ReadFull(r, make([]byte, 10)); err != nil {
				t.Fatal(err)
			}
			other := bytes.Repeat([]byte("x"), len(data))
			if err := b.place.Delete(t.Context(), "f/a"); err != nil {
				t.Fatal(err)
			}
			targettest.Put(t, b.place, "f/a", other)
			if _, err := io.Copy(io.Discard, r); err == nil {
				t.Error("one object was begun and another one read to its end")
			}
		})
	}
}

// Storage that refuses to delete and to overwrite takes backups and gives them back.
func writesOnce(t *testing.T, place target.Target) {
	t.Helper()
	large := bytes.Repeat([]byte("0123456789abcdef"), target.PartSize/16+1)
	targettest.Put(t, place, "f/small", []byte("small"))
	targettest.Put(t, place, "f/large", large)
	if got := targettest.Get(t, place, "f/small"); string(got) != "small" {
		t.Errorf("read %q", got)
	}
	if got := targettest.Get(t, place, "f/large"); !bytes.Equal(got, large) {
		t.Errorf("read %d bytes, or others", len(got))
	}
	if list, err := place.List(t.Context(), "f"); err != nil || len(list) != 2 {
		t.Errorf("list: %v, %v", list, err)
	}
	if list, err := place.Folders(t.Context(), "f"); err != nil || len(list) != 1 {
		t.Errorf("folders: %v, %v", list, err)
	}
	for _, name := range []string{"f/small", "f/large"} {
		if _, err := place.Create(t.Context(), name); !errors.Is(err, fs.ErrExist) {
			t.Errorf("create %s again: %v, want fs.ErrExist", name, err)
		}
	}
	// What is given up may stay as it likes, and is no object.
	o, err := place.Create(t.Context(), "f/given-up")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := o.Write(large); err != nil {
		t.Fatal(err)
	}
	o.Abort()
	if _, err := place.Open(t.Context(), "f/given-up"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("open what was given up: %v, want fs.ErrNotExist", err)
	}
}

// Azurite knows no immutability policy, so a proxy answers as Azure does for a container that has one.
func TestImmutableContainer(t *testing.T) {
	b := behind(t)["blob"]
	var refused, written sync.Map
	b.proxy.look = func(w http.ResponseWriter, r *http.Request) bool {
		_, there := written.Load(r.URL.Path)
		overwrites := commits(r) && there
		if r.Method == http.MethodDelete || overwrites {
			refused.Store(r.Method, true)
			w.Header().Set("x-ms-error-code", "BlobImmutableDueToPolicy")
			w.WriteHeader(http.StatusConflict)
			return true
		}
		if commits(r) {
			written.Store(r.URL.Path, true)
		}
		return false
	}
	writesOnce(t, b.place)
	err := b.place.Delete(t.Context(), "f/small")
	if !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), "write-once") {
		t.Errorf("delete: %v, want that the store is write-once", err)
	}
	if _, saw := refused.Load(http.MethodDelete); !saw {
		t.Error("the store was never asked to delete: the test shows nothing")
	}
}

// A bucket with object lock keeps every version for a day. What S3 calls deleting only hides the object.
func TestObjectLock(t *testing.T) {
	bucket := newBucket(t, true)
	mode, validity, unit := minio.Compliance, uint(1), minio.Days
	if err := s3Admin(t).SetBucketObjectLockConfig(t.Context(), bucket, &mode, &validity, &unit); err != nil {
		t.Fatal(err)
	}
	endpoint, err := s3Server()
	if err != nil {
		t.Fatal(err)
	}
	place := openS3(t, endpoint, bucket, "")
	writesOnce(t, place)
	info, err := s3Admin(t).StatObject(t.Context(), bucket, "f/small", minio.StatObjectOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := s3Admin(t).RemoveObject(t.Context(), bucket, "f/small", minio.RemoveObjectOptions{VersionID: info.VersionID}); minio.ToErrorResponse(err).Code != minio.AccessDenied {
		t.Errorf("removing the version: %v, want AccessDenied: else the lock is none, and the test shows nothing", err)
	}
	if err := place.Delete(t.Context(), "f/large"); err != nil {
		t.Errorf("hiding an object: %v", err)
	}
}

// The permissions that Azure's documentation names are enough: crdw to write, rl to read. Without them it says so.
func TestPermissions(t *testing.T) {
	uri, all := newContainer(t, full)
	name := uri[strings.LastIndexByte(uri, '/')+1:]
	token := func(permissions string) string {
		p := full
		p.Add, p.Read, p.Create, p.Write = false, strings.Contains(permissions, "r"), strings.Contains(permissions, "c"), strings.Contains(permissions, "w")
		p.Delete, p.List = strings.Contains(permissions, "d"), strings.Contains(permissions, "l")
		return sasToken(t, name, p, time.Now().Add(time.Hour))
	}
	writer, reader := openBlob(t, uri, token("crdw")), openBlob(t, uri, token("rl"))
	targettest.Put(t, writer, "f/small", []byte("x"))
	targettest.Put(t, writer, "f/large", make([]byte, target.PartSize+1))
	if got := targettest.Get(t, reader, "f/small"); string(got) != "x" {
		t.Errorf("read %q", got)
	}
	if list, err := reader.List(t.Context(), "f"); err != nil || len(list) != 2 {
		t.Errorf("list: %v, %v", list, err)
	}
	if err := writer.Delete(t.Context(), "f/small"); err != nil {
		t.Error(err)
	}
	over := openBlob(t, uri, sasToken(t, name, full, time.Now().Add(-time.Minute)))
	for what, err := range everything(t.Context(), over) {
		if !errors.Is(err, fs.ErrPermission) {
			t.Errorf("with a token that is over, %s: %v, want fs.ErrPermission", what, err)
		}
	}
	if _, err := over.Create(t.Context(), "f/new"); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("with a token that is over, create: %v, want fs.ErrPermission before anything is sent", err)
	}
	if _, err := writer.List(t.Context(), "f"); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("list without the permission: %v, want fs.ErrPermission", err)
	}
	if o, err := reader.Create(t.Context(), "f/new"); err == nil {
		if err := o.Commit(); !errors.Is(err, fs.ErrPermission) {
			t.Errorf("write without the permission: %v, want fs.ErrPermission", err)
		}
	}
	// A token that was pasted without its escapes, whose signature has a '+'.
	pasted := ""
	for i := range 1000 {
		token := sasToken(t, name, full, time.Now().Add(time.Hour+time.Duration(i)*time.Second))
		if strings.Contains(token, "%2B") {
			pasted = strings.NewReplacer("%2B", "+", "%2F", "/", "%3D", "=", "%3A", ":").Replace(token)
			break
		}
	}
	if list, err := openBlob(t, uri, pasted).List(t.Context(), "f"); err != nil || len(list) != 1 {
		t.Errorf("with a token without escapes: %v, %v", list, err)
	}
	// A container and a bucket that are not there.
	absent := openBlob(t, uri+"x", sasToken(t, name+"x", full, time.Now().Add(time.Hour)))
	if _, err := absent.Create(t.Context(), "f/a"); err == nil || !strings.Contains(err.Error(), "make it first") {
		t.Errorf("create in a container that is not there: %v", err)
	}
	if err := absent.Delete(t.Context(), "f/a"); err == nil {
		t.Error("delete in a container that is not there succeeded")
	}
	endpoint, err := s3Server()
	if err != nil {
		t.Fatal(err)
	}
	gone := openBlob(t, uri+"x", all)
	for what, place := range map[string]target.Target{"container, opened by another's token": gone, "bucket": openS3(t, endpoint, "no-such-bucket", "")} {
		if _, err := place.List(t.Context(), "f"); err == nil {
			t.Errorf("list of a missing %s succeeded", what)
		}
		if o, err := place.Create(t.Context(), "f/a"); err == nil {
			if err := o.Commit(); err == nil {
				t.Errorf("write to a missing %s succeeded", what)
			}
		}
	}
}
