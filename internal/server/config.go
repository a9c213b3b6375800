package server

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/BurntSushi/toml"
	"github.com/google/uuid"

	"strongroom/internal/hsm"
	"strongroom/internal/keys"
	"strongroom/internal/target"
)

// maxKeysPerHSM is what an operator may allow at most: ten times what is measured (docs/performance.md).
const maxKeysPerHSM = 1_000_000

// Options are what the command line says. They override the configuration file.
type Options struct {
	Dev                bool
	DataDir            string
	Listen             string
	HSMs               []string
	BackupHosts        []string // added to those of the configuration
	ConfigFile         string
	LogFormat          string // "text" or "json"; "" means text on a terminal, else JSON
	LogLevel           string // debug, info, warn, error
	SealPassphraseFile string
	AllowRSA15         bool
	NewAuditLog        bool
	AuditFolder        string
	Stdin              io.Reader
	Stdout, Stderr     io.Writer
	// Prompt asks a person at a terminal for a passphrase; nil where there is no terminal.
	Prompt  func(question string) ([]byte, error)
	Version string
	// WrapDataPlane is for tests that look at every exchange of the data plane: it is put around whatever answers at
	// an HSM's address, and sees nothing of the control plane, the token issuer or the probes. It is nil in the
	// shipped program, which has no way to set it.
	WrapDataPlane func(http.Handler) http.Handler
}

// Config is the configuration file (TOML). An unknown name in it is an error. The comment of a field is its
// manual.
type Config struct {
	// Data is the folder of the database and, unless named elsewhere, of the seal and the TLS files.
	Data string `toml:"data"`
	// Listen is the address of the main listener: authority, control plane, and every HSM by host name.
	Listen string `toml:"listen"`
	// PublicURL is how clients reach the main listener; default https:// and the address it listens on.
	PublicURL string `toml:"public_url"`
	// HSMDomain is the suffix of HSM host names: NAME.HSMDomain. Default managedhsm.localhost.
	HSMDomain string `toml:"hsm_domain"`
	// HSMs are provisioned at start if they are missing.
	HSMs []string `toml:"hsms"`
	// Tenant and Subscription are the GUIDs that the control plane and tokens carry. Default: made once and kept.
	Tenant       string `toml:"tenant"`
	Subscription string `toml:"subscription"`
	// Location is the region that the control plane reports. Default local.
	Location string `toml:"location"`
	// Administrators are the object IDs that administrate the HSMs named above.
	Administrators []string `toml:"administrators"`
	// Operators are the object IDs that may use the control plane.
	Operators []string `toml:"operators"`

	// AllowRSA15 lets RSA keys encrypt and decrypt with RSA1_5, for clients that know nothing better. Off, because
	// every caller who may decrypt with it can be used to decrypt anything, and to sign, by asking often enough.
	AllowRSA15 bool `toml:"allow_rsa1_5"`

	// LockMemory keeps the process out of swap, where that is permitted. Default true, and false in development. The
	// pages of the database that were read are locked too, so memory grows to the size of the database at most.
	LockMemory bool `toml:"lock_memory"`

	TLS struct {
		// Certificate and Key are PEM files, read again when they change. Default: a CA of our own in DATA/tls.
		Certificate string `toml:"certificate"`
		Key         string `toml:"key"`
	} `toml:"tls"`

	Seal struct {
		// Kind is file (the default for a new seal) or passphrase. A seal that exists keeps its kind.
		Kind string `toml:"kind"`
		// File is the seal. Default DATA/seal.json.
		File string `toml:"file"`
		// PassphraseFile holds the passphrase. Default: the systemd credential seal-passphrase, else a prompt.
		PassphraseFile string `toml:"passphrase_file"`
	} `toml:"seal"`

	Log struct {
		Format string `toml:"format"`
		Level  string `toml:"level"`
	} `toml:"log"`

	Identity struct {
		// Embedded turns on the embedded token issuer. At the first start it makes an application named
		// administrator, which operates the server and administrates the HSMs named above, and writes its
		// credentials to DATA/administrator.env.
		Embedded bool `toml:"embedded"`
	} `toml:"identity"`

	Limits struct {
		// KeysPerHSM is how many keys one HSM may have, deleted ones included. Default 5000, as Azure's; at most
		// 1,000,000.
		KeysPerHSM int `toml:"keys_per_hsm"`
		// Running is how many requests of one HSM run at once, and Waiting how many wait for their turn, for at most five
		// seconds; beyond, the answer is 503 at once. Defaults 256 and 1024.
		Running int `toml:"running"`
		Waiting int `toml:"waiting"`
		// RequestsPerSecond is how many requests one principal may make in a second, to all HSMs and the control plane
		// together; beyond, the answer is 429. Default 5000; -1 means no bound.
		RequestsPerSecond int `toml:"requests_per_second"`
		// ConnectionsPerAddress is how many connections one source address (of IPv6, one /64) may have at once, to all
		// ports together; those beyond are closed at once. Default 512; -1 means no bound, for a server whose clients
		// all come through one load balancer.
		ConnectionsPerAddress int `toml:"connections_per_address"`
	} `toml:"limits"`

	Audit struct {
		// Folder of the audit log. Default DATA/audit.
		Folder string `toml:"folder"`
		// Off turns the audit log off: nobody can show what is done then.
		Off bool `toml:"insecure_off"`
	} `toml:"audit"`

	// Backup says where full backups may go; without any of it, nowhere. In development it is DATA/backups.
	Backup BackupConfig `toml:"backup"`

	Metrics struct {
		// Listen is the address of a plain HTTP listener for Prometheus, GET /metrics. Default: none. Whoever reaches it
		// learns the names of HSMs and what is done with them, and nothing else; it must be a loopback address unless
		// Exposed says that the network around it is trusted.
		Listen  string `toml:"listen"`
		Exposed bool   `toml:"exposed"`
	} `toml:"metrics"`

	// Issuers are OpenID Connect issuers whose tokens are accepted.
	Issuers []IssuerConfig `toml:"issuer"`

	// AttestationAuthorities are those whose attestation tokens count when a key is to be released. What a token has
	// to say is in the key's release policy; without an authority here, no key is released.
	AttestationAuthorities []AttestationConfig `toml:"attestation_authority"`
}

