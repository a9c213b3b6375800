package dataplane

import (
	"bytes"
	"context"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	"net/http"
	"strings"
	"time"

	"strongroom/internal/api"
	"strongroom/internal/failure"
	"strongroom/internal/hsm"
)

// maxCertificates bounds the list before anything in it is parsed; the rule of 3 to 10 is the core's.
const maxCertificates = 64

func downloadDomain(ctx context.Context, c *call) (answer, error) {
	request, err := decode[api.CertificateInfo](c)
	if err != nil {
		return answer{}, err
	}
	if len(request.Certificates) > maxCertificates {
		return answer{}, failure.Coded(failure.BadParameter, "SecurityDomainBadCustodian", "%d certificates were given; a security domain has 3 to 10 custodians. Nothing was changed", len(request.Certificates))
	}
	var list []*x509.Certificate
	for i, jwk := range request.Certificates {
		certificate, err := custodianCertificate(jwk)
		if err != nil {
			return answer{}, failure.Coded(failure.BadParameter, "SecurityDomainBadCustodian", "certificate %d: %v. Nothing was changed", i+1, err)
		}
		list = append(list, certificate)
	}
	d, err := c.hsm.Download(ctx, c.caller, list, request.Required)
	if err != nil {
		return answer{}, err
	}
	header := pending(c, "download")
	if len(d.Warnings) > 0 {
		var texts []string
		for _, w := range d.Warnings {
			texts = append(texts, w.Message)
		}
		header["Warning"] = "299 strongroom " + quoted(strings.Join(texts, "; "))
	}
	return answer{status: http.StatusAccepted, header: header, body: api.SecurityDomainValue{Value: string(d.File)}}, nil
}

// custodianCertificate takes a custodian's certificate from its JWK. Everything is read from x5c[0], the one
// member that all clients fill rightly; what else is given must agree with it, or somebody is mistaken about
// whose key this is.
func custodianCertificate(jwk api.CertificateJWK) (*x509.Certificate, error) {
	if len(jwk.X5C) != 1 {
		return nil, fmt.Errorf("x5c must hold exactly one certificate, not %d", len(jwk.X5C))
	}
	if kty := jwk.Kty; kty != "RSA" && kty != "RSA-HSM" && kty != "" {
		return nil, fmt.Errorf("custodian keys are RSA keys")
	}
	text := jwk.X5C[0]
	if len(text) > 16<<10 {
		return nil, fmt.Errorf("the certificate is too large")
	}
	der, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil {
		return nil, fmt.Errorf("x5c is not standard base64")
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("x5c does not hold a certificate in DER")
	}
	public, ok := certificate.PublicKey.(*rsa.PublicKey)
	if !ok {
		return nil, fmt.Errorf("custodian keys are RSA keys")
	}
	if jwk.N != "" && !sameNumber(jwk.N, public.N) {
		return nil, fmt.Errorf("n is not the modulus of the certificate in x5c")
	}
	if jwk.E != "" && !sameNumber(jwk.E, big.NewInt(int64(public.E))) {
		return nil, fmt.Errorf("e is not the exponent of the certificate in x5c")
	}
	sum1, sum256 := sha1.Sum(der), sha256.Sum256(der)
	if jwk.X5T != "" && !sameBytes(jwk.X5T, sum1[:]) {
		return nil, fmt.Errorf("x5t is not the thumbprint of the certificate in x5c")
	}
	// Terraform's provider hashes the base64 text instead of the certificate. That exact value is let pass.
	sumText := sha256.Sum256([]byte(text))
	if jwk.X5TS256 != "" && !sameBytes(jwk.X5TS256, sum256[:]) && !sameBytes(jwk.X5TS256, sumText[:]) {
		return nil, fmt.Errorf("x5t#S256 is not the thumbprint of the certificate in x5c")
	}
	return certificate, nil
}

func sameBytes(text string, want []byte) bool {
	got, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(text, "="))
	return err == nil && bytes.Equal(got, want)
}

func sameNumber(text string, want *big.Int) bool {
	got, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(text, "="))
	return err == nil && len(got) <= 1024 && new(big.Int).SetBytes(got).Cmp(want) == 0
}

