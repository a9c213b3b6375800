package target

import (
	"net/netip"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"unicode/utf8"

	"strongroom/secret"
)

// Bounds of what clients send.
const (
	maxURILen      = 2048
	maxTokenLen    = 4096
	maxPathLen     = 1024
	maxPrefixParts = 8
)

type kind int

const (
	kindFolder kind = iota + 1
	kindBlob
	kindS3
)

// Location says where backups lie, as somebody wrote it: checked in form, not yet against any configuration. Its token
// is a secret, and its String does not hold it. The zero value is no place.
type Location struct {
	kind   kind
	path   string       // kindFolder: absolute and clean
	origin origin       // kindBlob
	segs   []string     // kindBlob: the container, before it the account where the host does not name it; kindS3: the prefix
	bucket string       // kindS3
	token  secret.Bytes // kindBlob: the SAS, checked and in one spelling
}

// origin is the scheme, host and port of a URL. A host that is an address is in its one spelling, without brackets.
type origin struct{ scheme, host, port string }

// String is the origin as a URL has it: the usual port left out.
func (o origin) String() string {
	host := o.host
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	if o.port != defaultPort(o.scheme) {
		host += ":" + o.port
	}
	return o.scheme + "://" + host
}

func defaultPort(scheme string) string {
	if scheme == "http" {
		return "80"
	}
	return "443"
}

// String is the location without its token.
func (l Location) String() string { return l.URI() }

// MarshalText is String, so that no encoder looks inside.
func (l Location) MarshalText() ([]byte, error) { return []byte(l.URI()), nil }

// URI is the location as a URI without its token: what a status shows, with "/" and a folder after it.
func (l Location) URI() string {
	switch l.kind {
	case kindFolder:
		return (&url.URL{Scheme: "file", Path: l.path}).String()
	case kindBlob:
		return l.origin.String() + "/" + strings.Join(l.segs, "/")
	case kindS3:
		return strings.Join(append([]string{"s3:/", l.bucket}, l.segs...), "/")
	}
	return "(no place)"
}

// NeedsToken says whether the place opens with a SAS token that the location does not have.
func (l Location) NeedsToken() bool { return l.kind == kindBlob && l.token.IsZero() }

// ParseStorage reads what a client of the data plane sends: storageResourceUri, and the SAS token, which may begin with
// "?". The URI is that of a container, https://ACCOUNT.blob.HOST/CONTAINER or, where the host does not name the account,
// http://127.0.0.1:10000/ACCOUNT/CONTAINER; or file:///FOLDER or s3://BUCKET/PREFIX, which take no token. Errors are
// failure.BadParameter and never show what was sent.
func ParseStorage(storageResourceURI string, token secret.Bytes) (Location, error) {
	l, err := parse(storageResourceURI)
	if err != nil {
		return Location{}, err
	}
	if token.Len() == 0 {
		return l, nil
	}
	if l.kind != kindBlob {
		return Location{}, badParameter("a SAS token opens a container of blobs; this place is none")
	}
	l.token, err = parseToken(token)
	return l, err
}

// Parse reads what a person types: a folder's path, relative to the working folder or not, a file:// or s3:// URL, or
// the https URL of a container with its SAS token after "?".
func Parse(s string) (Location, error) {
	if !strings.Contains(s, "://") {
		if len(s) > maxPathLen || s == "" {
			return Location{}, badParameter("the path of a folder has 1 to %d bytes", maxPathLen)
		}
		path, err := filepath.Abs(s)
		if err != nil {
			return Location{}, badParameter("the path cannot be made absolute: give the whole path")
		}
		return folderAt(path)
	}
	uri, token, found := strings.Cut(s, "?")
	if found && token == "" {
		return Location{}, badParameter("nothing follows the '?' of the URL: put the SAS token there, in quotes for the shell")
	}
	return ParseStorage(uri, secret.New([]byte(token)))
}

