package keys

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"hash"
	"log/slog"
	"maps"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"
	"github.com/tink-crypto/tink-go/v2/kwp/subtle"

	"strongroom/internal/access"
	"strongroom/internal/engine"
	"strongroom/internal/failure"
	"strongroom/internal/store"
	"strongroom/internal/store/memory"
)

// tee is an attested environment: the authority that attests it, and the key that it receives keys with.
type tee struct {
	authority *ecdsa.PrivateKey
	key       *rsa.PrivateKey
}

// authorityURL is that of anyPolicy.
const authorityURL = "https://attest.example"

func newTEE(t testing.TB, b *bench) *tee {
	t.Helper()
	authority, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	e := &tee{authority: authority, key: key}
	e.configure(t, b)
	return e
}

// configure makes an HSM believe the authority, under two URLs.
func (e *tee) configure(t testing.TB, b *bench) {
	t.Helper()
	keys := &oidc.StaticKeySet{PublicKeys: []crypto.PublicKey{e.authority.Public()}}
	var err error
	b.Keys.cfg.Attestations, err = access.NewAttestations([]access.Issuer{
		{URL: authorityURL, Keys: keys, Algorithms: []string{"ES256"}}, {URL: authorityURL + "/second", Keys: keys, Algorithms: []string{"ES256"}},
	}, b.Keys.cfg.Now)
	if err != nil {
		t.Fatal(err)
	}
}

// jwk is the public key as tokens have it.
func (e *tee) jwk() map[string]any {
	return map[string]any{"kty": "RSA", "kid": "tee-key", "key_ops": []string{"encrypt"}, "e": "AQAB", "n": base64.RawURLEncoding.EncodeToString(e.key.N.Bytes())}
}

// token attests what anyPolicy wants, with changes; a nil value removes a claim.
func (e *tee) token(t testing.TB, changes map[string]any) string {
	t.Helper()
	claims := map[string]any{
		"iss": authorityURL, "nbf": noon.Unix(), "exp": noon.Add(time.Hour).Unix(), "secure": true,
		"x-ms-runtime": map[string]any{"keys": []any{e.jwk()}},
	}
	maps.Copy(claims, changes)
	maps.DeleteFunc(claims, func(_ string, v any) bool { return v == nil })
	payload, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: e.authority}, nil)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := signer.Sign(payload)
	if err != nil {
		t.Fatal(err)
	}
	text, err := signed.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// open unwraps with the standard library, and another implementation of RFC 5649 than the engine's.
func (e *tee) open(t testing.TB, encryption string, wrapped []byte) []byte {
	t.Helper()
	h := map[string]hash.Hash{engine.RSAAESKeyWrap: sha1.New(), engine.RSAAESKeyWrap256: sha256.New(), engine.RSAAESKeyWrap384: sha512.New384()}[encryption]
	key, err := rsa.DecryptOAEP(h, nil, e.key, wrapped[:e.key.Size()], nil)
	if err != nil {
		t.Fatal(err)
	}
	kwp, err := subtle.NewKWP(key)
	if err != nil {
		t.Fatal(err)
	}
	target, err := kwp.Unwrap(wrapped[e.key.Size():])
	if err != nil {
		t.Fatal(err)
	}
	return target
}

// leaver makes a key that may leave.
func (b *bench) leaver(t testing.TB, name string, p CreateParams) Key {
	t.Helper()
	p.Exportable = true
	if p.ReleasePolicy == nil {
		p.ReleasePolicy = anyPolicy()
	}
	return b.create(t, name, p)
}

// released is what the payload function got.
type released struct {
	key Key
	Released
}

