// Package release reads the release policies of keys and judges attestation tokens by them: which authority has to
// attest which claims before a key may leave its HSM, and for whose public key it is wrapped then. It knows JSON and
// nothing else: that the claims are those of a verified token is the caller's part.
package release

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"strongroom/internal/strictjson"
)

// Bounds of a policy. Real ones have one or two authorities with three to ten claims.
const (
	MaxPolicy      = 10 << 10 // bytes of JSON
	maxAuthorities = 64
	maxConditions  = 256 // in the whole policy, groups included
	maxNesting     = 8   // groups inside each other, below an authority
	maxName        = 256 // bytes of an authority or of a claim's path
	maxSegments    = 8   // names in a claim's path
	maxValue       = 4096
)

var policyLimits = strictjson.Limits{
	Bytes: MaxPolicy, Depth: 2*maxNesting + 6, Elements: maxConditions, Values: 8 << 10, StringBytes: MaxPolicy, FoldNames: true,
}

// ErrPolicy says that a text is no release policy. Every error of [Parse] wraps it and says what to do.
var ErrPolicy = errors.New("not a release policy")

func bad(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrPolicy}, args...)...)
}

// Policy is a release policy. It is immutable and safe for concurrent use.
//
//	{"version":"1.0.0", "anyOf":[
//	    {"authority":"https://attest.example.org", "allOf":[
//	        {"claim":"x-ms-attestation-type", "equals":"sevsnpvm"},
//	        {"anyOf":[{"claim":"a.b.c", "equals":1}, {"claim":"debuggable", "equals":false}]}]}]}
//
// It is fulfilled if one of its authorities is the token's and the claims fulfil that authority's group. A claim is a
// path of names through objects. It is compared with a text, an integer or a boolean; what is missing, is null, an
// array or an object, fulfils nothing. A text in the policy also equals the boolean or integer that is spelled so:
// policies in the field say "false" where tokens say false.
//
// The version may also be "1.0", or left out as it is in older policies, and {"claim":…, "condition":"equals", "value":…} is an
// older spelling of a comparison.
type Policy struct{ authorities []authority }

type authority struct {
	url   string // without the one slash that may be at its end
	group condition
}

// condition is a comparison or a group of conditions.
type condition struct {
	path   []string         // comparison: the claim
	equals strictjson.Value // comparison: a string, a number that is an integer, or a boolean
	all    bool             // group: all of them, or any
	group  []condition      // group: never empty
}

// Parse reads a policy. A member that it does not know is an error and not ignored: what somebody wrote to narrow the
// policy must not be passed over.
func Parse(data []byte) (*Policy, error) {
	root, err := strictjson.Parse(data, policyLimits)
	if err != nil {
		return nil, bad("%v", err)
	}
	members, ok := root.Members()
	if !ok {
		return nil, bad("it has to be a JSON object")
	}
	for _, m := range members {
		if m.Name != "version" && m.Name != "anyOf" {
			return nil, bad("it has a member %.40q; a policy has version and anyOf", m.Name)
		}
	}
	if version := root.Get("version"); version.Kind() != strictjson.None {
		if text, _ := version.Text(); text != "1.0.0" && text != "1.0" {
			return nil, bad(`its version has to be "1.0.0"`)
		}
	}
	list, ok := root.Get("anyOf").Elements()
	if !ok || len(list) == 0 || len(list) > maxAuthorities {
		return nil, bad("anyOf has to be a list of 1 to %d authorities", maxAuthorities)
	}
	p := &Policy{}
	read := reader{left: maxConditions}
	for i, v := range list {
		a, err := read.authority(v)
		if err != nil {
			return nil, bad("authority %d of anyOf %v", i+1, err)
		}
		p.authorities = append(p.authorities, a)
	}
	return p, nil
}

// reader counts the conditions of a policy while it reads them.
type reader struct{ left int }

func (r *reader) authority(v strictjson.Value) (authority, error) {
	if _, ok := v.Members(); !ok {
		return authority{}, errors.New("is not an object")
	}
	url, ok := v.Get("authority").Text()
	if !ok || !printable(url) {
		return authority{}, fmt.Errorf("needs a member authority: the URL that its tokens name as iss, of at most %d bytes", maxName)
	}
	group, err := r.group(v, "authority", 1)
	return authority{url: trimmed(url), group: group}, err
}

// group reads the allOf or anyOf of an object that has, besides, at most the member named also.
func (r *reader) group(v strictjson.Value, also string, depth int) (condition, error) {
	if depth > maxNesting {
		return condition{}, fmt.Errorf("nests conditions more than %d deep", maxNesting)
	}
	members, _ := v.Members()
	for _, m := range members {
		if m.Name != "allOf" && m.Name != "anyOf" && m.Name != also {
			return condition{}, fmt.Errorf("has a member %.40q, which means nothing there", m.Name)
		}
	}
	all, any := v.Get("allOf"), v.Get("anyOf")
	c := condition{all: all.Kind() != strictjson.None}
	if c.all == (any.Kind() != strictjson.None) {
		return condition{}, errors.New("needs either allOf or anyOf")
	}
	list := any
	if c.all {
		list = all
	}
	elements, ok := list.Elements()
	if !ok || len(elements) == 0 {
		return condition{}, errors.New("has an allOf or anyOf that is not a list of at least one condition")
	}
	for _, e := range elements {
		if r.left--; r.left < 0 {
			return condition{}, fmt.Errorf("has, with those before it, more than %d conditions", maxConditions)
		}
		inner, err := r.condition(e, depth)
		if err != nil {
			return condition{}, err
		}
		c.group = append(c.group, inner)
	}
	return c, nil
}

