package client

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Versions of the control plane that are spoken.
const (
	armVersion           = "2023-02-01" // managed HSMs
	subscriptionsVersion = "2019-11-01"
)

// armDeadline bounds the wait for a control-plane operation.
const armDeadline = 10 * time.Minute

// Server is the ARM-shaped control plane of a server.
type Server struct {
	c    *Client
	base *url.URL
}

// ManagedHSM is an HSM as the control plane sees it.
type ManagedHSM struct {
	Name          string
	ResourceGroup string
	Location      string
	URL           string
	State         string // ARM's provisioningState
	Activation    string // NotActivated, Active, …; may be empty
	Message       string // for people
	Admins        []string
	Retention     int // days a deleted HSM is kept
	PurgeProtect  bool
}

// DeletedHSM is an HSM that was deleted and not purged yet.
type DeletedHSM struct {
	Name           string
	Location       string
	ResourceGroup  string
	Deleted        time.Time
	ScheduledPurge time.Time
	PurgeProtect   bool
}

// CreateHSM says which HSM to make.
type CreateHSM struct {
	Name          string
	ResourceGroup string
	Location      string
	Tenant        string
	Admins        []string // object IDs
	Retention     int      // days; 0 leaves it to the server
	PurgeProtect  bool
}

// Subscription is what HSMs are filed under.
type Subscription struct {
	ID     string
	Tenant string
}

// Wire forms: Microsoft.KeyVault, 2023-02-01.
type (
	armHSM struct {
		ID         string            `json:"id,omitempty"`
		Name       string            `json:"name,omitempty"`
		Location   string            `json:"location,omitempty"`
		SKU        *armSKU           `json:"sku,omitempty"`
		Tags       map[string]string `json:"tags,omitempty"`
		Properties armHSMProperties  `json:"properties"`
	}
	armSKU struct {
		Family string `json:"family"`
		Name   string `json:"name"`
	}
	armHSMProperties struct {
		TenantID          string     `json:"tenantId,omitempty"`
		Admins            []string   `json:"initialAdminObjectIds,omitempty"`
		HSMURI            string     `json:"hsmUri,omitempty"`
		SoftDelete        *bool      `json:"enableSoftDelete,omitempty"`
		Retention         int        `json:"softDeleteRetentionInDays,omitempty"`
		PurgeProtection   *bool      `json:"enablePurgeProtection,omitempty"`
		CreateMode        string     `json:"createMode,omitempty"`
		ProvisioningState string     `json:"provisioningState,omitempty"`
		StatusMessage     string     `json:"statusMessage,omitempty"`
		SecurityDomain    *armDomain `json:"securityDomainProperties,omitempty"`
	}
	armDomain struct {
		Activation string `json:"activationStatus"`
		Message    string `json:"activationStatusMessage"`
	}
	armDeleted struct {
		Name       string `json:"name"`
		Properties struct {
			HSMID           string    `json:"mhsmId"`
			Location        string    `json:"location"`
			Deleted         time.Time `json:"deletionDate"`
			ScheduledPurge  time.Time `json:"scheduledPurgeDate"`
			PurgeProtection bool      `json:"purgeProtectionEnabled"`
		} `json:"properties"`
	}
	armPage[T any] struct {
		Value    []T    `json:"value"`
		NextLink string `json:"nextLink"`
	}
)

// Server returns the control plane at address, https://HOST[:PORT]. Nothing is sent yet.
func (c *Client) Server(address string) (*Server, error) {
	u, err := baseURL(address)
	if err != nil {
		return nil, err
	}
	return &Server{c: c, base: u}, nil
}

// serverScope is the scope of control-plane tokens: the address itself. ARM's challenge names no resource.
func serverScope(base *url.URL) string { return base.String() + "/.default" }

func (s *Server) call(ctx context.Context, method, version string, body, out any, path ...string) (answer, error) {
	u := s.base.JoinPath(escape(path)...)
	u.RawQuery = "api-version=" + version
	a, err := s.c.do(ctx, request{method: method, url: u, body: body, scope: serverScope(s.base)})
	if err != nil || out == nil {
		return a, err
	}
	return a, a.into(out)
}

