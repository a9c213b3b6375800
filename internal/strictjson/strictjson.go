// Package strictjson reads JSON that strangers wrote, with one meaning for each text and bounded work.
//
// encoding/json is generous: of two members with one name it takes the last, it matches names without regard to
// case, it replaces broken UTF-8, and it nests ten thousand deep. Two readers of one text can then see two things,
// which is how checks are passed by. This package refuses what is ambiguous:
//
//   - a name twice in one object (after decoding escapes, so "a" and "\u0061" are the same name);
//   - anything but white space after the value;
//   - bytes that are not UTF-8, half surrogate pairs, control characters in strings, a byte order mark;
//   - more bytes, depth, members, elements, values or string bytes than the caller allows.
//
// [Check] only validates: it stands in front of encoding/json for request bodies. [Parse] returns a tree whose
// names are matched exactly. Both are one pass and stop at the first offence, so a million brackets cost as much
// as the deepest allowed. Errors give an offset and a reason and never repeat the input, which might be a key.
package strictjson

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Limits bound the work. Zero allows nothing, but for Values.
type Limits struct {
	Bytes       int // of the whole text
	Depth       int // of nested objects and arrays; at most 1000
	Elements    int // members of one object, elements of one array
	StringBytes int // of one string or name, as written between its quotes
	Values      int // in the whole text, containers included; zero leaves it to Bytes
	// FoldNames also refuses two names of one object that differ only in case. Set it when encoding/json decodes
	// the text afterwards, because that would take them for one.
	FoldNames bool
}

// Sizes that a caller does not choose.
const (
	maxDepth  = 1000 // the parser recurses; this bounds its stack
	maxNumber = 64   // bytes of a number; longer ones are no number that anything here uses
)

// What is wrong with a text. Every error of Check and Parse is an *[Error] that wraps one of them.
var (
	ErrSyntax    = errors.New("not well-formed JSON")
	ErrDuplicate = errors.New("the same name twice in one object")
	ErrEncoding  = errors.New("text that is not valid Unicode")
	ErrLimit     = errors.New("larger than allowed")
)

// Error says where and why a text was refused. It holds nothing of the text.
type Error struct {
	Offset int    // bytes from the start
	Reason string // "nested too deep"
	Err    error  // one of the four above
}

func (e *Error) Error() string {
	return fmt.Sprintf("%v: %s at byte %d", e.Err, e.Reason, e.Offset)
}

// Unwrap makes errors.Is see the kind of offence.
func (e *Error) Unwrap() error { return e.Err }

// Check reports whether text is exactly one JSON value within limits.
func Check(text []byte, limits Limits) error {
	_, err := read(text, limits, false)
	return err
}

// Parse is [Check] and returns the value. The tree keeps copies, not the text.
func Parse(text []byte, limits Limits) (Value, error) {
	return read(text, limits, true)
}

func read(text []byte, limits Limits, build bool) (Value, error) {
	if len(text) > limits.Bytes {
		return Value{}, &Error{limits.Bytes, fmt.Sprintf("the text has more than %d bytes", limits.Bytes), ErrLimit}
	}
	limits.Depth = min(limits.Depth, maxDepth)
	p := &parser{text: text, limits: limits, build: build}
	p.space()
	v, err := p.value(0)
	if err != nil {
		return Value{}, err
	}
	p.space()
	if p.at < len(text) {
		return Value{}, p.fail(ErrSyntax, "something follows the value")
	}
	return v, nil
}

type parser struct {
	text   []byte
	at     int
	limits Limits
	values int
	build  bool // make a tree
}

func (p *parser) fail(kind error, reason string) error { return &Error{p.at, reason, kind} }

func (p *parser) space() {
	for p.at < len(p.text) {
		switch p.text[p.at] {
		case ' ', '\t', '\n', '\r':
			p.at++
		default:
			return
		}
	}
}

// peek returns the next byte, or 0 at the end: a NUL byte is no JSON either, so they may look alike.
func (p *parser) peek() byte {
	if p.at < len(p.text) {
		return p.text[p.at]
	}
	return 0
}

