package api

// Setting is a setting of an HSM. Values are texts, whatever their type.
type Setting struct {
	Name  string `json:"name"`
	Type  string `json:"type"`  // "boolean"
	Value string `json:"value"` // "true" or "false"
}

// SettingsList is all settings of an HSM. Its member is not named value, as that of other lists is.
type SettingsList struct {
	Settings []Setting `json:"settings"`
}

// UpdateSettingRequest changes a setting.
type UpdateSettingRequest struct {
	Value string `json:"value"`
}
