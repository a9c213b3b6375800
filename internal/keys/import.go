package keys

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"math/big"
	"net/url"
	"strings"

	"strongroom/internal/access"
	"strongroom/internal/engine"
	"strongroom/internal/failure"
	"strongroom/internal/strictjson"
)

// ImportParams says which key comes from outside. The fields of CreateParams apply, but that Bits and Exponent follow
// from the key, and that Ops must not name import: the private part of such a key would be known outside.
type ImportParams struct {
	CreateParams
	// Exactly one of the two. Material is the key in the clear; Import owns and wipes it. Blob is a transfer blob
	// (BYOK): a JSON file with the key, wrapped for a key of this HSM that has the operation import and no other.
	Material engine.Material
	Blob     []byte
	// MorePrimes says that the key came with primes after the second, for which Material has no place.
	MorePrimes bool
}

// check refuses a key that is not there, is there twice, or in a form that is not taken.
func (p *ImportParams) check() error {
	m := p.Material
	private := m.D.Len()+m.P.Len()+m.Q.Len()+m.DP.Len()+m.DQ.Len()+m.QI.Len()+m.K.Len() > 0
	switch {
	case p.MorePrimes:
		return failure.New(failure.BadParameter, "key.oth is there: RSA keys with more than two primes are not taken")
	case private && len(p.Blob) > 0:
		return failure.New(failure.BadParameter, "key has both key_hsm and a private part; send the transfer blob alone, which is there to keep the private part secret")
	case !private && len(p.Blob) == 0:
		return failure.New(failure.BadParameter, "key has no private part: an RSA key needs n, e, d, p and q, an EC key crv, x, y and d, an oct key k; or key_hsm with a transfer blob")
	}
	return nil
}

// Import takes a key from outside, or a new version of the key of that name: by the rules of Create. A key that is
// not sound is a failure.BadParameter that says why (threat K8). For a Blob the caller must be allowed to import into
// the receiving key too.
func (k *Keys) Import(ctx context.Context, caller access.Caller, name string, p ImportParams) (Key, error) {
	defer p.Material.Wipe()
	eng, lower, err := k.enterKey(ctx, caller, access.KeyImport, name)
	if err != nil {
		return Key{}, err
	}
	t, err := typeOf(p.Type)
	if err != nil {
		return Key{}, err
	}
	if err := p.check(); err != nil {
		return Key{}, err
	}
	if t == engine.EC {
		if err := checkCurve(p.Curve); err != nil {
			return Key{}, err
		}
	} else if p.Curve != "" {
		return Key{}, failure.New(failure.BadParameter, "crv is for EC keys; leave it out")
	}
	v, err := p.record(t, k.now())
	if err != nil {
		return Key{}, err
	}
	for _, op := range v.Ops {
		if op == opImport {
			return Key{}, failure.New(failure.BadParameter, "a key that receives other keys (key_ops import) must be made in this HSM, or whoever has it outside could read what it receives; create one")
		}
	}
	v.Curve, v.Imported = p.Curve, true
	if len(p.Blob) > 0 {
		return k.importBlob(ctx, caller, eng, name, lower, &v, p.Blob)
	}
	if err := materialSize(&v, t, p.Material); err != nil {
		return Key{}, err
	}
	p.Material.Type, p.Material.Curve = t, p.Curve
	return k.add(ctx, eng, name, lower, &v, func() error {
		made, err := eng.ImportKey(ctx, p.Material, v.binding(k.cfg.HSM, lower))
		if err != nil {
			return importFailure(err, &v)
		}
		v.material(made)
		return nil
	})
}

// materialSize fills in the size of the key, which its binding needs, and refuses those that there are not.
func materialSize(v *versionRecord, t engine.Type, m engine.Material) error {
	switch t {
	case engine.RSA:
		v.Bits = new(big.Int).SetBytes(m.N).BitLen()
		if v.Bits != 2048 && v.Bits != 3072 && v.Bits != 4096 {
			return failure.New(failure.BadParameter, "the key has %d bits; an RSA key has 2048, 3072 or 4096", v.Bits)
		}
	case engine.Oct:
		switch v.Bits = 8 * m.K.Len(); {
		case v.Bits > 512:
			return failure.New(failure.BadParameter, "JSON Web Key: k property of oct key is too large, maximum size is 64")
		case v.Bits != 128 && v.Bits != 192 && v.Bits != 256:
			return failure.New(failure.BadParameter, "the key has %d bits; an oct key has 128, 192 or 256, in k", v.Bits)
		}
	}
	return nil
}

