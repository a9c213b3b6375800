package hsm_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"strongroom/internal/access"
	"strongroom/internal/engine"
	"strongroom/internal/engine/software"
	"strongroom/internal/failure"
	"strongroom/internal/hsm"
	"strongroom/internal/keys"
	"strongroom/internal/seal"
	"strongroom/internal/store"
	"strongroom/internal/store/memory"
	"strongroom/secret"
	"strongroom/securitydomain"
)

const adminID = "11111111-1111-4111-8111-111111111111"

var (
	admin    = access.Caller{ObjectID: adminID}
	stranger = access.Caller{ObjectID: "22222222-2222-4222-8222-222222222222"}
)

// custodian is somebody with a key pair. Four are made once: RSA keys are slow to find.
type custodian struct {
	key  *rsa.PrivateKey
	cert *x509.Certificate
}

var people = sync.OnceValue(func() (list []custodian) {
	for i := range 4 {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			panic(err)
		}
		template := &x509.Certificate{SerialNumber: big.NewInt(int64(i + 1)), Subject: pkix.Name{CommonName: fmt.Sprintf("custodian-%d", i+1)},
			NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<33, 0)}
		der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
		if err != nil {
			panic(err)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			panic(err)
		}
		list = append(list, custodian{key, cert})
	}
	return list
})

func certificates(n int) (list []*x509.Certificate) {
	for _, p := range people()[:n] {
		list = append(list, p.cert)
	}
	return list
}

func privateKeys(who ...int) (list []securitydomain.Key) {
	for _, i := range who {
		list = append(list, securitydomain.Key{Name: fmt.Sprintf("custodian-%d.key", i), Decrypter: people()[i-1].key})
	}
	return list
}

// world is a server's core over a memory store.
type world struct {
	t       testing.TB
	store   *memory.Store
	seal    seal.Seal
	service *hsm.Service
	now     time.Time
	mu      sync.Mutex
	config  func(*hsm.Config) // changes the service's configuration, if set
}

func (w *world) clock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

func (w *world) advance(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
}

