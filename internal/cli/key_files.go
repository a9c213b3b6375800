package cli

import (
	"context"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"net/url"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"strongroom/internal/api"
	"strongroom/internal/custodian"
	"strongroom/internal/engine"
	"strongroom/internal/engine/software"
	"strongroom/internal/strictjson"
	"strongroom/secret"
)

// standard is the path of standard input and output.
const standard = "-"

// target is where a command writes what it makes: a file, or standard output.
type target struct {
	path  string
	force bool
}

func (t *target) flags(cmd *cobra.Command, usage string) {
	cmd.Flags().StringVar(&t.path, "out", "", usage+"; - is standard output")
	cmd.Flags().BoolVar(&t.force, "force", false, "replace the file if it exists")
}

// checkOut finds out beforehand whether the target can be written: see [checkTarget].
func (a *app) checkOut(cmd *cobra.Command, t target, inputs ...string) error {
	if t.path != standard {
		return checkTarget(t.path, t.force, inputs...)
	}
	if a.format == formatJSON {
		return a.usage(cmd, fmt.Errorf("--output json and what is written to standard output do not go together: give --out FILE"))
	}
	return nil
}

func (a *app) writeOut(t target, data []byte, mode fs.FileMode) error {
	if t.path != standard {
		return writeFile(t.path, data, mode, t.force)
	}
	if _, err := a.out.Write(data); err != nil {
		return &problem{code: "file-error", message: "cannot write to standard output: " + cause(err), cause: err}
	}
	return nil
}

// resultBeside is [app.result] of a command that has written to t, and nothing where that was standard output.
func (a *app) resultBeside(t target, v any, show func(t *table)) error {
	if t.path == standard {
		return nil
	}
	return a.result(v, show)
}

// readInput is [readFile], or reads standard input for "-".
func (a *app) readInput(ctx context.Context, path string, max int64) ([]byte, error) {
	if path != standard {
		return readFile(ctx, path, max)
	}
	return unlessInterrupted(ctx, func() ([]byte, error) {
		b, err := io.ReadAll(io.LimitReader(a.in, max+1))
		if err != nil {
			return nil, fileProblem(err)
		}
		if int64(len(b)) > max {
			return nil, problemf("bad-file", "is it the right input?", "standard input is longer than %d KiB, which is more than such a file has", max>>10)
		}
		return b, nil
	})
}

// inputName is what an input is called in messages.
func inputName(path string) string {
	if path == standard {
		return "standard input"
	}
	return path
}

// readFull is readInput of something that cannot be empty.
func (a *app) readFull(ctx context.Context, path string, max int64) ([]byte, error) {
	b, err := a.readInput(ctx, path, max)
	if err == nil && len(b) == 0 {
		err = problemf("bad-file", "is it the right file?", "%s is empty", inputName(path))
	}
	return b, err
}

// oneStandard refuses a command line on which standard input is read twice.
func (a *app) oneStandard(cmd *cobra.Command, paths ...string) error {
	n := 0
	for _, p := range paths {
		if p == standard {
			n++
		}
	}
	if n > 1 {
		return a.usage(cmd, errors.New("standard input can be read once: give one of the files by name"))
	}
	return nil
}

// jwk is a key as RFC 7517 and 7518 write it. A private one is wiped.
type jwk struct {
	Kid    string   `json:"kid,omitempty"`
	Kty    string   `json:"kty"`
	KeyOps []string `json:"key_ops,omitempty"`

	N   api.Base64URL `json:"n,omitempty"`
	E   api.Base64URL `json:"e,omitempty"`
	Crv string        `json:"crv,omitempty"`
	X   api.Base64URL `json:"x,omitempty"`
	Y   api.Base64URL `json:"y,omitempty"`

	D  api.Base64URL `json:"d,omitempty"`
	P  api.Base64URL `json:"p,omitempty"`
	Q  api.Base64URL `json:"q,omitempty"`
	DP api.Base64URL `json:"dp,omitempty"`
	DQ api.Base64URL `json:"dq,omitempty"`
	QI api.Base64URL `json:"qi,omitempty"`
	K  api.Base64URL `json:"k,omitempty"`

	Others json.RawMessage `json:"oth,omitempty"`
}

// secp256k1 is the registered name (RFC 8812 section 3.1) of what the service calls P-256K.
const secp256k1 = "secp256k1"

var jwkLimits = strictjson.Limits{Bytes: maxKeyFile, Depth: 6, Elements: 64, Values: 256, StringBytes: 16 << 10, FoldNames: true}

