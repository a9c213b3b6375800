// Package enginetest is the suite that every engine.Engine passes: what a key can do, what is refused, and that
// no edited or exchanged record is ever used. An engine is done when [Run] passes.
package enginetest

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"strongroom/internal/engine"
	"strongroom/secret"
)

// Open opens an engine of the domain that has these two keys. The engine owns them. Run closes what it opens.
type Open func(t testing.TB, wrapping, backup secret.Bytes) engine.Engine

// specs are the keys that every engine makes.
var specs = []engine.Spec{
	{Type: engine.RSA, Bits: 2048},
	{Type: engine.RSA, Bits: 3072, Exponent: 65537},
	{Type: engine.RSA, Bits: 4096},
	{Type: engine.EC, Curve: engine.P256},
	{Type: engine.EC, Curve: engine.P384},
	{Type: engine.EC, Curve: engine.P521},
	{Type: engine.EC, Curve: engine.P256K},
	{Type: engine.Oct, Bits: 128},
	{Type: engine.Oct, Bits: 192},
	{Type: engine.Oct, Bits: 256},
	{Type: engine.RSA, Bits: 2048, Exponent: 1<<31 - 1}, // another exponent than most libraries know
}

// algorithm is a signature algorithm, the length of its hash, and the keys that it goes with.
type algorithm struct {
	name   string
	digest int
	key    engine.Type
	curve  string // EC
}

func (a algorithm) fits(spec engine.Spec) bool { return a.key == spec.Type && a.curve == spec.Curve }

// algorithms are all of RFC 7518 section 3.1, and ES256K of RFC 8812.
var algorithms = []algorithm{
	{"RS256", 32, engine.RSA, ""}, {"RS384", 48, engine.RSA, ""}, {"RS512", 64, engine.RSA, ""},
	{"PS256", 32, engine.RSA, ""}, {"PS384", 48, engine.RSA, ""}, {"PS512", 64, engine.RSA, ""},
	{"ES256", 32, engine.EC, engine.P256}, {"ES384", 48, engine.EC, engine.P384}, {"ES512", 64, engine.EC, engine.P521},
	{"ES256K", 32, engine.EC, engine.P256K},
	{"HS256", 32, engine.Oct, ""}, {"HS384", 48, engine.Oct, ""}, {"HS512", 64, engine.Oct, ""},
}

// signing is the first algorithm that fits the key.
func (k key) signing() algorithm {
	return algorithms[slices.IndexFunc(algorithms, func(a algorithm) bool { return a.fits(k.spec) })]
}

// foreign are names that no key may take for a signature algorithm.
var foreign = []string{
	"", "none", "RSNULL", "RS1", "rs256", "RS256 ", "ES256k", "ES256K ", "HS1", "hs256", "RSA-OAEP", "RSA1_5", "EdDSA", "A256GCM", "PS256\x00",
}

// suite holds one domain, one engine of it, and one key of each spec, made once because RSA keys are slow.
type suite struct {
	open             Open
	wrapping, backup []byte
	engine           engine.Engine
	keys             []key
}

type key struct {
	name   string
	spec   engine.Spec
	public engine.Public
	ref    engine.Ref
}

// Run runs the suite.
func Run(t *testing.T, open Open) {
	s := &suite{open: open, wrapping: random(t, 32), backup: random(t, 32)}
	s.engine = s.another(t)
	for _, spec := range specs {
		name := string(spec.Type) + " " + spec.Curve
		if spec.Type != engine.EC {
			name = fmt.Sprintf("%s %d", spec.Type, spec.Bits)
		}
		if spec.Exponent > 65537 {
			name += fmt.Sprintf(" with exponent %d", spec.Exponent)
		}
		binding := []byte("enginetest " + name)
		made, err := s.engine.Generate(t.Context(), spec, binding)
		if err != nil {
			t.Fatalf("generate %s: %v", name, err)
		}
		s.keys = append(s.keys, key{name: name, spec: spec, public: made.Public, ref: refOf(spec, made, binding)})
	}
	t.Run("public keys are what was asked for", s.publicKeys)
	t.Run("sign and verify", s.signVerify)
	t.Run("refused algorithms and digests", s.refused)
	t.Run("encrypt and decrypt", s.encryptDecrypt)
	t.Run("ciphertexts that do not decrypt", s.damagedCiphertexts)
	t.Run("refused encryption", s.refusedEncryption)
	t.Run("encryption with tampered keys", s.tamperedEncryption)
	t.Run("HMACs", s.hmacs)
	t.Run("encrypt and decrypt with AES", s.aesRoundTrip)
	t.Run("refused AES parameters", s.refusedAES)
	t.Run("AES ciphertexts that do not decrypt", s.damagedAES)
	t.Run("AES with tampered keys", s.tamperedAES)
	t.Run("low s", s.lowS)
	t.Run("import", s.importKeys)
	t.Run("import of unsound keys", s.unsoundKeys)
	t.Run("import of wrapped keys", s.importWrapped)
	t.Run("wrapped keys that do not open", s.damagedWrapped)
	t.Run("release", s.release)
	t.Run("refused release", s.refusedRelease)
	t.Run("dropped keys", s.dropped)
	t.Run("rebound keys", s.rebound)
	t.Run("refused specs", s.refusedSpecs)
	t.Run("tampered keys", s.tampered)
	t.Run("exchanged records", s.exchanged)
	t.Run("export and import", s.exportImport)
	t.Run("tampered exports", s.tamperedExport)
	t.Run("backups", s.backups)
	t.Run("record codes", s.macs)
	t.Run("another domain", s.otherDomain)
	t.Run("cancelled calls", s.cancelled)
	t.Run("concurrent use", s.concurrent)
	t.Run("closed", s.closed)
}

