// Package bench_test measures a real server process from outside: how long until an HSM is owned, and what it
// weighs at rest. Nothing here is asserted; machines differ, and the figures are printed beside each other.
package bench_test

import (
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"strongroom/internal/client"
	"strongroom/internal/custodian"
	"strongroom/secret"
	"strongroom/test/harness"
)

var binary, floorBinary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "strongroom-bench-")
	if err != nil {
		panic(err)
	}
	binary, floorBinary = harness.Build(dir, "strongroom/cmd/strongroom"), harness.Build(dir, "strongroom/test/bench/floor")
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// certificates are those of three RSA-3072 custodians; making them is not part of what is measured.
func certificates(b *testing.B) (list []*x509.Certificate) {
	b.Helper()
	for i := range 3 {
		_, text, err := custodian.Generate(rand.Reader, fmt.Sprintf("custodian-%d", i+1), 3072, secret.Bytes{}, time.Now())
		if err != nil {
			b.Fatal(err)
		}
		block, _ := pem.Decode(text)
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			b.Fatal(err)
		}
		list = append(list, c)
	}
	return list
}

// BenchmarkFromNothingToActivated: `serve --dev` on an empty folder, until the SD file of alpha is in hand. Then the
// memory of the server at rest, resident and of its own (without the pages of the program file).
func BenchmarkFromNothingToActivated(b *testing.B) {
	list := certificates(b)
	var total time.Duration
	var resident, own float64
	for i := range b.N {
		dir := filepath.Join(b.TempDir(), strconv.Itoa(i))
		begun := time.Now()
		s, err := harness.TryStart(dir, harness.Options{Binary: binary})
		if err != nil {
			b.Fatal(err)
		}
		ca, err := os.ReadFile(s.Env["STRONGROOM_CA"])
		if err != nil {
			b.Fatal(err)
		}
		c, err := client.New(client.Options{CA: ca, Now: time.Now, Credentials: client.Credentials{
			Authority: s.Env["STRONGROOM_AUTHORITY"], Tenant: s.Env["STRONGROOM_TENANT"], ClientID: s.Env["STRONGROOM_CLIENT_ID"], Secret: secret.New([]byte(s.Env["STRONGROOM_CLIENT_SECRET"]))}})
		if err != nil {
			b.Fatal(err)
		}
		h, err := c.HSM(s.Env["STRONGROOM_HSM_ALPHA_URL"])
		if err != nil {
			b.Fatal(err)
		}
		if _, err := h.DownloadDomain(b.Context(), list, 2); err != nil {
			b.Fatal(err)
		}
		total += time.Since(begun)
		time.Sleep(2 * time.Second) // at rest
		r, o := memory(b, s.Cmd.Process.Pid)
		resident, own = max(resident, r), max(own, o)
		if err := s.Stop(); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(total.Seconds()/float64(b.N), "s/activated")
	b.ReportMetric(resident, "MB-resident")
	b.ReportMetric(own, "MB-anonymous")
	b.ReportMetric(0, "ns/op")
}

// memory reads VmRSS and RssAnon, in MB.
func memory(b *testing.B, pid int) (resident, own float64) {
	b.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(raw)) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		kb, _ := strconv.ParseFloat(f[1], 64)
		switch f[0] {
		case "VmRSS:":
			resident = kb / 1000
		case "RssAnon:":
			own = kb / 1000
		}
	}
	return resident, own
}