// parseJWK reads a JWK. The errors hold nothing of it.
func parseJWK(text []byte) (jwk, error) {
	var k jwk
	if err := strictjson.Check(text, jwkLimits); err != nil {
		return k, fmt.Errorf("it is not the JSON of one key: %w", err)
	}
	err := json.Unmarshal(text, &k)
	k.Kty = shortType(k.Kty)
	if k.Crv == secp256k1 {
		k.Crv = engine.P256K
	}
	switch {
	case err != nil:
		err = errors.New("it is not the JSON of a key: a member is not of the right type, or not base64url without padding")
	case k.Kty == "":
		err = errors.New("its kty is not RSA, EC or oct")
	case len(k.Others) > 0 && string(k.Others) != "null":
		err = errors.New("it has more than two primes (oth), and such keys are not taken")
	default:
		return k, nil
	}
	k.material().Wipe()
	return jwk{}, err
}

// shortType is RSA, EC or oct for a key type in any case, with or without -HSM; "" for others.
func shortType(kty string) string {
	for _, t := range []string{"RSA", "EC", "oct"} {
		if strings.EqualFold(strings.TrimSuffix(strings.ToUpper(kty), "-HSM"), t) {
			return t
		}
	}
	return ""
}

func (k jwk) private() bool { return len(k.D)+len(k.K)+len(k.P)+len(k.Q) > 0 }

func (k jwk) material() engine.Material {
	return engine.Material{
		Type: map[string]engine.Type{"RSA": engine.RSA, "EC": engine.EC, "oct": engine.Oct}[k.Kty], Curve: k.Crv, N: k.N, E: k.E, X: k.X, Y: k.Y,
		D: secret.Take(k.D), P: secret.Take(k.P), Q: secret.Take(k.Q), DP: secret.Take(k.DP), DQ: secret.Take(k.DQ), QI: secret.Take(k.QI), K: secret.Take(k.K),
	}
}

// privateKey is a key from a file, on its way into an HSM. Wipe it.
type privateKey struct {
	engine.Material
	kty string   // RSA, EC or oct
	ops []string // what a JWK says that the key is for; may be nil
}

// imported is the key as an import sends it. It shares the secrets.
func (k privateKey) imported() api.ImportedKey {
	return api.ImportedKey{
		Kty: k.kty, N: k.N, E: k.E, Crv: k.Curve, X: k.X, Y: k.Y, D: k.D.Reveal(), P: k.P.Reveal(), Q: k.Q.Reveal(),
		DP: k.DP.Reveal(), DQ: k.DQ.Reveal(), QI: k.QI.Reveal(), K: k.K.Reveal(),
	}
}

// kind describes the key: "RSA 2048".
func (k privateKey) kind() string {
	switch k.kty {
	case "RSA":
		return fmt.Sprintf("RSA %d", new(big.Int).SetBytes(k.N).BitLen())
	case "EC":
		return "EC " + k.Curve
	}
	return fmt.Sprintf("oct %d", 8*k.K.Len())
}

// readPrivateKey reads a private or secret key: PEM (PKCS #8, encrypted or not, PKCS #1 or SEC 1) or a JWK; or with kty
// "oct" the bare bytes of a key. Another kty that is given must be that of the key.
func (a *app) readPrivateKey(ctx context.Context, file, kty string, passphraseFiles []string) (privateKey, error) {
	data, err := a.readFull(ctx, file, maxKeyFile)
	if err != nil {
		return privateKey{}, err
	}
	defer clear(data)
	if file != standard {
		a.warnIfReadable(file)
	}
	name := inputName(file)
	var key privateKey
	switch {
	case kty == "oct":
		if n := len(data); n != 16 && n != 24 && n != 32 {
			return privateKey{}, problemf("bad-key", "with --kty oct the file holds the bare bytes, without a line end; a JWK is read without --kty",
				"%s has %d bytes, and an oct key has 16, 24 or 32", name, n)
		}
		return privateKey{Material: engine.Material{Type: engine.Oct, K: secret.New(data)}, kty: "oct"}, nil
	case firstByte(data) == '{':
		k, err := parseJWK(data)
		if err != nil {
			return privateKey{}, problemf("bad-key", "give one private key as a JWK (RFC 7517), or as PEM", "%s: %v", name, err)
		}
		if !k.private() {
			return privateKey{}, problemf("bad-key", "give the JWK with its private part", "%s: there is no private key in it", name)
		}
		key = privateKey{Material: k.material(), kty: k.Kty, ops: k.KeyOps}
	default:
		if key, err = a.readPEM(ctx, name, data, passphraseFiles); err != nil {
			return privateKey{}, err
		}
	}
	if kty != "" && kty != key.kty {
		defer key.Wipe()
		return privateKey{}, problemf("bad-key", "leave --kty out, or give the right file", "%s holds an %s key, and --kty is %s", name, key.kty, kty)
	}
	return key, nil
}

