package cli

import (
	"bytes"
	"context"
	"crypto"
	_ "crypto/sha256" // the hashes of the algorithms below
	_ "crypto/sha512"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/big"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"strongroom/internal/api"
	"strongroom/internal/client"
	"strongroom/secret"
)

// algorithms are the signature algorithms (RFC 7518 section 3.1, RFC 8812) and the hash that is signed.
var algorithms = map[string]crypto.Hash{
	"RS256": crypto.SHA256, "RS384": crypto.SHA384, "RS512": crypto.SHA512,
	"PS256": crypto.SHA256, "PS384": crypto.SHA384, "PS512": crypto.SHA512,
	"ES256": crypto.SHA256, "ES384": crypto.SHA384, "ES512": crypto.SHA512, "ES256K": crypto.SHA256,
	"HS256": crypto.SHA256, "HS384": crypto.SHA384, "HS512": crypto.SHA512,
}

// scalarBytes are the lengths of r and s in signatures (RFC 7518 section 3.4).
var scalarBytes = map[string]int{"ES256": 32, "ES256K": 32, "ES384": 48, "ES512": 66}

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

// defaultAlgorithm is how a key signs a digest of size bytes, or 0 where the algorithm decides how to hash.
func defaultAlgorithm(key api.JSONWebKey, size int) (string, error) {
	bits := "256"
	if size == 48 || size == 64 {
		bits = map[int]string{48: "384", 64: "512"}[size]
	}
	switch shortType(key.Kty) {
	case "RSA":
		return "PS" + bits, nil
	case "oct":
		return "HS" + bits, nil
	}
	if alg, ok := curveAlgorithms[key.Crv]; ok {
		return alg, nil
	}
	return "", problemf("no-algorithm", "give --alg", "it is not clear how a key of type %s %s signs", key.Kty, key.Crv)
}

// digest hashes a file, or standard input for "-", without reading it whole. Nothing at all is what a pipe brings whose other
// end has failed, and what a terminal brings from somebody who thought better of it: one is told, the other refused.
func (a *app) digest(ctx context.Context, file, alg string) ([]byte, error) {
	empty := false
	digest, err := unlessInterrupted(ctx, func() ([]byte, error) {
		in := a.in
		if file != standard {
			f, err := os.Open(file)
			if err != nil {
				return nil, fileProblem(err)
			}
			defer f.Close()
			if info, err := f.Stat(); err == nil && info.IsDir() {
				return nil, problemf("bad-file", "", "%s is a folder, and a file is needed", file)
			}
			in = f
		}
		h := algorithms[alg].New()
		n, err := io.Copy(h, in)
		if err != nil {
			return nil, fileProblem(err)
		}
		empty = n == 0
		return h.Sum(nil), nil
	})
	if err == nil && empty && file == standard {
		if terminal, ok := a.in.(*os.File); ok && term.IsTerminal(int(terminal.Fd())) {
			return nil, problemf("bad-file", "type the text and end it with Ctrl-D on a line of its own, or give --file FILE", "nothing was typed, so there is nothing to sign or to verify")
		}
		a.warn("standard input is empty, and the signature is of nothing: did the command before the pipe work?")
	}
	return digest, err
}

// maxDigestFile bounds what is signed without being hashed here: a digest, or what an oct key makes the HMAC of.
const maxDigestFile = 32 << 10

var hexDigest = regexp.MustCompile(`^(?:[0-9a-fA-F]{64}|[0-9a-fA-F]{96}|[0-9a-fA-F]{128})$`)

// readDigest is the value of --digest: the hexadecimal digits of a digest, or the path of a file that holds its bytes.
func (a *app) readDigest(ctx context.Context, text string) ([]byte, error) {
	if hexDigest.MatchString(text) {
		return hex.DecodeString(text)
	}
	d, err := a.readFull(ctx, text, maxDigestFile)
	if p, ok := errors.AsType[*problem](err); ok && p.code == "no-such-file" {
		p.next = "--digest is 64, 96 or 128 hexadecimal digits, or a file with the bytes"
	}
	return d, err
}

// signing is what sign and verify have in common: the flags, and finding algorithm and digest.
type signing struct{ version, alg, file, digest, format string }

func (s *signing) flags(cmd *cobra.Command, fileUsage string) {
	flags := cmd.Flags()
	flags.StringVar(&s.file, "file", "", fileUsage)
	flags.StringVar(&s.digest, "digest", "", "in place of --file: a digest that was made elsewhere, as hexadecimal digits or a file with its bytes")
	flags.StringVar(&s.alg, "alg", "", "algorithm; default: PS256 for RSA keys, HS256 for oct keys, that of the curve for EC keys")
	flags.StringVar(&s.format, "format", "raw", "form of EC signatures: raw (r and s, as the API has them) or der (as OpenSSL has them)")
	versionFlag(cmd, &s.version)
	complete(cmd, "alg", algorithmNames()...)
	complete(cmd, "format", "raw", "der")
}