// release releases a key, and returns what was signed.
func (b *bench) release(t testing.TB, name, version, encryption, token string) (released, error) {
	t.Helper()
	var got released
	jws, err := b.Release(t.Context(), alice, name, version, ReleaseParams{Target: token, Encryption: encryption, Payload: func(k Key, r Released) ([]byte, error) {
		got = released{k, r}
		return []byte("payload of " + k.Name), nil
	}})
	if err != nil && (jws != nil || got.Wrapped != nil) {
		t.Errorf("refused with %v, and yet something was made", err)
	}
	if err == nil && string(jws) != releaseType+".payload of "+got.key.Name {
		t.Errorf("signed was %q", jws)
	}
	return got, err
}

// A key of each type reaches the attested environment, and is the same key there.
func TestReleasedKeysAreTheKeys(t *testing.T) {
	b := newBench(t, memory.New(), alphaID, ownDomain)
	var log bytes.Buffer
	b.Keys.cfg.Log = slog.New(slog.NewTextHandler(&log, nil))
	e := newTEE(t, b)
	token := e.token(t, nil)
	for _, p := range []CreateParams{
		{Type: "EC", Curve: engine.P256}, {Type: "EC", Curve: engine.P521}, {Type: "EC", Curve: engine.P256K}, {Type: "RSA"}, {Type: "oct", Bits: 128}, {Type: "oct"},
	} {
		name := strings.ReplaceAll(p.Type+p.Curve, "-", "")
		made := b.leaver(t, name, p)
		for _, encryption := range []string{"", engine.RSAAESKeyWrap, engine.RSAAESKeyWrap256, engine.RSAAESKeyWrap384} {
			got, err := b.release(t, name, "", encryption, token)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			want := encryption
			if want == "" {
				want = engine.RSAAESKeyWrap
			}
			if got.Encryption != want || got.Recipient != "tee-key" || got.key.Version != made.Version {
				t.Errorf("%s: wrapped with %s for %q, version %s", name, got.Encryption, got.Recipient, got.key.Version)
			}
			target := e.open(t, got.Encryption, got.Wrapped)
			switch p.Type {
			case "oct":
				if 8*len(target) != made.Public.Bits {
					t.Errorf("%s: %d bytes", name, len(target))
				}
			case "RSA":
				k, err := x509.ParsePKCS8PrivateKey(target)
				if err != nil || k.(*rsa.PrivateKey).N.Cmp(made.Public.N) != 0 {
					t.Errorf("%s: another key, or %v", name, err)
				}
			default:
				x := made.Public.X.FillBytes(make([]byte, (made.Public.X.BitLen()+7)/8))
				if !bytes.Contains(target, x) { // PKCS #8 holds the public point too
					t.Errorf("%s: another key", name)
				}
			}
		}
	}
	// An operator sees who took what, and on whose word.
	for _, word := range []string{"key released", "key=ECP256 ", alice.ObjectID, "authority=" + authorityURL, "recipient="} {
		if strings.Count(log.String(), word) < 4 {
			t.Errorf("the log does not say %q of each release:\n%s", word, &log)
		}
	}
	// The version that is named, and outside its time: what was released before nbf can be used before it anyway.
	older, err := b.release(t, "oct", b.leaver(t, "oct", CreateParams{Type: "oct", NotBefore: ptr(noon.Add(time.Hour)), Expires: ptr(noon.Add(2 * time.Hour))}).Version, "", token)
	if err != nil || older.key.NotBefore == nil {
		t.Errorf("a key that is not valid yet: %v", err)
	}
	list, err := b.everyVersion(t, "oct")
	if err != nil {
		t.Fatal(err)
	}
	if first, err := b.release(t, "OCT", list[0].Version, "", token); err != nil || first.key.Version != list[0].Version {
		t.Errorf("the first version: %s, %v", first.key.Version, err)
	}
	if question := b.asked[len(b.asked)-1]; question.Action != access.KeyRelease || question.Scope != access.ScopeKey("oct") {
		t.Errorf("asked for %+v", question)
	}
}

