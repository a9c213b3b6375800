package access

import (
	"context"
	"slices"
	"strings"

	"strongroom/internal/failure"
	"strongroom/internal/seal"
	"strongroom/internal/store"
)

// The data actions of role management.
const (
	DefinitionsRead   Action = "/roleDefinitions/read/action"
	DefinitionsWrite  Action = "/roleDefinitions/write/action"
	DefinitionsDelete Action = "/roleDefinitions/delete/action"
	AssignmentsRead   Action = "/roleAssignments/read/action"
	AssignmentsWrite  Action = "/roleAssignments/write/action"
	AssignmentsDelete Action = "/roleAssignments/delete/action"
)

// Limits of one HSM (protocol: limits).
const (
	MaxAssignments    = 50 // at / and /keys together
	MaxKeyAssignments = 10 // at each key
)

// Roles is the management of the roles of one HSM. Every method takes the caller and asks before it does anything;
// what it changes counts from the next call on. Safe for concurrent use.
type Roles struct {
	a   *Authorizer
	hsm string // ID
	// ready refuses while the HSM is not activated; alive, inside every transaction that writes, once it is deleted.
	ready func(ctx context.Context) error
	alive func(r store.Reader) error
}

// Roles returns the management of an HSM's roles. Both functions must be set.
func (a *Authorizer) Roles(hsmID string, ready func(ctx context.Context) error, alive func(r store.Reader) error) *Roles {
	return &Roles{a: a, hsm: hsmID, ready: ready, alive: alive}
}

// enter is how every method begins.
func (m *Roles) enter(ctx context.Context, caller Caller, action Action, scope string) error {
	if !ValidScope(scope) {
		return failure.New(failure.BadParameter, "the scope is not /, /keys or /keys/{name}")
	}
	if err := m.a.Check(ctx, m.hsm, caller, action, scope); err != nil {
		return err
	}
	return m.ready(ctx)
}

// wholeHSM refuses a scope at which there are no role definitions.
func wholeHSM(scope string) error {
	if scope != ScopeRoot && scope != ScopeKeys {
		return failure.New(failure.BadParameter, "role definitions are of the whole HSM: write them at the scope /")
	}
	return nil
}

// Definitions returns the built-in roles and then the custom ones, which are the same at every scope.
func (m *Roles) Definitions(ctx context.Context, caller Caller, scope string) ([]Role, error) {
	if err := m.enter(ctx, caller, DefinitionsRead, scope); err != nil {
		return nil, err
	}
	var custom []Role
	err := m.a.store.View(ctx, func(r store.Reader) (err error) {
		custom, err = LoadDefinitions(r, m.a.seal, m.hsm)
		return err
	})
	if err != nil {
		return nil, store.Failure(err)
	}
	return append(BuiltInRoles(), custom...), nil
}

// Definition returns a role by its ID.
func (m *Roles) Definition(ctx context.Context, caller Caller, scope, id string) (Role, error) {
	list, err := m.Definitions(ctx, caller, scope)
	if err != nil {
		return Role{}, err
	}
	if i := slices.IndexFunc(list, func(r Role) bool { return sameID(r.ID, id) }); i >= 0 {
		return list[i], nil
	}
	return Role{}, noDefinition()
}

