package enginetest

import (
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"hash"
	"io/fs"
	"math/big"
	"strings"
	"testing"

	"strongroom/internal/engine"
)

// Sample is a Wycheproof vector as a caller of the API meets it: a key to import, a call, and what comes of it.
type Sample struct {
	File    string
	TcID    int
	Comment string
	JWK     map[string]string // the key, with its private part; numbers in base64url
	NoKey   bool              // the key is none that a Managed HSM has: importing it is refused
	RSA15   bool              // the call needs the setting that allows RSA1_5, and is refused without it

	Operation, Alg string
	Request        map[string][]byte // value, iv, aad, tag, digest
	Want           []byte            // the value that is answered; nil where the call is refused, and for verify
	Holds          bool              // what verify answers
}

// Skipped is a file that has no samples, and why.
type Skipped struct{ File, Reason string }

// publicOnly is why signatures are not verified over HTTP.
const publicOnly = "its keys have no private part, and there is no import of public keys; Vectors runs all of them through the verification that the engine uses"

// Samples returns the first vector of each result of each group of every Wycheproof file, and the files of which
// there are none. The engine runs all vectors: see KeyVectors, DecryptVectors and Vectors.
func Samples(t *testing.T) (samples []Sample, skipped []Skipped) {
	t.Helper()
	names, err := fs.Glob(wycheproof, "testdata/wycheproof/*_test.json")
	if err != nil || len(names) == 0 {
		t.Fatalf("no vector files: %v", err)
	}
	for _, path := range names {
		file := strings.TrimSuffix(path[strings.LastIndexByte(path, '/')+1:], "_test.json")
		before := len(samples)
		switch {
		case file == "aes_gcm":
			samples = append(samples, octSamples(t, file, "AeadTest", gcmSample)...)
		case file == "aes_cbc_pkcs5":
			samples = append(samples, octSamples(t, file, "IndCpaTest", cbcSample)...)
		case file == "aes_wrap":
			samples = append(samples, octSamples(t, file, "KeywrapTest", wrapSample)...)
		case file == "aes_kwp":
			samples = append(samples, octSamples(t, file, "KeywrapTest", padSample)...)
		case strings.HasPrefix(file, "hmac_"):
			samples = append(samples, octSamples(t, file, "MacTest", func(t *testing.T, s Sample, bits int, v octVector) []Sample {
				return hmacSample(t, s, "HS"+strings.TrimPrefix(file, "hmac_sha"), v)
			})...)
		case file == strings.TrimSuffix(unserved, "_test.json"):
			skipped = append(skipped, Skipped{file, "its keys have three primes; that such a JWK is refused is a golden file of the data plane (import-three-primes)"})
			continue
		case strings.Contains(file, "_oaep_"), strings.HasPrefix(file, "rsa_pkcs1_"):
			samples = append(samples, rsaSamples(t, file)...)
		case strings.HasPrefix(file, "rsa_signature_"), strings.HasPrefix(file, "rsa_pss_"), strings.HasPrefix(file, "ecdsa_"):
			skipped = append(skipped, Skipped{file, publicOnly})
			continue
		case strings.HasPrefix(file, "ecdh_"):
			skipped = append(skipped, Skipped{file, "a Managed HSM agrees on no keys; PointVectors imports the private keys"})
			continue
		case file == "primality":
			skipped = append(skipped, Skipped{file, "numbers, and no keys; PrimeVectors runs them"})
			continue
		}
		if len(samples) == before {
			t.Fatalf("%s has no samples and no reason for it", file)
		}
	}
	return samples, skipped
}

func number(t *testing.T, h string) string {
	t.Helper()
	n, ok := new(big.Int).SetString(h, 16)
	if !ok {
		t.Fatal("a vector's number is not hex")
	}
	return base64.RawURLEncoding.EncodeToString(n.Bytes())
}

// firsts calls f with the first vector of each result of each group.
func firsts[V any](t *testing.T, file, groupType string, result func(V) string, f func(g vectorGroupOf[V], v V)) {
	t.Helper()
	group, index, seen := "", 0, map[string]bool{}
	each(t, file, groupType, func(g vectorGroupOf[V], v V) {
		if key := fmt.Sprintf("%p", &g.Tests[0]); key != group { // the same memory is the same group
			group, index = key, index+1
		}
		if key := fmt.Sprint(index, result(v)); !seen[key] {
			seen[key] = true
			f(g, v)
		}
	})
}

