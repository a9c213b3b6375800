package enginetest

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"hash"
	"math/big"
	"testing"

	"github.com/tink-crypto/tink-go/v2/kwp/subtle"

	"strongroom/internal/engine"
)

// releaseWrappings are the ways of wrapping and the hash of each.
var releaseWrappings = map[string]func() hash.Hash{
	engine.RSAAESKeyWrap: sha1.New, engine.RSAAESKeyWrap256: sha256.New, engine.RSAAESKeyWrap384: sha512.New384,
}

// recipient is somebody outside whom keys are released to.
type recipient struct {
	name    string
	private *rsa.PrivateKey
}

func (r recipient) public() engine.Public {
	return engine.Public{Type: engine.RSA, N: r.private.N, E: r.private.E}
}

// recipients are one of each size, and one with another exponent.
func recipients(t testing.TB) []recipient {
	t.Helper()
	var list []recipient
	for name, bits := range map[string]int{"RSA 2048": 2048, "RSA 3072": 3072, "RSA 4096": 4096} {
		k, err := rsa.GenerateKey(rand.Reader, bits)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, recipient{name, k})
	}
	p, q := prime(t, 1024, 65539), prime(t, 1024, 65539)
	m := primePair{p, q, 65539}.material()
	k := &rsa.PrivateKey{PublicKey: rsa.PublicKey{N: new(big.Int).SetBytes(m.N), E: 65539}, D: new(big.Int).SetBytes(m.D.Reveal()), Primes: []*big.Int{p, q}}
	k.Precompute()
	return append(list, recipient{"RSA 2048, e = 65539", k})
}

// open unwraps what was released, as the recipient does it: with the standard library, and another implementation of
// RFC 5649 than the engine's.
func (r recipient) open(h hash.Hash, blob []byte) ([]byte, error) {
	size := r.private.Size()
	if len(blob) <= size {
		return nil, errors.New("too short")
	}
	key, err := rsa.DecryptOAEP(h, nil, r.private, blob[:size], nil)
	if err != nil {
		return nil, err
	}
	if len(key) != 32 {
		return nil, errors.New("the wrapping key is no AES-256 key")
	}
	kwp, err := subtle.NewKWP(key)
	if err != nil {
		return nil, err
	}
	return kwp.Unwrap(blob[size:])
}

// Every key of the engine reaches every recipient in every way of wrapping, and is the same key there: brought back
// into the engine, it has the same public part, and what it signs holds under the first.
func (s *suite) release(t *testing.T) {
	kek := s.key("RSA-HSM 2048")
	for _, to := range recipients(t) {
		for wrapping, newHash := range releaseWrappings {
			for _, k := range s.keys {
				name := k.name + " to " + to.name + " with " + wrapping
				blob, err := s.engine.Release(t.Context(), k.ref, wrapping, to.public())
				if err != nil {
					t.Errorf("%s: %v", name, err)
					continue
				}
				target, err := to.open(newHash(), blob)
				if err != nil {
					t.Errorf("%s: the recipient cannot open it: %v", name, err)
					continue
				}
				if k.spec.Type == engine.Oct && 8*len(target) != k.spec.Bits {
					t.Errorf("%s: %d bytes, want the bare key", name, len(target))
				}
				for other, newHash := range releaseWrappings {
					if other != wrapping {
						if _, err := to.open(newHash(), blob); err == nil {
							t.Errorf("%s: opens as %s too", name, other)
						}
					}
				}
				s.comesBack(t, name, k, kek, transfer(t, kek.public, target))
			}
		}
	}
	// CKM_RSA_AES_KEY_WRAP is what ImportWrapped takes, without anybody in between; and no two releases are alike.
	for _, k := range s.keys {
		var blobs [2][]byte
		for i := range blobs {
			var err error
			if blobs[i], err = s.engine.Release(t.Context(), k.ref, engine.RSAAESKeyWrap, kek.public); err != nil {
				t.Fatalf("%s: %v", k.name, err)
			}
			s.comesBack(t, k.name+" to a key of the engine", k, kek, blobs[i])
		}
		if size := kek.spec.Bits / 8; bytes.Equal(blobs[0][:size], blobs[1][:size]) || bytes.Equal(blobs[0][size:], blobs[1][size:]) {
			t.Errorf("%s: two releases have a part in common", k.name)
		}
	}
}

// comesBack imports a wrapped key and holds it against k.
func (s *suite) comesBack(t *testing.T, name string, k, kek key, blob []byte) {
	t.Helper()
	spec := k.spec
	made, err := s.engine.ImportWrapped(t.Context(), kek.ref, blob, spec, nothing)
	if err != nil {
		t.Errorf("%s: does not come back: %v", name, err)
		return
	}
	if !samePublic(made.Public, k.public) {
		t.Errorf("%s: another public key comes back", name)
	}
	alg := k.signing()
	signature, err := s.engine.Sign(t.Context(), refOf(spec, made, nil), alg.name, digestOf(alg.digest))
	if err != nil {
		t.Errorf("%s: the key that came back does not sign: %v", name, err)
		return
	}
	if ok, err := s.engine.Verify(t.Context(), k.ref, alg.name, digestOf(alg.digest), signature); err != nil || !ok {
		t.Errorf("%s: another key comes back: its signature holds: %t, %v", name, ok, err)
	}
}

