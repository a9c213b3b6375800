//go:build !(linux || darwin || freebsd || netbsd || openbsd)

package cli

import (
	"os"

	"golang.org/x/term"
)

// hide leaves it to readHidden to switch the echo off.
func hide(int) {}

func readHidden(f *os.File) ([]byte, error) { return term.ReadPassword(int(f.Fd())) }
