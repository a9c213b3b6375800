package server

import (
	"os"
	"runtime/debug"
)

// garbagePercent is how much the heap may grow, of what is in use, before it is collected. A server has a few megabytes
// in use, and Go's own 100 makes it go over them so often that this takes a sixth of the time of a signature with
// P-256. At 300 a server with 100,000 keys still weighs less than 200 MB (docs/performance.md).
const garbagePercent = 300

// collectLess sets that, unless the operator has set GOGC.
func collectLess() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(garbagePercent)
	}
}

// collectNow collects what a large, short piece of work has left. Argon2id takes 64 MiB, filled with what the passphrase
// gives; with them in use at a collection, the next one would come when there are four times as many, and until then
// nothing that is dropped would be overwritten.
func collectNow() { debug.FreeOSMemory() }