func firstByte(data []byte) byte {
	for _, b := range data {
		if b != ' ' && b != '\t' && b != '\r' && b != '\n' {
			return b
		}
	}
	return 0
}

func (a *app) readPEM(ctx context.Context, name string, data []byte, passphraseFiles []string) (privateKey, error) {
	passphrases, err := a.readPassphrases(ctx, passphraseFiles)
	if err != nil {
		return privateKey{}, err
	}
	type form struct {
		label string
		der   secret.Bytes
	}
	found, err := openWith(ctx, name, passphrases, func(p []secret.Bytes) (form, error) {
		label, der, err := custodian.PrivateDER(data, p)
		return form{label, der}, err
	})
	if err != nil {
		return privateKey{}, err
	}
	defer found.der.Wipe()
	m, err := software.ParsePrivate(found.label, found.der)
	if err != nil {
		return privateKey{}, keyMaterialProblem(name, err)
	}
	return privateKey{Material: m, kty: shortType(string(m.Type))}, nil
}

// lastPart is what the engine says behind the kind of its error, and holds nothing of a key.
func lastPart(err error) string {
	_, why, _ := strings.Cut(err.Error(), ": ") // engine: the key material is not sound: …
	if _, rest, more := strings.Cut(why, ": "); more {
		return rest
	}
	return why
}

// keyMaterialProblem says why a key is not taken.
func keyMaterialProblem(name string, err error) error {
	return &problem{code: "bad-key", message: fmt.Sprintf("%s: the key is not taken: %s", name, lastPart(err)),
		next: "an HSM takes RSA keys of 2048, 3072 or 4096 bits, EC keys on P-256, P-256K, P-384 or P-521, and oct keys of 128, 192 or 256 bits", cause: err}
}

// fieldBytes are the lengths of coordinates (RFC 7518 section 6.2.1.2).
var fieldBytes = map[string]int{engine.P256: 32, engine.P256K: 32, engine.P384: 48, engine.P521: 66}

// publicJWK is the public part of a key in the form of RFC 7517, with the names that other software knows.
func publicJWK(k api.JSONWebKey) (jwk, error) {
	out := jwk{Kid: k.Kid, Kty: shortType(k.Kty), N: k.N, E: k.E, Crv: k.Crv, X: k.X, Y: k.Y}
	switch {
	case out.Kty == "RSA" && len(k.N) > 0 && len(k.E) > 0 && new(big.Int).SetBytes(k.E).BitLen() < 32:
	case out.Kty == "EC" && len(k.X) > 0 && len(k.X) == fieldBytes[k.Crv] && len(k.Y) == len(k.X):
	case out.Kty == "oct":
		return jwk{}, problemf("no-public-part", "show it without --format", "an oct key has no public part")
	default:
		return jwk{}, problemf("bad-answer", "check that --url is the address of an HSM", "the HSM gives no public part that is understood")
	}
	if out.Crv == engine.P256K {
		out.Crv = secp256k1
	}
	return out, nil
}

// thumbprint is that of RFC 7638 with SHA-256; "" for an oct key.
func (k jwk) thumbprint() string {
	var text string
	b64 := base64.RawURLEncoding.EncodeToString
	switch k.Kty {
	case "RSA":
		text = `{"e":"` + b64(k.E) + `","kty":"RSA","n":"` + b64(k.N) + `"}`
	case "EC":
		crv, _ := json.Marshal(k.Crv)
		text = `{"crv":` + string(crv) + `,"kty":"EC","x":"` + b64(k.X) + `","y":"` + b64(k.Y) + `"}`
	default:
		return ""
	}
	sum := sha256.Sum256([]byte(text))
	return b64(sum[:])
}

// curveOIDs are the curves by their names in JWKs: RFC 5480 section 2.1.1.1 and SEC 2 appendix A.2.
var curveOIDs = map[string]asn1.ObjectIdentifier{
	"P-256": {1, 2, 840, 10045, 3, 1, 7}, "P-384": {1, 3, 132, 0, 34}, "P-521": {1, 3, 132, 0, 35}, secp256k1: {1, 3, 132, 0, 10},
}

