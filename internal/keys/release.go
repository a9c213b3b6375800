package keys

import (
	"context"
	"errors"
	"strings"

	"strongroom/internal/access"
	"strongroom/internal/engine"
	"strongroom/internal/failure"
	"strongroom/internal/release"
)

// releaseType is the typ of the header of a released key, so that no other statement of the domain can pass for one.
const releaseType = "strongroom-key-release+jws"

// ReleaseParams says how to release a key, and to whom.
type ReleaseParams struct {
	// Target is the attestation token: a JWT of a configured attestation authority, which holds the recipient's
	// public key in the claim x-ms-runtime.keys.
	Target string
	// Encryption is the way of wrapping, one of engine.RSAAESKeyWrap and its likes; "" means engine.RSAAESKeyWrap.
	Encryption string
	// Attested is told, once a token is verified, which authority vouches for it and the thumbprint of the key that it
	// names (RFC 7638; "" where it names none), for the record, whatever comes of the release. Optional.
	Attested func(authority, recipient string)
	// Payload makes what is signed of the key, as it is known outside, and its wrapped form.
	Payload func(Key, Released) ([]byte, error)
}

// Released is a key, wrapped for a recipient.
type Released struct {
	Encryption string
	Wrapped    []byte
	Recipient  string // kid of the recipient's key, as the token has it; may be empty
}

// Release wraps a version of a key for a recipient outside the HSM (version "" is the latest), and returns it in a JWS that
// the domain's signing key signed, with the domain's certificate in its header. The key must be enabled and exportable;
// nbf, exp and key_ops do not matter. The token must be verified by a configured authority and fulfil the version's
// release policy. If not, it is a failure.Forbidden of code "Forbidden" that names what is missing, and never what
// the policy expects.
func (k *Keys) Release(ctx context.Context, caller access.Caller, name, version string, p ReleaseParams) (jws []byte, err error) {
	eng, lower, err := k.enterKey(ctx, caller, access.KeyRelease, name)
	if err != nil {
		return nil, err
	}
	if version, err = normalVersion(version); err != nil {
		return nil, err
	}
	switch p.Encryption {
	case "":
		p.Encryption = engine.RSAAESKeyWrap
	case engine.RSAAESKeyWrap, engine.RSAAESKeyWrap256, engine.RSAAESKeyWrap384:
	default:
		return nil, failure.New(failure.BadParameter, "enc must be %s, %s or %s", engine.RSAAESKeyWrap, engine.RSAAESKeyWrap256, engine.RSAAESKeyWrap384)
	}
	if p.Target == "" {
		return nil, failure.New(failure.BadParameter, "target is missing: it is the attestation token of the environment that the key shall be released to")
	}
	if _, _, _, err = k.releasable(ctx, eng, lower, version); err != nil {
		return nil, err
	}
	attested, err := k.cfg.Attestations.Verify(ctx, p.Target)
	if err != nil {
		return nil, err
	}
	if p.Attested != nil {
		named := ""
		if to, err := release.Recipient(attested.Claims); err == nil {
			named = to.Thumbprint()
		}
		p.Attested(attested.Authority, named)
	}
	// That may have waited for the authority's keys, and what was answered meanwhile counts: a right that was taken, a
	// key that was disabled or deleted, a policy that became narrower. So everything is asked again.
	r, err := k.mayLeave(ctx, caller, name, version, attested)
	if err != nil {
		return nil, err
	}
	what := describe(r.name, r.v.ID)
	wrapped, err := r.eng.Release(ctx, r.v.ref(k.cfg.HSM, r.lower), p.Encryption, engine.Public{Type: engine.RSA, N: r.to.N, E: r.to.E})
	if errors.Is(err, engine.ErrRecipient) {
		return nil, notReleasedBecause(err, "%s is not released: the key for encryption in the token's claim x-ms-runtime.keys is not an RSA key of 2048, 3072 or 4096 bits with an odd exponent from 65537, or is one that can be factored", what)
	}
	if err != nil {
		return nil, engineFailure(err, what)
	}
	payload, err := p.Payload(k.key(r.name, r.v), Released{Encryption: p.Encryption, Wrapped: wrapped, Recipient: r.to.ID})
	if err != nil {
		return nil, failure.Wrap(failure.Internal, err, "the released key cannot be encoded")
	}
	if jws, _, err = k.cfg.Statement(ctx, releaseType, payload); err != nil {
		return nil, err
	}
	// The engine may have waited too, for its turn among heavy work. Nothing has left yet, so what was answered until here
	// still counts. The question is about this version, also where a newer one was made meanwhile.
	if _, err = k.mayLeave(ctx, caller, name, r.v.ID, attested); err != nil {
		return nil, err
	}
	k.cfg.Log.InfoContext(ctx, "key released", "hsm_id", k.cfg.HSM, "key", r.name, "version", r.v.ID, "caller", caller.ObjectID, "authority", attested.Authority, "recipient", r.to.Thumbprint())
	return jws, nil
}

