package custodian

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"strongroom/secret"
)

var testTime = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// opens reports whether key opens what is encrypted to the certificate, the one thing a custodian's pair is for.
func opens(t *testing.T, key crypto.Decrypter, cert *x509.Certificate) bool {
	t.Helper()
	ct, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, cert.PublicKey.(*rsa.PublicKey), []byte("a share"), nil)
	if err != nil {
		t.Fatal(err)
	}
	got, err := key.Decrypt(nil, ct, &rsa.OAEPOptions{Hash: crypto.SHA256})
	return err == nil && string(got) == "a share"
}

func oneCertificate(t *testing.T, data []byte) *x509.Certificate {
	t.Helper()
	certs, err := ParseCertificates(data)
	if err != nil {
		t.Fatal(err)
	}
	if len(certs) != 1 {
		t.Fatalf("%d certificates, want 1", len(certs))
	}
	return certs[0]
}

// A pair is made and read back; the certificate says what it is for and for how long.
func TestGenerate(t *testing.T) {
	for name, tc := range map[string]struct {
		bits, wantBits int
		passphrase     string
		wantType       string
	}{
		"the default size":          {0, 3072, "", "PRIVATE KEY"},
		"the smallest":              {2048, 2048, "", "PRIVATE KEY"},
		"the largest":               {4096, 4096, "", "PRIVATE KEY"},
		"with a passphrase":         {2048, 2048, "open sesame", "ENCRYPTED PRIVATE KEY"},
		"with an unusual passphase": {2048, 2048, "ключ\x00 \xff", "ENCRYPTED PRIVATE KEY"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pass := secret.New([]byte(tc.passphrase))
			keyPEM, certPEM, err := Generate(rand.Reader, "Ada-01", tc.bits, pass, testTime)
			if err != nil {
				t.Fatal(err)
			}
			if block, _ := pem.Decode(keyPEM.Reveal()); block == nil || block.Type != tc.wantType {
				t.Fatalf("the key's PEM type is not %q", tc.wantType)
			}
			cert := oneCertificate(t, certPEM)
			if got := cert.PublicKey.(*rsa.PublicKey).N.BitLen(); got != tc.wantBits {
				t.Errorf("%d bits, want %d", got, tc.wantBits)
			}
			if cert.Subject.CommonName != "Ada-01" {
				t.Errorf("common name %q, want Ada-01", cert.Subject.CommonName)
			}
			if !cert.NotBefore.Equal(testTime) || !cert.NotAfter.Equal(testTime.AddDate(10, 0, 0)) {
				t.Errorf("valid from %v to %v, want ten years from %v", cert.NotBefore, cert.NotAfter, testTime)
			}
			if want := x509.KeyUsageKeyEncipherment | x509.KeyUsageDataEncipherment; cert.KeyUsage != want {
				t.Errorf("key usage %b, want %b", cert.KeyUsage, want)
			}
			if err := cert.CheckSignature(cert.SignatureAlgorithm, cert.RawTBSCertificate, cert.Signature); err != nil {
				t.Errorf("the certificate does not verify under its own key: %v", err)
			}

			var passphrases []secret.Bytes
			if tc.passphrase != "" {
				if _, err := ParseKey(keyPEM.Reveal(), nil); !errors.Is(err, ErrPassphraseNeeded) {
					t.Errorf("without a passphrase: %v, want %v", err, ErrPassphraseNeeded)
				}
				wrong := []secret.Bytes{secret.New([]byte("wrong")), {}}
				if _, err := ParseKey(keyPEM.Reveal(), wrong); !errors.Is(err, ErrPassphraseWrong) {
					t.Errorf("with wrong passphrases: %v, want %v", err, ErrPassphraseWrong)
				}
				passphrases = append(wrong, pass) // tried in turn
			}
			key, err := ParseKey(keyPEM.Reveal(), passphrases)
			if err != nil {
				t.Fatal(err)
			}
			if !opens(t, key, cert) {
				t.Error("the key does not open what was encrypted to the certificate")
			}
		})
	}
}

