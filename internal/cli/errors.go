package cli

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"strongroom/internal/client"
	"strongroom/internal/custodian"
	"strongroom/securitydomain"
)

// problem is an error as the user sees it.
type problem struct {
	code    string // stable, for programs
	message string // what is wrong: one line
	next    string // what to type or do next; may be empty
	exit    int    // 0 means failed
	detail  any    // more for programs, as JSON; may be nil
	cause   error
}

func (p *problem) Error() string { return p.message }
func (p *problem) Unwrap() error { return p.cause }

func problemf(code, next, format string, args ...any) *problem {
	return &problem{code: code, next: next, message: fmt.Sprintf(format, args...)}
}

// fail prints an error and returns the exit code.
func (a *app) fail(err error) int {
	p := explain(err)
	if p.code == "KeyNotFound" && a.missing != "" {
		p.next = a.missing
	}
	if a.format == formatJSON {
		type body struct {
			Code    string `json:"code"`
			Message string `json:"message"`
			Next    string `json:"next,omitempty"`
			Detail  any    `json:"detail,omitempty"`
		}
		_ = writeJSON(a.err, struct {
			Error    body     `json:"error"`
			Warnings []string `json:"warnings,omitempty"`
		}{body{p.code, oneLine(p.message), p.next, p.detail}, a.warnings})
	} else {
		fmt.Fprintf(a.err, "%s %s\n", a.paint(red, "error:"), oneLine(p.message))
		if p.next != "" {
			fmt.Fprintf(a.err, "→ %s\n", oneLine(p.next))
		}
	}
	if p.exit == 0 {
		return exitFailed
	}
	return p.exit
}

// explain is the one place that turns errors of the packages below into words, a stable code and a way out.
func explain(err error) *problem {
	if p, ok := errors.AsType[*problem](err); ok {
		return p
	}
	p := &problem{code: "failed", message: err.Error(), cause: err}
	if domain, ok := errors.AsType[*securitydomain.Error](err); ok {
		p.code, p.next = string(domain.Kind), domainNext(domain)
		if domain.Custodian != "" || domain.Item != "" || domain.Required > 0 || len(domain.Shares) > 0 {
			p.detail = domain
		}
		return p
	}
	if refused, ok := errors.AsType[*client.Error](err); ok {
		p.code, p.next = refused.Code, serverNext(refused)
		if p.code == "" {
			p.code = fmt.Sprintf("http-%d", refused.Status)
		}
		p.detail = struct {
			Status     int    `json:"status"`
			ActivityID string `json:"activity_id,omitempty"`
		}{refused.Status, refused.ActivityID}
		return p
	}
	switch {
	case errors.Is(err, context.Canceled):
		p.code, p.message = "interrupted", "interrupted"
	case errors.Is(err, client.ErrNoCredentials):
		p.code, p.next = "no-credentials", "set STRONGROOM_AUTHORITY, _TENANT, _CLIENT_ID and _CLIENT_SECRET (a development server writes them to dev.env), or run: strongroom login"
	case errors.Is(err, client.ErrNoIssuer):
		p.code, p.next = "no-issuer", "check --authority and --tenant"
	case errors.Is(err, client.ErrAddress):
		p.code, p.next = "bad-address", "give the address as the server prints it when it is ready"
	case errors.Is(err, client.ErrAnswer):
		p.code, p.next = "bad-answer", "check that --url is the address of an HSM"
	case errors.Is(err, fs.ErrPermission):
		p.code, p.message, p.next = "permission-denied", pathMessage(err), "check the rights of the file and its folder"
	default:
		network(p, err)
	}
	return p
}

// network tells apart the ways in which a server cannot be reached. Go's text of them names the URL, which is no
// secret, and a chain of causes, which helps nobody who only mistyped a port.
func network(p *problem, err error) {
	request, ok := errors.AsType[*url.Error](err)
	if !ok {
		return
	}
	host := request.URL
	if u, err := url.Parse(request.URL); err == nil {
		host = u.Scheme + "://" + u.Host
	}
	p.code = "unreachable"
	var unknown x509.UnknownAuthorityError
	var name x509.HostnameError
	var invalid x509.CertificateInvalidError
	var verify *tls.CertificateVerificationError
	var dns *net.DNSError
	switch {
	case errors.As(err, &unknown):
		p.code, p.message = "untrusted-server", "the certificate of "+host+" is from an authority that is not trusted here"
		p.next = "give the server's CA with --ca FILE or STRONGROOM_CA; a development server keeps it in its data folder"
	case errors.As(err, &name):
		p.code, p.message, p.next = "untrusted-server", "the certificate of "+host+" is for another name", "use the name or address that the server's certificate was made for"
	case errors.As(err, &invalid), errors.As(err, &verify):
		p.code, p.message, p.next = "untrusted-server", "the certificate of "+host+" does not hold", "look at it with: openssl s_client -connect HOST:PORT"
	case errors.As(err, &dns):
		p.message, p.next = "there is no address for "+host, "check the name in --url"
	case request.Timeout():
		p.message, p.next = host+" did not answer in time", "try again; what was asked for may have been done"
	default:
		p.message, p.next = "cannot reach "+host, "check that the server runs and that the port is right"
	}
}

