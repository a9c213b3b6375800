package keys

import (
	"context"
	"errors"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"strongroom/internal/access"
	"strongroom/internal/engine"
	"strongroom/internal/failure"
	"strongroom/internal/store"
	"strongroom/internal/store/memory"
	"strongroom/secret"
)

func TestCreateKinds(t *testing.T) {
	rsaOps := []string{"wrapKey", "decrypt", "encrypt", "unwrapKey", "sign", "verify"}
	for name, row := range map[string]struct {
		params CreateParams
		typ    engine.Type
		bits   int
		curve  string
		ops    []string
		alg    string
		digest int
	}{
		"RSA by default":         {CreateParams{Type: "RSA"}, engine.RSA, 2048, "", rsaOps, "RS256", 32},
		"RSA-HSM of 3072 bits":   {CreateParams{Type: "RSA-HSM", Bits: 3072, Exponent: 65537}, engine.RSA, 3072, "", rsaOps, "PS384", 48},
		"EC by default":          {CreateParams{Type: "EC"}, engine.EC, 0, engine.P256, []string{"sign", "verify"}, "ES256", 32},
		"EC-HSM on P-384":        {CreateParams{Type: "EC-HSM", Curve: engine.P384}, engine.EC, 0, engine.P384, []string{"sign", "verify"}, "ES384", 48},
		"EC on P-256K":           {CreateParams{Type: "EC", Curve: engine.P256K}, engine.EC, 0, engine.P256K, []string{"sign", "verify"}, "ES256K", 32},
		"EC on P-521":            {CreateParams{Type: "EC", Curve: engine.P521}, engine.EC, 0, engine.P521, []string{"sign", "verify"}, "ES512", 64},
		"operations as asked":    {CreateParams{Type: "RSA", Ops: []string{"verify", "sign"}}, engine.RSA, 2048, "", []string{"verify", "sign"}, "RS512", 64},
		"RSA for every use of 4": {CreateParams{Type: "RSA", Ops: []string{"sign", "verify", "encrypt", "decrypt"}}, engine.RSA, 2048, "", []string{"sign", "verify", "encrypt", "decrypt"}, "PS256", 32},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, memory.New(), alphaID, ownDomain)
			made := b.create(t, "Signing-Key", row.params)
			if made.Public.Type != row.typ || made.Public.Curve != row.curve || !slices.Equal(made.Ops, row.ops) {
				t.Errorf("got %s %s %v, want %s %s %v", made.Public.Type, made.Public.Curve, made.Ops, row.typ, row.curve, row.ops)
			}
			if row.bits != 0 && (made.Public.N.BitLen() != row.bits || made.Public.E != 65537) {
				t.Errorf("got %d bits, e = %d", made.Public.N.BitLen(), made.Public.E)
			}
			if made.Name != "Signing-Key" || !validVersion.MatchString(made.Version) || !made.Enabled || made.Exportable || made.NotBefore != nil || made.Expires != nil || !made.Created.Equal(noon) || !made.Updated.Equal(noon) || made.Tags != nil {
				t.Errorf("unexpected defaults: %+v", made)
			}
			got, err := b.Get(t.Context(), alice, "Signing-Key", "")
			if diff := cmp.Diff(made, got, sameKeys); err != nil || diff != "" {
				t.Errorf("get returns something else (%v): %s", err, diff)
			}
			signed, err := b.Sign(t.Context(), alice, "Signing-Key", "", row.alg, make([]byte, row.digest))
			if err != nil || signed.Version != made.Version || signed.Name != "Signing-Key" {
				t.Fatalf("sign: %+v, %v", signed, err)
			}
			if ok, err := b.Verify(t.Context(), alice, "Signing-Key", made.Version, row.alg, make([]byte, row.digest), signed.Signature); err != nil || !ok {
				t.Errorf("verify: %t, %v", ok, err)
			}
			if ok, err := b.Verify(t.Context(), alice, "Signing-Key", "", row.alg, make([]byte, row.digest), signed.Signature[1:]); err != nil || ok {
				t.Errorf("verify of a cut signature: %t, %v", ok, err)
			}
		})
	}
}

func TestRecoveryLevels(t *testing.T) {
	for want, cfg := range map[string]Config{
		"Recoverable+Purgeable":           {RetentionDays: 90},
		"Recoverable":                     {RetentionDays: 90, PurgeProtection: true},
		"CustomizedRecoverable+Purgeable": {RetentionDays: 7},
		"CustomizedRecoverable":           {RetentionDays: 89, PurgeProtection: true},
	} {
		cfg.Store = memory.New()
		if got := New(cfg).attributes(&versionRecord{}); got.RecoveryLevel != want || got.RecoverableDays != cfg.RetentionDays {
			t.Errorf("%d days, protection %t: got %s, %d", cfg.RetentionDays, cfg.PurgeProtection, got.RecoveryLevel, got.RecoverableDays)
		}
	}
}

