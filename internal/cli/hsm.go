package cli

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"strongroom/internal/client"
	"strongroom/secret"
)

func (a *app) hsmCommand() *cobra.Command {
	return noun("hsm", "HSMs of a server", `Makes, shows and removes HSMs. A new HSM is provisioned and not activated: it has no keys and no owner until a
security domain is downloaded from it or uploaded to it. A deleted HSM is kept until it is purged.`,
		a.hsmCreateCommand(), a.hsmShowCommand(), a.hsmListCommand(), a.hsmDeleteCommand(), a.hsmRecoverCommand(), a.hsmPurgeCommand())
}

// defaultGroup is the resource group that HSMs are filed under when nobody says otherwise.
const defaultGroup = "strongroom"

// defaultLocation is the region that a server reports unless it is configured.
const defaultLocation = "local"

// segment is what can be asked for as part of a path; what exactly a name may be, the server says.
var segment = regexp.MustCompile(`^[0-9A-Za-z._()-]{1,90}$`)

// controlPlane is a server with the subscription that its HSMs are filed under.
type controlPlane struct {
	*client.Server
	sub      client.Subscription
	settings settings
	client   *client.Client
}

func (a *app) controlPlane(cmd *cobra.Command) (*controlPlane, error) {
	s, err := a.settingsOf(cmd)
	if err != nil {
		return nil, err
	}
	if s.Server == "" {
		return nil, problemf("no-server", "give --server https://HOST:PORT, or set STRONGROOM_SERVER or STRONGROOM_AUTHORITY", "it is not said which server is meant")
	}
	c, err := a.connect(cmd.Context(), s)
	if err != nil {
		return nil, err
	}
	server, err := c.Server(s.Server)
	if err != nil {
		return nil, err
	}
	sub, err := server.Subscription(cmd.Context())
	if err != nil {
		return nil, err
	}
	return &controlPlane{server, sub, s, c}, nil
}

// find returns an HSM by name, in whatever group it is. Names compare without case.
func (p *controlPlane) find(cmd *cobra.Command, name string) (client.ManagedHSM, error) {
	list, err := p.List(cmd.Context(), p.sub)
	if err != nil {
		return client.ManagedHSM{}, err
	}
	for _, h := range list {
		if strings.EqualFold(h.Name, name) {
			return h, nil
		}
	}
	return client.ManagedHSM{}, problemf("no-such-hsm", "see what there is with: strongroom hsm list", "there is no HSM %s", name)
}

func (p *controlPlane) findDeleted(cmd *cobra.Command, name string) (client.DeletedHSM, error) {
	list, err := p.ListDeleted(cmd.Context(), p.sub)
	if err != nil {
		return client.DeletedHSM{}, err
	}
	for _, h := range list {
		if strings.EqualFold(h.Name, name) {
			return h, nil
		}
	}
	return client.DeletedHSM{}, problemf("no-such-hsm", "see what there is with: strongroom hsm list --deleted", "there is no deleted HSM %s", name)
}

// hsmView is an HSM as results show it.
type hsmView struct {
	Name          string     `json:"name"`
	URL           string     `json:"url,omitempty"`
	State         string     `json:"state"`
	Activation    string     `json:"activation,omitempty"`
	Message       string     `json:"message,omitempty"`
	ResourceGroup string     `json:"resource_group"`
	Location      string     `json:"location"`
	Admins        []string   `json:"administrators,omitempty"`
	Retention     int        `json:"retention_days,omitempty"`
	PurgeProtect  bool       `json:"purge_protection"`
	Deleted       *time.Time `json:"deleted,omitempty"`
	Purge         *time.Time `json:"scheduled_purge,omitempty"`
}

func viewHSM(h client.ManagedHSM) hsmView {
	return hsmView{
		Name: h.Name, URL: h.URL, State: h.State, Activation: h.Activation, Message: h.Message, ResourceGroup: h.ResourceGroup,
		Location: h.Location, Admins: h.Admins, Retention: h.Retention, PurgeProtect: h.PurgeProtect,
	}
}

func (a *app) showHSM(h client.ManagedHSM) error {
	v := viewHSM(h)
	return a.result(v, func(t *table) {
		t.field("name", v.Name)
		t.field("url", v.URL)
		t.field("state", v.State)
		t.field("activation", v.Activation)
		t.field("message", v.Message)
		t.field("group", v.ResourceGroup)
		t.field("location", v.Location)
		t.field("administrators", strings.Join(v.Admins, ", "))
		t.field("retention", strconv.Itoa(v.Retention)+" days")
		t.field("purge protection", strconv.FormatBool(v.PurgeProtect))
	})
}

