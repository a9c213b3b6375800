package dataplane

import (
	"context"

	"strongroom/internal/access"
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
	{"POST", "securitydomain/download", operation{maxBody: certificates, run: downloadDomain}},
	{"GET", "securitydomain/download/pending", operation{anyVersion: true, run: downloadStatus}},
	{"GET", "securitydomain/upload", operation{run: exchangeKey}},
	{"POST", "securitydomain/upload", operation{maxBody: domainBody, run: uploadDomain}},
	{"GET", "securitydomain/upload/pending", operation{anyVersion: true, run: uploadStatus}},
	{"DELETE", "securitydomain/upload", operation{run: cancelRecovery}}, // Strongroom's own
	{"GET", "securitydomain", operation{run: describeDomain}},           // Strongroom's own

	{"POST", "rng", operation{maxBody: smallBody, run: randomBytes}},

	{"GET", "keys", operation{run: listKeys}},
	{"POST", "keys/restore", operation{maxBody: restoreBody, run: restoreKey}},
	{"GET", "keys/{name}", operation{run: getKey}},
	{"GET", "keys/{name}/{version}", operation{run: getKey}},
	{"PUT", "keys/{name}", operation{maxBody: smallBody, run: importKey}},
	{"GET", "keys/{name}/attestation", operation{run: attestKey}},
	{"GET", "keys/{name}/{version}/attestation", operation{run: attestKey}},
	{"PATCH", "keys/{name}", operation{maxBody: smallBody, run: updateKey}},
	{"PATCH", "keys/{name}/{version}", operation{maxBody: smallBody, run: updateKey}},
	{"DELETE", "keys/{name}", operation{run: deleteKey}},
	{"GET", "deletedkeys", operation{run: listDeletedKeys}},
	{"GET", "deletedkeys/{name}", operation{run: getDeletedKey}},
	{"DELETE", "deletedkeys/{name}", operation{run: purgeKey}},
	{"POST", "deletedkeys/{name}/recover", operation{run: recoverKey}},
	{"GET", "keys/{name}/versions", operation{run: listKeyVersions}},
	{"POST", "keys/{name}/create", operation{maxBody: smallBody, run: createKey}},
	{"POST", "keys/{name}/rotate", operation{run: rotateKey}},
	{"GET", "keys/{name}/rotationpolicy", operation{run: getRotationPolicy}},
	{"PUT", "keys/{name}/rotationpolicy", operation{maxBody: smallBody, run: putRotationPolicy}},
	{"POST", "keys/{name}/backup", operation{run: backupKey}},
	{"POST", "keys/{name}/sign", operation{maxBody: smallBody, run: signDigest}},
	{"POST", "keys/{name}/{version}/sign", operation{maxBody: smallBody, run: signDigest}},
	{"POST", "keys/{name}/verify", operation{maxBody: smallBody, run: verifySignature}},
	{"POST", "keys/{name}/{version}/verify", operation{maxBody: smallBody, run: verifySignature}},
	{"POST", "keys/{name}/encrypt", operation{maxBody: smallBody, run: encryptWith((*keys.Keys).Encrypt)}},
	{"POST", "keys/{name}/{version}/encrypt", operation{maxBody: smallBody, run: encryptWith((*keys.Keys).Encrypt)}},
	{"POST", "keys/{name}/decrypt", operation{maxBody: smallBody, run: decryptWith((*keys.Keys).Decrypt)}},
	{"POST", "keys/{name}/{version}/decrypt", operation{maxBody: smallBody, run: decryptWith((*keys.Keys).Decrypt)}},
	{"POST", "keys/{name}/wrapkey", operation{maxBody: smallBody, run: encryptWith((*keys.Keys).WrapKey)}},
	{"POST", "keys/{name}/{version}/wrapkey", operation{maxBody: smallBody, run: encryptWith((*keys.Keys).WrapKey)}},
	{"POST", "keys/{name}/unwrapkey", operation{maxBody: smallBody, run: decryptWith((*keys.Keys).UnwrapKey)}},
	{"POST", "keys/{name}/{version}/unwrapkey", operation{maxBody: smallBody, run: decryptWith((*keys.Keys).UnwrapKey)}},
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
		at := func(run func(context.Context, *call) (answer, error), maxBody int64) operation {
			return operation{maxBody: maxBody, run: func(ctx context.Context, c *call) (answer, error) {
				c.scope = where.scope(c.name)
				return run(ctx, c)
			}}
		}
		definitions, assignments := where.prefix+"providers/Microsoft.Authorization/roleDefinitions", where.prefix+"providers/Microsoft.Authorization/roleAssignments"
		list = append(list,
			route{"GET", definitions, at(listRoleDefinitions, 0)},
			route{"GET", definitions + "/{id}", at(getRoleDefinition, 0)},
			route{"PUT", definitions + "/{id}", at(putRoleDefinition, smallBody)},
			route{"DELETE", definitions + "/{id}", at(deleteRoleDefinition, 0)},
			route{"GET", assignments, at(listRoleAssignments, 0)},
			route{"GET", assignments + "/{id}", at(getRoleAssignment, 0)},
			route{"PUT", assignments + "/{id}", at(putRoleAssignment, smallBody)},
			route{"DELETE", assignments + "/{id}", at(deleteRoleAssignment, 0)},
		)
	}
	return list
}
