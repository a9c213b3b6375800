package identity

import (
	"strings"
)

// form is one way in which clients expect an issuer to look. Each has its own issuer name, so that what a
// discovery document says, what the tokens say, and where the document was found always agree (OpenID Connect
// Discovery section 4.3).
type form struct {
	prefix string // of the routes: "", "/adfs" or "/{tenant}"
	suffix string // of the issuer name, after the prefix
	token  string // token endpoint, after the prefix
	ver    string // claim ver
}

var (
	plain = form{prefix: "", token: "/oauth2/token", ver: "2.0"}                                // any OpenID Connect client
	adfs  = form{prefix: "/adfs", token: "/oauth2/token", ver: "1.0"}                           // az: only this authority keeps MSAL off the network
	v1    = form{prefix: "/{tenant}", token: "/oauth2/token", ver: "1.0"}                       // older Azure libraries
	v2    = form{prefix: "/{tenant}", suffix: "/v2.0", token: "/oauth2/v2.0/token", ver: "2.0"} // MSAL, azidentity
	forms = []form{plain, adfs, v1, v2}
)

func (f form) at(base, tenant, path string) string {
	return base + strings.Replace(f.prefix, "{tenant}", tenant, 1) + path
}

func (f form) issuer(base, tenant string) string { return f.at(base, tenant, f.suffix) }

// kind is what a route does.
type kind int

const (
	discovery    kind = iota + 1 // GET: the discovery document of a form
	token                        // POST: tokens, for client credentials, a password or a refresh token
	authorize                    // any: interactive sign-in, which is refused with a reason
	keySet                       // GET: the public keys
	instanceInfo                 // GET: which authority answers for a host, for MSAL with instance discovery on
	userRealm                    // GET: that users sign in here and not at a federated server, whoever they are; for MSAL

	attestDiscovery // GET: the discovery document of the attestation authority
	attestKeys      // GET: its public keys
	attest          // POST: an attestation token
)

type route struct {
	pattern string
	kind    kind
	form    form
}

// realmPath is where MSAL asks about a user before it sends the password, if the authority has a tenant. A user's name
// follows.
const realmPath = "/common/UserRealm/"

// routes is every path of the issuer. {tenant} stands for a GUID or one of Entra ID's tenant aliases, {user} for the name of
// a user, whether there is one or not.
var routes = func() []route {
	list := []route{
		{"/discovery/keys", keySet, plain},
		{"/common/discovery/instance", instanceInfo, v2},
		{realmPath + "{user}", userRealm, plain},
		{attestPath + "/.well-known/openid-configuration", attestDiscovery, plain},
		{attestPath + "/certs", attestKeys, plain},
		{attestPath + "/token", attest, plain},
	}
	for _, f := range forms {
		list = append(list,
			route{f.prefix + f.suffix + "/.well-known/openid-configuration", discovery, f},
			route{f.prefix + f.token, token, f},
			route{f.prefix + strings.TrimSuffix(f.token, "token") + "authorize", authorize, f})
	}
	return list
}()

// find returns the route of a raw path, compared exactly but for the case of the tenant.
func find(path string) (r route, tenant string, ok bool) {
	if len(path) > 512 {
		return route{}, "", false
	}
	for _, r := range routes {
		if r.kind == userRealm {
			name, found := strings.CutPrefix(path, realmPath)
			if _, is := normalName(name); found && is {
				return r, "", true
			}
			continue
		}
		rest, hasTenant := strings.CutPrefix(r.pattern, "/{tenant}")
		if !hasTenant {
			if path == r.pattern {
				return r, "", true
			}
			continue
		}
		head, found := strings.CutSuffix(path, rest)
		name, slash := strings.CutPrefix(head, "/")
		if found && slash && isTenant(name) {
			return r, strings.ToLower(name), true
		}
	}
	return route{}, "", false
}

// isTenant reports whether a path segment can only mean a tenant.
func isTenant(s string) bool {
	switch s {
	case "common", "organizations", "consumers":
		return true
	}
	_, ok := normalID(s)
	return ok
}

// Owns reports whether a raw URL path belongs to the issuer, whatever the method.
func (i *Issuer) Owns(path string) bool {
	r, _, ok := find(path)
	return ok && i.has(r)
}

// has reports whether a route is there: those of the attestation authority are not, where there is none.
func (i *Issuer) has(r route) bool { return r.kind < attestDiscovery || i.attest != nil }
