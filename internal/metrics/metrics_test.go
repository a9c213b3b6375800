package metrics

import (
	"encoding/json"
	"io"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"
)

func scrape(t *testing.T, m *Metrics) string {
	t.Helper()
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	text, err := io.ReadAll(w.Body)
	if err != nil || w.Code != 200 {
		t.Fatalf("%d, %v: %s", w.Code, err, text)
	}
	return string(text)
}

// What is counted is what a scrape shows, and sources are asked each time.
func TestScrape(t *testing.T) {
	keys, failed := 3, false
	m := New(Sources{
		Version: "v1.2.3",
		HSMs:    func() []HSM { return []HSM{{"alpha", "activated", keys}, {"beta", "provisioned", -1}} },
		Tokens:  func() (uint64, uint64) { return 7, 2 },
		Audit:   func() Audit { return Audit{Waiting: 5, Failed: failed, Unrecorded: 7} },
		Backups: func() []Backup { return []Backup{{"alpha", "s3://b", time.Minute, time.Hour, 2}} },
	})
	end := m.Begin()
	m.Observe("alpha", "Sign", 200, 2*time.Millisecond)
	m.Observe("alpha", "Sign", 200, 2*time.Millisecond)
	m.Observe("", "", 404, time.Second)
	text := scrape(t, m)
	for _, line := range []string{
		`strongroom_requests_total{code="200",hsm="alpha",operation="Sign"} 2`,
		`strongroom_requests_total{code="404",hsm="",operation="none"} 1`,
		`strongroom_request_duration_seconds_bucket{operation="Sign",le="0.001"} 0`,
		`strongroom_request_duration_seconds_bucket{operation="Sign",le="0.0025"} 2`,
		`strongroom_requests_running 1`,
		`strongroom_build_info{version="v1.2.3"} 1`,
		`strongroom_hsm_state{hsm="alpha",state="activated"} 1`,
		`strongroom_hsm_state{hsm="alpha",state="provisioned"} 0`,
		`strongroom_hsm_state{hsm="beta",state="provisioned"} 1`,
		`strongroom_hsm_keys{hsm="alpha"} 3`,
		`strongroom_tokens_total{check="remembered"} 7`,
		`strongroom_tokens_total{check="signature"} 2`,
		`strongroom_backup_verified_age_seconds{hsm="alpha",to="s3://b"} 60`,
		`strongroom_backup_every_seconds{hsm="alpha",to="s3://b"} 3600`,
		`strongroom_backup_failures_total{hsm="alpha",to="s3://b"} 2`,
		`strongroom_audit_waiting 5`,
		`strongroom_audit_failed 0`,
		`strongroom_audit_unrecorded_total 7`,
		"go_goroutines",
		"process_resident_memory_bytes",
	} {
		if !strings.Contains(text, line) {
			t.Errorf("the scrape lacks %s", line)
		}
	}
	if strings.Contains(text, `strongroom_hsm_keys{hsm="beta"}`) {
		t.Error("a number of keys that nobody knows is shown")
	}
	end()
	keys, failed = 4, true
	text = scrape(t, m)
	for _, line := range []string{`strongroom_requests_running 0`, `strongroom_hsm_keys{hsm="alpha"} 4`, `strongroom_audit_failed 1`} {
		if !strings.Contains(text, line) {
			t.Errorf("the second scrape lacks %s", line)
		}
	}
}

// The example alerts and dashboard name metrics that there are.
func TestExamplesNameRealMetrics(t *testing.T) {
	m := New(Sources{Version: "v", HSMs: func() []HSM { return []HSM{{"a", "activated", 1}} }, Tokens: func() (uint64, uint64) { return 0, 0 }, Audit: func() Audit { return Audit{} },
		Backups: func() []Backup { return []Backup{{"a", "b", 1, 1, 1}} }})
	m.Observe("a", "Sign", 200, time.Millisecond)
	text := scrape(t, m)
	named := regexp.MustCompile(`\b(?:strongroom|process)_[a-z_]+`)
	for _, file := range []string{"alerts.yml", "dashboard.json"} {
		raw, err := os.ReadFile("../../deploy/" + file)
		if err != nil {
			t.Fatal(err)
		}
		names := named.FindAllString(string(raw), -1)
		if len(names) < 5 {
			t.Errorf("%s names %d metrics", file, len(names))
		}
		for _, name := range names {
			if !strings.Contains(text, "\n"+name+"{") && !strings.Contains(text, "\n"+name+" ") {
				t.Errorf("%s names %s, which is not there", file, name)
			}
		}
		if strings.HasSuffix(file, ".json") && !json.Valid(raw) {
			t.Errorf("%s is not JSON", file)
		}
	}
}
