// Package exchange keeps what passes between clients and the data plane of a server under test: a middleware that
// writes each exchange as one line of JSON, and the reader of such files. It judges nothing; package contract does.
package exchange

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"
)

// Exchange is one request and its answer.
type Exchange struct {
	Method string `json:"method"`
	// URI is the request's target as the client wrote it: "/keys/k//sign?api-version=7.4".
	URI        string `json:"uri"`
	APIVersion string `json:"api_version"`
	// Status of the answer; 0 if there was none, because the handler panicked.
	Status int `json:"status"`
	// Header has those headers of the answer that a contract can speak of; see kept.
	Header http.Header `json:"header"`
	// Request is what the server read of the request's body: nothing where an operation takes none.
	Request  []byte `json:"request,omitempty"`
	Response []byte `json:"response,omitempty"`
}

// kept are the headers of an answer that are written down. The token of a request never is.
var kept = []string{"Content-Type", "Azure-AsyncOperation", "Retry-After", "WWW-Authenticate", "Location"}

// Recorder writes exchanges to a file. Safe for concurrent use.
type Recorder struct {
	mu   sync.Mutex
	file *os.File
	err  error // the first failure to write
}

// NewRecorder appends to a file, which it makes if it is not there. Whoever made the recorder closes it.
func NewRecorder(path string) (*Recorder, error) {
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	return &Recorder{file: f}, nil
}

// Close ends the file. It reports the first exchange that could not be written, if there was one.
func (r *Recorder) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.file.Close(); r.err == nil {
		r.err = err
	}
	return r.err
}

// Wrap returns a handler that answers as next does, and writes the exchange down before the request counts as
// finished: a server that stops gracefully has written all of them.
func (r *Recorder) Wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		var request bytes.Buffer
		if req.Body != nil {
			req.Body = &copied{ReadCloser: req.Body, to: &request}
		}
		answer := &answer{ResponseWriter: w}
		// Also when next panics: an answer that never came is an exchange too.
		defer func() {
			r.write(Exchange{
				Method: req.Method, URI: req.RequestURI, APIVersion: req.URL.Query().Get("api-version"),
				Status: answer.status, Header: answer.header, Request: request.Bytes(), Response: answer.body.Bytes(),
			})
		}()
		next.ServeHTTP(answer, req)
	})
}

func (r *Recorder) write(e Exchange) {
	line, err := json.Marshal(e)
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil {
		_, err = r.file.Write(append(line, '\n'))
	}
	if err != nil && r.err == nil {
		r.err = fmt.Errorf("record %s: %w", e.Method, err)
	}
}

// copied is a body of which a copy is kept as it is read.
type copied struct {
	io.ReadCloser
	to *bytes.Buffer
}

func (c *copied) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	c.to.Write(p[:n])
	return n, err
}

// answer is a response of which a copy is kept as it is written. The bytes are copied at once: the data plane
// clears some of its buffers after writing them.
type answer struct {
	http.ResponseWriter
	status int
	header http.Header
	body   bytes.Buffer
}

// Unwrap is for http.ResponseController.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

func (a *answer) WriteHeader(status int) {
	if a.status == 0 && status >= 200 {
		a.status, a.header = status, http.Header{}
		for _, name := range kept {
			if values := a.Header().Values(name); len(values) > 0 {
				a.header[http.CanonicalHeaderKey(name)] = append([]string(nil), values...)
			}
		}
	}
	a.ResponseWriter.WriteHeader(status)
}

func (a *answer) Write(p []byte) (int, error) {
	if a.status == 0 {
		a.WriteHeader(http.StatusOK)
	}
	a.body.Write(p)
	return a.ResponseWriter.Write(p)
}

// maxLine bounds one exchange: two bodies of the largest operation, as base64, and the rest.
const maxLine = 32 << 20

// Read returns the exchanges of a file, oldest first. What follows the last line break is left out: it is the
// line that a server was writing when it was killed. Any other line that is not an exchange is an error.
func Read(path string) ([]Exchange, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return read(f)
}

func read(from io.Reader) (list []Exchange, err error) {
	lines := bufio.NewReader(io.LimitReader(from, 1<<30))
	for {
		line, err := readLine(lines)
		if err == io.EOF {
			return list, nil
		} else if err != nil {
			return nil, fmt.Errorf("exchange %d: %w", len(list)+1, err)
		}
		var e Exchange
		decoder := json.NewDecoder(bytes.NewReader(line))
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(&e); err != nil {
			return nil, fmt.Errorf("exchange %d is not readable: %w", len(list)+1, err)
		}
		if e.Method == "" || e.URI == "" {
			return nil, fmt.Errorf("exchange %d has no method or no URI", len(list)+1)
		}
		list = append(list, e)
	}
}

// readLine returns the next whole line, or io.EOF where there is none.
func readLine(r *bufio.Reader) (line []byte, err error) {
	for {
		part, err := r.ReadSlice('\n')
		line = append(line, part...)
		switch {
		case len(line) > maxLine:
			return nil, fmt.Errorf("the line is longer than %d bytes", maxLine)
		case err == bufio.ErrBufferFull:
			continue
		case err != nil:
			return nil, err
		}
		return line, nil
	}
}
