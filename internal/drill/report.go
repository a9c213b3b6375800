package drill

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"strongroom/internal/statement"
	"strongroom/internal/strictjson"
)

// ReportType is the typ of a report's JWS, so that no other statement of the domain can pass for one.
const ReportType = "strongroom-drill-report+jws"

const (
	reportFormat  = "strongroom-drill-report"
	reportVersion = 1

	// MaxReport is in bytes, of a report as it is kept.
	MaxReport   = 2 << 20
	maxFindings = 1000 // that a report describes; what is beyond is counted
	maxReason   = 1000 // bytes, of one text
)

// Report says how a drill went: the payload of a statement of the domain that was recovered. It has one spelling, the members in
// this order without white space.
type Report struct {
	Format  string `json:"format"`  // strongroom-drill-report
	Version int    `json:"version"` // 1
	Domain  string `json:"domain"`  // ID of the domain, which signs
	Program string `json:"program"` // what held the drill
	// Passed is true if the backup was restored and each version of each key in it did what it should.
	Passed bool `json:"passed"`

	Started  time.Time `json:"started"` // UTC, whole seconds
	Finished time.Time `json:"finished"`

	Backup Backup `json:"backup"`

	Required     int         `json:"required"`      // custodians that the SD file takes
	Custodians   []Custodian `json:"custodians"`    // whose keys opened it
	NotExercised []Custodian `json:"not_exercised"` // who were not asked

	Steps []Step `json:"steps"` // in order
	// RecoverySeconds is from the beginning until the keys could be used again, and AgeSeconds how old the backup was at the
	// beginning: what a loss would have cost, at least.
	RecoverySeconds int64 `json:"recovery_seconds"`
	AgeSeconds      int64 `json:"age_seconds"`

	Keys     int64 `json:"keys"`     // of the backup, deleted ones too
	Versions int64 `json:"versions"` // of the backup
	Proven   int64 `json:"proven"`   // versions that were used, and are those that were recorded
	// Unchecked are those among them, oct keys, that did what they should and whose check value the backup does not have.
	Unchecked int64 `json:"unchecked"`

	Findings []Finding `json:"findings"` // what is missing or wrong
	More     int64     `json:"more_findings"`
}

// Backup is the backup that was restored, as its manifest says; ID is empty if that could not be read.
type Backup struct {
	Place   string    `json:"place"` // without a token
	Folder  string    `json:"folder"`
	ID      string    `json:"id"`
	HSM     string    `json:"hsm"`
	HSMID   string    `json:"hsm_id"`
	Created time.Time `json:"created"`
}

// Custodian is one, as the SD file names it.
type Custodian struct {
	Position int    `json:"position"` // of the share in the SD file
	Label    string `json:"label"`
	X5T256   string `json:"x5t_256"`
}

// Step is a part of the drill.
type Step struct {
	Name         string `json:"name"`         // open-domain, make-hsm, recover, restore, examine, use
	Milliseconds int64  `json:"milliseconds"` // that it took
	Done         bool   `json:"done"`
}

// Finding is one thing that is missing or wrong: an object of the backup, a key or a version of one, or a step as a whole.
type Finding struct {
	Step    string `json:"step"`
	Object  string `json:"object,omitempty"`
	Key     string `json:"key,omitempty"`
	Version string `json:"version,omitempty"`
	Code    string `json:"code"`
	Reason  string `json:"reason"` // for people: goes on after what is named
}

// What names what a finding is about.
func (f Finding) What() string {
	switch {
	case f.Key != "" && f.Version != "":
		return "key " + f.Key + ", version " + f.Version
	case f.Key != "":
		return "key " + f.Key
	case f.Object != "":
		return f.Object
	}
	return "the step " + f.Step
}

func (r *Report) amiss(f Finding) {
	r.Passed = false
	if len(r.Findings) == maxFindings {
		r.More++
		return
	}
	f.Reason = plain(f.Reason)
	r.Findings = append(r.Findings, f)
}

// plain bounds a text and makes it valid.
func plain(s string) string {
	s = strings.ToValidUTF8(s, "?")
	if len(s) <= maxReason {
		return s
	}
	cut := maxReason
	for !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut]
}

var reportLimits = strictjson.Limits{Bytes: MaxReport, Depth: 4, Elements: maxFindings + 1, StringBytes: 8 * maxReason, Values: 512 + 8*maxFindings, FoldNames: true}

func (r *Report) encode() ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(r); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// ErrNewer says that a report has a version which this program does not read.
var ErrNewer = errors.New("drill: the report has a newer format version")

// Verify checks that jws is the report of a drill, signed by the domain that it names. Whether that is the domain that was meant is for
// the caller to compare. Its errors are parts of a sentence about the report ("its signature does not hold").
func Verify(jws []byte) (*Report, error) {
	if len(jws) > MaxReport {
		return nil, fmt.Errorf("it is longer than a report can be, %d bytes", MaxReport)
	}
	said, err := statement.Verify(jws, ReportType)
	if err != nil {
		return nil, err
	}
	r, err := parse(said.Payload)
	if err != nil {
		return nil, err
	}
	if r.Domain != said.Domain {
		return nil, fmt.Errorf("it names the security domain %s, and %s signed it", r.Domain, said.Domain)
	}
	return r, nil
}

// parse reads the payload of a report.
func parse(payload []byte) (*Report, error) {
	if err := strictjson.Check(payload, reportLimits); err != nil {
		return nil, fmt.Errorf("what it says is malformed: %w", err)
	}
	var what struct {
		Format  string `json:"format"`
		Version int    `json:"version"`
	}
	if json.Unmarshal(payload, &what) != nil || what.Format != reportFormat || what.Version < 1 {
		return nil, errors.New("what it says is not the report of a drill")
	}
	if what.Version > reportVersion {
		return nil, fmt.Errorf("%w, %d, and this program reads 1 to %d", ErrNewer, what.Version, reportVersion)
	}
	r := new(Report)
	if json.Unmarshal(payload, r) != nil {
		return nil, errors.New("what it says is malformed: a member is of another type")
	}
	if again, err := r.encode(); err != nil || !bytes.Equal(again, payload) {
		return nil, errors.New("what it says is not spelled as it has to be")
	}
	return r, r.check()
}

// check refuses what no drill writes.
func (r *Report) check() error {
	whole := func(t time.Time) bool { return t.Location() == time.UTC && t.Nanosecond() == 0 }
	domain, err := hex.DecodeString(r.Domain)
	done := len(r.Steps) > 0
	for _, s := range r.Steps {
		done = done && s.Done && s.Milliseconds >= 0
	}
	switch {
	case err != nil || len(domain) != 32 || hex.EncodeToString(domain) != r.Domain:
		return errors.New("it names no security domain")
	case !whole(r.Started) || !whole(r.Finished) || !whole(r.Backup.Created) || r.Finished.Before(r.Started):
		return errors.New("its times are none")
	case r.Keys < 0 || r.Versions < 0 || r.Proven < 0 || r.Unchecked < 0 || r.Unchecked > r.Proven || r.Proven > r.Versions || r.More < 0:
		return errors.New("its numbers are none")
	case r.Findings == nil || r.Custodians == nil || r.NotExercised == nil || len(r.Findings) > maxFindings:
		return errors.New("a list in it is none")
	case r.Passed && (len(r.Findings) > 0 || r.More > 0 || !done || r.Proven != r.Versions || len(r.Custodians) < r.Required):
		return errors.New("it says that the drill passed, and its own account says otherwise")
	case !r.Passed && len(r.Findings) == 0:
		return errors.New("it says that the drill failed, and not why")
	}
	return nil
}
