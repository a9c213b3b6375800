package software

import (
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
// engine.Engine's ImportWrapped takes it. The key is checked as it will be there: engine.ErrMaterial, engine.ErrSpec; kek
// as one that a key is released to: engine.ErrRecipient. m stays the caller's.
func WrapForImport(random io.Reader, kek engine.Public, m engine.Material) ([]byte, error) {
	recipient, err := recipientOf(kek)
	if err != nil {
		return nil, err
	}
	key, err := fromMaterial(m)
	if err != nil {
		return nil, err
	}
	defer key.wipe()
	target, err := key.target()
	if err != nil {
		return nil, err
	}
	defer target.Wipe()
	return wrapFor(random, recipient, sha1.New, target)
}
