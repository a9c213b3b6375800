package target

import (
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"time"

	"strongroom/secret"
)

// Places opens targets: those that the configuration allows. Safe for concurrent use.
type Places struct {
	rules rules
	own   bool // a person's own command: any folder, any host, any address
	knobs knobs
}

// Format prints nothing of it, for every verb.
func (p *Places) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "places for backups") }

// knobs are what tests change.
type knobs struct {
	resolver   *net.Resolver  // nil: the system's
	roots      *x509.CertPool // nil: the system's
	retryDelay time.Duration  // before the second try of a request; then more
	tries      int            // of one request
}

// rules are a configuration that was read.
type rules struct {
	hosts   []hostRule
	private []netip.Prefix
	folders []string
	buckets map[string]bucket
}

// bucket is where a bucket of S3 is, and where its credentials are.
type bucket struct {
	origin                       origin
	region                       string
	accessKeyFile, secretKeyFile string
}

// New returns the places that a checked configuration allows to clients.
func New(c Config) (*Places, error) {
	r, err := c.rules()
	if err != nil {
		return nil, err
	}
	return &Places{rules: r, knobs: knobs{retryDelay: 800 * time.Millisecond, tries: 5}}, nil
}

// Own returns the places that a command may use for the person who runs it: every folder, every host by https, and this
// machine by http too. Of the configuration only the buckets of S3 count. Not for what comes over the network.
func Own(c Config) (*Places, error) {
	p, err := New(c)
	if err != nil {
		return nil, err
	}
	p.own = true
	return p, nil
}

// Allows says whether the configuration allows the place, without touching it; failure.BadParameter if not. It cannot know
// yet which addresses a name has: those are looked at when they are dialled.
func (p *Places) Allows(l Location) error {
	switch l.kind {
	case kindFolder:
		if _, _, ok := p.below(l.path); !ok {
			return badParameter("the folder is not one that this server may write to, nor below one: its operator can add it to [backup] folders")
		}
	case kindBlob:
		if !p.allowsHost(l.origin) {
			return badParameter("this server may not send backups to %s: its operator can add it to [backup] allowed_hosts", l.origin)
		}
	case kindS3:
		if _, known := p.rules.buckets[l.bucket]; !known {
			return badParameter("this server knows no bucket %s: its operator can add it as [backup.s3.NAME]", l.bucket)
		}
	default:
		return badParameter("no place was given")
	}
	return nil
}

// below finds the configured folder that path is, or is below: by name only, links are for the one who opens it.
func (p *Places) below(path string) (base, rel string, ok bool) {
	if p.own {
		return path, ".", true
	}
	for _, base := range p.rules.folders {
		if path == base {
			return base, ".", true
		}
		if rel, is := strings.CutPrefix(path, base+string(filepath.Separator)); is {
			return base, rel, true
		}
	}
	return "", "", false
}

func (p *Places) allowsHost(o origin) bool {
	if p.own {
		address, err := netip.ParseAddr(o.host)
		return o.scheme == "https" || err == nil && address.IsLoopback()
	}
	for _, rule := range p.rules.hosts {
		if rule.matches(o) {
			return true
		}
	}
	return false
}

// Open returns the target at a place that [Places.Allows]. It reads the credentials of a bucket, and touches no network.
func (p *Places) Open(l Location) (Target, error) {
	if err := p.Allows(l); err != nil {
		return nil, err
	}
	switch l.kind {
	case kindFolder:
		base, rel, _ := p.below(l.path)
		return &folder{base: base, rel: rel, own: p.own, path: l.path}, nil
	case kindBlob:
		if l.NeedsToken() {
			return nil, badParameter("the SAS token is missing")
		}
		return p.openBlob(l)
	}
	return p.openS3(l)
}

func (p *Places) openS3(l Location) (Target, error) {
	b := p.rules.buckets[l.bucket]
	var credentials [2]secret.Bytes
	for i, path := range []string{b.accessKeyFile, b.secretKeyFile} {
		var err error
		if credentials[i], err = readCredential(path); err != nil {
			return nil, &Error{Op: "open", Where: l.String(), Why: fmt.Sprintf("its credentials: %v", err)}
		}
	}
	return p.newS3(l, b, credentials[0], credentials[1])
}
