// Package pki gives the server its TLS certificates: from the operator's files, reloaded when they change, or
// from a development CA of its own.
package pki

import (
	"bytes"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"
)

// Source hands out the certificate of a handshake; it is the GetCertificate of a [tls.Config].
type Source func(*tls.ClientHelloInfo) (*tls.Certificate, error)

// ErrDamaged says that a certificate or key file cannot be read.
var ErrDamaged = errors.New("pki: a certificate file is damaged")

// ServerConfig returns the TLS settings of every listener: TLS 1.2 and 1.3 with the standard library's ciphers
// and curves, which include the post-quantum hybrid ones.
func ServerConfig(source Source) *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: source}
}

// maxFile bounds each file: a chain of certificates is a few kilobytes, the system's roots some hundred.
const maxFile = 4 << 20

// checkEvery is how often a handshake looks whether the files have changed.
const checkEvery = time.Second

// Reloading returns a source that serves the certificate chain in certFile with the private key in keyFile (PEM),
// and serves new ones soon after the files have changed: a handshake looks at them at most once a second. A new
// pair that does not work is logged, once, and the old one stays; so the two files may be replaced one after the
// other. The files must be good at the start.
func Reloading(certFile, keyFile string, now func() time.Time, log *slog.Logger) (Source, error) {
	r := &reloader{certFile: certFile, keyFile: keyFile, now: now, log: log}
	r.seen, r.checked = r.stamps(), now()
	cert, err := loadPair(certFile, keyFile)
	if err != nil {
		return nil, err
	}
	r.cert = cert
	return r.get, nil
}

type reloader struct {
	certFile, keyFile string
	now               func() time.Time
	log               *slog.Logger

	mu      sync.Mutex // the fields below
	cert    *tls.Certificate
	seen    [2]stamp // of the pair that was tried last, good or not
	checked time.Time
}

// stamp tells one state of a file from another without reading it.
type stamp struct {
	info os.FileInfo // nil: not there
}

func (s stamp) same(t stamp) bool {
	if s.info == nil || t.info == nil {
		return s.info == nil && t.info == nil
	}
	return os.SameFile(s.info, t.info) && s.info.Size() == t.info.Size() && s.info.ModTime().Equal(t.info.ModTime())
}

func (r *reloader) stamps() (s [2]stamp) {
	for i, path := range []string{r.certFile, r.keyFile} {
		if info, err := os.Stat(path); err == nil {
			s[i].info = info
		}
	}
	return s
}

func (r *reloader) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	// A clock that was set back must not stop the looking.
	if since := r.now().Sub(r.checked); since >= 0 && since < checkEvery {
		return r.cert, nil
	}
	r.checked = r.now()
	// The stamps are taken before the files are read: a change in between is seen the next time.
	s := r.stamps()
	if s[0].same(r.seen[0]) && s[1].same(r.seen[1]) {
		return r.cert, nil
	}
	r.seen = s
	cert, err := loadPair(r.certFile, r.keyFile)
	if err != nil {
		r.log.Warn("the new TLS certificate does not work; the old one stays in use", "certificate", r.certFile, "key", r.keyFile, "error", err)
		return r.cert, nil
	}
	r.cert = cert
	r.log.Info("TLS certificate reloaded", "certificate", r.certFile, "serial", cert.Leaf.SerialNumber.Text(16), "expires", cert.Leaf.NotAfter)
	return r.cert, nil
}

// errMismatch says that a certificate and a key are each whole and do not belong together.
var errMismatch = errors.New("pki: the certificate and the key do not belong together")

// loadPair reads a certificate chain and its key.
func loadPair(certFile, keyFile string) (*tls.Certificate, error) {
	leaf, chain, err := readChain(certFile)
	if err != nil {
		return nil, err
	}
	key, err := readKey(keyFile)
	if err != nil {
		return nil, err
	}
	pub, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !pub.Equal(leaf.PublicKey) {
		return nil, fmt.Errorf("%w: %s and %s; put the key there that the certificate was made for", errMismatch, certFile, keyFile)
	}
	return &tls.Certificate{Certificate: chain, PrivateKey: key, Leaf: leaf}, nil
}

// readChain reads the certificates of a PEM file; the first is the leaf.
func readChain(path string) (leaf *x509.Certificate, chain [][]byte, err error) {
	data, err := readFile(path)
	if err != nil {
		return nil, nil, err
	}
	for {
		block, rest := pem.Decode(data)
		if block == nil {
			break
		}
		data = rest
		if block.Type != "CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, nil, fmt.Errorf("%w: certificate %d in %s: %w", ErrDamaged, len(chain)+1, path, err)
		}
		if leaf == nil {
			leaf = cert
		}
		chain = append(chain, block.Bytes)
	}
	if leaf == nil || len(bytes.TrimSpace(data)) > 0 {
		return nil, nil, fmt.Errorf("%w: %s is not a list of certificates in PEM form", ErrDamaged, path)
	}
	return leaf, chain, nil
}

// readKey reads the private key of a PEM file: PKCS #8, PKCS #1 or SEC 1, not encrypted. Its errors do not tell
// what the file holds.
func readKey(path string) (crypto.Signer, error) {
	data, err := readFile(path)
	if err != nil {
		return nil, err
	}
	defer clear(data)
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		var key any
		var err error
		switch block.Type {
		case "PRIVATE KEY":
			key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
		case "RSA PRIVATE KEY":
			key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
		case "EC PRIVATE KEY":
			key, err = x509.ParseECPrivateKey(block.Bytes)
		default:
			continue // EC PARAMETERS, or a certificate in the same file
		}
		clear(block.Bytes)
		if signer, ok := key.(crypto.Signer); err == nil && ok {
			return signer, nil
		}
		break
	}
	return nil, fmt.Errorf("%w: %s holds no private key in PEM form without a passphrase", ErrDamaged, path)
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("pki: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("pki: %w", err)
	}
	if len(data) > maxFile {
		return nil, fmt.Errorf("%w: %s is larger than %d bytes", ErrDamaged, path, maxFile)
	}
	return data, nil
}