// Covers K3, and the refusals of create: nothing is made, and the message does not repeat foreign text.
func TestCreateRefuses(t *testing.T) {
	tags := func(n int) map[string]string {
		m := map[string]string{}
		for i := range n {
			m[seqName(i)] = "x"
		}
		return m
	}
	day := func(n int) *time.Time { return ptr(noon.AddDate(0, 0, n)) }
	for name, row := range map[string]struct {
		name   string
		params CreateParams
		kind   failure.Kind
	}{
		"empty name":              {"", CreateParams{Type: "EC"}, failure.BadParameter},
		"name of 128 characters":  {strings.Repeat("n", 128), CreateParams{Type: "EC"}, failure.BadParameter},
		"name with a slash":       {"a/b", CreateParams{Type: "EC"}, failure.BadParameter},
		"name with dots":          {"..", CreateParams{Type: "EC"}, failure.BadParameter},
		"name with NUL":           {"a\x00", CreateParams{Type: "EC"}, failure.BadParameter},
		"name with a newline":     {"a\n", CreateParams{Type: "EC"}, failure.BadParameter},
		"name with an underscore": {"a_b", CreateParams{Type: "EC"}, failure.BadParameter},
		"name with the Kelvin K":  {"\u212Aey", CreateParams{Type: "EC"}, failure.BadParameter},
		"name in Cyrillic":        {"ключ", CreateParams{Type: "EC"}, failure.BadParameter},
		"no type":                 {"k", CreateParams{}, failure.BadParameter},
		"unknown type":            {"k", CreateParams{Type: "<canary>"}, failure.BadParameter},
		"type in lower case":      {"k", CreateParams{Type: "rsa"}, failure.BadParameter},
		"oct of 512 bits":         {"k", CreateParams{Type: "oct", Bits: 512}, failure.BadParameter},
		"oct with a curve":        {"k", CreateParams{Type: "oct-HSM", Curve: engine.P256}, failure.BadParameter},
		"oct with an exponent":    {"k", CreateParams{Type: "oct-HSM", Exponent: 65537}, failure.BadParameter},
		"oct that imports":        {"k", CreateParams{Type: "oct-HSM", Ops: []string{"import"}}, failure.BadParameter},
		"exportable, no policy":   {"k", CreateParams{Type: "EC", Exportable: true}, failure.BadParameter},
		"policy, not exportable":  {"k", CreateParams{Type: "EC", ReleasePolicy: &ReleasePolicy{Data: []byte(`{}`)}}, failure.BadParameter},
		"policy that is no JSON":  {"k", CreateParams{Type: "EC", Exportable: true, ReleasePolicy: &ReleasePolicy{Data: []byte(`<canary>`)}}, failure.BadParameter},
		"policy that is too long": {"k", CreateParams{Type: "EC", Exportable: true, ReleasePolicy: &ReleasePolicy{Data: []byte(`"` + strings.Repeat("x", 11<<10) + `"`)}}, failure.BadParameter},
		"policy with a typo":      {"k", CreateParams{Type: "EC", Exportable: true, ReleasePolicy: &ReleasePolicy{Data: []byte(`{"anyOf":[{"authority":"https://attest.example","allof":[{"claim":"a","equals":1}]}]}`)}}, failure.BadParameter},
		"policy that is empty":    {"k", CreateParams{Type: "EC", Exportable: true, ReleasePolicy: &ReleasePolicy{Data: []byte(`{}`)}}, failure.BadParameter},
		"policy of another kind":  {"k", CreateParams{Type: "EC", Exportable: true, ReleasePolicy: &ReleasePolicy{ContentType: "text/canary", Data: []byte(`{}`)}}, failure.BadParameter},
		"exportable and imports":  {"k", CreateParams{Type: "RSA", Exportable: true, ReleasePolicy: anyPolicy(), Ops: []string{"import"}}, failure.BadParameter},
		"RSA of 1024 bits":        {"k", CreateParams{Type: "RSA", Bits: 1024}, failure.BadParameter},
		"RSA of negative size":    {"k", CreateParams{Type: "RSA", Bits: -2048}, failure.BadParameter},
		"RSA with exponent 3":     {"k", CreateParams{Type: "RSA", Exponent: 3}, failure.BadParameter},
		"RSA with an even one":    {"k", CreateParams{Type: "RSA", Exponent: 1 << 20}, failure.BadParameter},
		"RSA with a huge one":     {"k", CreateParams{Type: "RSA", Exponent: 1<<31 + 1}, failure.BadParameter},
		"RSA with a curve":        {"k", CreateParams{Type: "RSA", Curve: engine.P256}, failure.BadParameter},
		"EC with a size":          {"k", CreateParams{Type: "EC", Bits: 256}, failure.BadParameter},
		"EC with an exponent":     {"k", CreateParams{Type: "EC", Exponent: 65537}, failure.BadParameter},
		"unknown curve":           {"k", CreateParams{Type: "EC", Curve: "<canary>"}, failure.BadParameter},
		"unknown operation":       {"k", CreateParams{Type: "EC", Ops: []string{"<canary>"}}, failure.BadParameter},
		"operation in wrong case": {"k", CreateParams{Type: "EC", Ops: []string{"Sign"}}, failure.BadParameter},
		"operation twice":         {"k", CreateParams{Type: "EC", Ops: []string{"sign", "sign"}}, failure.BadParameter},
		"EC that encrypts":        {"k", CreateParams{Type: "EC", Ops: []string{"encrypt"}}, failure.BadParameter},
		"EC that imports":         {"k", CreateParams{Type: "EC", Ops: []string{"import"}}, failure.BadParameter},
		"import and decrypt":      {"k", CreateParams{Type: "RSA", Ops: []string{"import", "decrypt"}}, failure.BadParameter},
		"unwrap and import":       {"k", CreateParams{Type: "RSA", Ops: []string{"unwrapKey", "import"}}, failure.BadParameter},
		"export":                  {"k", CreateParams{Type: "RSA", Ops: []string{"export"}}, failure.BadParameter},
		"many operations":         {"k", CreateParams{Type: "RSA", Ops: slices.Repeat([]string{"sign"}, 100_000)}, failure.BadParameter},
		"ends before it begins":   {"k", CreateParams{Type: "EC", NotBefore: day(2), Expires: day(1)}, failure.BadParameter},
		"ends as it begins":       {"k", CreateParams{Type: "EC", NotBefore: day(1), Expires: day(1)}, failure.BadParameter},
		"before 1970":             {"k", CreateParams{Type: "EC", Expires: ptr(time.Unix(-1, 0))}, failure.BadParameter},
		"after 9999":              {"k", CreateParams{Type: "EC", Expires: ptr(time.Unix(1<<60, 0))}, failure.BadParameter},
		"16 tags":                 {"k", CreateParams{Type: "EC", Tags: tags(16)}, failure.BadParameter},
		"tag name too long":       {"k", CreateParams{Type: "EC", Tags: map[string]string{strings.Repeat("é", 257): ""}}, failure.BadParameter},
		"tag value too long":      {"k", CreateParams{Type: "EC", Tags: map[string]string{"t": strings.Repeat("x", 257)}}, failure.BadParameter},
		"tag that is no text":     {"k", CreateParams{Type: "EC", Tags: map[string]string{"t": "\xff"}}, failure.BadParameter},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, memory.New(), alphaID, ownDomain)
			_, err := b.Create(t.Context(), alice, row.name, row.params)
			if f := wantKind(t, err, row.kind); strings.Contains(f.Message, "canary") {
				t.Errorf("the message repeats what was sent: %s", f.Message)
			}
			if records := dump(t, b.store); len(records) != 0 {
				t.Errorf("%d records were made", len(records))
			}
		})
	}
}

