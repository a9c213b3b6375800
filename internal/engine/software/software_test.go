package software_test

import (
	"crypto/rand"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"testing/iotest"

	"strongroom/internal/engine"
	"strongroom/internal/engine/enginetest"
	"strongroom/internal/engine/software"
	"strongroom/secret"
)

func open(t testing.TB, wrapping, backup secret.Bytes) engine.Engine {
	t.Helper()
	e, err := software.New(wrapping, backup, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// Covers K2, K4, K6, K7, K12, R4.
func TestConformance(t *testing.T) { enginetest.Run(t, open) }

// Covers K7.
func TestWycheproofSignatures(t *testing.T) { enginetest.Vectors(t, software.VerifyPublic) }

func domainKey(fill string) secret.Bytes { return secret.Take([]byte(strings.Repeat(fill, 32))) }

func TestNewRefuses(t *testing.T) {
	for name, sizes := range map[string][2]int{
		"no wrapping key":    {0, 32},
		"no backup key":      {32, 0},
		"short wrapping key": {16, 32},
		"long backup key":    {32, 64},
	} {
		t.Run(name, func(t *testing.T) {
			wrapping, backup := secret.Take([]byte(strings.Repeat("w", sizes[0]))), secret.Take([]byte(strings.Repeat("b", sizes[1])))
			e, err := software.New(wrapping, backup, rand.Reader)
			if err == nil || e != nil {
				t.Fatal("the engine opens")
			}
			if strings.ContainsAny(string(wrapping.Reveal())+string(backup.Reveal()), "wb") {
				t.Error("the secrets were not wiped")
			}
		})
	}
	if _, err := software.New(domainKey("w"), domainKey("b"), nil); err == nil {
		t.Error("the engine opens without randomness")
	}
}

// Covers K9: without randomness no key leaves, rather than one under a predictable salt.
func TestRandomnessFails(t *testing.T) {
	broken := errors.New("no entropy")
	e, err := software.New(domainKey("w"), domainKey("b"), iotest.ErrReader(broken))
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	made, err := e.Generate(t.Context(), engine.Spec{Type: engine.EC, Curve: engine.P256}, nil)
	if !errors.Is(err, broken) || made.Sealed != nil {
		t.Errorf("got %v, want %v", err, broken)
	}
}

// Covers K5 in spirit: every sealing takes a fresh salt and nonce.
func TestSealedFormsNeverRepeat(t *testing.T) {
	e := open(t, domainKey("w"), domainKey("b"))
	defer e.Close()
	seen := map[string]bool{}
	salt := make([]byte, engine.SaltSize)
	for range 200 {
		sealed, err := e.SealBackup(t.Context(), salt, nil, []byte("same"))
		if err != nil {
			t.Fatal(err)
		}
		if nonce := string(sealed[1:13]); seen[nonce] {
			t.Fatal("a nonce came twice")
		} else {
			seen[nonce] = true
		}
	}
	spec := engine.Spec{Type: engine.EC, Curve: engine.P256}
	for range 200 {
		made, err := e.Generate(t.Context(), spec, nil)
		if err != nil {
			t.Fatal(err)
		}
		if salt := string(made.Sealed[1:33]); seen[salt] {
			t.Fatal("a salt came twice")
		} else {
			seen[salt] = true
		}
	}
}

// Covers K1: printing the engine shows no domain key, with any verb.
func TestEngineDoesNotPrintKeys(t *testing.T) {
	e := open(t, domainKey("w"), domainKey("b"))
	defer e.Close()
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%q"} {
		out := fmt.Sprintf(verb, e)
		for _, leak := range []string{"wwwwww", "bbbbbb", "777777", "626262", "119 119", "98 98", "0x77, 0x77"} {
			if strings.Contains(out, leak) {
				t.Errorf("%s shows a domain key", verb)
			}
		}
	}
}

func TestVerifyPublicRefusesBadKeys(t *testing.T) {
	digest := make([]byte, 32)
	p256 := engine.Public{Type: engine.EC, Curve: engine.P256}
	at := func(x, y int64) engine.Public {
		p := p256
		p.X, p.Y = big.NewInt(x), big.NewInt(y)
		return p
	}
	huge := at(1, 1)
	huge.X = new(big.Int).Lsh(big.NewInt(1), 300)
	rsa := func(bits uint, e int) engine.Public {
		return engine.Public{Type: engine.RSA, N: new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), bits), big.NewInt(1)), E: e}
	}
	for name, row := range map[string]struct {
		public engine.Public
		alg    string
		want   error
	}{
		"EC without a point":      {p256, "ES256", engine.ErrSpec},
		"point at infinity":       {at(0, 0), "ES256", engine.ErrSpec},
		"point off the curve":     {at(1, 1), "ES256", engine.ErrSpec},
		"negative coordinate":     {at(-1, 1), "ES256", engine.ErrSpec},
		"coordinate too long":     {huge, "ES256", engine.ErrSpec},
		"RSA without a modulus":   {engine.Public{Type: engine.RSA, E: 65537}, "RS256", engine.ErrSpec},
		"RSA of 1024 bits":        {rsa(1024, 65537), "RS256", engine.ErrSpec},
		"RSA of 16384 bits":       {rsa(16384, 65537), "PS256", engine.ErrSpec},
		"RSA with exponent 1":     {rsa(2048, 1), "RS256", engine.ErrSpec},
		"no key at all":           {engine.Public{}, "RS256", engine.ErrAlgorithm},
		"P-256K point off it":     {engine.Public{Type: engine.EC, Curve: engine.P256K, X: big.NewInt(1), Y: big.NewInt(1)}, "ES256K", engine.ErrSpec},
		"oct key":                 {engine.Public{Type: engine.Oct, Bits: 256}, "HS256", engine.ErrAlgorithm},
		"P-256K":                  {engine.Public{Type: engine.EC, Curve: engine.P256K, X: big.NewInt(1), Y: big.NewInt(1)}, "ES256", engine.ErrAlgorithm},
		"RSA type with a curve":   {engine.Public{Type: engine.RSA, Curve: engine.P256, N: big.NewInt(1), E: 3}, "ES256", engine.ErrAlgorithm},
		"EC key, RSA algorithm":   {at(1, 1), "RS256", engine.ErrAlgorithm},
		"P-256 key, P-384's name": {at(1, 1), "ES384", engine.ErrAlgorithm},
	} {
		if ok, err := software.VerifyPublic(row.public, row.alg, digest, make([]byte, 64)); !errors.Is(err, row.want) || ok {
			t.Errorf("%s: got %t, %v, want %v", name, ok, err, row.want)
		}
	}
}

