package drill_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"strongroom/internal/access"
	"strongroom/internal/backup"
	"strongroom/internal/backupset"
	"strongroom/internal/drill"
	"strongroom/internal/engine"
	"strongroom/internal/engine/software"
	"strongroom/internal/hsm"
	"strongroom/internal/keys"
	"strongroom/internal/seal"
	"strongroom/internal/statement"
	"strongroom/internal/store/memory"
	"strongroom/internal/target"
	"strongroom/secret"
	"strongroom/securitydomain"
)

var admin = access.Caller{ObjectID: "11111111-1111-4111-8111-111111111111"}

// shelf is a folder of this machine as package backupset sees it.
type shelf struct{ target.Target }

func (s shelf) Create(ctx context.Context, name string) (backupset.Object, error) {
	return s.Target.Create(ctx, name)
}

func (s shelf) List(ctx context.Context, folder string) ([]backupset.Info, error) {
	found, err := s.Target.List(ctx, folder)
	list := make([]backupset.Info, len(found))
	for i, f := range found {
		list[i] = backupset.Info{Name: f.Name, Size: f.Size}
	}
	return list, err
}

// lost is an HSM that was in use: what is left of it is a backup, an SD file, and three people with keys.
type lost struct {
	t       *testing.T
	dir     string // of backups
	shelf   shelf
	folder  string
	sd      *securitydomain.File
	people  []*rsa.PrivateKey
	certs   []*x509.Certificate
	domain  string
	engine  engine.Engine
	signing *ecdsa.PrivateKey
	now     time.Time
}

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func lose(t *testing.T) *lost {
	t.Helper()
	l := &lost{t: t, dir: t.TempDir(), now: time.Date(2026, 11, 25, 9, 0, 0, 0, time.UTC)}
	own := must[*target.Places](t)(target.Own(target.Config{}))
	l.shelf = shelf{must[target.Target](t)(own.Open(must[target.Location](t)(target.Parse(l.dir))))}
	for i := range 3 {
		key := must[*rsa.PrivateKey](t)(rsa.GenerateKey(rand.Reader, 2048))
		template := &x509.Certificate{SerialNumber: big.NewInt(int64(i + 1)), Subject: pkix.Name{CommonName: []string{"ada", "bo", "cy"}[i]}, NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<33, 0)}
		der := must[[]byte](t)(x509.CreateCertificate(rand.Reader, template, template, key.Public(), key))
		l.people, l.certs = append(l.people, key), append(l.certs, must[*x509.Certificate](t)(x509.ParseCertificate(der)))
	}
	db := memory.New()
	passing := must[seal.Seal](t)(seal.NewPassing(rand.Reader))
	log, clock := slog.New(slog.DiscardHandler), func() time.Time { return l.now }
	hsms := hsm.New(hsm.Config{Store: db, Seal: passing, Authorizer: access.NewAuthorizer(db, passing), Now: clock, Rand: rand.Reader, Log: log, ExchangeBits: 2048,
		OpenEngine: func(wrapping, backup secret.Bytes) (engine.Engine, error) {
			return software.New(wrapping, backup, rand.Reader)
		}})
	defer hsms.Close()
	if _, _, err := hsms.Create(t.Context(), hsm.Spec{Name: "alpha", Subscription: "s", ResourceGroup: "g", Location: "local", TenantID: "t", InitialAdmins: []string{admin.ObjectID},
		MoreRoles: []string{access.RoleCryptoUser, access.RoleCryptoOfficer}}); err != nil {
		t.Fatal(err)
	}
	h := must[*hsm.HSM](t)(hsms.Open(t.Context(), "alpha"))
	l.sd = must[*securitydomain.File](t)(securitydomain.Parse(must[hsm.Download](t)(h.Download(t.Context(), admin, l.certs, 2)).File))
	l.fill(must[*keys.Keys](t)(h.Keys(t.Context())))
	backups := backup.New(backup.Config{Store: db, Seal: passing, HSMs: hsms, Now: clock, Log: log, Program: "strongroom-test",
		Open: func(context.Context, backup.Target) (backupset.Storage, error) { return l.shelf, nil }})
	j := must[backup.Job](t)(backups.Backup(t.Context(), h, admin, backup.Target{URI: "here:"}))
	for j.Status == backup.InProgress {
		select {
		case <-t.Context().Done():
			t.Fatal("the backup does not end")
		default:
			j = must[backup.Job](t)(backups.Status(t.Context(), h, admin, false, j.ID))
		}
	}
	backups.Close()
	if j.Status != backup.Succeeded {
		t.Fatalf("backup: %s", j.Message)
	}
	l.folder = j.Folder
	opened := must[*securitydomain.Opened](t)(l.open(t.Context(), 0, 1))
	id, wrapping, backupKey, err := hsm.DomainKeys(opened.Items)
	if err != nil {
		t.Fatal(err)
	}
	l.domain, l.engine = id, must[engine.Engine](t)(software.New(wrapping, backupKey, rand.Reader))
	t.Cleanup(l.engine.Close)
	for _, item := range opened.Items {
		if item.Tag == securitydomain.TagSigningKey {
			l.signing = must[any](t)(x509.ParsePKCS8PrivateKey(item.Value.Reveal())).(*ecdsa.PrivateKey)
		}
	}
	return l
}

