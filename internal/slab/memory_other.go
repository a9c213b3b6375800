//go:build !unix

package slab

// Where there is no mmap, the memory is the heap's, in pieces that the collector does not look into.
func allocate(size int) []byte { return make([]byte, size) }

func release([]byte) {}
