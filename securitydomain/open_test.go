package securitydomain

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"strongroom/secret"
	"strongroom/shamir"
)

// damages are the ways in which one share of a file can be broken. Each leaves the file readable.
func damages(t testing.TB, keys []Key, n, m int) map[string]func(root object, i int) {
	rewrite := func(change func([]byte) []byte) func(object, int) {
		return func(root object, i int) {
			jwe, err := parseEnvelope(share(root, i)["enc_key"].(string), algKey, maxShare)
			if err != nil {
				t.Fatal(err)
			}
			plain, openErr := jwe.openKey(keys[i].Decrypter)
			if openErr != nil {
				t.Fatal(openErr)
			}
			reseal(t, root, i, keys, secret.Take(change(slices.Clone(plain.Reveal()))))
		}
	}
	segment := func(n int) func(object, int) {
		return func(root object, i int) { share(root, i)["enc_key"] = flip(share(root, i)["enc_key"].(string), n) }
	}
	return map[string]func(object, int){
		"the content key is damaged":    segment(1),
		"the IV is damaged":             segment(2),
		"the ciphertext is damaged":     segment(3),
		"the tag is damaged":            segment(4),
		"the JWE is cut":                func(root object, i int) { s := share(root, i); s["enc_key"] = s["enc_key"].(string)[:400] },
		"the JWE is no JWE":             func(root object, i int) { share(root, i)["enc_key"] = "x" },
		"the JWE is missing":            func(root object, i int) { delete(share(root, i), "enc_key") },
		"the JWE is a number":           func(root object, i int) { share(root, i)["enc_key"] = 7 },
		"the entry is null":             func(root object, i int) { sharedKeys(root)["enc_shares"].([]any)[i] = nil },
		"the thumbprint is nobody's":    func(root object, i int) { share(root, i)["x5t_256"] = encode64(make([]byte, 32)) },
		"the thumbprint is missing":     func(root object, i int) { delete(share(root, i), "x5t_256") },
		"the share is short":            rewrite(func(b []byte) []byte { return b[:62] }),
		"the share is long":             rewrite(func(b []byte) []byte { return append(b, b[:2]...) }),
		"the share is empty":            rewrite(func([]byte) []byte { return nil }),
		"x is zero":                     rewrite(func(b []byte) []byte { return renumber(b, 0) }),
		"x is 127":                      rewrite(func(b []byte) []byte { return renumber(b, 127) }),
		"x is another share's":          rewrite(func(b []byte) []byte { return renumber(b, uint16((int(b[1]>>1)+1)%n+1)) }),
		"x is a free number":            rewrite(func(b []byte) []byte { return renumber(b, 77) }),
		"a value is above 256":          rewrite(func(b []byte) []byte { b[1] |= 1; b[0] = 2; return b }),
		"one word is changed":           rewrite(func(b []byte) []byte { b[10] ^= 1; return b }),
		"the share is another file's":   func(root object, i int) { reseal(t, root, i, keys, foreignShare(t, i+1, n, m)) },
		"the share is copied from next": func(root object, i int) { share(root, i)["enc_key"] = share(root, (i+1)%n)["enc_key"] },
	}
}

func renumber(b []byte, x uint16) []byte {
	for i := 0; i < len(b); i += 2 {
		binary.LittleEndian.PutUint16(b[i:], x<<9|binary.LittleEndian.Uint16(b[i:])&511)
	}
	return b
}

// harmless damages do not touch what is inside the share.
var harmless = map[string]bool{"the thumbprint is nobody's": true, "the thumbprint is missing": true}

