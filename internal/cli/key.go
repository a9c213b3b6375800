package cli

import (
	"context"
	"crypto"
	_ "crypto/sha256" // the hashes of the algorithms below
	_ "crypto/sha512"
	"fmt"
	"io"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"strongroom/internal/api"
)

func (a *app) keyCommand() *cobra.Command {
	return noun("key", "Keys of an HSM", `Keys are made inside the HSM and never leave it, except as backups that only an HSM of the same security domain
can restore.`,
		a.keyCreateCommand(), a.keyShowCommand(), a.keyListCommand(), a.keySignCommand(), a.keyVerifyCommand(),
		a.keyBackupCommand(), a.keyRestoreCommand())
}

// keyView is a key as results show it.
type keyView struct {
	Name    string            `json:"name"`
	Version string            `json:"version,omitempty"`
	Kid     string            `json:"kid"`
	Type    string            `json:"kty,omitempty"`
	Bits    int               `json:"bits,omitempty"`
	Curve   string            `json:"crv,omitempty"`
	Ops     []string          `json:"key_ops,omitempty"`
	Enabled bool              `json:"enabled"`
	Created *time.Time        `json:"created,omitempty"`
	Expires *time.Time        `json:"expires,omitempty"`
	Tags    map[string]string `json:"tags,omitempty"`
}

func viewKey(b api.KeyBundle) keyView {
	v := viewItem(api.KeyItem{Kid: b.Key.Kid, Attributes: b.Attributes, Tags: b.Tags})
	v.Type, v.Curve, v.Ops = b.Key.Kty, b.Key.Crv, b.Key.KeyOps
	v.Bits = len(b.Key.N) * 8
	return v
}

func viewItem(k api.KeyItem) keyView {
	name, version := splitKid(k.Kid)
	v := keyView{Name: name, Version: version, Kid: k.Kid, Enabled: k.Attributes.Enabled == nil || *k.Attributes.Enabled, Tags: k.Tags}
	if k.Attributes.Created > 0 {
		v.Created = unixTime(k.Attributes.Created)
	}
	if k.Attributes.Expires != nil {
		v.Expires = unixTime(*k.Attributes.Expires)
	}
	return v
}

func unixTime(seconds int64) *time.Time {
	t := time.Unix(seconds, 0).UTC()
	return &t
}

// splitKid takes name and version out of https://HOST/keys/NAME[/VERSION].
func splitKid(kid string) (name, version string) {
	u, err := url.Parse(kid)
	if err != nil {
		return "", ""
	}
	parts := strings.Split(strings.Trim(u.Path, "/"), "/")
	if len(parts) >= 2 {
		name = parts[1]
	}
	if len(parts) >= 3 {
		version = parts[2]
	}
	return name, version
}

// keyName and keyVersion are what names and versions of keys are made of. Anything else cannot be asked for: a server
// would see another path.
var (
	keyName    = regexp.MustCompile(`^[0-9A-Za-z-]{1,127}$`)
	keyVersion = regexp.MustCompile(`^[0-9A-Za-z]{0,32}$`)
)

// checkKey refuses what can be no key's name or version; an empty version means the latest.
func (a *app) checkKey(cmd *cobra.Command, name, version string) error {
	if !keyName.MatchString(name) {
		return a.usage(cmd, fmt.Errorf("%q is not the name of a key: it has 1 to 127 letters, digits and hyphens", name))
	}
	if !keyVersion.MatchString(version) {
		return a.usage(cmd, fmt.Errorf("%q is not the version of a key: it has 32 letters and digits", version))
	}
	return nil
}

// kind is "RSA-HSM 3072" or "EC-HSM P-256".
func (v keyView) kind() string {
	if v.Curve != "" {
		return v.Type + " " + v.Curve
	}
	if v.Bits > 0 {
		return v.Type + " " + strconv.Itoa(v.Bits)
	}
	return v.Type
}

func (a *app) showKey(b api.KeyBundle) error {
	v := viewKey(b)
	return a.result(v, func(t *table) {
		t.field("name", v.Name)
		t.field("version", v.Version)
		t.field("type", v.kind())
		t.field("operations", strings.Join(v.Ops, ", "))
		t.field("enabled", strconv.FormatBool(v.Enabled))
		t.field("created", timeText(v.Created))
		t.field("expires", timeText(v.Expires))
		t.field("kid", v.Kid)
	})
}

