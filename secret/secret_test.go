package secret_test

import (
	"bytes"
	"encoding/base64"
	"encoding/gob"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"strongroom/secret"
)

// canary is printable, so that %s and %q would show it as it is.
const canary = "CANARY-7f3a-do-not-print"

// leaks reports in which spelling the canary stands in out, or "".
func leaks(out string) string {
	low := strings.ToLower(out)
	spellings := map[string]string{
		"plain":     strings.ToLower(canary),
		"hex":       hex.EncodeToString([]byte(canary)),
		"base64":    strings.ToLower(base64.StdEncoding.EncodeToString([]byte(canary))),
		"base64url": strings.ToLower(base64.RawURLEncoding.EncodeToString([]byte(canary))),
		"decimal":   "67 65 78 65 82 89",
		"go hex":    "0x43, 0x41, 0x4e",
		"spaced":    "43 41 4e 41 52 59",
	}
	for name, s := range spellings {
		if strings.Contains(low, s) {
			return name
		}
	}
	return ""
}

type hidden struct{ inner secret.Bytes }
type hiddenPointer struct{ inner *secret.Bytes }
type deep struct{ h hidden }
type exported struct{ Inner secret.Bytes }
type embedded struct{ secret.Bytes }
type viaInterface struct{ v any }

// shapes are the ways in which a secret ends up inside something that somebody prints.
func shapes() map[string]any {
	s := secret.New([]byte(canary))
	return map[string]any{
		"value":               s,
		"pointer":             &s,
		"unexported field":    hidden{s},
		"unexported pointer":  hiddenPointer{&s},
		"pointer to holder":   &hidden{s},
		"two levels deep":     deep{hidden{s}},
		"exported field":      exported{s},
		"embedded":            embedded{s},
		"interface":           viaInterface{s},
		"slice":               []secret.Bytes{s},
		"map":                 map[string]secret.Bytes{"k": s},
		"slice of holders":    []hidden{{s}},
		"map of holders":      map[string]deep{"k": {hidden{s}}},
		"array":               [1]secret.Bytes{s},
		"error with a secret": fmt.Errorf("open: %v", s),
	}
}

func TestNeverPrints(t *testing.T) {
	for name, v := range shapes() {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "% x", "%d", "%o", "%b", "%c", "%U", "%T", "%p", "%e", "%t", "%10.3v", "%w"} {
			if how := leaks(fmt.Sprintf(verb, v)); how != "" {
				t.Errorf("%s under %s leaks the secret (%s)", name, verb, how)
			}
		}
		if how := leaks(fmt.Sprint(v) + fmt.Sprintln(v)); how != "" {
			t.Errorf("%s under Sprint leaks the secret (%s)", name, how)
		}
	}
}

func TestNeverLogs(t *testing.T) {
	for name, v := range shapes() {
		var text, js bytes.Buffer
		slog.New(slog.NewTextHandler(&text, nil)).Info("m", "v", v, slog.Group("g", "v", v))
		slog.New(slog.NewJSONHandler(&js, nil)).Info("m", "v", v, slog.Group("g", "v", v))
		for handler, out := range map[string]string{"text": text.String(), "json": js.String()} {
			if how := leaks(out); how != "" {
				t.Errorf("%s through slog's %s handler leaks the secret (%s): %s", name, handler, how, out)
			}
			if out == "" {
				t.Errorf("%s: slog's %s handler wrote nothing: the test checked nothing", name, handler)
			}
		}
	}
}

func TestNeverEncodes(t *testing.T) {
	for name, v := range shapes() {
		var out bytes.Buffer
		if b, err := json.Marshal(v); err == nil {
			out.Write(b)
		}
		if b, err := xml.Marshal(v); err == nil {
			out.Write(b)
		}
		_ = gob.NewEncoder(&out).Encode(v)
		if how := leaks(out.String()); how != "" {
			t.Errorf("%s: an encoder leaks the secret (%s)", name, how)
		}
	}
	s := secret.New([]byte(canary))
	for name, encode := range map[string]func() ([]byte, error){
		"MarshalText": s.MarshalText, "MarshalJSON": s.MarshalJSON, "MarshalBinary": s.MarshalBinary, "GobEncode": s.GobEncode,
	} {
		if b, err := encode(); !errors.Is(err, secret.ErrMarshal) || len(b) > 0 {
			t.Errorf("%s: got %d bytes, %v; want none and ErrMarshal", name, len(b), err)
		}
	}
	if _, err := json.Marshal(exported{s}); err == nil {
		t.Error("json.Marshal of a struct with a secret in an exported field succeeded; want an error")
	}
}

// The counter-test: were the bytes in a plain unexported slice, the checks above would see them.
func TestLeaksSeesAPlainField(t *testing.T) {
	type careless struct{ b []byte }
	for _, verb := range []string{"%s", "%x", "%v", "%#v"} {
		if leaks(fmt.Sprintf(verb, careless{[]byte(canary)})) == "" {
			t.Errorf("the leak check does not see a plain []byte under %s: it proves nothing", verb)
		}
	}
}

func TestEqual(t *testing.T) {
	a, b := secret.New([]byte("one")), secret.New([]byte("one"))
	if !a.Equal(b) || !a.Equal(a) {
		t.Error("equal secrets compare unequal")
	}
	for _, other := range []secret.Bytes{{}, secret.New([]byte("two")), secret.New([]byte("on")), secret.New([]byte("onee"))} {
		if a.Equal(other) || other.Equal(a) {
			t.Errorf("different secrets of %d and %d bytes compare equal", a.Len(), other.Len())
		}
	}
	if !(secret.Bytes{}).Equal(secret.New(nil)) {
		t.Error("two empty secrets compare unequal")
	}
}

func TestNewCopiesAndTakeOwns(t *testing.T) {
	src := []byte("abc")
	copied, taken := secret.New(src), secret.Take(src)
	src[0] = 'x'
	if got := string(copied.Reveal()); got != "abc" {
		t.Errorf("New shares the caller's slice: got %q", got)
	}
	if got := string(taken.Reveal()); got != "xbc" {
		t.Errorf("Take copied: got %q", got)
	}
}

func TestWipe(t *testing.T) {
	backing := []byte("wipe me")
	s := secret.Take(backing)
	alias, clone := s, s.Clone()
	s.Wipe()
	if !bytes.Equal(backing, make([]byte, len(backing))) {
		t.Errorf("after Wipe the bytes are %q; want zeros", backing)
	}
	if !bytes.Equal(alias.Reveal(), make([]byte, len(backing))) {
		t.Error("a copy of the value still shows the secret after Wipe")
	}
	if string(clone.Reveal()) != "wipe me" {
		t.Error("a clone was wiped with its original")
	}
	secret.Bytes{}.Wipe() // the zero value must not panic
}

func TestRandom(t *testing.T) {
	s, err := secret.Random(strings.NewReader("0123456789"), 4)
	if err != nil || string(s.Reveal()) != "0123" {
		t.Errorf("Random: got %q, %v; want the reader's first 4 bytes", s.Reveal(), err)
	}
	if _, err := secret.Random(strings.NewReader("01"), 4); err == nil {
		t.Error("Random from a short reader succeeded; want an error")
	}
}
