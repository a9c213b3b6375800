package access

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"
	"github.com/google/go-cmp/cmp"

	"strongroom/internal/failure"
)

const (
	issuerA  = "https://a.example/tenant"
	issuerB  = "https://b.example/tenant"
	resource = "https://0.0.1:9443"
)

var noon = time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)

func clock() time.Time { return noon }

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// sign makes a compact JWT over payload, with extra header members.
func sign(t testing.TB, alg jose.SignatureAlgorithm, key any, header map[jose.HeaderKey]any, payload []byte) string {
	t.Helper()
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: key}, &jose.SignerOptions{ExtraHeaders: header})
	if err != nil {
		t.Fatal(err)
	}
	signed, err := s.Sign(payload)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := signed.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// claims are good claims of issuer A with changes; a nil value removes a claim.
func claims(changes map[string]any) []byte {
	all := map[string]any{
		"iss": issuerA, "aud": resource, "exp": noon.Add(time.Hour).Unix(), "nbf": noon.Unix(), "iat": noon.Unix(),
		"oid": "11111111-1111-4111-8111-111111111111", "sub": "subject", "appid": "22222222-2222-4222-8222-222222222222", "tid": "tenant", "name": "ci",
	}
	maps.Copy(all, changes)
	maps.DeleteFunc(all, func(_ string, v any) bool { return v == nil })
	out, _ := json.Marshal(all)
	return out
}

