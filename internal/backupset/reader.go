package backupset

import (
	"bufio"
	"context"
	"errors"
	"io"
	"io/fs"
	"iter"

	"strongroom/internal/failure"
)

// Backup is one whose manifest holds. Safe for concurrent use.
type Backup struct {
	storage Storage
	folder  string
	m       *Manifest
	size    int64 // of the manifest as it is stored
}

// Open reads and checks the manifest of a backup: that the security domain which it names signed it, and that it is the
// one of this folder. Whether it is the domain that was meant is for [Backup.CheckDomain], and whether the rest is there
// for [Backup.Verify]. A failure has one of the codes NotThere, Unfinished, Forged, Newer, Renamed and Contradicted, or is that of the
// storage.
func Open(ctx context.Context, s Storage, folder string) (*Backup, error) {
	if err := checkFolder(folder); err != nil {
		return nil, failure.New(failure.BadParameter, "%v", err)
	}
	jws, err := readWhole(ctx, s, folder+"/"+manifestName)
	if errors.Is(err, fs.ErrNotExist) {
		list, err := s.List(ctx, folder)
		if err != nil {
			return nil, fail(folder, &storageError{"cannot be listed", "the folder", err})
		}
		if len(list) == 0 {
			return nil, refusal(NotThere, "there is no backup %s", folder)
		}
		return nil, refusal(Unfinished, "the backup %s was never finished: it has no manifest, which is written last", folder)
	}
	if err != nil {
		return nil, fail(folder, err)
	}
	m, err := readManifest(jws)
	if err != nil {
		return nil, fail(folder, err)
	}
	if m.Folder != folder {
		return nil, refusal(Renamed, "in the folder %s is the backup that was made as %s", folder, m.Folder)
	}
	return &Backup{s, folder, m, int64(len(jws))}, nil
}

// readWhole reads the manifest.
func readWhole(ctx context.Context, s Storage, name string) ([]byte, error) {
	from, err := s.Open(ctx, name)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			err = &storageError{"cannot be read", manifestName, err}
		}
		return nil, err
	}
	defer func() { _ = from.Close() }() // what was read is verified by its signature
	jws, err := io.ReadAll(io.LimitReader(from, MaxManifest+1))
	if err != nil {
		return nil, &storageError{"cannot be read", manifestName, err}
	}
	if len(jws) > MaxManifest {
		return nil, manifestFinding(Forged, "does not hold: it is longer than a manifest can be")
	}
	return jws, nil
}

// Manifest is what the backup says of itself. What it points to is shared.
func (b *Backup) Manifest() Manifest { return *b.m }

// CheckDomain is a failure.WrongDomain that names both domains unless the backup is of domain here.
func (b *Backup) CheckDomain(here string) error {
	if b.m.Domain == here {
		return nil
	}
	return refusal(OtherDomain, "the backup %s was made under security domain %s, and not under %s", b.folder, b.m.Domain, here)
}

// Inventory yields what the backup has, in order, without any key. That it is the inventory of this backup, whole, is
// known when the sequence ends; otherwise the last thing it yields is a failure.
func (b *Backup) Inventory(ctx context.Context) iter.Seq2[Item, error] {
	return func(yield func(Item, error) bool) {
		in, err := b.openInventory(ctx, nil)
		if err != nil {
			yield(Item{}, fail(b.folder, err))
			return
		}
		defer in.close()
		for {
			it, err := in.item()
			if err == io.EOF {
				if err := in.finish(b.m); err != nil {
					yield(Item{}, fail(b.folder, err))
				}
				return
			}
			if err != nil {
				yield(Item{}, fail(b.folder, in.judge(err)))
				return
			}
			if !yield(it, nil) {
				return
			}
		}
	}
}

// openedInventory is an inventory and the object that it is read from.
type openedInventory struct {
	*inventoryReader
	object *objectReader
}

func (b *Backup) openInventory(ctx context.Context, tell func(int)) (*openedInventory, error) {
	object, err := openObject(ctx, b.storage, b.folder, b.m.Inventory, tell)
	if err != nil {
		return nil, err
	}
	in := &openedInventory{object: object}
	if in.inventoryReader, err = newInventoryReader(object, b.m); err != nil {
		err = in.judge(err)
		object.close()
		return nil, err
	}
	return in, nil
}

func (in *openedInventory) close() { in.object.close() }

// judge says what an inventory is that could not be parsed: if it is not the one that the manifest means, that, and
// otherwise what the parser found. One of another backup stays that.
func (in *openedInventory) judge(err error) error { return judge(in.object, err) }

func judge(object *objectReader, err error) error {
	f, ok := errors.AsType[*Finding](err)
	if !ok || f.Code == Mixed {
		return err
	}
	if other := object.end(make([]byte, 64<<10)); other != nil {
		return other
	}
	return err
}

// finish is called after the last line.
func (in *openedInventory) finish(m *Manifest) error {
	if err := in.object.end(make([]byte, 1)); err != nil {
		return err
	}
	if !in.is(m) {
		return &Finding{inventoryName, Contradicted, "counts other records than the manifest"}
	}
	return nil
}

