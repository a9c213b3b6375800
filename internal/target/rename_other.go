//go:build !linux

package target

import "os"

func renameNew(root *os.Root, _ *os.File, from, to string) error { return linkNew(root, from, to) }