// BackupConfig is where full backups may go, and what a restore wants.
type BackupConfig struct {
	target.Config
	// RecentMinutes is how old the newest backup of an HSM must be at least before that HSM is restored over; Azure
	// wants 30. Default 0: none is wanted, because what a restore replaces is kept and can be brought back.
	RecentMinutes int `toml:"restore_wants_backup_minutes"`
	// Schedules are backups that the server takes by itself.
	Schedules []ScheduleConfig `toml:"schedule"`
}

// ScheduleConfig is a full backup of one HSM, again and again, each read back after it was written.
type ScheduleConfig struct {
	// HSM is the name of the HSM. It may be made later.
	HSM string `toml:"hsm"`
	// To is the place, one that the other settings allow: file:///FOLDER, https://ACCOUNT.HOST/CONTAINER or s3://BUCKET/PREFIX.
	To string `toml:"to"`
	// SASFile holds the SAS token of a container, for its owner alone to read. It is read for each backup.
	SASFile string `toml:"sas_file"`
	// Every is the time from one backup to the next: 5m to 744h, as 24h.
	Every string `toml:"every"`
	// Keep is how many finished backups of the HSM stay in the place, whoever made them; older ones are removed. Default 7.
	Keep int `toml:"keep"`
}

// AttestationConfig is one attestation authority.
type AttestationConfig struct {
	// URL is the authority as tokens name it (iss); its discovery document is read from there.
	URL string `toml:"url"`
	// Algorithms are the accepted signature algorithms. Default RS256 and ES256.
	Algorithms []string `toml:"algorithms"`
}

