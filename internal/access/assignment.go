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
	maxAssignments    = 10_000               // of one HSM, all keys together; a bound on memory
	loadedAssignments = maxAssignments + 100 // what is read: room for those that no limit keeps an operator from making
)

type assignmentRecord struct {
	V         int    `json:"v"`
	Principal string `json:"principal"`
	Role      string `json:"role"`
	Scope     string `json:"scope"`
}

func assignmentPrefix(hsmID string) string { return "hsm/" + hsmID + "/role-assignment/" }

// PutInitialAdministrators makes each object ID a Managed HSM Administrator at "/", as Azure does: that is enough to
// take ownership and to assign roles, and gives no key. What else they get is said by more, IDs of built-in roles. It
// is part of the transaction that creates the HSM.
func PutInitialAdministrators(w store.Writer, s seal.Seal, hsmID string, objectIDs, more []string, rand io.Reader) error {
	for _, principal := range objectIDs {
		for _, role := range append([]string{RoleAdministrator}, more...) {
			if err := giveWhole(w, s, hsmID, principal, role, rand); err != nil {
				return err
			}
		}
	}
	return nil
}

// giveWhole assigns a role at "/" under a name of its own.
func giveWhole(w store.Writer, s seal.Seal, hsmID, principal, role string, rand io.Reader) error {
	name, err := uuid.NewRandomFromReader(rand)
	if err != nil {
		return failure.Wrap(failure.Internal, err, "no randomness for the name of a role assignment")
	}
	return putAssignment(w, s, hsmID, Assignment{Name: name.String(), PrincipalID: principal, RoleDefinitionID: role, Scope: ScopeRoot})
}

// RecoverAdministrator makes a principal a Managed HSM Administrator at "/", on the word of whoever holds the database
// and its seal: no caller is asked for, and the limit of assignments does not count, as it may be what locked everybody
// out. It reports whether the principal was one already, in which case nothing is written.
func RecoverAdministrator(w store.Writer, s seal.Seal, hsmID, principal string, rand io.Reader) (already bool, err error) {
	all, err := LoadAssignments(w, s, hsmID)
	if err != nil {
		return false, err
	}
	for _, a := range all {
		if administrates(a) && sameID(a.PrincipalID, principal) {
			return true, nil
		}
	}
	if len(all) >= loadedAssignments {
		return false, failure.New(failure.Conflict, "this HSM has %d role assignments, and more cannot be read back; nothing was changed", len(all))
	}
	return false, giveWhole(w, s, hsmID, principal, RoleAdministrator, rand)
}

// ParseObjectID checks that text is the object ID of a principal, a GUID, behind the prefix of its issuer where that has
// one ("corp:GUID"), and returns it in its usual spelling.
func ParseObjectID(text string) (string, error) {
	prefix, bare, prefixed := strings.Cut(text, ":")
	if !prefixed {
		prefix, bare = "", text
	}
	if !IsGUID(bare) || len(prefix) > 32 || !printable(prefix) || strings.Contains(prefix, " ") || prefixed && prefix == "" {
		return "", failure.New(failure.BadParameter, "this is not an object ID: give the principal's GUID, not its name")
	}
	return text[:len(text)-len(bare)] + lowerASCII(bare), nil
}

func putAssignment(w store.Writer, s seal.Seal, hsmID string, a Assignment) error {
	if !IsGUID(a.Name) || a.PrincipalID == "" || len(a.PrincipalID) > maxPrincipal || !IsGUID(a.RoleDefinitionID) || !ValidScope(a.Scope) {
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
		if len(list) == loadedAssignments {
			return nil, failure.New(failure.Tampered, "this HSM has more than %d role assignments in the database", loadedAssignments)
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
