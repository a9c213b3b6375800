package securitydomain

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"strongroom/secret"
)

// checkError fails unless err is one of this package's errors, with a kind that a stranger's bytes may cause.
func checkError(t *testing.T, err error) {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) || e.Message == "" || e.Kind == Internal || e.Kind == InvalidParameter || e.Kind == Random {
		t.Fatalf("error %#v", err)
	}
	if len(e.Message) > 4096 {
		t.Fatalf("a message of %d bytes", len(e.Message))
	}
	for _, r := range e.Message {
		if !showable(r) {
			t.Fatalf("the message holds %q", r)
		}
	}
	if _, err := json.Marshal(e); err != nil {
		t.Fatal(err)
	}
}

// FuzzParse: no text crashes the reader or makes it work hard; what it accepts it can describe and, with the golden
// keys, opens to the golden items or not at all. Seeds and keys are fixtures, because each worker of the fuzzer
// makes its own and they must agree.
func FuzzParse(f *testing.F) {
	g := goldens(f)[0]
	f.Add(g.sd)
	f.Add(withFixedExtension(f, g))
	f.Add(splitKeys(f, g))
	f.Add(edit(f, g.sd, set(top, "version", nil)))
	f.Add(edit(f, g.sd, func(root object) { share(root, 0)["enc_key"] = "x" }))
	f.Add(edit(f, g.sd, set(top, "comment", 1.5)))
	f.Add(g.blob)
	f.Add([]byte(`{"EncData":{"data":[{"compact_jwe":"....","tag":"t"}],"kdf":"sp108_kdf"},"SharedKeys":{"enc_shares":[{},{}],"key_algorithm":"shamir_share","required":2}}`))
	f.Add(bytes.Repeat([]byte("["), 100))
	keys := memoised(g.keys[:2])
	f.Fuzz(func(t *testing.T, text []byte) {
		file, err := Parse(text)
		if err != nil {
			checkError(t, err)
			return
		}
		in := file.Inspect()
		if in.Required < MinRequired || in.Total > 2*maxPairs || len(in.Items) < 1 {
			t.Fatalf("inspected as %+v", in)
		}
		if out, err := json.Marshal(in); err != nil || len(out) > 4*MaxFile {
			t.Fatalf("%d bytes, %v", len(out), err)
		}
		opened, err := Open(file, keys)
		if err != nil {
			checkError(t, err)
			return
		}
		for _, item := range opened.Items {
			if !g.holds(item) {
				t.Fatalf("item %q came out with a content that nobody sealed", item.Tag)
			}
		}
	})
}

// withFixedExtension is the golden file with a well-formed "strongroom" object, whose signature does not hold.
func withFixedExtension(t testing.TB, g *golden) []byte {
	t.Helper()
	fill := func(b byte) string { return encode64(bytes.Repeat([]byte{b}, 32)) }
	var shares []any
	for i, s := range g.Shares {
		shares = append(shares, object{"x": i + 1, "label": s.File, "x5t_256": s.X5T, "spki_256": fill(1), "salt": fill(2), "check": fill(3)})
	}
	return edit(t, g.sd, set(top, "strongroom", object{
		"format": 1, "domain_id": strings.Repeat("ab", 32), "hsm": "alpha", "created": "2026-11-23T16:00:00Z", "total": len(shares), "required": g.Required,
		"signing_key": "AAAA", "shares": shares, "signature": encode64(make([]byte, signatureBytes)),
	}))
}

func (g *golden) holds(i Item) bool {
	one := *g
	for _, want := range g.Items {
		one.Items = g.Items[:0:0]
		one.Items = append(one.Items, want)
		if one.sameItems([]Item{i}) {
			return true
		}
	}
	return false
}

// FuzzParseTransfer: as FuzzParse, for the bytes that a stranger uploads.
func FuzzParseTransfer(f *testing.F) {
	g := goldens(f)[0]
	f.Add(g.blob)
	f.Add(goldens(f)[1].blob)
	f.Add(g.sd)
	f.Add(edit(f, g.blob, func(root object) {
		item(root, 0)["compact_jwe"] = encode64([]byte(item(root, 0)["compact_jwe"].(string)))
		wrappedKey(root)["x5t_256"] = encode64([]byte(wrappedKey(root)["x5t_256"].(string)))
	}))
	f.Add(edit(f, g.blob, func(root object) { encData(root)["data"] = encData(root)["data"].([]any)[:1] }))
	f.Add([]byte(`{"WrappedKey":{}}`))
	key := transferMemo{&memo{Decrypter: g.exchange.Decrypter, answers: map[string]answer{}}}
	f.Fuzz(func(t *testing.T, text []byte) {
		transfer, err := ParseTransfer(text)
		if err != nil {
			checkError(t, err)
		} else if !isDigest(transfer.X5T256) || len(transfer.Tags) < 1 || len(transfer.Tags) > MaxItems {
			t.Fatalf("got %+v", transfer)
		}
		items, err := OpenTransfer(text, g.exchange.Certificate, key)
		if err != nil {
			checkError(t, err)
			return
		}
		for _, item := range items {
			if !g.holds(item) {
				t.Fatalf("item %q came out with a content that nobody sealed", item.Tag)
			}
		}
	})
}

// FuzzOpenJWE: a compact JWE opens under a key only if it is the one that was sealed, letter for letter.
func FuzzOpenJWE(f *testing.F) {
	g := goldens(f)[0]
	parsed, err := Parse(g.sd)
	if err != nil {
		f.Fatal(err)
	}
	master, tag := secret.New(hexBytes(f, g.MasterHex)), parsed.items[0].tag
	sealed, wrapped := parsed.items[0].jwe.compact, parsed.shares[0].jwe.compact
	f.Add(sealed)
	f.Add(wrapped)
	f.Add("....")
	f.Add(flip(sealed, 4))
	f.Add(flip(wrapped, 1))
	decrypter := memoised(g.keys[:1])[0].Decrypter
	f.Fuzz(func(t *testing.T, compact string) {
		if jwe, err := parseItemEnvelope(compact, tag); err == nil {
			if _, err := jwe.openItem(master); (err == nil) != (compact == sealed) {
				t.Fatalf("item: %v", err)
			}
		}
		if jwe, err := parseEnvelope(compact, algKey, maxShare); err == nil {
			if _, err := jwe.openKey(decrypter); (err == nil) != (compact == wrapped) {
				t.Fatalf("share: %v", err)
			}
		}
	})
}
