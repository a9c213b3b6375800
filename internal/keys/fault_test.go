package keys

import (
	"context"
	"crypto/sha256"
	"errors"
	"testing"

	"strongroom/internal/engine"
	"strongroom/internal/failure"
	"strongroom/internal/store/memory"
)

// faulty is an engine that flips one bit of every signature.
type faulty struct {
	engine.Engine
	bit int
}

func (f *faulty) Sign(ctx context.Context, ref engine.Ref, alg string, digest []byte) ([]byte, error) {
	signature, err := f.Engine.Sign(ctx, ref, alg, digest)
	if err == nil {
		signature[f.bit/8] ^= 1 << (f.bit % 8)
	}
	return signature, err
}

// Covers K9: an RSA signature with one wrong bit is not given out, whichever bit it is, and says so as an error of ours.
func TestFaultySignaturesStayInside(t *testing.T) {
	b := newBench(t, memory.New(), alphaID, ownDomain)
	b.create(t, "k", CreateParams{Type: "RSA", Bits: 2048})
	digest := sha256.Sum256([]byte("a document"))
	for _, alg := range []string{"RS256", "PS256"} {
		if r, err := b.Sign(t.Context(), alice, "k", "", alg, digest[:]); err != nil || len(r.Signature) != 256 {
			t.Fatalf("%s without a fault: %v", alg, err)
		}
	}
	eng := &faulty{Engine: b.engine}
	b.Keys.cfg.Engine = func() (engine.Engine, error) { return eng, nil }
	for _, alg := range []string{"RS256", "PS256"} {
		for eng.bit = 0; eng.bit < 2048; eng.bit += 89 {
			r, err := b.Sign(t.Context(), alice, "k", "", alg, digest[:])
			if !errors.Is(err, failure.Internal) || r.Signature != nil {
				t.Fatalf("%s, bit %d flipped: %d bytes, %v", alg, eng.bit, len(r.Signature), err)
			}
		}
	}
}