// another opens one more engine of the suite's domain, as a second server would.
func (s *suite) another(t *testing.T) engine.Engine {
	t.Helper()
	e := s.open(t, secret.New(s.wrapping), secret.New(s.backup))
	t.Cleanup(e.Close)
	return e
}

// key is the suite's key of that name.
func (s *suite) key(name string) key {
	return s.keys[slices.IndexFunc(s.keys, func(k key) bool { return k.name == name })]
}

func refOf(spec engine.Spec, made engine.Made, binding []byte) engine.Ref {
	return engine.Ref{Type: spec.Type, Curve: spec.Curve, Bits: spec.Bits, Sealed: made.Sealed, Binding: binding}
}

func random(t testing.TB, n int) []byte {
	t.Helper()
	b := make([]byte, n)
	if _, err := rand.Read(b); err != nil {
		t.Fatal(err)
	}
	return b
}

// digestOf is a digest of the given length over a fixed message.
func digestOf(size int) []byte {
	message := []byte("the vault door is closed")
	switch size {
	case 32:
		d := sha256.Sum256(message)
		return d[:]
	case 48:
		d := sha512.Sum384(message)
		return d[:]
	}
	d := sha512.Sum512(message)
	return d[:]
}

func (s *suite) publicKeys(t *testing.T) {
	for _, k := range s.keys {
		p := k.public
		switch {
		case p.Type != k.spec.Type:
			t.Errorf("%s: type %q", k.name, p.Type)
		case p.Spec() != described(k.spec):
			t.Errorf("%s: described as %+v", k.name, p.Spec())
		case p.Type == engine.Oct && (p.Bits != k.spec.Bits || p.N != nil || p.E != 0 || p.Curve != "" || p.X != nil || p.Y != nil):
			t.Errorf("%s: %d bits, or mixed with another type", k.name, p.Bits)
		case p.Type == engine.RSA && (p.N.BitLen() != k.spec.Bits || p.E != described(k.spec).Exponent || p.Curve != "" || p.X != nil || p.Y != nil):
			t.Errorf("%s: %d bits, e = %d, curve %q", k.name, p.N.BitLen(), p.E, p.Curve)
		case p.Type == engine.EC && (p.Curve != k.spec.Curve || p.X == nil || p.Y == nil || p.N != nil || p.E != 0):
			t.Errorf("%s: curve %q, incomplete or mixed with RSA", k.name, p.Curve)
		}
	}
}

// described is spec with what Generate fills in.
func described(spec engine.Spec) engine.Spec {
	if spec.Type == engine.RSA && spec.Exponent == 0 {
		spec.Exponent = 65537
	}
	return spec
}

// Covers K7: every key signs with each of its algorithms and nothing else; the form is of fixed length, and
// anything else than the very signature is false and not an error.
func (s *suite) signVerify(t *testing.T) {
	for _, k := range s.keys {
		for _, alg := range algorithms {
			if !alg.fits(k.spec) {
				continue
			}
			t.Run(k.name+" "+alg.name, func(t *testing.T) {
				digest := digestOf(alg.digest)
				signature, err := s.engine.Sign(t.Context(), k.ref, alg.name, digest)
				if err != nil {
					t.Fatalf("sign: %v", err)
				}
				size := map[string]int{engine.P256: 64, engine.P256K: 64, engine.P384: 96, engine.P521: 132, "": k.spec.Bits / 8}[alg.curve]
				if k.spec.Type == engine.Oct {
					size = alg.digest
				}
				if len(signature) != size {
					t.Errorf("the signature has %d bytes, want %d", len(signature), size)
				}
				holds := func(digest, signature []byte) bool {
					t.Helper()
					ok, err := s.engine.Verify(t.Context(), k.ref, alg.name, digest, signature)
					if err != nil {
						t.Fatalf("verify: %v", err)
					}
					return ok
				}
				if !holds(digest, signature) {
					t.Error("the signature does not hold")
				}
				other := slices.Clone(digest)
				other[0] ^= 1
				if holds(other, signature) {
					t.Error("the signature holds for another digest")
				}
				for name, wrong := range map[string][]byte{
					"empty":         nil,
					"cut":           signature[:len(signature)-1],
					"a zero before": append([]byte{0}, signature...),
					"a zero after":  append(slices.Clone(signature), 0),
					"all zero":      make([]byte, len(signature)),
					"all ones":      bytes.Repeat([]byte{0xff}, len(signature)),
					"first bit":     flipped(signature, 0),
					"last bit":      flipped(signature, len(signature)-1),
					"huge":          bytes.Repeat(signature, 100),
				} {
					if holds(digest, wrong) {
						t.Errorf("a signature that is wrong (%s) holds", name)
					}
				}
			})
		}
	}
}

