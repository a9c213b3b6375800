package leak_test

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tink-crypto/tink-go/v2/kwp/subtle"
	"golang.org/x/crypto/argon2"

	"strongroom/internal/access"
	"strongroom/internal/api"
	"strongroom/internal/custodian"
	"strongroom/securitydomain"
	"strongroom/test/harness"
)

// The kinds of secrets, as docs/secrets-in-memory.md has them.
const (
	importedRSA       = "imported RSA key"
	importedEC        = "imported EC key"
	importedOct       = "imported oct key"
	releasedEC        = "released EC key"
	releasedOct       = "released oct key"
	keyBetween        = "key between" // of a transfer blob or a release: what wraps the key itself
	refusedKey        = "refused key"
	plaintext         = "plaintext"
	plaintextUnderWay = "plaintext under way" // in a request that is not whole
	refusedPlaintext  = "refused plaintext"
	randomBytes       = "random bytes"
	clientSecret      = "client secret"
	password          = "password"
	refreshToken      = "refresh token"
	bearerToken       = "bearer token"
	attestationToken  = "attestation token"
	refusedCredential = "refused credential"
	sealPassphrase    = "seal passphrase"
	sealKey           = "seal key" // the root key, and the key that the passphrase gives
	domainKey         = "domain key"
	domainSigningKey  = "domain signing key"
	custodianKey      = "custodian key"
	tlsKey            = "TLS key"
)

const resource = "https://managedhsm.azure.net"

// life is a server with everything that happens to it, and the secrets that it happens with.
type life struct {
	*subject
	dev    *harness.Server
	search searcher
	token  string // of the administrator, for the data plane
	backup string // of a key, as base64url
}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

func (l *life) random(kind, name string, size int) []byte {
	b := make([]byte, size)
	_, _ = rand.Read(b)
	l.search.add(l.t, kind, name, b)
	return b
}

// credential makes a token or a secret known. Of a token it is the signature: the rest says nothing that is secret.
func (l *life) credential(kind, name, text string) string {
	l.t.Helper()
	l.search.add(l.t, kind, name, []byte(text[strings.LastIndex(text, ".")+1:]))
	return text
}

// call asks an HSM something as the administrator.
func (l *life) call(route, hsm, path string, body any, want int) []byte {
	l.t.Helper()
	method, _, _ := strings.Cut(route, " ")
	return l.ask(route, method, l.hsm(hsm)+path+"?api-version=7.4", l.token, body, want)
}

