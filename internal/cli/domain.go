package cli

import (
	"bytes"
	"context"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"strongroom/internal/client"
	"strongroom/securitydomain"
)

func (a *app) domainCommand() *cobra.Command {
	return noun("domain", "The security domain of an HSM", `The security domain is the set of secrets that an HSM lives by. The SD file is that set, encrypted so that a quorum
of custodians opens it together.

Take ownership of a new HSM:  domain download
Recover on another HSM:       domain init-recovery, then domain restore-blob (offline), then domain upload
Look:                         domain status, domain inspect, domain public-key`,
		a.domainDownloadCommand(), a.domainInitRecoveryCommand(), a.domainRestoreBlobCommand(), a.domainUploadCommand(),
		a.domainCancelRecoveryCommand(), a.domainStatusCommand(), a.domainInspectCommand(), a.domainPublicKeyCommand())
}

// holder is a custodian as results name them: label, thumbprint, file.
type holder struct {
	Label      string `json:"label,omitempty"`
	Thumbprint string `json:"x5t_256,omitempty"`
	File       string `json:"file,omitempty"`
}

func (t *table) holders(list []holder) {
	t.heading("CUSTODIANS")
	t.row("LABEL", "THUMBPRINT", "FILE")
	for _, h := range list {
		t.row(first(h.Label, "?"), h.Thumbprint, h.File)
	}
}

func (a *app) domainDownloadCommand() *cobra.Command {
	var (
		custodians []string
		quorum     int
		out        string
		force      bool
	)
	cmd := a.verb("download", "Take ownership: get the SD file", `Has the HSM encrypt its security domain to the custodians' certificates (3 to 10 of them) and writes the SD file.
On a new HSM this makes the domain and activates the HSM. It can be repeated with other custodians: the domain stays
the same, and older SD files keep working, so destroy them when the new one is proven.

Keep copies of the SD file in several places. Without it and a quorum of custodians nobody, the maker of this
program included, can bring the HSM back.`, 0,
		func(cmd *cobra.Command, _ []string) error {
			return a.domainDownload(cmd, custodians, quorum, out, force)
		})
	flags := cmd.Flags()
	flags.StringArrayVar(&custodians, "custodian", nil, "certificate of a custodian; give it once for each")
	flags.IntVar(&quorum, "quorum", 0, "how many custodians open the SD file, at least 2")
	flags.StringVar(&out, "out", "", "SD file to write")
	flags.BoolVar(&force, "force", false, "replace the file if it exists")
	return a.connected(a.requireFlags(cmd, "custodian", "quorum", "out"), settingURL)
}

