package software

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"

	"github.com/decred/dcrd/dcrec/secp256k1/v4"

	"strongroom/internal/engine"
	"strongroom/secret"
)

// publicExponent is the default, and the only one that crypto/rsa generates: see generateRSA for others.
const publicExponent = 65537

// maxExponent is the largest that crypto/rsa takes.
const maxExponent = 1<<31 - 1

// curves of this engine that the standard library has, by their JWK names.
var curves = map[string]elliptic.Curve{
	engine.P256: elliptic.P256(),
	engine.P384: elliptic.P384(),
	engine.P521: elliptic.P521(),
}

// private is an opened key: exactly one of rsa, ec, k1 and oct is set.
type private struct {
	rsa   *rsa.PrivateKey
	ec    *ecdsa.PrivateKey
	k1    *keyP256K
	oct   secret.Bytes
	curve string // with ec and k1
}

// wanted is a spec that passed checkSpec.
type wanted engine.Spec

// describes reports whether a key of the spec got is what was wanted; an exponent of 0 wants any.
func (w wanted) describes(got engine.Spec) bool {
	return w.Type == got.Type && w.Bits == got.Bits && w.Curve == got.Curve && (w.Exponent == 0 || w.Exponent == got.Exponent)
}

// checkSpec says whether there are such keys. An exponent of 0 is none given.
func checkSpec(spec engine.Spec) (wanted, error) {
	no := func(format string, args ...any) (wanted, error) {
		return wanted{}, fmt.Errorf("%w: "+format, append([]any{engine.ErrSpec}, args...)...)
	}
	switch spec.Type {
	case engine.RSA:
		if spec.Bits != 2048 && spec.Bits != 3072 && spec.Bits != 4096 {
			return no("an RSA key has 2048, 3072 or 4096 bits, not %d", spec.Bits)
		}
		if e := spec.Exponent; e != 0 && (e < publicExponent || e%2 == 0 || e > maxExponent) {
			return no("the public exponent of an RSA key is odd, at least %d and at most %d, not %d", publicExponent, maxExponent, e)
		}
		if spec.Curve != "" {
			return no("an RSA key has no curve")
		}
	case engine.EC:
		if curves[spec.Curve] == nil && spec.Curve != engine.P256K {
			return no("an EC key needs the curve P-256, P-256K, P-384 or P-521")
		}
		if spec.Bits != 0 || spec.Exponent != 0 {
			return no("an EC key has a curve, no size and no exponent")
		}
	case engine.Oct:
		if spec.Bits != 128 && spec.Bits != 192 && spec.Bits != 256 {
			return no("an oct key has 128, 192 or 256 bits, not %d", spec.Bits)
		}
		if spec.Curve != "" || spec.Exponent != 0 {
			return no("an oct key has a size, no curve and no exponent")
		}
	default:
		return no("the key types are RSA-HSM, EC-HSM and oct-HSM")
	}
	return wanted(spec), nil
}

func (s *software) Generate(ctx context.Context, spec engine.Spec, binding []byte) (engine.Made, error) {
	if err := s.check(ctx); err != nil {
		return engine.Made{}, err
	}
	if _, err := checkSpec(spec); err != nil {
		return engine.Made{}, err
	}
	if spec.Type == engine.RSA {
		leave, err := s.lanes.enterSearch(ctx)
		if err != nil {
			return engine.Made{}, err
		}
		defer leave()
	}
	key, err := s.generate(spec)
	if err != nil {
		return engine.Made{}, fmt.Errorf("software engine: generate a key: %w", err)
	}
	defer key.wipe()
	return s.made(key, binding)
}

// generate makes a key of a checked spec.
func (s *software) generate(spec engine.Spec) (key private, err error) {
	switch {
	case spec.Type == engine.RSA:
		key.rsa, err = s.generateRSA(spec.Bits, spec.Exponent)
	case spec.Type == engine.Oct:
		key.oct, err = secret.Random(s.rand, spec.Bits/8)
	case spec.Curve == engine.P256K:
		var k *secp256k1.PrivateKey
		if k, err = secp256k1.GeneratePrivateKeyFromRand(s.rand); err == nil {
			key.curve, key.k1 = spec.Curve, newP256K(k)
		}
	default:
		key.curve = spec.Curve
		key.ec, err = ecdsa.GenerateKey(curves[spec.Curve], s.rand)
	}
	return key, err
}

