package contract

import (
	"fmt"
	"slices"
	"strings"
)

// Deviation is one place where the data plane answers otherwise than a document says, and is meant to. Whatever
// else differs is a fault. docs/compatibility.md has the same list, word for word; a test compares them.
type Deviation struct {
	// Where it is: "Definition.member" of the documents, or "METHOD /path" of an operation.
	Where string
	// Edition is the one edition of the documents that it is about; "" means all of them.
	Edition string
	// Document and Here say what the document has, and what this server answers.
	Document, Here string
	// Why says which client needs it, or what it is good for.
	Why string

	// member is the schema of the member as it is here; nil takes the member off the required ones.
	member tree
	// enum names the definition of the member's values, and more are values that it has beyond those listed.
	enum string
	more []any
	// responses are those of an operation that no document has, by status, and definitions the forms that they name.
	responses, definitions tree
}

// Row is the deviation as a row of the table in docs/compatibility.md.
func (d Deviation) Row() string {
	editions := "all"
	if d.Edition == edition74 {
		editions = "7.4, and what is held against it"
	}
	return fmt.Sprintf("| `%s` | %s | %s | %s | %s |", d.Where, editions, d.Document, d.Here, d.Why)
}

// restorePoint is what a restore has replaced.
var restorePoint = tree{"required": []any{"jobId", "replaced", "until"}, "properties": tree{
	"jobId":    tree{"type": "string", "pattern": "^[0-9a-f]{32}$"},
	"replaced": tree{"type": "integer", "format": "unixtime"},
	"until":    tree{"type": "integer", "format": "unixtime"},
}}