// scalar is what is secret of an EC key.
func scalar(t *testing.T, key any) []byte {
	t.Helper()
	d, err := key.(*ecdsa.PrivateKey).Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// begin starts the server, and its administrator signs in.
func begin(t *testing.T) *life {
	t.Helper()
	dev := harness.Start(t, t.TempDir(), harness.Options{Binary: program})
	l := &life{dev: dev}
	l.subject = &subject{t: t}
	passphrase := hex.EncodeToString(l.random(sealPassphrase, "its source", 24))
	l.search.add(t, sealPassphrase, "the passphrase", []byte(passphrase))
	l.subject = startSubject(t, dev, passphrase)
	l.search.add(t, sealKey, "the root key", l.rootKey(passphrase))
	l.credential(clientSecret, "of the administrator", l.env["STRONGROOM_CLIENT_SECRET"])
	l.token = l.credential(bearerToken, "of the administrator", l.signIn(l.env["STRONGROOM_CLIENT_ID"], l.env["STRONGROOM_CLIENT_SECRET"], resource, 200))
	for _, file := range []string{"server.key", "ca.key"} {
		block, _ := pem.Decode([]byte(l.read("tls/" + file)))
		key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		l.search.add(t, tlsKey, file, scalar(t, key))
	}
	return l
}

// rootKey opens the seal file, as docs/formats.md describes it.
func (l *life) rootKey(passphrase string) []byte {
	l.t.Helper()
	var f struct {
		ID       string
		Argon2id struct {
			Time      uint32
			MemoryKiB uint32 `json:"memory_kib"`
			Threads   uint8
		}
		Salt    []byte
		Wrapped []byte `json:"wrapped_key"`
	}
	if err := json.Unmarshal([]byte(l.read("seal.json")), &f); err != nil {
		l.t.Fatal(err)
	}
	key := argon2.IDKey([]byte(passphrase), f.Salt, f.Argon2id.Time, f.Argon2id.MemoryKiB, f.Argon2id.Threads, 32)
	l.search.add(l.t, sealKey, "the key that the passphrase gives", key)
	aad := []byte("strongroom/seal/root/v1\x00" + f.ID + "\x00")
	aad = binary.BigEndian.AppendUint32(aad, f.Argon2id.Time)
	aad = binary.BigEndian.AppendUint32(aad, f.Argon2id.MemoryKiB)
	aad = append(append(aad, f.Argon2id.Threads), f.Salt...)
	block, err := aes.NewCipher(key)
	if err != nil {
		l.t.Fatal(err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		l.t.Fatal(err)
	}
	root, err := gcm.Open(nil, f.Wrapped[4:16], f.Wrapped[16:], aad)
	if err != nil {
		l.t.Fatal(err)
	}
	return root
}

// ceremony: vault1 is activated for three custodians, and vault2 takes its domain over.
func (l *life) ceremony() {
	l.t.Helper()
	dir := l.t.TempDir()
	var certificates []any
	var keys []securitydomain.Key
	for _, name := range []string{"ann", "bo", "cy"} {
		l.run(2, "custodian", "new", name, "--bits", "2048", "--out", dir)
		text, err := os.ReadFile(filepath.Join(dir, name+".cer"))
		if err != nil {
			l.t.Fatal(err)
		}
		list, err := custodian.ParseCertificates(text)
		if err != nil {
			l.t.Fatal(err)
		}
		public, sum := list[0].PublicKey.(*rsa.PublicKey), sha256.Sum256(list[0].Raw)
		certificates = append(certificates, map[string]any{"kty": "RSA", "n": b64(public.N.Bytes()), "e": "AQAB", "x5c": []string{base64.StdEncoding.EncodeToString(list[0].Raw)}, "x5t#S256": b64(sum[:])})
		if text, err = os.ReadFile(filepath.Join(dir, name+".key")); err != nil {
			l.t.Fatal(err)
		}
		key, err := custodian.ParseKey(text, nil)
		if err != nil {
			l.t.Fatal(err)
		}
		l.numbers(custodianKey, name, key.(*rsa.PrivateKey))
		keys = append(keys, securitydomain.Key{Name: name, Decrypter: key})
	}
	sd := member(l.t, l.call("POST /securitydomain/download", "vault1", "/securitydomain/download", map[string]any{"certificates": certificates, "required": 2}, 202), "value")
	file, err := securitydomain.Parse([]byte(sd))
	if err != nil {
		l.t.Fatal(err)
	}
	opened, err := securitydomain.Open(file, keys[:2])
	if err != nil {
		l.t.Fatal(err)
	}
	for _, item := range opened.Items {
		kind, value := domainKey, bytes.Clone(item.Value.Reveal())
		if key, err := x509.ParsePKCS8PrivateKey(value); err == nil { // of the signing key, only d is secret
			kind, value = domainSigningKey, scalar(l.t, key)
		}
		l.search.add(l.t, kind, item.Tag, value)
	}
	var jwk struct{ X5C [][]byte }
	if err := json.Unmarshal([]byte(member(l.t, l.call("GET /securitydomain/upload", "vault2", "/securitydomain/upload", nil, 200), "transfer_key")), &jwk); err != nil {
		l.t.Fatal(err)
	}
	sdFile, exchange, transfer := filepath.Join(dir, "SD.json"), filepath.Join(dir, "exchange.cer"), filepath.Join(dir, "transfer.json")
	for path, text := range map[string][]byte{sdFile: []byte(sd), exchange: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: jwk.X5C[0]})} {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			l.t.Fatal(err)
		}
	}
	l.run(2, "domain", "restore-blob", "--sd", sdFile, "--exchange", exchange, "--key", filepath.Join(dir, "ann.key"), "--key", filepath.Join(dir, "cy.key"), "--out", transfer)
	blob, err := os.ReadFile(transfer)
	if err != nil {
		l.t.Fatal(err)
	}
	l.call("POST /securitydomain/upload", "vault2", "/securitydomain/upload", map[string]any{"value": string(blob[:len(blob)/2])}, 400)
	l.call("POST /securitydomain/upload", "vault2", "/securitydomain/upload", map[string]any{"value": string(blob)}, 202)
	for _, hsm := range []string{"vault1", "vault2"} {
		for i, role := range []string{access.RoleCryptoUser, access.RoleCryptoOfficer, access.RoleServiceRelease} {
			l.call("PUT /providers/Microsoft.Authorization/roleAssignments/{id}", hsm, fmt.Sprintf("/providers/Microsoft.Authorization/roleAssignments/00000000-0000-4000-8000-00000000000%d", i),
				map[string]any{"properties": map[string]any{"principalId": l.env["STRONGROOM_OBJECT_ID"], "roleDefinitionId": "Microsoft.KeyVault/providers/Microsoft.Authorization/roleDefinitions/" + role}}, 201)
		}
	}
}

