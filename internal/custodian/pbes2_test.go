package custodian

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"path/filepath"
	"testing"

	"strongroom/secret"
)

// sealWith encodes an EncryptedPrivateKeyInfo with the given parameters over a finished ciphertext.
func sealWith(t testing.TB, kdfOID asn1.ObjectIdentifier, kdf any, cipherOID asn1.ObjectIdentifier, iv, data []byte) []byte {
	t.Helper()
	must := func(a pkix.AlgorithmIdentifier, err error) pkix.AlgorithmIdentifier {
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	params := pbes2Params{KDF: must(algorithm(kdfOID, kdf)), Scheme: must(algorithm(cipherOID, iv))}
	der, err := asn1.Marshal(encryptedPrivateKeyInfo{Algorithm: must(algorithm(oidPBES2, params)), Data: data})
	if err != nil {
		t.Fatal(err)
	}
	return der
}

var sha256PRF = pkix.AlgorithmIdentifier{Algorithm: oidHMACSHA256, Parameters: asn1.NullRawValue}

// Wycheproof's vectors of PBES2 with PBKDF2-HMAC-SHA-256 and AES-256-CBC, all of them.
func TestWycheproof(t *testing.T) {
	var file struct {
		NumberOfTests int
		TestGroups    []struct {
			Tests []struct {
				TcID           int
				Comment        string
				Password, Salt string
				IterationCount int
				IV, Msg, CT    string
				Result         string
			}
		}
	}
	if err := json.Unmarshal(read(t, "testdata/wycheproof/pbes2_hmacsha256_aes_256_test.json"), &file); err != nil {
		t.Fatal(err)
	}
	unhex := func(s string) []byte {
		b, err := hex.DecodeString(s)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	ran := 0
	for _, group := range file.TestGroups {
		for _, tc := range group.Tests {
			ran++
			der := sealWith(t, oidPBKDF2, pbkdf2Params{Salt: unhex(tc.Salt), Rounds: tc.IterationCount, PRF: sha256PRF},
				oidAES256CBC, unhex(tc.IV), unhex(tc.CT))
			box, err := parsePBES2(der)
			if err != nil {
				t.Errorf("%d (%s): %v", tc.TcID, tc.Comment, err)
				continue
			}
			plain, ok := box.open(secret.Take(unhex(tc.Password)))
			if good := ok && bytes.Equal(plain, unhex(tc.Msg)); good != (tc.Result == "valid") {
				t.Errorf("%d (%s): opened %v, result is %q", tc.TcID, tc.Comment, good, tc.Result)
			}
		}
	}
	if ran == 0 || ran != file.NumberOfTests {
		t.Fatalf("ran %d vectors of %d", ran, file.NumberOfTests)
	}
}

// Padding is 1 to 16 bytes that all say how many there are (RFC 8018 section 6.1.1).
func TestPadding(t *testing.T) {
	pass := secret.New([]byte("open sesame"))
	salt, iv := make([]byte, 16), make([]byte, 16)
	key, err := pbkdf2.Key(sha256.New, "open sesame", salt, minRounds, 32)
	if err != nil {
		t.Fatal(err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		end  []byte // of a block of zeros
		want int    // bytes of plaintext; -1 for refused
	}{
		"one byte":           {[]byte{1}, 15},
		"three bytes":        {[]byte{3, 3, 3}, 13},
		"a whole block":      {bytes.Repeat([]byte{16}, 16), 0},
		"none":               {[]byte{0}, -1},
		"seventeen":          {bytes.Repeat([]byte{17}, 16), -1},
		"255":                {[]byte{255}, -1},
		"one that differs":   {[]byte{3, 2, 3}, -1},
		"the first differs":  {[]byte{2, 3, 3}, -1},
		"a block but a byte": {append([]byte{15}, bytes.Repeat([]byte{16}, 15)...), -1},
	} {
		t.Run(name, func(t *testing.T) {
			data := make([]byte, 16)
			copy(data[16-len(tc.end):], tc.end)
			cipher.NewCBCEncrypter(block, iv).CryptBlocks(data, data)
			box, err := parsePBES2(sealWith(t, oidPBKDF2, pbkdf2Params{Salt: salt, Rounds: minRounds, PRF: sha256PRF}, oidAES256CBC, iv, data))
			if err != nil {
				t.Fatal(err)
			}
			plain, ok := box.open(pass)
			if ok != (tc.want >= 0) || ok && len(plain) != tc.want {
				t.Errorf("got %d bytes, %v; want %d", len(plain), ok, tc.want)
			}
		})
	}
}

// Bounds hold before any work is done: none of these may take measurable time, and parsePBES2 derives nothing.
func TestPBES2Bounds(t *testing.T) {
	salt, iv, data := make([]byte, 16), make([]byte, 16), make([]byte, 32)
	aes256 := oidAES256CBC
	for name, tc := range map[string]struct {
		der  []byte
		want error
	}{
		"PBKDF2 at its lower bounds":  {sealWith(t, oidPBKDF2, pbkdf2Params{Salt: salt[:8], Rounds: 1000}, aes256, iv, data), nil},
		"PBKDF2 at its upper bounds":  {sealWith(t, oidPBKDF2, pbkdf2Params{Salt: make([]byte, 128), Rounds: 10_000_000}, aes256, iv, data), nil},
		"PBKDF2, key length given":    {sealWith(t, oidPBKDF2, pbkdf2Params{Salt: salt, Rounds: 2048, KeyLength: 32}, aes256, iv, data), nil},
		"PBKDF2, another key length":  {sealWith(t, oidPBKDF2, pbkdf2Params{Salt: salt, Rounds: 2048, KeyLength: 16}, aes256, iv, data), ErrMalformed},
		"PBKDF2, one round too few":   {sealWith(t, oidPBKDF2, pbkdf2Params{Salt: salt, Rounds: 999}, aes256, iv, data), ErrWeakEncryption},
		"PBKDF2, no rounds":           {sealWith(t, oidPBKDF2, pbkdf2Params{Salt: salt}, aes256, iv, data), ErrWeakEncryption},
		"PBKDF2, negative rounds":     {sealWith(t, oidPBKDF2, pbkdf2Params{Salt: salt, Rounds: -5}, aes256, iv, data), ErrWeakEncryption},
		"PBKDF2, one round too many":  {sealWith(t, oidPBKDF2, pbkdf2Params{Salt: salt, Rounds: 10_000_001}, aes256, iv, data), ErrCostlyEncryption},
		"PBKDF2, a salt of 7 bytes":   {sealWith(t, oidPBKDF2, pbkdf2Params{Salt: salt[:7], Rounds: 2048}, aes256, iv, data), ErrWeakEncryption},
		"PBKDF2, a salt of 129 bytes": {sealWith(t, oidPBKDF2, pbkdf2Params{Salt: make([]byte, 129), Rounds: 2048}, aes256, iv, data), ErrCostlyEncryption},
		"scrypt at its upper bounds":  {sealWith(t, oidScrypt, scryptParams{Salt: salt, N: 1 << 18, R: 8, P: 4}, aes256, iv, data), nil},
		"scrypt, too much memory":     {sealWith(t, oidScrypt, scryptParams{Salt: salt, N: 1 << 19, R: 8, P: 1}, aes256, iv, data), ErrCostlyEncryption},
		"scrypt, too much work":       {sealWith(t, oidScrypt, scryptParams{Salt: salt, N: 1 << 18, R: 8, P: 5}, aes256, iv, data), ErrCostlyEncryption},
		"scrypt, r of 65":             {sealWith(t, oidScrypt, scryptParams{Salt: salt, N: 1 << 10, R: 65, P: 1}, aes256, iv, data), ErrCostlyEncryption},
		"scrypt, huge numbers":        {sealWith(t, oidScrypt, scryptParams{Salt: salt, N: 1 << 62, R: 64, P: 1 << 62}, aes256, iv, data), ErrCostlyEncryption},
		"scrypt, N too small":         {sealWith(t, oidScrypt, scryptParams{Salt: salt, N: 512, R: 8, P: 1}, aes256, iv, data), ErrWeakEncryption},
		"scrypt, N no power of two":   {sealWith(t, oidScrypt, scryptParams{Salt: salt, N: 16383, R: 8, P: 1}, aes256, iv, data), ErrMalformed},
		"scrypt, N of 0":              {sealWith(t, oidScrypt, scryptParams{Salt: salt, N: 0, R: 8, P: 1}, aes256, iv, data), ErrMalformed},
		"scrypt, r of 0":              {sealWith(t, oidScrypt, scryptParams{Salt: salt, N: 16384, R: 0, P: 1}, aes256, iv, data), ErrMalformed},
		"scrypt, p of 0":              {sealWith(t, oidScrypt, scryptParams{Salt: salt, N: 16384, R: 8, P: 0}, aes256, iv, data), ErrMalformed},
		"scrypt, another key length":  {sealWith(t, oidScrypt, scryptParams{Salt: salt, N: 16384, R: 8, P: 1, KeyLength: 31}, aes256, iv, data), ErrMalformed},
		"scrypt, a salt of 7 bytes":   {sealWith(t, oidScrypt, scryptParams{Salt: salt[:7], N: 16384, R: 8, P: 1}, aes256, iv, data), ErrWeakEncryption},
		"an unknown derivation":       {sealWith(t, oidAES256CBC, salt, aes256, iv, data), ErrEncryption},
		"a vector of 15 bytes":        {sealWith(t, oidPBKDF2, pbkdf2Params{Salt: salt, Rounds: 2048}, aes256, iv[:15], data), ErrMalformed},
		"no ciphertext":               {sealWith(t, oidPBKDF2, pbkdf2Params{Salt: salt, Rounds: 2048}, aes256, iv, nil), ErrMalformed},
		"half a block":                {sealWith(t, oidPBKDF2, pbkdf2Params{Salt: salt, Rounds: 2048}, aes256, iv, data[:24]), ErrMalformed},
		"a byte too many": {append(sealWith(t, oidPBKDF2, pbkdf2Params{Salt: salt, Rounds: 2048}, aes256, iv, data), 0),
			ErrMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := parsePBES2(tc.der)
			if !errors.Is(err, tc.want) || (err == nil) != (tc.want == nil) {
				t.Errorf("got %v, want %v", err, tc.want)
			}
		})
	}
}

// FuzzParseKey looks for panics and for a key that slips past the bounds. No passphrase is given, so no input
// makes the fuzzer derive keys; [parsePBES2] is reached all the same.
func FuzzParseKey(f *testing.F) {
	files, err := filepath.Glob("../../testdata/securitydomain/*/custodian-*.pem")
	if err != nil || len(files) == 0 {
		f.Fatalf("no golden custodians (%v)", err)
	}
	for _, file := range files {
		f.Add(read(f, file))
	}
	f.Add(pem.EncodeToMemory(&pem.Block{Type: pemEncryptedPKCS8, Bytes: sealWith(f, oidScrypt,
		scryptParams{Salt: make([]byte, 16), N: 16384, R: 8, P: 1}, oidAES256CBC, make([]byte, 16), make([]byte, 32))}))
	f.Fuzz(func(t *testing.T, file []byte) {
		key, err := ParseKey(file, nil)
		if (key == nil) == (err == nil) {
			t.Fatalf("key %v with error %v", key != nil, err)
		}
	})
}

// FuzzPBES2 feeds the ASN.1 directly, past the PEM armour.
func FuzzPBES2(f *testing.F) {
	salt, iv, data := make([]byte, 16), make([]byte, 16), make([]byte, 32)
	f.Add(sealWith(f, oidPBKDF2, pbkdf2Params{Salt: salt, Rounds: 2048, PRF: sha256PRF}, oidAES256CBC, iv, data))
	f.Add(sealWith(f, oidScrypt, scryptParams{Salt: salt, N: 16384, R: 8, P: 1}, oidAES256CBC, iv, data))
	sealed, err := encryptPKCS8(rand.Reader, []byte("not a key"), secret.New([]byte("p")))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(sealed)
	f.Fuzz(func(t *testing.T, der []byte) {
		box, err := parsePBES2(der)
		if err != nil {
			return
		}
		if box.derive == nil || box.keySize == 0 || len(box.iv) != ivSize || len(box.data)%ivSize != 0 || len(box.data) == 0 {
			t.Fatal("accepted without what opening needs")
		}
	})
}

func FuzzParseCertificates(f *testing.F) {
	files, err := filepath.Glob("../../testdata/securitydomain/*/*.cer")
	if err != nil || len(files) == 0 {
		f.Fatalf("no golden certificates (%v)", err)
	}
	for _, file := range files {
		b := read(f, file)
		f.Add(b)
		block, _ := pem.Decode(b)
		f.Add(block.Bytes)
	}
	f.Fuzz(func(t *testing.T, file []byte) {
		certs, err := ParseCertificates(file)
		if (len(certs) == 0) == (err == nil) {
			t.Fatalf("%d certificates with error %v", len(certs), err)
		}
	})
}

// A key of any kind comes out as it is, decrypted if need be.
func TestPrivateDER(t *testing.T) {
	dir := t.TempDir()
	ec := write(t, filepath.Join(dir, "ec.pem"), openssl(t, "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:secp256k1"))
	pkcs8 := openssl(t, "pkcs8", "-topk8", "-nocrypt", "-in", ec, "-outform", "DER")
	sesame, barley := secret.New([]byte("open sesame")), secret.New([]byte("open barley"))
	encrypted := openssl(t, "pkcs8", "-topk8", "-in", ec, "-passout", "pass:open sesame")
	_, certificate, err := Generate(rand.Reader, "ada", 2048, secret.Bytes{}, testTime)
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		file        []byte
		passphrases []secret.Bytes
		label       string
		der         []byte
		err         error
	}{
		"PKCS #8":                    {read(t, ec), nil, pemPKCS8, pkcs8, nil},
		"SEC 1":                      {openssl(t, "ec", "-in", ec), nil, pemSEC1, openssl(t, "ec", "-in", ec, "-outform", "DER"), nil},
		"encrypted":                  {encrypted, []secret.Bytes{barley, sesame}, pemPKCS8, pkcs8, nil},
		"encrypted, no passphrase":   {encrypted, nil, "", nil, ErrPassphraseNeeded},
		"encrypted, the wrong one":   {encrypted, []secret.Bytes{barley}, "", nil, ErrPassphraseWrong},
		"encrypted by triple DES":    {openssl(t, "pkcs8", "-topk8", "-in", ec, "-v2", "des3", "-passout", "pass:open sesame"), []secret.Bytes{sesame}, "", nil, ErrWeakEncryption},
		"encrypted as before PKCS 8": {openssl(t, "ec", "-in", ec, "-aes256", "-passout", "pass:open sesame"), []secret.Bytes{sesame}, "", nil, ErrWeakEncryption},
		"a certificate":              {certificate, nil, "", nil, ErrIsCertificate},
		"a kind that nobody reads":   {pem.EncodeToMemory(&pem.Block{Type: "DSA PRIVATE KEY", Bytes: make([]byte, 99)}), nil, "", nil, ErrNotPEM},
		"9 KiB":                      {pem.EncodeToMemory(&pem.Block{Type: pemPKCS8, Bytes: make([]byte, 9<<10)}), nil, "", nil, ErrTooLarge},
		"65 KiB":                     {make([]byte, 65<<10), nil, "", nil, ErrTooLarge},
		"nothing":                    {nil, nil, "", nil, ErrNotPEM},
	} {
		t.Run(name, func(t *testing.T) {
			label, der, err := PrivateDER(tc.file, tc.passphrases)
			if !errors.Is(err, tc.err) || (err == nil) != (tc.err == nil) {
				t.Fatalf("got %v, want %v", err, tc.err)
			}
			if err == nil && (label != tc.label || !bytes.Equal(der.Reveal(), tc.der)) {
				t.Errorf("got a %s that is another key", label)
			}
			if err != nil && !der.IsZero() {
				t.Error("an error, and a key")
			}
		})
	}
}

// FuzzPrivateDER is FuzzParseKey for keys of any kind.
func FuzzPrivateDER(f *testing.F) {
	for _, label := range []string{pemPKCS8, pemPKCS1, pemSEC1, pemEncryptedPKCS8, "DSA PRIVATE KEY", pemCertificate} {
		f.Add(pem.EncodeToMemory(&pem.Block{Type: label, Bytes: make([]byte, 48)}))
	}
	f.Fuzz(func(t *testing.T, file []byte) {
		label, der, err := PrivateDER(file, nil)
		if (label == "") == (err == nil) || der.Len() > maxKeyDER {
			t.Fatalf("label %q and %d bytes with error %v", label, der.Len(), err)
		}
	})
}