// pages follows a list to its end.
func pages[T any](ctx context.Context, s *Server, version string, path ...string) ([]T, error) {
	var page armPage[T]
	if _, err := s.call(ctx, http.MethodGet, version, nil, &page, path...); err != nil {
		return nil, err
	}
	list := page.Value
	for n := 1; page.NextLink != ""; n++ {
		next, err := s.own(page.NextLink)
		if err != nil || n == maxPages {
			return nil, fmt.Errorf("%w: the list goes on at another address or does not end", ErrAnswer)
		}
		a, err := s.c.do(ctx, request{method: http.MethodGet, url: next, scope: serverScope(s.base)})
		if err != nil {
			return nil, err
		}
		page = armPage[T]{}
		if err := a.into(&page); err != nil {
			return nil, err
		}
		list = append(list, page.Value...)
	}
	return list, nil
}

// own parses a URL that the server gave and demands that it is on the same server: the token goes there.
func (s *Server) own(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "https" || u.Host != s.base.Host || u.User != nil {
		return nil, fmt.Errorf("%w: it points to another server", ErrAnswer)
	}
	return u, nil
}

// Subscription returns the subscription that HSMs are filed under: the first one that the caller sees.
func (s *Server) Subscription(ctx context.Context) (Subscription, error) {
	type subscription struct {
		ID     string `json:"subscriptionId"`
		Tenant string `json:"tenantId"`
	}
	list, err := pages[subscription](ctx, s, subscriptionsVersion, "subscriptions")
	if err != nil {
		return Subscription{}, err
	}
	if len(list) == 0 || list[0].ID == "" {
		return Subscription{}, fmt.Errorf("%w: the server shows no subscription to this caller", ErrAnswer)
	}
	return Subscription{ID: list[0].ID, Tenant: list[0].Tenant}, nil
}

// List returns the HSMs of a subscription.
func (s *Server) List(ctx context.Context, sub Subscription) ([]ManagedHSM, error) {
	list, err := pages[armHSM](ctx, s, armVersion, "subscriptions", sub.ID, "providers", "Microsoft.KeyVault", "managedHSMs")
	if err != nil {
		return nil, err
	}
	out := make([]ManagedHSM, len(list))
	for i, h := range list {
		out[i] = h.managed()
	}
	return out, nil
}

// ListDeleted returns the HSMs of a subscription that were deleted and not purged.
func (s *Server) ListDeleted(ctx context.Context, sub Subscription) ([]DeletedHSM, error) {
	list, err := pages[armDeleted](ctx, s, armVersion, "subscriptions", sub.ID, "providers", "Microsoft.KeyVault", "deletedManagedHSMs")
	if err != nil {
		return nil, err
	}
	out := make([]DeletedHSM, len(list))
	for i, h := range list {
		p := h.Properties
		out[i] = DeletedHSM{Name: h.Name, Location: p.Location, ResourceGroup: groupOf(p.HSMID), Deleted: p.Deleted, ScheduledPurge: p.ScheduledPurge, PurgeProtect: p.PurgeProtection}
	}
	return out, nil
}

// Get returns one HSM.
func (s *Server) Get(ctx context.Context, sub Subscription, group, name string) (ManagedHSM, error) {
	var h armHSM
	_, err := s.call(ctx, http.MethodGet, armVersion, nil, &h, resourcePath(sub, group, name)...)
	return h.managed(), err
}

// Create makes an HSM and waits until it is provisioned.
func (s *Server) Create(ctx context.Context, sub Subscription, spec CreateHSM) (ManagedHSM, error) {
	yes := true
	h := armHSM{
		Location: spec.Location, SKU: &armSKU{Family: "B", Name: "Standard_B1"},
		Properties: armHSMProperties{TenantID: spec.Tenant, Admins: spec.Admins, SoftDelete: &yes, Retention: spec.Retention},
	}
	if spec.PurgeProtect {
		h.Properties.PurgeProtection = &yes
	}
	return s.put(ctx, sub, spec.ResourceGroup, spec.Name, h)
}

