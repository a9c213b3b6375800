package memory_test

import (
	"context"
	"errors"
	"testing"

	"strongroom/internal/store"
	"strongroom/internal/store/memory"
	"strongroom/internal/store/storetest"
)

func TestConformance(t *testing.T) {
	storetest.Run(t, func(*testing.T) store.Store { return memory.New() })
}

func put(s store.Store, key string) error {
	return s.Update(context.Background(), func(w store.Writer) error { w.Put(key, nil); return nil })
}

func has(t *testing.T, s store.Store, key string) (ok bool) {
	t.Helper()
	if err := s.View(t.Context(), func(r store.Reader) error { _, ok = r.Get(key); return nil }); err != nil {
		t.Fatal(err)
	}
	return ok
}

// Covers the fault means of R1 and R3: each fault, what the store answers, and what a restart finds.
func TestInject(t *testing.T) {
	for _, tc := range []struct {
		name    string
		fault   memory.Fault
		answers []error // to the puts of a, b, c in turn
		failed  bool
		onDisk  map[string]bool
	}{
		{"no fault", memory.Fault{}, []error{nil, nil, nil}, false, map[string]bool{"a": true, "b": true, "c": true}},
		{"full once", memory.Fault{At: 2}, []error{nil, store.ErrFull, nil}, false, map[string]bool{"a": true, "b": false, "c": true}},
		{"full for ever", memory.Fault{At: 2, Forever: true}, []error{nil, store.ErrFull, store.ErrFull}, false, map[string]bool{"a": true, "b": false, "c": false}},
		{"failed before writing", memory.Fault{At: 2, Err: store.ErrFailed}, []error{nil, store.ErrFailed, store.ErrFailed}, true, map[string]bool{"a": true, "b": false, "c": false}},
		{"failed after writing", memory.Fault{At: 2, Err: store.ErrFailed, Written: true}, []error{nil, store.ErrFailed, store.ErrFailed}, true, map[string]bool{"a": true, "b": true, "c": false}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := memory.New()
			s.Inject(tc.fault)
			told := map[string]bool{}
			s.Watch(func(keys []string) { told[keys[0]] = true })
			for i, key := range []string{"a", "b", "c"} {
				if err := put(s, key); !errors.Is(err, tc.answers[i]) || (err == nil) != (tc.answers[i] == nil) {
					t.Errorf("put %s: got %v, want %v", key, err, tc.answers[i])
				}
				if acknowledged := tc.answers[i] == nil; has(t, s, key) != acknowledged || told[key] != acknowledged {
					t.Errorf("%s: visible %v, watchers told %v, want %v", key, has(t, s, key), told[key], acknowledged)
				}
			}
			failed := false
			select {
			case <-s.Failed():
				failed = true
			default:
			}
			if failed != tc.failed {
				t.Errorf("failed: got %v, want %v", failed, tc.failed)
			}
			again := s.Restart()
			for key, want := range tc.onDisk {
				if got := has(t, again, key); got != want {
					t.Errorf("after a restart %s: got %v, want %v", key, got, want)
				}
			}
			if err := put(again, "d"); err != nil {
				t.Errorf("after a restart: %v", err)
			}
		})
	}
}
