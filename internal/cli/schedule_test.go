package cli

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"strongroom/internal/api"
)

// What a person reads of schedules: when the next one is, how the last one went, what to do, where they stand.
func TestSchedulesAreShown(t *testing.T) {
	now := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	at := func(d time.Duration) *int64 { s := now.Add(d).Unix(); return &s }
	good := &api.BackupTry{Status: "Succeeded", Time: *at(-time.Hour), JobID: "00000000000000000000000000000001"}
	bad := func(job string) *api.BackupTry {
		return &api.BackupTry{Status: "Failed", Time: *at(-time.Minute), JobID: job, Error: &api.OperationError{Code: "Unavailable", Message: "the place is full"}}
	}
	for name, tc := range map[string]struct {
		one            api.BackupSchedule
		row, said, not string
	}{
		"never yet":   {api.BackupSchedule{Every: 300, Keep: 7, Next: at(0)}, "/srv/b 5m 7 never now none 0", "", "tried again"},
		"good":        {api.BackupSchedule{Every: 86400, Keep: 2, Verified: at(-time.Hour), Next: at(23 * time.Hour), Last: good}, "24h 2 2026-11-25T11:00:00Z 2026-11-26T11:00:00Z", "", "tried again"},
		"under way":   {api.BackupSchedule{Every: 5400, Keep: 2, Last: &api.BackupTry{Status: "InProgress", Time: now.Unix()}}, "1h30m 2 never under way", "", "tried again"},
		"not in use":  {api.BackupSchedule{Every: 86400, Keep: 2}, "when the HSM is activated", "", "tried again"},
		"failed":      {api.BackupSchedule{Every: 86400, Keep: 2, Next: at(time.Hour), Last: bad("1"), Failures: 3}, "Failed 3", "the last one to /srv/b failed at 2026-11-25T11:59:00Z: the place is full; it is tried again by itself: 2026-11-25T13:00:00Z", "could not begin"},
		"never begun": {api.BackupSchedule{Every: 86400, Keep: 2, Next: at(0), Last: bad("")}, "Failed", "the last one to /srv/b could not begin at 2026-11-25T11:59:00Z: the place is full; it is tried again by itself: now", ""},
	} {
		t.Run(name, func(t *testing.T) {
			var out, err bytes.Buffer
			a := &app{out: &out, err: &err, format: formatTable, now: func() time.Time { return now }, getenv: func(string) string { return "" }}
			tc.one.To = "file:///srv/b"
			if err := a.showSchedules([]api.BackupSchedule{tc.one}); err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(strings.Join(strings.Fields(out.String()), " "), tc.row) {
				t.Errorf("got:\n%swant in it: %s", out.String(), tc.row)
			}
			if !strings.Contains(err.String(), tc.said) || tc.not != "" && strings.Contains(err.String(), tc.not) {
				t.Errorf("said:\n%swant %q, and not %q", err.String(), tc.said, tc.not)
			}
			if !strings.Contains(err.String(), "schedules are changed in the configuration file of the server, [[backup.schedule]], by its operator\n") {
				t.Errorf("it is not said where they stand:\n%s", err.String())
			}
		})
	}
}
