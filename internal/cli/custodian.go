package cli

import (
	"context"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"strongroom/internal/custodian"
	"strongroom/internal/durable"
	"strongroom/secret"
	"strongroom/securitydomain"
)

func (a *app) custodianCommand() *cobra.Command {
	return noun("custodian", "Keys of the people who hold the security domain", `A custodian is a person with an RSA key pair. The certificate (NAME.cer) goes to whoever downloads the security
domain; the private key (NAME.key) stays with its owner, best on a medium that is kept in a safe.`,
		a.custodianNewCommand())
}

func (a *app) custodianNewCommand() *cobra.Command {
	var (
		bits           int
		passphraseFile string
		ask            bool
		out            string
		force          bool
	)
	cmd := a.verb("new NAME", "Make a custodian's key pair", `Makes NAME.key (the private key: PKCS #8 in PEM, readable by you only) and NAME.cer (the certificate). Both work
with this program and with az keyvault security-domain.

With a passphrase the private key is encrypted (AES-256, PBKDF2 with 600,000 rounds), and nobody can use the file
without it. Without one, whoever has the file has the share.`, 1,
		func(cmd *cobra.Command, args []string) error {
			return a.custodianNew(cmd.Context(), args[0], bits, passphraseFile, ask, out, force)
		})
	flags := cmd.Flags()
	flags.IntVar(&bits, "bits", custodian.DefaultBits, "size of the RSA key: 2048, 3072 or 4096")
	flags.StringVar(&passphraseFile, "passphrase-file", "", "file with the passphrase for the private key")
	flags.BoolVar(&ask, "ask-passphrase", false, "ask for the passphrase at the terminal")
	flags.StringVar(&out, "out", "", "folder to write to; made if it is missing")
	flags.BoolVar(&force, "force", false, "replace files that exist")
	cmd.MarkFlagsMutuallyExclusive("passphrase-file", "ask-passphrase")
	must(cmd.RegisterFlagCompletionFunc("bits", cobra.FixedCompletions([]string{"2048", "3072", "4096"}, cobra.ShellCompDirectiveNoFileComp)))
	must(cmd.MarkFlagDirname("out"))
	return a.requireFlags(cmd, "out")
}

func (a *app) custodianNew(ctx context.Context, name string, bits int, passphraseFile string, ask bool, out string, force bool) error {
	if err := custodian.CheckName(name); err != nil {
		return &problem{code: "bad-name", message: err.Error(), exit: exitUsage, cause: err}
	}
	if bits != 2048 && bits != 3072 && bits != 4096 {
		return &problem{code: "bad-bits", message: custodian.ErrBits.Error(), next: "leave --bits away for 3072", exit: exitUsage, cause: custodian.ErrBits}
	}
	keyFile, certFile := filepath.Join(out, name+".key"), filepath.Join(out, name+".cer")
	for _, path := range []string{keyFile, certFile} {
		if err := checkReplaceable(path, force); err != nil {
			return err
		}
	}
	var passphrase secret.Bytes
	switch {
	case passphraseFile != "":
		list, err := a.readPassphrases(ctx, []string{passphraseFile})
		if err != nil {
			return err
		}
		passphrase = list[0]
	case ask:
		var err error
		if passphrase, err = newPassphrase(ctx, name); err != nil {
			return err
		}
	}

	// The folder before the key, which takes a while.
	if err := durable.MkdirAll(out, 0o700); err != nil {
		return fileProblem(err)
	}
	if err := checkFolder(out); err != nil {
		return err
	}
	type pair struct {
		key  secret.Bytes
		cert []byte
	}
	made, err := unlessInterrupted(ctx, func() (p pair, err error) {
		defer passphrase.Wipe() // here: after an interrupt this is still at work
		p.key, p.cert, err = custodian.Generate(a.rand, name, bits, passphrase, a.now())
		return p, err
	})
	if err != nil {
		return err
	}
	defer made.key.Wipe()
	certs, err := custodian.ParseCertificates(made.cert)
	if err != nil {
		return err
	}
	if err := ctx.Err(); err != nil { // somebody gave up while the key was made
		return err
	}
	// The key first: a certificate without its key is a custodian who cannot act.
	if err := writeFile(keyFile, made.key.Reveal(), secretFile, force); err != nil {
		return err
	}
	if err := writeFile(certFile, made.cert, publicFile, force); err != nil {
		if !force {
			_ = durable.Remove(keyFile)
			return err
		}
		p := explain(err)
		p.next = "run it again: " + keyFile + " is a new key, and its certificate is missing"
		return p
	}
	if passphrase.IsZero() {
		a.warn("%s is not encrypted: whoever has the file has the share", keyFile)
	}
	result := struct {
		Name        string    `json:"name"`
		Key         string    `json:"key"`
		Certificate string    `json:"certificate"`
		Bits        int       `json:"bits"`
		Encrypted   bool      `json:"encrypted"`
		Thumbprint  string    `json:"x5t_256"`
		Expires     time.Time `json:"expires"`
		Warnings    []string  `json:"warnings,omitempty"`
	}{name, keyFile, certFile, bits, !passphrase.IsZero(), securitydomain.Thumbprint(certs[0]), certs[0].NotAfter.UTC(), a.warned()}
	return a.result(result, func(t *table) {
		t.row("private key", result.Key)
		t.row("certificate", result.Certificate)
		t.row("thumbprint", result.Thumbprint)
		t.row("expires", result.Expires.Format(time.DateOnly))
	})
}
