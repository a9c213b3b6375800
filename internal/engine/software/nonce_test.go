package software_test

import (
	"slices"
	"strings"
	"testing"

	"strongroom/internal/engine"
	"strongroom/secret"
)

// Covers K5: a million encryptions under one key, and no nonce comes twice. (Of 96 random bits, two of a million are
// alike once in 10^17 runs.) Each bit is set about half of the time.
func TestAMillionNonces(t *testing.T) {
	e := open(t, domainKey("w"), domainKey("b"))
	defer e.Close()
	made, err := e.Generate(t.Context(), engine.Spec{Type: engine.Oct, Bits: 128}, nil)
	if err != nil {
		t.Fatal(err)
	}
	ref, plain := engine.Ref{Type: engine.Oct, Bits: 128, Sealed: made.Sealed}, secret.New([]byte("p"))
	const n, sample = 1_000_000, 100
	nonces := make([]string, n)
	var ones [96]int
	for i := range nonces {
		c, err := e.EncryptAES(t.Context(), ref, "A128GCM", plain, nil, nil)
		if err != nil || len(c.IV) != 12 {
			t.Fatalf("%d bytes, %v", len(c.IV), err)
		}
		if i%sample == 0 {
			for bit := range ones {
				ones[bit] += int(c.IV[bit/8] >> (bit % 8) & 1)
			}
		}
		nonces[i] = string(c.IV)
	}
	slices.SortFunc(nonces, strings.Compare)
	if distinct := len(slices.Compact(nonces)); distinct != n {
		t.Errorf("%d of %d nonces came before", n-distinct, n)
	}
	for bit, count := range ones { // the standard deviation is 50
		if count < n/sample/2-500 || count > n/sample/2+500 {
			t.Errorf("bit %d is set in %d of %d nonces", bit, count, n/sample)
		}
	}
}