func flipped(b []byte, i int) []byte {
	c := slices.Clone(b)
	c[i] ^= 1
	return c
}

// Covers K2, K7: the full matrix of key types and algorithm names; whatever does not fit is refused, for signing and
// for verification, before the key is used.
func (s *suite) refused(t *testing.T) {
	for _, k := range s.keys {
		for _, alg := range algorithms {
			if !alg.fits(k.spec) {
				s.refuses(t, k, alg.name, digestOf(alg.digest), engine.ErrAlgorithm)
				continue
			}
			if k.spec.Type == engine.Oct {
				continue // takes messages of any length: see hmacs
			}
			for _, size := range []int{0, 1, 20, 28, 31, 32, 33, 47, 48, 49, 63, 64, 65, 4096} {
				if size != alg.digest {
					s.refuses(t, k, alg.name, make([]byte, size), engine.ErrDigest)
				}
			}
		}
		for _, name := range foreign {
			s.refuses(t, k, name, digestOf(32), engine.ErrAlgorithm)
		}
	}
}

func (s *suite) refuses(t *testing.T, k key, alg string, digest []byte, want error) {
	t.Helper()
	if sig, err := s.engine.Sign(t.Context(), k.ref, alg, digest); !errors.Is(err, want) || sig != nil {
		t.Errorf("%s signs with %q, %d bytes: got %v, want %v", k.name, alg, len(digest), err, want)
	}
	if ok, err := s.engine.Verify(t.Context(), k.ref, alg, digest, make([]byte, 256)); !errors.Is(err, want) || ok {
		t.Errorf("%s verifies with %q, %d bytes: got %v, want %v", k.name, alg, len(digest), err, want)
	}
}

func (s *suite) refusedSpecs(t *testing.T) {
	for name, spec := range map[string]engine.Spec{
		"nothing":               {},
		"unknown type":          {Type: "OKP-HSM", Curve: "Ed25519"},
		"type without HSM":      {Type: "RSA", Bits: 2048},
		"RSA without a size":    {Type: engine.RSA},
		"RSA of 1024 bits":      {Type: engine.RSA, Bits: 1024},
		"RSA of 2047 bits":      {Type: engine.RSA, Bits: 2047},
		"RSA of 8192 bits":      {Type: engine.RSA, Bits: 8192},
		"RSA of negative size":  {Type: engine.RSA, Bits: -2048},
		"RSA with a curve":      {Type: engine.RSA, Bits: 2048, Curve: engine.P256},
		"RSA with exponent 1":   {Type: engine.RSA, Bits: 2048, Exponent: 1},
		"RSA with exponent 3":   {Type: engine.RSA, Bits: 2048, Exponent: 3},
		"RSA with an even one":  {Type: engine.RSA, Bits: 2048, Exponent: 65536},
		"EC without a curve":    {Type: engine.EC},
		"EC with an old curve":  {Type: engine.EC, Curve: "P-224"},
		"EC with another name":  {Type: engine.EC, Curve: "secp256r1"},
		"EC with a size":        {Type: engine.EC, Curve: engine.P256, Bits: 256},
		"EC with an exponent":   {Type: engine.EC, Curve: engine.P256, Exponent: 65537},
		"EC curve in lowercase": {Type: engine.EC, Curve: "p-256"},
		"secp256k1 by its name": {Type: engine.EC, Curve: "secp256k1"},
		"oct without a size":    {Type: engine.Oct},
		"oct of 64 bits":        {Type: engine.Oct, Bits: 64},
		"oct of 129 bits":       {Type: engine.Oct, Bits: 129},
		"oct of 512 bits":       {Type: engine.Oct, Bits: 512},
		"oct with a curve":      {Type: engine.Oct, Bits: 256, Curve: engine.P256},
		"oct with an exponent":  {Type: engine.Oct, Bits: 256, Exponent: 65537},
		"oct without HSM":       {Type: "oct", Bits: 256},
	} {
		if made, err := s.engine.Generate(t.Context(), spec, nil); !errors.Is(err, engine.ErrSpec) || made.Sealed != nil {
			t.Errorf("%s: got %v, want %v", name, err, engine.ErrSpec)
		}
	}
}

