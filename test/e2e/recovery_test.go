package e2e_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"strongroom/test/harness"
)

// step is a shell block of a page, and what the page says that it prints.
type step struct{ commands, prints string }

// steps returns all blocks of a page in their order: those of commands, and those of kind text, each of which tells what
// the one before it prints.
func steps(t *testing.T, page string) (list []step) {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	fence := regexp.MustCompile("(?ms)^```([a-z]*)\n(.*?)^```\n")
	for _, m := range fence.FindAllStringSubmatch(string(text), -1) {
		switch {
		case m[1] == "":
			list = append(list, step{commands: m[2]})
		case m[1] == "text" && len(list) > 0 && list[len(list)-1].prints == "":
			list[len(list)-1].prints = m[2]
		default:
			t.Fatalf("%s: a block of kind %q where none can be:\n%s", page, m[1], m[2])
		}
	}
	return list
}

// like is a line of a page as an expression: … stands for anything, and any number of spaces for any other.
func like(line string) *regexp.Regexp {
	var words []string
	for _, word := range strings.Fields(line) {
		words = append(words, strings.ReplaceAll(regexp.QuoteMeta(word), "…", ".*"))
	}
	return regexp.MustCompile(`(?m)` + strings.Join(words, `\s+`))
}

const recoveryPage = "../../docs/recovery.md"

// The guide for the worst day, every command of it as it stands there, each printing what the page says that it prints;
// then every refusal that the page explains is brought about, in the words of the page.
func TestRecoveryPage(t *testing.T) {
	dir, s := workplace(t)
	list := steps(t, recoveryPage)
	out := follow(t, s, exec.Command("bash"), dir, list, "echo '=== refusals'\n"+refusals)
	told(t, list, out)

	_, refused, _ := strings.Cut(out, "=== refusals\n")
	text, err := os.ReadFile(recoveryPage)
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(text), "\n## When a step refuses\n")
	table, _, _ = strings.Cut(table, "\n## ")
	rows := regexp.MustCompile("(?m)^\\| `(.*?)` \\|").FindAllStringSubmatch(table, -1)
	if len(rows) < 10 {
		t.Fatalf("the page explains %d refusals", len(rows))
	}
	for _, row := range rows {
		if !like(row[1]).MatchString(refused) {
			t.Errorf("no refusal says %q:\n%s", row[1], refused)
		}
	}
}

// The same guide where backups lie in a container of Azure Blob Storage: no more is changed than the page says.
func TestRecoveryPageWithAContainer(t *testing.T) {
	dir := tree(t)
	s, storage := startWithStorage(t, filepath.Join(dir, "data"))
	container := storage.NewContainer(t, "backups")
	list := steps(t, recoveryPage)
	changed := 0
	for i := range list {
		if commands := strings.ReplaceAll(list[i].commands, "data/backups", container); commands != list[i].commands {
			list[i].commands = commands
			changed++
		}
	}
	if changed != 2 {
		t.Errorf("%d blocks of the page name the place of the backups, want 2: the rehearsal, and where things are said once", changed)
	}
	// The commands that ask no server go to the container themselves.
	cmd := underHosts(t, storage.URL(), "bash")
	cmd.Env = []string{"STRONGROOM_SAS_TOKEN=" + storage.Token(t, "backups", "racwdl"), "SSL_CERT_FILE=" + storage.CAFile}
	told(t, list, follow(t, s, cmd, dir, list, ""))
}

// follow runs the commands of a page in one shell, and returns what they print, each block after a line "=== N".
func follow(t *testing.T, s *harness.Server, shell *exec.Cmd, dir string, list []step, more string) string {
	t.Helper()
	if len(list) < 20 {
		t.Fatalf("the page has %d blocks of commands", len(list))
	}
	var script strings.Builder
	for i, b := range list {
		fmt.Fprintf(&script, "echo '=== %d'\n%s", i, b.commands)
	}
	shell.Args = append(shell.Args, "-euo", "pipefail", "-c", "exec 2>&1\n"+script.String()+more)
	shell.Dir = dir
	shell.Env = append(append(os.Environ(), "HOME="+t.TempDir()), shell.Env...)
	out, err := shell.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s\nserver log:\n%s", err, out, s.Log)
	}
	return string(out)
}

// told wants each block to have printed what the page says, line by line in its order.
func told(t *testing.T, list []step, out string) {
	t.Helper()
	for i, b := range list {
		_, said, _ := strings.Cut(out, fmt.Sprintf("=== %d\n", i))
		said, _, _ = strings.Cut(said, "\n=== ")
		rest := said
		for line := range strings.Lines(b.prints) {
			at := like(line).FindStringIndex(rest)
			if at == nil {
				t.Errorf("%s\ndoes not print, at its place:\n%s\nIt printed:\n%s", b.commands, line, said)
				break
			}
			rest = rest[at[1]:]
		}
	}
}

// refusals brings about what the page explains, at its end: phoenix is restored, and beta and gamma are there.
const refusals = `
refused() { if "$@"; then echo "$* went well"; exit 1; fi; }
mkdir elsewhere other
cp -r $BACKUP elsewhere
damaged=elsewhere/$(basename $BACKUP)
printf x | dd conv=notrunc bs=1 seek=200 of=$damaged/part-000001 status=none
refused strongroom backup verify $damaged --domain $SD
refused strongroom restore start --from $damaged
refused strongroom restore start --from https://another.blob.core.windows.net/backups/$(basename $BACKUP)
(umask 077; echo 'sv=2021-06-08&sig=AAAA' > sas)
refused strongroom restore start --from https://another.blob.core.windows.net/backups/$(basename $BACKUP) --sas-file sas
refused strongroom restore start --from $BACKUPS/mhsm-alpha-2026010100000000
cp -r $BACKUP elsewhere/mhsm-alpha-2099010100000000
refused strongroom backup verify elsewhere/mhsm-alpha-2099010100000000 --domain $SD
rm elsewhere/mhsm-alpha-2099010100000000/manifest
refused strongroom backup verify elsewhere/mhsm-alpha-2099010100000000 --domain $SD
refused strongroom domain restore-blob --sd $SD --exchange exchange.cer --key ceremony/ann.key --out no.json
refused strongroom domain init-recovery --out no.cer
refused strongroom restore start --from $BACKUP --key invoices
refused strongroom restore start --url $STRONGROOM_HSM_BETA_URL --from $BACKUP
strongroom domain init-recovery --url $STRONGROOM_HSM_BETA_URL --out beta.cer
refused strongroom domain upload --url $STRONGROOM_HSM_BETA_URL --blob transfer.json
strongroom domain cancel-recovery --url $STRONGROOM_HSM_BETA_URL
for name in dee eva fay; do strongroom custodian new $name --bits 2048 --out other; done
strongroom domain download --url $STRONGROOM_HSM_BETA_URL --quorum 2 --out other/SD.json --custodian other/dee.cer --custodian other/eva.cer --custodian other/fay.cer
refused strongroom backup verify $BACKUP --domain other/SD.json
refused strongroom restore start --url $STRONGROOM_HSM_BETA_URL --from $BACKUP
test ! -e no.json -a ! -e no.cer
`
