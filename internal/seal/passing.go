package seal

import (
	"fmt"
	"io"

	"strongroom/secret"
)

// NewPassing returns a seal whose root key, drawn from rand, is nowhere but in memory: what it seals is lost with the process. It is
// for an HSM that is thrown away, in a rehearsal.
func NewPassing(rand io.Reader) (Seal, error) {
	root, err := secret.Random(rand, rootSize)
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	defer root.Wipe()
	return newRootSeal(root, KindFile)
}
