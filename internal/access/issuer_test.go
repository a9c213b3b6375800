package access

import (
	"crypto"
	"crypto/rand"
	"strings"
	"testing"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"strongroom/internal/store"
)

const guid = "11111111-1111-4111-8111-111111111111"

func keySet(t testing.TB) (crypto.Signer, oidc.KeySet) {
	t.Helper()
	key := newKey(t)
	return key, &oidc.StaticKeySet{PublicKeys: []crypto.PublicKey{key.Public()}}
}

// Two issuers, one administrator. Whatever issuer B puts into its tokens, it cannot name him; and his own issuer
// can. Covers A4 (issuer mix-up).
func TestPrincipalIsBoundToIssuer(t *testing.T) {
	keyA, keysA := keySet(t)
	keyB, keysB := keySet(t)
	verifier := func(prefixA, prefixB string) *Verifier {
		v, err := NewVerifier([]Issuer{
			{URL: issuerA, Keys: keysA, Algorithms: []string{"ES256"}, Prefix: prefixA, Groups: true},
			{URL: issuerB, Keys: keysB, Algorithms: []string{"ES256"}, Prefix: prefixB, Groups: true},
		}, clock)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	cases := map[string]struct {
		prefixA, prefixB string
		admin            string // the principal that has the role
		issuer           string
		changes          map[string]any
		allowed, refused bool // refused: the token itself
	}{
		"the administrator":                      {"", "b", guid, issuerA, nil, true, false},
		"the administrator behind a prefix":      {"a", "b", "a:" + guid, issuerA, nil, true, false},
		"his GUID in other case":                 {"a", "b", "a:" + strings.ToUpper("aaaaaaaa-1111-4111-8111-111111111111"), issuerA, map[string]any{"oid": "aaaaaaaa-1111-4111-8111-111111111111"}, true, false},
		"a group of the other issuer by prefix":  {"", "b", "b:admins", issuerB, map[string]any{"groups": []string{"admins"}}, true, false},
		"his oid from B":                         {"", "b", guid, issuerB, nil, false, false},
		"his sub from B":                         {"", "b", guid, issuerB, map[string]any{"oid": nil, "sub": guid}, false, false},
		"a group with his name from B":           {"", "b", guid, issuerB, map[string]any{"oid": "mallory", "groups": []string{guid}}, false, false},
		"one group, as text, from B":             {"", "b", guid, issuerB, map[string]any{"oid": "mallory", "groups": guid}, false, false},
		"both with a prefix, B names his oid":    {"a", "b", "a:" + guid, issuerB, nil, false, false},
		"B with a prefix spells A's prefix":      {"a", "b", "a:" + guid, issuerB, map[string]any{"oid": "a:" + guid}, false, false},
		"B spells A's prefix in a group":         {"a", "b", "a:" + guid, issuerB, map[string]any{"groups": []string{"a:" + guid}}, false, false},
		"a prefix that begins like another":      {"a", "a-", "a:" + guid, issuerB, map[string]any{"oid": ":" + guid}, false, false},
		"B without prefix spells A's in oid":     {"a", "", "a:" + guid, issuerB, map[string]any{"oid": "a:" + guid}, false, true},
		"B without prefix spells A's in sub":     {"a", "", "a:" + guid, issuerB, map[string]any{"oid": nil, "sub": "a:" + guid}, false, true},
		"B without prefix spells A's in a group": {"a", "", "a:" + guid, issuerB, map[string]any{"oid": "mallory", "groups": []string{"friends", "a:" + guid}}, false, true},
		"in capitals":                            {"a", "", "a:" + guid, issuerB, map[string]any{"oid": "A:" + guid}, false, true},
		"a prefix that is no longer configured":  {"a", "", "gone:" + guid, issuerB, map[string]any{"oid": "gone:" + guid}, false, true},
		"B without prefix names his bare oid":    {"a", "", "a:" + guid, issuerB, nil, false, false},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			key := keyA
			if c.issuer == issuerB {
				key = keyB
			}
			changes := map[string]any{"iss": c.issuer}
			for claim, value := range c.changes {
				changes[claim] = value
			}
			caller, err := verifier(c.prefixA, c.prefixB).Verify(t.Context(), sign(t, jose.ES256, key, nil, claims(changes)), []string{resource})
			if c.refused {
				mustRefuse(t, caller, err)
				if !strings.Contains(err.Error(), "prefix") {
					t.Errorf("got %q, which does not say that the issuer needs a prefix", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			roles := []Assignment{{Name: guid, PrincipalID: c.admin, RoleDefinitionID: RoleAdministrator, Scope: ScopeRoot}}
			if d := Decide(BuiltInRoles(), roles, caller, SecurityDomainDownload, ScopeRoot); d.Allowed != c.allowed {
				t.Errorf("%+v: allowed %t, want %t", caller, d.Allowed, c.allowed)
			}
		})
	}
}

// Whatever two issuers with different prefixes call their principals, the names here differ, also for those who
// compare without regard to case.
func TestPrefixesKeepNamesApart(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		prefix := rapid.StringMatching(`[ab-]{0,3}`)
		p, q := Issuer{Prefix: prefix.Draw(t, "p")}, Issuer{Prefix: prefix.Draw(t, "q")}
		name := rapid.StringMatching(`[abAB:-]{1,6}`)
		a, errA := p.principal(name.Draw(t, "a"))
		b, errB := q.principal(name.Draw(t, "b"))
		if p.Prefix != q.Prefix && errA == nil && errB == nil && strings.EqualFold(a, b) {
			t.Fatalf("issuers %q and %q both name %q", p.Prefix, q.Prefix, a)
		}
	})
}

