package keys

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"strongroom/internal/engine"
	"strongroom/internal/failure"
	"strongroom/internal/store/memory"
	"strongroom/secret"
)

// An oct key does what AES and HMAC do, through both pairs of operations, and says so for keys of each size.
func TestOctKeys(t *testing.T) {
	b := newBench(t, memory.New(), alphaID, ownDomain)
	iv := bytes.Repeat([]byte{1}, 16)
	for _, bits := range []int{128, 192, 256} {
		name := fmt.Sprintf("aes-%d", bits)
		key := b.create(t, name, CreateParams{Type: "oct-HSM", Bits: bits})
		if key.Public.Bits != bits || key.Public.N != nil || key.Public.X != nil {
			t.Errorf("%s is %+v", name, key.Public)
		}
		for alg, x := range map[string]Extras{
			fmt.Sprintf("A%dGCM", bits):    {AAD: []byte("context")},
			fmt.Sprintf("A%dCBC", bits):    {IV: iv},
			fmt.Sprintf("A%dCBCPAD", bits): {IV: iv},
			fmt.Sprintf("A%dKW", bits):     {},
			engine.AESKeyWrap:              {},
			engine.AESKeyWrapPad:           {},
		} {
			for _, p := range pairs {
				sealed, err := p.encrypt(b.Keys, t.Context(), alice, name, "", alg, contentKey(), x)
				if err != nil || sealed.Version != key.Version || bytes.Contains(sealed.Value, contentKey().Reveal()) {
					t.Errorf("%s %s: %v", p.encryptOp, alg, err)
					continue
				}
				back := Extras{IV: sealed.IV, AAD: x.AAD, Tag: sealed.Tag}
				opened, err := p.decrypt(b.Keys, t.Context(), alice, name, key.Version, alg, sealed.Value, back)
				if err != nil || !opened.Plaintext.Equal(contentKey()) {
					t.Errorf("%s %s: %v", p.decryptOp, alg, err)
				}
				sealed.Value[0] ^= 1
				if _, err := p.decrypt(b.Keys, t.Context(), alice, name, "", alg, sealed.Value, back); !strings.HasSuffix(alg, "CBC") && !strings.HasSuffix(alg, "CBCPAD") {
					if f := wantKind(t, err, failure.BadParameter); !strings.Contains(f.Message, "does not decrypt") {
						t.Errorf("%s %s, damaged: %s", p.decryptOp, alg, f.Message)
					}
				}
			}
		}
		for alg, size := range map[string]int{"HS256": 32, "HS384": 48, "HS512": 64} {
			signed, err := b.Sign(t.Context(), alice, name, "", alg, []byte("any length"))
			if err != nil || len(signed.Signature) != size {
				t.Errorf("%s: %d bytes, %v", alg, len(signed.Signature), err)
			}
			if ok, err := b.Verify(t.Context(), alice, name, "", alg, []byte("any length"), signed.Signature); err != nil || !ok {
				t.Errorf("%s does not verify: %v", alg, err)
			}
			if ok, err := b.Verify(t.Context(), alice, name, "", alg, []byte("another"), signed.Signature); err != nil || ok {
				t.Errorf("%s verifies for another message: %v", alg, err)
			}
		}
	}
	if key := b.create(t, "default", CreateParams{Type: "oct"}); key.Public.Bits != 256 || len(key.Ops) != 6 {
		t.Errorf("the default is %+v", key)
	}
}

