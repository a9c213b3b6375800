package cli

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"strongroom/internal/api"
	"strongroom/internal/backupset"
	"strongroom/internal/client"
	"strongroom/internal/custodian"
	"strongroom/secret"
	"strongroom/securitydomain"
)

func goldenFile(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("../../testdata/securitydomain", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func goldenCertificates(t *testing.T, names ...string) (list []*x509.Certificate) {
	t.Helper()
	for _, name := range names {
		certs, err := custodian.ParseCertificates(goldenFile(t, name))
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, certs...)
	}
	return list
}

// A server that answers a download with something else than what was asked for is caught at once, and not on the
// day of recovery.
func TestVerifyDownload(t *testing.T) {
	file := goldenFile(t, "n3-m2/security-domain.json")
	own := []string{"n3-m2/custodian-01.cer", "n3-m2/custodian-02.cer", "n3-m2/custodian-03.cer"}
	for name, tc := range map[string]struct {
		file   []byte
		certs  []string
		quorum int
		want   string
	}{
		"as asked for":               {file, own, 2, ""},
		"in another order":           {file, []string{own[2], own[0], own[1]}, 2, ""},
		"another quorum":             {file, own, 3, "it is for a quorum of 2, not of 3"},
		"somebody else as custodian": {file, []string{own[0], own[1], "n5-m3/custodian-01.cer"}, 2, "it is for other custodians"},
		"one custodian more":         {file, append(own, "n5-m3/custodian-01.cer"), 2, "it is for other custodians"},
		"one custodian fewer":        {file, own[:2], 2, "it is for other custodians"},
		"no SD file":                 {[]byte(`{}`), own, 2, "the SD file has neither"},
		"a damaged share":            {[]byte(strings.Replace(string(file), `"enc_key": "`, `"enc_key": "!`, 1)), own, 2, "custodian 1: the share "},
	} {
		t.Run(name, func(t *testing.T) {
			if string(tc.file) == string(file) && name == "a damaged share" {
				t.Fatal("the file was not damaged")
			}
			_, err := verifyDownload(tc.file, goldenCertificates(t, tc.certs...), tc.quorum)
			if (err == nil) != (tc.want == "") || err != nil && !strings.HasPrefix(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}

// Between the look beforehand and the writing somebody else may have made the file: it is still not written over.
func TestWriteFileNeverReplaces(t *testing.T) {
	path := filepath.Join(t.TempDir(), "SD.json")
	if err := writeFile(path, []byte("first"), secretFile, false); err != nil {
		t.Fatal(err)
	}
	if err := writeFile(path, []byte("second"), secretFile, false); err == nil || explain(err).code != "file-exists" {
		t.Errorf("got %v", err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "first" {
		t.Errorf("the file holds %q, %v", b, err)
	}
	if err := writeFile(path, []byte("third"), secretFile, true); err != nil {
		t.Errorf("with force: %v", err)
	}
	if err := writeFile(filepath.Join(path, "x"), nil, secretFile, false); err == nil || explain(err).code != "file-error" {
		t.Errorf("a file as folder: got %v", err)
	}
}

func TestTokenFile(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	file := tokenFile{path: filepath.Join(t.TempDir(), "a", "tokens.json"), now: func() time.Time { return now }}
	token := func(id, scope, access string, left time.Duration) client.Token {
		return client.Token{Authority: "https://a", Tenant: "t", ClientID: id, Scope: scope, Access: secret.New([]byte(access)), Expires: now.Add(left)}
	}
	if err := file.add([]client.Token{token("ada", "s1", "one", time.Hour), token("ada", "s2", "two", time.Minute)}); err != nil {
		t.Fatal(err)
	}
	if err := file.add([]client.Token{token("grace", "s1", "three", time.Hour), token("ada", "s1", "four", time.Hour)}); err != nil {
		t.Fatal(err)
	}
	now = now.Add(10 * time.Minute)
	for name, tc := range map[string]struct{ authority, tenant, id, scope, want string }{
		"the newest of one application": {"https://a", "t", "ada", "s1", "four"},
		"another application":           {"https://a", "t", "grace", "s1", "three"},
		"whoever signed in last":        {"", "", "", "s1", "three"},
		"another authority":             {"https://b", "", "", "s1", ""},
		"another tenant":                {"", "u", "", "s1", ""},
		"one that has run out":          {"https://a", "t", "ada", "s2", ""},
		"another scope":                 {"", "", "", "s3", ""},
	} {
		t.Run(name, func(t *testing.T) {
			got, ok := file.Get(tc.authority, tc.tenant, tc.id, tc.scope)
			if ok != (tc.want != "") || string(got.Access.Reveal()) != tc.want {
				t.Errorf("got %q, %v, want %q", got.Access.Reveal(), ok, tc.want)
			}
		})
	}
	info, err := os.Stat(file.path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v; want 0600", info.Mode(), err)
	}

	// It is only a cache: a file that is not understood is empty, and login writes a new one.
	if err := os.WriteFile(file.path, []byte("hello"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, ok := file.Get("", "", "", "s1"); ok {
		t.Error("a token came out of a file without one")
	}
	var many []client.Token
	for i := range maxTokens + 10 {
		many = append(many, token("ada", fmt.Sprint("s", i), "x", time.Hour))
		if err := file.add(many[i:]); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(file.load().Tokens); n != maxTokens {
		t.Errorf("%d tokens are kept, want %d", n, maxTokens)
	}
}

// What comes from a file or a server cannot steer the terminal.
func TestOneLine(t *testing.T) {
	for name, tc := range map[string]struct{ in, want string }{
		"plain":              {"grace hopper", "grace hopper"},
		"another script":     {"Ада Лавлейс", "Ада Лавлейс"},
		"lines":              {"a\r\nb\tc", "a  b c"},
		"escape sequences":   {"a\x1b[2J\u009b31mb\x07", "a[2J31mb"},
		"direction switches": {"a\u202egnp.exe\u2066\u200f", "agnp.exe"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := oneLine(tc.in); got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

// Each kind of failure has its code and, where there is something to do, the way out.
func TestExplain(t *testing.T) {
	for name, tc := range map[string]struct {
		err  error
		code string
		next string // part of it; "" for none
	}{
		"interrupted":              {fmt.Errorf("x: %w", context.Canceled), "interrupted", ""},
		"no credentials":           {client.ErrNoCredentials, "no-credentials", "strongroom login"},
		"no issuer":                {client.ErrNoIssuer, "no-issuer", "--tenant"},
		"a wrong address":          {client.ErrAddress, "bad-address", "address"},
		"a token that is refused":  {&client.Error{Status: 401, Code: "Unauthorized"}, "Unauthorized", "sign in anew"},
		"no HSM":                   {client.ErrAnswer, "bad-answer", "--url"},
		"no right to a file":       {&fs.PathError{Op: "open", Path: "x", Err: fs.ErrPermission}, "permission-denied", "rights"},
		"wrong client secret":      {&client.Error{Status: 401, Code: "invalid_client"}, "invalid_client", "secret"},
		"not activated":            {&client.Error{Status: 403, Code: "HsmNotActivated"}, "HsmNotActivated", "domain download"},
		"another domain":           {&client.Error{Status: 409, Code: "SecurityDomainMismatch"}, "SecurityDomainMismatch", "domain status"},
		"no role":                  {&client.Error{Status: 403, Code: "AccessDenied"}, "AccessDenied", "role"},
		"no such key":              {&client.Error{Status: 404, Code: "KeyNotFound"}, "KeyNotFound", "key list"},
		"no code":                  {&client.Error{Status: 502}, "http-502", ""},
		"too few shares":           {&securitydomain.Error{Kind: securitydomain.TooFewShares}, "too-few-shares", "domain inspect"},
		"not a custodian":          {&securitydomain.Error{Kind: securitydomain.NotACustodian}, "not-a-custodian", "domain inspect"},
		"a bad quorum":             {&securitydomain.Error{Kind: securitydomain.BadQuorum}, "bad-quorum", "at least 2"},
		"a bad custodian":          {&securitydomain.Error{Kind: securitydomain.BadCustodian}, "bad-custodian", "custodian new"},
		"the wrong exchange key":   {&securitydomain.Error{Kind: securitydomain.WrongExchangeKey}, "wrong-exchange-key", "init-recovery"},
		"a damaged share":          {&securitydomain.Error{Kind: securitydomain.ShareDamaged}, "share-damaged", "another copy"},
		"shares do not match":      {&securitydomain.Error{Kind: securitydomain.SharesDoNotMatch}, "shares-do-not-match", "another copy"},
		"a damaged item":           {&securitydomain.Error{Kind: securitydomain.ItemDamaged}, "item-damaged", "another copy"},
		"a later version":          {&securitydomain.Error{Kind: securitydomain.UnsupportedVersion}, "unsupported-version", "inspect"},
		"malformed":                {&securitydomain.Error{Kind: securitydomain.Malformed}, "malformed", ""},
		"a certificate for a key":  {keyProblem("a", custodian.ErrIsCertificate), "bad-key", ".key file"},
		"no PEM":                   {keyProblem("a", custodian.ErrNotPEM), "bad-key", "openssl pkey"},
		"a passphrase is needed":   {keyProblem("a", custodian.ErrPassphraseNeeded), "passphrase-needed", "--passphrase-file"},
		"a wrong passphrase":       {keyProblem("a", custodian.ErrPassphraseWrong), "passphrase-wrong", "check the passphrase"},
		"weak encryption":          {keyProblem("a", custodian.ErrWeakEncryption), "bad-key", "openssl pkcs8 -topk8"},
		"unknown encryption":       {keyProblem("a", custodian.ErrEncryption), "bad-key", "openssl pkcs8 -topk8"},
		"costly encryption":        {keyProblem("a", custodian.ErrCostlyEncryption), "bad-key", "openssl pkcs8 -topk8"},
		"an EC key":                {keyProblem("a", custodian.ErrNotRSA), "bad-key", "custodian new"},
		"a small key":              {keyProblem("a", custodian.ErrWeakKey), "bad-key", "custodian new"},
		"a damaged key":            {keyProblem("a", custodian.ErrMalformed), "bad-key", ""},
		"a key for a certificate":  {certificateProblem("a", custodian.ErrIsPrivateKey), "bad-certificate", ".cer file"},
		"no certificate":           {certificateProblem("a", custodian.ErrNotCertificate), "bad-certificate", "BEGIN CERTIFICATE"},
		"anything else":            {errors.New("x"), "failed", ""},
		"a file that is not there": {fileProblem(fs.ErrNotExist), "no-such-file", "path"},
	} {
		t.Run(name, func(t *testing.T) {
			p := explain(tc.err)
			if p.code != tc.code {
				t.Errorf("code %q, want %q", p.code, tc.code)
			}
			if (p.next == "") != (tc.next == "") || !strings.Contains(p.next, tc.next) {
				t.Errorf("next %q, want %q in it", p.next, tc.next)
			}
		})
	}
}

// Every flag that names a secret names a file: no flag takes one. Covers S14.
func TestNoFlagTakesASecret(t *testing.T) {
	root := (&app{getenv: func(string) string { return "" }, environ: func() []string { return nil }}).root()
	commands, flags := 0, 0
	todo := root.Commands()
	for len(todo) > 0 {
		cmd := todo[0]
		todo = append(todo[1:], cmd.Commands()...)
		commands++
		for _, name := range []string{"passphrase", "password", "secret", "client-secret", "token", "pin"} {
			if cmd.Flags().Lookup(name) != nil {
				t.Errorf("%s has --%s", cmd.CommandPath(), name)
			}
		}
		for _, name := range []string{"passphrase-file", "client-secret-file", "seal-passphrase-file"} {
			if f := cmd.Flags().Lookup(name); f != nil {
				flags++
				if !strings.Contains(f.Usage, "file") {
					t.Errorf("%s --%s does not say that it names a file", cmd.CommandPath(), name)
				}
			}
		}
	}
	if commands < 20 || flags < 10 {
		t.Errorf("only %d commands and %d flags were looked at", commands, flags)
	}
}

// Every command that does something shows how, with a line that it takes.
func TestExamples(t *testing.T) {
	root := (&app{getenv: func(string) string { return "" }, environ: func() []string { return nil }}).root()
	commands := 0
	todo := root.Commands()
	for len(todo) > 0 {
		cmd := todo[0]
		todo = append(todo[1:], cmd.Commands()...)
		if cmd.HasSubCommands() && !cmd.LocalNonPersistentFlags().HasFlags() || !cmd.Runnable() { // one that only holds others has no flags
			continue
		}
		commands++
		if cmd.Example == "" {
			t.Errorf("%s has no example", cmd.CommandPath())
		}
		for line := range strings.Lines(cmd.Example) {
			found, rest, err := root.Find(words(line)[1:])
			if err != nil || found != cmd {
				t.Errorf("%q is no example of %s (%v)", line, cmd.CommandPath(), err)
				continue
			}
			if err := cmd.ParseFlags(rest); err != nil {
				t.Errorf("%q: %v", line, err)
			}
			if err := cmd.ValidateArgs(cmd.Flags().Args()); err != nil {
				t.Errorf("%q: %v", line, err)
			}
		}
	}
	if commands != len(examples) {
		t.Errorf("%d commands and %d with examples", commands, len(examples))
	}
}

// A pipe that nobody writes to does not keep a command from being interrupted.
func TestReadFileIsInterrupted(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := readFile(ctx, fmt.Sprintf("/dev/fd/%d", r.Fd()), 10); !errors.Is(err, context.Canceled) {
		t.Errorf("a pipe as file: got %v, want %v", err, context.Canceled)
	}
	if _, err := (&app{in: r}).digest(ctx, "-", "ES256"); !errors.Is(err, context.Canceled) {
		t.Errorf("standard input: got %v, want %v", err, context.Canceled)
	}
	if _, err := (&app{in: r}).readInput(ctx, standard, 10); !errors.Is(err, context.Canceled) {
		t.Errorf("standard input, read whole: got %v, want %v", err, context.Canceled)
	}
}

// Whoever gives up while a key is made gets none. Covers S14.
func TestInterruptedCustodianNew(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	dir := t.TempDir()
	a := &app{out: io.Discard, err: io.Discard, now: time.Now, rand: rand.Reader, getenv: os.Getenv, format: formatTable}
	if err := a.custodianNew(ctx, "ada", 2048, "", false, dir, false); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("the folder holds %v, %v", left, err)
	}
}

func TestReadEnv(t *testing.T) {
	path := filepath.Join(t.TempDir(), "dev.env")
	if err := os.WriteFile(path, []byte("# a comment\nA=1\nB='it'\\''s'\nC=\n\nnonsense\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := readEnv(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(map[string]string{"A": "1", "B": "it's", "C": ""}, got); d != "" {
		t.Error(d)
	}
}

// Where there is no terminal, long work is told of in a plain line now and then, and programs that asked for JSON are not told.
func TestMeterInALog(t *testing.T) {
	var log bytes.Buffer
	now := time.Date(2026, 11, 25, 9, 0, 0, 0, time.UTC)
	a := &app{err: &log, now: func() time.Time { return now }, getenv: os.Getenv, format: formatTable}
	work := func() string {
		log.Reset()
		m := a.meter("verifying")
		for i := range int64(100) {
			now = now.Add(time.Second)
			m.set(backupset.Progress{Records: i, Bytes: i, Of: 100})
		}
		m.step("restore the backup")
		details, running := "7 records, 50 of 200 bytes", api.RestoreOperation{Status: "InProgress"}
		running.StatusDetails = &details
		m.job(running)
		now = now.Add(plainEvery)
		m.job(running)
		m.job(api.RestoreOperation{Status: "Succeeded", StatusDetails: &details})
		m.done()
		return log.String()
	}
	want := ""
	for i := 9; i < 100; i += 10 {
		want += fmt.Sprintf("verifying %d %%  %d records\n", i, i)
	}
	want += "restore the backup …\nrestore the backup 25 %  7 records\n"
	if d := cmp.Diff(want, work()); d != "" {
		t.Error(d)
	}
	a.format = formatJSON
	if got := work(); got != "" {
		t.Errorf("with JSON: %q", got)
	}
}
