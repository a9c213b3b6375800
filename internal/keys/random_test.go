package keys

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/iotest"

	"strongroom/internal/failure"
	"strongroom/internal/store/memory"
)

// Covers K9: what comes out is what the given randomness says, as long as asked for, and new each time; a source
// that fails or ends early gives nothing.
func TestRandom(t *testing.T) {
	b := newBench(t, memory.New(), alphaID, ownDomain)
	seen := map[string]bool{}
	for _, count := range []int{1, 16, 127, MaxRandom, MaxRandom} {
		random, err := b.Random(t.Context(), alice, count)
		if err != nil || random.Len() != count {
			t.Errorf("%d bytes: got %d, %v", count, random.Len(), err)
		}
		if count >= 16 && (seen[string(random.Reveal())] || bytes.Equal(random.Reveal(), make([]byte, count))) {
			t.Errorf("%d bytes came twice, or are zero", count)
		}
		if count >= 16 && strings.Contains(fmt.Sprintf("%v %+v %s", random, random, random), string(random.Reveal())) {
			t.Error("random bytes can be printed")
		}
		seen[string(random.Reveal())] = true
	}
	for _, count := range []int{-1 << 40, -1, 0, MaxRandom + 1, 1 << 40} {
		random, err := b.Random(t.Context(), alice, count)
		if wantKind(t, err, failure.BadParameter); random.Len() != 0 {
			t.Errorf("%d bytes: got %d", count, random.Len())
		}
	}
	b.Keys.cfg.Rand = bytes.NewReader([]byte("0123456789"))
	if random, err := b.Random(t.Context(), alice, 8); err != nil || string(random.Reveal()) != "01234567" {
		t.Errorf("the randomness is not the one that was passed in: %v", err)
	}
	if _, err := b.Random(t.Context(), alice, 8); failure.KindOf(err) != failure.Unavailable {
		t.Errorf("randomness that ends early: %v", err)
	}
	b.Keys.cfg.Rand = iotest.ErrReader(errors.New("no randomness"))
	if _, err := b.Random(t.Context(), alice, 1); failure.KindOf(err) != failure.Unavailable {
		t.Errorf("no randomness: %v", err)
	}
}
