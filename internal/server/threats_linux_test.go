package server

import (
	"testing"

	"golang.org/x/sys/unix"
)

// Covers K12 as far as core files go: a server makes none, and no other process of the same user may read its
// memory. (Memory itself is wiped as far as Go allows; nothing is claimed beyond that.)
func TestNoCoreFiles(t *testing.T) {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0); err != nil { // as a process is that has done nothing
		t.Fatal(err)
	}
	begin(t, Options{Dev: true, DataDir: t.TempDir()}, "dev.env")
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_CORE, &limit); err != nil || limit.Cur != 0 || limit.Max != 0 {
		t.Errorf("core files of %d bytes, at most %d, are allowed (%v); want none", limit.Cur, limit.Max, err)
	}
	if dumpable, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0); err != nil || dumpable != 0 {
		t.Errorf("dumpable is %d (%v), want 0", dumpable, err)
	}
}
