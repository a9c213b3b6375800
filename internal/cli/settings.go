package cli

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"
	"github.com/spf13/cobra"

	"strongroom/internal/client"
	"strongroom/secret"
)

// settings say where servers are and who calls. Each comes from its flag, else from its variable, else from the
// profile.
type settings struct {
	URL              string `toml:"url"`                // one HSM
	Server           string `toml:"server"`             // the control plane; default: the authority
	Authority        string `toml:"authority"`          // where tokens are issued
	Tenant           string `toml:"tenant"`             //
	ClientID         string `toml:"client_id"`          //
	ClientSecretFile string `toml:"client_secret_file"` // a path: no setting holds a secret
	ObjectID         string `toml:"object_id"`          // who the caller is, for hsm create
	CA               string `toml:"ca"`                 // PEM file
}

// profiles is the settings file. An unknown name in it is an error.
type profiles struct {
	Default string              `toml:"default"`
	Profile map[string]settings `toml:"profile"`
}

// setting describes one of them: what flag, variable and profile have in common.
type setting struct {
	name  string // of the flag; the variable is STRONGROOM_NAME
	usage string
	field func(*settings) *string
}

var (
	settingURL    = setting{"url", "address of the HSM, https://HOST:PORT, or a NAME for which STRONGROOM_HSM_NAME_URL is set", func(s *settings) *string { return &s.URL }}
	settingServer = setting{"server", "address of the control plane, https://HOST:PORT; default: the authority", func(s *settings) *string { return &s.Server }}

	connectionSettings = []setting{
		{"authority", "address where tokens are issued, https://HOST:PORT", func(s *settings) *string { return &s.Authority }},
		{"tenant", "tenant to sign in to", func(s *settings) *string { return &s.Tenant }},
		{"client-id", "application to sign in as", func(s *settings) *string { return &s.ClientID }},
		{"client-secret-file", "file with the application's secret", func(s *settings) *string { return &s.ClientSecretFile }},
		{"ca", "PEM file with the CA of the server, in place of the system's", func(s *settings) *string { return &s.CA }},
	}
)

func (s setting) variable() string {
	return "STRONGROOM_" + strings.ToUpper(strings.ReplaceAll(s.name, "-", "_"))
}

// connected gives a command the flags that say where servers are and who calls.
func (a *app) connected(cmd *cobra.Command, address ...setting) *cobra.Command {
	flags := cmd.Flags()
	for _, s := range append(address, connectionSettings...) {
		flags.String(s.name, "", s.usage+" ["+s.variable()+"]")
		complete := cobra.NoFileCompletions
		if strings.HasSuffix(s.name, "-file") || s.name == "ca" {
			complete = cobra.FixedCompletions(nil, cobra.ShellCompDirectiveDefault)
		}
		must(cmd.RegisterFlagCompletionFunc(s.name, complete))
	}
	flags.String("profile", "", "profile of the settings file to use [STRONGROOM_PROFILE]")
	must(cmd.RegisterFlagCompletionFunc("profile", cobra.NoFileCompletions))
	return cmd
}

// settingsOf collects the settings of a run.
func (a *app) settingsOf(cmd *cobra.Command) (settings, error) {
	profile, _ := cmd.Flags().GetString("profile")
	if profile == "" {
		profile = a.getenv("STRONGROOM_PROFILE")
	}
	s, err := a.loadProfile(cmd.Context(), profile)
	if err != nil {
		return s, err
	}
	s.ObjectID = first(a.getenv("STRONGROOM_OBJECT_ID"), s.ObjectID)
	for _, one := range append([]setting{settingURL, settingServer}, connectionSettings...) {
		flag := ""
		if f := cmd.Flags().Lookup(one.name); f != nil && f.Value.Type() == "string" {
			flag = f.Value.String()
		}
		*one.field(&s) = first(flag, a.getenv(one.variable()), *one.field(&s))
	}
	s.Server = first(s.Server, s.Authority)
	return s, nil
}

func first(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}

