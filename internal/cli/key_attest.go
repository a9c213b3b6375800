package cli

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"strongroom/internal/api"
	"strongroom/internal/statement"
	"strongroom/internal/strictjson"
)

// maxAttestationFile is in bytes. An attestation of the largest key has some 12 KiB.
const maxAttestationFile = 128 << 10

// What an attestation is made of (docs: formats).
const (
	attestationVersion = "STRONGROOM-1"
	attestationType    = "strongroom-key-attestation+jws"
)

var attestationLimits = strictjson.Limits{Bytes: maxAttestationFile, Depth: 16, Elements: 256, Values: 1024, StringBytes: maxAttestationFile, FoldNames: true}

// attestedStatement is the payload of both statements of an attestation.
type attestedStatement struct {
	Version         int             `json:"v"`
	Part            string          `json:"part"`
	Kid             string          `json:"kid"`
	Domain          string          `json:"domain"`
	Type            string          `json:"kty"`
	Bits            int             `json:"key_size"`
	Curve           string          `json:"crv"`
	Ops             []string        `json:"key_ops"`
	Origin          string          `json:"origin"`
	Exportable      bool            `json:"exportable"`
	PolicyHash      string          `json:"release_policy_sha256"`
	PolicyImmutable bool            `json:"release_policy_immutable"`
	Created         int64           `json:"created"`
	Stated          int64           `json:"iat"`
	Thumbprint      string          `json:"jkt"`
	Key             json.RawMessage `json:"jwk"`
}

// attested is what a sound attestation says.
type attested struct {
	attestedStatement
	domain string // ID of the security domain whose key signed it
}

// verifyAttestation holds a key with its attestation against docs/formats.md, "The key attestation": that both
// statements are signed by one certificate, which is that of the domain they name; that they are statements of this
// kind, about this key, and agree with each other and with what the HSM says of the key. Whether the domain is the
// right one is for the caller to compare. An error says the first thing that does not fit.
func verifyAttestation(b api.KeyBundle) (attested, error) {
	var none attested
	a := b.Attributes.Attestation
	switch {
	case a == nil:
		return none, errors.New("there is no attestation in it")
	case a.Version != attestationVersion:
		return none, fmt.Errorf("it is an attestation in the form %.40q, and this program verifies %s", a.Version, attestationVersion)
	}
	cert, err := domainCertificate(a.CertificatePEMFile)
	if err != nil {
		return none, err
	}
	domain := statement.DomainOf(cert)
	private, err := verifyStatement(a.PrivateKeyAttestation, "private", cert)
	if err != nil {
		return none, fmt.Errorf("the statement about the private part: %w", err)
	}
	switch {
	case private.Domain != domain:
		return none, errors.New("the statements name another security domain than the one that signed them")
	case private.Kid != b.Key.Kid || private.Type != b.Key.Kty || private.Curve != b.Key.Crv:
		return none, errors.New("the statements are about another key")
	case len(private.Key) > 0:
		return none, errors.New("the statement about the private part holds a key")
	case private.Origin != "generated" && private.Origin != "imported":
		return none, errors.New("the statements do not say whether the key was generated or imported")
	case private.Exportable != isTrue(b.Attributes.Exportable) || !sameSet(private.Ops, b.Key.KeyOps) || private.Created != b.Attributes.Created:
		return none, errors.New("the statements say something else about the key than the HSM")
	}
	if shortType(b.Key.Kty) == "oct" {
		if len(a.PublicKeyAttestation) > 0 || private.Thumbprint != "" {
			return none, errors.New("there is a statement about the public part of an oct key, which has none")
		}
		return attested{private, domain}, nil
	}
	public, err := verifyStatement(a.PublicKeyAttestation, "public", cert)
	if err != nil {
		return none, fmt.Errorf("the statement about the public part: %w", err)
	}
	var stated jwk
	if err := strictjson.Check(public.Key, jwkLimits); err != nil {
		return none, errors.New("the statement about the public part holds no key")
	}
	if json.Unmarshal(public.Key, &stated) != nil || stated.private() {
		return none, errors.New("the statement about the public part holds no public key")
	}
	shown, err := publicJWK(b.Key)
	if err != nil {
		return none, errors.New("there is no public part beside the attestation")
	}
	if print := shown.thumbprint(); print != stated.thumbprint() || print != public.Thumbprint || print != private.Thumbprint {
		return none, errors.New("the statements are about another public key")
	}
	public.Part, public.Key = private.Part, private.Key
	if !public.equal(private) {
		return none, errors.New("the two statements contradict each other")
	}
	return attested{private, domain}, nil
}

