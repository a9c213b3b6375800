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

	AdminCreateUser = "/identity/user/create" // CreateUser → User, with the password
	AdminListUsers  = "/identity/user/list"   // ListUsers → UserList
	AdminRotateUser = "/identity/user/rotate" // RotateUser → User, with the new password
	AdminDeleteUser = "/identity/user/delete" // DeleteUser → User
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

// CreateUser makes a user under a name that no other has.
type CreateUser struct {
	Name string `json:"name"`
}

// ListUsers has no members.
type ListUsers struct{}

// RotateUser gives a user a new password.
type RotateUser struct {
	User         string `json:"user"`                    // name or object ID
	RevokeTokens bool   `json:"revoke_tokens,omitempty"` // sign-ins and tokens that are out stop too
}

// DeleteUser removes a user, whose tokens stop.
type DeleteUser struct {
	User string `json:"user"` // name or object ID
}

// User is a user of the embedded issuer.
type User struct {
	Name            string    `json:"name"`
	ObjectID        string    `json:"object_id"`
	Password        string    `json:"password,omitempty"` // in the answer that makes it, and never again
	Created         time.Time `json:"created"`
	PasswordCreated time.Time `json:"password_created"`
}

// UserList is all users.
type UserList struct {
	Users []User `json:"users"`
}