func (a *app) domainDownload(cmd *cobra.Command, files []string, quorum int, out string, force bool) error {
	var certs []*x509.Certificate
	for _, file := range files {
		cert, err := readCertificate(cmd.Context(), file)
		if err != nil {
			return err
		}
		certs = append(certs, cert)
	}
	warnings, err := securitydomain.CheckCustodians(certs, quorum, a.now())
	if n := len(certs); err != nil && (n < securitydomain.MinCustodians || n > securitydomain.MaxCustodians) {
		p := explain(err)
		p.next = fmt.Sprintf("give --custodian once for each certificate, %d to %d times; a pair is made with: strongroom custodian new NAME --out DIR", securitydomain.MinCustodians, securitydomain.MaxCustodians)
		return p
	}
	if err != nil {
		return withFile(err, files)
	}
	for _, w := range warnings {
		a.warn("%s", w.Message)
	}
	if err := checkTarget(out, force, files...); err != nil {
		return err
	}
	hsm, err := a.hsm(cmd)
	if err != nil {
		return err
	}
	got, err := hsm.DownloadDomain(cmd.Context(), certs, quorum)
	if err != nil && cmd.Context().Err() != nil {
		return &problem{
			code: "interrupted", message: "interrupted; no SD file was written, and the HSM may have made its domain all the same",
			next: "run it again: the domain stays the same", cause: err,
		}
	}
	if err != nil {
		return err
	}
	// First the file, then everything else: from here on it is what the HSM's life hangs on.
	if err := writeFile(out, got.File, secretFile, force); err != nil {
		p := explain(err)
		p.message += "; the HSM is activated, and there is no SD file yet"
		p.next = "run it again with a place that can be written to: the domain stays the same"
		return p
	}
	a.say("the SD file is written to %s", out)
	inspection, err := verifyDownload(got.File, certs, quorum)
	if err != nil {
		return problemf("bad-answer", "do not use this HSM; run domain download again, or ask who runs it", "the SD file in %s is not what was asked for: %v", out, err)
	}
	if len(warnings) == 0 { // else they are the same
		for _, w := range got.Warnings {
			a.warn("%s", w)
		}
	}
	for _, w := range inspection.Warnings {
		a.warn("%s", w.Message)
	}
	if err := hsm.WaitDomain(cmd.Context(), client.Download); err != nil {
		return &problem{code: "download-unfinished", message: "the SD file is written, and the HSM does not say that it is activated: " + explain(err).message, next: "strongroom domain status", cause: err}
	}
	result := struct {
		File       string   `json:"file"`
		HSM        string   `json:"hsm_url"`
		DomainID   string   `json:"domain_id,omitempty"`
		Required   int      `json:"required"`
		Total      int      `json:"total"`
		Signature  string   `json:"signature"`
		Custodians []holder `json:"custodians"`
		Warnings   []string `json:"warnings,omitempty"`
	}{File: out, HSM: hsm.Address(), Required: quorum, Total: len(certs), Signature: inspection.Signature, Warnings: a.warned()}
	if inspection.Extension != nil {
		result.DomainID = inspection.Extension.DomainID
	}
	for i, cert := range certs {
		result.Custodians = append(result.Custodians, holder{cert.Subject.CommonName, securitydomain.Thumbprint(cert), files[i]})
	}
	return a.result(result, func(t *table) {
		t.field("SD file", out)
		t.field("domain", result.DomainID)
		t.field("quorum", fmt.Sprintf("%d of %d custodians", quorum, len(certs)))
		t.holders(result.Custodians)
	})
}

// withFile puts the file's name in front of a refused certificate, which is known by its number only.
func withFile(err error, files []string) error {
	domain, ok := errors.AsType[*securitydomain.Error](err)
	var number int
	if !ok {
		return err
	}
	if _, scanErr := fmt.Sscanf(domain.Custodian, "certificate %d", &number); scanErr != nil || number < 1 || number > len(files) {
		return err
	}
	p := explain(err)
	p.message = files[number-1] + ": " + p.message
	return p
}

// verifyDownload reads the SD file as somebody else would on the day of recovery, and compares it with what was
// asked for. It cannot tell whether the shares fit: that takes the custodians' private keys.
func verifyDownload(file []byte, certs []*x509.Certificate, quorum int) (securitydomain.Inspection, error) {
	parsed, err := securitydomain.Parse(file)
	if err != nil {
		return securitydomain.Inspection{}, err
	}
	in := parsed.Inspect()
	if in.Required != quorum {
		return in, fmt.Errorf("it is for a quorum of %d, not of %d", in.Required, quorum)
	}
	var want, have []string
	for _, cert := range certs {
		want = append(want, securitydomain.Thumbprint(cert))
	}
	for _, c := range in.Custodians {
		if c.Damage != "" {
			return in, fmt.Errorf("custodian %d: %s", c.Position, c.Damage)
		}
		have = append(have, c.X5T256)
	}
	slices.Sort(want)
	slices.Sort(have)
	if !slices.Equal(want, have) {
		return in, errors.New("it is for other custodians")
	}
	if in.Signature == securitydomain.SignatureInvalid {
		return in, errors.New("its signature does not hold")
	}
	return in, nil
}

