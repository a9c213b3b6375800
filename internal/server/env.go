package server

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"strings"

	"strongroom/internal/durable"
	"strongroom/secret"
)

// The files of a server's own credentials, in its data folder.
const (
	devEnv           = "dev.env"
	administratorEnv = "administrator.env"
)

// environment is what a client needs to reach a server and sign in, as lines NAME=VALUE that a shell can source.
type environment struct {
	authority, tenant string
	clientID          string
	clientSecret      secret.Bytes
	objectID          string
	ca                string
	hsms              []hsmAddress // in order of name
}

type hsmAddress struct{ name, url string }

// variable is the name under which an HSM's URL is given: STRONGROOM_HSM_MY_HSM_URL.
func (a hsmAddress) variable() string {
	return "STRONGROOM_HSM_" + strings.ToUpper(strings.ReplaceAll(a.name, "-", "_")) + "_URL"
}

// write replaces the file as a whole, readable by its owner only: it holds the client's secret. A file that says
// the same already is left alone.
func (e environment) write(path string) error {
	var b bytes.Buffer
	line := func(name, value string) { fmt.Fprintf(&b, "%s=%s\n", name, value) }
	line("STRONGROOM_AUTHORITY", e.authority)
	line("STRONGROOM_TENANT", e.tenant)
	line("STRONGROOM_CLIENT_ID", e.clientID)
	line("STRONGROOM_CLIENT_SECRET", string(e.clientSecret.Reveal()))
	line("STRONGROOM_OBJECT_ID", e.objectID)
	line("STRONGROOM_CA", shellQuote(e.ca))
	for _, h := range e.hsms {
		line(h.variable(), h.url)
	}
	defer clear(b.Bytes())
	if old, err := os.ReadFile(path); err == nil {
		defer clear(old)
		if info, err := os.Stat(path); err == nil && info.Mode().Perm() == 0o600 && bytes.Equal(old, b.Bytes()) {
			return nil
		}
	}
	return durable.WriteFile(path, b.Bytes(), 0o600, true)
}

// shellQuote quotes a path that a shell would otherwise take apart.
func shellQuote(s string) string {
	for _, c := range s {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune("/._-+=:@,", c)) {
			return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
		}
	}
	return s
}

// readSecret returns the client secret of an earlier start, if the file has one for this client.
func readSecret(path, clientID string) secret.Bytes {
	raw, err := os.ReadFile(path)
	if err != nil || len(raw) > 1<<20 {
		return secret.Bytes{}
	}
	defer clear(raw)
	var id string
	var found secret.Bytes
	for s := bufio.NewScanner(bytes.NewReader(raw)); s.Scan(); {
		name, value, _ := strings.Cut(s.Text(), "=")
		switch name {
		case "STRONGROOM_CLIENT_ID":
			id = value
		case "STRONGROOM_CLIENT_SECRET":
			found = secret.New([]byte(value))
		}
	}
	if id != clientID {
		return secret.Bytes{}
	}
	return found
}