// Covers K4: no byte of a sealed key or of its binding can change, and no attribute of the Ref.
func (s *suite) tampered(t *testing.T) {
	for _, k := range s.keys {
		if k.spec.Bits > 2048 {
			continue // the same form at three times the length
		}
		t.Run(k.name, func(t *testing.T) {
			alg, digest := k.signing().name, digestOf(k.signing().digest)
			refuses := func(what string, ref engine.Ref) {
				t.Helper()
				if sig, err := s.engine.Sign(t.Context(), ref, alg, digest); !errors.Is(err, engine.ErrTampered) || sig != nil {
					t.Errorf("%s: signing gives %v, want %v", what, err, engine.ErrTampered)
				}
			}
			for i := range k.ref.Sealed {
				ref := k.ref
				ref.Sealed = flipped(ref.Sealed, i)
				refuses(fmt.Sprintf("byte %d of the sealed key flipped", i), ref)
			}
			for i := range k.ref.Binding {
				ref := k.ref
				ref.Binding = flipped(ref.Binding, i)
				refuses(fmt.Sprintf("byte %d of the binding flipped", i), ref)
			}
			for n := range len(k.ref.Sealed) {
				ref := k.ref
				ref.Sealed = ref.Sealed[:n]
				refuses(fmt.Sprintf("sealed key cut to %d bytes", n), ref)
			}
			for name, change := range map[string]func(*engine.Ref){
				"sealed key longer":   func(r *engine.Ref) { r.Sealed = append(slices.Clone(r.Sealed), 0) },
				"sealed key enormous": func(r *engine.Ref) { r.Sealed = append(slices.Clone(r.Sealed), make([]byte, 1<<20)...) },
				"no binding":          func(r *engine.Ref) { r.Binding = nil },
				"binding cut":         func(r *engine.Ref) { r.Binding = r.Binding[:len(r.Binding)-1] },
				"binding longer":      func(r *engine.Ref) { r.Binding = append(slices.Clone(r.Binding), 0) },
				"another size":        func(r *engine.Ref) { r.Bits += 1024 },
			} {
				ref := k.ref
				change(&ref)
				refuses(name, ref)
				if ok, err := s.engine.Verify(t.Context(), ref, alg, digest, nil); !errors.Is(err, engine.ErrTampered) || ok {
					t.Errorf("%s: verifying gives %v, want %v", name, err, engine.ErrTampered)
				}
				if out, err := s.engine.Export(t.Context(), ref, make([]byte, engine.SaltSize), nil); !errors.Is(err, engine.ErrTampered) || out != nil {
					t.Errorf("%s: exporting gives %v, want %v", name, err, engine.ErrTampered)
				}
			}
		})
	}
	// A record that lies about what its key is, and would fit the algorithm if it were believed.
	for _, lie := range []struct {
		key  string
		as   engine.Ref
		alg  string
		size int
	}{
		{"EC-HSM P-256", engine.Ref{Type: engine.EC, Curve: engine.P384}, "ES384", 48},
		{"EC-HSM P-256", engine.Ref{Type: engine.RSA, Bits: 2048}, "RS256", 32},
		{"RSA-HSM 2048", engine.Ref{Type: engine.EC, Curve: engine.P256}, "ES256", 32},
		{"RSA-HSM 2048", engine.Ref{Type: engine.RSA, Bits: 4096}, "PS256", 32},
		{"EC-HSM P-256K", engine.Ref{Type: engine.EC, Curve: engine.P256}, "ES256", 32},
		{"EC-HSM P-256", engine.Ref{Type: engine.EC, Curve: engine.P256K}, "ES256K", 32},
		{"EC-HSM P-256K", engine.Ref{Type: engine.Oct, Bits: 256}, "HS256", 32},
		{"oct-HSM 256", engine.Ref{Type: engine.EC, Curve: engine.P256K}, "ES256K", 32},
		{"oct-HSM 256", engine.Ref{Type: engine.Oct, Bits: 128}, "HS256", 32},
	} {
		ref := lie.as
		ref.Sealed, ref.Binding = s.key(lie.key).ref.Sealed, s.key(lie.key).ref.Binding
		if sig, err := s.engine.Sign(t.Context(), ref, lie.alg, digestOf(lie.size)); !errors.Is(err, engine.ErrTampered) || sig != nil {
			t.Errorf("%s said to be %s %s: got %v, want %v", lie.key, ref.Type, ref.Curve, err, engine.ErrTampered)
		}
	}
}

