package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"strongroom/internal/api"
	"strongroom/internal/client"
	"strongroom/internal/strictjson"
)

func (a *app) keySetCommand() *cobra.Command {
	var (
		version string
		untag   []string
		about   newKey
	)
	cmd := a.verb("set NAME", "Change what a key may do, and when", `Changes one version of a key: the latest, unless --key-version names another. What is not mentioned stays as it is.
--tag adds tags or changes them, --untag takes them away; --ops replaces the list of operations. A time that was set
can be moved and not taken away: for that, make a new version.`, 1,
		func(cmd *cobra.Command, args []string) error {
			if err := a.checkKey(cmd, args[0], version); err != nil {
				return err
			}
			request := api.UpdateKeyRequest{}
			if cmd.Flags().Changed("ops") {
				if request.KeyOps = about.ops; len(about.ops) == 0 {
					return a.usage(cmd, errors.New("--ops names no operation: write --ops none to allow none"))
				}
				if len(about.ops) == 1 && about.ops[0] == "none" {
					request.KeyOps = []string{}
				}
			}
			var err error
			if request.Attributes, err = about.attributes(a, cmd); err != nil {
				return err
			}
			if request.ReleasePolicy, err = about.release(cmd.Context(), a, cmd); err != nil {
				return err
			}
			for _, name := range untag {
				if _, both := about.tags[name]; both {
					return a.usage(cmd, fmt.Errorf("give --tag or --untag for %q, not both", name))
				}
			}
			tags := len(about.tags)+len(untag) > 0
			if !tags && request.KeyOps == nil && request.Attributes == nil && request.ReleasePolicy == nil {
				return a.usage(cmd, errors.New("it is not said what to change: give --enabled, --disabled, --not-before, --expires, --ops, --tag, --untag or --release-policy"))
			}
			hsm, err := a.hsm(cmd)
			if err != nil {
				return err
			}
			if tags { // the service only replaces them all
				key, err := hsm.Key(cmd.Context(), args[0], version)
				if err != nil {
					return err
				}
				request.Tags = map[string]string{}
				for name, value := range key.Tags {
					request.Tags[name] = value
				}
				for _, name := range untag {
					if _, there := request.Tags[name]; !there {
						return problemf("no-such-tag", "see them with: strongroom key show "+args[0], "%s has no tag %q, and nothing was changed", args[0], name)
					}
					delete(request.Tags, name)
				}
				for name, value := range about.tags {
					request.Tags[name] = value
				}
				_, version = splitKid(key.Key.Kid) // the one whose tags were read
			}
			key, err := hsm.UpdateKey(cmd.Context(), args[0], version, request)
			if err != nil {
				return inOwnWords(err, keyWords...)
			}
			return a.showKey(key)
		})
	versionFlag(cmd, &version)
	flags := cmd.Flags()
	flags.StringSliceVar(&about.ops, "ops", nil, "operations that the key may do from now on; none for none")
	complete(cmd, "ops", append([]string{"none"}, allOps...)...)
	about.stateFlags(cmd, "`NAME=VALUE` to add or change; may be given several times")
	flags.StringArrayVar(&untag, "untag", nil, "tag to take away; may be given several times")
	must(cmd.RegisterFlagCompletionFunc("untag", cobra.NoFileCompletions))
	about.policyFlags(cmd)
	return a.connected(cmd, settingURL)
}

func (a *app) keyRotateCommand() *cobra.Command {
	cmd := a.verb("rotate NAME", "Make a new version of a key", `Makes a new version of the same type and size, as the key's rotation policy says: it must have one (key policy set).
The versions before stay, and decrypt and verify what they have encrypted and signed.`, 1,
		func(cmd *cobra.Command, args []string) error {
			if err := a.checkKey(cmd, args[0], ""); err != nil {
				return err
			}
			hsm, err := a.hsm(cmd)
			if err != nil {
				return err
			}
			key, err := hsm.RotateKey(cmd.Context(), args[0])
			if err != nil {
				return inOwnWords(err, "PUT /keys/"+args[0]+"/rotationpolicy", "strongroom key policy set "+args[0]+" --rotate-after 90d")
			}
			return a.showKey(key)
		})
	return a.connected(cmd, settingURL)
}

