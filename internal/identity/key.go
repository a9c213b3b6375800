package identity

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	"time"

	"github.com/go-jose/go-jose/v4"

	"strongroom/internal/failure"
	"strongroom/internal/store"
	"strongroom/secret"
)

// signingKeyKey is the record of the key that signs tokens, attestationKeyKey of the one that signs attestation tokens
// in development:
//
//	{"v":1,"sealed":…}    sealed: seal.Wrap of the key in PKCS #8, bound to this record's key
const (
	signingKeyKey     = "identity/signing-key"
	attestationKeyKey = "identity/attestation-key"
	signingKeyVersion = 1
)

type signingKeyRecord struct {
	V      int    `json:"v"`
	Sealed []byte `json:"sealed"`
}

// signingKey signs tokens with ES256. The private key sits inside sign, where nothing can print it.
type signingKey struct {
	id     string // RFC 7638 thumbprint, base64url
	public *ecdsa.PublicKey
	sign   func(payload []byte) (token string, err error)
	// certificate is the public key in a self-signed certificate, DER.
	certificate func(name string, from, until time.Time) ([]byte, error)
}

// openSigningKey reads the key of a record, or makes and stores one. Of two servers that start at once, the second
// takes the key of the first.
func openSigningKey(ctx context.Context, cfg Config, record string) (signingKey, error) {
	var sealed []byte
	err := cfg.Store.View(ctx, func(r store.Reader) (err error) {
		sealed, err = readSigningKey(r, record)
		return err
	})
	if err != nil {
		return signingKey{}, store.Failure(err)
	}
	if sealed == nil {
		if sealed, err = makeSigningKey(ctx, cfg, record); err != nil {
			return signingKey{}, err
		}
	}
	der, err := cfg.Seal.Unwrap(sealed, record)
	if err != nil {
		return signingKey{}, failure.Wrap(failure.Tampered, err, "the token signing key does not open: its record was changed, or the seal is another one")
	}
	defer der.Wipe()
	parsed, err := x509.ParsePKCS8PrivateKey(der.Reveal())
	private, ok := parsed.(*ecdsa.PrivateKey)
	if err != nil || !ok || private.Curve != elliptic.P256() {
		return signingKey{}, failure.New(failure.Tampered, "the token signing key is not a P-256 key")
	}
	return newSigningKey(private)
}

func readSigningKey(r store.Reader, record string) ([]byte, error) {
	value, ok := r.Get(record)
	if !ok {
		return nil, nil
	}
	var rec signingKeyRecord
	err := json.Unmarshal(value, &rec)
	switch {
	case err == nil && rec.V != signingKeyVersion:
		return nil, failure.New(failure.Unsupported, "the token signing key has format version %d and this program knows %d; run the program that wrote it, or a newer one", rec.V, signingKeyVersion)
	case err != nil || rec.Sealed == nil:
		return nil, failure.New(failure.Tampered, "the record of the token signing key is damaged; restore the database from a copy")
	}
	return rec.Sealed, nil
}

func makeSigningKey(ctx context.Context, cfg Config, record string) (sealed []byte, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), cfg.Rand)
	if err != nil {
		return nil, failure.Wrap(failure.Internal, err, "no token signing key could be made")
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, failure.Wrap(failure.Internal, err, "the token signing key cannot be written")
	}
	plain := secret.Take(der)
	defer plain.Wipe()
	if sealed, err = cfg.Seal.Wrap(plain, record); err != nil {
		return nil, failure.Wrap(failure.Internal, err, "the token signing key cannot be sealed")
	}
	value, err := json.Marshal(signingKeyRecord{V: signingKeyVersion, Sealed: sealed})
	if err != nil {
		return nil, failure.Wrap(failure.Internal, err, "the token signing key cannot be written")
	}
	err = cfg.Store.Update(ctx, func(w store.Writer) error {
		earlier, err := readSigningKey(w, record)
		if err != nil {
			return err
		}
		if earlier != nil {
			sealed = earlier
			return nil
		}
		w.Put(record, value)
		return nil
	})
	return sealed, store.Failure(err)
}

func newSigningKey(private *ecdsa.PrivateKey) (signingKey, error) {
	jwk := jose.JSONWebKey{Key: private.Public()}
	thumbprint, err := jwk.Thumbprint(crypto.SHA256)
	if err != nil {
		return signingKey{}, failure.Wrap(failure.Internal, err, "the token signing key has no thumbprint")
	}
	id := base64.RawURLEncoding.EncodeToString(thumbprint)
	signer, err := jose.NewSigner(
		jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: private, KeyID: id}},
		(&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		return signingKey{}, failure.Wrap(failure.Internal, err, "the token signing key cannot sign")
	}
	k := signingKey{id: id, public: &private.PublicKey}
	k.sign = func(payload []byte) (string, error) {
		signed, err := signer.Sign(payload)
		if err != nil {
			return "", fmt.Errorf("identity: sign a token: %w", err)
		}
		return signed.CompactSerialize()
	}
	k.certificate = func(name string, from, until time.Time) ([]byte, error) {
		template := &x509.Certificate{
			SerialNumber: new(big.Int).SetBytes(thumbprint[:16]), Subject: pkix.Name{CommonName: name},
			NotBefore: from, NotAfter: until, KeyUsage: x509.KeyUsageDigitalSignature, SignatureAlgorithm: x509.ECDSAWithSHA256,
		}
		// Without randomness, crypto/ecdsa signs deterministically: the same certificate after a restart.
		return x509.CreateCertificate(nil, template, template, private.Public(), private)
	}
	return k, nil
}

// jwks is the answer of the key set route.
func (k signingKey) jwks() any {
	return jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: k.public, KeyID: k.id, Algorithm: string(jose.ES256), Use: "sig"}}}
}