// Covers K1, K4, A4: whatever is missing, nothing leaves; and the answer says what is missing, not what is expected.
func TestReleaseRefuses(t *testing.T) {
	b := newBench(t, memory.New(), alphaID, ownDomain)
	e := newTEE(t, b)
	secretive := &ReleasePolicy{Data: []byte(`{"anyOf":[{"authority":"` + authorityURL + `/","allOf":[{"claim":"measure.ment","equals":"canary-expected"},{"claim":"secure","equals":true}]}]}`)}
	b.leaver(t, "leaves", CreateParams{ReleasePolicy: secretive})
	b.create(t, "stays", CreateParams{})
	b.leaver(t, "disabled", CreateParams{Enabled: ptr(false)})
	fulfilled := map[string]any{"measure": map[string]any{"ment": "canary-expected"}}
	with := func(changes map[string]any) string {
		all := maps.Clone(fulfilled)
		maps.Copy(all, changes)
		return e.token(t, all)
	}
	keys := func(list ...any) map[string]any {
		return map[string]any{"x-ms-runtime": map[string]any{"keys": append([]any{}, list...)}}
	}
	changed := func(name string, value any) map[string]any {
		k := e.jwk()
		k[name] = value
		return k
	}
	stranger := newTEE(t, newBench(t, memory.New(), betaID, ownDomain))
	even := new(big.Int).Lsh(big.NewInt(1), 2047)
	for name, row := range map[string]struct {
		key, encryption, token string
		kind                   failure.Kind
		word                   string
	}{
		"an unknown key":              {"unknown", "", with(nil), failure.NotFound, "unknown"},
		"a name that is none":         {"no/name", "", with(nil), failure.BadParameter, "name"},
		"another encryption":          {"leaves", "RSA-OAEP", with(nil), failure.BadParameter, "enc"},
		"encryption in lower case":    {"leaves", "rsa_aes_key_wrap_256", with(nil), failure.BadParameter, "enc"},
		"a key that stays":            {"stays", "", with(nil), failure.Forbidden, "exportable"},
		"a disabled key":              {"disabled", "", with(nil), failure.Disabled, "disabled"},
		"no token":                    {"leaves", "", "", failure.BadParameter, "target"},
		"no JWT":                      {"leaves", "", "a.b", failure.BadParameter, "target"},
		"a token of an unknown key":   {"leaves", "", stranger.token(t, fulfilled), failure.Forbidden, "signature"},
		"a token of an unknown place": {"leaves", "", with(map[string]any{"iss": "https://evil.example"}), failure.Forbidden, "authority"},
		"an expired token":            {"leaves", "", with(map[string]any{"exp": noon.Unix() - 61}), failure.Forbidden, "expired"},
		"another authority":           {"leaves", "", with(map[string]any{"iss": authorityURL + "/second"}), failure.Forbidden, "does not name the authority"},
		"a claim that is missing":     {"leaves", "", e.token(t, nil), failure.Forbidden, "measure.ment"},
		"a claim of another value":    {"leaves", "", with(map[string]any{"secure": false}), failure.Forbidden, "secure"},
		"both":                        {"leaves", "", e.token(t, map[string]any{"secure": nil}), failure.Forbidden, "measure.ment, secure"},
		"no recipient":                {"leaves", "", with(map[string]any{"x-ms-runtime": nil}), failure.Forbidden, "x-ms-runtime.keys"},
		"no key of the recipient":     {"leaves", "", with(keys()), failure.Forbidden, "encryption"},
		"a signature key":             {"leaves", "", with(keys(changed("key_ops", []string{"sign"}))), failure.Forbidden, "encryption"},
		"an EC key":                   {"leaves", "", with(keys(changed("kty", "EC"))), failure.Forbidden, "RSA"},
		"a small key":                 {"leaves", "", with(keys(changed("n", base64.RawURLEncoding.EncodeToString(e.key.Primes[0].Bytes())))), failure.Forbidden, "2048"},
		"an even key":                 {"leaves", "", with(keys(changed("n", base64.RawURLEncoding.EncodeToString(even.Bytes())))), failure.Forbidden, "factored"},
		"exponent 3":                  {"leaves", "", with(keys(changed("e", "Aw"))), failure.Forbidden, "exponent"},
		"a bad key before a good one": {"leaves", "", with(keys(changed("e", "Aw"), e.jwk())), failure.Forbidden, "exponent"},
	} {
		unchanged(t, b.store, func() {
			_, err := b.release(t, row.key, "", row.encryption, row.token)
			f := wantKind(t, err, row.kind)
			if !strings.Contains(f.Message, row.word) {
				t.Errorf("%s: the message %q should name %q", name, f.Message, row.word)
			}
			if strings.Contains(f.Message, "canary") || strings.Contains(f.Message, "evil") {
				t.Errorf("%s: the message says what is expected: %q", name, f.Message)
			}
			if f.Kind == failure.Forbidden && f.Code != "Forbidden" {
				t.Errorf("%s: code %q", name, f.Code)
			}
		})
	}
	if _, err := b.release(t, "leaves", "", "", with(nil)); err != nil {
		t.Errorf("the token that all of them were made of: %v", err)
	}

	// The role comes first: without it, not even the token is looked at.
	b.deny = failure.New(failure.Forbidden, "no role")
	_, err := b.release(t, "leaves", "", "", "rubbish")
	if f := wantKind(t, err, failure.Forbidden); f.Message != "no role" {
		t.Errorf("without the role: %q", f.Message)
	}
	b.deny = nil

	// No authority, no release; and one that cannot be reached is no refusal for ever.
	attestations := b.Keys.cfg.Attestations
	b.Keys.cfg.Attestations = nil
	_, err = b.release(t, "leaves", "", "", with(nil))
	if f := wantKind(t, err, failure.Forbidden); f.Code != "Forbidden" {
		t.Errorf("without authorities: code %q", f.Code)
	}
	if b.Keys.cfg.Attestations, err = access.NewAttestations([]access.Issuer{{URL: authorityURL, Keys: unreachable{}, Algorithms: []string{"ES256"}}}, b.Keys.cfg.Now); err != nil {
		t.Fatal(err)
	}
	_, err = b.release(t, "leaves", "", "", with(nil))
	wantKind(t, err, failure.Unavailable)
	b.Keys.cfg.Attestations = attestations
}

