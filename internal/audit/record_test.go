package audit

import (
	"bytes"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"
)

// lineOf is how a caller's record stands in the log.
func lineOf(t testing.TB, r Record, number int64, prev tlog.Hash) []byte {
	t.Helper()
	if err := r.prepare(time.Date(2026, 11, 25, 3, 27, 40, 123456789, time.FixedZone("", 3600))); err != nil {
		t.Fatal(err)
	}
	return r.appendRest(appendStart(nil, number, prev))
}

// The line of a record, spelled out as docs/formats.md has it.
func TestRecordLine(t *testing.T) {
	got := string(lineOf(t, call(3), 17, tlog.Hash{}))
	want := `{"n":17,"prev":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=","time":"2026-11-25T02:27:40.123456Z","kind":"call",` +
		`"request":"00000000-0000-4000-8000-000000000003","client_request":"client 3","plane":"data",` +
		`"principal":"11111111-1111-4111-8111-111111111111","app":"22222222-2222-4222-8222-222222222222","issuer":"https://issuer.example/tenant",` +
		`"source":"192.0.2.7","hsm":"33333333-3333-4333-8333-333333333333","hsm_name":"alpha","operation":"Sign",` +
		`"action":"Microsoft.KeyVault/managedHsm/keys/sign/action","key":"key-3","version":"0123456789abcdef0123456789abcdef",` +
		`"outcome":"allowed","status":200,"us":103}`
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	r, _, err := parseRecord([]byte(got))
	if err != nil {
		t.Fatal(err)
	}
	expect := call(3)
	expect.Number, expect.Kind, expect.Time = 17, KindCall, time.Date(2026, 11, 25, 2, 27, 40, 123456000, time.UTC)
	if r != expect {
		t.Errorf("read back %+v\nwant %+v", r, expect)
	}
}

// A release says on whose word a key left, and for whom; both are bounded and cleaned as every text.
func TestRecordOfARelease(t *testing.T) {
	r := Record{Request: "r", Plane: PlaneData, Operation: "Release", Key: "k", Version: "v", Authority: "https://attest.example\n", Recipient: strings.Repeat("x", 65), Backup: "mhsm-a-2026112509301500/", Outcome: Allowed, Status: 200}
	got := string(lineOf(t, r, 0, tlog.Hash{}))
	want := `,"key":"k","version":"v","authority":"https://attest.example%0A","recipient":"` + strings.Repeat("x", 62) + `%~","backup":"mhsm-a-2026112509301500/","outcome":"allowed","status":200}`
	if !strings.HasSuffix(got, want) {
		t.Errorf("got  %s\nwant … %s", got, want)
	}
	back, _, err := parseRecord([]byte(got))
	if err != nil || back.Authority != "https://attest.example%0A" || back.Recipient != strings.Repeat("x", 62)+cutMark {
		t.Errorf("read back %+v, %v", back, err)
	}
}

// Covers L3: every field of a record is in the table, each once; there is no other way into the log.
func TestFieldsAreTheAllowList(t *testing.T) {
	var r Record
	seen := map[any]string{&r.Number: "n", &r.Time: "time"}
	names := map[string]bool{"n": true, "prev": true, "time": true}
	longest := len(`{"n":`) + 18 + len(`,"prev":""`) + 44 + len(`,"time":""`) + len(timeForm) + 1
	for _, f := range fields {
		if names[f.name] {
			t.Errorf("%s stands twice", f.name)
		}
		names[f.name] = true
		if f.text != nil {
			seen[f.text(&r)] = f.name
			longest += len(f.name) + len(`,"":""`) + f.max
			if f.max < 1 {
				t.Errorf("%s has no bound", f.name)
			}
		} else {
			seen[f.number(&r)] = f.name
			longest += len(f.name) + len(`,"":`) + 18
		}
	}
	v := reflect.ValueOf(&r).Elem()
	for i := range v.NumField() {
		if _, ok := seen[v.Field(i).Addr().Interface()]; !ok {
			t.Errorf("field %s of a record is not in the table", v.Type().Field(i).Name)
		}
	}
	if longest > MaxRecord {
		t.Errorf("a record can have %d bytes, and MaxRecord is %d", longest, MaxRecord)
	}
}

