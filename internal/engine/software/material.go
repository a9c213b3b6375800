package software

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/rsa"
	"fmt"
	"math/big"

	"strongroom/internal/engine"
	"strongroom/secret"
)

// maxNumber bounds every number of an RSA key from outside, in bytes: 4096 bits and a leading zero.
const maxNumber = 4096/8 + 1

// primalityRounds are the Miller-Rabin rounds with random bases; math/big adds a Baillie-PSW test (FIPS 186-5
// appendix B.3 asks for fewer of both for numbers of this size).
const primalityRounds = 20

// unsound is an ErrMaterial that says which check failed.
func unsound(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{engine.ErrMaterial}, args...)...)
}

func (s *software) ImportKey(ctx context.Context, m engine.Material, binding []byte) (engine.Made, error) {
	defer m.Wipe()
	if err := s.check(ctx); err != nil {
		return engine.Made{}, err
	}
	if m.Type == engine.RSA { // the primality test takes long
		leave, err := s.lanes.enter(ctx)
		if err != nil {
			return engine.Made{}, err
		}
		defer leave()
	}
	key, err := fromMaterial(m)
	if err != nil {
		return engine.Made{}, err
	}
	defer key.wipe()
	return s.made(key, binding)
}

// fromMaterial checks a key from outside (threat K8).
func fromMaterial(m engine.Material) (private, error) {
	switch m.Type {
	case engine.RSA:
		return importRSA(m)
	case engine.EC:
		return importEC(m)
	case engine.Oct:
		if _, err := checkSpec(engine.Spec{Type: engine.Oct, Bits: 8 * m.K.Len()}); err != nil {
			return private{}, err
		}
		return private{oct: m.K.Clone()}, nil
	}
	_, err := checkSpec(engine.Spec{Type: m.Type})
	return private{}, err
}

func importRSA(m engine.Material) (private, error) {
	n, d, p, q := new(big.Int).SetBytes(bounded(m.N)), number(m.D), number(m.P), number(m.Q)
	if n.Sign() == 0 || d.Sign() == 0 || p.Sign() == 0 || q.Sign() == 0 {
		zero(d, p, q)
		return private{}, unsound("an RSA key needs n, e, d, p and q, each a number of at most %d bytes", maxNumber)
	}
	e := new(big.Int).SetBytes(bounded(m.E))
	if e.Cmp(big.NewInt(publicExponent)) < 0 || e.Cmp(big.NewInt(maxExponent)) > 0 || e.Bit(0) == 0 {
		zero(d, p, q)
		return private{}, unsound("e is odd, at least %d and at most %d", publicExponent, maxExponent)
	}
	key := private{rsa: &rsa.PrivateKey{PublicKey: rsa.PublicKey{N: n, E: int(e.Int64())}, D: d, Primes: []*big.Int{p, q}}}
	dp, dq, qi := number(m.DP), number(m.DQ), number(m.QI)
	defer zero(dp, dq, qi)
	err := checkRSA(key.rsa)
	if err == nil {
		err = checkCRT(key.rsa, [3]secret.Bytes{m.DP, m.DQ, m.QI}, [3]*big.Int{dp, dq, qi})
	}
	if err == nil {
		key.rsa.Precompute()
		if key.rsa.Validate() != nil {
			err = unsound("crypto/rsa does not take the key")
		}
	}
	if err != nil {
		key.wipe()
		return private{}, err
	}
	return key, nil
}

// checkRSA says what is wrong with the numbers of a key with two primes, the cheap checks first.
func checkRSA(k *rsa.PrivateKey) error {
	bits := k.N.BitLen()
	if _, err := checkSpec(engine.Spec{Type: engine.RSA, Bits: bits, Exponent: k.E}); err != nil {
		return err
	}
	p, q := k.Primes[0], k.Primes[1]
	if p.BitLen() != bits/2 || q.BitLen() != bits/2 {
		return unsound("p and q must have half as many bits as n")
	}
	product, diff := new(big.Int).Mul(p, q), new(big.Int).Sub(p, q)
	defer zero(product, diff)
	if product.Cmp(k.N) != 0 {
		return unsound("n is not p·q")
	}
	// |p − q| > 2^(nlen/2 − 100): FIPS 186-5 appendix A.1.3, against Fermat's factorisation (CVE-2022-26320).
	if diff.Abs(diff).BitLen() <= bits/2-100 {
		return unsound("p and q are too close to each other")
	}
	// 2^(nlen/2) < d < n: FIPS 186-5 appendix A.1.1, against Wiener's attack on small d.
	if k.D.BitLen() <= bits/2 || k.D.Cmp(k.N) >= 0 {
		return unsound("d is too small or not below n")
	}
	one, e := big.NewInt(1), big.NewInt(int64(k.E))
	de := new(big.Int).Mul(k.D, e)
	less, rest := new(big.Int), new(big.Int)
	defer zero(de, less, rest)
	for _, prime := range k.Primes {
		if rest.Mod(de, less.Sub(prime, one)).Cmp(one) != 0 {
			return unsound("d·e is not 1 modulo p−1 and q−1")
		}
	}
	if roca(k.N) {
		return unsound("n has the fingerprint of a generator whose keys can be factored (ROCA, CVE-2017-15361); make a new key elsewhere")
	}
	if !isPrime(p) || !isPrime(q) {
		return unsound("p or q is not prime")
	}
	return nil
}

