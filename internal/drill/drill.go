// Package drill rehearses the total loss of an HSM: it makes one that nobody can reach, recovers the security domain into it from an
// SD file and the keys of custodians, restores a backup, uses every version of every key, and signs what it saw as the domain that was
// recovered.
//
// It takes the ways of the real thing: packages hsm, keys and backup, over a database on a disk. What it leaves out are listeners: the
// HSM has no address at all. What would seal the database lives in memory only, so a copy of the folder, also one that a kill leaves
// behind, opens for nobody.
package drill

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"strongroom/internal/access"
	"strongroom/internal/backup"
	"strongroom/internal/backupset"
	"strongroom/internal/engine"
	"strongroom/internal/engine/software"
	"strongroom/internal/failure"
	"strongroom/internal/hsm"
	"strongroom/internal/keys"
	"strongroom/internal/seal"
	"strongroom/internal/store/bolt"
	"strongroom/secret"
	"strongroom/securitydomain"
)

// Options of [Run]. All but Step and Progress are needed.
type Options struct {
	Dir     string // a folder of the drill's own, which is there; what the drill puts into it is gone when Run returns
	Storage backupset.Storage
	Place   string // where Storage is, without a token
	Folder  string // of the backup
	SD      *securitydomain.File
	// Open opens SD with the keys of custodians. The drill wipes what it returns.
	Open    func(ctx context.Context) (*securitydomain.Opened, error)
	Now     func() time.Time
	Rand    io.Reader // safe for concurrent use
	Log     *slog.Logger
	Program string // name and version
	// Step is called when a step begins, with its name, and Progress while it goes on, also from other goroutines.
	Step     func(name string)
	Progress func(backupset.Progress)
}

// name of the HSM.
const name = "drill"

// drill is one under way.
type drill struct {
	Options
	r       *Report
	began   time.Time
	caller  access.Caller
	engine  engine.Engine // of the domain, beside the HSM's own
	hsms    *hsm.Service
	backups *backup.Service
	hsm     *hsm.HSM
	clean   []func() error
}