// generateRSA makes an RSA key. crypto/rsa only makes keys with the exponent 65537. For another one its primes are
// kept, which owe nothing to the exponent, and d is computed anew (FIPS 186-5 appendix A.1.1): it is the inverse of
// e modulo lcm(p−1, q−1), and greater than 2^(bits/2). Where there is none, the primes are given up. math/big takes
// a time for this that depends on the numbers, once in the life of a key.
func (s *software) generateRSA(bits, exponent int) (*rsa.PrivateKey, error) {
	for {
		made, err := rsa.GenerateKey(s.rand, bits)
		if err != nil || exponent == 0 || exponent == publicExponent {
			return made, err
		}
		one := big.NewInt(1)
		p1, q1 := new(big.Int).Sub(made.Primes[0], one), new(big.Int).Sub(made.Primes[1], one)
		gcd, lambda := new(big.Int).GCD(nil, nil, p1, q1), new(big.Int).Mul(p1, q1)
		lambda.Div(lambda, gcd)
		d := new(big.Int).ModInverse(big.NewInt(int64(exponent)), lambda)
		zero(p1, q1, lambda)
		if d == nil || d.BitLen() <= bits/2 {
			private{rsa: made}.wipe()
			continue
		}
		key := &rsa.PrivateKey{PublicKey: rsa.PublicKey{N: made.N, E: exponent}, D: d, Primes: made.Primes}
		key.Precompute()
		if err := key.Validate(); err != nil {
			return nil, err
		}
		return key, nil
	}
}

// made seals a new key.
func (s *software) made(key private, binding []byte) (engine.Made, error) {
	public, err := key.public()
	if err != nil {
		return engine.Made{}, err
	}
	plain, err := key.marshal()
	if err != nil {
		return engine.Made{}, err
	}
	sealed, err := s.sealKey(plain, binding)
	if err != nil {
		return engine.Made{}, err
	}
	return engine.Made{Public: public, Sealed: sealed}, nil
}

// use returns the opened key of ref, which the caller gives back with s.cache.release. inLane says that the caller
// has a place in the lanes already; opening a heavy key takes one.
func (s *software) use(ctx context.Context, ref engine.Ref, inLane bool) (*entry, error) {
	id := idOf(ref)
	e, ticket := s.cache.get(id)
	if e == nil {
		if heavy(ref) && !inLane {
			leave, err := s.lanes.enter(ctx)
			if err != nil {
				return nil, err
			}
			defer leave()
		}
		key, err := s.open(ref)
		if err != nil {
			return nil, err
		}
		e = s.cache.put(id, key, ticket)
	}
	if !same(ref, e.key.spec()) {
		s.cache.release(e)
		return nil, engine.ErrTampered
	}
	return e, nil
}

// plainOf is the plain form of ref's key, as it lies there, after it was opened: for whoever goes through all keys. It is
// not kept: those must not drive out the keys that are in use. A key that is open already is not parsed again.
func (s *software) plainOf(ctx context.Context, ref engine.Ref) (plain secret.Bytes, err error) {
	e, _ := s.cache.get(idOf(ref))
	if e != nil {
		defer s.cache.release(e)
		if !same(ref, e.key.spec()) {
			return plain, engine.ErrTampered
		}
	} else if heavy(ref) {
		leave, err := s.lanes.enter(ctx)
		if err != nil {
			return plain, err
		}
		defer leave()
	}
	if plain, err = s.openKey(ref.Sealed, ref.Binding); err != nil || e != nil {
		return plain, err
	}
	key, err := parse(plain)
	if err == nil && !same(ref, key.spec()) {
		err = engine.ErrTampered
	}
	key.wipe()
	if err != nil {
		plain.Wipe()
		return secret.Bytes{}, err
	}
	return plain, nil
}

// usePrivate is use for an operation with the private key: a heavy one has its place in the lanes until done is
// called, which gives everything back.
func (s *software) usePrivate(ctx context.Context, ref engine.Ref) (key private, done func(), err error) {
	leave := func() {}
	if heavy(ref) {
		if leave, err = s.lanes.enter(ctx); err != nil {
			return private{}, nil, err
		}
	}
	e, err := s.use(ctx, ref, true)
	if err != nil {
		leave()
		return private{}, nil, err
	}
	return e.key, func() { s.cache.release(e); leave() }, nil
}

// Drop takes the key out of the cache.
func (s *software) Drop(ref engine.Ref) { s.cache.drop(idOf(ref)) }

// same reports whether what ref says about its key is true.
func same(ref engine.Ref, got engine.Spec) bool {
	return got.Type == ref.Type && got.Bits == ref.Bits && got.Curve == ref.Curve
}

