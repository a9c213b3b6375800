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

// finding is a secret that was found, as what, and how often.
type finding struct{ kind, name, spelling string }

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
			s.insert(needle{[]byte(text[at : at+w]), finding{kind, name, spelling}})
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

// in reports what is found in a text.
func (s *searcher) in(text []byte) map[finding]int {
	found := map[finding]int{}
	for i := 0; i+window <= len(text); i++ {
		first := uint32(text[i]) | uint32(text[i+1])<<8 | uint32(text[i+2])<<16
		if s.filter[first/64]&(1<<(first%64)) == 0 {
			continue
		}
		for _, at := range s.byHead[binary.LittleEndian.Uint64(text[i:])] {
			if n := s.needles[at]; bytes.HasPrefix(text[i:], n.text) {
				found[n.what]++
			}
		}
	}
	return found
}

// inAll reads r to its end.
func (s *searcher) inAll(r io.Reader) (map[finding]int, int64, error) {
	found, size, kept := map[finding]int{}, int64(0), 0
	buffer := make([]byte, 1<<20)
	for {
		n, err := io.ReadFull(r, buffer[kept:])
		size += int64(n)
		text := buffer[:kept+n]
		for what, times := range s.in(text) {
			found[what] += times
		}
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return found, size, nil
		}
		if err != nil {
			return found, size, err
		}
		kept = copy(buffer, text[len(text)-s.longest:]) // a window that is cut in two; one that is not may count twice
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