// Records opens the backup and yields every record in order, with what the inventory says of it. here is the domain that
// opener belongs to; a backup of another one is refused before anything is read. Each record that is yielded is whole and in its place; that all of
// them came is known when the sequence ends. Otherwise the last thing it yields is a failure: so do nothing for good
// before the end. The records are the caller's to keep.
func (b *Backup) Records(ctx context.Context, here string, opener Opener, progress func(Progress)) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		if err := b.CheckDomain(here); err != nil {
			yield(Record{}, err)
			return
		}
		// A consumer that stops early is no failure.
		if err := b.records(ctx, opener, progress, func(r Record) bool { return yield(r, nil) }); err != nil && !errors.Is(err, errStopped) {
			yield(Record{}, fail(b.folder, err))
		}
	}
}

var errStopped = errors.New("backupset: the caller wants no more")

func (b *Backup) records(ctx context.Context, opener Opener, progress func(Progress), yield func(Record) bool) error {
	at := Progress{Of: b.m.bytes()}
	tell := func(n int) { at.Bytes += int64(n) }
	in, err := b.openInventory(ctx, tell)
	if err != nil {
		return err
	}
	defer in.close()
	for i := range b.m.Parts {
		at.Parts++
		err := b.part(ctx, i, opener, tell, func(kind, name string, body []byte) error {
			it, err := in.item()
			if err != nil && err != io.EOF {
				return in.judge(err)
			}
			if err == io.EOF {
				return in.judge(&Finding{inventoryName, Contradicted, sprintf("ends before %s %s, which %s has", kind, name, partName(i+1))})
			}
			if it.Kind != kind || it.Name != name {
				return in.judge(&Finding{inventoryName, Contradicted, sprintf("has another record in line %d than %s has: %s %s, and there %s %s", in.line, partName(i+1), it.Kind, it.Name, kind, name)})
			}
			at.Records++
			if !yield(Record{it, body}) {
				return errStopped
			}
			if progress != nil && at.Records&1023 == 0 {
				progress(at)
			}
			return nil
		})
		if err != nil {
			return err
		}
		if progress != nil {
			progress(at)
		}
	}
	if it, err := in.item(); err == nil {
		return in.judge(&Finding{inventoryName, Contradicted, sprintf("has records that no part has: %s %s, and what follows", it.Kind, it.Name)})
	} else if err != io.EOF {
		return in.judge(err)
	}
	return in.finish(b.m)
}

// part reads a whole part, hands over its records, and checks that it is the one that the manifest means.
func (b *Backup) part(ctx context.Context, i int, opener Opener, tell func(int), record func(kind, name string, body []byte) error) error {
	want := b.m.Parts[i]
	object, err := openObject(ctx, b.storage, b.folder, want, tell)
	if err != nil {
		return err
	}
	defer object.close()
	r, err := openPart(ctx, b.m, i+1, object, opener)
	if err != nil {
		return judge(object, err)
	}
	for records := int64(0); ; records++ {
		kind, name, body, err := r.record(i == len(b.m.Parts)-1)
		switch {
		case err == io.EOF && records != want.Records:
			return judge(object, &Finding{want.Name, Contradicted, sprintf("has %d records, and %d in the manifest", records, want.Records)})
		case err == io.EOF:
			return object.end(make([]byte, 1))
		case err != nil:
			return judge(object, err)
		case records == want.Records:
			return judge(object, &Finding{want.Name, Contradicted, sprintf("has more than the %d records in the manifest", want.Records)})
		}
		if err := record(kind, name, body); err != nil {
			return err
		}
	}
}

// openPart reads the header of a part, and makes the reader of its records.
func openPart(ctx context.Context, m *Manifest, number int, from io.Reader, opener Opener) (*recordReader, error) {
	buffered := bufio.NewReaderSize(from, 64<<10)
	header := make([]byte, partHeader)
	n, err := io.ReadFull(buffered, header)
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		return nil, err
	}
	at, err := checkPlace(m, number, header[:n])
	if err != nil {
		return nil, err
	}
	return newRecordReader(&chunkReader{ctx: ctx, opener: opener, from: buffered, part: partName(number), header: header, salt: at.salt}), nil
}

// Find opens the one record of a kind and name, in whatever case, and reads no other part than the one that it is in. As
// Records, it is refused for another domain. NoRecord if the inventory has none.
func (b *Backup) Find(ctx context.Context, here string, opener Opener, kind, name string) (Record, error) {
	if err := b.CheckDomain(here); err != nil {
		return Record{}, err
	}
	wanted := string(lower(name))
	var item Item
	at, n := int64(-1), int64(0)
	for it, err := range b.Inventory(ctx) { // to its end: only then it is known to be the inventory
		if err != nil {
			return Record{}, err
		}
		if it.Kind == kind && string(lower(it.Name)) == wanted {
			item, at = it, n
		}
		n++
	}
	if at < 0 {
		return Record{}, refusal(NoRecord, "there is no %s %.300q in the backup %s", kind, name, b.folder)
	}
	i := 0
	for ; at >= b.m.Parts[i].Records; i++ {
		at -= b.m.Parts[i].Records
	}
	var found Record
	n = 0
	err := b.part(ctx, i, opener, nil, func(kind, name string, body []byte) error {
		if n == at {
			if kind != item.Kind || name != item.Name {
				return &Finding{inventoryName, Contradicted, sprintf("has another record in line %d than %s has", at+2, partName(i+1))}
			}
			found = Record{item, body}
		}
		n++
		return nil
	})
	if err != nil {
		return Record{}, fail(b.folder, err)
	}
	return found, nil
}
