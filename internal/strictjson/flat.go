package strictjson

import "bytes"

// Flat hands over the members of an object of plain strings, as they stand in text, which [Check] has accepted: for
// requests so small and so common that decoding them takes longer than what they ask for. It reports false, perhaps
// after some members, when text is something else or when take says so; then it has to be decoded the general way.
// Plain means without a backslash, so that what stands there is what is meant. The slices are parts of text.
func Flat(text []byte, take func(name, value []byte) bool) bool {
	at := skip(text, 0)
	if at >= len(text) || text[at] != '{' {
		return false
	}
	if at = skip(text, at+1); at < len(text) && text[at] == '}' {
		return skip(text, at+1) == len(text)
	}
	for {
		name, after, ok := plain(text, at)
		if at = skip(text, after); !ok || at >= len(text) || text[at] != ':' {
			return false
		}
		value, after, ok := plain(text, skip(text, at+1))
		if !ok || !take(name, value) {
			return false
		}
		if at = skip(text, after); at >= len(text) {
			return false
		}
		switch text[at] {
		case ',':
			at = skip(text, at+1)
		case '}':
			return skip(text, at+1) == len(text)
		default:
			return false
		}
	}
}

// plain returns the string that begins at a quote, and where it ends.
func plain(text []byte, at int) (s []byte, after int, ok bool) {
	if at >= len(text) || text[at] != '"' {
		return nil, at, false
	}
	rest := text[at+1:]
	end := bytes.IndexByte(rest, '"')
	if end < 0 || bytes.IndexByte(rest[:end], '\\') >= 0 {
		return nil, at, false
	}
	return rest[:end:end], at + 1 + end + 1, true
}

func skip(text []byte, at int) int {
	for at < len(text) && (text[at] == ' ' || text[at] == '\t' || text[at] == '\n' || text[at] == '\r') {
		at++
	}
	return at
}
