package backup_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/big"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"strongroom/internal/access"
	"strongroom/internal/backup"
	"strongroom/internal/backupset"
	"strongroom/internal/engine"
	"strongroom/internal/engine/software"
	"strongroom/internal/failure"
	"strongroom/internal/hsm"
	"strongroom/internal/keys"
	"strongroom/internal/seal"
	"strongroom/internal/store/memory"
	"strongroom/secret"
	"strongroom/securitydomain"
)

// shelf is a storage in memory. hook, if set, is called before each operation and may fail it.
type shelf struct {
	mu      sync.Mutex
	objects map[string][]byte
	hook    func(operation, name string) error
}

func newShelf() *shelf { return &shelf{objects: map[string][]byte{}} }

func (s *shelf) ask(operation, name string) error {
	if s.hook != nil {
		return s.hook(operation, name)
	}
	return nil
}

type object struct {
	bytes.Buffer
	s    *shelf
	name string
}

func (s *shelf) Create(_ context.Context, name string) (backupset.Object, error) {
	return &object{s: s, name: name}, s.ask("create", name)
}

func (o *object) Commit() error {
	if err := o.s.ask("commit", o.name); err != nil {
		return err
	}
	o.s.mu.Lock()
	defer o.s.mu.Unlock()
	if _, there := o.s.objects[o.name]; there {
		return fs.ErrExist
	}
	o.s.objects[o.name] = o.Bytes()
	return nil
}

func (o *object) Abort() {}

func (s *shelf) Open(_ context.Context, name string) (io.ReadCloser, error) {
	if err := s.ask("open", name); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	b, there := s.objects[name]
	if !there {
		return nil, fs.ErrNotExist
	}
	return io.NopCloser(bytes.NewReader(b)), nil
}

func (s *shelf) List(_ context.Context, folder string) (list []backupset.Info, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, b := range s.objects {
		if rest, in := strings.CutPrefix(name, folder+"/"); in {
			list = append(list, backupset.Info{Name: rest, Size: int64(len(b))})
		}
	}
	return list, nil
}

var (
	admin    = access.Caller{ObjectID: "11111111-1111-4111-8111-111111111111"}
	stranger = access.Caller{ObjectID: "22222222-2222-4222-8222-222222222222"}
)

// world is a server with HSMs and a shelf for their backups.
type world struct {
	t     testing.TB
	store *memory.Store
	seal  seal.Seal
	shelf *shelf
	now   time.Time
	mu    sync.Mutex

	hsms    *hsm.Service
	backups *backup.Service
	config  func(*backup.Config)
}