// Covers K4: two keys of the same kind, each whole, in each other's place.
func (s *suite) exchanged(t *testing.T) {
	spec := engine.Spec{Type: engine.EC, Curve: engine.P256}
	var refs []engine.Ref
	for _, binding := range []string{"hsm a, key one", "hsm a, key two"} {
		made, err := s.engine.Generate(t.Context(), spec, []byte(binding))
		if err != nil {
			t.Fatal(err)
		}
		refs = append(refs, refOf(spec, made, []byte(binding)))
	}
	refs[0].Sealed, refs[1].Sealed = refs[1].Sealed, refs[0].Sealed
	for i, ref := range refs {
		if _, err := s.engine.Sign(t.Context(), ref, "ES256", digestOf(32)); !errors.Is(err, engine.ErrTampered) {
			t.Errorf("key %d in the other's place: got %v, want %v", i+1, err, engine.ErrTampered)
		}
	}
}

// Every key goes to another engine of the domain and does there what it did here, under its new binding only.
func (s *suite) exportImport(t *testing.T) {
	second := s.another(t)
	salt := random(t, engine.SaltSize)
	for _, k := range s.keys {
		alg, size := k.signing().name, k.signing().digest
		exported, err := s.engine.Export(t.Context(), k.ref, salt, []byte("export "+k.name))
		if err != nil {
			t.Errorf("export %s: %v", k.name, err)
			continue
		}
		made, err := second.Import(t.Context(), exported, salt, []byte("export "+k.name), k.spec, []byte("new home"))
		if err != nil {
			t.Errorf("import %s: %v", k.name, err)
			continue
		}
		if !samePublic(made.Public, k.public) {
			t.Errorf("%s: the public key changed on the way", k.name)
		}
		signature, err := s.engine.Sign(t.Context(), k.ref, alg, digestOf(size))
		if err != nil {
			t.Errorf("sign with %s: %v", k.name, err)
			continue
		}
		if ok, err := second.Verify(t.Context(), refOf(k.spec, made, []byte("new home")), alg, digestOf(size), signature); err != nil || !ok {
			t.Errorf("%s: the imported key does not verify the original's signature: %t, %v", k.name, ok, err)
		}
		if _, err := second.Sign(t.Context(), refOf(k.spec, made, k.ref.Binding), alg, digestOf(size)); !errors.Is(err, engine.ErrTampered) {
			t.Errorf("%s: the imported key opens under its old binding: %v", k.name, err)
		}
		if k.spec.Type == engine.RSA {
			any := k.spec
			any.Exponent = 0
			other := any
			other.Exponent = 65539
			if _, err := second.Import(t.Context(), exported, salt, []byte("export "+k.name), any, nil); err != nil {
				t.Errorf("%s: no exponent given: %v", k.name, err)
			}
			if _, err := second.Import(t.Context(), exported, salt, []byte("export "+k.name), other, nil); !errors.Is(err, engine.ErrSpec) {
				t.Errorf("%s: another exponent given: got %v, want %v", k.name, err, engine.ErrSpec)
			}
		}
		if bytes.Contains(exported, made.Sealed[1:]) || bytes.Contains(made.Sealed, exported[1:]) {
			t.Errorf("%s: the exported and the sealed form share bytes", k.name)
		}
	}
}

// Covers K4: a key that is bound anew opens under the new binding only, and is the same key.
func (s *suite) rebound(t *testing.T) {
	for _, k := range s.keys {
		sealed, err := s.engine.Rebind(t.Context(), k.ref, []byte("another place"))
		if err != nil {
			t.Errorf("rebind %s: %v", k.name, err)
			continue
		}
		moved := k.ref
		moved.Sealed = sealed
		alg := k.signing()
		if _, err := s.engine.Sign(t.Context(), moved, alg.name, digestOf(alg.digest)); !errors.Is(err, engine.ErrTampered) {
			t.Errorf("%s opens under its old binding: %v", k.name, err)
		}
		moved.Binding = []byte("another place")
		signature, err := s.engine.Sign(t.Context(), moved, alg.name, digestOf(alg.digest))
		if err != nil {
			t.Errorf("sign with the rebound %s: %v", k.name, err)
			continue
		}
		if ok, err := s.engine.Verify(t.Context(), k.ref, alg.name, digestOf(alg.digest), signature); err != nil || !ok {
			t.Errorf("%s is another key than before: %t, %v", k.name, ok, err)
		}
	}
	tampered := s.keys[0].ref
	tampered.Sealed = flipped(tampered.Sealed, 40)
	if _, err := s.engine.Rebind(t.Context(), tampered, nil); !errors.Is(err, engine.ErrTampered) {
		t.Errorf("a tampered key is bound anew: %v", err)
	}
}

