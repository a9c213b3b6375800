package hsm

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"math/big"
	"time"

	"github.com/go-jose/go-jose/v4"

	"strongroom/internal/failure"
	"strongroom/internal/store"
)

// A statement is what the domain says under its signing key about its keys: a JWS in compact form (RFC 7515) with ES384,
// the certificate of the signing key in x5c, and a typ that tells one kind of statement from another. What else
// that key signs (SD files) is JSON that begins with a brace, which no JWS signing input does, so neither can pass
// for the other.

// statement signs a payload for an activated HSM. The items are opened for this one call.
func (s *Service) statement(ctx context.Context, id, typ string, payload []byte) (jws, certificate []byte, err error) {
	var rec *record
	err = s.cfg.Store.View(ctx, func(r store.Reader) (err error) {
		if rec, err = s.load(r, id); err == nil {
			err = rec.usable()
		}
		return err
	})
	if err != nil {
		return nil, nil, store.Failure(err)
	}
	it, err := s.unseal(rec)
	if err != nil {
		return nil, nil, err
	}
	defer it.wipe()
	if certificate, err = domainCertificate(it.id, it.signing); err != nil {
		return nil, nil, failure.Wrap(failure.Internal, err, "the certificate of the domain cannot be made")
	}
	options := new(jose.SignerOptions).WithType(jose.ContentType(typ)).WithHeader("x5c", []string{base64.StdEncoding.EncodeToString(certificate)})
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES384, Key: it.signing}, options)
	if err != nil {
		return nil, nil, failure.Wrap(failure.Internal, err, "the domain cannot sign")
	}
	signed, err := signer.Sign(payload)
	if err != nil {
		return nil, nil, failure.Wrap(failure.Internal, err, "the domain cannot sign")
	}
	text, err := signed.CompactSerialize()
	if err != nil {
		return nil, nil, failure.Wrap(failure.Internal, err, "the domain cannot sign")
	}
	return []byte(text), certificate, nil
}

// DomainSigners returns the signing key of every security domain that an HSM of this server is activated with, each
// once. It is for the checkpoints of the server's audit log, and asks no role. The keys are the caller's to forget. An HSM whose
// domain cannot be opened is left out, with an error in the log.
func (s *Service) DomainSigners(ctx context.Context) ([]crypto.Signer, error) {
	var list []crypto.Signer
	seen := map[string]bool{}
	err := s.cfg.Store.View(ctx, func(r store.Reader) error {
		for _, id := range r.Scan("hsm-name/", "") {
			rec, err := s.load(r, string(id))
			if err != nil || rec.State != Activated || rec.Deleted != nil || seen[rec.Domain.ID] {
				continue // List says in the log what cannot be read
			}
			it, err := s.unseal(rec)
			if err != nil {
				s.cfg.Log.ErrorContext(ctx, "a security domain cannot be opened to sign with", "hsm", rec.Name, "error", err)
				continue
			}
			seen[rec.Domain.ID] = true
			signing := it.signing
			it.wipe()
			list = append(list, signing)
		}
		return nil
	})
	return list, store.Failure(err)
}

// domainCertificate is the self-signed certificate of a domain's signing key. One domain has one, to the byte, on
// whatever HSM: its times are fixed, its serial number is the domain ID, and its signature is the deterministic one of
// RFC 6979. So its thumbprint can be compared. It says nothing that the key does not: there is no authority above it.
func domainCertificate(id string, key *ecdsa.PrivateKey) ([]byte, error) {
	serial, err := hex.DecodeString(id)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: new(big.Int).Add(new(big.Int).SetBytes(serial[:16]), big.NewInt(1)),
		Subject:      pkix.Name{CommonName: "Strongroom security domain " + id[:16]},
		NotBefore:    time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC),
		NotAfter:     time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC), // no end: RFC 5280 section 4.1.2.5
		KeyUsage:     x509.KeyUsageDigitalSignature,
		// No randomness below: crypto/ecdsa then signs deterministically.
		SignatureAlgorithm: x509.ECDSAWithSHA384,
	}
	return x509.CreateCertificate(nil, template, template, key.Public(), key)
}
