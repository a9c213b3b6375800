package server

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"strongroom/internal/failure"
	"strongroom/internal/target"
)

// What a target says of a failure reaches whoever asks how the job stands, and nothing else of it does.
func TestTargetsSayWhatIsWrong(t *testing.T) {
	cause := &target.Error{Op: "create x", Where: "https://a.example/c", Why: "the store does not allow it", Kind: fs.ErrExist}
	f, is := errors.AsType[*failure.Error](shown(cause))
	if !is || f.Kind != failure.Unavailable || f.Message != cause.Why || !errors.Is(f, fs.ErrExist) {
		t.Errorf("shown as %#v", f)
	}
	if err := shown(io.EOF); err != io.EOF {
		t.Errorf("the end of an object became %v", err)
	}
}

// Schedules are read with their defaults, and what cannot work is refused before anything is made.
func TestSchedulesAreChecked(t *testing.T) {
	load := func(text string) (Config, error) {
		return loadConfig(Options{DataDir: t.TempDir(), ConfigFile: writeFile(t, filepath.Join(t.TempDir(), "c.toml"), "[identity]\nembedded = true\n[backup]\nfolders = ['/var/backups']\nallowed_hosts = ['*.blob.example.org']\n"+text)})
	}
	const good = "[[backup.schedule]]\nhsm = 'alpha'\nto = 'file:///var/backups/a'\nevery = '24h'\n"
	token := filepath.Join(t.TempDir(), "sas")
	c, err := load(good + "[[backup.schedule]]\nhsm = 'alpha'\nto = 'https://x.blob.example.org/c/'\nevery = '90m'\nkeep = 3\nsas_file = '" + token + "'\n")
	must(t, err)
	list, err := c.schedules(false)
	must(t, err)
	if len(list) != 2 || list[0].Keep != 7 || list[0].Every != 24*time.Hour || list[1].Keep != 3 || list[1].URI != "https://x.blob.example.org/c" {
		t.Fatalf("read as %+v", list)
	}
	if _, err := list[1].Target(); err == nil {
		t.Error("a token file that is not there")
	}
	must(t, os.WriteFile(token, []byte("?sv=1&sig=x\n"), 0o644))
	if _, err := list[1].Target(); err == nil || !strings.Contains(err.Error(), "chmod") {
		t.Errorf("a token file that everybody reads: %v", err)
	}
	must(t, os.Chmod(token, 0o600))
	if got, err := list[1].Target(); err != nil || string(got.Token.Reveal()) != "sv=1&sig=x" || got.URI != list[1].URI {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := list[0].Target(); err != nil || got.Token.Len() != 0 {
		t.Errorf("%+v, %v", got, err)
	}
	for name, change := range map[string][2]string{
		"no HSM":              {"hsm = 'alpha'", ""},
		"a name that is none": {"'alpha'", "'a b'"},
		"a foreign folder":    {"/var/backups/a", "/etc"},
		"a foreign host":      {"file:///var/backups/a", "https://evil.example/c"},
		"no token":            {"file:///var/backups/a", "https://x.blob.example.org/c"},
		"a token too many":    {"every", "sas_file = 'x'\nevery"},
		"no time":             {"every = '24h'", ""},
		"too often":           {"24h", "1s"},
		"too seldom":          {"24h", "9000h"},
		"less than one":       {"every", "keep = -1\nevery"},
		"twice":               {good, good + good},
		"an unknown setting":  {"every", "colour = 'red'\nevery"},
	} {
		if _, err := load(strings.Replace(good, change[0], change[1], 1)); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
}
