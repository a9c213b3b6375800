package securitydomain

import (
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"strongroom/secret"
	"strongroom/shamir"
)

var testTime = time.Date(2026, 11, 23, 16, 0, 0, 0, time.UTC)

// golden is one set of files that azure-cli's code made.
type golden struct {
	name      string
	sd, blob  []byte
	keys      []Key
	exchange  Key
	Required  int    `json:"required"`
	MasterHex string `json:"master_key_hex"`
	Items     []struct {
		Tag    string `json:"tag"`
		Plain  string `json:"plaintext_b64"`
		KeyHex string `json:"derived_key_hex"`
	} `json:"items"`
	Shares []struct {
		File       string `json:"file"`
		X          int    `json:"x"`
		X5T        string `json:"x5t_256"`
		Share      string `json:"share_le_hex"`
		Passphrase string `json:"passphrase"`
	} `json:"shares"`
	Blob struct {
		MasterHex string `json:"master_key_hex"`
	} `json:"restore_blob"`
}

var loadGoldens = sync.OnceValues(func() ([]*golden, error) {
	dirs, err := filepath.Glob("../testdata/securitydomain/n*")
	if err != nil || len(dirs) == 0 {
		return nil, fmt.Errorf("no golden files: %v", err)
	}
	var sets []*golden
	for _, dir := range dirs {
		g := &golden{name: filepath.Base(dir)}
		text, err := os.ReadFile(filepath.Join(dir, "expected.json"))
		if err == nil {
			err = json.Unmarshal(text, g)
		}
		if err == nil {
			g.sd, err = os.ReadFile(filepath.Join(dir, "security-domain.json"))
		}
		if err == nil {
			g.blob, err = os.ReadFile(filepath.Join(dir, "restore-blob.json"))
		}
		if err == nil {
			g.exchange, err = loadKey(filepath.Join(dir, "exchange"), "")
		}
		for _, s := range g.Shares {
			var k Key
			if err == nil {
				k, err = loadKey(filepath.Join(dir, s.File), s.Passphrase)
			}
			g.keys = append(g.keys, k)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", dir, err)
		}
		sets = append(sets, g)
	}
	return sets, nil
})

func goldens(t testing.TB) []*golden {
	t.Helper()
	sets, err := loadGoldens()
	if err != nil {
		t.Fatal(err)
	}
	return sets
}

// loadKey reads a fixture: stem.pem and stem.cer. The encrypted one uses PBES2 with PBKDF2-HMAC-SHA-256 and
// AES-256-CBC.
func loadKey(stem, passphrase string) (Key, error) {
	read := func(name string) (*pem.Block, error) {
		text, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		block, _ := pem.Decode(text)
		if block == nil {
			return nil, fmt.Errorf("%s is not PEM", name)
		}
		return block, nil
	}
	k, err := read(stem + ".pem")
	if err != nil {
		return Key{}, err
	}
	c, err := read(stem + ".cer")
	if err != nil {
		return Key{}, err
	}
	der := k.Bytes
	if passphrase != "" {
		if der, err = decryptPBES2(der, passphrase); err != nil {
			return Key{}, err
		}
	}
	private, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return Key{}, err
	}
	cert, err := x509.ParseCertificate(c.Bytes)
	return Key{Name: filepath.Base(stem), Decrypter: private.(*rsa.PrivateKey), Certificate: cert}, err
}

func decryptPBES2(der []byte, passphrase string) ([]byte, error) {
	var info struct {
		Algorithm struct {
			OID    asn1.ObjectIdentifier
			Params struct {
				KDF struct {
					OID    asn1.ObjectIdentifier
					Params struct {
						Salt       []byte
						Iterations int
						PRF        pkix.AlgorithmIdentifier
					}
				}
				Cipher struct {
					OID asn1.ObjectIdentifier
					IV  []byte
				}
			}
		}
		Data []byte
	}
	if _, err := asn1.Unmarshal(der, &info); err != nil {
		return nil, err
	}
	p := info.Algorithm.Params
	key, err := pbkdf2.Key(sha256.New, passphrase, p.KDF.Params.Salt, p.KDF.Params.Iterations, 32)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	cipher.NewCBCDecrypter(block, p.Cipher.IV).CryptBlocks(info.Data, info.Data)
	return info.Data[:len(info.Data)-int(info.Data[len(info.Data)-1])], nil
}

// checkItems compares opened items with what the golden file says.
func (g *golden) checkItems(t testing.TB, items []Item) {
	t.Helper()
	if !g.sameItems(items) {
		t.Fatalf("the items opened are not those of %s", g.name)
	}
}

func (g *golden) sameItems(items []Item) bool {
	if len(items) != len(g.Items) {
		return false
	}
	for i, item := range items {
		if item.Tag != g.Items[i].Tag || base64.StdEncoding.EncodeToString(item.Value.Reveal()) != g.Items[i].Plain {
			return false
		}
	}
	return true
}

// withoutCertificates are the same keys as somebody has them whose certificates are lost.
func withoutCertificates(keys []Key) []Key {
	keys = slices.Clone(keys)
	for i := range keys {
		keys[i].Certificate = nil
	}
	return keys
}

// custodians are ten key pairs made for this run of the tests.
var custodians = sync.OnceValue(func() []Key {
	keys := make([]Key, 10)
	for i := range keys {
		keys[i] = newCustodian(fmt.Sprintf("Custodian %02d", i+1), 2048)
	}
	return keys
})

func newCustodian(name string, bits int) Key {
	private, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		panic(err)
	}
	return Key{Name: name + ".key", Decrypter: private, Certificate: certify(name, private, testTime.AddDate(-1, 0, 0), testTime.AddDate(9, 0, 0))}
}

