package api

// ReleaseRequest asks for an exportable key to be released.
type ReleaseRequest struct {
	Target string `json:"target"`          // the attestation token: a JWT
	Nonce  string `json:"nonce,omitempty"` // comes back in the signed answer
	Enc    string `json:"enc,omitempty"`   // CKM_RSA_AES_KEY_WRAP (default), RSA_AES_KEY_WRAP_256 or RSA_AES_KEY_WRAP_384
}

// ReleaseResult carries the released key: a JWS in compact form, whose payload is a [ReleasePayload].
type ReleaseResult struct {
	Value string `json:"value"`
}

// ReleasePayload is what is signed: what was asked for, and the key.
type ReleasePayload struct {
	Request  ReleasePayloadRequest  `json:"request"`
	Response ReleasePayloadResponse `json:"response"`
}

// ReleasePayloadRequest is the request as it was understood.
type ReleasePayloadRequest struct {
	APIVersion string `json:"api-version"`
	Enc        string `json:"enc"`
	Kid        string `json:"kid"` // with the version
	Nonce      string `json:"nonce,omitempty"`
}

// ReleasePayloadResponse is a key bundle whose key has key_hsm besides.
type ReleasePayloadResponse struct {
	Key ReleasedKeyBundle `json:"key"`
}

// ReleasedKeyBundle is a [KeyBundle] with the wrapped key.
type ReleasedKeyBundle struct {
	KeyBundle
	Key ReleasedKey `json:"key"`
}

// ReleasedKey is the public part of a key, and the key itself, wrapped.
type ReleasedKey struct {
	JSONWebKey
	KeyHSM Base64URL `json:"key_hsm"` // JSON of a [WrappedKey]
}

// WrappedKey has the form of a transfer blob.
type WrappedKey struct {
	SchemaVersion string           `json:"schema_version"` // "1.0.0"
	Header        WrappedKeyHeader `json:"header"`
	Ciphertext    Base64URL        `json:"ciphertext"` // RSA-OAEP of an AES-256 key, then the key wrapped with that by RFC 5649
	Generator     string           `json:"generator"`
}

// WrappedKeyHeader says how the key is wrapped, and for whom.
type WrappedKeyHeader struct {
	Kid string `json:"kid,omitempty"` // of the recipient's key, as the attestation token has it
	Alg string `json:"alg"`           // "dir"
	Enc string `json:"enc"`
}
