package controlplane

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"strongroom/internal/failure"
)

// who says which callers a route is for.
type who int

const (
	operators who = iota // those that Service.Operator lets through
	anyone               // every valid token: what a sign-in needs
	public               // without a token
)

// route is one line of the table. Literal segments are compared without regard to case, as Resource Manager does;
// {name} takes any one segment, and {rest} at the end any number, none included.
type route struct {
	method, pattern string
	versions        versions
	access          who
	takesBody       bool
	name            string // for records: the operation's name in the REST reference, or one like them
	run             func(*Plane, context.Context, *call) (answer, error)
}

// versions are the api-versions that a route takes.
type versions []string

var (
	// keyVault are the versions of Microsoft.KeyVault/managedHSMs that clients were seen to send.
	keyVault = versions{"2020-04-01-preview", "2021-04-01-preview", "2021-06-01-preview", "2021-10-01", "2021-11-01-preview",
		"2022-02-01-preview", "2022-07-01", "2022-11-01", "2023-02-01", "2023-07-01", "2024-11-01", "2025-05-01", "2026-02-01"}
	// resources are those of subscriptions, tenants, resource groups and lists of resources.
	resources = versions{"2015-11-01", "2016-06-01", "2018-05-01", "2019-05-01", "2019-06-01", "2019-10-01", "2019-11-01", "2020-01-01", "2020-06-01",
		"2020-10-01", "2021-01-01", "2021-04-01", "2022-01-01", "2022-09-01", "2022-12-01", "2023-07-01", "2024-03-01", "2024-11-01", "2025-04-01"}
	// anyVersion is for routes whose version says nothing, and for URLs that clients poll as they got them.
	anyVersion versions
)

const (
	subscription = "/subscriptions/{subscription}"
	group        = subscription + "/resourceGroups/{group}"
	vault        = "/providers/Microsoft.KeyVault"
	location     = subscription + vault + "/locations/{location}"
)

var routes = []route{
	{http.MethodGet, "/metadata/endpoints", anyVersion, public, false, "GetMetadata", (*Plane).metadata},
	{http.MethodGet, "/v1.0/{rest}", anyVersion, public, false, "QueryGraph", (*Plane).graph},
	{http.MethodPost, "/v1.0/{rest}", anyVersion, public, false, "QueryGraph", (*Plane).graph},

	{http.MethodGet, "/tenants", resources, anyone, false, "ListTenants", (*Plane).listTenants},
	{http.MethodGet, "/subscriptions", resources, anyone, false, "ListSubscriptions", (*Plane).listSubscriptions},
	{http.MethodGet, subscription, resources, operators, false, "GetSubscription", (*Plane).getSubscription},
	{http.MethodGet, subscription + "/locations", resources, operators, false, "ListLocations", (*Plane).listLocations},
	{http.MethodGet, subscription + "/resourceGroups", resources, operators, false, "ListResourceGroups", (*Plane).listGroups},
	{http.MethodGet, group, resources, operators, false, "GetResourceGroup", (*Plane).getGroup},
	{http.MethodHead, group, resources, operators, false, "CheckResourceGroup", (*Plane).headGroup},
	{http.MethodPut, group, resources, operators, true, "GetResourceGroup", (*Plane).getGroup},
	{http.MethodGet, subscription + "/resources", resources, operators, false, "ListResources", (*Plane).listResources},
	{http.MethodGet, group + "/resources", resources, operators, false, "ListResources", (*Plane).listResources},

	{http.MethodGet, subscription + vault + "/managedHSMs", keyVault, operators, false, "ListManagedHsms", (*Plane).listHSMs},
	{http.MethodGet, group + vault + "/managedHSMs", keyVault, operators, false, "ListManagedHsms", (*Plane).listHSMs},
	{http.MethodGet, group + vault + "/managedHSMs/{name}", keyVault, operators, false, "GetManagedHsm", (*Plane).getHSM},
	{http.MethodPut, group + vault + "/managedHSMs/{name}", keyVault, operators, true, "CreateOrUpdateManagedHsm", (*Plane).putHSM},
	{http.MethodPatch, group + vault + "/managedHSMs/{name}", keyVault, operators, true, "UpdateManagedHsm", (*Plane).patchHSM},
	{http.MethodDelete, group + vault + "/managedHSMs/{name}", keyVault, operators, false, "DeleteManagedHsm", (*Plane).deleteHSM},
	{http.MethodGet, subscription + vault + "/deletedManagedHSMs", keyVault, operators, false, "ListDeletedManagedHsms", (*Plane).listDeleted},
	{http.MethodGet, location + "/deletedManagedHSMs/{name}", keyVault, operators, false, "GetDeletedManagedHsm", (*Plane).getDeleted},
	{http.MethodPost, location + "/deletedManagedHSMs/{name}/purge", keyVault, operators, false, "PurgeDeletedManagedHsm", (*Plane).purgeHSM},
	{http.MethodPost, subscription + vault + "/checkMhsmNameAvailability", keyVault, operators, true, "CheckManagedHsmNameAvailability", (*Plane).checkName},
	{http.MethodGet, location + "/managedHsmOperationStatuses/{operation}", anyVersion, operators, false, "GetOperationStatus", (*Plane).operationStatus},
	{http.MethodGet, location + "/managedHsmOperationResults/{operation}", anyVersion, operators, false, "GetOperationStatus", (*Plane).operationStatus},
}

