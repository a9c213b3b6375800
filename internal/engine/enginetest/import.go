package enginetest

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"math/big"
	"slices"
	"testing"

	"github.com/decred/dcrd/dcrec/secp256k1/v4"
	"github.com/tink-crypto/tink-go/v2/kwp/subtle"

	"strongroom/internal/engine"
	"strongroom/secret"
)

// primePair are two primes of an RSA key, and the exponent.
type primePair struct {
	p, q *big.Int
	e    int64
}

// material is the key of the primes, with all its CRT values. It may be unsound, but all its parts are there.
func (k primePair) material() engine.Material {
	one := big.NewInt(1)
	p1, q1 := new(big.Int).Sub(k.p, one), new(big.Int).Sub(k.q, one)
	lambda := new(big.Int).Mul(p1, q1)
	lambda.Div(lambda, new(big.Int).GCD(nil, nil, p1, q1))
	e := big.NewInt(k.e)
	d := new(big.Int).ModInverse(e, lambda)
	if d == nil { // no such key: any d
		d = new(big.Int).Sub(lambda, one)
	}
	qi := new(big.Int).ModInverse(k.q, k.p)
	if qi == nil {
		qi = one
	}
	take := func(n *big.Int) secret.Bytes { return secret.Take(n.Bytes()) }
	return engine.Material{
		Type: engine.RSA, N: new(big.Int).Mul(k.p, k.q).Bytes(), E: e.Bytes(), D: take(d), P: take(k.p), Q: take(k.q),
		DP: take(new(big.Int).Mod(d, p1)), DQ: take(new(big.Int).Mod(d, q1)), QI: take(qi),
	}
}

// prime is a random prime whose two highest bits are set, as products of such have twice its length, and which
// goes with e.
func prime(t testing.TB, bits int, e int64) *big.Int {
	t.Helper()
	for {
		p, err := rand.Prime(rand.Reader, bits)
		if err != nil {
			t.Fatal(err)
		}
		less := new(big.Int).Sub(p, big.NewInt(1))
		if new(big.Int).Mod(less, big.NewInt(e)).Sign() != 0 {
			return p
		}
	}
}

// nextPrime is the first prime after n that goes with e = 65537.
func nextPrime(n *big.Int) *big.Int {
	next := new(big.Int).Add(n, big.NewInt(2))
	for !next.ProbablyPrime(10) || new(big.Int).Mod(next, big.NewInt(65537)).Cmp(big.NewInt(1)) == 0 {
		next.Add(next, big.NewInt(2))
	}
	return next
}

// rocaPrime is a prime as the generator of CVE-2017-15361 made them: a power of 65537 modulo many small primes.
func rocaPrime(t testing.TB, bits int) *big.Int {
	t.Helper()
	m := big.NewInt(2)
	for n := int64(3); n <= 167; n += 2 {
		if big.NewInt(n).ProbablyPrime(10) {
			m.Mul(m, big.NewInt(n))
		}
	}
	for {
		a := new(big.Int).SetBytes(random(t, 8))
		p := new(big.Int).Exp(big.NewInt(65537), a, m)
		k := new(big.Int).SetBytes(random(t, (bits-m.BitLen())/8+1))
		p.Add(p, k.Mul(k, m))
		if p.BitLen() == bits && p.Bit(bits-2) == 1 && p.ProbablyPrime(10) {
			return p
		}
	}
}

