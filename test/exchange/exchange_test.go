package exchange

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// recording starts a server whose exchanges are recorded, and returns it with what ends it and reads them.
func recording(t *testing.T, handler http.HandlerFunc) (*httptest.Server, func() []Exchange) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "exchanges.jsonl")
	r, err := NewRecorder(file)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(r.Wrap(handler))
	return server, func() []Exchange {
		t.Helper()
		server.Close()
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		list, err := Read(file)
		if err != nil {
			t.Fatal(err)
		}
		return list
	}
}

// What is written down is what passed: both bodies to the byte, whatever is in them and although the handler clears
// its buffer afterwards; the headers that a contract speaks of, and no token.
func TestRecordsWhatPassed(t *testing.T) {
	binary := []byte{0xff, 0x00, '\n', 0xfe, '"'}
	server, end := recording(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("X-Other", "x")
		w.Header().Add("Warning", "299 a b")
		w.WriteHeader(http.StatusAccepted)
		w.Header().Set("Retry-After", "1") // too late: nobody gets it
		_, _ = w.Write(body)
		clear(body)
		_, _ = io.WriteString(w, "end")
	})
	request, err := http.NewRequest("POST", server.URL+"/keys/k//sign?api-version=7.4&x=%20", bytes.NewReader(binary))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer very-secret")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(response.Body)
	_ = response.Body.Close()
	if err != nil || response.StatusCode != 202 || !bytes.Equal(got, append(bytes.Clone(binary), "end"...)) || response.Header.Get("X-Other") != "x" {
		t.Errorf("the client got %d %q %v %v: recording changed the answer", response.StatusCode, got, response.Header, err)
	}
	want := []Exchange{{Method: "POST", URI: "/keys/k//sign?api-version=7.4&x=%20", APIVersion: "7.4", Status: 202,
		Header: http.Header{"Content-Type": {"application/json"}}, Request: binary, Response: append(bytes.Clone(binary), "end"...)}}
	if d := cmp.Diff(want, end()); d != "" {
		t.Error(d)
	}
}

// An answer without a status is 200; a body that the server did not read is not there; a handler that panics leaves
// an exchange without an answer, and its panic goes on.
func TestRecordsOddAnswers(t *testing.T) {
	server, end := recording(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/implicit":
			_, _ = io.WriteString(w, "x")
		case "/panic":
			panic(http.ErrAbortHandler)
		}
	})
	for _, path := range []string{"/implicit", "/panic", "/nothing"} {
		response, err := http.Post(server.URL+path, "text/plain", strings.NewReader("ignored"))
		if (err != nil) != (path == "/panic") {
			t.Errorf("%s: %v", path, err)
		}
		if err == nil {
			_ = response.Body.Close()
		}
	}
	list := end()
	got := map[string]string{}
	for _, e := range list {
		got[e.URI] = fmt.Sprintf("%d %s%s", e.Status, e.Request, e.Response)
	}
	// A handler that writes nothing at all has no answer of its own either: net/http makes one for it.
	if d := cmp.Diff(map[string]string{"/implicit": "200 x", "/panic": "0 ", "/nothing": "0 "}, got); d != "" {
		t.Error(d)
	}
}

// Exchanges under way at the same time do not mix, and none is lost.
func TestRecordsAtTheSameTime(t *testing.T) {
	server, end := recording(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		_, _ = w.Write(body)
	})
	var wait sync.WaitGroup
	for i := range 32 {
		wait.Go(func() {
			text := strings.Repeat(fmt.Sprint(i%10), 5000+i)
			response, err := http.Post(fmt.Sprintf("%s/%d", server.URL, i), "text/plain", strings.NewReader(text))
			if err != nil {
				t.Error(err)
				return
			}
			_, _ = io.Copy(io.Discard, response.Body)
			_ = response.Body.Close()
		})
	}
	wait.Wait()
	list := end()
	if len(list) != 32 {
		t.Errorf("%d exchanges, want 32", len(list))
	}
	for _, e := range list {
		if !bytes.Equal(e.Request, e.Response) || len(e.Request) < 5000 {
			t.Errorf("%s: %d bytes in, %d out", e.URI, len(e.Request), len(e.Response))
		}
	}
}

// A second server on the same file adds to it; one that cannot write says so at the end.
func TestAppendsAndReportsFailures(t *testing.T) {
	file := filepath.Join(t.TempDir(), "exchanges.jsonl")
	for range 2 {
		r, err := NewRecorder(file)
		if err != nil {
			t.Fatal(err)
		}
		r.write(Exchange{Method: "GET", URI: "/"})
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		r.write(Exchange{Method: "GET", URI: "/"})
		if err := r.Close(); !errors.Is(err, os.ErrClosed) {
			t.Errorf("an exchange was lost without a word: %v", err)
		}
	}
	if list, err := Read(file); err != nil || len(list) != 2 {
		t.Errorf("%d exchanges (%v), want 2", len(list), err)
	}
	if _, err := NewRecorder(filepath.Join(file, "below")); err == nil {
		t.Error("a file below a file was made")
	}
}

func TestReadRefuses(t *testing.T) {
	const line = `{"method":"GET","uri":"/","api_version":"","status":200,"header":null}`
	for name, c := range map[string]struct {
		text  string
		want  int
		fault string
	}{
		"nothing":                   {"", 0, ""},
		"two":                       {line + "\n" + line + "\n", 2, ""},
		"one, and one cut by death": {line + "\n" + line[:20], 1, ""},
		"no JSON":                   {line + "\nnonsense\n" + line + "\n", 0, "exchange 2 is not readable"},
		"an empty line":             {"\n", 0, "exchange 1"},
		"unknown member":            {`{"method":"GET","uri":"/","more":1}` + "\n", 0, "exchange 1"},
		"no method":                 {`{"uri":"/"}` + "\n", 0, "no method"},
		"no URI":                    {`{"method":"GET"}` + "\n", 0, "no URI"},
		"far too long":              {`{"method":"` + strings.Repeat("x", maxLine) + `","uri":"/"}` + "\n", 0, "longer than"},
	} {
		list, err := read(strings.NewReader(c.text))
		if len(list) != c.want || (err == nil) != (c.fault == "") || err != nil && !strings.Contains(err.Error(), c.fault) {
			t.Errorf("%s: %d exchanges, %v; want %d, %q", name, len(list), err, c.want, c.fault)
		}
	}
}

// What is read, written again, is read as the same.
func FuzzRead(f *testing.F) {
	f.Add([]byte(`{"method":"GET","uri":"/keys","api_version":"7.4","status":200,"header":{"Content-Type":["a"]},"request":"AQ==","response":"/w=="}` + "\n"))
	f.Add([]byte("{}\n"))
	f.Add([]byte(`{"method":"GET","uri":"/"}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		list, err := read(bytes.NewReader(text))
		if err != nil {
			return
		}
		var again bytes.Buffer
		for _, e := range list {
			line, err := json.Marshal(e)
			if err != nil {
				t.Fatal(err)
			}
			again.Write(append(line, '\n'))
		}
		second, err := read(&again)
		if err != nil {
			t.Fatal(err)
		}
		one, _ := json.Marshal(list)
		two, _ := json.Marshal(second)
		if !bytes.Equal(one, two) {
			t.Errorf("read as %s, then as %s", one, two)
		}
	})
}