// PutDefinition makes a custom role of r.ID, or replaces it. Its assignments give from then on what it now says. So
// where there are any, also left from a deleted role, this is more than to write a definition: the caller must be
// allowed to assign roles too. Otherwise who holds a custom role with the right to write definitions could put
// whatever they like into it.
func (m *Roles) PutDefinition(ctx context.Context, caller Caller, scope string, r Role) (Role, error) {
	if err := m.enter(ctx, caller, DefinitionsWrite, scope); err != nil {
		return Role{}, err
	}
	if err := wholeHSM(scope); err != nil {
		return Role{}, err
	}
	if !IsGUID(r.ID) {
		return Role{}, failure.New(failure.BadParameter, "the name of a role definition is a GUID")
	}
	r.ID, r.Custom = lowerASCII(r.ID), true
	if builtIn(r.ID) {
		return Role{}, failure.New(failure.BadParameter, "this is a built-in role, and those cannot be changed; make a custom role with an ID of its own")
	}
	if err := r.check(); err != nil {
		return Role{}, err
	}
	err := m.a.store.Update(ctx, func(w store.Writer) error {
		if err := m.alive(w); err != nil {
			return err
		}
		list, err := LoadDefinitions(w, m.a.seal, m.hsm)
		if err != nil {
			return err
		}
		all, err := LoadAssignments(w, m.a.seal, m.hsm)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(all, func(a Assignment) bool { return sameID(a.RoleDefinitionID, r.ID) }) &&
			!Decide(append(BuiltInRoles(), list...), all, caller, AssignmentsWrite, ScopeRoot).Allowed {
			return failure.New(failure.Forbidden, "there are assignments of this role, so who changes it gives and takes rights: caller %s may write role definitions and may not do %s%s at scope /; %s",
				orNobody(caller.ObjectID), ActionPrefix, AssignmentsWrite, m.a.advice(AssignmentsWrite))
		}
		for _, other := range list {
			if other.ID != r.ID && r.Name != "" && strings.EqualFold(other.Name, r.Name) {
				return failure.Coded(failure.Conflict, "RoleDefinitionWithSameNameExists", "role definition %s has that roleName already; choose another name, or change that one", other.ID)
			}
		}
		if !slices.ContainsFunc(list, func(other Role) bool { return other.ID == r.ID }) && len(list) >= MaxDefinitions {
			return failure.Coded(failure.Conflict, "RoleDefinitionLimitExceeded", "this HSM has %d custom roles, its limit; delete one first", len(list))
		}
		return putDefinition(w, m.a.seal, m.hsm, r)
	})
	return r, store.Failure(err)
}

// DeleteDefinition deletes a custom role and returns what it was. Its assignments stay, without effect.
func (m *Roles) DeleteDefinition(ctx context.Context, caller Caller, scope, id string) (gone Role, err error) {
	if err := m.enter(ctx, caller, DefinitionsDelete, scope); err != nil {
		return Role{}, err
	}
	if err := wholeHSM(scope); err != nil {
		return Role{}, err
	}
	if builtIn(id) {
		return Role{}, failure.New(failure.BadParameter, "this is a built-in role, and those cannot be deleted")
	}
	err = m.a.store.Update(ctx, func(w store.Writer) error {
		if err := m.alive(w); err != nil {
			return err
		}
		list, err := LoadDefinitions(w, m.a.seal, m.hsm)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(list, func(r Role) bool { return sameID(r.ID, id) })
		if i < 0 {
			return noDefinition()
		}
		gone = list[i]
		w.Delete(definitionPrefix(m.hsm) + gone.ID)
		return nil
	})
	return gone, store.Failure(err)
}

// PutRoles writes custom roles and assignments of a backup into a place that has none. It is part of a restore, and asks
// nobody; whatever is not well-formed is refused.
func PutRoles(w store.Writer, s seal.Seal, hsmID string, definitions []Role, assignments []Assignment) error {
	if len(definitions) > MaxDefinitions || len(assignments) > loadedAssignments {
		return failure.New(failure.BadParameter, "there are more roles or role assignments than an HSM can have")
	}
	for _, r := range definitions {
		r.Custom = true
		if err := r.check(); err != nil {
			return err
		}
		if !IsGUID(r.ID) || builtIn(r.ID) {
			return failure.New(failure.BadParameter, "role definition %q is not a custom one", r.Name)
		}
		if err := putDefinition(w, s, hsmID, r); err != nil {
			return err
		}
	}
	for _, a := range assignments {
		if err := putAssignment(w, s, hsmID, a); err != nil {
			return err
		}
	}
	return nil
}

