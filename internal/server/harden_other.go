//go:build !linux

package server

import "errors"

// harden has nothing to do on this system; use the service manager to forbid core dumps.
func harden() error { return nil }

var errNotPermitted = errors.New("memory is not locked on this system")

func lockMemory() error { return errNotPermitted }