func (r *reader) condition(v strictjson.Value, depth int) (condition, error) {
	members, ok := v.Members()
	if !ok {
		return condition{}, errors.New("has a condition that is not an object")
	}
	claim := v.Get("claim")
	if claim.Kind() == strictjson.None {
		return r.group(v, "", depth+1)
	}
	c := condition{}
	name, ok := claim.Text()
	c.path = strings.Split(name, ".")
	if !ok || !printable(name) || len(c.path) > maxSegments || slices.Contains(c.path, "") {
		return condition{}, fmt.Errorf("has a claim that is not 1 to %d names joined by dots, of at most %d bytes together", maxSegments, maxName)
	}
	c.equals = v.Get("equals")
	switch operator, old := v.Get("condition").Text(); {
	case len(members) == 2 && c.equals.Kind() != strictjson.None:
	case len(members) == 3 && old && operator == "equals" && v.Get("value").Kind() != strictjson.None:
		c.equals = v.Get("value")
	default:
		return condition{}, fmt.Errorf("compares claim %s in a way that is not known here; write {\"claim\":…, \"equals\":…}", name)
	}
	switch text, isText := c.equals.Text(); c.equals.Kind() {
	case strictjson.String:
		if isText && len(text) > maxValue {
			return condition{}, fmt.Errorf("compares claim %s with a text of more than %d bytes", name, maxValue)
		}
	case strictjson.Bool:
	case strictjson.Number:
		if _, ok := c.equals.Int(); !ok {
			return condition{}, fmt.Errorf("compares claim %s with a number that is not an integer of 64 bits", name)
		}
	default:
		return condition{}, fmt.Errorf("compares claim %s with %s; a claim equals a text, an integer or a boolean", name, c.equals.Kind())
	}
	return c, nil
}

// printable reports whether s is a name that can be shown: not empty, short, without control characters.
func printable(s string) bool {
	return s != "" && len(s) <= maxName && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f })
}

// trimmed takes one slash from the end of an authority: policies have it, the tokens of the same authority do not.
func trimmed(url string) string { return strings.TrimSuffix(url, "/") }

// maxUnmet bounds what a refusal names.
const maxUnmet = 16

// Judge reports whether the claims of a verified token of an authority, whose URL is the token's iss, fulfil the policy.
// If not, unmet names the claims that are missing or have another value, each once and at most 16, never what they
// should be; it is empty if the policy does not name the authority at all.
func (p *Policy) Judge(url string, claims strictjson.Value) (fulfilled bool, unmet []string) {
	for _, a := range p.authorities {
		if a.url != trimmed(url) {
			continue
		}
		if a.group.holds(claims, &unmet) {
			return true, nil
		}
	}
	return false, unmet
}

// Names reports whether the policy has an authority of that URL.
func (p *Policy) Names(url string) bool {
	return slices.ContainsFunc(p.authorities, func(a authority) bool { return a.url == trimmed(url) })
}

func (c condition) holds(claims strictjson.Value, unmet *[]string) bool {
	if c.path != nil {
		if equal(c.equals, lookUp(claims, c.path)) {
			return true
		}
		if name := strings.Join(c.path, "."); len(*unmet) < maxUnmet && !slices.Contains(*unmet, name) {
			*unmet = append(*unmet, name)
		}
		return false
	}
	before := len(*unmet)
	met := c.all
	for _, inner := range c.group {
		if inner.holds(claims, unmet) == c.all {
			continue // and go on after one that does not hold: whoever is refused sees all that is missing
		}
		met = !c.all
		if met {
			break
		}
	}
	if met {
		*unmet = (*unmet)[:before] // what an alternative lacked is not missing
	}
	return met
}

// lookUp follows a path through objects.
func lookUp(v strictjson.Value, path []string) strictjson.Value {
	for _, name := range path {
		v = v.Get(name) // nothing, if v is no object
	}
	return v
}

// equal compares a value of a policy with a claim.
func equal(want, claim strictjson.Value) bool {
	switch claim.Kind() {
	case strictjson.String:
		w, same := want.Text()
		c, _ := claim.Text()
		return same && w == c
	case strictjson.Bool:
		c, _ := claim.Bool()
		if w, same := want.Text(); same {
			return w == fmt.Sprint(c)
		}
		w, same := want.Bool()
		return same && w == c
	case strictjson.Number:
		c, integer := claim.Int()
		if w, same := want.Text(); same {
			return integer && w == fmt.Sprint(c)
		}
		w, same := want.Int()
		return integer && same && w == c
	}
	return false
}