func (a *app) hsmCreateCommand() *cobra.Command {
	spec := client.CreateHSM{}
	cmd := a.verb("create NAME", "Make an HSM", `Makes an HSM: provisioned, not activated. Its administrators are the only ones who may take ownership of it.`, 1,
		func(cmd *cobra.Command, args []string) error {
			if !keyName.MatchString(args[0]) { // the same letters; the server knows the rest of the rule
				return a.usage(cmd, fmt.Errorf("%q is not the name of an HSM: it has 3 to 24 letters, digits and hyphens", args[0]))
			}
			if !segment.MatchString(spec.ResourceGroup) {
				return a.usage(cmd, fmt.Errorf("--resource-group %q is not the name of a group", spec.ResourceGroup))
			}
			if spec.Retention < 7 || spec.Retention > 90 {
				return a.usage(cmd, fmt.Errorf("--retention-days is 7 to 90, and not %d", spec.Retention))
			}
			p, err := a.controlPlane(cmd)
			if err != nil {
				return err
			}
			// The API makes or updates; this command only makes.
			if h, err := p.find(cmd, args[0]); err == nil {
				return problemf("hsm-exists", "choose another name; see: strongroom hsm show "+h.Name, "the HSM %s exists already, and nothing was changed", h.Name)
			}
			spec.Name, spec.Tenant = args[0], first(p.sub.Tenant, p.settings.Tenant)
			if len(spec.Admins) == 0 {
				who, err := p.caller(cmd)
				if err != nil {
					return err
				}
				spec.Admins = []string{who}
			}
			h, err := p.Create(cmd.Context(), p.sub, spec)
			if err != nil {
				return err
			}
			a.say("next, take ownership: strongroom domain download --url %s --custodian A.cer --custodian B.cer --custodian C.cer --quorum 2 --out SD.json", h.URL)
			return a.showHSM(h)
		})
	flags := cmd.Flags()
	flags.StringArrayVar(&spec.Admins, "admin", nil, "object ID of an administrator; may be given several times; default: you")
	flags.StringVar(&spec.ResourceGroup, "resource-group", defaultGroup, "group to file it under")
	flags.StringVar(&spec.Location, "location", defaultLocation, "region to report")
	flags.IntVar(&spec.Retention, "retention-days", 90, "days that it is kept after it was deleted, 7 to 90")
	flags.BoolVar(&spec.PurgeProtect, "purge-protection", false, "nobody may purge it before those days are over; cannot be undone")
	return a.connected(cmd, settingServer)
}

// caller is the object ID of whoever runs the command: as set, else as the token says. The token is read, not
// verified: the server does that.
func (p *controlPlane) caller(cmd *cobra.Command) (string, error) {
	if p.settings.ObjectID != "" {
		return p.settings.ObjectID, nil
	}
	token, err := p.client.SignInServer(cmd.Context(), p.settings.Server)
	if err == nil {
		if oid := objectID(token.Access); oid != "" {
			return oid, nil
		}
	}
	return "", problemf("no-administrator", "give --admin OBJECT-ID, or set STRONGROOM_OBJECT_ID", "it is not said who administrates the HSM")
}