// numbers makes the private numbers of an RSA key known.
func (l *life) numbers(kind, name string, key *rsa.PrivateKey) map[string]string {
	key.Precompute()
	jwk := map[string]string{"kty": "RSA", "n": b64(key.N.Bytes()), "e": "AQAB"}
	for part, number := range map[string]*big.Int{"d": key.D, "p": key.Primes[0], "q": key.Primes[1], "dp": key.Precomputed.Dp, "dq": key.Precomputed.Dq, "qi": key.Precomputed.Qinv} {
		l.search.add(l.t, kind, name+": "+part, number.Bytes())
		jwk[part] = b64(number.Bytes())
	}
	return jwk
}

func (l *life) newRSA() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		l.t.Fatal(err)
	}
	return key
}

func (l *life) newEC(kind, name string) (jwk map[string]string, pkcs8 []byte) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		l.t.Fatal(err)
	}
	d := scalar(l.t, key)
	l.search.add(l.t, kind, name+": d", d)
	point, _ := key.PublicKey.Bytes()
	pkcs8, _ = x509.MarshalPKCS8PrivateKey(key)
	return map[string]string{"kty": "EC", "crv": "P-256", "x": b64(point[1:33]), "y": b64(point[33:]), "d": b64(d)}, pkcs8
}

// importKeys: known keys come in, in every form.
func (l *life) importKeys() {
	l.t.Helper()
	bring := func(name string, key any) {
		l.t.Helper()
		l.call("PUT /keys/{name}", "vault1", "/keys/"+name, map[string]any{"key": key}, 200)
	}
	bring("rsa", l.numbers(importedRSA, "RSA key", l.newRSA()))
	ec, _ := l.newEC(importedEC, "EC key")
	bring("ec", ec)
	bring("oct", map[string]string{"kty": "oct", "k": b64(l.random(importedOct, "oct key: k", 32))})
	// Wrapped for a key of the HSM.
	made := l.call("POST /keys/{name}/create", "vault1", "/keys/kek/create", map[string]any{"kty": "RSA", "key_size": 2048, "key_ops": []string{"import"}}, 200)
	n, _ := base64.RawURLEncoding.DecodeString(member(l.t, made, "key", "n"))
	between := l.random(keyBetween, "of a transfer blob", 32)
	first, err := rsa.EncryptOAEP(sha1.New(), rand.Reader, &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: 65537}, between, nil)
	if err != nil {
		l.t.Fatal(err)
	}
	wrapper, err := subtle.NewKWP(between)
	if err != nil {
		l.t.Fatal(err)
	}
	_, pkcs8 := l.newEC(importedEC, "wrapped EC key")
	second, err := wrapper.Wrap(pkcs8)
	if err != nil {
		l.t.Fatal(err)
	}
	file, _ := json.Marshal(map[string]any{"schema_version": "1.0.0", "header": map[string]any{"kid": member(l.t, made, "key", "kid"), "alg": "dir", "enc": "CKM_RSA_AES_KEY_WRAP"}, "ciphertext": b64(append(first, second...)), "generator": "a test"})
	bring("wrapped", map[string]string{"kty": "EC", "crv": "P-256", "key_hsm": b64(file)})
}

