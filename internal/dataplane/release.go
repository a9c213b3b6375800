package dataplane

import (
	"context"
	"encoding/json"

	"strongroom/internal/api"
	"strongroom/internal/keys"
)

func releaseKey(ctx context.Context, c *call) (answer, error) {
	request, err := decode[api.ReleaseRequest](c)
	if err != nil {
		return answer{}, err
	}
	k, err := c.keys(ctx)
	if err != nil {
		return answer{}, err
	}
	jws, err := k.Release(ctx, c.caller, c.name, c.version, keys.ReleaseParams{Target: request.Target, Encryption: request.Enc,
		Attested: func(authority, recipient string) { c.record.Authority, c.record.Recipient = authority, recipient },
		Payload:  func(key keys.Key, r keys.Released) ([]byte, error) { return c.releasePayload(key, r, request.Nonce) }})
	if err != nil {
		return answer{}, err
	}
	return ok(api.ReleaseResult{Value: string(jws)})
}

// releasePayload is what the domain signs of a released key (docs: formats).
func (c *call) releasePayload(key keys.Key, r keys.Released, nonce string) ([]byte, error) {
	wrapped, err := json.Marshal(api.WrappedKey{
		SchemaVersion: "1.0.0", Header: api.WrappedKeyHeader{Kid: r.Recipient, Alg: "dir", Enc: r.Encryption}, Ciphertext: r.Wrapped, Generator: "Strongroom",
	})
	if err != nil {
		return nil, err
	}
	bundle := c.bundle(key)
	return json.Marshal(api.ReleasePayload{
		Request: api.ReleasePayloadRequest{APIVersion: c.query.Get("api-version"), Enc: r.Encryption, Kid: bundle.Key.Kid, Nonce: nonce},
		Response: api.ReleasePayloadResponse{Key: api.ReleasedKeyBundle{
			KeyBundle: bundle, Key: api.ReleasedKey{JSONWebKey: bundle.Key, KeyHSM: wrapped},
		}},
	})
}