// domainNext is what to do about a security domain that cannot be made, opened or moved.
func domainNext(e *securitydomain.Error) string {
	switch string(e.Kind) {
	case "too-few-shares":
		return "see who the custodians are: strongroom domain inspect SD.json"
	case "not-a-custodian":
		return "see who the custodians are: strongroom domain inspect SD.json"
	case "bad-quorum":
		return "choose a quorum of at least 2 and at most the number of custodians"
	case "bad-custodian":
		return "make a pair for each person with: strongroom custodian new NAME --out DIR"
	case "wrong-exchange-key":
		return "take the exchange certificate of the HSM that is being recovered: strongroom domain init-recovery --out X.cer"
	case "share-damaged", "shares-do-not-match", "item-damaged":
		return "fetch another copy of the SD file, or bring the keys of other custodians"
	case "unsupported-version", "unsupported-kdf", "unsupported-algorithm":
		return "see what this version reads: strongroom domain inspect --help"
	}
	return ""
}

// serverNext is what to do about a refusal whose message does not say it itself.
func serverNext(e *client.Error) string {
	switch {
	case e.Code == "invalid_client":
		return "check the client ID and secret, or run: strongroom login"
	case e.Status == 401:
		return "check --url or --server, and the credentials; or sign in anew: strongroom login"
	case e.Code == "HsmNotActivated":
		return "take ownership with: strongroom domain download, or recover with: strongroom domain init-recovery"
	case e.Code == "SecurityDomainMismatch":
		return "see which domain the HSM has with: strongroom domain status"
	case e.Code == "KeyNotFound":
		return "see what there is with: strongroom key list"
	case e.Code == "JobNotFound":
		return "see which there are with: strongroom backup list; whether it is a backup or a restore decides between backup status and restore status"
	case e.Code == "NoRestorePoint":
		return "nothing was changed; a backup can be restored instead: strongroom restore start"
	case e.Code == "RoleAssignmentNotFound":
		return "see what there is with: strongroom role assignment list --scope SCOPE"
	case e.Code == "RoleDefinitionNotFound":
		return "see what there is with: strongroom role definition list"
	case e.Code == "AccessDenied" || e.Code == "AuthorizationFailed":
		return "ask an administrator of the HSM for a role that allows it; an administrator gives it, also to himself, with: strongroom role assignment create"
	}
	return ""
}

// notActivated tells of an HSM that nobody has taken into possession yet. There a refusal about roles, which the server checks
// first, is no help: no role would let a key be made in it. Who may not even ask for the state is told of roles, as before.
func (a *app) notActivated(ctx context.Context, cmd *cobra.Command, err error) error {
	refused, ok := errors.AsType[*client.Error](err)
	if !ok || refused.Code != "AccessDenied" || a.asked == nil || !strings.HasPrefix(cmd.CommandPath(), "strongroom key ") {
		return err
	}
	state, unknown := a.asked.DomainState(ctx)
	if unknown != nil || state.State != "provisioned" && state.State != "recovering" {
		return err
	}
	p := explain(err)
	p.code, p.message = "HsmNotActivated", "the HSM "+first(state.HSM, a.asked.Address())+" is not activated, and nobody can use keys in it yet"
	p.next = nextStep(state.State) + `; then its administrator gives roles: strongroom role assignment create --role "Crypto User" --scope /keys --principal OBJECT-ID`
	return p
}

// inOwnWords puts the names of flags in the place of the API's in a refusal, for a command that hides the API's.
func inOwnWords(err error, words ...string) error {
	if _, ok := errors.AsType[*client.Error](err); !ok {
		return err
	}
	p := explain(err)
	p.message = strings.NewReplacer(words...).Replace(p.message)
	return p
}

// keyProblem says which key file is wrong, how, and what to type.
func keyProblem(file string, err error) error {
	p := &problem{code: "bad-key", message: fmt.Sprintf("%s: %v", file, err), cause: err}
	switch {
	case errors.Is(err, custodian.ErrIsCertificate):
		p.next = "give the .key file, not the .cer file"
	case errors.Is(err, custodian.ErrNotPEM):
		p.next = "a key file begins with -----BEGIN PRIVATE KEY-----; from DER: openssl pkey -inform DER -in FILE -out NAME.key"
	case errors.Is(err, custodian.ErrPassphraseNeeded):
		p.code, p.next = "passphrase-needed", "give --passphrase-file FILE, or run it in a terminal to be asked"
	case errors.Is(err, custodian.ErrPassphraseWrong):
		p.code, p.next = "passphrase-wrong", "check the passphrase: one file per passphrase, --passphrase-file may be given several times"
	case errors.Is(err, custodian.ErrWeakEncryption), errors.Is(err, custodian.ErrEncryption), errors.Is(err, custodian.ErrCostlyEncryption):
		p.next = "encrypt it anew: openssl pkcs8 -topk8 -v2 aes-256-cbc -iter 600000 -in " + file + " -out NEW.key"
	case errors.Is(err, custodian.ErrNotRSA), errors.Is(err, custodian.ErrWeakKey):
		p.next = "a custodian's key is RSA with 2048, 3072 or 4096 bits: strongroom custodian new NAME --out DIR"
	}
	return p
}

// certificateProblem is keyProblem for certificates.
func certificateProblem(file string, err error) error {
	p := &problem{code: "bad-certificate", message: fmt.Sprintf("%s: %v", file, err), cause: err}
	switch {
	case errors.Is(err, custodian.ErrIsPrivateKey):
		p.next = "give the .cer file; the .key file stays with its custodian"
	case errors.Is(err, custodian.ErrNotCertificate):
		p.next = "a certificate file begins with -----BEGIN CERTIFICATE-----"
	}
	return p
}

// pathMessage is the text of a file error without the system call.
func pathMessage(err error) string {
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		return fmt.Sprintf("%s: %v", pe.Path, pe.Err)
	}
	return err.Error()
}
