package api

import "time"

// The calls of a server's admin socket: HTTP with JSON over a Unix socket in the data folder, POST only. They are ours
// and no Azure API, and not part of what a network reaches.
const (
	AdminSocket = "admin.sock" // in the data folder

	AdminCreateApplication = "/identity/app/create" // CreateApplication → Application, with its secret
	AdminListApplications  = "/identity/app/list"   // ListApplications → ApplicationList
	AdminRotateApplication = "/identity/app/rotate" // RotateApplication → Application, with its new secret
	AdminDeleteApplication = "/identity/app/delete" // DeleteApplication → Application
)

// CreateApplication registers an application under a name that no other has.
type CreateApplication struct {
	Name string `json:"name"`
}

// ListApplications has no members.
type ListApplications struct{}

// RotateApplication gives an application a new secret.
type RotateApplication struct {
	Application  string `json:"application"`             // name or client ID
	RevokeTokens bool   `json:"revoke_tokens,omitempty"` // tokens that are out stop too
}

// DeleteApplication removes an application, and its tokens stop.
type DeleteApplication struct {
	Application string `json:"application"` // name or client ID
}

// Application is an application of the embedded issuer.
type Application struct {
	Name          string     `json:"name"`
	ClientID      string     `json:"client_id"`
	ObjectID      string     `json:"object_id"`
	Secret        string     `json:"client_secret,omitempty"` // in the answer that makes it, and never again
	Created       time.Time  `json:"created"`
	SecretCreated *time.Time `json:"secret_created,omitempty"`
	// EnvFile is the file of the server's own credentials that held the old secret and now holds the new one.
	EnvFile string `json:"env_file,omitempty"`
}

// ApplicationList is all applications.
type ApplicationList struct {
	Applications []Application `json:"applications"`
}