func newVerifier(t testing.TB, keyA, keyB *ecdsa.PrivateKey) *Verifier {
	t.Helper()
	v, err := NewVerifier([]Issuer{
		{URL: issuerA, Keys: &oidc.StaticKeySet{PublicKeys: []crypto.PublicKey{keyA.Public()}}, Algorithms: []string{"ES256"}, Groups: true},
		{URL: issuerB, Keys: &oidc.StaticKeySet{PublicKeys: []crypto.PublicKey{keyB.Public()}}, Algorithms: []string{"ES256"}, Prefix: "b"},
	}, clock)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestVerifyReadsTheCaller(t *testing.T) {
	keyA := newKey(t)
	v := newVerifier(t, keyA, newKey(t))
	base := Caller{ObjectID: "11111111-1111-4111-8111-111111111111", AppID: "22222222-2222-4222-8222-222222222222", Tenant: "tenant", Issuer: issuerA, Name: "ci"}
	with := func(f func(*Caller)) Caller { c := base; f(&c); return c }
	cases := map[string]struct {
		changes map[string]any
		want    Caller
	}{
		"an application":              {nil, base},
		"no oid: the subject":         {map[string]any{"oid": nil}, with(func(c *Caller) { c.ObjectID = "subject" })},
		"version 2: azp":              {map[string]any{"appid": nil, "azp": "app"}, with(func(c *Caller) { c.AppID = "app" })},
		"groups":                      {map[string]any{"groups": []string{"g1", "g2"}}, with(func(c *Caller) { c.Groups = []string{"g1", "g2"} })},
		"several audiences":           {map[string]any{"aud": []string{"https://other", resource}}, base},
		"audience with a slash":       {map[string]any{"aud": resource + "/"}, base},
		"audience in other case":      {map[string]any{"aud": "HTTPS://0.0.1:9443"}, base},
		"expired within the skew":     {map[string]any{"exp": noon.Add(-59 * time.Second).Unix()}, base},
		"not yet valid by the skew":   {map[string]any{"nbf": noon.Add(59 * time.Second).Unix()}, base},
		"no nbf: iat":                 {map[string]any{"nbf": nil}, base},
		"iat ahead by the skew":       {map[string]any{"nbf": nil, "iat": noon.Add(59 * time.Second).Unix()}, base},
		"iat ahead, nbf not":          {map[string]any{"iat": noon.Add(time.Hour).Unix()}, base},
		"times with a fraction":       {map[string]any{"nbf": float64(noon.Unix()) + 0.5}, base},
		"no name, which decides none": {map[string]any{"name": nil}, with(func(c *Caller) { c.Name = "" })},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			got, err := v.Verify(t.Context(), sign(t, jose.ES256, keyA, nil, claims(c.changes)), []string{"https://unrelated", resource})
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(c.want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

// The claims of issuers that are in use, as each of them writes them.
func TestTokensOfKnownIssuers(t *testing.T) {
	const guid, app, tenant = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222", "33333333-3333-4333-8333-333333333333"
	times := fmt.Sprintf(`"iat":%d,"exp":%d`, noon.Unix(), noon.Add(time.Hour).Unix())
	for name, c := range map[string]struct {
		issuer, payload string
		want            Caller
	}{
		"Entra ID, version 1": {
			"https://sts.windows.net/" + tenant + "/",
			`{"aud":"https://managedhsm.azure.net","iss":"https://sts.windows.net/` + tenant + `/",` + times + fmt.Sprintf(`,"nbf":%d,`, noon.Unix()) +
				`"aio":"x","appid":"` + app + `","appidacr":"1","groups":["` + guid + `"],"idp":"https://sts.windows.net/` + tenant + `/","oid":"` + guid + `","rh":"x","sub":"pairwise","tid":"` + tenant + `","uti":"x","ver":"1.0"}`,
			Caller{ObjectID: guid, AppID: app, Tenant: tenant, Groups: []string{guid}},
		},
		"Entra ID, version 2": {
			"https://login.microsoftonline.com/" + tenant + "/v2.0",
			`{"aud":"https://managedhsm.azure.net","iss":"https://login.microsoftonline.com/` + tenant + `/v2.0",` + times + fmt.Sprintf(`,"nbf":%d,`, noon.Unix()) +
				`"azp":"` + app + `","azpacr":"0","name":"Ada","oid":"` + guid + `","preferred_username":"ada@example.org","scp":"user_impersonation","sub":"pairwise","tid":"` + tenant + `","ver":"2.0"}`,
			Caller{ObjectID: guid, AppID: app, Tenant: tenant, Name: "Ada"},
		},
		"Keycloak": {
			"https://login.example.org/realms/ops",
			`{` + times + `,"jti":"x","iss":"https://login.example.org/realms/ops","aud":["https://managedhsm.azure.net","account"],"sub":"` + guid + `","typ":"Bearer","azp":"hsm-cli","acr":"1",` +
				`"realm_access":{"roles":["offline_access"]},"resource_access":{"account":{"roles":["view-profile"]}},"scope":"profile","clientHost":"192.0.2.1","preferred_username":"service-account-hsm-cli"}`,
			Caller{ObjectID: guid, AppID: "hsm-cli"},
		},
		"Dex": {
			"https://dex.example.org",
			`{"iss":"https://dex.example.org","sub":"CgR1c2VyEgRsZGFw","aud":"https://managedhsm.azure.net",` + times + `,"at_hash":"x","email":"ada@example.org","email_verified":true,"groups":["admins"],"name":"Ada"}`,
			Caller{ObjectID: "CgR1c2VyEgRsZGFw", Name: "Ada", Groups: []string{"admins"}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			key := newKey(t)
			v, err := NewVerifier([]Issuer{{URL: c.issuer, Keys: &oidc.StaticKeySet{PublicKeys: []crypto.PublicKey{key.Public()}}, Algorithms: []string{"ES256"}, Groups: true}}, clock)
			if err != nil {
				t.Fatal(err)
			}
			c.want.Issuer = c.issuer
			got, err := v.Verify(t.Context(), sign(t, jose.ES256, key, nil, []byte(c.payload)), []string{"https://managedhsm.azure.net"})
			if err != nil || !cmp.Equal(got, c.want) {
				t.Errorf("got %+v, %v; want %+v", got, err, c.want)
			}
		})
	}
}

// Covers A4.
func TestVerifyRefusesClaims(t *testing.T) {
	keyA := newKey(t)
	v := newVerifier(t, keyA, newKey(t))
	many := make([]string, maxGroups+1)
	for i := range many {
		many[i] = "g"
	}
	cases := map[string]struct {
		payload []byte
		says    string
	}{
		"signed, and too large":      {claims(map[string]any{"padding": strings.Repeat("x", MaxToken*3/4)}), "larger than"},
		"no iss":                     {claims(map[string]any{"iss": nil}), "no iss"},
		"issuer that is not known":   {claims(map[string]any{"iss": "https://c.example"}), "does not know"},
		"issuer with a slash":        {claims(map[string]any{"iss": issuerA + "/"}), "does not know"},
		"no aud":                     {claims(map[string]any{"aud": nil}), "no aud"},
		"empty aud":                  {claims(map[string]any{"aud": []string{}}), "another resource"},
		"aud of another HSM":         {claims(map[string]any{"aud": "https://0.0.1:9444"}), "another resource"},
		"aud a longer path":          {claims(map[string]any{"aud": resource + "/x"}), "another resource"},
		"aud with two slashes":       {claims(map[string]any{"aud": resource + "//"}), "another resource"},
		"aud over http":              {claims(map[string]any{"aud": "http://0.0.1:9443"}), "another resource"},
		"aud a number":               {claims(map[string]any{"aud": 7}), ""},
		"no exp":                     {claims(map[string]any{"exp": nil}), ""},
		"exp null":                   {[]byte(strings.Replace(string(claims(nil)), `"exp":`, `"exp":null,"x":`, 1)), ""},
		"exp as text":                {claims(map[string]any{"exp": "tomorrow"}), ""},
		"exp out of reach":           {claims(map[string]any{"exp": 1e300}), ""},
		"expired":                    {claims(map[string]any{"exp": noon.Add(-61 * time.Second).Unix()}), "expired"},
		"neither nbf nor iat":        {claims(map[string]any{"nbf": nil, "iat": nil}), "no iat"},
		"nbf as text beside iat":     {claims(map[string]any{"nbf": "now"}), ""},
		"no nbf, iat ahead":          {claims(map[string]any{"nbf": nil, "iat": noon.Add(62 * time.Second).Unix()}), "not valid yet"},
		"nbf beyond the skew":        {claims(map[string]any{"nbf": noon.Add(62 * time.Second).Unix()}), "not valid yet"},
		"no principal":               {claims(map[string]any{"oid": nil, "sub": nil}), "no principal"},
		"oid empty, sub given":       {claims(map[string]any{"oid": ""}), "oid"},
		"oid a number":               {claims(map[string]any{"oid": 5}), "oid"},
		"oid with a line break":      {claims(map[string]any{"oid": "a\nb"}), "control characters"},
		"too many groups":            {claims(map[string]any{"groups": many}), "more than"},
		"groups are objects":         {claims(map[string]any{"groups": []any{map[string]any{}}}), "groups"},
		"claims twice":               {[]byte(strings.Replace(string(claims(nil)), `{`, `{"oid":"admin",`, 1)), "unique names"},
		"claims twice in two cases":  {[]byte(strings.Replace(string(claims(nil)), `{`, `{"ISS":"https://b.example/tenant",`, 1)), "unique names"},
		"claims are a list":          {[]byte(`[]`), "objects"},
		"claims are null":            {[]byte(`null`), "objects"},
		"something after the claims": {append(claims(nil), []byte(`{}`)...), "unique names"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			caller, err := v.Verify(t.Context(), sign(t, jose.ES256, keyA, nil, c.payload), []string{resource})
			mustRefuse(t, caller, err)
			if !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %q, want a message with %q", err, c.says)
			}
		})
	}
}

func mustRefuse(t *testing.T, caller Caller, err error) {
	t.Helper()
	if !errors.Is(err, failure.Unauthorized) {
		t.Fatalf("got error %v, want Unauthorized", err)
	}
	if d := cmp.Diff(Caller{}, caller); d != "" {
		t.Fatalf("a refused token gave a caller: %s", d)
	}
}

// Covers A4: keys and algorithms come from the configuration and from nowhere else.
func TestVerifyRefusesHeadersAndKeys(t *testing.T) {
	keyA, keyB, attacker := newKey(t), newKey(t), newKey(t)
	v := newVerifier(t, keyA, keyB)
	spki, err := x509.MarshalPKIXPublicKey(keyA.Public())
	if err != nil {
		t.Fatal(err)
	}
	publicPEM := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki})
	b64 := base64.RawURLEncoding.EncodeToString
	unsigned := func(header string) string { return b64([]byte(header)) + "." + b64(claims(nil)) + "." }
	good := sign(t, jose.ES256, keyA, nil, claims(nil))
	extra := func(name string, value any) string {
		return sign(t, jose.ES256, keyA, map[jose.HeaderKey]any{jose.HeaderKey(name): value}, claims(nil))
	}
	cases := map[string]string{
		"key of nobody":                       sign(t, jose.ES256, attacker, nil, claims(nil)),
		"issuer A's key for issuer B":         sign(t, jose.ES256, keyA, nil, claims(map[string]any{"iss": issuerB})),
		"alg none":                            unsigned(`{"alg":"none"}`),
		"alg None":                            unsigned(`{"alg":"None"}`),
		"no alg":                              unsigned(`{}`),
		"alg a list":                          unsigned(`{"alg":["ES256"]}`),
		"alg twice":                           unsigned(`{"alg":"none","alg":"ES256"}`),
		"HS256 with the public key as secret": sign(t, jose.HS256, spki, nil, claims(nil)),
		"HS256 with the PEM as secret":        sign(t, jose.HS256, publicPEM, nil, claims(nil)),
		"jwk of the attacker":                 sign(t, jose.ES256, attacker, map[jose.HeaderKey]any{"jwk": jose.JSONWebKey{Key: attacker.Public()}}, claims(nil)),
		"jwk, well signed":                    extra("jwk", jose.JSONWebKey{Key: keyA.Public()}),
		"jku, well signed":                    extra("jku", "https://evil.example/keys"),
		"x5u, well signed":                    extra("x5u", "https://evil.example/cert"),
		"x5c, well signed":                    extra("x5c", []string{b64(spki)}),
		"crit, well signed":                   extra("crit", []string{"exp"}),
		"zip, well signed":                    extra("zip", "DEF"),
		"a logout token":                      extra("typ", "logout+jwt"),
		"signature cut":                       good[:len(good)-2],
		"signature missing":                   good[:strings.LastIndexByte(good, '.')+1],
		"signature of other claims":           strings.Join(append(strings.Split(good, ".")[:1], b64(claims(map[string]any{"oid": "admin"})), strings.Split(good, ".")[2]), "."),
		"padding":                             good + "=",
		"line break inside":                   strings.Replace(good, ".", "\n.", 1),
		"space around":                        " " + good,
		"four segments":                       good + ".",
		"two segments":                        good[:strings.LastIndexByte(good, '.')],
		"empty":                               "",
		"only dots":                           "..",
		"JSON serialisation":                  `{"payload":"","signatures":[]}`,
	}
	for name, raw := range cases {
		t.Run(name, func(t *testing.T) {
			caller, err := v.Verify(t.Context(), raw, []string{resource})
			mustRefuse(t, caller, err)
		})
	}
	if _, err := v.Verify(t.Context(), good, []string{resource}); err != nil {
		t.Fatalf("the token that the cases are made from is refused itself: %v", err)
	}
	if caller, err := v.Verify(t.Context(), good, nil); err == nil {
		t.Fatalf("without an audience to compare, %v got in", caller)
	}
}

