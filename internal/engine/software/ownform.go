package software

import (
	"bytes"
	"crypto/ecdsa"
	"encoding/hex"
	"math/big"

	"strongroom/internal/engine"
)

// ecForm is what stands around the two numbers in the PKCS #8 that crypto/x509 writes of an EC key, which marshal seals:
// head ‖ d ‖ middle ‖ x ‖ y, of fixed length for each curve.
type ecForm struct {
	curve        string
	head, middle []byte
}

// Version, algorithm and curve (RFC 5958, RFC 5480), then ECPrivateKey of RFC 5915 up to d; and its publicKey.
var ecForms = []ecForm{
	formOf(engine.P256, "308187020100301306072a8648ce3d020106082a8648ce3d030107046d306b0201010420", "a144034200"+"04"),
	formOf(engine.P384, "3081b6020100301006072a8648ce3d020106052b8104002204819e30819b0201010430", "a164036200"+"04"),
	formOf(engine.P521, "3081ee020100301006072a8648ce3d020106052b810400230481d63081d30201010442", "a18189038186"+"0004"),
}

func formOf(curve, head, middle string) ecForm {
	form := ecForm{curve: curve}
	for _, part := range []struct {
		into *[]byte
		text string
	}{{&form.head, head}, {&form.middle, middle}} {
		var err error
		if *part.into, err = hex.DecodeString(part.text); err != nil {
			panic("software: " + err.Error())
		}
	}
	return form
}

// parseOwn reads an EC key on one of the standard library's curves in the form in which marshal writes it. It reports
// false for everything else, sound or not: then parse has to read it.
//
// It takes the public point from there, where parse computes it, which costs more than all the rest of opening a key. That
// is safe because both numbers lie under one authentication code of the domain's wrapping key, and what was sealed
// under it was made by this engine, or held against d (Import, ImportKey): whoever could exchange the point could exchange d as well. A
// signature is computed of d alone, so a wrong point could not betray it in any case. What comes under another key, from
// outside or out of a backup, goes through parse. crypto/ecdsa checks that the point is on the curve and that d is in
// 1 … n−1 (Bytes does here, and signing uses what it leaves), and nothing else of what parse checks is left to check.
func parseOwn(plain []byte) (private, bool) {
	for _, form := range ecForms {
		size := coordinate(fieldBits(form.curve))
		if len(plain) != len(form.head)+len(form.middle)+3*size || !bytes.HasPrefix(plain, form.head) {
			continue
		}
		d, rest := plain[len(form.head):len(form.head)+size], plain[len(form.head)+size:]
		if !bytes.HasPrefix(rest, form.middle) {
			return private{}, false
		}
		point := rest[len(form.middle):]
		number := func(b []byte) *big.Int { return new(big.Int).SetBytes(b) }
		//lint:ignore SA1019 every function that makes a private key of bytes computes the point
		key := &ecdsa.PrivateKey{PublicKey: ecdsa.PublicKey{Curve: curves[form.curve], X: number(point[:size]), Y: number(point[size:])}, D: number(d)}
		if _, err := key.Bytes(); err != nil {
			return private{}, false
		}
		return private{ec: key, curve: form.curve}, true
	}
	return private{}, false
}

// endsWithPoint reports whether a key in marshal's form has this public point.
func endsWithPoint(plain []byte, public engine.Public) bool {
	point, err := pointOf(public)
	return err == nil && bytes.HasSuffix(plain, point)
}