// Covers S2, S10: each share in turn is damaged in each way; with one share more than the quorum the file opens and
// the odd one is named; without check values (Azure) as with them (Strongroom).
func TestOneDamagedShareNeverStopsAQuorum(t *testing.T) {
	g := goldens(t)[0]
	keys := custodians()[:4]
	d := newDomain(t)
	var goldenItems []Item
	if opened, err := open(g.sd, g.keys); err == nil {
		goldenItems = opened.Items
	}
	for _, file := range []struct {
		name  string
		text  []byte
		keys  []Key
		m     int
		items []Item
	}{
		{"azure", g.sd, g.keys, g.Required, goldenItems},
		{"strongroom", d.seal(t, keys, 3), keys, 3, d.items},
	} {
		file.keys = memoised(file.keys)
		for name, damage := range damages(t, file.keys, len(file.keys), file.m) {
			t.Run(file.name+"/"+name, func(t *testing.T) {
				for i := range file.keys {
					text := edit(t, file.text, func(root object) { damage(root, i) })
					for _, keys := range [][]Key{file.keys, reversed(file.keys), withoutCertificates(file.keys)} {
						opened := mustOpen(t, text, keys, file.items)
						if harmless[name] {
							if len(opened.PassedOver) > 0 || len(opened.Used) != len(keys) {
								t.Errorf("share %d was passed over: %v", i+1, opened.PassedOver)
							}
							continue
						}
						if len(opened.Used) != len(keys)-1 || len(opened.PassedOver) != 1 {
							t.Fatalf("share %d: used %v, passed over %v", i+1, opened.Used, opened.PassedOver)
						}
						odd := opened.PassedOver[0]
						if odd.Key != file.keys[i].Name || odd.Reason == "" {
							t.Errorf("share %d: passed over %+v, want that of %s", i+1, odd, file.keys[i].Name)
						}
						// Where the file gives the share to the key, it is named by position too.
						if (file.name == "strongroom" || keys[0].Certificate != nil) && odd.Position != i+1 && name != "the entry is null" {
							t.Errorf("share %d: the report names position %d: %+v", i+1, odd.Position, odd)
						}
						if !slices.ContainsFunc(opened.Warnings, func(w Warning) bool { return w.Code == WarnSharePassedOver }) {
							t.Errorf("share %d: no warning", i+1)
						}
					}
				}
			})
		}
	}
}

// With exactly the quorum and one share damaged there is nothing to recover from: the error has a kind, counts, and
// names who it was. A wrong master key is never taken.
func TestADamagedShareThatWasNeededIsNamed(t *testing.T) {
	keys := custodians()[:4]
	d := newDomain(t)
	sealed := d.seal(t, keys, 3)
	azure := edit(t, sealed, set(top, "strongroom", nil))
	for name, damage := range damages(t, keys, 4, 3) {
		if harmless[name] {
			continue
		}
		t.Run(name, func(t *testing.T) {
			_, err := open(edit(t, sealed, func(root object) { damage(root, 1) }), keys[:3])
			e := wantKind(t, err, ShareDamaged)
			if !strings.Contains(e.Custodian, `custodian 2 "Custodian 02"`) || e.Good != 2 || e.Required != 3 || len(e.Shares) != 1 || e.Shares[0].Key != keys[1].Name {
				t.Errorf("with check values: %+v", e)
			}
			for _, want := range []string{"3 custodians", "Custodian 02", keys[1].Name} {
				if !strings.Contains(e.Message, want) {
					t.Errorf("the message does not say %q: %s", want, e.Message)
				}
			}
			text, err := json.Marshal(e)
			if err != nil || !strings.Contains(string(text), `"kind":"share-damaged"`) {
				t.Errorf("as JSON: %s, %v", text, err)
			}

			if _, err = open(edit(t, azure, func(root object) { damage(root, 1) }), keys[:3]); err == nil {
				t.Fatal("the plain file opened")
			}
			switch e := err.(*Error); name {
			case "one word is changed", "the share is another file's", "x is a free number", "x is another share's":
				wantKind(t, err, SharesDoNotMatch) // intact in itself: nothing tells whose it was
			case "the entry is null":
				wantKind(t, err, TooFewShares) // nothing tells that it was custodian 2's
			default:
				wantKind(t, err, ShareDamaged)
				if !strings.HasPrefix(e.Custodian, "custodian 2 ") {
					t.Errorf("the plain file's error names %q", e.Custodian)
				}
			}
		})
	}
}

