package pki

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"strongroom/internal/durable"
)

// Lifetimes of development certificates. 397 days is the most that browsers and Apple's clients accept.
const (
	caLife      = 10 * 365 * 24 * time.Hour
	leafLife    = 397 * 24 * time.Hour
	renewBefore = 30 * 24 * time.Hour
	// backdate lets a client whose clock is a little behind connect to a server that was just set up.
	backdate = time.Hour
)

// Dev is a development CA and the server certificate that it signed.
type Dev struct {
	CAFile     string // the CA's certificate, for clients that take an additional one
	BundleFile string // the system's roots and the CA, for clients that take one file for all (REQUESTS_CA_BUNDLE)
	CertFile   string // the server's certificate
	KeyFile    string // the server's key
	Source     Source // serves that certificate
}

// EnsureDev keeps a development CA in dir and a server certificate for names (DNS names, also of the form
// "*.managedhsm.localhost") and ips, and makes what is missing:
//
//	ca.pem, ca.key          the CA, ten years, signs only certificates of servers; never made anew while it is there
//	server.pem, server.key  the server's, 397 days; made anew when it lacks a name or ends within 30 days
//	bundle.pem              the system's roots, where they are found, and the CA
//
// Keys have mode 0600. A damaged CA is [ErrDamaged], naming the file; a damaged server certificate is made anew.
func EnsureDev(dir string, names []string, ips []net.IP, now func() time.Time, rand io.Reader) (Dev, error) {
	if len(names)+len(ips) == 0 {
		return Dev{}, errors.New("pki: a server certificate needs a name or an address")
	}
	if err := durable.MkdirAll(dir, 0o700); err != nil {
		return Dev{}, fmt.Errorf("pki: %w", err)
	}
	d := Dev{
		CAFile:     filepath.Join(dir, "ca.pem"),
		BundleFile: filepath.Join(dir, "bundle.pem"),
		CertFile:   filepath.Join(dir, "server.pem"),
		KeyFile:    filepath.Join(dir, "server.key"),
	}
	ca, err := ensureCA(d.CAFile, filepath.Join(dir, "ca.key"), now(), rand)
	if err != nil {
		return Dev{}, err
	}
	cert, err := ensureLeaf(d, ca, names, ips, now(), rand)
	if err != nil {
		return Dev{}, err
	}
	if err := ensureBundle(d, systemRoots); err != nil {
		return Dev{}, err
	}
	d.Source = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return cert, nil }
	return d, nil
}

type authority struct {
	cert *x509.Certificate
	key  crypto.Signer
}

// ensureCA reads the CA, or makes one. The key is written first: as long as there is no certificate nobody can
// trust this CA, so a key alone is what a crash left, and is used.
func ensureCA(certFile, keyFile string, now time.Time, rand io.Reader) (*authority, error) {
	hasCert, hasKey := exists(certFile), exists(keyFile)
	if hasCert && !hasKey {
		return nil, fmt.Errorf("%w: %s is missing and %s is there; put the key back, or delete the certificate to have a new CA (clients then need the new one)", ErrDamaged, keyFile, certFile)
	}
	if hasCert {
		pair, err := loadPair(certFile, keyFile)
		if err != nil {
			return nil, fmt.Errorf("%w; put a good copy back, or delete %s and %s to have a new CA (clients then need the new one)", err, certFile, keyFile)
		}
		cert := pair.Leaf
		switch {
		case !cert.IsCA:
			return nil, fmt.Errorf("%w: %s is not the certificate of a CA", ErrDamaged, certFile)
		case now.After(cert.NotAfter):
			return nil, fmt.Errorf("pki: the development CA %s ended on %s; delete it and %s to have a new one (clients then need the new one)", certFile, cert.NotAfter.Format(time.DateOnly), keyFile)
		}
		return &authority{cert, pair.PrivateKey.(crypto.Signer)}, nil
	}
	var key crypto.Signer
	var err error
	if hasKey {
		if key, err = readKey(keyFile); err != nil {
			return nil, fmt.Errorf("%w; delete it to have a new CA", err)
		}
	} else if key, err = makeKey(keyFile, rand); err != nil {
		return nil, err
	}
	serial, err := newSerial(rand)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		// The serial number in the name keeps two development CAs on one machine apart.
		Subject:               pkix.Name{Organization: []string{"Strongroom development"}, CommonName: fmt.Sprintf("Strongroom development CA %.8x", serial)},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(caLife),
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("pki: make the development CA: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("pki: make the development CA: %w", err)
	}
	if err := writePEM(certFile, "CERTIFICATE", der, 0o644); err != nil {
		return nil, err
	}
	return &authority{cert, key}, nil
}

