package client

import (
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
	"net/url"
	"strings"
	"time"

	"strongroom/internal/api"
)

// apiVersion is the data plane's version that is spoken; every Managed HSM since 2023 knows it.
const apiVersion = "7.4"

// domainDeadline bounds the wait for a download or upload to finish. The stock client gives up after 150 s.
const domainDeadline = 150 * time.Second

// HSM is the data plane of one HSM.
type HSM struct {
	c    *Client
	base *url.URL
}

// HSM returns the HSM at address, https://HOST[:PORT]. Nothing is sent yet.
func (c *Client) HSM(address string) (*HSM, error) {
	u, err := baseURL(address)
	if err != nil {
		return nil, err
	}
	return &HSM{c: c, base: u}, nil
}

// Address is the HSM's URL, without a trailing slash.
func (h *HSM) Address() string { return h.base.String() }

// call sends body to a path of the HSM and decodes the answer into out, unless out is nil.
func (h *HSM) call(ctx context.Context, method string, body, out any, path ...string) (answer, error) {
	return h.send(ctx, request{method: method, url: h.url(apiVersion, path...), body: body}, out)
}

func (h *HSM) url(version string, path ...string) *url.URL {
	u := h.base.JoinPath(escape(path)...)
	u.RawQuery = "api-version=" + version
	return u
}

func (h *HSM) send(ctx context.Context, r request, out any) (answer, error) {
	a, err := h.c.do(ctx, r)
	if err != nil || out == nil {
		return a, err
	}
	return a, a.into(out)
}

// escape keeps a name with a slash or dots in it one segment.
func escape(segments []string) []string {
	out := make([]string, len(segments))
	for i, s := range segments {
		out[i] = url.PathEscape(s)
		if s == "." || s == ".." {
			out[i] = strings.ReplaceAll(s, ".", "%2E")
		}
	}
	return out
}

// Downloaded is a security domain, encrypted to its custodians.
type Downloaded struct {
	File     []byte   // the SD file
	Warnings []string // what the server thinks of the certificates
}

// DownloadDomain asks for the security domain, encrypted to the given certificates, required of which will open it.
// On an HSM that is not activated this makes the domain and activates the HSM. The caller must store the file
// before anything else: the answer is not given twice, though it can be asked for again.
func (h *HSM) DownloadDomain(ctx context.Context, certificates []*x509.Certificate, required int) (Downloaded, error) {
	info := api.CertificateInfo{Required: required}
	for _, cert := range certificates {
		jwk, err := certificateJWK(cert)
		if err != nil {
			return Downloaded{}, err
		}
		info.Certificates = append(info.Certificates, jwk)
	}
	var value api.SecurityDomainValue
	a, err := h.call(ctx, http.MethodPost, info, &value, "securitydomain", "download")
	if err != nil {
		return Downloaded{}, err
	}
	if value.Value == "" {
		return Downloaded{}, fmt.Errorf("%w: it holds no security domain", ErrAnswer)
	}
	return Downloaded{File: []byte(value.Value), Warnings: warnings(a.header)}, nil
}

func certificateJWK(cert *x509.Certificate) (api.CertificateJWK, error) {
	key, ok := cert.PublicKey.(*rsa.PublicKey)
	if !ok {
		return api.CertificateJWK{}, fmt.Errorf("the certificate of %q is not for an RSA key", cert.Subject.CommonName)
	}
	sum1, sum256 := sha1.Sum(cert.Raw), sha256.Sum256(cert.Raw)
	b64 := base64.RawURLEncoding.EncodeToString
	return api.CertificateJWK{
		Kid: cert.Subject.String(), Kty: "RSA", Alg: "RSA-OAEP-256", KeyOps: []string{"verify", "encrypt", "wrapKey"},
		N: b64(key.N.Bytes()), E: b64(big.NewInt(int64(key.E)).Bytes()),
		X5C: []string{base64.StdEncoding.EncodeToString(cert.Raw)}, X5T: b64(sum1[:]), X5TS256: b64(sum256[:]),
	}, nil
}