type unreachable struct{}

func (unreachable) VerifySignature(context.Context, string) ([]byte, error) {
	return nil, failure.New(failure.Unavailable, "not now")
}

// What an update of the key changes counts for the next release.
func TestReleaseFollowsTheKey(t *testing.T) {
	b := newBench(t, memory.New(), alphaID, ownDomain)
	e := newTEE(t, b)
	b.leaver(t, "k", CreateParams{})
	try := func(want error) {
		t.Helper()
		if _, err := b.release(t, "k", "", "", e.token(t, nil)); !errors.Is(err, want) && err != want {
			t.Errorf("got %v, want %v", err, want)
		}
	}
	change := func(p UpdateParams) {
		t.Helper()
		if _, err := b.Update(t.Context(), alice, "k", "", p); err != nil {
			t.Fatal(err)
		}
	}
	try(nil)
	change(UpdateParams{Enabled: ptr(false)})
	try(failure.Disabled)
	change(UpdateParams{Enabled: ptr(true)})
	try(nil)
	change(UpdateParams{ReleasePolicy: &ReleasePolicy{Data: []byte(`{"anyOf":[{"authority":"` + authorityURL + `","allOf":[{"claim":"secure","equals":false}]}]}`)}})
	try(failure.Forbidden)
	change(UpdateParams{ReleasePolicy: anyPolicy()})
	try(nil)
	change(UpdateParams{ReleasePolicy: &ReleasePolicy{Data: anyPolicy().Data, Immutable: true}})
	try(nil)
	if _, err := b.Delete(t.Context(), alice, "k"); err != nil {
		t.Fatal(err)
	}
	try(failure.NotFound)
}

