package bolt

import "golang.org/x/sys/unix"

// unmapPages takes the pages of a part of the memory map out of the process. They stay in the kernel's cache, and come back
// by themselves when they are read: the map is shared and only read. Where the process locks its memory, that has to
// be said (Linux 5.18 and later): what is in the database is sealed, and need not be kept out of swap, nor is it swapped.
func unmapPages(at uintptr, length int64) {
	if _, _, errno := unix.Syscall(unix.SYS_MADVISE, at, uintptr(length), unix.MADV_DONTNEED); errno == unix.EINVAL {
		_, _, _ = unix.Syscall(unix.SYS_MADVISE, at, uintptr(length), unix.MADV_DONTNEED_LOCKED)
	}
}