func TestCreateAcceptsTheBounds(t *testing.T) {
	tags := map[string]string{}
	for i := range 14 {
		tags[seqName(i)] = ""
	}
	tags[strings.Repeat("ü", 256)] = strings.Repeat("€", 256)
	b := newBench(t, memory.New(), alphaID, ownDomain)
	key := b.create(t, strings.Repeat("n", 127), CreateParams{
		Tags: tags, Ops: []string{}, Enabled: ptr(false), NotBefore: ptr(time.Unix(0, 0)), Expires: ptr(time.Unix(maxTime, 0)),
	})
	got, err := b.Get(t.Context(), alice, key.Name, key.Version)
	if err != nil {
		t.Fatal(err)
	}
	if !cmp.Equal(got.Tags, tags) || got.Enabled || len(got.Ops) != 0 || got.NotBefore.Unix() != 0 || got.Expires.Unix() != maxTime {
		t.Errorf("got %+v", got.Attributes)
	}
	importer := b.create(t, "exchange", CreateParams{Type: "RSA", Ops: []string{"import"}})
	if _, err := b.Sign(t.Context(), alice, "exchange", importer.Version, "RS256", digest()); failure.KindOf(err) != failure.Disabled {
		t.Errorf("a key-exchange key signs: %v", err)
	}
}

// Covers A3: a name is one name in every case, kept as it was first written.
func TestNamesIgnoreCase(t *testing.T) {
	b := newBench(t, memory.New(), alphaID, ownDomain)
	first := b.create(t, "Prod-Key", CreateParams{})
	second := b.create(t, "PROD-key", CreateParams{})
	if second.Name != "Prod-Key" || second.Version == first.Version {
		t.Errorf("the second create made %s %s", second.Name, second.Version)
	}
	for _, name := range []string{"Prod-Key", "prod-key", "PROD-KEY"} {
		latest, err := b.Get(t.Context(), alice, name, "")
		if err != nil || latest.Name != "Prod-Key" || latest.Version != second.Version {
			t.Errorf("%s: got %s %s, %v", name, latest.Name, latest.Version, err)
		}
		old, err := b.Get(t.Context(), alice, name, strings.ToUpper(first.Version))
		if err != nil || old.Version != first.Version {
			t.Errorf("%s, version in capitals: got %s, %v", name, old.Version, err)
		}
		signed, err := b.Sign(t.Context(), alice, name, first.Version, "ES256", digest())
		if err != nil || signed.Name != "Prod-Key" || signed.Version != first.Version {
			t.Errorf("%s: sign: %s %s, %v", name, signed.Name, signed.Version, err)
		}
		all, err := b.everyVersion(t, name)
		if err != nil || !slices.Equal(versions(all), []string{first.Version, second.Version}) {
			t.Errorf("%s: versions %v, %v", name, versions(all), err)
		}
	}
	page, err := b.List(t.Context(), alice, "", 0)
	if err != nil || !slices.Equal(names(page.Items), []string{"Prod-Key"}) {
		t.Errorf("list: %v, %v", names(page.Items), err)
	}
}

func TestUnknownKeys(t *testing.T) {
	b := newBench(t, memory.New(), alphaID, ownDomain)
	b.create(t, "here", CreateParams{})
	other := b.create(t, "other", CreateParams{})
	for _, at := range []struct{ name, version string }{
		{"gone", ""}, {"gone", other.Version}, {"here", other.Version}, {"here", strings.Repeat("0", 32)},
	} {
		_, get := b.Get(t.Context(), alice, at.name, at.version)
		_, sign := b.Sign(t.Context(), alice, at.name, at.version, "ES256", digest())
		_, verify := b.Verify(t.Context(), alice, at.name, at.version, "ES256", digest(), nil)
		for what, err := range map[string]error{"get": get, "sign": sign, "verify": verify} {
			if f := wantKind(t, err, failure.NotFound); f.Code != "KeyNotFound" || !strings.Contains(f.Message, "Key not found: "+at.name) {
				t.Errorf("%s %s/%s: code %s, message %s", what, at.name, at.version, f.Code, f.Message)
			}
		}
	}
	for _, version := range []string{"x", strings.Repeat("0", 31), strings.Repeat("g", 32), strings.Repeat("0", 33), "../" + strings.Repeat("0", 29)} {
		_, get := b.Get(t.Context(), alice, "here", version)
		_, sign := b.Sign(t.Context(), alice, "here", version, "ES256", digest())
		_, verify := b.Verify(t.Context(), alice, "here", version, "ES256", digest(), nil)
		for _, err := range []error{get, sign, verify} {
			wantKind(t, err, failure.BadParameter)
		}
	}
	_, backup := b.Backup(t.Context(), alice, "gone")
	_, list := b.ListVersions(t.Context(), alice, "gone", "", 0)
	wantKind(t, backup, failure.NotFound)
	wantKind(t, list, failure.NotFound)
}

