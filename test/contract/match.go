package contract

import (
	"net/http"
	"net/url"
	"strings"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/routers"
)

// edition names the documents that an api-version is held against: the nearest that there are. A request without
// a version, or with one that is refused, is held against the oldest.
func edition(apiVersion string) string {
	switch {
	case strings.HasPrefix(apiVersion, "7.6"):
		return edition76
	case strings.HasPrefix(apiVersion, "20"):
		return editionDate
	}
	return edition74
}

// find returns the operation of a request and the document that it stands in. Without one, the document of keys,
// for the form of its errors, and no route.
func (d *Documents) find(apiVersion, method, uri string) (*document, *routers.Route) {
	var keys *document
	for _, doc := range d.editions[edition(apiVersion)] {
		if doc.spec.Paths.Value("/keys") != nil {
			keys = doc
		}
		for template, item := range doc.spec.Paths.Map() {
			operation := item.GetOperation(method)
			if operation == nil {
				continue
			}
			for _, segments := range spellings(uri) {
				if matches(template, segments) {
					return doc, &routers.Route{Spec: doc.spec, Path: template, PathItem: item, Method: method, Operation: operation}
				}
			}
		}
	}
	return keys, nil
}

// spellings are the paths that a request can mean: as it was sent, and, where a key's version may be left out,
// with one in its place. Clients send "/keys/k", "/keys/k/", "/keys/k/sign" and "/keys/k//sign" for the latest.
func spellings(uri string) [][]string {
	path, _, _ := strings.Cut(uri, "?")
	if u, err := url.ParseRequestURI(uri); err == nil {
		path = u.EscapedPath()
	}
	segments := strings.Split(strings.TrimPrefix(path, "/"), "/")
	if n := len(segments); n > 1 && segments[n-1] == "" {
		segments = segments[:n-1]
	}
	if len(segments) == 4 && segments[0] == "keys" && segments[2] == "" {
		segments = []string{"keys", segments[1], segments[3]}
	}
	all := [][]string{segments}
	if n := len(segments); segments[0] == "keys" && (n == 2 || n == 3) {
		all = append(all, append([]string{"keys", segments[1], anyVersion}, segments[2:]...))
	}
	return all
}

// anyVersion stands for the version that a client left out.
const anyVersion = "00000000000000000000000000000000"

// matches tells whether a path fits a template of the documents. No path fits two templates of one method, as a
// version is 32 hexadecimal digits here, which no name of an operation is.
func matches(template string, segments []string) bool {
	want := strings.Split(strings.TrimPrefix(template, "/"), "/")
	if want[0] == "{scope}" { // a scope is nothing, "keys" or "keys/NAME"
		want = want[1:]
		for len(segments) > len(want) {
			segments = segments[1:]
		}
	}
	if len(want) != len(segments) {
		return false
	}
	for i, w := range want {
		fits := w == segments[i]
		if w == "{key-version}" {
			fits = isVersion(segments[i])
		} else if strings.HasPrefix(w, "{") {
			fits = segments[i] != ""
		}
		if !fits {
			return false
		}
	}
	return true
}

func isVersion(s string) bool {
	return len(s) == len(anyVersion) && strings.Trim(s, "0123456789abcdefABCDEF") == ""
}

// declared tells whether a document names a status. "default" is no name: it is there for errors.
func declared(o *openapi3.Operation, status int) bool {
	return o.Responses.Status(status) != nil || status >= http.StatusBadRequest && o.Responses.Default() != nil
}
