package target

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"strongroom/secret"
)

// Config says where backups may go: the [backup] part of the configuration file. The comment of a field is its manual.
// Without any of it, backups go nowhere.
type Config struct {
	// AllowedHosts are the hosts of Azure Blob that a client may name: HOST or *.SUFFIX, with :PORT if it is not the usual
	// one. https, unless http:// stands before it. An address that is not public must stand here as that address.
	AllowedHosts []string `toml:"allowed_hosts"`
	// PrivateNetworks are those that the names of allowed hosts may lead to, beside public addresses: "10.1.0.0/16" for
	// private endpoints.
	PrivateNetworks []string `toml:"private_networks"`
	// Folders are those of this machine that a client may name, and what is below them.
	Folders []string `toml:"folders"`
	// S3 are buckets, each under a name of its own: a client says s3://BUCKET/PREFIX, and the rest stands here.
	S3 map[string]S3Config `toml:"s3"`
}

// S3Config is one bucket.
type S3Config struct {
	// Endpoint is the service: https://HOST[:PORT], or http:// where that is really meant.
	Endpoint string `toml:"endpoint"`
	// Bucket is the bucket; no two may have the same name.
	Bucket string `toml:"bucket"`
	// Region is the region that requests are signed for. Default us-east-1.
	Region string `toml:"region"`
	// AccessKeyFile and SecretKeyFile hold the credentials, for their owner alone to read. They are read for each
	// backup or restore.
	AccessKeyFile string `toml:"access_key_file"`
	SecretKeyFile string `toml:"secret_key_file"`
}

const maxEntries = 64 // of each list

// Check says what is wrong with a configuration, and touches no file and no network. It names settings as the file has them.
func (c Config) Check() error {
	_, err := c.rules()
	return err
}

// rules reads the configuration.
func (c Config) rules() (r rules, err error) {
	if len(c.AllowedHosts) > maxEntries || len(c.PrivateNetworks) > maxEntries || len(c.Folders) > maxEntries || len(c.S3) > maxEntries {
		return r, fmt.Errorf("backup: more than %d entries in one list", maxEntries)
	}
	for _, s := range c.AllowedHosts {
		rule, err := parseHostRule(s)
		if err != nil {
			return r, fmt.Errorf("backup.allowed_hosts: %q: %w", s, err)
		}
		r.hosts = append(r.hosts, rule)
	}
	for _, s := range c.PrivateNetworks {
		network, err := netip.ParsePrefix(s)
		if err != nil || network.Masked() != network || network.Addr().Is4In6() {
			return r, fmt.Errorf("backup.private_networks: %q is no network of the form 10.1.0.0/16", s)
		}
		if neverPrivate(network) {
			return r, fmt.Errorf("backup.private_networks: %q holds addresses that no store has (link-local, multicast, or everything): name smaller networks", s)
		}
		r.private = append(r.private, network)
	}
	for _, s := range c.Folders {
		if !filepath.IsAbs(s) || filepath.Clean(s) != s || s == filepath.Dir(s) || len(s) > maxPathLen {
			return r, fmt.Errorf("backup.folders: %q is no absolute path without . and .. and a '/' at its end, or it is the root", s)
		}
		r.folders = append(r.folders, s)
	}
	r.buckets = map[string]bucket{}
	for name, s3 := range c.S3 {
		b, err := s3.bucket()
		if err != nil {
			return r, fmt.Errorf("backup.s3.%s: %w", name, err)
		}
		if _, twice := r.buckets[s3.Bucket]; twice {
			return r, fmt.Errorf("backup.s3.%s: another one has the bucket %q too, so that s3://%s would mean two places", name, s3.Bucket, s3.Bucket)
		}
		r.buckets[s3.Bucket] = b
	}
	return r, nil
}

func (s S3Config) bucket() (b bucket, err error) {
	if len(s.Endpoint) > maxURILen {
		return b, errors.New("endpoint is too long")
	}
	scheme, authority, found := strings.Cut(s.Endpoint, "://")
	if scheme = strings.ToLower(scheme); !found || scheme != "https" && scheme != "http" {
		return b, errors.New("endpoint must be https://HOST[:PORT]")
	}
	if b.origin, err = parseAuthority(scheme, strings.TrimSuffix(authority, "/")); err != nil {
		return b, errors.New("endpoint must be https://HOST[:PORT], and nothing else")
	}
	if !validBucket(s.Bucket) {
		return b, errors.New("bucket must be 3 to 63 small letters, digits, '.' and '-'")
	}
	if b.region = s.Region; b.region == "" {
		b.region = "us-east-1"
	}
	if !validLowercase(b.region, "-_", 64) {
		return b, errors.New("region must be small letters, digits and '-'")
	}
	if s.AccessKeyFile == "" || s.SecretKeyFile == "" {
		return b, errors.New("access_key_file and secret_key_file must be given")
	}
	b.accessKeyFile, b.secretKeyFile = s.AccessKeyFile, s.SecretKeyFile
	return b, nil
}

// parseHostRule reads [http://|https://](HOST|*.SUFFIX)[:PORT].
func parseHostRule(s string) (rule hostRule, err error) {
	if len(s) > maxURILen {
		return rule, errors.New("too long")
	}
	scheme, authority, found := strings.Cut(s, "://")
	if !found {
		scheme, authority = "https", s
	}
	if scheme != "https" && scheme != "http" {
		return rule, errors.New("only https:// and http:// can stand before a host")
	}
	authority, rule.suffix = strings.CutPrefix(authority, "*.")
	if rule.origin, err = parseAuthority(scheme, authority); err != nil {
		return rule, errors.New("not of the form HOST, HOST:PORT or *.SUFFIX")
	}
	switch {
	case rule.suffix && isAddress(rule.host):
		return rule, errors.New("an address has no names below it")
	case rule.suffix && !strings.Contains(rule.host, "."):
		return rule, errors.New("so short a suffix would allow nearly everything")
	case rule.suffix && scheme == "http":
		return rule, errors.New("http is for one host, named in full")
	}
	return rule, nil
}

const maxCredentialLen = 4096

// readCredential reads a file with one line of printable characters, which nobody but its owner may read.
func readCredential(path string) (s secret.Bytes, err error) {
	f, err := os.Open(path)
	if err != nil {
		return s, err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return s, err
	}
	if runtime.GOOS != "windows" && info.Mode().Perm()&0o077 != 0 {
		return s, fmt.Errorf("%s can be read by others: chmod 600 %s", path, path)
	}
	raw, err := io.ReadAll(io.LimitReader(f, maxCredentialLen+1))
	defer clear(raw)
	if err != nil {
		return s, fmt.Errorf("%s cannot be read", path)
	}
	line := strings.TrimRight(string(raw), "\r\n")
	if line == "" || len(line) > maxCredentialLen || strings.ContainsFunc(line, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return s, fmt.Errorf("%s does not hold one line of at most %d printable characters", path, maxCredentialLen)
	}
	return secret.New([]byte(line)), nil
}
