package audit

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"strongroom/internal/failure"
)

// Kinds of record.
const (
	KindCall      = "call"      // somebody asked for something
	KindRecovered = "recovered" // the log was opened after a crash, and Cut bytes at its end were no whole record
)

// Phases of a call. A call that changes something has two records: the first is durable before the effect, the second
// before the answer. A call that changes nothing has one, without a phase.
const (
	PhaseIntent  = "intent"
	PhaseOutcome = "outcome"
)

// Outcomes.
const (
	Allowed = "allowed" // it was done
	Refused = "refused" // the caller may not, or asked wrongly
	Failed  = "failed"  // it was allowed, and did not work
)

// Planes.
const (
	PlaneData     = "data"
	PlaneControl  = "control"
	PlaneIdentity = "identity"
	PlaneServer   = "server" // what the operator does to the server's own files
)

// Record is one entry of the log. Its fields are all there is: no header, body, token, URL query or text of an error
// has a place in it. A text that is too long is cut, and bytes other than printable ASCII are written as %XX (see
// [Clean]), so the names that a stranger sends can neither break a line nor a terminal.
//
// Number, and of a [KindRecovered] record everything, are the log's to set.
type Record struct {
	Number int64     // place in the log, from 0; what proofs are about
	Time   time.Time // UTC, to the microsecond; zero: when Append was called
	Kind   string    // empty: KindCall
	Phase  string    // PhaseIntent, PhaseOutcome, or empty

	Request       string // ID of the request; an intent and its outcome have the same
	ClientRequest string // what the client calls it
	Plane         string
	Principal     string // object ID; empty: nobody, or nobody that could be believed
	App           string // application ID
	Issuer        string // who vouched for the principal
	Source        string // address the call came from

	HSM       string // ID
	HSMName   string
	Operation string // name of the route
	Action    string // data action that was asked for
	Key       string // name of the key
	Version   string // version of the key
	Authority string // attestation authority, of a release
	Recipient string // thumbprint of the key that a key is released to
	Scope     string // of a change of roles or settings: /, /keys or /keys/{name}
	Object    string // ID of the role assignment or definition, or NAME=VALUE of the setting, that is changed
	Role      string // ID of the role, of an assignment
	Assignee  string // who is given the role, or loses it
	Backup    string // folder of the full backup that a job is about

	Outcome  string // empty in an intent
	Status   int64  // of HTTP
	Code     string // stable error code
	Duration int64  // microseconds

	Cut int64 // bytes, of a KindRecovered record
}

// field is one member of a record's line: the allow-list. Lines have the members in this order, without white space,
// and leave out a text that is empty and a number that is 0, so that a record has one spelling.
type field struct {
	name   string
	max    int // bytes of a text
	text   func(*Record) *string
	number func(*Record) *int64
}

var fields = []field{
	{name: "kind", max: 16, text: func(r *Record) *string { return &r.Kind }},
	{name: "phase", max: 16, text: func(r *Record) *string { return &r.Phase }},
	{name: "request", max: 64, text: func(r *Record) *string { return &r.Request }},
	{name: "client_request", max: 64, text: func(r *Record) *string { return &r.ClientRequest }},
	{name: "plane", max: 16, text: func(r *Record) *string { return &r.Plane }},
	{name: "principal", max: 384, text: func(r *Record) *string { return &r.Principal }}, // with an issuer's prefix: a cut would make two people one
	{name: "app", max: 256, text: func(r *Record) *string { return &r.App }},
	{name: "issuer", max: 256, text: func(r *Record) *string { return &r.Issuer }},
	{name: "source", max: 64, text: func(r *Record) *string { return &r.Source }},
	{name: "hsm", max: 64, text: func(r *Record) *string { return &r.HSM }},
	{name: "hsm_name", max: 64, text: func(r *Record) *string { return &r.HSMName }},
	{name: "operation", max: 64, text: func(r *Record) *string { return &r.Operation }},
	{name: "action", max: 128, text: func(r *Record) *string { return &r.Action }},
	{name: "key", max: 128, text: func(r *Record) *string { return &r.Key }},
	{name: "version", max: 64, text: func(r *Record) *string { return &r.Version }},
	{name: "authority", max: 256, text: func(r *Record) *string { return &r.Authority }},
	{name: "recipient", max: 64, text: func(r *Record) *string { return &r.Recipient }},
	{name: "scope", max: 192, text: func(r *Record) *string { return &r.Scope }},
	{name: "object", max: 128, text: func(r *Record) *string { return &r.Object }},
	{name: "role", max: 64, text: func(r *Record) *string { return &r.Role }},
	{name: "assignee", max: 384, text: func(r *Record) *string { return &r.Assignee }},
	{name: "backup", max: 128, text: func(r *Record) *string { return &r.Backup }},
	{name: "outcome", max: 16, text: func(r *Record) *string { return &r.Outcome }},
	{name: "status", number: func(r *Record) *int64 { return &r.Status }},
	{name: "code", max: 64, text: func(r *Record) *string { return &r.Code }},
	{name: "us", number: func(r *Record) *int64 { return &r.Duration }},
	{name: "cut", number: func(r *Record) *int64 { return &r.Cut }},
}

