//go:build unix

package slab

import "syscall"

// allocate asks the system for memory of its own, filled with zeros; nil if it gives none, because of a limit on locked
// memory perhaps.
func allocate(size int) []byte {
	b, err := syscall.Mmap(-1, 0, size, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		return nil
	}
	return b
}

func release(b []byte) {
	if b != nil {
		_ = syscall.Munmap(b)
	}
}
