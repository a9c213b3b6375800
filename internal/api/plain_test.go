package api

import (
	"encoding/json"
	"reflect"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"strongroom/internal/strictjson"
)

// flat are the forms that take their members one by one.
func flat() []interface{ TakeMember(name, value []byte) bool } {
	return []interface{ TakeMember(name, value []byte) bool }{&SignRequest{}, &VerifyRequest{}, &KeyOperationRequest{}}
}

// agree decodes text both ways into each form, and reports how many took the short one.
func agree(t interface{ Errorf(string, ...any) }, text []byte) (short int) {
	if strictjson.Check(text, strictjson.Limits{Bytes: 1 << 16, Depth: 4, Elements: 16, StringBytes: 1 << 16, FoldNames: true}) != nil {
		return 0
	}
	for _, form := range flat() {
		general := reflect.New(reflect.TypeOf(form).Elem()).Interface()
		err := json.Unmarshal(text, general)
		if !strictjson.Flat(text, form.TakeMember) {
			continue
		}
		short++
		if diff := cmp.Diff(general, any(form)); err != nil || diff != "" {
			t.Errorf("%s into %T: encoding/json says %v, and it differs: %s", text, form, err, diff)
		}
	}
	return short
}

func TestPlainRequestsTakeTheShortWay(t *testing.T) {
	for text, want := range map[string]int{
		`{"alg":"RS256","value":"AAAA"}`:                        3,
		`{"alg":"RS256","digest":"AAAA","value":""}`:            1,
		` {"value" : "AA", "aad":"","tag":"AAA","iv":"A_-A" } `: 1,
		`{}`:                            3,
		`{"value":"AAA="}`:              0, // padding
		`{"value":"AB"}`:                0, // stray bits
		`{"value":"A"}`:                 0,
		`{"value":"AA+A"}`:              0,
		`{"value":"AA\nA"}`:             0,
		`{"value":null}`:                0,
		`{"ALG":"RS256"}`:               0, // encoding/json takes it for alg
		`{"alg":"RS256","new":"thing"}`: 0,
		`{"alg":7}`:                     0,
	} {
		if got := agree(t, []byte(text)); got != want {
			t.Errorf("%s: %d forms took it the short way, want %d", text, got, want)
		}
	}
}

func FuzzPlainRequests(f *testing.F) {
	for _, seed := range []string{`{"alg":"A256GCM","value":"AAAA","iv":"AA"}`, `{"alg":"ü","digest":"AA"}`, `{"value":"AA\r"}`, `{"alg":"\u0041"}`, `{"value":""}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) { agree(t, text) })
}

func TestAppendJSONIsMarshal(t *testing.T) {
	short := 0
	rapid.Check(t, func(t *rapid.T) {
		texts := rapid.OneOf(rapid.Just(""), rapid.Just("https://127.0.0.1:8443/keys/my-key/0123"), rapid.StringMatching("[ -~]{0,8}"), rapid.String())
		value := rapid.Custom(func(t *rapid.T) Base64URL { return rapid.SliceOfN(rapid.Byte(), 0, 40).Draw(t, "bytes") })
		r := KeyOperationResult{Kid: texts.Draw(t, "kid"), Alg: texts.Draw(t, "alg"), Value: value.Draw(t, "value"),
			IV: value.Draw(t, "iv"), Tag: value.Draw(t, "tag"), AAD: value.Draw(t, "aad")}
		want, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		room := make([]byte, 1, 1+rapid.IntRange(0, 400).Draw(t, "room"))
		got, ok := r.AppendJSON(room)
		if ok {
			short++
			if string(got[1:]) != string(want) {
				t.Fatalf("got %s, want %s", got[1:], want)
			}
		}
	})
	if short == 0 {
		t.Error("nothing went the short way")
	}
	if _, ok := (KeyOperationResult{Kid: "https://x/keys/k/1", Value: []byte("v"), Alg: "RS256"}).AppendJSON(nil); !ok {
		t.Error("an ordinary answer goes the long way")
	}
}

// A plaintext is in one place when it is written, so that it can be cleared.
func TestAppendJSONMakesRoomAtOnce(t *testing.T) {
	r := KeyOperationResult{Kid: "kid", Alg: "alg", Value: make([]byte, 1000), IV: make([]byte, 12), Tag: make([]byte, 16), AAD: make([]byte, 100)}
	if n := testing.AllocsPerRun(100, func() { _, _ = r.AppendJSON(nil) }); n != 1 {
		t.Errorf("%v allocations, want 1", n)
	}
	random := RandomResult{Value: make([]byte, 128)}
	if n := testing.AllocsPerRun(100, func() { _, _ = random.AppendJSON(nil) }); n != 1 {
		t.Errorf("random bytes: %v allocations, want 1", n)
	}
	for _, r := range []RandomResult{random, {}, {Value: Base64URL{1, 2, 3, 0xff}}} {
		want, err := json.Marshal(r)
		if got, ok := r.AppendJSON(nil); err != nil || !ok || string(got) != string(want) {
			t.Errorf("%v: got %s, want %s", r.Value, got, want)
		}
	}
}