// Covers L3: whatever a stranger puts into a name, the line is one line of printable ASCII, within bounds, and reads back.
func TestHostileTexts(t *testing.T) {
	for name, s := range map[string]string{
		"line end":          "a\nb\r\n{\"n\":1}",
		"quotes":            `","outcome":"allowed`,
		"backslash":         `\u0022,\`,
		"per cent":          "100%41%~",
		"escape sequence":   "\x1b[2J\x1b]0;owned\a",
		"right to left":     "\u202egnp.exe",
		"not Unicode":       "\xff\xfe\x00",
		"much":              strings.Repeat("x", 1<<20),
		"much of nothing":   strings.Repeat("\x00", 1<<20),
		"just too long":     strings.Repeat("\"", 22),
		"JSON":              `{"$ref":"http://192.0.2.1/"}`,
		"spaces":            "  a  ",
		"as long as can be": strings.Repeat("x", 64),
	} {
		t.Run(name, func(t *testing.T) {
			r := call(1)
			for _, f := range fields {
				if f.text != nil && f.name != "kind" && f.name != "phase" && f.name != "plane" && f.name != "outcome" {
					*f.text(&r) = s
				}
			}
			line := lineOf(t, r, 5, tlog.Hash{1})
			if len(line) > MaxRecord {
				t.Errorf("the line has %d bytes", len(line))
			}
			if i := bytes.IndexFunc(line, func(c rune) bool { return c < ' ' || c > '~' }); i >= 0 {
				t.Errorf("byte %d of the line is %q", i, line[i])
			}
			got, prev, err := parseRecord(line)
			if err != nil || prev != (tlog.Hash{1}) || got.Number != 5 {
				t.Fatalf("reads back as %+v, %v", got, err)
			}
			if got.Key != Clean(s, 128) || got.Operation != Clean(s, 64) {
				t.Errorf("reads back as %q and %q", got.Key, got.Operation)
			}
		})
	}
}

func TestClean(t *testing.T) {
	for _, tc := range []struct {
		s    string
		max  int
		want string
	}{
		{"", 8, ""},
		{"invoices", 8, "invoices"},
		{"invoices-", 8, "invoic%~"},
		{"a b<c>&d", 8, "a b<c>&d"},
		{"100%", 8, "100%25"},
		{"a\nb", 8, "a%0Ab"},
		{"é", 8, "%C3%A9"},
		{"éé", 8, "%C3%A9%~"},
		{"aéé", 8, "a%C3%~"},
		{`"`, 8, "%22"},
		{`\\\`, 8, "%5C%5C%~"},
	} {
		if got := Clean(tc.s, tc.max); got != tc.want || len(got) > tc.max || !isClean(got) {
			t.Errorf("Clean(%q, %d) = %q, want %q", tc.s, tc.max, got, tc.want)
		}
	}
	for _, s := range []string{"%", "%4", "%41", "%0a", "%GG", "a\"", "\\", "%~x", "\n", "é"} {
		if isClean(s) {
			t.Errorf("%q counts as clean", s)
		}
	}
}

// A line that is not spelled as this package spells it is no record.
func TestParseRecordRefuses(t *testing.T) {
	good := string(lineOf(t, call(3), 17, tlog.Hash{}))
	replace := func(old, with string) string {
		s := strings.Replace(good, old, with, 1)
		if s == good {
			t.Fatalf("%q is not in the line", old)
		}
		return s
	}
	for name, line := range map[string]string{
		"nothing":                  "",
		"an empty object":          "{}",
		"cut":                      good[:len(good)-1],
		"more behind it":           good + " ",
		"a second object":          good + good,
		"white space":              replace(`,"kind"`, `, "kind"`),
		"an unknown member":        replace(`"us":103`, `"us":103,"body":"secret"`),
		"a member twice":           replace(`"status":200`, `"status":200,"status":200`),
		"members in another order": replace(`"status":200,"us":103`, `"us":103,"status":200`),
		"a zero":                   replace(`"us":103`, `"us":0`),
		"a leading zero":           replace(`"us":103`, `"us":0103`),
		"a large number":           replace(`"us":103`, `"us":1000000000000000000`),
		"a negative number":        replace(`"us":103`, `"us":-1`),
		"a fraction":               replace(`"us":103`, `"us":1.5`),
		"a number as text":         replace(`"us":103`, `"us":"103"`),
		"a text as number":         replace(`"plane":"data"`, `"plane":1`),
		"an empty text":            replace(`"key":"key-3"`, `"key":""`),
		"an escape of JSON":        replace(`"key":"key-3"`, `"key":"key\u002d3"`),
		"a long text":              replace(`"key":"key-3"`, `"key":"`+strings.Repeat("k", 129)+`"`),
		"a text that is not clean": replace(`"key":"key-3"`, `"key":"%41"`),
		"no outcome":               replace(`"outcome":"allowed",`, ""),
		"another outcome":          replace(`"allowed"`, `"perhaps"`),
		"a short hash":             replace("AAAA", ""),
		"a hash with odd bits":     replace(`AAA="`, `AAB="`),
		"another time zone":        replace(`40.123456Z`, `40.123456+01:00`),
		"an odd date":              replace(`2026-11-25`, `2026-02-30`),
		"a short time":             replace(`40.123456Z`, `40.12Z`),
		"an old time":              replace(`2026`, `0026`),
		"a recovery and more":      replace(`"kind":"call"`, `"kind":"recovered"`),
		"much":                     replace(`"key":"key-3"`, `"key":"`+strings.Repeat("k", MaxRecord)+`"`),
	} {
		if r, _, err := parseRecord([]byte(line)); err == nil {
			t.Errorf("%s: was read as %+v", name, r)
		} else if strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: the error shows the input: %v", name, err)
		}
	}
	if _, _, err := parseRecord([]byte(good)); err != nil {
		t.Errorf("the line that the others come from: %v", err)
	}
}

func FuzzRecord(f *testing.F) {
	f.Add(lineOf(f, call(3), 17, tlog.Hash{}))
	f.Add(lineOf(f, Record{Kind: KindRecovered, Cut: 5}, 0, tlog.Hash{}))
	f.Add([]byte(`{"n":1,"prev":"`))
	f.Fuzz(func(t *testing.T, line []byte) {
		r, prev, err := parseRecord(line)
		if err != nil {
			return
		}
		if again := r.appendRest(appendStart(nil, r.Number, prev)); !bytes.Equal(again, line) {
			t.Errorf("%q prints back as %q", line, again)
		}
		if err := r.check(); err != nil {
			t.Errorf("%q was read, and no record may say that: %v", line, err)
		}
	})
}

func FuzzClean(f *testing.F) {
	for _, s := range []string{"a", "\x00", `"`, "%", "%~", "é", strings.Repeat("%", 40)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for _, max := range []int{16, 64} {
			got := Clean(s, max)
			if len(got) > max || !isClean(got) || (got == "") != (s == "") {
				t.Errorf("Clean(%q, %d) = %q", s, max, got)
			}
			if !strings.HasSuffix(got, cutMark) && unescape(got) != s {
				t.Errorf("Clean(%q, %d) = %q, which says %q", s, max, got, unescape(got))
			}
		}
	})
}

func unescape(s string) string {
	var b []byte
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			var c byte
			_, _ = fmt.Sscanf(s[i+1:i+3], "%02X", &c)
			b = append(b, c)
			i += 2
			continue
		}
		b = append(b, s[i])
	}
	return string(b)
}
