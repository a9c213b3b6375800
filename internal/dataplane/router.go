package dataplane

import (
	"net/url"
	"slices"
	"strings"

	"strongroom/internal/access"
	"strongroom/internal/failure"
)

// maxPath bounds the path of a request; the longest real one is a key name of 127 characters, a version and an
// operation.
const maxPath = 512

// route is one line of the table of routes. The pattern's segments are literals, {name} (any segment),
// {version} (32 hexadecimal digits) or {id} (any segment: the name of a role definition or assignment, or of a setting). Literals are tried first, so an operation name is never read as a version.
type route struct {
	method, pattern string
	op              operation
}

// match is a route with what its path says.
type match struct {
	op                operation
	action            access.Action // that its caller must have
	name, version, id string
	scope             string // where in the HSM its caller must have it; "": the key of that name
}

// router finds operations by method and path. It exists because the standard library's mux answers the paths of
// real clients (an empty version segment, a trailing slash) with redirects, and 404 and 405 in plain text.
type router struct {
	// byLength are the routes by their number of segments, those with most literals first and otherwise in the order
	// of the table: the first one that fits is the one.
	byLength [][]compiled
}

// compiled is a route whose pattern has been taken apart.
type compiled struct {
	route
	action   access.Action
	segments []string
	literals int
	scope    string // "": the key that the path names
}

func newRouter(routes []route) router {
	var r router
	for _, route := range routes {
		route.op.action = actions[route.method+" "+route.pattern]
		c := compiled{route: route, action: actions[route.method+" "+route.pattern], segments: strings.Split(route.pattern, "/"), scope: access.ScopeRoot}
		if c.segments[0] == "keys" || c.segments[0] == "deletedkeys" { // lists, restore, and the roles of all keys
			c.scope = access.ScopeKeys
		}
		for _, s := range c.segments {
			if s == segmentName {
				c.scope = ""
			}
			if s != segmentName && s != segmentVersion && s != segmentID {
				c.literals++
			}
		}
		for len(r.byLength) <= len(c.segments) {
			r.byLength = append(r.byLength, nil)
		}
		r.byLength[len(c.segments)] = append(r.byLength[len(c.segments)], c)
	}
	for _, list := range r.byLength {
		slices.SortStableFunc(list, func(a, b compiled) int { return b.literals - a.literals })
	}
	return r
}

// The segments of a pattern that are no literals.
const (
	segmentName    = "{name}"
	segmentVersion = "{version}"
	segmentID      = "{id}"
)

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
	// The empty segments that real clients send. Before providers, the scope of the whole HSM put as it is into
	// /{scope}/providers/…; behind a key's name, the latest version.
	switch n := len(segments); {
	case n > 2 && segments[0] == "" && segments[1] == "providers":
		segments = segments[1:]
	case n > 3 && segments[0] == "" && segments[1] == "" && segments[2] == "providers":
		segments = segments[2:]
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
	if len(segments) < len(r.byLength) {
		list := r.byLength[len(segments)]
		for i := range list {
			m, ok := list[i].match(segments)
			switch {
			case !ok:
			case list[i].method == method:
				return m, nil
			default:
				other = true
			}
		}
	}
	if other {
		return match{}, failure.New(failure.BadMethod, "this path does not take %s", printableMethod(method))
	}
	return match{}, failure.New(failure.NoRoute, "there is no such operation on a Managed HSM, or this server does not have it")
}

// match compares segments of the same number.
func (c *compiled) match(segments []string) (m match, ok bool) {
	m.op, m.action, m.scope = c.op, c.action, c.scope
	for i, want := range c.segments {
		s := segments[i]
		switch want {
		case segmentName:
			m.name = s
		case segmentVersion:
			if !isVersion(s) {
				return match{}, false
			}
			m.version = strings.ToLower(s)
		case segmentID:
			m.id = s
		default:
			if want != s {
				return match{}, false
			}
		}
	}
	return m, true
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
