package shamir_test

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"strongroom/secret"
	"strongroom/shamir"
)

// seeded is a reproducible source, so that a statistical test gives the same answer on every run.
func seeded(b byte) io.Reader { return mathrand.NewChaCha8([32]byte{b}) }

func split(t testing.TB, s []byte, n, m int) []secret.Bytes {
	t.Helper()
	shares, err := shamir.Split(rand.Reader, secret.New(s), n, m)
	if err != nil {
		t.Fatal(err)
	}
	return shares
}

// share makes a share out of words, for inputs that Split would never write.
func share(words ...uint16) secret.Bytes {
	var b []byte
	for _, w := range words {
		b = binary.LittleEndian.AppendUint16(b, w)
	}
	return secret.Take(b)
}

func word(x, v uint16) uint16 { return x<<9 | v }

// Any m shares of n give the secret back, in any order, and more than m give it too.
func TestAnyQuorumRecovers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(2, shamir.MaxShares).Draw(t, "n")
		m := rapid.IntRange(1, n).Draw(t, "m")
		want := rapid.SliceOfN(rapid.Byte(), 1, 40).Draw(t, "secret")
		shares, err := shamir.Split(rand.Reader, secret.New(want), n, m)
		if err != nil {
			t.Fatal(err)
		}
		order := rapid.Permutation(shares).Draw(t, "order")
		given := rapid.IntRange(max(m, 2), n).Draw(t, "given")
		got, err := shamir.Combine(order[:given], m)
		if err != nil {
			t.Fatalf("combine %d of %d shares with threshold %d: %v", given, n, m, err)
		}
		if !bytes.Equal(got.Reveal(), want) {
			t.Fatalf("combine %d of %d shares with threshold %d gave other bytes", given, n, m)
		}
	})
}

// One share too few never passes for a quorum, and a wrong threshold never gives the secret.
func TestTooFewNeverRecover(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(3, 20).Draw(t, "n")
		m := rapid.IntRange(3, n).Draw(t, "m")
		want := rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "secret")
		shares, err := shamir.Split(rand.Reader, secret.New(want), n, m)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := shamir.Combine(shares[:m-1], m); !errors.Is(err, shamir.ErrTooFew) {
			t.Fatalf("%d shares for threshold %d: got %v, want ErrTooFew", m-1, m, err)
		}
		// 257⁻¹⁶ is the chance that this holds by accident.
		if got, err := shamir.Combine(shares[:m-1], m-1); err == nil && bytes.Equal(got.Reveal(), want) {
			t.Fatalf("%d shares of threshold %d gave the secret", m-1, m)
		}
	})
}

func TestEdgesOfShape(t *testing.T) {
	for name, c := range map[string]struct{ n, m int }{
		"one of two":  {2, 1},
		"two of two":  {2, 2},
		"one of all":  {126, 1},
		"two of all":  {126, 2},
		"all but one": {126, 125},
		"all":         {126, 126},
	} {
		t.Run(name, func(t *testing.T) {
			want := []byte{0, 1, 127, 128, 255}
			shares := split(t, want, c.n, c.m)
			if len(shares) != c.n {
				t.Fatalf("got %d shares, want %d", len(shares), c.n)
			}
			for i, s := range shares {
				if x, err := shamir.Index(s); err != nil || x != i+1 || s.Len() != 2*len(want) {
					t.Fatalf("share %d: x = %d, %d bytes, %v", i, x, s.Len(), err)
				}
			}
			for _, quorum := range [][]secret.Bytes{shares[:max(c.m, 2)], shares[c.n-max(c.m, 2):], shares} {
				got, err := shamir.Combine(quorum, c.m)
				if err != nil || !bytes.Equal(got.Reveal(), want) {
					t.Fatalf("%d shares: %v", len(quorum), err)
				}
			}
		})
	}
}

type failingReader struct{ after int }

func (r *failingReader) Read(p []byte) (int, error) {
	if r.after <= 0 {
		return 0, errors.New("the source is broken")
	}
	n := min(len(p), r.after)
	r.after -= n
	return n, nil
}

