package strictjson

import (
	"cmp"
	"errors"
	"slices"
	"strconv"
	"unicode/utf16"
)

// ErrNotCanonical says that a value has a number with no single spelling under the rules of [Canonical].
var ErrNotCanonical = errors.New("a number that is not an integer of at most 53 bits has no canonical form")

// Canonical returns the one spelling of v, for signatures over JSON that others may have re-indented: RFC 8785
// restricted to objects, arrays, strings, booleans, null and integers of absolute value below 2⁵³. No white space;
// names sorted by their UTF-16 code units; strings with the shortest escapes. Any other number is refused with
// ErrNotCanonical, because its spelling depends on floating-point printing.
func Canonical(v Value) ([]byte, error) { return appendCanonical(nil, v) }

func appendCanonical(dst []byte, v Value) ([]byte, error) {
	var err error
	switch v.kind {
	case Null, Bool:
		return append(dst, v.text...), nil
	case String:
		return appendString(dst, v.text), nil
	case Number:
		n, ok := v.Int()
		if !ok || n >= 1<<53 || n <= -1<<53 {
			return nil, ErrNotCanonical
		}
		return strconv.AppendInt(dst, n, 10), nil
	case Array:
		dst = append(dst, '[')
		for i, element := range v.elements {
			if i > 0 {
				dst = append(dst, ',')
			}
			if dst, err = appendCanonical(dst, element); err != nil {
				return nil, err
			}
		}
		return append(dst, ']'), nil
	case Object:
		members := slices.Clone(v.members)
		slices.SortFunc(members, func(a, b Member) int { return compareUTF16(a.Name, b.Name) })
		dst = append(dst, '{')
		for i, m := range members {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = append(appendString(dst, m.Name), ':')
			if dst, err = appendCanonical(dst, m.Value); err != nil {
				return nil, err
			}
		}
		return append(dst, '}'), nil
	}
	return nil, errors.New("strictjson: a missing value has no canonical form")
}

// compareUTF16 orders as ECMAScript does. It differs from byte order for runes above U+FFFF, whose surrogates
// sort before U+E000.
func compareUTF16(a, b string) int {
	return slices.CompareFunc(utf16.Encode([]rune(a)), utf16.Encode([]rune(b)), cmp.Compare[uint16])
}

func appendString(dst []byte, s string) []byte {
	const hex = "0123456789abcdef"
	dst = append(dst, '"')
	for i := range len(s) {
		switch c := s[i]; c {
		case '"', '\\':
			dst = append(dst, '\\', c)
		case '\b':
			dst = append(dst, '\\', 'b')
		case '\t':
			dst = append(dst, '\\', 't')
		case '\n':
			dst = append(dst, '\\', 'n')
		case '\f':
			dst = append(dst, '\\', 'f')
		case '\r':
			dst = append(dst, '\\', 'r')
		default:
			if c < 0x20 {
				dst = append(dst, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
			} else {
				dst = append(dst, c)
			}
		}
	}
	return append(dst, '"')
}
