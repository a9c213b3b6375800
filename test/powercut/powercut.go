// Package powercut gives tests a disk whose power can be cut: ext4 on a loop image that is shut down without flushing
// its journal. What was synced before the cut is there after [Disk.Mount]; what was not may be gone. It needs root.
package powercut

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Disk is a file system of its own, mounted at Path.
type Disk struct {
	Path  string
	image string
}

// New makes a disk of size bytes and mounts it. The test's end unmounts it.
func New(t *testing.T, size int64) *Disk {
	t.Helper()
	dir := t.TempDir()
	d := &Disk{filepath.Join(dir, "mnt"), filepath.Join(dir, "image")}
	if err := os.Mkdir(d.Path, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(d.image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(d.image, size); err != nil {
		t.Fatal(err)
	}
	run(t, "/sbin/mkfs.ext4", "-q", "-F", d.image)
	run(t, "mount", "-o", "loop", d.image, d.Path)
	t.Cleanup(func() { _ = exec.Command("umount", "-l", d.Path).Run() })
	return d
}

// Cut takes the disk its power.
func (d *Disk) Cut(t *testing.T) {
	t.Helper()
	if err := Shutdown(d.Path); err != nil {
		t.Fatalf("shutdown of %s (needs root): %v", d.Path, err)
	}
}

// Mount unmounts the disk, when the processes that used it are gone, and mounts what its image holds.
//
// Linux mounts an image that is still mounted somewhere by handing out the same file system, and one that was shut
// down stays so: every call fails with EIO. A mount namespace that was made meanwhile holds such a copy without
// meaning to. So Mount waits until the kernel has let go of the image.
func (d *Disk) Mount(t *testing.T) {
	t.Helper()
	wait(t, "unmount "+d.Path, func() (string, bool) { // a killed process may still be on its way out
		out, err := exec.Command("umount", d.Path).CombinedOutput()
		return string(out), err == nil
	})
	wait(t, "a free "+d.image+": another mount namespace holds it", func() (string, bool) {
		out, err := exec.Command("/sbin/losetup", "-j", d.image).CombinedOutput()
		return string(out), err == nil && strings.TrimSpace(string(out)) == ""
	})
	run(t, "mount", "-o", "loop", d.image, d.Path)
}

// Shutdown makes the file system at a mount point refuse everything from now on, without flushing its journal:
// what was not synced is gone. ioctl EXT4_IOC_SHUTDOWN (linux/fs.h FS_IOC_SHUTDOWN), flag 2 = no log flush.
func Shutdown(mount string) error {
	dir, err := os.Open(mount)
	if err != nil {
		return err
	}
	defer dir.Close()
	const shutdown, noLogFlush = 0x8004587d, 2
	return unix.IoctlSetPointerInt(int(dir.Fd()), shutdown, noLogFlush)
}

func wait(t *testing.T, what string, done func() (string, bool)) {
	t.Helper()
	for i := 0; ; i++ {
		out, ok := done()
		if ok {
			return
		}
		if i == 1500 { // half a minute
			t.Fatalf("waited in vain for %s\n%s", what, out)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %v (needs root): %v\n%s", name, args, err, out)
	}
}
