package hsm

import (
	"crypto/rand"
	"encoding/json"
	"testing"
)

// The domain items are written as encoding/json writes them, into room that was made at once, and are read back.
func TestItemsAreWrittenInOnePlace(t *testing.T) {
	it, err := newItems(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	want, err := json.Marshal(sealedItems{V: 1, Wrapped: it.wrapping.Reveal(), Backup: it.backup.Reveal(), Signing: it.signingDER.Reveal()})
	if err != nil {
		t.Fatal(err)
	}
	plain := it.marshal()
	if got := plain.Reveal(); string(got) != string(want) || cap(got) != len(got) {
		t.Errorf("got %d bytes in room for %d, want the %d bytes of encoding/json", len(got), cap(got), len(want))
	}
	again, err := unmarshalItems(plain)
	if err != nil || again.id != it.id || !again.wrapping.Equal(it.wrapping) || !again.backup.Equal(it.backup) || !again.signingDER.Equal(it.signingDER) {
		t.Errorf("read back as something else, or %v", err)
	}
}