func (a *app) domainInitRecoveryCommand() *cobra.Command {
	var (
		out   string
		force bool
	)
	cmd := a.verb("init-recovery", "Begin a recovery: get the exchange certificate", `Puts a new HSM into recovery and writes the certificate of its exchange key. The certificate is public; take it to
where the custodians meet. Asking again gives the same one, until it was used or the recovery was cancelled.`, 0,
		func(cmd *cobra.Command, _ []string) error {
			if err := checkTarget(out, force); err != nil {
				return err
			}
			hsm, err := a.hsm(cmd)
			if err != nil {
				return err
			}
			cert, err := hsm.ExchangeKey(cmd.Context())
			if err != nil {
				return err
			}
			if err := writeFile(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}), publicFile, force); err != nil {
				return err
			}
			a.say("next, where SD file and keys are: strongroom domain restore-blob --sd SD.json --exchange %s --key A.key --key B.key --out BLOB.json", out)
			result := struct {
				Exchange   string    `json:"exchange"`
				HSM        string    `json:"hsm_url"`
				Thumbprint string    `json:"x5t_256"`
				Expires    time.Time `json:"expires"`
			}{out, hsm.Address(), securitydomain.Thumbprint(cert), cert.NotAfter.UTC()}
			return a.result(result, func(t *table) {
				t.field("exchange certificate", out)
				t.field("thumbprint", result.Thumbprint)
				t.field("expires", result.Expires.Format(time.DateOnly))
			})
		})
	cmd.Flags().StringVar(&out, "out", "", "certificate file to write")
	cmd.Flags().BoolVar(&force, "force", false, "replace the file if it exists")
	return a.connected(a.requireFlags(cmd, "out"), settingURL)
}

// opening are the flags of commands that open an SD file with custodians' keys.
type opening struct {
	sd          string
	exchange    string // path of the exchange certificate; "" if the HSM is asked for it
	keys        []string
	passphrases []string
}

func (o *opening) flags(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&o.sd, "sd", "", "SD file")
	flags.StringArrayVar(&o.keys, "key", nil, "private key of a custodian; give it once for each. More than the quorum are welcome")
	flags.StringArrayVar(&o.passphrases, "passphrase-file", nil, "file with a passphrase, tried on each encrypted key; may be given several times; without it the terminal asks")
}

// open opens the SD file and says whose shares were used. exchange is the certificate that the domain is going to be
// encrypted to, nil if it is not known yet.
func (a *app) open(ctx context.Context, o opening, exchange *x509.Certificate) (*securitydomain.Opened, error) {
	data, err := readFile(ctx, o.sd, maxDomainFile)
	if err != nil {
		return nil, err
	}
	file, err := securitydomain.Parse(data)
	if err != nil {
		return nil, inFile(err, o.sd, data)
	}
	if exchange != nil {
		if err := checkExchange(exchange, file.Inspect(), o.exchange); err != nil {
			return nil, err
		}
	}
	keys, err := a.readKeys(ctx, o.keys, o.passphrases)
	if err != nil {
		return nil, err
	}
	for _, key := range keys {
		if public, ok := key.Decrypter.Public().(*rsa.PublicKey); ok && exchange != nil && public.Equal(exchange.PublicKey) {
			return nil, exchangeProblem(o.exchange, key.Name)
		}
	}
	opened, err := securitydomain.Open(file, keys)
	if err != nil {
		return nil, inFile(err, o.sd, nil)
	}
	for _, w := range opened.Warnings {
		a.warn("%s", w.Message)
	}
	return opened, nil
}

// checkExchange refuses the certificate of a custodian where that of an exchange key belongs: whoever has its key
// could open the transfer file alone, and a quorum would be no more.
func checkExchange(exchange *x509.Certificate, in securitydomain.Inspection, path string) error {
	thumbprint, spki := securitydomain.Thumbprint(exchange), sha256.Sum256(exchange.RawSubjectPublicKeyInfo)
	for _, c := range in.Custodians {
		if c.X5T256 == thumbprint || c.SPKI256 == base64.RawURLEncoding.EncodeToString(spki[:]) {
			return exchangeProblem(path, first(c.Label, exchange.Subject.CommonName, "a custodian"))
		}
	}
	return nil
}

