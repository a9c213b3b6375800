package dataplane

import (
	"context"

	"strongroom/internal/access"
	"strongroom/internal/hsm"
	"strongroom/internal/keys"
)

// Bounds of request bodies, in bytes. A security-domain file or transfer file is at most 1 MiB as text, which
// grows when it is quoted inside a JSON string.
const (
	smallBody    = 64 << 10
	domainBody   = 2<<20 + smallBody
	restoreBody  = keys.MaxBackup/3*4 + smallBody // as base64url
	certificates = 256 << 10
)

// routes is the whole surface of an HSM: method, path, behaviour. Nothing is served that is not here.
var routes = append(roleRoutes(), []route{
	{"POST", "securitydomain/download", operation{name: "DownloadSecurityDomain", changes: true, maxBody: certificates, run: downloadDomain}},
	{"GET", "securitydomain/download/pending", operation{name: "GetDownloadStatus", anyVersion: true, run: downloadStatus}},
	{"GET", "securitydomain/upload", operation{name: "GetTransferKey", changes: true, run: exchangeKey}},
	{"POST", "securitydomain/upload", operation{name: "UploadSecurityDomain", changes: true, maxBody: domainBody, run: uploadDomain}},
	{"GET", "securitydomain/upload/pending", operation{name: "GetUploadStatus", anyVersion: true, run: uploadStatus}},
	{"DELETE", "securitydomain/upload", operation{name: "CancelRecovery", changes: true, run: cancelRecovery}}, // Strongroom's own
	{"GET", "securitydomain", operation{name: "DescribeSecurityDomain", run: describeDomain}},                  // Strongroom's own

	{"POST", "rng", operation{name: "GetRandomBytes", maxBody: smallBody, run: randomBytes}},

	{"GET", "settings", operation{name: "GetSettings", run: listSettings}},
	{"GET", "settings/{id}", operation{name: "GetSetting", run: getSetting}},
	{"PATCH", "settings/{id}", operation{name: "UpdateSetting", changes: true, maxBody: smallBody, may: (*hsm.HSM).MaySet, run: updateSetting}},

	{"POST", "backup", operation{name: "FullBackup", changes: true, maxBody: smallBody, run: startBackup}},
	{"GET", "backup/{id}/pending", operation{name: "FullBackupStatus", anyVersion: true, run: jobStatus(false)}},
	{"GET", "backup", operation{name: "ListBackupsAndRestores", run: listJobs}},            // Strongroom's own
	{"GET", "backup/schedule", operation{name: "ListBackupSchedules", run: listSchedules}}, // Strongroom's own
	{"POST", "prebackup", operation{name: "PreFullBackup", changes: true, maxBody: smallBody, run: checkBackup}},
	{"PUT", "restore", operation{name: "FullRestore", changes: true, maxBody: smallBody, run: startRestore}},
	{"GET", "restore/{id}/pending", operation{name: "RestoreStatus", anyVersion: true, run: jobStatus(true)}},
	{"GET", "restore", operation{name: "GetRestorePoint", run: restoreState}},                 // Strongroom's own
	{"POST", "restore/undo", operation{name: "UndoRestore", changes: true, run: undoRestore}}, // Strongroom's own
	{"PUT", "prerestore", operation{name: "PreFullRestore", changes: true, maxBody: smallBody, run: checkRestore}},
	{"PUT", "keys/{name}/restore", operation{name: "SelectiveKeyRestore", changes: true, maxBody: smallBody, run: restoreOneKey}},

	{"GET", "keys", operation{name: "GetKeys", run: listKeys}},
	{"POST", "keys/restore", operation{name: "RestoreKey", changes: true, maxBody: restoreBody, run: restoreKey}},
	{"GET", "keys/{name}", operation{name: "GetKey", run: getKey}},
	{"GET", "keys/{name}/{version}", operation{name: "GetKey", run: getKey}},
	{"PUT", "keys/{name}", operation{name: "ImportKey", changes: true, maxBody: smallBody, run: importKey}},
	{"GET", "keys/{name}/attestation", operation{name: "GetKeyAttestation", run: attestKey}},
	{"GET", "keys/{name}/{version}/attestation", operation{name: "GetKeyAttestation", run: attestKey}},
	{"PATCH", "keys/{name}", operation{name: "UpdateKey", changes: true, maxBody: smallBody, run: updateKey}},
	{"PATCH", "keys/{name}/{version}", operation{name: "UpdateKey", changes: true, maxBody: smallBody, run: updateKey}},
	{"DELETE", "keys/{name}", operation{name: "DeleteKey", changes: true, run: deleteKey}},
	{"GET", "deletedkeys", operation{name: "GetDeletedKeys", run: listDeletedKeys}},
	{"GET", "deletedkeys/{name}", operation{name: "GetDeletedKey", run: getDeletedKey}},
	{"DELETE", "deletedkeys/{name}", operation{name: "PurgeDeletedKey", changes: true, run: purgeKey}},
	{"POST", "deletedkeys/{name}/recover", operation{name: "RecoverDeletedKey", changes: true, run: recoverKey}},
	{"GET", "keys/{name}/versions", operation{name: "GetKeyVersions", run: listKeyVersions}},
	{"POST", "keys/{name}/create", operation{name: "CreateKey", changes: true, maxBody: smallBody, run: createKey}},
	{"POST", "keys/{name}/rotate", operation{name: "RotateKey", changes: true, run: rotateKey}},
	{"GET", "keys/{name}/rotationpolicy", operation{name: "GetKeyRotationPolicy", run: getRotationPolicy}},
	{"PUT", "keys/{name}/rotationpolicy", operation{name: "UpdateKeyRotationPolicy", changes: true, maxBody: smallBody, run: putRotationPolicy}},
	{"POST", "keys/{name}/backup", operation{name: "BackupKey", run: backupKey}},
	{"POST", "keys/{name}/sign", operation{name: "Sign", maxBody: smallBody, run: signDigest}},
	{"POST", "keys/{name}/{version}/sign", operation{name: "Sign", maxBody: smallBody, run: signDigest}},
	{"POST", "keys/{name}/verify", operation{name: "Verify", maxBody: smallBody, run: verifySignature}},
	{"POST", "keys/{name}/{version}/verify", operation{name: "Verify", maxBody: smallBody, run: verifySignature}},
	{"POST", "keys/{name}/encrypt", operation{name: "Encrypt", maxBody: smallBody, run: encryptWith((*keys.Keys).Encrypt)}},
	{"POST", "keys/{name}/{version}/encrypt", operation{name: "Encrypt", maxBody: smallBody, run: encryptWith((*keys.Keys).Encrypt)}},
	{"POST", "keys/{name}/decrypt", operation{name: "Decrypt", maxBody: smallBody, run: decryptWith((*keys.Keys).Decrypt)}},
	{"POST", "keys/{name}/{version}/decrypt", operation{name: "Decrypt", maxBody: smallBody, run: decryptWith((*keys.Keys).Decrypt)}},
	{"POST", "keys/{name}/wrapkey", operation{name: "WrapKey", maxBody: smallBody, run: encryptWith((*keys.Keys).WrapKey)}},
	{"POST", "keys/{name}/{version}/wrapkey", operation{name: "WrapKey", maxBody: smallBody, run: encryptWith((*keys.Keys).WrapKey)}},
	{"POST", "keys/{name}/unwrapkey", operation{name: "UnwrapKey", maxBody: smallBody, run: decryptWith((*keys.Keys).UnwrapKey)}},
	{"POST", "keys/{name}/{version}/unwrapkey", operation{name: "UnwrapKey", maxBody: smallBody, run: decryptWith((*keys.Keys).UnwrapKey)}},
	{"POST", "keys/{name}/release", operation{name: "Release", changes: true, maxBody: smallBody, run: releaseKey}},
	{"POST", "keys/{name}/{version}/release", operation{name: "Release", changes: true, maxBody: smallBody, run: releaseKey}},
}...)

