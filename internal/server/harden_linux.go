package server

import "golang.org/x/sys/unix"

// harden keeps key bytes out of core files and out of reach of other processes of the same user: no core dumps,
// not dumpable. Best effort: a kernel that refuses is reported, not fatal.
func harden() error {
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return err
	}
	return unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
}
