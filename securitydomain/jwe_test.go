package securitydomain

import (
	"bytes"
	"crypto/aes"
	"crypto/rsa"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"
	josecipher "github.com/go-jose/go-jose/v4/cipher"

	"strongroom/secret"
)

// withHeader is an item's JWE with another header, properly encrypted and authenticated under it: so that what
// refuses it is the check of the header and not the tag.
func withHeader(t testing.TB, master secret.Bytes, tag, header string) string {
	t.Helper()
	key := itemKey(master, tag)
	aead, err := josecipher.NewCBCHMAC(key.Reveal(), aes.NewCipher)
	if err != nil {
		t.Fatal(err)
	}
	iv := make([]byte, ivBytes)
	segment := encode64([]byte(header))
	sealed := aead.Seal(nil, iv, []byte("plaintext"), []byte(segment))
	cut := len(sealed) - tagBytes
	return strings.Join([]string{segment, "", encode64(iv), encode64(sealed[:cut]), encode64(sealed[cut:])}, ".")
}

// Covers S6, S7, S8: one form of JWE, and every other is refused before a key is used, also when it is authentic.
func TestHeaders(t *testing.T) {
	master := secret.New(bytes.Repeat([]byte{3}, masterBytes))
	const tag = "the-tag"
	for name, c := range map[string]struct {
		header string
		kind   Kind // "" is accepted
	}{
		"as written":            {`{"alg":"dir","enc":"A256CBC-HS512","kid":"the-tag"}`, ""},
		"other order and space": {` { "kid" : "the-tag", "enc":"A256CBC-HS512" , "alg":"dir"}`, ""},
		"an escaped name":       {`{"al\u0067":"dir","enc":"A256CBC-HS512","kid":"the-tag"}`, ""},
		"zip":                   {`{"alg":"dir","enc":"A256CBC-HS512","kid":"the-tag","zip":"DEF"}`, UnsupportedAlgorithm},
		"crit":                  {`{"alg":"dir","enc":"A256CBC-HS512","kid":"the-tag","crit":["exp"]}`, UnsupportedAlgorithm},
		"p2c":                   {`{"alg":"dir","enc":"A256CBC-HS512","kid":"the-tag","p2c":100000000}`, UnsupportedAlgorithm},
		"jwk":                   {`{"alg":"dir","enc":"A256CBC-HS512","kid":"the-tag","jwk":{}}`, UnsupportedAlgorithm},
		"typ":                   {`{"alg":"dir","enc":"A256CBC-HS512","kid":"the-tag","typ":"JWE"}`, UnsupportedAlgorithm},
		"Alg in capitals":       {`{"Alg":"dir","enc":"A256CBC-HS512","kid":"the-tag"}`, UnsupportedAlgorithm},
		"alg twice":             {`{"alg":"dir","alg":"dir","enc":"A256CBC-HS512","kid":"the-tag"}`, Malformed},
		"no alg":                {`{"enc":"A256CBC-HS512","kid":"the-tag"}`, Malformed},
		"no enc":                {`{"alg":"dir","kid":"the-tag"}`, Malformed},
		"no kid":                {`{"alg":"dir","enc":"A256CBC-HS512"}`, Malformed},
		"another kid":           {`{"alg":"dir","enc":"A256CBC-HS512","kid":"other"}`, Malformed},
		"kid is a number":       {`{"alg":"dir","enc":"A256CBC-HS512","kid":7}`, Malformed},
		"alg none":              {`{"alg":"none","enc":"A256CBC-HS512","kid":"the-tag"}`, UnsupportedAlgorithm},
		"alg RSA-OAEP":          {`{"alg":"RSA-OAEP","enc":"A256CBC-HS512","kid":"the-tag"}`, UnsupportedAlgorithm},
		"alg RSA1_5":            {`{"alg":"RSA1_5","enc":"A256CBC-HS512","kid":"the-tag"}`, UnsupportedAlgorithm},
		"alg PBES2":             {`{"alg":"PBES2-HS512+A256KW","enc":"A256CBC-HS512","kid":"the-tag"}`, UnsupportedAlgorithm},
		"alg in capitals":       {`{"alg":"DIR","enc":"A256CBC-HS512","kid":"the-tag"}`, UnsupportedAlgorithm},
		"enc A128CBC-HS256":     {`{"alg":"dir","enc":"A128CBC-HS256","kid":"the-tag"}`, UnsupportedAlgorithm},
		"enc A256GCM":           {`{"alg":"dir","enc":"A256GCM","kid":"the-tag"}`, UnsupportedAlgorithm},
		"trailing data":         {`{"alg":"dir","enc":"A256CBC-HS512","kid":"the-tag"} {}`, Malformed},
		"a list":                {`["dir"]`, Malformed},
		"not JSON":              {`alg`, Malformed},
		"empty":                 {``, Malformed},
		"broken UTF-8":          {"{\"alg\":\"dir\",\"enc\":\"A256CBC-HS512\",\"kid\":\"\xff\"}", Malformed},
		"huge":                  {`{"alg":"dir","enc":"A256CBC-HS512","kid":"` + strings.Repeat("k", 1000) + `"}`, Malformed},
		"deep":                  {`{"alg":` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + `}`, Malformed},
	} {
		t.Run(name, func(t *testing.T) {
			jwe, err := parseItemEnvelope(withHeader(t, master, tag, c.header), tag)
			if c.kind == "" {
				if err != nil {
					t.Fatalf("refused: %v", err)
				}
				if plain, err := jwe.openItem(master); err != nil || string(plain.Reveal()) != "plaintext" {
					t.Errorf("does not open: %v", err)
				}
				return
			}
			if err == nil || err.Kind != c.kind {
				t.Errorf("got %v, want kind %s", err, c.kind)
			}
		})
	}
}

