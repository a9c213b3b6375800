package keys

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"strongroom/internal/engine"
	"strongroom/internal/engine/software"
	"strongroom/internal/failure"
	"strongroom/internal/store"
	"strongroom/secret"
)

// A backup is worth what its keys do. Here each version is used once, also one that is disabled, expired or deleted: whether
// somebody may use it is not the question, and only the engine is asked.

// Held is one version of a key as an engine has it: out of a backup, or in an HSM.
type Held struct {
	Name    string
	Deleted bool // the key
	CopyVersion
	public engine.Public
	ref    engine.Ref
	eng    engine.Engine
}

// checkLabel is what an oct key authenticates for its check value.
const checkLabel = "strongroom/keys/check/v1"

// checkOf is what a version is recognised by: of a public key its thumbprint (RFC 7638, SHA-256, base64url). "" for an oct key,
// which has to be used: see octCheck.
func checkOf(p engine.Public) string {
	jwk := publicJWK(p)
	if jwk == nil {
		return ""
	}
	sum := sha256.Sum256(jwk)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// octCheck is what an oct key is recognised by: the first 16 bytes of HMAC-SHA-256 of a label, in base64url. Who has it cannot
// compute the key, nor anything that the key makes of other messages.
func octCheck(ctx context.Context, eng engine.Engine, ref engine.Ref) (string, error) {
	code, err := eng.Sign(ctx, ref, "HS256", []byte(checkLabel))
	if err != nil {
		return "", err
	}
	return base64.RawURLEncoding.EncodeToString(code[:16]), nil
}

// recorded is the check of the public key that a version's record in a backup has. It fails for one that is none.
func (v *versionRecord) recorded() (string, error) {
	switch v.Type {
	case engine.RSA:
		if len(v.N) == 0 || len(v.N) > 1024 || v.E < 3 || len(v.X)+len(v.Y) > 0 {
			return "", errors.New("its record holds no public key")
		}
	case engine.EC:
		if len(v.X) == 0 || len(v.Y) == 0 || len(v.N)+v.E > 0 {
			return "", errors.New("its record holds no public key")
		}
		if size := (map[string]int{engine.P256: 32, engine.P256K: 32, engine.P384: 48, engine.P521: 66})[v.Curve]; len(v.X) > size || len(v.Y) > size {
			return "", errors.New("its record holds no public key")
		}
	}
	return checkOf(v.public()), nil
}

// Wrong is what is wrong with a version of a key, or with the whole key.
type Wrong struct {
	Key     string
	Version string // "" for the whole key
	Reason  string // for people: goes on after the key's name
}

// OpenCopy opens the body of a key in a backup of the whole HSM with an engine of its domain, as a restore does: that each
// version's material opens, is sound, and has the public key that is recorded beside it. It touches no store. name is what the
// backup calls the key. What is wrong is in the second result; an error says that the engine could not be asked.
func OpenCopy(ctx context.Context, eng engine.Engine, salt []byte, name string, text []byte) ([]Held, []Wrong, error) {
	body, lower, err := parseCopy(text)
	if err != nil {
		return nil, []Wrong{{Key: name, Reason: "cannot be read: " + shownCause(err)}}, nil
	}
	var held []Held
	var wrong []Wrong
	for i := range body.Versions {
		v := &body.Versions[i]
		amiss := func(format string, args ...any) {
			wrong = append(wrong, Wrong{body.Name, v.ID, fmt.Sprintf(format, args...)})
		}
		check, err := v.recorded()
		if err != nil {
			amiss("cannot be checked: %v", err)
			continue
		}
		switch err := v.takeIn(ctx, eng, salt, "", lower); {
		case errors.Is(err, engine.ErrTampered):
			amiss("does not open: its material was changed, or is that of another key")
			continue
		case errors.Is(err, engine.ErrSpec):
			amiss("is of another type or size than its record says")
			continue
		case errors.Is(err, errOtherPublicKey):
			amiss("has another public key than its record says")
			continue
		case err != nil:
			return nil, nil, engineFailure(err, "the backup")
		}
		held = append(held, Held{Name: body.Name, Deleted: body.Deleted != nil, CopyVersion: v.copyVersion(check), public: v.public(), ref: v.ref("", lower), eng: eng})
	}
	return held, wrong, nil
}

// errOtherPublicKey is material whose public key is not the one that is recorded beside it.
var errOtherPublicKey = errors.New("keys: another public key than is recorded")

// takeIn opens the material of a version in a backup and seals it for the place of an HSM, and sees that it has the public key that
// is recorded beside it: until then v is what a file says. Its errors are the engine's as they are, of which ErrTampered and ErrSpec tell
// of the backup, and errOtherPublicKey. After an error v is not to be used.
func (v *versionRecord) takeIn(ctx context.Context, eng engine.Engine, salt []byte, hsm, lower string) error {
	said := versionRecord{N: v.N, E: v.E, X: v.X, Y: v.Y}
	made, err := eng.Import(ctx, v.Sealed, salt, v.exportBinding(lower), v.spec(), v.binding(hsm, lower))
	if err != nil {
		return err
	}
	v.material(made)
	if !bytes.Equal(v.N, said.N) || v.E != said.E || !bytes.Equal(v.X, said.X) || !bytes.Equal(v.Y, said.Y) {
		return errOtherPublicKey
	}
	return nil
}

// shownCause is the cause of a body that cannot be read: words of this package.
func shownCause(err error) string {
	if f, ok := errors.AsType[*failure.Error](err); ok && f.Cause != nil {
		return f.Cause.Error()
	}
	return err.Error()
}

// Each yields every version of every key that r shows, deleted ones too.
func (m *Mover) Each(ctx context.Context, r store.Reader, yield func(Held) error) error {
	k, eng := m.k, m.eng
	for _, deleted := range []bool{false, true} {
		prefix := k.keyPrefix()
		if deleted {
			prefix = k.deletedPrefix()
		}
		for path, raw := range r.Scan(prefix, "") {
			if err := ctx.Err(); err != nil {
				return err
			}
			lower := strings.TrimPrefix(path, prefix)
			rec, err := k.openKey(ctx, eng, r, lower, deleted, raw)
			if err != nil {
				return err
			}
			for i := range rec.Versions {
				v, err := k.loadVersion(ctx, eng, r, lower, rec, i)
				if err != nil {
					return err
				}
				h := Held{Name: rec.Name, Deleted: deleted, CopyVersion: v.copyVersion(checkOf(v.public())), public: v.public(), ref: v.ref(k.cfg.HSM, lower), eng: eng}
				if err := yield(h); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// signatures has for each kind of key the algorithm that it is tried with.
var signatures = map[string]struct {
	alg  string
	hash crypto.Hash
}{
	string(engine.RSA): {"PS256", crypto.SHA256},
	engine.P256:        {"ES256", crypto.SHA256},
	engine.P256K:       {"ES256K", crypto.SHA256},
	engine.P384:        {"ES384", crypto.SHA384},
	engine.P521:        {"ES512", crypto.SHA512},
}

// Recognise returns what the version is recognised by: see CopyVersion. An oct key is used for it.
func (h Held) Recognise(ctx context.Context) (string, error) {
	if h.Check != "" {
		return h.Check, nil
	}
	defer h.eng.Drop(h.ref)
	check, err := octCheck(ctx, h.eng, h.ref)
	if err != nil {
		return "", engineFailure(err, describe(h.Name, h.ID))
	}
	return check, nil
}

// Prove uses the version once. An EC or RSA key signs, and the signature must hold under the public key, outside the engine; an
// oct key encrypts and decrypts. It returns what the version is recognised by, of an oct key computed anew. wrong is empty if all is
// well; an error says that the engine could not be asked. The engine forgets the opened key. Safe for concurrent use.
func (h Held) Prove(ctx context.Context) (check, wrong string, err error) {
	defer h.eng.Drop(h.ref)
	kind := string(h.Type)
	if h.Type == engine.EC {
		kind = h.Curve
	}
	if h.Type == engine.Oct {
		check, wrong, err = h.proveOct(ctx)
	} else {
		check, wrong, err = h.proveSigning(ctx, kind)
	}
	if errors.Is(err, engine.ErrTampered) || errors.Is(err, engine.ErrSpec) {
		return "", "does not open", nil
	}
	if err != nil {
		return "", "", engineFailure(err, describe(h.Name, h.ID))
	}
	return check, wrong, nil
}

func (h Held) proveSigning(ctx context.Context, kind string) (check, wrong string, err error) {
	how, known := signatures[kind]
	if !known {
		return "", "is of a kind that cannot be tried", nil
	}
	d := how.hash.New()
	d.Write([]byte(checkLabel + h.Name + h.ID))
	digest := d.Sum(nil)
	signature, err := h.eng.Sign(ctx, h.ref, how.alg, digest)
	if err != nil {
		return "", "", err
	}
	holds, err := software.VerifyPublic(h.public, how.alg, digest, signature)
	if err != nil || !holds {
		return "", "signs, and the signature does not hold under the public key that is recorded", nil
	}
	return checkOf(h.public), "", nil
}

func (h Held) proveOct(ctx context.Context) (check, wrong string, err error) {
	if check, err = octCheck(ctx, h.eng, h.ref); err != nil {
		return "", "", err
	}
	alg := fmt.Sprintf("A%dGCM", h.Bits)
	sealed, err := h.eng.EncryptAES(ctx, h.ref, alg, secret.New([]byte(checkLabel)), nil, nil)
	if err != nil {
		return "", "", err
	}
	plain, err := h.eng.DecryptAES(ctx, h.ref, alg, sealed, nil)
	if err != nil || string(plain.Reveal()) != checkLabel {
		return "", "encrypts, and what it encrypts does not decrypt", nil
	}
	return check, "", nil
}

// copyVersion says about a version what everybody may know.
func (v *versionRecord) copyVersion(check string) CopyVersion {
	return CopyVersion{ID: v.ID, Type: v.Type, Bits: v.Bits, Curve: v.Curve, Enabled: v.Enabled, Check: check}
}