// Several damaged shares of many, no check values: the quorum that is left is found, and all the odd ones are named.
func TestManyDamagedShares(t *testing.T) {
	keys := custodians()
	d := newDomain(t)
	for name, text := range map[string][]byte{"with check values": d.seal(t, keys, 5), "without": edit(t, d.seal(t, keys, 5), set(top, "strongroom", nil))} {
		t.Run(name, func(t *testing.T) {
			bad := []int{0, 2, 4, 6, 8}
			damaged := edit(t, text, func(root object) {
				for _, i := range bad {
					reseal(t, root, i, keys, foreignShare(t, i+1, 10, 5))
				}
			})
			opened := mustOpen(t, damaged, keys, d.items)
			var names []int
			for _, r := range opened.PassedOver {
				names = append(names, r.Position-1)
			}
			if !slices.Equal(names, bad) {
				t.Errorf("passed over %v, want %v", names, bad)
			}
			// One more, and there is no quorum of good ones.
			damaged = edit(t, damaged, func(root object) { reseal(t, root, 9, keys, foreignShare(t, 10, 10, 5)) })
			_, err := open(damaged, keys)
			if name == "without" {
				wantKind(t, err, SharesDoNotMatch)
			} else if e := wantKind(t, err, ShareDamaged); e.Good != 4 || len(e.Shares) != 6 {
				t.Errorf("got %+v", e)
			}
		})
	}
}

// Shares of two files of one domain are each intact and do not belong together.
func TestSharesOfTwoFilesDoNotMix(t *testing.T) {
	keys := custodians()[:3]
	d := newDomain(t)
	var old object
	if err := json.Unmarshal(d.seal(t, keys, 3), &old); err != nil {
		t.Fatal(err)
	}
	mixed := func(root object) { share(root, 2)["enc_key"] = share(old, 2)["enc_key"] }
	now := d.seal(t, keys, 3)
	_, err := open(edit(t, now, mixed), keys)
	if e := wantKind(t, err, ShareDamaged); !strings.Contains(e.Custodian, "Custodian 03") {
		t.Errorf("the error names %q", e.Custodian)
	}
	_, err = open(edit(t, edit(t, now, mixed), set(top, "strongroom", nil)), keys)
	wantKind(t, err, SharesDoNotMatch)
}

// Damaged check values hide nothing and stop nothing: they are hints.
func TestDamagedCheckValues(t *testing.T) {
	keys := custodians()[:4]
	d := newDomain(t)
	text := edit(t, d.seal(t, keys, 2), func(root object) {
		for i, s := range extensionOf(root)["shares"].([]any) {
			if i != 3 {
				s.(object)["check"] = encode64(make([]byte, 32))
			}
		}
	})
	for _, quorum := range quorums(keys, 2) {
		opened := mustOpen(t, text, quorum, d.items)
		if len(opened.Used) != len(quorum) || opened.Signature != SignatureInvalid {
			t.Errorf("used %v, signature %s", opened.Used, opened.Signature)
		}
	}
	// Nor do hints that send each key to another's share.
	text = edit(t, d.seal(t, keys, 2), func(root object) {
		list := extensionOf(root)["shares"].([]any)
		for i := range list {
			list[i].(object)["spki_256"] = list[(i+1)%4].(object)["x5t_256"]
			share(root, i)["x5t_256"] = Thumbprint(keys[(i+1)%4].Certificate)
		}
	})
	opened := mustOpen(t, text, keys, d.items)
	if len(opened.Used) != 4 || len(opened.PassedOver) != 0 {
		t.Errorf("used %v, passed over %v", opened.Used, opened.PassedOver)
	}
}