func (s *signing) check(a *app, cmd *cobra.Command, name string) error {
	if err := a.checkKey(cmd, name, s.version); err != nil {
		return err
	}
	s.alg = strings.ToUpper(s.alg)
	switch _, ok := algorithms[s.alg]; {
	case (s.file == "") == (s.digest == ""):
		return a.usage(cmd, errors.New("give --file, or --digest"))
	case !ok && s.alg != "":
		return a.usage(cmd, fmt.Errorf("--alg %q is not known: use one of %s", s.alg, strings.Join(algorithmNames(), ", ")))
	case s.format != "raw" && s.format != "der":
		return a.usage(cmd, fmt.Errorf("--format %q is not known: use raw or der", s.format))
	}
	return nil
}

// message is what was signed, for people.
func (s *signing) message() string {
	if s.file != "" {
		return inputName(s.file)
	}
	return "the digest"
}

// prepare finds the algorithm, if none was given, and the digest.
func (s *signing) prepare(ctx context.Context, a *app, key func() (api.JSONWebKey, error)) (digest []byte, err error) {
	if s.digest != "" {
		if digest, err = a.readDigest(ctx, s.digest); err != nil {
			return nil, err
		}
	}
	if s.alg == "" {
		k, err := key()
		if err != nil {
			return nil, err
		}
		if s.alg, err = defaultAlgorithm(k, len(digest)); err != nil {
			return nil, err
		}
	}
	if s.format == "der" && scalarBytes[s.alg] == 0 {
		return nil, problemf("bad-format", "leave --format out", "--format der is for signatures of EC keys, and this one is made with %s", s.alg)
	}
	if s.digest == "" {
		return a.digest(ctx, s.file, s.alg)
	}
	if want := algorithms[s.alg].Size(); len(digest) != want && s.alg[0] != 'H' {
		return nil, problemf("bad-digest", "hash with "+algorithms[s.alg].String()+", or give --file to have it hashed here", "the digest has %d bytes, and %s signs %d", len(digest), s.alg, want)
	}
	return digest, nil
}

// ecdsaDER is Ecdsa-Sig-Value of RFC 3279 section 2.2.3.
type ecdsaDER struct{ R, S *big.Int }

// toDER makes the form that OpenSSL has of r ‖ s.
func toDER(raw []byte) ([]byte, error) {
	half := len(raw) / 2
	return asn1.Marshal(ecdsaDER{new(big.Int).SetBytes(raw[:half]), new(big.Int).SetBytes(raw[half:])})
}

// fromDER is the way back, to two numbers of size bytes. It takes the one spelling that DER has of a signature.
func fromDER(der []byte, size int) ([]byte, bool) {
	var signature ecdsaDER
	rest, err := asn1.Unmarshal(der, &signature)
	if err != nil || len(rest) > 0 || signature.R.Sign() <= 0 || signature.S.Sign() <= 0 || signature.R.BitLen() > 8*size || signature.S.BitLen() > 8*size {
		return nil, false
	}
	if again, err := asn1.Marshal(signature); err != nil || !bytes.Equal(again, der) {
		return nil, false
	}
	raw := make([]byte, 2*size)
	signature.R.FillBytes(raw[:size])
	signature.S.FillBytes(raw[size:])
	return raw, true
}

