package api

// CertificateInfo is the request of securitydomain/download: the custodians, and how many of them must act.
type CertificateInfo struct {
	Certificates []CertificateJWK `json:"certificates"`
	Required     int              `json:"required"`
}

// CertificateJWK is an RSA public key with its certificate, bare in the list (the API description wraps it in an
// object; clients do not). Clients send base64url of n, e and thumbprints with and without padding, and x5c in
// standard base64, so these stay text until the handler reads them.
type CertificateJWK struct {
	Kid     string   `json:"kid,omitempty"`
	Kty     string   `json:"kty"`
	KeyOps  []string `json:"key_ops,omitempty"`
	N       string   `json:"n"`
	E       string   `json:"e"`
	X5C     []string `json:"x5c"` // one certificate, DER in standard base64
	Use     string   `json:"use,omitempty"`
	X5T     string   `json:"x5t,omitempty"` // SHA-1 of the DER, base64url
	X5TS256 string   `json:"x5t#S256"`      // SHA-256 of the DER, base64url
	Alg     string   `json:"alg,omitempty"`
}

// TransferKey is the answer of GET securitydomain/upload. The key is a CertificateJWK as JSON text inside a
// string: the API description says object, every client reads a string.
type TransferKey struct {
	KeyFormat   string `json:"key_format"` // "jwk"
	TransferKey string `json:"transfer_key"`
}

// SecurityDomainValue carries an SD file (answer of download) or a transfer file (request of upload), as the
// JSON text of the file.
type SecurityDomainValue struct {
	Value string `json:"value"`
}

// OperationStatus is the state of a download or upload.
type OperationStatus struct {
	Status        string `json:"status"` // InProgress, Success or Failed
	StatusDetails string `json:"status_details"`
	// StatusDetailsOld repeats the details under the name that the recorded service used.
	StatusDetailsOld string `json:"statusDetails"`
}

// DomainState describes the security domain of an HSM: Strongroom's own route, for its own tools.
type DomainState struct {
	HSM        string   `json:"hsm"`
	State      string   `json:"state"`                // provisioned, recovering or activated
	DomainID   string   `json:"domain_id,omitempty"`  // hex SHA-256 of the domain signing key's SPKI
	Required   int      `json:"required,omitempty"`   // quorum of the newest SD file made here
	Custodians []string `json:"custodians,omitempty"` // their labels
	Activated  string   `json:"activated,omitempty"`  // RFC 3339
}