// Covers S4: one key counts once, however often it is given and however many shares are its own.
func TestOneKeyCountsOnce(t *testing.T) {
	keys := custodians()[:3]
	d := newDomain(t)
	text := d.seal(t, keys, 2)
	again := keys[0]
	again.Name, again.Certificate = "copy.key", certify("renewed", keys[0].Decrypter.(*rsa.PrivateKey), testTime, testTime.AddDate(1, 0, 0))
	_, err := open(text, []Key{keys[0], again})
	e := wantKind(t, err, TooFewShares)
	if e.Good != 1 || len(e.Shares) != 1 || e.Shares[0].Key != "copy.key" || !strings.Contains(e.Shares[0].Reason, "counts once") {
		t.Errorf("got %+v", e)
	}
	// Azure may have written a file in which one custodian has two shares; they are one custodian's all the same.
	f, err := Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	second, err := f.shares[1].jwe.openKey(keys[1].Decrypter)
	if err != nil {
		t.Fatal(err)
	}
	double := edit(t, edit(t, text, set(top, "strongroom", nil)), func(root object) {
		jwe, err := sealKey(second, keys[0].Certificate.PublicKey.(*rsa.PublicKey))
		if err != nil {
			t.Fatal(err)
		}
		share(root, 1)["enc_key"], share(root, 1)["x5t_256"] = jwe, Thumbprint(keys[0].Certificate)
	})
	_, err = open(double, keys[:1])
	wantKind(t, err, TooFewShares)
	mustOpen(t, double, []Key{keys[0], keys[2]}, d.items)
}

type token struct {
	*rsa.PrivateKey
	err error
}

func (k token) Decrypt(io.Reader, []byte, crypto.DecrypterOpts) ([]byte, error) { return nil, k.err }

type ecDecrypter struct{ *ecdsa.PrivateKey }

func (ecDecrypter) Decrypt(io.Reader, []byte, crypto.DecrypterOpts) ([]byte, error) {
	return nil, errors.New("no")
}

func TestOpenRefusesKeys(t *testing.T) {
	keys := custodians()[:5]
	d := newDomain(t)
	text := d.seal(t, keys[:3], 2)
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	locked := keys[1]
	locked.Decrypter = token{keys[1].Decrypter.(*rsa.PrivateKey), errors.New("PIN locked")}
	for name, c := range map[string]struct {
		keys []Key
		kind Kind
		says string
	}{
		"no keys":                      {nil, TooFewShares, "open 0"},
		"one key too few":              {keys[:1], TooFewShares, "open 1"},
		"nobody is a custodian":        {keys[3:], NotACustodian, "Custodian 04.key: it opens no share"},
		"one of two is no custodian":   {keys[2:4], TooFewShares, "Custodian 04.key: it opens no share"},
		"an EC key":                    {[]Key{{Name: "ec", Decrypter: ecDecrypter{ec}}}, NotACustodian, "not an RSA key"},
		"a key without a decrypter":    {[]Key{{Name: "none"}}, InvalidParameter, "cannot decrypt"},
		"too many keys":                {slices.Repeat(keys, 13), InvalidParameter, "65 keys"},
		"a token that will not":        {[]Key{keys[0], locked}, ShareDamaged, "PIN locked"},
		"a token that is no custodian": {[]Key{keys[0], {Name: "tok", Decrypter: token{keys[4].Decrypter.(*rsa.PrivateKey), errors.New("PIN locked")}}}, TooFewShares, "PIN locked"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := open(text, c.keys)
			if e := wantKind(t, err, c.kind); !strings.Contains(e.Message, c.says) {
				t.Errorf("the message does not say %q: %s", c.says, e.Message)
			}
		})
	}
	if _, err := Open(nil, keys); !errors.Is(err, InvalidParameter) {
		t.Errorf("no file: %v", err)
	}
	// A useless key among a quorum is reported and stops nothing; so does a certificate of another key.
	wrong := keys[1]
	wrong.Certificate = keys[2].Certificate
	opened := mustOpen(t, text, []Key{keys[0], keys[4], {Name: "ec", Decrypter: ecDecrypter{ec}}, wrong}, d.items)
	if len(opened.PassedOver) != 2 || len(opened.Used) != 2 || !slices.ContainsFunc(opened.Warnings, func(w Warning) bool { return w.Code == WarnKeyCertificate }) {
		t.Errorf("used %v, passed over %v, warnings %v", opened.Used, opened.PassedOver, opened.Warnings)
	}
}