func samePublic(a, b engine.Public) bool {
	if a.Type != b.Type || a.Curve != b.Curve || a.E != b.E || a.Bits != b.Bits {
		return false
	}
	switch a.Type {
	case engine.RSA:
		return a.N.Cmp(b.N) == 0
	case engine.Oct:
		return true
	}
	return a.X.Cmp(b.X) == 0 && a.Y.Cmp(b.Y) == 0
}

func (s *suite) tamperedExport(t *testing.T) {
	k := s.keys[3]
	salt, binding := random(t, engine.SaltSize), []byte("export binding")
	exported, err := s.engine.Export(t.Context(), k.ref, salt, binding)
	if err != nil {
		t.Fatal(err)
	}
	refuses := func(what string, exported, salt, binding []byte, spec engine.Spec, want error) {
		t.Helper()
		if made, err := s.engine.Import(t.Context(), exported, salt, binding, spec, []byte("home")); !errors.Is(err, want) || made.Sealed != nil {
			t.Errorf("%s: got %v, want %v", what, err, want)
		}
	}
	for i := range exported {
		refuses(fmt.Sprintf("byte %d flipped", i), flipped(exported, i), salt, binding, k.spec, engine.ErrTampered)
		refuses(fmt.Sprintf("cut to %d bytes", i), exported[:i], salt, binding, k.spec, engine.ErrTampered)
	}
	for i := range salt {
		refuses(fmt.Sprintf("byte %d of the salt flipped", i), exported, flipped(salt, i), binding, k.spec, engine.ErrTampered)
	}
	for i := range binding {
		refuses(fmt.Sprintf("byte %d of the binding flipped", i), exported, salt, flipped(binding, i), k.spec, engine.ErrTampered)
	}
	refuses("a sealed key in place of an exported one", k.ref.Sealed, salt, k.ref.Binding, k.spec, engine.ErrTampered)
	refuses("another curve", exported, salt, binding, engine.Spec{Type: engine.EC, Curve: engine.P384}, engine.ErrSpec)
	refuses("another curve outside the standard library", exported, salt, binding, engine.Spec{Type: engine.EC, Curve: engine.P256K}, engine.ErrSpec)
	refuses("an oct key", exported, salt, binding, engine.Spec{Type: engine.Oct, Bits: 256}, engine.ErrSpec)
	refuses("another type", exported, salt, binding, engine.Spec{Type: engine.RSA, Bits: 2048}, engine.ErrSpec)
	refuses("no spec", exported, salt, binding, engine.Spec{}, engine.ErrSpec)

	for _, n := range []int{0, 16, 31, 33} {
		if _, err := s.engine.Export(t.Context(), k.ref, make([]byte, n), binding); err == nil {
			t.Errorf("a salt of %d bytes is accepted", n)
		}
	}
	ref := k.ref
	ref.Sealed = exported
	if _, err := s.engine.Sign(t.Context(), ref, "ES256", digestOf(32)); !errors.Is(err, engine.ErrTampered) {
		t.Errorf("an exported key in place of a sealed one: got %v, want %v", err, engine.ErrTampered)
	}
}

func (s *suite) backups(t *testing.T) {
	second := s.another(t)
	salt, header, body := random(t, engine.SaltSize), []byte("header"), []byte("body of the backup")
	sealed, err := s.engine.SealBackup(t.Context(), salt, header, body)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(sealed, body) {
		t.Error("the backup holds its plaintext")
	}
	if got, err := second.OpenBackup(t.Context(), salt, header, sealed); err != nil || !bytes.Equal(got, body) {
		t.Errorf("another engine of the domain opens %q, %v", got, err)
	}
	refuses := func(what string, salt, header, sealed []byte) {
		t.Helper()
		if got, err := s.engine.OpenBackup(t.Context(), salt, header, sealed); !errors.Is(err, engine.ErrTampered) || got != nil {
			t.Errorf("%s: got %v, want %v", what, err, engine.ErrTampered)
		}
	}
	for i := range sealed {
		refuses(fmt.Sprintf("byte %d flipped", i), salt, header, flipped(sealed, i))
		refuses(fmt.Sprintf("cut to %d bytes", i), salt, header, sealed[:i])
	}
	for i := range salt {
		refuses(fmt.Sprintf("byte %d of the salt flipped", i), flipped(salt, i), header, sealed)
	}
	for i := range header {
		refuses(fmt.Sprintf("byte %d of the header flipped", i), salt, flipped(header, i), sealed)
	}
	exported, err := s.engine.Export(t.Context(), s.keys[3].ref, salt, header)
	if err != nil {
		t.Fatal(err)
	}
	refuses("an exported key in place of a backup", salt, header, exported)
	if empty, err := s.engine.SealBackup(t.Context(), salt, nil, nil); err != nil {
		t.Errorf("an empty backup: %v", err)
	} else if got, err := s.engine.OpenBackup(t.Context(), salt, nil, empty); err != nil || len(got) != 0 {
		t.Errorf("an empty backup comes back as %q, %v", got, err)
	}
	if _, err := s.engine.SealBackup(t.Context(), salt[:16], header, body); err == nil {
		t.Error("a short salt is accepted")
	}
}

