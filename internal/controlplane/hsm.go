package controlplane

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"strongroom/internal/failure"
)

const (
	resourceType = "Microsoft.KeyVault/managedHSMs"

	defaultRetention = 90 // days
	// enablePurgeProtection defaults to true in the API description, and to false in what az and the service do; an
	// HSM of one's own that cannot be purged for 90 days by default would be a trap.
	defaultPurgeProtection = false
)

var theSKU = map[string]string{"family": "B", "name": "Standard_B1"}

// allowAll is the only network rule set there is, in the one form it is stored and shown in.
var allowAll = json.RawMessage(`{"bypass":"AzureServices","defaultAction":"Allow","ipRules":[],"virtualNetworkRules":[]}`)

// validName is Azure's rule for HSM names, with the hyphen that its portal allows.
var validName = regexp.MustCompile(`^[a-zA-Z][a-zA-Z0-9-]{1,22}[a-zA-Z0-9]$`)

const nameRule = "an HSM name has 3 to 24 letters, digits and hyphens, begins with a letter, ends with a letter or digit and has no two hyphens in a row"

func checkHSMName(name string) error {
	if !validName.MatchString(name) || strings.Contains(name, "--") {
		return failure.Coded(failure.BadParameter, "VaultNameNotValid", nameRule)
	}
	return nil
}

// hsmRequest is the body of PUT and PATCH. Members that only answers have are ignored, because clients send back
// what they were given.
type hsmRequest struct {
	Location *string            `json:"location"`
	SKU      *skuRequest        `json:"sku"`
	Tags     *map[string]string `json:"tags"`
	P        propertiesRequest  `json:"properties"`
}

type skuRequest struct {
	Family string `json:"family"`
	Name   string `json:"name"`
}

type propertiesRequest struct {
	TenantID            *string         `json:"tenantId"`
	InitialAdmins       []string        `json:"initialAdminObjectIds"`
	EnableSoftDelete    *bool           `json:"enableSoftDelete"`
	RetentionDays       *int            `json:"softDeleteRetentionInDays"`
	PurgeProtection     *bool           `json:"enablePurgeProtection"`
	CreateMode          *string         `json:"createMode"`
	NetworkACLs         *networkACLs    `json:"networkAcls"`
	PublicNetworkAccess *string         `json:"publicNetworkAccess"`
	Regions             json.RawMessage `json:"regions"`
}

type networkACLs struct {
	Bypass              string            `json:"bypass"`
	DefaultAction       string            `json:"defaultAction"`
	IPRules             []json.RawMessage `json:"ipRules"`
	VirtualNetworkRules []json.RawMessage `json:"virtualNetworkRules"`
}

// resource is an HSM on the wire (ManagedHsm in the API description).
type resource struct {
	ID         string            `json:"id"`
	Name       string            `json:"name"`
	Type       string            `json:"type"`
	Location   string            `json:"location"`
	SKU        map[string]string `json:"sku"`
	Tags       map[string]string `json:"tags"`
	SystemData systemData        `json:"systemData"`
	Properties properties        `json:"properties"`
}

type systemData struct {
	CreatedAt      string `json:"createdAt"`
	LastModifiedAt string `json:"lastModifiedAt"`
}

type properties struct {
	TenantID            string          `json:"tenantId"`
	InitialAdmins       []string        `json:"initialAdminObjectIds"`
	HSMURI              string          `json:"hsmUri"`
	EnableSoftDelete    bool            `json:"enableSoftDelete"`
	RetentionDays       int             `json:"softDeleteRetentionInDays"`
	PurgeProtection     bool            `json:"enablePurgeProtection"`
	ProvisioningState   string          `json:"provisioningState"`
	StatusMessage       string          `json:"statusMessage"`
	NetworkACLs         json.RawMessage `json:"networkAcls"`
	PublicNetworkAccess string          `json:"publicNetworkAccess"`
	SecurityDomain      securityDomain  `json:"securityDomainProperties"`
}

type securityDomain struct {
	ActivationStatus  string `json:"activationStatus"`
	ActivationMessage string `json:"activationStatusMessage"`
}

// deletedResource is a deleted HSM on the wire (DeletedManagedHsm).
type deletedResource struct {
	ID         string            `json:"id"`
	Name       string            `json:"name"`
	Type       string            `json:"type"`
	Properties deletedProperties `json:"properties"`
}