// A server of before, that took any JSON for a policy, left a key whose policy nobody understands: it stays, and an
// update helps.
func TestReleaseWithAnOldPolicy(t *testing.T) {
	b := newBench(t, memory.New(), alphaID, ownDomain)
	e := newTEE(t, b)
	b.leaver(t, "k", CreateParams{})
	err := b.store.Update(t.Context(), func(w store.Writer) error {
		rec, v, index, err := b.lookUp(t.Context(), b.engine, w, "k", "")
		if err != nil {
			return err
		}
		v.Release.Data = []byte(`{"anyOf":[{"authority":"` + authorityURL + `","allOf":[{"claim":"secure","exists":true}]}]}`)
		if rec.Versions[index].MAC, err = put(t.Context(), b.engine, w, b.versionPath("k", index+1), v); err != nil {
			return err
		}
		_, err = put(t.Context(), b.engine, w, b.keyPath("k"), rec)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	_, err = b.release(t, "k", "", "", e.token(t, nil))
	if f := wantKind(t, err, failure.Forbidden); f.Code != "Forbidden" || !strings.Contains(f.Message, "claim secure") || !strings.Contains(f.Message, "update") {
		t.Errorf("code %q, message %q", f.Code, f.Message)
	}
	if _, err := b.Update(t.Context(), alice, "k", "", UpdateParams{ReleasePolicy: anyPolicy()}); err != nil {
		t.Fatal(err)
	}
	if _, err := b.release(t, "k", "", "", e.token(t, nil)); err != nil {
		t.Error(err)
	}
}

// Covers K4: a record that was edited so that the key might leave does not let it out.
func TestEditedRecordsDoNotRelease(t *testing.T) {
	b := newBench(t, memory.New(), alphaID, ownDomain)
	e := newTEE(t, b)
	b.create(t, "stays", CreateParams{})
	strict := []byte(`{"anyOf":[{"authority":"https://nobody.example","allOf":[{"claim":"a","equals":1}]}]}`)
	b.leaver(t, "leaves", CreateParams{ReleasePolicy: &ReleasePolicy{Data: strict}})
	records := dump(t, b.store)
	for name, edit := range map[string]func(path, record string) string{
		"exportable": func(_, r string) string { return strings.ReplaceAll(r, `"exportable":false`, `"exportable":true`) },
		"another policy": func(_, r string) string {
			return strings.ReplaceAll(r, base64.StdEncoding.EncodeToString(strict), base64.StdEncoding.EncodeToString(anyPolicy().Data))
		},
		"both at once": func(_, r string) string {
			policy, _ := json.Marshal(releasePolicy{ContentType: defaultPolicyType, Data: anyPolicy().Data})
			return strings.ReplaceAll(r, `"exportable":false`, `"release_policy":`+string(policy)+`,"exportable":true`)
		},
	} {
		edited := map[string]string{}
		for path, record := range records {
			edited[path] = edit(path, record)
		}
		if maps.Equal(edited, records) {
			t.Fatalf("%s: nothing was edited", name)
		}
		overwrite(t, b.store, edited)
		for _, key := range []string{"stays", "leaves"} {
			_, err := b.release(t, key, "", "", e.token(t, nil))
			if !errors.Is(err, failure.Tampered) && !errors.Is(err, failure.Forbidden) {
				t.Errorf("%s, %s: got %v", name, key, err)
			}
		}
		overwrite(t, b.store, records)
	}
	// Nor does the engine open the material under a record that was made to say so with the right code.
	_, v, err := b.find(t.Context(), b.engine, "stays", "")
	if err != nil {
		t.Fatal(err)
	}
	forged := *v
	forged.Exportable = true
	if wrapped, err := b.engine.Release(t.Context(), forged.ref(alphaID, "stays"), engine.RSAAESKeyWrap, engine.Public{Type: engine.RSA, N: e.key.N, E: e.key.E}); !errors.Is(err, engine.ErrTampered) || wrapped != nil {
		t.Errorf("the engine releases under a forged record: %v", err)
	}
}