// Items that do not open are named, and told from shares that do not.
func TestDamagedItems(t *testing.T) {
	keys := custodians()[:3]
	d := newDomain(t)
	sealed := d.seal(t, keys, 2)
	azure := edit(t, sealed, set(top, "strongroom", nil))
	hit := func(indices ...int) func(object) {
		return func(root object) {
			for _, i := range indices {
				item(root, i)["compact_jwe"] = flip(item(root, i)["compact_jwe"].(string), 3)
			}
		}
	}
	for name, c := range map[string]struct {
		text []byte
		keys []Key
		kind Kind
		item string
	}{
		"one item":                              {edit(t, azure, hit(1)), keys[:2], ItemDamaged, TagBackupKey},
		"two items":                             {edit(t, azure, hit(1, 2)), keys[:2], ItemDamaged, TagBackupKey},
		"all items, check values fit":           {edit(t, sealed, hit(0, 1, 2)), keys[:2], ItemDamaged, TagWrappingKey},
		"all items, more shares than needed":    {edit(t, azure, hit(0, 1, 2)), keys, ItemDamaged, TagWrappingKey},
		"all items, nothing to tell them apart": {edit(t, azure, hit(0, 1, 2)), keys[:2], SharesDoNotMatch, ""},
		"two items exchanged": {edit(t, azure, func(root object) {
			a, b := item(root, 0), item(root, 1)
			a["compact_jwe"], b["compact_jwe"] = b["compact_jwe"], a["compact_jwe"]
		}), keys, ItemDamaged, TagWrappingKey},
		"an item under another's tag": {edit(t, azure, set(itemAt(0), "tag", "other")), keys, ItemDamaged, "other"},
		"an item of another file of this domain": {edit(t, azure, func(root object) {
			var other object
			if err := json.Unmarshal(d.seal(t, keys, 2), &other); err != nil {
				t.Fatal(err)
			}
			item(root, 1)["compact_jwe"] = item(other, 1)["compact_jwe"]
		}), keys, ItemDamaged, TagBackupKey},
	} {
		t.Run(name, func(t *testing.T) {
			opened, err := open(c.text, c.keys)
			if e := wantKind(t, err, c.kind); e.Item != c.item || opened != nil {
				t.Errorf("the error names item %q, want %q: %v", e.Item, c.item, err)
			}
		})
	}
}

// A file that claims to be of another domain than its signing key is refused; taking the claim away opens it, and
// then the domain ID is that of the key.
func TestDomainIDIsThatOfTheSigningKey(t *testing.T) {
	keys := custodians()[:3]
	d, other := newDomain(t), newDomain(t)
	// Somebody with the public certificates makes a file of their own domain and puts the genuine extension on it.
	var genuine object
	if err := json.Unmarshal(other.seal(t, keys, 2), &genuine); err != nil {
		t.Fatal(err)
	}
	forged := edit(t, d.seal(t, keys, 2), set(top, "strongroom", genuine["strongroom"]))
	_, err := open(forged, keys)
	e := wantKind(t, err, ItemDamaged)
	if e.Item != TagSigningKey || !strings.Contains(e.Message, d.id) || !strings.Contains(e.Message, other.id) {
		t.Errorf("got %+v", e)
	}
	opened := mustOpen(t, edit(t, forged, set(top, "strongroom", nil)), keys, d.items)
	if opened.DomainID != d.id {
		t.Errorf("domain %s, want %s", opened.DomainID, d.id)
	}
	// With an invalid signature nothing of the extension becomes the domain ID.
	p := d.params(keys, 2)
	p.Items = numbered(2)
	text, err := Seal(p)
	if err != nil {
		t.Fatal(err)
	}
	if opened = mustOpen(t, text, keys, p.Items); opened.DomainID != d.id {
		t.Errorf("domain %q from a valid extension", opened.DomainID)
	}
	if opened = mustOpen(t, edit(t, text, set(extensionOf, "hsm", "x")), keys, p.Items); opened.DomainID != "" || opened.Signature != SignatureInvalid {
		t.Errorf("domain %q from an invalid extension", opened.DomainID)
	}
}