func (s attestedStatement) equal(other attestedStatement) bool {
	one, err1 := json.Marshal(s)
	two, err2 := json.Marshal(other)
	return err1 == nil && err2 == nil && bytes.Equal(one, two)
}

func sameSet(a, b []string) bool {
	a, b = slices.Clone(a), slices.Clone(b)
	slices.Sort(a)
	slices.Sort(b)
	return slices.Equal(a, b)
}

// domainCertificate reads the certificate of a domain's signing key, and checks that it signed itself.
func domainCertificate(text []byte) (*x509.Certificate, error) {
	block, rest := pem.Decode(text)
	if block == nil || block.Type != "CERTIFICATE" || len(bytes.TrimSpace(rest)) > 0 {
		return nil, errors.New("its certificate is not one certificate in PEM")
	}
	cert, _, err := statement.ParseCertificate(block.Bytes)
	return cert, err
}

// verifyStatement checks the signature, kind and part of a statement and returns what it says.
func verifyStatement(compact []byte, part string, cert *x509.Certificate) (attestedStatement, error) {
	var s attestedStatement
	if len(compact) == 0 {
		return s, errors.New("it is missing")
	}
	signed, err := statement.Verify(compact, attestationType)
	if err != nil {
		return s, err
	}
	if !bytes.Equal(signed.Certificate.Raw, cert.Raw) {
		return s, errors.New("it names another certificate (x5c)")
	}
	if strictjson.Check(signed.Payload, attestationLimits) != nil || json.Unmarshal(signed.Payload, &s) != nil {
		return s, errors.New("what it says is not the JSON of a statement")
	}
	if s.Version != 1 || s.Part != part {
		return s, errors.New("it is about another part of the key, or of a version that is not known")
	}
	return s, nil
}

// parseAttestation reads a key with its attestation, as the HSM answers it.
func parseAttestation(text []byte) (api.KeyBundle, error) {
	var b api.KeyBundle
	if err := strictjson.Check(text, attestationLimits); err != nil {
		return b, fmt.Errorf("it is not the JSON of a key with its attestation: %w", err)
	}
	if json.Unmarshal(text, &b) != nil {
		return api.KeyBundle{}, errors.New("it is not the JSON of a key with its attestation")
	}
	return b, nil
}

var domainID = regexp.MustCompile(`^[0-9a-f]{64}$`)

func (a *app) keyAttestCommand() *cobra.Command {
	var (
		version, domain, verify string
		out                     target
	)
	cmd := a.verb("attest [NAME]", "Prove where a key is", `Asks the HSM for its signed word about a key, and verifies it here: that the private part is held by an HSM of the security
domain whose ID is printed, whether it was made there, what it may do, and that the public part is the one which key show
gives. Exit code 1 when something does not fit.

Compare the domain ID with the one that was written down at the ceremony, or give that one with --domain: there is no
authority above it. --out keeps the attestation; with --verify FILE it is verified without an HSM.`, 0,
		func(cmd *cobra.Command, args []string) error {
			if domain = strings.ToLower(domain); domain != "" && !domainID.MatchString(domain) {
				return a.usage(cmd, errors.New("--domain is no domain ID: it has 64 hexadecimal digits"))
			}
			if verify != "" {
				if version != "" || out.path != "" || out.force {
					return a.usage(cmd, errors.New("--verify FILE goes with --domain and nothing else"))
				}
				text, err := a.readFull(cmd.Context(), verify, maxAttestationFile)
				if err != nil {
					return err
				}
				bundle, err := parseAttestation(text)
				if err != nil {
					return problemf("bad-file", "give the file that key attest --out wrote", "%s: %v", inputName(verify), err)
				}
				says, err := a.judge(bundle, inputName(verify), domain)
				if err != nil {
					return err
				}
				return a.showAttestation(says, domain, target{})
			}
			if err := a.checkKey(cmd, args[0], version); err != nil {
				return err
			}
			if out.path != "" {
				if err := a.checkOut(cmd, out); err != nil {
					return err
				}
			}
			hsm, err := a.hsm(cmd)
			if err != nil {
				return err
			}
			bundle, err := hsm.Attestation(cmd.Context(), args[0], version)
			if err != nil {
				return err
			}
			name, of := splitKid(bundle.Key.Kid)
			if !strings.EqualFold(name, args[0]) || version != "" && !strings.EqualFold(of, version) || of == "" {
				return doesNotFit("the attestation of "+args[0], errors.New("it is about another key"))
			}
			says, err := a.judge(bundle, "the attestation of "+args[0], domain)
			if err != nil {
				return err
			}
			// The public key that everybody else is given, asked for as everybody else does.
			shown, err := hsm.Key(cmd.Context(), name, of)
			if err != nil {
				return err
			}
			if shown.Key.Kty != bundle.Key.Kty || says.Thumbprint != thumbprintOf(shown.Key) {
				return doesNotFit("the attestation of "+args[0], errors.New("the public key is not the one that key show gives"))
			}
			if out.path != "" {
				text, err := json.MarshalIndent(bundle, "", "  ")
				if err != nil {
					return err
				}
				if err := a.writeOut(out, append(text, '\n'), publicFile); err != nil {
					return err
				}
			}
			return a.showAttestation(says, domain, out)
		})
	one := cmd.Args
	cmd.Args = func(cmd *cobra.Command, given []string) error {
		switch {
		case verify != "": // no NAME
			return one(cmd, given)
		case len(given) == 0:
			return a.usage(cmd, fmt.Errorf("%s needs NAME, or --verify FILE", cmd.CommandPath()))
		case given[0] == "":
			return a.usage(cmd, fmt.Errorf("%s needs NAME, and it is empty", cmd.CommandPath()))
		}
		return one(cmd, given[1:])
	}
	versionFlag(cmd, &version)
	cmd.Flags().StringVar(&domain, "domain", "", "domain ID that was written down at the ceremony; another one is exit code 1")
	cmd.Flags().StringVar(&verify, "verify", "", "verify this file, which --out wrote, and ask no HSM; - is standard input")
	out.flags(cmd, "file to write the attestation to")
	must(cmd.RegisterFlagCompletionFunc("domain", cobra.NoFileCompletions))
	return a.connected(cmd, settingURL)
}