func TestGenerateRefuses(t *testing.T) {
	for name, tc := range map[string]struct {
		name string
		bits int
		pass int
		want error
	}{
		"no name":                    {"", 2048, 0, ErrName},
		"a path as name":             {"../ada", 2048, 0, ErrName},
		"a separator in the name":    {"ada/lovelace", 2048, 0, ErrName},
		"a name that looks a flag":   {"-ada", 2048, 0, ErrName},
		"a hidden file":              {".ada", 2048, 0, ErrName},
		"a line break in the name":   {"ada\n", 2048, 0, ErrName},
		"a name of 65 characters":    {strings.Repeat("a", 65), 2048, 0, ErrName},
		"1024 bits":                  {"ada", 1024, 0, ErrBits},
		"a size nobody uses":         {"ada", 2560, 0, ErrBits},
		"8192 bits":                  {"ada", 8192, 0, ErrBits},
		"a passphrase of 1025 bytes": {"ada", 2048, 1025, errPassphraseTooLong},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := Generate(rand.Reader, tc.name, tc.bits, secret.New(make([]byte, tc.pass)), testTime)
			if !errors.Is(err, tc.want) {
				t.Errorf("got %v, want %v", err, tc.want)
			}
		})
	}
	if _, _, err := Generate(nil, "ada", 2048, secret.Bytes{}, testTime); err == nil {
		t.Error("no source of randomness: no error")
	}
	short := bytes.NewReader(make([]byte, 8)) // less than a serial number
	if _, _, err := Generate(short, "ada", 2048, secret.Bytes{}, testTime); err == nil {
		t.Error("a source of randomness that ends: no error")
	}
}

// testdata of the repository: pairs that other software made, one of them under a passphrase.
func TestGoldenPairs(t *testing.T) {
	files, err := filepath.Glob("../../testdata/securitydomain/*/custodian-*.pem")
	if err != nil || len(files) == 0 {
		t.Fatalf("no golden custodians (%v)", err)
	}
	passphrases := []secret.Bytes{secret.New([]byte("correct horse battery staple"))}
	for _, file := range files {
		t.Run(filepath.Base(filepath.Dir(file))+"/"+filepath.Base(file), func(t *testing.T) {
			key, err := ParseKey(read(t, file), passphrases)
			if err != nil {
				t.Fatal(err)
			}
			if !opens(t, key, oneCertificate(t, read(t, strings.TrimSuffix(file, ".pem")+".cer"))) {
				t.Error("the key does not fit the certificate")
			}
		})
	}
}