// A signing-key item that is no P-384 key is refused where the extension says that it must be one, and ignored in a
// file of somebody else.
func TestForeignSigningKeyItem(t *testing.T) {
	keys := custodians()[:3]
	d := newDomain(t)
	p := d.params(keys, 2)
	p.Items = numbered(1)
	text, err := Seal(p)
	if err != nil {
		t.Fatal(err)
	}
	f, err := Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	var shares []secret.Bytes
	for i := range 2 {
		s, err := f.shares[i].jwe.openKey(keys[i].Decrypter)
		if err != nil {
			t.Fatal(err)
		}
		shares = append(shares, s)
	}
	master, err := shamir.Combine(shares, 2)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := x509.MarshalPKCS8PrivateKey(keys[0].Decrypter)
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string][]byte{"junk": []byte("junk"), "an RSA key": rsaKey} {
		jwe, err := sealItem(master, Item{TagSigningKey, secret.New(value)})
		if err != nil {
			t.Fatal(err)
		}
		changed := edit(t, text, func(root object) { item(root, 0)["tag"], item(root, 0)["compact_jwe"] = TagSigningKey, jwe })
		_, err = open(changed, keys)
		if e := wantKind(t, err, ItemDamaged); e.Item != TagSigningKey {
			t.Errorf("%s: %+v", name, e)
		}
		opened, err := open(edit(t, changed, set(top, "strongroom", nil)), keys)
		if err != nil || opened.DomainID != "" {
			t.Errorf("%s without an extension: %v", name, err)
		}
	}
}

