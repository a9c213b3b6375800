//go:build !linux

package bolt

func unmapPages(uintptr, int64) {} // elsewhere what was read stays in the map until the system needs the memory