type deletedProperties struct {
	MHSMID             string            `json:"mhsmId"`
	Location           string            `json:"location"`
	DeletionDate       string            `json:"deletionDate"`
	ScheduledPurgeDate string            `json:"scheduledPurgeDate"`
	PurgeProtection    bool              `json:"purgeProtectionEnabled"`
	Tags               map[string]string `json:"tags"`
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func tagsOf(h HSM) map[string]string {
	if h.Tags == nil {
		return map[string]string{}
	}
	return h.Tags
}

func (p *Plane) resourceID(h HSM) string {
	return "/subscriptions/" + p.cfg.Subscription + "/resourceGroups/" + h.ResourceGroup + "/providers/" + resourceType + "/" + h.Name
}

func (p *Plane) resource(h HSM) resource {
	acls := h.NetworkACLs
	if len(acls) == 0 {
		acls = allowAll
	}
	return resource{
		ID: p.resourceID(h), Name: h.Name, Type: resourceType, Location: h.Location, SKU: theSKU, Tags: tagsOf(h),
		SystemData: systemData{stamp(h.Created), stamp(h.Updated)},
		Properties: properties{
			TenantID: h.TenantID, InitialAdmins: append([]string{}, h.InitialAdmins...), HSMURI: h.URI,
			EnableSoftDelete: true, RetentionDays: h.SoftDeleteRetentionDays, PurgeProtection: h.PurgeProtection,
			ProvisioningState: h.ProvisioningState, StatusMessage: h.StatusMessage, NetworkACLs: acls, PublicNetworkAccess: "Enabled",
			SecurityDomain: securityDomain{h.ActivationStatus, h.ActivationMessage},
		},
	}
}

func (p *Plane) deleted(h HSM) deletedResource {
	return deletedResource{
		ID:   "/subscriptions/" + p.cfg.Subscription + "/providers/Microsoft.KeyVault/locations/" + h.Location + "/deletedManagedHSMs/" + h.Name,
		Name: h.Name, Type: "Microsoft.KeyVault/deletedManagedHSMs",
		Properties: deletedProperties{
			MHSMID: p.resourceID(h), Location: h.Location, DeletionDate: stamp(h.DeletedAt), ScheduledPurgeDate: stamp(h.ScheduledPurge),
			PurgeProtection: h.PurgeProtection, Tags: tagsOf(h),
		},
	}
}

// inGroup lists the HSMs of the path's resource group, or all if the path has none.
func (p *Plane) inGroup(ctx context.Context, c *call) ([]HSM, error) {
	hsms, err := p.cfg.Service.ListHSMs(ctx, c.caller)
	if err != nil {
		return nil, err
	}
	if name, limited := c.args["group"]; limited {
		hsms = slices.DeleteFunc(slices.Clone(hsms), func(h HSM) bool { return lower(h.ResourceGroup) != lower(name) })
	}
	return hsms, nil
}

func (p *Plane) listHSMs(ctx context.Context, c *call) (answer, error) {
	hsms, err := p.inGroup(ctx, c)
	if err != nil {
		return answer{}, err
	}
	var out []resource
	for _, h := range hsms {
		out = append(out, p.resource(h))
	}
	return ok(listOf(out))
}

// find returns the HSM that the path names, if it is in the path's resource group.
func (p *Plane) find(ctx context.Context, c *call) (HSM, error) {
	missing := failure.Coded(failure.NotFound, "ResourceNotFound", "the resource '%s/%s' under resource group '%s' was not found; az keyvault list --resource-type hsm shows what there is",
		resourceType, printable(c.args["name"]), printable(c.args["group"]))
	if checkHSMName(c.args["name"]) != nil {
		return HSM{}, missing
	}
	h, err := p.cfg.Service.GetHSM(ctx, c.caller, c.args["name"])
	if errors.Is(err, failure.NotFound) || err == nil && lower(h.ResourceGroup) != lower(c.args["group"]) {
		return HSM{}, missing
	}
	return h, err
}

// printable bounds what an error repeats of the path, which is ASCII by now.
func printable(s string) string {
	if len(s) > 90 {
		return s[:90] + "…"
	}
	return s
}

func (p *Plane) getHSM(ctx context.Context, c *call) (answer, error) {
	h, err := p.find(ctx, c)
	if err != nil {
		return answer{}, err
	}
	return ok(p.resource(h))
}

// putHSM creates an HSM, changes one, or recovers a deleted one. The answer is 200 in each case and the HSM is
// there: one client takes 201 for an error.
func (p *Plane) putHSM(ctx context.Context, c *call) (answer, error) {
	request, err := decode[hsmRequest](c)
	if err != nil {
		return answer{}, err
	}
	name := c.args["name"]
	groupName, err := groupOf(c)
	if err != nil {
		return answer{}, err
	}
	if err := checkHSMName(name); err != nil {
		return answer{}, err
	}
	if mode := request.P.CreateMode; mode != nil && lower(*mode) != "default" {
		if lower(*mode) != "recover" {
			return answer{}, failure.New(failure.BadParameter, "createMode is default or recover")
		}
		return p.recoverHSM(ctx, c)
	}
	existing, err := p.cfg.Service.GetHSM(ctx, c.caller, name)
	switch {
	case errors.Is(err, failure.NotFound):
		return p.save(ctx, c, HSMSpec{
			Name: name, Subscription: p.cfg.Subscription, ResourceGroup: groupName, Location: p.cfg.Location, TenantID: p.cfg.Tenant,
			SoftDeleteRetentionDays: defaultRetention, PurgeProtection: defaultPurgeProtection, NetworkACLs: allowAll,
		}, request, nil)
	case err != nil:
		return answer{}, err
	case lower(existing.ResourceGroup) != lower(groupName):
		return answer{}, failure.Coded(failure.Conflict, "VaultAlreadyExists", "the name %s is in use by an HSM of another resource group; choose another name", existing.Name)
	}
	spec := p.specOf(existing)
	spec.Tags = nil // PUT replaces the tags
	return p.save(ctx, c, spec, request, &existing)
}

// patchHSM changes what the body names and keeps the rest.
func (p *Plane) patchHSM(ctx context.Context, c *call) (answer, error) {
	request, err := decode[hsmRequest](c)
	if err != nil {
		return answer{}, err
	}
	existing, err := p.find(ctx, c)
	if err != nil {
		return answer{}, err
	}
	return p.save(ctx, c, p.specOf(existing), request, &existing)
}

func (p *Plane) specOf(h HSM) HSMSpec {
	return HSMSpec{
		Name: h.Name, Subscription: p.cfg.Subscription, ResourceGroup: h.ResourceGroup, Location: h.Location, TenantID: h.TenantID, Tags: h.Tags,
		InitialAdmins: h.InitialAdmins, SoftDeleteRetentionDays: h.SoftDeleteRetentionDays, PurgeProtection: h.PurgeProtection, NetworkACLs: allowAll,
	}
}

// save puts a request over the spec it starts from, checks it, and stores it. existing is nil for a new HSM.
func (p *Plane) save(ctx context.Context, c *call, spec HSMSpec, request hsmRequest, existing *HSM) (answer, error) {
	if err := apply(&spec, request, existing != nil); err != nil {
		return answer{}, err
	}
	h, _, err := p.cfg.Service.CreateHSM(ctx, c.caller, spec)
	if err != nil {
		return answer{}, err
	}
	return ok(p.resource(h))
}

// apply puts a request over a spec. What cannot change on an HSM that exists, or is not offered, is refused by
// name: a setting that is silently ignored is one that somebody relies on.
func apply(spec *HSMSpec, request hsmRequest, exists bool) error {
	bad := func(format string, args ...any) error { return failure.New(failure.BadParameter, format, args...) }
	q := request.P
	if request.Location != nil {
		at := lower(strings.ReplaceAll(*request.Location, " ", ""))
		if !validLocation.MatchString(at) {
			return bad("location is not a region name; this server is in %s", spec.Location)
		}
		if exists && at != lower(spec.Location) {
			return failure.Coded(failure.Conflict, "InvalidResourceLocation", "the HSM %s is in location %s, which cannot change", spec.Name, spec.Location)
		}
		spec.Location = at
	}
	if s := request.SKU; s != nil && (lower(s.Family) != "b" || lower(s.Name) != "standard_b1") {
		return failure.New(failure.Unsupported, "the one SKU of this server is family B, name Standard_B1")
	}
	if request.Tags != nil {
		spec.Tags = *request.Tags
	}
	if len(spec.Tags) > 15 {
		return bad("an HSM has at most 15 tags")
	}
	for k, v := range spec.Tags {
		if len(k) > 256 || len(v) > 256 {
			return bad("a tag's name and value have at most 256 bytes")
		}
	}
	if q.TenantID != nil && lower(*q.TenantID) != lower(spec.TenantID) {
		return bad("tenantId must be this server's tenant, %s", spec.TenantID)
	}
	if err := applyAdmins(spec, q.InitialAdmins, exists); err != nil {
		return err
	}
	if q.EnableSoftDelete != nil && !*q.EnableSoftDelete {
		return bad("soft delete cannot be switched off (enableSoftDelete)")
	}
	if q.RetentionDays != nil {
		if exists && *q.RetentionDays != spec.SoftDeleteRetentionDays {
			return bad("softDeleteRetentionInDays is %d and cannot change", spec.SoftDeleteRetentionDays)
		}
		if *q.RetentionDays < 7 || *q.RetentionDays > 90 {
			return bad("softDeleteRetentionInDays must be 7 to 90")
		}
		spec.SoftDeleteRetentionDays = *q.RetentionDays
	}
	if q.PurgeProtection != nil {
		if spec.PurgeProtection && !*q.PurgeProtection {
			return bad("purge protection cannot be switched off (enablePurgeProtection)")
		}
		spec.PurgeProtection = *q.PurgeProtection
	}
	return refuseNetworkRules(q)
}

func applyAdmins(spec *HSMSpec, ids []string, exists bool) error {
	var given []string
	for i, id := range ids {
		if len(id) != 36 || uuid.Validate(id) != nil {
			return failure.New(failure.BadParameter, "initial administrator %d is not an object ID: give the principal's GUID, not its name", i+1)
		}
		if id = lower(id); !slices.Contains(given, id) {
			given = append(given, id)
		}
	}
	switch {
	case len(given) > 20:
		return failure.New(failure.BadParameter, "an HSM has at most 20 initial administrators")
	case !exists && len(given) == 0:
		return failure.New(failure.BadParameter, "an HSM needs at least one initial administrator (initialAdminObjectIds, az: --administrators): without one, nobody could take ownership of it")
	case !exists:
		spec.InitialAdmins = given
	case len(given) > 0:
		same := len(given) == len(spec.InitialAdmins)
		for _, id := range spec.InitialAdmins {
			same = same && slices.Contains(given, lower(id))
		}
		if !same {
			return failure.New(failure.BadParameter, "the initial administrators of HSM %s cannot change; its administrators assign roles on the HSM itself", spec.Name)
		}
	}
	return nil
}

// refuseNetworkRules accepts the default and nothing else: rules that nothing enforces would be a false comfort.
func refuseNetworkRules(q propertiesRequest) error {
	no := failure.New(failure.Unsupported, "network rules, private access and further regions are not offered: every address that reaches this server is allowed. Use a firewall in front of it")
	if n := q.NetworkACLs; n != nil {
		deny := n.DefaultAction != "" && lower(n.DefaultAction) != "allow"
		if deny || len(n.IPRules) > 0 || len(n.VirtualNetworkRules) > 0 {
			return no
		}
		if b := lower(n.Bypass); b != "" && b != "azureservices" && b != "none" {
			return failure.New(failure.BadParameter, "networkAcls.bypass is AzureServices or None")
		}
	}
	if q.PublicNetworkAccess != nil && lower(*q.PublicNetworkAccess) == "disabled" {
		return no
	}
	if r := strings.TrimSpace(string(q.Regions)); r != "" && r != "null" && r != "[]" {
		return no
	}
	return nil
}

// recoverHSM brings a deleted HSM back, into the resource group it was in.
func (p *Plane) recoverHSM(ctx context.Context, c *call) (answer, error) {
	h, err := p.cfg.Service.GetDeleted(ctx, c.caller, c.args["name"])
	if errors.Is(err, failure.NotFound) || err == nil && lower(h.ResourceGroup) != lower(c.args["group"]) {
		return answer{}, failure.Coded(failure.NotFound, "ResourceNotFound", "there is no deleted HSM %s of resource group '%s'; az keyvault list-deleted --resource-type hsm shows what there is", c.args["name"], c.args["group"])
	}
	if err != nil {
		return answer{}, err
	}
	if h, err = p.cfg.Service.RecoverHSM(ctx, c.caller, h.Name); err != nil {
		return answer{}, err
	}
	return ok(p.resource(h))
}

// deleteHSM is done when it answers. 204 means that there was nothing to delete.
func (p *Plane) deleteHSM(ctx context.Context, c *call) (answer, error) {
	h, err := p.find(ctx, c)
	if errors.Is(err, failure.NotFound) {
		return answer{status: http.StatusNoContent}, nil
	}
	if err == nil {
		err = p.cfg.Service.DeleteHSM(ctx, c.caller, h.Name)
	}
	if err != nil {
		return answer{}, err
	}
	return p.accepted(c, h), nil
}

// accepted is the answer of an operation that clients expect to poll.
func (p *Plane) accepted(c *call, h HSM) answer {
	at := c.base + "/subscriptions/" + p.cfg.Subscription + "/providers/Microsoft.KeyVault/locations/" + h.Location
	id := uuid.NewString()
	version := "?api-version=" + c.query.Get("api-version") // one of the table's, by now
	return answer{status: http.StatusAccepted, header: map[string]string{
		"Azure-AsyncOperation": at + "/managedHsmOperationStatuses/" + id + version,
		"Location":             at + "/managedHsmOperationResults/" + id + version,
		"Retry-After":          "1",
	}}
}

// operationStatus says that an operation has succeeded. It needs no record of it: the URL was handed out after
// the operation had ended, and one that had failed got no URL.
func (p *Plane) operationStatus(_ context.Context, c *call) (answer, error) {
	id := c.args["operation"]
	if len(id) != 36 || uuid.Validate(id) != nil {
		return answer{}, failure.Coded(failure.NotFound, "OperationNotFound", "there is no such operation")
	}
	return answer{status: http.StatusOK, header: map[string]string{"Retry-After": "1"}, body: map[string]string{"name": id, "status": "Succeeded"}}, nil
}

func (p *Plane) listDeleted(ctx context.Context, c *call) (answer, error) {
	hsms, err := p.cfg.Service.ListDeleted(ctx, c.caller)
	if err != nil {
		return answer{}, err
	}
	var out []deletedResource
	for _, h := range hsms {
		out = append(out, p.deleted(h))
	}
	return ok(listOf(out))
}

func (p *Plane) findDeleted(ctx context.Context, c *call) (HSM, error) {
	missing := failure.Coded(failure.NotFound, "DeletedVaultNotFound", "there is no deleted HSM %s in location '%s'; az keyvault list-deleted --resource-type hsm shows what there is",
		printable(c.args["name"]), printable(c.args["location"]))
	if checkHSMName(c.args["name"]) != nil {
		return HSM{}, missing
	}
	h, err := p.cfg.Service.GetDeleted(ctx, c.caller, c.args["name"])
	if errors.Is(err, failure.NotFound) || err == nil && lower(h.Location) != lower(c.args["location"]) {
		return HSM{}, missing
	}
	return h, err
}

func (p *Plane) getDeleted(ctx context.Context, c *call) (answer, error) {
	h, err := p.findDeleted(ctx, c)
	if err != nil {
		return answer{}, err
	}
	return ok(p.deleted(h))
}

func (p *Plane) purgeHSM(ctx context.Context, c *call) (answer, error) {
	h, err := p.findDeleted(ctx, c)
	if err == nil {
		err = p.cfg.Service.PurgeHSM(ctx, c.caller, h.Name)
	}
	if err != nil {
		return answer{}, err
	}
	return p.accepted(c, h), nil
}

// nameAnswer is CheckMhsmNameAvailabilityResult.
type nameAnswer struct {
	Available bool   `json:"nameAvailable"`
	Reason    string `json:"reason,omitempty"`
	Message   string `json:"message,omitempty"`
}

func (p *Plane) checkName(ctx context.Context, c *call) (answer, error) {
	request, err := decode[struct {
		Name *string `json:"name"`
	}](c)
	if err != nil {
		return answer{}, err
	}
	if request.Name == nil {
		return answer{}, failure.New(failure.BadParameter, "the body needs the member name")
	}
	if checkHSMName(*request.Name) != nil {
		return ok(nameAnswer{Reason: "AccountNameInvalid", Message: nameRule})
	}
	free, err := p.cfg.Service.NameAvailable(ctx, c.caller, *request.Name)
	if err != nil {
		return answer{}, err
	}
	if !free {
		return ok(nameAnswer{Reason: "AlreadyExists", Message: "the name " + *request.Name + " is in use, perhaps by a deleted HSM; choose another name"})
	}
	return ok(nameAnswer{Available: true})
}