// Run holds a drill. The report says whether the drill passed; it is returned signed, too. An error says that it could not be held
// at all: the SD file does not open, the folder cannot be written, or ctx ended. Then there is no report.
func Run(ctx context.Context, o Options) (report *Report, jws []byte, err error) {
	d := &drill{Options: o, began: o.Now(), caller: access.Caller{ObjectID: uuid.NewString()}}
	d.r = &Report{Format: reportFormat, Version: reportVersion, Program: o.Program, Passed: true, Started: second(d.began), Required: o.SD.Required(),
		Backup: Backup{Place: plain(o.Place), Folder: o.Folder, Created: time.Unix(0, 0).UTC()}, Custodians: []Custodian{}, NotExercised: []Custodian{}, Findings: []Finding{}}
	defer func() {
		for _, f := range slices.Backward(d.clean) {
			if e := f(); e != nil && err == nil {
				report, jws, err = nil, nil, e
			}
		}
	}()
	if err := d.recover(ctx); err != nil {
		return nil, nil, err
	}
	if err := d.rehearse(ctx); err != nil {
		return nil, nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	d.r.Finished = second(o.Now())
	payload, err := d.r.encode()
	if err != nil {
		return nil, nil, err
	}
	if jws, err = d.hsm.Sign(ctx, ReportType, payload); err != nil {
		return nil, nil, err
	}
	// As a reader will: a report that nobody can read is found now.
	if report, err = Verify(jws); err != nil {
		return nil, nil, failure.Wrap(failure.Internal, err, "the report of the drill was not written as it has to be")
	}
	return report, jws, nil
}

func second(t time.Time) time.Time { return t.UTC().Truncate(time.Second) }

// step takes the time of a part of the drill.
func (d *drill) step(name string, do func() error) error {
	if d.Step != nil {
		d.Step(name)
	}
	began := d.Now()
	err := do()
	d.r.Steps = append(d.r.Steps, Step{name, max(0, d.Now().Sub(began).Milliseconds()), err == nil})
	return err
}

func (d *drill) progress(p backupset.Progress) {
	if d.Progress != nil {
		d.Progress(p)
	}
}

// recover makes the HSM and brings the domain back into it. Nothing can be reported before that, because nobody could sign.
func (d *drill) recover(ctx context.Context) error {
	var opened *securitydomain.Opened
	err := d.step("open-domain", func() (err error) {
		opened, err = d.Open(ctx)
		return err
	})
	if err != nil {
		return err
	}
	defer func() {
		for _, item := range opened.Items {
			item.Value.Wipe()
		}
	}()
	if err := d.step("make-hsm", func() error { return d.make(ctx) }); err != nil {
		return err
	}
	return d.step("recover", func() error {
		cert, err := d.hsm.ExchangeKey(ctx, d.caller)
		if err != nil {
			return err
		}
		transfer, err := securitydomain.MakeTransfer(d.Rand, opened.Items, cert)
		if err != nil {
			return err
		}
		if d.r.Domain, err = d.hsm.Upload(ctx, d.caller, transfer); err != nil {
			return err
		}
		_, wrapping, backupKey, err := hsm.DomainKeys(opened.Items)
		if err != nil {
			return err
		}
		if d.engine, err = software.New(wrapping, backupKey, d.Rand, software.Cache(0, 0)); err != nil {
			return err
		}
		d.later(func() error { d.engine.Close(); return nil })
		d.custodians(opened)
		return nil
	})
}

// custodians writes down who was there, and who was not.
func (d *drill) custodians(opened *securitydomain.Opened) {
	was := map[int]bool{}
	for _, u := range opened.Used {
		was[u.Position] = true
	}
	for _, c := range d.SD.Inspect().Custodians {
		one := Custodian{c.Position, plain(c.Label), plain(c.X5T256)}
		if was[c.Position] {
			d.r.Custodians = append(d.r.Custodians, one)
		} else {
			d.r.NotExercised = append(d.r.NotExercised, one)
		}
	}
}

func (d *drill) later(f func() error) { d.clean = append(d.clean, f) }

// make makes the server's parts and an HSM, in a folder that goes away with them.
func (d *drill) make(ctx context.Context) error {
	dir := filepath.Join(d.Dir, "drill")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	d.later(func() error { return remove(dir) })
	passing, err := seal.NewPassing(d.Rand)
	if err != nil {
		return err
	}
	d.later(func() error { passing.Close(); return nil })
	db, err := bolt.Open(dir, bolt.Options{})
	if err != nil {
		return err
	}
	d.later(db.Close)
	d.hsms = hsm.New(hsm.Config{Store: db, Seal: passing, Authorizer: access.NewAuthorizer(db, passing), Now: d.Now, Rand: d.Rand, Log: d.Log, MaxKeys: math.MaxInt32,
		ExchangeBits: 2048, // for a transfer that never leaves this process
		OpenEngine: func(wrapping, backup secret.Bytes) (engine.Engine, error) {
			return software.New(wrapping, backup, d.Rand, software.Cache(0, 0))
		}})
	d.later(func() error { d.hsms.Close(); return nil })
	d.backups = backup.New(backup.Config{Store: db, Seal: passing, HSMs: d.hsms, Now: d.Now, Log: d.Log, Program: d.Program})
	d.later(func() error { d.backups.Close(); return nil })
	if _, _, err := d.hsms.Create(ctx, hsm.Spec{Name: name, Subscription: name, ResourceGroup: name, Location: "local", TenantID: uuid.Nil.String(), InitialAdmins: []string{d.caller.ObjectID}}); err != nil {
		return err
	}
	d.hsm, err = d.hsms.Open(ctx, name)
	return err
}

// remove overwrites the files in a folder and removes it. On a disk that writes elsewhere what is overwritten, that changes
// nothing; what is in the files was ciphertext under a key that is forgotten.
func remove(dir string) error {
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		return overwrite(path)
	})
	return errors.Join(err, os.RemoveAll(dir))
}

func overwrite(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	zeros := make([]byte, 1<<20)
	for left := int64(0); err == nil && left < info.Size(); left += int64(len(zeros)) {
		_, err = f.Write(zeros[:min(int64(len(zeros)), info.Size()-left)])
	}
	return errors.Join(err, f.Sync(), f.Close())
}

// rehearse restores and uses the keys. What is wrong with the backup goes into the report.
func (d *drill) rehearse(ctx context.Context) error {
	var b *backupset.Backup
	err := d.step("restore", func() (err error) {
		if b, err = backupset.Open(ctx, d.Storage, d.Folder); err != nil {
			return err
		}
		m := b.Manifest()
		d.r.Backup.ID, d.r.Backup.HSM, d.r.Backup.HSMID, d.r.Backup.Created = m.Backup, m.HSM, m.HSMID, m.Created
		d.r.AgeSeconds = int64(max(0, d.began.Sub(m.Created)).Seconds())
		d.r.Keys, d.r.Versions = m.Counts["key"]+m.Counts["deleted-key"], m.Versions
		if err := b.CheckDomain(d.r.Domain); err != nil {
			b = nil // nothing in it can be opened
			return err
		}
		if _, err = d.backups.Rehearse(ctx, d.hsm, d.Storage, d.Folder, d.progress); err != nil {
			return err
		}
		d.hsm, err = d.hsms.Open(ctx, name) // anew, to see what was restored
		return err
	})
	switch {
	case err == nil:
		d.r.RecoverySeconds = int64(max(0, d.Now().Sub(d.began)+time.Second-1) / time.Second) // rounded up
		return d.step("use", func() error { return d.use(ctx, b) })
	case b == nil:
		return d.refused(ctx, "restore", err)
	}
	if err := d.refused(ctx, "restore", err); err != nil {
		return err
	}
	return d.step("examine", func() error { return d.examine(ctx, b) })
}

