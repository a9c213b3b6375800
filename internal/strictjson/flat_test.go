package strictjson

import (
	"encoding/json"
	"maps"
	"testing"
)

// flat collects what Flat hands over.
func flat(text []byte) (map[string]string, bool) {
	got := map[string]string{}
	ok := Flat(text, func(name, value []byte) bool {
		got[string(name)] = string(value)
		return true
	})
	return got, ok
}

func TestFlat(t *testing.T) {
	for text, want := range map[string]map[string]string{
		`{}`:                                 {},
		" \t\r\n{ \n} ":                      {},
		`{"alg":"RS256","value":"AA"}`:       {"alg": "RS256", "value": "AA"},
		` { "a" : "" , "" : "ü" } `:          {"a": "", "": "ü"},
		`{"a":"b\u0063"}`:                    nil,
		`{"\u0061":"b"}`:                     nil,
		`{"a":null}`:                         nil,
		`{"a":1}`:                            nil,
		`{"a":{"b":"c"}}`:                    nil,
		`{"a":["b"]}`:                        nil,
		`["a"]`:                              nil,
		`"a"`:                                nil,
		`{"a":"b"`:                           nil,
		`{"a":"b",}`:                         nil,
		`{"a":"b"}x`:                         nil,
		`{"a" "b"}`:                          nil,
		`{"a":"b" "c":"d"}`:                  nil,
		`{"a":"b`:                            nil,
		`{"a":`:                              nil,
		`{"a`:                                nil,
		`{`:                                  nil,
		``:                                   nil,
		`{"a":"b","c":"d","e":false}`:        nil,
		`{"a":"quote \" in it","c":"d\\"}`:   nil,
		`{"value":"AA","kid":"https://x/y"}`: {"value": "AA", "kid": "https://x/y"},
	} {
		got, ok := flat([]byte(text))
		if ok != (want != nil) || ok && !maps.Equal(got, want) {
			t.Errorf("%s: got %v, %t; want %v", text, got, ok, want)
		}
	}
	if Flat([]byte(`{"a":"b","c":"d"}`), func(name, _ []byte) bool { return string(name) != "c" }) {
		t.Error("a member that was not taken is no reason to go on")
	}
}

// What Flat hands over of a text that Check accepts is what encoding/json reads.
func FuzzFlat(f *testing.F) {
	for _, seed := range []string{`{}`, `{"alg":"RS256","value":"AA"}`, ` {"a" : "b", "c":"\u0064"}`, `{"a":null}`, `{"a":"b"}}`, `{"A":"ü","":""}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		checked := Check(text, Limits{Bytes: 1 << 16, Depth: 8, Elements: 64, StringBytes: 1 << 12, FoldNames: true}) == nil
		got, ok := flat(text) // never panics, whatever it is
		if !checked || !ok {
			return
		}
		var want map[string]string
		if err := json.Unmarshal(text, &want); err != nil || !maps.Equal(got, want) {
			t.Errorf("%s: got %v, encoding/json reads %v (%v)", text, got, want, err)
		}
	})
}
