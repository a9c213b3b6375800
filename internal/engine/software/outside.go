package software

import (
	"crypto/aes"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"io"
	"math/big"

	"strongroom/internal/engine"
	"strongroom/secret"
)

// What the command line does with keys that are outside, on their way into an HSM: it reads them and wraps them by the
// rules by which the engine of an HSM will unwrap and check them.

// The forms of a private key in DER, by their PEM labels.
const (
	FormPKCS8 = "PRIVATE KEY"
	FormPKCS1 = "RSA PRIVATE KEY"
	FormSEC1  = "EC PRIVATE KEY"
)

// ParsePrivate reads a private key in DER as key material: PKCS #8 (RSA and EC, P-256K too), PKCS #1 or SEC 1. It is
// for keys outside; one that is inside never becomes material. engine.ErrMaterial if it is none of them; whether the
// key is sound, and of a size that an HSM has, is left to whoever takes it. der stays the caller's, and the caller
// wipes the material.
func ParsePrivate(form string, der secret.Bytes) (engine.Material, error) {
	key, err := parseForm(form, der.Reveal())
	if err != nil {
		return engine.Material{}, unsound("%v", err)
	}
	defer key.wipe()
	return key.material()
}

func parseForm(form string, der []byte) (private, error) {
	switch form {
	case FormPKCS1:
		key, err := x509.ParsePKCS1PrivateKey(der)
		if err != nil || len(key.Primes) != 2 {
			return private{}, fmt.Errorf("not a PKCS #1 key with two primes")
		}
		return private{rsa: key}, nil
	case FormSEC1:
		var outer sec1
		rest, err := asn1.Unmarshal(der, &outer)
		defer clear(outer.PrivateKey)
		if err == nil && len(rest) == 0 && outer.Version == 1 && outer.Curve.Equal(oidSecp256k1) {
			k, err := scalarP256K(outer.PrivateKey)
			return private{k1: k, curve: engine.P256K}, err
		}
		key, err := x509.ParseECPrivateKey(der)
		if err != nil {
			return private{}, fmt.Errorf("not a SEC 1 key on a curve that is named")
		}
		return private{ec: key, curve: key.Curve.Params().Name}, nil
	}
	return parsePKCS8(der)
}

// material is the key in the clear.
func (k private) material() (engine.Material, error) {
	public, err := k.public()
	if err != nil {
		return engine.Material{}, err
	}
	if k.rsa != nil {
		pre := k.rsa.Precomputed
		take := func(n *big.Int) secret.Bytes { return secret.Take(n.Bytes()) }
		return engine.Material{
			Type: engine.RSA, N: public.N.Bytes(), E: big.NewInt(int64(public.E)).Bytes(), D: take(k.rsa.D), P: take(k.rsa.Primes[0]),
			Q: take(k.rsa.Primes[1]), DP: take(pre.Dp), DQ: take(pre.Dq), QI: take(pre.Qinv),
		}, nil
	}
	size := coordinate(fieldBits(k.curve))
	m := engine.Material{Type: engine.EC, Curve: k.curve, X: public.X.FillBytes(make([]byte, size)), Y: public.Y.FillBytes(make([]byte, size))}
	if k.k1 != nil {
		m.D = secret.Take(k.k1.private.Serialize())
		return m, nil
	}
	d, err := k.ec.Bytes()
	if err != nil {
		return engine.Material{}, fmt.Errorf("software engine: encode a key: %w", err)
	}
	m.D = secret.Take(d)
	return m, nil
}

// WrapForImport wraps a key for kek, the public part of a key of an HSM that receives keys, so that
// engine.Engine's ImportWrapped takes it: RSA-OAEP with SHA-1 of a fresh AES-256 key, then the target wrapped with
// that key by RFC 5649. The key is checked as it will be there: engine.ErrMaterial, engine.ErrSpec. m stays the caller's.
func WrapForImport(rand io.Reader, kek *rsa.PublicKey, m engine.Material) ([]byte, error) {
	if bits := kek.N.BitLen(); bits != 2048 && bits != 3072 && bits != 4096 {
		return nil, fmt.Errorf("%w: a key that receives keys has 2048, 3072 or 4096 bits, not %d", engine.ErrSpec, bits)
	}
	key, err := fromMaterial(m)
	if err != nil {
		return nil, err
	}
	defer key.wipe()
	plain, err := key.marshal()
	if err != nil {
		return nil, err
	}
	defer plain.Wipe()
	target := plain.Reveal()
	if !key.oct.IsZero() {
		target = key.oct.Reveal() // without the mark
	}
	once, err := secret.Random(rand, 32)
	if err != nil {
		return nil, fmt.Errorf("software engine: %w", err)
	}
	defer once.Wipe()
	wrapped, err := rsa.EncryptOAEP(sha1.New(), rand, kek, once.Reveal(), nil)
	if err != nil {
		return nil, fmt.Errorf("software engine: wrap: %w", err)
	}
	block, err := aes.NewCipher(once.Reveal())
	if err != nil {
		return nil, fmt.Errorf("software engine: wrap: %w", err)
	}
	return append(wrapped, wrapPadded(block, target)...), nil
}
