package target

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"strongroom/internal/durable"
)

// folder is a target in a folder of this machine. Everything goes through an os.Root at the configured folder, so that no
// link and no name leads out of it, whoever changes what is below while we look.
//
// An object being written is the file ".OBJECT.RANDOM.tmp" beside its place, mode 0600. A kill leaves it there; nothing
// reads it, and it goes with the last object of its folder.
type folder struct {
	base, rel string
	own       bool     // base is made if it is missing
	path      string   // for people
	synced    sync.Map // paths below base of folders whose names are on disk
}

func (t *folder) String() string { return t.path }

func (t *folder) fail(op string, err error) error {
	if err == nil {
		return nil
	}
	why := err.Error()
	if errors.Is(err, fs.ErrExist) {
		why = "it exists already, and nothing is overwritten"
	}
	if path, is := errors.AsType[*fs.PathError](err); is && errors.Is(err, errNoBase) && !errors.Is(err, fs.ErrNotExist) {
		why = "the folder itself cannot be opened: " + path.Err.Error() // it is there, and to make it would not help
	}
	return &Error{Op: op, Where: t.path, Why: why, Kind: err}
}

// errNoBase is a configured folder that is missing, which is never the same as one without backups: its disk may not be
// mounted.
var errNoBase = errors.New("the folder itself cannot be opened: make it, or mount its disk")

// absent says whether an error means that nothing was written below the configured folder yet.
func absent(err error) bool { return errors.Is(err, fs.ErrNotExist) && !errors.Is(err, errNoBase) }

// root opens the target's folder; with create it is made below the configured one, which must be there.
func (t *folder) root(create bool) (*os.Root, error) {
	if t.own && create {
		if err := durable.MkdirAll(t.base, 0o700); err != nil {
			return nil, err
		}
	}
	base, err := os.OpenRoot(t.base)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNoBase, err)
	}
	if t.rel == "." {
		return base, nil
	}
	defer func() { _ = base.Close() }()
	if create {
		for i, c := range t.rel + "/" {
			if c == filepath.Separator || c == '/' {
				if err := t.makeFolder(base, t.rel[:i], t.rel[:i]); err != nil {
					return nil, err
				}
			}
		}
	}
	return base.OpenRoot(t.rel)
}

// makeFolder makes one folder, if it is missing, and syncs its name into the one above. One that is there is synced too, once:
// whoever made it may have died before he did.
func (t *folder) makeFolder(root *os.Root, name, path string) error {
	err := root.Mkdir(name, 0o700)
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if _, known := t.synced.Load(path); known && err != nil {
		return nil
	}
	durable.At("target:before-folder-sync " + path)
	if err := syncFolder(root, filepath.Dir(name)); err != nil {
		return err
	}
	t.synced.Store(path, true)
	return nil
}

func syncFolder(root *os.Root, name string) error {
	f, err := root.Open(name)
	if err != nil {
		return fmt.Errorf("%w: %w", durable.ErrUnsynced, err)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("%w: %w", durable.ErrUnsynced, err)
	}
	return nil
}

// inside opens the folder of one backup.
func (t *folder) inside(name string, create bool) (*os.Root, error) {
	root, err := t.root(create)
	if err != nil {
		return nil, err
	}
	defer func() { _ = root.Close() }()
	if create {
		if err := t.makeFolder(root, name, filepath.Join(t.rel, name)); err != nil {
			return nil, err
		}
	}
	return root.OpenRoot(name)
}

func (t *folder) Create(ctx context.Context, name string) (Object, error) {
	in, object, err := splitName(name)
	if err != nil {
		return nil, err
	}
	op := "create " + name
	if ctx.Err() != nil {
		return nil, explain(ctx, t.path, op, ctx.Err())
	}
	root, err := t.inside(in, true)
	if err != nil {
		return nil, t.fail(op, err)
	}
	if _, err := root.Lstat(object); err == nil { // only to answer early: the rename decides
		_ = root.Close()
		return nil, t.fail(op, fs.ErrExist)
	}
	temporary := "." + object + "." + rand.Text() + ".tmp"
	f, err := root.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		_ = root.Close()
		return nil, t.fail(op, err)
	}
	return &fileObject{ctx: ctx, target: t, op: op, root: root, file: f, in: in, temporary: temporary, name: object}, nil
}

