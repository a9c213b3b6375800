package cli

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"strings"

	"github.com/spf13/cobra"

	"strongroom/securitydomain"
)

func (a *app) domainPublicKeyCommand() *cobra.Command {
	var (
		out  target
		want string
	)
	cmd := a.verb("public-key FILE", "Get a domain's public key out of an SD file (offline)", `Writes the public key of the domain as PEM: what audit verify and audit check-proof take as --key. Nothing in it is
secret, and no key is needed. Every SD file of a domain has the same public key.

The key's SHA-256 is the domain ID, which is printed: compare it with the one that was written down at the ceremony, or
give that one with --domain.`, 1,
		func(cmd *cobra.Command, args []string) error {
			if want = strings.ToLower(want); want != "" && !domainID.MatchString(want) {
				return a.usage(cmd, errors.New("--domain is no domain ID: it has 64 hexadecimal digits"))
			}
			if err := a.checkOut(cmd, out, args[0]); err != nil {
				return err
			}
			return a.domainPublicKey(cmd.Context(), args[0], want, out)
		})
	out.flags(cmd, "PEM file to write")
	cmd.Flags().StringVar(&want, "domain", "", "domain ID that was written down at the ceremony; another one is exit code 1")
	must(cmd.RegisterFlagCompletionFunc("domain", cobra.NoFileCompletions))
	cmd.ValidArgsFunction = nil // files
	return a.requireFlags(cmd, "out")
}

func (a *app) domainPublicKey(ctx context.Context, path, want string, out target) error {
	data, err := readFile(ctx, path, maxDomainFile)
	if err != nil {
		return err
	}
	file, err := securitydomain.Parse(data)
	if err != nil {
		return inFile(err, path, data)
	}
	key := file.SigningKey()
	if key == nil {
		if file.Inspect().Signature == securitydomain.SignatureAbsent {
			return problemf("no-public-key", "take an SD file that Strongroom made: strongroom domain download", "%s does not say what the domain's public key is: it is in the form of Azure", path)
		}
		return problemf("signature-does-not-hold", "fetch another copy of the SD file", "%s was changed after it was made: its signature does not hold, and the public key in it is not to be trusted", path)
	}
	id, err := securitydomain.DomainID(key)
	if err != nil {
		return err
	}
	if want != "" && id != want {
		return problemf("other-domain", "take the SD file of that domain", "%s is of the domain %s, and not of %s", path, id, want)
	}
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return err
	}
	if err := a.writeOut(out, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), publicFile); err != nil {
		return err
	}
	return a.resultBeside(out, struct {
		File     string `json:"file"`
		DomainID string `json:"domain_id"`
	}{out.path, id}, func(t *table) {
		t.field("public key", out.path)
		t.field("domain", id)
	})
}