// deviations are those that are accepted, in the order of the page.
var deviations = []Deviation{
	{
		Where: "KeyOperationResult.alg", Document: "no such member", Here: "the algorithm that was asked for",
		Why:    "the service was recorded with it",
		member: tree{"type": "string", "minLength": 1},
	},
	{
		Where: "LifetimeActionsType.type", Edition: edition74, Document: "`rotate`, `notify`", Here: "`Rotate`",
		Why:    "the document of 2026-04-01 and current SDKs write it with a capital, and Azure reads it in any case; one spelling serves all versions",
		member: tree{"type": "string", "enum": []any{"Rotate"}},
	},
	{
		Where: "SecurityDomainOperationStatus.statusDetails", Document: "no such member", Here: "the same text as `status_details`",
		Why:    "the service was recorded with this name in place of `status_details`; both are sent",
		member: tree{"type": "string"},
	},
	{
		Where: "TransferKey.transfer_key", Document: "an object", Here: "the same object as JSON text in a string",
		Why:    "azure-cli, PowerShell and the Python SDK parse a string; the service was recorded with one",
		member: tree{"type": "string", "format": jsonTextOf + "SecurityDomainJsonWebKey"},
	},
	{
		Where: "SecurityDomainJsonWebKey.alg", Document: "required", Here: "left out of the transfer key",
		Why: "the service was recorded without it; azure-cli and PowerShell take the certificate in `x5c` and nothing else",
	},
	{
		Where: "Permission.dataActions", Document: "neither `keys/rotate/action` nor `keys/derive/action`", Here: "Managed HSM Crypto User has both, and custom roles may",
		Why:  "the service was recorded with them, and its role documentation lists the first",
		enum: "DataAction", more: []any{"Microsoft.KeyVault/managedHsm/keys/rotate/action", "Microsoft.KeyVault/managedHsm/keys/derive/action"},
	},
	{
		Where: "RoleAssignmentPropertiesWithScope.scope", Document: "`/`, `/keys`", Here: "also `/keys/NAME`",
		Why:    "the service was recorded with it: that is where an assignment at one key is",
		member: tree{"type": "string", "pattern": "^(/|/keys|/keys/[0-9a-zA-Z-]{1,127})$"},
	},
	{
		Where: "FullBackupOperation.azureStorageBlobContainerUri", Document: "a string", Here: "`null` until the backup is there",
		Why:    "the service was recorded so",
		member: tree{"type": "string", "x-nullable": true, "minLength": 1},
	},
	{
		Where: "FullBackupOperation.statusDetails", Document: "a string", Here: "`null` while there is nothing to say",
		Why:    "the service was recorded so",
		member: tree{"type": "string", "x-nullable": true, "minLength": 1},
	},
	{
		Where: "RestoreOperation.statusDetails", Document: "a string", Here: "`null` while there is nothing to say",
		Why:    "as for a backup",
		member: tree{"type": "string", "x-nullable": true, "minLength": 1},
	},
	{
		Where: "SelectiveKeyRestoreOperation.statusDetails", Document: "a string", Here: "`null` while there is nothing to say",
		Why:    "as for a backup",
		member: tree{"type": "string", "x-nullable": true, "minLength": 1},
	},
	{
		Where: "DELETE /securitydomain/upload", Document: "no such operation", Here: "204: ends a recovery that is under way",
		Why:       "Strongroom's own: a way back for who asked for the transfer key by mistake",
		responses: tree{"204": tree{"description": "The recovery has ended."}},
	},
	{
		Where: "GET /securitydomain", Document: "no such operation", Here: "200: state of the HSM, ID of its domain, custodians, quorum",
		Why:       "Strongroom's own: custodians compare the domain ID",
		responses: tree{"200": tree{"description": "The state of the domain.", "schema": tree{"$ref": "#/definitions/StrongroomDomainState"}}},
		definitions: tree{"StrongroomDomainState": tree{"required": []any{"hsm", "state"}, "properties": tree{
			"hsm":        tree{"type": "string", "minLength": 1},
			"state":      tree{"type": "string", "enum": []any{"provisioned", "recovering", "activated"}},
			"domain_id":  tree{"type": "string", "pattern": "^[0-9a-f]{64}$"},
			"required":   tree{"type": "integer", "minimum": 2, "maximum": 10},
			"custodians": tree{"type": "array", "items": tree{"type": "string"}},
			"activated":  tree{"type": "string", "format": "date-time"},
		}}},
	},
	{
		Where: "GET /backup", Document: "no such operation", Here: "200: the backups and restores that the HSM remembers",
		Why:       "Strongroom's own: `strongroom backup list`",
		responses: tree{"200": tree{"description": "The jobs, the newest first.", "schema": tree{"$ref": "#/definitions/StrongroomJobList"}}},
		definitions: tree{
			"StrongroomJobList": tree{"required": []any{"value"}, "properties": tree{"value": tree{"type": "array", "items": tree{"$ref": "#/definitions/StrongroomJob"}}}},
			"StrongroomJob": tree{"required": []any{"status", "startTime", "endTime", "jobId", "kind", "target", "by"}, "properties": tree{
				"status":                       tree{"type": "string", "enum": []any{"InProgress", "Succeeded", "Failed"}},
				"statusDetails":                tree{"type": "string", "x-nullable": true, "minLength": 1},
				"error":                        tree{"$ref": "#/definitions/Error"},
				"startTime":                    tree{"type": "integer", "format": "unixtime"},
				"endTime":                      tree{"type": "integer", "format": "unixtime", "x-nullable": true},
				"jobId":                        tree{"type": "string", "pattern": "^[0-9a-f]{32}$"},
				"azureStorageBlobContainerUri": tree{"type": "string", "x-nullable": true, "minLength": 1},
				"kind":                         tree{"type": "string", "enum": []any{"backup", "restore", "key-restore", "prebackup", "prerestore"}},
				"target":                       tree{"type": "string"},
				"folder":                       tree{"type": "string", "minLength": 1},
				"key":                          tree{"type": "string", "minLength": 1},
				"by":                           tree{"type": "string", "minLength": 1},
			}},
		},
	},
	{
		Where: "GET /backup/schedule", Document: "no such operation", Here: "200: the backups that the server takes of the HSM by itself",
		Why:       "Strongroom's own: `strongroom backup schedule`",
		responses: tree{"200": tree{"description": "The schedules.", "schema": tree{"$ref": "#/definitions/StrongroomBackupSchedules"}}},
		definitions: tree{
			"StrongroomBackupSchedules": tree{"required": []any{"value"}, "properties": tree{"value": tree{"type": "array", "items": tree{"$ref": "#/definitions/StrongroomBackupSchedule"}}}},
			"StrongroomBackupSchedule": tree{"required": []any{"to", "everySeconds", "keep", "verified", "failures", "next", "last"}, "properties": tree{
				"to":           tree{"type": "string", "minLength": 1},
				"everySeconds": tree{"type": "integer", "minimum": 300},
				"keep":         tree{"type": "integer", "minimum": 1},
				"verified":     tree{"type": "integer", "format": "unixtime", "x-nullable": true},
				"failures":     tree{"type": "integer", "minimum": 0},
				"next":         tree{"type": "integer", "format": "unixtime", "x-nullable": true},
				"last":         tree{"$ref": "#/definitions/StrongroomBackupTry"},
			}},
			"StrongroomBackupTry": tree{"x-nullable": true, "required": []any{"status", "time"}, "properties": tree{
				"status": tree{"type": "string", "enum": []any{"InProgress", "Succeeded", "Failed"}},
				"time":   tree{"type": "integer", "format": "unixtime"},
				"jobId":  tree{"type": "string", "pattern": "^[0-9a-f]{32}$"},
				"error":  tree{"$ref": "#/definitions/Error"},
			}},
		},
	},
	{
		Where: "GET /restore", Document: "no such operation", Here: "200: what the last restore has replaced, and until when it can be brought back",
		Why:       "Strongroom's own: `strongroom restore status`",
		responses: tree{"200": tree{"description": "The restore point, if there is one.", "schema": tree{"$ref": "#/definitions/StrongroomRestoreState"}}},
		definitions: tree{
			"StrongroomRestoreState": tree{"properties": tree{"restorePoint": tree{"$ref": "#/definitions/StrongroomRestorePoint"}}},
			"StrongroomRestorePoint": restorePoint,
		},
	},
	{
		Where: "POST /restore/undo", Document: "no such operation", Here: "200: brings back what the last restore has replaced",
		Why:         "Strongroom's own: `strongroom restore undo`, in place of a backup before each restore",
		responses:   tree{"200": tree{"description": "What this can be undone to in turn.", "schema": tree{"$ref": "#/definitions/StrongroomUndone"}}},
		definitions: tree{"StrongroomUndone": restorePoint},
	},
}

