//go:build linux || darwin || freebsd || netbsd || openbsd

package cli

import (
	"os"

	"golang.org/x/sys/unix"
)

// hide switches the echo of a terminal off. It is done before the question appears: whoever types ahead would show
// what they type.
func hide(fd int) {
	if t, err := unix.IoctlGetTermios(fd, getTermios); err == nil {
		t.Iflag |= unix.ICRNL
		t.Lflag &^= unix.ECHO
		t.Lflag |= unix.ICANON | unix.ISIG
		_ = unix.IoctlSetTermios(fd, setTermios, t)
	}
}

// readHidden reads a line after hide. It is not term.ReadPassword, which takes Ctrl-D, and a terminal that is gone,
// for nothing typed yet and reads on.
func readHidden(f *os.File) ([]byte, error) { return readLine(f) }
