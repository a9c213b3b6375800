package enginetest

import (
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"embed"
	"encoding/hex"
	"encoding/json"
	"hash"
	"io/fs"
	"math/big"
	"strconv"
	"strings"
	"testing"

	"strongroom/internal/engine"
)

//go:embed testdata/wycheproof
var wycheproof embed.FS

// Verify is a verification with a public key that the caller brings along.
type Verify func(public engine.Public, alg string, digest, signature []byte) (bool, error)

type vectorFile struct {
	NumberOfTests int
	TestGroups    []vectorGroup
}

type vectorGroup struct {
	Type      string
	Sha       string
	MgfSha    string
	SLen      int
	PublicKey struct {
		Modulus, PublicExponent string // RSA, hex
		Curve, Wx, Wy           string // EC, hex
	}
	Tests []struct {
		TcID     int
		Comment  string
		Msg, Sig string // hex
		Result   string
	}
}

// hashes by Wycheproof's names, with the number that JWA uses for them; 0 where JWA has no algorithm.
var hashes = map[string]struct {
	number int
	new    func() hash.Hash
}{
	"SHA-1":       {0, sha1.New},
	"SHA-224":     {0, sha256.New224},
	"SHA-256":     {256, sha256.New},
	"SHA-384":     {384, sha512.New384},
	"SHA-512":     {512, sha512.New},
	"SHA-512/224": {0, sha512.New512_224},
	"SHA-512/256": {0, sha512.New512_256},
}

// saltedRight are vectors of groups with another salt length whose own salt is as long as the hash.
var saltedRight = map[string]int{"rsa_pss_2048_sha256_mgf1_0_test.json": 69}

// Vectors runs the Wycheproof signature vectors. Each RSA vector goes to all three algorithms of its scheme, of
// which at most one may accept; a vector whose parameters no algorithm of ours has must be refused by all.
//
// Covers K7.
func Vectors(t *testing.T, verify Verify) {
	var names []string
	for _, pattern := range []string{"rsa_signature_*", "rsa_pss_*", "ecdsa_*"} {
		found, err := fs.Glob(wycheproof, "testdata/wycheproof/"+pattern+"_test.json")
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, found...)
	}
	ran := 0
	for _, path := range names {
		name := path[strings.LastIndexByte(path, '/')+1:]
		ran++
		t.Run(strings.TrimSuffix(name, "_test.json"), func(t *testing.T) {
			data, err := wycheproof.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			var file vectorFile
			if err := json.Unmarshal(data, &file); err != nil {
				t.Fatal(err)
			}
			vectors, accepted := 0, 0
			for _, group := range file.TestGroups {
				v, a := group.run(t, name, verify)
				vectors, accepted = vectors+v, accepted+a
			}
			if vectors == 0 || vectors != file.NumberOfTests {
				t.Errorf("ran %d vectors, the file has %d", vectors, file.NumberOfTests)
			}
			t.Logf("%d vectors, %d accepted, none skipped", vectors, accepted)
		})
	}
	if ran != 22 {
		t.Fatalf("found %d vector files, want 22: testdata is incomplete", ran)
	}
}

func (g vectorGroup) run(t *testing.T, file string, verify Verify) (vectors, accepted int) {
	sha, ok := hashes[g.Sha]
	if !ok {
		t.Fatalf("unknown hash %q", g.Sha)
	}
	var public engine.Public
	var schemes []string
	served := sha.number != 0
	switch g.Type {
	case "RsassaPkcs1Verify":
		public, schemes = g.rsa(t), []string{"RS256", "RS384", "RS512"}
	case "RsassaPssVerify":
		public, schemes = g.rsa(t), []string{"PS256", "PS384", "PS512"}
		served = served && g.MgfSha == g.Sha && g.SLen == sha.new().Size()
	case "EcdsaP1363Verify":
		curve := map[string]string{"secp256k1": engine.P256K, "secp256r1": engine.P256, "secp384r1": engine.P384, "secp521r1": engine.P521}[g.PublicKey.Curve]
		public = engine.Public{Type: engine.EC, Curve: curve, X: integer(t, g.PublicKey.Wx), Y: integer(t, g.PublicKey.Wy)}
		schemes = []string{map[string]string{engine.P256: "ES256", engine.P256K: "ES256K", engine.P384: "ES384", engine.P521: "ES512"}[curve]}
	default:
		t.Fatalf("unknown group type %q", g.Type)
	}
	for _, test := range g.Tests {
		vectors++
		message, signature := decode(t, test.Msg), decode(t, test.Sig)
		for _, alg := range schemes {
			size := strings.TrimSuffix(alg[2:], "K") // of ES256K
			number, err := strconv.Atoi(size)
			if err != nil {
				t.Fatal(err)
			}
			h := hashes["SHA-"+size].new()
			h.Write(message)
			// "acceptable" is a DigestInfo without its NULL: refused.
			want := test.Result == "valid" && served && number == sha.number
			if test.TcID == saltedRight[file] && number == sha.number {
				want = true
			}
			// Some PKCS #1 vectors sign another hash than the group's: sound for that hash's algorithm.
			if strings.HasPrefix(test.Comment, "The message is hashed with SHA-"+size+" instead of") {
				want = true
			}
			got, err := verify(public, alg, h.Sum(nil), signature)
			if err != nil {
				t.Errorf("tcId %d %s (%s): %v", test.TcID, alg, test.Comment, err)
			}
			if got != want {
				t.Errorf("tcId %d %s (%s, %s): got %t, want %t", test.TcID, alg, test.Result, test.Comment, got, want)
			}
			if got {
				accepted++
			}
		}
	}
	return vectors, accepted
}

