package audit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

// Filter says which records [Show] shows. An empty field lets all pass.
type Filter struct {
	Since, Until time.Time // Since included, Until not
	Principal    string    // object ID or application ID
	HSM          string    // ID or name
	Operation    string
	Outcome      string
	Key          string
	Request      string // ID of the request, the server's or the client's
}

// match compares as names are compared elsewhere: without case.
func (f *Filter) match(r *Record) bool {
	same := func(want string, max int, got ...string) bool {
		if want == "" {
			return true
		}
		want = Clean(want, max)
		for _, g := range got {
			if strings.EqualFold(want, g) {
				return true
			}
		}
		return false
	}
	return (f.Since.IsZero() || !r.Time.Before(f.Since)) && (f.Until.IsZero() || r.Time.Before(f.Until)) &&
		same(f.Principal, 64, r.Principal, r.App) && same(f.HSM, 64, r.HSM, r.HSMName) && same(f.Operation, 64, r.Operation) &&
		same(f.Outcome, 16, r.Outcome) && same(f.Key, 128, r.Key) && same(f.Request, 64, r.Request, r.ClientRequest)
}

// Shown says what [Show] went over.
type Shown struct {
	Records    int64 // that could be read
	Matched    int64
	Unreadable int64 // lines that are no records: see what [Verify] says
}

// Show calls fn with each record that passes the filter, in order, until fn returns an error, which it returns. It does
// not verify: a record may have been changed. dir is as for [Verify].
func Show(ctx context.Context, dir string, f Filter, fn func(Record) error) (s Shown, err error) {
	err = each(ctx, dir, func(line []byte) error {
		r, _, err := parseRecord(line)
		if err != nil {
			s.Unreadable++
			return nil
		}
		s.Records++
		if !f.match(&r) {
			return nil
		}
		s.Matched++
		return fn(r)
	})
	return s, err
}

// each calls fn with each line of a log that could be a record: not with the first of a segment, nor with checkpoints.
func each(ctx context.Context, dir string, fn func(line []byte) error) error {
	dir, err := Folder(dir)
	if err != nil {
		return err
	}
	list, err := segments(dir)
	if err != nil {
		return fmt.Errorf("audit: read the log: %w", err)
	}
	for i, s := range list {
		if err := eachLine(ctx, s, i == len(list)-1, fn); err != nil {
			return err
		}
	}
	return nil
}

func eachLine(ctx context.Context, s segment, last bool, fn func(line []byte) error) error {
	in, err := openLines(s.path)
	if err != nil {
		return fmt.Errorf("audit: read the log: %w", err)
	}
	defer in.close()
	for n := 0; ; n++ {
		if n%1024 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		line, whole, err := in.next()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("audit: read the log: %w", err)
		case n == 0, isCheckpoint(line), !whole && last && line != nil: // the last is being written, or was torn
			continue
		}
		if err := fn(line); err != nil {
			return err
		}
	}
}
