package server

import (
	"net"

	"golang.org/x/sys/unix"
)

const knowsPeers = true

// peerOf is the user at the other end of a Unix socket, as it was when it connected (unix(7), SO_PEERCRED).
func peerOf(c *net.UnixConn) (uid int, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return -1, err
	}
	uid = -1
	controlErr := raw.Control(func(fd uintptr) {
		var cred *unix.Ucred
		if cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			uid = int(cred.Uid)
		}
	})
	if controlErr != nil {
		return -1, controlErr
	}
	return uid, err
}