// exchangeKey answers with a JWK as JSON text inside a string, which the documents call an object and every
// client reads as a string.
func exchangeKey(ctx context.Context, c *call) (answer, error) {
	certificate, err := c.hsm.ExchangeKey(ctx, c.caller)
	if err != nil {
		return answer{}, err
	}
	public, isRSA := certificate.PublicKey.(*rsa.PublicKey)
	if !isRSA {
		return answer{}, failure.New(failure.Internal, "the exchange key is not an RSA key")
	}
	sum1, sum256 := sha1.Sum(certificate.Raw), sha256.Sum256(certificate.Raw)
	text, err := json.Marshal(api.CertificateJWK{
		Kty: "RSA", Kid: "not used",
		E: base64.RawURLEncoding.EncodeToString(big.NewInt(int64(public.E)).Bytes()), N: base64.RawURLEncoding.EncodeToString(public.N.Bytes()),
		KeyOps: []string{"wrapKey", "verify", "encrypt"}, X5C: []string{base64.StdEncoding.EncodeToString(certificate.Raw)},
		X5T: base64.RawURLEncoding.EncodeToString(sum1[:]), X5TS256: base64.RawURLEncoding.EncodeToString(sum256[:]),
	})
	if err != nil {
		return answer{}, failure.Wrap(failure.Internal, err, "the exchange key cannot be written")
	}
	return ok(api.TransferKey{KeyFormat: "jwk", TransferKey: string(text)})
}

func uploadDomain(ctx context.Context, c *call) (answer, error) {
	request, err := decode[api.SecurityDomainValue](c)
	if err != nil {
		return answer{}, err
	}
	if request.Value == "" {
		return answer{}, failure.Coded(failure.BadParameter, "SecurityDomainMalformed", "value is empty; it must hold the text of a transfer file (restore blob). Nothing was changed")
	}
	if _, err := c.hsm.Upload(ctx, c.caller, []byte(request.Value)); err != nil {
		return answer{}, err
	}
	return answer{status: http.StatusAccepted, header: pending(c, "upload"), body: status(hsm.Operation{Status: "InProgress", Detail: "Security Domain restore is in progress"})}, nil
}

func downloadStatus(ctx context.Context, c *call) (answer, error) {
	op, err := c.hsm.DownloadStatus(ctx, c.caller)
	return answer{status: http.StatusOK, header: pending(c, "download"), body: status(op)}, err
}

func uploadStatus(ctx context.Context, c *call) (answer, error) {
	op, err := c.hsm.UploadStatus(ctx, c.caller)
	return answer{status: http.StatusOK, header: pending(c, "upload"), body: status(op)}, err
}

func cancelRecovery(ctx context.Context, c *call) (answer, error) {
	return answer{status: http.StatusNoContent}, c.hsm.CancelRecovery(ctx, c.caller)
}

func describeDomain(ctx context.Context, c *call) (answer, error) {
	info, err := c.hsm.Describe(ctx, c.caller)
	if err != nil {
		return answer{}, err
	}
	state := api.DomainState{HSM: info.Name, State: string(info.State), DomainID: info.DomainID, Required: info.Required, Custodians: info.Custodians}
	if !info.Activated.IsZero() {
		state.Activated = info.Activated.UTC().Format(time.RFC3339)
	}
	return ok(state)
}

// pending are the headers of every long-running answer and poll: without Retry-After one client waits 30
// seconds, and one reads its first status from the URL in the header.
func pending(c *call, kind string) map[string]string {
	return map[string]string{"Azure-AsyncOperation": c.base + "/securitydomain/" + kind + "/pending", "Retry-After": "1"}
}

// status writes the details under both names that clients know.
func status(op hsm.Operation) api.OperationStatus {
	return api.OperationStatus{Status: op.Status, StatusDetails: op.Detail, StatusDetailsOld: op.Detail}
}

// quoted makes an HTTP quoted-string of printable ASCII.
func quoted(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, c := range []byte(s) {
		switch {
		case c == '"' || c == '\\':
			b.WriteByte('\\')
			b.WriteByte(c)
		case c >= ' ' && c < 0x7f:
			b.WriteByte(c)
		default:
			b.WriteByte('?')
		}
	}
	b.WriteByte('"')
	return b.String()
}
