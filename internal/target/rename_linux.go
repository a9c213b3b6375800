package target

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// renameNew gives a file in dir, which is root's own folder, its name, in one step that fails when the name is taken.
func renameNew(root *os.Root, dir *os.File, from, to string) error {
	err := unix.Renameat2(int(dir.Fd()), from, int(dir.Fd()), to, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
		return linkNew(root, from, to) // the file system does not know the flag
	}
	if err != nil {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
	}
	return nil
}