// publicText is the public part of a key as a file in the format jwk or pem. The PEM of EC keys is put together here,
// because crypto/x509 does not know P-256K.
func publicText(k api.JSONWebKey, format string) ([]byte, error) {
	public, err := publicJWK(k)
	if err != nil {
		return nil, err
	}
	if format == "jwk" {
		text, err := json.MarshalIndent(public, "", "  ")
		return append(text, '\n'), err
	}
	var der []byte
	if public.Kty == "RSA" {
		der, err = x509.MarshalPKIXPublicKey(&rsa.PublicKey{N: new(big.Int).SetBytes(public.N), E: int(new(big.Int).SetBytes(public.E).Int64())})
	} else {
		point := slices.Concat([]byte{4}, public.X, public.Y)
		var curve []byte
		if curve, err = asn1.Marshal(curveOIDs[public.Crv]); err == nil {
			der, err = asn1.Marshal(struct {
				Algorithm pkix.AlgorithmIdentifier
				Key       asn1.BitString
			}{pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{1, 2, 840, 10045, 2, 1}, Parameters: asn1.RawValue{FullBytes: curve}},
				asn1.BitString{Bytes: point, BitLength: 8 * len(point)}})
		}
	}
	if err != nil {
		return nil, &problem{code: "bad-answer", message: "the public part that the HSM gives cannot be written as PEM", next: "check that --url is the address of an HSM", cause: err}
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), nil
}

// readReceiver reads the public part of an RSA key that receives keys, as PEM or JWK, and its kid if the file has it.
func (a *app) readReceiver(ctx context.Context, file string) (*rsa.PublicKey, string, error) {
	data, err := a.readFull(ctx, file, maxKeyFile)
	if err != nil {
		return nil, "", err
	}
	name := inputName(file)
	key, kid, err := parseReceiver(data)
	switch {
	case errors.Is(err, custodian.ErrIsPrivateKey):
		clear(data)
		return nil, "", problemf("bad-key", "give the public part of the receiving key: strongroom key show NAME --format jwk", "%s: the file holds a private key, and a public one is needed", name)
	case err != nil:
		return nil, "", problemf("bad-key", "write it anew with: strongroom key show NAME --format jwk", "%s: %v", name, err)
	case key == nil:
		return nil, "", problemf("bad-key", "only RSA keys receive keys: strongroom key create NAME --kty RSA --ops import", "%s is not the public part of an RSA key of 2048, 3072 or 4096 bits", name)
	}
	return key, kid, nil
}

// parseReceiver returns nil for a public key of another type or size.
func parseReceiver(data []byte) (*rsa.PublicKey, string, error) {
	if firstByte(data) == '{' {
		k, err := parseJWK(data)
		if err != nil {
			return nil, "", err
		}
		if k.private() {
			return nil, "", custodian.ErrIsPrivateKey
		}
		e := new(big.Int).SetBytes(k.E)
		if k.Kty != "RSA" || len(k.N) > 1<<10 || !e.IsInt64() || e.Int64() < 3 || e.Int64() > 1<<31-1 {
			return nil, "", nil
		}
		return ofReceivingSize(&rsa.PublicKey{N: new(big.Int).SetBytes(k.N), E: int(e.Int64())}), k.Kid, nil
	}
	block, _ := pem.Decode(data)
	switch {
	case block != nil && strings.HasSuffix(block.Type, "PRIVATE KEY"):
		clear(block.Bytes)
		return nil, "", custodian.ErrIsPrivateKey
	case block == nil || block.Type != "PUBLIC KEY":
		return nil, "", errors.New("there is no public key in it, as PEM or JWK")
	}
	public, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, "", errors.New("the public key is damaged, or of a kind that is not known here")
	}
	key, _ := public.(*rsa.PublicKey)
	return ofReceivingSize(key), "", nil
}

func ofReceivingSize(key *rsa.PublicKey) *rsa.PublicKey {
	if key == nil || !slices.Contains(rsaBits, key.N.BitLen()) {
		return nil
	}
	return key
}

// checkKid demands the identifier of a version of a key, https://HOST/keys/NAME/VERSION.
func (a *app) checkKid(cmd *cobra.Command, kid string) error {
	u, err := url.Parse(kid)
	name, version := splitKid(kid)
	if err != nil || u.Scheme != "https" || u.Host == "" || !keyName.MatchString(name) || len(version) != 32 || u.Path != "/keys/"+name+"/"+version {
		return a.usage(cmd, fmt.Errorf("--kid %q is not the identifier of a version of a key, https://HOST/keys/NAME/VERSION: take it from key show", kid))
	}
	return nil
}
