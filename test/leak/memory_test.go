package leak_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
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

// lookBack is how far before a secret its keeper is looked for: more than a request or an answer of this test.
const lookBack = 8 << 10

// The buffers of Go's library that what a request or an answer says goes through, as text. Nobody outside it can wipe them.
const (
	answerBuffer = "net/http's buffer of an answer's body"
	writeBuffer  = "net/http's buffer of what a connection sends"
	readBuffer   = "net/http's buffer of what a connection receives"
	tlsRecord    = "crypto/tls's buffer of a record"
)

// keeperOf says which buffer of Go's library keeps a secret, from what stands before it: where the buffer begins, with
// what it begins with, and only text from there on. "" is memory of anybody else. from is the place of before[0] from
// the start of a page.
//
// net/http keeps 2 kB for the body of an answer, and 4 kB for each direction of a connection. The allocator puts such
// sizes at multiples of themselves, where what we make for a body or a value hardly ever is.
func keeperOf(before []byte, spelling string, from int64) string {
	if !strings.HasPrefix(spelling, "base64") {
		return ""
	}
	text := len(before) // all is text from here on
	for text > 0 && (before[text-1] >= ' ' && before[text-1] <= '~' || before[text-1] == '\r' || before[text-1] == '\n') {
		text--
	}
	begins := func(size int64, with ...string) bool {
		at := len(before) - int((from+int64(len(before)))%size)
		return at >= text && slices.ContainsFunc(with, func(head string) bool { return bytes.HasPrefix(before[at:], []byte(head)) })
	}
	switch {
	case begins(2048, `{"`):
		return answerBuffer
	case begins(4096, "HTTP/1.1 "):
		return writeBuffer
	case begins(4096, "POST /", "PUT /"):
		return readBuffer
	}
	// The head of a record is its kind, its version and its length, which may look like text.
	for head := max(0, text-5); head+5 <= len(before) && head+3 <= text; head++ {
		if bytes.HasPrefix(before[head:], []byte{0x17, 3, 3}) {
			return tlsRecord
		}
	}
	return ""
}