// refused puts into the report why a step could not be done. What is no failure of the backup ends the drill.
func (d *drill) refused(ctx context.Context, step string, err error) error {
	f, ok := errors.AsType[*failure.Error](err)
	if ctx.Err() != nil || !ok || f.Kind == failure.Internal || f.Kind == failure.StorageFailed {
		return err
	}
	code := f.Code
	if code == "" {
		code = "BackupRefused"
	}
	d.r.amiss(Finding{Step: step, Code: code, Reason: f.Message})
	return nil
}

// examine looks for what was wrong with a backup that could not be restored, and names it.
func (d *drill) examine(ctx context.Context, b *backupset.Backup) error {
	const step = "examine"
	report, err := b.Verify(ctx, d.progress)
	if err != nil {
		return d.refused(ctx, step, err)
	}
	for _, f := range report.Findings {
		d.r.amiss(Finding{Step: step, Object: f.Object, Code: f.Code, Reason: f.Reason})
	}
	lost, err := backup.Lost(ctx, b, report)
	if err != nil {
		return d.refused(ctx, step, err)
	}
	for _, it := range lost {
		d.r.amiss(Finding{Step: step, Key: it.Name, Code: "KeyLost", Reason: "is lost: it lies in a part that is missing or was changed"})
	}
	if len(report.Findings) > 0 {
		return nil
	}
	in, err := backup.Inspect(ctx, b, d.engine, d.r.Domain, d.progress, nil)
	for _, w := range in.Wrong {
		d.r.amiss(Finding{Step: step, Key: w.Key, Version: w.Version, Code: "KeyWrong", Reason: w.Reason})
	}
	d.r.More += int64(in.More)
	if err != nil {
		return d.refused(ctx, step, err)
	}
	return nil
}

// proof is one version that was used.
type proof struct {
	held         keys.Held
	check, wrong string
}

// use uses every version that the HSM has now, and holds what it does against the inventory of the backup.
func (d *drill) use(ctx context.Context, b *backupset.Backup) error {
	const step = "use"
	recorded := map[string]string{} // check values, by key in lower case and version
	for it, err := range b.Inventory(ctx) {
		if err != nil {
			return err
		}
		for _, v := range it.Versions {
			recorded[place(it.Name, v.ID)] = v.Check
		}
	}
	done, all := int64(0), int64(len(recorded))
	judge := func(p proof) {
		where := place(p.held.Name, p.held.ID)
		want, there := recorded[where]
		delete(recorded, where)
		wrong := p.wrong
		switch {
		case wrong != "":
		case !there:
			wrong = "is in the restored HSM, and not in the backup's inventory"
		case want != "" && want != p.check:
			wrong = "is another key than the one that was backed up: it does not show the public key or check value that is recorded"
		case want == "" && p.held.Type == engine.Oct:
			d.r.Unchecked++
		}
		if wrong != "" {
			d.r.amiss(Finding{Step: step, Key: p.held.Name, Version: p.held.ID, Code: "KeyWrong", Reason: wrong})
			return
		}
		d.r.Proven++
	}
	err := d.hsm.Snapshot(ctx, func(snap *hsm.Snapshot) error {
		for kind, n := range map[string]int{"role-definition": len(snap.Definitions), "role-assignment": len(snap.Assignments)} {
			if want := b.Manifest().Counts[kind]; int64(n) != want {
				d.r.amiss(Finding{Step: step, Code: "RolesMissing", Reason: fmt.Sprintf("left the restored HSM with %d records of the kind %s, and the backup has %d", n, kind, want)})
			}
		}
		var waiting []keys.Held
		flush := func() error {
			list, err := prove(ctx, waiting)
			waiting = waiting[:0]
			if err != nil {
				return err
			}
			for _, p := range list {
				judge(p)
			}
			done += int64(len(list))
			d.progress(backupset.Progress{Records: done, Bytes: done, Of: all})
			return nil
		}
		err := snap.Each(ctx, func(h keys.Held) error {
			if waiting = append(waiting, h); len(waiting) < 256 {
				return nil
			}
			return flush()
		})
		if err != nil {
			return err
		}
		return flush()
	})
	if err != nil {
		return err
	}
	for _, where := range slices.Sorted(maps.Keys(recorded)) {
		key, version, _ := strings.Cut(where, "/")
		d.r.amiss(Finding{Step: step, Key: key, Version: version, Code: "KeyMissing", Reason: "is in the backup's inventory, and missing after the restore"})
	}
	return nil
}

func place(key, version string) string { return strings.ToLower(key) + "/" + version }

// prove uses some versions, several at once.
func prove(ctx context.Context, list []keys.Held) ([]proof, error) {
	out, errs := make([]proof, len(list)), make([]error, max(1, runtime.GOMAXPROCS(0)))
	var group sync.WaitGroup
	for n := range errs {
		group.Go(func() {
			for i := n; i < len(list) && errs[n] == nil; i += len(errs) {
				out[i].held = list[i]
				out[i].check, out[i].wrong, errs[n] = list[i].Prove(ctx)
			}
		})
	}
	group.Wait()
	return out, errors.Join(errs...)
}
