package drill

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"strongroom/internal/statement"
	"strongroom/securitydomain"
)

// goldenReport is what the report in testdata says.
func goldenReport(domain string) *Report {
	at := func(second int) time.Time { return time.Date(2026, 11, 25, 10, 0, second, 0, time.UTC) }
	return &Report{
		Format: "strongroom-drill-report", Version: 1, Domain: domain, Program: "strongroom/1.0", Passed: false, Started: at(0), Finished: at(3),
		Backup: Backup{Place: "/srv/backups", Folder: "mhsm-alpha-2026112503000000", ID: strings.Repeat("0a", 16), HSM: "alpha", HSMID: "22222222-2222-4222-8222-222222222222",
			Created: time.Date(2026, 11, 25, 3, 0, 0, 0, time.UTC)},
		Required: 2, Custodians: []Custodian{{1, "ada", "one"}, {3, "cy <&>", "three"}}, NotExercised: []Custodian{{2, "", "two"}},
		Steps:           []Step{{"open-domain", 120, true}, {"make-hsm", 11, true}, {"recover", 131, true}, {"restore", 36, true}, {"use", 6, true}},
		RecoverySeconds: 1, AgeSeconds: 25200, Keys: 3, Versions: 4, Proven: 3, Unchecked: 1,
		Findings: []Finding{{Step: "use", Key: "invoices", Version: strings.Repeat("1", 32), Code: "KeyMissing", Reason: "is in the backup's inventory, and missing after the restore"}},
	}
}

func golden(t testing.TB) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", "report-v1.jws"))
	if err != nil {
		t.Fatal(err)
	}
	return bytes.TrimSuffix(text, []byte("\n"))
}

// A report that was made when the format was new holds for ever, and says what it said.
func TestGoldenReport(t *testing.T) {
	r, err := Verify(golden(t))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(goldenReport(r.Domain), r); d != "" {
		t.Error(d)
	}
}

func domain(t testing.TB) (*ecdsa.PrivateKey, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	id, err := securitydomain.DomainID(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return key, id
}

func signed(t testing.TB, key *ecdsa.PrivateKey, typ string, payload []byte) []byte {
	t.Helper()
	jws, _, err := statement.Sign(key, typ, payload)
	if err != nil {
		t.Fatal(err)
	}
	return jws
}

// Not all that a domain signs is a report of a drill, and not all that looks like one is one.
func TestVerifyRefuses(t *testing.T) {
	key, id := domain(t)
	encode := func(change func(*Report)) []byte {
		r := goldenReport(id)
		change(r)
		payload, err := r.encode()
		if err != nil {
			t.Fatal(err)
		}
		return payload
	}
	if _, err := Verify(signed(t, key, ReportType, encode(func(*Report) {}))); err != nil {
		t.Fatalf("a good one: %v", err)
	}
	indented := new(bytes.Buffer)
	if err := json.Indent(indented, encode(func(*Report) {}), "", " "); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		payload []byte
		typ     string
		want    string
	}{
		"another statement":        {encode(func(*Report) {}), "strongroom-backup-manifest+jws", "it is signed as something else"},
		"of another domain":        {encode(func(r *Report) { r.Domain = strings.Repeat("0", 64) }), "", "it names the security domain 000"},
		"no domain":                {encode(func(r *Report) { r.Domain = "X" }), "", "it names no security domain"},
		"a newer version":          {encode(func(r *Report) { r.Version = 2 }), "", ErrNewer.Error() + ", 2, and this program reads 1 to 1"},
		"another format":           {encode(func(r *Report) { r.Format = "x" }), "", "what it says is not the report of a drill"},
		"not JSON":                 {[]byte("hello"), "", "what it says is malformed"},
		"another type":             {[]byte(`{"format":"strongroom-drill-report","version":1,"steps":7}`), "", "what it says is malformed"},
		"spelled otherwise":        {indented.Bytes(), "", "what it says is not spelled as it has to be"},
		"a member too many":        {append([]byte(`{"x":1,`), encode(func(*Report) {})[1:]...), "", "what it says is not spelled as it has to be"},
		"it ended before it began": {encode(func(r *Report) { r.Finished = r.Started.Add(-time.Second) }), "", "its times are none"},
		"more proven than there":   {encode(func(r *Report) { r.Proven = 5 }), "", "its numbers are none"},
		"passed with a finding":    {encode(func(r *Report) { r.Passed = true }), "", "it says that the drill passed, and its own account says otherwise"},
		"passed without all":       {encode(func(r *Report) { r.Passed, r.Findings = true, []Finding{} }), "", "it says that the drill passed, and its own account says otherwise"},
		"passed with a step short": {encode(func(r *Report) {
			r.Passed, r.Findings, r.Proven, r.Steps[1].Done = true, []Finding{}, 4, false
		}), "", "it says that the drill passed, and its own account says otherwise"},
		"failed for no reason": {encode(func(r *Report) { r.Findings = []Finding{} }), "", "it says that the drill failed, and not why"},
		"no list":              {encode(func(r *Report) { r.Findings = nil }), "", "a list in it is none"},
	} {
		t.Run(name, func(t *testing.T) {
			typ := tc.typ
			if typ == "" {
				typ = ReportType
			}
			r, err := Verify(signed(t, key, typ, tc.payload))
			if err == nil || r != nil || !strings.HasPrefix(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
	if _, err := Verify(make([]byte, MaxReport+1)); err == nil || !strings.HasPrefix(err.Error(), "it is longer") {
		t.Errorf("too long: %v", err)
	}
	if _, err := Verify(signed(t, key, ReportType, encode(func(r *Report) { r.Version = 7 }))); !errors.Is(err, ErrNewer) {
		t.Errorf("newer: %v", err)
	}
}

// However much is wrong, the report can be read.
func TestReportsAreBounded(t *testing.T) {
	key, id := domain(t)
	r := goldenReport(id)
	for range 3 * maxFindings {
		r.amiss(Finding{Step: "use", Key: strings.Repeat("k", 127), Version: strings.Repeat("1", 32), Code: "KeyWrong", Reason: strings.Repeat("ä\xff", maxReason)})
	}
	if len(r.Findings) != maxFindings || r.More != 2*maxFindings+1 {
		t.Errorf("%d findings, and %d more", len(r.Findings), r.More)
	}
	payload, err := r.encode()
	if err != nil {
		t.Fatal(err)
	}
	if again, err := Verify(signed(t, key, ReportType, payload)); err != nil || again.More != r.More {
		t.Errorf("%d bytes: %v", len(payload), err)
	}
}

// FuzzVerify: a report that somebody else than the domain wrote or changed does not hold.
func FuzzVerify(f *testing.F) {
	golden := golden(f)
	f.Add(golden)
	f.Add(golden[:len(golden)-1])
	f.Add([]byte("e30.e30.AAAA"))
	f.Fuzz(func(t *testing.T, jws []byte) {
		if _, err := Verify(jws); err == nil && !bytes.Equal(jws, golden) {
			t.Errorf("%q holds", jws)
		}
	})
}

// FuzzPayload: what a domain signs is a report in one spelling, or refused.
func FuzzPayload(f *testing.F) {
	payload, err := goldenReport(strings.Repeat("0", 64)).encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(payload)
	f.Add([]byte(`{"format":"strongroom-drill-report","version":1}`))
	f.Fuzz(func(t *testing.T, payload []byte) {
		r, err := parse(payload)
		if err != nil {
			return
		}
		if again, err := r.encode(); err != nil || !bytes.Equal(again, payload) {
			t.Errorf("%q is read, and written as %q", payload, again)
		}
	})
}
