package software

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"fmt"
	"math/big"

	"strongroom/internal/engine"
	"strongroom/secret"
)

// publicExponent is the only one that crypto/rsa generates (FIPS 186-5 appendix A.1.1 allows others).
const publicExponent = 65537

// curves of this engine, by their JWK names.
var curves = map[string]elliptic.Curve{
	engine.P256: elliptic.P256(),
	engine.P384: elliptic.P384(),
	engine.P521: elliptic.P521(),
}

// private is an opened key: exactly one of the two is set.
type private struct {
	rsa   *rsa.PrivateKey
	ec    *ecdsa.PrivateKey
	curve string
}

// normal checks spec and fills in what it leaves open, so that specs can be compared with ==.
func normal(spec engine.Spec) (engine.Spec, error) {
	switch spec.Type {
	case engine.RSA:
		if spec.Bits != 2048 && spec.Bits != 3072 && spec.Bits != 4096 {
			return spec, fmt.Errorf("%w: an RSA key has 2048, 3072 or 4096 bits, not %d", engine.ErrSpec, spec.Bits)
		}
		if spec.Exponent == 0 {
			spec.Exponent = publicExponent
		}
		if spec.Exponent != publicExponent {
			return spec, fmt.Errorf("%w: this engine makes RSA keys with the public exponent %d only, not %d", engine.ErrSpec, publicExponent, spec.Exponent)
		}
		if spec.Curve != "" {
			return spec, fmt.Errorf("%w: an RSA key has no curve", engine.ErrSpec)
		}
	case engine.EC:
		if spec.Curve == engine.P256K {
			return spec, fmt.Errorf("%w: this engine has no P-256K (secp256k1)", engine.ErrSpec)
		}
		if curves[spec.Curve] == nil {
			return spec, fmt.Errorf("%w: an EC key needs the curve P-256, P-384 or P-521", engine.ErrSpec)
		}
		if spec.Bits != 0 || spec.Exponent != 0 {
			return spec, fmt.Errorf("%w: an EC key has a curve, no size and no exponent", engine.ErrSpec)
		}
	default:
		return spec, fmt.Errorf("%w: the key types are RSA-HSM and EC-HSM", engine.ErrSpec)
	}
	return spec, nil
}

func (s *software) Generate(ctx context.Context, spec engine.Spec, binding []byte) (engine.Made, error) {
	if err := s.check(ctx); err != nil {
		return engine.Made{}, err
	}
	spec, err := normal(spec)
	if err != nil {
		return engine.Made{}, err
	}
	var key private
	if spec.Type == engine.RSA {
		key.rsa, err = rsa.GenerateKey(s.rand, spec.Bits)
	} else {
		key.curve = spec.Curve
		key.ec, err = ecdsa.GenerateKey(curves[spec.Curve], s.rand)
	}
	if err != nil {
		return engine.Made{}, fmt.Errorf("software engine: generate a key: %w", err)
	}
	defer key.wipe()
	return s.made(key, binding)
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

// open decrypts and parses the key of ref, and holds it against what ref says about it.
func (s *software) open(ref engine.Ref) (private, error) {
	plain, err := s.openKey(ref.Sealed, ref.Binding)
	if err != nil {
		return private{}, err
	}
	defer plain.Wipe()
	key, err := parse(plain)
	if err != nil {
		return private{}, err
	}
	got := key.spec()
	if got.Type != ref.Type || got.Bits != ref.Bits || got.Curve != ref.Curve {
		key.wipe()
		return private{}, engine.ErrTampered
	}
	return key, nil
}

// parse reads a PKCS #8 key and checks it: n is the product of the primes and the exponents fit, or the curve
// is ours and 1 ≤ d < n; the public point of an EC key is computed, not read. The bytes were authenticated, so
// a failure means that somebody sealed what this engine would not have sealed.
func parse(plain secret.Bytes) (private, error) {
	parsed, err := x509.ParsePKCS8PrivateKey(plain.Reveal())
	if err != nil {
		return private{}, engine.ErrTampered
	}
	var key private
	switch k := parsed.(type) {
	case *rsa.PrivateKey:
		key.rsa = k
		if len(k.Primes) != 2 || k.Validate() != nil {
			return private{}, engine.ErrTampered
		}
	case *ecdsa.PrivateKey:
		key.ec = k
		key.curve = k.Curve.Params().Name
	}
	if _, err := normal(key.spec()); err != nil {
		key.wipe()
		return private{}, engine.ErrTampered
	}
	return key, nil
}

// spec describes the key. The zero private has the zero Spec.
func (k private) spec() engine.Spec {
	switch {
	case k.rsa != nil:
		return engine.Spec{Type: engine.RSA, Bits: k.rsa.N.BitLen(), Exponent: k.rsa.E}
	case k.ec != nil:
		return engine.Spec{Type: engine.EC, Curve: k.curve}
	}
	return engine.Spec{}
}

func (k private) public() (engine.Public, error) {
	if k.rsa != nil {
		return engine.Public{Type: engine.RSA, N: new(big.Int).Set(k.rsa.N), E: k.rsa.E}, nil
	}
	point, err := k.ec.PublicKey.Bytes() // 4 ‖ x ‖ y
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
	var key crypto.PrivateKey = k.rsa
	if k.ec != nil {
		key = k.ec
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return secret.Bytes{}, fmt.Errorf("software engine: encode a key: %w", err)
	}
	return secret.Take(der), nil
}

// wipe clears the big integers of an RSA key. crypto/ecdsa offers no way to do the same that it does not
// call a misuse, and both packages keep copies of their own.
func (k private) wipe() {
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
