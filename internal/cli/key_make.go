package cli

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"strongroom/internal/api"
	"strongroom/internal/client"
	"strongroom/internal/engine"
	"strongroom/internal/engine/software"
	"strongroom/internal/strictjson"
)

// Bounds of small files, in bytes: the server takes no larger ones.
const (
	maxPolicyFile   = 10 << 10
	maxTransferFile = 16 << 10
)

var (
	curves   = []string{"P-256", "P-256K", "P-384", "P-521"}
	allOps   = []string{"sign", "verify", "encrypt", "decrypt", "wrapKey", "unwrapKey", "import", "export"}
	rsaBits  = []int{2048, 3072, 4096}
	octBits  = []int{128, 192, 256}
	jsonCaps = strictjson.Limits{Bytes: maxTransferFile, Depth: 16, Elements: 256, Values: 1024, StringBytes: maxTransferFile, FoldNames: true}
)

const (
	defaultRSABits = 3072
	defaultOctBits = 256
)

// keyWords are what the API calls the flags of create, import and set.
var keyWords = []string{
	"exp must be later than nbf", "--expires must be later than --not-before", "the curve that crv names", "the curve that --curve names",
	"key_ops", "--ops", "release_policy", "--release-policy", "key_size", "--bits", "public_exponent", "--exponent",
}

// newKey is what create and import say about the key besides its material.
type newKey struct {
	ops                []string
	tags               map[string]string
	enabled, disabled  bool
	notBefore, expires string
	exportable         bool
	policy             string
	immutable          bool
}

func (n *newKey) flags(cmd *cobra.Command, opsUsage string) {
	flags := cmd.Flags()
	flags.StringSliceVar(&n.ops, "ops", nil, opsUsage)
	complete(cmd, "ops", allOps...)
	n.stateFlags(cmd, "`NAME=VALUE` to keep with the key; may be given several times")
	flags.BoolVar(&n.exportable, "exportable", false, "the key may be released, under a --release-policy; holds for all versions")
	n.policyFlags(cmd)
}

// stateFlags are those that can be changed later too.
func (n *newKey) stateFlags(cmd *cobra.Command, tagUsage string) {
	flags := cmd.Flags()
	flags.StringToStringVar(&n.tags, "tag", nil, tagUsage)
	flags.Lookup("tag").DefValue = "" // else help says that the default is []
	flags.BoolVar(&n.enabled, "enabled", false, "the key can be used")
	flags.BoolVar(&n.disabled, "disabled", false, "the key cannot be used until it is enabled")
	flags.StringVar(&n.notBefore, "not-before", "", "when it can be used first: in the same way as --expires")
	flags.StringVar(&n.expires, "expires", "", "when it can no longer sign or encrypt: a time such as 2027-01-31T12:00:00Z, or from now, such as 12h or 90d")
	for _, name := range []string{"tag", "not-before", "expires"} {
		must(cmd.RegisterFlagCompletionFunc(name, cobra.NoFileCompletions))
	}
}

func (n *newKey) policyFlags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&n.policy, "release-policy", "", "file with the JSON that says when the key may be released")
	cmd.Flags().BoolVar(&n.immutable, "immutable", false, "the release policy can never be changed")
}

// attributes are nil where nothing was said.
func (n *newKey) attributes(a *app, cmd *cobra.Command) (*api.KeyAttributes, error) {
	var attributes api.KeyAttributes
	if n.enabled && n.disabled {
		return nil, a.usage(cmd, errors.New("give --enabled or --disabled, not both"))
	}
	if n.enabled || n.disabled {
		attributes.Enabled = &n.enabled
	}
	var err error
	if attributes.NotBefore, err = a.moment(cmd, "not-before", n.notBefore); err != nil {
		return nil, err
	}
	if attributes.Expires, err = a.moment(cmd, "expires", n.expires); err != nil {
		return nil, err
	}
	if attributes.NotBefore != nil && attributes.Expires != nil && *attributes.Expires <= *attributes.NotBefore {
		return nil, a.usage(cmd, errors.New("--expires must be later than --not-before, or the key could never be used"))
	}
	if n.exportable {
		attributes.Exportable = &n.exportable
	}
	if attributes == (api.KeyAttributes{}) {
		return nil, nil
	}
	return &attributes, nil
}

