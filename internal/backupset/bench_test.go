package backupset_test

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"testing"

	"strongroom/internal/backupset"
)

// benchmarkRecords are keys as they are in a backup: JSON, with ciphertext in base64.
func benchmarkRecords(n, size int) []backupset.Record {
	list := make([]backupset.Record, n)
	for i := range list {
		list[i] = key(fmt.Sprintf("key-%06d", i), 1, size*3/4-150)
		list[i].Body = fmt.Appendf(nil, `{"name":%q,"versions":[{"id":%q,"created":1764000000,"updated":1764000000,"enabled":true,"key_ops":["sign","verify"],"kty":"EC-HSM","crv":"P-256","exportable":false,"hsm":true,"sealed":%q}]}`,
			list[i].Name, list[i].Versions[0].ID, base64.StdEncoding.EncodeToString(list[i].Body))
	}
	return list
}

// Writing, verifying and reading to and from a local folder, on one goroutine. The floor is SHA-256 of the objects' bytes:
// no verification is faster.
func BenchmarkBackup(b *testing.B) {
	const n = 20_000
	for _, kind := range []struct {
		name string
		size int
	}{{"P-256", 600}, {"RSA-2048", 2400}} {
		records := benchmarkRecords(n, kind.size)
		d := newDomain(b, "one")
		rate := func(b *testing.B) {
			b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "records/s")
			b.ReportMetric(0, "ns/op")
		}
		b.Run(kind.name+"/write", func(b *testing.B) {
			for range b.N {
				b.StopTimer()
				o := options(d, disk(b.TempDir()))
				b.StartTimer()
				m := write(b, o, records)
				b.ReportMetric(float64(m.Inventory.Size+m.Parts[0].Size)/n, "B/record")
			}
			rate(b)
		})
		s := disk(b.TempDir())
		write(b, options(d, s), records)
		set, err := backupset.Open(b.Context(), s, folder)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(kind.name+"/verify", func(b *testing.B) {
			for range b.N {
				if r, err := set.Verify(b.Context(), nil); err != nil || r.Err() != nil {
					b.Fatal(err, r)
				}
			}
			rate(b)
		})
		b.Run(kind.name+"/read", func(b *testing.B) {
			for range b.N {
				for _, err := range set.Records(b.Context(), d.id, d.engine, nil) {
					if err != nil {
						b.Fatal(err)
					}
				}
			}
			rate(b)
		})
		m := set.Manifest()
		b.Run(kind.name+"/floor", func(b *testing.B) {
			data := make([]byte, m.Inventory.Size+m.Parts[0].Size)
			for range b.N {
				_ = sha256.Sum256(data)
			}
			rate(b)
		})
	}
}