// Covers K5, K2: what does not fit is refused by name.
func TestOctRefusals(t *testing.T) {
	b := newBench(t, memory.New(), alphaID, ownDomain)
	b.create(t, "aes", CreateParams{Type: "oct", Bits: 256})
	b.create(t, "rsa", CreateParams{Type: "RSA"})
	sixteen, twelve := make([]byte, 16), make([]byte, 12)
	for name, row := range map[string]struct {
		key, alg string
		size     int
		x        Extras
		says     string // for encrypt
		back     string // for decrypt; "": not asked
	}{
		"an IV for GCM":        {"aes", "A256GCM", 16, Extras{IV: twelve}, "iv", ""},
		"a tag to encrypt":     {"aes", "A256GCM", 16, Extras{Tag: sixteen}, "tag", ""},
		"GCM without iv":       {"aes", "A256GCM", 16, Extras{Tag: sixteen}, "tag", "iv must be the 12 bytes"},
		"GCM, short tag":       {"aes", "A256GCM", 16, Extras{IV: twelve, Tag: twelve}, "tag", "tag must be the 16 bytes"},
		"CBC without iv":       {"aes", "A256CBC", 16, Extras{}, "iv must have 16 bytes", "iv must have 16 bytes"},
		"CBC, 15 bytes":        {"aes", "A256CBC", 15, Extras{IV: sixteen}, "value must have a multiple of 16", "value must have a multiple of 16"},
		"CBC with aad":         {"aes", "A256CBC", 16, Extras{IV: sixteen, AAD: sixteen}, "aad is only for GCM", "aad is only for GCM"},
		"key wrap with iv":     {"aes", "A256KW", 16, Extras{IV: sixteen}, "iv is fixed", "iv is fixed"},
		"key wrap, 12 bytes":   {"aes", "A256KW", 12, Extras{}, "value must have a multiple of 8", "value"},
		"key of another size":  {"aes", "A128GCM", 16, Extras{}, "A256GCM", "A256GCM"},
		"RSA's algorithm":      {"aes", "RSA-OAEP", 16, Extras{}, "A256KW", "A256KW"},
		"RSA1_5":               {"aes", "RSA1_5", 16, Extras{}, "A256KW", "A256KW"},
		"unknown":              {"aes", "<canary>", 16, Extras{}, "A256KW", "A256KW"},
		"RSA with iv":          {"rsa", "RSA-OAEP", 16, Extras{IV: sixteen}, "iv is for AES", "iv is for AES"},
		"RSA with aad":         {"rsa", "RSA-OAEP", 16, Extras{AAD: sixteen}, "aad is for AES", "aad is for AES"},
		"RSA with tag":         {"rsa", "RSA-OAEP", 16, Extras{Tag: sixteen}, "tag", "tag is for AES"},
		"RSA, AES's algorithm": {"rsa", "A256GCM", 16, Extras{}, "RSA-OAEP-256", "RSA-OAEP-256"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, p := range pairs {
				_, err := p.encrypt(b.Keys, t.Context(), alice, row.key, "", row.alg, secret.Take(make([]byte, row.size)), row.x)
				if f := wantKind(t, err, failure.BadParameter); !strings.Contains(f.Message, row.says) || strings.Contains(f.Message, "canary") {
					t.Errorf("%s: %q, want one with %q", p.encryptOp, f.Message, row.says)
				}
				if row.back == "" {
					continue
				}
				_, err = p.decrypt(b.Keys, t.Context(), alice, row.key, "", row.alg, make([]byte, row.size), row.x)
				if f := wantKind(t, err, failure.BadParameter); !strings.Contains(f.Message, row.back) || strings.Contains(f.Message, "canary") {
					t.Errorf("%s: %q, want one with %q", p.decryptOp, f.Message, row.back)
				}
			}
		})
	}
}

