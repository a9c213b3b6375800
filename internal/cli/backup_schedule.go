package cli

import (
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"strongroom/internal/api"
)

// scheduleView is a schedule as results show it.
type scheduleView struct {
	To       string     `json:"to"`
	Every    string     `json:"every"`
	Keep     int        `json:"keep"`
	Verified *time.Time `json:"verified,omitempty"`
	Failures int64      `json:"failures"`
	Next     *time.Time `json:"next,omitempty"` // left out: one is under way, or the HSM is not in use
	Last     *tryView   `json:"last,omitempty"` // left out: none is known
}

// tryView is the newest try of a schedule.
type tryView struct {
	Status  string    `json:"status"`
	Time    time.Time `json:"time"`
	Job     string    `json:"job,omitempty"`
	Code    string    `json:"code,omitempty"`
	Details string    `json:"details,omitempty"`
}

func (a *app) backupScheduleCommand() *cobra.Command {
	cmd := a.verb("schedule", "Show the backups that the server takes by itself", `Shows where the server backs the HSM up to by itself, when the next one is due, and how the last one went. It changes nothing: schedules
stand in the configuration file of the server ([[backup.schedule]]), because who may read or fill a place is for the server's operator
to say. A change there takes effect when the server is started again.

VERIFIED is when the newest backup was begun that was read back and found good. FAILURES are those since the server was started.`, 0, func(cmd *cobra.Command, _ []string) error {
		hsm, err := a.hsm(cmd)
		if err != nil {
			return err
		}
		list, err := hsm.BackupSchedules(cmd.Context())
		if err != nil {
			return err
		}
		return a.showSchedules(list)
	})
	return a.connected(cmd, settingURL)
}

func viewSchedule(s api.BackupSchedule) scheduleView {
	v := scheduleView{To: shownPlace(s.To), Every: interval(time.Duration(s.Every) * time.Second), Keep: s.Keep, Failures: s.Failures}
	if s.Verified != nil {
		v.Verified = unixTime(*s.Verified)
	}
	if s.Next != nil {
		v.Next = unixTime(*s.Next)
	}
	if l := s.Last; l != nil {
		v.Last = &tryView{Status: l.Status, Time: *unixTime(l.Time), Job: l.JobID}
		if l.Error != nil {
			v.Last.Code, v.Last.Details = l.Error.Code, l.Error.Message
		}
	}
	return v
}

func (a *app) showSchedules(list []api.BackupSchedule) error {
	views := []scheduleView{}
	for _, s := range list {
		views = append(views, viewSchedule(s))
	}
	if len(views) == 0 {
		a.say("the server takes no backups of this HSM by itself; its operator can add them to its configuration file, as [[backup.schedule]]")
	}
	err := a.result(views, func(t *table) {
		t.row("TO", "EVERY", "KEEP", "VERIFIED", "NEXT", "LAST TRY", "FAILURES")
		for _, v := range views {
			verified, last := "never", "none"
			if v.Verified != nil {
				verified = v.Verified.Format(time.RFC3339)
			}
			if v.Last != nil {
				last = v.Last.Status
			}
			t.row(v.To, v.Every, strconv.Itoa(v.Keep), verified, v.due(a.now()), last, strconv.FormatInt(v.Failures, 10))
		}
	})
	if err != nil || len(views) == 0 {
		return err
	}
	for _, v := range views {
		if l := v.Last; l != nil && l.Status == "Failed" {
			what := "failed"
			if l.Job == "" {
				what = "could not begin"
			}
			a.say("the last one to %s %s at %s: %s; it is tried again by itself: %s", v.To, what, l.Time.Format(time.RFC3339), l.Details, v.due(a.now()))
		}
	}
	a.say("schedules are changed in the configuration file of the server, [[backup.schedule]], by its operator")
	return nil
}

// due is when the next one comes, for people.
func (v scheduleView) due(now time.Time) string {
	switch {
	case v.Next != nil && v.Next.After(now):
		return v.Next.Format(time.RFC3339)
	case v.Next != nil:
		return "now"
	case v.Last != nil && v.Last.Status == "InProgress":
		return "under way"
	}
	return "when the HSM is activated"
}

// interval is a duration as a configuration has it: 24h, and not 24h0m0s.
func interval(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
