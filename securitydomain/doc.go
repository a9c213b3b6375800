// Package securitydomain reads and writes the files that carry a security domain: the SD file, which any quorum
// of custodians opens, and the transfer file, which one HSM in recovery opens. Both are Azure Key Vault Managed
// HSM's formats, so the stock client and this package open each other's files; docs/formats.md draws them.
//
// Three layers keep the domain items. An item is encrypted under a key derived from the file's master key; the
// master key is shared among the custodians (package shamir); each share is encrypted to one custodian's RSA key:
//
//	item ─ JWE dir, A256CBC-HS512 ─► SP 800-108 KDF(master key, tag) ◄─ master key ◄─ M of N shares
//	share ─ JWE RSA-OAEP-256, A256CBC-HS512 ─► custodian's RSA key
//
// A file that Strongroom wrote has one more top-level object, "strongroom", with the domain ID, a check value for
// each share and a signature by the domain's signing key. Other readers skip it, and files without it open too.
//
// What decides whether an opened file is right is never that object but the authentication tags of the items under
// the combined key: a wrong combination of shares opens nothing. What the tags cannot tell is who made the file. All
// that is needed to make one is the custodians' certificates, which are public; so compare the domain ID of what
// was opened with the one you expect.
//
// The package is pure: it opens no file and no connection, reads no clock and keeps no state, and it imports
// nothing of Strongroom but shamir, secret and a JSON reader. Randomness (master keys, polynomials, salts, signature
// nonces) comes from the caller, with one exception: go-jose draws initialisation vectors, content keys and OAEP
// seeds from crypto/rand, and offers no other way. Functions are safe for concurrent use.
//
// Secrets are [secret.Bytes]. Master keys, shares and derived keys are wiped when they are no longer needed;
// copies inside go-jose and crypto/rsa are out of reach.
package securitydomain