func (p *parser) value(depth int) (Value, error) {
	if p.values++; p.limits.Values > 0 && p.values > p.limits.Values {
		return Value{}, p.fail(ErrLimit, "too many values")
	}
	switch c := p.peek(); {
	case c == '{' || c == '[':
		if depth >= p.limits.Depth {
			return Value{}, p.fail(ErrLimit, "nested too deep")
		}
		if c == '{' {
			return p.object(depth + 1)
		}
		return p.array(depth + 1)
	case c == '"':
		s, err := p.string(p.build)
		return Value{kind: String, text: s}, err
	case c == '-' || '0' <= c && c <= '9':
		return p.number()
	case c == 't':
		return Value{kind: Bool, text: "true"}, p.literal("true")
	case c == 'f':
		return Value{kind: Bool, text: "false"}, p.literal("false")
	case c == 'n':
		return Value{kind: Null, text: "null"}, p.literal("null")
	case p.at >= len(p.text):
		return Value{}, p.fail(ErrSyntax, "the text ends where a value is expected")
	default:
		return Value{}, p.fail(ErrSyntax, "a value is expected")
	}
}

func (p *parser) object(depth int) (Value, error) {
	p.at++ // {
	v := Value{kind: Object}
	names := names{fold: p.limits.FoldNames}
	p.space()
	if p.peek() == '}' {
		p.at++
		return v, nil
	}
	for n := 1; ; n++ {
		if n > p.limits.Elements {
			return Value{}, p.fail(ErrLimit, "too many members in one object")
		}
		if p.peek() != '"' {
			return Value{}, p.fail(ErrSyntax, "a name in quotes is expected")
		}
		start := p.at
		name, err := p.string(true)
		if err != nil {
			return Value{}, err
		}
		if !names.add(name) {
			p.at = start
			return Value{}, p.fail(ErrDuplicate, "a repeated name")
		}
		p.space()
		if p.peek() != ':' {
			return Value{}, p.fail(ErrSyntax, "a colon is expected")
		}
		p.at++
		p.space()
		member, err := p.value(depth)
		if err != nil {
			return Value{}, err
		}
		if p.build {
			v.members = append(v.members, Member{name, member})
		}
		more, err := p.next('}')
		if err != nil || !more {
			return v, err
		}
	}
}

func (p *parser) array(depth int) (Value, error) {
	p.at++ // [
	v := Value{kind: Array}
	p.space()
	if p.peek() == ']' {
		p.at++
		return v, nil
	}
	for n := 1; ; n++ {
		if n > p.limits.Elements {
			return Value{}, p.fail(ErrLimit, "too many elements in one array")
		}
		element, err := p.value(depth)
		if err != nil {
			return Value{}, err
		}
		if p.build {
			v.elements = append(v.elements, element)
		}
		more, err := p.next(']')
		if err != nil || !more {
			return v, err
		}
	}
}

// next reads what follows a member or an element: a comma (true) or the end of the container (false).
func (p *parser) next(end byte) (bool, error) {
	p.space()
	switch p.peek() {
	case ',':
		p.at++
		p.space()
		return true, nil
	case end:
		p.at++
		return false, nil
	}
	return false, p.fail(ErrSyntax, "a comma or the end of the container is expected")
}

func (p *parser) literal(word string) error {
	if !strings.HasPrefix(string(p.text[p.at:min(p.at+len(word), len(p.text))]), word) {
		return p.fail(ErrSyntax, "an unknown word")
	}
	p.at += len(word)
	return nil
}

// number reads the grammar of RFC 8259 section 6 and keeps the spelling.
func (p *parser) number() (Value, error) {
	start := p.at
	digits := func() bool {
		from := p.at
		for c := p.peek(); '0' <= c && c <= '9' && p.at-start <= maxNumber; c = p.peek() {
			p.at++
		}
		return p.at > from
	}
	if p.peek() == '-' {
		p.at++
	}
	if p.peek() == '0' {
		p.at++
	} else if !digits() {
		return Value{}, p.fail(ErrSyntax, "a digit is expected")
	}
	if p.peek() == '.' {
		p.at++
		if !digits() {
			return Value{}, p.fail(ErrSyntax, "a digit is expected")
		}
	}
	if c := p.peek(); c == 'e' || c == 'E' {
		p.at++
		if c := p.peek(); c == '+' || c == '-' {
			p.at++
		}
		if !digits() {
			return Value{}, p.fail(ErrSyntax, "a digit is expected")
		}
	}
	if p.at-start > maxNumber {
		return Value{}, p.fail(ErrLimit, "a number is too long")
	}
	v := Value{kind: Number}
	if p.build {
		v.text = string(p.text[start:p.at])
	}
	return v, nil
}

