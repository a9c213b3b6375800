package hsm

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"strings"
	"time"
	"unicode"

	"strongroom/internal/access"
	"strongroom/internal/failure"
	"strongroom/internal/store"
	"strongroom/secret"
	"strongroom/securitydomain"
)

// inProgress is how long a finished operation still says InProgress. One client's test wants to see that once,
// directly after its download; another polls first after five seconds and must find it finished.
const inProgress = time.Second

// exchangeBits and exchangeYears are those of Azure's own transfer key (RSA-4096, one year).
const (
	exchangeBits  = 4096
	exchangeYears = 1
)

// Download is the answer to a download.
type Download struct {
	File     []byte // the SD file, JSON text
	DomainID string
	Warnings []securitydomain.Warning
}

// Download makes an SD file for the given custodians and quorum. On a provisioned HSM it first makes the
// security domain and so activates it: the domain items are sealed and on disk before the file is handed out,
// and a lost answer is harmless, because downloading again gives another file of the same domain. On an
// activated HSM only the wrapping is new. A recovering HSM refuses: a ceremony is under way.
func (h *HSM) Download(ctx context.Context, caller access.Caller, certificates []*x509.Certificate, required int) (Download, error) {
	if err := h.check(ctx, caller, access.SecurityDomainDownload, access.ScopeRoot); err != nil {
		return Download{}, err
	}
	warnings, err := securitydomain.CheckCustodians(certificates, required, h.s.cfg.Now())
	if err != nil {
		return Download{}, domainFailure(err)
	}
	// The domain of a provisioned HSM is made outside the transaction. If another request activates the HSM
	// meanwhile, that one's domain stands and this round starts over with it: the second round cannot lose.
	for range 3 {
		rec, err := h.record(ctx)
		if err != nil {
			return Download{}, err
		}
		d, done, err := h.downloadOnce(ctx, rec, certificates, required)
		if err != nil {
			return Download{}, store.Failure(err)
		}
		if done {
			h.s.cfg.Log.WarnContext(ctx, "security domain downloaded", "hsm", h.name, "domain", d.DomainID, "principal", caller.ObjectID,
				"required", required, "custodians", len(certificates), "activated_now", rec.State == Provisioned)
			d.Warnings = warnings
			return d, nil
		}
	}
	return Download{}, failure.New(failure.Conflict, "the HSM changed while its security domain was being made; try again")
}

func (h *HSM) downloadOnce(ctx context.Context, seen *record, certificates []*x509.Certificate, required int) (d Download, done bool, err error) {
	var it *items
	var sealed []byte
	switch seen.State {
	case Recovering:
		return d, false, failure.Coded(failure.Conflict, "SecurityDomainRecoveryInProgress",
			"HSM %s is being recovered: it has shown an exchange key and waits for a transfer file. Upload one, or cancel the recovery first (strongroom domain cancel-recovery)", h.name)
	case Activated:
		it, err = h.s.unseal(seen)
	default:
		it, err = newItems(h.s.cfg.Rand)
	}
	if err != nil {
		return d, false, err
	}
	defer it.wipe()
	now := h.s.cfg.Now().UTC()
	file, err := securitydomain.Seal(securitydomain.SealParams{
		Certificates: certificates, Required: required, Items: it.list(), HSMName: h.name, Created: now, Signer: it.signing, Rand: h.s.cfg.Rand,
	})
	if err != nil {
		return d, false, domainFailure(err)
	}
	domain := seen.Domain
	if seen.State == Provisioned {
		domain = &domainRecord{ID: it.id, Activated: now, Origin: "download"}
		if sealed, err = h.sealItems(seen, domain, it); err != nil {
			return d, false, err
		}
	}
	summary := &fileSummary{Created: now, Required: required}
	for _, c := range certificates {
		summary.Custodians = append(summary.Custodians, custodianSummary{Label: label(c), Thumbprint: securitydomain.Thumbprint(c)})
	}
	err = h.s.cfg.Store.Update(ctx, func(w store.Writer) error {
		rec, err := h.s.load(w, h.id)
		if err != nil {
			return err
		}
		if rec.Deleted != nil {
			return failure.Coded(failure.NotFound, "ResourceNotFound", "the HSM was deleted meanwhile")
		}
		if rec.Restoring != nil {
			return rec.busy()
		}
		switch {
		case rec.State == Provisioned && seen.State == Provisioned:
			domain.Sealed = sealed
			rec.State, rec.Domain = Activated, domain
		case rec.State == Activated && seen.State == Activated && rec.Domain.ID == seen.Domain.ID:
		default:
			return errMoved
		}
		rec.Domain.File = summary
		rec.Last = &operation{Kind: "download", Started: now}
		return h.s.save(w, rec, now)
	})
	if errors.Is(err, errMoved) {
		return d, false, nil
	}
	return Download{File: file, DomainID: it.id}, err == nil, err
}