// fill makes keys of every kind: one with two versions, one that is disabled, one that has expired, one that is deleted.
func (l *lost) fill(k *keys.Keys) {
	make := func(name string, p keys.CreateParams) keys.Key {
		return must[keys.Key](l.t)(k.Create(l.t.Context(), admin, name, p))
	}
	make("invoices", keys.CreateParams{Type: "EC", Curve: "P-256"})
	make("invoices", keys.CreateParams{Type: "EC", Curve: "P-256"})
	make("chain", keys.CreateParams{Type: "EC", Curve: "P-256K"})
	make("archive", keys.CreateParams{Type: "oct", Bits: 256})
	make("short", keys.CreateParams{Type: "oct", Bits: 128})
	make("receiver", keys.CreateParams{Type: "RSA", Bits: 2048, Ops: []string{"import"}})
	off := make("off", keys.CreateParams{Type: "EC", Curve: "P-384"})
	no := false
	must[keys.Key](l.t)(k.Update(l.t.Context(), admin, "off", off.Version, keys.UpdateParams{Enabled: &no}))
	make("expired", keys.CreateParams{Type: "EC", Curve: "P-521", Expires: l.at(time.Hour)})
	make("gone", keys.CreateParams{Type: "EC", Curve: "P-256"})
	must[keys.DeletedKey](l.t)(k.Delete(l.t.Context(), admin, "gone"))
	l.now = l.now.Add(2 * time.Hour)
}

func (l *lost) at(d time.Duration) *time.Time {
	t := l.now.Add(d)
	return &t
}

func (l *lost) open(_ context.Context, who ...int) (*securitydomain.Opened, error) {
	var holders []securitydomain.Key
	for _, i := range who {
		holders = append(holders, securitydomain.Key{Name: fmt.Sprint(i), Decrypter: l.people[i], Certificate: l.certs[i]})
	}
	return securitydomain.Open(l.sd, holders)
}

// hold holds a drill with the keys of two, and looks that nothing is left behind.
func (l *lost) hold(ctx context.Context, folder string, who ...int) (*drill.Report, []byte, error) {
	l.t.Helper()
	dir := l.t.TempDir()
	var opened *securitydomain.Opened
	r, jws, err := drill.Run(ctx, drill.Options{Dir: dir, Storage: l.shelf, Place: l.dir, Folder: folder, SD: l.sd,
		Open: func(ctx context.Context) (o *securitydomain.Opened, err error) {
			opened, err = l.open(ctx, who...)
			return opened, err
		},
		Now: func() time.Time { return l.now.Add(3 * time.Hour) }, Rand: rand.Reader, Log: slog.New(slog.DiscardHandler), Program: "strongroom-test"})
	if left, e := os.ReadDir(dir); e != nil || len(left) != 0 {
		l.t.Errorf("the folder of the drill holds %v, %v", left, e)
	}
	if opened != nil {
		for _, item := range opened.Items {
			if !bytes.Equal(item.Value.Reveal(), make([]byte, item.Value.Len())) {
				l.t.Errorf("the item %s was not wiped", item.Tag)
			}
		}
	}
	return r, jws, err
}

// The total loss, rehearsed: every version of every key comes back and does what it should, also those that nobody may use.
func TestDrill(t *testing.T) {
	l := lose(t)
	r, jws, err := l.hold(t.Context(), l.folder, 0, 2)
	if err != nil {
		t.Fatal(err)
	}
	if !r.Passed || r.Domain != l.domain || r.Keys != 8 || r.Versions != 9 || r.Proven != 9 || r.Unchecked != 0 || len(r.Findings) != 0 {
		t.Errorf("report %+v", r)
	}
	var steps []string
	for _, s := range r.Steps {
		steps = append(steps, s.Name)
	}
	if want := []string{"open-domain", "make-hsm", "recover", "restore", "use"}; !slices.Equal(steps, want) {
		t.Errorf("steps %v, want %v", steps, want)
	}
	label := func(list []drill.Custodian) (s string) {
		for _, c := range list {
			s += c.Label + " "
		}
		return s
	}
	if label(r.Custodians) != "ada cy " || label(r.NotExercised) != "bo " || r.Required != 2 {
		t.Errorf("custodians %v, not exercised %v, required %d", r.Custodians, r.NotExercised, r.Required)
	}
	if r.Backup.HSM != "alpha" || r.Backup.Folder != l.folder || r.AgeSeconds != 3*60*60 {
		t.Errorf("backup %+v, age %d", r.Backup, r.AgeSeconds)
	}
	said, err := statement.Verify(jws, drill.ReportType)
	if err != nil || said.Domain != l.domain {
		t.Errorf("the report is signed by %s, %v", said.Domain, err)
	}
}