// Covers S7, S8: lengths and spelling of each segment.
func TestSegments(t *testing.T) {
	master := secret.New(bytes.Repeat([]byte{3}, masterBytes))
	compact, err := sealItem(master, Item{"the-tag", secret.New([]byte("plaintext"))})
	if err != nil {
		t.Fatal(err)
	}
	p := strings.Split(compact, ".")
	raw := func(i int) []byte { b, _ := decode64(p[i]); return b }
	with := func(i int, s string) string {
		q := append([]string(nil), p...)
		q[i] = s
		return strings.Join(q, ".")
	}
	// The last character of a segment of 32 bytes carries two unused bits.
	stray := func(s string) string {
		const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
		return s[:len(s)-1] + string(alphabet[strings.IndexByte(alphabet, s[len(s)-1])+1])
	}
	for name, bad := range map[string]string{
		"empty":                    "",
		"four segments":            strings.Join(p[:4], "."),
		"six segments":             compact + ".",
		"a megabyte of dots":       strings.Repeat(".", 1<<20),
		"an encrypted key":         with(1, encode64(make([]byte, 256))),
		"IV of 15 bytes":           with(2, encode64(raw(2)[:15])),
		"IV of 17 bytes":           with(2, encode64(append(raw(2), 0))),
		"IV of 12 bytes":           with(2, encode64(raw(2)[:12])),
		"no IV":                    with(2, ""),
		"no ciphertext":            with(3, ""),
		"a ciphertext of 15 bytes": with(3, encode64(raw(3)[:15])),
		"a ciphertext of 17 bytes": with(3, encode64(append(raw(3), 0))),
		"no tag":                   with(4, ""),
		"a tag of 16 bytes":        with(4, encode64(raw(4)[:16])),
		"a tag of 31 bytes":        with(4, encode64(raw(4)[:31])),
		"a tag of 33 bytes":        with(4, encode64(append(raw(4), 0))),
		"a tag of 64 bytes":        with(4, encode64(append(raw(4), raw(4)...))),
		"padding":                  with(4, p[4]+"="),
		"stray bits":               with(4, stray(p[4])),
		"a line end":               with(4, p[4][:10]+"\n"+p[4][10:]),
		"a carriage return":        with(4, p[4]+"\r"),
		"standard alphabet":        with(4, strings.NewReplacer("-", "+", "_", "/").Replace(encode64(bytes.Repeat([]byte{0xff}, 32)))),
		"a space":                  compact + " ",
		"a foreign character":      with(3, p[3]+"!"),
		"too large":                with(3, encode64(make([]byte, MaxItemBytes+32))),
	} {
		if _, err := parseItemEnvelope(bad, "the-tag"); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := parseItemEnvelope(with(3, encode64(make([]byte, MaxItemBytes+16))), "the-tag"); err != nil {
		t.Errorf("the largest item: %v", err)
	}
	for i := 2; i < 5; i++ { // every byte of IV, ciphertext and tag
		for at := range raw(i) {
			b := raw(i)
			b[at] ^= 0x80
			jwe, err := parseItemEnvelope(with(i, encode64(b)), "the-tag")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := jwe.openItem(master); !errors.Is(err, errOpen) {
				t.Errorf("segment %d, byte %d flipped: %v", i, at, err)
			}
		}
	}
	share, err := sealKey(secret.New([]byte("x")), custodians()[0].Certificate.PublicKey.(*rsa.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	q := strings.Split(share, ".")
	for name, key := range map[string]string{"none": "", "of 255 bytes": encode64(make([]byte, 255)), "of 1025 bytes": encode64(make([]byte, 1025))} {
		q[1] = key
		if _, err := parseEnvelope(strings.Join(q, "."), algKey, maxShare); err == nil {
			t.Errorf("an encrypted key %s: accepted", name)
		}
	}
}

// Wycheproof: every JWE that is not in one of the two forms is refused without a key; those in the forms open or
// not, as the vector says.
func TestWycheproofJWE(t *testing.T) {
	var file struct {
		Groups []struct {
			Private json.RawMessage `json:"private"`
			Tests   []struct {
				ID     int             `json:"tcId"`
				JWE    json.RawMessage `json:"jwe"`
				Plain  string          `json:"pt"`
				Result string          `json:"result"`
			} `json:"tests"`
		} `json:"testGroups"`
	}
	text, err := os.ReadFile("../testdata/wycheproof/json_web_encryption_test.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	total, opened, refused, foreign := 0, 0, 0, 0
	for _, g := range file.Groups {
		var key jose.JSONWebKey
		keyErr := json.Unmarshal(g.Private, &key)
		for _, v := range g.Tests {
			total++
			var compact string
			if json.Unmarshal(v.JWE, &compact) != nil {
				foreign++ // JSON serialisation: there is no compact text to read
				continue
			}
			// The header of the vectors has other members than ours in places ("kid" missing, "typ"); what we do
			// with those is refuse.
			jwe, fault := parseEnvelope(compact, algKey, 4096)
			if fault != nil {
				if _, fault = parseEnvelope(compact, algItem, 4096); fault == nil {
					t.Errorf("vector %d is taken for an item", v.ID)
				}
				foreign++
				if !strings.HasPrefix(compact, encode64([]byte(`{"alg":"RSA-OAEP-256","enc":"A256CBC-HS512"`))[:56]) {
					continue
				}
				jwe = &envelope{compact: compact} // refused for its lack of a kid; what is below must open it
			}
			if keyErr != nil {
				t.Fatalf("vector %d: the key does not parse: %v", v.ID, keyErr)
			}
			decrypter, ok := key.Key.(*rsa.PrivateKey)
			if !ok {
				t.Errorf("vector %d: RSA-OAEP-256 with a key of kind %T", v.ID, key.Key)
				continue
			}
			plain, err := jwe.openKey(decrypter)
			switch {
			case v.Result == "valid" && (err != nil || hex.EncodeToString(plain.Reveal()) != v.Plain):
				t.Errorf("vector %d is valid: %v", v.ID, err)
			case v.Result == "invalid" && err == nil:
				t.Errorf("vector %d is invalid and opens", v.ID)
			case err == nil:
				opened++
			default:
				refused++
			}
		}
	}
	t.Logf("%d vectors: %d opened, %d refused by the key, %d of other forms refused without one", total, opened, refused, foreign)
	if total != 139 || opened != 1 {
		t.Errorf("%d vectors, %d opened; want 139 and 1", total, opened)
	}
}

// Wycheproof's vectors for A256CBC-HS512 against the library's implementation, in the sizes that we let through.
func TestWycheproofA256CBCHS512(t *testing.T) {
	var file struct {
		Groups []struct {
			Tests []struct {
				ID                                 int `json:"tcId"`
				Key, IV, AAD, Msg, CT, Tag, Result string
			} `json:"tests"`
		} `json:"testGroups"`
	}
	text, err := os.ReadFile("../testdata/wycheproof/a256cbc_hs512_test.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	count := 0
	for _, g := range file.Groups {
		for _, v := range g.Tests {
			count++
			iv, ct, tag := hexBytes(t, v.IV), hexBytes(t, v.CT), hexBytes(t, v.Tag)
			ours := len(iv) == ivBytes && len(tag) == tagBytes && len(ct) > 0 && len(ct)%blockBytes == 0
			if !ours { // parseEnvelope refuses it by length (TestSegments)
				if v.Result == "valid" {
					t.Errorf("vector %d is valid and of a size that we refuse", v.ID)
				}
				continue
			}
			aead, err := josecipher.NewCBCHMAC(hexBytes(t, v.Key), aes.NewCipher)
			if err != nil {
				t.Fatal(err)
			}
			plain, err := aead.Open(nil, iv, append(ct, tag...), hexBytes(t, v.AAD))
			if (err == nil) != (v.Result == "valid") || err == nil && hex.EncodeToString(plain) != v.Msg {
				t.Errorf("vector %d is %s: %v", v.ID, v.Result, err)
			}
		}
	}
	if count != 94 {
		t.Errorf("%d vectors, want 94", count)
	}
}

// Wycheproof's vectors for OAEP with SHA-256, through the decrypter that the shares go through.
func TestWycheproofOAEP(t *testing.T) {
	count, opened := 0, 0
	for _, name := range []string{"2048", "3072", "4096"} {
		var file struct {
			Groups []struct {
				Private string `json:"privateKeyPkcs8"`
				Tests   []struct {
					ID                     int `json:"tcId"`
					CT, Label, Msg, Result string
				} `json:"tests"`
			} `json:"testGroups"`
		}
		text, err := os.ReadFile("../testdata/wycheproof/rsa_oaep_" + name + "_sha256_mgf1sha256_test.json")
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(text, &file); err != nil {
			t.Fatal(err)
		}
		for _, g := range file.Groups {
			private := parsePrivate(t, hexBytes(t, g.Private))
			for _, v := range g.Tests {
				count++
				o := &oaep{decrypter: private}
				plain, err := o.unwrap(hexBytes(t, v.CT))
				want := v.Result == "valid" && v.Label == "" // we use no label
				if (err == nil) != want || want && hex.EncodeToString(plain) != v.Msg {
					t.Errorf("RSA-%s vector %d (%s): %v", name, v.ID, v.Result, err)
				}
				if want {
					opened++
				}
				// No vector has a content key's 64 bytes, so none may come out as one.
				key, err := o.DecryptKey(hexBytes(t, v.CT), jose.Header{})
				if err != nil || o.err == nil || !bytes.Equal(key, make([]byte, contentBytes)) {
					t.Errorf("RSA-%s vector %d: DecryptKey gave %d bytes, %v, %v; want zeros and the error set aside", name, v.ID, len(key), err, o.err)
				}
			}
		}
	}
	if opened == 0 {
		t.Error("no vector was opened")
	}
	if count != 3*37 {
		t.Errorf("%d vectors, want 111", count)
	}
}
