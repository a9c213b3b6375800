package bolt_test

import (
	"errors"
	"testing"
	"testing/synctest"

	"strongroom/internal/durable"
	"strongroom/internal/store"
	"strongroom/internal/store/bolt"
)

// Covers R2: a caller who is refused because of what another caller changed hears so when that change is on disk, and
// not before: until then a power cut can undo it, and no reader sees it. If the commit fails, the refusal was about
// something that never happened, and the caller hears of the failure instead.
func TestRefusalsWaitForWhatTheySaw(t *testing.T) {
	refusal := errors.New("it is there already")
	for name, fails := range map[string]bool{"the commit succeeds": false, "the commit fails": true} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				s, err := bolt.Open(dir, bolt.Options{})
				if err != nil {
					t.Fatal(err)
				}
				defer s.Close()
				disk := make(chan struct{})
				durable.Hook = func(point string) {
					if point == "bolt:before-commit" {
						if <-disk; fails {
							panic("the disk is gone")
						}
					}
				}
				defer func() { durable.Hook = nil }()
				release, first, second, idle := make(chan struct{}), make(chan error, 1), make(chan error, 1), make(chan error, 1)
				go func() {
					first <- s.Update(t.Context(), func(w store.Writer) error {
						<-release
						w.Put("a", nil)
						return nil
					})
				}()
				synctest.Wait()
				for _, caller := range []struct {
					answer chan error
					err    error
				}{{second, refusal}, {idle, nil}} {
					go func() {
						caller.answer <- s.Update(t.Context(), func(w store.Writer) error {
							if _, there := w.Get("a"); !there {
								t.Error("not in the batch of the change; the test shows nothing")
							}
							return caller.err
						})
					}()
				}
				synctest.Wait() // all three are in line
				close(release)
				synctest.Wait() // the commit waits for the disk
				for who, answer := range map[string]chan error{"who makes the change": first, "who is refused": second, "who only read": idle} {
					select {
					case err := <-answer:
						t.Errorf("%s was answered before anything was on disk: %v", who, err)
						answer <- err
					default:
					}
				}
				close(disk)
				want := map[bool]error{true: store.ErrFailed}[fails]
				if err := <-first; !errors.Is(err, want) {
					t.Errorf("the change: got %v, want %v", err, want)
				}
				if err := <-idle; !errors.Is(err, want) {
					t.Errorf("the reader: got %v, want %v", err, want)
				}
				if want == nil {
					want = refusal
				}
				if err := <-second; !errors.Is(err, want) {
					t.Errorf("the refused: got %v, want %v", err, want)
				}
			})
		})
	}
}