func TestSplitRefuses(t *testing.T) {
	ok := secret.New([]byte("abc"))
	for name, c := range map[string]struct {
		rand io.Reader
		s    secret.Bytes
		n, m int
		want error
	}{
		"threshold zero":        {rand.Reader, ok, 3, 0, shamir.ErrShape},
		"threshold negative":    {rand.Reader, ok, 3, -1, shamir.ErrShape},
		"threshold above n":     {rand.Reader, ok, 3, 4, shamir.ErrShape},
		"no shares":             {rand.Reader, ok, 0, 0, shamir.ErrShape},
		"127 shares":            {rand.Reader, ok, 127, 2, shamir.ErrShape},
		"empty secret":          {rand.Reader, secret.Bytes{}, 3, 2, shamir.ErrSecret},
		"huge secret":           {rand.Reader, secret.Take(make([]byte, shamir.MaxSecret+1)), 3, 2, shamir.ErrSecret},
		"no randomness":         {nil, ok, 3, 2, shamir.ErrRandom},
		"randomness that fails": {&failingReader{after: 5}, ok, 3, 2, shamir.ErrRandom},
	} {
		t.Run(name, func(t *testing.T) {
			shares, err := shamir.Split(c.rand, c.s, c.n, c.m)
			if !errors.Is(err, c.want) || shares != nil {
				t.Errorf("got %d shares and %v, want none and %v", len(shares), err, c.want)
			}
		})
	}
}

// Covers S2.
func TestCombineRefuses(t *testing.T) {
	a, b := share(word(1, 10), word(1, 20)), share(word(2, 30), word(2, 40))
	for name, c := range map[string]struct {
		shares []secret.Bytes
		m      int
		want   error
		index  int // of the share the error names, or −1
	}{
		"no shares":                      {nil, 2, shamir.ErrTooFew, -1},
		"one share":                      {[]secret.Bytes{a}, 2, shamir.ErrTooFew, -1},
		"one share of threshold one":     {[]secret.Bytes{a}, 1, shamir.ErrTooFew, -1},
		"fewer than the threshold":       {[]secret.Bytes{a, b}, 3, shamir.ErrTooFew, -1},
		"threshold zero":                 {[]secret.Bytes{a, b}, 0, shamir.ErrThreshold, -1},
		"threshold negative":             {[]secret.Bytes{a, b}, -2, shamir.ErrThreshold, -1},
		"threshold above 126":            {[]secret.Bytes{a, b}, 127, shamir.ErrThreshold, -1},
		"more than 126 shares":           {slices.Repeat([]secret.Bytes{a}, 127), 2, shamir.ErrTooMany, -1},
		"x is zero, which is the secret": {[]secret.Bytes{a, share(word(0, 30), word(0, 40))}, 2, shamir.ErrZero, 1},
		"x is 127":                       {[]secret.Bytes{share(word(127, 1), word(127, 2)), b}, 2, shamir.ErrRange, 0},
		"the same x twice":               {[]secret.Bytes{a, b, share(word(1, 11), word(1, 21))}, 2, shamir.ErrRepeated, 2},
		"the same share twice":           {[]secret.Bytes{a, a}, 2, shamir.ErrRepeated, 1},
		"x changes inside a share":       {[]secret.Bytes{a, share(word(2, 30), word(3, 40))}, 2, shamir.ErrMixed, 1},
		"x is zero in one word":          {[]secret.Bytes{a, share(word(2, 30), word(0, 40))}, 2, shamir.ErrMixed, 1},
		"a value of 257":                 {[]secret.Bytes{a, share(word(2, 30), word(2, 257))}, 2, shamir.ErrValue, 1},
		"a value of 511":                 {[]secret.Bytes{share(word(1, 511), word(1, 0)), b}, 2, shamir.ErrValue, 0},
		"unequal lengths":                {[]secret.Bytes{a, share(word(2, 30))}, 2, shamir.ErrUnequal, 1},
		"odd length":                     {[]secret.Bytes{a, secret.New([]byte{1, 2, 3})}, 2, shamir.ErrLength, 1},
		"an empty share":                 {[]secret.Bytes{{}, b}, 2, shamir.ErrLength, 0},
		"a share beyond all size":        {[]secret.Bytes{secret.Take(make([]byte, 2*shamir.MaxSecret+2)), b}, 2, shamir.ErrLength, 0},
		// f(1) = 0 and f(2) = 1 make f(0) = −1 = 256.
		"a combined byte of 256":              {[]secret.Bytes{share(word(1, 0)), share(word(2, 1))}, 2, shamir.ErrNotByte, -1},
		"a third share off the line":          {[]secret.Bytes{share(word(1, 2)), share(word(2, 3)), share(word(3, 5))}, 2, shamir.ErrInconsistent, -1},
		"threshold one, shares disagree":      {[]secret.Bytes{share(word(1, 2)), share(word(2, 3))}, 1, shamir.ErrInconsistent, -1},
		"off the line in the last word only":  {[]secret.Bytes{share(word(1, 2), word(1, 2)), share(word(2, 3), word(2, 3)), share(word(3, 4), word(3, 5))}, 2, shamir.ErrInconsistent, -1},
		"a bad share is named before a count": {[]secret.Bytes{share(word(0, 2))}, 3, shamir.ErrZero, 0},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := shamir.Combine(c.shares, c.m)
			if !errors.Is(err, c.want) || !got.IsZero() {
				t.Fatalf("got %d bytes and %v, want none and %v", got.Len(), err, c.want)
			}
			var which *shamir.ShareError
			if errors.As(err, &which) != (c.index >= 0) || (which != nil && which.Index != c.index) {
				t.Errorf("got %#v, want an error about share %d", err, c.index)
			}
		})
	}
}

