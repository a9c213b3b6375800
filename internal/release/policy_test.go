package release

import (
	"encoding/base64"
	"errors"
	"fmt"
	"math/big"
	"os"
	"slices"
	"strings"
	"testing"

	"strongroom/internal/strictjson"
)

const authority1, authority2 = "https://attest.example.org", "https://other.example.org/attest"

func value(t testing.TB, text string) strictjson.Value {
	t.Helper()
	v, err := strictjson.Parse([]byte(text), strictjson.Limits{Bytes: 1 << 20, Depth: 64, Elements: 4096, StringBytes: 1 << 20})
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return v
}

// policy is a policy of one authority with one group.
func policy(group string) string {
	return fmt.Sprintf(`{"version":"1.0.0","anyOf":[{"authority":%q,%s}]}`, authority1, group)
}

func parsed(t testing.TB, text string) *Policy {
	t.Helper()
	p, err := Parse([]byte(text))
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return p
}

func TestJudge(t *testing.T) {
	claims := `{"iss":"x","type":"sevsnpvm","debug":false,"secure":true,"svn":7,"zero":0,"negative":-3,"ratio":1.5,"huge":9223372036854775808,
		"nothing":null,"list":["sevsnpvm"],"object":{"type":"inner","deep":{"er":{"x":"y"}},"":"empty"},"spelled":"false","seven":"7","a.b":"dotted","empty":""}`
	rows := []struct {
		name, group string
		want        bool
		unmet       []string
	}{
		{"a text", `"allOf":[{"claim":"type","equals":"sevsnpvm"}]`, true, nil},
		{"another text", `"allOf":[{"claim":"type","equals":"sgx"}]`, false, []string{"type"}},
		{"another case", `"allOf":[{"claim":"type","equals":"SEVSNPVM"}]`, false, []string{"type"}},
		{"another case of the name", `"allOf":[{"claim":"Type","equals":"sevsnpvm"}]`, false, []string{"Type"}},
		{"the empty text", `"allOf":[{"claim":"empty","equals":""}]`, true, nil},
		{"a boolean", `"allOf":[{"claim":"debug","equals":false}]`, true, nil},
		{"the other boolean", `"allOf":[{"claim":"debug","equals":true}]`, false, []string{"debug"}},
		{"a boolean spelled as text in the policy", `"allOf":[{"claim":"debug","equals":"false"}]`, true, nil},
		{"the other boolean spelled as text", `"allOf":[{"claim":"debug","equals":"true"}]`, false, []string{"debug"}},
		{"a boolean spelled as text in the token", `"allOf":[{"claim":"spelled","equals":false}]`, false, []string{"spelled"}},
		{"true", `"allOf":[{"claim":"secure","equals":true}]`, true, nil},
		{"an integer", `"allOf":[{"claim":"svn","equals":7}]`, true, nil},
		{"another integer", `"allOf":[{"claim":"svn","equals":8}]`, false, []string{"svn"}},
		{"an integer spelled as text in the policy", `"allOf":[{"claim":"svn","equals":"7"}]`, true, nil},
		{"an integer spelled as text in the token", `"allOf":[{"claim":"seven","equals":7}]`, false, []string{"seven"}},
		{"another spelling of an integer", `"allOf":[{"claim":"svn","equals":"07"}]`, false, []string{"svn"}},
		{"zero", `"allOf":[{"claim":"zero","equals":0}]`, true, nil},
		{"zero is not false", `"allOf":[{"claim":"zero","equals":false}]`, false, []string{"zero"}},
		{"false is not zero", `"allOf":[{"claim":"debug","equals":0}]`, false, []string{"debug"}},
		{"an integer below zero", `"allOf":[{"claim":"negative","equals":-3}]`, true, nil},
		{"a fraction in the token", `"allOf":[{"claim":"ratio","equals":"1.5"}]`, false, []string{"ratio"}},
		{"a number of more than 64 bits in the token", `"allOf":[{"claim":"huge","equals":"9223372036854775808"}]`, false, []string{"huge"}},
		{"the nearest number of 64 bits", `"allOf":[{"claim":"huge","equals":"9223372036854775807"}]`, false, []string{"huge"}},
		{"a missing claim", `"allOf":[{"claim":"absent","equals":""}]`, false, []string{"absent"}},
		{"null", `"allOf":[{"claim":"nothing","equals":"null"}]`, false, []string{"nothing"}},
		{"null is not nothing", `"allOf":[{"claim":"nothing","equals":""}]`, false, []string{"nothing"}},
		{"a list that holds the value", `"allOf":[{"claim":"list","equals":"sevsnpvm"}]`, false, []string{"list"}},
		{"an object", `"allOf":[{"claim":"object","equals":"inner"}]`, false, []string{"object"}},
		{"a claim in an object", `"allOf":[{"claim":"object.type","equals":"inner"}]`, true, nil},
		{"a claim deeper", `"allOf":[{"claim":"object.deep.er.x","equals":"y"}]`, true, nil},
		{"past the end", `"allOf":[{"claim":"type.x","equals":"sevsnpvm"}]`, false, []string{"type.x"}},
		{"into a list", `"allOf":[{"claim":"list.0","equals":"sevsnpvm"}]`, false, []string{"list.0"}},
		{"a name with a dot is not a path", `"allOf":[{"claim":"a.b","equals":"dotted"}]`, false, []string{"a.b"}},
		{"the older spelling", `"allOf":[{"claim":"type","condition":"equals","value":"sevsnpvm"}]`, true, nil},
		{"the older spelling of another value", `"allOf":[{"claim":"type","condition":"equals","value":"sgx"}]`, false, []string{"type"}},
		{"all of two", `"allOf":[{"claim":"type","equals":"sevsnpvm"},{"claim":"svn","equals":7}]`, true, nil},
		{"one of two missing", `"allOf":[{"claim":"type","equals":"sgx"},{"claim":"svn","equals":7}]`, false, []string{"type"}},
		{"both missing: both named", `"allOf":[{"claim":"type","equals":"sgx"},{"claim":"svn","equals":8}]`, false, []string{"type", "svn"}},
		{"named once", `"anyOf":[{"claim":"type","equals":"sgx"},{"claim":"type","equals":"tdx"}]`, false, []string{"type"}},
		{"any of two", `"anyOf":[{"claim":"type","equals":"sgx"},{"claim":"svn","equals":7}]`, true, nil},
		{"none of two", `"anyOf":[{"claim":"type","equals":"sgx"},{"claim":"svn","equals":8}]`, false, []string{"type", "svn"}},
		{"any inside all", `"allOf":[{"claim":"svn","equals":7},{"anyOf":[{"claim":"type","equals":"sgx"},{"claim":"type","equals":"sevsnpvm"}]}]`, true, nil},
		{"an alternative that holds is not named", `"allOf":[{"claim":"svn","equals":8},{"anyOf":[{"claim":"type","equals":"sgx"},{"claim":"secure","equals":true}]}]`, false, []string{"svn"}},
		{"all inside any", `"anyOf":[{"allOf":[{"claim":"type","equals":"sevsnpvm"},{"claim":"svn","equals":8}]},{"allOf":[{"claim":"type","equals":"sevsnpvm"},{"claim":"debug","equals":false}]}]`, true, nil},
		{"all inside any, neither", `"anyOf":[{"allOf":[{"claim":"type","equals":"sevsnpvm"},{"claim":"svn","equals":8}]},{"allOf":[{"claim":"type","equals":"sgx"}]}]`, false, []string{"svn", "type"}},
	}
	for _, row := range rows {
		p := parsed(t, policy(row.group))
		met, unmet := p.Judge(authority1, value(t, claims))
		if met != row.want || !slices.Equal(unmet, row.unmet) {
			t.Errorf("%s: got %t, unmet %q, want %t, %q", row.name, met, unmet, row.want, row.unmet)
		}
	}
	if met, unmet := parsed(t, policy(`"allOf":[{"claim":"type","equals":"x"}]`)).Judge(authority1, strictjson.Value{}); met || len(unmet) != 1 {
		t.Errorf("no claims at all: %t, %q", met, unmet)
	}
}