// Covers K2: key_ops, enabled and the window of time, for each operation.
func TestUseIsPermitted(t *testing.T) {
	second := time.Second
	for name, row := range map[string]struct {
		params       CreateParams
		at           time.Time
		sign, verify bool
	}{
		"plain":                         {CreateParams{}, noon, true, true},
		"disabled":                      {CreateParams{Enabled: ptr(false)}, noon, false, false},
		"no operations":                 {CreateParams{Ops: []string{}}, noon, false, false},
		"sign only":                     {CreateParams{Ops: []string{"sign"}}, noon, true, false},
		"verify only":                   {CreateParams{Ops: []string{"verify"}}, noon, false, true},
		"disabled, with all operations": {CreateParams{Enabled: ptr(false), Ops: []string{"sign", "verify"}}, noon, false, false},
		"a second before nbf":           {CreateParams{NotBefore: &noon}, noon.Add(-second), false, true},
		"a blink before nbf":            {CreateParams{NotBefore: &noon}, noon.Add(-1), false, true},
		"at nbf":                        {CreateParams{NotBefore: &noon}, noon, true, true},
		"a blink before exp":            {CreateParams{Expires: &noon}, noon.Add(-1), true, true},
		"at exp":                        {CreateParams{Expires: &noon}, noon, false, true},
		"long after exp":                {CreateParams{Expires: &noon}, noon.AddDate(10, 0, 0), false, true},
		"expired and verify not in ops": {CreateParams{Expires: &noon, Ops: []string{"sign"}}, noon.Add(second), false, false},
		"inside both bounds":            {CreateParams{NotBefore: &noon, Expires: ptr(noon.Add(second))}, noon, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, memory.New(), alphaID, ownDomain)
			key := b.create(t, "k", row.params)
			b.at(row.at)
			for _, version := range []string{"", key.Version} {
				signed, err := b.Sign(t.Context(), alice, "k", version, "ES256", digest())
				if row.sign && (err != nil || len(signed.Signature) != 64) || !row.sign && len(signed.Signature) != 0 {
					t.Errorf("sign: %d bytes, %v; want allowed: %t", len(signed.Signature), err, row.sign)
				}
				if !row.sign {
					wantKind(t, err, failure.Disabled)
				}
				_, err = b.Verify(t.Context(), alice, "k", version, "ES256", digest(), make([]byte, 64))
				if row.verify && err != nil {
					t.Errorf("verify: %v", err)
				}
				if !row.verify {
					wantKind(t, err, failure.Disabled)
				}
			}
			// Looking at a key and saving it is allowed in every state.
			if _, err := b.Get(t.Context(), alice, "k", ""); err != nil {
				t.Errorf("get: %v", err)
			}
			if _, err := b.Backup(t.Context(), alice, "k"); err != nil {
				t.Errorf("backup: %v", err)
			}
		})
	}
}

// Covers K2: what the engine refuses reaches the caller as a bad parameter that says what would fit.
func TestWrongAlgorithms(t *testing.T) {
	b := newBench(t, memory.New(), alphaID, ownDomain)
	b.create(t, "ec", CreateParams{})
	b.create(t, "rsa", CreateParams{Type: "RSA"})
	for name, row := range map[string]struct {
		key, alg string
		digest   []byte
		says     string
	}{
		"RSA algorithm on EC":     {"ec", "RS256", digest(), "use ES256"},
		"another curve's":         {"ec", "ES384", make([]byte, 48), "use ES256"},
		"EC algorithm on RSA":     {"rsa", "ES256", digest(), "RS256"},
		"unknown":                 {"rsa", "<canary>", digest(), "PS512"},
		"RSNULL":                  {"rsa", "RSNULL", digest(), "RS256"},
		"none given":              {"ec", "", digest(), "use ES256"},
		"digest of another hash":  {"ec", "ES256", make([]byte, 48), "48 bytes"},
		"no digest":               {"rsa", "PS256", nil, "0 bytes"},
		"a message, not a digest": {"rsa", "RS512", make([]byte, 5000), "5000 bytes"},
	} {
		_, sign := b.Sign(t.Context(), alice, row.key, "", row.alg, row.digest)
		_, verify := b.Verify(t.Context(), alice, row.key, "", row.alg, row.digest, make([]byte, 64))
		for _, err := range []error{sign, verify} {
			if f := wantKind(t, err, failure.BadParameter); !strings.Contains(f.Message, row.says) || strings.Contains(f.Message, "canary") {
				t.Errorf("%s: the message is %q, want one with %q", name, f.Message, row.says)
			}
		}
	}
}

// stock is what calls needs to find in an HSM, made once: an RSA key takes long to find.
type stock struct {
	restored   []byte // backup of the key Restored, which no HSM has yet
	gone       []byte // backup of the key Gone-Key
	rsa        []byte // backup of the key My-RSA
	ciphertext []byte // under My-RSA, with RSA-OAEP-256
	tee        *tee   // may have My-Leaver
	token      string // of the tee
}