func octSamples(t *testing.T, file, groupType string, f func(t *testing.T, s Sample, bits int, v octVector) []Sample) (list []Sample) {
	t.Helper()
	firsts(t, file, groupType, func(v octVector) string { return v.Result }, func(g vectorGroupOf[octVector], v octVector) {
		key := decode(t, v.Key)
		s := Sample{File: file, TcID: v.TcID, Comment: v.Comment, JWK: map[string]string{"kty": "oct", "k": base64.RawURLEncoding.EncodeToString(key)}}
		bits := 8 * len(key)
		if s.NoKey = bits != 128 && bits != 192 && bits != 256; s.NoKey {
			list = append(list, s)
			return
		}
		list = append(list, f(t, s, bits, v)...)
	})
	return list
}

// with is s with a call.
func (s Sample) with(operation, alg string, request map[string][]byte, want []byte) Sample {
	s.Operation, s.Alg, s.Request, s.Want = operation, alg, request, want
	return s
}

// wanted is b if it is to come back, and never nil then.
func wanted(result string, b []byte) []byte {
	if result != "valid" {
		return nil
	}
	return append([]byte{}, b...)
}

func gcmSample(t *testing.T, s Sample, bits int, v octVector) []Sample {
	request := map[string][]byte{"value": decode(t, v.Ct), "iv": decode(t, v.IV), "tag": decode(t, v.Tag), "aad": decode(t, v.AAD)}
	want := wanted(v.Result, decode(t, v.Msg))
	if len(request["iv"]) != 12 {
		want = nil // not an IV that this HSM makes
	}
	alg := fmt.Sprintf("A%dGCM", bits)
	return []Sample{s.with("decrypt", alg, request, want), s.with("unwrapkey", alg, request, want)}
}

func cbcSample(t *testing.T, s Sample, bits int, v octVector) []Sample {
	alg, iv, message, ct := fmt.Sprintf("A%dCBCPAD", bits), decode(t, v.IV), decode(t, v.Msg), decode(t, v.Ct)
	list := []Sample{s.with("decrypt", alg, map[string][]byte{"value": ct, "iv": iv}, wanted(v.Result, message))}
	if v.Result == "valid" {
		list = append(list, s.with("encrypt", alg, map[string][]byte{"value": message, "iv": iv}, ct))
	}
	return list
}

func wrapSample(t *testing.T, s Sample, bits int, v octVector) (list []Sample) {
	for _, alg := range []string{fmt.Sprintf("A%dKW", bits), engine.AESKeyWrap} {
		list = append(list, s.wraps(t, alg, v)...)
	}
	return list
}

func padSample(t *testing.T, s Sample, _ int, v octVector) []Sample {
	return s.wraps(t, engine.AESKeyWrapPad, v)
}

func (s Sample) wraps(t *testing.T, alg string, v octVector) []Sample {
	message, ct := decode(t, v.Msg), decode(t, v.Ct)
	list := []Sample{s.with("unwrapkey", alg, map[string][]byte{"value": ct}, wanted(v.Result, message))}
	if v.Result == "valid" {
		list = append(list, s.with("wrapkey", alg, map[string][]byte{"value": message}, ct))
	}
	return list
}

func hmacSample(t *testing.T, s Sample, alg string, v octVector) []Sample {
	message, tag := decode(t, v.Msg), decode(t, v.Tag)
	size := map[string]int{"HS256": 32, "HS384": 48, "HS512": 64}[alg]
	verify := s.with("verify", alg, map[string][]byte{"digest": message, "value": tag}, nil)
	verify.Holds = v.Result == "valid" && len(tag) == size // a cut code does not count, whatever the file says
	list := []Sample{verify}
	if verify.Holds {
		list = append(list, s.with("sign", alg, map[string][]byte{"value": message}, tag))
	}
	return list
}

// rsaVector is a vector of the RSA files whose keys have a private part.
type rsaVector struct {
	TcID                                 int
	Comment, Msg, Ct, Sig, Label, Result string
}