// Covers S9 and the bounds: every number and name that is not known is refused by its kind.
func TestParseRefuses(t *testing.T) {
	d, keys := newDomain(t), custodians()[:3]
	whole := d.seal(t, keys, 2)
	list := func(root object) []any { return sharedKeys(root)["enc_shares"].([]any) }
	items := func(root object) []any { return encData(root)["data"].([]any) }
	for name, c := range map[string]struct {
		change func(object)
		kind   Kind
		says   string
	}{
		"version 0":                    {set(top, "version", 0), UnsupportedVersion, "version 0"},
		"version 3":                    {set(top, "version", 3), UnsupportedVersion, "version 3"},
		"version as a string":          {set(top, "version", "2"), Malformed, "integer"},
		"version with a fraction":      {set(top, "version", 2.5), Malformed, "integer"},
		"version 1 with shared keys":   {set(top, "version", 1), Malformed, "version 1"},
		"both key objects":             {set(top, "SplitKeys", object{}), Malformed, "both"},
		"no key object":                {set(top, "SharedKeys", nil), Malformed, "neither"},
		"shared keys is a list":        {set(top, "SharedKeys", []any{}), Malformed, "SharedKeys"},
		"unknown sharing":              {set(sharedKeys, "key_algorithm", "xor_split"), UnsupportedAlgorithm, "xor_split"},
		"sharing in capitals":          {set(sharedKeys, "key_algorithm", "SHAMIR_SHARE"), UnsupportedAlgorithm, "SHAMIR_SHARE"},
		"no sharing algorithm":         {set(sharedKeys, "key_algorithm", nil), Malformed, "key_algorithm"},
		"unknown KDF":                  {set(encData, "kdf", "hkdf"), UnsupportedKDF, "hkdf"},
		"no KDF":                       {set(encData, "kdf", nil), Malformed, "kdf"},
		"quorum of one":                {set(sharedKeys, "required", 1), BadQuorum, "requires 1"},
		"quorum of zero":               {set(sharedKeys, "required", 0), BadQuorum, "requires 0"},
		"negative quorum":              {set(sharedKeys, "required", -2), BadQuorum, "requires -2"},
		"quorum of eleven":             {set(sharedKeys, "required", 11), BadQuorum, "requires 11"},
		"quorum above the shares":      {set(sharedKeys, "required", 4), BadQuorum, "requires 4"},
		"quorum as a string":           {set(sharedKeys, "required", "2"), Malformed, "required"},
		"no quorum":                    {set(sharedKeys, "required", nil), Malformed, "required"},
		"a total that is wrong":        {set(sharedKeys, "total", 4), BadQuorum, "another number"},
		"a total that is text":         {set(sharedKeys, "total", "3"), BadQuorum, "another number"},
		"no shares":                    {set(sharedKeys, "enc_shares", nil), Malformed, "no list of shares"},
		"eleven shares":                {func(r object) { sharedKeys(r)["enc_shares"] = slices.Repeat(list(r), 4)[:11] }, BadQuorum, "11 shares"},
		"no items":                     {func(r object) { encData(r)["data"] = []any{} }, Malformed, "no domain items"},
		"items missing":                {set(encData, "data", nil), Malformed, "no domain items"},
		"no EncData":                   {set(top, "EncData", nil), Malformed, "EncData"},
		"65 items":                     {func(r object) { encData(r)["data"] = slices.Repeat(items(r), 22)[:65] }, Malformed, "65"},
		"a tag twice":                  {func(r object) { encData(r)["data"] = append(items(r), items(r)[0]) }, Malformed, "twice"},
		"no tag":                       {set(itemAt(0), "tag", nil), Malformed, "item 1"},
		"an empty tag":                 {set(itemAt(1), "tag", ""), Malformed, "item 2"},
		"a tag with a control":         {set(itemAt(0), "tag", "a\x1b[31m"), Malformed, "item 1"},
		"a long tag":                   {set(itemAt(0), "tag", strings.Repeat("t", 129)), Malformed, "item 1"},
		"an item without content":      {set(itemAt(0), "compact_jwe", nil), ItemDamaged, TagWrappingKey},
		"an item that is no JWE":       {set(itemAt(0), "compact_jwe", "x.y"), ItemDamaged, TagWrappingKey},
		"an extension from the future": {set(extensionOf, "format", 2), UnsupportedVersion, "format 2"},
		"key pairs under version 2":    {func(r object) { delete(r, "SharedKeys"); r["SplitKeys"] = object{} }, Malformed, "version 2"},
		"version 1 without a list": {func(r object) {
			delete(r, "SharedKeys")
			r["version"], r["SplitKeys"] = 1, object{"key_algorithm": "xor_split"}
		}, Malformed, "key pairs"},
		"version 1, shamir": {func(r object) {
			delete(r, "SharedKeys")
			r["version"], r["SplitKeys"] = 1, object{"key_algorithm": "shamir_share"}
		}, UnsupportedAlgorithm, "shamir_share"},
		"version 1 with 101 pairs": {func(r object) {
			delete(r, "SharedKeys")
			r["version"], r["SplitKeys"] = 1, object{"key_algorithm": "xor_split", "keys": slices.Repeat([]any{object{}}, 101)}
		}, BadQuorum, "101"},
		"terminal control in a name": {set(encData, "kdf", "\x1b]0;owned\x07\u202e"), UnsupportedKDF, "·]0;owned··"},
	} {
		t.Run(name, func(t *testing.T) {
			f, err := Parse(edit(t, whole, c.change))
			if e := wantKind(t, err, c.kind); !strings.Contains(e.Message, c.says) || f != nil {
				t.Errorf("the message does not say %q: %s", c.says, e.Message)
			}
		})
	}
	for name, text := range map[string]string{
		"nothing":           "",
		"not JSON":          "-----BEGIN CERTIFICATE-----",
		"a list":            "[]",
		"trailing data":     string(whole) + "{}",
		"duplicate names":   strings.Replace(string(whole), `"version":2`, `"version":2,"version":2`, 1),
		"a duplicate deep":  strings.Replace(string(whole), `"required":2`, `"required":2,"required":3`, 1),
		"a byte order mark": "\ufeff" + string(whole),
		"a huge file":       string(whole) + strings.Repeat(" ", MaxFile),
		"brackets":          strings.Repeat("[", MaxFile),
		"names in capitals": strings.Replace(string(whole), "SharedKeys", "sharedkeys", 1),
		"a transfer file":   `{"EncData":{},"WrappedKey":{}}`,
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Parse([]byte(text))
			wantKind(t, err, Malformed)
		})
	}
}

