package shamir

// Arithmetic in GF(257), the field of the integers modulo 257.
//
// Values that depend on a secret go through add, mul and reduce only: they run the same instructions for every
// input, with no branch, no division and no table, so neither the branch predictor nor the cache sees a secret.
// (The multiplication is 32 bits wide; it takes the same time for all operands on every processor that Go
// supports with a hardware multiplier.) x coordinates are public; inverse works on those alone.

const prime = 257

// reduce returns v mod 257 for v < 2¹⁷. Since 256 ≡ -1, v = 256·hi + lo ≡ lo − hi.
func reduce(v uint32) uint32 {
	r := (v & 0xff) + 2*prime - v>>8 // 3 … 769
	r = subtractIfNotLess(r)
	return subtractIfNotLess(r)
}

// subtractIfNotLess returns r − 257 if r ≥ 257 and r otherwise, for r < 2³¹, by a mask instead of a branch.
func subtractIfNotLess(r uint32) uint32 {
	t := r - prime
	return t + prime&-(t>>31) // the top bit of t is set exactly if r < 257
}

func add(a, b uint32) uint32 { return subtractIfNotLess(a + b) }
func mul(a, b uint32) uint32 { return reduce(a * b) }

// isAbove returns 1 if v > limit and 0 otherwise, without a branch, for values below 2³¹.
func isAbove(v, limit uint32) uint32 { return (limit - v) >> 31 }

// inverse returns 1/a for a ≠ 0, as a²⁵⁵ (Fermat). It is used on public values.
func inverse(a uint32) uint32 {
	r := uint32(1)
	for range prime - 2 {
		r = mul(r, a)
	}
	return r
}

// weights returns the factors w with f(t) = Σ wᵢ·f(xsᵢ) for every polynomial f of degree below len(xs)
// (Lagrange). The xs are distinct; all arguments are public.
func weights(xs []uint32, t uint32) []uint32 {
	ws := make([]uint32, len(xs))
	for i, xi := range xs {
		num, den := uint32(1), uint32(1)
		for j, xj := range xs {
			if j != i {
				num = mul(num, add(t, prime-xj))
				den = mul(den, add(xi, prime-xj))
			}
		}
		ws[i] = mul(num, inverse(den))
	}
	return ws
}