// release reads the release policy, nil where none was given.
func (n *newKey) release(ctx context.Context, a *app, cmd *cobra.Command) (*api.ReleasePolicy, error) {
	if n.immutable && n.policy == "" {
		return nil, a.usage(cmd, errors.New("--immutable is for a --release-policy"))
	}
	if n.policy == "" {
		return nil, nil
	}
	text, err := a.readFull(ctx, n.policy, maxPolicyFile)
	if err != nil {
		return nil, err
	}
	if err := strictjson.Check(text, jsonCaps); err != nil {
		return nil, problemf("bad-file", "see docs/keys.md for an example", "%s: it is not the JSON of a release policy: %v", inputName(n.policy), err)
	}
	return &api.ReleasePolicy{Data: text, Immutable: &n.immutable}, nil
}

// checkNew is what a new key must be besides.
func (n *newKey) checkNew(a *app, cmd *cobra.Command) error {
	switch {
	case n.exportable && n.policy == "":
		return a.usage(cmd, errors.New("--exportable needs a --release-policy, which says when the key may leave"))
	case !n.exportable && n.policy != "":
		return a.usage(cmd, errors.New("--release-policy is for --exportable keys"))
	case cmd.Flags().Changed("ops") && len(n.ops) == 0:
		return a.usage(cmd, errors.New("--ops names no operation: leave it out for all of the key's type"))
	}
	return nil
}

// fromNow is a length of time as people write it.
var fromNow = regexp.MustCompile(`^([0-9]{1,5})([hdwy])$`)

// units are in hours; a year has 365 days, as in rotation policies.
var units = map[string]int{"h": 1, "d": 24, "w": 7 * 24, "y": 365 * 24}

// moment reads a time, or a length of time from now, as Unix seconds; nil for none.
func (a *app) moment(cmd *cobra.Command, flag, text string) (*int64, error) {
	if text == "" {
		if cmd.Flags().Changed(flag) {
			return nil, a.usage(cmd, fmt.Errorf("--%s is empty", flag))
		}
		return nil, nil
	}
	if parts := fromNow.FindStringSubmatch(text); parts != nil {
		n, _ := strconv.Atoi(parts[1])
		at := a.now().Add(time.Duration(n*units[parts[2]]) * time.Hour).Unix()
		a.warnIfPast(flag, at)
		return &at, nil
	}
	for _, layout := range []string{time.RFC3339, time.DateOnly} {
		if t, err := time.Parse(layout, text); err == nil {
			at := t.Unix()
			a.warnIfPast(flag, at)
			return &at, nil
		}
	}
	return nil, a.usage(cmd, fmt.Errorf("--%s %q is no time: write 2027-01-31T12:00:00Z, or a length of time from now such as 12h, 90d, 6w or 1y", flag, text))
}

// warnIfPast tells of a time that has come already: the HSM takes it, and it may be meant.
func (a *app) warnIfPast(flag string, at int64) {
	switch {
	case at > a.now().Unix():
	case flag == "expires":
		a.warn("--expires is not in the future: the key has expired, and cannot sign or encrypt")
	default:
		a.warn("--%s is not in the future, and keeps nobody from using the key", flag)
	}
}

