package controlplane

import (
	"context"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"strongroom/internal/access"
	"strongroom/internal/failure"
	"strongroom/internal/record"
)

// clerk is a recorder that can run out of paper.
type clerk struct {
	intents, outcomes []record.Call
	noIntent, noEnd   bool
}

func (c *clerk) Intent(_ context.Context, call *record.Call) error {
	if c.noIntent {
		return failure.Coded(failure.Unavailable, "AuditUnavailable", "no paper")
	}
	c.intents = append(c.intents, *call)
	return nil
}

func (c *clerk) Outcome(_ context.Context, call *record.Call) error {
	if c.noEnd {
		return failure.Coded(failure.Unavailable, "AuditUnavailable", "no paper")
	}
	c.outcomes = append(c.outcomes, *call)
	return nil
}

// Covers L1, L2 at the control plane: as at the data plane.
func TestEveryCallIsRecorded(t *testing.T) {
	f, c := newFixture(t), &clerk{}
	f.plane.cfg.Recorder = c
	hsm := "/subscriptions/" + sub + "/resourceGroups/rg1/providers/Microsoft.KeyVault/managedHSMs/"
	const version = "?api-version=2023-02-01"
	f.send("alice", "GET", hsm+"alpha"+version, "")
	f.send("alice", "DELETE", hsm+"alpha"+version, "")
	f.send("alice", "PUT", hsm+"bad_name"+version, `{"location":"local"}`)
	f.send("bob", "DELETE", hsm+"alpha"+version, "")
	f.send("", "GET", hsm+"canary"+version, "")
	f.send("alice", "GET", "/canary", "")
	line := func(who, op, name string, changes bool, status int, code string) record.Call {
		return record.Call{Caller: access.Caller{ObjectID: who}, Operation: op, HSM: name, Changes: changes, Status: status, Code: code}
	}
	want := []record.Call{
		line(alice, "GetManagedHsm", "alpha", false, 200, ""),
		line(alice, "DeleteManagedHsm", "alpha", true, 202, ""),
		line(alice, "CreateOrUpdateManagedHsm", "", true, 400, "VaultNameNotValid"),
		line(bob, "DeleteManagedHsm", "alpha", true, 403, "AuthorizationFailed"),
		line("", "", "", false, 401, "AuthenticationFailed"),
		line(alice, "", "", false, 404, "InvalidResourceType"),
	}
	same := cmpopts.IgnoreFields(record.Call{}, "Request", "ClientRequest", "Source", "Took", "Intended")
	if diff := cmp.Diff(want, c.outcomes, same); diff != "" {
		t.Errorf("outcomes: %s", diff)
	}
	if diff := cmp.Diff([]record.Call{line(alice, "DeleteManagedHsm", "alpha", true, 0, ""), line(alice, "CreateOrUpdateManagedHsm", "", true, 0, "")}, c.intents, same); diff != "" {
		t.Errorf("intents: %s", diff)
	}

	f.service.calls = nil
	c.noIntent = true
	if r := f.send("alice", "POST", "/subscriptions/"+sub+"/providers/Microsoft.KeyVault/locations/local/deletedManagedHSMs/gone/purge"+version, ""); r.status != 503 || r.header.Get("Retry-After") == "" {
		t.Errorf("without paper for the intent: %d %s", r.status, r.raw)
	}
	if len(f.service.calls) != 0 {
		t.Errorf("it was done without a record: %v", f.service.calls)
	}
	c.noEnd = true
	if r := f.send("alice", "GET", hsm[:len(hsm)-1]+version, ""); r.status != 503 {
		t.Errorf("without paper for the outcome: %d %s", r.status, r.raw)
	}
}

// Covers L1, R4: a call that panics is recorded before anybody answers it, and the panic goes on to the server.
func TestAPanicIsRecorded(t *testing.T) {
	f, c := newFixture(t), &clerk{}
	f.plane.cfg.Recorder = c
	f.service.deleted = nil // to write into it panics
	caught := func() (p any) {
		defer func() { p = recover() }()
		f.service.live["alpha"] = HSM{Name: "alpha", ResourceGroup: "rg1"}
		f.send("alice", "DELETE", hsms+"/alpha"+version, "")
		return nil
	}
	if caught() == nil {
		t.Fatal("nothing panicked")
	}
	want := record.Call{Caller: access.Caller{ObjectID: alice}, Operation: "DeleteManagedHsm", HSM: "alpha", Changes: true, Intended: true, Status: 500, Code: "InternalServerError"}
	if diff := cmp.Diff([]record.Call{want}, c.outcomes, cmpopts.IgnoreFields(record.Call{}, "Request", "ClientRequest", "Source", "Took")); diff != "" {
		t.Errorf("outcomes: %s", diff)
	} else if len(c.intents) != 1 || c.intents[0].Request != c.outcomes[0].Request {
		t.Errorf("intents: %+v", c.intents)
	}
	c.noEnd = true
	if _, silent := caught().(record.Unrecorded); !silent {
		t.Error("a call that cannot be recorded may be answered")
	}
	f.plane.cfg.Recorder = nil
	if caught() == nil {
		t.Error("without a recorder, nothing panicked")
	}
}
