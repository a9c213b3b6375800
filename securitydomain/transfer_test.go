package securitydomain

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"

	"strongroom/secret"
)

var rng = rand.Reader

func TestTransferRoundTrip(t *testing.T) {
	d, exchange := newDomain(t), newCustodian("transfer-key", 2048)
	text, err := MakeTransfer(rng, d.items, exchange.Certificate)
	if err != nil {
		t.Fatal(err)
	}
	transfer, err := ParseTransfer(text)
	if err != nil {
		t.Fatal(err)
	}
	if transfer.X5T256 != Thumbprint(exchange.Certificate) || !slices.Equal(transfer.Tags, []string{TagWrappingKey, TagBackupKey, TagSigningKey}) {
		t.Errorf("got %+v", transfer)
	}
	items, err := OpenTransfer(text, exchange.Certificate, exchange.Decrypter)
	if err != nil || !d.sameItems(items) {
		t.Fatalf("open: %v", err)
	}
	again, err := MakeTransfer(rng, d.items, exchange.Certificate)
	if err != nil || bytes.Equal(text, again) {
		t.Errorf("two transfer files are the same: %v", err)
	}
	var root object
	if err := json.Unmarshal(text, &root); err != nil {
		t.Fatal(err)
	}
	if len(root) != 2 || len(root["WrappedKey"].(object)) != 2 || encData(root)["kdf"] != "sp108_kdf" {
		t.Errorf("not in the stock client's form: %s", text[:200])
	}
}

func wrappedKey(root object) object { return root["WrappedKey"].(object) }

func TestTransferRefuses(t *testing.T) {
	d, exchange, other := newDomain(t), newCustodian("transfer-key", 2048), custodians()[0]
	text, err := MakeTransfer(rng, d.items, exchange.Certificate)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		text []byte
		kind Kind
		says string
	}{
		"for another exchange key": {must(MakeTransfer(rng, d.items, other.Certificate)), WrongExchangeKey, Thumbprint(other.Certificate)},
		"an SD file":               {goldens(t)[0].sd, Malformed, "restore-blob"},
		"nothing":                  {nil, Malformed, "cannot be read"},
		"cut":                      {text[:len(text)/2], Malformed, "cannot be read"},
		"no wrapped key":           {edit(t, text, set(top, "WrappedKey", nil)), Malformed, "no wrapped key"},
		"no content":               {edit(t, text, set(wrappedKey, "enc_key", nil)), Malformed, "no wrapped key"},
		"no thumbprint":            {edit(t, text, set(wrappedKey, "x5t_256", nil)), Malformed, "no wrapped key"},
		"a short thumbprint":       {edit(t, text, set(wrappedKey, "x5t_256", "AAAA")), Malformed, "thumbprint"},
		"a wrapped key in dir":     {edit(t, text, func(r object) { wrappedKey(r)["enc_key"] = item(r, 0)["compact_jwe"] }), UnsupportedAlgorithm, "dir"},
		"an unknown KDF":           {edit(t, text, set(encData, "kdf", "none")), UnsupportedKDF, "none"},
		"a tag twice":              {edit(t, text, set(itemAt(1), "tag", TagWrappingKey)), Malformed, "twice"},
		"a missing tag":            {edit(t, text, set(itemAt(1), "tag", nil)), Malformed, "item 2"},
		"an item under another's":  {edit(t, text, set(itemAt(1), "tag", "other")), ItemDamaged, "other"},
		"a duplicate name":         {bytes.Replace(text, []byte(`"kdf"`), []byte(`"kdf":"x","kdf"`), 1), Malformed, "same name twice"},
	} {
		t.Run(name, func(t *testing.T) {
			items, err := OpenTransfer(c.text, exchange.Certificate, exchange.Decrypter)
			if e := wantKind(t, err, c.kind); !strings.Contains(e.Message, c.says) || items != nil {
				t.Errorf("the message does not say %q: %s", c.says, e.Message)
			}
		})
	}

	_, err = OpenTransfer(text, exchange.Certificate, other.Decrypter)
	wantKind(t, err, InvalidParameter)
	_, err = OpenTransfer(text, exchange.Certificate, nil)
	wantKind(t, err, InvalidParameter)
	_, err = OpenTransfer(text, nil, exchange.Decrypter)
	wantKind(t, err, InvalidParameter)
	_, err = MakeTransfer(nil, d.items, exchange.Certificate)
	wantKind(t, err, Random)
	_, err = MakeTransfer(&limitedReader{31}, d.items, exchange.Certificate)
	wantKind(t, err, Random)
	_, err = MakeTransfer(rng, nil, exchange.Certificate)
	wantKind(t, err, InvalidParameter)
	_, err = MakeTransfer(rng, d.items, nil)
	wantKind(t, err, InvalidParameter)
	_, err = MakeTransfer(rng, d.items, newCustodian("small", 1024).Certificate)
	wantKind(t, err, InvalidParameter)
	_, err = MakeTransfer(rng, []Item{{"a", secret.Take(make([]byte, MaxItemBytes))}, {"b", secret.Take(make([]byte, MaxItemBytes))}}, exchange.Certificate)
	wantKind(t, err, InvalidParameter)
}