func timeText(t *time.Time) string {
	if t == nil {
		return ""
	}
	return t.Format(time.RFC3339)
}

func (a *app) keyCreateCommand() *cobra.Command {
	var (
		kty, curve string
		bits       int
		ops        []string
		tags       map[string]string
	)
	cmd := a.verb("create NAME", "Make a key", "Makes a key, or a new version of the key of that name.", 1,
		func(cmd *cobra.Command, args []string) error {
			if err := a.checkKey(cmd, args[0], ""); err != nil {
				return err
			}
			request := api.CreateKeyRequest{Kty: strings.ToUpper(kty), KeyOps: ops, Tags: tags}
			switch strings.TrimSuffix(request.Kty, "-HSM") {
			case "EC":
				if cmd.Flags().Changed("bits") {
					return a.usage(cmd, fmt.Errorf("--bits is for RSA keys; an EC key has a --curve"))
				}
				request.Crv = curve
			case "RSA":
				if cmd.Flags().Changed("curve") {
					return a.usage(cmd, fmt.Errorf("--curve is for EC keys; an RSA key has --bits"))
				}
				request.KeySize = bits
			default:
				return a.usage(cmd, fmt.Errorf("--kty %q is not known: use EC or RSA", kty))
			}
			hsm, err := a.hsm(cmd)
			if err != nil {
				return err
			}
			key, err := hsm.CreateKey(cmd.Context(), args[0], request)
			if err != nil {
				return err
			}
			return a.showKey(key)
		})
	flags := cmd.Flags()
	flags.StringVar(&kty, "kty", "EC", "type of key: EC or RSA")
	flags.StringVar(&curve, "curve", "P-256", "EC: P-256, P-384 or P-521")
	flags.IntVar(&bits, "bits", 3072, "RSA: 2048, 3072 or 4096")
	flags.StringSliceVar(&ops, "ops", nil, "operations that the key may do; default: all of its type")
	flags.StringToStringVar(&tags, "tag", nil, "NAME=VALUE to keep with the key; may be given several times")
	complete := func(flag string, values ...string) {
		must(cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)))
	}
	complete("kty", "EC", "RSA")
	complete("curve", "P-256", "P-384", "P-521")
	complete("bits", "2048", "3072", "4096")
	complete("ops", "sign", "verify", "encrypt", "decrypt", "wrapKey", "unwrapKey")
	return a.connected(cmd, settingURL)
}

func (a *app) keyShowCommand() *cobra.Command {
	var version string
	cmd := a.verb("show NAME", "Show a key", "", 1, func(cmd *cobra.Command, args []string) error {
		if err := a.checkKey(cmd, args[0], version); err != nil {
			return err
		}
		hsm, err := a.hsm(cmd)
		if err != nil {
			return err
		}
		key, err := hsm.Key(cmd.Context(), args[0], version)
		if err != nil {
			return err
		}
		return a.showKey(key)
	})
	cmd.Flags().StringVar(&version, "key-version", "", "version of the key; default: the latest")
	return a.connected(cmd, settingURL)
}

func (a *app) keyListCommand() *cobra.Command {
	cmd := a.verb("list", "List the keys", "", 0, func(cmd *cobra.Command, _ []string) error {
		hsm, err := a.hsm(cmd)
		if err != nil {
			return err
		}
		items, err := hsm.Keys(cmd.Context())
		if err != nil {
			return err
		}
		views := make([]keyView, len(items)) // not nil: an empty list is [] in JSON
		for i, item := range items {
			views[i] = viewItem(item)
		}
		return a.result(views, func(t *table) {
			t.row("NAME", "ENABLED", "CREATED", "KID")
			for _, v := range views {
				t.row(v.Name, strconv.FormatBool(v.Enabled), timeText(v.Created), v.Kid)
			}
		})
	})
	return a.connected(cmd, settingURL)
}

// algorithms are the signature algorithms (RFC 7518 section 3.1) and the hash that is signed.
var algorithms = map[string]crypto.Hash{
	"RS256": crypto.SHA256, "RS384": crypto.SHA384, "RS512": crypto.SHA512,
	"PS256": crypto.SHA256, "PS384": crypto.SHA384, "PS512": crypto.SHA512,
	"ES256": crypto.SHA256, "ES384": crypto.SHA384, "ES512": crypto.SHA512, "ES256K": crypto.SHA256,
}

