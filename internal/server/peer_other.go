//go:build !(linux || darwin || freebsd)

package server

import (
	"errors"
	"net"
)

const knowsPeers = false

func peerOf(*net.UnixConn) (int, error) { return -1, errors.ErrUnsupported }