func newWorld(t testing.TB, names ...string) *world {
	sl, err := seal.CreateFile(filepath.Join(t.TempDir(), "seal.json"), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, store: memory.New(), seal: sl, shelf: newShelf(), now: time.Date(2026, 11, 25, 9, 0, 0, 0, time.UTC)}
	w.begin()
	for _, n := range names {
		w.make(n)
		if _, err := w.open(n).Download(t.Context(), admin, certificates(), 2); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

func (w *world) make(name string) {
	w.t.Helper()
	_, _, err := w.hsms.Create(w.t.Context(), hsm.Spec{Name: name, Subscription: "s", ResourceGroup: "g", Location: "local", TenantID: "t", InitialAdmins: []string{admin.ObjectID},
		MoreRoles: []string{access.RoleCryptoUser, access.RoleCryptoOfficer}})
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) clock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

func (w *world) begin() {
	log := slog.New(slog.DiscardHandler)
	w.hsms = hsm.New(hsm.Config{Store: w.store, Seal: w.seal, Authorizer: access.NewAuthorizer(w.store, w.seal), Now: w.clock, Rand: rand.Reader, Log: log, ExchangeBits: 2048,
		OpenEngine: func(wrapping, backup secret.Bytes) (engine.Engine, error) {
			return software.New(wrapping, backup, rand.Reader)
		}})
	config := backup.Config{Store: w.store, Seal: w.seal, HSMs: w.hsms, Now: w.clock, Log: log, Program: "strongroom-test",
		Open: func(_ context.Context, t backup.Target) (backupset.Storage, error) {
			if t.URI != "shelf:" {
				return nil, failure.New(failure.BadParameter, "not allowed")
			}
			return w.shelf, nil
		}}
	if w.config != nil {
		w.config(&config)
	}
	w.backups = backup.New(config)
	if err := w.backups.Recover(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	hsms, backups := w.hsms, w.backups
	w.t.Cleanup(func() { backups.Close(); hsms.Close() })
}

// restart is what the next process finds.
func (w *world) restart() {
	w.backups.Close()
	w.hsms.Close()
	w.store = w.store.Restart()
	w.begin()
}

func (w *world) open(name string) *hsm.HSM {
	w.t.Helper()
	h, err := w.hsms.Open(context.Background(), name)
	if err != nil {
		w.t.Fatal(err)
	}
	return h
}

func (w *world) keys(name string) *keys.Keys {
	w.t.Helper()
	k, err := w.open(name).Keys(context.Background())
	if err != nil {
		w.t.Fatal(err)
	}
	return k
}

func (w *world) create(name, key string, p keys.CreateParams) keys.Key {
	w.t.Helper()
	if p.Type == "" {
		p.Type = "EC"
	}
	made, err := w.keys(name).Create(context.Background(), admin, key, p)
	if err != nil {
		w.t.Fatal(err)
	}
	return made
}

var target = backup.Target{URI: "shelf:"}

// done waits for the end of a job.
func (w *world) done(name string, j backup.Job, err error) backup.Job {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
	restores := j.Kind != backup.FullBackup && j.Kind != backup.CheckBackup
	for range 3000 {
		if j, err = w.backups.Status(context.Background(), w.open(name), admin, restores, j.ID); err != nil {
			w.t.Fatal(err)
		}
		if j.Status != backup.InProgress {
			return j
		}
		time.Sleep(10 * time.Millisecond) // between questions; the number of them is the bound
	}
	w.t.Fatal("the job does not end")
	return j
}

func (w *world) backup(name string) string {
	w.t.Helper()
	j, err := w.backups.Backup(context.Background(), w.open(name), admin, target)
	if j = w.done(name, j, err); j.Status != backup.Succeeded {
		w.t.Fatalf("backup: %s %s", j.Code, j.Message)
	}
	w.mu.Lock()
	w.now = w.now.Add(time.Second) // the next backup has another name
	w.mu.Unlock()
	return j.Folder
}

func (w *world) restore(name, folder string) backup.Job {
	w.t.Helper()
	j, err := w.backups.Restore(context.Background(), w.open(name), admin, target, folder)
	return w.done(name, j, err)
}

func (w *world) inventory(name string) (list []string) {
	w.t.Helper()
	k := w.keys(name)
	page, err := k.List(context.Background(), admin, "", 25)
	if err != nil {
		w.t.Fatal(err)
	}
	deleted, err := k.ListDeleted(context.Background(), admin, "", 25)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, i := range page.Items {
		versions, err := k.ListVersions(context.Background(), admin, i.Name, "", 25)
		if err != nil {
			w.t.Fatal(err)
		}
		for _, v := range versions.Items {
			list = append(list, i.Name+"/"+v.Version)
		}
	}
	for _, i := range deleted.Items {
		list = append(list, "deleted "+i.Name)
	}
	slices.Sort(list)
	return list
}

var people = sync.OnceValue(func() (list []*rsa.PrivateKey) {
	for range 3 {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			panic(err)
		}
		list = append(list, key)
	}
	return list
})

func certificates() (list []*x509.Certificate) {
	for i, key := range people() {
		template := &x509.Certificate{SerialNumber: big.NewInt(int64(i + 1)), Subject: pkix.Name{CommonName: fmt.Sprintf("custodian-%d", i+1)}, NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<33, 0)}
		der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
		if err != nil {
			panic(err)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			panic(err)
		}
		list = append(list, cert)
	}
	return list
}

// adopt takes a new HSM into the domain of another one.
func (w *world) adopt(name, from string) {
	w.t.Helper()
	w.make(name)
	certs := certificates()
	d, err := w.open(from).Download(w.t.Context(), admin, certs, 2)
	if err != nil {
		w.t.Fatal(err)
	}
	exchange, err := w.open(name).ExchangeKey(w.t.Context(), admin)
	if err != nil {
		w.t.Fatal(err)
	}
	var holders []securitydomain.Key
	for i := range 2 {
		holders = append(holders, securitydomain.Key{Name: fmt.Sprint(i), Decrypter: people()[i], Certificate: certs[i]})
	}
	file, err := securitydomain.Parse(d.File)
	if err != nil {
		w.t.Fatal(err)
	}
	opened, err := securitydomain.Open(file, holders)
	if err != nil {
		w.t.Fatal(err)
	}
	blob, err := securitydomain.MakeTransfer(rand.Reader, opened.Items, exchange)
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := w.open(name).Upload(w.t.Context(), admin, blob); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) fill(name string) {
	w.t.Helper()
	k := w.keys(name)
	for range 2 {
		w.create(name, "Invoices", keys.CreateParams{})
	}
	w.create(name, "files", keys.CreateParams{Type: "oct"})
	w.create(name, "old", keys.CreateParams{Type: "RSA"})
	if _, err := k.SetRotationPolicy(w.t.Context(), admin, "invoices", keys.RotationPolicy{TimeAfterCreate: "P90D", ExpiryTime: "P180D"}); err != nil {
		w.t.Fatal(err)
	}
	if _, err := k.Delete(w.t.Context(), admin, "old"); err != nil {
		w.t.Fatal(err)
	}
	if _, err := w.open(name).Roles().PutAssignment(w.t.Context(), admin, access.Assignment{Name: "aaaaaaaa-0000-4000-8000-000000000001", PrincipalID: stranger.ObjectID, RoleDefinitionID: access.RoleCryptoUser, Scope: "/keys"}); err != nil {
		w.t.Fatal(err)
	}
}

// The worst day: the HSM is lost, another one takes over its domain and its backup, and what was signed before verifies.
func TestDisasterRecovery(t *testing.T) {
	w := newWorld(t, "alpha")
	w.fill("alpha")
	digest := make([]byte, 32)
	signed, err := w.keys("alpha").Sign(t.Context(), stranger, "invoices", "", "ES256", digest)
	if err != nil {
		t.Fatal(err)
	}
	want, folder := w.inventory("alpha"), w.backup("alpha")
	if !strings.HasPrefix(folder, "mhsm-alpha-2026112509000") {
		t.Errorf("folder %s", folder)
	}
	w.adopt("beta", "alpha")
	j := w.restore("beta", folder)
	if j.Status != backup.Succeeded || j.Records != 8 || !strings.Contains(j.Details, "2 keys and 1 deleted key with 4 versions, 4 role assignments") {
		t.Fatalf("restore: %+v", j)
	}
	for range 2 {
		if d := cmp.Diff(want, w.inventory("beta")); d != "" {
			t.Errorf("keys (-lost +recovered):\n%s", d)
		}
		if ok, err := w.keys("beta").Verify(t.Context(), stranger, "invoices", signed.Version, "ES256", digest, signed.Signature); err != nil || !ok {
			t.Errorf("a signature of before: %v, %v", ok, err)
		}
		w.restart()
	}
	if again, err := w.backups.Status(t.Context(), w.open("beta"), admin, true, j.ID); err != nil || again.Status != backup.Succeeded {
		t.Errorf("the job after a restart: %+v, %v", again, err)
	}
}

// Covers B5 and the rule that a backup stays in its domain: it is refused before anything is written, and names both.
func TestAnotherDomain(t *testing.T) {
	w := newWorld(t, "alpha", "beta")
	w.fill("alpha")
	w.create("beta", "mine", keys.CreateParams{})
	want, folder := w.inventory("beta"), w.backup("alpha")
	alpha, _ := w.open("alpha").DomainID()
	beta, _ := w.open("beta").DomainID()
	for kind, begin := range map[string]func() (backup.Job, error){
		"restore": func() (backup.Job, error) {
			return w.backups.Restore(t.Context(), w.open("beta"), admin, target, folder)
		},
		"prerestore": func() (backup.Job, error) {
			return w.backups.CheckRestore(t.Context(), w.open("beta"), admin, &target, folder)
		},
		"one key": func() (backup.Job, error) {
			return w.backups.RestoreKey(t.Context(), w.open("beta"), admin, target, folder, "invoices")
		},
	} {
		j, err := begin()
		j = w.done("beta", j, err)
		if j.Status != backup.Failed || j.Code != backupset.OtherDomain || !strings.Contains(j.Message, alpha) || !strings.Contains(j.Message, beta) {
			t.Errorf("%s: %+v", kind, j)
		}
		if d := cmp.Diff(want, w.inventory("beta")); d != "" {
			t.Errorf("%s changed something:\n%s", kind, d)
		}
	}
}

// Covers B2: whatever is wrong with a backup, wherever in it, the restore names it and changes nothing.
func TestDamagedBackupsChangeNothing(t *testing.T) {
	w := newWorld(t, "alpha")
	w.fill("alpha")
	folder := w.backup("alpha")
	w.create("alpha", "later", keys.CreateParams{})
	other := w.backup("alpha")
	want := w.inventory("alpha")
	whole := map[string][]byte{}
	for name, b := range w.shelf.objects {
		whole[name] = b
	}
	flip := func(name string, at int) func() {
		return func() {
			b := bytes.Clone(whole[name])
			b[(at+len(b))%len(b)] ^= 1
			w.shelf.objects[name] = b
		}
	}
	for what, c := range map[string]struct {
		damage func()
		code   string
	}{
		"a bit in a part":          {flip(folder+"/part-000001", -100), backupset.Changed},
		"a bit in the inventory":   {flip(folder+"/inventory", -20), backupset.Changed},
		"a bit in the manifest":    {flip(folder+"/manifest", -20), backupset.Forged},
		"a part is gone":           {func() { delete(w.shelf.objects, folder+"/part-000001") }, backupset.Missing},
		"the inventory is gone":    {func() { delete(w.shelf.objects, folder+"/inventory") }, backupset.Missing},
		"the manifest is gone":     {func() { delete(w.shelf.objects, folder+"/manifest") }, backupset.Unfinished},
		"all is gone":              {func() { clear(w.shelf.objects) }, backupset.NotThere},
		"a part is cut":            {func() { w.shelf.objects[folder+"/part-000001"] = whole[folder+"/part-000001"][:200] }, backupset.Truncated},
		"a part of another backup": {func() { w.shelf.objects[folder+"/part-000001"] = whole[other+"/part-000001"] }, backupset.Mixed},
		"another backup in its name": {func() {
			for _, o := range []string{"part-000001", "inventory", "manifest"} {
				w.shelf.objects[folder+"/"+o] = whole[other+"/"+o]
			}
		}, backupset.Renamed},
	} {
		t.Run(what, func(t *testing.T) {
			c.damage()
			defer func() {
				clear(w.shelf.objects)
				for name, b := range whole {
					w.shelf.objects[name] = b
				}
			}()
			if j := w.restore("alpha", folder); j.Status != backup.Failed || j.Code != c.code {
				t.Errorf("restore: %s %s %s, want %s", j.Status, j.Code, j.Message, c.code)
			}
			if d := cmp.Diff(want, w.inventory("alpha")); d != "" {
				t.Errorf("something changed:\n%s", d)
			}
		})
	}
}

// A storage that fails, at any of its operations, ends the job with a reason, and the HSM goes on as it was.
func TestFailingStorage(t *testing.T) {
	w := newWorld(t, "alpha")
	w.fill("alpha")
	folder, want := w.backup("alpha"), w.inventory("alpha")
	for n := range 12 {
		count := 0
		w.shelf.hook = func(string, string) error {
			if count++; count > n {
				return errors.New("sas=SECRET refused")
			}
			return nil
		}
		j := w.restore("alpha", folder)
		if j.Status == backup.Succeeded {
			if n < 4 {
				t.Errorf("a restore with %d operations", n)
			}
			w.shelf.hook = nil
			continue
		}
		if strings.Contains(j.Message, "SECRET") || j.Message == "" {
			t.Errorf("after %d operations: %q", n, j.Message)
		}
		w.shelf.hook = nil
		if d := cmp.Diff(want, w.inventory("alpha")); d != "" {
			t.Errorf("after %d operations:\n%s", n, d)
		}
	}
	for n := range 6 {
		count := 0
		w.shelf.hook = func(string, string) error {
			if count++; count > n {
				return errors.New("sas=SECRET refused")
			}
			return nil
		}
		j, err := w.backups.Backup(t.Context(), w.open("alpha"), admin, target)
		j = w.done("alpha", j, err)
		w.shelf.hook = nil
		if j.Status != backup.Failed || strings.Contains(j.Message, "SECRET") {
			t.Errorf("a backup with %d operations: %+v", n, j)
		}
		w.now = w.now.Add(time.Second)
	}
}

// Covers A1, A6: who may not, begins nothing; jobs of one HSM are unknown on another.
func TestWhoMay(t *testing.T) {
	w := newWorld(t, "alpha", "beta")
	folder := w.backup("alpha")
	h := w.open("alpha")
	for what, call := range map[string]func(c access.Caller) error{
		"backup":    func(c access.Caller) error { _, err := w.backups.Backup(t.Context(), h, c, target); return err },
		"prebackup": func(c access.Caller) error { _, err := w.backups.CheckBackup(t.Context(), h, c, nil); return err },
		"restore": func(c access.Caller) error {
			_, err := w.backups.Restore(t.Context(), h, c, target, folder)
			return err
		},
		"prerestore": func(c access.Caller) error {
			_, err := w.backups.CheckRestore(t.Context(), h, c, &target, folder)
			return err
		},
		"key": func(c access.Caller) error {
			_, err := w.backups.RestoreKey(t.Context(), h, c, target, folder, "k")
			return err
		},
		"jobs": func(c access.Caller) error { _, err := w.backups.Jobs(t.Context(), h, c); return err },
		"status": func(c access.Caller) error {
			_, err := w.backups.Status(t.Context(), h, c, false, strings.Repeat("0", 32))
			return err
		},
	} {
		if err := call(stranger); !errors.Is(err, failure.Forbidden) {
			t.Errorf("%s by a stranger: %v", what, err)
		}
	}
	list, err := w.backups.Jobs(t.Context(), h, admin)
	if err != nil || len(list) != 1 {
		t.Fatalf("jobs: %+v, %v", list, err)
	}
	for what, call := range map[string]func() error{
		"on another HSM": func() error {
			_, err := w.backups.Status(t.Context(), w.open("beta"), admin, false, list[0].ID)
			return err
		},
		"of the other kind":    func() error { _, err := w.backups.Status(t.Context(), h, admin, true, list[0].ID); return err },
		"of a form that is no": func() error { _, err := w.backups.Status(t.Context(), h, admin, false, "../record"); return err },
	} {
		if err := call(); !errors.Is(err, failure.NotFound) {
			t.Errorf("a job %s: %v", what, err)
		}
	}
	w.make("gamma")
	if _, err := w.backups.Backup(t.Context(), w.open("gamma"), admin, target); !errors.Is(err, failure.NotActivated) {
		t.Errorf("backup of an HSM without a domain: %v", err)
	}
	if _, err := w.backups.Backup(t.Context(), h, admin, backup.Target{URI: "https://elsewhere"}); !errors.Is(err, failure.BadParameter) {
		t.Errorf("a place that is not allowed: %v", err)
	}
}

// One job of an HSM at a time; those of other HSMs go on. A job that the end of the process cuts off has failed, by name.
func TestOneAtATime(t *testing.T) {
	w := newWorld(t, "alpha", "beta")
	w.fill("alpha")
	hold, held := make(chan struct{}), make(chan struct{}, 10)
	w.shelf.hook = func(op, name string) error {
		if op == "create" && strings.Contains(name, "alpha") {
			held <- struct{}{}
			<-hold
		}
		return nil
	}
	first, err := w.backups.Backup(t.Context(), w.open("alpha"), admin, target)
	if err != nil {
		t.Fatal(err)
	}
	<-held
	if _, err := w.backups.Restore(t.Context(), w.open("alpha"), admin, target, "x"); !errors.Is(err, failure.Conflict) || !strings.Contains(err.Error(), first.ID) {
		t.Errorf("a second job: %v", err)
	}
	w.backup("beta")
	if j, err := w.backups.Status(t.Context(), w.open("alpha"), admin, false, first.ID); err != nil || j.Status != backup.InProgress || j.Ended != nil {
		t.Errorf("a job under way: %+v, %v", j, err)
	}
	// As after kill -9: nobody writes the end down. What the store held is taken before the process ends.
	crashed := w.store.Restart()
	close(hold)
	w.backups.Close()
	w.hsms.Close()
	w.store = crashed
	w.shelf.hook = nil
	w.begin()
	j, err := w.backups.Status(t.Context(), w.open("alpha"), admin, false, first.ID)
	if err != nil || j.Status != backup.Failed || j.Code != "Interrupted" || j.Ended == nil || !strings.Contains(j.Message, "unfinished") {
		t.Errorf("a job that was cut off: %+v, %v", j, err)
	}
	w.mu.Lock()
	w.now = w.now.Add(time.Minute)
	w.mu.Unlock()
	w.backup("alpha")
}

// A process that ends in a restore, before the switch or just after it, leaves a job that says which.
func TestRestoreCutOff(t *testing.T) {
	w := newWorld(t, "alpha")
	w.fill("alpha")
	folder, before := w.backup("alpha"), w.inventory("alpha")
	w.create("alpha", "later", keys.CreateParams{})
	now := w.inventory("alpha")
	steps := 0
	for n := 1; ; n++ {
		seen, crashed := 0, (*memory.Store)(nil)
		done := make(chan struct{})
		stop := w.store.Watch(func([]string) {
			if seen++; seen == n {
				crashed = w.store.Restart() // what is on disk now
				close(done)
			}
		})
		j, err := w.backups.Restore(t.Context(), w.open("alpha"), admin, target, folder)
		if err != nil {
			t.Fatal(err)
		}
		over := w.ended("alpha", j)
		select {
		case <-done:
		case <-over:
		}
		<-over // in the process that is not there any more; nobody looks at it when another begins
		stop()
		if crashed == nil {
			if steps < 4 {
				t.Errorf("a restore has %d commits", steps)
			}
			return
		}
		steps++
		w.backups.Close()
		w.hsms.Close()
		w.store = crashed
		w.begin()
		j, err = w.backups.Status(t.Context(), w.open("alpha"), admin, true, j.ID)
		if err != nil {
			t.Fatal(err)
		}
		want := now
		if j.Status == backup.Succeeded {
			want = before
		}
		if j.Status == backup.InProgress {
			t.Errorf("after %d commits the job is still under way", n)
		}
		if d := cmp.Diff(want, w.inventory("alpha")); d != "" {
			t.Errorf("cut off after %d commits, and the job is %s:\n%s", n, j.Status, d)
		}
		if j.Status == backup.Succeeded {
			if _, err := w.open("alpha").UndoRestore(t.Context(), admin); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// ended is closed when a job has ended.
func (w *world) ended(name string, j backup.Job) <-chan struct{} {
	c := make(chan struct{})
	go func() {
		defer close(c)
		w.done(name, j, nil)
	}()
	return c
}

// A dry run says what would be, and changes nothing; the restore of one key changes nothing else.
func TestDryRunAndOneKey(t *testing.T) {
	w := newWorld(t, "alpha")
	w.fill("alpha")
	folder := w.backup("alpha")
	k := w.keys("alpha")
	w.create("alpha", "files", keys.CreateParams{Type: "oct"}) // another version
	w.create("alpha", "later", keys.CreateParams{})
	if _, err := k.Delete(t.Context(), admin, "invoices"); err != nil {
		t.Fatal(err)
	}
	one := func() backup.Job {
		j, err := w.backups.RestoreKey(t.Context(), w.open("alpha"), admin, target, folder, "INVOICES")
		return w.done("alpha", j, err)
	}
	if j := one(); j.Status != backup.Failed || j.Code != "ObjectIsDeletedButRecoverable" {
		t.Errorf("one key, over a deleted one: %+v", j)
	}
	if err := k.Purge(t.Context(), admin, "invoices"); err != nil {
		t.Fatal(err)
	}
	want := w.inventory("alpha")
	j, err := w.backups.CheckRestore(t.Context(), w.open("alpha"), admin, &target, folder)
	j = w.done("alpha", j, err)
	for _, part := range []string{"add 1 key (Invoices)", "give 1 key (files) other versions", "remove 1 key (later)", "leave 1 key with"} {
		if j.Status != backup.Succeeded || !strings.Contains(j.Details, part) {
			t.Errorf("dry run: %s %s, want %q", j.Status, j.Details, part)
		}
	}
	if strings.Contains(j.Details, "WARNING") {
		t.Errorf("dry run by an administrator: %s", j.Details)
	}
	if d := cmp.Diff(want, w.inventory("alpha")); d != "" {
		t.Errorf("a dry run changed something:\n%s", d)
	}
	if j := one(); j.Status != backup.Succeeded || j.Details != "Number of successful key versions restored: 2, Number of key versions could not overwrite: 0" {
		t.Errorf("one key: %+v", j)
	}
	var kept []string
	for _, i := range w.inventory("alpha") {
		if !strings.HasPrefix(i, "Invoices/") {
			kept = append(kept, i)
		}
	}
	if d := cmp.Diff(want, kept); d != "" {
		t.Errorf("one key changed another:\n%s", d)
	}
	if p, err := w.keys("alpha").GetRotationPolicy(t.Context(), admin, "invoices"); err != nil || p.ExpiryTime != "P180D" {
		t.Errorf("the rotation policy of a restored key: %+v, %v", p, err)
	}
	if j := one(); j.Status != backup.Failed || j.Code != "Conflict" {
		t.Errorf("one key, over itself: %+v", j)
	}
	if j, err := w.backups.RestoreKey(t.Context(), w.open("alpha"), admin, target, folder, "later"); err != nil {
		t.Fatal(err)
	} else if j = w.done("alpha", j, nil); j.Code != "KeyNotFound" {
		t.Errorf("a key that the backup has not: %+v", j)
	}
}

// Who was no administrator at the time of the backup is told before and after.
func TestRestoredOut(t *testing.T) {
	w := newWorld(t, "alpha")
	folder := w.backup("alpha")
	if _, err := w.open("alpha").Roles().PutAssignment(t.Context(), admin, access.Assignment{Name: "aaaaaaaa-0000-4000-8000-000000000001", PrincipalID: stranger.ObjectID, RoleDefinitionID: access.RoleAdministrator, Scope: "/"}); err != nil {
		t.Fatal(err)
	}
	j, err := w.backups.CheckRestore(t.Context(), w.open("alpha"), stranger, &target, folder)
	if j = w.done("alpha", j, err); !strings.Contains(j.Details, "WARNING: the caller would not be an administrator afterwards") {
		t.Errorf("dry run: %s", j.Details)
	}
	j, err = w.backups.Restore(t.Context(), w.open("alpha"), stranger, target, folder)
	if j = w.done("alpha", j, err); j.Status != backup.Succeeded || !strings.Contains(j.Details, "The caller is no administrator any more") {
		t.Errorf("restore: %+v", j)
	}
	if _, err := w.backups.Jobs(t.Context(), w.open("alpha"), stranger); !errors.Is(err, failure.Forbidden) {
		t.Errorf("after the restore: %v", err)
	}
}

// Azure's rule, where the configuration wants it.
func TestRecentBackup(t *testing.T) {
	w := newWorld(t, "alpha")
	w.config = func(c *backup.Config) { c.RecentBackup = 30 * time.Minute }
	w.restart()
	folder := w.backup("alpha")
	if j := w.restore("alpha", folder); j.Status != backup.Failed || j.Code != "BackupRequired" {
		t.Errorf("just after a backup: %+v", j)
	}
	w.mu.Lock()
	w.now = w.now.Add(30 * time.Minute)
	w.mu.Unlock()
	if j := w.restore("alpha", folder); j.Status != backup.Succeeded {
		t.Errorf("half an hour later: %+v", j)
	}
}

// A backup is of one moment: two keys that are made anew again and again, always the second after the first, never show the second ahead.
func TestSnapshotIsOfOneMoment(t *testing.T) {
	w := newWorld(t, "alpha")
	k := w.keys("alpha")
	stop, rounds := make(chan struct{}), make(chan int, 1)
	go func() {
		n := 0
		defer func() { rounds <- n }()
		for {
			select {
			case <-stop:
				return
			default:
			}
			for _, name := range []string{"z-first", "a-second"} {
				if n < keys.MaxVersions-1 {
					if _, err := k.Create(context.Background(), admin, name, keys.CreateParams{Type: "EC"}); err != nil {
						t.Error(err)
						return
					}
				}
			}
			n++
		}
	}()
	var folders []string
	for range 8 {
		folders = append(folders, w.backup("alpha"))
	}
	close(stop)
	if n := <-rounds; n < 8 {
		t.Logf("only %d rounds beside the backups", n)
	}
	for _, f := range folders {
		b, err := backupset.Open(t.Context(), w.shelf, f)
		if err != nil {
			t.Fatal(err)
		}
		versions := map[string]int{}
		for i, err := range b.Inventory(t.Context()) {
			if err != nil {
				t.Fatal(err)
			}
			versions[i.Name] = len(i.Versions)
		}
		if d := versions["z-first"] - versions["a-second"]; d < 0 || d > 1 {
			t.Errorf("backup %s has %d versions of the first key and %d of the second", f, versions["z-first"], versions["a-second"])
		}
	}
}

// A job whose end cannot be written down, because the disk is full, is over all the same for who asks; the next job writes it.
func TestEndThatCannotBeWritten(t *testing.T) {
	w := newWorld(t, "alpha")
	w.fill("alpha")
	folder := w.backup("alpha")
	w.store.Inject(memory.Fault{At: 2, Forever: true}) // the begin of the job is written, and nothing after it
	j := w.restore("alpha", folder)
	if j.Status != backup.Failed || j.Ended == nil || j.Message == "" {
		t.Errorf("on a full disk: %+v", j)
	}
	list, err := w.backups.Jobs(t.Context(), w.open("alpha"), admin)
	if err != nil || len(list) != 2 || list[0].Status != backup.Failed {
		t.Errorf("jobs: %+v, %v", list, err)
	}
	w.store.Inject(memory.Fault{})
	w.backup("alpha")
	w.restart()
	if after, err := w.backups.Status(t.Context(), w.open("alpha"), admin, true, j.ID); err != nil || after.Status != backup.Failed || after.Message != j.Message {
		t.Errorf("after the next job and a restart: %+v, %v", after, err)
	}
}

// Covers B4: a folder is a name, or no job begins. Where a URL with a token is cut at the wrong place, the token would be at its end,
// and be written down for everybody who may read jobs.
func TestFolderIsAName(t *testing.T) {
	w := newWorld(t, "alpha")
	h := w.open("alpha")
	for _, folder := range []string{"", ".", "..", "../x", "a/b", `a\b`, ".hidden", "a b", "mhsm-alpha-1?sv=1&sig=SECRET", "mhsm-alpha-1&sig=SECRET", "SECRET\n", strings.Repeat("SECRET", 22)} {
		for what, begin := range map[string]func() (backup.Job, error){
			"restore":    func() (backup.Job, error) { return w.backups.Restore(t.Context(), h, admin, target, folder) },
			"prerestore": func() (backup.Job, error) { return w.backups.CheckRestore(t.Context(), h, admin, &target, folder) },
			"key":        func() (backup.Job, error) { return w.backups.RestoreKey(t.Context(), h, admin, target, folder, "k") },
		} {
			j, err := begin()
			if !errors.Is(err, failure.BadParameter) || strings.Contains(err.Error(), "SECRET") {
				t.Errorf("%s of %q: %v", what, folder, err)
			}
			if err == nil {
				w.done("alpha", j, nil)
			}
		}
	}
	if list, err := w.backups.Jobs(t.Context(), h, admin); err != nil || len(list) != 0 {
		t.Errorf("there are jobs: %+v, %v", list, err)
	}
}

// Jobs beside which the HSM is used look whether it is, and end also where calls never stop. A restore, in which the HSM
// answers nobody, does not look.
func TestJobsGiveWay(t *testing.T) {
	w := newWorld(t, "alpha")
	for i := range 40 {
		w.create("alpha", fmt.Sprintf("key-%d", i), keys.CreateParams{})
	}
	w.backups.Close()
	var asked atomic.Uint64
	w.config = func(c *backup.Config) { c.Calls = func() uint64 { return asked.Add(1) } } // another call each time
	w.begin()
	looks := func() uint64 { return asked.Swap(0) }
	folder := w.backup("alpha")
	if n := looks(); n < 3 {
		t.Errorf("a backup looked %d times whether the HSM is used", n)
	}
	h := w.open("alpha")
	j, err := w.backups.CheckBackup(t.Context(), h, admin, nil)
	if j = w.done("alpha", j, err); j.Status != backup.Succeeded || looks() < 3 {
		t.Errorf("prebackup: %+v", j)
	}
	j, err = w.backups.CheckRestore(t.Context(), h, admin, &target, folder)
	if j = w.done("alpha", j, err); j.Status != backup.Succeeded || looks() < 3 {
		t.Errorf("prerestore: %+v", j)
	}
	if j := w.restore("alpha", folder); j.Status != backup.Succeeded || looks() != 0 {
		t.Errorf("restore: %+v", j)
	}
}
