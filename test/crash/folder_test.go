package crash_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"strongroom/internal/backupset"
	"strongroom/test/harness"
)

// lies are the backups in a folder, by the names of their own folders: those that are finished, each of which is verified, and
// those that are not, which verify says too.
func lies(t *testing.T, s *harness.Server, place string) (finished, unfinished []string) {
	t.Helper()
	if _, err := os.Stat(place); os.IsNotExist(err) {
		return nil, nil
	}
	var list []struct {
		Backup, Code, Problem string
		Finished              bool
	}
	out := s.Run(t, "backup", "list", "--in", place, "--output", "json")
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		t.Fatalf("backup list --in printed %q", out)
	}
	for _, b := range list {
		name := filepath.Base(b.Backup)
		said, err := s.Try("backup", "verify", filepath.Join(place, name))
		switch {
		case b.Finished && err == nil:
			finished = append(finished, name)
		case !b.Finished && b.Code == backupset.Unfinished && err != nil && strings.Contains(said, "never finished"):
			unfinished = append(unfinished, name)
		default:
			t.Fatalf("%s is listed as %+v, and verify says %v: %s", name, b, err, said)
		}
	}
	return finished, unfinished
}

// Covers R2: struck down at each durable step of a full backup into a folder, by kill -9 or a power cut, what lies there is a backup
// that is whole or one that says that it was never finished, and a backup that a job calls done is whole.
func TestBackupAtEachStep(t *testing.T) {
	b := prepareBackup(t, 6, development)
	for _, d := range disks {
		t.Run(d.name, func(t *testing.T) {
			place := func(s *harness.Server) string { return filepath.Join(s.Dir, "backups", "east", "nightly") } // neither is there
			act := func(s *harness.Server, _ string) error {
				if out, err := s.Try("backup", "start", "--url", s.Env["STRONGROOM_HSM_ALPHA_URL"], "--to", place(s)); err != nil {
					return fmt.Errorf("%w: %s", err, out)
				}
				return nil
			}
			count := map[string]int{}
			check := func(t *testing.T, s *harness.Server, _ string, acknowledged bool) {
				alpha := s.URL(t, "alpha")
				finished, unfinished := lies(t, s, place(s))
				count["finished"] += len(finished)
				count["unfinished"] += len(unfinished)
				var jobs []struct{ Kind, Status, Code, Backup string }
				out := s.Run(t, "backup", "list", "--url", alpha, "--output", "json")
				if err := json.Unmarshal([]byte(out), &jobs); err != nil || len(jobs) == 0 {
					t.Fatalf("backup list printed %q", out)
				}
				said := 0
				for _, j := range jobs {
					name := filepath.Base(j.Backup)
					if j.Status != "Succeeded" || name == b.folder { // that one lies elsewhere
						continue
					}
					if said++; !slices.Contains(finished, name) {
						t.Fatalf("a job says that the backup %s is done; there are %q, and unfinished %q", name, finished, unfinished)
					}
				}
				if count["done"] += said; acknowledged && said == 0 {
					t.Fatalf("the backup was answered, and the jobs are %+v", jobs)
				}
				if err := act(s, ""); err != nil { // again, beside what there is
					t.Fatal(err)
				}
				if again, left := lies(t, s, place(s)); len(again) != len(finished)+1 || !slices.Equal(left, unfinished) {
					t.Fatalf("after another one there are %q, and unfinished %q; before there were %q and %q", again, left, finished, unfinished)
				}
			}
			eachStep(t, d, b.copyTo, act, check)
			if t.Log(count); count["finished"] == 0 || count["unfinished"] == 0 || count["done"] == 0 {
				t.Errorf("no death came before the manifest, or none after it: %v", count)
			}
		})
	}
}
