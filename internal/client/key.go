package client

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"strongroom/internal/api"
	"strongroom/secret"
)

// sizeVersion is the first version of the data plane that tells how large an oct key is. It is asked for nothing else.
const sizeVersion = "2026-04-01"

// keyPath is the path of a key, of a version of it, or of an operation of either; an empty version means the latest.
func keyPath(name, version string, operation ...string) []string {
	path := []string{"keys", name}
	if version != "" {
		path = append(path, version)
	}
	return append(path, operation...)
}

// CreateKey makes a key, or a new version of one.
func (h *HSM) CreateKey(ctx context.Context, name string, r api.CreateKeyRequest) (api.KeyBundle, error) {
	return h.bundle(ctx, http.MethodPost, r, keyPath(name, "", "create")...)
}

func (h *HSM) bundle(ctx context.Context, method string, body any, path ...string) (api.KeyBundle, error) {
	var key api.KeyBundle
	_, err := h.call(ctx, method, body, &key, path...)
	return key, err
}

// ImportKey brings a key from outside, or a new version of one. The caller wipes r.
func (h *HSM) ImportKey(ctx context.Context, name string, r api.ImportKeyRequest) (api.KeyBundle, error) {
	var key api.KeyBundle
	_, err := h.send(ctx, request{method: http.MethodPut, url: h.url(apiVersion, keyPath(name, "")...), body: r, secret: true}, &key)
	return key, err
}

// Key returns a key; an empty version means the latest. Of an oct key the size is in the attributes if the HSM tells
// it: older ones do not.
func (h *HSM) Key(ctx context.Context, name, version string) (api.KeyBundle, error) {
	key, err := h.bundle(ctx, http.MethodGet, nil, keyPath(name, version)...)
	if err != nil || key.Key.Kty != "oct-HSM" || key.Attributes.KeySize != 0 {
		return key, err
	}
	var sized api.KeyBundle
	_, err = h.send(ctx, request{method: http.MethodGet, url: h.url(sizeVersion, keyPath(name, version)...)}, &sized)
	if _, refused := errors.AsType[*Error](err); refused || err == nil && sized.Key.Kid != key.Key.Kid {
		return key, nil // it does not know that version, or the key has a new one since
	}
	return sized, err
}

// UpdateKey changes a version of a key; an empty version means the latest. What r leaves out stays as it is.
func (h *HSM) UpdateKey(ctx context.Context, name, version string, r api.UpdateKeyRequest) (api.KeyBundle, error) {
	return h.bundle(ctx, http.MethodPatch, r, keyPath(name, version)...)
}

// DeleteKey deletes a key with all versions. It can be recovered until it is purged.
func (h *HSM) DeleteKey(ctx context.Context, name string) (api.DeletedKeyBundle, error) {
	var key api.DeletedKeyBundle
	_, err := h.call(ctx, http.MethodDelete, nil, &key, "keys", name)
	return key, err
}

// DeletedKey returns a key that was deleted and not purged.
func (h *HSM) DeletedKey(ctx context.Context, name string) (api.DeletedKeyBundle, error) {
	var key api.DeletedKeyBundle
	_, err := h.call(ctx, http.MethodGet, nil, &key, "deletedkeys", name)
	return key, err
}

// RecoverKey brings a deleted key back.
func (h *HSM) RecoverKey(ctx context.Context, name string) (api.KeyBundle, error) {
	return h.bundle(ctx, http.MethodPost, nil, "deletedkeys", name, "recover")
}

// PurgeKey destroys a deleted key for good.
func (h *HSM) PurgeKey(ctx context.Context, name string) error {
	_, err := h.call(ctx, http.MethodDelete, nil, nil, "deletedkeys", name)
	return err
}

// RotateKey makes a new version by the key's rotation policy.
func (h *HSM) RotateKey(ctx context.Context, name string) (api.KeyBundle, error) {
	return h.bundle(ctx, http.MethodPost, nil, keyPath(name, "", "rotate")...)
}