// checkCRT compares those of dp, dq and qi that are given with what p, q and d make them (RFC 8017 section 3.2).
func checkCRT(k *rsa.PrivateKey, given [3]secret.Bytes, value [3]*big.Int) error {
	p, q, one := k.Primes[0], k.Primes[1], big.NewInt(1)
	want, less := new(big.Int), new(big.Int)
	defer zero(want, less)
	for i, name := range []string{"dp", "dq", "qi"} {
		if given[i].IsZero() {
			continue
		}
		switch name {
		case "dp":
			want.Mod(k.D, less.Sub(p, one))
		case "dq":
			want.Mod(k.D, less.Sub(q, one))
		case "qi":
			want.ModInverse(q, p)
		}
		if value[i].Cmp(want) != 0 {
			return unsound("%s does not fit the other numbers", name)
		}
	}
	return nil
}

// isPrime reports whether n is prime, wrongly for a composite with a probability under 2⁻⁴⁰. Negative numbers are not.
func isPrime(n *big.Int) bool { return n.Sign() > 0 && n.ProbablyPrime(primalityRounds) }

// rocaPrimes are the small primes that the faulty generator's moduli betray themselves by (Nemec et al., The Return
// of Coppersmith's Attack, CCS 2017, section 3.3): its primes are k·M + (65537^a mod M), M a product of these and
// others, so modulo each of them n is a power of 65537.
var rocaPrimes = []uint64{3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97, 101, 103, 107, 109, 113, 127, 131, 137, 139, 149, 151, 157, 163, 167}

// roca reports whether n has the fingerprint. A random n has it with a probability of about 2⁻²⁸.
func roca(n *big.Int) bool {
	for _, prime := range rocaPrimes {
		rest := new(big.Int).Mod(n, new(big.Int).SetUint64(prime)).Uint64()
		power := uint64(1)
		for power != rest {
			if power = power * 65537 % prime; power == 1 {
				return false // all powers seen
			}
		}
	}
	return true
}

func importEC(m engine.Material) (private, error) {
	if _, err := checkSpec(engine.Spec{Type: engine.EC, Curve: m.Curve}); err != nil {
		return private{}, err
	}
	size := coordinate(fieldBits(m.Curve))
	if len(m.X) == 0 || len(m.Y) == 0 || m.D.IsZero() || len(m.X) > size+1 || len(m.Y) > size+1 || m.D.Len() > size+1 {
		return private{}, unsound("an EC key needs x, y and d, each of %d bytes", size)
	}
	public := engine.Public{Type: engine.EC, Curve: m.Curve, X: new(big.Int).SetBytes(m.X), Y: new(big.Int).SetBytes(m.Y)}
	point, err := onCurve(public)
	if err != nil {
		return private{}, unsound("the point x, y is not on %s", m.Curve)
	}
	d := make([]byte, size)
	defer clear(d)
	n := number(m.D)
	defer zero(n)
	if n.BitLen() <= 8*size {
		n.FillBytes(d)
	} // else d stays 0, which is refused too
	key := private{curve: m.Curve}
	if m.Curve == engine.P256K {
		key.k1, err = scalarP256K(d)
	} else {
		key.ec, err = ecdsa.ParseRawPrivateKey(curves[m.Curve], d)
	}
	if err != nil {
		return private{}, unsound("d is not between 1 and the order of %s", m.Curve)
	}
	own, err := key.public()
	if err != nil {
		return private{}, err
	}
	mine, err := pointOf(own)
	if err != nil {
		return private{}, err
	}
	if !bytes.Equal(mine, point) {
		key.wipe()
		return private{}, unsound("the point x, y is not that of d")
	}
	return key, nil
}

// bounded is b, or nil if it is longer than a number of an RSA key can be.
func bounded(b []byte) []byte {
	if len(b) > maxNumber {
		return nil
	}
	return b
}

// number reads a secret number; 0 if it is longer than it can be. The caller clears it with zero.
func number(b secret.Bytes) *big.Int { return new(big.Int).SetBytes(bounded(b.Reveal())) }

// zero clears numbers.
func zero(numbers ...*big.Int) {
	for _, n := range numbers {
		clear(n.Bits())
	}
}