// fileObject is an [Object] of a folder.
type fileObject struct {
	ctx             context.Context
	target          *folder
	op              string
	root            *os.Root
	file            *os.File // nil after the end
	in              string   // the folder of the backup
	temporary, name string
}

func (o *fileObject) usable() error {
	if o.file == nil {
		return &Error{Op: o.op, Where: o.target.path, Why: "the object was committed or given up", Kind: errAfterEnd}
	}
	if err := o.ctx.Err(); err != nil {
		return explain(o.ctx, o.target.path, o.op, err)
	}
	return nil
}

func (o *fileObject) Write(p []byte) (int, error) {
	if err := o.usable(); err != nil {
		return 0, err
	}
	n, err := o.file.Write(p)
	return n, o.target.fail(o.op, err)
}

func (o *fileObject) Commit() error {
	if err := o.usable(); err != nil {
		return err
	}
	err := o.commit()
	if err == nil || errors.Is(err, durable.ErrUnsynced) {
		o.file = nil // it has its name, and Abort must not look for the old one
		_ = o.root.Close()
	}
	return o.target.fail(o.op, err)
}

// commit is what durable.WriteFile does, inside the root.
func (o *fileObject) commit() error {
	durable.At("target:before-sync " + o.name)
	if err := o.file.Sync(); err != nil {
		return err // never tried again: the second sync would lie
	}
	if err := o.file.Close(); err != nil {
		return err
	}
	dir, err := o.root.Open(".")
	if err != nil {
		return err
	}
	defer func() { _ = dir.Close() }()
	durable.At("target:before-rename " + o.name)
	if err := renameNew(o.root, dir, o.temporary, o.name); err != nil {
		return err
	}
	durable.At("target:after-rename " + o.name)
	if err := syncFolder(o.root, "."); err != nil {
		return err
	}
	durable.At("target:after-sync " + o.name)
	return nil
}

func (o *fileObject) Abort() {
	if o.file == nil {
		return
	}
	_ = o.file.Close()
	_ = o.root.Remove(o.temporary)
	_ = o.root.Close()
	o.file = nil
	// A folder that was made for it, and in which nothing else is, would lie there for good. Of another backup nothing goes: the
	// system removes no folder that is not empty.
	if above, err := o.target.root(false); err == nil {
		_ = above.Remove(o.in)
		_ = above.Close()
	}
}

// linkNew is renameNew where the system has no rename that refuses an existing name: link does.
func linkNew(root *os.Root, from, to string) error {
	if err := root.Link(from, to); err != nil {
		return err
	}
	_ = root.Remove(from) // a second name left behind is litter, not a failure
	return nil
}

func (t *folder) Open(ctx context.Context, name string) (io.ReadCloser, error) {
	in, object, err := splitName(name)
	if err != nil {
		return nil, err
	}
	op := "open " + name
	if ctx.Err() != nil {
		return nil, explain(ctx, t.path, op, ctx.Err())
	}
	root, err := t.inside(in, false)
	if err != nil {
		return nil, t.fail(op, err)
	}
	defer func() { _ = root.Close() }()
	// Not blocking: a pipe of that name would wait for a writer, for ever.
	f, err := root.OpenFile(object, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, t.fail(op, err)
	}
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		_ = f.Close()
		return nil, t.fail(op, errors.Join(err, errors.New("not a file")))
	}
	return &fileReader{f, ctx, t, op}, nil
}

// fileReader ends with its context.
type fileReader struct {
	file   *os.File
	ctx    context.Context
	target *folder
	op     string
}

func (r *fileReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, explain(r.ctx, r.target.path, r.op, err)
	}
	n, err := r.file.Read(p)
	if err != nil && err != io.EOF {
		err = r.target.fail(r.op, err)
	}
	return n, err
}

func (r *fileReader) Close() error { return r.target.fail(r.op, r.file.Close()) }

