package strictjson_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"testing/quick"

	"strongroom/internal/strictjson"
)

var limits = strictjson.Limits{Bytes: 1 << 20, Depth: 8, Elements: 100, StringBytes: 1 << 16, Values: 1000}

func with(change func(*strictjson.Limits)) strictjson.Limits {
	l := limits
	change(&l)
	return l
}

// Covers S8, A5.
func TestRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		want error
	}{
		"nothing":                           {"", strictjson.ErrSyntax},
		"white space":                       {" \n", strictjson.ErrSyntax},
		"trailing value":                    {"{} {}", strictjson.ErrSyntax},
		"trailing comma in an object":       {`{"a":1,}`, strictjson.ErrSyntax},
		"trailing comma in an array":        {`[1,]`, strictjson.ErrSyntax},
		"missing comma":                     {`[1 2]`, strictjson.ErrSyntax},
		"missing colon":                     {`{"a" 1}`, strictjson.ErrSyntax},
		"name without quotes":               {`{a:1}`, strictjson.ErrSyntax},
		"single quotes":                     {`{'a':1}`, strictjson.ErrSyntax},
		"open object":                       {`{"a":1`, strictjson.ErrSyntax},
		"open array":                        {`[1`, strictjson.ErrSyntax},
		"open string":                       {`"abc`, strictjson.ErrSyntax},
		"open escape":                       {`"abc\`, strictjson.ErrSyntax},
		"open unicode escape":               {`"\u12`, strictjson.ErrSyntax},
		"unknown escape":                    {`"\x41"`, strictjson.ErrSyntax},
		"bad hexadecimal":                   {`"\u12g4"`, strictjson.ErrSyntax},
		"control character in a string":     {"\"a\nb\"", strictjson.ErrSyntax},
		"NUL in a string":                   {"\"a\x00b\"", strictjson.ErrSyntax},
		"NUL after the value":               {"1\x00", strictjson.ErrSyntax},
		"byte order mark":                   {"\ufeff{}", strictjson.ErrSyntax},
		"form feed as white space":          {"\f{}", strictjson.ErrSyntax},
		"comment":                           {"/* */ {}", strictjson.ErrSyntax},
		"leading zero":                      {"01", strictjson.ErrSyntax},
		"leading plus":                      {"+1", strictjson.ErrSyntax},
		"bare minus":                        {"-", strictjson.ErrSyntax},
		"bare point":                        {"1.", strictjson.ErrSyntax},
		"point without a digit before":      {".5", strictjson.ErrSyntax},
		"bare exponent":                     {"1e", strictjson.ErrSyntax},
		"hexadecimal number":                {"0x10", strictjson.ErrSyntax},
		"NaN":                               {"NaN", strictjson.ErrSyntax},
		"cut word":                          {"tru", strictjson.ErrSyntax},
		"word in capitals":                  {"True", strictjson.ErrSyntax},
		"mismatched brackets":               {`[}`, strictjson.ErrSyntax},
		"duplicate name":                    {`{"a":1,"b":2,"a":1}`, strictjson.ErrDuplicate},
		"duplicate name, escaped":           {`{"a":1,"\u0061":2}`, strictjson.ErrDuplicate},
		"duplicate name, deep":              {`[{"x":{"a":1,"a":2}}]`, strictjson.ErrDuplicate},
		"duplicate empty name":              {`{"":1,"":2}`, strictjson.ErrDuplicate},
		"duplicate among many":              {manyNames(40, `"n7":0`), strictjson.ErrDuplicate},
		"broken UTF-8":                      {"\"\xff\"", strictjson.ErrEncoding},
		"overlong UTF-8":                    {"\"\xc0\xaf\"", strictjson.ErrEncoding},
		"surrogate in UTF-8":                {"\"\xed\xa0\x80\"", strictjson.ErrEncoding},
		"broken UTF-8 in a name":            {"{\"\xff\":1}", strictjson.ErrEncoding},
		"broken UTF-8 after an escape":      {"\"\\n\xff\"", strictjson.ErrEncoding},
		"lone high surrogate":               {`"\ud800"`, strictjson.ErrEncoding},
		"lone low surrogate":                {`"\udc00"`, strictjson.ErrEncoding},
		"two high surrogates":               {`"\ud800\ud800"`, strictjson.ErrEncoding},
		"high surrogate and a letter":       {`"\ud800a"`, strictjson.ErrEncoding},
		"high surrogate and another escape": {`"\ud800\n"`, strictjson.ErrEncoding},
		"too deep":                          {strings.Repeat("[", 9) + strings.Repeat("]", 9), strictjson.ErrLimit},
		"too many elements":                 {"[0" + strings.Repeat(",0", 100) + "]", strictjson.ErrLimit},
		"too many members":                  {manyNames(101, ""), strictjson.ErrLimit},
		"too many values":                   {"[" + strings.TrimSuffix(strings.Repeat("["+strings.TrimSuffix(strings.Repeat("0,", 99), ",")+"],", 11), ",") + "]", strictjson.ErrLimit},
		"too long a string":                 {`"` + strings.Repeat("a", 1<<16+1) + `"`, strictjson.ErrLimit},
		"too long a name":                   {`{"` + strings.Repeat("a", 1<<16+1) + `":1}`, strictjson.ErrLimit},
		"too long a number":                 {strings.Repeat("1", 100), strictjson.ErrLimit},
		"too many bytes":                    {strings.Repeat(" ", 1<<20) + "1", strictjson.ErrLimit},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := strictjson.Parse([]byte(c.text), limits)
			if !errors.Is(err, c.want) {
				t.Errorf("Parse: got %v, want %v", err, c.want)
			}
			if other := strictjson.Check([]byte(c.text), limits); !reflect.DeepEqual(other, err) {
				t.Errorf("Check says %v and Parse says %v", other, err)
			}
		})
	}
}

