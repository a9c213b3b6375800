package software

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"math/big"
	"sync"
	"testing"

	"github.com/decred/dcrd/dcrec/secp256k1/v4"

	"strongroom/internal/engine"
	"strongroom/secret"
)

// outsideRSA is a key that was made outside, once.
var outsideRSA = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
})

func kekOf(k *rsa.PublicKey) engine.Public { return engine.Public{Type: engine.RSA, N: k.N, E: k.E} }

func mustDER(t testing.TB) func(der []byte, err error) secret.Bytes {
	return func(der []byte, err error) secret.Bytes {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return secret.Take(der)
	}
}

// A key in any of its forms is wrapped outside, and what the HSM unwraps is the PKCS #8 of that key.
func TestWrapForImport(t *testing.T) {
	must := mustDER(t)
	s := opened(t)
	kek := outsideRSA()
	other, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	ec, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := secp256k1.GeneratePrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	k1 := newP256K(raw)
	for name, row := range map[string]struct {
		form string
		der  secret.Bytes
		want secret.Bytes // PKCS #8
		spec engine.Spec
	}{
		"RSA, PKCS #8":       {FormPKCS8, must(x509.MarshalPKCS8PrivateKey(other)), must(x509.MarshalPKCS8PrivateKey(other)), engine.Spec{Type: engine.RSA, Bits: 2048, Exponent: 65537}},
		"RSA, PKCS #1":       {FormPKCS1, secret.Take(x509.MarshalPKCS1PrivateKey(other)), must(x509.MarshalPKCS8PrivateKey(other)), engine.Spec{Type: engine.RSA, Bits: 2048, Exponent: 65537}},
		"EC, PKCS #8":        {FormPKCS8, must(x509.MarshalPKCS8PrivateKey(ec)), must(x509.MarshalPKCS8PrivateKey(ec)), engine.Spec{Type: engine.EC, Curve: engine.P521}},
		"EC, SEC 1":          {FormSEC1, must(x509.MarshalECPrivateKey(ec)), must(x509.MarshalPKCS8PrivateKey(ec)), engine.Spec{Type: engine.EC, Curve: engine.P521}},
		"EC P-256K, PKCS #8": {FormPKCS8, must(marshalP256K(k1)), must(marshalP256K(k1)), engine.Spec{Type: engine.EC, Curve: engine.P256K}},
	} {
		t.Run(name, func(t *testing.T) {
			m, err := ParsePrivate(row.form, row.der)
			if err != nil {
				t.Fatal(err)
			}
			blob, err := WrapForImport(rand.Reader, kekOf(&kek.PublicKey), m)
			if err != nil {
				t.Fatal(err)
			}
			target, err := s.unwrapTarget(kek, blob)
			if err != nil {
				t.Fatal(err)
			}
			if !target.Equal(row.want) {
				t.Error("another key comes out")
			}
			key, err := fromTarget(row.spec.Type, target)
			if err != nil || key.spec() != row.spec {
				t.Errorf("got %v, %v, want %v", key.spec(), err, row.spec)
			}
			m.Wipe()
			if len(bytes.Trim(m.D.Reveal(), "\x00")) > 0 {
				t.Error("the material shares nothing with what Wipe wipes")
			}
		})
	}
	t.Run("oct", func(t *testing.T) {
		want := secret.New(bytes.Repeat([]byte{7}, 24))
		blob, err := WrapForImport(rand.Reader, kekOf(&kek.PublicKey), engine.Material{Type: engine.Oct, K: want})
		if err != nil {
			t.Fatal(err)
		}
		if got, err := s.unwrapTarget(kek, blob); err != nil || !got.Equal(want) {
			t.Errorf("another key comes out, or %v", err)
		}
	})
}

