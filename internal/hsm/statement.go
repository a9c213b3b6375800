package hsm

import (
	"context"
	"crypto"

	"strongroom/internal/failure"
	"strongroom/internal/statement"
	"strongroom/internal/store"
)

// statement signs a payload for an activated HSM, see package statement. The items are opened for this one call.
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
	if jws, certificate, err = statement.Sign(it.signing, typ, payload); err != nil {
		return nil, nil, failure.Wrap(failure.Internal, err, "the domain cannot sign")
	}
	return jws, certificate, nil
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
