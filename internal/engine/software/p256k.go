package software

import (
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"

	"github.com/decred/dcrd/dcrec/secp256k1/v4"
	"github.com/decred/dcrd/dcrec/secp256k1/v4/ecdsa"
)

// P-256K (secp256k1) is not in the standard library: keys and signatures are package secp256k1's, and its PKCS #8
// form, which crypto/x509 does not read, is here.
//
// BUG: package secp256k1 multiplies the base point and inverts in time that depends a little on the number, which is
// the nonce of a signature, or the key when its public part is computed. The nonce is that of RFC 6979, so asking
// twice for one digest repeats one measurement. We know of no attack that this gives to a caller across a network;
// whoever measures on the same processor may do better. The other curves are the standard library's and constant-time.

// keyP256K is a key with its public part, which is computed once.
type keyP256K struct {
	private *secp256k1.PrivateKey
	public  *secp256k1.PublicKey
}

func newP256K(k *secp256k1.PrivateKey) *keyP256K { return &keyP256K{private: k, public: k.PubKey()} }

// signP256K returns r ‖ s, 32 bytes each, with s at most half the order.
func signP256K(key *secp256k1.PrivateKey, digest []byte) []byte {
	signature := ecdsa.Sign(key, digest)
	r, s := signature.R(), signature.S()
	out := make([]byte, 64)
	r.PutBytesUnchecked(out[:32])
	s.PutBytesUnchecked(out[32:])
	return out
}

// verifyP256K takes both values of s: clients that do not normalise it are right by RFC 8812 section 3.2.
func verifyP256K(key *secp256k1.PublicKey, digest, signature []byte) bool {
	if len(signature) != 64 {
		return false
	}
	var r, s secp256k1.ModNScalar
	if r.SetByteSlice(signature[:32]) || s.SetByteSlice(signature[32:]) { // reduced: not below the order
		return false
	}
	return ecdsa.NewSignature(&r, &s).Verify(digest, key)
}

var (
	oidEC        = asn1.ObjectIdentifier{1, 2, 840, 10045, 2, 1} // RFC 5480 section 2.1.1
	oidSecp256k1 = asn1.ObjectIdentifier{1, 3, 132, 0, 10}       // SEC 2 appendix A.2.1
)

// pkcs8 is PrivateKeyInfo of RFC 5208 section 5 without its attributes.
type pkcs8 struct {
	Version    int
	Algorithm  pkix.AlgorithmIdentifier
	PrivateKey []byte
}

// sec1 is ECPrivateKey of RFC 5915 section 3.
type sec1 struct {
	Version    int
	PrivateKey []byte
	Curve      asn1.ObjectIdentifier `asn1:"optional,explicit,tag:0"`
	PublicKey  asn1.BitString        `asn1:"optional,explicit,tag:1"`
}

func marshalP256K(key *keyP256K) ([]byte, error) {
	d := key.private.Serialize()
	defer clear(d)
	point := key.public.SerializeUncompressed()
	inner, err := asn1.Marshal(sec1{Version: 1, PrivateKey: d, PublicKey: asn1.BitString{Bytes: point, BitLength: 8 * len(point)}})
	if err != nil {
		return nil, fmt.Errorf("software engine: encode a key: %w", err)
	}
	defer clear(inner)
	curve, err := asn1.Marshal(oidSecp256k1)
	if err != nil {
		return nil, fmt.Errorf("software engine: encode a key: %w", err)
	}
	return asn1.Marshal(pkcs8{
		Algorithm:  pkix.AlgorithmIdentifier{Algorithm: oidEC, Parameters: asn1.RawValue{FullBytes: curve}},
		PrivateKey: inner,
	})
}

// parseP256K reads a PKCS #8 key. found says that it is one of P-256K, sound or not. As in crypto/x509, the public
// point is computed and the one in the file is not looked at.
func parseP256K(der []byte) (key *keyP256K, found bool, err error) {
	var outer pkcs8
	rest, err := asn1.Unmarshal(der, &outer)
	if err != nil || !outer.Algorithm.Algorithm.Equal(oidEC) {
		return nil, false, nil
	}
	defer clear(outer.PrivateKey)
	var curve asn1.ObjectIdentifier
	if _, err := asn1.Unmarshal(outer.Algorithm.Parameters.FullBytes, &curve); err != nil || !curve.Equal(oidSecp256k1) {
		return nil, false, nil
	}
	var inner sec1
	after, err := asn1.Unmarshal(outer.PrivateKey, &inner)
	if err != nil || len(rest)+len(after) > 0 || inner.Version != 1 {
		return nil, true, errPKCS8
	}
	defer clear(inner.PrivateKey)
	if key, err = scalarP256K(inner.PrivateKey); err != nil {
		return nil, true, err
	}
	return key, true, nil
}

// scalarP256K makes a private key of 1 ≤ d < n in 32 bytes or fewer.
func scalarP256K(d []byte) (*keyP256K, error) {
	var scalar secp256k1.ModNScalar
	if len(d) > 32 || scalar.SetByteSlice(d) || scalar.IsZero() {
		return nil, errPKCS8
	}
	defer scalar.Zero()
	return newP256K(secp256k1.NewPrivateKey(&scalar)), nil
}
