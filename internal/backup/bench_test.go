package backup_test

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"strongroom/internal/backup"
	"strongroom/internal/keys"
)

// BenchmarkJobs is what backup, dry run and restore of P-256 keys take of a processor, with the store and the backup in
// memory. test/bench has the whole server.
func BenchmarkJobs(b *testing.B) {
	const n = 4_000
	w := newWorld(b, "alpha")
	for i := range n {
		w.create("alpha", fmt.Sprintf("key-%06d", i), keys.CreateParams{})
	}
	folder := w.backup("alpha")
	check := func(j backup.Job) {
		b.Helper()
		if j.Status != backup.Succeeded {
			b.Fatalf("%+v", j)
		}
	}
	for name, job := range map[string]func(){
		"backup": func() { w.backup("alpha") },
		"prebackup": func() {
			j, err := w.backups.CheckBackup(b.Context(), w.open("alpha"), admin, nil)
			check(w.done("alpha", j, err))
		},
		"prerestore": func() {
			j, err := w.backups.CheckRestore(b.Context(), w.open("alpha"), admin, &target, folder)
			check(w.done("alpha", j, err))
		},
		"restore": func() {
			check(w.restore("alpha", folder))
			if err := w.hsms.Sweep(b.Context()); err != nil {
				b.Fatal(err)
			}
		},
	} {
		b.Run(name, func(b *testing.B) {
			used := cpu(b)
			for b.Loop() {
				job()
			}
			b.ReportMetric(n*float64(b.N)/b.Elapsed().Seconds(), "keys/s")
			b.ReportMetric(float64((cpu(b)-used).Microseconds())/n/float64(b.N), "cpu-µs/key")
		})
	}
}

// cpu is what the process has used: it tells of the work where the wall clock tells of the neighbours.
func cpu(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