func (a *app) keySignCommand() *cobra.Command {
	var (
		s   signing
		out target
	)
	cmd := a.verb("sign NAME", "Sign a file", `Hashes the file here and has the HSM sign the hash. The signature is written as the bytes that Azure's API gives: PKCS #1
for RSA, r and s of fixed length for EC; with --format der, EC signatures are what OpenSSL writes.

An oct key makes an HMAC: of the file's hash, as the Azure SDKs do it. With --digest FILE it is the HMAC of FILE itself, as
everybody else does it.

Standard input that is empty is signed with a warning, because a pipe may bring nothing; from a terminal it is refused.`, 1,
		func(cmd *cobra.Command, args []string) error {
			if err := s.check(a, cmd, args[0]); err != nil {
				return err
			}
			if err := a.checkOut(cmd, out, s.file, s.digest); err != nil {
				return err
			}
			hsm, err := a.hsm(cmd)
			if err != nil {
				return err
			}
			digest, err := s.prepare(cmd.Context(), a, func() (api.JSONWebKey, error) {
				key, err := hsm.Key(cmd.Context(), args[0], s.version)
				return key.Key, err
			})
			if err != nil {
				return err
			}
			signed, err := hsm.Sign(cmd.Context(), args[0], s.version, s.alg, digest)
			if err != nil {
				return err
			}
			signature := []byte(signed.Value)
			if size := scalarBytes[s.alg]; size > 0 && len(signature) != 2*size {
				return fmt.Errorf("%w: it holds no signature of %s", client.ErrAnswer, s.alg)
			}
			if s.format == "der" {
				if signature, err = toDER(signature); err != nil {
					return err
				}
			}
			if err := a.writeOut(out, signature, publicFile); err != nil {
				return err
			}
			name, version := splitKid(signed.Kid)
			result := struct {
				Name      string `json:"name"`
				Version   string `json:"version"`
				Kid       string `json:"kid"`
				Algorithm string `json:"alg"`
				Format    string `json:"format"`
				Signature string `json:"signature"`

				Warnings []string `json:"warnings,omitempty"`
			}{name, version, signed.Kid, s.alg, s.format, out.path, a.warned()}
			return a.resultBeside(out, result, func(t *table) {
				t.field("signature", out.path)
				t.field("algorithm", s.alg)
				t.field("kid", signed.Kid)
			})
		})
	s.flags(cmd, "file to sign; - is standard input")
	out.flags(cmd, "file to write the signature to")
	return a.connected(a.requireFlags(cmd, "out"), settingURL)
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
			if err := a.oneStandard(cmd, s.file, s.digest, signature); err != nil {
				return err
			}
			sig, err := a.readFull(cmd.Context(), signature, maxSignatureFile)
			if err != nil {
				return err
			}
			hsm, key, err := a.keyOf(cmd, args[0], s.version)
			if err != nil {
				return err
			}
			digest, err := s.prepare(cmd.Context(), a, func() (api.JSONWebKey, error) { return key.Key, nil })
			if err != nil {
				return err
			}
			next := "check file, key, --key-version and --alg (" + s.alg + " was used)"
			switch size := scalarBytes[s.alg]; {
			case s.format == "der":
				raw, ok := fromDER(sig, size)
				if !ok {
					return problemf("bad-signature", "give --format raw, or look at it with: openssl asn1parse -inform DER -in FILE",
						"%s holds no signature of %s in DER", inputName(signature), s.alg)
				}
				sig = raw
			case size > 0 && len(sig) != 2*size:
				if _, ok := fromDER(sig, size); ok {
					next = "the signature is in the form of OpenSSL: give --format der"
				}
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

				Warnings []string `json:"warnings,omitempty"`
			}{holds, key.Key.Kid, s.alg, a.warned()}
			if err := a.result(result, func(t *table) {
				if holds {
					t.row("the signature holds")
				}
			}); err != nil {
				return err
			}
			if !holds {
				return problemf("signature-does-not-hold", next, "the signature does not hold: %s is not what %s signed", s.message(), args[0])
			}
			return nil
		})
	s.flags(cmd, "file that was signed; - is standard input")
	cmd.Flags().StringVar(&signature, "signature", "", "file with the signature; - is standard input")
	return a.connected(a.requireFlags(cmd, "signature"), settingURL)
}

// maxRandom bounds one call of rng, in bytes. Who needs more needs a generator that the HSM gives the seed of.
const maxRandom = 4096

func (a *app) keyRNGCommand() *cobra.Command {
	var (
		n   int
		out target
	)
	cmd := a.verb("rng", "Get random bytes from the HSM", "Prints them in hexadecimal digits, or writes the bytes themselves to --out.", 0,
		func(cmd *cobra.Command, _ []string) error {
			if n < 1 || n > maxRandom {
				return a.usage(cmd, fmt.Errorf("--bytes is 1 to %d, and not %d", maxRandom, n))
			}
			if out.path != "" {
				if err := a.checkOut(cmd, out); err != nil {
					return err
				}
			} else if out.force {
				return a.usage(cmd, errors.New("--force is for --out"))
			}
			hsm, err := a.hsm(cmd)
			if err != nil {
				return err
			}
			random := secret.Take(make([]byte, n))
			defer random.Wipe()
			for at := 0; at < n; at += client.MaxRandom {
				some, err := hsm.Random(cmd.Context(), min(client.MaxRandom, n-at))
				if err != nil {
					return err
				}
				copy(random.Reveal()[at:], some.Reveal())
				some.Wipe()
			}
			if out.path == "" { // asked to print them: this is the one place where a result is a secret
				text := hex.EncodeToString(random.Reveal())
				return a.result(map[string]string{"hex": text}, func(t *table) { t.row(text) })
			}
			if err := a.writeOut(out, random.Reveal(), secretFile); err != nil {
				return err
			}
			result := struct {
				Bytes int    `json:"bytes"`
				File  string `json:"file"`
			}{n, out.path}
			return a.resultBeside(out, result, func(t *table) { t.field("random bytes", out.path) })
		})
	cmd.Flags().IntVar(&n, "bytes", 32, "how many, 1 to 4096")
	out.flags(cmd, "file to write the bytes to")
	must(cmd.RegisterFlagCompletionFunc("bytes", cobra.NoFileCompletions))
	return a.connected(cmd, settingURL)
}
