package cli

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"strongroom/internal/api"
	"strongroom/internal/client"
	"strongroom/internal/engine"
	"strongroom/internal/strictjson"
)

// Bounds in bytes. A request has at most 64 KiB, in which a value of 47 KiB fits as text.
const (
	maxPlaintext      = 47 << 10
	maxCiphertextFile = 160 << 10
)

// cipherNames are the algorithms that encrypt and wrap, as engine says what they are.
var cipherNames = []string{
	engine.RSAOAEP256, engine.RSAOAEP, engine.RSA15,
	engine.A128GCM, engine.A192GCM, engine.A256GCM, engine.A128CBC, engine.A192CBC, engine.A256CBC, engine.A128CBCPAD, engine.A192CBCPAD, engine.A256CBCPAD,
	engine.A128KW, engine.A192KW, engine.A256KW, engine.AESKeyWrap, engine.AESKeyWrapPad,
}

func isGCM(alg string) bool { return strings.HasSuffix(alg, "GCM") }
func isCBC(alg string) bool { return strings.HasSuffix(alg, "CBC") || strings.HasSuffix(alg, "CBCPAD") }

// defaultCipher is how a key encrypts, or wraps another key.
func defaultCipher(b api.KeyBundle, wrap bool) (string, error) {
	switch kty, bits := shortType(b.Key.Kty), b.Attributes.KeySize; {
	case kty == "RSA":
		return engine.RSAOAEP256, nil
	case kty == "EC":
		return "", problemf("wrong-key-type", "take an RSA or an oct key: strongroom key create NAME --kty oct", "an EC key signs, and neither encrypts nor wraps")
	case kty == "oct" && bits > 0 && wrap:
		return "A" + strconv.Itoa(bits) + "KW", nil
	case kty == "oct" && bits > 0:
		return "A" + strconv.Itoa(bits) + "GCM", nil
	}
	return "", problemf("no-algorithm", "give --alg", "the HSM does not say how large the key is, so it is not clear how it encrypts")
}

// ciphertextFile is what encrypt and wrap write (docs: formats). It has all that decrypting needs, and nothing secret.
type ciphertextFile struct {
	Format  string        `json:"format"`
	Version int           `json:"version"`
	Alg     string        `json:"alg"`
	Kid     string        `json:"kid"`
	IV      api.Base64URL `json:"iv,omitempty"`
	Tag     api.Base64URL `json:"tag,omitempty"`
	AAD     api.Base64URL `json:"aad,omitempty"`
	Value   api.Base64URL `json:"value"`
}

const (
	ciphertextFormat  = "strongroom-ciphertext"
	ciphertextVersion = 1
)

var ciphertextLimits = strictjson.Limits{Bytes: maxCiphertextFile, Depth: 1, Elements: 16, Values: 32, StringBytes: maxCiphertextFile, FoldNames: true}

// parseCiphertext reads a ciphertext file.
func parseCiphertext(text []byte) (ciphertextFile, error) {
	var c ciphertextFile
	if err := strictjson.Check(text, ciphertextLimits); err != nil {
		return c, fmt.Errorf("it begins as a ciphertext file and is none: %w", err)
	}
	var head struct {
		Format  string `json:"format"`
		Version int    `json:"version"`
	}
	if json.Unmarshal(text, &head) != nil || head.Format != ciphertextFormat {
		return c, errors.New("it is JSON, but not a ciphertext file of key encrypt or key wrap")
	}
	if head.Version != ciphertextVersion {
		return c, fmt.Errorf("it is a ciphertext file of version %d, and this program reads version %d", head.Version, ciphertextVersion)
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&c); err != nil || c.Alg == "" || c.Kid == "" || len(c.Value) == 0 {
		return ciphertextFile{}, errors.New("it is a damaged ciphertext file: a member is missing, not known, or not of the right type")
	}
	return c, nil
}

// ciphering is what the four commands have in common.
type ciphering struct {
	operation      string // of package client
	version, alg   string
	file           string
	raw            bool
	iv, tag, aad   string
	out            target
	ivs, tags, ads []byte // what iv, tag and aad say
}

