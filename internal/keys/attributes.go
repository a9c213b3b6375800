package keys

import (
	"math"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"strongroom/internal/engine"
	"strongroom/internal/failure"
)

// Bounds of what a caller may attach to a key.
const (
	maxTags     = 15
	maxTagChars = 256             // characters of a tag's name, and of its value
	maxTime     = 253_402_300_799 // 9999-12-31T23:59:59Z
)

// The operations that key_ops may name. opImport makes a key-exchange key, which receives other keys and does
// nothing else: a key that could also decrypt would hand out what was imported through it (K3).
const (
	opSign    = "sign"
	opVerify  = "verify"
	opEncrypt = "encrypt"
	opDecrypt = "decrypt"
	opWrap    = "wrapKey"
	opUnwrap  = "unwrapKey"
	opImport  = "import"
	opExport  = "export" // allowed on exportable keys, and of no effect: what lets them out is their release policy
)

// opsByType are the operations of each key type, in the order in which they are the default; import is allowed
// for RSA besides, alone, and export for keys that are exportable.
var opsByType = map[engine.Type][]string{
	engine.RSA: {opWrap, opDecrypt, opEncrypt, opUnwrap, opSign, opVerify},
	engine.EC:  {opSign, opVerify},
	engine.Oct: {opWrap, opDecrypt, opEncrypt, opUnwrap, opSign, opVerify},
}

var (
	validName    = regexp.MustCompile(`^[0-9a-zA-Z-]{1,127}$`)
	validVersion = regexp.MustCompile(`^[0-9a-f]{32}$`)
)

// normalName refuses what is no key name and returns the form in which names are compared.
func normalName(name string) (string, error) {
	if !validName.MatchString(name) {
		return "", failure.New(failure.BadParameter, "a key name has 1 to 127 letters (a to z), digits and hyphens")
	}
	return strings.ToLower(name), nil
}

// normalVersion does the same for a version, where "" means the latest.
func normalVersion(version string) (string, error) {
	lower := strings.ToLower(version)
	if version != "" && !validVersion.MatchString(lower) {
		return "", failure.New(failure.BadParameter, "a key version has 32 hexadecimal digits")
	}
	return lower, nil
}

// CreateParams says which key to make. The zero value of a field means its default.
type CreateParams struct {
	Type      string     // "RSA-HSM", "EC-HSM" or "oct-HSM"; "RSA", "EC" and "oct" mean the same
	Bits      int        // RSA: 2048 (default), 3072 or 4096; oct: 128, 192 or 256 (default)
	Exponent  int        // RSA: odd, 65537 (default) to 2³¹−1
	Curve     string     // EC: P-256 (default), P-256K, P-384 or P-521
	Ops       []string   // nil: all that the type can do; empty but not nil: none
	Enabled   *bool      // default true
	NotBefore *time.Time // default: no bound
	Expires   *time.Time // default: never
	Tags      map[string]string
	// Exportable keys can be released, and must have a ReleasePolicy that says when; others must have none. All
	// versions of a key are alike in this.
	Exportable    bool
	ReleasePolicy *ReleasePolicy
}

// typeOf is the type of a name as callers write it: RSA, RSA-HSM and so on.
func typeOf(name string) (engine.Type, error) {
	switch name {
	case "RSA", string(engine.RSA):
		return engine.RSA, nil
	case "EC", string(engine.EC):
		return engine.EC, nil
	case "oct", string(engine.Oct):
		return engine.Oct, nil
	}
	return "", failure.New(failure.BadParameter, "kty must be RSA-HSM, EC-HSM or oct-HSM; RSA, EC and oct mean the same")
}

// spec says which key the engine has to make.
func (p CreateParams) spec() (engine.Spec, error) {
	spec := engine.Spec{Bits: p.Bits, Exponent: p.Exponent, Curve: p.Curve}
	var err error
	if spec.Type, err = typeOf(p.Type); err != nil {
		return spec, err
	}
	switch spec.Type {
	case engine.RSA:
		if spec.Bits == 0 {
			spec.Bits = 2048
		}
		if spec.Bits != 2048 && spec.Bits != 3072 && spec.Bits != 4096 {
			return spec, failure.New(failure.BadParameter, "key_size is %d; an RSA key has 2048, 3072 or 4096 bits", spec.Bits)
		}
		if spec.Exponent != 0 && (spec.Exponent < 65537 || spec.Exponent%2 == 0 || spec.Exponent > math.MaxInt32) {
			return spec, failure.New(failure.BadParameter, "public_exponent is %d; it must be odd, and from 65537 to 2147483647: leave it out", spec.Exponent)
		}
		if spec.Curve != "" {
			return spec, failure.New(failure.BadParameter, "crv is for EC keys; an RSA key has a key_size")
		}
	case engine.EC:
		if spec.Curve == "" {
			spec.Curve = engine.P256
		}
		if err := checkCurve(spec.Curve); err != nil {
			return spec, err
		}
		if spec.Bits != 0 || spec.Exponent != 0 {
			return spec, failure.New(failure.BadParameter, "key_size and public_exponent are for RSA keys; an EC key has a crv")
		}
	case engine.Oct:
		if spec.Bits == 0 {
			spec.Bits = 256
		}
		if spec.Bits != 128 && spec.Bits != 192 && spec.Bits != 256 {
			return spec, failure.New(failure.BadParameter, "key_size is %d; an oct key has 128, 192 or 256 bits", spec.Bits)
		}
		if spec.Curve != "" || spec.Exponent != 0 {
			return spec, failure.New(failure.BadParameter, "crv is for EC keys and public_exponent for RSA keys; an oct key has a key_size")
		}
	}
	return spec, nil
}

