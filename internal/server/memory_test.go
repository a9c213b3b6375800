package server

import (
	"runtime/debug"
	"testing"
)

func TestOperatorsGarbagePercentWins(t *testing.T) {
	before := debug.SetGCPercent(77)
	defer debug.SetGCPercent(before)
	t.Setenv("GOGC", "77")
	collectLess()
	if got := debug.SetGCPercent(77); got != 77 {
		t.Errorf("with GOGC set the percentage is %d", got)
	}
	t.Setenv("GOGC", "")
	collectLess()
	if got := debug.SetGCPercent(77); got != garbagePercent {
		t.Errorf("without GOGC the percentage is %d", got)
	}
}
