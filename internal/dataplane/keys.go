package dataplane

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"strongroom/internal/access"
	"strongroom/internal/api"
	"strongroom/internal/engine"
	"strongroom/internal/failure"
	"strongroom/internal/keys"
	"strongroom/secret"
)

// maxTime is the last moment that key attributes can name.
const maxTime = 253_402_300_799 // 9999-12-31T23:59:59Z, in Unix seconds

func createKey(ctx context.Context, c *call) (answer, error) {
	request, err := decode[api.CreateKeyRequest](c)
	if err != nil {
		return answer{}, err
	}
	p := keys.CreateParams{Type: request.Kty, Bits: request.KeySize, Exponent: request.PublicExponent, Curve: request.Crv, Ops: request.KeyOps, Tags: request.Tags}
	if err := describeNew(&p, request.Attributes, request.ReleasePolicy); err != nil {
		return answer{}, err
	}
	k, err := c.keys(ctx)
	if err != nil {
		return answer{}, err
	}
	key, err := k.Create(ctx, c.caller, c.name, p)
	if err != nil {
		return answer{}, err
	}
	return ok(c.bundle(key))
}

// describeNew fills in what creation and import have in common.
func describeNew(p *keys.CreateParams, a *api.KeyAttributes, policy *api.ReleasePolicy) (err error) {
	p.ReleasePolicy = releasePolicy(policy)
	if a == nil {
		return nil
	}
	p.Enabled, p.Exportable = a.Enabled, a.Exportable != nil && *a.Exportable
	if p.NotBefore, err = moment("nbf", a.NotBefore); err != nil {
		return err
	}
	p.Expires, err = moment("exp", a.Expires)
	return err
}

func releasePolicy(p *api.ReleasePolicy) *keys.ReleasePolicy {
	if p == nil {
		return nil
	}
	return &keys.ReleasePolicy{ContentType: p.ContentType, Data: p.Data, Immutable: p.Immutable != nil && *p.Immutable}
}

func importKey(ctx context.Context, c *call) (answer, error) {
	request, err := decode[api.ImportKeyRequest](c)
	jwk := &request.Key
	defer jwk.Wipe()
	if err != nil {
		return answer{}, err
	}
	p := keys.ImportParams{CreateParams: keys.CreateParams{Type: jwk.Kty, Curve: importedCurve(jwk.Crv), Ops: jwk.KeyOps, Tags: request.Tags}, Blob: jwk.Transfer, MorePrimes: given(jwk.Others)}
	if err := describeNew(&p.CreateParams, request.Attributes, request.ReleasePolicy); err != nil {
		return answer{}, err
	}
	p.Material = engine.Material{N: jwk.N, E: jwk.E, P: secret.Take(jwk.P), Q: secret.Take(jwk.Q), DP: secret.Take(jwk.DP), DQ: secret.Take(jwk.DQ), QI: secret.Take(jwk.QI),
		X: jwk.X, Y: jwk.Y, D: secret.Take(jwk.D), K: secret.Take(jwk.K)}
	k, err := c.keys(ctx)
	if err != nil {
		return answer{}, err
	}
	key, err := k.Import(ctx, c.caller, c.name, p)
	if err != nil {
		return answer{}, err
	}
	return ok(c.bundle(key))
}

// importedCurve is the name of a curve. az 2.45 imports P-256K keys from PEM under the name that it had in the first
// previews of Key Vault.
func importedCurve(crv string) string {
	if crv == "SECP256K1" {
		return engine.P256K
	}
	return crv
}

func attestKey(ctx context.Context, c *call) (answer, error) {
	k, err := c.keys(ctx)
	if err != nil {
		return answer{}, err
	}
	key, a, err := k.Attest(ctx, c.caller, c.name, c.version, c.kid)
	if err != nil {
		return answer{}, err
	}
	bundle := c.bundle(key)
	bundle.Attributes.Attestation = &api.KeyAttestation{
		CertificatePEMFile:    pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.Certificate}),
		PrivateKeyAttestation: a.Private, PublicKeyAttestation: a.Public, Version: keys.AttestationVersion,
	}
	return ok(bundle)
}

func getKey(ctx context.Context, c *call) (answer, error) {
	k, err := c.keys(ctx)
	if err != nil {
		return answer{}, err
	}
	key, err := k.Get(ctx, c.caller, c.name, c.version)
	if err != nil {
		return answer{}, err
	}
	return ok(c.bundle(key))
}