func checkCurve(curve string) error {
	switch curve {
	case engine.P256, engine.P256K, engine.P384, engine.P521:
		return nil
	}
	return failure.New(failure.BadParameter, "crv must be P-256, P-256K, P-384 or P-521")
}

// record returns a new version of a key of type t: everything but its ID, size and material.
func (p CreateParams) record(t engine.Type, now time.Time) (versionRecord, error) {
	v := versionRecord{
		Enabled: p.Enabled == nil || *p.Enabled,
		Ops:     slices.Clone(p.Ops), Tags: cloneTags(p.Tags),
		Created: now.Unix(), Updated: now.Unix(),
		Type: t, HSM: true, Exportable: p.Exportable, Release: p.ReleasePolicy.record(),
	}
	if p.Ops == nil {
		v.Ops = slices.Clone(opsByType[t])
	}
	for _, bound := range []struct {
		from *time.Time
		to   **int64
	}{{p.NotBefore, &v.NotBefore}, {p.Expires, &v.Expires}} {
		if bound.from != nil {
			*bound.to = unix(bound.from)
		}
	}
	return v, v.checkAttributes(t)
}

// checkAttributes holds what a caller, or the backup of another server, says about a key against the rules.
func (v *versionRecord) checkAttributes(t engine.Type) error {
	seen := map[string]bool{}
	for _, op := range v.Ops {
		if !slices.Contains(opsByType[t], op) && (t != engine.RSA || op != opImport) && (!v.Exportable || op != opExport) {
			allowed := strings.Join(opsByType[t], ", ")
			if t == engine.RSA {
				allowed += ", or import alone"
			}
			if v.Exportable {
				allowed += ", and export"
			}
			return failure.New(failure.BadParameter, "key_ops names an operation that %s keys do not have; they have %s", t, allowed)
		}
		if seen[op] {
			return failure.New(failure.BadParameter, "key_ops names %s twice", op)
		}
		seen[op] = true
	}
	if seen[opImport] && len(seen) > 1 {
		return failure.New(failure.BadParameter, "a key with the operation import receives other keys and can have no further operation; make a second key for those")
	}
	if err := v.checkRelease(); err != nil {
		return err
	}
	for name, at := range map[string]*int64{"nbf": v.NotBefore, "exp": v.Expires} {
		if at != nil && (*at < 0 || *at > maxTime) {
			return failure.New(failure.BadParameter, "%s is not a time between 1970 and 9999 in seconds", name)
		}
	}
	if v.NotBefore != nil && v.Expires != nil && *v.Expires <= *v.NotBefore {
		return failure.New(failure.BadParameter, "exp must be later than nbf, or the key could never be used")
	}
	if len(v.Tags) > maxTags {
		return failure.New(failure.BadParameter, "a key has at most %d tags, not %d", maxTags, len(v.Tags))
	}
	for name, value := range v.Tags {
		if utf8.RuneCountInString(name) > maxTagChars || utf8.RuneCountInString(value) > maxTagChars {
			return failure.New(failure.BadParameter, "a tag's name and its value have at most %d characters each", maxTagChars)
		}
		if !utf8.ValidString(name) || !utf8.ValidString(value) {
			return failure.New(failure.BadParameter, "a tag is not valid UTF-8")
		}
	}
	return nil
}

// permit refuses an operation that the version does not allow now (K2). inWindow says whether the operation
// needs now to be between nbf and exp; operations that only finish what was begun before do not.
func (v *versionRecord) permit(name, op string, now time.Time, inWindow bool) error {
	if can := opsByType[v.Type]; !slices.Contains(can, op) && (op != opImport || v.Type != engine.RSA) {
		return failure.New(failure.BadParameter, "%s is %s, and such keys only %s; %s needs a key of another type", describe(name, v.ID), v.Type, strings.Join(can, " and "), op)
	}
	if !v.Enabled {
		return failure.New(failure.Disabled, "%s is disabled; enable it first", describe(name, v.ID))
	}
	if !slices.Contains(v.Ops, op) {
		return failure.New(failure.Disabled, "%s does not allow the operation %s: its key_ops are [%s]", describe(name, v.ID), op, strings.Join(v.Ops, ", "))
	}
	if !inWindow {
		return nil
	}
	if v.NotBefore != nil && now.Before(time.Unix(*v.NotBefore, 0)) {
		return failure.New(failure.Disabled, "%s is not valid before %s (nbf)", describe(name, v.ID), stamp(*v.NotBefore))
	}
	if v.Expires != nil && !now.Before(time.Unix(*v.Expires, 0)) {
		return failure.New(failure.Disabled, "%s expired at %s (exp); make a new version", describe(name, v.ID), stamp(*v.Expires))
	}
	return nil
}

func stamp(unix int64) string { return time.Unix(unix, 0).UTC().Format(time.RFC3339) }

func cloneTags(tags map[string]string) map[string]string {
	if len(tags) == 0 {
		return nil
	}
	c := make(map[string]string, len(tags))
	for name, value := range tags {
		c[name] = value
	}
	return c
}