// The conditions that count are those of the token's authority, and of no other.
func TestJudgeAuthorities(t *testing.T) {
	two := parsed(t, fmt.Sprintf(`{"anyOf":[
		{"authority":%q,"allOf":[{"claim":"a","equals":1}]},
		{"authority":%q,"allOf":[{"claim":"b","equals":1}]},
		{"authority":%q,"allOf":[{"claim":"c","equals":1}]}]}`, authority1, authority2+"/", authority1))
	for _, row := range []struct {
		authority, claims string
		want              bool
		unmet             []string
	}{
		{authority1, `{"a":1}`, true, nil},
		{authority1, `{"c":1}`, true, nil},
		{authority1, `{"b":1}`, false, []string{"a", "c"}},
		{authority2, `{"b":1}`, true, nil},
		{authority2, `{"a":1,"c":1}`, false, []string{"b"}},
		// One slash at the end makes no difference, on either side.
		{authority2 + "/", `{"b":1}`, true, nil},
		{authority1 + "/", `{"a":1}`, true, nil},
		// Everything else does.
		{authority1 + "//", `{"a":1}`, false, nil},
		{authority1 + "/x", `{"a":1}`, false, nil},
		{strings.ToUpper(authority1), `{"a":1}`, false, nil},
		{"http://attest.example.org", `{"a":1}`, false, nil},
		{"", `{"a":1}`, false, nil},
	} {
		met, unmet := two.Judge(row.authority, value(t, row.claims))
		if met != row.want || !slices.Equal(unmet, row.unmet) {
			t.Errorf("%s with %s: got %t, %q, want %t, %q", row.authority, row.claims, met, unmet, row.want, row.unmet)
		}
		if two.Names(row.authority) != (row.want || row.unmet != nil) {
			t.Errorf("%s: Names says %t", row.authority, !row.want)
		}
	}
}