// Values of 256 are ordinary in a share (the golden files have them) and must survive.
func TestValue256IsOrdinary(t *testing.T) {
	// f(x) = 5 + 251x: f(1) = 256, f(2) = 250.
	got, err := shamir.Combine([]secret.Bytes{share(word(1, 256)), share(word(2, 250))}, 2)
	if err != nil || !bytes.Equal(got.Reveal(), []byte{5}) {
		t.Fatalf("got %d bytes, %v; want the byte 5", got.Len(), err)
	}
}

// Covers S1: every byte has its own polynomial. With shared coefficients, equal bytes would give equal words.
func TestEqualBytesGiveDifferentWords(t *testing.T) {
	shares := split(t, bytes.Repeat([]byte{0x55}, 32), 3, 2)
	for i, s := range shares {
		words := map[uint16]int{}
		for b := s.Reveal(); len(b) > 0; b = b[2:] {
			words[binary.LittleEndian.Uint16(b)]++
		}
		// 32 draws from 257 values: fewer than 20 different ones has a chance below 10⁻⁹.
		if len(words) < 20 {
			t.Errorf("share %d of 32 equal bytes has only %d different words", i, len(words))
		}
	}
}

// chiSquare returns how far counts are from even, in standard deviations of the chi-square distribution.
func chiSquare(counts []int) float64 {
	total := 0
	for _, c := range counts {
		total += c
	}
	want, sum := float64(total)/float64(len(counts)), 0.0
	for _, c := range counts {
		sum += (float64(c) - want) * (float64(c) - want) / want
	}
	df := float64(len(counts) - 1)
	return (sum - df) / math.Sqrt(2*df)
}

// values returns the values of a share.
func values(s secret.Bytes) []uint16 {
	var vs []uint16
	for b := s.Reveal(); len(b) > 0; b = b[2:] {
		vs = append(vs, binary.LittleEndian.Uint16(b)&511)
	}
	return vs
}

