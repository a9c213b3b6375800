package durable

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// renameNew renames in one step that fails when newPath exists. Unlike a hard link it also works on the file
// systems of USB sticks (FAT, exFAT), where custodians keep keys. File systems without the flag get the link.
func renameNew(oldPath, newPath string) error {
	err := unix.Renameat2(unix.AT_FDCWD, oldPath, unix.AT_FDCWD, newPath, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
		return linkNew(oldPath, newPath)
	}
	if err != nil {
		return &os.LinkError{Op: "rename", Old: oldPath, New: newPath, Err: err}
	}
	return nil
}
