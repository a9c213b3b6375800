package contract

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/getkin/kin-openapi/openapi2"
	"github.com/getkin/kin-openapi/openapi2conv"
	"github.com/getkin/kin-openapi/openapi3"
)

// The editions of the documents. edition76 has no folder: it is 7.4 with what 7.6 added to the answers of a key,
// taken from 2026-04-01.
const (
	edition74   = "7.4"
	edition76   = "7.6"
	editionDate = "2026-04-01"
)

// Documents are the official documents in all editions, prepared for validation. Safe for concurrent use.
type Documents struct {
	editions map[string][]*document
}

// document is one file of an edition.
type document struct {
	spec *openapi3.T
	// options of every validation against this document: its own string formats.
	options []openapi3.SchemaValidationOption
}

// tree is a document as JSON, before the library reads it: everything that is changed in it is changed here.
type tree = map[string]any

// Load reads the documents below dir (testdata/openapi of this project), with the accepted [Deviations] put in.
// A deviation that no longer fits the documents is an error.
func Load(dir string) (*Documents, error) { return load(dir, deviations) }

func load(dir string, accepted []Deviation) (*Documents, error) {
	sources := map[string]map[string]tree{}
	for _, edition := range []string{edition74, editionDate} {
		files, err := readEdition(filepath.Join(dir, edition))
		if err != nil {
			return nil, err
		}
		sources[edition] = files
	}
	addedIn76, err := with76(sources[edition74], sources[editionDate])
	if err != nil {
		return nil, err
	}
	sources[edition76] = addedIn76

	d := &Documents{editions: map[string][]*document{}}
	used := map[string]bool{}
	for edition, files := range sources {
		for _, name := range slices.Sorted(maps.Keys(files)) {
			doc, err := prepare(edition, files[name], accepted, used)
			if err != nil {
				return nil, fmt.Errorf("%s/%s: %w", edition, name, err)
			}
			d.editions[edition] = append(d.editions[edition], doc)
		}
	}
	for _, deviation := range accepted {
		if !used[deviation.Where] {
			return nil, fmt.Errorf("the accepted deviation %q is about nothing in the documents: take it off the list", deviation.Where)
		}
	}
	for name := range needed {
		if !used[name] {
			return nil, fmt.Errorf("the members that clients need of %s are not checked: no document has it", name)
		}
	}
	for name := range never {
		if !used[name] {
			return nil, fmt.Errorf("the members that %s must not have are not checked: no document has it", name)
		}
	}
	return d, nil
}

// readEdition reads the documents of one folder. common.json, which the library refuses to follow into, becomes a
// part of each.
func readEdition(dir string) (map[string]tree, error) {
	names, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		return nil, err
	}
	files := map[string]tree{}
	for _, name := range names {
		raw, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		var t tree
		if err := json.Unmarshal(bytes.ReplaceAll(raw, []byte(`"common.json#/`), []byte(`"#/`)), &t); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		files[filepath.Base(name)] = t
	}
	common := files["common.json"]
	delete(files, "common.json")
	if len(files) == 0 {
		return nil, fmt.Errorf("there are no documents in %s", dir)
	}
	for _, t := range files {
		for _, part := range []string{"definitions", "parameters"} {
			for name, shared := range at(common, part) {
				if at(t, part) == nil {
					t[part] = tree{}
				}
				if _, there := at(t, part)[name]; there {
					return nil, fmt.Errorf("%s has %s %s, and so has common.json", dir, part, name)
				}
				at(t, part)[name] = clone(shared)
			}
		}
		flatten(at(t, "definitions"))
	}
	return files, nil
}

