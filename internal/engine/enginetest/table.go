package enginetest

import (
	"slices"

	"strongroom/internal/engine"
)

// Algorithm is a line of the table of algorithms of a Managed HSM (protocol: dataplane, section 4): what it does, and
// with which keys. It is written from that page and not from an engine, so that tests can hold one against the other.
type Algorithm struct {
	Name string
	Keys []engine.Spec // of [Keys]
	Use  Use
	// Input is what its first use takes: bytes of a digest or of a plaintext.
	Input int
	// IV says that encryption needs an IV of engine.CBCIVSize bytes.
	IV bool
}

// Use is what can be done with an algorithm.
type Use int

// The operations of each use are [Use.Operations].
const (
	Encrypts Use = iota // and decrypts, wraps and unwraps
	Signs               // and verifies
	Refused             // nothing: no such algorithm, or none that this server has
)

// Operations of keys, by their names in key_ops.
var Operations = []string{"encrypt", "decrypt", "wrapKey", "unwrapKey", "sign", "verify"}

// Operations returns those of a use.
func (u Use) Operations() []string {
	switch u {
	case Encrypts:
		return Operations[:4]
	case Signs:
		return Operations[4:]
	}
	return nil
}

// Keys are the types, sizes and curves of keys that a Managed HSM has.
var Keys = []engine.Spec{
	{Type: engine.RSA, Bits: 2048}, {Type: engine.RSA, Bits: 3072}, {Type: engine.RSA, Bits: 4096},
	{Type: engine.EC, Curve: engine.P256}, {Type: engine.EC, Curve: engine.P256K}, {Type: engine.EC, Curve: engine.P384}, {Type: engine.EC, Curve: engine.P521},
	{Type: engine.Oct, Bits: 128}, {Type: engine.Oct, Bits: 192}, {Type: engine.Oct, Bits: 256},
}

func keysWhere(f func(engine.Spec) bool) []engine.Spec {
	return slices.DeleteFunc(slices.Clone(Keys), func(s engine.Spec) bool { return !f(s) })
}

func ofType(t engine.Type) []engine.Spec {
	return keysWhere(func(s engine.Spec) bool { return s.Type == t })
}

func onCurve(c string) []engine.Spec {
	return keysWhere(func(s engine.Spec) bool { return s.Curve == c })
}

func octOf(bits int) []engine.Spec {
	return keysWhere(func(s engine.Spec) bool { return s.Type == engine.Oct && s.Bits == bits })
}

// Table is every algorithm of the page, and a few that are none. RSA1_5 goes with RSA keys only where a setting
// allows it. RSNULL is on the page and not offered: it signs what is no digest.
func Table() []Algorithm {
	list := []Algorithm{
		{Name: engine.RSA15, Keys: ofType(engine.RSA), Use: Encrypts, Input: 16},
		{Name: engine.RSAOAEP, Keys: ofType(engine.RSA), Use: Encrypts, Input: 16},
		{Name: engine.RSAOAEP256, Keys: ofType(engine.RSA), Use: Encrypts, Input: 16},
		{Name: "ES256", Keys: onCurve(engine.P256), Use: Signs, Input: 32},
		{Name: "ES256K", Keys: onCurve(engine.P256K), Use: Signs, Input: 32},
		{Name: "ES384", Keys: onCurve(engine.P384), Use: Signs, Input: 48},
		{Name: "ES512", Keys: onCurve(engine.P521), Use: Signs, Input: 64},
		{Name: "CKM_AES_KEY_WRAP", Keys: ofType(engine.Oct), Use: Encrypts, Input: 16},
		{Name: "CKM_AES_KEY_WRAP_PAD", Keys: ofType(engine.Oct), Use: Encrypts, Input: 16},
	}
	for number, size := range map[string]int{"256": 32, "384": 48, "512": 64} {
		for _, scheme := range []string{"RS", "PS"} {
			list = append(list, Algorithm{Name: scheme + number, Keys: ofType(engine.RSA), Use: Signs, Input: size})
		}
		list = append(list, Algorithm{Name: "HS" + number, Keys: ofType(engine.Oct), Use: Signs, Input: size})
	}
	for prefix, bits := range map[string]int{"A128": 128, "A192": 192, "A256": 256} {
		for _, mode := range []string{"GCM", "CBC", "CBCPAD", "KW"} {
			list = append(list, Algorithm{Name: prefix + mode, Keys: octOf(bits), Use: Encrypts, Input: 16, IV: mode[0] == 'C'})
		}
	}
	for _, name := range []string{
		"", "none", "RSNULL", "rs256", "RS256 ", "RS1", "ES256k", "HS1", "HS256/64", "dir", "A256KWPAD", "a256gcm", "A256CCM", "A256CTR", "A64GCM",
		"RSA-OAEP-384", "RSA-OAEP-512", "RSA_AES_KEY_WRAP_256", "CKM_RSA_AES_KEY_WRAP", "ECDH-ES", "EdDSA", "RSA1_5\x00", "<canary>",
	} {
		list = append(list, Algorithm{Name: name, Use: Refused, Input: 32})
	}
	slices.SortFunc(list, func(a, b Algorithm) int { // in one order in every run
		if a.Name < b.Name {
			return -1
		}
		return 1
	})
	return list
}

// Fits reports whether a key of that kind does the operation with the algorithm.
func (a Algorithm) Fits(key engine.Spec, operation string) bool {
	return slices.Contains(a.Keys, key) && slices.Contains(a.Use.Operations(), operation)
}
