//go:build unix && !solaris && !aix

package audit

import (
	"errors"
	"os"
	"syscall"
	"time"
)

// lock waits for another process to let go of the log, a second at most: one that is ending while the next begins.
func lock(f *os.File) error {
	deadline := time.Now().Add(time.Second)
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return err
		}
		if time.Now().After(deadline) {
			return ErrInUse
		}
		time.Sleep(20 * time.Millisecond)
	}
}