func thumbprintOf(k api.JSONWebKey) string {
	public, err := publicJWK(k)
	if err != nil {
		return "" // as of an oct key
	}
	return public.thumbprint()
}

func doesNotFit(what string, err error) error {
	return &problem{code: "attestation-does-not-hold", message: fmt.Sprintf("%s does not hold: %v", what, err),
		next: "do not rely on this key; ask who runs the HSM", cause: err}
}

// judge verifies an attestation, and compares its domain with the one that is expected, if any is.
func (a *app) judge(b api.KeyBundle, what, domain string) (attested, error) {
	says, err := verifyAttestation(b)
	if err != nil {
		return attested{}, doesNotFit(what, err)
	}
	if domain != "" && domain != says.domain {
		return attested{}, problemf("wrong-domain", "do not rely on this key for that domain; compare the IDs, digit by digit", "%s is signed by the domain %s, and not by %s", what, says.domain, domain)
	}
	return says, nil
}

func (a *app) showAttestation(s attested, domain string, out target) error {
	stated := time.Unix(s.Stated, 0).UTC()
	result := struct {
		Valid      bool      `json:"valid"`
		DomainID   string    `json:"domain_id"`
		Compared   bool      `json:"domain_compared"` // with --domain
		Kid        string    `json:"kid"`
		Type       string    `json:"kty"`
		Bits       int       `json:"bits,omitempty"`
		Curve      string    `json:"crv,omitempty"`
		Ops        []string  `json:"key_ops"`
		Origin     string    `json:"origin"`
		Exportable bool      `json:"exportable"`
		PolicyHash string    `json:"release_policy_sha256,omitempty"`
		Immutable  bool      `json:"release_policy_immutable,omitempty"`
		Thumbprint string    `json:"jkt,omitempty"`
		Stated     time.Time `json:"stated"`
		File       string    `json:"file,omitempty"`
	}{true, s.domain, domain != "", s.Kid, s.Type, s.Bits, s.Curve, s.Ops, s.Origin, s.Exportable, s.PolicyHash, s.PolicyImmutable, s.Thumbprint, stated, out.path}
	if out.path != standard && domain == "" {
		a.say("compare the domain ID with the one that was written down at the ceremony")
	}
	return a.resultBeside(out, result, func(t *table) {
		t.row("the attestation holds")
		t.field("domain", s.domain)
		if domain != "" {
			t.field("compared", "it is the one that was given with --domain")
		}
		t.field("kid", s.Kid)
		t.field("type", keyView{Type: s.Type, Bits: s.Bits, Curve: s.Curve}.kind())
		t.field("operations", strings.Join(s.Ops, ", "))
		t.field("origin", map[string]string{"generated": "generated in an HSM of this domain", "imported": "imported: it may be known outside"}[s.Origin])
		t.field("exportable", strconv.FormatBool(s.Exportable))
		t.field("release policy", s.PolicyHash)
		t.field("thumbprint", s.Thumbprint)
		t.field("stated", stated.Format(time.RFC3339))
		t.field("file", out.path)
	})
}
