package audit

import (
	"context"
	"crypto"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// What a durable record costs, alone and among 64 callers; beside it the floor: a write of the same length and a sync.
func BenchmarkAppend(b *testing.B) {
	for _, callers := range []int{1, 64} {
		b.Run(fmt.Sprint(callers, "-callers"), func(b *testing.B) {
			o := testOptions()
			o.Clock = time.Now
			l := mustOpen(b, b.TempDir(), o)
			before := l.Stats().Syncs
			b.ReportAllocs()
			b.ResetTimer()
			var next atomic.Int64
			var wg sync.WaitGroup
			for range callers {
				wg.Go(func() {
					for next.Add(1) <= int64(b.N) {
						if _, err := l.Append(context.Background(), call(1)); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			b.StopTimer()
			b.ReportMetric(float64(l.Stats().Syncs-before)/float64(b.N), "syncs/op")
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
		})
	}
	b.Run("floor", func(b *testing.B) {
		f, err := os.Create(filepath.Join(b.TempDir(), "f"))
		if err != nil {
			b.Fatal(err)
		}
		defer f.Close()
		line := lineOf(b, call(1), 1, startHash(""))
		for b.Loop() {
			if _, err := f.Write(line); err != nil {
				b.Fatal(err)
			}
			if err := f.Sync(); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// How long it takes to open, verify, search and prove from a log of a million records.
func BenchmarkMillion(b *testing.B) {
	const records = 1_000_000
	dir := bigLog(b, records, 512, nil)
	var bytes int64
	for _, s := range mustSegments(b, dir) {
		info, err := os.Stat(s.path)
		if err != nil {
			b.Fatal(err)
		}
		bytes += info.Size()
	}
	b.Run("open", func(b *testing.B) {
		for b.Loop() {
			l, err := Open(dir, testOptions())
			if err != nil {
				b.Fatal(err)
			}
			if err := l.Close(); err != nil {
				b.Fatal(err)
			}
		}
	})
	for name, work := range map[string]func() error{
		"verify": func() error {
			r, err := Verify(b.Context(), dir, VerifyOptions{Keys: []crypto.PublicKey{serverKey.Public(), domainKey.Public()}})
			if err == nil && (!r.OK() || r.Records != records) {
				err = fmt.Errorf("%+v", r)
			}
			return err
		},
		"show": func() error {
			_, err := Show(b.Context(), dir, Filter{Key: "none"}, func(Record) error { return nil })
			return err
		},
		"prove": func() error { _, err := Prove(b.Context(), dir, records/2); return err },
	} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(bytes)
			for b.Loop() {
				if err := work(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
