package dataplane

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"strongroom/internal/failure"
)

// slowFind is what the compiled router has to agree with: each pattern taken apart and held against the path, the one
// with most literals wins, and of those the first.
func slowFind(routes []route, method string, segments []string) (pattern, name, version string, err error) {
	best, other := -1, false
	for _, r := range routes {
		want, literals, n, v, fits := strings.Split(r.pattern, "/"), 0, "", "", true
		if len(want) != len(segments) {
			continue
		}
		for i, w := range want {
			switch {
			case w == "{name}":
				n = segments[i]
			case w == "{version}":
				v, fits = strings.ToLower(segments[i]), fits && isVersion(segments[i])
			case w == "{id}":
			default:
				fits = fits && w == segments[i]
				literals++
			}
		}
		switch {
		case !fits:
		case r.method != method:
			other = true
		case literals > best:
			pattern, name, version, best = r.pattern, n, v, literals
		}
	}
	switch {
	case best >= 0:
		return pattern, name, version, nil
	case other:
		return "", "", "", failure.BadMethod
	}
	return "", "", "", failure.NoRoute
}

// agree routes one request both ways. Which route was found shows in its bound of the body, which here is its number.
func agree(t *testing.T, method string, segments []string) error {
	numbered := make([]route, len(routes))
	for i, r := range routes {
		r.op.maxBody = int64(i)
		numbered[i] = r
	}
	compiled := newRouter(numbered)
	m, err := compiled.find(method, segments)
	pattern, name, version, kind := slowFind(numbered, method, segments)
	if (err == nil) != (kind == nil) || err != nil && !errors.Is(err, kind) {
		t.Errorf("%s %q: %v, want %v", method, segments, err, kind)
		return err
	}
	if err != nil {
		return err
	}
	found := numbered[m.op.maxBody]
	id := ""
	if at := strings.Index("/"+pattern+"/", "/{id}/"); at >= 0 {
		id = segments[strings.Count(pattern[:at], "/")]
	}
	if found.pattern != pattern || found.method != method || m.name != name || m.version != version || m.id != id {
		t.Errorf("%s %q: %s %s with name %q and version %q, want %s with %q and %q", method, segments, found.method, found.pattern, m.name, m.version, pattern, name, version)
	}
	return nil
}

// Covers A1: the compiled table finds what the table says, for every route and for paths that are nearly one.
func TestCompiledRoutesAgreeWithTheTable(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	words := []string{"x", "keys", "create", "versions", "KEYS", "{name}", "{version}", "{id}", strings.Repeat("0aF9", 8), strings.Repeat("0", 31), strings.Repeat("g", 32)}
	for _, route := range routes {
		words = append(words, strings.Split(route.pattern, "/")...)
	}
	methods := []string{"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "get", ""}
	found, refused := 0, 0
	for _, route := range routes {
		for range 200 {
			segments := strings.Split(route.pattern, "/")
			for i, s := range segments {
				if s == "{name}" || s == "{version}" || s == "{id}" || r.IntN(8) == 0 {
					segments[i] = words[r.IntN(len(words))]
				}
			}
			method := route.method
			if r.IntN(4) == 0 {
				method = methods[r.IntN(len(methods))]
			}
			switch r.IntN(16) {
			case 0:
				segments = append(segments, words[r.IntN(len(words))])
			case 1:
				segments = segments[1:]
			}
			if agree(t, method, segments) == nil {
				found++
			} else {
				refused++
			}
		}
	}
	if found < 100 || refused < 100 {
		t.Errorf("%d found and %d refused: one side is hardly tested", found, refused)
	}
}

// Two routes of one pattern and method: the first one of the table counts, as it always did.
func TestFirstRouteOfATieWins(t *testing.T) {
	table := []route{
		{"GET", "keys/{name}", operation{maxBody: 1}},
		{"GET", "{name}/versions", operation{maxBody: 2}},
		{"GET", "keys/versions", operation{maxBody: 3}},
		{"GET", "keys/versions", operation{maxBody: 4}},
	}
	compiled := newRouter(table)
	for path, want := range map[string]int64{"keys/x": 1, "x/versions": 2, "keys/versions": 3} {
		if m, err := compiled.find("GET", strings.Split(path, "/")); err != nil || m.op.maxBody != want {
			t.Errorf("%s: route %d, %v; want %d", path, m.op.maxBody, err, want)
		}
	}
}

// Covers A1, R4.
func FuzzRouter(f *testing.F) {
	for _, r := range routes {
		f.Add(r.method, r.pattern)
	}
	f.Add("GET", "keys/x/"+strings.Repeat("aB", 16))
	f.Fuzz(func(t *testing.T, method, path string) {
		if len(path) > maxPath {
			return
		}
		_ = agree(t, method, strings.Split(path, "/"))
	})
}

func BenchmarkFind(b *testing.B) {
	r := newRouter(routes)
	for _, path := range []string{"keys/x/sign", fmt.Sprintf("keys/x/%s/unwrapkey", strings.Repeat("0a", 16))} {
		segments := strings.Split(path, "/")
		b.Run(path, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := r.find("POST", segments); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
