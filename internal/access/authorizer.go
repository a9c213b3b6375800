package access

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"strongroom/internal/failure"
	"strongroom/internal/seal"
	"strongroom/internal/store"
)

// Authorizer decides for the HSMs of one server. It keeps the assignments of each HSM, indexed, and forgets them
// when the store's change feed says that one changed, here or on another server, so a revoked role stops with
// the commit that revokes it. Safe for concurrent use.
type Authorizer struct {
	store   store.Store
	seal    seal.Seal
	roles   []Role
	unwatch func()

	mu     sync.Mutex
	cached map[string]*index // by HSM ID
	// changes counts the changes seen. A list that was read while it moved is used once and not kept: it may be
	// from before the change.
	changes uint64
}

// NewAuthorizer returns an Authorizer with the built-in roles. Close stops it from following the store.
func NewAuthorizer(st store.Store, s seal.Seal) *Authorizer {
	a := &Authorizer{store: st, seal: s, roles: BuiltInRoles(), cached: map[string]*index{}}
	a.unwatch = st.Watch(a.changed)
	return a
}

// Close ends the subscription to the store.
func (a *Authorizer) Close() { a.unwatch() }

// Check returns nil if the caller may do action at scope on the HSM, else failure.Forbidden with a message that
// names the action, the scope and the roles that have it.
func (a *Authorizer) Check(ctx context.Context, hsmID string, caller Caller, action Action, scope string) error {
	x, err := a.index(ctx, hsmID)
	if err != nil {
		return err
	}
	if _, allowed := x.decide(caller, action, scope); allowed {
		return nil
	}
	return failure.New(failure.Forbidden, "caller %s may not do Microsoft.KeyVault/managedHsm%s at scope %s; %s",
		orNobody(caller.ObjectID), action, orUnknown(scope), a.advice(action))
}

// advice says which roles would allow an action.
func (a *Authorizer) advice(action Action) string {
	var names []string
	for _, r := range a.roles {
		if r.grants(action) {
			names = append(names, r.Name)
		}
	}
	if len(names) == 0 {
		return "no role of this HSM allows it"
	}
	return fmt.Sprintf("it needs the role %s, which an administrator of the HSM can assign", strings.Join(names, " or "))
}

func (a *Authorizer) index(ctx context.Context, hsmID string) (*index, error) {
	a.mu.Lock()
	x, before := a.cached[hsmID], a.changes
	a.mu.Unlock()
	if x != nil {
		return x, nil
	}
	var (
		custom []Role
		list   []Assignment
	)
	err := a.store.View(ctx, func(r store.Reader) (err error) {
		if custom, err = LoadDefinitions(r, a.seal, hsmID); err == nil {
			list, err = LoadAssignments(r, a.seal, hsmID)
		}
		return err
	})
	if err != nil {
		if _, known := errors.AsType[*failure.Error](err); known {
			return nil, err
		}
		return nil, failure.Wrap(failure.Unavailable, err, "the roles of this HSM cannot be read now; try again")
	}
	x = newIndex(append(slices.Clip(a.roles), custom...), list)
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.changes == before {
		a.cached[hsmID] = x
	}
	return x, nil
}

// changed runs inside the store's commit: it only forgets.
func (a *Authorizer) changed(keys []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, key := range keys {
		rest, ok := strings.CutPrefix(key, "hsm/")
		id, rest, _ := strings.Cut(rest, "/")
		if ok && (strings.HasPrefix(rest, "role-assignment/") || strings.HasPrefix(rest, "role-definition/")) {
			delete(a.cached, id)
			a.changes++
		}
	}
}

func orNobody(id string) string {
	if id == "" {
		return "(nobody)"
	}
	return id
}

// orUnknown keeps a scope that is not well-formed out of the answer.
func orUnknown(scope string) string {
	if !ValidScope(scope) {
		return "(unknown)"
	}
	return scope
}
