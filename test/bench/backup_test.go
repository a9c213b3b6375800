package bench_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"strongroom/internal/api"
	"strongroom/internal/backupset"
	"strongroom/internal/target"
	"strongroom/secret"
)

// BenchmarkBackup takes a full backup of one HSM with more and more P-256 keys into a local folder, verifies it as
// somebody without keys would, looks at it as a restore would (prerestore), and restores it: keys a second, the server's memory, and, of the largest
// HSM, what signing suffers beside a backup.
func BenchmarkBackup(b *testing.B) {
	dir := filepath.Join(b.TempDir(), "server")
	place := b.TempDir()
	name := func(i int) string { return fmt.Sprintf("key-%06d", i) }
	settings := fmt.Sprintf("\n[audit]\ninsecure_off = true\n[backup]\nfolders = [%q]\n", place)
	have := 0
	metrics := map[string]float64{}
	for _, size := range []int{1_000, 10_000, 100_000} {
		s := startWith(b, dir, settings)
		fill(b, s, name, have, size)
		have = size
		s.stop()
		s = startWith(b, dir, settings)
		rate := func(d time.Duration) float64 { return float64(size) / d.Seconds() }
		sas := map[string]any{"storageResourceUri": "file://" + place}

		backup := s.job(b, often, http.MethodPost, "backup", sas)
		folder := filepath.Base(backup.folder)
		verified := verify(b, place, folder, size)
		look := s.job(b, often, http.MethodPut, "prerestore", map[string]any{"sasTokenParameters": sas, "folderToRestore": folder})
		restore := s.job(b, often, http.MethodPut, "restore", map[string]any{"sasTokenParameters": sas, "folderToRestore": folder})
		b.Logf("%6d keys: backup %.0f keys a second (server CPU %.1f s), verify %.0f, prerestore %.0f (CPU %.1f s), restore %.0f (CPU %.1f s); the server's own memory %.0f MB before, at most %.0f in the backup, %.0f in prerestore, %.0f in the restore",
			size, rate(backup.took), backup.cpu.Seconds(), rate(verified), rate(look.took), look.cpu.Seconds(), rate(restore.took), restore.cpu.Seconds(), backup.before, backup.most, look.most, restore.most)
		metrics[fmt.Sprintf("backup-%d-keys/s", size)], metrics[fmt.Sprintf("restore-%d-keys/s", size)] = rate(backup.took), rate(restore.took)
		if size == 100_000 {
			s.beside(b, sas, name(5))
		}
		s.stop()
	}
	report(b, metrics)
}

// verify is `backup verify` without keys.
func verify(b *testing.B, place, folder string, keys int) time.Duration {
	b.Helper()
	l, err := target.ParseStorage("file://"+place, secret.Bytes{})
	if err != nil {
		b.Fatal(err)
	}
	places, err := target.Own(target.Config{})
	if err != nil {
		b.Fatal(err)
	}
	at, err := places.Open(l)
	if err != nil {
		b.Fatal(err)
	}
	begun := time.Now()
	backup, err := backupset.Open(b.Context(), storage{at}, folder)
	if err != nil {
		b.Fatal(err)
	}
	r, err := backup.Verify(b.Context(), nil)
	if err != nil || r.Err() != nil || backup.Manifest().Counts["key"] != int64(keys) {
		b.Fatalf("%+v, %v", r, err)
	}
	return time.Since(begun)
}

// storage is a target as package backupset sees it.
type storage struct{ target.Target }

func (s storage) Create(ctx context.Context, name string) (backupset.Object, error) {
	return s.Target.Create(ctx, name)
}

func (s storage) List(ctx context.Context, folder string) ([]backupset.Info, error) {
	found, err := s.Target.List(ctx, folder)
	list := make([]backupset.Info, len(found))
	for i, f := range found {
		list[i] = backupset.Info{Name: f.Name, Size: f.Size}
	}
	return list, err
}