func (g vectorGroup) rsa(t *testing.T) engine.Public {
	return engine.Public{Type: engine.RSA, N: integer(t, g.PublicKey.Modulus), E: int(integer(t, g.PublicKey.PublicExponent).Int64())}
}

// Decrypt decrypts with a private key that the caller brings along as PKCS #8, of the given size in bits. It answers
// engine.ErrDecrypt as an engine does, and engine.ErrTampered for a key that no engine of this version has.
type Decrypt func(pkcs8 []byte, bits int, alg string, ciphertext []byte) ([]byte, error)

// unserved is the one file whose key has three primes: no engine takes it.
const unserved = "rsa_three_primes_oaep_2048_sha1_mgf1sha1_test.json"

// DecryptVectors runs the Wycheproof RSA-OAEP vectors. Each goes to both algorithms, and decrypts with the one that
// has its hash for both uses, if it is valid and has no label; everything else is refused.
//
// Covers K6.
func DecryptVectors(t *testing.T, decrypt Decrypt) {
	names, err := fs.Glob(wycheproof, "testdata/wycheproof/*_oaep_*_test.json")
	if err != nil || len(names) != 7 {
		t.Fatalf("found %d vector files (%v), want 7: testdata is incomplete", len(names), err)
	}
	for _, path := range names {
		name := path[strings.LastIndexByte(path, '/')+1:]
		t.Run(strings.TrimSuffix(name, "_test.json"), func(t *testing.T) {
			data, err := wycheproof.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			var file struct {
				NumberOfTests int
				TestGroups    []struct {
					Type, Sha, Mgf, MgfSha, PrivateKeyPkcs8 string
					KeySize                                 int
					Tests                                   []struct {
						TcID                            int
						Comment, Msg, Ct, Label, Result string
					}
				}
			}
			if err := json.Unmarshal(data, &file); err != nil {
				t.Fatal(err)
			}
			vectors, decrypted := 0, 0
			for _, g := range file.TestGroups {
				if g.Type != "RsaesOaepDecrypt" || g.Mgf != "MGF1" {
					t.Fatalf("unknown group type %q with %q", g.Type, g.Mgf)
				}
				for _, v := range g.Tests {
					vectors++
					for alg, sha := range map[string]string{engine.RSAOAEP: "SHA-1", engine.RSAOAEP256: "SHA-256"} {
						got, err := decrypt(decode(t, g.PrivateKeyPkcs8), g.KeySize, alg, decode(t, v.Ct))
						switch {
						case name == unserved || g.KeySize != 2048 && g.KeySize != 3072 && g.KeySize != 4096:
							if err != engine.ErrTampered {
								t.Errorf("tcId %d %s: got %v, want %v", v.TcID, alg, err, engine.ErrTampered)
							}
						case v.Result == "valid" && v.Label == "" && g.Sha == sha && g.MgfSha == sha:
							if err != nil || hex.EncodeToString(got) != v.Msg {
								t.Errorf("tcId %d %s (%s): another plaintext than published, or %v", v.TcID, alg, v.Comment, err)
							}
							decrypted++
						case err != engine.ErrDecrypt || got != nil:
							t.Errorf("tcId %d %s (%s, %s): got %v, want %v", v.TcID, alg, v.Result, v.Comment, err, engine.ErrDecrypt)
						}
					}
				}
			}
			if vectors == 0 || vectors != file.NumberOfTests {
				t.Errorf("ran %d vectors, the file has %d", vectors, file.NumberOfTests)
			}
			if served := name != unserved && !strings.Contains(name, "sha256_mgf1sha1"); served != (decrypted > 0) {
				t.Errorf("%d vectors decrypted", decrypted)
			}
			t.Logf("%d vectors, %d decrypted, none skipped", vectors, decrypted)
		})
	}
}

func integer(t *testing.T, s string) *big.Int {
	t.Helper()
	n, ok := new(big.Int).SetString(s, 16)
	if !ok {
		t.Fatal("a vector's number is not hex")
	}
	return n
}

func decode(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
