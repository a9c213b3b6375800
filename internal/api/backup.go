package api

import "strongroom/secret"

// SASTokenParameter says where a backup lies. Managed HSM's clients name it so whatever it is.
type SASTokenParameter struct {
	StorageResourceURI string     `json:"storageResourceUri"`
	Token              SecretText `json:"token"`
	UseManagedIdentity *bool      `json:"useManagedIdentity"`
}

// RestoreRequest asks for the restore of a full backup; its pre-check may leave everything out.
type RestoreRequest struct {
	SASTokenParameters *SASTokenParameter `json:"sasTokenParameters"`
	FolderToRestore    string             `json:"folderToRestore"`
}

// SelectiveRestoreRequest asks for the restore of one key from a full backup.
type SelectiveRestoreRequest struct {
	SASTokenParameters *SASTokenParameter `json:"sasTokenParameters"`
	Folder             string             `json:"folder"`
}

// SecretText is a text that a client sends and that is never shown: a token.
type SecretText struct{ secret.Bytes }

// UnmarshalText takes the text.
func (s *SecretText) UnmarshalText(text []byte) error {
	s.Bytes = secret.New(text)
	return nil
}

// RestoreOperation is how a restore stands. Times are Unix seconds.
type RestoreOperation struct {
	Status        string          `json:"status"` // InProgress, Succeeded or Failed
	StatusDetails *string         `json:"statusDetails"`
	Error         *OperationError `json:"error"`
	StartTime     int64           `json:"startTime"`
	EndTime       *int64          `json:"endTime"`
	JobID         string          `json:"jobId"`
}

// BackupOperation is how a backup stands.
type BackupOperation struct {
	RestoreOperation
	// AzureStorageBlobContainerURI is the folder of the backup: null until it is there.
	AzureStorageBlobContainerURI *string `json:"azureStorageBlobContainerUri"`
}

// OperationError says why an operation failed.
type OperationError struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

// JobList is the jobs that an HSM remembers, the newest first. Strongroom's own.
type JobList struct {
	Value []Job `json:"value"`
}

// Job is a backup or restore in a list.
type Job struct {
	BackupOperation
	Kind   string `json:"kind"` // backup, restore, key-restore, prebackup or prerestore
	Target string `json:"target"`
	Folder string `json:"folder,omitempty"`
	Key    string `json:"key,omitempty"`
	By     string `json:"by"`
}

// RestorePoint is what the last restore has replaced and can be brought back. Strongroom's own. Times are Unix seconds.
type RestorePoint struct {
	JobID    string `json:"jobId"`
	Replaced int64  `json:"replaced"`
	Until    int64  `json:"until"`
}

// RestoreState answers whether there is a restore point.
type RestoreState struct {
	RestorePoint *RestorePoint `json:"restorePoint"`
}

// BackupSchedules are the backups that the server takes of an HSM by itself. Strongroom's own.
type BackupSchedules struct {
	Value []BackupSchedule `json:"value"`
}

// BackupSchedule is one of them. Times are Unix seconds.
type BackupSchedule struct {
	To       string `json:"to"`
	Every    int64  `json:"everySeconds"`
	Keep     int    `json:"keep"`     // finished backups that stay in the place
	Verified *int64 `json:"verified"` // when the newest that was read back without a finding was begun; null: there is none
	Failures int64  `json:"failures"` // since the server was started
	Next     *int64 `json:"next"`     // when the next one is due; null: one is under way, or the HSM is not in use
	// Last is the newest try, whatever came of it; null: none is known.
	Last *BackupTry `json:"last"`
}

// BackupTry is one try of a schedule to take a backup.
type BackupTry struct {
	Status string          `json:"status"` // InProgress, Succeeded or Failed
	Time   int64           `json:"time"`
	JobID  string          `json:"jobId,omitempty"` // left out: it could not even begin
	Error  *OperationError `json:"error,omitempty"`
}