// useKeys: known plaintexts go in and come out.
func (l *life) useKeys() {
	l.t.Helper()
	use := func(key, operation string, body map[string]string, want int) []byte {
		l.t.Helper()
		return l.call("POST /keys/{name}/"+operation, "vault1", "/keys/"+key+"/"+operation, body, want)
	}
	digest := sha256.Sum256([]byte("signed"))
	use("rsa", "sign", map[string]string{"alg": "PS256", "value": b64(digest[:])}, 200)
	use("ec", "sign", map[string]string{"alg": "ES256", "value": b64(digest[:])}, 200)
	use("wrapped", "sign", map[string]string{"alg": "ES256", "value": b64(digest[:])}, 200)
	for _, c := range []struct{ key, alg, in, out string }{
		{"rsa", "RSA-OAEP-256", "encrypt", "decrypt"}, {"rsa", "RSA-OAEP", "wrapkey", "unwrapkey"}, {"oct", "A256GCM", "encrypt", "decrypt"}, {"oct", "A256KW", "wrapkey", "unwrapkey"},
	} {
		value := l.random(plaintext, "of "+c.alg, 48)
		sealed := use(c.key, c.in, map[string]string{"alg": c.alg, "value": b64(value)}, 200)
		l.atOnce(c.in, plaintext, "of "+c.alg, readBuffer, tlsRecord)
		body := map[string]string{"alg": c.alg, "value": member(l.t, sealed, "value")}
		if iv := member(l.t, sealed, "iv"); iv != "" {
			body["iv"], body["tag"] = iv, member(l.t, sealed, "tag")
		}
		if got := member(l.t, use(c.key, c.out, body, 200), "value"); got != b64(value) {
			l.t.Fatalf("%s %s: got another plaintext", c.key, c.alg)
		}
		l.atOnce(c.out, plaintext, "of "+c.alg, answerBuffer, writeBuffer, tlsRecord)
		// Damaged: the same ciphertext, with another first byte.
		damaged, _ := base64.RawURLEncoding.DecodeString(body["value"])
		damaged[0] ^= 1
		body["value"] = b64(damaged)
		use(c.key, c.out, body, 400)
	}
	got := member(l.t, l.call("POST /rng", "vault1", "/rng", map[string]any{"count": 64}, 200), "value")
	raw, err := base64.RawURLEncoding.DecodeString(got)
	if err != nil {
		l.t.Fatal(err)
	}
	l.search.add(l.t, randomBytes, "of /rng", raw)
	l.atOnce("rng", randomBytes, "of /rng", answerBuffer, writeBuffer, tlsRecord)
	l.backup = member(l.t, l.call("POST /keys/{name}/backup", "vault1", "/keys/rsa/backup", nil, 200), "value")
	l.call("POST /keys/restore", "vault2", "/keys/restore", map[string]any{"value": l.backup}, 200)
	l.call("POST /keys/restore", "vault2", "/keys/restore", map[string]any{"value": l.backup[:len(l.backup)/2]}, 400)
	for _, read := range []string{"", "/attestation", "/versions"} {
		l.call("GET /keys/{name}"+read, "vault1", "/keys/rsa"+read, nil, 200)
	}
	l.call("GET /keys", "vault1", "/keys", nil, 200)
}

// atOnce looks at the memory right after an answer, while nothing else went through the buffers of Go's library: what went
// in or out must still be there, which shows that the search sees it, once in a buffer of net/http, and nowhere else. So a
// copy that our code leaves fails the test at any number of processors and whatever the collector does.
func (l *life) atOnce(operation, kind, name string, keepers ...string) {
	l.t.Helper()
	once := map[finding]int{} // how often a spelling is found where there is one copy
	for _, n := range l.search.needles {
		once[n.what]++
	}
	all, _ := image(l.t, l.cmd.Process.Pid, &l.search)
	found, more := map[finding]int{}, false
	for f, times := range all {
		if f.kind != kind || f.name != name {
			continue
		}
		found[f] = times
		in := f.keeper
		f.keeper = ""
		// crypto/tls grows its buffer while a record is in it.
		more = more || !slices.Contains(keepers, in) || in != tlsRecord && times > once[f]
	}
	if more {
		l.t.Errorf("%s, in memory at once after %s: found %q; it may be once in each of %q", kind, operation, details(found, kind), keepers)
	}
	if len(found) == 0 {
		l.t.Errorf("%s, in memory at once after %s: not found, where it must be: the search does not see what is there", kind, operation)
	}
}