// importBlob is Import for a transfer blob.
func (k *Keys) importBlob(ctx context.Context, caller access.Caller, eng engine.Engine, name, lower string, v *versionRecord, raw []byte) (Key, error) {
	blob, err := parseTransferBlob(raw)
	if err != nil {
		return Key{}, err
	}
	receiver := describe(blob.name, blob.version)
	kek, err := k.use(ctx, caller, importing, blob.name, blob.version)
	if errors.Is(err, failure.NotFound) {
		return Key{}, failure.Wrap(failure.BadParameter, err, "the transfer blob is wrapped for %s, which this HSM does not have; wrap it anew for a key of this HSM with the operation import", receiver)
	}
	if err != nil {
		return Key{}, err
	}
	spec := engine.Spec{Type: v.Type, Curve: v.Curve}
	return k.add(ctx, eng, name, lower, v, func() error {
		made, err := eng.ImportWrapped(ctx, kek.ref, blob.ciphertext, spec, func(got engine.Spec) []byte {
			v.Bits = got.Bits
			return v.binding(k.cfg.HSM, lower)
		})
		if errors.Is(err, engine.ErrDecrypt) {
			return failure.Wrap(failure.BadParameter, err, "the ciphertext of the transfer blob does not open with %s; wrap the key anew for it, by RSA-OAEP with SHA-1 and AES key wrap with padding (CKM_RSA_AES_KEY_WRAP)", receiver)
		}
		if err != nil {
			return importFailure(err, v)
		}
		v.material(made)
		return nil
	})
}

// importFailure is engineFailure for a key from outside.
func importFailure(err error, v *versionRecord) error {
	switch {
	case errors.Is(err, engine.ErrMaterial):
		// What the engine says holds nothing of the key: which check failed.
		return failure.Wrap(failure.BadParameter, err, "the key is not taken: %s; export it anew from where it comes from", strings.TrimPrefix(err.Error(), engine.ErrMaterial.Error()+": "))
	case errors.Is(err, engine.ErrSpec):
		return failure.Wrap(failure.BadParameter, err, "the key is not an %s key of a size that this HSM has (RSA 2048, 3072 or 4096 bits; EC on the curve that crv names; oct 128, 192 or 256 bits)", v.Type)
	}
	return engineFailure(err, "the key")
}

// maxTransferBlob bounds a transfer blob in bytes. The largest key, RSA-4096, makes one of about 4,200.
const maxTransferBlob = 16 << 10

var blobLimits = strictjson.Limits{Bytes: maxTransferBlob, Depth: 4, Elements: 32, Values: 64, StringBytes: maxTransferBlob}

// transferBlob is a BYOK transfer blob taken apart: the key that it is wrapped for, and the wrapped key.
type transferBlob struct {
	name, version string
	ciphertext    []byte
}

// parseTransferBlob reads the JSON of a .byok file (protocol: dataplane, section 4). Members that it does not know
// are left alone: tools of HSM makers write their own.
func parseTransferBlob(raw []byte) (transferBlob, error) {
	refuse := func(format string, args ...any) (transferBlob, error) {
		return transferBlob{}, failure.New(failure.BadParameter, "the transfer blob "+format, args...)
	}
	if err := strictjson.Check(raw, blobLimits); err != nil {
		return refuse("(key.key_hsm) is not the JSON of a .byok file in base64url: %v", err)
	}
	var file struct {
		SchemaVersion string `json:"schema_version"`
		Header        struct {
			Kid string `json:"kid"`
			Alg string `json:"alg"`
			Enc string `json:"enc"`
		} `json:"header"`
		Ciphertext string `json:"ciphertext"`
	}
	if err := json.Unmarshal(raw, &file); err != nil {
		return refuse("has a member of the wrong type; it needs schema_version, header with kid, alg and enc, and ciphertext")
	}
	switch {
	case file.SchemaVersion != "1.0.0":
		return refuse("has another schema_version than 1.0.0")
	case file.Header.Alg != "dir" || file.Header.Enc != "CKM_RSA_AES_KEY_WRAP":
		return refuse("has another header.alg and header.enc than dir and CKM_RSA_AES_KEY_WRAP, the one way of wrapping that there is")
	}
	var blob transferBlob
	u, err := url.Parse(file.Header.Kid)
	if err != nil {
		return refuse("has a header.kid that is no key identifier")
	}
	parts := strings.Split(u.Path, "/")
	if len(parts) != 4 || parts[0] != "" || parts[1] != "keys" || !validName.MatchString(parts[2]) || !validVersion.MatchString(strings.ToLower(parts[3])) {
		return refuse("has a header.kid that is not of the form https://HSM/keys/NAME/VERSION; name the receiving key with its version")
	}
	blob.name, blob.version = parts[2], strings.ToLower(parts[3])
	if blob.ciphertext, err = base64.RawURLEncoding.Strict().DecodeString(file.Ciphertext); err != nil || strings.ContainsAny(file.Ciphertext, "\r\n") {
		return refuse("has a ciphertext that is not base64url without padding")
	}
	return blob, nil
}