// The groups claim is somebody's free text at many issuers, so it counts only where the configuration says so.
// Covers A4.
func TestGroupsAreReadOnlyWhereConfigured(t *testing.T) {
	key, keys := keySet(t)
	for name, c := range map[string]struct {
		issuer Issuer
		groups any
		want   []string
	}{
		"off":                       {Issuer{}, []string{"g1"}, nil},
		"off, and not even text":    {Issuer{}, 7, nil},
		"on":                        {Issuer{Groups: true}, []string{"g1", "g2"}, []string{"g1", "g2"}},
		"on, behind a prefix":       {Issuer{Groups: true, Prefix: "corp"}, []string{"g1", "x:g2"}, []string{"corp:g1", "corp:x:g2"}},
		"off, with a foreign colon": {Issuer{}, []string{"corp:g1"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			c.issuer.URL, c.issuer.Keys, c.issuer.Algorithms = issuerA, keys, []string{"ES256"}
			v, err := NewVerifier([]Issuer{c.issuer}, clock)
			if err != nil {
				t.Fatal(err)
			}
			caller, err := v.Verify(t.Context(), sign(t, jose.ES256, key, nil, claims(map[string]any{"groups": c.groups})), []string{resource})
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(c.want, caller.Groups); d != "" {
				t.Error(d)
			}
		})
	}
}

// uncomparable is a key set whose instances Go cannot compare.
type uncomparable struct {
	oidc.KeySet
	_ []int
}

