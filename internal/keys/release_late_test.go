package keys

import (
	"bytes"
	"context"
	"crypto"
	"errors"
	"testing"

	"github.com/coreos/go-oidc/v3/oidc"

	"strongroom/internal/access"
	"strongroom/internal/engine"
	"strongroom/internal/failure"
	"strongroom/internal/store/memory"
)

// lateKeys are an authority's keys; while they are being read, something else happens.
type lateKeys struct {
	*oidc.StaticKeySet
	meanwhile func()
}

func (l *lateKeys) VerifySignature(ctx context.Context, jwt string) ([]byte, error) {
	l.meanwhile()
	return l.StaticKeySet.VerifySignature(ctx, jwt)
}

// releaser is an engine beside whose Release something else happens.
type releaser struct {
	engine.Engine
	meanwhile func()
}

func (r *releaser) Release(ctx context.Context, ref engine.Ref, wrapping string, to engine.Public) ([]byte, error) {
	r.meanwhile()
	return r.Engine.Release(ctx, ref, wrapping, to)
}

// Covers K1, A8: what was answered while a release waited counts for that release, wherever it waited: for the
// authority's keys, for its turn in the engine, for the domain's signature.
func TestReleaseSeesWhatChangedMeanwhile(t *testing.T) {
	denied := failure.New(failure.Forbidden, "the role was taken")
	for name, row := range map[string]struct {
		change func(b *bench) error
		kind   failure.Kind // "": released
	}{
		"nothing": {func(*bench) error { return nil }, ""},
		"newer version": {func(b *bench) error {
			_, err := b.Create(t.Context(), alice, "k", CreateParams{Type: "EC", Exportable: true, ReleasePolicy: anyPolicy()})
			return err
		}, ""},
		"disabled": {func(b *bench) error {
			_, err := b.Update(t.Context(), alice, "k", "", UpdateParams{Enabled: ptr(false)})
			return err
		}, failure.Disabled},
		"deleted": {func(b *bench) error {
			_, err := b.Delete(t.Context(), alice, "k")
			return err
		}, failure.NotFound},
		"purged": {func(b *bench) error {
			_, err := b.Delete(t.Context(), alice, "k")
			return errors.Join(err, b.Purge(t.Context(), alice, "k"))
		}, failure.NotFound},
		"narrower policy": {func(b *bench) error {
			p := anyPolicy()
			p.Data = bytes.ReplaceAll(p.Data, []byte("attest.example"), []byte("other.example"))
			_, err := b.Update(t.Context(), alice, "k", "", UpdateParams{ReleasePolicy: p})
			return err
		}, failure.Forbidden},
		"role taken": {func(b *bench) error {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.deny = denied
			return nil
		}, failure.Forbidden},
	} {
		for _, where := range []string{"authority", "engine", "signature"} {
			t.Run(name+"/"+where, func(t *testing.T) {
				b := newBench(t, memory.New(), alphaID, ownDomain)
				e := newTEE(t, b)
				made := b.leaver(t, "k", CreateParams{})
				var changed error
				times := 0
				meanwhile := func() { times++; changed = row.change(b) }
				switch cfg := &b.Keys.cfg; where {
				case "authority":
					keys := &lateKeys{&oidc.StaticKeySet{PublicKeys: []crypto.PublicKey{e.authority.Public()}}, meanwhile}
					var err error
					if cfg.Attestations, err = access.NewAttestations([]access.Issuer{{URL: authorityURL, Keys: keys, Algorithms: []string{"ES256"}}}, cfg.Now); err != nil {
						t.Fatal(err)
					}
				case "engine":
					eng := &releaser{b.engine, meanwhile}
					cfg.Engine = func() (engine.Engine, error) { return eng, nil }
				case "signature":
					sign := cfg.Statement
					cfg.Statement = func(ctx context.Context, typ string, payload []byte) (jws, certificate []byte, err error) {
						meanwhile()
						return sign(ctx, typ, payload)
					}
				}
				var out []byte // what was made, which leaves only as the answer
				jws, err := b.Release(t.Context(), alice, "k", "", ReleaseParams{Target: e.token(t, nil), Payload: func(k Key, r Released) ([]byte, error) {
					out = r.Wrapped
					if where != "authority" && k.Version != made.Version {
						t.Errorf("version %s is released", k.Version)
					}
					return []byte("payload"), nil
				}})
				if changed != nil || times != 1 {
					t.Fatalf("changed %d times: %v", times, changed)
				}
				if row.kind == "" {
					if err != nil || len(jws) == 0 || len(out) == 0 {
						t.Fatalf("release: %v, %d bytes", err, len(out))
					}
					return
				}
				if jws != nil {
					t.Error("it is released")
				}
				wantKind(t, err, row.kind)
			})
		}
	}
}