// Covers S1: 10⁶ coefficients are uniform over 0 … 256, the leading one included. With a secret of zeros and
// threshold 2, the share at x = 1 is the coefficient itself. Taking 16 bits modulo 257 without rejection would
// pass any such test; taking a byte (never 256) or 9 bits modulo 257 (0 … 254 twice as often) would not.
func TestCoefficientsAreUniform(t *testing.T) {
	counts := make([]int, 257)
	random := seeded(1)
	for range 16 {
		shares, err := shamir.Split(random, secret.Take(make([]byte, 62_500)), 2, 2)
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range values(shares[0]) {
			counts[v]++
		}
	}
	if z := chiSquare(counts); math.Abs(z) > 4 {
		t.Errorf("10⁶ coefficients are %.1f standard deviations from uniform", z)
	}
	if counts[0] == 0 || counts[256] == 0 {
		t.Errorf("coefficient 0 came %d times and 256 %d times, want about 3891 each", counts[0], counts[256])
	}
}

// Covers S1: rejection. The one 16-bit value that would favour residue 0 is drawn again, not reduced.
func TestTheUnevenDrawIsRejected(t *testing.T) {
	draws := bytes.NewReader([]byte{0xff, 0xff, 0xff, 0xff, 7, 0})
	shares, err := shamir.Split(draws, secret.New([]byte{0}), 2, 2)
	if err != nil {
		t.Fatal(err)
	}
	if got := values(shares[0])[0]; got != 7 {
		t.Errorf("after two draws of 65535 the coefficient is %d, want the third draw, 7", got)
	}
}

// Covers S1: any m−1 shares are uniform whatever the secret is, alone and together.
func TestFewerThanThresholdSayNothing(t *testing.T) {
	const length = 60_000
	for name, fill := range map[string]byte{"zeros": 0, "ones": 255, "0x42": 0x42} {
		t.Run(name, func(t *testing.T) {
			shares, err := shamir.Split(seeded(fill), secret.Take(bytes.Repeat([]byte{fill}, length)), 4, 3)
			if err != nil {
				t.Fatal(err)
			}
			for i := range shares {
				counts := make([]int, 257)
				for _, v := range values(shares[i]) {
					counts[v]++
				}
				if z := chiSquare(counts); math.Abs(z) > 4.5 {
					t.Errorf("share %d is %.1f standard deviations from uniform", i, z)
				}
				for j := range i {
					// The joint distribution of two shares, in 16 × 16 equal cells; the value 256 is left out.
					pairs := make([]int, 256)
					other := values(shares[j])
					for k, v := range values(shares[i]) {
						if v < 256 && other[k] < 256 {
							pairs[v/16*16+other[k]/16]++
						}
					}
					if z := chiSquare(pairs); math.Abs(z) > 4.5 {
						t.Errorf("shares %d and %d together are %.1f standard deviations from uniform", j, i, z)
					}
				}
			}
		})
	}
}

// The test above sees what it is there for: three shares of threshold three are not uniform.
func TestTheStatisticSeesASecret(t *testing.T) {
	shares, err := shamir.Split(seeded(9), secret.Take(make([]byte, 60_000)), 3, 3)
	if err != nil {
		t.Fatal(err)
	}
	counts := make([]int, 257)
	a, b, c := values(shares[0]), values(shares[1]), values(shares[2])
	for i := range a {
		counts[(3*int(a[i])+254*int(b[i])+int(c[i]))%257]++ // f(0) = 3f(1) − 3f(2) + f(3)
	}
	if z := chiSquare(counts); z < 100 {
		t.Errorf("the secret in three shares is only %.1f standard deviations from uniform: the statistic is blind", z)
	}
}

