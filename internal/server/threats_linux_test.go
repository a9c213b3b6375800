package server

import (
	"fmt"
	"os"
	"strings"
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

// A production server locks its memory where that is permitted, and runs on where it is not.
func TestMemoryIsLocked(t *testing.T) {
	locked := func() int {
		raw, err := os.ReadFile("/proc/self/status")
		if err != nil {
			t.Fatal(err)
		}
		_, rest, _ := strings.Cut(string(raw), "VmLck:")
		var kb int
		if _, err := fmt.Sscan(rest, &kb); err != nil {
			t.Fatal(err)
		}
		return kb
	}
	t.Cleanup(func() { _ = unix.Munlockall() })
	before := locked()
	err := lockMemory()
	var limit unix.Rlimit
	if got := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &limit); got != nil {
		t.Fatal(got)
	}
	permitted := limit.Cur == unix.RLIM_INFINITY
	if after := locked(); permitted && (err != nil || after <= before) || !permitted && (err == nil || after != before) {
		t.Errorf("permitted: %t; %d kB locked before and %d after, %v", permitted, before, after, err)
	}
	t.Logf("permitted: %t, %v", permitted, err)
}