func (v versions) check(query url.Values) error {
	if v == nil {
		return nil
	}
	asked := query.Get("api-version")
	if asked == "" {
		return failure.Coded(failure.BadParameter, "MissingApiVersionParameter", "the api-version query parameter (?api-version=) is required for all requests")
	}
	if !slices.Contains(v, asked) {
		return failure.Coded(failure.BadParameter, "InvalidApiVersionParameter", "this api-version is not known here; the known ones are %s", strings.Join(v, ", "))
	}
	return nil
}

// splitPath turns a raw path into segments, or refuses it. Nothing is cleaned, decoded or redirected: what is
// routed is what was sent (threat A2).
func splitPath(raw string) ([]string, error) {
	refuse := func(what string) ([]string, error) {
		return nil, failure.New(failure.BadParameter, "the path %s; write it as the REST reference does", what)
	}
	if len(raw) > maxPath {
		return refuse("is too long")
	}
	if !strings.HasPrefix(raw, "/") {
		return refuse("does not begin with a slash")
	}
	for i := range len(raw) {
		switch c := raw[i]; {
		case c == '%':
			return refuse("has percent-encoded characters, which no name here needs")
		case c == '\\' || c <= ' ' || c >= 0x7f:
			return refuse("has a character that no name here needs")
		}
	}
	segments := strings.Split(raw[1:], "/")
	for _, s := range segments {
		switch s {
		case "":
			return refuse("has an empty segment")
		case ".", "..":
			return refuse("has a dot segment")
		}
	}
	return segments, nil
}

// methodError says that a path exists, with other methods.
type methodError struct{ methods []string }

func (*methodError) Error() string { return "the path exists with other methods" }

func findRoute(method string, segments []string) (route, map[string]string, error) {
	var methods []string
	for _, r := range routes {
		args, ok := r.match(segments)
		switch {
		case ok && r.method == method:
			return r, args, nil
		case ok:
			methods = append(methods, r.method)
		}
	}
	if len(methods) > 0 {
		return route{}, nil, &methodError{methods}
	}
	return route{}, nil, failure.New(failure.NoRoute, "there is no such resource type or operation, or this server does not have it")
}

func (r route) match(segments []string) (map[string]string, bool) {
	args := map[string]string{}
	pattern := strings.Split(r.pattern[1:], "/")
	for i, p := range pattern {
		if p == "{rest}" {
			return args, len(segments) >= i
		}
		if i >= len(segments) {
			return nil, false
		}
		if name, isArg := strings.CutPrefix(p, "{"); isArg {
			args[strings.TrimSuffix(name, "}")] = segments[i]
		} else if lower(p) != lower(segments[i]) {
			return nil, false
		}
	}
	return args, len(segments) == len(pattern)
}
