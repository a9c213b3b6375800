package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"strongroom/internal/failure"
)

// declaredKinds reads the kinds from the source of package failure, so that a kind added there without a row
// here fails this test and not a user.
func declaredKinds(t *testing.T) map[string]failure.Kind {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "../failure/failure.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[string]failure.Kind{}
	for _, decl := range file.Decls {
		gen, ok := decl.(*ast.GenDecl)
		if !ok || gen.Tok != token.CONST {
			continue
		}
		for _, spec := range gen.Specs {
			v := spec.(*ast.ValueSpec)
			if id, ok := v.Type.(*ast.Ident); !ok || id.Name != "Kind" {
				continue
			}
			text, err := strconv.Unquote(v.Values[0].(*ast.BasicLit).Value)
			if err != nil {
				t.Fatal(err)
			}
			kinds[v.Names[0].Name] = failure.Kind(text)
		}
	}
	if len(kinds) < 19 {
		t.Fatalf("found %d kinds in the source of package failure, want at least the 19 there were", len(kinds))
	}
	return kinds
}

func TestEveryKindHasItsStatus(t *testing.T) {
	want := map[string]struct {
		status int
		code   string
	}{
		"BadParameter": {400, "BadParameter"}, "Unauthorized": {401, "Unauthorized"}, "Forbidden": {403, "AccessDenied"},
		"NotActivated": {403, "HsmNotActivated"}, "NotFound": {404, "ResourceNotFound"}, "Conflict": {409, "Conflict"},
		"WrongDomain": {409, "SecurityDomainMismatch"}, "Disabled": {403, "KeyDisabled"}, "Tampered": {500, "RecordTampered"},
		"TooLarge": {413, "RequestTooLarge"}, "Unsupported": {400, "NotSupported"}, "Misdirected": {421, "MisdirectedRequest"},
		"BadMethod": {405, "MethodNotAllowed"}, "NoRoute": {404, "RouteNotFound"}, "BadMediaType": {415, "UnsupportedMediaType"},
		"Throttled": {429, "TooManyRequests"}, "Unavailable": {503, "ServiceUnavailable"}, "StorageFailed": {503, "StorageFailed"},
		"Internal": {500, "InternalServerError"},
	}
	for name, kind := range declaredKinds(t) {
		t.Run(name, func(t *testing.T) {
			w, ok := want[name]
			if !ok {
				t.Fatalf("failure.%s has no expectation here: decide its status and code", name)
			}
			if _, ok := wires[kind]; !ok {
				t.Fatalf("failure.%s has no row in the mapping", name)
			}
			status, body := FromFailure(failure.New(kind, "what to do"), "")
			if status != w.status || body.Error.Code != w.code || body.Error.Message != "what to do" {
				t.Errorf("got %d %q %q, want %d %q", status, body.Error.Code, body.Error.Message, w.status, w.code)
			}
		})
	}
}

// Covers L3's rule for answers: no error text from below.
func TestCausesStayInside(t *testing.T) {
	canary := errors.New("canary: /var/lib/secret.db")
	for name, err := range map[string]error{
		"no failure":            canary,
		"cause of a failure":    failure.Wrap(failure.NotFound, canary, "no such thing"),
		"wrapped failure":       fmt.Errorf("canary: outside: %w", failure.Wrap(failure.Conflict, canary, "not now")),
		"cancelled":             fmt.Errorf("canary: %w", context.Canceled),
		"unknown kind":          failure.Wrap(failure.Kind("canary"), canary, "odd"),
		"failure without words": failure.Wrap(failure.Internal, canary, ""),
	} {
		t.Run(name, func(t *testing.T) {
			status, body := FromFailure(err, "6a5c7b5e-0000-4000-8000-000000000001")
			text, _ := json.Marshal(body)
			if strings.Contains(string(text), "canary") {
				t.Errorf("the cause is in the body: %s", text)
			}
			if status < 400 || body.Error.Message == "" || body.Error.Code == "" {
				t.Errorf("got status %d, body %s", status, text)
			}
			if !strings.HasSuffix(body.Error.Message, " (Activity ID: 6a5c7b5e-0000-4000-8000-000000000001)") {
				t.Errorf("message %q does not end in the activity id", body.Error.Message)
			}
		})
	}
}