func read(t testing.TB, file string) []byte {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func openssl(t testing.TB, args ...string) []byte {
	t.Helper()
	cmd := exec.Command("openssl", args...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("openssl %s: %v\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return out
}

func write(t testing.TB, file string, data []byte) string {
	t.Helper()
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// OpenSSL reads what we write: the encrypted key gives the public key of the certificate.
func TestOpenSSLReadsOurs(t *testing.T) {
	dir := t.TempDir()
	keyPEM, certPEM, err := Generate(rand.Reader, "ada", 2048, secret.New([]byte("open sesame")), testTime)
	if err != nil {
		t.Fatal(err)
	}
	key := write(t, filepath.Join(dir, "ada.key"), keyPEM.Reveal())
	cert := write(t, filepath.Join(dir, "ada.cer"), certPEM)
	fromKey := openssl(t, "pkey", "-in", key, "-passin", "pass:open sesame", "-pubout")
	fromCert := openssl(t, "x509", "-in", cert, "-noout", "-pubkey")
	if !bytes.Equal(fromKey, fromCert) {
		t.Error("OpenSSL finds different public keys in key and certificate")
	}
	text := string(openssl(t, "asn1parse", "-in", key))
	for _, want := range []string{"PBES2", "PBKDF2", "hmacWithSHA256", "aes-256-cbc", "0927C0"} { // 0x0927C0 = 600,000
		if !strings.Contains(text, want) {
			t.Errorf("OpenSSL does not see %s in the encrypted key", want)
		}
	}
}

// We read what OpenSSL writes, and refuse what it should not have written.
func TestReadOpenSSL(t *testing.T) {
	dir := t.TempDir()
	plain := filepath.Join(dir, "plain.pem")
	openssl(t, "genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", plain)
	topk8 := func(args ...string) []string {
		return append([]string{"pkcs8", "-topk8", "-in", plain, "-passout", "pass:open sesame"}, args...)
	}
	for name, tc := range map[string]struct {
		args []string
		want error
	}{
		"PKCS #8":                               {[]string{"pkcs8", "-topk8", "-nocrypt", "-in", plain}, nil},
		"PKCS #1":                               {[]string{"rsa", "-in", plain, "-traditional"}, nil},
		"OpenSSL's defaults":                    {topk8(), nil},
		"AES-128, PBKDF2 with SHA-1":            {topk8("-v2", "aes-128-cbc", "-v2prf", "hmacWithSHA1"), nil},
		"AES-192, PBKDF2 with SHA-384":          {topk8("-v2", "aes-192-cbc", "-v2prf", "hmacWithSHA384"), nil},
		"AES-256, PBKDF2 with SHA-512":          {topk8("-v2", "aes-256-cbc", "-v2prf", "hmacWithSHA512"), nil},
		"600,000 rounds":                        {topk8("-v2", "aes-256-cbc", "-iter", "600000"), nil},
		"scrypt":                                {topk8("-scrypt"), nil},
		"scrypt, other sizes":                   {topk8("-scrypt", "-scrypt_N", "4096", "-scrypt_r", "4", "-scrypt_p", "2"), nil},
		"triple DES":                            {topk8("-v2", "des3"), ErrWeakEncryption},
		"PBES1":                                 {topk8("-v1", "PBE-SHA1-3DES"), ErrWeakEncryption},
		"999 rounds":                            {topk8("-iter", "999"), ErrWeakEncryption},
		"10,000,001 rounds":                     {topk8("-iter", "10000001"), ErrCostlyEncryption},
		"Camellia":                              {topk8("-v2", "camellia-256-cbc"), ErrEncryption},
		"a PRF that nobody uses":                {topk8("-v2prf", "hmacWithSHA224"), ErrEncryption},
		"the form of before PKCS #8":            {[]string{"rsa", "-in", plain, "-traditional", "-aes256", "-passout", "pass:open sesame"}, ErrWeakEncryption},
		"an EC key":                             {[]string{"genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"}, ErrNotRSA},
		"an EC key in SEC 1 form":               {[]string{"ecparam", "-name", "prime256v1", "-genkey", "-noout"}, ErrNotRSA},
		"an encrypted EC key":                   {[]string{"genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-aes-256-cbc", "-pass", "pass:open sesame"}, ErrNotRSA},
		"an RSA key of 1024 bits":               {[]string{"genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:1024"}, ErrWeakKey},
		"an encrypted RSA key of 1024 bits":     {[]string{"genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:1024", "-aes-256-cbc", "-pass", "pass:open sesame"}, ErrWeakKey},
		"a public key":                          {[]string{"pkey", "-in", plain, "-pubout"}, ErrNotPEM},
		"a key in DER":                          {[]string{"pkey", "-in", plain, "-outform", "DER"}, ErrNotPEM},
		"a certificate request and no key":      {[]string{"req", "-new", "-key", plain, "-subj", "/CN=ada"}, ErrNotPEM},
		"a certificate where the key belongs":   {[]string{"req", "-x509", "-new", "-key", plain, "-subj", "/CN=ada"}, ErrIsCertificate},
		"a key for signatures only (RSA-PSS)":   {[]string{"genpkey", "-algorithm", "RSA-PSS", "-pkeyopt", "rsa_keygen_bits:2048"}, ErrMalformed},
		"an Ed25519 key":                        {[]string{"genpkey", "-algorithm", "ED25519"}, ErrNotRSA},
		"an X25519 key":                         {[]string{"genpkey", "-algorithm", "X25519"}, ErrNotRSA},
		"a key that nobody has a passphrase to": {[]string{"pkcs8", "-topk8", "-in", plain, "-passout", "pass:something else"}, ErrPassphraseWrong},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file := openssl(t, tc.args...)
			key, err := ParseKey(file, []secret.Bytes{secret.New([]byte("open sesame"))})
			if !errors.Is(err, tc.want) || (err == nil) != (tc.want == nil) {
				t.Fatalf("got %v, want %v", err, tc.want)
			}
			if err == nil {
				want, err := ParseKey(read(t, plain), nil)
				if err != nil {
					t.Fatal(err)
				}
				if !key.Public().(*rsa.PublicKey).Equal(want.Public()) {
					t.Error("another key came out")
				}
			}
		})
	}
}

// Files as people really have them.
func TestParseKeyFiles(t *testing.T) {
	keyPEM, certPEM, err := Generate(rand.Reader, "ada", 2048, secret.Bytes{}, testTime)
	if err != nil {
		t.Fatal(err)
	}
	key := keyPEM.Reveal()
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	for name, tc := range map[string]struct {
		file []byte
		want error
	}{
		"with text in front":        {join([]byte("Bag Attributes\n    friendlyName: ada\n"), key), nil},
		"after its certificate":     {join(certPEM, key), nil},
		"with Windows line ends":    {bytes.ReplaceAll(key, []byte("\n"), []byte("\r\n")), nil},
		"with a byte order mark":    {join([]byte("\xef\xbb\xbf"), key), nil},
		"without a final line end":  {bytes.TrimSpace(key), nil},
		"empty":                     {nil, ErrNotPEM},
		"cut in the middle":         {key[:len(key)/2], ErrNotPEM},
		"of 65 KiB":                 {join(key, make([]byte, 65<<10)), ErrTooLarge},
		"with 9 KiB of key":         {pem.EncodeToMemory(&pem.Block{Type: pemPKCS8, Bytes: make([]byte, 9<<10)}), ErrTooLarge},
		"with zeros for a key":      {pem.EncodeToMemory(&pem.Block{Type: pemPKCS8, Bytes: make([]byte, 99)}), ErrMalformed},
		"with zeros, PKCS #1":       {pem.EncodeToMemory(&pem.Block{Type: pemPKCS1, Bytes: make([]byte, 99)}), ErrMalformed},
		"with zeros, encrypted":     {pem.EncodeToMemory(&pem.Block{Type: pemEncryptedPKCS8, Bytes: make([]byte, 99)}), ErrMalformed},
		"with an unknown kind":      {pem.EncodeToMemory(&pem.Block{Type: "MAGIC PRIVATE KEY", Bytes: make([]byte, 99)}), ErrNotPEM},
		"a certificate and nothing": {certPEM, ErrIsCertificate},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := ParseKey(tc.file, nil); !errors.Is(err, tc.want) || (err == nil) != (tc.want == nil) {
				t.Errorf("got %v, want %v", err, tc.want)
			}
		})
	}
}

