package leak_test

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// A secret is found by windows of its spellings, so that a part of it is found too: every piece of a spelling that is
// as long as two windows has a whole one in it.
const (
	window     = 16 // of bytes, hex, base64 and decimal digits
	listWindow = 48 // of "1 2 3" and "\x01\x02": about as much information
)

// finding is a secret that was found, and as what. keeper says who keeps it, where that is known: see [keeperOf].
type finding struct{ kind, name, spelling, keeper string }

// searcher looks for all secrets at once.
type searcher struct {
	needles []needle
	byHead  map[uint64][]int32 // of the first eight bytes of a window
	filter  []uint64           // a bit for each value of the first three bytes of a window
	longest int
}

type needle struct {
	text []byte
	what finding
}

// add makes a secret known. One shorter than a window is a mistake of the test.
func (s *searcher) add(t testing.TB, kind, name string, value []byte) {
	t.Helper()
	if len(value) < window {
		t.Fatalf("%s %s has %d bytes; the search needs %d", kind, name, len(value), window)
	}
	for spelling, text := range spellings(value) {
		w := window
		if strings.HasPrefix(spelling, "list") || spelling == "quoted" {
			w = min(listWindow, len(text))
		}
		for at := 0; at < len(text); at += w {
			at = min(at, len(text)-w)
			s.insert(needle{[]byte(text[at : at+w]), finding{kind, name, spelling, ""}})
		}
	}
}

func (s *searcher) insert(n needle) {
	if s.byHead == nil {
		s.byHead, s.filter = map[uint64][]int32{}, make([]uint64, 1<<24/64)
	}
	head := binary.LittleEndian.Uint64(n.text)
	for _, i := range s.byHead[head] { // the two alphabets of base64 often agree
		if bytes.Equal(s.needles[i].text, n.text) {
			return
		}
	}
	s.byHead[head] = append(s.byHead[head], int32(len(s.needles)))
	s.needles = append(s.needles, n)
	first := head & (1<<24 - 1)
	s.filter[first/64] |= 1 << (first % 64)
	s.longest = max(s.longest, len(n.text))
}

// spellings are the forms in which somebody, or some library, keeps or prints bytes.
func spellings(b []byte) map[string]string {
	reversed := slices.Clone(b)
	slices.Reverse(reversed) // the words of a big number, as math/big and crypto/internal keep them on small-endian machines
	forms := map[string]string{
		"bytes": string(b), "words of a number": string(reversed), "hex": hex.EncodeToString(b), "upper hex": strings.ToUpper(hex.EncodeToString(b)),
		"number": new(big.Int).SetBytes(b).String(), "list": strings.Trim(fmt.Sprint(b), "[]"), "list with commas": strings.ReplaceAll(strings.Trim(fmt.Sprint(b), "[]"), " ", ", "),
		"quoted": strings.Trim(strconv.Quote(string(b)), `"`),
	}
	if forms["quoted"] == string(b) {
		delete(forms, "quoted") // a text
	}
	for shift := range 3 { // at each place in a longer text
		text := base64.RawStdEncoding.EncodeToString(append(make([]byte, shift), b...))
		text = text[[]int{0, 2, 3}[shift]:]
		if (shift+len(b))%3 != 0 {
			text = text[:len(text)-1] // the last character has bits of what follows
		}
		forms[fmt.Sprintf("base64 at %d", shift)] = text
		forms[fmt.Sprintf("base64url at %d", shift)] = strings.NewReplacer("+", "-", "/", "_").Replace(text)
	}
	return forms
}

// in reports what is found in a text, and how often.
func (s *searcher) in(text []byte) map[finding]int {
	found := map[finding]int{}
	s.each(text, func(_ int, n needle) { found[n.what]++ })
	return found
}

// each calls yield for each window in a text, with its place.
func (s *searcher) each(text []byte, yield func(at int, n needle)) {
	for i := 0; i+window <= len(text); i++ {
		first := uint32(text[i]) | uint32(text[i+1])<<8 | uint32(text[i+2])<<16
		if s.filter[first/64]&(1<<(first%64)) == 0 {
			continue
		}
		for _, at := range s.byHead[binary.LittleEndian.Uint64(text[i:])] {
			if n := s.needles[at]; bytes.HasPrefix(text[i:], n.text) {
				yield(i, n)
			}
		}
	}
}

// inAll reads r to its end. Who keeps what is found is known only if r is memory, from the start of a page on.
func (s *searcher) inAll(r io.Reader) (map[finding]int, int64, error) {
	found, size, kept := map[finding]int{}, int64(0), 0
	buffer := make([]byte, 1<<20)
	for {
		n, err := io.ReadFull(r, buffer[kept:])
		size += int64(n)
		text := buffer[:kept+n]
		s.each(text, func(at int, n needle) {
			if at+len(n.text) > kept { // not counted before
				what := n.what
				what.keeper = keeperOf(text[:at], what.spelling, size-int64(len(text)))
				found[what]++
			}
		})
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return found, size, nil
		}
		if err != nil {
			return found, size, err
		}
		kept = copy(buffer, text[len(text)-(lookBack+s.longest):]) // for a window that is cut in two, and what stands before it
	}
}