// What is tolerated: no version (the stock client ignores it), a total that is right, names that nobody knows.
func TestParseTolerates(t *testing.T) {
	d, keys := newDomain(t), custodians()[:3]
	plain := edit(t, d.seal(t, keys, 2), set(top, "strongroom", nil))
	for name, change := range map[string]func(object){
		"no version":            set(top, "version", nil),
		"a total":               set(sharedKeys, "total", 3),
		"an unknown top name":   set(top, "comment", object{"a": []any{1.5, nil}}),
		"an unknown deep name":  set(shareAt(0), "comment", "x"),
		"an unknown item name":  set(itemAt(0), "comment", "x"),
		"an unknown share name": set(sharedKeys, "comment", "x"),
	} {
		t.Run(name, func(t *testing.T) {
			text := edit(t, plain, change)
			mustOpen(t, text, keys, d.items)
			f, err := Parse(text)
			if err != nil {
				t.Fatal(err)
			}
			in := f.Inspect()
			if strings.HasPrefix(name, "an unknown") && (len(in.Unknown) != 1 || !strings.HasSuffix(in.Unknown[0], "comment") || in.Origin != OriginUnknown) {
				t.Errorf("unknown names %q, origin %s", in.Unknown, in.Origin)
			}
			if name == "no version" && (len(in.Warnings) != 1 || in.Warnings[0].Code != WarnNoVersion) {
				t.Errorf("warnings %v", in.Warnings)
			}
			if name == "a total" && in.Origin != OriginAzure {
				t.Errorf("origin %s", in.Origin)
			}
		})
	}
}

func TestInspect(t *testing.T) {
	d, keys := newDomain(t), custodians()[:3]
	f, err := Parse(d.seal(t, keys, 2))
	if err != nil {
		t.Fatal(err)
	}
	in := f.Inspect()
	if in.Version != 2 || in.Origin != OriginStrongroom || in.Required != 2 || in.Total != 3 || in.Signature != SignatureValid || f.Required() != 2 ||
		in.Extension == nil || in.Extension.DomainID != d.id || in.Extension.HSM != "alpha" || !in.Extension.Created.Equal(testTime) || len(in.Warnings) != 0 {
		t.Errorf("got %+v", in)
	}
	for i, c := range in.Custodians {
		id, err := publicKeyID(keys[i].Certificate.PublicKey.(*rsa.PublicKey))
		if err != nil || c.Position != i+1 || c.X5T256 != Thumbprint(keys[i].Certificate) || c.SPKI256 != id || !c.HasCheck || c.Damage != "" || c.Label != keys[i].Certificate.Subject.CommonName {
			t.Errorf("custodian %d is shown as %+v", i, c)
		}
	}
	if len(in.Items) != 3 || in.Items[0].Tag != TagWrappingKey || in.Items[0].Bytes != 48 {
		t.Errorf("items are shown as %+v", in.Items)
	}
	text, err := json.Marshal(in)
	if err != nil || !strings.Contains(string(text), `"created":"2026-11-23T16:00:00Z"`) {
		t.Errorf("as JSON: %s, %v", text, err)
	}

	g := goldens(t)[0]
	damaged := edit(t, g.sd, func(root object) { share(root, 1)["enc_key"] = "junk" })
	if f, err = Parse(damaged); err != nil {
		t.Fatal(err)
	}
	in = f.Inspect()
	if in.Origin != OriginAzure || in.Signature != SignatureAbsent || in.Extension != nil || in.Custodians[1].Damage == "" || in.Custodians[0].HasCheck || len(in.Notes) < 4 {
		t.Errorf("got %+v", in)
	}
}

// Parse and Open of one File are safe side by side.
func TestFileIsShared(t *testing.T) {
	d, keys := newDomain(t), custodians()[:3]
	f, err := Parse(d.seal(t, keys, 2))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	for range 4 {
		go func() {
			opened, err := Open(f, keys)
			if err == nil && !d.sameItems(opened.Items) {
				err = errors.New("other items")
			}
			f.Inspect()
			done <- err
		}()
	}
	for range 4 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}
