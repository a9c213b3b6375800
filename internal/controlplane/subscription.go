package controlplane

import (
	"context"
	"errors"
	"net/http"
	"regexp"
	"slices"
	"strings"

	"strongroom/internal/failure"
)

var (
	validGroupName = regexp.MustCompile(`^[A-Za-z0-9_().-]{1,90}$`)
	validLocation  = regexp.MustCompile(`^[a-z0-9-]{1,60}$`)
)

func validGroup(name string) bool {
	return validGroupName.MatchString(name) && !strings.HasSuffix(name, ".")
}

// list is the form of every list; nothing here is long enough for pages.
type list struct {
	Value []any `json:"value"`
}

func listOf[T any](items []T) list {
	l := list{Value: []any{}}
	for _, i := range items {
		l.Value = append(l.Value, i)
	}
	return l
}

func (p *Plane) subscription() any {
	return map[string]any{
		"id": "/subscriptions/" + p.cfg.Subscription, "subscriptionId": p.cfg.Subscription, "tenantId": p.cfg.Tenant,
		"displayName": p.cfg.SubscriptionName, "state": "Enabled", "authorizationSource": "RoleBased", "managedByTenants": []any{},
		"subscriptionPolicies": map[string]any{"locationPlacementId": "Public_2014-09-01", "quotaId": "Strongroom", "spendingLimit": "Off"},
	}
}

// listSubscriptions is part of signing in. Who may not use the control plane sees no subscription, and may still
// sign in for the data plane (az login --allow-no-subscriptions).
func (p *Plane) listSubscriptions(ctx context.Context, c *call) (answer, error) {
	err := p.cfg.Service.Operator(ctx, c.caller)
	switch {
	case errors.Is(err, failure.Forbidden):
		return ok(list{Value: []any{}})
	case err != nil:
		return answer{}, err
	}
	return ok(listOf([]any{p.subscription()}))
}

func (p *Plane) getSubscription(context.Context, *call) (answer, error) { return ok(p.subscription()) }

func (p *Plane) listTenants(context.Context, *call) (answer, error) {
	return ok(listOf([]any{map[string]any{"id": "/tenants/" + p.cfg.Tenant, "tenantId": p.cfg.Tenant, "displayName": "Strongroom", "tenantCategory": "Home"}}))
}

func (p *Plane) listLocations(context.Context, *call) (answer, error) {
	return ok(listOf([]any{map[string]any{
		"id":   "/subscriptions/" + p.cfg.Subscription + "/locations/" + p.cfg.Location,
		"name": p.cfg.Location, "displayName": p.cfg.Location, "regionalDisplayName": p.cfg.Location, "metadata": map[string]any{"regionType": "Physical"},
	}}))
}

func (p *Plane) group(name string) any {
	return map[string]any{
		"id": "/subscriptions/" + p.cfg.Subscription + "/resourceGroups/" + name, "name": name, "type": "Microsoft.Resources/resourceGroups",
		"location": p.cfg.Location, "properties": map[string]any{"provisioningState": "Succeeded"},
	}
}

// listGroups answers with the default resource group and those that HSMs are in.
func (p *Plane) listGroups(ctx context.Context, c *call) (answer, error) {
	hsms, err := p.cfg.Service.ListHSMs(ctx, c.caller)
	if err != nil {
		return answer{}, err
	}
	names := []string{p.cfg.ResourceGroup}
	for _, h := range hsms {
		if !slices.ContainsFunc(names, func(n string) bool { return lower(n) == lower(h.ResourceGroup) }) {
			names = append(names, h.ResourceGroup)
		}
	}
	var groups []any
	for _, n := range names {
		groups = append(groups, p.group(n))
	}
	return ok(listOf(groups))
}

// getGroup says of every legal name that it exists: a resource group here is a name on an HSM and nothing else.
// Clients ask before they create an HSM; creating a group is the same answer.
func (p *Plane) getGroup(_ context.Context, c *call) (answer, error) {
	name, err := groupOf(c)
	if err != nil {
		return answer{}, err
	}
	return ok(p.group(name))
}

func (p *Plane) headGroup(_ context.Context, c *call) (answer, error) {
	_, err := groupOf(c)
	return answer{status: http.StatusNoContent}, err
}

func groupOf(c *call) (string, error) {
	name := c.args["group"]
	if !validGroup(name) {
		return "", failure.Coded(failure.BadParameter, "InvalidResourceGroup", "a resource group's name has 1 to 90 letters, digits and _ ( ) . - and does not end in a period")
	}
	return name, nil
}

var typeFilter = regexp.MustCompile(`(?i)^\s*resourceType\s+eq\s+'([A-Za-z0-9./]{1,128})'\s*$`)

// listResources lists the HSMs in the generic form. az asks it for vaults, of which there are none.
func (p *Plane) listResources(ctx context.Context, c *call) (answer, error) {
	if f := c.query.Get("$filter"); f != "" {
		m := typeFilter.FindStringSubmatch(f)
		if m == nil {
			return answer{}, failure.Coded(failure.BadParameter, "InvalidFilterInQueryString", "the one filter that this server knows is resourceType eq 'TYPE'")
		}
		if lower(m[1]) != lower(resourceType) {
			return ok(list{Value: []any{}})
		}
	}
	hsms, err := p.inGroup(ctx, c)
	if err != nil {
		return answer{}, err
	}
	var out []any
	for _, h := range hsms {
		out = append(out, map[string]any{"id": p.resourceID(h), "name": h.Name, "type": resourceType, "location": h.Location, "tags": tagsOf(h), "sku": theSKU})
	}
	return ok(listOf(out))
}

// graph refuses Microsoft Graph: az asks it for names of principals, swallows an HTTP error, and stops at anything
// worse.
func (p *Plane) graph(context.Context, *call) (answer, error) {
	return answer{}, failure.Coded(failure.Forbidden, "Authorization_RequestDenied", "this server has no directory (Microsoft Graph); name principals by their object IDs")
}

// metadata describes this cloud for az cloud register and for clients that find their endpoints by one URL.
func (p *Plane) metadata(_ context.Context, c *call) (answer, error) {
	root, login := c.base+"/", c.base+"/adfs" // any other authority makes az ask Microsoft's servers first
	if c.query.Get("api-version") == "2015-01-01" {
		return ok(map[string]any{
			"galleryEndpoint": root, "graphEndpoint": root, "portalEndpoint": root,
			"authentication": map[string]any{"loginEndpoint": login, "audiences": []string{root}},
		})
	}
	cloud := map[string]any{
		"name": "Strongroom", "portal": root, "resourceManager": root, "graph": root, "graphAudience": root, "microsoftGraphResourceId": root,
		"authentication": map[string]any{"loginEndpoint": login, "audiences": []string{root}, "tenant": "adfs", "identityProvider": "ADFS"},
		"suffixes":       map[string]any{"mhsmDns": p.cfg.MHSMSuffix, "keyVaultDns": "vault.invalid"},
	}
	return ok([]any{cloud})
}