func exchangeProblem(path, whose string) error {
	return problemf("wrong-exchange-key", "give the certificate that domain init-recovery wrote",
		"%s is for the key of %s, a custodian, who could open the transfer file alone; nothing was written", path, whose)
}

// inFile names the file that an error is about, and says what else it seems to be. data may be nil.
func inFile(err error, path string, data []byte) error {
	p := explain(err)
	p.message = path + ": " + p.message
	p.next = strings.ReplaceAll(p.next, "SD.json", path)
	if p.next == "" && data != nil {
		p.next = "an SD file is the JSON that domain download wrote, a transfer file the JSON that domain restore-blob wrote"
		switch {
		case len(bytes.TrimSpace(data)) == 0:
			p.next = "the file is empty: take another copy"
		case bytes.Contains(data, []byte("-----BEGIN ")):
			p.next = "it is a key or a certificate; " + p.next
		}
	}
	return p
}

func wipe(items []securitydomain.Item) {
	for _, item := range items {
		item.Value.Wipe()
	}
}

func (a *app) domainRestoreBlobCommand() *cobra.Command {
	var (
		o     opening
		out   string
		force bool
	)
	cmd := a.verb("restore-blob", "Make the transfer file (offline)", `Opens the SD file with the keys of a quorum of custodians and encrypts it again to the exchange key of the HSM that
is being recovered. Nothing in the clear is written, and nothing is sent: run it on a machine without a network, and
carry SD file and exchange certificate in, and the transfer file out.

A key finds its share by itself; its certificate beside it (same name, .cer) is not needed.`, 0,
		func(cmd *cobra.Command, _ []string) error {
			if err := checkTarget(out, force, append(append(append([]string{o.sd, o.exchange}, o.keys...), certificatesBeside(o.keys)...), o.passphrases...)...); err != nil {
				return err
			}
			cert, err := readCertificate(cmd.Context(), o.exchange)
			if err != nil {
				return err
			}
			opened, err := a.open(cmd.Context(), o, cert)
			if err != nil {
				return err
			}
			defer wipe(opened.Items)
			blob, err := securitydomain.MakeTransfer(a.rand, opened.Items, cert)
			if err != nil {
				return err
			}
			if err := cmd.Context().Err(); err != nil {
				return err
			}
			if err := writeFile(out, blob, secretFile, force); err != nil {
				return err
			}
			a.say("next, where the HSM is: strongroom domain upload --blob %s", out)
			result := struct {
				File       string                       `json:"file"`
				Exchange   string                       `json:"exchange_x5t_256"`
				DomainID   string                       `json:"domain_id,omitempty"`
				Items      []string                     `json:"items"`
				Used       []securitydomain.ShareReport `json:"used"`
				PassedOver []securitydomain.ShareReport `json:"passed_over,omitempty"`
				Warnings   []string                     `json:"warnings,omitempty"`
			}{
				File: out, Exchange: securitydomain.Thumbprint(cert), DomainID: opened.DomainID,
				Used: opened.Used, PassedOver: opened.PassedOver, Warnings: a.warned(),
			}
			for _, item := range opened.Items {
				result.Items = append(result.Items, item.Tag)
			}
			return a.result(result, func(t *table) {
				t.field("transfer file", out)
				t.field("domain", first(opened.DomainID, "not said in the SD file"))
				t.field("for the exchange key", result.Exchange)
				t.reports(opened)
			})
		})
	o.flags(cmd)
	cmd.Flags().StringVar(&o.exchange, "exchange", "", "exchange certificate of the HSM that is being recovered")
	cmd.Flags().StringVar(&out, "out", "", "transfer file to write")
	cmd.Flags().BoolVar(&force, "force", false, "replace the file if it exists")
	return a.requireFlags(cmd, "sd", "exchange", "key", "out")
}