// All versions of a key are alike in whether they may leave; the policy may change until it is immutable, which is
// bound to the key itself (K4).
func TestReleasePolicies(t *testing.T) {
	b := newBench(t, memory.New(), alphaID, ownDomain)
	made := b.create(t, "leaves", CreateParams{Type: "EC", Exportable: true, ReleasePolicy: anyPolicy(), Ops: []string{"sign", "verify", "export"}})
	if !made.Exportable || made.ReleasePolicy == nil || made.ReleasePolicy.ContentType != defaultPolicyType || made.ReleasePolicy.Immutable {
		t.Fatalf("made %+v", made)
	}
	b.create(t, "stays", CreateParams{Type: "EC"})
	_, err := b.Create(t.Context(), alice, "leaves", CreateParams{Type: "EC"})
	wantKind(t, err, failure.BadParameter)
	_, err = b.Create(t.Context(), alice, "stays", CreateParams{Type: "EC", Exportable: true, ReleasePolicy: anyPolicy()})
	wantKind(t, err, failure.BadParameter)
	_, err = b.Update(t.Context(), alice, "stays", "", UpdateParams{ReleasePolicy: anyPolicy()})
	wantKind(t, err, failure.BadParameter)
	_, err = b.Update(t.Context(), alice, "leaves", "", UpdateParams{Exportable: ptr(false)})
	wantKind(t, err, failure.BadParameter)

	second := &ReleasePolicy{Data: []byte(`{"version":"1.0.0","anyOf":[{"authority":"https://other.example","allOf":[{"claim":"secure","equals":true}]}]}`), Immutable: true}
	before, err := b.Sign(t.Context(), alice, "leaves", "", "ES256", digest())
	if err != nil {
		t.Fatal(err)
	}
	changed, err := b.Update(t.Context(), alice, "leaves", "", UpdateParams{ReleasePolicy: second})
	if err != nil || !changed.ReleasePolicy.Immutable || !bytes.Equal(changed.ReleasePolicy.Data, second.Data) {
		t.Fatalf("changed to %+v, %v", changed.ReleasePolicy, err)
	}
	if ok, err := b.Verify(t.Context(), alice, "leaves", "", "ES256", digest(), before.Signature); err != nil || !ok {
		t.Errorf("after its policy became immutable the key is another: %t, %v", ok, err)
	}
	if _, err := b.Update(t.Context(), alice, "leaves", "", UpdateParams{ReleasePolicy: second, Tags: map[string]string{"a": "b"}}); err != nil {
		t.Errorf("the same policy again: %v", err)
	}
	for name, p := range map[string]*ReleasePolicy{"another": anyPolicy(), "the same, not immutable": {Data: second.Data}} {
		unchanged(t, b.store, func() {
			_, err := b.Update(t.Context(), alice, "leaves", "", UpdateParams{ReleasePolicy: p})
			if f := wantKind(t, err, failure.BadParameter); !strings.Contains(f.Message, "immutable") {
				t.Errorf("%s: %s", name, f.Message)
			}
		})
	}
	// The engine itself does not open the key under another policy, whatever the record says.
	rec, v, err := b.find(t.Context(), b.engine, "leaves", "")
	if err != nil || rec == "" {
		t.Fatal(err)
	}
	forged := *v
	forged.Release = &releasePolicy{ContentType: defaultPolicyType, Data: anyPolicy().Data, Immutable: true}
	if _, err := b.engine.Sign(t.Context(), forged.ref(alphaID, "leaves"), "ES256", digest()); err != engine.ErrTampered {
		t.Errorf("under another policy: %v", err)
	}

	// A rotated version and a restored key keep it.
	if _, err := b.SetRotationPolicy(t.Context(), alice, "leaves", RotationPolicy{ExpiryTime: "P90D"}); err != nil {
		t.Fatal(err)
	}
	rotated, err := b.Rotate(t.Context(), alice, "leaves")
	if err != nil || !rotated.Exportable || !rotated.ReleasePolicy.Immutable {
		t.Errorf("rotated to %+v, %v", rotated, err)
	}
	blob, err := b.Backup(t.Context(), alice, "leaves")
	if err != nil {
		t.Fatal(err)
	}
	restored, err := newBench(t, b.store, betaID, ownDomain).Restore(t.Context(), alice, blob)
	if err != nil || !restored.Exportable || !restored.ReleasePolicy.Immutable || !bytes.Equal(restored.ReleasePolicy.Data, second.Data) {
		t.Errorf("restored %+v, %v", restored, err)
	}
}

// The statements about a key say what it is; of an oct key there is one.
func TestAttest(t *testing.T) {
	b := newBench(t, memory.New(), alphaID, ownDomain)
	kid := func(name, version string) string { return "https://a/keys/" + name + "/" + version }
	for _, typ := range []string{"RSA", "EC", "oct"} {
		made := b.create(t, "Key-"+typ, CreateParams{Type: typ, Enabled: ptr(false)})
		key, a, err := b.Attest(t.Context(), alice, "key-"+typ, "", kid)
		if err != nil || key.Version != made.Version || string(a.Certificate) != "certificate of "+ownDomain {
			t.Fatalf("%s: %+v, %v", typ, a, err)
		}
		for _, part := range []string{attestationType, `"part":"private"`, kid(made.Name, made.Version), ownDomain, `"origin":"generated"`, `"exportable":false`} {
			if !strings.Contains(string(a.Private), part) {
				t.Errorf("%s: the private statement lacks %s: %s", typ, part, a.Private)
			}
		}
		if (a.Public == nil) != (typ == "oct") || typ != "oct" && !strings.Contains(string(a.Public), `"jwk":{"`) {
			t.Errorf("%s: the public statement is %s", typ, a.Public)
		}
	}
	_, _, err := b.Attest(t.Context(), alice, "gone", "", kid)
	wantKind(t, err, failure.NotFound)
}