const (
	timeForm = "2006-01-02T15:04:05.000000Z"
	hexUpper = "0123456789ABCDEF"
	cutMark  = "%~" // no escape: the text goes on, and was cut here
)

// Clean returns a text as a record holds it: printable ASCII without quotation mark, backslash and per cent sign, other
// bytes as %XX in capitals, at most max bytes; "%~" at its end says that it was cut. It does to its own results what it
// does to others, so compare what is cleaned once with what is cleaned once.
func Clean(s string, max int) string {
	if len(s) <= max && allPlain(s) {
		return s
	}
	b := make([]byte, 0, max)
	whole := 0 // how much fits with the mark behind it
	for i := range len(s) {
		if len(b) <= max-len(cutMark) {
			whole = len(b)
		}
		if c := s[i]; plain(c) {
			b = append(b, c)
		} else {
			b = append(b, '%', hexUpper[c>>4], hexUpper[c&15])
		}
		if len(b) > max {
			return string(b[:whole]) + cutMark
		}
	}
	return string(b)
}

func plain(c byte) bool { return c >= ' ' && c <= '~' && c != '"' && c != '\\' && c != '%' }

func allPlain(s string) bool {
	for i := range len(s) {
		if !plain(s[i]) {
			return false
		}
	}
	return true
}

// isClean reports whether Clean can have made s.
func isClean(s string) bool {
	for i := 0; i < len(s); i++ {
		if plain(s[i]) {
			continue
		}
		if s[i] != '%' {
			return false
		}
		if s[i:] == cutMark {
			return true
		}
		if len(s)-i < 3 {
			return false
		}
		hi, lo := strings.IndexByte(hexUpper, s[i+1]), strings.IndexByte(hexUpper, s[i+2])
		if hi < 0 || lo < 0 || plain(byte(hi<<4|lo)) {
			return false
		}
		i += 2
	}
	return true
}

// prepare makes a caller's record one that can be written.
func (r *Record) prepare(now time.Time) error {
	if r.Kind == "" {
		r.Kind = KindCall
	}
	if r.Time.IsZero() {
		r.Time = now
	}
	r.Time = r.Time.UTC().Truncate(time.Microsecond)
	for _, f := range fields {
		if f.text != nil {
			p := f.text(r)
			*p = Clean(*p, f.max)
		}
	}
	if err := r.check(); err != nil {
		return failure.Wrap(failure.Internal, err, "the call cannot be recorded")
	}
	return nil
}

// check finds what no record may say.
func (r *Record) check() error {
	switch {
	case r.Number < 0 || r.Status < 0 || r.Duration < 0 || r.Cut < 0:
		return errors.New("a number is negative")
	case r.Time.Year() < 1970 || r.Time.Year() > 9999:
		return errors.New("the time is no time of a server")
	case r.Kind == KindRecovered:
		if (*r != Record{Number: r.Number, Time: r.Time, Kind: r.Kind, Cut: r.Cut}) || r.Cut == 0 {
			return errors.New("a record of a recovery says more or less than where the log was cut")
		}
		return nil
	case r.Kind != KindCall:
		return errors.New("the kind is unknown")
	case r.Cut != 0:
		return errors.New("a call cuts nothing")
	case r.Operation == "":
		return errors.New("the operation is missing")
	case !slices.Contains([]string{PlaneData, PlaneControl, PlaneIdentity, PlaneServer}, r.Plane):
		return errors.New("the plane is unknown")
	case r.Status != 0 && (r.Status < 100 || r.Status > 599):
		return errors.New("the status is none of HTTP")
	case r.Phase == PhaseIntent:
		if r.Outcome != "" || r.Status != 0 || r.Code != "" || r.Duration != 0 {
			return errors.New("an intent has no outcome")
		}
		return nil
	case r.Phase != "" && r.Phase != PhaseOutcome:
		return errors.New("the phase is unknown")
	case r.Outcome != Allowed && r.Outcome != Refused && r.Outcome != Failed:
		return errors.New("the outcome is unknown")
	}
	return nil
}

