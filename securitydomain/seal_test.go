package securitydomain

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"strongroom/secret"
)

// A file sealed here opens with every quorum, says whose domain it holds, and is what the stock client reads.
func TestSealAndOpen(t *testing.T) {
	d, all := newDomain(t), custodians()
	for _, c := range []struct{ n, m int }{{3, 2}, {3, 3}, {5, 3}, {10, 2}, {10, 10}} {
		t.Run(fmt.Sprintf("%d of %d", c.m, c.n), func(t *testing.T) {
			text := d.seal(t, all[:c.n], c.m)
			for name, keys := range map[string][]Key{
				"first": all[:c.m], "last": all[c.n-c.m : c.n], "all": all[:c.n], "backwards": reversed(all[:c.n]),
				"without certificates": withoutCertificates(all[c.n-c.m : c.n]),
			} {
				opened := mustOpen(t, text, keys, d.items)
				if opened.DomainID != d.id || opened.Signature != SignatureValid || opened.HSMName != "alpha" || !opened.Created.Equal(testTime) {
					t.Errorf("%s: domain %s, signature %s, HSM %q, created %v", name, opened.DomainID, opened.Signature, opened.HSMName, opened.Created)
				}
				if len(opened.Used) != len(keys) || len(opened.PassedOver) != 0 || len(opened.Warnings) != 0 {
					t.Errorf("%s: used %v, passed over %v, warnings %v", name, opened.Used, opened.PassedOver, opened.Warnings)
				}
				if !strings.Contains(opened.Used[0].Custodian, "Custodian 0") {
					t.Errorf("%s: the custodian is called %q", name, opened.Used[0].Custodian)
				}
			}
			if c.m < c.n {
				_, err := open(text, all[:c.m-1])
				wantKind(t, err, TooFewShares)
			}

			var root object
			if err := json.Unmarshal(text, &root); err != nil {
				t.Fatal(err)
			}
			if root["version"] != 2.0 || sharedKeys(root)["required"] != float64(c.m) || sharedKeys(root)["key_algorithm"] != "shamir_share" || encData(root)["kdf"] != "sp108_kdf" {
				t.Errorf("not in the stock client's form: %s", text[:200])
			}
			if len(root) != 4 || len(sharedKeys(root)) != 3 || len(encData(root)) != 2 {
				t.Error("there are members that the stock client does not write")
			}
		})
	}
}

func reversed(keys []Key) []Key {
	keys = slices.Clone(keys)
	slices.Reverse(keys)
	return keys
}

