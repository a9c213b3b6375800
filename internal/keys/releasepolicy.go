package keys

import (
	"bytes"
	"mime"

	"strongroom/internal/failure"
	"strongroom/internal/release"
)

// ReleasePolicy says under which conditions an exportable key may leave the HSM, and for whom.
type ReleasePolicy struct {
	ContentType string // "" means [defaultPolicyType]
	Data        []byte // JSON of package release, at most release.MaxPolicy bytes
	Immutable   bool   // it can never be changed any more
}

const defaultPolicyType = "application/json; charset=utf-8"

// releasePolicy is the form in records.
type releasePolicy struct {
	ContentType string `json:"content_type"`
	Data        []byte `json:"data"`
	Immutable   bool   `json:"immutable,omitempty"`
}

func (p *ReleasePolicy) record() *releasePolicy {
	if p == nil {
		return nil
	}
	r := &releasePolicy{ContentType: p.ContentType, Data: bytes.Clone(p.Data), Immutable: p.Immutable}
	if r.ContentType == "" {
		r.ContentType = defaultPolicyType
	}
	return r
}

func (r *releasePolicy) policy() *ReleasePolicy {
	if r == nil {
		return nil
	}
	return &ReleasePolicy{ContentType: r.ContentType, Data: bytes.Clone(r.Data), Immutable: r.Immutable}
}

func (r *releasePolicy) equal(other *releasePolicy) bool {
	return r.ContentType == other.ContentType && bytes.Equal(r.Data, other.Data) && r.Immutable == other.Immutable
}

// checkRelease holds exportability, release policy and operations of a version against each other.
func (v *versionRecord) checkRelease() error {
	switch {
	case v.Release != nil && !v.Exportable:
		return failure.New(failure.BadParameter, "Non-exportable keys must not have release policy")
	case v.Release == nil && v.Exportable:
		return failure.New(failure.BadParameter, "an exportable key needs a release_policy, which says when it may leave")
	case v.Release == nil:
		return nil
	}
	for _, op := range v.Ops {
		if op == opImport {
			return failure.New(failure.BadParameter, "a key with the operation import cannot be exportable: whoever got it could read the keys that were sent to it")
		}
	}
	if kind, _, err := mime.ParseMediaType(v.Release.ContentType); err != nil || kind != "application/json" || len(v.Release.ContentType) > 256 {
		return failure.New(failure.BadParameter, "release_policy.contentType must be %q, or left out", defaultPolicyType)
	}
	if _, err := release.Parse(v.Release.Data); err != nil {
		return failure.Wrap(failure.BadParameter, err, "release_policy.data, in base64url, is %v", err)
	}
	return nil
}