func rsaSamples(t *testing.T, file string) (list []Sample) {
	t.Helper()
	groupType := map[bool]string{true: "RsaesOaepDecrypt", false: "RsaesPkcs1Decrypt"}[strings.Contains(file, "_oaep_")]
	generates := strings.HasSuffix(file, "_sig_gen")
	if generates {
		groupType = "RsassaPkcs1Generate"
	}
	firsts(t, file, groupType, func(v rsaVector) string { return v.Result + map[bool]string{true: " with a label"}[v.Label != ""] }, func(g vectorGroupOf[rsaVector], v rsaVector) {
		k := g.PrivateKey
		s := Sample{File: file, TcID: v.TcID, Comment: v.Comment, JWK: map[string]string{"kty": "RSA", "n": number(t, k.Modulus), "e": number(t, k.PublicExponent), "d": number(t, k.PrivateExponent)}}
		if generates { // the files have no primes, and a JWK needs them
			p, q := primesOf(t, integer(t, k.Modulus), integer(t, k.PublicExponent), integer(t, k.PrivateExponent))
			s.JWK["p"], s.JWK["q"] = base64.RawURLEncoding.EncodeToString(p.Bytes()), base64.RawURLEncoding.EncodeToString(q.Bytes())
		} else {
			for name, h := range map[string]string{"p": k.Prime1, "q": k.Prime2, "dp": k.Exponent1, "dq": k.Exponent2, "qi": k.Coefficient} {
				s.JWK[name] = number(t, h)
			}
		}
		bits, e := integer(t, k.Modulus).BitLen(), integer(t, k.PublicExponent)
		s.NoKey = bits != 2048 && bits != 3072 && bits != 4096 || e.Cmp(big.NewInt(65537)) < 0
		message, ct := decode(t, v.Msg), decode(t, v.Ct)
		switch {
		case s.NoKey:
			list = append(list, s)
		case generates:
			size := hashes[g.Sha].number
			if size == 0 { // a hash that no algorithm of a Managed HSM has
				return
			}
			h := map[int]func() hash.Hash{256: sha256.New, 384: sha512.New384, 512: sha512.New}[size]()
			h.Write(message)
			list = append(list, s.with("sign", fmt.Sprint("RS", size), map[string][]byte{"value": h.Sum(nil)}, decode(t, v.Sig)))
		case groupType == "RsaesPkcs1Decrypt":
			s.RSA15 = true
			list = append(list, s.with("decrypt", engine.RSA15, map[string][]byte{"value": ct}, wanted(v.Result, message)))
		default:
			for alg, sha := range map[string]string{engine.RSAOAEP: "SHA-1", engine.RSAOAEP256: "SHA-256"} {
				var want []byte
				if v.Label == "" && g.Sha == sha && g.MgfSha == sha {
					want = wanted(v.Result, message)
				}
				list = append(list, s.with("decrypt", alg, map[string][]byte{"value": ct}, want))
			}
		}
	})
	return list
}

// primesOf finds the primes of n from both exponents (FIPS 186-5 appendix A.1.3, SP 800-56B appendix C).
func primesOf(t *testing.T, n, e, d *big.Int) (p, q *big.Int) {
	t.Helper()
	one := big.NewInt(1)
	r := new(big.Int).Sub(new(big.Int).Mul(d, e), one)
	twos := r.TrailingZeroBits()
	r.Rsh(r, twos)
	last := new(big.Int).Sub(n, one)
	for base := int64(2); base < 200; base++ {
		x := new(big.Int).Exp(big.NewInt(base), r, n)
		for range twos {
			y := new(big.Int).Exp(x, big.NewInt(2), n)
			if y.Cmp(one) == 0 && x.Cmp(one) != 0 && x.Cmp(last) != 0 {
				p = new(big.Int).GCD(nil, nil, new(big.Int).Sub(x, one), n)
				return p, new(big.Int).Div(n, p)
			}
			x = y
		}
	}
	t.Fatal("a vector's exponents do not belong together")
	return nil, nil
}

// ID names the key of a sample.
func (s Sample) ID() string {
	sum := sha256.Sum256([]byte(s.JWK["kty"] + s.JWK["k"] + s.JWK["n"]))
	return hex.EncodeToString(sum[:8])
}