// flatten puts the members of allOf into the definition itself: only then can a member that nobody declares be told
// from one that the other half declares.
func flatten(definitions tree) {
	var whole func(name string) tree
	whole = func(name string) tree {
		definition := at(definitions, name)
		parts, _ := definition["allOf"].([]any)
		delete(definition, "allOf")
		for _, part := range parts {
			ref, _ := part.(tree)["$ref"].(string)
			for member, schema := range at(whole(strings.TrimPrefix(ref, "#/definitions/")), "properties") {
				at(definition, "properties")[member] = clone(schema)
			}
		}
		return definition
	}
	for name := range definitions {
		whole(name)
	}
}

// with76 is edition 7.4 with what 7.6 brought to the answers of a Managed HSM: the attestation of a key.
func with76(older, newer map[string]tree) (map[string]tree, error) {
	files := clone(older).(map[string]tree)
	keys, source := files["keys.json"], newer["keys.json"]
	const path = "/keys/{key-name}/{key-version}/attestation"
	operation, attestation := at(source, "paths", path), at(source, "definitions", "KeyAttestation")
	if operation == nil || attestation == nil || at(keys, "definitions", "KeyAttributes", "properties") == nil {
		return nil, errors.New("the documents do not describe attestation as they did")
	}
	at(keys, "paths")[path] = clone(operation)
	at(keys, "definitions")["KeyAttestation"] = clone(attestation)
	at(keys, "definitions", "KeyAttributes", "properties")["attestation"] = tree{"$ref": "#/definitions/KeyAttestation"}
	at(keys, "parameters")["Azure.Core.Foundations.ApiVersionParameter"] = clone(at(source, "parameters", "Azure.Core.Foundations.ApiVersionParameter"))
	return files, nil
}

// needed are members that the documents leave optional and no client can do without. An answer without one of
// them would pass otherwise: the documents require next to nothing.
var needed = map[string][]string{
	"KeyBundle":                     {"key", "attributes"},
	"DeletedKeyBundle":              {"key", "attributes", "recoveryId", "deletedDate", "scheduledPurgeDate"},
	"JsonWebKey":                    {"kid", "kty", "key_ops"},
	"KeyAttributes":                 {"enabled", "created", "updated", "recoveryLevel", "recoverableDays", "exportable"},
	"KeyReleasePolicy":              {"contentType", "data"},
	"KeyItem":                       {"kid", "attributes"},
	"DeletedKeyItem":                {"kid", "attributes", "recoveryId", "deletedDate", "scheduledPurgeDate"},
	"KeyListResult":                 {"value"},
	"DeletedKeyListResult":          {"value"},
	"KeyOperationResult":            {"kid", "value"},
	"KeyVerifyResult":               {"value"},
	"KeyReleaseResult":              {"value"},
	"BackupKeyResult":               {"value"},
	"KeyRotationPolicy":             {"id", "lifetimeActions", "attributes"},
	"LifetimeActions":               {"trigger", "action"},
	"LifetimeActionsType":           {"type"},
	"KeyVaultError":                 {"error"},
	"Error":                         {"code"},
	"SecurityDomainOperationStatus": {"status", "status_details"},
	"FullBackupOperation":           {"status", "startTime", "endTime", "jobId", "azureStorageBlobContainerUri"},
	"RestoreOperation":              {"status", "startTime", "endTime", "jobId"},
	"SelectiveKeyRestoreOperation":  {"status", "startTime", "endTime", "jobId"},
	"TransferKey":                   {"key_format", "transfer_key"},
}

// never are members that the documents have for requests and that no answer may carry: private key material.
var never = map[string][]string{"JsonWebKey": {"d", "dp", "dq", "qi", "p", "q", "k", "key_hsm"}}