// RotationPolicy returns the policy of a key; one without actions and expiry time is none.
func (h *HSM) RotationPolicy(ctx context.Context, name string) (api.RotationPolicy, error) {
	var policy api.RotationPolicy
	_, err := h.call(ctx, http.MethodGet, nil, &policy, keyPath(name, "", "rotationpolicy")...)
	return policy, err
}

// SetRotationPolicy replaces the policy of a key; one without actions and expiry time removes it.
func (h *HSM) SetRotationPolicy(ctx context.Context, name string, policy api.RotationPolicy) (api.RotationPolicy, error) {
	if policy.LifetimeActions == nil {
		policy.LifetimeActions = []api.LifetimeAction{} // null is no list
	}
	var set api.RotationPolicy
	_, err := h.call(ctx, http.MethodPut, policy, &set, keyPath(name, "", "rotationpolicy")...)
	return set, err
}

// maxPages bounds a list: a million keys, which is what a server allows at most, at 25 a page.
const maxPages = 40_000

// Keys lists all keys, following the pages.
func (h *HSM) Keys(ctx context.Context) ([]api.KeyItem, error) { return h.list(ctx, "keys") }

// KeyVersions lists the versions of a key, the oldest first.
func (h *HSM) KeyVersions(ctx context.Context, name string) ([]api.KeyItem, error) {
	return h.list(ctx, "keys", name, "versions")
}

// DeletedKeys lists the keys that were deleted and not purged.
func (h *HSM) DeletedKeys(ctx context.Context) ([]api.KeyItem, error) {
	return h.list(ctx, "deletedkeys")
}

func (h *HSM) list(ctx context.Context, path ...string) ([]api.KeyItem, error) {
	var list []api.KeyItem
	var page api.KeyList
	var last string
	if _, err := h.call(ctx, http.MethodGet, nil, &page, path...); err != nil {
		return nil, err
	}
	for pages := 1; ; pages++ {
		list = append(list, page.Value...)
		if page.NextLink == "" {
			return list, nil
		}
		next, err := url.Parse(page.NextLink)
		if err != nil || next.Scheme != "https" || next.Host != h.base.Host || next.User != nil {
			return nil, fmt.Errorf("%w: the list goes on at another address", ErrAnswer)
		}
		if pages == maxPages || page.NextLink == last {
			return nil, fmt.Errorf("%w: the list does not end", ErrAnswer)
		}
		last = page.NextLink
		a, err := h.c.do(ctx, request{method: http.MethodGet, url: next})
		if err != nil {
			return nil, err
		}
		page = api.KeyList{}
		if err := a.into(&page); err != nil {
			return nil, err
		}
	}
}

// Sign signs a digest with a key; an empty version means the latest. The answer names the version used.
func (h *HSM) Sign(ctx context.Context, name, version, alg string, digest []byte) (api.KeyOperationResult, error) {
	var result api.KeyOperationResult
	_, err := h.call(ctx, http.MethodPost, api.SignRequest{Alg: alg, Value: digest}, &result, keyPath(name, version, "sign")...)
	if err == nil && len(result.Value) == 0 {
		err = fmt.Errorf("%w: it holds no signature", ErrAnswer)
	}
	return result, err
}

// Verify asks the HSM whether signature holds over digest.
func (h *HSM) Verify(ctx context.Context, name, version, alg string, digest, signature []byte) (bool, error) {
	var result api.VerifyResult
	_, err := h.call(ctx, http.MethodPost, api.VerifyRequest{Alg: alg, Digest: digest, Value: signature}, &result, keyPath(name, version, "verify")...)
	return result.Value, err
}

// Operations of [HSM.Encrypt] and [HSM.Decrypt]. Wrapping is encrypting a key, and a right of its own.
const (
	Encrypt = "encrypt"
	Decrypt = "decrypt"
	Wrap    = "wrapkey"
	Unwrap  = "unwrapkey"
)