// reports lists whose shares were used, and whose were of no use and why.
func (t *table) reports(o *securitydomain.Opened) {
	t.heading("SHARES")
	t.row("CUSTODIAN", "KEY", "USED")
	for _, r := range o.Used {
		t.row(r.Custodian, r.Key, "yes")
	}
	for _, r := range o.PassedOver {
		t.row(first(r.Custodian, "-"), r.Key, "no: "+r.Reason)
	}
}

func (a *app) domainUploadCommand() *cobra.Command {
	var (
		o    opening
		blob string
	)
	cmd := a.verb("upload", "Recover: hand over the transfer file", `Hands a transfer file to an HSM in recovery, which activates it with the domain inside. Or, where keys may be read
on a machine with a network, does it all in one go: --sd and --key make the transfer file in memory.`, 0,
		func(cmd *cobra.Command, _ []string) error {
			flags := cmd.Flags()
			switch {
			case blob != "" && (flags.Changed("sd") || flags.Changed("key")):
				return a.usage(cmd, errors.New("give --blob, or --sd and --key, not both"))
			case blob != "" && flags.Changed("passphrase-file"):
				return a.usage(cmd, errors.New("--passphrase-file is for --key; a transfer file has no passphrase"))
			case blob == "" && (!flags.Changed("sd") || !flags.Changed("key")):
				return a.usage(cmd, errors.New("give --blob, or --sd and --key"))
			}
			return a.domainUpload(cmd, o, blob)
		})
	o.flags(cmd)
	cmd.Flags().StringVar(&blob, "blob", "", "transfer file that restore-blob made")
	return a.connected(cmd, settingURL)
}

func (a *app) domainUpload(cmd *cobra.Command, o opening, blob string) error {
	hsm, err := a.hsm(cmd)
	if err != nil {
		return err
	}
	var transfer []byte
	if blob != "" {
		// Parsed here first: a wrong file is told at once, and in the words of whoever holds it.
		if transfer, err = readFile(cmd.Context(), blob, maxDomainFile); err != nil {
			return err
		}
		if _, err := securitydomain.ParseTransfer(transfer); err != nil {
			return inFile(err, blob, transfer)
		}
	} else {
		opened, err := a.open(cmd.Context(), o, nil)
		if err != nil {
			return err
		}
		defer wipe(opened.Items)
		cert, err := hsm.ExchangeKey(cmd.Context())
		if err != nil {
			return err
		}
		if transfer, err = securitydomain.MakeTransfer(a.rand, opened.Items, cert); err != nil {
			return err
		}
	}
	if err := hsm.UploadDomain(cmd.Context(), transfer); err != nil {
		return err
	}
	if err := hsm.WaitDomain(cmd.Context(), client.Upload); err != nil {
		return &problem{code: "upload-unfinished", message: "the HSM has taken the transfer file, and does not say that it is activated: " + explain(err).message, next: "strongroom domain status", cause: err}
	}
	result := struct {
		HSM      string   `json:"hsm_url"`
		State    string   `json:"state"`
		DomainID string   `json:"domain_id,omitempty"`
		Warnings []string `json:"warnings,omitempty"`
	}{HSM: hsm.Address(), State: "activated", Warnings: a.warned()}
	if state, err := hsm.DomainState(cmd.Context()); err == nil { // Strongroom's own route; the upload is done either way
		result.DomainID = state.DomainID
	}
	a.say("next: bring its keys back, all of them with strongroom restore start --from BACKUP, or one with strongroom key restore --file FILE")
	return a.result(result, func(t *table) {
		t.field("hsm", result.HSM)
		t.field("state", result.State)
		t.field("domain", result.DomainID)
	})
}