func (s *suite) macs(t *testing.T) {
	code := func(e engine.Engine, message string) string {
		t.Helper()
		mac, err := e.MAC(t.Context(), []byte(message))
		if err != nil {
			t.Fatal(err)
		}
		if len(mac) != engine.MACSize {
			t.Fatalf("a code has %d bytes, want %d", len(mac), engine.MACSize)
		}
		return string(mac)
	}
	if code(s.engine, "record") != code(s.another(t), "record") {
		t.Error("two engines of one domain give different codes")
	}
	seen := map[string]string{}
	for _, message := range []string{"", "\x00", "record", "Record", "record "} {
		c := code(s.engine, message)
		if other, twice := seen[c]; twice {
			t.Errorf("%q and %q have the same code", message, other)
		}
		seen[c] = message
	}
}

// Covers A6 for engines: nothing of one domain opens in another, whichever of the two keys differs.
func (s *suite) otherDomain(t *testing.T) {
	k := s.keys[3]
	salt := random(t, engine.SaltSize)
	exported, err := s.engine.Export(t.Context(), k.ref, salt, nil)
	if err != nil {
		t.Fatal(err)
	}
	backup, err := s.engine.SealBackup(t.Context(), salt, nil, []byte("body"))
	if err != nil {
		t.Fatal(err)
	}
	code, err := s.engine.MAC(t.Context(), []byte("record"))
	if err != nil {
		t.Fatal(err)
	}
	e := s.open(t, secret.New(random(t, 32)), secret.New(random(t, 32)))
	defer e.Close()
	if _, err := e.Sign(t.Context(), k.ref, "ES256", digestOf(32)); !errors.Is(err, engine.ErrTampered) {
		t.Errorf("sign with a foreign key: got %v, want %v", err, engine.ErrTampered)
	}
	if _, err := e.Import(t.Context(), exported, salt, nil, k.spec, nil); !errors.Is(err, engine.ErrTampered) {
		t.Errorf("import of a foreign key: got %v, want %v", err, engine.ErrTampered)
	}
	if _, err := e.OpenBackup(t.Context(), salt, nil, backup); !errors.Is(err, engine.ErrTampered) {
		t.Errorf("foreign backup: got %v, want %v", err, engine.ErrTampered)
	}
	if other, err := e.MAC(t.Context(), []byte("record")); err != nil || bytes.Equal(code, other) {
		t.Errorf("record code of another domain: same as here, or error %v", err)
	}
	// The two domain keys do different work: exchanged, they open nothing.
	swapped := s.open(t, secret.New(s.backup), secret.New(s.wrapping))
	defer swapped.Close()
	if _, err := swapped.Sign(t.Context(), k.ref, "ES256", digestOf(32)); !errors.Is(err, engine.ErrTampered) {
		t.Errorf("domain keys exchanged: got %v, want %v", err, engine.ErrTampered)
	}
}