func updateKey(ctx context.Context, c *call) (answer, error) {
	request, err := decode[api.UpdateKeyRequest](c)
	if err != nil {
		return answer{}, err
	}
	if given(request.Key) {
		return answer{}, failure.New(failure.BadParameter, "key material cannot be changed: leave key out, and create a new version")
	}
	p := keys.UpdateParams{Ops: request.KeyOps, Tags: request.Tags, ReleasePolicy: releasePolicy(request.ReleasePolicy),
		Type: request.Kty, Bits: request.KeySize, Exponent: request.PublicExponent, Curve: request.Crv}
	if a := request.Attributes; a != nil {
		p.Enabled, p.Exportable = a.Enabled, a.Exportable
		if p.NotBefore, err = moment("nbf", a.NotBefore); err != nil {
			return answer{}, err
		}
		if p.Expires, err = moment("exp", a.Expires); err != nil {
			return answer{}, err
		}
	}
	k, err := c.keys(ctx)
	if err != nil {
		return answer{}, err
	}
	key, err := k.Update(ctx, c.caller, c.name, c.version, p)
	if err != nil {
		return answer{}, err
	}
	return ok(c.bundle(key))
}

// given reports whether a member of a request was there and not null.
func given(member json.RawMessage) bool { return len(member) > 0 && string(member) != "null" }

func listKeys(ctx context.Context, c *call) (answer, error) {
	return c.list(ctx, "/keys", func(k *keys.Keys, token string, max int) (keys.Page, error) {
		return k.List(ctx, c.caller, token, max)
	})
}

func listKeyVersions(ctx context.Context, c *call) (answer, error) {
	return c.list(ctx, "/keys/"+c.name+"/versions", func(k *keys.Keys, token string, max int) (keys.Page, error) {
		return k.ListVersions(ctx, c.caller, c.name, token, max)
	})
}

// list answers one page. The next link is a whole URL that the client gets as it is.
func (c *call) list(ctx context.Context, path string, page func(k *keys.Keys, token string, max int) (keys.Page, error)) (answer, error) {
	max := keys.MaxPage
	if text := c.query.Get("maxresults"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > keys.MaxPage {
			return answer{}, failure.New(failure.BadParameter, "maxresults must be 1 to %d", keys.MaxPage)
		}
		max = n
	}
	k, err := c.keys(ctx)
	if err != nil {
		return answer{}, err
	}
	p, err := page(k, c.query.Get("$skiptoken"), max)
	if err != nil {
		return answer{}, err
	}
	list := api.KeyList{Value: []api.KeyItem{}}
	for _, item := range p.Items {
		line := api.KeyItem{Kid: c.kid(item.Name, item.Version), Attributes: attributes(item.Attributes), Tags: item.Tags}
		if item.DeletedAt != nil {
			d := c.deletion(item.Name, *item.DeletedAt, *item.PurgeAt)
			line.Deletion = &d
		}
		list.Value = append(list.Value, line)
	}
	if p.Next != "" {
		next := url.Values{"api-version": {c.query.Get("api-version")}, "$skiptoken": {p.Next}}
		if c.query.Has("maxresults") {
			next.Set("maxresults", strconv.Itoa(max))
		}
		list.NextLink = c.base + path + "?" + next.Encode()
	}
	return ok(list)
}

func deleteKey(ctx context.Context, c *call) (answer, error) {
	k, err := c.keys(ctx)
	if err != nil {
		return answer{}, err
	}
	key, err := k.Delete(ctx, c.caller, c.name)
	if err != nil {
		return answer{}, err
	}
	return ok(c.deletedBundle(key))
}

func listDeletedKeys(ctx context.Context, c *call) (answer, error) {
	return c.list(ctx, "/deletedkeys", func(k *keys.Keys, token string, max int) (keys.Page, error) {
		return k.ListDeleted(ctx, c.caller, token, max)
	})
}

func getDeletedKey(ctx context.Context, c *call) (answer, error) {
	k, err := c.keys(ctx)
	if err != nil {
		return answer{}, err
	}
	key, err := k.GetDeleted(ctx, c.caller, c.name)
	if err != nil {
		return answer{}, err
	}
	return ok(c.deletedBundle(key))
}

func recoverKey(ctx context.Context, c *call) (answer, error) {
	k, err := c.keys(ctx)
	if err != nil {
		return answer{}, err
	}
	key, err := k.Recover(ctx, c.caller, c.name)
	if err != nil {
		return answer{}, err
	}
	return ok(c.bundle(key))
}

