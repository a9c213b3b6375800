//go:build !linux

package server

// harden has nothing to do on this system; use the service manager to forbid core dumps.
func harden() error { return nil }
