//go:build linux || darwin || freebsd || netbsd || openbsd

package cli

import "golang.org/x/sys/unix"

// hide switches the echo of a terminal off. It is done before the question appears: term.ReadPassword does it
// after, and whoever types ahead in between would show what they type.
func hide(fd int) {
	if t, err := unix.IoctlGetTermios(fd, getTermios); err == nil {
		t.Lflag &^= unix.ECHO
		t.Lflag |= unix.ICANON | unix.ISIG
		_ = unix.IoctlSetTermios(fd, setTermios, t)
	}
}
