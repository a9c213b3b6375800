package release

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"math/big"
	"strings"

	"strongroom/internal/strictjson"
)

// Bounds of the keys in a token.
const (
	maxKeys    = 64
	maxModulus = 513 // bytes: 4096 bits and a leading zero
)

// Key is an RSA public key as a token states it. Whether it is of a size and kind that keys are released to is not
// checked here.
type Key struct {
	ID string // kid, may be empty
	N  *big.Int
	E  int
}

// Thumbprint names the key: the SHA-256 thumbprint of RFC 7638, 43 characters of base64url. Unlike kid, nobody can give it
// to another key.
func (k Key) Thumbprint() string {
	b64 := base64.RawURLEncoding.EncodeToString
	sum := sha256.Sum256([]byte(`{"e":"` + b64(big.NewInt(int64(k.E)).Bytes()) + `","kty":"RSA","n":"` + b64(k.N.Bytes()) + `"}`))
	return b64(sum[:])
}

// Recipient returns the key that a released key is wrapped for: the first key of the claim x-ms-runtime.keys, a list of
// JSON Web Keys (RFC 7517), that is for encryption by its use (also spelled key_use) or its key_ops. Where that first
// one cannot be used, no later one is taken in its place. Errors say what the token lacks and hold nothing of it.
func Recipient(claims strictjson.Value) (Key, error) {
	list, ok := claims.Get("x-ms-runtime").Get("keys").Elements()
	if !ok {
		return Key{}, errors.New("it has no list of keys in the claim x-ms-runtime.keys")
	}
	if len(list) > maxKeys {
		return Key{}, errors.New("it has too many keys in the claim x-ms-runtime.keys")
	}
	for _, jwk := range list {
		if forEncryption(jwk) {
			return rsaKey(jwk)
		}
	}
	return Key{}, errors.New("no key in its claim x-ms-runtime.keys is for encryption, by use enc or key_ops encrypt")
}

func forEncryption(jwk strictjson.Value) bool {
	for _, name := range []string{"use", "key_use"} {
		if use, _ := jwk.Get(name).Text(); use == "enc" {
			return true
		}
	}
	operations, _ := jwk.Get("key_ops").Elements()
	for _, o := range operations {
		if text, _ := o.Text(); text == "encrypt" {
			return true
		}
	}
	return false
}

func rsaKey(jwk strictjson.Value) (Key, error) {
	if kty, _ := jwk.Get("kty").Text(); kty != "RSA" && kty != "RSA-HSM" {
		return Key{}, errors.New("the key for encryption in its claim x-ms-runtime.keys is not an RSA key")
	}
	n, okN := number(jwk.Get("n"), maxModulus)
	e, okE := number(jwk.Get("e"), 4)
	if !okN || !okE {
		return Key{}, errors.New("the key for encryption in its claim x-ms-runtime.keys has no n and e in base64url")
	}
	k := Key{N: n, E: int(e.Int64())}
	if id, ok := jwk.Get("kid").Text(); ok && printable(id) {
		k.ID = id
	}
	return k, nil
}

// number reads a number of 1 to limit bytes (Base64urlUInt of RFC 7518 section 2, but for leading zeros).
func number(v strictjson.Value, limit int) (*big.Int, bool) {
	text, ok := v.Text()
	if !ok || len(text) > base64.RawURLEncoding.EncodedLen(limit) || strings.ContainsAny(text, "\r\n") {
		return nil, false
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(b) == 0 {
		return nil, false
	}
	return new(big.Int).SetBytes(b), true
}