// objectID reads the claim oid of a JWT.
func objectID(token secret.Bytes) string {
	parts := strings.SplitN(string(token.Reveal()), ".", 4)
	if len(parts) != 3 {
		return ""
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	var claims struct {
		ObjectID string `json:"oid"`
	}
	if err != nil || json.Unmarshal(payload, &claims) != nil {
		return ""
	}
	return claims.ObjectID
}

func (a *app) hsmShowCommand() *cobra.Command {
	cmd := a.verb("show NAME", "Show an HSM", "", 1, func(cmd *cobra.Command, args []string) error {
		p, err := a.controlPlane(cmd)
		if err != nil {
			return err
		}
		h, err := p.find(cmd, args[0])
		if err != nil {
			return err
		}
		return a.showHSM(h)
	})
	return a.connected(cmd, settingServer)
}

func (a *app) hsmListCommand() *cobra.Command {
	var deleted bool
	cmd := a.verb("list", "List the HSMs", "", 0, func(cmd *cobra.Command, _ []string) error {
		p, err := a.controlPlane(cmd)
		if err != nil {
			return err
		}
		views := []hsmView{} // not nil: an empty list is [] in JSON
		if deleted {
			list, err := p.ListDeleted(cmd.Context(), p.sub)
			if err != nil {
				return err
			}
			for _, h := range list {
				views = append(views, hsmView{Name: h.Name, State: "Deleted", ResourceGroup: h.ResourceGroup, Location: h.Location, PurgeProtect: h.PurgeProtect, Deleted: &h.Deleted, Purge: &h.ScheduledPurge})
			}
			return a.result(views, func(t *table) {
				t.row("NAME", "DELETED", "PURGED ON", "PURGE PROTECTION")
				for _, v := range views {
					t.row(v.Name, timeText(v.Deleted), timeText(v.Purge), strconv.FormatBool(v.PurgeProtect))
				}
			})
		}
		list, err := p.List(cmd.Context(), p.sub)
		if err != nil {
			return err
		}
		for _, h := range list {
			views = append(views, viewHSM(h))
		}
		return a.result(views, func(t *table) {
			t.row("NAME", "STATE", "ACTIVATION", "URL")
			for _, v := range views {
				t.row(v.Name, v.State, v.Activation, v.URL)
			}
		})
	})
	cmd.Flags().BoolVar(&deleted, "deleted", false, "those that were deleted and not purged")
	return a.connected(cmd, settingServer)
}

func (a *app) hsmDeleteCommand() *cobra.Command {
	var confirm string
	cmd := a.verb("delete NAME", "Delete an HSM", `Stops an HSM at once. It can be brought back with "hsm recover" until it is purged.`, 1,
		func(cmd *cobra.Command, args []string) error {
			p, err := a.controlPlane(cmd)
			if err != nil {
				return err
			}
			h, err := p.find(cmd, args[0])
			if err != nil {
				return err
			}
			if err := a.confirm(cmd.Context(), h.Name, confirm, "This stops the HSM "+h.Name+" and everything that uses its keys."); err != nil {
				return err
			}
			if err := p.Delete(cmd.Context(), p.sub, h.ResourceGroup, h.Name); err != nil {
				return err
			}
			a.say("deleted; bring it back with: strongroom hsm recover %s", h.Name)
			return a.result(map[string]string{"name": h.Name, "state": "Deleted"}, func(*table) {})
		})
	cmd.Flags().StringVar(&confirm, "confirm", "", "the HSM's name again, in place of the question")
	return a.connected(cmd, settingServer)
}

func (a *app) hsmPurgeCommand() *cobra.Command {
	var confirm string
	cmd := a.verb("purge NAME", "Destroy a deleted HSM for good", `Destroys a deleted HSM with all its keys. What remains are the SD file and the backups: with them, and a quorum
of custodians, the keys can be restored on another HSM.`, 1,
		func(cmd *cobra.Command, args []string) error {
			p, err := a.controlPlane(cmd)
			if err != nil {
				return err
			}
			h, err := p.findDeleted(cmd, args[0])
			if err != nil {
				return err
			}
			if err := a.confirm(cmd.Context(), h.Name, confirm, "This destroys the HSM "+h.Name+" and its keys. It cannot be undone."); err != nil {
				return err
			}
			if err := p.Purge(cmd.Context(), p.sub, h); err != nil {
				return err
			}
			a.say("purged")
			return a.result(map[string]string{"name": h.Name, "state": "Purged"}, func(*table) {})
		})
	cmd.Flags().StringVar(&confirm, "confirm", "", "the HSM's name again, in place of the question")
	return a.connected(cmd, settingServer)
}

func (a *app) hsmRecoverCommand() *cobra.Command {
	cmd := a.verb("recover NAME", "Bring a deleted HSM back", "", 1, func(cmd *cobra.Command, args []string) error {
		p, err := a.controlPlane(cmd)
		if err != nil {
			return err
		}
		d, err := p.findDeleted(cmd, args[0])
		if err != nil {
			return err
		}
		h, err := p.Recover(cmd.Context(), p.sub, d)
		if err != nil {
			return err
		}
		return a.showHSM(h)
	})
	return a.connected(cmd, settingServer)
}

// confirm makes sure that somebody means it: the name given with --confirm, or typed at the terminal.
func (a *app) confirm(ctx context.Context, name, given, what string) error {
	if given == "" {
		tty, err := openTerminal()
		if err != nil {
			return problemf("not-confirmed", "give --confirm "+name, "nothing was done: there is no terminal to ask at")
		}
		defer tty.Close()
		tty.tell(what)
		if given, err = tty.line(ctx, "Type its name to go on: "); err != nil {
			return err
		}
	}
	if given != name {
		return problemf("not-confirmed", "the name is "+name, "nothing was done: %q is not its name", given)
	}
	return nil
}