// What is named in a refusal is bounded, however many conditions a policy has.
func TestUnmetIsBounded(t *testing.T) {
	var list []string
	for i := range 100 {
		list = append(list, fmt.Sprintf(`{"claim":"c%d","equals":1}`, i))
	}
	if _, unmet := parsed(t, policy(`"allOf":[`+strings.Join(list, ",")+`]`)).Judge(authority1, value(t, `{}`)); len(unmet) != maxUnmet {
		t.Errorf("%d claims are named, want %d", len(unmet), maxUnmet)
	}
}

// nested is a group inside so many others.
func nested(groups int) string {
	return strings.Repeat(`"allOf":[{`, groups) + `"claim":"a","equals":1` + strings.Repeat(`}]`, groups)
}

func TestParseRefuses(t *testing.T) {
	condition := `{"claim":"a","equals":1}`
	many := func(n int) string { return strings.TrimSuffix(strings.Repeat(condition+",", n), ",") }
	for name, row := range map[string]struct{ text, word string }{
		"nothing":                       {``, "well-formed"},
		"no JSON":                       {`release`, "well-formed"},
		"JSON with something behind":    {policy(`"allOf":[`+condition+`]`) + "x", "well-formed"},
		"a list":                        {`[]`, "object"},
		"null":                          {`null`, "object"},
		"an empty object":               {`{}`, "anyOf"},
		"a name twice":                  {`{"version":"1.0.0","version":"1.0.0","anyOf":[]}`, "twice"},
		"a name twice but for case":     {`{"anyOf":[],"anyof":[]}`, "twice"},
		"another version":               {`{"version":"2.0.0","anyOf":[{"authority":"x","allOf":[` + condition + `]}]}`, "version"},
		"a version that is a number":    {`{"version":1,"anyOf":[{"authority":"x","allOf":[` + condition + `]}]}`, "version"},
		"version null":                  {`{"version":null,"anyOf":[{"authority":"x","allOf":[` + condition + `]}]}`, "version"},
		"allOf of authorities":          {`{"version":"1.0.0","allOf":[{"authority":"x","allOf":[` + condition + `]}]}`, "allOf"},
		"a further member":              {`{"anyOf":[{"authority":"x","allOf":[` + condition + `]}],"expires":1}`, "expires"},
		"no authorities":                {`{"anyOf":[]}`, "1 to 64"},
		"65 authorities":                {`{"anyOf":[` + strings.TrimSuffix(strings.Repeat(`{"authority":"x","anyOf":[`+condition+`]},`, 65), ",") + `]}`, "1 to 64"},
		"authorities as an object":      {`{"anyOf":{"authority":"x"}}`, "list"},
		"an authority that is a text":   {`{"anyOf":["x"]}`, "authority 1 of anyOf is not an object"},
		"an authority without URL":      {`{"anyOf":[{"allOf":[` + condition + `]}]}`, "needs a member authority"},
		"an empty URL":                  {`{"anyOf":[{"authority":"","allOf":[` + condition + `]}]}`, "needs a member authority"},
		"a URL of 257 bytes":            {`{"anyOf":[{"authority":"` + strings.Repeat("x", 257) + `","allOf":[` + condition + `]}]}`, "needs a member authority"},
		"a URL with a line break":       {`{"anyOf":[{"authority":"x\ny","allOf":[` + condition + `]}]}`, "needs a member authority"},
		"the second authority":          {`{"anyOf":[{"authority":"x","allOf":[` + condition + `]},{"authority":"y"}]}`, "authority 2"},
		"an authority without group":    {`{"anyOf":[{"authority":"x"}]}`, "either allOf or anyOf"},
		"both groups":                   {policy(`"allOf":[` + condition + `],"anyOf":[` + condition + `]`), "either allOf or anyOf"},
		"an empty group":                {policy(`"allOf":[]`), "at least one"},
		"an empty alternative":          {policy(`"anyOf":[]`), "at least one"},
		"an empty inner group":          {policy(`"allOf":[{"anyOf":[]}]`), "at least one"},
		"a group that is an object":     {policy(`"allOf":{}`), "not a list"},
		"a group that is null":          {policy(`"allOf":null`), "not a list"},
		"a misspelled group beside":     {policy(`"allOf":[` + condition + `],"allof2":[]`), "allof2"},
		"a condition that is a text":    {policy(`"allOf":["a"]`), "not an object"},
		"an empty condition":            {policy(`"allOf":[{}]`), "either allOf or anyOf"},
		"a condition with authority":    {policy(`"allOf":[{"authority":"x","allOf":[` + condition + `]}]`), `"authority"`},
		"a claim without comparison":    {policy(`"allOf":[{"claim":"a"}]`), "claim a"},
		"a claim and a group":           {policy(`"allOf":[{"claim":"a","equals":1,"allOf":[` + condition + `]}]`), "claim a"},
		"another comparison":            {policy(`"allOf":[{"claim":"a","notEquals":1}]`), "claim a"},
		"two comparisons":               {policy(`"allOf":[{"claim":"a","equals":1,"less":2}]`), "claim a"},
		"equals and value":              {policy(`"allOf":[{"claim":"a","equals":1,"value":1}]`), "claim a"},
		"another condition":             {policy(`"allOf":[{"claim":"a","condition":"notEquals","value":1}]`), "claim a"},
		"a condition without value":     {policy(`"allOf":[{"claim":"a","condition":"equals","equals":1}]`), "claim a"},
		"a value without condition":     {policy(`"allOf":[{"claim":"a","value":1}]`), "claim a"},
		"exists":                        {policy(`"allOf":[{"claim":"a","exists":true}]`), "claim a"},
		"a list as value":               {policy(`"allOf":[{"claim":"a","equals":["x"]}]`), "an array"},
		"an object as value":            {policy(`"allOf":[{"claim":"a","equals":{}}]`), "an object"},
		"null as value":                 {policy(`"allOf":[{"claim":"a","equals":null}]`), "null"},
		"a fraction as value":           {policy(`"allOf":[{"claim":"a","equals":1.5}]`), "integer"},
		"an exponent as value":          {policy(`"allOf":[{"claim":"a","equals":1e3}]`), "integer"},
		"a number of more than 64 bits": {policy(`"allOf":[{"claim":"a","equals":9223372036854775808}]`), "integer"},
		"a text of 4097 bytes":          {policy(`"allOf":[{"claim":"a","equals":"` + strings.Repeat("x", 4097) + `"}]`), "4096"},
		"a claim that is a number":      {policy(`"allOf":[{"claim":1,"equals":1}]`), "names joined by dots"},
		"an empty claim":                {policy(`"allOf":[{"claim":"","equals":1}]`), "names joined by dots"},
		"a claim of 257 bytes":          {policy(`"allOf":[{"claim":"` + strings.Repeat("x", 257) + `","equals":1}]`), "names joined by dots"},
		"a dot before":                  {policy(`"allOf":[{"claim":".a","equals":1}]`), "names joined by dots"},
		"a dot behind":                  {policy(`"allOf":[{"claim":"a.","equals":1}]`), "names joined by dots"},
		"two dots":                      {policy(`"allOf":[{"claim":"a..b","equals":1}]`), "names joined by dots"},
		"nine names":                    {policy(`"allOf":[{"claim":"a.b.c.d.e.f.g.h.i","equals":1}]`), "names joined by dots"},
		"a control character":           {policy(`"allOf":[{"claim":"a\u0000","equals":1}]`), "names joined by dots"},
		"nine groups deep":              {policy(nested(9)), "deep"},
		"two hundred groups deep":       {policy(nested(200)), "deep"},
		"257 conditions":                {policy(`"allOf":[` + many(128) + `,{"anyOf":[` + many(128) + `]}]`), "more than 256"},
		"more than 10 KiB":              {policy(`"allOf":[` + condition + strings.Repeat(" ", MaxPolicy) + `]`), "more than 10240 bytes"},
	} {
		p, err := Parse([]byte(row.text))
		if !errors.Is(err, ErrPolicy) || p != nil {
			t.Errorf("%s: got %v, want %v", name, err, ErrPolicy)
		} else if !strings.Contains(err.Error(), row.word) || len(err.Error()) > 300 {
			t.Errorf("%s: the text %q should name %q and be short", name, err, row.word)
		}
	}
}