// SplitFolder takes the last part off the path of what a person types, before any SAS token: the name of one backup's
// folder. Its place is for [Parse].
func SplitFolder(s string) (place, folder string, err error) {
	uri, token, found := strings.Cut(s, "?")
	if !strings.Contains(s, "://") {
		uri, token, found = s, "", false
	}
	uri = strings.TrimRight(uri, "/")
	i := strings.LastIndexByte(uri, '/')
	place, folder = uri[:max(i, 0)], uri[i+1:]
	switch {
	case i < 0 && !found:
		place = "."
	case i == 0:
		place = "/"
	}
	if !validName(folder) || strings.HasSuffix(place, "/") && place != "/" {
		return "", "", badParameter("that names no backup: put the folder of the backup, mhsm-NAME-DIGITS, after the place, before any '?'")
	}
	if found {
		place += "?" + token
	}
	return place, folder, nil
}

func parse(uri string) (Location, error) {
	if uri == "" {
		return Location{}, badParameter("the storage resource URI is missing")
	}
	if len(uri) > maxURILen {
		return Location{}, badParameter("the storage resource URI is longer than %d bytes", maxURILen)
	}
	scheme, rest, found := strings.Cut(uri, "://")
	if !found {
		return Location{}, badParameter("the storage resource URI begins with none of https://, file:// and s3://")
	}
	switch strings.ToLower(scheme) {
	case "https", "http":
		return parseContainer(strings.ToLower(scheme), rest)
	case "file":
		return parseFile(uri)
	case "s3":
		return parseBucket(rest)
	}
	return Location{}, badParameter("the storage resource URI begins with none of https://, file:// and s3://")
}

func parseContainer(scheme, rest string) (Location, error) {
	if strings.Contains(rest, "?") {
		return Location{}, badParameter("the storage resource URI has a '?': give the SAS token apart from it")
	}
	authority, path, _ := strings.Cut(rest, "/")
	o, err := parseAuthority(scheme, authority)
	if err != nil {
		return Location{}, err
	}
	segs := strings.Split(strings.TrimSuffix(path, "/"), "/")
	if len(segs) > 2 {
		return Location{}, badParameter("the storage resource URI has a path that is neither /CONTAINER nor /ACCOUNT/CONTAINER")
	}
	for _, s := range segs {
		if !validLowercase(s, "-", 63) {
			return Location{}, badParameter("the storage resource URI names no container: its path is /CONTAINER, of 1 to 63 small letters, digits and '-'")
		}
	}
	return Location{kind: kindBlob, origin: o, segs: segs}, nil
}

// parseAuthority reads HOST[:PORT]. Only plain names and addresses in their one spelling: what two readers of a URL may
// understand differently (user info, escapes, a number as an address, a dot at the end) is no host here.
func parseAuthority(scheme, authority string) (o origin, err error) {
	wrong := badParameter("the URL has no host of the form NAME[:PORT] or ADDRESS[:PORT], and may have nothing else before its path: no user, no escapes, no dot at the end")
	o = origin{scheme: scheme, host: strings.ToLower(authority), port: defaultPort(scheme)}
	if len(authority) > 260 {
		return origin{}, wrong
	}
	if inside, after, bracket := strings.Cut(strings.TrimPrefix(o.host, "["), "]"); strings.HasPrefix(o.host, "[") {
		if !bracket {
			return origin{}, wrong
		}
		address, err := netip.ParseAddr(inside)
		if err != nil || !address.Is6() || address.Is4In6() || address.Zone() != "" || address.String() != inside {
			return origin{}, wrong
		}
		o.host = inside
		if after == "" {
			return o, nil
		}
		port, is := strings.CutPrefix(after, ":")
		if o.port = port; !is || !validPort(port) {
			return origin{}, wrong
		}
		return o, nil
	}
	if host, port, found := strings.Cut(o.host, ":"); found {
		if o.host, o.port = host, port; !validPort(port) {
			return origin{}, wrong
		}
	}
	if !validHost(o.host) {
		return origin{}, wrong
	}
	return o, nil
}

func validPort(s string) bool {
	n, err := strconv.ParseUint(s, 10, 16)
	return err == nil && n > 0 && strconv.FormatUint(n, 10) == s
}

