package powercut

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// What was synced is there after a cut, what was not is gone, and a mount namespace made meanwhile, which holds the
// dead file system for a while, changes neither.
func TestCutAndMount(t *testing.T) {
	d := New(t, 16<<20)
	write := func(name string, sync bool) {
		t.Helper()
		f, err := os.Create(filepath.Join(d.Path, name))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteString(name); err != nil {
			t.Fatal(err)
		}
		if sync {
			if err := f.Sync(); err != nil {
				t.Fatal(err)
			}
		}
	}
	write("synced", true)
	write("unsynced", false)
	// The other namespace is there once the command has printed, and ends by itself a little later.
	other := exec.Command("unshare", "--mount", "sh", "-c", "echo; exec sleep 1")
	out, err := other.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- other.Wait() }()
	d.Cut(t)
	if err := os.WriteFile(filepath.Join(d.Path, "late"), nil, 0o600); err == nil {
		t.Error("a disk without power took a file")
	}
	d.Mount(t)
	if b, err := os.ReadFile(filepath.Join(d.Path, "synced")); string(b) != "synced" {
		t.Errorf("synced: %q, %v", b, err)
	}
	if _, err := os.Stat(filepath.Join(d.Path, "unsynced")); err == nil {
		t.Error("what was not synced is there")
	}
	write("again", true)
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(time.Minute):
		t.Fatal("the other namespace does not end")
	}
}