// rewrite writes the backup again, as the domain can, with records changed. change returns false for one that is left out.
func (l *lost) rewrite(change func(r *backupset.Record) bool) string {
	l.t.Helper()
	b := must[*backupset.Backup](l.t)(backupset.Open(l.t.Context(), l.shelf, l.folder))
	l.now = l.now.Add(time.Second)
	folder := backupset.FolderName("alpha", l.now)
	w := must[*backupset.Writer](l.t)(backupset.New(l.t.Context(), backupset.Options{Storage: l.shelf, Folder: folder, Domain: l.domain, HSM: "alpha", HSMID: "id", Sealer: l.engine, Sign: l.sign,
		Rand: rand.Reader, Clock: func() time.Time { return l.now }, Program: "test"}))
	defer w.Abort()
	for r, err := range b.Records(l.t.Context(), l.domain, l.engine, nil) {
		if err != nil {
			l.t.Fatal(err)
		}
		if !change(&r) {
			continue
		}
		if err := w.Add(l.t.Context(), r); err != nil {
			l.t.Fatal(err)
		}
	}
	must[backupset.Manifest](l.t)(w.Finish(l.t.Context()))
	return folder
}

func (l *lost) sign(_ context.Context, typ string, payload []byte) ([]byte, error) {
	jws, _, err := statement.Sign(l.signing, typ, payload)
	return jws, err
}

// withoutKey leaves a key out of the parts and not out of the inventory.
func (l *lost) withoutKey(name string) string {
	folder := l.rewrite(func(r *backupset.Record) bool { return r.Name != name })
	whole := must[[]byte](l.t)(os.ReadFile(filepath.Join(l.dir, l.folder, "inventory")))
	_, lines, _ := bytes.Cut(whole, []byte("\n"))
	file := filepath.Join(l.dir, folder, "inventory")
	head, _, _ := bytes.Cut(must[[]byte](l.t)(os.ReadFile(file)), []byte("\n"))
	inventory := append(append(head, '\n'), lines...)
	if err := os.WriteFile(file, inventory, 0o600); err != nil {
		l.t.Fatal(err)
	}
	of := func(folder string) (m backupset.Manifest) {
		jws := must[[]byte](l.t)(os.ReadFile(filepath.Join(l.dir, folder, "manifest")))
		if err := json.Unmarshal(must[statement.Statement](l.t)(statement.Verify(jws, backupset.ManifestType)).Payload, &m); err != nil {
			l.t.Fatal(err)
		}
		return m
	}
	m, before := of(folder), of(l.folder)
	sum := sha256.Sum256(inventory)
	m.Counts, m.Records, m.Versions, m.Deleted = before.Counts, before.Records, before.Versions, before.Deleted
	m.Inventory = backupset.ObjectInfo{Name: "inventory", Size: int64(len(inventory)), SHA256: hex.EncodeToString(sum[:]), Records: before.Records}
	m.Parts[0].Records = before.Records
	jws := must[[]byte](l.t)(l.sign(l.t.Context(), backupset.ManifestType, must[[]byte](l.t)(json.Marshal(m))))
	if err := os.WriteFile(filepath.Join(l.dir, folder, "manifest"), jws, 0o600); err != nil {
		l.t.Fatal(err)
	}
	return folder
}

