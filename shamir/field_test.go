package shamir

import "testing"

// Covers S3: the branch-free arithmetic is right for every input it can get, so nothing tempts anybody to replace
// it with a table or a division.
func TestFieldArithmeticIsExact(t *testing.T) {
	for v := range uint32(1 << 17) {
		if got := reduce(v); got != v%prime {
			t.Fatalf("reduce(%d) = %d, want %d", v, got, v%prime)
		}
	}
	for a := range uint32(prime) {
		for b := range uint32(prime) {
			if got, want := add(a, b), (a+b)%prime; got != want {
				t.Fatalf("add(%d, %d) = %d, want %d", a, b, got, want)
			}
			if got, want := mul(a, b), a*b%prime; got != want {
				t.Fatalf("mul(%d, %d) = %d, want %d", a, b, got, want)
			}
		}
		if a != 0 && mul(a, inverse(a)) != 1 {
			t.Fatalf("inverse(%d) = %d is not its inverse", a, inverse(a))
		}
	}
	for v := range uint32(1 << valueBits) {
		if got := isAbove(v, maxValue) == 1; got != (v > maxValue) {
			t.Fatalf("isAbove(%d, 256) = %v", v, got)
		}
	}
}

func TestWeightsInterpolateEverywhere(t *testing.T) {
	f := func(x uint32) uint32 { return (7 + 11*x + 256*x*x + 0*x*x*x) % prime }
	xs := []uint32{126, 3, 77, 1}
	for target := range uint32(MaxShares + 1) {
		ws, sum := weights(xs, target), uint32(0)
		for i, x := range xs {
			sum = add(sum, mul(ws[i], f(x)))
		}
		if sum != f(target) {
			t.Fatalf("interpolated f(%d) = %d, want %d", target, sum, f(target))
		}
	}
}