// A key that the HSM would refuse is not wrapped.
func TestWrapForImportRefuses(t *testing.T) {
	kek := &outsideRSA().PublicKey
	key := outsideRSA()
	sound, err := private{rsa: key}.material()
	if err != nil {
		t.Fatal(err)
	}
	off := sound
	off.D = secret.Take(new(big.Int).Add(key.D, big.NewInt(2)).Bytes())
	for name, row := range map[string]struct {
		kek      *rsa.PublicKey
		material engine.Material
		want     error
	}{
		"an unsound key":      {kek, off, engine.ErrMaterial},
		"an oct key of 17":    {kek, engine.Material{Type: engine.Oct, K: secret.New(make([]byte, 17))}, engine.ErrSpec},
		"nothing":             {kek, engine.Material{}, engine.ErrSpec},
		"a small receiver":    {&rsa.PublicKey{N: new(big.Int).Lsh(big.NewInt(1), 1023), E: 65537}, sound, engine.ErrRecipient},
		"an odd size of that": {&rsa.PublicKey{N: new(big.Int).Lsh(big.NewInt(1), 2559), E: 65537}, sound, engine.ErrRecipient},
		"one with factors":    {&rsa.PublicKey{N: new(big.Int).Mul(big.NewInt(3), new(big.Int).SetBit(big.NewInt(1), 2046, 1)), E: 65537}, sound, engine.ErrRecipient},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := WrapForImport(rand.Reader, kekOf(row.kek), row.material); !errors.Is(err, row.want) {
				t.Errorf("got %v, want %v", err, row.want)
			}
		})
	}
	if _, err := WrapForImport(bytes.NewReader(nil), kekOf(kek), sound); err == nil {
		t.Error("no randomness, and no error")
	}
}

// SEC 1 keys of P-256K, which crypto/x509 does not read, and what is no key.
func TestParsePrivate(t *testing.T) {
	// openssl ecparam -name secp256k1 -genkey -noout -outform DER
	der := unhex(t, "30740201010420"+"c9afa9d845ba75166b5c215767b1d6934e50c3db36e89b127b8a622b120f6721"+"a00706052b8104000a")
	der[1] = byte(len(der) - 2)
	m, err := ParsePrivate(FormSEC1, secret.New(der))
	if err != nil || m.Curve != engine.P256K || len(m.X) != 32 || !bytes.Equal(m.D.Reveal(), der[7:39]) {
		t.Fatalf("got a key on %q, %v", m.Curve, err)
	}
	for name, row := range map[string]struct {
		form string
		der  []byte
	}{
		"SEC 1, a byte too many": {FormSEC1, append(bytes.Clone(der), 0)},
		"SEC 1 as PKCS #8":       {FormPKCS8, der},
		"SEC 1 as PKCS #1":       {FormPKCS1, der},
		"SEC 1, zero":            {FormSEC1, append(append(bytes.Clone(der[:7]), make([]byte, 32)...), der[39:]...)},
		"nothing, PKCS #8":       {FormPKCS8, nil},
		"nothing, PKCS #1":       {FormPKCS1, nil},
		"nothing, SEC 1":         {FormSEC1, nil},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := ParsePrivate(row.form, secret.New(row.der)); !errors.Is(err, engine.ErrMaterial) {
				t.Errorf("got %v, want %v", err, engine.ErrMaterial)
			}
		})
	}
}

// FuzzParsePrivate feeds key files. What is taken is whole: it wraps, or is refused for its size or soundness.
func FuzzParsePrivate(f *testing.F) {
	must := mustDER(f)
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(FormPKCS8, must(x509.MarshalPKCS8PrivateKey(ec)).Reveal())
	f.Add(FormSEC1, must(x509.MarshalECPrivateKey(ec)).Reveal())
	f.Add(FormPKCS1, []byte{0x30, 0x80})
	f.Fuzz(func(t *testing.T, form string, der []byte) {
		m, err := ParsePrivate(form, secret.New(der))
		if err != nil {
			if !errors.Is(err, engine.ErrMaterial) {
				t.Errorf("refused with %v", err)
			}
			return
		}
		if m.Type == engine.RSA {
			if len(m.N) == 0 || m.P.IsZero() || m.Q.IsZero() || m.D.IsZero() {
				t.Error("an RSA key without its numbers")
			}
			return // the primality test makes these too slow to be fuzzed
		}
		if key, err := fromMaterial(m); err != nil && !errors.Is(err, engine.ErrMaterial) && !errors.Is(err, engine.ErrSpec) {
			t.Errorf("wrapping refuses with %v", err)
		} else if err == nil && key.curve != m.Curve {
			t.Errorf("%s becomes %s", m.Curve, key.curve)
		}
	})
}
