package keys

import (
	"context"
	"io"

	"strongroom/internal/access"
	"strongroom/internal/failure"
	"strongroom/secret"
)

// MaxRandom is how many random bytes one call gives (protocol: limits).
const MaxRandom = 128

// Random returns count random bytes, 1 to MaxRandom, fit to be a key. The caller wipes them.
func (k *Keys) Random(ctx context.Context, caller access.Caller, count int) (secret.Bytes, error) {
	if _, err := k.enter(ctx, caller, access.RandomBytes, access.ScopeRoot); err != nil {
		return secret.Bytes{}, err
	}
	if count < 1 || count > MaxRandom {
		return secret.Bytes{}, failure.New(failure.BadParameter, "count is %d; it must be 1 to %d bytes", count, MaxRandom)
	}
	random := make([]byte, count)
	if _, err := io.ReadFull(k.cfg.Rand, random); err != nil {
		clear(random)
		return secret.Bytes{}, failure.Wrap(failure.Unavailable, err, "there is no randomness; try again")
	}
	return secret.Take(random), nil
}