// done is how a job went.
type done struct {
	took, cpu    time.Duration
	before, most float64 // MB of memory of the server's own
	folder       string
}

// How often a job is asked how it stands. Each time costs as much as a signature, or more: where signatures are timed, it
// is asked as seldom as a client would.
const (
	often  = 5 * time.Millisecond
	seldom = 250 * time.Millisecond
)

// job begins a backup or restore and waits for its end.
func (s *server) job(b *testing.B, every time.Duration, method, route string, body any) (d done) {
	b.Helper()
	c := s.connect(b)
	defer c.Close()
	_, d.before = memory(b, s.cmd.Process.Pid)
	cpu, begun := s.cpu(b), time.Now()
	status, text := c.roundTrip(b, s.request(b, method, "/"+route, body))
	var op api.BackupOperation
	if err := json.Unmarshal(text, &op); err != nil || status != http.StatusAccepted {
		b.Fatalf("%s: %d %s", route, status, text)
	}
	poll := s.request(b, http.MethodGet, "/"+strings.TrimPrefix(route, "pre")+"/"+op.JobID+"/pending", nil)
	for op.Status == "InProgress" {
		time.Sleep(every)
		if status, text = c.roundTrip(b, poll); status != http.StatusOK {
			b.Fatalf("%s: %d %s", route, status, text)
		}
		if err := json.Unmarshal(text, &op); err != nil {
			b.Fatal(err)
		}
		_, own := memory(b, s.cmd.Process.Pid)
		d.most = max(d.most, own)
	}
	d.took, d.cpu = time.Since(begun), s.cpu(b)-cpu
	if op.Status != "Succeeded" {
		b.Fatalf("%s: %s", route, text)
	}
	if op.AzureStorageBlobContainerURI != nil {
		d.folder = *op.AzureStorageBlobContainerURI
	}
	return d
}

// beside compares signing alone with signing while backups run without a pause; and, as a floor, while a process that has
// nothing to do with the server keeps one processor busy.
func (s *server) beside(b *testing.B, sas any, key string) {
	b.Helper()
	requests := [][]byte{s.request(b, http.MethodPost, "/keys/"+key+"/sign", signBody("ES256"))}
	for _, n := range []int{1, 8} {
		var connections []*conn
		for range n {
			connections = append(connections, s.connect(b))
		}
		load(b, s.process, connections, requests, 200*time.Millisecond)
		var alone, busy, beside, ratios, floors []float64
		for range 3 {
			other := exec.Command("sh", "-c", "while :; do :; done")
			if err := other.Start(); err != nil {
				b.Fatal(err)
			}
			f := load(b, s.process, connections, requests, 1500*time.Millisecond)
			_ = other.Process.Kill()
			_ = other.Wait()
			a := load(b, s.process, connections, requests, 1500*time.Millisecond)
			var stop atomic.Bool
			ended, begun := make(chan int, 1), make(chan struct{})
			go func() {
				count := 0
				for ; !stop.Load(); count++ {
					if count == 0 {
						close(begun)
					}
					s.job(b, seldom, http.MethodPost, "prebackup", sas)
				}
				ended <- count
			}()
			<-begun
			m := load(b, s.process, connections, requests, 2500*time.Millisecond)
			stop.Store(true)
			<-ended
			alone, beside, ratios = append(alone, micro(a.p99)), append(beside, micro(m.p99)), append(ratios, float64(m.p99)/float64(a.p99))
			busy, floors = append(busy, micro(f.p99)), append(floors, float64(m.p99)/float64(f.p99))
		}
		b.Logf("p99 of P-256 sign over %d connections: alone %.0f µs, beside a backup %.0f µs: %.1f × (target 2; rounds %.1f); beside a busy process of somebody else %.0f µs, of which the one beside a backup is %.1f ×", n, median(alone), median(beside), median(ratios), ratios, median(busy), median(floors))
		for _, c := range connections {
			_ = c.Close()
		}
	}
}