func manyNames(n int, last string) string {
	var b strings.Builder
	for i := range n {
		b.WriteString(`,"n` + strings.TrimLeft(string(rune('0'+i/100))+string(rune('0'+i/10%10))+string(rune('0'+i%10)), "0") + `":0`)
	}
	if last != "" {
		b.WriteString("," + last)
	}
	return "{" + b.String()[1:] + "}"
}

func TestAtTheLimitIsAllowed(t *testing.T) {
	for name, text := range map[string]string{
		"depth":   strings.Repeat("[", 8) + strings.Repeat("]", 8),
		"items":   "[0" + strings.Repeat(",0", 99) + "]",
		"members": manyNames(100, ""),
		"string":  `"` + strings.Repeat("a", 1<<16) + `"`,
		"number":  strings.Repeat("1", 64),
		"bytes":   strings.Repeat(" ", 1<<20-1) + "1",
	} {
		if err := strictjson.Check([]byte(text), limits); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The caller's depth cannot exhaust the stack, whatever it is.
func TestDepthHasACeiling(t *testing.T) {
	deep := []byte(strings.Repeat("[", 1001) + strings.Repeat("]", 1001))
	if err := strictjson.Check(deep, with(func(l *strictjson.Limits) { l.Depth, l.Values = 1<<30, 1<<30 })); !errors.Is(err, strictjson.ErrLimit) {
		t.Errorf("got %v, want ErrLimit", err)
	}
}

// Names that encoding/json takes for one are refused where it is going to decode.
func TestFoldNames(t *testing.T) {
	folding := with(func(l *strictjson.Limits) { l.FoldNames = true })
	for _, text := range []string{`{"required":2,"Required":3}`, `{"K":1,"k":2}`, "{\"k\":1,\"\u212a\":2}", "{\"s\":1,\"\u017f\":2}", "{\"straße\":1,\"STRAßE\":2}"} {
		var target map[string]any
		if err := json.Unmarshal([]byte(text), &target); err != nil {
			t.Fatal(err)
		}
		if err := strictjson.Check([]byte(text), limits); err != nil {
			t.Errorf("%s without folding: %v", text, err)
		}
		if err := strictjson.Check([]byte(text), folding); !errors.Is(err, strictjson.ErrDuplicate) {
			t.Errorf("%s with folding: got %v, want ErrDuplicate", text, err)
		}
	}
	if err := strictjson.Check([]byte(`{"a":1,"b":{"a":1},"c":2}`), folding); err != nil {
		t.Errorf("different names: %v", err)
	}
}

// An error never holds a piece of the input.
func TestErrorsDoNotEcho(t *testing.T) {
	const canary = "SECRETCANARY"
	for _, text := range []string{canary, `{"` + canary + `":1,"` + canary + `":2}`, `"` + canary + "\xff\"", `["` + canary + `" 1]`, `"\` + canary} {
		_, err := strictjson.Parse([]byte(text), limits)
		if err == nil || strings.Contains(err.Error(), canary[:6]) {
			t.Errorf("error %v", err)
		}
	}
}

// Covers A5: hostile texts are refused before they cost anything; the work is counted in allocations.
func TestHostileTextsAreCheap(t *testing.T) {
	for name, text := range map[string][]byte{
		"a million brackets":      bytes.Repeat([]byte("["), 1<<20),
		"a million open objects":  bytes.Repeat([]byte(`{"":`), 1<<18),
		"a megabyte of dots":      bytes.Repeat([]byte("."), 1<<20),
		"a megabyte of digits":    bytes.Repeat([]byte("9"), 1<<20),
		"a megabyte of backslash": append([]byte(`"`), bytes.Repeat([]byte(`\\`), 1<<19-1)...),
		"ten megabytes":           bytes.Repeat([]byte(" "), 10<<20),
	} {
		t.Run(name, func(t *testing.T) {
			var err error
			allocations := testing.AllocsPerRun(5, func() { _, err = strictjson.Parse(text, limits) })
			if err == nil {
				t.Error("accepted")
			}
			if allocations > 100 {
				t.Errorf("%v allocations, want few", allocations)
			}
		})
	}
}

func TestAccessors(t *testing.T) {
	v, err := strictjson.Parse([]byte(` {"s":"a\u00e9\ud83d\ude00\/\n\"","n":-12,"f":1.5,"t":true,"x":false,"z":null,"l":[1,"two"],"o":{"in":"side"},"big":99999999999999999999} `), limits)
	if err != nil {
		t.Fatal(err)
	}
	if s, ok := v.Get("s").Text(); !ok || s != "aé😀/\n\"" {
		t.Errorf("s = %q, %v", s, ok)
	}
	if n, ok := v.Get("n").Int(); !ok || n != -12 {
		t.Errorf("n = %d, %v", n, ok)
	}
	if b, ok := v.Get("t").Bool(); !ok || !b {
		t.Errorf("t = %v, %v", b, ok)
	}
	if b, ok := v.Get("x").Bool(); !ok || b {
		t.Errorf("x = %v, %v", b, ok)
	}
	if l, ok := v.Get("l").Elements(); !ok || len(l) != 2 {
		t.Errorf("l has %d elements, %v", len(l), ok)
	}
	if s, ok := v.Get("o").Get("in").Text(); !ok || s != "side" {
		t.Errorf("o.in = %q, %v", s, ok)
	}
	members, ok := v.Members()
	if !ok || len(members) != 9 || members[0].Name != "s" || members[8].Name != "big" {
		t.Errorf("members out of order: %v", members)
	}
	for name, kind := range map[string]strictjson.Kind{"z": strictjson.Null, "f": strictjson.Number, "S": strictjson.None, "": strictjson.None} {
		if got := v.Get(name).Kind(); got != kind {
			t.Errorf("%q is %v, want %v", name, got, kind)
		}
	}
	for _, name := range []string{"f", "big", "s", "missing"} {
		if n, ok := v.Get(name).Int(); ok {
			t.Errorf("%s is taken for the integer %d", name, n)
		}
	}
	if _, ok := v.Get("n").Text(); ok {
		t.Error("a number is taken for a string")
	}
	if got := v.Without("s").Get("s").Kind(); got != strictjson.None {
		t.Errorf("Without left %v", got)
	}
	if s, _ := v.With("s", v.Get("o").Get("in")).Get("s").Text(); s != "side" {
		t.Errorf("With left %q", s)
	}
	if s, _ := v.Get("s").Text(); s == "side" {
		t.Error("With changed the original")
	}
}

func TestCanonical(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"white space":     {" { \"b\" : [ 1 , true , null ] ,\n \"a\" : { } } ", `{"a":{},"b":[1,true,null]}`},
		"escapes":         {`"\u0061\/\u00e9\u0008\u0009\u000a\u000c\u000d\u001f\u007f\\\""`, "\"a/é\\b\\t\\n\\f\\r\\u001f\u007f\\\\\\\"\""},
		"no html escapes": {`"\u003c&>"`, `"<&>"`},
		// The example of RFC 8785 section 3.2.3.
		"names by UTF-16": {`{"\u20ac":"Euro Sign","\r":"Carriage Return","\ufb33":"Hebrew Letter Dalet With Dagesh","1":"One","\ud83d\ude00":"Emoji: Grinning Face","\u0080":"Control","\u00f6":"Latin Small Letter O With Diaeresis"}`,
			"{\"\\r\":\"Carriage Return\",\"1\":\"One\",\"\u0080\":\"Control\",\"ö\":\"Latin Small Letter O With Diaeresis\",\"€\":\"Euro Sign\",\"😀\":\"Emoji: Grinning Face\",\"\ufb33\":\"Hebrew Letter Dalet With Dagesh\"}"},
		"largest integer": {"9007199254740991", "9007199254740991"},
	} {
		v, err := strictjson.Parse([]byte(c.text), limits)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := strictjson.Canonical(v); err != nil || string(got) != c.want {
			t.Errorf("%s: got %s, %v; want %s", name, got, err, c.want)
		}
	}
	for _, text := range []string{"1.5", "1e3", "-0", "9007199254740992", "-9007199254740992", `[{"a":1.0}]`} {
		v, err := strictjson.Parse([]byte(text), limits)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := strictjson.Canonical(v); !errors.Is(err, strictjson.ErrNotCanonical) {
			t.Errorf("%s: got %s, %v; want ErrNotCanonical", text, got, err)
		}
	}
	if _, err := strictjson.Canonical(strictjson.Value{}); err == nil {
		t.Error("a missing value has a canonical form")
	}
}

// What encoding/json writes is read, and both see the same values.
func TestReadsWhatEncodingJSONWrites(t *testing.T) {
	property := func(in map[string][]string) bool {
		text, err := json.MarshalIndent(in, "", "\t")
		if err != nil {
			return false
		}
		var clean map[string][]string // as valid UTF-8
		if err := json.Unmarshal(text, &clean); err != nil {
			return false
		}
		v, err := strictjson.Parse(text, strictjson.Limits{Bytes: 1 << 26, Depth: 4, Elements: 1 << 16, StringBytes: 1 << 20})
		if err != nil {
			return errors.Is(err, strictjson.ErrDuplicate) && len(clean) < len(in)
		}
		for name, list := range clean {
			elements, _ := v.Get(name).Elements()
			if len(elements) != len(list) {
				return false
			}
			for i, e := range elements {
				if s, ok := e.Text(); !ok || s != list[i] {
					return false
				}
			}
		}
		return true
	}
	if err := quick.Check(property, nil); err != nil {
		t.Error(err)
	}
}

// What is accepted, encoding/json accepts too and means the same; the canonical form is a fixed point.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{"", "{}", `{"a":[1,-2.5e+3,true,false,null,"\ud83d\ude00"],"b":{"c":"\\\""}}`, `{"a":1,"a":2}`, "[[[[[[[[[]]]]]]]]]", "\"\xff\"", `"\ud800"`, "-0", "1e5", " 1 "} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		v, err := strictjson.Parse(text, limits)
		if check := strictjson.Check(text, limits); (check == nil) != (err == nil) {
			t.Fatalf("Check says %v and Parse says %v", check, err)
		}
		if err != nil {
			return
		}
		if !json.Valid(text) {
			t.Fatal("accepted what encoding/json refuses")
		}
		canonical, err := strictjson.Canonical(v)
		if err != nil {
			return
		}
		again, err := strictjson.Parse(canonical, strictjson.Limits{Bytes: 1 << 24, Depth: 8, Elements: 100, StringBytes: 1 << 20, Values: 1000})
		if err != nil {
			t.Fatalf("the canonical form does not parse: %v", err)
		}
		if twice, err := strictjson.Canonical(again); err != nil || !bytes.Equal(twice, canonical) {
			t.Fatalf("the canonical form is no fixed point: %v", err)
		}
		var a, b any
		if json.Unmarshal(text, &a) != nil || json.Unmarshal(canonical, &b) != nil || !reflect.DeepEqual(a, b) {
			t.Fatal("the canonical form means something else")
		}
	})
}

func BenchmarkParse(b *testing.B) {
	text := []byte(`{"list":[` + strings.TrimSuffix(strings.Repeat(`{"compact_jwe":"`+strings.Repeat("x", 700)+`","tag":"t"},`, 50), ",") + `]}`)
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		if _, err := strictjson.Parse(text, limits); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCheckAMillionBrackets(b *testing.B) {
	text := bytes.Repeat([]byte("["), 1<<20)
	for b.Loop() {
		if strictjson.Check(text, limits) == nil {
			b.Fatal("accepted")
		}
	}
}