// Encrypt is encrypt or wrapkey with a key; an empty version means the latest. r.Value, the plaintext, stays the
// caller's. The answer names the version used.
func (h *HSM) Encrypt(ctx context.Context, operation, name, version string, r api.KeyOperationRequest) (api.KeyOperationResult, error) {
	var result api.KeyOperationResult
	_, err := h.send(ctx, request{method: http.MethodPost, url: h.url(apiVersion, keyPath(name, version, operation)...), body: r, secret: true}, &result)
	return result, err
}

// Decrypt is the way back: decrypt or unwrapkey. The caller wipes the plaintext. kid names the version used.
func (h *HSM) Decrypt(ctx context.Context, operation, name, version string, r api.KeyOperationRequest) (plaintext secret.Bytes, kid string, err error) {
	var result api.KeyOperationResult
	a, err := h.call(ctx, http.MethodPost, r, &result, keyPath(name, version, operation)...)
	clear(a.body)
	if err == nil && result.Value == nil {
		err = fmt.Errorf("%w: it holds no plaintext", ErrAnswer)
	}
	return secret.Take(result.Value), result.Kid, err
}

// MaxRandom is how many random bytes an HSM gives at once.
const MaxRandom = 128

// Random returns n random bytes of the HSM, 1 to MaxRandom. The caller wipes them.
func (h *HSM) Random(ctx context.Context, n int) (secret.Bytes, error) {
	var result api.RandomResult
	a, err := h.call(ctx, http.MethodPost, api.RandomRequest{Count: n}, &result, "rng")
	clear(a.body)
	if err == nil && len(result.Value) != n {
		err = fmt.Errorf("%w: it holds %d random bytes, not %d", ErrAnswer, len(result.Value), n)
	}
	return secret.Take(result.Value), err
}

// attestationVersion is the first version of the data plane with attestations.
const attestationVersion = "7.6"

// Attestation returns a key with the HSM's signed word about it, in the attributes; an empty version means the
// latest. Nothing of it has been verified.
func (h *HSM) Attestation(ctx context.Context, name, version string) (api.KeyBundle, error) {
	var key api.KeyBundle
	_, err := h.send(ctx, request{method: http.MethodGet, url: h.url(attestationVersion, keyPath(name, version, "attestation")...)}, &key)
	if err == nil && key.Attributes.Attestation == nil {
		err = fmt.Errorf("%w: it holds no attestation", ErrAnswer)
	}
	return key, err
}

// releaseVersion is the first stable version of the data plane with the larger hashes of a release.
const releaseVersion = "7.5"

// ReleaseKey has an exportable key wrapped for the recipient that an attestation token names; an empty version means the
// latest. The answer is a JWS of which nothing has been verified.
func (h *HSM) ReleaseKey(ctx context.Context, name, version string, r api.ReleaseRequest) ([]byte, error) {
	var result api.ReleaseResult
	_, err := h.send(ctx, request{method: http.MethodPost, url: h.url(releaseVersion, keyPath(name, version, "release")...), body: r}, &result)
	if err == nil && result.Value == "" {
		err = fmt.Errorf("%w: it holds no released key", ErrAnswer)
	}
	return []byte(result.Value), err
}

// BackupKey returns an opaque blob with all versions of a key, bound to the HSM's domain.
func (h *HSM) BackupKey(ctx context.Context, name string) ([]byte, error) {
	var result api.BackupResult
	_, err := h.call(ctx, http.MethodPost, nil, &result, "keys", name, "backup")
	if err == nil && len(result.Value) == 0 {
		err = fmt.Errorf("%w: it holds no backup", ErrAnswer)
	}
	return result.Value, err
}

// RestoreKey restores a key from its backup.
func (h *HSM) RestoreKey(ctx context.Context, blob []byte) (api.KeyBundle, error) {
	return h.bundle(ctx, http.MethodPost, api.BackupResult{Value: blob}, "keys", "restore")
}