// countingKeys sees whether a token gets as far as a signature check.
type countingKeys struct{ calls int }

func (c *countingKeys) VerifySignature(context.Context, string) ([]byte, error) {
	c.calls++
	return nil, errors.New("no")
}

// Covers A5: what is too large is refused before it is decoded, so it costs next to no memory.
func TestVerifyBoundsBeforeParsing(t *testing.T) {
	keys := &countingKeys{}
	v, err := NewVerifier([]Issuer{{URL: issuerA, Keys: keys, Algorithms: []string{"ES256"}}}, clock)
	if err != nil {
		t.Fatal(err)
	}
	nested := base64.RawURLEncoding.EncodeToString([]byte(strings.Repeat("[", 8000)))
	for name, raw := range map[string]string{
		"a megabyte of dots":     strings.Repeat(".", 1<<20),
		"a megabyte of header":   strings.Repeat("A", 1<<20) + ".e30.AA",
		"eight thousand nested":  nested + "." + nested + ".AA",
		"one byte over the size": strings.Repeat("A", MaxToken-1) + "..",
	} {
		t.Run(name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := v.Verify(t.Context(), raw, []string{resource})
			runtime.ReadMemStats(&after)
			if !errors.Is(err, failure.Unauthorized) {
				t.Fatalf("got %v, want Unauthorized", err)
			}
			if got := after.TotalAlloc - before.TotalAlloc; got > 1<<20 {
				t.Errorf("refusing it took %d bytes of memory, want at most 1 MiB", got)
			}
		})
	}
	if keys.calls > 0 {
		t.Errorf("%d oversized tokens reached the signature check", keys.calls)
	}
}