// release: keys that the HSM made leave it, for a key of ours.
func (l *life) release() {
	l.t.Helper()
	recipient := l.newRSA()
	token := l.credential(attestationToken, "of the recipient", attest(l.t, l.dev, &recipient.PublicKey))
	authority := l.dev.Env["STRONGROOM_AUTHORITY"] + "/attest"
	policy := map[string]any{"data": b64([]byte(`{"version":"1.0.0","anyOf":[{"authority":"` + authority + `","allOf":[{"claim":"tee","equals":"yes"}]}]}`))}
	for _, spec := range []map[string]any{{"kty": "EC-HSM", "crv": "P-256"}, {"kty": "oct-HSM", "key_size": 256}} {
		name := "leaves-" + strings.ToLower(spec["kty"].(string))
		spec["attributes"], spec["release_policy"] = map[string]any{"exportable": true}, policy
		l.call("POST /keys/{name}/create", "vault1", "/keys/"+name+"/create", spec, 200)
		jws := member(l.t, l.call("POST /keys/{name}/release", "vault1", "/keys/"+name+"/release", map[string]any{"target": token, "enc": "RSA_AES_KEY_WRAP_256"}, 200), "value")
		payload, err := base64.RawURLEncoding.DecodeString(strings.Split(jws, ".")[1])
		if err != nil {
			l.t.Fatal(err)
		}
		inner, err := base64.RawURLEncoding.DecodeString(member(l.t, payload, "response", "key", "key", "key_hsm"))
		if err != nil {
			l.t.Fatal(err)
		}
		wrapped, err := base64.RawURLEncoding.DecodeString(member(l.t, inner, "ciphertext"))
		if err != nil {
			l.t.Fatal(err)
		}
		between, err := rsa.DecryptOAEP(sha256.New(), nil, recipient, wrapped[:256], nil)
		if err != nil {
			l.t.Fatal(err)
		}
		l.search.add(l.t, keyBetween, name, between)
		kwp, err := subtle.NewKWP(between)
		if err != nil {
			l.t.Fatal(err)
		}
		target, err := kwp.Unwrap(wrapped[256:])
		if err != nil {
			l.t.Fatal(err)
		}
		kind := releasedOct
		if key, err := x509.ParsePKCS8PrivateKey(target); err == nil {
			kind, target = releasedEC, scalar(l.t, key)
		}
		l.search.add(l.t, kind, name, target)
		l.call("POST /keys/{name}/release", "vault1", "/keys/"+name+"/release", map[string]any{"target": l.refusedToken(token)}, 403)
	}
}

