package keys

import (
	"fmt"
	"testing"

	"strongroom/internal/store/memory"
)

// What it costs to get a key whose records are not in memory: read, verify and decode two of them.
func BenchmarkColdGet(b *testing.B) {
	h := newBench(b, memory.New(), alphaID, ownDomain)
	for i := range 100 {
		h.create(b, fmt.Sprintf("key-%d", i), CreateParams{})
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		if _, _, err := h.read(b.Context(), h.engine, fmt.Sprintf("key-%d", i%100), "", 0); err != nil {
			b.Fatal(err)
		}
		i++
	}
}

// What it costs to get a key whose records are in memory.
func BenchmarkWarmGet(b *testing.B) {
	h := newBench(b, memory.New(), alphaID, ownDomain)
	for i := range 100 {
		h.create(b, fmt.Sprintf("key-%d", i), CreateParams{})
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		if _, _, err := h.find(b.Context(), h.engine, fmt.Sprintf("key-%d", i%100), ""); err != nil {
			b.Fatal(err)
		}
		i++
	}
}