func TestNewVerifierRefusesBadConfiguration(t *testing.T) {
	keys := &oidc.StaticKeySet{}
	cases := map[string][]Issuer{
		"symmetric":     {{URL: issuerA, Keys: keys, Algorithms: []string{"ES256", "HS256"}}},
		"none":          {{URL: issuerA, Keys: keys, Algorithms: []string{"none"}}},
		"no algorithms": {{URL: issuerA, Keys: keys}},
		"no keys":       {{URL: issuerA, Algorithms: []string{"ES256"}}},
		"no URL":        {{Keys: keys, Algorithms: []string{"ES256"}}},
		"twice":         {{URL: issuerA, Keys: keys, Algorithms: []string{"ES256"}}, {URL: issuerA, Keys: keys, Algorithms: []string{"RS256"}}},
	}
	for name, issuers := range cases {
		t.Run(name, func(t *testing.T) {
			if _, err := NewVerifier(issuers, clock); err == nil {
				t.Error("accepted")
			}
		})
	}
}

// tolerated are invalid vectors whose signature the library accepts, by their comment. All of them need the
// issuer's private key, so they let nobody in who could not sign a good token.
var tolerated = map[string]string{
	"SaltLenChanged":    "go-jose lets PSS salts have any length; RFC 7518 section 3.5 wants the hash's",
	"rejectWrongUse":    "an Issuer's key set is bare public keys; which keys go in is decided where it is built",
	"rejectWrongKeyOps": "the same",
}