// Administrators reports how many of the assignments make an administrator of the whole HSM, and whether the principal is
// among them.
func Administrators(assignments []Assignment, principal string) (n int, among bool) {
	for _, a := range assignments {
		if administrates(a) {
			n++
			among = among || sameID(a.PrincipalID, principal)
		}
	}
	return n, among
}

func builtIn(id string) bool {
	return slices.ContainsFunc(BuiltInRoles(), func(r Role) bool { return sameID(r.ID, id) })
}

func noDefinition() error {
	return failure.Coded(failure.NotFound, "RoleDefinitionNotFound", "there is no role definition of that ID; list the role definitions to see those there are")
}

// AssignmentFilter says which assignments a list has. The zero value is those made at exactly the scope that is
// listed, where / and /keys are one.
type AssignmentFilter struct {
	AtScope   bool   // at the scope and above
	Principal string // of this principal, wherever they are at, above or below the scope
}

// Assignments lists the assignments of a scope.
func (m *Roles) Assignments(ctx context.Context, caller Caller, scope string, filter AssignmentFilter) ([]Assignment, error) {
	if err := m.enter(ctx, caller, AssignmentsRead, scope); err != nil {
		return nil, err
	}
	var list []Assignment
	err := m.a.store.View(ctx, func(r store.Reader) error {
		all, err := LoadAssignments(r, m.a.seal, m.hsm)
		for _, a := range all {
			var in bool
			switch {
			case filter.Principal != "":
				in = sameID(filter.Principal, a.PrincipalID) && (covers(a.Scope, scope) || covers(scope, a.Scope))
			case filter.AtScope:
				in = covers(a.Scope, scope)
			default:
				in = sameScope(a.Scope, scope)
			}
			if in {
				list = append(list, a)
			}
		}
		return err
	})
	return list, store.Failure(err)
}

// Assignment returns an assignment of a scope by its name.
func (m *Roles) Assignment(ctx context.Context, caller Caller, scope, name string) (found Assignment, err error) {
	if err := m.enter(ctx, caller, AssignmentsRead, scope); err != nil {
		return Assignment{}, err
	}
	err = m.a.store.View(ctx, func(r store.Reader) error {
		all, err := LoadAssignments(r, m.a.seal, m.hsm)
		if err != nil {
			return err
		}
		found, err = findAssignment(all, scope, name)
		return err
	})
	return found, store.Failure(err)
}

func findAssignment(all []Assignment, scope, name string) (Assignment, error) {
	i := slices.IndexFunc(all, func(a Assignment) bool { return sameID(a.Name, name) && sameScope(a.Scope, scope) })
	if i < 0 {
		return Assignment{}, failure.Coded(failure.NotFound, "RoleAssignmentNotFound", "there is no role assignment of that name at this scope; list the role assignments to see those there are")
	}
	return all[i], nil
}