// configDir is where the settings file is, and beside it the tokens of login.
func (a *app) configDir() (string, error) {
	if file := a.getenv("STRONGROOM_CONFIG"); file != "" {
		return filepath.Dir(file), nil
	}
	if dir := a.getenv("XDG_CONFIG_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "strongroom"), nil
	}
	if home := a.getenv("HOME"); home != "" {
		return filepath.Join(home, ".config", "strongroom"), nil
	}
	return "", problemf("no-config", "set STRONGROOM_CONFIG or HOME", "there is no folder for settings")
}

// loadProfile reads a profile of the settings file; "" means the file's default, or none.
func (a *app) loadProfile(ctx context.Context, name string) (settings, error) {
	file := a.getenv("STRONGROOM_CONFIG")
	if file == "" {
		dir, err := a.configDir()
		if err != nil && name == "" {
			return settings{}, nil
		}
		if err != nil {
			return settings{}, err
		}
		file = filepath.Join(dir, "config.toml")
	}
	data, err := readFile(ctx, file, 1<<20)
	if errors.Is(err, fs.ErrNotExist) && name == "" {
		return settings{}, nil
	}
	if err != nil {
		return settings{}, err
	}
	var p profiles
	meta, err := toml.Decode(string(data), &p)
	if err != nil {
		return settings{}, badTOML(file, err)
	}
	if unknown := meta.Undecoded(); len(unknown) > 0 {
		return settings{}, problemf("bad-config", "strongroom help environment", "settings file %s: unknown setting %q", file, unknown[0].String())
	}
	name = first(name, p.Default)
	if name == "" {
		return settings{}, nil
	}
	s, ok := p.Profile[name]
	if !ok {
		var known []string
		for n := range p.Profile {
			known = append(known, n)
		}
		slices.Sort(known)
		next := "use one of: " + strings.Join(known, ", ")
		if len(known) == 0 {
			next = "it has none; see: strongroom help environment"
		}
		return settings{}, problemf("bad-config", next, "settings file %s has no profile %q", file, name)
	}
	// A path in the file is meant from where the file is.
	for _, path := range []*string{&s.ClientSecretFile, &s.CA} {
		if *path != "" && !filepath.IsAbs(*path) {
			*path = filepath.Join(filepath.Dir(file), *path)
		}
	}
	return s, nil
}

// badTOML says where a settings file is wrong. The parser's own words are left out: they repeat what stands there, and
// that may be a secret in the wrong place.
func badTOML(file string, err error) error {
	where := ""
	if parse, ok := errors.AsType[toml.ParseError](err); ok {
		where = fmt.Sprintf(", line %d", parse.Position.Line)
	}
	return &problem{
		code: "bad-config", message: fmt.Sprintf("settings file %s%s: it does not hold settings in TOML", file, where),
		next: `a setting is NAME = "text" with the quotes; see: strongroom help environment`, cause: err,
	}
}

// connect returns a client for the settings.
func (a *app) connect(ctx context.Context, s settings) (*client.Client, error) {
	o := client.Options{
		Credentials: client.Credentials{Authority: s.Authority, Tenant: s.Tenant, ClientID: s.ClientID},
		Now:         a.now,
		UserAgent:   "strongroom/" + version(),
	}
	// A file that was named wins over the variable, which may be left from another shell.
	switch value := a.getenv("STRONGROOM_CLIENT_SECRET"); {
	case s.ClientSecretFile != "":
		var err error
		if o.Credentials.Secret, err = a.readSecret(ctx, s.ClientSecretFile); err != nil {
			return nil, err
		}
		if o.Credentials.Secret.IsZero() {
			return nil, problemf("no-credentials", "write the client secret into the file, and nothing else", "the client secret file %s is empty", s.ClientSecretFile)
		}
	case value != "":
		o.Credentials.Secret = secret.New([]byte(value))
	}
	if s.CA != "" {
		ca, err := readFile(ctx, s.CA, 1<<20)
		if err != nil {
			return nil, err
		}
		if !x509.NewCertPool().AppendCertsFromPEM(ca) {
			return nil, problemf("bad-certificate", "give the server's CA as PEM; from DER: openssl x509 -inform DER -in FILE -out ca.pem", "%s holds no CA certificate in PEM", s.CA)
		}
		o.CA = ca
	}
	if dir, err := a.configDir(); err == nil {
		file := tokenFile{path: filepath.Join(dir, tokenFileName), now: a.now}
		a.warnIfReadable(file.path)
		o.Cache = file
	}
	return client.New(o)
}