// purgeKey answers 204, which one stock client insists on.
func purgeKey(ctx context.Context, c *call) (answer, error) {
	k, err := c.keys(ctx)
	if err != nil {
		return answer{}, err
	}
	if err := k.Purge(ctx, c.caller, c.name); err != nil {
		return answer{}, err
	}
	return answer{status: http.StatusNoContent}, nil
}

func signDigest(ctx context.Context, c *call) (answer, error) {
	request, err := decode[api.SignRequest](c)
	if err != nil {
		return answer{}, err
	}
	k, err := c.keys(ctx)
	if err != nil {
		return answer{}, err
	}
	r, err := k.Sign(ctx, c.caller, c.name, c.version, request.Alg, request.Value)
	if err != nil {
		return answer{}, err
	}
	return ok(api.KeyOperationResult{Kid: c.used(r.Name, r.Version), Value: r.Signature, Alg: request.Alg})
}

func verifySignature(ctx context.Context, c *call) (answer, error) {
	request, err := decode[api.VerifyRequest](c)
	if err != nil {
		return answer{}, err
	}
	k, err := c.keys(ctx)
	if err != nil {
		return answer{}, err
	}
	holds, err := k.Verify(ctx, c.caller, c.name, c.version, request.Alg, request.Digest, request.Value)
	if err != nil {
		return answer{}, err
	}
	return ok(api.VerifyResult{Value: holds})
}

// encryptWith is encrypt and wrapkey, which differ in the method of keys that they call.
func encryptWith(use func(k *keys.Keys, ctx context.Context, caller access.Caller, name, version, alg string, plaintext secret.Bytes, x keys.Extras) (keys.EncryptResult, error)) func(context.Context, *call) (answer, error) {
	return func(ctx context.Context, c *call) (answer, error) {
		request, err := decodeOperation(c)
		if err != nil {
			return answer{}, err
		}
		plaintext := secret.Take(request.Value)
		defer plaintext.Wipe()
		k, err := c.keys(ctx)
		if err != nil {
			return answer{}, err
		}
		r, err := use(k, ctx, c.caller, c.name, c.version, request.Alg, plaintext, extras(request))
		if err != nil {
			return answer{}, err
		}
		return ok(api.KeyOperationResult{Kid: c.used(r.Name, r.Version), Value: r.Value, Alg: request.Alg, IV: r.IV, Tag: r.Tag, AAD: request.AAD})
	}
}

// decryptWith is decrypt and unwrapkey.
func decryptWith(use func(k *keys.Keys, ctx context.Context, caller access.Caller, name, version, alg string, ciphertext []byte, x keys.Extras) (keys.DecryptResult, error)) func(context.Context, *call) (answer, error) {
	return func(ctx context.Context, c *call) (answer, error) {
		request, err := decodeOperation(c)
		if err != nil {
			return answer{}, err
		}
		k, err := c.keys(ctx)
		if err != nil {
			return answer{}, err
		}
		r, err := use(k, ctx, c.caller, c.name, c.version, request.Alg, request.Value, extras(request))
		if err != nil {
			return answer{}, err
		}
		// The one way out for a plaintext: to the caller who asked for it.
		return answer{status: http.StatusOK, wipe: r.Plaintext.Wipe,
			body: api.KeyOperationResult{Kid: c.used(r.Name, r.Version), Value: r.Plaintext.Reveal(), Alg: request.Alg}}, nil
	}
}

// decodeOperation reads the request of both.
func decodeOperation(c *call) (api.KeyOperationRequest, error) {
	request, err := decode[api.KeyOperationRequest](c)
	if err != nil {
		return request, err
	}
	if request.Value == nil {
		return request, failure.New(failure.BadParameter, "value is missing; send the bytes as base64url without padding")
	}
	return request, nil
}

func extras(r api.KeyOperationRequest) keys.Extras {
	return keys.Extras{IV: r.IV, AAD: r.AAD, Tag: r.Tag}
}

func backupKey(ctx context.Context, c *call) (answer, error) {
	k, err := c.keys(ctx)
	if err != nil {
		return answer{}, err
	}
	blob, err := k.Backup(ctx, c.caller, c.name)
	if err != nil {
		return answer{}, err
	}
	return ok(api.BackupResult{Value: blob})
}

