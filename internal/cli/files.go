package cli

import (
	"context"
	"crypto"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"strongroom/internal/custodian"
	"strongroom/internal/durable"
	"strongroom/securitydomain"
)

// Bounds of files that are read whole, in bytes.
const (
	maxDomainFile    = 2 << 20
	maxKeyFile       = 1 << 20
	maxSignatureFile = 64 << 10
	maxBackupFile    = 6 << 20
)

// readFile reads a file of at most max bytes.
func readFile(path string, max int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fileProblem(err)
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.IsDir() {
		return nil, problemf("bad-file", "", "%s is a folder, and a file is needed", path)
	}
	b, err := io.ReadAll(io.LimitReader(f, max+1))
	if err != nil {
		return nil, fileProblem(err)
	}
	if int64(len(b)) > max {
		return nil, problemf("bad-file", "", "%s is larger than %d KiB, which is more than such a file has", path, max>>10)
	}
	return b, nil
}

func fileProblem(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return &problem{code: "no-such-file", message: pathMessage(err), next: "check the path", cause: err}
	case errors.Is(err, fs.ErrPermission):
		return &problem{code: "permission-denied", message: pathMessage(err), next: "check the rights of the file and its folder", cause: err}
	}
	return &problem{code: "file-error", message: pathMessage(err), cause: err}
}

// Modes of what is written.
const (
	secretFile fs.FileMode = 0o600
	publicFile fs.FileMode = 0o644
)

// writeFile writes a file whole or not at all, and over an existing one only with force.
func writeFile(path string, data []byte, mode fs.FileMode, force bool) error {
	err := durable.WriteFile(path, data, mode, force)
	if errors.Is(err, fs.ErrExist) {
		return existsProblem(path)
	}
	if errors.Is(err, durable.ErrUnsynced) {
		return &problem{code: "file-error", message: path + " is written, but it is not certain that it would survive a power cut", next: "type: sync", cause: err}
	}
	if err != nil {
		return &problem{code: "file-error", message: "write " + pathMessage(err), next: "nothing was written; check the folder and its free space", cause: err}
	}
	return nil
}

func existsProblem(path string) error {
	return problemf("file-exists", "choose another name, or replace it with --force", "%s exists and was left as it is", path)
}

// checkTarget finds out beforehand whether a file can be written: some commands change a server before they have
// what to write.
func checkTarget(path string, force bool) error {
	if _, err := os.Lstat(path); err == nil && !force {
		return existsProblem(path)
	}
	probe, err := os.CreateTemp(filepath.Dir(path), ".strongroom-*")
	if err != nil {
		return &problem{code: "file-error", message: fmt.Sprintf("cannot write to the folder %s: %s", filepath.Dir(path), cause(err)), next: "nothing was done; make the folder, or choose another", cause: err}
	}
	_ = probe.Close()
	return os.Remove(probe.Name())
}

func cause(err error) string {
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		return pe.Err.Error()
	}
	return err.Error()
}

// readCertificate reads a file that holds exactly one certificate.
func readCertificate(path string) (*x509.Certificate, error) {
	data, err := readFile(path, maxKeyFile)
	if err != nil {
		return nil, err
	}
	certs, err := custodian.ParseCertificates(data)
	if err != nil {
		return nil, certificateProblem(path, err)
	}
	if len(certs) != 1 {
		return nil, problemf("bad-certificate", "give each custodian's certificate in a file of its own", "%s holds %d certificates, and one is needed", path, len(certs))
	}
	return certs[0], nil
}

// readKeys reads the key files of custodians. Each certificate beside a key (same name, .cer or .crt) helps to
// find the share; a key without one is tried on all shares.
func (a *app) readKeys(ctx context.Context, files, passphraseFiles []string) ([]securitydomain.Key, error) {
	passphrases, err := a.readPassphrases(passphraseFiles)
	if err != nil {
		return nil, err
	}
	var keys []securitydomain.Key
	for _, file := range files {
		data, err := readFile(file, maxKeyFile)
		if err != nil {
			return nil, err
		}
		a.warnIfReadable(file)
		key, err := a.openKey(ctx, file, data, passphrases)
		clear(data)
		if err != nil {
			return nil, err
		}
		keys = append(keys, securitydomain.Key{Name: file, Decrypter: key, Certificate: a.certificateBeside(file, key)})
	}
	return keys, nil
}

func (a *app) certificateBeside(file string, key crypto.Decrypter) *x509.Certificate {
	stem := strings.TrimSuffix(file, filepath.Ext(file))
	for _, path := range []string{stem + ".cer", stem + ".crt"} {
		if _, err := os.Stat(path); err != nil {
			continue
		}
		cert, err := readCertificate(path)
		if err != nil {
			a.warn("%v; the key is used without it", err)
			return nil
		}
		public, ok := key.Public().(*rsa.PublicKey)
		if !ok || !public.Equal(cert.PublicKey) {
			a.warn("%s is not the certificate of %s; the key is used without it", path, file)
			return nil
		}
		return cert
	}
	return nil
}

// warnIfReadable warns about a secret that others can read. It does not refuse: OpenSSL and some clients write
// such files, and the day of recovery is no day for refusing.
func (a *app) warnIfReadable(path string) {
	info, err := os.Stat(path)
	if err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o077 != 0 {
		a.warn("other users of this machine may read %s; type: chmod 600 %s", path, path)
	}
}
