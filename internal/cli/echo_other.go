//go:build !(linux || darwin || freebsd || netbsd || openbsd)

package cli

// hide leaves it to term.ReadPassword to switch the echo off.
func hide(int) {}