func (a *app) keyCreateCommand() *cobra.Command {
	var (
		kty, curve     string
		bits, exponent int
		about          newKey
	)
	cmd := a.verb("create NAME", "Make a key", `Makes a key, or a new version of the key of that name.

A key that receives other keys (import --byok) is made with --kty RSA --ops import, and does nothing else.`, 1,
		func(cmd *cobra.Command, args []string) error {
			if err := a.checkKey(cmd, args[0], ""); err != nil {
				return err
			}
			request := api.CreateKeyRequest{Kty: shortType(kty), KeyOps: about.ops, Tags: about.tags}
			changed := cmd.Flags().Changed
			wrong := func(format string, args ...any) error { return a.usage(cmd, fmt.Errorf(format, args...)) }
			switch request.Kty {
			case "EC":
				if changed("bits") {
					return wrong("--bits is for RSA and oct keys; an EC key has a --curve")
				}
				if !slices.Contains(curves, curve) {
					return wrong("--curve %q is not known: use one of %s", curve, strings.Join(curves, ", "))
				}
				request.Crv = curve
			case "RSA", "oct":
				if changed("curve") {
					return wrong("--curve is for EC keys; an %s key has --bits", request.Kty)
				}
				known, usual := rsaBits, defaultRSABits
				if request.Kty == "oct" {
					known, usual = octBits, defaultOctBits
				}
				if request.KeySize = bits; !changed("bits") {
					request.KeySize = usual
				}
				if !slices.Contains(known, request.KeySize) {
					return wrong("an %s key has %d, %d or %d bits, and not %d", request.Kty, known[0], known[1], known[2], bits)
				}
			default:
				return wrong("--kty %q is not known: use EC, RSA or oct", kty)
			}
			if changed("exponent") {
				if request.Kty != "RSA" {
					return wrong("--exponent is for RSA keys")
				}
				if exponent < 65537 || exponent%2 == 0 || exponent > 1<<31-1 {
					return wrong("--exponent is odd, at least 65537 and at most 2147483647, and not %d", exponent)
				}
				request.PublicExponent = exponent
			}
			if err := about.checkNew(a, cmd); err != nil {
				return err
			}
			var err error
			if request.Attributes, err = about.attributes(a, cmd); err != nil {
				return err
			}
			if request.ReleasePolicy, err = about.release(cmd.Context(), a, cmd); err != nil {
				return err
			}
			hsm, err := a.hsm(cmd)
			if err != nil {
				return err
			}
			key, err := hsm.CreateKey(cmd.Context(), args[0], request)
			if err != nil {
				return inOwnWords(err, keyWords...)
			}
			view := viewKey(key)
			view.Bits = request.KeySize // not in the answer of an oct key
			return a.showView(view)
		})
	flags := cmd.Flags()
	flags.StringVar(&kty, "kty", "EC", "type of key: EC, RSA or oct (AES and HMAC)")
	flags.StringVar(&curve, "curve", "P-256", "EC: P-256, P-256K, P-384 or P-521")
	flags.IntVar(&bits, "bits", 0, "RSA: 2048, 3072 (default) or 4096; oct: 128, 192 or 256 (default)")
	flags.IntVar(&exponent, "exponent", 65537, "RSA: public exponent")
	about.flags(cmd, "operations that the key may do; default: all of its type")
	complete(cmd, "kty", "EC", "RSA", "oct")
	complete(cmd, "curve", curves...)
	complete(cmd, "bits", "2048", "3072", "4096", "128", "192", "256")
	must(cmd.RegisterFlagCompletionFunc("exponent", cobra.NoFileCompletions))
	return a.connected(cmd, settingURL)
}

