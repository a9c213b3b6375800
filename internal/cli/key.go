package cli

import (
	"context"
	"fmt"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"strongroom/internal/api"
	"strongroom/internal/client"
)

func (a *app) keyCommand() *cobra.Command {
	return noun("key", "Keys of an HSM", `Keys are made inside the HSM, or brought into it, and never leave it, except as backups that only an HSM of the same
security domain can restore, and keys that were made exportable, under their release policy.

Get one:    create, import, wrap-for-import (offline)
Look:       show, list, versions, attest
Use it:     sign, verify, encrypt, decrypt, wrap, unwrap, rng
Manage it:  set, rotate, policy, delete, recover, purge, backup, restore, release

Files: - is standard input or output. What is written is written whole or not at all, and never over an existing file
without --force. The guide is docs/keys.md.`,
		a.keyCreateCommand(), a.keyImportCommand(), a.keyWrapForImportCommand(),
		a.keyShowCommand(), a.keyListCommand(), a.keyVersionsCommand(), a.keyAttestCommand(),
		a.keySignCommand(), a.keyVerifyCommand(), a.keyEncryptCommand(), a.keyDecryptCommand(), a.keyWrapCommand(), a.keyUnwrapCommand(), a.keyRNGCommand(),
		a.keySetCommand(), a.keyRotateCommand(), a.keyPolicyCommand(), a.keyDeleteCommand(), a.keyRecoverCommand(), a.keyPurgeCommand(),
		a.keyBackupCommand(), a.keyRestoreCommand(), a.keyReleaseCommand())
}

// keyView is a key as results show it.
type keyView struct {
	Name       string            `json:"name"`
	Version    string            `json:"version,omitempty"`
	Kid        string            `json:"kid"`
	Type       string            `json:"kty,omitempty"`
	Bits       int               `json:"bits,omitempty"`
	Curve      string            `json:"crv,omitempty"`
	Ops        []string          `json:"key_ops,omitempty"`
	Enabled    bool              `json:"enabled"`
	Exportable bool              `json:"exportable,omitempty"`
	Immutable  bool              `json:"release_policy_immutable,omitempty"`
	Created    *time.Time        `json:"created,omitempty"`
	Updated    *time.Time        `json:"updated,omitempty"`
	NotBefore  *time.Time        `json:"not_before,omitempty"`
	Expires    *time.Time        `json:"expires,omitempty"`
	Tags       map[string]string `json:"tags,omitempty"`
	Deleted    *time.Time        `json:"deleted,omitempty"`
	Purge      *time.Time        `json:"scheduled_purge,omitempty"`
	Versions   int               `json:"versions,omitempty"` // after an import into a key that was there
	Warnings   []string          `json:"warnings,omitempty"`
}

func viewKey(b api.KeyBundle) keyView {
	v := viewItem(api.KeyItem{Kid: b.Key.Kid, Attributes: b.Attributes, Tags: b.Tags})
	v.Type, v.Curve, v.Ops = b.Key.Kty, b.Key.Crv, b.Key.KeyOps
	if v.Bits = b.Attributes.KeySize; v.Bits == 0 {
		v.Bits = len(b.Key.N) * 8
	}
	v.Immutable = b.ReleasePolicy != nil && isTrue(b.ReleasePolicy.Immutable)
	return v
}

func viewDeleted(b api.DeletedKeyBundle) keyView {
	v := viewKey(b.KeyBundle)
	v.Deleted, v.Purge = unixTime(b.DeletedDate), unixTime(b.ScheduledPurgeDate)
	return v
}

func viewItem(k api.KeyItem) keyView {
	name, version := splitKid(k.Kid)
	v := keyView{Name: name, Version: version, Kid: k.Kid, Enabled: k.Attributes.Enabled == nil || *k.Attributes.Enabled,
		Exportable: isTrue(k.Attributes.Exportable), Tags: k.Tags}
	if k.Attributes.Created > 0 {
		v.Created = unixTime(k.Attributes.Created)
	}
	if k.Attributes.Updated > 0 {
		v.Updated = unixTime(k.Attributes.Updated)
	}
	if k.Attributes.NotBefore != nil {
		v.NotBefore = unixTime(*k.Attributes.NotBefore)
	}
	if k.Attributes.Expires != nil {
		v.Expires = unixTime(*k.Attributes.Expires)
	}
	if k.Deletion != nil {
		v.Deleted, v.Purge = unixTime(k.DeletedDate), unixTime(k.ScheduledPurgeDate)
	}
	return v
}