func (a *app) domainCancelRecoveryCommand() *cobra.Command {
	cmd := a.verb("cancel-recovery", "Give a recovery up", `Destroys the exchange key of an HSM in recovery: it is provisioned again, as new, and transfer files that were made
for that key are worth nothing. Use it when the exchange certificate may have been exchanged by somebody else.`, 0,
		func(cmd *cobra.Command, _ []string) error {
			hsm, err := a.hsm(cmd)
			if err != nil {
				return err
			}
			if err := hsm.CancelRecovery(cmd.Context()); err != nil {
				return err
			}
			return a.result(map[string]string{"hsm_url": hsm.Address(), "state": "provisioned"}, func(t *table) {
				t.field("hsm", hsm.Address())
				t.field("state", "provisioned")
			})
		})
	return a.connected(cmd, settingURL)
}

func (a *app) domainStatusCommand() *cobra.Command {
	cmd := a.verb("status", "Show where an HSM is, and what to do next", "", 0,
		func(cmd *cobra.Command, _ []string) error {
			hsm, err := a.hsm(cmd)
			if err != nil {
				return err
			}
			result := struct {
				HSM        string   `json:"hsm_url"`
				Name       string   `json:"hsm,omitempty"`
				State      string   `json:"state"`
				DomainID   string   `json:"domain_id,omitempty"`
				Activated  string   `json:"activated,omitempty"`
				Required   int      `json:"required,omitempty"`
				Custodians []string `json:"custodians,omitempty"`
				Detail     string   `json:"detail,omitempty"`
				Next       string   `json:"next,omitempty"`
			}{HSM: hsm.Address()}
			state, err := hsm.DomainState(cmd.Context())
			switch refused, ok := errors.AsType[*client.Error](err); {
			case err == nil:
				result.Name, result.State, result.DomainID, result.Activated = state.HSM, state.State, state.DomainID, state.Activated
				result.Required, result.Custodians = state.Required, state.Custodians
			case ok && refused.Status == 404:
				// Not a Strongroom server. What all of them tell is how the last operation went.
				operation, err := hsm.DomainStatus(cmd.Context(), client.Upload)
				if err != nil {
					return err
				}
				result.State, result.Detail = strings.ToLower(operation.Status), operation.StatusDetails
			default:
				return err
			}
			result.Next = nextStep(result.State)
			return a.result(result, func(t *table) {
				t.field("hsm", first(result.Name, result.HSM))
				t.field("state", result.State)
				t.field("domain", result.DomainID)
				t.field("activated", result.Activated)
				if result.Required > 0 {
					t.field("quorum", fmt.Sprintf("%d of %d custodians (of the newest SD file made here)", result.Required, len(result.Custodians)))
				}
				t.field("custodians", strings.Join(result.Custodians, ", "))
				t.field("detail", result.Detail)
				t.field("next", result.Next)
			})
		})
	return a.connected(cmd, settingURL)
}

// nextStep is what an HSM in a state waits for.
func nextStep(state string) string {
	switch state {
	case "provisioned":
		return "take ownership: strongroom domain download; or recover: strongroom domain init-recovery"
	case "recovering":
		return "make the transfer file: strongroom domain restore-blob; then: strongroom domain upload"
	}
	return ""
}

func (a *app) domainInspectCommand() *cobra.Command {
	var certificates []string
	cmd := a.verb("inspect SD-FILE", "Show what an SD file says, and what it does not (offline)", `Reads an SD file, from Strongroom or from Azure, and shows the quorum, the custodians, what is inside and what
cannot be known from it. No key is needed and nothing is sent. A transfer file is recognised, too.`, 1,
		func(cmd *cobra.Command, args []string) error {
			return a.domainInspect(cmd.Context(), args[0], certificates)
		})
	cmd.Flags().StringArrayVar(&certificates, "custodian", nil, "certificate to find among the custodians; may be given several times")
	cmd.ValidArgsFunction = nil // files
	return cmd
}

