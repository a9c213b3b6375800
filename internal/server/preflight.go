package server

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"time"

	"strongroom/internal/access"
	"strongroom/internal/pki"
	"strongroom/internal/store/bolt"
)

// checkFirstStart finds out, before the first start makes a database and a seal, whether all can be had that the
// configuration names: a start that fails later would leave both behind, and a seal whose passphrase was a try. Where
// there is a database already, nothing is made that was not there, and the parts say themselves what they lack.
func checkFirstStart(cfg Config, o Options) error {
	if _, err := os.Lstat(filepath.Join(cfg.Data, bolt.FileName)); err == nil {
		return nil
	}
	if cfg.TLS.Certificate != "" {
		if _, err := pki.Reloading(cfg.TLS.Certificate, cfg.TLS.Key, time.Now, nil); err != nil {
			return fmt.Errorf("[tls]: %w; give certificate and key as PEM, or leave both out and the server makes a CA of its own", err)
		}
	}
	if err := checkFolder(filepath.Dir(cfg.Seal.File), cfg.Data); err != nil {
		return fmt.Errorf("[seal] file: %w", err)
	}
	if !cfg.Audit.Off {
		if info, err := os.Stat(cfg.auditFolder()); err == nil && !info.IsDir() {
			return fmt.Errorf("[audit] folder: %s is a file; name a folder", cfg.auditFolder())
		}
	}
	if cfg.Seal.Kind == "passphrase" && cfg.Seal.PassphraseFile != "" {
		passphrase, err := sealPassphrase(cfg, o, true)
		if err != nil {
			return err
		}
		passphrase.Wipe()
	}
	var issuers []access.Issuer
	for _, i := range cfg.Issuers {
		issuer, err := access.OpenIssuer(access.IssuerConfig{URL: i.URL, Algorithms: i.Algorithms, Prefix: i.PrincipalPrefix, Groups: i.Groups, Now: time.Now})
		if err != nil {
			return err
		}
		issuers = append(issuers, issuer)
	}
	if _, err := access.NewVerifier(issuers, time.Now); err != nil {
		return err
	}
	for _, a := range cfg.AttestationAuthorities {
		if _, err := access.OpenIssuer(access.IssuerConfig{URL: a.URL, Algorithms: a.Algorithms, Now: time.Now}); err != nil {
			return fmt.Errorf("attestation_authority: %w", err)
		}
	}
	for _, l := range []struct{ address, next string }{
		{cfg.Listen, "stop what uses that port, or give another with --listen"},
		{cfg.Metrics.Listen, "stop what uses that port, or give another in [metrics] listen"},
	} {
		if l.address == "" {
			continue
		}
		listener, err := net.Listen("tcp", l.address)
		if err != nil {
			return fmt.Errorf("%w; %s", err, l.next)
		}
		_ = listener.Close()
	}
	return nil
}

// checkFolder demands a folder that is there, or the data folder, which is made. A folder that somebody chose for a seal
// is not made: it may be the place of a disk that is not mounted, and the seal would be gone when it is.
func checkFolder(dir, data string) error {
	if filepath.Clean(dir) == filepath.Clean(data) {
		return nil
	}
	switch info, err := os.Stat(dir); {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("there is no folder %s; make it for the user that the server runs as: install -d -m 700 %s", dir, dir)
	case err != nil:
		return err
	case !info.IsDir():
		return fmt.Errorf("%s is a file; name a folder", dir)
	}
	return nil
}