// Covers K1, K4: what is wrapped for nobody in particular, in no known way, or from a changed record, never leaves.
func (s *suite) refusedRelease(t *testing.T) {
	k := s.key("EC-HSM P-256")
	good := s.key("RSA-HSM 2048").public
	n := func(change func(n *big.Int)) engine.Public {
		p := good
		p.N = new(big.Int).Set(good.N)
		change(p.N)
		return p
	}
	e := func(e int) engine.Public {
		p := good
		p.E = e
		return p
	}
	roca := primePair{rocaPrime(t, 1024), rocaPrime(t, 1024), 65537}.material()
	for name, to := range map[string]engine.Public{
		"nobody":                 {},
		"RSA without a modulus":  {Type: engine.RSA, E: 65537},
		"RSA with n = 0":         {Type: engine.RSA, N: new(big.Int), E: 65537},
		"RSA with n below 0":     n(func(n *big.Int) { n.Neg(n) }),
		"RSA 1024":               {Type: engine.RSA, N: new(big.Int).Mul(prime(t, 512, 65537), prime(t, 512, 65537)), E: 65537},
		"RSA 2056":               {Type: engine.RSA, N: new(big.Int).Mul(prime(t, 1028, 65537), prime(t, 1028, 65537)), E: 65537},
		"RSA 5120":               {Type: engine.RSA, N: new(big.Int).Mul(good.N, s.key("RSA-HSM 3072").public.N), E: 65537},
		"an even modulus":        n(func(n *big.Int) { n.SetBit(n, 0, 0) }),
		"a modulus divided by 3": {Type: engine.RSA, N: multiple(3), E: 65537},
		"a modulus by 751":       {Type: engine.RSA, N: multiple(751), E: 65537},
		"ROCA":                   {Type: engine.RSA, N: new(big.Int).SetBytes(roca.N), E: 65537},
		"no exponent":            e(0),
		"e = 1":                  e(1),
		"e = 3":                  e(3),
		"e = 65535":              e(65535),
		"e = 65536":              e(65536),
		"e = 65538":              e(65538),
		"e = 2³¹+1":              e(1<<31 + 1),
		"e below 0":              e(-65537),
		"an EC key":              k.public,
		"an oct key":             s.key("oct-HSM 256").public,
		"an RSA key called EC":   {Type: engine.EC, N: good.N, E: good.E},
		"an RSA key without HSM": {Type: "RSA", N: good.N, E: good.E},
	} {
		if blob, err := s.engine.Release(t.Context(), k.ref, engine.RSAAESKeyWrap256, to); !errors.Is(err, engine.ErrRecipient) || blob != nil {
			t.Errorf("to %s: got %v, want %v", name, err, engine.ErrRecipient)
		}
	}
	for _, wrapping := range []string{
		"", "none", "RSA-OAEP", "RSA-OAEP-256", "RSA1_5", "dir", "A256KW", engine.AESKeyWrap, engine.AESKeyWrapPad,
		"RSA_AES_KEY_WRAP", "RSA_AES_KEY_WRAP_512", "rsa_aes_key_wrap_256", "RSA_AES_KEY_WRAP_256 ", "CKM_RSA_AES_KEY_WRAP\x00",
	} {
		if blob, err := s.engine.Release(t.Context(), k.ref, wrapping, good); !errors.Is(err, engine.ErrAlgorithm) || blob != nil {
			t.Errorf("with %q: got %v, want %v", wrapping, err, engine.ErrAlgorithm)
		}
	}
	for i, k := range s.keys {
		other := s.keys[(i+1)%len(s.keys)]
		for name, change := range map[string]func(*engine.Ref){
			"another binding": func(r *engine.Ref) { r.Binding = append([]byte("exportable "), r.Binding...) },
			"no binding":      func(r *engine.Ref) { r.Binding = nil },
			"a flipped byte":  func(r *engine.Ref) { r.Sealed = flipped(r.Sealed, len(r.Sealed)/2) },
			"a cut record":    func(r *engine.Ref) { r.Sealed = r.Sealed[:len(r.Sealed)-1] },
			"another type": func(r *engine.Ref) {
				r.Type = map[bool]engine.Type{true: engine.EC, false: engine.RSA}[r.Type == engine.RSA]
			},
			"another size":  func(r *engine.Ref) { r.Bits += 1024 },
			"another curve": func(r *engine.Ref) { r.Curve += "0" },
			"another key":   func(r *engine.Ref) { r.Sealed = other.ref.Sealed },
		} {
			changed := k.ref
			change(&changed)
			if blob, err := s.engine.Release(t.Context(), changed, engine.RSAAESKeyWrap, good); !errors.Is(err, engine.ErrTampered) || blob != nil {
				t.Errorf("%s with %s: got %v, want %v", k.name, name, err, engine.ErrTampered)
			}
		}
	}
}

// multiple is a number of 2048 bits that only the factor gives away: the product of it and a large odd number that no
// other small prime divides.
func multiple(factor int64) *big.Int {
	low := new(big.Int).Lsh(big.NewInt(3), 2046)
	low.Div(low, big.NewInt(factor))
	low.SetBit(low, 0, 1)
	for !low.ProbablyPrime(1) {
		low.Add(low, big.NewInt(2))
	}
	return low.Mul(low, big.NewInt(factor))
}
