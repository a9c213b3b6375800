package backup

import (
	"context"
	"fmt"
	"strings"

	"strongroom/internal/backupset"
	"strongroom/internal/engine"
	"strongroom/internal/keys"
)

// maxWrong is how many things that are wrong an inspection describes; what is beyond is counted.
const maxWrong = 1000

// Inspection is what was found in a backup that was opened, and not restored.
type Inspection struct {
	Counts    map[string]int64 // records of each kind
	Versions  int64            // of keys, that were opened and are what they should be
	Unchecked int64            // of these, oct keys whose check value the backup does not have
	Wrong     []keys.Wrong
	More      int // beyond those
}

func (in *Inspection) amiss(list ...keys.Wrong) {
	room := min(len(list), maxWrong-len(in.Wrong))
	in.Wrong = append(in.Wrong, list[:room]...)
	in.More += len(list) - room
}

// Inspect opens everything in a backup with an engine of its domain, checks what a restore checks, and more: each version of a key
// against the public key or the check value that is recorded of it. It needs no HSM and changes nothing. What is wrong with keys is in
// the result, by name; an error says that the rest is wrong, or could not be read. opened, if not nil, is called with each version
// that opened.
func Inspect(ctx context.Context, b *backupset.Backup, eng engine.Engine, domain string, progress func(backupset.Progress), opened func(keys.Held)) (*Inspection, error) {
	in := &Inspection{Counts: map[string]int64{}}
	src := &source{Backup: b, domain: domain}
	var batched []backupset.Record
	size := 0
	open := func() error {
		defer func() { batched, size = nil, 0 }()
		return in.open(ctx, eng, src.salt, batched, opened)
	}
	n := int64(0)
	for r, err := range b.Records(ctx, domain, eng, progress) {
		if err != nil {
			in.nameMissing(ctx, b, n, err)
			return in, err
		}
		n++
		in.Counts[r.Kind]++
		if src.salt == nil || r.Kind != kindKey && r.Kind != kindDeletedKey {
			if err := src.take(r, nil, nil); err != nil {
				return in, err
			}
			continue
		}
		batched, size = append(batched, r), size+len(r.Body)
		if len(batched) == batch || size > 4<<20 {
			if err := open(); err != nil {
				return in, err
			}
		}
	}
	if src.salt == nil {
		return in, wrong("it has no record of its HSM", nil)
	}
	return in, open()
}

// nameMissing names the key in the inventory at which the parts have another one, or end.
func (in *Inspection) nameMissing(ctx context.Context, b *backupset.Backup, n int64, err error) {
	if backupset.CodeOf(err) != backupset.Contradicted {
		return
	}
	for it, err := range b.Inventory(ctx) {
		if err != nil {
			return // said already
		}
		if n == 0 && (it.Kind == kindKey || it.Kind == kindDeletedKey) {
			in.amiss(keys.Wrong{Key: it.Name, Reason: "is in the inventory, and missing where it should be in the parts"})
		}
		if n--; n < 0 {
			return
		}
	}
}

// open opens some keys, several at once.
func (in *Inspection) open(ctx context.Context, eng engine.Engine, salt []byte, list []backupset.Record, opened func(keys.Held)) error {
	results := make([]inspected, len(list))
	err := share(len(list), func(i int) (err error) {
		results[i], err = inspectKey(ctx, eng, salt, list[i])
		return err
	})
	if err != nil {
		return err
	}
	for _, r := range results {
		in.amiss(r.wrong...)
		in.Versions += int64(len(r.held))
		in.Unchecked += r.unchecked
		for _, h := range r.held {
			if opened != nil {
				opened(h)
			}
		}
	}
	return nil
}

type inspected struct {
	held      []keys.Held
	wrong     []keys.Wrong
	unchecked int64
}

// inspectKey opens a key and holds it against its line in the inventory.
func inspectKey(ctx context.Context, eng engine.Engine, salt []byte, r backupset.Record) (out inspected, err error) {
	held, wrong, err := keys.OpenCopy(ctx, eng, salt, r.Name, r.Body)
	if err != nil {
		return out, err
	}
	out.wrong = wrong
	amiss := func(version, format string, args ...any) {
		out.wrong = append(out.wrong, keys.Wrong{Key: r.Name, Version: version, Reason: fmt.Sprintf(format, args...)})
	}
	listed := make(map[string]backupset.Version, len(r.Versions))
	for _, v := range r.Versions {
		listed[v.ID] = v
	}
	for _, w := range wrong {
		if w.Version == "" {
			return out, nil // nothing of it could be read
		}
		delete(listed, w.Version)
	}
	for _, h := range held {
		v, there := listed[h.ID]
		delete(listed, h.ID)
		check := h.Check
		if check == "" {
			if check, err = h.Recognise(ctx); err != nil {
				return out, err
			}
		}
		switch {
		case strings.ToLower(h.Name) != r.Name || h.Deleted != r.Deleted || h.Deleted != (r.Kind == kindDeletedKey):
			amiss(h.ID, "is that of key %s, and not of the one that the inventory names", h.Name)
		case !there:
			amiss(h.ID, "is not in the inventory")
		case v.Check != "" && v.Check != check && h.Type != engine.Oct:
			amiss(h.ID, "has another public key than the inventory says")
		case !alike(h.CopyVersion, v):
			amiss(h.ID, "is of another type or size, or enabled otherwise, than the inventory says")
		case v.Check == "" && h.Type == engine.Oct:
			out.unchecked++
			out.held = append(out.held, h)
		case v.Check != "" && v.Check != check && h.Type == engine.Oct:
			amiss(h.ID, "is another key: it has not the check value that is recorded")
		default:
			out.held = append(out.held, h)
		}
	}
	for _, v := range r.Versions {
		if _, missing := listed[v.ID]; missing {
			amiss(v.ID, "is in the inventory, and the key does not have it")
		}
	}
	return out, nil
}

// Lost names what lies in the parts that a verification found to be bad, from the inventory. It is empty if the inventory is bad
// too.
func Lost(ctx context.Context, b *backupset.Backup, report *backupset.Report) (lost []backupset.Item, err error) {
	bad := map[string]bool{}
	for _, f := range report.Findings {
		bad[f.Object] = true
	}
	m := b.Manifest()
	if len(bad) == 0 || bad[m.Inventory.Name] {
		return nil, nil
	}
	part, left := 0, m.Parts[0].Records
	for it, err := range b.Inventory(ctx) {
		if err != nil {
			return nil, err
		}
		for left == 0 && part+1 < len(m.Parts) {
			part++
			left = m.Parts[part].Records
		}
		left--
		if bad[m.Parts[part].Name] && (it.Kind == kindKey || it.Kind == kindDeletedKey) {
			lost = append(lost, it)
		}
	}
	return lost, nil
}
