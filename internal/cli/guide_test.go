package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Every command in the guide for custodians stands in a script, word for word, so that it is tested.
func TestCeremonyGuide(t *testing.T) { guideIsTested(t, "../../docs/ceremony.md", 15) }

// And so does every command in the guide for auditors.
func TestAuditGuide(t *testing.T) { guideIsTested(t, "../../docs/audit.md", 8) }

// And in the one about backups.
func TestBackupGuide(t *testing.T) { guideIsTested(t, "../../docs/backup.md", 13) }

func guideIsTested(t *testing.T, path string, atLeast int) {
	t.Helper()
	guide, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob("testdata/script/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts (%v)", err)
	}
	tested := map[string]bool{}
	for _, file := range files {
		script, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(script)) {
			line = strings.TrimSpace(line)
			if strings.HasSuffix(line, "&") { // exec … &name&
				line = strings.TrimSpace(line[:strings.LastIndex(line[:len(line)-1], "&")])
			}
			if command, ok := strings.CutPrefix(line, "exec "); ok {
				tested[command] = true
			}
		}
	}
	inBlock, commands := false, 0
	for line := range strings.Lines(string(guide)) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "```") {
			inBlock = line == "```sh"
			continue
		}
		if !inBlock || !strings.HasPrefix(line, "strongroom ") {
			continue
		}
		commands++
		if !tested[line] {
			t.Errorf("no script runs: %s", line)
		}
	}
	if commands < atLeast {
		t.Errorf("only %d commands were found in the guide", commands)
	}
}