// Wycheproof's signatures over the token verifier. Their payloads are no claims, so none of them may ever let
// somebody in; and below the claims, in the library that checks signatures, the invalid ones must fail with the
// group's own key. Covers A4.
func TestWycheproofSignatures(t *testing.T) {
	data, err := os.ReadFile("testdata/wycheproof/json_web_signature_test.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		NumberOfTests int
		TestGroups    []struct {
			Type            string
			Public, Private json.RawMessage
			Tests           []struct {
				TcID            int
				Comment, Result string
				JWS             json.RawMessage
			}
		}
	}
	if err := json.Unmarshal(data, &file); err != nil {
		t.Fatal(err)
	}
	run, symmetric, accepted, tolerations := 0, 0, 0, 0
	for _, g := range file.TestGroups {
		if g.Type != "JsonWebSignature" {
			t.Fatalf("a group of type %q is new: decide what to do with it", g.Type)
		}
		// The issuer of a group is configured with the group's key and the key's algorithm, as an operator would.
		var pub jose.JSONWebKey
		keys, algorithms := &oidc.StaticKeySet{}, asymmetric
		if len(g.Public) > 0 {
			if err := pub.UnmarshalJSON(g.Public); err != nil {
				t.Fatalf("the key of a group cannot be read: %v", err)
			}
			keys.PublicKeys = append(keys.PublicKeys, pub.Key)
			switch pub.Algorithm {
			case "":
			case "ES521": // a slip of the file's for ES512
				algorithms = []string{"ES512"}
			default:
				algorithms = []string{pub.Algorithm}
			}
		}
		v, err := NewVerifier([]Issuer{{URL: issuerA, Keys: keys, Algorithms: algorithms}}, clock)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range g.Tests {
			run++
			var raw string
			if json.Unmarshal(c.JWS, &raw) != nil {
				raw = string(c.JWS)
			}
			if caller, err := v.Verify(t.Context(), raw, []string{resource}); !errors.Is(err, failure.Unauthorized) || caller.ObjectID != "" {
				t.Errorf("tc %d (%s): the verifier let it in", c.TcID, c.Comment)
			}
			if len(g.Public) == 0 { // HMAC: no issuer can be configured for it; the call above was the test
				symmetric++
				continue
			}
			_, err := oidc.NewVerifier("", keys, &oidc.Config{SkipClientIDCheck: true, SkipIssuerCheck: true, SkipExpiryCheck: true, SupportedSigningAlgs: algorithms}).Verify(t.Context(), raw)
			signatureHeld := err == nil || strings.Contains(err.Error(), "failed to unmarshal claims")
			if signatureHeld {
				accepted++
			}
			switch _, tolerated := tolerated[c.Comment]; {
			case c.Result == "invalid" && signatureHeld && !tolerated:
				t.Errorf("tc %d (%s): invalid, and its signature was accepted", c.TcID, c.Comment)
			// Figure 20 of RFC 7520 is signed with PS384, and the file gives its key the alg PS256: rightly refused.
			case c.Result == "valid" && !signatureHeld && c.Comment != "Figure20":
				t.Errorf("tc %d (%s): valid, and its signature was refused: %v", c.TcID, c.Comment, err)
			case tolerated:
				tolerations++
			}
		}
	}
	if run != file.NumberOfTests || run == 0 {
		t.Fatalf("ran %d vectors, the file has %d", run, file.NumberOfTests)
	}
	t.Logf("%d vectors: %d symmetric (refused whatever their result), %d signatures held, %d of them tolerated", run, symmetric, accepted, tolerations)
	if accepted == 0 {
		t.Error("no valid signature was accepted: the test would not see a wrong refusal of all")
	}
}