var errMoved = errors.New("the HSM's state moved")

func (h *HSM) sealItems(rec *record, domain *domainRecord, it *items) ([]byte, error) {
	plain := it.marshal()
	defer plain.Wipe()
	sealed, err := h.s.cfg.Seal.Wrap(plain, domainContext(&record{ID: rec.ID, Domain: domain}))
	if err != nil {
		return nil, failure.Wrap(failure.Internal, err, "the domain items cannot be sealed")
	}
	return sealed, nil
}

// ExchangeKey returns the certificate of the HSM's exchange key, and on a provisioned HSM makes the key first,
// which puts it into recovery. Reading it again gives the same certificate until it is used, cancelled or expired
// (after a year), so that a second reader cannot spoil a ceremony that the first one started.
func (h *HSM) ExchangeKey(ctx context.Context, caller access.Caller) (*x509.Certificate, error) {
	if err := h.check(ctx, caller, access.TransferKeyRead, access.ScopeRoot); err != nil {
		return nil, err
	}
	h.s.making.Lock() // whoever waits here finds the key that the one before made
	defer h.s.making.Unlock()
	rec, err := h.record(ctx)
	if err != nil {
		return nil, err
	}
	switch {
	case rec.State == Activated:
		return nil, alreadyActivated(rec)
	case rec.State == Recovering && !h.exchangeExpired(rec):
		return parseExchange(rec)
	}
	fresh, err := h.newExchange()
	if err != nil {
		return nil, failure.Wrap(failure.Internal, err, "no exchange key could be made")
	}
	made := false
	err = h.s.cfg.Store.Update(ctx, func(w store.Writer) error {
		if rec, err = h.s.load(w, h.id); err != nil {
			return err
		}
		switch {
		case rec.Deleted != nil:
			return failure.Coded(failure.NotFound, "ResourceNotFound", "the HSM was deleted meanwhile")
		case rec.State == Activated:
			return alreadyActivated(rec)
		case rec.State == Recovering && !h.exchangeExpired(rec): // somebody was faster: theirs is the one
			return nil
		}
		rec.State, rec.Exchange, made = Recovering, fresh, true
		return h.s.save(w, rec, h.s.cfg.Now().UTC())
	})
	if err != nil {
		return nil, store.Failure(err)
	}
	if made {
		h.s.cfg.Log.WarnContext(ctx, "recovery begun: exchange key made", "hsm", h.name, "principal", caller.ObjectID, "exchange", thumbprintHex(fresh.Certificate))
	}
	return parseExchange(rec)
}

func (h *HSM) exchangeExpired(rec *record) bool {
	c, err := parseExchange(rec)
	return err == nil && h.s.cfg.Now().After(c.NotAfter)
}

// newExchange makes an exchange key: its private half is sealed at once and never leaves.
func (h *HSM) newExchange() (*exchangeRecord, error) {
	// crypto/rsa draws its own randomness since Go 1.26; the certificate's signature likewise.
	key, err := rsa.GenerateKey(rand.Reader, h.s.cfg.ExchangeBits)
	if err != nil {
		return nil, err
	}
	now := h.s.cfg.Now().UTC()
	serial := make([]byte, 16)
	if _, err := h.s.cfg.Rand.Read(serial); err != nil {
		return nil, err
	}
	serial[0] &= 0x7f
	template := &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(serial),
		Subject:      pkix.Name{CommonName: "transfer-key"},
		NotBefore:    now.Add(-time.Minute), NotAfter: now.AddDate(exchangeYears, 0, 0),
		KeyUsage: x509.KeyUsageKeyEncipherment | x509.KeyUsageDataEncipherment,
	}
	certificate, err := x509.CreateCertificate(h.s.cfg.Rand, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	plain := secret.Take(der)
	defer plain.Wipe()
	fresh := &exchangeRecord{Certificate: certificate, Created: now}
	fresh.Sealed, err = h.s.cfg.Seal.Wrap(plain, exchangeContext(&record{ID: h.id, Exchange: fresh}))
	return fresh, err
}

