package api

import "encoding/base64"

// What follows reads and writes the forms of cryptographic operations without encoding/json where they are as
// plain as real clients send them: encoding/json goes over a value five times, which for a kilobyte takes longer than
// encrypting it. Everything else goes the general way, which also finds the words for a refusal; tests hold the
// two against each other.

// TakeMember sets the member called name from the text between its quotes, and reports whether it could.
func (r *SignRequest) TakeMember(name, value []byte) bool {
	switch string(name) {
	case "alg":
		r.Alg = string(value)
		return true
	case "value":
		return r.Value.take(value)
	}
	return false
}

// TakeMember is that of [SignRequest.TakeMember].
func (r *VerifyRequest) TakeMember(name, value []byte) bool {
	switch string(name) {
	case "alg":
		r.Alg = string(value)
		return true
	case "digest":
		return r.Digest.take(value)
	case "value":
		return r.Value.take(value)
	}
	return false
}

// TakeMember is that of [SignRequest.TakeMember].
func (r *KeyOperationRequest) TakeMember(name, value []byte) bool {
	switch string(name) {
	case "alg":
		r.Alg = string(value)
		return true
	case "value":
		return r.Value.take(value)
	case "iv":
		return r.IV.take(value)
	case "aad":
		return r.AAD.take(value)
	case "tag":
		return r.Tag.take(value)
	}
	return false
}

// strict is one Encoding, as each call of Strict makes a new one.
var strict = base64.RawURLEncoding.Strict()

// take decodes the text of a base64url string.
func (b *Base64URL) take(text []byte) bool {
	for _, c := range text { // the standard decoder skips line breaks
		if c == '\r' || c == '\n' {
			return false
		}
	}
	out := make([]byte, strict.DecodedLen(len(text)))
	n, err := strict.Decode(out, text)
	if err != nil {
		clear(out)
		return false
	}
	*b = out[:n]
	return true
}

// AppendJSON appends what json.Marshal gives and reports whether it could: not where a text would need escapes. It
// makes room at once, so that a plaintext is written to one place, which the caller clears.
func (r KeyOperationResult) AppendJSON(b []byte) ([]byte, bool) {
	if !unescaped(r.Kid) || !unescaped(r.Alg) {
		return b, false
	}
	size := len(`{"kid":"","value":"","alg":"","iv":"","tag":"","aad":""}`) + len(r.Kid) + len(r.Alg)
	for _, v := range []Base64URL{r.Value, r.IV, r.Tag, r.AAD} {
		size += strict.EncodedLen(len(v))
	}
	if cap(b)-len(b) < size {
		b = append(make([]byte, 0, len(b)+size), b...)
	}
	b = append(b, `{"kid":"`...)
	b = append(b, r.Kid...)
	b = append(b, `","value":"`...)
	b = strict.AppendEncode(b, r.Value)
	if r.Alg != "" {
		b = append(b, `","alg":"`...)
		b = append(b, r.Alg...)
	}
	for _, m := range []struct {
		open  string
		value Base64URL
	}{{`","iv":"`, r.IV}, {`","tag":"`, r.Tag}, {`","aad":"`, r.AAD}} {
		if len(m.value) > 0 {
			b = append(b, m.open...)
			b = strict.AppendEncode(b, m.value)
		}
	}
	return append(b, `"}`...), true
}

// AppendJSON is that of [KeyOperationResult.AppendJSON]: the bytes may become somebody's key, and encoding/json keeps the
// buffers that it writes to.
func (r RandomResult) AppendJSON(b []byte) ([]byte, bool) {
	const open, end = `{"value":"`, `"}`
	if size := len(open) + strict.EncodedLen(len(r.Value)) + len(end); cap(b)-len(b) < size {
		b = append(make([]byte, 0, len(b)+size), b...)
	}
	return append(strict.AppendEncode(append(b, open...), r.Value), end...), true
}

// unescaped reports whether s stands in JSON as it is, by the rules of encoding/json, which escapes for HTML too.
func unescaped(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			return false
		}
	}
	return true
}