func restoreKey(ctx context.Context, c *call) (answer, error) {
	request, err := decode[api.BackupResult](c)
	if err != nil {
		return answer{}, err
	}
	k, err := c.keys(ctx)
	if err != nil {
		return answer{}, err
	}
	key, err := k.Restore(ctx, c.caller, request.Value)
	if err != nil {
		return answer{}, err
	}
	return ok(c.bundle(key))
}

func randomBytes(ctx context.Context, c *call) (answer, error) {
	request, err := decode[api.RandomRequest](c)
	if err != nil {
		return answer{}, err
	}
	k, err := c.keys(ctx)
	if err != nil {
		return answer{}, err
	}
	random, err := k.Random(ctx, c.caller, request.Count)
	if err != nil {
		return answer{}, err
	}
	// As with a plaintext: it may become somebody's key, and goes to the caller who asked for it.
	return answer{status: http.StatusOK, wipe: random.Wipe, body: api.RandomResult{Value: random.Reveal()}}, nil
}

func (c *call) keys(ctx context.Context) (*keys.Keys, error) { return c.hsm.Keys(ctx) }

// kid names a key, or a version of it, under the address by which the client reached this HSM.
func (c *call) kid(name, version string) string {
	id := c.base + "/keys/" + name
	if version != "" {
		id += "/" + version
	}
	return id
}

// used is kid for the version that a call was about in the end, and notes it for the record.
func (c *call) used(name, version string) string {
	c.record.Key, c.record.Version = name, version
	return c.kid(name, version)
}

func (c *call) bundle(k keys.Key) api.KeyBundle {
	jwk := api.JSONWebKey{Kid: c.used(k.Name, k.Version), Kty: string(k.Public.Type), KeyOps: k.Ops}
	switch k.Public.Type {
	case engine.RSA:
		jwk.N, jwk.E = k.Public.N.Bytes(), big.NewInt(int64(k.Public.E)).Bytes()
	case engine.EC:
		size := fieldBytes[k.Public.Curve]
		jwk.Crv, jwk.X, jwk.Y = k.Public.Curve, k.Public.X.FillBytes(make([]byte, size)), k.Public.Y.FillBytes(make([]byte, size))
	}
	b := api.KeyBundle{Key: jwk, Attributes: attributes(k.Attributes), Tags: k.Tags}
	if k.ReleasePolicy != nil {
		b.ReleasePolicy = &api.ReleasePolicy{ContentType: k.ReleasePolicy.ContentType, Data: k.ReleasePolicy.Data, Immutable: &k.ReleasePolicy.Immutable}
	}
	if c.query.Get("api-version") == "2026-04-01" { // the first that knows of it
		b.Attributes.KeySize = k.Public.Spec().Bits
	}
	return b
}

func (c *call) deletedBundle(k keys.DeletedKey) api.DeletedKeyBundle {
	return api.DeletedKeyBundle{KeyBundle: c.bundle(k.Key), Deletion: c.deletion(k.Name, k.DeletedAt, k.PurgeAt)}
}

func (c *call) deletion(name string, at, purge time.Time) api.Deletion {
	return api.Deletion{RecoveryID: c.base + "/deletedkeys/" + name, DeletedDate: at.Unix(), ScheduledPurgeDate: purge.Unix()}
}

// fieldBytes are the coordinate lengths of RFC 7518 section 6.2.1.2.
var fieldBytes = map[string]int{engine.P256: 32, engine.P256K: 32, engine.P384: 48, engine.P521: 66}

func attributes(a keys.Attributes) api.KeyAttributes {
	unix := func(t *time.Time) *int64 {
		if t == nil {
			return nil
		}
		s := t.Unix()
		return &s
	}
	return api.KeyAttributes{Enabled: &a.Enabled, NotBefore: unix(a.NotBefore), Expires: unix(a.Expires), Created: a.Created.Unix(), Updated: a.Updated.Unix(),
		RecoveryLevel: a.RecoveryLevel, RecoverableDays: a.RecoverableDays, Exportable: &a.Exportable}
}

func moment(name string, unix *int64) (*time.Time, error) {
	if unix == nil {
		return nil, nil
	}
	if *unix < 0 || *unix > maxTime {
		return nil, failure.New(failure.BadParameter, "attributes.%s is not a time in Unix seconds", name)
	}
	t := time.Unix(*unix, 0).UTC()
	return &t, nil
}