// appendStart writes the part of a line that only the log knows, appendRest what the record says.
func appendStart(b []byte, number int64, prev tlog.Hash) []byte {
	b = append(b, `{"n":`...)
	b = strconv.AppendInt(b, number, 10)
	b = append(b, `,"prev":"`...)
	b = base64.StdEncoding.AppendEncode(b, prev[:])
	return append(b, '"')
}

func (r *Record) appendRest(b []byte) []byte {
	b = append(b, `,"time":"`...)
	b = r.Time.AppendFormat(b, timeForm)
	b = append(b, '"')
	for _, f := range fields {
		switch {
		case f.text != nil:
			if s := *f.text(r); s != "" {
				b = append(b, `,"`+f.name+`":"`...)
				b = append(b, s...)
				b = append(b, '"')
			}
		default:
			if n := *f.number(r); n != 0 {
				b = append(b, `,"`+f.name+`":`...)
				b = strconv.AppendInt(b, n, 10)
			}
		}
	}
	return append(b, '}')
}

// parseRecord reads a record's line, without its end, and the hash of the record before it. A line that is not spelled
// as this package spells it is no record.
func parseRecord(line []byte) (r Record, prev tlog.Hash, err error) {
	if len(line) > MaxRecord {
		return Record{}, prev, errors.New("it is longer than a record")
	}
	p := parser{rest: line}
	p.literal(`{"n":`)
	r.Number = p.number()
	p.literal(`,"prev":"`)
	link := p.text()
	p.literal(`,"time":"`)
	when := p.text()
	for _, f := range fields {
		if !p.member(f.name) {
			continue
		}
		if f.text == nil {
			*f.number(&r) = p.number()
			continue
		}
		p.literal(`"`)
		s := p.text()
		if len(s) == 0 || len(s) > f.max || !isClean(string(s)) {
			p.fail("a text is not written as a record's are")
		}
		*f.text(&r) = string(s)
	}
	p.literal("}")
	if len(p.rest) > 0 {
		p.fail("something follows its end, or a member is unknown or out of order")
	}
	if p.err != nil {
		return Record{}, prev, p.err
	}
	if prev, err = parseHash(link); err != nil {
		return Record{}, prev, err
	}
	if r.Time, err = time.Parse(timeForm, string(when)); err != nil {
		return Record{}, prev, errors.New("the time is not written as a record's is")
	}
	if err := r.check(); err != nil {
		return Record{}, prev, err
	}
	// One spelling: what is not caught above (a zero that is written out, an odd date) is caught here.
	if again := r.appendRest(appendStart(make([]byte, 0, len(line)), r.Number, prev)); !bytes.Equal(again, line) {
		return Record{}, prev, errors.New("it is not spelled as a record is")
	}
	return r, prev, nil
}

func parseHash(b []byte) (h tlog.Hash, err error) {
	var buf [48]byte
	if len(b) != 44 {
		return h, errors.New("a hash has another length")
	}
	n, err := base64.StdEncoding.Strict().Decode(buf[:], b)
	if err != nil || n != tlog.HashSize {
		return h, errors.New("a hash is no base64")
	}
	copy(h[:], buf[:])
	return h, nil
}

// parser walks over a line. After the first failure it stands still.
type parser struct {
	rest []byte
	err  error
}

// fail never shows what it read.
func (p *parser) fail(format string, args ...any) {
	if p.err == nil {
		p.err = fmt.Errorf(format, args...)
	}
	p.rest = nil
}

func (p *parser) literal(s string) {
	var ok bool
	if p.rest, ok = bytes.CutPrefix(p.rest, []byte(s)); !ok {
		p.fail("it is not built as a record is, near %s", strings.Trim(s, `{,:"`))
	}
}

// member reports whether the next member is the named one, and goes to its value.
func (p *parser) member(name string) bool {
	n := len(name)
	if len(p.rest) < n+4 || p.rest[0] != ',' || p.rest[1] != '"' || string(p.rest[2:2+n]) != name || p.rest[2+n] != '"' || p.rest[3+n] != ':' {
		return false
	}
	p.rest = p.rest[n+4:]
	return true
}

// text reads up to the quotation mark, which no text contains.
func (p *parser) text() []byte {
	i := bytes.IndexByte(p.rest, '"')
	if i < 0 {
		p.fail("a text has no end")
		return nil
	}
	s := p.rest[:i]
	p.rest = p.rest[i+1:]
	return s
}

func (p *parser) number() (n int64) {
	i := 0
	for ; i < len(p.rest) && p.rest[i] >= '0' && p.rest[i] <= '9'; i++ {
		if i == 18 {
			p.fail("a number is too large")
			return 0
		}
		n = 10*n + int64(p.rest[i]-'0')
	}
	if i == 0 {
		p.fail("a number is missing")
		return 0
	}
	p.rest = p.rest[i:]
	return n
}