// hsm returns the HSM that a command is about.
func (a *app) hsm(cmd *cobra.Command) (*client.HSM, error) {
	s, err := a.settingsOf(cmd)
	if err != nil {
		return nil, err
	}
	address, err := a.address(s.URL)
	if err != nil {
		return nil, err
	}
	c, err := a.connect(cmd.Context(), s)
	if err != nil {
		return nil, err
	}
	a.asked, err = c.HSM(address)
	return a.asked, err
}

// address turns what --url says into an address: a name stands for the variable that a development server's
// dev.env sets for it.
func (a *app) address(text string) (string, error) {
	known := a.knownHSMs()
	next := "give --url https://HOST:PORT, or set STRONGROOM_URL"
	if len(known) > 0 {
		next = "give --url with an address or one of: " + strings.Join(known, ", ")
	}
	if text == "" {
		return "", problemf("no-url", next, "it is not said which HSM is meant")
	}
	if strings.Contains(text, "://") {
		return text, nil
	}
	if !segment.MatchString(text) || strings.Contains(text, ".") {
		return "", problemf("no-url", next, "%q is not the address of an HSM; it has the form https://HOST:PORT", text)
	}
	if url := a.getenv(hsmVariable(text)); url != "" {
		return url, nil
	}
	return "", problemf("no-url", next, "%q is not an address, and %s is not set", text, hsmVariable(text))
}

func hsmVariable(name string) string {
	return "STRONGROOM_HSM_" + strings.ToUpper(strings.ReplaceAll(name, "-", "_")) + "_URL"
}

// knownHSMs are the names for which there are variables, in lower case.
func (a *app) knownHSMs() []string {
	var names []string
	for _, entry := range a.environ() {
		name, _, _ := strings.Cut(entry, "=")
		if rest, ok := strings.CutPrefix(name, "STRONGROOM_HSM_"); ok {
			if rest, ok := strings.CutSuffix(rest, "_URL"); ok {
				names = append(names, strings.ToLower(strings.ReplaceAll(rest, "_", "-")))
			}
		}
	}
	slices.Sort(names)
	return names
}

func environmentHelp() *cobra.Command {
	var b strings.Builder
	b.WriteString(`Commands that talk to a server need its address and credentials. Each setting is taken from its flag, else from
its variable, else from a profile of the settings file.

`)
	for _, s := range append([]setting{settingURL, settingServer}, connectionSettings...) {
		usage, _, _ := strings.Cut(s.usage, ";")
		fmt.Fprintf(&b, "  --%-20s %-31s %s\n", s.name, s.variable(), usage)
	}
	b.WriteString(`
Only variables:
  STRONGROOM_CLIENT_SECRET    the application's secret itself, where a file cannot be had
  STRONGROOM_SAS_TOKEN        the SAS token of the place where a backup lies, where a file cannot be had
  STRONGROOM_OBJECT_ID        who you are: the administrator of HSMs that you create
  STRONGROOM_HSM_NAME_URL     lets --url name stand for that address
  STRONGROOM_PROFILE          like --profile
  STRONGROOM_CONFIG           the settings file, in place of ~/.config/strongroom/config.toml
  NO_COLOR                    no colours

The settings file:
  default = "lab"

  [profile.lab]
  url                = "https://127.0.0.1:8444"
  authority          = "https://127.0.0.1:8443"
  tenant             = "7b1f2c34-0000-4000-8000-000000000000"
  client_id          = "2f1e0d9c-0000-4000-8000-000000000000"
  client_secret_file = "lab.secret"
  ca                 = "lab-ca.pem"

A development server writes all variables to DATA/dev.env. In a shell: set -a; . data/dev.env; set +a
`)
	return &cobra.Command{Use: "environment", Short: "Settings, variables and profiles", Long: strings.TrimSpace(b.String())}
}