func (c *ciphering) flags(cmd *cobra.Command, fileUsage, outUsage string) {
	flags := cmd.Flags()
	flags.StringVar(&c.file, "file", "", fileUsage+"; - is standard input")
	flags.StringVar(&c.alg, "alg", "", "algorithm; default: "+map[string]string{
		client.Encrypt: "RSA-OAEP-256 for RSA keys, A*GCM for oct keys by their size", client.Wrap: "RSA-OAEP-256 for RSA keys, A*KW for oct keys by their size",
	}[c.sealing()])
	flags.StringVar(&c.aad, "aad", "", "GCM: data that is not encrypted, but authenticated: base64url, or @FILE")
	c.out.flags(cmd, outUsage)
	versionFlag(cmd, &c.version)
	complete(cmd, "alg", cipherNames...)
	must(cmd.RegisterFlagCompletionFunc("aad", cobra.NoFileCompletions))
}

// sealing is the operation whose counterpart this may be.
func (c *ciphering) sealing() string {
	if c.operation == client.Wrap || c.operation == client.Unwrap {
		return client.Wrap
	}
	return client.Encrypt
}

func (c *ciphering) check(a *app, cmd *cobra.Command, name string) error {
	if err := a.checkKey(cmd, name, c.version); err != nil {
		return err
	}
	if c.alg != "" {
		known := ""
		for _, n := range cipherNames {
			if strings.EqualFold(n, c.alg) {
				known = n
			}
		}
		if known == "" {
			return a.usage(cmd, fmt.Errorf("--alg %q is not known: use one of %s", c.alg, strings.Join(cipherNames, ", ")))
		}
		c.alg = known
	}
	inputs := []string{c.file}
	for _, p := range []struct {
		flag, text string
		to         *[]byte
	}{{"iv", c.iv, &c.ivs}, {"tag", c.tag, &c.tags}, {"aad", c.aad, &c.ads}} {
		if path, isFile := strings.CutPrefix(p.text, "@"); isFile {
			inputs = append(inputs, path)
		}
		var err error
		if *p.to, err = a.parameter(cmd, p.flag, p.text); err != nil {
			return err
		}
	}
	return a.checkOut(cmd, c.out, inputs...)
}

// maxParameter bounds iv, tag and aad, in bytes.
const maxParameter = 16 << 10