func isTrue(b *bool) bool { return b != nil && *b }

func unixTime(seconds int64) *time.Time {
	t := time.Unix(seconds, 0).UTC()
	return &t
}

// splitKid takes name and version out of https://HOST/keys/NAME[/VERSION].
func splitKid(kid string) (name, version string) {
	u, err := url.Parse(kid)
	if err != nil {
		return "", ""
	}
	parts := strings.Split(strings.Trim(u.Path, "/"), "/")
	if len(parts) >= 2 {
		name = parts[1]
	}
	if len(parts) >= 3 {
		version = parts[2]
	}
	return name, version
}

// keyName and keyVersion are what names and versions of keys are made of. Anything else cannot be asked for: a server
// would see another path.
var (
	keyName    = regexp.MustCompile(`^[0-9A-Za-z-]{1,127}$`)
	keyVersion = regexp.MustCompile(`^(?:[0-9A-Fa-f]{32})?$`)
)

// checkKey refuses what can be no key's name or version; an empty version means the latest.
func (a *app) checkKey(cmd *cobra.Command, name, version string) error {
	if !keyName.MatchString(name) {
		return a.usage(cmd, fmt.Errorf("%q is not the name of a key: it has 1 to 127 letters, digits and hyphens", name))
	}
	if !keyVersion.MatchString(version) {
		p := explain(a.usage(cmd, fmt.Errorf("%q is not the version of a key: it has 32 hexadecimal digits", version)))
		p.next = "list them with: strongroom key versions " + name
		return p
	}
	if version != "" {
		a.missing = "see its versions with: strongroom key versions " + name
	}
	return nil
}

// seeDeleted is what to do about a key that is not among the deleted ones.
const seeDeleted = "see what there is with: strongroom key list --deleted"

// versionFlag is --key-version.
func versionFlag(cmd *cobra.Command, version *string) {
	cmd.Flags().StringVar(version, "key-version", "", "version of the key; default: the latest")
	must(cmd.RegisterFlagCompletionFunc("key-version", cobra.NoFileCompletions))
}

// complete makes the shell offer values of a flag.
func complete(cmd *cobra.Command, flag string, values ...string) {
	must(cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)))
}

// kind is "RSA-HSM 3072" or "EC-HSM P-256".
func (v keyView) kind() string {
	if v.Curve != "" {
		return v.Type + " " + v.Curve
	}
	if v.Bits > 0 {
		return v.Type + " " + strconv.Itoa(v.Bits)
	}
	return v.Type
}

func (v keyView) tagText() string {
	var list []string
	for _, name := range slices.Sorted(maps.Keys(v.Tags)) {
		list = append(list, name+"="+v.Tags[name])
	}
	return strings.Join(list, ", ")
}

func (a *app) showKey(b api.KeyBundle) error { return a.showView(viewKey(b)) }

func (a *app) showView(v keyView) error {
	v.Warnings = a.warned()
	return a.result(v, func(t *table) {
		t.field("name", v.Name)
		t.field("version", v.Version)
		t.field("type", v.kind())
		t.field("operations", strings.Join(v.Ops, ", "))
		t.field("enabled", strconv.FormatBool(v.Enabled))
		if v.Exportable {
			t.field("exportable", map[bool]string{false: "true", true: "true, by a policy that cannot be changed"}[v.Immutable])
		}
		t.field("created", timeText(v.Created))
		t.field("not before", timeText(v.NotBefore))
		t.field("expires", timeText(v.Expires))
		t.field("tags", v.tagText())
		t.field("deleted", timeText(v.Deleted))
		t.field("purged on", timeText(v.Purge))
		t.field("kid", v.Kid)
	})
}

func timeText(t *time.Time) string {
	if t == nil {
		return ""
	}
	return t.Format(time.RFC3339)
}

