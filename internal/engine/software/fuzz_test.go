package software

import (
	"bytes"
	"crypto/aes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"testing"

	jose "github.com/go-jose/go-jose/v4/cipher"
	tink "github.com/tink-crypto/tink-go/v2/kwp/subtle"

	"strongroom/internal/engine"
	"strongroom/secret"
)

// The key wraps agree with two other implementations, where those have the size.
func TestKeyWrapAgreesWithOthers(t *testing.T) {
	for _, bits := range []int{128, 192, 256} {
		key := make([]byte, bits/8)
		if _, err := rand.Read(key); err != nil {
			t.Fatal(err)
		}
		block, err := aes.NewCipher(key)
		if err != nil {
			t.Fatal(err)
		}
		for size := 1; size <= 130; size++ {
			plain := make([]byte, size)
			if _, err := rand.Read(plain); err != nil {
				t.Fatal(err)
			}
			padded := wrapPadded(block, plain)
			if back, err := unwrapPadded(block, padded); err != nil || !bytes.Equal(back, plain) {
				t.Errorf("%d bits, %d bytes, padded: does not come back: %v", bits, size, err)
			}
			if other, err := tink.NewKWP(key); err == nil && size >= 16 { // neither 192 bits nor fewer than 16 bytes there
				if want, err := other.Wrap(plain); err != nil || !bytes.Equal(want, padded) {
					t.Errorf("%d bits, %d bytes, padded: another form, or %v", bits, size, err)
				}
			}
			if size < 16 || size%8 != 0 {
				continue
			}
			wrapped := wrapKey(block, plain)
			if want, err := jose.KeyWrap(block, plain); err != nil || !bytes.Equal(want, wrapped) {
				t.Errorf("%d bits, %d bytes: another form, or %v", bits, size, err)
			}
			if back, err := unwrapKey(block, wrapped); err != nil || !bytes.Equal(back, plain) {
				t.Errorf("%d bits, %d bytes: does not come back: %v", bits, size, err)
			}
		}
	}
}

// The examples of RFC 5649 section 6, with a key of 192 bits.
func TestKeyWrapExamplesOfTheRFC(t *testing.T) {
	block, err := aes.NewCipher(unhex(t, "5840df6e29b02af1ab493b705bf16ea1ae8338f4dcc176a8"))
	if err != nil {
		t.Fatal(err)
	}
	for plain, want := range map[string]string{
		"c37b7e6492584340bed12207808941155068f738": "138bdeaa9b8fa7fc61f97742e72248ee5ae6ae5360d1ae6a5f54f373fa543b6a",
		"466f7250617369": "afbeb0f07dfbf5419200f2ccb50bb24f",
	} {
		if got := hex.EncodeToString(wrapPadded(block, unhex(t, plain))); got != want {
			t.Errorf("%s wraps to %s, want %s", plain, got, want)
		}
	}
}

// FuzzUnwrap feeds wrapped keys from outside. What unwraps is exactly what wraps to it.
func FuzzUnwrap(f *testing.F) {
	block, err := aes.NewCipher(make([]byte, 32))
	if err != nil {
		f.Fatal(err)
	}
	for _, size := range []int{1, 7, 8, 9, 16, 24, 40} {
		f.Add(wrapPadded(block, make([]byte, size)))
	}
	f.Add(wrapKey(block, make([]byte, 16)))
	f.Fuzz(func(t *testing.T, wrapped []byte) {
		if len(wrapped)%8 != 0 || len(wrapped) < 16 {
			return // refused before: see DecryptAES and unwrapTarget
		}
		if plain, err := unwrapPadded(block, wrapped); err == nil && !bytes.Equal(wrapPadded(block, plain), wrapped) {
			t.Error("padded: another form of the same key unwraps")
		}
		if len(wrapped) < 24 {
			return
		}
		if plain, err := unwrapKey(block, wrapped); err == nil && !bytes.Equal(wrapKey(block, plain), wrapped) {
			t.Error("another form of the same key unwraps")
		}
	})
}

// FuzzTarget feeds keys from outside as they come out of a transfer blob. A key that is taken is one of ours, can be
// sealed, and comes back as itself. Covers K8, R4.
func FuzzTarget(f *testing.F) {
	s := opened(f)
	for _, g := range goldens(f) {
		if g.Bits > 2048 {
			continue // the primality test makes these too slow to be fuzzed
		}
		plain, err := s.openKey(g.Sealed, []byte("golden binding"))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(plain.Reveal(), string(g.Type))
	}
	f.Add([]byte(nil), string(engine.RSA))
	f.Add([]byte{0x30, 0x80}, string(engine.EC))
	f.Fuzz(func(t *testing.T, target []byte, kind string) {
		key, err := fromTarget(engine.Type(kind), secret.New(target))
		if err != nil {
			if !errors.Is(err, engine.ErrMaterial) && !errors.Is(err, engine.ErrSpec) {
				t.Errorf("refused with %v", err)
			}
			return
		}
		if _, err := checkSpec(key.spec()); err != nil {
			t.Fatalf("taken, and not one of ours: %v", err)
		}
		plain, err := key.marshal()
		if err != nil {
			t.Fatal(err)
		}
		again, err := parse(plain)
		if err != nil || again.spec() != key.spec() {
			t.Errorf("sealed, and does not come back: %v", err)
		}
	})
}

// FuzzMaterial feeds EC and oct keys in the clear. Covers K8, R4.
func FuzzMaterial(f *testing.F) {
	f.Add(string(engine.EC), engine.P256, []byte{1}, []byte{1}, []byte{1}, []byte(nil))
	f.Add(string(engine.EC), engine.P256K, make([]byte, 32), make([]byte, 33), make([]byte, 34), []byte(nil))
	f.Add(string(engine.Oct), "", []byte(nil), []byte(nil), []byte(nil), make([]byte, 32))
	f.Add(string(engine.RSA), "", []byte{15}, []byte{1, 0, 1}, []byte{3}, []byte{5})
	f.Fuzz(func(t *testing.T, kind, curve string, x, y, d, k []byte) {
		m := engine.Material{Type: engine.Type(kind), Curve: curve, X: x, Y: y, D: secret.New(d), K: secret.New(k), N: x, E: y, P: secret.New(k), Q: secret.New(k)}
		key, err := fromMaterial(m)
		if err != nil {
			if !errors.Is(err, engine.ErrMaterial) && !errors.Is(err, engine.ErrSpec) {
				t.Errorf("refused with %v", err)
			}
			return
		}
		if _, err := checkSpec(key.spec()); err != nil {
			t.Fatalf("taken, and not one of ours: %v", err)
		}
	})
}