func (a *app) keyImportCommand() *cobra.Command {
	var (
		file, byok, kty, curve string
		passphraseFiles        []string
		about                  newKey
	)
	cmd := a.verb("import NAME", "Bring a key from outside", `Brings a key into the HSM, or a new version of the key of that name. Where it comes from, it is still known.

--file is a private key as PEM (PKCS #8, encrypted or not, PKCS #1 or SEC 1) or as JWK; with --kty oct, the bare bytes
of a key. It goes to the HSM in the clear inside TLS.
--byok is a transfer blob: a key that was wrapped elsewhere for a key of this HSM, by "key wrap-for-import" or by the tool
of another HSM. Then --kty says which type of key is in it, and --curve on which curve an EC key is.`, 1,
		func(cmd *cobra.Command, args []string) error {
			if err := a.checkKey(cmd, args[0], ""); err != nil {
				return err
			}
			wrong := func(format string, args ...any) error { return a.usage(cmd, fmt.Errorf(format, args...)) }
			short := shortType(kty)
			switch {
			case (file == "") == (byok == ""):
				return wrong("give --file or --byok")
			case kty != "" && short == "":
				return wrong("--kty %q is not known: use EC, RSA or oct", kty)
			case byok != "" && short == "":
				return wrong("--byok needs --kty: EC, RSA or oct")
			case byok != "" && len(passphraseFiles) > 0:
				return wrong("--passphrase-file is for --file")
			case byok != "" && (short == "EC") != (curve != ""):
				return wrong("--curve is needed for an EC key in a transfer blob, and for no other")
			case byok == "" && curve != "":
				return wrong("--curve is for --byok: a file says it itself")
			case curve != "" && !slices.Contains(curves, curve):
				return wrong("--curve %q is not known: use one of %s", curve, strings.Join(curves, ", "))
			}
			if err := a.oneStandard(cmd, file, byok, about.policy); err != nil {
				return err
			}
			if err := about.checkNew(a, cmd); err != nil {
				return err
			}
			request := api.ImportKeyRequest{Tags: about.tags}
			var err error
			if request.Attributes, err = about.attributes(a, cmd); err != nil {
				return err
			}
			if request.ReleasePolicy, err = about.release(cmd.Context(), a, cmd); err != nil {
				return err
			}
			bits := 0
			if byok != "" {
				blob, err := a.readTransfer(cmd.Context(), byok)
				if err != nil {
					return err
				}
				request.Key = api.ImportedKey{Kty: short, Crv: curve, Transfer: blob}
			} else {
				key, err := a.readPrivateKey(cmd.Context(), file, short, passphraseFiles)
				if err != nil {
					return err
				}
				defer key.Wipe()
				request.Key, bits = key.imported(), 8*key.K.Len()
				request.Key.KeyOps = key.ops
			}
			if about.ops != nil {
				request.Key.KeyOps = about.ops
			}
			hsm, err := a.hsm(cmd)
			if err != nil {
				return err
			}
			key, err := hsm.ImportKey(cmd.Context(), args[0], request)
			if err != nil {
				return inOwnWords(err, keyWords...)
			}
			view := viewKey(key)
			view.Versions = a.sayVersions(cmd.Context(), hsm, args[0])
			if view.Bits == 0 {
				view.Bits = bits // not in the answer of an oct key
			}
			return a.showView(view)
		})
	flags := cmd.Flags()
	flags.StringVar(&file, "file", "", "file with the key; - is standard input")
	flags.StringVar(&byok, "byok", "", "file with a transfer blob; - is standard input")
	flags.StringVar(&kty, "kty", "", "type of key: EC, RSA or oct; default: what the file says")
	flags.StringVar(&curve, "curve", "", "with --byok: curve of an EC key")
	flags.StringArrayVar(&passphraseFiles, "passphrase-file", nil, "file with the passphrase of an encrypted key; may be given several times; default: ask")
	about.flags(cmd, "operations that the key may do; default: what a JWK says, or all of its type")
	complete(cmd, "kty", "EC", "RSA", "oct")
	complete(cmd, "curve", curves...)
	return a.connected(cmd, settingURL)
}

// sayVersions tells of an import that made a new version of a key which was there: under a name that was thought to be free it
// changes what everybody signs with. It returns how many versions there are, and 0 if there is one or the caller may not
// list them.
func (a *app) sayVersions(ctx context.Context, hsm *client.HSM, name string) int {
	versions, err := hsm.KeyVersions(ctx, name)
	if err != nil || len(versions) < 2 {
		return 0
	}
	a.say("this is a new version of the key %s, which was there, and the one that is used from now on; it has %d versions: strongroom key versions %s", name, len(versions), name)
	return len(versions)
}

// transferFile is a BYOK transfer blob (docs: formats).
type transferFile struct {
	SchemaVersion string         `json:"schema_version"`
	Header        transferHeader `json:"header"`
	Ciphertext    string         `json:"ciphertext"`
	Generator     string         `json:"generator,omitempty"`
}

type transferHeader struct {
	Kid string `json:"kid"`
	Alg string `json:"alg"`
	Enc string `json:"enc"`
}

// readTransfer reads a transfer blob and looks whether it is one; the HSM looks closer.
func (a *app) readTransfer(ctx context.Context, file string) ([]byte, error) {
	blob, err := a.readFull(ctx, file, maxTransferFile)
	if err != nil {
		return nil, err
	}
	var parsed transferFile
	if strictjson.Check(blob, jsonCaps) != nil || json.Unmarshal(blob, &parsed) != nil || parsed.Header.Kid == "" || parsed.Ciphertext == "" {
		next := "it is JSON with schema_version, header and ciphertext; make one with: strongroom key wrap-for-import"
		if strings.Contains(string(blob), "PRIVATE KEY-----") {
			clear(blob)
			next = "it is a private key in the clear: give it with --file"
		}
		return nil, problemf("bad-file", next, "%s is no transfer blob", inputName(file))
	}
	return blob, nil
}

