package software

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"errors"
	"math/big"
	"testing"

	"strongroom/internal/engine"
	"strongroom/secret"
)

// ownKey is the plaintext form of a key with this number.
func ownKey(t *testing.T, curve string, d *big.Int) (*ecdsa.PrivateKey, []byte) {
	t.Helper()
	key, err := ecdsa.ParseRawPrivateKey(curves[curve], d.FillBytes(make([]byte, coordinate(fieldBits(curve)))))
	if err != nil {
		t.Fatal(err)
	}
	plain, err := private{ec: key, curve: curve}.marshal()
	if err != nil {
		t.Fatal(err)
	}
	return key, plain.Reveal()
}

// The short way to read a key gives what the long one gives, for every key that marshal writes.
func TestOwnFormReadsWhatIsSealed(t *testing.T) {
	for curve, c := range curves {
		n := c.Params().N
		numbers := []*big.Int{big.NewInt(1), big.NewInt(2), big.NewInt(1 << 40), new(big.Int).Sub(n, big.NewInt(1))}
		for range 20 {
			d, err := rand.Int(rand.Reader, new(big.Int).Sub(n, big.NewInt(1)))
			if err != nil {
				t.Fatal(err)
			}
			numbers = append(numbers, d.Add(d, big.NewInt(1)))
		}
		for _, d := range numbers {
			want, plain := ownKey(t, curve, d)
			got, ok := parseOwn(plain)
			if !ok || got.curve != curve || !got.ec.Equal(want) {
				t.Fatalf("%s: a sealed key is not read (%t), or as another", curve, ok)
			}
			long, err := parse(secret.New(plain))
			if err != nil || !long.ec.Equal(got.ec) {
				t.Fatalf("%s: the long way reads another key: %v", curve, err)
			}
		}
	}
}

// What is not exactly that form, or not a key, is left to the long way: in each byte, and in the numbers.
func TestOwnFormRefuses(t *testing.T) {
	for curve, c := range curves {
		size := coordinate(fieldBits(curve))
		_, plain := ownKey(t, curve, big.NewInt(77))
		at := len(plain) - 2*size - 1 // of the point's 4
		for i := range plain {
			for _, bit := range []byte{1, 0x80} {
				flipped := bytes.Clone(plain)
				flipped[i] ^= bit
				key, ok := parseOwn(flipped)
				inD := bytes.Index(plain, append(make([]byte, size-1), 77))
				if ok && (i < inD || i >= inD+size) {
					t.Errorf("%s: byte %d of %d was changed and the key was read", curve, i, len(plain))
				}
				//lint:ignore SA1019 the number is what is compared
				if ok && key.ec.D.Cmp(big.NewInt(77)) == 0 {
					t.Errorf("%s: byte %d is of d and was not read", curve, i)
				}
			}
		}
		with := func(d, x, y *big.Int) []byte {
			out := bytes.Clone(plain)
			in := bytes.Index(plain, append(make([]byte, size-1), 77))
			d.FillBytes(out[in : in+size])
			if x != nil {
				x.FillBytes(out[at+1 : at+1+size])
				y.FillBytes(out[at+1+size:])
			}
			return out
		}
		n := c.Params().N
		for name, text := range map[string][]byte{
			"d is 0":         with(new(big.Int), nil, nil),
			"d is n":         with(n, nil, nil),
			"d is above n":   with(new(big.Int).Add(n, big.NewInt(1)), nil, nil),
			"the point is 0": with(big.NewInt(77), new(big.Int), new(big.Int)),
			"cut":            plain[:len(plain)-1],
			"longer":         append(bytes.Clone(plain), 0),
			"empty":          {},
			"of another key": append([]byte{octMark}, plain[1:]...),
		} {
			if _, ok := parseOwn(text); ok {
				t.Errorf("%s, %s: the key was read", curve, name)
			}
		}
	}
}

// A key out of a backup is not sealed with a point that is not its own: from then on nobody would compute it again.
func TestImportHoldsThePointAgainstTheKey(t *testing.T) {
	s := opened(t)
	for curve := range curves {
		_, plain := ownKey(t, curve, big.NewInt(77))
		other, _ := ownKey(t, curve, big.NewInt(78))
		point, err := other.PublicKey.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		liar := append(bytes.Clone(plain[:len(plain)-len(point)]), point...)
		salt := make([]byte, engine.SaltSize)
		for _, c := range []struct {
			name string
			der  []byte
			want error
		}{{"its own point", plain, nil}, {"another point", liar, engine.ErrTampered}} {
			key, err := s.backupKey(salt, labelExport)
			if err != nil {
				t.Fatal(err)
			}
			exported, err := encrypt(key, []byte{formVersion}, c.der, labelExport, nil)
			if err != nil {
				t.Fatal(err)
			}
			if made, err := s.Import(t.Context(), exported, salt, nil, engine.Spec{Type: engine.EC, Curve: curve}, nil); !errors.Is(err, c.want) || err != nil && made.Sealed != nil {
				t.Errorf("%s with %s: got %v, want %v", curve, c.name, err, c.want)
			}
		}
	}
}