func must(b []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return b
}

// Covers S11: whatever is wrong behind the public form, the answer is the same to the letter, and the items are
// all tried. (How long it takes is for a statistical test of the whole server; here the work is counted.)
func TestTransferFailuresAreAlike(t *testing.T) {
	d, exchange := newDomain(t), newCustodian("transfer-key", 2048)
	text, err := MakeTransfer(rng, d.items, exchange.Certificate)
	if err != nil {
		t.Fatal(err)
	}
	wrap := func(plain []byte) func(object) {
		return func(root object) {
			jwe, err := sealKey(secret.New(plain), exchange.Certificate.PublicKey.(*rsa.PublicKey))
			if err != nil {
				t.Fatal(err)
			}
			wrappedKey(root)["enc_key"] = jwe
		}
	}
	foreign, err := sealKey(secret.New(make([]byte, masterBytes)), custodians()[0].Certificate.PublicKey.(*rsa.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	hit := func(of func(object) object, name string, segment int) func(object) {
		return func(root object) { of(root)[name] = flip(of(root)[name].(string), segment) }
	}
	// An attacker who knows that failures go on with a content key, or a master key, of zeros gains nothing by
	// encrypting under zeros.
	zeros := func(root object) {
		for i, tag := range []string{TagWrappingKey, TagBackupKey, TagSigningKey} {
			jwe, err := sealItem(secret.New(make([]byte, masterBytes)), Item{tag, d.items[i].Value})
			if err != nil {
				t.Fatal(err)
			}
			item(root, i)["compact_jwe"] = jwe
		}
	}
	var first *Error
	for name, change := range map[string]func(object){
		"OAEP":                          hit(wrappedKey, "enc_key", 1),
		"OAEP, another key's":           set(wrappedKey, "enc_key", foreign),
		"tag of the wrapped key":        hit(wrappedKey, "enc_key", 4),
		"ciphertext of the wrapped key": hit(wrappedKey, "enc_key", 3),
		"a master key of 31 bytes":      wrap(make([]byte, 31)),
		"a master key of 33 bytes":      wrap(make([]byte, 33)),
		"an empty master key":           wrap(nil),
		"another master key":            wrap(make([]byte, 32)),
		"tag of the first item":         hit(itemAt(0), "compact_jwe", 4),
		"ciphertext of the last item":   hit(itemAt(2), "compact_jwe", 3),
		"IV of an item":                 hit(itemAt(1), "compact_jwe", 2),
		"OAEP, items under zeros":       func(root object) { hit(wrappedKey, "enc_key", 1)(root); zeros(root) },
		"short key, items under zeros":  func(root object) { wrap(nil)(root); zeros(root) },
	} {
		items, err := OpenTransfer(edit(t, text, change), exchange.Certificate, exchange.Decrypter)
		e := wantKind(t, err, TransferUnopenable)
		if items != nil {
			t.Errorf("%s: items came out", name)
		}
		if first == nil {
			first = e
		}
		if !reflect.DeepEqual(e, first) {
			t.Errorf("%s: %+v differs from %+v", name, e, first)
		}
	}
}
