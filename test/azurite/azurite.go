// Package azurite runs Azurite, Microsoft's Azure Blob Storage for one machine, for tests. It is reached as an account of
// Azure is: by https, under the account's own name, https://ACCOUNT.blob.SUFFIX/CONTAINER. test/install.sh installs it.
package azurite

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/sas"

	"strongroom/internal/pki"
)

// What Azurite is known to accept: the development account of its documentation.
const (
	Account = "devstoreaccount1"
	Key     = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)

// Host is the name of the account's blobs. Nothing resolves it: a process that goes there needs a line in /etc/hosts.
const Host = Account + ".blob." + domain

const domain = "core.localhost"

// Storage is a running Azurite.
type Storage struct {
	// Suffix is what clients put after ".blob.": the cloud's storage suffix, with the port.
	Suffix string
	// CAFile is the CA of its certificate, as a PEM file.
	CAFile string

	address string // host and port
	client  *http.Client
	account *azblob.SharedKeyCredential
}

// Run starts Azurite with more flags, and returns the address that it listens on and what ends it. It ends with this
// process too, however that ends. What it stores is in its memory.
func Run(flags ...string) (endpoint string, stop func(), err error) {
	_, here, _, _ := runtime.Caller(0)
	program := filepath.Join(filepath.Dir(here), "node_modules/azurite/dist/src/blob/main.js")
	if _, err := os.Stat(program); err != nil {
		return "", nil, fmt.Errorf("there is no Azurite; run test/install.sh, as make test does: %w", err)
	}
	const withStdin = `process.stdin.on("end", () => process.exit()).resume(); require(process.argv[1])`
	cmd := exec.Command("node", append([]string{"-e", withStdin, program, "--blobPort", "0", "--inMemoryPersistence", "--silent", "--disableTelemetry"}, flags...)...)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return "", nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return "", nil, err
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		return "", nil, err
	}
	listens := regexp.MustCompile(`successfully listens on (https?://127\.0\.0\.1:\d+)`)
	var said strings.Builder
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if m := listens.FindStringSubmatch(lines.Text()); m != nil {
			go func() { _, _ = io.Copy(io.Discard, out) }()
			return m[1], func() {
				_ = stdin.Close()
				_ = cmd.Process.Kill()
				_ = cmd.Wait()
			}, nil
		}
		fmt.Fprintln(&said, lines.Text())
	}
	_ = cmd.Wait()
	return "", nil, fmt.Errorf("the program azurite ended: %s", said.String())
}

// Start runs Azurite, with a certificate, until the test ends.
func Start(t testing.TB) *Storage {
	t.Helper()
	tlsFiles, err := pki.EnsureDev(t.TempDir(), []string{Host}, []net.IP{net.IPv4(127, 0, 0, 1)}, time.Now, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	endpoint, stop, err := Run("--cert", tlsFiles.CertFile, "--key", tlsFiles.KeyFile)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	address := strings.TrimPrefix(endpoint, "https://")

	s := &Storage{address: address, Suffix: domain + address[strings.LastIndexByte(address, ':'):], CAFile: tlsFiles.CAFile}
	if s.account, err = azblob.NewSharedKeyCredential(Account, Key); err != nil {
		t.Fatal(err)
	}
	ca, err := os.ReadFile(s.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	s.client = &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots},
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, address)
		},
	}}
	t.Cleanup(s.client.CloseIdleConnections)
	return s
}

// URL is the account's, without "/" at its end.
func (s *Storage) URL() string { return "https://" + Account + ".blob." + s.Suffix }

// PathURL is that of a container by the address of the service, with the account's name in the path.
func (s *Storage) PathURL(containerName string) string {
	return "https://" + s.address + "/" + Account + "/" + containerName
}

// Hosts are what a server must be allowed to send backups to: the account by its name, and by its address.
func (s *Storage) Hosts() []string {
	return []string{strings.TrimPrefix(s.URL(), "https://"), s.address}
}

// NewContainer makes a container and returns its URL.
func (s *Storage) NewContainer(t testing.TB, name string) string {
	t.Helper()
	if _, err := s.container(t, name).Create(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	return s.URL() + "/" + name
}

func (s *Storage) container(t testing.TB, name string) *container.Client {
	t.Helper()
	c, err := container.NewClientWithSharedKeyCredential(s.URL()+"/"+name, s.account, &container.ClientOptions{ClientOptions: azcore.ClientOptions{Transport: s.client}})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Blobs are the names of what is in a container.
func (s *Storage) Blobs(t testing.TB, name string) (names []string) {
	t.Helper()
	for pager := s.container(t, name).NewListBlobsFlatPager(nil); pager.More(); {
		page, err := pager.NextPage(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, item := range page.Segment.BlobItems {
			names = append(names, *item.Name)
		}
	}
	return names
}

// Backup and Restore are the permissions that Azure documents for the two.
const (
	Backup  = "crdw"
	Restore = "rl"
)

// Token is a SAS token for a container, good for a day.
func (s *Storage) Token(t testing.TB, containerName, permissions string) string {
	t.Helper()
	query, err := sas.BlobSignatureValues{
		Protocol: sas.ProtocolHTTPS, ExpiryTime: time.Now().UTC().Add(24 * time.Hour), ContainerName: containerName, Permissions: ordered(permissions),
	}.SignWithSharedKey(s.account)
	if err != nil {
		t.Fatal(err)
	}
	return query.Encode()
}

// ordered puts permissions into the order that the service wants.
func ordered(permissions string) string {
	var b strings.Builder
	for _, p := range "racwdl" {
		if strings.ContainsRune(permissions, p) {
			b.WriteRune(p)
		}
	}
	return b.String()
}
