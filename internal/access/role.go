package access

import (
	"fmt"
	"slices"
	"strings"

	"github.com/google/uuid"
)

// Role is a role definition: what its holder may do, at the scope of the assignment.
type Role struct {
	ID             string   // GUID, lower case
	Name           string   // "Managed HSM Crypto User"
	Description    string   // of custom roles
	Scopes         []string // assignableScopes as given, of custom roles; shown to clients, never decided on
	Custom         bool     // false: built in, and fixed
	Actions        []string // control-plane actions; shown to clients, never decided on here
	DataActions    []Action
	NotDataActions []Action // taken out of this role's own data actions; another role may still grant them
}

// The published IDs of the built-in roles (protocol: rbac, section 1).
const (
	RoleAdministrator       = "a290e904-7015-4bba-90c8-60543313cdb4"
	RoleCryptoOfficer       = "515eb02d-2335-4d2d-92f2-b1cbdf9c3778"
	RoleCryptoUser          = "21dbd100-6940-42c2-9190-5d6cb909625b"
	RolePolicyAdministrator = "4bd23610-cdcf-4971-bdee-bdc562cc28e4"
	RoleCryptoAuditor       = "2c18b078-7c48-4d3a-af88-5a3a1b3f82b3"
	RoleServiceEncryption   = "33413926-3206-4cdd-b39a-83574fe37a17"
	RoleServiceRelease      = "21dbd100-6940-42c2-9190-5d6cb909625c"
	RoleBackup              = "7b127d3c-77bd-4e3e-bbe0-dbb8971fa7f8"
	RoleRestore             = "6efe6056-5259-49d2-8b3d-d3d73544b20b"
	RoleARMUser             = "770fd66c-6266-4643-9d4e-b616870898d5"
)

// BuiltInRoles returns the built-in roles with their published data actions. Where the published table and the
// role list returned by the service differ, both sets are granted, with one exception: the table's
// "/keys/deletedKeys/delete" for the Crypto Auditor is a shifted cell (an auditor who may purge), and the service
// gave read. The EKM Administrator is missing, as neither its ID nor its actions are published.
func BuiltInRoles() []Role {
	readRoles := []Action{AssignmentsRead, DefinitionsRead}
	manageRoles := append([]Action{AssignmentsWrite, AssignmentsDelete, DefinitionsWrite, DefinitionsDelete}, readRoles...)
	backup := []Action{BackupStart, BackupStatus}
	restore := []Action{RestoreStart, RestoreStatus}
	return []Role{
		{ID: RoleAdministrator, Name: "Managed HSM Administrator", DataActions: slices.Concat([]Action{
			SecurityDomainDownload, SecurityDomainDownloadRead, SecurityDomainUpload, SecurityDomainUploadRead, TransferKeyRead,
		}, manageRoles, backup, restore)},
		{ID: RoleCryptoOfficer, Name: "Managed HSM Crypto Officer", DataActions: slices.Concat([]Action{
			DeletedKeyRead, DeletedKeyRecover, DeletedKeyPurge, "/keys/export/action",
		}, manageRoles)},
		{ID: RoleCryptoUser, Name: "Managed HSM Crypto User", DataActions: slices.Concat([]Action{
			KeyRead, KeyWrite, KeyRotate, KeyCreate, KeyDelete, KeyImport, KeyRelease,
			KeyBackup, KeyRestore, "/keys/encrypt/action", "/keys/decrypt/action", "/keys/wrap/action", "/keys/unwrap/action",
			KeySign, KeyVerify, "/keys/derive/action", RandomBytes,
		}, readRoles)},
		{ID: RolePolicyAdministrator, Name: "Managed HSM Policy Administrator", DataActions: manageRoles},
		{ID: RoleCryptoAuditor, Name: "Managed HSM Crypto Auditor", DataActions: slices.Concat([]Action{
			KeyRead, DeletedKeyRead,
		}, readRoles)},
		{ID: RoleServiceEncryption, Name: "Managed HSM Crypto Service Encryption User", DataActions: []Action{
			KeyRead, "/keys/wrap/action", "/keys/unwrap/action",
		}},
		{ID: RoleServiceRelease, Name: "Managed HSM Crypto Service Release User", DataActions: []Action{KeyRelease}},
		{ID: RoleBackup, Name: "Managed HSM Backup", DataActions: slices.Concat([]Action{KeyBackup}, backup)},
		{ID: RoleRestore, Name: "Managed HSM Restore", DataActions: slices.Concat([]Action{KeyRestore}, restore)},
		{ID: RoleARMUser, Name: "Managed HSM ARM User", Actions: []string{
			"Microsoft.KeyVault/managedHsm/keys/createIfNotExists", "Microsoft.KeyVault/managedHsm/keys/read/action",
		}},
	}
}

