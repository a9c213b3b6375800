//go:build !unix || solaris || aix

package bolt

import (
	"os"
	"time"
)

// lock leaves locking to bbolt: there is no flock here.
func lock(*os.File, time.Duration) error { return nil }