// IssuerConfig is one external issuer.
type IssuerConfig struct {
	// URL is the issuer as tokens name it; its discovery document is read from there.
	URL string `toml:"url"`
	// Algorithms are the accepted signature algorithms. Default RS256 and ES256.
	Algorithms []string `toml:"algorithms"`
	// PrincipalPrefix goes before the object IDs of its principals, as "PREFIX:ID", also in administrators and operators.
	// Needed as soon as there is another issuer, the embedded one included: else one could name the other's people.
	PrincipalPrefix string `toml:"principal_prefix"`
	// Groups makes the groups in its tokens count as principals. Only for an issuer whose users cannot name groups.
	Groups bool `toml:"groups"`
}

// auditFolder is where the audit log is.
func (c Config) auditFolder() string {
	if c.Audit.Folder != "" {
		return c.Audit.Folder
	}
	return filepath.Join(c.Data, "audit")
}

// maxRequests bounds the limits of requests at once.
const maxRequests = 100_000

// readConfig reads the file, if one is named.
func readConfig(o Options) (c Config, err error) {
	c.LockMemory = !o.Dev
	if o.ConfigFile != "" {
		meta, err := toml.DecodeFile(o.ConfigFile, &c)
		if mistake, is := errors.AsType[toml.ParseError](err); is {
			// Its text would show what stands there, which may be a secret in the wrong place.
			return c, fmt.Errorf("configuration %s: line %d is not valid TOML, or not of the type that its setting has", o.ConfigFile, mistake.Position.Line)
		}
		if err != nil {
			return c, fmt.Errorf("configuration %s: %w", o.ConfigFile, reason(err))
		}
		if unknown := meta.Undecoded(); len(unknown) > 0 {
			return c, fmt.Errorf("configuration %s: unknown setting %q; see docs/operations.md for those there are", o.ConfigFile, unknown[0].String())
		}
	}
	return c, nil
}

// reason is what is wrong with a file, without the system call and the name, which stands beside it.
func reason(err error) error {
	if path, is := errors.AsType[*fs.PathError](err); is {
		return path.Err
	}
	return err
}

// dataConfig is what a command needs that works on the data of a server which does not run: where database and seal are.
// The rest of the file counts only in that its names must be known.
func dataConfig(o Options) (Config, error) {
	c, err := readConfig(o)
	if err != nil {
		return c, err
	}
	if o.DataDir != "" {
		c.Data = o.DataDir
	}
	if o.SealPassphraseFile != "" {
		c.Seal.PassphraseFile = o.SealPassphraseFile
	}
	if c.Data == "" {
		return c, fmt.Errorf("no data folder: give --data DIR, or data in the configuration")
	}
	return c, c.findSeal()
}

// findSeal completes the settings of the seal.
func (c *Config) findSeal() error {
	switch c.Seal.Kind {
	case "":
		if c.Seal.PassphraseFile != "" {
			c.Seal.Kind = "passphrase"
		}
	case "file", "passphrase":
	default:
		return fmt.Errorf("seal kind %q is not known: use file or passphrase", c.Seal.Kind)
	}
	if c.Seal.File == "" {
		c.Seal.File = filepath.Join(c.Data, "seal.json")
	}
	return nil
}