// A backup that is not what it should be fails the drill, and the report names what is missing or wrong.
func TestDrillNamesWhatIsWrong(t *testing.T) {
	l := lose(t)
	body := func(name string, edit func(body map[string]any, version map[string]any)) func(r *backupset.Record) bool {
		return func(r *backupset.Record) bool {
			if r.Name != name {
				return true
			}
			var b map[string]any
			if err := json.Unmarshal(r.Body, &b); err != nil {
				t.Fatal(err)
			}
			edit(b, b["versions"].([]any)[0].(map[string]any))
			r.Body = must[[]byte](t)(json.Marshal(b))
			return true
		}
	}
	check := func(name string) func(r *backupset.Record) bool {
		return func(r *backupset.Record) bool {
			if r.Name == name {
				r.Versions[0].Check = strings.Repeat("A", len(r.Versions[0].Check))
			}
			return true
		}
	}
	for name, tc := range map[string]struct {
		folder string
		want   string // what, code and reason of a finding
	}{
		"a key was left out":            {l.withoutKey("chain"), "key chain KeyWrong is in the inventory, and missing where it should be in the parts"},
		"the last key was left out":     {l.withoutKey("gone"), "key gone KeyWrong is in the inventory, and missing where it should be in the parts"},
		"another public key":            {l.rewrite(body("off", func(_, v map[string]any) { v["x"] = v["y"] })), "key off, version * KeyWrong has another public key than its record says"},
		"no public key":                 {l.rewrite(body("off", func(_, v map[string]any) { delete(v, "x") })), "key off, version * KeyWrong cannot be checked: its record holds no public key"},
		"material of another key":       {l.rewrite(body("receiver", func(_, v map[string]any) { v["sealed"] = "AAAA" })), "key receiver, version * KeyWrong does not open: its material was changed, or is that of another key"},
		"no key at all":                 {l.rewrite(body("archive", func(b, _ map[string]any) { clear(b) })), "key archive KeyWrong cannot be read: * "},
		"another oct key than recorded": {l.rewrite(check("short")), "key short, version * KeyWrong is another key than the one that was backed up: *"},
		"another EC key than recorded":  {l.rewrite(check("expired")), "key expired, version * KeyWrong has another public key than the inventory says"},
		"no administrator":              {l.rewrite(func(r *backupset.Record) bool { return r.Kind != "role-assignment" }), "the step restore LastAdministrator *"},
		"no backup":                     {"mhsm-alpha-2026010100000000", "the step restore BackupNotFound *"},
	} {
		t.Run(name, func(t *testing.T) {
			r, _, err := l.hold(t.Context(), tc.folder, 0, 1)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, f := range r.Findings {
				got = append(got, f.What()+" "+f.Code+" "+f.Reason)
			}
			if r.Passed || !slices.ContainsFunc(got, func(s string) bool { return like(s, tc.want) }) {
				t.Errorf("passed %v, findings %q; want %q", r.Passed, got, tc.want)
			}
		})
	}
}

// like reports whether s has the pieces of a pattern in order; * stands for anything.
func like(s, pattern string) bool {
	pieces := strings.Split(pattern, "*")
	rest, ok := strings.CutPrefix(s, pieces[0])
	for _, p := range pieces[1:] {
		if !ok {
			return false
		}
		_, rest, ok = strings.Cut(rest, strings.TrimSpace(p))
	}
	return ok && (rest == "" || len(pieces) > 1)
}

// A part that was changed takes keys with it. Each is named.
func TestDrillNamesWhatIsLost(t *testing.T) {
	l := lose(t)
	file := filepath.Join(l.dir, l.folder, "part-000001")
	data := must[[]byte](t)(os.ReadFile(file))
	data[len(data)/2] ^= 1
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	r, jws, err := l.hold(t.Context(), l.folder, 0, 1)
	if err != nil {
		t.Fatal(err)
	}
	var named []string
	for _, f := range r.Findings {
		if f.Code == "KeyLost" {
			named = append(named, f.Key)
		}
	}
	slices.Sort(named)
	if want := []string{"archive", "chain", "expired", "gone", "invoices", "off", "receiver", "short"}; r.Passed || !slices.Equal(named, want) {
		t.Errorf("passed %v, named %v; want %v", r.Passed, named, want)
	}
	// The report of a drill that failed is signed as well.
	if again, err := drill.Verify(jws); err != nil || again.Passed {
		t.Errorf("the report: %v", err)
	}
}

// Without the domain there is nobody to sign a report.
func TestDrillWithoutTheDomain(t *testing.T) {
	l := lose(t)
	if r, _, err := l.hold(t.Context(), l.folder, 1); !errors.Is(err, securitydomain.TooFewShares) || r != nil {
		t.Errorf("one custodian: %v", err)
	}
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if r, _, err := l.hold(ctx, l.folder, 0, 1); !errors.Is(err, context.Canceled) || r != nil {
		t.Errorf("given up: %v", err)
	}
	// A backup of another domain is named, and not opened.
	other := lose(t)
	other.sd, other.people, other.certs = l.sd, l.people, l.certs
	r, _, err := other.hold(t.Context(), other.folder, 0, 1)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Findings) != 1 || r.Findings[0].Code != backupset.OtherDomain || !strings.Contains(r.Findings[0].Reason, other.domain) || !strings.Contains(r.Findings[0].Reason, l.domain) {
		t.Errorf("findings %+v", r.Findings)
	}
}