// A copy that our own code left is not taken for one of Go's library, wherever the allocator put it but at the start of
// a buffer's place.
func TestKeepers(t *testing.T) {
	value := bytes.Repeat([]byte{0xA7, 3, 0x5C}, 16)
	var s searcher
	s.add(t, "plaintext", "p", value)
	text, head, answer := b64(value), "HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n", `{"kid":"https://vault1/keys/k/1","value":"`
	request := "POST /keys/k/encrypt HTTP/1.1\r\nHost: vault1\r\n\r\n" + `{"alg":"A256GCM","value":"`
	for _, c := range []struct {
		what, content string
		at            int
		want          string
	}{
		{"the body of an answer", answer + text, 3 * 2048, answerBuffer},
		{"an answer", head + answer + text, 5 * 4096, writeBuffer},
		{"a request", request + text, 4096, readBuffer},
		{"a request of more than 2 kB", "PUT /" + strings.Repeat("x", 3000) + request + text, 4096, readBuffer},
		{"a record", "\x17\x03\x03\x04\xA7" + request + text, 4096 + 608, tlsRecord},
		{"a record whose length is text", "\x17\x03\x03\x0D\x41" + head + answer + text, 608, tlsRecord},
		{"our body of an answer", answer + text, 4096 + 208, ""},
		{"our body of a request", request[strings.Index(request, "{"):] + text, 2048 + 128, ""},
		{"our value", text, 4096, ""},
		{"an answer's head elsewhere", head + answer + text, 4096 + 512, ""},
		{"a request at half a buffer", request + text, 2048, ""},
		{"bytes where a buffer begins", string(value), 4096, ""},
		{"bytes in a buffer", answer + string(value), 4096, ""},
		{"hex in a buffer", answer + hex.EncodeToString(value), 4096, ""},
		{"a buffer that ends before", answer + "\x00" + text, 4096, ""},
		{"a record that ends before", "\x17\x03\x03\x04\xA7" + request + "\x00" + text, 4096, ""},
	} {
		for _, pages := range []int{0, 1<<20 - 8192, 1<<20 - 4096} { // also where what is read at once ends
			memory := make([]byte, pages+32<<10)
			copy(memory[pages+c.at:], c.content)
			found, _, err := s.inAll(bytes.NewReader(memory))
			if err != nil || len(found) == 0 {
				t.Errorf("%s: found %v, %v", c.what, found, err)
			}
			for f := range found {
				if f.keeper != c.want {
					t.Errorf("%s, as %s: kept by %q, want %q", c.what, f.spelling, f.keeper, c.want)
				}
			}
		}
	}
}

// The search finds a secret, and each third of it, in every form that a careless program gives it, and nothing where
// nothing is.
func TestSearch(t *testing.T) {
	secret := make([]byte, 48)
	for i := range secret {
		secret[i] = byte(i*37 + 11)
	}
	var s searcher
	s.add(t, "key", "k", secret)
	number := new(big.Int).SetBytes(secret)
	for form, text := range map[string]string{
		"bytes": "x" + string(secret) + "y", "%x": fmt.Sprintf("%x", secret), "%X": fmt.Sprintf("%X", secret), "%v": fmt.Sprint(secret), "%d of a number": fmt.Sprint(number), "%#v": fmt.Sprintf("%#v", number.Bytes()[:0]) + strings.ReplaceAll(fmt.Sprint(secret), " ", ", "),
		"%q": fmt.Sprintf("%q", secret), "StdEncoding": base64.StdEncoding.EncodeToString(secret), "URLEncoding": base64.URLEncoding.EncodeToString(secret),
		"inside base64": base64.StdEncoding.EncodeToString([]byte("{\"k\":" + string(secret) + "}")), "at 1": base64.RawURLEncoding.EncodeToString(append([]byte{9}, secret...)), "at 2": base64.RawURLEncoding.EncodeToString(append([]byte{9, 9}, secret...)),
		"a piece of 31 bytes": string(secret[9 : 9+31]), "a piece of the hex": hex.EncodeToString(secret)[20:51],
	} {
		if len(s.in([]byte(text))) == 0 {
			t.Errorf("%s: not found in %q", form, text)
		}
	}
	words := number.Bits()
	var raw []byte
	for _, w := range words {
		raw = binary.NativeEndian.AppendUint64(raw, uint64(w))
	}
	if len(s.in(raw)) == 0 {
		t.Error("the words of a number: not found")
	}
	for at := range 40 { // across the ends of what is read at once
		text := append(bytes.Repeat([]byte{'.'}, 1<<20-40+at), secret...)
		if found, size, err := s.inAll(bytes.NewReader(text)); err != nil || size != int64(len(text)) || len(found) == 0 {
			t.Errorf("at %d: found %v in %d bytes, %v", at, found, size, err)
		}
	}
	if found := s.in(bytes.Repeat([]byte("0123456789abcdef"), 1000)); len(found) != 0 {
		t.Errorf("found %v in nothing", found)
	}
}