// ensureLeaf reads the server's certificate, or makes one where it is missing, damaged, lacks a name, ends soon, or
// is of another CA: clients trust the CA, so nobody notices. The key is written first; a certificate that does not
// belong to it is what a crash in between left.
func ensureLeaf(d Dev, ca *authority, names []string, ips []net.IP, now time.Time, rand io.Reader) (*tls.Certificate, error) {
	if exists(d.CertFile) && exists(d.KeyFile) {
		cert, err := loadPair(d.CertFile, d.KeyFile)
		switch {
		case errors.Is(err, errMismatch), errors.Is(err, ErrDamaged):
		case err != nil:
			return nil, err
		case covers(cert.Leaf, names, ips) && now.Add(renewBefore).Before(cert.Leaf.NotAfter) && cert.Leaf.CheckSignatureFrom(ca.cert) == nil:
			return cert, nil
		}
	}
	serial, err := newSerial(rand)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{Organization: []string{"Strongroom development"}, CommonName: "Strongroom server"},
		NotBefore:             now.Add(-backdate),
		NotAfter:              earlier(now.Add(leafLife-backdate), ca.cert.NotAfter),
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:              names,
		IPAddresses:           ips,
	}
	key, err := makeKey(d.KeyFile, rand)
	if err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificate(rand, template, ca.cert, key.Public(), ca.key)
	if err != nil {
		return nil, fmt.Errorf("pki: make the server certificate: %w", err)
	}
	if err := writePEM(d.CertFile, "CERTIFICATE", der, 0o644); err != nil {
		return nil, err
	}
	return loadPair(d.CertFile, d.KeyFile)
}

// covers reports whether cert holds every name and address.
func covers(cert *x509.Certificate, names []string, ips []net.IP) bool {
	for _, name := range names {
		if !slices.ContainsFunc(cert.DNSNames, func(n string) bool { return strings.EqualFold(n, name) }) {
			return false
		}
	}
	for _, ip := range ips {
		if !slices.ContainsFunc(cert.IPAddresses, ip.Equal) {
			return false
		}
	}
	return true
}

// systemRoots are where systems keep the roots they trust, as one PEM file.
var systemRoots = []string{
	"/etc/ssl/certs/ca-certificates.crt",                // Debian, Ubuntu, Arch, Alpine
	"/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", // Fedora, RHEL
	"/etc/ssl/ca-bundle.pem",                            // SUSE
	"/etc/ssl/cert.pem",                                 // macOS, BSD
}

// ensureBundle writes the system's roots and the CA into one file, unless it holds just that already.
func ensureBundle(d Dev, roots []string) error {
	var bundle []byte
	for _, path := range roots {
		if data, err := readFile(path); err == nil {
			bundle = append(bytes.TrimRight(data, "\n"), '\n')
			break
		}
	}
	ca, err := readFile(d.CAFile)
	if err != nil {
		return err
	}
	bundle = append(bundle, ca...)
	if old, err := readFile(d.BundleFile); err == nil && bytes.Equal(old, bundle) {
		return nil
	}
	if err := durable.WriteFile(d.BundleFile, bundle, 0o644, true); err != nil {
		return fmt.Errorf("pki: write %s: %w", d.BundleFile, err)
	}
	return nil
}

// makeKey makes an EC P-256 key and writes it to path as PKCS #8, mode 0600.
func makeKey(path string, rand io.Reader) (crypto.Signer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand)
	if err != nil {
		return nil, fmt.Errorf("pki: make a key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("pki: make a key: %w", err)
	}
	defer clear(der)
	if err := writePEM(path, "PRIVATE KEY", der, 0o600); err != nil {
		return nil, err
	}
	return key, nil
}

func writePEM(path, kind string, der []byte, perm fs.FileMode) error {
	data := pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
	defer clear(data)
	if err := durable.WriteFile(path, data, perm, true); err != nil {
		return fmt.Errorf("pki: write %s: %w", path, err)
	}
	return nil
}

// newSerial returns 127 random bits with the highest set: positive and of one length (RFC 5280 section 4.1.2.2).
func newSerial(rand io.Reader) (*big.Int, error) {
	b := make([]byte, 16)
	if _, err := io.ReadFull(rand, b); err != nil {
		return nil, fmt.Errorf("pki: read a random serial number: %w", err)
	}
	b[0] = b[0]&0x7f | 0x40
	return new(big.Int).SetBytes(b), nil
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
