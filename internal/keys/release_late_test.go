package keys

import (
	"bytes"
	"context"
	"crypto"
	"errors"
	"testing"

	"github.com/coreos/go-oidc/v3/oidc"

	"strongroom/internal/access"
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

// What was answered while a release waited for the authority's keys counts for that release.
func TestReleaseSeesWhatChangedMeanwhile(t *testing.T) {
	denied := failure.New(failure.Forbidden, "the role was taken")
	for name, row := range map[string]struct {
		change func(b *bench) error
		kind   failure.Kind // "": released
	}{
		"nothing": {func(*bench) error { return nil }, ""},
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
		t.Run(name, func(t *testing.T) {
			b := newBench(t, memory.New(), alphaID, ownDomain)
			e := newTEE(t, b)
			b.leaver(t, "k", CreateParams{})
			var changed error
			keys := &lateKeys{&oidc.StaticKeySet{PublicKeys: []crypto.PublicKey{e.authority.Public()}}, func() { changed = row.change(b) }}
			var err error
			if b.Keys.cfg.Attestations, err = access.NewAttestations([]access.Issuer{{URL: authorityURL, Keys: keys, Algorithms: []string{"ES256"}}}, b.Keys.cfg.Now); err != nil {
				t.Fatal(err)
			}
			got, err := b.release(t, "k", "", "", e.token(t, nil))
			if changed != nil {
				t.Fatal(changed)
			}
			if row.kind == "" {
				if err != nil || len(got.Wrapped) == 0 {
					t.Fatalf("release: %v, %d bytes", err, len(got.Wrapped))
				}
				return
			}
			wantKind(t, err, row.kind)
		})
	}
}