func newWorld(t testing.TB, hsms ...string) *world {
	w := &world{t: t, store: memory.New(), now: time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)}
	sl, err := seal.CreateFile(filepath.Join(t.TempDir(), "seal.json"), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	w.seal = sl
	w.begin()
	for _, name := range hsms {
		if _, _, err := w.service.Create(t.Context(), spec(name)); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

func (w *world) begin() {
	config := hsm.Config{
		Store: w.store, Seal: w.seal, Authorizer: access.NewAuthorizer(w.store, w.seal), Now: w.clock, Rand: rand.Reader, Log: slog.New(slog.DiscardHandler),
		ExchangeBits: 2048, // RSA-4096 takes seconds
		OpenEngine: func(wrapping, backup secret.Bytes) (engine.Engine, error) {
			return software.New(wrapping, backup, rand.Reader)
		},
	}
	if w.config != nil {
		w.config(&config)
	}
	w.service = hsm.New(config)
	w.t.Cleanup(w.service.Close)
}

// restart is what a new process finds: what reached the disk, and nothing else.
func (w *world) restart() {
	w.service.Close()
	w.store = w.store.Restart()
	w.begin()
}

func spec(name string) hsm.Spec {
	return hsm.Spec{Name: name, Subscription: "s", ResourceGroup: "g", Location: "local", TenantID: "t", InitialAdmins: []string{adminID},
		MoreRoles: []string{access.RoleCryptoUser, access.RoleCryptoOfficer}}
}

func (w *world) open(name string) *hsm.HSM {
	w.t.Helper()
	h, err := w.service.Open(context.Background(), name)
	if err != nil {
		w.t.Fatal(err)
	}
	return h
}

func (w *world) info(name string) hsm.Info {
	w.t.Helper()
	i, err := w.service.Get(context.Background(), name)
	if err != nil {
		w.t.Fatal(err)
	}
	return i
}

// transfer opens an SD file with some custodians' keys and encrypts it to an exchange certificate: what the
// ceremony tool does, on a machine of its own.
func transfer(t testing.TB, sd []byte, exchange *x509.Certificate, who ...int) []byte {
	t.Helper()
	f, err := securitydomain.Parse(sd)
	if err != nil {
		t.Fatal(err)
	}
	opened, err := securitydomain.Open(f, privateKeys(who...))
	if err != nil {
		t.Fatal(err)
	}
	blob, err := securitydomain.MakeTransfer(rand.Reader, opened.Items, exchange)
	if err != nil {
		t.Fatal(err)
	}
	return blob
}

// snapshot is all that the store holds, to show that a refusal changed nothing.
func (w *world) snapshot() string {
	w.t.Helper()
	var b strings.Builder
	err := w.store.View(context.Background(), func(r store.Reader) error {
		for k, v := range r.Scan("", "") {
			fmt.Fprintf(&b, "%s=%x\n", k, v)
		}
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return b.String()
}

func wantKind(t testing.TB, err error, kind failure.Kind, code string) {
	t.Helper()
	f, is := errors.AsType[*failure.Error](err)
	if !is || f.Kind != kind || (code != "" && f.Code != code) {
		t.Fatalf("got error %v, want kind %q with code %q", err, kind, code)
	}
	if len(f.Message) < 20 {
		t.Errorf("the message %q does not say what to do", f.Message)
	}
}

func TestTakeOwnershipLoseItRecover(t *testing.T) {
	w := newWorld(t, "alpha", "beta")
	alpha := w.open("alpha")
	if i := w.info("alpha"); i.State != hsm.Provisioned || i.DomainID != "" {
		t.Fatalf("a new HSM is %+v", i)
	}
	k, err := alpha.Keys(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_, err = k.Create(t.Context(), admin, "too-early", keys.CreateParams{Type: "EC"})
	wantKind(t, err, failure.NotActivated, "")

	d, err := alpha.Download(t.Context(), admin, certificates(3), 2)
	if err != nil {
		t.Fatal(err)
	}
	if i := w.info("alpha"); i.State != hsm.Activated || i.DomainID != d.DomainID || len(d.DomainID) != 64 || i.Required != 2 || len(i.Custodians) != 3 {
		t.Fatalf("after download: %+v, want activated with domain %s, 2 of 3", i, d.DomainID)
	}
	if _, err := k.Create(t.Context(), admin, "invoices", keys.CreateParams{Type: "EC"}); err != nil {
		t.Fatal(err)
	}
	digest := bytes.Repeat([]byte{7}, 32)
	signed, err := k.Sign(t.Context(), admin, "invoices", "", "ES256", digest)
	if err != nil {
		t.Fatal(err)
	}
	backup, err := k.Backup(t.Context(), admin, "invoices")
	if err != nil {
		t.Fatal(err)
	}

	// Alpha is lost for good.
	if _, err := w.service.Delete(t.Context(), "alpha"); err != nil {
		t.Fatal(err)
	}
	if _, err := w.service.Purge(t.Context(), "alpha"); err != nil {
		t.Fatal(err)
	}
	if _, err := w.service.Get(t.Context(), "alpha"); !errors.Is(err, failure.NotFound) {
		t.Fatalf("a purged HSM: got %v, want not found", err)
	}

	beta := w.open("beta")
	exchange, err := beta.ExchangeKey(t.Context(), admin)
	if err != nil {
		t.Fatal(err)
	}
	if exchange.Subject.CommonName != "transfer-key" || w.info("beta").State != hsm.Recovering {
		t.Fatalf("exchange key %s on an HSM that is %s", exchange.Subject, w.info("beta").State)
	}
	id, err := beta.Upload(t.Context(), admin, transfer(t, d.File, exchange, 1, 3))
	if err != nil || id != d.DomainID {
		t.Fatalf("upload: domain %s, %v; want %s", id, err, d.DomainID)
	}
	k2, err := beta.Keys(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k2.Restore(t.Context(), admin, backup); err != nil {
		t.Fatal(err)
	}
	if holds, err := k2.Verify(t.Context(), admin, "invoices", signed.Version, "ES256", digest, signed.Signature); err != nil || !holds {
		t.Fatalf("the old signature on the recovered HSM: %v, %v", holds, err)
	}

	// All of it survives a restart.
	w.restart()
	k3, err := w.open("beta").Keys(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if holds, err := k3.Verify(t.Context(), admin, "invoices", "", "ES256", digest, signed.Signature); err != nil || !holds {
		t.Fatalf("after a restart: %v, %v", holds, err)
	}
}

func TestDownloadAgainKeepsTheDomain(t *testing.T) {
	w := newWorld(t, "alpha")
	alpha := w.open("alpha")
	first, err := alpha.Download(t.Context(), admin, certificates(3), 2)
	if err != nil {
		t.Fatal(err)
	}
	k, _ := alpha.Keys(t.Context())
	if _, err := k.Create(t.Context(), admin, "k", keys.CreateParams{Type: "EC"}); err != nil {
		t.Fatal(err)
	}
	second, err := alpha.Download(t.Context(), admin, certificates(4), 3)
	if err != nil {
		t.Fatal(err)
	}
	if first.DomainID != second.DomainID {
		t.Fatalf("the domain changed from %s to %s", first.DomainID, second.DomainID)
	}
	if _, err := k.Sign(t.Context(), admin, "k", "", "ES256", make([]byte, 32)); err != nil {
		t.Fatalf("a key made before the second download: %v", err)
	}
	open := func(sd []byte, who ...int) map[string][]byte {
		f, err := securitydomain.Parse(sd)
		if err != nil {
			t.Fatal(err)
		}
		o, err := securitydomain.Open(f, privateKeys(who...))
		if err != nil {
			t.Fatal(err)
		}
		m := map[string][]byte{}
		for _, i := range o.Items {
			m[i.Tag] = i.Value.Reveal()
		}
		return m
	}
	a, b := open(first.File, 2, 3), open(second.File, 1, 2, 4)
	for _, tag := range []string{"wrapping-key", "backup-key", "signing-key"} {
		if len(a[tag]) == 0 || !bytes.Equal(a[tag], b[tag]) {
			t.Errorf("item %s differs between the two files", tag)
		}
	}
	f, _ := securitydomain.Parse(second.File)
	if _, err := securitydomain.Open(f, privateKeys(1, 2)); err == nil {
		t.Error("two keys opened a file with a quorum of three")
	}
}

// Two first downloads at once: both files must be of the one domain that the HSM then has. A file of a domain that
// lost the race would be a file of nothing.
func TestConcurrentFirstDownloads(t *testing.T) {
	w := newWorld(t, "alpha")
	const callers = 8
	results := make(chan hsm.Download, callers)
	var wait sync.WaitGroup
	for range callers {
		wait.Go(func() {
			d, err := w.open("alpha").Download(context.Background(), admin, certificates(3), 2)
			if err != nil {
				t.Errorf("download: %v", err)
				return
			}
			results <- d
		})
	}
	wait.Wait()
	close(results)
	want := w.info("alpha").DomainID
	for d := range results {
		if d.DomainID != want {
			t.Errorf("a file of domain %s was handed out, and the HSM has %s", d.DomainID, want)
		}
	}
}

// Covers S12: reading the exchange key twice gives the same key, and a transfer file made for the first reading fits.
func TestExchangeKeyIsStable(t *testing.T) {
	w := newWorld(t, "alpha", "beta")
	d, err := w.open("alpha").Download(t.Context(), admin, certificates(3), 2)
	if err != nil {
		t.Fatal(err)
	}
	beta := w.open("beta")
	read := make(chan []byte, 4)
	var wait sync.WaitGroup
	for range 4 {
		wait.Go(func() {
			c, err := beta.ExchangeKey(context.Background(), admin)
			if err != nil {
				t.Error(err)
				return
			}
			read <- c.Raw
		})
	}
	wait.Wait()
	close(read)
	first := <-read
	for other := range read {
		if !bytes.Equal(first, other) {
			t.Fatal("two readers got two exchange keys")
		}
	}
	w.restart()
	beta = w.open("beta")
	again, err := beta.ExchangeKey(t.Context(), admin)
	if err != nil || !bytes.Equal(again.Raw, first) {
		t.Fatalf("after a restart the exchange key is another one (%v)", err)
	}
	certificate, _ := x509.ParseCertificate(first)
	blob := transfer(t, d.File, certificate, 1, 2)

	// Cancelled and begun again, the old transfer file is refused by name, and the new key is not hurt by it.
	if err := beta.CancelRecovery(t.Context(), admin); err != nil {
		t.Fatal(err)
	}
	fresh, err := beta.ExchangeKey(t.Context(), admin)
	if err != nil || bytes.Equal(fresh.Raw, first) {
		t.Fatalf("cancelling kept the exchange key (%v)", err)
	}
	before := w.snapshot()
	_, err = beta.Upload(t.Context(), admin, blob)
	wantKind(t, err, failure.BadParameter, "SecurityDomainWrongExchangeKey")
	if w.snapshot() != before {
		t.Fatal("a refused upload changed something")
	}
	if _, err := beta.Upload(t.Context(), admin, transfer(t, d.File, fresh, 2, 3)); err != nil {
		t.Fatal(err)
	}
}

// Every refusal leaves everything as it was. Covers S11 (upload checks all, then changes one record).
func TestRefusalsChangeNothing(t *testing.T) {
	w := newWorld(t, "fresh", "owned", "waiting", "other")
	owned, err := w.open("owned").Download(t.Context(), admin, certificates(3), 2)
	if err != nil {
		t.Fatal(err)
	}
	exchange, err := w.open("waiting").ExchangeKey(t.Context(), admin)
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := w.open("other").ExchangeKey(t.Context(), admin)
	if err != nil {
		t.Fatal(err)
	}
	good := transfer(t, owned.File, exchange, 1, 2)
	items := func(change func(list []securitydomain.Item) []securitydomain.Item) []byte {
		f, _ := securitydomain.Parse(owned.File)
		o, err := securitydomain.Open(f, privateKeys(1, 2))
		if err != nil {
			t.Fatal(err)
		}
		blob, err := securitydomain.MakeTransfer(rand.Reader, change(o.Items), exchange)
		if err != nil {
			t.Fatal(err)
		}
		return blob
	}
	upload := func(name string, blob []byte) func() error {
		return func() error { _, err := w.open(name).Upload(t.Context(), admin, blob); return err }
	}
	download := func(name string, n, m int) func() error {
		return func() error {
			_, err := w.open(name).Download(t.Context(), admin, certificates(n), m)
			return err
		}
	}
	for name, test := range map[string]struct {
		do   func() error
		kind failure.Kind
		code string
	}{
		"two custodians":                        {download("fresh", 2, 2), failure.BadParameter, "SecurityDomainBadQuorum"},
		"a quorum of one":                       {download("fresh", 3, 1), failure.BadParameter, "SecurityDomainBadQuorum"},
		"a quorum above the number":             {download("fresh", 3, 4), failure.BadParameter, "SecurityDomainBadQuorum"},
		"the same, on an activated HSM":         {download("owned", 3, 4), failure.BadParameter, "SecurityDomainBadQuorum"},
		"download during a recovery":            {download("waiting", 3, 2), failure.Conflict, "SecurityDomainRecoveryInProgress"},
		"upload before an exchange key":         {upload("fresh", good), failure.Conflict, "SecurityDomainNoExchangeKey"},
		"upload to an activated HSM":            {upload("owned", good), failure.Conflict, "HsmAlreadyActivated"},
		"a transfer file for another HSM":       {upload("waiting", transfer(t, owned.File, foreign, 1, 2)), failure.BadParameter, "SecurityDomainWrongExchangeKey"},
		"a truncated transfer file":             {upload("waiting", good[:len(good)/2]), failure.BadParameter, "SecurityDomainMalformed"},
		"an SD file instead of a transfer file": {upload("waiting", owned.File), failure.BadParameter, "SecurityDomainMalformed"},
		"no JSON at all":                        {upload("waiting", []byte("hello")), failure.BadParameter, "SecurityDomainMalformed"},
		"a missing item": {upload("waiting", items(func(l []securitydomain.Item) []securitydomain.Item { return l[:2] })),
			failure.BadParameter, "SecurityDomainItemMissing"},
		"an unknown item": {upload("waiting", items(func(l []securitydomain.Item) []securitydomain.Item {
			return append(l, securitydomain.Item{Tag: "hsm_backup", Value: secret.New([]byte("x"))})
		})), failure.BadParameter, "SecurityDomainItemUnknown"},
		"a wrapping key of 31 bytes": {upload("waiting", items(func(l []securitydomain.Item) []securitydomain.Item {
			for i := range l {
				if l[i].Tag == "wrapping-key" {
					l[i].Value = secret.New(make([]byte, 31))
				}
			}
			return l
		})), failure.BadParameter, "SecurityDomainItemInvalid"},
		"a signing key that is none": {upload("waiting", items(func(l []securitydomain.Item) []securitydomain.Item {
			for i := range l {
				if l[i].Tag == "signing-key" {
					l[i].Value = secret.New(make([]byte, 64))
				}
			}
			return l
		})), failure.BadParameter, "SecurityDomainItemInvalid"},
		"exchange key of an activated HSM": {func() error { _, err := w.open("owned").ExchangeKey(t.Context(), admin); return err }, failure.Conflict, "HsmAlreadyActivated"},
		"cancel without a recovery":        {func() error { return w.open("fresh").CancelRecovery(t.Context(), admin) }, failure.Conflict, "SecurityDomainNoRecovery"},
		"a taken name": {func() error {
			s := spec("OWNED")
			s.ResourceGroup = "h"
			_, _, err := w.service.Create(t.Context(), s)
			return err
		}, failure.Conflict, "VaultAlreadyExists"},
		"a bad name": {func() error { _, _, err := w.service.Create(t.Context(), spec("a--b")); return err }, failure.BadParameter, "VaultNameNotValid"},
		"no administrator": {func() error {
			s := spec("gamma")
			s.InitialAdmins = nil
			_, _, err := w.service.Create(t.Context(), s)
			return err
		}, failure.BadParameter, ""},
		"purge of a living HSM": {func() error { _, err := w.service.Purge(t.Context(), "owned"); return err }, failure.NotFound, ""},
	} {
		t.Run(name, func(t *testing.T) {
			before := w.snapshot()
			wantKind(t, test.do(), test.kind, test.code)
			if w.snapshot() != before {
				t.Error("the refusal changed the store")
			}
		})
	}
	if _, err := w.open("waiting").Upload(t.Context(), admin, good); err != nil {
		t.Fatalf("after all refusals the right transfer file must still fit: %v", err)
	}
}

// Covers S13: every security-domain call needs the administrator role, in every state, and a refused one changes nothing.
func TestOnlyAdministratorsTouchTheDomain(t *testing.T) {
	w := newWorld(t, "provisioned", "recovering", "activated")
	d, err := w.open("activated").Download(t.Context(), admin, certificates(3), 2)
	if err != nil {
		t.Fatal(err)
	}
	exchange, err := w.open("recovering").ExchangeKey(t.Context(), admin)
	if err != nil {
		t.Fatal(err)
	}
	blob := transfer(t, d.File, exchange, 1, 2)
	calls := map[string]func(h *hsm.HSM, c access.Caller) error{
		"download": func(h *hsm.HSM, c access.Caller) error {
			_, err := h.Download(t.Context(), c, certificates(3), 2)
			return err
		},
		"download status": func(h *hsm.HSM, c access.Caller) error { _, err := h.DownloadStatus(t.Context(), c); return err },
		"exchange key":    func(h *hsm.HSM, c access.Caller) error { _, err := h.ExchangeKey(t.Context(), c); return err },
		"upload":          func(h *hsm.HSM, c access.Caller) error { _, err := h.Upload(t.Context(), c, blob); return err },
		"upload status":   func(h *hsm.HSM, c access.Caller) error { _, err := h.UploadStatus(t.Context(), c); return err },
		"cancel":          func(h *hsm.HSM, c access.Caller) error { return h.CancelRecovery(t.Context(), c) },
		"describe":        func(h *hsm.HSM, c access.Caller) error { _, err := h.Describe(t.Context(), c); return err },
	}
	for _, state := range []string{"provisioned", "recovering", "activated"} {
		for name, call := range calls {
			for who, caller := range map[string]access.Caller{"nobody": {}, "a stranger": stranger, "a name that looks alike": {ObjectID: adminID + " "}} {
				before := w.snapshot()
				if err := call(w.open(state), caller); !errors.Is(err, failure.Forbidden) {
					t.Errorf("%s by %s on an HSM that is %s: got %v, want forbidden", name, who, state, err)
				}
				if w.snapshot() != before {
					t.Errorf("%s by %s on an HSM that is %s changed something", name, who, state)
				}
			}
		}
	}
}

func TestStatusIsInProgressForAMoment(t *testing.T) {
	w := newWorld(t, "alpha")
	alpha := w.open("alpha")
	if _, err := alpha.DownloadStatus(t.Context(), admin); !errors.Is(err, failure.NotFound) {
		t.Fatalf("status before anything: %v, want not found", err)
	}
	if _, err := alpha.Download(t.Context(), admin, certificates(3), 2); err != nil {
		t.Fatal(err)
	}
	both := func(want string) {
		t.Helper()
		for name, get := range map[string]func(context.Context, access.Caller) (hsm.Operation, error){"download": alpha.DownloadStatus, "upload": alpha.UploadStatus} {
			if op, err := get(t.Context(), admin); err != nil || op.Status != want {
				t.Errorf("%s status: %+v, %v; want %s", name, op, err, want)
			}
		}
	}
	both("InProgress")
	w.advance(999 * time.Millisecond)
	both("InProgress")
	w.advance(time.Millisecond)
	both("Success")
	w.advance(-time.Hour) // the clock was set back: a finished operation must not hang
	both("Success")
	w.restart()
	alpha = w.open("alpha")
	both("Success")
}

// Each commit of each operation fails in each way; then the server restarts. The state is the old one or the new
// one, what was answered is there, and the operation can be repeated.
func TestEveryCommitFails(t *testing.T) {
	type outcome struct {
		fault memory.Fault
		name  string
	}
	faults := []outcome{
		{memory.Fault{At: 1}, "disk full once"},
		{memory.Fault{At: 1, Err: store.ErrFailed}, "sync failed, not written"},
		{memory.Fault{At: 1, Err: store.ErrFailed, Written: true}, "sync failed, but written"},
	}
	operations := map[string]struct {
		state    hsm.State // before
		after    hsm.State
		do       func(w *world, sd []byte) error
		repeatOK bool // repeating after success works too
	}{
		"download": {hsm.Provisioned, hsm.Activated, func(w *world, _ []byte) error {
			_, err := w.open("beta").Download(context.Background(), admin, certificates(3), 2)
			return err
		}, true},
		"exchange key": {hsm.Provisioned, hsm.Recovering, func(w *world, _ []byte) error {
			_, err := w.open("beta").ExchangeKey(context.Background(), admin)
			return err
		}, true},
		"upload": {hsm.Recovering, hsm.Activated, func(w *world, sd []byte) error {
			exchange, err := w.open("beta").ExchangeKey(context.Background(), admin)
			if err != nil {
				return err
			}
			_, err = w.open("beta").Upload(context.Background(), admin, transfer(w.t, sd, exchange, 1, 2))
			return err
		}, false},
		"cancel": {hsm.Recovering, hsm.Provisioned, func(w *world, _ []byte) error {
			return w.open("beta").CancelRecovery(context.Background(), admin)
		}, false},
	}
	for name, op := range operations {
		for _, f := range faults {
			t.Run(name+", "+f.name, func(t *testing.T) {
				w := newWorld(t, "alpha", "beta")
				d, err := w.open("alpha").Download(t.Context(), admin, certificates(3), 2)
				if err != nil {
					t.Fatal(err)
				}
				if op.state == hsm.Recovering {
					if _, err := w.open("beta").ExchangeKey(t.Context(), admin); err != nil {
						t.Fatal(err)
					}
				}
				w.store.Inject(f.fault)
				err = op.do(w, d.File)
				if err == nil {
					t.Fatal("the fault was not hit: the operation made no commit")
				}
				full := f.fault.Err == nil
				if full {
					wantKind(t, err, failure.Unavailable, "")
					if got := w.info("beta").State; got != op.state {
						t.Fatalf("the disk was full, and the HSM went from %s to %s", op.state, got)
					}
				} else {
					wantKind(t, err, failure.StorageFailed, "")
					w.restart()
				}
				got := w.info("beta").State
				want := op.state
				if f.fault.Written {
					want = op.after
				}
				if got != want {
					t.Fatalf("the HSM is %s, want %s", got, want)
				}
				if got == op.state || op.repeatOK {
					if err := op.do(w, d.File); err != nil {
						t.Fatalf("repeating it: %v", err)
					}
					if got := w.info("beta").State; got != op.after {
						t.Fatalf("repeated, and the HSM is %s, want %s", got, op.after)
					}
				}
			})
		}
	}
}

// A writer to the database while it is down cannot move or edit a domain unnoticed.
func TestTamperedRecordsAreRefused(t *testing.T) {
	for name, change := range map[string]func(alpha, beta map[string]any){
		"the domain of another HSM":    func(a, b map[string]any) { a["domain"] = b["domain"] },
		"the domain ID of another HSM": func(a, b map[string]any) { a["domain"].(map[string]any)["id"] = b["domain"].(map[string]any)["id"] },
		"the sealed bytes of another HSM": func(a, b map[string]any) {
			a["domain"].(map[string]any)["sealed"] = b["domain"].(map[string]any)["sealed"]
		},
		"the whole record of another HSM": func(a, b map[string]any) {
			clear(a)
			for k, v := range b {
				a[k] = v
			}
		},
		"a state that has no domain":  func(a, b map[string]any) { a["state"] = "provisioned" },
		"a state that nobody knows":   func(a, b map[string]any) { a["state"] = "blessed" },
		"a version that nobody knows": func(a, b map[string]any) { a["v"] = 3 },
		"sealed bytes with one bit turned": func(a, b map[string]any) {
			s := []byte(a["domain"].(map[string]any)["sealed"].(string))
			s[40] ^= 1
			a["domain"].(map[string]any)["sealed"] = string(s)
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, "alpha", "beta")
			for _, n := range []string{"alpha", "beta"} {
				if _, err := w.open(n).Download(t.Context(), admin, certificates(3), 2); err != nil {
					t.Fatal(err)
				}
			}
			idA, idB := w.info("alpha").ID, w.info("beta").ID
			w.restart()
			err := w.store.Update(t.Context(), func(tx store.Writer) error {
				var a, b map[string]any
				// Whoever can do this has the seal: the checks inside the record stand on their own.
				read := func(id string, v *map[string]any) error {
					sealed, _ := tx.Get("hsm/" + id + "/record")
					plain, err := w.seal.Unwrap(sealed, "hsm/"+id+"/record")
					if err != nil {
						return err
					}
					return json.Unmarshal(plain.Reveal(), v)
				}
				if err := errors.Join(read(idA, &a), read(idB, &b)); err != nil {
					return err
				}
				change(a, b)
				out, err := json.Marshal(a)
				if err != nil {
					return err
				}
				sealed, err := w.seal.Wrap(secret.Take(out), "hsm/"+idA+"/record")
				tx.Put("hsm/"+idA+"/record", sealed)
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			h, err := w.service.Open(t.Context(), "alpha")
			if err == nil {
				var k *keys.Keys
				if k, err = h.Keys(t.Context()); err == nil {
					_, err = k.Create(t.Context(), admin, "k", keys.CreateParams{Type: "EC"})
				}
			}
			if !errors.Is(err, failure.Tampered) && !errors.Is(err, failure.Unsupported) {
				t.Fatalf("got %v, want tampered", err)
			}
		})
	}
}

// Without the seal, a writer to the database cannot make anything of a record: every byte of it is authenticated, and it
// opens under its own key only. Names in the index cannot be led astray either.
func TestRecordsOpenOnlyWhole(t *testing.T) {
	w := newWorld(t, "alpha", "beta")
	for _, n := range []string{"alpha", "beta"} {
		if _, err := w.open(n).Download(t.Context(), admin, certificates(3), 2); err != nil {
			t.Fatal(err)
		}
	}
	keyA, keyB := "hsm/"+w.info("alpha").ID+"/record", "hsm/"+w.info("beta").ID+"/record"
	put := func(key string, value []byte) {
		t.Helper()
		if err := w.store.Update(t.Context(), func(tx store.Writer) error { tx.Put(key, value); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	get := func(key string) (value []byte) {
		_ = w.store.View(t.Context(), func(r store.Reader) error { value, _ = r.Get(key); return nil })
		return value
	}
	refused := func(what string) {
		t.Helper()
		if _, err := w.service.Get(t.Context(), "alpha"); !errors.Is(err, failure.Tampered) {
			t.Fatalf("%s: got %v, want tampered", what, err)
		}
	}
	good, other := get(keyA), get(keyB)
	for i := range good {
		bad := bytes.Clone(good)
		bad[i] ^= 0x20
		put(keyA, bad)
		refused(fmt.Sprintf("byte %d turned", i))
	}
	for name, value := range map[string][]byte{"cut": good[:len(good)-1], "empty": {}, "plain JSON": []byte(`{"v":1}`), "another HSM's": other} {
		put(keyA, value)
		refused(name)
	}
	put(keyA, good)
	index := get("hsm-name/beta")
	put("hsm-name/alpha", index)
	refused("an index that leads to another HSM")
}

// Random walks over two HSMs never leave the picture of the state machine, and domains meet only by transfer.
func TestStateMachineModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld(t, "alpha", "beta")
		type model struct {
			state  hsm.State
			domain string
		}
		m := map[string]*model{"alpha": {state: hsm.Provisioned}, "beta": {state: hsm.Provisioned}}
		var files []hsm.Download
		pick := func(rt *rapid.T) string { return rapid.SampledFrom([]string{"alpha", "beta"}).Draw(rt, "hsm") }
		rt.Repeat(map[string]func(*rapid.T){
			"download": func(rt *rapid.T) {
				name := pick(rt)
				n := rapid.IntRange(3, 4).Draw(rt, "n")
				d, err := w.open(name).Download(context.Background(), admin, certificates(n), rapid.IntRange(2, n).Draw(rt, "m"))
				switch x := m[name]; {
				case x.state == hsm.Recovering:
					if !errors.Is(err, failure.Conflict) {
						rt.Fatalf("download while recovering: %v", err)
					}
				case err != nil:
					rt.Fatalf("download: %v", err)
				case x.state == hsm.Activated && d.DomainID != x.domain:
					rt.Fatalf("download changed the domain")
				default:
					x.state, x.domain = hsm.Activated, d.DomainID
					files = append(files, d)
				}
			},
			"exchange": func(rt *rapid.T) {
				name := pick(rt)
				_, err := w.open(name).ExchangeKey(context.Background(), admin)
				if x := m[name]; x.state == hsm.Activated {
					if !errors.Is(err, failure.Conflict) {
						rt.Fatalf("exchange key of an activated HSM: %v", err)
					}
				} else if err != nil {
					rt.Fatalf("exchange key: %v", err)
				} else {
					x.state = hsm.Recovering
				}
			},
			"cancel": func(rt *rapid.T) {
				name := pick(rt)
				err := w.open(name).CancelRecovery(context.Background(), admin)
				if x := m[name]; (err == nil) != (x.state == hsm.Recovering) {
					rt.Fatalf("cancel on %s: %v", x.state, err)
				} else if err == nil {
					x.state = hsm.Provisioned
				}
			},
			"upload": func(rt *rapid.T) {
				name := pick(rt)
				x := m[name]
				if len(files) == 0 || x.state != hsm.Recovering {
					return // nothing to upload
				}
				file := files[rapid.IntRange(0, len(files)-1).Draw(rt, "file")]
				exchange, err := w.open(name).ExchangeKey(context.Background(), admin)
				if err != nil {
					rt.Fatal(err)
				}
				id, err := w.open(name).Upload(context.Background(), admin, transfer(t, file.File, exchange, 1, 2, 3, 4))
				if err != nil || id != file.DomainID {
					rt.Fatalf("upload: %s, %v; want %s", id, err, file.DomainID)
				}
				x.state, x.domain = hsm.Activated, id
			},
			"restart": func(rt *rapid.T) { w.restart() },
			"": func(rt *rapid.T) {
				for name, x := range m {
					if i := w.info(name); i.State != x.state || i.DomainID != x.domain {
						rt.Fatalf("%s is %s with domain %q, and the model says %s with %q", name, i.State, i.DomainID, x.state, x.domain)
					}
				}
			},
		})
	})
}

func TestLifeOfAnHSM(t *testing.T) {
	w := newWorld(t, "Alpha-1")
	if i := w.info("ALPHA-1"); i.Name != "Alpha-1" || i.RetentionDays != 90 {
		t.Fatalf("found by another spelling: %+v", i)
	}
	s := spec("alpha-1")
	s.Tags = map[string]string{"a": "b"}
	i, created, err := w.service.Create(t.Context(), s)
	if err != nil || created || i.Tags["a"] != "b" || i.Name != "Alpha-1" {
		t.Fatalf("PUT on an existing HSM: %+v, created %v, %v", i, created, err)
	}
	deleted, err := w.service.Delete(t.Context(), "alpha-1")
	if err != nil || !deleted.PurgeAt.Equal(w.clock().AddDate(0, 0, 90)) {
		t.Fatalf("delete: %+v, %v", deleted, err)
	}
	if _, _, err := w.service.Create(t.Context(), spec("alpha-1")); !errors.Is(err, failure.Conflict) {
		t.Fatalf("create over a deleted HSM: %v, want conflict", err)
	}
	if list, _ := w.service.List(t.Context(), false); len(list) != 0 {
		t.Fatalf("a deleted HSM is listed: %+v", list)
	}
	if _, err := w.service.Recover(t.Context(), "alpha-1"); err != nil {
		t.Fatal(err)
	}
	if list, _ := w.service.List(t.Context(), false); len(list) != 1 {
		t.Fatal("a recovered HSM is not listed")
	}

	p := spec("guarded")
	p.PurgeProtection, p.RetentionDays = true, 7
	if _, _, err := w.service.Create(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	if _, err := w.service.Delete(t.Context(), "guarded"); err != nil {
		t.Fatal(err)
	}
	_, err = w.service.Purge(t.Context(), "guarded")
	wantKind(t, err, failure.Conflict, "PurgeProtectionEnabled")
	if _, err := w.service.Delete(t.Context(), "alpha-1"); err != nil {
		t.Fatal(err)
	}
	if _, err := w.service.Purge(t.Context(), "alpha-1"); err != nil {
		t.Fatal(err)
	}
	if s := w.snapshot(); strings.Contains(s, "hsm-name/alpha-1") || strings.Contains(s, i.ID) {
		t.Error("a purged HSM left records")
	}
}
