package keys

import (
	"context"
	"errors"
	"strings"

	"strongroom/internal/access"
	"strongroom/internal/engine"
	"strongroom/internal/failure"
)

// SignResult is a signature and the key that made it.
type SignResult struct {
	Name, Version string
	Signature     []byte
}

// Sign signs a digest, whose length must be that of alg's hash, with a version of a key; version "" is the
// latest. An oct key gives the HMAC of what is called the digest, of whatever length. The key must be enabled, inside nbf and exp, and have the operation sign.
func (k *Keys) Sign(ctx context.Context, caller access.Caller, name, version, alg string, digest []byte) (SignResult, error) {
	u, err := k.use(ctx, caller, signing, name, version)
	if err != nil {
		return SignResult{}, err
	}
	signature, err := u.eng.Sign(ctx, u.ref, alg, digest)
	if err != nil {
		return SignResult{}, u.signatureFailure(err, len(digest))
	}
	if err := u.checkSignature(ctx, alg, digest, signature); err != nil {
		return SignResult{}, err
	}
	return SignResult{Name: u.name, Version: u.version, Signature: signature}, nil
}

// checkSignature verifies a signature before it is given out, if it is one with RSA: from a single one that was made with
// a fault in one half of the Chinese remainder computation, anybody factors the modulus (Boneh, DeMillo and Lipton 1997).
// It costs about a thirtieth of the signature. A faulty ECDSA signature is not that telling, and verifying costs
// more than signing.
func (u use) checkSignature(ctx context.Context, alg string, digest, signature []byte) error {
	if u.ref.Type != engine.RSA {
		return nil
	}
	ok, err := u.eng.Verify(ctx, u.ref, alg, digest, signature)
	if err != nil {
		return u.signatureFailure(err, len(digest))
	}
	if !ok {
		return failure.New(failure.Internal, "the signature with %s does not verify, so it is not given out; try again, and if this happens more than once, have the server's memory and processor checked", describe(u.name, u.version))
	}
	return nil
}

// Verify reports whether a signature over a digest holds under a version of a key; version "" is the latest. The
// key must be enabled and have the operation verify; nbf and exp do not matter. A malformed signature is one that
// does not hold.
func (k *Keys) Verify(ctx context.Context, caller access.Caller, name, version, alg string, digest, signature []byte) (bool, error) {
	u, err := k.use(ctx, caller, verifying, name, version)
	if err != nil {
		return false, err
	}
	ok, err := u.eng.Verify(ctx, u.ref, alg, digest, signature)
	if err != nil {
		return false, u.signatureFailure(err, len(digest))
	}
	return ok, nil
}

// signatureFailure is engineFailure for what a caller can get wrong when signing and verifying. alg came from
// outside and is not repeated.
func (u use) signatureFailure(err error, digest int) error {
	switch {
	case errors.Is(err, engine.ErrAlgorithm):
		fitting := map[string]string{
			engine.P256: "ES256", engine.P256K: "ES256K", engine.P384: "ES384", engine.P521: "ES512",
			"": "RS256, RS384, RS512, PS256, PS384 or PS512",
		}[u.ref.Curve]
		if u.ref.Type == engine.Oct {
			fitting = "HS256, HS384 or HS512"
		}
		return failure.Wrap(failure.BadParameter, err, "alg does not fit key %s, which is %s; use %s", u.name, strings.TrimSpace(string(u.ref.Type)+" "+u.ref.Curve), fitting)
	case errors.Is(err, engine.ErrDigest):
		return failure.Wrap(failure.BadParameter, err, "the digest has %d bytes; send the digest that alg's own hash makes: 32 bytes for SHA-256, 48 for SHA-384, 64 for SHA-512", digest)
	}
	return engineFailure(err, describe(u.name, u.version))
}

// operation is one thing that can be done with a key.
type operation struct {
	action access.Action
	op     string // in key_ops
	// inWindow: only between nbf and exp. Operations that finish what was begun inside the window, such as reading
	// what was encrypted then, are allowed outside too.
	inWindow bool
}

var (
	signing    = operation{access.KeySign, opSign, true}
	verifying  = operation{access.KeyVerify, opVerify, false}
	encrypting = operation{access.KeyEncrypt, opEncrypt, true}
	decrypting = operation{access.KeyDecrypt, opDecrypt, false}
	wrapping   = operation{access.KeyWrap, opWrap, true}
	unwrapping = operation{access.KeyUnwrap, opUnwrap, false}
	importing  = operation{access.KeyImport, opImport, true} // as the key that a transfer blob is wrapped for
)

// use is a version of a key that the caller may use for one operation now.
type use struct {
	eng           engine.Engine
	ref           engine.Ref
	name, version string
}

// use is how every use of a key begins: the caller is allowed, the version exists, and it permits the operation.
func (k *Keys) use(ctx context.Context, caller access.Caller, o operation, name, version string) (use, error) {
	eng, lower, err := k.enterKey(ctx, caller, o.action, name)
	if err != nil {
		return use{}, err
	}
	if version, err = normalVersion(version); err != nil {
		return use{}, err
	}
	name, v, err := k.find(ctx, eng, lower, version)
	if err != nil {
		return use{}, err
	}
	if err := v.permit(name, o.op, k.cfg.Now(), o.inWindow); err != nil {
		return use{}, err
	}
	return use{eng: eng, ref: v.ref(k.cfg.HSM, lower), name: name, version: v.ID}, nil
}