// Shares that azure-cli's polynomials made combine to the master keys it used.
func TestGoldenShares(t *testing.T) {
	files, err := filepath.Glob("../testdata/securitydomain/*/expected.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("no golden files: %v", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(filepath.Dir(file)), func(t *testing.T) {
			var golden struct {
				Required int    `json:"required"`
				Master   string `json:"master_key_hex"`
				Shares   []struct {
					X     int    `json:"x"`
					Share string `json:"share_le_hex"`
				} `json:"shares"`
			}
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if err := json.Unmarshal(text, &golden); err != nil {
				t.Fatal(err)
			}
			var shares []secret.Bytes
			for _, s := range golden.Shares {
				b, err := hex.DecodeString(s.Share)
				if err != nil {
					t.Fatal(err)
				}
				if x, err := shamir.Index(secret.New(b)); err != nil || x != s.X {
					t.Errorf("share %d: got x = %d, %v", s.X, x, err)
				}
				shares = append(shares, secret.Take(b))
			}
			quorums := 0
			for set := range 1 << len(shares) {
				var quorum []secret.Bytes
				for i, s := range shares {
					if set>>i&1 == 1 {
						quorum = append(quorum, s)
					}
				}
				got, err := shamir.Combine(quorum, golden.Required)
				if len(quorum) < golden.Required {
					if !errors.Is(err, shamir.ErrTooFew) {
						t.Errorf("set %b: got %v, want ErrTooFew", set, err)
					}
					continue
				}
				quorums++
				if err != nil || hex.EncodeToString(got.Reveal()) != golden.Master {
					t.Errorf("set %b: wrong master key or error %v", set, err)
				}
			}
			if quorums == 0 {
				t.Error("no quorum was tried")
			}
		})
	}
}

// Whatever is done to shares, the answer is the secret or an error, as long as one good share more than the
// threshold is there to contradict: this is the invariant that recovery stands on. Covers S2.
func FuzzCombine(f *testing.F) {
	want := []byte("0123456789abcdef")
	shares, err := shamir.Split(seeded(3), secret.New(want), 5, 3)
	if err != nil {
		f.Fatal(err)
	}
	var all []byte
	for _, s := range shares {
		all = append(all, s.Reveal()...)
	}
	f.Add(all[:32], uint8(3), uint8(0))
	f.Add(all[32:64], uint8(3), uint8(4))
	f.Add([]byte{}, uint8(3), uint8(0))
	f.Add(make([]byte, 32), uint8(3), uint8(1))
	f.Add(bytes.Repeat([]byte{255}, 32), uint8(1), uint8(2))
	f.Fuzz(func(t *testing.T, b []byte, m, at uint8) {
		// By itself: no panic, and an error or as many bytes as the shares have words.
		odd := secret.New(b)
		if got, err := shamir.Combine([]secret.Bytes{odd, shares[1]}, int(m)); err == nil && got.Len() != len(want) {
			t.Errorf("%d bytes out of shares of %d", got.Len(), odd.Len())
		}
		// In place of one of five shares with threshold three.
		given := slices.Clone(shares)
		given[int(at)%len(given)] = odd
		got, err := shamir.Combine(given, 3)
		if err == nil && !bytes.Equal(got.Reveal(), want) {
			t.Error("five shares, one of them exchanged, combined to something else")
		}
	})
}

func Example() {
	key := secret.New([]byte("sixteen byte key"))
	shares, err := shamir.Split(rand.Reader, key, 5, 3) // five holders, any three
	if err != nil {
		panic(err)
	}
	again, err := shamir.Combine([]secret.Bytes{shares[4], shares[0], shares[2]}, 3)
	fmt.Println(again.Equal(key), err)

	_, err = shamir.Combine(shares[:2], 3)
	fmt.Println(errors.Is(err, shamir.ErrTooFew), err)
	// Output:
	// true <nil>
	// true shamir: too few shares
}

func BenchmarkSplit(b *testing.B) {
	for name, fill := range map[string]byte{"zeros": 0, "ones": 255} {
		key := secret.Take(bytes.Repeat([]byte{fill}, 32))
		b.Run("32B-10of10/"+name, func(b *testing.B) {
			for b.Loop() {
				if _, err := shamir.Split(rand.Reader, key, 10, 10); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// The two cases differ in nothing but the secret: their times should not differ either (S3).
func BenchmarkCombine(b *testing.B) {
	for name, fill := range map[string]byte{"zeros": 0, "ones": 255} {
		shares := split(b, bytes.Repeat([]byte{fill}, 32), 10, 10)
		b.Run("32B-10of10/"+name, func(b *testing.B) {
			for b.Loop() {
				if _, err := shamir.Combine(shares, 10); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