func TestNewVerifierKeepsPrefixesApart(t *testing.T) {
	_, shared := keySet(t)
	_, other := keySet(t)
	issuer := func(url string, keys oidc.KeySet, prefix string) Issuer {
		return Issuer{URL: url, Keys: keys, Algorithms: []string{"ES256"}, Prefix: prefix}
	}
	for name, c := range map[string]struct {
		a, b Issuer
		ok   bool
	}{
		"different prefixes":               {issuer(issuerA, shared, ""), issuer(issuerB, other, "b"), true},
		"no prefix twice":                  {issuer(issuerA, shared, ""), issuer(issuerB, other, ""), false},
		"one prefix twice":                 {issuer(issuerA, shared, "b"), issuer(issuerB, other, "b"), false},
		"one issuer under two URLs":        {issuer(issuerA, shared, ""), issuer(issuerB, shared, ""), true},
		"key sets that cannot be compared": {issuer(issuerA, uncomparable{KeySet: shared}, ""), issuer(issuerB, uncomparable{KeySet: shared}, ""), false},
		"longest prefix":                   {issuer(issuerA, shared, ""), issuer(issuerB, other, strings.Repeat("0", 32)), true},
		"prefix too long":                  {issuer(issuerA, shared, ""), issuer(issuerB, other, strings.Repeat("0", 33)), false},
		"prefix with its colon":            {issuer(issuerA, shared, ""), issuer(issuerB, other, "b:"), false},
		"prefix in capitals":               {issuer(issuerA, shared, ""), issuer(issuerB, other, "B"), false},
		"prefix with a letter beyond a-z":  {issuer(issuerA, shared, ""), issuer(issuerB, other, "ſ"), false},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := NewVerifier([]Issuer{c.a, c.b}, clock)
			if (err == nil) != c.ok {
				t.Fatalf("got %v, want accepted: %t", err, c.ok)
			}
			if err != nil && !strings.Contains(err.Error(), issuerB) {
				t.Errorf("%q does not name the issuer", err)
			}
		})
	}
}

// What cannot work is said at once, with the issuer's name. Covers A4.
func TestOpenIssuerRefusesBadConfiguration(t *testing.T) {
	for name, c := range map[string]struct {
		config IssuerConfig
		says   string
	}{
		"plain HTTP":          {IssuerConfig{URL: "http://issuer.example"}, "not an https URL"},
		"plain HTTP loopback": {IssuerConfig{URL: "http://127.0.0.1:5556"}, "not an https URL"},
		"no URL":              {IssuerConfig{}, "not an https URL"},
		"no scheme":           {IssuerConfig{URL: "issuer.example"}, "not an https URL"},
		"no host":             {IssuerConfig{URL: "https://:443/x"}, "without a host"},
		"opaque":              {IssuerConfig{URL: "https:issuer.example"}, "without a host"},
		"credentials":         {IssuerConfig{URL: "https://u:hunter2@issuer.example"}, "credentials"},
		"query":               {IssuerConfig{URL: "https://issuer.example?x"}, "query"},
		"fragment":            {IssuerConfig{URL: "https://issuer.example#"}, "fragment"},
		"line break":          {IssuerConfig{URL: "https://issuer.example\n"}, "not a URL"},
		"longer than any iss": {IssuerConfig{URL: "https://issuer.example/" + strings.Repeat("x", maxName)}, "longer"},
		"symmetric":           {IssuerConfig{URL: issuerA, Algorithms: []string{"HS256"}}, "HS256"},
		"none":                {IssuerConfig{URL: issuerA, Algorithms: []string{"RS256", "none"}}, "none"},
		"empty algorithms":    {IssuerConfig{URL: issuerA, Algorithms: []string{}}, "no algorithms"},
		"prefix with a colon": {IssuerConfig{URL: issuerA, Prefix: "corp:"}, "prefix"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := OpenIssuer(c.config)
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, want an error with %q", err, c.says)
			} else if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("%q repeats a password", err)
			}
		})
	}
	i, err := OpenIssuer(IssuerConfig{URL: issuerA + "/", Prefix: "corp", Groups: true})
	if err != nil {
		t.Fatal(err)
	}
	if i.URL != issuerA+"/" || i.Prefix != "corp" || !i.Groups || !cmp.Equal(i.Algorithms, []string{"RS256", "ES256"}) {
		t.Errorf("got %+v", i)
	}
}

// A principal with the longest prefix and the longest claim can be given a role.
func TestLongestPrincipalCanBeAssigned(t *testing.T) {
	st, s := withAdmin(t)
	long := strings.Repeat("p", maxPrefix) + ":" + strings.Repeat("x", maxName)
	update(t, st, func(w store.Writer) error {
		return PutInitialAdministrators(w, s, hsmA, []string{long}, nil, rand.Reader)
	})
	a := NewAuthorizer(st, s)
	defer a.Close()
	if err := a.Check(t.Context(), hsmA, Caller{ObjectID: long}, SecurityDomainDownload, ScopeRoot); err != nil {
		t.Error(err)
	}
}
