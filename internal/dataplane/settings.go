package dataplane

import (
	"context"
	"strconv"

	"strongroom/internal/access"
	"strongroom/internal/api"
	"strongroom/internal/hsm"
)

func listSettings(ctx context.Context, c *call) (answer, error) {
	settings, err := c.hsm.Settings(ctx, c.caller)
	if err != nil {
		return answer{}, err
	}
	list := api.SettingsList{Settings: []api.Setting{}}
	for _, s := range settings {
		list.Settings = append(list.Settings, setting(s))
	}
	return ok(list)
}

func getSetting(ctx context.Context, c *call) (answer, error) {
	s, err := c.hsm.Setting(ctx, c.caller, c.id)
	if err != nil {
		return answer{}, err
	}
	return ok(setting(s))
}

func updateSetting(ctx context.Context, c *call) (answer, error) {
	request, err := decode[api.UpdateSettingRequest](c)
	if err != nil {
		return answer{}, err
	}
	s, err := c.hsm.SetSetting(ctx, c.caller, c.id, request.Value)
	if err != nil {
		return answer{}, err
	}
	c.record.Scope, c.record.Object = access.ScopeRoot, s.Name+"="+setting(s).Value
	return ok(setting(s))
}

func setting(s hsm.Setting) api.Setting {
	return api.Setting{Name: s.Name, Type: "boolean", Value: strconv.FormatBool(s.On)}
}
