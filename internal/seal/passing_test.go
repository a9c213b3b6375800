package seal_test

import (
	"crypto/rand"
	"errors"
	"testing"

	"strongroom/internal/seal"
	"strongroom/secret"
)

// What a passing seal has sealed opens under it and under no other one, and not after its end.
func TestPassing(t *testing.T) {
	one, err := seal.NewPassing(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	other, err := seal.NewPassing(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if one.ID() == other.ID() {
		t.Error("two have one ID")
	}
	sealed, err := one.Wrap(secret.New([]byte("something")), "here")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := one.Unwrap(sealed, "here"); err != nil || string(got.Reveal()) != "something" {
		t.Errorf("its own: %v", err)
	}
	if _, err := other.Unwrap(sealed, "here"); !errors.Is(err, seal.ErrUnwrap) {
		t.Errorf("another one: %v", err)
	}
	one.Close()
	if _, err := one.Unwrap(sealed, "here"); !errors.Is(err, seal.ErrClosed) {
		t.Errorf("after its end: %v", err)
	}
}