// Recover brings a deleted HSM back.
func (s *Server) Recover(ctx context.Context, sub Subscription, d DeletedHSM) (ManagedHSM, error) {
	h := armHSM{Location: d.Location, SKU: &armSKU{Family: "B", Name: "Standard_B1"}, Properties: armHSMProperties{CreateMode: "Recover", TenantID: sub.Tenant}}
	return s.put(ctx, sub, d.ResourceGroup, d.Name, h)
}

func (s *Server) put(ctx context.Context, sub Subscription, group, name string, h armHSM) (ManagedHSM, error) {
	a, err := s.call(ctx, http.MethodPut, armVersion, h, nil, resourcePath(sub, group, name)...)
	if err != nil {
		return ManagedHSM{}, err
	}
	if err := s.wait(ctx, a); err != nil {
		return ManagedHSM{}, err
	}
	return s.Get(ctx, sub, group, name)
}

// Delete deletes an HSM; until it is purged it can be recovered.
func (s *Server) Delete(ctx context.Context, sub Subscription, group, name string) error {
	a, err := s.call(ctx, http.MethodDelete, armVersion, nil, nil, resourcePath(sub, group, name)...)
	if err != nil {
		return err
	}
	return s.wait(ctx, a)
}

// Purge destroys a deleted HSM for good.
func (s *Server) Purge(ctx context.Context, sub Subscription, d DeletedHSM) error {
	a, err := s.call(ctx, http.MethodPost, armVersion, nil, nil, "subscriptions", sub.ID, "providers", "Microsoft.KeyVault",
		"locations", d.Location, "deletedManagedHSMs", d.Name, "purge")
	if err != nil {
		return err
	}
	return s.wait(ctx, a)
}

func resourcePath(sub Subscription, group, name string) []string {
	return []string{"subscriptions", sub.ID, "resourceGroups", group, "providers", "Microsoft.KeyVault", "managedHSMs", name}
}

// wait follows a 202 to its end: Azure-AsyncOperation tells a status, Location answers 202 until it is over.
func (s *Server) wait(ctx context.Context, a answer) error {
	if a.status != http.StatusAccepted {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, armDeadline)
	defer cancel()
	async := a.header.Get("Azure-AsyncOperation")
	next := async
	if next == "" {
		next = a.header.Get("Location")
	}
	if next == "" {
		return fmt.Errorf("%w: it does not say how to follow the operation", ErrAnswer)
	}
	poll, err := s.own(next)
	if err != nil {
		return err
	}
	for {
		a, err = s.c.do(ctx, request{method: http.MethodGet, url: poll, scope: serverScope(s.base)})
		if err != nil {
			return err
		}
		if async == "" && a.status != http.StatusAccepted {
			return nil
		}
		if async != "" {
			var status struct {
				Status string `json:"status"`
				Error  struct {
					Message string `json:"message"`
				} `json:"error"`
			}
			if err := a.into(&status); err != nil {
				return err
			}
			switch strings.ToLower(status.Status) {
			case "succeeded":
				return nil
			case "failed", "canceled":
				return fmt.Errorf("the operation failed: %s", printable(status.Error.Message))
			}
		}
		if err := s.c.pause(ctx, retryAfter(a.header)); err != nil {
			return fmt.Errorf("the operation is not over yet: %w", err)
		}
	}
}

func (h armHSM) managed() ManagedHSM {
	m := ManagedHSM{
		Name: h.Name, ResourceGroup: groupOf(h.ID), Location: h.Location, URL: strings.TrimSuffix(h.Properties.HSMURI, "/"),
		State: h.Properties.ProvisioningState, Message: printable(h.Properties.StatusMessage),
		Admins: h.Properties.Admins, Retention: h.Properties.Retention,
		PurgeProtect: h.Properties.PurgeProtection != nil && *h.Properties.PurgeProtection,
	}
	if d := h.Properties.SecurityDomain; d != nil {
		m.Activation = d.Activation
	}
	return m
}

// groupOf takes the resource group out of a resource ID; the names in it compare without case.
func groupOf(id string) string {
	parts := strings.Split(id, "/")
	for i := 0; i+1 < len(parts); i++ {
		if strings.EqualFold(parts[i], "resourceGroups") {
			return parts[i+1]
		}
	}
	return ""
}