// PutAssignment gives a principal a role at a scope, under a name that the caller chose. The same again is no error.
// Another assignment under the name, or this one under another name, is a failure.Conflict.
//
// Whoever may assign roles may assign any role, Managed HSM Administrator included, as Azure has it.
func (m *Roles) PutAssignment(ctx context.Context, caller Caller, a Assignment) (Assignment, error) {
	if err := m.enter(ctx, caller, AssignmentsWrite, a.Scope); err != nil {
		return Assignment{}, err
	}
	switch {
	case !IsGUID(a.Name):
		return Assignment{}, failure.New(failure.BadParameter, "the name of a role assignment is a GUID")
	case a.PrincipalID == "" || len(a.PrincipalID) > maxPrincipal || !printable(a.PrincipalID) || strings.TrimSpace(a.PrincipalID) != a.PrincipalID:
		return Assignment{}, failure.New(failure.BadParameter, "principalId is empty, longer than %d bytes, not printable, or has a space at an end; give the object ID of a user, a group or an application", maxPrincipal)
	}
	a.Name, a.RoleDefinitionID = lowerASCII(a.Name), lowerASCII(a.RoleDefinitionID)
	err := m.a.store.Update(ctx, func(w store.Writer) error {
		if err := m.alive(w); err != nil {
			return err
		}
		custom, err := LoadDefinitions(w, m.a.seal, m.hsm)
		if err != nil {
			return err
		}
		if !builtIn(a.RoleDefinitionID) && !slices.ContainsFunc(custom, func(r Role) bool { return sameID(r.ID, a.RoleDefinitionID) }) {
			// The service's own spelling: a stock client waits and tries again when it sees these words.
			return failure.New(failure.BadParameter, "Unkown role definition: roleDefinitionId names no role of this HSM; list the role definitions to see those there are")
		}
		all, err := LoadAssignments(w, m.a.seal, m.hsm)
		if err != nil {
			return err
		}
		beside := 0
		for _, other := range all {
			alike := sameID(other.PrincipalID, a.PrincipalID) && sameID(other.RoleDefinitionID, a.RoleDefinitionID) && sameScope(other.Scope, a.Scope)
			switch named := sameID(other.Name, a.Name); {
			case named && alike:
				a = other
				return nil
			case named:
				return failure.Coded(failure.Conflict, "RoleAssignmentUpdateNotPermitted", "a role assignment of that name exists and gives something else, and assignments are not changed; delete it, or make another under a new GUID")
			case alike:
				return failure.Coded(failure.Conflict, "RoleAssignmentExists", "the principal has that role at this scope already, by role assignment %s", other.Name)
			}
			if sameScope(other.Scope, a.Scope) {
				beside++
			}
		}
		if len(all) >= maxAssignments {
			return failure.Coded(failure.Conflict, "RoleAssignmentLimitExceeded", "there are %d role assignments in this HSM, all keys together, the limit; delete one first, or assign the role to a group", len(all))
		}
		limit := MaxAssignments
		if a.Scope != ScopeRoot && a.Scope != ScopeKeys {
			limit = MaxKeyAssignments
		}
		if beside >= limit {
			return failure.Coded(failure.Conflict, "RoleAssignmentLimitExceeded", "there are %d role assignments at this scope, the limit; delete one first, or assign the role to a group", beside)
		}
		return putAssignment(w, m.a.seal, m.hsm, a)
	})
	return a, store.Failure(err)
}

// DeleteAssignment takes a role away and returns what was assigned. The last assignment of Managed HSM Administrator to
// the whole HSM is a failure.Conflict: without it, nobody could download the security domain.
func (m *Roles) DeleteAssignment(ctx context.Context, caller Caller, scope, name string) (gone Assignment, err error) {
	if err := m.enter(ctx, caller, AssignmentsDelete, scope); err != nil {
		return Assignment{}, err
	}
	err = m.a.store.Update(ctx, func(w store.Writer) error {
		if err := m.alive(w); err != nil {
			return err
		}
		all, err := LoadAssignments(w, m.a.seal, m.hsm)
		if err != nil {
			return err
		}
		if gone, err = findAssignment(all, scope, name); err != nil {
			return err
		}
		if administrates(gone) && !slices.ContainsFunc(all, func(other Assignment) bool { return administrates(other) && other.Name != gone.Name }) {
			return failure.Coded(failure.Conflict, "LastAdministrator", "this is the last assignment of Managed HSM Administrator, and without one nobody could download the security domain or start a backup; assign the role to somebody else first")
		}
		w.Delete(assignmentPrefix(m.hsm) + lowerASCII(gone.Name))
		return nil
	})
	return gone, store.Failure(err)
}

// administrates reports whether an assignment makes an administrator of the whole HSM.
func administrates(a Assignment) bool {
	return sameID(a.RoleDefinitionID, RoleAdministrator) && (a.Scope == ScopeRoot || a.Scope == ScopeKeys)
}

// sameScope compares scopes; / and /keys both mean the whole HSM.
func sameScope(a, b string) bool {
	if a == ScopeKeys {
		a = ScopeRoot
	}
	if b == ScopeKeys {
		b = ScopeRoot
	}
	return lowerASCII(a) == lowerASCII(b)
}
