package access

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"strongroom/internal/failure"
	"strongroom/internal/seal"
	"strongroom/internal/store"
	"strongroom/secret"
)

// A custom role at rest is one record:
//
//	hsm/<hsm-id>/role-definition/<guid>    seal.Wrap of definitionRecord as JSON, bound to this key
//
// It is sealed as an assignment is, and for the same reason.
const (
	definitionVersion = 1

	// MaxDefinitions is how many custom roles an HSM has at most (protocol: limits).
	MaxDefinitions = 50

	maxRoleName    = 128 // characters
	maxDescription = 1024
	maxActions     = 64 // of one role; there are fewer
)

// ActionPrefix stands before every data action on the wire.
const ActionPrefix = "Microsoft.KeyVault/managedHsm"

type definitionRecord struct {
	V              int      `json:"v"`
	Name           string   `json:"name"`
	Description    string   `json:"description,omitempty"`
	DataActions    []Action `json:"data_actions"`
	NotDataActions []Action `json:"not_data_actions,omitempty"`
	Scopes         []string `json:"assignable_scopes,omitempty"`
}

func definitionPrefix(hsmID string) string { return "hsm/" + hsmID + "/role-definition/" }

// knownActions are all that a role can name: those of the built-in roles.
var knownActions = func() map[Action]bool {
	known := map[Action]bool{}
	for _, r := range BuiltInRoles() {
		for _, a := range r.DataActions {
			known[a] = true
		}
	}
	return known
}()

// Actions are all data actions that there are, sorted.
func Actions() []Action {
	var list []Action
	for a := range knownActions {
		list = append(list, a)
	}
	slices.Sort(list)
	return list
}

// ParseAction reads a data action as it is on the wire, "Microsoft.KeyVault/managedHsm/keys/sign/action". The prefix
// may be in any case, as clients spell it; what follows is exact.
func ParseAction(text string) (Action, error) {
	if len(text) > len(ActionPrefix) && lowerASCII(text[:len(ActionPrefix)]) == lowerASCII(ActionPrefix) {
		if a := Action(text[len(ActionPrefix):]); knownActions[a] {
			return a, nil
		}
	}
	return "", failure.New(failure.BadParameter, "a data action of the role is not one of a Managed HSM; write it as for example %s/keys/sign/action, as the list of role definitions shows them. There are no wildcards", ActionPrefix)
}

// check holds a custom role against the rules. One without a name or without data actions is allowed: stock clients make
// such a role by changing another, and it gives nothing.
func (r Role) check() error {
	switch {
	case utf8.RuneCountInString(r.Name) > maxRoleName || !printable(r.Name) || r.Name != strings.Join(strings.Fields(r.Name), " "):
		return failure.New(failure.BadParameter, "roleName is longer than %d characters, not printable, or has spaces at an end or two in a row", maxRoleName)
	case utf8.RuneCountInString(r.Description) > maxDescription || !printable(r.Description):
		return failure.New(failure.BadParameter, "the description is longer than %d characters, or not printable", maxDescription)
	case len(r.DataActions)+len(r.NotDataActions) > maxActions:
		return failure.New(failure.BadParameter, "the role names more than %d data actions", maxActions)
	case len(r.Scopes) > 2:
		return failure.New(failure.BadParameter, "assignableScopes can only be / and /keys")
	}
	for _, s := range r.Scopes {
		if s != ScopeRoot && s != ScopeKeys {
			return failure.New(failure.BadParameter, "assignableScopes can only be / and /keys")
		}
	}
	for _, a := range slices.Concat(r.DataActions, r.NotDataActions) {
		if !knownActions[a] {
			return failure.New(failure.BadParameter, "a data action of the role is not known")
		}
	}
	for _, builtIn := range BuiltInRoles() {
		if strings.EqualFold(builtIn.Name, r.Name) {
			return failure.New(failure.BadParameter, "%s is the name of a built-in role; choose another", builtIn.Name)
		}
	}
	return nil
}

// printable reports whether text is valid and each character of it can be seen, or is the plain space: none that
// controls a terminal, turns the direction of writing, or has no width. With those, two names could look like one.
func printable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}

// putDefinition writes a custom role that passed check. Its ID is a GUID in lower case.
func putDefinition(w store.Writer, s seal.Seal, hsmID string, r Role) error {
	text, err := json.Marshal(definitionRecord{V: definitionVersion, Name: r.Name, Description: r.Description, DataActions: r.DataActions, NotDataActions: r.NotDataActions, Scopes: r.Scopes})
	if err != nil {
		return failure.Wrap(failure.Internal, err, "the role definition cannot be written")
	}
	key := definitionPrefix(hsmID) + r.ID
	sealed, err := s.Wrap(secret.Take(text), key)
	if err != nil {
		return failure.Wrap(failure.Internal, err, "the role definition cannot be sealed")
	}
	w.Put(key, sealed)
	return nil
}

// LoadDefinitions returns the custom roles of an HSM, in the order of their IDs. One record that does not open is
// failure.Tampered for the whole list, as with assignments.
func LoadDefinitions(r store.Reader, s seal.Seal, hsmID string) ([]Role, error) {
	var list []Role
	prefix := definitionPrefix(hsmID)
	for key, sealed := range r.Scan(prefix, "") {
		id := strings.TrimPrefix(key, prefix)
		damaged := func(err error) error {
			return failure.Wrap(failure.Tampered, err, "role definition %s of this HSM was changed or moved in the database; restore the database from a copy, or delete the record", id)
		}
		if len(list) == MaxDefinitions {
			return nil, damaged(fmt.Errorf("there are more than %d", MaxDefinitions))
		}
		text, err := s.Unwrap(sealed, key)
		if err != nil {
			return nil, damaged(err)
		}
		var rec definitionRecord
		if err := json.Unmarshal(text.Reveal(), &rec); err != nil {
			return nil, damaged(err)
		}
		if rec.V != definitionVersion {
			return nil, failure.New(failure.Unsupported, "role definition %s has format version %d and this program knows %d; run the program that wrote it, or a newer one", id, rec.V, definitionVersion)
		}
		list = append(list, Role{ID: id, Name: rec.Name, Description: rec.Description, Custom: true, DataActions: rec.DataActions, NotDataActions: rec.NotDataActions, Scopes: rec.Scopes})
	}
	return list, nil
}
