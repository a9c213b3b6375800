package dataplane

import (
	"context"
	"strings"

	"strongroom/internal/api"
	"strongroom/internal/failure"
	"strongroom/internal/keys"
)

func rotateKey(ctx context.Context, c *call) (answer, error) {
	k, err := c.keys(ctx)
	if err != nil {
		return answer{}, err
	}
	key, err := k.Rotate(ctx, c.caller, c.name)
	if err != nil {
		return answer{}, err
	}
	return ok(c.bundle(key))
}

func getRotationPolicy(ctx context.Context, c *call) (answer, error) {
	k, err := c.keys(ctx)
	if err != nil {
		return answer{}, err
	}
	p, err := k.GetRotationPolicy(ctx, c.caller, c.name)
	if err != nil {
		return answer{}, err
	}
	return ok(c.policy(p))
}

func putRotationPolicy(ctx context.Context, c *call) (answer, error) {
	request, err := decode[api.RotationPolicy](c)
	if err != nil {
		return answer{}, err
	}
	p := keys.RotationPolicy{ExpiryTime: request.Attributes.ExpiryTime}
	if len(request.LifetimeActions) > 1 {
		return answer{}, failure.New(failure.BadParameter, "lifetimeActions has more than one action; a Managed HSM has one, Rotate")
	}
	for _, a := range request.LifetimeActions {
		switch {
		case strings.EqualFold(a.Action.Type, "Notify"):
			return answer{}, failure.New(failure.BadParameter, "a Managed HSM has no action Notify; leave it out, or use Rotate")
		case !strings.EqualFold(a.Action.Type, "Rotate"):
			return answer{}, failure.New(failure.BadParameter, "the type of an action must be Rotate")
		case a.Trigger == api.LifetimeTrigger{}:
			return answer{}, failure.New(failure.BadParameter, "an action needs a trigger: timeAfterCreate or timeBeforeExpiry")
		}
		p.TimeAfterCreate, p.TimeBeforeExpiry = a.Trigger.TimeAfterCreate, a.Trigger.TimeBeforeExpiry
	}
	k, err := c.keys(ctx)
	if err != nil {
		return answer{}, err
	}
	if p, err = k.SetRotationPolicy(ctx, c.caller, c.name, p); err != nil {
		return answer{}, err
	}
	return ok(c.policy(p))
}

func (c *call) policy(p keys.RotationPolicy) api.RotationPolicy {
	out := api.RotationPolicy{ID: c.kid(c.name, "rotationpolicy"), LifetimeActions: []api.LifetimeAction{}, Attributes: api.RotationPolicyAttributes{ExpiryTime: p.ExpiryTime}}
	if trigger := (api.LifetimeTrigger{TimeAfterCreate: p.TimeAfterCreate, TimeBeforeExpiry: p.TimeBeforeExpiry}); trigger != (api.LifetimeTrigger{}) {
		out.LifetimeActions = append(out.LifetimeActions, api.LifetimeAction{Trigger: trigger, Action: api.LifetimeActionType{Type: "Rotate"}})
	}
	if !p.Created.IsZero() {
		out.Attributes.Created, out.Attributes.Updated = p.Created.Unix(), p.Updated.Unix()
	}
	return out
}