// ecMaterial is a key on one of the curves.
func ecMaterial(t testing.TB, curve string) engine.Material {
	t.Helper()
	if curve == engine.P256K {
		k, err := secp256k1.GeneratePrivateKey()
		if err != nil {
			t.Fatal(err)
		}
		point := k.PubKey().SerializeUncompressed()
		return engine.Material{Type: engine.EC, Curve: curve, X: point[1:33], Y: point[33:], D: secret.Take(k.Serialize())}
	}
	k, err := ecdsa.GenerateKey(map[string]elliptic.Curve{engine.P256: elliptic.P256(), engine.P384: elliptic.P384(), engine.P521: elliptic.P521()}[curve], rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	point, err := k.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	d, err := k.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	half := len(point) / 2
	return engine.Material{Type: engine.EC, Curve: curve, X: point[1 : 1+half], Y: point[1+half:], D: secret.Take(d)}
}

var allCurves = []string{engine.P256, engine.P384, engine.P521, engine.P256K}

func clone(m engine.Material) engine.Material {
	for _, s := range []*secret.Bytes{&m.D, &m.P, &m.Q, &m.DP, &m.DQ, &m.QI, &m.K} {
		*s = s.Clone()
	}
	return m
}

// wiped reports whether the secrets of m hold zeros only.
func wiped(m engine.Material) bool {
	for _, s := range []secret.Bytes{m.D, m.P, m.Q, m.DP, m.DQ, m.QI, m.K} {
		if !s.Equal(secret.Take(make([]byte, s.Len()))) {
			return false
		}
	}
	return true
}

// Covers K8: sound keys come in, are what they were, and what was handed over is wiped.
func (s *suite) importKeys(t *testing.T) {
	zeroed := func(m engine.Material) engine.Material { // with leading zeros
		m = clone(m)
		m.N, m.E, m.X, m.Y = append([]byte{0}, m.N...), append([]byte{0, 0}, m.E...), append([]byte{0}, m.X...), append([]byte{0}, m.Y...)
		m.D = secret.Take(append([]byte{0}, m.D.Reveal()...))
		return m
	}
	good := primePair{prime(t, 1024, 65537), prime(t, 1024, 65537), 65537}
	bare := good.material()
	bare.DP, bare.DQ, bare.QI = secret.Bytes{}, secret.Bytes{}, secret.Bytes{}
	materials := map[string]engine.Material{
		"RSA 2048":                    good.material(),
		"RSA 2048, primes exchanged":  primePair{good.q, good.p, good.e}.material(),
		"RSA 2048 without CRT values": bare,
		"RSA 2048 with leading zeros": zeroed(good.material()),
		"RSA 2048, e = 65539":         primePair{prime(t, 1024, 65539), prime(t, 1024, 65539), 65539}.material(),
		"RSA 2048, e = 2³¹−1":         primePair{prime(t, 1024, 1<<31-1), prime(t, 1024, 1<<31-1), 1<<31 - 1}.material(),
		"RSA 3072":                    primePair{prime(t, 1536, 65537), prime(t, 1536, 65537), 65537}.material(),
		"RSA 4096":                    primePair{prime(t, 2048, 65537), prime(t, 2048, 65537), 65537}.material(),
		"oct 128":                     {Type: engine.Oct, K: secret.New(random(t, 16))},
		"oct 192":                     {Type: engine.Oct, K: secret.New(random(t, 24))},
		"oct 256":                     {Type: engine.Oct, K: secret.New(random(t, 32))},
	}
	for _, curve := range allCurves {
		materials[curve] = ecMaterial(t, curve)
	}
	materials["P-521 with leading zeros"] = zeroed(materials[engine.P521])
	second := s.another(t)
	for name, m := range materials {
		handed := clone(m)
		made, err := s.engine.ImportKey(t.Context(), handed, []byte("home"))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if !wiped(handed) {
			t.Errorf("%s: the material was not wiped", name)
		}
		spec := made.Public.Spec()
		k := key{name: name, spec: spec, public: made.Public, ref: refOf(spec, made, []byte("home"))}
		switch p := made.Public; {
		case p.Type != m.Type,
			p.Type == engine.RSA && (p.N.Cmp(new(big.Int).SetBytes(m.N)) != 0 || int64(p.E) != new(big.Int).SetBytes(m.E).Int64()),
			p.Type == engine.EC && (p.Curve != m.Curve || p.X.Cmp(new(big.Int).SetBytes(m.X)) != 0 || p.Y.Cmp(new(big.Int).SetBytes(m.Y)) != 0),
			p.Type == engine.Oct && p.Bits != 8*m.K.Len():
			t.Errorf("%s: the public part is another one", name)
		}
		alg := k.signing()
		signature, err := s.engine.Sign(t.Context(), k.ref, alg.name, digestOf(alg.digest))
		if err != nil {
			t.Errorf("%s: sign: %v", name, err)
			continue
		}
		if spec.Type == engine.RSA {
			public := &rsa.PublicKey{N: made.Public.N, E: made.Public.E}
			if err := rsa.VerifyPKCS1v15(public, crypto.SHA256, digestOf(32), signature); err != nil {
				t.Errorf("%s: crypto/rsa does not verify the signature: %v", name, err)
			}
		}
		// It goes on like a key that was made here: to another server, and through a backup.
		if ok, err := second.Verify(t.Context(), k.ref, alg.name, digestOf(alg.digest), signature); err != nil || !ok {
			t.Errorf("%s: another engine verifies: %t, %v", name, ok, err)
		}
		salt := random(t, engine.SaltSize)
		exported, err := s.engine.Export(t.Context(), k.ref, salt, nil)
		if err != nil {
			t.Errorf("%s: export: %v", name, err)
			continue
		}
		spec.Exponent = 0
		if back, err := second.Import(t.Context(), exported, salt, nil, spec, nil); err != nil || !samePublic(back.Public, made.Public) {
			t.Errorf("%s: comes back from a backup as another key, or %v", name, err)
		}
	}
}

// Covers K8: each thing that can be wrong with a key from outside, alone.
func (s *suite) unsoundKeys(t *testing.T) {
	good := primePair{prime(t, 1024, 65537), prime(t, 1024, 65537), 65537}
	change := func(f func(m *engine.Material)) engine.Material {
		m := good.material()
		f(&m)
		return m
	}
	add := func(b secret.Bytes, n int64) secret.Bytes {
		v := new(big.Int).SetBytes(b.Reveal())
		return secret.Take(v.Add(v, big.NewInt(n)).Bytes())
	}
	composite := new(big.Int).Mul(prime(t, 512, 65537), prime(t, 512, 65537))
	// Its two upper bits are set, as a prime's are here: the product with the other prime has to have 2048 bits.
	for composite.BitLen() != 1024 || composite.Bit(1022) == 0 {
		composite.Mul(prime(t, 512, 65537), prime(t, 512, 65537))
	}
	rows := map[string]struct {
		m    engine.Material
		want error
	}{
		"no type":      {engine.Material{}, engine.ErrSpec},
		"unknown type": {engine.Material{Type: "OKP-HSM", D: secret.New([]byte{1})}, engine.ErrSpec},
		"RSA, empty":   {engine.Material{Type: engine.RSA}, engine.ErrMaterial},

		"RSA 1024":      {primePair{prime(t, 512, 65537), prime(t, 512, 65537), 65537}.material(), engine.ErrSpec},
		"RSA 2056":      {primePair{prime(t, 1028, 65537), prime(t, 1028, 65537), 65537}.material(), engine.ErrSpec},
		"e = 1":         {change(func(m *engine.Material) { m.E = []byte{1} }), engine.ErrMaterial},
		"e = 3":         {primePair{prime(t, 1024, 3), prime(t, 1024, 3), 3}.material(), engine.ErrMaterial},
		"e even":        {change(func(m *engine.Material) { m.E = []byte{1, 0, 2} }), engine.ErrMaterial},
		"e below":       {change(func(m *engine.Material) { m.E = []byte{0xff, 0xff} }), engine.ErrMaterial},
		"e of 2³¹+11":   {primePair{prime(t, 1024, 1<<31+11), prime(t, 1024, 1<<31+11), 1<<31 + 11}.material(), engine.ErrMaterial},
		"e of 64 bits":  {change(func(m *engine.Material) { m.E = []byte{1, 0, 0, 0, 0, 0, 1, 0, 1} }), engine.ErrMaterial},
		"e does not go": {change(func(m *engine.Material) { m.E = []byte{1, 0, 3} }), engine.ErrMaterial},
		"n off":         {change(func(m *engine.Material) { m.N = new(big.Int).Add(new(big.Int).SetBytes(m.N), big.NewInt(2)).Bytes() }), engine.ErrMaterial},
		"d off":         {change(func(m *engine.Material) { m.D = add(m.D, 2) }), engine.ErrMaterial},
		"d beyond n":    {change(func(m *engine.Material) { m.D = secret.New(bytes.Repeat([]byte{0xff}, 256)) }), engine.ErrMaterial},
		"p off":         {change(func(m *engine.Material) { m.P = add(m.P, 2) }), engine.ErrMaterial},
		"p is 1":        {change(func(m *engine.Material) { m.P, m.Q = secret.New([]byte{1}), secret.New(m.N) }), engine.ErrMaterial},
		"p and q exchanged, not their CRT values": {change(func(m *engine.Material) { m.P, m.Q = m.Q, m.P }), engine.ErrMaterial},
		"dp off by one":             {change(func(m *engine.Material) { m.DP = add(m.DP, 1) }), engine.ErrMaterial},
		"dq off by one":             {change(func(m *engine.Material) { m.DQ = add(m.DQ, -1) }), engine.ErrMaterial},
		"qi off by one":             {change(func(m *engine.Material) { m.QI = add(m.QI, 1) }), engine.ErrMaterial},
		"only dq, off by one":       {change(func(m *engine.Material) { m.DP, m.DQ, m.QI = secret.Bytes{}, add(m.DQ, 1), secret.Bytes{} }), engine.ErrMaterial},
		"dp 600 bytes long":         {change(func(m *engine.Material) { m.DP = secret.Take(make([]byte, 600)) }), engine.ErrMaterial},
		"a composite prime":         {primePair{composite, good.q, 65537}.material(), engine.ErrMaterial},
		"primes of different sizes": {primePair{prime(t, 1000, 65537), prime(t, 1048, 65537), 65537}.material(), engine.ErrMaterial},
		"equal primes":              {primePair{good.p, good.p, 65537}.material(), engine.ErrMaterial},
		"Fermat: close primes":      {primePair{good.p, nextPrime(good.p), 65537}.material(), engine.ErrMaterial},
		"Fermat: the upper half of the primes is the same": {primePair{good.p, nextPrime(new(big.Int).Xor(good.p, new(big.Int).Lsh(big.NewInt(1), 920))), 65537}.material(), engine.ErrMaterial},
		"ROCA": {primePair{rocaPrime(t, 1024), rocaPrime(t, 1024), 65537}.material(), engine.ErrMaterial},

		"EC without a curve":    {engine.Material{Type: engine.EC, D: secret.New([]byte{1}), X: []byte{1}, Y: []byte{1}}, engine.ErrSpec},
		"EC with another curve": {engine.Material{Type: engine.EC, Curve: "P-224", D: secret.New([]byte{1}), X: []byte{1}, Y: []byte{1}}, engine.ErrSpec},
	}
	for _, part := range []string{"n", "e", "d", "p", "q"} {
		for size, what := range map[int]string{0: "without ", 600: "600 bytes of "} {
			m := good.material()
			long := make([]byte, size)
			if size > 0 {
				long[size-1] = 1
			}
			switch part {
			case "n":
				m.N = long
			case "e":
				m.E = long
			case "d":
				m.D = secret.Take(long)
			case "p":
				m.P = secret.Take(long)
			case "q":
				m.Q = secret.Take(long)
			}
			rows["RSA "+what+part] = struct {
				m    engine.Material
				want error
			}{m, engine.ErrMaterial}
		}
	}
	orders := map[string]*big.Int{engine.P256: elliptic.P256().Params().N, engine.P384: elliptic.P384().Params().N, engine.P521: elliptic.P521().Params().N, engine.P256K: secp256k1.Params().N}
	for _, curve := range allCurves {
		sound, other := ecMaterial(t, curve), ecMaterial(t, curve)
		size := len(sound.X)
		for name, f := range map[string]func(m *engine.Material){
			"another point":      func(m *engine.Material) { m.X, m.Y = other.X, other.Y },
			"the point's mirror": func(m *engine.Material) { m.Y = mirror(curve, m.Y) },
			"x off":              func(m *engine.Material) { m.X = flipped(m.X, size-1) },
			"y off":              func(m *engine.Material) { m.Y = flipped(m.Y, size-1) },
			"the point at zero":  func(m *engine.Material) { m.X, m.Y = make([]byte, size), make([]byte, size) },
			"no x":               func(m *engine.Material) { m.X = nil },
			"no y":               func(m *engine.Material) { m.Y = nil },
			"no d":               func(m *engine.Material) { m.D = secret.Bytes{} },
			"d = 0":              func(m *engine.Material) { m.D = secret.Take(make([]byte, size)) },
			"d is the order":     func(m *engine.Material) { m.D = secret.Take(orders[curve].Bytes()) },
			"d beyond the order": func(m *engine.Material) {
				m.D = secret.Take(new(big.Int).Add(orders[curve], new(big.Int).SetBytes(m.D.Reveal())).Bytes())
			},
			"d negated": func(m *engine.Material) {
				m.D = secret.Take(new(big.Int).Sub(orders[curve], new(big.Int).SetBytes(m.D.Reveal())).Bytes())
			},
			"d one bit too long": func(m *engine.Material) { m.D = secret.Take(append([]byte{1}, m.D.Reveal()...)) },
			"d many bytes":       func(m *engine.Material) { m.D = secret.Take(append(make([]byte, 100), m.D.Reveal()...)) },
			"x many bytes":       func(m *engine.Material) { m.X = append(make([]byte, 100), m.X...) },
			"x one bit too long": func(m *engine.Material) { m.X = append([]byte{4}, m.X...) },
			"of the other curve": func(m *engine.Material) {
				*m = ecMaterial(t, map[bool]string{true: engine.P384, false: engine.P256}[curve == engine.P256])
				m.Curve = curve
			},
			"of P-256 or P-256K": func(m *engine.Material) {
				*m = ecMaterial(t, map[bool]string{true: engine.P256K, false: engine.P256}[curve == engine.P256])
				m.Curve = curve
			},
			"compressed, as it is": func(m *engine.Material) { m.X, m.Y = append([]byte{2}, m.X...), nil },
		} {
			m := clone(sound)
			f(&m)
			if name == "of P-256 or P-256K" && size != 32 {
				continue // the same as the row before
			}
			rows[curve+", "+name] = struct {
				m    engine.Material
				want error
			}{m, engine.ErrMaterial}
		}
	}
	for _, size := range []int{0, 1, 8, 15, 17, 31, 33, 64, 65, 4096} {
		rows[fmt.Sprintf("oct of %d bytes", size)] = struct {
			m    engine.Material
			want error
		}{engine.Material{Type: engine.Oct, K: secret.New(random(t, size))}, engine.ErrSpec}
	}
	for name, row := range rows {
		made, err := s.engine.ImportKey(t.Context(), row.m, []byte("home"))
		if !errors.Is(err, row.want) || made.Sealed != nil {
			t.Errorf("%s: got %v, want %v", name, err, row.want)
		}
		if !wiped(row.m) {
			t.Errorf("%s: the material was not wiped", name)
		}
	}
	// The keys that others could take apart are told from those that are only broken.
	for name, word := range map[string]string{
		"ROCA": "ROCA", "a composite prime": "not prime", "Fermat: close primes": "too close", "n off": "n is not p·q",
		"Fermat: the upper half of the primes is the same": "too close", "dp off by one": "dp", "P-256, x off": "not on P-256",
	} {
		if _, err := s.engine.ImportKey(t.Context(), remade(t, name, good, composite), nil); err == nil || !bytes.Contains([]byte(err.Error()), []byte(word)) {
			t.Errorf("%s: got %v, want a text with %q", name, err, word)
		}
	}
}

// remade makes some rows of unsoundKeys again, whose material is wiped.
func remade(t testing.TB, name string, good primePair, composite *big.Int) engine.Material {
	m := good.material()
	switch name {
	case "ROCA":
		return primePair{rocaPrime(t, 1024), rocaPrime(t, 1024), 65537}.material()
	case "a composite prime":
		return primePair{composite, good.q, 65537}.material()
	case "Fermat: close primes":
		return primePair{good.p, nextPrime(good.p), 65537}.material()
	case "Fermat: the upper half of the primes is the same":
		return primePair{good.p, nextPrime(new(big.Int).Xor(good.p, new(big.Int).Lsh(big.NewInt(1), 920))), 65537}.material()
	case "n off":
		m.N = flipped(m.N, 255)
	case "dp off by one":
		m.DP = secret.Take(flipped(m.DP.Reveal(), m.DP.Len()-1))
	default:
		m = ecMaterial(t, engine.P256)
		m.X = flipped(m.X, 31)
	}
	return m
}

// mirror is the y of the negated point.
func mirror(curve string, y []byte) []byte {
	field := map[string]*big.Int{engine.P256: elliptic.P256().Params().P, engine.P384: elliptic.P384().Params().P, engine.P521: elliptic.P521().Params().P, engine.P256K: secp256k1.Params().P}[curve]
	return new(big.Int).Sub(field, new(big.Int).SetBytes(y)).FillBytes(make([]byte, len(y)))
}

// transfer wraps a key for an RSA key as tools outside do it (CKM_RSA_AES_KEY_WRAP), with another implementation
// of RFC 5649 than the engine's.
func transfer(t testing.TB, kek engine.Public, target []byte) []byte {
	return transferWith(t, kek, sha1.New(), random(t, 32), target)
}

func transferWith(t testing.TB, kek engine.Public, h hash.Hash, aesKey, target []byte) []byte {
	t.Helper()
	wrapped, err := rsa.EncryptOAEP(h, rand.Reader, &rsa.PublicKey{N: kek.N, E: kek.E}, aesKey, nil)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(aesKey); n != 16 && n != 32 {
		aesKey = make([]byte, 32)
	}
	kwp, err := subtle.NewKWP(aesKey)
	if err != nil {
		t.Fatal(err)
	}
	body, err := kwp.Wrap(target)
	if err != nil {
		t.Fatal(err)
	}
	return append(wrapped, body...)
}

func nothing(engine.Spec) []byte { return nil }

// pkcs8 encodes material as tools outside do.
func pkcs8(t testing.TB, m engine.Material) []byte {
	t.Helper()
	d := m.D.Reveal()
	if m.Curve == engine.P256K { // as OpenSSL writes it: crypto/x509 does not know the curve
		prefix, err := hex.DecodeString("308184020100301006072a8648ce3d020106052b8104000a046d306b0201010420")
		if err != nil {
			t.Fatal(err)
		}
		return slices.Concat(prefix, d, []byte{0xa1, 0x44, 0x03, 0x42, 0x00, 0x04}, m.X, m.Y)
	}
	var k any
	var err error
	if m.Type == engine.RSA {
		r := &rsa.PrivateKey{
			PublicKey: rsa.PublicKey{N: new(big.Int).SetBytes(m.N), E: int(new(big.Int).SetBytes(m.E).Int64())},
			D:         new(big.Int).SetBytes(d), Primes: []*big.Int{new(big.Int).SetBytes(m.P.Reveal()), new(big.Int).SetBytes(m.Q.Reveal())},
		}
		r.Precompute()
		k = r
	} else if k, err = ecdsa.ParseRawPrivateKey(map[string]elliptic.Curve{engine.P256: elliptic.P256(), engine.P384: elliptic.P384(), engine.P521: elliptic.P521()}[m.Curve], d); err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// Covers K8: keys come in wrapped for an RSA key of the engine, are checked like those in the clear, and are bound
// to what they turned out to be.
func (s *suite) importWrapped(t *testing.T) {
	good := primePair{prime(t, 1024, 65537), prime(t, 1024, 65537), 65537}.material()
	targets := map[string]struct {
		spec, got engine.Spec
		target    []byte
	}{
		"RSA, size left open": {engine.Spec{Type: engine.RSA}, engine.Spec{Type: engine.RSA, Bits: 2048, Exponent: 65537}, pkcs8(t, good)},
		"RSA 2048":            {engine.Spec{Type: engine.RSA, Bits: 2048, Exponent: 65537}, engine.Spec{Type: engine.RSA, Bits: 2048, Exponent: 65537}, pkcs8(t, good)},
		"oct, size left open": {engine.Spec{Type: engine.Oct}, engine.Spec{Type: engine.Oct, Bits: 192}, random(t, 24)},
		"oct 128":             {engine.Spec{Type: engine.Oct, Bits: 128}, engine.Spec{Type: engine.Oct, Bits: 128}, random(t, 16)},
		"oct 256":             {engine.Spec{Type: engine.Oct, Bits: 256}, engine.Spec{Type: engine.Oct, Bits: 256}, random(t, 32)},
	}
	for _, curve := range allCurves {
		spec := engine.Spec{Type: engine.EC, Curve: curve}
		targets[curve] = struct {
			spec, got engine.Spec
			target    []byte
		}{spec, spec, pkcs8(t, ecMaterial(t, curve))}
	}
	for _, kek := range s.keys {
		if kek.spec.Type != engine.RSA {
			continue
		}
		for name, row := range targets {
			blob := transfer(t, kek.public, row.target)
			var told engine.Spec
			made, err := s.engine.ImportWrapped(t.Context(), kek.ref, blob, row.spec, func(spec engine.Spec) []byte {
				told = spec
				return []byte("bound to " + name)
			})
			if err != nil || told != row.got || made.Public.Spec() != row.got {
				t.Errorf("%s for %s: told %+v, made %+v, %v", name, kek.name, told, made.Public, err)
				continue
			}
			k := key{spec: row.got, ref: refOf(row.got, made, []byte("bound to "+name))}
			alg := k.signing()
			signature, err := s.engine.Sign(t.Context(), k.ref, alg.name, digestOf(alg.digest))
			if err != nil {
				t.Errorf("%s for %s: sign: %v", name, kek.name, err)
			}
			if ok, err := s.engine.Verify(t.Context(), k.ref, alg.name, digestOf(alg.digest), signature); err != nil || !ok {
				t.Errorf("%s for %s: verify: %t, %v", name, kek.name, ok, err)
			}
		}
	}
	kek := s.key("RSA-HSM 2048")
	threePrimes := threePrimesPKCS8(t)
	weak := primePair{rocaPrime(t, 1024), rocaPrime(t, 1024), 65537}.material() // crypto/x509 refuses all others
	for name, row := range map[string]struct {
		spec   engine.Spec
		target []byte
		want   error
	}{
		"an EC key for RSA":          {engine.Spec{Type: engine.RSA}, targets[engine.P256].target, engine.ErrSpec},
		"an RSA key for EC":          {engine.Spec{Type: engine.EC, Curve: engine.P256}, pkcs8(t, good), engine.ErrSpec},
		"another curve":              {engine.Spec{Type: engine.EC, Curve: engine.P256}, targets[engine.P384].target, engine.ErrSpec},
		"P-256K for P-256":           {engine.Spec{Type: engine.EC, Curve: engine.P256}, targets[engine.P256K].target, engine.ErrSpec},
		"another size":               {engine.Spec{Type: engine.RSA, Bits: 3072}, pkcs8(t, good), engine.ErrSpec},
		"another exponent":           {engine.Spec{Type: engine.RSA, Exponent: 65539}, pkcs8(t, good), engine.ErrSpec},
		"another size of oct":        {engine.Spec{Type: engine.Oct, Bits: 256}, random(t, 16), engine.ErrSpec},
		"oct of 17 bytes":            {engine.Spec{Type: engine.Oct}, random(t, 17), engine.ErrSpec},
		"a PKCS #8 key for oct":      {engine.Spec{Type: engine.Oct}, pkcs8(t, good), engine.ErrSpec},
		"no spec":                    {engine.Spec{}, random(t, 16), engine.ErrSpec},
		"EC without a curve":         {engine.Spec{Type: engine.EC}, targets[engine.P256].target, engine.ErrSpec},
		"not a key":                  {engine.Spec{Type: engine.RSA}, random(t, 500), engine.ErrMaterial},
		"RSA of a weak generator":    {engine.Spec{Type: engine.RSA}, pkcs8(t, weak), engine.ErrMaterial},
		"RSA 1024":                   {engine.Spec{Type: engine.RSA}, pkcs8(t, primePair{prime(t, 512, 65537), prime(t, 512, 65537), 65537}.material()), engine.ErrSpec},
		"RSA with three primes":      {engine.Spec{Type: engine.RSA}, threePrimes, engine.ErrMaterial},
		"P-256K with d = 0":          {engine.Spec{Type: engine.EC, Curve: engine.P256K}, zeroD(targets[engine.P256K].target), engine.ErrMaterial},
		"P-256K with bytes after it": {engine.Spec{Type: engine.EC, Curve: engine.P256K}, append(slices.Clone(targets[engine.P256K].target), 0), engine.ErrMaterial},
	} {
		made, err := s.engine.ImportWrapped(t.Context(), kek.ref, transfer(t, kek.public, row.target), row.spec, func(engine.Spec) []byte {
			t.Errorf("%s: was bound", name)
			return nil
		})
		if !errors.Is(err, row.want) || made.Sealed != nil {
			t.Errorf("%s: got %v, want %v", name, err, row.want)
		}
	}
}

// zeroD clears the private number of a P-256K key that pkcs8 made.
func zeroD(der []byte) []byte {
	der = slices.Clone(der)
	clear(der[33:65])
	return der
}

// threePrimesPKCS8 is the key of a Wycheproof file.
func threePrimesPKCS8(t testing.TB) []byte {
	t.Helper()
	data, err := wycheproof.ReadFile("testdata/wycheproof/" + unserved)
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		TestGroups []struct{ PrivateKeyPkcs8 string }
	}
	if err := json.Unmarshal(data, &file); err != nil {
		t.Fatal(err)
	}
	der, err := hex.DecodeString(file.TestGroups[0].PrivateKeyPkcs8)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// Covers K6: a blob that does not open is one error, whichever of its two parts is wrong.
func (s *suite) damagedWrapped(t *testing.T) {
	kek := s.key("RSA-HSM 2048")
	target := random(t, 32)
	blob := transfer(t, kek.public, target)
	rows := map[string][]byte{
		"empty":                    nil,
		"the RSA part alone":       blob[:256],
		"a semiblock of the rest":  blob[:264],
		"cut":                      blob[:len(blob)-1],
		"cut by a semiblock":       blob[:len(blob)-8],
		"longer":                   append(slices.Clone(blob), 0),
		"longer by a semiblock":    append(slices.Clone(blob), make([]byte, 8)...),
		"enormous":                 append(slices.Clone(blob), make([]byte, 1<<20)...),
		"RSA-OAEP-256":             transferWith(t, kek.public, sha256.New(), random(t, 32), target),
		"an AES key of 20 bytes":   transferWith(t, kek.public, sha1.New(), random(t, 20), target),
		"an AES key of 33 bytes":   transferWith(t, kek.public, sha1.New(), random(t, 33), target),
		"no AES key":               transferWith(t, kek.public, sha1.New(), nil, target),
		"for another key":          transfer(t, s.key("RSA-HSM 3072").public, target),
		"the parts of two of them": append(blob[:256:256], transfer(t, kek.public, target)[256:]...),
	}
	for _, i := range []int{0, 1, 100, 255, 256, 257, 263, 264, 280, len(blob) - 1} {
		rows[fmt.Sprintf("byte %d flipped", i)] = flipped(blob, i)
	}
	for name, damaged := range Damaged(t, kek.public, engine.RSAOAEP) {
		rows["RSA part: "+name] = append(slices.Clone(damaged), blob[256:]...)
	}
	for name, blob := range rows {
		made, err := s.engine.ImportWrapped(t.Context(), kek.ref, blob, engine.Spec{Type: engine.Oct}, nothing)
		if err != engine.ErrDecrypt || made.Sealed != nil {
			t.Errorf("%s: got %v, want %v itself", name, err, engine.ErrDecrypt)
		}
	}
	for _, k := range s.keys {
		if k.spec.Type != engine.RSA {
			if _, err := s.engine.ImportWrapped(t.Context(), k.ref, blob, engine.Spec{Type: engine.Oct}, nothing); !errors.Is(err, engine.ErrAlgorithm) {
				t.Errorf("%s receives a key: got %v, want %v", k.name, err, engine.ErrAlgorithm)
			}
		}
	}
	changed := kek.ref
	changed.Binding = []byte("another")
	if _, err := s.engine.ImportWrapped(t.Context(), changed, blob, engine.Spec{Type: engine.Oct}, nothing); !errors.Is(err, engine.ErrTampered) {
		t.Errorf("a changed key: got %v, want %v", err, engine.ErrTampered)
	}
}