// grants reports whether the role allows an action at scopes it is assigned at. Actions are compared exactly:
// they are constants of this program and, in custom roles, checked against the published list when written.
func (r Role) grants(a Action) bool {
	return slices.Contains(r.DataActions, a) && !slices.Contains(r.NotDataActions, a)
}

// Assignment gives a principal a role at a scope.
type Assignment struct {
	Name             string // GUID
	PrincipalID      string // object ID of a user, group, service principal or managed identity, with its issuer's prefix
	RoleDefinitionID string // GUID of the role
	Scope            string // "/", "/keys" or "/keys/{name}"
}

// Decision is the outcome of [Decide].
type Decision struct {
	Allowed bool
	By      string // the role and assignment that allow it, for the record; "" when refused
}

// Decide reports whether the caller may do action at scope. It is pure, and refuses what it does not know: an
// action no assigned role grants, a scope or an assignment that is not well-formed, a caller without object ID.
//
// A scope is ScopeRoot or ScopeKeys for what concerns the whole HSM, ScopeKey(name) for one key. An assignment
// at "/" or "/keys" covers the whole HSM, one at "/keys/{name}" that key only. Key names and GUIDs are compared
// without regard to the case of ASCII letters; other principal names, and the prefixes of issuers, exactly (a claim
// sub is case-sensitive).
func Decide(roles []Role, assignments []Assignment, caller Caller, action Action, scope string) Decision {
	if caller.ObjectID == "" || action == "" || !ValidScope(scope) {
		return Decision{}
	}
	for _, a := range assignments {
		if !covers(a.Scope, scope) || !isPrincipal(a.PrincipalID, caller) {
			continue
		}
		for _, r := range roles {
			if sameID(r.ID, a.RoleDefinitionID) && r.grants(action) {
				return Decision{Allowed: true, By: allowedBy(r, a)}
			}
		}
	}
	return Decision{}
}

// allowedBy is the text of [Decision.By].
func allowedBy(r Role, a Assignment) string {
	return fmt.Sprintf("%s at %s (assignment %s)", r.Name, a.Scope, a.Name)
}

// ValidScope reports whether s is "/", "/keys" or "/keys/{name}" with a legal key name.
func ValidScope(s string) bool {
	if s == ScopeRoot || s == ScopeKeys {
		return true
	}
	name, ok := strings.CutPrefix(s, ScopeKeys+"/")
	if !ok || len(name) < 1 || len(name) > 127 {
		return false
	}
	for _, c := range []byte(name) {
		if !(c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '-') {
			return false
		}
	}
	return true
}

func covers(assigned, asked string) bool {
	if !ValidScope(assigned) {
		return false
	}
	return assigned == ScopeRoot || assigned == ScopeKeys || lowerASCII(assigned) == lowerASCII(asked)
}

func isPrincipal(id string, c Caller) bool {
	if id == "" {
		return false
	}
	return sameID(id, c.ObjectID) || slices.ContainsFunc(c.Groups, func(g string) bool { return sameID(id, g) })
}

// sameID compares two identifiers: GUIDs, also behind one and the same issuer prefix, without regard to case,
// everything else exactly.
func sameID(a, b string) bool {
	if a == b {
		return true
	}
	prefix, guid, _ := strings.Cut(a, ":")
	if rest, ok := strings.CutPrefix(b, prefix+":"); ok && strings.Contains(a, ":") {
		a, b = guid, rest
	}
	return IsGUID(a) && IsGUID(b) && lowerASCII(a) == lowerASCII(b)
}

// IsGUID accepts the one form with hyphens and nothing around it.
func IsGUID(s string) bool {
	return len(s) == 36 && uuid.Validate(s) == nil
}

// lowerASCII lowers A to Z and nothing else. strings.ToLower and EqualFold also fold other letters: the Kelvin
// sign becomes k, and two names that look different would be one.
func lowerASCII(s string) string {
	if !strings.ContainsFunc(s, func(r rune) bool { return r >= 'A' && r <= 'Z' }) {
		return s
	}
	b := []byte(s)
	for i, c := range b {
		if c >= 'A' && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}

// SamePrincipal reports whether two principals are one, as assignments compare them: exactly, except that the case
// of a GUID makes no difference.
func SamePrincipal(a, b string) bool { return sameID(a, b) }
