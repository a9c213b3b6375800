package api

// RoleDefinition is a role as clients see it.
type RoleDefinition struct {
	ID         string                   `json:"id"`   // "Microsoft.KeyVault/providers/Microsoft.Authorization/roleDefinitions/GUID"
	Name       string                   `json:"name"` // GUID
	Type       string                   `json:"type"`
	Properties RoleDefinitionProperties `json:"properties"`
}

// RoleDefinitionProperties are also what a request to make a role consists of.
type RoleDefinitionProperties struct {
	RoleName         string        `json:"roleName"`
	Description      string        `json:"description"`
	Type             string        `json:"type"` // AKVBuiltInRole or CustomRole
	Permissions      []Permissions `json:"permissions"`
	AssignableScopes []string      `json:"assignableScopes"`
}

// Permissions of a role. Data actions have the prefix Microsoft.KeyVault/managedHsm.
type Permissions struct {
	Actions        []string `json:"actions"`
	NotActions     []string `json:"notActions"`
	DataActions    []string `json:"dataActions"`
	NotDataActions []string `json:"notDataActions"`
}

// RoleDefinitionRequest makes or changes a custom role.
type RoleDefinitionRequest struct {
	Properties RoleDefinitionProperties `json:"properties"`
}

// RoleDefinitionList is all roles of an HSM.
type RoleDefinitionList struct {
	Value    []RoleDefinition `json:"value"`
	NextLink string           `json:"nextLink,omitempty"`
}

// RoleAssignment is a role given to a principal at a scope.
type RoleAssignment struct {
	ID         string                   `json:"id"`   // "/providers/Microsoft.Authorization/roleAssignments/GUID", whatever the scope
	Name       string                   `json:"name"` // GUID
	Type       string                   `json:"type"`
	Properties RoleAssignmentProperties `json:"properties"`
}

// RoleAssignmentProperties are also what a request to make an assignment consists of, but for the scope, which is
// that of the path.
type RoleAssignmentProperties struct {
	RoleDefinitionID string `json:"roleDefinitionId"` // ID of a RoleDefinition
	PrincipalID      string `json:"principalId"`
	Scope            string `json:"scope,omitempty"`
}

// RoleAssignmentRequest makes an assignment.
type RoleAssignmentRequest struct {
	Properties RoleAssignmentProperties `json:"properties"`
}

// RoleAssignmentList is a list of assignments.
type RoleAssignmentList struct {
	Value    []RoleAssignment `json:"value"`
	NextLink string           `json:"nextLink,omitempty"`
}
