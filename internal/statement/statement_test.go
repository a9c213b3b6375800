package statement_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"strongroom/internal/statement"
)

const kind = "strongroom-test+jws"

// keyFor makes the same key from the same text. Test keys: they protect nothing.
func keyFor(t testing.TB, curve elliptic.Curve, text string) *ecdsa.PrivateKey {
	t.Helper()
	sum := sha512.Sum512([]byte(text))
	sum[0] = 0 // below the order of the curve
	key, err := ecdsa.ParseRawPrivateKey(curve, sum[:(curve.Params().BitSize+7)/8])
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func sign(t testing.TB, key *ecdsa.PrivateKey, typ, payload string) []byte {
	t.Helper()
	jws, _, err := statement.Sign(key, typ, []byte(payload))
	if err != nil {
		t.Fatal(err)
	}
	return jws
}

func TestSignAndVerify(t *testing.T) {
	key := keyFor(t, elliptic.P384(), "one")
	jws, cert, err := statement.Sign(key, kind, []byte(`{"v":1}`))
	if err != nil {
		t.Fatal(err)
	}
	got, err := statement.Verify(jws, kind)
	if err != nil {
		t.Fatal(err)
	}
	if string(got.Payload) != `{"v":1}` || got.Domain != statement.DomainOf(got.Certificate) || !bytes.Equal(got.Certificate.Raw, cert) {
		t.Errorf("got %+v", got)
	}
	if again, err := statement.Certificate(key); err != nil || !bytes.Equal(again, cert) {
		t.Errorf("a domain has two certificates: %v", err)
	}
	if _, _, err := statement.Sign(keyFor(t, elliptic.P256(), "one"), kind, nil); err == nil {
		t.Error("a key on P-256 signs")
	}
}

// Each single change of a statement is seen, also one that only spells it otherwise.
func TestEveryChangeIsSeen(t *testing.T) {
	jws := sign(t, keyFor(t, elliptic.P384(), "one"), kind, `{"v":1}`)
	for i := range jws {
		for _, b := range []byte{jws[i] ^ 1, jws[i] ^ 2, '\n', '.', '='} {
			altered := bytes.Clone(jws)
			altered[i] = b
			if _, err := statement.Verify(altered, kind); err == nil && b != jws[i] {
				t.Fatalf("byte %d of %d changed from %q to %q, and it holds", i, len(jws), jws[i], b)
			}
		}
		if _, err := statement.Verify(jws[:i], kind); err == nil {
			t.Fatalf("cut to %d bytes, and it holds", i)
		}
		for _, more := range []string{"\n", "\r", "=", " ", "."} {
			if _, err := statement.Verify([]byte(string(jws[:i])+more+string(jws[i:])), kind); err == nil {
				t.Fatalf("%q put in at byte %d, and it holds", more, i)
			}
		}
	}
	if _, err := statement.Verify(append(bytes.Clone(jws), '\n'), kind); err == nil {
		t.Error("with a line end after it, it holds")
	}
}

func TestRefusals(t *testing.T) {
	one, two := keyFor(t, elliptic.P384(), "one"), keyFor(t, elliptic.P384(), "two")
	certOne, err := statement.Certificate(one)
	if err != nil {
		t.Fatal(err)
	}
	certTwo, err := statement.Certificate(two)
	if err != nil {
		t.Fatal(err)
	}
	text := base64.StdEncoding.EncodeToString
	// say signs with whatever header is asked for.
	say := func(alg jose.SignatureAlgorithm, key any, header map[string]any) []byte {
		options := new(jose.SignerOptions)
		for name, value := range header {
			options = options.WithHeader(jose.HeaderKey(name), value)
		}
		signer, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: key}, options)
		if err != nil {
			t.Fatal(err)
		}
		signed, err := signer.Sign([]byte("{}"))
		if err != nil {
			t.Fatal(err)
		}
		jws, err := signed.CompactSerialize()
		if err != nil {
			t.Fatal(err)
		}
		return []byte(jws)
	}
	damaged := bytes.Clone(certOne)
	damaged[len(damaged)-1] ^= 1
	for name, c := range map[string]struct {
		jws  []byte
		says string
	}{
		"another kind":               {sign(t, one, "JWT", "{}"), "(typ)"},
		"another algorithm":          {say(jose.HS384, make([]byte, 48), map[string]any{"typ": kind, "x5c": []string{text(certOne)}}), "ES384"},
		"no certificate":             {say(jose.ES384, one, map[string]any{"typ": kind}), "(x5c)"},
		"two certificates":           {say(jose.ES384, one, map[string]any{"typ": kind, "x5c": []string{text(certOne), text(certOne)}}), "one certificate"},
		"a certificate of air":       {say(jose.ES384, one, map[string]any{"typ": kind, "x5c": []string{"AAAA"}}), "damaged (x5c)"},
		"a certificate in base64url": {say(jose.ES384, one, map[string]any{"typ": kind, "x5c": []string{base64.RawURLEncoding.EncodeToString(certOne)}}), "(x5c)"},
		"a certificate with a flaw":  {say(jose.ES384, one, map[string]any{"typ": kind, "x5c": []string{text(damaged)}}), "own key"},
		"the certificate of another": {say(jose.ES384, one, map[string]any{"typ": kind, "x5c": []string{text(certTwo)}}), "signature does not hold"},
		"a critical member":          {say(jose.ES384, one, map[string]any{"typ": kind, "x5c": []string{text(certOne)}, "crit": []string{"x"}, "x": 1}), "no JWS"},
		"a long header":              {say(jose.ES384, one, map[string]any{"typ": kind, "x5c": []string{text(certOne)}, "x": strings.Repeat("x", 8<<10)}), "no JWS"},
		"nothing":                    {nil, "no JWS"},
		"JSON":                       {[]byte(`{"payload":"e30","signatures":[]}`), "no JWS"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := statement.Verify(c.jws, kind); err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, want %q", err, c.says)
			}
		})
	}
}

// FuzzVerify: nobody but the holder of a key makes a statement of it, however it is spelled.
func FuzzVerify(f *testing.F) {
	jws := sign(f, keyFor(f, elliptic.P384(), "one"), kind, `{"v":1}`)
	f.Add(string(jws))
	f.Add("e30.e30.AAAA")
	head, err := json.Marshal(map[string]any{"alg": "ES384", "typ": kind, "x5c": []string{"AAAA"}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(base64.RawURLEncoding.EncodeToString(head) + ".e30.AAAA")
	f.Fuzz(func(t *testing.T, text string) {
		if got, err := statement.Verify([]byte(text), kind); err == nil && string(got.Payload) != `{"v":1}` {
			t.Errorf("%q holds", text)
		}
	})
}