func (a *app) keyShowCommand() *cobra.Command {
	var (
		version, format string
		deleted         bool
		out             target
	)
	cmd := a.verb("show NAME", "Show a key, or get its public part", `Shows a key. With --format pem or jwk: its public part, as a file that OpenSSL or a JOSE library reads.`, 1,
		func(cmd *cobra.Command, args []string) error {
			if err := a.checkKey(cmd, args[0], version); err != nil {
				return err
			}
			public := format == "pem" || format == "jwk"
			switch {
			case !public && format != "table":
				return a.usage(cmd, fmt.Errorf("--format %q is not known: use table, jwk or pem", format))
			case !public && out.path != "":
				return a.usage(cmd, fmt.Errorf("--out is for --format jwk and pem"))
			case deleted && version != "":
				return a.usage(cmd, fmt.Errorf("--key-version cannot be asked for of a deleted key: only its latest version is shown"))
			}
			if public {
				if out.path == "" {
					out.path = "-"
				}
				if err := a.checkOut(cmd, out); err != nil {
					return err
				}
			}
			hsm, err := a.hsm(cmd)
			if err != nil {
				return err
			}
			var key api.KeyBundle
			var view keyView
			if deleted {
				a.missing = seeDeleted
				gone, err := hsm.DeletedKey(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				key, view = gone.KeyBundle, viewDeleted(gone)
			} else {
				if key, err = hsm.Key(cmd.Context(), args[0], version); err != nil {
					return err
				}
				view = viewKey(key)
			}
			if !public {
				return a.showView(view)
			}
			text, err := publicText(key.Key, format)
			if err != nil {
				return err
			}
			if err := a.writeOut(out, text, publicFile); err != nil {
				return err
			}
			result := struct {
				Kid    string `json:"kid"`
				Format string `json:"format"`
				File   string `json:"file"`
			}{key.Key.Kid, format, out.path}
			return a.resultBeside(out, result, func(t *table) {
				t.field("public key", out.path)
				t.field("kid", key.Key.Kid)
			})
		})
	versionFlag(cmd, &version)
	cmd.Flags().StringVar(&format, "format", "table", "table, or of the public part: jwk or pem")
	cmd.Flags().BoolVar(&deleted, "deleted", false, "a key that was deleted and not purged")
	out.flags(cmd, "with --format: file to write; default: standard output")
	complete(cmd, "format", "table", "jwk", "pem")
	return a.connected(cmd, settingURL)
}

func (a *app) keyListCommand() *cobra.Command {
	var deleted bool
	cmd := a.verb("list", "List the keys", "", 0, func(cmd *cobra.Command, _ []string) error {
		hsm, err := a.hsm(cmd)
		if err != nil {
			return err
		}
		if !deleted {
			return a.listKeys(cmd.Context(), hsm.Keys)
		}
		items, err := hsm.DeletedKeys(cmd.Context())
		if err != nil {
			return err
		}
		views := viewItems(items)
		return a.result(views, func(t *table) {
			t.row("NAME", "DELETED", "PURGED ON", "KID")
			for _, v := range views {
				t.row(v.Name, timeText(v.Deleted), timeText(v.Purge), v.Kid)
			}
		})
	})
	cmd.Flags().BoolVar(&deleted, "deleted", false, "those that were deleted and not purged")
	return a.connected(cmd, settingURL)
}

func viewItems(items []api.KeyItem) []keyView {
	views := make([]keyView, len(items)) // not nil: an empty list is [] in JSON
	for i, item := range items {
		views[i] = viewItem(item)
	}
	return views
}

func (a *app) listKeys(ctx context.Context, list func(context.Context) ([]api.KeyItem, error)) error {
	items, err := list(ctx)
	if err != nil {
		return err
	}
	views := viewItems(items)
	return a.result(views, func(t *table) {
		t.row("NAME", "ENABLED", "CREATED", "KID")
		for _, v := range views {
			t.row(v.Name, strconv.FormatBool(v.Enabled), timeText(v.Created), v.Kid)
		}
	})
}

func (a *app) keyVersionsCommand() *cobra.Command {
	cmd := a.verb("versions NAME", "List the versions of a key", "The oldest first. The last one is used where no version is named.", 1,
		func(cmd *cobra.Command, args []string) error {
			if err := a.checkKey(cmd, args[0], ""); err != nil {
				return err
			}
			hsm, err := a.hsm(cmd)
			if err != nil {
				return err
			}
			items, err := hsm.KeyVersions(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			views := viewItems(items)
			return a.result(views, func(t *table) {
				t.row("VERSION", "ENABLED", "CREATED", "EXPIRES")
				for _, v := range views {
					t.row(v.Version, strconv.FormatBool(v.Enabled), timeText(v.Created), timeText(v.Expires))
				}
			})
		})
	return a.connected(cmd, settingURL)
}

// keyOf finds the HSM that a command is about, and a version of a key in it.
func (a *app) keyOf(cmd *cobra.Command, name, version string) (*client.HSM, api.KeyBundle, error) {
	hsm, err := a.hsm(cmd)
	if err != nil {
		return nil, api.KeyBundle{}, err
	}
	key, err := hsm.Key(cmd.Context(), name, version)
	return hsm, key, err
}