// warnings reads the texts of Warning headers with code 299 (RFC 7234 section 5.5.7).
func warnings(h http.Header) []string {
	var list []string
	for _, v := range h.Values("Warning") {
		_, text, found := strings.Cut(v, `"`)
		if !found || !strings.HasPrefix(v, "299 ") {
			continue
		}
		text = strings.NewReplacer(`\"`, `"`, `\\`, `\`).Replace(strings.TrimSuffix(text, `"`))
		list = append(list, printable(text))
	}
	return list
}

// Which long-running operation of the security domain.
const (
	Download = "download"
	Upload   = "upload"
)

// DomainStatus returns the state of the last download or upload: InProgress, Success or Failed, and the details.
func (h *HSM) DomainStatus(ctx context.Context, operation string) (api.OperationStatus, error) {
	status, _, err := h.domainStatus(ctx, operation)
	return status, err
}

func (h *HSM) domainStatus(ctx context.Context, operation string) (api.OperationStatus, http.Header, error) {
	var status api.OperationStatus
	a, err := h.call(ctx, http.MethodGet, nil, &status, "securitydomain", operation, "pending")
	if status.StatusDetails == "" {
		status.StatusDetails = status.StatusDetailsOld
	}
	status.StatusDetails = printable(status.StatusDetails)
	return status, a.header, err
}

// WaitDomain polls until the last download or upload is over. A failed one is an error, and so is one that is
// not over after 150 seconds.
func (h *HSM) WaitDomain(ctx context.Context, operation string) error {
	ctx, cancel := context.WithTimeout(ctx, domainDeadline)
	defer cancel()
	for {
		status, header, err := h.domainStatus(ctx, operation)
		if err != nil {
			return err
		}
		switch strings.ToLower(status.Status) {
		case "success", "succeeded":
			return nil
		case "failed":
			if status.StatusDetails == "" {
				status.StatusDetails = "the HSM gives no reason"
			}
			return fmt.Errorf("the %s failed: %s", operation, status.StatusDetails)
		}
		if err := h.c.pause(ctx, retryAfter(header)); err != nil {
			return fmt.Errorf("the %s is not over yet: %w", operation, err)
		}
	}
}

// ExchangeKey returns the certificate of the HSM's exchange key and puts a provisioned HSM into recovery. Asking
// again gives the same certificate.
func (h *HSM) ExchangeKey(ctx context.Context) (*x509.Certificate, error) {
	var wire api.TransferKey
	if _, err := h.call(ctx, http.MethodGet, nil, &wire, "securitydomain", "upload"); err != nil {
		return nil, err
	}
	var jwk api.CertificateJWK
	if err := json.Unmarshal([]byte(wire.TransferKey), &jwk); err != nil || len(jwk.X5C) == 0 {
		return nil, fmt.Errorf("%w: it holds no exchange key", ErrAnswer)
	}
	der, err := base64.StdEncoding.DecodeString(jwk.X5C[0])
	if err != nil {
		return nil, fmt.Errorf("%w: the exchange key is not base64", ErrAnswer)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("%w: the exchange key is not a certificate", ErrAnswer)
	}
	return cert, nil
}

// UploadDomain hands over a transfer file. When it returns, the HSM has taken it; see [HSM.WaitDomain].
func (h *HSM) UploadDomain(ctx context.Context, transfer []byte) error {
	_, err := h.call(ctx, http.MethodPost, api.SecurityDomainValue{Value: string(transfer)}, nil, "securitydomain", "upload")
	return err
}

// DomainState describes the security domain. Only Strongroom servers answer; others say 404.
func (h *HSM) DomainState(ctx context.Context) (api.DomainState, error) {
	var state api.DomainState
	_, err := h.call(ctx, http.MethodGet, nil, &state, "securitydomain")
	return state, err
}

// CancelRecovery destroys the exchange key and makes a recovering HSM provisioned again. Only Strongroom servers
// know it.
func (h *HSM) CancelRecovery(ctx context.Context) error {
	_, err := h.call(ctx, http.MethodDelete, nil, nil, "securitydomain", "upload")
	return err
}