// A caller asks for what there is not: the error says what there is.
func TestRefusedSpecsNameWhatThereIs(t *testing.T) {
	e := open(t, domainKey("w"), domainKey("b"))
	defer e.Close()
	for spec, word := range map[engine.Spec]string{
		{Type: engine.EC, Curve: "P-224"}:               "P-256K",
		{Type: engine.RSA, Bits: 2048, Exponent: 65535}: "65537",
	} {
		if _, err := e.Generate(t.Context(), spec, nil); !errors.Is(err, engine.ErrSpec) || !strings.Contains(err.Error(), word) {
			t.Errorf("%+v: got %v, want one that names %s", spec, err, word)
		}
	}
}

func openRSA15(t testing.TB, wrapping, backup secret.Bytes) engine.Engine {
	t.Helper()
	e, err := software.New(wrapping, backup, rand.Reader, software.AllowRSA15())
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// RSA1_5 where it is allowed: any plaintext up to its longest comes back, and every damage is ErrDecrypt (K6).
func TestAllowedRSA15(t *testing.T) {
	e := openRSA15(t, domainKey("w"), domainKey("b"))
	defer e.Close()
	spec := engine.Spec{Type: engine.RSA, Bits: 2048}
	made, err := e.Generate(t.Context(), spec, nil)
	if err != nil {
		t.Fatal(err)
	}
	ref := engine.Ref{Type: engine.RSA, Bits: 2048, Sealed: made.Sealed}
	for _, size := range []int{0, 1, 32, 245} {
		plain := strings.Repeat("p", size)
		ciphertext, err := e.Encrypt(t.Context(), ref, engine.RSA15, secret.Take([]byte(plain)))
		if err != nil {
			t.Fatalf("%d bytes: %v", size, err)
		}
		got, err := e.Decrypt(t.Context(), ref, engine.RSA15, ciphertext)
		if err != nil || string(got.Reveal()) != plain {
			t.Errorf("%d bytes decrypt to %d, %v", size, got.Len(), err)
		}
		ciphertext[17] ^= 1
		if got, err := e.Decrypt(t.Context(), ref, engine.RSA15, ciphertext); err != engine.ErrDecrypt || !got.IsZero() {
			t.Errorf("%d bytes, damaged: got %v", size, err)
		}
		if _, err := e.Decrypt(t.Context(), ref, engine.RSA15, ciphertext[1:]); err != engine.ErrDecrypt {
			t.Errorf("%d bytes, cut: got %v", size, err)
		}
	}
	if _, err := e.Encrypt(t.Context(), ref, engine.RSA15, secret.Take(make([]byte, 246))); !errors.Is(err, engine.ErrPlaintext) {
		t.Errorf("246 bytes: got %v", err)
	}
}

// Covers K5, K6, K8.
func TestWycheproofKeys(t *testing.T) { enginetest.KeyVectors(t, open, openRSA15) }

// Covers K8.
func TestWycheproofPoints(t *testing.T) { enginetest.PointVectors(t, open, software.VerifyPublic) }