// CancelRecovery drops the exchange key and makes the HSM provisioned again. Transfer files made for that key
// are worth nothing afterwards. Strongroom's own; Azure has no such call.
func (h *HSM) CancelRecovery(ctx context.Context, caller access.Caller) error {
	if err := h.check(ctx, caller, access.SecurityDomainUpload, access.ScopeRoot); err != nil {
		return err
	}
	err := h.s.cfg.Store.Update(ctx, func(w store.Writer) error {
		rec, err := h.s.load(w, h.id)
		if err != nil {
			return err
		}
		if rec.Deleted != nil {
			return failure.Coded(failure.NotFound, "ResourceNotFound", "the HSM was deleted meanwhile")
		}
		if rec.State != Recovering {
			return failure.Coded(failure.Conflict, "SecurityDomainNoRecovery", "HSM %s is %s: there is no recovery to cancel", h.name, rec.State)
		}
		rec.State, rec.Exchange = Provisioned, nil
		return h.s.save(w, rec, h.s.cfg.Now().UTC())
	})
	if err == nil {
		h.s.cfg.Log.WarnContext(ctx, "recovery cancelled", "hsm", h.name, "principal", caller.ObjectID)
	}
	return store.Failure(err)
}

// Upload activates a recovering HSM with the domain in a transfer file. Everything is checked before the one
// record changes; on any error the HSM goes on waiting, with the same exchange key.
func (h *HSM) Upload(ctx context.Context, caller access.Caller, transfer []byte) (domainID string, err error) {
	if err := h.check(ctx, caller, access.SecurityDomainUpload, access.ScopeRoot); err != nil {
		return "", err
	}
	rec, err := h.record(ctx)
	if err != nil {
		return "", err
	}
	if err := awaitsUpload(rec); err != nil {
		return "", err
	}
	certificate, err := parseExchange(rec)
	if err != nil {
		return "", err
	}
	key, wipe, err := h.exchangeKey(rec)
	if err != nil {
		return "", err
	}
	defer wipe()
	list, err := securitydomain.OpenTransfer(transfer, certificate, key)
	if err != nil {
		return "", domainFailure(err)
	}
	defer func() {
		for _, item := range list {
			item.Value.Wipe()
		}
	}()
	it, err := parseItems(list)
	if err != nil {
		return "", err
	}
	now := h.s.cfg.Now().UTC()
	domain := &domainRecord{ID: it.id, Activated: now, Origin: "upload"}
	if domain.Sealed, err = h.sealItems(rec, domain, it); err != nil {
		return "", err
	}
	used := exchangeContext(rec)
	err = h.s.cfg.Store.Update(ctx, func(w store.Writer) error {
		rec, err := h.s.load(w, h.id)
		if err != nil {
			return err
		}
		if rec.Deleted != nil {
			return failure.Coded(failure.NotFound, "ResourceNotFound", "the HSM was deleted meanwhile")
		}
		if err := awaitsUpload(rec); err != nil {
			return err
		}
		if exchangeContext(rec) != used {
			return failure.Coded(failure.BadParameter, "SecurityDomainExchangeKeyReplaced", "the exchange key was replaced while the transfer file was read; fetch the new one and make the transfer file again")
		}
		rec.State, rec.Domain, rec.Exchange = Activated, domain, nil
		rec.Last = &operation{Kind: "upload", Started: now}
		return h.s.save(w, rec, now)
	})
	if err != nil {
		return "", store.Failure(err)
	}
	h.s.cfg.Log.WarnContext(ctx, "security domain uploaded: hsm activated", "hsm", h.name, "domain", it.id, "principal", caller.ObjectID)
	return it.id, nil
}

// Operation is the state of the newest security-domain operation.
type Operation struct {
	Status string // "InProgress" or "Success": an operation that fails, fails in its first answer
	Detail string
}

// DownloadStatus tells how the newest download stands.
func (h *HSM) DownloadStatus(ctx context.Context, caller access.Caller) (Operation, error) {
	return h.status(ctx, caller, access.SecurityDomainDownloadRead, "download")
}

// UploadStatus tells how the newest upload, or download, stands: the stock client of 2023 polls this after both.
func (h *HSM) UploadStatus(ctx context.Context, caller access.Caller) (Operation, error) {
	return h.status(ctx, caller, access.SecurityDomainUploadRead, "upload", "download")
}

func (h *HSM) status(ctx context.Context, caller access.Caller, action access.Action, kinds ...string) (Operation, error) {
	if err := h.check(ctx, caller, action, access.ScopeRoot); err != nil {
		return Operation{}, err
	}
	rec, err := h.record(ctx)
	if err != nil {
		return Operation{}, err
	}
	for _, kind := range kinds {
		if rec.Last == nil || rec.Last.Kind != kind {
			continue
		}
		age := h.s.cfg.Now().Sub(rec.Last.Started)
		if age >= 0 && age < inProgress { // a clock set back must not make a finished operation hang
			return Operation{Status: "InProgress", Detail: "Security domain " + kind + " is in progress"}, nil
		}
		return Operation{Status: "Success"}, nil
	}
	return Operation{}, failure.Coded(failure.NotFound, "SecurityDomainOperationNotFound", "HSM %s (%s) has had no security domain %s yet", h.name, rec.State, kinds[0])
}

