package leak_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"
)

// image searches all memory of a process that it may read itself: heap, stacks, globals, and files it has mapped. The
// process stands still meanwhile. A server cannot be dumped, so this takes root.
func image(t *testing.T, pid int, s *searcher) (found map[finding]int, size int64) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = syscall.Kill(pid, syscall.SIGCONT) }()
	maps, err := os.Open(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		t.Fatalf("%v: this test reads the memory of a server and has to run as root", err)
	}
	defer maps.Close()
	memory, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		t.Fatalf("%v: this test reads the memory of a server and has to run as root", err)
	}
	defer memory.Close()
	found = map[finding]int{}
	for lines := bufio.NewScanner(maps); lines.Scan(); {
		var from, to uint64
		var rights string
		if _, err := fmt.Sscanf(lines.Text(), "%x-%x %s", &from, &to, &rights); err != nil {
			t.Fatalf("%q: %v", lines.Text(), err)
		}
		if rights[0] != 'r' || strings.Contains(lines.Text(), "[v") { // the kernel's own pages: vvar, vsyscall
			continue
		}
		got, n, err := s.inAll(io.NewSectionReader(memory, int64(from), int64(to-from)))
		// What is mapped beyond the end of a file cannot be read.
		if err != nil && !(errors.Is(err, syscall.EIO) && strings.Contains(lines.Text(), "/")) {
			t.Fatalf("%s: %v", lines.Text(), err)
		}
		size += n
		for what, times := range got {
			found[what] += times
		}
	}
	return found, size
}
