package dataplane_test

import (
	"net/http"
	"sync/atomic"
	"testing"

	"strongroom/internal/dataplane"
)

// What jobs give way to are calls that do something, whoever answers them; not those that ask how a job stands, and none of
// strangers.
func TestCallsAreCounted(t *testing.T) {
	f := newFixture(t, "alpha")
	f.activate("alpha")
	var calls atomic.Uint64
	f.configure(func(c *dataplane.Config) { c.Calls = &calls })
	for _, c := range []struct {
		request
		status int
		counts uint64
	}{
		{request{method: http.MethodGet, path: "/keys"}, http.StatusOK, 1},
		{request{method: http.MethodGet, path: "/keys", query: "none"}, http.StatusBadRequest, 1},
		{request{method: http.MethodGet, path: "/backup/0123456789abcdef0123456789abcdef/pending"}, http.StatusNotFound, 0},
		{request{method: http.MethodGet, path: "/keys", token: "none"}, http.StatusUnauthorized, 0},
		{request{method: http.MethodGet, path: "/nothing"}, http.StatusNotFound, 0},
	} {
		before := calls.Load()
		w := f.do(c.request)
		if n := calls.Load() - before; w.Code != c.status || n != c.counts {
			t.Errorf("%s %s: status %d, %d calls counted; want %d and %d", c.method, c.path, w.Code, n, c.status, c.counts)
		}
	}
}
