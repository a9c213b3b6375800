// Package access decides who may do what on one HSM: it verifies bearer tokens and evaluates local RBAC. It
// knows callers, data actions and scopes. It serves no HTTP; it only reads the public keys of external issuers
// over it.
package access

// Caller is who makes a call, as a verified token says. The zero value is nobody and may do nothing.
type Caller struct {
	ObjectID string   // the principal: the issuer's prefix, and claim oid, else sub
	AppID    string   // claim appid or azp
	Tenant   string   // claim tid
	Issuer   string   // claim iss
	Name     string   // for people: claim name or app display name; never used in a decision
	Groups   []string // object IDs of groups, with the issuer's prefix; shared by calls with one token and never changed
}

// Action is a data action, without the prefix "Microsoft.KeyVault/managedHsm": "/keys/sign/action".
type Action string

// The data actions of Managed HSM that this server decides on (protocol: rbac, section 2).
const (
	SecurityDomainDownload     Action = "/securitydomain/download/action"
	SecurityDomainDownloadRead Action = "/securitydomain/download/read"
	SecurityDomainUpload       Action = "/securitydomain/upload/action"
	SecurityDomainUploadRead   Action = "/securitydomain/upload/read"
	TransferKeyRead            Action = "/securitydomain/transferkey/read"
	KeyRead                    Action = "/keys/read/action"
	KeyCreate                  Action = "/keys/create"
	KeyImport                  Action = "/keys/import/action"
	KeyRelease                 Action = "/keys/release/action"
	KeyWrite                   Action = "/keys/write/action"
	KeyRotate                  Action = "/keys/rotate/action"
	KeyDelete                  Action = "/keys/delete"
	DeletedKeyRead             Action = "/keys/deletedKeys/read/action"
	DeletedKeyRecover          Action = "/keys/deletedKeys/recover/action"
	DeletedKeyPurge            Action = "/keys/deletedKeys/delete"
	KeySign                    Action = "/keys/sign/action"
	KeyVerify                  Action = "/keys/verify/action"
	KeyEncrypt                 Action = "/keys/encrypt/action"
	KeyDecrypt                 Action = "/keys/decrypt/action"
	KeyWrap                    Action = "/keys/wrap/action"
	KeyUnwrap                  Action = "/keys/unwrap/action"
	KeyBackup                  Action = "/keys/backup/action"
	KeyRestore                 Action = "/keys/restore/action"
	BackupStart                Action = "/backup/start/action"
	BackupStatus               Action = "/backup/status/action"
	RestoreStart               Action = "/restore/start/action"
	RestoreStatus              Action = "/restore/status/action"
	RandomBytes                Action = "/rng/action"
)

// Scopes: "/" and "/keys" mean the whole HSM, "/keys/{name}" one key with all its versions.
const (
	ScopeRoot = "/"
	ScopeKeys = "/keys"
)

// ScopeKey is the scope of one key.
func ScopeKey(name string) string { return "/keys/" + name }

// At is where it is decided whether a caller may do the action at a scope. What is about the whole HSM is asked at "/", and a key
// that is brought back by its backup has no name yet: whoever has the right at a narrower scope only may not.
func (a Action) At(scope string) string {
	switch a {
	case SecurityDomainDownload, SecurityDomainDownloadRead, SecurityDomainUpload, SecurityDomainUploadRead, TransferKeyRead, BackupStart, BackupStatus, RandomBytes:
		return ScopeRoot
	case KeyRestore:
		if scope != ScopeRoot {
			return ScopeKeys
		}
	}
	return scope
}
