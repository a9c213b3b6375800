package access

import "strings"

// index is the assignments of one HSM, arranged so that a decision takes the same time however many there are. It
// decides as [Decide] does, which stays the definition; a test holds the two against each other. An index is never
// changed once it is made.
type index struct {
	roles       []Role
	assignments []Assignment
	principals  map[string]*grants // by canonicalID
}

// grants are what one principal was given.
type grants struct {
	whole []grant            // at "/" and "/keys"
	byKey map[string][]grant // by scope, in lower case
}

// grant is an assignment and one role that it gives.
type grant struct {
	assignment, role int // positions
	actions          map[Action]struct{}
}

func newIndex(roles []Role, assignments []Assignment) *index {
	x := &index{roles: roles, assignments: assignments, principals: map[string]*grants{}}
	byID := map[string][]grant{} // what an assignment of a role's ID gives; more than one if two roles have that ID
	for i, r := range roles {
		g := grant{role: i, actions: map[Action]struct{}{}}
		for _, a := range r.DataActions {
			if r.grants(a) {
				g.actions[a] = struct{}{}
			}
		}
		id := canonicalID(r.ID)
		byID[id] = append(byID[id], g)
	}
	for i, a := range assignments {
		given := byID[canonicalID(a.RoleDefinitionID)]
		if a.PrincipalID == "" || !ValidScope(a.Scope) || len(given) == 0 {
			continue
		}
		principal := canonicalID(a.PrincipalID)
		p := x.principals[principal]
		if p == nil {
			p = &grants{byKey: map[string][]grant{}}
			x.principals[principal] = p
		}
		for _, g := range given {
			g.assignment = i
			if a.Scope == ScopeRoot || a.Scope == ScopeKeys {
				p.whole = add(p.whole, g)
			} else {
				scope := lowerASCII(a.Scope)
				p.byKey[scope] = add(p.byKey[scope], g)
			}
		}
	}
	return x
}

// add leaves out a role that an earlier assignment gives at the same scope: the lists stay as short as the list of
// roles.
func add(list []grant, g grant) []grant {
	for _, other := range list {
		if other.role == g.role {
			return list
		}
	}
	return append(list, g)
}

// decide returns the first assignment that allows what is asked, and the role that it gives.
func (x *index) decide(caller Caller, action Action, scope string) (g grant, allowed bool) {
	if caller.ObjectID == "" || action == "" || !ValidScope(scope) {
		return grant{}, false
	}
	scope = lowerASCII(scope)
	look := func(list []grant) {
		for _, other := range list {
			if allowed && g.assignment <= other.assignment {
				continue
			}
			if _, has := other.actions[action]; has {
				g, allowed = other, true
			}
		}
	}
	ask := func(id string) {
		if p := x.principals[canonicalID(id)]; p != nil {
			look(p.whole)
			look(p.byKey[scope])
		}
	}
	ask(caller.ObjectID)
	for _, group := range caller.Groups {
		ask(group)
	}
	return g, allowed
}

// canonicalID gives all identifiers that [sameID] takes for one the same spelling, and no others.
func canonicalID(id string) string {
	guid := id
	if _, rest, prefixed := strings.Cut(id, ":"); prefixed {
		guid = rest
	}
	if !IsGUID(guid) {
		return id
	}
	return id[:len(id)-len(guid)] + lowerASCII(guid)
}