func TestErrorBodyForm(t *testing.T) {
	cases := map[string]struct {
		err  error
		want string
	}{
		"own code": {failure.Coded(failure.NotFound, "KeyNotFound", "Key not found: k"),
			`{"error":{"code":"KeyNotFound","message":"Key not found: k"}}`},
		"code that clients seek in innererror": {failure.Coded(failure.Conflict, "ObjectIsDeletedButRecoverable", "deleted"),
			`{"error":{"code":"Conflict","message":"deleted","innererror":{"code":"ObjectIsDeletedButRecoverable"}}}`},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			_, body := FromFailure(c.err, "")
			got, err := json.Marshal(body)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(c.want, string(got)); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestBase64URLIsStrict(t *testing.T) {
	cases := map[string]struct {
		in string
		ok bool
	}{
		"unpadded": {`"_-8"`, true}, "empty": {`""`, true}, "null": {`null`, true},
		"padded": {`"_-8="`, false}, "standard alphabet": {`"/+8"`, false}, "stray bits": {`"_-9"`, false},
		"line break": {`"_-\n8"`, false}, "space": {`"_- 8"`, false}, "number": {`17`, false}, "bad length": {`"A"`, false},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			var b Base64URL
			err := json.Unmarshal([]byte(c.in), &b)
			if (err == nil) != c.ok {
				t.Fatalf("Unmarshal(%s) = %v, want ok %v", c.in, err, c.ok)
			}
			if err == nil && c.in != "null" {
				if out, _ := json.Marshal(b); string(out) != c.in {
					t.Errorf("written back as %s, want %s", out, c.in)
				}
			}
		})
	}
}

func FuzzBase64URL(f *testing.F) {
	for _, s := range []string{`"_-8"`, `""`, `"A"`, `null`, `"\u0041\u0041"`, `{}`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		var b Base64URL
		if json.Unmarshal([]byte(in), &b) != nil {
			return
		}
		out, err := json.Marshal(b)
		if err != nil {
			t.Fatal(err)
		}
		var again Base64URL
		if err := json.Unmarshal(out, &again); err != nil || string(again) != string(b) {
			t.Fatalf("%s came back as %s (%v)", in, out, err)
		}
	})
}

// The names on the wire, member by member: a renamed Go field must not rename these.
func TestWireNames(t *testing.T) {
	yes, at := true, int64(1700000000)
	cases := map[string]struct {
		v    any
		want string
	}{
		"certificate info": {CertificateInfo{Certificates: []CertificateJWK{{Kid: "k", Kty: "RSA", KeyOps: []string{"verify"}, N: "n", E: "e", X5C: []string{"c"}, Use: "enc", X5T: "t", X5TS256: "s", Alg: "RSA-OAEP-256"}}, Required: 2},
			`{"certificates":[{"kid":"k","kty":"RSA","key_ops":["verify"],"n":"n","e":"e","x5c":["c"],"use":"enc","x5t":"t","x5t#S256":"s","alg":"RSA-OAEP-256"}],"required":2}`},
		"transfer key":     {TransferKey{"jwk", "{}"}, `{"key_format":"jwk","transfer_key":"{}"}`},
		"operation status": {OperationStatus{"Success", "d", "d"}, `{"status":"Success","status_details":"d","statusDetails":"d"}`},
		"key bundle": {KeyBundle{Key: JSONWebKey{Kid: "k", Kty: "EC-HSM", KeyOps: []string{"sign"}, Crv: "P-256", X: Base64URL{1}, Y: Base64URL{2}},
			Attributes: KeyAttributes{Enabled: &yes, NotBefore: &at, Expires: &at, Created: 1, Updated: 2, RecoveryLevel: "Recoverable", RecoverableDays: 90, Exportable: &yes}, Tags: map[string]string{"a": "b"}},
			`{"key":{"kid":"k","kty":"EC-HSM","key_ops":["sign"],"crv":"P-256","x":"AQ","y":"Ag"},"attributes":{"enabled":true,"nbf":1700000000,"exp":1700000000,"created":1,"updated":2,"recoveryLevel":"Recoverable","recoverableDays":90,"exportable":true},"tags":{"a":"b"}}`},
		"operation result": {KeyOperationResult{Kid: "k", Value: Base64URL{255}}, `{"kid":"k","value":"_w"}`},
		"empty list":       {KeyList{Value: []KeyItem{}}, `{"value":[]}`},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			got, err := json.Marshal(c.v)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(c.want, string(got)); d != "" {
				t.Error(d)
			}
		})
	}
}
