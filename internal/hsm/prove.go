package hsm

import (
	"context"

	"strongroom/internal/keys"
)

// Each yields every version of every key, deleted ones too, so that it can be used once: see keys.Held. It asks no role.
func (s *Snapshot) Each(ctx context.Context, yield func(keys.Held) error) error {
	return s.mover.Each(ctx, s.reader, yield)
}
