package bolt

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"strongroom/internal/store"
)

// mapped is how many kB of a file are mapped into this process.
func mapped(t *testing.T, path string) (kb int) {
	t.Helper()
	raw, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	ours := false
	for line := range strings.Lines(string(raw)) {
		f := strings.Fields(line)
		switch {
		case !strings.HasSuffix(f[0], ":"):
			ours = f[len(f)-1] == path
		case ours && f[0] == "Rss:":
			n, err := strconv.Atoi(f[1])
			if err != nil {
				t.Fatal(err)
			}
			kb += n
		}
	}
	return kb
}

// What was read does not stay in the map, and is read again as it was, also while others read and write.
func TestUnmappedPagesComeBack(t *testing.T) {
	s, err := Open(t.TempDir(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	value := bytes.Repeat([]byte("v"), 4000)
	fill := func(ctx context.Context, from int) error {
		return s.Update(ctx, func(w store.Writer) error {
			for i := range 500 {
				w.Put(fmt.Sprintf("k/%05d", from+i), append([]byte(strconv.Itoa(from+i)), value...))
			}
			return nil
		})
	}
	all := func(want int) error {
		return s.View(t.Context(), func(r store.Reader) error {
			n := 0
			for key, got := range r.Scan("k/", "") {
				if !bytes.Equal(got, append([]byte(strconv.Itoa(n)), value...)) {
					return fmt.Errorf("%s is not as it was written", key)
				}
				n++
			}
			if n < want {
				return fmt.Errorf("%d records, want at least %d", n, want)
			}
			return nil
		})
	}
	if err := fill(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	for round := range 4 {
		if round == 3 { // as in a process that locks its memory; a little of it, which every user may
			if _, _, errno := unix.Syscall(unix.SYS_MLOCK, s.db.Info().Data, 2<<20, 0); errno != 0 {
				t.Fatal(errno)
			}
		}
		if err := all(500); err != nil {
			t.Fatal(err)
		}
		before := mapped(t, s.path)
		s.unmap()
		if after := mapped(t, s.path); before < 2000 || after > before/4 {
			t.Errorf("%d kB of the file were mapped, and %d afterwards", before, after)
		}
	}
	done := make(chan struct{})
	var wait sync.WaitGroup
	wait.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
				s.unmap()
			}
		}
	})
	wait.Go(func() {
		for i := 1; i <= 5; i++ {
			if err := fill(t.Context(), 500*i); err != nil {
				t.Error(err)
			}
		}
	})
	for range 20 {
		if err := all(500); err != nil {
			t.Error(err)
		}
	}
	close(done)
	wait.Wait()
	if err := all(3000); err != nil {
		t.Error(err)
	}
}

// The map is emptied at each tick, and whoever does it ends with the store.
func TestMapIsEmptiedByItself(t *testing.T) {
	s, err := Open(t.TempDir(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	err = s.Update(t.Context(), func(w store.Writer) error {
		w.Put("k", make([]byte, store.MaxValue))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	tick, ended := make(chan time.Time), make(chan struct{})
	go func() {
		defer close(ended)
		s.emptyMap(tick)
	}()
	for range 3 {
		err := s.View(t.Context(), func(r store.Reader) error {
			if value, ok := r.Get("k"); !ok || len(value) != store.MaxValue {
				return fmt.Errorf("%d bytes, %t", len(value), ok)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		tick <- time.Time{}
		tick <- time.Time{} // is taken when the first one is done with
		if kb := mapped(t, s.path); kb > 1000 {
			t.Errorf("%d kB of the file are mapped after a tick", kb)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	<-ended
	<-s.resting
	s.unmap() // of a closed store: nothing
}