func (t *folder) List(ctx context.Context, in string) ([]Info, error) {
	if err := checkFolder(in); err != nil {
		return nil, err
	}
	op := "list " + in
	if ctx.Err() != nil {
		return nil, explain(ctx, t.path, op, ctx.Err())
	}
	above, err := t.root(false)
	if absent(err) {
		return nil, nil
	}
	if err != nil {
		return nil, t.fail(op, err)
	}
	defer func() { _ = above.Close() }()
	root, err := above.OpenRoot(in)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, t.fail(op, err)
	}
	defer func() { _ = root.Close() }()
	entries, err := t.entries(root, op)
	if err != nil {
		return nil, err
	}
	var list []Info
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || !info.Mode().IsRegular() || !validName(e.Name()) {
			continue // gone meanwhile, or not ours
		}
		list = append(list, Info{Name: e.Name(), Size: info.Size(), Modified: info.ModTime().UTC().Truncate(time.Second)})
	}
	slices.SortFunc(list, func(a, b Info) int { return strings.Compare(a.Name, b.Name) })
	return list, nil
}

// entries reads a folder, up to the bound of a listing.
func (t *folder) entries(root *os.Root, op string) ([]fs.DirEntry, error) {
	dir, err := root.Open(".")
	if err != nil {
		return nil, t.fail(op, err)
	}
	defer func() { _ = dir.Close() }()
	entries, err := dir.ReadDir(maxListed + 1)
	if err != nil && err != io.EOF {
		return nil, t.fail(op, err)
	}
	if len(entries) > maxListed {
		return nil, tooMany(t.path, op)
	}
	return entries, nil
}

func (t *folder) Folders(ctx context.Context, prefix string) ([]string, error) {
	if err := checkPrefix(prefix); err != nil {
		return nil, err
	}
	op := "list " + prefix + "*"
	if ctx.Err() != nil {
		return nil, explain(ctx, t.path, op, ctx.Err())
	}
	root, err := t.root(false)
	if absent(err) {
		return nil, nil
	}
	if err != nil {
		return nil, t.fail(op, err)
	}
	defer func() { _ = root.Close() }()
	entries, err := t.entries(root, op)
	if err != nil {
		return nil, err
	}
	var list []string
	for _, e := range entries {
		if !validName(e.Name()) || !strings.HasPrefix(e.Name(), prefix) || !e.IsDir() {
			continue
		}
		objects, err := t.List(ctx, e.Name())
		if err != nil {
			return nil, err
		}
		if len(objects) > 0 {
			list = append(list, e.Name())
		}
	}
	slices.Sort(list)
	return list, nil
}

func (t *folder) Delete(ctx context.Context, name string) error {
	in, object, err := splitName(name)
	if err != nil {
		return err
	}
	op := "delete " + name
	if ctx.Err() != nil {
		return explain(ctx, t.path, op, ctx.Err())
	}
	root, err := t.inside(in, false)
	if absent(err) {
		return nil
	}
	if err != nil {
		return t.fail(op, err)
	}
	defer func() { _ = root.Close() }()
	if err := root.Remove(object); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return t.fail(op, err)
	}
	if err := syncFolder(root, "."); err != nil {
		return t.fail(op, err)
	}
	return t.removeEmpty(ctx, root, in, op)
}

func (t *folder) Sweep(ctx context.Context, in string) error {
	if err := checkFolder(in); err != nil {
		return err
	}
	op := "sweep " + in
	if ctx.Err() != nil {
		return explain(ctx, t.path, op, ctx.Err())
	}
	root, err := t.inside(in, false)
	if absent(err) {
		return nil
	}
	if err != nil {
		return t.fail(op, err)
	}
	defer func() { _ = root.Close() }()
	if err := t.removeHalves(root, op); err != nil {
		return err
	}
	return t.removeEmpty(ctx, root, in, op)
}

// removeHalves removes the files that writers have not finished.
func (t *folder) removeHalves(root *os.Root, op string) error {
	entries, err := t.entries(root, op)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Type().IsRegular() && strings.HasPrefix(e.Name(), ".") && strings.HasSuffix(e.Name(), ".tmp") {
			_ = root.Remove(e.Name())
		}
	}
	return nil
}

// removeEmpty removes the folder of a backup after its last object, with what a killed writer left in it.
func (t *folder) removeEmpty(ctx context.Context, root *os.Root, in, op string) error {
	objects, err := t.List(ctx, in)
	if err != nil || len(objects) > 0 {
		return err
	}
	if err := t.removeHalves(root, op); err != nil {
		return err
	}
	above, err := t.root(false)
	if err != nil {
		return t.fail(op, err)
	}
	defer func() { _ = above.Close() }()
	if above.Remove(in) != nil {
		return nil // something else is in it: not ours to remove
	}
	return t.fail(op, syncFolder(above, "."))
}