var serial int64

// certify makes a self-signed certificate, another one on each call.
func certify(name string, key crypto.Signer, from, to time.Time) *x509.Certificate {
	serial++
	template := &x509.Certificate{SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name}, NotBefore: from, NotAfter: to}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		panic(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	return cert
}

func certificates(keys []Key) []*x509.Certificate {
	var certs []*x509.Certificate
	for _, k := range keys {
		certs = append(certs, k.Certificate)
	}
	return certs
}

// domain is a Strongroom domain for tests.
type domain struct {
	signer *ecdsa.PrivateKey
	id     string
	items  []Item
}

func newDomain(t testing.TB) *domain {
	t.Helper()
	signer, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(signer)
	if err != nil {
		t.Fatal(err)
	}
	id, err := DomainID(signer.Public())
	if err != nil {
		t.Fatal(err)
	}
	wrapping, err := secret.Random(rand.Reader, 32)
	if err != nil {
		t.Fatal(err)
	}
	backup, err := secret.Random(rand.Reader, 32)
	if err != nil {
		t.Fatal(err)
	}
	return &domain{signer, id, []Item{{TagWrappingKey, wrapping}, {TagBackupKey, backup}, {TagSigningKey, secret.Take(der)}}}
}

func (d *domain) params(keys []Key, required int) SealParams {
	return SealParams{Certificates: certificates(keys), Required: required, Items: d.items, HSMName: "alpha", Created: testTime, Signer: d.signer, Rand: rand.Reader}
}

func (d *domain) seal(t testing.TB, keys []Key, required int) []byte {
	t.Helper()
	text, err := Seal(d.params(keys, required))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func (d *domain) sameItems(items []Item) bool { return sameItems(d.items, items) }

func sameItems(a, b []Item) bool {
	return slices.EqualFunc(a, b, func(x, y Item) bool { return x.Tag == y.Tag && x.Value.Equal(y.Value) })
}

// open parses and opens.
func open(text []byte, keys []Key) (*Opened, error) {
	f, err := Parse(text)
	if err != nil {
		return nil, err
	}
	return Open(f, keys)
}

// mustOpen opens what must open to the given items.
func mustOpen(t testing.TB, text []byte, keys []Key, want []Item) *Opened {
	t.Helper()
	opened, err := open(text, keys)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	if !sameItems(opened.Items, want) {
		t.Fatal("open gave other items")
	}
	return opened
}

func wantKind(t testing.TB, err error, kind Kind) *Error {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) {
		t.Fatalf("got %v, want an *Error of kind %s", err, kind)
	}
	if e.Kind != kind || !errors.Is(err, kind) {
		t.Fatalf("got kind %q (%v), want %q", e.Kind, err, kind)
	}
	if e.Message == "" || strings.HasSuffix(e.Message, ".") {
		t.Errorf("the message is empty or ends in a full stop: %q", e.Message)
	}
	return e
}

// edit changes a file as decoded JSON and encodes it again.
func edit(t testing.TB, text []byte, change func(root map[string]any)) []byte {
	t.Helper()
	var root map[string]any
	if err := json.Unmarshal(text, &root); err != nil {
		t.Fatal(err)
	}
	change(root)
	out, err := json.Marshal(root)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

type object = map[string]any

func share(root object, i int) object {
	return root["SharedKeys"].(object)["enc_shares"].([]any)[i].(object)
}
func item(root object, i int) object { return root["EncData"].(object)["data"].([]any)[i].(object) }

// set sets one member of an object inside a file.
func set(of func(object) object, name string, value any) func(object) {
	return func(root object) {
		if value == nil {
			delete(of(root), name)
			return
		}
		of(root)[name] = value
	}
}

func top(root object) object            { return root }
func sharedKeys(root object) object     { return root["SharedKeys"].(object) }
func encData(root object) object        { return root["EncData"].(object) }
func extensionOf(root object) object    { return root["strongroom"].(object) }
func itemAt(i int) func(object) object  { return func(root object) object { return item(root, i) } }
func shareAt(i int) func(object) object { return func(root object) object { return share(root, i) } }
func hexBytes(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// flip flips a bit of one segment of a compact JWE so that it stays strict base64url.
func flip(compact string, segment int) string {
	parts := strings.Split(compact, ".")
	b, _ := decode64(parts[segment])
	b[len(b)/2] ^= 1
	parts[segment] = encode64(b)
	return strings.Join(parts, ".")
}

// reseal replaces share i of a file by another plaintext, properly encrypted to the same custodian, as somebody can
// who has only the certificate.
func reseal(t testing.TB, root object, i int, keys []Key, plain secret.Bytes) {
	t.Helper()
	jwe, err := sealKey(plain, keys[i].Certificate.PublicKey.(*rsa.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	share(root, i)["enc_key"] = jwe
}

// foreignShare is a well-formed share at x of another secret.
func foreignShare(t testing.TB, x, n, m int) secret.Bytes {
	t.Helper()
	other, err := secret.Random(rand.Reader, masterBytes)
	if err != nil {
		t.Fatal(err)
	}
	shares, err := shamir.Split(rand.Reader, other, n, m)
	if err != nil {
		t.Fatal(err)
	}
	return shares[x-1]
}

func asn1Signature(r, s *big.Int) ([]byte, error) { return asn1.Marshal(struct{ R, S *big.Int }{r, s}) }

func parsePrivate(t testing.TB, der []byte) *rsa.PrivateKey {
	t.Helper()
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		t.Fatal(err)
	}
	return key.(*rsa.PrivateKey)
}

func parsePublic(t testing.TB, k Key) *rsa.PublicKey {
	t.Helper()
	return k.Certificate.PublicKey.(*rsa.PublicKey)
}
