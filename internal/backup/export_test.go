package backup

import (
	"strongroom/internal/backupset"
	"strongroom/internal/engine"
	"strongroom/internal/hsm"
)

// Take reads one record that comes after that of the HSM, or that one first.
func Take(r backupset.Record) (hsm.Contents, error) {
	src := &source{counts: map[string]int64{}}
	if r.Kind != kindHSM {
		src.salt = make([]byte, engine.SaltSize)
	}
	err := src.take(r, nil, nil)
	return src.contents, err
}