// loadConfig merges file, options and defaults, and refuses what cannot work before anything is touched.
func loadConfig(o Options) (Config, error) {
	c, err := readConfig(o)
	if err != nil {
		return c, err
	}
	override := func(target *string, values ...string) {
		for _, v := range values {
			if v != "" {
				*target = v
				return
			}
		}
	}
	override(&c.Data, o.DataDir, c.Data)
	override(&c.Listen, o.Listen, c.Listen, "127.0.0.1:8443")
	override(&c.Log.Format, o.LogFormat, c.Log.Format)
	override(&c.Log.Level, o.LogLevel, c.Log.Level, "info")
	override(&c.Seal.PassphraseFile, o.SealPassphraseFile, c.Seal.PassphraseFile)
	override(&c.HSMDomain, c.HSMDomain, "managedhsm.localhost")
	override(&c.Location, c.Location, "local")
	c.Backup.AllowedHosts = append(c.Backup.AllowedHosts, o.BackupHosts...)
	if len(o.HSMs) > 0 {
		c.HSMs = o.HSMs
	}
	c.AllowRSA15 = c.AllowRSA15 || o.AllowRSA15
	override(&c.Audit.Folder, o.AuditFolder, c.Audit.Folder)
	if c.Data == "" {
		return c, fmt.Errorf("no data folder: give --data DIR, or data in the configuration")
	}
	host, _, err := net.SplitHostPort(c.Listen)
	if err != nil {
		return c, fmt.Errorf("--listen %q is not HOST:PORT", c.Listen)
	}
	if o.Dev {
		// Not on ::1: no SDK accepts an address in brackets as the parent of a resource.
		if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() || ip.To4() == nil {
			return c, fmt.Errorf("--dev listens on IPv4 loopback only, and %q is not a loopback address: development credentials lie in a file. Use 127.0.0.1:8443, or drop --dev", host)
		}
		if o.ConfigFile != "" {
			return c, fmt.Errorf("--dev takes no --config: a development server is set up by flags alone")
		}
		if len(c.HSMs) == 0 {
			c.HSMs = []string{"alpha", "beta"}
		}
		c.Identity.Embedded = true
	}
	if !c.Identity.Embedded && len(c.Issuers) == 0 {
		return c, fmt.Errorf("nobody could sign in: set [identity] embedded = true or an [[issuer]] in the configuration, or use --dev to try Strongroom out")
	}
	if !c.Identity.Embedded && len(c.HSMs) > 0 && len(c.Administrators) == 0 {
		return c, fmt.Errorf("hsms are named without administrators: set administrators to the object IDs that shall own them")
	}
	for _, id := range append(append([]string{}, c.Administrators...), c.Operators...) {
		if _, bare, prefixed := strings.Cut(id, ":"); prefixed {
			id = bare
		}
		if _, err := uuid.Parse(id); err != nil {
			return c, fmt.Errorf("%q is not an object ID (a GUID, behind its issuer's principal_prefix if that has one)", id)
		}
	}
	for _, name := range c.HSMs {
		if err := hsm.CheckName(name); err != nil {
			return c, fmt.Errorf("HSM %q: %w", name, err)
		}
	}
	for what, id := range map[string]string{"tenant": c.Tenant, "subscription": c.Subscription} {
		if _, err := uuid.Parse(id); id != "" && err != nil {
			return c, fmt.Errorf("%s %q is not a GUID", what, id)
		}
	}
	if c.PublicURL != "" {
		u, err := url.Parse(c.PublicURL)
		if err != nil || u.Scheme != "https" || u.Host == "" || (u.Path != "" && u.Path != "/") {
			return c, fmt.Errorf("public_url %q must be https://HOST[:PORT], without a path", c.PublicURL)
		}
		c.PublicURL = "https://" + u.Host
	} else if host, _, err := net.SplitHostPort(c.Listen); err == nil && unspecified(host) {
		return c, fmt.Errorf("listen %q is every address of this machine, and clients need one name to reach it by and to find in tokens and key identifiers; set public_url to https://HOST[:PORT]", c.Listen)
	}
	if (c.TLS.Certificate == "") != (c.TLS.Key == "") {
		return c, fmt.Errorf("tls needs both certificate and key, or neither")
	}
	if err := c.findSeal(); err != nil {
		return c, err
	}
	if err := checkAuthorities(c); err != nil {
		return c, err
	}
	if err := c.Backup.Check(); err != nil {
		return c, err
	}
	if _, err := c.schedules(o.Dev); err != nil {
		return c, err
	}
	if m := c.Backup.RecentMinutes; m < 0 || m > 60*24*31 {
		return c, fmt.Errorf("[backup] restore_wants_backup_minutes is %d; it must be 0, for none, to %d, a month", m, 60*24*31)
	}
	if c.Limits.KeysPerHSM < 0 || c.Limits.KeysPerHSM > maxKeysPerHSM {
		return c, fmt.Errorf("[limits] keys_per_hsm is %d; it must be 1 to %d, or be left out for %d", c.Limits.KeysPerHSM, maxKeysPerHSM, keys.MaxKeys)
	}
	for name, v := range map[string]int{"running": c.Limits.Running, "waiting": c.Limits.Waiting} {
		if v < 0 || v > maxRequests {
			return c, fmt.Errorf("[limits] %s is %d; it must be 1 to %d, or be left out", name, v, maxRequests)
		}
	}
	if r := c.Limits.RequestsPerSecond; r < -1 || r > 10*maxRequests {
		return c, fmt.Errorf("[limits] requests_per_second is %d; it must be 1 to %d, -1 for no bound, or be left out", r, 10*maxRequests)
	}
	if n := c.Limits.ConnectionsPerAddress; n < -1 || n > maxRequests {
		return c, fmt.Errorf("[limits] connections_per_address is %d; it must be 1 to %d, -1 for no bound, or be left out for %d", n, maxRequests, connectionsPerAddress)
	}
	if c.Metrics.Listen != "" {
		host, _, err := net.SplitHostPort(c.Metrics.Listen)
		if err != nil {
			return c, fmt.Errorf("[metrics] listen %q is not HOST:PORT", c.Metrics.Listen)
		}
		if ip := net.ParseIP(host); !c.Metrics.Exposed && (ip == nil || !ip.IsLoopback()) {
			return c, fmt.Errorf("[metrics] listen %q is not a loopback address, and metrics are plain HTTP without a token; listen on 127.0.0.1, or set exposed = true where the network around it is trusted", c.Metrics.Listen)
		}
	}
	c.HSMDomain = strings.ToLower(strings.Trim(c.HSMDomain, "."))
	return c, nil
}