func algorithmNames() []string {
	var names []string
	for n := range algorithms {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

// curveAlgorithms are the only ones that fit; an RSA key signs with PS256 unless told otherwise.
var curveAlgorithms = map[string]string{"P-256": "ES256", "P-256K": "ES256K", "P-384": "ES384", "P-521": "ES512"}

func defaultAlgorithm(key api.JSONWebKey) (string, error) {
	if strings.HasPrefix(key.Kty, "RSA") {
		return "PS256", nil
	}
	if alg, ok := curveAlgorithms[key.Crv]; ok {
		return alg, nil
	}
	return "", problemf("no-algorithm", "give --alg", "it is not clear how a key of type %s %s signs", key.Kty, key.Crv)
}

// digest hashes a file, or standard input for "-", without reading it whole.
func (a *app) digest(ctx context.Context, file, alg string) ([]byte, error) {
	return unlessInterrupted(ctx, func() ([]byte, error) {
		in := a.in
		if file != "-" {
			f, err := os.Open(file)
			if err != nil {
				return nil, fileProblem(err)
			}
			defer f.Close()
			in = f
		}
		h := algorithms[alg].New()
		if _, err := io.Copy(h, in); err != nil {
			return nil, fileProblem(err)
		}
		return h.Sum(nil), nil
	})
}

// signing is what sign and verify have in common: the flags, and finding algorithm and digest.
type signing struct{ version, alg, file string }

func (s *signing) flags(a *app, cmd *cobra.Command, fileUsage string) {
	flags := cmd.Flags()
	flags.StringVar(&s.file, "file", "", fileUsage)
	flags.StringVar(&s.alg, "alg", "", "algorithm; default: PS256 for RSA keys, that of the curve for EC keys")
	flags.StringVar(&s.version, "key-version", "", "version of the key; default: the latest")
	must(cmd.RegisterFlagCompletionFunc("alg", cobra.FixedCompletions(algorithmNames(), cobra.ShellCompDirectiveNoFileComp)))
}

func (s *signing) check(a *app, cmd *cobra.Command, name string) error {
	if err := a.checkKey(cmd, name, s.version); err != nil {
		return err
	}
	s.alg = strings.ToUpper(s.alg)
	if _, ok := algorithms[s.alg]; !ok && s.alg != "" {
		return a.usage(cmd, fmt.Errorf("--alg %q is not known: use one of %s", s.alg, strings.Join(algorithmNames(), ", ")))
	}
	return nil
}

func (a *app) keySignCommand() *cobra.Command {
	var (
		s     signing
		out   string
		force bool
	)
	cmd := a.verb("sign NAME", "Sign a file", `Hashes the file here and has the HSM sign the hash. The signature is written as the bytes that Azure's API gives:
PKCS #1 for RSA, r and s of fixed length for EC (not the DER that OpenSSL writes).`, 1,
		func(cmd *cobra.Command, args []string) error {
			if err := s.check(a, cmd, args[0]); err != nil {
				return err
			}
			if err := checkTarget(out, force, s.file); err != nil {
				return err
			}
			hsm, err := a.hsm(cmd)
			if err != nil {
				return err
			}
			if s.alg == "" {
				key, err := hsm.Key(cmd.Context(), args[0], s.version)
				if err != nil {
					return err
				}
				if s.alg, err = defaultAlgorithm(key.Key); err != nil {
					return err
				}
			}
			digest, err := a.digest(cmd.Context(), s.file, s.alg)
			if err != nil {
				return err
			}
			signed, err := hsm.Sign(cmd.Context(), args[0], s.version, s.alg, digest)
			if err != nil {
				return err
			}
			if err := writeFile(out, signed.Value, publicFile, force); err != nil {
				return err
			}
			name, version := splitKid(signed.Kid)
			result := struct {
				Name      string `json:"name"`
				Version   string `json:"version"`
				Kid       string `json:"kid"`
				Algorithm string `json:"alg"`
				Signature string `json:"signature"`
			}{name, version, signed.Kid, s.alg, out}
			return a.result(result, func(t *table) {
				t.field("signature", out)
				t.field("algorithm", s.alg)
				t.field("kid", signed.Kid)
			})
		})
	s.flags(a, cmd, "file to sign; - is standard input")
	cmd.Flags().StringVar(&out, "out", "", "file to write the signature to")
	cmd.Flags().BoolVar(&force, "force", false, "replace the file if it exists")
	return a.connected(a.requireFlags(cmd, "file", "out"), settingURL)
}

func (a *app) keyVerifyCommand() *cobra.Command {
	var (
		s         signing
		signature string
	)
	cmd := a.verb("verify NAME", "Check a signature", `Hashes the file here and asks the HSM whether the signature holds. Exit code 1 when it does not.`, 1,
		func(cmd *cobra.Command, args []string) error {
			if err := s.check(a, cmd, args[0]); err != nil {
				return err
			}
			sig, err := readFile(cmd.Context(), signature, maxSignatureFile)
			if err != nil {
				return err
			}
			hsm, err := a.hsm(cmd)
			if err != nil {
				return err
			}
			key, err := hsm.Key(cmd.Context(), args[0], s.version)
			if err != nil {
				return err
			}
			if s.alg == "" {
				if s.alg, err = defaultAlgorithm(key.Key); err != nil {
					return err
				}
			}
			digest, err := a.digest(cmd.Context(), s.file, s.alg)
			if err != nil {
				return err
			}
			// The version that was looked up is the one that is asked, and the one that the result names.
			_, version := splitKid(key.Key.Kid)
			holds, err := hsm.Verify(cmd.Context(), args[0], version, s.alg, digest, sig)
			if err != nil {
				return err
			}
			result := struct {
				Valid     bool   `json:"valid"`
				Kid       string `json:"kid"`
				Algorithm string `json:"alg"`
			}{holds, key.Key.Kid, s.alg}
			if err := a.result(result, func(t *table) {
				if holds {
					t.row("the signature holds")
				}
			}); err != nil {
				return err
			}
			if !holds {
				return problemf("signature-does-not-hold", "check file, key, --key-version and --alg ("+s.alg+" was used)",
					"the signature does not hold: %s is not what %s signed", s.file, args[0])
			}
			return nil
		})
	s.flags(a, cmd, "file that was signed; - is standard input")
	cmd.Flags().StringVar(&signature, "signature", "", "file with the signature")
	return a.connected(a.requireFlags(cmd, "file", "signature"), settingURL)
}

func (a *app) keyBackupCommand() *cobra.Command {
	var (
		out   string
		force bool
	)
	cmd := a.verb("backup NAME", "Back a key up", `Writes all versions of a key to a file that only an HSM of the same security domain can restore.`, 1,
		func(cmd *cobra.Command, args []string) error {
			if err := a.checkKey(cmd, args[0], ""); err != nil {
				return err
			}
			if err := checkTarget(out, force); err != nil {
				return err
			}
			hsm, err := a.hsm(cmd)
			if err != nil {
				return err
			}
			blob, err := hsm.BackupKey(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if err := writeFile(out, blob, secretFile, force); err != nil {
				return err
			}
			result := struct {
				Name   string `json:"name"`
				Backup string `json:"backup"`
				Bytes  int    `json:"bytes"`
			}{args[0], out, len(blob)}
			return a.result(result, func(t *table) { t.field("backup", out) })
		})
	cmd.Flags().StringVar(&out, "out", "", "file to write the backup to")
	cmd.Flags().BoolVar(&force, "force", false, "replace the file if it exists")
	return a.connected(a.requireFlags(cmd, "out"), settingURL)
}

func (a *app) keyRestoreCommand() *cobra.Command {
	var file string
	cmd := a.verb("restore", "Restore a key from its backup", `Restores a key with its name, all versions and attributes. The HSM must have the security domain under which the
backup was made, and no key of that name.`, 0,
		func(cmd *cobra.Command, _ []string) error {
			blob, err := readFile(cmd.Context(), file, maxBackupFile)
			if err != nil {
				return err
			}
			hsm, err := a.hsm(cmd)
			if err != nil {
				return err
			}
			key, err := hsm.RestoreKey(cmd.Context(), blob)
			if err != nil {
				return err
			}
			return a.showKey(key)
		})
	cmd.Flags().StringVar(&file, "file", "", "file with the backup")
	return a.connected(a.requireFlags(cmd, "file"), settingURL)
}