// roleRoutes are the routes of role management, at each of the three scopes.
func roleRoutes() (list []route) {
	for _, where := range []struct {
		prefix string
		scope  func(name string) string
	}{
		{"", func(string) string { return access.ScopeRoot }},
		{"keys/", func(string) string { return access.ScopeKeys }},
		{"keys/{name}/", access.ScopeKey},
	} {
		at := func(name string, changes bool, run func(context.Context, *call) (answer, error), maxBody int64) operation {
			return operation{name: name, changes: changes, maxBody: maxBody, run: func(ctx context.Context, c *call) (answer, error) {
				c.scope = where.scope(c.name)
				return run(ctx, c)
			}}
		}
		definitions, assignments := where.prefix+"providers/Microsoft.Authorization/roleDefinitions", where.prefix+"providers/Microsoft.Authorization/roleAssignments"
		list = append(list,
			route{"GET", definitions, at("GetRoleDefinitions", false, listRoleDefinitions, 0)},
			route{"GET", definitions + "/{id}", at("GetRoleDefinition", false, getRoleDefinition, 0)},
			route{"PUT", definitions + "/{id}", at("PutRoleDefinition", true, putRoleDefinition, smallBody)},
			route{"DELETE", definitions + "/{id}", at("DeleteRoleDefinition", true, deleteRoleDefinition, 0)},
			route{"GET", assignments, at("GetRoleAssignments", false, listRoleAssignments, 0)},
			route{"GET", assignments + "/{id}", at("GetRoleAssignment", false, getRoleAssignment, 0)},
			route{"PUT", assignments + "/{id}", at("PutRoleAssignment", true, putRoleAssignment, smallBody)},
			route{"DELETE", assignments + "/{id}", at("DeleteRoleAssignment", true, deleteRoleAssignment, 0)},
		)
	}
	return list
}