// apply puts the deviation into a document, if it is about that document. It refuses to where the document has
// come to say what the deviation says.
func (d Deviation) apply(edition string, t tree) (bool, error) {
	// Edition 7.6 is made from 7.4 and says what that says.
	if d.Edition != "" && d.Edition != edition && (d.Edition != edition74 || edition != edition76) {
		return false, nil
	}
	if method, path, isOperation := strings.Cut(d.Where, " "); isOperation {
		return d.applyOperation(strings.ToLower(method), path, t)
	}
	if d.enum != "" {
		definition := at(t, "definitions", d.enum)
		if definition == nil {
			return false, nil
		}
		values, _ := definition["enum"].([]any)
		for _, v := range d.more {
			if slices.Contains(values, v) {
				return false, fmt.Errorf("the document has %v", v)
			}
		}
		definition["enum"] = append(slices.Clone(values), d.more...)
		return true, nil
	}
	name, member, _ := strings.Cut(d.Where, ".")
	definition := at(t, "definitions", name)
	if definition == nil {
		return false, nil
	}
	if d.member == nil {
		var rest []any
		required, _ := definition["required"].([]any)
		for _, r := range required {
			if r != member {
				rest = append(rest, r)
			}
		}
		if len(rest) == len(required) {
			return false, fmt.Errorf("the document does not require %s", member)
		}
		definition["required"] = rest
		return true, nil
	}
	_, there := at(definition, "properties")[member]
	if there == (d.Document == "no such member") {
		return false, fmt.Errorf("the document says otherwise: declared is %t", there)
	}
	at(definition, "properties")[member] = clone(d.member)
	return true, nil
}

// applyOperation puts an operation of our own into the document that has the paths beside it.
func (d Deviation) applyOperation(method, path string, t tree) (bool, error) {
	beside, _, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	fits := false
	for other := range at(t, "paths") {
		fits = fits || strings.HasPrefix(other, "/"+beside+"/")
	}
	if !fits {
		return false, nil
	}
	if at(t, "paths", path, method) != nil {
		return false, fmt.Errorf("the document has this operation")
	}
	if at(t, "paths", path) == nil {
		at(t, "paths")[path] = tree{}
	}
	responses := clone(d.responses).(tree)
	responses["default"] = tree{"description": "An error.", "schema": tree{"$ref": "#/definitions/KeyVaultError"}}
	at(t, "paths", path)[method] = tree{"operationId": "Strongroom_" + method + strings.ReplaceAll(path, "/", "_"), "responses": responses}
	for name, definition := range d.definitions {
		at(t, "definitions")[name] = clone(definition)
	}
	return true, nil
}