// calls are all calls of an engine, each of which would succeed.
func (s *suite) calls(t *testing.T) map[string]func(context.Context, engine.Engine) error {
	t.Helper()
	k := s.keys[3]
	salt := random(t, engine.SaltSize)
	signature, err := s.engine.Sign(t.Context(), k.ref, "ES256", digestOf(32))
	if err != nil {
		t.Fatal(err)
	}
	rsaKey := s.keys[0]
	ciphertext, err := s.engine.Encrypt(t.Context(), rsaKey.ref, engine.RSAOAEP256, secret.Take([]byte("plain")))
	if err != nil {
		t.Fatal(err)
	}
	exported, err := s.engine.Export(t.Context(), k.ref, salt, nil)
	if err != nil {
		t.Fatal(err)
	}
	backup, err := s.engine.SealBackup(t.Context(), salt, nil, []byte("body"))
	if err != nil {
		t.Fatal(err)
	}
	octKey := s.key("oct-HSM 256")
	sealed, err := s.engine.EncryptAES(t.Context(), octKey.ref, engine.A256GCM, secret.Take([]byte("plain")), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	blob := transfer(t, rsaKey.public, make([]byte, 32))
	return map[string]func(context.Context, engine.Engine) error{
		"Generate": func(ctx context.Context, e engine.Engine) error { _, err := e.Generate(ctx, k.spec, nil); return err },
		"Sign": func(ctx context.Context, e engine.Engine) error {
			_, err := e.Sign(ctx, k.ref, "ES256", digestOf(32))
			return err
		},
		"Verify": func(ctx context.Context, e engine.Engine) error {
			ok, err := e.Verify(ctx, k.ref, "ES256", digestOf(32), signature)
			if err == nil && !ok {
				return errors.New("the signature does not hold")
			}
			return err
		},
		"Encrypt": func(ctx context.Context, e engine.Engine) error {
			_, err := e.Encrypt(ctx, rsaKey.ref, engine.RSAOAEP256, secret.Take([]byte("plain")))
			return err
		},
		"Decrypt": func(ctx context.Context, e engine.Engine) error {
			plain, err := e.Decrypt(ctx, rsaKey.ref, engine.RSAOAEP256, ciphertext)
			if err == nil && string(plain.Reveal()) != "plain" {
				return errors.New("another plaintext comes back")
			}
			return err
		},
		"Export": func(ctx context.Context, e engine.Engine) error {
			_, err := e.Export(ctx, k.ref, salt, nil)
			return err
		},
		"Import": func(ctx context.Context, e engine.Engine) error {
			_, err := e.Import(ctx, exported, salt, nil, k.spec, nil)
			return err
		},
		"SealBackup": func(ctx context.Context, e engine.Engine) error {
			_, err := e.SealBackup(ctx, salt, nil, []byte("body"))
			return err
		},
		"OpenBackup": func(ctx context.Context, e engine.Engine) error {
			_, err := e.OpenBackup(ctx, salt, nil, backup)
			return err
		},
		"EncryptAES": func(ctx context.Context, e engine.Engine) error {
			_, err := e.EncryptAES(ctx, octKey.ref, engine.A256GCM, secret.Take([]byte("plain")), nil, nil)
			return err
		},
		"DecryptAES": func(ctx context.Context, e engine.Engine) error {
			plain, err := e.DecryptAES(ctx, octKey.ref, engine.A256GCM, sealed, nil)
			if err == nil && string(plain.Reveal()) != "plain" {
				return errors.New("another plaintext comes back")
			}
			return err
		},
		"ImportKey": func(ctx context.Context, e engine.Engine) error {
			_, err := e.ImportKey(ctx, engine.Material{Type: engine.Oct, K: secret.Take(make([]byte, 32))}, nil)
			return err
		},
		"ImportWrapped": func(ctx context.Context, e engine.Engine) error {
			_, err := e.ImportWrapped(ctx, rsaKey.ref, blob, engine.Spec{Type: engine.Oct}, nothing)
			return err
		},
		"Release": func(ctx context.Context, e engine.Engine) error {
			_, err := e.Release(ctx, k.ref, engine.RSAAESKeyWrap, rsaKey.public)
			return err
		},
		"Drop, then Sign": func(ctx context.Context, e engine.Engine) error {
			e.Drop(k.ref)
			_, err := e.Sign(ctx, k.ref, "ES256", digestOf(32))
			return err
		},
		"MAC": func(ctx context.Context, e engine.Engine) error { _, err := e.MAC(ctx, []byte("m")); return err },
	}
}

func (s *suite) cancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for name, call := range s.calls(t) {
		if err := call(ctx, s.engine); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: got %v, want %v", name, err, context.Canceled)
		}
	}
}

// Covers R4 for engines: all calls at once, while another engine of the same domain is closed under its users,
// who see success or ErrClosed and nothing else.
func (s *suite) concurrent(t *testing.T) {
	calls := s.calls(t)
	closing := s.another(t)
	var wg sync.WaitGroup
	for range 4 {
		for name, call := range calls {
			wg.Go(func() {
				for range 4 {
					if err := call(t.Context(), s.engine); err != nil {
						t.Errorf("%s: %v", name, err)
					}
					if err := call(t.Context(), closing); err != nil && !errors.Is(err, engine.ErrClosed) {
						t.Errorf("%s beside Close: %v", name, err)
					}
				}
			})
		}
	}
	wg.Go(closing.Close)
	wg.Wait()
}

// Covers K12 as far as a caller sees it.
func (s *suite) closed(t *testing.T) {
	wrapping, backup := secret.New(s.wrapping), secret.New(s.backup)
	e := s.open(t, wrapping, backup)
	for name, call := range s.calls(t) {
		if err := call(t.Context(), e); err != nil {
			t.Errorf("%s before Close: %v", name, err)
		}
	}
	e.Close()
	e.Close() // twice does no harm
	for name, call := range s.calls(t) {
		if err := call(t.Context(), e); !errors.Is(err, engine.ErrClosed) {
			t.Errorf("%s after Close: got %v, want %v", name, err, engine.ErrClosed)
		}
	}
	zero := secret.Take(make([]byte, 32))
	if !wrapping.Equal(zero) || !backup.Equal(zero) {
		t.Error("Close left domain keys in memory")
	}
}
