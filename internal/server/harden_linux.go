package server

import (
	"errors"

	"golang.org/x/sys/unix"
)

// harden keeps key bytes out of core files and out of reach of other processes of the same user: no core dumps,
// not dumpable. Best effort: a kernel that refuses is reported, not fatal.
func harden() error {
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return err
	}
	return unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
}

var errNotPermitted = errors.New("the limit of locked memory (RLIMIT_MEMLOCK, LimitMEMLOCK) is not infinite")

// lockMemory keeps what this process has in memory, now and later, out of swap. It locks pages when they are first
// used, so that what Go only reserves costs nothing. Under a limit it does nothing: the allocation that passes the
// limit would end the process.
func lockMemory() error {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &limit); err != nil {
		return err
	}
	if limit.Cur != unix.RLIM_INFINITY {
		// Whoever may raise it, root and those with CAP_SYS_RESOURCE, does.
		if unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}) != nil {
			return errNotPermitted
		}
	}
	return unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE | unix.MCL_ONFAULT)
}