// A domain of other items than Strongroom's, as after a migration from Azure, is carried unchanged.
func TestSealForeignItems(t *testing.T) {
	d, keys := newDomain(t), custodians()[:3]
	p := d.params(keys, 2)
	p.Items = []Item{{"hsm_backup", secret.New(bytes.Repeat([]byte{7}, 100_000))}, {`tag with "quotes", <html> & \`, secret.New([]byte("x"))}, {"empty", secret.Bytes{}}}
	text, err := Seal(p)
	if err != nil {
		t.Fatal(err)
	}
	opened := mustOpen(t, text, keys, p.Items)
	if opened.DomainID != d.id { // from the signed extension
		t.Errorf("domain %q, want %q", opened.DomainID, d.id)
	}
}

// Two files of one domain share nothing: another master key, other shares, other salts.
func TestSealIsFresh(t *testing.T) {
	d, keys := newDomain(t), custodians()[:3]
	one, two := d.seal(t, keys, 2), d.seal(t, keys, 2)
	f1, _ := Parse(one)
	f2, _ := Parse(two)
	for i := range f1.shares {
		a, err := f1.shares[i].jwe.openKey(keys[i].Decrypter)
		if err != nil {
			t.Fatal(err)
		}
		b, err := f2.shares[i].jwe.openKey(keys[i].Decrypter)
		if err != nil {
			t.Fatal(err)
		}
		if a.Equal(b) || bytes.Equal(f1.shares[i].hint.salt, f2.shares[i].hint.salt) {
			t.Errorf("share or salt %d is the same in two files", i+1)
		}
	}
}

// Covers S4, S5.
func TestCheckCustodiansRefuses(t *testing.T) {
	all := custodians()
	small := newCustodian("small", 1024)
	odd, err := rsa.GenerateKey(rand.Reader, 2056)
	if err != nil {
		t.Fatal(err)
	}
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	from, to := testTime.AddDate(-1, 0, 0), testTime.AddDate(1, 0, 0)
	renewed := certify("renewed", all[0].Decrypter.(*rsa.PrivateKey), from, to)
	// crypto/rsa makes no keys with a small exponent, and x509 parses them: so change one.
	exponent := func(e int) *x509.Certificate {
		cert := *all[3].Certificate
		pub := *cert.PublicKey.(*rsa.PublicKey)
		pub.E = e
		cert.PublicKey = &pub
		return &cert
	}
	with := func(extra ...*x509.Certificate) []*x509.Certificate { return append(certificates(all[:3]), extra...) }
	for name, c := range map[string]struct {
		certs    []*x509.Certificate
		required int
		kind     Kind
		about    string // custodian that the error names
	}{
		"no certificates":                 {nil, 2, BadQuorum, ""},
		"two certificates":                {certificates(all[:2]), 2, BadQuorum, ""},
		"eleven certificates":             {append(certificates(all), renewed), 2, BadQuorum, ""},
		"quorum of zero":                  {certificates(all[:3]), 0, BadQuorum, ""},
		"quorum of one":                   {certificates(all[:3]), 1, BadQuorum, ""},
		"negative quorum":                 {certificates(all[:3]), -2, BadQuorum, ""},
		"quorum of eleven":                {certificates(all), 11, BadQuorum, ""},
		"quorum above the number":         {certificates(all[:3]), 4, BadQuorum, ""},
		"the same certificate twice":      {with(all[1].Certificate), 2, BadCustodian, `certificate 4 "Custodian 02"`},
		"two certificates of one key":     {with(renewed), 2, BadCustodian, `certificate 4 "renewed"`},
		"RSA of 1024 bits":                {with(small.Certificate), 2, BadCustodian, `certificate 4 "small"`},
		"RSA of 2056 bits":                {with(certify("odd", odd, from, to)), 2, BadCustodian, `certificate 4 "odd"`},
		"an EC key":                       {with(certify("ec", ec, from, to)), 2, BadCustodian, `certificate 4 "ec"`},
		"public exponent 3":               {with(exponent(3)), 2, BadCustodian, `certificate 4 "Custodian 04"`},
		"an even public exponent":         {with(exponent(65538)), 2, BadCustodian, `certificate 4 "Custodian 04"`},
		"a certificate that is not there": {with(nil), 2, BadCustodian, "certificate 4"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := CheckCustodians(c.certs, c.required, testTime)
			e := wantKind(t, err, c.kind)
			if e.Custodian != c.about {
				t.Errorf("the error names %q, want %q", e.Custodian, c.about)
			}
			if strings.Contains(name, "same certificate") != strings.Contains(e.Message, "is the same certificate as number 2") {
				t.Errorf("the message says: %s", e.Message)
			}
			p := newDomain(t).params(all[:3], c.required)
			p.Certificates = c.certs
			text, err := Seal(p)
			if wantKind(t, err, c.kind); text != nil {
				t.Error("Seal gave a file all the same")
			}
		})
	}
}

func TestCheckCustodiansWarns(t *testing.T) {
	keys := custodians()[:3]
	certs := certificates(keys)
	certs[1] = certify("late", keys[1].Decrypter.(*rsa.PrivateKey), testTime.AddDate(-2, 0, 0), testTime.AddDate(0, 0, -1))
	certs[2] = certify("early", keys[2].Decrypter.(*rsa.PrivateKey), testTime.AddDate(0, 0, 1), testTime.AddDate(2, 0, 0))
	warnings, err := CheckCustodians(certs, 2, testTime)
	if err != nil {
		t.Fatal(err)
	}
	if len(warnings) != 2 || warnings[0].Code != WarnExpired || !strings.Contains(warnings[0].Message, `"late" expired on 2026-11-22`) || warnings[1].Code != WarnNotYetValid {
		t.Errorf("got %v", warnings)
	}
	d := newDomain(t)
	p := d.params(keys, 2)
	p.Certificates = certs
	text, err := Seal(p)
	if err != nil {
		t.Fatal(err)
	}
	mustOpen(t, text, keys[1:], d.items)
}

type brokenSigner struct {
	crypto.Signer
	sign func() ([]byte, error)
}

func (s brokenSigner) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) { return s.sign() }

type limitedReader struct{ left int }

func (r *limitedReader) Read(p []byte) (int, error) {
	if r.left < len(p) {
		return 0, errors.New("out of randomness")
	}
	r.left -= len(p)
	return rand.Read(p)
}

func TestSealRefuses(t *testing.T) {
	d, other := newDomain(t), newDomain(t)
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		change func(*SealParams)
		kind   Kind
	}{
		"no randomness":              {func(p *SealParams) { p.Rand = nil }, Random},
		"no signer":                  {func(p *SealParams) { p.Signer = nil }, InvalidParameter},
		"a signer on P-256":          {func(p *SealParams) { p.Signer, p.Items = p256, p.Items[:2] }, InvalidParameter},
		"another domain's signer":    {func(p *SealParams) { p.Signer = other.signer }, InvalidParameter},
		"a signing key that is none": {func(p *SealParams) { p.Items = []Item{{TagSigningKey, secret.New([]byte("x"))}} }, InvalidParameter},
		"no time":                    {func(p *SealParams) { p.Created = time.Time{} }, InvalidParameter},
		"a name with a line end":     {func(p *SealParams) { p.HSMName = "al\npha" }, InvalidParameter},
		"a long name":                {func(p *SealParams) { p.HSMName = strings.Repeat("a", 129) }, InvalidParameter},
		"no items":                   {func(p *SealParams) { p.Items = nil }, InvalidParameter},
		"65 items":                   {func(p *SealParams) { p.Items = numbered(65) }, InvalidParameter},
		"an empty tag":               {func(p *SealParams) { p.Items[0].Tag = "" }, InvalidParameter},
		"a tag beyond ASCII":         {func(p *SealParams) { p.Items[0].Tag = "schlüssel" }, InvalidParameter},
		"a long tag":                 {func(p *SealParams) { p.Items[0].Tag = strings.Repeat("t", 129) }, InvalidParameter},
		"the same tag twice":         {func(p *SealParams) { p.Items[0].Tag = p.Items[1].Tag }, InvalidParameter},
		"an item too large":          {func(p *SealParams) { p.Items[0].Value = secret.Take(make([]byte, MaxItemBytes+1)) }, InvalidParameter},
		"a file too large": {func(p *SealParams) {
			p.Items = append(p.Items, Item{"a", secret.Take(make([]byte, MaxItemBytes))}, Item{"b", secret.Take(make([]byte, MaxItemBytes))})
		}, InvalidParameter},
		"randomness for no master key": {func(p *SealParams) { p.Rand = &limitedReader{31} }, Random},
		"randomness for no polynomial": {func(p *SealParams) { p.Rand = &limitedReader{40} }, Random},
		"randomness for no salt":       {func(p *SealParams) { p.Rand = &limitedReader{32 + 64 + 95} }, Random},
		"a signer that fails": {func(p *SealParams) {
			p.Signer = brokenSigner{d.signer, func() ([]byte, error) { return nil, errors.New("no") }}
		}, Internal},
		"a signer that returns junk": {func(p *SealParams) {
			p.Signer = brokenSigner{d.signer, func() ([]byte, error) { return []byte("junk"), nil }}
		}, Internal},
		"a signer that signs something else": {func(p *SealParams) {
			p.Signer = brokenSigner{d.signer, func() ([]byte, error) { return d.signer.Sign(rand.Reader, make([]byte, 48), crypto.SHA384) }}
		}, Internal},
	} {
		t.Run(name, func(t *testing.T) {
			p := d.params(custodians()[:3], 2)
			p.Items = slices.Clone(p.Items)
			c.change(&p)
			text, err := Seal(p)
			if wantKind(t, err, c.kind); text != nil {
				t.Error("Seal gave a file all the same")
			}
		})
	}
}

func numbered(n int) []Item {
	items := make([]Item, n)
	for i := range items {
		items[i] = Item{fmt.Sprintf("item-%d", i), secret.New([]byte("x"))}
	}
	return items
}

// Labels come from certificates, and so from strangers: they are cut and cleaned.
func TestLabelsAreClean(t *testing.T) {
	keys := slices.Clone(custodians()[:3])
	for i, name := range []string{"evil\x1b[31m\u202e\nname\u0000", strings.Repeat("ü", 60), " \t "} {
		keys[i].Certificate = certify(name, keys[i].Decrypter.(*rsa.PrivateKey), testTime, testTime.AddDate(1, 0, 0))
	}
	f, err := Parse(newDomain(t).seal(t, keys, 2))
	if err != nil {
		t.Fatal(err)
	}
	in := f.Inspect()
	if got := in.Custodians[0].Label; got != "evil[31mname" {
		t.Errorf("got %q", got)
	}
	if got := in.Custodians[1].Label; got != strings.Repeat("ü", 32) {
		t.Errorf("got %q", got)
	}
	if got := in.Custodians[2].Label; got != "" || in.Signature != SignatureValid {
		t.Errorf("got %q, signature %s", got, in.Signature)
	}
}

// The signature is over the meaning: az writes the file again with other white space and order, and it still holds.
// Any other change breaks it, in names that nobody knows too.
func TestSignature(t *testing.T) {
	d, keys := newDomain(t), custodians()[:3]
	text := d.seal(t, keys, 2)
	var root any
	if err := json.Unmarshal(text, &root); err != nil {
		t.Fatal(err)
	}
	rewritten, err := json.MarshalIndent(root, " ", "\t")
	if err != nil {
		t.Fatal(err)
	}
	other := newDomain(t)
	for name, c := range map[string]struct {
		text []byte
		want string
	}{
		"as sealed":                    {text, SignatureValid},
		"written again by another":     {rewritten, SignatureValid},
		"an unknown member added":      {edit(t, text, set(top, "note", "hello")), SignatureInvalid},
		"a number nobody can spell":    {edit(t, text, set(top, "note", 1.5)), SignatureInvalid},
		"another HSM name":             {edit(t, text, set(extensionOf, "hsm", "beta")), SignatureInvalid},
		"another date":                 {edit(t, text, set(extensionOf, "created", "2025-01-01T00:00:00Z")), SignatureInvalid},
		"another domain":               {edit(t, text, set(extensionOf, "domain_id", other.id)), SignatureInvalid},
		"an item removed":              {edit(t, text, func(r object) { encData(r)["data"] = encData(r)["data"].([]any)[:2] }), SignatureInvalid},
		"no signature":                 {edit(t, text, set(extensionOf, "signature", nil)), SignatureInvalid},
		"a short signature":            {edit(t, text, set(extensionOf, "signature", "AAAA")), SignatureInvalid},
		"a signature of zeros":         {edit(t, text, set(extensionOf, "signature", encode64(make([]byte, 96)))), SignatureInvalid},
		"no signing key":               {edit(t, text, set(extensionOf, "signing_key", nil)), SignatureInvalid},
		"a signing key that is none":   {edit(t, text, set(extensionOf, "signing_key", "AAAA")), SignatureInvalid},
		"no extension":                 {edit(t, text, set(top, "strongroom", nil)), SignatureAbsent},
		"an extension of another kind": {edit(t, text, set(top, "strongroom", "yes")), SignatureInvalid},
	} {
		f, err := Parse(c.text)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := f.Inspect().Signature; got != c.want {
			t.Errorf("%s: signature %s, want %s", name, got, c.want)
		}
		if key := f.SigningKey(); (key != nil) != (c.want == SignatureValid) || key != nil && !key.Equal(d.signer.Public()) {
			t.Errorf("%s: the signing key is %v", name, key)
		}
	}
}

// Somebody who signs a changed file with a key of their own makes no valid file of the domain that it names.
func TestSignatureByAnotherKey(t *testing.T) {
	d, other, keys := newDomain(t), newDomain(t), custodians()[:3]
	resign := func(domainID string) []byte {
		spki, err := x509.MarshalPKIXPublicKey(other.signer.Public())
		if err != nil {
			t.Fatal(err)
		}
		unsigned := edit(t, d.seal(t, keys, 2), func(root object) {
			e := extensionOf(root)
			delete(e, "signature")
			e["signing_key"], e["domain_id"], e["hsm"] = encode64(spki), domainID, "mallory"
		})
		signature, err := signFile(rand.Reader, other.signer, unsigned)
		if err != nil {
			t.Fatal(err)
		}
		return edit(t, unsigned, set(extensionOf, "signature", signature))
	}
	if f, err := Parse(resign(d.id)); err != nil || f.Inspect().Signature != SignatureInvalid {
		t.Errorf("a signature by another key under the genuine domain ID counts: %v", err)
	}
	// Under their own ID it is valid, and says so: then the opened signing key contradicts it.
	text := resign(other.id)
	if f, err := Parse(text); err != nil || f.Inspect().Signature != SignatureValid || f.Inspect().Extension.DomainID != other.id {
		t.Errorf("a file signed under its own domain ID: %v", err)
	}
	_, err := open(text, keys)
	if e := wantKind(t, err, ItemDamaged); e.Item != TagSigningKey {
		t.Errorf("got %+v", e)
	}
}

// ECDSA signatures of r ‖ s must not shrink when r or s is short.
func TestSignatureIsFixedLength(t *testing.T) {
	short := new(big.Int).Lsh(big.NewInt(1), 300)
	got, err := signFile(nil, brokenSigner{newDomain(t).signer, func() ([]byte, error) { return asn1Signature(short, big.NewInt(5)) }}, []byte(`{"strongroom":{}}`))
	if err != nil {
		t.Fatal(err)
	}
	if b, ok := decode64(got); !ok || len(b) != signatureBytes || b[95] != 5 || new(big.Int).SetBytes(b[:48]).Cmp(short) != 0 {
		t.Errorf("got %d bytes", len(b))
	}
}
