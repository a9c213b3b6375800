package server

import (
	"context"
	"errors"
	"slices"

	"strongroom/internal/access"
	"strongroom/internal/controlplane"
	"strongroom/internal/failure"
	"strongroom/internal/hsm"
)

// provisioner is the control plane's view of the HSMs.
type provisioner struct{ s *Server }

var _ controlplane.Service = (*provisioner)(nil)

// Operator lets in those whom the configuration names, and the administrator that the embedded issuer made.
// Local roles of an HSM give no right here, and the other way round.
func (p *provisioner) Operator(_ context.Context, c access.Caller) error {
	own := p.s.client.app.ObjectID
	for _, id := range p.s.cfg.Operators {
		if access.SamePrincipal(id, c.ObjectID) {
			return nil
		}
	}
	if own != "" && access.SamePrincipal(own, c.ObjectID) {
		return nil
	}
	return failure.Coded(failure.Forbidden, "AuthorizationFailed", "caller %q is no operator of this server; add the object ID to operators in the server's configuration", c.ObjectID)
}

func (p *provisioner) CreateHSM(ctx context.Context, c access.Caller, spec controlplane.HSMSpec) (controlplane.HSM, bool, error) {
	info, created, err := p.s.hsms.Create(ctx, hsm.Spec{
		Name: spec.Name, Subscription: spec.Subscription, ResourceGroup: spec.ResourceGroup, Location: spec.Location, TenantID: spec.TenantID, Tags: spec.Tags,
		InitialAdmins: slices.Clone(spec.InitialAdmins), RetentionDays: spec.SoftDeleteRetentionDays, PurgeProtection: spec.PurgeProtection, NetworkACLs: spec.NetworkACLs,
	})
	if err != nil {
		return controlplane.HSM{}, false, err
	}
	// The port answers before the caller learns of it.
	if err := p.s.reconcile(ctx); err != nil {
		return controlplane.HSM{}, false, failure.Wrap(failure.Unavailable, err, "the HSM was made, and its address cannot be opened; see the server's log")
	}
	return p.show(info), created, nil
}

func (p *provisioner) GetHSM(ctx context.Context, _ access.Caller, name string) (controlplane.HSM, error) {
	info, err := p.s.hsms.Get(ctx, name)
	return p.show(info), err
}

func (p *provisioner) ListHSMs(ctx context.Context, _ access.Caller) ([]controlplane.HSM, error) {
	return p.list(ctx, false)
}

func (p *provisioner) ListDeleted(ctx context.Context, _ access.Caller) ([]controlplane.HSM, error) {
	return p.list(ctx, true)
}

func (p *provisioner) list(ctx context.Context, deleted bool) (out []controlplane.HSM, err error) {
	list, err := p.s.hsms.List(ctx, deleted)
	for _, i := range list {
		out = append(out, p.show(i))
	}
	return out, err
}

func (p *provisioner) GetDeleted(ctx context.Context, _ access.Caller, name string) (controlplane.HSM, error) {
	info, err := p.s.hsms.GetDeleted(ctx, name)
	return p.show(info), err
}

func (p *provisioner) DeleteHSM(ctx context.Context, _ access.Caller, name string) error {
	_, err := p.s.hsms.Delete(ctx, name)
	return err
}

func (p *provisioner) RecoverHSM(ctx context.Context, _ access.Caller, name string) (controlplane.HSM, error) {
	info, err := p.s.hsms.Recover(ctx, name)
	return p.show(info), err
}

func (p *provisioner) PurgeHSM(ctx context.Context, _ access.Caller, name string) error {
	info, err := p.s.hsms.Purge(ctx, name)
	if err == nil {
		p.s.limits.Forget(info.ID)
	}
	return err
}

func (p *provisioner) NameAvailable(ctx context.Context, _ access.Caller, name string) (bool, error) {
	for _, find := range []func(context.Context, string) (hsm.Info, error){p.s.hsms.Get, p.s.hsms.GetDeleted} {
		if _, err := find(ctx, name); err == nil {
			return false, nil
		} else if !errors.Is(err, failure.NotFound) {
			return false, err
		}
	}
	return true, nil
}

// show gives an HSM ARM's words for its state.
func (p *provisioner) show(i hsm.Info) controlplane.HSM {
	out := controlplane.HSM{
		Name: i.Name, ID: i.ID, ResourceGroup: i.ResourceGroup, Location: i.Location, TenantID: i.TenantID, URI: p.s.hsmURL(i), Tags: i.Tags, InitialAdmins: i.InitialAdmins,
		SoftDeleteRetentionDays: i.RetentionDays, PurgeProtection: i.PurgeProtection, NetworkACLs: i.NetworkACLs, Created: i.Created, Updated: i.Updated,
		DeletedAt: i.DeletedAt, ScheduledPurge: i.PurgeAt,
	}
	switch i.State {
	case hsm.Activated:
		if i.Restoring {
			out.ProvisioningState, out.StatusMessage = "Restoring", "The Managed HSM is being restored from a full backup, and answers nothing else until that is done."
			out.ActivationStatus, out.ActivationMessage = "Active", "The security domain is "+i.DomainID+"."
			break
		}
		out.ProvisioningState, out.StatusMessage = "Activated", "The Managed HSM is activated and ready for use."
		out.ActivationStatus, out.ActivationMessage = "Active", "The security domain is "+i.DomainID+"."
	case hsm.Recovering:
		out.ProvisioningState, out.StatusMessage = "SecurityDomainRestore", "The Managed HSM waits for a security domain to be restored."
		out.ActivationStatus, out.ActivationMessage = "NotActivated", "Upload the security domain to activate."
	default:
		out.ProvisioningState, out.StatusMessage = "Succeeded", "The Managed HSM is provisioned and ready to use."
		out.ActivationStatus, out.ActivationMessage = "NotActivated", "Download the security domain to activate."
	}
	return out
}
