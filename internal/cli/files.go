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
	maxBackupFile    = 8 << 20
)

// readFile reads a file of at most max bytes. It may be a pipe, /dev/stdin say: then it waits for as long as ctx lasts.
func readFile(ctx context.Context, path string, max int64) ([]byte, error) {
	if path == "" {
		return nil, problemf("no-such-file", "give the file's path", "a file is needed, and its path is empty")
	}
	return unlessInterrupted(ctx, func() ([]byte, error) {
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
			return nil, problemf("bad-file", "is it the right file?", "%s is larger than %d KiB, which is more than such a file has", path, max>>10)
		}
		return b, nil
	})
}

// unlessInterrupted waits for work that cannot be called off, a read of a pipe or of a terminal, or for the end of ctx.
// After an interrupt the work stays behind, in a process that is about to end; so it must not change anything.
func unlessInterrupted[T any](ctx context.Context, work func() (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	go func() {
		value, err := work()
		done <- result{value, err}
	}()
	select {
	case r := <-done:
		return r.value, r.err
	case <-ctx.Done():
		var none T
		return none, ctx.Err()
	}
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
	if err := checkReplaceable(path, force); err != nil {
		return err
	}
	err := durable.WriteFile(path, data, mode, force)
	if errors.Is(err, fs.ErrExist) {
		return existsProblem(path)
	}
	if errors.Is(err, durable.ErrUnsynced) {
		return &problem{code: "file-error", message: path + " is written, but it is not certain that it would survive a power cut", next: "type: sync", cause: err}
	}
	if err != nil {
		return &problem{code: "file-error", message: fmt.Sprintf("cannot write %s: %s", path, cause(err)), next: "nothing was written; check the folder and its free space", cause: err}
	}
	return nil
}

func existsProblem(path string) error {
	return problemf("file-exists", "choose another name, or replace it with --force", "%s exists and was left as it is", path)
}

// checkReplaceable says what keeps a file from being written at path. --force replaces files, and nothing else: not a
// folder, not a device, and not a symbolic link, in whose place there would be a file of this folder all of a sudden.
func checkReplaceable(path string, force bool) error {
	if path == "" || os.IsPathSeparator(path[len(path)-1]) {
		return problemf("bad-file", "give --out the path of a file", "%q names no file to write to", path)
	}
	info, err := os.Lstat(path)
	switch {
	case err != nil: // mostly: there is nothing; else the writing will say
		return nil
	case info.IsDir():
		return problemf("bad-file", "give --out the path of a file in it", "%s is a folder, and a file is needed", path)
	case !info.Mode().IsRegular():
		return problemf("bad-file", "choose another name", "%s is no ordinary file and was left as it is", path)
	case !force:
		return existsProblem(path)
	}
	return nil
}

// room is what must be free where a file is going to be written, in bytes: the largest SD file has half of it.
const room = 128 << 10

// checkTarget finds out beforehand whether a file can be written: some commands change a server before they have
// what to write. The files that the command reads are not replaced, --force or not.
func checkTarget(path string, force bool, inputs ...string) error {
	if err := checkReplaceable(path, force); err != nil {
		return err
	}
	if target, err := os.Stat(path); err == nil {
		for _, input := range inputs {
			if info, err := os.Stat(input); err == nil && os.SameFile(target, info) {
				return problemf("bad-file", "choose another name for --out", "%s is read by this command, and is not replaced with what comes out of it", path)
			}
		}
	}
	return checkFolder(filepath.Dir(path))
}

// checkFolder finds out whether files can be written to a folder.
func checkFolder(dir string) error {
	probe, err := os.CreateTemp(dir, ".strongroom-*")
	if err == nil {
		_, err = probe.Write(make([]byte, room))
		err = errors.Join(err, probe.Close(), os.Remove(probe.Name()))
	}
	if err != nil {
		return &problem{code: "file-error", message: fmt.Sprintf("cannot write to the folder %s: %s", dir, cause(err)), next: "nothing was done; choose a folder that exists, may be written to and has free space", cause: err}
	}
	return nil
}

func cause(err error) string {
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		return pe.Err.Error()
	}
	if le, ok := errors.AsType[*os.LinkError](err); ok {
		return le.Err.Error()
	}
	return err.Error()
}

// readCertificate reads a file that holds exactly one certificate.
func readCertificate(ctx context.Context, path string) (*x509.Certificate, error) {
	data, err := readFile(ctx, path, maxKeyFile)
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
	passphrases, err := a.readPassphrases(ctx, passphraseFiles)
	if err != nil {
		return nil, err
	}
	var keys []securitydomain.Key
	for _, file := range files {
		data, err := readFile(ctx, file, maxKeyFile)
		if err != nil {
			return nil, err
		}
		key, err := a.openKey(ctx, file, data, passphrases)
		clear(data)
		if err != nil {
			return nil, err
		}
		a.warnIfReadable(file)
		keys = append(keys, securitydomain.Key{Name: file, Decrypter: key, Certificate: a.certificateBeside(ctx, file, key)})
	}
	return keys, nil
}

// certificatesBeside is where the certificates of keys would be.
func certificatesBeside(keys []string) (list []string) {
	for _, file := range keys {
		stem := strings.TrimSuffix(file, filepath.Ext(file))
		list = append(list, stem+".cer", stem+".crt")
	}
	return list
}

func (a *app) certificateBeside(ctx context.Context, file string, key crypto.Decrypter) *x509.Certificate {
	for _, path := range certificatesBeside([]string{file}) {
		if _, err := os.Stat(path); err != nil {
			continue
		}
		cert, err := readCertificate(ctx, path)
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