// parameter is what a flag says: base64url without padding, or @FILE.
func (a *app) parameter(cmd *cobra.Command, flag, text string) ([]byte, error) {
	if path, isFile := strings.CutPrefix(text, "@"); isFile {
		return a.readFull(cmd.Context(), path, maxParameter)
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || strings.ContainsAny(text, "\r\n") {
		return nil, a.usage(cmd, fmt.Errorf("--%s %q is not base64url without padding; to name a file, write --%s @FILE", flag, text, flag))
	}
	return b, nil
}

// unsuited refuses what an algorithm has no use for: whoever gives it believes that it protects something.
func (c *ciphering) unsuited(a *app, cmd *cobra.Command) error {
	switch {
	case len(c.ads) > 0 && !isGCM(c.alg):
		return a.usage(cmd, fmt.Errorf("--aad is for GCM, and %s does not authenticate it", c.alg))
	case len(c.tags) > 0 && !isGCM(c.alg):
		return a.usage(cmd, fmt.Errorf("--tag is for GCM, and %s has none", c.alg))
	case len(c.ivs) > 0 && !isGCM(c.alg) && !isCBC(c.alg):
		return a.usage(cmd, fmt.Errorf("--iv is for GCM and CBC, and %s has none", c.alg))
	}
	return nil
}

// find sets the algorithm where none was given.
func (c *ciphering) find(ctx context.Context, hsm *client.HSM, name string) error {
	if c.alg != "" {
		return nil
	}
	key, err := hsm.Key(ctx, name, c.version)
	if err != nil {
		return err
	}
	c.alg, err = defaultCipher(key, c.sealing() == client.Wrap)
	if p, ok := errors.AsType[*problem](err); ok && p.code == "wrong-key-type" && c.operation != c.sealing() {
		p.next = "give the RSA or oct key that encrypted it: strongroom key list"
	}
	return err
}

func (a *app) keyEncryptCommand() *cobra.Command {
	c := &ciphering{operation: client.Encrypt}
	cmd := a.verb("encrypt NAME", "Encrypt a small file", `Has the HSM encrypt a file of at most 47 KiB (an RSA key takes some hundred bytes). The ciphertext file is a small JSON that
has all that "key decrypt" needs: it works after the key was rotated too. With --raw it is the bare ciphertext.

For larger files make a key of their own (key rng), encrypt them with it, and wrap that key (key wrap).`, 1,
		func(cmd *cobra.Command, args []string) error { return a.encrypt(cmd, args[0], c) })
	return a.sealFlags(cmd, c, "file to encrypt", "file to write the ciphertext to")
}

func (a *app) keyWrapCommand() *cobra.Command {
	c := &ciphering{operation: client.Wrap}
	cmd := a.verb("wrap NAME", "Wrap a key", `As encrypt, for a file that is a key: it needs the operation wrapKey in place of encrypt. A*KW takes keys of a multiple of
8 bytes; CKM_AES_KEY_WRAP_PAD those of any length.`, 1,
		func(cmd *cobra.Command, args []string) error { return a.encrypt(cmd, args[0], c) })
	return a.sealFlags(cmd, c, "file with the key to wrap", "file to write the wrapped key to")
}

func (a *app) sealFlags(cmd *cobra.Command, c *ciphering, fileUsage, outUsage string) *cobra.Command {
	c.flags(cmd, fileUsage, outUsage)
	cmd.Flags().BoolVar(&c.raw, "raw", false, "write the bare ciphertext; IV and tag are in what is printed")
	cmd.Flags().StringVar(&c.iv, "iv", "", "CBC: the initialisation vector, base64url or @FILE; default: a random one")
	must(cmd.RegisterFlagCompletionFunc("iv", cobra.NoFileCompletions))
	return a.connected(a.requireFlags(cmd, "file", "out"), settingURL)
}

func (a *app) encrypt(cmd *cobra.Command, name string, c *ciphering) error {
	if err := c.check(a, cmd, name); err != nil {
		return err
	}
	plaintext, err := a.readFull(cmd.Context(), c.file, maxPlaintext)
	if err != nil {
		return tooLong(err)
	}
	defer clear(plaintext)
	hsm, err := a.hsm(cmd)
	if err != nil {
		return err
	}
	if err := c.find(cmd.Context(), hsm, name); err != nil {
		return err
	}
	if err := c.unsuited(a, cmd); err != nil {
		return err
	}
	switch hasIV := isGCM(c.alg) || isCBC(c.alg); {
	case isGCM(c.alg) && len(c.ivs) > 0:
		return a.usage(cmd, errors.New("--iv cannot be given for GCM: the HSM makes it, as one that came twice would betray the key"))
	case hasIV && c.raw && c.out.path == standard:
		return a.usage(cmd, fmt.Errorf("--raw to standard output would lose the IV of %s: give --out FILE", c.alg))
	case isCBC(c.alg) && len(c.ivs) == 0:
		c.ivs = make([]byte, engine.CBCIVSize)
		if _, err := io.ReadFull(a.rand, c.ivs); err != nil {
			return fmt.Errorf("draw an initialisation vector: %w", err)
		}
	}
	got, err := hsm.Encrypt(cmd.Context(), c.operation, name, c.version, api.KeyOperationRequest{Alg: c.alg, Value: plaintext, IV: c.ivs, AAD: c.ads})
	if err != nil {
		return err
	}
	if isCBC(c.alg) {
		got.IV = c.ivs // what was sent is what counts
	}
	// The plaintext may be gone after this: better no file than one that cannot be decrypted.
	if of, version := splitKid(got.Kid); !strings.EqualFold(of, name) || len(version) != 32 || len(got.Value) == 0 ||
		isGCM(c.alg) && (len(got.IV) != engine.GCMIVSize || len(got.Tag) != engine.GCMTagSize) {
		return fmt.Errorf("%w: it holds no ciphertext", client.ErrAnswer)
	}
	file := ciphertextFile{Format: ciphertextFormat, Version: ciphertextVersion, Alg: c.alg, Kid: got.Kid, IV: got.IV, Tag: got.Tag, AAD: c.ads, Value: got.Value}
	data := []byte(got.Value)
	if !c.raw {
		if data, err = json.MarshalIndent(file, "", "  "); err != nil {
			return err
		}
		data = append(data, '\n')
	}
	if err := a.writeOut(c.out, data, publicFile); err != nil {
		return err
	}
	_, version := splitKid(got.Kid)
	result := struct {
		Kid        string        `json:"kid"`
		Version    string        `json:"version"`
		Algorithm  string        `json:"alg"`
		IV         api.Base64URL `json:"iv,omitempty"`
		Tag        api.Base64URL `json:"tag,omitempty"`
		Ciphertext string        `json:"ciphertext"`
	}{got.Kid, version, c.alg, got.IV, got.Tag, c.out.path}
	return a.resultBeside(c.out, result, func(t *table) {
		t.field("ciphertext", c.out.path)
		t.field("algorithm", c.alg)
		if c.raw {
			t.field("iv", base64.RawURLEncoding.EncodeToString(got.IV))
			t.field("tag", base64.RawURLEncoding.EncodeToString(got.Tag))
		}
		t.field("kid", got.Kid)
	})
}

// tooLong says what to do with a file that an HSM does not take.
func tooLong(err error) error {
	if p, ok := errors.AsType[*problem](err); ok && strings.Contains(p.message, "than such a file has") {
		return problemf("bad-file", "make a key with key rng, encrypt the file with it, and wrap that key with key wrap", "the file is larger than %d KiB, and an HSM takes no more at once", maxPlaintext>>10)
	}
	return err
}

func (a *app) keyDecryptCommand() *cobra.Command {
	c := &ciphering{operation: client.Decrypt}
	cmd := a.verb("decrypt NAME", "Decrypt a file", `Decrypts what "key encrypt" wrote: algorithm, version of the key, IV and tag are in the file. A flag that is given besides
must agree with it. A bare ciphertext needs --key-version if the key has been rotated since, --alg where it is not the
default, and --iv, --tag and --aad where the algorithm has them.`, 1,
		func(cmd *cobra.Command, args []string) error { return a.decrypt(cmd, args[0], c) })
	return a.openFlags(cmd, c, "file with the ciphertext", "file to write the plaintext to")
}

func (a *app) keyUnwrapCommand() *cobra.Command {
	c := &ciphering{operation: client.Unwrap}
	cmd := a.verb("unwrap NAME", "Unwrap a key", `As decrypt, for what "key wrap" wrote: it needs the operation unwrapKey in place of decrypt.`, 1,
		func(cmd *cobra.Command, args []string) error { return a.decrypt(cmd, args[0], c) })
	return a.openFlags(cmd, c, "file with the wrapped key", "file to write the key to")
}

func (a *app) openFlags(cmd *cobra.Command, c *ciphering, fileUsage, outUsage string) *cobra.Command {
	c.flags(cmd, fileUsage, outUsage)
	cmd.Flags().BoolVar(&c.raw, "raw", false, "the file is a bare ciphertext, even if it begins like JSON")
	cmd.Flags().StringVar(&c.iv, "iv", "", "GCM and CBC: the initialisation vector of a bare ciphertext, base64url or @FILE")
	cmd.Flags().StringVar(&c.tag, "tag", "", "GCM: the authentication tag of a bare ciphertext, base64url or @FILE")
	for _, name := range []string{"iv", "tag"} {
		must(cmd.RegisterFlagCompletionFunc(name, cobra.NoFileCompletions))
	}
	return a.connected(a.requireFlags(cmd, "file", "out"), settingURL)
}

func (a *app) decrypt(cmd *cobra.Command, name string, c *ciphering) error {
	if err := c.check(a, cmd, name); err != nil {
		return err
	}
	data, err := a.readFull(cmd.Context(), c.file, maxCiphertextFile)
	if err != nil {
		return err
	}
	value := data
	if !c.raw && data[0] == '{' {
		file, err := parseCiphertext(data)
		if err != nil {
			return problemf("bad-ciphertext", "fetch another copy; a bare ciphertext that begins with a brace needs --raw", "%s: %v", inputName(c.file), err)
		}
		if err := c.take(file, name); err != nil {
			return err
		}
		value = file.Value
		a.missing = "see its versions with: strongroom key versions " + name
	}
	hsm, err := a.hsm(cmd)
	if err != nil {
		return err
	}
	if err := c.find(cmd.Context(), hsm, name); err != nil {
		return err
	}
	if err := c.unsuited(a, cmd); err != nil {
		return err
	}
	switch {
	case isGCM(c.alg) && (len(c.ivs) == 0 || len(c.tags) == 0):
		return a.usage(cmd, fmt.Errorf("a bare ciphertext of %s needs --iv and --tag, as encrypting printed them", c.alg))
	case isCBC(c.alg) && len(c.ivs) == 0:
		return a.usage(cmd, fmt.Errorf("a bare ciphertext of %s needs --iv, as encrypting printed it", c.alg))
	}
	plaintext, kid, err := hsm.Decrypt(cmd.Context(), c.operation, name, c.version, api.KeyOperationRequest{Alg: c.alg, Value: value, IV: c.ivs, AAD: c.ads, Tag: c.tags})
	if err != nil {
		return err
	}
	defer plaintext.Wipe()
	if err := a.writeOut(c.out, plaintext.Reveal(), secretFile); err != nil {
		return err
	}
	result := struct {
		Kid       string `json:"kid"`
		Algorithm string `json:"alg"`
		Plaintext string `json:"plaintext"`
		Bytes     int    `json:"bytes"`
	}{kid, c.alg, c.out.path, plaintext.Len()}
	return a.resultBeside(c.out, result, func(t *table) {
		t.field(map[string]string{client.Decrypt: "plaintext", client.Unwrap: "key"}[c.operation], c.out.path)
		t.field("algorithm", c.alg)
		t.field("kid", kid)
	})
}

// take fills in what a ciphertext file says, and holds what the command line says against it. The host of its kid is
// left out: a key may have been restored on another HSM, and keeps its name and versions there.
func (c *ciphering) take(file ciphertextFile, name string) error {
	disagree := func(flag, what string) error {
		return problemf("bad-ciphertext", "leave "+flag+" out, or check that it is the right file", "%s was encrypted %s", inputName(c.file), what)
	}
	of, version := splitKid(file.Kid)
	switch {
	case !keyName.MatchString(of) || len(version) != 32 || !keyVersion.MatchString(version):
		return problemf("bad-ciphertext", "fetch another copy", "%s names no version of a key in its kid", inputName(c.file))
	case !slices.Contains(cipherNames, file.Alg):
		return problemf("bad-ciphertext", "fetch another copy, or a newer strongroom", "%s was encrypted with an algorithm that is not known here", inputName(c.file))
	case !strings.EqualFold(of, name):
		return problemf("bad-ciphertext", "give that name", "%s was encrypted with the key %s, and not with %s", inputName(c.file), of, name)
	case c.version != "" && !strings.EqualFold(c.version, version):
		return disagree("--key-version", "with version "+version)
	case c.alg != "" && c.alg != file.Alg:
		return disagree("--alg", "with another algorithm")
	case c.iv != "" && !bytes.Equal(c.ivs, file.IV):
		return disagree("--iv", "with another IV")
	case c.tag != "" && !bytes.Equal(c.tags, file.Tag):
		return disagree("--tag", "to another tag")
	case c.aad != "" && !bytes.Equal(c.ads, file.AAD):
		return disagree("--aad", "with other authenticated data")
	}
	c.version, c.alg, c.ivs, c.tags, c.ads = version, file.Alg, file.IV, file.Tag, file.AAD
	return nil
}