// validHost says whether s is an IPv4 address in its one spelling or a name of DNS whose last label is no number: some
// readers take 127.1, 2130706433 and 0x7f000001 for addresses.
func validHost(s string) bool {
	if address, err := netip.ParseAddr(s); err == nil {
		return address.Is4() && address.String() == s
	}
	if len(s) > 253 {
		return false
	}
	labels := strings.Split(s, ".")
	for _, label := range labels {
		if !validLowercase(label, "-", 63) {
			return false
		}
	}
	last := labels[len(labels)-1]
	return strings.Trim(last, "0123456789") != "" && !strings.HasPrefix(last, "0x")
}

// validLowercase says whether s is 1 to n small letters, digits and the others, beginning and ending with a letter or digit.
func validLowercase(s, others string, n int) bool {
	if s == "" || len(s) > n {
		return false
	}
	for i, c := range []byte(s) {
		edge := i == 0 || i == len(s)-1
		if !('a' <= c && c <= 'z' || '0' <= c && c <= '9') && (edge || strings.IndexByte(others, c) < 0) {
			return false
		}
	}
	return true
}

func parseFile(uri string) (Location, error) {
	u, err := url.Parse(uri)
	if err != nil || u.Host != "" || u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || u.Opaque != "" || strings.Contains(uri, "#") {
		return Location{}, badParameter("a file:// URL is file:///FOLDER/…: no host, and nothing after the path")
	}
	return folderAt(u.Path)
}

func folderAt(path string) (Location, error) {
	if !filepath.IsAbs(path) || len(path) > maxPathLen || !utf8.ValidString(path) || strings.ContainsFunc(path, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return Location{}, badParameter("the folder has no absolute path of at most %d bytes without control characters", maxPathLen)
	}
	return Location{kind: kindFolder, path: filepath.Clean(path)}, nil
}

func parseBucket(rest string) (Location, error) {
	bucket, path, _ := strings.Cut(strings.TrimSuffix(rest, "/"), "/")
	if !validBucket(bucket) {
		return Location{}, badParameter("an s3:// URL is s3://BUCKET[/PREFIX]: the bucket is 3 to 63 small letters, digits, '.' and '-'")
	}
	l := Location{kind: kindS3, bucket: bucket}
	if path == "" {
		return l, nil
	}
	l.segs = strings.Split(path, "/")
	for _, s := range l.segs {
		if !validName(s) || len(l.segs) > maxPrefixParts {
			return Location{}, badParameter("the prefix of an s3:// URL is at most %d names with '/' between, each of letters, digits, '.', '_' and '-' and not beginning with '.'", maxPrefixParts)
		}
	}
	return l, nil
}

func validBucket(s string) bool {
	return len(s) >= 3 && validLowercase(s, "-.", 63) && !strings.Contains(s, "..")
}

// parseToken reads a SAS token into its one spelling. Only the parameters of a SAS may be in it: any other would change
// what a request does.
func parseToken(token secret.Bytes) (secret.Bytes, error) {
	wrong := badParameter("the SAS token is not one: at most %d bytes of the form sv=…&sig=…, with only a SAS's own parameters, each once", maxTokenLen)
	raw := strings.TrimPrefix(string(token.Reveal()), "?")
	if len(raw) > maxTokenLen || strings.ContainsFunc(raw, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return secret.Bytes{}, wrong
	}
	values, err := url.ParseQuery(raw)
	if err != nil || values.Get("sig") == "" || values.Get("sv") == "" {
		return secret.Bytes{}, wrong
	}
	for name, v := range values {
		if !sasParameter(name) || len(v) != 1 {
			return secret.Bytes{}, wrong
		}
	}
	// A signature is base64; pasted without its escapes, '+' reads as a space.
	values.Set("sig", strings.ReplaceAll(values.Get("sig"), " ", "+"))
	return secret.Take([]byte(values.Encode())), nil
}

// sasParameter says whether a SAS has a parameter of that name: s and a few letters (sv, sig, skoid …), or one that sets
// a header of the answer (rscc …). "snapshot" is too long to be one.
func sasParameter(name string) bool {
	rest, is := strings.CutPrefix(name, "s")
	if !is {
		if rest, is = strings.CutPrefix(name, "rsc"); !is {
			return false
		}
	}
	if len(rest) < 1 || len(rest) > 6 {
		return false
	}
	for _, c := range []byte(rest) {
		if c < 'a' || c > 'z' {
			return false
		}
	}
	return true
}