func (a *app) domainInspect(ctx context.Context, path string, certificates []string) error {
	type known struct{ label, file string }
	files := map[string]known{} // by thumbprint
	for _, file := range certificates {
		cert, err := readCertificate(ctx, file)
		if err != nil {
			return err
		}
		files[securitydomain.Thumbprint(cert)] = known{cert.Subject.CommonName, file}
	}
	data, err := readFile(ctx, path, maxDomainFile)
	if err != nil {
		return err
	}
	parsed, err := securitydomain.Parse(data)
	if err != nil {
		if transfer, notTransfer := securitydomain.ParseTransfer(data); notTransfer == nil {
			return a.showTransfer(path, transfer)
		}
		return inFile(err, path, data)
	}
	in := parsed.Inspect()
	// What the file says, and beside it, kept apart, what the given certificates say.
	type custodian struct {
		securitydomain.InspectedCustodian
		File             string `json:"file,omitempty"`
		CertificateLabel string `json:"certificate_label,omitempty"`
	}
	type inspection struct {
		Kind string `json:"kind"`
		securitydomain.Inspection
		Custodians []custodian `json:"custodians"`
	}
	result := inspection{Kind: "sd-file", Inspection: in}
	for _, c := range in.Custodians {
		match := files[c.X5T256]
		delete(files, c.X5T256)
		result.Custodians = append(result.Custodians, custodian{c, match.file, match.label})
	}
	for _, w := range in.Warnings {
		a.warn("%s", w.Message)
	}
	var strangers []string
	for _, k := range files {
		strangers = append(strangers, k.file)
	}
	slices.Sort(strangers)
	for _, file := range strangers {
		a.warn("%s is the certificate of none of the custodians; its key may still be one's, if the certificate was renewed", file)
	}
	return a.result(result, func(t *table) {
		t.row("SD file", fmt.Sprintf("%s (version %d, %s)", path, in.Version, originText(in.Origin)))
		t.row("quorum", fmt.Sprintf("%d of %d custodians", in.Required, in.Total))
		if e := in.Extension; e != nil {
			t.field("domain", e.DomainID)
			t.field("hsm", e.HSM)
			t.field("made", e.Created.UTC().Format(time.RFC3339))
		}
		t.row("signature", in.Signature)
		t.row("algorithms", in.KeyAlgorithm+", "+in.KDF)
		t.heading("CUSTODIANS")
		t.row("NO", "LABEL", "THUMBPRINT", "FILE", "SHARE")
		for _, c := range result.Custodians {
			share := "no check value"
			switch {
			case c.Damage != "":
				share = "damaged: " + c.Damage
			case c.HasCheck:
				share = "has a check value"
			}
			t.row(strconv.Itoa(c.Position), first(c.Label, c.CertificateLabel, "?"), first(c.X5T256, "?"), first(c.File, "-"), share)
		}
		t.heading("ITEMS")
		t.row("TAG", "BYTES")
		for _, item := range in.Items {
			t.row(item.Tag, strconv.Itoa(item.Bytes))
		}
		t.heading("NOT KNOWN FROM THE FILE, OR NOT CERTAIN")
		for _, note := range in.Notes {
			t.row("- " + note)
		}
		if len(in.Unknown) > 0 {
			t.row("- What these names mean: " + strings.Join(in.Unknown, ", ") + ".")
		}
	})
}

func originText(origin string) string {
	switch origin {
	case securitydomain.OriginStrongroom:
		return "made by Strongroom"
	case securitydomain.OriginAzure:
		return "as Azure makes them"
	}
	return "of unknown origin"
}

func (a *app) showTransfer(path string, transfer *securitydomain.Transfer) error {
	result := struct {
		Kind     string   `json:"kind"`
		Exchange string   `json:"exchange_x5t_256"`
		Items    []string `json:"items"`
	}{"transfer-file", transfer.X5T256, transfer.Tags}
	return a.result(result, func(t *table) {
		t.row("transfer file", path)
		t.row("for the exchange key", transfer.X5T256)
		t.row("items", strings.Join(transfer.Tags, ", "))
	})
}