// Describe returns the HSM's state, domain ID and newest SD file's custodians, for an administrator.
func (h *HSM) Describe(ctx context.Context, caller access.Caller) (Info, error) {
	if err := h.check(ctx, caller, access.SecurityDomainUploadRead, access.ScopeRoot); err != nil {
		return Info{}, err
	}
	rec, err := h.record(ctx)
	if err != nil {
		return Info{}, err
	}
	return rec.info(), nil
}

func (h *HSM) record(ctx context.Context) (rec *record, err error) {
	err = h.s.cfg.Store.View(ctx, func(r store.Reader) error {
		if rec, err = h.s.load(r, h.id); err != nil {
			return err
		}
		if rec.Deleted != nil {
			return failure.Coded(failure.NotFound, "ResourceNotFound", "the HSM was deleted")
		}
		return nil
	})
	return rec, store.Failure(err)
}

func (h *HSM) exchangeKey(rec *record) (key crypto.Decrypter, wipe func(), err error) {
	plain, err := h.s.cfg.Seal.Unwrap(rec.Exchange.Sealed, exchangeContext(rec))
	if err != nil {
		return nil, nil, failure.Wrap(failure.Tampered, err, "the sealed exchange key of HSM %s does not open: the record was changed, or the seal is another one", h.name)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(plain.Reveal())
	rsaKey, ok := parsed.(*rsa.PrivateKey)
	if err != nil || !ok {
		plain.Wipe()
		return nil, nil, failure.New(failure.Tampered, "the sealed exchange key of HSM %s is not an RSA key", h.name)
	}
	return rsaKey, plain.Wipe, nil
}

func parseExchange(rec *record) (*x509.Certificate, error) {
	c, err := x509.ParseCertificate(rec.Exchange.Certificate)
	if err != nil {
		return nil, failure.Wrap(failure.Tampered, err, "the exchange certificate of HSM %s cannot be read", rec.Name)
	}
	return c, nil
}

func awaitsUpload(rec *record) error {
	switch rec.State {
	case Recovering:
		return nil
	case Activated:
		return alreadyActivated(rec)
	}
	return failure.Coded(failure.Conflict, "SecurityDomainNoExchangeKey",
		"HSM %s has shown no exchange key, so no transfer file can be for it; fetch one first (az keyvault security-domain init-recovery, or strongroom domain init-recovery)", rec.Name)
}

func alreadyActivated(rec *record) error {
	return failure.Coded(failure.Conflict, "HsmAlreadyActivated",
		"HSM %s is activated with security domain %s and cannot take another; recover into a newly provisioned HSM. Nothing was changed", rec.Name, rec.Domain.ID)
}

func label(c *x509.Certificate) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, strings.ToValidUTF8(c.Subject.CommonName[:min(len(c.Subject.CommonName), 64)], ""))
}

// domainFailure gives the security domain package's errors a kind and a stable code.
func domainFailure(err error) error {
	e, ok := errors.AsType[*securitydomain.Error](err)
	if !ok {
		return failure.Wrap(failure.Internal, err, "the security domain could not be processed")
	}
	codes := map[securitydomain.Kind]string{
		"malformed":                 "SecurityDomainMalformed",
		"unsupported-version":       "SecurityDomainUnsupported",
		"unsupported-kdf":           "SecurityDomainUnsupported",
		"unsupported-algorithm":     "SecurityDomainUnsupported",
		"bad-quorum":                "SecurityDomainBadQuorum",
		"bad-custodian":             "SecurityDomainBadCustodian",
		"wrong-exchange-key":        "SecurityDomainWrongExchangeKey",
		"transfer-unopenable":       "SecurityDomainTransferUnopenable",
		"item-damaged":              "SecurityDomainItemInvalid",
		"not-a-custodian":           "SecurityDomainBadCustodian",
		"too-few-shares":            "SecurityDomainBadCustodian",
		"share-damaged":             "SecurityDomainMalformed",
		"shares-do-not-match":       "SecurityDomainMalformed",
		"invalid-parameter":         "BadParameter",
		"random":                    "InternalError",
		"transfer-file-unsupported": "SecurityDomainUnsupported",
	}
	code, known := codes[e.Kind]
	if !known {
		code = "SecurityDomainMalformed"
	}
	return &failure.Error{Kind: failure.BadParameter, Code: code, Message: e.Message + ". Nothing was changed", Cause: err}
}
