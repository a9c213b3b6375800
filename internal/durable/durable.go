// Package durable writes files so that a crash or a power cut leaves the old content or the new, never a part.
//
// Every file that Strongroom keeps outside its database (seal, certificates, custodian keys, SD files) goes
// through this package: temporary file in the same folder, fsync, rename, fsync of the folder. A sync that
// fails is never tried again: the kernel reports a lost page once, and a second fsync would lie.
//
// A kill between the first byte and the rename leaves a temporary file named ".NAME.*.tmp", mode 0600. Nothing
// reads it; it may be deleted.
package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
)

// Hook is for crash tests and nil otherwise: it is called at each durable step with the step and the name it
// concerns ("write:after-rename seal.json", "bolt:before-commit"), and may kill the process there. Set it
// before the first write.
var Hook func(point string)

// At marks a durable step for [Hook].
func At(point string) {
	if Hook != nil {
		Hook(point)
	}
}

// ErrUnsynced says that the change is in place but the sync of its folder failed: a power cut may undo it.
var ErrUnsynced = errors.New("durable: the folder could not be synced; the change may not survive a power cut")

// WriteFile makes path hold data with mode perm, whole or not at all, and on disk when it returns nil.
//
// With overwrite an existing file is replaced. Without, an existing file is left alone and the error is
// [fs.ErrExist]; of several concurrent calls exactly one wins. On any error but [ErrUnsynced] path is what it
// was before. The bytes are never in a file with more rights than 0600 before they have their final name.
func WriteFile(path string, data []byte, perm fs.FileMode, overwrite bool) (err error) {
	dir, name := filepath.Split(path)
	if name == "" {
		return fmt.Errorf("durable: %q names no file", path)
	}
	if dir == "" {
		dir = "."
	}
	if !overwrite {
		// Only to answer early and without a temporary file; the rename below is what decides.
		if _, err := os.Lstat(path); err == nil {
			return &fs.PathError{Op: "create", Path: path, Err: fs.ErrExist}
		}
	}
	f, err := os.CreateTemp(dir, "."+name+".*.tmp") // O_EXCL, 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil && !errors.Is(err, ErrUnsynced) {
			_ = os.Remove(f.Name())
		}
	}()
	At("write:created " + name)
	if err := fill(f, data, perm, name); err != nil {
		return err
	}
	At("write:before-rename " + name)
	if overwrite {
		err = os.Rename(f.Name(), path)
	} else {
		err = renameNew(f.Name(), path)
	}
	if err != nil {
		return err
	}
	At("write:after-rename " + name)
	if err := SyncDir(dir); err != nil {
		return err
	}
	At("write:after-sync " + name)
	return nil
}

// fill writes, syncs and closes the temporary file.
func fill(f *os.File, data []byte, perm fs.FileMode, name string) error {
	_, err := f.Write(data)
	if err == nil {
		err = f.Chmod(perm)
	}
	if err == nil {
		At("write:before-sync " + name)
		err = f.Sync()
	}
	// A close error after a good sync still counts: some network file systems report there.
	return errors.Join(err, f.Close())
}

// RenameNew gives the synced file oldPath the name newPath in the same folder, never over an existing file
// ([fs.ErrExist]), and syncs the folder. On any error but [ErrUnsynced] nothing has changed.
func RenameNew(oldPath, newPath string) error {
	At("rename:before " + filepath.Base(newPath))
	if err := renameNew(oldPath, newPath); err != nil {
		return err
	}
	At("rename:after " + filepath.Base(newPath))
	return SyncDir(filepath.Dir(newPath))
}

// linkNew is renameNew where the system has no rename that refuses an existing target: link fails on one.
func linkNew(oldPath, newPath string) error {
	if err := os.Link(oldPath, newPath); err != nil {
		return err
	}
	_ = os.Remove(oldPath) // the file has its name; a second one left behind is litter, not a failure
	return nil
}

// MkdirAll is [os.MkdirAll] that is on disk when it returns nil: each folder made is synced into its parent.
func MkdirAll(path string, perm fs.FileMode) error {
	path = filepath.Clean(path)
	info, err := os.Stat(path)
	switch {
	case err == nil && info.IsDir():
		return nil
	case err == nil:
		return &fs.PathError{Op: "mkdir", Path: path, Err: errors.New("a file of that name is in the way")}
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	parent := filepath.Dir(path)
	if parent != path {
		if err := MkdirAll(parent, perm); err != nil {
			return err
		}
	}
	if err := os.Mkdir(path, perm); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	At("mkdir:after " + filepath.Base(path))
	return SyncDir(parent)
}

// Remove deletes the file path for good: it does not come back after a power cut. A missing file is
// [fs.ErrNotExist].
func Remove(path string) error {
	At("remove:before " + filepath.Base(path))
	if err := os.Remove(path); err != nil {
		return err
	}
	At("remove:after " + filepath.Base(path))
	return SyncDir(filepath.Dir(path))
}

// SyncDir makes the names in dir durable: a file created, renamed or removed there before. Its error is
// [ErrUnsynced].
func SyncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil // a folder cannot be flushed there; NTFS journals the rename
	}
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnsynced, err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("%w: %w", ErrUnsynced, err)
	}
	return nil
}
