package dataplane

import "strongroom/internal/access"

// actions says, for each route, which data action its caller must have. It decides nothing: the methods of hsm, keys and
// access ask by themselves. It is what documentation and records go by, and a test holds every route against it, by what
// a caller without roles is told.
var actions = func() map[string]access.Action {
	table := map[string]access.Action{
		"POST securitydomain/download":        access.SecurityDomainDownload,
		"GET securitydomain/download/pending": access.SecurityDomainDownloadRead,
		"GET securitydomain/upload":           access.TransferKeyRead,
		"POST securitydomain/upload":          access.SecurityDomainUpload,
		"GET securitydomain/upload/pending":   access.SecurityDomainUploadRead,
		"DELETE securitydomain/upload":        access.SecurityDomainUpload,
		"GET securitydomain":                  access.SecurityDomainUploadRead,

		"POST rng": access.RandomBytes,

		// Azure publishes no data action for settings. Whoever reads roles reads them, and who owns the HSM changes them.
		"GET settings":        access.DefinitionsRead,
		"GET settings/{id}":   access.DefinitionsRead,
		"PATCH settings/{id}": access.SecurityDomainDownload,

		"POST backup":              access.BackupStart,
		"POST prebackup":           access.BackupStart,
		"GET backup/{id}/pending":  access.BackupStatus,
		"GET backup":               access.BackupStatus,
		"GET backup/schedule":      access.BackupStatus,
		"PUT restore":              access.RestoreStart,
		"PUT prerestore":           access.RestoreStart,
		"PUT keys/{name}/restore":  access.RestoreStart,
		"POST restore/undo":        access.RestoreStart,
		"GET restore/{id}/pending": access.RestoreStatus,
		"GET restore":              access.RestoreStatus,

		"GET keys":                              access.KeyRead,
		"GET keys/{name}":                       access.KeyRead,
		"GET keys/{name}/{version}":             access.KeyRead,
		"GET keys/{name}/versions":              access.KeyRead,
		"GET keys/{name}/attestation":           access.KeyRead,
		"GET keys/{name}/{version}/attestation": access.KeyRead,
		"GET keys/{name}/rotationpolicy":        access.KeyRead,
		"PUT keys/{name}/rotationpolicy":        access.KeyWrite,
		"PATCH keys/{name}":                     access.KeyWrite,
		"PATCH keys/{name}/{version}":           access.KeyWrite,
		"POST keys/{name}/create":               access.KeyCreate,
		"PUT keys/{name}":                       access.KeyImport,
		"POST keys/{name}/rotate":               access.KeyRotate,
		"DELETE keys/{name}":                    access.KeyDelete,
		"GET deletedkeys":                       access.DeletedKeyRead,
		"GET deletedkeys/{name}":                access.DeletedKeyRead,
		"POST deletedkeys/{name}/recover":       access.DeletedKeyRecover,
		"DELETE deletedkeys/{name}":             access.DeletedKeyPurge,
		"POST keys/{name}/backup":               access.KeyBackup,
		"POST keys/restore":                     access.KeyRestore,
		"POST keys/{name}/release":              access.KeyRelease,
		"POST keys/{name}/{version}/release":    access.KeyRelease,
		"POST keys/{name}/sign":                 access.KeySign,
		"POST keys/{name}/{version}/sign":       access.KeySign,
		"POST keys/{name}/verify":               access.KeyVerify,
		"POST keys/{name}/{version}/verify":     access.KeyVerify,
		"POST keys/{name}/encrypt":              access.KeyEncrypt,
		"POST keys/{name}/{version}/encrypt":    access.KeyEncrypt,
		"POST keys/{name}/decrypt":              access.KeyDecrypt,
		"POST keys/{name}/{version}/decrypt":    access.KeyDecrypt,
		"POST keys/{name}/wrapkey":              access.KeyWrap,
		"POST keys/{name}/{version}/wrapkey":    access.KeyWrap,
		"POST keys/{name}/unwrapkey":            access.KeyUnwrap,
		"POST keys/{name}/{version}/unwrapkey":  access.KeyUnwrap,
	}
	for _, prefix := range []string{"", "keys/", "keys/{name}/"} {
		definitions, assignments := prefix+"providers/Microsoft.Authorization/roleDefinitions", prefix+"providers/Microsoft.Authorization/roleAssignments"
		table["GET "+definitions] = access.DefinitionsRead
		table["GET "+definitions+"/{id}"] = access.DefinitionsRead
		table["PUT "+definitions+"/{id}"] = access.DefinitionsWrite
		table["DELETE "+definitions+"/{id}"] = access.DefinitionsDelete
		table["GET "+assignments] = access.AssignmentsRead
		table["GET "+assignments+"/{id}"] = access.AssignmentsRead
		table["PUT "+assignments+"/{id}"] = access.AssignmentsWrite
		table["DELETE "+assignments+"/{id}"] = access.AssignmentsDelete
	}
	return table
}()
