package server

import (
	"errors"
	"io"
	"io/fs"
	"testing"

	"strongroom/internal/failure"
	"strongroom/internal/target"
)

// What a target says of a failure reaches whoever asks how the job stands, and nothing else of it does.
func TestTargetsSayWhatIsWrong(t *testing.T) {
	cause := &target.Error{Op: "create x", Where: "https://a.example/c", Why: "the store does not allow it", Kind: fs.ErrExist}
	f, is := errors.AsType[*failure.Error](shown(cause))
	if !is || f.Kind != failure.Unavailable || f.Message != cause.Why || !errors.Is(f, fs.ErrExist) {
		t.Errorf("shown as %#v", f)
	}
	if err := shown(io.EOF); err != io.EOF {
		t.Errorf("the end of an object became %v", err)
	}
}