// string reads a quoted string. It returns the decoded text if keep is set.
func (p *parser) string(keep bool) (string, error) {
	p.at++ // "
	start := p.at
	// Most strings have no escapes: then the decoded text is a copy of what stands there.
	var decoded []byte
	escaped := false
	for {
		from := p.at
		for stop := min(len(p.text), start+p.limits.StringBytes+1); p.at < stop && plainASCII[p.text[p.at]]; {
			p.at++
		}
		if escaped && keep {
			decoded = append(decoded, p.text[from:p.at]...)
		}
		if p.at-start > p.limits.StringBytes {
			return "", p.fail(ErrLimit, "a string is too long")
		}
		if p.at >= len(p.text) {
			return "", p.fail(ErrSyntax, "the text ends inside a string")
		}
		switch c := p.text[p.at]; {
		case c == '"':
			end := p.at
			p.at++
			switch {
			case !keep:
				return "", nil
			case !escaped:
				return string(p.text[start:end]), nil
			}
			return string(decoded), nil
		case c < 0x20:
			return "", p.fail(ErrSyntax, "a control character in a string")
		case c == '\\':
			if !escaped {
				escaped = true
				if keep {
					decoded = append(decoded, p.text[start:p.at]...)
				}
			}
			r, err := p.escape()
			if err != nil {
				return "", err
			}
			if keep {
				decoded = utf8.AppendRune(decoded, r)
			}
		default: // not ASCII
			r, size := utf8.DecodeRune(p.text[p.at:])
			if r == utf8.RuneError && size <= 1 {
				return "", p.fail(ErrEncoding, "broken UTF-8")
			}
			if escaped && keep {
				decoded = append(decoded, p.text[p.at:p.at+size]...)
			}
			p.at += size
		}
	}
}

// plainASCII are the bytes that stand in a string for themselves and alone.
var plainASCII = func() (set [256]bool) {
	for c := 0x20; c < utf8.RuneSelf; c++ {
		set[c] = c != '"' && c != '\\'
	}
	return set
}()

// escape reads a backslash and what belongs to it, a surrogate pair included.
func (p *parser) escape() (rune, error) {
	p.at++ // \
	c := p.peek()
	p.at++
	switch c {
	case '"', '\\', '/':
		return rune(c), nil
	case 'b':
		return '\b', nil
	case 'f':
		return '\f', nil
	case 'n':
		return '\n', nil
	case 'r':
		return '\r', nil
	case 't':
		return '\t', nil
	case 'u':
		r, err := p.hex4()
		if err != nil || r < 0xd800 || r > 0xdfff {
			return r, err
		}
		if r < 0xdc00 && p.peek() == '\\' && p.at+1 < len(p.text) && p.text[p.at+1] == 'u' {
			p.at += 2
			low, err := p.hex4()
			if err != nil {
				return 0, err
			}
			if 0xdc00 <= low && low <= 0xdfff {
				return (r-0xd800)<<10 | (low - 0xdc00) + 0x10000, nil
			}
		}
		return 0, p.fail(ErrEncoding, "half of a surrogate pair")
	}
	p.at--
	return 0, p.fail(ErrSyntax, "an unknown escape in a string")
}

func (p *parser) hex4() (rune, error) {
	var r rune
	for range 4 {
		c := p.peek()
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'a' <= c && c <= 'f':
			c -= 'a' - 10
		case 'A' <= c && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, p.fail(ErrSyntax, "a hexadecimal digit is expected")
		}
		r = r<<4 | rune(c)
		p.at++
	}
	return r, nil
}

// names is the set of names of one object. Few are compared one by one; many go into a map.
type names struct {
	fold bool
	few  []string
	many map[string]struct{}
}

const manyNames = 16

// add reports whether name was new.
func (n *names) add(name string) bool {
	if n.many != nil {
		if n.fold {
			name = foldCase(name)
		}
		if _, found := n.many[name]; found {
			return false
		}
		n.many[name] = struct{}{}
		return true
	}
	for _, other := range n.few {
		if other == name || n.fold && strings.EqualFold(other, name) {
			return false
		}
	}
	if n.few = append(n.few, name); len(n.few) >= manyNames {
		n.many = make(map[string]struct{}, 2*manyNames)
		for _, other := range n.few {
			if n.fold {
				other = foldCase(other)
			}
			n.many[other] = struct{}{}
		}
	}
	return true
}

// foldCase maps all spellings that encoding/json takes for one name, which are those that strings.EqualFold takes for
// one, to one string: each rune becomes the smallest of those that differ from it in case alone ("K", "k" and the Kelvin sign are one).
func foldCase(name string) string {
	return strings.Map(func(r rune) rune {
		if 'a' <= r && r <= 'z' {
			return r - ('a' - 'A')
		}
		if r < utf8.RuneSelf {
			return r
		}
		least := r
		for next := unicode.SimpleFold(r); next != r; next = unicode.SimpleFold(next) {
			least = min(least, next)
		}
		return least
	}, name)
}