// open decrypts and parses the key of ref, and holds it against what ref says about it.
func (s *software) open(ref engine.Ref) (private, error) {
	plain, err := s.openKey(ref.Sealed, ref.Binding)
	if err != nil {
		return private{}, err
	}
	defer plain.Wipe()
	key, ok := parseOwn(plain.Reveal())
	if !ok {
		if key, err = parse(plain); err != nil {
			return private{}, err
		}
	}
	if !same(ref, key.spec()) {
		key.wipe()
		return private{}, engine.ErrTampered
	}
	return key, nil
}

// parse reads what marshal wrote and checks it: n is the product of the primes and the exponents fit, or the curve
// is ours and 1 ≤ d < n; the public point of an EC key is computed, not read. The bytes were authenticated, so
// a failure means that somebody sealed what this engine would not have sealed.
func parse(plain secret.Bytes) (private, error) {
	var key private
	if b := plain.Reveal(); len(b) > 0 && b[0] == octMark {
		key.oct = secret.New(b[1:])
	} else {
		var err error
		if key, err = parsePKCS8(b); err != nil {
			return private{}, engine.ErrTampered
		}
	}
	if _, err := checkSpec(key.spec()); err != nil {
		key.wipe()
		return private{}, engine.ErrTampered
	}
	return key, nil
}

// octMark stands before an oct key where a PKCS #8 key has the tag of a SEQUENCE.
const octMark = 0

var errPKCS8 = errors.New("not a PKCS #8 key of RSA with two primes or of EC")

// parsePKCS8 reads a key and checks that its numbers fit each other; not that its size is one of ours, nor that the
// primes of an RSA key are primes.
func parsePKCS8(der []byte) (private, error) {
	if k, found, err := parseP256K(der); found {
		return private{k1: k, curve: engine.P256K}, err
	}
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return private{}, errPKCS8
	}
	switch k := parsed.(type) {
	case *rsa.PrivateKey:
		if len(k.Primes) == 2 && k.Validate() == nil {
			return private{rsa: k}, nil
		}
		private{rsa: k}.wipe()
	case *ecdsa.PrivateKey:
		return private{ec: k, curve: k.Curve.Params().Name}, nil
	}
	return private{}, errPKCS8
}

// spec describes the key. The zero private has the zero Spec.
func (k private) spec() engine.Spec {
	switch {
	case k.rsa != nil:
		return engine.Spec{Type: engine.RSA, Bits: k.rsa.N.BitLen(), Exponent: k.rsa.E}
	case k.curve != "":
		return engine.Spec{Type: engine.EC, Curve: k.curve}
	case !k.oct.IsZero():
		return engine.Spec{Type: engine.Oct, Bits: 8 * k.oct.Len()}
	}
	return engine.Spec{}
}

func (k private) public() (engine.Public, error) {
	var point []byte // 4 ‖ x ‖ y
	var err error
	switch {
	case k.rsa != nil:
		return engine.Public{Type: engine.RSA, N: new(big.Int).Set(k.rsa.N), E: k.rsa.E}, nil
	case k.ec != nil:
		point, err = k.ec.PublicKey.Bytes()
	case k.k1 != nil:
		point = k.k1.public.SerializeUncompressed()
	default:
		return engine.Public{Type: engine.Oct, Bits: 8 * k.oct.Len()}, nil
	}
	if err != nil {
		return engine.Public{}, fmt.Errorf("software engine: encode a public key: %w", err)
	}
	half := len(point) / 2
	return engine.Public{
		Type: engine.EC, Curve: k.curve,
		X: new(big.Int).SetBytes(point[1 : 1+half]),
		Y: new(big.Int).SetBytes(point[1+half:]),
	}, nil
}

func (k private) marshal() (secret.Bytes, error) {
	var der []byte
	var err error
	switch {
	case k.rsa != nil:
		der, err = x509.MarshalPKCS8PrivateKey(k.rsa)
	case k.ec != nil:
		der, err = x509.MarshalPKCS8PrivateKey(k.ec)
	case k.k1 != nil:
		der, err = marshalP256K(k.k1)
	default:
		der = append([]byte{octMark}, k.oct.Reveal()...)
	}
	if err != nil {
		return secret.Bytes{}, fmt.Errorf("software engine: encode a key: %w", err)
	}
	return secret.Take(der), nil
}

// wipe clears the key: of RSA the big integers. crypto/ecdsa offers no way to do the same that it does not call a
// misuse, and both packages keep copies of their own.
func (k private) wipe() {
	k.oct.Wipe()
	if k.k1 != nil {
		k.k1.private.Zero()
	}
	if k.rsa == nil {
		return
	}
	pre := k.rsa.Precomputed
	for _, n := range append([]*big.Int{k.rsa.D, pre.Dp, pre.Dq, pre.Qinv}, k.rsa.Primes...) {
		if n != nil {
			clear(n.Bits())
		}
	}
}