// Covers R4, A4: any text, at worst, is refused.
func FuzzVerify(f *testing.F) {
	keyA, attacker := newKey(f), newKey(f)
	v := newVerifier(f, keyA, newKey(f))
	good := sign(f, jose.ES256, keyA, nil, claims(nil))
	f.Add(sign(f, jose.ES256, attacker, nil, claims(nil)))
	f.Add(sign(f, jose.HS256, []byte("secret of at least 32 bytes, really"), nil, claims(nil)))
	f.Add(good)
	f.Add("..")
	f.Add("eyJhbGciOiJub25lIn0.e30.")
	f.Fuzz(func(t *testing.T, raw string) {
		caller, err := v.Verify(t.Context(), raw, []string{resource})
		if err == nil {
			// Only an honest signature lets in, so whoever gets in is who issuer A named. (An ECDSA signature has a
			// second form; the fuzzer cannot make new claims.)
			if parts := strings.Split(good, "."); !strings.HasPrefix(raw, parts[0]+"."+parts[1]+".") || caller.ObjectID != "11111111-1111-4111-8111-111111111111" {
				t.Fatalf("let in: %q", raw)
			}
			return
		}
		if !errors.Is(err, failure.Unauthorized) || !slices.Equal(caller.Groups, nil) || caller.ObjectID != "" {
			t.Fatalf("got %v, %v", caller, err)
		}
	})
}