func (a *app) keyPolicyCommand() *cobra.Command {
	return noun("policy", "When a key is rotated", `The rotation policy of a key says when it gets a new version by itself, and how long the versions live that rotation
makes. No time in it is under 28 days.`,
		a.keyPolicyShowCommand(), a.keyPolicySetCommand(), a.keyPolicyRemoveCommand())
}

func (a *app) showPolicy(p api.RotationPolicy) error {
	return a.result(p, func(t *table) {
		if len(p.LifetimeActions) == 0 && p.Attributes.ExpiryTime == "" {
			t.row("there is no rotation policy")
			return
		}
		for _, action := range p.LifetimeActions {
			t.field("rotate after", action.Trigger.TimeAfterCreate)
			t.field("rotate before expiry", action.Trigger.TimeBeforeExpiry)
		}
		t.field("new versions expire after", p.Attributes.ExpiryTime)
		if p.Attributes.Updated > 0 {
			t.field("updated", timeText(unixTime(p.Attributes.Updated)))
		}
	})
}

func (a *app) keyPolicyShowCommand() *cobra.Command {
	cmd := a.verb("show NAME", "Show when a key is rotated", "With --output json it prints what key policy set --file takes.", 1,
		func(cmd *cobra.Command, args []string) error {
			if err := a.checkKey(cmd, args[0], ""); err != nil {
				return err
			}
			hsm, err := a.hsm(cmd)
			if err != nil {
				return err
			}
			policy, err := hsm.RotationPolicy(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return a.showPolicy(policy)
		})
	return a.connected(cmd, settingURL)
}

func (a *app) keyPolicySetCommand() *cobra.Command {
	var after, before, expiry, file string
	cmd := a.verb("set NAME", "Say when a key is rotated", `Replaces the whole policy of a key. Times are P90D as in ISO 8601, or 90d, 6w, 1y.`, 1,
		func(cmd *cobra.Command, args []string) error {
			if err := a.checkKey(cmd, args[0], ""); err != nil {
				return err
			}
			flags := cmd.Flags().Changed("rotate-after") || cmd.Flags().Changed("rotate-before-expiry") || cmd.Flags().Changed("expiry")
			policy := api.RotationPolicy{}
			var err error
			switch {
			case flags == cmd.Flags().Changed("file"):
				return a.usage(cmd, errors.New("give --rotate-after, --rotate-before-expiry or --expiry; or --file alone"))
			case after != "" && before != "":
				return a.usage(cmd, errors.New("give --rotate-after or --rotate-before-expiry, not both"))
			case before != "" && expiry == "":
				return a.usage(cmd, errors.New("--rotate-before-expiry needs --expiry, or there is nothing for it to come before"))
			case flags:
				policy, err = a.policyOf(cmd, after, before, expiry)
			default:
				policy, err = a.readPolicy(cmd.Context(), file)
			}
			if err != nil {
				return err
			}
			hsm, err := a.hsm(cmd)
			if err != nil {
				return err
			}
			if policy, err = hsm.SetRotationPolicy(cmd.Context(), args[0], policy); err != nil {
				if flags { // a file has the words of the API
					err = inOwnWords(err, "timeAfterCreate", "--rotate-after", "timeBeforeExpiry", "--rotate-before-expiry", "expiryTime", "--expiry")
				}
				return err
			}
			return a.showPolicy(policy)
		})
	flags := cmd.Flags()
	flags.StringVar(&after, "rotate-after", "", "time from the making of a version to the next one: P90D")
	flags.StringVar(&before, "rotate-before-expiry", "", "time before a version expires at which the next one is made: P30D; needs --expiry")
	flags.StringVar(&expiry, "expiry", "", "time for which a version lives that rotation makes: P1Y")
	flags.StringVar(&file, "file", "", "JSON file with the policy, as policy show --output json prints it and az writes it; - is standard input")
	for _, name := range []string{"rotate-after", "rotate-before-expiry", "expiry"} {
		must(cmd.RegisterFlagCompletionFunc(name, cobra.NoFileCompletions))
	}
	return a.connected(cmd, settingURL)
}

var (
	shortPeriod = regexp.MustCompile(`^([0-9]{1,5})([dwy])$`)
	isoPeriod   = regexp.MustCompile(`^P[0-9A-Z]{1,60}$`)
)

// policyOf makes a policy from flags. Whether the times go together, the HSM says.
func (a *app) policyOf(cmd *cobra.Command, after, before, expiry string) (api.RotationPolicy, error) {
	policy := api.RotationPolicy{}
	for _, f := range []struct {
		flag string
		text *string
	}{{"rotate-after", &after}, {"rotate-before-expiry", &before}, {"expiry", &expiry}} {
		flag, text := f.flag, f.text
		if *text == "" && !cmd.Flags().Changed(flag) {
			continue
		}
		if parts := shortPeriod.FindStringSubmatch(*text); parts != nil {
			n, _ := strconv.Atoi(parts[1])
			switch parts[2] {
			case "w": // ISO's weeks are not taken
				*text = fmt.Sprintf("P%dD", 7*n)
			default:
				*text = fmt.Sprintf("P%d%s", n, strings.ToUpper(parts[2]))
			}
		}
		if !isoPeriod.MatchString(*text) {
			return policy, a.usage(cmd, fmt.Errorf("--%s %q is no length of time: write P90D or 90d, 6w, P1Y", flag, *text))
		}
	}
	policy.Attributes.ExpiryTime = expiry
	if trigger := (api.LifetimeTrigger{TimeAfterCreate: after, TimeBeforeExpiry: before}); trigger != (api.LifetimeTrigger{}) {
		policy.LifetimeActions = []api.LifetimeAction{{Trigger: trigger, Action: api.LifetimeActionType{Type: "Rotate"}}}
	}
	return policy, nil
}

// readPolicy reads a policy from a file. A member that is not known is refused: with a slip of the pen in it the policy
// would be another one.
func (a *app) readPolicy(ctx context.Context, file string) (api.RotationPolicy, error) {
	text, err := a.readFull(ctx, file, maxPolicyFile)
	if err != nil {
		return api.RotationPolicy{}, err
	}
	wrong := func(why error) (api.RotationPolicy, error) {
		return api.RotationPolicy{}, problemf("bad-file", "see what one looks like: strongroom key policy show NAME --output json", "%s holds no rotation policy: %v", inputName(file), why)
	}
	if err := strictjson.Check(text, jsonCaps); err != nil {
		return wrong(err)
	}
	var policy api.RotationPolicy
	d := json.NewDecoder(strings.NewReader(string(text)))
	d.DisallowUnknownFields()
	if err := d.Decode(&policy); err != nil {
		return wrong(errors.New(strings.TrimPrefix(oneLine(err.Error()), "json: ")))
	}
	if len(policy.LifetimeActions) == 0 && policy.Attributes.ExpiryTime == "" {
		return wrong(errors.New("it says nothing, which would remove the policy: for that, use key policy remove"))
	}
	return policy, nil
}

func (a *app) keyPolicyRemoveCommand() *cobra.Command {
	cmd := a.verb("remove NAME", "Rotate a key no more", "Removes the rotation policy. The versions of the key stay as they are.", 1,
		func(cmd *cobra.Command, args []string) error {
			if err := a.checkKey(cmd, args[0], ""); err != nil {
				return err
			}
			hsm, err := a.hsm(cmd)
			if err != nil {
				return err
			}
			policy, err := hsm.SetRotationPolicy(cmd.Context(), args[0], api.RotationPolicy{})
			if err != nil {
				return err
			}
			return a.showPolicy(policy)
		})
	return a.connected(cmd, settingURL)
}

func (a *app) keyDeleteCommand() *cobra.Command {
	var confirm string
	cmd := a.verb("delete NAME", "Delete a key", `Deletes a key with all its versions: from now on nobody can use it. It can be brought back with "key recover" until it
is purged, which the HSM does by itself when the days are over for which it keeps deleted keys.`, 1,
		func(cmd *cobra.Command, args []string) error {
			if err := a.checkKey(cmd, args[0], ""); err != nil {
				return err
			}
			hsm, key, err := a.keyOf(cmd, args[0], "")
			if err != nil {
				return err
			}
			name, _ := splitKid(key.Key.Kid) // as it is written
			if err := a.confirm(cmd.Context(), name, confirm, "This stops everything that uses the key "+name+"."); err != nil {
				return err
			}
			gone, err := hsm.DeleteKey(cmd.Context(), name)
			if err != nil {
				return err
			}
			a.say("deleted; bring it back with: strongroom key recover %s", name)
			return a.showView(viewDeleted(gone))
		})
	confirmFlag(cmd, &confirm)
	return a.connected(cmd, settingURL)
}

func confirmFlag(cmd *cobra.Command, confirm *string) {
	cmd.Flags().StringVar(confirm, "confirm", "", "the key's name again, in place of the question")
	must(cmd.RegisterFlagCompletionFunc("confirm", cobra.NoFileCompletions))
}

func (a *app) keyRecoverCommand() *cobra.Command {
	cmd := a.verb("recover NAME", "Bring a deleted key back", "", 1, func(cmd *cobra.Command, args []string) error {
		if err := a.checkKey(cmd, args[0], ""); err != nil {
			return err
		}
		hsm, err := a.hsm(cmd)
		if err != nil {
			return err
		}
		a.missing = seeDeleted
		key, err := hsm.RecoverKey(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		return a.showKey(key)
	})
	return a.connected(cmd, settingURL)
}

func (a *app) keyPurgeCommand() *cobra.Command {
	var confirm string
	cmd := a.verb("purge NAME", "Destroy a deleted key for good", `Destroys a deleted key with all its versions. What was encrypted with it cannot be decrypted any more, unless there is
a backup of the key (key backup).`, 1,
		func(cmd *cobra.Command, args []string) error {
			if err := a.checkKey(cmd, args[0], ""); err != nil {
				return err
			}
			hsm, err := a.hsm(cmd)
			if err != nil {
				return err
			}
			a.missing = seeDeleted
			gone, err := hsm.DeletedKey(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			name, _ := splitKid(gone.Key.Kid)
			if err := a.confirm(cmd.Context(), name, confirm, "This destroys the key "+name+". It cannot be undone."); err != nil {
				return err
			}
			if err := hsm.PurgeKey(cmd.Context(), name); err != nil {
				return err
			}
			a.say("purged")
			return a.result(map[string]string{"name": name, "state": "Purged"}, func(*table) {})
		})
	confirmFlag(cmd, &confirm)
	return a.connected(cmd, settingURL)
}

func (a *app) keyBackupCommand() *cobra.Command {
	var out target
	cmd := a.verb("backup NAME", "Back a key up", `Writes all versions of a key to a file that only an HSM of the same security domain can restore.`, 1,
		func(cmd *cobra.Command, args []string) error {
			if err := a.checkKey(cmd, args[0], ""); err != nil {
				return err
			}
			if err := a.checkOut(cmd, out); err != nil {
				return err
			}
			hsm, err := a.hsm(cmd)
			if err != nil {
				return err
			}
			blob, err := hsm.BackupKey(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if err := a.writeOut(out, blob, secretFile); err != nil {
				return err
			}
			result := struct {
				Name   string `json:"name"`
				Backup string `json:"backup"`
				Bytes  int    `json:"bytes"`
			}{args[0], out.path, len(blob)}
			return a.resultBeside(out, result, func(t *table) { t.field("backup", out.path) })
		})
	out.flags(cmd, "file to write the backup to")
	return a.connected(a.requireFlags(cmd, "out"), settingURL)
}

func (a *app) keyRestoreCommand() *cobra.Command {
	var file string
	cmd := a.verb("restore", "Restore a key from its backup", `Restores a key with its name, all versions and attributes. The HSM must have the security domain under which the
backup was made, and no key of that name.`, 0,
		func(cmd *cobra.Command, _ []string) error {
			blob, err := a.readFull(cmd.Context(), file, maxBackupFile)
			if err != nil {
				return err
			}
			hsm, err := a.hsm(cmd)
			if err != nil {
				return err
			}
			key, err := hsm.RestoreKey(cmd.Context(), blob)
			if refused, ok := errors.AsType[*client.Error](err); ok && refused.Status == 400 {
				p := explain(err)
				p.message, p.next = inputName(file)+": "+p.message, first(p.next, "give the file that key backup wrote, or a copy of it")
				return p
			}
			if err != nil {
				return err
			}
			return a.showKey(key)
		})
	cmd.Flags().StringVar(&file, "file", "", "file with the backup; - is standard input")
	return a.connected(a.requireFlags(cmd, "file"), settingURL)
}