func (a *app) keyWrapForImportCommand() *cobra.Command {
	var (
		kek, kid, file, kty string
		passphraseFiles     []string
		out                 target
	)
	cmd := a.verb("wrap-for-import", "Wrap a key so that only one HSM can read it (offline)", `Makes a transfer blob: a key, wrapped for a key of an HSM that receives keys. It needs no HSM and no network, so the
key never has to be on a machine that has them. Where the HSM is, "key import --byok" takes the blob.

The receiving key is made with: key create NAME --kty RSA --bits 4096 --ops import
Its public part comes from:     key show NAME --format jwk --out NAME.jwk
Check where it comes from before you wrap for it: key attest NAME.`, 0,
		func(cmd *cobra.Command, _ []string) error {
			short := shortType(kty)
			if kty != "" && short == "" {
				return a.usage(cmd, fmt.Errorf("--kty %q is not known: use EC, RSA or oct", kty))
			}
			if err := a.oneStandard(cmd, kek, file); err != nil {
				return err
			}
			if err := a.checkOut(cmd, out, append([]string{kek, file}, passphraseFiles...)...); err != nil {
				return err
			}
			receiver, named, err := a.readReceiver(cmd.Context(), kek)
			if err != nil {
				return err
			}
			if kid = first(kid, named); kid == "" {
				return a.usage(cmd, errors.New("give --kid, the identifier of the receiving key: a PEM file does not say it, a JWK does"))
			}
			if err := a.checkKid(cmd, kid); err != nil {
				return err
			}
			key, err := a.readPrivateKey(cmd.Context(), file, short, passphraseFiles)
			if err != nil {
				return err
			}
			defer key.Wipe()
			wrapped, err := software.WrapForImport(a.rand, engine.Public{Type: engine.RSA, N: receiver.N, E: receiver.E}, key.Material)
			if errors.Is(err, engine.ErrRecipient) {
				return &problem{code: "bad-key", message: inputName(kek) + " is a key for which nothing should be wrapped: " + lastPart(err),
					next: "make another one in the HSM: strongroom key create NAME --kty RSA --ops import", cause: err}
			}
			if err != nil {
				return keyMaterialProblem(inputName(file), err)
			}
			blob, err := json.MarshalIndent(transferFile{
				SchemaVersion: "1.0.0", Header: transferHeader{Kid: kid, Alg: "dir", Enc: "CKM_RSA_AES_KEY_WRAP"},
				Ciphertext: base64.RawURLEncoding.EncodeToString(wrapped), Generator: "strongroom " + version(),
			}, "", "  ")
			if err != nil {
				return err
			}
			if err := a.writeOut(out, append(blob, '\n'), secretFile); err != nil {
				return err
			}
			next := "strongroom key import NAME --byok " + out.path + " --kty " + key.kty
			if key.kty == "EC" {
				next += " --curve " + key.Curve
			}
			a.say("next, where the HSM is: %s", next)
			result := struct {
				Blob  string `json:"blob"`
				Kid   string `json:"kid"`
				Type  string `json:"kty"`
				Curve string `json:"crv,omitempty"`
			}{out.path, kid, key.kty, key.Curve}
			return a.resultBeside(out, result, func(t *table) {
				t.field("transfer blob", out.path)
				t.field("key", key.kind())
				t.field("for", kid)
			})
		})
	flags := cmd.Flags()
	flags.StringVar(&kek, "kek", "", "public part of the receiving key, PEM or JWK")
	flags.StringVar(&kid, "kid", "", "identifier of the receiving key, https://HOST/keys/NAME/VERSION; default: what a JWK says")
	flags.StringVar(&file, "file", "", "file with the key to wrap: as for key import")
	flags.StringVar(&kty, "kty", "", "type of key; with oct the file has the bare bytes")
	flags.StringArrayVar(&passphraseFiles, "passphrase-file", nil, "file with the passphrase of an encrypted key; may be given several times; default: ask")
	out.flags(cmd, "transfer blob to write")
	complete(cmd, "kty", "EC", "RSA", "oct")
	must(cmd.RegisterFlagCompletionFunc("kid", cobra.NoFileCompletions))
	return a.requireFlags(cmd, "kek", "file", "out")
}
