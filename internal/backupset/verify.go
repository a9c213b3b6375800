package backupset

import (
	"context"
	"errors"
	"io"
)

// Bounds of what a report describes; what is beyond is counted.
const maxForeign = 100

// Report is what [Backup.Verify] found.
type Report struct {
	Findings []Finding `json:"findings"` // at most one for each object
	// Foreign are objects in the folder that are none of the backup's. They mean nothing, and nobody reads them.
	Foreign     []string `json:"foreign"`
	MoreForeign int      `json:"more_foreign"` // beyond those
	Objects     int      `json:"objects"`      // that were verified, the manifest too
	Bytes       int64    `json:"bytes"`        // in them

	folder string
}

// Err is nil if nothing is wrong, and the first finding as a failure otherwise.
func (r *Report) Err() error {
	if len(r.Findings) == 0 {
		return nil
	}
	return fail(r.folder, &r.Findings[0])
}

// Verify reads everything, without any key: that every object is there and is the one which the manifest means, that the
// inventory has what the manifest counts, and what else is in the folder. What is wrong is in the report; an error says that the
// storage could not be read, or that ctx ended.
//
// What it cannot see is inside the parts: that they open, and hold what the inventory says. But whoever signed the
// manifest said so.
func (b *Backup) Verify(ctx context.Context, progress func(Progress)) (*Report, error) {
	r := &Report{Findings: []Finding{}, Foreign: []string{}, Objects: 1, Bytes: b.size, folder: b.folder}
	at := Progress{Of: b.m.bytes()}
	told := int64(0)
	tell := func(n int) {
		at.Bytes += int64(n)
		if progress != nil && at.Bytes-told >= chunkBytes {
			told = at.Bytes
			progress(at)
		}
	}
	buffer := make([]byte, 256<<10)
	took := func(object ObjectInfo, err error) error {
		f, ok := errors.AsType[*Finding](err)
		switch {
		case err == nil:
			r.Objects++
			r.Bytes += object.Size
		case ok:
			r.Findings = append(r.Findings, *f)
		default:
			return fail(b.folder, err)
		}
		return nil
	}
	if err := took(b.m.Inventory, b.verifyInventory(ctx, tell, &at)); err != nil {
		return nil, err
	}
	for i, want := range b.m.Parts {
		at.Parts++
		if err := took(want, b.verifyPart(ctx, i, tell, buffer)); err != nil {
			return nil, err
		}
	}
	if progress != nil {
		progress(at)
	}
	return r, b.foreign(ctx, r)
}

func (b *Backup) verifyInventory(ctx context.Context, tell func(int), at *Progress) error {
	in, err := b.openInventory(ctx, tell)
	if err != nil {
		return err
	}
	defer in.close()
	for {
		if _, err = in.item(); err == io.EOF {
			return in.finish(b.m)
		} else if err != nil {
			return in.judge(err)
		}
		at.Records++
	}
}

func (b *Backup) verifyPart(ctx context.Context, i int, tell func(int), buffer []byte) error {
	object, err := openObject(ctx, b.storage, b.folder, b.m.Parts[i], tell)
	if err != nil {
		return err
	}
	defer object.close()
	header := make([]byte, partHeader)
	n, err := io.ReadFull(object, header)
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		return err
	}
	if _, err := checkPlace(b.m, i+1, header[:n]); err != nil {
		return judge(object, err)
	}
	return object.end(buffer)
}

// foreign lists what does not belong to the backup.
func (b *Backup) foreign(ctx context.Context, r *Report) error {
	list, err := b.storage.List(ctx, b.folder)
	if err != nil {
		return fail(b.folder, &storageError{"cannot be listed", "the folder", err})
	}
	ours := make(map[string]bool, len(b.m.Parts)+2)
	ours[manifestName], ours[inventoryName] = true, true
	for _, p := range b.m.Parts {
		ours[p.Name] = true
	}
	for _, o := range list {
		switch {
		case ours[o.Name]:
		case len(r.Foreign) == maxForeign:
			r.MoreForeign++
		default:
			r.Foreign = append(r.Foreign, o.Name)
		}
	}
	return nil
}