// At each bound, on the inside.
func TestParseAcceptsTheBounds(t *testing.T) {
	condition := `{"claim":"a","equals":1}`
	for name, text := range map[string]string{
		"256 conditions":        policy(`"allOf":[` + strings.TrimSuffix(strings.Repeat(condition+",", 256), ",") + `]`),
		"eight groups deep":     policy(nested(8)),
		"eight names":           policy(`"allOf":[{"claim":"a.b.c.d.e.f.g.h","equals":1}]`),
		"a claim of 256 bytes":  policy(`"allOf":[{"claim":"` + strings.Repeat("x", 256) + `","equals":1}]`),
		"a text of 4096 bytes":  policy(`"allOf":[{"claim":"a","equals":"` + strings.Repeat("x", 4096) + `"}]`),
		"the largest integer":   policy(`"allOf":[{"claim":"a","equals":9223372036854775807}]`),
		"10 KiB":                strings.Replace(policy(`"allOf":[`+condition+`]`), "[", "["+strings.Repeat(" ", MaxPolicy-len(policy(`"allOf":[`+condition+`]`))), 1),
		"64 authorities":        `{"anyOf":[` + strings.TrimSuffix(strings.Repeat(`{"authority":"x","anyOf":[`+condition+`]},`, 64), ",") + `]}`,
		"a shorter version":     `{"version":"1.0","anyOf":[{"authority":"x","allOf":[` + condition + `]}]}`,
		"a version in front":    `{"version":"1.0.0","anyOf":[{"authority":"x","allOf":[` + condition + `]}]}`,
		"a version behind":      `{"anyOf":[{"allOf":[` + condition + `],"authority":"x"}],"version":"1.0.0"}`,
		"white space":           " \r\n\t" + policy(`"allOf":[`+condition+`]`) + "\n",
		"names in another case": policy(`"allOf":[{"claim":"A","equals":1},{"claim":"a","equals":2}]`),
	} {
		if _, err := Parse([]byte(text)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The policy of the published example of the release operation, in its older spelling.
func TestPublishedExample(t *testing.T) {
	data, err := os.ReadFile("testdata/example-policy.json")
	if err != nil {
		t.Fatal(err)
	}
	p := parsed(t, string(data))
	for claims, want := range map[string]bool{
		`{"x-ms-sgx-mrsigner":"86788fe40448f2a12e20bf8d5e7a1c3139bc5fdc1432b370c1da3489ab649a85","x-ms-sgx-is-debuggable":false}`:   true,
		`{"x-ms-sgx-mrsigner":"86788fe40448f2a12e20bf8d5e7a1c3139bc5fdc1432b370c1da3489ab649a85","x-ms-sgx-is-debuggable":"false"}`: true,
		`{"x-ms-sgx-mrsigner":"86788fe40448f2a12e20bf8d5e7a1c3139bc5fdc1432b370c1da3489ab649a85","x-ms-sgx-is-debuggable":true}`:    false,
		`{"x-ms-sgx-mrsigner":"86788fe40448f2a12e20bf8d5e7a1c3139bc5fdc1432b370c1da3489ab649a85"}`:                                  false,
		`{"x-ms-sgx-mrsigner":"00","x-ms-sgx-is-debuggable":false}`:                                                                 false,
	} {
		if met, unmet := p.Judge("http://localhost:8023/", value(t, claims)); met != want {
			t.Errorf("%s: got %t, unmet %q", claims, met, unmet)
		}
	}
}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

func TestRecipient(t *testing.T) {
	n := new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 2048), big.NewInt(1))
	good := `"kty":"RSA","n":"` + b64(n.Bytes()) + `","e":"AQAB"`
	for name, row := range map[string]struct{ keys, id string }{
		"use":                    {`[{` + good + `,"use":"enc","kid":"1"}]`, "1"},
		"key_use":                {`[{` + good + `,"key_use":"enc","kid":"1"}]`, "1"},
		"key_ops":                {`[{` + good + `,"key_ops":["encrypt"],"kid":"1"}]`, "1"},
		"key_ops among others":   {`[{` + good + `,"key_ops":["wrapKey","encrypt"],"kid":"1"}]`, "1"},
		"RSA-HSM":                {`[{` + strings.Replace(good, `"RSA"`, `"RSA-HSM"`, 1) + `,"use":"enc","kid":"1"}]`, "1"},
		"the first of two":       {`[{` + good + `,"use":"enc","kid":"1"},{` + good + `,"use":"enc","kid":"2"}]`, "1"},
		"behind a signature key": {`[{` + good + `,"use":"sig","kid":"1"},{` + good + `,"key_ops":["sign"],"kid":"2"},{` + good + `,"use":"enc","kid":"3"}]`, "3"},
		"behind rubbish":         {`[1,"x",null,{},{"use":1,"key_ops":{}},{` + good + `,"use":"enc","kid":"6"}]`, "6"},
		"without kid":            {`[{` + good + `,"use":"enc"}]`, ""},
		"a kid that is a number": {`[{` + good + `,"use":"enc","kid":1}]`, ""},
		"a leading zero":         {`[{"kty":"RSA","n":"` + b64(append([]byte{0}, n.Bytes()...)) + `","e":"AAEAAQ","use":"enc","kid":"1"}]`, "1"},
	} {
		k, err := Recipient(value(t, `{"x-ms-runtime":{"keys":`+row.keys+`}}`))
		if err != nil || k.ID != row.id || k.E != 65537 || k.N.Cmp(n) != 0 {
			t.Errorf("%s: got kid %q, e %d, %v", name, k.ID, k.E, err)
		}
	}
	for name, row := range map[string]struct{ claims, word string }{
		"no claims":                 {`{}`, "no list of keys"},
		"a text":                    {`{"x-ms-runtime":"keys"}`, "no list of keys"},
		"no keys":                   {`{"x-ms-runtime":{}}`, "no list of keys"},
		"keys at the top":           {`{"keys":[{` + good + `,"use":"enc"}]}`, "no list of keys"},
		"an object":                 {`{"x-ms-runtime":{"keys":{}}}`, "no list of keys"},
		"an empty list":             {`{"x-ms-runtime":{"keys":[]}}`, "is for encryption"},
		"65 keys":                   {`{"x-ms-runtime":{"keys":[` + strings.Repeat(`{},`, 64) + `{` + good + `,"use":"enc"}]}}`, "too many"},
		"none for encryption":       {`{"x-ms-runtime":{"keys":[{` + good + `,"use":"sig"},{` + good + `},{` + good + `,"key_ops":["decrypt"]}]}}`, "is for encryption"},
		"key_ops as a text":         {`{"x-ms-runtime":{"keys":[{` + good + `,"key_ops":"encrypt"}]}}`, "is for encryption"},
		"an EC key":                 {`{"x-ms-runtime":{"keys":[{"kty":"EC","crv":"P-256","x":"AA","y":"AA","use":"enc"}]}}`, "not an RSA key"},
		"an EC key before a good":   {`{"x-ms-runtime":{"keys":[{"kty":"EC","use":"enc"},{` + good + `,"use":"enc"}]}}`, "not an RSA key"},
		"another case of kty":       {`{"x-ms-runtime":{"keys":[{` + strings.Replace(good, `"RSA"`, `"rsa"`, 1) + `,"use":"enc"}]}}`, "not an RSA key"},
		"no n":                      {`{"x-ms-runtime":{"keys":[{"kty":"RSA","e":"AQAB","use":"enc"}]}}`, "n and e"},
		"no e":                      {`{"x-ms-runtime":{"keys":[{"kty":"RSA","n":"AQAB","use":"enc"}]}}`, "n and e"},
		"an empty n":                {`{"x-ms-runtime":{"keys":[{"kty":"RSA","n":"","e":"AQAB","use":"enc"}]}}`, "n and e"},
		"n with padding":            {`{"x-ms-runtime":{"keys":[{"kty":"RSA","n":"AQ==","e":"AQAB","use":"enc"}]}}`, "n and e"},
		"n in base64":               {`{"x-ms-runtime":{"keys":[{"kty":"RSA","n":"+/+/","e":"AQAB","use":"enc"}]}}`, "n and e"},
		"n with a line break":       {`{"x-ms-runtime":{"keys":[{"kty":"RSA","n":"AQAB\nAQAB","e":"AQAB","use":"enc"}]}}`, "n and e"},
		"n with stray bits":         {`{"x-ms-runtime":{"keys":[{"kty":"RSA","n":"AQF","e":"AQAB","use":"enc"}]}}`, "n and e"},
		"n of 514 bytes":            {`{"x-ms-runtime":{"keys":[{"kty":"RSA","n":"` + b64(make([]byte, 514)) + `","e":"AQAB","use":"enc"}]}}`, "n and e"},
		"e of five bytes":           {`{"x-ms-runtime":{"keys":[{"kty":"RSA","n":"AQAB","e":"AQAAAAE","use":"enc"}]}}`, "n and e"},
		"n that is a number":        {`{"x-ms-runtime":{"keys":[{"kty":"RSA","n":1,"e":"AQAB","use":"enc"}]}}`, "n and e"},
		"another case of the claim": {`{"X-MS-Runtime":{"keys":[{` + good + `,"use":"enc"}]}}`, "no list of keys"},
	} {
		if k, err := Recipient(value(t, row.claims)); err == nil || k.N != nil || !strings.Contains(err.Error(), row.word) {
			t.Errorf("%s: got %v, want a text with %q", name, err, row.word)
		}
	}
}

var claimLimits = strictjson.Limits{Bytes: 32 << 10, Depth: 12, Elements: 256, Values: 2048, StringBytes: 32 << 10}

// FuzzPolicy feeds policies and claims from outside. A policy that is read judges any claims in bounded work, and the
// answer for a foreign authority is always no. Covers A5, R4.
func FuzzPolicy(f *testing.F) {
	data, err := os.ReadFile("testdata/example-policy.json")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data, []byte(`{"x-ms-sgx-is-debuggable":false}`))
	f.Add([]byte(policy(`"allOf":[{"claim":"a.b","equals":1},{"anyOf":[{"claim":"c","equals":"x"},{"claim":"d","equals":true}]}]`)), []byte(`{"a":{"b":1},"c":"x"}`))
	f.Add([]byte(policy(nested(8))), []byte(`{"a":1}`))
	f.Fuzz(func(t *testing.T, text, claims []byte) {
		p, err := Parse(text)
		if err != nil {
			if !errors.Is(err, ErrPolicy) {
				t.Errorf("refused with %v", err)
			}
			return
		}
		token, err := strictjson.Parse(claims, claimLimits)
		if err != nil {
			return
		}
		for _, a := range p.authorities {
			met, unmet := p.Judge(a.url, token)
			if met == (len(unmet) > 0) || len(unmet) > maxUnmet || !p.Names(a.url) {
				t.Errorf("judged %t with %d claims unmet", met, len(unmet))
			}
			// Claims that are not there at all never fulfil anything.
			if met, _ := p.Judge(a.url, strictjson.Value{}); met {
				t.Error("no claims fulfil the policy")
			}
		}
		if met, unmet := p.Judge("\x00", token); met || unmet != nil {
			t.Error("a foreign authority fulfils the policy")
		}
	})
}

// FuzzRecipient feeds the claims of tokens. What is found is a number of bounded size. Covers A5, R4.
func FuzzRecipient(f *testing.F) {
	f.Add([]byte(`{"x-ms-runtime":{"keys":[{"kty":"RSA","n":"AQAB","e":"AQAB","use":"enc"}]}}`))
	f.Add([]byte(`{"x-ms-runtime":{"keys":[{"kty":"RSA","n":"AQAB","e":"AQAB","key_ops":["encrypt"],"kid":"x"}]}}`))
	f.Fuzz(func(t *testing.T, claims []byte) {
		token, err := strictjson.Parse(claims, claimLimits)
		if err != nil {
			return
		}
		if k, err := Recipient(token); err == nil && (k.N == nil || k.N.BitLen() > 8*maxModulus || k.E < 0 || len(k.ID) > maxName) {
			t.Errorf("found %+v", k)
		}
	})
}

// The example of RFC 7638 section 3.1.
func TestThumbprint(t *testing.T) {
	const n = "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw"
	k, err := Recipient(value(t, `{"x-ms-runtime":{"keys":[{"kty":"RSA","use":"enc","kid":"2011-04-29","e":"AQAB","n":"`+n+`"}]}}`))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := k.Thumbprint(), "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
