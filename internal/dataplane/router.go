package dataplane

import (
	"net/url"
	"strings"

	"strongroom/internal/failure"
)

// maxPath bounds the path of a request; the longest real one is a key name of 127 characters, a version and an
// operation.
const maxPath = 512

// route is one line of the table of routes. The pattern's segments are literals, {name} (any segment) or
// {version} (32 hexadecimal digits). Literals are tried first, so an operation name is never read as a version.
type route struct {
	method, pattern string
	op              operation
}

// match is a route with what its path says.
type match struct {
	op            operation
	name, version string
}

// router finds operations by method and path. It exists because the standard library's mux answers the paths of
// real clients (an empty version segment, a trailing slash) with redirects, and 404 and 405 in plain text.
type router struct {
	routes []route
}

// splitPath turns the raw path of a request into segments, or refuses it. A path reaches routing in one
// spelling only, so that what is checked is what is used: nothing is cleaned, decoded or redirected.
func splitPath(u *url.URL) ([]string, error) {
	raw := u.EscapedPath()
	refuse := func(what string) ([]string, error) {
		return nil, failure.New(failure.BadParameter, "the path %s; write it as the REST reference does", what)
	}
	if len(raw) > maxPath {
		return refuse("is too long")
	}
	if raw == "" || raw[0] != '/' {
		return refuse("does not begin with a slash")
	}
	for i := range len(raw) {
		c := raw[i]
		switch {
		case c == '%':
			return refuse("has percent-encoded characters")
		case c == '\\':
			return refuse("has a backslash")
		case c <= ' ' || c >= 0x7f:
			return refuse("has characters outside ASCII")
		}
	}
	segments := strings.Split(raw[1:], "/")
	for _, s := range segments {
		if s == "." || s == ".." {
			return refuse("has a dot segment")
		}
	}
	// The two empty segments that real clients send, both meaning the latest version.
	switch n := len(segments); {
	case n == 3 && segments[0] == "keys" && segments[1] != "" && segments[2] == "":
		segments = segments[:2]
	case n == 4 && segments[0] == "keys" && segments[1] != "" && segments[2] == "" && segments[3] != "":
		segments = []string{segments[0], segments[1], segments[3]}
	}
	if len(segments) == 1 && segments[0] == "" {
		return nil, failure.New(failure.NoRoute, "this is the data plane of a Managed HSM; see the REST reference of Managed HSM for its paths")
	}
	for _, s := range segments {
		if s == "" {
			return refuse("has an empty segment")
		}
	}
	return segments, nil
}

// find returns the route of a request. A path that exists under other methods is BadMethod.
func (r *router) find(method string, segments []string) (match, error) {
	other := false
	var found match
	best := -1
	for _, candidate := range r.routes {
		m, literals, ok := candidate.match(segments)
		if !ok {
			continue
		}
		if candidate.method != method {
			other = true
			continue
		}
		if literals > best {
			found, best = m, literals
		}
	}
	switch {
	case best >= 0:
		return found, nil
	case other:
		return match{}, failure.New(failure.BadMethod, "this path does not take %s", printableMethod(method))
	}
	return match{}, failure.New(failure.NoRoute, "there is no such operation on a Managed HSM, or this server does not have it")
}

func (r route) match(segments []string) (m match, literals int, ok bool) {
	want := strings.Split(r.pattern, "/")
	if len(want) != len(segments) {
		return match{}, 0, false
	}
	m.op = r.op
	for i, w := range want {
		s := segments[i]
		switch w {
		case "{name}":
			m.name = s
		case "{version}":
			if !isVersion(s) {
				return match{}, 0, false
			}
			m.version = strings.ToLower(s)
		default:
			if w != s {
				return match{}, 0, false
			}
			literals++
		}
	}
	return m, literals, true
}

func isVersion(s string) bool {
	if len(s) != 32 {
		return false
	}
	for _, c := range []byte(s) {
		if !(c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F') {
			return false
		}
	}
	return true
}

// printableMethod keeps a hostile method out of messages.
func printableMethod(m string) string {
	for _, known := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"} {
		if m == known {
			return m
		}
	}
	return "that method"
}