func newStock(t *testing.T) (s stock) {
	t.Helper()
	b := newBench(t, memory.New(), alphaID, ownDomain)
	b.create(t, "Restored", CreateParams{})
	b.create(t, "Gone-Key", CreateParams{})
	b.create(t, "My-RSA", CreateParams{Type: "RSA"})
	made, err := b.Encrypt(t.Context(), alice, "My-RSA", "", engine.RSAOAEP256, secret.Take([]byte("plain")), Extras{})
	if err != nil {
		t.Fatal(err)
	}
	s.ciphertext = made.Value
	s.tee = newTEE(t, b)
	s.token = s.tee.token(t, nil)
	for name, blob := range map[string]*[]byte{"Restored": &s.restored, "Gone-Key": &s.gone, "My-RSA": &s.rsa} {
		if *blob, err = b.Backup(t.Context(), alice, name); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// open returns an HSM with My-Key, which has a rotation policy, My-RSA, My-Leaver, which may leave, and Gone-Key deleted.
func (s stock) open(t *testing.T) *bench {
	t.Helper()
	b := newBench(t, memory.New(), alphaID, ownDomain)
	b.create(t, "My-Key", CreateParams{})
	for _, blob := range [][]byte{s.rsa, s.gone} {
		if _, err := b.Restore(t.Context(), alice, blob); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := b.Delete(t.Context(), alice, "Gone-Key"); err != nil {
		t.Fatal(err)
	}
	b.policy(t, "My-Key", RotationPolicy{ExpiryTime: "P90D"})
	b.leaver(t, "My-Leaver", CreateParams{})
	s.tee.configure(t, b)
	b.asked = nil
	return b
}

// calls has every method of Keys in a form that would succeed on an HSM of the stock, and what it has to ask.
func calls(t *testing.T, s stock) map[string]struct {
	action access.Action
	scope  string
	call   func(*bench) error
} {
	ctx := t.Context()
	return map[string]struct {
		action access.Action
		scope  string
		call   func(*bench) error
	}{
		"Create": {access.KeyCreate, "/keys/my-key", func(b *bench) error {
			_, err := b.Create(ctx, alice, "My-Key", CreateParams{Type: "EC"})
			return err
		}},
		"Import": {access.KeyImport, "/keys/my-key", func(b *bench) error {
			_, err := b.Import(ctx, alice, "My-Key", ImportParams{CreateParams: CreateParams{Type: "oct"}, Material: engine.Material{K: secret.Take(make([]byte, 32))}})
			return err
		}},
		"Release": {access.KeyRelease, "/keys/my-leaver", func(b *bench) error {
			_, err := b.Release(ctx, alice, "My-Leaver", "", ReleaseParams{Target: s.token, Payload: func(Key, Released) ([]byte, error) { return nil, nil }})
			return err
		}},
		"Attest": {access.KeyRead, "/keys/my-key", func(b *bench) error {
			_, _, err := b.Attest(ctx, alice, "My-Key", "", func(name, version string) string { return name })
			return err
		}},
		"Get":  {access.KeyRead, "/keys/my-key", func(b *bench) error { _, err := b.Get(ctx, alice, "My-Key", ""); return err }},
		"List": {access.KeyRead, "/keys", func(b *bench) error { _, err := b.List(ctx, alice, "", 0); return err }},
		"ListVersions": {access.KeyRead, "/keys/my-key", func(b *bench) error {
			_, err := b.ListVersions(ctx, alice, "My-Key", "", 0)
			return err
		}},
		"Sign": {access.KeySign, "/keys/my-key", func(b *bench) error {
			_, err := b.Sign(ctx, alice, "My-Key", "", "ES256", digest())
			return err
		}},
		"Verify": {access.KeyVerify, "/keys/my-key", func(b *bench) error {
			_, err := b.Verify(ctx, alice, "My-Key", "", "ES256", digest(), make([]byte, 64))
			return err
		}},
		"Update": {access.KeyWrite, "/keys/my-key", func(b *bench) error {
			_, err := b.Update(ctx, alice, "My-Key", "", UpdateParams{Tags: map[string]string{"a": "b"}})
			return err
		}},
		"Delete":     {access.KeyDelete, "/keys/my-key", func(b *bench) error { _, err := b.Delete(ctx, alice, "My-Key"); return err }},
		"GetDeleted": {access.DeletedKeyRead, "/keys/gone-key", func(b *bench) error { _, err := b.GetDeleted(ctx, alice, "Gone-Key"); return err }},
		"ListDeleted": {access.DeletedKeyRead, "/keys", func(b *bench) error {
			_, err := b.ListDeleted(ctx, alice, "", 0)
			return err
		}},
		"Recover": {access.DeletedKeyRecover, "/keys/gone-key", func(b *bench) error { _, err := b.Recover(ctx, alice, "Gone-Key"); return err }},
		"Purge":   {access.DeletedKeyPurge, "/keys/gone-key", func(b *bench) error { return b.Purge(ctx, alice, "Gone-Key") }},
		"Rotate":  {access.KeyRotate, "/keys/my-key", func(b *bench) error { _, err := b.Rotate(ctx, alice, "My-Key"); return err }},
		"GetRotationPolicy": {access.KeyRead, "/keys/my-key", func(b *bench) error {
			_, err := b.GetRotationPolicy(ctx, alice, "My-Key")
			return err
		}},
		"SetRotationPolicy": {access.KeyWrite, "/keys/my-key", func(b *bench) error {
			_, err := b.SetRotationPolicy(ctx, alice, "My-Key", RotationPolicy{ExpiryTime: "P28D"})
			return err
		}},
		"Random":  {access.RandomBytes, "/", func(b *bench) error { _, err := b.Random(ctx, alice, 16); return err }},
		"Backup":  {access.KeyBackup, "/keys/my-key", func(b *bench) error { _, err := b.Backup(ctx, alice, "My-Key"); return err }},
		"Restore": {access.KeyRestore, "/keys", func(b *bench) error { _, err := b.Restore(ctx, alice, s.restored); return err }},
		"Encrypt": {access.KeyEncrypt, "/keys/my-rsa", func(b *bench) error {
			_, err := b.Encrypt(ctx, alice, "My-RSA", "", engine.RSAOAEP256, secret.Take([]byte("plain")), Extras{})
			return err
		}},
		"Decrypt": {access.KeyDecrypt, "/keys/my-rsa", func(b *bench) error {
			_, err := b.Decrypt(ctx, alice, "My-RSA", "", engine.RSAOAEP256, s.ciphertext, Extras{})
			return err
		}},
		"WrapKey": {access.KeyWrap, "/keys/my-rsa", func(b *bench) error {
			_, err := b.WrapKey(ctx, alice, "My-RSA", "", engine.RSAOAEP256, secret.Take([]byte("plain")), Extras{})
			return err
		}},
		"UnwrapKey": {access.KeyUnwrap, "/keys/my-rsa", func(b *bench) error {
			_, err := b.UnwrapKey(ctx, alice, "My-RSA", "", engine.RSAOAEP256, s.ciphertext, Extras{})
			return err
		}},
	}
}

// Covers A1, S13's rule for keys: every method asks once, with its own action and the narrowest scope, for the
// caller it was given; Release asks the same again after it waited for the token's authority, and before the key leaves.
// Refused, a method does nothing and does not even touch the engine.
func TestEveryMethodAsks(t *testing.T) {
	s := newStock(t)
	table := calls(t, s)
	for method := range reflect.TypeFor[*Keys]().Methods() {
		if _, ok := table[method.Name]; !ok && method.Name != "Sweep" && method.Name != "Count" && method.Name != "Close" { // they are the server's, no caller's
			t.Errorf("the method %s is not in this test", method.Name)
		}
	}
	for name, row := range table {
		t.Run(name, func(t *testing.T) {
			b := s.open(t)
			if err := row.call(b); err != nil {
				t.Errorf("allowed: %v", err)
			}
			want := []asked{{alice, row.action, row.scope}}
			if name == "Release" {
				want = append(want, want[0], want[0])
			}
			if diff := cmp.Diff(want, b.asked); diff != "" {
				t.Errorf("it asked something else: %s", diff)
			}

			denied := errors.New("denied by the test")
			b.deny = denied
			b.Keys.cfg.Engine = func() (engine.Engine, error) {
				t.Error("the engine was asked for before the caller was allowed")
				return b.engine, nil
			}
			unchanged(t, b.store, func() {
				if err := row.call(b); err != denied {
					t.Errorf("denied: got %v, want the error of Authorize itself", err)
				}
			})
		})
	}
}

func TestNotActivated(t *testing.T) {
	for name, row := range calls(t, stock{}) {
		b := newBench(t, memory.New(), alphaID, ownDomain)
		sleeping := failure.New(failure.NotActivated, "activate it first")
		b.Keys.cfg.Engine = func() (engine.Engine, error) { return nil, sleeping }
		if err := row.call(b); !errors.Is(err, failure.NotActivated) {
			t.Errorf("%s: got %v, want %v", name, err, sleeping)
		}
	}
}

// An HSM whose engine is closed under a call says "try again", with nothing half done.
func TestEngineClosed(t *testing.T) {
	s := newStock(t)
	for name, row := range calls(t, s) {
		if name == "Random" {
			continue // it needs no key, and so nothing of the engine
		}
		b := s.open(t)
		b.engine.Close()
		unchanged(t, b.store, func() {
			if err := row.call(b); failure.KindOf(err) != failure.Unavailable {
				t.Errorf("%s: got %v, want kind %s", name, err, failure.Unavailable)
			}
		})
	}
}

func TestPaging(t *testing.T) {
	b := newBench(t, memory.New(), alphaID, ownDomain)
	neighbour := newBench(t, b.store, betaID, ownDomain) // A6: another HSM in the same store
	neighbour.create(t, "not-alphas", CreateParams{})
	var want []string
	for i := range 57 {
		want = append(want, b.create(t, seqName(i), CreateParams{}).Name)
	}
	walk := func(max int, between func()) (got []string) {
		for token := ""; ; between() {
			page, err := b.List(t.Context(), alice, token, max)
			if err != nil {
				t.Fatal(err)
			}
			if size := max; size == 0 && len(page.Items) > MaxPage || size > 0 && len(page.Items) > size {
				t.Errorf("a page of %d has %d items", max, len(page.Items))
			}
			got = append(got, names(page.Items)...)
			if token = page.Next; token == "" {
				return got
			}
		}
	}
	for _, max := range []int{0, 1, 19, 25} {
		if got := walk(max, func() {}); !slices.Equal(got, want) {
			t.Errorf("pages of %d give %d keys, want %d in order", max, len(got), len(want))
		}
	}
	// Keys are added before and behind the reader: those that were there come once each.
	added := 0
	got := walk(10, func() {
		b.create(t, "aaa-"+seqName(added), CreateParams{})
		b.create(t, "zzz-"+seqName(added), CreateParams{})
		added++
	})
	got = slices.DeleteFunc(got, func(name string) bool { return !strings.HasPrefix(name, "key-") })
	if !slices.Equal(got, want) {
		t.Errorf("with keys added, the list has %d of the old ones, want %d", len(got), len(want))
	}
	// Keys are deleted and purged before and behind the reader: those that stay come once each, in order. Those that
	// go may come, but not twice.
	removed := 0
	got = walk(7, func() {
		for _, i := range []int{removed, 56 - removed} {
			if i%3 == 0 {
				b.remove(t, seqName(i))
				if i%2 == 0 {
					if err := b.Purge(t.Context(), alice, seqName(i)); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
		removed++
	})
	got = slices.DeleteFunc(got, func(name string) bool { return !strings.HasPrefix(name, "key-") })
	stayed := slices.DeleteFunc(slices.Clone(want), func(name string) bool {
		_, err := b.Get(t.Context(), alice, name, "")
		return failure.KindOf(err) == failure.NotFound
	})
	if !slices.IsSorted(got) || len(slices.Compact(slices.Clone(got))) != len(got) || len(stayed) == len(want) {
		t.Errorf("with keys removed, %d of the %d that stay, the list is %v", len(stayed), len(want), got)
	}
	for _, name := range stayed {
		if !slices.Contains(got, name) {
			t.Errorf("with keys removed, the list misses %s, which stays", name)
		}
	}
	if again := walk(0, func() {}); slices.ContainsFunc(again, func(name string) bool { return strings.HasPrefix(name, "key-") && !slices.Contains(stayed, name) }) {
		t.Errorf("a deleted key is listed: %v", again)
	}
	for _, page := range []int{-1, 26, 1 << 40} {
		_, list := b.List(t.Context(), alice, "", page)
		_, versions := b.ListVersions(t.Context(), alice, "key-000", "", page)
		wantKind(t, list, failure.BadParameter)
		wantKind(t, versions, failure.BadParameter)
	}
	for _, token := range []string{"!", "a", "a2V5LTAwMA==", "Li4vLi4", strings.Repeat("QUFB", 10_000), "\x00"} {
		_, err := b.List(t.Context(), alice, token, 0)
		wantKind(t, err, failure.BadParameter)
	}
	for _, token := range []string{"0", "1", "-1", "x", "99999999999999999999", strings.Repeat("0", 31), strings.Repeat("0", 32), strings.Repeat("A", 32), strings.Repeat("0", 33)} {
		_, err := b.ListVersions(t.Context(), alice, "key-001", token, 0)
		wantKind(t, err, failure.BadParameter)
	}
}

// Versions come in the order of their making, all of one clock second, also when more are made, changed or the key
// is deleted and recovered between two pages. A token does not lead into another key of the same name.
func TestVersionPaging(t *testing.T) {
	b := newBench(t, memory.New(), alphaID, ownDomain)
	var want []string
	more := func(n int) {
		for range n {
			want = append(want, b.create(t, "k", CreateParams{}).Version)
		}
	}
	more(5)
	var got []string
	token := ""
	for round := range 4 {
		page, err := b.ListVersions(t.Context(), alice, "k", token, 2)
		if err != nil {
			t.Fatal(err)
		}
		got, token = append(got, versions(page.Items)...), page.Next
		if round == 0 {
			more(2)
			b.policy(t, "k", RotationPolicy{ExpiryTime: "P90D"})
			if _, err := b.Update(t.Context(), alice, "k", want[1], UpdateParams{Enabled: ptr(false)}); err != nil {
				t.Fatal(err)
			}
			b.remove(t, "k")
			if _, err := b.Recover(t.Context(), alice, "k"); err != nil {
				t.Fatal(err)
			}
		}
	}
	if !slices.Equal(got, want) || token != "" {
		t.Errorf("got %v, want %v", got, want)
	}
	page, err := b.ListVersions(t.Context(), alice, "k", "", 2)
	if err != nil {
		t.Fatal(err)
	}
	b.remove(t, "k")
	if err := b.Purge(t.Context(), alice, "k"); err != nil {
		t.Fatal(err)
	}
	more(4)
	_, err = b.ListVersions(t.Context(), alice, "k", page.Next, 2)
	wantKind(t, err, failure.BadParameter)
	last := want[len(want)-1]
	if page, err := b.ListVersions(t.Context(), alice, "k", last, 0); err != nil || len(page.Items) != 0 || page.Next != "" {
		t.Errorf("after the last version: %d items, next %q, %v", len(page.Items), page.Next, err)
	}
}

func TestVersionLimit(t *testing.T) {
	b := newBench(t, memory.New(), alphaID, ownDomain)
	var want []string
	for range MaxVersions {
		want = append(want, b.create(t, "k", CreateParams{}).Version)
	}
	unchanged(t, b.store, func() {
		_, err := b.Create(t.Context(), alice, "K", CreateParams{Type: "EC"})
		wantKind(t, err, failure.Conflict)
	})
	all, err := b.everyVersion(t, "k")
	if err != nil || !slices.Equal(versions(all), want) {
		t.Errorf("%d versions in another order than made, %v", len(all), err)
	}
	// The fullest key comes back from its backup as it was.
	blob, err := b.Backup(t.Context(), alice, "k")
	if err != nil {
		t.Fatal(err)
	}
	restored := newBench(t, memory.New(), betaID, ownDomain)
	if _, err := restored.Restore(t.Context(), alice, blob); err != nil {
		t.Fatal(err)
	}
	got, err := restored.everyVersion(t, "k")
	if diff := cmp.Diff(all, got); err != nil || diff != "" {
		t.Errorf("restored versions differ (%v): %s", err, diff)
	}
}

func TestKeyLimit(t *testing.T) {
	b := newBench(t, memory.New(), alphaID, ownDomain)
	first := b.create(t, "first", CreateParams{})
	blob, err := b.Backup(t.Context(), alice, "first")
	if err != nil {
		t.Fatal(err)
	}
	setCount := func(n int) {
		err := b.store.Update(t.Context(), func(w store.Writer) error {
			_, err := put(t.Context(), b.engine, w, b.countPath(), countRecord{Keys: n})
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	setCount(MaxKeys - 1)
	b.create(t, "last", CreateParams{})
	b.create(t, "last", CreateParams{}) // a version is no key
	unchanged(t, b.store, func() {
		_, err := b.Create(t.Context(), alice, "too-many", CreateParams{Type: "EC"})
		wantKind(t, err, failure.Conflict)
	})
	full := b.store
	other := newBench(t, memory.New(), alphaID, ownDomain)
	other.create(t, "x", CreateParams{})
	b.store, b.Keys.cfg.Store = other.store, other.store
	setCount(MaxKeys)
	unchanged(t, other.store, func() {
		_, err := b.Restore(t.Context(), alice, blob)
		wantKind(t, err, failure.Conflict)
	})
	b.store, b.Keys.cfg.Store = full, full
	if got, err := b.Get(t.Context(), alice, "first", ""); err != nil || got.Version != first.Version {
		t.Errorf("at the limit: %v", err)
	}
}

// An operator may allow more keys than Azure, or fewer.
func TestKeyLimitOfTheOperator(t *testing.T) {
	b := newBench(t, memory.New(), alphaID, ownDomain)
	b.Keys.cfg.MaxKeys = 2
	b.create(t, "first", CreateParams{})
	b.create(t, "second", CreateParams{})
	_, err := b.Create(t.Context(), alice, "third", CreateParams{Type: "EC"})
	wantKind(t, err, failure.Conflict)
	b.Keys.cfg.MaxKeys = 3
	b.create(t, "third", CreateParams{})
}

// Covers R3, R1, K9: whatever fails below, the caller hears the right kind and nothing is half made.
func TestBrokenGround(t *testing.T) {
	source := newBench(t, memory.New(), betaID, ownDomain)
	for range 3 {
		source.create(t, "restored", CreateParams{})
	}
	blob, err := source.Backup(t.Context(), alice, "restored")
	if err != nil {
		t.Fatal(err)
	}
	writes := map[string]func(b *bench) error{
		"create": func(b *bench) error {
			_, err := b.Create(t.Context(), alice, "k", CreateParams{Type: "EC"})
			return err
		},
		"new version": func(b *bench) error {
			_, err := b.Create(t.Context(), alice, "old", CreateParams{Type: "EC"})
			return err
		},
		"restore": func(b *bench) error { _, err := b.Restore(t.Context(), alice, blob); return err },
		"delete":  func(b *bench) error { _, err := b.Delete(t.Context(), alice, "old"); return err },
		"recover": func(b *bench) error { _, err := b.Recover(t.Context(), alice, "gone"); return err },
		"purge":   func(b *bench) error { return b.Purge(t.Context(), alice, "gone") },
		"rotate":  func(b *bench) error { _, err := b.Rotate(t.Context(), alice, "aged"); return err },
		"set policy": func(b *bench) error {
			_, err := b.SetRotationPolicy(t.Context(), alice, "aged", RotationPolicy{TimeAfterCreate: "P30D"})
			return err
		},
		"remove policy": func(b *bench) error {
			_, err := b.SetRotationPolicy(t.Context(), alice, "aged", RotationPolicy{})
			return err
		},
		"sweep": func(b *bench) error { _, err := b.Sweep(t.Context()); return err },
		"update": func(b *bench) error {
			_, err := b.Update(t.Context(), alice, "old", "", UpdateParams{Enabled: ptr(false)})
			return err
		},
	}
	for name, write := range writes {
		for fault, row := range map[string]struct {
			fault memory.Fault
			kind  failure.Kind
			whole bool // after a restart everything is there, else nothing
		}{
			"disk full":                    {memory.Fault{At: 1, Err: store.ErrFull}, failure.Unavailable, false},
			"sync failed, not written":     {memory.Fault{At: 1, Err: store.ErrFailed}, failure.StorageFailed, false},
			"sync failed, written even so": {memory.Fault{At: 1, Err: store.ErrFailed, Written: true}, failure.StorageFailed, true},
		} {
			t.Run(name+", "+fault, func(t *testing.T) {
				b := newBench(t, memory.New(), alphaID, ownDomain)
				b.create(t, "old", CreateParams{})
				b.create(t, "gone", CreateParams{})
				if _, err := b.Delete(t.Context(), alice, "gone"); err != nil {
					t.Fatal(err)
				}
				b.create(t, "aged", CreateParams{})
				b.policy(t, "aged", RotationPolicy{ExpiryTime: "P90D"})
				b.run(time.Minute)
				before := dump(t, b.store)
				b.store.Inject(row.fault)
				wantKind(t, write(b), row.kind)
				again := newBench(t, b.store.Restart(), alphaID, ownDomain)
				after := dump(t, again.store)
				if maps.Equal(before, after) == row.whole {
					t.Errorf("%d records before, %d after, the same: %t", len(before), len(after), maps.Equal(before, after))
				}
				for _, name := range []string{"k", "old", "restored", "gone", "aged"} {
					if all, err := again.everyVersion(t, name); err != nil && failure.KindOf(err) != failure.NotFound {
						t.Errorf("%s after the restart: %d versions, %v", name, len(all), err)
					}
				}
				if !row.whole {
					if err := write(again); err != nil {
						t.Errorf("once more: %v", err)
					}
				}
			})
		}
	}
	closed := newBench(t, memory.New(), alphaID, ownDomain)
	if err := closed.store.Close(); err != nil {
		t.Fatal(err)
	}
	for name, write := range writes {
		if err := write(closed); failure.KindOf(err) != failure.Unavailable {
			t.Errorf("%s on a closed store: %v", name, err)
		}
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	b := newBench(t, memory.New(), alphaID, ownDomain)
	_, err = b.Create(gone, alice, "k", CreateParams{Type: "EC"})
	wantKind(t, err, failure.Unavailable)
}