// unspecified reports whether a host to listen on means all of the machine's addresses.
func unspecified(host string) bool {
	ip := net.ParseIP(host)
	return host == "" || ip != nil && ip.IsUnspecified()
}

// checkAuthorities refuses attestation authorities that are there twice, or issue tokens too: a token that says who
// somebody is must not pass for one that says what runs somewhere. What else can be wrong is found when they are opened.
func checkAuthorities(c Config) error {
	seen := map[string]string{}
	same := func(url string) string { return strings.ToLower(strings.TrimSuffix(url, "/")) }
	for _, i := range c.Issuers {
		seen[same(i.URL)] = "an [[issuer]] too: an issuer of bearer tokens attests nothing"
	}
	own := c.PublicURL
	if own == "" {
		own = "https://" + c.Listen
	}
	for i, a := range c.AttestationAuthorities { // named by number: a URL may have a password in it
		if strings.HasPrefix(same(a.URL)+"/", same(own)+"/") {
			return fmt.Errorf("attestation_authority number %d is this server, whose embedded issuer attests nothing; remove it", i+1)
		}
		if what, there := seen[same(a.URL)]; there {
			return fmt.Errorf("attestation_authority number %d is %s; remove one of the two", i+1, what)
		}
		seen[same(a.URL)] = "there twice"
	}
	return nil
}

// systemdCredential returns the path of a credential that systemd passed to this service, or "".
func systemdCredential(name string) string {
	dir := os.Getenv("CREDENTIALS_DIRECTORY")
	if dir == "" {
		return ""
	}
	path := filepath.Join(dir, name)
	if _, err := os.Stat(path); err != nil {
		return ""
	}
	return path
}
