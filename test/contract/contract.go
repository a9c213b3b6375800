// Package contract holds answers of the data plane against the official OpenAPI documents of Azure (testdata/openapi):
// status, content type, headers and body, every member of it. It is stricter than the documents are: a member that a
// document does not know is a fault, and so is the lack of one that clients need. Where we differ on purpose,
// deviations.go says so, and why.
//
// The validating is done by kin-openapi; what is ours is finding the operation of a request as real clients write it,
// and making the documents strict. Requests are not judged: what a client may send is the data plane's to decide.
package contract

import (
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"

	"strongroom/internal/strictjson"
	"strongroom/test/exchange"
)

// Fault is one thing that is wrong with an answer.
type Fault struct {
	Operation string // operationId and request: "Sign (POST /keys/k/sign?api-version=7.4, answered 200)"
	Member    string // JSON pointer into the body; "" where it is not about a member
	Reason    string
}

func (f Fault) String() string {
	if f.Member == "" {
		return f.Operation + ": " + f.Reason
	}
	return f.Operation + ": " + f.Member + ": " + f.Reason
}

// bodyLimits are wide: what is checked is that the body is JSON with one reading.
var bodyLimits = strictjson.Limits{Bytes: 32 << 20, Depth: 64, Elements: 1 << 16, StringBytes: 32 << 20, Values: 1 << 20}

// Check returns what is wrong with the answer of an exchange; nothing means that it keeps the contract.
func (d *Documents) Check(e exchange.Exchange) []Fault {
	doc, route := d.find(e.APIVersion, e.Method, e.URI)
	name := "no operation"
	if route != nil {
		name = route.Operation.OperationID
	}
	operation := fmt.Sprintf("%s (%s %s, answered %d)", name, e.Method, e.URI, e.Status)
	fault := func(member, format string, args ...any) []Fault {
		return []Fault{{Operation: operation, Member: member, Reason: fmt.Sprintf(format, args...)}}
	}
	switch {
	case e.Status == 0:
		return fault("", "the server gave no answer of its own: the handler panicked")
	case route == nil && e.Status < http.StatusBadRequest:
		return fault("", "no document has this operation, so only an error can be the answer")
	case route == nil:
		// What is no operation has no entry of its own; its errors have the form of all others.
		any := doc.spec.Paths.Value("/keys")
		route = &routers.Route{Spec: doc.spec, Path: "/keys", PathItem: any, Method: http.MethodGet, Operation: any.Get}
	case !declared(route.Operation, e.Status):
		return fault("", "the document does not declare this status")
	}
	response := route.Operation.Responses.Status(e.Status)
	if response == nil {
		response = route.Operation.Responses.Default()
	}
	if len(response.Value.Content) == 0 {
		if len(e.Response) > 0 {
			return fault("", "the document declares no body, and there is one of %d bytes", len(e.Response))
		}
		return nil
	}
	if len(e.Header.Values("Content-Type")) != 1 {
		return fault("", "the answer has %d headers Content-Type, want one", len(e.Header.Values("Content-Type")))
	}
	if err := strictjson.Check(e.Response, bodyLimits); err != nil && strings.HasPrefix(e.Header.Get("Content-Type"), "application/json") {
		return fault("", "the body is no JSON with one reading: %v", err)
	}
	request, err := http.NewRequest(route.Method, "https://hsm.invalid"+route.Path, nil)
	if err != nil {
		return fault("", "%v", err)
	}
	input := &openapi3filter.ResponseValidationInput{
		RequestValidationInput: &openapi3filter.RequestValidationInput{Request: request, Route: route},
		Status:                 e.Status, Header: e.Header,
		Options: &openapi3filter.Options{MultiError: true, IncludeResponseStatus: true, SchemaValidationOptions: doc.options},
	}
	var faults []Fault
	for _, f := range flat(openapi3filter.ValidateResponse(request.Context(), input.SetBodyBytes(e.Response))) {
		faults = append(faults, Fault{Operation: operation, Member: f.Member, Reason: f.Reason})
	}
	return faults
}

// flat takes the library's tree of errors apart. The values in it are left out: the member and the reason say enough.
func flat(err error) (faults []Fault) {
	switch err := err.(type) {
	case nil:
		return nil
	case openapi3.MultiError:
		for _, e := range err {
			faults = append(faults, flat(e)...)
		}
		return faults
	case *openapi3filter.ResponseError:
		if err.Err == nil {
			return []Fault{{Reason: err.Reason}}
		}
		faults = flat(err.Err)
		if !strings.HasPrefix(err.Reason, "response body doesn't match") { // then it is about a header
			for i := range faults {
				faults[i].Reason = err.Reason + ": " + faults[i].Reason
			}
		}
		return faults
	case *openapi3.SchemaError:
		f := Fault{Reason: err.Reason}
		for _, step := range err.JSONPointer() {
			f.Member += "/" + step
		}
		if m := unknownMember.FindStringSubmatch(err.Reason); m != nil { // the library points at the object
			f.Member += "/" + m[1]
		}
		if strings.HasPrefix(err.Schema.Format, jsonTextOf) && err.Origin != nil {
			inside := flat(errors.Unwrap(err.Origin)) // the library puts one error around that of a format
			for i := range inside {
				inside[i].Member = f.Member + ", in its text" + inside[i].Member
			}
			return inside
		}
		return []Fault{f}
	}
	return []Fault{{Reason: err.Error()}}
}

// unknownMember is how the library says that a member is not in the document.
var unknownMember = regexp.MustCompile(`^property "(.*)" is unsupported$`)

// CheckFile holds every exchange of a file against the documents and returns how many there were.
func (d *Documents) CheckFile(path string) (checked int, faults []Fault, err error) {
	list, err := exchange.Read(path)
	for _, e := range list {
		faults = append(faults, d.Check(e)...)
	}
	return len(list), faults, err
}

// maxTold bounds what one test prints: a mistake in one form breaks every answer of that form.
const maxTold = 20

// Verify fails the test for every answer in the file that breaks the contract, and if there is no exchange in it:
// a test whose server was not called, or not recorded, would prove nothing.
func (d *Documents) Verify(t testing.TB, path string) {
	t.Helper()
	checked, faults, err := d.CheckFile(path)
	if err != nil {
		t.Errorf("the exchanges of the server cannot be read: %v", err)
		return
	}
	if checked == 0 {
		t.Error("no exchange of the data plane was recorded, so nothing was held against the OpenAPI documents; start a server that is meant to be silent with the shipped program")
	}
	for i, f := range faults {
		if i == maxTold {
			t.Errorf("… and %d more", len(faults)-maxTold)
			break
		}
		t.Errorf("answer against the OpenAPI documents: %s", f)
	}
	if len(faults) == 0 {
		t.Logf("%d answers of the data plane keep to the OpenAPI documents", checked)
	}
}
