package access

import (
	"encoding/json"
	"io"
	"strings"

	"github.com/google/uuid"

	"strongroom/internal/failure"
	"strongroom/internal/seal"
	"strongroom/internal/store"
	"strongroom/secret"
)

// An assignment at rest is one record:
//
//	hsm/<hsm-id>/role-assignment/<guid>    seal.Wrap of assignmentRecord as JSON, bound to this key
//
// Nothing in it is secret. It is sealed so that somebody who can write to the database, and has no seal, cannot
// make himself an administrator or move an assignment to another HSM unnoticed. Deleting a record, or putting
// back an older one under its own key, is not detected.
const (
	assignmentVersion = 1
	maxAssignments    = 10_000 // far above the published limits; a bound on memory, not a quota
)

type assignmentRecord struct {
	V         int    `json:"v"`
	Principal string `json:"principal"`
	Role      string `json:"role"`
	Scope     string `json:"scope"`
}

func assignmentPrefix(hsmID string) string { return "hsm/" + hsmID + "/role-assignment/" }

// PutInitialAdministrators gives each object ID the roles of a new HSM's owner, at "/": Managed HSM
// Administrator, as Azure does, and as long as this server has no routes to assign roles Managed HSM Crypto User, and
// Managed HSM Crypto Officer, without whom nobody could recover or purge a deleted key. It is part of the transaction
// that creates the HSM.
func PutInitialAdministrators(w store.Writer, s seal.Seal, hsmID string, objectIDs []string, rand io.Reader) error {
	for _, principal := range objectIDs {
		for _, role := range []string{RoleAdministrator, RoleCryptoUser, RoleCryptoOfficer} {
			name, err := uuid.NewRandomFromReader(rand)
			if err != nil {
				return failure.Wrap(failure.Internal, err, "no randomness for the name of a role assignment")
			}
			a := Assignment{Name: name.String(), PrincipalID: principal, RoleDefinitionID: role, Scope: ScopeRoot}
			if err := putAssignment(w, s, hsmID, a); err != nil {
				return err
			}
		}
	}
	return nil
}

func putAssignment(w store.Writer, s seal.Seal, hsmID string, a Assignment) error {
	if !isGUID(a.Name) || a.PrincipalID == "" || len(a.PrincipalID) > maxPrincipal || !isGUID(a.RoleDefinitionID) || !ValidScope(a.Scope) {
		return failure.New(failure.BadParameter, "the role assignment is not complete: it needs a GUID, a principal, a role and a scope of the form /, /keys or /keys/{name}")
	}
	text, err := json.Marshal(assignmentRecord{V: assignmentVersion, Principal: a.PrincipalID, Role: lowerASCII(a.RoleDefinitionID), Scope: a.Scope})
	if err != nil {
		return failure.Wrap(failure.Internal, err, "the role assignment cannot be written")
	}
	key := assignmentPrefix(hsmID) + lowerASCII(a.Name)
	sealed, err := s.Wrap(secret.Take(text), key)
	if err != nil {
		return failure.Wrap(failure.Internal, err, "the role assignment cannot be sealed")
	}
	w.Put(key, sealed)
	return nil
}

// LoadAssignments returns all assignments of an HSM, in the order of their names. One record that does not open
// is failure.Tampered for the whole list: deciding on the rest could hide what was done.
func LoadAssignments(r store.Reader, s seal.Seal, hsmID string) ([]Assignment, error) {
	var list []Assignment
	prefix := assignmentPrefix(hsmID)
	for key, sealed := range r.Scan(prefix, "") {
		name := strings.TrimPrefix(key, prefix)
		damaged := func(err error) error {
			return failure.Wrap(failure.Tampered, err, "role assignment %s of this HSM was changed or moved in the database; restore the database from a copy, or delete the record", name)
		}
		if len(list) == maxAssignments {
			return nil, failure.New(failure.Tampered, "this HSM has more than %d role assignments in the database", maxAssignments)
		}
		text, err := s.Unwrap(sealed, key)
		if err != nil {
			return nil, damaged(err)
		}
		var rec assignmentRecord
		if err := json.Unmarshal(text.Reveal(), &rec); err != nil {
			return nil, damaged(err)
		}
		if rec.V != assignmentVersion {
			return nil, failure.New(failure.Unsupported, "role assignment %s has format version %d and this program knows %d; run the program that wrote it, or a newer one", name, rec.V, assignmentVersion)
		}
		list = append(list, Assignment{Name: name, PrincipalID: rec.Principal, RoleDefinitionID: rec.Role, Scope: rec.Scope})
	}
	return list, nil
}