// attest has the development server attest a key.
func attest(t *testing.T, s *harness.Server, key *rsa.PublicKey) string {
	t.Helper()
	ca, err := os.ReadFile(s.Env["STRONGROOM_CA"])
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	body := `{"claims":{"tee":"yes"},"key":{"kty":"RSA","kid":"enclave","n":"` + b64(key.N.Bytes()) + `","e":"AQAB"}}`
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.Env["STRONGROOM_AUTHORITY"]+"/attest/token", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	r.SetBasicAuth(s.Env["STRONGROOM_CLIENT_ID"], s.Env["STRONGROOM_CLIENT_SECRET"])
	w, err := (&http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Body.Close()
	raw, err := io.ReadAll(w.Body)
	if err != nil || w.StatusCode != 200 {
		t.Fatalf("attest: %d %s %v", w.StatusCode, raw, err)
	}
	return member(t, raw, "token")
}

// refusedToken is a token with another signature.
func (l *life) refusedToken(token string) string {
	head := token[:strings.LastIndex(token, ".")+1]
	return l.credential(refusedCredential, "a token", head+b64(l.random(refusedCredential, "a signature", 64)))
}

// wrongRequests: secrets in requests that are refused, in many places of them.
func (l *life) wrongRequests() {
	l.t.Helper()
	k := b64(l.random(refusedKey, "k", 32))
	n := b64(l.random(refusedKey, "of an RSA key", 256))
	for _, body := range []any{
		`{"key":{"kty":"oct","k":"` + k, `{"key":{"kty":"oct","k":"` + k + `","k":"` + k + `"}}`, `{"key":{"kty":"oct","k":["` + k + `"]}}`, `{"key":{"kty":"oct","k":"` + k + `="}}`, k, `"` + k + `"`,
		map[string]any{"key": map[string]any{"kty": k, "k": k}}, map[string]any{"key": map[string]any{"kty": "oct", "k": k + k}}, map[string]any{"key": map[string]any{"kty": "EC", "crv": k, "x": k, "y": k, "d": k}},
		map[string]any{"key": map[string]any{"kty": "RSA", "n": n, "e": "AQAB", "d": n, "p": k, "q": k}}, map[string]any{"key": map[string]any{"kty": "oct", "key_hsm": k}}, map[string]any{"key": map[string]any{"kty": "oct", "k": k, "key_ops": []string{k}}},
		map[string]any{"key": map[string]any{"kty": "oct", "k": k}, "tags": k}, map[string]any{"key": map[string]any{"kty": "oct", "k": k}, "attributes": map[string]any{"exp": k}},
		map[string]any{"key": map[string]any{"kty": "oct", "k": k}, "release_policy": map[string]any{"data": k}},
	} {
		l.call("PUT /keys/{name}", "vault1", "/keys/refused", body, 400)
	}
	value := b64(l.random(refusedPlaintext, "a value", 48))
	for _, operation := range []string{"encrypt", "decrypt", "wrapkey", "unwrapkey", "sign", "verify"} {
		for _, body := range []any{
			`{"alg":"A256GCM","value":"` + value, `{"alg":"A256GCM","value":"` + value + `!"}`, map[string]any{"alg": value, "value": value}, map[string]any{"alg": "A256GCM", "value": []string{value}},
			map[string]any{"alg": "A192KW", "value": value, "digest": value}, map[string]any{"alg": "A256GCM", "value": value, "iv": value, "tag": value, "aad": value, "digest": value},
		} {
			l.call("POST /keys/{name}/"+operation, "vault1", "/keys/oct/"+operation, body, 400)
		}
		l.call("POST /keys/{name}/"+operation, "vault1", "/keys/nobody/"+operation, map[string]any{"alg": "RS256", "value": value, "digest": value}, 404)
		l.call("POST /keys/{name}/"+operation, "vault3", "/keys/oct/"+operation, map[string]any{"alg": "A256GCM", "value": value, "digest": value}, 403)
	}
	// Where nothing of the kind belongs.
	plain, err := http.Post(strings.Replace(l.base, "https:", "http:", 1)+"/"+value, "application/json", strings.NewReader(value))
	if err != nil {
		l.t.Fatal(err)
	}
	text, err := io.ReadAll(plain.Body)
	if err != nil || plain.StatusCode != 400 {
		l.t.Fatalf("plain HTTP: %d %s %v", plain.StatusCode, text, err)
	}
	plain.Body.Close()
	l.heard("plain HTTP", string(text))
	l.ask("no route", "GET", l.hsm("vault1")+"/keys/"+value+"/"+value+"/"+value+"?api-version=7.4&value="+value, l.token, nil, 404)
	l.ask("no route", "GET", l.hsm("vault1")+"/keys?api-version="+value, l.token, nil, 400)
	l.ask("no route", "GET", l.hsm("vault1")+"/keys?api-version=7.4&%24skiptoken="+value, l.token, nil, 400)
	for _, token := range []string{l.refusedToken(l.token), l.credential(refusedCredential, "no token", k+b64(l.random(refusedCredential, "no token", 40)))} {
		l.ask("a wrong token", "GET", l.hsm("vault1")+"/keys?api-version=7.4", token, nil, 401)
		l.ask("a wrong token", "GET", l.base+"/subscriptions?api-version=2022-12-01", token, nil, 401)
	}
	for _, c := range []struct{ route, path string }{{"POST /securitydomain/download", "/securitydomain/download"}, {"POST /securitydomain/upload", "/securitydomain/upload"}, {"POST /keys/restore", "/keys/restore"},
		{"POST /keys/{name}/create", "/keys/new/create"}, {"PATCH /keys/{name}", "/keys/oct"}, {"POST /keys/{name}/release", "/keys/oct/release"}, {"PUT /keys/{name}/rotationpolicy", "/keys/oct/rotationpolicy"}, {"POST /rng", "/rng"},
		{"PATCH /settings/{id}", "/settings/AllowKeyManagementOperationsThroughARM"}, {"PUT /providers/Microsoft.Authorization/roleDefinitions/{id}", "/providers/Microsoft.Authorization/roleDefinitions/" + value}} {
		for _, body := range []any{value, `{"value":"` + value, []string{value}, map[string]any{"value": map[string]any{value: value}, "kty": value, "certificates": value, "count": value, "key_ops": value, "target": 7, "attributes": value, "properties": value, "lifetimeActions": value}} {
			l.call(c.route, "vault1", c.path, body, 400)
		}
	}
	operator := l.credential(bearerToken, "of the operator", l.signIn(l.env["STRONGROOM_CLIENT_ID"], l.env["STRONGROOM_CLIENT_SECRET"], "https://management.azure.com", 200))
	var list struct {
		Value []struct{ ID, SubscriptionID string }
	}
	if err := json.Unmarshal(l.ask("the control plane", "GET", l.base+"/subscriptions?api-version=2022-12-01", operator, nil, 200), &list); err != nil {
		l.t.Fatal(err)
	}
	for _, body := range []any{value, `{"location":"` + value, map[string]any{"location": value, "properties": value}, map[string]any{"location": value, "tags": map[string]any{value: 1}, "properties": map[string]any{"tenantId": value, "initialAdminObjectIds": []string{value}}}} {
		l.ask("the control plane", "PUT", l.base+"/subscriptions/"+list.Value[0].SubscriptionID+"/resourceGroups/strongroom/providers/Microsoft.KeyVault/managedHSMs/vault9?api-version=2023-07-01", operator, body, 400)
	}
	admin := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(l.data, api.AdminSocket))
	}}}
	defer admin.CloseIdleConnections()
	for _, body := range []string{value, `{"name":"` + value, `{"name":{"` + value + `":1}}`, `{"` + value + `":"` + value + `"}`, `{"name":"` + value + `","name":"` + value + `"}`} {
		for _, path := range []string{api.AdminCreateApplication, api.AdminRotateApplication, api.AdminCreateUser, api.AdminRotateUser, "/" + value} {
			w, err := admin.Post("http://admin"+path, "application/json", strings.NewReader(body))
			if err != nil {
				l.t.Fatal(err)
			}
			text, err := io.ReadAll(w.Body)
			if err != nil || w.StatusCode < 400 || w.StatusCode > 404 {
				l.t.Fatalf("%s on the admin socket: %d %s %v", path, w.StatusCode, text, err)
			}
			w.Body.Close()
			l.heard("the admin socket", string(text))
		}
	}
	l.signIn(l.env["STRONGROOM_CLIENT_SECRET"], l.env["STRONGROOM_CLIENT_ID"], resource, 401) // the wrong way round
	wrong := l.credential(refusedCredential, "a client secret", b64(l.random(refusedCredential, "a client secret", 32)))
	l.ask("POST /{tenant}/oauth2/v2.0/token", "POST", l.base+"/"+l.env["STRONGROOM_TENANT"]+"/oauth2/v2.0/token", "", url.Values{"grant_type": {"client_credentials"}, "client_id": {l.env["STRONGROOM_CLIENT_ID"]}, "client_secret": {wrong}, "scope": {resource + "/.default"}}, 401)
	l.ask("POST /{tenant}/oauth2/v2.0/token", "POST", l.base+"/"+l.env["STRONGROOM_TENANT"]+"/oauth2/v2.0/token", "", url.Values{"grant_type": {wrong}, "client_id": {wrong}, "client_secret": {wrong}, "scope": {wrong}}, 400)
}