// No error of ParseKey may hold bytes of the file, which might be the key. Every line of a good file is broken in
// turn, so that parsing fails in as many places as there are. Covers S14.
func TestErrorsHoldNoInput(t *testing.T) {
	keyPEM, _, err := Generate(rand.Reader, "ada", 2048, secret.Bytes{}, testTime)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(keyPEM.Reveal())
	failures := 0
	for i := 0; i < len(block.Bytes); i += 7 {
		broken := bytes.Clone(block.Bytes)
		broken[i] ^= 0x55
		_, err := ParseKey(pem.EncodeToMemory(&pem.Block{Type: pemPKCS8, Bytes: broken}), nil)
		if err == nil {
			continue // a byte that RSA does not check, an exponent of the CRT form perhaps
		}
		failures++
		if !errIsAny(err, ErrMalformed, ErrNotRSA, ErrWeakKey, ErrTooLarge) || len(err.Error()) > 80 {
			t.Fatalf("byte %d: unexpected error text %q", i, err)
		}
	}
	if failures < 20 {
		t.Errorf("only %d of the broken keys were refused", failures)
	}
}

func TestParseCertificates(t *testing.T) {
	keyPEM, one, err := Generate(rand.Reader, "ada", 2048, secret.Bytes{}, testTime)
	if err != nil {
		t.Fatal(err)
	}
	_, two, err := Generate(rand.Reader, "grace", 2048, secret.Bytes{}, testTime)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(one)
	damaged := bytes.Clone(block.Bytes)
	damaged[40] ^= 0xff
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	for name, tc := range map[string]struct {
		file []byte
		want []string
		err  error
	}{
		"PEM":                        {one, []string{"ada"}, nil},
		"two in a file":              {join(one, two), []string{"ada", "grace"}, nil},
		"DER":                        {block.Bytes, []string{"ada"}, nil},
		"lines of 65 characters":     {rewrap(t, one, 65), []string{"ada"}, nil},
		"one line":                   {rewrap(t, one, 1<<20), []string{"ada"}, nil},
		"Windows line ends":          {bytes.ReplaceAll(one, []byte("\n"), []byte("\r\n")), []string{"ada"}, nil},
		"a byte order mark":          {join([]byte("\xef\xbb\xbf"), one), []string{"ada"}, nil},
		"text around":                {join([]byte("subject=CN = ada\n"), one, []byte("\nthat was all\n")), []string{"ada"}, nil},
		"empty":                      {nil, nil, ErrNotCertificate},
		"text":                       {[]byte("hello"), nil, ErrNotCertificate},
		"the private key by mistake": {keyPEM.Reveal(), nil, ErrIsPrivateKey},
		"with the key beside it":     {join(one, keyPEM.Reveal()), nil, ErrIsPrivateKey},
		"damaged":                    {pem.EncodeToMemory(&pem.Block{Type: pemCertificate, Bytes: damaged}), nil, ErrBadCertificate},
		"damaged DER":                {damaged, nil, ErrBadCertificate},
		"DER with a byte too many":   {append(bytes.Clone(block.Bytes), 0), nil, ErrBadCertificate},
		"33 of them":                 {bytes.Repeat(one, 33), nil, ErrManyCertificates},
		"over a megabyte":            {make([]byte, 1<<20+1), nil, ErrTooLarge},
	} {
		t.Run(name, func(t *testing.T) {
			certs, err := ParseCertificates(tc.file)
			if !errors.Is(err, tc.err) || (err == nil) != (tc.err == nil) {
				t.Fatalf("got %v, want %v", err, tc.err)
			}
			var names []string
			for _, c := range certs {
				names = append(names, c.Subject.CommonName)
			}
			if strings.Join(names, " ") != strings.Join(tc.want, " ") {
				t.Errorf("got %v, want %v", names, tc.want)
			}
		})
	}
}

// rewrap breaks the base64 of a PEM file at width characters.
func rewrap(t *testing.T, file []byte, width int) []byte {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(string(file)), "\n")
	body := strings.Join(lines[1:len(lines)-1], "")
	var b strings.Builder
	b.WriteString(lines[0] + "\n")
	for len(body) > 0 {
		n := min(width, len(body))
		b.WriteString(body[:n] + "\n")
		body = body[n:]
	}
	b.WriteString(lines[len(lines)-1] + "\n")
	return []byte(b.String())
}
