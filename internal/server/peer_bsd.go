//go:build darwin || freebsd

package server

import (
	"net"

	"golang.org/x/sys/unix"
)

const knowsPeers = true

// peerOf is the user at the other end of a Unix socket, as it was when it connected (unix(4), LOCAL_PEERCRED).
func peerOf(c *net.UnixConn) (uid int, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return -1, err
	}
	uid = -1
	controlErr := raw.Control(func(fd uintptr) {
		var cred *unix.Xucred
		if cred, err = unix.GetsockoptXucred(int(fd), 0, unix.LOCAL_PEERCRED); err == nil { // level 0: SOL_LOCAL
			uid = int(cred.Uid)
		}
	})
	if controlErr != nil {
		return -1, controlErr
	}
	return uid, err
}