// trouble: the server fails, and says in its log why.
func (l *life) trouble() {
	l.t.Helper()
	now := time.Now().Unix()
	part := func(v map[string]any) string {
		raw, _ := json.Marshal(v)
		return b64(raw)
	}
	token := l.credential(refusedCredential, "an attestation", part(map[string]any{"alg": "ES256", "kid": "another"})+"."+
		part(map[string]any{"iss": silent, "iat": now, "nbf": now, "exp": now + 3600})+"."+b64(l.random(refusedCredential, "a signature of an attestation", 64)))
	l.call("POST /keys/{name}/release", "vault1", "/keys/leaves-ec-hsm/release", map[string]any{"target": token}, 503)
}

// applications come and go over the admin socket.
func (l *life) applications() {
	l.t.Helper()
	secretOf := func(words ...string) (id, secret string) {
		l.t.Helper()
		out := []byte(l.run(3, append(append([]string{"identity", "app"}, words...), "--data", l.data, "--output", "json")...))
		return member(l.t, out, "client_id"), l.credential(clientSecret, "of an application", member(l.t, out, "client_secret"))
	}
	id, old := secretOf("create", "ci")
	l.credential(bearerToken, "of an application", l.signIn(id, old, resource, 200))
	_, fresh := secretOf("rotate", "ci", "--revoke-tokens")
	l.signIn(id, old, resource, 401)
	l.credential(bearerToken, "of an application", l.signIn(id, fresh, resource, 200))
	l.run(3, "identity", "app", "list", "--data", l.data)
	l.run(3, "identity", "app", "delete", "ci", "--data", l.data)
}

