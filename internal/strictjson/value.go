package strictjson

import "strconv"

// Kind is the kind of a JSON value.
type Kind int

// The kinds. The zero Value is of kind None: it is what Get answers for a name that is not there.
const (
	None Kind = iota
	Null
	Bool
	Number
	String
	Array
	Object
)

func (k Kind) String() string {
	return [...]string{"nothing", "null", "a boolean", "a number", "a string", "an array", "an object"}[k]
}

// Value is a parsed JSON value. It is immutable; copies are cheap. Each accessor reports false when the value is
// of another kind, so a missing member and a member of the wrong kind are told apart by [Value.Kind] alone.
type Value struct {
	kind     Kind
	text     string // string: decoded; number, true, false, null: as written
	members  []Member
	elements []Value
}

// Member is one member of an object.
type Member struct {
	Name  string
	Value Value
}

// Kind returns the kind of v.
func (v Value) Kind() Kind { return v.kind }

// Text returns the text of a string.
func (v Value) Text() (string, bool) { return v.text, v.kind == String }

// Bool returns a boolean.
func (v Value) Bool() (value, ok bool) { return v.text == "true", v.kind == Bool }

// Int returns a number that is written as an integer (no fraction, no exponent, not −0) and fits.
func (v Value) Int() (int64, bool) {
	if v.kind != Number || v.text == "-0" {
		return 0, false
	}
	n, err := strconv.ParseInt(v.text, 10, 64)
	return n, err == nil
}

// Elements returns the elements of an array, in order.
func (v Value) Elements() ([]Value, bool) { return v.elements, v.kind == Array }

// Members returns the members of an object, in the order of the text.
func (v Value) Members() ([]Member, bool) { return v.members, v.kind == Object }

// Get returns the member of an object with exactly this name, or a Value of kind None.
func (v Value) Get(name string) Value {
	for _, m := range v.members {
		if m.Name == name {
			return m.Value
		}
	}
	return Value{}
}

// Without returns a copy of an object that lacks the named member.
func (v Value) Without(name string) Value {
	kept := make([]Member, 0, len(v.members))
	for _, m := range v.members {
		if m.Name != name {
			kept = append(kept, m)
		}
	}
	v.members = kept
	return v
}

// With returns a copy of an object in which the named member has another value; a missing one stays missing.
func (v Value) With(name string, value Value) Value {
	changed := make([]Member, 0, len(v.members))
	for _, m := range v.members {
		if m.Name == name {
			m.Value = value
		}
		changed = append(changed, m)
	}
	v.members = changed
	return v
}