// leaving is a version of a key that may be released now, and the key that it is released to.
type leaving struct {
	eng   engine.Engine
	lower string
	name  string
	v     *versionRecord
	to    release.Key
}

// mayLeave asks all that a release stands on, as it is now: the caller's right, the key, its policy and what was attested.
func (k *Keys) mayLeave(ctx context.Context, caller access.Caller, name, version string, attested access.Attestation) (r leaving, err error) {
	if r.eng, r.lower, err = k.enterKey(ctx, caller, access.KeyRelease, name); err != nil {
		return leaving{}, err
	}
	var policy *release.Policy
	if r.name, r.v, policy, err = k.releasable(ctx, r.eng, r.lower, version); err != nil {
		return leaving{}, err
	}
	if r.to, err = recipient(policy, attested, describe(r.name, r.v.ID)); err != nil {
		return leaving{}, err
	}
	return r, nil
}

// releasable finds a version that may be released to somebody, and its policy.
func (k *Keys) releasable(ctx context.Context, eng engine.Engine, lower, version string) (name string, v *versionRecord, policy *release.Policy, err error) {
	name, v, err = k.find(ctx, eng, lower, version)
	if err != nil {
		return "", nil, nil, err
	}
	what := describe(name, v.ID)
	switch {
	case !v.Enabled:
		return "", nil, nil, failure.New(failure.Disabled, "%s is disabled; enable it first", what)
	case !v.Exportable || v.Release == nil:
		return "", nil, nil, notReleased("%s is not exportable, and never will be; only keys made with attributes.exportable and a release_policy can be released", what)
	case k.cfg.Attestations == nil:
		return "", nil, nil, notReleased("this server knows no attestation authority; its operator has to configure one")
	}
	policy, err = release.Parse(v.Release.Data)
	if err != nil { // one that an earlier server took
		return "", nil, nil, notReleasedBecause(err, "%s is not released: this server does not understand its release_policy: %v; update it", what, err)
	}
	return name, v, policy, nil
}

// recipient returns the key that a version may be released to by its policy.
func recipient(policy *release.Policy, attested access.Attestation, what string) (release.Key, error) {
	fulfilled, unmet := policy.Judge(attested.Authority, attested.Claims)
	switch {
	case !fulfilled && len(unmet) == 0:
		return release.Key{}, notReleased("%s is not released: its release_policy does not name the authority of the token", what)
	case !fulfilled:
		return release.Key{}, notReleased("%s is not released: its release_policy is not fulfilled by these claims of the token, which are missing or have another value: %s", what, strings.Join(unmet, ", "))
	}
	to, err := release.Recipient(attested.Claims)
	if err != nil {
		return release.Key{}, notReleasedBecause(err, "%s is not released: the token names no key to wrap it for: %v", what, err)
	}
	return to, nil
}

// notReleased is the one kind of answer to a release that the key or its policy does not allow.
func notReleased(format string, args ...any) error {
	return failure.Coded(failure.Forbidden, "Forbidden", format, args...)
}

func notReleasedBecause(cause error, format string, args ...any) error {
	f := failure.Wrap(failure.Forbidden, cause, format, args...)
	f.Code = "Forbidden"
	return f
}