// users come and go too, and renew their sign-ins.
func (l *life) users() {
	l.t.Helper()
	passwordOf := func(words ...string) string {
		l.t.Helper()
		out := []byte(l.run(3, append(append([]string{"identity", "user"}, words...), "--data", l.data, "--output", "json")...))
		return l.credential(password, "of a user", member(l.t, out, "password"))
	}
	ask := func(form url.Values, want int) (renewal string) {
		l.t.Helper()
		form.Set("client_id", "04b07795-8ddb-461a-bbee-02f9e1bf7b46")
		form.Set("scope", resource+"/.default openid offline_access")
		text := l.ask("POST /{tenant}/oauth2/v2.0/token", "POST", l.base+"/"+l.env["STRONGROOM_TENANT"]+"/oauth2/v2.0/token", "", form, want)
		if want != 200 {
			return ""
		}
		l.credential(bearerToken, "of a user", member(l.t, text, "access_token"))
		l.credential(bearerToken, "about a user", member(l.t, text, "id_token"))
		return l.credential(refreshToken, "of a user", member(l.t, text, "refresh_token"))
	}
	signIn := func(password string) url.Values {
		return url.Values{"grant_type": {"password"}, "username": {"anna"}, "password": {password}}
	}
	renew := func(token string) url.Values {
		return url.Values{"grant_type": {"refresh_token"}, "refresh_token": {token}}
	}
	old := passwordOf("create", "anna")
	first := ask(signIn(old), 200)
	last := first
	for range 18 { // more than are in their grace at once
		last = ask(renew(last), 200)
	}
	ask(renew(first), 400) // used before: the log says so
	ask(renew(last), 400)
	fresh := passwordOf("rotate", "anna", "--revoke-tokens")
	ask(signIn(old), 400)
	ask(signIn(fresh), 200)
	l.run(3, "identity", "user", "list", "--data", l.data)
	l.run(3, "identity", "user", "delete", "anna", "--data", l.data)
}

// end deletes and purges the keys, and then the HSMs.
func (l *life) end() {
	l.t.Helper()
	for _, name := range []string{"rsa", "ec", "oct", "wrapped", "kek", "leaves-ec-hsm", "leaves-oct-hsm"} {
		l.call("DELETE /keys/{name}", "vault1", "/keys/"+name, nil, 200)
		l.call("DELETE /deletedkeys/{name}", "vault1", "/deletedkeys/"+name, nil, 204)
	}
	control := l.credential(bearerToken, "for the control plane", l.signIn(l.env["STRONGROOM_CLIENT_ID"], l.env["STRONGROOM_CLIENT_SECRET"], "https://management.azure.com", 200))
	var list struct {
		Value []struct{ ID, Name, SubscriptionID string }
	}
	read := func(path string) {
		l.t.Helper()
		if err := json.Unmarshal(l.ask("GET /subscriptions", "GET", l.base+path, control, nil, 200), &list); err != nil {
			l.t.Fatal(err)
		}
	}
	read("/subscriptions?api-version=2022-12-01")
	subscription := "/subscriptions/" + list.Value[0].SubscriptionID + "/providers/Microsoft.KeyVault"
	read(subscription + "/managedHSMs?api-version=2023-07-01")
	for _, hsm := range list.Value {
		if hsm.Name == "vault3" {
			continue
		}
		l.ask("the control plane", "DELETE", l.base+hsm.ID+"?api-version=2023-07-01", control, nil, 202)
		l.ask("the control plane", "POST", l.base+subscription+"/locations/local/deletedManagedHSMs/"+hsm.Name+"/purge?api-version=2023-07-01", control, nil, 202)
	}
}

// underWay begins a request and does not end it: the server waits for the rest of a plaintext.
func (l *life) underWay() {
	l.t.Helper()
	host := strings.TrimPrefix(l.hsm("vault1"), "https://")
	config := l.client.Transport.(*http.Transport).TLSClientConfig.Clone()
	config.ServerName = strings.Split(host, ":")[0]
	c, err := tls.Dial("tcp", strings.TrimPrefix(l.base, "https://"), config)
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { _ = c.Close() })
	body := `{"alg":"A256GCM","value":"` + b64(l.random(plaintextUnderWay, "half a request", 48))
	fmt.Fprintf(c, "POST /keys/oct/encrypt?api-version=7.4 HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", host, l.token, len(body)+100, body)
	for range 100_000 { // the answer to a scrape takes longer than the request, and mostly one is enough
		if strings.Contains(string(l.ask("GET /metrics", "GET", l.metricsURL, "", nil, 200)), "\nstrongroom_requests_running 1\n") {
			return
		}
	}
	l.t.Fatal("the server does not begin to read the request")
}

// otherWork gives the server's memory other things to hold.
func (l *life) otherWork() {
	for range 2000 {
		l.call("GET /securitydomain", "vault3", "/securitydomain", nil, 200)
	}
}