// prepare makes a document strict, puts the accepted deviations in, and hands it to the library. used collects
// which of the lists above, and which deviations, found their place.
func prepare(edition string, t tree, accepted []Deviation, used map[string]bool) (*document, error) {
	definitions := at(t, "definitions")
	for name, members := range needed {
		if d := at(definitions, name); d != nil {
			used[name] = true
			for _, member := range members {
				if at(d, "properties", member) == nil {
					return nil, fmt.Errorf("%s has no member %s", name, member)
				}
			}
			d["required"] = union(d["required"], members)
		}
	}
	for name, members := range never {
		for _, member := range members {
			used[name] = used[name] || at(definitions, name) != nil
			delete(at(definitions, name, "properties"), member)
		}
	}
	for _, deviation := range accepted {
		applied, err := deviation.apply(edition, t)
		if err != nil {
			return nil, fmt.Errorf("accepted deviation %q: %w", deviation.Where, err)
		}
		used[deviation.Where] = used[deviation.Where] || applied
	}
	for name := range definitions {
		strict(at(definitions, name))
	}

	raw, err := json.Marshal(t)
	if err != nil {
		return nil, err
	}
	var old openapi2.T
	if err := json.Unmarshal(raw, &old); err != nil {
		return nil, err
	}
	doc := &document{}
	if doc.spec, err = openapi2conv.ToV3(&old); err != nil {
		return nil, err
	}
	if err := doc.spec.Validate(context.Background(), openapi3.DisableExamplesValidation()); err != nil {
		return nil, err
	}
	for _, item := range doc.spec.Paths.Map() {
		for _, operation := range item.Operations() {
			for _, response := range operation.Responses.Map() {
				// Swagger 2.0 cannot say that a header is always there; one that is declared is for clients to rely on.
				for _, header := range response.Value.Headers {
					header.Value.Required = true
				}
			}
		}
	}
	doc.options = []openapi3.SchemaValidationOption{
		openapi3.WithStringFormatValidator("base64url", openapi3.NewCallbackValidator(isBase64URL)),
		openapi3.WithStringFormatValidator(jsonTextOf+"SecurityDomainJsonWebKey", openapi3.NewCallbackValidator(func(text string) error {
			var value any
			if err := json.Unmarshal([]byte(text), &value); err != nil {
				return errors.New("the string holds no JSON")
			}
			return doc.spec.Components.Schemas["SecurityDomainJsonWebKey"].Value.VisitJSON(value, openapi3.VisitAsResponse(), openapi3.MultiErrors())
		})),
	}
	return doc, nil
}

// jsonTextOf begins the name of a string format: the text in the string is JSON of the definition named after it.
const jsonTextOf = "json-text-of-"

// isBase64URL is the documents' format base64url, as the service writes it: without padding.
func isBase64URL(text string) error {
	if _, err := base64.RawURLEncoding.Strict().DecodeString(text); err != nil || strings.ContainsAny(text, "\r\n") {
		return errors.New("not base64url without padding")
	}
	return nil
}

// strict makes every object with declared members an object that has no others. The documents say neither.
func strict(schema tree) {
	if members := at(schema, "properties"); members != nil {
		schema["type"] = "object"
		if _, open := schema["additionalProperties"]; !open {
			schema["additionalProperties"] = false
		}
		for name := range members {
			strict(at(members, name))
		}
	}
	for _, inner := range []string{"items", "additionalProperties"} {
		if at(schema, inner) != nil {
			strict(at(schema, inner))
		}
	}
}

// at walks down a tree; nil where there is no such object.
func at(t tree, path ...string) tree {
	for _, name := range path {
		t, _ = t[name].(tree)
	}
	return t
}

func union(list any, more []string) []any {
	out, _ := list.([]any)
	for _, s := range more {
		if !slices.Contains(out, any(s)) {
			out = append(out, s)
		}
	}
	return out
}

// clone copies a tree, or a set of them, down to the leaves.
func clone(v any) any {
	switch v := v.(type) {
	case map[string]tree:
		out := map[string]tree{}
		for name, t := range v {
			out[name] = clone(t).(tree)
		}
		return out
	case tree:
		out := tree{}
		for name, child := range v {
			out[name] = clone(child)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, child := range v {
			out[i] = clone(child)
		}
		return out
	}
	return v
}
